//! WebSockets: a client and a server that no one here wrote, and raw tunnels.

use std::net::TcpStream;

use tungstenite::protocol::{CloseFrame, WebSocket, frame::coding::CloseCode};
use tungstenite::{Message, error::Error};

use crate::support::{Origin, Proxy, value};

/// A server that sends messages back and answers pings and closes as the library does.
fn echo_server() -> Origin {
    Origin::start(|peer, _| {
        let (stream, _) = peer.into_parts();
        let mut socket = tungstenite::accept(stream).expect("a handshake");
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                socket.send(message).expect("the echo is taken");
            }
        }
    })
}

fn open(proxy: &Proxy) -> WebSocket<TcpStream> {
    let (stream, _) = proxy.connect().into_parts();
    let (socket, response) =
        tungstenite::client(format!("ws://{}/chat?room=1", proxy.address), stream).expect("a handshake");
    assert_eq!(response.status().as_u16(), 101);
    socket
}

#[test]
fn messages_of_all_kinds_and_sizes_come_back() {
    let origin = echo_server();
    let proxy = Proxy::start(&origin.config(""));
    let mut socket = open(&proxy);
    let long = "x".repeat(1_000_000);
    for message in
        [Message::text("hello"), Message::binary(vec![0, 255, 13, 10]), Message::text(""), Message::text(long)]
    {
        socket.send(message.clone()).expect("is taken");
        assert!(socket.read().expect("comes back") == message, "the message comes back as it was");
    }
    socket.send(Message::Ping("still there?".into())).expect("is taken");
    assert_eq!(socket.read().expect("a pong"), Message::Pong("still there?".into()));
}

#[test]
fn the_close_handshake_passes() {
    let origin = echo_server();
    let proxy = Proxy::start(&origin.config(""));
    let mut socket = open(&proxy);
    let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    socket.close(Some(frame.clone())).expect("is taken");
    assert_eq!(socket.read().expect("the answer"), Message::Close(Some(frame)));
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    // The server has closed already; the tunnel is over when the client does the same.
    drop(socket);
    proxy.access("/chat");
}

const HANDSHAKE: &str = "GET /t HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn g14_a_refused_upgrade_stays_http() {
    let origin = Origin::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n");
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(HANDSHAKE);
        let response = client.response();
        assert_eq!((response.status(), response.text()), (403, "no\n"));
    }
}

#[test]
fn g14_early_bytes_of_both_sides_arrive() {
    let origin = Origin::start(|mut peer, _| {
        let request = peer.head().expect("a request");
        assert_eq!(request.field("Upgrade"), Some("websocket"));
        assert_eq!(request.field("Connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
        // The first bytes of the tunnel come with the head, in one segment.
        peer.send(format!("{SWITCHED}from the origin"));
        assert_eq!(peer.bytes(15), b"from the client");
        peer.send("done");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send(format!("{HANDSHAKE}from the client"));
    let response = client.head().expect("a response");
    assert_eq!(response.status(), 101);
    assert_eq!(response.field("Upgrade"), Some("websocket"));
    assert_eq!(client.bytes(15), b"from the origin");
    assert_eq!(client.rest(), b"done");
}

#[test]
fn g15_the_end_of_one_direction_leaves_the_other_open() {
    let origin = Origin::start(|mut peer, _| {
        peer.head().expect("a request");
        peer.send(SWITCHED);
        // The client's end arrives here as an end, and not as a reset.
        assert_eq!(peer.rest(), b"question");
        peer.send("answer");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send(HANDSHAKE);
    assert_eq!(client.head().expect("a response").status(), 101);
    client.send("question");
    client.shutdown();
    assert_eq!(client.rest(), b"answer");
}

#[test]
fn a_tunnel_is_never_used_again() {
    let origin = Origin::start(|mut peer, number| {
        peer.head().expect("a request");
        if number == 0 {
            peer.send(SWITCHED);
            assert_eq!(peer.rest(), b"");
        } else {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = proxy.connect();
    client.send(HANDSHAKE);
    assert_eq!(client.head().expect("a response").status(), 101);
    client.shutdown();
    assert_eq!(client.rest(), b"");
    assert_eq!(proxy.connect().get("/plain").status(), 200);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn g14_http_2_is_never_offered_to_the_origin() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
    let response = client.response();
    assert_eq!(response.status(), 200);
    let seen = response.text().to_ascii_lowercase();
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
}

#[test]
fn an_idle_tunnel_ends() {
    let origin = Origin::start(|mut peer, _| {
        peer.head().expect("a request");
        peer.send(SWITCHED);
        assert!(peer.is_closed());
    });
    let proxy = Proxy::start(&origin.config("timeouts: { tunnel_idle: 300ms }"));
    let mut client = proxy.connect();
    client.send(HANDSHAKE);
    assert_eq!(client.head().expect("a response").status(), 101);
    assert!(client.is_closed());
}

/// What the upstream sent before it was gone is delivered, and the reset comes behind it.
#[test]
fn g11_a_tunnel_that_is_reset_delivers_what_came_before() {
    use std::io::{Read, Write};

    const LEN: usize = 100_000;
    let origin = Origin::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        peer.send(vec![b'x'; LEN]);
        // Until the proxy has it.
        std::thread::sleep(std::time::Duration::from_millis(300));
        peer.reset();
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option");
    socket.connect(&proxy.address.into()).expect("a connection");
    let mut client = TcpStream::from(socket);
    client
        .write_all(b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .expect("it is taken");
    let line = proxy.log.wait_for("the end", |line| value(line, "path") == Some("/t"));
    assert_eq!(value(&line, "why"), Some("upstream_truncated"), "{line}");
    let (mut count, mut buf) = (0, [0; 4096]);
    let end = loop {
        match client.read(&mut buf) {
            Ok(0) => break None,
            Ok(len) => count += buf[..len].iter().filter(|byte| **byte == b'x').count(),
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!((count, end), (LEN, Some(std::io::ErrorKind::ConnectionReset)));
}
