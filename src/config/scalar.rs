//! Values that are one text or number: durations, sizes, counts, names.
//!
//! A [`Notation`] is how a value is written, [`As`] brings it to serde: `#[serde(with = "As::<HumanDuration>")]`. A refusal in a
//! notation is told at the place of the value, since the YAML library adds the place to what a visitor refuses.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serializer};

use super::error::{quoted, refuse};

/// One text or number of the file.
#[derive(Clone, Copy)]
pub(super) enum Scalar<'a> {
    Text(&'a str),
    Number(u64),
}
use Scalar::{Number, Text};

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text(text) => f.write_str(&quoted(text)),
            Number(number) => write!(f, "the number {number}"),
        }
    }
}

/// How a value is written.
pub(super) trait Notation {
    type Value;

    /// Completes "expected ...".
    const EXPECTED: &'static str;

    /// `None` where something else stands; an error where more can be said about it.
    fn read(scalar: Scalar<'_>) -> Result<Option<Self::Value>, String>;

    /// The same, with a sentence for something else.
    fn parse(scalar: Scalar<'_>) -> Result<Self::Value, String> {
        Self::read(scalar)?.ok_or_else(|| format!("expected {}, found {scalar}", Self::EXPECTED))
    }
}

/// A notation that is not that of serde when the value is printed either.
pub(super) trait Printed: Notation {
    /// Where the value may be left open ([`Or`]): the word for it, and what is expected then.
    const OPEN: [&'static str; 2] = [""; 2];

    /// A text of nothing but digits is printed as a number.
    fn print(value: &Self::Value) -> String;
}

/// Reads and prints values in the notation `N`.
pub(super) struct As<N>(PhantomData<N>);

impl<N: Notation> As<N> {
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<N::Value, D::Error> {
        Self::own(from)?.ok_or_else(|| D::Error::invalid_length(0, &N::EXPECTED))
    }

    /// A key that may be left out, but not its value.
    pub fn own<'de, D: Deserializer<'de>>(from: D) -> Result<Option<N::Value>, D::Error> {
        Self::read(from, false).map(|mut one| one.pop())
    }

    pub fn one_or_list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<N::Value>, D::Error> {
        Self::read(from, true)
    }

    fn read<'de, D: Deserializer<'de>>(from: D, may_be_list: bool) -> Result<Vec<N::Value>, D::Error> {
        let mut all = Vec::new();
        let read = &mut |scalar: Scalar<'_>| N::parse(scalar).map(|value| all.push(value));
        from.deserialize_any(ScalarVisitor { read, expected: N::EXPECTED, may_be_list })?;
        Ok(all)
    }

    pub fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<N::Value>, D::Error> {
        or_default(from).map(|list: Vec<Element<N>>| list.into_iter().map(|Element(value)| value).collect())
    }

    pub fn own_list<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<N::Value>>, D::Error> {
        let list: Option<Vec<Element<N>>> = Option::deserialize(from)?;
        Ok(list.map(|list| list.into_iter().map(|Element(value)| value).collect()))
    }

    pub fn serialize<S: Serializer>(value: &N::Value, serializer: S) -> Result<S::Ok, S::Error>
    where
        N: Printed,
    {
        let text = N::print(value);
        match text.parse() {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.serialize_str(&text),
        }
    }
}

struct Element<N: Notation>(N::Value);

impl<'de, N: Notation> Deserialize<'de> for Element<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        As::<N>::deserialize(from).map(Element)
    }
}

/// The one visitor of values. It is not generic: compiled for each notation, it would take 80 KB.
struct ScalarVisitor<'a> {
    read: &'a mut dyn FnMut(Scalar<'_>) -> Result<(), String>,
    expected: &'a str,
    may_be_list: bool,
}

impl<'de> DeserializeSeed<'de> for ScalarVisitor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.expected, if self.may_be_list { ", or a list of them" } else { "" })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        (self.read)(Text(text)).map_err(refuse)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        (self.read)(Number(number)).map_err(refuse)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.may_be_list {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let mut is_empty = true;
        while list.next_element_seed(ScalarVisitor { may_be_list: false, read: self.read, ..self })?.is_some() {
            is_empty = false;
        }
        if is_empty { Err(refuse("this list is empty: write at least one, or remove the key")) } else { Ok(()) }
    }
}

/// A key without a value, and one with `~`, is as if it was left out.
pub(super) fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// A key that may be left out, but not its value.
pub(super) fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A value, or a word that leaves it open.
pub(super) struct Or<N>(PhantomData<N>);

impl<N: Printed> Notation for Or<N> {
    type Value = Option<N::Value>;
    const EXPECTED: &'static str = N::OPEN[1];

    fn read(scalar: Scalar<'_>) -> Result<Option<Self::Value>, String> {
        match scalar {
            Text(word) if word == N::OPEN[0] => Ok(Some(None)),
            _ => Ok(N::read(scalar)?.map(Some)),
        }
    }
}

impl<N: Printed> Printed for Or<N> {
    fn print(value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| N::OPEN[0].to_owned(), N::print)
    }
}

/// A duration of at least a millisecond and at most a year, so that no sum with a moment overflows.
pub(super) struct HumanDuration;

const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

impl Notation for HumanDuration {
    type Value = Duration;
    const EXPECTED: &'static str = "a duration such as 500ms, 10s, 1m or 1h";

    fn read(scalar: Scalar<'_>) -> Result<Option<Duration>, String> {
        let text = match scalar {
            Text(text) => text,
            Number(number) => {
                return Err(format!("{number} has no unit: write {number}s for seconds, or use ms, m or h"));
            }
        };
        // humantime has more units, and one that is a month where it is written in upper case; and it panics beyond 2^64 s.
        let is_unit =
            |word: &str| matches!(word.trim(), "" | "ms" | "s" | "m" | "h" | "d" | "day" | "days" | "month" | "months");
        let is_short = |digits: &str| digits.len() <= 12;
        if text.len() > 64
            || !text.split(|c: char| c.is_ascii_digit() || c == '.').all(is_unit)
            || !text.split(|c: char| !c.is_ascii_digit()).all(is_short)
        {
            return Ok(None);
        }
        match humantime::parse_duration(text) {
            Ok(span) if span > MAX_DURATION => {
                Err(format!("{} is too long: the longest duration is 8760h, a year", quoted(text)))
            }
            Ok(span) if span.is_zero() || !span.subsec_nanos().is_multiple_of(1_000_000) => {
                Err(format!("{} is no whole number of milliseconds: the shortest duration is 1ms", quoted(text)))
            }
            other => Ok(other.ok()),
        }
    }
}

impl Printed for HumanDuration {
    fn print(span: &Duration) -> String {
        humantime::format_duration(*span).to_string()
    }
}

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

/// From the largest unit to the smallest, in bytes. The first of those without a letter is the one that is printed.
const SIZE_UNITS: [(&str, u64); 5] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("", 1), ("B", 1)];

/// A number of bytes from `MIN` to `MAX`.
pub(super) struct Size<const MIN: u64, const MAX: u64, T = usize>(PhantomData<T>);

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Notation for Size<MIN, MAX, T> {
    type Value = T;
    const EXPECTED: &'static str = "a size such as 65536, 64KiB or 1MiB";

    fn read(scalar: Scalar<'_>) -> Result<Option<T>, String> {
        let size = match scalar {
            Text(text) => parse_size(text),
            Number(number) => Some(number),
        };
        let Some(size) = size else { return Ok(None) };
        in_range(size, MIN, MAX).map(Some).ok_or_else(|| {
            let [size, min, max] = [size, MIN, MAX].map(print_size);
            format!("{size} is out of range: write a size from {min} to {max}")
        })
    }
}

impl<T: Copy + TryFrom<u64> + TryInto<u64>, const MIN: u64, const MAX: u64> Printed for Size<MIN, MAX, T> {
    const OPEN: [&'static str; 2] = ["unlimited", "a size such as 65536, 64KiB or 1MiB, or unlimited"];

    fn print(size: &T) -> String {
        print_size((*size).try_into().unwrap_or(u64::MAX))
    }
}

/// Digits and a unit, nothing between or around them. Digits only: `str::parse` would take a `+`.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, name) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let (_, unit) = SIZE_UNITS.iter().find(|(unit, _)| *unit == name)?;
    if digits.is_empty() {
        return None;
    }
    // What is too great for u64 is out of any range.
    Some(digits.parse().unwrap_or(u64::MAX).saturating_mul(*unit))
}

/// With the largest unit that leaves nothing over.
pub(super) fn print_size(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| *unit == 1 || bytes >= *unit && bytes.is_multiple_of(*unit);
    SIZE_UNITS.iter().find(fits).map_or_else(String::new, |(name, unit)| format!("{}{name}", bytes / unit))
}

/// A whole number from `MIN` to `MAX`.
pub(super) struct Count<const MIN: u64, const MAX: u64, T = usize>(PhantomData<T>);

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Notation for Count<MIN, MAX, T> {
    type Value = T;
    const EXPECTED: &'static str = "a whole number";

    fn read(scalar: Scalar<'_>) -> Result<Option<T>, String> {
        let Number(count) = scalar else { return Ok(None) };
        let out_of_range = || format!("{count} is out of range: write a number from {MIN} to {MAX}");
        in_range(count, MIN, MAX).map(Some).ok_or_else(out_of_range)
    }
}

impl<T: TryFrom<u64> + fmt::Display, const MIN: u64, const MAX: u64> Printed for Count<MIN, MAX, T> {
    const OPEN: [&'static str; 2] = ["auto", "a whole number, or auto"];

    fn print(count: &T) -> String {
        count.to_string()
    }
}

fn in_range<T: TryFrom<u64>>(value: u64, min: u64, max: u64) -> Option<T> {
    if (min..=max).contains(&value) { T::try_from(value).ok() } else { None }
}

/// A text that is not empty.
pub(super) struct NonEmpty<T = PathBuf>(PhantomData<T>);

impl<T: From<String>> Notation for NonEmpty<T> {
    type Value = T;
    const EXPECTED: &'static str = "a text (put numbers and words like true in quotes)";

    fn read(scalar: Scalar<'_>) -> Result<Option<T>, String> {
        let Text(text) = scalar else { return Ok(None) };
        Ok((!text.is_empty()).then(|| text.to_owned().into()))
    }
}

/// A protocol to upgrade to, in lower case (RFC 9110 section 7.8).
pub(super) struct Protocol;

impl Notation for Protocol {
    type Value = String;
    const EXPECTED: &'static str = "the name of a protocol such as websocket";

    fn read(scalar: Scalar<'_>) -> Result<Option<String>, String> {
        let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
        match scalar {
            Text(text) if text.eq_ignore_ascii_case("h2c") => {
                Err("upgrading to h2c is never allowed: requests in it would pass unseen (rule G14)".to_owned())
            }
            Text(text) if matches!(text.len(), 1..=64) && text.bytes().all(is_tchar) => {
                Ok(Some(text.to_ascii_lowercase()))
            }
            _ => Ok(None),
        }
    }
}

/// A range of addresses, or one address.
pub(super) struct Network;

impl Notation for Network {
    type Value = IpNet;
    const EXPECTED: &'static str = "an address or a range such as 10.0.0.0/8";

    fn read(scalar: Scalar<'_>) -> Result<Option<IpNet>, String> {
        let Text(text) = scalar else { return Ok(None) };
        let network = text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse().ok());
        match network {
            Some(network) if network != network.trunc() => {
                Err(format!("{network} is an address inside a range: write {} for the range", network.trunc()))
            }
            network => Ok(network),
        }
    }
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
            ("1m30s", Some(90_000)),
            ("1d", Some(86_400_000)),
            ("1.5s", Some(1500)),
            ("0.25h", Some(900_000)),
            ("8760h", Some(365 * 86_400_000)),
            ("8761h", None),
            ("8760.5h", None),
            ("99999999999999999999s", None),
            ("0s", None),
            ("0.0s", None),
            ("0.0001s", None),
            ("1.5ms", None),
            ("1.s", None),
            (".5s", None),
            ("1.5.5s", None),
            ("1.99999999999999999999s", None),
            ("1.5x", None),
            ("10", None),
            ("s", None),
            ("", None),
            ("+1s", None),
            ("-1s", None),
            ("1S", None),
            ("1M", None),
            ("1w", None),
            ("18446744073709551615s 1000ms", None),
            ("999999999999d 999999999999d 999999999999d 999999999999d", None),
            ("31536000000ms", Some(365 * 86_400_000)),
        ] {
            let millis = HumanDuration::parse(Text(text)).ok().map(|span| span.as_millis() as u64);
            assert_eq!(millis, expected, "{text}");
        }
    }

    #[test]
    fn sizes_have_a_number_and_perhaps_a_unit() {
        type AnySize = Size<0, { 1 << 40 }, u64>;
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
            assert_eq!(AnySize::parse(Text(text)).ok(), expected, "{text}");
        }
        assert_eq!(Size::<1024, 2048, u32>::parse(Number(1024)), Ok(1024));
        let refused = "1 is out of range: write a size from 1KiB to 2KiB".to_owned();
        assert_eq!(Size::<1024, 2048>::parse(Number(1)), Err(refused));
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for text in [
            "500ms",
            "10s",
            "1m",
            "1m 30s",
            "1h",
            "5m",
            "1ms",
            "1h 1s",
            "1s 1ms",
            "1day",
            "2days 1m",
            "11months 30days 3h 50m 24s",
        ] {
            assert_eq!(HumanDuration::parse(Text(text)).map(|span| HumanDuration::print(&span)).as_deref(), Ok(text));
        }
        for (bytes, expected) in
            [(0, "0"), (1, "1"), (1024, "1KiB"), (1025, "1025"), (1 << 20, "1MiB"), (3 << 30, "3GiB")]
        {
            assert_eq!(print_size(bytes), expected);
        }
    }
}
