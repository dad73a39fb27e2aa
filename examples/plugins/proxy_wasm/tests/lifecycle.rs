//! The life of instances and contexts, the three versions of the interface, and what a module must be to start.

mod support;

use mini_rproxy_plugin::testing::{Exchange, Outcome};
use support::{Wasm, module, module_of, on_request, on_response};

/// Logs a word and the callback's arguments.
fn says(name: &str, params: usize, returns: bool) -> String {
    let numbers: String = (0..params).map(|index| format!("(call $num (local.get {index}))")).collect();
    let result = if returns { ("(result i32)", "(i32.const 1)") } else { ("", "") };
    format!(
        "(func (export \"{name}\") (param{}) {} (call $say $s(\"{name}\")) {numbers} {})",
        " i32".repeat(params),
        result.0,
        result.1
    )
}

fn has_answered(x: &mut Exchange) {
    x.upstream_answers(200, &[("content-length", "2")], "ok");
}

#[test]
fn callbacks_come_in_order() {
    let functions = [
        "(func (export \"_initialize\") (call $say $s(\"_initialize\")))".to_owned(),
        says("main", 2, true),
        says("proxy_on_context_create", 2, false),
        says("proxy_on_vm_start", 2, true),
        says("proxy_on_configure", 2, true),
        says("proxy_on_request_headers", 3, true).replace("(i32.const 1))", "(i32.const 0))"),
        says("proxy_on_response_headers", 3, true).replace("(i32.const 1))", "(i32.const 0))"),
        says("proxy_on_done", 1, true),
        says("proxy_on_log", 1, false),
        says("proxy_on_delete", 1, false),
    ]
    .concat();
    let wasm = Wasm::with(&functions, r#""config": "abc","#);
    let start = "_initialize main 0 0 proxy_on_context_create 1 0 proxy_on_vm_start 1 0 proxy_on_configure 1 3";
    // The instance that was tried at the start is not used for requests.
    assert_eq!(wasm.log().join(" "), start);
    for id in ["2", "3"] {
        let before = wasm.log().len();
        let mut x = Exchange::get("/").field("a", "b");
        assert_eq!(wasm.request(&mut x), Outcome::Continue);
        has_answered(&mut x);
        assert_eq!(wasm.response(&mut x), Outcome::Continue);
        wasm.done(&mut x);
        let log = wasm.log()[before..].join(" ");
        let log = log.strip_prefix(&format!("{start} ")).unwrap_or(&log);
        let expected = "proxy_on_context_create ID 1 proxy_on_request_headers ID 5 1 \
            proxy_on_response_headers ID 2 0 proxy_on_done ID proxy_on_log ID proxy_on_delete ID";
        assert_eq!(log, expected.replace("ID", id));
    }
}

#[test]
fn each_exchange_has_its_own_context() {
    let functions = on_request("(call $num (local.get $id))") + &on_response("(call $num (local.get $id))");
    let wasm = Wasm::new(&functions);
    let (mut a, mut b) = (Exchange::get("/a"), Exchange::get("/b"));
    wasm.request(&mut a);
    wasm.request(&mut b);
    has_answered(&mut b);
    wasm.response(&mut b);
    has_answered(&mut a);
    wasm.response(&mut a);
    assert_eq!(wasm.log(), ["2", "3", "3", "2"]);
}

#[test]
fn two_entries_do_not_mix_their_contexts() {
    let both = || Wasm::new(&(on_request("(call $num (local.get $id))") + &on_response("(call $num (local.get $id))")));
    let (first, second) = (both(), both());
    first.request(&mut Exchange::get("/"));
    let mut x = Exchange::get("/");
    first.request(&mut x);
    second.request(&mut x);
    has_answered(&mut x);
    second.response(&mut x);
    first.response(&mut x);
    assert_eq!((first.log(), second.log()), (vec!["2".into(), "3".into(), "3".into()], vec!["2".into(), "2".into()]));
}

#[test]
fn each_thread_has_its_own_instance() {
    let functions = r#"(global $count (mut i32) (i32.const 0))"#.to_owned()
        + &on_request(
            "(global.set $count (i32.add (global.get $count) (i32.const 1))) (call $num (global.get $count))",
        );
    let wasm = Wasm::new(&functions);
    wasm.request(&mut Exchange::get("/"));
    wasm.request(&mut Exchange::get("/"));
    std::thread::scope(|scope| scope.spawn(|| drop(wasm.request(&mut Exchange::get("/")))).join().unwrap());
    wasm.request(&mut Exchange::get("/"));
    assert_eq!(wasm.log(), ["1", "2", "1", "3"]);
}

#[test]
fn a_context_may_end_later() {
    // Done at once only for every second context; the next request ends the one that waits.
    let functions = [
        "(global $waits (mut i32) (i32.const 0))",
        r#"(func (export "proxy_on_done") (param $id i32) (result i32)
            (call $say $s("done"))
            (if (i32.and (local.get $id) (i32.const 1)) (then (return (i32.const 1))))
            (global.set $waits (local.get $id)) (i32.const 0))
        (func (export "proxy_on_delete") (param $id i32) (call $say $s("delete")) (call $num (local.get $id)))"#,
        &on_request(
            r#"(if (global.get $waits) (then
                (call $num (call $set_context (global.get $waits))) (call $num (call $done)) (call $num (call $done))
                (global.set $waits (i32.const 0))))"#,
        ),
    ]
    .concat();
    let wasm = Wasm::new(&functions);
    for _ in 0..2 {
        let mut x = Exchange::get("/");
        wasm.request(&mut x);
        wasm.done(&mut x);
    }
    // OK, OK, and NOT_FOUND for the second time. The context that ended later has no exchange to be logged with.
    assert_eq!(wasm.log().join(" "), "done delete 2 0 0 1 done delete 3");
    let own: Vec<_> = wasm.plugin.log().into_iter().map(|(_, text)| text).collect();
    assert_eq!(own, ["delete", "2"]);
}

#[test]
fn the_effective_context_decides_what_is_read() {
    let body = |context: &str| {
        format!(
            "(drop (call $set_context {context}))
            (call $num (call $get (i32.const 0) $s(\":path\") (i32.const 0) (i32.const 4)))
            (call $num (call $set (i32.const 0) $s(\"x-a\") $s(\"1\")))"
        )
    };
    // The root context has no request; the exchange's own has.
    let wasm = Wasm::new(&on_request(&(body("(i32.const 1)") + &body("(local.get $id)"))));
    wasm.request(&mut Exchange::get("/"));
    assert_eq!(wasm.log(), ["1", "2", "0", "0"]);
}

#[test]
fn what_was_exchanged_can_be_read_in_on_log_and_not_changed() {
    let functions = r#"(func (export "proxy_on_log") (param i32)
        (call $num (call $get (i32.const 0) $s(":path") (i32.const 0) (i32.const 4))) (call $out)
        (call $num (call $get (i32.const 2) $s(":status") (i32.const 0) (i32.const 4))) (call $out)
        (call $num (call $set (i32.const 2) $s("x-a") $s("1")))
        (call $num (call $set_property $s("a") $s("1")))
        (call $num (call $respond (i32.const 200) $s("") $s("") $s("") (i32.const -1))))"#;
    let wasm = Wasm::new(functions);
    let mut x = Exchange::get("/path");
    wasm.request(&mut x);
    has_answered(&mut x);
    wasm.response(&mut x);
    wasm.done(&mut x);
    assert_eq!(wasm.log(), ["0", "/path", "0", "200", "2", "10", "2"]);
}

#[test]
fn ticks_come_before_the_next_request() {
    let functions = [
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
            (call $num (call $set_tick (i32.const 1))) (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (call $say $s("tick")) (call $num (local.get 0))
            (call $num (call $set_tick (i32.const 0))))"#,
        &on_request("(call $say $s(\"request\"))"),
    ]
    .concat();
    let wasm = Wasm::new(&functions);
    wasm.request(&mut Exchange::get("/"));
    // The shortest period is 10 ms: until it is over, requests come without it, mostly.
    while !wasm.log().contains(&"tick".to_owned()) {
        wasm.request(&mut Exchange::get("/"));
    }
    let log = wasm.log();
    let tick = log.iter().position(|line| line == "tick").unwrap();
    assert_eq!(log[tick..], ["tick", "1", "0", "request"]);
    assert_eq!(log[..2], ["0", "0"]);
}

#[test]
fn all_versions_of_the_interface_are_spoken() {
    // 0.1.0 has these functions without a result, and its SDKs import them with one.
    let old = |version: &str, result: &str, drop: &str| {
        module_of(&format!(
            r#"(import "env" "proxy_get_configuration" (func $configuration (param i32 i32) (result i32)))
            (import "env" "proxy_continue_request" (func $continue {result}))
            (import "env" "proxy_continue_response" (func $continue_response {result}))
            (import "env" "proxy_clear_route_cache" (func $clear {result}))
            (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
            (import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "malloc") (param i32) (result i32) (i32.const 4096))
            (func (export "{version}"))
            (func $out (drop (call $log (i32.const 2) (i32.load (i32.const 0)) (i32.load (i32.const 4)))))
            (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
                (drop (call $configuration (i32.const 0) (i32.const 4))) (call $out) (i32.const 1))
            (func (export "proxy_on_configure") (param i32 i32) (result i32)
                (drop (call $configuration (i32.const 0) (i32.const 4))) (call $out) (i32.const 1))
            (func (export "_start"))
            (func (export "proxy_on_request_headers") (param i32 i32) (result i32)
                (call $clear) {drop} (call $continue) {drop}
                (drop (call $log (i32.const 2) $s("old"))) (i32.const 1))"#
        ))
    };
    for (version, result, drop) in [
        ("proxy_abi_version_0_1_0", "", ""),
        ("proxy_abi_version_0_1_0", "(result i32)", "drop"),
        ("proxy_abi_version_0_2_0", "(result i32)", "drop"),
        ("proxy_abi_version_0_2_100", "(result i32)", "drop"),
    ] {
        let wasm = Wasm::try_new(&old(version, result, drop), r#""vm_config": "vm", "config": "plugin","#).unwrap();
        assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
        assert_eq!(wasm.log(), ["vm", "plugin", "vm", "plugin", "old"]);
    }
}

#[test]
fn a_pause_that_nothing_ends_is_an_error_and_one_that_is_continued_is_none() {
    let wasm = Wasm::new(&on_request("(return (i32.const 1))"));
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Fail);
    assert!(wasm.errors()[0].contains("the module paused"), "{:?}", wasm.errors());
    let wasm = Wasm::new(&on_request("(drop (call $continue (i32.const 0))) (return (i32.const 1))"));
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
    let wasm = Wasm::new(&on_request("(drop (call $close (i32.const 0)))"));
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Fail);
    assert_eq!(wasm.errors(), ["on_request: the module closed the stream"]);
}

#[test]
fn modules_that_cannot_start_say_why() {
    let returns_false = "(func (export \"proxy_on_configure\") (param i32 i32) (result i32) (i32.const 0))";
    let rows = [
        (module(returns_false), "refuses its configuration: proxy_on_configure returned false"),
        (module(&returns_false.replace("configure", "vm_start")), "proxy_on_vm_start returned false"),
        (
            module("(func (export \"proxy_on_done\") (param i64) (result i32) (i32.const 0))"),
            "exports proxy_on_done with a signature",
        ),
        (module("(func (export \"_initialize\") unreachable)"), "crashed in _initialize: it reached `unreachable`"),
        (module("(func (export \"_start\") (loop (br 0)))"), "used up its fuel of 10000000 in _start"),
        (module("(func $start unreachable) (start $start)"), "crashed in its start section"),
        (
            module_of(
                "(import \"env\" \"unknown\" (func)) (import \"other\" \"f\" (func)) (memory (export \"memory\") 1)
                (func (export \"proxy_abi_version_0_2_1\"))",
            ),
            "imports what this host does not have: env.unknown, other.f",
        ),
        (
            module_of(
                "(import \"env\" \"m\" (memory 1)) (export \"memory\" (memory 0)) (func (export \"proxy_abi_version_0_2_1\"))",
            ),
            "env.m (no function)",
        ),
        (
            module_of(
                "(import \"env\" \"proxy_log\" (func (param i32))) (memory (export \"memory\") 1)
                (func (export \"proxy_abi_version_0_2_1\"))",
            ),
            "cannot be instantiated",
        ),
        (
            module_of("(memory (export \"memory\") 200) (func (export \"proxy_abi_version_0_2_1\"))"),
            "cannot be instantiated",
        ),
    ];
    for (module, expected) in rows {
        let error = Wasm::try_new(&module, "").err().expect("refused");
        assert!(error.contains(expected) && error.contains("test.wasm"), "{error}");
    }
}

#[test]
fn an_entry_that_is_over_leaves_no_instances() {
    let functions = on_request("");
    for _ in 0..50 {
        let wasm = Wasm::new(&functions);
        wasm.request(&mut Exchange::get("/"));
    }
    // One that ended is dropped when its thread runs a hook of another: no more than the last one may still be there.
    let last = Wasm::new(&functions);
    last.request(&mut Exchange::get("/"));
}
