//! Names that move: the whole proxy with a resolver that a test controls, and once with the system's own and a hosts
//! file of the test's (rule E1).

#[path = "support/mod.rs"]
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use mini_rproxy::config::Config;
use mini_rproxy::net::dns::Lookup;
use mini_rproxy::net::server::{Server, ServerOptions};
use mini_rproxy::proxy::cause::Cause;
use mini_rproxy::proxy::proxy_connection::{AccessRecord, Observer};

use support::{Launch, Origin, PATIENCE, Peer, value};

/// Names as the test wants them, now.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<HashMap<String, Vec<SocketAddr>>>>);

impl Names {
    fn set(&self, name: &str, addresses: &[SocketAddr]) {
        self.0.lock().expect("whole").insert(name.to_owned(), addresses.to_vec());
    }

    fn forget(&self, name: &str) {
        self.0.lock().expect("whole").remove(name);
    }
}

impl Lookup for Names {
    fn lookup(&self, host: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        self.0.lock().expect("whole").get(host).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

/// What became of each request.
struct Ear(Sender<Option<&'static str>>);

impl Observer for Ear {
    fn access(&mut self, record: &AccessRecord<'_>) {
        let _ = self.0.send(record.log.cause.map(Cause::why));
    }
    fn warn(&mut self, _: fmt::Arguments<'_>) {}
}

struct Proxy {
    server: Option<Server>,
    address: SocketAddr,
    why: Receiver<Option<&'static str>>,
}

impl Proxy {
    fn start(names: &Names, yaml: &str) -> Proxy {
        let yaml = format!("listen_addr: 127.0.0.1:0\nworkers: 1\n{yaml}");
        let config = Config::parse(&yaml, "test").unwrap_or_else(|error| panic!("{error}"));
        let (sender, why) = channel();
        let sender = Mutex::new(sender);
        let server = Server::start(ServerOptions {
            inherited: Vec::new(),
            takeover: false,
            config: Arc::new(config),
            hooks: None.into(),
            lookup: Box::new(names.clone()),
            new_log: Arc::new(move || Box::new(Ear(sender.lock().expect("whole").clone()))),
            on_end: Box::new(|| {}),
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let address = server.addresses()[0].0.parse().expect("an address");
        Proxy { server: Some(server), address, why }
    }

    /// One request on a connection of its own.
    fn get(&self) -> (u16, Option<&'static str>) {
        let status = Peer::connect(self.address).get("/").status();
        (status, self.why.recv_timeout(PATIENCE).expect("an access line"))
    }

    /// Asks until the answer is a good one. A name's coming back is no event that could be waited for.
    fn get_until_ok(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get().0 != 200 {
            assert!(Instant::now() < deadline, "it never works again");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            let result = server.join();
            assert!(result.is_ok() || thread::panicking(), "a worker was lost");
        }
    }
}

fn saying(text: &str) -> Origin {
    Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
}

const ROUTE: &str = "routes: [{ prefix: /, upstream: 'http://origin.test' }]\n";

#[test]
fn e1_it_starts_with_a_dead_name_and_works_when_the_name_does() {
    let names = Names::default();
    let proxy = Proxy::start(&names, ROUTE);
    for _ in 0..3 {
        assert_eq!(proxy.get(), (502, Some("dns_fail")));
    }
    let origin = saying("here");
    names.set("origin.test", &[origin.address]);
    proxy.get_until_ok();
    // A failed refresh keeps what was known.
    names.forget("origin.test");
    assert_eq!(proxy.get().0, 200);
}

#[test]
fn e1_addresses_that_change_are_followed_and_no_request_is_lost() {
    let names = Names::default();
    let origins = [saying("one"), saying("two")];
    names.set("origin.test", &[origins[0].address]);
    let proxy = Proxy::start(&names, &format!("{ROUTE}dns: {{ refresh: 100ms }}\npool: {{ max_age: 200ms }}\n"));
    let mut client = Peer::connect(proxy.address);
    for round in 1..=3 {
        let (now, text) = if round % 2 == 1 { (1, "two") } else { (0, "one") };
        names.set("origin.test", &[origins[now].address]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = client.get("/");
            assert_eq!(response.status(), 200, "round {round}: {:?}", proxy.why.try_iter().collect::<Vec<_>>());
            if response.text() == text {
                break;
            }
            assert!(Instant::now() < deadline, "round {round}: the old address is still in use");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn e1_an_address_that_dies_while_another_comes_loses_no_request() {
    let names = Names::default();
    let second = saying("two");
    let proxy;
    let mut client;
    {
        // Ends after its second answer on a connection, as a process does that is replaced.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        names.set("origin.test", &[listener.local_addr().expect("bound")]);
        proxy = Proxy::start(&names, &format!("{ROUTE}dns: {{ refresh: 100ms }}\n"));
        client = Peer::connect(proxy.address);
        let first = thread::spawn(move || {
            let mut peer = Peer::new(listener.accept().expect("the proxy").0);
            for _ in 0..2 {
                peer.request().expect("a request");
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
            }
        });
        assert_eq!(client.get("/").text(), "one");
        // The new address is there before the old one goes, as in any orderly move.
        names.set("origin.test", &[second.address]);
        thread::sleep(Duration::from_millis(400));
        assert_eq!(client.get("/").text(), "one", "an open connection is used on");
        first.join().expect("the first origin");
    }
    assert_eq!(client.get("/").text(), "two");
}

#[test]
fn e1_a_dead_first_address_costs_no_more_than_its_time_out() {
    // A queue of one place that is taken: the kernel lets further attempts wait.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
    full.listen(0).expect("a listener");
    let dead = full.local_addr().expect("bound").as_socket().expect("an address");
    let _filler = TcpStream::connect(dead).expect("the only place");
    let names = Names::default();
    let origin = saying("here");
    names.set("origin.test", &[dead, origin.address]);
    let more = "timeouts: { connect: { address: 300ms, total: 5s } }\npool: { max_idle: 0 }\n";
    let proxy = Proxy::start(&names, &format!("{ROUTE}{more}"));
    // Were it given more than its own time, nothing would be left of the whole for the other one: 504.
    for _ in 0..4 {
        assert_eq!(proxy.get(), (200, None));
    }
    // Now connections are made there, and nobody answers: who begins there again gets no answer.
    full.listen(16).expect("a longer queue");
    for _ in 0..4 {
        assert_eq!(proxy.get(), (200, None), "what failed is not tried first");
    }
    names.set("origin.test", &[dead]);
}

#[test]
fn e1_localhost_may_resolve_to_an_address_on_which_nobody_listens() {
    let names = Names::default();
    let origin = saying("here");
    let port = origin.address.port();
    names.set("localhost", &[format!("[::1]:{port}").parse().expect("an address"), origin.address]);
    let proxy = Proxy::start(&names, "routes: [{ prefix: /, upstream: 'http://localhost' }]\npool: { max_idle: 0 }\n");
    for _ in 0..4 {
        assert_eq!(proxy.get(), (200, None));
    }
}

#[test]
fn an_upstream_may_be_an_ipv6_literal() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("skipped: this host has no IPv6");
        return;
    };
    let port = listener.local_addr().expect("bound").port();
    let origin = thread::spawn(move || {
        let mut peer = Peer::new(listener.accept().expect("the proxy").0);
        let request = peer.request().expect("a request");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        request.field("Host").map(str::to_owned)
    });
    // Nothing is asked of the resolver.
    let proxy =
        Proxy::start(&Names::default(), &format!("routes: [{{ prefix: /, upstream: 'http://[::1]:{port}' }}]\n"));
    assert_eq!(proxy.get(), (200, None));
    assert_eq!(origin.join().expect("the origin"), Some(format!("[::1]:{port}")));
}

/// A second listener on the port of the first, at another address.
fn sibling(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("127.0.0.2", port)).ok()
}

#[test]
fn e1_the_systems_resolver_and_its_hosts_file_are_followed() {
    let first = saying("one");
    let port = first.address.port();
    let Some(second) = sibling(port) else {
        eprintln!("skipped: 127.0.0.2 has no such port free");
        return;
    };
    thread::spawn(move || {
        for stream in second.incoming().flatten() {
            thread::spawn(move || {
                let mut peer = Peer::new(stream);
                while peer.request().is_some() {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
                }
            });
        }
    });
    let etc = tempfile::TempDir::new().expect("a temporary folder");
    let hosts = etc.path().join("hosts");
    let write = |name: &str, text: &str| std::fs::write(etc.path().join(name), text).expect("a file");
    write("hosts", "127.0.0.1 localhost\n");
    write("nsswitch.conf", "hosts: files dns\n");
    // Nobody answers there, and says so at once.
    write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    let yaml = format!(
        "routes: [{{ prefix: /, upstream: 'http://origin.test:{port}' }}]\ndns: {{ refresh: 200ms }}\n\
         pool: {{ max_age: 200ms }}\ntimeouts: {{ connect: 15s }}\n"
    );
    let Some(launch) = Launch::with_etc(etc.path(), &yaml) else { return };
    let proxy = launch.start();
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 502);
    assert_eq!(value(&proxy.access("/"), "why"), Some("dns_fail"));
    for (address, text) in [("127.0.0.1", "one"), ("127.0.0.2", "two"), ("127.0.0.1", "one")] {
        // In place: the mounted file is this one, not its name.
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{address} origin.test\n")).expect("a file");
        let deadline = Instant::now() + PATIENCE;
        let mut has_worked = false;
        loop {
            let response = client.get("/");
            has_worked |= response.status() == 200;
            assert!(response.status() == 200 || (!has_worked && text == "one"), "a request was lost");
            if response.body == text.as_bytes() {
                break;
            }
            assert!(Instant::now() < deadline, "{address} is not followed");
            thread::sleep(Duration::from_millis(20));
        }
    }
    // Gone from the file: what was known is kept.
    std::fs::write(&hosts, "127.0.0.1 localhost\n").expect("a file");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(client.get("/").text(), "one");
}
