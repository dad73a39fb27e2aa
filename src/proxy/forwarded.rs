//! X-Forwarded-For, -Host, -Proto, -Prefix, Forwarded and X-Real-IP: whose word is taken, and what is said anew.
//!
//! A peer outside `forwarded.trusted_proxies` can write anything into these fields, so its lines are dropped and made
//! anew; a trusted peer's are kept, and its X-Forwarded-For is appended to (rule G4).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::events::Peer;
use crate::config::ForwardedPolicy;
use crate::http::chars::{list_members, split, trim_ows, write_decimal};
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
    let ip = match bare {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    ip.map(|ip| SocketAddr::new(ip, 0)).or_else(|| text.parse().ok())
}

/// Whether the client is on this host, as far as can be seen: the connection comes from a loopback address or by a unix
/// socket, and no proxy before us says that it asks for somebody else. The loopback address of another host says nothing.
///
/// A peer that is believed and bears marks of a proxy has to tell for whom it asks: it is local if there is an address,
/// and each one that it tells is understood and a loopback address. Whoever tells none (Via alone) asks for anybody.
pub fn is_local(peer: &Peer, fields: &Fields, policy: &ForwardedPolicy) -> bool {
    const MARKS: HeaderSet = FORWARDED.with(HeaderId::Via).with(HeaderId::LookAlike);
    let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    if !peer.address.is_none_or(is_loopback) {
        return false;
    }
    if !fields.may_contain_any(MARKS) {
        return true;
    }
    let is_believed = peer.address.is_some_and(|address| is_trusted(address.ip(), policy));
    let mut addresses = fields.iter().flat_map(|line| reported_addresses(line.id, line.value)).peekable();
    is_believed && addresses.peek().is_some() && addresses.all(|address| address.is_some_and(is_loopback))
}

/// All addresses of clients that a line reports; `None` for what is not understood.
fn reported_addresses(known: HeaderId, value: &[u8]) -> impl Iterator<Item = Option<SocketAddr>> {
    let is_list = matches!(known, HeaderId::XForwardedFor | HeaderId::XRealIp);
    let is_look_alike = known == HeaderId::LookAlike;
    let pairs = list_members(value).flat_map(|element| split(element, b';').map(trim_ows));
    let reported = pairs.filter_map(move |pair| match known {
        _ if is_list => Some(parse_node(pair)),
        HeaderId::Forwarded => strip_word(pair, b"for=").map(parse_node),
        _ => None,
    });
    // Nobody knows what its reader would take for an address.
    reported.chain(is_look_alike.then_some(None))
}

/// What follows `word` at the start of `bytes`, whatever its case.
fn strip_word<'a>(bytes: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = bytes.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then_some(rest)
}

/// The prefix that a trusted proxy before this one has stripped, without a slash at its end, as it says in
/// X-Forwarded-Prefix: one line, and a plain path. Empty where it says none.
///
/// # Errors
/// It says something else, which nothing can be put behind.
pub fn reported_prefix(fields: &Fields) -> Result<&[u8], NotOnePath> {
    let mut values = fields.values(HeaderId::XForwardedPrefix);
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(b""),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(NotOnePath),
    };
    let prefix = value.strip_suffix(b"/").unwrap_or(value);
    let is_plain = prefix.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+=:@".contains(byte));
    let has_empty_segment = value.windows(2).any(|pair| pair == b"//");
    match prefix {
        [] => Ok(b""),
        [b'/', _, ..] if is_plain && !has_empty_segment && !has_dot_segment(prefix) => Ok(prefix),
        _ => Err(NotOnePath),
    }
}

/// The same, where the peer is believed; else empty.
pub fn believed_prefix(trust: PeerTrust, fields: &Fields) -> &[u8] {
    if trust == PeerTrust::Trusted { reported_prefix(fields).unwrap_or_default() } else { b"" }
}

/// An X-Forwarded-Prefix that is not one plain path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOnePath;

/// Adds what we say about the client to a head from which the lines of an untrusted peer are gone. `host` is the Host that
/// the client asked for, `prefix` is where clients find the application: what we stripped from the path, behind what a
/// trusted proxy stripped before. Both may be empty.
pub fn add_forwarded(fields: &mut Fields, peer: &Peer, host: &[u8], prefix: &[u8], buf: &mut Vec<u8>) {
    if let Some(address) = peer.address {
        let ip = address.ip();
        if let Some(index) = last_line(fields, HeaderId::XForwardedFor) {
            buf.clear();
            if let Some(line) = fields.nth(index).filter(|line| !line.value.is_empty()) {
                buf.extend_from_slice(line.value);
                buf.extend_from_slice(b", ");
            }
            write_ip(ip, buf);
            fields.set_value(index, buf);
        } else {
            fields.add_known(HeaderId::XForwardedFor, b"X-Forwarded-For", |out| write_ip(ip, out));
        }
    }
    if !host.is_empty() && fields.get(HeaderId::XForwardedHost).is_none() {
        fields.add_known(HeaderId::XForwardedHost, b"X-Forwarded-Host", |out| out.extend_from_slice(host));
    }
    if fields.get(HeaderId::XForwardedProto).is_none() {
        let proto: &[u8] = if peer.is_tls { b"https" } else { b"http" };
        fields.add_known(HeaderId::XForwardedProto, b"X-Forwarded-Proto", |out| out.extend_from_slice(proto));
    }
    if !prefix.is_empty() {
        match last_line(fields, HeaderId::XForwardedPrefix) {
            None => {
                fields
                    .add_known(HeaderId::XForwardedPrefix, b"X-Forwarded-Prefix", |out| out.extend_from_slice(prefix));
            }
            Some(index) if reported_prefix(fields).is_ok() => fields.set_value(index, prefix),
            // Only its writer knows what it means.
            Some(_) => {}
        }
    }
}

fn last_line(fields: &Fields, id: HeaderId) -> Option<usize> {
    fields.indices(HeaderSet::of(&[id])).next_back()
}

fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip.to_canonical() {
        // By hand: this runs for every request.
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                write_decimal(octet.into(), out);
            }
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
            (&[][..], Ok("")),
            (&[(PREFIX, "")], Ok("")),
            (&[(PREFIX, "/")], Ok("")),
            (&[(PREFIX, "/a")], Ok("/a")),
            (&[(PREFIX, "/a/b%20c/")], Ok("/a/b%20c")),
            (&[(PREFIX, "a")], Err(NotOnePath)),
            (&[(PREFIX, "//other.example")], Err(NotOnePath)),
            (&[(PREFIX, "/a//")], Err(NotOnePath)),
            (&[(PREFIX, "/a/../b")], Err(NotOnePath)),
            (&[(PREFIX, "/a, /b")], Err(NotOnePath)),
            (&[(PREFIX, "/a?b")], Err(NotOnePath)),
            (&[(PREFIX, "/a\\b")], Err(NotOnePath)),
            (&[(PREFIX, "/a"), ("x-forwarded-prefix", "/b")], Err(NotOnePath)),
        ] {
            let fields = fields(lines);
            let found = reported_prefix(&fields).map(|prefix| String::from_utf8_lossy(prefix).into_owned());
            assert_eq!(found, expected.map(str::to_owned), "{lines:?}");
        }
    }

    #[test]
    fn who_may_hear_of_the_configuration_is_on_this_host_and_asks_for_itself() {
        let trusting =
            ForwardedPolicy { trusted_proxies: vec!["127.0.0.0/8".parse().expect("a range")], enabled: true };
        const XFF: &str = "X-Forwarded-For";
        let nobody = ForwardedPolicy::default();
        for (name, from, lines, policy, expected) in [
            ("loopback", "127.0.0.1", &[][..], &nobody, true),
            ("the other family", "::1", &[], &nobody, true),
            ("mapped", "::ffff:127.0.0.1", &[], &nobody, true),
            ("elsewhere", "192.0.2.1", &[], &nobody, false),
            ("for somebody else", "127.0.0.1", &[("X-Forwarded-For", "192.0.2.1")], &nobody, false),
            ("for whom it claims", "127.0.0.1", &[("X-Forwarded-For", "127.0.0.1")], &nobody, false),
            ("by way of a proxy", "127.0.0.1", &[("via", "1.1 x")], &nobody, false),
            ("a trusted proxy here, for itself", "127.0.0.1", &[], &trusting, true),
            ("a trusted proxy here, for here", "127.0.0.1", &[("X-Forwarded-For", "127.0.0.2")], &trusting, true),
            ("a trusted proxy here, for others", "127.0.0.1", &[("X-Forwarded-For", "192.0.2.1")], &trusting, false),
            ("behind one of its own", "127.0.0.1", &[(XFF, "192.0.2.1, 127.0.0.1")], &trusting, false),
            ("with a port", "127.0.0.1", &[(XFF, "192.0.2.1:80")], &trusting, false),
            ("here, with a port", "127.0.0.1", &[(XFF, "127.0.0.1:80")], &trusting, true),
            ("here, in brackets", "127.0.0.1", &[(XFF, "[::1]")], &trusting, true),
            ("in brackets", "127.0.0.1", &[(XFF, "[2001:db8::1]:80")], &trusting, false),
            ("unknown", "127.0.0.1", &[(XFF, "unknown")], &trusting, false),
            ("a comma at the end", "127.0.0.1", &[(XFF, "192.0.2.1,")], &trusting, false),
            ("nothing but a comma", "127.0.0.1", &[(XFF, ",")], &trusting, false),
            ("an empty list", "127.0.0.1", &[(XFF, "")], &trusting, false),
            ("Via alone", "127.0.0.1", &[("Via", "1.1 x")], &trusting, false),
            ("a host alone", "127.0.0.1", &[("X-Forwarded-Host", "h")], &trusting, false),
            ("X-Real-IP alone", "127.0.0.1", &[("X-Real-IP", "192.0.2.1")], &trusting, false),
            ("X-Real-IP of one here", "127.0.0.1", &[("X-Real-IP", "127.0.0.1"), ("Via", "1.1 x")], &trusting, true),
            ("they differ", "127.0.0.1", &[(XFF, "127.0.0.1"), ("X-Real-IP", "192.0.2.1")], &trusting, false),
            ("Forwarded alone", "127.0.0.1", &[("Forwarded", "for=192.0.2.1;proto=http")], &trusting, false),
            ("Forwarded for none", "127.0.0.1", &[("Forwarded", "proto=http")], &trusting, false),
            ("Forwarded, hidden", "127.0.0.1", &[("Forwarded", "for=_hidden, for=127.0.0.1")], &trusting, false),
            (
                "Forwarded for one here",
                "127.0.0.1",
                &[("Forwarded", "By=203.0.113.4; FOR=\"[::1]:4711\" , for=127.0.0.1")],
                &trusting,
                true,
            ),
            ("a look-alike", "127.0.0.1", &[(XFF, "127.0.0.1"), ("X_Real_IP", "127.0.0.1")], &trusting, false),
            ("a look-alike, not believed", "127.0.0.1", &[("X_Real_IP", "127.0.0.1")], &nobody, false),
            ("not believed, with a port", "127.0.0.1", &[(XFF, "127.0.0.1:80")], &nobody, false),
        ] {
            let peer = Peer {
                address: from.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip.to_canonical(), 9)),
                ..Peer::default()
            };
            assert_eq!(is_local(&peer, &fields(lines), policy), expected, "{name}");
        }
        assert!(is_local(&Peer::default(), &fields(&[]), &nobody));
    }
}
