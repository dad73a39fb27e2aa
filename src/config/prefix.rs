//! Route prefixes: what is a valid one, and how its segments are compared with those of a path.
//!
//! Two spellings are the same where only percent-encoded unreserved characters (RFC 3986 section 2.3) or the case of
//! hexadecimal digits differ: `/%66itness` is `/fitness`, `/a%2fb` is `/a%2Fb`. An encoded slash stays an encoded slash.

use std::borrow::Cow;

/// The longest segment of a prefix, in bytes after normalising.
const MAX_SEGMENT: usize = 255;
/// The longest prefix, in bytes as written, and so in its normal form.
pub const MAX_PREFIX: usize = 1024;

// What is wrong with a prefix, the first also with an upstream URL.
pub(super) const BYTE: &str = "only visible ASCII but ? # and \\ can stand here, and two hexadecimal digits after each %: percent-encode a path (a space is %20, % is %25), write a name as xn--...";
const NO_SLASH: &str = "a prefix begins with \"/\": write \"prefix: /path\"";
/// Rule S20.
pub(super) const DOT_SEGMENT: &str =
    "requests with a segment \".\" or \"..\" are refused, so this path would never be asked for: remove the segment";
const EMPTY_SEGMENT: &str = "\"//\" makes an empty segment: write one slash";
const LONG_SEGMENT: &str = "a segment has at most 255 bytes";
const LONG: &str = "a prefix has at most 1024 bytes";

/// Checks `prefix`.
pub fn check(prefix: &str) -> Result<(), &'static str> {
    let inner = prefix.strip_prefix('/').ok_or(NO_SLASH)?;
    if !is_plain(prefix) {
        return Err(BYTE);
    }
    if prefix.len() > MAX_PREFIX {
        return Err(LONG);
    }
    if inner.is_empty() {
        return Ok(());
    }
    inner.strip_suffix('/').unwrap_or(inner).split('/').try_for_each(|segment| match &*normalise(segment.as_bytes()) {
        [] => Err(EMPTY_SEGMENT),
        b"." | b".." => Err(DOT_SEGMENT),
        segment if segment.len() > MAX_SEGMENT => Err(LONG_SEGMENT),
        _ => Ok(()),
    })
}

/// What may stand in a prefix or an upstream URL.
pub(super) fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    (0..bytes.len()).all(|at| match bytes[at] {
        b'%' => encoded_byte(&bytes[at..]).is_some(),
        byte => byte.is_ascii_graphic() && !b"?#\\".contains(&byte),
    })
}

/// The segments of a prefix, as written. `/` has none; a slash at the end adds none.
pub fn segments(prefix: &str) -> impl Iterator<Item = &str> {
    prefix.split('/').filter(|segment| !segment.is_empty())
}

/// The one spelling of all prefixes that match the same paths as this one: two routes may not share it.
pub fn normal_form(prefix: &str) -> Vec<u8> {
    normalise(prefix.strip_suffix('/').unwrap_or(prefix).as_bytes()).into_owned()
}

/// `path` with unreserved characters decoded and other `%xx` in upper case. It has as many slashes as before.
pub fn normalise(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let (mut normal, mut rest) = (Vec::with_capacity(path.len()), path);
    while let Some(&first) = rest.first() {
        let encoded = encoded_byte(rest);
        match encoded {
            // RFC 3986 section 2.3.
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(byte),
            Some(_) => normal.extend(rest[..3].iter().map(u8::to_ascii_uppercase)),
            None => normal.push(first),
        }
        rest = &rest[if encoded.is_some() { 3 } else { 1 }..];
    }
    Cow::Owned(normal)
}

/// The byte that a `%xx` at the start of `bytes` stands for.
fn encoded_byte(bytes: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Each `%xx` as the byte that it stands for.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some(&first) = rest.first() {
        let byte = encoded_byte(rest);
        decoded.push(byte.unwrap_or(first));
        rest = &rest[if byte.is_some() { 3 } else { 1 }..];
    }
    decoded
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
            ("", Err(NO_SLASH)),
            ("fitness", Err(NO_SLASH)),
            ("/a?b", Err(BYTE)),
            ("/a#b", Err(BYTE)),
            ("/a b", Err(BYTE)),
            ("/a\tb", Err(BYTE)),
            ("/a\\b", Err(BYTE)),
            ("/caf\u{e9}", Err(BYTE)),
            ("/a%2", Err(BYTE)),
            ("/a%zz", Err(BYTE)),
            ("/a%+1", Err(BYTE)),
            ("/a/../b", Err(DOT_SEGMENT)),
            ("/a/.", Err(DOT_SEGMENT)),
            ("/%2e%2E", Err(DOT_SEGMENT)),
            ("//", Err(EMPTY_SEGMENT)),
            ("/a//b", Err(EMPTY_SEGMENT)),
            ("/a//", Err(EMPTY_SEGMENT)),
        ] {
            assert_eq!(check(prefix), expected, "{prefix}");
        }
        assert_eq!(check(&format!("/{}", "a".repeat(255))), Ok(()));
        assert_eq!((check(&"/a".repeat(512)), check(&"/a".repeat(513))), (Ok(()), Err(LONG)));
        assert_eq!(check(&format!("/{}", "a".repeat(256))), Err(LONG_SEGMENT));
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
            assert_eq!(&*normalise(segment.as_bytes()), expected.as_bytes(), "{segment}");
        }
    }
}
