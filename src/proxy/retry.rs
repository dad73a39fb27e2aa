//! Connecting to an upstream, and whether a request is sent again: [`Transaction::on_attempt_failed`] decides it, and
//! nothing else does. (How one connection is made, address by address, is the event loop's business.)
//!
//! What happens to upstreams that are one of several is told to the balance and to the observer; a route with one upstream
//! knows nothing of this.

use std::rc::Rc;

use super::cause::Cause;
use super::context::Context;
use super::events::{CloseMode, Command, Side, UpstreamEvent};
use super::forward::write_request_head;
use super::state::{RequestState, ResponseState, Transaction, UpstreamAttempt};
use crate::config::{HostPolicy, RouteConfig};
use crate::extras::response_rewrite::readdress_request;
use crate::http::framing::Framing;

/// A request of which bytes have left is sent to so many other upstreams when it gets no response: one that crashes every
/// upstream must not go through all of them.
const MAX_LOSSES: u8 = 2;

impl Transaction {
    /// Chooses an upstream, where the route has several.
    pub(super) fn choose_upstream(&mut self, ctx: &mut Context<'_, '_>, route: u32) -> Option<UpstreamAttempt> {
        let group = ctx.client.runtime.upstreams_of(route);
        if group.len() < 2 {
            return None;
        }
        let mut tried = 0;
        let repeatable = self.buf.request.method.is_idempotent();
        let login = ctx.client.details.as_ref().and_then(|details| details.login_upstream);
        let chosen = ctx.worker.balance.choose(ctx.now(), group, &mut tried, repeatable, login);
        chosen.map(|(nth, lease)| UpstreamAttempt { nth, lease, tried, queued: (0, Framing::None), losses: 0 })
    }

    /// Asks for a connection to the upstream. `is_new`: not one from the pool.
    pub(super) fn connect_upstream(&mut self, ctx: &mut Context<'_, '_>, is_new: bool) {
        let Some(upstream) = self.upstream_id(&ctx.client.runtime) else { return };
        self.set_response("connection asked for", ResponseState::Connecting { since: ctx.now() });
        ctx.client.commands.push(Command::Connect { upstream, is_new });
        self.notify(ctx, UpstreamEvent::Attempted);
    }

    /// An attempt has failed before a response came: the request is sent again, or answered with an error.
    pub(super) fn on_attempt_failed(&mut self, ctx: &mut Context<'_, '_>, cause: Cause) {
        let has_begun = self.log.first_byte.is_some();
        let may_be_stale = self.log.reused && self.log.retries == 0;
        // Rule G18: none of the body may be gone.
        let is_repeatable = !has_begun
            && !self.has_upload_begun
            && !matches!(self.request_state, RequestState::Discard)
            && self.buf.request.method.is_idempotent();
        if self.holds_upstream() {
            ctx.client.commands.push(Command::Close(Side::Upstream, CloseMode::Close));
        }
        let is_sent_again = match cause {
            // Nothing of the request has left, whatever its method is (rule G17).
            Cause::Connect(_) => self.try_next_upstream(ctx, cause),
            // A response has come, or a part of one: the upstream is there, and what it has answered is never repeated.
            Cause::UpstreamReset | Cause::UpstreamTruncated if has_begun => false,
            _ if self.received.status > 0 => false,
            // Rule G17: a connection from the pool may just have been stale. That is no failure of the upstream.
            Cause::UpstreamReset if may_be_stale => {
                if is_repeatable {
                    self.log.retries += 1;
                    self.buf.to_upstream.rewind();
                    self.connect_upstream(ctx, true);
                }
                is_repeatable
            }
            Cause::UpstreamReset if is_repeatable && self.count_loss() => {
                self.buf.to_upstream.rewind();
                self.try_next_upstream(ctx, cause)
            }
            // One that takes nothing or gives no head in time may be slow everywhere, and the client has waited long enough.
            _ => {
                self.record_failure(ctx, cause);
                false
            }
        };
        if !is_sent_again {
            self.buf.to_upstream.clear();
            self.send_error(ctx, cause);
        }
    }

    /// Counts a connection that ended without a response, and tells whether another upstream may be tried after it.
    fn count_loss(&mut self) -> bool {
        let Some(attempt) = &mut self.attempt else { return false };
        attempt.losses += 1;
        attempt.losses <= MAX_LOSSES
    }

    /// Goes on with an upstream that was not tried, if there is one. What is queued goes to it, with a head of its own.
    fn try_next_upstream(&mut self, ctx: &mut Context<'_, '_>, cause: Cause) -> bool {
        self.record_failure(ctx, cause);
        let (Some(route), Some(attempt)) = (self.route_index, &mut self.attempt) else { return false };
        let runtime = Rc::clone(&ctx.client.runtime);
        let group = runtime.upstreams_of(route);
        let repeatable = self.buf.request.method.is_idempotent();
        let chosen = ctx.worker.balance.choose(ctx.now(), group, &mut attempt.tried, repeatable, None);
        let Some((nth, lease)) = chosen else { return false };
        let before = std::mem::replace(&mut attempt.nth, nth);
        attempt.lease = lease;
        self.log.retries += 1;
        self.rewrite_queued_head(&runtime.config.routes[route as usize], before);
        // One from the pool might be stale, and there has been trouble enough.
        self.connect_upstream(ctx, true);
        true
    }

    /// Writes the queued head anew, for the chosen upstream instead of the one with the number `before`.
    fn rewrite_queued_head(&mut self, route: &RouteConfig, before: usize) {
        let Some(attempt) = &mut self.attempt else { return };
        let (old, new) = (&route.upstreams()[before], &route.upstreams()[attempt.nth]);
        let buf = &mut self.buf;
        // Unless a plugin has chosen another Host.
        if route.options.host == HostPolicy::Upstream && buf.request.authority == old.host_value().as_bytes() {
            buf.request.authority.clear();
            buf.request.authority.extend_from_slice(new.host_value().as_bytes());
            readdress_request(&mut buf.request.fields, old, new);
        }
        let (head_len, framing) = attempt.queued;
        let rest = buf.to_upstream.pending()[head_len..].to_vec();
        buf.to_upstream.clear();
        let authorization = new.authorization.as_deref();
        write_request_head(&buf.request, framing, authorization, &buf.offered, buf.to_upstream.buf());
        attempt.queued.0 = buf.to_upstream.len();
        buf.to_upstream.extend(&rest);
    }

    fn record_failure(&mut self, ctx: &mut Context<'_, '_>, cause: Cause) {
        let Some(attempt) = &mut self.attempt else { return };
        let ejected = attempt.lease.failed(ctx.now(), &ctx.client.runtime.config.health);
        self.notify(ctx, UpstreamEvent::Failed);
        if let Some(span) = ejected {
            self.notify(ctx, UpstreamEvent::Ejected(span, cause.why()));
        }
    }

    /// The upstream answered. Whatever it says, it is there.
    pub(super) fn record_success(&mut self, ctx: &mut Context<'_, '_>) {
        let Some(attempt) = &mut self.attempt else { return };
        if attempt.lease.answered() {
            self.notify(ctx, UpstreamEvent::Recovered);
        }
    }

    fn notify(&self, ctx: &mut Context<'_, '_>, event: UpstreamEvent) {
        if let Some(upstream) = self.upstream(&ctx.client.runtime).filter(|_| self.attempt.is_some()) {
            ctx.worker.observer.upstream(upstream, event);
        }
    }
}
