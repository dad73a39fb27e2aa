//! Backpressure: whether a side is read now, and what a read would cost in memory. It is not all of it: `read_side` in
//! `net/session.rs` also puts off a read for the memory budget (rule E4), for a slow receiver, and while a pipe holds bytes.

use super::events::Side;
use super::state::{BodyMode, HalfClose, RequestState, ResponseState, Transaction};

/// A direction is held up while this many bytes wait (rule E4).
const HIGH_WATER: usize = 16 * 1024;

/// What a read from one side is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPurpose {
    /// A request that has not been understood yet: its memory is all still to come, and half a head serves no client.
    NewRequest,
    /// A body that is buffered whole: its memory is reserved.
    Reserved,
    /// Something under way, of which nothing waits: what is read can leave at once, and brings the end nearer.
    InFlight,
    /// Something under way, of which bytes wait already: more would only lie on top of them.
    Backlogged,
}

impl Transaction {
    /// What a read from `side` would be for; `None` where it makes no sense now.
    pub(super) fn read_interest(&self, side: Side) -> Option<ReadPurpose> {
        let waiting = match (side, &self.request_state, &self.response_state) {
            (Side::Client, RequestState::Head { .. }, _) => return Some(ReadPurpose::NewRequest),
            (Side::Client, RequestState::Body { mode: BodyMode::Buffer, .. }, _)
            | (Side::Upstream, _, ResponseState::Body { mode: BodyMode::Buffer, .. }) => {
                return Some(ReadPurpose::Reserved);
            }
            (Side::Client, RequestState::Body { .. } | RequestState::Tunnel(HalfClose::Open), _) => {
                self.buf.to_upstream.len()
            }
            // Read on, to notice a client that leaves; but do not hoard what it pipelines.
            (Side::Client, RequestState::Done, _) => self.buf.client_input.len(),
            (Side::Client, RequestState::Discard, _) => 0,
            (
                Side::Upstream,
                _,
                ResponseState::AwaitHead { .. } | ResponseState::Body { .. } | ResponseState::Tunnel(HalfClose::Open),
            ) => self.buf.to_client.len(),
            // Only to notice that it is gone.
            (Side::Upstream, _, ResponseState::Answered) => self.buf.to_client.len().min(1),
            _ => return None,
        };
        match waiting {
            0 => Some(ReadPurpose::InFlight),
            1..HIGH_WATER => Some(ReadPurpose::Backlogged),
            HIGH_WATER.. => None,
        }
    }

    pub(super) fn wants_read(&self, side: Side) -> bool {
        self.read_interest(side).is_some()
    }

    /// How many bytes may be moved from `side` to the other one unseen, behind the output that waits there.
    pub(super) fn bypass_limit(&self, side: Side) -> u64 {
        if self.log.timeline.is_some() {
            // What is within the kernel is not seen, and so not which side waits for the other.
            return 0;
        }
        match (side, &self.request_state, &self.response_state) {
            (Side::Client, _, _) if !self.is_connected() => 0,
            (Side::Client, RequestState::Body { body, mode: BodyMode::Passthrough, .. }, _)
            | (
                Side::Upstream,
                _,
                ResponseState::Body { body, mode: BodyMode::Passthrough | BodyMode::UntilClose, .. },
            ) => body.bypass_limit(),
            (Side::Client, RequestState::Tunnel(HalfClose::Open), _)
            | (Side::Upstream, _, ResponseState::Tunnel(HalfClose::Open)) => u64::MAX,
            _ => 0,
        }
    }
}
