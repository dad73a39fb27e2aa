//! Where messages end: our parser against the tests' own.

use mini_rproxy::http::body::Body;
use mini_rproxy::http::chunked::{LAST_CHUNK, write_chunk};
use mini_rproxy::http::error::HttpError;
use mini_rproxy::http::fields::Fields;
use mini_rproxy::http::framing::{Framing, request_framing, response_framing};
use mini_rproxy::http::head::{HeadLimits, Method, RequestHead, ResponseHead, Version, parse_head};
use mini_rproxy::http::target::{check_host, parse_target};

use crate::head::is_dropped;
use crate::input::{Input, cuts};
use crate::testkit::strict::{self, Kind, Message, Parser, RequestInfo, Strictness};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 16 << 10, field_lines: 256, request_line: 8 << 10 };

/// A byte that says whose messages these are, then a stream of them.
pub fn framing_pair(data: &[u8]) {
    let mut input = Input(data);
    let first = input.byte();
    if first & 1 == 0 {
        requests(input.0);
    } else {
        responses(first >> 1, input.0);
    }
}

/// What we accept, the strict parser must accept, and find the same in it.
fn requests(bytes: &[u8]) {
    let mut strict = Parser::new(Kind::Requests, Strictness::Lenient);
    let mut at = 0;
    for index in 0.. {
        let mut head = RequestHead::default();
        let Ok(Some(len)) = parse_head(&bytes[at..], &LIMITS, &mut head) else { return };
        let Ok(framing) = request_framing(&head) else { return };
        if head.method == Method::Connect {
            return;
        }
        let Ok(target) = parse_target(&head.target, head.method == Method::Options) else { return };
        if check_host(&target, head.version, &head.fields, b"").is_err() {
            return;
        }
        let Some((end, body)) = read_body(framing, bytes, at + len) else { return };
        strict.feed(&bytes[at..end]);
        let message = judge(&strict, index, framing, &body);
        assert_eq!(message.head.method().as_bytes(), head.method.as_bytes());
        assert_eq!(message.head.is_http10(), head.version == Version::Http10);
        same_fields(&head.fields, message);
        if !message.is_complete {
            return;
        }
        at = end;
    }
}

fn responses(asked: u8, bytes: &[u8]) {
    let mut strict = Parser::new(Kind::Responses, Strictness::Lenient);
    let mut at = 0;
    let mut finals = 0;
    let ask = |finals: u32| if asked >> (finals % 7) & 1 == 1 { "HEAD" } else { "GET" };
    strict.expect_response(RequestInfo { method: ask(0).to_owned(), is_http10: false });
    for index in 0.. {
        let mut head = ResponseHead::default();
        let Ok(Some(len)) = parse_head(&bytes[at..], &LIMITS, &mut head) else { return };
        let Ok((framing, is_false)) = response_framing(&head, ask(finals) == "HEAD") else { return };
        if is_false {
            // Its one reading is that nothing behind it counts.
            return;
        }
        let Some((end, body)) = read_body(framing, bytes, at + len) else { return };
        strict.feed(&bytes[at..end]);
        if framing == Framing::UntilClose {
            strict.finish();
        }
        let message = judge(&strict, index, framing, &body);
        assert_eq!(message.head.status(), head.status);
        same_fields(&head.fields, message);
        if !message.is_complete || framing == Framing::UntilClose || head.status == 101 {
            return;
        }
        if head.status >= 200 {
            finals += 1;
            strict.expect_response(RequestInfo { method: ask(finals).to_owned(), is_http10: false });
        }
        at = end;
    }
}

/// The end of the body that begins at `at`, and what is in it; `None` where we refuse it.
fn read_body(framing: Framing, bytes: &[u8], at: usize) -> Option<(usize, Option<Vec<u8>>)> {
    let mut content = Vec::new();
    let Some(mut body) = Body::new(framing) else { return Some((at, Some(content))) };
    let (len, is_whole) = body.read(&bytes[at..], |data| content.extend_from_slice(data)).ok()?;
    if is_whole && framing == Framing::Chunked {
        parse_head(body.trailers(), &LIMITS, &mut Fields::new()).expect("the decoder has judged the trailers");
    }
    let is_whole = is_whole || framing == Framing::UntilClose;
    Some((at + len, is_whole.then_some(content)))
}

/// The message that the strict parser found, which must be the same.
fn judge<'p>(strict: &'p Parser, index: usize, framing: Framing, body: &Option<Vec<u8>>) -> &'p Message {
    assert_eq!(strict.error, None, "we accept what the strict parser refuses");
    assert_eq!(strict.messages.len(), index + 1, "another number of messages");
    let message = &strict.messages[index];
    let expected = match framing {
        Framing::None => strict::Framing::None,
        Framing::Length(len) => strict::Framing::Length(len),
        Framing::Chunked => strict::Framing::Chunked,
        Framing::UntilClose => strict::Framing::UntilClose,
    };
    assert_eq!(message.head.framing, expected);
    assert_eq!(message.is_complete, body.is_some(), "another end");
    if let Some(body) = body {
        assert_eq!(&message.body, body);
        assert!(strict.is_between_messages(), "another end");
    }
    message
}

fn same_fields(fields: &Fields, message: &Message) {
    let latin = |bytes: &[u8]| -> String { bytes.iter().map(|&byte| char::from(byte)).collect() };
    let ours: Vec<(String, String)> = fields.iter().map(|line| (latin(line.name), latin(line.value))).collect();
    let theirs: Vec<_> = message.head.fields.iter().filter(|(name, _)| !is_dropped(name)).cloned().collect();
    assert_eq!(ours, theirs);
}

/// Everything that comes of a chunked body.
#[derive(Debug, PartialEq, Eq)]
struct ChunkEvent {
    content: Vec<u8>,
    end: Result<Option<usize>, HttpError>,
    trailers: Vec<u8>,
}

fn decode(bytes: &[u8], cuts: &[usize]) -> ChunkEvent {
    let mut body = Body::new(Framing::Chunked).expect("chunked bodies are there");
    let mut content = Vec::new();
    let (mut at, mut end) = (0, Ok(None));
    for &cut in cuts {
        match body.read(&bytes[at..cut], |data| content.extend_from_slice(data)) {
            Ok((len, true)) => {
                end = Ok(Some(at + len));
                break;
            }
            Ok((len, false)) => assert_eq!(at + len, cut, "all is consumed before the end"),
            Err(error) => {
                assert_eq!(body.read(&bytes[cut..], |_| panic!("data after an error")), Err(error));
                end = Err(error);
                break;
            }
        }
        at = cut;
    }
    ChunkEvent { content, end, trailers: body.trailers().to_vec() }
}

/// Decodes anything, and encodes anything.
pub fn chunked_roundtrip(data: &[u8]) {
    let mut input = Input(data);
    let (seed, bytes) = (input.byte(), input.0);
    let whole = decode(bytes, &[bytes.len()]);
    let in_pieces = decode(bytes, &cuts(seed, bytes.len()));
    if whole.end.is_ok() {
        assert_eq!(in_pieces, whole);
    } else {
        assert_eq!((&in_pieces.content, &in_pieces.end), (&whole.content, &whole.end));
    }
    if let Ok(Some(end)) = whole.end {
        assert_eq!(decode(&bytes[..end], &[end]), whole, "what follows does not matter");
        assert_eq!(decode(&bytes[..end - 1], &[end - 1]).end, Ok(None), "and nothing less will do");
    }
    // The other way round: the same bytes as the data of chunks. Not too many: the strict parser is slow.
    let bytes = &bytes[..bytes.len().min(1000)];
    let mut encoded = Vec::new();
    let mut from = 0;
    for end in cuts(seed, bytes.len()) {
        write_chunk(&mut encoded, |out| out.extend_from_slice(&bytes[from..end]));
        from = end;
    }
    encoded.extend_from_slice(LAST_CHUNK);
    encoded.extend_from_slice(b"\r\n");
    let decoded = decode(&encoded, &cuts(seed.wrapping_add(1), encoded.len()));
    assert_eq!((decoded.content.as_slice(), decoded.end), (bytes, Ok(Some(encoded.len()))));
    let mut strict = Parser::new(Kind::Requests, Strictness::Strict);
    strict.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    strict.feed(&encoded);
    assert!(strict.error.is_none() && strict.is_between_messages());
    assert!(strict.messages[0].is_complete && strict.messages[0].body == bytes);
}
