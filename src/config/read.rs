//! Reading values of a YAML file so that each mistake is told in words of the configuration, with its place.
//!
//! serde's derive would do the same with fewer lines, but it tells a duplicate key at the place of its mapping and speaks
//! of "invalid type: map". A value implements [`Entry`] and says what it can be made of; an `Option` of it is the slot that
//! is filled. A check belongs to the value that it judges, because a refusal is told at the place of that value.

use std::fmt;

use super::error::{did_you_mean, quoted};
use super::found::{Fault, Found, List, Mapping, Slot};

/// A value of the configuration file. Whatever it cannot be made of is refused.
pub(super) trait Entry: Sized {
    /// Completes "expected ...".
    const EXPECTED: &'static str;

    /// From a key without a value.
    fn from_nothing() -> Result<Self, String> {
        Err(expected::<Self>("nothing"))
    }

    /// From `true` or `false`.
    fn from_bool(value: bool) -> Result<Self, String> {
        Err(expected::<Self>(value))
    }

    /// From a whole number.
    fn from_number(value: u64) -> Result<Self, String> {
        Err(another_number(Self::EXPECTED, &value))
    }

    /// From anything else that is written in one piece.
    fn from_text(text: &str) -> Result<Self, String> {
        Err(another_text(Self::EXPECTED, text))
    }

    /// From any other number: negative, not whole, or above 64 bits.
    fn from_odd_number(value: &dyn fmt::Display) -> Result<Self, String> {
        Err(another_number(Self::EXPECTED, value))
    }

    /// Refuses what no part alone could tell.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// From a list.
    fn from_list(list: &mut dyn List) -> Result<Self, Fault> {
        let _ = list;
        Err(expected::<Self>("a list").into())
    }

    /// From a mapping.
    fn from_mapping(mapping: &mut dyn Mapping) -> Result<Self, Fault> {
        let _ = mapping;
        Err(expected::<Self>("a mapping").into())
    }
}

/// "expected a duration, found a list"
pub(super) fn expected<T: Entry>(found: impl fmt::Display) -> String {
    another(T::EXPECTED, &found)
}

// Refusals are apart from the values: each would be compiled for every kind of value otherwise.

#[cold]
fn another(expected: &str, found: &dyn fmt::Display) -> String {
    format!("expected {expected}, found {found}")
}

#[cold]
fn another_number(expected: &str, found: &dyn fmt::Display) -> String {
    another(expected, &format_args!("the number {found}"))
}

#[cold]
fn another_text(expected: &str, found: &str) -> String {
    another(expected, &quoted(found))
}

const TAG: &str = "a YAML tag: remove the word that begins with \"!\", or put the value in quotes";

/// What was left out stays `None`.
impl<T: Entry> Slot for Option<T> {
    fn fill(&mut self, found: Found<'_>) -> Result<(), Fault> {
        let value = match found {
            Found::Nothing => T::from_nothing(),
            Found::Bool(value) => T::from_bool(value),
            Found::Number(value) => T::from_number(value),
            Found::Negative(value) => T::from_odd_number(&value),
            Found::Wide(digits) => T::from_odd_number(&digits),
            Found::Fraction(value) => T::from_odd_number(&value),
            Found::Text(text) => T::from_text(text),
            Found::List(list) => Ok(T::from_list(list)?),
            Found::Mapping(mapping) => Ok(T::from_mapping(mapping)?),
            Found::Tag => Err(expected::<T>(TAG)),
        };
        let value = value?;
        value.check()?;
        *self = Some(value);
        Ok(())
    }
}

/// An entry of a list, which `check` judges at its own place.
struct Checked<'a, T> {
    entry: Option<T>,
    check: &'a mut dyn FnMut(&T) -> Result<(), String>,
}

impl<T: Entry> Slot for Checked<'_, T> {
    fn fill(&mut self, found: Found<'_>) -> Result<(), Fault> {
        self.entry.fill(found)?;
        Ok(self.entry.as_ref().map_or(Ok(()), &mut *self.check)?)
    }
}

/// The next entry of `list` that `check` does not refuse; `None` behind the last one.
pub(super) fn next_of<T: Entry>(
    list: &mut dyn List,
    check: &mut dyn FnMut(&T) -> Result<(), String>,
) -> Result<Option<T>, Fault> {
    let mut slot = Checked { entry: None, check };
    list.next(&mut slot)?;
    Ok(slot.entry)
}

/// Fills the slots of a mapping that has only these keys, each at most once.
pub(super) fn fill_keys(mapping: &mut dyn Mapping, keys: &mut [(&'static str, &mut dyn Slot)]) -> Result<(), Fault> {
    let (mut seen, mut at) = (0_u64, 0);
    while mapping.next_key(&mut |text| {
        let Some(index) = keys.iter().position(|(name, _)| *name == text) else {
            return Err(unknown_key(text, &keys.iter().map(|(name, _)| *name).collect::<Vec<_>>()));
        };
        if seen & 1 << index != 0 {
            return Err(format!("the key {} stands twice in this mapping: remove one", quoted(text)));
        }
        (seen, at) = (seen | 1 << index, index);
        Ok(())
    })? {
        mapping.value(keys[at].1)?;
    }
    Ok(())
}

fn unknown_key(text: &str, known: &[&'static str]) -> String {
    match did_you_mean(text, known) {
        Some(meant) => format!("unknown key {}; did you mean {meant:?}?", quoted(text)),
        None => format!("unknown key {}; the keys known here are {}", quoted(text), known.join(", ")),
    }
}

/// Makes a struct of optional values of a mapping with known keys. What was left out stays `None`.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident as $what:literal { $($key:ident: $value:ty),* $(,)? } $(checked by $check:path)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
        pub(super) struct $name {
            $(#[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$value>,)*
        }

        impl $crate::config::read::Entry for $name {
            const EXPECTED: &'static str = $what;

            fn from_nothing() -> Result<Self, String> {
                Ok(Self::default())
            }

            $(fn check(&self) -> Result<(), String> {
                $check(self)
            })?

            fn from_mapping(
                mapping: &mut dyn $crate::config::found::Mapping,
            ) -> Result<Self, $crate::config::found::Fault> {
                let mut section = Self::default();
                $crate::config::read::fill_keys(mapping, &mut [$((stringify!($key), &mut section.$key)),*])?;
                Ok(section)
            }
        }
    };
}
pub(super) use section;

/// A list of values of one kind.
impl<T: Entry> Entry for Vec<T> {
    const EXPECTED: &'static str = "a list, such as [one, two]";

    fn from_nothing() -> Result<Self, String> {
        Ok(Vec::new())
    }

    fn from_list(list: &mut dyn List) -> Result<Self, Fault> {
        let mut values = Vec::new();
        // Aliases could make much of little; nothing that is a list here is long.
        while let Some(value) = next_of(list, &mut |_: &T| {
            if values.len() < MAX_LIST { Ok(()) } else { Err(format!("a list has at most {MAX_LIST} entries here")) }
        })? {
            values.push(value);
        }
        Ok(values)
    }
}

/// For every list but the routes.
const MAX_LIST: usize = 1024;
