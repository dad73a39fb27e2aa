//! The keys of `log`.

use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

/// What the log looks like.
#[derive(Clone, Copy, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping such as \"access: true\"")]
pub struct LogConfig {
    /// How a line is written; `None` only while the file is read.
    pub format: Option<LogFormat>,
    /// One line per request.
    pub access: bool,
    /// How much it has of the request.
    pub fields: LogFields,
    /// Whether that includes queries, which may hold secrets.
    #[default(true)]
    pub query: bool,
}

/// How much access lines have of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "short or full")]
pub enum LogFields {
    /// Method and path.
    #[default]
    Short,
    /// Host, version, query, User-Agent and Referer, too.
    Full,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "text, json or combined")]
pub enum LogFormat {
    /// `key=value`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Access lines in the Combined Log Format of Apache, all others as text.
    Combined,
}
