//! error_pages: the bodies of the proxy's own errors.

use std::fs;

use super::start_up::run;
use crate::support::{Launch, Origin, free_address};

#[test]
fn errors_of_the_proxy_have_the_bodies_of_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(file("404.html"), "<h1>n\u{f6}thing</h1>").expect("a file");
    fs::write(file("4xx.json"), "{}").expect("a file");
    fs::write(file("5xx.txt"), "broken\n").expect("a file");
    let origin = Origin::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\ntheir");
    let config = format!(
        "error_pages: {{404: {}, 4xx: {}, 5xx: {}}}\nroutes:\n- {{prefix: /a, upstream: \"{}\"}}\n\
         - {{prefix: /down, upstream: \"http://{}\"}}\n",
        file("404.html"),
        file("4xx.json"),
        file("5xx.txt"),
        origin.url(),
        free_address()
    );
    let proxy = Launch::new(&config).start();
    let mut client = proxy.connect();
    for (request, status, media_type, body) in [
        ("GET /none", 404, Some("text/html; charset=utf-8"), "<h1>n\u{f6}thing</h1>"),
        ("GET /a", 404, None, "their"),
        ("TRACE /a", 405, Some("application/json"), "{}"),
        ("POST /health", 405, Some("application/json"), "{}"),
        ("GET /down", 502, Some("text/plain; charset=utf-8"), "broken\n"),
    ] {
        client.send(format!("{request} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"));
        let answer = client.response();
        assert_eq!((answer.status(), answer.field("Content-Type")), (status, media_type), "{request}");
        assert_eq!(answer.body, body.as_bytes(), "{request}");
        assert_eq!(answer.field("Allow").is_some(), status == 405, "{request}");
    }
    // Of HEAD the length alone, of one that is no request, too.
    let mut bad = proxy.connect();
    bad.send("HEAD  /none HTTP/1.1\r\nHost: h\r\n\r\n");
    let rest = String::from_utf8(bad.rest()).expect("ASCII");
    assert!(rest.starts_with("HTTP/1.1 400 ") && rest.contains("\r\nContent-Type: application/json\r\n"), "{rest}");
    assert!(rest.contains("\r\nContent-Length: 2\r\n") && rest.ends_with("\r\n\r\n"), "{rest}");
    client.send("HEAD /none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let rest = String::from_utf8(client.rest()).expect("ASCII");
    assert!(rest.contains("\r\nContent-Length: 17\r\n") && rest.ends_with("\r\n\r\n"), "{rest}");

    // The same file with something else in it.
    fs::write(file("404.html"), "new").expect("a file");
    assert_eq!(proxy.connect().get("/none").body, "<h1>n\u{f6}thing</h1>".as_bytes());
    proxy.signal("HUP");
    proxy.log.wait_for("the reload", |line| line.contains("configuration reloaded"));
    assert_eq!(proxy.connect().get("/none").body, b"new");
    // One that is gone: nothing changes, and it is told why and where.
    fs::remove_file(file("404.html")).expect("it is there");
    proxy.signal("HUP");
    let line = proxy.log.wait_for("the refusal", |line| line.contains("are kept as they were"));
    assert!(line.contains("config.yaml:2:") && line.contains("404.html") && line.contains("No such file"), "{line}");
    assert_eq!(proxy.connect().get("/none").body, b"new");
}

#[test]
fn files_that_are_no_error_pages_are_refused_at_start_and_by_check() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    fs::write(file("long.html"), "x".repeat(64 * 1024 + 1)).expect("a file");
    fs::write(file("fits.html"), "x".repeat(64 * 1024)).expect("a file");
    fs::write(file("latin.html"), b"\xe4").expect("a file");
    fs::write(file("page.png"), "x").expect("a file");
    fs::create_dir(file("folder.html")).expect("a folder");
    for (name, expected) in [
        ("fits.html", None),
        ("long.html", Some("larger than 64KiB")),
        ("latin.html", Some("UTF-8")),
        ("page.png", Some(".html, .htm, .txt, .json or .xml")),
        ("folder.html", Some("no regular file")),
        ("missing.html", Some("No such file")),
    ] {
        let page = file(name).display().to_string();
        let config = format!(
            "error_pages: {{500: \"{page}\"}}\nroutes: [{{prefix: /, upstream: \"http://127.0.0.1:1\"}}]\nlisten_addr: 127.0.0.1:0\n"
        );
        for arguments in [&["-check"][..], &[]] {
            // With the good one it would serve.
            if expected.is_none() && arguments.is_empty() {
                continue;
            }
            let output = run(&config, arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(expected.is_some().into()), "{name}: {said}");
            let Some(expected) = expected else { continue };
            assert!(
                said.contains("config.yaml:1:21: ") && said.contains(&page) && said.contains(expected),
                "{name}: {said}"
            );
        }
    }
}
