//! Example plugins in the built proxy, together with what they talk to: a service that is asked, a file, slow passwords.
#![cfg(feature = "builtin-plugins")]

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use tempfile::TempDir;

#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

use support::{Launch, Origin, Peer, Proxy};

/// A service that the test plays itself.
struct Service(TcpListener);

impl Service {
    fn new() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        // A test that fails must not wait for ever.
        listener.set_nonblocking(true).expect("a socket");
        Service(listener)
    }

    /// One worker, and `forward_auth` in front of `origin`.
    fn proxy(&self, origin: &Origin, more: &str) -> Proxy {
        let url = format!("http://{}/auth", self.0.local_addr().expect("it listens"));
        let plugin = format!("plugins:\n  - builtin: forward_auth\n    config: {{url: \"{url}\", copy: [X-User]}}\n");
        Proxy::start(&origin.config(&format!("workers: 1\n{plugin}{more}")))
    }

    /// The next connection, on which it was asked about `target`.
    fn asked_about(&self, target: &str) -> Peer {
        let mut accepted = None;
        support::wait_until("a question", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        });
        let stream = accepted.expect("waited for").0;
        stream.set_nonblocking(false).expect("a socket");
        let mut peer = Peer::new(stream);
        let question = peer.request().expect("a question");
        assert_eq!(question.field("X-Forwarded-Uri"), Some(target));
        peer
    }
}

const YES: &str = "HTTP/1.1 200 OK\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n";
/// For who cannot see when the plugin has read it: the next question comes over a connection of its own in any case.
const LAST_YES: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n";

fn get(peer: &mut Peer, target: &str) {
    peer.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\nX-User: root\r\n\r\n"));
}

#[test]
fn a_request_that_waits_for_a_service_holds_up_nobody() {
    let (origin, service) = (Origin::echo(), Service::new());
    let proxy = service.proxy(&origin, "");
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    get(&mut first, "/first");
    let mut about_first = service.asked_about("/first");
    // The first one waits; the second one is served meanwhile, by the only worker.
    get(&mut second, "/second");
    service.asked_about("/second").send(YES);
    let response = second.response();
    assert_eq!(response.status(), 200);
    assert!(response.text().contains("X-User: ann\n") && !response.text().contains("root"), "{}", response.text());
    about_first.send("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 3\r\n\r\nno\n");
    let response = first.response();
    assert_eq!((response.status(), response.field("Location"), response.text()), (302, Some("/login"), "no\n"));
    // Both connections go on, and the service is asked over the ones that it has.
    get(&mut first, "/third");
    about_first.request().expect("a question");
    about_first.send("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(first.response().status(), 502);
    proxy.log.wait_for("the reason", |line| line.contains("answered 500") && line.contains("path=/third"));
    let metrics = proxy.connect().get("/metrics").text().to_owned();
    assert!(metrics.contains("mini_rproxy_plugin_forward_auth_failed_total 1\n"), "{metrics}");
}

#[test]
fn a_body_waits_in_the_client_while_a_service_is_asked() {
    let (origin, service) = (Origin::echo(), Service::new());
    let proxy = service.proxy(&origin, "");
    let mut peer = proxy.connect();
    peer.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nhello");
    let mut about = service.asked_about("/body");
    peer.send(" world");
    about.send(YES);
    let response = peer.response();
    assert_eq!(response.status(), 200);
    assert!(response.text().contains(&support::fingerprint(b"hello world")), "{}", response.text());
}

#[test]
fn a_client_that_leaves_while_it_waits_and_an_answer_that_comes_too_late() {
    let (origin, service) = (Origin::echo(), Service::new());
    let proxy = service.proxy(&origin, "timeouts: {plugin: 1s}\n");
    let mut client = proxy.connect();
    get(&mut client, "/left");
    let mut about_left = service.asked_about("/left");
    client.reset();
    assert!(proxy.access("/left").contains("status=499"));
    about_left.send(LAST_YES);
    // Nobody answers this one in time.
    let mut client = proxy.connect();
    get(&mut client, "/late");
    let mut about_late = service.asked_about("/late");
    assert_eq!(client.response().status(), 504);
    about_late.send(LAST_YES);
    // Neither answer has harmed anyone.
    let mut client = proxy.connect();
    get(&mut client, "/next");
    service.asked_about("/next").send(LAST_YES);
    assert_eq!(client.response().status(), 200);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn request_ids_are_on_every_answer_and_in_the_log() {
    let origin = Origin::start(|mut peer, _| {
        // It answers once, then it only closes.
        if peer.request().is_some_and(|request| request.target() == "/good") {
            let _ = peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(&origin.config("plugins:\n  - builtin: request_id\n"));
    for (target, status) in [("/good", 200), ("/bad", 502)] {
        let response = proxy.connect().get(target);
        assert_eq!(response.status(), status);
        let id = response.field("X-Request-Id").unwrap_or_else(|| panic!("{target} has none: {response:?}"));
        assert!(proxy.access(target).contains(&format!("request_id={id}")), "{}", proxy.access(target));
    }
}

#[test]
fn the_json_log_tells_what_clients_got() {
    let (origin, folder) = (Origin::echo(), TempDir::new().expect("a temporary folder"));
    let file = folder.path().join("log");
    let plugins = format!(
        "plugins:\n  - builtin: request_id\n  - builtin: access_log_json\n    config: {{file: {}}}\n",
        file.display()
    );
    let mut proxy = Proxy::start(&origin.config(&plugins));
    let response = proxy.connect().get("/a?b");
    let id = response.field("X-Request-Id").expect("it has one").to_owned();
    // An end of its own writes what is in the queue.
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    let line = std::fs::read_to_string(&file).expect("the log");
    let line: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
    let is = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    assert_eq!((line["status"].as_u64(), is("method"), is("target")), (Some(200), "GET".to_owned(), "/a?b".to_owned()));
    assert_eq!((is("request_id"), is("source"), is("host")), (id, "upstream".to_owned(), "test".to_owned()));
    assert_eq!(line["bytes_out"].as_u64(), Some(response.body.len() as u64));
}

#[test]
fn only_json_is_held_back_by_a_plugin_that_changes_json() {
    const LEN: usize = 3_000_000;
    let origin = Origin::start(|mut peer, _| {
        while let Some(request) = peer.request() {
            let (kind, body) = match request.target() {
                "/json" => ("application/json", "{\"a\": 1}".to_owned()),
                "/large.json" => ("application/json", " ".repeat(LEN)),
                _ => ("application/octet-stream", "x".repeat(LEN)),
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
            if peer.try_send(head + &body).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&origin.config("plugins:\n  - builtin: json_rewrite\n    config: {remove: [/a]}\n"));
    assert_eq!(proxy.connect().get("/json").text(), "{}");
    assert_eq!(proxy.connect().get("/download").body.len(), LEN, "above plugin_body_limit");
    assert_eq!(proxy.connect().get("/large.json").status(), 502);
}

/// So many users, each with the password "secret" under a hash of that cost, and the proxy in front of which they log in.
fn guarded(origin: &Origin, users: usize, cost: u32, more: &str) -> (Proxy, TempDir) {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("htpasswd");
    // A salt and a hash that no password has, cut to the right length: who logs in gets 401, after the same work.
    let hash = "abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzABCDC";
    let mut lines = String::new();
    for user in 0..users {
        writeln!(lines, "user{user}:$2b${cost:02}${hash}").expect("text grows");
    }
    std::fs::write(&file, lines).expect("a file");
    let config = format!(
        "workers: 1\nlimits: {{max_requests_per_connection: 0}}\n\
        plugins:\n  - builtin: basic_auth\n    config: {{htpasswd: {}{more}}}\n",
        file.display()
    );
    (Launch::quiet(&origin.config(&config)).start(), folder)
}

fn login(proxy: &Proxy, user: usize) -> Peer {
    let mut peer = proxy.connect();
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("user{user}:secret"));
    peer.send(format!("GET / HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {credentials}\r\n\r\n"));
    peer
}

#[test]
fn others_are_answered_while_a_password_is_checked() {
    let origin = Origin::echo();
    let (proxy, _folder) = guarded(&origin, 1, 10, "");
    let mut crowd: Vec<Peer> = (0..4).map(|_| login(&proxy, 0)).collect();
    // They came before, on the only worker; each needs much longer than a round trip.
    assert_eq!(proxy.connect().get("/").status(), 401);
    let last = crowd.last().expect("four of them").stream();
    last.set_nonblocking(true).expect("a socket");
    let is_waiting = last.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    last.set_nonblocking(false).expect("a socket");
    assert!(is_waiting, "the last of them is answered after one that came later");
    assert!(crowd.iter_mut().all(|peer| peer.response().status() == 401));
}

/// Run with `make bench-logins`.
#[test]
#[ignore = "a measurement: make bench-logins"]
fn p99_beside_eight_logins() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (proxy, _folder) = guarded(&origin, 8, 10, ", checks_per_second: 1000");
    let p99 = |count: usize| {
        let mut peer = proxy.connect();
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            assert_eq!(peer.get("/").status(), 401);
            times.push(start.elapsed());
        }
        times.sort_unstable();
        times[times.len() * 99 / 100]
    };
    p99(2000);
    let alone = p99(20_000);
    let is_over = AtomicBool::new(false);
    let (beside, logins) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|user| {
                let (proxy, is_over) = (&proxy, &is_over);
                scope.spawn(move || {
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        assert_eq!(login(proxy, user).response().status(), 401);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let beside = p99(20_000);
        is_over.store(true, Ordering::Relaxed);
        (beside, clients.into_iter().map(|client| client.join().expect("no panic")).sum::<u32>())
    });
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!(
        "p99 of a request: {alone:?} alone, {beside:?} beside 8 logins at once ({logins} of them): {ratio:.2} times"
    );
}
