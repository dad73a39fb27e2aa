//! What the access log will say about one request, gathered while it runs.

use std::net::SocketAddr;

use super::cause::Cause;
use crate::extras::timeline::Timeline;
use crate::http::head::Method;
use crate::mono_time::MonoTime;

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
