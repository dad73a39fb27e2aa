//! The configuration of a plugin: any YAML, handed on as text.

use serde::de::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::error::refuse;

const MAX_BYTES: usize = 1024 * 1024;

/// A string goes verbatim, a key without value as the empty text, everything else as JSON.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::Null => String::new(),
        Value::String(text) => text,
        value => {
            check(&value).map_err(refuse)?;
            serde_json::to_string(&value).map_err(refuse)?
        }
    };
    if text.len() > MAX_BYTES {
        return Err(refuse("the configuration of a plugin has at most 1MiB: put the rest into a file of its own"));
    }
    Ok(text)
}

/// What YAML has and JSON has not.
fn check(value: &Value) -> Result<(), &'static str> {
    match value {
        Value::Number(number) if !number.as_f64().is_some_and(f64::is_finite) => {
            Err("JSON has no infinity and no NaN, and plugins get JSON: put the value in quotes")
        }
        Value::Sequence(list) => list.iter().try_for_each(check),
        Value::Mapping(mapping) => mapping.iter().try_for_each(|(key, value)| match key {
            Value::Sequence(_) | Value::Mapping(_) => Err(super::error::KEY),
            _ => check(value),
        }),
        Value::Tagged(_) => Err("plugins get JSON, which has no tags: remove the word that begins with \"!\""),
        _ => Ok(()),
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
        ] {
            let text =
                format!("routes: [{{prefix: /, upstream: 'http://a'}}]\nplugins:\n- path: x\n  config: {yaml}\n");
            let config = Config::parse(&text, "config.yaml").map_err(|error| error.to_string());
            let found = config.map(|config| config.plugins.into_iter().map(|plugin| plugin.config).collect::<Vec<_>>());
            assert_eq!(found, Ok(vec![json.to_owned()]), "{name}");
        }
    }
}
