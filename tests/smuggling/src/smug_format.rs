//! The `.smug` files.
//!
//! A file is a family of attempts. It is made of blocks with an empty line between them, and of comments (`#`).
//!
//! ```text
//! S1 a length, then a coding          a rule and a name begin an entry
//! > POST / HTTP/1.1                   the client sends this line; with a \ at the end, one without CRLF
//! > Host: a                           \r \n \t \0 \xNN \\ are escapes; \(20*ab) is twenty times ab
//! > Content-Length: 6
//! >
//! > hello!\
//! < HTTP/1.1 200 OK                   the upstream answers the first request with this; left out: 200 with the body "ok"
//! ! early                             it does so when it has the head
//! ! upstream closes                   it closes its connection behind that
//! = 200 length:ok                     an answer that the client gets: status and body; interim ones too
//! ^ POST / length:hello!              a request that the upstream gets: method, target, framing, body
//! + X-A: b                            the message above has this field line
//! - Te                                it has no field of this name
//!
//! frame length                        its title, and a message with a hole, for entries that differ in one place
//! > POST / HTTP/1.1
//! > {}
//! ...
//! S1 200 Content-Length: 6            rule, status, and what stands in the hole; `cut`: a response that breaks off
//! S2 400 Content-Length: +6
//! ```
//!
//! Behind a status, `/WHY` is the reason that the log must give; where it is left out, a refusal is for the entry's own rule.
//! `closed` and `kept` say what becomes of the client's connection; left out, it is closed after [`CLOSING`] statuses and
//! after `cut`. `begun` allows that the upstream gets the beginning of a request that is refused within its body. Bodies:
//! `length:`, `chunked:`, `until_close:`, `none:`.
//!
//! Without `>` lines, the client sends `GET /` and the upstream must get it.

use std::fmt;

use crate::entry::{AfterResponse, Answer, Body, ClientOutcome, Entry, FieldCheck, Forwarded};
use crate::strict::Framing;

/// Statuses behind which the client's connection is closed, unless the entry says otherwise: the end of the request is
/// unknown.
pub const CLOSING: [u16; 7] = [400, 413, 414, 417, 431, 501, 505];

/// What the client sends where an entry is about the response.
const PLAIN_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The place in a frame that each row fills.
const HOLE: &str = "{}";

/// A line that is not understood, and what was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The name of the file.
    pub family: &'static str,
    /// From 1.
    pub line: usize,
    /// What was expected.
    pub expected: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.smug:{}: expected {}", self.family, self.line, self.expected)
    }
}

impl std::error::Error for ParseError {}

/// A block of lines, each with its number.
type Block<'a> = Vec<(usize, &'a str)>;

/// All entries of a family.
pub fn parse(family: &'static str, text: &str) -> Result<Vec<Entry>, ParseError> {
    let mut entries = Vec::new();
    let mut frame: Option<(&str, Block<'_>)> = None;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#'));
    let mut block = Block::new();
    // An empty line at the very end closes the last block.
    for (number, line) in lines.chain([(text.lines().count() + 1, "")]) {
        if !line.is_empty() {
            block.push((number, line));
            continue;
        }
        let block = std::mem::take(&mut block);
        let Some(&(first, head)) = block.first() else { continue };
        let bad = |line, expected| ParseError { family, line, expected };
        let (word, name) = split_word(head);
        if word == "frame" {
            frame = Some((name, block));
        } else if !is_header(head) {
            return Err(bad(first, "an entry, a frame or rows"));
        } else if is_row(head) {
            let (title, frame) = frame.as_ref().ok_or_else(|| bad(first, "a frame above the row"))?;
            for &(number, line) in &block {
                let row = Row::read(number, line).ok_or_else(|| bad(number, "a rule, a status and a text"))?;
                let draft = Draft::new(family, number, row.rule, &format!("{title}: {}", row.text));
                entries.push(draft.read(&frame[1..], Some(row))?);
            }
        } else {
            entries.push(Draft::new(family, first, word, name).read(&block[1..], None)?);
        }
    }
    Ok(entries)
}

/// An entry that differs from its frame.
#[derive(Clone, Copy)]
struct Row<'a> {
    rule: &'a str,
    /// A status, or `cut`.
    word: &'a str,
    /// What fills the hole.
    text: &'a str,
    number: usize,
}

impl<'a> Row<'a> {
    fn read(number: usize, line: &'a str) -> Option<Row<'a>> {
        let (rule, rest) = split_word(line);
        let (word, text) = split_word(rest);
        (is_header(line) && is_row(line)).then_some(Row { rule, word, text, number })
    }
}

/// An entry, as far as it was read.
struct Draft {
    entry: Entry,
    /// The line that it begins in.
    number: usize,
    has_request: bool,
    outcome: Option<ClientOutcome>,
}

/// What a `+` or `-` is about.
enum Above {
    Nothing,
    Answer,
    Forwarded,
}

impl Draft {
    fn new(family: &'static str, number: usize, rule: &str, name: &str) -> Draft {
        let entry = Entry {
            family,
            rule: rule.to_owned(),
            name: name.to_owned(),
            request: Vec::new(),
            response: None,
            is_early: false,
            after_response: AfterResponse::KeepOpen,
            answers: Vec::new(),
            forwarded: Vec::new(),
            outcome: ClientOutcome::Kept,
            may_begin: false,
            why: None,
        };
        Draft { entry, number, has_request: false, outcome: None }
    }

    fn read(mut self, lines: &[(usize, &str)], row: Option<Row<'_>>) -> Result<Entry, ParseError> {
        let mut above = Above::Nothing;
        for &(number, line) in lines {
            let filled = row.map(|row| line.replace(HOLE, row.text));
            let line = filled.as_deref().unwrap_or(line);
            let family = self.entry.family;
            let bad = move |expected| ParseError { family, line: number, expected };
            let (sign, rest) = line.split_at(line.len().min(1));
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            match sign {
                ">" => {
                    self.has_request = true;
                    unescape_line(rest, &mut self.entry.request).ok_or(bad("known escapes"))?;
                }
                "<" => {
                    let response = self.entry.response.get_or_insert_default();
                    unescape_line(rest, response).ok_or(bad("known escapes"))?;
                }
                "!" => match rest {
                    "early" => self.entry.is_early = true,
                    "upstream closes" => self.entry.after_response = AfterResponse::Close,
                    _ => return Err(bad("early, or upstream closes")),
                },
                "=" => {
                    let answer = self.read_answer(rest).ok_or(bad("a status, words, and a body"))?;
                    self.entry.answers.push(answer);
                    above = Above::Answer;
                }
                "^" => {
                    self.entry.forwarded.push(read_forwarded(rest).ok_or(bad("method, target, and a body"))?);
                    above = Above::Forwarded;
                }
                "+" | "-" => {
                    let check = match (sign, rest.split_once(": ")) {
                        ("+", Some((name, value))) => FieldCheck::Has(name.to_owned(), value.to_owned()),
                        ("-", None) => FieldCheck::Lacks(rest.to_owned()),
                        _ => return Err(bad("+ Name: value, or - Name")),
                    };
                    let fields = match above {
                        Above::Answer => self.entry.answers.last_mut().map(|answer| &mut answer.fields),
                        Above::Forwarded => self.entry.forwarded.last_mut().map(|message| &mut message.fields),
                        Above::Nothing => None,
                    };
                    fields.ok_or(bad("= or ^ above it"))?.push(check);
                }
                _ => return Err(bad("one of > < ! = ^ + -")),
            }
        }
        self.finish(row)
    }

    /// `STATUS[/WHY] [closed|kept|cut|begun]... [BODY]`
    fn read_answer(&mut self, text: &str) -> Option<Answer> {
        let (word, mut rest) = split_word(text);
        let (status, why) = word.split_once('/').unwrap_or((word, ""));
        if !why.is_empty() {
            self.entry.why = Some(why.to_owned());
        }
        let mut body = None;
        while !rest.is_empty() {
            let (word, after) = split_word(rest);
            match word {
                "closed" => self.outcome = Some(ClientOutcome::Closed),
                "kept" => self.outcome = Some(ClientOutcome::Kept),
                "cut" => self.outcome = Some(ClientOutcome::Truncated),
                "begun" => self.entry.may_begin = true,
                _ => {
                    body = Some(read_body(rest)?);
                    break;
                }
            }
            rest = after;
        }
        Some(Answer { status: read_status(status)?, body, fields: Vec::new() })
    }

    /// Fills in what the entry leaves out.
    fn finish(mut self, row: Option<Row<'_>>) -> Result<Entry, ParseError> {
        if !self.has_request {
            self.entry.request = PLAIN_REQUEST.to_vec();
            if self.entry.forwarded.is_empty() {
                self.entry.forwarded.extend(read_forwarded("GET /"));
            }
        }
        let family = self.entry.family;
        let bad = |line, expected| ParseError { family, line, expected };
        if let Some(row) = row {
            self.take_row(row).ok_or(bad(row.number, "the status of the frame, a refusal, or cut"))?;
        }
        if self.entry.answers.is_empty() {
            return Err(bad(self.number, "an answer"));
        }
        let last = self.entry.answers.last().map_or(0, |answer| answer.status);
        self.entry.outcome = match self.outcome {
            Some(outcome) => outcome,
            None if last == 101 => ClientOutcome::Tunnel,
            None if CLOSING.contains(&last) => ClientOutcome::Closed,
            None => ClientOutcome::Kept,
        };
        // The proxy's own refusal is for the rule of the entry. It is its own where the upstream gets or sends nothing.
        let is_silent = self.entry.response.is_none() || self.entry.forwarded.is_empty();
        let is_ours = last >= 400 && (is_silent || last == 502);
        if self.entry.why.is_none() && (is_ours || self.entry.outcome == ClientOutcome::Truncated) {
            self.entry.why = Some(self.entry.rule.clone());
        }
        Ok(self.entry)
    }

    /// The frame tells what comes of an accepted row; a refused one gets one answer and is not forwarded.
    fn take_row(&mut self, row: Row<'_>) -> Option<()> {
        let (word, why) = row.word.split_once('/').unwrap_or((row.word, ""));
        if !why.is_empty() {
            self.entry.why = Some(why.to_owned());
        }
        let accepted = self.entry.answers.last().map(|answer| answer.status);
        if word == "cut" {
            self.outcome = Some(ClientOutcome::Truncated);
            self.entry.answers.iter_mut().for_each(|answer| answer.body = None);
            return accepted.map(|_| ());
        }
        let status = read_status(word)?;
        if accepted == Some(status) {
            return Some(());
        }
        self.entry.answers = vec![Answer { status, body: None, fields: Vec::new() }];
        self.outcome = None;
        // 502 refuses the upstream, which has got the request.
        if status != 502 {
            self.entry.forwarded.clear();
        }
        (status >= 400).then_some(())
    }
}

/// Whether a line begins with a rule.
fn is_header(line: &str) -> bool {
    let (rule, _) = split_word(line);
    rule.len() >= 2 && rule.starts_with(['S', 'G']) && rule[1..].bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the second word is a status, with or without a reason, or `cut`.
fn is_row(line: &str) -> bool {
    let (word, _) = split_word(split_word(line).1);
    let word = word.split('/').next().unwrap_or_default();
    word == "cut" || read_status(word).is_some()
}

fn read_status(word: &str) -> Option<u16> {
    let is_status = word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
    is_status.then(|| word.parse().ok()).flatten()
}

/// `METHOD TARGET [BODY]`
fn read_forwarded(text: &str) -> Option<Forwarded> {
    let (method, rest) = split_word(text);
    let (target, body) = split_word(rest);
    let mut bytes = Vec::new();
    unescape(target, &mut bytes)?;
    let body = if body.is_empty() { Body { framing: Framing::None, bytes: Vec::new() } } else { read_body(body)? };
    Some(Forwarded { method: method.to_owned(), target: String::from_utf8(bytes).ok()?, body, fields: Vec::new() })
}

fn read_body(text: &str) -> Option<Body> {
    let (framing, rest) = text.split_once(':')?;
    let mut bytes = Vec::new();
    unescape(rest, &mut bytes)?;
    let framing = match framing {
        "none" => Framing::None,
        "length" => Framing::Length(bytes.len() as u64),
        "chunked" => Framing::Chunked,
        "until_close" => Framing::UntilClose,
        _ => return None,
    };
    Some(Body { framing, bytes })
}

/// The first word and what follows it.
fn split_word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// Appends a line: CRLF at its end unless there is a `\`.
pub(crate) fn unescape_line(text: &str, out: &mut Vec<u8>) -> Option<()> {
    // An escaped backslash at the end is a backslash.
    let slashes = text.len() - text.trim_end_matches('\\').len();
    if slashes % 2 == 1 {
        return unescape(&text[..text.len() - 1], out);
    }
    unescape(text, out)?;
    out.extend_from_slice(b"\r\n");
    Some(())
}

/// Appends what an escaped text stands for.
fn unescape(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let code = rest.chars().next()?;
        rest = &rest[code.len_utf8()..];
        match code {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '0' => out.push(0),
            '\\' => out.push(b'\\'),
            'x' => {
                out.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
                rest = &rest[2..];
            }
            '(' => {
                let (inner, after) = rest.split_once(')')?;
                let (count, text) = inner.split_once('*')?;
                let mut piece = Vec::new();
                unescape(text, &mut piece)?;
                out.extend(piece.repeat(count.parse().ok()?));
                rest = after;
            }
            _ => return None,
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Entry {
        let mut entries = parse("test", text).expect("a good text");
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }

    #[test]
    fn an_entry_says_what_is_sent_and_what_comes_of_it() {
        let entry =
            one("# A comment.\nS1 a name\n> A\n> b\\\n> \\x00\\t\\(3*ab)\\\\\n< x\n! early\n! upstream closes\n\
                         = 103\n= 200 closed length:a b\n+ A: b: c\n^ POST /x chunked:\\r\\n\n- Te\n");
        assert_eq!((entry.rule.as_str(), entry.name.as_str()), ("S1", "a name"));
        assert_eq!(entry.request, b"A\r\nb\0\tababab\\\r\n");
        assert_eq!(entry.response.as_deref(), Some(&b"x\r\n"[..]));
        assert_eq!((entry.is_early, entry.after_response), (true, AfterResponse::Close));
        assert_eq!(entry.answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [103, 200]);
        assert_eq!(entry.outcome, ClientOutcome::Closed);
        let body = Body { framing: Framing::Length(3), bytes: b"a b".to_vec() };
        assert_eq!(entry.answers[1].body, Some(body));
        assert_eq!(entry.answers[1].fields, [FieldCheck::Has("A".to_owned(), "b: c".to_owned())]);
        let sent = &entry.forwarded[0];
        assert_eq!((sent.method.as_str(), sent.target.as_str()), ("POST", "/x"));
        assert_eq!(sent.body, Body { framing: Framing::Chunked, bytes: b"\r\n".to_vec() });
        assert_eq!(sent.fields, [FieldCheck::Lacks("Te".to_owned())]);
    }

    #[test]
    fn rows_fill_the_hole_of_their_frame() {
        let text = "frame t\n> POST / HTTP/1.1\n> {}\n>\n= 200\n^ POST / length:\n\nS2 200 a: b\nS2 501/S3 c\\x20d\n";
        let entries = parse("test", text).expect("a good text");
        assert_eq!(entries[0].request, b"POST / HTTP/1.1\r\na: b\r\n\r\n");
        assert_eq!((entries[0].forwarded.len(), entries[0].outcome, &entries[0].why), (1, ClientOutcome::Kept, &None));
        assert_eq!(entries[1].request, b"POST / HTTP/1.1\r\nc d\r\n\r\n");
        assert_eq!((entries[1].forwarded.len(), entries[1].outcome), (0, ClientOutcome::Closed));
        assert_eq!((entries[1].name.as_str(), entries[1].why.as_deref()), ("t: c\\x20d", Some("S3")));
    }

    #[test]
    fn a_response_needs_no_request() {
        let text =
            "frame t\n< HTTP/1.1 200 OK\n< {}\n<\n= 200 length:\n\nS2 200 Content-Length: 0\nS2 502 x\nS18 cut y\n";
        let entries = parse("test", text).expect("a good text");
        let outcomes: Vec<_> = entries.iter().map(|entry| (entry.outcome, entry.why.as_deref())).collect();
        assert_eq!(
            outcomes,
            [(ClientOutcome::Kept, None), (ClientOutcome::Kept, Some("S2")), (ClientOutcome::Truncated, Some("S18"))]
        );
        assert!(entries.iter().all(|entry| entry.request == PLAIN_REQUEST && entry.forwarded.len() == 1));
    }

    #[test]
    fn an_error_names_its_line() {
        for (text, line, expected) in [
            ("hello", 1, "an entry, a frame or rows"),
            ("S1 alone", 1, "an answer"),
            ("frame t\n> {}\n= 200\n\nS1 200 x\nS1 y", 6, "a rule, a status and a text"),
            ("S1 200 no frame", 1, "a frame above the row"),
            ("S1 a\n? x", 2, "one of > < ! = ^ + -"),
            ("S1 a\n> \\q\n= 200", 2, "known escapes"),
            ("S1 a\n> x\n= abc", 3, "a status, words, and a body"),
            ("S1 a\n> x\n= 200 x", 3, "a status, words, and a body"),
            ("S1 a\n> x\n= 200\n\nS1 b\n> x", 5, "an answer"),
            ("S1 a\n> x\n+ A: b\n= 200", 3, "= or ^ above it"),
            ("S1 a\n> x\n= 200\n+ A", 4, "+ Name: value, or - Name"),
            ("S1 a\n> x\n! later\n= 200", 3, "early, or upstream closes"),
            ("frame t\n> {}\n= 200\n\nS1 204 x", 5, "the status of the frame, a refusal, or cut"),
        ] {
            assert_eq!(parse("test", text), Err(ParseError { family: "test", line, expected }), "{text}");
        }
    }
}
