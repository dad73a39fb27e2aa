//! What plugins bring and what they do: the file, the descriptor, field operations.

use std::cell::RefCell;
use std::io;
use std::mem::offset_of;
use std::sync::{Arc, OnceLock};

use mini_rproxy::config::LogFormat;
use mini_rproxy::http::head::{Method, RequestHead, ResponseHead};
use mini_rproxy::log;
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::plugin::chain::Chain;
use mini_rproxy::plugin::{descriptor as checks, elf, instances};
use mini_rproxy::proxy::hooks::{ChainState, HookBody, HookContext, Hooks, Phase, Verdict as ChainVerdict};
use mini_rproxy::proxy::proxy_connection::Peer;
use mini_rproxy::proxy::request_log::RequestLog;
use mini_rproxy_plugin::host::Limits;
use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
use mini_rproxy_plugin::{
    Descriptor, Error, HostError, Needs, Plugin, RequestPhase, ResponsePhase, Setup, Verdict, abi, descriptor, validate,
};

use crate::input::Input;

/// A file, perhaps shorter than it was when its length was asked for.
pub fn plugin_elf(data: &[u8]) {
    let mut input = Input(data);
    let missing = usize::from(input.byte());
    let file = input.0;
    for len in [file.len(), file.len() + missing] {
        if elf::check(file, len as u64).is_ok() {
            assert!(end_of_segments(file) <= len as u128, "accepted, though it overruns the file");
        }
    }
}

/// The end of what the loader maps of a file for this machine (64 bits, little-endian), read in another way: with the words
/// of the specification, in 128 bits.
fn end_of_segments(file: &[u8]) -> u128 {
    let number = |at: usize, len: usize| {
        let bytes = &file[at..at + len];
        bytes.iter().rev().fold(0, |sum: u128, byte| sum * 256 + u128::from(*byte))
    };
    let (phoff, phentsize, phnum) = (number(32, 8), number(54, 2), number(56, 2));
    let mut end = phoff + phentsize * phnum;
    if end > file.len() as u128 {
        return end;
    }
    for index in 0..phnum {
        let entry = usize::try_from(phoff + index * phentsize).expect("within the file");
        let (is_load, size) = (number(entry, 4) == 1, number(entry + 32, 8));
        if is_load && size > 0 {
            end = end.max(number(entry + 8, 8) + size);
        }
    }
    end
}

/// A descriptor as it lies in memory, perhaps with more behind it.
pub fn plugin_record(data: &[u8]) {
    if let Ok(record) = checks::parse(data) {
        assert_eq!((record.magic, record.abi_major), (abi::MAGIC, abi::ABI_MAJOR));
        let says = record.struct_size as usize;
        assert!(says >= abi::MIN_PLUGIN_SIZE && data.len() >= abi::MIN_PLUGIN_SIZE);
        assert!((0..=abi::ABI_MINOR).contains(&record.min_host_minor) && record.flags & !abi::KNOWN_FLAGS == 0);
        assert!(record.reserved0 == 0 && record.reserved1 == 0 && record.create.is_some());
        assert!(record.on_request.is_some() || record.on_response.is_some() || record.on_done.is_some());
        let has = |at: usize| says >= at + size_of::<usize>();
        assert!(record.on_done.is_none() || has(offset_of!(abi::Plugin, on_done)), "a short record has no late hooks");
        assert!(record.destroy.is_none() || has(offset_of!(abi::Plugin, destroy)), "a short record has no late hooks");
    }
    // The texts must be readable, as the interface demands: here they are the input itself.
    if data.len() < size_of::<abi::Plugin>() {
        return;
    }
    let mut bytes = data.to_vec();
    // A record that says it is longer than this would be read beyond its end, by contract.
    let says = offset_of!(abi::Plugin, struct_size);
    let size = u32::from_ne_bytes([data[says], data[says + 1], data[says + 2], data[says + 3]]).min(data.len() as u32);
    bytes[says..says + 4].copy_from_slice(&size.to_ne_bytes());
    let mut lens = [0; 2];
    for (len, at) in lens.iter_mut().zip([offset_of!(abi::Plugin, name), offset_of!(abi::Plugin, version)]) {
        *len = usize::from(data[at]) % 100;
        let text = &data[data.len() - data.len().min(*len)..];
        *len = text.len();
        bytes[at..at + 8].copy_from_slice(&text.as_ptr().addr().to_ne_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&text.len().to_ne_bytes());
    }
    // SAFETY: the record is as long as it says, and its texts point into the input. Nothing in it is called.
    if let Ok(checked) = unsafe { checks::read(bytes.as_ptr()) } {
        assert_eq!((checked.name.len(), checked.version.len()), (lens[0], lens[1]));
        assert!((1..=64).contains(&lens[0]) && lens[1] <= 64);
        assert!(checked.name.chars().chain(checked.version.chars()).all(|c| c.is_ascii_graphic() || c == ' '));
    }
}

type Line = (Vec<u8>, Vec<u8>);

/// One call of the host.
#[derive(Clone, Debug)]
enum Op {
    Set(Vec<u8>, Vec<u8>),
    Add(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Get(Vec<u8>, usize),
    Value(Vec<u8>, Option<Vec<u8>>),
    ValueOf(Vec<u8>),
    Body(Vec<u8>),
    /// For the line of the access log.
    Pair(Vec<u8>, Vec<u8>),
    Method(Vec<u8>),
    Target(Vec<u8>),
    Authority(Vec<u8>),
    Status(u16),
}

/// What the host answers.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done(Result<(), HostError>),
    Found(Result<bool, HostError>),
    Bytes(Option<Vec<u8>>),
}

const NAMES: [&str; 16] = [
    "X-A",
    "x-a",
    "X-B",
    "Set-Cookie",
    "set-cookie",
    "Content-Type",
    "Connection",
    "content_length",
    "Transfer-Encoding",
    "HOST",
    "Via",
    "",
    "X A",
    "X-A:",
    "path",
    "X-Long-Name-That-Takes-Room-In-The-Head",
];

impl Op {
    fn read(input: &mut Input<'_>) -> Op {
        let kind = input.byte();
        let name = |input: &mut Input<'_>| match NAMES.get(usize::from(input.byte())) {
            Some(name) => name.as_bytes().to_vec(),
            None => input.text().to_vec(),
        };
        match kind % 14 {
            0..=2 => Op::Set(name(input), input.text().to_vec()),
            3..=5 => Op::Add(name(input), input.text().to_vec()),
            6 => Op::Remove(name(input)),
            7 => Op::Get(name(input), usize::from(input.byte() % 4)),
            8 => Op::Value(name(input), Some(input.text().repeat(usize::from(kind)))),
            9 => Op::Value(name(input), (kind < 128).then(Vec::new)),
            10 => Op::ValueOf(name(input)),
            11 if kind >= 128 => Op::Pair(name(input), input.text().repeat(usize::from(kind % 4))),
            11 => Op::Body(input.text().to_vec()),
            12 => match kind % 3 {
                0 => Op::Method(input.text().to_vec()),
                1 => Op::Target(input.text().to_vec()),
                _ => Op::Authority(input.text().to_vec()),
            },
            _ => Op::Status(u16::from(input.byte()) * 3),
        }
    }
}

/// What a message is, and what the interface says that the calls do to it.
#[derive(Clone, Debug)]
struct Model {
    limits: Limits,
    is_response: bool,
    method: Vec<u8>,
    target: Vec<u8>,
    authority: Vec<u8>,
    status: u16,
    lines: Vec<Line>,
    values: Vec<Line>,
    pairs: Vec<Line>,
    body: Vec<u8>,
}

impl Model {
    fn head_bytes(&self) -> usize {
        let lines: usize = self.lines.iter().map(|(name, value)| format_len(name, value)).sum();
        if self.is_response {
            return lines + "HTTP/1.1 200 \r\n".len();
        }
        let start = self.method.len() + 1 + self.target.len() + " HTTP/1.1\r\n".len();
        start + "Host: \r\n".len() + self.authority.len() + lines
    }

    /// Whether the message may become so large.
    fn judge_size(&self, bytes: usize, lines: usize) -> Result<(), HostError> {
        let fits = bytes <= self.limits.head_bytes && lines <= self.limits.field_lines;
        if fits { Ok(()) } else { Err(HostError::Limit) }
    }

    fn put(&mut self, name: &[u8], value: &[u8], keeps_others: bool) -> Result<(), HostError> {
        judge_name(name)?;
        let is_clean = value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t');
        if !is_clean || value.trim_ascii() != value {
            return Err(HostError::Invalid);
        }
        let mut after = self.lines.clone();
        match after.iter().position(|line| line.0.eq_ignore_ascii_case(name)) {
            Some(first) if !keeps_others => {
                after[first].1 = value.to_vec();
                let mut index = 0;
                after.retain(|line| {
                    index += 1;
                    index - 1 <= first || !line.0.eq_ignore_ascii_case(name)
                });
            }
            _ => after.push((name.to_vec(), value.to_vec())),
        }
        let before = std::mem::replace(&mut self.lines, after);
        let result = self.judge_size(self.head_bytes(), self.lines.len());
        if result.is_err() {
            self.lines = before;
        }
        result
    }

    fn start(&mut self, place: fn(&mut Model) -> &mut Vec<u8>, new: &[u8]) -> Result<(), HostError> {
        let before = std::mem::replace(place(self), new.to_vec());
        let result = self.judge_size(self.head_bytes(), self.lines.len());
        if result.is_err() && new.len() > before.len() {
            *place(self) = before;
            return result;
        }
        Ok(())
    }

    fn apply(&mut self, op: &Op) -> Answer {
        let same = |name: &[u8]| {
            let name = name.to_vec();
            move |line: &&Line| line.0.eq_ignore_ascii_case(&name)
        };
        match op {
            Op::Set(name, value) => Answer::Done(self.put(name, value, false)),
            Op::Add(name, value) => Answer::Done(self.put(name, value, true)),
            Op::Remove(name) => Answer::Found(judge_name(name).map(|()| {
                let before = self.lines.len();
                self.lines.retain(|line| !same(name)(&line));
                self.lines.len() < before
            })),
            Op::Get(name, nth) => Answer::Bytes(self.lines.iter().filter(same(name)).nth(*nth).map(|l| l.1.clone())),
            Op::Value(key, Some(value)) => Answer::Done({
                let mut after = self.values.clone();
                after.retain(|(other, _)| other != key);
                let size: usize = after.iter().map(|(key, value)| key.len() + value.len()).sum();
                if key.is_empty() {
                    Err(HostError::Invalid)
                } else if after.len() >= 64 || size + key.len() + value.len() > 64 * 1024 {
                    Err(HostError::Limit)
                } else {
                    after.push((key.clone(), value.clone()));
                    self.values = after;
                    Ok(())
                }
            }),
            Op::Value(key, None) => Answer::Found(if key.is_empty() {
                Err(HostError::Invalid)
            } else {
                let before = self.values.len();
                self.values.retain(|(other, _)| other != key);
                Ok(self.values.len() < before)
            }),
            Op::ValueOf(key) => {
                Answer::Bytes(self.values.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone()))
            }
            Op::Pair(key, value) => Answer::Done({
                let place = self.pairs.iter().position(|(other, _)| other == key);
                if !validate::is_token(key) {
                    Err(HostError::Invalid)
                } else if validate::ACCESS_KEYS.split(' ').any(|own| own.as_bytes().eq_ignore_ascii_case(key)) {
                    Err(HostError::Denied)
                } else if key.len() > 64 || value.len() > 512 || (place.is_none() && self.pairs.len() == 8) {
                    Err(HostError::Limit)
                } else {
                    match place {
                        Some(place) => self.pairs[place].1.clone_from(value),
                        None => self.pairs.push((key.clone(), value.clone())),
                    }
                    Ok(())
                }
            }),
            Op::Body(body) => Answer::Done(if body.len() > self.limits.body_bytes {
                Err(HostError::Limit)
            } else {
                self.body.clone_from(body);
                Ok(())
            }),
            Op::Method(new) => Answer::Done(if !validate::is_token(new) {
                Err(HostError::Invalid)
            } else if [&b"HEAD"[..], b"CONNECT", b"TRACE"].contains(&new.as_slice()) {
                Err(HostError::Denied)
            } else {
                self.start(|model| &mut model.method, new)
            }),
            Op::Target(new) => {
                let is_valid = new.starts_with(b"/") && new.iter().all(|b| (0x21..0x7f).contains(b) && *b != b'#');
                Answer::Done(if is_valid {
                    self.start(|model| &mut model.target, new)
                } else {
                    Err(HostError::Invalid)
                })
            }
            Op::Authority(new) => Answer::Done(if validate::is_authority(new) {
                // An empty port is none.
                self.start(|model| &mut model.authority, new.strip_suffix(b":").unwrap_or(new))
            } else {
                Err(HostError::Invalid)
            }),
            Op::Status(new) => Answer::Done(match new {
                204 | 304 => Err(HostError::Denied),
                200..600 => {
                    self.status = *new;
                    Ok(())
                }
                _ => Err(HostError::Invalid),
            }),
        }
    }
}

fn format_len(name: &[u8], value: &[u8]) -> usize {
    name.len() + ": ".len() + value.len() + "\r\n".len()
}

fn judge_name(name: &[u8]) -> Result<(), HostError> {
    const DENIED: [&str; 14] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    if !validate::is_token(name) {
        return Err(HostError::Invalid);
    }
    let plain = String::from_utf8_lossy(name).to_lowercase().replace('_', "-");
    if DENIED.contains(&plain.as_str()) { Err(HostError::Denied) } else { Ok(()) }
}

/// Both phases have these, as methods of the same names.
macro_rules! call_both {
    ($x:ident, $op:ident, $other:expr) => {
        match $op {
            Op::Set(name, value) => Answer::Done($x.set_field(name, value)),
            Op::Add(name, value) => Answer::Done($x.add_field(name, value)),
            Op::Remove(name) => Answer::Found($x.remove_field(name)),
            Op::Get(name, nth) => Answer::Bytes($x.nth_field(name, *nth).map(<[u8]>::to_vec)),
            Op::Value(key, Some(value)) => Answer::Done($x.set_value(key, value)),
            Op::Value(key, None) => Answer::Found($x.remove_value(key)),
            Op::ValueOf(key) => Answer::Bytes($x.value(key).map(<[u8]>::to_vec)),
            Op::Body(body) => Answer::Done($x.set_body(body)),
            Op::Pair(key, value) => Answer::Done($x.access_add(key, value)),
            Op::Method(_) | Op::Target(_) | Op::Authority(_) | Op::Status(_) => $other,
        }
    };
}

thread_local! {
    /// What the plugin is to do next, and what the message should be then.
    static SCRIPT: RefCell<Option<(Vec<Op>, Model)>> = const { RefCell::new(None) };
    /// What it should be after the hook.
    static RESULT: RefCell<Option<Model>> = const { RefCell::new(None) };
}

struct Scripted;

impl Plugin for Scripted {
    const NAME: &'static str = "scripted";
    const NEEDS: Needs = Needs::REQUEST_BODY.and(Needs::RESPONSE_BODY);

    fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
        Ok(Scripted)
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let (ops, mut model) = SCRIPT.take().expect("a script was set");
        for op in &ops {
            let answer = call_both!(
                x,
                op,
                match op {
                    Op::Method(new) => Answer::Done(x.set_method(new)),
                    Op::Target(new) => Answer::Done(x.set_target(new)),
                    Op::Authority(new) => Answer::Done(x.set_authority(new)),
                    _ => continue,
                }
            );
            assert_eq!(answer, model.apply(op), "{op:?}");
            assert!(x.fields().eq(model.lines.iter().map(|(name, value)| (&name[..], &value[..]))), "{op:?}");
            assert_eq!(
                (x.method(), x.target(), x.authority()),
                (&model.method[..], &model.target[..], &model.authority[..])
            );
            assert_eq!(x.body(), Some(&model.body[..]));
        }
        RESULT.set(Some(model));
        Ok(Verdict::Continue)
    }

    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        let (ops, mut model) = SCRIPT.take().expect("a script was set");
        for op in &ops {
            let answer = call_both!(
                x,
                op,
                match op {
                    Op::Status(new) => Answer::Done(x.set_status(*new)),
                    _ => continue,
                }
            );
            assert_eq!(answer, model.apply(op), "{op:?}");
            assert!(x.fields().eq(model.lines.iter().map(|(name, value)| (&name[..], &value[..]))), "{op:?}");
            assert_eq!((x.status(), x.body()), (model.status, Some(&model.body[..])));
        }
        RESULT.set(Some(model));
        Ok(Verdict::Continue)
    }
}

const LIMITS: [Limits; 2] = [
    Limits { head_bytes: 400, field_lines: 6, body_bytes: 100 },
    Limits { head_bytes: 16 * 1024, field_lines: 256, body_bytes: 1024 * 1024 },
];

/// The plugin in a chain of the proxy, once for each of the limits, and in the SDK's host for unit tests.
fn hosts() -> &'static ([Chain; 2], Instance<Scripted>) {
    static HOSTS: OnceLock<([Chain; 2], Instance<Scripted>)> = OnceLock::new();
    static DECL: Descriptor = descriptor::<Scripted>("1");
    HOSTS.get_or_init(|| {
        let chains = LIMITS.map(|limits| {
            let logger = log::Logger::start(LogFormat::Text, io::sink()).expect("a thread");
            let mut chain = Chain::new(limits, logger.clone());
            chain.push(Arc::new(instances::Instance::linked_in(&DECL, "", &logger).expect("it is in order")));
            chain
        });
        (chains, Instance::new("").expect("it can be created"))
    })
}

/// A byte of flags (limits, phase), then calls of the host.
pub fn plugin_fields(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let mut ops = Vec::new();
    while !input.0.is_empty() && ops.len() < 300 {
        ops.push(Op::read(&mut input));
    }
    let is_response = flags & 2 != 0;
    let pairs = |lines: &[(&str, &str)]| -> Vec<Line> { lines.iter().map(|&(n, v)| (n.into(), v.into())).collect() };
    let model = Model {
        limits: LIMITS[usize::from(flags & 1)],
        is_response,
        method: b"GET".to_vec(),
        target: b"/a".to_vec(),
        authority: b"upstream.example".to_vec(),
        status: 200,
        lines: pairs(if is_response {
            &[("Content-Type", "text/plain"), ("Set-Cookie", "a"), ("set-cookie", "b")]
        } else {
            &[("Accept", "*/*"), ("X-A", "1"), ("x-a", "2")]
        }),
        values: Vec::new(),
        pairs: Vec::new(),
        body: b"body".to_vec(),
    };
    in_the_proxy(&ops, &model);
    in_the_sdk(&ops, &model);
}

fn in_the_proxy(ops: &[Op], model: &Model) {
    let chain = &hosts().0[usize::from(model.limits == LIMITS[1])];
    let (mut request, mut response) = (RequestHead::default(), ResponseHead { status: 200, ..ResponseHead::default() });
    request.target = b"/a".to_vec();
    request.authority = b"upstream.example".to_vec();
    let fields = if model.is_response { &mut response.fields } else { &mut request.fields };
    model.lines.iter().for_each(|(name, value)| fields.add(name, value));
    let (mut request_body, mut response_body) = (model.body.clone(), model.body.clone());
    let mut state = ChainState::default();
    let (peer, log) = (Peer::default(), RequestLog::default());
    let mut view = HookContext {
        request: &mut request,
        response: model.is_response.then_some(&mut response),
        request_body: HookBody::Whole(&mut request_body),
        response_body: if model.is_response { HookBody::Whole(&mut response_body) } else { HookBody::None },
        original_target: b"/fitness/a",
        client_host: b"proxy.example",
        peer: &peer,
        details: None,
        log: &log,
        now: MonoTime::FIRST,
        route_prefix: "/fitness",
        upstream: "upstream.example",
        state: &mut state,
    };
    SCRIPT.set(Some((ops.to_vec(), model.clone())));
    let phase = if model.is_response { Phase::Response } else { Phase::Request };
    let verdict = chain.call(phase, &mut view);
    assert!(matches!(verdict, ChainVerdict::Continue), "{verdict:?}");
    let result = RESULT.take().expect("the hook ran to its end");
    let fields = if model.is_response { &response.fields } else { &request.fields };
    let lines: Vec<Line> = fields.iter().map(|line| (line.name.to_vec(), line.value.to_vec())).collect();
    assert_eq!(lines, result.lines);
    assert_eq!(request.method, Method::of(&result.method));
    assert_eq!((request.target, response.status), (result.target, result.status));
    assert_eq!(if model.is_response { response_body } else { request_body }, result.body);
    let sorted = |mut values: Vec<Line>| {
        values.sort();
        values
    };
    assert_eq!(sorted(state.values), sorted(result.values));
    assert_eq!(state.pairs, result.pairs);
}

fn in_the_sdk(ops: &[Op], model: &Model) {
    let plugin = &hosts().1;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut x = Exchange::get("/a").limits(model.limits).body("body");
    SCRIPT.set(Some((ops.to_vec(), model.clone())));
    let outcome = if model.is_response {
        let lines: Vec<_> = model.lines.iter().map(|(name, value)| (text(name), text(value))).collect();
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        x.upstream_answers(200, &lines, "body");
        x.response(plugin)
    } else {
        x = model.lines.iter().fold(x, |x, (name, value)| x.field(&text(name), value));
        x.request(plugin)
    };
    assert_eq!(outcome, Outcome::Continue);
    let result = RESULT.take().expect("the hook ran to its end");
    let (lines, body) = if model.is_response {
        (x.response_fields(), x.response_body())
    } else {
        (x.request_fields(), x.request_body())
    };
    assert_eq!((lines, body), (&result.lines[..], &result.body[..]));
}
