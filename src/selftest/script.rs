//! What the origin of an entry says, and when. It answers what it was asked and nothing else.

use super::entry::{Behind, Entry, Moment};
use super::strict::Parser;

/// What the client sends behind an entry, in the same breath: the next request on the connection, whose sender is the
/// victim of every trick that works.
pub const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n";

/// What the answer to the probe holds.
pub const PROBE_BODY: &[u8] = b"probe";

const PROBE_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe";
const USUAL_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const USUAL_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

/// The origin's part in an entry, over all of its connections.
#[derive(Debug)]
pub struct Script<'a> {
    entry: &'a Entry,
    /// The entry's own response was given.
    is_told: bool,
}

/// What the origin does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Sent at once.
    pub bytes: &'a [u8],
    /// What becomes of the connection.
    pub then: Then,
}

/// What becomes of the origin's connection after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The same request is answered further.
    More,
    /// The next request is waited for.
    Next,
    /// It is not HTTP any more.
    Tunnel,
    /// The origin closes it.
    Close,
}

impl<'a> Script<'a> {
    /// The origin before anything was asked.
    pub fn new(entry: &'a Entry) -> Script<'a> {
        Script { entry, is_told: false }
    }

    /// What to do on a connection that has brought these messages, so many of which are answered; `None`: wait.
    pub fn next(&mut self, heard: &Parser, answered: usize) -> Option<Reply<'a>> {
        let message = heard.messages.get(answered)?;
        if is_probe(&message.head.start) {
            return message.is_complete.then_some(Reply { bytes: PROBE_ANSWER, then: Then::Next });
        }
        let response = self.entry.response.as_deref().filter(|_| !self.is_told);
        let is_time = match self.entry.moment {
            Moment::Whole => message.is_complete,
            Moment::Head => response.is_some() || message.is_complete,
        };
        if !is_time {
            return None;
        }
        let Some(bytes) = response else {
            let bytes = if message.head.method() == "HEAD" { USUAL_HEAD } else { USUAL_ANSWER };
            return Some(Reply { bytes, then: Then::Next });
        };
        self.is_told = true;
        let then = match (self.entry.behind, last_status(bytes)) {
            (Behind::Closes, _) => Then::Close,
            (Behind::Waits, Some(b"101")) => Then::Tunnel,
            (Behind::Waits, Some([b'1', ..])) => Then::More,
            (Behind::Waits, Some(_) | None) => Then::Next,
        };
        Some(Reply { bytes, then })
    }
}

/// Whether this is the first line of the probe, as it is forwarded.
pub fn is_probe(start: &str) -> bool {
    start.starts_with("GET /probe ")
}

/// The status of the last head in `bytes`.
fn last_status(bytes: &[u8]) -> Option<&[u8]> {
    let start = bytes.windows(9).rposition(|window| window.starts_with(b"HTTP/1.") && window[8] == b' ')?;
    bytes.get(start + 9..start + 12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::notation::parse;
    use crate::selftest::strict::{Kind, Whose};

    fn entry(text: &str) -> Entry {
        parse("test", text).expect("a good text").remove(0)
    }

    fn heard(bytes: &[u8]) -> Parser {
        let mut parser = Parser::new(Kind::Requests, Whose::Received);
        parser.feed(bytes);
        parser
    }

    #[test]
    fn each_request_is_answered_when_it_is_there() {
        let entry = entry("S18 x\n< HTTP/1.1 404 Not Found\n<\n= 404");
        let mut script = Script::new(&entry);
        let whole = heard(b"GET / HTTP/1.1\r\n\r\nGET /probe HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n");
        let replies: Vec<_> = (0..4).map(|answered| script.next(&whole, answered)).collect();
        let next = |bytes| Some(Reply { bytes, then: Then::Next });
        assert_eq!(replies, [next(b"HTTP/1.1 404 Not Found\r\n\r\n"), next(PROBE_ANSWER), next(USUAL_HEAD), None]);
        let half = heard(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na");
        assert_eq!(Script::new(&entry).next(&half, 0), None);
    }

    #[test]
    fn what_follows_depends_on_what_was_said() {
        for (text, then) in [
            ("! early\n< HTTP/1.1 100 Continue\n<\n= 200", Then::More),
            ("! early\n< HTTP/1.1 100 Continue\n<\n< HTTP/1.1 200 OK\n<\n= 200", Then::Next),
            ("! early\n< HTTP/1.1 101 Switching Protocols\n<\n= 101", Then::Tunnel),
            ("! early\n! upstream closes\n< HTTP/1.1 200 OK\n<\n= 200", Then::Close),
            ("! early\n< rubbish\n= 502", Then::Next),
        ] {
            let entry = entry(&format!("S18 x\n{text}"));
            let half = heard(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na");
            assert_eq!(Script::new(&entry).next(&half, 0).map(|reply| reply.then), Some(then), "{text}");
        }
    }
}
