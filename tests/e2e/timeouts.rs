//! Every time-out once, over sockets and with short values.

use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{Origin, PATIENCE, Proxy, Stream, value};

/// An origin that reads requests and never answers.
fn silent() -> Origin {
    Origin::start(|mut peer, _| {
        peer.request();
        assert!(peer.is_closed());
    })
}

#[test]
fn a_slow_request_head_is_answered_with_408() {
    let origin = silent();
    let proxy = Proxy::start(&origin.config("timeouts: { request_head: 300ms }"));
    let mut client = proxy.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: te");
    let response = client.response();
    assert_eq!(response.status(), 408);
    assert_eq!(response.field("Connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    assert!(client.is_closed());
    assert_eq!(origin.connections(), 0);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("timeouts: { keep_alive: 300ms }"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_request_body_that_stops_ends_the_exchange() {
    let origin = silent();
    let proxy = Proxy::start(&origin.config("timeouts: { body_idle: 300ms }"));
    let mut client = proxy.connect();
    client.send("PUT /stops HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    assert_eq!(client.response().status(), 408);
    assert!(client.is_closed());
}

#[test]
fn an_origin_that_does_not_answer_gives_504() {
    let origin = silent();
    let proxy = Proxy::start(&origin.config("timeouts: { response_head: 300ms }"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/silent").status(), 504);
    let line = proxy.access("/silent");
    assert_eq!(value(&line, "why"), Some("response_timeout"), "{line}");
    assert_eq!(value(&line, "status"), Some("504"), "{line}");
}

#[test]
fn a_route_may_have_its_own_time_outs() {
    let origin = silent();
    let url = origin.url();
    let proxy = Proxy::start(&format!(
        "routes:\n  - prefix: /\n    upstream: {url}\n    timeouts: {{ response_head: 300ms }}\n"
    ));
    assert_eq!(proxy.connect().get("/").status(), 504);
}

#[test]
fn an_origin_that_cannot_be_reached_gives_504() {
    // Its backlog is full, and the kernel drops what comes then: to a client it looks like a host that is gone.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a free port");
    listener.listen(0).expect("listens");
    let address = listener.local_addr().expect("an address").as_socket().expect("an IP address");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 16, "the backlog never fills");
    }
    let proxy = Proxy::start(&format!(
        "timeouts: {{ connect: 300ms }}\nroutes:\n  - prefix: /\n    upstream: http://{address}\n"
    ));
    assert_eq!(proxy.connect().get("/away").status(), 504);
    let line = proxy.access("/away");
    assert_eq!(value(&line, "why"), Some("connect_timeout"), "{line}");
}

#[test]
fn g11_an_origin_that_stops_within_the_body_cuts_the_client_off() {
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
        assert!(peer.is_closed());
    });
    let proxy = Proxy::start(&origin.config("timeouts: { response_idle: 300ms }"));
    let mut client = proxy.connect();
    client.send("GET /stops HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().expect("a response").status(), 200);
    assert_eq!(client.bytes(5), b"12345");
    assert!(client.is_closed());
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let (gone, noticed) = channel();
    let gone = Arc::new(Mutex::new(gone));
    let origin = Origin::start(move |mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        // Ends only when the proxy closes.
        assert!(Stream::new(1, u64::MAX / 2).write_to(peer.stream()).is_err());
        gone.lock().expect("one thread only").send(()).expect("the test waits");
    });
    let proxy = Proxy::start(&origin.config("timeouts: { write_idle: 300ms }"));
    let mut client = proxy.connect();
    client.send("GET /unread HTTP/1.1\r\nHost: test\r\n\r\n");
    noticed.recv_timeout(PATIENCE).expect("the origin is released");
}

/// To a reader that was fast the kernel holds 1 MiB that was not sent, and calls the socket writable when half of that is
/// gone. One that takes longer for it is slow, and not silent.
#[test]
fn a_steady_reader_is_not_cut_although_it_was_fast_before() {
    use std::io::{Read, Write};

    const LEN: usize = 40_000_000;
    let origin = Origin::start(|mut peer, _| {
        while peer.request().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"));
            let _ = peer.try_send(vec![b'x'; LEN]);
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1\ntimeouts: { write_idle: 800ms }"));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("an option");
    socket.connect(&proxy.address.into()).expect("a connection");
    let mut client = TcpStream::from(socket);
    client.write_all(b"GET /read HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it is taken");
    let mut buf = vec![0; 20_000];
    let mut count = 0;
    while count < LEN / 2 {
        count += client.read(&mut buf).expect("it goes on");
    }
    // 200 kB a second, then as fast as it comes.
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(100));
        client.read_exact(&mut buf).expect("it goes on");
        count += buf.len();
    }
    while let Ok(len @ 1..) = client.read(&mut buf) {
        count += len;
    }
    assert!(count > LEN, "{count} bytes of head and body");
    let line = proxy.log.wait_for("the end", |line| value(line, "path") == Some("/read"));
    assert_eq!(value(&line, "why"), None, "{line}");
}
