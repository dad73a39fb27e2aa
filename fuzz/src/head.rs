//! Message heads.

use mini_rproxy::http::fields::{Classes, Fields};
use mini_rproxy::http::head::{
    HeadLimits, HeadReader, RequestHead, ResponseHead, Version, parse_request, parse_response, write_request,
    write_response,
};
use mini_rproxy_plugin::rules::{is_field_value, is_token};

use crate::input::{Input, cuts};

/// Small enough to be met, and large enough to be out of the way.
const LIMITS: [HeadLimits; 2] = [
    HeadLimits { head_bytes: 100, field_lines: 3, request_line: 30 },
    HeadLimits { head_bytes: 1 << 20, field_lines: 1024, request_line: 1 << 20 },
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

/// Names and values as httparse finds them. Those that rule S9 drops are not compared.
fn oracle_pairs(lines: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let is_dropped =
        |name: &str| ["content_length", "transfer_encoding"].iter().any(|dropped| name.eq_ignore_ascii_case(dropped));
    let kept = lines.iter().filter(|line| !is_dropped(line.name));
    kept.map(|line| (line.name.as_bytes().to_vec(), line.value.to_vec())).collect()
}

/// A byte that says how to split, then a request head and whatever follows it.
pub fn request_head(data: &[u8]) {
    let mut input = Input(data);
    let (seed, bytes) = (input.byte(), input.0);
    for limits in &LIMITS {
        let mut head = RequestHead::default();
        let parse = |bytes: &[u8]| {
            let mut head = RequestHead::default();
            (parse_request(bytes, limits, &mut head), request_text(&head))
        };
        let (mut reader, mut in_pieces) = (HeadReader::new(), RequestHead::default());
        let read = |bytes: &[u8]| (reader.request(bytes, limits, &mut in_pieces), request_text(&in_pieces));
        if !check(bytes, seed, limits, parse, read) {
            continue;
        }
        parse_request(bytes, limits, &mut head).expect("just accepted");
        assert!(!head.target.is_empty() && head.target.iter().all(u8::is_ascii_graphic));
        let mut lines = vec![httparse::EMPTY_HEADER; 1024];
        let mut oracle = httparse::Request::new(&mut lines);
        assert!(oracle.parse(bytes).expect("what we accept httparse accepts").is_complete());
        assert_eq!(oracle.method.map(str::as_bytes), Some(head.method.as_bytes()));
        assert_eq!(oracle.path.map(str::as_bytes), Some(&head.target[..]));
        assert_eq!(oracle.version == Some(1), head.version == Version::Http11);
        assert_eq!(oracle_pairs(oracle.headers), pairs(&head.fields));
        head.authority = b"upstream.example".to_vec();
        let mut written = Vec::new();
        write_request(&head, Classes::default(), &mut written);
        written.extend_from_slice(b"\r\n");
        let mut again = RequestHead::default();
        assert_eq!(parse_request(&written, &LIMITS[1], &mut again), Ok(Some(written.len())), "what we write we read");
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
            (parse_response(bytes, limits, &mut head), response_text(&head))
        };
        let (mut reader, mut in_pieces) = (HeadReader::new(), ResponseHead::default());
        let read = |bytes: &[u8]| (reader.response(bytes, limits, &mut in_pieces), response_text(&in_pieces));
        if !check(bytes, seed, limits, parse, read) {
            continue;
        }
        parse_response(bytes, limits, &mut head).expect("just accepted");
        assert!((100..=999).contains(&head.status));
        let mut lines = vec![httparse::EMPTY_HEADER; 1024];
        let mut oracle = httparse::Response::new(&mut lines);
        assert!(oracle.parse(bytes).expect("what we accept httparse accepts").is_complete());
        assert_eq!(oracle.code, Some(head.status));
        // It gives no reason phrase where there is obs-text in it.
        assert!(!head.reason.is_ascii() || oracle.reason.map(str::as_bytes) == Some(&head.reason[..]));
        assert_eq!(oracle.version == Some(1), head.version == Version::Http11);
        assert_eq!(oracle_pairs(oracle.headers), pairs(&head.fields));
        let mut written = Vec::new();
        write_response(&head, Classes::default(), &mut written);
        written.extend_from_slice(b"\r\n");
        let mut again = ResponseHead::default();
        assert_eq!(parse_response(&written, &LIMITS[1], &mut again), Ok(Some(written.len())), "what we write we read");
        head.version = Version::Http11;
        assert_eq!(response_text(&again), response_text(&head));
    }
}
