//! Message heads: bytes to values and values to bytes.
//!
//! A head that has not arrived whole is `Ok(None)`; a limit turns an endless one into an error.
//!
//! There are two lanes. A head that arrives whole and looks as we would write it takes the quick one (`quick`), which
//! looks at each byte once. Everything else takes the slow one, which judges line by line, names what is wrong and
//! remembers how far it came. The slow lane defines what is accepted: the quick one accepts nothing that it would refuse.
//!
//! Invariants:
//! 1. The answer does not depend on how the bytes were split: a line is judged when its LF is there, never before.
//! 2. It does not depend on bytes after the head.
//! 3. [`HeadReader`] looks at each byte a fixed number of times, however small the pieces are.
//!
//! What this file does not decide: where the body ends (`framing`), where the request goes (`proxy::route`).

use super::chars;
use super::fields::{Classes, Fields, Known, is_framing_look_alike};
use super::lines::{RequestLine, StatusLine, split_field_line, split_request_line, split_status_line, strip_line_end};
use super::quick;

pub use super::lines::HeadError;
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
pub const MAX_FIELD_LINES: usize = 1024;

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

impl RequestHead {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.target.clear();
        self.authority.clear();
        self.version = Version::Http11;
        self.fields.clear();
    }
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Three digits, 100 to 599 or above as received.
    pub status: u16,
    /// The reason phrase as received; empty where there was none.
    pub reason: Vec<u8>,
    /// The version that the origin speaks.
    pub version: Version,
    /// The field lines in order.
    pub fields: Fields,
}

impl ResponseHead {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.status = 0;
        self.reason.clear();
        self.version = Version::Http11;
        self.fields.clear();
    }
}

/// Reads a request head at the start of `input` into `head`.
///
/// Returns its length in bytes, `None` when more bytes are needed. One empty line before the request line is skipped
/// (RFC 9112 section 2.2) and counts into the length. `head` is empty unless a length is returned.
///
/// Where a head may come in many pieces, a [`HeadReader`] does the same without starting over.
///
/// ```
/// use mini_rproxy::http::head::{HeadLimits, Method, RequestHead, parse_request};
///
/// let limits = HeadLimits { head_bytes: 16 << 10, field_lines: 256, request_line: 8 << 10 };
/// let mut head = RequestHead::default();
/// assert_eq!(parse_request(b"GET /a HTTP/1.1\r\nHost: exam", &limits, &mut head), Ok(None));
///
/// let input = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\nnext";
/// assert_eq!(parse_request(input, &limits, &mut head), Ok(Some(input.len() - 4)));
/// assert_eq!((&head.method, &head.target[..]), (&Method::Get, &b"/a"[..]));
/// assert_eq!(head.fields.values_of(b"host").next(), Some(&b"example.com"[..]));
///
/// let refused = parse_request(b"GET /a HTTP/1.1\nHost: example.com\n\n", &limits, &mut head).unwrap_err();
/// assert_eq!((refused.rule(), refused.status()), ("S8", 400));
/// ```
pub fn parse_request(input: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<Option<usize>, HeadError> {
    HeadReader::new().request(input, limits, head)
}

/// Reads a response head at the start of `input` into `head`; returns like [`parse_request`].
pub fn parse_response(input: &[u8], limits: &HeadLimits, head: &mut ResponseHead) -> Result<Option<usize>, HeadError> {
    HeadReader::new().response(input, limits, head)
}

/// Reads a whole trailer section (field lines and the empty line that ends it) into `fields`.
pub fn parse_trailers(input: &[u8], limits: &HeadLimits, fields: &mut Fields) -> Result<Option<usize>, HeadError> {
    fields.clear();
    let Some(len) = HeadReader::at(Place::Fields).judge(input, limits)? else { return Ok(None) };
    fill_fields(&input[..len], fields)?;
    Ok(Some(len))
}

/// Remembers how far into a head the lines were judged, so that one which arrives in small pieces costs no more than one
/// that arrives whole.
///
/// Each call is given all bytes received so far. A reader reads one head after the other, all of the same kind; after an
/// error it keeps giving that error.
#[derive(Clone, Copy, Debug)]
pub struct HeadReader {
    /// Where the first line begins that is not judged yet.
    judged: usize,
    /// There is no LF between `judged` and here.
    scanned: usize,
    /// How many field lines were judged.
    lines: usize,
    place: Place,
}

/// What the next line is.
#[derive(Clone, Copy, Debug)]
enum Place {
    RequestLine,
    /// One empty line was skipped; another one is too many.
    RequestLineAfterEmpty,
    StatusLine,
    Fields,
}

const CRLF: &[u8] = b"\r\n";

impl Default for HeadReader {
    fn default() -> Self {
        HeadReader::new()
    }
}

impl HeadReader {
    /// A reader at the start of a head.
    pub const fn new() -> Self {
        HeadReader::at(Place::RequestLine)
    }

    const fn at(place: Place) -> Self {
        HeadReader { judged: 0, scanned: 0, lines: 0, place }
    }

    /// Like [`parse_request`], where `input` begins with all that earlier calls were given.
    pub fn request(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Option<usize>, HeadError> {
        self.read(input, limits, head)
    }

    /// Like [`parse_response`], where `input` begins with all that earlier calls were given.
    pub fn response(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        head: &mut ResponseHead,
    ) -> Result<Option<usize>, HeadError> {
        self.read(input, limits, head)
    }

    /// Both lanes, for either kind of head.
    fn read<H: Head>(&mut self, input: &[u8], limits: &HeadLimits, head: &mut H) -> Result<Option<usize>, HeadError> {
        head.clear();
        if self.scanned == 0 {
            // Most heads arrive whole, and then this is all there is to do.
            if let Some(len) = take_quickly(window(input, limits), limits, head) {
                return Ok(Some(len));
            }
            *self = HeadReader::at(H::START);
        }
        let Some(len) = self.judge(input, limits)? else { return Ok(None) };
        *self = HeadReader::new();
        let whole = &input[..len];
        let whole = whole.strip_prefix(CRLF).unwrap_or(whole);
        let line_end = whole.iter().position(|&byte| byte == b'\n').map_or(whole.len(), |at| at + 1);
        let (line, section) = whole.split_at(line_end);
        head.set_start(H::split_start(strip_line_end(line)?)?);
        fill_fields(section, head.fields())?;
        Ok(Some(len))
    }

    /// The slow lane: judges the lines that have arrived since the last call; the length of the head when it is whole.
    fn judge(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        let window = window(input, limits);
        while let Some(found) = window[self.scanned..].iter().position(|&byte| byte == b'\n') {
            let line_end = self.scanned + found + 1;
            let line = &window[self.judged..line_end];
            match self.place {
                Place::RequestLine | Place::RequestLineAfterEmpty if is_too_long(line, limits) => {
                    return Err(HeadError::RequestLineTooLong);
                }
                Place::Fields if line == CRLF => return Ok(Some(line_end)),
                Place::RequestLine if line == CRLF => self.place = Place::RequestLineAfterEmpty,
                Place::RequestLineAfterEmpty | Place::StatusLine if line == CRLF => {
                    return Err(HeadError::EmptyStartLine);
                }
                Place::RequestLine | Place::RequestLineAfterEmpty => {
                    split_request_line(strip_line_end(line)?)?;
                    self.place = Place::Fields;
                }
                Place::StatusLine => {
                    split_status_line(strip_line_end(line)?)?;
                    self.place = Place::Fields;
                }
                Place::Fields => {
                    self.judge_field_line(line, limits)?;
                    self.lines += 1;
                }
            }
            // Only now: a line that was refused is refused again when asked again.
            (self.judged, self.scanned) = (line_end, line_end);
        }
        let rest = &window[self.judged..];
        match self.place {
            Place::RequestLine | Place::RequestLineAfterEmpty
                if rest.len() >= limits.request_line.saturating_add(CRLF.len()) =>
            {
                return Err(HeadError::RequestLineTooLong);
            }
            Place::RequestLine | Place::RequestLineAfterEmpty | Place::StatusLine | Place::Fields => {}
        }
        if input.len() > window.len() {
            return Err(HeadError::HeadTooLarge);
        }
        self.scanned = window.len();
        Ok(None)
    }

    fn judge_field_line(&self, line: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        let content = strip_line_end(line)?;
        if self.lines >= max_lines(limits) {
            return Err(HeadError::TooManyLines);
        }
        match split_field_line(content) {
            Ok(_) => Ok(()),
            // There is no line yet that it could go on from.
            Err(HeadError::ObsFold) if self.lines == 0 => Err(HeadError::LeadingSpace),
            Err(error) => Err(error),
        }
    }
}

/// The part of `input` that a head may take up. No byte beyond it is ever looked at, so that the size limit is reached
/// at the same place however the bytes arrive.
fn window<'a>(input: &'a [u8], limits: &HeadLimits) -> &'a [u8] {
    &input[..input.len().min(limits.head_bytes)]
}

fn max_lines(limits: &HeadLimits) -> usize {
    limits.field_lines.min(MAX_FIELD_LINES)
}

/// Whether a request line, which ends with LF or CRLF, is above its limit.
fn is_too_long(line: &[u8], limits: &HeadLimits) -> bool {
    let content = line.strip_suffix(b"\n").unwrap_or(line);
    content.strip_suffix(b"\r").unwrap_or(content).len() > limits.request_line
}

/// The quick lane: fills `head`, which is empty, and returns the head's length where it is one for that lane. Otherwise
/// `head` is empty still.
fn take_quickly<H: Head>(window: &[u8], limits: &HeadLimits, head: &mut H) -> Option<usize> {
    let (start, line_len) = H::quick_start(window, limits)?;
    let len = quick::field_section(&window[line_len..], max_lines(limits), head.fields())?;
    head.set_start(start);
    Some(line_len + len)
}

/// Adds the lines of a whole section, which ends with an empty one, without those that rule S9 drops.
fn fill_fields(section: &[u8], fields: &mut Fields) -> Result<(), HeadError> {
    let lines = section.strip_suffix(CRLF).unwrap_or(section);
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        let (name, value) = split_field_line(strip_line_end(line)?)?;
        if !is_framing_look_alike(name) {
            fields.add(name, value);
        }
    }
    Ok(())
}

/// What requests and responses differ in: the first line.
trait Head {
    const START: Place;
    type Start<'a>;
    fn clear(&mut self);
    fn fields(&mut self) -> &mut Fields;
    fn set_start(&mut self, start: Self::Start<'_>);
    /// In the quick lane, with the line's length; `None` also where it is too long.
    fn quick_start<'a>(window: &'a [u8], limits: &HeadLimits) -> Option<(Self::Start<'a>, usize)>;
    /// In the slow lane, without CRLF.
    fn split_start(line: &[u8]) -> Result<Self::Start<'_>, HeadError>;
}

impl Head for RequestHead {
    const START: Place = Place::RequestLine;
    type Start<'a> = RequestLine<'a>;

    fn clear(&mut self) {
        RequestHead::clear(self);
    }

    fn fields(&mut self) -> &mut Fields {
        &mut self.fields
    }

    fn set_start(&mut self, start: RequestLine<'_>) {
        self.method = Method::of(start.method);
        self.target.extend_from_slice(start.target);
        self.version = start.version;
    }

    fn quick_start<'a>(window: &'a [u8], limits: &HeadLimits) -> Option<(RequestLine<'a>, usize)> {
        quick::request_line(window).filter(|(_, len)| len - CRLF.len() <= limits.request_line)
    }

    fn split_start(line: &[u8]) -> Result<RequestLine<'_>, HeadError> {
        split_request_line(line)
    }
}

impl Head for ResponseHead {
    const START: Place = Place::StatusLine;
    type Start<'a> = StatusLine<'a>;

    fn clear(&mut self) {
        ResponseHead::clear(self);
    }

    fn fields(&mut self) -> &mut Fields {
        &mut self.fields
    }

    fn set_start(&mut self, start: StatusLine<'_>) {
        self.status = start.status;
        self.reason.extend_from_slice(start.reason);
        self.version = start.version;
    }

    fn quick_start<'a>(window: &'a [u8], _: &HeadLimits) -> Option<(StatusLine<'a>, usize)> {
        quick::status_line(window)
    }

    fn split_start(line: &[u8]) -> Result<StatusLine<'_>, HeadError> {
        split_status_line(line)
    }
}

/// Appends request line, Host line and field lines but for those of some classes; the caller adds framing fields and the
/// empty line.
///
/// The version is ours, whatever the client speaks (RFC 9110 section 2.5); Host comes first (RFC 9110 section 7.2) and
/// once: what stands among the fields is left out.
pub fn write_request(head: &RequestHead, without: Classes, out: &mut Vec<u8>) {
    let method = head.method.as_bytes();
    out.reserve(method.len() + head.target.len() + head.authority.len() + 32);
    out.extend_from_slice(method);
    out.extend_from_slice(b" ");
    out.extend_from_slice(&head.target);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(&head.authority);
    out.extend_from_slice(CRLF);
    head.fields.write_without(without.with(Known::Host), out);
}

/// Appends status line and field lines but for those of some classes; the caller adds framing fields and the empty
/// line. We always say HTTP/1.1 (RFC 9110 section 2.5: a version is the sender's own).
pub fn write_response(head: &ResponseHead, without: Classes, out: &mut Vec<u8>) {
    out.reserve(head.reason.len() + 24);
    out.extend_from_slice(b"HTTP/1.1 ");
    chars::write_decimal(u64::from(head.status), out);
    out.extend_from_slice(b" ");
    out.extend_from_slice(&head.reason);
    out.extend_from_slice(CRLF);
    head.fields.write_without(without, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::CUT_EVERY;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 200, field_lines: 5, request_line: 60 };

    type Parsed = Result<Option<(usize, String)>, HeadError>;

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
        let line = |line: crate::http::fields::Line<'_>| {
            format!("|{}={}", line.name.escape_ascii(), line.value.escape_ascii())
        };
        fields.iter().map(line).collect()
    }

    fn request(reader: &mut HeadReader, input: &[u8]) -> Parsed {
        let mut head = RequestHead { target: b"left over".to_vec(), ..RequestHead::default() };
        head.fields.add(b"Left", b"over");
        let parsed = reader.request(input, &LIMITS, &mut head);
        if !matches!(parsed, Ok(Some(_))) {
            assert_eq!(request_text(&head), request_text(&RequestHead::default()), "empty unless whole");
        }
        Ok(parsed?.map(|len| (len, request_text(&head))))
    }

    fn response(reader: &mut HeadReader, input: &[u8]) -> Parsed {
        let mut head = ResponseHead { reason: b"left over".to_vec(), status: 1, ..ResponseHead::default() };
        head.fields.add(b"Left", b"over");
        let parsed = reader.response(input, &LIMITS, &mut head);
        if !matches!(parsed, Ok(Some(_))) {
            assert_eq!(response_text(&head), response_text(&ResponseHead::default()), "empty unless whole");
        }
        Ok(parsed?.map(|len| (len, response_text(&head))))
    }

    fn trailers(_: &mut HeadReader, input: &[u8]) -> Parsed {
        let mut fields = Fields::new();
        fields.add(b"Left", b"over");
        Ok(parse_trailers(input, &LIMITS, &mut fields)?.map(|len| (len, fields_text(&fields))))
    }

    /// Invariants 1 and 2: the same answer whole, byte by byte, as any prefix, and whatever follows.
    fn answer(name: &str, input: &[u8], parse: fn(&mut HeadReader, &[u8]) -> Parsed) -> Parsed {
        let whole = parse(&mut HeadReader::new(), input);
        for junk in [&b"\n"[..], b"\r\n\r\n", b"\0 \xff: GET / HTTP/1.1\r\n", &[b'x'; 300]] {
            if whole != Ok(None) {
                let followed = parse(&mut HeadReader::new(), &[input, junk].concat());
                assert_eq!(followed, whole, "{name}: followed by {:?}", junk.escape_ascii().to_string());
            }
        }
        let mut reader = HeadReader::new();
        let mut decided = false;
        for len in (0..=input.len()).step_by(CUT_EVERY) {
            let fresh = parse(&mut HeadReader::new(), &input[..len]);
            if !decided {
                assert_eq!(parse(&mut reader, &input[..len]), fresh, "{name}: {len} bytes, one at a time");
            }
            decided |= fresh != Ok(None);
            assert_eq!(fresh, if decided { whole.clone() } else { Ok(None) }, "{name}: {len} bytes at once");
        }
        for first in (0..=input.len()).step_by(CUT_EVERY) {
            let mut reader = HeadReader::new();
            let found = match parse(&mut reader, &input[..first]) {
                Ok(None) => parse(&mut reader, input),
                decided => decided,
            };
            assert_eq!(found, whole, "{name}: {first} bytes and the rest");
        }
        whole
    }

    fn assert_accepts(parse: fn(&mut HeadReader, &[u8]) -> Parsed, rows: &[(&str, &[u8], &str)]) {
        for &(name, input, expected) in rows {
            assert_eq!(answer(name, input, parse), Ok(Some((input.len(), expected.to_owned()))), "{name}");
        }
    }

    fn assert_refuses(parse: fn(&mut HeadReader, &[u8]) -> Parsed, rows: &[(&str, &[u8], HeadError)]) {
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
                ("LF ends the request line", b"GET / HTTP/1.1\na: b\r\n\r\n", HeadError::BareLf),
                ("LF ends the request line of a bare head", b"GET / HTTP/1.1\n\r\n", HeadError::BareLf),
                ("LF ends a field line", b"GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n", HeadError::BareLf),
                ("LF ends the last field line", b"GET / HTTP/1.1\r\na: b\n\r\n", HeadError::BareLf),
                ("LF ends a line without a value", b"GET / HTTP/1.1\r\na:\nb: c\r\n\r\n", HeadError::BareLf),
                ("LF is the last line", b"GET / HTTP/1.1\r\na: b\r\n\n", HeadError::BareLf),
                ("LF in front", b"\nGET / HTTP/1.1\r\n\r\n", HeadError::BareLf),
                ("LF after the empty line", b"\r\n\nGET / HTTP/1.1\r\n\r\n", HeadError::BareLf),
                ("CR in front", b"\rGET / HTTP/1.1\r\n\r\n", HeadError::BareCr),
                ("CR in a value", b"GET / HTTP/1.1\r\na: b\rc\r\n\r\n", HeadError::BareCr),
                ("CR CR LF", b"GET / HTTP/1.1\r\na: b\r\r\n\r\n", HeadError::BareCr),
                ("CR CR LF at the end", b"GET / HTTP/1.1\r\na: b\r\n\r\r\n", HeadError::BareCr),
            ],
        );
        assert_refuses(
            response,
            &[
                ("LF ends the status line", b"HTTP/1.1 200 OK\na: b\r\n\r\n", HeadError::BareLf),
                ("LF ends a status line without reason", b"HTTP/1.1 200\n\r\n", HeadError::BareLf),
                ("LF ends a field line", b"HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n", HeadError::BareLf),
                ("CR in the reason", b"HTTP/1.1 200 O\rK\r\n\r\n", HeadError::BareCr),
            ],
        );
    }

    #[test]
    fn s8_field_lines_are_strict() {
        for (parse, start) in [
            (request as fn(&mut HeadReader, &[u8]) -> Parsed, &b"GET / HTTP/1.1\r\n"[..]),
            (response, b"HTTP/1.1 200 OK\r\n"),
            (trailers, b""),
        ] {
            for (name, line, expected) in [
                ("NUL", &b"a: b\0c"[..], HeadError::BadValue),
                ("DEL", b"a: \x7f", HeadError::BadValue),
                ("a vertical tab", b"Transfer-Encoding: \x0bchunked", HeadError::BadValue),
                ("a space in front", b" a: b", HeadError::LeadingSpace),
                ("a tab in front", b"\ta: b", HeadError::LeadingSpace),
                ("a folded line", b"a: b\r\n c", HeadError::ObsFold),
                ("a folded empty line", b"a: b\r\n \r\nc: d", HeadError::ObsFold),
                ("a folded line after an empty value", b"a:\r\n\tc", HeadError::ObsFold),
                ("a space before the colon", b"a : b", HeadError::SpaceBeforeColon),
                ("no name", b": b", HeadError::EmptyName),
                ("no colon", b"ab", HeadError::MissingColon),
                ("a name that is no token", b"a(b): c", HeadError::BadName),
                ("obs-text in a name", b"\xc3\xa9: c", HeadError::BadName),
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
            ("request", request as fn(&mut HeadReader, &[u8]) -> Parsed, "GET / HTTP/1.1\r\n", "Http11 GET /"),
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
            ("one byte more", [line(61), b"\r\n\r\n".to_vec()].concat(), Some(HeadError::RequestLineTooLong)),
            ("one byte more, LF", [line(61), b"\n\n".to_vec()].concat(), Some(HeadError::RequestLineTooLong)),
            ("the longest, LF", [line(60), b"\n\r\n".to_vec()].concat(), Some(HeadError::BareLf)),
            ("the longest after an empty line", [&b"\r\n"[..], &line(60), b"\r\n\r\n"].concat(), None),
            ("no end", vec![b'A'; 150], Some(HeadError::RequestLineTooLong)),
            ("no end but CR", vec![b'\r'; 150], Some(HeadError::RequestLineTooLong)),
            ("the largest head", head(200), None),
            ("one byte more", head(201), Some(HeadError::HeadTooLarge)),
            ("much more", head(1000), Some(HeadError::HeadTooLarge)),
            ("the most lines", fields(5), None),
            ("one line more", fields(6), Some(HeadError::TooManyLines)),
            ("many lines more", fields(30), Some(HeadError::TooManyLines)),
        ] {
            let found = answer(name, &input, request);
            match expected {
                None => assert_eq!(found.map(|parsed| parsed.map(|(len, _)| len)), Ok(Some(input.len())), "{name}"),
                Some(error) => assert_eq!(found, Err(error), "{name}"),
            }
        }
        let endless = [&b"HTTP/1.1 200 "[..], &[b'x'; 300]].concat();
        assert_eq!(answer("a response without end", &endless, response), Err(HeadError::HeadTooLarge));
        assert_eq!(answer("trailers without end", &[b'x'; 300], trailers), Err(HeadError::HeadTooLarge));
        for (error, status) in
            [(HeadError::RequestLineTooLong, 414), (HeadError::HeadTooLarge, 431), (HeadError::TooManyLines, 431)]
        {
            assert_eq!(error.status(), status);
        }
    }

    #[test]
    fn s10_more_lines_than_the_table_holds_are_refused() {
        let limits = HeadLimits { head_bytes: usize::MAX, field_lines: usize::MAX, request_line: usize::MAX };
        for (count, expected) in [(MAX_FIELD_LINES, None), (MAX_FIELD_LINES + 1, Some(HeadError::TooManyLines))] {
            let input = [&b"GET / HTTP/1.1\r\n"[..], &b"a:\r\n".repeat(count), b"\r\n"].concat();
            assert_eq!(parse_request(&input, &limits, &mut RequestHead::default()).err(), expected, "{count}");
        }
    }

    #[test]
    fn s12_request_lines_are_strict() {
        assert_refuses(
            request,
            &[
                ("two empty lines in front", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", HeadError::EmptyStartLine),
                ("two spaces", b"GET  / HTTP/1.1\r\n\r\n", HeadError::BadSpacing),
                ("a space at the end", b"GET / HTTP/1.1 \r\n\r\n", HeadError::BadSpacing),
                ("a tab", b"GET\t/\tHTTP/1.1\r\n\r\n", HeadError::Control),
                ("no token", b"GE\xc3T / HTTP/1.1\r\n\r\n", HeadError::BadMethod),
                ("UTF-8", b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", HeadError::NonAsciiTarget),
                ("Latin-1", b"GET /\xe9 HTTP/1.1\r\n\r\n", HeadError::NonAsciiTarget),
                ("NUL", b"GET /\0 HTTP/1.1\r\n\r\n", HeadError::Control),
            ],
        );
    }

    #[test]
    fn s18_status_lines_are_strict() {
        assert_refuses(
            response,
            &[
                ("an empty line in front", b"\r\nHTTP/1.1 200 OK\r\n\r\n", HeadError::EmptyStartLine),
                ("two digits", b"HTTP/1.1 20 OK\r\n\r\n", HeadError::BadStatus),
                ("below 100", b"HTTP/1.1 012 OK\r\n\r\n", HeadError::BadStatus),
                ("four digits", b"HTTP/1.1 2000\r\n\r\n", HeadError::BadStatus),
                ("two spaces", b"HTTP/1.1  200 OK\r\n\r\n", HeadError::BadStatus),
                ("NUL", b"HTTP/1.1 200 O\0K\r\n\r\n", HeadError::Control),
                ("another version", b"HTTP/1.2 200 OK\r\n\r\n", HeadError::UnsupportedVersion),
                ("another protocol", b"SSH-2.0-x\r\n", HeadError::BadVersion),
            ],
        );
    }

    #[test]
    fn s21_other_versions_are_refused() {
        assert_accepts(request, &[("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", "Http10 GET /")]);
        assert_refuses(
            request,
            &[
                ("HTTP/0.9", b"GET /\r\n", HeadError::MissingVersion),
                ("HTTP/1.2", b"GET / HTTP/1.2\r\n\r\n", HeadError::UnsupportedVersion),
                ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HeadError::UnsupportedVersion),
                ("HTTP/1.01", b"GET / HTTP/1.01\r\n\r\n", HeadError::BadVersion),
                ("lower case", b"GET / http/1.1\r\n\r\n", HeadError::BadVersion),
                ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", HeadError::BareLf),
            ],
        );
    }

    #[test]
    fn a_reader_reads_one_head_after_the_other() {
        let mut reader = HeadReader::new();
        for cut in [3, 20, 23] {
            let input = b"GET / HTTP/1.1\r\na: b\r\n\r\n";
            assert_eq!(request(&mut reader, &input[..cut]), Ok(None));
            assert_eq!(request(&mut reader, input), Ok(Some((input.len(), "Http11 GET /|a=b".to_owned()))));
        }
        let bad = b"GET / HTTP/1.1\n";
        assert_eq!(request(&mut reader, &bad[..9]), Ok(None));
        assert_eq!(request(&mut reader, bad), Err(HeadError::BareLf));
        assert_eq!(request(&mut reader, bad), Err(HeadError::BareLf), "an error stays");
    }

    /// Both lanes must mean the same: heads made of odd pieces are read alike whole and in two parts.
    #[test]
    fn the_fast_lane_accepts_nothing_that_the_slow_one_refuses() {
        const ROUNDS: usize = if cfg!(miri) { 20 } else { 4_000 };
        const PIECES: [&[u8]; 24] = [
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
            b"\n",
            b"\r",
            b"a: b\r\n",
            b"c:",
            b":",
            b"\t",
            b"d",
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
                input.extend_from_slice(PIECES[(seed % 24) as usize]);
            }
            let name = input.escape_ascii().to_string();
            accepted += usize::from(matches!(answer(&name, &input, request), Ok(Some(_))));
            accepted += usize::from(matches!(answer(&name, &input, response), Ok(Some(_))));
        }
        assert!(accepted > ROUNDS / 20, "only {accepted}");
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
            assert_eq!(parse_request(&whole, &LIMITS, &mut head), Ok(Some(whole.len())));
            assert_eq!(parse_trailers(&section, &LIMITS, &mut fields), Ok(Some(section.len())));
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
        assert_eq!(parse_request(input, &LIMITS, &mut head), Ok(Some(input.len())));
        let before = (head.target.as_ptr(), head.fields.get(0).map(|line| line.name.as_ptr()));
        assert_eq!(parse_request(input, &LIMITS, &mut head), Ok(Some(input.len())));
        assert_eq!((head.target.as_ptr(), head.fields.get(0).map(|line| line.name.as_ptr())), before);
    }

    #[test]
    fn s13_what_is_written_is_made_of_parts() {
        let mut head = RequestHead::default();
        let input = b"\r\nPOST /a HTTP/1.0\r\nhost:old\r\nA:\t1\t\r\nB:  2\r\n\r\n";
        assert_eq!(parse_request(input, &LIMITS, &mut head), Ok(Some(input.len())));
        head.authority.extend_from_slice(b"new:81");
        let mut out = b"before|".to_vec();
        write_request(&head, Classes::default(), &mut out);
        assert_eq!(out, b"before|POST /a HTTP/1.1\r\nHost: new:81\r\nA: 1\r\nB: 2\r\n");

        let mut head = ResponseHead::default();
        let input = b"HTTP/1.0 404 Not  here\r\nA:\t1\t\r\n\r\n";
        assert_eq!(parse_response(input, &LIMITS, &mut head), Ok(Some(input.len())));
        out.clear();
        write_response(&head, Classes::default(), &mut out);
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
            &[("LF", b"\n", HeadError::BareLf), ("LF after a line", b"a: b\r\n\n", HeadError::BareLf)],
        );
    }
}
