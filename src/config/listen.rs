//! Listening addresses: `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `[::]:8080?v6only`, `unix:/run/x.sock?mode=0660`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::error::quoted;
use super::scalar::Notation;

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// `127.0.0.1:8080`, `[::1]:8080`, `:8080`
    Tcp {
        /// What to bind.
        addr: SocketAddr,
        /// An IPv6 socket that takes IPv4 too: `":8080"` or `"[::]:8080"`, but not `"[::]:8080?v6only"` (rule E8).
        dual_stack: bool,
        /// Where the host has no IPv6, bind 0.0.0.0 instead: `":8080"` only.
        fallback_v4: bool,
    },
    /// `unix:/path`
    Unix {
        /// Where the socket is made.
        path: PathBuf,
        /// `?mode=0660`: the permissions it gets; `None` leaves them to the umask.
        mode: Option<u32>,
    },
}

impl ListenAddr {
    /// `":port"`: all addresses of both families.
    pub const fn any(port: u16) -> ListenAddr {
        let addr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        ListenAddr::Tcp { addr, dual_stack: true, fallback_v4: true }
    }

    /// `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        if let ListenAddr::Tcp { addr, .. } = self { Some(addr.port()) } else { None }
    }

    /// Whether only one of the two can be listened on: the same address, or one that is part of the other. Port 0 is another
    /// port each time.
    pub(super) fn overlaps(&self, other: &ListenAddr) -> bool {
        use ListenAddr::{Tcp, Unix};
        match (self, other) {
            (Tcp { addr: a, dual_stack: a_dual, .. }, Tcp { addr: b, dual_stack: b_dual, .. }) => {
                let covers = |one: &SocketAddr, dual_stack: bool, other: &SocketAddr| {
                    one.ip().is_unspecified() && (dual_stack || one.is_ipv4() == other.is_ipv4())
                };
                let is_shared = a.ip() == b.ip() || covers(a, *a_dual, b) || covers(b, *b_dual, a);
                a.port() != 0 && a.port() == b.port() && is_shared
            }
            (Unix { path, .. }, Unix { path: other, .. }) => path == other,
            _ => false,
        }
    }

    /// Takes a listening address apart. Port 0 lets the system choose.
    pub fn parse(text: &str) -> Result<ListenAddr, &'static str> {
        let (address, option) = text.split_once('?').map_or((text, None), |(address, option)| (address, Some(option)));
        if let Some(path) = address.strip_prefix("unix:") {
            return parse_unix(path, option);
        }
        let is_any = address.starts_with(':');
        let in_full = if is_any { format!("[::]{address}") } else { address.to_owned() };
        let addr: SocketAddr = in_full.parse().map_err(|_| ADDRESS)?;
        let is_all_v6 = addr.ip() == Ipv6Addr::UNSPECIFIED;
        match option {
            None => Ok(ListenAddr::Tcp { addr, dual_stack: is_all_v6, fallback_v4: is_any }),
            Some("v6only") if is_all_v6 && !is_any => {
                Ok(ListenAddr::Tcp { addr, dual_stack: false, fallback_v4: false })
            }
            Some(_) => Err(OPTION),
        }
    }
}

/// As it is written in the file.
impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp { addr, fallback_v4: true, .. } => write!(f, ":{}", addr.port()),
            ListenAddr::Tcp { addr, dual_stack: false, .. } if addr.ip() == Ipv6Addr::UNSPECIFIED => {
                write!(f, "{addr}?v6only")
            }
            ListenAddr::Tcp { addr, .. } => write!(f, "{addr}"),
            ListenAddr::Unix { path, mode: Some(mode) } => write!(f, "unix:{}?mode={mode:04o}", path.display()),
            ListenAddr::Unix { path, mode: None } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for ListenAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Notation for ListenAddr {
    type Value = ListenAddr;
    const EXPECTED: &'static str = "a listening address such as \":8080\" or 127.0.0.1:8080";

    fn read(text: &str) -> Result<Option<ListenAddr>, String> {
        if text.parse::<u16>().is_ok() {
            return Err(format!("{text} is a port alone: write \":{text}\" for all addresses, or 127.0.0.1:{text}"));
        }
        ListenAddr::parse(text).map(Some).map_err(|error| format!("{}: {error}", quoted(text)))
    }
}

// What is wrong with a listening address.
const ADDRESS: &str = "a listening address is a number, not a name, with a port from 0 to 65535, such as \":8080\", 127.0.0.1:8080 or \"[::1]:8080\", or unix:/run/proxy.sock";
const OPTION: &str =
    "after \"?\" may stand v6only (at \"[::]:8080\", to leave IPv4 out), or mode=0660 at a unix socket";
const UNIX_PATH: &str =
    "the path of a unix socket is absolute, and has at most 103 bytes and no NUL: write unix:/run/proxy.sock";
const UNIX_MODE: &str = "the mode of a unix socket is three or four octal digits, at most 0777, and lets somebody write, without which nobody can connect: write ?mode=0660";

fn parse_unix(path: &str, option: Option<&str>) -> Result<ListenAddr, &'static str> {
    // The size of `sun_path`, less its NUL and the ".new" of one that is to take its place.
    if !path.starts_with('/') || path.len() > 103 || path.contains('\0') {
        return Err(UNIX_PATH);
    }
    let mode = option.map(|option| parse_mode(option.strip_prefix("mode=").ok_or(OPTION)?)).transpose()?;
    Ok(ListenAddr::Unix { path: PathBuf::from(path), mode })
}

fn parse_mode(digits: &str) -> Result<u32, &'static str> {
    let is_number = matches!(digits.len(), 3..=4) && !digits.starts_with('+');
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| is_number && *mode <= 0o777 && mode & 0o222 != 0);
    mode.ok_or(UNIX_MODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(addr: &str, dual_stack: bool) -> Result<ListenAddr, &'static str> {
        Ok(ListenAddr::Tcp { addr: addr.parse().expect("an address"), dual_stack, fallback_v4: false })
    }

    fn unix(path: &str, mode: Option<u32>) -> Result<ListenAddr, &'static str> {
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
        let port = selftest::program::free_address().expect("a free port").port();
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
            ("", ADDRESS),
            ("8080", ADDRESS),
            ("127.0.0.1", ADDRESS),
            (":", ADDRESS),
            (":http", ADDRESS),
            (":+80", ADDRESS),
            (":65536", ADDRESS),
            ("localhost:8080", ADDRESS),
            ("*:8080", ADDRESS),
            ("::1:8080", ADDRESS),
            ("[127.0.0.1]:80", ADDRESS),
            ("http://127.0.0.1:80", ADDRESS),
            ("300.0.0.1:80", ADDRESS),
            (":8080?v6only", OPTION),
            ("[::1]:8080?v6only", OPTION),
            ("[::]:8080?mode=0660", OPTION),
            ("unix:run/x.sock", UNIX_PATH),
            ("unix:", UNIX_PATH),
            ("unix:/x?v6only", OPTION),
            ("unix:/x?mode=", UNIX_MODE),
            ("unix:/x?mode=0888", UNIX_MODE),
            ("unix:/x?mode=7777", UNIX_MODE),
            ("unix:/x?mode=0444", UNIX_MODE),
        ] {
            assert_eq!(ListenAddr::parse(text), Err(expected), "{text}");
        }
        let of_len = |len: usize| ListenAddr::parse(&format!("unix:/{}", "x".repeat(len - 1)));
        assert!(of_len(103).is_ok());
        assert_eq!(of_len(104), Err(UNIX_PATH));
    }
}
