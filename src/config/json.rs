//! The configuration of a plugin: any YAML, handed on as text.
//!
//! A string goes verbatim, a mapping or list as JSON, a key without value as the empty text. The JSON is written while
//! the YAML is read, with a cap, so that aliases of aliases cannot fill the memory.

use std::collections::HashSet;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Number, Value};

use super::error::quoted;
use super::found::{Fault, Found, List, Mapping, Slot};
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

    fn from_odd_number(value: &dyn fmt::Display) -> Result<Self, String> {
        Ok(PluginText(value.to_string()))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES { Err(TOO_LONG.to_owned()) } else { Ok(PluginText(text.to_owned())) }
    }

    fn from_list(list: &mut dyn List) -> Result<Self, Fault> {
        let mut json = String::new();
        Json(&mut json).fill(Found::List(list))?;
        Ok(PluginText(json))
    }

    fn from_mapping(mapping: &mut dyn Mapping) -> Result<Self, Fault> {
        let mut json = String::new();
        Json(&mut json).fill(Found::Mapping(mapping))?;
        Ok(PluginText(json))
    }
}

impl Serialize for PluginText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

const TOO_LONG: &str = "the configuration of a plugin has at most 1MiB: put the rest into a file of its own";

/// Appends what it is given.
struct Json<'a>(&'a mut String);

impl Json<'_> {
    fn push(&mut self, text: &str) -> Result<(), String> {
        if self.0.len() + text.len() > MAX_BYTES {
            return Err(TOO_LONG.to_owned());
        }
        self.0.push_str(text);
        Ok(())
    }

    fn push_text(&mut self, text: &str) -> Result<(), String> {
        self.push(&Value::from(text).to_string())
    }

    fn push_list(&mut self, list: &mut dyn List) -> Result<(), Fault> {
        self.push("[")?;
        let start = self.0.len();
        while list.next(&mut Element(&mut *self.0, start))? {}
        Ok(self.push("]")?)
    }

    fn push_mapping(&mut self, mapping: &mut dyn Mapping) -> Result<(), Fault> {
        self.push("{")?;
        let start = self.0.len();
        let mut seen = HashSet::new();
        while mapping.next_key(&mut |key| self.push_key(key, start, &mut seen))? {
            mapping.value(self)?;
        }
        Ok(self.push("}")?)
    }

    /// A key of a mapping that began at the length `start`.
    fn push_key(&mut self, key: &str, start: usize, seen: &mut HashSet<String>) -> Result<(), String> {
        if !seen.insert(key.to_owned()) {
            return Err(format!("the key {} stands twice in this mapping: remove one", quoted(key)));
        }
        if self.0.len() > start {
            self.0.push(',');
        }
        self.push_text(key)?;
        self.push(":")
    }
}

impl Slot for Json<'_> {
    fn fill(&mut self, found: Found<'_>) -> Result<(), Fault> {
        match found {
            Found::Nothing => self.push("null")?,
            Found::Bool(value) => self.push(&value.to_string())?,
            Found::Number(value) => self.push(&value.to_string())?,
            Found::Negative(value) => self.push(&value.to_string())?,
            Found::Wide(digits) => self.push(&digits)?,
            Found::Fraction(value) => match Number::from_f64(value) {
                Some(number) => self.push(&number.to_string())?,
                None => return Err(NOT_FINITE.into()),
            },
            Found::Text(text) => self.push_text(text)?,
            Found::List(list) => self.push_list(list)?,
            Found::Mapping(mapping) => self.push_mapping(mapping)?,
            Found::Tag => return Err(TAGGED.into()),
        }
        Ok(())
    }
}

const NOT_FINITE: &str = "JSON has no infinity and no NaN, and plugins get JSON: put the value in quotes";
const TAGGED: &str = "JSON has no tags, and plugins get JSON: remove the word that begins with \"!\"";

/// An entry of a list that began at that length.
struct Element<'a>(&'a mut String, usize);

impl Slot for Element<'_> {
    fn fill(&mut self, found: Found<'_>) -> Result<(), Fault> {
        let Element(json, start) = self;
        if json.len() > *start {
            json.push(',');
        }
        Json(json).fill(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn any_yaml_becomes_json() {
        for (name, yaml, json) in [
            ("a text", "' [as: it is'", " [as: it is"),
            ("nothing", "", ""),
            ("one number", "-1.5", "-1.5"),
            ("a list", "[1, -2, 3.5, 0x10, ~, true, a, []]", r#"[1,-2,3.5,16,null,true,"a",[]]"#),
            ("nested", "{a: {b: [{}, 'c\"d']}, 'e f': ''}", r#"{"a":{"b":[{},"c\"d"]},"e f":""}"#),
            (
                "not in 64 bits",
                "[18446744073709551616, -9223372036854775809]",
                "[18446744073709551616,-9223372036854775809]",
            ),
        ] {
            let text =
                format!("routes: [{{prefix: /, upstream: 'http://a'}}]\nplugins:\n- path: x\n  config: {yaml}\n");
            let config = Config::parse(&text, "config.yaml").map_err(|error| error.to_string());
            let found = config.map(|config| config.plugins.into_iter().map(|plugin| plugin.config).collect::<Vec<_>>());
            assert_eq!(found, Ok(vec![json.to_owned()]), "{name}");
        }
    }
}
