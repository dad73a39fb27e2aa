//! What a worker says: warnings, and one line for each finished request. Where nobody asked for access lines, none is
//! built. What a line looks like and how it leaves the process is the log's business.
//!
//! Whether or not anything is said, everything is counted: a [`MeteredObserver`] stands between the proxy connections and the log.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::log_limiter::LogLimiter;
use crate::bytes::SharedText;
use crate::config::UpstreamUrl;
use crate::extras::metrics::{Counter, Metrics, Registry};
use crate::extras::prometheus;
use crate::http::chars::find;
use crate::http::head::Version;
use crate::log::{Level, LogLine, Logger};
use crate::mono_time::MonoTime;
use crate::proxy::cause::Cause;
use crate::proxy::proxy_connection::{AccessRecord, Observer, UpstreamEvent};

/// One worker's observer: it counts what the proxy connections tell it and hands it on to the log.
pub struct MeteredObserver {
    /// This worker's own counters.
    pub metrics: Arc<Metrics>,
    /// Those of all workers, to be read only.
    registry: Arc<Registry>,
    /// For what is not counted.
    pub log: Box<dyn Observer>,
    unmapped: LogLimiter,
    /// When it was last said of an upstream that it fails, of so many that memory stays bounded.
    failing: HashMap<String, LogLimiter>,
    /// The texts of /metrics that clients are still sent, the newest last, and when each was made.
    texts: Vec<(MonoTime, Weak<Box<str>>)>,
}

/// A client that asks for /metrics while another one is still sent a text that is no older gets the same text.
const TEXT_AGE: Duration = Duration::from_secs(1);
/// So many texts there may be at the same time; then the newest one has to do, whatever its age (rule E4).
const MAX_TEXTS: usize = 4;

/// Upstreams of which it is known when they failed last (rule E4).
const MAX_FAILING: usize = 1024;

impl MeteredObserver {
    /// For the worker with this number.
    pub fn new(registry: Arc<Registry>, number: usize, log: Box<dyn Observer>) -> MeteredObserver {
        let metrics = Arc::clone(registry.of_worker(number));
        let unmapped = LogLimiter::default();
        MeteredObserver { metrics, registry, log, unmapped, failing: HashMap::new(), texts: Vec::new() }
    }

    /// Without lines of requests the log would say nothing else of an upstream that fails.
    fn warn_of_failure(&mut self, record: &AccessRecord<'_>) {
        if let (Some(cause), Some(upstream)) = (record.log.cause, record.upstream)
            && matches!(cause.status(), 502 | 504)
            && !matches!(cause, Cause::PluginFailed | Cause::PluginTimeout | Cause::ResponseTooLarge)
        {
            const MINUTE: Duration = Duration::from_secs(60);
            if self.failing.len() >= MAX_FAILING && !self.failing.contains_key(upstream) {
                self.failing.retain(|_, last| !last.is_due(record.ended, MINUTE));
                if self.failing.len() >= MAX_FAILING {
                    return;
                }
            }
            if self.failing.entry(upstream.to_owned()).or_default().is_due(record.ended, MINUTE) {
                self.log.warn(format_args!("a request to upstream {upstream} failed ({})", cause.why()));
            }
        }
    }
}

impl Observer for MeteredObserver {
    fn access(&mut self, record: &AccessRecord<'_>) {
        self.metrics.count_request(record);
        self.log.access(record);
        self.warn_of_failure(record);
    }

    fn upstream(&mut self, upstream: &UpstreamUrl, event: UpstreamEvent) {
        self.metrics.count_upstream(upstream, event);
        let authority = &upstream.authority;
        match event {
            UpstreamEvent::Attempted | UpstreamEvent::Failed => {}
            UpstreamEvent::Ejected(span, why) => self.log.warn(format_args!(
                "upstream {authority} fails ({why}): this worker leaves it alone for {span:?}, then tries one request"
            )),
            UpstreamEvent::Recovered => self.log.info(format_args!("upstream {authority} answers again")),
        }
    }

    fn left_unmapped(&mut self, route: &str, now: MonoTime) {
        self.metrics.increment(Counter::UnmappedHeads);
        if self.unmapped.is_due(now, Duration::from_secs(60)) {
            self.log.warn(format_args!(
                "route {route}: a head would be larger than max_head_bytes when mapped to or from the prefix: it is \
                 passed on as it came"
            ));
        }
    }

    fn wants_timeline(&self) -> bool {
        self.log.wants_timeline()
    }

    fn metrics(&mut self, now: MonoTime) -> SharedText {
        self.texts.retain(|(_, text)| text.strong_count() > 0);
        let is_full = self.texts.len() >= MAX_TEXTS;
        if let Some((made, text)) = self.texts.last()
            && (is_full || now - *made < TEXT_AGE)
            && let Some(text) = text.upgrade()
        {
            return text;
        }
        let text = SharedText::new(prometheus::to_text(&self.registry).into());
        self.texts.push((now, Arc::downgrade(&text)));
        text
    }
}

/// What `log.fields: full` adds to a line.
const DETAIL_KEYS: [&str; 5] = ["host", "version", "query", "user_agent", "referer"];

fn version_of(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"1.0",
        Version::Http11 => b"1.1",
    }
}

/// `address - - [time] "GET /x?y HTTP/1.1" 200 12 "referer" "user agent"`; `-` stands for what is not there.
fn send_combined(mut line: LogLine<'_>, record: &AccessRecord<'_>) {
    let (log, details) = (record.log, record.log.details.as_deref());
    match details {
        _ if record.method().is_empty() => line.string(&[b"-"]),
        Some(details) => {
            line.string(&[record.method(), b" ", record.shown_target(), b" HTTP/", version_of(details.version)])
        }
        None => line.string(&[record.method(), b" ", record.shown_target()]),
    };
    line.number(log.status.into()).number(log.bytes_out);
    for value in details.map(|details| [&details.referer[..], &details.user_agent]).unwrap_or_default() {
        line.string(&[if value.is_empty() { b"-" } else { value }]);
    }
    line.send();
}

impl Observer for Logger {
    fn access(&mut self, record: &AccessRecord<'_>) {
        if record.timeline.is_none() && !self.has_access() {
            return;
        }
        let log = record.log;
        let details = log.details.as_deref();
        if let Some(line) = self.combined(log.client.map(|client| client.ip())).filter(|_| self.has_access()) {
            send_combined(line, record);
            if record.timeline.is_none() {
                return;
            }
        }
        let mut line = self.line(Level::Info, "request");
        line.client(log.client).bytes("method", record.method()).bytes("path", record.path());
        line.text_if("prefix", record.prefix)
            .text_if("route_host", record.route_host)
            .text_if("upstream", record.upstream);
        line.value("status", log.status)
            .value("bytes_in", log.bytes_in)
            .value("bytes_out", log.bytes_out)
            .value("reused", log.reused)
            .value("retries", log.retries);
        let moments = [
            ("head_ms", log.head_read.or(Some(record.ended))),
            ("connect_ms", log.connected),
            ("first_byte_ms", log.first_byte),
            ("total_ms", Some(record.ended)),
        ];
        for (name, moment) in moments {
            if let Some(moment) = moment {
                line.millis(name, moment - log.started);
            }
        }
        if let Some(cause) = log.cause {
            line.text("why", cause.why()).text_if("rule", cause.rule()).text_if("detail", cause.detail());
        }
        if let Some(details) = details {
            let target = record.shown_target();
            let query = find(target, b'?').map_or(&b""[..], |at| &target[at + 1..]);
            let values =
                [details.host.as_slice(), version_of(details.version), query, &details.user_agent, &details.referer];
            for (key, value) in DETAIL_KEYS.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
                line.bytes(key, value);
            }
        }
        for (key, value) in record.pairs {
            // A key of the line that plugins may use where the line does not.
            if details.is_some() && DETAIL_KEYS.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(key)) {
                continue;
            }
            // Tokens have no byte above ASCII.
            line.bytes(&String::from_utf8_lossy(key), value);
        }
        if let Some(timeline) = record.timeline {
            line.lines("timeline", timeline);
            if let Some(cause) = log.cause {
                line.lines("advice", &cause.hint());
            }
        }
        line.send();
    }

    fn warn(&mut self, message: fmt::Arguments<'_>) {
        self.line(Level::Warn, message).send();
    }

    fn info(&mut self, message: fmt::Arguments<'_>) {
        self.line(Level::Info, message).send();
    }

    fn wants_timeline(&self) -> bool {
        self.is_enabled(Level::Debug)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::http::error::HttpError;
    use crate::http::head::Method;
    use crate::proxy::request_log::RequestLog;
    use mini_rproxy_plugin::validate::ACCESS_KEYS;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() -> RequestLog {
        let at = |micros| MonoTime::FIRST + Duration::from_micros(micros);
        RequestLog {
            client: "192.0.2.7:4711".parse().ok(),
            method: Some(Method::Get),
            status: 200,
            bytes_out: 12,
            reused: true,
            head_read: Some(at(40)),
            connected: Some(at(1500)),
            ..RequestLog::default()
        }
    }

    fn record(log: &RequestLog) -> AccessRecord<'_> {
        AccessRecord {
            ended: log.started + Duration::from_secs(2),
            target: b"/fitness/a%20b?c=d",
            prefix: Some("/fitness"),
            route_host: Some("a.example"),
            upstream: Some("127.0.0.1:9001"),
            ..AccessRecord::new(log)
        }
    }

    fn said(access: bool, record: &AccessRecord<'_>) -> String {
        let kept = Kept::default();
        let logger = Logger::start(LogFormat::Text, kept.clone()).expect("a thread");
        logger.set_access(access);
        logger.clone().access(record);
        assert!(logger.flush(Duration::from_secs(10)));
        let bytes = kept.0.lock().expect("whole").clone();
        String::from_utf8(bytes).expect("ASCII")
    }

    #[test]
    fn e4_few_texts_of_metrics_are_kept_for_those_who_do_not_read_them() {
        let registry = Registry::new(1, Duration::ZERO);
        let logger = Logger::start(LogFormat::Text, Kept::default()).expect("a thread");
        let mut observer = MeteredObserver::new(Arc::new(registry), 0, Box::new(logger));
        let at = |seconds| MonoTime::FIRST + Duration::from_secs(seconds);
        let first = observer.metrics(at(0));
        assert!(Arc::ptr_eq(&first, &observer.metrics(at(0))), "it is still being sent");
        let slow: Vec<SharedText> = (1..100).map(|second| observer.metrics(at(second))).collect();
        assert!(!Arc::ptr_eq(&first, &slow[0]), "that one is too old");
        assert_eq!(observer.texts.len(), MAX_TEXTS);
        drop((first, slow));
        observer.metrics(at(100));
        assert_eq!(observer.texts.len(), 1, "nobody is sent the others any more");
    }

    #[test]
    fn a_failure_is_told_of_the_upstream_whose_it_is_once_a_minute() {
        let kept = Kept::default();
        let logger = Logger::start(LogFormat::Text, kept.clone()).expect("a thread");
        let mut observer =
            MeteredObserver::new(Arc::new(Registry::new(1, Duration::ZERO)), 0, Box::new(logger.clone()));
        for (seconds, cause) in [
            (0, Cause::PluginTimeout),
            (0, Cause::PluginFailed),
            (0, Cause::RequestTooLarge),
            (0, Cause::UpstreamReset),
            (59, Cause::ResponseTimeout),
            (61, Cause::ResponseTimeout),
        ] {
            let log = RequestLog { cause: Some(cause), ..log() };
            observer.access(&AccessRecord { ended: MonoTime::FIRST + Duration::from_secs(seconds), ..record(&log) });
        }
        assert!(logger.flush(Duration::from_secs(10)));
        let text = String::from_utf8(kept.0.lock().expect("whole").clone()).expect("ASCII");
        let told: Vec<_> = text.lines().filter_map(|line| line.split("upstream 127.0.0.1:9001 ").nth(1)).collect();
        assert_eq!(told, ["failed (upstream_reset)\"", "failed (response_timeout)\""], "{text}");
    }

    #[test]
    fn an_access_line_has_all_fields() {
        let line = said(true, &record(&log()));
        assert!(
            line.ends_with(
                " client=192.0.2.7:4711 method=GET path=/fitness/a%20b prefix=/fitness route_host=a.example upstream=127.0.0.1:9001 \
                 status=200 bytes_in=0 bytes_out=12 reused=true retries=0 head_ms=0.040 connect_ms=1.500 \
                 total_ms=2000.000\n"
            ),
            "{line}"
        );
        for (client, expected) in [("192.0.2.7:0", " client=192.0.2.7 "), ("[2001:db8::1]:0", " client=2001:db8::1 ")] {
            let line = said(true, &record(&RequestLog { client: client.parse().ok(), ..log() }));
            assert!(line.contains(expected), "{line}");
        }
        let cause = Some(Cause::BadResponse(HttpError::BareLf));
        let line = said(true, &record(&RequestLog { client: None, cause, ..log() }));
        assert!(line.contains(" client=unix ") && line.contains(" why=bad_response rule=S8 detail="), "{line}");
    }

    #[test]
    fn pairs_of_plugins_are_escaped_like_everything_else() {
        let pairs = [(b"x-id".to_vec(), b"a b\n\xff\"".to_vec()), (b"!#$%&'*+-.^_`|~".to_vec(), b"".to_vec())];
        let line = said(true, &AccessRecord { pairs: &pairs, ..record(&log()) });
        assert!(line.ends_with(" x-id=\"a b\\x0a\\xff\\\"\" !#$%&'*+-.^_`|~=\"\"\n"), "{line}");
    }

    #[test]
    fn plugins_cannot_use_a_key_of_the_line() {
        let log =
            RequestLog { cause: Some(Cause::BadResponse(HttpError::BareLf)), first_byte: Some(log().started), ..log() };
        let line = said(true, &AccessRecord { timeline: Some("said below"), ..record(&log) });
        let keys: Vec<&str> = line
            .split('\n')
            .next()
            .unwrap_or_default()
            .split(' ')
            .filter_map(|word| Some(word.split_once('=')?.0))
            .collect();
        assert_eq!(keys.join(" ") + " timeline advice", ACCESS_KEYS);
    }

    #[test]
    fn a_timeline_is_said_below_the_line_whether_or_not_lines_are() {
        let log = RequestLog { cause: Some(Cause::NoRoute), ..log() };
        let record = AccessRecord { timeline: Some("one\n\u{1b}two\n"), ..record(&log) };
        let line = said(false, &record);
        assert!(line.ends_with(" total_ms=2000.000 why=no_route\n    one\n    \\x1btwo\n    no route has a prefix of the path, or none is for the host (404): the routes and their `hosts`: `/configz`\n"), "{line}");
    }

    #[test]
    fn nothing_is_said_where_nobody_asked_for_it() {
        assert_eq!(said(false, &record(&log())), "");
    }
}
