//! What is said of requests: the access log's record of one, gathered while it runs, and who hears of it.

use std::net::SocketAddr;
use std::time::Duration;

use super::cause::Cause;
use super::events::UpstreamEvent;
use super::hooks::PluginTiming;
use crate::bytes::SharedText;
use crate::config::UpstreamUrl;
use crate::extras::timeline::Timeline;
use crate::http::chars::find;
use crate::http::head::Method;
use crate::mono_time::MonoTime;

/// Hears of finished requests; all it is given is borrowed.
pub trait Observer {
    /// A request is over.
    fn access(&mut self, record: &AccessRecord<'_>);
    /// Something happened to an upstream that is one of several.
    fn upstream(&mut self, upstream: &UpstreamUrl, event: UpstreamEvent) {
        let _ = (upstream, event);
    }
    /// A head of the route with this prefix was not mapped, because it would have become too large.
    fn left_unmapped(&mut self, prefix: &str, now: MonoTime) {
        let _ = (prefix, now);
    }
    /// Whether the life of a request that begins now is to be told, as [`AccessRecord::timeline`].
    fn wants_timeline(&self) -> bool {
        false
    }
    /// What was counted so far, as the text of /metrics.
    fn metrics(&mut self, now: MonoTime) -> SharedText {
        let _ = now;
        SharedText::new("".into())
    }
}

/// One line of the access log.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessRecord<'a> {
    /// The client: the peer, or whom trusted proxies report (with port 0 where they say none); `None` on a unix socket.
    pub client: Option<SocketAddr>,
    /// Empty where the request head was not understood.
    pub method: &'a [u8],
    /// The client's target; empty where the request head was not understood.
    pub target: &'a [u8],
    /// `None` where no route was chosen.
    pub prefix: Option<&'a str>,
    /// Whether the route has counters of its own: of very many routes only the first ones do.
    pub is_counted_by_prefix: bool,
    /// Host and port of the upstream, where a route was chosen; of several the one that was asked last.
    pub upstream: Option<&'a str>,
    /// The final status; 499 when the client went away first.
    pub status: u16,
    /// Body bytes received from the client; framing is not counted.
    pub bytes_in: u64,
    /// Body bytes given to the client; framing is not counted.
    pub bytes_out: u64,
    /// Whether the upstream connection came from the pool.
    pub reused: bool,
    /// How often the request was sent again.
    pub retries: u32,
    /// From the first byte of the head to its last.
    pub head: Duration,
    /// From the first byte of the head until the upstream connection was there.
    pub connect: Option<Duration>,
    /// From the first byte of the head to the first byte of the response.
    pub first_byte: Option<Duration>,
    /// From the first byte of the head to the end.
    pub total: Duration,
    /// `None` for a plain success.
    pub why: Option<&'static str>,
    /// The rule that a peer broke, where that is why.
    pub rule: Option<&'static str>,
    /// What is behind `why` and what can be done, as a sentence, where a word does not say it.
    pub detail: Option<&'static str>,
    /// What the plugins did.
    pub plugins: &'a [PluginTiming],
    /// The same as `why`, with its hint.
    pub cause: Option<Cause>,
    /// Its life, as lines for people, where the observer wants that.
    pub timeline: Option<&'a str>,
}

impl AccessRecord<'_> {
    /// The client's target without the query, which may hold what has no place in a log.
    pub fn path(&self) -> &[u8] {
        &self.target[..find(self.target, b'?').unwrap_or(self.target.len())]
    }
}

/// The facts of one request so far.
#[derive(Debug)]
pub(super) struct RequestLog {
    /// When the first byte of the head was there.
    pub started: MonoTime,
    /// When the head was complete.
    pub head_read: Option<MonoTime>,
    /// When the upstream connection was there.
    pub connected: Option<MonoTime>,
    /// When the first byte of the response was there.
    pub first_byte: Option<MonoTime>,
    /// The client's method; `None` while the request line was not understood.
    pub method: Option<Method>,
    /// The final status; 0 while there is none.
    pub status: u16,
    /// Body bytes received from the client.
    pub bytes_in: u64,
    /// Body bytes given to the client.
    pub bytes_out: u64,
    /// Whether the upstream connection came from the pool.
    pub reused: bool,
    /// How often the request was sent again on a fresh connection.
    pub retries: u32,
    /// What went wrong first.
    pub cause: Option<Cause>,
    /// The client's address: the peer's, or the one that trusted proxies report.
    pub client: Option<SocketAddr>,
    /// What happened so far, where the observer wants it.
    pub timeline: Option<Box<Timeline>>,
}

impl RequestLog {
    /// A request whose first byte came at `started`.
    pub fn new(started: MonoTime) -> RequestLog {
        RequestLog {
            started,
            head_read: None,
            connected: None,
            first_byte: None,
            method: None,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            reused: false,
            retries: 0,
            cause: None,
            client: None,
            timeline: None,
        }
    }

    /// Notes what went wrong; the first cause is the one that explains the others.
    pub fn set_cause(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
    }
}
