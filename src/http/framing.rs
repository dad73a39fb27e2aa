//! Where a body ends: RFC 9112 section 6.3, the one place that decides it.

use super::head::{RequestHead, ResponseHead};

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, and nothing that says so.
    None,
    /// Content-Length. 64 bits on every machine (rule E9).
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// What is wrong with the framing fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    // one variant per sin (rules S1 to S4), Display, rule(), status() -> u16 (400 or 501 for a request)
}

/// The framing of a request body. `None` where neither field is there; `Length(0)` where Content-Length says 0.
pub fn request_framing(head: &RequestHead) -> Result<Framing, FramingError> {
    todo!("{head:?}")
}

/// The framing of a final response's body. `to_head` says that the request was a HEAD. 1xx, 204, 304 and answers to HEAD
/// have no body whatever their fields say, but the fields are judged all the same.
pub fn response_framing(head: &ResponseHead, to_head: bool) -> Result<Framing, FramingError> {
    todo!("{head:?} {to_head}")
}
