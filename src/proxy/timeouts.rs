//! Picks the next time-out from the states of both sides.
//!
//! Every time-out measures progress, and for a head only the whole of it counts: a request's from its first byte on, a
//! response's from the end of the request or of the interim response before it. A side that is held up by the other one
//! has no time-out of its own: the other side's decides.

use std::time::Duration;

use super::cause::Cause;
use super::context::Ctx;
use super::events::{ConnectError, Side};
use super::runtime::Runtime;
use super::state::{HalfClose, RequestState, ResponseState, Transaction};
use crate::config::Timeouts;
use crate::mono_time::MonoTime;

/// How long a client may go on sending after our last byte, and how long it may be silent meanwhile: enough to read an
/// error that was sent while it was still uploading.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// See [`LINGER`].
pub(super) const LINGER_IDLE: Duration = Duration::from_secs(2);

/// How long an idle connection stays when the process is going to stop: a request may be on its way.
pub(super) const DRAIN_IDLE: Duration = Duration::from_secs(1);

impl Transaction {
    pub(super) fn timeouts<'a>(&self, runtime: &'a Runtime) -> &'a Timeouts {
        self.route(runtime).map_or(&runtime.config.timeouts, |route| &route.options.timeouts)
    }

    /// The nearest time-out, and what it will be called.
    pub(super) fn next_timeout(&self, runtime: &Runtime) -> Option<(MonoTime, Cause)> {
        let timeouts = self.timeouts(runtime);
        let last = &self.last_activity;
        if let (RequestState::Tunnel(down), ResponseState::Tunnel(up)) = (&self.request_state, &self.response_state) {
            let (span, cause) = match (down, up) {
                (HalfClose::Open, HalfClose::Open) => (timeouts.tunnel_idle, Cause::TunnelIdle),
                _ => (timeouts.tunnel_half_closed.min(timeouts.tunnel_idle), Cause::TunnelHalfClosed),
            };
            return Some((last.latest() + span, cause));
        }
        // If a peer has unread output, its write time-out applies; the other side's read time-out is suspended.
        let upstream_is_slow = self.is_connected() && !self.buf.to_upstream.is_empty();
        let client_is_slow = !self.buf.to_client.is_empty();
        let reading_client = match &self.request_state {
            RequestState::Head { since, .. } => Some((*since + timeouts.request_head, Cause::HeadTimeout)),
            RequestState::Body { .. }
                if self.wants_read(Side::Client) && !upstream_is_slow && !self.is_upload_held_back() =>
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
            // A response may keep step with the upload.
            ResponseState::Body { is_pushed: false, .. } if self.wants_read(Side::Upstream) && !client_is_slow => {
                Some((last_of_upstream + timeouts.response_idle, Cause::ResponseIdleTimeout))
            }
            _ => None,
        };
        let all = [reading_client, writing_client, writing_upstream, reading_upstream];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Whether it is the upstream's turn: before it has the whole request it has no reason to answer, and whoever holds
    /// the request up is the one who is late.
    fn is_request_sent(&self) -> bool {
        let waits_for_client = matches!(self.request_state, RequestState::Body { .. }) && !self.is_upload_held_back();
        self.buf.to_upstream.is_empty() && !waits_for_client
    }

    /// Carries out the time-outs that have passed.
    pub(super) fn on_tick(&mut self, ctx: &mut Ctx<'_, '_>) {
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
        if self.log.timeline.is_some() {
            self.trace(ctx.now(), Some((None, "time-out", 0)));
        }
    }
}
