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
//! Of the TLVs one matters: what the balancer says of TLS between the client and itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::config::Config;
use crate::http::chars::{parse_decimal, split};
use crate::net::conn::{Conn, ReadOutcome};
use crate::proxy::proxy_connection::{ListenerKind, Peer, ProxyConnection};

/// So many bytes are always enough to come to a decision: the longest line, and more than the longest binary header
/// without its TLVs that is of interest here.
pub const MAX_HEADER: usize = 107;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE_START: &[u8; 6] = b"PROXY ";
/// The part of a binary header that is always there.
const FIXED: usize = 16;
/// The addresses of a binary header: two of them with their ports, or two paths.
const V4: u16 = 12;
const V6: u16 = 36;
const UNIX: u16 = 216;

/// The type of the TLV about TLS, the length of its fixed part, and the bit in its first byte that says that the client
/// speaks TLS with the balancer.
const TLV_SSL: u8 = 0x20;
const TLV_SSL_LEN: u16 = 5;
const CLIENT_SSL: u8 = 0x01;

/// How far the header of one connection is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// None is expected, or all of it was read.
    Done,
    /// The peer has to send one.
    Expected,
    /// Its last part is still to come.
    SkipTlvs(Tlvs),
}

impl ProxyHeader {
    /// What is to be expected of a peer. Connections to the operator's listener speak for themselves.
    pub fn of(peer: &Peer, config: &Config) -> ProxyHeader {
        match (peer.listener, peer.address) {
            (ListenerKind::Public, Some(address)) if config.expects_proxy_header(address.ip()) => ProxyHeader::Expected,
            (ListenerKind::Public | ListenerKind::Admin, _) => ProxyHeader::Done,
        }
    }

    fn after(tlvs: Tlvs) -> ProxyHeader {
        if tlvs.left() == 0 { ProxyHeader::Done } else { ProxyHeader::SkipTlvs(tlvs) }
    }

    /// Reads as far as there is something to read, and tells `client` for whom it is. Whether that was all of it; `is_late`
    /// when there is no time left for more.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn read(
        &mut self,
        conn: &mut Conn,
        client: &mut ProxyConnection,
        buf: &mut [u8],
        is_late: bool,
    ) -> Result<bool, HeaderError> {
        if *self == ProxyHeader::Expected {
            let mut start = [0; MAX_HEADER];
            let len = match conn.peek(&mut start) {
                ReadOutcome::Bytes(len) => len,
                ReadOutcome::Blocked | ReadOutcome::Overhead(_) if is_late => return Err(HeaderError::Silent),
                ReadOutcome::Blocked | ReadOutcome::Overhead(_) => return Ok(false),
                ReadOutcome::Eof | ReadOutcome::Failed => {
                    // The connection will see the same, and end.
                    *self = ProxyHeader::Done;
                    return Ok(true);
                }
            };
            let Some(header) = parse_header(&start[..len])? else {
                // The peer is gone (rule G12), or has closed its side.
                let is_over = is_late || conn.is_end_in_sight();
                return if is_over { Err(HeaderError::Incomplete) } else { Ok(false) };
            };
            // What was looked at a moment ago is there in one piece.
            if !matches!(conn.read_raw(&mut buf[..header.len]), ReadOutcome::Bytes(len) if len == header.len) {
                return Err(HeaderError::Incomplete);
            }
            client.set_client_address(header.client);
            *self = ProxyHeader::after(header.tlvs);
        }
        while let ProxyHeader::SkipTlvs(mut tlvs) = *self {
            let len = usize::from(tlvs.left()).min(buf.len());
            match conn.read_raw(&mut buf[..len]) {
                ReadOutcome::Bytes(len) => {
                    tlvs.read(&buf[..len]);
                    if tlvs.is_tls() {
                        client.set_client_tls();
                    }
                    *self = ProxyHeader::after(tlvs);
                }
                ReadOutcome::Blocked | ReadOutcome::Overhead(_) if !is_late => return Ok(false),
                ReadOutcome::Blocked | ReadOutcome::Overhead(_) | ReadOutcome::Eof | ReadOutcome::Failed => {
                    return Err(HeaderError::Incomplete);
                }
            }
        }
        Ok(true)
    }
}

/// A header without its TLVs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it took.
    pub len: usize,
    /// What follows, before the connection's own first byte.
    pub tlvs: Tlvs,
    /// For whom the peer speaks; `None`: for itself, as when it checks our health, or for a client without an address.
    pub client: Option<SocketAddr>,
}

/// The bytes behind the addresses, as far as they have come. They are read in pieces of any size; one that announces more
/// than there is ends with the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// How many are still to come, of all.
    left: u16,
    /// How many of them say nothing to us: of the addresses, or of the present value.
    skip: u16,
    /// Type and length of the next, as far as they are here.
    header: [u8; 3],
    header_len: u8,
    /// The next byte begins the value of the TLV about TLS.
    is_at_ssl: bool,
    is_tls: bool,
}

impl Tlvs {
    /// How many bytes are still to come.
    pub fn left(&self) -> u16 {
        self.left
    }

    /// Whether the balancer has said that its client speaks TLS with it.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Reads on; not more than is left.
    pub fn read(&mut self, mut bytes: &[u8]) {
        self.left = self.left.saturating_sub(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        while let [first, rest @ ..] = bytes {
            if std::mem::take(&mut self.is_at_ssl) {
                self.is_tls |= first & CLIENT_SSL != 0;
            } else if self.skip > 0 {
                let len = bytes.len().min(usize::from(self.skip));
                // Not more than `skip`.
                self.skip -= len as u16;
                bytes = &bytes[len..];
                continue;
            } else {
                self.header[usize::from(self.header_len)] = *first;
                self.header_len += 1;
                if let (3, [kind, high, low]) = (self.header_len, self.header) {
                    let len = u16::from_be_bytes([high, low]);
                    self.is_at_ssl = kind == TLV_SSL && len >= TLV_SSL_LEN;
                    self.skip = len - u16::from(self.is_at_ssl);
                    self.header_len = 0;
                }
            }
            bytes = rest;
        }
    }
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "message() says what was expected instead")]
pub enum HeaderError {
    Missing,
    LineLength,
    LineFamily,
    LineAddress,
    Version,
    Command,
    Family,
    Length,
    Incomplete,
    Silent,
}

impl HeaderError {
    /// What was expected, for the log.
    pub const fn message(self) -> &'static str {
        match self {
            HeaderError::Missing => {
                "a peer that proxy_protocol.from lists has to begin with a PROXY header; turn it on there (send-proxy), or \
                 take the peer off the list"
            }
            HeaderError::LineLength => "a PROXY line ends with CRLF within 107 bytes",
            HeaderError::LineFamily => "a PROXY line says TCP4, TCP6 or UNKNOWN",
            HeaderError::LineAddress => {
                "a PROXY line has two addresses of its family and two ports, with one space between"
            }
            HeaderError::Version => "a binary PROXY header has version 2",
            HeaderError::Command => "the command of a binary PROXY header is LOCAL or PROXY",
            HeaderError::Family => "a binary PROXY header tells of a stream: TCP over IPv4 or IPv6, or a unix socket",
            HeaderError::Length => "a binary PROXY header is as long as its addresses at least",
            HeaderError::Incomplete => "a PROXY header has to be complete within timeouts.request_head",
            HeaderError::Silent => {
                "a peer that proxy_protocol.from lists has to begin with a PROXY header within timeouts.request_head, and \
                 said nothing"
            }
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for HeaderError {}

/// Reads a header from the first bytes of a connection; `None` while they are too few.
///
/// # Errors
/// They are no header, or not a right one.
pub fn parse_header(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let may_begin_with = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if may_begin_with(SIGNATURE) {
        parse_binary(bytes)
    } else if may_begin_with(LINE_START) {
        parse_line(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let start = &bytes[..bytes.len().min(MAX_HEADER)];
    let Some(end) = start.windows(2).position(|two| two == b"\r\n") else {
        return if start.len() < MAX_HEADER { Ok(None) } else { Err(HeaderError::LineLength) };
    };
    // At least the word is there: it holds no CR.
    let mut words = split(&start[LINE_START.len()..end], b' ');
    let client = match words.next() {
        // Whatever follows is to be ignored.
        Some(b"UNKNOWN") => None,
        Some(b"TCP4") => Some(parse_addresses::<Ipv4Addr>(words).ok_or(HeaderError::LineAddress)?),
        Some(b"TCP6") => Some(parse_addresses::<Ipv6Addr>(words).ok_or(HeaderError::LineAddress)?),
        Some(_) | None => return Err(HeaderError::LineFamily),
    };
    Ok(Some(Header { len: end + 2, tlvs: Tlvs::default(), client }))
}

/// Source, destination, and their ports. Only the source is of interest, but all has to be right.
fn parse_addresses<'a, A: FromStr + Into<IpAddr>>(mut words: impl Iterator<Item = &'a [u8]>) -> Option<SocketAddr> {
    let mut address = || -> Option<IpAddr> { Some(str::from_utf8(words.next()?).ok()?.parse::<A>().ok()?.into()) };
    let (source, _) = (address()?, address()?);
    let mut port = || -> Option<u16> {
        let digits = words.next()?;
        let is_plain = digits == b"0" || !digits.starts_with(b"0");
        parse_decimal(digits).filter(|_| is_plain).and_then(|number| u16::try_from(number).ok())
    };
    let (source_port, _) = (port()?, port()?);
    words.next().is_none().then_some(SocketAddr::new(source, source_port))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some([.., what, family, high, low]) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let length = u16::from_be_bytes([*high, *low]);
    let nobody = |skip| Header { len: FIXED, tlvs: Tlvs { left: length, skip, ..Tlvs::default() }, client: None };
    match what {
        // LOCAL: whatever else stands there means nothing.
        0x20 => return Ok(Some(nobody(length))),
        0x21 => {}
        what if what >> 4 == 2 => return Err(HeaderError::Command),
        _ => return Err(HeaderError::Version),
    }
    let needs = match family {
        0x00 => return Ok(Some(nobody(0))),
        0x11 => V4,
        0x21 => V6,
        0x31 if length >= UNIX => return Ok(Some(nobody(UNIX))),
        0x31 => return Err(HeaderError::Length),
        _ => return Err(HeaderError::Family),
    };
    let left = length.checked_sub(needs).ok_or(HeaderError::Length)?;
    let len = FIXED + usize::from(needs);
    let Some(addresses) = bytes.get(FIXED..len) else { return Ok(None) };
    // Source, destination, source port, destination port.
    let (ip, port_at) = match addresses.first_chunk::<16>() {
        Some(ip) if needs == V6 => (IpAddr::from(*ip), 32),
        _ => (IpAddr::from([addresses[0], addresses[1], addresses[2], addresses[3]]), 8),
    };
    let port = u16::from_be_bytes([addresses[port_at], addresses[port_at + 1]]);
    let tlvs = Tlvs { left, ..Tlvs::default() };
    Ok(Some(Header { len, tlvs, client: Some(SocketAddr::new(ip, port)) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, and byte by byte: the decision is the same, and comes with the last byte that it needs.
    fn read(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
        let whole = parse_header(bytes);
        let in_pieces = (0..=bytes.len()).map(|end| parse_header(&bytes[..end])).find(|result| *result != Ok(None));
        assert_eq!(in_pieces.unwrap_or(Ok(None)), whole, "{}", bytes.escape_ascii());
        whole
    }

    #[test]
    fn lines_of_version_1() {
        use HeaderError::*;
        let v6 = "2001:db8::1";
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Ok(Some("192.0.2.1:56324"))),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Ok(Some("0.0.0.0:0"))),
            (&format!("PROXY TCP6 {v6} ::1 1 2\r\n"), Ok(Some("[2001:db8::1]:1"))),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Ok(Some("[::ffff:192.0.2.1]:1"))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ffff:f...f:ffff what ever 1\r\n", Ok(None)),
            ("PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n", Err(LineFamily)),
            ("PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n", Err(LineFamily)),
            ("PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n", Err(LineFamily)),
            ("PROXY \r\n", Err(LineFamily)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1\t198.51.100.1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 ::1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP6 192.0.2.1 ::1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP6 [::1] ::1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP6 ::1%1 ::1 1 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 \n2\r\n", Err(LineAddress)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r \r\n", Err(LineAddress)),
            ("PROXX TCP4", Err(Missing)),
            ("proxy TCP4", Err(Missing)),
            ("GET / HTTP/1.1\r\n", Err(Missing)),
            ("\r\nGET / HTTP/1.1\r\n", Err(Missing)),
        ] {
            let found = read(line.as_bytes()).map(|header| header.expect("a whole line"));
            let expected = expected.map(|client| client.map(|text| text.parse().expect("an address")));
            assert_eq!(found.map(|header| header.client), expected, "{line:?}");
            if let Ok(header) = found {
                assert_eq!((header.len, header.tlvs.left()), (line.len(), 0), "{line:?}");
                let more = format!("{line}GET / HTTP/1.1\r\n");
                assert_eq!(parse_header(more.as_bytes()), Ok(Some(header)), "what follows does not matter");
            }
        }
    }

    #[test]
    fn a_line_has_at_most_107_bytes() {
        let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
        assert_eq!(read(line(107).as_bytes()), Ok(Some(Header { len: 107, tlvs: Tlvs::default(), client: None })));
        assert_eq!(read(line(108).as_bytes()), Err(HeaderError::LineLength));
        assert_eq!(read(&line(107).as_bytes()[..106]), Ok(None));
        for len in 0..6 {
            assert_eq!(read(&b"PROXY "[..len]), Ok(None), "both may still come: {len}");
            assert_eq!(read(&SIGNATURE[..len]), Ok(None), "{len}");
        }
    }

    fn header(what: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[what, family], &length.to_be_bytes(), rest].concat()
    }

    #[test]
    fn headers_of_version_2() {
        use HeaderError::*;
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 187];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[32..].copy_from_slice(&[0, 1, 0, 2]);
        let told = |len, left, client: &str| Ok((len, left, client.parse().ok()));
        for (name, bytes, expected) in [
            ("TCP over IPv4", header(0x21, 0x11, 12, &v4), told(28, 0, "192.0.2.1:56324")),
            ("with TLVs", header(0x21, 0x11, 12 + 7, &v4), told(28, 7, "192.0.2.1:56324")),
            ("as long as can be", header(0x21, 0x11, 0xffff, &v4), told(28, 0xffff - 12, "192.0.2.1:56324")),
            ("TCP over IPv6", header(0x21, 0x21, 36, &v6), told(52, 0, "[2001:db8::1]:1")),
            ("with TLVs, over IPv6", header(0x21, 0x21, 40, &v6), told(52, 4, "[2001:db8::1]:1")),
            ("a unix socket", header(0x21, 0x31, 216, &[]), told(16, 216, "")),
            ("unspecified", header(0x21, 0x00, 5, &[]), told(16, 5, "")),
            ("local", header(0x20, 0x00, 0, &[]), told(16, 0, "")),
            ("local, with addresses", header(0x20, 0x11, 12, &v4), told(16, 12, "")),
            ("local, with rubbish", header(0x20, 0xff, 3, &[]), told(16, 3, "")),
            ("version 1", header(0x11, 0x11, 12, &v4), Err(Version)),
            ("version 3", header(0x31, 0x11, 12, &v4), Err(Version)),
            ("another command", header(0x22, 0x11, 12, &v4), Err(Command)),
            ("UDP", header(0x21, 0x12, 12, &v4), Err(Family)),
            ("UDP over IPv6", header(0x21, 0x22, 36, &v6), Err(Family)),
            ("unix datagrams", header(0x21, 0x32, 216, &[]), Err(Family)),
            ("no transport", header(0x21, 0x10, 12, &v4), Err(Family)),
            ("another family", header(0x21, 0x41, 12, &v4), Err(Family)),
            ("too short", header(0x21, 0x11, 11, &v4), Err(Length)),
            ("too short for IPv6", header(0x21, 0x21, 35, &v6), Err(Length)),
            ("too short for a path", header(0x21, 0x31, 215, &[]), Err(Length)),
        ] {
            let found = read(&bytes).map(|header| header.expect("whole"));
            assert_eq!(found.map(|found| (found.len, found.tlvs.left(), found.client)), expected, "{name}");
            assert!(bytes.len() <= MAX_HEADER, "{name}: it is decided by then");
        }
        assert_eq!(read(&header(0x21, 0x11, 12, &v4[..11])), Ok(None));
        assert_eq!(read(&SIGNATURE[..]), Ok(None));
        let mut other = header(0x21, 0x11, 12, &v4);
        other[11] = b'X';
        assert_eq!(read(&other), Err(Missing));
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
            let header = parse_header(&bytes).expect("valid").expect("whole");
            for size in [1, 2, 3, 5, 1000] {
                let mut tlvs = header.tlvs;
                bytes[header.len..].chunks(size).for_each(|piece| tlvs.read(piece));
                assert_eq!((tlvs.is_tls(), tlvs.left()), (expected, 0), "{name}, {size}");
            }
        }
    }
}
