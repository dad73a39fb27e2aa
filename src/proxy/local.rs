//! Answers that the proxy gives by itself: the built-in resources, errors, and answers of plugins.
//!
//! Each `write_*` appends one whole response and returns how many body bytes are in it, for the log.

use super::cause::Refusal;
use super::forward::{Persistence, finish_final_head};
use super::hooks::LocalResponse;
use crate::http::chars::write_decimal;
use crate::http::fields::HeaderId;
use crate::http::framing::{Framing, has_no_body};
use crate::http::head::reason_phrase;

/// The body of /health.
pub const HEALTH: &str = "{\"message\":\"OK\"}";

/// What every answer needs, whatever it says.
#[derive(Clone, Copy, Debug)]
pub struct ResponseContext<'a> {
    /// The Date field.
    pub date: &'a [u8; 29],
    /// What becomes of the connection.
    pub persistence: Persistence,
    /// The request was a HEAD: the body is announced and left out.
    pub to_head: bool,
}

/// Appends a 200 with a JSON body.
pub fn write_json(json: &str, context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    write_text("application/json", json, context, out)
}

/// Appends a 200 with a body of that media type.
pub fn write_text(media_type: &str, text: &str, context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    write_text_start(media_type, context, out);
    write_end(&[text.as_bytes()], context, out)
}

/// Appends the head of such an answer, for a body of `len` bytes that follows without being copied.
pub fn write_text_head(media_type: &str, len: usize, context: &ResponseContext<'_>, out: &mut Vec<u8>) {
    write_text_start(media_type, context, out);
    finish_final_head(Framing::Length(len as u64), context.persistence, b"", out);
}

fn write_text_start(media_type: &str, context: &ResponseContext<'_>, out: &mut Vec<u8>) {
    write_start(200, context, out);
    out.extend_from_slice(b"Content-Type: ");
    out.extend_from_slice(media_type.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the answer to an OPTIONS that goes no further: 204 has no body and so no framing.
pub fn write_options(methods: &str, context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    write_start(204, context, out);
    write_allow(methods, out);
    write_bodiless_end(context, out)
}

/// Appends a redirect for good. `location` stays on the host that was asked.
pub fn write_redirect(location: &[u8], context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    write_start(301, context, out);
    out.extend_from_slice(b"Location: ");
    out.extend_from_slice(location);
    out.extend_from_slice(b"\r\nContent-Type: text/plain; charset=utf-8\r\n");
    write_end(&[reason_phrase(301).as_bytes(), b"\n"], context, out)
}

/// Appends an error. Its text is the reason phrase and nothing that a peer sent (rule S22).
pub fn write_refusal(refusal: &Refusal, context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    write_start(refusal.status, context, out);
    if let Some(methods) = refusal.allow {
        write_allow(methods, out);
    }
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    write_end(&[reason_phrase(refusal.status).as_bytes(), b"\n"], context, out)
}

/// Appends a plugin's answer.
pub fn write_plugin_response(response: &LocalResponse, context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    write_status_line(response.status, out);
    if response.fields.get(HeaderId::Date).is_none() {
        write_date(context.date, out);
    }
    response.fields.write(out);
    if has_no_body(response.status) {
        write_bodiless_end(context, out)
    } else {
        write_end(&[&response.body], context, out)
    }
}

fn write_start(status: u16, context: &ResponseContext<'_>, out: &mut Vec<u8>) {
    write_status_line(status, out);
    write_date(context.date, out);
}

fn write_status_line(status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_date(date: &[u8; 29], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\n");
}

fn write_allow(methods: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Allow: ");
    out.extend_from_slice(methods.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_bodiless_end(context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    finish_final_head(Framing::None, context.persistence, b"", out);
    0
}

fn write_end(body: &[&[u8]], context: &ResponseContext<'_>, out: &mut Vec<u8>) -> u64 {
    let len = body.iter().map(|part| part.len() as u64).sum();
    finish_final_head(Framing::Length(len), context.persistence, b"", out);
    if context.to_head {
        return 0;
    }
    body.iter().for_each(|part| out.extend_from_slice(part));
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields::Fields;
    use crate::http::head::Version;
    use crate::proxy::cause::Cause;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    /// What is written to a GET that keeps its connection, and to a HEAD that does not.
    fn both(write: impl Fn(&ResponseContext<'_>, &mut Vec<u8>) -> u64) -> (String, String) {
        let [get, head] = [(Persistence::KeepAlive(Version::Http11), false), (Persistence::Close, true)].map(
            |(persistence, to_head)| {
                let mut out = Vec::new();
                let len = write(&ResponseContext { date: DATE, persistence, to_head }, &mut out);
                let text = String::from_utf8(out).expect("text");
                let (_, body) = text.split_once("\r\n\r\n").expect("a head");
                assert_eq!(body.len() as u64, len, "what the log is told");
                text.replace("Date: Sun, 06 Nov 1994 08:49:37 GMT", "D").replace("\r\n", "|")
            },
        );
        (get, head)
    }

    #[test]
    fn answers_are_whole_responses() {
        let (get, head) = both(|context, out| write_json(HEALTH, context, out));
        assert_eq!(get, "HTTP/1.1 200 OK|D|Content-Type: application/json|Content-Length: 16||{\"message\":\"OK\"}");
        assert_eq!(head, "HTTP/1.1 200 OK|D|Content-Type: application/json|Content-Length: 16|Connection: close||");

        let (get, head) = both(|context, out| write_options("GET, HEAD", context, out));
        assert_eq!(get, "HTTP/1.1 204 No Content|D|Allow: GET, HEAD||");
        assert_eq!(head, "HTTP/1.1 204 No Content|D|Allow: GET, HEAD|Connection: close||");
    }

    #[test]
    fn s22_an_error_says_nothing_but_its_status() {
        let refusal = Refusal { status: 405, cause: Cause::MethodRefused, allow: Some("GET") };
        let (get, head) = both(|context, out| write_refusal(&refusal, context, out));
        let start =
            "HTTP/1.1 405 Method Not Allowed|D|Allow: GET|Content-Type: text/plain; charset=utf-8|Content-Length: 19|";
        assert_eq!(get, format!("{start}|Method Not Allowed\n"));
        assert_eq!(head, format!("{start}Connection: close||"));
        for status in [400, 404, 408, 413, 414, 417, 431, 501, 502, 504, 505] {
            let (get, _) = both(|context, out| write_refusal(&Refusal::new(status, Cause::NoRoute), context, out));
            assert!(get.starts_with(&format!("HTTP/1.1 {status} {}|", reason_phrase(status))), "{get}");
            assert!(!reason_phrase(status).is_empty() && !get.contains("Allow"), "{get}");
        }
    }

    #[test]
    fn g21_a_plugins_answer_gets_framing_and_date() {
        let answer = |status, lines: &[(&str, &str)]| {
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
            LocalResponse { status, fields, body: b"hello".to_vec() }
        };
        for (name, answer, expected) in [
            ("plain", answer(403, &[("A", "1")]), "HTTP/1.1 403 Forbidden|D|A: 1|Content-Length: 5||hello"),
            ("its own Date", answer(200, &[("date", "x")]), "HTTP/1.1 200 OK|date: x|Content-Length: 5||hello"),
            ("204 has no body", answer(204, &[]), "HTTP/1.1 204 No Content|D||"),
            ("304 has no body", answer(304, &[("ETag", "x")]), "HTTP/1.1 304 Not Modified|D|ETag: x||"),
        ] {
            assert_eq!(both(|context, out| write_plugin_response(&answer, context, out)).0, expected, "{name}");
        }
    }
}
