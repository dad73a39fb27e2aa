//! Plugins in the built proxy, over sockets. The numbers in front of the tests are those of the rows in the interface's
//! test table; what a chain does by itself is in `plugin_chain.rs`.
#![cfg(feature = "dlopen")]

use std::path::{Path, PathBuf};

#[path = "plugins/common.rs"]
mod common;
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

use support::{Launch, Origin, Peer, Proxy};

/// A configuration with these plugins in front of `origin`.
fn config(origin: &Origin, plugins: &[(&Path, &str)], more: &str) -> String {
    // One file may stand there several times.
    let lines = plugins.iter().enumerate().map(|(number, (path, config))| {
        let name = path.file_stem().unwrap().to_str().unwrap().trim_start_matches("lib");
        let earlier = plugins[..number].iter().filter(|(other, _)| other == path).count();
        let name = if earlier == 0 { name.to_owned() } else { format!("{name}-{}", earlier + 1) };
        format!("  - path: {}\n    name: {name}\n    config: {config:?}\n", path.display())
    });
    origin.config(&format!("plugins:\n{}{more}", lines.collect::<String>()))
}

fn letters(name: &str) -> Option<PathBuf> {
    common::build_c("letters.c", &common::folder(name).join("letters.so"), &[])
}

fn faulty() -> PathBuf {
    common::build_rust("mini-rproxy-plugin", "faulty")
}

#[test]
fn r01_a_required_plugin_that_does_not_load_stops_the_start() {
    let origin = Origin::echo();
    let mut proxy = Launch::new(&config(&origin, &[(Path::new("/nowhere/x.so"), "")], "")).spawn();
    assert_eq!(proxy.wait().code(), Some(1));
    let lines = proxy.log.all().join("\n");
    assert!(lines.contains("plugin /nowhere/x.so: cannot read it"), "{lines}");
}

#[test]
fn r01_a_folder_of_plugins_is_loaded_as_far_as_it_goes() {
    let dir = common::folder("proxy-r01");
    std::fs::copy(common::build_rust("mini-rproxy-header-demo", "header_demo"), dir.join("b.so")).unwrap();
    std::fs::write(dir.join("a.so"), "no plugin").unwrap();
    let origin = Origin::echo();
    let proxy = Launch::new(&origin.config("")).arg("-plugindir").arg(dir.to_str().unwrap()).start();
    proxy.log.wait_for("the reason", |line| line.contains("a.so: not an ELF file"));
    proxy.log.wait_for("the count", |line| line.contains("1 of 2 plugins loaded"));
    let response = proxy.connect().get("/");
    assert_eq!(response.field("X-Demo-Response"), Some("true"));
    assert!(response.text().contains("X-Demo-Request: true"), "{}", response.text());
}

#[test]
fn debug_messages_are_logged_while_timelines_are() {
    let Some(letters) = letters("proxy-debug") else { return };
    let origin = Origin::echo();
    let is_debug = |line: &str| line.contains("level=debug") && line.contains("plugin=letters");
    let proxy = Proxy::start(&config(&origin, &[(&letters, "a")], ""));
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.log.wait_for("the end", |line| line.contains("done a"));
    assert!(!proxy.log.all().iter().any(|line| is_debug(line)));
    proxy.signal("USR1");
    proxy.log.wait_for("timelines", |line| line.contains("timelines"));
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.log.wait_for("a debug message", is_debug);

    let proxy = Launch::new(&config(&origin, &[(&letters, "a")], "")).arg("-trace").start();
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.log.wait_for("a debug message", is_debug);
}

#[test]
fn r09_failures_and_panics_end_one_exchange_with_502() {
    let (faulty, header) = (faulty(), common::build_rust("mini-rproxy-header-demo", "header_demo"));
    for fault in ["on_request:panic", "on_request:bomb", "on_request:error", "on_response:panic", "on_response:error"] {
        let origin = Origin::echo();
        let proxy = Proxy::start(&config(&origin, &[(&header, ""), (&faulty, fault)], ""));
        let mut peer = proxy.connect();
        for target in ["/one", "/two"] {
            let response = peer.get(target);
            assert_eq!((response.status(), response.text()), (502, "Bad Gateway\n"), "{fault}");
            assert!(proxy.access(target).contains("why=plugin_failed"), "{fault}");
        }
        proxy.log.wait_for("the plugin's name", |line| line.contains("plugin=faulty") && line.contains("502"));
        if fault.starts_with("on_request") {
            assert_eq!(origin.connections(), 0, "{fault}");
        }
        // A proxy whose log speaks of a panic fails the test when it goes; here one was asked for.
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(proxy)));
        assert_eq!(end.is_ok(), fault.ends_with("error"), "{fault}");
    }
}

#[test]
fn r10_an_answer_in_the_request_phase_contacts_nobody() {
    let Some(letters) = letters("proxy-r10") else { return };
    let origin = Origin::echo();
    let proxy = Proxy::start(&config(&origin, &[(&letters, "a"), (&letters, "b:r"), (&letters, "c")], ""));
    let mut peer = proxy.connect();
    for target in ["/one", "/two"] {
        let response = peer.get(target);
        assert_eq!((response.status(), response.text()), (403, "letters\n"));
        assert_eq!(response.field("X-Answer"), Some("b"));
        assert_eq!((response.all("Date").len(), response.all("Content-Length").len()), (1, 1));
        assert_eq!(response.field("X-Letters"), Some("cba"), "an answer passes the response hooks of all");
    }
    assert_eq!(origin.connections(), 0);
    proxy.log.wait_for_many("the end, for each of the three", 6, |line| line.contains("\"done "));
}

#[test]
fn r11_answer_and_failure_in_the_response_phase() {
    let Some(letters) = letters("proxy-r11") else { return };
    for (order, status, text) in [("b:R", 418, "letters\n"), ("b:F", 502, "Bad Gateway\n")] {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Upstream: 1\r\n\r\nhello");
        let proxy = Proxy::start(&config(&origin, &[(&letters, "a"), (&letters, order)], ""));
        let mut peer = proxy.connect();
        for _ in 0..2 {
            let response = peer.get("/");
            assert_eq!((response.status(), response.text()), (status, text), "one response, and not the upstream's");
            assert_eq!(response.field("X-Upstream"), None);
        }
    }
}

#[test]
fn r13_r14_order_and_values() {
    let Some(letters) = letters("proxy-r13") else { return };
    let origin = Origin::echo();
    let plugins: Vec<(&Path, &str)> = ["a", "b", "c"].iter().map(|letter| (letters.as_path(), *letter)).collect();
    let proxy = Proxy::start(&config(&origin, &plugins, ""));
    let mut peer = proxy.connect();
    for _ in 0..2 {
        peer.send("GET / HTTP/1.1\r\nHost: test\r\nletters.first: forged\r\n\r\n");
        let response = peer.response();
        assert!(response.text().contains("X-Letters: abc\n"), "{}", response.text());
        assert_eq!(response.field("X-Letters"), Some("cba"));
        assert_eq!(response.field("X-First"), Some("a"), "a value of this exchange, that no field can fake");
    }
}

#[test]
fn r19_r20_many_requests_on_many_connections() {
    let Some(letters) = letters("proxy-r19") else { return };
    let header = common::build_rust("mini-rproxy-header-demo", "header_demo");
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Launch::quiet(&config(&origin, &[(&letters, "a"), (&header, "")], "workers: 4\n")).start();
    let run = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut peer = Peer::connect(proxy.address);
                    for _ in 0..count {
                        let response = peer.get("/");
                        assert_eq!((response.status(), response.field("X-Letters")), (200, Some("a")));
                    }
                });
            }
        });
    };
    // Which worker takes a connection is chance; after so many of them all four have all that they need.
    (0..16).for_each(|_| run(25));
    let before = proxy.peak_memory_kib();
    run(800);
    let grown = proxy.peak_memory_kib() - before;
    assert!(grown < 1024, "{grown} KiB more after 3,200 requests");
}

#[test]
fn r23_bodies_that_plugins_asked_for() {
    let dir = common::folder("proxy-r23");
    let Some(bodies) = common::build_c("bodies.c", &dir.join("bodies.so"), &[]) else { return };
    let origin = Origin::start(|mut peer, _| {
        while let Some(request) = peer.request() {
            let name = |name| request.field(name).unwrap_or("none").to_owned();
            let (length, coding, seen) = (name("Content-Length"), name("Transfer-Encoding"), name("X-Body"));
            let text = format!("{} {length} {coding} {seen} {}", request.method(), request.text());
            let head = match request.target() {
                "/chunked" => format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len()),
                "/204" => "\r\n".to_owned(),
                "/large" => format!("Content-Length: 101\r\n\r\n{}", "x".repeat(101)),
                "/most" => format!("Content-Length: 100\r\n\r\n{}", "x".repeat(100)),
                _ if request.method() == "HEAD" => format!("Content-Length: {}\r\n\r\n", text.len()),
                _ => format!("Content-Length: {}\r\n\r\n{text}", text.len()),
            };
            let status = if request.target() == "/204" { "204 No Content" } else { "200 OK" };
            if peer.try_send(format!("HTTP/1.1 {status}\r\n{head}")).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&config(&origin, &[(&bodies, "")], "plugin_body_limit: 100\n"));
    let ask = |request: &str| {
        let mut peer = proxy.connect();
        peer.send(request);
        let method = request.split(' ').next().unwrap();
        let mut response = peer.response_to(method);
        while response.status() < 200 {
            response = peer.response_to(method);
        }
        (response.status(), response.text().to_owned(), response.field("X-Body").map(str::to_owned))
    };
    let post = |target: &str, more: &str| format!("POST {target} HTTP/1.1\r\nHost: test\r\n{more}");
    let text = |text: &str, len: &str| (200, text.to_owned(), Some(len.to_owned()));
    let at_limit = "y".repeat(100);
    let rows = [
        ("length", post("/", "Content-Length: 5\r\n\r\nhello"), text("POST 5 NONE 5 HELLO", "19")),
        (
            "chunked",
            post("/", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            text("POST 5 NONE 5 HELLO", "19"),
        ),
        (
            "expect",
            post("/", "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"),
            text("POST 5 NONE 5 HELLO", "19"),
        ),
        ("chunked response", post("/chunked", "Content-Length: 2\r\n\r\nab"), text("POST 2 NONE 2 AB", "16")),
        (
            "at the limit",
            post("/most", &format!("Content-Length: 100\r\n\r\n{at_limit}")),
            text(&"X".repeat(100), "100"),
        ),
        ("above it", post("/", &format!("Content-Length: 101\r\n\r\n{at_limit}y")), (413, String::new(), None)),
        (
            "above it, chunked",
            post("/", &format!("Transfer-Encoding: chunked\r\n\r\n65\r\n{at_limit}y\r\n0\r\n\r\n")),
            (413, String::new(), None),
        ),
        ("response above it", post("/large", "Content-Length: 0\r\n\r\n"), (502, String::new(), None)),
        ("204", "GET /204 HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(), (204, String::new(), None)),
        ("head", "HEAD / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(), (200, String::new(), None)),
    ];
    for (name, request, (status, text, field)) in rows {
        let (is_status, is_text, is_field) = ask(&request);
        assert_eq!(is_status, status, "{name}");
        if status == 200 {
            assert_eq!((is_text, is_field), (text, field), "{name}");
        }
    }
}

/// Half a body helps nobody: what may be needed is reserved, or the answer is 503.
#[test]
fn e4_slow_bodies_for_plugins_do_not_stop_the_proxy_and_keep_to_the_budget() {
    const LEN: usize = 1_000_000;
    let dir = common::folder("proxy-budget");
    let Some(bodies) = common::build_c("bodies.c", &dir.join("bodies.so"), &[]) else { return };
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n{}", "x".repeat(LEN));
    let origin = Origin::start(move |mut peer, _| {
        while let Some(request) = peer.request() {
            let is_long = request.target() == "/long";
            let answer = if is_long { &long } else { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" };
            if peer.try_send(answer).is_err() {
                return;
            }
        }
    });
    let more = "workers: 1\ntimeouts: {body_idle: 1h, write_idle: 1h}\nlimits: {memory_budget: 8MiB}\n";
    let proxy = Proxy::start(&config(&origin, &[(&bodies, "")], more));
    let put = |target: &str, framing: &str, body: &[u8]| {
        let mut peer = proxy.connect();
        peer.send(format!("PUT {target} HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
        // Where it is refused, not all of it is taken.
        let _ = peer.try_send(body);
        peer
    };
    let length = format!("Content-Length: {LEN}");
    let (some, all) = (vec![b'y'; LEN / 4 * 3], vec![b'y'; LEN]);
    let chunk = [format!("{LEN:x}\r\n").as_bytes(), &some].concat();
    let status = |mut peer: Peer| peer.response().status();
    for (name, target, framing, body) in
        [("a length", "/slow", length.as_str(), &some), ("chunks", "/chunks", "Transfer-Encoding: chunked", &chunk)]
    {
        let slow: Vec<Peer> = (0..12).map(|_| put(target, framing, body)).collect();
        // There is room for one, and not for twelve.
        assert!(proxy.access(target).contains("status=503"), "{name}");
        assert_eq!(proxy.connect().get("/").status(), 200, "{name}: without a body");
        assert_eq!(status(put("/", "Content-Length: 5", b"hello")), 200, "{name}: a small one");
        assert!(proxy.own_memory_kib() < (8 + 3) * 1024, "{name}: {} KiB", proxy.own_memory_kib());
        // Those who have gone keep nothing.
        drop(slow);
        support::wait_until("the memory to be free again", || status(put("/again", &length, &all)) == 200);
    }
    // The same for bodies of responses.
    let mut crowd: Vec<Peer> = (0..12).map(|_| proxy.connect()).collect();
    crowd.iter_mut().for_each(|client| client.send("GET /long HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert!(proxy.access("/long").contains("status="), "some are refused, or all are served");
    assert_eq!(proxy.connect().get("/").status(), 200, "beside long answers");
    assert!(proxy.own_memory_kib() < (8 + 3) * 1024, "{} KiB", proxy.own_memory_kib());
    let served = crowd.into_iter().map(status).filter(|status| *status == 200).count();
    assert!(served > 0, "nobody got the long one");
}
