//! The states of a connection with their data, and every transition between them.
//!
//! A client's connection has a state of its own. While a request is under way (`Transaction`), each side has one, too:
//! `RequestState` for what is read from the client, `ResponseState` for what is read from the upstream. A state
//! changes only by `Transaction::set_request`, `Transaction::set_response` and `ProxyConnection::set_state`, which in debug
//! builds panic at a transition that is not in the tables below. `cargo run --example states` draws them, and
//! docs/architecture.md shows the drawing.

use super::body_memory::Reservation;
use super::buffers::{Buffers, method_memory};
use super::events::{CloseMode, Side};
use super::request_log::RequestLog;
use super::runtime::{Runtime, UpstreamId};
use crate::config::{RouteConfig, UpstreamUrl};
use crate::extras::balance::{Lease, Tried};
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
    /// Nothing: the proxy answered by itself.
    Local,
    /// A connection was asked for.
    Connecting { since: MonoTime },
    /// The response head, after so many interim responses.
    AwaitHead { interim: u32, reuse: Reuse, parser: HeadParser },
    /// The response body. `is_pushed`: it is made of parts that come whenever there is news, and may be silent for as long
    /// as it likes.
    Body { body: Body, mode: BodyMode, reuse: Reuse, is_pushed: bool },
    /// Nothing more: the response is complete, and the rest of the request is still on its way to the upstream.
    Answered,
    /// Nothing: the response is complete, and the upstream's connection was released.
    Done,
    /// Bytes of an upgraded connection.
    Tunnel(HalfClose),
    /// Nothing: the response broke off. The client's connection is closed so when it has got what there was.
    Truncated(CloseMode),
}

/// Where a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyMode {
    /// To the other side as it is.
    Passthrough,
    /// The same, for a response of which the closing of the connection is the only sign of the end.
    UntilClose,
    /// To the other side in chunks of ours.
    Chunked,
    /// Into memory, for plugins.
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
    /// The receiver takes no more. It may still be sending.
    Lost,
}

/// What may become of the upstream's connection after the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// It may serve any client.
    Shared,
    /// The client may have logged in on it: it serves this client's connection and no other.
    ThisClient,
    /// It is closed.
    No,
}

/// Transitions: from any of these states, at this event, to that state. How far a tunnel is closed is in `HalfClose`.
pub type Table = &'static [(&'static [&'static str], &'static str, &'static str)];

/// The client's connection.
pub const CONNECTION: Table = &[
    (&["Idle"], "first byte of a request", "Active"),
    (&["Idle"], "EOF, time-out or drain", "Closed"),
    (&["Idle"], "bad PROXY header", "Closed"),
    (&["Active"], "answered, keep-alive", "Idle"),
    (&["Active"], "answered, close", "Closed"),
    (&["Active"], "answered, the client may be sending", "Lingering"),
    (&["Lingering"], "EOF or time-out", "Closed"),
];

/// The client's side of a request; `Head` is the first state of each.
pub const REQUEST: Table = &[
    (&["Head"], "head, no body", "Done"),
    (&["Head"], "head, body follows", "Body"),
    (&["Head", "Body"], "rest not wanted", "Discard"),
    (&["Body"], "body complete", "Done"),
    (&["Body", "Discard"], "EOF after the response", "Done"),
    (&["Done"], "101", "Tunnel"),
    (&["Tunnel"], "EOF", "Tunnel"),
    (&["Tunnel"], "all passed on", "Tunnel"),
    (&["Tunnel"], "upstream takes no more", "Tunnel"),
    (&["Tunnel"], "rest not wanted", "Discard"),
];

/// The upstream's side of a request; `None` is the first state of each.
pub const RESPONSE: Table = &[
    (&["None", "Connecting", "AwaitHead", "Body"], "our own response", "Local"),
    (&["None", "Connecting", "AwaitHead"], "connection asked for", "Connecting"),
    (&["Connecting"], "connected", "AwaitHead"),
    (&["Connecting"], "connect failed", "None"),
    (&["AwaitHead"], "1xx", "AwaitHead"),
    (&["AwaitHead"], "101", "Tunnel"),
    (&["AwaitHead"], "final head", "Body"),
    (&["AwaitHead", "Body"], "response complete", "Done"),
    (&["AwaitHead", "Body"], "response complete before the request", "Answered"),
    (&["Answered"], "request complete or given up", "Done"),
    (&["Tunnel"], "EOF", "Tunnel"),
    (&["Tunnel"], "all passed on", "Tunnel"),
    (&["Body", "Tunnel"], "broken off", "Truncated"),
    (
        &["None", "Local", "Connecting", "AwaitHead", "Body", "Answered", "Done", "Tunnel", "Truncated"],
        "client lost",
        "Truncated",
    ),
    (&["Tunnel"], "tunnel idle", "Truncated"),
];

/// Panics in debug builds where a transition is not in its table.
pub(super) fn check_transition(table: Table, from: &str, event: &str, to: &str) {
    debug_assert!(
        table.iter().any(|row| row.0.contains(&from) && row.1 == event && row.2 == to),
        "no transition from {from} at {event:?} to {to}"
    );
}

impl ConnectionState {
    pub fn name(&self) -> &'static str {
        match self {
            ConnectionState::Idle { .. } => "Idle",
            ConnectionState::Active(_) => "Active",
            ConnectionState::Lingering { .. } => "Lingering",
            ConnectionState::Closed => "Closed",
        }
    }
}

impl RequestState {
    fn name(&self) -> &'static str {
        match self {
            RequestState::Head { .. } => "Head",
            RequestState::Body { .. } => "Body",
            RequestState::Done => "Done",
            RequestState::Discard => "Discard",
            RequestState::Tunnel(_) => "Tunnel",
        }
    }
}

impl ResponseState {
    fn name(&self) -> &'static str {
        match self {
            ResponseState::None => "None",
            ResponseState::Local => "Local",
            ResponseState::Connecting { .. } => "Connecting",
            ResponseState::AwaitHead { .. } => "AwaitHead",
            ResponseState::Body { .. } => "Body",
            ResponseState::Answered => "Answered",
            ResponseState::Done => "Done",
            ResponseState::Tunnel(_) => "Tunnel",
            ResponseState::Truncated(_) => "Truncated",
        }
    }
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
}

/// The upstream that a request goes to, where its route has several.
#[derive(Debug)]
pub(super) struct UpstreamAttempt {
    /// Its number within the route.
    pub nth: usize,
    /// The right to use it.
    pub lease: Lease,
    /// Those that were tried, this one included.
    pub tried: Tried,
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
        } = self;
        *request_state = RequestState::Head { since: now, parser: HeadParser::new() };
        *response_state = ResponseState::None;
        buf.clear();
        (*route_index, *attempt) = (None, None);
        (*has_upload_begun, *is_persistent) = (false, true);
        reserved.shrink_to(0);
        *last_activity = LastActivity { client_read: now, client_write: now, upstream_read: now, upstream_write: now };
        *log = RequestLog { started: now, ..RequestLog::default() };
    }

    /// Which route the request takes.
    pub fn route<'a>(&self, runtime: &'a Runtime) -> Option<&'a RouteConfig> {
        self.route_index.map(|index| &runtime.config.routes[index as usize])
    }

    /// The chosen upstream, or the only one.
    pub fn upstream<'a>(&self, runtime: &'a Runtime) -> Option<&'a UpstreamUrl> {
        let route = self.route(runtime)?;
        Some(&route.upstreams[self.attempt.as_ref().map_or(0, |attempt| attempt.nth)])
    }

    pub fn upstream_id(&self, runtime: &Runtime) -> Option<UpstreamId> {
        let nth = self.attempt.as_ref().map_or(0, |attempt| attempt.nth);
        self.route_index.map(|index| runtime.upstreams_of(index)[nth])
    }

    /// Moves the client's side to another state.
    pub fn set_request(&mut self, event: &str, to: RequestState) {
        check_transition(REQUEST, self.request_state.name(), event, to.name());
        self.request_state = to;
    }

    /// Moves the upstream's side to another state.
    pub fn set_response(&mut self, event: &str, to: ResponseState) {
        check_transition(RESPONSE, self.response_state.name(), event, to.name());
        self.response_state = to;
    }

    /// How many bytes of memory it owns. What is reserved for bodies counts before they are there.
    pub fn memory(&mut self) -> usize {
        let log = self.log.method.as_ref().map_or(0, method_memory);
        (size_of::<Transaction>() + self.buf.memory() + log).max(self.reserved.bytes())
    }

    /// Whether the connection is a tunnel.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.response_state, ResponseState::Tunnel(_))
    }

    /// Whether an upstream connection is lent to us, or asked for.
    pub fn holds_upstream(&self) -> bool {
        match self.response_state {
            ResponseState::Connecting { .. }
            | ResponseState::AwaitHead { .. }
            | ResponseState::Body { .. }
            | ResponseState::Answered
            | ResponseState::Tunnel(_) => true,
            ResponseState::None | ResponseState::Local | ResponseState::Done | ResponseState::Truncated(_) => false,
        }
    }

    /// Whether bytes can be written to the upstream.
    pub fn is_connected(&self) -> bool {
        self.holds_upstream() && !matches!(self.response_state, ResponseState::Connecting { .. })
    }

    /// Whether the client has been given the head of a final response, or part of one.
    pub fn has_answered(&self) -> bool {
        match self.response_state {
            ResponseState::Local
            | ResponseState::Answered
            | ResponseState::Done
            | ResponseState::Tunnel(_)
            | ResponseState::Truncated(_) => true,
            ResponseState::Body { mode, .. } => mode != BodyMode::Buffer,
            ResponseState::None | ResponseState::Connecting { .. } | ResponseState::AwaitHead { .. } => false,
        }
    }

    /// The client may wait for `100 Continue` for as long as the upstream makes it.
    pub fn is_upload_held_back(&self) -> bool {
        matches!(self.request_state, RequestState::Body { awaits_continue: true, .. }) && !self.has_answered()
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
