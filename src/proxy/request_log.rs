//! What is said of requests: the access log's record of one, gathered while it runs, and who hears of it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::cause::Cause;
use super::events::UpstreamEvent;
use crate::bytes::SharedText;
use crate::config::UpstreamUrl;
use crate::extras::timeline::Timeline;
use crate::http::chars::find;
use crate::http::head::{Method, RequestHead, Version};
use crate::mono_time::MonoTime;

/// Hears of finished requests; all it is given is borrowed.
pub trait Observer {
    /// A request is over.
    fn access(&mut self, record: &AccessRecord<'_>);
    /// Something happened to an upstream that is one of several.
    fn upstream(&mut self, _upstream: &UpstreamUrl, _event: UpstreamEvent) {}
    /// A head of the route with this name was not mapped, because it would have become too large.
    fn left_unmapped(&mut self, _route: &str, _now: MonoTime) {}
    /// Something that the operator should know of.
    fn warn(&mut self, _message: fmt::Arguments<'_>) {}
    /// Something that is good to know, and asks for nothing.
    fn info(&mut self, _message: fmt::Arguments<'_>) {}
    /// Whether the life of a request that begins now is to be told, as [`AccessRecord::timeline`].
    fn wants_timeline(&self) -> bool {
        false
    }
    /// What was counted so far, as the text of /metrics.
    fn metrics(&mut self, _now: MonoTime) -> SharedText {
        SharedText::default()
    }
}

/// One line of the access log.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// The facts.
    pub log: &'a RequestLog,
    /// When it was over.
    pub ended: MonoTime,
    /// The client's target; empty where the request head was not understood.
    pub target: &'a [u8],
    /// Whether a log that shows queries may show its query.
    pub has_query: bool,
    /// `None` where no route was chosen.
    pub prefix: Option<&'a str>,
    /// The first host that the route is for, where it is not for all of them.
    pub route_host: Option<&'a str>,
    /// Whether the route has counters of its own: of very many routes only the first ones do.
    pub is_counted_by_prefix: bool,
    /// Host and port of the upstream, where a route was chosen; of several the one that was asked last.
    pub upstream: Option<&'a str>,
    /// What the plugins did.
    pub plugins: &'a [PluginTiming],
    /// What plugins have added to the line.
    pub pairs: &'a [(Vec<u8>, Vec<u8>)],
    /// Its life, as lines for people, where the observer wants that.
    pub timeline: Option<&'a str>,
}

impl<'a> AccessRecord<'a> {
    /// What there is to say of a request that ended at once, without a target or a route.
    #[cfg(test)]
    pub fn new(log: &'a RequestLog) -> AccessRecord<'a> {
        AccessRecord {
            log,
            ended: log.started,
            target: b"",
            has_query: true,
            prefix: None,
            route_host: None,
            is_counted_by_prefix: false,
            upstream: None,
            plugins: &[],
            pairs: &[],
            timeline: None,
        }
    }

    /// Empty where the request head was not understood.
    pub fn method(&self) -> &'a [u8] {
        self.log.method.as_ref().map_or(b"", Method::as_bytes)
    }

    /// The client's target without the query, which may hold what has no place in a log.
    pub fn path(&self) -> &'a [u8] {
        path_of(self.target)
    }

    /// The target for a log that shows queries.
    pub fn shown_target(&self) -> &'a [u8] {
        if self.has_query { self.target } else { self.path() }
    }

    /// From the first byte of the head to the end.
    pub fn total(&self) -> Duration {
        self.ended - self.log.started
    }
}

/// A target without the query.
pub fn path_of(target: &[u8]) -> &[u8] {
    &target[..find(target, b'?').unwrap_or(target.len())]
}

/// What one plugin did within one exchange, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginTiming {
    /// Its name.
    pub plugin: &'static str,
    /// How long its hooks took.
    pub time: Duration,
    /// How many of them failed.
    pub faults: u32,
}

/// Who made a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseSource {
    /// The upstream.
    Upstream,
    /// We.
    Proxy,
    /// A plugin.
    Plugin,
}

/// The facts of one request so far.
#[derive(Debug, Default)]
pub struct RequestLog {
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
    /// The final status; 0 while there is none, 499 when the client went away first.
    pub status: u16,
    /// Body bytes received from the client; framing is not counted.
    pub bytes_in: u64,
    /// Body bytes given to the client; framing is not counted.
    pub bytes_out: u64,
    /// Whether the upstream connection came from the pool.
    pub reused: bool,
    /// How often the request was sent again.
    pub retries: u32,
    /// The address of the upstream connection, the last one of several.
    pub upstream_addr: Option<SocketAddr>,
    /// Who made the final response; `None` while there is none.
    pub source: Option<ResponseSource>,
    /// Whether the client's request has a body.
    pub has_request_body: bool,
    /// Whether the final response, as it was made, has a body.
    pub has_response_body: bool,
    /// What went wrong first; `None` for a plain success.
    pub cause: Option<Cause>,
    /// The client: the peer, or whom trusted proxies report (with port 0 where they say none); `None` on a unix socket.
    pub client: Option<SocketAddr>,
    /// What happened so far, where the observer wants it.
    pub timeline: Option<Box<Timeline>>,
    /// More of the head, where the configuration of the log asks for it.
    pub details: Option<Box<RequestDetails>>,
}

/// What the head of a request said, before anything was changed in it. Values that are long are cut: a line has no place
/// for more.
#[derive(Debug)]
pub struct RequestDetails {
    /// As the client sent it.
    pub version: Version,
    /// Empty where there is none, as the others.
    pub host: Vec<u8>,
    /// Without its query, where queries are not logged.
    pub referer: Vec<u8>,
    /// The client's program.
    pub user_agent: Vec<u8>,
}

impl RequestDetails {
    /// Of this head.
    pub fn of(head: &RequestHead, has_query: bool) -> Box<RequestDetails> {
        const MAX_VALUE: usize = 1024;
        let value = |name: &[u8]| {
            let line = head.fields.iter().find(|line| line.name.eq_ignore_ascii_case(name));
            line.map_or(&b""[..], |line| &line.value[..line.value.len().min(MAX_VALUE)])
        };
        let referer = if has_query { value(b"referer") } else { path_of(value(b"referer")) };
        let values = [value(b"host"), value(b"user-agent"), referer];
        let [host, user_agent, referer] = values.map(<[u8]>::to_vec);
        Box::new(RequestDetails { version: head.version, host, user_agent, referer })
    }

    /// How many bytes of memory it owns.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.host.capacity() + self.user_agent.capacity() + self.referer.capacity()
    }
}

impl RequestLog {
    /// Notes what went wrong; the first cause is the one that explains the others.
    pub fn set_cause(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
    }
}
