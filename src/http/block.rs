//! Several bytes looked at together: which of them are below a limit, or a certain byte, or no letter.
//!
//! Nearly every byte of every head goes through this. A block is sixteen bytes where each processor can look at so many at
//! once, elsewhere eight bytes in an integer. Counted for two heads of browser size, sixteen take 1,090 instructions less
//! than eight of 12,230.
//!
//! The first mark may be one too many, and what is marked behind it may be wrong in any way: the sums of the portable form
//! carry from one byte into the next. So it is a hint: who asks looks at the marked byte itself.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use portable::{Block, Marks, WIDTH};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub use sixteen::{Block, Marks, WIDTH};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod sixteen {
    use std::ops::BitOr;

    use wide::u8x16;

    /// Bytes in a block.
    pub const WIDTH: usize = 16;

    /// Bytes to look at.
    #[derive(Clone, Copy)]
    pub struct Block(u8x16);

    /// The highest bit of each byte is its mark.
    #[derive(Clone, Copy)]
    pub struct Marks(u8x16);

    impl Block {
        /// These bytes.
        #[inline(always)]
        pub fn of(bytes: &[u8; WIDTH]) -> Block {
            Block(u8x16::new(*bytes))
        }

        /// Marks what is at most `limit`, which is ASCII.
        #[inline(always)]
        pub fn up_to(self, limit: u8) -> Marks {
            Marks(self.0.min(u8x16::splat(limit)).simd_eq(self.0))
        }

        /// Marks what is `byte`.
        #[inline(always)]
        pub fn equal(self, byte: u8) -> Marks {
            Marks(self.0.simd_eq(u8x16::splat(byte)))
        }

        /// Marks what is no ASCII.
        #[inline(always)]
        pub fn above_ascii(self) -> Marks {
            Marks(self.0)
        }

        /// Marks ASCII letters.
        #[inline(always)]
        pub fn letters(self) -> Marks {
            let lower = self.0 | u8x16::splat(0x20);
            Block(lower - u8x16::splat(b'a')).up_to(b'z' - b'a')
        }
    }

    impl Marks {
        /// Where the first mark is.
        #[inline(always)]
        pub fn first(self) -> Option<usize> {
            first(self.0.to_bitmask())
        }

        /// Where the first byte without a mark is.
        #[inline(always)]
        pub fn first_missing(self) -> Option<usize> {
            first(self.0.to_bitmask() ^ 0xffff)
        }
    }

    #[inline(always)]
    fn first(bits: u32) -> Option<usize> {
        (bits != 0).then(|| bits.trailing_zeros() as usize)
    }

    impl BitOr for Marks {
        type Output = Marks;

        #[inline(always)]
        fn bitor(self, other: Marks) -> Marks {
            Marks(self.0 | other.0)
        }
    }
}

/// The mark of each byte of a word.
pub const HIGHEST: u64 = all(0x80);

/// A word of this byte alone.
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Marks what is `byte` in a word. For who has to shift words, too, which blocks cannot.
pub const fn equal(word: u64, byte: u8) -> u64 {
    let difference = word ^ all(byte);
    difference.wrapping_sub(all(1)) & !difference
}

#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod portable {
    use std::ops::BitOr;

    use super::{HIGHEST, all, equal};

    /// Bytes in a block.
    pub const WIDTH: usize = 8;

    /// Bytes to look at.
    #[derive(Clone, Copy)]
    pub struct Block(u64);

    /// The highest bit of each byte is its mark.
    #[derive(Clone, Copy)]
    pub struct Marks(u64);

    impl Block {
        /// These bytes.
        pub fn of(bytes: &[u8; WIDTH]) -> Block {
            Block(u64::from_le_bytes(*bytes))
        }

        /// Marks what is at most `limit`, which is ASCII.
        pub fn up_to(self, limit: u8) -> Marks {
            // Who is below the limit borrows.
            Marks(self.0.wrapping_sub(all(limit + 1)) & !self.0)
        }

        /// Marks what is `byte`.
        pub fn equal(self, byte: u8) -> Marks {
            Marks(equal(self.0, byte))
        }

        /// Marks what is no ASCII.
        pub fn above_ascii(self) -> Marks {
            Marks(self.0)
        }

        /// Marks ASCII letters.
        pub fn letters(self) -> Marks {
            // A letter reaches 0x80 from `a`, but not from what follows `z`.
            let lower = self.0 | all(0x20);
            let from_a = lower.wrapping_add(all(0x80 - b'a'));
            let above_z = lower.wrapping_add(all(0x7f - b'z'));
            Marks(from_a & !above_z & !self.0)
        }
    }

    impl Marks {
        /// Where the first mark is.
        pub fn first(self) -> Option<usize> {
            let marks = self.0 & HIGHEST;
            (marks != 0).then(|| (marks.trailing_zeros() / 8) as usize)
        }

        /// Where the first byte without a mark is.
        pub fn first_missing(self) -> Option<usize> {
            Marks(!self.0).first()
        }
    }

    impl BitOr for Marks {
        type Output = Marks;

        fn bitor(self, other: Marks) -> Marks {
            Marks(self.0 | other.0)
        }
    }
}

#[cfg(test)]
mod tests {
    /// The same table for both forms.
    macro_rules! each_byte_is_marked_where_it_stands {
        ($name:ident, $form:ident) => {
            #[test]
            fn $name() {
                use super::$form::{Block, WIDTH};
                for byte in 0..=255_u8 {
                    for at in 0..WIDTH {
                        let among = |filler: u8| {
                            let mut bytes = [filler; WIDTH];
                            bytes[at] = byte;
                            Block::of(&bytes)
                        };
                        let here = |is_so: bool| is_so.then_some(at);
                        assert_eq!(among(b'~').up_to(b' ').first(), here(byte <= b' '), "up to: {byte:#x} at {at}");
                        assert_eq!(among(b'a').equal(b'?').first(), here(byte == b'?'), "equal: {byte:#x} at {at}");
                        assert_eq!(among(b'a').above_ascii().first(), here(byte >= 0x80), "ASCII: {byte:#x} at {at}");
                        let letters = among(b'Q').letters();
                        assert_eq!(letters.first_missing(), here(!byte.is_ascii_alphabetic()), "{byte:#x} at {at}");
                        let either = letters | among(b'Q').equal(b'-');
                        let is_either = byte.is_ascii_alphabetic() || byte == b'-';
                        assert_eq!(either.first_missing(), here(!is_either), "either: {byte:#x} at {at}");
                    }
                }
            }
        };
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    each_byte_is_marked_where_it_stands!(sixteen_bytes_at_once, sixteen);
    each_byte_is_marked_where_it_stands!(eight_bytes_at_once, portable);
}
