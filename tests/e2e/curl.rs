//! curl as the client.

use std::fs;

use crate::support::{Origin, Proxy, curl, curl_ok, fingerprint, is_missing};

#[test]
fn requests_of_both_versions() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    let url = proxy.url("/a%2Fb//c;v=1?q=a%20b&q=;x");
    for version in ["--http1.1", "--http1.0"] {
        let seen = curl_ok(&[version, &url]);
        assert!(seen.starts_with("GET /a%2Fb//c;v=1?q=a%20b&q=;x HTTP/1.1\n"), "{version}: {seen}");
        assert!(seen.contains(&format!("\nHost: {}\n", origin.address)), "{version}: {seen}");
        assert!(seen.contains("\nX-Forwarded-For: 127.0.0.1\n"), "{version}: {seen}");
        assert!(seen.contains(&format!("\nX-Forwarded-Host: {}\n", proxy.address)), "{version}: {seen}");
        assert!(seen.contains("\nX-Forwarded-Proto: http\n"), "{version}: {seen}");
        assert!(seen.contains("mini-rproxy\n"), "{version}, Via: {seen}");
        assert!(!seen.to_ascii_lowercase().contains("\nconnection:"), "{version}: {seen}");
    }
}

#[test]
fn g19_a_get_has_no_framing_and_an_empty_post_keeps_its_length() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    let seen = curl_ok(&[&proxy.url("/")]).to_ascii_lowercase();
    assert!(!seen.contains("content-length") && !seen.contains("transfer-encoding"), "{seen}");
    let seen = curl_ok(&["-d", "", &proxy.url("/")]).to_ascii_lowercase();
    assert!(seen.contains("content-length: 0\n"), "{seen}");
}

#[test]
fn uploads_by_length_and_in_chunks() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    for len in [0, 1, 1000, 70_000, 3_000_000] {
        let body: Vec<u8> = (0..len).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let path = proxy.folder().join("body");
        fs::write(&path, &body).expect("a file to send");
        let file = path.to_str().expect("a temporary path is text");
        for framing in ["X-Framing: by length", "Transfer-Encoding: chunked"] {
            if len == 0 && framing.ends_with("chunked") {
                // curl announces chunks for an empty file and never sends the last one.
                continue;
            }
            let seen = curl_ok(&["-T", file, "-H", framing, &proxy.url("/up")]);
            assert!(seen.contains(&fingerprint(&body)), "{len} bytes, {framing}: {seen}");
        }
    }
}

#[test]
fn expect_100_continue_is_waited_for() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    // curl would wait so long for the 100 that the whole call fails, were it not passed on.
    let args = ["--expect100-timeout", "60", "-H", "Expect: 100-continue", "-d", "hello", "-i"];
    let seen = curl_ok(&[&args[..], &[&proxy.url("/")]].concat());
    assert!(seen.starts_with("HTTP/1.1 100 Continue\r\n"), "{seen}");
    assert!(seen.contains(&fingerprint(b"hello")), "{seen}");
}

#[test]
fn g10_a_final_answer_instead_of_100_ends_the_upload() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::start(|mut peer, _| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n");
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    for _ in 0..2 {
        let args = ["--expect100-timeout", "60", "-H", "Expect: 100-continue", "-d", "hello"];
        let seen = curl_ok(&[&args[..], &["-w", "%{http_code} %{size_upload}", &proxy.url("/")]].concat());
        assert_eq!(seen, "no\n403 0");
    }
    // A connection on which a body is still owed must not serve another request.
    assert_eq!(origin.connections(), 2);
}

#[test]
fn head_has_the_length_and_no_body() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    let seen = curl_ok(&["-I", &proxy.url("/")]);
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    assert!(seen.to_ascii_lowercase().contains("content-length: "), "{seen}");
}

#[test]
fn raw_chunks_are_well_formed() {
    if is_missing("curl") {
        return;
    }
    // Chunk extensions are dropped, and every framing byte is the proxy's own.
    let origin =
        Origin::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n005;x=y\r\nhello\r\n0;z\r\n\r\n");
    let proxy = Proxy::start(&origin.config(""));
    assert_eq!(curl_ok(&["--raw", &proxy.url("/")]), "5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(curl_ok(&[&proxy.url("/")]), "hello");
}

#[test]
fn many_requests_use_one_connection() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    let seen = curl_ok(&["-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", &proxy.url("/[1-200]")]);
    let mut lines = seen.lines();
    assert_eq!(lines.next(), Some("200 1"));
    assert!(lines.all(|line| line == "200 0"), "{seen}");
    assert_eq!(seen.lines().count(), 200);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn every_method_but_connect_and_trace_passes() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "brew"] {
        let seen = curl_ok(&["-X", method, &proxy.url("/x")]);
        assert!(seen.starts_with(&format!("{method} /x HTTP/1.1\n")), "{seen}");
    }
    for method in ["TRACE", "CONNECT"] {
        let output = curl(&["-X", method, "-o", "/dev/null", "-w", "%{http_code}", &proxy.url("/x")]);
        let code = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(code == "405" || (method == "CONNECT" && code == "400"), "{method}: {code}");
    }
}

#[test]
fn prefix_and_base_path_are_exchanged() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let url = origin.url();
    let proxy = Proxy::start(&format!(
        "routes:\n  - prefix: /fitness\n    upstream: {url}\n  - prefix: /engine\n    upstream: {url}/base\n"
    ));
    let cases = [
        ("/fitness/users/123?q=a%20b&q=", "/users/123?q=a%20b&q="),
        ("/fitness", "/"),
        ("/fitness?x=1", "/?x=1"),
        ("/engine/x", "/base/x"),
        ("/engine", "/base"),
    ];
    for (target, expected) in cases {
        let seen = curl_ok(&[&proxy.url(target)]);
        assert!(seen.starts_with(&format!("GET {expected} HTTP/1.1\n")), "{target}: {seen}");
        assert!(seen.contains("\nX-Forwarded-Prefix: /"), "{target}: {seen}");
    }
    assert_eq!(curl_ok(&["-o", "/dev/null", "-w", "%{http_code}", &proxy.url("/fitnessy")]), "404");
    let args = ["--path-as-is", "-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(curl_ok(&[&args[..], &[&proxy.url("/fitness/../x")]].concat()), "400");
}
