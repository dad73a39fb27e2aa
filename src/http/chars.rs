//! Byte classes of RFC 9110 and RFC 9112, and strict numbers.
//!
//! Rust's own number parsers accept a leading `+`; digits of a protocol are never given to them.

/// Whether `name` is a token (RFC 9110 section 5.6.2): at least one tchar, nothing else.
pub fn is_token(name: &[u8]) -> bool {
    todo!("{name:?}")
}

/// Whether `value` may stand in a field value: VCHAR, SP, HTAB, obs-text; no CR, LF, NUL or other control,
/// and no white space at either end (RFC 9110 section 5.5).
pub fn is_field_value(value: &[u8]) -> bool {
    todo!("{value:?}")
}

/// Digits only, no sign, no white space; `None` when empty, when anything else stands there, or above 2^63-1.
pub fn parse_decimal(digits: &[u8]) -> Option<u64> {
    todo!("{digits:?}")
}

/// Appends `number` in decimal.
pub fn write_decimal(number: u64, out: &mut Vec<u8>) {
    todo!("{number:?}{out:?}")
}

/// `value` without SP and HTAB at both ends (OWS of RFC 9110 section 5.6.3).
pub fn trim_ows(value: &[u8]) -> &[u8] {
    todo!("{value:?}")
}

/// The non-empty members of a comma-separated list (RFC 9110 section 5.6.1.2: a recipient ignores empty ones).
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim_ows).filter(|member| !member.is_empty())
}
