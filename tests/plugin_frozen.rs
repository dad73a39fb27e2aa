//! What was built for version 1.0 of the plugin interface works in every later version: two plugins, one in C and one in
//! Rust, which were built once and are never built again, use every hook and every function in the built proxy.
#![cfg(all(feature = "dlopen", target_arch = "x86_64", target_env = "gnu"))]

#[path = "plugins/common.rs"]
mod common;
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

use support::{Launch, Origin, Proxy};

fn frozen(language: &str) -> String {
    let file = format!("tests/plugins/frozen/frozen_1_0_{language}.so");
    common::root().join(file).display().to_string()
}

/// The text of a request, and its answer's status, X-Frozen fields and body.
fn ask(proxy: &Proxy, request: &str) -> String {
    let mut peer = proxy.connect();
    peer.send(request);
    let answer = peer.response();
    let field = |name: &str| format!("{}={} ", &name[9..], answer.field(name).unwrap_or("-"));
    let fields = ["X-Frozen-Source", "X-Frozen-Body", "X-Frozen-Answer"].map(field).concat();
    format!("{} {fields}{}", answer.status(), answer.text())
}

#[test]
fn plugins_that_were_built_for_1_0_use_all_of_it() {
    for language in ["c", "rust"] {
        let origin = Origin::echo();
        let plugins = format!("plugins: [{{path: {}, name: old, config: {{mode: forever}}}}]\n", frozen(language));
        let mut proxy = Proxy::start(&origin.config(&plugins));
        let plain = ask(&proxy, "GET /a?b HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(plain.starts_with("200 Source=upstream Body=some Answer=- "), "{language}: {plain}");
        for part in ["Host: frozen.example\n", "X-Frozen: /a?b\n", "X-Frozen-Resumed: 1\n"] {
            assert!(plain.to_lowercase().contains(&part.to_lowercase()), "{language}: {part:?} is missing in {plain}");
        }
        assert!(!plain.to_lowercase().contains("x-frozen-too"), "{language}: {plain}");
        let post = "POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n";
        let post = ask(&proxy, post);
        // The upstream tells how much it got: "a body of frozen".
        assert!(post.contains("\n16 bytes"), "{language}: {post}");
        let answer = ask(&proxy, "GET /answer HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(answer, "403 Source=plugin Body=some Answer=yes frozen\n", "{language}");
        let is_access_line = |line: &str| line.contains("msg=\"request\"") && line.contains("path=/answer");
        let line = proxy.log.wait_for("the line of the access log", is_access_line);
        assert!(line.contains(&format!("frozen={language}")), "{line}");
        let metrics = ask(&proxy, "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
        for row in ["mini_rproxy_plugin_old_requests_total 3\n", "mini_rproxy_plugin_old_open 0\n"] {
            assert!(metrics.contains(row), "{language}: {row:?} is missing in {metrics}");
        }
        proxy.signal("TERM");
        assert!(proxy.wait().success());
        for text in ["forever", "403", "destroyed"] {
            proxy.log.wait_for(text, |line| line.contains("plugin=old") && line.contains(text));
        }
    }
}

#[test]
fn a_frozen_plugin_refuses_the_start_in_its_own_words() {
    for language in ["c", "rust"] {
        let origin = Origin::echo();
        let plugins = format!("plugins: [{{path: {}}}]\n", frozen(language));
        let mut proxy = Launch::new(&origin.config(&plugins)).spawn();
        assert_eq!(proxy.wait().code(), Some(1));
        let lines = proxy.log.all().join("\n");
        assert!(lines.contains("config: expected {mode: ...}"), "{language}: {lines}");
    }
}
