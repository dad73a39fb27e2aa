//! Asking for an upstream connection, and for one to another upstream when that fails. What happens to upstreams that
//! are one of several is told to their balance and to the observer; a route with one upstream knows nothing of this.

use std::rc::Rc;

use super::cause::Cause;
use super::choice::UpstreamAttempt;
use super::context::Ctx;
use super::events::{Command, UpstreamEvent};
use super::forward::write_request_head;
use super::runtime::{Runtime, UpstreamId};
use super::transaction::{ResponseState, Transaction};
use crate::config::{HostPolicy, RouteConfig, UpstreamUrl};
use crate::extras::balance::{Change, Tried};
use crate::extras::response_rewrite::readdress_request;

impl Transaction {
    /// Chooses an upstream, where the route has several.
    pub(super) fn choose_upstream(&mut self, ctx: &mut Ctx<'_, '_>, route: u32) {
        if ctx.client.runtime.config.routes[route as usize].more_upstreams.is_none() {
            return;
        }
        let repeatable = self.request.method.is_idempotent();
        let mut tried = Tried::default();
        let Some(group) = ctx.client.runtime.group_of(route) else { return };
        let chosen = ctx.worker.balance.choose(ctx.now(), group, &mut tried, repeatable, ctx.client.reserved);
        self.choice = chosen.map(|(nth, lease)| UpstreamAttempt::new(nth, lease, tried));
    }

    /// The upstream that the request goes to.
    pub(super) fn upstream_of<'a>(&self, route: &'a RouteConfig) -> &'a UpstreamUrl {
        UpstreamAttempt::upstream(self.choice.as_ref(), route)
    }

    /// The name of that upstream.
    pub(super) fn upstream_id(&self, runtime: &Runtime, route: u32) -> UpstreamId {
        match (&self.choice, runtime.group_of(route)) {
            (Some(choice), Some(group)) => group[choice.nth],
            (None, _) | (Some(_), None) => runtime.upstream_of(route),
        }
    }

    /// Asks for a connection to the upstream of the plan.
    pub(super) fn connect_upstream(&mut self, ctx: &mut Ctx<'_, '_>, fresh: bool) {
        let Some(plan) = self.plan else { return };
        self.response_state = ResponseState::Connecting { since: ctx.now() };
        let id = self.upstream_id(&ctx.client.runtime, plan.route);
        ctx.commands.push(Command::Connect { upstream: id, fresh });
        self.notify(ctx, UpstreamEvent::Attempted);
    }

    /// The upstream could not be reached, or did not answer, for `cause`: notes it, and goes on with another one that was not tried.
    /// Returns whether there is one. Nothing of the request may count as sent; what is queued goes to the next one, with
    /// a head of its own.
    pub(super) fn try_next_upstream(&mut self, ctx: &mut Ctx<'_, '_>, cause: Cause) -> bool {
        self.record_failure(ctx, cause);
        let (Some(plan), Some(choice)) = (self.plan, &mut self.choice) else { return false };
        let runtime = Rc::clone(&ctx.client.runtime);
        let Some(group) = runtime.group_of(plan.route) else { return false };
        let repeatable = self.request.method.is_idempotent();
        let chosen = ctx.worker.balance.choose(ctx.now(), group, &mut choice.tried, repeatable, None);
        let Some((nth, lease)) = chosen else { return false };
        let route = &runtime.config.routes[plan.route as usize];
        let before = std::mem::replace(&mut choice.nth, nth);
        choice.lease = lease;
        self.log.retries += 1;
        self.rewrite_queued_head(route, before);
        // One from the pool might be stale, and there has been trouble enough.
        self.connect_upstream(ctx, true);
        true
    }

    /// Writes the queued head anew, for the chosen upstream instead of the one with the number `before`.
    fn rewrite_queued_head(&mut self, route: &RouteConfig, before: usize) {
        let Some(choice) = &mut self.choice else { return };
        let (old, new) = (route.nth_upstream(before), route.nth_upstream(choice.nth));
        // Unless a plugin has chosen another Host.
        if route.options.host == HostPolicy::Upstream && self.request.authority == old.authority.as_bytes() {
            self.request.authority.clear();
            self.request.authority.extend_from_slice(new.authority.as_bytes());
            readdress_request(&mut self.request.fields, old, new);
        }
        let rest = self.to_upstream.pending()[choice.queued.head_len..].to_vec();
        self.to_upstream.clear();
        let (framing, authorization) = (choice.queued.framing, new.authorization.as_deref());
        write_request_head(&self.request, framing, authorization, &self.offered, self.to_upstream.buf());
        choice.queued.head_len = self.to_upstream.len();
        self.to_upstream.extend(&rest);
    }

    /// The upstream did not answer, or not in time.
    pub(super) fn record_failure(&mut self, ctx: &mut Ctx<'_, '_>, cause: Cause) {
        let Some(choice) = &mut self.choice else { return };
        let change = choice.lease.failed(ctx.now(), &ctx.client.runtime.config.health);
        self.notify(ctx, UpstreamEvent::Failed);
        if let Change::Ejected(span) = change {
            self.notify(ctx, UpstreamEvent::Ejected(span, cause.why()));
        }
    }

    /// The upstream answered. Whatever it says, it is there.
    pub(super) fn record_success(&mut self, ctx: &mut Ctx<'_, '_>) {
        let Some(choice) = &mut self.choice else { return };
        if choice.lease.answered() == Change::Recovered {
            self.notify(ctx, UpstreamEvent::Recovered);
        }
    }

    fn notify(&self, ctx: &mut Ctx<'_, '_>, event: UpstreamEvent) {
        let (Some(plan), Some(choice)) = (self.plan, &self.choice) else { return };
        let route = &ctx.client.runtime.config.routes[plan.route as usize];
        ctx.worker.observer.upstream(route.nth_upstream(choice.nth), event);
    }
}
