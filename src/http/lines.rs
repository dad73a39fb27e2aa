//! The lines of a head, one at a time: what each must look like, and the names of what can be wrong.
//!
//! This is the slow and exact half of reading a head. Where lines begin and end, and how many there may be, is for
//! `head` to know.

use std::fmt;

use super::chars;
use super::start_line::Version;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// A line ends with LF alone.
    BareLf,
    /// A CR stands anywhere but before the LF that ends a line.
    BareCr,
    /// NUL, a tab or another control character in a request line or status line.
    Control,
    /// A second empty line before a request line, or any before a status line.
    EmptyStartLine,
    /// The request line is not made of three parts with single spaces between them.
    BadSpacing,
    /// The method is not a token.
    BadMethod,
    /// A byte from 0x80 in the request target.
    NonAsciiTarget,
    /// A request line without a version: HTTP/0.9.
    MissingVersion,
    /// The version is not `HTTP/` digit `.` digit.
    BadVersion,
    /// Well-formed, but neither HTTP/1.0 nor HTTP/1.1.
    UnsupportedVersion,
    /// The status is not three digits, 100 or more, followed by a space or the end of the line.
    BadStatus,
    /// White space before the first field line.
    LeadingSpace,
    /// A field line that goes on in the next line.
    ObsFold,
    /// A field line without a colon.
    MissingColon,
    /// Nothing before the colon.
    EmptyName,
    /// White space before the colon.
    SpaceBeforeColon,
    /// The field name is not a token.
    BadName,
    /// A control character in a field value.
    BadValue,
    /// The request line is longer than the limit.
    RequestLineTooLong,
    /// The head is longer than the limit.
    HeadTooLarge,
    /// There are more field lines than the limit allows.
    TooManyLines,
}

impl HeadError {
    /// The rule that was broken, or the configured limit, for the log.
    pub const fn rule(self) -> &'static str {
        match self {
            HeadError::BareLf | HeadError::BareCr | HeadError::Control => "S8",
            HeadError::LeadingSpace | HeadError::ObsFold | HeadError::SpaceBeforeColon => "S8",
            HeadError::MissingColon | HeadError::EmptyName | HeadError::BadName | HeadError::BadValue => "S8",
            HeadError::EmptyStartLine | HeadError::BadSpacing => "S12",
            HeadError::BadMethod | HeadError::NonAsciiTarget => "S12",
            HeadError::BadStatus => "S18",
            HeadError::MissingVersion | HeadError::BadVersion | HeadError::UnsupportedVersion => "S21",
            HeadError::RequestLineTooLong => "max_request_line",
            HeadError::HeadTooLarge => "max_head_bytes",
            HeadError::TooManyLines => "max_header_fields",
        }
    }

    /// How a request with such a head is answered. A response with such a head makes a 502, whatever is wrong.
    pub const fn status(self) -> u16 {
        match self {
            HeadError::RequestLineTooLong => 414,
            HeadError::HeadTooLarge | HeadError::TooManyLines => 431,
            HeadError::UnsupportedVersion => 505,
            HeadError::BareLf | HeadError::BareCr | HeadError::Control => 400,
            HeadError::LeadingSpace | HeadError::ObsFold | HeadError::SpaceBeforeColon => 400,
            HeadError::MissingColon | HeadError::EmptyName | HeadError::BadName | HeadError::BadValue => 400,
            HeadError::EmptyStartLine | HeadError::BadSpacing => 400,
            HeadError::BadMethod | HeadError::NonAsciiTarget => 400,
            HeadError::BadStatus | HeadError::MissingVersion | HeadError::BadVersion => 400,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadError::BareLf => "expected CRLF at the end of each line, found LF alone",
            HeadError::BareCr => "expected LF after CR",
            HeadError::Control => "expected no control character in the first line",
            HeadError::EmptyStartLine => "expected a request line or status line, found an empty line",
            HeadError::BadSpacing => "expected method, target and version with one space between them",
            HeadError::BadMethod => "expected a token as method",
            HeadError::NonAsciiTarget => "expected an ASCII request target",
            HeadError::MissingVersion => "expected a version at the end of the request line",
            HeadError::BadVersion => "expected a version of the form HTTP/1.1",
            HeadError::UnsupportedVersion => "expected version HTTP/1.0 or HTTP/1.1",
            HeadError::BadStatus => "expected a status code of three digits",
            HeadError::LeadingSpace => "expected no white space before the first field line",
            HeadError::ObsFold => "expected each field on one line",
            HeadError::MissingColon => "expected a colon in each field line",
            HeadError::EmptyName => "expected a field name before the colon",
            HeadError::SpaceBeforeColon => "expected the colon right after the field name",
            HeadError::BadName => "expected a token as field name",
            HeadError::BadValue => "expected no control character in a field value",
            HeadError::RequestLineTooLong => "expected a shorter request line",
            HeadError::HeadTooLarge => "expected a smaller head",
            HeadError::TooManyLines => "expected fewer field lines",
        })
    }
}

impl std::error::Error for HeadError {}

/// A line without the CRLF at its end. `line` ends with LF.
pub fn strip_line_end(line: &[u8]) -> Result<&[u8], HeadError> {
    let Some(content) = line.strip_suffix(b"\r\n") else { return Err(HeadError::BareLf) };
    if content.contains(&b'\r') { Err(HeadError::BareCr) } else { Ok(content) }
}

/// The parts of a request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// A token.
    pub method: &'a [u8],
    /// Visible ASCII, at least one byte.
    pub target: &'a [u8],
    /// The client's.
    pub version: Version,
}

/// The parts of a status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine<'a> {
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: &'a [u8],
    /// The origin's.
    pub version: Version,
}

/// Takes a request line without its CRLF apart (RFC 9112 section 3).
pub fn split_request_line(line: &[u8]) -> Result<RequestLine<'_>, HeadError> {
    if line.iter().any(u8::is_ascii_control) {
        return Err(HeadError::Control);
    }
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some([_, ..]), Some([_, ..]), None, None) => return Err(HeadError::MissingVersion),
        (Some(method @ [_, ..]), Some(target @ [_, ..]), Some(version @ [_, ..]), None) => (method, target, version),
        _ => return Err(HeadError::BadSpacing),
    };
    if !chars::is_token(method) {
        return Err(HeadError::BadMethod);
    }
    if !target.is_ascii() {
        return Err(HeadError::NonAsciiTarget);
    }
    Ok(RequestLine { method, target, version: parse_version(version)? })
}

/// Takes a status line without its CRLF apart (RFC 9112 section 4, rule S18). A missing reason phrase may lack its space
/// too.
pub fn split_status_line(line: &[u8]) -> Result<StatusLine<'_>, HeadError> {
    if !line.iter().all(|&byte| chars::is_field_byte(byte)) {
        return Err(HeadError::Control);
    }
    let version_end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let version = parse_version(&line[..version_end])?;
    let (digits, reason) = match &line[version_end..] {
        [b' ', a, b, c] => ([*a, *b, *c], &b""[..]),
        [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
        _ => return Err(HeadError::BadStatus),
    };
    let status = parse_status(digits).ok_or(HeadError::BadStatus)?;
    Ok(StatusLine { status, reason, version })
}

/// status-code of RFC 9112 section 4: three digits, 100 or more (rule S18).
pub fn parse_status(digits: [u8; 3]) -> Option<u16> {
    let [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = digits else { return None };
    let [hundreds, tens, ones] = [hundreds, tens, ones].map(|digit| u16::from(digit - b'0'));
    Some(hundreds * 100 + tens * 10 + ones)
}

/// HTTP-version of RFC 9112 section 2.3: upper case, one digit on each side of the dot (rule S21).
fn parse_version(version: &[u8]) -> Result<Version, HeadError> {
    match version {
        b"HTTP/1.0" => Ok(Version::Http10),
        b"HTTP/1.1" => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(HeadError::UnsupportedVersion),
        _ => Err(HeadError::BadVersion),
    }
}

/// Takes a field line without its CRLF apart into name and value (RFC 9112 section 5, rule S8).
///
/// White space in front is [`HeadError::ObsFold`]: whether there is a line that it could go on from, the caller knows.
pub fn split_field_line(line: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    if let [b' ' | b'\t', ..] = line {
        return Err(HeadError::ObsFold);
    }
    let colon = line.iter().position(|&byte| byte == b':').ok_or(HeadError::MissingColon)?;
    let (name, value) = (&line[..colon], chars::trim_ows(&line[colon + 1..]));
    match name {
        [] => return Err(HeadError::EmptyName),
        [.., b' ' | b'\t'] => return Err(HeadError::SpaceBeforeColon),
        name if !chars::is_token(name) => return Err(HeadError::BadName),
        _ => {}
    }
    if chars::is_field_value(value) { Ok((name, value)) } else { Err(HeadError::BadValue) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_only_crlf_ends_a_line() {
        for (name, input, expected) in [
            ("CRLF", &b"a: b\r\n"[..], Ok(&b"a: b"[..])),
            ("the empty line", b"\r\n", Ok(b"")),
            ("LF alone", b"a: b\n", Err(HeadError::BareLf)),
            ("LF alone on an empty line", b"\n", Err(HeadError::BareLf)),
            ("a lone CR", b"a: \rb\r\n", Err(HeadError::BareCr)),
            ("two CR", b"a: b\r\r\n", Err(HeadError::BareCr)),
        ] {
            assert_eq!(strip_line_end(input), expected, "{name}");
        }
    }

    #[test]
    fn s12_request_lines_have_three_parts() {
        for (name, input, expected) in [
            ("origin-form", &b"GET / HTTP/1.1"[..], Ok(())),
            ("an extension method", b"M-SEARCH * HTTP/1.0", Ok(())),
            ("two spaces", b"GET  / HTTP/1.1", Err(HeadError::BadSpacing)),
            ("two spaces before the version", b"GET /  HTTP/1.1", Err(HeadError::BadSpacing)),
            ("a space in front", b" GET / HTTP/1.1", Err(HeadError::BadSpacing)),
            ("a space at the end", b"GET / HTTP/1.1 ", Err(HeadError::BadSpacing)),
            ("a space in the target", b"GET /a b HTTP/1.1", Err(HeadError::BadSpacing)),
            ("no target", b"GET HTTP/1.1", Err(HeadError::MissingVersion)),
            ("one word", b"GET", Err(HeadError::BadSpacing)),
            ("nothing", b"", Err(HeadError::BadSpacing)),
            ("a tab for a space", b"GET\t/ HTTP/1.1", Err(HeadError::Control)),
            ("NUL in the target", b"GET /\0 HTTP/1.1", Err(HeadError::Control)),
            ("DEL in the target", b"GET /\x7f HTTP/1.1", Err(HeadError::Control)),
            ("UTF-8 in the target", b"GET /\xc3\xa9 HTTP/1.1", Err(HeadError::NonAsciiTarget)),
            ("other bytes in the target", b"GET /\xff HTTP/1.1", Err(HeadError::NonAsciiTarget)),
            ("no token", b"G(T / HTTP/1.1", Err(HeadError::BadMethod)),
            ("a colon in the method", b"Host: x HTTP/1.1", Err(HeadError::BadMethod)),
        ] {
            assert_eq!(split_request_line(input).map(|_| ()), expected, "{name}");
        }
    }

    #[test]
    fn s21_only_http_1_0_and_1_1_are_spoken() {
        for (name, input, expected) in [
            ("HTTP/1.1", &b"GET / HTTP/1.1"[..], Ok(())),
            ("HTTP/1.0", b"GET / HTTP/1.0", Ok(())),
            ("HTTP/0.9", b"GET /", Err((HeadError::MissingVersion, 400))),
            ("HTTP/1.2", b"GET / HTTP/1.2", Err((HeadError::UnsupportedVersion, 505))),
            ("the preface of HTTP/2", b"PRI * HTTP/2.0", Err((HeadError::UnsupportedVersion, 505))),
            ("HTTP/1.01", b"GET / HTTP/1.01", Err((HeadError::BadVersion, 400))),
            ("HTTP/1", b"GET / HTTP/1", Err((HeadError::BadVersion, 400))),
            ("lower case", b"GET / http/1.1", Err((HeadError::BadVersion, 400))),
            ("another protocol", b"GET / HTTPS/1.1", Err((HeadError::BadVersion, 400))),
            ("a comma", b"GET / HTTP/1,1", Err((HeadError::BadVersion, 400))),
        ] {
            let found = split_request_line(input).map(|_| ()).map_err(|error| (error, error.status()));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn s18_status_lines_have_three_digits() {
        for (name, input, expected) in [
            ("with a reason", &b"HTTP/1.1 404 Not Found"[..], Ok(())),
            ("an empty reason", b"HTTP/1.1 200 ", Ok(())),
            ("no reason and no space", b"HTTP/1.1 200", Ok(())),
            ("obs-text", b"HTTP/1.0 200 Pas trouv\xe9", Ok(())),
            ("a tab", b"HTTP/1.0 200 a\tb", Ok(())),
            ("the highest", b"HTTP/1.1 999 ?", Ok(())),
            ("two digits", b"HTTP/1.1 20 OK", Err(HeadError::BadStatus)),
            ("four digits", b"HTTP/1.1 2000 OK", Err(HeadError::BadStatus)),
            ("below 100", b"HTTP/1.1 099 ?", Err(HeadError::BadStatus)),
            ("a sign", b"HTTP/1.1 +20 OK", Err(HeadError::BadStatus)),
            ("no digits", b"HTTP/1.1 OK", Err(HeadError::BadStatus)),
            ("no status", b"HTTP/1.1", Err(HeadError::BadStatus)),
            ("two spaces", b"HTTP/1.1  200 OK", Err(HeadError::BadStatus)),
            ("a tab after the status", b"HTTP/1.1 200\tOK", Err(HeadError::BadStatus)),
            ("NUL", b"HTTP/1.1 200 O\0K", Err(HeadError::Control)),
            ("another version", b"HTTP/2.0 200 OK", Err(HeadError::UnsupportedVersion)),
            ("no version", b"200 OK", Err(HeadError::BadVersion)),
            ("nothing", b"", Err(HeadError::BadVersion)),
        ] {
            assert_eq!(split_status_line(input).map(|_| ()), expected, "{name}");
        }
    }

    #[test]
    fn s8_field_lines_are_token_colon_value() {
        for (name, input, expected) in [
            ("a value", &b"Host: example.com"[..], Ok((&b"Host"[..], &b"example.com"[..]))),
            ("no white space", b"a:b", Ok((b"a", b"b"))),
            ("much white space", b"a:\t  b\t c \t", Ok((b"a", b"b\t c"))),
            ("no value", b"a:", Ok((b"a", b""))),
            ("only white space", b"a: \t", Ok((b"a", b""))),
            ("colons in the value", b"a::b:", Ok((b"a", b":b:"))),
            ("obs-text", b"a: \xff", Ok((b"a", b"\xff"))),
            ("no colon", b"Host", Err(HeadError::MissingColon)),
            ("a space in front", b" a: b", Err(HeadError::ObsFold)),
            ("a tab in front", b"\tb", Err(HeadError::ObsFold)),
            ("no name", b": b", Err(HeadError::EmptyName)),
            ("a space before the colon", b"Content-Length : 5", Err(HeadError::SpaceBeforeColon)),
            ("a tab before the colon", b"a\t: b", Err(HeadError::SpaceBeforeColon)),
            ("a space in the name", b"a b: c", Err(HeadError::BadName)),
            ("NUL in the name", b"a\0: c", Err(HeadError::BadName)),
            ("obs-text in the name", b"\xe9: c", Err(HeadError::BadName)),
            ("brackets in the name", b"[a]: c", Err(HeadError::BadName)),
            ("NUL in the value", b"a: \0", Err(HeadError::BadValue)),
            ("DEL in the value", b"a: b\x7fc", Err(HeadError::BadValue)),
            ("a vertical tab before the value", b"a: \x0bchunked", Err(HeadError::BadValue)),
            ("a form feed after the value", b"a: chunked\x0c", Err(HeadError::BadValue)),
        ] {
            assert_eq!(split_field_line(input), expected, "{name}");
        }
    }
}
