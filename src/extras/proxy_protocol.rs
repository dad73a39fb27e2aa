//! The PROXY protocol: what a load balancer that passes bytes on says before the first of them, namely for which client.
//!
//! Both versions are read, the line of text and the binary header, as the specification has them
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>); where it leaves a choice, the strict one is taken.
//! It is read from peers that `proxy_protocol.from` lists, which must send it, and from no others. It stands before
//! everything else on the connection, TLS included: it is looked at in the kernel's buffer and taken out of it when it is
//! whole, not a byte more.
//!
//! ```text
//! PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n       at most 107 bytes; UNKNOWN: nothing is told
//!
//! \r\n\r\n\0\r\nQUIT\n | version, command | family | length | addresses | TLVs ...
//!         12 bytes              1             1        2       12, 36      the rest of the length
//! ```
//!
//! Of the TLVs one matters: what the balancer says of TLS between the client and itself. It is looked for in the first
//! [`MAX_PEEK`] bytes; what comes behind those is skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::config::Config;
use crate::net::conn::{Conn, ReadOutcome, SocketFlags};
use crate::proxy::events::PROXY_SIGNATURE;
use crate::proxy::proxy_connection::{ListenerProtocol, Peer, ProxyConnection};

/// So many bytes of a header are looked at together.
pub const MAX_PEEK: usize = 4096;

const MAX_LINE: usize = 107;
const LINE_START: &[u8; 6] = b"PROXY ";

/// The part of a binary header that is always there.
const FIXED: usize = 16;

/// The type of the TLV about TLS, the length of its fixed part, and the bit in its first byte that says that the client
/// speaks TLS with the balancer.
const TLV_SSL: u8 = 0x20;
const TLV_SSL_LEN: usize = 5;
const CLIENT_SSL: u8 = 0x01;

// What was expected instead, for the log.
const MISSING: &str = "a peer that proxy_protocol.from lists has to begin with a PROXY header; turn it on there \
                       (send-proxy), or take the peer off the list";
const LINE: &str = "a PROXY line says TCP4, TCP6 or UNKNOWN, has two addresses of its family and two ports with one space \
                    between, and ends with CRLF within 107 bytes";
const BINARY: &str = "a binary PROXY header has version 2 and the command LOCAL or PROXY, tells of a stream (TCP over IPv4 \
                      or IPv6, or a unix socket), and is as long as its addresses at least";
const INCOMPLETE: &str = "a PROXY header has to be complete within timeouts.request_head";
const SILENT: &str = "a peer that proxy_protocol.from lists has to begin with a PROXY header within \
                      timeouts.request_head, and said nothing";

/// How far the header of one connection is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// None is expected, or all of it was read.
    Done,
    /// The peer has to send one.
    Expected,
    /// So many bytes of it are still to come; they do not matter.
    Skip(u32),
}

impl ProxyHeader {
    /// What is to be expected of a peer. Connections to the operator's listener speak for themselves.
    pub fn of(peer: &Peer, config: &Config) -> ProxyHeader {
        match peer.address {
            Some(address) if peer.listener != ListenerProtocol::Admin && config.expects_proxy_header(address.ip()) => {
                ProxyHeader::Expected
            }
            _ => ProxyHeader::Done,
        }
    }

    /// Reads as far as there is something to read, and tells `client` for whom it is. Whether that was all of it; `is_late`
    /// when there is no time left for more.
    ///
    /// # Errors
    /// The connection has to be closed; the text says what was expected.
    pub fn read(
        &mut self,
        conn: &mut Conn,
        client: &mut ProxyConnection,
        buf: &mut [u8],
        is_late: bool,
    ) -> Result<bool, &'static str> {
        if *self == ProxyHeader::Expected {
            let len = match conn.socket.peek(&mut buf[..MAX_PEEK]) {
                ReadOutcome::Bytes(len) => len,
                ReadOutcome::Blocked | ReadOutcome::Overhead(_) => {
                    return if is_late { Err(SILENT) } else { Ok(false) };
                }
                ReadOutcome::Eof | ReadOutcome::Failed => {
                    // The connection will see the same, and end.
                    *self = ProxyHeader::Done;
                    return Ok(true);
                }
            };
            let Some(header) = parse_header(&buf[..len])? else {
                // The peer is gone (rule G12), or has closed its side.
                return if is_late || conn.socket.has(SocketFlags::RDHUP) { Err(INCOMPLETE) } else { Ok(false) };
            };
            client.set_client(header.client, header.is_tls);
            *self = ProxyHeader::Skip(header.len as u32);
        }
        while let ProxyHeader::Skip(left @ 1..) = *self {
            let most = buf.len().min(left as usize);
            match conn.socket.read(&mut buf[..most]) {
                ReadOutcome::Bytes(len) => *self = ProxyHeader::Skip(left - len as u32),
                ReadOutcome::Blocked | ReadOutcome::Overhead(_) if !is_late => return Ok(false),
                _ => return Err(INCOMPLETE),
            }
        }
        *self = ProxyHeader::Done;
        Ok(true)
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it takes.
    pub len: usize,
    /// For whom the peer speaks; `None`: for itself, as when it checks our health, or for a client without an address.
    pub client: Option<SocketAddr>,
    /// Whether the client speaks TLS with the balancer.
    pub is_tls: bool,
}

/// Reads a header from the first bytes of a connection, at most [`MAX_PEEK`]; `None` while they are too few.
///
/// # Errors
/// They are no header, or not a right one; the text says what was expected.
pub fn parse_header(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let may_begin_with = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if may_begin_with(PROXY_SIGNATURE) {
        parse_binary(bytes)
    } else if may_begin_with(LINE_START) {
        parse_line(bytes)
    } else {
        Err(MISSING)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let start = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = start.windows(2).position(|two| two == b"\r\n") else {
        return if start.len() < MAX_LINE { Ok(None) } else { Err(LINE) };
    };
    let line = String::from_utf8_lossy(&start[..end]);
    let client = match line.split(' ').collect::<Vec<_>>()[..] {
        // Whatever follows is to be ignored.
        [_, "UNKNOWN", ..] => None,
        [_, "TCP4", source, to, port, to_port] => Some(parse_source::<Ipv4Addr>([(to, to_port), (source, port)])?),
        [_, "TCP6", source, to, port, to_port] => Some(parse_source::<Ipv6Addr>([(to, to_port), (source, port)])?),
        _ => return Err(LINE),
    };
    Ok(Some(Header { len: end + 2, client, is_tls: false }))
}

/// Only the source is of interest, which is the last one, but both have to be right.
fn parse_source<A: FromStr + Into<IpAddr>>(words: [(&str, &str); 2]) -> Result<SocketAddr, &'static str> {
    let address = |(ip, port): (&str, &str)| {
        let (ip, number) = (ip.parse::<A>().ok()?, port.parse::<u16>().ok()?);
        // No sign, and no zeros in front.
        (number.to_string() == port).then(|| SocketAddr::new(ip.into(), number))
    };
    let [to, source] = words.map(address);
    to.and(source).ok_or(LINE)
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some([.., what, family, high, low]) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let addresses_len = match (what, family) {
        // LOCAL: whatever else stands there means nothing.
        (0x20, _) => length,
        (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31) => 216,
        _ => return Err(BINARY),
    };
    if length < addresses_len {
        return Err(BINARY);
    }
    let len = FIXED + length;
    let Some(rest) = bytes.get(FIXED..len.min(MAX_PEEK)) else { return Ok(None) };
    let (addresses, tlvs) = rest.split_at(addresses_len.min(rest.len()));
    // Source, destination, source port, destination port.
    let source = match (what, family) {
        (0x21, 0x11) => addresses.first_chunk::<4>().map(|ip| (IpAddr::from(*ip), &addresses[8..10])),
        (0x21, 0x21) => addresses.first_chunk::<16>().map(|ip| (IpAddr::from(*ip), &addresses[32..34])),
        _ => None,
    };
    let client = source.map(|(ip, port)| SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])));
    Ok(Some(Header { len, client, is_tls: is_client_tls(tlvs) }))
}

/// Whether the TLVs say that the client speaks TLS. One that is cut off says nothing.
fn is_client_tls(mut tlvs: &[u8]) -> bool {
    while let [kind, high, low, rest @ ..] = tlvs {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind == TLV_SSL && len >= TLV_SSL_LEN {
            return rest.first().is_some_and(|flags| flags & CLIENT_SSL != 0);
        }
        tlvs = rest.get(len..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, and byte by byte: the decision is the same, and comes with the last byte that it needs.
    fn read(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
        let whole = parse_header(bytes);
        let in_pieces = (0..=bytes.len()).map(|end| parse_header(&bytes[..end])).find(|result| *result != Ok(None));
        assert_eq!(in_pieces.unwrap_or(Ok(None)), whole, "{}", bytes.escape_ascii());
        whole
    }

    #[test]
    fn lines_of_version_1() {
        let v6 = "2001:db8::1";
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Ok(Some("192.0.2.1:56324"))),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Ok(Some("0.0.0.0:0"))),
            (&format!("PROXY TCP6 {v6} ::1 1 2\r\n"), Ok(Some("[2001:db8::1]:1"))),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Ok(Some("[::ffff:192.0.2.1]:1"))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ffff:f...f:ffff what ever 1\r\n", Ok(None)),
            ("PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY \r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1\t198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 ::1 1 2\r\n", Err(LINE)),
            ("PROXY TCP6 192.0.2.1 ::1 1 2\r\n", Err(LINE)),
            ("PROXY TCP6 [::1] ::1 1 2\r\n", Err(LINE)),
            ("PROXY TCP6 ::1%1 ::1 1 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 \n2\r\n", Err(LINE)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r \r\n", Err(LINE)),
            ("PROXX TCP4", Err(MISSING)),
            ("proxy TCP4", Err(MISSING)),
            ("GET / HTTP/1.1\r\n", Err(MISSING)),
            ("\r\nGET / HTTP/1.1\r\n", Err(MISSING)),
        ] {
            let found = read(line.as_bytes()).map(|header| header.expect("a whole line"));
            let expected = expected.map(|client| client.map(|text| text.parse().expect("an address")));
            assert_eq!(found.map(|header| header.client), expected, "{line:?}");
            if let Ok(header) = found {
                assert_eq!(header.len, line.len(), "{line:?}");
                let more = format!("{line}GET / HTTP/1.1\r\n");
                assert_eq!(parse_header(more.as_bytes()), Ok(Some(header)), "what follows does not matter");
            }
        }
    }

    #[test]
    fn a_line_has_at_most_107_bytes() {
        let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
        assert_eq!(read(line(107).as_bytes()), Ok(Some(Header { len: 107, client: None, is_tls: false })));
        assert_eq!(read(line(108).as_bytes()), Err(LINE));
        assert_eq!(read(&line(107).as_bytes()[..106]), Ok(None));
        for len in 0..6 {
            assert_eq!(read(&b"PROXY "[..len]), Ok(None), "both may still come: {len}");
            assert_eq!(read(&PROXY_SIGNATURE[..len]), Ok(None), "{len}");
        }
    }

    fn header(what: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [&PROXY_SIGNATURE[..], &[what, family], &length.to_be_bytes(), rest].concat()
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 187];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[32..].copy_from_slice(&[0, 1, 0, 2]);
        let told = |len, client: &str| Ok((len, client.parse().ok()));
        let more = |addresses: &[u8], len: usize| [addresses, &vec![0; len]].concat();
        for (name, bytes, expected) in [
            ("TCP over IPv4", header(0x21, 0x11, 12, &v4), told(28, "192.0.2.1:56324")),
            ("with TLVs", header(0x21, 0x11, 12 + 7, &more(&v4, 7)), told(35, "192.0.2.1:56324")),
            ("as long as can be", header(0x21, 0x11, 0xffff, &more(&v4, 4068)), told(0x1000f, "192.0.2.1:56324")),
            ("TCP over IPv6", header(0x21, 0x21, 36, &v6), told(52, "[2001:db8::1]:1")),
            ("with TLVs, over IPv6", header(0x21, 0x21, 40, &more(&v6, 4)), told(56, "[2001:db8::1]:1")),
            ("a unix socket", header(0x21, 0x31, 216, &[b'/'; 216]), told(232, "")),
            ("unspecified", header(0x21, 0x00, 5, &[0; 5]), told(21, "")),
            ("local", header(0x20, 0x00, 0, &[]), told(16, "")),
            ("local, with addresses", header(0x20, 0x11, 12, &v4), told(28, "")),
            ("local, with rubbish", header(0x20, 0xff, 3, &[7; 3]), told(19, "")),
            ("version 1", header(0x11, 0x11, 12, &v4), Err(BINARY)),
            ("version 3", header(0x31, 0x11, 12, &v4), Err(BINARY)),
            ("another command", header(0x22, 0x11, 12, &v4), Err(BINARY)),
            ("UDP", header(0x21, 0x12, 12, &v4), Err(BINARY)),
            ("UDP over IPv6", header(0x21, 0x22, 36, &v6), Err(BINARY)),
            ("unix datagrams", header(0x21, 0x32, 216, &[]), Err(BINARY)),
            ("no transport", header(0x21, 0x10, 12, &v4), Err(BINARY)),
            ("another family", header(0x21, 0x41, 12, &v4), Err(BINARY)),
            ("too short", header(0x21, 0x11, 11, &v4), Err(BINARY)),
            ("too short for IPv6", header(0x21, 0x21, 35, &v6), Err(BINARY)),
            ("too short for a path", header(0x21, 0x31, 215, &[]), Err(BINARY)),
        ] {
            let found = read(&bytes).map(|header| header.expect("whole"));
            assert_eq!(found.map(|found| (found.len, found.client)), expected, "{name}");
            assert!(bytes.len() <= MAX_PEEK, "{name}: it is decided by then");
        }
        assert_eq!(read(&header(0x21, 0x11, 12, &v4[..11])), Ok(None));
        assert_eq!(read(&PROXY_SIGNATURE[..]), Ok(None));
        let mut other = header(0x21, 0x11, 12, &v4);
        other[11] = b'X';
        assert_eq!(read(&other), Err(MISSING));
    }

    #[test]
    fn tls_between_client_and_balancer_is_found_among_the_tlvs() {
        let ssl = |flags: u8| [&[0x20, 0, 8, flags, 0, 0, 0, 0, 0x21, 0, 0][..]].concat();
        let (v4, path) = ([0; 12], [b'/'; 216]);
        let other = b"\x01\0\x08http/1.1\x04\0\0";
        for (name, what, family, rest, expected) in [
            ("alone", 0x21, 0x11, [&v4[..], &ssl(1)].concat(), true),
            ("behind others", 0x21, 0x11, [&v4[..], other, &ssl(7)].concat(), true),
            ("before others", 0x21, 0x11, [&v4[..], &ssl(1), other].concat(), true),
            ("over a unix socket", 0x21, 0x31, [&path[..], other, &ssl(1)].concat(), true),
            ("without an address", 0x21, 0x00, ssl(1), true),
            ("a client without TLS", 0x21, 0x11, [&v4[..], &ssl(0)].concat(), false),
            ("with a certificate only", 0x21, 0x11, [&v4[..], &ssl(2)].concat(), false),
            ("too short", 0x21, 0x11, [&v4[..], b"\x20\0\x04\x01\0\0\0"].concat(), false),
            ("within another value", 0x21, 0x11, [&v4[..], b"\x05\0\x0b", &ssl(1)].concat(), false),
            ("local", 0x20, 0x11, [&v4[..], &ssl(1)].concat(), false),
            ("cut", 0x21, 0x11, [&v4[..], &ssl(1)[..3]].concat(), false),
            ("longer than the header", 0x21, 0x11, [&v4[..], b"\x05\xff\xff", &ssl(1)].concat(), false),
            ("none", 0x21, 0x11, v4.to_vec(), false),
        ] {
            let bytes = header(what, family, rest.len() as u16, &rest);
            let header = read(&bytes).expect("valid").expect("whole");
            assert_eq!((header.is_tls, header.len), (expected, bytes.len()), "{name}");
        }
    }
}
