//! Floor 1: the HTTP/1.1 grammar, pure. No socket, no clock, no thread.
//!
//! | file | one job |
//! |---|---|
//! | [`chars`] | byte classes and strict numbers |
//! | [`fields`] | ordered field lines |
//! | [`start_line`] | methods, versions, reason phrases |
//! | [`lines`] | the lines of a head, one at a time, and what can be wrong with them |
//! | `quick` | a head that has arrived whole and looks as we would write it, in one pass |
//! | [`head`] | message heads: bytes to values, values to bytes |
//! | [`target`] | request targets, authorities, dot segments |
//! | [`framing`] | where a body ends: the one place that decides it (RFC 9112 section 6.3) |
//! | [`chunked`] | the chunked transfer coding: decoder and encoder |
//! | [`body`] | one body on its way: how much is left, and whether it may be relayed unseen |

pub mod chars;
pub mod fields;
pub mod start_line;
pub mod lines;
mod quick;
pub mod head;
pub mod target;
pub mod framing;
pub mod chunked;
pub mod body;
