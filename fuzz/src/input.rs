//! Takes an input apart. At its end there are zeros, so that every input means something.

use crate::testkit::Random;

/// The rest of an input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// A length byte, and as many bytes.
    pub fn text(&mut self) -> &'a [u8] {
        let len = self.byte();
        self.bytes(usize::from(len))
    }
}

/// Where to cut `len` bytes: rising ends of pieces, the last of them `len`. 0 cuts after every byte.
pub fn cuts(seed: u8, len: usize) -> Vec<usize> {
    let mut random = Random::new(u64::from(seed));
    let most = [1, 2, 7, 40, 300][usize::from(seed) % 5];
    let mut ends = Vec::new();
    let mut end = 0;
    while end < len {
        end = (end + 1 + random.below(most)).min(len);
        ends.push(end);
    }
    ends
}
