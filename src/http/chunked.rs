//! The chunked transfer coding (RFC 9112 section 7.1): decoder and encoder.
//!
//! The decoder can stop after any byte. Chunk extensions are checked and dropped (rule S6); the trailer section is handed
//! over whole, to be parsed by `head::parse_trailers`.

/// What is wrong with a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    // one variant per sin (rules S5 to S7 and the caps), Display, rule()
}

/// Reads a chunked body, any number of bytes at a time.
#[derive(Debug)]
pub struct Decoder {
    _state: (),
}

/// What the decoder made of the start of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Bytes of the body. `consumed` input bytes lead up to their end.
    Data { data: &'a [u8], consumed: usize },
    /// The whole input was framing; more is needed.
    NeedMore,
    /// The body and its trailer section have ended; `consumed` bytes lead up to the end of the message.
    End { consumed: usize },
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder that waits for the first chunk line.
    pub const fn new() -> Self {
        Decoder { _state: () }
    }
    /// Takes the next step through `input`, which begins where the last step's `consumed` ended.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<'a>, ChunkError> {
        todo!("{input:?}")
    }
    /// The trailer section as received, with the empty line that ends it; whole after `Decoded::End`.
    pub fn trailers(&self) -> &[u8] {
        todo!()
    }
}

/// Appends what `fill` appends to `out` as one chunk, and returns what `fill` returns; nothing where it appends nothing.
///
/// The size is not known before the data is there, but it stands in front of it: room is left and closed again.
pub fn write_chunk<T>(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    fill(out)
}

/// The last chunk, without the trailer section and the empty line that follow it.
pub const LAST_CHUNK: &[u8] = b"0\r\n";
