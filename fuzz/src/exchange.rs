//! The whole exchange: bytes as a script of what clients, upstreams, plugins and the clock do.
//!
//! Seven bytes choose the configuration, the plugin and the way of splitting, and six more what it does in other hooks than the
//! first two. Then bytes below 0x80 are sent as they are,
//! by the side that was chosen last, and bytes from 0x80 on are events of their own (see [`read`]), so that whatever is
//! cut out of one script and put into another keeps its meaning.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mini_rproxy::config::Config;
use mini_rproxy::proxy::proxy_connection::{ConnectError, Peer, Side};

use crate::input::Input;
use crate::testkit::Random;
use crate::testkit::invariants::{at_the_end, outcome};
use crate::testkit::plugin::{Ops, Plugin, Wants};
use crate::testkit::script::{Event, apply, parse_hook, render, write};
use crate::testkit::wire::{Ending, Pool, Setup, Split, Wire};

/// The first is that of the scripts in `tests/wire`.
const CONFIGS: [&str; 7] = [
    "routes:\n  - prefix: /a\n    upstream: http://origin.example\n",
    "routes: [{prefix: /a, upstream: 'http://o/base', max_body_bytes: 15, host: client}]\n\
     limits: {max_requests_per_connection: 3, max_interim_responses: 1, max_header_fields: 6}\n\
     forwarded: {trusted_proxies: [192.0.2.0/24]}\n",
    "routes: [{prefix: /, upstream: 'http://o', upgrade: []}]\n\
     timeouts: {response_head: 5s, body_idle: 5s, write_idle: 5s, response_idle: 5s}\n",
    "routes: [{prefix: /a, upstream: 'http://u:p@o'}, {prefix: /a/b, upstream: 'http://two:81', strip_prefix: false}]\n\
     forwarded: {enabled: false}\n",
    "routes: [{prefix: /a, upstream: 'http://o', upgrade: [websocket, x]}]\nplugin_body_limit: 20\n\
     limits: {max_head_bytes: 1KiB, max_request_line: 256}\n",
    "routes: [{prefix: /a, upstream: 'http://o', host: fixed.example}]\nadmin: {configz: false}\n\
     limits: {max_body_bytes: 4}\n",
    "routes: [{prefix: /a, upstreams: ['http://one:81', 'http://two:82/', 'http://three']}]\n\
     health: {failures: 1, eject: 1s, max_eject: 2s}\n",
];

/// What a plugin does, as a line of a `.wire` file says it; 0 does nothing.
const OPS: [&str; 18] = [
    "",
    "respond 403 no",
    "fail",
    "set X-Set: 1",
    "remove X-A",
    "body another",
    "body",
    "respond 204",
    "set Set-Cookie: a=b",
    "status 404",
    "remove Content-Type",
    "method PURGE",
    "want request",
    "want request optional",
    "want response",
    "want response optional",
    "pause",
    "pause resumed",
];

/// The hooks that do it.
const HOOKS: [&str; 5] = ["request", "response", "request-body", "response-body", "resume"];

const ADVANCES_MS: [u64; 8] = [1, 1_900, 5_000, 10_000, 30_000, 59_000, 61_000, 4_000_000];

/// The most bytes that one script sends.
const MOST: usize = 200_000;

/// A whole scenario.
struct Scenario {
    /// Which of [`CONFIGS`].
    config: usize,
    /// Lines as they stand behind `HOOK`.
    hooks: Vec<String>,
    seed: u8,
    events: Vec<Event>,
}

fn read(data: &[u8]) -> Scenario {
    let mut input = Input(data);
    let config = usize::from(input.byte()) % CONFIGS.len();
    let flags = input.byte();
    let mut op = || usize::from(input.byte()) % OPS.len();
    let first = [0; 4].map(|_: u8| op());
    let others = if flags & 16 != 0 { [0; 6].map(|_: u8| op()) } else { [0; 6] };
    let ops = [&first[..], &others].concat();
    let mut hooks = Vec::new();
    if flags & 1 != 0 {
        for (bit, line) in [(2, "want request"), (4, "want response"), (8, "want optional")] {
            hooks.extend((flags & bit != 0).then(|| line.to_owned()));
        }
        let named = ops.iter().zip(HOOKS.iter().flat_map(|hook| [hook; 2])).filter(|(op, _)| **op > 0);
        hooks.extend(named.map(|(op, hook)| format!("{hook} {}", OPS[*op])));
    }
    let seed = input.byte();
    let mut events = Vec::new();
    let mut side = Side::Client;
    let mut bytes: Vec<u8> = Vec::new();
    let mut sent = 0;
    while !input.0.is_empty() && events.len() < 60 && sent + bytes.len() < MOST {
        let code = input.byte();
        match code {
            0xff => bytes.push(input.byte()),
            0x00..0x80 | 0xc0.. => bytes.push(code),
            0xb0..0xc0 => {
                let last = bytes.last().copied().unwrap_or(b'x');
                let len = bytes.len() + (2 << (code & 0xf));
                bytes.resize(len, last);
            }
            0x80..0xb0 => {
                sent += bytes.len();
                if !bytes.is_empty() {
                    events.push(Event::Bytes(side, std::mem::take(&mut bytes)));
                }
                events.extend(event(code, &mut input, &mut side));
            }
        }
    }
    if !bytes.is_empty() {
        events.push(Event::Bytes(side, bytes));
    }
    Scenario { config, hooks, seed, events }
}

/// What a byte from 0x80 to 0xaf says.
fn event(code: u8, input: &mut Input<'_>, side: &mut Side) -> Option<Event> {
    let (down, up) = (Side::Client, Side::Upstream);
    Some(match code {
        0x80 | 0x81 => {
            *side = if code == 0x80 { down } else { up };
            return None;
        }
        0x82 => Event::Stop(down, Ending::Fin),
        0x83 => Event::Stop(up, Ending::Fin),
        0x84 => Event::Stop(down, Ending::Rst),
        0x85 => Event::Stop(up, Ending::Rst),
        0x86 => Event::Unwritable(down),
        0x87 => Event::Unwritable(up),
        0x88 => Event::Takes(down, Some(0)),
        0x89 => Event::Takes(up, Some(0)),
        0x8a => Event::Takes(down, None),
        0x8b => Event::Takes(up, None),
        0x8c => Event::Takes(down, Some(usize::from(input.byte()))),
        0x8d => Event::Takes(up, Some(usize::from(input.byte()))),
        0x8e => Event::Drained(down),
        0x8f => Event::Drained(up),
        0x90 => Event::Connect(Pool::Reused),
        0x91 => Event::Connect(Pool::New),
        0x92 => Event::Connect(Pool::Pending),
        0x93 => Event::Connect(Pool::Fails(ConnectError::Refused)),
        0x94 => Event::Connect(Pool::Fails(ConnectError::TimedOut)),
        0x95 => Event::Connect(Pool::Fails(ConnectError::DnsFail)),
        0x98..0xa0 => Event::Advance(Duration::from_millis(ADVANCES_MS[usize::from(code & 7)])),
        0xa0 => Event::Drain,
        0xa1 => Event::Resume(true),
        0xa2 => Event::Resume(false),
        0xa3 => Event::Wake,
        _ => return None,
    })
}

/// Writes a script of events as an input, with the first configuration and plugin operations of the kinds in these lines, as they
/// stand behind `HOOK`.
pub fn encode<'e>(hooks: &[&str], seed: u8, events: impl Iterator<Item = &'e Event>) -> Vec<u8> {
    let number = |line: &str| {
        let word = line.split(' ').next().unwrap_or_default();
        let exact = OPS.iter().position(|op| *op == line);
        exact.or_else(|| OPS.iter().position(|op| op.split(' ').next() == Some(word))).unwrap_or(0) as u8
    };
    let flag = |bit, line| if hooks.contains(&line) { bit } else { 0 };
    let flags = flag(2, "want request") | flag(4, "want response") | flag(8, "want optional");
    let mut data = vec![0, u8::from(!hooks.is_empty()) | flags | 16];
    for hook in HOOKS {
        let mut ops = hooks.iter().filter_map(|line| line.strip_prefix(hook)?.strip_prefix(' '));
        data.extend([0, 1].map(|_| ops.next().map_or(0, number)));
    }
    data.push(seed);
    for event in events {
        match event {
            Event::Bytes(from, bytes) => {
                data.push(if *from == Side::Client { 0x80 } else { 0x81 });
                let mut rest = &bytes[..];
                while let Some((&byte, after)) = rest.split_first() {
                    if byte >= 0x80 {
                        data.push(0xff);
                    }
                    data.push(byte);
                    rest = after;
                    // Long runs in a few bytes, nearly as long.
                    let run = rest.iter().take_while(|other| **other == byte).count();
                    if run >= 64 {
                        let power = (run / 2).ilog2().min(15) as u8;
                        data.push(0xb0 | power);
                        rest = &rest[2 << power..];
                    }
                }
            }
            Event::Stop(Side::Client, Ending::Fin) => data.push(0x82),
            Event::Stop(Side::Upstream, Ending::Fin) => data.push(0x83),
            Event::Stop(Side::Client, Ending::Rst) => data.push(0x84),
            Event::Stop(Side::Upstream, Ending::Rst) => data.push(0x85),
            Event::Unwritable(Side::Client) => data.push(0x86),
            Event::Unwritable(Side::Upstream) => data.push(0x87),
            Event::Takes(Side::Client, Some(0)) => data.push(0x88),
            Event::Takes(Side::Upstream, Some(0)) => data.push(0x89),
            Event::Takes(Side::Client, None) => data.push(0x8a),
            Event::Takes(Side::Upstream, None) => data.push(0x8b),
            Event::Takes(Side::Client, Some(count)) => data.extend([0x8c, (*count).min(255) as u8]),
            Event::Takes(Side::Upstream, Some(count)) => data.extend([0x8d, (*count).min(255) as u8]),
            Event::Drained(Side::Client) => data.push(0x8e),
            Event::Drained(Side::Upstream) => data.push(0x8f),
            Event::Connect(Pool::Reused) => data.push(0x90),
            Event::Connect(Pool::New) => data.push(0x91),
            Event::Connect(Pool::Pending) => data.push(0x92),
            Event::Connect(Pool::Fails(ConnectError::TimedOut)) => data.push(0x94),
            Event::Connect(Pool::Fails(ConnectError::DnsFail)) => data.push(0x95),
            Event::Connect(Pool::Fails(_)) => data.push(0x93),
            Event::Advance(by) => {
                let nearest = ADVANCES_MS.iter().position(|ms| u128::from(*ms) >= by.as_millis()).unwrap_or(7);
                data.push(0x98 + nearest as u8);
            }
            Event::Drain => data.push(0xa0),
            Event::Resume(true) => data.push(0xa1),
            Event::Resume(false) => data.push(0xa2),
            Event::Wake => data.push(0xa3),
        }
    }
    data
}

impl Scenario {
    fn setup(&self, split: Split, lane: bool) -> Setup {
        static PARSED: OnceLock<[Arc<Config>; CONFIGS.len()]> = OnceLock::new();
        let parse = |text| Arc::new(Config::parse(text, "fuzz").expect("the table's configurations are valid"));
        let config = Arc::clone(&PARSED.get_or_init(|| CONFIGS.map(parse))[self.config]);
        let (mut wants, mut ops) = (Wants::default(), Ops::default());
        for line in &self.hooks {
            parse_hook(line, &mut wants, &mut ops).expect("a line of the tables");
        }
        let plugin = Plugin { wants, ops, ..Plugin::default() };
        let plugin = (!plugin.is_idle()).then(|| Arc::new(plugin));
        let peer =
            Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), is_tls: false, ..Peer::default() };
        Setup { config, peer, plugin, split, lane }
    }

    fn run(&self, split: Split, lane: bool) -> Wire {
        let mut wire = Wire::new(&self.setup(split, lane));
        for event in &self.events {
            if let Err(error) = apply(&mut wire, event) {
                self.fail(&wire, lane, &error);
            }
        }
        // Whoever was blocked gets in the end what waits for it.
        wire.takes(Side::Client, None);
        wire.takes(Side::Upstream, None);
        if let Err(error) = wire.run().and_then(|()| at_the_end(&wire)) {
            self.fail(&wire, lane, &error);
        }
        wire
    }

    /// Tells the scenario as a `.wire` file.
    fn fail(&self, wire: &Wire, lane: bool, error: &str) -> ! {
        panic!("{error} (lane {lane})\n\n{}\n{}", self.text(), render(&wire.transcript).join("\n"))
    }

    fn text(&self) -> String {
        write(CONFIGS[self.config], &self.hooks, &self.events)
    }
}

/// Runs a script whole and in pieces, with all invariants, and compares what came of it.
pub fn exchange(data: &[u8]) {
    let scenario = read(data);
    let whole = scenario.run(Split::Whole, false);
    let sent: usize =
        scenario.events.iter().map(|e| if let Event::Bytes(_, bytes) = e { bytes.len() } else { 0 }).sum();
    let (lane, is_bytewise) = (scenario.seed & 1 != 0, scenario.seed & 6 == 0 && sent < 2000);
    let split = if is_bytewise { Split::Bytes } else { Split::Random(Random::new(u64::from(scenario.seed))) };
    let other = scenario.run(split, lane);
    // Who takes four bytes gets as much as four bytes of chunks of that size hold. And how much of a request was read when
    // a full queue stopped the reading depends on the size of the reads; with it, whether a connection can go on.
    let may_fill_a_queue = sent > 8000;
    let is_cut_short = scenario.events.iter().any(|event| match event {
        Event::Takes(_, Some(count)) => *count > 0 || may_fill_a_queue,
        Event::Connect(Pool::Pending) => may_fill_a_queue,
        _ => false,
    });
    if !is_cut_short && outcome(&whole) != outcome(&other) {
        let (whole, other) = (render(&whole.transcript).join("\n"), render(&other.transcript).join("\n"));
        panic!("splitting matters (lane {lane})\n\n{}\nwhole\n{whole}\n\nsplit\n{other}", scenario.text());
    }
}
