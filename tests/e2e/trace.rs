//! `-trace`: the life of each request, for people.

use crate::support::{Launch, Origin, Proxy, refusing_address, value};

/// The line of the access log for `path`, with what stands below it.
fn told(proxy: &Proxy, path: &str) -> Vec<String> {
    proxy.access(path);
    proxy.log.wait_for("the end of the timeline", |line| line.contains("  over"));
    let lines = proxy.log.all();
    let begin = lines.iter().position(|line| value(line, "path") == Some(path)).expect("it was waited for");
    let below = lines[begin + 1..].iter().take_while(|line| line.starts_with("    "));
    below.map(|line| line.trim_start().to_owned()).collect()
}

/// Without the times, which are those of the machine.
fn events(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split_once(" ms  ").map_or(line.as_str(), |(_, event)| event)).collect()
}

#[test]
fn the_life_of_a_request_stands_below_its_line() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let proxy = Launch::new(&origin.config("")).arg("-trace").start();
    assert_eq!(proxy.connect().get("/a/x").text(), "hello");
    let lines = told(&proxy, "/a/x");
    let events = events(&lines);
    let [asked, connected, sent, answered, taken, over] = events[..] else { panic!("{lines:#?}") };
    for (event, begin, end) in [
        (asked, "the client sent ", " bytes; waiting for a connection to the upstream"),
        (connected, "a new connection", "; waiting for the upstream to take the request"),
        (sent, "the upstream took ", " bytes; waiting for the upstream's response head"),
        (answered, "the upstream sent 43 bytes", "; waiting for the client to take the response"),
        (taken, "the client took ", " bytes"),
        (over, "over", ""),
    ] {
        assert!(event.starts_with(begin) && event.ends_with(end), "{event:?} is not {begin:?}...{end:?}: {lines:#?}");
    }
}

#[test]
fn a_502_says_what_failed_and_where_to_look() {
    let (address, _taken) = refusing_address();
    let routes = format!("routes: [{{prefix: /a, upstream: 'http://{address}'}}]\n");
    let proxy = Launch::new(&routes).arg("-trace").start();
    assert_eq!(proxy.connect().get("/a").status(), 502);
    proxy.log.wait_for("the advice", |line| line.ends_with("is it running, and on this port?"));
    let lines = told(&proxy, "/a");
    assert!(
        events(&lines).contains(&"no connection: refused; waiting for the client to take the response"),
        "{lines:#?}"
    );
}

#[test]
fn a_running_proxy_begins_and_stops_at_a_signal() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let proxy = Launch::quiet(&origin.config("")).start();
    let mut client = proxy.connect();
    assert_eq!(client.get("/a/before").status(), 200);
    proxy.signal("USR1");
    proxy.log.wait_for("the beginning", |line| line.contains("timelines of requests from now on"));
    assert_eq!(client.get("/a/traced").status(), 200);
    assert!(told(&proxy, "/a/traced").iter().any(|line| line.contains("a connection from the pool")));
    proxy.signal("USR1");
    proxy.log.wait_for("the end", |line| line.contains("no more timelines"));
    assert_eq!(client.get("/a/after").status(), 200);
    proxy.signal("USR1");
    proxy.log.wait_for_many("another beginning", 2, |line| line.contains("timelines of requests from now on"));
    assert_eq!(client.get("/a/again").status(), 200);
    proxy.access("/a/again");
    let paths: Vec<_> = proxy.log.all().iter().filter_map(|line| value(line, "path").map(str::to_owned)).collect();
    assert_eq!(paths, ["/a/traced", "/a/again"]);
}

#[test]
fn in_json_the_life_is_one_string() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let proxy = Launch::new(&origin.config("log: {format: json}\n")).arg("-trace").start();
    assert_eq!(proxy.connect().get("/a/x").status(), 200);
    let line = proxy.log.wait_for("the request", |line| line.contains("\"path\":\"/a/x\""));
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let timeline = line["timeline"].as_str().expect("a string");
    assert!(timeline.lines().count() == 6 && timeline.contains("  over"), "{timeline}");
}
