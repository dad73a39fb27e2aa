//! Reading values of a YAML file so that each mistake is told in words of the configuration, with its place.
//!
//! serde's derive would do the same with fewer lines, but it tells a duplicate key at the place of its mapping and speaks
//! of "invalid type: map". A value implements [`Entry`] and says what it can be made of; [`Read`] is the one visitor. The
//! YAML library adds line and column to the first error that leaves a visitor: a check belongs inside the visitor of the
//! value that it judges.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::error::{did_you_mean, quoted, refuse};

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
        Err(expected::<Self>(format_args!("the number {value}")))
    }

    /// From anything else that is written in one piece.
    fn from_text(text: &str) -> Result<Self, String> {
        Err(expected::<Self>(quoted(text)))
    }

    /// From any other number: negative, not whole, or above 64 bits.
    fn from_odd_number(value: String) -> Result<Self, String> {
        Err(expected::<Self>(format_args!("the number {value}")))
    }

    /// Refuses what no part alone could tell.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// From a list.
    fn from_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        let _ = list;
        Err(refuse(expected::<Self>("a list")))
    }

    /// From a mapping.
    fn from_mapping<'de, A: MapAccess<'de>>(mapping: A) -> Result<Self, A::Error> {
        let _ = mapping;
        Err(refuse(expected::<Self>("a mapping")))
    }
}

/// "expected a duration, found a list"
pub(super) fn expected<T: Entry>(found: impl fmt::Display) -> String {
    format!("expected {}, found {found}", T::EXPECTED)
}

/// Reads a `T`, then lets `check` judge it.
pub(super) struct Read<T, C> {
    check: C,
    value: PhantomData<T>,
}

/// Reads a `T`.
pub(super) fn read<T: Entry>() -> Read<T, impl FnMut(&T) -> Result<(), String>> {
    Read::checked(|_| Ok(()))
}

impl<T: Entry, C: FnMut(&T) -> Result<(), String>> Read<T, C> {
    /// Refuses at the value's own place what `check` refuses.
    pub(super) fn checked(check: C) -> Self {
        Read { check, value: PhantomData }
    }

    fn judge<E: Error>(mut self, value: Result<T, String>) -> Result<T, E> {
        let value = value.map_err(refuse)?;
        value.check().map_err(refuse)?;
        (self.check)(&value).map_err(refuse)?;
        Ok(value)
    }
}

impl<'de, T: Entry, C: FnMut(&T) -> Result<(), String>> DeserializeSeed<'de> for Read<T, C> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Entry, C: FnMut(&T) -> Result<(), String>> Visitor<'de> for Read<T, C> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        self.judge(T::from_nothing())
    }

    fn visit_none<E: Error>(self) -> Result<T, E> {
        self.judge(T::from_nothing())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        self.judge(T::from_bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        self.judge(T::from_number(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.judge(T::from_odd_number(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<T, E> {
        self.judge(T::from_odd_number(value.to_string()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<T, E> {
        self.judge(T::from_odd_number(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        self.judge(T::from_odd_number(value.to_string()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.judge(T::from_text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        let value = T::from_list(list)?;
        self.judge(Ok(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, mapping: A) -> Result<T, A::Error> {
        let value = T::from_mapping(mapping)?;
        self.judge(Ok(value))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<T, A::Error> {
        let _ = tagged;
        Err(refuse(expected::<T>("a YAML tag: remove the word that begins with \"!\", or put the value in quotes")))
    }
}

/// Reads a key of a mapping that has only `known` ones, each once.
pub(super) struct Key<'a> {
    pub known: &'a [&'static str],
    /// One bit for each of `known` that stood already.
    pub seen: &'a mut u64,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<&'static str, E> {
        let Some(index) = self.known.iter().position(|known| *known == text) else {
            return Err(refuse(unknown_key(text, self.known)));
        };
        if *self.seen & 1 << index != 0 {
            return Err(refuse(format_args!("the key {} stands twice in this mapping: remove one", quoted(text))));
        }
        *self.seen |= 1 << index;
        Ok(self.known[index])
    }
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

            fn from_mapping<'de, A: serde::de::MapAccess<'de>>(mut mapping: A) -> Result<Self, A::Error> {
                use $crate::config::read::{Key, read};
                let mut section = Self::default();
                let mut seen = 0;
                while let Some(key) =
                    mapping.next_key_seed(Key { known: &[$(stringify!($key)),*], seen: &mut seen })?
                {
                    $(if key == stringify!($key) {
                        section.$key = Some(mapping.next_value_seed(read())?);
                    })*
                }
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

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Read::checked(|_: &T| {
            // Aliases could make much of little; nothing that is a list here is long.
            if values.len() < MAX_LIST { Ok(()) } else { Err(format!("a list has at most {MAX_LIST} entries here")) }
        }))? {
            values.push(value);
        }
        Ok(values)
    }
}

/// For every list but the routes.
const MAX_LIST: usize = 1024;
