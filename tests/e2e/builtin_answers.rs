//! /health and /configz.

use serde_json::{Value, json};

use crate::support::{Launch, Peer, Proxy, curl_ok, free_address, is_missing, value};

fn start() -> Proxy {
    let upstream = free_address();
    Proxy::start(&format!(
        "routes:\n  - prefix: /b\n    upstream: http://user:secret@{upstream}/base\n  - prefix: /\n    upstream: http://{upstream}\n"
    ))
}

#[test]
fn health_and_configz_answer_before_routing() {
    if is_missing("curl") {
        return;
    }
    let proxy = start();
    let seen = curl_ok(&["-i", &proxy.url("/health")]);
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
    assert!(seen.to_ascii_lowercase().contains("content-type: application/json\r\n"), "{seen}");
    assert!(seen.to_ascii_lowercase().contains("\r\ndate: "), "{seen}");
    let body = seen.split("\r\n\r\n").nth(1).expect("a body");
    assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), json!({"message": "OK"}));

    let line = proxy.access("/health");
    assert_eq!(value(&line, "bytes_out"), Some(body.len().to_string().as_str()), "{line}");

    let body = curl_ok(&[&proxy.url("/configz")]);
    assert!(!body.contains("secret"), "{body}");
    let routes: Value = serde_json::from_str(&body).expect("JSON");
    let prefixes: Vec<&str> =
        routes.as_array().expect("an array").iter().filter_map(|r| r["prefix"].as_str()).collect();
    assert_eq!(prefixes, ["/b", "/"], "file order");
    let upstream = routes[0]["upstream"].as_str().expect("a string");
    assert!(upstream.starts_with("http://127.0.0.1:") && upstream.ends_with("/base"), "{upstream}");
}

#[test]
fn head_is_answered_without_body_and_other_methods_are_refused() {
    if is_missing("curl") {
        return;
    }
    let proxy = start();
    for path in ["/health", "/configz"] {
        let seen = curl_ok(&["-I", &proxy.url(path)]).to_ascii_lowercase();
        assert!(seen.starts_with("http/1.1 200 ok\r\n") && seen.contains("content-length: "), "{seen}");
        for method in ["POST", "DELETE", "brew"] {
            let seen = curl_ok(&["-i", "-X", method, &proxy.url(path)]);
            assert!(seen.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{method}: {seen}");
            assert!(seen.contains("\r\nAllow: GET, HEAD\r\n"), "{method}: {seen}");
        }
    }
}

#[test]
fn configz_can_be_switched_off() {
    if is_missing("curl") {
        return;
    }
    let upstream = free_address();
    let proxy = Proxy::start(&format!(
        "admin: {{ configz: false }}\nroutes:\n  - prefix: /a\n    upstream: http://{upstream}\n"
    ));
    assert_eq!(curl_ok(&["-o", "/dev/null", "-w", "%{http_code}", &proxy.url("/configz")]), "404");
}

#[test]
fn options_on_the_server_itself_is_answered() {
    let proxy = start();
    let mut client = proxy.connect();
    client.send("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status(), 204);
    assert!(response.field("Allow").is_some_and(|allow| allow.contains("GET")), "{response:?}");
    assert_eq!(client.get("/health").status(), 200);
}

#[test]
fn e4_clients_that_do_not_read_a_long_answer_cost_no_copy_of_it_each() {
    let upstream = free_address();
    let routes: String =
        (0..8_000).map(|number| format!("  - {{prefix: /{number}, upstream: \"http://{upstream}\"}}\n")).collect();
    let proxy = Launch::quiet(&format!("workers: 1\nroutes:\n{routes}")).start();
    for path in ["/configz", "/configz?outline", "/metrics"] {
        let whole = proxy.connect().get(path);
        // What /metrics says grows with what is in use; it is shared in the same way.
        let is_long = whole.body.len() > 128 * 1024 || path == "/metrics";
        assert!(is_long, "{path}: {} bytes prove nothing", whole.body.len());
        let before = proxy.own_memory_kib();
        let mut crowd: Vec<Peer> = (0..200).map(|_| proxy.connect()).collect();
        for client in &mut crowd {
            // Loopback takes some megabytes for whoever reads nothing; one answer of each is in there, then another is not.
            client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").repeat(16));
        }
        // Everybody has been served as far as it goes.
        assert_eq!(proxy.connect().get("/health").status(), 200);
        let held = proxy.own_memory_kib().saturating_sub(before);
        eprintln!("{path}: {} bytes, {held} KiB held for {} clients", whole.body.len(), crowd.len());
        assert!(held < 200 * 32, "{path}: {held} KiB held");
        // It is whole all the same, and the next one follows it.
        let mut reader = crowd.swap_remove(100);
        for _ in 0..2 {
            let answer = reader.response();
            let is_same = path == "/metrics" || answer.body == whole.body;
            assert!(answer.status() == 200 && is_same, "{path}");
        }
    }
}
