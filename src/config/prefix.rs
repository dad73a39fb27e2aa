//! Route prefixes: what is a valid one, and how its segments are compared with those of a path.
//!
//! Two spellings are the same where only percent-encoded unreserved characters (RFC 3986 section 2.3) or the case of
//! hexadecimal digits differ: `/%66itness` is `/fitness`, `/a%2fb` is `/a%2Fb`. An encoded slash stays an encoded slash.

use std::fmt;

/// The longest segment of a prefix, in bytes after normalising. A path's segment that is longer matches nothing.
pub const MAX_SEGMENT: usize = 255;

/// What is wrong with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// It does not begin with `/`.
    NoSlash,
    /// It has a `?`.
    Query,
    /// It has a `#`.
    Fragment,
    /// It has a space, a control, a backslash or a byte above ASCII.
    Byte,
    /// A `%` without two hexadecimal digits.
    Percent,
    /// Requests with such a segment are refused, so that it could never match (rule S20).
    DotSegment,
    /// `//`
    EmptySegment,
    /// A segment above [`MAX_SEGMENT`].
    LongSegment,
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PrefixError::NoSlash => "a prefix begins with \"/\"",
            PrefixError::Query => "a prefix ends before the query: remove \"?\" and what follows",
            PrefixError::Fragment => "a prefix has no fragment: remove \"#\" and what follows",
            PrefixError::Byte => {
                "a prefix is visible ASCII without a backslash: percent-encode everything else, a space is %20"
            }
            PrefixError::Percent => "after \"%\" stand two hexadecimal digits; a percent sign itself is %25",
            PrefixError::DotSegment => {
                "requests with a segment \".\" or \"..\" are refused, so this prefix would never match: remove the segment"
            }
            PrefixError::EmptySegment => "\"//\" makes an empty segment: write one slash",
            PrefixError::LongSegment => "a segment has at most 255 bytes",
        })
    }
}

/// Checks `prefix`.
pub fn check(prefix: &str) -> Result<(), PrefixError> {
    let bytes = prefix.as_bytes();
    let inner = prefix.strip_prefix('/').ok_or(PrefixError::NoSlash)?;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'?' => return Err(PrefixError::Query),
            b'#' => return Err(PrefixError::Fragment),
            b'%' if encoded_byte(&bytes[at..]).is_none() => return Err(PrefixError::Percent),
            b'\\' => return Err(PrefixError::Byte),
            b'!'..=b'~' => {}
            0..=b' ' | 0x7f..=0xff => return Err(PrefixError::Byte),
        }
    }
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return if prefix.len() > 1 { Err(PrefixError::EmptySegment) } else { Ok(()) };
    }
    let mut buf = [0; MAX_SEGMENT];
    for segment in inner.split('/') {
        if segment.is_empty() {
            return Err(PrefixError::EmptySegment);
        }
        if is_dot_segment(segment) {
            return Err(PrefixError::DotSegment);
        }
        normalise(segment.as_bytes(), &mut buf).ok_or(PrefixError::LongSegment)?;
    }
    Ok(())
}

/// The segments of a prefix, as written. `/` has none; a slash at the end adds none.
pub fn segments(prefix: &str) -> impl Iterator<Item = &str> {
    prefix.split('/').filter(|segment| !segment.is_empty())
}

/// The one spelling of all prefixes that match the same paths as this one: two routes may not share it.
pub fn normal_form(prefix: &str) -> Vec<u8> {
    let mut buf = [0; MAX_SEGMENT];
    let mut normal = Vec::with_capacity(prefix.len());
    for segment in segments(prefix) {
        normal.push(b'/');
        normal.extend_from_slice(normalise(segment.as_bytes(), &mut buf).unwrap_or(segment.as_bytes()));
    }
    normal
}

/// `segment` with unreserved characters decoded and other `%xx` in upper case; `None` where it is longer than any
/// segment of a prefix. Allocates nothing; `buf` is used only where there is something to change.
pub fn normalise<'a>(segment: &'a [u8], buf: &'a mut [u8; MAX_SEGMENT]) -> Option<&'a [u8]> {
    if !segment.contains(&b'%') {
        return (segment.len() <= MAX_SEGMENT).then_some(segment);
    }
    let mut len = 0;
    let mut rest = segment;
    while let Some((&first, after)) = rest.split_first() {
        match encoded_byte(rest) {
            Some(byte) if is_unreserved(byte) => {
                *buf.get_mut(len)? = byte;
                len += 1;
                rest = &rest[3..];
            }
            Some(_) => {
                let triplet = buf.get_mut(len..len + 3)?;
                triplet.copy_from_slice(&rest[..3]);
                triplet.make_ascii_uppercase();
                len += 3;
                rest = &rest[3..];
            }
            None => {
                *buf.get_mut(len)? = first;
                len += 1;
                rest = after;
            }
        }
    }
    Some(&buf[..len])
}

/// The byte that a `%xx` at the start of `bytes` stands for.
pub(super) fn encoded_byte(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    match bytes {
        [b'%', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a segment, as written, is `.` or `..` once it is decoded, where `/` and `\` end a segment too and `;` begins
/// its parameters (rule S20).
pub(super) fn is_dot_segment(segment: &str) -> bool {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let byte = encoded_byte(rest);
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[3..] } else { after };
    }
    let is_dots = |part: &[u8]| matches!(part.split(|&b| b == b';').next(), Some(b"." | b".."));
    decoded.split(|b| matches!(b, b'/' | b'\\')).any(is_dots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_match_is_refused() {
        for (prefix, expected) in [
            ("/", Ok(())),
            ("/fitness", Ok(())),
            ("/fitness/", Ok(())),
            ("/a/b/c;v=1", Ok(())),
            ("/a%2Fb", Ok(())),
            ("/.well-known", Ok(())),
            ("/...", Ok(())),
            ("", Err(PrefixError::NoSlash)),
            ("fitness", Err(PrefixError::NoSlash)),
            ("/a?b", Err(PrefixError::Query)),
            ("/a#b", Err(PrefixError::Fragment)),
            ("/a b", Err(PrefixError::Byte)),
            ("/a\tb", Err(PrefixError::Byte)),
            ("/a\\b", Err(PrefixError::Byte)),
            ("/caf\u{e9}", Err(PrefixError::Byte)),
            ("/a%2", Err(PrefixError::Percent)),
            ("/a%zz", Err(PrefixError::Percent)),
            ("/a%+1", Err(PrefixError::Percent)),
            ("/a/../b", Err(PrefixError::DotSegment)),
            ("/a/.", Err(PrefixError::DotSegment)),
            ("/%2e%2E", Err(PrefixError::DotSegment)),
            ("/a%2f..", Err(PrefixError::DotSegment)),
            ("/..;x", Err(PrefixError::DotSegment)),
            ("/..%5ca", Err(PrefixError::DotSegment)),
            ("//", Err(PrefixError::EmptySegment)),
            ("/a//b", Err(PrefixError::EmptySegment)),
            ("/a//", Err(PrefixError::EmptySegment)),
        ] {
            assert_eq!(check(prefix), expected, "{prefix}");
        }
        assert_eq!(check(&format!("/{}", "a".repeat(255))), Ok(()));
        assert_eq!(check(&format!("/{}", "a".repeat(256))), Err(PrefixError::LongSegment));
        assert_eq!(check(&format!("/{}", "%61".repeat(255))), Ok(()));
    }

    #[test]
    fn spellings_of_the_same_segment_become_one() {
        for (segment, expected) in [
            ("fitness", "fitness"),
            ("%66itness", "fitness"),
            ("%7euser", "~user"),
            ("a%2fb", "a%2Fb"),
            ("a%2Fb", "a%2Fb"),
            ("%", "%"),
            ("%6", "%6"),
            ("%g6", "%g6"),
            // Decoded once: what comes out is not looked at again.
            ("%2566", "%2566"),
        ] {
            let mut buf = [0; MAX_SEGMENT];
            assert_eq!(normalise(segment.as_bytes(), &mut buf), Some(expected.as_bytes()), "{segment}");
        }
    }

    #[test]
    fn a_segment_longer_than_any_prefix_matches_nothing() {
        let mut buf = [0; MAX_SEGMENT];
        assert_eq!(normalise(&[b'a'; 256], &mut buf), None);
        let encoded = b"%61".repeat(256);
        assert_eq!(normalise(&encoded, &mut buf), None);
        let encoded = b"%2f".repeat(86);
        assert_eq!(normalise(&encoded, &mut buf), None);
    }
}
