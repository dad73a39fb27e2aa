//! The memory of one request and its response. It is recycled: an idle connection owns none of it, and a busy one
//! allocates nothing but for a path with percent-encoded segments. What bodies that plugins read may need is reserved before
//! they are read (rule E4): a dozen slow clients whose bodies fill the memory together would wait for each other, so a
//! request for which there is not enough left is answered with 503, and one that has a reservation is read in full, however
//! short memory is.

use std::cell::Cell;
use std::rc::Rc;

use super::events::Side;
use super::forward::Scratch;
use super::hooks::ChainState;
use crate::bytes::ByteQueue;
use crate::http::fields::Fields;
use crate::http::head::{Head as _, Method, RequestHead, ResponseHead};

/// What a queue may keep whose reader was slow.
pub(super) const KEPT_CAPACITY: usize = 16 * 1024;

/// All buffers of a transaction.
#[derive(Debug, Default)]
pub(super) struct Buffers {
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
    /// The client's own target.
    pub original_target: Vec<u8>,
    /// The target to forward, or to redirect to, until it takes its place.
    pub new_target: Vec<u8>,
    /// The protocols that were offered to the upstream.
    pub offered: Vec<u8>,
    /// Whole bodies, where plugins asked for them.
    pub request_body: Vec<u8>,
    pub response_body: Vec<u8>,
    /// What plugins keep between their calls; there from the choice of a route that has some.
    pub chain: Option<Box<ChainState>>,
    /// An empty one, for the next request.
    pub spare_chain: Option<Box<ChainState>>,
    pub scratch: Scratch,
}

impl Buffers {
    /// Forgets everything but the client's bytes that were held; scratch is filled anew before each use.
    pub fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.trailers.clear();
        self.to_client.clear();
        self.to_upstream.clear();
        if let Some(mut chain) = self.chain.take() {
            chain.clear();
            self.spare_chain = Some(chain);
        }
        let Buffers { upstream_input, original_target, offered, request_body, response_body, .. } = self;
        for bytes in [upstream_input, original_target, offered, request_body, response_body] {
            bytes.clear();
        }
    }

    /// How many bytes of memory they own.
    pub fn memory(&self) -> usize {
        // Each field is named: one that is in no count would be in no limit either (rule E4).
        let Buffers {
            client_input,
            upstream_input,
            to_client,
            to_upstream,
            request: RequestHead { target, authority, fields: request_fields, method, version: _ },
            response: ResponseHead { reason, fields: response_fields, status: _, version: _ },
            trailers,
            original_target,
            new_target,
            offered,
            request_body,
            response_body,
            chain,
            spare_chain,
            scratch: Scratch { connection_named, host, public_prefix, buf },
        } = self;
        let heads = [target, authority, reason, original_target, new_target, offered];
        let scratch = [connection_named, host, public_prefix, buf];
        let others = [client_input, upstream_input, request_body, response_body];
        heads.map(Vec::capacity).iter().sum::<usize>()
            + scratch.map(Vec::capacity).iter().sum::<usize>()
            + others.map(Vec::capacity).iter().sum::<usize>()
            + [request_fields, response_fields, trailers].map(Fields::heap_size).iter().sum::<usize>()
            + to_client.capacity()
            + to_upstream.capacity()
            + method_memory(method)
            + [chain, spare_chain].into_iter().flatten().map(|chain| chain.memory()).sum::<usize>()
    }

    /// Bytes from that side that are held.
    pub fn input(&mut self, side: Side) -> &mut Vec<u8> {
        if side == Side::Client { &mut self.client_input } else { &mut self.upstream_input }
    }

    /// Whether the client has sent more after its request than an empty line, or the half of one.
    pub fn has_pipelined(&self) -> bool {
        !b"\r\n".starts_with(&self.client_input)
    }
}

/// How many bytes of memory a method owns.
pub(super) fn method_memory(method: &Method) -> usize {
    if let Method::Other(token) = method { token.len() } else { 0 }
}

/// What one transaction has reserved for bodies. It is given back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    pub bytes: usize,
    /// What is left for all bodies of the worker.
    left: Option<Rc<Cell<usize>>>,
}

impl Reservation {
    /// Makes it at least `bytes`; returns whether there was enough left.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize, left: &Rc<Cell<usize>>) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let Some(rest) = left.get().checked_sub(more) else { return false };
        left.set(rest);
        self.bytes += more;
        self.left.get_or_insert_with(|| Rc::clone(left));
        true
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        if let Some(left) = &self.left {
            left.set(left.get() + excess);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4_no_more_is_reserved_than_there_is_and_all_of_it_comes_back() {
        let left = Rc::new(Cell::new(100));
        let (mut first, mut second) = (Reservation::default(), Reservation::default());
        assert!(first.grow_to(60, &left) && first.grow_to(50, &left), "it has more already");
        assert!(!second.grow_to(41, &left));
        assert!(second.grow_to(40, &left) && !first.grow_to(61, &left));
        first.shrink_to(10);
        assert_eq!((first.bytes, second.bytes, left.get()), (10, 40, 50));
        drop((first, second));
        assert_eq!(left.get(), 100);
    }
}
