//! Message heads: bytes to values and values to bytes.
//!
//! `httparse` takes heads and trailer sections apart. Where it is lenient, a check stands behind it, at most one for a line:
//!
//! | httparse accepts | here |
//! |---|---|
//! | LF as the end of a line | the two bytes before each name, and the last four of a head, are CRLF (rule S8) |
//! | empty lines in front | one CRLF before a request line, no more (rule S12) |
//! | UTF-8 in a request target | ASCII only (rule S12) |
//! | any three digits as status | 100 or above (rule S18) |
//! | `content_length: 1` | is left out (rule S9) |
//!
//! It knows no sizes, and gives no reason phrase where there is a byte from 0x80 in it: both are done here, too. What was
//! refused is looked at once more, line by line, to say which rule it breaks.
//!
//! A head that has not arrived whole is `Ok(None)`; a limit turns an endless one into an error.
//!
//! Invariants:
//! 1. The answer does not depend on how the bytes were split: only whole lines are checked, and the first bad one counts.
//! 2. It does not depend on bytes after the head.
//! 3. [`HeadParser`] searches each byte for a line's end once, and runs httparse again only when a line has ended.
//!
//! What this file does not decide: where the body ends (`framing`), where the request goes (`proxy::route`).

use std::mem::MaybeUninit;

use httparse::{Error, Header, ParserConfig, Status};

use super::chars;
use super::error::HttpError;
use super::fields::{Fields, HeaderId, HeaderSet};

pub use super::start_line::{Method, Version, reason_phrase};

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head with its last empty line; 431 above it.
    pub head_bytes: usize,
    /// Field lines; 431 above it. At most [`MAX_FIELD_LINES`].
    pub field_lines: usize,
    /// Bytes of the request line without CRLF; 414 above it.
    pub request_line: usize,
}

/// The most field lines that can be configured.
pub const MAX_FIELD_LINES: usize = 256;

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The request method.
    pub method: Method,
    /// The request target as received; after `proxy::forward`, as it will be sent.
    pub target: Vec<u8>,
    /// Empty as received (the Host line is among the fields); after `proxy::forward`, the Host to send.
    pub authority: Vec<u8>,
    /// The version that the client speaks.
    pub version: Version,
    /// The field lines in order.
    pub fields: Fields,
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Three digits, 100 to 599 or above as received.
    pub status: u16,
    /// The reason phrase as received; empty where there was none.
    pub reason: Vec<u8>,
    /// The version that the upstream speaks.
    pub version: Version,
    /// The field lines in order.
    pub fields: Fields,
}

/// The length of what was parsed; `None` when more bytes are needed.
pub type ParseResult = Result<Option<usize>, HttpError>;

/// Reads the head of a request or a response, or a trailer section, at the start of `input` into `head`.
///
/// Returns its length in bytes, `None` when more bytes are needed. One empty line before the request line is skipped
/// (RFC 9112 section 2.2) and counts into the length. `head` is empty unless a length is returned.
///
/// Where a head may come in many pieces, a [`HeadParser`] does the same without starting over.
pub fn parse_head(input: &[u8], limits: &HeadLimits, head: &mut impl Head) -> ParseResult {
    HeadParser::default().read(input, limits, head)
}

/// Remembers what it has seen of a head, so that one which arrives in small pieces is not searched over and over.
///
/// Each call is given all bytes received so far. A parser reads one head after the other; after an error it keeps giving
/// that error.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadParser {
    /// So many bytes were searched for line ends.
    seen: usize,
    /// Where the line begins that has not ended yet. All before it was accepted.
    line_start: usize,
}

/// What ends each line.
pub const CRLF: &[u8] = b"\r\n";

impl HeadParser {
    /// Like [`parse_head`], where `input` begins with all that earlier calls were given.
    pub fn read<H: Head>(&mut self, input: &[u8], limits: &HeadLimits, head: &mut H) -> ParseResult {
        head.clear();
        // No byte beyond it is ever looked at, so that the limit is reached at the same place however the bytes arrive.
        let window = &input[..input.len().min(limits.head_bytes)];
        // Most heads arrive whole, and then this is all there is to do.
        if self.seen == 0
            && let Ok(Some(len)) = head.parse(window, limits)
        {
            return Ok(Some(len));
        }
        let len = self.read_lines(window, limits, head)?;
        if len.is_none() && input.len() > window.len() {
            return Err(HttpError::HeadTooLarge);
        }
        Ok(len)
    }

    /// Checks the whole lines in `window`, where one has ended since the last call.
    #[inline(never)]
    fn read_lines<H: Head>(&mut self, window: &[u8], limits: &HeadLimits, head: &mut H) -> ParseResult {
        if let Some(last) = window[self.seen..].iter().rposition(|&byte| byte == b'\n') {
            let lines = &window[..self.seen + last + 1];
            let is_bare = |line: &[u8]| !line.ends_with(CRLF);
            match head.parse(lines, limits) {
                Ok(Some(len)) => {
                    *self = HeadParser::default();
                    return Ok(Some(len));
                }
                Ok(None) if !lines_of(&lines[self.line_start..]).any(is_bare) => self.line_start = lines.len(),
                Ok(None) | Err(_) => return Err(first_error::<H>(lines, limits)),
            }
        }
        let line = &window[self.line_start..];
        let is_first = self.line_start == 0 || window[..self.line_start] == *CRLF;
        if is_first && line.len() >= H::max_start_line(limits).saturating_add(CRLF.len()) {
            return Err(HttpError::RequestLineTooLong);
        }
        self.seen = window.len();
        Ok(None)
    }
}

/// What httparse did not refuse by itself; `first_error` knows which rule it breaks.
const REFUSED: Error = Error::Token;

/// What requests, responses and trailer sections differ in: the first line.
pub trait Head {
    /// Forgets everything, keeps the memory.
    fn clear(&mut self);
    /// Fills `self`, which is empty, from a head at the start of `bytes` and returns the length of that. Where that is not
    /// whole or refused, `self` is left empty.
    fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Error>;
    /// The most bytes of the first line without CRLF.
    fn max_start_line(_: &HeadLimits) -> usize {
        usize::MAX
    }
    /// Takes the first line off `lines` and checks it.
    fn check_start_line<'a>(lines: &mut impl Iterator<Item = &'a [u8]>, limits: &HeadLimits) -> Result<(), HttpError>;
}

fn max_lines(limits: &HeadLimits) -> usize {
    limits.field_lines.min(MAX_FIELD_LINES)
}

impl Head for RequestHead {
    fn clear(&mut self) {
        self.method = Method::Get;
        self.target.clear();
        self.authority.clear();
        self.version = Version::Http11;
        self.fields.clear();
    }

    fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Error> {
        count_run();
        let mut slots = [MaybeUninit::uninit(); MAX_FIELD_LINES];
        let mut parsed = httparse::Request::new(&mut []);
        let status = parsed.parse_with_uninit_headers(bytes, &mut slots[..max_lines(limits)])?;
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            // No more than an empty line.
            return if CRLF.starts_with(bytes) { Ok(None) } else { Err(REFUSED) };
        };
        let start = offset_in(bytes, method.as_bytes());
        let is_in_front = start == 0 || bytes[..start] == *CRLF;
        let line_len = method.len() + target.len() + "  HTTP/1.1".len();
        if !is_in_front || !target.is_ascii() || line_len > limits.request_line {
            return Err(REFUSED);
        }
        let Status::Complete(len) = status else { return Ok(None) };
        take_fields(&bytes[..len], parsed.headers, &mut self.fields)?;
        self.method = Method::of(method.as_bytes());
        self.target.extend_from_slice(target.as_bytes());
        // httparse speaks no others.
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        Ok(Some(len))
    }

    fn max_start_line(limits: &HeadLimits) -> usize {
        limits.request_line
    }

    fn check_start_line<'a>(lines: &mut impl Iterator<Item = &'a [u8]>, limits: &HeadLimits) -> Result<(), HttpError> {
        let mut line = lines.next().unwrap_or_default();
        if line == CRLF {
            line = lines.next().unwrap_or_default();
        }
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        if content.strip_suffix(b"\r").unwrap_or(content).len() > limits.request_line {
            return Err(HttpError::RequestLineTooLong);
        }
        check_request_line(strip_start_line(line)?)
    }
}

impl Head for ResponseHead {
    fn clear(&mut self) {
        self.status = 0;
        self.reason.clear();
        self.version = Version::Http11;
        self.fields.clear();
    }

    fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Error> {
        count_run();
        let mut slots = [MaybeUninit::uninit(); MAX_FIELD_LINES];
        let slots = &mut slots[..max_lines(limits)];
        let mut parsed = httparse::Response::new(&mut []);
        let status = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, slots)?;
        let (Some(version), Some(code), Some(reason)) = (parsed.version, parsed.code, parsed.reason) else {
            return Err(REFUSED);
        };
        if !bytes.starts_with(b"HTTP/") || code < 100 {
            return Err(REFUSED);
        }
        let Status::Complete(len) = status else { return Ok(None) };
        take_fields(&bytes[..len], parsed.headers, &mut self.fields)?;
        self.status = code;
        self.reason.extend_from_slice(if reason.is_empty() { reason_of(bytes) } else { reason.as_bytes() });
        // httparse speaks no others.
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        Ok(Some(len))
    }

    fn check_start_line<'a>(lines: &mut impl Iterator<Item = &'a [u8]>, _: &HeadLimits) -> Result<(), HttpError> {
        check_status_line(strip_start_line(lines.next().unwrap_or_default())?)
    }
}

impl Head for Fields {
    fn clear(&mut self) {
        Fields::clear(self);
    }

    fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Error> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_FIELD_LINES];
        match httparse::parse_headers(bytes, &mut slots[..max_lines(limits)])? {
            Status::Complete((len, lines)) => take_fields(&bytes[..len], lines, self).map(|()| Some(len)),
            Status::Partial => Ok(None),
        }
    }

    fn check_start_line<'a>(_: &mut impl Iterator<Item = &'a [u8]>, _: &HeadLimits) -> Result<(), HttpError> {
        Ok(())
    }
}

/// Where `part`, which is a part of `whole`, begins in it.
fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// The reason phrase in a status line that httparse has accepted.
fn reason_of(head: &[u8]) -> &[u8] {
    let rest = &head["HTTP/1.1 200".len()..];
    let end = rest.iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(rest.len());
    rest[..end].strip_prefix(b" ").unwrap_or_default()
}

/// Takes over the field lines of `head`, a whole head, where each line of that ends with CRLF (rule S8).
fn take_fields(head: &[u8], lines: &[Header<'_>], fields: &mut Fields) -> Result<(), Error> {
    let Some(first) = lines.first() else {
        return if head.ends_with(b"\r\n\r\n") || head == CRLF { Ok(()) } else { Err(REFUSED) };
    };
    let (start, section) = head.split_at(offset_in(head, first.name.as_bytes()));
    let section = section.strip_suffix(CRLF).ok_or(REFUSED)?;
    if !start.is_empty() && !start.ends_with(CRLF) {
        return Err(REFUSED);
    }
    // Nearly all sections stand there as we would write them.
    if fields.copy_section(section, lines) {
        return Ok(());
    }
    let is_after_crlf = |line: &Header<'_>| section[..offset_in(section, line.name.as_bytes())].ends_with(CRLF);
    if !section.ends_with(CRLF) || !lines[1..].iter().all(is_after_crlf) {
        return Err(REFUSED);
    }
    for line in lines.iter().filter(|line| HeaderId::of(line.name.as_bytes()) != HeaderId::FramingLookAlike) {
        fields.add(line.name.as_bytes(), line.value);
    }
    Ok(())
}

/// Lines with their ends.
fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n')
}

/// What is wrong with the first bad line of `lines`, which are whole ones and were refused.
#[cold]
fn first_error<H: Head>(lines: &[u8], limits: &HeadLimits) -> HttpError {
    let mut lines = lines_of(lines);
    if let Err(error) = H::check_start_line(&mut lines, limits) {
        return error;
    }
    for (before, line) in lines.enumerate() {
        if before == max_lines(limits) {
            return HttpError::TooManyLines;
        }
        if let Err(error) = check_field_line(line) {
            return error;
        }
    }
    debug_assert!(false, "a head was refused of which each line is good");
    HttpError::BadName
}

/// Whether httparse accepts this line of a field section, and CRLF ends it (rule S8).
pub fn check_field_line(line: &[u8]) -> Result<(), HttpError> {
    strip_line_end(line)?;
    match (httparse::parse_headers(line, &mut [httparse::EMPTY_HEADER]), line) {
        (Ok(_), _) => Ok(()),
        (Err(_), [b' ' | b'\t', ..]) => Err(HttpError::FoldedLine),
        (Err(httparse::Error::HeaderValue), _) => Err(HttpError::BadValue),
        (Err(_), _) => Err(HttpError::BadName),
    }
}

/// A line without the CRLF at its end (rule S8).
fn strip_line_end(line: &[u8]) -> Result<&[u8], HttpError> {
    let Some(content) = line.strip_suffix(CRLF) else { return Err(HttpError::BareLf) };
    if content.contains(&b'\r') { Err(HttpError::BareCr) } else { Ok(content) }
}

fn strip_start_line(line: &[u8]) -> Result<&[u8], HttpError> {
    if line == CRLF { Err(HttpError::EmptyStartLine) } else { strip_line_end(line) }
}

/// What a request line without its CRLF breaks (RFC 9112 section 3, rule S12).
fn check_request_line(line: &[u8]) -> Result<(), HttpError> {
    if line.iter().any(u8::is_ascii_control) {
        return Err(HttpError::Control);
    }
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    match parts[..] {
        [[_, ..], [_, ..]] => Err(HttpError::MissingVersion),
        [method @ [_, ..], [_, ..], [_, ..]] if !chars::is_token(method) => Err(HttpError::BadMethod),
        [[_, ..], target @ [_, ..], [_, ..]] if !target.is_ascii() => Err(HttpError::NonAsciiTarget),
        [[_, ..], [_, ..], version @ [_, ..]] => check_version(version),
        _ => Err(HttpError::BadSpacing),
    }
}

/// What a status line without its CRLF breaks (RFC 9112 section 4, rule S18).
fn check_status_line(line: &[u8]) -> Result<(), HttpError> {
    if !line.iter().all(|&byte| chars::is_field_byte(byte)) {
        return Err(HttpError::Control);
    }
    let (version, rest) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
    check_version(version)?;
    match rest {
        [b' ', b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] | [b' ', b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', ..] => {
            Ok(())
        }
        _ => Err(HttpError::BadStatus),
    }
}

/// HTTP-version of RFC 9112 section 2.3: upper case, one digit on each side of the dot (rule S21).
fn check_version(version: &[u8]) -> Result<(), HttpError> {
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(HttpError::UnsupportedVersion),
        _ => Err(HttpError::BadVersion),
    }
}

/// For the test that counts how often httparse runs.
fn count_run() {
    #[cfg(test)]
    tests::RUNS.set(tests::RUNS.get() + 1);
}

/// Appends request line, Host line and field lines but for those of some names; the caller adds framing fields and the
/// empty line.
///
/// The version is ours, whatever the client speaks (RFC 9110 section 2.5); Host comes first (RFC 9110 section 7.2) and
/// once: what stands among the fields is left out.
pub fn write_request(head: &RequestHead, without: HeaderSet, out: &mut Vec<u8>) {
    let line = [head.method.as_bytes(), b" ", &head.target, b" HTTP/1.1\r\nHost: ", &head.authority, CRLF];
    line.into_iter().for_each(|part| out.extend_from_slice(part));
    head.fields.write_without(without.with(HeaderId::Host), out);
}

/// Appends status line and field lines but for those of some names; the caller adds framing fields and the empty
/// line. We always say HTTP/1.1 (RFC 9110 section 2.5: a version is the sender's own).
pub fn write_response(head: &ResponseHead, without: HeaderSet, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    chars::write_decimal(u64::from(head.status), out);
    [b" ", &head.reason[..], CRLF].into_iter().for_each(|part| out.extend_from_slice(part));
    head.fields.write_without(without, out);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::http::CUT_EVERY;
    use selftest::strict::{Kind, Parser, Strictness};

    thread_local! {
        /// How often httparse ran over heads.
        pub static RUNS: Cell<usize> = const { Cell::new(0) };
    }

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 200, field_lines: 5, request_line: 60 };

    type Parsed = Result<Option<(usize, String)>, HttpError>;

    /// What a whole head became, as text.
    fn request_text(head: &RequestHead) -> String {
        let mut text = format!("{:?} {}", head.version, head.method.as_bytes().escape_ascii());
        text += &format!(" {}", head.target.escape_ascii());
        text + &fields_text(&head.fields)
    }

    fn response_text(head: &ResponseHead) -> String {
        let start = format!("{:?} {} {}", head.version, head.status, head.reason.escape_ascii());
        start + &fields_text(&head.fields)
    }

    fn fields_text(fields: &Fields) -> String {
        let line = |line: crate::http::fields::HeaderRef<'_>| {
            format!("|{}={}", line.name.escape_ascii(), line.value.escape_ascii())
        };
        fields.iter().map(line).collect()
    }

    fn request(reader: &mut HeadParser, input: &[u8]) -> Parsed {
        let mut head = RequestHead { target: b"left over".to_vec(), ..RequestHead::default() };
        head.fields.add(b"Left", b"over");
        let parsed = reader.read(input, &LIMITS, &mut head);
        if !matches!(parsed, Ok(Some(_))) {
            assert_eq!(request_text(&head), request_text(&RequestHead::default()), "empty unless whole");
        }
        Ok(parsed?.map(|len| (len, request_text(&head))))
    }

    fn response(reader: &mut HeadParser, input: &[u8]) -> Parsed {
        let mut head = ResponseHead { reason: b"left over".to_vec(), status: 1, ..ResponseHead::default() };
        head.fields.add(b"Left", b"over");
        let parsed = reader.read(input, &LIMITS, &mut head);
        if !matches!(parsed, Ok(Some(_))) {
            assert_eq!(response_text(&head), response_text(&ResponseHead::default()), "empty unless whole");
        }
        Ok(parsed?.map(|len| (len, response_text(&head))))
    }

    fn trailers(_: &mut HeadParser, input: &[u8]) -> Parsed {
        let mut fields = Fields::new();
        fields.add(b"Left", b"over");
        Ok(parse_head(input, &LIMITS, &mut fields)?.map(|len| (len, fields_text(&fields))))
    }

    /// Invariants 1 and 2: the same answer whole, byte by byte, as any prefix, and whatever follows.
    fn answer(name: &str, input: &[u8], parse: fn(&mut HeadParser, &[u8]) -> Parsed) -> Parsed {
        let whole = parse(&mut HeadParser::default(), input);
        for junk in [&b"\n"[..], b"\r\n\r\n", b"\0 \xff: GET / HTTP/1.1\r\n", &[b'x'; 300]] {
            if whole != Ok(None) {
                let followed = parse(&mut HeadParser::default(), &[input, junk].concat());
                assert_eq!(followed, whole, "{name}: followed by {:?}", junk.escape_ascii().to_string());
            }
        }
        let mut reader = HeadParser::default();
        let mut decided = false;
        for len in (0..=input.len()).step_by(CUT_EVERY) {
            let fresh = parse(&mut HeadParser::default(), &input[..len]);
            if !decided {
                assert_eq!(parse(&mut reader, &input[..len]), fresh, "{name}: {len} bytes, one at a time");
            }
            decided |= fresh != Ok(None);
            assert_eq!(fresh, if decided { whole.clone() } else { Ok(None) }, "{name}: {len} bytes at once");
        }
        for first in (0..=input.len()).step_by(CUT_EVERY) {
            let mut reader = HeadParser::default();
            let found = match parse(&mut reader, &input[..first]) {
                Ok(None) => parse(&mut reader, input),
                decided => decided,
            };
            assert_eq!(found, whole, "{name}: {first} bytes and the rest");
        }
        whole
    }

    fn assert_accepts(parse: fn(&mut HeadParser, &[u8]) -> Parsed, rows: &[(&str, &[u8], &str)]) {
        for &(name, input, expected) in rows {
            assert_eq!(answer(name, input, parse), Ok(Some((input.len(), expected.to_owned()))), "{name}");
        }
    }

    fn assert_refuses(parse: fn(&mut HeadParser, &[u8]) -> Parsed, rows: &[(&str, &[u8], HttpError)]) {
        for &(name, input, expected) in rows {
            assert_eq!(answer(name, input, parse), Err(expected), "{name}");
        }
    }

    #[test]
    fn whole_requests_are_read() {
        assert_accepts(
            request,
            &[
                ("no fields", b"GET / HTTP/1.0\r\n\r\n", "Http10 GET /"),
                ("an empty line in front", b"\r\nGET / HTTP/1.1\r\n\r\n", "Http11 GET /"),
                (
                    "order, case and duplicates are kept",
                    b"M-SEARCH * HTTP/1.1\r\nhOST:a\r\nb: \t1 \t2\t \r\nB:2\r\nc:\r\nd: \t\r\n\r\n",
                    "Http11 M-SEARCH *|hOST=a|b=1 \\t2|B=2|c=|d=",
                ),
                ("obs-text", b"GET /~ HTTP/1.1\r\na: \xe9\xff\r\n\r\n", "Http11 GET /~|a=\\xe9\\xff"),
            ],
        );
        let unfinished = b"GET / HTTP/1.1\r\nHost: a\r\n\r";
        assert_eq!(answer("unfinished", unfinished, request), Ok(None));
    }

    #[test]
    fn whole_responses_are_read() {
        assert_accepts(
            response,
            &[
                ("a reason", b"HTTP/1.1 404 Not Found\r\na: b\r\n\r\n", "Http11 404 Not Found|a=b"),
                ("an empty reason", b"HTTP/1.0 200 \r\n\r\n", "Http10 200 "),
                ("no reason", b"HTTP/1.1 200\r\na: b\r\n\r\n", "Http11 200 |a=b"),
                ("no reason, no fields", b"HTTP/1.1 200\r\n\r\n", "Http11 200 "),
                ("obs-text", b"HTTP/1.1 200 \xe9 x\r\na: \xff\r\n\r\n", "Http11 200 \\xe9 x|a=\\xff"),
            ],
        );
    }

    #[test]
    fn s8_lines_end_with_crlf_only() {
        assert_accepts(request, &[("CRLF", b"GET / HTTP/1.1\r\na: b\r\n\r\n", "Http11 GET /|a=b")]);
        assert_refuses(
            request,
            &[
                ("LF ends the request line", b"GET / HTTP/1.1\na: b\r\n\r\n", HttpError::BareLf),
                ("LF ends the request line of a bare head", b"GET / HTTP/1.1\n\r\n", HttpError::BareLf),
                ("LF ends a field line", b"GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n", HttpError::BareLf),
                ("LF ends the last field line", b"GET / HTTP/1.1\r\na: b\n\r\n", HttpError::BareLf),
                ("LF ends a line without a value", b"GET / HTTP/1.1\r\na:\nb: c\r\n\r\n", HttpError::BareLf),
                ("LF is the last line", b"GET / HTTP/1.1\r\na: b\r\n\n", HttpError::BareLf),
                ("LF in front", b"\nGET / HTTP/1.1\r\n\r\n", HttpError::BareLf),
                ("LF after the empty line", b"\r\n\nGET / HTTP/1.1\r\n\r\n", HttpError::BareLf),
                ("CR in front", b"\rGET / HTTP/1.1\r\n\r\n", HttpError::BareCr),
                ("CR in a value", b"GET / HTTP/1.1\r\na: b\rc\r\n\r\n", HttpError::BareCr),
                ("CR CR LF", b"GET / HTTP/1.1\r\na: b\r\r\n\r\n", HttpError::BareCr),
                ("CR CR LF at the end", b"GET / HTTP/1.1\r\na: b\r\n\r\r\n", HttpError::BareCr),
            ],
        );
        assert_refuses(
            response,
            &[
                ("LF ends the status line", b"HTTP/1.1 200 OK\na: b\r\n\r\n", HttpError::BareLf),
                ("LF ends a status line without reason", b"HTTP/1.1 200\n\r\n", HttpError::BareLf),
                ("LF ends a field line", b"HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n", HttpError::BareLf),
                ("CR in the reason", b"HTTP/1.1 200 O\rK\r\n\r\n", HttpError::BareCr),
            ],
        );
    }

    #[test]
    fn s8_field_lines_are_strict() {
        for (parse, start) in [
            (request as fn(&mut HeadParser, &[u8]) -> Parsed, &b"GET / HTTP/1.1\r\n"[..]),
            (response, b"HTTP/1.1 200 OK\r\n"),
            (trailers, b""),
        ] {
            for (name, line, expected) in [
                ("NUL", &b"a: b\0c"[..], HttpError::BadValue),
                ("DEL", b"a: \x7f", HttpError::BadValue),
                ("a vertical tab", b"Transfer-Encoding: \x0bchunked", HttpError::BadValue),
                ("a space in front", b" a: b", HttpError::FoldedLine),
                ("a tab in front", b"\ta: b", HttpError::FoldedLine),
                ("a folded line", b"a: b\r\n c", HttpError::FoldedLine),
                ("a folded empty line", b"a: b\r\n \r\nc: d", HttpError::FoldedLine),
                ("a folded line after an empty value", b"a:\r\n\tc", HttpError::FoldedLine),
                ("a space before the colon", b"a : b", HttpError::BadName),
                ("no name", b": b", HttpError::BadName),
                ("no colon", b"ab", HttpError::BadName),
                ("a name that is no token", b"a(b): c", HttpError::BadName),
                ("obs-text in a name", b"\xc3\xa9: c", HttpError::BadName),
            ] {
                let input = [start, line, b"\r\n\r\n"].concat();
                assert_refuses(parse, &[(name, &input, expected)]);
            }
        }
    }

    #[test]
    fn s9_look_alikes_of_framing_fields_are_dropped() {
        let fields = b"content_length: 1\r\nTRANSFER_Encoding: x\r\nmy_name: 2\r\ncontent-length: 3\r\n\r\n";
        let kept = "|my_name=2|content-length=3";
        for (name, parse, start, text) in [
            ("request", request as fn(&mut HeadParser, &[u8]) -> Parsed, "GET / HTTP/1.1\r\n", "Http11 GET /"),
            ("response", response, "HTTP/1.1 200 OK\r\n", "Http11 200 OK"),
            ("trailers", trailers, "", ""),
        ] {
            let input = [start.as_bytes(), fields].concat();
            assert_accepts(parse, &[(name, &input, &[text, kept].concat())]);
        }
    }

    #[test]
    fn s10_limits_are_reached_at_the_same_byte_however_it_comes() {
        let line = |len: usize| [&b"GET /"[..], &vec![b'a'; len - 14], b" HTTP/1.1"].concat();
        let head = |len: usize| {
            let mut input = b"GET / HTTP/1.1\r\na: ".to_vec();
            input.resize(len - 4, b'b');
            [&input[..], b"\r\n\r\n"].concat()
        };
        let fields = |count: usize| [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(count), b"\r\n"].concat();
        for (name, input, expected) in [
            ("the longest request line", [line(60), b"\r\n\r\n".to_vec()].concat(), None),
            ("one byte more", [line(61), b"\r\n\r\n".to_vec()].concat(), Some(HttpError::RequestLineTooLong)),
            ("one byte more, LF", [line(61), b"\n\n".to_vec()].concat(), Some(HttpError::RequestLineTooLong)),
            ("the longest, LF", [line(60), b"\n\r\n".to_vec()].concat(), Some(HttpError::BareLf)),
            ("the longest after an empty line", [&b"\r\n"[..], &line(60), b"\r\n\r\n"].concat(), None),
            ("no end", vec![b'A'; 150], Some(HttpError::RequestLineTooLong)),
            ("no end but CR", vec![b'\r'; 150], Some(HttpError::RequestLineTooLong)),
            ("the largest head", head(200), None),
            ("one byte more", head(201), Some(HttpError::HeadTooLarge)),
            ("much more", head(1000), Some(HttpError::HeadTooLarge)),
            ("the most lines", fields(5), None),
            ("one line more", fields(6), Some(HttpError::TooManyLines)),
            ("many lines more", fields(30), Some(HttpError::TooManyLines)),
        ] {
            let found = answer(name, &input, request);
            match expected {
                None => assert_eq!(found.map(|parsed| parsed.map(|(len, _)| len)), Ok(Some(input.len())), "{name}"),
                Some(error) => assert_eq!(found, Err(error), "{name}"),
            }
        }
        let endless = [&b"HTTP/1.1 200 "[..], &[b'x'; 300]].concat();
        assert_eq!(answer("a response without end", &endless, response), Err(HttpError::HeadTooLarge));
        assert_eq!(answer("trailers without end", &[b'x'; 300], trailers), Err(HttpError::HeadTooLarge));
        for (error, status) in
            [(HttpError::RequestLineTooLong, 414), (HttpError::HeadTooLarge, 431), (HttpError::TooManyLines, 431)]
        {
            assert_eq!(error.status(), status);
        }
    }

    #[test]
    fn s10_more_lines_than_the_table_holds_are_refused() {
        let limits = HeadLimits { head_bytes: usize::MAX, field_lines: usize::MAX, request_line: usize::MAX };
        for (count, expected) in [(MAX_FIELD_LINES, None), (MAX_FIELD_LINES + 1, Some(HttpError::TooManyLines))] {
            let input = [&b"GET / HTTP/1.1\r\n"[..], &b"a:\r\n".repeat(count), b"\r\n"].concat();
            assert_eq!(parse_head(&input, &limits, &mut RequestHead::default()).err(), expected, "{count}");
        }
    }

    #[test]
    fn s12_request_lines_are_strict() {
        assert_refuses(
            request,
            &[
                ("two empty lines in front", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", HttpError::EmptyStartLine),
                ("two spaces", b"GET  / HTTP/1.1\r\n\r\n", HttpError::BadSpacing),
                ("a space at the end", b"GET / HTTP/1.1 \r\n\r\n", HttpError::BadSpacing),
                ("a tab", b"GET\t/\tHTTP/1.1\r\n\r\n", HttpError::Control),
                ("no token", b"GE\xc3T / HTTP/1.1\r\n\r\n", HttpError::BadMethod),
                ("UTF-8", b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", HttpError::NonAsciiTarget),
                ("Latin-1", b"GET /\xe9 HTTP/1.1\r\n\r\n", HttpError::NonAsciiTarget),
                ("NUL", b"GET /\0 HTTP/1.1\r\n\r\n", HttpError::Control),
            ],
        );
    }

    #[test]
    fn s18_status_lines_are_strict() {
        assert_refuses(
            response,
            &[
                ("an empty line in front", b"\r\nHTTP/1.1 200 OK\r\n\r\n", HttpError::EmptyStartLine),
                ("two digits", b"HTTP/1.1 20 OK\r\n\r\n", HttpError::BadStatus),
                ("below 100", b"HTTP/1.1 012 OK\r\n\r\n", HttpError::BadStatus),
                ("four digits", b"HTTP/1.1 2000\r\n\r\n", HttpError::BadStatus),
                ("two spaces", b"HTTP/1.1  200 OK\r\n\r\n", HttpError::BadStatus),
                ("NUL", b"HTTP/1.1 200 O\0K\r\n\r\n", HttpError::Control),
                ("another version", b"HTTP/1.2 200 OK\r\n\r\n", HttpError::UnsupportedVersion),
                ("another protocol", b"SSH-2.0-x\r\n", HttpError::BadVersion),
            ],
        );
    }

    #[test]
    fn s21_other_versions_are_refused() {
        assert_accepts(request, &[("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", "Http10 GET /")]);
        assert_refuses(
            request,
            &[
                ("HTTP/0.9", b"GET /\r\n", HttpError::MissingVersion),
                ("HTTP/1.2", b"GET / HTTP/1.2\r\n\r\n", HttpError::UnsupportedVersion),
                ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HttpError::UnsupportedVersion),
                ("HTTP/1.01", b"GET / HTTP/1.01\r\n\r\n", HttpError::BadVersion),
                ("lower case", b"GET / http/1.1\r\n\r\n", HttpError::BadVersion),
                ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", HttpError::BareLf),
            ],
        );
    }

    #[test]
    fn a_reader_reads_one_head_after_the_other() {
        let mut reader = HeadParser::default();
        for cut in [3, 20, 23] {
            let input = b"GET / HTTP/1.1\r\na: b\r\n\r\n";
            assert_eq!(request(&mut reader, &input[..cut]), Ok(None));
            assert_eq!(request(&mut reader, input), Ok(Some((input.len(), "Http11 GET /|a=b".to_owned()))));
        }
        let bad = b"GET / HTTP/1.1\n";
        assert_eq!(request(&mut reader, &bad[..9]), Ok(None));
        assert_eq!(request(&mut reader, bad), Err(HttpError::BareLf));
        assert_eq!(request(&mut reader, bad), Err(HttpError::BareLf), "an error stays");
    }

    /// What the independent parser makes of the head at the start of `input`, as text; `Err` where it refuses it.
    fn strict_text(kind: Kind, input: &[u8]) -> Result<Option<String>, String> {
        let mut parser = Parser::new(kind, Strictness::Lenient);
        parser.feed(input);
        let Some(message) = parser.messages.first() else { return parser.error.map_or(Ok(None), Err) };
        let latin = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>().escape_ascii().to_string();
        let (start, version) = match kind {
            Kind::Requests => message.head.start.rsplit_once(' ').expect("a version"),
            Kind::Responses => {
                let (version, start) = message.head.start.split_once(' ').expect("a status");
                (start, version)
            }
        };
        let version = if version == "HTTP/1.0" { "Http10" } else { "Http11" };
        let start = if start.len() == 3 { format!("{start} ") } else { latin(start) };
        let dashed = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_ascii_lowercase();
        let is_kept = |name: &str| {
            let framing = ["content-length", "transfer-encoding"];
            !framing.contains(&&dashed(name)[..]) || framing.contains(&&name.to_ascii_lowercase()[..])
        };
        let fields = message.head.fields.iter().filter(|(name, _)| is_kept(name));
        let fields: String = fields.map(|(name, value)| format!("|{}={}", latin(name), latin(value))).collect();
        Ok(Some(format!("{version} {start}{fields}")))
    }

    /// Heads made of odd pieces: the independent parser accepts the same ones, and finds the same in them.
    #[test]
    fn s8_an_independent_parser_agrees() {
        const ROUNDS: usize = if cfg!(miri) { 20 } else { 8_000 };
        const LARGE: HeadLimits = HeadLimits { head_bytes: 1 << 20, field_lines: 256, request_line: 1 << 20 };
        const PIECES: [&[u8]; 26] = [
            b"GET / HTTP/1.1\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"GET",
            b" ",
            b"/",
            b"HTTP/1.1",
            b"HTTP/1.0",
            b"\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b"a: b\r\n",
            b"c:",
            b":",
            b"\t",
            b"d",
            b"-,",
            b"\0",
            b"\xc3\xa9",
            b"\xff",
            b" x",
            b"200",
            b"Content_Length: 1\r\n",
            b"HTTP/2.0",
        ];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut accepted = 0;
        for round in 0..ROUNDS {
            let mut input = if round % 2 == 0 { PIECES[0].to_vec() } else { PIECES[1].to_vec() };
            for step in 0..8 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                if step == 0 && seed.is_multiple_of(3) {
                    input.clear();
                }
                input.extend_from_slice(PIECES[(seed % PIECES.len() as u64) as usize]);
            }
            let name = input.escape_ascii().to_string();
            let _ = (answer(&name, &input, request), answer(&name, &input, response));
            let (mut head, mut other) = (RequestHead::default(), ResponseHead::default());
            let requests = parse_head(&input, &LARGE, &mut head).map(|len| len.map(|_| request_text(&head)));
            let responses = parse_head(&input, &LARGE, &mut other).map(|len| len.map(|_| response_text(&other)));
            for (ours, kind) in [(requests, Kind::Requests), (responses, Kind::Responses)] {
                match (ours, strict_text(kind, &input)) {
                    // Lines are judged here as they come, there together.
                    (Err(_), Err(_) | Ok(None)) => {}
                    (Ok(ours), theirs) => assert_eq!(Ok(&ours), theirs.as_ref(), "{kind:?} {name}"),
                    (Err(error), Ok(Some(text))) => panic!("{kind:?} {name}: {error:?}, but {text}"),
                }
            }
            accepted += usize::from(strict_text(Kind::Requests, &input).is_ok_and(|text| text.is_some()));
            accepted += usize::from(strict_text(Kind::Responses, &input).is_ok_and(|text| text.is_some()));
        }
        assert!(accepted > ROUNDS / 20, "only {accepted}");
    }

    /// A head that comes in small pieces: httparse runs once for each line that has ended, and twice more.
    #[test]
    fn s10_small_pieces_cost_a_run_for_each_line() {
        let limits = HeadLimits { head_bytes: 64 << 10, field_lines: MAX_FIELD_LINES, request_line: 8 << 10 };
        let longest = [b"a: ", &[b'b'; 150][..], b"\r\n"].concat().repeat(MAX_FIELD_LINES);
        let input = [&b"\r\nGET / HTTP/1.1\r\n"[..], &longest, b"\r\n"].concat();
        let lines = MAX_FIELD_LINES + 3;
        for piece in [1, 7, 155, 160, 4096, input.len()] {
            RUNS.set(0);
            let (mut reader, mut head) = (HeadParser::default(), RequestHead::default());
            let ends = (1..=input.len()).filter(|end| end % piece == 0 || *end == input.len());
            let pieces = ends.clone().count();
            let mut read = Ok(None);
            for end in ends {
                assert_eq!(read, Ok(None));
                read = reader.read(&input[..end], &limits, &mut head);
            }
            assert_eq!(read, Ok(Some(input.len())), "in pieces of {piece}");
            assert!(RUNS.get() <= lines.min(pieces) + 2, "{} runs for {pieces} pieces of {piece}", RUNS.get());
        }
    }

    /// The two ways into `Fields`, taking over what was received and adding line by line, come to the same.
    #[test]
    fn fields_are_read_like_trailers() {
        const PIECES: [&[u8]; 12] = [
            b"a: b\r\n",
            b"A:b\r\n",
            b"c:  d\r\n",
            b"e: f \r\n",
            b"g:\r\n",
            b"h: \r\n",
            b"i:\t\r\n",
            b"Host: a.example\r\n",
            b"content_length: 1\r\n",
            b"Content-Length: 12\r\n",
            b"j:\tk: l\r\n",
            b"m: \xff\r\n",
        ];
        for round in (0..12_usize.pow(3)).step_by(if cfg!(miri) { 131 } else { 1 }) {
            let lines = [PIECES[round % 12], PIECES[round / 12 % 12], PIECES[round / 144]].concat();
            let section = [&lines[..], b"\r\n"].concat();
            let (mut head, mut fields) = (RequestHead::default(), Fields::new());
            let whole = [b"GET / HTTP/1.1\r\n", &section[..]].concat();
            assert_eq!(parse_head(&whole, &LIMITS, &mut head), Ok(Some(whole.len())));
            assert_eq!(parse_head(&section, &LIMITS, &mut fields), Ok(Some(section.len())));
            assert_eq!(fields_text(&head.fields), fields_text(&fields));
            let (mut one, mut other) = (Vec::new(), Vec::new());
            head.fields.write(&mut one);
            fields.write(&mut other);
            assert_eq!(one.escape_ascii().to_string(), other.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_used_head_stops_allocating() {
        let input = b"GET /a/b/c?d HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n";
        let mut head = RequestHead::default();
        assert_eq!(parse_head(input, &LIMITS, &mut head), Ok(Some(input.len())));
        let before = (head.target.as_ptr(), head.fields.nth(0).map(|line| line.name.as_ptr()));
        assert_eq!(parse_head(input, &LIMITS, &mut head), Ok(Some(input.len())));
        assert_eq!((head.target.as_ptr(), head.fields.nth(0).map(|line| line.name.as_ptr())), before);
    }

    #[test]
    fn s13_what_is_written_is_made_of_parts() {
        let mut head = RequestHead::default();
        let input = b"\r\nPOST /a HTTP/1.0\r\nhost:old\r\nA:\t1\t\r\nB:  2\r\n\r\n";
        assert_eq!(parse_head(input, &LIMITS, &mut head), Ok(Some(input.len())));
        head.authority.extend_from_slice(b"new:81");
        let mut out = b"before|".to_vec();
        write_request(&head, HeaderSet::default(), &mut out);
        assert_eq!(out, b"before|POST /a HTTP/1.1\r\nHost: new:81\r\nA: 1\r\nB: 2\r\n");

        let mut head = ResponseHead::default();
        let input = b"HTTP/1.0 404 Not  here\r\nA:\t1\t\r\n\r\n";
        assert_eq!(parse_head(input, &LIMITS, &mut head), Ok(Some(input.len())));
        out.clear();
        write_response(&head, HeaderSet::default(), &mut out);
        assert_eq!(out, b"HTTP/1.1 404 Not  here\r\nA: 1\r\n");
    }

    #[test]
    fn trailers_are_read_like_fields() {
        assert_accepts(
            trailers,
            &[("none", b"\r\n", ""), ("two", b"A: 1\r\nb:2\r\n\r\n", "|A=1|b=2"), ("odd", b"GET: \r\n\r\n", "|GET=")],
        );
        assert_refuses(
            trailers,
            &[("LF", b"\n", HttpError::BareLf), ("LF after a line", b"a: b\r\n\n", HttpError::BareLf)],
        );
    }
}
