//! TLS on both sides at once: large bodies, tunnels, and readers that are slow to the end.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustls::StreamOwned;
use socket2::SockRef;
use tungstenite::Message;

use crate::certificates::Authority;
use crate::ends::{Client, Served, client_config, config, connect, dial, end, listen, origin, rest, session};
use crate::support::{PATIENCE, Peer, Proxy, Stream};

/// What a debug build does in the same time is less.
const LARGE: u64 = if cfg!(debug_assertions) { 64 << 20 } else { 1 << 30 };

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const UPGRADE: &str = "GET /t HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn start(
    authority: &Authority,
    serve: impl Fn(Served, usize) + Send + Sync + 'static,
) -> (crate::support::Origin, Proxy) {
    let pair = authority.issue(&["localhost"]);
    let origin = origin(&pair, serve);
    let yaml = config(&origin, authority, &listen(&pair));
    (origin, Proxy::start(&yaml))
}

#[test]
fn large_bodies_keep_every_byte_both_ways() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, |mut peer, _| {
        while let Some(request) = peer.head() {
            match request.method() {
                "PUT" => {
                    Stream::new(1, LARGE).compare(&mut peer).expect("every byte of the upload");
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsame");
                }
                _ => {
                    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
                    Stream::new(2, LARGE).write_to(peer.inner()).expect("is taken");
                }
            }
        }
    });
    let mut client = connect(proxy.address, &authority, "localhost");
    client.send("GET /down HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().expect("a response").status(), 200);
    Stream::new(2, LARGE).compare(&mut client).expect("every byte of the download");
    drop(client);

    let mut client = connect(proxy.address, &authority, "localhost");
    client.send(format!("PUT /up HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n"));
    Stream::new(1, LARGE).write_to(client.inner()).expect("is taken");
    assert_eq!(client.response().text(), "same");
    assert!(proxy.peak_memory_kib() < 32 * 1024, "{} KiB", proxy.peak_memory_kib());
}

#[test]
fn websockets_work() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, |mut peer, _| {
        let mut socket = tungstenite::accept(Through(&mut peer)).expect("a handshake");
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                socket.send(message).expect("the echo is taken");
            }
        }
    });
    let mut client = connect(proxy.address, &authority, "localhost");
    let (mut socket, response) = tungstenite::client("ws://localhost/chat", client.inner()).expect("a handshake");
    assert_eq!(response.status().as_u16(), 101);
    let long = "x".repeat(1_000_000);
    for message in
        [Message::text("hello"), Message::binary(vec![0, 255, 13, 10]), Message::text(""), Message::text(long)]
    {
        socket.send(message.clone()).expect("is taken");
        assert!(socket.read().expect("comes back") == message, "the message comes back as it was");
    }
    socket.close(None).expect("is taken");
    while socket.read().is_ok() {}
}

/// Reads what the peer has buffered too.
struct Through<'a>(&'a mut Served);

impl Read for Through<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl std::io::Write for Through<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.inner().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.inner().flush()
    }
}

#[test]
fn g15_the_end_of_one_direction_leaves_the_other_open() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, |mut peer, _| {
        peer.head().expect("a request");
        peer.send(SWITCHED);
        // The client's end arrives here as a true end.
        assert_eq!(peer.rest(), b"question");
        peer.send("answer");
        end(peer.inner());
    });
    let mut client = connect(proxy.address, &authority, "localhost");
    client.send(UPGRADE);
    assert_eq!(client.head().expect("a response").status(), 101);
    client.send("question");
    end(client.inner());
    let (bytes, end) = rest(&mut client);
    assert_eq!(bytes, b"answer");
    assert!(end.is_ok(), "{end:?}");
}

#[test]
fn g11_a_tunnel_that_is_cut_is_cut_for_the_other_end_too() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, |mut peer, _| {
        peer.head().expect("a request");
        peer.send(format!("{SWITCHED}some bytes"));
        // No close_notify: whatever else there was to say is missing.
    });
    let mut client = connect(proxy.address, &authority, "localhost");
    client.send(UPGRADE);
    assert_eq!(client.head().expect("a response").status(), 101);
    assert!(rest(&mut client).1.is_err());
}

/// A client whose kernel takes little at once. (Less than two packets of the loopback would make TCP itself crawl.)
fn narrow_client(proxy: &Proxy, authority: &Authority) -> Client {
    let socket = dial(proxy.address);
    SockRef::from(&socket).set_recv_buffer_size(256 * 1024).expect("a socket takes a size");
    let mut stream = rustls::StreamOwned::new(session(client_config(authority), "localhost"), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    }
    Peer::over(stream)
}

#[test]
fn m11_what_was_encrypted_leaves_though_the_exchange_is_over() {
    const LEN: u64 = 6 << 20;
    let authority = Authority::new();
    let (sender, told) = channel();
    let sender = Mutex::new(sender);
    let (_origin, proxy) = start(&authority, move |mut peer, _| {
        peer.head().expect("a request");
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        Stream::new(3, LEN).write_to(peer.inner()).expect("is taken");
        end(peer.inner());
        sender.lock().expect("whole").send(()).expect("the test waits");
        let _ = peer.try_rest();
    });
    for round in 0..4 {
        let mut client = narrow_client(&proxy, &authority);
        client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
        assert_eq!(client.head().expect("a response").status(), 200);
        // In small steps, so that the last bytes wait for the reader again and again.
        let mut body = Stream::new(3, LEN);
        body.compare(&mut client).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let (more, end) = rest(&mut client);
        assert!(more.is_empty() && end.is_ok(), "round {round}: {end:?}: the end is said when all was read");
        told.recv_timeout(PATIENCE).expect("the origin is done");
    }
}

#[test]
fn m11_a_reader_that_stops_at_the_very_end_is_given_up_in_time() {
    let authority = Authority::new();
    // Little enough that the origin is done with it, too much for the client's kernel.
    const LEN: u64 = 6 << 20;
    let pair = authority.issue(&["localhost"]);
    let origin = origin(&pair, |mut peer, _| {
        peer.head().expect("a request");
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\nConnection: close\r\n\r\n"));
        let _ = Stream::new(3, LEN).write_to(peer.inner());
    });
    // The route's own time-out counts, also for what is left when its request is over.
    let config = config(&origin, &authority, &listen(&pair));
    let proxy = Proxy::start(&config.replace("\nupstream_tls", "\n    timeouts: { write_idle: 300ms }\nupstream_tls"));
    let before = proxy.descriptors();
    let mut client = narrow_client(&proxy, &authority);
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.head().expect("a response").status(), 200);
    let line = proxy.access("/");
    assert!(line.contains("why=client_write_timeout"), "{line}");
    let deadline = std::time::Instant::now() + PATIENCE;
    // The closing of a socket is no event for another process.
    while proxy.descriptors() > before {
        assert!(std::time::Instant::now() < deadline, "the connection is still open");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn m5_an_unread_last_answer_does_not_keep_the_idle_from_making_room() {
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    let origin = origin(&pair, |mut peer, _| {
        while let Some(request) = peer.head() {
            let len: u64 = request.target()[1..].parse().expect("a length");
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"));
            if Stream::new(3, len).write_to(peer.inner()).is_err() {
                return;
            }
        }
    });
    let more = format!("limits: {{max_connections: 3}}\npool: {{max_idle: 0}}\n{}", listen(&pair));
    let proxy = Proxy::start(&config(&origin, &authority, &more));
    let mut stuck = narrow_client(&proxy, &authority);
    // More than the kernel takes for a client that does not read.
    stuck.send("GET /33554432 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(stuck.head().expect("a response").status(), 200);
    let mut idle: Vec<Client> = (0..2).map(|_| connect(proxy.address, &authority, "localhost")).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.get("/10").status(), 200));
    let begin = std::time::Instant::now();
    assert_eq!(connect(proxy.address, &authority, "localhost").get("/11").status(), 200);
    // Far less than timeouts.write_idle.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn e5_a_handshake_that_goes_on_while_the_proxy_begins_to_stop_is_finished_and_the_request_answered() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, |mut peer, _| {
        peer.head().expect("a request");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let (mut socket, mut session) = (dial(proxy.address), session(client_config(&authority), "localhost"));
    // Longer than a connection stays that was not used.
    std::thread::sleep(Duration::from_millis(1100));
    session.write_tls(&mut socket).expect("is taken");
    session.read_tls(&mut socket).expect("the server's part");
    session.process_new_packets().expect("of a handshake");
    proxy.signal("TERM");
    proxy.log.wait_for("the signal", |line| line.contains("stopping"));
    std::thread::sleep(Duration::from_millis(100));
    let mut client = Peer::over(StreamOwned::new(session, socket));
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn a_login_that_holds_for_a_connection_is_its_clients_alone() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, |mut peer, number| {
        let mut user = String::new();
        while let Some(request) = peer.head() {
            if let Some(value) = request.field("Authorization") {
                user = value.trim_start_matches("NTLM ").to_owned();
            }
            let body = format!("{number} {user}");
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let ask = |client: &mut Client, more: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{more}\r\n"));
        client.response().text().to_owned()
    };
    let mut alice = connect(proxy.address, &authority, "localhost");
    assert_eq!(ask(&mut alice, "Authorization: NTLM alice\r\n"), "0 alice");
    let mut bob = connect(proxy.address, &authority, "localhost");
    // Whatever worker he is at.
    let other = ask(&mut bob, "");
    assert!(other.ends_with(' ') && !other.starts_with('0'), "{other}");
    assert_eq!(ask(&mut alice, ""), "0 alice");
}
