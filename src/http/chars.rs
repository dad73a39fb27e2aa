//! Byte classes of RFC 9110 and RFC 9112, and strict numbers.
//!
//! Rust's own number parsers accept a leading `+`; digits of a protocol are never given to them (rules S2, S5).

pub use mini_rproxy_plugin::validate::{is_tchar, is_token};

/// Whether `byte` may stand in a field value: VCHAR, SP, HTAB, obs-text (RFC 9110 section 5.5).
pub const fn is_field_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..=0xff)
}

/// Whether `byte` may stand as itself in the name of a host (unreserved and sub-delims of RFC 3986 section 2); no comma, at
/// which recipients of a Host line split lists (rule S11).
pub const fn is_host_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=')
}

/// Where `byte` is found first.
pub fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    bytes.iter().position(|&other| other == byte)
}

/// Digits only, no sign, no white space; `None` when empty, when anything else stands there, or above 2^63-1.
pub fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })?;
    // Peers that count in signed integers must not see another number than we do.
    (number <= i64::MAX as u64).then_some(number)
}

/// The value of one hexadecimal digit.
pub fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Appends `number` in decimal.
#[inline]
pub fn write_decimal(number: u64, out: &mut Vec<u8>) {
    // Most parts of an address.
    if number < 10 { out.push(b'0' + number as u8) } else { write_digits(number, out) }
}

fn write_digits(mut number: u64, out: &mut Vec<u8>) {
    const MOST: usize = 20;
    // Twice as long, so that always as many bytes are copied: that takes no call.
    let mut digits = [0; 2 * MOST];
    let mut start = MOST;
    while start > 0 && number > 0 {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[start..start + MOST]);
    out.truncate(out.len() - start);
}

/// The non-empty members of a comma-separated list (RFC 9110 section 5.6.1.2: a recipient ignores empty ones).
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(value, b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Whether a comma-separated list holds `token`, whatever its case.
pub fn list_has(value: &[u8], token: &[u8]) -> bool {
    list_members(value).any(|member| member.eq_ignore_ascii_case(token))
}

/// Appends a member to a comma-separated list.
pub fn add_to_list(member: &[u8], list: &mut Vec<u8>) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(member);
}

/// The parts of `bytes` between separators, empty ones included: one more than there are separators.
pub fn split(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    bytes.split(move |&byte| byte == separator)
}

/// Whether `bytes`, a name or part of a value, is `word` in any case; `word` is made of lower-case letters, digits, dashes
/// and slashes.
///
/// A machine word at a time: this is asked for each line of each head. Digits, dashes and slashes have the bit that makes
/// a letter lower case; besides upper-case letters only controls gain it, and they stand in no name and no value.
#[inline]
pub fn is_word(bytes: &[u8], word: &[u8]) -> bool {
    const LOWER: u64 = u64::from_ne_bytes([0x20; 8]);
    let eight = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) | LOWER == u64::from_ne_bytes(*b);
    if bytes.len() != word.len() {
        return false;
    }
    // The last one may overlap with those before it.
    if let (Some(end), Some(word_end)) = (bytes.last_chunk(), word.last_chunk()) {
        eight((end, word_end)) && bytes.as_chunks().0.iter().zip(word.as_chunks().0).all(eight)
    } else if let ([a, b, c, d], [w, x, y, z]) = (bytes, word) {
        // Host, Date, Link.
        [a | 0x20, b | 0x20, c | 0x20, d | 0x20] == [*w, *x, *y, *z]
    } else {
        bytes.iter().zip(word).all(|(byte, letter)| byte | 0x20 == *letter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_tchars_and_nothing_else() {
        let expected: Vec<u8> =
            b"!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~".to_vec();
        let found: Vec<u8> = (0..=255).filter(|&byte| is_tchar(byte)).collect();
        assert_eq!(found, expected);
        for (name, input, expected) in [
            ("a name", &b"Content-Length"[..], true),
            ("empty", b"", false),
            ("a space", b"a b", false),
            ("a colon", b"a:", false),
            ("obs-text", b"\xe4", false),
        ] {
            assert_eq!(is_token(input), expected, "{name}");
        }
    }

    #[test]
    fn s11_host_bytes_are_unreserved_or_sub_delims_but_no_comma() {
        let expected: Vec<u8> =
            b"!$&'()*+-.0123456789;=ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~".to_vec();
        let found: Vec<u8> = (0..=255).filter(|&byte| is_host_byte(byte)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn s2_decimals_are_digits_up_to_2_63_minus_1() {
        for (name, input, expected) in [
            ("zero", &b"0"[..], Some(0)),
            ("leading zeros", b"000000000000000000000000042", Some(42)),
            ("the largest", b"9223372036854775807", Some(9_223_372_036_854_775_807)),
            ("one more", b"9223372036854775808", None),
            ("2^64-1", b"18446744073709551615", None),
            ("2^64", b"18446744073709551616", None),
            ("very long", b"99999999999999999999999999999999", None),
            ("empty", b"", None),
            ("plus", b"+1", None),
            ("minus", b"-0", None),
            ("hex", b"0x1", None),
            ("underscore", b"1_0", None),
            ("inner space", b"1 0", None),
            ("outer space", b" 1", None),
            ("list", b"1,1", None),
            ("fraction", b"1.0", None),
        ] {
            assert_eq!(parse_decimal(input), expected, "{name}");
        }
    }

    #[test]
    fn decimals_are_written_as_they_are_read() {
        for number in [0, 1, 9, 10, 42, 99, 100, 255, 999, 1000, 65_535, 65_536 + 7, i64::MAX as u64] {
            let mut out = b"x".to_vec();
            write_decimal(number, &mut out);
            assert_eq!(parse_decimal(&out[1..]), Some(number));
        }
        let mut out = Vec::new();
        write_decimal(u64::MAX, &mut out);
        assert_eq!(out, b"18446744073709551615");
    }

    #[test]
    fn hex_digits_have_values() {
        for byte in 0..=255_u8 {
            let expected = char::from(byte).to_digit(16).map(|value| value as u8);
            assert_eq!(hex_digit(byte), expected, "{byte:#x}");
        }
    }

    #[test]
    fn lists_lose_white_space_and_empty_members() {
        for (name, input, expected) in [
            ("one", &b"close"[..], vec![&b"close"[..]]),
            ("first is empty", b", a", vec![b"a"]),
            ("spaces and tabs", b" a\t,\t b c ,", vec![b"a", b"b c"]),
            ("nothing", b" ,\t, ", vec![]),
        ] {
            assert_eq!(list_members(input).collect::<Vec<_>>(), expected, "{name}");
        }
    }

    #[test]
    fn words_are_compared_whatever_their_case() {
        for word in ["te", "via", "host", "x-a2b", "location", "keep-alive", "text/event-stream"] {
            assert!(is_word(word.as_bytes(), word.as_bytes()), "{word}");
            assert!(is_word(word.to_uppercase().as_bytes(), word.as_bytes()), "{word}");
            assert!(!is_word(&word.as_bytes()[1..], word.as_bytes()), "{word} without its first letter");
            // Miri takes some of the bytes only.
            let step = if cfg!(miri) { 31 } else { 1 };
            for at in 0..word.len() {
                for byte in (0x20..=0xff_u8).filter(|&byte| is_field_byte(byte)).chain([b'\t']).step_by(step) {
                    let mut bytes = word.as_bytes().to_vec();
                    bytes[at] = byte;
                    let expected = bytes.eq_ignore_ascii_case(word.as_bytes());
                    assert_eq!(is_word(&bytes, word.as_bytes()), expected, "{}", bytes.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn tokens_are_found_in_lists() {
        for (value, expected) in
            [("websocket", true), ("h2c, WebSocket", true), (" websocket ,", true), ("websockets", false), ("", false)]
        {
            assert_eq!(list_has(value.as_bytes(), b"websocket"), expected, "{value}");
        }
    }
}
