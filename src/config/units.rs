//! Durations, sizes and counts: `500ms`, `10s`, `1m`, `1h`; `64KiB`, `1MiB`, plain bytes.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::error::quoted;
use super::read::{Entry, expected};

/// A duration of at least a millisecond and at most a year, so that no sum with a moment overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Span(pub Duration);

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

const MILLISECOND: u64 = 1;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// From the longest unit to the shortest, in milliseconds.
const SPAN_UNITS: [(&str, u64); 4] = [("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MILLISECOND)];

impl Entry for Span {
    const EXPECTED: &'static str = "a duration such as 500ms, 10s, 1m or 1h";

    fn from_number(value: u64) -> Result<Self, String> {
        Err(format!("{value} has no unit: write {value}s for seconds, or use ms, m or h"))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let millis = number_with_unit(text, &SPAN_UNITS).ok_or_else(|| expected::<Self>(quoted(text)))?;
        let span = Duration::from_millis(millis);
        if span.is_zero() {
            return Err("a duration of 0 would be over before it began: the shortest is 1ms".to_owned());
        }
        if span > YEAR {
            return Err(format!("{} is too long: the longest duration is 8760h, a year", quoted(text)));
        }
        Ok(Span(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let fits = |(_, unit): &&(&str, u64)| millis.is_multiple_of(u128::from(*unit));
        let (name, unit) = SPAN_UNITS.iter().find(fits).unwrap_or(&("ms", MILLISECOND));
        write!(f, "{}{name}", millis / u128::from(*unit))
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// From the largest unit to the smallest, in bytes. The last is a number in quotes, or in a flag.
const SIZE_UNITS: [(&str, u64); 5] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1), ("", 1)];

/// A number of bytes from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Entry for Size<MIN, MAX> {
    const EXPECTED: &'static str = "a size such as 65536, 64KiB or 1MiB";

    fn from_number(value: u64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&value) {
            return Ok(Size(value));
        }
        let [found, min, max] = [value, MIN, MAX].map(Bytes);
        Err(format!("{found} is out of range: write a size from {min} to {max}"))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_number(number_with_unit(text, &SIZE_UNITS).ok_or_else(|| expected::<Self>(quoted(text)))?)
    }
}

/// A number of bytes, printed with the largest unit that leaves nothing over.
pub(super) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) if *unit > 1 => write!(f, "{}{name}", self.0 / unit),
            Some(_) | None => write!(f, "{}", self.0),
        }
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(super) struct Count<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Entry for Count<MIN, MAX> {
    const EXPECTED: &'static str = "a whole number";

    fn from_number(value: u64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&value) {
            return Ok(Count(value));
        }
        Err(format!("{value} is out of range: write a number from {MIN} to {MAX}"))
    }
}

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// As a count of things in memory; exact on every machine, as no count here is above 2^32 (rule E9).
    pub fn to_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Exact: no count here is above 2^32.
    pub fn to_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// As a number of bytes in memory; exact, as no size of a buffer is above 2^32 (rule E9).
    pub fn to_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A value, or a word that stands for leaving it open.
macro_rules! open_or {
    ($(#[$doc:meta])* $name:ident($value:ty) or $word:literal, expected $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) struct $name(pub Option<$value>);

        impl Entry for $name {
            const EXPECTED: &'static str = $expected;

            fn from_number(value: u64) -> Result<Self, String> {
                <$value>::from_number(value).map(Some).map($name)
            }

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $word => Ok($name(None)),
                    _ => <$value>::from_text(text).map(Some).map($name).map_err(|error| {
                        if error.starts_with("expected") { expected::<Self>(quoted(text)) } else { error }
                    }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    Some(value) => value.serialize(serializer),
                    None => serializer.serialize_str($word),
                }
            }
        }
    };
}

open_or! {
    /// The largest body, or `unlimited`. Bodies are counted in 63 bits, as Content-Length is.
    BodyLimit(Size<0, { i64::MAX as u64 }>) or "unlimited",
    expected "a size such as 65536, 64KiB or 1MiB, or unlimited"
}

open_or! {
    /// A number of connections, or `auto`: derived from the descriptor limit.
    ConnectionLimit(Count<1, 1_000_000>) or "auto",
    expected "a whole number, or auto"
}

open_or! {
    /// What all buffers together may take, or `unlimited`. The least is what one worker needs.
    MemoryLimit(Size<MIB, { 2 * GIB }>) or "unlimited",
    expected "a size such as 8MiB, or unlimited"
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Sizes that no unit fits are written as plain numbers, not as text.
impl<const MIN: u64, const MAX: u64> Serialize for Size<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 >= KIB && self.0.is_multiple_of(KIB) {
            serializer.collect_str(&Bytes(self.0))
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

/// Digits and one of `units`, nothing between or around them. Digits only: `str::parse` would take a `+`.
fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, name) = text.split_at(digits);
    let (_, unit) = units.iter().find(|(unit, _)| *unit == name)?;
    if number.is_empty() {
        return None;
    }
    let number = number.bytes().try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
    // A number too great for u64 is out of any range.
    Some(number.and_then(|number| number.checked_mul(*unit)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("1m", Some(60_000)),
            ("1h", Some(3_600_000)),
            ("8760h", Some(YEAR.as_millis())),
            ("8761h", None),
            ("99999999999999999999s", None),
            ("0s", None),
            ("10", None),
            ("s", None),
            ("", None),
            ("1.5s", None),
            ("+1s", None),
            ("-1s", None),
            ("1 s", None),
            ("1S", None),
            ("1d", None),
            ("1m30s", None),
        ] {
            let read = Span::from_text(text).ok().map(|Span(span)| span.as_millis());
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn sizes_have_a_number_and_perhaps_a_unit() {
        for (text, expected) in [
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1_048_576)),
            ("2GiB", Some(2 << 30)),
            ("100B", Some(100)),
            ("64", Some(64)),
            ("+64", None),
            ("", None),
            ("64KB", None),
            ("64kib", None),
            ("1.5MiB", None),
            ("0x10B", None),
            ("99999999999999999999KiB", None),
        ] {
            assert_eq!(Size::<0, { 1 << 40 }>::from_text(text).ok().map(|size| size.0), expected, "{text}");
        }
        assert_eq!(Size::<1024, 2048>::from_number(1024), Ok(Size(1024)));
        let refused = "1 is out of range: write a size from 1KiB to 2KiB".to_owned();
        assert_eq!(Size::<1024, 2048>::from_number(1), Err(refused));
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for text in ["500ms", "10s", "1m", "90s", "1h", "5m", "1ms", "3601s"] {
            assert_eq!(Span::from_text(text).map(|span| span.to_string()).as_deref(), Ok(text));
        }
        for (bytes, expected) in
            [(0, "0"), (1, "1"), (1024, "1KiB"), (1025, "1025"), (1 << 20, "1MiB"), (3 << 30, "3GiB")]
        {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
    }
}
