//! Values that are one text or number: `500ms`, `10s`, `1.5s`, `1h`; `64KiB`, `1MiB`, plain bytes; counts; words.
//!
//! A [`Notation`] is how a value is written, [`As`] brings it to serde: `#[serde(with = "As::<HumanDuration>")]`. A refusal in a
//! notation is told at the place of the value, since the YAML library adds the place to what a visitor refuses.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serializer};

use super::error::{quoted, refuse};

/// How a `T` is written. What is not said to be accepted is refused.
pub(super) trait Notation<T> {
    /// Completes "expected ...".
    const EXPECTED: &'static str;

    /// From a text.
    fn from_text(text: &str) -> Result<T, String> {
        Err(Self::unexpected(text))
    }

    /// The refusal of a text.
    fn unexpected(text: &str) -> String {
        format!("expected {}, found {}", Self::EXPECTED, quoted(text))
    }

    /// From a whole number.
    fn from_number(number: u64) -> Result<T, String> {
        Err(format!("expected {}, found the number {number}", Self::EXPECTED))
    }
}

/// A notation that is not that of serde when the value is printed either.
pub(super) trait Printed<T> {
    /// The word that leaves the value open, where that is possible ([`Or`]).
    const OPEN: &'static str = "";
    /// What is expected there.
    const EXPECTED_OR_OPEN: &'static str = "";

    /// A text of nothing but digits is printed as a number.
    fn print(value: &T) -> String;
}

/// Reads and prints values in the notation `N`.
pub(super) struct As<N>(PhantomData<N>);

impl<N> As<N> {
    pub fn deserialize<'de, T, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error>
    where
        N: Notation<T>,
    {
        let one = read::<N, T, D>(deserializer, false)?.pop();
        one.ok_or_else(|| D::Error::invalid_length(0, &N::EXPECTED))
    }

    pub fn serialize<T, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        N: Printed<T>,
    {
        let text = N::print(value);
        match text.parse() {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.serialize_str(&text),
        }
    }
}

/// A list of values, or one.
pub(super) fn one_or_list<'de, N: Notation<N>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<N>, D::Error> {
    read::<N, N, D>(deserializer, true)
}

fn read<'de, N: Notation<T>, T, D: Deserializer<'de>>(from: D, may_be_list: bool) -> Result<Vec<T>, D::Error> {
    let mut all = Vec::new();
    let read = &mut |scalar: Scalar<'_>| {
        all.push(match scalar {
            Scalar::Text(text) => N::from_text(text),
            Scalar::Number(number) => N::from_number(number),
        }?);
        Ok(())
    };
    ScalarVisitor { read, expected: N::EXPECTED, may_be_list }.deserialize(from)?;
    Ok(all)
}

enum Scalar<'a> {
    Text(&'a str),
    Number(u64),
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
        (self.read)(Scalar::Text(text)).map_err(refuse)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        (self.read)(Scalar::Number(number)).map_err(refuse)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.may_be_list {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let ScalarVisitor { read, expected, .. } = self;
        let mut is_empty = true;
        while list.next_element_seed(ScalarVisitor { read, expected, may_be_list: false })?.is_some() {
            is_empty = false;
        }
        if is_empty { Err(refuse("this list is empty: write at least one, or remove the key")) } else { Ok(()) }
    }
}

/// Types that are their own notation.
macro_rules! deserialize_as_itself {
    ($($type:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::config::scalar::As::<Self>::deserialize(deserializer)
            }
        }
    )*};
}
pub(super) use deserialize_as_itself;
deserialize_as_itself!(Protocol, Network);

/// A key without a value, and one with `~`, is as if it was left out.
pub(super) fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// A key that may be left out, but not its value.
pub(super) fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// What a route may say for itself: in the notation of the value, and nothing where it is left out.
pub(super) struct Own<N>(PhantomData<N>);

impl<T, N: Notation<T>> Notation<Option<T>> for Own<N> {
    const EXPECTED: &'static str = N::EXPECTED;

    fn from_text(text: &str) -> Result<Option<T>, String> {
        N::from_text(text).map(Some)
    }

    fn from_number(number: u64) -> Result<Option<T>, String> {
        N::from_number(number).map(Some)
    }
}

/// A value, or a word that leaves it open.
pub(super) struct Or<N>(PhantomData<N>);

impl<T, N: Notation<T> + Printed<T>> Notation<Option<T>> for Or<N> {
    const EXPECTED: &'static str = N::EXPECTED_OR_OPEN;

    fn from_text(text: &str) -> Result<Option<T>, String> {
        if text == N::OPEN {
            return Ok(None);
        }
        N::from_text(text).map(Some).map_err(|error| error.replacen(N::EXPECTED, Self::EXPECTED, 1))
    }

    fn from_number(number: u64) -> Result<Option<T>, String> {
        N::from_number(number).map(Some)
    }
}

impl<T, N: Printed<T>> Printed<Option<T>> for Or<N> {
    fn print(value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| N::OPEN.to_owned(), N::print)
    }
}

/// A duration of at least a millisecond and at most a year, so that no sum with a moment overflows.
pub(super) struct HumanDuration;

/// From the longest unit to the shortest, in milliseconds.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const MAX_MILLIS: u64 = 365 * 24 * 3_600_000;

impl Notation<Duration> for HumanDuration {
    const EXPECTED: &'static str = "a duration such as 500ms, 10s, 1m or 1h";

    fn from_number(value: u64) -> Result<Duration, String> {
        Err(format!("{value} has no unit: write {value}s for seconds, or use ms, m or h"))
    }

    fn from_text(text: &str) -> Result<Duration, String> {
        match millis(text) {
            None => Err(Self::unexpected(text)),
            Some(0) => Err("a duration of 0 would be over before it began: the shortest is 1ms".to_owned()),
            Some(millis @ 1..=MAX_MILLIS) => Ok(Duration::from_millis(millis)),
            Some(_) => Err(format!("{} is too long: the longest duration is 8760h, a year", quoted(text))),
        }
    }
}

/// `10s`, or `1.5s` where nothing has to be rounded.
fn millis(text: &str) -> Option<u64> {
    let Some((whole, fraction)) = text.split_once('.') else { return number_with_unit(text, &DURATION_UNITS) };
    let (digits, unit) = fraction.split_at(fraction.bytes().take_while(u8::is_ascii_digit).count());
    let fraction = number_with_unit(fraction, &DURATION_UNITS)?;
    let scale = 10_u64.checked_pow(digits.len() as u32).filter(|scale| fraction.is_multiple_of(*scale))?;
    number_with_unit(&format!("{whole}{unit}"), &DURATION_UNITS)?.checked_add(fraction / scale)
}

impl Printed<Duration> for HumanDuration {
    fn print(span: &Duration) -> String {
        with_unit(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS)
    }
}

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

/// From the largest unit to the smallest, in bytes. The first of those without a letter is the one that is printed.
const SIZE_UNITS: [(&str, u64); 5] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("", 1), ("B", 1)];

/// A number of bytes from `MIN` to `MAX`.
pub(super) struct Size<const MIN: u64, const MAX: u64>;

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Notation<T> for Size<MIN, MAX> {
    const EXPECTED: &'static str = "a size such as 65536, 64KiB or 1MiB";

    fn from_number(value: u64) -> Result<T, String> {
        in_range(value, MIN, MAX).ok_or_else(|| {
            let [value, min, max] = [value, MIN, MAX].map(print_size);
            format!("{value} is out of range: write a size from {min} to {max}")
        })
    }

    fn from_text(text: &str) -> Result<T, String> {
        match number_with_unit(text, &SIZE_UNITS) {
            Some(size) => <Self as Notation<T>>::from_number(size),
            None => Err(<Self as Notation<T>>::unexpected(text)),
        }
    }
}

impl<T: Copy + TryInto<u64>, const MIN: u64, const MAX: u64> Printed<T> for Size<MIN, MAX> {
    const OPEN: &'static str = "unlimited";
    const EXPECTED_OR_OPEN: &'static str = "a size such as 65536, 64KiB or 1MiB, or unlimited";

    fn print(size: &T) -> String {
        print_size((*size).try_into().unwrap_or(u64::MAX))
    }
}

/// With the largest unit that leaves nothing over.
pub(super) fn print_size(bytes: u64) -> String {
    with_unit(bytes, &SIZE_UNITS)
}

/// A whole number from `MIN` to `MAX`.
pub(super) struct Count<const MIN: u64, const MAX: u64>;

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Notation<T> for Count<MIN, MAX> {
    const EXPECTED: &'static str = "a whole number";

    fn from_number(value: u64) -> Result<T, String> {
        in_range(value, MIN, MAX).ok_or_else(|| format!("{value} is out of range: write a number from {MIN} to {MAX}"))
    }
}

impl<T: Copy + fmt::Display, const MIN: u64, const MAX: u64> Printed<T> for Count<MIN, MAX> {
    const OPEN: &'static str = "auto";
    const EXPECTED_OR_OPEN: &'static str = "a whole number, or auto";

    fn print(count: &T) -> String {
        count.to_string()
    }
}

fn in_range<T: TryFrom<u64>>(value: u64, min: u64, max: u64) -> Option<T> {
    if (min..=max).contains(&value) { T::try_from(value).ok() } else { None }
}

/// Digits and one of `units`, nothing between or around them. Digits only: `str::parse` would take a `+`.
fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, name) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let (_, unit) = units.iter().find(|(unit, _)| *unit == name)?;
    if number.is_empty() {
        return None;
    }
    // What is too great for u64 is out of any range.
    Some(number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit)).unwrap_or(u64::MAX))
}

fn with_unit(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, unit): &&(&str, u64)| *unit == 1 || number >= *unit && number.is_multiple_of(*unit);
    units.iter().find(fits).map_or_else(String::new, |(name, unit)| format!("{}{name}", number / unit))
}

/// A text that is not empty.
pub(super) struct NonEmpty;

impl<T: From<String>> Notation<T> for NonEmpty {
    const EXPECTED: &'static str = "a text (put numbers and words like true in quotes)";

    fn from_text(text: &str) -> Result<T, String> {
        if text.is_empty() {
            return Err(format!("expected {}, found nothing", <Self as Notation<T>>::EXPECTED));
        }
        Ok(text.to_owned().into())
    }
}

/// A protocol to upgrade to, in lower case (RFC 9110 section 7.8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Protocol(pub String);

impl Notation<Protocol> for Protocol {
    const EXPECTED: &'static str = "the name of a protocol such as websocket";

    fn from_text(text: &str) -> Result<Protocol, String> {
        let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_tchar) {
            return Err(Self::unexpected(text));
        }
        if text.eq_ignore_ascii_case("h2c") {
            return Err("upgrading to h2c is never allowed: requests in it would pass unseen (rule G14)".to_owned());
        }
        Ok(Protocol(text.to_ascii_lowercase()))
    }
}

/// A range of addresses, or one address.
struct Network(IpNet);

impl Notation<Network> for Network {
    const EXPECTED: &'static str = "an address or a range such as 10.0.0.0/8";

    fn from_text(text: &str) -> Result<Network, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| Self::unexpected(text))?,
        };
        if network != network.trunc() {
            return Err(format!("{network} is an address inside a range: write {} for the range", network.trunc()));
        }
        Ok(Network(network))
    }
}

pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    or_default(deserializer).map(|all: Vec<Network>| all.into_iter().map(|Network(network)| network).collect())
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
            ("1.5s", Some(1500)),
            ("0.25h", Some(900_000)),
            ("8760h", Some(MAX_MILLIS)),
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
            ("1.0000000000s", Some(1000)),
            ("1.99999999999999999999s", None),
            ("1.5x", None),
            ("10", None),
            ("s", None),
            ("", None),
            ("+1s", None),
            ("-1s", None),
            ("1 s", None),
            ("1S", None),
            ("1d", None),
            ("1m30s", None),
        ] {
            let millis = HumanDuration::from_text(text).ok().map(|span| span.as_millis() as u64);
            assert_eq!(millis, expected, "{text}");
        }
    }

    #[test]
    fn sizes_have_a_number_and_perhaps_a_unit() {
        type AnySize = Size<0, { 1 << 40 }>;
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
            assert_eq!(AnySize::from_text(text).ok(), expected.map(|size: u64| size), "{text}");
        }
        assert_eq!(Size::<1024, 2048>::from_number(1024), Ok(1024_u32));
        let refused = "1 is out of range: write a size from 1KiB to 2KiB".to_owned();
        assert_eq!(<Size::<1024, 2048> as Notation<u64>>::from_number(1), Err(refused));
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for text in ["500ms", "10s", "1m", "90s", "1h", "5m", "1ms", "3601s"] {
            assert_eq!(HumanDuration::from_text(text).map(|span| HumanDuration::print(&span)).as_deref(), Ok(text));
        }
        for (bytes, expected) in
            [(0, "0"), (1, "1"), (1024, "1KiB"), (1025, "1025"), (1 << 20, "1MiB"), (3 << 30, "3GiB")]
        {
            assert_eq!(print_size(bytes), expected);
        }
    }
}
