//! The client's end: request head, admission, request body.
//!
//! ```text
//! Head ──complete──► admitted ──body──► Body ──end──► Done
//!   │ bad or refused     └──no body───────────────────►─┘
//!   └──────────────────► Discard   (an answer of our own is on its way; nothing more is understood from this client)
//! ```

use std::rc::Rc;
use std::sync::Arc;

use super::admit::{FORWARDED_METHODS, ForwardPlan, Handler, admit};
use super::cause::{Cause, Refusal, Violation};
use super::choice::QueuedHead;
use super::connection::{has_connection_login, read_options};
use super::context::Ctx;
use super::forward::{Forwarding, forward_request, write_request_head};
use super::forwarded::{client_address, is_local};
use super::hooks::Verdict;
use super::local::{HEALTH, ResponseContext, write_json, write_options, write_redirect, write_text, write_text_head};
use super::outcome::HookPhase;
use super::strip::strip_after_hooks;
use super::transaction::{HalfClose, RequestSink, RequestState, Transaction, body_step, make_room};
use crate::bytes::SharedText;
use crate::config::Config;
use crate::extras::prometheus as exposition;
use crate::extras::response_rewrite::Rewritten;
use crate::http::body::Body;
use crate::http::chars::{find, is_token};
use crate::http::chunked::{LAST_CHUNK, write_chunk};
use crate::http::fields::HeaderId;
use crate::http::framing::{Framing, request_framing};
use crate::http::head::{HeadLimits, Method};

/// A built-in answer that is no longer is copied behind its head, so that both leave in one write.
const COPIED_TEXT: usize = 4 * 1024;

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
    /// Bytes came from the client.
    pub(super) fn on_client_bytes(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) {
        self.last_activity.client_read = ctx.now();
        if self.client_input.is_empty() {
            let taken = self.read_client(ctx, data);
            self.client_input.extend_from_slice(&data[taken..]);
        } else {
            self.client_input.extend_from_slice(data);
            self.read_held(ctx);
        }
    }

    /// Reads on in the client's bytes that were held.
    pub(super) fn read_held(&mut self, ctx: &mut Ctx<'_, '_>) {
        let mut held = std::mem::take(&mut self.client_input);
        let taken = self.read_client(ctx, &held);
        held.drain(..taken);
        self.client_input = held;
    }

    /// Reads as far as the state allows and says how far that was.
    fn read_client(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = &data[taken..];
            match &mut self.request_state {
                RequestState::Head { reader, .. } => {
                    let limits = head_limits(&ctx.client.runtime.config);
                    match reader.request(rest, &limits, &mut self.request) {
                        Ok(None) => return taken,
                        Ok(Some(len)) => {
                            taken += len;
                            self.begin(ctx);
                        }
                        Err(error) => {
                            // Whatever is wrong with it: an answer to HEAD has no body (RFC 9110 section 9.3.2).
                            if rest.strip_prefix(b"\r\n").unwrap_or(rest).starts_with(b"HEAD ") {
                                self.log.method = Some(Method::Head);
                            }
                            let refusal = match rest.first() {
                                Some(&TLS_HANDSHAKE) => Refusal::new(400, Cause::TlsOnPlainPort),
                                Some(_) | None => Refusal::from(error),
                            };
                            if matches!(refusal.status, 414 | 431) {
                                self.note_request_line(rest, &limits);
                            }
                            self.send_error(ctx, refusal);
                        }
                    }
                }
                RequestState::Body { .. } if rest.is_empty() => return taken,
                RequestState::Body { .. } => taken += self.read_request_body(ctx, rest),
                RequestState::Done => return taken,
                RequestState::Discard
                | RequestState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost) => {
                    return data.len();
                }
                RequestState::Tunnel(HalfClose::Open) => {
                    self.to_upstream.extend(rest);
                    self.log.bytes_in += rest.len() as u64;
                    return data.len();
                }
            }
        }
    }

    /// A head that is larger than allowed begins like any other: the log shows method and target, as far as they were read.
    #[cold]
    fn note_request_line(&mut self, head: &[u8], limits: &HeadLimits) {
        /// A log line has no place for more.
        const MAX_TARGET: usize = 1024;
        let line = head.strip_prefix(b"\r\n").unwrap_or(head);
        // Not more than one that arrives byte by byte has shown.
        let line = &line[..line.len().min(limits.request_line).min(limits.head_bytes)];
        let Some((method, rest)) = find(line, b' ').map(|space| (&line[..space], &line[space + 1..])) else { return };
        if is_token(method) {
            self.log.method = Some(Method::of(method));
            let len = rest.iter().take(MAX_TARGET).take_while(|byte| byte.is_ascii_graphic()).count();
            self.request.target.clear();
            self.request.target.extend_from_slice(&rest[..len]);
        }
    }

    /// The head is complete: decide what happens with the request.
    // Not inlined into the loop of `read_client`, which would prepare all of it before its first round.
    #[inline(never)]
    fn begin(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.log.head_read = Some(ctx.now());
        self.log.method = Some(self.request.method.clone());
        if !Rc::ptr_eq(&ctx.client.runtime, ctx.worker.runtime) {
            ctx.client.runtime = Rc::clone(ctx.worker.runtime);
        }
        if let Err(refusal) = self.admit(ctx) {
            let is_complete = request_framing(&self.request).is_ok_and(|framing| Body::new(framing).is_none());
            if is_complete && refusal.keeps_connection() {
                self.request_state = RequestState::Done;
            }
            self.send_error(ctx, refusal);
        }
    }

    fn admit(&mut self, ctx: &mut Ctx<'_, '_>) -> Result<(), Refusal> {
        let options = read_options(&self.request.fields, &mut self.scratch.connection_named)
            .map_err(|_| Refusal::new(400, Cause::Rule(Violation::TOO_MANY_OPTIONS)))?;
        self.is_persistent = options.is_persistent(self.request.version) && ctx.client.may_serve_another();
        let (runtime, peer) = (&ctx.client.runtime, &ctx.client.peer);
        let admission =
            admit(&self.request, options, peer, runtime, self.scratch.last_host(), &mut self.original_target)?;
        match admission.by {
            Handler::Upstream(plan) => self.forward(ctx, plan, admission.framing),
            Handler::Health => {
                self.answer(ctx, 200, admission.framing, |envelope, out| write_json(HEALTH, envelope, out))
            }
            Handler::Configz => {
                let text = Arc::clone(&ctx.client.runtime.configz);
                self.answer_with_text(ctx, "application/json", text, admission.framing);
            }
            Handler::Outline => {
                let runtime = &ctx.client.runtime;
                let is_local = is_local(&ctx.client.peer, &self.request.fields, &runtime.config.forwarded);
                let text = if is_local { runtime.outline() } else { Arc::clone(&runtime.configz) };
                self.answer_with_text(ctx, "application/json", text, admission.framing);
            }
            Handler::Metrics => {
                let text = ctx.worker.observer.metrics(ctx.now());
                self.answer_with_text(ctx, exposition::CONTENT_TYPE, text, admission.framing);
            }
            Handler::ToSlash => {
                let location = std::mem::take(&mut self.original_target);
                self.answer(ctx, 301, admission.framing, |envelope, out| write_redirect(&location, envelope, out));
                self.original_target = location;
            }
            Handler::Options => {
                self.answer(ctx, 204, admission.framing, |envelope, out| {
                    write_options(FORWARDED_METHODS, envelope, out)
                });
            }
        }
        Ok(())
    }

    /// A built-in answer. The body of such a request is of no interest: where there is one, the connection ends.
    fn answer(
        &mut self,
        ctx: &Ctx<'_, '_>,
        status: u16,
        framing: Framing,
        write: impl FnOnce(&ResponseContext<'_>, &mut Vec<u8>) -> u64,
    ) {
        self.request_state = if Body::new(framing).is_none() {
            RequestState::Done
        } else {
            self.is_persistent = false;
            RequestState::Discard
        };
        self.send_local(ctx, status, write);
    }

    /// A built-in answer that may be long. Where it is, the client is sent it from the shared text: those who do not read
    /// cost no copy each (rule E4).
    fn answer_with_text(&mut self, ctx: &Ctx<'_, '_>, media_type: &str, text: SharedText, framing: Framing) {
        if text.len() <= COPIED_TEXT || self.is_client_head() {
            return self.answer(ctx, 200, framing, |envelope, out| write_text(media_type, &text, envelope, out));
        }
        self.answer(ctx, 200, framing, |envelope, out| {
            write_text_head(media_type, text.len(), envelope, out);
            text.len() as u64
        });
        self.to_client.extend_shared(text);
    }

    fn forward(&mut self, ctx: &mut Ctx<'_, '_>, plan: ForwardPlan, framing: Framing) {
        self.log.route = Some(plan.route);
        self.plan = Some(plan);
        self.choose_upstream(ctx, plan.route);
        let (runtime, peer) = (&ctx.client.runtime, &ctx.client.peer);
        let route = &runtime.config.routes[plan.route as usize];
        let policy = &runtime.config.forwarded;
        std::mem::swap(&mut self.request.target, &mut self.original_target);
        self.client_address = client_address(peer, &self.request.fields, policy);
        let upstream = self.upstream_of(route);
        let received_target = &self.original_target;
        let forwarding = Forwarding { plan: &plan, runtime, upstream, received_target, peer };
        match forward_request(&mut self.request, &forwarding, &mut self.offered, &mut self.scratch) {
            Rewritten::Done => {}
            Rewritten::TooLarge => ctx.worker.observer.left_unmapped(&route.prefix, ctx.worker.now.instant),
        }
        let is_body_wanted = runtime.wants().request;
        match Body::new(framing) {
            None => {
                self.request_state = RequestState::Done;
                self.run_request_hooks(ctx, framing);
            }
            Some(body) if is_body_wanted => {
                let limit = ctx.client.runtime.config.plugin_body_limit;
                if let Framing::Length(len) = framing {
                    let len = usize::try_from(len).unwrap_or(limit).min(limit);
                    if let Err(refusal) = self.reserve(ctx.worker.transactions.bodies(), len, 0) {
                        return self.send_error(ctx, refusal);
                    }
                }
                // Whoever buffers the body is the one who has to ask for it.
                self.request.fields.remove(b"Expect");
                self.ask_for_body(plan);
                self.request_state = RequestState::Body { body, sink: RequestSink::Collect };
            }
            Some(body) => {
                if self.request.fields.get(HeaderId::Expect).is_none() {
                    // The client nominated it: what it expects, it expects of its next hop.
                    self.ask_for_body(plan);
                }
                let sink = if framing == Framing::Chunked { RequestSink::Chunked } else { RequestSink::Verbatim };
                self.request_state = RequestState::Body { body, sink };
                self.run_request_hooks(ctx, framing);
            }
        }
    }

    /// Tells a client that waits for it that its body is wanted, in the upstream's place.
    fn ask_for_body(&mut self, plan: ForwardPlan) {
        if plan.expects_continue {
            self.to_client.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.plan = Some(ForwardPlan { expects_continue: false, ..plan });
        }
    }

    /// Calls the request hooks and does what they say; the request goes on with `framing`, or with the body that was
    /// collected for them.
    fn run_request_hooks(&mut self, ctx: &mut Ctx<'_, '_>, framing: Framing) {
        let runtime = &ctx.client.runtime;
        let Some(hooks) = &runtime.hooks else { return self.connect(ctx, framing) };
        let verdict = hooks.on_request(&mut self.hook_view(runtime, HookPhase::Request));
        let framing = match framing {
            Framing::None if self.request_body.is_empty() => Framing::None,
            Framing::None | Framing::Length(_) | Framing::Chunked if runtime.wants().request => {
                Framing::Length(self.request_body.len() as u64)
            }
            Framing::None | Framing::Length(_) | Framing::Chunked | Framing::UntilClose => framing,
        };
        // Rule G21: whoever answers or fails here, the upstream is not contacted.
        match verdict {
            Verdict::Continue => self.connect(ctx, framing),
            Verdict::Respond { answer, .. } => self.send_plugin_response(ctx, &answer),
            Verdict::Fail { .. } => self.send_error(ctx, Refusal::new(502, Cause::PluginFailed)),
        }
    }

    /// Queues the forwarded head (and the body, where it was collected) and asks for a connection to write them to.
    fn connect(&mut self, ctx: &mut Ctx<'_, '_>, framing: Framing) {
        let runtime = &ctx.client.runtime;
        let upstream = self.plan.map(|plan| self.upstream_of(&runtime.config.routes[plan.route as usize]));
        if let Some(upstream) = upstream {
            self.request.fields.remove_all(strip_after_hooks(upstream));
        }
        self.has_login = has_connection_login(&self.request.fields, HeaderId::Authorization);
        let authorization = upstream.and_then(|upstream| upstream.authorization.as_deref());
        write_request_head(&self.request, framing, authorization, &self.offered, self.to_upstream.buf());
        if let Some(choice) = &mut self.choice {
            choice.queued = QueuedHead { head_len: self.to_upstream.len(), framing };
        }
        if !self.request_body.is_empty() {
            self.has_upload_begun = true;
            self.to_upstream.extend(&self.request_body);
        }
        self.connect_upstream(ctx, false);
    }

    #[inline(never)]
    fn read_request_body(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) -> usize {
        let RequestState::Body { sink, .. } = &self.request_state else { return 0 };
        let sink = *sink;
        if sink == RequestSink::Collect {
            let limit = ctx.client.runtime.config.plugin_body_limit;
            let most = body_step(self.request_body.len() + data.len(), self.request_body.capacity(), limit);
            if let Err(refusal) = self.reserve(ctx.worker.transactions.bodies(), most, 0) {
                self.send_error(ctx, refusal);
                return data.len();
            }
            make_room(&mut self.request_body, data.len(), most);
        }
        let RequestState::Body { body, .. } = &mut self.request_state else { return 0 };
        // Framing that is taken counts: it will not come again either.
        self.has_upload_begun |= sink != RequestSink::Collect;
        let mut count = 0;
        let mut append = |out: &mut Vec<u8>, piece: &[u8]| {
            count += piece.len() as u64;
            out.extend_from_slice(piece);
        };
        let read = match sink {
            RequestSink::Verbatim => {
                let out = self.to_upstream.buf();
                body.read(data, |piece| append(out, piece))
            }
            RequestSink::Chunked => {
                write_chunk(self.to_upstream.buf(), |out| body.read(data, |piece| append(out, piece)))
            }
            RequestSink::Collect => body.read(data, |piece| append(&mut self.request_body, piece)),
        };
        self.log.bytes_in += count;
        match read {
            // First, because the bytes up to an error came before it: the answer must not depend on how they were split.
            Ok(_) | Err(_) if self.is_body_too_large(ctx, sink) => {
                self.send_error(ctx, Refusal::new(413, Cause::BodyTooLarge));
                data.len()
            }
            Err(error) => {
                self.send_error(ctx, Refusal::from(error));
                data.len()
            }
            Ok((taken, true)) => {
                self.end_request_body(ctx, sink);
                taken
            }
            Ok((taken, false)) => taken,
        }
    }

    /// So many body bytes went to the upstream unseen.
    pub(super) fn on_request_bypassed(&mut self, ctx: &mut Ctx<'_, '_>, len: u64) {
        self.last_activity.client_read = ctx.now();
        self.last_activity.upstream_write = ctx.now();
        self.log.bytes_in += len;
        self.has_upload_begun |= len > 0;
        let RequestState::Body { body, sink } = &mut self.request_state else { return };
        let sink = *sink;
        if body.bypassed(len) {
            self.end_request_body(ctx, sink);
        }
    }

    /// A body whose length was announced was judged with its head; the others are judged as they come.
    fn is_body_too_large(&self, ctx: &Ctx<'_, '_>, sink: RequestSink) -> bool {
        let config = &ctx.client.runtime.config;
        let most = match (sink, self.plan) {
            (RequestSink::Collect, _) if self.request_body.len() > config.plugin_body_limit => return true,
            (RequestSink::Collect | RequestSink::Chunked | RequestSink::Verbatim, Some(plan)) => {
                config.routes[plan.route as usize].options.max_body_bytes
            }
            (RequestSink::Collect | RequestSink::Chunked | RequestSink::Verbatim, None) => None,
        };
        most.is_some_and(|most| self.log.bytes_in > most)
    }

    fn end_request_body(&mut self, ctx: &mut Ctx<'_, '_>, sink: RequestSink) {
        self.request_state = RequestState::Done;
        match sink {
            RequestSink::Verbatim => {}
            RequestSink::Chunked => {
                // Trailers of a request are dropped: a gateway cannot know which of them are safe to merge (rule S17).
                self.to_upstream.extend(LAST_CHUNK);
                self.to_upstream.extend(b"\r\n");
            }
            RequestSink::Collect => {
                self.run_request_hooks(ctx, Framing::Length(self.request_body.len() as u64));
            }
        }
    }
}
