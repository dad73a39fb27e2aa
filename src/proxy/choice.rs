//! The upstream that a request goes to, where its route has several.

use crate::config::{RouteConfig, UpstreamUrl};
use crate::extras::balance::{Lease, Tried};
use crate::http::framing::Framing;

/// A request of which bytes have left is sent to so many other upstreams when it gets no answer: one that ends whoever
/// serves it must not go through all of them.
const MAX_RETRIES: u8 = 2;

/// Which upstream, and what was tried before.
#[derive(Debug)]
pub(super) struct UpstreamAttempt {
    /// Its number within the route.
    pub nth: usize,
    /// The right to use it.
    pub lease: Lease,
    /// Those that were tried, this one included.
    pub tried: Tried,
    /// What was queued for it.
    pub queued: QueuedHead,
    /// How many connections ended before they brought an answer.
    losses: u8,
}

/// What has to be written anew for another upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedHead {
    /// How many bytes of the queue are the head.
    pub head_len: usize,
    /// The framing that it announces.
    pub framing: Framing,
}

impl UpstreamAttempt {
    /// The first one for a request.
    pub fn new(nth: usize, lease: Lease, tried: Tried) -> UpstreamAttempt {
        UpstreamAttempt { nth, lease, tried, queued: QueuedHead { head_len: 0, framing: Framing::None }, losses: 0 }
    }

    /// Counts a connection that ended without an answer, and tells whether the request may go to another upstream.
    pub fn retry_allowed(&mut self) -> bool {
        self.losses += 1;
        self.losses <= MAX_RETRIES
    }

    /// Where a request goes to on `route`: the chosen upstream, or the only one.
    pub fn upstream<'a>(choice: Option<&UpstreamAttempt>, route: &'a RouteConfig) -> &'a UpstreamUrl {
        choice.map_or(&*route.upstream, |choice| route.nth_upstream(choice.nth))
    }
}
