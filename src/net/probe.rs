//! `-healthcheck`: asks a running proxy for `/health`, for images without a shell to do it with.
//!
//! It blocks, and knows of the proxy only what the configuration says.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::ListenAddr;

/// For each step. Docker's own limit for a probe is 30 s.
const PATIENCE: Duration = Duration::from_secs(3);

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Asks whoever listens on `address`.
pub fn probe(address: &ListenAddr) -> Result<(), String> {
    let status = match address {
        ListenAddr::Tcp { addr, .. } => connect(*addr).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            ask(stream)
        }),
        ListenAddr::Unix { path, .. } => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            ask(stream)
        }),
    };
    match status {
        Ok(status) if is_alive(&status) => Ok(()),
        Ok(status) => Err(format!("{address} answers {:?}", String::from_utf8_lossy(&status))),
        Err(error) => Err(format!("{address} does not answer: {error}")),
    }
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
        let result = probe(&ListenAddr::Tcp { addr, dual_stack: false, fallback_v4: false });
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
}
