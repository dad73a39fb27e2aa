//! The `.wire` files: a scenario and everything that comes out of it, as text.
//!
//! ```text
//! # What this shows.
//! config:                       the configuration file, indented by two; left out: one route, /a to origin.example
//!   routes: ...
//! peer: 192.0.2.1:5000          who the client is (that is the default); `peer: unix`, `peer: tls 192.0.2.1:5000`
//! SNI a.example                 the host that it named in its TLS handshake
//! HOOK request respond 403 no   a plugin: request|response|request-body|response-body|resume, then respond STATUS TEXT,
//!                               fail, set NAME: VALUE, remove NAME, body TEXT, method TOKEN, status NUMBER,
//!                               want request|response [optional], pause, pause resumed
//! HOOK want request             it always waits for that body: request, response; and then optional
//!
//! C> GET /a/x HTTP/1.1          the client sends a line; with a \ at the end, one without CRLF
//! C>                            \r \n \t \0 \xNN \\ are what they are elsewhere
//! U> HTTP/1.1 200 OK            the upstream does
//! C* 20000 x                    twenty thousand times x, without CRLF
//! C FIN, C RST, C UNWRITABLE    and U: stops sending; is gone; a write to it fails
//! C DRAINED                     and U: takes some of what the kernel holds for it, but no write is possible yet
//! C BLOCK, C TAKE 10, C UNBLOCK and U: takes nothing any more; takes ten bytes more; takes all
//! CONNECT reused                how the attempt to connect ends, or else the next one: reused, new, refused,
//!                               timeout, dns, failed; pending: it goes on
//! T+5s                          time passes
//! DRAIN                         the process is asked to stop
//! RESUME, RESUME fail           the plugin's last pause ends, or fails; `X not found` where there is none to end
//! WAKE                          the connection is told that a pause may be over
//! ```
//! Lines of bytes that stand together are sent together. What comes out follows each event: first `C<`, what the client
//! got; then, for each upstream connection, `U<`, what the upstream got, `X` commands, `H` calls of hooks and `LOG`
//! lines of the access log.

use std::sync::Arc;
use std::time::Duration;

use mini_rproxy::config::Config;
use mini_rproxy::proxy::hooks::Side as HookSide;
use mini_rproxy::proxy::proxy_connection::{ConnectError, Peer, PeerDetails, Side};

use super::invariants;
use super::plugin::{Op, Ops, Plugin, Wants};
use super::strict::Token;
use super::wire::{End, Ending, Entry, Pool, Setup, Split, Wire};
use super::{Random, random_runs};

const DEFAULT_CONFIG: &str = "routes:\n  - prefix: /a\n    upstream: http://origin.example\n";

/// How many ways of cutting at random each script is run in.
const RANDOM_RUNS: u64 = 20;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    Bytes(Side, Vec<u8>),
    Stop(Side, Ending),
    Unwritable(Side),
    Drained(Side),
    Takes(Side, Option<usize>),
    Connect(Pool),
    Advance(Duration),
    Drain,
    /// The plugin's last pause ends, not by a failure.
    Resume(bool),
    /// A wake-up that means nothing.
    Wake,
}

/// A part of the file, in order.
#[derive(Debug)]
enum Item {
    /// Kept as it is.
    Text(String),
    Event(Event, Vec<String>),
}

/// A parsed file.
#[derive(Debug)]
pub struct Script {
    items: Vec<Item>,
    config: Arc<Config>,
    peer: Peer,
    server_name: Option<String>,
    wants: Wants,
    hooks: Ops,
}

fn side_of(letter: &str) -> Option<Side> {
    match letter {
        "C" => Some(Side::Client),
        "U" => Some(Side::Upstream),
        _ => None,
    }
}

fn letter_of(side: Side) -> char {
    match side {
        Side::Client => 'C',
        Side::Upstream => 'U',
    }
}

impl Script {
    pub fn parse(text: &str) -> Result<Script, String> {
        let mut items = Vec::new();
        let mut config = String::new();
        let mut is_config = false;
        let mut peer =
            Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), is_tls: false, ..Peer::default() };
        let (mut server_name, mut wants, mut hooks) = (None, Wants::default(), Ops::default());
        for (number, line) in (1..).zip(text.lines()) {
            let fail = |what: &str| format!("line {number}: {what}: {line}");
            if is_config && (line.starts_with("  ") || line.is_empty()) {
                config += line.strip_prefix("  ").unwrap_or("");
                config.push('\n');
                items.push(Item::Text(line.to_owned()));
                continue;
            }
            is_config = line == "config:";
            if is_config || line.is_empty() || line.starts_with('#') {
                items.push(Item::Text(line.to_owned()));
            } else if let Some(value) = line.strip_prefix("peer: ") {
                let address = value.strip_prefix("tls ").unwrap_or(value);
                let address =
                    if address == "unix" { None } else { Some(address.parse().map_err(|_| fail("address"))?) };
                peer = Peer { address, is_tls: value.starts_with("tls "), ..Peer::default() };
                items.push(Item::Text(line.to_owned()));
            } else if let Some(name) = line.strip_prefix("SNI ") {
                server_name = Some(name.to_owned());
                items.push(Item::Text(line.to_owned()));
            } else if let Some(hook) = line.strip_prefix("HOOK ") {
                parse_hook(hook, &mut wants, &mut hooks).ok_or_else(|| fail("hook"))?;
                items.push(Item::Text(line.to_owned()));
            } else if ["C<", "U<", "X ", "H ", "LOG ", "!! "].iter().any(|start| line.starts_with(start)) {
                // What is expected is made anew.
            } else {
                let event = parse_event(line).ok_or_else(|| fail("not understood"))?;
                match (items.last_mut(), event) {
                    (Some(Item::Event(Event::Bytes(side, bytes), lines)), Event::Bytes(same, more))
                        if *side == same =>
                    {
                        bytes.extend_from_slice(&more);
                        lines.push(line.to_owned());
                    }
                    (_, event) => items.push(Item::Event(event, vec![line.to_owned()])),
                }
            }
        }
        if config.is_empty() {
            config.push_str(DEFAULT_CONFIG);
        }
        let config = Arc::new(Config::parse(&config, "config").map_err(|error| error.to_string())?);
        Ok(Script { items, config, peer, server_name, wants, hooks })
    }

    /// What happens, in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.items.iter().filter_map(|item| match item {
            Item::Event(event, _) => Some(event),
            Item::Text(_) => None,
        })
    }

    /// A wire on which this script can run.
    pub fn setup(&self, split: Split, lane: bool) -> Setup {
        let plugin = Plugin { wants: self.wants, ops: self.hooks.clone(), ..Plugin::default() };
        let plugin = (!plugin.is_idle()).then(|| Arc::new(plugin));
        Setup { config: Arc::clone(&self.config), peer: self.peer, plugin, split, lane }
    }

    /// Runs the events, and gives what came out after each of them.
    pub fn run(&self, split: Split, lane: bool) -> Result<Vec<Vec<String>>, String> {
        let mut wire = Wire::new(&self.setup(split, lane));
        if self.server_name.is_some() {
            let server_name = self.server_name.clone();
            wire.exchange.set_peer_details(PeerDetails { server_name, ..PeerDetails::default() });
        }
        let mut outcomes = Vec::new();
        for item in &self.items {
            let Item::Event(event, lines) = item else { continue };
            let mark = wire.transcript.len();
            let result = apply(&mut wire, event);
            let rendered = render(&wire.transcript[mark..]);
            result.map_err(|error| format!("{error}\nafter {}\ngot\n{}", lines.join("\n"), rendered.join("\n")))?;
            outcomes.push(rendered);
        }
        invariants::at_the_end(&wire)?;
        Ok(outcomes)
    }

    /// The file as it should be.
    fn golden(&self, outcomes: &[Vec<String>]) -> String {
        let mut text = String::new();
        let mut outcomes = outcomes.iter();
        for item in &self.items {
            let lines: &[String] = match item {
                Item::Text(line) => std::slice::from_ref(line),
                Item::Event(_, lines) => lines,
            };
            let outcome: &[String] = match item {
                Item::Text(_) => &[],
                Item::Event(..) => outcomes.next().map_or(&[], Vec::as_slice),
            };
            for line in lines.iter().chain(outcome) {
                text += line;
                text.push('\n');
            }
        }
        text
    }
}

/// Lets it happen.
pub fn apply(wire: &mut Wire, event: &Event) -> Result<(), String> {
    match event {
        Event::Bytes(side, bytes) => wire.send(*side, bytes),
        Event::Stop(side, ending) => wire.stop(*side, *ending),
        Event::Unwritable(side) => wire.break_off(*side),
        Event::Drained(side) => wire.drained(*side),
        Event::Takes(side, takes) => wire.takes(*side, *takes),
        Event::Connect(answer) => wire.connect(*answer),
        Event::Advance(by) => return wire.advance(*by),
        Event::Drain => wire.drain(),
        Event::Resume(is_good) => wire.resume(*is_good),
        Event::Wake => wire.wake(),
    }
    wire.run()
}

/// A scenario as a file, so that one which was found by chance can be kept. The lines that are expected are missing, and made by
/// running it.
pub fn write(config: &str, hooks: &[String], events: &[Event]) -> String {
    let mut text = String::from("config:\n");
    config.lines().for_each(|line| text += &format!("  {line}\n"));
    hooks.iter().for_each(|hook| text += &format!("HOOK {hook}\n"));
    for event in events {
        text.push('\n');
        match event {
            Event::Bytes(side, bytes) => {
                let mut lines = Vec::new();
                render_bytes(letter_of(*side), bytes, &mut lines);
                lines
                    .iter()
                    .for_each(|line| text += &format!("{}\n", line.replacen('<', ">", 1).replacen(">*", "*", 1)));
            }
            Event::Stop(side, Ending::Fin) => text += &format!("{} FIN\n", letter_of(*side)),
            Event::Stop(side, Ending::Rst) => text += &format!("{} RST\n", letter_of(*side)),
            Event::Unwritable(side) => text += &format!("{} UNWRITABLE\n", letter_of(*side)),
            Event::Drained(side) => text += &format!("{} DRAINED\n", letter_of(*side)),
            Event::Takes(side, None) => text += &format!("{} UNBLOCK\n", letter_of(*side)),
            Event::Takes(side, Some(0)) => text += &format!("{} BLOCK\n", letter_of(*side)),
            Event::Takes(side, Some(count)) => text += &format!("{} TAKE {count}\n", letter_of(*side)),
            Event::Connect(answer) => {
                let word = match answer {
                    Pool::Reused => "reused",
                    Pool::New => "new",
                    Pool::Pending => "pending",
                    Pool::Fails(ConnectError::Refused) => "refused",
                    Pool::Fails(ConnectError::TimedOut) => "timeout",
                    Pool::Fails(ConnectError::DnsFail) => "dns",
                    Pool::Fails(_) => "failed",
                };
                text += &format!("CONNECT {word}\n");
            }
            Event::Advance(by) => text += &format!("T+{}ms\n", by.as_millis()),
            Event::Drain => text += "DRAIN\n",
            Event::Resume(true) => text += "RESUME\n",
            Event::Resume(false) => text += "RESUME fail\n",
            Event::Wake => text += "WAKE\n",
        }
    }
    text
}

/// The file as it should be.
pub fn golden(text: &str) -> Result<String, String> {
    let script = Script::parse(text)?;
    Ok(script.golden(&script.run(Split::Whole, false)?))
}

/// Runs a file in every way, and compares.
pub fn check(text: &str) -> Result<(), String> {
    let script = Script::parse(text)?;
    let outcomes = script.run(Split::Whole, false).map_err(|error| format!("whole: {error}"))?;
    let golden = script.golden(&outcomes);
    if golden != text {
        return Err(format!("whole: not what the file says\n{}", difference(text, &golden)));
    }
    let mut ways = vec![("whole, relay lane".to_owned(), Split::Whole, true)];
    for lane in [false, true] {
        let lane_name = if lane { ", relay lane" } else { "" };
        ways.push((format!("byte by byte{lane_name}"), Split::Bytes, lane));
        let random = |seed| (format!("random split, seed {seed}{lane_name}"), Split::Random(Random::new(seed)), lane);
        ways.extend((1..=random_runs(RANDOM_RUNS)).map(random));
    }
    for (name, split, lane) in ways {
        let other = script.run(split, lane).map_err(|error| format!("{name}: {error}"))?;
        if other != outcomes {
            return Err(format!("{name}: differs from whole\n{}", difference(&golden, &script.golden(&other))));
        }
    }
    Ok(())
}

/// Both sides from the first line that differs on.
fn difference(expected: &str, found: &str) -> String {
    let same = expected.lines().zip(found.lines()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| -> String {
        text.lines().skip(same.saturating_sub(3)).take(9).map(|line| format!("  {line}\n")).collect()
    };
    format!("line {}\nexpected\n{}found\n{}", same + 1, part(expected), part(found))
}

/// A line of a plugin, as it stands behind `HOOK`.
pub fn parse_hook(line: &str, wants: &mut Wants, hooks: &mut Ops) -> Option<()> {
    let (hook, op) = line.split_once(' ')?;
    if hook == "want" {
        let want = match op {
            "request" => &mut wants.request,
            "response" => &mut wants.response,
            "optional" => &mut wants.is_optional,
            _ => return None,
        };
        *want = true;
        return Some(());
    }
    let ops = match hook {
        "request" => &mut hooks.on_request,
        "response" => &mut hooks.on_response,
        "request-body" => &mut hooks.on_request_body,
        "response-body" => &mut hooks.on_response_body,
        "resume" => &mut hooks.on_resume,
        _ => return None,
    };
    ops.push(parse_op(op)?);
    Some(())
}

fn parse_op(text: &str) -> Option<Op> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "respond" => {
            let (status, body) = rest.split_once(' ').unwrap_or((rest, ""));
            Op::Respond(status.parse().ok()?, body.to_owned())
        }
        "fail" => Op::Fail,
        "set" => {
            let (name, value) = rest.split_once(": ")?;
            Op::Set(name.to_owned(), value.to_owned())
        }
        "remove" => Op::Remove(rest.to_owned()),
        "body" => Op::Body(rest.to_owned()),
        "method" => Op::Method(rest.to_owned()),
        "status" => Op::Status(rest.parse().ok()?),
        "want" => match rest.split_once(' ').unwrap_or((rest, "")) {
            ("request", word @ ("" | "optional")) => Op::Want(HookSide::Request, !word.is_empty()),
            ("response", word @ ("" | "optional")) => Op::Want(HookSide::Response, !word.is_empty()),
            _ => return None,
        },
        "pause" if rest.is_empty() => Op::Pause,
        "pause" if rest == "resumed" => Op::PauseResumed,
        _ => return None,
    })
}

fn parse_event(line: &str) -> Option<Event> {
    if let Some(span) = line.strip_prefix("T+") {
        let digits = span.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().ok()?;
        let unit = match &span[digits.len()..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        return Some(Event::Advance(Duration::from_millis(number * unit)));
    }
    if let Some(answer) = line.strip_prefix("CONNECT ") {
        return Some(Event::Connect(match answer {
            "reused" => Pool::Reused,
            "new" => Pool::New,
            "pending" => Pool::Pending,
            "refused" => Pool::Fails(ConnectError::Refused),
            "timeout" => Pool::Fails(ConnectError::TimedOut),
            "dns" => Pool::Fails(ConnectError::DnsFail),
            "failed" => Pool::Fails(ConnectError::Failed),
            _ => return None,
        }));
    }
    match line {
        "DRAIN" => return Some(Event::Drain),
        "RESUME" => return Some(Event::Resume(true)),
        "RESUME fail" => return Some(Event::Resume(false)),
        "WAKE" => return Some(Event::Wake),
        _ => {}
    }
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    if let Some(side) = first.strip_suffix('>').and_then(side_of) {
        return Some(Event::Bytes(side, unescape(rest)?));
    }
    if let Some(side) = first.strip_suffix('*').and_then(side_of) {
        let (count, byte) = rest.split_once(' ')?;
        return Some(Event::Bytes(side, vec![*byte.as_bytes().first()?; count.parse().ok()?]));
    }
    let side = side_of(first)?;
    Some(match rest.split_once(' ').unwrap_or((rest, "")) {
        ("FIN", _) => Event::Stop(side, Ending::Fin),
        ("RST", _) => Event::Stop(side, Ending::Rst),
        ("UNWRITABLE", _) => Event::Unwritable(side),
        ("DRAINED", _) => Event::Drained(side),
        ("BLOCK", _) => Event::Takes(side, Some(0)),
        ("UNBLOCK", _) => Event::Takes(side, End::default().takes),
        ("TAKE", count) => Event::Takes(side, Some(count.parse().ok()?)),
        _ => return None,
    })
}

/// A line of bytes: CRLF at the end unless there is a `\`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => {
                bytes.extend_from_slice(b"\r\n");
                return Some(bytes);
            }
            [b'\\'] => return Some(bytes),
            [b'\\', b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                after
            }
            [b'\\', code, after @ ..] => {
                bytes.push(match code {
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'0' => 0,
                    b'\\' => b'\\',
                    _ => return None,
                });
                after
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
        };
    }
}

/// A run of at least so many equal bytes is written as one line.
const LONG_RUN: usize = 80;

/// Bytes as lines of a script.
pub fn render_bytes(letter: char, bytes: &[u8], lines: &mut Vec<String>) {
    let mut line = String::new();
    let mut rest = bytes;
    while let [byte, after @ ..] = rest {
        let run = rest.iter().take_while(|other| *other == byte).count();
        if run >= LONG_RUN {
            if !line.is_empty() {
                lines.push(format!("{letter}< {}\\", std::mem::take(&mut line)));
            }
            lines.push(format!("{letter}<* {run} {}", byte.escape_ascii()));
            rest = &rest[run..];
            continue;
        }
        if let [b'\r', b'\n', after @ ..] = rest {
            lines.push(format!("{letter}< {line}").trim_end().to_owned());
            line.clear();
            rest = after;
            continue;
        }
        match byte {
            b'\\' => line += "\\\\",
            b' ' if after.starts_with(b"\r\n") || after.is_empty() => line += "\\x20",
            b' '..=b'~' => line.push(char::from(*byte)),
            b'\r' => line += "\\r",
            b'\n' => line += "\\n",
            b'\t' => line += "\\t",
            b'\0' => line += "\\0",
            _ => line += &format!("\\x{byte:02x}"),
        }
        rest = after;
    }
    if !line.is_empty() {
        lines.push(format!("{letter}< {line}\\"));
    }
}

/// What one side got within one event: bytes, and data of chunks that is not framed yet.
#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    chunk: Vec<u8>,
}

impl Run {
    fn add(&mut self, token: &Token) {
        match token {
            Token::Chunk(data) => self.chunk.extend_from_slice(data),
            Token::Head(bytes) | Token::Data(bytes) | Token::LastChunk(bytes) | Token::Raw(bytes) => {
                self.close_chunk();
                self.bytes.extend_from_slice(bytes);
            }
        }
    }

    fn close_chunk(&mut self) {
        if !self.chunk.is_empty() {
            self.bytes.extend_from_slice(format!("{:x}\r\n", self.chunk.len()).as_bytes());
            self.bytes.append(&mut self.chunk);
            self.bytes.extend_from_slice(b"\r\n");
        }
    }

    fn render(mut self, letter: char, lines: &mut Vec<String>) {
        self.close_chunk();
        render_bytes(letter, &self.bytes, lines);
    }
}

/// What came out of one event, in the form that does not depend on how its bytes were split: what the client got stands
/// first; what an upstream got stands behind the note that it was connected (or first).
pub fn render(entries: &[Entry]) -> Vec<String> {
    let mut client = Run::default();
    let mut parts: Vec<(Run, Vec<String>)> = vec![Default::default()];
    for entry in entries {
        match entry {
            Entry::Event => {}
            Entry::Bytes(Side::Client, token) => client.add(token),
            Entry::Bytes(Side::Upstream, token) => {
                parts.last_mut().expect("there is always one").0.add(token);
            }
            Entry::Note(note) if note.starts_with("X connect") => {
                parts.push((Run::default(), vec![note.clone()]));
            }
            Entry::Note(note) => parts.last_mut().expect("there is always one").1.push(note.clone()),
        }
    }
    let mut lines = Vec::new();
    client.render('C', &mut lines);
    for (run, notes) in parts {
        let rank = |note: &String| match note.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["X", "connect"] => 0,
            ["X", _] => 1,
            _ => 2,
        };
        let of_rank = |wanted| notes.iter().filter(move |note| rank(note) == wanted).cloned();
        lines.extend(of_rank(0));
        run.render('U', &mut lines);
        lines.extend(of_rank(1));
        lines.extend(of_rank(2));
    }
    lines
}
