//! Request targets and routes, against models that are slow and plain.

use mini_rproxy::config::{Scheme, prefix};
use mini_rproxy::http::fields::Fields;
use mini_rproxy::http::head::Version;
use mini_rproxy::http::target::{Target, check_host, has_dot_segment, parse_target, same_authority};
use mini_rproxy::proxy::route::{Match, Router, write_target};
use mini_rproxy_plugin::validate::is_authority;

use crate::input::Input;

/// A byte of flags; then lines: a target, a Host, route prefixes.
pub fn target_route(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let mut lines = input.0.split(|&byte| byte == b'\n');
    let (target, host) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let prefixes: Vec<&str> = lines.filter_map(|line| std::str::from_utf8(line).ok()).collect();

    // Other bytes are refused with the head.
    if !target.iter().all(u8::is_ascii_graphic) {
        return;
    }
    let expected = has_dots(&decoded_once(target));
    // What is encoded in other ways may be dots too, for some.
    if expected || !target.contains(&b'%') {
        assert_eq!(has_dot_segment(target), expected, "{}", target.escape_ascii());
    }
    assert!(same_authority(host, host, if flags & 1 == 0 { Scheme::Https } else { Scheme::Http }));
    assert_eq!(same_authority(host, target, Scheme::Http), same_authority(target, host, Scheme::Http));
    let Ok(parsed) = parse_target(target, flags & 4 != 0) else { return };
    assert!(!target.contains(&b'#'));
    let mut fields = Fields::new();
    if flags & 8 == 0 {
        fields.add(b"Host", host);
    }
    let version = if flags & 16 == 0 { Version::Http11 } else { Version::Http10 };
    if let Ok(authority) = check_host(&parsed, version, &fields, b"") {
        // Plugins may not write what a client may: an IPvFuture literal. Nothing at all is an HTTP/1.0 request without Host.
        let is_ip_future = authority.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"[v"));
        assert!(authority.is_empty() || is_ip_future || is_authority(authority), "{}", authority.escape_ascii());
        let is_clean = |byte: &u8| byte.is_ascii_graphic() && !b"/?#@,\\".contains(byte);
        assert!(authority.iter().all(is_clean), "{}", authority.escape_ascii());
        assert!(!authority.is_empty() || (version == Version::Http10 && flags & 8 != 0));
    }
    let Target { path, query, .. } = parsed;
    if path == b"*" {
        return;
    }
    assert!(!has_dot_segment(path));
    assert!(path.starts_with(b"/") && !path.contains(&b'?') && (query.is_empty() || query.starts_with(b"?")));
    assert!(target.ends_with(query) && target[..target.len() - query.len()].ends_with(path) || path == b"/");
    route(path, query, &prefixes, flags >> 5);
}

/// `path` after percent-decoding.
fn decoded_once(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        match digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            None => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

/// Whether a segment reads as `.` or `..`: alone, in front of what ends a name, or with blanks that somebody takes off.
fn has_dots(decoded: &[u8]) -> bool {
    decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        let name = segment.split(|byte| b"#;?".contains(byte)).next().unwrap_or_default();
        let mut ends = (0..=name.len()).filter(|&end| name.get(end).is_none_or(|&byte| byte == 0));
        ends.any(|end| {
            let dots = name[..end].iter().filter(|&&byte| byte == b'.').count();
            let blanks = name[..end].iter().filter(|&&byte| byte <= b' ' || byte == 0x7f).count();
            dots > 0 && dots + blanks == end && (dots <= 2 || blanks > 0)
        })
    })
}

/// A segment in the spelling in which they are compared.
fn spelling(segment: &[u8]) -> Vec<u8> {
    let mut spelt = Vec::new();
    let mut rest = segment;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else {
            spelt.push(byte);
            rest = after;
            continue;
        };
        let text = std::str::from_utf8(digits).expect("hexadecimal digits are ASCII");
        let decoded = u8::from_str_radix(text, 16).expect("two hexadecimal digits");
        if decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded) {
            spelt.push(decoded);
        } else {
            spelt.extend([b'%', digits[0].to_ascii_uppercase(), digits[1].to_ascii_uppercase()]);
        }
        rest = &after[2..];
    }
    spelt
}

/// The longest prefix, found by trying each.
fn find(prefixes: &[&str], path: &[u8]) -> Option<Match> {
    let segments: Vec<&[u8]> = path[1..].split(|&byte| byte == b'/').collect();
    let mut best: Option<(usize, Match)> = None;
    for (route, prefix) in (0..).zip(prefixes) {
        let wanted: Vec<Vec<u8>> =
            prefix.split('/').filter(|segment| !segment.is_empty()).map(|s| spelling(s.as_bytes())).collect();
        let matches = wanted.len() <= segments.len() && wanted.iter().zip(&segments).all(|(a, b)| *a == spelling(b));
        if matches && best.is_none_or(|(len, _)| wanted.len() > len) {
            let prefix_len = segments[..wanted.len()].iter().map(|segment| segment.len() + 1).sum();
            best = Some((wanted.len(), Match { route, prefix_len }));
        }
    }
    best.map(|(_, found)| found)
}

fn route(path: &[u8], query: &[u8], prefixes: &[&str], base: u8) {
    let mut known = Vec::new();
    let mut valid = Vec::new();
    for prefix in prefixes {
        if prefix::check(prefix).is_ok() && !known.contains(&prefix::normal_form(prefix)) {
            known.push(prefix::normal_form(prefix));
            valid.push(*prefix);
        }
    }
    let found = Router::new(valid.iter().copied()).find(b"", path);
    assert_eq!(found, find(&valid, path), "{} in {valid:?}", path.escape_ascii());
    let Some(found) = found else { return };
    let base = ["", "/base", "/b/c%20"][usize::from(base) % 3];
    let mut forwarded = Vec::new();
    write_target(&mut forwarded, base, path, query, found.prefix_len);
    match parse_target(&forwarded, false) {
        Ok(Target { origin: None, path: new, query: same }) => {
            assert_eq!(same, query);
            assert!(new.ends_with(&path[found.prefix_len..]) || new == b"/");
        }
        other => panic!("{} became {other:?}", forwarded.escape_ascii()),
    }
}
