//! The states of a connection with their data, and every transition between them.
//!
//! A client's connection has a state of its own. While a request is under way (`Transaction`), each side has one, too:
//! `RequestState` for what is read from the client, `ResponseState` for what is read from the upstream. A state
//! changes only by `Transaction::set_request`, `Transaction::set_response` and `ProxyConnection::set_state`, which in debug
//! builds panic at a transition that is not in the tables below. `cargo run --example states` draws them, and
//! docs/architecture.md shows the drawing. `cargo test --test wire` fails where a row of them is never used.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::events::{CloseMode, Side};
use super::memory::{Buffers, Reservation, method_memory};
use super::request_log::RequestLog;
use super::runtime::{Runtime, UpstreamId};
use super::tickets::Ticket;
use crate::config::{HeaderEdits, RouteConfig, UpstreamUrl};
use crate::extras::balance::Lease;
use crate::http::body::Body;
use crate::http::framing::Framing;
use crate::http::head::HeadParser;
use crate::mono_time::MonoTime;

/// The client's connection.
#[derive(Debug)]
pub(super) enum ConnectionState {
    /// Between requests. No buffer is owned. `skipped`: so many bytes have come of an empty line in front of the next one.
    Idle { since: MonoTime, skipped: u8 },
    /// From the first byte of a request to the last byte of its response.
    Active(Box<Transaction>),
    /// Our last byte was sent; the client's are read and thrown away so that a reset does not overtake our response.
    Lingering { since: MonoTime, last_read: MonoTime },
    /// Over.
    Closed,
}

/// What is being read from the client.
#[derive(Debug, Default)]
pub(super) enum RequestState {
    /// The head, since its first byte (or since the response before it).
    Head { since: MonoTime, parser: HeadParser },
    /// The body, of which at most `max_bytes` may come. `awaits_continue`: the client sends nothing of it before it gets
    /// `100 Continue`, or so it said.
    Body { body: Body, mode: BodyMode, max_bytes: u64, awaits_continue: bool },
    /// Nothing: the request is complete. What comes is held for the next one.
    #[default]
    Done,
    /// The rest of a request that is not wanted any more; it is thrown away.
    Discard,
    /// Bytes of an upgraded connection.
    Tunnel(HalfClose),
}

/// What is being read from the upstream.
#[derive(Debug, Default)]
pub(super) enum ResponseState {
    /// Nothing: no upstream is needed yet.
    #[default]
    None,
    /// A connection was asked for.
    Connecting { since: MonoTime },
    /// The response head, after so many interim responses.
    AwaitHead { interim: u32, reuse: Reuse, parser: HeadParser },
    /// The response body. `is_pushed`: it is made of parts that come whenever there is news, and may be silent for as long
    /// as it likes.
    Body { body: Body, mode: BodyMode, reuse: Reuse, is_pushed: bool },
    /// Nothing, and nothing of the client's body: a plugin has paused what comes next.
    Paused { since: MonoTime, ticket: Ticket, next: Suspended },
    /// Nothing more: the response is complete, and the rest of the request is still on its way to the upstream.
    AwaitUpload,
    /// Nothing: the response is complete, the upstream's or one of our own, and no upstream connection is held.
    Done,
    /// Bytes of an upgraded connection.
    Tunnel(HalfClose),
    /// Nothing: the end came too early. The client's connection is closed in this way when it has got what there was.
    Closing(CloseMode),
}

impl ResponseState {
    /// Whether the response is complete, or there is a tunnel, or an end.
    pub fn is_late(&self) -> bool {
        use ResponseState::{AwaitUpload, Closing, Done, Tunnel};
        matches!(self, AwaitUpload | Done | Tunnel(_) | Closing(_))
    }
}

/// What a pause holds up.
#[derive(Debug)]
pub(super) enum Suspended {
    /// The request: no upstream is needed yet.
    Request,
    /// The response, of which this is still to come.
    Response { body: Body, reuse: Reuse, is_pushed: bool },
}

/// Where a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyMode {
    /// To the other side without framing of ours: its length was announced, or the end of the connection ends it.
    Passthrough,
    /// To the other side in chunks of ours.
    Chunked,
    /// Into memory, for plugins. The head waits for them.
    Buffer,
}

/// One direction of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HalfClose {
    /// Bytes may come.
    Open,
    /// The sender has ended; the receiver is told when it has got everything.
    EofReceived,
    /// The receiver was told.
    ShutdownSent,
    /// The upstream takes no more. The client may still be sending.
    Lost,
}

/// What may become of the upstream's connection after the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// It may serve any client.
    Shared,
    /// The client may have logged in on it: it serves this client's connection and no other.
    LoginBound,
    /// It is closed.
    No,
}

/// Transitions: from any of these states, at this event, to that state.
pub struct Table {
    rows: &'static [(&'static str, &'static str, &'static str)],
    /// Which of `transitions` were made so far; in debug builds only.
    made: [AtomicBool; 64],
}

/// The client's connection.
pub static CONNECTION: Table = Table::new(&[
    ("Idle", "first byte of a request", "Active"),
    ("Idle", "EOF, time-out or drain", "Closed"),
    ("Idle", "bad PROXY header", "Closed"),
    ("Active", "answered, keep-alive", "Idle"),
    ("Active", "answered, close", "Closed"),
    ("Active", "answered, the client may be sending", "Lingering"),
    ("Lingering", "EOF or time-out", "Closed"),
]);

/// The client's side of a request; `Head` is the first state of each. The last four are directions of a tunnel.
pub static REQUEST: Table = Table::new(&[
    ("Head", "head, no body", "Done"),
    ("Head", "head, body follows", "Body"),
    ("Head Body", "rest not wanted", "Discard"),
    ("Body", "body complete", "Done"),
    ("Body Discard", "EOF after the response", "Done"),
    ("Done", "101", "Open"),
    ("Open", "EOF", "EofReceived"),
    ("EofReceived", "all passed on", "ShutdownSent"),
    ("Open EofReceived ShutdownSent", "upstream takes no more", "Lost"),
    ("Open EofReceived ShutdownSent Lost", "rest not wanted", "Discard"),
]);

/// The upstream's side of a request; `None` is the first state of each. The last three are directions of a tunnel.
pub static RESPONSE: Table = Table::new(&[
    ("None Connecting AwaitHead Body Paused", "our own response", "Done"),
    ("None Body", "pause", "Paused"),
    ("Paused", "request resumed", "None"),
    ("Paused", "response resumed", "Body"),
    ("None Connecting AwaitHead", "connection asked for", "Connecting"),
    ("Connecting", "connected", "AwaitHead"),
    ("Connecting", "connect failed", "None"),
    ("AwaitHead", "1xx", "AwaitHead"),
    ("AwaitHead", "101", "Open"),
    ("AwaitHead", "final head", "Body"),
    ("Body", "response complete before the request", "AwaitUpload"),
    ("Body AwaitUpload", "response complete", "Done"),
    ("Open", "EOF", "EofReceived"),
    ("EofReceived", "all passed on", "ShutdownSent"),
    ("Body Open EofReceived ShutdownSent", "truncated", "Closing"),
    (
        "None Connecting AwaitHead Body Paused AwaitUpload Done Open EofReceived ShutdownSent Closing",
        "client lost",
        "Closing",
    ),
    ("Open EofReceived ShutdownSent", "tunnel idle", "Closing"),
]);

impl Table {
    const fn new(rows: &'static [(&'static str, &'static str, &'static str)]) -> Table {
        Table { rows, made: [const { AtomicBool::new(false) }; 64] }
    }

    /// From one state, at an event, to another.
    pub fn transitions(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.rows.iter().flat_map(|(from, event, to)| from.split(' ').map(move |from| (from, *event, *to)))
    }

    /// Those that were never made since the program began. In release builds that is not known.
    pub fn unused(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.transitions()
            .zip(&self.made)
            .filter(|(_, made)| !made.load(Ordering::Relaxed))
            .map(|(transition, _)| transition)
    }

    /// Panics in debug builds where the transition is not in the table.
    pub(super) fn check(&self, from: &impl fmt::Debug, event: &str, to: &impl fmt::Debug) {
        if cfg!(debug_assertions) {
            let is_it = |(a, at, b): (&str, &str, &str)| at == event && is_named(from, a) && is_named(to, b);
            let found = self.transitions().zip(&self.made).find(|(transition, _)| is_it(*transition));
            let (_, made) = found.unwrap_or_else(|| panic!("no transition from {from:?} at {event:?} to {to:?}"));
            made.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether a state has that name: it is the first word that `Debug` writes, and of a tunnel that of the direction.
fn is_named(state: &impl fmt::Debug, name: &str) -> bool {
    struct FirstWord<'a>(&'a str, bool);

    impl fmt::Write for FirstWord<'_> {
        fn write_str(&mut self, word: &str) -> fmt::Result {
            self.1 = word == self.0;
            if matches!(word, "Tunnel" | "(") { Ok(()) } else { Err(fmt::Error) }
        }
    }

    let mut first = FirstWord(name, false);
    let _ = write!(first, "{state:?}");
    first.1
}

/// One request and its response.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub request_state: RequestState,
    pub response_state: ResponseState,
    /// All memory that is kept for the next request.
    pub buf: Buffers,
    /// Which route the request takes, once it is admitted to one; kept for the log.
    pub route_index: Option<u32>,
    /// Which of its upstreams, where the route has several.
    pub attempt: Option<UpstreamAttempt>,
    /// Whether part of the request body was passed on: from then on the request cannot be sent again.
    pub has_upload_begun: bool,
    /// Whether the client's connection may serve another request.
    pub is_persistent: bool,
    /// The memory that bodies for plugins may take.
    pub reserved: Reservation,
    pub last_activity: LastActivity,
    pub log: RequestLog,
    /// How the client frames its body.
    pub request_framing: Framing,
    /// The final response, from its head on until hooks have let it pass.
    pub received: ReceivedHead,
    /// Whether its body is larger than plugins may be given: it streams on.
    pub request_too_large: bool,
    /// The same of the response.
    pub response_too_large: bool,
}

/// What the head of a final response said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReceivedHead {
    pub status: u16,
    pub framing: Framing,
    /// Its Content-Length, where that is not the framing.
    pub declared: Option<u64>,
    /// It came before the whole request had left.
    pub is_early: bool,
}

/// The upstream that a request goes to, where its route has several.
#[derive(Debug)]
pub(super) struct UpstreamAttempt {
    /// Its number within the route.
    pub nth: usize,
    /// The right to use it.
    pub lease: Lease,
    /// The bits of those that were tried, this one included.
    pub tried: u64,
    /// What was queued for it: the length of the head, and the framing that it announces. Another upstream gets a head of
    /// its own.
    pub queued: (usize, Framing),
    /// How many connections ended before they brought a response.
    pub losses: u8,
}

/// When each side last made progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastActivity {
    pub client_read: MonoTime,
    pub client_write: MonoTime,
    pub upstream_read: MonoTime,
    pub upstream_write: MonoTime,
}

impl Transaction {
    /// Begins a request: nothing is left of the one before but memory, and client bytes that were held.
    pub fn restart(&mut self, now: MonoTime) {
        // Each field is named: one that is forgotten would pass from one request to the next.
        let Transaction {
            request_state,
            response_state,
            buf,
            route_index,
            attempt,
            has_upload_begun,
            is_persistent,
            reserved,
            last_activity,
            log,
            request_framing,
            received,
            request_too_large,
            response_too_large,
        } = self;
        *request_state = RequestState::Head { since: now, parser: HeadParser::default() };
        *response_state = ResponseState::None;
        buf.clear();
        (*route_index, *attempt) = (None, None);
        (*has_upload_begun, *is_persistent) = (false, true);
        reserved.shrink_to(0);
        *last_activity = LastActivity { client_read: now, client_write: now, upstream_read: now, upstream_write: now };
        *log = RequestLog { started: now, ..RequestLog::default() };
        (*request_framing, *received) = (Framing::None, ReceivedHead::default());
        (*request_too_large, *response_too_large) = (false, false);
    }

    /// Which route the request takes.
    pub fn route<'a>(&self, runtime: &'a Runtime) -> Option<&'a RouteConfig> {
        self.route_index.map(|index| &runtime.config.routes[index as usize])
    }

    /// The chosen upstream, or the only one; none where the route redirects.
    pub fn upstream<'a>(&self, runtime: &'a Runtime) -> Option<&'a UpstreamUrl> {
        self.route(runtime)?.upstreams().get(self.nth_upstream())
    }

    /// What is changed in the field lines of its responses, by the top level and by its route.
    pub fn response_headers<'a>(&self, runtime: &'a Runtime) -> [&'a Option<Arc<HeaderEdits>>; 2] {
        [&runtime.config.response_headers, self.route(runtime).map_or(&None, |route| &route.options.response_headers)]
    }

    pub fn upstream_id(&self, runtime: &Runtime) -> Option<UpstreamId> {
        runtime.upstreams_of(self.route_index?).get(self.nth_upstream()).copied()
    }

    fn nth_upstream(&self) -> usize {
        self.attempt.as_ref().map_or(0, |attempt| attempt.nth)
    }

    /// Moves the client's side to another state.
    pub fn set_request(&mut self, event: &str, to: RequestState) {
        REQUEST.check(&self.request_state, event, &to);
        self.request_state = to;
    }

    /// Moves the upstream's side to another state.
    pub fn set_response(&mut self, event: &str, to: ResponseState) {
        RESPONSE.check(&self.response_state, event, &to);
        self.response_state = to;
    }

    /// How many bytes of memory it owns. What is reserved for bodies counts before they are there.
    pub fn memory(&self) -> usize {
        let details = self.log.details.as_ref().map_or(0, |details| details.memory());
        let log = self.log.method.as_ref().map_or(0, method_memory) + details;
        (size_of::<Transaction>() + self.buf.memory() + log).max(self.reserved.bytes)
    }

    /// Whether the connection is a tunnel.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.response_state, ResponseState::Tunnel(_))
    }

    /// Whether an upstream connection is in use, or asked for.
    pub fn holds_upstream(&self) -> bool {
        !matches!(
            self.response_state,
            ResponseState::None
                | ResponseState::Paused { next: Suspended::Request, .. }
                | ResponseState::Done
                | ResponseState::Closing(_)
        )
    }

    /// Whether bytes can be written to the upstream.
    pub fn is_connected(&self) -> bool {
        self.holds_upstream() && !matches!(self.response_state, ResponseState::Connecting { .. })
    }

    /// Whether the client has been given the head of a final response, or part of one.
    pub fn has_response_begun(&self) -> bool {
        let is_sent = matches!(self.response_state, ResponseState::Body { mode, .. } if mode != BodyMode::Buffer);
        is_sent || self.response_state.is_late()
    }

    /// The client may wait for `100 Continue` for as long as the upstream makes it.
    pub fn is_upload_held_back(&self) -> bool {
        matches!(self.request_state, RequestState::Body { awaits_continue: true, .. }) && !self.has_response_begun()
    }
}

impl LastActivity {
    /// A peer has taken bytes. That also restarts the clock of the side that it had held up.
    pub fn on_written(&mut self, now: MonoTime, side: Side) {
        match side {
            Side::Client => (self.client_write, self.upstream_read) = (now, now),
            Side::Upstream => (self.upstream_write, self.client_read) = (now, now),
        }
    }

    /// The last activity of either side.
    pub fn latest(&self) -> MonoTime {
        self.client_read.max(self.client_write).max(self.upstream_read).max(self.upstream_write)
    }
}

/// A transaction that owns more is not kept: 16 KiB in chunks, in a queue that has grown by doubling, and two heads fit. Making
/// another one costs less than what it takes to fill so much.
const MAX_KEPT: usize = 40 * 1024;

/// How many recycled transactions a worker keeps.
const KEPT_TRANSACTIONS: usize = 64;

/// Transactions that are not in use, one set per worker.
#[derive(Debug)]
pub struct TransactionPool {
    // The boxes themselves are what is kept: a connection's slot holds one word, and taking one allocates nothing.
    boxes: Vec<(Box<Transaction>, usize)>,
    /// The most bytes to keep, and how many are kept, of which each box knows its part.
    most: usize,
    kept: usize,
    /// What is left for bodies that plugins read.
    pub(super) left_for_bodies: Rc<Cell<usize>>,
}

impl Default for TransactionPool {
    fn default() -> Self {
        TransactionPool::of(usize::MAX, usize::MAX)
    }
}

impl TransactionPool {
    /// None yet; at most `most` bytes are kept. Bodies that plugins read take at most `bodies`.
    pub fn of(most: usize, bodies: usize) -> TransactionPool {
        TransactionPool { boxes: Vec::new(), most, kept: 0, left_for_bodies: Rc::new(Cell::new(bodies)) }
    }

    /// Keeps none of those that there are. What is reserved stays so.
    pub fn clear(&mut self) {
        self.boxes.clear();
        self.kept = 0;
    }

    pub(super) fn take(&mut self, now: MonoTime) -> Box<Transaction> {
        let mut transaction = self.boxes.pop().map_or_else(Box::default, |(transaction, memory)| {
            self.kept -= memory;
            transaction
        });
        transaction.restart(now);
        transaction
    }

    pub(super) fn recycle(&mut self, mut transaction: Box<Transaction>) {
        // What the client sent beside its request.
        transaction.buf.client_input.clear();
        transaction.reserved.shrink_to(0);
        let memory = transaction.memory();
        if self.boxes.len() < KEPT_TRANSACTIONS && memory <= MAX_KEPT.min(self.most - self.kept) {
            self.kept += memory;
            self.boxes.push((transaction, memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{Method, RequestHead};
    use crate::proxy::hooks::ChainState;
    use crate::proxy::request_log::RequestDetails;

    /// Makes one buffer own a lot.
    type Grow = fn(&mut Transaction, Vec<u8>);

    const EVERY_BUFFER: [(&str, Grow); 24] = [
        ("client input", |transaction, bytes| transaction.buf.client_input = bytes),
        ("upstream input", |transaction, bytes| transaction.buf.upstream_input = bytes),
        ("to the client", |transaction, bytes| *transaction.buf.to_client.buf() = bytes),
        ("to the upstream", |transaction, bytes| *transaction.buf.to_upstream.buf() = bytes),
        ("method", |transaction, bytes| transaction.buf.request.method = Method::of(&bytes)),
        ("logged method", |transaction, bytes| transaction.log.method = Some(Method::of(&bytes))),
        ("target", |transaction, bytes| transaction.buf.request.target = bytes),
        ("authority", |transaction, bytes| transaction.buf.request.authority = bytes),
        ("request fields", |transaction, bytes| transaction.buf.request.fields.add(b"a", &bytes)),
        ("reason", |transaction, bytes| transaction.buf.response.reason = bytes),
        ("response fields", |transaction, bytes| transaction.buf.response.fields.add(b"a", &bytes)),
        ("trailers", |transaction, bytes| transaction.buf.trailers.add(b"a", &bytes)),
        ("original target", |transaction, bytes| transaction.buf.original_target = bytes),
        ("new target", |transaction, bytes| transaction.buf.new_target = bytes),
        ("offered protocols", |transaction, bytes| transaction.buf.offered = bytes),
        ("request body", |transaction, bytes| transaction.buf.request_body = bytes),
        ("response body", |transaction, bytes| transaction.buf.response_body = bytes),
        ("plugin values", |transaction, bytes| chain(transaction).values.push((b"key".to_vec(), bytes))),
        ("plugin keys", |transaction, bytes| chain(transaction).values.push((bytes, Vec::new()))),
        ("pairs of the access line", |transaction, bytes| chain(transaction).pairs.push((b"key".to_vec(), bytes))),
        ("named by Connection", |transaction, bytes| transaction.buf.scratch.connection_named = bytes),
        ("logged Host", |transaction, bytes| details(transaction).host = bytes),
        ("logged Referer", |transaction, bytes| details(transaction).referer = bytes),
        ("logged User-Agent", |transaction, bytes| details(transaction).user_agent = bytes),
    ];

    fn details(transaction: &mut Transaction) -> &mut RequestDetails {
        transaction.log.details.insert(RequestDetails::of(&RequestHead::default(), true))
    }

    fn chain(transaction: &mut Transaction) -> &mut ChainState {
        transaction.buf.chain.get_or_insert_default()
    }

    #[test]
    fn e4_everything_that_grows_with_what_peers_send_is_counted() {
        const LEN: usize = 200 * 1024;
        let empty = Transaction::default().memory();
        for (name, grow) in EVERY_BUFFER {
            let mut transaction = Transaction::default();
            grow(&mut transaction, vec![b'x'; LEN]);
            assert!(transaction.memory() >= empty + LEN, "{name} is not counted");
        }
    }

    #[test]
    fn e4_what_is_recycled_is_little_and_finds_room() {
        const KIB: usize = 1024;
        for (name, most, grown, is_kept) in [
            ("16 KiB in chunks", usize::MAX, 32 * KIB, true),
            ("a large body", usize::MAX, 200 * KIB, false),
            ("room", 40 * KIB, 32 * KIB, true),
            ("little room", 24 * KIB, 32 * KIB, false),
        ] {
            let mut transactions = TransactionPool::of(most, usize::MAX);
            let mut transaction = transactions.take(MonoTime::FIRST);
            transaction.buf.client_input.extend_from_slice(b"of the next request");
            transaction.buf.to_client.buf().reserve_exact(grown);
            transactions.recycle(transaction);
            let kept = transactions.boxes.first().map(|(transaction, _)| transaction.buf.to_client.capacity());
            assert_eq!(kept, is_kept.then_some(grown), "{name}");
            assert!(transactions.kept <= most, "{name}");
            let again = transactions.take(MonoTime::FIRST);
            assert!(again.buf.client_input.is_empty(), "{name}: nobody gets what another client sent");
            assert_eq!(transactions.kept, 0, "{name}");
        }
    }

    #[test]
    fn e4_what_is_recycled_finds_room_beside_what_is_kept() {
        let one = Transaction::default().memory();
        let mut transactions = TransactionPool::of(2 * one, usize::MAX);
        let all = [(); 3].map(|()| transactions.take(MonoTime::FIRST));
        all.into_iter().for_each(|transaction| transactions.recycle(transaction));
        assert_eq!((transactions.boxes.len(), transactions.kept), (2, 2 * one));
    }
}
