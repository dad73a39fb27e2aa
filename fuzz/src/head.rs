//! Message heads.

use mini_rproxy::http::fields::{Fields, HeaderSet};
use mini_rproxy::http::head::{
    HeadLimits, HeadParser, MAX_FIELD_LINES, RequestHead, ResponseHead, Version, parse_head, write_request,
    write_response,
};
use mini_rproxy_plugin::validate::{is_field_value, is_token};

use crate::input::{Input, cuts};
use crate::testkit::strict::{Kind, Message, Parser, Strictness};

/// Small enough to be met, and large enough to be out of the way.
const LIMITS: [HeadLimits; 2] = [
    HeadLimits { head_bytes: 100, field_lines: 3, request_line: 30 },
    // Host may be one line more when it is written again.
    HeadLimits { head_bytes: 1 << 20, field_lines: MAX_FIELD_LINES - 1, request_line: 1 << 20 },
];

/// A head as text, to compare.
type Text = (String, Vec<(Vec<u8>, Vec<u8>)>);

fn pairs(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|line| (line.name.to_vec(), line.value.to_vec())).collect()
}

fn request_text(head: &RequestHead) -> Text {
    let start = format!("{} {} {:?}", head.method.as_bytes().escape_ascii(), head.target.escape_ascii(), head.version);
    (start, pairs(&head.fields))
}

fn response_text(head: &ResponseHead) -> Text {
    (format!("{} {} {:?}", head.status, head.reason.escape_ascii(), head.version), pairs(&head.fields))
}

/// Whole and in pieces it is the same; the head is as long as it says; its lines are clean.
fn check<E: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    seed: u8,
    limits: &HeadLimits,
    mut whole: impl FnMut(&[u8]) -> (Result<Option<usize>, E>, Text),
    mut reader: impl FnMut(&[u8]) -> (Result<Option<usize>, E>, Text),
) -> bool {
    let (result, text) = whole(bytes);
    let mut last = (Ok(None), text.clone());
    for end in cuts(seed, bytes.len()) {
        last = reader(&bytes[..end]);
        if last.0 != Ok(None) {
            break;
        }
    }
    assert_eq!(last.0, result, "in pieces");
    let Ok(Some(len)) = result else {
        assert!(text.1.is_empty(), "empty unless whole");
        return false;
    };
    assert_eq!(last.1, text, "in pieces");
    assert!(len <= bytes.len() && len <= limits.head_bytes && text.1.len() <= limits.field_lines);
    assert_eq!(whole(&bytes[..len]), (Ok(Some(len)), text.clone()), "what follows does not matter");
    assert_eq!(whole(&bytes[..len - 1]).0, Ok(None), "and nothing less will do");
    assert!(bytes[..len].ends_with(b"\r\n\r\n"));
    for (name, value) in &text.1 {
        assert!(is_token(name) && is_field_value(value), "{}: {}", name.escape_ascii(), value.escape_ascii());
    }
    true
}

/// Rule S9: for a reader to whom all that is no letter or digit is a dash this is a framing field's name, and it is not.
pub fn is_dropped(name: &str) -> bool {
    let dashed = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let is_framing = |name: &str| ["content-length", "transfer-encoding"].iter().any(|f| name.eq_ignore_ascii_case(f));
    is_framing(&dashed) && !is_framing(name)
}

/// What the independent parser finds at the start of `bytes`; `None` where it finds no head or refuses it.
fn oracle(kind: Kind, bytes: &[u8]) -> Option<Message> {
    let mut parser = Parser::new(kind, Strictness::Lenient);
    parser.feed(bytes);
    parser.messages.into_iter().next()
}

/// The same with names and values as we would have them: without those that rule S9 drops.
fn oracle_text(message: &Message) -> Text {
    let latin = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
    let kept = message.head.fields.iter().filter(|(name, _)| !is_dropped(name));
    (message.head.start.clone(), kept.map(|(name, value)| (latin(name), latin(value))).collect())
}

/// The first line as the independent parser keeps it.
fn latin_line(parts: &[&[u8]]) -> String {
    parts.concat().iter().map(|&byte| char::from(byte)).collect()
}

fn version_text(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
    }
}

/// With limits that are out of the way, what we refuse the independent parser refuses, or has not seen the end of.
fn check_refusal<E: std::fmt::Debug>(kind: Kind, bytes: &[u8], result: Result<Option<usize>, E>) {
    let Some(message) = oracle(kind, bytes) else { return };
    match result {
        Ok(Some(_)) => {}
        Ok(None) => panic!("the independent parser finds a head: {}", message.head.start),
        Err(error) => {
            let is_limit = message.head.fields.len() > LIMITS[1].field_lines || bytes.len() > LIMITS[1].head_bytes;
            assert!(is_limit, "{error:?}: {}", message.head.start);
        }
    }
}

/// A byte that says how to split, then a request head and whatever follows it.
pub fn request_head(data: &[u8]) {
    let mut input = Input(data);
    let (seed, bytes) = (input.byte(), input.0);
    for limits in &LIMITS {
        let mut head = RequestHead::default();
        let parse = |bytes: &[u8]| {
            let mut head = RequestHead::default();
            (parse_head(bytes, limits, &mut head), request_text(&head))
        };
        let (mut reader, mut in_pieces) = (HeadParser::default(), RequestHead::default());
        let read = |bytes: &[u8]| (reader.read(bytes, limits, &mut in_pieces), request_text(&in_pieces));
        if !check(bytes, seed, limits, parse, read) {
            if limits.head_bytes == LIMITS[1].head_bytes {
                check_refusal(Kind::Requests, bytes, parse_head(bytes, limits, &mut head));
            }
            continue;
        }
        parse_head(bytes, limits, &mut head).expect("just accepted");
        assert!(!head.target.is_empty() && head.target.iter().all(u8::is_ascii_graphic));
        let message = oracle(Kind::Requests, bytes).expect("what we accept the independent parser accepts");
        let start = latin_line(&[head.method.as_bytes(), b" ", &head.target, b" ", version_text(head.version)]);
        assert_eq!(oracle_text(&message), (start, pairs(&head.fields)));
        head.authority = b"upstream.example".to_vec();
        let mut written = Vec::new();
        write_request(&head, HeaderSet::default(), &mut written);
        written.extend_from_slice(b"\r\n");
        let mut again = RequestHead::default();
        let limits = HeadLimits { field_lines: MAX_FIELD_LINES, ..LIMITS[1] };
        assert_eq!(parse_head(&written, &limits, &mut again), Ok(Some(written.len())), "what we write we read");
        let mut expected = RequestHead { version: Version::Http11, ..head.clone() };
        expected.fields.clear();
        expected.fields.add(b"Host", b"upstream.example");
        for line in head.fields.iter().filter(|line| !line.name.eq_ignore_ascii_case(b"host")) {
            expected.fields.add(line.name, line.value);
        }
        assert_eq!(request_text(&again), request_text(&expected));
    }
}

/// A byte that says how to split, then a response head and whatever follows it.
pub fn response_head(data: &[u8]) {
    let mut input = Input(data);
    let (seed, bytes) = (input.byte(), input.0);
    for limits in &LIMITS {
        let mut head = ResponseHead::default();
        let parse = |bytes: &[u8]| {
            let mut head = ResponseHead::default();
            (parse_head(bytes, limits, &mut head), response_text(&head))
        };
        let (mut reader, mut in_pieces) = (HeadParser::default(), ResponseHead::default());
        let read = |bytes: &[u8]| (reader.read(bytes, limits, &mut in_pieces), response_text(&in_pieces));
        if !check(bytes, seed, limits, parse, read) {
            if limits.head_bytes == LIMITS[1].head_bytes {
                check_refusal(Kind::Responses, bytes, parse_head(bytes, limits, &mut head));
            }
            continue;
        }
        parse_head(bytes, limits, &mut head).expect("just accepted");
        assert!((100..=999).contains(&head.status));
        let message = oracle(Kind::Responses, bytes).expect("what we accept the independent parser accepts");
        let status = head.status.to_string();
        let start = latin_line(&[version_text(head.version), b" ", status.as_bytes(), b" ", &head.reason]);
        // Without a reason phrase the space may be missing.
        let (theirs, fields) = oracle_text(&message);
        assert_eq!((theirs.trim_end_matches(' '), fields), (start.trim_end_matches(' '), pairs(&head.fields)));
        let mut written = Vec::new();
        write_response(&head, HeaderSet::default(), &mut written);
        written.extend_from_slice(b"\r\n");
        let mut again = ResponseHead::default();
        assert_eq!(parse_head(&written, &LIMITS[1], &mut again), Ok(Some(written.len())), "what we write we read");
        head.version = Version::Http11;
        assert_eq!(response_text(&again), response_text(&head));
    }
}
