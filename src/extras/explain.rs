//! `-explain`: what would happen to a request, told to people, line by line and with the reasons. Nothing is sent.
//!
//! The request goes through a [`ProxyConnection`], as one from a socket does, and what comes out is compared with what went
//! in. The reasons are those of `strip` and of the parsers' errors, which are what the connection acts upon. Plugins are
//! not run: they may do things that cannot be taken back.

use std::fmt::Write as _;
use std::rc::Rc;

use crate::config::{HeaderEdits, RouteConfig, RouteOptions, UpstreamUrl};
use crate::http::fields::{HeaderId, HeaderRef, is_look_alike};
use crate::http::framing::request_framing;
use crate::http::head::{HeadLimits, Method, RequestHead, parse_head};
use crate::http::target::{Target, check_host, parse_target};
use crate::proxy::admit::{ForwardPlan, Handler, admit};
use crate::proxy::cause::Cause;
use crate::proxy::client_cert::is_client_cert_field;
use crate::proxy::connection::read_options;
use crate::proxy::events::{Command, Input, Now, Peer, Side};
use crate::proxy::forwarded::PeerTrust;
use crate::proxy::proxy_connection::{Balance, ProxyConnection, TransactionPool, WorkerContext};
use crate::proxy::request_log::{AccessRecord, Observer};
use crate::proxy::route::Router;
use crate::proxy::runtime::{Runtime, UpstreamId};
use crate::proxy::strip::{reason_to_add, reason_to_strip, strip_after_hooks};

/// Where the reasons begin, where lines are short.
const COLUMN: usize = 48;

/// The connection has applied the limits.
const UNLIMITED: HeadLimits = HeadLimits { head_bytes: usize::MAX, field_lines: usize::MAX, request_line: usize::MAX };

/// Appends a line.
macro_rules! put {
    ($out:expr, $($words:tt)*) => {{
        let _ = writeln!($out, $($words)*);
    }};
}

/// A request as somebody typed it.
#[derive(Clone, Copy, Debug)]
pub struct ExplainRequest<'a> {
    /// `GET /path`, or a whole request line.
    pub request: &'a str,
    /// `Name: value`, in order.
    pub fields: &'a [String],
    /// The Host to assume where none was given.
    pub host: &'a str,
}

/// Explains what would happen to a request from `peer`. Returns the text, and whether the request would be served, by an
/// upstream or by the proxy itself, and not refused.
pub fn explain(now: &Now, runtime: &Rc<Runtime>, peer: &Peer, request: &ExplainRequest<'_>) -> (String, bool) {
    let mut out = String::new();
    let client = peer.address.map_or("on a unix socket".to_owned(), |address| format!("at {}", address.ip()));
    let transport = if peer.is_tls { "with TLS" } else { "without TLS" };
    put!(out, "Nothing is sent. This is what would happen to the request of a client {client}, {transport}.");
    let received = Received::new(request, runtime, &mut out);
    let mut connection = ProxyConnection::new(now, *peer, Rc::clone(runtime));
    let (mut transactions, mut balance, mut last) =
        (TransactionPool::default(), Balance::default(), LastCause::default());
    let mut worker =
        WorkerContext { now, runtime, balance: &mut balance, transactions: &mut transactions, observer: &mut last };
    connection.handle(&mut worker, Input::Bytes(Side::Client, &received.head));
    let is_served = if let Some(Command::Connect { upstream, .. }) = connection.poll_command() {
        connection.handle(&mut worker, Input::Connected { reused: false });
        received.explain_forwarding(peer, upstream, connection.output(Side::Upstream), &mut out);
        true
    } else {
        let mut answer = Vec::new();
        while let part @ [_, ..] = connection.output(Side::Client) {
            let len = part.len();
            answer.extend_from_slice(part);
            connection.sent(&mut worker, Side::Client, len);
        }
        received.explain_answer(peer, &answer, last.0, &mut out);
        last.0.is_none()
    };
    (out, is_served)
}

/// What the line of the access log says.
#[derive(Default)]
struct LastCause(Option<Cause>);

impl Observer for LastCause {
    fn access(&mut self, record: &AccessRecord<'_>) {
        self.0 = record.log.cause;
    }
}

/// What goes into the connection.
struct Received<'a> {
    runtime: &'a Runtime,
    head: Vec<u8>,
    /// As far as it is right: an error is found again where the connection has refused the request.
    parsed: RequestHead,
}

impl<'a> Received<'a> {
    /// Completes what was typed, and says what was assumed.
    fn new(request: &ExplainRequest<'_>, runtime: &'a Runtime, out: &mut String) -> Received<'a> {
        let words: Vec<&str> = request.request.split(' ').collect();
        let line = match words[..] {
            [target] => {
                put!(out, "No method was given: GET is assumed.");
                format!("GET {target} HTTP/1.1")
            }
            [method, target] => format!("{method} {target} HTTP/1.1"),
            _ => request.request.to_owned(),
        };
        let mut head = format!("{line}\r\n");
        let names = request.fields.iter().filter_map(|field| field.split(':').next());
        let has_host = names.into_iter().any(|name| name.eq_ignore_ascii_case("host"));
        if !has_host && !line.ends_with(" HTTP/1.0") {
            let target = line.split(' ').nth(1).unwrap_or_default();
            let host = match parse_target(target.as_bytes(), false) {
                Ok(Target { origin: Some((_, authority)), .. }) => String::from_utf8_lossy(authority).into_owned(),
                _ => request.host.to_owned(),
            };
            put!(out, "No Host was given: {host} is assumed.");
            head += &format!("Host: {host}\r\n");
        }
        request.fields.iter().for_each(|field| head += &format!("{field}\r\n"));
        head += "\r\n";
        let mut parsed = RequestHead::default();
        let _ = parse_head(head.as_bytes(), &UNLIMITED, &mut parsed);
        Received { runtime, head: head.into_bytes(), parsed }
    }

    /// The lines as they were typed. What the parser refused never comes here.
    fn lines(&self) -> impl Iterator<Item = HeaderRef<'_>> {
        self.head.split(|&byte| byte == b'\n').skip(1).filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            Some(HeaderRef { id: HeaderId::of(name), name, value })
        })
    }

    /// How the request is forwarded; the connection has decided that it is.
    fn plan(&self, peer: &Peer, connection_named: &mut Vec<u8>) -> Option<ForwardPlan> {
        let options = read_options(&self.parsed.fields, connection_named).ok()?;
        let framing = request_framing(&self.parsed).ok()?;
        match admit(&self.parsed, framing, options, peer, self.runtime, &mut Vec::new(), &mut Vec::new()).ok()? {
            Handler::Upstream(plan) | Handler::Redirect(plan, _) | Handler::Forbidden(plan) => Some(plan),
            _ => None,
        }
    }

    fn explain_forwarding(&self, peer: &Peer, chosen: UpstreamId, sent: &[u8], out: &mut String) {
        let mut connection_named = Vec::new();
        let Some(plan) = self.plan(peer, &mut connection_named) else { return };
        let route = &self.runtime.config.routes[plan.route as usize];
        self.explain_routes(Some(plan.route), out);
        let upstream = self.explain_upstream(&plan, chosen, out);
        self.explain_request_line(sent, route, upstream, out);

        put!(out, "\nfields: passed as they are, - left out, + added");
        let mut forwarded = RequestHead::default();
        let _ = parse_head(sent, &UNLIMITED, &mut forwarded);
        let trust = PeerTrust::of(peer, &self.runtime.config.forwarded);
        let edits = [&self.runtime.config.request_headers, &route.options.request_headers].map(Option::as_deref);
        let mut added: Vec<HeaderRef<'_>> = forwarded.fields.iter().collect();
        for line in self.lines() {
            let is_same =
                |other: &HeaderRef<'_>| other.name.eq_ignore_ascii_case(line.name) && other.value == line.value;
            // Credentials of the upstream's URL are not the client's, even if they are the same.
            let is_replaced = strip_after_hooks(upstream).has(line.id);
            if let Some(index) = added.iter().position(is_same).filter(|_| !is_replaced) {
                added.remove(index);
                put_field(out, ' ', &line, None);
            } else if line.id == HeaderId::FramingLookAlike {
                put_field(out, '-', &line, Some("S9: some origins would take it for a framing field"));
            } else {
                let reason = reason_to_strip(&line, &plan, trust, &connection_named, upstream);
                let by_key =
                    || key_that(edits, |edits| edits.removed().any(|name| is_look_alike(name.as_bytes(), line.name)));
                put_field(out, '-', &line, Some(reason.or_else(by_key).unwrap_or("changed, see below")));
            }
        }
        for line in added {
            // What is added of that name is the upstream's own.
            let is_secret = line.id == HeaderId::Authorization;
            let shown = if is_secret { HeaderRef { value: b"(not shown)", ..line } } else { line };
            let is_it = |(name, value): (&str, &str)| (name.as_bytes(), value.as_bytes()) == (line.name, line.value);
            let by_key = key_that(edits, |edits| edits.lines().any(is_it));
            let by_cert = is_client_cert_field(line.name).then_some("tls.client_ca: what the client has shown");
            put_field(out, '+', &shown, by_key.or(reason_to_add(line.id)).or(by_cert));
        }
        self.explain_plugins(route, out);
        explain_access(&route.options, out);
        let edits = [&self.runtime.config.response_headers, &route.options.response_headers].map(Option::as_deref);
        explain_response_headers(edits, out);
    }

    fn explain_plugins(&self, route: &RouteConfig, out: &mut String) {
        let plugins = self.runtime.config.plugins_of(&route.options);
        if !plugins.is_empty() {
            put!(
                out,
                "\nplugins: they would run in this order, and in reverse order on the response; here they did not"
            );
        } else if !self.runtime.config.plugins.is_empty() {
            put!(out, "\nplugins: none on this route (the route's key plugins)");
        }
        for plugin in plugins {
            let built_in = if plugin.builtin.is_some() { " (built in)" } else { "" };
            put!(out, "  {}: {}{built_in}", plugin.name, plugin.source());
        }
    }

    /// Where it goes, and where it would go else. Nothing is known of their load here: the first is as good as any.
    fn explain_upstream(&self, plan: &ForwardPlan, chosen: UpstreamId, out: &mut String) -> &UpstreamUrl {
        let route = &self.runtime.config.routes[plan.route as usize];
        let nth = self.runtime.upstreams_of(plan.route).iter().position(|id| *id == chosen).unwrap_or_default();
        let (upstream, timeouts) = (&route.upstreams()[nth], &route.options.timeouts);
        let (connect, response_head) = (timeouts.connect.total, timeouts.response_head);
        put!(out, "\nupstream\n  {upstream}: {connect:?} to connect, {response_head:?} for the response head");
        for other in route.upstreams().iter().filter(|other| !std::ptr::eq(*other, upstream)) {
            put!(out, "  or {other}");
        }
        upstream
    }

    fn explain_request_line(&self, sent: &[u8], route: &RouteConfig, upstream: &UpstreamUrl, out: &mut String) {
        let first_line = |head: &[u8]| printable(head.split(|&byte| byte == b'\r').next().unwrap_or_default());
        let (received, sent) = (first_line(&self.head), first_line(sent));
        put!(out, "\nrequest line");
        if received == sent {
            return put!(out, "  {received}");
        }
        put!(out, "- {received}\n+ {sent}");
        let (prefix, base) = (route.stripped_prefix(), &upstream.base_path);
        if !prefix.is_empty() {
            put!(out, "    {prefix} is stripped (the route's key strip_prefix)");
        }
        if !base.is_empty() {
            put!(out, "    {base} of the upstream's URL comes in front");
        }
        put!(out, "    G7, G6: what remains of path and query passes byte for byte");
    }

    fn explain_answer(&self, peer: &Peer, answer: &[u8], cause: Option<Cause>, out: &mut String) {
        let plan = self.plan(peer, &mut Vec::new()).filter(|_| matches!(cause, None | Some(Cause::Forbidden)));
        if let Some(plan) = plan {
            self.explain_routes(Some(plan.route), out);
        }
        let Some(cause) = cause else {
            return put!(out, "\nanswered by the proxy itself\n{}", String::from_utf8_lossy(answer));
        };
        if cause == Cause::NoRoute {
            self.explain_routes(None, out);
        }
        if let Some(plan) = plan {
            explain_access(&self.runtime.config.routes[plan.route as usize].options, out);
        }
        put!(out, "\nrefused\n  why={}", cause.why());
        if let Some(detail) = cause.detail() {
            put!(out, "  {detail}");
        }
        put!(out, "  {}", cause.hint());
        put!(out, "\nanswer\n{}", String::from_utf8_lossy(answer));
    }

    /// Which route is chosen, and why not the others: each is asked alone. Those of other hosts may be very many, and are
    /// only counted.
    fn explain_routes(&self, chosen: Option<u32>, out: &mut String) {
        let target = parse_target(&self.parsed.target, self.parsed.method == Method::Options);
        let Ok(target @ Target { path, .. }) = target else { return };
        let Ok(host) = check_host(&target, self.parsed.version, &self.parsed.fields, b"") else { return };
        let (routes, router) = (&self.runtime.config.routes, &self.runtime.router);
        let of_host = router.host(host);
        let is_taken = |name: &str| of_host.is_some() && router.host(name.as_bytes()) == of_host;
        put!(out, "\nroute");
        if router.has_hosts() {
            let name = routes.iter().flat_map(|route| &*route.hosts).find(|name| is_taken(name));
            let words = match name {
                Some(name) => {
                    format!("of the hosts that routes are for, {name} is the most specific one that takes it in")
                }
                None => "no route is for this host: those for all hosts remain".to_owned(),
            };
            put!(out, "{:COLUMN$} {words}", format!("  {}", printable(host)));
        }
        let is_chosen_by_host = chosen.is_some_and(|chosen| !routes[chosen as usize].hosts.is_empty());
        let mut elsewhere = 0;
        for (index, route) in (0..).zip(routes.iter()) {
            let prefix = route.prefix.as_str();
            let is_for_all = route.hosts.is_empty();
            if !is_for_all && !route.hosts.iter().any(|name| is_taken(name)) {
                elsewhere += 1;
                continue;
            }
            let takes_path = Router::new([prefix]).find(b"", path).is_some();
            let (sign, words) = if chosen == Some(index) {
                ('>', "takes the path, and no longer prefix does: chosen")
            } else if takes_path && is_for_all && is_chosen_by_host {
                (' ', "takes the path too, but is for all hosts")
            } else if takes_path {
                (' ', "takes the path too, but is shorter")
            } else if path.starts_with(prefix.trim_end_matches('/').as_bytes()) {
                (' ', "does not: the path only begins with the same letters, and prefixes are whole segments")
            } else {
                continue;
            };
            put!(out, "{:COLUMN$} {words}", format!("{sign} {}", route.name()));
        }
        if chosen.is_none() {
            put!(out, "  none takes {}", printable(path));
        }
        if elsewhere > 0 {
            put!(out, "  not asked, because they are for other hosts: {elsewhere}");
        }
    }
}

/// `request_headers` or `response_headers` of the top level and of the route.
type BothEdits<'a> = [Option<&'a HeaderEdits>; 2];

/// Which of the two does something; what the route says comes last.
fn key_that(edits: BothEdits<'_>, does: impl Fn(&HeaderEdits) -> bool) -> Option<&'static str> {
    let reasons = ["as the top level's key request_headers says", "as the route's key request_headers says"];
    edits.into_iter().zip(reasons).rev().find_map(|(edits, reason)| edits.is_some_and(&does).then_some(reason))
}

/// Which clients the route serves, where that is not everybody.
fn explain_access(options: &RouteOptions, out: &mut String) {
    for (key, ranges) in [("allow", &options.allow), ("deny", &options.deny)] {
        let Some(ranges) = ranges else { continue };
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        put!(out, "\nclients, as the route's key {key} says: {}", ranges.join(", "));
    }
}

fn explain_response_headers(edits: BothEdits<'_>, out: &mut String) {
    for (edits, whose) in edits.into_iter().zip(["top level", "route"]) {
        let Some(edits) = edits else { continue };
        put!(out, "\nfields of each response, as the {whose}'s key response_headers says: - removed, then + added");
        edits.removed().for_each(|name| put!(out, "- {name}"));
        edits.lines().for_each(|(name, value)| put!(out, "+ {name}: {value}"));
    }
}

fn put_field(out: &mut String, sign: char, line: &HeaderRef<'_>, reason: Option<&str>) {
    let left = format!("{sign} {}: {}", printable(line.name), printable(line.value));
    match reason {
        None => put!(out, "{left}"),
        Some(reason) => put!(out, "{left:COLUMN$} {reason}"),
    }
}

/// Bytes that somebody typed; a terminal must not take them for commands.
fn printable(bytes: &[u8]) -> String {
    let chars = String::from_utf8_lossy(bytes);
    chars.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::mono_time::MonoTime;
    use crate::proxy::events::ListenerProtocol;
    use std::net::SocketAddr;
    use std::sync::Arc;

    const ROUTES: &str = "routes:\n\
        - {prefix: /fitness, upstream: 'http://user:secret@10.0.0.1:9001'}\n\
        - {prefix: /fit, upstream: 'http://10.0.0.2'}\n\
        - {prefix: /engine, upstream: 'http://10.0.0.3/base', host: client}\n\
        - {prefix: /, upstream: 'http://10.0.0.4', max_body_bytes: 10}\n";

    fn explained(config: &str, peer: &str, request: &str, fields: &[&str]) -> (String, bool) {
        let config = Config::parse(config, "test").expect("valid");
        let runtime = Rc::new(Runtime::new(Arc::new(config), None));
        let now = Now { instant: MonoTime::now(), date: *b"Sun, 06 Nov 1994 08:49:37 GMT" };
        let fields: Vec<_> = fields.iter().map(|&field| field.to_owned()).collect();
        let typed = ExplainRequest { request, fields: &fields, host: "localhost:8080" };
        let peer = Peer {
            address: Some(SocketAddr::new(peer.parse().expect("an address"), 5000)),
            is_tls: false,
            listener: ListenerProtocol::Plain,
        };
        explain(&now, &runtime, &peer, &typed)
    }

    #[test]
    fn each_change_stands_there_with_its_reason() {
        let fields =
            ["Connection: x-trace", "X-Trace: 1", "Accept: */*", "Authorization: Basic abc", "content_length: 5"];
        let plugins = "plugins: [{path: /lib/one.so}, {builtin: header_demo, name: two}]\n";
        let found = explained(&format!("{ROUTES}{plugins}"), "127.0.0.1", "GET /fitness/users/1?x=2", &fields);
        let expected = "\
Nothing is sent. This is what would happen to the request of a client at 127.0.0.1, without TLS.
No Host was given: localhost:8080 is assumed.

route
> /fitness                                       takes the path, and no longer prefix does: chosen
  /fit                                           does not: the path only begins with the same letters, and prefixes are whole segments
  /                                              takes the path too, but is shorter

upstream
  http://10.0.0.1:9001: 5s to connect, 60s for the response head

request line
- GET /fitness/users/1?x=2 HTTP/1.1
+ GET /users/1?x=2 HTTP/1.1
    /fitness is stripped (the route's key strip_prefix)
    G7, G6: what remains of path and query passes byte for byte

fields: passed as they are, - left out, + added
- Host: localhost:8080                           G8: written anew, by the route's key host
- Connection: x-trace                            G1: speaks of the client's own connection
- X-Trace: 1                                     G1: named by Connection: meant for this hop only
  Accept: */*
- Authorization: Basic abc                       G8: the upstream's URL has credentials of its own
- content_length: 5                              S9: some origins would take it for a framing field
+ Host: 10.0.0.1:9001                            G8: as the route's key host says: upstream, client, or a fixed name
+ X-Forwarded-For: 127.0.0.1                     G4: who is asking
+ X-Forwarded-Host: localhost:8080               G4: the Host that the client sent
+ X-Forwarded-Proto: http                        G4: how the client speaks to the proxy
+ X-Forwarded-Prefix: /fitness                   G4: what was stripped: applications need it for links in their pages
+ Via: 1.1 mini-rproxy                           RFC 9110 section 7.6.3: the message came through here
+ Authorization: (not shown)                     G8: the credentials of the upstream's URL

plugins: they would run in this order, and in reverse order on the response; here they did not
  one: /lib/one.so
  two: header_demo (built in)
";
        assert_eq!(found.0, expected, "found:\n{}", found.0);
        assert!(found.1);
    }

    #[test]
    fn what_keys_change_is_told_with_the_key() {
        let config = "request_headers: {remove: [Cookie], set: {X-Key: one}}\n\
            response_headers: {set: {X-Frame-Options: DENY}}\n\
            routes: [{prefix: /, upstream: 'http://a', request_headers: {set: {X-Key: two}}, \
            response_headers: {remove: [Server]}}]\n";
        let found = explained(config, "127.0.0.1", "GET /x", &["Cookie: a=b", "x_key: forged"]).0;
        let squeezed = found.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "- Cookie: a=b as the top level's key request_headers says",
            "- x_key: forged as the route's key request_headers says",
            "+ X-Key: two as the route's key request_headers says",
            "top level's key response_headers says: - removed, then + added - X-Frame-Options + X-Frame-Options: DENY",
            "route's key response_headers says: - removed, then + added - Server",
        ] {
            assert!(squeezed.contains(part), "no {part:?} in\n{found}");
        }
        assert!(!found.contains("X-Key: one"), "{found}");
    }

    #[test]
    fn who_is_not_let_in_is_told_the_ranges() {
        let config = "routes: [{prefix: /, upstream: 'http://a', allow: [10.0.0.0/8, 192.0.2.1], deny: 10.0.0.66}]\n";
        for (peer, is_in) in [("10.0.0.1", true), ("192.0.2.1", true), ("10.0.0.66", false), ("192.0.2.2", false)] {
            let (found, is_served) = explained(config, peer, "GET /x", &[]);
            assert_eq!((is_served, found.contains("why=forbidden")), (is_in, !is_in), "{peer}");
            assert!(found.contains("> / ") && found.contains("key allow says: 10.0.0.0/8, 192.0.2.1/32\n"), "{found}");
        }
    }

    #[test]
    fn other_requests_have_other_lines() {
        let trusting = format!("{ROUTES}forwarded: {{trusted_proxies: [127.0.0.1]}}\n");
        let silent = format!("{ROUTES}forwarded: {{enabled: false}}\n");
        for (name, config, request, fields, expected) in [
            (
                "a lone path",
                ROUTES,
                "/x",
                &[][..],
                &["No method was given: GET is assumed.", "\nGET /x HTTP/1.1\n"][..],
            ),
            ("HTTP/1.0", ROUTES, "GET /x HTTP/1.0", &[], &["- GET /x HTTP/1.0", "+ GET /x HTTP/1.1"]),
            (
                "a URL",
                ROUTES,
                "GET http://h/engine/x HTTP/1.1",
                &[],
                &["No Host was given: h is", "+ GET /base/x HTTP/1.1", "\nHost: h\n"],
            ),
            (
                "a base path",
                ROUTES,
                "GET /engine",
                &["host: h"],
                &["+ GET /base HTTP/1.1", "/base of the upstream's", "\nhost: h\n"],
            ),
            ("a claim", ROUTES, "GET /x", &["X-Real-IP: 1.2.3.4"], &["- X-Real-IP: 1.2.3.4 G4: the peer is none of"]),
            (
                "a claim that counts",
                &trusting,
                "GET /x",
                &["X-Forwarded-For: 1.2.3.4"],
                &["- X-Forwarded-For: 1.2.3.4 changed, see below", "+ X-Forwarded-For: 1.2.3.4, 127.0.0.1 G4"],
            ),
            (
                "no claims",
                &silent,
                "GET /x",
                &["Forwarded: for=x"],
                &["- Forwarded: for=x G4: forwarded.enabled is false"],
            ),
            (
                "a body",
                ROUTES,
                "PUT /x",
                &["Content-Length: 5", "Expect: 100-continue"],
                &["\nContent-Length: 5\n", "\nExpect: 100-continue\n"],
            ),
            ("a length with zeros", ROUTES, "PUT /x", &["Content-Length: 005"], &["+ Content-Length: 5 S13"]),
            ("nothing to expect", ROUTES, "PUT /x", &["Expect: 100-continue"], &["G10: there is no body to wait for"]),
            (
                "an upgrade",
                ROUTES,
                "GET /x",
                &["Connection: keep-alive, Upgrade", "Upgrade: x, websocket"],
                &["- Upgrade: x, websocket ", "+ Connection: Upgrade G14", "+ Upgrade: websocket G14"],
            ),
            (
                "an upgrade that is none",
                ROUTES,
                "GET /x",
                &["Connection: Upgrade", "Upgrade: h2c"],
                &["- Upgrade: h2c G14: no protocol"],
            ),
            (
                "a hop less",
                ROUTES,
                "OPTIONS /x",
                &["Max-Forwards: 5"],
                &["- Max-Forwards: 5 changed", "+ Max-Forwards: 4 RFC 9110 section 7.6.2"],
            ),
            (
                "a destination",
                ROUTES,
                "COPY /fit/a",
                &["Host: h", "Destination: http://h/fit/b"],
                &["+ Destination: http://10.0.0.2/b G8: where the upstream has"],
            ),
            ("long answers", ROUTES, "/configz", &[], &["HTTP/1.1 200 OK", "[{\"prefix\":\"/fitness\","]),
            (
                "a unix socket",
                "routes: [{prefix: /, upstream: 'http://unix:/run/app.sock:/base'}]",
                "GET /x",
                &[],
                &["http://unix:/run/app.sock:/base: 5s to connect", "+ GET /base/x HTTP/1.1", "+ Host: localhost G8"],
            ),
            (
                "the proxy's own",
                ROUTES,
                "/health",
                &[],
                &["answered by the proxy itself\nHTTP/1.1 200 OK", "{\"message\":\"OK\"}"],
            ),
        ] {
            let (found, is_served) = explained(config, "127.0.0.1", request, fields);
            // Without the columns.
            let lines: Vec<_> =
                found.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            let squeezed = lines.join("\n");
            for line in expected {
                assert!(squeezed.contains(line), "{name}: no {line:?} in\n{}", found);
            }
            assert!(is_served, "{name}");
            let unexplained =
                found.lines().find(|line| line.starts_with("+ ") && line.contains(": ") && line.len() < COLUMN);
            assert_eq!(unexplained, None, "{name}");
            assert!(!found.contains("secret") && !found.contains("dXNlcjpzZWNyZXQ"), "{name}: credentials");
        }
    }

    #[test]
    fn refusals_name_the_rule_and_the_remedy() {
        let no_root = ROUTES.replace("prefix: /,", "prefix: /root,");
        for (request, fields, why, status, part_of_detail) in [
            ("GET /a/../b", &[][..], "S20", 400, "  expected no . or .. segment in the path"),
            ("GET  /a", &[], "S12", 400, "  expected "),
            ("GET /a HTTP/1.1", &["Host: a", "Host: a"], "S11", 400, "  expected one Host line only"),
            ("GET http://a/ HTTP/1.1", &["Host: b"], "S11", 400, "  expected Host to be equal"),
            ("POST /a", &["Content-Length: 1", "Transfer-Encoding: chunked"], "S1", 400, "  expected "),
            ("POST /a", &["Transfer-Encoding: gzip"], "S3", 501, "  expected "),
            ("GET /a", &["A : b"], "S8", 400, "  expected "),
            ("GET /a HTTP/3.0", &[], "S21", 505, "  expected "),
            ("GET /a#b", &[], "S12", 400, "  expected no # in the request target"),
            ("CONNECT a:1", &["Host: a:1"], "S16", 405, "  expected another method than CONNECT"),
            ("TRACE /", &[], "method_refused", 405, "Allow: GET"),
            ("PUT /a", &["Expect: x", "Content-Length: 1"], "expectation_failed", 417, "100-continue"),
            ("PUT /a", &["Content-Length: 11"], "body_too_large", 413, "max_body_bytes"),
            ("GET /a", &[], "no_route", 404, "  none takes /a"),
        ] {
            let config = if why == "no_route" { &no_root } else { ROUTES };
            let (found, is_served) = explained(config, "192.0.2.1", request, fields);
            for part in [&format!("  why={why}\n"), &format!("\nanswer\nHTTP/1.1 {status} "), part_of_detail] {
                assert!(found.contains(part), "{request} {fields:?}: no {part:?} in\n{}", found);
            }
            assert!(!is_served, "{request}");
        }
    }

    #[test]
    fn of_several_upstreams_all_are_told_and_one_is_asked() {
        let config = "routes: [{prefix: /a, upstreams: ['http://one:81/x', 'http://two/x', 'http://three/x']}]\n";
        let found = explained(config, "192.0.2.1", "GET /a/b", &[]).0;
        let upstreams =
            "  http://one:81/x: 5s to connect, 60s for the response head\n  or http://two/x\n  or http://three/x\n";
        for part in [upstreams, "+ GET /x/b HTTP/1.1\n", "+ Host: one:81 "] {
            assert!(found.contains(part), "no {part:?} in\n{found}");
        }
    }

    #[test]
    fn redirects_are_shown_with_their_route() {
        let config = "routes: [{prefix: /a, redirect: 'https://new.example/b'}, {prefix: /, upstream: 'http://o'}]";
        let (found, is_served) = explained(config, "192.0.2.1", "PUT /a/x?y", &[]);
        assert!(is_served);
        for part in
            ["> /a  ", "\nanswered by the proxy itself\nHTTP/1.1 308 ", "\r\nLocation: https://new.example/b/x?y\r\n"]
        {
            assert!(found.contains(part), "no {part:?} in\n{found}");
        }
    }

    #[test]
    fn what_is_turned_off_is_not_shown() {
        let shown = |config: &str| explained(config, "192.0.2.1", "GET /x", &[]).0.contains("+ Via: ");
        assert!(shown(ROUTES) && !shown(&format!("{ROUTES}via: false\n")));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_redirect_to_tls_is_shown() {
        let tls = "tls: {listen_addr: ':8443', certificate: a, key: b, redirect_http: true}\n";
        let (found, is_served) = explained(&format!("{ROUTES}{tls}"), "192.0.2.1", "/fitness?x", &["Host: a:80"]);
        let part = "\nanswered by the proxy itself\nHTTP/1.1 308 ";
        assert!(
            is_served && found.contains(part) && found.contains("\r\nLocation: https://a:8443/fitness?x\r\n"),
            "{found}"
        );
    }

    #[test]
    fn g7_the_route_is_told_by_host() {
        let config = "routes:\n\
            - {hosts: [a.example, '*.b.example'], prefix: /x, upstream: 'http://one'}\n\
            - {hosts: '*.b.example', prefix: /, upstream: 'http://two'}\n\
            - {hosts: '*.example', prefix: /x, upstream: 'http://three'}\n\
            - {prefix: /x, upstream: 'http://four'}\n";
        let named = |host: &str| format!("of the hosts that routes are for, {host} is the most specific one");
        for (request, fields, upstream, parts) in [
            (
                "http://z.B.example:8443/x/y",
                &[][..],
                "one",
                &[
                    "No Host was given: z.B.example:8443 is assumed.",
                    &named("*.b.example"),
                    "> a.example/x ",
                    "  *.b.example/ ",
                    "for other hosts: 1\n",
                    "is for all hosts",
                ][..],
            ),
            ("GET /x", &["Host: a.example"], "one", &[&named("a.example"), "> a.example/x ", "for other hosts: 2\n"]),
            ("GET /x", &["Host: q.example"], "three", &[&named("*.example"), "> *.example/x "]),
            ("GET /x", &[], "four", &["no route is for this host", "> /x ", "for other hosts: 3\n"]),
        ] {
            let (found, is_served) = explained(config, "192.0.2.1", request, fields);
            assert!(is_served && found.contains(&format!("\nupstream\n  http://{upstream}:")), "{request}: {found}");
            for part in parts {
                assert!(found.contains(part), "{request}: no {part:?} in\n{found}");
            }
        }
        let found = explained(config, "192.0.2.1", "GET /q", &["Host: a.example"]);
        assert!(
            !found.1 && found.0.contains(&named("a.example")) && found.0.contains("  none takes /q\n"),
            "{}",
            found.0
        );
    }

    #[test]
    fn of_many_routes_only_the_near_ones_are_told() {
        let mut config = "routes:\n- {prefix: /a, upstream: 'http://a'}\n".to_owned();
        (0..30).for_each(|n| config.push_str(&format!("- {{prefix: /b{n}, upstream: 'http://b'}}\n")));
        let found = explained(&config, "192.0.2.1", "GET /b2x", &[]).0;
        assert!(found.contains("  /b2  ") && !found.contains("  /b3  "), "{found}");
    }

    #[test]
    fn what_was_typed_cannot_command_a_terminal() {
        let found = explained(ROUTES, "192.0.2.1", "GET /x", &["A: \u{1b}[2J\u{9b}m"]).0;
        assert!(!found.contains('\u{1b}') && !found.contains('\u{9b}'), "{found:?}");
    }
}
