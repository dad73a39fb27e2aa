//! Row 21 of the interface's test table: each example plugin as a shared object and linked into the proxy. Clients and
//! origins see the same bytes, and these are the ones in `tests/plugin_golden/` (`UPDATE_GOLDEN=1` writes them anew).
#![cfg(all(feature = "dlopen", feature = "builtin-plugins"))]

use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

use support::programs::shared_object;
use support::{Origin, Proxy};

/// What the origin answers: something for each plugin to work on.
const ANSWER: &str = concat!(
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"1\"\r\nContent-Length: 61\r\n\r\n",
    r#"{"user": {"name": "ann", "password": "x"}, "list": [1, 2.50]}"#
);

/// Signed with HS256 and the secret below; sub is ann, roles are a and b, and it expires in the year 2100.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJyb2xlcyI6WyJhIiwiYiJdLCJleHAiOjQxMDI0NDQ4MDB9.77wqMYCPmdiYItgdllmycn5z1Xdh51otHV8popwKaNI";

/// A plugin, its configuration, and requests; each goes over a connection of its own.
struct Scenario {
    name: &'static str,
    config: String,
    requests: Vec<String>,
}

fn request(start: &str, fields: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{start} HTTP/1.1\r\nHost: test\r\n{fields}{length}Connection: close\r\n\r\n{body}")
}

fn scenarios(folder: &Path) -> Vec<Scenario> {
    let users = folder.join("htpasswd");
    // The password of ann is "secret".
    let hash = "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1";
    std::fs::write(&users, format!("ann:{hash}\n")).expect("a file");
    let get = |fields: &str| request("GET /a?b=c", fields, "");
    let scenario = |name, config: &str, requests: &[String]| Scenario {
        name,
        config: config.to_owned(),
        requests: requests.to_vec(),
    };
    // Two at once: how long they are apart shows in Retry-After.
    let both = format!("{}{}", get("").replace("Connection: close\r\n", ""), get(""));
    vec![
        scenario("header_demo", "yes", &[get("X-Demo-Request: forged\r\n"), request("POST /", "", "some text")]),
        scenario(
            "basic_auth",
            &format!("{{htpasswd: {}, realm: staff, checks_per_second: 100}}", users.display()),
            &[
                get(""),
                get("Authorization: Basic YW5uOndyb25n\r\n"),
                get("Authorization: Basic YW5uOnNlY3JldA==\r\nX-Remote-User: root\r\n"),
            ],
        ),
        scenario(
            "request_id",
            "{field: X-Trace}",
            &[get("X-Trace: abc-1\r\n"), request("HEAD /", "x-trace: of-the-client\r\n", "")],
        ),
        scenario("rate_limit", "{per_second: 0.0001, burst: 1}", &[both]),
        scenario(
            "json_rewrite",
            "{set: {/served_by: mini-rproxy, /list/0: two}, remove: [/user/password]}",
            &[get("Accept-Encoding: gzip\r\n"), request("HEAD /", "", "")],
        ),
        scenario(
            "jwt_claims",
            "{algorithm: HS256, secret: 0123456789abcdef0123456789abcdef, claims: {sub: X-User, roles: X-Roles}}",
            &[
                get(""),
                get(&format!("Authorization: Bearer {TOKEN}x\r\n")),
                get(&format!("Authorization: Bearer {TOKEN}\r\nx_user: root\r\n")),
            ],
        ),
    ]
}

/// Everything that both ends saw, in order.
fn transcript(scenario: &Scenario, source: &str) -> String {
    let seen = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&seen);
    let origin = Origin::start(move |mut peer, _| {
        while let Some(request) = peer.request() {
            let mut text = format!("U< {}\n", request.start);
            for (name, value) in &request.fields {
                writeln!(text, "U< {name}: {value}").expect("text grows");
            }
            writeln!(text, "U< \nU< {}\n", request.body.escape_ascii()).expect("text grows");
            log.lock().expect("nobody panics with it").push_str(&text);
            // To a HEAD without its body.
            let end = if request.method() == "HEAD" { ANSWER.find('{').expect("it has a body") } else { ANSWER.len() };
            if peer.try_send(&ANSWER[..end]).is_err() {
                return;
            }
        }
    });
    let plugin = format!("plugins:\n  - {source}\n    config: {}\n", scenario.config);
    let proxy = Proxy::start(&origin.config(&plugin));
    let mut transcript = String::new();
    for request in &scenario.requests {
        let mut peer = proxy.connect();
        peer.send(request);
        let response = peer.rest();
        for line in request.lines() {
            writeln!(transcript, "C> {line}").expect("text grows");
        }
        let lines = seen.lock().expect("nobody panics with it").split_off(0);
        write!(transcript, "\n{lines}").expect("text grows");
        for line in response.split_inclusive(|&byte| byte == b'\n') {
            let is_date = line.starts_with(b"Date: ");
            let line = line.strip_suffix(b"\r\n").unwrap_or(line).escape_ascii().to_string();
            writeln!(transcript, "C< {}", if is_date { "Date: today" } else { &line }).expect("text grows");
        }
        transcript.push('\n');
    }
    transcript.replace(&origin.address.to_string(), "ORIGIN")
}

#[test]
fn r21_both_forms_of_each_plugin_give_the_golden_transcript() {
    let folder = TempDir::new().expect("a temporary folder");
    for scenario in scenarios(folder.path()) {
        let name = scenario.name;
        let linked = transcript(&scenario, &format!("builtin: {name}"));
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin_golden").join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &linked).expect("a file");
        }
        let expected = std::fs::read_to_string(&golden).expect("there is a transcript (UPDATE_GOLDEN=1 writes it)");
        assert_eq!(linked, expected, "{name}, linked in");
        let Some(path) = shared_object(name) else { continue };
        assert_eq!(transcript(&scenario, &format!("path: {}", path.display())), expected, "{name}, as a shared object");
    }
}
