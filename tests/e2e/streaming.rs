//! Nothing is kept back and nothing piles up: events, large bodies, slow peers.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use socket2::SockRef;

use crate::support::{Origin, PATIENCE, Peer, Proxy, Stream};

/// The whole process may never hold more than this, whatever passes through it.
const MAX_MEMORY_KIB: u64 = 32 * 1024;

const GIB: u64 = 1 << 30;

/// Waits for the test's permission to go on.
fn wait_for(step: &Mutex<Receiver<()>>) {
    step.lock().expect("one thread only").recv_timeout(PATIENCE).expect("the test goes on");
}

#[test]
fn g13_the_first_event_arrives_while_the_response_is_open() {
    let cases: [(&str, &str, &str, &str); 4] = [
        ("chunked", "Transfer-Encoding: chunked\r\n", "7\r\nevent 1\r\n", "7\r\nevent 2\r\n0\r\n\r\n"),
        ("closed at the end", "Connection: close\r\n", "event 1", "event 2"),
        ("by length", "Content-Length: 14\r\n", "event 1", "event 2"),
        (
            "events",
            "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
            "7\r\nevent 1\r\n",
            "7\r\nevent 2\r\n0\r\n\r\n",
        ),
    ];
    for (name, fields, first, second) in cases {
        let (go_on, step) = channel();
        let step = Mutex::new(step);
        let origin = Origin::start(move |mut peer, _| {
            peer.request();
            peer.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            wait_for(&step);
            peer.send(first);
            wait_for(&step);
            peer.send(second);
        });
        let proxy = Proxy::start(&origin.config(""));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        // Each step of the origin is taken only when the last one has arrived.
        let head = client.head().expect("a response");
        assert_eq!(head.status(), 200, "{name}");
        let is_chunked = head.field("Transfer-Encoding").is_some();
        go_on.send(()).expect("the origin waits");
        if is_chunked {
            assert_eq!(client.line().as_deref(), Some("7"), "{name}");
        }
        assert_eq!(client.bytes(7), b"event 1", "{name}");
        go_on.send(()).expect("the origin waits");
        let rest = String::from_utf8(client.rest()).expect("text");
        assert!(rest.contains("event 2"), "{name}: {rest}");
        assert_eq!(rest.ends_with("0\r\n\r\n"), is_chunked, "{name}: {rest}");
    }
}

#[test]
fn a_request_body_is_passed_on_while_it_arrives() {
    let (arrived, part) = channel();
    let arrived = Mutex::new(arrived);
    let origin = Origin::start(move |mut peer, _| {
        let head = peer.head().expect("a request");
        assert_eq!(head.field("Content-Length"), Some("8"));
        for _ in 0..2 {
            assert_eq!(peer.bytes(4), b"part");
            arrived.lock().expect("one thread only").send(()).expect("the test waits");
        }
        peer.send("HTTP/1.1 204 No Content\r\n\r\n");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\n");
    for _ in 0..2 {
        client.send("part");
        part.recv_timeout(PATIENCE).expect("the part arrives");
    }
    assert_eq!(client.response().status(), 204);
}

#[test]
fn a_gibibyte_comes_down_in_constant_memory() {
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"));
        Stream::new(1, GIB).write_to(peer.stream()).expect("all is taken");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("GET /down HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().expect("a response").field("Content-Length"), Some("1073741824"));
    Stream::new(1, GIB).compare(&mut client).expect("the same bytes");
    assert!(proxy.peak_memory_kib() < MAX_MEMORY_KIB, "{} KiB", proxy.peak_memory_kib());
}

#[test]
fn a_gibibyte_goes_up_in_constant_memory() {
    let origin = Origin::start(|mut peer, _| {
        assert_eq!(peer.head().expect("a request").field("Content-Length"), Some("1073741824"));
        Stream::new(2, GIB).compare(&mut peer).expect("the same bytes");
        peer.send("HTTP/1.1 204 No Content\r\n\r\n");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send(format!("PUT /up HTTP/1.1\r\nHost: test\r\nContent-Length: {GIB}\r\n\r\n"));
    Stream::new(2, GIB).write_to(client.stream()).expect("all is taken");
    assert_eq!(client.response().status(), 204);
    assert!(proxy.peak_memory_kib() < MAX_MEMORY_KIB, "{} KiB", proxy.peak_memory_kib());
}

/// Writes a stream in chunks of 16,000 bytes, with the last chunk.
struct Chunks<'a>(&'a Peer);

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = bytes.len().min(16_000);
        let mut stream = self.0.stream();
        stream.write_all(format!("{len:x}\r\n").as_bytes())?;
        stream.write_all(&bytes[..len])?;
        stream.write_all(b"\r\n")?;
        Ok(len)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn large_chunked_bodies_are_the_same_in_both_directions() {
    const LEN: u64 = 16 << 20;
    let origin = Origin::start(|mut peer, _| {
        let request = peer.request().expect("a request");
        Stream::new(3, LEN).compare(&request.body[..]).expect("the same bytes");
        assert_eq!(request.body.len() as u64, LEN);
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        Stream::new(4, LEN).write_to(Chunks(&peer)).expect("all is taken");
        peer.send("0\r\n\r\n");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    Stream::new(3, LEN).write_to(Chunks(&client)).expect("all is taken");
    client.send("0\r\n\r\n");
    let response = client.response();
    Stream::new(4, LEN).compare(&response.body[..]).expect("the same bytes");
    assert_eq!(response.body.len() as u64, LEN);
    assert!(proxy.peak_memory_kib() < MAX_MEMORY_KIB, "{} KiB", proxy.peak_memory_kib());
}

/// Far more than all socket buffers between the two ends can hold.
const FLOOD: u64 = 256 << 20;

/// Writes until the other side takes no more for a while, and says how much it took until then.
fn write_until_blocked(peer: &Peer, stream: &mut Stream) -> u64 {
    peer.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("a socket takes a time-out");
    let blocked = stream.write_to(peer.stream());
    assert!(blocked.is_err(), "nothing ever stopped the sender");
    peer.stream().set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
    stream.position()
}

#[test]
fn a_slow_reader_stops_the_fast_sender() {
    let (blocked, taken) = channel();
    let blocked = Mutex::new(blocked);
    let origin = Origin::start(move |mut peer, _| {
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD}\r\n\r\n"));
        let mut stream = Stream::new(5, FLOOD);
        let taken = write_until_blocked(&peer, &mut stream);
        blocked.lock().expect("one thread only").send(taken).expect("the test waits");
        // The client begins to read now: nothing of what was held back is lost.
        stream.write_to(peer.stream()).expect("all is taken");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let taken = taken.recv_timeout(PATIENCE).expect("the origin is stopped");
    assert!(taken < FLOOD / 4, "{taken} bytes were taken for a client that does not read");
    assert!(proxy.peak_memory_kib() < MAX_MEMORY_KIB, "{} KiB", proxy.peak_memory_kib());
    client.head().expect("a response");
    Stream::new(5, FLOOD).compare(&mut client).expect("the same bytes");
}

#[test]
fn a_slow_origin_stops_the_fast_client() {
    let (go_on, step) = channel();
    let step = Mutex::new(step);
    let origin = Origin::start(move |mut peer, _| {
        peer.head().expect("a request");
        wait_for(&step);
        Stream::new(6, FLOOD).compare(&mut peer).expect("the same bytes");
        peer.send("HTTP/1.1 204 No Content\r\n\r\n");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send(format!("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {FLOOD}\r\n\r\n"));
    let mut stream = Stream::new(6, FLOOD);
    let taken = write_until_blocked(&client, &mut stream);
    assert!(taken < FLOOD / 4, "{taken} bytes were taken for an origin that does not read");
    assert!(proxy.peak_memory_kib() < MAX_MEMORY_KIB, "{} KiB", proxy.peak_memory_kib());
    go_on.send(()).expect("the origin waits");
    stream.write_to(client.stream()).expect("all is taken");
    assert_eq!(client.response().status(), 204);
}

#[test]
fn m9_the_tail_of_a_response_survives_the_close_behind_it() {
    const LEN: u64 = 3 << 20;
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.0 200 OK\r\n\r\n");
        Stream::new(7, LEN).write_to(peer.stream()).expect("all is taken");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    SockRef::from(client.stream()).set_recv_buffer_size(256 * 1024).expect("a socket takes a buffer size");
    client.send("GET / HTTP/1.0\r\n\r\n");
    let head = client.head().expect("a response");
    assert_eq!((head.field("Content-Length"), head.field("Transfer-Encoding")), (None, None));
    Stream::new(7, LEN).compare(&mut client).expect("the same bytes");
    assert_eq!(client.rest(), b"");
}

#[test]
fn g9_interim_responses_pass_before_the_final_one() {
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\n");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    let early = client.get("/");
    assert_eq!((early.status(), early.field("Link")), (103, Some("</x.css>")));
    let response = client.response();
    assert_eq!((response.status(), response.text()), (200, "hi"));
}

#[test]
fn g16_trailers_of_a_response_pass() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let proxy = Proxy::start(&origin.config(""));
    let response = proxy.connect().get("/");
    assert_eq!((response.status(), response.text()), (200, "hi"));
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "7".to_owned())]);
}

#[test]
fn g22_pipelined_requests_are_answered_in_order() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    let requests: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    client.send(requests);
    for number in 0..50 {
        assert!(client.response().text().starts_with(&format!("GET /{number} HTTP/1.1\n")));
    }
}
