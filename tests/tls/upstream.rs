//! Origins with TLS: what is agreed with them, and how they may end.

use std::io::Write;
use std::sync::Arc;

use rustls::{ServerConnection, StreamOwned};

use crate::certificates::Authority;
use crate::ends::{Served, config, echo, end, origin};
use crate::support::{Nginx, Origin, Proxy, Stream, curl_ok, is_missing, value};

fn nginx(authority: &Authority, server: &str) -> Option<Nginx> {
    if is_missing("nginx") || is_missing("curl") {
        return None;
    }
    let pair = authority.issue(&["localhost"]);
    Some(Nginx::start_tls(&format!(
        "ssl_certificate {}; ssl_certificate_key {};\n{server}",
        pair.certificate.display(),
        pair.key.display()
    )))
}

fn nginx_config(nginx: &Nginx, authority: &Authority, more: &str) -> String {
    format!(
        "workers: 1\nroutes: [{{ prefix: /, upstream: 'https://localhost:{}' }}]\nupstream_tls: {{ ca_file: {} }}\n{more}\n",
        nginx.address.port(),
        authority.file.display()
    )
}

const FACTS: &str = "location /facts { return 200 \"$ssl_protocol $ssl_session_reused $ssl_server_name $http_host \
                     $ssl_alpn_protocol $connection_requests\"; }";

#[test]
fn nginx_sees_the_name_the_protocol_and_resumed_sessions() {
    let authority = Authority::new();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let Some(nginx) = nginx(&authority, &format!("ssl_protocols {version};\n{FACTS}")) else { return };
        let port = nginx.address.port();
        let proxy = Proxy::start(&nginx_config(&nginx, &authority, ""));
        for request in 1..=3 {
            let seen = curl_ok(&[&proxy.url("/facts")]);
            assert_eq!(seen, format!("{version} . localhost localhost:{port} http/1.1 {request}"), "pooled");
        }
        let proxy = Proxy::start(&nginx_config(&nginx, &authority, "pool: { max_idle: 0 }"));
        for reused in [".", "r", "r"] {
            let seen = curl_ok(&[&proxy.url("/facts")]);
            assert_eq!(seen, format!("{version} {reused} localhost localhost:{port} http/1.1 1"), "resumed");
        }
    }
}

#[test]
fn nginx_serves_files_and_takes_uploads() {
    let authority = Authority::new();
    let Some(nginx) = nginx(&authority, "location /ok { return 200 \"$request_method $content_length\"; }") else {
        return;
    };
    let text = "0123456789".repeat(30_000);
    nginx.put("file.txt", &text);
    let proxy = Proxy::start(&nginx_config(&nginx, &authority, ""));
    for _ in 0..3 {
        assert!(curl_ok(&[&proxy.url("/file.txt")]) == text, "the file arrives as it is");
        assert_eq!(curl_ok(&["-d", "hello", &proxy.url("/ok")]), "POST 5");
    }
}

#[test]
fn an_upstream_that_does_not_speak_tls_is_told_from_one_that_is_not_trusted() {
    let authority = Authority::new();
    for (name, talk) in [
        ("answers in the clear", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"),
        ("ends within the handshake", ""),
        ("half a record", "\x16\x03\x03\x01\x00half"),
    ] {
        let origin = Origin::start(move |mut peer, _| {
            // Rule S19: it may come before anything was asked for.
            peer.send(talk);
            let _ = peer.some_bytes();
            peer.shutdown();
            let _ = peer.try_rest();
        });
        let proxy = Proxy::start(&config(&origin, &authority, ""));
        let response = proxy.connect().get("/");
        assert_eq!(response.status(), 502, "{name}");
        assert!(!response.text().contains("secret"), "{name}: s19");
        let line = proxy.access("/");
        assert_eq!(value(&line, "why"), Some("tls_failed"), "{name}: {line}");
        proxy.log.wait_for(name, |line| line.contains("no TLS connection to upstream localhost"));
    }
}

#[test]
fn s19_bytes_from_before_the_end_of_the_handshake_are_never_used() {
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    let inner = Arc::new(crate::ends::server_config(&pair));
    let origin = Origin::start(move |peer, _| {
        let (mut socket, _) = peer.into_parts();
        let mut session = ServerConnection::new(Arc::clone(&inner)).expect("a session");
        // In the clear, in front of a handshake that is all right.
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
        while session.is_handshaking() && session.complete_io(&mut socket).is_ok() {}
    });
    let proxy = Proxy::start(&config(&origin, &authority, ""));
    assert_eq!(proxy.connect().get("/").status(), 502);
    assert_eq!(value(&proxy.access("/"), "why"), Some("tls_failed"));
}

#[test]
fn the_handshake_counts_into_the_time_to_connect() {
    let authority = Authority::new();
    let origin = Origin::start(|mut peer, _| assert!(peer.try_rest().is_ok_and(|hello| hello[0] == 22)));
    let yaml = config(&origin, &authority, "timeouts: { connect: 300ms }");
    let proxy = Proxy::start(&yaml);
    assert_eq!(proxy.connect().get("/").status(), 504);
    assert_eq!(value(&proxy.access("/"), "why"), Some("connect_timeout"));
}

#[test]
fn g11_a_body_that_only_the_end_delimits_needs_a_true_end() {
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    for (name, head, is_true, is_whole) in [
        ("until the end, said", "HTTP/1.1 200 OK\r\n\r\n", true, true),
        ("until the end, cut", "HTTP/1.1 200 OK\r\n\r\n", false, false),
        ("by length, cut after it", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", false, true),
        ("by length, said too early", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, false),
        ("chunked, cut after it", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n", false, true),
    ] {
        let end_of_chunks = if head.contains("chunked") { "\r\n0\r\n\r\n" } else { "" };
        let origin = origin(&pair, move |mut peer: Served, _| {
            peer.head();
            peer.send(format!("{head}body{end_of_chunks}"));
            if is_true {
                end(peer.inner());
            }
        });
        let proxy = Proxy::start(&config(&origin, &authority, ""));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let response = client.head().expect("a response");
        assert_eq!(response.status(), 200, "{name}");
        let rest = client.try_rest();
        if is_whole {
            assert!(rest.is_ok_and(|rest| rest.windows(4).any(|window| window == b"body")), "{name}");
        }
        let line = proxy.access("/");
        let why = if is_whole { None } else { Some("upstream_truncated") };
        assert_eq!(value(&line, "why"), why, "{name}: {line}");
    }
}

#[test]
fn an_origin_that_hangs_up_on_an_idle_connection_makes_no_noise() {
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    for says_goodbye in [true, false] {
        let origin = origin(&pair, move |mut peer: Served, _| {
            peer.head();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            if says_goodbye {
                end(peer.inner());
            }
        });
        let proxy = Proxy::start(&config(&origin, &authority, ""));
        let mut client = proxy.connect();
        for _ in 0..20 {
            assert_eq!(client.get("/").status(), 200);
        }
        let lines = proxy.log.wait_for_many("requests", 20, |line| line.contains("path=/"));
        assert!(lines.iter().all(|line| value(line, "why").is_none()), "{lines:?}");
        assert!(!proxy.log.all().iter().any(|line| line.contains("level=warn")), "{:?}", proxy.log.all());
    }
}

#[test]
fn records_of_any_size_are_put_together() {
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    const LEN: u64 = 100_000;
    for size in [1, 2, 1000, 16 * 1024] {
        let origin = origin(&pair, move |mut peer: Served, _| {
            peer.head();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"));
            // Each write is a record.
            Stream::new(1, LEN).write_to(Pieces(peer.inner(), size)).expect("is taken");
            let _ = peer.try_rest();
        });
        let proxy = Proxy::start(&config(&origin, &authority, ""));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.head().expect("a response").status(), 200);
        Stream::new(1, LEN).compare(&mut client).unwrap_or_else(|error| panic!("records of {size}: {error}"));
    }
}

/// Writes at most so much at a time, and lets it leave at once.
struct Pieces<'a>(&'a mut StreamOwned<ServerConnection, std::net::TcpStream>, usize);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = self.0.write(&bytes[..bytes.len().min(self.1)])?;
        self.0.flush()?;
        Ok(len)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn many_requests_share_few_connections() {
    let authority = Authority::new();
    let origin = echo(&authority.issue(&["localhost"]));
    let proxy = Proxy::start(&config(&origin, &authority, ""));
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for _ in 0..20 {
        for client in &mut clients {
            assert_eq!(client.get("/").status(), 200);
        }
    }
    assert_eq!(origin.connections(), 1, "one after the other needs one");
}
