//! The heads of answers that the proxy gives by itself: the built-in resources, errors, and answers of plugins.

use super::forward::{Persistence, finish_head};
use crate::http::chars::write_decimal;
use crate::http::framing::{Framing, has_no_body};
use crate::http::head::reason_phrase;

/// Appends the status line of a response of our own.
pub fn write_status_line(status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a final response with these field lines, for a body of `len` bytes. Date is added where it is missing.
pub fn write_local_head<'a>(
    status: u16,
    lines: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    len: usize,
    persistence: Persistence,
    date: &[u8; 29],
    out: &mut Vec<u8>,
) {
    write_status_line(status, out);
    let mut write_line = |name: &[u8], value: &[u8]| {
        [name, b": ", value, b"\r\n"].iter().for_each(|part| out.extend_from_slice(part));
    };
    if !lines.clone().any(|(name, _)| name.eq_ignore_ascii_case(b"date")) {
        write_line(b"Date", date);
    }
    lines.for_each(|(name, value)| write_line(name, value));
    let framing = if has_no_body(status) { Framing::None } else { Framing::Length(len as u64) };
    finish_head(framing, persistence, b"", out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Version;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn a_head_of_ours_gets_framing_and_date() {
        for (name, status, lines, persistence, expected) in [
            (
                "plain",
                403,
                &[("A", "1")][..],
                Persistence::Close,
                "403 Forbidden|D|A: 1|Content-Length: 5|Connection: close|",
            ),
            (
                "its own Date",
                200,
                &[("date", "x")],
                Persistence::KeepAlive(Version::Http11),
                "200 OK|date: x|Content-Length: 5|",
            ),
            ("204 has no body", 204, &[], Persistence::KeepAlive(Version::Http11), "204 No Content|D|"),
            (
                "304 has no body",
                304,
                &[("ETag", "x")],
                Persistence::KeepAlive(Version::Http11),
                "304 Not Modified|D|ETag: x|",
            ),
        ] {
            let mut out = Vec::new();
            let lines = lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            write_local_head(status, lines, 5, persistence, DATE, &mut out);
            let head = String::from_utf8(out).expect("text").replace("Date: Sun, 06 Nov 1994 08:49:37 GMT", "D");
            assert_eq!(head.replace("\r\n", "|"), format!("HTTP/1.1 {expected}|"), "{name}");
        }
    }
}
