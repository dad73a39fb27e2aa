//! Several upstreams for a route: shared load, and nothing noticed of one that fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Nginx, Origin, PATIENCE, Proxy, curl_ok, is_missing, refusing_address, value};

fn saying(text: &str) -> Origin {
    Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
}

/// A configuration with one route to all of these.
fn to_all(urls: &[String], more: &str) -> String {
    format!("workers: 1\nroutes:\n  - {{prefix: /a, upstreams: [\"{}\"]}}\n{more}", urls.join("\", \""))
}

/// One GET on a connection that is kept; what is wrong with its answer, if anything.
fn get(client: &mut BufReader<TcpStream>) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    client.get_mut().write_all(b"GET /a/x HTTP/1.1\r\nHost: test\r\n\r\n").map_err(told)?;
    let (mut head, mut body) = (String::new(), [0; 5]);
    while !head.ends_with("\r\n\r\n") {
        if client.read_line(&mut head).map_err(told)? == 0 {
            return Err(format!("the connection ended after {head:?}"));
        }
    }
    client.read_exact(&mut body).map_err(told)?;
    if head.starts_with("HTTP/1.1 200 ") && &body == b"hello" { Ok(()) } else { Err(format!("{head}{body:?}")) }
}

/// Clients that ask without a pause, and what they saw.
struct Load {
    answered: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Load {
        let (answered, failed, stop) =
            (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let threads = (0..clients)
            .map(|_| {
                let (answered, failed, stop) = (answered.clone(), failed.clone(), stop.clone());
                thread::spawn(move || {
                    let stream = TcpStream::connect(address).expect("the proxy listens");
                    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
                    let mut client = BufReader::new(stream);
                    while !stop.load(Ordering::SeqCst) {
                        if let Err(error) = get(&mut client) {
                            failed.lock().expect("whole").push(error);
                            return;
                        }
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        Load { answered, failed, stop, threads }
    }

    /// Waits for so many more answers.
    fn go_on(&self, more: usize) {
        let (until, deadline) = (self.answered.load(Ordering::SeqCst) + more, Instant::now() + PATIENCE);
        while self.answered.load(Ordering::SeqCst) < until {
            assert!(Instant::now() < deadline, "the load stands still: {:?}", self.failed.lock().expect("whole"));
            thread::yield_now();
        }
    }

    /// Ends it; returns how many were answered, and all failures.
    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no client fails by itself"));
        (self.answered.load(Ordering::SeqCst), std::mem::take(&mut *self.failed.lock().expect("whole")))
    }
}

#[test]
fn g17_an_upstream_that_is_killed_and_restarted_under_load_fails_no_get() {
    if is_missing("nginx") {
        return;
    }
    let server = "location / { keepalive_requests 100000; return 200 hello; }";
    let mut crashing = Nginx::start(server);
    let steady = Nginx::start(server);
    let urls = [&crashing, &steady].map(|nginx| format!("http://{}", nginx.address));
    let more = "health: {failures: 2, eject: 50ms, max_eject: 200ms}\nlimits: {max_requests_per_connection: 0}\n";
    let proxy = Proxy::start(&to_all(&urls, more).replace("workers: 1", "workers: 2"));
    let load = Load::start(proxy.address, 4);
    load.go_on(200);
    let said = |word: &str| {
        let (name, word) = (crashing.address.to_string(), word.to_owned());
        move |line: &str| line.contains(&name) && line.contains(&word)
    };
    let (left_alone, returned) = (said("leaves it alone"), said("answers again"));
    let count = |what: &dyn Fn(&str) -> bool| proxy.log.all().iter().filter(|line| what(line)).count();
    for _ in 0..3 {
        let before = count(&left_alone);
        crashing.kill();
        proxy.log.wait_for_many("ejections", before + 1, &left_alone);
        load.go_on(200);
        let before = count(&returned);
        crashing.restart();
        proxy.log.wait_for_many("returns", before + 1, &returned);
        // It gets its share again, not only the request that found out.
        let before = crashing.log.all().len();
        load.go_on(200);
        crashing.log.wait_for_many("requests", before + 20, |line| line.contains("GET /x"));
    }
    let (answered, failed) = load.end();
    assert!(failed.is_empty(), "of {answered} requests failed: {failed:#?}");
    let retried = proxy.log.all().iter().filter(|line| value(line, "retries").is_some_and(|n| n != "0")).count();
    assert!(retried > 0, "nothing was noticed, but by the proxy");
}

#[test]
fn requests_go_to_whoever_has_the_fewest() {
    let (held, is_held) = channel();
    let (release, go) = channel::<()>();
    let (held, go) = (Mutex::new(held), Mutex::new(go));
    let slow = Origin::start(move |mut peer, _| {
        peer.request();
        held.lock().expect("whole").send(()).expect("the test waits");
        go.lock().expect("whole").recv().expect("the test says when");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
    });
    let quick = saying("quick");
    let proxy = Proxy::start(&to_all(&[slow.url(), quick.url()], ""));
    let mut first = proxy.connect();
    first.send("GET /a/held HTTP/1.1\r\nHost: test\r\n\r\n");
    is_held.recv_timeout(PATIENCE).expect("it arrives");
    let mut second = proxy.connect();
    for _ in 0..5 {
        assert_eq!(second.get("/a").text(), "quick");
    }
    release.send(()).expect("it waits");
    assert_eq!(first.response().text(), "slow");
    let line = proxy.access("/a/held");
    assert!(value(&line, "upstream") == Some(slow.address.to_string().as_str()), "{line}");
}

#[test]
fn g17_a_post_goes_to_another_upstream_where_one_cannot_be_reached_and_nowhere_else_when_it_was_sent() {
    let (refusing, _socket) = refusing_address();
    let dying = Origin::start(|mut peer, _| {
        peer.request();
        peer.reset();
    });
    let steady = Origin::echo();
    let post = "POST /a/x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello";

    let proxy = Proxy::start(&to_all(&[format!("http://{refusing}"), steady.url()], ""));
    let mut client = proxy.connect();
    client.send(post);
    let response = client.response();
    assert_eq!(response.status(), 200);
    assert!(response.text().contains(&format!("Host: {}\n", steady.address)), "{}", response.text());
    let line = proxy.access("/a/x");
    assert_eq!((value(&line, "retries"), value(&line, "status")), (Some("1"), Some("200")), "{line}");

    let proxy = Proxy::start(&to_all(&[dying.url(), steady.url()], ""));
    let mut client = proxy.connect();
    client.send(post);
    assert_eq!(client.response().status(), 502);
}

#[test]
fn where_all_fail_each_is_tried_and_the_first_that_is_back_is_used_at_once() {
    let first = refusing_address();
    let second = refusing_address();
    let urls = [&first, &second].map(|(address, _)| format!("http://{address}"));
    let proxy = Proxy::start(&to_all(&urls, "health: {failures: 1, eject: 1h, max_eject: 1h}\n"));
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/a/down").status(), 502);
    }
    let lines = proxy.log.wait_for_many("access lines", 3, |line| value(line, "path") == Some("/a/down"));
    assert!(lines.iter().all(|line| value(line, "retries") == Some("1")), "{lines:?}");
    // The second one listens now: nobody waits for the end of an hour.
    let (address, socket) = second;
    socket.listen(8).expect("a bound socket listens");
    let listener: std::net::TcpListener = socket.into();
    let server = thread::spawn(move || {
        let mut peer = crate::support::Peer::new(listener.accept().expect("the proxy comes").0);
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback");
    });
    assert_eq!(client.get("/a/back").text(), "back");
    server.join().expect("it answers");
    let returned = proxy.log.wait_for("its return", |line| line.contains(&format!("upstream {address} answers again")));
    assert_eq!(value(&returned, "level"), Some("info"));
}

#[test]
fn metrics_and_configz_tell_them_apart_without_credentials() {
    if is_missing("curl") {
        return;
    }
    let (refusing, _socket) = refusing_address();
    let steady = saying("ok");
    let urls = [format!("http://u:secret@{refusing}"), format!("http://u:other@{}", steady.address)];
    let proxy = Proxy::start(&to_all(&urls, "health: {failures: 1, eject: 1h, max_eject: 1h}\n"));
    let mut client = proxy.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/a/x").status(), 200);
    }
    proxy.log.wait_for_many("access lines", 4, |line| value(line, "path") == Some("/a/x"));
    let metrics = curl_ok(&[&proxy.url("/metrics")]);
    for (name, upstream, expected) in [
        ("requests_total", refusing, 1),
        ("failures_total", refusing, 1),
        ("ejections_total", refusing, 1),
        ("ejected", refusing, 1),
        ("requests_total", steady.address, 4),
        ("failures_total", steady.address, 0),
        ("ejected", steady.address, 0),
    ] {
        let line = format!("mini_rproxy_upstream_{name}{{upstream=\"http://{upstream}\"}} {expected}\n");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.contains("\nmini_rproxy_retries_total 1\n"), "{metrics}");
    let configz = curl_ok(&[&proxy.url("/configz")]);
    let routes: Value = serde_json::from_str(&configz).expect("JSON");
    let shown = [refusing, steady.address].map(|address| format!("http://{address}"));
    assert_eq!(routes[0]["upstream"], shown[0]);
    assert_eq!(routes[0]["upstreams"], serde_json::json!(shown));
    for text in [&metrics, &configz, &proxy.log.all().join("\n")] {
        assert!(!text.contains("secret") && !text.contains("other@"), "{text}");
    }
}
