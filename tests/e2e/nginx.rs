//! Debian's nginx as the origin, curl as the client.

use crate::support::{Nginx, Proxy, curl_ok, is_missing};

fn start(server: &str) -> Option<(Nginx, Proxy)> {
    if is_missing("curl") || is_missing("nginx") {
        return None;
    }
    let nginx = Nginx::start(server);
    let proxy = Proxy::start(&format!("workers: 1\nroutes:\n  - prefix: /\n    upstream: http://{}\n", nginx.address));
    Some((nginx, proxy))
}

fn digits(len: usize) -> String {
    (0..len).map(|n| char::from(b'0' + (n % 10) as u8)).collect()
}

#[test]
fn static_files_and_ranges() {
    let Some((nginx, proxy)) = start("") else { return };
    let text = digits(300_000);
    nginx.put("file.txt", &text);
    nginx.put("empty.txt", "");
    assert!(curl_ok(&[&proxy.url("/file.txt")]) == text, "the file arrives as it is");
    assert_eq!(curl_ok(&[&proxy.url("/empty.txt")]), "");

    let seen = curl_ok(&["-i", "-r", "10-19", &proxy.url("/file.txt")]);
    assert!(seen.starts_with("HTTP/1.1 206 Partial Content\r\n"), "{seen}");
    assert!(seen.contains("Content-Range: bytes 10-19/300000\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\n0123456789"), "{seen}");

    let seen = curl_ok(&["-i", "-r", "0-1,5-6", &proxy.url("/file.txt")]);
    assert!(seen.contains("Content-Type: multipart/byteranges; boundary="), "{seen}");
    assert!(seen.contains("Content-Range: bytes 5-6/300000\r\n\r\n56\r\n"), "{seen}");

    let seen = curl_ok(&["-i", "-r", "300000-", &proxy.url("/file.txt")]);
    assert!(seen.starts_with("HTTP/1.1 416"), "{seen}");
    let seen = curl_ok(&["-i", &proxy.url("/missing.txt")]);
    assert!(seen.starts_with("HTTP/1.1 404 Not Found\r\n") && seen.contains("nginx"), "{seen}");
}

#[test]
fn what_was_not_modified_has_no_body() {
    let Some((nginx, proxy)) = start("") else { return };
    nginx.put("file.txt", "text");
    let head = curl_ok(&["-I", &proxy.url("/file.txt")]);
    assert!(head.contains("Content-Length: 4\r\n"), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("ETag: ")).expect("nginx sends an ETag").trim();
    let condition = format!("If-None-Match: {etag}");
    let url = proxy.url("/file.txt");
    // Twice on one connection: a body that nobody sent must not be waited for.
    let seen = curl_ok(&["-i", "-H", &condition, &url, &url]);
    assert_eq!(seen.matches("HTTP/1.1 304 Not Modified\r\n").count(), 2, "{seen}");
    assert!(seen.ends_with("\r\n\r\n"), "{seen}");
}

#[test]
fn compressed_on_the_fly_is_chunked() {
    let Some((nginx, proxy)) = start("gzip on; gzip_types text/plain; gzip_min_length 1; gzip_proxied any;") else {
        return;
    };
    let text = digits(200_000);
    nginx.put("file.txt", &text);
    let seen = curl_ok(&["--compressed", "-D", "/dev/stderr", &proxy.url("/file.txt")]);
    assert!(seen == text, "the text arrives as it is");
    let head = curl_ok(&["-o", "/dev/null", "-D", "-", "-H", "Accept-Encoding: gzip", &proxy.url("/file.txt")]);
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert!(head.contains("Transfer-Encoding: chunked\r\n") && !head.contains("Content-Length"), "{head}");
}

#[test]
fn redirects_lead_back_through_the_proxy() {
    let Some((nginx, proxy)) = start("absolute_redirect off; location /old { return 302 /new.txt; }") else { return };
    nginx.put("new.txt", "here");
    assert_eq!(curl_ok(&["-L", &proxy.url("/old")]), "here");
    let head = curl_ok(&["-i", &proxy.url("/old")]);
    assert!(head.starts_with("HTTP/1.1 302") && head.contains("Location: /new.txt\r\n"), "{head}");
}

#[test]
fn uploads_reach_nginx_and_its_answer_comes_back() {
    let Some((_nginx, proxy)) = start("location /ok { return 200 \"$request_method $content_length\"; }") else {
        return;
    };
    assert_eq!(curl_ok(&["-d", "hello", &proxy.url("/ok")]), "POST 5");
    assert_eq!(curl_ok(&["-X", "DELETE", &proxy.url("/ok")]), "DELETE ");
}

#[test]
fn connections_are_used_again_over_clients() {
    let Some((nginx, proxy)) = start("keepalive_timeout 60s;") else { return };
    nginx.put("file.txt", "text");
    for _ in 0..10 {
        // Each curl is a client of its own.
        assert_eq!(curl_ok(&[&proxy.url("/file.txt")]), "text");
    }
    let lines = nginx.log.wait_for_many("requests in nginx's log", 10, |line| line.contains("GET /file.txt"));
    let first = lines[0].split(' ').next().expect("a connection number").to_owned();
    for (number, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("{first} {} 200 ", number + 1)), "{lines:?}");
    }
}
