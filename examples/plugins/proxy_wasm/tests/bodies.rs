//! Bodies: a module gets those that the configuration names, whole.

mod support;

use mini_rproxy_plugin::testing::{Exchange, Outcome};
use support::{AT, Wasm, module, on_request, on_response};

/// A callback for a body.
fn on_body(side: &str, body: &str) -> String {
    format!(
        "(func (export \"proxy_on_{side}_body\") (param $id i32) (param $len i32) (param $end i32) (result i32)
            {body} (i32.const 0))"
    )
}

/// Reads all of a buffer, and logs it.
fn read(buffer: u32) -> String {
    format!(
        "(call $num (local.get $len)) (call $num (local.get $end))
        (call $num (call $get_buffer (i32.const {buffer}) (i32.const 0) (i32.const 1000) {AT})) (call $out)"
    )
}

const BOTH: &str = r#""bodies": ["request", "response"],"#;

#[test]
fn both_bodies_are_read() {
    let functions = on_body("request", &read(0)) + &on_body("response", &read(1));
    let wasm = Wasm::with(&functions, BOTH);
    let mut x = Exchange::new("POST", "/").body("question");
    assert_eq!(wasm.request(&mut x), Outcome::Continue);
    x.upstream_answers(200, &[], "answer");
    assert_eq!(wasm.response(&mut x), Outcome::Continue);
    assert_eq!(wasm.log(), ["8", "1", "0", "question", "6", "1", "0", "answer"]);
}

#[test]
fn what_is_not_configured_or_not_there_is_not_called() {
    let functions =
        on_body("request", "(call $say $s(\"request\"))") + &on_body("response", "(call $say $s(\"response\"))");
    let only_response = Wasm::with(&functions, r#""bodies": ["response"],"#);
    let mut x = Exchange::new("POST", "/").body("question");
    only_response.request(&mut x);
    x.upstream_answers(200, &[], "answer");
    only_response.response(&mut x);
    assert_eq!(only_response.log(), ["response"]);
    let both = Wasm::with(&functions, BOTH);
    both.request(&mut Exchange::get("/"));
    assert!(both.log().is_empty());
}

#[test]
fn a_body_is_replaced_prepended_appended_and_injected_into() {
    for (start, len, expected) in [
        ("0", "1000", "NEW"),
        ("0", "-1", "NEW"),
        ("0", "0", "NEWbody"),
        ("-1", "0", "bodyNEW"),
        ("4", "0", "bodyNEW"),
        ("2", "0", "boNEWdy"),
        ("1", "2", "bNEWy"),
        ("1", "-1", "bNEW"),
    ] {
        let set = |buffer: u32| {
            format!(
                "(call $num (call $set_buffer (i32.const {buffer}) (i32.const {start}) (i32.const {len}) $s(\"NEW\")))"
            )
        };
        let wasm = Wasm::with(&(on_body("request", &set(0)) + &on_body("response", &set(1))), BOTH);
        let mut x = Exchange::new("POST", "/").body("body");
        wasm.request(&mut x);
        x.upstream_answers(200, &[], "body");
        wasm.response(&mut x);
        assert_eq!(wasm.log(), ["0", "0"]);
        assert_eq!((x.request_body(), x.response_body()), (expected.as_bytes(), expected.as_bytes()), "{start} {len}");
    }
}

#[test]
fn the_head_may_wait_for_the_body_and_is_changed_there() {
    let functions = [
        on_request("(return (i32.const 1))"),
        on_body("request", r#"(call $num (call $set (i32.const 0) $s("x-seen") $s("1")))"#),
        on_response("(return (i32.const 1))"),
        on_body("response", r#"(call $num (call $set (i32.const 2) $s(":status") $s("201")))"#),
    ]
    .concat();
    let wasm = Wasm::with(&functions, BOTH);
    let mut x = Exchange::new("POST", "/").body("b");
    assert_eq!(wasm.request(&mut x), Outcome::Continue, "{:?}", wasm.log());
    x.upstream_answers(200, &[], "b");
    assert_eq!(wasm.response(&mut x), Outcome::Continue);
    assert_eq!((x.request_field("x-seen"), x.status(), wasm.log()), (Some("1"), 201, vec!["0".into(), "0".into()]));
}

#[test]
fn an_answer_and_a_crash_in_a_body() {
    let answer = r#"(drop (call $respond (i32.const 422) $s("") $s("no") $s("") (i32.const -1)))"#;
    let wasm = Wasm::with(&(on_body("request", answer) + &on_body("response", "unreachable")), BOTH);
    assert_eq!(wasm.request(&mut Exchange::new("POST", "/").body("b")).status(), Some(422));
    let mut x = Exchange::get("/");
    wasm.request(&mut x);
    x.upstream_answers(200, &[], "b");
    assert_eq!(wasm.response(&mut x), Outcome::Fail);
    assert!(wasm.errors()[0].contains("crashed in proxy_on_response_body"), "{:?}", wasm.errors());
}

#[test]
fn a_body_that_cannot_be_given_is_told() {
    let body = format!(
        "(call $num (call $get_buffer (i32.const 1) (i32.const 0) (i32.const 9) {AT}))
        (call $num (call $set_buffer (i32.const 1) (i32.const 0) (i32.const 9) $s(\"x\")))
        (call $num (call $set_buffer (i32.const 7) (i32.const 0) (i32.const 9) $s(\"x\")))"
    );
    let wasm = Wasm::with(&on_body("request", &body), r#""bodies": ["request"],"#);
    wasm.request(&mut Exchange::new("POST", "/").body("b"));
    assert_eq!(wasm.log(), ["1", "1", "2"]);
    let error = Wasm::try_new(&module(""), BOTH).err().expect("refused");
    assert!(error.contains("exports no proxy_on_request_body, but `bodies` asks for it"), "{error}");
}
