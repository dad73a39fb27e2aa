//! Scenarios made of a number: plausible requests and responses, most of them good, and everything that can happen to
//! them on the way. The same number always makes the same scenario.

use std::fmt::Write;
use std::time::Duration;

use mini_rproxy::proxy::proxy_connection::{ConnectError, Side};

use super::Random;
use super::script::Event;
use super::wire::{Ambush, Ending, Mishap, Pool};

/// Configurations, as they stand in a `.wire` file. All have a route for `/a`.
pub const CONFIGS: [&str; 6] = [
    "routes: [{prefix: /a, upstream: 'http://o'}]\n",
    "routes: [{prefix: /a, upstream: 'http://o/base', max_body_bytes: 15, host: client}]\n\
     limits: {max_requests_per_connection: 3, max_interim_responses: 1, max_header_fields: 6}\n\
     forwarded: {trusted_proxies: [192.0.2.0/24]}\n",
    "routes: [{prefix: /, upstream: 'http://o', upgrade: []}]\n\
     timeouts: {response_head: 5s, body_idle: 5s, write_idle: 5s, response_idle: 5s}\n",
    "routes: [{prefix: /a, upstream: 'http://u:p@o', upgrade: [websocket, x]}, {prefix: /a/b, upstream: 'http://two:81'}]\n\
     limits: {max_head_bytes: 1KiB, max_request_line: 256}\n",
    "routes: [{prefix: /a, upstreams: ['http://one:81', 'http://two:82/', 'http://three']}]\n\
     health: {failures: 1, eject: 1s, max_eject: 2s}\n",
    "routes: [{prefix: /a, upstream: 'http://o'}]\nplugin_body_limit: 6\n",
];

/// Plugins, as `HOOK` lines. Mostly there is none.
pub const PLUGINS: [&[&str]; 12] = [
    &["request respond 403 no"],
    &["want request", "request set X-Set: 1"],
    &["want response", "response body another"],
    &["want request", "want response", "request body another", "response status 404"],
    &["response fail"],
    &["request method HEAD"],
    &["request want request optional", "request-body set X-Set: 1"],
    &["request want response", "response-body body another"],
    &["request pause"],
    &["request pause", "response pause", "resume want request", "resume want response optional"],
    &["request want request", "request-body pause", "want response", "response pause", "resume set X-Set: 1"],
    &["request pause resumed", "response pause", "resume respond 403 no"],
];

/// One client connection with all that comes over it and befalls it.
#[derive(Clone, Debug)]
pub struct Scene {
    pub config: &'static str,
    pub hooks: &'static [&'static str],
    pub events: Vec<Event>,
    /// The soonest one last.
    pub ambushes: Vec<Ambush>,
    pub lane: bool,
}

impl Scene {
    pub fn of(random: &mut Random) -> Scene {
        let config = CONFIGS[random.below(CONFIGS.len())];
        let hooks = if random.below(3) == 0 { PLUGINS[random.below(PLUGINS.len())] } else { &[] };
        let mut events = Vec::new();
        let is_pausing = hooks.iter().any(|line| line.contains("pause"));
        for _ in 0..1 + random.below(8) {
            act(random, &mut events);
            while is_pausing && random.below(3) > 0 {
                let end = if random.below(8) > 0 { Event::Resume(true) } else { Event::Resume(false) };
                events.push(end);
            }
        }
        let mut ambushes: Vec<Ambush> = (0..random.below(8).saturating_sub(5)).map(|_| ambush(random)).collect();
        ambushes.sort_by_key(|ambush| std::cmp::Reverse(ambush.after));
        Scene { config, hooks, events, ambushes, lane: random.below(2) == 0 }
    }
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len())]
}

fn side(random: &mut Random) -> Side {
    pick(random, &[Side::Client, Side::Upstream])
}

fn ending(random: &mut Random) -> Ending {
    pick(random, &[Ending::Fin, Ending::Rst])
}

fn ambush(random: &mut Random) -> Ambush {
    let what = match random.below(10) {
        0..5 => Mishap::Stop(side(random), ending(random)),
        5 => Mishap::Unwritable(side(random)),
        6 => Mishap::Late(Duration::from_millis(span_ms(random))),
        7 => Mishap::Resume(random.below(4) > 0),
        8 => Mishap::Wake,
        _ => Mishap::Drain,
    };
    Ambush { after: 1 + random.below(80) as u32, what }
}

fn span_ms(random: &mut Random) -> u64 {
    pick(random, &[1, 1_900, 5_000, 10_000, 30_000, 59_000, 61_000, 4_000_000])
}

/// One thing, or several that belong together.
fn act(random: &mut Random, events: &mut Vec<Event>) {
    let (down, up) = (Side::Client, Side::Upstream);
    match random.below(40) {
        // An exchange, with luck a complete one.
        0..18 => {
            events.push(Event::Bytes(down, request(random)));
            events.push(Event::Bytes(up, response(random)));
        }
        // Several requests at once.
        18..21 => {
            let count = 2 + random.below(3);
            events.push(Event::Bytes(down, (0..count).flat_map(|_| request(random)).collect()));
            for _ in 0..count {
                events.push(Event::Bytes(up, response(random)));
            }
        }
        // A response in pieces, or cut short.
        21..24 => {
            events.push(Event::Bytes(down, request(random)));
            let mut bytes = response(random);
            let rest = bytes.split_off(random.below(bytes.len()));
            events.push(Event::Bytes(up, bytes));
            match random.below(3) {
                0 => events.push(Event::Stop(up, ending(random))),
                1 => events.push(Event::Advance(Duration::from_millis(span_ms(random)))),
                _ => {}
            }
            events.push(Event::Bytes(up, rest));
        }
        // A request in pieces; the answer may come early.
        24..27 => {
            let mut bytes = request(random);
            let rest = bytes.split_off(random.below(bytes.len()));
            events.push(Event::Bytes(down, bytes));
            if random.below(2) == 0 {
                events.push(Event::Bytes(up, response(random)));
            }
            events.push(Event::Bytes(down, rest));
            events.push(Event::Bytes(up, response(random)));
        }
        // A pooled connection that is dead.
        27..29 => {
            events.push(Event::Connect(Pool::Reused));
            events.push(Event::Bytes(down, request(random)));
            events.push(Event::Stop(up, ending(random)));
            events.push(Event::Bytes(up, response(random)));
        }
        // A tunnel.
        29..31 => {
            let early = text(random, 20);
            let ask = "GET /a/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            let answer = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            events.push(Event::Bytes(down, [ask.as_bytes(), early.as_bytes()].concat()));
            events.push(Event::Bytes(up, [answer, &text(random, 20)].concat().into_bytes()));
            events.push(Event::Bytes(side(random), text(random, 300).into_bytes()));
            events.push(Event::Stop(side(random), Ending::Fin));
        }
        31 => events.push(Event::Bytes(side(random), text(random, 40).into_bytes())),
        32 => events.push(Event::Stop(side(random), ending(random))),
        33 => events.push(Event::Unwritable(side(random))),
        34 | 35 => {
            let takes = pick(random, &[None, None, Some(0), Some(1), Some(7), Some(40)]);
            events.push(Event::Takes(side(random), takes));
        }
        36 | 37 => {
            let pools = [
                Pool::Reused,
                Pool::New,
                Pool::Pending,
                Pool::Fails(ConnectError::Refused),
                Pool::Fails(ConnectError::TimedOut),
                Pool::Fails(ConnectError::DnsFail),
            ];
            events.push(Event::Connect(pick(random, &pools)));
        }
        38 => events.push(Event::Advance(Duration::from_millis(span_ms(random)))),
        _ => events.push(Event::Drain),
    }
}

fn text(random: &mut Random, most: usize) -> String {
    (0..random.below(most)).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
}

/// Mostly one of the usual.
fn mostly(random: &mut Random, usual: &[&'static str], unusual: &[&'static str]) -> &'static str {
    if random.below(16) == 0 { pick(random, unusual) } else { pick(random, usual) }
}

fn request(random: &mut Random) -> Vec<u8> {
    let method =
        mostly(random, &["GET", "GET", "HEAD", "POST", "PUT", "DELETE"], &["OPTIONS", "CONNECT", "TRACE", "PURGE"]);
    let usual = ["/a/x", "/a", "/a/b/y?q=%20", "http://h/a/z"];
    let target = mostly(random, &usual, &["/nowhere", "/health", "/configz", "*", "/a/../b", "/a/%2e%2e/"]);
    let version = mostly(random, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/2.0", "HTTP/1.01"]);
    let mut out = format!("{method} {target} {version}\r\nHost: h\r\n");
    for _ in 0..random.below(8).saturating_sub(5) {
        let lines = [
            "Connection: close\r\n",
            "Connection: keep-alive\r\n",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "Connection: X-Hop, te\r\nX-Hop: 1\r\nTE: trailers\r\n",
            "Expect: 100-continue\r\n",
            "X-Forwarded-For: 10.0.0.1\r\n",
            "Max-Forwards: 0\r\n",
            "Keep-Alive: 5\r\n",
        ];
        out += pick(random, &lines);
    }
    // Without framing there is no body in a request: what follows would be the next one.
    let kind = random.below(6).min(4);
    let kind = if version == "HTTP/1.0" && kind == 1 { 4 } else { kind };
    write_body(random, kind, &mut out);
    mutate(random, out.into_bytes())
}

fn response(random: &mut Random) -> Vec<u8> {
    let statuses =
        ["200 OK", "200 OK", "200 OK", "204 No Content", "304 Not Modified", "404 No", "413 Large", "500 Oops"];
    let status = mostly(random, &statuses, &["101 Switching", "100 Continue", "103 Early Hints", "999 X", "099 X"]);
    let mut out = String::new();
    // Interim responses in front of it.
    for _ in 0..random.below(12).saturating_sub(9) {
        out += pick(random, &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]);
    }
    let version = mostly(random, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/2", "HTTP/1.10"]);
    out += &format!("{version} {status}\r\n");
    for _ in 0..random.below(8).saturating_sub(6) {
        let lines = [
            "Connection: close\r\n",
            "Connection: keep-alive\r\n",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "Connection: X-Hop\r\nX-Hop: 1\r\n",
            "Content-Type: text/event-stream\r\n",
            "Proxy-Authenticate: Basic\r\n",
        ];
        out += pick(random, &lines);
    }
    let has_no_body = ["1", "204", "304"].iter().any(|start| status.starts_with(start));
    let kind = if has_no_body { 4 } else { random.below(5) };
    write_body(random, kind, &mut out);
    mutate(random, out.into_bytes())
}

/// Field lines of framing, the empty line, the body: of a length, in chunks, until the end of the connection, none.
fn write_body(random: &mut Random, kind: usize, out: &mut String) {
    match kind {
        0 => {
            let most = pick(random, &[1, 12, 12, 600]);
            let body = text(random, most);
            let _ = write!(out, "Content-Length: {}\r\n\r\n{body}", body.len());
        }
        1 => {
            *out += "Transfer-Encoding: chunked\r\n\r\n";
            for _ in 0..random.below(4) {
                let data = text(random, 20) + "x";
                let extension = pick(random, &["", "", "", ";a", ";a=b;c=\"d\""]);
                let _ = write!(out, "{:x}{extension}\r\n{data}\r\n", data.len());
            }
            let trailers = ["", "", "X-T: 1\r\n", "X-T: 1\r\nContent-Length: 7\r\nHost: x\r\n"];
            *out += &format!("0\r\n{}\r\n", pick(random, &trailers));
        }
        2 => *out += "Content-Length: 0\r\n\r\n",
        3 => *out += &format!("\r\n{}", text(random, 40)),
        _ => *out += "\r\n",
    }
}

/// What goes wrong on the way, now and then.
fn mutate(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    let at = random.below(bytes.len());
    match random.below(60) {
        0 => bytes[at] = random.below(256) as u8,
        1 => {
            bytes.remove(at);
        }
        2 => bytes.truncate(at),
        3 => {
            let snippets =
                ["\r\n", "\n", "\0", " ", "\r\n\r\n", "0\r\n\r\n", "Content-Length: 3\r\n", "ffffffffffffffffff"];
            bytes.splice(at..at, pick(random, &snippets).bytes());
        }
        _ => {}
    }
    bytes
}
