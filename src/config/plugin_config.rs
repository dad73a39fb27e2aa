//! The configuration of a plugin: any YAML, handed on as text.
//!
//! A string goes verbatim, a mapping or list as JSON, a key without value as the empty text. The JSON is written while
//! the YAML is read, with a cap, so that aliases of aliases cannot fill the memory.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::error::refuse;

const MAX_BYTES: usize = 1024 * 1024;

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let mut text = String::new();
    Json { text: &mut text, is_whole: true }.deserialize(deserializer)?;
    Ok(text)
}

/// Appends one value to a text.
struct Json<'a> {
    text: &'a mut String,
    /// It is all that the plugin gets, and not a part of a list or mapping.
    is_whole: bool,
}

impl Json<'_> {
    fn push<E: Error>(&mut self, text: &str) -> Result<(), E> {
        if self.text.len() + text.len() > MAX_BYTES {
            return Err(refuse("the configuration of a plugin has at most 1MiB: put the rest into a file of its own"));
        }
        self.text.push_str(text);
        Ok(())
    }

    fn part(&mut self) -> Json<'_> {
        Json { text: self.text, is_whole: false }
    }

    /// Ends what began at the length `start`, where each part has a comma behind it.
    fn end<E: Error>(&mut self, start: usize, bracket: &str) -> Result<(), E> {
        if self.text.len() > start {
            self.text.pop();
        }
        self.push(bracket)
    }
}

impl<'de> DeserializeSeed<'de> for Json<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! push_as_written {
    ($($visit:ident($type:ty);)*) => {$(
        fn $visit<E: Error>(mut self, value: $type) -> Result<(), E> {
            self.push(&value.to_string())
        }
    )*};
}

impl<'de> Visitor<'de> for Json<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a mapping or a list, which plugins get as JSON")
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        if self.is_whole { Ok(()) } else { self.push("null") }
    }

    push_as_written! {
        visit_bool(bool);
        visit_u64(u64);
        visit_i64(i64);
        visit_u128(u128);
        visit_i128(i128);
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<(), E> {
        match Number::from_f64(value) {
            _ if self.is_whole => self.push(&value.to_string()),
            Some(number) => self.push(&number.to_string()),
            None => Err(refuse("JSON has no infinity and no NaN, and plugins get JSON: put the value in quotes")),
        }
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        if self.is_whole { self.push(text) } else { self.push(&Value::from(text).to_string()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.push("[")?;
        let start = self.text.len();
        while list.next_element_seed(self.part())?.is_some() {
            self.push(",")?;
        }
        self.end(start, "]")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut mapping: A) -> Result<(), A::Error> {
        self.push("{")?;
        let start = self.text.len();
        let mut seen = HashSet::new();
        while let Some(key) = mapping.next_key::<String>()? {
            self.push(&format!("{}:", Value::from(key.as_str())))?;
            if seen.contains(&key) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            seen.insert(key);
            mapping.next_value_seed(self.part())?;
            self.push(",")?;
        }
        self.end(start, "}")
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
