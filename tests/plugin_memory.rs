//! Row 20 of the interface's test table: ten thousand requests through a plugin in Rust and one in C. Memory stays as it
//! is, and valgrind sees neither a leak nor a stray access.
#![cfg(feature = "dlopen")]

use std::path::PathBuf;

#[path = "plugins/common.rs"]
mod common;
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

use support::proxy::{BINARY, VALGRIND};
use support::{Launch, Origin, Proxy, is_missing};

/// Both plugins, in front of an origin with a small answer.
fn config(name: &str, origin: &Origin) -> Option<String> {
    let in_c = common::folder(name).join("header_demo_c.so");
    let source = common::root().join("examples/plugins/header_demo_c/header_demo.c");
    common::cc(&["-shared", "-fPIC", "-g", "-o", in_c.to_str()?, source.to_str()?])?;
    let in_rust: PathBuf = common::build_rust("mini-rproxy-header-demo", "header_demo");
    Some(origin.config(&format!(
        "workers: 2\nplugins:\n  - {{path: {}, config: one}}\n  - {{path: {}, config: two}}\n",
        in_rust.display(),
        in_c.display()
    )))
}

fn origin() -> Origin {
    Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// Sends so many requests, one after the other, a hundred on each connection.
fn ask(proxy: &Proxy, count: usize) {
    for _ in 0..count / 100 {
        let mut peer = proxy.connect();
        for _ in 0..100 {
            let response = peer.get("/");
            assert_eq!(response.status(), 200);
            assert_eq!(response.all("X-Demo-Response"), ["one"], "the plugin listed first has the last word");
        }
    }
}

#[test]
fn r20_memory_is_flat() {
    let origin = origin();
    let Some(config) = config("memory-flat", &origin) else { return };
    let proxy = Launch::quiet(&config).start();
    // Thirty connections: both workers have had some.
    ask(&proxy, 3_000);
    let before = proxy.memory_kib();
    ask(&proxy, 10_000);
    let after = proxy.memory_kib();
    println!("resident: {before} KiB after 3,000 requests, {after} KiB after 10,000 more");
    assert!(after <= before + 256, "{before} KiB after 3,000 requests, {after} KiB after 10,000 more");
}

#[test]
#[ignore = "takes a minute: make valgrind"]
fn r20_valgrind_finds_nothing() {
    if is_missing("valgrind") {
        return;
    }
    let origin = origin();
    let Some(config) = config("memory-valgrind", &origin) else { return };
    let mut proxy = Launch::under(&VALGRIND, BINARY, &config).start();
    ask(&proxy, 10_000);
    proxy.signal("TERM");
    let code = proxy.wait().code();
    proxy.assert_no_valgrind_errors();
    assert_eq!(code, Some(0));
}
