//! Reading: whether it makes sense now, how much of it may pass unseen, and what it would cost in memory.
//!
//! Whether there is memory, the event loop knows, which has to live within a budget (rule E4).

use super::events::Side;
use super::transaction::{HIGH_WATER, HalfClose, RequestSink, RequestState, ResponseSink, ResponseState, Transaction};

/// What a read from one side is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPurpose {
    /// A request that has not been understood yet: its memory is all still to come, and nobody is served by half a head.
    NewRequest,
    /// A body that is buffered whole: its memory is reserved.
    Reserved,
    /// Something under way, of which nothing waits: what is read can leave at once, and brings the end nearer.
    InFlight,
    /// Something under way, of which bytes wait already: more would only lie on top of them.
    Backlogged,
}

impl Transaction {
    /// What a read from `side` would be for now.
    pub(super) fn read_interest(&self, side: Side) -> ReadPurpose {
        let is_waiting = match (side, &self.request_state) {
            (Side::Client, RequestState::Head { .. }) => return ReadPurpose::NewRequest,
            (Side::Client, RequestState::Body { sink: RequestSink::Collect, .. }) => return ReadPurpose::Reserved,
            (Side::Client, RequestState::Body { .. } | RequestState::Tunnel(_)) => !self.to_upstream.is_empty(),
            (Side::Client, RequestState::Done) => !self.client_input.is_empty(),
            (Side::Client, RequestState::Discard) => false,
            (Side::Upstream, _)
                if matches!(self.response_state, ResponseState::Body { sink: ResponseSink::Collect, .. }) =>
            {
                return ReadPurpose::Reserved;
            }
            (Side::Upstream, _) => !self.to_client.is_empty(),
        };
        if is_waiting { ReadPurpose::Backlogged } else { ReadPurpose::InFlight }
    }

    /// Whether reading from `side` makes sense now.
    pub(super) fn wants_read(&self, side: Side) -> bool {
        match side {
            Side::Client => match &self.request_state {
                RequestState::Head { .. } | RequestState::Discard => true,
                RequestState::Body { sink: RequestSink::Collect, .. } => true,
                RequestState::Body { .. } | RequestState::Tunnel(HalfClose::Open) => {
                    self.to_upstream.len() < HIGH_WATER
                }
                // Read on, to notice a client that leaves; but do not hoard what it pipelines.
                RequestState::Done => self.client_input.len() < HIGH_WATER,
                RequestState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost) => false,
            },
            Side::Upstream => match &self.response_state {
                ResponseState::Body { sink: ResponseSink::Collect, .. } => true,
                ResponseState::AwaitHead { .. }
                | ResponseState::Body { .. }
                | ResponseState::Tunnel(HalfClose::Open) => self.to_client.len() < HIGH_WATER,
                // Only to notice that it is gone.
                ResponseState::Answered => true,
                ResponseState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost)
                | ResponseState::None
                | ResponseState::Local
                | ResponseState::Connecting { .. }
                | ResponseState::Done
                | ResponseState::Cut { .. } => false,
            },
        }
    }

    /// How many bytes may be moved from `side` to the other one unseen.
    pub(super) fn bypass_limit(&self, side: Side) -> u64 {
        let is_output_waiting = match side {
            Side::Client => !self.to_upstream.is_empty(),
            Side::Upstream => !self.to_client.is_empty(),
        };
        if is_output_waiting { 0 } else { self.bypass_limit_behind_output(side) }
    }

    /// The same for bytes that leave behind what waits there.
    pub(super) fn bypass_limit_behind_output(&self, side: Side) -> u64 {
        if self.timeline.is_some() {
            // What is within the kernel is not seen, and so not who waits for whom.
            return 0;
        }
        match side {
            Side::Client if self.is_connected() => match &self.request_state {
                RequestState::Body { body, sink: RequestSink::Verbatim } => body.bypass_limit(),
                RequestState::Tunnel(HalfClose::Open) => u64::MAX,
                RequestState::Body { sink: RequestSink::Chunked | RequestSink::Collect, .. }
                | RequestState::Head { .. }
                | RequestState::Done
                | RequestState::Discard
                | RequestState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost) => 0,
            },
            Side::Upstream => match &self.response_state {
                ResponseState::Body { body, sink: ResponseSink::Verbatim | ResponseSink::UntilClose } => {
                    body.bypass_limit()
                }
                ResponseState::Tunnel(HalfClose::Open) => u64::MAX,
                ResponseState::Body { sink: ResponseSink::Chunked | ResponseSink::Collect, .. }
                | ResponseState::None
                | ResponseState::Local
                | ResponseState::Connecting { .. }
                | ResponseState::AwaitHead { .. }
                | ResponseState::Answered
                | ResponseState::Done
                | ResponseState::Cut { .. }
                | ResponseState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost) => 0,
            },
            Side::Client => 0,
        }
    }
}
