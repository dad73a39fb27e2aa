//! Where a body ends: RFC 9112 section 6.3, the one place that decides it.
//!
//! Two recipients that find different ends are how requests are smuggled. So nothing is repaired here: a message whose
//! framing fields could be understood in two ways is refused, even where the RFC would allow a guess.

pub use mini_rproxy_plugin::validate::is_bodiless as has_no_body;

use super::chars;
use super::error::HttpError;
use super::fields::{Fields, HeaderId, HeaderSet};
use super::head::{RequestHead, ResponseHead, Version};

/// The framing fields.
pub const FRAMING: HeaderSet = HeaderSet::of(&[HeaderId::ContentLength, HeaderId::TransferEncoding]);

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, and nothing that says so.
    #[default]
    None,
    /// Content-Length. 64 bits on every machine (rule E9).
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// The framing of a request body. `None` where neither field is there; `Length(0)` where Content-Length says 0.
pub fn request_framing(head: &RequestHead) -> Result<Framing, HttpError> {
    // A request without framing fields has no body: it is never ended by closing (rule S4).
    Ok(declared_framing(&head.fields, head.version)?.unwrap_or(Framing::None))
}

/// The framing of a response's body. `to_head` says that the request was a HEAD. 1xx, 204, 304 and answers to HEAD end
/// with their head whatever their fields say: there is one way to read them. Of these it is also told whether they have
/// framing fields that they must not have, or that contradict each other: their sender may believe that a body follows, so
/// nothing more can be understood of the connection.
pub fn response_framing(head: &ResponseHead, to_head: bool) -> Result<(Framing, bool), HttpError> {
    let declared = declared_framing(&head.fields, head.version);
    if !to_head && !matches!(head.status, 100..=199) && !has_no_body(head.status) {
        return Ok((declared?.unwrap_or(Framing::UntilClose), false));
    }
    let is_false = match (head.status, declared) {
        (_, Err(_)) => true,
        // RFC 9110 section 8.6 and RFC 9112 section 6.1: neither field may be there. A length of 0 does no harm.
        (100..=199 | 204, Ok(framing)) => matches!(framing, Some(Framing::Length(1..) | Framing::Chunked)),
        // Here the fields tell of the body that a GET would have been given.
        (_, Ok(_)) => false,
    };
    Ok((Framing::None, is_false))
}

/// What the framing fields say, `None` where there are none. Rules S1, S2 and S3.
fn declared_framing(fields: &Fields, version: Version) -> Result<Option<Framing>, HttpError> {
    if !fields.may_contain_any(FRAMING) {
        return Ok(None);
    }
    let mut lengths = fields.values(HeaderId::ContentLength);
    let mut codings = fields.values(HeaderId::TransferEncoding);
    match (lengths.next(), codings.next(), version) {
        (None, None, _) => Ok(None),
        (Some(_), _, _) if lengths.next().is_some() => Err(HttpError::RepeatedLength),
        (_, Some(_), _) if codings.next().is_some() => Err(HttpError::RepeatedCoding),
        (Some(_), Some(_), _) => Err(HttpError::LengthAndCoding),
        (Some(digits), None, _) => match chars::parse_decimal(digits) {
            Some(length) => Ok(Some(Framing::Length(length))),
            None => Err(HttpError::BadLength),
        },
        (None, Some(_), Version::Http10) => Err(HttpError::CodingInHttp10),
        (None, Some(coding), Version::Http11) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        (None, Some(_), Version::Http11) => Err(HttpError::UnknownCoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: &str = "Content-Length";
    const CODING: &str = "transfer-encoding";

    type Lines<'a> = &'a [(&'a str, &'a str)];

    fn fields(lines: Lines<'_>) -> Fields {
        let mut fields = Fields::new();
        fields.add(b"Host", b"a");
        lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
        fields
    }

    fn request(lines: Lines<'_>, version: Version) -> Result<Framing, HttpError> {
        request_framing(&RequestHead { fields: fields(lines), version, ..RequestHead::default() })
    }

    fn read_response(
        status: u16,
        lines: Lines<'_>,
        version: Version,
        to_head: bool,
    ) -> Result<(Framing, bool), HttpError> {
        response_framing(&ResponseHead { status, fields: fields(lines), version, ..ResponseHead::default() }, to_head)
    }

    fn response(status: u16, lines: Lines<'_>, version: Version, to_head: bool) -> Result<Framing, HttpError> {
        read_response(status, lines, version, to_head).map(|(framing, _)| framing)
    }

    /// A message with these lines has the framing, as a request and as a response.
    fn assert_framing(name: &str, lines: Lines<'_>, version: Version, expected: Result<Framing, HttpError>) {
        assert_eq!(request(lines, version), expected, "{name}, request");
        assert_eq!(response(200, lines, version, false), expected, "{name}, response");
        // Where no body will come there is one way to read it, but what is contradictory is noticed.
        for (status, to_head) in [(200, true), (304, false), (204, false), (103, false)] {
            assert_eq!(response(status, lines, version, to_head), Ok(Framing::None), "{name}, {status}");
            if expected.is_err() {
                let found = read_response(status, lines, version, to_head);
                assert_eq!(found, Ok((Framing::None, true)), "{name}, {status}");
            }
        }
    }

    #[test]
    fn s1_length_and_coding_together_are_refused() {
        for (name, lines) in [
            ("length first", &[(LENGTH, "5"), (CODING, "chunked")][..]),
            ("coding first", &[(CODING, "chunked"), (LENGTH, "5")]),
            ("a length of 0", &[(LENGTH, "0"), (CODING, "chunked")]),
            ("an unknown coding", &[(CODING, "identity"), (LENGTH, "5")]),
            ("a bad length", &[(CODING, "chunked"), (LENGTH, "x")]),
        ] {
            for version in [Version::Http10, Version::Http11] {
                assert_framing(name, lines, version, Err(HttpError::LengthAndCoding));
            }
        }
        assert_framing("length alone", &[(LENGTH, "5")], Version::Http11, Ok(Framing::Length(5)));
        assert_framing("coding alone", &[(CODING, "chunked")], Version::Http11, Ok(Framing::Chunked));
        assert_eq!(HttpError::LengthAndCoding.status(), 400);
    }

    #[test]
    fn s2_content_length_is_one_line_of_digits() {
        for (name, value, expected) in [
            ("zero", "0", Ok(Framing::Length(0))),
            ("above 32 bits", "4294967296", Ok(Framing::Length(1 << 32))),
            ("the largest", "9223372036854775807", Ok(Framing::Length(i64::MAX as u64))),
            ("one more", "9223372036854775808", Err(HttpError::BadLength)),
            ("2^64", "18446744073709551616", Err(HttpError::BadLength)),
            ("empty", "", Err(HttpError::BadLength)),
            ("plus", "+1", Err(HttpError::BadLength)),
            ("minus", "-0", Err(HttpError::BadLength)),
            ("hex", "0x10", Err(HttpError::BadLength)),
            ("underscore", "1_0", Err(HttpError::BadLength)),
            ("inner space", "1 0", Err(HttpError::BadLength)),
            ("a list of equals", "5, 5", Err(HttpError::BadLength)),
            ("a list", "5,6", Err(HttpError::BadLength)),
        ] {
            assert_framing(name, &[(LENGTH, value)], Version::Http11, expected);
            assert_framing(name, &[(LENGTH, value)], Version::Http10, expected);
        }
        for (name, second) in [("equal", "5"), ("other", "6"), ("empty", ""), ("bad", "x")] {
            let lines = [(LENGTH, "5"), ("CONTENT-LENGTH", second)];
            assert_framing(name, &lines, Version::Http11, Err(HttpError::RepeatedLength));
        }
        assert_eq!((HttpError::BadLength.status(), HttpError::RepeatedLength.status()), (400, 400));
    }

    #[test]
    fn s3_transfer_encoding_is_chunked_once_and_nothing_else() {
        for (name, value, expected) in [
            ("chunked", "chunked", Ok(Framing::Chunked)),
            ("another case", "cHUNKED", Ok(Framing::Chunked)),
            ("identity", "identity", Err(HttpError::UnknownCoding)),
            ("a list", "gzip, chunked", Err(HttpError::UnknownCoding)),
            ("twice in a list", "chunked, chunked", Err(HttpError::UnknownCoding)),
            ("an empty member", ", chunked", Err(HttpError::UnknownCoding)),
            ("a prefix", "xchunked", Err(HttpError::UnknownCoding)),
            ("a suffix", "chunkedx", Err(HttpError::UnknownCoding)),
            ("a parameter", "chunked;q=1", Err(HttpError::UnknownCoding)),
            ("quotes", "\"chunked\"", Err(HttpError::UnknownCoding)),
            ("a vertical tab", "\x0bchunked", Err(HttpError::UnknownCoding)),
            ("empty", "", Err(HttpError::UnknownCoding)),
        ] {
            assert_framing(name, &[(CODING, value)], Version::Http11, expected);
            assert_framing(name, &[(CODING, value)], Version::Http10, Err(HttpError::CodingInHttp10));
        }
        for second in ["chunked", "identity", ""] {
            let lines = [(CODING, "chunked"), ("Transfer-Encoding", second)];
            assert_framing(second, &lines, Version::Http11, Err(HttpError::RepeatedCoding));
            assert_framing(second, &lines, Version::Http10, Err(HttpError::RepeatedCoding));
        }
        for (error, status) in
            [(HttpError::UnknownCoding, 501), (HttpError::RepeatedCoding, 400), (HttpError::CodingInHttp10, 400)]
        {
            assert_eq!(error.status(), status);
        }
    }

    #[test]
    fn s4_only_responses_end_by_closing() {
        for version in [Version::Http10, Version::Http11] {
            assert_eq!(request(&[], version), Ok(Framing::None));
            assert_eq!(request(&[("Connection", "close")], version), Ok(Framing::None));
            assert_eq!(response(200, &[], version, false), Ok(Framing::UntilClose));
        }
    }

    #[test]
    fn s18_some_responses_have_no_body() {
        let (none, length, zero, chunked) =
            (&[][..], &[(LENGTH, "5")][..], &[(LENGTH, "0")][..], &[(CODING, "chunked")][..]);
        let both = &[(LENGTH, "5"), (CODING, "chunked")][..];
        let bad = &[(LENGTH, "x")][..];
        let empty = Ok(Framing::None);
        for (name, status, lines, to_head, expected, is_false) in [
            ("HEAD", 200, none, true, empty, false),
            ("HEAD with a length", 200, length, true, empty, false),
            ("HEAD with chunked", 200, chunked, true, empty, false),
            ("HEAD with both", 200, both, true, empty, true),
            ("304", 304, none, false, empty, false),
            ("304 with a length", 304, length, false, empty, false),
            ("304 with chunked", 304, chunked, false, empty, false),
            ("304 with a bad length", 304, bad, false, empty, true),
            ("204", 204, none, false, empty, false),
            ("204 with a length of 0", 204, zero, false, empty, false),
            ("204 with a length", 204, length, false, empty, true),
            ("204 with a bad length", 204, bad, false, empty, true),
            ("204 with chunked", 204, chunked, false, empty, true),
            ("204 with both", 204, both, false, empty, true),
            ("204 with a length to HEAD", 204, length, true, empty, true),
            ("100", 100, none, false, empty, false),
            ("101 with a length of 0", 101, zero, false, empty, false),
            ("101 with chunked", 101, chunked, false, empty, true),
            ("103 with a length", 103, length, false, empty, true),
            ("199 with a length", 199, length, false, empty, true),
            ("200 with a length", 200, length, false, Ok(Framing::Length(5)), false),
            ("200 with both", 200, both, false, Err(HttpError::LengthAndCoding), false),
            ("404 with chunked", 404, chunked, false, Ok(Framing::Chunked), false),
            ("205 with a length of 0", 205, zero, false, Ok(Framing::Length(0)), false),
            ("999", 999, none, false, Ok(Framing::UntilClose), false),
        ] {
            let found = read_response(status, lines, Version::Http11, to_head);
            assert_eq!(found, expected.map(|framing| (framing, is_false)), "{name}");
        }
    }

    #[test]
    fn errors_name_their_rule() {
        for (error, rule) in [(HttpError::LengthAndCoding, "S1"), (HttpError::UnknownCoding, "S3")] {
            assert_eq!(error.rule(), rule);
            assert!(error.expected().starts_with("expected"));
        }
    }
}
