//! Origins and clients that fail: what the other side sees of it, and what the log says.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::{Origin, PATIENCE, Proxy, curl, free_address, is_missing, refusing_address, value};

/// Status and cause of the access log line about `path`.
fn logged(proxy: &Proxy, path: &str) -> (String, String) {
    let line = proxy.access(path);
    let get = |key| value(&line, key).unwrap_or_default().to_owned();
    (get("status"), get("why"))
}

fn expect(proxy: &Proxy, path: &str, status: u16, why: &str) {
    assert_eq!(proxy.connect().get(path).status(), status, "{path}");
    assert_eq!(logged(proxy, path), (status.to_string(), why.to_owned()), "{path}");
}

#[test]
fn an_origin_that_refuses_gives_502() {
    let (address, _socket) = refusing_address();
    let proxy = Proxy::start(&format!("routes:\n  - prefix: /\n    upstream: http://{address}\n"));
    expect(&proxy, "/refused", 502, "connect_refused");
}

#[test]
fn a_name_that_does_not_resolve_gives_502() {
    // The name is reserved for never existing (RFC 6761 section 6.4).
    let proxy = Proxy::start("routes:\n  - prefix: /\n    upstream: http://no-such-host.invalid\n");
    expect(&proxy, "/unknown", 502, "dns_fail");
}

#[test]
fn a_path_without_a_route_gives_404() {
    let proxy = Proxy::start(&format!("routes:\n  - prefix: /a\n    upstream: http://{}\n", free_address()));
    expect(&proxy, "/b", 404, "no_route");
}

#[test]
fn an_origin_that_resets_before_it_answers_gives_502() {
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.reset();
    });
    let proxy = Proxy::start(&origin.config(""));
    expect(&proxy, "/reset", 502, "upstream_reset");
}

#[test]
fn an_origin_that_speaks_something_else_gives_502() {
    let cases = [
        ("/ssh", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("/lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        ("/both", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("/status", "HTTP/1.1 2000 OK\r\n\r\n"),
        ("/bare", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    ];
    for (path, answer) in cases {
        let origin = Origin::answering(answer);
        let proxy = Proxy::start(&origin.config(""));
        assert_eq!(proxy.connect().get(path).status(), 502, "{path}");
        let (status, why) = logged(&proxy, path);
        assert_eq!(status, "502", "{path}");
        assert!(!why.is_empty() && why != "-", "{path} has no cause");
    }
}

#[test]
fn g11_an_origin_that_dies_within_the_body_makes_curl_fail() {
    if is_missing("curl") {
        return;
    }
    let cases = [
        ("/length", "Content-Length: 10\r\n\r\n12345"),
        ("/chunked", "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"),
    ];
    for (path, rest) in cases {
        let origin = Origin::start(move |mut peer, _| {
            peer.request();
            peer.send(format!("HTTP/1.1 200 OK\r\n{rest}"));
        });
        let proxy = Proxy::start(&origin.config(""));
        let output = curl(&[&proxy.url(path)]);
        // 18: partial file. 56: failure in receiving, which is what a reset looks like.
        assert!(matches!(output.status.code(), Some(18 | 56)), "{path}: {output:?}");
        assert_eq!(output.stdout, b"12345", "{path}");
        assert_eq!(logged(&proxy, path).1, "upstream_truncated", "{path}");
    }
}

#[test]
fn g12_a_client_that_leaves_is_logged_as_499_and_releases_the_origin() {
    let (left, noticed) = channel();
    let left = Mutex::new(left);
    let origin = Origin::start(move |mut peer, _| {
        peer.request();
        left.lock().expect("one thread only").send("asked").expect("the test waits");
        assert!(peer.is_closed());
        left.lock().expect("one thread only").send("left").expect("the test waits");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("GET /leaves HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(noticed.recv_timeout(PATIENCE), Ok("asked"));
    client.reset();
    assert_eq!(noticed.recv_timeout(PATIENCE), Ok("left"));
    assert_eq!(logged(&proxy, "/leaves"), ("499".to_owned(), "client_gone".to_owned()));
    assert_eq!(origin.connections(), 1, "nothing is tried again for a client that is gone");
}

#[test]
fn g12_a_client_that_leaves_within_a_response_releases_the_origin() {
    let (left, noticed) = channel();
    let left = Mutex::new(left);
    let origin = Origin::start(move |mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        assert!(peer.is_closed());
        left.lock().expect("one thread only").send(()).expect("the test waits");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("GET /leaves HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().expect("a response").status(), 200);
    client.reset();
    noticed.recv_timeout(PATIENCE).expect("the origin is released");
    assert_eq!(logged(&proxy, "/leaves").1, "client_gone");
}

#[test]
fn g23_a_fault_ends_one_connection_only() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut bystander = proxy.connect();
    assert_eq!(bystander.get("/before").status(), 200);
    let junk: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\0\0\0\0",
        b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"GET \xff\xfe HTTP/9.9\r\n\r\n",
    ];
    for bytes in junk {
        let mut client = proxy.connect();
        client.send(bytes);
        client.shutdown();
        // Whatever is answered, the connection ends.
        let _ = client.try_rest();
        assert_eq!(bystander.get("/after").status(), 200, "after {bytes:?}");
    }
}

#[test]
fn g12_a_client_that_sends_no_more_counts_as_gone() {
    // A killed client looks like this, and it is far more common than one that closes its sending half only.
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        assert!(peer.is_closed());
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("GET /half HTTP/1.1\r\nHost: test\r\n\r\n");
    client.shutdown();
    assert_eq!(logged(&proxy, "/half"), ("499".to_owned(), "client_gone".to_owned()));
}

#[test]
fn m8_what_came_before_the_end_is_still_answered_where_no_origin_is_needed() {
    let proxy = Proxy::start(&format!("routes:\n  - prefix: /a\n    upstream: http://{}\n", free_address()));
    let mut client = proxy.connect();
    client.send("GET /health HTTP/1.1\r\nHost: test\r\n\r\n");
    client.shutdown();
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.rest(), b"");
}
