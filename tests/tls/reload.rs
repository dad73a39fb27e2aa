//! SIGHUP: certificates are read again, and nothing else is disturbed.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use rustls::StreamOwned;

use crate::certificates::{Authority, Pair};
use crate::ends::{client_config, connect, copy, dial, listen, session};
use crate::support::{Launch, Origin, Proxy};

/// Which certificate a new client is shown.
fn shown(proxy: &Proxy, authority: &Authority) -> Vec<u8> {
    let mut stream = StreamOwned::new(session(client_config(authority), "localhost"), dial(proxy.address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    }
    stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
}

fn replace(pair: &Pair, by: &Pair) {
    copy(&by.certificate, &pair.certificate);
    copy(&by.key, &pair.key);
}

#[test]
fn certificates_are_reloaded_or_kept_as_a_whole() {
    let authority = Authority::new();
    let (used, old, new) =
        (authority.issue(&["localhost"]), authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    replace(&used, &old);
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(&listen(&used)));
    let mut running = connect(proxy.address, &authority, "localhost");
    assert_eq!(running.get("/").status(), 200);
    let first = shown(&proxy, &authority);

    // A key that does not belong to the certificate, as while somebody copies files.
    copy(&new.certificate, &used.certificate);
    proxy.signal("HUP");
    let line = proxy.log.wait_for("the refusal", |line| line.contains("are kept as they were"));
    assert!(line.contains("does not belong to the certificate"), "{line}");
    assert_eq!(shown(&proxy, &authority), first);

    copy(&new.key, &used.key);
    proxy.signal("HUP");
    proxy.log.wait_for("the reload", |line| line.contains("configuration reloaded") && line.contains("certificates=1"));
    let second = shown(&proxy, &authority);
    assert_ne!(second, first);

    std::fs::remove_file(&used.certificate).expect("it was there");
    proxy.signal("HUP");
    proxy.log.wait_for("the refusal", |line| line.contains("kept") && line.contains("cannot be read"));
    assert_eq!(shown(&proxy, &authority), second);

    assert_eq!(running.get("/").status(), 200, "the connection from before goes on");
}

/// Requests that have come before the first `hosts` are admitted by them all the same.
#[test]
fn g7_a_client_of_before_is_misdirected_by_the_first_hosts() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test", "b.test"]);
    let (asked, is_asked) = channel();
    let (answer, may_answer) = channel();
    let may_answer = Mutex::new(may_answer);
    let origin = Origin::start(move |mut peer, _| {
        while peer.request().is_some() {
            asked.send(()).expect("the test runs");
            may_answer.lock().expect("not poisoned").recv().expect("the test runs");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let yaml = |[a, b]: [&str; 2]| {
        let url = origin.url();
        let routes = format!("- {{{a}prefix: /, upstream: '{url}'}}\n- {{{b}prefix: /b, upstream: '{url}'}}\n");
        format!("workers: 1\nlisten_addr: 127.0.0.1:0\n{}routes:\n{routes}", listen(&pair))
    };
    let proxy = Proxy::start(&yaml(["", ""]));
    let mut client = connect(proxy.address, &authority, "a.test");
    let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.send(request("a.test") + &request("b.test") + &request("a.test"));
    is_asked.recv().expect("the first one");
    std::fs::write(proxy.folder().join("config.yaml"), yaml(["hosts: a.test, ", "hosts: b.test, "])).expect("a file");
    proxy.signal("HUP");
    proxy.log.wait_for("the reload", |line| line.contains("configuration reloaded"));
    answer.send(()).expect("the origin waits");
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.response().status(), 421);
    answer.send(()).expect("the origin will wait");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn certificates_out_of_their_time_are_told() {
    let authority = Authority::new();
    let (used, good) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let origin = Origin::echo();
    let yaml = origin.config(&listen(&used));
    for (first, last, expected) in
        [(2010, 2011, "has expired, on 2011-01-01T00:00:00Z"), (2090, 2091, "not valid before 2090-01-01T00:00:00Z")]
    {
        let bad = authority.issue_for_years(&["localhost"], first, last);
        let is_told = |line: &str| line.contains(expected) && line.contains(&used.certificate.display().to_string());
        replace(&used, &bad);
        let mut check = Launch::new(&yaml).arg("-check").spawn();
        assert_eq!(check.wait().code(), Some(1), "it would start, and clients would refuse it");
        check.log.wait_for("the error of -check", |line| is_told(line));
        let proxy = Proxy::start(&yaml);
        proxy.log.wait_for("the warning", |line| line.contains("level=warn") && is_told(line));
        replace(&used, &good);
        proxy.signal("HUP");
        proxy.log.wait_for("the reload", |line| line.contains("configuration reloaded"));
        let mut client = connect(proxy.address, &authority, "localhost");
        let metric = "mini_rproxy_tls_certificate_expiry_timestamp_seconds";
        // 2080-01-01.
        let expected = format!("{metric}{{certificate=\"{}\"}} 3471292800", used.certificate.display());
        let metrics = client.get("/metrics").text().to_owned();
        assert!(metrics.lines().any(|line| line == expected), "{metrics}");
        replace(&used, &bad);
        proxy.signal("HUP");
        proxy.log.wait_for_many("the second warning", 2, |line| line.contains("level=warn") && is_told(line));
    }
}
