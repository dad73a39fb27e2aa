//! Each host function, called by a module.
//!
//! The numbers that the modules log first are statuses: 0 OK, 1 NOT_FOUND, 2 BAD_ARGUMENT, 6 INVALID_MEMORY_ACCESS.

mod support;

use mini_rproxy_plugin::Level;
use mini_rproxy_plugin::testing::{Exchange, Outcome};
use support::{AT, Wasm, on_request, on_response, run, run_response};

/// Asks for a value of map 0 (request) or 2 (response), and logs it.
fn get(map: u32, name: &str) -> String {
    format!("(call $num (call $get (i32.const {map}) $s(\"{name}\") {AT})) (call $out)")
}

#[test]
fn fields_and_pseudo_headers_of_the_request_are_read() {
    let mut x = Exchange::get("/a?b=c").field("X-One", "1").field("Accept", "a").field("accept", "b");
    let rows = [
        (":path", "/a?b=c"),
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "www.example"),
        ("host", "www.example"),
        ("Host", "www.example"),
        (":PATH", "/a?b=c"),
        ("x-one", "1"),
        ("X-ONE", "1"),
        ("accept", "a,b"),
    ];
    for (name, expected) in rows {
        assert_eq!(run(&get(0, name), &mut x), ["0", expected], "{name}");
    }
}

#[test]
fn what_is_absent_is_not_found() {
    let ask = |map: u32, name: &str| format!("(call $num (call $get (i32.const {map}) $s(\"{name}\") {AT}))");
    // Trailers, gRPC and calls have no lines here; there is no response yet; `:status` is not the request's.
    for (map, name) in [(0, "x-none"), (0, ":status"), (0, ":none"), (1, "a"), (2, ":status"), (3, "a"), (7, "a")] {
        assert_eq!(run(&ask(map, name), &mut Exchange::get("/")), ["1"], "{map} {name}");
    }
    assert_eq!(run(&ask(8, "a"), &mut Exchange::get("/")), ["2"]);
}

#[test]
fn the_count_and_the_pairs_hold_pseudo_headers_first_and_names_in_lower_case() {
    let mut x = Exchange::new("POST", "/a").field("X-One", "1").field("x-one", "2");
    let size = "(call $num (call $map_size (i32.const 0) (i32.const 4))) (call $num (i32.load (i32.const 4)))";
    let body =
        format!("(call $num (local.get $count)) (call $num (call $get_pairs (i32.const 0) {AT})) (call $out) {size}");
    let log = run(&body, &mut x);
    let names = [":authority", ":path", ":method", ":scheme", "x-one", "x-one"];
    let values = ["www.example", "/a", "POST", "http", "1", "2"];
    let mut expected = vec![6, 0, 0, 0];
    for (name, value) in names.iter().zip(values) {
        expected.extend([name.len() as u8, 0, 0, 0, value.len() as u8, 0, 0, 0]);
    }
    for (name, value) in names.iter().zip(values) {
        expected.extend(format!("{name}\0{value}\0").into_bytes());
    }
    assert_eq!(log, ["6", "0", &String::from_utf8(expected.clone()).unwrap(), "0", &expected.len().to_string()]);
}

#[test]
fn an_empty_map_is_no_bytes_at_all() {
    let body = format!(
        "(call $num (call $get_pairs (i32.const 1) {AT})) (call $num (i32.load (i32.const 0)))
        (call $num (i32.load (i32.const 4)))"
    );
    assert_eq!(run(&body, &mut Exchange::get("/")), ["0", "0", "0"]);
}

#[test]
fn fields_of_the_request_are_changed() {
    let mut x = Exchange::get("/").field("X-Gone", "1").field("X-Old", "1").field("X-Old", "2");
    let body = r#"
        (call $num (call $add (i32.const 0) $s("x-new") $s("1")))
        (call $num (call $add (i32.const 0) $s("x-new") $s(" 2 ")))
        (call $num (call $set (i32.const 0) $s("x-old") $s("3")))
        (call $num (call $set (i32.const 0) $s("x-other") $s("4")))
        (call $num (call $remove (i32.const 0) $s("x-gone")))
        (call $num (call $remove (i32.const 0) $s("x-never")))"#;
    assert_eq!(run(body, &mut x), ["0"; 6]);
    let lines: Vec<String> = x
        .request_fields()
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    assert_eq!(lines, ["X-Old=3", "x-new=1", "x-new=2", "x-other=4"]);
}

#[test]
fn pseudo_headers_of_the_request_are_changed_and_seen_so_by_the_module() {
    let mut x = Exchange::get("/old");
    let body = format!(
        r#"(call $num (call $set (i32.const 0) $s(":path") $s("/new?q")))
        (call $num (call $set (i32.const 0) $s(":method") $s("POST")))
        (call $num (call $add (i32.const 0) $s(":authority") $s("other.example:8080")))
        (call $num (call $set (i32.const 0) $s(":scheme") $s("https")))
        (call $num (call $remove (i32.const 0) $s(":path")))
        {} {} {}"#,
        get(0, ":path"),
        get(0, ":method"),
        get(0, ":authority")
    );
    assert_eq!(run(&body, &mut x), ["0", "0", "0", "0", "0", "0", "/new?q", "0", "POST", "0", "other.example:8080"]);
    assert_eq!((x.target(), x.method(), x.authority()), ("/new?q", "POST", "other.example:8080"));
    let mut x = Exchange::get("/");
    run(r#"(call $num (call $set (i32.const 0) $s("HOST") $s("by-host.example")))"#, &mut x);
    assert_eq!(x.authority(), "by-host.example");
}

#[test]
fn what_only_the_proxy_writes_is_left_as_it_is() {
    let mut x = Exchange::get("/").field("Content-Length", "3");
    let body = r#"
        (call $num (call $remove (i32.const 0) $s("content-length")))
        (call $num (call $set (i32.const 0) $s("content-length") $s("7")))
        (call $num (call $add (i32.const 0) $s("transfer-encoding") $s("chunked")))
        (call $num (call $set (i32.const 0) $s("connection") $s("close")))"#;
    assert_eq!(run(body, &mut x), ["0"; 4]);
    assert_eq!(x.request_fields(), [(b"Content-Length".to_vec(), b"3".to_vec())]);
}

#[test]
fn what_would_break_a_message_is_refused() {
    let mut x = Exchange::get("/");
    for call in [
        r#"$set (i32.const 0) $s("bad name") $s("1")"#,
        r#"$add (i32.const 0) $s("") $s("1")"#,
        r#"$set (i32.const 0) $s("x-a") $s("1\0d\0ax-b: 2")"#,
        r#"$add (i32.const 0) $s("x-a") $s("\00")"#,
        r#"$set (i32.const 0) $s(":path") $s("no-slash")"#,
        r#"$set (i32.const 0) $s(":path") $s("/a b")"#,
        r#"$set (i32.const 0) $s(":path") $s("")"#,
        r#"$set (i32.const 0) $s(":authority") $s("a b")"#,
        r#"$set (i32.const 0) $s(":method") $s("G T")"#,
        r#"$set (i32.const 0) $s(":status") $s("200")"#,
        r#"$set (i32.const 0) $s(":other") $s("200")"#,
        // The response before there is one, and maps that do not exist.
        r#"$set (i32.const 2) $s("x-a") $s("1")"#,
        r#"$set (i32.const 1) $s("x-a") $s("1")"#,
        r#"$add (i32.const 9) $s("x-a") $s("1")"#,
        r#"$remove (i32.const 2) $s("x-a")"#,
    ] {
        assert_eq!(run(&format!("(call $num (call {call}))"), &mut x), ["2"], "{call}");
    }
    assert_eq!((x.request_fields().len(), x.target(), x.method()), (0, "/", "GET"));
}

#[test]
fn all_lines_are_replaced_at_once() {
    let pairs = r#"\02\00\00\00\01\00\00\00\01\00\00\00\05\00\00\00\04\00\00\00a\001\00:path\00/new\00"#;
    let mut x = Exchange::get("/").field("x-old", "1").field("Content-Length", "0");
    assert_eq!(run(&format!("(call $num (call $set_pairs (i32.const 0) $s(\"{pairs}\")))"), &mut x), ["0"]);
    let names: Vec<_> = x.request_fields().iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    assert_eq!((names, x.target()), (vec!["Content-Length".into(), "a".into()], "/new"));
    // One bad line, and nothing is changed.
    let pairs = pairs.replace("a\\001", "a\\00\\0a");
    let mut x = Exchange::get("/").field("x-old", "1");
    assert_eq!(run(&format!("(call $num (call $set_pairs (i32.const 0) $s(\"{pairs}\")))"), &mut x), ["2"]);
    assert_eq!((x.request_field("x-old"), x.target()), (Some("1"), "/"));
    assert_eq!(run(r#"(call $num (call $set_pairs (i32.const 0) $s("\ff\ff\ff\ff")))"#, &mut x), ["2"]);
}

#[test]
fn the_response_is_read_and_changed_and_the_request_only_read() {
    let mut x = Exchange::get("/a").field("x-req", "r");
    x.upstream_answers(404, &[("Content-Type", "text/html"), ("Server", "s")], "");
    let body = format!(
        r#"{} {} {}
        (call $num (call $set (i32.const 2) $s(":status") $s("410")))
        (call $num (call $set (i32.const 2) $s("server") $s("t")))
        (call $num (call $remove (i32.const 2) $s("content-type")))
        (call $num (call $set (i32.const 2) $s(":status") $s("99")))
        (call $num (call $set (i32.const 0) $s("x-req") $s("late")))
        (call $num (call $set (i32.const 0) $s(":path") $s("/late")))
        {}"#,
        get(2, ":status"),
        get(2, "content-type"),
        get(0, "x-req"),
        get(2, ":status"),
    );
    let expected = ["0", "404", "0", "text/html", "0", "r", "0", "0", "0", "2", "2", "2", "0", "410"];
    assert_eq!(run_response(&body, &mut x), expected);
    assert_eq!((x.status(), x.response_field("server"), x.response_field("content-type")), (410, Some("t"), None));
}

#[test]
fn a_module_answers_in_the_upstreams_place() {
    let fields = r#"\02\00\00\00\03\00\00\00\01\00\00\00\0e\00\00\00\01\00\00\00x-a\001\00content-length\009\00"#;
    let body = format!(
        r#"(call $num (call $respond (i32.const 403) $s("details") $s("no\0a") $s("{fields}") (i32.const -1)))
        (return (i32.const 1))"#
    );
    let wasm = Wasm::new(&on_request(&body));
    let Outcome::Respond(answer) = wasm.request(&mut Exchange::get("/")) else { panic!("{:?}", wasm.log()) };
    let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    assert_eq!(
        (answer.status, answer.fields, answer.body),
        (403, vec![pair(b"x-a", b"1"), pair(b"content-type", b"text/plain")], b"no\n".to_vec())
    );
    assert_eq!(wasm.log(), ["0"]);
    // In the response phase it replaces the upstream's.
    let wasm = Wasm::new(&on_response(&body));
    let mut x = Exchange::get("/");
    x.upstream_answers(200, &[], "");
    assert_eq!(wasm.response(&mut x).status(), Some(403));
}

#[test]
fn an_answer_that_is_none_is_refused() {
    for call in [
        r#"(i32.const 99) $s("") $s("") $s("") (i32.const -1)"#,
        r#"(i32.const 600) $s("") $s("") $s("") (i32.const -1)"#,
        r#"(i32.const 65736) $s("") $s("") $s("") (i32.const -1)"#,
        r#"(i32.const 200) $s("") $s("") $s("\01\00") (i32.const -1)"#,
        r#"(i32.const 200) $s("") $s("") $s("\01\00\00\00\01\00\00\00\01\00\00\00 \001\00") (i32.const -1)"#,
    ] {
        assert_eq!(run(&format!("(call $num (call $respond {call}))"), &mut Exchange::get("/")), ["2"], "{call}");
    }
}

#[test]
fn configurations_are_buffers() {
    let read = |buffer: u32| {
        format!("(call $num (call $get_buffer (i32.const {buffer}) (i32.const 0) (i32.const 99) {AT})) (call $out)")
    };
    let functions = format!(
        r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (call $num (local.get 1)) {} (i32.const 1))
        (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $num (local.get 1)) {}
            (call $num (call $get_buffer (i32.const 7) (i32.const 2) (i32.const 3) {AT})) (call $out)
            (call $num (call $get_buffer (i32.const 7) (i32.const 100) (i32.const 3) {AT}))
            (call $num (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 3) {AT}))
            (call $num (call $get_buffer (i32.const 9) (i32.const 0) (i32.const 3) {AT}))
            (call $num (call $buffer_status (i32.const 7) (i32.const 0) (i32.const 4)))
            (call $num (i32.load (i32.const 0))) (call $num (i32.load (i32.const 4)))
            (i32.const 1))"#,
        read(6),
        read(7)
    );
    let wasm = Wasm::with(&functions, r#""vm_config": "for the vm", "config": {"a": [1]},"#);
    let expected = ["10", "0", "for the vm", "9", "0", "{\"a\":[1]}", "0", "a\":", "2", "1", "2", "0", "9", "0"];
    assert_eq!(wasm.log(), expected);
}

#[test]
fn log_levels() {
    let body = r#"
        (call $num (call $log (i32.const 0) $s("trace"))) (call $num (call $log (i32.const 1) $s("debug")))
        (call $num (call $log (i32.const 3) $s("warn"))) (call $num (call $log (i32.const 4) $s("error")))
        (call $num (call $log (i32.const 5) $s("critical"))) (call $num (call $log (i32.const 6) $s("none")))
        (call $num (call $get_log_level (i32.const 0))) (call $num (i32.load (i32.const 0)))"#;
    let wasm = Wasm::new(&on_request(body));
    wasm.request(&mut Exchange::get("/"));
    let said: Vec<_> = wasm.lines().into_iter().filter(|(_, text)| text.parse::<u32>().is_err()).collect();
    let expected = [
        (Level::Debug, "trace"),
        (Level::Debug, "debug"),
        (Level::Warn, "warn"),
        (Level::Error, "error"),
        (Level::Error, "critical"),
    ];
    assert_eq!(said, expected.map(|(level, text)| (level, text.to_owned())));
    let numbers: Vec<_> = wasm.log().into_iter().filter(|text| text.parse::<u32>().is_ok()).collect();
    assert_eq!(numbers, ["0", "0", "0", "0", "0", "2", "0", "1"]);
}

/// A property, read with a path whose segments are separated by dots here.
fn property(path: &str) -> String {
    let path = path.replace('.', "\\00");
    format!("(call $num (call $get_property $s(\"{path}\") {AT})) (call $out)")
}

#[test]
fn properties_that_are_texts() {
    let rows = [
        ("request.path", "/a?b=c"),
        ("request.url_path", "/a"),
        ("request.query", "b=c"),
        ("request.host", "www.example"),
        ("request.method", "PUT"),
        ("request.scheme", "http"),
        ("request.headers.x-one", "1"),
        ("request.headers.X-One", "1"),
        ("request.referer", "r"),
        ("request.useragent", "u"),
        ("request.id", "7"),
        ("source.address", "192.0.2.1:50000"),
        ("cluster_name", "upstream.example"),
        ("route_name", "/"),
        ("destination.address", "192.0.2.80:80"),
        ("request.protocol", "HTTP/1.1"),
        ("plugin_name", "proxy_wasm"),
    ];
    let lines = [("X-One", "1"), ("Referer", "r"), ("User-Agent", "u"), ("X-Request-Id", "7")];
    let x = lines.iter().fold(Exchange::new("PUT", "/a?b=c"), |x, (name, value)| x.field(name, value));
    for (path, expected) in rows {
        assert_eq!(run(&property(path), &mut x.clone()), ["0", expected], "{path}");
    }
    // A NUL at the end of a path counts for nothing.
    assert_eq!(run(&property("request.method."), &mut x.clone()), ["0", "PUT"]);
}

#[test]
fn properties_that_are_numbers() {
    let number = |path: &str| format!("{} (call $num (i32.load (i32.load (i32.const 0))))", property(path));
    let mut x = Exchange::get("/");
    x.upstream_answers(404, &[("x-a", "1")], "");
    let log = run_response(&number("response.code"), &mut x);
    assert_eq!((&log[0], &log[2]), (&"0".to_owned(), &"404".to_owned()));
    assert_eq!(run_response(&property("response.headers.x-a"), &mut x), ["0", "1"]);
    let len = format!("(drop (call $get_property $s(\"response\\00code\") {AT})) (call $num (i32.load (i32.const 4)))");
    assert_eq!(run_response(&len, &mut x), ["8"]);
}

#[test]
fn properties_of_the_connection_and_of_the_end() {
    use mini_rproxy_plugin::host::Attr;
    let x = Exchange::get("/")
        .attr(Attr::TlsVersion, "TLSv1.3")
        .attr(Attr::TlsServerName, "www")
        .attr(Attr::Scheme, "https");
    for (path, expected) in [
        ("connection.tls_version", "TLSv1.3"),
        ("connection.requested_server_name", "www"),
        ("request.scheme", "https"),
    ] {
        assert_eq!(run(&property(path), &mut x.clone()), ["0", expected], "{path}");
    }
    let number = |path: &str| {
        let path = path.replace('.', "\\00");
        format!("(call $num (call $get_property $s(\"{path}\") {AT})) (call $num (i32.load (i32.load (i32.const 0))))")
    };
    assert_eq!(run(&(number("source.port") + &number("destination.port")), &mut x.clone()), ["0", "50000", "0", "80"]);
    let wasm = Wasm::new(&format!(
        "(func (export \"proxy_on_log\") (param i32) {} {})",
        number("request.size"),
        number("response.size")
    ));
    let mut x = x.attr(Attr::BytesIn, 7).attr(Attr::BytesOut, 9);
    wasm.request(&mut x);
    wasm.done(&mut x);
    assert_eq!(wasm.log(), ["0", "7", "0", "9"]);
}

#[test]
fn properties_that_nobody_knows_are_not_found() {
    for path in ["", "request", "request.nothing", "response.code", "nothing", "request.headers.x-none", "a.b.c.d"] {
        let path = path.replace('.', "\\00");
        assert_eq!(
            run(&format!("(call $num (call $get_property $s(\"{path}\") {AT}))"), &mut Exchange::get("/")),
            ["1"],
            "{path}"
        );
    }
    assert_eq!(run(&format!("(call $num (call $get_property $s(\"\\ff\") {AT}))"), &mut Exchange::get("/")), ["1"]);
}

#[test]
fn a_property_that_was_set_stays_with_the_exchange() {
    let set = r#"(call $num (call $set_property $s("my\00key") $s("value")))"#;
    let functions = on_request(set) + &on_response(&property("my.key"));
    let wasm = Wasm::new(&functions);
    let mut x = Exchange::get("/");
    wasm.request(&mut x);
    x.upstream_answers(200, &[], "");
    wasm.response(&mut x);
    assert_eq!(wasm.log(), ["0", "0", "value"]);
    // Another exchange has none.
    let mut other = Exchange::get("/");
    other.upstream_answers(200, &[], "");
    wasm.response(&mut other);
    assert_eq!(wasm.log()[3], "1");
}

#[test]
fn shared_data_is_shared_with_compare_and_swap() {
    let body = format!(
        r#"(call $num (call $get_shared $s("key") {AT} (i32.const 8)))
        (call $num (call $set_shared $s("key") $s("1") (i32.const 0)))
        (call $num (call $get_shared $s("key") {AT} (i32.const 8))) (call $out)
        (call $num (call $set_shared $s("key") $s("2") (i32.load (i32.const 8))))
        (call $num (call $set_shared $s("key") $s("3") (i32.load (i32.const 8))))
        (call $num (call $get_shared $s("key") {AT} (i32.const 8))) (call $out)"#
    );
    // 8 is CAS_MISMATCH.
    assert_eq!(run(&body, &mut Exchange::get("/")), ["1", "0", "0", "1", "0", "8", "0", "2"]);
}

#[test]
fn queues_tell_whoever_has_registered_them() {
    let functions = format!(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
            (call $num (call $register_queue $s("q") (i32.const 8))) (i32.const 1))
        (func (export "proxy_on_queue_ready") (param i32 i32) (call $say $s("ready"))
            (call $num (call $dequeue (local.get 1) {AT})) (call $out))
        {}"#,
        on_request(&format!(
            r#"(call $num (call $resolve_queue $s("") $s("q") (i32.const 8)))
            (call $num (call $resolve_queue $s("") $s("none") (i32.const 12)))
            (call $num (call $resolve_queue $s("other") $s("q") (i32.const 12)))
            (call $num (call $enqueue (i32.load (i32.const 8)) $s("item")))
            (call $num (call $enqueue (i32.const 99) $s("item")))
            (call $num (call $dequeue (i32.const 99) {AT}))"#
        ))
    );
    let wasm = Wasm::new(&functions);
    wasm.request(&mut Exchange::get("/"));
    wasm.request(&mut Exchange::get("/"));
    let log = wasm.log();
    // Registered by the instance that was tried at the start, and by that of this thread.
    assert_eq!(log[..8], ["0", "0", "0", "1", "1", "0", "1", "1"]);
    assert_eq!(log[8..11], ["ready", "0", "item"]);
}

#[test]
fn metrics_are_counted_by_all_instances_together() {
    let functions = on_request(
        r#"(call $num (call $define_metric (i32.const 0) $s("hits") (i32.const 8)))
        (call $num (call $increment_metric (i32.load (i32.const 8)) (i64.const 2)))
        (call $num (call $get_metric (i32.load (i32.const 8)) (i32.const 16)))
        (call $num (i32.load (i32.const 16)))
        (call $num (call $record_metric (i32.const 77) (i64.const 2)))
        (call $num (call $define_metric (i32.const 5) $s("x") (i32.const 8)))"#,
    );
    let wasm = Wasm::new(&functions);
    wasm.request(&mut Exchange::get("/"));
    std::thread::scope(|scope| scope.spawn(|| wasm.request(&mut Exchange::get("/"))).join().map(|_| ()).unwrap());
    assert_eq!(wasm.log(), ["0", "0", "0", "2", "1", "2", "0", "0", "0", "4", "1", "2"]);
}

#[test]
fn clocks_and_random_numbers() {
    let body = r#"
        (call $num (call $get_time (i32.const 0))) (call $num (i64.gt_u (i64.load (i32.const 0)) (i64.const 1700000000000000000)))
        (call $num (call $clock (i32.const 0) (i64.const 1) (i32.const 8)))
        (call $num (i64.ge_u (i64.load (i32.const 8)) (i64.load (i32.const 0))))
        (call $num (call $clock (i32.const 1) (i64.const 1) (i32.const 0)))
        (call $num (call $clock (i32.const 1) (i64.const 1) (i32.const 8)))
        (call $num (i64.ge_u (i64.load (i32.const 8)) (i64.load (i32.const 0))))
        (call $num (call $clock (i32.const 2) (i64.const 1) (i32.const 8)))
        (call $num (call $random (i32.const 0) (i32.const 16)))
        (call $num (i64.ne (i64.load (i32.const 0)) (i64.load (i32.const 8))))
        (call $num (call $random (i32.const 0) (i32.const 1000000)))
        (call $num (call $random (i32.const -1) (i32.const 16)))"#;
    // 58 is NOTSUP, 28 INVAL, 21 FAULT.
    assert_eq!(run(body, &mut Exchange::get("/")), ["0", "1", "0", "1", "0", "0", "1", "58", "0", "1", "28", "21"]);
}

#[test]
fn what_the_runtime_of_go_needs() {
    // A nap is over at once: the event has the number of the subscription and its kind. There are no folders.
    let body = r#"
        (i64.store (i32.const 200) (i64.const 7)) (i32.store8 (i32.const 208) (i32.const 1))
        (i32.store (i32.const 300) (i32.const -1)) (i32.store (i32.const 308) (i32.const -1))
        (call $num (call $poll (i32.const 200) (i32.const 300) (i32.const 1) (i32.const 0)))
        (call $num (i32.load (i32.const 0))) (call $num (i32.load (i32.const 300))) (call $num (i32.load (i32.const 308)))
        (call $num (call $poll (i32.const 200) (i32.const 300) (i32.const 0) (i32.const 0)))
        (call $num (call $poll (i32.const -4) (i32.const 300) (i32.const 1) (i32.const 0)))
        (call $num (call $poll (i32.const 200) (i32.const -4) (i32.const 1) (i32.const 0)))
        (call $num (call $poll (i32.const 200) (i32.const 300) (i32.const 1) (i32.const -2)))
        (call $num (call $prestat (i32.const 3) (i32.const 0)))"#;
    assert_eq!(run(body, &mut Exchange::get("/")), ["0", "1", "7", "65536", "28", "21", "21", "21", "8"]);
}

#[test]
fn standard_output_is_logged() {
    let body = r#"
        (i32.store (i32.const 100) (i32.const 200)) (i32.store (i32.const 104) (i32.const 3))
        (i32.store (i32.const 108) (i32.const 203)) (i32.store (i32.const 112) (i32.const 2))
        (i32.store (i32.const 200) (i32.const 0x64636261)) (i32.store8 (i32.const 204) (i32.const 10))
        (call $num (call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 0)))
        (call $num (i32.load (i32.const 0)))
        (call $num (call $fd_write (i32.const 2) (i32.const 100) (i32.const 1) (i32.const 0)))
        (call $num (call $fd_write (i32.const 3) (i32.const 100) (i32.const 1) (i32.const 0)))
        (call $num (call $fd_write (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 0)))
        (call $num (call $fd_write (i32.const 1) (i32.const 100) (i32.const 5000) (i32.const 0)))
        (call $num (call $fd_close (i32.const 1)))"#;
    let wasm = Wasm::new(&on_request(body));
    wasm.request(&mut Exchange::get("/"));
    // 8 is BADF, 52 NOSYS.
    assert_eq!(wasm.log(), ["abcd", "0", "5", "abc", "0", "8", "21", "28", "52"]);
    assert_eq!(wasm.errors(), ["abc"]);
}

#[test]
fn there_are_no_arguments_and_no_environment() {
    for call in ["$environ_sizes", "$args_sizes"] {
        let body = format!(
            "(i64.store (i32.const 0) (i64.const -1)) (call $num (call {call} {AT})) (call $num (i32.load (i32.const 0)))
            (call $num (i32.load (i32.const 4))) (call $num (call {call} (i32.const -1) (i32.const 0)))"
        );
        assert_eq!(run(&body, &mut Exchange::get("/")), ["0", "0", "0", "21"], "{call}");
    }
    let body = format!("(call $num (call $environ {AT})) (call $num (call $args {AT}))");
    assert_eq!(run(&body, &mut Exchange::get("/")), ["0", "0"]);
}

#[test]
fn what_is_not_offered_is_answered_as_the_sdks_expect() {
    let zeros = |count| " (i32.const 0)".repeat(count);
    let rows = [
        // INTERNAL_FAILURE, NOT_FOUND, UNIMPLEMENTED, BAD_ARGUMENT, OK.
        (format!("$http_call{}", zeros(10)), "2"),
        (format!("$grpc_call{}", zeros(12)), "10"),
        ("$grpc_close (i32.const 1)".to_owned(), "1"),
        (format!("$foreign{}", zeros(6)), "1"),
        ("$continue (i32.const 2)".to_owned(), "12"),
        ("$close (i32.const 3)".to_owned(), "12"),
        ("$continue (i32.const 4)".to_owned(), "2"),
        ("$close (i32.const 4)".to_owned(), "2"),
        ("$done".to_owned(), "1"),
        ("$set_context (i32.const 1)".to_owned(), "0"),
        ("$set_context (i32.const 4711)".to_owned(), "2"),
        (format!("$get_status{}", zeros(3)), "0"),
    ];
    for (call, expected) in rows {
        assert_eq!(run(&format!("(call $num (call {call}))"), &mut Exchange::get("/")), [expected], "{call}");
    }
}

#[test]
fn metrics_of_the_start_appear_in_the_proxys() {
    let functions = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
            (drop (call $define_metric (i32.const 0) $s("My.Hits") (i32.const 8)))
            (drop (call $define_metric (i32.const 1) $s("level") (i32.const 12)))
            (drop (call $define_metric (i32.const 2) $s("took") (i32.const 16)))
            (drop (call $increment_metric (i32.load (i32.const 8)) (i64.const 1))) (i32.const 1))"#
        .to_owned()
        + &on_request(
            "(drop (call $increment_metric (i32.load (i32.const 8)) (i64.const 2)))
            (drop (call $record_metric (i32.load (i32.const 12)) (i64.const 7)))
            (drop (call $increment_metric (i32.load (i32.const 12)) (i64.const -3)))
            (drop (call $record_metric (i32.load (i32.const 16)) (i64.const 5)))",
        );
    let wasm = Wasm::new(&functions);
    assert_eq!(wasm.plugin.metric("my_hits"), Some(1));
    wasm.request(&mut Exchange::get("/"));
    wasm.request(&mut Exchange::get("/"));
    // Once more by the start of this thread's instance.
    assert_eq!(wasm.plugin.metric("my_hits"), Some(6));
    let rest = ["level", "took_count", "took_sum"].map(|name| wasm.plugin.metric(name));
    assert_eq!(rest, [Some(4), Some(2), Some(10)]);
}
