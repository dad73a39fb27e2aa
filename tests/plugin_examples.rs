//! Example plugins in the built proxy, together with what they talk to: a service that is asked, a file, slow passwords.
#![cfg(feature = "builtin-plugins")]

use tempfile::TempDir;

#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

use support::{Origin, Proxy};

#[test]
fn the_json_log_tells_what_clients_got() {
    let (origin, folder) = (Origin::echo(), TempDir::new().expect("a temporary folder"));
    let file = folder.path().join("log");
    let plugins = format!(
        "plugins:\n  - builtin: request_id\n  - builtin: access_log_json\n    config: {{file: {}}}\n",
        file.display()
    );
    let mut proxy = Proxy::start(&origin.config(&plugins));
    let response = proxy.connect().get("/a?b");
    let id = response.field("X-Request-Id").expect("it has one").to_owned();
    // An end of its own writes what is in the queue.
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    let line = std::fs::read_to_string(&file).expect("the log");
    let line: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
    let is = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    assert_eq!((line["status"].as_u64(), is("method"), is("target")), (Some(200), "GET".to_owned(), "/a?b".to_owned()));
    assert_eq!((is("request_id"), is("source"), is("host")), (id, "upstream".to_owned(), "test".to_owned()));
    assert_eq!(line["bytes_out"].as_u64(), Some(response.body.len() as u64));
}

#[test]
fn only_json_is_held_back_by_a_plugin_that_changes_json() {
    const LEN: usize = 3_000_000;
    let origin = Origin::start(|mut peer, _| {
        while let Some(request) = peer.request() {
            let (kind, body) = match request.target() {
                "/json" => ("application/json", "{\"a\": 1}".to_owned()),
                "/large.json" => ("application/json", " ".repeat(LEN)),
                _ => ("application/octet-stream", "x".repeat(LEN)),
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
            if peer.try_send(head + &body).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&origin.config("plugins:\n  - builtin: json_rewrite\n    config: {remove: [/a]}\n"));
    assert_eq!(proxy.connect().get("/json").text(), "{}");
    assert_eq!(proxy.connect().get("/download").body.len(), LEN, "above plugin_body_limit");
    assert_eq!(proxy.connect().get("/large.json").status(), 502);
}
