//! The log: whole lines to stdout, without ever making the event loop wait.
//!
//! A [`Line`] is built in a buffer of its thread and appended to a queue with a cap; a thread of its own writes the
//! queue, and may block for as long as the reader of the pipe pleases (rule E6). When the queue is full, lines are lost;
//! how many is logged as soon as there is room. Nothing that a client sent can break a line: values are escaped.
//!
//! It knows nothing of requests: what a line says is up to whoever builds it.
//!
//! ```
//! # use mini_rproxy::{config::LogFormat, log::{Level, Logger}};
//! # let logger = Logger::start(LogFormat::Text, std::io::sink())?;
//! // time=2026-01-31T12:00:00.000Z level=info msg="listening" address=127.0.0.1:8080
//! logger.line(Level::Info, "listening").text("address", "127.0.0.1:8080").send();
//! # Ok::<(), std::io::Error>(())
//! ```

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::config::LogFormat;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something is broken and needs a person.
    Error,
    /// Something went wrong and was dealt with.
    Warn,
    /// What a healthy proxy says.
    Info,
    /// What only a search for a fault needs: written while [`Logger::set_debug`] is on.
    Debug,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// The most bytes that wait to be written.
const QUEUE_CAP: usize = 256 * 1024;

/// How much memory a queue or a line keeps when it is empty.
const KEPT_CAPACITY: usize = 16 * 1024;

/// How long the writer rests after a write failed, so that a closed pipe costs next to nothing.
const REST: Duration = Duration::from_millis(100);

/// A handle to the log. Clones write to the same place; the last one to go ends the writer, when all is written.
#[derive(Clone)]
pub struct Logger {
    handle: Arc<Handle>,
    format: LogFormat,
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("format", &self.format).finish_non_exhaustive()
    }
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.arrived.notify_one();
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    debug: AtomicBool,
    /// There is something to write, or nothing will come any more.
    arrived: Condvar,
    /// Everything was written, or could not be.
    drained: Condvar,
}

impl Shared {
    /// Nothing that runs under the lock panics half-way, so that a poisoned queue is still whole.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// How many lines these are. One with lines for people below it is still one.
    lines: u64,
    /// Lines that found the queue full, or that could not be written.
    lost: u64,
    /// The writer holds bytes that are not written yet.
    writing: bool,
    closed: bool,
}

impl Logger {
    /// A log on standard output.
    pub fn to_stdout(format: LogFormat) -> io::Result<Logger> {
        // std's own handle would split what is written into lines and copy them once more.
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Logger::start(format, File::from(stdout))
    }

    /// A log on `sink`, which may block.
    pub fn start(format: LogFormat, sink: impl Write + Send + 'static) -> io::Result<Logger> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all_lines(&writer, sink, format))?;
        Ok(Logger { handle: Arc::new(Handle(shared)), format })
    }

    /// Begins a line with the time of now.
    pub fn line(&self, level: Level, message: &str) -> Line<'_> {
        Line { logger: self, buf: begin(self.format, SystemTime::now(), level, message) }
    }

    /// Turns debug lines on or off, for all clones.
    pub fn set_debug(&self, is_on: bool) {
        self.handle.0.debug.store(is_on, Ordering::Relaxed);
    }

    /// Whether lines of that level are wanted. Only debug lines can be unwanted; who makes them asks first.
    pub fn is_enabled(&self, level: Level) -> bool {
        level != Level::Debug || self.handle.0.debug.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, but not longer than `timeout`. Returns whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let shared = &self.handle.0;
        let waits = |queue: &mut Queue| queue.writing || !queue.bytes.is_empty();
        let waited = shared.drained.wait_timeout_while(shared.lock(), timeout, waits);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn append(&self, line: &[u8]) {
        let shared = &self.handle.0;
        let mut queue = shared.lock();
        if queue.bytes.len() + line.len() > QUEUE_CAP {
            queue.lost += 1;
            return;
        }
        queue.bytes.extend_from_slice(line);
        queue.lines += 1;
        drop(queue);
        shared.arrived.notify_one();
    }
}

/// The writer's thread.
fn write_all_lines(shared: &Shared, mut sink: impl Write, format: LogFormat) {
    let mut batch = Vec::new();
    loop {
        let idle = |queue: &mut Queue| queue.bytes.is_empty() && !queue.closed;
        let mut queue = shared.arrived.wait_while(shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if queue.bytes.is_empty() {
            return;
        }
        std::mem::swap(&mut queue.bytes, &mut batch);
        let lines = std::mem::take(&mut queue.lines);
        let lost = std::mem::take(&mut queue.lost);
        queue.writing = true;
        drop(queue);
        if lost > 0 {
            // What was lost came after all that is in this batch.
            batch.extend_from_slice(&lost_line(format, lost));
        }
        let written = write_patiently(&mut sink, &batch);
        let mut queue = shared.lock();
        if written.is_err() {
            queue.lost += lost + lines;
        }
        queue.writing = false;
        if queue.bytes.is_empty() {
            shared.drained.notify_all();
        }
        drop(queue);
        batch.clear();
        batch.shrink_to(KEPT_CAPACITY);
        if written.is_err() {
            // A pipe whose reader is gone, a full disk: it may come back, but not at once.
            thread::sleep(REST);
        }
    }
}

/// Like `write_all`, but waits where standard output was made non-blocking by whoever shares it.
fn write_patiently(sink: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
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

fn lost_line(format: LogFormat, lost: u64) -> Vec<u8> {
    let mut buf = begin(format, SystemTime::now(), Level::Warn, "log lines were lost: nobody read them in time");
    write_field(&mut buf, format, "lost", Value::Number(lost));
    end(&mut buf, format);
    buf
}

thread_local! {
    /// The memory of this thread's last line, so that a line allocates nothing in the steady state.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A line that is being built. It is gone when it is not sent.
#[derive(Debug)]
#[must_use = "a line says nothing until it is sent"]
pub struct Line<'a> {
    logger: &'a Logger,
    buf: Vec<u8>,
}

impl Line<'_> {
    /// Adds text. Keys are plain words, chosen by us.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.field(key, Value::Bytes(value.as_bytes()))
    }

    /// Adds bytes that somebody sent.
    pub fn bytes(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.field(key, Value::Bytes(value))
    }

    /// Adds a number.
    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.field(key, Value::Number(value))
    }

    /// Adds `true` or `false`.
    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.field(key, Value::Flag(value))
    }

    /// Adds a duration in milliseconds with three decimals; the key should end with `_ms`.
    pub fn millis(&mut self, key: &str, value: Duration) -> &mut Self {
        self.field(key, Value::Millis(value))
    }

    /// Adds whatever can be displayed.
    pub fn display(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        self.field(key, Value::Display(&value))
    }

    /// Adds lines for people, as the last thing: below, set in a little; in JSON as one string.
    pub fn lines(&mut self, key: &str, lines: &str) -> &mut Self {
        match self.logger.format {
            LogFormat::Json => self.text(key, lines),
            LogFormat::Text => {
                for line in lines.lines() {
                    self.buf.extend_from_slice(b"\n    ");
                    Escaped { buf: &mut self.buf, format: LogFormat::Text, bare: true }.push(line.as_bytes());
                }
                self
            }
        }
    }

    fn field(&mut self, key: &str, value: Value<'_>) -> &mut Self {
        write_field(&mut self.buf, self.logger.format, key, value);
        self
    }

    /// Ends the line and hands it to the writer.
    pub fn send(&mut self) {
        let mut buf = std::mem::take(&mut self.buf);
        end(&mut buf, self.logger.format);
        self.logger.append(&buf);
        buf.clear();
        buf.shrink_to(KEPT_CAPACITY);
        // Without its thread-local storage, a thread that ends only loses the memory.
        let _ = SPARE.try_with(|spare| spare.set(buf));
    }
}

enum Value<'a> {
    Bytes(&'a [u8]),
    Number(u64),
    Flag(bool),
    Millis(Duration),
    Display(&'a dyn fmt::Display),
}

fn begin(format: LogFormat, now: SystemTime, level: Level, message: &str) -> Vec<u8> {
    let mut buf = SPARE.try_with(Cell::take).unwrap_or_default();
    let time = humantime::format_rfc3339_millis(now);
    let level = level.name();
    match format {
        LogFormat::Text => push(&mut buf, format_args!("time={time} level={level} msg=")),
        LogFormat::Json => push(&mut buf, format_args!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"msg\":")),
    }
    write_string(&mut buf, format, Quotes::Always, |escaped| escaped.push(message.as_bytes()));
    buf
}

fn end(buf: &mut Vec<u8>, format: LogFormat) {
    match format {
        LogFormat::Text => buf.push(b'\n'),
        LogFormat::Json => buf.extend_from_slice(b"}\n"),
    }
}

fn write_field(buf: &mut Vec<u8>, format: LogFormat, key: &str, value: Value<'_>) {
    debug_assert!(!key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "not a key: {key}");
    match format {
        LogFormat::Text => push(buf, format_args!(" {key}=")),
        LogFormat::Json => push(buf, format_args!(",\"{key}\":")),
    }
    match value {
        Value::Bytes(bytes) => write_string(buf, format, Quotes::WhereNeeded, |escaped| escaped.push(bytes)),
        Value::Display(value) => write_string(buf, format, Quotes::WhereNeeded, |escaped| {
            // Only the value itself can fail, and then what it said so far stands there.
            let _ = fmt::Write::write_fmt(escaped, format_args!("{value}"));
        }),
        Value::Number(number) => push(buf, format_args!("{number}")),
        Value::Flag(flag) => push(buf, format_args!("{flag}")),
        Value::Millis(time) => push(buf, format_args!("{}.{:03}", time.as_millis(), time.subsec_micros() % 1000)),
    }
}

/// Writing into memory cannot fail.
fn push(buf: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let _ = buf.write_fmt(text);
}

/// Whether a text value gets quotes; JSON strings always have them.
#[derive(Clone, Copy)]
enum Quotes {
    Always,
    WhereNeeded,
}

fn write_string(buf: &mut Vec<u8>, format: LogFormat, quotes: Quotes, write: impl FnOnce(&mut Escaped<'_>)) {
    let start = buf.len();
    buf.push(b'"');
    let mut escaped = Escaped { buf: &mut *buf, format, bare: true };
    write(&mut escaped);
    let bare = escaped.bare && buf.len() > start + 1;
    match (format, quotes) {
        (LogFormat::Text, Quotes::WhereNeeded) if bare => drop(buf.remove(start)),
        (LogFormat::Text | LogFormat::Json, Quotes::Always | Quotes::WhereNeeded) => buf.push(b'"'),
    }
}

/// Makes everything that is written to it harmless inside quotes.
struct Escaped<'a> {
    buf: &'a mut Vec<u8>,
    format: LogFormat,
    /// Nothing so far needs quotes in the text format.
    bare: bool,
}

impl Escaped<'_> {
    fn push(&mut self, bytes: &[u8]) {
        match self.format {
            LogFormat::Text => self.push_text(bytes),
            LogFormat::Json => self.push_json(bytes),
        }
    }

    /// Visible ASCII stays, everything else becomes `\xNN`: a terminal shows exactly what was sent.
    fn push_text(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.bare &= byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
            match byte {
                b'"' | b'\\' => self.buf.extend_from_slice(&[b'\\', byte]),
                b' '..=b'~' => self.buf.push(byte),
                0..=0x1f | 0x7f..=0xff => push(self.buf, format_args!("\\x{byte:02x}")),
            }
        }
    }

    /// Bytes that are not UTF-8 become the characters of the same number, so that nothing is lost.
    fn push_json(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\\' => self.buf.extend_from_slice(&[b'\\', c as u8]),
                    // Controls above ASCII and the two line separators of Unicode can break a line too.
                    '\u{2028}' | '\u{2029}' => push(self.buf, format_args!("\\u{:04x}", u32::from(c))),
                    _ if c.is_control() => push(self.buf, format_args!("\\u{:04x}", u32::from(c))),
                    _ => self.buf.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            for byte in chunk.invalid() {
                push(self.buf, format_args!("\\u{byte:04x}"));
            }
        }
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// From now on a panic is one line of the log instead of a backtrace.
pub fn log_panics(logger: Logger) {
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let cause = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let mut line = logger.line(Level::Error, "panic: this is a bug");
        line.text("cause", cause.unwrap_or("unknown"));
        if let Some(place) = panic.location() {
            line.display("place", place);
        }
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
    fn logged(format: LogFormat, build: impl FnOnce(&mut Line<'_>)) -> String {
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
        let build = |line: &mut Line<'_>| {
            line.text("a", "b").number("n", u64::MAX).millis("t_ms", Duration::from_micros(12_345_067));
            line.flag("yes", true).display("to", "127.0.0.1:80").display("odd", format_args!("x {}", 1));
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
        assert!(whole >= QUEUE_CAP / 1100, "{whole}");
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
        drop(logger);
        let written = String::from_utf8(receiver.iter().flatten().collect()).expect("UTF-8");
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
    fn the_writer_ends_with_the_last_handle_after_writing_everything() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let logger = Logger::start(LogFormat::Text, Channel(sender)).expect("a thread");
        let other = logger.clone();
        logger.line(Level::Warn, "last words").send();
        drop(logger);
        drop(other);
        let written: Vec<u8> = receiver.iter().flatten().collect();
        assert!(written.ends_with(b" level=warn msg=\"last words\"\n"));
    }

    #[test]
    fn what_sits_in_a_line_that_was_not_sent_is_gone() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let logger = Logger::start(LogFormat::Text, Channel(sender)).expect("a thread");
        let _ = logger.line(Level::Info, "never mind");
        logger.line(Level::Info, "said").send();
        drop(logger);
        let written: Vec<u8> = receiver.iter().flatten().collect();
        assert_eq!(written.iter().filter(|&&b| b == b'\n').count(), 1);
    }
}
