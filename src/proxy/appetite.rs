//! What a read would cost in memory, for whoever has to live within a budget (rule E4).
//!
//! It does not decide anything: the event loop does, which knows how much there is.

use super::events::Side;
use super::transaction::{Downstream, Transaction};

/// What a read from one side is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// A request that has not been understood yet: its memory is all still to come, and nobody is served by half a head.
    NewRequest,
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
            (Side::Downstream, Downstream::Body { .. } | Downstream::Tunnel(_)) => !self.to_origin.is_empty(),
            (Side::Downstream, Downstream::Done) => !self.client_input.is_empty(),
            (Side::Downstream, Downstream::Discard) => false,
            (Side::Upstream, _) => !self.to_client.is_empty(),
        };
        if is_waiting { Appetite::OnTop } else { Appetite::UnderWay }
    }

    /// How many bytes of memory it owns. What cannot grow with what peers send is left out.
    pub(super) fn memory(&self) -> usize {
        size_of::<Transaction>()
            + self.client_input.capacity()
            + self.origin_input.capacity()
            + self.to_client.capacity()
            + self.to_origin.capacity()
            + self.request.target.capacity()
            + self.request.authority.capacity()
            + self.request.fields.memory()
            + self.response.fields.memory()
            + self.trailers.memory()
            + self.original_target.capacity()
            + self.offered.capacity()
            + self.request_body.capacity()
            + self.response_body.capacity()
    }
}
