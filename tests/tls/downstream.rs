//! Clients with TLS: curl, openssl, and what no honest client does.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustls::StreamOwned;

use crate::certificates::Authority;
use crate::ends::{
    SClient, address_of, client_config, connect, dial, end, listen, listen_both, openssl, rest, session,
};
use crate::support::programs::Haproxy;
use crate::support::{Origin, PATIENCE, Peer, Proxy, Stream, curl, curl_ok, fingerprint, free_address, is_missing};

/// A proxy that speaks TLS only, in front of an origin that tells requests back.
fn start(authority: &Authority, more: &str) -> (Origin, Proxy) {
    let origin = Origin::echo();
    let yaml = origin.config(&format!("workers: 1\n{}{more}", listen(&authority.issue(&["localhost", "127.0.0.1"]))));
    (origin, Proxy::start(&yaml))
}

#[test]
fn curl_is_served_with_both_versions_and_upstreams_are_told() {
    if is_missing("curl") {
        return;
    }
    let authority = Authority::new();
    let ca = authority.file.display().to_string();
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&listen_both(&authority.issue(&["localhost", "127.0.0.1"]))));
    let https = format!("https://{}/x", address_of(&proxy, "https"));
    let http = format!("http://{}/x", address_of(&proxy, "http"));
    for (args, version) in [
        (&["--tlsv1.2", "--tls-max", "1.2"][..], "1.1"),
        (&["--tlsv1.3"], "1.1"),
        (&["--http1.0"], "1.0"),
        (&["--no-alpn"], "1.1"),
    ] {
        let all: Vec<&str> = args.iter().copied().chain(["--cacert", &ca, &https]).collect();
        let seen = curl_ok(&all);
        assert!(seen.contains("X-Forwarded-Proto: https\n"), "{args:?} (HTTP/{version}): {seen}");
    }
    let seen = curl_ok(&[&http]);
    assert!(seen.contains("X-Forwarded-Proto: http\n"), "{seen}");
    // Two on one connection.
    let seen = curl_ok(&["--cacert", &ca, "-w", "%{num_connects}\n", "-o", "/dev/null", &https, &https]);
    assert!(seen.starts_with("1\n") && seen.contains("0\n"), "{seen}");
    let refused = curl(&["--cacert", &ca, "--tls-max", "1.1", &https]);
    assert!(!refused.status.success(), "TLS 1.1 is not spoken");
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, "");
    for request in
        ["GET /x HTTP/1.1\r\nHost: test\r\n\r\n", "POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n"]
    {
        let mut client = proxy.connect();
        client.send(request);
        let response = client.response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.field("Connection"), Some("close"));
        assert!(response.text().contains("HTTPS") && response.text().ends_with('\n'), "{}", response.text());
        // Not a reset, which could overtake the answer: the upload is read and thrown away.
        let _ = client.try_send(vec![b'x'; 100_000]);
        assert_eq!(client.rest(), b"");
    }
    assert_eq!(connect(proxy.address, &authority, "localhost").get("/y").status(), 200);
}

#[test]
fn openssl_agrees_resumes_and_may_not_renegotiate() {
    if is_missing("openssl") {
        return;
    }
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, "");
    let ca = authority.file.display().to_string();
    let tickets = authority.folder().join("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let common = [version, "-CAfile", &ca, "-servername", "localhost", "-alpn", "http/1.1", "-crlf"];
        let first: Vec<&str> = common.iter().copied().chain(["-sess_out", &tickets]).collect();
        let mut client = SClient::start(proxy.address, &first);
        client.lines.wait_for("trust", |line| line.contains("Verify return code: 0 (ok)"));
        client.lines.wait_for("the protocol", |line| line.contains("ALPN protocol: http/1.1"));
        client.send("GET /first HTTP/1.1\nHost: test\n\n");
        client.lines.wait_for("the answer", |line| line.contains("GET /first HTTP/1.1"));
        drop(client);
        let again: Vec<&str> = common.iter().copied().chain(["-sess_in", &tickets]).collect();
        let client = SClient::start(proxy.address, &again);
        client.lines.wait_for("a resumed session", |line| line.starts_with("Reused, "));
    }
    let mut client = SClient::start(proxy.address, &["-tls1_2", "-CAfile", &ca, "-servername", "localhost"]);
    client.lines.wait_for("the handshake", |line| line.contains("Verify return code: 0 (ok)"));
    client.send("R\n");
    client.lines.wait_for("the refusal", |line| line.contains("RENEGOTIATING") || line.contains("no renegotiation"));
    assert_eq!(connect(proxy.address, &authority, "localhost").get("/alive").status(), 200);
    let client = SClient::start(proxy.address, &["-tls1_1"]);
    client.lines.wait_for("an alert", |line| line.contains("alert") || line.contains("no protocols available"));
}

#[test]
fn the_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let pairs = [
        authority.issue(&["one.test"]),
        authority.issue(&["*.two.test", "two.test"]),
        authority.issue(&["three.test"]),
    ];
    let more: String = pairs[1..].iter().map(|pair| format!("{{ {} }}, ", pair.yaml())).collect();
    let origin = Origin::echo();
    let yaml = format!("tls: {{ {}, certificates: [{more}] }}\n", pairs[0].yaml());
    let proxy = Proxy::start(&origin.config(&yaml));
    for (name, expected) in [
        ("one.test", Some(0)),
        ("two.test", Some(1)),
        ("a.two.test", Some(1)),
        ("three.test", Some(2)),
        ("a.b.two.test", None),
        ("unknown.test", None),
        ("127.0.0.1", None),
    ] {
        let mut stream = StreamOwned::new(session(client_config(&authority), name), dial(proxy.address));
        let result = stream.conn.complete_io(&mut stream.sock);
        match expected {
            Some(_) => assert!(result.is_ok(), "{name}: {result:?}"),
            // It gets the first one, which it does not believe.
            None => {
                let error = result.expect_err("no certificate is for this name").to_string();
                assert!(error.contains("not valid for name") && error.contains("one.test"), "{name}: {error}");
            }
        }
    }
}

#[test]
fn g7_a_client_that_asked_for_another_site_is_misdirected() {
    let authority = Authority::new();
    let names = ["a.test", "b.test", "x.c.test", "y.c.test", "other.test"];
    let origin = Origin::echo();
    let proxy = Proxy::start(&format!(
        "workers: 1\nlog: {{access: true}}\n{}routes:\n\
         - {{hosts: a.test, prefix: /a, upstream: '{url}'}}\n\
         - {{hosts: b.test, prefix: /, upstream: '{url}'}}\n\
         - {{hosts: '*.c.test', prefix: /, upstream: '{url}'}}\n\
         - {{prefix: /, upstream: '{url}'}}\n",
        listen(&authority.issue(&names)),
        url = origin.url(),
    ));
    for (asked, host, path, status) in [
        ("a.test", "A.test.:8443", "/a", 200),
        ("a.test", "b.test", "/a", 421),
        ("b.test", "a.test", "/none", 421),
        ("a.test", "x.c.test", "/a", 421),
        ("x.c.test", "y.c.test", "/a", 200),
        ("a.test", "other.test", "/a", 200),
        ("other.test", "a.test", "/a", 200),
        ("a.test", "b.test", "/health", 200),
    ] {
        let mut client = connect(proxy.address, &authority, asked);
        // The connection lives on for the site that it was opened for.
        for (host, path, status) in [(host, path, status), (asked, "/a", 200)] {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(client.response().status(), status, "{asked}: {host}{path}");
        }
    }
    proxy.log.wait_for("the cause", |line| line.contains("status=421") && line.contains("why=misdirected"));
}

#[test]
fn clients_without_tls_are_sent_to_it() {
    let authority = Authority::new();
    let (origin, address) = (Origin::echo(), free_address());
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("plain.sock");
    let listen = format!("listen_addr: [\"127.0.0.1:0\", \"unix:{}\"]\n", socket.display());
    let yaml = |on: bool| {
        let pair = authority.issue(&["localhost"]).yaml();
        let routes = format!("routes: [{{prefix: /, upstream: '{}'}}]\n", origin.url());
        format!("workers: 1\n{listen}tls: {{ listen_addr: \"{address}\", redirect_http: {on}, {pair} }}\n{routes}")
    };
    let proxy = Proxy::start(&yaml(true));
    let mut client = Peer::connect(address_of(&proxy, "http"));
    for (request, status, location) in [
        ("GET /x?y HTTP/1.1\r\nHost: localhost:80", 308, Some(format!("https://localhost:{}/x?y", address.port()))),
        ("GET /health HTTP/1.1\r\nHost: localhost", 200, None),
        ("GET /x HTTP/1.0", 400, None),
    ] {
        client.send(format!("{request}\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status(), response.field("Location")), (status, location.as_deref()), "{request}");
    }
    assert_eq!(connect(address, &authority, "localhost").get("/x").status(), 200);
    // Who asks over a unix socket may have taken TLS off.
    let mut local = std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
    local.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut seen = String::new();
    local.read_to_string(&mut seen).expect("text");
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
}

#[test]
fn a_start_warns_where_everybody_can_see_the_routes_by_tls() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let pair = authority.issue(&["localhost"]).yaml();
    for (address, is_warned) in [("0.0.0.0:0", true), ("127.0.0.1:0", false)] {
        let proxy = Proxy::start(
            &origin.config(&format!("listen_addr: 127.0.0.1:0\ntls: {{ listen_addr: \"{address}\", {pair} }}\n")),
        );
        let told = proxy.log.all();
        let is_it = |line: &String| line.contains("everybody who reaches the proxy can see its routes");
        assert_eq!(told.iter().any(is_it), is_warned, "{address}: {told:?}");
    }
}

#[test]
fn handshakes_that_are_not_finished_end_in_time() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, "timeouts: { request_head: 400ms }");
    let mut hello = Vec::new();
    session(client_config(&authority), "localhost").write_tls(&mut hello).expect("memory");
    for (name, bytes) in [("nothing", &b""[..]), ("one byte", &hello[..1]), ("half", &hello[..hello.len() / 2])] {
        let mut client = proxy.connect();
        client.send(bytes);
        let start = Instant::now();
        assert!(client.try_rest().is_ok_and(|rest| rest.is_empty()), "{name}");
        assert!(start.elapsed() < PATIENCE / 2, "{name}");
    }
    // Complete, and then silent.
    let mut client = connect(proxy.address, &authority, "localhost");
    let (bytes, end) = rest(&mut client);
    assert!(bytes.is_empty() && end.is_ok(), "{end:?}: it says goodbye");
}

#[test]
fn what_is_not_tls_ends_one_connection_only() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, "");
    let mut polite = connect(proxy.address, &authority, "localhost");
    let mut hello = Vec::new();
    session(client_config(&authority), "localhost").write_tls(&mut hello).expect("memory");
    let mut broken = hello.clone();
    broken[20..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let long = [&[22, 3, 1, 0xff, 0xff][..], &vec![0; 70_000]].concat();
    for (name, bytes) in [
        ("zeros", vec![0; 100]),
        ("text in lower case", b"get / http/1.1\r\n\r\n".to_vec()),
        ("SSH", b"\x00SSH-2.0-x\r\n".to_vec()),
        ("a broken hello", broken),
        ("too long a record", long),
        ("alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("application data", vec![23, 3, 3, 0, 5, 1, 2, 3, 4, 5]),
        ("hello twice", [&hello[..], &hello].concat()),
    ] {
        let mut client = proxy.connect();
        let _ = client.try_send(&bytes);
        // The proxy may have closed already.
        let _ = client.stream().shutdown(std::net::Shutdown::Write);
        let _ = client.try_rest();
        assert_eq!(polite.get("/").status(), 200, "after {name}");
    }
}

#[test]
fn a_hello_may_come_byte_by_byte_and_so_may_everything_else() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, "");
    let mut session = session(client_config(&authority), "localhost");
    let mut socket = dial(proxy.address);
    while session.is_handshaking() {
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).expect("memory");
        }
        for byte in bytes {
            socket.write_all(&[byte]).expect("is taken");
        }
        if session.is_handshaking() {
            session.read_tls(&mut socket).expect("an answer");
            session.process_new_packets().expect("TLS");
        }
    }
    let mut stream = StreamOwned::new(session, socket);
    for byte in b"POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc" {
        // A record for each.
        stream.write_all(&[*byte]).and_then(|()| stream.flush()).expect("is taken");
    }
    let response = Peer::over(stream).response();
    assert!(response.text().contains(&fingerprint(b"abc")), "{}", response.text());
}

#[test]
fn the_end_of_a_response_is_said() {
    let authority = Authority::new();
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nbody");
    });
    let yaml = origin.config(&listen(&authority.issue(&["localhost"])));
    let proxy = Proxy::start(&yaml);
    // HTTP/1.0 gets it as it is: up to the end.
    let mut client = connect(proxy.address, &authority, "localhost");
    client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().expect("a response").status(), 200);
    let (bytes, end) = rest(&mut client);
    assert_eq!(bytes, b"body");
    assert!(end.is_ok(), "without close_notify the client would have to take it for truncated: {end:?}");
}

#[test]
fn g11_what_was_cut_upstream_is_cut_here_too() {
    let authority = Authority::new();
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nbody");
        peer.reset();
    });
    let proxy = Proxy::start(&origin.config(&listen(&authority.issue(&["localhost"]))));
    let mut client = connect(proxy.address, &authority, "localhost");
    client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    // Which part of it arrives is the network's business; that it is an end is not said.
    assert!(rest(&mut client).1.is_err());
}

#[test]
fn a_client_that_says_goodbye_while_it_waits_is_gone() {
    let authority = Authority::new();
    let (sender, asked) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let origin = Origin::start(move |mut peer, _| {
        peer.request();
        sender.lock().expect("whole").send(()).expect("the test waits");
        assert!(peer.is_closed());
    });
    let proxy = Proxy::start(&origin.config(&listen(&authority.issue(&["localhost"]))));
    for is_polite in [true, false] {
        let mut client = connect(proxy.address, &authority, "localhost");
        client.send(format!("GET /{is_polite} HTTP/1.1\r\nHost: test\r\n\r\n"));
        asked.recv_timeout(PATIENCE).expect("the origin is asked");
        if is_polite {
            end(client.inner());
        }
        drop(client);
        let line = proxy.access(&format!("/{is_polite}"));
        assert!(line.contains("status=499") && line.contains("why=client_gone"), "{line}");
    }
}

#[test]
fn e4_a_client_that_does_not_read_stops_the_origin() {
    const LEN: u64 = 256 << 20;
    let authority = Authority::new();
    let (sender, sent) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let origin = Origin::start(move |mut peer, _| {
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"));
        peer.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("a socket takes a time-out");
        let mut body = Stream::new(7, LEN);
        let result = body.write_to(peer.inner());
        sender.lock().expect("whole").send((result.is_err(), body.position())).expect("the test waits");
        peer.stream().set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        body.write_to(peer.inner()).expect("is taken in the end");
    });
    let proxy = Proxy::start(&origin.config(&format!("workers: 1\n{}", listen(&authority.issue(&["localhost"])))));
    let mut client = connect(proxy.address, &authority, "localhost");
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().expect("a response").status(), 200);
    let (is_stuck, position) = sent.recv_timeout(PATIENCE).expect("the origin gets stuck");
    assert!(is_stuck && position < 32 << 20, "{position} bytes went somewhere");
    // Reads on: nothing was lost. (Less of it where it is not optimised, for the sake of time.)
    let some = if cfg!(debug_assertions) { 32 << 20 } else { LEN };
    Stream::new(7, some).compare(&mut client).expect("every byte");
    assert!(proxy.peak_memory_kib() < 32 * 1024, "{} KiB", proxy.peak_memory_kib());
}

#[test]
fn what_a_load_balancer_says_stands_before_the_handshake() {
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, "proxy_protocol: {from: [127.0.0.1]}\n");
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x01\xc6\x33\x64\x01\x12\x67\x01\xbb\x04\0\x01x";
    for (name, start) in [("version 1", &b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n"[..]), ("version 2", v2)] {
        let mut session = session(client_config(&authority), "localhost");
        // In one segment with what follows.
        let mut first = start.to_vec();
        session.write_tls(&mut first).expect("a ClientHello");
        let mut socket = dial(proxy.address);
        socket.write_all(&first).expect("is taken");
        let mut client = Peer::over(StreamOwned::new(session, socket));
        let seen = client.get("/x");
        assert!(seen.text().contains("X-Forwarded-For: 192.0.2.1\n"), "{name}: {}", seen.text());
        assert!(seen.text().contains("X-Forwarded-Proto: https\n"), "{name}: {}", seen.text());
        assert_eq!(client.get("/y").status(), 200, "{name}");
    }
    let mut without = StreamOwned::new(session(client_config(&authority), "localhost"), dial(proxy.address));
    assert!(without.conn.complete_io(&mut without.sock).is_err(), "a handshake that nobody has announced");
    if !is_missing("curl") {
        let (ca, url) = (authority.file.display().to_string(), format!("https://{}/curl", proxy.address));
        let seen = curl_ok(&["--haproxy-protocol", "--cacert", &ca, &url]);
        assert!(seen.contains("X-Forwarded-For: 127.0.0.1\n"), "{seen}");
    }
}

#[test]
fn each_client_gets_a_certificate_that_it_can_use() {
    if is_missing("openssl") {
        return;
    }
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut certificates = String::new();
    for (name, args) in [
        ("ec", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..]),
        ("rsa", &["-newkey", "rsa:2048"]),
        ("other", &["-newkey", "ed25519"]),
    ] {
        let (key, certificate) = (path(&format!("{name}.key")), path(&format!("{name}.pem")));
        let san = if name == "other" { "subjectAltName=DNS:other.test" } else { "subjectAltName=DNS:one.test" };
        let common =
            ["req", "-x509", "-nodes", "-subj", "/CN=x", "-addext", san, "-keyout", &key, "-out", &certificate];
        openssl(folder.path(), &[&common, args].concat());
        certificates.push_str(&format!("{{certificate: {certificate}, key: {key}}}, "));
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&format!("workers: 1\ntls: {{certificates: [{certificates}]}}\n")));
    for (args, expected) in [
        (&["-servername", "one.test"][..], "ECDSA"),
        (&["-servername", "one.test", "-tls1_2"], "ECDSA"),
        (&["-servername", "one.test", "-sigalgs", "rsa_pss_rsae_sha256"], "RSA-PSS"),
        (&["-servername", "one.test", "-tls1_2", "-sigalgs", "RSA+SHA256"], "RSA"),
        // It could verify ECDSA, and has no cipher suite that goes with it.
        (&["-servername", "one.test", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA-PSS"),
        (&["-servername", "other.test"], "ed25519"),
        (&["-noservername"], "ECDSA"),
        (&["-noservername", "-tls1_2", "-sigalgs", "RSA+SHA256"], "RSA"),
        (&["-servername", "third.test", "-sigalgs", "ed25519"], "ed25519"),
    ] {
        let client = SClient::start(proxy.address, args);
        let line = client.lines.wait_for("the signature", |line| line.starts_with("Peer signature type: "));
        assert!(line.ends_with(&format!(": {expected}")), "{args:?}: {line}");
    }
}

#[test]
fn s23_failed_handshakes_are_told_and_counted() {
    if is_missing("openssl") || is_missing("curl") {
        return;
    }
    let authority = Authority::new();
    let (_origin, proxy) = start(&authority, "timeouts: {request_head: 500ms}\n");
    let url = format!("https://{}/", proxy.address);
    let failures = || {
        let text = connect(proxy.address, &authority, "localhost").get("/metrics").text().to_owned();
        let counts = text.lines().filter_map(|line| {
            line.strip_prefix("mini_rproxy_tls_handshake_failures_total{reason=\"")?.split_once("\"} ")
        });
        counts.map(|(reason, count)| (reason.to_owned(), count.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(failures(), [], "what succeeds is no failure");
    // Whoever only looks whether the port is open is no news.
    drop(dial(proxy.address));
    let mut told = 0;
    for (reason, said, act) in [
        ("plain_http", "it speaks plain HTTP", &(|| drop(proxy.connect().get("/"))) as &dyn Fn()),
        ("certificate_refused", "UnknownCA", &|| drop(curl(&[&url]))),
        ("old_version", "no version of TLS that is spoken here", &|| {
            let client = SClient::start(proxy.address, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
            client.lines.wait_for("an alert", |line| line.contains("alert"));
        }),
        ("no_common_cipher", "no common cipher suite", &|| {
            let client = SClient::start(proxy.address, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"]);
            client.lines.wait_for("an alert", |line| line.contains("alert"));
        }),
        ("not_tls", "it does not speak TLS", &|| {
            let mut client = dial(proxy.address);
            client.write_all(b"\0\0\0\0\0\0\0\0").expect("is taken");
            let _ = client.read(&mut [0; 8]);
        }),
        ("cut_off", "ended within the handshake", &|| {
            dial(proxy.address).write_all(b"\x16\x03\x01").expect("is taken")
        }),
        ("unfinished", "not finished in time", &|| {
            let mut client = dial(proxy.address);
            client.write_all(b"\x16\x03\x01").expect("is taken");
            let _ = client.read(&mut [0; 8]);
        }),
    ] {
        act();
        // At most one line a second.
        let line = proxy.log.wait_for_many("failures", told + 1, |line| line.contains("no TLS connection with")).pop();
        let line = line.expect("one");
        assert!(line.contains("with 127.0.0.1:") && line.contains(said), "{reason}: {line}");
        assert!(line.contains(&format!("({reason})")), "{reason}: {line}");
        told += 1;
        assert!(failures().contains(&(reason.to_owned(), "1".to_owned())), "{reason}: {:?}", failures());
        std::thread::sleep(Duration::from_millis(1100));
    }
    for _ in 0..20 {
        drop(curl(&[&url]));
    }
    let lines = proxy.log.all();
    let lines: Vec<_> = lines.iter().filter(|line| line.contains("no TLS connection with")).collect();
    assert!(lines.len() < told + 10, "{lines:?}");
    assert!(failures().contains(&("certificate_refused".to_owned(), "21".to_owned())), "{:?}", failures());
}

#[test]
fn s23_tls_on_a_plain_port_is_called_so() {
    let authority = Authority::new();
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut stream = StreamOwned::new(session(client_config(&authority), "localhost"), dial(proxy.address));
    assert!(stream.conn.complete_io(&mut stream.sock).is_err());
    let line = proxy.log.wait_for("the request", |line| line.contains("why=tls_on_plain_port"));
    assert!(line.contains("status=400"), "{line}");
}

#[test]
fn a_balancer_that_ends_tls_says_so() {
    if is_missing("haproxy") || is_missing("curl") {
        return;
    }
    let authority = Authority::new();
    let pair = authority.issue(&["127.0.0.1"]);
    let pem = authority.folder().join("both.pem");
    let read = |path| std::fs::read_to_string(path).expect("a file");
    std::fs::write(&pem, read(&pair.certificate) + &read(&pair.key)).expect("a file");
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("proxy_protocol: {from: [127.0.0.1]}"));
    for (option, proto) in
        [("send-proxy-v2-ssl", "https"), ("send-proxy-v2-ssl-cn", "https"), ("send-proxy-v2", "http")]
    {
        let haproxy = Haproxy::start_tls(proxy.address, option, &pem);
        let url = format!("https://{}/", haproxy.address);
        let seen = curl_ok(&["--cacert", &authority.file.display().to_string(), &url]);
        assert!(seen.contains(&format!("X-Forwarded-Proto: {proto}\n")), "{option}: {seen}");
    }
    let haproxy = Haproxy::start(proxy.address, "send-proxy-v2-ssl");
    let seen = curl_ok(&[&format!("http://{}/", haproxy.address)]);
    assert!(seen.contains("X-Forwarded-Proto: http\n"), "{seen}");
}
