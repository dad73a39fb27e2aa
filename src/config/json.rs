//! The configuration of a plugin: any YAML, handed on as text.
//!
//! A string goes verbatim, a mapping or list as JSON, a key without value as the empty text. The JSON is written while
//! the YAML is read, with a cap, so that aliases of aliases cannot fill the memory.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::error::{quoted, refuse};
use super::read::Entry;

/// What a plugin is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PluginText(pub String);

const MAX_BYTES: usize = 1024 * 1024;

impl Entry for PluginText {
    const EXPECTED: &'static str = "a text, a mapping or a list";

    fn from_nothing() -> Result<Self, String> {
        Ok(PluginText::default())
    }

    fn from_bool(value: bool) -> Result<Self, String> {
        Ok(PluginText(value.to_string()))
    }

    fn from_number(value: u64) -> Result<Self, String> {
        Ok(PluginText(value.to_string()))
    }

    fn from_odd_number(value: String) -> Result<Self, String> {
        Ok(PluginText(value))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES { Err(TOO_LONG.to_owned()) } else { Ok(PluginText(text.to_owned())) }
    }

    fn from_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        let mut json = String::new();
        Json(&mut json).visit_seq(list)?;
        Ok(PluginText(json))
    }

    fn from_mapping<'de, A: MapAccess<'de>>(mapping: A) -> Result<Self, A::Error> {
        let mut json = String::new();
        Json(&mut json).visit_map(mapping)?;
        Ok(PluginText(json))
    }
}

impl Serialize for PluginText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

const TOO_LONG: &str = "the configuration of a plugin has at most 1MiB: put the rest into a file of its own";

/// Appends what it visits.
struct Json<'a>(&'a mut String);

impl Json<'_> {
    fn push<E: Error>(&mut self, text: &str) -> Result<(), E> {
        if self.0.len() + text.len() > MAX_BYTES {
            return Err(refuse(TOO_LONG));
        }
        self.0.push_str(text);
        Ok(())
    }

    fn push_value<E: Error>(&mut self, value: impl Serialize) -> Result<(), E> {
        self.push(&serde_json::to_string(&value).map_err(refuse)?)
    }
}

impl<'de> DeserializeSeed<'de> for Json<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.push("null")
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        self.push_value(value)
    }

    fn visit_u64<E: Error>(mut self, value: u64) -> Result<(), E> {
        self.push_value(value)
    }

    fn visit_i64<E: Error>(mut self, value: i64) -> Result<(), E> {
        self.push_value(value)
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<(), E> {
        if !value.is_finite() {
            return Err(refuse("JSON has no infinity and no NaN, and plugins get JSON: put the value in quotes"));
        }
        self.push_value(value)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.push_value(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.push("[")?;
        let start = self.0.len();
        while list.next_element_seed(Element(&mut *self.0, start))?.is_some() {}
        self.push("]")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut mapping: A) -> Result<(), A::Error> {
        self.push("{")?;
        let start = self.0.len();
        let mut seen = HashSet::new();
        while mapping.next_key_seed(JsonKey { json: &mut *self.0, start, seen: &mut seen })?.is_some() {
            mapping.next_value_seed(Json(&mut *self.0))?;
        }
        self.push("}")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let _ = tagged;
        Err(refuse("JSON has no tags, and plugins get JSON: remove the word that begins with \"!\""))
    }
}

/// A value of a list that began at that length.
struct Element<'a>(&'a mut String, usize);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Element(json, start) = self;
        if json.len() > start {
            json.push(',');
        }
        Json(json).deserialize(deserializer)
    }
}

/// A key of a mapping that began at that length.
struct JsonKey<'a> {
    json: &'a mut String,
    start: usize,
    seen: &'a mut HashSet<String>,
}

impl<'de> DeserializeSeed<'de> for JsonKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for JsonKey<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if !self.seen.insert(text.to_owned()) {
            return Err(refuse(format_args!("the key {} stands twice in this mapping: remove one", quoted(text))));
        }
        if self.json.len() > self.start {
            self.json.push(',');
        }
        let mut json = Json(self.json);
        json.push_value(text)?;
        json.push(":")
    }
}
