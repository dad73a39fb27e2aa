//! Bodies of any size that are made and compared as they go, byte for byte, and are never stored.

use std::io::{self, Read, Write};

/// A block of noise; each copy of it in a stream begins with its number, so that lost, doubled or swapped blocks show.
const BLOCK: usize = 64 * 1024;

/// The bytes of a stream that is not like any other part of itself.
pub struct Stream {
    block: Vec<u8>,
    position: u64,
    end: u64,
}

impl Stream {
    /// `len` bytes; another `seed` gives other bytes.
    pub fn new(seed: u64, len: u64) -> Stream {
        // xorshift64: noise is enough here.
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut block = Vec::with_capacity(BLOCK);
        while block.len() < BLOCK {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        Stream { block, position: 0, end: len }
    }

    /// The bytes that come next; empty at the end.
    fn next(&mut self) -> &[u8] {
        let offset = (self.position % BLOCK as u64) as usize;
        if offset == 0 {
            let number = self.position / BLOCK as u64;
            self.block[..8].copy_from_slice(&number.to_le_bytes());
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        &self.block[offset..BLOCK.min(offset.saturating_add(left))]
    }

    /// How many bytes were written or compared.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes all of it; stops at the first error, and goes on from there when it is called again.
    pub fn write_to(&mut self, mut sink: impl Write) -> io::Result<()> {
        loop {
            let next = self.next();
            if next.is_empty() {
                return Ok(());
            }
            // Not `write_all`: after an error it does not tell how much was taken.
            match sink.write(next) {
                Ok(len) => self.position += len as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads as much as this stream has and compares every byte.
    pub fn compare(&mut self, mut source: impl Read) -> io::Result<()> {
        let mut buf = vec![0; BLOCK];
        while self.position < self.end {
            let at = self.position;
            let expected = self.next();
            let len = source.read(&mut buf[..expected.len()])?;
            if len == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the stream ends at byte {at}")));
            }
            if buf[..len] != expected[..len] {
                return Err(io::Error::other(format!("the streams part within {len} bytes after byte {at}")));
            }
            self.position += len as u64;
        }
        Ok(())
    }
}
