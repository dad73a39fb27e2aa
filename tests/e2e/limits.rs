//! Limits over sockets: what is too large is refused before any upstream hears of it.

use crate::support::{Origin, Peer, Proxy, value, wait_until};

fn start(more: &str) -> (Origin, Proxy) {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(more));
    (origin, proxy)
}

#[test]
fn a_body_that_is_announced_too_long_gives_413() {
    let (origin, proxy) = start("limits: { max_body_bytes: 1000 }");
    let mut client = proxy.connect();
    client.send("PUT /long HTTP/1.1\r\nHost: test\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(client.response().status(), 413);
    assert_eq!(origin.connections(), 0);
    let mut client = proxy.connect();
    client.send(format!("PUT /short HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000)));
    assert_eq!(client.response().status(), 200);
}

#[test]
fn g20_a_413_can_be_read_by_a_client_that_is_still_sending() {
    let (_origin, proxy) = start("limits: { max_body_bytes: 1000 }");
    for head in ["Content-Length: 300000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n493e0\r\n"] {
        let mut client = proxy.connect();
        client.send(format!("PUT /long HTTP/1.1\r\nHost: test\r\n{head}"));
        // Without a lingering close the unread bytes would turn the answer into a reset.
        client.send("x".repeat(300_000));
        let response = client.response();
        assert_eq!(response.status(), 413, "{head}");
        assert_eq!(response.field("Connection").map(str::to_ascii_lowercase).as_deref(), Some("close"), "{head}");
    }
}

#[test]
fn g20_an_early_answer_of_the_origin_reaches_a_client_that_is_still_sending() {
    let origin = Origin::start(|mut peer, _| {
        peer.head().expect("a request");
        peer.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfull");
        peer.shutdown();
        // Reads what comes, as a polite origin does.
        let _ = peer.try_rest();
    });
    let proxy = Proxy::start(&origin.config(""));
    let mut client = proxy.connect();
    client.send("PUT /long HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n");
    client.send("x".repeat(100_000));
    let response = client.response();
    assert_eq!((response.status(), response.text()), (413, "full"));
}

#[test]
fn a_long_request_line_gives_414() {
    let (origin, proxy) = start("limits: { max_request_line: 1000 }");
    let mut client = proxy.connect();
    client.send(format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(2000)));
    assert_eq!(client.response().status(), 414);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn too_many_and_too_long_fields_give_431() {
    let (origin, proxy) = start("limits: { max_head_bytes: 4KiB, max_header_fields: 20 }");
    let many: String = (0..30).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X: {}\r\n", "y".repeat(5000));
    for fields in [many, long] {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        assert_eq!(client.response().status(), 431);
        assert!(client.is_closed());
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_connection_serves_so_many_requests_and_no_more() {
    let (_origin, proxy) = start("limits: { max_requests_per_connection: 3 }");
    let mut client = proxy.connect();
    for number in 1..=3 {
        let response = client.get("/");
        assert_eq!(response.status(), 200);
        let says_close = response.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        assert_eq!(says_close, number == 3);
    }
    assert!(client.is_closed());
}

#[test]
fn ambiguous_requests_are_refused_with_their_rule_in_the_log() {
    let (origin, proxy) = start("");
    let cases = [
        ("/both", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400, "s1"),
        ("/plus", "Content-Length: +5\r\n", 400, "s2"),
        ("/twice", "Content-Length: 5\r\nContent-Length: 5\r\n", 400, "s2"),
        ("/identity", "Transfer-Encoding: identity\r\n", 501, "s3"),
        ("/space", "Content-Length : 5\r\n", 400, "s8"),
        ("/hosts", "Host: other\r\n", 400, "s11"),
    ];
    for (path, fields, status, rule) in cases {
        let mut client = proxy.connect();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        let response = client.response();
        assert_eq!(response.status(), status, "{path}");
        assert!(!response.text().contains(path), "error texts never echo input: {}", response.text());
        assert!(client.is_closed(), "{path}");
        let wanted = |line: &str| value(line, "why").is_some_and(|why| why.eq_ignore_ascii_case(rule));
        proxy.log.wait_for(&format!("why={rule} ({path})"), wanted);
    }
    assert_eq!(origin.connections(), 0);
}

/// How many of a crowd of new connections are served; they stay open.
fn served(proxy: &Proxy, count: usize) -> Vec<Peer> {
    let mut clients: Vec<Peer> = (0..count).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        // Where it was closed already, that fails.
        let _ = client.try_send("GET /x HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    clients.into_iter().filter_map(|mut client| (!client.is_closed()).then_some(client)).collect()
}

#[test]
fn e3_the_workers_share_the_places_and_make_none() {
    let origin = Origin::echo();
    for (workers, max, used) in [(4, 2, 2), (2, 3, 2), (3, 7, 3)] {
        let yaml = origin.config(&format!("workers: {workers}\nlimits: {{max_connections: {max}}}\n"));
        let proxy = Proxy::start(&yaml);
        let places = format!("mini_rproxy_client_connections_max {max}");
        // A worker tells its share when it begins.
        wait_until("so many places", || proxy.connect().get("/metrics").text().lines().any(|line| line == places));
        proxy.log.wait_for("its workers", |line| value(line, "workers") == Some(&used.to_string()));
    }
}

#[test]
fn one_client_has_only_so_many_connections_and_no_place_is_lost() {
    let origin = Origin::echo();
    let limits = "limits: {max_connections_per_client: 3, max_body_bytes: 5}\nadmin: {listen_addr: '127.0.0.1:0'}\nlisten_addr: 127.0.0.1:0\n";
    let proxy = Proxy::start(&origin.config(&format!("workers: 2\n{limits}timeouts: {{request_head: 100ms}}\n")));
    let first = served(&proxy, 8);
    assert_eq!(first.len(), 3);
    let warning = proxy.log.wait_for("a warning", |line| line.contains("limits.max_connections_per_client"));
    assert!(warning.contains("127.0.0.1 has 3 connections"), "{warning}");
    let line = proxy.log.wait_for("the other address", |line| value(line, "protocol") == Some("admin"));
    let admin = value(&line, "address").expect("an address").parse().expect("an address");
    let closed = "mini_rproxy_client_connections_max_per_client_reached_total";
    let metrics = Peer::connect(admin).get("/metrics").text().to_owned();
    assert!(metrics.lines().any(|line| line == format!("{closed} 5")), "its address has more: {metrics}");
    drop(first);
    // However a connection ends, its place is free again.
    type End = fn(Peer);
    let ends: [End; 5] = [
        drop,
        |client| client.reset(),
        |mut client| {
            client.send("GET nonsense\r\n\r\n");
            client.rest();
        },
        |mut client| {
            client.send("POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\n");
            assert_eq!(client.response().status(), 413);
        },
        |mut client| {
            client.send("GET /half");
            client.rest();
        },
    ];
    for end in ends {
        for _ in 0..4 {
            let mut client = loop {
                // The end of the one before may not have been seen yet.
                if let Some(client) = served(&proxy, 1).pop() {
                    break client;
                }
            };
            client.response();
            end(client);
        }
    }
    wait_until("all places to be free", || served(&proxy, 4).len() == 3);
}

#[test]
fn clients_of_a_load_balancer_are_counted_by_the_address_that_it_tells() {
    let origin = Origin::echo();
    let more = "workers: 1\nproxy_protocol: {from: [127.0.0.0/8]}\nlimits: {max_connections_per_client: 2}\n";
    let proxy = Proxy::start(&origin.config(more));
    let from = |client: &str| {
        let mut peer = proxy.connect();
        peer.send(format!("PROXY {client}\r\nGET /x HTTP/1.1\r\nHost: test\r\n\r\n"));
        (!peer.is_closed()).then_some(peer)
    };
    let one = "TCP4 192.0.2.1 198.51.100.1 4711 443";
    let open =
        [from(one), from(one), from("TCP6 2001:db8::1 ::1 1 2"), from("UNKNOWN"), from("UNKNOWN"), from("UNKNOWN")];
    assert!(open.iter().all(Option::is_some), "the balancer itself is not counted");
    assert!(
        from(one).is_none() && from("TCP6 2001:db8::2 ::1 1 2").is_some() && from("TCP6 2001:db8::3 ::1 1 2").is_some()
    );
    proxy.log.wait_for("a warning", |line| line.contains("192.0.2.1 has 2 connections"));
    // An address that could be a balancer's, too.
    let near = "TCP4 127.9.9.9 198.51.100.1 4711 443";
    let open = [from(near), from(near)];
    assert!(open.iter().all(Option::is_some) && from(near).is_none(), "it is counted as the others");
}
