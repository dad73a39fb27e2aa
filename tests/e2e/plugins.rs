//! Plugins as a user loads them: shared objects beside the binary, flags and configuration.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use tempfile::TempDir;

use crate::support::programs::{c_plugin, shared_object};
use crate::support::{Launch, Origin, Peer, Proxy, Stream};

/// One list entry of `plugins`.
fn listed(path: &Path, config: &str) -> String {
    format!("plugins:\n  - path: {}\n    name: listed\n    config: {config}\n", path.display())
}

#[test]
fn a_folder_of_plugins_is_loaded_and_what_is_none_is_skipped() {
    let Some(plugin) = shared_object("header_demo") else { return };
    let folder = TempDir::new().expect("a temporary folder");
    fs::copy(plugin, folder.path().join("b.so")).expect("a copy");
    fs::write(folder.path().join("a.so"), "not a plugin").expect("a file");
    fs::write(folder.path().join("README"), "not looked at").expect("a file");
    let origin = Origin::echo();
    let flag = folder.path().to_str().expect("a temporary path is text");
    let proxy = Launch::new(&origin.config("")).arg("-plugindir").arg(flag).start();
    let response = proxy.connect().get("/");
    assert_eq!(response.field("X-Demo-Response"), Some("true"));
    assert!(response.text().contains("X-Demo-Request: true\n"), "{}", response.text());
    proxy.log.wait_for("the refused file", |line| line.contains("a.so"));
    proxy.log.wait_for("the count", |line| line.contains("1 of 2"));
}

#[test]
fn a_missing_folder_or_a_listed_plugin_that_does_not_load_stops_the_start() {
    let origin = Origin::echo();
    let missing = Path::new("/no/such/plugin.so");
    let cases = [
        Launch::new(&format!("{}{}", origin.config(""), listed(missing, "x"))),
        Launch::new(&origin.config("")).arg("-plugindir=/no/such/folder"),
    ];
    for launch in cases {
        let mut proxy = launch.spawn();
        assert_eq!(proxy.wait().code(), Some(1));
        assert!(proxy.log.all().iter().any(|line| line.contains("/no/such")), "{:?}", proxy.log.all());
    }
}

#[test]
fn metrics_tell_what_plugins_cost() {
    let Some(plugin) = shared_object("header_demo") else { return };
    let origin = Origin::echo();
    let proxy = Proxy::start(&format!("{}{}", origin.config(""), listed(&plugin, "x")));
    assert_eq!(proxy.connect().get("/x").status(), 200);
    proxy.access("/x");
    let metrics = proxy.connect().get("/metrics").text().to_owned();
    assert!(metrics.contains("mini_rproxy_plugin_faults_total{plugin=\"listed\"} 0\n"), "{metrics}");
    assert!(metrics.contains("mini_rproxy_plugin_seconds_total{plugin=\"listed\"} 0.0"), "{metrics}");
}

/// What a download has: more than is buffered for plugins.
const DOWNLOAD: u64 = 3 * 1024 * 1024;

/// Answers `/json`, `/download`, and `/events`, which sends an event each time that it is told to.
fn application(events: Receiver<()>) -> Origin {
    let events = Mutex::new(events);
    Origin::start(move |mut peer, _| {
        while let Some(request) = peer.request() {
            match request.target() {
                "/json" => {
                    peer.send(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
                    );
                }
                "/download" => {
                    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {DOWNLOAD}\r\n\r\n"));
                    Stream::new(1, DOWNLOAD).write_to(peer.stream()).expect("the client takes all");
                }
                _ => {
                    peer.send(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
                    );
                    while events.lock().unwrap().recv().is_ok() {
                        peer.send("9\r\ndata: x\n\n\r\n");
                    }
                    peer.send("0\r\n\r\n");
                }
            }
        }
    })
}

#[test]
fn routes_have_their_own_plugins_and_the_others_stream() {
    let (Some(rewrite), Some(demo)) = (shared_object("json_rewrite"), shared_object("header_demo")) else { return };
    let (next, events) = channel();
    let origin = application(events);
    let (rewrite, demo, url) = (rewrite.display(), demo.display(), origin.url());
    let proxy = Proxy::start(&format!(
        "plugins:\n\
         - {{path: {rewrite}, name: rewrite, config: {{set: {{/b: 2}}}}}}\n\
         - {{path: {demo}, name: first, config: one}}\n\
         - {{path: {demo}, name: second, config: two}}\n\
         routes:\n\
         - {{prefix: /app, upstream: '{url}', plugins: [rewrite, second]}}\n\
         - {{prefix: /files, upstream: '{url}', plugins: []}}\n\
         - {{prefix: /all, upstream: '{url}'}}\n"
    ));
    for _ in 0..2 {
        let app = proxy.connect().get("/app/json");
        assert_eq!((app.text(), app.all("X-Demo-Response")), (r#"{"a":1,"b":2}"#, vec!["two"]));
        let all = proxy.connect().get("/all/json");
        assert_eq!((all.text(), all.all("X-Demo-Response")), (r#"{"a":1,"b":2}"#, vec!["one"]), "in reverse order");
        let none = proxy.connect().get("/files/json");
        assert_eq!((none.text(), none.field("X-Demo-Response")), (r#"{"a":1}"#, None));
    }
    // Above plugin_body_limit, and it arrives all the same, byte by byte.
    let mut client = proxy.connect();
    client.send("GET /files/download HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.head().expect("a head").field("Content-Length"), Some(&*DOWNLOAD.to_string()));
    let (stream, read) = client.into_parts();
    Stream::new(1, DOWNLOAD).compare(io::Read::chain(read.as_slice(), stream)).expect("what the origin sent");
    // The next event is sent when this one has arrived.
    let mut client = proxy.connect();
    client.send("GET /files/events HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().expect("a head").status(), 200);
    for _ in 0..3 {
        next.send(()).expect("the origin runs");
        assert_eq!(client.bytes(14), b"9\r\ndata: x\n\n\r\n");
    }
    drop(next);
    assert_eq!(client.bytes(5), b"0\r\n\r\n");
    let metrics = proxy.connect().get("/metrics").text().to_owned();
    for name in ["rewrite", "first", "second"] {
        assert!(metrics.contains(&format!("mini_rproxy_plugin_faults_total{{plugin=\"{name}\"}} 0\n")), "{metrics}");
    }
}

#[test]
fn a_file_of_the_folder_that_is_listed_is_left_out_and_told() {
    let Some(plugin) = shared_object("header_demo") else { return };
    let folder = TempDir::new().expect("a temporary folder");
    let listed = folder.path().join("demo.so");
    fs::copy(plugin, &listed).expect("a copy");
    let origin = Origin::echo();
    let flag = folder.path().to_str().expect("a temporary path is text");
    let yaml = origin.config(&format!("plugins: [{{path: {}, name: mine, config: x}}]", listed.display()));
    let proxy = Launch::new(&yaml).arg("-plugindir").arg(flag).start();
    assert_eq!(proxy.connect().get("/").all("X-Demo-Response"), ["x"]);
    proxy.log.wait_for("the warning", |line| line.contains("demo.so of -plugindir is left out"));
}

/// A proxy in front of which `basic_auth` stands; the password of `ann` is `secret`.
fn guarded(origin: &Origin) -> Option<(Proxy, TempDir)> {
    let plugin = shared_object("basic_auth")?;
    let folder = TempDir::new().expect("a temporary folder");
    let users = folder.path().join("htpasswd");
    fs::write(
        &users,
        "ann:$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1\n",
    )
    .expect("a file");
    let config = format!("{{htpasswd: {}, realm: staff}}", users.display());
    Some((Proxy::start(&format!("{}{}", origin.config(""), listed(&plugin, &config))), folder))
}

fn ask(client: &mut Peer, fields: &str) -> u16 {
    client.send(format!("POST /x HTTP/1.1\r\nHost: test\r\n{fields}Content-Length: 5\r\n\r\nhello"));
    client.response().status()
}

#[test]
fn g21_a_plugin_that_answers_keeps_the_request_from_the_origin() {
    let origin = Origin::echo();
    let Some((proxy, _folder)) = guarded(&origin) else { return };
    assert_eq!(ask(&mut proxy.connect(), ""), 401);
    // "ann:wrong"
    assert_eq!(ask(&mut proxy.connect(), "Authorization: Basic YW5uOndyb25n\r\n"), 401);
    assert_eq!(origin.connections(), 0);
    // "ann:secret"
    assert_eq!(ask(&mut proxy.connect(), "Authorization: Basic YW5uOnNlY3JldA==\r\n"), 200);
    assert_eq!(origin.connections(), 1);
    let lines = proxy.log.wait_for_many("access log lines", 3, |line| line.contains("path=/x"));
    assert!(lines[0].contains("status=401") && lines[0].contains("why=plugin_answered"), "{}", lines[0]);
}

#[test]
fn a_plugin_that_does_not_start_says_why_in_the_log_and_on_stderr() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some(plugin) = c_plugin("held", folder.path()) else { return };
    let yaml = format!("{}plugins: [{{path: {}}}]\n", Origin::echo().config(""), plugin.display());
    // The log has a thread of its own, which was overtaken by the end of the process now and then.
    for _ in 0..10 {
        let mut proxy = Launch::new(&yaml).spawn();
        assert_eq!(proxy.wait().code(), Some(1));
        let (logged, told): (Vec<_>, Vec<_>) = proxy.log.all().into_iter().partition(|line| line.starts_with("time="));
        assert!(logged.iter().any(|line| line.contains("nothing to hold:")), "{logged:?}");
        let expected = format!("plugin {}: create failed with status", plugin.display());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&expected) && told[0].ends_with(": nothing to hold: write config"), "{told:?}");
    }
}

/// A proxy with a worker that is inside a plugin's code, for ever.
fn held(folder: &TempDir, more: &str) -> Option<(Proxy, Peer)> {
    let plugin = c_plugin("held", folder.path())?;
    let proxy = Proxy::start(&format!("{}{}", Origin::echo().config(more), listed(&plugin, "x")));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    proxy.log.wait_for("the hook", |line| line.contains("holding"));
    Some((proxy, client))
}

#[test]
fn e5_a_second_signal_ends_it_while_a_worker_is_inside_a_plugin() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((mut proxy, _client)) = held(&folder, "timeouts: {drain: 1h}") else { return };
    proxy.signal("TERM");
    proxy.log.wait_for("the first signal", |line| line.contains("stopping: finishing"));
    proxy.signal("INT");
    assert_eq!(proxy.wait().code(), Some(128 + 2));
    proxy.log.wait_for("the second signal", |line| line.contains("stopping now: a second signal"));
}

#[test]
fn e5_the_drain_has_an_end_while_a_worker_is_inside_a_plugin() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((mut proxy, _client)) = held(&folder, "timeouts: {drain: 100ms}") else { return };
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(1));
    proxy.log.wait_for("the reason", |line| line.contains("a worker is held up"));
}

#[test]
fn e5_the_end_does_not_wait_for_ever_for_a_plugin_that_is_destroyed() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some(plugin) = c_plugin("held", folder.path()) else { return };
    let mut proxy = Proxy::start(&format!("{}{}", Origin::echo().config(""), listed(&plugin, "destroy")));
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    proxy.log.wait_for("the reason", |line| line.contains("not waiting any longer for a plugin"));
}

#[test]
fn e5_a_second_signal_ends_it_while_a_reload_waits_for_a_worker() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((mut proxy, _client)) = held(&folder, "timeouts: {drain: 1h}") else { return };
    let begin = std::time::Instant::now();
    proxy.signal("HUP");
    // Two that cannot become one while they are on their way; which of them is the second is not known.
    proxy.signal("TERM");
    proxy.signal("INT");
    assert!(matches!(proxy.wait().code(), Some(130 | 143)));
    assert!(begin.elapsed() < std::time::Duration::from_secs(4), "the reload waits for 5 s");
}
