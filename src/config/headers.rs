//! Changes to the field lines of a head: `{remove: [Name], set: {Name: value}, add: {Name: value}}`.
//!
//! A name whose lines are made by a rule or by another key is refused, with what to write instead.

use std::collections::BTreeMap;

use mini_rproxy_plugin::validate::is_token;
use serde::{Deserialize, Serialize};

use super::error::quoted;
use super::scalar::{As, Notation};

/// Lines that one mapping may remove, set and add, and how long all of them may be: a head has to stay one that others read.
const MAX_LINES: usize = 64;
const MAX_BYTES: usize = 16 * 1024;

/// What is done with the lines of a head, in this order. Of names that only differ in case, or in which character stands
/// between letters and digits, all are removed and replaced: servers that make variables of them cannot tell them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping such as \"set: {X-Frame-Options: DENY}\"")]
pub struct HeaderEdits {
    #[serde(deserialize_with = "As::<EditedName>::list", skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    set: FieldLines,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    add: FieldLines,
}

impl HeaderEdits {
    /// The names whose lines go.
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        self.remove.iter().chain(self.set.keys().map(|EditedName(name)| name)).map(String::as_str)
    }

    /// The lines that come then, in order.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.set.iter().chain(&self.add);
        all.flat_map(|(name, values)| values.0.iter().map(|value| (name.0.as_str(), value.as_str())))
    }

    /// The same with what stands for all values: those for upstreams may be secrets.
    pub(super) fn without_values(&self) -> HeaderEdits {
        let hide = |lines: &FieldLines| {
            lines.keys().map(|name| (name.clone(), EditedValues(vec!["(not shown)".to_owned()]))).collect()
        };
        HeaderEdits { remove: self.remove.clone(), set: hide(&self.set), add: hide(&self.add) }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if let Some((EditedName(name), _)) = self.set.iter().chain(&self.add).find(|(_, values)| values.0.is_empty()) {
            let name = quoted(name);
            return Err(format!("{name} has no value: write \"\" for an empty one, or put the name into remove"));
        }
        let lines = self.remove.len() + self.lines().count();
        let bytes: usize = self.lines().map(|(name, value)| name.len() + value.len() + 4).sum();
        if lines <= MAX_LINES && bytes <= MAX_BYTES {
            return Ok(());
        }
        Err(format!("{lines} lines of {bytes} bytes are too many for a head: write at most {MAX_LINES} of {MAX_BYTES}"))
    }
}

/// By name the values, each of which is a line.
type FieldLines = BTreeMap<EditedName, EditedValues>;

/// A name whose lines may be changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
struct EditedName(#[serde(deserialize_with = "As::<EditedName>::deserialize")] String);

/// Without the white space around each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
struct EditedValues(#[serde(deserialize_with = "As::<EditedValues>::list")] Vec<String>);

/// Names that are not for these keys, in lower case, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "content-length transfer-encoding te trailer",
        "where a message ends is found out and written by the proxy alone: leave it out",
    ),
    (
        "connection keep-alive proxy-connection expect http2-settings proxy-authenticate proxy-authorization",
        "it speaks of one connection, and each has the proxy's own: leave it out",
    ),
    ("upgrade", "which protocols pass is said by the key upgrade of a route"),
    ("host", "the Host that an upstream sees is said by the key host of a route"),
    (
        "x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-prefix x-real-ip forwarded",
        "who may speak of the client, and whether the proxy does, is said by the key forwarded",
    ),
    ("via", "write \"via: false\" at the top level, and the proxy adds none"),
    (
        "x-client-cert-verify x-client-cert-subject",
        "what a client has shown is asked for, and told to upstreams, by the key tls.client_ca",
    ),
    ("date", "it says when a response was made, and its maker writes it: leave it out"),
];

impl Notation for EditedName {
    type Value = String;
    const EXPECTED: &'static str = "the name of a header field such as X-Frame-Options";

    fn read(text: &str) -> Result<Option<String>, String> {
        if text.len() > 128 || !is_token(text.as_bytes()) {
            return Ok(None);
        }
        let name = text.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        match REFUSED.iter().find(|(names, _)| names.split(' ').any(|refused| refused == name)) {
            Some((_, reason)) => Err(format!("{} cannot be changed here: {reason}", quoted(text))),
            None => Ok(Some(text.to_owned())),
        }
    }
}

/// One of them.
impl Notation for EditedValues {
    type Value = String;
    const EXPECTED: &'static str = "the value of a header field, in quotes where YAML reads it as no text";

    fn read(text: &str) -> Result<Option<String>, String> {
        if text.contains(char::is_control) {
            return Err(format!("{}: a field has one line, and no control characters in it", quoted(text)));
        }
        Ok(Some(text.trim_matches(' ').to_owned()))
    }
}
