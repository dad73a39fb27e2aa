//! What a worker says: warnings, and one line for each finished request.
//!
//! A line is built in a buffer that is used again and again, and nothing is built where nobody asked for access lines.
//! Whatever came from a client is written so that it cannot break a line: no byte outside printable ASCII, no quote, no
//! space goes in as it is. How lines leave the process is not decided here.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::config::{LogConfig, LogFormat};
use crate::proxy::exchange::{AccessRecord, Observer};

/// What a worker can say.
pub trait Journal: Observer {
    /// Something that the operator should know of.
    fn warn(&mut self, message: fmt::Arguments<'_>);
}

/// Where lines go. None of the calls blocks.
pub trait Lines {
    /// A message for people.
    fn message(&self, level: Level, message: fmt::Arguments<'_>);
    /// The fields of one access line, in the configured format and without a line break: `key=value ...` or the inside
    /// of a JSON object.
    fn access(&self, fields: &str);
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Worth a look.
    Warn,
    /// Something does not work.
    Error,
}

/// One worker's journal.
pub struct LineJournal<L> {
    lines: L,
    config: LogConfig,
    buffer: String,
}

impl<L: Lines> LineJournal<L> {
    /// A journal that writes to `lines`.
    pub fn new(lines: L, config: LogConfig) -> LineJournal<L> {
        LineJournal { lines, config, buffer: String::new() }
    }
}

impl<L: Lines> Journal for LineJournal<L> {
    fn warn(&mut self, message: fmt::Arguments<'_>) {
        self.lines.message(Level::Warn, message);
    }
}

impl<L: Lines> Observer for LineJournal<L> {
    fn access(&mut self, record: &AccessRecord<'_>) {
        if !self.config.access {
            return;
        }
        self.buffer.clear();
        let mut line = Line { out: &mut self.buffer, format: self.config.format };
        line.record(record);
        self.lines.access(&self.buffer);
    }
}

/// One line under construction.
struct Line<'a> {
    out: &'a mut String,
    format: LogFormat,
}

impl Line<'_> {
    fn record(&mut self, record: &AccessRecord<'_>) {
        match record.client {
            Some(client) => self.plain("client", client, Quotes::Json),
            None => self.plain("client", "unix", Quotes::Json),
        }
        self.bytes("method", record.method);
        self.bytes("path", record.path);
        if let Some(prefix) = record.prefix {
            self.bytes("prefix", prefix.as_bytes());
        }
        if let Some(upstream) = record.upstream {
            self.bytes("upstream", upstream.as_bytes());
        }
        self.plain("status", record.status, Quotes::Never);
        self.plain("bytes_in", record.bytes_in, Quotes::Never);
        self.plain("bytes_out", record.bytes_out, Quotes::Never);
        self.plain("reused", record.reused, Quotes::Never);
        self.plain("retries", record.retries, Quotes::Never);
        self.time("head_ms", Some(record.head));
        self.time("connect_ms", record.connect);
        self.time("first_byte_ms", record.first_byte);
        self.time("total_ms", Some(record.total));
        if let Some(why) = record.why {
            self.plain("why", why, Quotes::Json);
        }
        if let Some(rule) = record.rule {
            self.plain("rule", rule, Quotes::Json);
        }
    }

    fn name(&mut self, name: &str) {
        match self.format {
            LogFormat::Text => {
                if !self.out.is_empty() {
                    self.out.push(' ');
                }
                self.out.push_str(name);
                self.out.push('=');
            }
            LogFormat::Json => {
                if !self.out.is_empty() {
                    self.out.push(',');
                }
                self.out.push('"');
                self.out.push_str(name);
                self.out.push_str("\":");
            }
        }
    }

    /// A value that we made ourselves: it holds nothing that has to be escaped.
    fn plain(&mut self, name: &str, value: impl fmt::Display, quotes: Quotes) {
        self.name(name);
        let result = match (self.format, quotes) {
            (LogFormat::Json, Quotes::Json) => write!(self.out, "\"{value}\""),
            (LogFormat::Json, Quotes::Never) | (LogFormat::Text, _) => write!(self.out, "{value}"),
        };
        result.expect("a String takes everything");
    }

    fn time(&mut self, name: &str, time: Option<Duration>) {
        if let Some(time) = time {
            let micros = time.as_micros();
            self.plain(name, format_args!("{}.{:03}", micros / 1000, micros % 1000), Quotes::Never);
        }
    }

    /// A value that may hold anything.
    fn bytes(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        match self.format {
            LogFormat::Text if !value.is_empty() && value.iter().all(|&byte| is_harmless(byte)) => {
                // All of them are ASCII.
                self.out.extend(value.iter().map(|&byte| char::from(byte)));
            }
            LogFormat::Text | LogFormat::Json => {
                self.out.push('"');
                for &byte in value {
                    self.escaped(byte);
                }
                self.out.push('"');
            }
        }
    }

    fn escaped(&mut self, byte: u8) {
        let result = match (byte, self.format) {
            (b'"' | b'\\', _) => write!(self.out, "\\{}", char::from(byte)),
            (b' '..=b'~', _) => {
                self.out.push(char::from(byte));
                Ok(())
            }
            (_, LogFormat::Text) => write!(self.out, "\\x{byte:02x}"),
            // Not the character but the byte of that number; JSON has no better way to say it.
            (_, LogFormat::Json) => write!(self.out, "\\u{byte:04x}"),
        };
        result.expect("a String takes everything");
    }
}

/// Where a value needs quotes.
#[derive(Clone, Copy)]
enum Quotes {
    Never,
    Json,
}

/// Whether a byte can stand in a text line without quotes.
fn is_harmless(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Kept(Rc<RefCell<Vec<String>>>);

    impl Lines for Kept {
        fn message(&self, level: Level, message: fmt::Arguments<'_>) {
            self.0.borrow_mut().push(format!("{level:?} {message}"));
        }
        fn access(&self, fields: &str) {
            self.0.borrow_mut().push(fields.to_owned());
        }
    }

    fn record<'a>() -> AccessRecord<'a> {
        AccessRecord {
            client: "192.0.2.7:4711".parse().ok(),
            method: b"GET",
            path: b"/fitness/a%20b",
            prefix: Some("/fitness"),
            upstream: Some("127.0.0.1:9001"),
            status: 200,
            bytes_in: 0,
            bytes_out: 12,
            reused: true,
            retries: 0,
            head: Duration::from_micros(40),
            connect: Some(Duration::from_micros(1500)),
            first_byte: None,
            total: Duration::from_secs(2),
            why: None,
            rule: None,
        }
    }

    fn line(format: LogFormat, record: &AccessRecord<'_>) -> String {
        let kept = Kept::default();
        LineJournal::new(kept.clone(), LogConfig { format, access: true }).access(record);
        let lines = kept.0.borrow();
        assert_eq!(lines.len(), 1);
        lines[0].clone()
    }

    #[test]
    fn a_text_line_has_all_fields() {
        assert_eq!(
            line(LogFormat::Text, &record()),
            "client=192.0.2.7:4711 method=GET path=/fitness/a%20b prefix=/fitness upstream=127.0.0.1:9001 status=200 \
             bytes_in=0 bytes_out=12 reused=true retries=0 head_ms=0.040 connect_ms=1.500 total_ms=2000.000"
        );
        let refused = AccessRecord { why: Some("S8"), rule: Some("S8"), ..record() };
        assert!(line(LogFormat::Text, &refused).ends_with(" why=S8 rule=S8"));
    }

    #[test]
    fn a_json_line_is_json_whatever_the_client_sent() {
        let nasty = AccessRecord { method: b"A\"B", path: b"/\x00\n\\\"\xff,\"status\":1", client: None, ..record() };
        let text = format!("{{{}}}", line(LogFormat::Json, &nasty));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["status"], 200);
        assert_eq!(value["method"], "A\"B");
        assert_eq!(value["path"], "/\0\n\\\"\u{ff},\"status\":1");
        assert_eq!(value["client"], "unix");
        assert_eq!(value["connect_ms"], 1.5);
    }

    #[test]
    fn nothing_that_a_client_sent_can_break_a_text_line() {
        for (name, path, expected) in [
            ("line break", &b"/a\r\nstatus=200"[..], r#"path="/a\x0d\x0astatus=200""#),
            ("another field", b"/a status=1", r#"path="/a status=1""#),
            ("quote", b"/\" status=1", r#"path="/\" status=1""#),
            ("terminal", b"/\x1b[2J", r#"path="/\x1b[2J""#),
            ("not ASCII", b"/\xc3\xa4", r#"path="/\xc3\xa4""#),
            ("empty", b"", r#"path="""#),
            ("equals", b"/a=b", r#"path="/a=b""#),
        ] {
            let text = line(LogFormat::Text, &AccessRecord { path, ..record() });
            assert!(text.contains(&format!(" {expected} ")), "{name}: {text}");
        }
    }

    #[test]
    fn no_line_is_built_where_nobody_asked_for_it() {
        let kept = Kept::default();
        let mut journal = LineJournal::new(kept.clone(), LogConfig { format: LogFormat::Text, access: false });
        journal.access(&record());
        assert_eq!(journal.buffer.capacity(), 0);
        journal.warn(format_args!("n={}", 1));
        assert_eq!(*kept.0.borrow(), ["Warn n=1"]);
    }
}
