//! What goes into a connection and what comes out of it: the contract between layer 2 and the owner of sockets and clock.

use std::net::SocketAddr;
use std::time::Duration;

use crate::mono_time::MonoTime;

/// What a PROXY header of version 2 begins with. No request does.
pub const PROXY_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Names an upstream, for as long as the process runs: an origin keeps its number over reloads, and the number of one that
/// is gone is never given again. So a number that somebody kept too long finds nothing instead of a stranger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub u32);

/// One end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards the client.
    Client,
    /// Towards the upstream.
    Upstream,
}

/// Why no connection to an upstream could be made. What comes later says more about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectError {
    /// Anything else: unreachable, out of descriptors.
    Failed,
    /// The name does not resolve (now).
    DnsFail,
    /// Every address refused.
    Refused,
    /// No address answered in time.
    TimedOut,
    /// The TLS handshake failed in another way.
    TlsFailed,
    /// It proved to be somebody else, or nobody whom we trust.
    Untrusted(CertificateError),
}

/// Why an upstream's certificate was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The answer to [`Command::AwaitResume`]: its ticket may have been resumed.
    Resumed,
    /// A deadline may have passed.
    Tick,
}

/// What is to be done outside. There is at most one of each kind at a time, and what concerns the upstream comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Acquire a connection to this upstream: one from the pool, or a new one.
    /// Answered by `Input::Connected` or `Input::ConnectFailed`, at once or later.
    Connect {
        /// Where to.
        upstream: UpstreamId,
        /// Not from the pool.
        is_new: bool,
    },
    /// A plugin has paused: wait for `ProxyConnection::awaited_ticket`. Answered by [`Input::Resumed`] when that is resumed: at
    /// once or later, or never.
    AwaitResume,
    /// The upstream connection is not needed any more; it goes into the pool.
    Release {
        /// Somebody may have logged in on it: from now on it serves this client's connection and nobody else, also when it is
        /// released later, and it is closed with it.
        is_login_bound: bool,
    },
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
    pub listener: ListenerProtocol,
}

/// More of a client's connection: told only where it is asked for.
#[derive(Clone, Debug, Default)]
pub struct PeerDetails {
    /// The address that it came to; `None` on a unix socket.
    pub local: Option<SocketAddr>,
    /// `TLSv1.2` or `TLSv1.3`, where it speaks TLS to us.
    pub tls_version: Option<&'static str>,
    /// The name that it asked for in its handshake.
    pub server_name: Option<String>,
    /// The subject of the certificate that it has shown, which was verified.
    pub client_subject: Option<String>,
}

/// What clients of a listening socket speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP.
    #[default]
    Plain,
    /// HTTP in TLS.
    Tls,
    /// HTTP, and only the built-in resources, for the operator: on `admin.listen_addr`.
    Admin,
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
