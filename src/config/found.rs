//! What stands at a place of the file, handed to what is to be made of it.
//!
//! serde's way is a visitor for each type, and the YAML library is then compiled anew for each of them: with fifty kinds of
//! values that was a sixth of the program. Here is one visitor, which hands a [`Found`] to a [`Slot`] by reference.
//!
//! The library adds line and column to the first error that leaves a visitor, so a slot refuses at its own place.
//! Errors of lists and mappings have a place already; they stay with the list or mapping while [`Fault::Told`] goes up
//! in their stead.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::error::refuse;

/// What stands at a place.
pub(super) enum Found<'a> {
    /// A key without a value.
    Nothing,
    Bool(bool),
    /// A whole number of 64 bits.
    Number(u64),
    /// A whole number below 0.
    Negative(i64),
    /// A whole number with more than 64 bits, in its digits.
    Wide(String),
    /// Not whole, not finite, or not a number.
    Fraction(f64),
    Text(&'a str),
    List(&'a mut dyn List),
    Mapping(&'a mut dyn Mapping),
    /// A word with "!" before a value.
    Tag,
}

/// Why something was refused.
pub(super) enum Fault {
    /// In our words; the place is the slot's.
    Ours(String),
    /// Further inside: the list or mapping has the error and its place.
    Told,
}

impl From<String> for Fault {
    fn from(message: String) -> Fault {
        Fault::Ours(message)
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Fault {
        Fault::Ours(message.to_owned())
    }
}

/// Takes what stands at a place.
pub(super) trait Slot {
    /// Called once, or not at all where nothing stands.
    fn fill(&mut self, found: Found<'_>) -> Result<(), Fault>;
}

/// A list, entry by entry.
pub(super) trait List {
    /// Fills `slot` with the next entry; `false` behind the last one.
    fn next(&mut self, slot: &mut dyn Slot) -> Result<bool, Fault>;
}

/// A mapping, pair by pair: a key, then its value.
pub(super) trait Mapping {
    /// Shows `take` the next key, which it may refuse; `false` behind the last one.
    fn next_key(&mut self, take: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<bool, Fault>;

    /// Fills `slot` with the value of that key.
    fn value(&mut self, slot: &mut dyn Slot) -> Result<(), Fault>;
}

/// Fills `slot` with what `from` holds.
pub(super) fn read<'de, D: Deserializer<'de>>(slot: &mut dyn Slot, from: D) -> Result<(), D::Error> {
    Filling(slot).deserialize(from)
}

/// The one visitor of values.
struct Filling<'a>(&'a mut dyn Slot);

impl Filling<'_> {
    fn fill<E: Error>(self, found: Found<'_>) -> Result<(), E> {
        self.0.fill(found).map_err(|fault| at_this_place(fault, None))
    }
}

/// `told` is what the list or mapping has.
fn at_this_place<E: Error>(fault: Fault, told: Option<E>) -> E {
    match (fault, told) {
        (Fault::Told, Some(error)) => error,
        (Fault::Ours(message), Some(_) | None) => refuse(message),
        (Fault::Told, None) => refuse("something in it cannot be read"), // no list or mapping says so without an error
    }
}

impl<'de> DeserializeSeed<'de> for Filling<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Filling<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.fill(Found::Nothing)
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.fill(Found::Nothing)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.fill(Found::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.fill(Found::Number(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.fill(Found::Negative(value))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<(), E> {
        self.fill(Found::Wide(value.to_string()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<(), E> {
        self.fill(Found::Wide(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.fill(Found::Fraction(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.fill(Found::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        let mut list = Inside { access: list, told: None };
        let result = self.0.fill(Found::List(&mut list));
        result.map_err(|fault| at_this_place(fault, list.told))
    }

    fn visit_map<A: MapAccess<'de>>(self, mapping: A) -> Result<(), A::Error> {
        let mut mapping = Inside { access: mapping, told: None };
        let result = self.0.fill(Found::Mapping(&mut mapping));
        result.map_err(|fault| at_this_place(fault, mapping.told))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let _ = tagged;
        self.fill(Found::Tag)
    }
}

/// A list or mapping of the library, and the error that it met.
struct Inside<A, E> {
    access: A,
    told: Option<E>,
}

impl<A, E> Inside<A, E> {
    fn keep<T>(&mut self, result: Result<T, E>) -> Result<T, Fault> {
        result.map_err(|error| {
            self.told = Some(error);
            Fault::Told
        })
    }
}

impl<'de, A: SeqAccess<'de>> List for Inside<A, A::Error> {
    fn next(&mut self, slot: &mut dyn Slot) -> Result<bool, Fault> {
        let entry = self.access.next_element_seed(Filling(slot));
        self.keep(entry).map(|entry| entry.is_some())
    }
}

impl<'de, A: MapAccess<'de>> Mapping for Inside<A, A::Error> {
    fn next_key(&mut self, take: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<bool, Fault> {
        let key = self.access.next_key_seed(Key(take));
        self.keep(key).map(|key| key.is_some())
    }

    fn value(&mut self, slot: &mut dyn Slot) -> Result<(), Fault> {
        let value = self.access.next_value_seed(Filling(slot));
        self.keep(value)
    }
}

/// The one visitor of keys.
struct Key<'a>(&'a mut dyn FnMut(&str) -> Result<(), String>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        (self.0)(text).map_err(refuse)
    }
}
