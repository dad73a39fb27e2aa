//! One body on its way in: how much is left.
//!
//! Where a body ends was decided by `framing`; here it is only followed. What to do with the bytes is up to the caller.

use super::chunked::{ChunkEvent, ChunkedDecoder};
use super::error::HttpError;
use super::framing::Framing;

/// The rest of a body that is being read.
#[derive(Debug)]
pub enum Body {
    /// Content-Length.
    Length {
        /// So many bytes are still to come. 64 bits on every machine (rule E9).
        left: u64,
    },
    /// The chunked transfer coding.
    Chunked(ChunkedDecoder),
    /// Whatever comes until the connection closes.
    UntilClose,
}

impl Body {
    /// The body that `framing` announces; `None` where nothing will come (no body, or a length of 0).
    pub fn new(framing: Framing) -> Option<Body> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(left) => Some(Body::Length { left }),
            Framing::Chunked => Some(Body::Chunked(ChunkedDecoder::default())),
            Framing::UntilClose => Some(Body::UntilClose),
        }
    }

    /// A body of which nothing will come any more.
    pub const NOTHING: Body = Body::Length { left: 0 };

    /// Whether nothing will come any more. Of one in chunks, or until the close, only the reader knows.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Body::Length { left: 0 })
    }

    /// How many bytes may be moved without being looked at: 0 for chunked.
    pub fn bypass_limit(&self) -> u64 {
        match self {
            Body::Length { left } => *left,
            Body::Chunked(_) => 0,
            Body::UntilClose => u64::MAX,
        }
    }

    /// `len` bytes were moved without being looked at; says whether the body has ended.
    ///
    /// # Panics
    /// When that is more than [`bypass_limit`](Body::bypass_limit): bytes of the next message were moved, or framing.
    pub fn bypassed(&mut self, len: u64) -> bool {
        assert!(len <= self.bypass_limit(), "bypassed {len} of {} bytes", self.bypass_limit());
        match self {
            Body::Length { left } => {
                *left -= len;
                *left == 0
            }
            Body::Chunked(_) | Body::UntilClose => false,
        }
    }

    /// Reads from `input` and hands body bytes to `sink`; returns the bytes consumed and whether the body has ended.
    ///
    /// All of `input` is consumed unless the body has ended.
    #[inline(always)]
    pub fn read(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<(usize, bool), HttpError> {
        let Body::Chunked(decoder) = self else {
            let len = usize::try_from(self.bypass_limit()).map_or(input.len(), |limit| limit.min(input.len()));
            if len > 0 {
                sink(&input[..len]);
            }
            return Ok((len, self.bypassed(len as u64)));
        };
        let mut at = 0;
        loop {
            match decoder.decode(&input[at..])? {
                ChunkEvent::Data { data, consumed } => {
                    sink(data);
                    at += consumed;
                }
                ChunkEvent::NeedMore => return Ok((input.len(), false)),
                ChunkEvent::End { consumed } => return Ok((at + consumed, true)),
            }
        }
    }

    /// The trailer section of a chunked body that has ended, with the empty line that ends it; empty otherwise.
    pub fn trailers(&self) -> &[u8] {
        match self {
            Body::Chunked(decoder) => decoder.trailers(),
            Body::Length { .. } | Body::UntilClose => b"",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came out of `input`, given in two parts: the data, the bytes consumed, and whether the body has ended.
    fn read(framing: Framing, input: &[u8], cut: usize) -> Result<(Vec<u8>, usize, bool), HttpError> {
        let mut body = Body::new(framing).expect("a body");
        let mut data = Vec::new();
        let (first, ended) = body.read(&input[..cut], |bytes| data.extend_from_slice(bytes))?;
        if ended {
            return Ok((data, first, true));
        }
        assert_eq!(first, cut, "all is consumed before the end");
        let (second, ended) = body.read(&input[cut..], |bytes| data.extend_from_slice(bytes))?;
        Ok((data, first + second, ended))
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        for (name, framing, input, data, consumed, ended) in [
            ("a length", Framing::Length(5), &b"helloNEXT"[..], &b"hello"[..], 5, true),
            ("a length, not whole", Framing::Length(5), b"hell", b"hell", 4, false),
            ("a length above 32 bits", Framing::Length(1 << 32), b"hello", b"hello", 5, false),
            ("the largest length", Framing::Length(i64::MAX as u64), b"hello", b"hello", 5, false),
            ("chunked", Framing::Chunked, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nNEXT", b"hello", 20, true),
            ("chunked with trailers", Framing::Chunked, b"1\r\na\r\n0\r\nb: c\r\n\r\nNEXT", b"a", 17, true),
            ("chunked, not whole", Framing::Chunked, b"5\r\nhello\r\n0\r\n", b"hello", 13, false),
            ("chunked without data", Framing::Chunked, b"0\r\n\r\n0", b"", 5, true),
            ("until close", Framing::UntilClose, b"hello", b"hello", 5, false),
            ("until close, nothing yet", Framing::UntilClose, b"", b"", 0, false),
        ] {
            for cut in 0..=input.len() {
                assert_eq!(read(framing, input, cut), Ok((data.to_vec(), consumed, ended)), "{name}, cut at {cut}");
            }
        }
        assert_eq!(read(Framing::Chunked, b"x\r\n", 0), Err(HttpError::BadChunkSize));
    }

    #[test]
    fn after_the_end_nothing_is_consumed() {
        for (framing, input) in [(Framing::Length(2), &b"ab"[..]), (Framing::Chunked, b"2\r\nab\r\n0\r\nc: d\r\n\r\n")]
        {
            let mut body = Body::new(framing).expect("a body");
            assert_eq!(body.read(input, |_| ()), Ok((input.len(), true)));
            assert_eq!(body.read(b"more", |_| panic!("no data")), Ok((0, true)));
        }
    }

    #[test]
    fn no_body_is_no_body() {
        assert!(Body::new(Framing::None).is_none());
        assert!(Body::new(Framing::Length(0)).is_none());
    }

    #[test]
    fn e9_lengths_are_counted_in_64_bits() {
        let mut body = Body::new(Framing::Length(5_000_000_000)).expect("a body");
        assert_eq!(body.bypass_limit(), 5_000_000_000);
        assert!(!body.bypassed(4_999_999_998));
        assert_eq!(body.read(b"abc", |data| assert_eq!(data, b"ab")), Ok((2, true)));
        assert!(body.bypassed(0));

        let mut body = Body::UntilClose;
        assert_eq!(body.bypass_limit(), u64::MAX);
        assert!(!body.bypassed(u64::MAX));
        assert_eq!(body.bypass_limit(), u64::MAX);
    }

    #[test]
    #[should_panic(expected = "bypassed 1 of 0 bytes")]
    fn chunked_bodies_cannot_be_relayed() {
        Body::Chunked(ChunkedDecoder::default()).bypassed(1);
    }

    #[test]
    fn trailers_are_there_at_the_end() {
        let mut body = Body::Chunked(ChunkedDecoder::default());
        assert_eq!(body.read(b"0\r\na: b\r\n\r\n", |_| ()), Ok((11, true)));
        assert_eq!(body.trailers(), b"a: b\r\n\r\n");
        assert_eq!(Body::UntilClose.trailers(), b"");
    }
}
