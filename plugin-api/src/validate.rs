//! Checks of what a plugin writes into a message, the same in the proxy and in [`crate::testing`]. Nothing that passes can
//! break the framing of a message, add a second line to a field, or change what concerns the connection.

/// What all plugins together may add to the line of the access log: pairs, and bytes of a key and of a value.
pub const MAX_PAIRS: usize = 8;
/// See [`MAX_PAIRS`].
pub const MAX_PAIR_KEY: usize = 64;
/// See [`MAX_PAIRS`].
pub const MAX_PAIR_VALUE: usize = 512;
/// The line's own keys.
pub const ACCESS_KEYS: &str = "time level msg client method path prefix route_host upstream status bytes_in bytes_out reused retries \
                               head_ms connect_ms first_byte_ms total_ms why rule detail timeline advice";

/// Keys in the values of one exchange.
pub const MAX_VALUE_KEYS: usize = 64;
/// Bytes of all keys and values of one exchange.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Whether `byte` may stand in a token (tchar of RFC 9110 section 5.6.2).
pub const fn is_tchar(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

/// Whether `name` is a token (RFC 9110 section 5.6.2).
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| is_tchar(byte))
}

/// Whether `value` may be a field value (RFC 9110 section 5.5): no control but HTAB, no white space at either end.
pub fn is_field_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
        && !blank(value.first())
        && !blank(value.last())
}

/// Whether `target` may be sent: origin-form, visible ASCII, no fragment (rule S12).
pub fn is_target(target: &[u8]) -> bool {
    target.first() == Some(&b'/') && target.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#')
}

/// Whether `authority` may be sent as Host: a name, an IPv4 address or a bracketed IPv6 address, perhaps with a port of up
/// to 65535; no user information, no list (rule S11).
pub fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = if authority.first() == Some(&b'[') {
        let Some(end) = authority.iter().position(|&byte| byte == b']') else { return false };
        let inside = &authority[1..end];
        if inside.is_empty() || !inside.iter().all(|&byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.') {
            return false;
        }
        (&authority[..=end], &authority[end + 1..])
    } else {
        authority.split_at(authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len()))
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%[]:".contains(byte);
    !host.is_empty() && host.iter().all(is_name) && (port.is_empty() || (port[0] == b':' && is_port(&port[1..])))
}

/// At most five digits, no more than 65535; none at all is no port.
fn is_port(digits: &[u8]) -> bool {
    let number = |number: u32, digit: &u8| digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0'));
    digits.len() <= 5 && digits.iter().try_fold(0, number).is_some_and(|number| number <= 65535)
}

/// Fields that only the host writes: framing, and what concerns one connection only (RFC 9110 section 7.6.1, rule G1).
const HOST_ONLY: [&[u8]; 14] = [
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"http2-settings",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"via",
];

/// Whether plugins must leave fields of that name alone. `content_length` and `content.length` count as `content-length`
/// (rule S9).
pub fn is_host_only(name: &[u8]) -> bool {
    let same = |own: &&[u8]| {
        own.len() == name.len()
            && own
                .iter()
                .zip(name)
                .all(|(&own, &byte)| own == if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' })
    };
    HOST_ONLY.iter().any(same)
}

/// Whether the method may become `new`. HEAD decides whether a response has a body, CONNECT and TRACE mean other
/// protocols: a plugin cannot turn a request into one of these or back.
pub fn may_change_method(old: &[u8], new: &[u8]) -> bool {
    let fixed = |method: &[u8]| matches!(method, b"HEAD" | b"CONNECT" | b"TRACE");
    old == new || !(fixed(old) || fixed(new))
}

/// Whether a response with this status never has a body (RFC 9110 section 6.4.1).
pub fn is_bodiless(status: u16) -> bool {
    matches!(status, 204 | 304)
}

/// A final status code of three decimal digits, 200 to 599.
pub fn parse_status(digits: &[u8]) -> Option<u16> {
    let &[a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] = digits else { return None };
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// Whether `name` can be that of a metric: lower-case letters, digits and `_`, at most 64, a letter first.
pub fn is_metric_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(what: &str, ask: impl Fn(&[u8]) -> bool, rows: &[(&[u8], bool)]) {
        for &(input, expected) in rows {
            assert_eq!(ask(input), expected, "{what}: {}", input.escape_ascii());
        }
    }

    #[test]
    fn names_are_tokens() {
        let rows: &[(&[u8], bool)] =
            &[(b"x-demo", true), (b"X_1!", true), (b"", false), (b"a b", false), (b"a:", false), (b"a\xff", false)];
        check("token", is_token, rows);
        let tchars: Vec<u8> = (0..=255).filter(|&byte| is_token(&[byte])).collect();
        assert_eq!(tchars, b"!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~");
    }

    #[test]
    fn values_cannot_split_a_line() {
        let rows: &[(&[u8], bool)] = &[
            (b"", true),
            (b"a b\tc", true),
            (b"\xe4", true),
            (b"a\r\nb: c", false),
            (b"a\n", false),
            (b"a\rb", false),
            (b"a\0", false),
            (b"\x7f", false),
            (b" a", false),
            (b"a\t", false),
        ];
        check("value", is_field_value, rows);
    }

    #[test]
    fn s12_target_is_origin_form() {
        let rows: &[(&[u8], bool)] = &[
            (b"/", true),
            (b"/a?b=%20;c", true),
            (b"", false),
            (b"*", false),
            (b"a", false),
            (b"http://h/", false),
            (b"/a b", false),
            (b"/a#b", false),
            (b"/a\r\n", false),
            (b"/\xc3", false),
        ];
        check("target", is_target, rows);
    }

    #[test]
    fn s11_authority_is_one_host() {
        let rows: &[(&[u8], bool)] = &[
            (b"a.example", true),
            (b"127.0.0.1:80", true),
            (b"[::1]", true),
            (b"[::1]:8080", true),
            (b"", false),
            (b":80", false),
            (b"a,b", false),
            (b"u@h", false),
            (b"h/p", false),
            (b"h:8x", false),
            (b"h:123456", false),
            (b"h:99999", false),
            (b"h:65536", false),
            (b"h:65535", true),
            (b"h:00080", true),
            (b"h:", true),
            (b"h:+1", false),
            (b"[::1", false),
            (b"[]", false),
            (b"[::1]x", false),
            (b"a b", false),
        ];
        check("authority", is_authority, rows);
    }

    #[test]
    fn g1_connection_fields_belong_to_the_host() {
        let rows: &[(&[u8], bool)] = &[
            (b"Content-Length", true),
            (b"TRANSFER_ENCODING", true),
            (b"Transfer.Encoding", true),
            (b"transfer1encoding", false),
            (b"connection", true),
            (b"Host", true),
            (b"x-connection", false),
            (b"content-type", false),
        ];
        check("host only", is_host_only, rows);
    }

    #[test]
    fn status_and_method() {
        let rows: &[(&[u8], bool)] = &[
            (b"200", true),
            (b"599", true),
            (b"199", false),
            (b"600", false),
            (b"099", false),
            (b"20", false),
            (b"2000", false),
            (b"+20", false),
        ];
        check("status", |digits| parse_status(digits).is_some(), rows);
        assert_eq!(parse_status(b"404"), Some(404));
        for (old, new, expected) in
            [("GET", "POST", true), ("GET", "HEAD", false), ("HEAD", "GET", false), ("GET", "TRACE", false)]
        {
            assert_eq!(may_change_method(old.as_bytes(), new.as_bytes()), expected, "{old} {new}");
        }
    }
}
