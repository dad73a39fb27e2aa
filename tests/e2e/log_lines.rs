//! The access log: complete, parsable, and out of a client's reach.

use serde_json::Value;

use super::reload::reload;
use crate::support::{Launch, Origin, Proxy, refusing_address, value};

/// Bytes that would end a line, a field or a string, were they copied out as they are. Those that the grammar refuses
/// are in requests that get a 400; the log must survive these as well.
const HOSTILE: [&[u8]; 6] = [
    b"GET /a\"status=200\" HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /b%0Astatus=200%0D%0A HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /c\\\"\\n HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /d\x1b[31m\x00 HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /e HTTP/1.1\r\nHost: te\"st\nstatus=200\r\n\r\n",
    b"G\"ET=\n /f HTTP/1.1\r\nHost: test\r\n\r\n",
];

fn provoke(proxy: &Proxy) {
    for request in HOSTILE {
        let mut client = proxy.connect();
        client.send(request);
        client.shutdown();
        let _ = client.try_rest();
    }
    // The last line of the log, to be waited for.
    assert_eq!(proxy.connect().get("/the-end").status(), 200);
}

#[test]
fn text_lines_tell_everything_about_a_request() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&format!("routes:\n  - prefix: /api\n    upstream: {}\n", origin.url()));
    let mut client = proxy.connect();
    client.send("POST /api/x?secret=1 HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    let response = client.response();
    let line = proxy.access("/api/x");
    let expected = [
        ("method", "POST"),
        ("prefix", "/api"),
        ("status", "200"),
        ("bytes_in", "5"),
        ("bytes_out", &response.body.len().to_string()),
        ("reused", "false"),
        ("retries", "0"),
    ];
    for (key, expected) in expected {
        assert_eq!(value(&line, key), Some(expected), "{key}: {line}");
    }
    assert!(value(&line, "upstream").is_some_and(|url| url.contains(&origin.address.to_string())), "{line}");
    assert!(!line.contains("secret"), "queries may hold secrets: {line}");
    assert!(matches!(value(&line, "why"), None | Some("-")), "{line}");
}

#[test]
fn s22_broken_rules_are_told_with_what_was_expected() {
    let origin = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n");
    });
    let proxy = Proxy::start(&origin.config(""));
    for (request, status, parts) in [
        ("GET /one two HTTP/1.1\r\nHost: a\r\n\r\n", 400, &["why=S12 ", "detail=\"expected "][..]),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: secret\r\n\r\n",
            400,
            &["why=S11 ", "detail=\"expected one Host line only\""],
        ),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405, &["why=S16 ", "detail=\"expected another method"]),
        (
            "GET /bad HTTP/1.1\r\nHost: a\r\n\r\n",
            502,
            &["why=bad_response ", "rule=S2 ", "detail=\"expected one Content-Length line\""],
        ),
        (
            &format!("GET /long?q HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "secret".repeat(4000)),
            431,
            &["method=GET path=/long ", "why=max_head_bytes ", "detail=\"expected a smaller head\""],
        ),
    ] {
        let mut client = proxy.connect();
        client.send(request);
        assert_eq!(client.response().status(), status, "{request}");
        let line = proxy.log.wait_for("its line", |line| parts.iter().all(|part| line.contains(part)));
        assert!(!line.contains("secret"), "{line}");
    }
}

#[test]
fn text_lines_cannot_be_broken() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    provoke(&proxy);
    proxy.access("/the-end");
    for line in proxy.log.all() {
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "a control byte: {line:?}");
        assert!(!line.starts_with("status="), "a line that a client has made: {line}");
        // Outside of quotation marks every key stands once.
        let mut inside = false;
        let mut outside = String::new();
        let mut escaped = false;
        for c in line.chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' if inside => escaped = true,
                '"' => inside = !inside,
                _ if !inside => outside.push(c),
                _ => {}
            }
        }
        assert!(!inside, "a string without an end: {line}");
        assert!(outside.matches(" status=").count() < 2, "two statuses: {line}");
    }
}

#[test]
fn json_lines_parse_whatever_a_client_sends() {
    let origin = Origin::echo();
    let by_environment = Launch::new(&origin.config("")).env("LOG_MODE", "json").spawn();
    let by_configuration = Launch::new(&origin.config("log: { format: json }")).spawn();
    for mut proxy in [by_environment, by_configuration] {
        let line = proxy.log.wait_for("the address", |line| line.contains("listening"));
        let words = line.split(['"', ' ', '=']);
        proxy.address = words.filter_map(|word| word.parse().ok()).next().expect("an address");
        provoke(&proxy);
        let end = proxy.log.wait_for("the last request", |line| line.contains("/the-end"));
        let end: Value = serde_json::from_str(&end).expect("JSON");
        assert_eq!(end["path"], "/the-end");
        assert_eq!(end["status"], 200);
        for line in proxy.log.all() {
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(value.is_object(), "{line}");
        }
    }
}

#[test]
fn without_verbose_there_is_no_line_for_a_request() {
    let origin = Origin::echo();
    let mut proxy = Launch::quiet(&origin.config("")).start();
    assert_eq!(proxy.connect().get("/silence").status(), 200);
    proxy.signal("TERM");
    proxy.wait();
    assert!(!proxy.log.all().iter().any(|line| line.contains("/silence")));
}

#[test]
fn full_lines_have_more_of_the_request() {
    let origin = Origin::echo();
    let request =
        "GET /x?token=1 HTTP/1.1\r\nHost: a.example\r\nUser-Agent: me \"1\"\r\nReferer: http://r/?secret=2\r\n\r\n";
    for (config, log, expected) in [
        ("short", "log: {}", ""),
        (
            "full",
            "log: {fields: full}",
            " host=a.example version=1.1 query=\"token=1\" user_agent=\"me \\\"1\\\"\" referer=\"http://r/?secret=2\"",
        ),
        (
            "without queries",
            "log: {fields: full, query: false}",
            " host=a.example version=1.1 user_agent=\"me \\\"1\\\"\" referer=http://r/",
        ),
    ] {
        let proxy = Proxy::start(&origin.config(&format!("{log}\nrequest_headers: {{remove: [User-Agent]}}")));
        let mut client = proxy.connect();
        client.send(request);
        assert_eq!(client.response().status(), 200);
        let line = proxy.access("/x");
        let (_, rest) = line.split_once(" total_ms=").expect("all times");
        assert_eq!(rest.split_once(' ').map_or("", |(_, rest)| rest), expected.trim_start(), "{config}: {line}");
        // No line is longer for what a client sends.
        client.send(format!("GET /long HTTP/1.1\r\nHost: h\r\nUser-Agent: {}\r\n\r\n", "u".repeat(9000)));
        assert_eq!(client.response().status(), 200);
        let line = proxy.access("/long");
        assert!(line.len() < 2000 && line.contains(&"u".repeat(1024)) == (config != "short"), "{line}");
    }
}

#[test]
fn fields_and_queries_change_with_a_reload_and_the_format_does_not() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("log: {fields: short}"));
    assert_eq!(proxy.connect().get("/one?q").status(), 200);
    assert!(!proxy.access("/one").contains("host="));
    reload(&proxy, &origin.config("log: {fields: full, format: combined}"), 0);
    proxy.log.wait_for("what stays", |line| line.contains("log.format text -> combined"));
    assert_eq!(proxy.connect().get("/two?q").status(), 200);
    let line = proxy.access("/two");
    assert!(line.contains(" host=") && line.contains(" query=q"), "{line}");
}

#[test]
fn combined_lines_are_those_of_apache_and_a_client_cannot_break_them() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::start(&origin.config("log: {format: combined}"));
    let mut client = proxy.connect();
    client.send("GET /x?y HTTP/1.1\r\nHost: h\r\nUser-Agent: a\"b\\ \u{e4}\r\nReferer: http://r/?z\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    let line = proxy.log.wait_for("its line", |line| line.contains("/x?y"));
    let (client_part, rest) = line.split_once(" - - [").expect("no user");
    assert_eq!(client_part, "127.0.0.1");
    let (time, rest) = rest.split_once("] ").expect("a time");
    let shape: String = time
        .chars()
        .map(|c| {
            if c.is_ascii_digit() {
                '0'
            } else if c.is_ascii_alphabetic() {
                'a'
            } else {
                c
            }
        })
        .collect();
    assert_eq!(shape, "00/aaa/0000:00:00:00 +0000", "{time}");
    assert_eq!(rest, "\"GET /x?y HTTP/1.1\" 200 2 \"http://r/?z\" \"a\\\"b\\\\ \\xc3\\xa4\"");
    client.send("HEAD /none HTTP/1.0\r\n\r\n");
    let line = proxy.log.wait_for("its line", |line| line.contains("/none"));
    assert!(line.ends_with("] \"HEAD /none HTTP/1.0\" 200 - \"-\" \"-\""), "{line}");
    provoke(&proxy);
    proxy.log.wait_for("the last one", |line| line.contains("/the-end"));
    for line in proxy.log.all() {
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "a control byte: {line:?}");
        assert!(line.starts_with("time=") || line.starts_with("127.0.0.1 - - ["), "{line}");
    }
    // What is no request is told as ever.
    assert!(proxy.log.all().iter().any(|line| line.starts_with("time=") && line.contains("msg=\"listening\"")));
}

#[test]
fn an_upstream_that_fails_is_told_without_lines_of_requests() {
    let (refusing, _port) = refusing_address();
    let silent = Origin::start(|mut peer, _| drop(peer.request()));
    let good = Origin::answering("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    let yaml = format!(
        "workers: 1\nroutes:\n- {{prefix: /refused, upstream: 'http://{refusing}'}}\n\
         - {{prefix: /silent, upstream: '{}'}}\n- {{prefix: /, upstream: '{}'}}\n",
        silent.url(),
        good.url()
    );
    let mut proxy = Launch::quiet(&yaml).start();
    let mut client = proxy.connect();
    for path in ["/refused", "/silent", "/refused", "/silent", "/an-answer-of-its-own"] {
        assert_eq!(client.get(path).status(), 502, "{path}");
    }
    drop(client);
    proxy.signal("TERM");
    proxy.wait();
    let lines = proxy.log.all();
    let told: Vec<_> = lines.iter().filter(|line| line.contains("level=warn") && line.contains("upstream")).collect();
    for (upstream, why) in [(refusing.to_string(), "connect_refused"), (silent.address.to_string(), "upstream_reset")] {
        let expected = format!("a request to upstream {upstream} failed ({why})");
        assert_eq!(told.iter().filter(|line| line.contains(&expected)).count(), 1, "once a minute: {lines:?}");
    }
    assert_eq!(told.len(), 2, "{told:?}");
}
