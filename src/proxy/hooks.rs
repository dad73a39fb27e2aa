//! The interface between a request and the plugins: they reach it in no other way.
//!
//! The proxy calls [`Hooks`] in three phases and gives each call a [`HookContext`] of what it may see and change. It
//! knows nothing of libraries and C tables; those live one layer above, in `plugin`.

pub use mini_rproxy_plugin::host::Phase;

use super::events::{Peer, PeerDetails};
pub use super::request_log::PluginTiming;
use super::request_log::RequestLog;
use crate::http::fields::Fields;
use crate::http::head::{RequestHead, ResponseHead};
use crate::mono_time::MonoTime;

/// Which bodies have to be buffered, because some plugin asked for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferBodies {
    /// The request's.
    pub request: bool,
    /// The response's.
    pub response: bool,
}

/// An answer that a plugin gives in the upstream's place.
#[derive(Clone, Debug, Default)]
pub struct LocalResponse {
    /// 200 to 599.
    pub status: u16,
    /// Without framing and connection fields: the exchange adds those, and Date.
    pub fields: Fields,
    /// Its length becomes the Content-Length; empty where the status is 204 or 304.
    pub body: Vec<u8>,
}

/// What a chain of hooks decided.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The exchange goes on.
    Continue,
    /// A plugin answers by itself; this is what the client gets.
    Respond(Box<LocalResponse>),
    /// A plugin failed: 502.
    Fail,
}

/// The values that plugins share within one exchange, and how far the chain came. The exchange keeps it between the
/// calls and looks at nothing in it.
#[derive(Debug, Default)]
pub struct ChainState {
    /// Key and value; capped at 64 keys and 64 KiB by the writer.
    pub values: Vec<(Vec<u8>, Vec<u8>)>,
    /// What they have added to the line of the access log.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many plugins' `on_request` ran; `on_done` is owed to these.
    pub started: usize,
    /// What they did, in the order of the chain.
    pub timings: Vec<PluginTiming>,
}

impl ChainState {
    /// How many bytes of memory it owns.
    pub fn memory(&self) -> usize {
        let ChainState { values, pairs, started: _, timings } = self;
        let within: usize = values.iter().chain(pairs).map(|(key, value)| key.capacity() + value.capacity()).sum();
        within
            + (values.capacity() + pairs.capacity()) * size_of::<(Vec<u8>, Vec<u8>)>()
            + timings.capacity() * size_of::<PluginTiming>()
    }

    /// Forgets everything; keeps no memory but that of the lists.
    pub fn clear(&mut self) {
        self.values.clear();
        self.pairs.clear();
        self.started = 0;
        self.timings.clear();
    }
}

/// What a hook sees of its exchange.
#[derive(Debug)]
pub struct HookContext<'a> {
    /// As it will be sent; hop-by-hop and framing fields are gone, Host is in `authority`. Read only in the response phase.
    pub request: &'a mut RequestHead,
    /// `Some` in the response phase: as it will be sent, without framing and hop-by-hop fields.
    pub response: Option<&'a mut ResponseHead>,
    /// The whole request body, where it was asked for: empty where there is none. A plugin may replace it, also an empty
    /// one; then the request gets the Content-Length of the new one. `None` where it was not asked for, and in the
    /// response phase where it is not at hand any more.
    pub request_body: Option<&'a mut Vec<u8>>,
    /// The whole response body, where it was asked for; may be replaced like the request's. `None` where it was not
    /// asked for, and where there can be none: answers to HEAD, 204, 304.
    pub response_body: Option<&'a mut Vec<u8>>,
    /// The client's own target.
    pub original_target: &'a [u8],
    /// The Host that the client sent, or the authority of its URL; empty where it sent neither.
    pub client_host: &'a [u8],
    /// The client's connection.
    pub peer: &'a Peer,
    /// More of it.
    pub details: Option<&'a PeerDetails>,
    /// What will be in the log.
    pub log: &'a RequestLog,
    /// The moment.
    pub now: MonoTime,
    /// As written in the configuration.
    pub route_prefix: &'a str,
    /// The authority of the upstream: no scheme, no credentials.
    pub upstream: &'a str,
    /// What the chain keeps between the calls.
    pub state: &'a mut ChainState,
}

/// A chain of plugins.
pub trait Hooks: Send + Sync {
    /// Which bodies to buffer: always the same.
    fn wants(&self) -> BufferBodies;
    /// Calls the hooks of a phase: [`Phase::Request`] after routing and rewriting (and after the body, where it is wanted),
    /// before connecting; [`Phase::Response`] after the final response head (and the body, where it is wanted), before its
    /// first byte is sent; [`Phase::Done`] once for each request that had its first phase, when it is over, however it ended.
    fn call(&self, phase: Phase, view: &mut HookContext<'_>) -> Verdict;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    static PEER: LazyLock<Peer> = LazyLock::new(Peer::default);
    static LOG: LazyLock<RequestLog> = LazyLock::new(RequestLog::default);

    impl<'a> HookContext<'a> {
        /// In the request phase, with nothing known but the request.
        pub fn of_request(request: &'a mut RequestHead, state: &'a mut ChainState) -> HookContext<'a> {
            HookContext {
                request,
                response: None,
                request_body: None,
                response_body: None,
                original_target: b"/",
                client_host: b"",
                peer: &PEER,
                details: None,
                log: &LOG,
                now: MonoTime::FIRST,
                route_prefix: "",
                upstream: "",
                state,
            }
        }
    }
}
