//! Writes one JSON line for each request, to a file or to standard error.
//!
//! Lesson: `on_done` sees all that became of an exchange, and must not block either. So the line is made there, and a thread
//! of the plugin's own writes it. The queue between them is bounded: where the disk is too slow, lines are dropped and
//! counted, and no request waits.
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/access_log_json.so
//!     config: {file: /var/log/mini-rproxy/access.json, queue: 4096}
//! ```
//! Without `file` the lines go to standard error. A file that was renamed or removed (logrotate) is opened anew. The metrics
//! `lines_total` and `dropped_lines_total` tell how many were written and how many were not.

mod writer;

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use mini_rproxy_plugin::{Counter, DonePhase, Error, Plugin, Setup};
use serde::{Deserialize, Serialize};

/// The configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    file: Option<String>,
    queue: Option<usize>,
}

/// The plugin.
#[derive(Debug)]
pub struct AccessLogJson {
    /// `None` in the drop.
    lines: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
    dropped: Counter,
}

/// What stands in a line: what is not known is left out, and times are in microseconds.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    scheme: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'a str>,
    protocol: &'a str,
    method: String,
    host: String,
    target: String,
    route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
    bytes_in: u64,
    bytes_out: u64,
    head_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_us: Option<u64>,
    total_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What is no UTF-8 is replaced: a line is always JSON.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn line(x: &DonePhase<'_>, time: SystemTime) -> Result<Vec<u8>, serde_json::Error> {
    let (request, times) = (x.request(), x.times());
    let mut line = serde_json::to_vec(&Line {
        time: humantime::format_rfc3339_millis(time).to_string(),
        status: x.final_status(),
        cause: x.cause(),
        source: x.response().map(|response| response.source()),
        client: request.client_addr(),
        scheme: request.scheme(),
        tls: request.tls_version(),
        protocol: request.protocol(),
        method: text(request.method()),
        host: text(request.client_host()),
        target: text(request.original_target()),
        route: text(request.route_prefix()),
        upstream: x.upstream_addr(),
        retries: x.retries(),
        bytes_in: x.bytes_in(),
        bytes_out: x.bytes_out(),
        head_us: times.head.as_micros() as u64,
        connect_us: times.connect.map(|time| time.as_micros() as u64),
        first_byte_us: times.first_byte.map(|time| time.as_micros() as u64),
        total_us: times.total.as_micros() as u64,
        user_agent: request.field("user-agent").map(text),
        request_id: x.value("request_id.id").map(text),
    })?;
    line.push(b'\n');
    Ok(line)
}

impl Plugin for AccessLogJson {
    const NAME: &'static str = "access_log_json";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        let config: Config = match config {
            b"" => Config::default(),
            config => serde_json::from_slice(config)
                .map_err(|error| Error::new(format!("config must be a mapping, with file or queue: {error}")))?,
        };
        let queue = config.queue.unwrap_or(1024);
        if !(1..=1_000_000).contains(&queue) {
            return Err(Error::new("queue: from 1 to 1000000 lines"));
        }
        let written = setup.counter("lines_total", "Lines that were written.")?;
        let dropped =
            setup.counter("dropped_lines_total", "Lines that found no room in the queue, or were not written.")?;
        let writer = writer::Writer::open(config.file, setup.logger(), written, dropped)?;
        let (lines, receiver) = sync_channel(queue);
        let writer = thread::Builder::new().name("access_log_json".into()).spawn(move || writer.run(&receiver))?;
        Ok(AccessLogJson { lines: Some(lines), writer: Some(writer), dropped })
    }

    fn on_done(&self, x: &DonePhase<'_>) {
        let line = line(x, SystemTime::now()).ok();
        let is_taken = line.zip(self.lines.as_ref()).is_some_and(|(line, lines)| lines.try_send(line).is_ok());
        self.dropped.add(u32::from(!is_taken));
    }
}

impl Drop for AccessLogJson {
    /// What is in the queue is written before the end.
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::{Attr, Exchange, Instance, Outcome};
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::sync::mpsc::Receiver;

    fn file(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mini-rproxy-access-log-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn a_line_tells_what_became_of_a_request() {
        let path = file("line");
        let plugin = Instance::<AccessLogJson>::new(format!("{{\"file\": {path:?}}}")).unwrap();
        let mut x = Exchange::new("POST", "/a?b=\"c\"")
            .field("User-Agent", "curl\u{7f}/8")
            .body("hello")
            .attr(Attr::Scheme, "https")
            .attr(Attr::TlsVersion, "TLSv1.3")
            .attr(Attr::TimeTotalUs, 1234)
            .attr(Attr::TimeConnectUs, 12)
            .attr(Attr::UpstreamAddr, "192.0.2.9:80");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        x.upstream_answers(404, &[], "no");
        x.done(&plugin);
        let mut gone = Exchange::get("/").client(None).attr(Attr::FinalStatus, 499).attr(Attr::Cause, "client_left");
        gone.done(&plugin);
        drop(plugin);
        let lines = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut first = lines[0].clone();
        let time = first["time"].take();
        assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok());
        let expected = serde_json::json!({
            "time": null, "status": 404, "source": "upstream", "client": "192.0.2.1", "scheme": "https", "tls": "TLSv1.3",
            "protocol": "HTTP/1.1", "method": "POST", "host": "www.example", "target": "/a?b=\"c\"", "route": "/",
            "upstream": "192.0.2.9:80", "bytes_in": 5, "bytes_out": 2, "head_us": 0, "connect_us": 12,
            "total_us": 1234, "user_agent": "curl\u{7f}/8",
        });
        assert_eq!(first, expected);
        assert_eq!((&lines[1]["status"], &lines[1]["cause"]), (&499.into(), &"client_left".into()));
        assert_eq!((lines[1].get("client"), lines[1].get("source"), lines.len()), (None, None, 2));
    }

    #[test]
    fn a_full_queue_drops_lines_and_counts_them() {
        /// The plugin, without the thread that takes the lines.
        struct Full(AccessLogJson, #[allow(dead_code)] Mutex<Receiver<Vec<u8>>>);
        impl Plugin for Full {
            const NAME: &'static str = "full";
            fn create(setup: &Setup, _: &[u8]) -> Result<Self, Error> {
                let dropped = setup.counter("dropped_lines_total", "Lines.")?;
                let (lines, receiver) = sync_channel(2);
                Ok(Full(AccessLogJson { lines: Some(lines), writer: None, dropped }, Mutex::new(receiver)))
            }
            fn on_done(&self, x: &DonePhase<'_>) {
                self.0.on_done(x);
            }
        }
        let plugin = Instance::<Full>::new("").unwrap();
        for dropped in [0, 0, 1, 2] {
            Exchange::get("/").done(&plugin);
            assert_eq!(plugin.metric("dropped_lines_total"), Some(dropped));
        }
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for (config, part) in [
            ("text", "must be a mapping"),
            ("{\"path\": \"x\"}", "unknown field `path`"),
            ("{\"queue\": 0}", "queue: from 1"),
            ("{\"file\": \"/no/such/folder/x\"}", "/no/such/folder/x: "),
        ] {
            let error = Instance::<AccessLogJson>::new(config).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
