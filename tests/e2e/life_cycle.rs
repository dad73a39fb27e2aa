//! From start to end: signals, and the odd places in which a proxy has to work.

use std::io::{BufRead, BufReader, pipe};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::support::{Launch, Origin, PATIENCE, Peer, Proxy, free_address, send_signal};

/// An origin that sends half of a body, tells so, and waits before it sends the rest.
fn in_two_halves() -> (Origin, Receiver<()>, Sender<()>) {
    let (half, is_half) = channel();
    let (go_on, step) = channel();
    let (half, step) = (Mutex::new(half), Mutex::new(step));
    let origin = Origin::start(move |mut peer, _| {
        if peer.request().is_none() {
            return;
        }
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
        half.lock().expect("one thread only").send(()).expect("the test waits");
        if step.lock().expect("one thread only").recv_timeout(PATIENCE).is_ok() {
            peer.send("67890");
        }
    });
    (origin, is_half, go_on)
}

/// Returns as soon as nobody accepts connections there any more.
fn wait_until_refused(proxy: &Proxy) {
    let deadline = Instant::now() + PATIENCE;
    // The end of listening is no event that another process could wait for.
    while TcpStream::connect(proxy.address).is_ok() {
        assert!(Instant::now() < deadline, "connections are still accepted");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn begin_download(proxy: &Proxy, is_half: &Receiver<()>) -> Peer {
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    is_half.recv_timeout(PATIENCE).expect("the origin is asked");
    assert_eq!(client.head().expect("a response").status(), 200);
    client
}

#[test]
fn e5_a_signal_lets_the_download_finish_and_refuses_what_is_new() {
    for signal in ["TERM", "INT"] {
        let (origin, is_half, go_on) = in_two_halves();
        // So long that a proxy which waits for its end fails the test.
        let mut proxy = Proxy::start(&origin.config("timeouts: { drain: 1h }"));
        let mut client = begin_download(&proxy, &is_half);
        proxy.signal(signal);
        wait_until_refused(&proxy);
        go_on.send(()).expect("the origin waits");
        assert_eq!(client.bytes(10), b"1234567890", "{signal}");
        assert_eq!(client.rest(), b"", "{signal}");
        assert_eq!(proxy.wait().code(), Some(0), "{signal}");
    }
}

/// A response that has begun before the signal does not say that it is the last one: the client may send the next request
/// as soon as it ends.
#[test]
fn e5_a_client_that_was_not_told_of_the_end_may_ask_once_more() {
    let (go_on, step) = channel();
    let step = Mutex::new(step);
    let origin = Origin::start(move |mut peer, _| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
            step.lock().expect("one thread only").recv_timeout(PATIENCE).expect("the test goes on");
            peer.send("67890");
        }
    });
    let mut proxy = Proxy::start(&origin.config("timeouts: { drain: 1h }"));
    let mut client = proxy.connect();
    client.send("GET /first HTTP/1.1\r\nHost: test\r\n\r\n");
    let first = client.head().expect("a response");
    assert_eq!(first.field("Connection"), None, "{first:?}");
    proxy.signal("TERM");
    wait_until_refused(&proxy);
    go_on.send(()).expect("the origin waits");
    assert_eq!(client.bytes(10), b"1234567890");
    go_on.send(()).expect("the origin waits");
    let second = client.get("/second");
    assert_eq!((second.status(), second.field("Connection")), (200, Some("close")), "{second:?}");
    assert_eq!(client.rest(), b"");
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn e5_a_second_signal_ends_it_at_once() {
    let (origin, is_half, go_on) = in_two_halves();
    let mut proxy = Proxy::start(&origin.config("timeouts: { drain: 1h }"));
    let mut client = begin_download(&proxy, &is_half);
    proxy.signal("TERM");
    wait_until_refused(&proxy);
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(128 + 15));
    proxy.log.wait_for("the log's last line", |line| line.contains("stopping now: a second signal"));
    assert!(client.try_rest().is_ok_and(|rest| rest == b"12345") || client.is_closed());
    drop(go_on);
}

#[test]
fn e5_the_drain_has_an_end() {
    let (origin, is_half, go_on) = in_two_halves();
    let mut proxy = Proxy::start(&origin.config("timeouts: { drain: 300ms }"));
    let _client = begin_download(&proxy, &is_half);
    proxy.signal("TERM");
    proxy.wait();
    drop(go_on);
}

#[test]
fn e5_idle_connections_do_not_hold_it_up() {
    let origin = Origin::echo();
    let mut proxy = Proxy::start(&origin.config("timeouts: { drain: 1h }"));
    let mut used = proxy.connect();
    assert_eq!(used.get("/").status(), 200);
    let mut unused = proxy.connect();
    proxy.signal("TERM");
    assert_eq!(used.rest(), b"");
    assert!(unused.is_closed());
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn e7_an_unprivileged_user_and_an_empty_environment_are_enough() {
    let origin = Origin::echo();
    let proxy = Launch::unprivileged(&origin.config("")).empty_env().start();
    assert_eq!(proxy.connect().get("/").status(), 200);
}

#[test]
fn e7_process_1_of_an_empty_root_works_and_ends() {
    let origin = Origin::echo();
    let Some(launch) = Launch::as_process_1(&origin.config("")) else { return };
    let mut proxy = launch.start();
    assert_eq!(proxy.connect().get("/").status(), 200);
    let mut files: Vec<_> = std::fs::read_dir(proxy.folder().join("root")).expect("a folder").flatten().collect();
    files.retain(|file| !file.file_name().to_string_lossy().starts_with("lib"));
    assert_eq!(files.len(), 2, "something was written: {files:?}");
    // The kernel drops signals that process 1 has no handler for.
    send_signal(proxy.child_pid(), "TERM");
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn e6_a_closed_standard_output_is_no_reason_to_stop() {
    let origin = Origin::echo();
    let address = free_address();
    let proxy = Launch::after("exec >&-", &origin.config(&format!("listen_addr: {address}"))).start_at(address);
    for _ in 0..10 {
        assert_eq!(proxy.connect().get("/").status(), 200);
    }
}

#[test]
fn e6_a_reader_of_the_log_that_has_gone_is_no_reason_to_stop() {
    let origin = Origin::echo();
    let address = free_address();
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let proxy = Launch::new(&origin.config(&format!("listen_addr: {address}"))).stdout(writer).start_at(address);
    for _ in 0..10 {
        assert_eq!(proxy.connect().get("/").status(), 200);
    }
}

#[test]
fn e6_a_full_pipe_stops_the_log_and_not_the_proxy() {
    let origin = Origin::echo();
    let address = free_address();
    let (reader, writer) = pipe().expect("a pipe");
    let yaml = origin.config(&format!("listen_addr: {address}\nlimits: {{ max_requests_per_connection: 0 }}"));
    let mut proxy = Launch::new(&yaml).stdout(writer).start_at(address);
    let mut client = proxy.connect();
    // Nobody reads: 2,000 lines of 100 bytes and more are three times what a pipe holds.
    for _ in 0..2000 {
        assert_eq!(client.get("/a-path-that-makes-the-line-a-little-longer").status(), 200);
    }
    drop(client);
    // Now somebody reads; the next line that finds room tells how many were lost.
    let lines = crate::support::lines::Lines::default();
    lines.collect(reader);
    lines.wait_for("an access log line", |line| line.contains("/a-path-that"));
    assert_eq!(proxy.connect().get("/later").status(), 200);
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    lines.wait_for("the number of lost lines", |line| line.contains("lost"));
}

#[test]
fn the_start_is_reported() {
    let origin = Origin::echo();
    let proxy = Launch::new(&origin.config("workers: 3\nlimits: {memory_budget: 2097152}")).start();
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.access("/");
    let report = proxy.log.all().join("\n");
    for word in ["listening", "workers=3", "routes", "connections", " memory_budget=2MiB "] {
        assert!(report.contains(word), "{word} is not in the report:\n{report}");
    }
}

#[test]
fn several_addresses_and_unix_sockets_are_listened_on() {
    let origin = Origin::echo();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("proxy.sock");
    let yaml = origin.config(&format!("listen_addr: [\"127.0.0.1:0\", \"[::1]:0\", \"unix:{}\"]", socket.display()));
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let yaml = if has_ipv6 { yaml } else { yaml.replace("\"[::1]:0\", ", "") };
    let proxy = Proxy::start(&yaml);
    assert_eq!(proxy.connect().get("/").status(), 200);
    if has_ipv6 {
        let line = proxy.log.wait_for("the IPv6 address", |line| line.contains("listening") && line.contains("[::1]:"));
        let port = line.split("[::1]:").nth(1).expect("just found").chars().take_while(char::is_ascii_digit);
        let port: u16 = port.collect::<String>().parse().expect("a port");
        let mut client = Peer::connect((std::net::Ipv6Addr::LOCALHOST, port).into());
        assert!(client.get("/").text().contains("X-Forwarded-For: ::1\n"));
    }
    proxy.log.wait_for("the socket's path", |line| line.contains("listening") && line.contains("proxy.sock"));
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("connects");
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("is taken");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
}
