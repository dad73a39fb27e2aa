//! The client's side: request head, admission, request body. Its states are [`RequestState`].

use std::rc::Rc;
use std::sync::Arc;

use super::admit::{ForwardPlan, Handler, admit, is_misdirected};
use super::cause::{Cause, FORWARDED_METHODS};
use super::client_cert::set_client_cert;
use super::connection::read_options;
use super::context::Context;
use super::events::{PROXY_SIGNATURE, Side};
use super::forward::{edit_fields, forward_request, write_request_head};
use super::forwarded::{client_address, is_local};
use super::hooks::Phase;
use super::memory::Buffers;
use super::outcome::{HookResult, LocalBody, PLAIN_TEXT};
use super::request_log::RequestDetails;
use super::state::{BodyMode, HalfClose, RequestState, ResponseState, Transaction};
use super::strip::strip_after_hooks;
use crate::bytes::ByteQueue;
use crate::config::{Config, LogFields, LogFormat};
use crate::extras::prometheus;
use crate::http::body::Body;
use crate::http::chars::{find, is_token};
use crate::http::chunked::{LAST_CHUNK, write_chunk};
use crate::http::error::HttpError;
use crate::http::fields::HeaderId;
use crate::http::framing::{Framing, request_framing};
use crate::http::head::{HeadLimits, Method};

/// The body of /health.
const HEALTH: &[u8] = b"{\"message\":\"OK\"}";
const STOPPING: &[u8] = b"{\"message\":\"stopping\"}";

/// The first byte of a TLS connection: the type of the record that a ClientHello comes in. No request begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// The limits for heads that the configuration sets.
pub(super) fn head_limits(config: &Config) -> HeadLimits {
    HeadLimits {
        head_bytes: config.limits.max_head_bytes,
        field_lines: config.limits.max_header_fields,
        request_line: config.limits.max_request_line,
    }
}

impl Transaction {
    /// Reads as far as the state allows and says how far that was: not into the next request (rule G22).
    pub(super) fn read_client(&mut self, ctx: &mut Context<'_, '_>, data: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = &data[taken..];
            let result = match &mut self.request_state {
                RequestState::Head { parser, .. } => {
                    let limits = head_limits(&ctx.client.runtime.config);
                    match parser.read(rest, &limits, &mut self.buf.request) {
                        Ok(None) => return taken,
                        Ok(Some(len)) => {
                            self.on_request_head(ctx);
                            Ok(len)
                        }
                        Err(error) => Err(self.on_bad_head(rest, &limits, error)),
                    }
                }
                RequestState::Body { .. } if rest.is_empty() => return taken,
                RequestState::Body { .. } if matches!(self.response_state, ResponseState::Paused { .. }) => {
                    return taken;
                }
                RequestState::Body { .. } => self.read_request_body(ctx, rest),
                RequestState::Done => return taken,
                RequestState::Tunnel(HalfClose::Open) => {
                    self.buf.to_upstream.extend(rest);
                    self.log.bytes_in += rest.len() as u64;
                    return data.len();
                }
                RequestState::Discard | RequestState::Tunnel(_) => return data.len(),
            };
            match result {
                Ok(len) => taken += len,
                Err(cause) => self.send_error(ctx, cause),
            }
        }
    }

    /// What is said of a head that is none. The log shows method and target of one that is too large, as far as they were
    /// read: it begins like any other.
    #[cold]
    fn on_bad_head(&mut self, head: &[u8], limits: &HeadLimits, error: HttpError) -> Cause {
        if head.first() == Some(&TLS_HANDSHAKE) {
            return Cause::TlsOnPlainPort;
        }
        let line = head.strip_prefix(b"\r\n").unwrap_or(head);
        let is_version_1 =
            || line.starts_with(b"PROXY ") && matches!(error, HttpError::BadSpacing | HttpError::MissingVersion);
        if is_version_1() || head.starts_with(PROXY_SIGNATURE) {
            return Cause::BadProxyHeader(
                "expected no PROXY header here: proxy_protocol.from does not list this peer, or it sent two",
            );
        }
        // Whatever is wrong with it: an answer to HEAD has no body (RFC 9110 section 9.3.2).
        if line.starts_with(b"HEAD ") {
            self.log.method = Some(Method::Head);
        }
        // Not more than one that arrives byte by byte has shown.
        let line = &line[..line.len().min(limits.request_line).min(limits.head_bytes)];
        if matches!(error.status(), 414 | 431)
            && let Some(space) = find(line, b' ')
            && is_token(&line[..space])
        {
            self.log.method = Some(Method::of(&line[..space]));
            // A log line has no place for more.
            let target = line[space + 1..].iter().take(1024).take_while(|byte| byte.is_ascii_graphic());
            self.buf.original_target.clear();
            self.buf.original_target.extend(target);
        }
        error.into()
    }

    /// The head is complete: decide what happens with the request.
    // Not inlined into the loop of `read_client`, which would prepare all of it before its first round.
    #[inline(never)]
    fn on_request_head(&mut self, ctx: &mut Context<'_, '_>) {
        self.log.head_read = Some(ctx.now());
        self.log.method = Some(self.buf.request.method.clone());
        if !Rc::ptr_eq(&ctx.client.runtime, ctx.worker.runtime) {
            ctx.client.runtime = Rc::clone(ctx.worker.runtime);
        }
        let log = &ctx.client.runtime.config.log;
        if log.access && (log.fields == LogFields::Full || log.format == Some(LogFormat::Combined)) {
            self.log.details = Some(RequestDetails::of(&self.buf.request, log.query));
        }
        if let Err(cause) = self.admit(ctx) {
            let is_complete = request_framing(&self.buf.request).is_ok_and(|framing| Body::new(framing).is_none());
            if is_complete && cause.keeps_connection() {
                self.set_request("head, no body", RequestState::Done);
            }
            self.send_error(ctx, cause);
        }
        // For the log; `prepare` has done so with those of a request that has a route.
        if self.route_index.is_none() {
            let (runtime, peer) = (&ctx.client.runtime, &ctx.client.peer);
            self.log.client = client_address(peer, &self.buf.request.fields, &runtime.config.forwarded);
            std::mem::swap(&mut self.buf.original_target, &mut self.buf.request.target);
        }
    }

    fn admit(&mut self, ctx: &mut Context<'_, '_>) -> Result<(), Cause> {
        let Buffers { request, scratch, new_target, .. } = &mut self.buf;
        let options = read_options(&request.fields, &mut scratch.connection_named)?;
        self.is_persistent = options.is_persistent(request.version) && ctx.client.may_serve_another();
        let (runtime, peer) = (&ctx.client.runtime, &ctx.client.peer);
        let framing = request_framing(request)?;
        let handler = admit(request, framing, options, peer, runtime, &mut scratch.host, new_target);
        // Built-in resources are the same for all hosts.
        let is_routed = matches!(
            handler,
            Ok(Handler::Upstream(_) | Handler::Redirect(..) | Handler::Forbidden(_)) | Err(Cause::NoRoute)
        );
        if is_routed && peer.is_tls && is_misdirected(&runtime.router, ctx.client.server_name(), &scratch.host) {
            return Err(Cause::Misdirected);
        }
        let handler = handler?;
        match handler {
            Handler::Upstream(plan) => return self.forward(ctx, plan, framing),
            // The route's plugins will see it.
            Handler::Redirect(plan, _) | Handler::Forbidden(plan) => self.prepare(ctx, plan),
            _ => {}
        }
        // The body of a request for a built-in resource is of no interest: where there is one, the connection ends.
        if Body::new(framing).is_none() {
            self.set_request("head, no body", RequestState::Done);
        }
        self.send_built_in(ctx, handler);
        Ok(())
    }

    fn send_built_in(&mut self, ctx: &mut Context<'_, '_>, handler: Handler) {
        const JSON: &[u8] = b"application/json";
        let content_type = |media_type| [(&b"Content-Type"[..], media_type)];
        let runtime = &ctx.client.runtime;
        let (media_type, text) = match handler {
            Handler::Health => {
                let (status, body) = if ctx.client.is_draining { (503, STOPPING) } else { (200, HEALTH) };
                return self.send_local(ctx, status, content_type(JSON), LocalBody::Bytes(body));
            }
            Handler::Options => {
                let allow = [(&b"Allow"[..], FORWARDED_METHODS.as_bytes())];
                return self.send_local(ctx, 204, allow, LocalBody::Bytes(b""));
            }
            Handler::Redirect(_, status) => return self.send_redirect(ctx, status, &self.buf.request.target.clone()),
            Handler::ToHttps => return self.send_redirect(ctx, 308, &self.buf.new_target.clone()),
            Handler::Forbidden(_) => return self.send_error(ctx, Cause::Forbidden),
            Handler::FullConfig if is_local(&ctx.client.peer, &self.buf.request.fields) => {
                (JSON, runtime.full_config())
            }
            Handler::Configz | Handler::FullConfig => (JSON, Arc::clone(&runtime.configz)),
            Handler::Metrics => {
                (prometheus::CONTENT_TYPE.as_bytes(), ctx.worker.observer.metrics(ctx.worker.now.instant))
            }
            Handler::Upstream(_) => return,
        };
        self.send_local(ctx, 200, content_type(media_type), LocalBody::Shared(text));
    }

    fn send_redirect(&mut self, ctx: &mut Context<'_, '_>, status: u16, location: &[u8]) {
        self.send_local(ctx, status, [(&b"Location"[..], location), PLAIN_TEXT], LocalBody::Reason);
    }

    /// Makes of the head the one to forward.
    fn prepare(&mut self, ctx: &mut Context<'_, '_>, plan: ForwardPlan) {
        self.route_index = Some(plan.route);
        let (runtime, peer) = (&ctx.client.runtime, &ctx.client.peer);
        let (Some(route), upstream) = (self.route(runtime), self.upstream(runtime)) else { return };
        let Buffers { request, original_target, new_target, offered, chain, spare_chain, scratch, .. } = &mut self.buf;
        if runtime.hooks(plan.route).is_some() {
            *chain = Some(spare_chain.take().unwrap_or_default());
        }
        std::mem::swap(&mut request.target, original_target);
        std::mem::swap(&mut request.target, new_target);
        self.log.client = client_address(peer, &request.fields, &runtime.config.forwarded);
        if !forward_request(request, &plan, runtime, upstream, peer, offered, scratch) {
            ctx.worker.observer.left_unmapped(&route.name(), ctx.worker.now.instant);
        }
        if runtime.config.verifies_clients() {
            set_client_cert(&mut request.fields, ctx.client.peer_details());
        }
    }

    /// Makes of the head the one to forward, and gives it to the request hooks, where there are some.
    fn forward(&mut self, ctx: &mut Context<'_, '_>, plan: ForwardPlan, framing: Framing) -> Result<(), Cause> {
        self.request_framing = framing;
        self.attempt = self.choose_upstream(ctx, plan.route);
        self.prepare(ctx, plan);
        if let Some(body) = Body::new(framing) {
            self.log.has_request_body = true;
            let runtime = &ctx.client.runtime;
            let max_bytes = self.route(runtime).and_then(|route| route.options.max_body_bytes).unwrap_or(u64::MAX);
            if matches!(framing, Framing::Length(len) if len > max_bytes) {
                return Err(Cause::RequestTooLarge);
            }
            let limit = runtime.config.plugin_body_limit as u64;
            self.request_too_large = matches!(framing, Framing::Length(len) if len > limit);
            let awaits_continue = plan.expects_continue;
            let body = RequestState::Body { body, mode: streaming_mode(framing), max_bytes, awaits_continue };
            self.set_request("head, body follows", body);
        } else {
            self.set_request("head, no body", RequestState::Done);
        }
        if self.buf.chain.is_some() {
            return self.pass_request(ctx);
        }
        self.queue_request(ctx);
        Ok(())
    }

    /// Calls the request hooks, from where they stopped; where all of them let the request pass, it is queued.
    pub(super) fn pass_request(&mut self, ctx: &mut Context<'_, '_>) -> Result<(), Cause> {
        // Rule G21: where a plugin answers or fails here, the upstream is not contacted.
        match self.pass_hooks(ctx, Phase::Request)? {
            HookResult::Passed => self.queue_request(ctx),
            HookResult::AwaitBody => return self.buffer_request_body(ctx),
            HookResult::Stopped => {}
        }
        Ok(())
    }

    /// From now on the body goes into memory. So it is asked for here, and the upstream is not told of the expectation.
    fn buffer_request_body(&mut self, ctx: &mut Context<'_, '_>) -> Result<(), Cause> {
        let RequestState::Body { mode, .. } = &mut self.request_state else { return Err(Cause::PluginFailed) };
        *mode = BodyMode::Buffer;
        if let Framing::Length(len) = self.request_framing {
            self.reserve_body(ctx, Side::Client, len as usize, false)?;
        }
        self.buf.request.fields.remove(b"Expect");
        self.send_continue();
        Ok(())
    }

    /// Where the upstream is not told of it, because the body comes here first or because the client nominated the field and
    /// expects it of its next hop, the client gets its 100 from us.
    fn send_continue(&mut self) {
        if let RequestState::Body { awaits_continue: awaits @ true, .. } = &mut self.request_state
            && self.buf.request.fields.get(HeaderId::Expect).is_none()
        {
            *awaits = false;
            self.buf.to_client.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Queues the forwarded head, and what was buffered of the body; and asks for a connection to write them to.
    #[inline(always)]
    fn queue_request(&mut self, ctx: &mut Context<'_, '_>) {
        let runtime = &ctx.client.runtime;
        let (Some(route), Some(upstream)) = (self.route(runtime), self.upstream(runtime)) else { return };
        let Buffers { request, request_body, to_upstream, offered, .. } = &mut self.buf;
        let mut framing = self.request_framing;
        let len = request_body.len() as u64;
        let is_whole = matches!(self.request_state, RequestState::Done);
        if is_whole && (framing != Framing::None || len > 0) {
            framing = Framing::Length(len);
        }
        edit_fields(&mut request.fields, [&runtime.config.request_headers, &route.options.request_headers]);
        request.fields.remove_all(strip_after_hooks(upstream));
        let authorization = upstream.authorization.as_deref();
        write_request_head(request, framing, authorization, offered, to_upstream.buf());
        if let Some(attempt) = &mut self.attempt {
            attempt.queued = (to_upstream.len(), framing);
        }
        let streaming = streaming_mode(framing);
        if !request_body.is_empty() {
            self.has_upload_begun = true;
            write_body(streaming, request_body, to_upstream);
            if !is_whole {
                *request_body = Vec::new();
                self.reserved.shrink_to(to_upstream.capacity());
            }
        }
        if let RequestState::Body { mode, .. } = &mut self.request_state {
            *mode = streaming;
            self.send_continue();
        }
        self.connect_upstream(ctx, false);
    }

    #[inline(never)]
    fn read_request_body(&mut self, ctx: &mut Context<'_, '_>, data: &[u8]) -> Result<usize, Cause> {
        let mut data = data;
        if let RequestState::Body { mode: BodyMode::Buffer, .. } = self.request_state {
            data = self.fit_body(ctx, Side::Client, data)?;
        }
        let RequestState::Body { body, mode, awaits_continue, max_bytes } = &mut self.request_state else {
            return Ok(data.len());
        };
        let is_buffered = *mode == BodyMode::Buffer;
        if !is_buffered {
            // Framing that is taken counts: it will not come again either.
            self.has_upload_begun = true;
            *awaits_continue = false;
        }
        let (count, read) = read_body(body, *mode, data, &mut self.buf.request_body, &mut self.buf.to_upstream);
        self.log.bytes_in += count;
        // First, because the bytes up to an error came before it: the response must not depend on how they were split. A body
        // whose length was announced was judged with its head.
        if self.log.bytes_in > *max_bytes {
            return Err(Cause::RequestTooLarge);
        }
        let (taken, is_complete) = read?;
        if is_complete {
            self.end_request_body(ctx);
        } else if is_buffered && self.buf.request_body.len() > ctx.client.runtime.config.plugin_body_limit {
            self.request_too_large = true;
            self.pass_request(ctx)?;
        }
        Ok(taken)
    }

    /// What goes wrong from here on does not make its bytes those of the next request: they are taken.
    pub(super) fn end_request_body(&mut self, ctx: &mut Context<'_, '_>) {
        let RequestState::Body { mode, .. } = self.request_state else { return };
        self.set_request("body complete", RequestState::Done);
        match mode {
            BodyMode::Passthrough => {}
            BodyMode::Chunked => {
                // Trailers of a request are dropped: a gateway cannot know which of them are safe to merge (rule S17).
                self.buf.to_upstream.extend(LAST_CHUNK);
                self.buf.to_upstream.extend(b"\r\n");
            }
            BodyMode::Buffer => {
                if let Err(cause) = self.pass_request(ctx) {
                    self.send_error(ctx, cause);
                }
            }
        }
    }

    /// The client sends no more. In the middle of a request that means that it has gone: a client which only closes its
    /// sending half cannot be told from one that was killed, and holding the upstream for it would be the worse mistake
    /// (rule G12; nginx and Go's proxy judge alike).
    pub(super) fn on_client_eof(&mut self, ctx: &mut Context<'_, '_>) {
        match (&self.request_state, &self.response_state) {
            (RequestState::Tunnel(HalfClose::Open), _) => {
                self.last_activity.client_read = ctx.now();
                self.set_request("EOF", RequestState::Tunnel(HalfClose::EofReceived));
            }
            (RequestState::Tunnel(_), _) => {}
            // The response is complete and only has to be delivered; of the request, what has come.
            (_, ResponseState::AwaitUpload | ResponseState::Done | ResponseState::Closing(_)) => {
                if let RequestState::Body { .. } | RequestState::Discard = self.request_state {
                    self.set_request("EOF after the response", RequestState::Done);
                }
                self.is_persistent = false;
                self.buf.client_input.clear();
            }
            _ => self.on_client_lost(ctx, Cause::ClientGone),
        }
    }
}

/// How a body with that framing is passed on while it comes.
fn streaming_mode(framing: Framing) -> BodyMode {
    if framing == Framing::Chunked { BodyMode::Chunked } else { BodyMode::Passthrough }
}

/// Writes what was buffered of a body, as it would have been passed on.
pub(super) fn write_body(mode: BodyMode, buffered: &[u8], out: &mut ByteQueue) {
    match mode {
        BodyMode::Chunked => write_chunk(out.buf(), |out| out.extend_from_slice(buffered)),
        BodyMode::Passthrough | BodyMode::Buffer => out.extend(buffered),
    }
}

/// Reads from `data` into the place that `mode` says: `buffered`, or the other side's queue. Returns how many bytes of the
/// body these are, and what [`Body::read`] says.
pub(super) fn read_body(
    body: &mut Body,
    mode: BodyMode,
    data: &[u8],
    buffered: &mut Vec<u8>,
    out: &mut ByteQueue,
) -> (u64, Result<(usize, bool), HttpError>) {
    let mut read = |out: &mut Vec<u8>| {
        let before = out.len();
        let result = body.read(data, |piece| out.extend_from_slice(piece));
        ((out.len() - before) as u64, result)
    };
    match mode {
        BodyMode::Passthrough => read(out.buf()),
        BodyMode::Chunked => write_chunk(out.buf(), read),
        BodyMode::Buffer => read(buffered),
    }
}
