//! What httparse accepts and refuses, and what is done here: a row for each of its leniencies, and for each refusal that the
//! code behind it relies on. Where a later version changes its mind, a row fails.

use httparse::{EMPTY_HEADER, Error, Header, Status};

use super::error::HttpError;
use super::fields::Fields;
use super::head::{HeadLimits, MAX_FIELD_LINES, RequestHead, ResponseHead, parse_head};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 64 << 10, field_lines: MAX_FIELD_LINES, request_line: 8 << 10 };
const WHOLE: Result<(), Error> = Ok(());

fn raw<T>(result: Result<Status<T>, Error>) -> Result<(), Error> {
    result.map(|status| assert!(matches!(status, Status::Complete(_)), "a whole head"))
}

fn raw_request(input: &[u8]) -> Result<(), Error> {
    raw(httparse::Request::new(&mut [EMPTY_HEADER; 4]).parse(input))
}

fn raw_response(input: &[u8]) -> Result<(), Error> {
    raw(httparse::Response::new(&mut [EMPTY_HEADER; 4]).parse(input))
}

fn request(input: &[u8]) -> Result<(), HttpError> {
    parse_head(input, &LIMITS, &mut RequestHead::default()).map(|len| assert_eq!(len, Some(input.len())))
}

fn response(input: &[u8]) -> Result<(), HttpError> {
    parse_head(input, &LIMITS, &mut ResponseHead::default()).map(|len| assert_eq!(len, Some(input.len())))
}

/// A head, what httparse says of it, and what is said here.
type Row<'a> = (&'a [u8], Result<(), Error>, Result<(), HttpError>);

fn assert_requests(rows: &[Row<'_>]) {
    for (input, theirs, ours) in rows {
        assert_eq!(raw_request(input), *theirs, "httparse: {}", input.escape_ascii());
        assert_eq!(request(input), *ours, "here: {}", input.escape_ascii());
    }
}

#[test]
fn s8_bare_lf_is_accepted_there_and_refused_here() {
    assert_requests(&[
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", WHOLE, Err(HttpError::BareLf)),
        (b"GET / HTTP/1.1\n\r\n", WHOLE, Err(HttpError::BareLf)),
        (b"GET / HTTP/1.1\r\nHost: a\nb: c\r\n\r\n", WHOLE, Err(HttpError::BareLf)),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", WHOLE, Err(HttpError::BareLf)),
        (b"GET / HTTP/1.1\r\nHost:\nb: c\r\n\r\n", WHOLE, Err(HttpError::BareLf)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", WHOLE, Err(HttpError::BareLf)),
        (b"GET / HTTP/1.1\r\n\n", WHOLE, Err(HttpError::BareLf)),
        (b"\nGET / HTTP/1.1\r\n\r\n", WHOLE, Err(HttpError::BareLf)),
        (b"\r\n\nGET / HTTP/1.1\r\n\r\n", WHOLE, Err(HttpError::BareLf)),
    ]);
    for input in [&b"HTTP/1.1 200 OK\n\r\n"[..], b"HTTP/1.1 200\n\r\n", b"HTTP/1.1 200 OK\r\na: b\n\r\n"] {
        assert_eq!((raw_response(input), response(input)), (WHOLE, Err(HttpError::BareLf)), "{}", input.escape_ascii());
    }
    for input in [&b"a: b\n\r\n"[..], b"a: b\r\n\n", b"\n"] {
        assert_eq!(raw(httparse::parse_headers(input, &mut [EMPTY_HEADER])), WHOLE, "{}", input.escape_ascii());
        let ours = parse_head(input, &LIMITS, &mut Fields::new());
        assert_eq!(ours, Err(HttpError::BareLf), "{}", input.escape_ascii());
    }
}

#[test]
fn s12_any_number_of_empty_lines_in_front_is_accepted_there_and_one_here() {
    assert_requests(&[
        (b"\r\nGET / HTTP/1.1\r\n\r\n", WHOLE, Ok(())),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", WHOLE, Err(HttpError::EmptyStartLine)),
        (b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", WHOLE, Err(HttpError::EmptyStartLine)),
    ]);
    let input = b"\r\nHTTP/1.1 200 OK\r\n\r\n";
    assert_eq!((raw_response(input), response(input)), (WHOLE, Err(HttpError::EmptyStartLine)));
}

/// The options of httparse are left as they are: what they would allow is refused there.
#[test]
fn s8_lines_that_are_no_field_lines_are_refused_there() {
    let line = |line: &[u8]| [b"GET / HTTP/1.1\r\n", line, b"\r\n\r\n"].concat();
    for (field, theirs, ours) in [
        (&b"a: b\rc"[..], Error::HeaderValue, HttpError::BareCr),
        (b"a: b\r", Error::HeaderValue, HttpError::BareCr),
        (b"a: b\r\n c", Error::HeaderName, HttpError::FoldedLine),
        (b"a: b\r\n\tc", Error::HeaderName, HttpError::FoldedLine),
        (b"a:\r\n b", Error::HeaderName, HttpError::FoldedLine),
        (b" a: b", Error::HeaderName, HttpError::FoldedLine),
        (b"a : b", Error::HeaderName, HttpError::BadName),
        (b"a\t: b", Error::HeaderName, HttpError::BadName),
        (b": b", Error::HeaderName, HttpError::BadName),
        (b"a", Error::HeaderName, HttpError::BadName),
        (b"a b: c", Error::HeaderName, HttpError::BadName),
        (b"X-,abcdef: b", Error::HeaderName, HttpError::BadName),
        (b"\xc3\xa9: b", Error::HeaderName, HttpError::BadName),
        (b"a: b\0", Error::HeaderValue, HttpError::BadValue),
        (b"a: \x0bb", Error::HeaderValue, HttpError::BadValue),
        (b"a: b\x7fc", Error::HeaderValue, HttpError::BadValue),
    ] {
        assert_requests(&[(&line(field), Err(theirs), Err(ours))]);
    }
    assert_requests(&[
        (b"GET / HTTP/1.1\r\n\ra: b\r\n\r\n", Err(Error::NewLine), Err(HttpError::BareCr)),
        (b"\rGET / HTTP/1.1\r\n\r\n", Err(Error::NewLine), Err(HttpError::BareCr)),
    ]);
}

/// Each byte in a name, at each place of a block of bytes that may be looked at together, and likewise in a value.
#[test]
fn s8_names_are_tokens_and_values_have_no_controls_there() {
    for byte in 0..=255_u8 {
        let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_value = byte == b'\t' || byte >= b' ' && byte != 0x7f;
        for before in 1..34 {
            let filler = vec![b'-'; before];
            let name = [b"GET / HTTP/1.1\r\nHost: a\r\n", &filler[..], &[byte], &filler, b": v\r\n\r\n"].concat();
            // The rest of the filler is a value then, or another method's line.
            if byte != b':' {
                assert_eq!(raw_request(&name).is_ok(), is_tchar, "{byte:#x} after {before}");
            }
            let value = [b"GET / HTTP/1.1\r\na: ", &filler[..], &[byte], &filler, b"\r\n\r\n"].concat();
            if byte != b'\n' {
                assert_eq!(raw_request(&value).is_ok(), is_value, "{byte:#x} after {before}");
            }
        }
    }
}

#[test]
fn s9_look_alikes_of_framing_fields_are_kept_there() {
    let input = b"Transfer_Encoding: chunked\r\ncontent_length: 1\r\na_b: c\r\n\r\n";
    let mut lines = [EMPTY_HEADER; 4];
    let (_, theirs) = httparse::parse_headers(input, &mut lines).map(Status::unwrap).expect("good lines");
    assert_eq!(theirs.len(), 3);
    let mut fields = Fields::new();
    assert_eq!(parse_head(input, &LIMITS, &mut fields), Ok(Some(input.len())));
    assert_eq!(fields.iter().map(|line| line.name).collect::<Vec<_>>(), [b"a_b"]);
}

#[test]
fn s12_targets_of_utf_8_are_accepted_there() {
    assert_requests(&[
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", WHOLE, Err(HttpError::NonAsciiTarget)),
        (b"GET /\xe9 HTTP/1.1\r\n\r\n", Err(Error::Token), Err(HttpError::NonAsciiTarget)),
        (b"GET /a#b HTTP/1.1\r\n\r\n", WHOLE, Ok(())),
    ]);
}

/// Each byte in a target, at each place of a block of bytes that may be looked at together: what follows relies on it.
#[test]
fn s12_targets_are_visible_ascii_there() {
    for byte in 0..=255_u8 {
        for before in 0..34 {
            let filler = vec![b'a'; before];
            let input = [b"GET /", &filler[..], &[byte], &filler, b" HTTP/1.1\r\n\r\n"].concat();
            let is_read = parse_head(&input, &LIMITS, &mut RequestHead::default()).is_ok();
            assert_eq!(is_read, byte.is_ascii_graphic(), "{byte:#x} after {before}");
        }
    }
}

#[test]
fn s12_spaces_of_the_request_line_are_single_there() {
    assert_requests(&[
        (b"GET  / HTTP/1.1\r\n\r\n", Err(Error::Token), Err(HttpError::BadSpacing)),
        (b"GET /  HTTP/1.1\r\n\r\n", Err(Error::Version), Err(HttpError::BadSpacing)),
        (b"GET / HTTP/1.1 \r\n\r\n", Err(Error::NewLine), Err(HttpError::BadSpacing)),
        (b" GET / HTTP/1.1\r\n\r\n", Err(Error::Token), Err(HttpError::BadSpacing)),
        (b"GET\t/ HTTP/1.1\r\n\r\n", Err(Error::Token), Err(HttpError::Control)),
        (b"G(T / HTTP/1.1\r\n\r\n", Err(Error::Token), Err(HttpError::BadMethod)),
    ]);
}

#[test]
fn s21_versions_are_told_apart_here() {
    assert_requests(&[
        (b"GET / HTTP/1.0\r\n\r\n", WHOLE, Ok(())),
        (b"GET / HTTP/1.2\r\n\r\n", Err(Error::Version), Err(HttpError::UnsupportedVersion)),
        (b"PRI * HTTP/2.0\r\n\r\n", Err(Error::Version), Err(HttpError::UnsupportedVersion)),
        (b"GET / http/1.1\r\n\r\n", Err(Error::Version), Err(HttpError::BadVersion)),
        (b"GET / HTTP/1.01\r\n\r\n", Err(Error::NewLine), Err(HttpError::BadVersion)),
        (b"GET /\r\n\r\n", Err(Error::Token), Err(HttpError::MissingVersion)),
    ]);
    let statuses = [400, 505].map(|status| HttpError::ALL.iter().filter(|error| error.status() == status).count());
    assert_eq!((HttpError::UnsupportedVersion.status(), statuses[1]), (505, 1));
}

#[test]
fn s18_any_three_digits_are_a_status_there() {
    for (input, theirs, ours) in [
        (&b"HTTP/1.1 000 ?\r\n\r\n"[..], WHOLE, Err(HttpError::BadStatus)),
        (b"HTTP/1.1 099 ?\r\n\r\n", WHOLE, Err(HttpError::BadStatus)),
        (b"HTTP/1.1 100 ?\r\n\r\n", WHOLE, Ok(())),
        (b"HTTP/1.1 999 ?\r\n\r\n", WHOLE, Ok(())),
        (b"HTTP/1.1 200\r\n\r\n", WHOLE, Ok(())),
        (b"HTTP/1.1 20 OK\r\n\r\n", Err(Error::Status), Err(HttpError::BadStatus)),
        (b"HTTP/1.1 2000\r\n\r\n", Err(Error::Status), Err(HttpError::BadStatus)),
        (b"HTTP/1.1 +20 OK\r\n\r\n", Err(Error::Status), Err(HttpError::BadStatus)),
        (b"HTTP/1.1  200 OK\r\n\r\n", Err(Error::Status), Err(HttpError::BadStatus)),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", Err(Error::Status), Err(HttpError::Control)),
        (b"HTTP/2.0 200 OK\r\n\r\n", Err(Error::Version), Err(HttpError::UnsupportedVersion)),
    ] {
        assert_eq!(raw_response(input), theirs, "httparse: {}", input.escape_ascii());
        assert_eq!(response(input), ours, "here: {}", input.escape_ascii());
    }
}

#[test]
fn s18_reasons_with_other_bytes_are_empty_there() {
    for (reason, theirs) in [(&b"Not Found"[..], "Not Found"), (b"", ""), (b"Pas trouv\xe9", ""), (b" \t\xff ", "")] {
        let input = [b"HTTP/1.1 404 ", reason, b"\r\n\r\n"].concat();
        let (mut lines, mut head) = ([EMPTY_HEADER; 1], ResponseHead::default());
        let mut raw = httparse::Response::new(&mut lines);
        assert!(raw.parse(&input).is_ok());
        assert_eq!(raw.reason, Some(theirs));
        assert_eq!(parse_head(&input, &LIMITS, &mut head), Ok(Some(input.len())));
        assert_eq!(head.reason, reason, "{}", reason.escape_ascii());
    }
}

#[test]
fn s10_the_slice_limits_the_lines_there_and_nothing_the_sizes() {
    let input = b"GET / HTTP/1.1\r\na: b\r\nc: d\r\n\r\n";
    assert_eq!(raw(httparse::Request::new(&mut [EMPTY_HEADER; 1]).parse(input)), Err(Error::TooManyHeaders));
    let limits = HeadLimits { field_lines: 1, ..LIMITS };
    assert_eq!(parse_head(input, &limits, &mut RequestHead::default()), Err(HttpError::TooManyLines));

    let long = |len: usize| [b"GET /", &vec![b'a'; len][..], b" HTTP/1.1\r\n\r\n"].concat();
    assert_requests(&[(&long(9_000), WHOLE, Err(HttpError::RequestLineTooLong))]);
    let limits = HeadLimits { request_line: 1 << 20, ..LIMITS };
    let input = long(66_000);
    assert_eq!(raw_request(&input), WHOLE);
    assert_eq!(parse_head(&input, &limits, &mut RequestHead::default()), Err(HttpError::HeadTooLarge));
}

/// Ranges of fields are told by where the parts stand, which a copy would not have.
#[test]
fn parts_are_slices_of_what_was_given_there() {
    let input = b"a: b\r\nc:\r\nd: \t\r\n\r\n";
    let mut lines = [EMPTY_HEADER; 4];
    let (_, lines) = httparse::parse_headers(input, &mut lines).map(Status::unwrap).expect("good lines");
    let offset = |part: &[u8]| part.as_ptr().addr() - input.as_ptr().addr();
    let offsets = |line: &Header<'_>| (offset(line.name.as_bytes()), offset(line.value));
    assert_eq!(lines.iter().map(offsets).collect::<Vec<_>>(), [(0, 3), (6, 8), (10, 14)]);
}
