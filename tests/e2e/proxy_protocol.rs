//! The PROXY protocol: by hand, from curl and from HAProxy.

use std::net::SocketAddr;

use crate::support::programs::Haproxy;
use crate::support::proxy::BINARY;
use crate::support::{Launch, Origin, Peer, Proxy, curl_ok, free_address, is_missing, value, wait_until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2.
fn header(what: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[what, family], &length.to_be_bytes(), rest].concat()
}

/// TCP over IPv4: from 192.0.2.1, port 4711.
const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 1, 187];

fn ipv6() -> Vec<u8> {
    let ip = |last: u8| [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    [&ip(1)[..], &ip(2), &[0x12, 0x67, 1, 187]].concat()
}

fn listed(more: &str) -> String {
    format!("proxy_protocol: {{from: [127.0.0.0/8]}}\n{more}")
}

#[test]
fn the_client_is_the_one_that_is_told() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&listed("")));
    let long = header(0x21, 0x11, u16::MAX, &[&V4[..], &vec![7; usize::from(u16::MAX) - 12]].concat());
    for (number, (name, start, client)) in [
        ("version 1", b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n".to_vec(), Some("192.0.2.1:4711")),
        ("IPv6", b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n".to_vec(), Some("[2001:db8::1]:4711")),
        ("mapped", b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n".to_vec(), Some("192.0.2.1:4711")),
        ("unknown", b"PROXY UNKNOWN 1 2 3\r\n".to_vec(), None),
        ("version 2", header(0x21, 0x11, 12, &V4), Some("192.0.2.1:4711")),
        ("with TLVs", header(0x21, 0x11, 19, &[&V4[..], b"\x04\0\x04abcd"].concat()), Some("192.0.2.1:4711")),
        ("with as many as can be", long, Some("192.0.2.1:4711")),
        ("version 2, IPv6", header(0x21, 0x21, 36, &ipv6()), Some("[2001:db8::1]:4711")),
        ("a unix socket", header(0x21, 0x31, 216, &[b'/'; 216]), None),
        ("local", header(0x20, 0, 0, &[]), None),
        ("local, with rubbish", header(0x20, 0x11, 5, b"xxxxx"), None),
    ]
    .into_iter()
    .enumerate()
    {
        for in_pieces in [false, true] {
            let mut client_end = proxy.connect();
            let itself = client_end.stream().local_addr().expect("bound").to_string();
            let client = client.unwrap_or(&itself);
            let path = format!("/{number}/{in_pieces}");
            let all = [&start[..], format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()].concat();
            let (slowly, at_once) = all.split_at(if in_pieces { all.len().min(80) } else { 0 });
            slowly.iter().for_each(|byte| client_end.send([*byte]));
            client_end.send(at_once);
            let response = client_end.response();
            assert_eq!(response.status(), 200, "{name}");
            let ip = client.parse::<SocketAddr>().expect("an address").ip();
            assert!(response.text().contains(&format!("X-Forwarded-For: {ip}\n")), "{name}: {}", response.text());
            assert_eq!(value(&proxy.access(&path), "client"), Some(client), "{name}");
            // The header stands at the start of a connection, not of each request.
            assert_eq!(client_end.get("/again").status(), 200, "{name}");
        }
    }
}

#[test]
fn what_is_missing_or_wrong_closes_the_connection_and_is_told() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&listed("workers: 1")));
    let mut count = 0;
    for (name, start, why) in [
        ("nothing of it", b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(), "has to begin with a PROXY header"),
        ("no family", b"PROXY TCP5 192.0.2.1 198.51.100.1 4711 443\r\n".to_vec(), "TCP4, TCP6 or UNKNOWN"),
        ("no address", b"PROXY TCP4 192.0.2.1 198.51.100 4711 443\r\n".to_vec(), "two addresses"),
        ("too long", [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat(), "107 bytes"),
        ("version 3", header(0x31, 0x11, 12, &V4), "version 2"),
        ("no command", header(0x2f, 0x11, 12, &V4), "LOCAL or PROXY"),
        ("datagrams", header(0x21, 0x12, 12, &V4), "tells of a stream"),
        ("too short", header(0x21, 0x11, 11, &V4), "as long as its addresses"),
    ] {
        let mut client = proxy.connect();
        client.send(&start);
        assert!(client.is_closed(), "{name}");
        count += 1;
        let lines = proxy.log.wait_for_many("refusals", count, |line| value(line, "why") == Some("bad_proxy_header"));
        let line = lines.last().expect("just found");
        assert!(line.contains(why) && line.contains("client=127.0.0.1:"), "{name}: {line}");
    }
    // A half of one, and then nothing more for longer than a head may take.
    let late = Proxy::start(&origin.config(&listed("timeouts: {request_head: 200ms}")));
    for start in [&b"PROXY TCP4 192.0.2.1"[..], &header(0x21, 0x11, 400, &V4)] {
        let mut client = late.connect();
        client.send(start);
        assert!(client.is_closed());
    }
    late.log.wait_for_many("refusals", 2, |line| line.contains("has to be complete within timeouts.request_head"));
    let mut silent = late.connect();
    assert!(silent.is_closed());
    let line = late.log.wait_for("the silent one", |line| line.contains("said nothing"));
    assert!(line.contains("why=bad_proxy_header") || line.contains("level=warn"), "{line}");
    // Whoever only looks whether the port is open is no news.
    drop(late.connect());
    let mut good = proxy.connect();
    good.send("PROXY UNKNOWN\r\n");
    assert_eq!(good.get("/").status(), 200);
    let warnings = proxy.log.all().into_iter().filter(|line| line.contains("level=warn")).collect::<Vec<_>>();
    assert!(warnings.len() == 1 && warnings[0].contains("from 127.0.0.1 was closed"), "once a minute: {warnings:?}");
    late.log.wait_for_many("refusals", 3, |line| value(line, "why") == Some("bad_proxy_header"));
    let metrics = {
        let mut client = late.connect();
        client.send("PROXY UNKNOWN\r\n");
        client.get("/metrics").text().to_owned()
    };
    assert!(metrics.contains("mini_rproxy_causes_total{why=\"bad_proxy_header\"} 3\n"), "{metrics}");
}

/// It comes in as ::ffff:127.0.0.1.
#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_listed_as_such() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&listed("listen_addr: '[::]:0'\n")));
    for (address, start, expected) in
        [("127.0.0.1", "PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", "192.0.2.1"), ("[::1]", "", "::1")]
    {
        let mut client = Peer::connect(format!("{address}:{}", proxy.address.port()).parse().expect("an address"));
        client.send(start);
        assert!(client.get("/").text().contains(&format!("X-Forwarded-For: {expected}\n")), "{address}");
    }
}

#[test]
fn from_others_it_is_a_bad_request() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("proxy_protocol: {from: [192.0.2.0/24]}"));
    assert_eq!(proxy.connect().get("/").status(), 200);
    let version_2 = header(0x21, 0x11, 12, &V4);
    for start in [&b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n"[..], b"PROXY UNKNOWN\r\n", &version_2] {
        let mut client = proxy.connect();
        client.send([start, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"].concat());
        assert_eq!(client.response().status(), 400);
        assert!(client.is_closed());
    }
    for line in proxy.log.wait_for_many("their lines", 3, |line| value(line, "why") == Some("bad_proxy_header")) {
        assert!(value(&line, "detail").is_some_and(|detail| detail.contains("proxy_protocol.from")), "{line}");
    }
    let log = proxy.log.all().join("\n");
    assert!(!log.contains("192.0.2.1:") && !log.contains("level=warn"), "{log}");
    // A method is not a header.
    let mut client = proxy.connect();
    client.send("PROXY /x HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn whoever_is_told_counts_where_it_matters_who_asks() {
    let origin = Origin::echo();
    let more = "forwarded: {trusted_proxies: [192.0.2.1]}\nworkers: 1";
    let launch = Launch::new(&origin.config(&listed(more)));
    let config = launch.config_path();
    let proxy = launch.start();
    let asked_by = |client: &str, request: &str| {
        let mut peer = proxy.connect();
        peer.send(format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n{request}\r\n"));
        peer.response().text().to_owned()
    };
    let outline = "GET /configz?outline HTTP/1.1\r\nHost: test\r\n";
    assert!(asked_by("127.0.0.9", outline).starts_with("{\"settings\""));
    assert!(asked_by("203.0.113.7", outline).starts_with("[{\"prefix\""), "not from this host");
    let chained = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 198.51.100.99\r\n";
    assert!(asked_by("192.0.2.1", chained).contains("X-Forwarded-For: 198.51.100.99, 192.0.2.1\n"));
    assert!(asked_by("203.0.113.7", chained).contains("X-Forwarded-For: 203.0.113.7\n"));
    // Our own tools know how to introduce themselves.
    let fixed = format!("{}listen_addr: {}\n", origin.config(&listed(more)), proxy.address);
    std::fs::write(&config, fixed).expect("the folder is ours");
    for flags in [&["-healthcheck"][..], &["-check", "-against", &proxy.url("")]] {
        let output = std::process::Command::new(BINARY).arg("-config").arg(&config).args(flags).output();
        let output = output.expect("it runs");
        let code = output.status.code();
        // The address is written out now: that is a difference.
        assert!(matches!(code, Some(0 | 3)), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn it_can_be_turned_on_while_the_proxy_runs() {
    let origin = Origin::echo();
    let address = free_address();
    let listen = format!("listen_addr: {address}");
    let proxy = Proxy::start(&origin.config(&listen));
    let mut before = proxy.connect();
    assert_eq!(before.get("/").status(), 200);
    let path = proxy.folder().join("config.yaml");
    std::fs::write(&path, origin.config(&listed(&listen))).expect("the folder is ours");
    proxy.signal("HUP");
    proxy.log.wait_for("the reload", |line| line.contains("configuration reloaded"));
    proxy.log.wait_for("what it added", |line| line.contains("proxy_protocol.from 127.0.0.0/8"));
    assert_eq!(before.get("/").status(), 200, "a connection begins once");
    assert!({
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        client.is_closed()
    });
    let mut client = proxy.connect();
    client.send("PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n");
    assert!(client.get("/").text().contains("X-Forwarded-For: 192.0.2.1\n"));
}

#[test]
fn curl_and_haproxy_speak_it_as_it_is_understood() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("proxy_protocol: {from: [127.0.0.1]}"));
    let text = curl_ok(&["--haproxy-protocol", &proxy.url("/curl")]);
    assert!(text.contains("X-Forwarded-For: 127.0.0.1\n"), "{text}");
    if is_missing("haproxy") {
        return;
    }
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"] {
        let haproxy = Haproxy::start(proxy.address, option);
        let url = format!("http://{}/haproxy", haproxy.address);
        // The balancer comes from 127.0.0.1, the client from elsewhere.
        let text = curl_ok(&["--interface", "127.0.0.2", &url, &url]);
        assert_eq!(text.matches("X-Forwarded-For: 127.0.0.2\n").count(), 2, "{option}: {text}");
    }
    let haproxy = Haproxy::start(proxy.address, "");
    let mut without = Peer::connect(haproxy.address);
    without.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(without.is_closed(), "a balancer that does not say it passes nothing on");
}

#[test]
fn a_client_that_speaks_tls_with_the_balancer_is_told_to_upstreams() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&listed("")));
    let tlv = |flags: u8| [&[4, 0, 2, 0, 0, 0x20, 0, 5, flags, 0, 0, 0, 0][..], b"\x05\0\x01x"].concat();
    for (name, header, proto) in [
        ("with TLS", header(0x21, 0x11, 29, &[&V4[..], &tlv(1)].concat()), "https"),
        ("with TLS, IPv6", header(0x21, 0x21, 53, &[&ipv6()[..], &tlv(1)].concat()), "https"),
        ("with TLS, without an address", header(0x21, 0, 17, &tlv(1)), "https"),
        ("without TLS", header(0x21, 0x11, 29, &[&V4[..], &tlv(0)].concat()), "http"),
        ("the balancer's own", header(0x20, 0x11, 29, &[&V4[..], &tlv(1)].concat()), "http"),
    ] {
        for in_pieces in [false, true] {
            let mut client = proxy.connect();
            if in_pieces {
                header.iter().for_each(|byte| client.send([*byte]));
            } else {
                client.send(&header);
            }
            let expected = format!("X-Forwarded-Proto: {proto}\n");
            for _ in 0..2 {
                let seen = client.get("/");
                assert!(seen.text().contains(&expected), "{name}, in pieces: {in_pieces}: {}", seen.text());
            }
        }
    }
}

#[test]
fn g12_a_listed_peer_that_leaves_before_its_header_is_complete_gives_its_place_back() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&listed("workers: 1\ntimeouts: {request_head: 10m}")));
    let before = proxy.descriptors();
    for start in [b"".to_vec(), b"PROXY TCP4 192.0.2.1".to_vec(), header(0x21, 0x11, 400, &V4)] {
        for is_reset in [true, false] {
            let mut client = proxy.connect();
            // It is inside when the proxy waits for it.
            wait_until("it is let in", || proxy.descriptors() > before);
            client.send(&start);
            if is_reset {
                client.reset();
            } else {
                drop(client);
            }
            wait_until("its place is free", || proxy.descriptors() == before);
        }
    }
}
