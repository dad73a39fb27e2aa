//! Answers that the proxy gives by itself: the built-in resources, errors, and answers of plugins.
//!
//! Each `write_*` appends one whole response and returns how many body bytes are in it, for the log.

use super::cause::Refusal;
use super::forward::{Persistence, write_framing, write_persistence};
use super::hooks::Answer;
use crate::http::chars::write_decimal;
use crate::http::fields::Known;
use crate::http::framing::{Framing, has_no_body};
use crate::http::head::reason_phrase;

/// The body of /health.
pub const HEALTH: &str = "{\"message\":\"OK\"}";

/// What every answer needs, whatever it says.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The Date field.
    pub date: &'a [u8; 29],
    /// What becomes of the connection.
    pub persistence: Persistence,
    /// The request was a HEAD: the body is announced and left out.
    pub to_head: bool,
}

/// Appends a 200 with a JSON body.
pub fn write_json(json: &str, envelope: &Envelope<'_>, out: &mut Vec<u8>) -> u64 {
    write_start(200, envelope, out);
    out.extend_from_slice(b"Content-Type: application/json\r\n");
    write_end(&[json.as_bytes()], envelope, out)
}

/// Appends the answer to an OPTIONS that goes no further: 204 has no body and so no framing.
pub fn write_options(methods: &str, envelope: &Envelope<'_>, out: &mut Vec<u8>) -> u64 {
    write_start(204, envelope, out);
    write_allow(methods, out);
    write_bodiless_end(envelope, out)
}

/// Appends an error. Its text is the reason phrase and nothing that a peer sent (rule S22).
pub fn write_refusal(refusal: &Refusal, envelope: &Envelope<'_>, out: &mut Vec<u8>) -> u64 {
    write_start(refusal.status, envelope, out);
    if let Some(methods) = refusal.allow {
        write_allow(methods, out);
    }
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    write_end(&[reason_phrase(refusal.status).as_bytes(), b"\n"], envelope, out)
}

/// Appends a plugin's answer.
pub fn write_answer(answer: &Answer, envelope: &Envelope<'_>, out: &mut Vec<u8>) -> u64 {
    write_status_line(answer.status, out);
    if answer.fields.first(Known::Date).is_none() {
        write_date(envelope.date, out);
    }
    answer.fields.write(out);
    if has_no_body(answer.status) {
        write_bodiless_end(envelope, out)
    } else {
        write_end(&[&answer.body], envelope, out)
    }
}

fn write_start(status: u16, envelope: &Envelope<'_>, out: &mut Vec<u8>) {
    write_status_line(status, out);
    write_date(envelope.date, out);
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

fn write_bodiless_end(envelope: &Envelope<'_>, out: &mut Vec<u8>) -> u64 {
    write_persistence(envelope.persistence, out);
    out.extend_from_slice(b"\r\n");
    0
}

fn write_end(body: &[&[u8]], envelope: &Envelope<'_>, out: &mut Vec<u8>) -> u64 {
    let len = body.iter().map(|part| part.len() as u64).sum();
    write_framing(Framing::Length(len), out);
    write_bodiless_end(envelope, out);
    if envelope.to_head {
        return 0;
    }
    body.iter().for_each(|part| out.extend_from_slice(part));
    len
}
