//! Reading: whether it makes sense now, how much of it may pass unseen, and what it would cost in memory.
//!
//! Whether there is memory, the event loop knows, which has to live within a budget (rule E4).

use super::events::Side;
use super::transaction::{Downstream, Flow, HIGH_WATER, RequestSink, ResponseSink, Transaction, Upstream};

/// What a read from one side is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// A request that has not been understood yet: its memory is all still to come, and nobody is served by half a head.
    NewRequest,
    /// A body that is buffered whole: its memory is reserved.
    Reserved,
    /// Something under way, of which nothing waits: what is read can leave at once, and brings the end nearer.
    UnderWay,
    /// Something under way, of which bytes wait already: more would only lie on top of them.
    OnTop,
}

impl Transaction {
    /// What a read from `side` would be for now.
    pub(super) fn appetite(&self, side: Side) -> Appetite {
        let is_waiting = match (side, &self.down) {
            (Side::Downstream, Downstream::Head { .. }) => return Appetite::NewRequest,
            (Side::Downstream, Downstream::Body { sink: RequestSink::Collect, .. }) => return Appetite::Reserved,
            (Side::Downstream, Downstream::Body { .. } | Downstream::Tunnel(_)) => !self.to_origin.is_empty(),
            (Side::Downstream, Downstream::Done) => !self.client_input.is_empty(),
            (Side::Downstream, Downstream::Discard) => false,
            (Side::Upstream, _) if matches!(self.up, Upstream::Body { sink: ResponseSink::Collect, .. }) => {
                return Appetite::Reserved;
            }
            (Side::Upstream, _) => !self.to_client.is_empty(),
        };
        if is_waiting { Appetite::OnTop } else { Appetite::UnderWay }
    }

    /// Whether reading from `side` makes sense now.
    pub(super) fn wants_read(&self, side: Side) -> bool {
        match side {
            Side::Downstream => match &self.down {
                Downstream::Head { .. } | Downstream::Discard => true,
                Downstream::Body { sink: RequestSink::Collect, .. } => true,
                Downstream::Body { .. } | Downstream::Tunnel(Flow::Open) => self.to_origin.len() < HIGH_WATER,
                // Read on, to notice a client that leaves; but do not hoard what it pipelines.
                Downstream::Done => self.client_input.len() < HIGH_WATER,
                Downstream::Tunnel(Flow::Ended | Flow::Told | Flow::Lost) => false,
            },
            Side::Upstream => match &self.up {
                Upstream::Body { sink: ResponseSink::Collect, .. } => true,
                Upstream::AwaitHead { .. } | Upstream::Body { .. } | Upstream::Tunnel(Flow::Open) => {
                    self.to_client.len() < HIGH_WATER
                }
                // Only to notice that it is gone.
                Upstream::Answered => true,
                Upstream::Tunnel(Flow::Ended | Flow::Told | Flow::Lost)
                | Upstream::None
                | Upstream::Local
                | Upstream::Connecting { .. }
                | Upstream::Done
                | Upstream::Cut { .. } => false,
            },
        }
    }

    /// How many bytes may be moved from `side` to the other one unseen.
    pub(super) fn relayable(&self, side: Side) -> u64 {
        let is_output_waiting = match side {
            Side::Downstream => !self.to_origin.is_empty(),
            Side::Upstream => !self.to_client.is_empty(),
        };
        if is_output_waiting { 0 } else { self.relayable_behind_output(side) }
    }

    /// The same for bytes that leave behind what waits there.
    pub(super) fn relayable_behind_output(&self, side: Side) -> u64 {
        if self.timeline.is_some() {
            // What is within the kernel is not seen, and so not who waits for whom.
            return 0;
        }
        match side {
            Side::Downstream if self.is_connected() => match &self.down {
                Downstream::Body { body, sink: RequestSink::Verbatim } => body.relayable(),
                Downstream::Tunnel(Flow::Open) => u64::MAX,
                Downstream::Body { sink: RequestSink::Chunked | RequestSink::Collect, .. }
                | Downstream::Head { .. }
                | Downstream::Done
                | Downstream::Discard
                | Downstream::Tunnel(Flow::Ended | Flow::Told | Flow::Lost) => 0,
            },
            Side::Upstream => match &self.up {
                Upstream::Body { body, sink: ResponseSink::Verbatim | ResponseSink::UntilClose } => body.relayable(),
                Upstream::Tunnel(Flow::Open) => u64::MAX,
                Upstream::Body { sink: ResponseSink::Chunked | ResponseSink::Collect, .. }
                | Upstream::None
                | Upstream::Local
                | Upstream::Connecting { .. }
                | Upstream::AwaitHead { .. }
                | Upstream::Answered
                | Upstream::Done
                | Upstream::Cut { .. }
                | Upstream::Tunnel(Flow::Ended | Flow::Told | Flow::Lost) => 0,
            },
            Side::Downstream => 0,
        }
    }
}
