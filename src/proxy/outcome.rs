//! How an exchange ends: answers of our own, cuts, clients that leave, and the hooks that look on.

use std::time::Duration;

use super::cause::{Cause, Refusal};
use super::choice::UpstreamAttempt;
use super::context::Ctx;
use super::events::{AccessRecord, CloseMode, Command, Side};
use super::forward::Persistence;
use super::hooks::{HookContext, LocalResponse};
use super::local::{ResponseContext, write_answer, write_refusal};
use super::runtime::Runtime;
use super::transaction::{HalfClose, RequestState, ResponseSink, ResponseState, Transaction};
use crate::http::framing::has_no_body;
use crate::http::head::Method;
use crate::mono_time::MonoTime;

/// The status in the log for a client that went away (nginx's number; never sent).
const CLIENT_GONE: u16 = 499;

/// Which hooks are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HookPhase {
    Request,
    Response,
    Done,
}

impl Transaction {
    /// What the connection's fate looks like to the client now.
    pub(super) fn persistence(&self) -> Persistence {
        if self.is_persistent { Persistence::KeepAlive(self.request.version) } else { Persistence::Close }
    }

    /// Queues an answer of our own; it is the final response.
    pub(super) fn send_local(
        &mut self,
        ctx: &Ctx<'_, '_>,
        status: u16,
        write: impl FnOnce(&ResponseContext<'_>, &mut Vec<u8>) -> u64,
    ) {
        self.response_state = ResponseState::Local;
        self.log.status = status;
        self.is_persistent &= !ctx.client.is_draining;
        let envelope = ResponseContext {
            date: &ctx.worker.now.date,
            persistence: self.persistence(),
            to_head: self.is_client_head(),
        };
        self.log.bytes_out += write(&envelope, self.to_client.buf());
    }

    /// Answers with an error; where an answer has begun already, cuts it.
    #[cold]
    pub(super) fn send_error(&mut self, ctx: &mut Ctx<'_, '_>, refusal: Refusal) {
        self.log.set_cause(refusal.cause);
        if let ResponseState::Answered = self.response_state {
            return self.end_upload(ctx);
        }
        if self.has_answered() {
            return self.truncate_response(ctx);
        }
        self.release_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        self.send_local(ctx, refusal.status, |envelope, out| write_refusal(&refusal, envelope, out));
    }

    /// A plugin answers in the upstream's place.
    pub(super) fn send_plugin_response(&mut self, ctx: &mut Ctx<'_, '_>, answer: &LocalResponse) {
        self.log.set_cause(Cause::PluginAnswered);
        self.release_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        self.send_local(ctx, answer.status, |envelope, out| write_answer(answer, envelope, out));
    }

    /// Nothing more of the request is wanted. Where it is incomplete, the connection cannot serve another.
    pub(super) fn abandon_request(&mut self) {
        match self.request_state {
            RequestState::Done => {}
            RequestState::Head { .. } | RequestState::Body { .. } | RequestState::Discard | RequestState::Tunnel(_) => {
                self.request_state = RequestState::Discard;
                self.is_persistent = false;
                self.to_upstream.clear();
            }
        }
    }

    /// The response is complete, and no more of the request can or need be passed on. The upstream connection is not used
    /// again: whatever it took for its next request could be the rest of this one (rule S14).
    pub(super) fn end_upload(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.release_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        self.response_state = ResponseState::Done;
    }

    /// The response broke off: what was received is delivered, then the client's connection is cut (rule G11).
    pub(super) fn truncate_response(&mut self, ctx: &mut Ctx<'_, '_>) {
        let mode = self.truncation_mode();
        let release =
            if matches!(self.response_state, ResponseState::Tunnel(_)) { CloseMode::Abort } else { CloseMode::Close };
        self.release_upstream(ctx, release);
        self.abandon_request();
        self.is_persistent = false;
        self.response_state = ResponseState::Cut { mode };
    }

    /// How the client can tell that what it got is not all.
    fn truncation_mode(&self) -> CloseMode {
        match self.response_state {
            ResponseState::Body { sink: ResponseSink::UntilClose, .. } | ResponseState::Tunnel(_) => CloseMode::Abort,
            // All of it is here, and part of it will not leave. Only a connection that ends with its response can have
            // one that ends with its connection.
            ResponseState::Answered | ResponseState::Done if !self.to_client.is_empty() && !self.is_persistent => {
                CloseMode::Abort
            }
            ResponseState::Cut { mode } => mode,
            ResponseState::Body { .. }
            | ResponseState::None
            | ResponseState::Local
            | ResponseState::Connecting { .. }
            | ResponseState::AwaitHead { .. }
            | ResponseState::Answered
            | ResponseState::Done => CloseMode::Close,
        }
    }

    /// The client is gone: the upstream is released at once (rule G12), and nobody else is to blame.
    pub(super) fn on_client_lost(&mut self, ctx: &mut Ctx<'_, '_>, cause: Cause) {
        // It may only have been too slow, and read on.
        let mode = self.truncation_mode();
        if let ResponseState::Tunnel(_) = self.response_state {
            self.release_upstream(ctx, CloseMode::Abort);
        } else {
            // It has got its answer, and only did not send the rest of a request that was answered early.
            let has_all = matches!(self.response_state, ResponseState::Answered) && self.to_client.is_empty();
            self.release_upstream(ctx, CloseMode::Close);
            if !has_all {
                self.log.status = CLIENT_GONE;
            }
        }
        self.log.set_cause(cause);
        self.to_client.clear();
        self.response_state = ResponseState::Cut { mode };
    }

    /// Nobody has said anything for too long: both ends of a tunnel are closed.
    pub(super) fn end_tunnel(&mut self, ctx: &mut Ctx<'_, '_>, cause: Cause) {
        self.log.set_cause(cause);
        // What nobody took for so long is lost, and that should be seen.
        let is_lost = matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost));
        let is_lossless = !is_lost && self.to_client.is_empty() && self.to_upstream.is_empty();
        let mode = if is_lossless { CloseMode::Close } else { CloseMode::Abort };
        self.release_upstream(ctx, mode);
        self.to_client.clear();
        self.response_state = ResponseState::Cut { mode };
    }

    /// Gives the upstream connection back, if one is held.
    pub(super) fn release_upstream(&mut self, ctx: &mut Ctx<'_, '_>, mode: CloseMode) {
        if self.holds_upstream() {
            ctx.commands.push(Command::Close(Side::Upstream, mode));
            self.to_upstream.clear();
        }
    }

    /// The exchange is over: tells the hooks and the log.
    pub(super) fn log_request(&mut self, ctx: &mut Ctx<'_, '_>) {
        ctx.client.served = ctx.client.served.saturating_add(1);
        let runtime = &ctx.client.runtime;
        if self.chain.started > 0
            && let Some(hooks) = &runtime.hooks
        {
            hooks.on_done(&mut self.hook_view(runtime, HookPhase::Done));
        }
        let record = &self.log;
        let route = record.route.and_then(|route| runtime.config.routes.get(route as usize));
        // Of most requests most moments are those of one turn of the event loop.
        let since_start = |moment: MonoTime| {
            if moment == record.started { Duration::ZERO } else { moment.saturating_duration_since(record.started) }
        };
        let total = since_start(ctx.now());
        let target = if self.plan.is_some() { &self.original_target } else { &self.request.target };
        let timeline = self.timeline.take().map(|timeline| timeline.finish(ctx.now()).to_string());
        ctx.worker.observer.access(&AccessRecord {
            client: self.client_address.or(ctx.client.peer.address),
            method: record.method.as_ref().map_or(b"", Method::as_bytes),
            target: if record.method.is_some() { target } else { b"" },
            prefix: route.map(|route| route.prefix.as_str()),
            is_counted_by_prefix: record.route.is_some_and(|route| route < runtime.counted_routes),
            upstream: route.map(|route| self.upstream_of(route).authority.as_str()),
            status: record.status,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            reused: record.reused,
            retries: record.retries,
            head: record.head_read.map_or(total, since_start),
            connect: record.connected.map(since_start),
            first_byte: record.first_byte.map(since_start),
            total,
            why: record.cause.map(Cause::why),
            rule: record.cause.and_then(Cause::rule),
            detail: record.cause.and_then(Cause::detail),
            plugins: &self.chain.stints,
            hint: record.cause.map(Cause::hint),
            timeline: timeline.as_deref(),
        });
        // Whoever is chosen next should know that this one is over.
        self.choice = None;
    }

    /// What hooks may see and change now.
    pub(super) fn hook_view<'a>(&'a mut self, runtime: &'a Runtime, phase: HookPhase) -> HookContext<'a> {
        let wants = runtime.wants();
        let may_have_body = !self.is_client_head() && !has_no_body(self.response.status);
        let route = self.log.route.and_then(|route| runtime.config.routes.get(route as usize));
        HookContext {
            request: &mut self.request,
            response: match phase {
                HookPhase::Request => None,
                HookPhase::Response => Some(&mut self.response),
                // Where the upstream gave a final response.
                HookPhase::Done => (self.response.status >= 200).then_some(&mut self.response),
            },
            request_body: wants.request.then_some(&mut self.request_body),
            response_body: (wants.response && phase == HookPhase::Response && may_have_body)
                .then_some(&mut self.response_body),
            original_target: &self.original_target,
            client: self.client_address,
            route_prefix: route.map_or("", |route| &route.prefix),
            upstream: route.map_or("", |route| &UpstreamAttempt::upstream(self.choice.as_ref(), route).authority),
            state: &mut self.chain,
        }
    }
}
