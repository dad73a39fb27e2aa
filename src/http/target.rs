//! Request targets (RFC 9112 section 3.2), authorities (RFC 9110 section 7.2) and dot segments.
//!
//! Nothing is decoded or normalised here: what a target means is told by ranges of the bytes as sent (rule G7).

use std::net::Ipv6Addr;

use super::chars;
use super::error::HttpError;
use super::fields::{Fields, HeaderId};
use super::head::Version;
use crate::config::Scheme;

/// A request target, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Of a URL; valid and not empty.
    pub origin: Option<(Scheme, &'a [u8])>,
    /// Begins with `/`, also that of a URL which has none; or it is `*` of an OPTIONS.
    pub path: &'a [u8],
    /// Begins with `?`, or is empty where there is none.
    pub query: &'a [u8],
}

/// Takes `target` apart, all of whose bytes are visible ASCII: `head` refuses others. `#` is refused here (rule S12),
/// and [dot segments](has_dot_segment). CONNECT, which has a form of its own, is refused before (rule S16).
pub fn parse_target(target: &[u8], is_options: bool) -> Result<Target<'_>, HttpError> {
    let (origin, rest) = match target {
        [b'/', ..] => (None, target),
        b"*" if is_options => return Ok(Target { origin: None, path: target, query: b"" }),
        b"*" => return Err(HttpError::NotOptions),
        // absolute-form (RFC 9112 section 3.2.2).
        _ => {
            let (scheme, rest) = split_scheme(target).ok_or(HttpError::UnknownForm)?;
            let authority_len = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(authority_len);
            split_authority(authority).ok_or(HttpError::BadAuthority)?;
            (Some((scheme, authority)), rest)
        }
    };
    let (path, query) = split_query(rest)?;
    Ok(Target { origin, path: if path.is_empty() { b"/" } else { path }, query })
}

/// The scheme of a URL, whatever its case, and what follows its `://`; `None` for another one.
pub fn split_scheme(url: &[u8]) -> Option<(Scheme, &[u8])> {
    [(Scheme::Http, &b"http://"[..]), (Scheme::Https, b"https://")].into_iter().find_map(|(scheme, word)| {
        let (start, rest) = url.split_at_checked(word.len())?;
        start.eq_ignore_ascii_case(word).then_some((scheme, rest))
    })
}

/// Path, and query from its `?` on.
fn split_query(target: &[u8]) -> Result<(&[u8], &[u8]), HttpError> {
    let (mut path_len, mut may_have_dots) = (None, false);
    for (at, byte) in target.iter().enumerate() {
        match byte {
            b'#' => return Err(HttpError::Fragment),
            b'?' => path_len = path_len.or(Some(at)),
            b'.' => may_have_dots |= at == 0 || matches!(target[at - 1], b'/' | b'\\'),
            // It may stand for anything.
            b'%' => may_have_dots = true,
            _ => {}
        }
    }
    let (path, query) = target.split_at(path_len.unwrap_or(target.len()));
    if may_have_dots && has_dot_segment(path) { Err(HttpError::DotSegment) } else { Ok((path, query)) }
}

/// The authority that a request was made for: the value of Host, or where there is none, the URL's (rule S11).
///
/// Exactly one Host line, valid and not empty; where the target is a URL, both must agree (RFC 9112 section 3.2). In
/// HTTP/1.0 Host may be missing, and without a URL the authority is empty then.
///
/// `valid` is a Host value that this has accepted before, or empty: most requests on a connection, and most of a
/// proxy's, are for the same. That saves 150 instructions.
pub fn check_host<'a>(
    target: &Target<'a>,
    version: Version,
    fields: &'a Fields,
    valid: &[u8],
) -> Result<&'a [u8], HttpError> {
    let mut hosts = fields.values(HeaderId::Host);
    let host = match (hosts.next(), hosts.next(), version) {
        (Some(_), Some(_), _) => return Err(HttpError::HostRepeated),
        (Some(host), None, _) if host == valid && !host.is_empty() || split_authority(host).is_some() => Some(host),
        (Some(_), None, _) => return Err(HttpError::HostInvalid),
        (None, _, Version::Http11) => return Err(HttpError::HostMissing),
        (None, _, Version::Http10) => None,
    };
    match (target.origin, host) {
        (Some((scheme, authority)), Some(host)) if !same_authority(authority, host, scheme) => {
            Err(HttpError::HostMismatch)
        }
        (Some((_, authority)), None) => Ok(authority),
        (_, host) => Ok(host.unwrap_or_default()),
    }
}

/// Whether some origin could read a segment of `path` as `.` or `..` (rule S20). A segment ends at a slash or backslash;
/// `;` begins its parameters. Bytes may be percent-encoded, and more than once, because some decode what they are given
/// decoded. Beside that, the following is read as others read it, where nothing else stands in the segment:
///
/// | written | read as | by |
/// |---|---|---|
/// | `..%00x` | `..` | what is written in C |
/// | `..%3F`, `..%23` | `..` | who decodes before looking for the query |
/// | `..%20`, `%09..`, other controls | `..` | Windows, and who trims white space |
/// | `%u002e` | `.` | IIS |
/// | `%c0%ae`, `%e0%80%ae` (overlong UTF-8) | `.` | old Java, old Windows |
/// | `%ef%bc%8e`, `%e2%80%a4` (U+FF0E, U+2024) | `.` | best fit of Windows, Unicode normalisation |
///
/// No honest URL has any of these for a whole segment. Three dots and more are a name, as they always were.
pub fn has_dot_segment(path: &[u8]) -> bool {
    // Of the segment so far: dots, spaces and controls, and whether there is anything else.
    let (mut dots, mut blanks, mut is_name) = (0, 0, false);
    let mut rest = path;
    loop {
        let is_dots = !is_name && (matches!(dots, 1 | 2) || (dots > 0 && blanks > 0));
        if rest.is_empty() {
            return is_dots;
        }
        let (code, len) = read_code(rest);
        rest = &rest[len..];
        match code {
            // NUL, `#`, `;` and `?`: nothing that follows belongs to the name.
            SLASH | BACKSLASH | 0xff0f | 0xff3c | 0x00 | 0x23 | 0x3b | 0x3f if is_dots => return true,
            SLASH | BACKSLASH | 0xff0f | 0xff3c => (dots, blanks, is_name) = (0, 0, false),
            DOT | 0x2024 | 0xff0e => dots += 1,
            0x2025 => dots += 2,
            0x2026 => dots += 3,
            0x00..=0x20 | 0x7f => blanks += 1,
            _ => is_name = true,
        }
    }
}

const DOT: u32 = b'.' as u32;
const SLASH: u32 = b'/' as u32;
const BACKSLASH: u32 = b'\\' as u32;

/// The character at the start of `bytes`, which are not empty, and how many of them it takes. UTF-8 may be overlong; where
/// there is none, a byte stands for itself.
fn read_code(bytes: &[u8]) -> (u32, usize) {
    let (first, mut len) = decode_byte(bytes);
    let (bits, more) = match first {
        0xc0..=0xdf => (first & 0x1f, 1),
        0xe0..=0xef => (first & 0x0f, 2),
        0xf0..=0xf7 => (first & 0x07, 3),
        _ => return (first, len),
    };
    let alone = (first, len);
    let mut code = bits;
    for _ in 0..more {
        let (byte @ 0x80..=0xbf, more) = decode_byte(&bytes[len..]) else { return alone };
        code = code << 6 | (byte & 0x3f);
        len += more;
    }
    (code, len)
}

/// The byte at the start of `bytes` after percent-decoding, over and over, and how many bytes it takes; `%uXXXX` is a
/// character. Nothing is 0 bytes long, and no UTF-8.
fn decode_byte(bytes: &[u8]) -> (u32, usize) {
    let Some(&first) = bytes.first() else { return (0, 0) };
    let (mut byte, mut len) = (u32::from(first), 1);
    while byte == u32::from(b'%') {
        let rest = &bytes[len..];
        if let Some((decoded, digits_len)) = decode_digits(rest, 2) {
            (byte, len) = (decoded, len + digits_len);
        } else if let [b'u' | b'U', rest @ ..] = rest
            && let Some((code, digits_len)) = decode_digits(rest, 4)
        {
            return (code, len + 1 + digits_len);
        } else {
            break;
        }
    }
    (byte, len)
}

/// The number that `count` hexadecimal digits at the start of `bytes` make, and how many bytes they take. A digit may be
/// percent-encoded itself: who decodes twice reads `%25%32%65` as a dot.
fn decode_digits(bytes: &[u8], count: usize) -> Option<(u32, usize)> {
    let (mut number, mut len) = (0, 0);
    for _ in 0..count {
        let (digit, digit_len) = match bytes[len..] {
            [b'%', high, low, ..] => (chars::hex_digit(high)? << 4 | chars::hex_digit(low)?, 3),
            [digit, ..] => (digit, 1),
            [] => return None,
        };
        number = number << 4 | u32::from(chars::hex_digit(digit)?);
        len += digit_len;
    }
    Some((number, len))
}

/// Host, with its brackets where it has them, and port of `authority`; `None` where it is not valid, or has no host (rule
/// S11).
fn split_authority(authority: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_end = match authority {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|&byte| byte == b']')?;
            // A zone (RFC 6874) means something on the sender's machine only, and does not parse.
            let is_v6 = std::str::from_utf8(&rest[..end]).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
            if !is_v6 && !is_ip_future(&rest[..end]) {
                return None;
            }
            end + 2
        }
        _ => reg_name_len(authority)?,
    };
    let (host, rest) = authority.split_at(host_end);
    let port = match rest {
        // An empty port is as good as none (RFC 3986 section 3.2.3).
        [] | [b':'] => None,
        [b':', digits @ ..] if digits.len() <= 5 => Some(u16::try_from(chars::parse_decimal(digits)?).ok()?),
        _ => return None,
    };
    Some((host, port))
}

/// IPvFuture of RFC 3986 section 3.2.2: `v`, a version in hexadecimal, a dot, an address that nobody knows yet.
fn is_ip_future(literal: &[u8]) -> bool {
    let [b'v' | b'V', rest @ ..] = literal else { return false };
    let Some(dot) = rest.iter().position(|&byte| byte == b'.') else { return false };
    let (version, address) = (&rest[..dot], &rest[dot + 1..]);
    let is_address = !address.is_empty() && address.iter().all(|&byte| byte == b':' || chars::is_host_byte(byte));
    !version.is_empty() && version.iter().all(u8::is_ascii_hexdigit) && is_address
}

/// How many bytes at the start of `authority` are a reg-name of RFC 3986 section 3.2.2, which takes in IPv4 addresses;
/// `None` where there is none. What follows it is for the caller to check.
fn reg_name_len(authority: &[u8]) -> Option<usize> {
    let mut len = 0;
    loop {
        len += authority[len..].iter().position(|&byte| !chars::is_host_byte(byte)).unwrap_or(authority.len() - len);
        match &authority[len..] {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => len += 3,
            _ => return (len > 0).then_some(len),
        }
    }
}

/// The host of an authority, with its brackets where it has them; empty where it is not valid.
pub fn host_of(authority: &[u8]) -> &[u8] {
    split_authority(authority).map_or(b"", |(host, _)| host)
}

/// Whether two authorities name the same host and port: case does not matter, the default port is equal to none. What is
/// not valid is equal to nothing but itself.
pub fn same_authority(a: &[u8], b: &[u8], scheme: Scheme) -> bool {
    let port = |port: Option<u16>| port.unwrap_or(scheme.default_port());
    match (split_authority(a), split_authority(b)) {
        (Some((a, a_port)), Some((b, b_port))) => a.eq_ignore_ascii_case(b) && port(a_port) == port(b_port),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum With {
        Get,
        Options,
    }

    fn parse(target: &[u8], with: With) -> Result<Target<'_>, HttpError> {
        parse_target(target, matches!(with, With::Options))
    }

    fn is_authority(text: &[u8]) -> bool {
        split_authority(text).is_some()
    }

    fn origin<'a>(path: &'a str, query: &'a str) -> Result<Target<'a>, HttpError> {
        Ok(Target { origin: None, path: path.as_bytes(), query: query.as_bytes() })
    }

    fn absolute<'a>(secure: bool, authority: &'a str, path: &'a str, query: &'a str) -> Result<Target<'a>, HttpError> {
        let scheme = if secure { Scheme::Https } else { Scheme::Http };
        let origin = Some((scheme, authority.as_bytes()));
        Ok(Target { origin, path: path.as_bytes(), query: query.as_bytes() })
    }

    #[test]
    fn s12_targets_have_one_of_three_forms() {
        for (name, input, with, expected) in [
            ("the root", "/", With::Get, origin("/", "")),
            ("a query", "/a?b=c?d;%zz", With::Get, origin("/a", "?b=c?d;%zz")),
            ("an empty query", "/a?", With::Get, origin("/a", "?")),
            ("two slashes", "//a.example/b", With::Get, origin("//a.example/b", "")),
            ("odd but printable", "/a|{}\"<>^`\\", With::Get, origin("/a|{}\"<>^`\\", "")),
            ("a URL", "http://a.example/b?c", With::Get, absolute(false, "a.example", "/b", "?c")),
            ("a URL with a port", "HTTPS://a:8443/", With::Get, absolute(true, "a:8443", "/", "")),
            ("a URL without path", "http://a", With::Get, absolute(false, "a", "/", "")),
            ("a URL without path, with query", "http://a?x=1/2", With::Get, absolute(false, "a", "/", "?x=1/2")),
            ("a URL with IPv6", "http://[::1]:80/a", With::Get, absolute(false, "[::1]:80", "/a", "")),
            ("asterisk", "*", With::Options, origin("*", "")),
            ("a path with OPTIONS", "/*", With::Options, origin("/*", "")),
            ("a fragment", "/a#b", With::Get, Err(HttpError::Fragment)),
            ("a fragment in a URL", "http://a#b", With::Get, Err(HttpError::Fragment)),
            ("a fragment behind a query", "/a?b#c", With::Get, Err(HttpError::Fragment)),
            ("nothing", "", With::Get, Err(HttpError::UnknownForm)),
            ("asterisk with GET", "*", With::Get, Err(HttpError::NotOptions)),
            ("no slash", "a/b", With::Get, Err(HttpError::UnknownForm)),
            ("another scheme", "ftp://a/", With::Get, Err(HttpError::UnknownForm)),
            ("no authority in the URL", "http:/a", With::Get, Err(HttpError::UnknownForm)),
            ("host and port with GET", "a:443", With::Get, Err(HttpError::UnknownForm)),
            ("only a query", "?a", With::Get, Err(HttpError::UnknownForm)),
        ] {
            assert_eq!(parse(input.as_bytes(), with), expected, "{name}");
        }
    }

    #[test]
    fn s11_urls_have_a_valid_authority() {
        for (name, input) in [
            ("empty", "http:///a"),
            ("empty with query", "http://?a"),
            ("userinfo", "http://user:password@a/"),
            ("a comma", "http://a,b/"),
            ("only a port", "http://:80/"),
            ("a backslash", "http://a\\b/"),
        ] {
            assert_eq!(parse(input.as_bytes(), With::Get), Err(HttpError::BadAuthority), "{name}");
        }
    }

    #[test]
    fn s11_host_is_an_authority() {
        for (name, input, expected) in [
            ("empty", "", false),
            ("a name", "example.com", true),
            ("a name and a port", "Example.COM:8080", true),
            ("a name that ends with a dot", "example.com.", true),
            ("an underscore", "my_service", true),
            ("sub-delims", "a!$&'()*+;=b~", true),
            ("percent-encoded", "a%2fb", true),
            ("percent-encoded, at the start and at the end", "%61bcdef%2f:80", true),
            ("IPv4", "127.0.0.1:80", true),
            ("IPv6", "[2001:db8::1]", true),
            ("IPv6 and a port", "[::ffff:1.2.3.4]:65535", true),
            ("a port with zeros", "a:00080", true),
            ("a port of six digits", "a:000080", false),
            ("a port too high", "a:65536", false),
            ("an empty port", "a:", true),
            ("an empty port after IPv6", "[::1]:", true),
            ("nothing but an empty port", ":", false),
            ("two empty ports", "a::", false),
            ("a port with a sign", "a:+80", false),
            ("a port in words", "a:http", false),
            ("only a port", ":80", false),
            ("two ports", "a:80:80", false),
            ("a comma", "a,b", false),
            ("userinfo", "user@a", false),
            ("a path", "a/b", false),
            ("a query", "a?b", false),
            ("a fragment", "a#b", false),
            ("a backslash", "a\\b", false),
            ("a space", "a b", false),
            ("from 0x80", "\u{e9}", false),
            ("broken percent-encoding", "a%2", false),
            ("percent-encoding that is none", "a%zz", false),
            ("only the first digit is one", "a%2z", false),
            ("only the second digit is one", "a%z2", false),
            ("IPv6 without brackets", "::1", false),
            ("IPv6 without an end", "[::1", false),
            ("IPv6 with a zone", "[fe80::1%25eth0]", false),
            ("something after IPv6", "[::1]a", false),
            ("IPv4 in brackets", "[127.0.0.1]", false),
            ("a future version", "[v1.a]", true),
            ("a future version and a port", "[VaF.a:b~!]:80", true),
            ("a future version of none", "[v.a]", false),
            ("a future version that is no number", "[vg.a]", false),
            ("a future address of none", "[v1.]", false),
            ("a future address that is a list", "[v1.a,b]", false),
            ("a future address with userinfo", "[v1.a@b]", false),
            ("a future version without an address", "[v1]", false),
            ("empty brackets", "[]", false),
        ] {
            assert_eq!(is_authority(input.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn s11_same_authority_knows_case_and_default_ports() {
        for (name, a, b, secure, expected) in [
            ("itself", "a", "a", false, true),
            ("another case", "A.example", "a.EXAMPLE", false, true),
            ("port 80", "a:80", "a", false, true),
            ("port 443", "a", "a:443", true, true),
            ("port 80 in https", "a:80", "a", true, false),
            ("port 443 in http", "a:443", "a", false, false),
            ("zeros", "a:080", "a", false, true),
            ("other ports", "a:81", "a:82", false, false),
            ("other hosts", "a", "b", false, false),
            ("a dot at the end", "a.", "a", false, false),
            ("IPv6", "[::A]:80", "[::a]", false, true),
            ("an empty port", "a:", "a", false, true),
            ("an empty port and the default one", "[::1]:", "[::1]:443", true, true),
            ("an empty port and another", "a:", "a:81", false, false),
            ("invalid", "a::", "a", false, false),
            ("both empty", "", "", false, true),
            ("one empty", "", "a", false, false),
        ] {
            let scheme = if secure { Scheme::Https } else { Scheme::Http };
            assert_eq!(same_authority(a.as_bytes(), b.as_bytes(), scheme), expected, "{name}");
            assert_eq!(same_authority(b.as_bytes(), a.as_bytes(), scheme), expected, "{name}, swapped");
        }
    }

    #[test]
    fn s11_a_request_has_one_host_that_agrees_with_its_target() {
        for (name, target, hosts, version, expected) in [
            ("one", "/", &["a:81"][..], Version::Http11, Ok("a:81")),
            ("none in HTTP/1.0", "/", &[], Version::Http10, Ok("")),
            ("a URL in HTTP/1.0", "http://a/", &[], Version::Http10, Ok("a")),
            ("a URL and the same Host", "http://A:80/", &["a"], Version::Http11, Ok("a")),
            ("none", "/", &[], Version::Http11, Err(HttpError::HostMissing)),
            ("none, with a URL", "http://a/", &[], Version::Http11, Err(HttpError::HostMissing)),
            ("two", "/", &["a", "a"], Version::Http11, Err(HttpError::HostRepeated)),
            ("two in HTTP/1.0", "/", &["a", "b"], Version::Http10, Err(HttpError::HostRepeated)),
            ("empty", "/", &[""], Version::Http11, Err(HttpError::HostInvalid)),
            ("a list", "/", &["a, b"], Version::Http11, Err(HttpError::HostInvalid)),
            ("userinfo", "/", &["a@b"], Version::Http10, Err(HttpError::HostInvalid)),
            ("a URL and another Host", "http://a/", &["b"], Version::Http11, Err(HttpError::HostMismatch)),
            ("a URL and another port", "https://a/", &["a:80"], Version::Http11, Err(HttpError::HostMismatch)),
        ] {
            let mut fields = Fields::new();
            hosts.iter().for_each(|host| fields.add(b"Host", host.as_bytes()));
            let target = parse(target.as_bytes(), With::Get).expect("valid");
            // What was accepted before changes nothing.
            for valid in [&b""[..], b"a"] {
                let found = check_host(&target, version, &fields, valid);
                assert_eq!(found, expected.map(str::as_bytes), "{name}, after {valid:?}");
            }
        }
    }

    #[test]
    fn s20_dot_segments_are_found_in_every_disguise() {
        for (path, expected) in [
            ("/", false),
            ("", false),
            ("/a/b.c/..d/e..", false),
            ("/...", false),
            ("/.../a", false),
            ("/.a/a./.well-known", false),
            ("/a%2Fb%5cc", false),
            ("/a;.", false),
            ("/a;x=..", false),
            ("/a;/..a", false),
            ("/%", false),
            ("/%2", false),
            ("/%zz/.%zz", false),
            ("//", false),
            ("/a%00/%20/%00", false),
            ("/a%20..%20b/..a%20/..%20a/%2e%2e%00a%2", true),
            ("/a%20..%20b/..a%20/..%20a/%2e%2ea%00", false),
            ("/%25/%2525/%25zz/%u/%u00/%u00zz", false),
            ("/%c0/%c0%2f/%e0%80/%f0%80%80/%ff/%80", false),
            ("/caf%c3%a9/%e2%80%a6/%ef%bc%8f", false),
            ("/...%2f", false),
            ("/.%00/", true),
            ("/..%00", true),
            ("/..%00.png", true),
            ("/%00..", true),
            ("/..%20", true),
            ("/..%20/x", true),
            ("/%20.%2e%09/x", true),
            ("/.%0d%0a", true),
            ("/..%7f", true),
            ("/...%20", true),
            ("/..%3fx", true),
            ("/..%23x", true),
            ("/%252e%252e/", true),
            ("/%25252E.", true),
            ("/%25%32%65%25%32%65/b", true),
            ("/%%32%65%2%65", true),
            ("/a/..%25%32%66b", true),
            ("/a/..%%35cb", true),
            ("/%u00%32e", true),
            ("/%25%32%65a", false),
            ("/%%32%3", false),
            ("/%25%32%25", false),
            ("/a%252f..%252fb", true),
            ("/a%255c..", true),
            ("/%u002e%u002E/x", true),
            ("/%25u002e", true),
            ("/a%u002f..", true),
            ("/%c0%ae%c0%ae/x", true),
            ("/%e0%80%ae.", true),
            ("/%f0%80%80%ae", true),
            ("/a%c0%af../x", true),
            ("/..%c1%9cx", true),
            ("/%ef%bc%8e%ef%bc%8e", true),
            ("/%e2%80%a5/", true),
            ("/%e2%80%a6%20/", true),
            ("/%e2%80%a4%uff0e", true),
            ("/..%ef%bc%8f", true),
            ("/.", true),
            ("/..", true),
            ("/a/../b", true),
            ("/a/./b", true),
            ("/a/%2e%2E/b", true),
            ("/a/.%2e;x", true),
            ("/a/%2e", true),
            ("/a/..%2fb", true),
            ("/a/..%5cb", true),
            ("/a%2f..", true),
            ("/a%5C%2e%2e%5Cb", true),
            ("/a\\..\\b", true),
            ("/a/..;/b", true),
            ("/a/.;", true),
            ("/a/..%3Bx", true),
            ("/a;b/..", true),
            ("/a;b%2f../c", true),
            ("..", true),
        ] {
            assert_eq!(has_dot_segment(path.as_bytes()), expected, "{path}");
            for before in ["/", "/a/", "/a.b/", "/abcdefghijklmno/"] {
                let target = format!("{before}{path}?c=%2e/../");
                let is_refused = parse_target(target.as_bytes(), false) == Err(HttpError::DotSegment);
                assert!(is_refused == expected || path.contains(['?', '#']), "{target}");
            }
        }
    }

    #[test]
    fn errors_name_their_rule() {
        for (error, rule) in
            [(HttpError::Fragment, "S12"), (HttpError::HostRepeated, "S11"), (HttpError::DotSegment, "S20")]
        {
            assert_eq!(error.rule(), rule);
            assert!(error.expected().starts_with("expected"));
        }
    }
}
