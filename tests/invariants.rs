//! Random but plausible scenarios: whatever clients, upstreams, pool and clock do, the invariants of `testkit` hold, and
//! the outcome does not depend on how bytes are split. And bodies of many gigabytes, in constant memory.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mini_rproxy::config::Config;
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::proxy::hooks::Side as HookSide;
use mini_rproxy::proxy::proxy_connection::{
    Balance, Command, ConnectError, Input, Now, Peer, ProxyConnection, Side, TransactionPool, WorkerContext,
};
use mini_rproxy::proxy::runtime::Runtime;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

mod testkit;

use testkit::Random;
use testkit::invariants::outcome;
use testkit::plugin::{Op as PluginOp, Ops, Plugin, Wants};
use testkit::scenes::CONFIGS;
use testkit::wire::{DATE, Ending, Log, Pool, READ, Setup, Split, Wire};

/// Something that happens.
#[derive(Clone, Debug)]
enum Op {
    Send(Side, Bytes),
    Stop(Side, Ending),
    BreakOff(Side),
    Takes(Side, Option<usize>),
    Connect(Pool),
    Advance(u64),
    Drain,
    Resume(bool),
    Wake,
}

/// Bytes that print as text.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Length(String),
    Chunked(Vec<(String, &'static str)>, &'static str),
    UntilClose(String),
}

/// What goes wrong on the way.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, &'static str),
    Delete(Index),
    Truncate(Index),
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-z]{0,12}", 1 => "[a-z\r\n:0 ]{0,30}", 1 => "[x]{200,600}"]
}

fn body() -> impl Strategy<Value = Body> {
    let chunk = ("[a-z]{1,20}", select(vec!["", "", "", ";a", ";a=b;c=\"d\""]));
    let trailers = select(vec!["", "", "X-T: 1\r\n", "X-T: 1\r\nContent-Length: 7\r\nHost: x\r\n"]);
    prop_oneof![
        4 => Just(Body::None),
        4 => text().prop_map(Body::Length),
        3 => (vec(chunk, 0..4), trailers).prop_map(|(chunks, trailers)| Body::Chunked(chunks, trailers)),
        1 => text().prop_map(Body::UntilClose),
    ]
}

/// Field lines of framing, the empty line, the body.
fn write_body(body: &Body, out: &mut String) {
    match body {
        Body::None => *out += "\r\n",
        Body::Length(text) => *out += &format!("Content-Length: {}\r\n\r\n{text}", text.len()),
        Body::Chunked(chunks, trailers) => {
            *out += "Transfer-Encoding: chunked\r\n\r\n";
            for (data, extension) in chunks {
                *out += &format!("{:x}{extension}\r\n{data}\r\n", data.len());
            }
            *out += &format!("0\r\n{trailers}\r\n");
        }
        Body::UntilClose(text) => *out += &format!("\r\n{text}"),
    }
}

fn mutate(text: String, mutation: Option<Mutation>) -> Bytes {
    let mut bytes = text.into_bytes();
    let len = bytes.len();
    match mutation {
        Some(Mutation::Replace(at, byte)) => bytes[at.index(len)] = byte,
        Some(Mutation::Insert(at, snippet)) => {
            let at = at.index(len);
            bytes.splice(at..at, snippet.bytes());
        }
        Some(Mutation::Delete(at)) => {
            bytes.remove(at.index(len));
        }
        Some(Mutation::Truncate(at)) => bytes.truncate(at.index(len)),
        None => {}
    }
    Bytes(bytes)
}

fn mutation() -> impl Strategy<Value = Option<Mutation>> {
    let snippets =
        vec!["\r\n", "\n", "\0", " ", "\r\n\r\n", "0\r\n\r\n", "Content-Length: 3\r\n", "ffffffffffffffffff"];
    let mutation = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<Index>(), select(snippets)).prop_map(|(at, snippet)| Mutation::Insert(at, snippet)),
        any::<Index>().prop_map(Mutation::Delete),
        any::<Index>().prop_map(Mutation::Truncate),
    ];
    prop_oneof![5 => Just(None), 1 => mutation.prop_map(Some)]
}

/// Mostly the first of these.
fn mostly(usual: &'static [&'static str], unusual: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => select(usual), 1 => select(unusual)]
}

fn request() -> impl Strategy<Value = Bytes> {
    let methods = mostly(&["GET", "HEAD", "POST", "PUT", "DELETE"], &["OPTIONS", "CONNECT", "TRACE", "PURGE"]);
    let targets =
        mostly(&["/a/x", "/a", "/a/y?q=%20", "http://h/a/z"], &["/nowhere", "/health", "/configz", "*", "/a/../b"]);
    let versions = mostly(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/2.0", "HTTP/1.01"]);
    let lines = vec![
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: X-Hop, te\r\nX-Hop: 1\r\nTE: trailers\r\n",
        "Expect: 100-continue\r\n",
        "Accept: */*\r\n",
        "X-Forwarded-For: 10.0.0.1\r\n",
        "Max-Forwards: 0\r\n",
        "Keep-Alive: 5\r\n",
    ];
    let parts = (methods, targets, versions, vec(select(lines), 0..3), body(), mutation());
    parts.prop_map(|(method, target, version, lines, body, mutation)| {
        let mut text = format!("{method} {target} {version}\r\nHost: h\r\n{}", lines.concat());
        // Without framing there is no body in a request: what follows would be the next one.
        let body = if let Body::UntilClose(_) = body { Body::None } else { body };
        write_body(&body, &mut text);
        if version == "HTTP/1.0" {
            text = text.replace("Transfer-Encoding: chunked\r\n", "");
        }
        mutate(text, mutation)
    })
}

fn response() -> impl Strategy<Value = Bytes> {
    let statuses = vec![
        "200 OK",
        "200 OK",
        "200 OK",
        "204 No Content",
        "304 Not Modified",
        "404 Not Found",
        "413 Too Large",
        "500 Oops",
        "101 Switching",
        "100 Continue",
        "103 Early Hints",
    ];
    let versions = vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"];
    let lines = vec![
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: X-Hop\r\nX-Hop: 1\r\n",
        "Content-Type: text/event-stream\r\n",
        "Proxy-Authenticate: Basic\r\n",
        "X-A: b\r\n",
    ];
    let parts = (select(versions), select(statuses), vec(select(lines), 0..3), body(), mutation());
    parts.prop_map(|(version, status, lines, body, mutation)| {
        let has_no_body = ["1", "204", "304"].iter().any(|start| status.starts_with(start));
        let is_switching = status.starts_with("101");
        let upgrade = if is_switching { "Connection: Upgrade\r\nUpgrade: websocket\r\n" } else { "" };
        let lines = if is_switching { String::new() } else { lines.concat() };
        let mut text = format!("{version} {status}\r\n{upgrade}{lines}");
        write_body(if has_no_body { &Body::None } else { &body }, &mut text);
        mutate(text, mutation)
    })
}

fn side() -> impl Strategy<Value = Side> {
    select(vec![Side::Client, Side::Upstream])
}

fn op() -> impl Strategy<Value = Op> {
    let pools = select(vec![
        Pool::Reused,
        Pool::New,
        Pool::Pending,
        Pool::Fails(ConnectError::Refused),
        Pool::Fails(ConnectError::TimedOut),
    ]);
    prop_oneof![
        10 => request().prop_map(|bytes| Op::Send(Side::Client, bytes)),
        10 => response().prop_map(|bytes| Op::Send(Side::Upstream, bytes)),
        2 => (side(), text()).prop_map(|(side, text)| Op::Send(side, Bytes(text.into_bytes()))),
        2 => (side(), ending()).prop_map(|(side, ending)| Op::Stop(side, ending)),
        1 => side().prop_map(Op::BreakOff),
        2 => (side(), prop_oneof![Just(None), (0_usize..40).prop_map(Some)]).prop_map(|(side, n)| Op::Takes(side, n)),
        3 => pools.prop_map(Op::Connect),
        2 => select(vec![1_u64, 1900, 5000, 10_000, 30_000, 59_000, 61_000, 4_000_000]).prop_map(Op::Advance),
        1 => Just(Op::Drain),
        4 => any::<bool>().prop_map(Op::Resume),
        1 => Just(Op::Wake),
    ]
}

fn ending() -> impl Strategy<Value = Ending> {
    select(vec![Ending::Fin, Ending::Rst])
}

fn send(side: Side, text: impl Into<Vec<u8>>) -> Op {
    Op::Send(side, Bytes(text.into()))
}

/// Things that happen together.
fn scene() -> impl Strategy<Value = Vec<Op>> {
    const UPGRADE: &str = "GET /a/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const SWITCH: &str = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let exchange = (request(), response())
        .prop_map(|(request, response)| vec![Op::Send(Side::Client, request), Op::Send(Side::Upstream, response)]);
    let tunnel = (text(), text()).prop_map(|(early, first)| {
        vec![send(Side::Client, format!("{UPGRADE}{early}")), send(Side::Upstream, format!("{SWITCH}{first}"))]
    });
    let stale = (request(), ending()).prop_map(|(request, ending)| {
        vec![Op::Connect(Pool::Reused), Op::Send(Side::Client, request), Op::Stop(Side::Upstream, ending)]
    });
    prop_oneof![
        6 => op().prop_map(|op| vec![op]),
        4 => exchange,
        1 => tunnel,
        1 => stale,
    ]
}

/// What the proxy is like.
#[derive(Clone, Debug)]
struct Proxy {
    config: &'static str,
    plugin: Option<(Wants, Ops)>,
}

fn runtime() -> impl Strategy<Value = Proxy> {
    let ops = || {
        let some = select(vec![
            PluginOp::Respond(403, "no".to_owned()),
            PluginOp::Respond(204, String::new()),
            PluginOp::Fail,
            PluginOp::Set("X-Set".to_owned(), "1".to_owned()),
            PluginOp::Remove("X-A".to_owned()),
            PluginOp::Body("another".to_owned()),
            PluginOp::Body(String::new()),
            PluginOp::Method("GET".to_owned()),
            PluginOp::Method("HEAD".to_owned()),
            PluginOp::Status(204),
            PluginOp::Status(200),
            PluginOp::Pause,
            PluginOp::PauseResumed,
            PluginOp::Want(HookSide::Request, false),
            PluginOp::Want(HookSide::Request, true),
            PluginOp::Want(HookSide::Response, false),
            PluginOp::Want(HookSide::Response, true),
        ]);
        vec(some, 0..3)
    };
    let wants = any::<(bool, bool, bool)>().prop_map(|(request, response, is_optional)| Wants {
        request,
        response,
        is_optional,
    });
    let all = (ops(), ops(), ops(), ops(), ops()).prop_map(
        |(on_request, on_response, on_request_body, on_response_body, on_resume)| Ops {
            on_request,
            on_response,
            on_request_body,
            on_response_body,
            on_resume,
        },
    );
    let plugin = prop_oneof![2 => Just(None), 1 => (wants, all).prop_map(Some)];
    (select(&CONFIGS[..]), plugin).prop_map(|(config, plugin)| Proxy { config, plugin })
}

fn setup(runtime: &Proxy, split: Split, lane: bool) -> Setup {
    let plugin = runtime.plugin.clone().map(|(wants, ops)| Arc::new(Plugin { wants, ops, ..Plugin::default() }));
    let config = Config::parse(runtime.config, "test").expect("the test's configuration is valid");
    let peer = Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), is_tls: false, ..Peer::default() };
    Setup { config: Arc::new(config), peer, plugin, split, lane }
}

fn run(runtime: &Proxy, ops: &[Op], split: Split, lane: bool) -> Result<Wire, TestCaseError> {
    let mut wire = Wire::new(&setup(runtime, split, lane));
    for op in ops {
        let result = match op {
            Op::Advance(by) => wire.advance(Duration::from_millis(*by)),
            Op::Send(side, bytes) => {
                wire.send(*side, &bytes.0);
                wire.run()
            }
            Op::Stop(side, ending) => {
                wire.stop(*side, *ending);
                wire.run()
            }
            Op::BreakOff(side) => {
                wire.break_off(*side);
                wire.run()
            }
            Op::Takes(side, takes) => {
                wire.takes(*side, *takes);
                wire.run()
            }
            Op::Connect(answer) => {
                wire.connect(*answer);
                wire.run()
            }
            Op::Drain => {
                wire.drain();
                wire.run()
            }
            Op::Resume(is_good) => {
                wire.resume(*is_good);
                wire.run()
            }
            Op::Wake => {
                wire.wake();
                wire.run()
            }
        };
        result.map_err(|error| TestCaseError::fail(format!("{error}\nafter {op:?}, lane {lane}\n{}", story(&wire))))?;
    }
    // A peer that was blocked gets in the end what waits for it.
    wire.takes(Side::Client, None);
    wire.takes(Side::Upstream, None);
    wire.run()
        .and_then(|()| testkit::invariants::at_the_end(&wire))
        .map_err(|error| TestCaseError::fail(format!("{error}\nlane {lane}\n{}", story(&wire))))?;
    Ok(wire)
}

fn story(wire: &Wire) -> String {
    testkit::script::render(&wire.transcript).join("\n")
}

/// A few seconds' worth, or what `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(4000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn m13_whatever_happens_the_invariants_hold(runtime in runtime(), scenes in vec(scene(), 1..10), seed in any::<u64>()) {
        let ops = scenes.concat();
        let whole = run(&runtime, &ops, Split::Whole, false)?;
        let mut random = Random::new(seed);
        let lane = random.below(2) == 0;
        let split = if random.below(3) == 0 { Split::Bytes } else { Split::Random(random) };
        let other = run(&runtime, &ops, split, lane)?;
        // Who takes four bytes gets as much as four bytes of chunks of that size hold.
        let is_cut_short = ops.iter().any(|op| matches!(op, Op::Takes(_, Some(1..))));
        prop_assert!(
            is_cut_short || outcome(&whole) == outcome(&other),
            "lane {lane}\nwhole\n{}\n\nsplit\n{}", story(&whole), story(&other)
        );
    }
}

/// An exchange without anything around it, for bodies that nobody wants to hold.
struct Bare {
    exchange: ProxyConnection,
    runtime: Rc<Runtime>,
    transactions: TransactionPool,
    balance: Balance,
    log: Log,
    now: MonoTime,
}

impl Bare {
    fn new() -> Bare {
        let setup = setup(
            &Proxy { config: "routes: [{prefix: /a, upstream: 'http://o'}]\n", plugin: None },
            Split::Whole,
            true,
        );
        let runtime = Rc::new(Runtime::new(setup.config, None));
        let now = MonoTime::now();
        let exchange = ProxyConnection::new(&Now { instant: now, date: DATE }, setup.peer, Rc::clone(&runtime));
        Bare {
            exchange,
            runtime,
            transactions: TransactionPool::default(),
            balance: Balance::default(),
            log: Log::default(),
            now,
        }
    }

    fn env<T>(&mut self, call: impl FnOnce(&mut ProxyConnection, &mut WorkerContext<'_>) -> T) -> T {
        let now = Now { instant: self.now, date: DATE };
        let mut env = WorkerContext {
            now: &now,
            runtime: &self.runtime,
            balance: &mut self.balance,
            transactions: &mut self.transactions,
            observer: &mut self.log,
        };
        call(&mut self.exchange, &mut env)
    }

    fn handle(&mut self, input: Input<'_>) {
        self.env(|exchange, env| exchange.handle(env, input));
        while let Some(command) = self.exchange.poll_command() {
            if let Command::Connect { .. } = command {
                self.env(|exchange, env| exchange.handle(env, Input::Connected { reused: false }));
            }
        }
    }

    /// The peer takes everything that waits.
    fn drain(&mut self, side: Side) -> Vec<u8> {
        let output = self.exchange.output(side).to_vec();
        self.env(|exchange, env| exchange.sent(env, side, output.len()));
        output
    }

    /// Moves `total` bytes from `side` by the relay lane; a slow peer makes every hundredth piece take the other lane.
    fn relay(&mut self, side: Side, total: u64) {
        let other = if side == Side::Client { Side::Upstream } else { Side::Client };
        let piece = vec![b'x'; READ];
        let mut left = total;
        let mut count = 0;
        while left > 0 {
            count += 1;
            self.now = self.now + Duration::from_millis(1);
            assert!(
                self.exchange.read_interest(side).is_some() && self.exchange.deadline().is_some_and(|at| at > self.now)
            );
            assert_eq!(self.exchange.bypass_limit(side), left, "all of the rest, in 64 bits on every machine");
            let len = left.min(READ as u64);
            let relayed = if count % 100 == 0 { len / 2 } else { len };
            self.handle(Input::Bypassed(side, relayed));
            if relayed < len {
                self.handle(Input::Bytes(side, &piece[relayed as usize..len as usize]));
                assert_eq!(self.exchange.output(other).len() as u64, len - relayed);
                self.drain(other);
            }
            assert_eq!((self.exchange.held(side), self.exchange.output(other).len()), (0, 0));
            left -= len;
        }
    }
}

const GIB: u64 = 1 << 30;

#[test]
fn e9_a_download_of_5_gib_is_counted_in_64_bits() {
    let mut bare = Bare::new();
    bare.handle(Input::Bytes(Side::Client, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"));
    bare.drain(Side::Upstream);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 5 * GIB);
    bare.handle(Input::Bytes(Side::Upstream, head.as_bytes()));
    let head = String::from_utf8(bare.drain(Side::Client)).expect("a head is text");
    assert!(head.contains(&format!("Content-Length: {}\r\n", 5 * GIB)), "{head}");
    bare.relay(Side::Upstream, 5 * GIB);
    assert_eq!(bare.exchange.bypass_limit(Side::Upstream), 0);
    assert!(bare.exchange.is_idle());
    assert_eq!(bare.log.lines[0].split(" total").next(), Some("LOG GET /a status=200 in=0 out=5368709120"));
}

#[test]
fn e4_an_upload_and_a_download_of_4_gib_leave_nothing_behind() {
    let mut bare = Bare::new();
    let head = format!("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 4 * GIB);
    bare.handle(Input::Bytes(Side::Client, head.as_bytes()));
    bare.drain(Side::Upstream);
    bare.relay(Side::Client, 4 * GIB);
    // No length: the other kind of body that needs no new framing.
    bare.handle(Input::Bytes(
        Side::Upstream,
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 4 * GIB).as_bytes(),
    ));
    bare.drain(Side::Client);
    bare.relay(Side::Upstream, 4 * GIB);
    assert!(bare.exchange.is_idle());
    assert_eq!(bare.log.lines[0].split(" total").next(), Some("LOG PUT /a status=200 in=4294967296 out=4294967296"));
}

#[test]
fn e4_chunks_for_a_slow_reader_wait_outside() {
    let mut bare = Bare::new();
    bare.handle(Input::Bytes(Side::Client, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"));
    bare.drain(Side::Upstream);
    bare.handle(Input::Bytes(Side::Upstream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
    bare.drain(Side::Client);
    let chunk = [b"3fee\r\n", &[b'x'; 0x3fee][..], b"\r\n"].concat();
    let mut received = 0;
    for _ in 0..4096 {
        // The client takes 1,000 bytes, the upstream sends as much as it may.
        while bare.exchange.read_interest(Side::Upstream).is_some() {
            bare.handle(Input::Bytes(Side::Upstream, &chunk));
            received += chunk.len();
            assert!(bare.exchange.output(Side::Client).len() <= 16 * 1024 + READ);
        }
        bare.env(|exchange, env| exchange.sent(env, Side::Client, 1000));
    }
    assert!(received < 4096 * 1000 + 2 * READ);
}
