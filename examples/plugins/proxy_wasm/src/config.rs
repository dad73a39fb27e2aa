//! The configuration of an entry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mini_rproxy_plugin::Error;
use serde::Deserialize;

/// What stands under `config:`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The module's file.
    pub module: PathBuf,
    /// For `proxy_on_vm_start`.
    #[serde(default)]
    pub vm_config: Text,
    /// For `proxy_on_configure`.
    #[serde(default)]
    pub config: Text,
    /// Modules of the same id share data and queues; the file's path where it is left out.
    #[serde(default)]
    pub vm_id: Option<String>,
    /// Which of the filters within the module, where it has several.
    #[serde(default)]
    pub root_id: String,
    /// Which bodies the module gets.
    #[serde(default)]
    pub bodies: Vec<Body>,
    /// Instructions for one callback.
    #[serde(default = "default_fuel", deserialize_with = "amount")]
    pub fuel: u64,
    /// Bytes of one instance's memory.
    #[serde(default = "default_memory", deserialize_with = "size")]
    pub memory: usize,
    #[serde(default)]
    pub on_crash: OnCrash,
    /// Services that the module may call, as `http://HOST:PORT`, by the names that it calls them by.
    #[serde(default)]
    pub clusters: BTreeMap<String, String>,
    /// Calls that run at the same time.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// Calls that wait for one of these threads.
    #[serde(default = "default_waiting")]
    pub waiting: usize,
    /// Crashes in a minute, after which the module rests until the minute is over.
    #[serde(default = "default_crashes")]
    pub max_crashes: usize,
}

/// A body that a module gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    Request,
    Response,
}

/// What becomes of a request whose module crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCrash {
    /// 502
    #[default]
    Fail,
    /// It goes on without the module.
    Skip,
}

/// A string as it is, anything else as JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "serde_json::Value")]
pub struct Text(pub Vec<u8>);

impl From<serde_json::Value> for Text {
    fn from(value: serde_json::Value) -> Text {
        match value {
            serde_json::Value::Null => Text::default(),
            serde_json::Value::String(text) => Text(text.into_bytes()),
            value => Text(value.to_string().into_bytes()),
        }
    }
}

fn default_fuel() -> u64 {
    10_000_000
}

fn default_memory() -> usize {
    8 << 20
}

fn default_crashes() -> usize {
    10
}

fn default_threads() -> usize {
    4
}

fn default_waiting() -> usize {
    64
}

/// What a module's memory may be at most: the address space of WebAssembly, and more than any filter needs.
const MAX_MEMORY: usize = 1 << 30;
/// Below it hardly any module starts.
const MIN_FUEL: u64 = 10_000;

/// A number, alone or with one of these behind it.
const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("", 1),
];

fn parse_amount(text: &str) -> Option<u64> {
    let (number, unit) =
        UNITS.iter().find_map(|&(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), unit)))?;
    // `parse` alone would take a sign.
    if !number.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn amount<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    use serde::de::Error;
    let found = serde_json::Value::deserialize(deserializer)?;
    let parsed = match &found {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => parse_amount(text),
        _ => None,
    };
    parsed.ok_or_else(|| D::Error::custom(format!("{found} is no amount: write a number, 10M or 8MiB")))
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    use serde::de::Error;
    usize::try_from(amount(deserializer)?).map_err(|_| D::Error::custom("memory is larger than this machine's"))
}

impl Config {
    pub fn parse(json: &[u8]) -> Result<Config, Error> {
        let config: Config = serde_json::from_slice(json)
            .map_err(|error| Error::new(format!("config must be a mapping with module: {error}")))?;
        if !(64 << 10..=MAX_MEMORY).contains(&config.memory) {
            return Err(Error::new("memory must be from 64KiB to 1GiB: the memory of one instance"));
        }
        if config.fuel < MIN_FUEL {
            return Err(Error::new("fuel must be at least 10k: about as many instructions may a callback take"));
        }
        if !(1..=64).contains(&config.threads) {
            return Err(Error::new("threads must be from 1 to 64: so many calls run at the same time"));
        }
        Ok(config)
    }

    /// What names the memory that modules share.
    pub fn vm_id(&self) -> String {
        self.vm_id.clone().unwrap_or_else(|| self.module.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        let rows = [
            ("10", Some(10)),
            ("10M", Some(10_000_000)),
            ("10 M", Some(10_000_000)),
            ("3k", Some(3_000)),
            ("8MiB", Some(8 << 20)),
            ("1GiB", Some(1 << 30)),
            ("", None),
            ("M", None),
            ("+1", None),
            ("-1", None),
            ("1.5M", None),
            ("8MB", None),
            ("99999999999G", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_amount(text), expected, "{text}");
        }
    }

    #[test]
    fn a_string_is_passed_as_it_is_and_anything_else_as_json() {
        let config = |text: &str| Config::parse(format!("{{\"module\": \"x\", \"config\": {text}}}").as_bytes());
        for (text, expected) in
            [("\"a: b\"", "a: b"), ("{\"b\":[1,true]}", "{\"b\":[1,true]}"), ("null", ""), ("7", "7")]
        {
            assert_eq!(config(text).unwrap().config.0, expected.as_bytes(), "{text}");
        }
    }

    #[test]
    fn defaults() {
        let config = Config::parse(b"{\"module\": \"/x.wasm\"}").unwrap();
        assert_eq!((config.fuel, config.memory, config.max_crashes), (10_000_000, 8 << 20, 10));
        assert_eq!((config.on_crash, config.bodies.len(), config.vm_id()), (OnCrash::Fail, 0, "/x.wasm".to_owned()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (json, expected) in [
            ("", "config must be a mapping with module"),
            ("{}", "missing field `module`"),
            (r#"{"module": "x", "fule": 1}"#, "unknown field `fule`"),
            (r#"{"module": "x", "fuel": "ten"}"#, "\"ten\" is no amount"),
            (r#"{"module": "x", "fuel": 5}"#, "fuel must be at least 10k"),
            (r#"{"module": "x", "fuel": -5}"#, "-5 is no amount"),
            (r#"{"module": "x", "memory": "1KiB"}"#, "memory must be from 64KiB"),
            (r#"{"module": "x", "memory": "2GiB"}"#, "to 1GiB"),
            (r#"{"module": "x", "threads": 0}"#, "threads must be from 1 to 64"),
            (r#"{"module": "x", "bodies": ["both"]}"#, "unknown variant `both`"),
            (r#"{"module": "x", "on_crash": "retry"}"#, "unknown variant `retry`"),
        ] {
            let error = Config::parse(json.as_bytes()).unwrap_err();
            assert!(error.message().contains(expected), "{json}: {error}");
        }
    }
}
