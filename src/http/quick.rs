//! The quick lane of reading a head: for one that has arrived whole and looks as we would write it, as nearly all do.
//!
//! Each byte is looked at once, and what is taken over is a range of the bytes as they came. Whatever is unusual (white
//! space around a value that is not one space, an empty line in front, anything broken, anything missing) is `None` and
//! left to the slow lane, which defines what is accepted and names what is wrong. Accepted here means accepted there,
//! with the same parts: tests and fuzz targets compare the two, and both with httparse.
//!
//! Counted with callgrind for 24 field lines of browser size in two heads: httparse and a strict second look took 350
//! instructions a line, this takes 210, 30 of them for the class of the name.

use super::chars::{field_bytes_len, token_len, visible_len};
use super::fields::{Fields, is_framing_look_alike};
use super::lines::{RequestLine, StatusLine, parse_status};
use super::start_line::Version;

const CRLF: &[u8] = b"\r\n";

/// Reads `method SP request-target SP HTTP-version CRLF` (RFC 9112 section 3); the length includes CRLF.
pub fn request_line(bytes: &[u8]) -> Option<(RequestLine<'_>, usize)> {
    let (method, rest) = bytes.split_at(if bytes.starts_with(b"GET ") { 3 } else { token_len(bytes) });
    let rest = rest.strip_prefix(b" ")?;
    let (target, rest) = rest.split_at(visible_len(rest));
    // Compared, not matched: that would be done byte by byte.
    let end = *rest.first_chunk()?;
    let version = if end == *b" HTTP/1.1\r\n" {
        Version::Http11
    } else if end == *b" HTTP/1.0\r\n" {
        Version::Http10
    } else {
        return None;
    };
    if method.is_empty() || target.is_empty() {
        return None;
    }
    Some((RequestLine { method, target, version }, method.len() + target.len() + "  HTTP/1.1\r\n".len()))
}

/// Reads `HTTP-version SP status-code SP [reason-phrase] CRLF` (RFC 9112 section 4); the length includes CRLF.
pub fn status_line(bytes: &[u8]) -> Option<(StatusLine<'_>, usize)> {
    let (&start, rest) = bytes.split_first_chunk()?;
    let version = if start == *b"HTTP/1.1 " {
        Version::Http11
    } else if start == *b"HTTP/1.0 " {
        Version::Http10
    } else {
        return None;
    };
    let (digits, rest) = rest.split_first_chunk()?;
    let status = parse_status(*digits)?;
    let rest = rest.strip_prefix(b" ")?;
    let (reason, rest) = rest.split_at(field_bytes_len(rest));
    let len = rest.starts_with(CRLF).then_some("HTTP/1.1 200 \r\n".len() + reason.len())?;
    Some((StatusLine { status, reason, version }, len))
}

/// Reads at most `most` field lines, each `field-name ":" SP [field-value] CRLF` (RFC 9112 section 5), and the empty line
/// after them; returns their length with that line. `fields` is given the lines; it has to be empty, and is left so
/// where the answer is `None`.
pub fn field_section(bytes: &[u8], most: usize, fields: &mut Fields) -> Option<usize> {
    let len = take_lines(bytes, most, fields);
    match len {
        Some(len) => fields.take_section(&bytes[..len - CRLF.len()]),
        None => fields.clear(),
    }
    len
}

fn take_lines(bytes: &[u8], most: usize, fields: &mut Fields) -> Option<usize> {
    let mut rest = bytes;
    loop {
        let (name, after) = rest.split_at_checked(token_len(rest))?;
        if name.is_empty() {
            return after.starts_with(CRLF).then_some(bytes.len() - after.len() + CRLF.len());
        }
        let [b':', b' ', after @ ..] = after else { return None };
        let (value, after) = after.split_at_checked(field_bytes_len(after))?;
        let [b'\r', b'\n', after @ ..] = after else { return None };
        // No other field byte is as low as space and tab.
        let has_outer_space = matches!(value, [..=b' ', ..] | [.., ..=b' ']);
        // Rule S9: what is dropped is not left among lines that are sent as one range.
        if has_outer_space || is_framing_look_alike(name) || fields.len() == most {
            return None;
        }
        fields.expect_line(bytes.len() - rest.len(), name, value);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: [&[u8]; 20] = [
        b"GET ",
        b"/a?b",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"a: b\r\n",
        b"c",
        b": ",
        b":",
        b" ",
        b"\t",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"\x7f",
        b"\xff",
        b"Host: a.example\r\n",
        b"content_length: 1\r\n",
    ];

    /// How many inputs; Miri takes seconds where others take microseconds.
    const INPUTS: usize = if cfg!(miri) { 32 } else { 8_000 };

    /// Some thousand inputs made of odd pieces.
    fn inputs(start: &'static [u8]) -> impl Iterator<Item = Vec<u8>> {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        (0..INPUTS).map(move |_| {
            let mut input = start.to_vec();
            for step in 0..9 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                if step == 0 && seed.is_multiple_of(4) {
                    input.clear();
                }
                input.extend_from_slice(PIECES[(seed % PIECES.len() as u64) as usize]);
            }
            input
        })
    }

    /// What httparse makes of the same bytes: names and values.
    type Oracle<'a> = (usize, Vec<(&'a [u8], &'a [u8])>);

    fn lines<'a>(len: usize, headers: &[httparse::Header<'a>]) -> Oracle<'a> {
        (len, headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect())
    }

    fn pairs(fields: &Fields) -> Vec<(&[u8], &[u8])> {
        fields.iter().map(|line| (line.name, line.value)).collect()
    }

    /// What is accepted here an independent parser accepts too, and finds the same in it.
    #[test]
    fn s8_httparse_finds_the_same_tokens() {
        let mut accepted = 0;
        for input in inputs(b"GET /some/path HTTP/1.1\r\nHost: a\r\n") {
            let Some((line, start)) = request_line(&input) else { continue };
            let mut fields = Fields::new();
            let Some(len) = field_section(&input[start..], 20, &mut fields) else { continue };
            let mut headers = [httparse::EMPTY_HEADER; 20];
            let mut oracle = httparse::Request::new(&mut headers);
            let found = oracle.parse(&input).map(httparse::Status::unwrap);
            let name = input.escape_ascii().to_string();
            assert_eq!(found, Ok(start + len), "{name}");
            assert_eq!(oracle.method.map(str::as_bytes), Some(line.method), "{name}");
            assert_eq!(oracle.path.map(str::as_bytes), Some(line.target), "{name}");
            assert_eq!(oracle.version == Some(1), line.version == Version::Http11, "{name}");
            assert_eq!(lines(start + len, oracle.headers), (start + len, pairs(&fields)), "{name}");
            accepted += 1;
        }
        for input in inputs(b"HTTP/1.1 404 Not Found\r\nServer: a\r\n") {
            let Some((line, start)) = status_line(&input) else { continue };
            let mut fields = Fields::new();
            let Some(len) = field_section(&input[start..], 20, &mut fields) else { continue };
            let mut headers = [httparse::EMPTY_HEADER; 20];
            let mut oracle = httparse::Response::new(&mut headers);
            let found = oracle.parse(&input).map(httparse::Status::unwrap);
            let name = input.escape_ascii().to_string();
            assert_eq!(found, Ok(start + len), "{name}");
            assert_eq!(oracle.code, Some(line.status), "{name}");
            if line.reason.is_ascii() {
                assert_eq!(oracle.reason.map(str::as_bytes), Some(line.reason), "{name}");
            }
            assert_eq!(oracle.version == Some(1), line.version == Version::Http11, "{name}");
            assert_eq!(lines(start + len, oracle.headers), (start + len, pairs(&fields)), "{name}");
            accepted += 1;
        }
        assert!(accepted > INPUTS / 8, "only {accepted}");
    }

    #[test]
    fn what_is_unusual_is_left_to_the_slow_lane() {
        for (name, input, expected) in [
            ("plain", &b"a: b\r\nc: d e\r\n\r\nnext"[..], Some(16)),
            ("none", b"\r\n", Some(2)),
            ("an empty value", b"a: \r\n\r\n", Some(7)),
            ("no space before the value", b"a:b\r\n\r\n", None),
            ("two spaces before the value", b"a:  b\r\n\r\n", None),
            ("a space after the value", b"a: b \r\n\r\n", None),
            ("a tab after the value", b"a: b\t\r\n\r\n", None),
            ("only white space", b"a:  \r\n\r\n", None),
            ("no name", b": b\r\n\r\n", None),
            ("a space in the name", b"a : b\r\n\r\n", None),
            ("LF", b"a: b\n\r\n", None),
            ("a control", b"a: b\x01\r\n\r\n", None),
            ("a look-alike of a framing field", b"Content_Length: 1\r\n\r\n", None),
            ("too many", b"a: b\r\nc: d\r\ne: f\r\n\r\n", None),
            ("not whole", b"a: b\r\n\r", None),
            ("nothing", b"", None),
        ] {
            let mut fields = Fields::new();
            assert_eq!(field_section(input, 2, &mut fields), expected, "{name}");
            assert!(expected.is_some() || fields.is_empty(), "{name}: left empty");
        }
    }
}
