//! The memory of one request and its response, which is recycled: an idle connection owns none of it, and a busy one
//! allocates nothing.

use super::forward::Scratch;
use super::hooks::ChainState;
use crate::bytes::ByteQueue;
use crate::http::fields::Fields;
use crate::http::head::{Method, RequestHead, ResponseHead};

/// What a recycled buffer may keep.
pub(super) const KEPT_CAPACITY: usize = 16 * 1024;

/// The same for one that holds a single part of a head, such as the target or the Host.
const KEPT_PART: usize = 1024;

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
    /// The client's own target once the request is forwarded; before that, the target to forward.
    pub original_target: Vec<u8>,
    /// The protocols that were offered to the upstream.
    pub offered: Vec<u8>,
    /// Whole bodies, where plugins asked for them.
    pub request_body: Vec<u8>,
    pub response_body: Vec<u8>,
    /// What plugins keep between their calls.
    pub chain: ChainState,
    pub scratch: Scratch,
}

// Each of the three names every field: one that grows with what peers send and is in no count would be in no limit either
// (rule E4), and one that is not cleared would pass from one request to the next.
impl Buffers {
    /// Forgets everything but the client's bytes that were held.
    pub fn clear(&mut self) {
        let Buffers {
            client_input: _,
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
            chain,
            // Filled anew before each use.
            scratch: _,
        } = self;
        for bytes in [upstream_input, original_target, offered, request_body, response_body] {
            bytes.clear();
        }
        to_client.clear();
        to_upstream.clear();
        request.clear();
        response.clear();
        trailers.clear();
        chain.clear();
    }

    /// How many bytes of memory they own.
    pub fn memory(&self) -> usize {
        let Buffers {
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
            chain,
            scratch,
        } = self;
        let bytes =
            [client_input, upstream_input, original_target, offered, request_body, response_body, &response.reason];
        bytes.map(Vec::capacity).iter().sum::<usize>()
            + method_memory(&request.method)
            + request.target.capacity()
            + request.authority.capacity()
            + [&request.fields, &response.fields, trailers].map(Fields::heap_size).iter().sum::<usize>()
            + to_client.capacity()
            + to_upstream.capacity()
            + chain.memory()
            + scratch.memory()
    }

    /// Forgets everything, and gives back what large messages made the buffers grow to.
    pub fn shrink(&mut self) {
        self.client_input.clear();
        self.clear();
        let Buffers {
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
            chain: _,
            scratch,
        } = self;
        for bytes in [client_input, upstream_input, request_body, response_body] {
            bytes.shrink_to(KEPT_CAPACITY);
        }
        to_client.recycle(KEPT_CAPACITY);
        to_upstream.recycle(KEPT_CAPACITY);
        for fields in [&mut request.fields, &mut response.fields, trailers] {
            fields.clear_and_shrink(KEPT_CAPACITY);
        }
        for bytes in [&mut request.target, &mut request.authority, &mut response.reason, original_target, offered] {
            bytes.shrink_to(KEPT_PART);
        }
        scratch.shrink(KEPT_PART);
    }

    /// Whether the client has sent more behind its request than an empty line, or the half of one.
    pub fn has_pipelined(&self) -> bool {
        !b"\r\n".starts_with(&self.client_input)
    }
}

/// How many bytes of memory a method owns.
pub(super) fn method_memory(method: &Method) -> usize {
    match method {
        Method::Other(token) => token.len(),
        _ => 0,
    }
}
