//! One entry of the catalogue: what is sent, and what must come of it.

use super::strict::Framing;

/// One trick, or its harmless neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file that it stands in.
    pub family: &'static str,
    /// `S1`
    pub rule: String,
    /// What it is, in words or in bytes.
    pub name: String,
    /// What the client sends.
    pub request: Vec<u8>,
    /// What the origin answers to the first request; `None`: the usual.
    pub response: Option<Vec<u8>>,
    /// When the origin answers.
    pub moment: Moment,
    /// What the origin does with its connection behind its answer.
    pub behind: Behind,
    /// What the client gets, interim responses included.
    pub answers: Vec<Answer>,
    /// What the origin sees, in order.
    pub forwarded: Vec<Forwarded>,
    /// What becomes of the client's connection.
    pub fate: Fate,
    /// Whether the origin may see the beginning of a request that is refused later.
    pub may_begin: bool,
    /// What the log must give as the reason for the last answer.
    pub why: Option<String>,
}

/// When the origin answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moment {
    /// When it has the whole request.
    #[default]
    Whole,
    /// When it has the head.
    Head,
}

/// What the origin does with its connection behind the answer that an entry gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behind {
    /// It waits for the next request.
    #[default]
    Waits,
    /// It closes.
    Closes,
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It serves the next request.
    Kept,
    /// It is closed, and nothing behind the entry is looked at.
    Closed,
    /// The response breaks off, and the connection with it.
    Cut,
    /// It becomes a tunnel (101).
    Tunnel,
}

/// A response that the client must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, where that is said.
    pub body: Option<Body>,
    /// What else must hold of it.
    pub fields: Vec<Clause>,
}

/// A request that the origin must see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its body.
    pub body: Body,
    /// What else must hold of it.
    pub fields: Vec<Clause>,
}

/// A body and how its end is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// How its end is told.
    pub framing: Framing,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Something about a field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clause {
    /// There is a line with this name and this value.
    Has(String, String),
    /// There is no line with this name.
    Lacks(String),
}
