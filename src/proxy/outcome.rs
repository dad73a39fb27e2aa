//! How a request ends: responses of our own, truncated responses, clients that leave, the hooks and the line in the log.

use std::sync::Arc;

use super::cause::Cause;
use super::context::{Client, Context};
use super::events::{CloseMode, Command, Side};
use super::forward::{Persistence, edit_fields, finish_head};
use super::hooks::{HookBody, HookContext, LocalResponse, Phase, Verdict};
use super::memory::Buffers;
use super::request_log::{AccessRecord, ResponseSource};
use super::runtime::Runtime;
use super::state::{BodyMode, HalfClose, RequestState, ResponseState, Suspended, Transaction};
use super::tickets::Ticket;
use crate::bytes::SharedText;
use crate::config::RouteConfig;
use crate::http::body::Body;
use crate::http::chars::write_decimal;
use crate::http::fields::{Fields, HOP_BY_HOP, HeaderId};
use crate::http::framing::{Framing, has_no_body};
use crate::http::head::{Method, reason_phrase};

/// The status in the log for a client that went away (nginx's number; never sent).
const CLIENT_GONE: u16 = 499;

/// The media type of errors and redirects.
pub(super) const PLAIN_TEXT: (&[u8], &[u8]) = (b"Content-Type", b"text/plain; charset=utf-8");

/// The body of a response of our own.
pub(super) enum LocalBody<'a> {
    /// The reason phrase of its status, and a line end.
    Reason,
    Bytes(&'a [u8]),
    Shared(SharedText),
}

impl LocalBody<'_> {
    fn into_bytes(self, status: u16) -> Vec<u8> {
        match self {
            LocalBody::Reason => [reason_phrase(status), "\n"].concat().into_bytes(),
            LocalBody::Bytes(bytes) => bytes.to_vec(),
            LocalBody::Shared(text) => text.as_bytes().to_vec(),
        }
    }
}

/// The Content-Type and the body of an error: its page, where one is configured.
fn error_content(runtime: &Runtime, status: u16) -> ((&'static [u8], &'static [u8]), LocalBody<'static>) {
    match runtime.error_pages.iter().find(|page| page.class.has(status)) {
        Some(page) => ((PLAIN_TEXT.0, page.media_type.as_bytes()), LocalBody::Shared(Arc::clone(&page.text))),
        None => (PLAIN_TEXT, LocalBody::Reason),
    }
}

/// How far hooks have come.
pub(super) enum HookResult {
    /// All of them let the message pass.
    Passed,
    /// The next one waits for the body.
    AwaitBody,
    /// A plugin has answered in the upstream's place, or has asked to wait.
    Stopped,
}

impl Transaction {
    /// What becomes of the client's connection, as the response says it.
    pub(super) fn persistence(&self) -> Persistence {
        if self.is_persistent { Persistence::KeepAlive(self.buf.request.version) } else { Persistence::Close }
    }

    /// Sends a response of our own: a built-in resource, a redirect, an error. On a route with plugins it passes their response
    /// hooks, all of them, like any other.
    pub(super) fn send_local<'a>(
        &mut self,
        ctx: &mut Context<'_, '_>,
        status: u16,
        lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        body: LocalBody<'_>,
    ) {
        self.begin_local(ctx, ResponseSource::Proxy);
        let mut fields = std::mem::take(&mut self.buf.response.fields);
        fields.clear();
        lines.into_iter().for_each(|(name, value)| fields.add(name, value));
        match &mut self.buf.chain {
            None => self.queue_local(ctx, status, fields, body),
            Some(chain) => {
                chain.restart_response();
                self.pass_local(ctx, LocalResponse { status, fields, body: body.into_bytes(status) });
            }
        }
    }

    /// A response of our own is the final one; the upstream is not needed any more, and neither is the rest of the request.
    fn begin_local(&mut self, ctx: &mut Context<'_, '_>, source: ResponseSource) {
        self.close_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        self.set_response("our own response", ResponseState::Done);
        self.log.source = Some(source);
        self.response_too_large = false;
    }

    /// Calls the response hooks that have not seen it yet for a response of our own, and queues it. Where a plugin answers in
    /// its place, those behind it see that. Where one fails, or wants to wait, nobody else is asked.
    #[inline(never)]
    fn pass_local(&mut self, ctx: &mut Context<'_, '_>, mut answer: LocalResponse) {
        loop {
            self.set_local(answer);
            match self.call_hooks(ctx, Phase::Response) {
                Verdict::Continue => return self.queue_response(ctx),
                Verdict::Respond(other) => {
                    self.log.set_cause(Cause::PluginAnswered);
                    self.log.source = Some(ResponseSource::Plugin);
                    self.buf.chain.iter_mut().for_each(|chain| chain.skip_plugin());
                    answer = *other;
                }
                Verdict::Fail | Verdict::AwaitBody | Verdict::TooLarge | Verdict::Pause(_) => {
                    self.log.set_cause(Cause::PluginFailed);
                    self.log.source = Some(ResponseSource::Proxy);
                    return self.send_bare_error(ctx, Cause::PluginFailed.status());
                }
            }
        }
    }

    /// The answer where a plugin has failed with a response, or never resumed it: no plugin sees it.
    fn send_bare_error(&mut self, ctx: &mut Context<'_, '_>, status: u16) {
        let ((name, media_type), body) = error_content(&ctx.client.runtime, status);
        let mut fields = Fields::new();
        fields.add(name, media_type);
        self.set_local(LocalResponse { status, fields, body: body.into_bytes(status) });
        self.queue_response(ctx);
    }

    /// Puts a response of our own where plugins see it.
    fn set_local(&mut self, answer: LocalResponse) {
        let LocalResponse { status, fields, body } = answer;
        self.log.has_response_body = !body.is_empty() && self.gets_body(status);
        self.buf.response_body = body;
        let response = &mut self.buf.response;
        (response.status, response.fields) = (status, fields);
        response.reason.clear();
        response.reason.extend_from_slice(reason_phrase(status).as_bytes());
    }

    /// Queues what plugins have left of it.
    fn queue_response(&mut self, ctx: &mut Context<'_, '_>) {
        let fields = std::mem::take(&mut self.buf.response.fields);
        let body = std::mem::take(&mut self.buf.response_body);
        self.queue_local(ctx, self.buf.response.status, fields, LocalBody::Bytes(&body));
    }

    /// Queues a response of our own.
    fn queue_local(&mut self, ctx: &mut Context<'_, '_>, status: u16, mut fields: Fields, body: LocalBody<'_>) {
        edit_fields(&mut fields, self.response_headers(&ctx.client.runtime));
        self.log.status = status;
        self.is_persistent &= !ctx.client.is_draining;
        let reason = reason_phrase(status);
        let len = match &body {
            LocalBody::Reason => reason.len() + 1,
            LocalBody::Bytes(bytes) => bytes.len(),
            LocalBody::Shared(text) => text.len(),
        };
        let (date, persistence) = (&ctx.worker.now.date, self.persistence());
        // What plugins make of a body nobody knows where there is none (RFC 9110 section 8.6).
        let is_known = !(self.is_client_head() && self.may_write_response_body());
        write_local_head(status, &fields, is_known.then_some(len), persistence, date, self.buf.to_client.buf());
        self.buf.response.fields = fields;
        if !self.gets_body(status) {
            return;
        }
        self.log.bytes_out += len as u64;
        let out = &mut self.buf.to_client;
        match body {
            LocalBody::Reason => [reason, "\n"].iter().for_each(|part| out.extend(part.as_bytes())),
            LocalBody::Bytes(bytes) => out.extend(bytes),
            // Those who do not read it cost no copy each (rule E4).
            LocalBody::Shared(text) => out.extend_shared(text),
        }
    }

    /// Answers with an error, whose text is the reason phrase and nothing that a peer sent (rule S22). Where a response has
    /// begun already it is truncated: what was received is delivered, then the client's connection is closed so that it can
    /// tell (rule G11).
    #[cold]
    pub(super) fn send_error(&mut self, ctx: &mut Context<'_, '_>, cause: Cause) {
        self.log.set_cause(cause);
        if let ResponseState::AwaitUpload = self.response_state {
            self.end_upload(ctx);
        } else if self.has_response_begun() {
            let mode = self.truncation_mode();
            self.close_upstream(ctx, if self.is_tunnel() { CloseMode::Abort } else { CloseMode::Close });
            self.abandon_request();
            self.is_persistent = false;
            self.set_response("truncated", ResponseState::Closing(mode));
        } else if matches!(cause, Cause::PluginFailed | Cause::PluginTimeout)
            && self.buf.chain.as_ref().is_some_and(|chain| chain.responded > 0)
        {
            self.begin_local(ctx, ResponseSource::Proxy);
            self.send_bare_error(ctx, cause.status());
        } else {
            let allow = cause.allow().map(|methods| (&b"Allow"[..], methods.as_bytes()));
            let (content_type, body) = error_content(&ctx.client.runtime, cause.status());
            self.send_local(ctx, cause.status(), allow.into_iter().chain([content_type]), body);
        }
    }

    /// Calls hooks, or goes on with them.
    #[inline(never)]
    pub(super) fn pass_hooks(&mut self, ctx: &mut Context<'_, '_>, phase: Phase) -> Result<HookResult, Cause> {
        match self.call_hooks(ctx, phase) {
            Verdict::Continue => Ok(HookResult::Passed),
            Verdict::AwaitBody => Ok(HookResult::AwaitBody),
            Verdict::Respond(answer) => {
                self.log.set_cause(Cause::PluginAnswered);
                self.begin_local(ctx, ResponseSource::Plugin);
                self.buf.chain.iter_mut().for_each(|chain| chain.skip_plugin());
                self.pass_local(ctx, *answer);
                Ok(HookResult::Stopped)
            }
            Verdict::Pause(ticket) => {
                self.pause(ctx, ticket);
                Ok(HookResult::Stopped)
            }
            Verdict::TooLarge if phase == Phase::Request => Err(Cause::RequestTooLarge),
            Verdict::TooLarge => Err(Cause::ResponseTooLarge),
            Verdict::Fail => Err(Cause::PluginFailed),
        }
    }

    /// Whether plugins may write the body of the response: nobody knows the length of one that is not sent then.
    pub(super) fn may_write_response_body(&self) -> bool {
        self.buf.chain.as_ref().is_some_and(|chain| chain.writes_response_body)
    }

    /// Waits until the ticket is resumed.
    fn pause(&mut self, ctx: &mut Context<'_, '_>, ticket: Ticket) {
        ctx.client.commands.push(Command::AwaitResume);
        let next = match &mut self.response_state {
            ResponseState::Body { body, reuse, is_pushed, .. } => Suspended::Response {
                body: std::mem::replace(body, Body::NOTHING),
                reuse: *reuse,
                is_pushed: *is_pushed,
            },
            _ => Suspended::Request,
        };
        self.set_response("pause", ResponseState::Paused { since: ctx.now(), ticket, next });
    }

    /// Goes on with the hooks that have paused, and then with what has come meanwhile.
    pub(super) fn on_resumed(&mut self, ctx: &mut Context<'_, '_>) {
        let ResponseState::Paused { ticket, next, .. } = &mut self.response_state else { return };
        // It may have been meant for another pause.
        let Some(is_good) = ticket.resumed() else { return };
        self.buf.chain.iter_mut().for_each(|chain| chain.resume(is_good));
        let result = match std::mem::replace(next, Suspended::Request) {
            Suspended::Request => {
                self.set_response("request resumed", ResponseState::None);
                self.pass_request(ctx)
            }
            Suspended::Response { body, reuse, is_pushed } => {
                let body = ResponseState::Body { body, mode: BodyMode::Buffer, reuse, is_pushed };
                self.set_response("response resumed", body);
                let result = self.pass_response(ctx);
                self.last_activity.upstream_read = ctx.now();
                result
            }
        };
        if let Err(cause) = result {
            self.send_error(ctx, cause);
        }
        if !self.buf.upstream_input.is_empty() {
            self.on_bytes(ctx, Side::Upstream, &[]);
        }
        self.on_bytes(ctx, Side::Client, &[]);
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

    /// How the client can tell that what it got is not all.
    fn truncation_mode(&self) -> CloseMode {
        match &self.response_state {
            // It gets it without chunks: the end of the connection would be that of the body.
            ResponseState::Body { mode: BodyMode::Passthrough, body: Body::Chunked(_) | Body::UntilClose, .. }
            | ResponseState::Tunnel(_) => CloseMode::Abort,
            // All of it is here, and part of it will not leave. Only a connection that ends with its response can have
            // one that ends with its connection.
            ResponseState::AwaitUpload | ResponseState::Done
                if !self.buf.to_client.is_empty() && !self.is_persistent =>
            {
                CloseMode::Abort
            }
            ResponseState::Closing(mode) => *mode,
            _ => CloseMode::Close,
        }
    }

    /// The client is gone: the upstream connection is closed at once (rule G12), and nobody else is to blame.
    pub(super) fn on_client_lost(&mut self, ctx: &mut Context<'_, '_>, cause: Cause) {
        self.log.set_cause(cause);
        // On a write time-out the client may still be reading.
        let mode = self.truncation_mode();
        // It has got its response, and only did not send the rest of a request that was answered early.
        let has_all = matches!(self.response_state, ResponseState::AwaitUpload) && self.buf.to_client.is_empty();
        if !self.is_tunnel() && !has_all {
            self.log.status = CLIENT_GONE;
        }
        self.close_upstream(ctx, if self.is_tunnel() { CloseMode::Abort } else { CloseMode::Close });
        self.buf.to_client.clear();
        self.set_response("client lost", ResponseState::Closing(mode));
    }

    /// A tunnel was idle for too long: both sides are closed.
    pub(super) fn end_tunnel(&mut self, ctx: &mut Context<'_, '_>, cause: Cause) {
        self.log.set_cause(cause);
        // What was not taken for so long is lost, and that should be seen.
        let is_lost = matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost));
        let is_lossless = !is_lost && self.buf.to_client.is_empty() && self.buf.to_upstream.is_empty();
        let mode = if is_lossless { CloseMode::Close } else { CloseMode::Abort };
        self.close_upstream(ctx, mode);
        self.buf.to_client.clear();
        self.set_response("tunnel idle", ResponseState::Closing(mode));
    }

    /// Makes room for a body of `len` bytes that plugins read whole, by doubling up to their limit. Twice as much is reserved:
    /// what plugins leave of a body is queued after its head, and so it is there twice for a while. One that was only declared
    /// owns no memory yet: it may never come.
    pub(super) fn reserve_body(
        &mut self,
        ctx: &Context<'_, '_>,
        side: Side,
        len: usize,
        has_come: bool,
    ) -> Result<(), Cause> {
        let (body, other) = match side {
            Side::Client => (&mut self.buf.request_body, 0),
            Side::Upstream => (&mut self.buf.response_body, self.buf.request_body.capacity()),
        };
        let mut capacity = body.capacity();
        if len > capacity {
            capacity = len.max((2 * capacity).min(ctx.client.runtime.config.plugin_body_limit));
        }
        if !self.reserved.grow_to(2 * (capacity + other), &ctx.worker.transactions.left_for_bodies) {
            return Err(Cause::MemoryBudget);
        }
        if has_come {
            body.reserve_exact(capacity - body.len());
        }
        Ok(())
    }

    /// How much of `data` may be buffered, for which there is room then: one byte above the limit shows that the body is too
    /// large, and is the last one.
    pub(super) fn fit_body<'d>(
        &mut self,
        ctx: &Context<'_, '_>,
        side: Side,
        data: &'d [u8],
    ) -> Result<&'d [u8], Cause> {
        let body = if side == Side::Client { &self.buf.request_body } else { &self.buf.response_body };
        let left = ctx.client.runtime.config.plugin_body_limit.saturating_sub(body.len());
        let data = &data[..data.len().min(left.saturating_add(1))];
        self.reserve_body(ctx, side, body.len() + data.len(), true)?;
        Ok(data)
    }

    /// Whether the client is sent the body of a response with that status.
    pub(super) fn gets_body(&self, status: u16) -> bool {
        !self.is_client_head() && !has_no_body(status)
    }

    /// Whether the client asked with HEAD, whatever plugins made of it.
    pub(super) fn is_client_head(&self) -> bool {
        matches!(self.log.method, Some(Method::Head))
    }

    /// Asks for the upstream connection to be closed, if one is held.
    pub(super) fn close_upstream(&mut self, ctx: &mut Context<'_, '_>, mode: CloseMode) {
        if self.holds_upstream() {
            ctx.client.commands.push(Command::Close(Side::Upstream, mode));
            self.buf.to_upstream.clear();
        }
    }

    /// The exchange is over: tells the hooks and the log.
    #[inline(never)]
    pub(super) fn log_request(&mut self, ctx: &mut Context<'_, '_>) {
        ctx.client.served = ctx.client.served.saturating_add(1);
        if self.buf.chain.as_ref().is_some_and(|chain| chain.started > 0 || chain.responded > 0) {
            self.call_hooks(ctx, Phase::Done);
        }
        let runtime = &ctx.client.runtime;
        let none = (&[][..], &[][..]);
        let (plugins, pairs) = self.buf.chain.as_ref().map_or(none, |chain| (&chain.timings[..], &chain.pairs[..]));
        let timeline = self.log.timeline.take().map(|timeline| timeline.finish(ctx.now()));
        if self.log.client.is_none() {
            self.log.client = ctx.client.peer.address;
        }
        ctx.worker.observer.access(&AccessRecord {
            log: &self.log,
            ended: ctx.worker.now.instant,
            target: &self.buf.original_target,
            has_query: runtime.config.log.query,
            prefix: self.route(runtime).map(|route| route.prefix.as_str()),
            route_host: self.route(runtime).and_then(RouteConfig::host),
            is_counted_by_prefix: self.route_index.is_some_and(|index| index < runtime.counted_routes),
            upstream: self.upstream(runtime).map(|upstream| upstream.authority.as_str()),
            plugins,
            pairs,
            timeline: timeline.as_deref(),
        });
        // The balance should know that this one is over before it chooses again.
        self.attempt = None;
    }

    fn call_hooks(&mut self, ctx: &Context<'_, '_>, phase: Phase) -> Verdict {
        let Client { runtime, peer, .. } = &*ctx.client;
        let Some(hooks) = self.route_index.and_then(|route| runtime.hooks(route)) else { return Verdict::Continue };
        let gets_body = self.gets_body(self.buf.response.status);
        let (route, upstream) = (self.route(runtime), self.upstream(runtime));
        let Buffers { request, response, original_target, request_body, response_body, chain, scratch, .. } =
            &mut self.buf;
        let Some(chain) = chain else { return Verdict::Continue };
        response.fields.remove_all(HOP_BY_HOP);
        let mut context = HookContext {
            request_body: match self.request_state {
                _ if self.request_too_large => HookBody::TooLarge,
                RequestState::Done => HookBody::Whole(request_body),
                _ => HookBody::Coming,
            },
            response_body: match &self.response_state {
                _ if phase != Phase::Response || !gets_body => HookBody::None,
                _ if self.response_too_large => HookBody::TooLarge,
                ResponseState::Body { body, .. } if !body.is_nothing() => HookBody::Coming,
                _ => HookBody::Whole(response_body),
            },
            response: match phase {
                Phase::Request => None,
                Phase::Response => Some(response),
                // Where there was a final response.
                Phase::Done => (response.status >= 200).then_some(response),
            },
            request,
            original_target,
            client_host: &scratch.host,
            peer,
            details: ctx.client.peer_details(),
            log: &self.log,
            now: ctx.now(),
            route_prefix: route.map_or("", |route| &route.prefix),
            upstream: upstream.map_or("", |upstream| &upstream.authority),
            state: chain,
        };
        hooks.call(phase, &mut context)
    }
}

/// Appends the head of a final response of our own with these field lines, for a body of `len` bytes, where that is known. Date
/// is added where it is missing.
fn write_local_head(
    status: u16,
    fields: &Fields,
    len: Option<usize>,
    persistence: Persistence,
    date: &[u8; 29],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(u64::from(status), out);
    out.push(b' ');
    let mut write_all = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    write_all(&[reason_phrase(status).as_bytes(), b"\r\n"]);
    if fields.get(HeaderId::Date).is_none() {
        write_all(&[b"Date: ", date, b"\r\n"]);
    }
    fields.write(out);
    let len = len.filter(|_| !has_no_body(status));
    let framing = len.map_or(Framing::None, |len| Framing::Length(len as u64));
    finish_head(framing, persistence, b"", out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Version;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn a_head_of_ours_gets_framing_and_date() {
        for (name, status, lines, persistence, expected) in [
            (
                "plain",
                403,
                &[("A", "1")][..],
                Persistence::Close,
                "403 Forbidden|D|A: 1|Content-Length: 5|Connection: close|",
            ),
            (
                "its own Date",
                200,
                &[("date", "x")],
                Persistence::KeepAlive(Version::Http11),
                "200 OK|date: x|Content-Length: 5|",
            ),
            ("204 has no body", 204, &[], Persistence::KeepAlive(Version::Http11), "204 No Content|D|"),
            (
                "304 has no body",
                304,
                &[("ETag", "x")],
                Persistence::KeepAlive(Version::Http11),
                "304 Not Modified|D|ETag: x|",
            ),
        ] {
            let mut out = Vec::new();
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
            write_local_head(status, &fields, Some(5), persistence, DATE, &mut out);
            let head = String::from_utf8(out).expect("text").replace("Date: Sun, 06 Nov 1994 08:49:37 GMT", "D");
            assert_eq!(head.replace("\r\n", "|"), format!("HTTP/1.1 {expected}|"), "{name}");
        }
    }
}
