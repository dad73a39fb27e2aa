//! How an exchange ends: answers of our own, cuts, clients that leave, and the hooks that look on.

use super::buffers::Buffers;
use super::cause::Cause;
use super::context::Ctx;
use super::events::{CloseMode, Command, Side};
use super::forward::Persistence;
use super::hooks::{HookContext, LocalResponse};
use super::local::write_local_head;
use super::request_log::AccessRecord;
use super::runtime::Runtime;
use super::state::{BodyMode, HalfClose, RequestState, ResponseState, Transaction};
use crate::bytes::ByteQueue;
use crate::http::fields::HOP_BY_HOP;
use crate::http::framing::{Framing, has_no_body};
use crate::http::head::{Method, reason_phrase};

/// The status in the log for a client that went away (nginx's number; never sent).
const CLIENT_GONE: u16 = 499;

/// The media type of errors and redirects.
pub(super) const PLAIN_TEXT: (&[u8], &[u8]) = (b"Content-Type", b"text/plain; charset=utf-8");

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
        if self.is_persistent { Persistence::KeepAlive(self.buf.request.version) } else { Persistence::Close }
    }

    /// Queues the head of an answer of our own; it is the final response. Returns the queue for its body of `len` bytes, where
    /// the client gets one.
    pub(super) fn send_local<'a>(
        &mut self,
        ctx: &Ctx<'_, '_>,
        status: u16,
        lines: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
        len: usize,
    ) -> Option<&mut ByteQueue> {
        self.set_response("our own response", ResponseState::Local);
        self.log.status = status;
        self.is_persistent &= !ctx.client.is_draining;
        let date = &ctx.worker.now.date;
        write_local_head(status, lines, len, self.persistence(), date, self.buf.to_client.buf());
        if self.is_client_head() || has_no_body(status) {
            return None;
        }
        self.log.bytes_out += len as u64;
        Some(&mut self.buf.to_client)
    }

    /// Answers with an error, whose text is the reason phrase and nothing that a peer sent (rule S22); where an answer has
    /// begun already, cuts it.
    #[cold]
    pub(super) fn send_error(&mut self, ctx: &mut Ctx<'_, '_>, cause: Cause) {
        self.log.set_cause(cause);
        if let ResponseState::Answered = self.response_state {
            return self.end_upload(ctx);
        }
        if self.has_answered() {
            return self.truncate_response(ctx);
        }
        self.close_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        let text = reason_phrase(cause.status());
        let allow = cause.allow().map(|methods| (&b"Allow"[..], methods.as_bytes()));
        let lines = allow.into_iter().chain([PLAIN_TEXT]);
        if let Some(out) = self.send_local(ctx, cause.status(), lines, text.len() + 1) {
            out.extend(text.as_bytes());
            out.extend(b"\n");
        }
    }

    /// A plugin answers in the upstream's place.
    pub(super) fn send_plugin_response(&mut self, ctx: &mut Ctx<'_, '_>, answer: &LocalResponse) {
        self.log.set_cause(Cause::PluginAnswered);
        self.close_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        let lines = answer.fields.iter().map(|line| (line.name, line.value));
        if let Some(out) = self.send_local(ctx, answer.status, lines, answer.body.len()) {
            out.extend(&answer.body);
        }
    }

    /// Nothing more of the request is wanted. Where it is incomplete, the connection cannot serve another.
    pub(super) fn abandon_request(&mut self) {
        match self.request_state {
            RequestState::Done => return,
            RequestState::Discard => {}
            _ => self.set_request("rest not wanted", RequestState::Discard),
        }
        self.is_persistent = false;
        self.buf.to_upstream.clear();
    }

    /// The response broke off: what was received is delivered, then the client's connection is closed so that it can tell
    /// (rule G11).
    fn truncate_response(&mut self, ctx: &mut Ctx<'_, '_>) {
        let mode = self.truncation_mode();
        self.close_upstream(ctx, if self.is_tunnel() { CloseMode::Abort } else { CloseMode::Close });
        self.abandon_request();
        self.is_persistent = false;
        self.set_response("broken off", ResponseState::Truncated(mode));
    }

    /// How the client can tell that what it got is not all.
    fn truncation_mode(&self) -> CloseMode {
        match self.response_state {
            ResponseState::Body { mode: BodyMode::UntilClose, .. } | ResponseState::Tunnel(_) => CloseMode::Abort,
            // All of it is here, and part of it will not leave. Only a connection that ends with its response can have
            // one that ends with its connection.
            ResponseState::Answered | ResponseState::Done if !self.buf.to_client.is_empty() && !self.is_persistent => {
                CloseMode::Abort
            }
            ResponseState::Truncated(mode) => mode,
            _ => CloseMode::Close,
        }
    }

    /// The client is gone: the upstream is released at once (rule G12), and nobody else is to blame.
    pub(super) fn on_client_lost(&mut self, ctx: &mut Ctx<'_, '_>, cause: Cause) {
        self.log.set_cause(cause);
        // On a write time-out the client may still be reading.
        let mode = self.truncation_mode();
        // It has got its response, and only did not send the rest of a request that was answered early.
        let has_all = matches!(self.response_state, ResponseState::Answered) && self.buf.to_client.is_empty();
        if !self.is_tunnel() && !has_all {
            self.log.status = CLIENT_GONE;
        }
        self.close_upstream(ctx, if self.is_tunnel() { CloseMode::Abort } else { CloseMode::Close });
        self.buf.to_client.clear();
        self.set_response("client lost", ResponseState::Truncated(mode));
    }

    /// A tunnel was idle for too long: both sides are closed.
    pub(super) fn end_tunnel(&mut self, ctx: &mut Ctx<'_, '_>, cause: Cause) {
        self.log.set_cause(cause);
        // What was not taken for so long is lost, and that should be seen.
        let is_lost = matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost));
        let is_lossless = !is_lost && self.buf.to_client.is_empty() && self.buf.to_upstream.is_empty();
        let mode = if is_lossless { CloseMode::Close } else { CloseMode::Abort };
        self.close_upstream(ctx, mode);
        self.buf.to_client.clear();
        self.set_response("tunnel idle", ResponseState::Truncated(mode));
    }

    /// Reserves memory for so many bytes of the body from that side, or more. What plugins leave of a body is queued behind its
    /// head: it is there twice for a while.
    fn reserve(&mut self, ctx: &Ctx<'_, '_>, side: Side, bytes: usize) -> Result<(), Cause> {
        let request = self.buf.request_body.capacity();
        let both = if side == Side::Client { request.max(bytes) } else { request + bytes };
        let is_enough = self.reserved.grow_to(2 * both, ctx.worker.transactions.bodies());
        is_enough.then_some(()).ok_or(Cause::MemoryBudget)
    }

    /// The same for a body that plugins read whole and whose length is announced.
    pub(super) fn reserve_announced(&mut self, ctx: &Ctx<'_, '_>, side: Side, framing: Framing) -> Result<(), Cause> {
        let Framing::Length(len) = framing else { return Ok(()) };
        let limit = ctx.client.runtime.config.plugin_body_limit;
        self.reserve(ctx, side, usize::try_from(len).unwrap_or(limit).min(limit))
    }

    /// Makes room for `more` bytes of a body that plugins read whole, by doubling up to the limit: not beyond what is reserved.
    pub(super) fn grow_buffer(&mut self, ctx: &Ctx<'_, '_>, side: Side, more: usize) -> Result<(), Cause> {
        let buffer = if side == Side::Client { &self.buf.request_body } else { &self.buf.response_body };
        let (len, before) = (buffer.len(), buffer.capacity());
        let capacity = (len + more).max((2 * before).min(ctx.client.runtime.config.plugin_body_limit));
        self.reserve(ctx, side, capacity)?;
        if len + more > before {
            let buffer = if side == Side::Client { &mut self.buf.request_body } else { &mut self.buf.response_body };
            buffer.reserve_exact(capacity - len);
        }
        Ok(())
    }

    /// Whether the client asked with HEAD, whatever plugins made of it.
    pub(super) fn is_client_head(&self) -> bool {
        matches!(self.log.method, Some(Method::Head))
    }

    /// Asks for the upstream connection to be closed, if one is held.
    pub(super) fn close_upstream(&mut self, ctx: &mut Ctx<'_, '_>, mode: CloseMode) {
        if self.holds_upstream() {
            ctx.commands.push(Command::Close(Side::Upstream, mode));
            self.buf.to_upstream.clear();
        }
    }

    /// The exchange is over: tells the hooks and the log.
    pub(super) fn log_request(&mut self, ctx: &mut Ctx<'_, '_>) {
        ctx.client.served = ctx.client.served.saturating_add(1);
        let runtime = &ctx.client.runtime;
        if self.buf.chain.started > 0
            && let Some(hooks) = &runtime.hooks
        {
            hooks.on_done(&mut self.hook_view(runtime, HookPhase::Done));
        }
        let timeline = self.log.timeline.take().map(|timeline| timeline.finish(ctx.now()));
        self.log.client = self.log.client.or(ctx.client.peer.address);
        let target = match (&self.log.method, self.route_index) {
            (None, _) => &b""[..],
            (Some(_), None) => &self.buf.request.target,
            (Some(_), Some(_)) => &self.buf.original_target,
        };
        ctx.worker.observer.access(&AccessRecord {
            log: &self.log,
            ended: ctx.worker.now.instant,
            target,
            prefix: self.route(runtime).map(|route| route.prefix.as_str()),
            is_counted_by_prefix: self.route_index.is_some_and(|index| index < runtime.counted_routes),
            upstream: self.upstream(runtime).map(|upstream| upstream.authority.as_str()),
            plugins: &self.buf.chain.timings,
            timeline: timeline.as_deref(),
        });
        // The balance should know that this one is over before it chooses again.
        self.attempt = None;
    }

    /// What hooks may see and change now.
    pub(super) fn hook_view<'a>(&'a mut self, runtime: &'a Runtime, phase: HookPhase) -> HookContext<'a> {
        let wants = runtime.wants();
        let may_have_body = !self.is_client_head() && !has_no_body(self.buf.response.status);
        let (route, upstream) = (self.route(runtime), self.upstream(runtime));
        let Buffers { request, response, original_target, request_body, response_body, chain, .. } = &mut self.buf;
        response.fields.remove_all(HOP_BY_HOP);
        HookContext {
            request_body: wants.request.then_some(request_body),
            response_body: (wants.response && phase == HookPhase::Response && may_have_body).then_some(response_body),
            response: match phase {
                HookPhase::Request => None,
                HookPhase::Response => Some(response),
                // Where the upstream gave a final response.
                HookPhase::Done => (response.status >= 200).then_some(response),
            },
            request,
            original_target,
            client: self.log.client,
            route_prefix: route.map_or("", |route| &route.prefix),
            upstream: upstream.map_or("", |upstream| &upstream.authority),
            state: chain,
        }
    }
}
