//! The interface between a request and the plugins: they reach it in no other way.
//!
//! The proxy calls [`Hooks`] in three phases and gives each call a [`HookContext`] of what it may see and change. In the first
//! two a chain may stop and be called again, to go on where it stopped: when a body is there, or when a pause is over. It knows
//! nothing of libraries and C tables; those live one layer above, in `plugin`.

pub use mini_rproxy_plugin::host::{Phase, Side};

use super::events::{Peer, PeerDetails};
pub use super::request_log::PluginTiming;
use super::request_log::RequestLog;
use super::tickets::Ticket;
use crate::http::fields::Fields;
use crate::http::head::{RequestHead, ResponseHead};
use crate::mono_time::MonoTime;

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
#[derive(Debug)]
pub enum Verdict {
    /// The exchange goes on.
    Continue,
    /// A plugin answers by itself; this is what the client gets.
    Respond(Box<LocalResponse>),
    /// A plugin failed: 502.
    Fail,
    /// The next hook waits for the whole body, which is still coming.
    AwaitBody,
    /// The next hook needs a body that is above the limit: 413 or 502.
    TooLarge,
    /// The exchange waits until that ticket is resumed.
    Pause(Ticket),
}

/// Where a chain goes on when it is called again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// The phase that it is in; another one begins at its first plugin.
    pub phase: Option<Phase>,
    /// How many plugins are through.
    pub nth: usize,
    /// What is next of this one.
    pub step: Step,
}

/// The hook of a plugin that is called next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// `on_request` or `on_response`.
    #[default]
    Hook,
    /// `on_resume`.
    Resume {
        /// The number of the ticket that it waits for.
        ticket: u64,
        /// How it was resumed: `Some(false)` for a failure.
        result: Option<bool>,
    },
    /// `on_request_body` or `on_response_body`.
    Body,
}

/// A body that a plugin asked for in one of its hooks.
#[derive(Clone, Copy, Debug)]
pub struct WantedBody {
    /// Which plugin of the chain.
    pub plugin: usize,
    /// Of which message.
    pub side: Side,
    /// Whether a body above the limit may pass without it.
    pub is_optional: bool,
    /// Its body hook was called.
    pub is_given: bool,
}

/// The values that plugins share within one exchange, and how far the chain came. The exchange keeps it between the
/// calls.
#[derive(Debug, Default)]
pub struct ChainState {
    /// Key and value; capped at 64 keys and 64 KiB by the writer.
    pub values: Vec<(Vec<u8>, Vec<u8>)>,
    /// What they have added to the line of the access log.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many plugins' `on_request` ran, counted from the first one; `on_done` is owed to these ...
    pub started: usize,
    /// ... and to those whose `on_response` ran, counted from the last one.
    pub responded: usize,
    /// What they did, in the order of the chain.
    pub timings: Vec<PluginTiming>,
    /// Where the chain goes on.
    pub position: Position,
    /// Which plugin has paused, and the number of its ticket, until that is resumed.
    pub paused: Option<(usize, u64)>,
    /// What was asked for in hooks.
    pub wanted: Vec<WantedBody>,
    /// Some plugin may write the response's body: then nobody knows the length of one that is not sent, to HEAD.
    pub writes_response_body: bool,
}

impl ChainState {
    /// For another exchange: the vectors keep their places.
    pub fn clear(&mut self) {
        let ChainState { mut values, mut pairs, mut timings, mut wanted, .. } = std::mem::take(self);
        values.clear();
        pairs.clear();
        timings.clear();
        wanted.clear();
        *self = ChainState { values, pairs, timings, wanted, ..ChainState::default() };
    }

    /// How many bytes of memory it owns.
    pub fn memory(&self) -> usize {
        let ChainState {
            values,
            pairs,
            started: _,
            responded: _,
            timings,
            position: _,
            paused: _,
            wanted,
            writes_response_body: _,
        } = self;
        let within: usize = values.iter().chain(pairs).map(|(key, value)| key.capacity() + value.capacity()).sum();
        size_of::<ChainState>()
            + within
            + (values.capacity() + pairs.capacity()) * size_of::<(Vec<u8>, Vec<u8>)>()
            + timings.capacity() * size_of::<PluginTiming>()
            + wanted.capacity() * size_of::<WantedBody>()
    }

    /// What that plugin asked for of that side.
    pub fn wanted_by(&mut self, plugin: usize, side: Side) -> Option<&mut WantedBody> {
        self.wanted.iter_mut().find(|wanted| wanted.plugin == plugin && wanted.side == side)
    }

    /// There is another response, which no plugin has seen.
    pub fn restart_response(&mut self) {
        self.position = Position::default();
        self.wanted.iter_mut().for_each(|wanted| wanted.is_given &= wanted.side == Side::Request);
    }

    /// The plugin that was called last has answered: what follows is for those behind it.
    pub fn skip_plugin(&mut self) {
        self.position.nth += 1;
        self.position.step = Step::Hook;
    }

    /// The pause is over; see [`Step::Resume`].
    pub fn resume(&mut self, is_good: bool) {
        self.paused = None;
        if let Step::Resume { result, .. } = &mut self.position.step {
            *result = Some(is_good);
        }
    }
}

/// What is known of a body when hooks are called.
#[derive(Debug)]
pub enum HookBody<'a> {
    /// There is no place for one: answers to HEAD, 204, 304, and the response in the request phase.
    None,
    /// It is not here: it is still to come, or has gone by.
    Coming,
    /// All of it, empty where the message has none. It may be replaced, also where it is empty.
    Whole(&'a mut Vec<u8>),
    /// It is above the limit.
    TooLarge,
}

/// What a hook sees of its exchange.
#[derive(Debug)]
pub struct HookContext<'a> {
    /// As it will be sent; hop-by-hop and framing fields are gone, Host is in `authority`. Read only in the response phase.
    pub request: &'a mut RequestHead,
    /// `Some` in the response phase: as it will be sent, without framing and hop-by-hop fields.
    pub response: Option<&'a mut ResponseHead>,
    /// The request's body. One that a plugin has replaced gets the Content-Length of the new one.
    pub request_body: HookBody<'a>,
    /// The response's body.
    pub response_body: HookBody<'a>,
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
    /// Calls the hooks of a phase, or goes on with them: [`Phase::Request`] when the head is complete, after routing and
    /// rewriting; [`Phase::Response`] when the head of the final response is, before its first byte is sent; [`Phase::Done`] once
    /// for each request that had its first phase, when it is over, however it ended.
    ///
    /// After [`Verdict::AwaitBody`] it is called again when the body is whole or too large, after [`Verdict::Pause`] when the
    /// ticket was resumed and [`ChainState::resume`] called.
    fn call(&self, phase: Phase, context: &mut HookContext<'_>) -> Verdict;
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
                request_body: HookBody::Coming,
                response_body: HookBody::None,
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

    #[test]
    fn another_response_has_another_body() {
        let wanted = |side| WantedBody { plugin: 0, side, is_optional: false, is_given: true };
        let mut chain =
            ChainState { wanted: vec![wanted(Side::Request), wanted(Side::Response)], ..ChainState::default() };
        chain.wanted.push(WantedBody { is_given: false, ..wanted(Side::Request) });
        chain.restart_response();
        assert_eq!(chain.wanted.iter().map(|wanted| wanted.is_given).collect::<Vec<_>>(), [true, false, false]);
    }
}
