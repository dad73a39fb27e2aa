//! Listening addresses: `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `[::]:8080?v6only`, `unix:/run/x.sock?mode=0660`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::url::parse_port;
use super::{Config, ListenAddr};

/// What is wrong with a listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenError {
    /// Only a number.
    PortOnly,
    /// Not a number from 0 to 65535 after the last colon.
    Port,
    /// A name: it may stand for several addresses, or for none at start.
    Name,
    /// Anything else in front of the port.
    Address,
    /// `?v6only` at an address that is not `[::]`, or another word after the `?`.
    Option,
    /// The path of a unix socket is not absolute.
    UnixPath,
    /// The path of a unix socket does not fit into a socket address.
    UnixPathLength,
    /// Not four octal digits after `?mode=`.
    UnixMode,
    /// A mode that lets nobody connect.
    UnixModeUnreachable,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ListenError::PortOnly => "a port alone needs its colon: write \":8080\", in quotes",
            ListenError::Port => "a listening address ends with \":\" and a port from 0 to 65535",
            ListenError::Name => {
                "a listening address is a number, not a name: write 127.0.0.1:8080 or \"[::1]:8080\" for localhost, \":8080\" for all"
            }
            ListenError::Address => {
                "expected a listening address such as \":8080\", 127.0.0.1:8080, \"[::1]:8080\" or unix:/run/proxy.sock"
            }
            ListenError::Option => {
                "after \"?\" may stand v6only (at \"[::]:8080\", to leave IPv4 out), or mode=0660 at a unix socket"
            }
            ListenError::UnixPath => "the path of a unix socket is absolute: write unix:/run/proxy.sock",
            ListenError::UnixPathLength => "the path of a unix socket has at most 107 bytes, and no NUL",
            ListenError::UnixMode => "the mode of a unix socket is up to four octal digits, at most 0777: write ?mode=0660",
            ListenError::UnixModeUnreachable => {
                "connecting to a unix socket needs write permission, which this mode gives to nobody: write ?mode=0660"
            }
        })
    }
}

/// The size of `sun_path`, less its NUL.
const MAX_UNIX_PATH: usize = 107;

impl Config {
    /// Whether a peer with this address has to say for whom it speaks.
    pub fn expects_preface(&self, address: IpAddr) -> bool {
        // An IPv4 peer of a dual-stack socket appears as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        self.preface_from.iter().any(|range| range.contains(&address))
    }
}

impl ListenAddr {
    /// Whether only one of the two can be listened on: the same address, or one that is part of the other. Port 0 is another
    /// port each time.
    pub(super) fn overlaps(&self, other: &ListenAddr) -> bool {
        match (self, other) {
            (
                ListenAddr::Tcp { addr, dual_stack, .. },
                ListenAddr::Tcp { addr: other, dual_stack: other_dual_stack, .. },
            ) => {
                let covers = |one: &SocketAddr, dual_stack: bool, other: &SocketAddr| {
                    one.ip().is_unspecified() && (dual_stack || one.is_ipv4() == other.is_ipv4())
                };
                addr.port() != 0
                    && addr.port() == other.port()
                    && (addr.ip() == other.ip()
                        || covers(addr, *dual_stack, other)
                        || covers(other, *other_dual_stack, addr))
            }
            (ListenAddr::Unix { path, .. }, ListenAddr::Unix { path: other, .. }) => path == other,
            (ListenAddr::Tcp { .. }, ListenAddr::Unix { .. }) | (ListenAddr::Unix { .. }, ListenAddr::Tcp { .. }) => {
                false
            }
        }
    }

    /// Takes a listening address apart. Port 0 lets the system choose.
    pub fn parse(text: &str) -> Result<ListenAddr, ListenError> {
        let (address, option) = match text.split_once('?') {
            Some((address, option)) => (address, Some(option)),
            None => (text, None),
        };
        if let Some(path) = address.strip_prefix("unix:") {
            return parse_unix(path, option);
        }
        let (host, port) = address.rsplit_once(':').ok_or_else(|| without_port(address))?;
        if host.contains(':') && !host.starts_with('[') {
            // An IPv6 address that has lost its brackets.
            return Err(ListenError::Address);
        }
        let port = if port == "0" { 0 } else { parse_port(port).map_err(|_| ListenError::Port)? };
        let only_v6 = match option {
            Some("v6only") => true,
            Some(_) => return Err(ListenError::Option),
            None => false,
        };
        if host.is_empty() {
            return if only_v6 { Err(ListenError::Option) } else { Ok(ListenAddr::any(port)) };
        }
        let ip = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').and_then(|v6| v6.parse().ok()).map(IpAddr::V6),
            None => host.parse().ok().map(IpAddr::V4),
        };
        let ip = ip.ok_or_else(|| if is_name(host) { ListenError::Name } else { ListenError::Address })?;
        let all_v6 = ip == Ipv6Addr::UNSPECIFIED;
        if only_v6 && !all_v6 {
            return Err(ListenError::Option);
        }
        let addr = SocketAddr::new(ip, port);
        Ok(ListenAddr::Tcp { addr, dual_stack: all_v6 && !only_v6, fallback_v4: false })
    }
}

fn without_port(text: &str) -> ListenError {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) { ListenError::PortOnly } else { ListenError::Port }
}

fn is_name(host: &str) -> bool {
    host.bytes().any(|b| b.is_ascii_alphabetic())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn parse_unix(path: &str, option: Option<&str>) -> Result<ListenAddr, ListenError> {
    if !path.starts_with('/') {
        return Err(ListenError::UnixPath);
    }
    if path.len() > MAX_UNIX_PATH || path.contains('\0') {
        return Err(ListenError::UnixPathLength);
    }
    let mode = option.map(parse_mode).transpose()?;
    Ok(ListenAddr::Unix { path: PathBuf::from(path), mode })
}

fn parse_mode(option: &str) -> Result<u32, ListenError> {
    let digits = option.strip_prefix("mode=").ok_or(ListenError::Option)?;
    if !matches!(digits.len(), 3..=4) || !digits.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        return Err(ListenError::UnixMode);
    }
    let mode = digits.bytes().fold(0, |mode, digit| mode << 3 | u32::from(digit - b'0'));
    match mode {
        0o1000.. => Err(ListenError::UnixMode),
        _ if mode & 0o222 == 0 => Err(ListenError::UnixModeUnreachable),
        _ => Ok(mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(addr: &str, dual_stack: bool) -> Result<ListenAddr, ListenError> {
        Ok(ListenAddr::Tcp { addr: addr.parse().expect("an address"), dual_stack, fallback_v4: false })
    }

    fn unix(path: &str, mode: Option<u32>) -> Result<ListenAddr, ListenError> {
        Ok(ListenAddr::Unix { path: path.into(), mode })
    }

    #[test]
    fn e8_listening_addresses_say_which_families_they_take() {
        for (text, expected) in [
            (":8080", Ok(ListenAddr::any(8080))),
            (":0", Ok(ListenAddr::any(0))),
            ("[::]:8080", tcp("[::]:8080", true)),
            ("[::]:8080?v6only", tcp("[::]:8080", false)),
            ("0.0.0.0:8080", tcp("0.0.0.0:8080", false)),
            ("127.0.0.1:0", tcp("127.0.0.1:0", false)),
            ("[::1]:8080", tcp("[::1]:8080", false)),
            ("unix:/run/x.sock", unix("/run/x.sock", None)),
            ("unix:/run/x.sock?mode=0660", unix("/run/x.sock", Some(0o660))),
            ("unix:/run/x.sock?mode=666", unix("/run/x.sock", Some(0o666))),
        ] {
            let read = ListenAddr::parse(text);
            assert_eq!(read, expected, "{text}");
            let printed = read.map(|address| address.to_string());
            assert_eq!(printed.map(|printed| ListenAddr::parse(&printed)), Ok(expected), "{text}, printed");
        }
    }

    #[test]
    fn addresses_overlap_where_the_kernel_says_so() {
        let listen = |text: &str| {
            use socket2::{Domain, Socket, Type};
            let Ok(ListenAddr::Tcp { addr, dual_stack, .. }) = ListenAddr::parse(text) else { panic!("{text}") };
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).ok()?;
            if addr.is_ipv6() {
                socket.set_only_v6(!dual_stack).ok()?;
            }
            socket.set_reuse_address(true).ok()?;
            socket.bind(&addr.into()).ok()?;
            socket.listen(1).ok()?;
            Some(socket)
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let all = ["", "0.0.0.0", "127.0.0.1", "127.0.0.2", "[::]", "[::]?v6only", "[::1]"];
        let all = all.map(|host| match host.strip_suffix("?v6only") {
            Some(host) => format!("{host}:{port}?v6only"),
            None => format!("{host}:{port}"),
        });
        for one in &all {
            for other in &all {
                let parsed = [one, other].map(|text| ListenAddr::parse(text).expect("an address"));
                let Some(first) = listen(one) else { continue };
                assert_eq!(parsed[0].overlaps(&parsed[1]), listen(other).is_none(), "{one} and {other}");
                drop(first);
            }
        }
        let zero = ListenAddr::parse("127.0.0.1:0").expect("an address");
        assert!(!zero.overlaps(&zero));
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused() {
        for (text, expected) in [
            ("", ListenError::Port),
            ("8080", ListenError::PortOnly),
            ("127.0.0.1", ListenError::Port),
            (":", ListenError::Port),
            (":http", ListenError::Port),
            (":+80", ListenError::Port),
            (":65536", ListenError::Port),
            ("localhost:8080", ListenError::Name),
            ("*:8080", ListenError::Address),
            ("::1:8080", ListenError::Address),
            ("[127.0.0.1]:80", ListenError::Address),
            ("http://127.0.0.1:80", ListenError::Address),
            ("300.0.0.1:80", ListenError::Address),
            (":8080?v6only", ListenError::Option),
            ("[::1]:8080?v6only", ListenError::Option),
            ("[::]:8080?mode=0660", ListenError::Option),
            ("unix:run/x.sock", ListenError::UnixPath),
            ("unix:", ListenError::UnixPath),
            ("unix:/x?v6only", ListenError::Option),
            ("unix:/x?mode=", ListenError::UnixMode),
            ("unix:/x?mode=0888", ListenError::UnixMode),
            ("unix:/x?mode=7777", ListenError::UnixMode),
            ("unix:/x?mode=0444", ListenError::UnixModeUnreachable),
        ] {
            assert_eq!(ListenAddr::parse(text), Err(expected), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert_eq!(ListenAddr::parse(&long), Err(ListenError::UnixPathLength));
    }
}
