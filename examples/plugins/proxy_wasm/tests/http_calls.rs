//! `proxy_http_call`: modules that ask a service, which is a thread of the test.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use mini_rproxy_plugin::Level;
use mini_rproxy_plugin::testing::{Exchange, Outcome};
use support::{Wasm, on_request, on_response};

/// A service that answers each request by its path: `/CODE/BODY`; `/close` by closing, `/junk` by something else. `/wait` has
/// to be let go by the test.
struct Service {
    address: String,
    asked: Receiver<String>,
    go: std::sync::mpsc::Sender<()>,
}

fn service() -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (ask, asked) = channel();
    let (go, goes) = channel();
    let goes = std::sync::Arc::new(std::sync::Mutex::new(goes));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (ask, goes) = (ask.clone(), std::sync::Arc::clone(&goes));
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                while let Some(request) = read_request(&mut stream) {
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    let _ = ask.send(request);
                    let parts: Vec<&str> = path.split('/').collect();
                    let answer = match parts[1] {
                        "close" => return,
                        "junk" => "no HTTP\r\n\r\n".to_owned(),
                        "huge" => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 << 20),
                        "wait" => {
                            let _ = goes.lock().unwrap().recv();
                            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nwaited".to_owned()
                        }
                        code => {
                            let body = parts.get(2).copied().unwrap_or("");
                            format!(
                                "HTTP/1.1 {code} X\r\nContent-Length: {}\r\nX-A: 1\r\nx-a: 2\r\n\r\n{body}",
                                body.len()
                            )
                        }
                    };
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Service { address, asked, go }
}

/// Head and body.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = String::new();
    let mut buf = [0; 4096];
    loop {
        if let Some(head) = request.find("\r\n\r\n") {
            let length = request.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or("0");
            if request.len() >= head + 4 + length.parse::<usize>().unwrap() {
                return Some(request);
            }
        }
        match stream.read(&mut buf) {
            Ok(0) | Err(_) => return None,
            Ok(len) => request.push_str(std::str::from_utf8(&buf[..len]).unwrap()),
        }
    }
}

/// A map in the text of a module, as the interface has it.
fn map(lines: &[(&str, &str)]) -> String {
    let number = |number: usize| (number as u32).to_le_bytes().map(|byte| format!("\\{byte:02x}")).concat();
    let mut text = number(lines.len());
    lines.iter().for_each(|(name, value)| text += &(number(name.len()) + &number(value.len())));
    lines.iter().for_each(|(name, value)| text += &format!("{name}\\00{value}\\00"));
    format!("$s(\"{text}\")")
}

/// Makes a call and logs the status: `1000` is where the token goes.
fn call(method: &str, path: &str, body: &str, timeout: u32) -> String {
    let fields =
        map(&[(":method", method), (":path", path), (":authority", "auth.example"), ("x-b", "c"), ("host", "x")]);
    format!(
        "(call $num (call $http_call $s(\"auth\") {fields} $s(\"{body}\") $s(\"\") (i32.const {timeout}) (i32.const 1000)))"
    )
}

fn get(path: &str) -> String {
    call("GET", path, "", 0)
}

/// The callback for answers; the context of the exchange is `$x`, which a module remembers itself.
fn on_answer(body: &str) -> String {
    format!(
        "(global $x (mut i32) (i32.const 0))
        (func (export \"proxy_on_http_call_response\")
            (param $id i32) (param $token i32) (param $count i32) (param $len i32) (param $trailers i32) {body})"
    )
}

/// Makes the context that of the exchange, as the SDKs do.
const IN_EXCHANGE: &str = "(drop (call $set_context (global.get $x)))";
const GO_ON: &str = "(drop (call $set_context (global.get $x))) (drop (call $continue (i32.const 0)))";
const PAUSE: &str = "(global.set $x (local.get $id)) (return (i32.const 1))";

fn asks(service: &str, functions: &str) -> Wasm {
    asks_with(service, functions, "")
}

fn asks_with(service: &str, functions: &str, more: &str) -> Wasm {
    Wasm::with(functions, &format!("\"clusters\": {{\"auth\": \"http://{service}\"}}, {more}"))
}

#[test]
fn an_answer_is_told_with_its_fields_and_its_body() {
    let service = service();
    let tell = format!(
        r#"(call $num (local.get $id)) (call $num (i32.eq (local.get $token) (i32.load (i32.const 1000))))
        (call $num (local.get $count)) (call $num (local.get $len)) (call $num (local.get $trailers))
        (call $num (call $get (i32.const 6) $s(":status") (i32.const 0) (i32.const 4))) (call $out)
        (call $num (call $get (i32.const 6) $s("X-a") (i32.const 0) (i32.const 4))) (call $out)
        (call $num (call $get (i32.const 6) $s("x-no") (i32.const 0) (i32.const 4)))
        (call $num (call $get (i32.const 7) $s("x-a") (i32.const 0) (i32.const 4)))
        (call $num (call $get_pairs (i32.const 6) (i32.const 0) (i32.const 4))) (call $num (i32.load (i32.load (i32.const 0))))
        (call $num (call $buffer_status (i32.const 4) (i32.const 0) (i32.const 4))) (call $num (i32.load (i32.const 0)))
        (call $num (call $get_buffer (i32.const 4) (i32.const 1) (i32.const 3) (i32.const 0) (i32.const 4))) (call $out)
        (call $num (call $add (i32.const 6) $s("a") $s("b")))
        {IN_EXCHANGE} (drop (call $set (i32.const 0) $s("x-user") $s("ann"))) (drop (call $continue (i32.const 0)))"#
    );
    let module = on_answer(&tell)
        + &on_request(&format!("{} {PAUSE}", call("POST", "/200/hello", "question", 5000)))
        // The answer is there in its callback only.
        + &on_response(
            "(call $num (call $get (i32.const 6) $s(\":status\") (i32.const 0) (i32.const 4)))
            (call $num (call $get_buffer (i32.const 4) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 4)))",
        );
    let wasm = asks(&service.address, &module);
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Pause, "{:?}", wasm.log());
    assert_eq!(wasm.resumed(&mut x), Outcome::Continue, "{:?}", wasm.log());
    assert_eq!(x.request_field("x-user"), Some("ann"));
    assert_eq!(
        service.asked.recv().unwrap(),
        "POST /200/hello HTTP/1.1\r\nHost: auth.example\r\nx-b: c\r\nContent-Length: 8\r\n\r\nquestion"
    );
    x.upstream_answers(200, &[], "");
    assert_eq!(wasm.response(&mut x), Outcome::Continue);
    let expected = "0 1 1 4 5 0 0 200 0 1,2 1 1 0 4 0 5 0 ell 2 1 1";
    assert_eq!(wasm.log().join(" "), expected);
    assert!(x.log().iter().any(|(_, text)| text == "ell"), "what a module logs stands with its exchange");
}

#[test]
fn a_module_answers_by_what_it_was_told() {
    let service = service();
    let refuse =
        format!("{IN_EXCHANGE} (drop (call $respond (i32.const 403) $s(\"\") $s(\"no\") $s(\"\") (i32.const -1)))");
    let wasm = asks(&service.address, &(on_answer(&refuse) + &on_request(&format!("{} {PAUSE}", get("/401")))));
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Pause);
    assert_eq!(wasm.resumed(&mut x).status(), Some(403));
    wasm.done(&mut x);
    assert!(wasm.errors().is_empty());
    assert!(!service.asked.recv().unwrap().contains("Content-Length"), "a GET without a body");
}

#[test]
fn what_fails_is_an_answer_without_fields() {
    let service = service();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let tell = format!("(call $num (local.get $count)) (call $num (local.get $len)) {GO_ON}");
    for (address, path, timeout, why) in [
        (&nobody, "/", 0, "refused"),
        (&service.address, "/close", 0, "unexpected end"),
        (&service.address, "/junk", 0, "invalid"),
        (&service.address, "/huge", 0, "its body is too large"),
        (&service.address, "/wait", 30, "it took too long"),
    ] {
        let wasm =
            asks(address, &(on_answer(&tell) + &on_request(&format!("{} {PAUSE}", call("GET", path, "", timeout)))));
        let mut x = Exchange::get("/");
        assert_eq!(wasm.request(&mut x), Outcome::Pause);
        assert_eq!(wasm.resumed(&mut x), Outcome::Continue, "{path}");
        let mut lines = wasm.lines();
        let (level, line) = lines.remove(1);
        assert!(level == Level::Warn && line.contains(why) && line.contains(address.as_str()), "{path}: {line}");
        let rest: Vec<_> = lines.into_iter().map(|(_, text)| text).collect();
        assert_eq!(rest, ["0", "0", "0"], "{path}");
    }
}

#[test]
fn calls_that_cannot_be_made_are_told_at_once() {
    let service = service();
    let good = [(":method", "GET"), (":path", "/"), (":authority", "a")];
    let with = |name: &'static str, value: &'static str| {
        let mut lines = good.to_vec();
        lines.retain(|(other, _)| *other != name);
        lines.push((name, value));
        lines
    };
    let try_call = |cluster: &str, fields: &str, body: &str, token: &str| {
        let call = format!("(call $http_call $s(\"{cluster}\") {fields} {body} $s(\"\") (i32.const 1) {token})");
        let wasm = asks(&service.address, &on_request(&format!("(call $num {call})")));
        assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
        wasm.log().remove(0)
    };
    let token = "(i32.const 1000)";
    assert_eq!(try_call("auth", &map(&good), "$s(\"\")", token), "0");
    assert_eq!(try_call("other", &map(&good), "$s(\"\")", token), "2", "no such cluster");
    for lines in [
        with(":method", "G T"),
        with(":method", "CONNECT"),
        with(":path", "x"),
        with(":path", "/a b"),
        with(":authority", "a/b"),
        with("x y", "1"),
        with("x", "a\\0db"),
        good[1..].to_vec(),
        good[..1].to_vec(),
        vec![],
    ] {
        assert_eq!(try_call("auth", &map(&lines), "$s(\"\")", token), "2", "{lines:?}");
    }
    assert_eq!(try_call("auth", "$s(\"junk\")", "$s(\"\")", token), "2");
    assert_eq!(try_call("auth", &map(&good), "(i32.const 0) (i32.const -1)", token), "6");
    assert_eq!(try_call("auth", &map(&good), "$s(\"\")", "(i32.const -2)"), "6");
    // Framing is the host's, whatever the module says, and an empty authority stands for the cluster's.
    let fields = map(&[&with(":authority", "")[..], &[("transfer-encoding", "chunked")]].concat());
    let call = format!("(call $http_call $s(\"auth\") {fields} $s(\"\") $s(\"\") (i32.const 0) {token})");
    let wasm = asks(&service.address, &(on_answer(GO_ON) + &on_request(&format!("(drop {call}) {PAUSE}"))));
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Pause);
    assert_eq!(wasm.resumed(&mut x), Outcome::Continue);
    assert_eq!(
        service.asked.try_iter().last().unwrap(),
        format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", service.address)
    );
}

#[test]
fn several_calls_run_at_a_time_and_the_exchange_goes_on_when_the_module_says_so() {
    let service = service();
    // The first answer to come is that of the second call; the module goes on when it has both.
    let tell = format!(
        "(drop (call $get_buffer (i32.const 4) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 4))) (call $out)
        (global.set $seen (i32.add (global.get $seen) (i32.const 1)))
        (if (i32.eq (global.get $seen) (i32.const 2)) (then {GO_ON}))"
    );
    let module = format!("(global $seen (mut i32) (i32.const 0)) {}", on_answer(&tell))
        + &on_request(&format!("{} {} {PAUSE}", get("/wait"), get("/200/second")));
    let wasm = asks(&service.address, &module);
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Pause);
    assert_eq!(wasm.resumed(&mut x), Outcome::Pause, "one of two");
    service.go.send(()).unwrap();
    assert_eq!(wasm.resumed(&mut x), Outcome::Continue);
    assert_eq!(wasm.log(), ["0", "0", "second", "waited"]);
}

#[test]
fn at_most_sixteen_calls_at_a_time() {
    let service = service();
    let wasm = asks(&service.address, &on_request(&get("/wait").repeat(17)));
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Continue);
    assert_eq!(wasm.log().join(" "), "0 ".repeat(16) + "10");
    // And no more than fit into the queue, whoever makes them.
    let narrow = asks_with(&service.address, &on_request(&get("/wait").repeat(4)), "\"threads\": 1, \"waiting\": 2,");
    assert_eq!(narrow.request(&mut Exchange::get("/")), Outcome::Continue);
    assert_eq!(narrow.log(), ["0", "0", "0", "10"]);
    drop(service.go);
}

#[test]
fn a_chain_of_calls_ends() {
    let service = service();
    let next = format!("{IN_EXCHANGE} {}", get("/200/x"));
    let wasm = asks(&service.address, &(on_answer(&next) + &on_request(&format!("{} {PAUSE}", get("/200/x")))));
    let mut x = Exchange::get("/");
    let mut outcome = wasm.request(&mut x);
    while outcome == Outcome::Pause {
        outcome = wasm.resumed(&mut x);
    }
    assert_eq!(outcome, Outcome::Fail);
    let count = |status: &str| wasm.log().iter().filter(|line| *line == status).count();
    assert_eq!((count("0"), count("10")), (100, 1));
    assert!(wasm.errors()[0].contains("paused the stream, and nothing can continue it"), "{:?}", wasm.errors());
}

#[test]
fn a_pause_without_a_call_fails_at_once() {
    let service = service();
    let wasm = asks(&service.address, &(on_answer("") + &on_request(&format!("{} {PAUSE}", get("/200")))));
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Pause);
    assert_eq!(wasm.resumed(&mut x), Outcome::Fail, "told of the answer, the module did nothing");
    assert!(wasm.errors()[0].contains("nothing can continue it"), "{:?}", wasm.errors());
    let idle = asks(&service.address, &(on_answer("") + &on_request(PAUSE)));
    assert_eq!(idle.request(&mut Exchange::get("/")), Outcome::Fail);
}

#[test]
fn responses_and_bodies_can_wait_too() {
    let service = service();
    let tell = format!("{IN_EXCHANGE} (drop (call $set (i32.const 2) $s(\"x-seen\") $s(\"1\"))) {GO_ON}");
    let wasm = asks(&service.address, &(on_answer(&tell) + &on_response(&format!("{} {PAUSE}", get("/200")))));
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Continue);
    x.upstream_answers(200, &[], "body");
    assert_eq!(wasm.response(&mut x), Outcome::Pause);
    assert_eq!(wasm.resumed(&mut x), Outcome::Continue);
    assert_eq!(x.response_field("x-seen"), Some("1"));

    for (side, name) in [(0, "request"), (1, "response")] {
        let new = format!(
            "{IN_EXCHANGE} (drop (call $set_buffer (i32.const {side}) (i32.const 0) (i32.const 99) $s(\"new\"))) {GO_ON}"
        );
        // The head waits for one call, and its body for another.
        let head = format!("{} {PAUSE}", get("/200"));
        let head = if side == 0 { on_request(&head) } else { on_response(&head) };
        let body = head.replace("_headers", "_body");
        let module = on_answer(&new) + &head + &body;
        let wasm = asks_with(&service.address, &module, &format!("\"bodies\": [\"{name}\"],"));
        let mut x = Exchange::new("POST", "/").body("old request");
        if side == 1 {
            assert_eq!(wasm.request(&mut x), Outcome::Continue);
            x.upstream_answers(200, &[], "old response");
            assert_eq!(wasm.response(&mut x), Outcome::Pause);
        } else {
            assert_eq!(wasm.request(&mut x), Outcome::Pause);
        }
        assert_eq!(wasm.resumed(&mut x), Outcome::Pause, "{name}: {:?}", wasm.log());
        assert_eq!(wasm.resumed(&mut x), Outcome::Continue, "{name}: {:?}", wasm.log());
        let bodies = [x.request_body(), x.response_body()];
        assert_eq!(bodies[side], b"new", "{name}");
    }
}

#[test]
fn a_call_without_a_pause_is_told_by_the_next_callback() {
    let service = service();
    let tell = on_answer("(call $say $s(\"told\")) (call $num (local.get $count))");
    let wasm = asks(
        &service.address,
        &(tell.clone() + &on_request(&get("/wait")) + &on_response("(call $say $s(\"response\"))")),
    );
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Continue);
    service.go.send(()).unwrap();
    x.upstream_answers(200, &[], "");
    // When the answer comes is not the test's to say: it is asked for until it is there.
    while !wasm.log().contains(&"told".to_owned()) {
        assert_eq!(wasm.response(&mut x), Outcome::Continue);
    }
    let log = wasm.log();
    let told = log.iter().position(|line| line == "told").unwrap();
    assert_eq!(log[told..], ["told", "2", "response"], "before the callback itself");
}

#[test]
fn an_answer_for_an_exchange_that_has_ended_comes_before_the_next_request() {
    let service = service();
    // The client leaves while the exchange waits.
    let delete = "(func (export \"proxy_on_delete\") (param i32) (call $say $s(\"delete\")))";
    let tell = on_answer(
        "(call $say $s(\"told\")) (call $num (call $set_context (global.get $x)))
        (call $num (call $respond (i32.const 403) $s(\"\") $s(\"no\") $s(\"\") (i32.const -1)))",
    );
    let once = format!("(if (i32.eqz (global.get $x)) (then {} {PAUSE}))", get("/wait"));
    let wasm = asks(&service.address, &(tell + delete + &on_request(&once)));
    let mut x = Exchange::get("/");
    assert_eq!(wasm.request(&mut x), Outcome::Pause);
    wasm.done(&mut x);
    assert_eq!(wasm.log(), ["0", "delete"]);
    service.go.send(()).unwrap();
    while !wasm.log().contains(&"told".to_owned()) {
        assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
    }
    let log = wasm.log();
    // Its context is no more, and neither is an exchange to answer.
    assert_eq!(log[log.len() - 3..], ["told", "2", "2"]);
    assert_eq!(log.iter().filter(|line| *line == "delete").count(), 1);
    assert!(wasm.errors().is_empty());
}

#[test]
fn the_root_context_calls_too() {
    let service = service();
    let module = on_answer("(call $say $s(\"told\")) (call $num (local.get $len))")
        + &format!(
            "(func (export \"proxy_on_configure\") (param i32 i32) (result i32)
                {} (i32.const 1))",
            get("/200/keys")
        );
    let wasm = asks(&service.address, &module);
    while !wasm.log().contains(&"told".to_owned()) {
        assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
    }
    assert_eq!(wasm.log().last().map(String::as_str), Some("4"));
}

#[test]
fn a_callback_that_goes_wrong_ends_its_request_and_nothing_else() {
    for (body, expected) in [
        ("unreachable", "crashed in proxy_on_http_call_response: it reached `unreachable`"),
        ("(loop (br 0))", "used up its fuel of 10000000 in proxy_on_http_call_response"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access"),
    ] {
        let service = service();
        let bad = on_request(&format!(
            "(drop (call $get (i32.const 0) $s(\":path\") (i32.const 0) (i32.const 4)))
            (if (i32.eq (i32.load (i32.const 4)) (i32.const 4)) (then {} {PAUSE}))
            (if (i32.eq (i32.load (i32.const 4)) (i32.const 5)) (then {} {PAUSE}))",
            get("/200"),
            get("/wait"),
        ));
        for (more, is_skipped) in [("", false), ("\"on_crash\": \"skip\",", true)] {
            let wasm = asks_with(&service.address, &(on_answer(body) + &bad), more);
            let (mut x, mut other) = (Exchange::get("/bad"), Exchange::get("/wait"));
            let expect = if is_skipped { Outcome::Continue } else { Outcome::Fail };
            assert_eq!(wasm.request(&mut other), Outcome::Pause);
            assert_eq!(wasm.request(&mut x), Outcome::Pause);
            assert_eq!(wasm.resumed(&mut x), expect, "{body}");
            assert_eq!(wasm.errors().len(), 1, "{:?}", wasm.errors());
            assert!(wasm.errors()[0].contains(expected), "{:?}", wasm.errors());
            // The other one waited in the instance that is no more.
            service.go.send(()).unwrap();
            assert_eq!(wasm.resumed(&mut other), expect, "{body}");
            assert!(wasm.errors()[1].contains("crashed while this exchange waited for a call"), "{:?}", wasm.errors());
            assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Continue);
            wasm.done(&mut x);
            wasm.done(&mut other);
            assert_eq!(wasm.errors().len(), 2);
        }
    }
}

#[test]
fn calls_cost_fuel() {
    let wasm = asks("127.0.0.1:1", &on_request(&format!("(loop {} (br 0))", get("/"))));
    assert_eq!(wasm.request(&mut Exchange::get("/")), Outcome::Fail);
    assert!(wasm.log().len() <= 1_002, "{}", wasm.log().len());
}

#[test]
fn clusters_are_checked_at_the_start() {
    for (url, expected) in [
        ("https://a", "clusters: auth: url must begin with http://"),
        ("http://a/path", "clusters: auth: \"http://a/path\" has a path; modules name theirs"),
        ("http://a b", "clusters: auth: url must be http://HOST:PORT"),
    ] {
        let error = Wasm::try_new(&support::module(""), &format!("\"clusters\": {{\"auth\": \"{url}\"}},"))
            .err()
            .expect("refused");
        assert!(error.contains(expected), "{error}");
    }
}
