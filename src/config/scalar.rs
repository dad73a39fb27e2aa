//! Values that are one text or number: durations, sizes, counts, names.
//!
//! A [`Notation`] is how a value is written, [`As`] brings it to serde: `#[serde(with = "As::<HumanDuration>")]`. What a notation
//! refuses gets its place from the YAML library, which adds it to the errors of a visitor.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use mini_rproxy_plugin::validate::is_token;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::error::quoted;

/// How a value is written. Whole numbers of the file come as text, too.
pub(super) trait Notation {
    type Value;

    /// Completes "expected ...".
    const EXPECTED: &'static str;

    /// `None` where something else stands; an error where more can be said about it.
    fn read(text: &str) -> Result<Option<Self::Value>, String>;

    /// The same, with a sentence for something else.
    fn parse(text: &str) -> Result<Self::Value, String> {
        Self::read(text)?.ok_or_else(|| format!("expected {}, found {}", Self::EXPECTED, quoted(text)))
    }
}

/// A notation that is not that of serde when the value is printed either.
pub(super) trait Printed: Notation {
    /// A text of nothing but digits is printed as a number.
    fn print(value: &Self::Value) -> String;
}

/// Reads and prints values in the notation `N`.
pub(super) struct As<N>(PhantomData<N>);

impl<N: Notation> As<N> {
    /// `T` is the value or an `Option` of it: a key that may be left out.
    pub fn deserialize<'de, T: From<N::Value>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let (_, mut one) = Self::read(from, false)?;
        Ok(one.pop().expect("the visitor takes one value").into())
    }

    /// One value or a list of them; a key without a value is as if it was left out.
    pub fn list<'de, T: Default + From<Vec<N::Value>>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let (is_said, all) = Self::read(from, true)?;
        Ok(if is_said { all.into() } else { T::default() })
    }

    /// The same where a forgotten value would let everybody in.
    pub fn said_list<'de, T: From<Vec<N::Value>>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        match Self::read(from, true)? {
            (true, all) => Ok(all.into()),
            (false, _) => {
                Err(D::Error::custom("a route's hosts, allow and deny need a value: write a list, or remove the key"))
            }
        }
    }

    fn read<'de, D: Deserializer<'de>>(from: D, may_be_list: bool) -> Result<(bool, Vec<N::Value>), D::Error> {
        let mut all = Vec::new();
        let read = &mut |text: &str| N::parse(text).map(|value| all.push(value));
        let is_said = from.deserialize_any(ScalarVisitor { read, expected: N::EXPECTED, may_be_list })?;
        Ok((is_said, all))
    }

    pub fn serialize<S: Serializer>(value: &N::Value, serializer: S) -> Result<S::Ok, S::Error>
    where
        N: Printed,
    {
        let text = N::print(value);
        if let Ok(number) = text.parse() { serializer.serialize_u64(number) } else { serializer.serialize_str(&text) }
    }
}

/// The one visitor of values; says whether there is one. It is not generic: compiled for each notation, it would take
/// 80 KB.
struct ScalarVisitor<'a> {
    read: &'a mut dyn FnMut(&str) -> Result<(), String>,
    expected: &'a str,
    may_be_list: bool,
}

impl<'de> DeserializeSeed<'de> for ScalarVisitor<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarVisitor<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.expected, if self.may_be_list { ", or a list of them" } else { "" })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        (self.read)(text).map(|()| true).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<bool, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        if self.may_be_list { Ok(false) } else { Err(E::invalid_type(Unexpected::Unit, &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        if !self.may_be_list {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        while list.next_element_seed(ScalarVisitor { may_be_list: false, read: self.read, ..self })?.is_some() {}
        Ok(true)
    }
}

/// A switch, a number or a text, all of which `read` knows as they are written.
pub(super) fn switch_or_text<'de, T, D: Deserializer<'de>>(
    from: D,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct SwitchOrText<F>(&'static str, F);

    impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for SwitchOrText<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_bool<E: Error>(self, switch: bool) -> Result<T, E> {
            let value = (self.1)(if switch { "true" } else { "false" });
            value.ok_or_else(|| E::invalid_type(Unexpected::Bool(switch), &self))
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            // A switch has no quotes.
            let value = (self.1)(text).filter(|_| !["true", "false"].contains(&text));
            value.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }

    from.deserialize_any(SwitchOrText(expected, read))
}

/// From the largest to the smallest. Of those that are 1 the first is printed.
type Units = [(&'static str, u64)];

/// What a number counts.
pub(super) trait Unit {
    const EXPECTED: &'static str;
    /// For where the value may be left open ([`Or`]): the word for it, and what is expected then.
    const OPEN: [&'static str; 2];
    const UNITS: &'static Units;
}

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

pub(super) struct Bytes;

impl Unit for Bytes {
    const EXPECTED: &'static str = "a size such as 65536, 64KiB or 1MiB";
    const OPEN: [&'static str; 2] = ["unlimited", "a size such as 65536, 64KiB or 1MiB, or unlimited"];
    const UNITS: &'static Units = &[("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("", 1), ("B", 1)];
}

pub(super) struct Things;

impl Unit for Things {
    const EXPECTED: &'static str = "a whole number";
    const OPEN: [&'static str; 2] = ["auto", "a whole number, or auto"];
    const UNITS: &'static Units = &[("", 1)];
}

/// The same, where none means that there is no limit.
pub(super) struct LimitedThings;

impl Unit for LimitedThings {
    const EXPECTED: &'static str = "a whole number";
    const OPEN: [&'static str; 2] = ["unlimited", "a whole number, or unlimited"];
    const UNITS: &'static Units = &[("", 1)];
}

/// Two values, each with its default, of which the first is at most the second. What the file leaves out is 0; its default
/// gives way to the other.
pub(super) fn fill_in<N: Printed<Value: Copy + Default + Ord>>(
    names: [&str; 2],
    [(small, small_default), (large, large_default)]: [(&mut N::Value, N::Value); 2],
) -> Result<(), String> {
    let unset = N::Value::default();
    if *large == unset {
        *large = large_default.max(*small);
    }
    if *small == unset {
        *small = small_default.min(*large);
    }
    if *small <= *large {
        return Ok(());
    }
    let ([small_name, large_name], [small, large]) = (names, [small, large].map(|value| N::print(value)));
    Err(format!("{small_name} ({small}) is above {large_name} ({large}): lower the one, or raise the other"))
}

/// A number from `MIN` to `MAX`.
pub(super) struct Ranged<U, const MIN: u64, const MAX: u64, T>(PhantomData<(U, T)>);

pub(super) type Size<const MIN: u64, const MAX: u64, T = usize> = Ranged<Bytes, MIN, MAX, T>;
pub(super) type Count<const MIN: u64, const MAX: u64, T = usize> = Ranged<Things, MIN, MAX, T>;

impl<U: Unit, T: TryFrom<u64>, const MIN: u64, const MAX: u64> Notation for Ranged<U, MIN, MAX, T> {
    type Value = T;
    const EXPECTED: &'static str = U::EXPECTED;

    fn read(text: &str) -> Result<Option<T>, String> {
        let number = parse_sum(text, U::UNITS).map(|number| in_range(number, MIN, MAX, U::UNITS)).transpose()?;
        Ok(number.and_then(|number| T::try_from(number).ok()))
    }
}

impl<U: Unit, T: Copy + TryFrom<u64> + TryInto<u64>, const MIN: u64, const MAX: u64> Printed
    for Ranged<U, MIN, MAX, T>
{
    fn print(number: &T) -> String {
        print_number((*number).try_into().unwrap_or(u64::MAX), U::UNITS)
    }
}

/// A number, or a word that leaves it open.
pub(super) struct Or<N>(PhantomData<N>);

impl<U: Unit, T: TryFrom<u64>, const MIN: u64, const MAX: u64> Notation for Or<Ranged<U, MIN, MAX, T>> {
    type Value = Option<T>;
    const EXPECTED: &'static str = U::OPEN[1];

    fn read(text: &str) -> Result<Option<Option<T>>, String> {
        if text == U::OPEN[0] { Ok(Some(None)) } else { Ok(Ranged::<U, MIN, MAX, T>::read(text)?.map(Some)) }
    }
}

impl<U: Unit, T: Copy + TryFrom<u64> + TryInto<u64>, const MIN: u64, const MAX: u64> Printed
    for Or<Ranged<U, MIN, MAX, T>>
{
    fn print(number: &Option<T>) -> String {
        number.as_ref().map_or_else(|| U::OPEN[0].to_owned(), Ranged::<U, MIN, MAX, T>::print)
    }
}

/// A duration of at least a millisecond and at most a year, so that no sum with a moment overflows.
pub(super) struct HumanDuration;

const DURATION_UNITS: &Units = &[("d", 24 * 3_600_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Notation for HumanDuration {
    type Value = Duration;
    const EXPECTED: &'static str = "a duration such as 500ms, 10s, 1m or 1h";

    fn read(text: &str) -> Result<Option<Duration>, String> {
        let in_range = |millis| in_range(millis, 1, 365 * 24 * 3_600_000, DURATION_UNITS);
        let sum = match text.parse::<u64>() {
            Ok(0) => Some(0),
            Ok(_) => return Err(format!("{text} has no unit: write {text}s for seconds, or use ms, m, h or d")),
            Err(_) => parse_sum(text, DURATION_UNITS),
        };
        Ok(sum.map(in_range).transpose()?.map(Duration::from_millis))
    }
}

impl Printed for HumanDuration {
    fn print(duration: &Duration) -> String {
        print_number(duration.as_millis() as u64, DURATION_UNITS)
    }
}

/// `64KiB`, `1.5s`, `1m 30s`: numbers with a unit each, nothing before and behind them. Their sum is a whole number.
fn parse_sum(text: &str, units: &Units) -> Option<u64> {
    let (mut sum, mut rest) = (0, text);
    loop {
        let (number, more) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len()));
        let (name, more) = more.split_at(more.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(more.len()));
        // A number without a unit stands alone.
        let (_, unit) = units.iter().find(|(unit, _)| *unit == name && (!name.is_empty() || number == text))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let scale = 10_u128.checked_pow(fraction.len().try_into().ok()?)?;
        let scaled = format!("{whole}{fraction}").parse::<u128>().ok()?.checked_mul((*unit).into())?;
        if !scaled.is_multiple_of(scale) {
            return None;
        }
        // What is too great for u64 is out of any range.
        sum = u64::try_from(scaled / scale).unwrap_or(u64::MAX).saturating_add(sum);
        rest = more.trim_start();
        if rest.is_empty() {
            return Some(sum);
        }
    }
}

/// With the largest unit that leaves nothing over.
fn print_number(number: u64, units: &Units) -> String {
    let fits = |(_, unit): &&(&str, u64)| *unit == 1 || number >= *unit && number.is_multiple_of(*unit);
    units.iter().find(fits).map_or_else(String::new, |(name, unit)| format!("{}{name}", number / unit))
}

/// As it would be written in the file.
pub fn print_size(bytes: u64) -> String {
    print_number(bytes, Bytes::UNITS)
}

fn in_range(number: u64, min: u64, max: u64, units: &Units) -> Result<u64, String> {
    if (min..=max).contains(&number) {
        return Ok(number);
    }
    let [number, min, max] = [number, min, max].map(|number| print_number(number, units));
    Err(format!("{number} is out of range: write one from {min} to {max}"))
}

/// A protocol to upgrade to, in lower case (RFC 9110 section 7.8).
pub(super) struct Protocol;

impl Notation for Protocol {
    type Value = String;
    const EXPECTED: &'static str = "the name of a protocol such as websocket";

    fn read(text: &str) -> Result<Option<String>, String> {
        if text.eq_ignore_ascii_case("h2c") {
            return Err("upgrading to h2c is never allowed: requests in it would pass unseen (rule G14)".to_owned());
        }
        let is_name = matches!(text.len(), 1..=64) && is_token(text.replace('/', "-").as_bytes());
        Ok(is_name.then(|| text.to_ascii_lowercase()))
    }
}

/// What the log, routes and metrics call a plugin.
pub(super) struct PluginName;

impl PluginName {
    pub const MAX_LEN: usize = 64;

    pub fn allows(c: char) -> bool {
        c.is_ascii_alphanumeric() || "_-.".contains(c)
    }
}

impl Notation for PluginName {
    type Value = String;
    const EXPECTED: &'static str = "the name of a plugin: 1 to 64 letters, digits, \"_\", \"-\" and \".\"";

    fn read(text: &str) -> Result<Option<String>, String> {
        let is_name = matches!(text.len(), 1..=Self::MAX_LEN) && text.chars().all(Self::allows);
        Ok(is_name.then(|| text.to_owned()))
    }
}

impl Notation for ErrorClass {
    type Value = String;
    const EXPECTED: &'static str = "a status from 400 to 599, or 4xx or 5xx";

    fn read(text: &str) -> Result<Option<String>, String> {
        let is_status = text.len() == 3 && text.parse().is_ok_and(|status| (400..600_u16).contains(&status));
        Ok((is_status || matches!(text, "4xx" | "5xx")).then(|| text.to_owned()))
    }
}

/// A status such as `404`, or a class: `4xx` or `5xx`. Statuses come before their class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorClass(#[serde(deserialize_with = "As::<ErrorClass>::deserialize")] String);

impl ErrorClass {
    /// Whether the status is this one, or one of the class.
    pub fn has(&self, status: u16) -> bool {
        self.0.parse() == Ok(status) || self.0.strip_suffix("xx").is_some_and(|class| class.parse() == Ok(status / 100))
    }
}

/// A range of addresses, or one address.
pub(super) struct Network;

impl Notation for Network {
    type Value = IpNet;
    const EXPECTED: &'static str = "an address or a range such as 10.0.0.0/8";

    fn read(text: &str) -> Result<Option<IpNet>, String> {
        match text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse().ok()) {
            Some(IpNet::V6(network)) if network.addr().to_ipv4_mapped().is_some() => Err(format!(
                "{network}: IPv4 addresses are written as such, also where they come in by IPv6: write {}",
                network.addr().to_canonical()
            )),
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
            ("1.s", Some(1000)),
            (".5s", Some(500)),
            (".s", None),
            ("0.0005h", Some(1800)),
            ("1 s", None),
            ("s1", None),
            ("1s, 1s", None),
            ("1.5.5s", None),
            ("1.99999999999999999999s", None),
            ("0.0000000000000000000000000000000000000000001s", None),
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
            let millis = HumanDuration::parse(text).ok().map(|span| span.as_millis() as u64);
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
            ("1 2", None),
            ("1KiB 2", None),
            ("1MiB 1KiB", Some(1_049_600)),
            ("64KB", None),
            ("64kib", None),
            ("1.5MiB", Some(1_572_864)),
            ("1.3KiB", None),
            ("0x10B", None),
            ("99999999999999999999KiB", None),
        ] {
            assert_eq!(AnySize::parse(text).ok(), expected, "{text}");
        }
        assert_eq!(Size::<1024, 2048, u32>::parse("1024"), Ok(1024));
        let refused = "1 is out of range: write one from 1KiB to 2KiB".to_owned();
        assert_eq!(Size::<1024, 2048>::parse("1"), Err(refused));
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for text in ["500ms", "10s", "1m", "90s", "1h", "5m", "1ms", "3601s", "1001ms", "1d", "365d"] {
            assert_eq!(HumanDuration::parse(text).map(|span| HumanDuration::print(&span)).as_deref(), Ok(text));
        }
        for (bytes, expected) in
            [(0, "0"), (1, "1"), (1024, "1KiB"), (1025, "1025"), (1 << 20, "1MiB"), (3 << 30, "3GiB")]
        {
            assert_eq!(print_size(bytes), expected);
        }
    }
}
