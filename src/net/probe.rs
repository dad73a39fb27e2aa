//! Asks a running proxy: `-healthcheck` for `/health`, for images without a shell to do it with, and `-check -against` for
//! its configuration.
//!
//! It blocks, and knows of the proxy only what the configuration or the command line says.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Config, Endpoint, FullConfig, ListenAddr, Scheme, UpstreamUrl};
use crate::proxy::proxy_connection::ListenerProtocol;

use super::listeners::main_protocol;

/// For each step. Docker's own limit for a probe is 30 s.
const TIMEOUT: Duration = Duration::from_secs(3);

/// More than the settings of any configuration.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// Asks the operator's address, which answers when all places are taken; without one the first address, which stands for
/// all.
pub fn probe(config: &Config) -> Result<(), String> {
    let Some(address) = config.admin.listen_addr.first().or(config.listen_addr.first()) else { return Ok(()) };
    let addresses = match address {
        ListenAddr::Tcp { addr, .. } => Ok(on_this_host(*addr)),
        ListenAddr::Unix { path, .. } => SockAddr::unix(path).map(|path| vec![path]),
    };
    let path = config.admin.health.as_deref().ok_or("admin.health is false: there is nothing to ask for")?;
    let version_and_status = 12;
    let is_tls = config.admin.listen_addr.is_empty() && main_protocol(config) == ListenerProtocol::Tls;
    match addresses.and_then(|addresses| get(&addresses, config, "localhost", path, version_and_status)) {
        Ok(answer) if answer == b"HTTP/1.1 200" => Ok(()),
        // So a TLS port answers a request in the clear: that it answers is what was asked.
        Ok(answer) if answer == b"HTTP/1.1 400" && is_tls => Ok(()),
        Ok(answer) => Err(format!("{address} answers {:?}", String::from_utf8_lossy(&answer))),
        Err(error) => Err(format!("{address} does not answer: {error}")),
    }
}

/// The configuration of the proxy that runs at `place`: `http://HOST:PORT`, with or without `/configz`, or
/// `unix:/PATH`; `-` reads from standard input what somebody else has asked for.
///
/// `config` is the one that it is to be compared with: it says, mostly rightly, which peers have to send a PROXY header.
pub fn running_config(place: &str, config: &Config) -> Result<FullConfig, String> {
    let path = "/configz?outline";
    let answer = if place == "-" {
        let mut json = Vec::new();
        io::stdin().take(MAX_ANSWER).read_to_end(&mut json).map(|_| json)
    } else if let Some(socket) = place.strip_prefix("unix:") {
        SockAddr::unix(socket).and_then(|socket| get(&[socket], config, "localhost", path, MAX_ANSWER))
    } else {
        let (authority, host, port) = configz_url(place)?;
        let addresses = (host, port).to_socket_addrs().map(|all| all.map(SockAddr::from).collect());
        addresses.and_then(|addresses: Vec<_>| get(&addresses, config, &authority, path, MAX_ANSWER))
    };
    let answer = answer.map_err(|error| format!("{place} does not answer: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200 "));
    serde_json::from_str(body.map_or(&answer, |(_, body)| body)).map_err(|_| {
        format!(
            "{place} does not tell its configuration: it does so at /configz?outline to clients on its own host, where \
             admin.configz is on"
        )
    })
}

/// The Host value, host and port of `http://HOST:PORT`, with or without `/configz`.
fn configz_url(url: &str) -> Result<(String, String, u16), String> {
    match UpstreamUrl::parse(url) {
        Ok(UpstreamUrl {
            scheme: Scheme::Http,
            endpoint: Endpoint::Tcp { host, port },
            authority,
            base_path,
            authorization: None,
        }) if ["", "/configz"].contains(&&*base_path) => Ok((authority, host, port)),
        _ => Err(format!(
            "-against {url}: write http://HOST:PORT or unix:/PATH; for https, curl -k 'https://HOST:PORT/configz?outline' \
             | mini-rproxy -check -against -"
        )),
    }
}

/// Where a socket that is bound to `address` is reached. Where the host has no IPv6, the proxy listens on IPv4.
fn on_this_host(address: SocketAddr) -> Vec<SockAddr> {
    let ips: &[IpAddr] = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)],
        ip => &[ip],
    };
    ips.iter().map(|ip| SocketAddr::new(*ip, address.port()).into()).collect()
}

/// The first `max` bytes of the answer of the first address that answers.
fn get(addresses: &[SockAddr], config: &Config, host: &str, path: &str, max: u64) -> io::Result<Vec<u8>> {
    let connect = |address: &SockAddr| {
        let socket = Socket::new(Domain::from(i32::from(address.family())), Type::STREAM, None)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        if address.is_unix() { socket.connect(address) } else { socket.connect_timeout(address, TIMEOUT) }?;
        Ok(socket)
    };
    let none = Err(io::Error::from(ErrorKind::NotFound));
    let mut socket = addresses.iter().fold(none, |found, address| found.or_else(|_| connect(address)))?;
    let peer = socket.peer_addr()?.as_socket();
    let is_peer = |addr: &SocketAddr| peer.is_some_and(|peer| on_this_host(*addr).contains(&peer.into()));
    let is_its = |address: &ListenAddr| matches!(address, ListenAddr::Tcp { addr, .. } if is_peer(addr));
    // The operator's address takes no header.
    if !config.admin.listen_addr.iter().any(is_its)
        && socket.local_addr()?.as_socket().is_some_and(|local| config.expects_proxy_header(local.ip()))
    {
        // What a load balancer says that asks for itself.
        socket.write_all(b"PROXY UNKNOWN\r\n")?;
    }
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    match socket.take(max).read_to_end(&mut answer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(answer),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(io::Error::new(ErrorKind::TimedOut, "timed out")),
        Err(error) => Err(error),
    }
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

    fn probe_an_answer(answer: &'static [u8], mut config: Config, is_admin: bool) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let expected = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let mut request = vec![0; expected.len()];
            stream.read_exact(&mut request).expect("a request");
            assert_eq!(request, expected);
            stream.write_all(answer).expect("a reader");
        });
        let list = if is_admin { &mut config.admin.listen_addr } else { &mut config.listen_addr };
        *list = vec![ListenAddr::Tcp { addr, dual_stack: false, fallback_v4: false }];
        let result = probe(&config);
        server.join().expect("no panic");
        result.map_err(|error| error.replace(&addr.to_string(), "ADDRESS"))
    }

    #[test]
    fn only_an_answer_of_a_proxy_is_a_sign_of_health() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Ok(())),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Err("ADDRESS answers \"HTTP/1.1 400\"")),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("ADDRESS answers \"HTTP/1.1 503\"")),
            (b"SSH-2.0-OpenSSH\r\n", Err("ADDRESS answers \"SSH-2.0-Open\"")),
            (b"HTTP", Err("ADDRESS answers \"HTTP\"")),
            (b"", Err("ADDRESS does not answer: unexpected end of file")),
        ] {
            assert_eq!(probe_an_answer(answer, Config::default(), false), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn a_port_for_tls_is_healthy_when_it_refuses_plain_http() {
        let tls = || Config { tls: Some(Default::default()), ..Config::default() };
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(probe_an_answer(answer, tls(), false), Ok(()));
        let refused = "ADDRESS answers \"HTTP/1.1 400\"".to_owned();
        assert_eq!(probe_an_answer(answer, tls(), true), Err(refused), "the operator's address speaks plain HTTP");
    }

    #[test]
    fn the_operators_address_gets_no_proxy_header() {
        let mut config = Config::default();
        config.proxy_protocol.from = vec!["127.0.0.0/8".parse().expect("a range")];
        assert_eq!(probe_an_answer(b"HTTP/1.1 200 OK\r\n\r\n", config, true), Ok(()));
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
            assert_eq!(configz_url(url).ok().map(|(authority, ..)| authority).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn an_answer_that_is_no_configuration_is_told_with_what_to_do() {
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
            let error = running_config(&url, &Config::default()).expect_err(answer);
            assert!(error.contains("does not tell its configuration"), "{error}");
            server.join().expect("no panic");
        }
    }
}
