//! Whether a side is read now, and until when it has to make progress.
//!
//! Backpressure is not all here: `read_side` in `net/session.rs` also puts off a read for the memory budget (rule E4), for a
//! slow receiver, and while a pipe holds bytes.
//!
//! Every time-out measures progress, and for a head only the whole of it counts: a request's from its first byte on, a
//! response's from the end of the request or of the interim response before it. A side that is held up by the other one
//! has no time-out of its own: the other side's decides.

use std::time::Duration;

use super::cause::Cause;
use super::context::Context;
use super::events::{ConnectError, Side};
use super::runtime::Runtime;
use super::state::{BodyMode, HalfClose, RequestState, ResponseState, Transaction};
use crate::config::Timeouts;
use crate::mono_time::MonoTime;

/// A direction is held up while this many bytes wait (rule E4).
const HIGH_WATER: usize = 16 * 1024;

/// How long a client may go on sending after our last byte, and how long it may be silent meanwhile: enough to read an
/// error that was sent while it was still uploading.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// See [`LINGER`].
pub(super) const LINGER_IDLE: Duration = Duration::from_secs(2);

/// What a read from one side is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPurpose {
    /// A request that has not been understood yet: its memory is all still to come, and half a head serves no client.
    NewRequest,
    /// A body that is buffered whole: its memory is reserved.
    Reserved,
    /// Something under way, of which nothing waits: what is read can leave at once, and brings the end nearer.
    InFlight,
    /// Something under way, of which bytes wait already: more would only lie on top of them.
    Backlogged,
}

impl Transaction {
    /// What a read from `side` would be for; `None` where it makes no sense now.
    pub(super) fn read_interest(&self, side: Side) -> Option<ReadPurpose> {
        let waiting = match (side, &self.request_state, &self.response_state) {
            (Side::Client, RequestState::Head { .. }, _) => return Some(ReadPurpose::NewRequest),
            // A plugin decides first what becomes of it.
            (Side::Client, RequestState::Body { .. }, ResponseState::Paused { .. }) => return None,
            (Side::Client, RequestState::Body { mode: BodyMode::Buffer, .. }, _)
            | (Side::Upstream, _, ResponseState::Body { mode: BodyMode::Buffer, .. }) => {
                return Some(ReadPurpose::Reserved);
            }
            (Side::Client, RequestState::Body { .. } | RequestState::Tunnel(HalfClose::Open), _) => {
                self.buf.to_upstream.len()
            }
            // Read on, to notice a client that leaves; but do not hoard what it pipelines.
            (Side::Client, RequestState::Done, _) => self.buf.client_input.len(),
            (Side::Client, RequestState::Discard, _) => 0,
            (
                Side::Upstream,
                _,
                ResponseState::AwaitHead { .. } | ResponseState::Body { .. } | ResponseState::Tunnel(HalfClose::Open),
            ) => self.buf.to_client.len(),
            // Only to notice that it is gone.
            (Side::Upstream, _, ResponseState::AwaitUpload) => self.buf.to_client.len().min(1),
            _ => return None,
        };
        match waiting {
            0 => Some(ReadPurpose::InFlight),
            1..HIGH_WATER => Some(ReadPurpose::Backlogged),
            HIGH_WATER.. => None,
        }
    }

    /// How many bytes may be moved from `side` to the other one unseen, behind the output that waits there.
    pub(super) fn bypass_limit(&self, side: Side) -> u64 {
        match (side, &self.request_state, &self.response_state) {
            // What is within the kernel is not seen, and so not which side waits for the other.
            _ if self.log.timeline.is_some() => 0,
            (Side::Client, _, _) if !self.is_connected() => 0,
            (_, _, ResponseState::Paused { .. }) => 0,
            (Side::Client, RequestState::Body { body, mode: BodyMode::Passthrough, .. }, _)
            | (Side::Upstream, _, ResponseState::Body { body, mode: BodyMode::Passthrough, .. }) => body.bypass_limit(),
            (Side::Client, RequestState::Tunnel(HalfClose::Open), _)
            | (Side::Upstream, _, ResponseState::Tunnel(HalfClose::Open)) => u64::MAX,
            _ => 0,
        }
    }

    pub(super) fn timeouts<'a>(&self, runtime: &'a Runtime) -> &'a Timeouts {
        self.route(runtime).map_or(&runtime.config.timeouts, |route| &route.options.timeouts)
    }

    /// The nearest time-out, and what it will be called.
    pub(super) fn next_timeout(&self, runtime: &Runtime) -> Option<(MonoTime, Cause)> {
        let timeouts = self.timeouts(runtime);
        let last = &self.last_activity;
        // If a peer has unread output, its write time-out applies; the other side's read time-out is suspended.
        let upstream_is_slow = self.is_connected() && !self.buf.to_upstream.is_empty();
        let client_is_slow = !self.buf.to_client.is_empty();
        let reading_client = match (&self.request_state, &self.response_state) {
            (RequestState::Tunnel(HalfClose::Open), ResponseState::Tunnel(HalfClose::Open)) => {
                return Some((last.latest() + timeouts.tunnel_idle, Cause::TunnelIdle));
            }
            (RequestState::Tunnel(_), ResponseState::Tunnel(_)) => {
                let span = timeouts.tunnel_half_closed.min(timeouts.tunnel_idle);
                return Some((last.latest() + span, Cause::TunnelHalfClosed));
            }
            (RequestState::Head { since, .. }, _) => Some((*since + timeouts.request_head, Cause::HeadTimeout)),
            (RequestState::Body { .. }, _)
                if self.read_interest(Side::Client).is_some() && !upstream_is_slow && !self.is_upload_held_back() =>
            {
                Some((last.client_read + timeouts.body_idle, Cause::BodyTimeout))
            }
            _ => None,
        };
        let writing_client =
            client_is_slow.then(|| (last.client_write + timeouts.write_idle, Cause::ClientWriteTimeout));
        let writing_upstream =
            upstream_is_slow.then(|| (last.upstream_write + timeouts.write_idle, Cause::UpstreamWriteTimeout));
        let last_of_upstream = last.upstream_read.max(last.upstream_write);
        let reading_upstream = match &self.response_state {
            ResponseState::Connecting { since } => {
                Some((*since + timeouts.connect.total, Cause::Connect(ConnectError::TimedOut)))
            }
            ResponseState::AwaitHead { .. } if self.is_request_sent() => {
                Some((last_of_upstream + timeouts.response_head, Cause::ResponseTimeout))
            }
            ResponseState::Paused { since, .. } => Some((*since + timeouts.plugin, Cause::PluginTimeout)),
            // A response may keep step with the upload.
            ResponseState::Body { is_pushed: false, .. }
                if self.read_interest(Side::Upstream).is_some() && !client_is_slow =>
            {
                Some((last_of_upstream + timeouts.response_idle, Cause::ResponseIdleTimeout))
            }
            _ => None,
        };
        let all = [reading_client, writing_client, writing_upstream, reading_upstream];
        all.iter().flatten().min_by_key(|(at, _)| *at).copied()
    }

    /// Whether the upstream has the whole request, or all that it gets before it answers: until then it has no reason to
    /// answer, and the side that holds the request up is the late one.
    fn is_request_sent(&self) -> bool {
        let waits_for_client = matches!(self.request_state, RequestState::Body { .. }) && !self.is_upload_held_back();
        self.buf.to_upstream.is_empty() && !waits_for_client
    }

    /// Carries out the time-out that has passed, if one has.
    pub(super) fn on_tick(&mut self, ctx: &mut Context<'_, '_>) {
        let Some((at, cause)) = self.next_timeout(&ctx.client.runtime) else { return };
        if at > ctx.now() {
            return;
        }
        match cause {
            Cause::ClientWriteTimeout => self.on_client_lost(ctx, cause),
            Cause::UpstreamWriteTimeout | Cause::Connect(_) | Cause::ResponseTimeout => {
                self.on_attempt_failed(ctx, cause);
            }
            Cause::TunnelIdle | Cause::TunnelHalfClosed => self.end_tunnel(ctx, cause),
            _ => self.send_error(ctx, cause),
        }
        self.trace(ctx.now(), || Some((None, "time-out", 0)));
    }
}
