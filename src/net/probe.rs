//! Asks a running proxy: `-healthcheck` for `/health`, for images without a shell to do it with, and `-check -against` for
//! its configuration in words.
//!
//! It blocks, and knows of the proxy only what the configuration or the command line says.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::{Config, FullConfig, ListenAddr};

/// For each step. Docker's own limit for a probe is 30 s.
const PATIENCE: Duration = Duration::from_secs(3);

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// More than the outline of any configuration.
const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// Asks the operator's address, which answers when all places are taken; without one the first address, which stands for
/// all.
pub fn probe(config: &Config) -> Result<(), String> {
    let Some(address) = config.admin.listen_addr.first().or(config.listen_addr.first()) else { return Ok(()) };
    let status = match address {
        ListenAddr::Tcp { addr, .. } => connect(*addr).and_then(|stream| tcp(stream, config)).and_then(ask),
        ListenAddr::Unix { path, .. } => UnixStream::connect(path).and_then(unix).and_then(ask),
    };
    match status {
        Ok(status) if is_alive(&status) => Ok(()),
        Ok(status) => Err(format!("{address} answers {:?}", String::from_utf8_lossy(&status))),
        Err(error) => Err(format!("{address} does not answer: {error}")),
    }
}

fn tcp(mut stream: TcpStream, config: &Config) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if config.expects_proxy_header(stream.local_addr()?.ip()) {
        // What a load balancer says that asks for itself.
        stream.write_all(b"PROXY UNKNOWN\r\n")?;
    }
    Ok(stream)
}

fn unix(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The configuration of the proxy that runs at `place`: `http://HOST:PORT`, with or without `/configz`, or
/// `unix:/PATH`; `-` reads from standard input what somebody else has asked for.
///
/// `config` is the one that it is to be compared with: the peers that have to introduce themselves are mostly the same.
pub fn outline(place: &str, config: &Config) -> Result<FullConfig, String> {
    let not_there = |error: io::Error| format!("{place} does not answer: {error}");
    let answer = if place == "-" {
        let mut json = String::new();
        io::stdin().take(MOST_BYTES).read_to_string(&mut json).map_err(not_there)?;
        json
    } else if let Some(path) = place.strip_prefix("unix:") {
        UnixStream::connect(path)
            .and_then(unix)
            .and_then(|stream| ask_for_outline(stream, "localhost"))
            .map_err(not_there)?
    } else {
        let host = authority(place)?;
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let addresses = address.to_socket_addrs().map_err(not_there)?;
        let stream = TcpStream::connect(addresses.collect::<Vec<_>>().as_slice());
        stream
            .and_then(|stream| tcp(stream, config))
            .and_then(|stream| ask_for_outline(stream, host))
            .map_err(not_there)?
    };
    FullConfig::from_json(&answer).ok_or_else(|| {
        format!(
            "{place} does not tell its configuration: it does so at /configz?outline to clients on its own host, where \
             admin.configz is on"
        )
    })
}

/// Host and port of a URL of `/configz`.
fn authority(url: &str) -> Result<&str, String> {
    let wrong = || {
        format!(
            "-against {url}: write http://HOST:PORT or unix:/PATH; for https, curl -k 'https://HOST:PORT/configz?outline' \
             | mini-rproxy -check -against -"
        )
    };
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_ours = matches!(path, "" | "/" | "/configz");
    if is_ours && !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'@') {
        Ok(host)
    } else {
        Err(wrong())
    }
}

/// The body of the answer; empty where it is not a good one.
fn ask_for_outline(mut stream: impl Read + Write, host: &str) -> io::Result<String> {
    write!(stream, "GET /configz?outline HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200 "));
    Ok(body.map_or_else(String::new, |(_, body)| body.to_owned()))
}

/// 200; or 400, with which a TLS port answers a request in the clear: that it answers is what was asked.
fn is_alive(status: &[u8]) -> bool {
    [&b"HTTP/1.1 200"[..], b"HTTP/1.1 400"].contains(&status)
}

/// All addresses are reached at those of this host.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let loopback = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), PATIENCE);
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => loopback(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            // Where the host has no IPv6, the proxy listens on IPv4.
            loopback(Ipv6Addr::LOCALHOST.into()).or_else(|_| loopback(Ipv4Addr::LOCALHOST.into()))
        }
        ip => loopback(ip),
    }
}

/// The first 12 bytes of the answer: version and status.
fn ask(mut stream: impl Read + Write) -> io::Result<[u8; 12]> {
    stream.write_all(REQUEST)?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(ErrorKind::TimedOut, "timed out"),
        _ => error,
    })?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn the_operators_address_is_asked_where_there_is_one() {
        let refusing = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
        let tcp = |addr| vec![ListenAddr::Tcp { addr, dual_stack: false, fallback_v4: false }];
        let path = ListenAddr::Unix { path: "/no/such/socket".into(), mode: None };
        let mut config = Config { listen_addr: tcp(refusing), ..Config::default() };
        config.admin.listen_addr = vec![path];
        let error = probe(&config).expect_err("nobody is there");
        assert!(error.starts_with("unix:/no/such/socket does not answer"), "{error}");
    }

    fn probe_an_answer(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; REQUEST.len()];
            stream.read_exact(&mut request).expect("a request");
            assert_eq!(request, REQUEST);
            stream.write_all(answer).expect("a reader");
        });
        let result = probe(&Config {
            listen_addr: vec![ListenAddr::Tcp { addr, dual_stack: false, fallback_v4: false }],
            ..Config::default()
        });
        server.join().expect("no panic");
        result.map_err(|error| error.replace(&addr.to_string(), "ADDRESS"))
    }

    #[test]
    fn only_an_answer_of_a_proxy_is_a_sign_of_health() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Ok(())),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Ok(())),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("ADDRESS answers \"HTTP/1.1 503\"")),
            (b"SSH-2.0-OpenSSH\r\n", Err("ADDRESS answers \"SSH-2.0-Open\"")),
            (b"HTTP", Err("ADDRESS does not answer: failed to fill whole buffer")),
        ] {
            assert_eq!(probe_an_answer(answer), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn a_running_proxy_is_named_by_a_plain_url() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("http://[::1]:8080/", Some("[::1]:8080")),
            ("http://proxy.example/configz", Some("proxy.example")),
            ("http://proxy.example/other", None),
            ("http://u:p@proxy.example", None),
            ("https://proxy.example", None),
            ("127.0.0.1:8080", None),
            ("http://", None),
            ("http://a b", None),
        ] {
            assert_eq!(authority(url).ok(), expected, "{url}");
        }
    }

    #[test]
    fn an_answer_that_is_no_outline_is_told_with_what_to_do() {
        for answer in ["HTTP/1.1 200 OK\r\n\r\n[]", "HTTP/1.1 404 Not Found\r\n\r\n{}", "SSH-2.0-OpenSSH\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
            let url = format!("http://{}", listener.local_addr().expect("bound"));
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("a request");
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).expect("a reader");
            });
            let error = outline(&url, &Config::default()).expect_err(answer);
            assert!(error.contains("does not tell its configuration"), "{error}");
            server.join().expect("no panic");
        }
    }
}
