//! SIGHUP: a new configuration for new requests, and nothing else is disturbed.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Launch, Origin, PATIENCE, Peer, Proxy, SetOnDrop, curl, free_address, is_missing, refusing_address, value,
};

/// Puts another configuration into place, as a careful operator does: whole or not at all.
pub fn write_config(proxy: &Proxy, yaml: &str) {
    let (path, new) = (proxy.folder().join("config.yaml"), proxy.folder().join("config.new"));
    let listen = if yaml.contains("listen_addr:") { "" } else { "listen_addr: 127.0.0.1:0\n" };
    fs::write(&new, format!("{listen}{yaml}")).expect("the folder is ours");
    fs::rename(new, path).expect("the folder is ours");
}

/// Reloads and waits until that is done; there were `before` reloads before.
pub fn reload(proxy: &Proxy, yaml: &str, before: usize) {
    write_config(proxy, yaml);
    proxy.signal("HUP");
    proxy.log.wait_for_many("reloads", before + 1, |line| line.contains("configuration reloaded"));
}

fn saying(text: &str) -> Origin {
    Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
}

#[test]
fn a_reload_switches_routes_for_new_requests_and_tells_what_is_different() {
    let (one, two) = (saying("one"), saying("two"));
    let routes = |a: &Origin, more: &str| format!("routes:\n  - {{prefix: /a, upstream: '{}'}}\n{more}", a.url());
    let proxy = Proxy::start(&routes(&one, "  - {prefix: /gone, upstream: 'http://127.0.0.1:9'}\n"));
    let mut idle = proxy.connect();
    assert_eq!(idle.get("/a").text(), "one");
    assert_eq!(idle.get("/new").status(), 404);
    let more = format!("  - {{prefix: /new, upstream: '{}'}}\ntimeouts: {{drain: 3s}}\n", one.url());
    reload(&proxy, &routes(&two, &more), 0);
    for mut client in [idle, proxy.connect()] {
        assert_eq!(client.get("/a").text(), "two");
        assert_eq!(client.get("/new").text(), "one");
        assert_eq!(client.get("/gone").status(), 404);
    }
    let log = proxy.log.all().join("\n");
    for expected in [
        format!("msg=\"reload: changed\" what=\"route /a: upstream {} -> {}\"", one.url(), two.url()),
        format!("msg=\"reload: added\" what=\"route /new to {}\"", one.url()),
        "msg=\"reload: removed\" what=\"route /gone to http://127.0.0.1:9\"".to_owned(),
        "msg=\"reload: changed\" what=\"timeouts.drain 10s -> 3s\"".to_owned(),
        "msg=\"configuration reloaded\" routes=2 certificates=0".to_owned(),
    ] {
        assert!(log.contains(&expected), "{expected}\nis not in\n{log}");
    }
}

#[test]
fn an_upstream_that_is_left_alone_stays_so_over_a_reload_and_one_that_is_gone_is_forgotten() {
    let (steady, other) = (saying("ok"), saying("ok"));
    let (refusing, _socket) = refusing_address();
    let health = "workers: 1\nhealth: {failures: 1, eject: 1h, max_eject: 1h}\n";
    let to =
        |urls: [String; 2]| format!("{health}routes:\n  - {{prefix: /a, upstreams: ['{}', '{}']}}\n", urls[0], urls[1]);
    let proxy = Proxy::start(&to([format!("http://{refusing}"), steady.url()]));
    let mut client = proxy.connect();
    let mut ask = |path: &str| {
        assert_eq!(client.get(path).status(), 200);
        proxy.access(path)
    };
    assert_eq!(value(&ask("/a/first"), "retries"), Some("1"));
    reload(&proxy, &to([other.url(), format!("http://{refusing}")]), 0);
    for path in ["/a/second", "/a/third"] {
        assert_eq!(value(&ask(path), "retries"), Some("0"), "it is still left alone");
    }
    let log = proxy.log.all().join("\n");
    let (old, new) = (format!("http://{refusing}, {}", steady.url()), format!("{}, http://{refusing}", other.url()));
    let line = format!("msg=\"reload: changed\" what=\"route /a: upstream {old} -> {new}\"");
    assert!(log.contains(&line), "{line}\nis not in\n{log}");
    reload(&proxy, &to([other.url(), steady.url()]), 1);
    ask("/a/fourth");
    let metrics = client.get("/metrics").text().to_owned();
    let gauge = format!("mini_rproxy_upstream_ejected{{upstream=\"http://{refusing}\"}} 0\n");
    assert!(metrics.contains(&gauge), "{gauge} is not in\n{metrics}");
}

#[test]
fn what_was_counted_survives_a_reload_and_the_operators_entrance_can_move() {
    let origin = saying("ok");
    let routes = |order: [&str; 2]| {
        let route = |prefix: &str| format!("  - {{prefix: {prefix}, upstream: '{}'}}\n", origin.url());
        format!("workers: 1\nroutes:\n{}", order.map(route).concat())
    };
    let proxy = Proxy::start(&routes(["/a", "/b"]));
    let mut client = proxy.connect();
    for path in ["/a", "/b", "/b"] {
        assert_eq!(client.get(path).status(), 200);
    }
    reload(&proxy, &format!("{}admin: {{listen_addr: '127.0.0.1:0'}}\n", routes(["/b", "/a"])), 0);
    assert_eq!(client.get("/b").status(), 200);
    assert_eq!(client.get("/metrics").status(), 404);
    reload(&proxy, &routes(["/new", "/b"]), 1);
    assert_eq!(client.get("/b").status(), 200);
    let metrics = client.get("/metrics").text().to_owned();
    for expected in [("/a", 1), ("/b", 4)] {
        let line = format!("mini_rproxy_requests_total{{route=\"{}\",code=\"2xx\"}} {}\n", expected.0, expected.1);
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn a_reload_that_is_not_possible_changes_nothing_and_says_why() {
    let origin = saying("one");
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("bound");
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let good = origin.config("workers: 1").replace("prefix: /", "prefix: /moved");
    for (number, (yaml, why)) in [
        (good.replace("upstream", "upstraem"), "config.yaml:"),
        (format!("listen_addr: ['127.0.0.1:0', '{taken}']\n{good}"), "address in use"),
        (format!("{good}plugins: [{{builtin: x}}]\n"), "plugin x: not linked into this program"),
        (String::new(), "there are no routes"),
    ]
    .into_iter()
    .enumerate()
    {
        write_config(&proxy, &yaml);
        proxy.signal("HUP");
        let lines = proxy.log.wait_for_many("refusals", number + 1, |line| line.contains("are kept as they were"));
        assert!(lines[number].contains(why), "{why}: {}", lines[number]);
        assert_eq!(proxy.connect().get("/").text(), "one", "{why}");
    }
    fs::remove_file(proxy.folder().join("config.yaml")).expect("it was there");
    proxy.signal("HUP");
    proxy.log.wait_for("the refusal", |line| line.contains("no such file"));
    assert_eq!(proxy.connect().get("/").text(), "one");
    reload(&proxy, &good, 0);
    assert_eq!(proxy.connect().get("/moved").text(), "one");
}

#[test]
fn what_is_fixed_at_start_stays_and_is_named() {
    let origin = saying("one");
    let proxy = Proxy::start(&origin.config("workers: 1"));
    reload(&proxy, &origin.config("workers: 2\nlimits: {memory_budget: 64MiB, max_connections: 2}"), 0);
    for what in ["workers 1 -> 2", "limits.memory_budget unlimited -> 64MiB"] {
        let line = proxy.log.wait_for(what, |line| line.contains(what));
        assert!(line.contains("level=warn") && line.contains("needs a restart"), "{line}");
    }
    // The limit on connections holds at once: the third one is answered when one of the others has gone.
    let (mut first, mut second) = (proxy.connect(), proxy.connect());
    for client in [&mut first, &mut second] {
        client.send("GET /early HTTP/1.1\r\nHost: test\r\n");
    }
    let mut third = proxy.connect();
    third.send("GET /late HTTP/1.1\r\nHost: test\r\n\r\n");
    for client in [first, second].iter_mut() {
        client.send("Connection: close\r\n\r\n");
        assert_eq!(client.response().status(), 200);
    }
    assert_eq!(third.response().status(), 200);
    proxy.access("/late");
    let paths: Vec<String> = proxy.log.all().iter().filter_map(|line| value(line, "path").map(str::to_owned)).collect();
    assert_eq!(paths[0], "/early", "{paths:?}");
    // What is left to say is said again each time.
    reload(&proxy, &origin.config("workers: 2"), 1);
    proxy.log.wait_for_many("the workers", 2, |line| line.contains("workers 1 -> 2"));
}

#[test]
fn the_access_log_can_be_turned_on_and_off() {
    let origin = saying("one");
    let proxy = Launch::quiet(&origin.config("")).start();
    assert_eq!(proxy.connect().get("/before").status(), 200);
    reload(&proxy, &origin.config("log: {access: true}"), 0);
    assert_eq!(proxy.connect().get("/between").status(), 200);
    proxy.access("/between");
    reload(&proxy, &origin.config(""), 1);
    assert_eq!(proxy.connect().get("/after").status(), 200);
    reload(&proxy, &origin.config("log: {access: true}"), 2);
    assert_eq!(proxy.connect().get("/again").status(), 200);
    proxy.access("/again");
    let paths: Vec<String> = proxy.log.all().iter().filter_map(|line| value(line, "path").map(str::to_owned)).collect();
    assert_eq!(paths, ["/between", "/again"]);
}

#[test]
fn what_runs_finishes_as_it_began() {
    let (half, is_half) = channel();
    let (go_on, step) = channel::<()>();
    let (half, step) = (Mutex::new(half), Mutex::new(step));
    let origin = Origin::start(move |mut peer, _| {
        while let Some(request) = peer.request() {
            match request.target() {
                "/download" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
                    half.lock().expect("one at a time").send(()).expect("the test waits");
                    step.lock().expect("one at a time").recv_timeout(PATIENCE).expect("the test goes on");
                    peer.send("67890");
                }
                "/tunnel" => {
                    peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
                    while let Ok(bytes) = peer.some_bytes()
                        && !bytes.is_empty()
                    {
                        peer.send(bytes);
                    }
                    return;
                }
                other => panic!("asked for {other}"),
            }
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut tunnel = proxy.connect();
    tunnel.send("GET /tunnel HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().expect("a response").status(), 101);
    let mut download = proxy.connect();
    download.send("GET /download HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(download.head().expect("a response").status(), 200);
    is_half.recv_timeout(PATIENCE).expect("the origin is asked");
    for round in 0..3 {
        // Nothing is left of the route, the upstream and the address that they came by.
        let other = saying("other");
        reload(
            &proxy,
            &format!("routes: [{{prefix: /other{round}, upstream: '{}'}}]\nworkers: 1\n", other.url()),
            round,
        );
        tunnel.send("ping");
        assert_eq!(tunnel.bytes(4), b"ping", "round {round}");
    }
    go_on.send(()).expect("the origin waits");
    assert_eq!(download.bytes(10), b"1234567890");
    assert_eq!(download.get("/download").status(), 404, "the next request is a new one");
    tunnel.send("pong");
    assert_eq!(tunnel.bytes(4), b"pong");
}

#[test]
fn g17_a_request_from_before_is_repeated_at_the_upstream_that_it_began_with() {
    let (asked, is_asked) = channel();
    let (go_on, step) = channel::<()>();
    let (asked, step) = (Mutex::new(asked), Mutex::new(step));
    let origin = Origin::start(move |mut peer, number| {
        let answer = |peer: &mut Peer| peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold");
        peer.request().expect("a request");
        answer(&mut peer);
        if number == 0 && peer.request().is_some() {
            asked.lock().expect("one at a time").send(()).expect("the test waits");
            step.lock().expect("one at a time").recv_timeout(PATIENCE).expect("the test goes on");
            // Closes without an answer: the connection was stale, as far as the proxy can see.
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = proxy.connect();
    assert_eq!(client.get("/first").text(), "old");
    client.send("GET /second HTTP/1.1\r\nHost: test\r\n\r\n");
    is_asked.recv_timeout(PATIENCE).expect("the pooled connection is used");
    let new = saying("new");
    reload(&proxy, &new.config("workers: 1"), 0);
    go_on.send(()).expect("the origin waits");
    assert_eq!(client.response().text(), "old");
    assert_eq!(value(&proxy.access("/second"), "retries"), Some("1"));
    assert_eq!(client.get("/third").text(), "new");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn the_pool_of_an_upstream_that_is_gone_is_emptied() {
    let (closed, is_closed) = channel();
    let closed = Mutex::new(closed);
    let gone = Origin::start(move |mut peer, _| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        closed.lock().expect("one at a time").send(()).expect("the test waits");
    });
    let stays = saying("stays");
    let routes = format!("routes:\n  - {{prefix: /stays, upstream: '{}'}}\n", stays.url());
    // An hour, so that only the reload can be the reason.
    let pool = "pool: {idle_timeout: 1h, max_age: 1h}\nworkers: 1\n";
    let proxy = Proxy::start(&format!("{routes}  - {{prefix: /gone, upstream: '{}'}}\n{pool}", gone.url()));
    let mut client = proxy.connect();
    for target in ["/gone", "/stays"] {
        assert_eq!(client.get(target).status(), 200);
    }
    reload(&proxy, &format!("{routes}{pool}"), 0);
    is_closed.recv_timeout(PATIENCE).expect("the idle connection is closed");
    assert_eq!(client.get("/stays").status(), 200);
    assert_eq!(stays.connections(), 1, "the other one's connections are kept");
}

#[test]
fn listeners_come_and_go_and_those_that_stay_are_not_reopened() {
    let origin = saying("one");
    let (first, second) = (free_address(), free_address());
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("proxy.sock");
    let listen = |addresses: &str| origin.config(&format!("listen_addr: [{addresses}]"));
    let proxy = Proxy::start(&listen(&format!("'{first}'")));
    let mut early = proxy.connect();
    reload(&proxy, &listen(&format!("'{second}', 'unix:{}', '{first}'", socket.display())), 0);
    proxy.log.wait_for("the new address", |line| line.contains("listening") && line.contains(&second.to_string()));
    for address in [first, second] {
        assert_eq!(Peer::connect(address).get("/").text(), "one", "{address}");
    }
    assert!(socket.exists());
    let mut on_second = Peer::connect(second);
    assert_eq!(on_second.get("/").text(), "one");
    reload(&proxy, &listen(&format!("'{first}'")), 1);
    wait_until_refused(second);
    assert!(!socket.exists());
    assert_eq!(on_second.get("/").text(), "one", "connections stay, though nobody new comes");
    assert_eq!(early.get("/").text(), "one");
    assert_eq!(Peer::connect(first).get("/").text(), "one");
    let listening = proxy.log.all().iter().filter(|line| line.contains("msg=\"listening\"")).count();
    assert_eq!(listening, 3, "each one is told of once");
}

/// The end of listening is no event that another process could wait for.
fn wait_until_refused(address: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "connections are still accepted");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whoever_waits_at_a_listener_that_closes_is_let_in_first() {
    let origin = saying("one");
    let (first, second) = (free_address(), free_address());
    let listen = |addresses: &str| origin.config(&format!("listen_addr: [{addresses}]\nworkers: 1"));
    let proxy = Proxy::start(&listen(&format!("'{first}', '{second}'")));
    write_config(&proxy, &listen(&format!("'{first}'")));
    // More than are let in during one turn.
    proxy.signal("STOP");
    let mut waiting: Vec<Peer> = (0..150).map(|_| Peer::connect(second)).collect();
    proxy.signal("HUP");
    proxy.signal("CONT");
    for client in &mut waiting {
        assert_eq!(client.get("/").text(), "one");
    }
    wait_until_refused(second);
}

#[test]
fn fifty_reloads_under_load_lose_nothing() {
    let origins = [Origin::echo(), Origin::echo()];
    let (stays, comes_and_goes) = (free_address(), free_address());
    let yaml = |round: usize| {
        let routes: String = (0..20)
            .map(|n| format!("  - {{prefix: /r{n}, upstream: '{}'}}\n", origins[(round + n) % 2].url()))
            .collect();
        let second = if round.is_multiple_of(2) { String::new() } else { format!(", '{comes_and_goes}'") };
        format!(
            "listen_addr: ['{stays}'{second}]\nroutes:\n{routes}workers: 2\nlimits: {{max_requests_per_connection: 0}}\n\
             timeouts: {{drain: {}s}}\n",
            round + 1
        )
    };
    let proxy = Proxy::start(&yaml(0));
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..8 {
            let (is_over, answered) = (&is_over, &answered);
            scope.spawn(move || {
                let mut kept = Peer::connect(stays);
                let mut count = number;
                while !is_over.load(Ordering::Relaxed) {
                    count += 1;
                    let target = format!("/r{}/x{count}", count % 20);
                    // Every fourth on a connection of its own, every third with a body.
                    let mut fresh = (count % 4 == 0).then(|| Peer::connect(stays));
                    let client = fresh.as_mut().unwrap_or(&mut kept);
                    let body = "x".repeat(if count % 3 == 0 { 5000 } else { 0 });
                    client.send(format!(
                        "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    ));
                    let response = client.response();
                    assert_eq!(response.status(), 200, "{target}");
                    assert!(response.text().starts_with(&format!("POST /x{count} ")), "{}", response.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _guard = SetOnDrop(&is_over);
        for round in 0..50 {
            let before = answered.load(Ordering::Relaxed);
            reload(&proxy, &yaml(round + 1), round);
            // Some requests between two reloads, however fast those are.
            let deadline = Instant::now() + PATIENCE;
            while answered.load(Ordering::Relaxed) < before + 20 {
                assert!(Instant::now() < deadline, "nothing is answered any more");
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let log = proxy.log.all();
    let failed: Vec<_> = log.iter().filter(|line| value(line, "why").is_some()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(answered.into_inner() >= 1000);
}

#[test]
fn two_hundred_reloads_leave_memory_and_descriptors_as_they_were() {
    let origin = saying("one");
    // Each time other upstreams, of which none is ever asked, beside the one that is.
    let yaml = |round: usize| {
        let routes: String = (0..500)
            .map(|n| format!("  - {{prefix: /r{n}, upstream: 'http://127.0.0.1:{}'}}\n", 1 + (round * 500 + n) % 65000))
            .collect();
        format!("routes:\n  - {{prefix: /, upstream: '{}'}}\n{routes}workers: 2\n", origin.url())
    };
    let proxy = Proxy::start(&yaml(0));
    // Connections that idle all the time must not keep what they began with.
    let mut idle = Vec::new();
    let mut after_warming_up = (0, 0);
    for round in 0..200 {
        if idle.len() < 40 {
            let mut client = proxy.connect();
            assert_eq!(client.get("/").status(), 200);
            idle.push(client);
        }
        reload(&proxy, &yaml(round + 1), round);
        if round == 40 {
            after_warming_up = (proxy.memory_kib(), proxy.descriptors());
        }
    }
    let (memory, descriptors) = (proxy.memory_kib(), proxy.descriptors());
    // 160 configurations of 500 routes are far more than this.
    assert!(memory < after_warming_up.0 + 2048, "from {} to {memory} KiB", after_warming_up.0);
    assert!(descriptors <= after_warming_up.1 + 4, "from {} to {descriptors}", after_warming_up.1);
    for client in &mut idle {
        assert_eq!(client.get("/").status(), 200);
    }
}

#[test]
fn a_check_tells_beforehand_what_a_reload_would_change() {
    let origin = saying("one");
    let proxy = Launch::quiet(&origin.config("workers: 1")).start();
    let url = proxy.url("");
    let check = |against: &str| {
        let config = proxy.folder().join("config.yaml");
        let output = std::process::Command::new(crate::support::proxy::BINARY)
            .args(["-check", "-config", config.to_str().expect("a path of ours"), "-against", against])
            .output()
            .expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = check(&url);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "the configuration is good, and a reload would change nothing that can be compared\n")
    );
    write_config(&proxy, &origin.config("  - {prefix: /b, upstream: 'http://b'}\nworkers: 2\ntimeouts: {drain: 3s}"));
    for against in [url.clone(), format!("{url}/configz")] {
        let (code, out, err) = check(&against);
        let expected = "changed: workers 1 -> 2 (needs a restart)\nchanged: timeouts.drain 10s -> 3s\n\
                        added: route /b to http://b\n";
        assert_eq!((code, out.as_str(), err.as_str()), (Some(3), expected, ""));
    }
    reload(&proxy, &origin.config("  - {prefix: /b, upstream: 'http://b'}\nworkers: 1\ntimeouts: {drain: 3s}"), 0);
    assert_eq!(check(&url).0, Some(0), "what was reloaded is what is told");
    write_config(&proxy, "routes: 1\n");
    let (code, _, err) = check(&url);
    assert_eq!(code, Some(1), "{err}");
    write_config(&proxy, &origin.config("admin: {configz: false}"));
    reload(&proxy, &origin.config("admin: {configz: false}"), 1);
    let (code, _, err) = check(&url);
    assert!(code == Some(1) && err.contains("does not tell its configuration"), "{err}");
    let (code, _, err) = check(&format!("http://{}", free_address()));
    assert!(code == Some(1) && err.contains("does not answer"), "{err}");
    let (code, _, err) = check("https://127.0.0.1:1");
    assert!(code == Some(1) && err.contains("write http://HOST:PORT"), "{err}");
}

#[test]
fn configz_tells_the_whole_configuration_only_to_its_own_host() {
    if is_missing("curl") {
        return;
    }
    let origin = saying("one");
    let proxy = Proxy::start(&origin.config(""));
    let routes = format!("[{{\"prefix\":\"/\",\"upstream\":\"{}\"}}]", origin.url());
    let get = |target: &str, field: &str| {
        let output = curl(&["-sS", "-H", field, &proxy.url(target)]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(get("/configz", "A: b"), routes);
    let whole = get("/configz?outline", "A: b");
    assert!(whole.starts_with("{\"settings\":{") && whole.contains("\"drain\":\"10s\""), "{whole}");
    assert_eq!(get("/configz?outline", "X-Forwarded-For: 192.0.2.1"), routes);
    assert_eq!(get("/configz?outline", "Via: 1.1 cache"), routes);
}

#[test]
fn e5_a_reload_of_what_is_no_file_does_not_keep_signals_from_being_heard() {
    let origin = Origin::echo();
    let mut proxy = Proxy::start(&origin.config(""));
    let path = proxy.folder().join("config.yaml");
    std::fs::remove_file(&path).expect("it is there");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo is part of every system").success());
    proxy.signal("HUP");
    proxy.log.wait_for("the reason", |line| line.contains("no regular file"));
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
}

/// Tunnels and streams live for hours; each keeps its route, and not the configuration that it began with.
#[test]
fn e4_tunnels_and_streams_do_not_keep_old_configurations() {
    const ROUTES: usize = 3_000;
    const RELOADS: usize = 12;
    let origin = Origin::start(|mut peer, _| {
        let Some(head) = peer.head() else { return };
        if head.target().starts_with("/events") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: a\n\n");
        } else {
            peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        }
        while let Ok(bytes @ [_, ..]) = peer.some_bytes().as_deref() {
            peer.send(bytes);
        }
    });
    // Another address of the same name each time: no configuration shares its routes with another.
    let config = |number: usize| {
        let others: String =
            (0..ROUTES).map(|n| format!("  - {{prefix: /r{n}, upstream: 'http://u{number}.example'}}\n")).collect();
        let live = format!("  - {{prefix: /live, strip_prefix: false, upstream: '{}'}}\n", origin.url());
        format!(
            "workers: 1\nroutes:\n{others}{live}  - {{prefix: /events, strip_prefix: false, upstream: '{}'}}\n",
            origin.url()
        )
    };
    let proxy = Proxy::start(&config(0));
    let tunnel = || {
        let mut client = proxy.connect();
        client.send("GET /live HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(client.head().expect("a response").status(), 101);
        let mut stream = proxy.connect();
        stream.send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(stream.head().expect("a response").status(), 200);
        (client, stream)
    };
    // Two first, so that what one reload needs for itself is there.
    (1..3).for_each(|number| reload(&proxy, &config(number), number - 1));
    let before = proxy.own_memory_kib();
    let open: Vec<_> = (3..3 + RELOADS)
        .map(|number| {
            let pair = tunnel();
            reload(&proxy, &config(number), number - 1);
            pair
        })
        .collect();
    let grown = proxy.own_memory_kib().saturating_sub(before);
    eprintln!("{grown} KiB more after {RELOADS} reloads with {ROUTES} routes");
    for (mut client, _stream) in open {
        client.send("still there");
        assert_eq!(client.bytes(11), b"still there");
    }
    let line = proxy.access("/live");
    assert_eq!((value(&line, "prefix"), value(&line, "status")), (Some("/live"), Some("101")), "{line}");
    assert!(grown < RELOADS as u64 * 250, "{grown} KiB");
}
