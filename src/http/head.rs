//! Message heads: bytes to values and values to bytes.
//!
//! httparse finds the tokens; a strict second pass refuses what it lets through (bare LF, a lone CR, white space in odd
//! places). A head that has not arrived whole is `Ok(None)`; a limit turns an endless one into an error. The answer does
//! not depend on how the bytes were split: a line is judged when its LF is there, never before.
//!
//! What this file does not decide: where the body ends (`framing`), where the request goes (`proxy::route`).

use super::fields::Fields;

/// A protocol version that the proxy speaks (RFC 9112 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// A request method (RFC 9110 section 9).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    /// An extension method: any other token, case kept.
    Other(Box<[u8]>),
}

impl Method {
    /// The method that `token` names; methods are case-sensitive.
    pub fn of(token: &[u8]) -> Method {
        todo!("{token:?}")
    }
    /// As it stands on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        todo!()
    }
    /// RFC 9110 section 9.2.2: the same request twice has the effect of one.
    pub fn is_idempotent(&self) -> bool {
        todo!()
    }
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head with its last empty line; 431 above it.
    pub head_bytes: usize,
    /// Field lines; 431 above it. At most [`MAX_FIELD_LINES`].
    pub field_lines: usize,
    /// Bytes of the request line without CRLF; 414 above it.
    pub request_line: usize,
}

/// The most field lines that can be configured: the parser's line table lives on the stack.
pub const MAX_FIELD_LINES: usize = 1024;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    // the implementer names the sins: one variant per broken rule, with Display, rule() -> &'static str ("S8") and
    // status() -> u16 (400, 414, 431, 505 for a request).
}

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    /// The request target as received; after `proxy::forward`, as it will be sent.
    pub target: Vec<u8>,
    /// Empty as received (the Host line is among the fields); after `proxy::forward`, the Host to send.
    pub authority: Vec<u8>,
    pub version: Version,
    pub fields: Fields,
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Three digits, 100 to 599 or above as received.
    pub status: u16,
    pub reason: Vec<u8>,
    pub version: Version,
    pub fields: Fields,
}

/// Reads a request head at the start of `input` into `head`.
///
/// Returns its length in bytes, `None` when more bytes are needed. One empty line before the request line is skipped
/// (RFC 9112 section 2.2) and counts into the length.
pub fn parse_request(input: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<Option<usize>, HeadError> {
    todo!("{input:?} {limits:?} {head:?}")
}

/// Reads a response head at the start of `input` into `head`; returns like [`parse_request`].
pub fn parse_response(input: &[u8], limits: &HeadLimits, head: &mut ResponseHead) -> Result<Option<usize>, HeadError> {
    todo!("{input:?} {limits:?} {head:?}")
}

/// Reads a whole trailer section (field lines and the empty line that ends it) into `fields`.
pub fn parse_trailers(input: &[u8], limits: &HeadLimits, fields: &mut Fields) -> Result<Option<usize>, HeadError> {
    todo!("{input:?} {limits:?} {fields:?}")
}

/// Appends request line, Host line and field lines; the caller adds framing fields and the empty line.
pub fn write_request(head: &RequestHead, out: &mut Vec<u8>) {
    todo!("{head:?} {out:?}")
}

/// Appends status line and field lines; the caller adds framing fields and the empty line. We always say HTTP/1.1
/// (RFC 9110 section 2.5: a version is the sender's own).
pub fn write_response(head: &ResponseHead, out: &mut Vec<u8>) {
    todo!("{head:?} {out:?}")
}

/// The usual reason phrase of a status code (RFC 9110 section 15), empty where there is none.
pub fn reason_phrase(status: u16) -> &'static str {
    todo!("{status}")
}
