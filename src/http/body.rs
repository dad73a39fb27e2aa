//! One body on its way in: how much is left.

use super::chunked::{ChunkError, Decoder};
use super::framing::Framing;

/// The rest of a body that is being read.
#[derive(Debug)]
pub enum Body {
    /// Content-Length: `left` bytes are still to come.
    Length {
        left: u64,
    },
    Chunked(Decoder),
    UntilClose,
}

impl Body {
    /// The body that `framing` announces; `None` where nothing will come (no body, or a length of 0).
    pub fn new(framing: Framing) -> Option<Body> {
        todo!("{framing:?}")
    }

    /// How many bytes may be moved without being looked at: 0 for chunked.
    pub fn relayable(&self) -> u64 {
        todo!()
    }

    /// `len` bytes were moved without being looked at; says whether the body has ended.
    pub fn relayed(&mut self, len: u64) -> bool {
        todo!("{len}")
    }

    /// Reads from `input` and hands body bytes to `sink`; returns the bytes consumed and whether the body has ended.
    pub fn read(&mut self, input: &[u8], sink: impl FnMut(&[u8])) -> Result<(usize, bool), ChunkError> {
        let _ = (input, sink);
        todo!()
    }
}
