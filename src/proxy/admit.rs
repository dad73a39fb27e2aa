//! Admission: whether a request is served at all, and by whom. Nothing is changed here, only judged.
//!
//! The order is that of blame: first what makes the connection unsafe to go on with (framing, Host, target), then what
//! the proxy answers by itself, then the route and its limits.

use super::cause::{Cause, FORWARDED_METHODS};
use super::connection::{Options, allowed_protocols};
use super::events::{ListenerProtocol, Peer};
use super::forwarded::{PeerTrust, believed_prefix, client_address, is_local, is_trusted};
use super::route::{Match, Router, write_target};
use super::runtime::Runtime;
use crate::config::{ConfigzAccess, Redirect, RouteTarget, Scheme};
use crate::http::chars::{list_members, parse_decimal, write_decimal};
use crate::http::error::HttpError;
use crate::http::fields::{Fields, HeaderId};
use crate::http::framing::Framing;
use crate::http::head::{Method, RequestHead, Version};
use crate::http::target::{Target, check_host, host_of, parse_target};

/// The methods of the built-in resources, for the Allow field.
const BUILT_IN_METHODS: &str = "GET, HEAD";

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// The proxy: 200 on `/health`, 503 while it is going to stop.
    Health,
    /// The proxy: the routes, on `/configz`.
    Configz,
    /// The proxy: on `/configz?outline` the whole configuration, to whom it may be told; to others as above.
    FullConfig,
    /// The proxy: what was counted, on `/metrics`.
    Metrics,
    /// The proxy: OPTIONS that goes no further (`*`, or Max-Forwards: 0).
    Options,
    /// The proxy: a redirect with this status, because the route is one, or from the prefix of a route to the same with a slash,
    /// where the links of pages are relative to.
    Redirect(ForwardPlan, u16),
    /// The proxy: a redirect to the same with TLS.
    ToHttps,
    /// The proxy: 403, since the route is not there for this client.
    Forbidden(ForwardPlan),
    /// The upstream of a route.
    Upstream(ForwardPlan),
}

/// How a request is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardPlan {
    /// Index of the route in file order.
    pub route: u32,
    /// Whether the connection may become a tunnel.
    pub upgrade: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Judges a request head whose body is framed like that. `host` holds a Host that was admitted before, or nothing; the one
/// of this request is left there. For [`Handler::Upstream`] the target to forward is left in `target`, for
/// redirects where they lead.
///
/// # Errors
/// Why it is answered with an error.
pub fn admit(
    head: &RequestHead,
    framing: Framing,
    options: Options,
    peer: &Peer,
    runtime: &Runtime,
    host: &mut Vec<u8>,
    target: &mut Vec<u8>,
) -> Result<Handler, Cause> {
    target.clear();
    if head.method == Method::Connect {
        // Rule S16: a tunnel to anywhere is what a gateway must never be.
        return Err(HttpError::ConnectMethod.into());
    }
    let is_options = head.method == Method::Options;
    let requested = parse_target(&head.target, is_options)?;
    let found = check_host(&requested, head.version, &head.fields, host)?;
    host.clear();
    // An empty port is none, and not every origin knows that.
    host.extend_from_slice(found.strip_suffix(b":").unwrap_or(found));
    if head.method == Method::Trace {
        return Err(Cause::MethodRefused(FORWARDED_METHODS));
    }
    let Target { path, query, .. } = requested;
    if path == b"*" {
        return Ok(Handler::Options);
    }
    let expects_continue = expects_continue(head, framing)?;
    if let Some(by) = built_in(head, path, query, peer, runtime)? {
        return Ok(by);
    }
    if peer.listener == ListenerProtocol::Admin {
        return Err(Cause::NoRoute);
    }
    let found = runtime.router.find(host, path);
    if let Some(port) = runtime.https_port
        && wants_https(head, peer, runtime)
        && !is_acme_challenge(path, found)
    {
        if host.is_empty() {
            return Err(HttpError::HostMissing.into());
        }
        write_https_url(target, host, port, [path, query]);
        return Ok(Handler::ToHttps);
    }
    let found = found.ok_or(Cause::NoRoute)?;
    let route = &runtime.config.routes[found.route as usize];
    if route.options.allow.is_some() || route.options.deny.is_some() {
        let client = client_address(peer, &head.fields, &runtime.config.forwarded);
        if !route.options.is_allowed(client.map(|client| client.ip())) {
            // What plugins see of it is what was asked for.
            write_target(target, "", path, query, 0);
            return Ok(Handler::Forbidden(ForwardPlan { route: found.route, upgrade: false, expects_continue }));
        }
    }
    if is_options && max_forwards(&head.fields)? == Some(0) {
        return Ok(Handler::Options);
    }
    let stripped = if route.options.strip_prefix { found.prefix_len } else { 0 };
    let outer = || believed_prefix(PeerTrust::of(peer, &runtime.config.forwarded), &head.fields);
    let upstream = match &route.target {
        RouteTarget::Upstreams(upstreams) => &upstreams[0],
        RouteTarget::Redirect(redirect) => {
            write_location(target, redirect, outer(), [path, query], stripped);
            let plan = ForwardPlan { route: found.route, upgrade: false, expects_continue };
            return Ok(Handler::Redirect(plan, redirect.status));
        }
    };
    let upgrade = options.upgrade
        && matches!(framing, Framing::None | Framing::Length(0))
        && head.version == Version::Http11
        && allowed_protocols(&head.fields, &route.options.upgrade).next().is_some();
    // Other methods would have to send their body twice, and clients of other protocols do not follow.
    let may_follow = matches!(head.method, Method::Get | Method::Head) && !upgrade;
    let is_bare_prefix = found.prefix_len == path.len() && found.prefix_len > 0 && !path.ends_with(b"/");
    if route.options.redirect_to_slash && is_bare_prefix && may_follow {
        // No prefix begins with two slashes, which would lead to another host.
        [outer(), path, b"/", query].iter().for_each(|part| target.extend_from_slice(part));
        return Ok(Handler::Redirect(ForwardPlan { route: found.route, upgrade, expects_continue }, 301));
    }
    write_target(target, &upstream.base_path, path, query, stripped);
    Ok(Handler::Upstream(ForwardPlan { route: found.route, upgrade, expects_continue }))
}

/// Appends where a redirect leads. A path comes behind `outer`, the prefix that a trusted proxy before us has stripped.
fn write_location(out: &mut Vec<u8>, redirect: &Redirect, outer: &[u8], [path, query]: [&[u8]; 2], stripped: usize) {
    let to = &*redirect.to;
    // Of a URL scheme and authority. What is appended to them begins with a slash, so no other authority can come of it.
    let origin_len = to
        .find("://")
        .map(|at| at + 3)
        .filter(|_| !to.starts_with('/'))
        .map_or(0, |start| to[start..].find(['/', '?', '#']).map_or(to.len(), |len| start + len));
    let (origin, base_path) = to.split_at(origin_len);
    out.extend_from_slice(if origin.is_empty() { outer } else { origin.as_bytes() });
    if redirect.keep_path {
        write_target(out, base_path.trim_end_matches('/'), path, query, stripped);
    } else {
        out.extend_from_slice(base_path.as_bytes());
    }
    if let [b'/', b'/' | b'\\', ..] = out[..] {
        // It would lead to another host (RFC 3986 section 4.2; browsers take a backslash for a slash).
        out.splice(..0, *b"/.");
    }
}

/// Whether `tls.redirect_http` is meant for a client: not on a unix socket, where a proxy in front of this one asks, which may
/// speak TLS itself; nor where a trusted proxy says that the client speaks TLS with it.
fn wants_https(head: &RequestHead, peer: &Peer, runtime: &Runtime) -> bool {
    let is_behind_tls = || {
        let is_trusted = peer.address.is_some_and(|peer| is_trusted(peer.ip(), &runtime.config.forwarded));
        // The first one speaks of the client itself.
        let proto = head.fields.values(HeaderId::XForwardedProto).flat_map(list_members).next();
        is_trusted && proto.is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"))
    };
    peer.listener == ListenerProtocol::Plain && !peer.is_tls && peer.address.is_some() && !is_behind_tls()
}

/// Whether a route takes the questions of certificate authorities (RFC 8555 section 8.3), which are asked without TLS.
fn is_acme_challenge(path: &[u8], found: Option<Match>) -> bool {
    const PLACE: &[u8] = b"/.well-known/acme-challenge/";
    path.starts_with(PLACE) && found.is_some_and(|found| found.prefix_len + 1 >= PLACE.len())
}

/// Appends the URL with TLS of what is asked for at `authority`, which is valid: nothing in it ends it early.
fn write_https_url(out: &mut Vec<u8>, authority: &[u8], port: u16, path_and_query: [&[u8]; 2]) {
    [b"https://", host_of(authority)].iter().for_each(|part| out.extend_from_slice(part));
    if port != Scheme::Https.default_port() {
        out.push(b':');
        write_decimal(port.into(), out);
    }
    path_and_query.iter().for_each(|part| out.extend_from_slice(part));
}

/// Whether a TLS client has named a host in its handshake and another one in its request, and there are routes for both of
/// them (RFC 9110 section 7.4). Two names that one `*.` takes in are one host here.
pub fn is_misdirected(router: &Router, server_name: &[u8], host: &[u8]) -> bool {
    matches!([server_name, host].map(|name| router.host(name)), [Some(a), Some(b)] if a != b)
}

/// Rules G10 and S15, RFC 9110 section 10.1.1: ignored in HTTP/1.0 and where no body follows; 417 for any other
/// expectation.
fn expects_continue(head: &RequestHead, framing: Framing) -> Result<bool, Cause> {
    let mut expectations = head.fields.values(HeaderId::Expect);
    let (Some(first), Version::Http11) = (expectations.next(), head.version) else { return Ok(false) };
    if expectations.next().is_some() || !first.eq_ignore_ascii_case(b"100-continue") {
        return Err(Cause::ExpectationFailed);
    }
    Ok(!matches!(framing, Framing::None | Framing::Length(0)))
}

/// The built-in resources win over routes.
fn built_in(
    head: &RequestHead,
    path: &[u8],
    query: &[u8],
    peer: &Peer,
    runtime: &Runtime,
) -> Result<Option<Handler>, Cause> {
    let by = match path {
        path if runtime.config.admin.health.as_deref().map(str::as_bytes) == Some(path) => Handler::Health,
        b"/configz" if !has_configz(head, peer, runtime) => return Ok(None),
        b"/configz" if query == b"?outline" => Handler::FullConfig,
        b"/configz" => Handler::Configz,
        b"/metrics" if has_metrics(head, peer, runtime) => Handler::Metrics,
        _ => return Ok(None),
    };
    match head.method {
        Method::Get | Method::Head => Ok(Some(by)),
        _ => Err(Cause::MethodRefused(BUILT_IN_METHODS)),
    }
}

/// The same for `/configz`, which everybody may see by default.
fn has_configz(head: &RequestHead, peer: &Peer, runtime: &Runtime) -> bool {
    let access = runtime.config.admin.configz;
    let is_near = || peer.listener == ListenerProtocol::Admin || is_local(peer, &head.fields);
    access == ConfigzAccess::Everybody || (access == ConfigzAccess::Local && is_near())
}

/// Whether `/metrics` is there for this client. Numbers about the traffic are nobody's business, so without a listener
/// of its own it is there for local clients only; to others it looks as if it did not exist.
fn has_metrics(head: &RequestHead, peer: &Peer, runtime: &Runtime) -> bool {
    let admin = &runtime.config.admin;
    let is_local = || admin.listen_addr.is_empty() && is_local(peer, &head.fields);
    admin.metrics && (peer.listener == ListenerProtocol::Admin || is_local())
}

/// RFC 9110 section 7.6.2.
pub fn max_forwards(fields: &Fields) -> Result<Option<u64>, Cause> {
    let Some(value) = fields.get(HeaderId::MaxForwards) else { return Ok(None) };
    parse_decimal(value).map(Some).ok_or(HttpError::BadMaxForwards.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::http::framing::request_framing;
    use crate::http::head::{HeadLimits, parse_head};
    use crate::proxy::connection::read_options;
    use std::sync::Arc;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, field_lines: 64, request_line: 1024 };

    fn runtime() -> Runtime {
        let text = "routes:\n\
            - {prefix: /a, upstream: 'http://o/base', max_body_bytes: 10}\n\
            - {prefix: /keep, upstream: 'http://o', strip_prefix: false}\n\
            - {prefix: /chat, upstream: 'http://o', upgrade: [websocket, irc]}\n\
            - {prefix: /plain, upstream: 'http://o', upgrade: []}\n";
        Runtime::new(Arc::new(Config::parse(text, "test").expect("valid")), None)
    }

    /// What becomes of a request; a Host line is added.
    fn judge(runtime: &Runtime, start: &str, lines: &str) -> Result<(Handler, String), Cause> {
        judge_from(&Peer { address: "192.0.2.1:5000".parse().ok(), ..Peer::default() }, runtime, start, lines)
    }

    fn judge_from(peer: &Peer, runtime: &Runtime, start: &str, lines: &str) -> Result<(Handler, String), Cause> {
        let mut head = RequestHead::default();
        let text = format!("{start}\r\nHost: h\r\n{lines}\r\n");
        parse_head(text.as_bytes(), &LIMITS, &mut head).expect("a valid head").expect("a whole head");
        let options = read_options(&head.fields, &mut Vec::new()).expect("few options");
        let mut target = b"left over".to_vec();
        let admission = admit(&head, request_framing(&head)?, options, peer, runtime, &mut Vec::new(), &mut target)?;
        Ok((admission, String::from_utf8(target).expect("ASCII")))
    }

    fn plan(runtime: &Runtime, start: &str, lines: &str) -> ForwardPlan {
        match judge(runtime, start, lines).expect("admitted").0 {
            Handler::Upstream(plan) => plan,
            other => panic!("{start}: answered by {other:?}"),
        }
    }

    #[test]
    fn g7_targets_are_routed_and_rewritten() {
        let runtime = runtime();
        for (start, expected) in [
            ("GET /a HTTP/1.1", Some((0, "/base"))),
            ("GET /a/x?q=%20 HTTP/1.1", Some((0, "/base/x?q=%20"))),
            ("GET /keep/x HTTP/1.1", Some((1, "/keep/x"))),
            ("GET http://h/a/x HTTP/1.1", Some((0, "/base/x"))),
            ("OPTIONS /a/x HTTP/1.1", Some((0, "/base/x"))),
            ("GET /ab HTTP/1.1", None),
        ] {
            let found = judge(&runtime, start, "").ok().map(|(admission, target)| match admission {
                Handler::Upstream(plan) => (plan.route, target),
                other => panic!("{start}: answered by {other:?}"),
            });
            assert_eq!(found, expected.map(|(route, target)| (route, target.to_owned())), "{start}");
        }
    }

    #[test]
    fn requests_that_are_not_served_are_refused_for_the_first_reason() {
        let runtime = runtime();
        for (name, start, lines, status, why) in [
            ("no route", "GET /b HTTP/1.1", "", 404, "no_route"),
            ("a tunnel", "CONNECT h:443 HTTP/1.1", "", 405, "S16"),
            ("an echo", "TRACE /a HTTP/1.1", "", 405, "method_refused"),
            ("an echo for two hosts", "TRACE /a HTTP/1.1", "Host: h\r\n", 400, "S11"),
            ("an echo of a bad target", "TRACE a HTTP/1.1", "", 400, "S12"),
            ("both framings", "POST /a HTTP/1.1", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400, "S1"),
            ("framing before method", "CONNECT h:443 HTTP/1.1", "Content-Length: +1\r\n", 400, "S2"),
            ("a second Host", "GET /a HTTP/1.1", "Host: h\r\n", 400, "S11"),
            ("another authority", "GET http://other/a HTTP/1.1", "", 400, "S11"),
            ("a fragment", "GET /a#b HTTP/1.1", "", 400, "S12"),
            ("an asterisk", "GET * HTTP/1.1", "", 400, "S12"),
            ("a dot segment", "GET /a/%2e%2e/b HTTP/1.1", "", 400, "S20"),
            ("an expectation", "PUT /a HTTP/1.1", "Expect: x\r\nContent-Length: 1\r\n", 417, "expectation_failed"),
            ("built-ins have two methods", "PUT /health HTTP/1.1", "", 405, "method_refused"),
            ("not a number", "OPTIONS /a HTTP/1.1", "Max-Forwards: -1\r\n", 400, "S2"),
        ] {
            let refusal = judge(&runtime, start, lines).expect_err(name);
            assert_eq!((refusal.status(), refusal.why()), (status, why), "{name}");
            assert_eq!(refusal.allow().is_some(), status == 405, "{name}: Allow with 405 and only there");
        }
    }

    #[test]
    fn g7_a_tls_client_that_asked_for_another_host_is_misdirected() {
        let router = |text: &str| Router::of(Config::parse(text, "test").expect("valid").routes.iter());
        let hosts = router(
            "routes:\n\
             - {hosts: [a.example, '*.b.example', c.b.example], prefix: /, upstream: 'http://o'}\n\
             - {hosts: d.example, prefix: /, upstream: 'http://o'}\n\
             - {prefix: /, upstream: 'http://o'}\n",
        );
        for (server_name, host, expected) in [
            ("a.example", "a.example", false),
            ("a.example", "A.example.:8443", false),
            ("a.example", "d.example", true),
            ("d.example", "a.example:8443", true),
            ("x.b.example", "y.b.example", false),
            ("x.b.example", "c.b.example", true),
            ("c.b.example", "x.b.example", true),
            ("", "a.example", false),
            ("a.example", "", false),
            ("a.example", "other.example", false),
            ("other.example", "a.example", false),
        ] {
            let found = is_misdirected(&hosts, server_name.as_bytes(), host.as_bytes());
            assert_eq!(found, expected, "{server_name:?} {host:?}");
            let none = router("routes: [{prefix: /, upstream: 'http://o'}]");
            assert!(!is_misdirected(&none, server_name.as_bytes(), host.as_bytes()));
        }
    }

    /// Where a redirect leads, as the status and the Location.
    fn redirected(runtime: &Runtime, peer: &Peer, start: &str, lines: &str) -> Option<(u16, String)> {
        match judge_from(peer, runtime, start, lines) {
            Ok((Handler::Redirect(_, status), target)) => Some((status, target)),
            Ok((Handler::ToHttps, target)) => Some((308, target)),
            _ => None,
        }
    }

    #[test]
    fn a_redirect_leads_where_its_route_says_and_to_no_other_host() {
        let long = "https://new.example/base";
        for (name, route, start, expected) in [
            // prefix, redirect
            ("a path and a query", ("/a", long), "GET /a/x?y=1&z HTTP/1.1", "https://new.example/base/x?y=1&z"),
            ("nothing more", ("/a", long), "GET /a HTTP/1.1", "https://new.example/base"),
            ("a slash", ("/a", long), "GET /a/ HTTP/1.1", "https://new.example/base/"),
            (
                "a base with a slash",
                ("/a", "https://new.example/base/"),
                "GET /a/x HTTP/1.1",
                "https://new.example/base/x",
            ),
            (
                "no base",
                ("/a", "https://new.example"),
                "GET /a?x=@evil.example HTTP/1.1",
                "https://new.example/?x=@evil.example",
            ),
            ("the root", ("/", "http://new.example:8080"), "GET / HTTP/1.0", "http://new.example:8080/"),
            ("IPv6", ("/", "https://[::1]:8443/"), "GET /x HTTP/1.1", "https://[::1]:8443/x"),
            ("one letter", ("/", "http://a"), "GET /x HTTP/1.1", "http://a/x"),
            ("another method", ("/a", long), "DELETE /a/x HTTP/1.1", "https://new.example/base/x"),
            ("OPTIONS", ("/a", long), "OPTIONS /a/x HTTP/1.1", "https://new.example/base/x"),
            ("a target that is a URL", ("/a", long), "GET http://h/a/x HTTP/1.1", "https://new.example/base/x"),
            ("as it was sent", ("/a", long), "GET /%61/%41%2F HTTP/1.1", "https://new.example/base/%41%2F"),
            ("to a path", ("/a", "/b"), "GET /a/x?y HTTP/1.1", "/b/x?y"),
            ("to the root", ("/a", "/"), "GET /a/x HTTP/1.1", "/x"),
            ("to the root, nothing more", ("/a", "/"), "GET /a HTTP/1.1", "/"),
            // What could become another authority.
            (
                "a name behind a name",
                ("/a", "https://new.example"),
                "GET /a/.evil.example HTTP/1.1",
                "https://new.example/.evil.example",
            ),
            (
                "a slash and a name",
                ("/a", "https://new.example"),
                "GET /a//evil.example HTTP/1.1",
                "https://new.example//evil.example",
            ),
            (
                "userinfo",
                ("/a", "https://new.example"),
                "GET /a/@evil.example HTTP/1.1",
                "https://new.example/@evil.example",
            ),
            (
                "a port",
                ("/a", "https://new.example"),
                "GET /a/:80@evil.example HTTP/1.1",
                "https://new.example/:80@evil.example",
            ),
            (
                "a backslash",
                ("/a", "https://new.example"),
                "GET /a/\\evil.example HTTP/1.1",
                "https://new.example/\\evil.example",
            ),
            ("two slashes to the root", ("/a", "/"), "GET /a//evil.example/x HTTP/1.1", "/.//evil.example/x"),
            ("three", ("/a", "/"), "GET /a///evil.example HTTP/1.1", "/.///evil.example"),
            ("a backslash to the root", ("/a", "/"), "GET /a/\\evil.example HTTP/1.1", "/./\\evil.example"),
            ("two slashes of the root itself", ("/", "/"), "GET //evil.example HTTP/1.1", "/.//evil.example"),
            ("two slashes to a path", ("/a", "/b"), "GET /a//evil.example HTTP/1.1", "/b//evil.example"),
            // What could end a line stays encoded.
            (
                "line ends",
                ("/a", "/"),
                "GET /a/x%0d%0aSet-Cookie:%20a?%0d%0a HTTP/1.1",
                "/x%0d%0aSet-Cookie:%20a?%0d%0a",
            ),
        ] {
            let text = format!("routes: [{{prefix: {}, redirect: '{}'}}]", route.0, route.1);
            let runtime = Runtime::new(Arc::new(Config::parse(&text, "test").expect(name)), None);
            let found = redirected(&runtime, &Peer::default(), start, "");
            assert_eq!(found, Some((308, expected.to_owned())), "{name}");
            assert!(!expected.starts_with("//") && !expected.starts_with("/\\"), "{name}");
        }
        // A prefix takes whole segments, so no name can grow out of one.
        let runtime = Runtime::new(
            Arc::new(Config::parse("routes: [{prefix: /a, redirect: 'https://new.example'}]", "test").expect("valid")),
            None,
        );
        for start in ["GET /a.evil.example HTTP/1.1", "GET /a@evil.example HTTP/1.1", "GET /a\\evil HTTP/1.1"] {
            assert_eq!(judge(&runtime, start, ""), Err(Cause::NoRoute), "{start}");
        }
    }

    #[test]
    fn a_redirect_keeps_what_it_is_told_to_keep() {
        let text = "forwarded: {trusted_proxies: [10.0.0.1]}\n\
            routes:\n\
            - {prefix: /kept, strip_prefix: false, redirect: {to: 'https://new.example/base', status: 301}}\n\
            - {prefix: /one, redirect: {to: 'https://new.example/page?a=b#c', status: 303, keep_path: false}}\n\
            - {prefix: /host, redirect: {to: 'https://new.example', status: 302, keep_path: false}}\n\
            - {prefix: /path, redirect: {to: /new/, status: 307, keep_path: false}}\n\
            - {prefix: /root, redirect: /}\n";
        let runtime = Runtime::new(Arc::new(Config::parse(text, "test").expect("valid")), None);
        let peer = |text: &str| Peer { address: text.parse().ok(), ..Peer::default() };
        let (near, front) = (peer("192.0.2.1:1"), peer("10.0.0.1:1"));
        let outer = "X-Forwarded-Prefix: /p/\r\n";
        for (peer, path, expected) in [
            (&near, "/kept/x?y", (301, "https://new.example/base/kept/x?y")),
            (&near, "/one/x?y", (303, "https://new.example/page?a=b#c")),
            (&near, "/host/x?y", (302, "https://new.example")),
            (&near, "/path/x?y", (307, "/new/")),
            // Behind a proxy that has stripped a prefix.
            (&front, "/path", (307, "/p/new/")),
            (&front, "/root//x", (308, "/p//x")),
            (&front, "/one", (303, "https://new.example/page?a=b#c")),
            (&near, "/root//x", (308, "/.//x")),
        ] {
            let found = redirected(&runtime, peer, &format!("GET {path} HTTP/1.1"), outer);
            assert_eq!(found, Some((expected.0, expected.1.to_owned())), "{path}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn clients_without_tls_are_redirected_to_it() {
        let text = "forwarded: {trusted_proxies: [10.0.0.1]}\n\
            tls: {listen_addr: ['unix:/run/x', ':8443', ':9443'], certificate: c, key: k, redirect_http: true}\n\
            routes:\n\
            - {hosts: with.example, prefix: /.well-known/acme-challenge, upstream: 'http://o'}\n\
            - {hosts: deep.example, prefix: /.well-known/acme-challenge/x, upstream: 'http://o'}\n\
            - {hosts: short.example, prefix: /.well-known, upstream: 'http://o'}\n\
            - {prefix: /a, upstream: 'http://o'}\n";
        let runtime = |text: &str| Runtime::new(Arc::new(Config::parse(text, "test").expect("valid")), None);
        let with_tls = runtime(text);
        let usual = runtime(&text.replace("'unix:/run/x', ':8443', ':9443'", "':443'"));
        let plain = Peer { address: "192.0.2.1:1".parse().ok(), ..Peer::default() };
        let front = Peer { address: "10.0.0.1:1".parse().ok(), ..Peer::default() };
        let https = "X-Forwarded-Proto: https\r\n";
        let asked = |runtime: &Runtime, peer: &Peer, host: &str, start: &str, lines: &str| {
            let mut head = RequestHead::default();
            let text = format!("{start}\r\n{host}{lines}\r\n");
            parse_head(text.as_bytes(), &LIMITS, &mut head).expect("a valid head").expect("a whole head");
            let (framing, options) = (request_framing(&head)?, read_options(&head.fields, &mut Vec::new())?);
            let mut target = Vec::new();
            let found = admit(&head, framing, options, peer, runtime, &mut Vec::new(), &mut target)?;
            let location = (found == Handler::ToHttps).then(|| String::from_utf8(target).expect("ASCII"));
            Ok(location.unwrap_or_default())
        };
        let challenge = "GET /.well-known/acme-challenge/x HTTP/1.1";
        for (runtime, peer, host, start, lines, expected) in [
            (
                &with_tls,
                &plain,
                "Host: A.example:80\r\n",
                "GET /a?b=c HTTP/1.1",
                "",
                Ok("https://A.example:8443/a?b=c"),
            ),
            (&usual, &plain, "Host: a.example:8080\r\n", "GET / HTTP/1.1", "", Ok("https://a.example/")),
            (&usual, &plain, "Host: [::1]:80\r\n", "GET //x/\\y HTTP/1.1", "", Ok("https://[::1]//x/\\y")),
            (&usual, &plain, "Host: a\r\n", "GET http://a HTTP/1.1", "", Ok("https://a/")),
            (&usual, &plain, "Host: a\r\n", "POST /none HTTP/1.1", "Content-Length: 1\r\n", Ok("https://a/none")),
            (&usual, &plain, "Host: a;b=&c\r\n", "GET /%0d%0a HTTP/1.1", "", Ok("https://a;b=&c/%0d%0a")),
            (&usual, &plain, "Host: a/b\r\n", "GET / HTTP/1.1", "", Err(Cause::Rule(HttpError::HostInvalid))),
            (&usual, &plain, "Host: a@b\r\n", "GET / HTTP/1.1", "", Err(Cause::Rule(HttpError::HostInvalid))),
            (&usual, &plain, "", "GET / HTTP/1.0", "", Err(Cause::Rule(HttpError::HostMissing))),
            (&usual, &plain, "", "GET http://a/x HTTP/1.0", "", Ok("https://a/x")),
            // Questions of a certificate authority, where a route is for them.
            (&usual, &plain, "Host: with.example\r\n", challenge, "", Ok("")),
            (&usual, &plain, "Host: deep.example\r\n", challenge, "", Ok("")),
            (
                &usual,
                &plain,
                "Host: short.example\r\n",
                challenge,
                "",
                Ok("https://short.example/.well-known/acme-challenge/x"),
            ),
            (&usual, &plain, "Host: a\r\n", challenge, "", Ok("https://a/.well-known/acme-challenge/x")),
            (
                &usual,
                &plain,
                "Host: with.example\r\n",
                "GET /.well-known/acme-challenge HTTP/1.1",
                "",
                Ok("https://with.example/.well-known/acme-challenge"),
            ),
            // The first of several has seen the client.
            (&usual, &front, "Host: a\r\n", "GET /a HTTP/1.1", "X-Forwarded-Proto: https, http\r\n", Ok("")),
            (&usual, &front, "Host: a\r\n", "GET / HTTP/1.1", "X-Forwarded-Proto: http, https\r\n", Ok("https://a/")),
            // Built-in resources.
            (&usual, &plain, "Host: a\r\n", "GET /health HTTP/1.1", "", Ok("")),
            // Others than plain clients.
            (
                &usual,
                &Peer { is_tls: true, listener: ListenerProtocol::Tls, ..plain },
                "Host: a\r\n",
                "GET /a HTTP/1.1",
                "",
                Ok(""),
            ),
            (&usual, &Peer { is_tls: true, ..plain }, "Host: a\r\n", "GET /a HTTP/1.1", "", Ok("")),
            (&usual, &Peer { address: None, ..plain }, "Host: a\r\n", "GET /a HTTP/1.1", "", Ok("")),
            (
                &usual,
                &Peer { listener: ListenerProtocol::Admin, ..plain },
                "Host: a\r\n",
                "GET /a HTTP/1.1",
                "",
                Err(Cause::NoRoute),
            ),
            (&usual, &front, "Host: a\r\n", "GET /a HTTP/1.1", https, Ok("")),
            (&usual, &front, "Host: a\r\n", "GET /a HTTP/1.1", "", Ok("https://a/a")),
            (&usual, &plain, "Host: a\r\n", "GET /a HTTP/1.1", https, Ok("https://a/a")),
        ] {
            let found = asked(runtime, peer, host, start, lines);
            assert_eq!(found, expected.map(str::to_owned), "{host} {start} {peer:?}");
        }
        let off = runtime(&text.replace(", redirect_http: true", ""));
        assert_eq!(asked(&off, &plain, "Host: a\r\n", "GET /a HTTP/1.1", ""), Ok(String::new()));
    }

    #[test]
    fn a_bare_prefix_is_redirected_where_that_is_on() {
        let config = "redirect_to_slash: true\n\
            forwarded: {trusted_proxies: [10.0.0.1]}\n\
            routes:\n\
            - {prefix: /, upstream: 'http://o'}\n\
            - {prefix: /a, upstream: 'http://o'}\n\
            - {prefix: /a/b/, upstream: 'http://o', strip_prefix: false}\n\
            - {prefix: /off, upstream: 'http://o', redirect_to_slash: false}\n";
        let runtime = Runtime::new(Arc::new(Config::parse(config, "test").expect("valid")), None);
        let from = |text: &str| Peer { address: text.parse().ok(), ..Peer::default() };
        let websocket = "Connection: upgrade\r\nUpgrade: websocket\r\n";
        let prefix = "X-Forwarded-Prefix: /p/\r\n";
        for (name, peer, start, lines, expected) in [
            ("bare", "192.0.2.1:1", "GET /a HTTP/1.1", "", Some("/a/")),
            ("HEAD", "192.0.2.1:1", "HEAD /a HTTP/1.0", "", Some("/a/")),
            ("a query", "192.0.2.1:1", "GET /a?x=/&y HTTP/1.1", "", Some("/a/?x=/&y")),
            ("as it was sent", "192.0.2.1:1", "GET /%61 HTTP/1.1", "", Some("/%61/")),
            ("a URL", "192.0.2.1:1", "GET http://h/a?x HTTP/1.1", "", Some("/a/?x")),
            ("a prefix with a slash", "192.0.2.1:1", "GET /a/b HTTP/1.1", "", Some("/a/b/")),
            ("there already", "192.0.2.1:1", "GET /a/ HTTP/1.1", "", None),
            ("below", "192.0.2.1:1", "GET /a/x HTTP/1.1", "", None),
            ("the root", "192.0.2.1:1", "GET / HTTP/1.1", "", None),
            ("a route that is off", "192.0.2.1:1", "GET /off HTTP/1.1", "", None),
            ("another method", "192.0.2.1:1", "POST /a HTTP/1.1", "Content-Length: 1\r\n", None),
            ("an upgrade", "192.0.2.1:1", "GET /a HTTP/1.1", websocket, None),
            ("behind a trusted proxy", "10.0.0.1:1", "GET /a?x HTTP/1.1", prefix, Some("/p/a/?x")),
            ("behind a proxy that is not", "192.0.2.1:1", "GET /a?x HTTP/1.1", prefix, Some("/a/?x")),
            ("to another host", "10.0.0.1:1", "GET /a HTTP/1.1", "X-Forwarded-Prefix: //x\r\n", Some("/a/")),
        ] {
            let (admission, target) = judge_from(&from(peer), &runtime, start, lines).expect(name);
            let found = matches!(admission, Handler::Redirect(_, 301)).then_some(target);
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn the_proxy_answers_by_itself() {
        let runtime = runtime();
        for (start, lines, by) in [
            ("GET /health HTTP/1.1", "", Handler::Health),
            ("HEAD /health?x HTTP/1.1", "", Handler::Health),
            ("GET /configz HTTP/1.1", "", Handler::Configz),
            ("GET /configz?outline HTTP/1.1", "", Handler::FullConfig),
            ("GET /configz?outlines HTTP/1.1", "", Handler::Configz),
            ("OPTIONS * HTTP/1.1", "", Handler::Options),
            ("OPTIONS /a HTTP/1.1", "Max-Forwards: 0\r\n", Handler::Options),
        ] {
            assert_eq!(judge(&runtime, start, lines).map(|(admission, _)| admission), Ok(by), "{start}");
        }
        let mut config = Config::clone(&runtime.config);
        config.admin.configz = ConfigzAccess::Off;
        let refused = judge(&Runtime::new(Arc::new(config), None), "GET /configz HTTP/1.1", "");
        assert_eq!(refused.map_err(|refusal| refusal.status()), Err(404), "/configz turned off");
        let with = |admin: &str| {
            let text = format!("routes: [{{prefix: /a, upstream: 'http://o'}}]\nadmin: {admin}\n");
            Runtime::new(Arc::new(Config::parse(&text, "test").expect("valid")), None)
        };
        let (here, there) = (
            Peer { address: "127.0.0.1:5".parse().ok(), ..Peer::default() },
            Peer { address: "192.0.2.1:5".parse().ok(), ..Peer::default() },
        );
        let admin_port = Peer { listener: ListenerProtocol::Admin, ..there };
        for (admin, peer, start, lines, by) in [
            ("{configz: local}", &here, "GET /configz HTTP/1.1", "", Some(Handler::Configz)),
            ("{configz: local}", &admin_port, "GET /configz HTTP/1.1", "", Some(Handler::Configz)),
            ("{configz: local}", &there, "GET /configz HTTP/1.1", "", None),
            ("{configz: local}", &here, "GET /configz HTTP/1.1", "Via: 1.1 other\r\n", None),
            ("{configz: true}", &there, "GET /configz HTTP/1.1", "", Some(Handler::Configz)),
            ("{health: true}", &there, "GET /health HTTP/1.1", "", Some(Handler::Health)),
            ("{health: false}", &there, "GET /health HTTP/1.1", "", None),
            ("{health: /-/up}", &there, "GET /-/up?x HTTP/1.1", "", Some(Handler::Health)),
            ("{health: /-/up}", &there, "GET /health HTTP/1.1", "", None),
        ] {
            let found = judge_from(peer, &with(admin), start, lines).map(|(by, _)| by).ok();
            assert_eq!(found, by, "{admin} {start} {lines}");
        }
    }

    #[test]
    fn g5_metrics_are_there_for_clients_of_this_host_only() {
        let routes = "routes: [{prefix: /, upstream: 'http://o'}]\n";
        let trusting = "forwarded: {trusted_proxies: [127.0.0.1, 10.0.0.1]}\n";
        let moved = "admin: {listen_addr: ':9'}\n";
        let off = "admin: {metrics: false}\n";
        let from = |text: &str| Peer { address: text.parse().ok(), ..Peer::default() };
        let admin = |text: &str| Peer { listener: ListenerProtocol::Admin, ..from(text) };
        for (name, config, peer, lines, expected) in [
            ("loopback", "", from("127.0.0.1:5000"), "", true),
            ("all of it", "", from("127.9.9.9:5000"), "", true),
            ("IPv6", "", from("[::1]:5000"), "", true),
            ("a dual-stack socket", "", from("[::ffff:127.0.0.1]:5000"), "", true),
            ("a unix socket", "", from(""), "", true),
            ("elsewhere", "", from("192.0.2.1:5000"), "", false),
            ("elsewhere, lying", "", from("192.0.2.1:5000"), "X-Forwarded-For: 127.0.0.1\r\n", false),
            ("relayed by somebody here", "", from("127.0.0.1:5000"), "X-Forwarded-For: 127.0.0.1\r\n", false),
            ("a mark is enough", "", from("127.0.0.1:5000"), "Via: 1.1 x\r\n", false),
            ("also on a unix socket", "", from(""), "X-Real-IP: 192.0.2.1\r\n", false),
            ("a trusted proxy for itself", trusting, from("127.0.0.1:5000"), "", true),
            ("for one here", trusting, from("127.0.0.1:5000"), "X-Forwarded-For: 127.0.0.1\r\n", false),
            ("for one elsewhere", trusting, from("127.0.0.1:5000"), "X-Forwarded-For: 192.0.2.1\r\n", false),
            ("told in another way", trusting, from("127.0.0.1:5000"), "X-Real-IP: 192.0.2.1\r\n", false),
            ("told to nobody", trusting, from("127.0.0.1:5000"), "Via: 1.1 x\r\n", false),
            ("told with a port", trusting, from("127.0.0.1:5000"), "X-Forwarded-For: 192.0.2.1:80\r\n", false),
            ("the loopback of another host", trusting, from("10.0.0.1:5000"), "X-Forwarded-For: 127.0.0.1\r\n", false),
            ("they have a listener of their own", moved, from("127.0.0.1:5000"), "", false),
            ("there", moved, admin("192.0.2.1:5000"), "X-Forwarded-For: 192.0.2.1\r\n", true),
            ("turned off", off, from("127.0.0.1:5000"), "", false),
            ("turned off there", off, admin("127.0.0.1:5000"), "", false),
        ] {
            let config = Config::parse(&format!("{routes}{config}"), "test").expect("valid");
            let admission = judge_from(&peer, &Runtime::new(Arc::new(config), None), "GET /metrics HTTP/1.1", lines);
            let is_there = admission.is_ok_and(|(admission, _)| admission == Handler::Metrics);
            assert_eq!(is_there, expected, "{name}");
        }
    }

    #[test]
    fn nothing_but_the_built_ins_is_served_at_the_entrance_for_the_operator() {
        let runtime = runtime();
        let peer = Peer { listener: ListenerProtocol::Admin, ..Peer::default() };
        for (start, expected) in [
            ("GET /health HTTP/1.1", Ok(Handler::Health)),
            ("GET /configz HTTP/1.1", Ok(Handler::Configz)),
            ("HEAD /metrics HTTP/1.1", Ok(Handler::Metrics)),
            ("OPTIONS * HTTP/1.1", Ok(Handler::Options)),
            ("PUT /metrics HTTP/1.1", Err(405)),
            ("GET /a/x HTTP/1.1", Err(404)),
            ("GET / HTTP/1.1", Err(404)),
        ] {
            let judged = judge_from(&peer, &runtime, start, "");
            let found = judged.map(|(admission, _)| admission).map_err(|refusal| refusal.status());
            assert_eq!(found, expected, "{start}");
        }
    }

    #[test]
    fn g10_only_a_body_can_be_waited_for() {
        let runtime = runtime();
        for (name, start, lines, expected) in [
            ("a length", "PUT /a HTTP/1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n", true),
            ("chunked", "PUT /a HTTP/1.1", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", true),
            ("no body", "PUT /a HTTP/1.1", "Expect: 100-continue\r\n", false),
            ("an empty body", "PUT /a HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
            ("HTTP/1.0", "PUT /a HTTP/1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
            ("HTTP/1.0, whatever it is", "PUT /a HTTP/1.0", "Expect: x\r\nContent-Length: 1\r\n", false),
            ("none", "PUT /a HTTP/1.1", "Content-Length: 1\r\n", false),
        ] {
            assert_eq!(plan(&runtime, start, lines).expects_continue, expected, "{name}");
        }
    }

    #[test]
    fn s15_an_expectation_is_100_continue_or_refused() {
        let runtime = runtime();
        for (value, is_met) in [
            ("100-continue", true),
            ("100-CONTINUE", true),
            ("", false),
            ("100", false),
            ("100-continue, 100-continue", false),
            ("100-continue;q=1", false),
            ("x-100-continue", false),
            ("\"100-continue\"", false),
        ] {
            let lines = format!("Expect: {value}\r\nContent-Length: 1\r\n");
            let found = judge(&runtime, "PUT /a HTTP/1.1", &lines).map(|_| ()).map_err(|refusal| refusal.status());
            assert_eq!(found, if is_met { Ok(()) } else { Err(417) }, "{value:?}");
        }
    }

    #[test]
    fn s16_nothing_becomes_a_tunnel_by_being_asked_for() {
        let runtime = runtime();
        for (start, expected) in [
            ("CONNECT h:443 HTTP/1.1", Some(405)),
            ("CONNECT h HTTP/1.1", Some(405)),
            ("CONNECT /a HTTP/1.1", Some(405)),
            ("connect /a HTTP/1.1", None),
            ("GET /a HTTP/1.1", None),
        ] {
            assert_eq!(judge(&runtime, start, "").err().map(|refusal| refusal.status()), expected, "{start}");
        }
    }

    #[test]
    fn g14_an_upgrade_takes_both_fields_and_a_route_that_allows_it() {
        let runtime = runtime();
        let both = "Connection: keep-alive, Upgrade\r\nUpgrade: x, WebSocket\r\n";
        for (name, start, lines, expected) in [
            ("both", "GET /a HTTP/1.1", both, true),
            ("another token of the route", "GET /chat HTTP/1.1", "Connection: upgrade\r\nUpgrade: irc\r\n", true),
            ("no Connection", "GET /a HTTP/1.1", "Upgrade: websocket\r\n", false),
            ("no Upgrade", "GET /a HTTP/1.1", "Connection: upgrade\r\n", false),
            ("an unknown token", "GET /a HTTP/1.1", "Connection: upgrade\r\nUpgrade: irc\r\n", false),
            (
                "a version is part of the token",
                "GET /a HTTP/1.1",
                "Connection: upgrade\r\nUpgrade: websocket/1\r\n",
                false,
            ),
            ("a route without", "GET /plain HTTP/1.1", both, false),
            ("HTTP/1.0", "GET /a HTTP/1.0", both, false),
            ("a body", "GET /a HTTP/1.1", &format!("{both}Content-Length: 1\r\n"), false),
            ("a body in chunks", "GET /a HTTP/1.1", &format!("{both}Transfer-Encoding: chunked\r\n"), false),
            ("a body of no length", "POST /a HTTP/1.1", &format!("{both}Content-Length: 0\r\n"), true),
        ] {
            assert_eq!(plan(&runtime, start, lines).upgrade, expected, "{name}");
        }
    }
}
