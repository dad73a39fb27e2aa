//! One request and its response under way: the memory that only an active exchange needs, and the states of both ends.
//!
//! A transaction lives in a box that is recycled ([`TransactionPool`]), so that an idle connection owns no buffer and a busy one
//! allocates nothing.

use std::net::SocketAddr;

use super::admit::ForwardPlan;
use super::body_memory::{BodyMemory, Reservation};
use super::cause::{Cause, Refusal};
use super::choice::UpstreamAttempt;
use super::events::{CloseMode, Side};
use super::forward::Scratch;
use super::hooks::ChainState;
use super::request_log::RequestLog;
use super::runtime::Runtime;
use crate::bytes::ByteQueue;
use crate::extras::timeline::{Timeline, TraceEvent, WaitReason};
use crate::http::body::Body;
use crate::http::fields::Fields;
use crate::http::head::{HeadParser, Method, RequestHead, ResponseHead};
use crate::mono_time::MonoTime;

/// A direction is held up while this many bytes wait: the whole of backpressure (rule E4).
pub(super) const HIGH_WATER: usize = 16 * 1024;

/// What a recycled buffer may keep.
pub(super) const KEPT_CAPACITY: usize = 16 * 1024;

/// The same for one that holds a single part of a head, such as the target or the Host.
const KEPT_PART: usize = 1024;

/// A recycled transaction that owns no more is kept as it is: 16 KiB in chunks, in a queue that has grown by doubling, and
/// two heads. Cutting it down each time, to let it grow again for the next such body, would cost more than the body.
const KEPT_AS_IT_IS: usize = 40 * 1024;

/// How many recycled transactions a worker keeps.
const KEPT_TRANSACTIONS: usize = 64;

/// What is being read from the client.
#[derive(Debug)]
pub(super) enum RequestState {
    /// The head, since its first byte (or since the response before it).
    Head { since: MonoTime, reader: HeadParser },
    /// The body.
    Body { body: Body, sink: RequestSink },
    /// Nothing: the request is complete. What comes is held for later.
    Done,
    /// The rest of a request that nobody wants any more; it is thrown away.
    Discard,
    /// Bytes of an upgraded connection.
    Tunnel(HalfClose),
}

/// Where the request body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestSink {
    /// On to the upstream as it is.
    Verbatim,
    /// On to the upstream in chunks of ours.
    Chunked,
    /// Into memory, for plugins.
    Collect,
}

/// What is being read from the upstream.
#[derive(Debug)]
pub(super) enum ResponseState {
    /// Nothing: no upstream is needed yet.
    None,
    /// Nothing: the proxy answered by itself.
    Local,
    /// A connection was asked for.
    Connecting { since: MonoTime },
    /// The response head, after so many interim responses.
    AwaitHead { interim: u32, reader: HeadParser },
    /// The response body.
    Body { body: Body, sink: ResponseSink },
    /// Nothing more: the response is complete, and the rest of the request is still on its way to the upstream.
    Answered,
    /// Nothing: the response is complete, and the connection was given back.
    Done,
    /// Bytes of an upgraded connection.
    Tunnel(HalfClose),
    /// Nothing: the response broke off. The client's connection is cut when it has got what there was.
    Cut { mode: CloseMode },
}

/// Where the response body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseSink {
    /// To the client as it is.
    Verbatim,
    /// To the client as it is; the closing of its connection is the only sign of the end.
    UntilClose,
    /// To the client in chunks of ours.
    Chunked,
    /// Into memory, for plugins.
    Collect,
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

/// When each end last made progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastActivity {
    pub client_read: MonoTime,
    pub client_write: MonoTime,
    pub upstream_read: MonoTime,
    pub upstream_write: MonoTime,
}

impl LastActivity {
    pub fn new(now: MonoTime) -> LastActivity {
        LastActivity { client_read: now, client_write: now, upstream_read: now, upstream_write: now }
    }

    /// A peer has taken bytes. That also restarts the clock of the side that it had held up.
    pub fn on_written(&mut self, now: MonoTime, side: Side) {
        match side {
            Side::Client => (self.client_write, self.upstream_read) = (now, now),
            Side::Upstream => (self.upstream_write, self.client_read) = (now, now),
        }
    }

    /// The last progress of any kind.
    pub fn latest(&self) -> MonoTime {
        self.client_read.max(self.client_write).max(self.upstream_read).max(self.upstream_write)
    }
}

/// One request and its response.
#[derive(Debug)]
pub(super) struct Transaction {
    pub request_state: RequestState,
    pub response_state: ResponseState,
    /// Bytes from the client that belong to no state yet: a partial head, pipelined requests (rule G22: they wait until the
    /// one before is over), early bytes of a tunnel.
    pub client_input: Vec<u8>,
    /// Bytes from the upstream that belong to no state yet: a partial head.
    pub upstream_input: Vec<u8>,
    pub to_client: ByteQueue,
    pub to_upstream: ByteQueue,
    pub request: RequestHead,
    pub response: ResponseHead,
    pub trailers: Fields,
    /// The client's own target once a plan is made; before that, scratch space.
    pub original_target: Vec<u8>,
    /// The protocols that were offered to the upstream.
    pub offered: Vec<u8>,
    /// Whole bodies, where plugins asked for them.
    pub request_body: Vec<u8>,
    pub response_body: Vec<u8>,
    /// The memory that these may take.
    pub reserved: Reservation,
    pub chain: ChainState,
    pub scratch: Scratch,
    /// The client's address: the peer's, or the one that trusted proxies report.
    pub client_address: Option<SocketAddr>,
    /// How the request is forwarded, once that is decided.
    pub plan: Option<ForwardPlan>,
    /// Which upstream it goes to, where the route has several.
    pub choice: Option<UpstreamAttempt>,
    /// Whether the client's connection may serve another request.
    pub is_persistent: bool,
    /// Whether the upstream's connection may serve another request, as far as is known.
    pub is_upstream_persistent: bool,
    /// Whether somebody may have logged in on the upstream's connection, for as long as that lives.
    pub has_login: bool,
    /// Whether part of the request body was passed on: from then on the request cannot be sent again.
    pub has_upload_begun: bool,
    /// Whether the response is made of parts that come whenever there is news: it may be silent for as long as it likes.
    pub is_pushed: bool,
    pub last_activity: LastActivity,
    pub log: RequestLog,
    /// What happened so far, where somebody wants to know.
    pub timeline: Option<Box<Timeline>>,
}

impl Transaction {
    fn new(now: MonoTime) -> Transaction {
        Transaction {
            request_state: RequestState::Head { since: now, reader: HeadParser::new() },
            response_state: ResponseState::None,
            client_input: Vec::new(),
            upstream_input: Vec::new(),
            to_client: ByteQueue::new(),
            to_upstream: ByteQueue::new(),
            request: RequestHead::default(),
            response: ResponseHead::default(),
            trailers: Fields::new(),
            original_target: Vec::new(),
            offered: Vec::new(),
            request_body: Vec::new(),
            response_body: Vec::new(),
            reserved: Reservation::default(),
            chain: ChainState::default(),
            scratch: Scratch::default(),
            client_address: None,
            plan: None,
            choice: None,
            is_persistent: true,
            is_upstream_persistent: false,
            has_login: false,
            has_upload_begun: false,
            is_pushed: false,
            last_activity: LastActivity::new(now),
            log: RequestLog::new(now),
            timeline: None,
        }
    }

    /// Makes room for the next request on the same connection. Client bytes that were held stay.
    pub fn restart(&mut self, now: MonoTime) {
        self.request_state = RequestState::Head { since: now, reader: HeadParser::new() };
        self.response_state = ResponseState::None;
        self.upstream_input.clear();
        self.to_client.clear();
        self.to_upstream.clear();
        self.request_body.clear();
        self.response_body.clear();
        self.reserved.shrink_to(0);
        self.response.clear();
        self.chain.clear();
        self.client_address = None;
        self.plan = None;
        self.choice = None;
        self.is_persistent = true;
        self.is_upstream_persistent = false;
        self.has_login = false;
        self.has_upload_begun = false;
        self.is_pushed = false;
        self.last_activity = LastActivity::new(now);
        self.log = RequestLog::new(now);
        self.timeline = None;
    }

    /// How many bytes of memory it owns. Every field is named here: one that grows with what peers send and is in no count
    /// would be in no limit either (rule E4).
    pub fn memory(&self) -> usize {
        let Transaction {
            request_state: _,
            response_state: _,
            client_input,
            upstream_input,
            to_client,
            to_upstream,
            request,
            response,
            trailers,
            original_target,
            offered,
            request_body,
            response_body,
            reserved,
            chain,
            scratch,
            client_address: _,
            plan: _,
            choice: _,
            is_persistent: _,
            is_upstream_persistent: _,
            has_login: _,
            has_upload_begun: _,
            is_pushed: _,
            last_activity: _,
            log,
            timeline: _,
        } = self;
        let heads = method_memory(&request.method)
            + log.method.as_ref().map_or(0, method_memory)
            + request.target.capacity()
            + request.authority.capacity()
            + request.fields.heap_size()
            + response.reason.capacity()
            + response.fields.heap_size()
            + trailers.heap_size()
            + original_target.capacity()
            + offered.capacity();
        let input = client_input.capacity() + upstream_input.capacity();
        let output = to_client.capacity() + to_upstream.capacity();
        let bodies = request_body.capacity() + response_body.capacity();
        let owned = size_of::<Transaction>() + heads + input + output + bodies + chain.memory() + scratch.memory();
        // What is reserved for bodies counts before they are there, so that nobody else takes it.
        owned.max(reserved.bytes())
    }

    /// Forgets what was said, and gives back what large messages made the buffers grow to; returns how much memory it still
    /// owns.
    fn shrink(&mut self) -> usize {
        for bytes in [&mut self.client_input, &mut self.upstream_input, &mut self.request_body, &mut self.response_body]
        {
            bytes.clear();
            bytes.shrink_to(KEPT_CAPACITY);
        }
        self.to_client.recycle(KEPT_CAPACITY);
        self.to_upstream.recycle(KEPT_CAPACITY);
        for fields in [&mut self.request.fields, &mut self.response.fields, &mut self.trailers] {
            fields.clear_and_shrink(KEPT_CAPACITY);
        }
        self.request.clear();
        self.response.clear();
        for bytes in [
            &mut self.request.target,
            &mut self.request.authority,
            &mut self.response.reason,
            &mut self.original_target,
            &mut self.offered,
        ] {
            bytes.clear();
            bytes.shrink_to(KEPT_PART);
        }
        self.scratch.shrink(KEPT_PART);
        self.chain.clear();
        self.log.method = None;
        self.memory()
    }

    /// Reserves memory for so many bytes of the request's body and of the response's, or more. What plugins leave of a body is
    /// queued behind its head: it is there twice for a while.
    pub fn reserve(&mut self, memory: &BodyMemory, request: usize, response: usize) -> Result<(), Refusal> {
        let bytes = 2 * (request.max(self.request_body.capacity()) + response);
        if self.reserved.grow_to(bytes, memory) { Ok(()) } else { Err(Refusal::new(503, Cause::MemoryBudget)) }
    }

    /// What it still needs of `site`, if that is less: from the head of the response on it connects to nobody else.
    pub fn narrow(&mut self, runtime: &Runtime) -> Option<Runtime> {
        if !self.has_answered() || runtime.config.routes.len() == 1 {
            return None;
        }
        let plan = self.plan.as_mut()?;
        let narrowed = runtime.narrowed_to(plan.route);
        plan.route = 0;
        self.log.route = Some(0);
        Some(narrowed)
    }

    /// Whether the client asked with HEAD, whatever plugins made of it.
    pub fn is_client_head(&self) -> bool {
        self.log.method == Some(Method::Head)
    }

    /// Whether the connections are a tunnel.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.response_state, ResponseState::Tunnel(_))
    }

    /// Whether the client has sent more behind its request than an empty line, or the half of one.
    pub fn has_pipelined(&self) -> bool {
        !matches!(self.client_input[..], [] | [b'\r'] | [b'\r', b'\n'])
    }

    /// Whether an upstream connection is lent to us, or asked for.
    pub fn holds_upstream(&self) -> bool {
        match self.response_state {
            ResponseState::Connecting { .. }
            | ResponseState::AwaitHead { .. }
            | ResponseState::Body { .. }
            | ResponseState::Answered
            | ResponseState::Tunnel(_) => true,
            ResponseState::None | ResponseState::Local | ResponseState::Done | ResponseState::Cut { .. } => false,
        }
    }

    /// Whether bytes can be written to the upstream.
    pub fn is_connected(&self) -> bool {
        self.holds_upstream() && !matches!(self.response_state, ResponseState::Connecting { .. })
    }

    /// Notes what has just happened, for the timeline.
    #[cold]
    pub fn trace(&mut self, now: MonoTime, moment: (TraceEvent, u64)) {
        let awaited = self.awaited();
        if let Some(timeline) = &mut self.timeline {
            timeline.note(now, moment, awaited);
        }
    }

    fn awaited(&self) -> WaitReason {
        match (&self.request_state, &self.response_state) {
            _ if !self.to_client.is_empty() => WaitReason::ClientReading,
            (_, ResponseState::Connecting { .. }) => WaitReason::Connection,
            _ if self.is_connected() && !self.to_upstream.is_empty() => WaitReason::UpstreamReading,
            (RequestState::Head { .. }, _) => WaitReason::RequestHead,
            (_, ResponseState::Tunnel(_)) => WaitReason::Tunnel,
            (_, ResponseState::None | ResponseState::Local | ResponseState::Done | ResponseState::Cut { .. }) => {
                WaitReason::Nobody
            }
            (
                RequestState::Body { .. },
                ResponseState::AwaitHead { .. } | ResponseState::Body { .. } | ResponseState::Answered,
            ) => WaitReason::RequestBody,
            (RequestState::Done | RequestState::Discard | RequestState::Tunnel(_), ResponseState::Answered) => {
                WaitReason::Nobody
            }
            (RequestState::Done | RequestState::Discard | RequestState::Tunnel(_), ResponseState::AwaitHead { .. }) => {
                WaitReason::ResponseHead
            }
            (RequestState::Done | RequestState::Discard | RequestState::Tunnel(_), ResponseState::Body { .. }) => {
                WaitReason::ResponseBody
            }
        }
    }

    /// Whether the client has been given the head of a final response, or part of one.
    pub fn has_answered(&self) -> bool {
        match self.response_state {
            ResponseState::Local
            | ResponseState::Answered
            | ResponseState::Done
            | ResponseState::Tunnel(_)
            | ResponseState::Cut { .. } => true,
            ResponseState::Body { sink, .. } => sink != ResponseSink::Collect,
            ResponseState::None | ResponseState::Connecting { .. } | ResponseState::AwaitHead { .. } => false,
        }
    }
}

/// What to reserve for a body of which so much is here or announced, and at most `limit` may come: it grows by doubling.
pub(super) fn body_step(len: usize, before: usize, limit: usize) -> usize {
    len.max((2 * before).min(limit))
}

/// Makes room for `more` bytes, by doubling up to `most`: not beyond what is reserved.
pub(super) fn make_room(bytes: &mut Vec<u8>, more: usize, most: usize) {
    let len = bytes.len() + more;
    if len > bytes.capacity() {
        let capacity = len.max((2 * bytes.capacity()).min(most));
        bytes.reserve_exact(capacity - bytes.len());
    }
}

/// How many bytes of memory a method owns.
fn method_memory(method: &Method) -> usize {
    match method {
        Method::Other(token) => token.len(),
        _ => 0,
    }
}

/// Recycled transactions, one set per worker.
#[derive(Debug)]
pub struct TransactionPool {
    // The boxes themselves are what is kept: a connection's slot holds one word, and taking one allocates nothing.
    boxes: Vec<(Box<Transaction>, usize)>,
    /// The most bytes to keep, and how many are kept, of which each box knows its part.
    most: usize,
    kept: usize,
    /// What bodies that plugins read may take.
    bodies: BodyMemory,
}

impl Default for TransactionPool {
    fn default() -> Self {
        TransactionPool::of(usize::MAX, BodyMemory::of(usize::MAX))
    }
}

impl TransactionPool {
    /// None yet; at most so many bytes are kept.
    pub fn of(most: usize, bodies: BodyMemory) -> TransactionPool {
        TransactionPool { boxes: Vec::new(), most, kept: 0, bodies }
    }

    /// Keeps none of those that there are. What is reserved stays so.
    pub fn clear(&mut self) {
        self.boxes.clear();
        self.kept = 0;
    }

    pub(super) fn bodies(&self) -> &BodyMemory {
        &self.bodies
    }

    pub(super) fn take(&mut self, now: MonoTime) -> Box<Transaction> {
        match self.boxes.pop() {
            Some((mut transaction, memory)) => {
                self.kept -= memory;
                transaction.restart(now);
                transaction
            }
            None => Box::new(Transaction::new(now)),
        }
    }

    pub(super) fn recycle(&mut self, mut transaction: Box<Transaction>) {
        if self.boxes.len() < KEPT_TRANSACTIONS {
            // What the client sent beside its request.
            transaction.client_input.clear();
            transaction.reserved.shrink_to(0);
            let room = self.most - self.kept;
            let mut memory = transaction.memory();
            if memory > room.min(KEPT_AS_IT_IS) {
                memory = transaction.shrink();
            }
            if memory <= room {
                self.kept += memory;
                self.boxes.push((transaction, memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes one buffer own a lot.
    type Grow = fn(&mut Transaction, Vec<u8>);

    const EVERY_BUFFER: [(&str, Grow); 19] = [
        ("client input", |transaction, bytes| transaction.client_input = bytes),
        ("upstream input", |transaction, bytes| transaction.upstream_input = bytes),
        ("to the client", |transaction, bytes| *transaction.to_client.buf() = bytes),
        ("to the upstream", |transaction, bytes| *transaction.to_upstream.buf() = bytes),
        ("method", |transaction, bytes| transaction.request.method = Method::of(&bytes)),
        ("logged method", |transaction, bytes| transaction.log.method = Some(Method::of(&bytes))),
        ("target", |transaction, bytes| transaction.request.target = bytes),
        ("authority", |transaction, bytes| transaction.request.authority = bytes),
        ("request fields", |transaction, bytes| transaction.request.fields.add(b"a", &bytes)),
        ("reason", |transaction, bytes| transaction.response.reason = bytes),
        ("response fields", |transaction, bytes| transaction.response.fields.add(b"a", &bytes)),
        ("trailers", |transaction, bytes| transaction.trailers.add(b"a", &bytes)),
        ("original target", |transaction, bytes| transaction.original_target = bytes),
        ("offered protocols", |transaction, bytes| transaction.offered = bytes),
        ("request body", |transaction, bytes| transaction.request_body = bytes),
        ("response body", |transaction, bytes| transaction.response_body = bytes),
        ("plugin values", |transaction, bytes| transaction.chain.values.push((b"key".to_vec(), bytes))),
        ("plugin keys", |transaction, bytes| transaction.chain.values.push((bytes, Vec::new()))),
        ("named by Connection", |transaction, bytes| transaction.scratch.connection_named = bytes),
    ];

    #[test]
    fn e4_everything_that_grows_with_what_peers_send_is_counted_and_given_back() {
        const LEN: usize = 200 * 1024;
        let empty = Transaction::new(MonoTime::FIRST).memory();
        for (name, grow) in EVERY_BUFFER {
            let mut transaction = Transaction::new(MonoTime::FIRST);
            grow(&mut transaction, vec![b'x'; LEN]);
            assert!(transaction.memory() >= empty + LEN, "{name} is not counted");
            let kept = transaction.shrink();
            assert!(kept <= empty + KEPT_CAPACITY + 4096, "{name}: {kept} bytes are kept");
        }
    }

    #[test]
    fn e4_what_is_recycled_is_cut_down_where_it_is_much_or_there_is_little_room() {
        const KIB: usize = 1024;
        for (name, most, grown, expected) in [
            ("16 KiB in chunks", usize::MAX, 32 * KIB, Some(32 * KIB)),
            ("a large body", usize::MAX, 200 * KIB, Some(KEPT_CAPACITY)),
            ("little room", 24 * KIB, 32 * KIB, Some(KEPT_CAPACITY)),
            ("no room", 8 * KIB, 32 * KIB, None),
        ] {
            let mut transactions = TransactionPool::of(most, BodyMemory::of(usize::MAX));
            let mut transaction = transactions.take(MonoTime::FIRST);
            transaction.client_input.extend_from_slice(b"of the next request");
            transaction.to_client.buf().reserve_exact(grown);
            transactions.recycle(transaction);
            let kept = transactions.boxes.first().map(|(transaction, _)| transaction.to_client.capacity());
            assert_eq!(kept, expected, "{name}");
            assert!(transactions.kept <= most, "{name}");
            let again = transactions.take(MonoTime::FIRST);
            assert!(again.client_input.is_empty(), "{name}: nobody gets what another client sent");
            assert_eq!(transactions.kept, 0, "{name}");
        }
    }
}
