//! The loop itself, with faults and without any real time (rule M13): one worker in the test's own thread, its clock set by
//! hand, its sockets the ends of local pairs whose other ends are held here. Everything is made of one number and happens
//! again in the same way.
//!
//! Any read or write of the worker may be interrupted or told to come later, events come late, in any order, twice and for
//! nothing, connecting is refused or takes its time; peers write and read in pieces, break off, or say nothing more.
//! Clients verify that each answer is whole, and their own; origins that each request is.
//!
//! In a *fair* scenario nobody breaks off and no time passes: then every single answer has to be right, and a wake-up that
//! was forgotten shows as a standstill.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use socket2::SockRef;

use crate::config::Config;
use crate::proxy::exchange::{AccessRecord, Observer};
use crate::proxy::site::Site;
use crate::selftest::strict::{Asked, Kind, Parser, Whose};

use super::control::Control;
use super::door::Door;
use super::listen::Speaks;
use super::memory::Ledger;
use super::observer::Journal;
use super::renewal::Mailbox;
use super::resolve::{Inbox, Resolver, SystemResolver};
use super::socket::{Readiness, Stream};
use super::splice::Pipes;
use super::tls::Tls;
use super::token::Source;
use super::worker::{Seed, Worker};

/// Marsaglia's xorshift: the same numbers on every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `bound - 1`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    fn is_one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What stands between the worker and its sockets.
struct Weather {
    random: Random,
    /// Who was told to come later although it need not have: an event is due to it.
    owed: HashSet<RawFd>,
    tokens: HashMap<RawFd, Token>,
    /// The far ends of connections that the worker has made.
    dialed: Vec<UnixStream>,
    is_fair: bool,
}

thread_local! {
    static WEATHER: RefCell<Option<Weather>> = const { RefCell::new(None) };
}

fn with_weather<T>(call: impl FnOnce(&mut Weather) -> T) -> Option<T> {
    WEATHER.with_borrow_mut(|weather| weather.as_mut().map(call))
}

/// Instead of a call on a socket: an error that it might give at any time.
pub(super) fn strike(stream: &Stream) -> Option<io::Error> {
    with_weather(|weather| match weather.random.below(12) {
        0 => Some(ErrorKind::Interrupted.into()),
        1 => {
            weather.owed.insert(number_of(stream));
            Some(ErrorKind::WouldBlock.into())
        }
        _ => None,
    })?
}

/// A socket is registered.
pub(super) fn registered(stream: &Stream, token: Token) {
    with_weather(|weather| weather.tokens.insert(number_of(stream), token));
}

fn number_of(stream: &Stream) -> RawFd {
    match stream {
        Stream::Tcp(stream) => stream.as_raw_fd(),
        Stream::Unix(stream) => stream.as_raw_fd(),
    }
}

/// Instead of a connection to an address; `None` outside of these tests.
pub(super) fn dial(_: SocketAddr) -> Option<io::Result<Stream>> {
    with_weather(|weather| {
        if !weather.is_fair && weather.random.is_one_in(20) {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = pair()?;
        weather.dialed.push(far);
        Ok(near)
    })
}

/// Both ends of a connection. The buffers are small, so that writes go through in part.
fn pair() -> io::Result<(Stream, UnixStream)> {
    let (near, far) = UnixStream::pair()?;
    for end in [&near, &far] {
        end.set_nonblocking(true)?;
        SockRef::from(end).set_send_buffer_size(8 * 1024)?;
    }
    Ok((Stream::Unix(mio::net::UnixStream::from_std(near)), far))
}

/// What the worker said.
#[derive(Default)]
struct Said {
    answered: u64,
    bad: Vec<String>,
}

struct Ear(Rc<RefCell<Said>>, bool);

impl Observer for Ear {
    fn access(&mut self, record: &AccessRecord<'_>) {
        let mut said = self.0.borrow_mut();
        said.answered += 1;
        if let (Some(why), true) = (record.why, self.1) {
            said.bad.push(format!("in a fair scenario: status {} why={why}", record.status));
        }
    }
}

impl Journal for Ear {
    fn warn(&mut self, message: fmt::Arguments<'_>) {
        self.0.borrow_mut().bad.push(message.to_string());
    }
}

/// One end of a connection as its owner plays it.
struct Wire {
    socket: Option<UnixStream>,
    outgoing: VecDeque<u8>,
    /// Nothing is read for now.
    is_sulking: bool,
    has_shut: bool,
}

/// What a read found.
enum Heard {
    Bytes(Vec<u8>),
    Nothing,
    /// The other end closed; or broke off.
    End,
}

impl Wire {
    fn new(socket: UnixStream) -> Wire {
        Wire { socket: Some(socket), outgoing: VecDeque::new(), is_sulking: false, has_shut: false }
    }

    /// Writes a piece of what is due; says whether anything moved.
    fn write(&mut self, random: &mut Random) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let (front, _) = self.outgoing.as_slices();
        if front.is_empty() {
            return false;
        }
        let most = [1, 60, 3_000, 20_000, 60_000, 60_000, 60_000, 60_000][random.below(8)];
        let len = 1 + random.below(front.len().min(most));
        match socket.write(&front[..len]) {
            Ok(len) => {
                self.outgoing.drain(..len);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            // Nobody is there any more; what is to be read tells.
            Err(_) => {
                self.outgoing.clear();
                true
            }
        }
    }

    fn read(&mut self, random: &mut Random) -> Heard {
        let Some(socket) = self.socket.as_mut().filter(|_| !self.is_sulking) else { return Heard::Nothing };
        let most = [1, 4_000, 70_000, 70_000, 70_000, 70_000][random.below(6)];
        let mut buf = vec![0; 1 + random.below(most)];
        match socket.read(&mut buf) {
            Ok(0) => Heard::End,
            Ok(len) => {
                buf.truncate(len);
                Heard::Bytes(buf)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }

    fn shut(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Write);
            self.has_shut = true;
        }
    }
}

/// The bytes of body number `id`.
fn body(id: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| b'a' + ((id * 7 + at + at / 23) % 26) as u8).collect()
}

/// What a request asks for, told by its path: `/KIND/ID/LEN`.
#[derive(Clone, Debug)]
struct Ask {
    kind: usize,
    id: usize,
    len: usize,
}

impl Ask {
    fn new(random: &mut Random, id: usize) -> Ask {
        let lens = [0, 1, 50, 50, 300, 300, 300, 3_000, 3_000, 3_000, 30_000, 100_000];
        let len = lens[random.below(lens.len())];
        Ask { kind: random.below(9), id, len }
    }

    fn of(target: &str) -> Option<Ask> {
        let mut numbers = target.strip_prefix('/')?.split('/').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Ask { kind: next()?, id: next()?, len: next()? })
    }

    fn method(&self) -> &'static str {
        match self.kind {
            3 => "HEAD",
            4 | 5 => "POST",
            _ => "GET",
        }
    }

    fn uploads(&self) -> bool {
        matches!(self.kind, 4 | 5)
    }

    fn request(&self) -> Vec<u8> {
        let Ask { kind, id, len } = self;
        let head = format!("{} /{kind}/{id}/{len} HTTP/1.1\r\nHost: h\r\n", self.method());
        let content = body(*id, *len);
        match kind {
            4 => [format!("{head}Content-Length: {len}\r\n\r\n").as_bytes(), &content].concat(),
            5 => [format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(), chunks(&content)].concat(),
            _ => format!("{head}\r\n").into_bytes(),
        }
    }

    /// What the origin answers; `true`: it closes then.
    fn response(&self) -> (Vec<u8>, bool) {
        let Ask { kind, id, len } = self;
        let content = body(*id, *len);
        let head = format!("HTTP/1.1 200 OK\r\nX-Id: {id}\r\n");
        let whole = |head: &str| [format!("{head}Content-Length: {len}\r\n\r\n").as_bytes(), &content].concat();
        match kind {
            1 | 5 => {
                ([format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(), chunks(&content)].concat(), false)
            }
            2 => ([format!("{head}\r\n").as_bytes(), &content].concat(), true),
            3 => (format!("{head}Content-Length: {len}\r\n\r\n").into_bytes(), false),
            6 => (whole(&format!("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{head}")), false),
            7 => (format!("HTTP/1.1 204 No Content\r\nX-Id: {id}\r\n\r\n").into_bytes(), false),
            8 => (whole(&format!("{head}Connection: close\r\n")), true),
            _ => (whole(&head), false),
        }
    }

    fn is_close_delimited(&self) -> bool {
        self.kind == 2
    }

    fn has_body(&self) -> bool {
        !matches!(self.kind, 3 | 7)
    }
}

fn chunks(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in content.chunks(1 + content.len() / 3) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

struct Client {
    wire: Wire,
    asks: Vec<Ask>,
    /// Not written yet, the first one last.
    unasked: Vec<Ask>,
    pipelines: bool,
    answers: Parser,
    checked: usize,
    is_over: bool,
}

impl Client {
    fn finals(&self) -> usize {
        self.answers.finals().filter(|message| message.is_complete).count()
    }

    fn is_done(&self) -> bool {
        self.is_over || self.wire.socket.is_none() || (self.unasked.is_empty() && self.finals() == self.asks.len())
    }

    /// Asks the next, if it is time; reads what there is.
    fn act(&mut self, random: &mut Random, is_fair: bool) -> Result<bool, String> {
        if self.is_over {
            return Ok(false);
        }
        if self.wire.outgoing.is_empty()
            && (self.pipelines || self.finals() == self.asks.len())
            && let Some(ask) = self.unasked.pop()
        {
            self.answers.expect_answer(Asked { method: ask.method().to_owned(), is_http10: false });
            self.wire.outgoing.extend(ask.request());
            self.asks.push(ask);
        }
        let mut moved = self.wire.write(random);
        match self.wire.read(random) {
            Heard::Nothing => {}
            Heard::Bytes(bytes) => {
                self.answers.feed(&bytes);
                moved = true;
            }
            Heard::End => {
                self.answers.finish();
                self.is_over = true;
                self.wire.socket = None;
                moved = true;
            }
        }
        self.check(is_fair)?;
        Ok(moved)
    }

    /// Each answer is to its own request, and not longer than it should be.
    fn check(&mut self, is_fair: bool) -> Result<(), String> {
        if let Some(error) = &self.answers.error {
            return Err(format!("a client was sent: {error}"));
        }
        if self.answers.unasked > 0 {
            return Err("a client got an answer that it never asked for".to_owned());
        }
        let finals: Vec<_> = self.answers.finals().collect();
        for (message, ask) in finals.iter().zip(&self.asks).skip(self.checked) {
            let Some(id) = message.head.values("x-id").next() else { continue };
            if id != ask.id.to_string() {
                return Err(format!("the answer to {id} was given to whom asked for {}", ask.id));
            }
            if !message.is_complete && !self.is_over {
                break;
            }
            let expected = if ask.has_body() { body(ask.id, ask.len) } else { Vec::new() };
            // Nobody can tell where a body of this kind was meant to end when its origin breaks off.
            let may_be_short = !message.is_complete || (ask.is_close_delimited() && !is_fair);
            if message.body != expected && !(may_be_short && expected.starts_with(&message.body)) {
                let (got, wanted) = (message.body.len(), expected.len());
                return Err(format!("the body of {ask:?} is wrong: {got} bytes of {wanted}, taken for complete"));
            }
        }
        self.checked = finals.iter().take_while(|message| message.is_complete).count();
        Ok(())
    }
}

struct Origin {
    wire: Wire,
    requests: Parser,
    answered: usize,
    closes: bool,
    is_mute: bool,
}

impl Origin {
    fn act(&mut self, random: &mut Random) -> Result<bool, String> {
        if self.wire.socket.is_none() {
            return Ok(false);
        }
        let mut moved = self.wire.write(random);
        match self.wire.read(random) {
            Heard::Nothing => {}
            Heard::Bytes(bytes) => {
                self.requests.feed(&bytes);
                moved = true;
            }
            Heard::End => {
                self.wire.socket = None;
                return Ok(true);
            }
        }
        if let Some(error) = &self.requests.error {
            return Err(format!("an origin was sent: {error}"));
        }
        if let Some(request) = self.requests.messages.get(self.answered).filter(|request| request.is_complete) {
            if !self.wire.outgoing.is_empty() {
                return Err("an origin was asked again before it had answered".to_owned());
            }
            let target = request.head.start.split(' ').nth(1).unwrap_or_default();
            let ask = Ask::of(target).ok_or_else(|| format!("an origin was asked for {target}"))?;
            let expected = if ask.uploads() { body(ask.id, ask.len) } else { Vec::new() };
            if request.body != expected || request.head.method() != ask.method() {
                return Err(format!("the request {ask:?} arrived changed"));
            }
            self.answered += 1;
            if !self.is_mute {
                let (bytes, closes) = ask.response();
                self.wire.outgoing.extend(bytes);
                self.closes = closes;
            }
            moved = true;
        }
        if self.closes && self.wire.outgoing.is_empty() && !self.wire.has_shut {
            self.wire.shut();
            moved = true;
        }
        Ok(moved)
    }
}

struct World {
    random: Random,
    worker: Worker,
    events: Events,
    now: Instant,
    /// Events that have not been handed over yet.
    held: Vec<(Token, Readiness)>,
    clients: Vec<Client>,
    origins: Vec<Origin>,
    said: Rc<RefCell<Said>>,
    is_fair: bool,
}

/// A round without anything that moves is a standstill only when it is not the weather's doing.
const STILL: u32 = 60;

impl World {
    fn new(seed: u64, site: &Rc<Site>, resolver: &Resolver) -> World {
        let mut random = Random::new(seed);
        let is_fair = random.below(2) == 0;
        let tokens = HashMap::new();
        let weather = Weather { random: Random::new(!seed), owed: HashSet::new(), tokens, dialed: Vec::new(), is_fair };
        WEATHER.set(Some(weather));
        let poll = Poll::new().expect("a poller");
        let waker = Arc::new(Waker::new(poll.registry(), Source::Waker.token()).expect("a waker"));
        let budget = random.is_one_in(4).then_some(1 << 20);
        let said = Rc::new(RefCell::new(Said::default()));
        let seed = Seed {
            poll,
            door: Door::new(Vec::new(), 100),
            ledger: Ledger::new(budget, 1),
            pipes: Pipes::new(random.below(3)),
            resolver: resolver.clone(),
            inbox: Arc::new(Inbox::new(Arc::clone(&waker))),
            mailbox: Arc::new(Mailbox::new(Arc::clone(&waker))),
            control: Arc::new(Control::new(vec![waker])),
            tls: Tls::prepare(&site.config).expect("there is none"),
        };
        let worker = Worker::new(seed, Rc::clone(site), Box::new(Ear(Rc::clone(&said), is_fair)));
        let now = worker.around.now();
        let (held, clients, origins) = (Vec::new(), Vec::new(), Vec::new());
        World { random, worker, events: Events::with_capacity(64), now, held, clients, origins, said, is_fair }
    }

    fn add_client(&mut self, first_id: usize) {
        let (near, far) = pair().expect("a pair of sockets");
        self.worker.welcome(near, Some("192.0.2.1:5000".parse().expect("an address")), Speaks::Plain);
        let count = 1 + self.random.below(6);
        let unasked = (0..count).map(|number| Ask::new(&mut self.random, first_id + number)).collect();
        self.clients.push(Client {
            wire: Wire::new(far),
            asks: Vec::new(),
            unasked,
            pipelines: self.random.is_one_in(3),
            answers: Parser::new(Kind::Responses, Whose::Written),
            checked: 0,
            is_over: false,
        });
    }

    /// One turn of the worker, with the events that the weather lets through.
    fn turn(&mut self) -> Result<bool, String> {
        self.worker.poll.poll(&mut self.events, Some(Duration::ZERO)).map_err(|error| error.to_string())?;
        self.held.extend(self.events.iter().map(|event| (event.token(), Readiness::of(event))));
        let owed = with_weather(|weather| {
            let due: Vec<RawFd> = weather.owed.drain().collect();
            due.into_iter().filter_map(|fd| weather.tokens.get(&fd).copied()).collect::<Vec<_>>()
        });
        let had_owed = owed.as_ref().is_some_and(|owed| !owed.is_empty());
        self.held.extend(owed.into_iter().flatten().map(|token| (token, Readiness::ALL)));
        let mut given = Vec::new();
        for event in std::mem::take(&mut self.held) {
            match self.random.below(8) {
                0 => self.held.push(event),
                1 => given.extend([event, event]),
                _ => given.push(event),
            }
        }
        for last in (1..given.len()).rev() {
            given.swap(last, self.random.below(last + 1));
        }
        let moved = had_owed || !given.is_empty() || !self.held.is_empty();
        self.worker.around.clock.set(self.now);
        self.worker.act(given.into_iter());
        for far in with_weather(|weather| std::mem::take(&mut weather.dialed)).unwrap_or_default() {
            self.origins.push(Origin {
                wire: Wire::new(far),
                requests: Parser::new(Kind::Requests, Whose::Written),
                answered: 0,
                closes: false,
                is_mute: !self.is_fair && self.random.is_one_in(12),
            });
        }
        Ok(moved)
    }

    /// Something that is nobody's plan.
    fn mishap(&mut self) {
        let which = self.random.below(self.clients.len() + self.origins.len());
        let kind = self.random.below(6);
        if kind == 5 {
            self.now += Duration::from_millis([1, 1_500, 5_000, 20_000][self.random.below(4)]);
            return;
        }
        let wire = match which.checked_sub(self.clients.len()) {
            None => {
                let client = &mut self.clients[which];
                if kind == 4 {
                    client.unasked.clear();
                }
                &mut client.wire
            }
            Some(which) => {
                let origin = &mut self.origins[which];
                origin.is_mute |= kind == 4;
                &mut origin.wire
            }
        };
        match kind {
            0 => wire.socket = None,
            1 => wire.shut(),
            2 => wire.is_sulking = true,
            3 => wire.is_sulking = false,
            // Falls silent in the midst of it.
            _ => wire.outgoing.clear(),
        }
    }

    /// Plays until everybody has what they wanted, or has given up.
    fn play(&mut self) -> Result<(), String> {
        let mut still = 0;
        let mut rounds = 0_u64;
        while !self.clients.iter().all(Client::is_done) {
            rounds += 1;
            if rounds > 2_000_000 {
                return Err("it never ends".to_owned());
            }
            let mut moved = false;
            match self.random.below(3) {
                0 => moved |= self.turn()?,
                1 if !self.clients.is_empty() => {
                    let which = self.random.below(self.clients.len());
                    moved |= self.clients[which].act(&mut self.random, self.is_fair)?;
                }
                _ if !self.origins.is_empty() => {
                    let which = self.random.below(self.origins.len());
                    moved |= self.origins[which].act(&mut self.random)?;
                }
                _ => {}
            }
            if !self.is_fair && self.random.is_one_in(400) {
                self.mishap();
            }
            if let Some(bad) = self.said.borrow().bad.first() {
                return Err(bad.clone());
            }
            let most = STILL * (1 + self.clients.len() + self.origins.len()) as u32;
            still = if moved { 0 } else { still + 1 };
            if still > most {
                still = 0;
                if self.is_fair {
                    return Err("a standstill: somebody was not woken".to_owned());
                }
                let wires = self.clients.iter_mut().map(|client| &mut client.wire);
                let wires = wires.chain(self.origins.iter_mut().map(|origin| &mut origin.wire));
                if wires.map(|wire| std::mem::take(&mut wire.is_sulking)).fold(false, |a, b| a | b) {
                    continue;
                }
                // Somebody waits for somebody who will not come: time-outs are for that.
                let Some(next) = self.worker.timers.next() else {
                    return Err("a standstill without a time-out".to_owned());
                };
                self.now = self.now.max(next);
            }
        }
        Ok(())
    }

    fn is_deserted(&self) -> bool {
        let Worker { clients, links, run_queue, graveyard, securing, hungry, .. } = &self.worker;
        let waiting = run_queue.len() + graveyard.len() + securing.len() + hungry.new.len() + hungry.under_way.len();
        clients.len() + links.len() + waiting == 0
    }

    /// Everybody leaves; then nothing may be left.
    fn clear(&mut self) -> Result<(), String> {
        self.clients.iter_mut().for_each(|client| client.wire.socket = None);
        self.origins.iter_mut().for_each(|origin| origin.wire.socket = None);
        for _ in 0..200 {
            self.turn()?;
            self.origins.iter_mut().for_each(|origin| origin.wire.socket = None);
            if self.is_deserted() && self.held.is_empty() {
                break;
            }
            if let Some(next) = self.worker.timers.next() {
                self.now = self.now.max(next);
            }
        }
        if !self.is_deserted() {
            return Err("everybody has left, and something is still there".to_owned());
        }
        if self.worker.patience() == Some(Duration::ZERO) {
            return Err("nothing to do, and no rest".to_owned());
        }
        self.said.borrow().bad.first().map_or(Ok(()), |bad| Err(bad.clone()))
    }
}

/// Plays one scenario; returns how many exchanges it had.
fn scenario(seed: u64, site: &Rc<Site>, resolver: &Resolver) -> Result<u64, String> {
    let mut world = World::new(seed, site, resolver);
    for number in 0..1 + world.random.below(4) {
        world.add_client(1000 * (1 + number));
    }
    let result = world.play().and_then(|()| world.clear());
    let answered = world.said.borrow().answered;
    WEATHER.set(None);
    result.map(|()| answered)
}

fn contained(seed: u64, site: &Rc<Site>, resolver: &Resolver) -> Result<u64, String> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed, site, resolver)));
    let result = outcome.unwrap_or_else(|_| Err("a panic, see above".to_owned()));
    let again = format!("again: FAULT_SEED={seed:#x} cargo test --lib net::loop_faults");
    result.map_err(|error| format!("seed {seed:#x}: {error}\n{again}"))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, and not {text:?}")))
}

/// Enough to be worth it without an optimising compiler; `make faults` asks for more.
const DEFAULT_EXCHANGES: u64 = 2_000;

#[test]
fn m13_whatever_the_sockets_do_everybody_gets_their_own_answers() {
    let config = "routes: [{prefix: /, upstream: 'http://127.0.0.1:9'}]\npool: {idle_timeout: 1s}\n";
    let config = Arc::new(Config::parse(config, "test").expect("it is valid"));
    let resolver = Resolver::start(Box::new(SystemResolver), Duration::from_secs(30), Vec::new()).expect("threads");
    if let Some(seed) = number("FAULT_SEED") {
        let site = Rc::new(Site::new(config, None));
        let exchanges = contained(seed, &site, &resolver).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed:#x}: {exchanges} exchanges");
        resolver.stop();
        return;
    }
    let wanted = number("LOOP_FAULT_EXCHANGES").unwrap_or(DEFAULT_EXCHANGES);
    let first = number("FAULT_FIRST").unwrap_or(1);
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failure = std::thread::scope(|scope| {
        let work = || {
            let site = Rc::new(Site::new(Arc::clone(&config), None));
            while done.load(Ordering::Relaxed) < wanted {
                let exchanges = contained(next.fetch_add(1, Ordering::Relaxed), &site, &resolver)?;
                done.fetch_add(exchanges, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().find_map(|worker| worker.join().expect("panics are caught").err())
    });
    resolver.stop();
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    let scenarios = next.load(Ordering::Relaxed) - first;
    println!("{} exchanges through the loop in {scenarios} scenarios", done.load(Ordering::Relaxed));
}
