//! From the received head to the forwarded head, in both directions.
//!
//! What the peer said about its own connection goes first; what we say is added afterwards and so cannot be nominated
//! away (rule G2). Whatever stands in a head, no line that speaks for one connection is ever written (rule G1), framing
//! fields included: `write_framing` writes those of the message that leaves.

use std::sync::Arc;

use super::admit::{ForwardPlan, max_forwards};
use super::connection::{allowed_protocols, remove_connection_named};
use super::events::Peer;
use super::forwarded::{PeerTrust, add_forwarded, believed_prefix};
use super::runtime::Runtime;
use super::strip::removed;
use crate::config::{HeaderEdits, HostPolicy, UpstreamUrl};
use crate::extras::response_rewrite::{PrefixMap, REQUEST_FIELDS, RESPONSE_FIELDS, rewrite_request, rewrite_response};
use crate::http::chars::{add_to_list, is_token, list_members, split, write_decimal};
use crate::http::fields::{FORWARDED, Fields, HOP_BY_HOP, HeaderId, HeaderSet, is_look_alike};
use crate::http::framing::Framing;
use crate::http::head::{Method, RequestHead, ResponseHead, Version, write_request, write_response};

/// Byte strings that are needed for the length of a call and kept for their memory.
#[derive(Debug, Default)]
pub struct Scratch {
    /// What `connection::read_options` collected.
    pub connection_named: Vec<u8>,
    /// The client's own Host; where there is none, the authority of its URL. `admit` leaves it here.
    pub host: Vec<u8>,
    /// Where clients find the application: what was stripped from the path, here and by a trusted proxy before us.
    pub public_prefix: Vec<u8>,
    /// For one value.
    pub buf: Vec<u8>,
}

/// Turns a request head of `peer` into the one to forward to `upstream`, in place, or into the one that plugins see with a
/// redirect. The target is left alone. The protocols to offer are left in `offered`, comma-separated, where the plan has an
/// upgrade in it. Returns whether there was room to rewrite the places that it names.
pub fn forward_request(
    head: &mut RequestHead,
    plan: &ForwardPlan,
    runtime: &Runtime,
    upstream: Option<&UpstreamUrl>,
    peer: &Peer,
    offered: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> bool {
    let route = &runtime.config.routes[plan.route as usize];
    let Scratch { connection_named, host, public_prefix, buf } = scratch;
    let trust = PeerTrust::of(peer, &runtime.config.forwarded);
    // Rule G3: what the client wrote as Connection and Upgrade goes, as in any request; we offer what we allow.
    offered.clear();
    if plan.upgrade {
        allowed_protocols(&head.fields, &route.options.upgrade).for_each(|protocol| add_to_list(protocol, offered));
    }
    // Rule G8: the Host that is sent is what the route says.
    head.authority.clear();
    head.authority.extend_from_slice(match &route.options.host {
        HostPolicy::Client if !host.is_empty() => host,
        // An HTTP/1.0 client need not say which host it means; the upstream must be told one.
        HostPolicy::Client | HostPolicy::Upstream => {
            upstream.map_or(&**host, |upstream| upstream.host_value().as_bytes())
        }
        HostPolicy::Fixed(name) => name.as_bytes(),
    });
    head.fields.remove_all(removed(plan, trust));
    remove_connection_named(&mut head.fields, connection_named);
    public_prefix.clear();
    public_prefix.extend_from_slice(believed_prefix(trust, &head.fields));
    public_prefix.extend_from_slice(route.stripped_prefix().as_bytes());
    if trust != PeerTrust::Disabled {
        add_forwarded(&mut head.fields, peer, host, public_prefix, buf);
    }
    let mut has_room = true;
    if let Some(upstream) = upstream
        && head.fields.may_contain_any(REQUEST_FIELDS)
    {
        let told_host = head.fields.get(HeaderId::XForwardedHost).unwrap_or_default().to_vec();
        let map = PrefixMap {
            sent_host: &head.authority,
            told_host: &told_host,
            client_host: host,
            public_prefix,
            runtime,
            route: plan.route,
            upstream,
        };
        has_room = rewrite_request(&mut head.fields, &map, runtime.config.limits.max_head_bytes, buf);
    }
    if runtime.config.via {
        // RFC 9110 section 7.6.3: the version in which the message was received, then our name.
        let via: &[u8] = match head.version {
            Version::Http10 => b"1.0 mini-rproxy",
            Version::Http11 => b"1.1 mini-rproxy",
        };
        head.fields.add_known(HeaderId::Via, b"Via", |out| out.extend_from_slice(via));
    }
    if head.method == Method::Options
        && let Ok(Some(left @ 1..)) = max_forwards(&head.fields)
    {
        buf.clear();
        write_decimal(left - 1, buf);
        head.fields.set(b"Max-Forwards", buf);
    }
    has_room
}

/// Changes lines as the configuration says: the top level first, then the route. Plugins come before it: what the operator
/// has written holds. A client that sends `X_User` does not get past a line that sets or removes `X-User`.
#[inline]
pub fn edit_fields(fields: &mut Fields, edits: [&Option<Arc<HeaderEdits>>; 2]) {
    // Mostly so, and cheaper than an iterator that finds nothing.
    if let [None, None] = edits {
        return;
    }
    for edits in edits.into_iter().flatten() {
        for name in edits.removed() {
            fields.retain(|line| !is_look_alike(line.name, name.as_bytes()));
        }
        edits.lines().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
    }
}

/// Appends the whole forwarded request head. `authorization` is what the upstream's URL says, `offered` which protocols to
/// switch to.
pub fn write_request_head(
    head: &RequestHead,
    framing: Framing,
    authorization: Option<&str>,
    offered: &[u8],
    out: &mut Vec<u8>,
) {
    write_request(head, HOP_BY_HOP, out);
    if let Some(credentials) = authorization {
        out.extend_from_slice(b"Authorization: ");
        out.extend_from_slice(credentials.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    write_framing(framing, out);
    write_upgrade(offered, out);
    out.extend_from_slice(b"\r\n");
}

/// Turns a received response head into the one to forward, in place. Hop-by-hop fields are left out when it is written.
pub fn forward_response(head: &mut ResponseHead, connection_named: &[u8], date: &[u8; 29]) {
    remove_connection_named(&mut head.fields, connection_named);
    // RFC 9110 section 6.6.1: a recipient with a clock adds the Date that an origin left out.
    if head.status >= 200 && head.fields.get(HeaderId::Date).is_none() {
        head.fields.add_known(HeaderId::Date, b"Date", |out| out.extend_from_slice(date));
    }
}

/// Maps what a response of `upstream` says of the place of its application, in place, where there is room. `request` is
/// what it answers, as it was forwarded with the same scratch.
pub fn rewrite_response_head(
    head: &mut ResponseHead,
    request: &RequestHead,
    runtime: &Runtime,
    route: u32,
    upstream: &UpstreamUrl,
    scratch: &mut Scratch,
) -> bool {
    if !head.fields.may_contain_any(RESPONSE_FIELDS) {
        return true;
    }
    let map = PrefixMap {
        sent_host: &request.authority,
        told_host: request.fields.get(HeaderId::XForwardedHost).unwrap_or_default(),
        client_host: &scratch.host,
        public_prefix: &scratch.public_prefix,
        runtime,
        route,
        upstream,
    };
    // The status line and the lines.
    let size = head.reason.len() + 15 + head.fields.wire_len();
    let room = runtime.config.limits.max_head_bytes.saturating_sub(size);
    rewrite_response(&mut head.fields, &map, room, &mut scratch.buf)
}

/// What becomes of the client's connection after a response, as its head says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It is closed.
    Close,
    /// It lives on, which an HTTP/1.0 client has to be told.
    KeepAlive(Version),
}

/// The status that tells which protocols the client has to upgrade to.
pub const UPGRADE_REQUIRED: u16 = 426;

/// Lists the protocols of a response's Upgrade lines, comma-separated; what is no token, or two with a slash, is left out.
pub fn list_protocols(fields: &Fields, out: &mut Vec<u8>) {
    for protocol in fields.values(HeaderId::Upgrade).flat_map(list_members) {
        if split(protocol, b'/').all(is_token) && split(protocol, b'/').count() <= 2 {
            add_to_list(protocol, out);
        }
    }
}

/// Appends a whole forwarded response head. `protocols` are that of a 101, or those of a 426, which must name them
/// (RFC 9110 section 15.5.22). Interim heads have no framing, and say nothing about the connection.
pub fn write_response_head(
    head: &ResponseHead,
    framing: Framing,
    persistence: Persistence,
    protocols: &[u8],
    out: &mut Vec<u8>,
) {
    write_response(head, HOP_BY_HOP, out);
    finish_head(framing, persistence, protocols, out);
}

/// The tail of every response head, forwarded or our own: here a line is added that all of them have. For `100 Continue`
/// of our own see `request_side::forward`, for plain HTTP on a TLS port `net::tls`.
pub fn finish_head(framing: Framing, persistence: Persistence, protocols: &[u8], out: &mut Vec<u8>) {
    write_framing(framing, out);
    out.extend_from_slice(match persistence {
        Persistence::Close => b"Connection: close\r\n",
        Persistence::KeepAlive(Version::Http10) => b"Connection: keep-alive\r\n",
        Persistence::KeepAlive(Version::Http11) => b"",
    });
    write_upgrade(protocols, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the trailer section of a response and the empty line after it (rules G16 and S17): what routes, frames or
/// authenticates a message has no business behind it. What its head's Connection named ends here, too (rule G1).
pub fn write_trailers(trailers: &mut Fields, connection_named: &[u8], out: &mut Vec<u8>) {
    remove_connection_named(trailers, connection_named);
    trailers.remove_all(HOP_BY_HOP.or(FORWARDED).or(NOT_IN_TRAILERS));
    trailers.retain(|line| !line.name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-")));
    trailers.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Beside those that no peer's word is taken for, and beside all that describes the content.
const NOT_IN_TRAILERS: HeaderSet = HeaderSet::of(&[
    HeaderId::LookAlike,
    HeaderId::Authorization,
    HeaderId::Cookie,
    HeaderId::Date,
    HeaderId::Expect,
    HeaderId::Host,
    HeaderId::Location,
    HeaderId::MaxForwards,
    HeaderId::Refresh,
    HeaderId::SetCookie,
    HeaderId::WwwAuthenticate,
]);

/// Appends the field line that announces a framing. The value is ours, never the peer's (rule S13); the kind is the one
/// that was received, and a message without a body announces none (rule G19).
fn write_framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn write_upgrade(protocols: &[u8], out: &mut Vec<u8>) {
    if !protocols.is_empty() {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.extend_from_slice(protocols);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::proxy::connection::read_options;
    use std::sync::Arc;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).expect("the rows are text")
    }

    /// What is forwarded of a head with these lines: all lines but the request line.
    fn forwarded(route: &str, method: Method, upgrade: bool, lines: &[(&str, &str)]) -> String {
        let config =
            format!("routes: [{{prefix: /a, upstream: 'http://o:81', {route}}}]\nforwarded: {{enabled: false}}\n");
        let config = Config::parse(&config, "test").expect("valid");
        let runtime = Runtime::new(Arc::new(config), None);
        let plan = ForwardPlan { route: 0, upgrade, expects_continue: false };
        let mut head = RequestHead { method, target: b"/x".to_vec(), ..RequestHead::default() };
        lines.iter().for_each(|(name, value)| head.fields.add(name.as_bytes(), value.as_bytes()));
        let mut scratch = Scratch::default();
        read_options(&head.fields, &mut scratch.connection_named).expect("few options");
        scratch.host.extend_from_slice(head.fields.get(HeaderId::Host).unwrap_or_default());
        let peer = Peer { address: None, is_tls: false, ..Peer::default() };
        let upstream = runtime.config.routes[0].upstreams().first();
        let mut offered = b"left over".to_vec();
        forward_request(&mut head, &plan, &runtime, upstream, &peer, &mut offered, &mut scratch);
        let mut out = Vec::new();
        write_request_head(&head, Framing::None, None, &offered, &mut out);
        let all = text(&out);
        let (start, rest) = all.split_once("\r\n").expect("a request line");
        assert!(start.ends_with(" /x HTTP/1.1"), "{start}");
        rest.trim_end().replace("\r\n", "|")
    }

    #[test]
    fn g1_what_belongs_to_one_connection_stays_there() {
        let via = "Via: 1.1 mini-rproxy";
        for (name, lines, expected) in [
            ("nothing", &[("A", "1")][..], "A: 1|"),
            ("the fixed names", &[("TE", "x"), ("Trailer", "x"), ("Keep-Alive", "x"), ("proxy-CONNECTION", "x")], ""),
            (
                "authentication",
                &[("Proxy-Authorization", "x"), ("Proxy-Authenticate", "x"), ("Authorization", "y")],
                "Authorization: y|",
            ),
            ("nominated", &[("Connection", "a, B"), ("A", "1"), ("b", "2"), ("C", "3")], "C: 3|"),
            ("nominated in two lines", &[("Connection", ""), ("A", "1"), ("connection", "A")], ""),
            ("framing", &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")], ""),
            (
                "an upgrade that is none",
                &[("Connection", "upgrade"), ("Upgrade", "websocket"), ("HTTP2-Settings", "x")],
                "",
            ),
            ("an expectation that is none", &[("Expect", "100-continue")], ""),
        ] {
            let found = forwarded("host: upstream", Method::Get, false, lines);
            assert_eq!(found, format!("Host: o:81|{expected}{via}"), "{name}");
        }
    }

    #[test]
    fn g2_ours_come_after_theirs_went() {
        let found =
            forwarded("host: client", Method::Get, false, &[("Host", "h"), ("Connection", "host, via"), ("Via", "x")]);
        assert_eq!(found, "Host: h|Via: 1.1 mini-rproxy");
    }

    #[test]
    fn g8_each_route_says_which_host_it_is() {
        for (policy, sent, expected) in [
            ("host: upstream", Some("h:1"), "o:81"),
            ("host: client", Some("h:1"), "h:1"),
            ("host: client", None, "o:81"),
            ("host: fixed.example", Some("h:1"), "fixed.example"),
        ] {
            let lines: Vec<_> = sent.map(|host| ("Host", host)).into_iter().collect();
            let found = forwarded(policy, Method::Get, false, &lines);
            assert_eq!(found, format!("Host: {expected}|Via: 1.1 mini-rproxy"), "{policy} {sent:?}");
        }
    }

    #[test]
    fn g14_only_what_the_route_allows_is_offered() {
        for (upgrade, expected) in [
            ("websocket", "|Connection: Upgrade|Upgrade: websocket"),
            ("h2c, WebSocket, x", "|Connection: Upgrade|Upgrade: WebSocket"),
            ("h2c", ""),
        ] {
            let found = forwarded("upgrade: [websocket, h2d]", Method::Get, true, &[("Upgrade", upgrade)]);
            assert_eq!(found, format!("Host: o:81|Via: 1.1 mini-rproxy{expected}"), "{upgrade}");
        }
    }

    #[test]
    fn max_forwards_is_counted_down_for_options_only() {
        for (method, sent, expected) in [
            (Method::Options, "10", "9"),
            (Method::Options, "1", "0"),
            (Method::Get, "10", "10"),
            (Method::Options, "9223372036854775807", "9223372036854775806"),
        ] {
            let found = forwarded("host: upstream", method, false, &[("Max-Forwards", sent)]);
            assert_eq!(found, format!("Host: o:81|Max-Forwards: {expected}|Via: 1.1 mini-rproxy"), "{sent}");
        }
    }

    #[test]
    fn responses_get_a_date_where_there_is_none() {
        for (name, status, lines, expected) in [
            ("none", 200, &[("A", "1")][..], "A: 1|Date: Sun, 06 Nov 1994 08:49:37 GMT"),
            ("theirs", 200, &[("Date", "x")], "Date: x"),
            ("not in an interim response", 103, &[("A", "1")], "A: 1"),
            ("hop by hop", 200, &[("Date", "x"), ("Keep-Alive", "5"), ("Connection", "close"), ("B", "2")], "Date: x"),
            ("framing", 200, &[("Content-Length", "5"), ("Date", "x")], "Date: x"),
        ] {
            let mut head = ResponseHead { status, ..ResponseHead::default() };
            lines.iter().for_each(|(name, value)| head.fields.add(name.as_bytes(), value.as_bytes()));
            forward_response(&mut head, b"b", DATE);
            let mut out = Vec::new();
            write_response_head(&head, Framing::None, Persistence::KeepAlive(Version::Http11), b"", &mut out);
            let all = text(&out);
            let (_, lines) = all.split_once("\r\n").expect("a status line");
            assert_eq!(lines.trim_end().replace("\r\n", "|"), expected, "{name}");
        }
    }

    #[test]
    fn s17_trailers_that_would_change_the_message_are_dropped() {
        let mut trailers = Fields::new();
        for name in [
            "X-Sum",
            "X-Named",
            "WWW-Authenticate",
            "Content-Length",
            "content-type",
            "Host",
            "Cookie",
            "Set-Cookie",
            "TE",
            "Location",
            "Server-Timing",
        ] {
            trailers.add(name.as_bytes(), b"1");
        }
        let mut out = Vec::new();
        // The lists of all Connection lines, as `read_options` collects them.
        write_trailers(&mut trailers, b"x-named", &mut out);
        assert_eq!(text(&out), "X-Sum: 1\r\nServer-Timing: 1\r\n\r\n");
    }

    #[test]
    fn response_heads_say_how_they_end_and_what_follows() {
        let head = ResponseHead { status: 200, reason: b"Fine".to_vec(), ..ResponseHead::default() };
        for (framing, persistence, expected) in [
            (Framing::Length(5), Persistence::KeepAlive(Version::Http11), "Content-Length: 5\r\n"),
            (Framing::Chunked, Persistence::Close, "Transfer-Encoding: chunked\r\nConnection: close\r\n"),
            (Framing::None, Persistence::KeepAlive(Version::Http10), "Connection: keep-alive\r\n"),
            (Framing::UntilClose, Persistence::Close, "Connection: close\r\n"),
        ] {
            let mut out = Vec::new();
            write_response_head(&head, framing, persistence, b"", &mut out);
            assert_eq!(text(&out), format!("HTTP/1.1 200 Fine\r\n{expected}\r\n"));
        }
    }
}
