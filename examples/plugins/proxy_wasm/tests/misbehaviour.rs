//! What modules do wrong: each ends one request, with one line in the log, and the next request is served.

mod support;

use mini_rproxy_plugin::testing::{Exchange, Outcome};
use support::{Wasm, on_request, on_response};

/// Runs `body` where the path is `/bad`, and answers otherwise.
fn bad(body: &str) -> String {
    on_request(&format!(
        "(drop (call $get (i32.const 0) $s(\":path\") (i32.const 0) (i32.const 4)))
        (if (i32.eq (i32.load (i32.const 4)) (i32.const 4)) (then {body}))"
    ))
}

/// A request that goes wrong, with what it logs, between two that do not.
fn ends_one_request(functions: &str, expected: &str) {
    let wasm = Wasm::new(functions);
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue, "{:?}", wasm.log());
    assert_eq!(wasm.request(&mut Exchange::get("/bad")), Outcome::Fail, "{expected}");
    let errors = wasm.errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains(expected) && errors[0].contains("module test.wasm"), "{errors:?}");
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
    assert_eq!(wasm.errors().len(), 1);
}

#[test]
fn traps() {
    for (body, expected) in [
        ("unreachable", "crashed in proxy_on_request_headers: it reached `unreachable`"),
        (
            "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
            "crashed in proxy_on_request_headers: integer divide by zero",
        ),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access"),
        ("(i32.store (i32.const 131070) (i32.const 1))", "out of bounds memory access"),
        ("(memory.fill (i32.const 0) (i32.const 0) (i32.const -1))", "out of bounds memory access"),
        ("(call_indirect (param i32) (result i32) (i32.const 0) (i32.const 7)) drop", "undefined element"),
        ("(call $exit (i32.const 0))", "the module called proc_exit"),
    ] {
        ends_one_request(&format!("(table 1 funcref) {}", bad(body)), expected);
    }
}

#[test]
fn loops_without_end_use_up_their_fuel() {
    ends_one_request(&bad("(loop (br 0))"), "used up its fuel of 10000000 in proxy_on_request_headers");
    let recursion =
        "(func $deeper (param i64 i64 i64 i64) (call $deeper (local.get 0) (local.get 1) (local.get 2) (local.get 3)))";
    let calls = bad("(call $deeper (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0))");
    ends_one_request(&format!("{recursion} {calls}"), "calls are nested too deeply");
}

#[test]
fn work_that_the_host_does_uses_fuel_too() {
    // Each of these would take minutes if only instructions counted.
    let pairs = "(drop (call $get_pairs (i32.const 0) (i32.const 0) (i32.const 4)))";
    for body in [
        "(drop (call $random (i32.const 0) (i32.const 65536)))",
        "(call $say (i32.const 0) (i32.const 100000))",
        "(drop (call $set_shared (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 100000) (i32.const 0)))",
        "(drop (call $log (i32.const 0) (i32.const 0) (i32.const 0)))",
        "(drop (call $set_tick (i32.const 0)))",
        "(memory.fill (i32.const 512) (i32.const 0) (i32.const 130000))",
        &format!("{pairs} (global.set $heap (i32.const 65536))"),
    ] {
        let wasm = Wasm::new(&bad(&format!("(loop {body} (br 0))")));
        assert_eq!(wasm.request(&mut Exchange::get("/bad")), Outcome::Fail, "{body}");
        assert!(wasm.errors()[0].contains("used up its fuel"), "{body}: {:?}", wasm.errors());
        assert!(wasm.log().len() <= 10_000_000 / 2_000 + 1, "{body}: {} lines", wasm.log().len());
    }
}

#[test]
fn memory_is_bounded() {
    // 8 MiB are 128 pages: what is more is refused, and the module goes on or not as it likes.
    let wasm = Wasm::new(&on_request(
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (call $num (memory.size))",
    ));
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
    assert_eq!(wasm.log(), ["128"]);
    let table = "(table $t 1 funcref)".to_owned()
        + &on_request("(call $num (i32.eq (table.grow $t (ref.null func) (i32.const 10000000)) (i32.const -1)))");
    assert_eq!(Wasm::new(&table).request(&mut Exchange::get("/")), Outcome::Continue);
    let smaller = Wasm::with(&on_request("(call $num (memory.grow (i32.const 1)))"), r#""memory": "128KiB","#);
    smaller.request(&mut Exchange::get("/"));
    assert_eq!(smaller.log(), [u32::MAX.to_string()]);
}

#[test]
fn wrong_addresses_and_lengths_are_told_and_touch_nothing() {
    // Each argument that is an address or a length, beyond the memory: INVALID_MEMORY_ACCESS.
    let good = "(i32.const 0)";
    let rows: [(&str, &[&str], &[usize]); 14] = [
        ("$log", &["(i32.const 2)", good, good], &[1, 2]),
        ("$get", &[good, good, good, good, good], &[1, 2]),
        ("$set", &[good, good, good, good, good], &[1, 2, 3, 4]),
        ("$add", &[good, good, good, good, good], &[1, 2, 3, 4]),
        ("$remove", &[good, good, good], &[1, 2]),
        ("$set_pairs", &[good, good, good], &[1, 2]),
        ("$get_pairs", &[good, good, good], &[1, 2]),
        ("$map_size", &[good, good], &[1]),
        ("$get_property", &[good, good, good, good], &[0, 1]),
        ("$set_property", &[good, good, good, good], &[0, 1, 2, 3]),
        ("$respond", &["(i32.const 200)", good, good, good, good, good, good, good], &[3, 4, 5, 6]),
        ("$get_shared", &[good, good, good, good, good], &[0, 1]),
        ("$set_shared", &[good, good, good, good, good], &[0, 1, 2, 3]),
        ("$define_metric", &[good, good, good, good], &[1, 2, 3]),
    ];
    for (call, arguments, wrong) in rows {
        for &index in wrong {
            for value in ["(i32.const -1)", "(i32.const 131073)"] {
                let mut arguments = arguments.to_vec();
                arguments[index] = value;
                let wasm = Wasm::new(&on_request(&format!("(call $num (call {call} {}))", arguments.join(" "))));
                assert_eq!(
                    wasm.request(&mut Exchange::get("/")),
                    Outcome::Continue,
                    "{call} {index}: {:?}",
                    wasm.log()
                );
                assert_eq!(wasm.log().last().map(String::as_str), Some("6"), "{call} {index} {value}");
            }
        }
    }
}

#[test]
fn an_allocator_that_lies_ends_the_request() {
    let body = on_request("(call $num (call $get (i32.const 0) $s(\":path\") (i32.const 0) (i32.const 4)))");
    let with = |allocator: &str| support::module_with_allocator(allocator, &body);
    for (allocator, expected) in [
        ("(i32.const 0)", "the module's allocator has no 1 bytes left"),
        ("unreachable", "it reached `unreachable`"),
        ("(loop (br 0)) unreachable", "used up its fuel"),
        // An allocator that asks the host for something that must be allocated.
        (
            "(drop (call $get_pairs (i32.const 0) (i32.const 0) (i32.const 4))) (i32.const 4096)",
            "the module's allocator calls the host for more memory",
        ),
    ] {
        let wasm = Wasm::try_new(&with(allocator), "").unwrap();
        assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Fail, "{allocator}");
        assert!(wasm.errors()[0].contains(expected), "{allocator}: {:?}", wasm.errors());
    }
    // Addresses outside of the memory are told like any other.
    let wasm = Wasm::try_new(&with("(i32.const -1)"), "").unwrap();
    assert_eq!((wasm.request(&mut Exchange::get("/")), wasm.log()), (Outcome::Continue, vec!["6".to_owned()]));
}

#[test]
fn a_trap_in_each_callback() {
    for name in ["proxy_on_context_create", "proxy_on_request_headers"] {
        let params =
            if name == "proxy_on_context_create" { "(param i32 i32)" } else { "(param i32 i32 i32) (result i32)" };
        // The root context is made without a trap.
        let body = if params.contains("result") { "unreachable" } else { "(if (local.get 1) (then unreachable))" };
        let wasm = Wasm::new(&format!("(func (export \"{name}\") {params} {body})"));
        assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Fail, "{name}");
        assert!(wasm.errors()[0].contains(&format!("crashed in {name}")), "{:?}", wasm.errors());
    }
    let wasm = Wasm::new(&on_response("unreachable"));
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Continue);
    x.upstream_answers(200, &[], "");
    assert_eq!(wasm.response(&mut x), Outcome::Fail);
    for name in ["proxy_on_done", "proxy_on_log", "proxy_on_delete"] {
        let result = if name == "proxy_on_done" { "(result i32)" } else { "" };
        let wasm = Wasm::new(&format!("(func (export \"{name}\") (param i32) {result} unreachable)"));
        let mut x = Exchange::get("/");
        assert_eq!(wasm.request(&mut x), Outcome::Continue);
        wasm.done(&mut x);
        assert_eq!(wasm.errors().len(), 1, "{name}");
        assert!(wasm.errors()[0].contains(&format!("crashed in {name}")), "{:?}", wasm.errors());
        assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
    }
    for name in ["proxy_on_tick", "proxy_on_queue_ready"] {
        let params = if name == "proxy_on_tick" { "(param i32)" } else { "(param i32 i32)" };
        let wasm = Wasm::new(&format!(
            "(func (export \"proxy_on_configure\") (param i32 i32) (result i32)
                (drop (call $set_tick (i32.const 1))) (drop (call $register_queue $s(\"q\") (i32.const 0))) (i32.const 1))
            (func (export \"{name}\") {params} unreachable)
            {}",
            on_request("(drop (call $enqueue (i32.const 1) $s(\"item\")))")
        ));
        while wasm.request(&mut Exchange::get("/")) == Outcome::Continue {}
        assert!(wasm.errors()[0].contains(&format!("crashed in {name}")), "{:?}", wasm.errors());
    }
}

#[test]
fn other_exchanges_go_on_after_a_crash() {
    let functions = bad("unreachable") + &on_response("(call $num (local.get $id))");
    let wasm = Wasm::new(&functions);
    let mut other = Exchange::get("/");
    wasm.request(&mut Exchange::get("/"));
    wasm.request(&mut other);
    assert_eq!(wasm.request(&mut Exchange::get("/bad")), Outcome::Fail);
    // Its context went with the old instance: the new one gets another for it, and the response is filtered all the same.
    other.upstream_answers(200, &[], "");
    assert_eq!(wasm.response(&mut other), Outcome::Continue);
    wasm.done(&mut other);
    let numbers: Vec<_> = wasm.log().into_iter().filter(|line| line.parse::<u32>().is_ok()).collect();
    assert_eq!(numbers, ["2"]);
    assert_eq!(wasm.errors().len(), 1);
}

#[test]
fn a_module_may_be_passed_over_where_it_crashes() {
    let wasm = Wasm::with(&bad("unreachable"), r#""on_crash": "skip", "max_crashes": 2,"#);
    for _ in 0..2 {
        assert_eq!(wasm.request(&mut Exchange::get("/bad")), Outcome::Continue);
    }
    assert_eq!(wasm.errors().len(), 2);
    assert!(
        wasm.errors()[1].contains("2 crashes in a minute: requests pass without it for a while"),
        "{:?}",
        wasm.errors()
    );
    // It rests: nothing runs, and nothing is logged.
    assert_eq!(wasm.request(&mut Exchange::get("/bad")), Outcome::Continue);
    assert_eq!(wasm.errors().len(), 2);
}

#[test]
fn a_module_that_crashes_over_and_over_rests() {
    let wasm = Wasm::with(&bad("unreachable"), r#""max_crashes": 3,"#);
    for crash in 1..=3 {
        assert_eq!(wasm.request(&mut Exchange::get("/bad")), Outcome::Fail);
        assert_eq!(wasm.errors()[crash - 1].contains("3 crashes in a minute: requests get 502"), crash == 3);
    }
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Fail);
    assert_eq!(wasm.errors()[3], "on_request: the module has crashed too often in the last minute");
}
