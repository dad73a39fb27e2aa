//! The loop over real sockets: a server in this process, clients and origins in the test's own threads. Everything waits
//! for events; the only times are time-outs that mean failure.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::config::{
    Config, Endpoint, ListenAddr, PoolLimits, RouteConfig, RouteOptions, RouteTarget, Scheme, UpstreamUrl,
};
use crate::proxy::cause::Cause;
use crate::proxy::proxy_connection::{AccessRecord, Observer};

use super::dns::Lookup;
use super::server::{Server, ServerOptions};

/// What the workers said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Access { status: u16, reused: bool, why: Option<&'static str> },
    Warning(String),
}

struct Ear(Sender<Said>);

/// The status of an answer that is logged with a panic.
const TRAP: u16 = 418;

impl Observer for Ear {
    fn access(&mut self, record: &AccessRecord<'_>) {
        assert_ne!(record.log.status, TRAP, "on purpose: a fault within an exchange");
        let _ = self.0.send(Said::Access {
            status: record.log.status,
            reused: record.log.reused,
            why: record.log.cause.map(Cause::why),
        });
    }
    fn warn(&mut self, message: fmt::Arguments<'_>) {
        let _ = self.0.send(Said::Warning(message.to_string()));
    }
}

/// Names as the test wants them.
#[derive(Default)]
struct Names(HashMap<&'static str, Vec<SocketAddr>>);

impl Lookup for Names {
    fn lookup(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        self.0.get(host).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

struct Proxy {
    server: Option<Server>,
    address: String,
    said: Receiver<Said>,
}

const PATIENCE: Duration = Duration::from_secs(10);

fn route(prefix: &str, host: &str, port: u16) -> RouteConfig {
    let upstream = UpstreamUrl {
        scheme: Scheme::Http,
        endpoint: Endpoint::Tcp { host: host.to_owned(), port },
        authority: format!("{host}:{port}"),
        base_path: String::new(),
        authorization: None,
    };
    RouteConfig {
        hosts: Arc::default(),
        prefix: prefix.to_owned(),
        target: RouteTarget::Upstreams(Arc::new([upstream])),
        options: Arc::new(RouteOptions::default()),
    }
}

fn config(routes: Vec<RouteConfig>) -> Config {
    let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let listen_addr = vec![ListenAddr::Tcp { addr, dual_stack: false, fallback_v4: false }];
    Config { listen_addr, routes: Arc::new(routes), workers: 1, ..Config::default() }
}

impl Proxy {
    fn start(config: Config, names: Names) -> Proxy {
        let (sender, said) = channel();
        let sender = Mutex::new(sender);
        let server = Server::start(ServerOptions {
            config: Arc::new(config),
            inherited: Vec::new(),
            takeover: false,
            hooks: None.into(),
            lookup: Box::new(names),
            new_log: Arc::new(move || Box::new(Ear(sender.lock().expect("a sender").clone()))),
            on_end: Box::new(|| {}),
        })
        .expect("a server");
        Proxy { address: server.addresses()[0].0.to_owned(), server: Some(server), said }
    }

    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    fn heard(&self) -> Said {
        self.said.recv_timeout(PATIENCE).expect("the proxy says something")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            let result = server.join();
            assert!(result.is_ok() || std::thread::panicking(), "a worker was lost");
        }
    }
}

/// An origin that the test plays by hand.
struct Origin(TcpListener);

impl Origin {
    fn new() -> Origin {
        Origin(TcpListener::bind("127.0.0.1:0").expect("loopback"))
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("bound").port()
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.0.accept().expect("the proxy connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }
}

/// Reads up to the end of a head, and what came with it.
fn read_head(stream: &mut TcpStream) -> String {
    read_until(stream, b"\r\n\r\n")
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end) {
        match stream.read_exact(&mut byte) {
            Ok(()) => bytes.push(byte[0]),
            Err(error) => panic!("after {:?}: {error}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8(bytes).expect("ASCII")
}

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: proxy.test\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One request and its answer, over open connections.
fn once(client: &mut TcpStream, origin: &mut TcpStream) {
    client.write_all(GET).expect("write");
    assert!(read_head(origin).starts_with("GET /x HTTP/1.1\r\n"));
    origin.write_all(OK).expect("write");
    assert!(read_until(client, b"\r\n\r\nok").starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_built_in_answers_over_a_socket() {
    let proxy = Proxy::start(config(Vec::new()), Names::default());
    let mut client = proxy.client();
    client.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
    let answer = read_until(&mut client, b"{\"message\":\"OK\"}");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn connections_are_reused_over_requests_and_clients() {
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut first = proxy.client();
    first.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    upstream.write_all(OK).expect("write");
    read_until(&mut first, b"ok");
    assert_eq!(proxy.heard(), Said::Access { status: 200, reused: false, why: None });
    let mut second = proxy.client();
    for client in [&mut first, &mut second] {
        for _ in 0..3 {
            once(client, &mut upstream);
            assert_eq!(proxy.heard(), Said::Access { status: 200, reused: true, why: None });
        }
    }
}

#[test]
fn m12_a_pooled_connection_that_closes_is_discarded_at_once() {
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut client = proxy.client();
    for junk in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        client.write_all(GET).expect("write");
        let mut upstream = origin.accept();
        read_head(&mut upstream);
        upstream.write_all(OK).expect("write");
        read_until(&mut client, b"ok");
        assert_eq!(proxy.heard(), Said::Access { status: 200, reused: false, why: None });
        upstream.write_all(junk).expect("write");
        // It fails where the proxy was quicker and has reset the connection.
        let _ = upstream.shutdown(Shutdown::Write);
        // The proxy hangs up too: it has noticed.
        let mut rest = Vec::new();
        match upstream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(rest, b"");
    }
}

#[test]
fn the_newest_idle_connection_is_used_first_and_the_oldest_goes_when_there_are_too_many() {
    for (max_idle, max_idle_per_upstream) in [(2, 64), (256, 2)] {
        let server = Origin::new();
        let mut config = config(vec![route("/", "127.0.0.1", server.port())]);
        config.pool = PoolLimits { max_idle, max_idle_per_upstream, ..PoolLimits::default() };
        let proxy = Proxy::start(config, Names::default());
        let mut pairs: Vec<_> = (0..3)
            .map(|_| {
                let mut client = proxy.client();
                client.write_all(GET).expect("write");
                let mut upstream = server.accept();
                read_head(&mut upstream);
                (client, upstream)
            })
            .collect();
        for (client, upstream) in &mut pairs {
            upstream.write_all(OK).expect("write");
            read_until(client, b"\r\n\r\nok");
            proxy.heard();
        }
        assert_eq!(pairs[0].1.read_to_end(&mut Vec::new()).expect("a clean end"), 0, "the oldest is closed");
        let mut client = proxy.client();
        once(&mut client, &mut pairs[2].1);
        pairs[2].1.write_all(b"x").expect("write");
        assert_eq!(pairs[2].1.read_to_end(&mut Vec::new()).expect("a clean end"), 0, "a byte too many ends it");
        once(&mut client, &mut pairs[1].1);
    }
}

#[test]
fn m7_a_refused_address_goes_on_to_the_next_and_all_are_used_in_turn() {
    let origin = Origin::new();
    let good = origin.0.local_addr().expect("bound");
    let dead = Origin::new().0.local_addr().expect("bound, then closed");
    let names = Names(HashMap::from([("origin.test", vec![dead, good, dead]), ("dead.test", vec![dead, dead])]));
    let routes = vec![route("/", "origin.test", 80), route("/dead", "dead.test", 80), route("/gone", "gone.test", 80)];
    let mut config = config(routes);
    config.pool.max_idle = 0;
    let proxy = Proxy::start(config, names);
    let mut client = proxy.client();
    for _ in 0..4 {
        client.write_all(GET).expect("write");
        let mut upstream = origin.accept();
        read_head(&mut upstream);
        upstream.write_all(OK).expect("write");
        read_until(&mut client, b"ok");
        assert_eq!(proxy.heard(), Said::Access { status: 200, reused: false, why: None });
    }
    for (path, name, why) in [("/dead", "dead.test", "connect_refused"), ("/gone", "gone.test", "dns_fail")] {
        let mut client = proxy.client();
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("write");
        assert!(read_head(&mut client).starts_with("HTTP/1.1 502 "), "{path}");
        assert_eq!(proxy.heard(), Said::Access { status: 502, reused: false, why: Some(why) });
        assert_eq!(proxy.heard(), Said::Warning(format!("a request to upstream {name}:80 failed ({why})")));
    }
}

#[test]
fn m7_an_address_that_does_not_answer_goes_on_to_the_next() {
    // A queue of one place that is taken: the kernel lets further attempts wait.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into()).expect("loopback");
    full.listen(0).expect("a listener");
    let dead = full.local_addr().expect("bound").as_socket().expect("an address");
    let _filler = TcpStream::connect(dead).expect("the only place");
    let origin = Origin::new();
    let good = origin.0.local_addr().expect("bound");
    let names = Names(HashMap::from([("origin.test", vec![dead, good]), ("dead.test", vec![dead])]));
    let mut config = config(vec![route("/", "origin.test", 80), route("/dead", "dead.test", 80)]);
    // What routes say for themselves counts.
    config.timeouts.connect.address = 10 * PATIENCE;
    config.timeouts.connect.total = 10 * PATIENCE;
    for route in Arc::make_mut(&mut config.routes) {
        let mut options = RouteOptions::default();
        options.timeouts.connect.address = Duration::from_millis(50);
        route.options = Arc::new(options);
    }
    let proxy = Proxy::start(config, names);
    let mut client = proxy.client();
    client.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    upstream.write_all(OK).expect("write");
    read_until(&mut client, b"ok");
    assert_eq!(proxy.heard(), Said::Access { status: 200, reused: false, why: None });
    client.write_all(b"GET /dead HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
    assert!(read_head(&mut client).starts_with("HTTP/1.1 504 "));
    assert_eq!(proxy.heard(), Said::Access { status: 504, reused: false, why: Some("connect_timeout") });
}

#[test]
fn g23_a_fault_ends_one_connection_only() {
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut bystander = proxy.client();
    bystander.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    let mut unlucky = proxy.client();
    unlucky.write_all(GET).expect("write");
    let mut trapped = origin.accept();
    read_head(&mut trapped);
    trapped.write_all(b"HTTP/1.1 418 \r\nContent-Length: 0\r\n\r\n").expect("write");
    let mut rest = Vec::new();
    // Whatever was written before the fault, then the end; or a reset.
    let _ = unlucky.read_to_end(&mut rest);
    assert!(matches!(proxy.heard(), Said::Warning(text) if text.contains("a fault in the proxy ended one connection")));
    upstream.write_all(OK).expect("write");
    read_until(&mut bystander, b"ok");
    assert_eq!(proxy.heard(), Said::Access { status: 200, reused: false, why: None });
    once(&mut bystander, &mut upstream);
}

#[test]
fn large_bodies_pass_both_ways_and_keep_their_bytes() {
    const LEN: usize = 8 * 1024 * 1024 + 13;
    let body: Arc<Vec<u8>> = Arc::new((0..LEN).map(|n| (n * 7 + n / 251) as u8).collect());
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut client = proxy.client();
    let mut sender = client.try_clone().expect("a socket");
    let sent = Arc::clone(&body);
    let upload = std::thread::spawn(move || {
        let head = format!("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: {LEN}\r\n\r\n");
        sender.write_all(head.as_bytes()).expect("write");
        sender.write_all(&sent).expect("write");
    });
    let expected = Arc::clone(&body);
    let echo = std::thread::spawn(move || {
        let mut upstream = origin.accept();
        read_head(&mut upstream);
        let mut received = vec![0; LEN];
        upstream.read_exact(&mut received).expect("the whole body");
        assert!(received == *expected, "the upload was changed");
        upstream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").as_bytes()).expect("write");
        upstream.write_all(&received).expect("write");
    });
    read_head(&mut client);
    let mut received = vec![0; LEN];
    client.read_exact(&mut received).expect("the whole body");
    assert!(received == *body, "the download was changed");
    upload.join().expect("the upload");
    echo.join().expect("the origin");
    assert_eq!(proxy.heard(), Said::Access { status: 200, reused: false, why: None });
}

#[test]
fn m2_each_piece_is_written_when_it_arrives() {
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut client = proxy.client();
    client.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").expect("write");
    read_head(&mut client);
    // The poller told once that the client's socket is writable, and never again: nothing was ever left over.
    for _ in 0..5 {
        upstream.write_all(b"data: x\n\n").expect("write");
        read_until(&mut client, b"data: x\n\n");
    }
}

#[test]
fn m9_the_tail_for_a_slow_reader_is_not_lost_when_the_connection_ends() {
    const LEN: usize = 24 * 1024 * 1024;
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut client = proxy.client();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    let sender = std::thread::spawn(move || {
        upstream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").expect("write");
        upstream.write_all(&vec![b'x'; LEN]).expect("write");
    });
    read_head(&mut client);
    let mut body = Vec::new();
    client.read_to_end(&mut body).expect("a clean end");
    assert_eq!(body.iter().filter(|&&byte| byte == b'x').count(), LEN);
    sender.join().expect("the origin");
}

#[test]
fn g12_a_client_that_goes_away_releases_the_upstream() {
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut client = proxy.client();
    client.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(client);
    assert_eq!(proxy.heard(), Said::Access { status: 499, reused: false, why: Some("client_gone") });
    let end = upstream.read(&mut [0; 8]);
    assert!(matches!(&end, Ok(0)) || end.is_err(), "{end:?}");
}

#[test]
fn m10_a_slow_head_is_answered_with_408_and_an_idle_connection_is_closed() {
    let mut config = config(Vec::new());
    config.timeouts.request_head = Duration::from_millis(50);
    config.timeouts.keep_alive = Duration::from_millis(50);
    let proxy = Proxy::start(config, Names::default());
    let mut slow = proxy.client();
    slow.write_all(b"GET /health HT").expect("write");
    assert!(read_head(&mut slow).starts_with("HTTP/1.1 408 "));
    let mut idle = proxy.client();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
    read_until(&mut idle, b"\"OK\"}");
    assert_eq!(idle.read_to_end(&mut Vec::new()).expect("a clean end"), 0);
    let mut silent = proxy.client();
    assert_eq!(silent.read_to_end(&mut Vec::new()).expect("a clean end"), 0);
}

#[test]
fn e5_draining_finishes_what_is_in_flight_and_closes_the_rest() {
    let origin = Origin::new();
    let mut proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut idle = proxy.client();
    let mut busy = proxy.client();
    busy.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    let mut server = proxy.server.take().expect("running");
    server.drain();
    assert_eq!(idle.read_to_end(&mut Vec::new()).expect("a clean end"), 0);
    upstream.write_all(OK).expect("write");
    let answer = read_until(&mut busy, b"ok");
    assert!(answer.contains("Connection: close\r\n"), "{answer}");
    assert_eq!(busy.read_to_end(&mut Vec::new()).expect("a clean end"), 0);
    assert!(server.join().is_ok());
    assert!(TcpStream::connect(&proxy.address).is_err(), "nobody listens any more");
}

#[test]
fn e5_draining_ends_when_its_time_is_over() {
    let origin = Origin::new();
    let mut config = config(vec![route("/", "127.0.0.1", origin.port())]);
    config.timeouts.drain = Duration::from_millis(50);
    let mut proxy = Proxy::start(config, Names::default());
    let mut busy = proxy.client();
    busy.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    let mut server = proxy.server.take().expect("running");
    server.drain();
    assert!(server.join().is_ok(), "though the origin never answers");
}

#[test]
fn m5_newcomers_wait_at_the_limit_and_the_longest_idle_client_makes_room() {
    let mut config = config(Vec::new());
    config.limits.max_connections = Some(3);
    let proxy = Proxy::start(config, Names::default());
    let ask = |client: &mut TcpStream| {
        client.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
        read_until(client, b"\"OK\"}")
    };
    let mut oldest = proxy.client();
    ask(&mut oldest);
    let mut others: Vec<TcpStream> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut others {
        ask(client);
    }
    assert_eq!(oldest.read_to_end(&mut Vec::new()).expect("a clean end"), 0);
}

#[test]
fn m5_the_operator_has_places_when_all_others_are_taken() {
    let mut config = config(Vec::new());
    config.limits.max_connections = Some(3);
    config.admin.listen_addr = config.listen_addr.clone();
    let proxy = Proxy::start(config, Names::default());
    let admin = proxy.server.as_ref().expect("running").addresses()[1].0.to_owned();
    let ask = |client: &mut TcpStream, path: &str, end: &[u8]| {
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("write");
        read_until(client, end)
    };
    // Requests that are under way: nobody is idle.
    let mut public: Vec<TcpStream> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut public {
        client.write_all(b"GET /x HTTP/1.1\r\n").expect("write");
    }
    match proxy.heard() {
        Said::Warning(text) => assert!(text.starts_with("all 3 places of this worker are taken"), "{text}"),
        other => panic!("{other:?}"),
    }
    let mut waiting = proxy.client();
    waiting.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
    // More of the operator's than there are places: the one that is idle longest makes room among themselves.
    let mut operators: Vec<TcpStream> = (0..18).map(|_| TcpStream::connect(&admin).expect("it listens")).collect();
    for client in &mut operators {
        ask(client, "/health", b"\"OK\"}");
    }
    let operator = operators.last_mut().expect("eighteen");
    let text = ask(operator, "/metrics", b"mini_rproxy_client_connections_refused_total 0\n");
    assert!(text.contains("mini_rproxy_client_connections_max 3\n"), "{text}");
    assert!(text.contains("mini_rproxy_client_connections_max_reached_total 1\n"), "{text}");
    waiting.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    waiting.read(&mut [0; 8]).expect_err("it waits");
    drop(public.pop());
    waiting.set_read_timeout(Some(PATIENCE)).expect("a socket");
    read_until(&mut waiting, b"\"OK\"}");
}

#[test]
fn m4_a_busy_client_does_not_starve_others() {
    let origin = Origin::new();
    let proxy = Proxy::start(config(vec![route("/", "127.0.0.1", origin.port())]), Names::default());
    let mut busy = proxy.client();
    busy.write_all(GET).expect("write");
    let mut upstream = origin.accept();
    read_head(&mut upstream);
    // A stream without end, and a client that reads it as fast as it can.
    let flood = std::thread::spawn(move || {
        let _ = upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let block = vec![b'x'; 1 << 16];
        while upstream.write_all(&block).is_ok() {}
    });
    let sink = std::thread::spawn(move || {
        let mut block = vec![0; 1 << 16];
        let mut total: u64 = 0;
        while total < 64 << 20 {
            total += busy.read(&mut block).expect("bytes") as u64;
        }
    });
    let mut polite = proxy.client();
    for _ in 0..50 {
        polite.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
        read_until(&mut polite, b"\"OK\"}");
    }
    sink.join().expect("64 MiB");
    flood.join().expect("the origin");
}
