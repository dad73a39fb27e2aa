//! What goes into a connection and what comes out of it: the contract between floor 2 and the owner of sockets and clock.

use std::net::SocketAddr;
use std::time::Duration;

use super::hooks::PluginTiming;
use super::runtime::UpstreamId;
use crate::bytes::SharedText;
use crate::config::UpstreamUrl;
use crate::http::chars::find;
use crate::mono_time::MonoTime;

/// One end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards the client.
    Client,
    /// Towards the origin.
    Upstream,
}

/// Why no connection to an upstream could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The name does not resolve (now).
    DnsFail,
    /// Every address refused.
    Refused,
    /// No address answered in time.
    TimedOut,
    /// It proved to be somebody else, or nobody whom we trust.
    Untrusted(CertificateError),
    /// The TLS handshake failed in another way.
    TlsFailed,
    /// Anything else: unreachable, out of descriptors.
    Failed,
}

/// Why an upstream's certificate was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is for other names.
    WrongName,
    /// Nobody whom we trust has signed it.
    UnknownIssuer,
    /// Anything else.
    Unacceptable,
}

/// What happened outside.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// These bytes were read from that side. All of them are taken.
    Bytes(Side, &'a [u8]),
    /// So many bytes were read from that side and written to the other, unseen: at most `ProxyConnection::bypass_limit`.
    Bypassed(Side, u64),
    /// That side sends no more (FIN).
    Eof(Side),
    /// That side is gone (RST, or any other error of reading).
    Reset(Side),
    /// That side takes no more bytes (a write failed); what it sent may still be read.
    Unwritable(Side),
    /// Of what was written to that side before, some has arrived: it is slow, but it takes bytes.
    Drained(Side),
    /// The answer to [`Command::Connect`].
    Connected {
        /// It comes from the pool.
        reused: bool,
    },
    /// The other answer to [`Command::Connect`].
    ConnectFailed(ConnectError),
    /// A deadline may have passed.
    Tick,
}

/// What is to be done outside. Commands are carried out in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Lend a connection to this upstream: one from the pool, or a new one; `fresh`: not from the pool.
    /// Answered by `Input::Connected` or `Input::ConnectFailed`, at once or later.
    Connect {
        /// Where to.
        upstream: UpstreamId,
        /// Not from the pool.
        fresh: bool,
    },
    /// The borrowed upstream connection (or the attempt at one) is not needed any more; it may serve others.
    Park,
    /// The same, but somebody may have logged in on it: from now on it may serve this client's connection and nobody else,
    /// also when it is parked later, and it is closed with it.
    Reserve,
    /// Close that side's socket. For `Upstream` also: give up an attempt to connect. After `Close(Client, _)` the
    /// connection is over.
    Close(Side, CloseMode),
    /// Send no more to that side (shutdown of the write half), reading goes on.
    Shutdown(Side),
}

/// How a side is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// The kernel still delivers what was written.
    Close,
    /// With a reset, so that the peer can tell that the message is truncated.
    Abort,
}

/// The moment, as the owner of the clock says it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic: all deadlines are made of it (rule E11).
    pub instant: MonoTime,
    /// The Date field's value (RFC 9110 section 5.6.7).
    pub date: [u8; 29],
}

/// The other end of a client connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// `None` on a unix socket.
    pub address: Option<SocketAddr>,
    /// Whether the client speaks TLS to us.
    pub is_tls: bool,
    /// Where it came in.
    pub listener: ListenerKind,
}

/// Where a client came in: what is served depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerKind {
    /// Where everybody may: the routes, and /metrics for local clients unless it has an entrance of its own.
    #[default]
    Public,
    /// On `admin.listen_addr`: the built-in resources, and nothing else.
    Admin,
}

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

/// What happens to an upstream that is one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamEvent {
    /// A request is sent to it, or tried to.
    Attempted,
    /// That request got no answer.
    Failed,
    /// After too many of those it is left alone for so long; the word of the log for how the last one failed.
    Ejected(Duration, &'static str),
    /// It answered, and gets requests again.
    Recovered,
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
    /// What `why` means and where to look, as the list of docs/log.md has it.
    pub hint: Option<&'static str>,
    /// Its life, as lines for people, where the observer wants that.
    pub timeline: Option<&'a str>,
}

impl AccessRecord<'_> {
    /// The client's target without the query, which may hold what has no place in a log.
    pub fn path(&self) -> &[u8] {
        &self.target[..find(self.target, b'?').unwrap_or(self.target.len())]
    }
}
