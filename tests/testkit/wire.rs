//! One exchange with everything around it, in memory: a client, upstreams, a pool, a clock, a log.
//!
//! What peers send is queued and given to the exchange in pieces, as far as it wants to read; what it writes is taken as
//! far as the peer is willing. Everything that comes out is written down in one transcript, in the form in which it does
//! not depend on how the bytes were split: data of chunks that leave side by side are one chunk.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mini_rproxy::config::{Config, UpstreamUrl};
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::proxy::cause::Cause;
use mini_rproxy::proxy::proxy_connection::{
    AccessRecord, Balance, CloseMode, Command, ConnectError, Input, Now, Observer, Peer, ProxyConnection, Side,
    TransactionPool, UpstreamEvent, WorkerContext,
};
use mini_rproxy::proxy::request_log::RequestLog;
use mini_rproxy::proxy::runtime::Runtime;
use mini_rproxy::proxy::tickets::await_resume;
use selftest::judge::LogEntry;

use super::Random;
use super::invariants;
use super::plugin::Plugin;
use super::strict::{Kind, Parser, RequestInfo, Strictness, Token};

/// The most that is read at once, as in the event loop.
pub const READ: usize = 64 * 1024;

/// The Date of every test.
pub const DATE: [u8; 29] = *b"Sun, 06 Nov 1994 08:49:37 GMT";

/// How the bytes of a peer are cut into reads.
#[derive(Clone, Debug)]
pub enum Split {
    Whole,
    Bytes,
    Random(Random),
    /// As `Random`, and worse: any read or write may say that it would block, the two sides are looked at in any order,
    /// ticks come although nothing is due.
    Faults(Random),
}

impl Split {
    /// How much of `len` waiting bytes is read now.
    fn piece(&mut self, len: usize) -> usize {
        match self {
            Split::Whole => len.min(READ),
            Split::Bytes => 1,
            Split::Random(random) | Split::Faults(random) => {
                let most = [1, 3, 17, 200, READ][random.below(5)];
                1 + random.below(len.min(most))
            }
        }
    }

    /// How much of a piece the relay lane can write.
    fn relayed(&mut self, len: usize) -> usize {
        match self {
            Split::Whole | Split::Bytes => len,
            Split::Random(random) | Split::Faults(random) => random.below(len + 1),
        }
    }

    /// How much of `len` bytes of output a peer takes at once.
    fn taken(&mut self, len: usize) -> usize {
        match self {
            Split::Whole | Split::Bytes => len,
            Split::Random(random) | Split::Faults(random) => match random.below(3) {
                0 => 1 + random.below(len),
                _ => len,
            },
        }
    }

    /// Happens once in so many times, where faults are wanted.
    fn strikes(&mut self, once_in: usize) -> bool {
        match self {
            Split::Whole | Split::Bytes | Split::Random(_) => false,
            Split::Faults(random) => random.below(once_in) == 0,
        }
    }

    /// In which order the next round writes to both sides and reads from both.
    fn order(&mut self) -> [Move; 4] {
        let mut order = [
            Move::Flush(Side::Client),
            Move::Flush(Side::Upstream),
            Move::Pull(Side::Client),
            Move::Pull(Side::Upstream),
        ];
        if let Split::Faults(random) = self {
            for last in (1..order.len()).rev() {
                order.swap(last, random.below(last + 1));
            }
        }
        order
    }
}

/// A part of a round.
#[derive(Clone, Copy, Debug)]
enum Move {
    Flush(Side),
    Pull(Side),
}

/// Something that happens in the midst of moving bytes, after so many rounds.
#[derive(Clone, Copy, Debug)]
pub struct Ambush {
    pub after: u32,
    pub what: Mishap,
}

#[derive(Clone, Copy, Debug)]
pub enum Mishap {
    Stop(Side, Ending),
    Unwritable(Side),
    Late(Duration),
    Drain,
    Resume(bool),
    Wake,
}

/// How the pool answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Reused,
    New,
    Fails(ConnectError),
    Pending,
}

/// How a peer stops sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Fin,
    Rst,
}

/// A peer, as its socket shows it.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// What it sent and nobody read yet.
    pub incoming: VecDeque<u8>,
    /// What comes behind that.
    pub ending: Option<Ending>,
    /// The ending was seen.
    pub ended: bool,
    /// `None`: takes everything; else so many bytes more.
    pub takes: Option<usize>,
}

impl End {
    /// The next bytes that it sent. In two copies: one byte at a time was a third of a fuzzing run.
    fn take(&mut self, len: usize) -> Vec<u8> {
        let (first, second) = self.incoming.as_slices();
        let split = len.min(first.len());
        let bytes = [&first[..split], &second[..len - split]].concat();
        self.incoming.drain(..len);
        bytes
    }
}

/// The upstream connection that is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    None,
    Connecting,
    Open,
}

/// One borrowed upstream connection and what went over it.
#[derive(Clone, Debug)]
pub struct Loan {
    /// Which of the client's requests it was borrowed for.
    pub request: usize,
    pub requests: Parser,
    pub responses: Parser,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The next event of a script begins: nothing is merged across it.
    Event,
    Bytes(Side, Token),
    /// A command, a log line, a call of a hook.
    Note(String),
}

/// What a wire is made from.
#[derive(Clone)]
pub struct Setup {
    pub config: Arc<Config>,
    pub peer: Peer,
    pub plugin: Option<Arc<Plugin>>,
    pub split: Split,
    /// Whether body bytes go by the relay lane where they may.
    pub lane: bool,
}

/// The log: one text per request, and what a judge wants to know of it.
#[derive(Debug, Default)]
pub struct Log {
    pub lines: Vec<String>,
    pub entries: Vec<LogEntry>,
    /// The target that a log shows, and whether there is a body in the response.
    pub facts: Vec<(String, bool)>,
    /// Whether metrics have a row for the route of the last request.
    pub is_counted_by_prefix: bool,
    /// The timeline of each request, where they are wanted.
    pub timelines: Option<Vec<String>>,
}

impl Observer for Log {
    fn access(&mut self, record: &AccessRecord<'_>) {
        let RequestLog { status, bytes_in, bytes_out, .. } = record.log;
        let (method, path) = (record.method().escape_ascii(), record.path().escape_ascii());
        let mut line = format!("LOG {method} {path} status={status} in={bytes_in} out={bytes_out}");
        // Port 0: not the peer itself, but whom it reports.
        if let Some(client) = record.log.client.filter(|client| client.port() == 0) {
            line += &format!(" client={}", client.ip());
        }
        if record.log.reused {
            line += " reused";
        }
        if let Some(details) = &record.log.details {
            let [host, user_agent] = [&details.host, &details.user_agent].map(|value| value.escape_ascii());
            line += &format!(" host={host} user_agent={user_agent}");
        }
        if record.log.retries > 0 {
            line += &format!(" retries={}", record.log.retries);
        }
        if record.total() > Duration::ZERO {
            line += &format!(" total={:?}", record.total());
        }
        let (why, rule) = (record.log.cause.map(Cause::why), record.log.cause.and_then(Cause::rule));
        if let Some(why) = why {
            line += &format!(" why={why}");
        }
        if let Some(rule) = rule.filter(|rule| Some(*rule) != why) {
            line += &format!(" rule={rule}");
        }
        self.lines.push(line);
        let shown = String::from_utf8_lossy(record.shown_target()).into_owned();
        self.facts.push((shown, record.log.has_response_body));
        self.is_counted_by_prefix = record.is_counted_by_prefix;
        if let Some(timelines) = &mut self.timelines {
            timelines.extend(record.timeline.map(str::to_owned));
        }
        let method = String::from_utf8_lossy(record.method()).into_owned();
        self.entries.push(LogEntry { method, status: *status, why: rule.or(why).map(str::to_owned) });
    }

    fn left_unmapped(&mut self, route: &str, _now: MonoTime) {
        self.lines.push(format!("LOG a head of {route} is left as it is"));
    }

    fn wants_timeline(&self) -> bool {
        self.timelines.is_some()
    }

    fn upstream(&mut self, upstream: &UpstreamUrl, event: UpstreamEvent) {
        let authority = &upstream.authority;
        match event {
            UpstreamEvent::Attempted | UpstreamEvent::Failed => {}
            UpstreamEvent::Ejected(span, why) => {
                self.lines.push(format!("LOG {authority} is left alone for {span:?}: {why}"));
            }
            UpstreamEvent::Recovered => self.lines.push(format!("LOG {authority} answers again")),
        }
    }
}

pub struct Wire {
    pub exchange: ProxyConnection,
    pub runtime: Rc<Runtime>,
    transactions: TransactionPool,
    balance: Balance,
    pub log: Log,
    start: MonoTime,
    elapsed: Duration,
    plugin: Option<Arc<Plugin>>,
    /// A pause has ended, and the connection was not told yet.
    woken: Arc<AtomicBool>,
    pub client: End,
    pub origin: End,
    pub link: Link,
    pool: VecDeque<Pool>,
    /// This becomes known when nothing else is left to do, however slowly the client's bytes come.
    failing: Option<ConnectError>,
    split: Split,
    lane: bool,
    /// The soonest one last.
    pub ambushes: Vec<Ambush>,
    rounds: u32,
    /// What the client asked, as far as the exchange has read it.
    pub asked: Parser,
    /// What the client was answered.
    pub answered: Parser,
    pub loans: Vec<Loan>,
    pub transcript: Vec<Entry>,
    /// The client's connection is over.
    pub is_over: bool,
    pub is_tunnel: bool,
    /// Something that the client sent was no request, and is answered all the same, behind so many final responses.
    pub refused: Option<usize>,
    /// How often each hook was called for the current request.
    pub hook_calls: Vec<String>,
}

impl Wire {
    pub fn new(setup: &Setup) -> Wire {
        let hooks = setup.plugin.clone().map(|plugin| plugin as Arc<dyn mini_rproxy::proxy::hooks::Hooks>);
        let runtime = Rc::new(Runtime::new(Arc::clone(&setup.config), hooks));
        let start = MonoTime::now();
        let exchange = ProxyConnection::new(&Now { instant: start, date: DATE }, setup.peer, Rc::clone(&runtime));
        Wire {
            exchange,
            runtime,
            transactions: TransactionPool::default(),
            balance: Balance::default(),
            log: Log::default(),
            start,
            elapsed: Duration::ZERO,
            plugin: setup.plugin.clone(),
            woken: Arc::default(),
            client: End::default(),
            origin: End::default(),
            link: Link::None,
            pool: VecDeque::new(),
            failing: None,
            split: setup.split.clone(),
            lane: setup.lane,
            ambushes: Vec::new(),
            rounds: 0,
            asked: Parser::new(Kind::Requests, Strictness::Lenient),
            answered: Parser::new(Kind::Responses, Strictness::Strict),
            loans: Vec::new(),
            transcript: Vec::new(),
            is_over: false,
            is_tunnel: false,
            refused: None,
            hook_calls: Vec::new(),
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.origin,
        }
    }

    /// Whether there is a peer on that side at all.
    fn is_there(&self, side: Side) -> bool {
        match side {
            Side::Client => !self.is_over,
            Side::Upstream => self.link == Link::Open,
        }
    }

    /// A peer sends bytes.
    pub fn send(&mut self, side: Side, bytes: &[u8]) {
        if self.is_there(side) {
            self.end(side).incoming.extend(bytes);
        }
    }

    /// A peer stops sending, or is gone.
    pub fn stop(&mut self, side: Side, ending: Ending) {
        if self.is_there(side) {
            self.end(side).ending = Some(ending);
        }
    }

    /// A write to that side fails.
    pub fn break_off(&mut self, side: Side) {
        if self.is_there(side) {
            self.end(side).takes = Some(0);
            self.handle(Input::Unwritable(side));
        }
    }

    /// That side takes some of what the kernel holds for it.
    pub fn drained(&mut self, side: Side) {
        if self.is_there(side) {
            self.handle(Input::Drained(side));
        }
    }

    /// From now on that side takes so many bytes (`None`: all).
    pub fn takes(&mut self, side: Side, takes: Option<usize>) {
        self.end(side).takes = takes;
    }

    /// Answers the attempt to connect that is under way, or else the next one.
    pub fn connect(&mut self, answer: Pool) {
        if self.link == Link::Connecting && answer != Pool::Pending {
            self.connected(answer);
        } else {
            self.pool.push_back(answer);
        }
    }

    /// The plugin's last pause ends.
    pub fn resume(&mut self, is_good: bool) {
        if !self.plugin.as_ref().is_some_and(|plugin| plugin.resume(is_good)) {
            self.note("X not found");
        }
    }

    /// A wake-up, be it for a pause or for none.
    pub fn wake(&mut self) {
        self.handle(Input::Resumed);
    }

    /// All bodies that plugins read may take so many bytes together.
    pub fn limit_bodies(&mut self, bodies: usize) {
        self.transactions = TransactionPool::of(usize::MAX, bodies);
    }

    /// The process is asked to stop.
    pub fn drain(&mut self) {
        self.exchange.drain();
    }

    /// Lets time pass; ticks come exactly when they are due.
    pub fn advance(&mut self, by: Duration) -> Result<(), String> {
        let until = self.start + self.elapsed + by;
        let mut last = None;
        let mut repeats = 0;
        while let Some(at) = self.exchange.deadline().filter(|at| *at <= until) {
            // Two time-outs may come at once; a timer that is never satisfied spins.
            repeats = if last == Some(at) { repeats + 1 } else { 0 };
            if repeats > 3 {
                return Err("a deadline that has passed stays although ticks are delivered".to_owned());
            }
            last = Some(at);
            self.elapsed = self.elapsed.max(at - self.start);
            self.handle(Input::Tick);
            self.run()?;
        }
        self.elapsed = self.elapsed.max(until - self.start);
        self.run()
    }

    /// Moves what can be moved, and checks what must hold always.
    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..10_000_000 {
            let mut moved = self.carry_out();
            if self.woken.swap(false, Ordering::Relaxed) {
                self.handle(Input::Resumed);
                moved = true;
            }
            for step in self.split.order() {
                // A peer that is asked to come later comes later: that is not rest.
                if self.split.strikes(4) {
                    moved = true;
                    continue;
                }
                moved |= match step {
                    Move::Flush(side) => self.flush(side),
                    Move::Pull(side) => self.pull(side)?,
                };
            }
            if self.split.strikes(16) {
                self.handle(Input::Tick);
                moved = true;
            }
            moved |= self.spring_ambush();
            invariants::always(self)?;
            if !moved {
                let Some(error) = self.failing.take() else { return invariants::at_rest(self) };
                self.link = Link::None;
                self.handle(Input::ConnectFailed(error));
            }
        }
        Err("never comes to rest".to_owned())
    }

    /// What lies in wait for this round.
    fn spring_ambush(&mut self) -> bool {
        self.rounds += 1;
        let Some(ambush) = self.ambushes.pop_if(|next| next.after <= self.rounds) else { return false };
        match ambush.what {
            Mishap::Stop(side, ending) => self.stop(side, ending),
            Mishap::Unwritable(side) => self.break_off(side),
            Mishap::Late(by) => {
                self.elapsed += by;
                self.handle(Input::Tick);
            }
            Mishap::Drain => self.drain(),
            Mishap::Resume(is_good) => self.resume(is_good),
            Mishap::Wake => self.wake(),
        }
        true
    }

    /// A call of the exchange that needs its worker.
    pub fn with_env<T>(&mut self, call: impl FnOnce(&mut ProxyConnection, &mut WorkerContext<'_>) -> T) -> T {
        let now = Now { instant: self.start + self.elapsed, date: DATE };
        let mut env = WorkerContext {
            now: &now,
            runtime: &self.runtime,
            balance: &mut self.balance,
            transactions: &mut self.transactions,
            observer: &mut self.log,
        };
        let result = call(&mut self.exchange, &mut env);
        // A hook's call is seen before the log line of the request that it belongs to.
        let calls = self.plugin.as_ref().map(|plugin| plugin.take_calls()).unwrap_or_default();
        for call in calls {
            self.transcript.push(Entry::Note(format!("H {call}")));
            self.hook_calls.push(call);
        }
        let lines = std::mem::take(&mut self.log.lines);
        self.transcript.extend(lines.into_iter().map(Entry::Note));
        result
    }

    /// Something has happened, whatever else the wire thinks.
    pub fn handle(&mut self, input: Input<'_>) {
        self.with_env(|exchange, env| exchange.handle(env, input));
    }

    fn note(&mut self, note: impl Into<String>) {
        self.transcript.push(Entry::Note(note.into()));
    }

    fn carry_out(&mut self) -> bool {
        let mut moved = false;
        while let Some(command) = self.exchange.poll_command() {
            moved = true;
            match command {
                Command::Connect { upstream, is_new } => {
                    let origin = self.runtime.origin(upstream).expect("an upstream of this runtime");
                    let new_word = if is_new { " new" } else { "" };
                    let note = format!("X connect {}{new_word}", origin.endpoint);
                    self.note(note);
                    self.link = Link::Connecting;
                    self.origin = End::default();
                    match self.pool.pop_front().unwrap_or(Pool::New) {
                        Pool::Pending => {}
                        Pool::Reused if is_new => self.connected(Pool::New),
                        answer => self.connected(answer),
                    }
                }
                Command::AwaitResume => {
                    self.note("X pause");
                    let woken = Arc::clone(&self.woken);
                    if let Some(ticket) = self.exchange.awaited_ticket() {
                        await_resume(ticket, Box::new(move || woken.store(true, Ordering::Relaxed)));
                    }
                }
                Command::Release { is_login_bound } => {
                    // The pool takes no connection on which something is waiting (rule M12).
                    let is_clean = self.origin.incoming.is_empty() && self.origin.ending.is_none();
                    let note = if is_login_bound { "X release login-bound" } else { "X release" };
                    self.note(if is_clean { note } else { "X close upstream" });
                    self.link = Link::None;
                }
                Command::Close(Side::Upstream, mode) => {
                    self.note(if mode == CloseMode::Close { "X close upstream" } else { "X abort upstream" });
                    self.link = Link::None;
                }
                Command::Close(Side::Client, CloseMode::Close) => {
                    self.note("X close downstream");
                    self.is_over = true;
                    // The client takes it for the end of a close-delimited body.
                    self.answered.finish();
                }
                Command::Close(Side::Client, CloseMode::Abort) => {
                    self.note("X abort downstream");
                    self.is_over = true;
                }
                Command::Shutdown(Side::Upstream) => self.note("X shutdown upstream"),
                Command::Shutdown(Side::Client) => {
                    self.note("X shutdown downstream");
                    self.answered.finish();
                }
            }
            if self.link == Link::None {
                self.origin.incoming.clear();
                self.failing = None;
            }
        }
        moved
    }

    fn connected(&mut self, answer: Pool) {
        match answer {
            Pool::Fails(error) => self.failing = Some(error),
            Pool::Reused | Pool::New => {
                self.link = Link::Open;
                let request = self.answered.final_responses().count();
                let mut responses = Parser::new(Kind::Responses, Strictness::Lenient);
                if let Some(message) = self.asked.messages.get(request) {
                    responses
                        .expect_response(RequestInfo { method: message.head.method().to_owned(), is_http10: false });
                }
                let requests = Parser::new(Kind::Requests, Strictness::Strict);
                self.loans.push(Loan { request, requests, responses });
                self.handle(Input::Connected { reused: answer == Pool::Reused });
            }
            Pool::Pending => {}
        }
    }

    /// Writes what waits for that side, as far as it takes it.
    fn flush(&mut self, side: Side) -> bool {
        let mut moved = false;
        while self.is_there(side) {
            let waiting = self.exchange.output(side);
            let most = match side {
                Side::Client => self.client.takes,
                Side::Upstream => self.origin.takes,
            };
            let len = waiting.len().min(most.unwrap_or(usize::MAX));
            if len == 0 {
                break;
            }
            let len = self.split.taken(len);
            let bytes = waiting[..len].to_vec();
            if let Some(left) = &mut self.end(side).takes {
                *left -= len;
            }
            self.written(side, &bytes);
            self.with_env(|exchange, env| exchange.sent(env, side, len));
            moved = true;
        }
        moved
    }

    /// Reads from that side once, if the exchange wants to.
    fn pull(&mut self, side: Side) -> Result<bool, String> {
        if !self.is_there(side) {
            return Ok(false);
        }
        let wants_read = self.exchange.read_interest(side).is_some();
        let end = match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.origin,
        };
        let is_reset = side == Side::Client && end.ending == Some(Ending::Rst);
        if !end.incoming.is_empty() && (wants_read || !is_reset) {
            if wants_read {
                self.read(side)?;
            }
            return Ok(wants_read);
        }
        let Some(ending) = end.ending.filter(|_| !end.ended) else { return Ok(false) };
        // The event loop sees the reset of a client at once, everything else by reading.
        let is_seen = wants_read || is_reset;
        if is_seen {
            end.ended = true;
            self.finish(side);
            self.handle(match ending {
                Ending::Fin => Input::Eof(side),
                Ending::Rst => Input::Reset(side),
            });
        }
        Ok(is_seen)
    }

    fn read(&mut self, side: Side) -> Result<(), String> {
        let other = match side {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        };
        let is_open = self.is_there(other) && self.end(other).takes.is_none() && self.exchange.output(other).is_empty();
        let relayable = if self.lane && is_open { self.exchange.bypass_limit(side) } else { 0 };
        let waiting = self.end(side).incoming.len();
        let mut len = self.split.piece(waiting);
        let mut relayed = 0;
        if relayable > 0 {
            len = len.min(usize::try_from(relayable).unwrap_or(usize::MAX));
            relayed = self.split.relayed(len);
        }
        let bytes = self.end(side).take(len);
        self.delivered(side, &bytes);
        if relayed > 0 {
            self.written(other, &bytes[..relayed]);
            self.handle(Input::Bypassed(side, relayed as u64));
        }
        if relayed < len {
            self.handle(Input::Bytes(side, &bytes[relayed..]));
        }
        Ok(())
    }

    /// The exchange is given these bytes.
    fn delivered(&mut self, side: Side, bytes: &[u8]) {
        match side {
            Side::Client => {
                if self.is_tunnel {
                    return;
                }
                let before = self.asked.messages.len();
                self.asked.feed(bytes);
                let new = if self.refused.is_some() { &[] } else { &self.asked.messages[before..] };
                for message in new {
                    let asked =
                        RequestInfo { method: message.head.method().to_owned(), is_http10: message.head.is_http10() };
                    self.answered.expect_response(asked);
                }
            }
            Side::Upstream => {
                let Some(loan) = self.loans.last_mut() else { return };
                loan.responses.feed(bytes);
                if loan.responses.messages.last().is_some_and(|message| message.head.status() == 101) {
                    loan.requests.switch();
                }
            }
        }
    }

    /// That side has taken these bytes.
    fn written(&mut self, side: Side, bytes: &[u8]) {
        // A head that was not understood is answered too, once, and then the connection ends.
        if side == Side::Client
            && self.refused.is_none()
            && !self.is_tunnel
            && self.answered.is_between_messages()
            && self.answered.unanswered() == 0
            && (self.asked.has_rest() || self.asked.error.is_some())
        {
            self.refused = Some(self.answered.final_responses().count());
            self.answered.expect_response(RequestInfo { method: self.asked.first_word(), is_http10: false });
        }
        let parser = match side {
            Side::Client => &mut self.answered,
            Side::Upstream => match self.loans.last_mut() {
                Some(loan) => &mut loan.requests,
                None => return self.note("bytes for an upstream that is not there"),
            },
        };
        let tokens = parser.feed(bytes);
        if !self.is_tunnel && self.answered.messages.last().is_some_and(|message| message.head.status() == 101) {
            // What the client sent behind its request was never HTTP.
            self.is_tunnel = true;
            self.asked.messages.truncate(self.answered.final_responses().count());
            self.answered.expect_no_more();
        }
        self.transcript.extend(tokens.into_iter().map(|token| Entry::Bytes(side, token)));
    }

    /// That side has sent its last byte.
    fn finish(&mut self, side: Side) {
        if let (Side::Upstream, Some(loan)) = (side, self.loans.last_mut()) {
            loan.responses.finish();
        }
    }
}
