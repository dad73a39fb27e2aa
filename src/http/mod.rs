//! Layer 1: the HTTP/1.1 grammar, pure. No socket, no clock, no thread.
//!
//! | file | one job |
//! |---|---|
//! | [`error`] | what can be wrong with a message: rule, status, and what was expected |
//! | [`chars`] | byte classes and strict numbers |
//! | [`fields`] | ordered field lines |
//! | [`start_line`] | methods, versions, reason phrases |
//! | [`head`] | message heads: bytes to values with httparse, values to bytes |
//! | [`target`] | request targets, authorities, dot segments |
//! | [`framing`] | where a body ends: the one place that decides it (RFC 9112 section 6.3) |
//! | [`chunked`] | the chunked transfer coding: decoder and encoder |
//! | [`body`] | one body on its way: how much is left, and whether it may be relayed unseen |

pub mod error;
pub mod chars;
pub mod fields;
pub mod start_line;
pub mod head;
pub mod target;
pub mod framing;
pub mod chunked;
pub mod body;
#[cfg(test)]
mod httparse_tests;

/// Tests that cut an input in two do so at each place; Miri, which is slow, at every so many.
#[cfg(test)]
const CUT_EVERY: usize = if cfg!(miri) { 31 } else { 1 };
