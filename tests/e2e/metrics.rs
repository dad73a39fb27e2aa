//! /metrics: who may ask, what is counted, and whether a parser that no one here wrote can read it.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Origin, Proxy, curl_ok, is_missing, refusing_address, value};

/// The samples of an exposition by name and labels, read by a strict reading of the format: each family has one HELP and
/// one TYPE line before its samples, and no sample stands there twice.
fn samples(text: &str) -> HashMap<String, f64> {
    let mut family: Option<(&str, &str)> = None;
    let (mut families, mut samples) = (Vec::new(), HashMap::new());
    let mut help = None;
    assert!(text.ends_with('\n'), "the last line ends too");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, sentence) = rest.split_once(' ').expect("a sentence");
            assert!(help.is_none() && !sentence.contains('\\'), "{line}");
            help = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert_eq!(help.take(), Some(name), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(!families.contains(&name), "{name} twice");
            families.push(name);
            family = Some((name, kind));
        } else {
            let (series, number) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let (in_family, kind) = family.expect("a family before its samples");
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{in_family}{suffix}")), "{line} in {in_family}");
            assert!(labels.ends_with('}'), "{line}");
            let number: f64 = number.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
            assert!(number >= 0.0, "{line}");
            assert!(samples.insert(series.to_owned(), number).is_none(), "{series} twice");
        }
    }
    assert_eq!(help, None);
    samples
}

/// Asks, and checks that every histogram is one.
fn ask(proxy: &Proxy) -> HashMap<String, f64> {
    let response = proxy.connect().get("/metrics");
    assert_eq!(
        (response.status(), response.field("Content-Type")),
        (200, Some("text/plain; version=0.0.4; charset=utf-8"))
    );
    let samples = samples(response.text());
    let name = "mini_rproxy_request_duration_seconds";
    for (series, count) in &samples {
        let Some(labels) = series.strip_prefix(&format!("{name}_count{{")).and_then(|rest| rest.strip_suffix('}'))
        else {
            continue;
        };
        let bounds = ["0.0005", "0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1", "5", "10", "+Inf"];
        let buckets = bounds.map(|bound| samples[&format!("{name}_bucket{{{labels},le=\"{bound}\"}}")]);
        assert!(buckets.is_sorted(), "{labels}: {buckets:?}");
        assert_eq!(buckets.last(), Some(count), "{labels}");
        assert!(samples.contains_key(&format!("{name}_sum{{{labels}}}")));
    }
    samples
}

#[test]
fn everything_is_counted_once() {
    let origin = Origin::echo();
    let (refusing, _socket) = refusing_address();
    let proxy = Proxy::start(&format!(
        "workers: 2\nroutes:\n  - {{prefix: /a, upstream: \"{}\"}}\n  - {{prefix: '/down\"', upstream: \"http://{refusing}\"}}\n  \
         - {{prefix: /never, upstream: \"http://{refusing}\"}}\n",
        origin.url()
    ));
    let mut client = proxy.connect();
    for _ in 0..7 {
        assert_eq!(client.get("/a/x").status(), 200);
    }
    client.send("POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.get("/down\"").status(), 502);
    assert_eq!(client.get("/nowhere").status(), 404);
    client.send("PUT /a HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    // A request is counted when its line is written, which may be a moment after its answer has arrived.
    let logged = proxy.log.wait_for_many("access log lines", 10, |line| value(line, "total_ms").is_some());
    let sent: f64 =
        logged.iter().map(|line| value(line, "bytes_out").and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)).sum();

    let seen = ask(&proxy);
    let expect = |series: &str, expected: f64| {
        assert_eq!(seen.get(series), Some(&expected), "{series} in {seen:#?}");
    };
    expect("mini_rproxy_requests_total{route=\"/a\",code=\"2xx\"}", 8.0);
    expect("mini_rproxy_requests_total{route=\"/a\",code=\"5xx\"}", 0.0);
    expect("mini_rproxy_requests_total{route=\"/down\\\"\",code=\"5xx\"}", 1.0);
    expect("mini_rproxy_requests_total{route=\"none\",code=\"4xx\"}", 1.0);
    expect("mini_rproxy_request_duration_seconds_count{route=\"/a\"}", 8.0);
    expect("mini_rproxy_causes_total{why=\"connect_refused\"}", 1.0);
    expect("mini_rproxy_causes_total{why=\"no_route\"}", 1.0);
    expect("mini_rproxy_upstream_connections_total{source=\"new\"}", 2.0);
    expect("mini_rproxy_upstream_connections_total{source=\"pool\"}", 8.0);
    expect("mini_rproxy_client_connections_total", 2.0);
    expect("mini_rproxy_client_connections_open", 2.0);
    expect("mini_rproxy_client_connections_refused_total", 0.0);
    // The one that waits for its body. The one that asks is answered at once, and counted then.
    expect("mini_rproxy_requests_in_flight", 1.0);
    expect("mini_rproxy_retries_total", 0.0);
    expect("mini_rproxy_body_bytes_total{direction=\"in\"}", 5.0);
    expect("mini_rproxy_body_bytes_total{direction=\"out\"}", sent);
    assert!(seen.keys().any(|series| series.starts_with("mini_rproxy_build_info{version=\"")));
    assert!(seen["process_start_time_seconds"] > 1.7e9);
    assert!(!seen.keys().any(|series| series.contains("/never")), "routes that nobody used are not told of");

    client.send("x");
    assert_eq!(client.response().status(), 200);
    client.send("bad\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    proxy.log.wait_for("its line", |line| value(line, "status") == Some("400"));
    // Through another worker, or the same: all are added up.
    for _ in 0..8 {
        let seen = ask(&proxy);
        assert_eq!(seen["mini_rproxy_requests_total{route=\"/a\",code=\"2xx\"}"], 9.0);
        assert_eq!(seen["mini_rproxy_causes_total{why=\"S12\"}"], 1.0);
    }
}

#[test]
fn a_parser_that_no_one_here_wrote_reads_it() {
    let script = "\
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.type in ('counter', 'gauge', 'histogram'), family
    assert family.documentation, family
    for sample in family.samples:
        print(sample.name, sorted(sample.labels.items()), float(sample.value))
";
    if is_missing("python3") {
        return;
    }
    if !Command::new("python3").args(["-c", "import prometheus_client"]).output().is_ok_and(|o| o.status.success()) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no prometheus_client, and CI must not skip its tests");
        eprintln!("skipped: the Python package prometheus_client is not installed");
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&format!("routes:\n  - {{prefix: '/\"x', upstream: \"{}\"}}\n", origin.url()));
    assert_eq!(proxy.connect().get("/\"x").status(), 200);
    proxy.log.wait_for("its line", |line| value(line, "status") == Some("200"));
    let text = proxy.connect().get("/metrics").text().to_owned();
    let mut python = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    python.stdin.take().expect("stdin is piped").write_all(text.as_bytes()).expect("it reads");
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the parser refuses\n{text}");
    let read = String::from_utf8(output.stdout).expect("text");
    assert_eq!(read.lines().count(), samples(&text).len(), "{read}");
    let label = r#"mini_rproxy_requests_total [('code', '2xx'), ('route', '/"x')] 1.0"#;
    assert!(read.lines().any(|line| line == label), "{label} is not in\n{read}");
}

#[test]
fn with_an_entrance_of_its_own_it_is_nowhere_else() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("admin.sock");
    let socket = socket.to_str().expect("a path of ours");
    let proxy =
        Proxy::start(&origin.config(&format!("admin: {{ listen_addr: [\"127.0.0.1:0\", \"unix:{socket}\"] }}")));
    let line = proxy
        .log
        .wait_for("the entrance", |line| value(line, "protocol") == Some("admin") && line.contains("127.0.0.1"));
    let admin = format!("http://{}", value(&line, "address").expect("an address"));
    let status = |args: &[&str]| curl_ok(&[&["-o", "/dev/null", "-w", "%{http_code}"], args].concat());
    for path in ["/metrics", "/health", "/configz"] {
        assert_eq!(status(&[&format!("{admin}{path}")]), "200", "{path}");
        assert_eq!(status(&["--unix-socket", socket, &format!("http://x{path}")]), "200", "{path}");
    }
    assert_eq!(status(&[&format!("{admin}/")]), "404", "no route is served there");
    assert_eq!(status(&["-X", "POST", &format!("{admin}/metrics")]), "405");
    assert!(curl_ok(&["-I", &format!("{admin}/metrics")]).contains("text/plain; version=0.0.4"));
    let seen = curl_ok(&[&proxy.url("/metrics")]);
    assert!(seen.starts_with("GET /metrics HTTP/1.1\n"), "the upstream's own: {seen}");
    assert_eq!(status(&[&proxy.url("/health")]), "200");
}

#[test]
fn it_can_be_turned_off() {
    let origin = Origin::echo();
    for (more, is_there) in [("admin: {metrics: false}", false), ("", true)] {
        let response = Proxy::start(&origin.config(more)).connect().get("/metrics");
        let text = response.text();
        assert_eq!(text.contains("mini_rproxy_"), is_there, "{text}");
    }
}

#[test]
fn clients_from_elsewhere_see_nothing_of_it() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("forwarded: { trusted_proxies: [127.0.0.1] }"));
    let mut client = proxy.connect();
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
    assert!(client.response().text().starts_with("GET /metrics HTTP/1.1\n"), "the upstream's own");
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n");
    assert!(client.response().text().starts_with("GET /metrics HTTP/1.1\n"), "a proxy asks, whoever it asks for");
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.response().text().starts_with("# HELP "));
}

#[test]
fn a_hundred_thousand_routes_stay_bounded() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut yaml = String::from("workers: 1\nroutes:\n");
    for number in 0..100_000 {
        // In two lines each, which is read quickly: a busy machine is to start it in time.
        yaml += &format!("  - prefix: /r{number}\n    upstream: {}\n", origin.url());
    }
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.connect();
    for number in [0, 999, 1000, 50_000, 99_999] {
        assert_eq!(client.get(&format!("/r{number}")).status(), 200);
    }
    proxy.access("/r99999");
    let seen = ask(&proxy);
    let count =
        |route: &str| seen.get(&format!("mini_rproxy_requests_total{{route=\"{route}\",code=\"2xx\"}}")).copied();
    assert_eq!(["/r0", "/r999", "other", "/r1000"].map(count), [Some(1.0), Some(1.0), Some(3.0), None]);
    assert!(seen.len() < 100, "{}", seen.len());
}
