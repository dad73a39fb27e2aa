//! The log: whole lines to stdout, without ever making the event loop wait.
//!
//! A [`LogLine`] goes into a queue with a cap; a thread of its own writes the queue and may block for as long as the reader
//! of the pipe does not read (rule E6). While the queue is full, lines are lost; how many is logged as soon as there is
//! room. Nothing that a client sent can break a line: values are escaped.
//!
//! ```
//! # use mini_rproxy::{config::LogFormat, log::{Level, Logger}};
//! # let logger = Logger::start(LogFormat::Text, std::io::sink())?;
//! // time=2026-01-31T12:00:00.000Z level=info msg="listening" address=127.0.0.1:8080
//! logger.line(Level::Info, "listening").text("address", "127.0.0.1:8080").send();
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

/// How much a line matters. Debug lines are written while [`Logger::set_debug`] is on.
pub use mini_rproxy_plugin::Level;

use crate::config::LogFormat;

/// The memory that lines in the queue may take.
const MAX_QUEUE_BYTES: usize = 256 * 1024;

/// The memory of a line at first: a request's line fits.
const LINE_CAPACITY: usize = 384;

/// The memory that the writer keeps when it is idle.
const KEPT_CAPACITY: usize = 16 * 1024;

/// The pause after a write: lines that come meanwhile need not wake the writer, which costs more than writing them.
const WRITE_PAUSE: Duration = Duration::from_millis(2);

/// The pause after a write has failed: a pipe whose reader is gone or a full disk may come back, but not at once.
const WRITE_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A handle to the log. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct Logger(Arc<LogState>);

#[derive(Debug)]
struct LogState {
    format: LogFormat,
    debug: AtomicBool,
    access: AtomicBool,
    queue: Sender<Message>,
    /// The memory of the lines in the queue.
    queued: AtomicUsize,
    /// Lines that found the queue full, or that could not be written.
    lost: AtomicUsize,
}

enum Message {
    Line(Vec<u8>),
    /// Dropped when everything before it is written, or could not be. Nothing is ever sent.
    Flush(Sender<()>),
}

impl Logger {
    /// A log on standard output.
    pub fn to_stdout(format: LogFormat) -> io::Result<Logger> {
        // std's own handle would split what is written into lines and copy them once more.
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Logger::start(format, File::from(stdout))
    }

    /// A log on `sink`, which may block. Its thread runs until the process ends.
    pub fn start(format: LogFormat, sink: impl Write + Send + 'static) -> io::Result<Logger> {
        let (queue, messages) = channel();
        let (debug, access) = (false.into(), false.into());
        let state = LogState { format, debug, access, queue, queued: 0.into(), lost: 0.into() };
        let logger = Logger(Arc::new(state));
        let writer = logger.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_lines(&messages, sink))?;
        Ok(logger)
    }

    /// Begins a line with the current time.
    pub fn line(&self, level: Level, message: impl fmt::Display) -> LogLine<'_> {
        let mut line = LogLine { log: &self.0, buf: Vec::with_capacity(LINE_CAPACITY) };
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let level = ["error", "warn", "info", "debug"][level as usize];
        match self.0.format {
            LogFormat::Text | LogFormat::Combined => line.push(format_args!("time={time} level={level} msg=\"")),
            LogFormat::Json => line.push(format_args!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"msg\":\"")),
        }
        line.escape_text(message);
        line.buf.push(b'"');
        line
    }

    /// Begins an access line of the Combined Log Format, where that is the format: `address - - [time] `.
    pub fn combined(&self, client: Option<IpAddr>) -> Option<LogLine<'_>> {
        if self.0.format != LogFormat::Combined {
            return None;
        }
        let mut line = LogLine { log: &self.0, buf: Vec::with_capacity(LINE_CAPACITY) };
        // Sat, 31 Jan 2026 12:00:00 GMT
        let time = httpdate::fmt_http_date(SystemTime::now());
        let (day, month, year, clock) = (&time[5..7], &time[8..11], &time[12..16], &time[17..25]);
        let client = client.map_or("-".to_owned(), |client| client.to_canonical().to_string());
        line.push(format_args!("{client} - - [{day}/{month}/{year}:{clock} +0000]"));
        Some(line)
    }

    /// Turns debug lines and timelines on or off, for all clones.
    pub fn set_debug(&self, is_on: bool) {
        self.0.debug.store(is_on, Ordering::Relaxed);
    }

    /// Whether lines of that level are wanted. Only debug lines may be unwanted; their callers ask first.
    pub fn is_enabled(&self, level: Level) -> bool {
        level != Level::Debug || self.0.debug.load(Ordering::Relaxed)
    }

    /// Turns a line for each request on or off, for all clones.
    pub fn set_access(&self, is_on: bool) {
        self.0.access.store(is_on, Ordering::Relaxed);
    }

    /// Whether there is a line for each request.
    pub fn has_access(&self) -> bool {
        self.0.access.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, but not longer than `timeout`. Returns whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let (receipt, receipts) = channel();
        let is_sent = self.0.queue.send(Message::Flush(receipt)).is_ok();
        is_sent && receipts.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }

    /// The writer's thread.
    fn write_lines(&self, messages: &Receiver<Message>, mut sink: impl Write) {
        let log = &self.0;
        let mut batch = Vec::new();
        while let Ok(first) = messages.recv() {
            let (mut lines, mut receipts) = (0, Vec::new());
            for message in iter::once(first).chain(messages.try_iter()) {
                match message {
                    Message::Line(line) => {
                        log.queued.fetch_sub(line.capacity(), Ordering::Relaxed);
                        batch.extend_from_slice(&line);
                        lines += 1;
                    }
                    Message::Flush(receipt) => receipts.push(receipt),
                }
                if batch.len() >= MAX_QUEUE_BYTES {
                    break;
                }
            }
            // The lost lines came after all that is in this batch.
            let lost = log.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let mut line = self.line(Level::Warn, "log lines were lost: nobody read them in time");
                batch.extend_from_slice(line.value("lost", lost).end());
            }
            let mut pause = WRITE_PAUSE;
            if write_all(&mut sink, &batch).is_err() {
                log.lost.fetch_add(lost + lines, Ordering::Relaxed);
                pause = WRITE_ERROR_PAUSE;
            }
            drop(receipts);
            batch.clear();
            batch.shrink_to(KEPT_CAPACITY);
            thread::sleep(pause);
        }
    }
}

/// As std's, but waits where another process has made standard output non-blocking.
fn write_all(sink: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error),
        }
    }
    sink.flush()
}

/// A line that is being built. One that is not sent is dropped. Keys are plain words, chosen by us.
#[must_use = "a line says nothing until it is sent"]
pub struct LogLine<'a> {
    log: &'a LogState,
    buf: Vec<u8>,
}

impl LogLine<'_> {
    /// Adds text: whatever can be displayed.
    pub fn text(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        self.quoted(key, |line| line.escape_text(value))
    }

    /// The same where there is some.
    pub fn text_if(&mut self, key: &str, value: Option<impl fmt::Display>) -> &mut Self {
        if let Some(value) = value { self.text(key, value) } else { self }
    }

    /// Adds bytes that a peer sent.
    pub fn bytes(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.quoted(key, |line| line.escape(value))
    }

    /// Adds the address of a client; `None` is one on a unix socket.
    pub fn client(&mut self, client: Option<SocketAddr>) -> &mut Self {
        match client {
            // As a proxy before us reports it, without a port.
            Some(client) if client.port() == 0 => self.text("client", client.ip()),
            Some(client) => self.text("client", client),
            None => self.text("client", "unix"),
        }
    }

    /// Adds what JSON has without quotes: a number, `true` or `false`.
    pub fn value(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        self.key(key).push(format_args!("{value}"));
        self
    }

    /// Adds what has no key: bytes that a peer sent, between quotes.
    pub fn string(&mut self, parts: &[&[u8]]) -> &mut Self {
        self.buf.extend_from_slice(b" \"");
        parts.iter().for_each(|part| self.escape(part));
        self.buf.push(b'"');
        self
    }

    /// Adds a number without a key, or `-` where it is 0.
    pub fn number(&mut self, number: u64) -> &mut Self {
        if number == 0 {
            self.push(format_args!(" -"))
        } else {
            self.push(format_args!(" {number}"))
        }
        self
    }

    /// Adds a duration in milliseconds with three decimals; the key should end with `_ms`.
    pub fn millis(&mut self, key: &str, value: Duration) -> &mut Self {
        self.value(key, format_args!("{}.{:03}", value.as_millis(), value.subsec_micros() % 1000))
    }

    /// Adds lines for people, as the last thing: indented below the line; in JSON as one string.
    pub fn lines(&mut self, key: &str, lines: &str) -> &mut Self {
        if self.log.format == LogFormat::Json {
            return self.text(key, lines);
        }
        for line in lines.lines() {
            self.buf.extend_from_slice(b"\n    ");
            self.escape(line.as_bytes());
        }
        self
    }

    /// Hands the line to the writer.
    pub fn send(&mut self) {
        self.end();
        let line = std::mem::take(&mut self.buf);
        let memory = line.capacity();
        if self.log.queued.fetch_add(memory, Ordering::Relaxed) + memory > MAX_QUEUE_BYTES {
            self.log.queued.fetch_sub(memory, Ordering::Relaxed);
            self.log.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            // The writer lives as long as the process.
            let _ = self.log.queue.send(Message::Line(line));
        }
    }

    fn end(&mut self) -> &[u8] {
        self.buf.extend_from_slice(if self.log.format == LogFormat::Json { b"}\n" } else { b"\n" });
        &self.buf
    }

    fn key(&mut self, key: &str) -> &mut Self {
        match self.log.format {
            LogFormat::Text | LogFormat::Combined => self.push(format_args!(" {key}=")),
            LogFormat::Json => self.push(format_args!(",\"{key}\":")),
        }
        self
    }

    /// Adds a value in quotes; in the text format without them where they are not needed.
    fn quoted(&mut self, key: &str, write: impl FnOnce(&mut Self)) -> &mut Self {
        self.key(key).buf.push(b'"');
        let start = self.buf.len();
        write(self);
        let value = &self.buf[start..];
        let is_bare = !value.is_empty() && !value.iter().any(|byte| matches!(byte, b' ' | b'"' | b'\\' | b'='));
        if self.log.format != LogFormat::Json && is_bare {
            self.buf.remove(start - 1);
        } else {
            self.buf.push(b'"');
        }
        self
    }

    /// Writing into memory cannot fail.
    fn push(&mut self, text: fmt::Arguments<'_>) {
        let _ = self.buf.write_fmt(text);
    }

    /// Only the value itself can fail; what it has written so far stays.
    fn escape_text(&mut self, value: impl fmt::Display) {
        let _ = fmt::write(self, format_args!("{value}"));
    }

    /// Adds what stands inside of quotes. In text visible ASCII stays and everything else becomes `\xNN`: a terminal shows
    /// exactly what was sent. In JSON bytes that are not UTF-8 become the characters of the same number.
    fn escape(&mut self, bytes: &[u8]) {
        if self.log.format != LogFormat::Json {
            for &byte in bytes {
                match byte {
                    b'"' | b'\\' => self.buf.extend_from_slice(&[b'\\', byte]),
                    b' '..=b'~' => self.buf.push(byte),
                    _ => self.push(format_args!("\\x{byte:02x}")),
                }
            }
            return;
        }
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\\' => self.buf.extend_from_slice(&[b'\\', c as u8]),
                    // The two line separators of Unicode can break a line, too.
                    _ if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                        self.push(format_args!("\\u{:04x}", u32::from(c)));
                    }
                    _ => self.buf.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            chunk.invalid().iter().for_each(|byte| self.push(format_args!("\\u{byte:04x}")));
        }
    }
}

impl fmt::Write for LogLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.escape(text.as_bytes());
        Ok(())
    }
}

/// From now on a panic is one line of the log instead of a backtrace.
pub fn log_panics(logger: Logger) {
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let cause = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let mut line = logger.line(Level::Error, "panic: this is a bug");
        line.text("cause", cause.unwrap_or("unknown")).text_if("place", panic.location());
        line.text("thread", thread::current().name().unwrap_or("unnamed")).send();
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A sink that hands over what is written to it, one write at a time.
    struct Channel(mpsc::SyncSender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// One line with the time cut off.
    fn logged(format: LogFormat, build: impl FnOnce(&mut LogLine<'_>)) -> String {
        let (sender, receiver) = mpsc::sync_channel(1);
        let logger = Logger::start(format, Channel(sender)).expect("a thread");
        let mut line = logger.line(Level::Info, "hello world");
        build(&mut line);
        line.send();
        let written = String::from_utf8(receiver.recv_timeout(SECOND).expect("a line")).expect("UTF-8");
        let time = if format == LogFormat::Text { "time=" } else { "{\"time\":\"" };
        let rest = written.strip_prefix(time).expect("the time comes first");
        let (time, rest) = rest.split_at("2026-01-31T12:00:00.000Z".len());
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        rest.to_owned()
    }

    #[test]
    fn text_lines_cannot_be_broken() {
        for (value, expected) in [
            (&b"plain"[..], "plain"),
            (b"/a/b?c", "/a/b?c"),
            (b"", "\"\""),
            (b"two words", "\"two words\""),
            (b"a=b", "\"a=b\""),
            (b"a\r\nlevel=error", "\"a\\x0d\\x0alevel=error\""),
            (b"say \"hi\"", "\"say \\\"hi\\\"\""),
            (b"back\\slash", "\"back\\\\slash\""),
            (b"\x1b[31m\0\x7f", "\"\\x1b[31m\\x00\\x7f\""),
            ("caf\u{e9}".as_bytes(), "\"caf\\xc3\\xa9\""),
            (b"\xff\xfe", "\"\\xff\\xfe\""),
        ] {
            let line = logged(LogFormat::Text, |line| {
                line.bytes("key", value);
            });
            assert_eq!(line, format!(" level=info msg=\"hello world\" key={expected}\n"));
        }
    }

    #[test]
    fn json_lines_cannot_be_broken() {
        for (value, expected) in [
            (&b"plain"[..], "plain"),
            (b"", ""),
            (b"a\r\n\",\"level\":", "a\\u000d\\u000a\\\",\\\"level\\\":"),
            (b"back\\slash", "back\\\\slash"),
            (b"\x1b[31m\0\x7f", "\\u001b[31m\\u0000\\u007f"),
            ("caf\u{e9} \u{9b} \u{2028}".as_bytes(), "caf\u{e9} \\u009b \\u2028"),
            (b"a\xff\xfeb", "a\\u00ff\\u00feb"),
        ] {
            let line = logged(LogFormat::Json, |line| {
                line.bytes("key", value);
            });
            assert_eq!(line, format!("\",\"level\":\"info\",\"msg\":\"hello world\",\"key\":\"{expected}\"}}\n"));
        }
    }

    #[test]
    fn values_of_every_kind_are_written() {
        let build = |line: &mut LogLine<'_>| {
            line.text("a", "b").value("n", u64::MAX).millis("t_ms", Duration::from_micros(12_345_067));
            line.value("yes", true).text("to", "127.0.0.1:80").text("odd", format_args!("x {}", 1));
        };
        let text = " level=info msg=\"hello world\" a=b n=18446744073709551615 t_ms=12345.067 yes=true to=127.0.0.1:80 odd=\"x 1\"\n";
        assert_eq!(logged(LogFormat::Text, build), text);
        let json = r#"","level":"info","msg":"hello world","a":"b","n":18446744073709551615,"t_ms":12345.067,"yes":true,"to":"127.0.0.1:80","odd":"x 1"}"#;
        assert_eq!(logged(LogFormat::Json, build), format!("{json}\n"));
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_never_time() {
        let (sender, receiver) = mpsc::sync_channel(0);
        let logger = Logger::start(LogFormat::Text, Channel(sender)).expect("a thread");
        let long = "x".repeat(1024);
        let sent = 1000;
        for _ in 0..sent {
            logger.line(Level::Info, &long).send();
        }
        assert!(!logger.flush(Duration::from_millis(1)));
        let mut text = String::new();
        while !logger.flush(Duration::from_millis(1)) {
            while let Ok(bytes) = receiver.recv_timeout(Duration::from_millis(50)) {
                text.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
            }
        }
        let whole = text.lines().filter(|line| line.ends_with("x\"")).count();
        let lost = text.lines().filter_map(|line| line.split_once("lost=")).map(|(_, lost)| lost.parse::<usize>());
        let lost: usize = lost.map(|lost| lost.expect("a number")).sum();
        assert!(whole >= MAX_QUEUE_BYTES / 2048, "{whole}");
        assert_eq!(whole + lost, sent);
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_line_with_lines_below_it_is_lost_as_one() {
        /// Refuses what begins with the first line, and hands over the rest.
        struct Failing(Channel, bool);
        impl Write for Failing {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.1, false) {
                    Err(ErrorKind::BrokenPipe.into())
                } else {
                    self.0.write(bytes)
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, receiver) = mpsc::sync_channel(10);
        let logger = Logger::start(LogFormat::Text, Failing(Channel(sender), true)).expect("a thread");
        logger.line(Level::Info, "request").lines("timeline", "0 ms begins\n1 ms ends\n").send();
        assert!(logger.flush(SECOND));
        logger.line(Level::Info, "next").send();
        assert!(logger.flush(SECOND));
        let written = String::from_utf8(receiver.try_iter().flatten().collect()).expect("UTF-8");
        assert!(written.contains(" lost=1\n"), "{written}");
    }

    #[test]
    fn debug_lines_are_wanted_while_they_are_switched_on() {
        let logger = Logger::start(LogFormat::Text, io::sink()).expect("a thread");
        let other = logger.clone();
        for is_on in [false, true, false] {
            other.set_debug(is_on);
            assert_eq!(logger.is_enabled(Level::Debug), is_on);
            assert!(logger.is_enabled(Level::Info));
        }
    }

    #[test]
    fn a_closed_pipe_neither_kills_nor_spins() {
        let (sender, receiver) = mpsc::sync_channel(0);
        drop(receiver);
        let logger = Logger::start(LogFormat::Text, Channel(sender)).expect("a thread");
        for _ in 0..3 {
            logger.line(Level::Info, "anyone?").send();
            assert!(logger.flush(SECOND), "what cannot be written is not waited for");
        }
    }

    #[test]
    fn lines_are_written_when_the_last_handle_is_gone() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let logger = Logger::start(LogFormat::Text, Channel(sender)).expect("a thread");
        let other = logger.clone();
        logger.line(Level::Warn, "last words").send();
        drop(logger);
        drop(other);
        let written = receiver.recv_timeout(SECOND).expect("a line");
        assert!(written.ends_with(b" level=warn msg=\"last words\"\n"));
    }

    #[test]
    fn what_sits_in_a_line_that_was_not_sent_is_gone() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let logger = Logger::start(LogFormat::Text, Channel(sender)).expect("a thread");
        let _ = logger.line(Level::Info, "never mind");
        logger.line(Level::Info, "said").send();
        assert!(logger.flush(SECOND));
        let written: Vec<u8> = receiver.try_iter().flatten().collect();
        assert_eq!(written.iter().filter(|&&b| b == b'\n').count(), 1);
    }
}
