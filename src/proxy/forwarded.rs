//! X-Forwarded-For, -Host, -Proto, -Prefix, Forwarded and X-Real-IP: whose word is taken, and what is said anew.
//!
//! A peer outside `forwarded.trusted_proxies` can write anything into these fields, so its lines are dropped and made
//! anew; a trusted peer's are kept, and its X-Forwarded-For is appended to (rule G4).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::events::Peer;
use crate::config::ForwardedPolicy;
use crate::http::chars::write_decimal;
use crate::http::fields::{FORWARDED, Fields, HeaderId, HeaderSet};
use crate::http::target::has_dot_segment;

/// Whether `address` is one of the proxies whose word is taken.
pub fn is_trusted(address: IpAddr, policy: &ForwardedPolicy) -> bool {
    // An IPv4 client of a dual-stack socket appears as ::ffff:a.b.c.d.
    let address = address.to_canonical();
    policy.trusted_proxies.iter().any(|range| range.contains(&address))
}

/// Whether what the peer says about the client is taken for true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTrust {
    /// The peer is one of `forwarded.trusted_proxies`: its lines are kept.
    Trusted,
    /// It is not.
    Untrusted,
    /// `forwarded.enabled` is false: nothing is said about clients.
    Disabled,
}

impl PeerTrust {
    /// How it is with this peer.
    pub fn of(peer: &Peer, policy: &ForwardedPolicy) -> PeerTrust {
        match peer.address {
            _ if !policy.enabled => PeerTrust::Disabled,
            Some(address) if is_trusted(address.ip(), policy) => PeerTrust::Trusted,
            Some(_) | None => PeerTrust::Untrusted,
        }
    }
}

/// The client's address: the peer's, or behind trusted proxies the last address in X-Forwarded-For that is not a trusted
/// proxy's, read from the right (rule G5). An entry that is no address ends the search. Where no port is reported it is 0.
pub fn client_address(peer: &Peer, fields: &Fields, policy: &ForwardedPolicy) -> Option<SocketAddr> {
    let address = match peer.address {
        Some(address) if is_trusted(address.ip(), policy) => address,
        untrusted => return untrusted,
    };
    let mut client = address;
    let values = fields.values(HeaderId::XForwardedFor).rev();
    for entry in values.flat_map(|value| value.rsplit(|&byte| byte == b',')) {
        let Some(reported) = parse_node(entry) else { break };
        client = reported;
        if !is_trusted(client.ip(), policy) {
            break;
        }
    }
    Some(client)
}

/// An address as proxies report it, with port 0 where they do not say one: `ip`, `ip:port`, `[v6]` or `[v6]:port`, in
/// quotes or without (RFC 7239 section 6).
fn parse_node(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip = if let Some(v6) = bare { v6.parse().ok().map(IpAddr::V6) } else { text.parse().ok() };
    ip.map(|ip| SocketAddr::new(ip, 0)).or_else(|| text.parse().ok())
}

/// Whether the client is on this host, as far as can be seen: the connection comes from a loopback address or by a unix
/// socket, and nothing in the request says that a proxy asks for somebody else.
pub fn is_local(peer: &Peer, fields: &Fields) -> bool {
    const MARKS: HeaderSet = FORWARDED.with(HeaderId::Via).with(HeaderId::LookAlike);
    let is_loopback = peer.address.is_none_or(|address| address.ip().to_canonical().is_loopback());
    is_loopback && fields.lines(MARKS).next().is_none()
}

/// The prefix that a trusted proxy before this one has stripped, without a slash at its end, as it says in
/// X-Forwarded-Prefix: one line, and a plain path. Empty where it says none; `None` where it says something else, which
/// nothing can be put behind.
pub fn reported_prefix(fields: &Fields) -> Option<&[u8]> {
    let mut values = fields.values(HeaderId::XForwardedPrefix);
    let value = match (values.next(), values.next()) {
        (None, _) => return Some(b""),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return None,
    };
    let prefix = value.strip_suffix(b"/").unwrap_or(value);
    let is_plain = prefix.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+=:@".contains(byte));
    let has_empty_segment = value.windows(2).any(|pair| pair == b"//");
    let is_path = prefix.starts_with(b"/") && is_plain && !has_empty_segment && !has_dot_segment(prefix);
    (prefix.is_empty() || is_path).then_some(prefix)
}

/// The same, where the peer is believed; else empty.
pub fn believed_prefix(trust: PeerTrust, fields: &Fields) -> &[u8] {
    if trust == PeerTrust::Trusted { reported_prefix(fields).unwrap_or_default() } else { b"" }
}

/// Adds what we say about the client to a head from which the lines of an untrusted peer are gone. `host` is the Host that
/// the client asked for, `prefix` is where clients find the application: what we stripped from the path, behind what a
/// trusted proxy stripped before. Both may be empty.
pub fn add_forwarded(fields: &mut Fields, peer: &Peer, host: &[u8], prefix: &[u8], buf: &mut Vec<u8>) {
    if let Some(address) = peer.address {
        buf.clear();
        if let Some(before) = fields.values(HeaderId::XForwardedFor).next_back().filter(|before| !before.is_empty()) {
            buf.extend_from_slice(before);
            buf.extend_from_slice(b", ");
        }
        write_ip(address.ip(), buf);
        set_last(fields, HeaderId::XForwardedFor, b"X-Forwarded-For", buf);
    }
    if !host.is_empty() && fields.get(HeaderId::XForwardedHost).is_none() {
        fields.add_known(HeaderId::XForwardedHost, b"X-Forwarded-Host", |out| out.extend_from_slice(host));
    }
    if fields.get(HeaderId::XForwardedProto).is_none() {
        let proto: &[u8] = if peer.is_tls { b"https" } else { b"http" };
        fields.add_known(HeaderId::XForwardedProto, b"X-Forwarded-Proto", |out| out.extend_from_slice(proto));
    }
    // Where it is not one path, only its writer knows what it means.
    if !prefix.is_empty() && reported_prefix(fields).is_some() {
        set_last(fields, HeaderId::XForwardedPrefix, b"X-Forwarded-Prefix", prefix);
    }
}

/// Gives the last line of that name the value, or adds one.
#[inline(always)]
fn set_last(fields: &mut Fields, id: HeaderId, name: &[u8], value: &[u8]) {
    let last = fields.indices(HeaderSet::of(&[id])).next_back();
    match last {
        Some(index) => fields.set_value(index, value),
        None => fields.add_known(id, name, |out| out.extend_from_slice(value)),
    }
}

fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip.to_canonical() {
        // By hand: this runs for every request.
        IpAddr::V4(v4) => {
            for octet in v4.octets() {
                write_decimal(octet.into(), out);
                out.push(b'.');
            }
            out.pop();
        }
        IpAddr::V6(v6) => write!(out, "{v6}").expect("a vector takes all bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer {
            address: Some(SocketAddr::new(address.parse().expect("an address"), 5000)),
            is_tls: false,
            ..Peer::default()
        }
    }

    fn policy() -> ForwardedPolicy {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|range| range.parse().expect("a range"));
        ForwardedPolicy { trusted_proxies: trusted.to_vec(), enabled: true }
    }

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
        fields
    }

    #[test]
    fn g5_the_client_is_read_from_the_right() {
        const XFF: &str = "X-Forwarded-For";
        for (name, from, lines, expected) in [
            ("an untrusted peer", "192.0.2.1", &[(XFF, "1.1.1.1")][..], "192.0.2.1:5000"),
            ("a trusted peer that says nothing", "10.0.0.1", &[], "10.0.0.1:5000"),
            ("the last one", "10.0.0.1", &[(XFF, "1.1.1.1, 2.2.2.2")], "2.2.2.2:0"),
            ("behind trusted ones", "10.0.0.1", &[(XFF, "1.1.1.1,2.2.2.2 , 10.0.0.3")], "2.2.2.2:0"),
            ("over several lines", "10.0.0.1", &[(XFF, "1.1.1.1"), ("x-forwarded-for", "10.0.0.3")], "1.1.1.1:0"),
            ("all are trusted", "10.0.0.1", &[(XFF, "10.0.0.4, 10.0.0.3")], "10.0.0.4:0"),
            ("no address", "10.0.0.1", &[(XFF, "1.1.1.1, unknown, 10.0.0.3")], "10.0.0.3:0"),
            ("an address with a port", "10.0.0.1", &[(XFF, "1.1.1.1:80")], "1.1.1.1:80"),
            ("a port among others", "10.0.0.1", &[(XFF, "1.1.1.1:80, 10.0.0.3:99")], "1.1.1.1:80"),
            ("brackets", "10.0.0.1", &[(XFF, "[2001:470::1]")], "[2001:470::1]:0"),
            ("brackets and a port", "10.0.0.1", &[(XFF, "[2001:470::1]:80")], "[2001:470::1]:80"),
            ("a bracket too few", "10.0.0.1", &[(XFF, "[2001:470::1")], "10.0.0.1:5000"),
            ("IPv4 in brackets", "10.0.0.1", &[(XFF, "[1.1.1.1]")], "10.0.0.1:5000"),
            ("a comma at the end", "10.0.0.1", &[(XFF, "1.1.1.1,")], "10.0.0.1:5000"),
            ("a look-alike", "10.0.0.1", &[("X_Forwarded_For", "1.1.1.1")], "10.0.0.1:5000"),
            ("an empty line", "10.0.0.1", &[(XFF, "")], "10.0.0.1:5000"),
            ("IPv6", "2001:db8::1", &[(XFF, "2001:470::1")], "[2001:470::1]:0"),
            ("mapped", "::ffff:10.0.0.1", &[(XFF, "1.1.1.1")], "1.1.1.1:0"),
        ] {
            let found = client_address(&peer(from), &fields(lines), &policy());
            assert_eq!(found.map(|address| address.to_string()).as_deref(), Some(expected), "{name}");
        }
        let unix = Peer { address: None, is_tls: false, ..Peer::default() };
        assert_eq!(client_address(&unix, &fields(&[(XFF, "1.1.1.1")]), &policy()), None);
    }

    #[test]
    fn addresses_are_written_as_the_standard_library_writes_them() {
        for text in ["0.0.0.0", "127.0.0.1", "9.10.99.100", "192.0.2.255", "255.255.255.255", "::1", "2001:db8::7"] {
            let ip: IpAddr = text.parse().expect("an address");
            let mut out = b"before ".to_vec();
            write_ip(ip, &mut out);
            assert_eq!(out, format!("before {ip}").into_bytes());
        }
    }

    #[test]
    fn g4_what_was_not_claimed_is_claimed_once() {
        type Lines = &'static [(&'static str, &'static str)];
        let rows: [(&str, &str, Lines, &str); 5] = [
            ("anew", "192.0.2.1", &[], "for=192.0.2.1 host=h proto=http prefix=/a"),
            (
                "appended",
                "10.0.0.1",
                &[("x-forwarded-for", "1.1.1.1")],
                "for=1.1.1.1, 10.0.0.1 host=h proto=http prefix=/a",
            ),
            ("an empty list", "10.0.0.1", &[("x-forwarded-for", "")], "for=10.0.0.1 host=h proto=http prefix=/a"),
            (
                "kept",
                "10.0.0.1",
                &[("X-Forwarded-Host", "o"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/p")],
                "for=10.0.0.1 host=o proto=https prefix=/a",
            ),
            ("IPv6", "2001:db8::1", &[], "for=2001:db8::1 host=h proto=http prefix=/a"),
        ];
        for (name, from, lines, expected) in rows {
            let mut fields = fields(lines);
            let mut scratch = b"left over".to_vec();
            add_forwarded(&mut fields, &peer(from), b"h", b"/a", &mut scratch);
            let value = |known| fields.get(known).unwrap_or(b"-").escape_ascii();
            let found = format!(
                "for={} host={} proto={} prefix={}",
                value(HeaderId::XForwardedFor),
                value(HeaderId::XForwardedHost),
                value(HeaderId::XForwardedProto),
                value(HeaderId::XForwardedPrefix),
            );
            assert_eq!(found, expected, "{name}");
            assert_eq!(fields.len(), 4, "{name}: one line each");
        }
        let mut fields = Fields::new();
        let peer = Peer { address: None, is_tls: true, ..Peer::default() };
        add_forwarded(&mut fields, &peer, b"", b"", &mut Vec::new());
        assert_eq!(fields.iter().count(), 1);
        assert_eq!(fields.get(HeaderId::XForwardedProto), Some(&b"https"[..]));
    }

    #[test]
    fn g4_a_reported_prefix_is_one_plain_path() {
        const PREFIX: &str = "X-Forwarded-Prefix";
        for (lines, expected) in [
            (&[][..], Some("")),
            (&[(PREFIX, "")], Some("")),
            (&[(PREFIX, "/")], Some("")),
            (&[(PREFIX, "/a")], Some("/a")),
            (&[(PREFIX, "/a/b%20c/")], Some("/a/b%20c")),
            (&[(PREFIX, "a")], None),
            (&[(PREFIX, "//other.example")], None),
            (&[(PREFIX, "/a//")], None),
            (&[(PREFIX, "/a/../b")], None),
            (&[(PREFIX, "/a, /b")], None),
            (&[(PREFIX, "/a?b")], None),
            (&[(PREFIX, "/a\\b")], None),
            (&[(PREFIX, "/a"), ("x-forwarded-prefix", "/b")], None),
        ] {
            let fields = fields(lines);
            let found = reported_prefix(&fields).map(|prefix| String::from_utf8_lossy(prefix).into_owned());
            assert_eq!(found.as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn who_may_hear_of_the_configuration_is_on_this_host_and_asks_for_itself() {
        for (name, from, lines, expected) in [
            ("loopback", "127.0.0.1", &[][..], true),
            ("the other family", "::1", &[], true),
            ("mapped", "::ffff:127.0.0.1", &[], true),
            ("elsewhere", "192.0.2.1", &[], false),
            ("for somebody else", "127.0.0.1", &[("X-Forwarded-For", "192.0.2.1")], false),
            ("for whom it claims", "127.0.0.1", &[("X-Forwarded-For", "127.0.0.1")], false),
            ("by way of a proxy", "127.0.0.1", &[("via", "1.1 x")], false),
            ("a host alone", "127.0.0.1", &[("X-Forwarded-Host", "h")], false),
            ("X-Real-IP alone", "127.0.0.1", &[("X-Real-IP", "192.0.2.1")], false),
            ("Forwarded alone", "127.0.0.1", &[("Forwarded", "for=192.0.2.1;proto=http")], false),
            ("a look-alike", "127.0.0.1", &[("X_Real_IP", "127.0.0.1")], false),
        ] {
            assert_eq!(is_local(&peer(from), &fields(lines)), expected, "{name}");
        }
        assert!(is_local(&Peer::default(), &fields(&[])));
    }
}
