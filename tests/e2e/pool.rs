//! Upstream connections: used again, noticed when they close, tried once more where that is allowed.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::{Origin, PATIENCE, Proxy, value};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn connections_are_used_again_over_clients() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("workers: 1"));
    for _ in 0..20 {
        assert_eq!(proxy.connect().get("/x").status(), 200);
    }
    assert_eq!(origin.connections(), 1);
    let lines = proxy.log.wait_for_many("access log lines", 2, |line| value(line, "path") == Some("/x"));
    assert_eq!(value(&lines[0], "reused"), Some("false"), "{}", lines[0]);
    assert_eq!(value(&lines[1], "reused"), Some("true"), "{}", lines[1]);
}

#[test]
fn m12_a_connection_that_its_origin_closes_while_idle_is_not_used() {
    let (closed, noticed) = channel();
    let closed = Mutex::new(closed);
    let origin = Origin::start(move |mut peer, number| {
        peer.request();
        peer.send(OK);
        if number == 0 {
            peer.shutdown();
            // The proxy notices at once and closes its own end.
            assert_eq!(peer.rest(), b"");
            closed.lock().expect("one thread only").send(()).expect("the test waits");
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/first").status(), 200);
    noticed.recv_timeout(PATIENCE).expect("the proxy closes the idle connection");
    assert_eq!(client.get("/second").status(), 200);
    let line = proxy.access("/second");
    assert_eq!((value(&line, "reused"), value(&line, "retries")), (Some("false"), Some("0")), "{line}");
}

#[test]
fn bytes_on_an_idle_connection_are_never_taken_for_a_response() {
    let (sent, noticed) = channel();
    let sent = Mutex::new(sent);
    let origin = Origin::start(move |mut peer, number| {
        peer.request();
        peer.send(OK);
        if number == 0 {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            assert!(peer.is_closed());
            sent.lock().expect("one thread only").send(()).expect("the test waits");
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/first").text(), "ok");
    noticed.recv_timeout(PATIENCE).expect("the proxy closes the connection");
    assert_eq!(client.get("/second").text(), "ok");
}

/// An origin whose first connection dies when the second request arrives on it: a stale connection as it is seen when
/// the close crosses the request on the way.
fn stale() -> Origin {
    Origin::start(|mut peer, number| {
        peer.request();
        peer.send(OK);
        if number == 0 {
            peer.head();
            peer.reset();
        } else {
            while peer.request().is_some() {
                peer.send(OK);
            }
        }
    })
}

#[test]
fn g17_a_stale_connection_is_retried_once_where_the_request_may_be_repeated() {
    let origin = stale();
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/first").status(), 200);
    assert_eq!(client.get("/again").status(), 200);
    let line = proxy.access("/again");
    assert_eq!(value(&line, "retries"), Some("1"), "{line}");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn g17_a_request_that_may_not_be_repeated_is_never_sent_twice() {
    let origin = stale();
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/first").status(), 200);
    client.send("POST /once HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.response().status(), 502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn idle_connections_are_closed_after_their_time() {
    let (closed, noticed) = channel();
    let closed = Mutex::new(closed);
    let origin = Origin::start(move |mut peer, _| {
        peer.request();
        peer.send(OK);
        assert_eq!(peer.rest(), b"");
        closed.lock().expect("one thread only").send(()).expect("the test waits");
    });
    let proxy = Proxy::start(&origin.config("workers: 1\npool: { idle_timeout: 300ms }"));
    assert_eq!(proxy.connect().get("/").status(), 200);
    noticed.recv_timeout(PATIENCE).expect("the proxy closes the idle connection");
}

#[test]
fn a_response_without_an_end_of_its_own_ends_with_its_connection() {
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.0 200 OK\r\n\r\nold style");
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = proxy.connect();
    for _ in 0..2 {
        // A client of HTTP/1.1 gets it in chunks and keeps its connection, or by close; either way the whole of it.
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status(), response.text()), (200, "old style"));
        if response.field("Transfer-Encoding").is_none() {
            client = proxy.connect();
        }
    }
    // And a client of HTTP/1.0 by close.
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!(response.field("Transfer-Encoding"), None);
    assert_eq!(response.text(), "old style");
}

#[test]
fn without_room_nothing_is_kept() {
    for (pool, connections) in [
        ("{max_age: 1h}", 1),
        ("{max_idle: 0}", 2),
        ("{max_idle_per_upstream: 0}", 2),
        ("{max_idle_per_upstream: 1}", 1),
    ] {
        let origin = Origin::echo();
        let proxy = Proxy::start(&origin.config(&format!("workers: 1\npool: {pool}")));
        let mut client = proxy.connect();
        for _ in 0..2 {
            assert_eq!(client.get("/").status(), 200);
        }
        assert_eq!(origin.connections(), connections, "{pool}");
    }
}

/// The first part of a long read is looked at alone: a response that ends exactly there, and bytes behind it.
#[test]
fn s18_bytes_behind_a_response_of_exactly_one_part_end_its_connection() {
    for len in [4095, 4096, 4097] {
        let origin = Origin::start(move |mut peer, number| {
            while peer.request().is_some() {
                let head = "HTTP/1.1 200 OK\r\nX-Connection: N\r\nContent-Length: 4000\r\nX-Fill: "
                    .replace('N', &number.to_string());
                let fill = "x".repeat(len - 4000 - head.len() - 4);
                let body = "y".repeat(4000);
                // As much as makes a long read, in one write.
                let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil".repeat(1500);
                if peer.try_send(format!("{head}{fill}\r\n\r\n{body}{surplus}")).is_err() {
                    return;
                }
            }
        });
        let proxy = Proxy::start(&origin.config("workers: 1"));
        let mut client = proxy.connect();
        for expected in 0..4 {
            let response = client.get("/");
            assert_eq!(response.field("X-Connection"), Some(&*expected.to_string()), "{len}");
            assert_eq!(response.body.len(), 4000, "{len}");
        }
    }
}
