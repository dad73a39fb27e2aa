//! The memory budget, driven into the wall and back (rules E3 and E4).
//!
//! What is compared is anonymous memory: the pages of the binary itself depend on how it was built, not on what clients do.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::proxy::BINARY;
use crate::support::{Launch, Origin, PATIENCE, Peer, Proxy, value, wait_until};

const BUDGET_KIB: u64 = 8 * 1024;
/// Everything that is no buffer: stacks, configuration, read buffers of the workers, what the allocator keeps for itself.
const BASE_KIB: u64 = 3 * 1024;
/// What 8MiB has room for.
const CONNECTIONS: usize = 256;

/// A body without an end, as fast as it goes.
fn flood() -> Origin {
    Origin::start(|mut peer, _| {
        if peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let block = vec![b'x'; 1 << 18];
            while peer.try_send(&block).is_ok() {}
        }
    })
}

/// Three floods, because one origin takes no more than 128 connections, and something that answers.
struct Bench {
    floods: Vec<Origin>,
    echo: Origin,
}

impl Bench {
    fn new() -> Bench {
        Bench { floods: (0..3).map(|_| flood()).collect(), echo: Origin::echo() }
    }

    fn start(&self, flags: &[&str], more: &str) -> Proxy {
        let routes: String = self
            .floods
            .iter()
            .enumerate()
            .map(|(number, origin)| format!("  - {{prefix: /flood{number}, upstream: \"{}\"}}\n", origin.url()))
            .collect();
        let echo = self.echo.url();
        let yaml = format!("routes:\n{routes}  - {{prefix: /, upstream: \"{echo}\"}}\n{more}\n");
        flags.iter().fold(Launch::quiet(&yaml), |launch, flag| launch.arg(flag)).start()
    }
}

/// A client with a receive buffer so small that the kernel cannot hide how slow it is.
fn slow_client(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket takes a size");
    socket.connect(&address.into()).expect("connects");
    socket.into()
}

/// Downloads that begin and are not read, until nothing more moves; `count` of them.
fn begin_slow_downloads(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|number| {
            let mut client = slow_client(proxy.address);
            let request = format!("GET /flood{} HTTP/1.1\r\nHost: test\r\n\r\n", number % 3);
            client.write_all(request.as_bytes()).expect("is taken");
            client
        })
        .collect()
}

/// Heads of 60 KiB that do not end; those that the proxy does not read stay in the kernel.
fn begin_large_heads(proxy: &Proxy) -> Vec<TcpStream> {
    let field = format!("X-Filler: {}\r\n", "x".repeat(1000));
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\n{}", field.repeat(60));
    (0..CONNECTIONS - 40)
        .map(|_| {
            let client = TcpStream::connect(proxy.address).expect("connects");
            client.set_nonblocking(true).expect("a socket");
            let _ = (&client).write(head.as_bytes());
            client
        })
        .collect()
}

/// A download that is read all the time, to see that what is under way goes on.
struct Download(Peer);

impl Download {
    fn begin(proxy: &Proxy) -> Download {
        let mut client = proxy.connect();
        client.send("GET /flood0 HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.head().expect("a response").status(), 200);
        Download(client)
    }

    /// Reads so much more; fails when that takes too long.
    fn goes_on(&mut self, what: &str) {
        let start = Instant::now();
        let mut left = 8 << 20;
        while left > 0 {
            left = usize::saturating_sub(left, self.0.some_bytes().unwrap_or_else(|e| panic!("{what}: {e}")).len());
            assert!(start.elapsed() < PATIENCE, "{what}: it stands still");
        }
    }
}

/// Whether a new request is answered within `time`.
fn is_served(proxy: &Proxy, time: Duration) -> bool {
    is_answered(proxy.address, "/", time)
}

fn is_answered(address: SocketAddr, target: &str, time: Duration) -> bool {
    let mut client = TcpStream::connect(address).expect("the kernel takes the connection");
    client.set_read_timeout(Some(time)).expect("a socket");
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).expect("is taken");
    match client.read_exact(&mut [0]) {
        Ok(()) => true,
        Err(error)
            if [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::UnexpectedEof].contains(&error.kind()) =>
        {
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// The memory when it has stopped to change.
fn settled_memory_kib(proxy: &Proxy) -> u64 {
    let mut last = 0;
    wait_until("the memory to settle", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = proxy.own_memory_kib();
        std::mem::replace(&mut last, now) == now
    });
    last
}

#[test]
fn e3_the_connection_limit_is_made_of_budget_and_descriptors_and_told() {
    let bench = Bench::new();
    for (flags, more, script, budget, expected, by) in [
        (&["-memory-budget", "8MiB"][..], "", "ulimit -n 2000", "8MiB", CONNECTIONS, "memory_budget"),
        (&["-memory-budget=1MiB"], "", "ulimit -n 2000", "1MiB", 32, "memory_budget"),
        (&[], "limits: {memory_budget: 2097152}", "ulimit -n 2000", "2MiB", 64, "memory_budget"),
        (&["-memory-budget", "4MiB"], "limits: {memory_budget: 2MiB}", "ulimit -n 2000", "4MiB", 128, "memory_budget"),
        // One pipe for each 64 descriptors, two ends each, and 64 in reserve; the rest in pairs.
        (&["-memory-budget", "8MiB"], "", "ulimit -n 264", "8MiB", (264 - 64 - 4 * 2) / 2, "descriptors"),
        (&["-memory-budget", "8MiB"], "limits: {max_connections: 7}", "ulimit -n 2000", "8MiB", 7, "max_connections"),
        (&["-memory-budget", "unlimited"], "", "ulimit -n 264", "unlimited", (264 - 64 - 4 * 2) / 2, "descriptors"),
    ] {
        let yaml = format!("routes: [{{prefix: /, upstream: \"{}\"}}]\nworkers: 1\n{more}\n", bench.echo.url());
        let launch = flags.iter().fold(Launch::after(script, &yaml), |launch, flag| launch.arg(flag));
        let line = launch.start().log.wait_for("the limits", |line| line.contains("msg=\"limits\""));
        assert_eq!(
            value(&line, "connections"),
            Some(expected.to_string().as_str()),
            "{flags:?} {more} {script}: {line}"
        );
        let told = (value(&line, "memory_budget"), value(&line, "connections_by"));
        assert_eq!(told, (Some(budget), Some(by)), "{line}");
    }
}

#[test]
fn a_bad_budget_is_one_line() {
    for (size, expected) in [
        ("lots", "-memory-budget: expected a size such as 65536, 64KiB or 1MiB, or unlimited, found \"lots\""),
        ("1KiB", "-memory-budget: 1KiB is out of range: write one from 1MiB to 2GiB"),
        ("1024", "-memory-budget: 1KiB is out of range: write one from 1MiB to 2GiB"),
        ("-1", "-memory-budget needs a value"),
    ] {
        let folder = tempfile::TempDir::new().expect("a folder");
        fs::write(folder.path().join("config.yaml"), "routes: [{prefix: /, upstream: \"http://127.0.0.1:9\"}]")
            .expect("a file");
        let output = Command::new(BINARY)
            .args(["-check", "-memory-budget", size])
            .current_dir(folder.path())
            .output()
            .expect("the binary runs");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(expected), "{size}: {message}");
    }
}

/// Nothing more is read for a peer that has not taken what came before, so that even hundreds of them reach no wall.
#[test]
fn e4_slow_readers_hold_one_small_read_each_and_others_are_served_beside_them() {
    let bench = Bench::new();
    let proxy = bench.start(&["-memory-budget", "8MiB"], "workers: 1\ntimeouts: {write_idle: 1h}");
    let mut download = Download::begin(&proxy);
    // Afterwards the worker has all that it needs but for its clients.
    download.goes_on("alone");
    let before = settled_memory_kib(&proxy);
    let crowd = begin_slow_downloads(&proxy, CONNECTIONS - 40);
    let each = |held: u64| held.saturating_sub(before) / crowd.len() as u64;
    // If they were not slow, the test would prove nothing.
    wait_until("each slow reader to hold something", || each(proxy.own_memory_kib()) >= 4);
    let held = settled_memory_kib(&proxy);
    eprintln!("slow readers: {before} KiB before, {held} KiB held");
    // 8 KiB that were read, and what an exchange needs; a second read would be 8 KiB more.
    assert!(each(held) <= 17, "{} KiB for each, {held} KiB in all", each(held));
    assert!(is_served(&proxy, PATIENCE), "a new request is not served");
    download.goes_on("beside slow readers");

    drop(crowd);
    let clients: Vec<Peer> = (0..50).map(|_| proxy.connect()).collect();
    for mut client in clients {
        assert_eq!(client.get("/").status(), 200);
    }
    download.goes_on("after them");
}

#[test]
fn e4_large_heads_are_bounded_by_the_budget_and_waiting_requests_are_served_afterwards() {
    let bench = Bench::new();
    let more = "workers: 1\nadmin: {listen_addr: \"127.0.0.1:0\"}\nlimits: {max_head_bytes: 64KiB}\n\
                timeouts: {request_head: 8s}";
    let proxy = bench.start(&["-memory-budget", "8MiB"], more);
    let admin = proxy.address_of("admin");
    let mut download = Download::begin(&proxy);
    let crowd = begin_large_heads(&proxy);
    let mut most = 0;
    let mut were_kept_waiting = false;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        most = most.max(proxy.own_memory_kib());
        were_kept_waiting |= !is_served(&proxy, Duration::from_millis(100));
        assert!(is_answered(admin, "/health", Duration::from_secs(4)), "a supervisor would end the proxy");
        download.goes_on("beside large heads");
    }
    eprintln!("large heads: {most} KiB held");
    assert!(most <= BUDGET_KIB + BASE_KIB, "{most} KiB were held");
    assert!(were_kept_waiting, "no wall was reached: {most} KiB");
    // Their time is up: 408, and everything is served again while they are still there.
    wait_until("a new request to be served", || is_served(&proxy, Duration::from_millis(500)));
    drop(crowd);
    assert_eq!(proxy.connect().get("/").status(), 200);
    assert!(proxy.own_memory_kib() <= BUDGET_KIB + BASE_KIB);
}

#[test]
fn e4_a_connection_whose_next_request_waits_for_memory_is_not_idle() {
    let bench = Bench::new();
    let more = "workers: 1\nlimits: {max_head_bytes: 64KiB}\ntimeouts: {request_head: 18s, keep_alive: 8s}";
    let proxy = bench.start(&["-memory-budget", "8MiB"], more);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    let crowd = begin_large_heads(&proxy);
    wait_until("memory to be short", || !is_served(&proxy, Duration::from_secs(1)));
    // It would be closed without an answer when the connection has been kept alive for long enough.
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response().status(), 200);
    drop(crowd);
}

#[test]
fn e4_without_a_budget_the_same_heads_take_more() {
    let bench = Bench::new();
    let more = "workers: 1\nlimits: {max_head_bytes: 64KiB}\ntimeouts: {request_head: 1h}";
    let proxy = bench.start(&[], more);
    let crowd = begin_large_heads(&proxy);
    let held = settled_memory_kib(&proxy);
    eprintln!("without a budget: {held} KiB held");
    assert!(held > BUDGET_KIB + BASE_KIB, "{held} KiB: the tests with a budget prove nothing");
    drop(crowd);
}
