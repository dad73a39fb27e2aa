//! One entry of the catalogue: what is sent, and what must come of it; and the list of all entries.

use crate::smug_format::{ParseError, parse};
use crate::strict::Framing;

/// One attempt at smuggling, or its harmless neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name of its file.
    pub family: &'static str,
    /// The rule that it tries, such as `S1`.
    pub rule: String,
    /// A description, or the bytes in question.
    pub name: String,
    /// What the client sends.
    pub request: Vec<u8>,
    /// What the upstream answers to the first request; `None`: a plain 200.
    pub response: Option<Vec<u8>>,
    /// The upstream answers when it has the head, and not only when it has the whole request.
    pub is_early: bool,
    /// What the upstream does behind its response.
    pub after_response: AfterResponse,
    /// What the client gets, interim responses included.
    pub answers: Vec<Answer>,
    /// What the upstream gets, in order.
    pub forwarded: Vec<Forwarded>,
    /// How it ends for the client.
    pub outcome: ClientOutcome,
    /// The upstream may see the beginning of a request that is refused within its body.
    pub may_begin: bool,
    /// What the log must give as the reason; set for each entry that must be refused.
    pub why: Option<String>,
}

impl Entry {
    /// Whether the proxy must refuse it.
    pub fn is_attack(&self) -> bool {
        self.why.is_some()
    }
}

/// What the upstream does with its connection behind the response of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterResponse {
    /// It waits for the next request.
    KeepOpen,
    /// It closes.
    Close,
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOutcome {
    /// It serves the next request.
    Kept,
    /// It is closed, and nothing behind the entry is looked at.
    Closed,
    /// It ends within the response.
    Truncated,
    /// It becomes a tunnel (101).
    Tunnel,
}

/// A response that the client must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, where the entry says one.
    pub body: Option<Body>,
    /// What else must hold of it.
    pub fields: Vec<FieldCheck>,
}

/// A request that the upstream must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its body.
    pub body: Body,
    /// What else must hold of it.
    pub fields: Vec<FieldCheck>,
}

/// A body and how its end is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// How its end is found.
    pub framing: Framing,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What must hold of the fields of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldCheck {
    /// There is a line with this name and this value.
    Has(String, String),
    /// There is no line with this name.
    Lacks(String),
}

/// The files: families of requests first, then families of responses.
const FILES: [(&str, &str); 18] = [
    ("length_and_coding", include_str!("../length_and_coding.smug")),
    ("content_length", include_str!("../content_length.smug")),
    ("transfer_encoding", include_str!("../transfer_encoding.smug")),
    ("chunks", include_str!("../chunks.smug")),
    ("lines", include_str!("../lines.smug")),
    ("field_names", include_str!("../field_names.smug")),
    ("host", include_str!("../host.smug")),
    ("request_line", include_str!("../request_line.smug")),
    ("targets", include_str!("../targets.smug")),
    ("bodies", include_str!("../bodies.smug")),
    ("expect", include_str!("../expect.smug")),
    ("upgrade", include_str!("../upgrade.smug")),
    ("trailers", include_str!("../trailers.smug")),
    ("hop_by_hop", include_str!("../hop_by_hop.smug")),
    ("response_framing", include_str!("../response_framing.smug")),
    ("response_heads", include_str!("../response_heads.smug")),
    ("response_chunks", include_str!("../response_chunks.smug")),
    ("response_bodies", include_str!("../response_bodies.smug")),
];

/// The whole catalogue.
pub fn entries() -> Result<Vec<Entry>, ParseError> {
    let mut entries = Vec::new();
    for (family, text) in FILES {
        entries.extend(parse(family, text)?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_the_list() {
        for file in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the folder") {
            let name = file.expect("an entry").file_name().into_string().expect("ASCII");
            if let Some(name) = name.strip_suffix(".smug") {
                assert!(FILES.iter().any(|(family, _)| name == *family), "{name} is not in the list");
            }
        }
    }
}
