//! The upstream's end: connecting, interim responses, the final response, its body.
//!
//! ```text
//! Connecting ──► AwaitHead ──1xx──► AwaitHead
//!     │              ├──101──► Tunnel
//!     │              └──final──► response hooks ──► Body ──end──► Done
//!     └─failed, bad or late─► Local (an error of ours)  │  └──before the request──► Answered ──► Done
//!                                                       └─broken off──► Cut
//! ```

use std::ops::ControlFlow;

use super::cause::{Cause, Refusal, Violation};
use super::choice::UpstreamAttempt;
use super::connection::{Options, has_connection_login, read_options};
use super::context::Ctx;
use super::events::{CloseMode, Command, ConnectError, Side};
use super::forward::{
    UPGRADE_REQUIRED, client_framing, forward_response, list_protocols, rewrite_response_head, write_interim_head,
    write_response_head, write_switching_head, write_trailers,
};
use super::hooks::Verdict;
use super::outcome::HookPhase;
use super::request_side::head_limits;
use super::transaction::{
    HalfClose, KEPT_CAPACITY, RequestState, ResponseSink, ResponseState, Transaction, body_step, make_room,
};
use crate::extras::response_rewrite::Rewritten;
use crate::http::body::Body;
use crate::http::chars::{is_word, list_has, parse_decimal};
use crate::http::chunked::{LAST_CHUNK, write_chunk};
use crate::http::fields::{HeaderId, HeaderSet};
use crate::http::framing::{Framing, has_false_framing, has_no_body, response_framing};
use crate::http::head::{HeadParser, Method, Version, parse_trailers, reason_phrase};

const FRAMING: HeaderSet = HeaderSet::of(&[HeaderId::ContentLength, HeaderId::TransferEncoding]);

/// A 502 for a response that broke a rule.
fn bad_response(violation: impl Into<Violation>) -> Refusal {
    Refusal::new(502, Cause::BadResponse(violation.into()))
}

impl Transaction {
    /// The upstream connection is there.
    pub(super) fn on_connected(&mut self, ctx: &mut Ctx<'_, '_>, reused: bool) {
        let ResponseState::Connecting { .. } = self.response_state else { return };
        self.response_state = ResponseState::AwaitHead { interim: 0, reader: HeadParser::new() };
        self.log.connected = Some(ctx.now());
        self.log.reused = reused;
        self.is_upstream_persistent = true;
        self.last_activity.upstream_read = ctx.now();
        self.last_activity.upstream_write = ctx.now();
    }

    /// There is no upstream connection to be had.
    pub(super) fn on_connect_failed(&mut self, ctx: &mut Ctx<'_, '_>, error: ConnectError) {
        let ResponseState::Connecting { .. } = self.response_state else { return };
        // Nothing is held any more that could be given back.
        self.response_state = ResponseState::None;
        let (status, cause) = match error {
            ConnectError::DnsFail => (502, Cause::DnsFail),
            ConnectError::Refused => (502, Cause::ConnectRefused),
            ConnectError::TimedOut => (504, Cause::ConnectTimeout),
            ConnectError::Untrusted(error) => (502, Cause::TlsUntrusted(error)),
            ConnectError::TlsFailed => (502, Cause::TlsFailed),
            ConnectError::Failed => (502, Cause::ConnectFailed),
        };
        // Nothing of the request has left, whatever it is (rule G17).
        if !self.try_next_upstream(ctx, cause) {
            self.to_upstream.clear();
            self.send_error(ctx, Refusal::new(status, cause));
        }
    }

    /// Bytes came from the upstream.
    pub(super) fn on_upstream_bytes(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) {
        // A part of a head is no progress: whoever sends one byte now and then would be waited for all day.
        if !matches!(self.response_state, ResponseState::AwaitHead { .. }) {
            self.last_activity.upstream_read = ctx.now();
        }
        self.log.first_byte.get_or_insert(ctx.now());
        if self.upstream_input.is_empty() {
            let taken = self.read_upstream(ctx, data);
            self.upstream_input.extend_from_slice(&data[taken..]);
        } else {
            let mut held = std::mem::take(&mut self.upstream_input);
            held.extend_from_slice(data);
            let taken = self.read_upstream(ctx, &held);
            held.drain(..taken);
            self.upstream_input = held;
        }
    }

    fn read_upstream(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = &data[taken..];
            match &mut self.response_state {
                ResponseState::AwaitHead { interim, reader } => {
                    let interim = *interim;
                    let limits = head_limits(&ctx.client.runtime.config);
                    match reader.response(rest, &limits, &mut self.response) {
                        Ok(None) => return taken,
                        Ok(Some(len)) => {
                            taken += len;
                            let has_more = taken < data.len();
                            if let Err(refusal) = self.on_response_head(ctx, interim, has_more) {
                                self.send_error(ctx, refusal);
                            }
                        }
                        Err(error) => self.send_error(ctx, bad_response(error)),
                    }
                }
                ResponseState::Body { .. } if rest.is_empty() => return taken,
                ResponseState::Body { .. } => taken += self.read_response_body(ctx, rest),
                // As below: it does not keep to the protocol, and gets no more.
                ResponseState::Answered if !rest.is_empty() => self.end_upload(ctx),
                ResponseState::Answered => return taken,
                ResponseState::Tunnel(HalfClose::Open) => {
                    self.to_client.extend(rest);
                    self.log.bytes_out += rest.len() as u64;
                    return data.len();
                }
                // Bytes behind the end of a response are nobody's; the connection was closed because of them.
                ResponseState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost)
                | ResponseState::None
                | ResponseState::Local
                | ResponseState::Connecting { .. }
                | ResponseState::Done
                | ResponseState::Cut { .. } => return data.len(),
            }
        }
    }

    /// A response head is complete. `has_more`: bytes follow it already.
    // Not inlined into the loop of `read_upstream`, as in `downstream`.
    #[inline(never)]
    fn on_response_head(&mut self, ctx: &mut Ctx<'_, '_>, interim: u32, has_more: bool) -> Result<(), Refusal> {
        self.last_activity.upstream_read = ctx.now();
        self.record_success(ctx);
        let options = read_options(&self.response.fields, &mut self.scratch.connection_named)
            .map_err(|_| bad_response(Violation::TOO_MANY_OPTIONS))?;
        let to_head = self.request.method == Method::Head;
        let framing = response_framing(&self.response, to_head).map_err(bad_response)?;
        if framing == Framing::None && has_false_framing(&self.response, to_head) {
            // Rule S18: read as what it is, but whatever comes behind it is not believed.
            self.is_upstream_persistent = false;
            self.response.fields.remove_all(FRAMING);
        }
        match self.response.status {
            101 => self.switch_protocols(ctx, options),
            100..200 => self.on_interim(ctx, interim),
            _ => {
                self.is_upstream_persistent &= options.is_persistent(self.response.version);
                self.on_final(ctx, framing, has_more)
            }
        }
    }

    /// The received head becomes the one that leaves, whatever its status.
    fn forward_response_head(&mut self, ctx: &mut Ctx<'_, '_>) {
        forward_response(&mut self.response, &self.scratch.connection_named, &ctx.worker.now.date);
        if let Some(plan) = self.plan {
            let route = &ctx.client.runtime.config.routes[plan.route as usize];
            let upstream = UpstreamAttempt::upstream(self.choice.as_ref(), route);
            let (runtime, request) = (&ctx.client.runtime, &self.request);
            match rewrite_response_head(&mut self.response, request, runtime, plan.route, upstream, &mut self.scratch) {
                Rewritten::Done => {}
                Rewritten::TooLarge => ctx.worker.observer.left_unmapped(&route.prefix, ctx.worker.now.instant),
            }
        }
    }

    /// Rule G9: passed on in order, but never to an HTTP/1.0 client, and not without end.
    fn on_interim(&mut self, ctx: &mut Ctx<'_, '_>, interim: u32) -> Result<(), Refusal> {
        if interim >= ctx.client.runtime.config.limits.max_interim_responses {
            return Err(bad_response(Violation::TOO_MANY_INTERIM));
        }
        self.response_state = ResponseState::AwaitHead { interim: interim + 1, reader: HeadParser::new() };
        if self.response.status == 100
            && let Some(plan) = &mut self.plan
        {
            // From now on the client is the one who is waited for.
            plan.expects_continue = false;
            self.last_activity.client_read = ctx.now();
        }
        if self.request.version == Version::Http11 {
            self.forward_response_head(ctx);
            write_interim_head(&self.response, self.to_client.buf());
        }
        Ok(())
    }

    /// Rule G14: only what was asked for, and only one of what was offered.
    fn switch_protocols(&mut self, ctx: &mut Ctx<'_, '_>, options: Options) -> Result<(), Refusal> {
        let mut protocols = self.response.fields.values(HeaderId::Upgrade);
        let protocol = match (protocols.next(), protocols.next(), options.upgrade) {
            (Some(protocol), None, true) => protocol.to_vec(),
            (None | Some(_), _, _) => return Err(bad_response(Violation::OTHER_PROTOCOL)),
        };
        drop(protocols);
        if !list_has(&self.offered, &protocol) {
            return Err(bad_response(Violation::OTHER_PROTOCOL));
        }
        self.forward_response_head(ctx);
        write_switching_head(&self.response, &protocol, self.to_client.buf());
        self.log.status = 101;
        self.is_persistent = false;
        self.response_state = ResponseState::Tunnel(HalfClose::Open);
        self.request_state = RequestState::Tunnel(HalfClose::Open);
        // Bytes that came early were held until now; they belong to the new protocol.
        self.read_held(ctx);
        Ok(())
    }

    fn on_final(&mut self, ctx: &mut Ctx<'_, '_>, framing: Framing, has_more: bool) -> Result<(), Refusal> {
        // A close-delimited body takes its connection with it.
        self.is_upstream_persistent &= framing != Framing::UntilClose;
        self.has_login |= has_connection_login(&self.response.fields, HeaderId::WwwAuthenticate);
        self.judge_upload(ctx);
        self.is_pushed = self.response.fields.values(HeaderId::ContentType).any(is_pushed);
        let announced = self.declared_framing(framing, ctx.client.runtime.wants().response);
        self.offered.clear();
        if self.response.status == UPGRADE_REQUIRED {
            list_protocols(&self.response.fields, &mut self.offered);
        }
        self.forward_response_head(ctx);
        match Body::new(framing) {
            Some(body) if ctx.client.runtime.wants().response && !self.is_client_head() => {
                let limit = ctx.client.runtime.config.plugin_body_limit;
                if let Framing::Length(len) = framing {
                    self.reserve(
                        ctx.worker.transactions.bodies(),
                        0,
                        usize::try_from(len).unwrap_or(limit).min(limit),
                    )?;
                }
                self.response_state = ResponseState::Body { body, sink: ResponseSink::Collect };
            }
            Some(body) => {
                let framing = client_framing(framing, self.request.version);
                if self.respond(ctx, framing)?.is_continue() {
                    if self.is_client_head() || has_no_body(self.response.status) {
                        // A plugin made it one that has no place for this body, which may be an endless one.
                        self.complete_response(ctx, true);
                    } else {
                        self.response_state = ResponseState::Body { body, sink: sink_for(framing) };
                    }
                }
            }
            None => {
                if self.respond(ctx, announced)?.is_continue() {
                    self.complete_response(ctx, has_more);
                }
            }
        }
        Ok(())
    }

    /// A final response has come, perhaps while the upload runs. Rule G20 and RFC 9112 section 9.5: the rest is not wanted
    /// where an error closes the connection. Any other may be an answer to what came so far, from an origin that answers
    /// while it reads; so the upload goes on, also one that waited for `100 Continue`: the client decides.
    fn judge_upload(&mut self, ctx: &Ctx<'_, '_>) {
        let RequestState::Body { .. } = self.request_state else { return };
        if !self.is_upload_wanted() {
            self.abandon_request();
        } else if self.is_upload_held_back() {
            self.last_activity.client_read = ctx.now();
        }
    }

    fn is_upload_wanted(&self) -> bool {
        self.response.status < 400 || self.is_upstream_persistent
    }

    /// The framing that the forwarded head announces. A response without a body may still announce the length of the one
    /// that it does not have (RFC 9110 section 8.6), unless plugins may write that body: nobody knows its length then.
    fn declared_framing(&self, framing: Framing, may_be_rewritten: bool) -> Framing {
        let declared = || {
            let length = self.response.fields.get(HeaderId::ContentLength).filter(|_| !may_be_rewritten);
            length.and_then(parse_decimal)
        };
        match (framing, self.response.status) {
            (Framing::Length(_) | Framing::Chunked | Framing::UntilClose, _) => framing,
            (Framing::None, 204) => Framing::None,
            (Framing::None, _) if self.is_client_head() || self.response.status == 304 => {
                declared().map_or(Framing::None, Framing::Length)
            }
            // A plugin turned the request into a HEAD; its client still waits for a body.
            (Framing::None, _) => Framing::Length(0),
        }
    }

    /// Calls the response hooks; where they let the response pass, its head leaves with `framing`.
    fn respond(&mut self, ctx: &mut Ctx<'_, '_>, framing: Framing) -> Result<ControlFlow<()>, Refusal> {
        let runtime = &ctx.client.runtime;
        let wants = runtime.wants();
        let received_status = self.response.status;
        if let Some(hooks) = &runtime.hooks {
            match hooks.on_response(&mut self.hook_view(runtime, HookPhase::Response)) {
                Verdict::Continue => {}
                Verdict::Respond { answer, .. } => {
                    self.send_plugin_response(ctx, &answer);
                    return Ok(ControlFlow::Break(()));
                }
                Verdict::Fail { .. } => return Err(Refusal::new(502, Cause::PluginFailed)),
            }
        }
        if self.response.status != received_status {
            self.response.reason.clear();
            self.response.reason.extend_from_slice(reason_phrase(self.response.status).as_bytes());
        }
        // A plugin may turn a status with a body into one without, or the other way round.
        let framing = match (has_no_body(received_status), has_no_body(self.response.status)) {
            (false, true) => Framing::None,
            (true, false) if !self.is_client_head() => Framing::Length(0),
            (true | false, true | false) => framing,
        };
        // Where plugins may write the body, what they left of it is what is sent.
        let is_collected = wants.response
            && !self.is_client_head()
            && !has_no_body(self.response.status)
            && matches!(framing, Framing::Length(_));
        let framing = if is_collected { Framing::Length(self.response_body.len() as u64) } else { framing };
        self.is_persistent &= framing != Framing::UntilClose && !ctx.client.is_draining;
        self.log.status = self.response.status;
        let persistence = self.persistence();
        let protocols = if self.response.status == UPGRADE_REQUIRED { &self.offered[..] } else { b"" };
        write_response_head(&self.response, framing, persistence, protocols, self.to_client.buf());
        if is_collected {
            self.to_client.extend(&self.response_body);
            self.log.bytes_out += self.response_body.len() as u64;
            if self.response_body.len() > KEPT_CAPACITY {
                // The client may take long to read it, and nobody looks at this one any more.
                self.response_body = Vec::new();
                self.reserved.shrink_to(2 * self.request_body.capacity() + self.to_client.capacity());
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes what has arrived of the body. It is queued for the client at once, whole or not: nothing waits for more
    /// (rule G13), but what plugins want to see as one.
    #[inline(never)]
    fn read_response_body(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) -> usize {
        let ResponseState::Body { sink, .. } = &self.response_state else { return 0 };
        let sink = *sink;
        if sink == ResponseSink::Collect {
            let limit = ctx.client.runtime.config.plugin_body_limit;
            let most = body_step(self.response_body.len() + data.len(), self.response_body.capacity(), limit);
            if let Err(refusal) = self.reserve(ctx.worker.transactions.bodies(), 0, most) {
                self.send_error(ctx, refusal);
                return data.len();
            }
            make_room(&mut self.response_body, data.len(), most);
        }
        let ResponseState::Body { body, .. } = &mut self.response_state else { return 0 };
        let mut count = 0;
        let mut append = |out: &mut Vec<u8>, piece: &[u8]| {
            count += piece.len() as u64;
            out.extend_from_slice(piece);
        };
        let read = match sink {
            ResponseSink::Verbatim | ResponseSink::UntilClose => {
                let out = self.to_client.buf();
                body.read(data, |piece| append(out, piece))
            }
            ResponseSink::Chunked => {
                write_chunk(self.to_client.buf(), |out| body.read(data, |piece| append(out, piece)))
            }
            ResponseSink::Collect => body.read(data, |piece| append(&mut self.response_body, piece)),
        };
        match sink {
            ResponseSink::Collect => {}
            ResponseSink::Verbatim | ResponseSink::UntilClose | ResponseSink::Chunked => self.log.bytes_out += count,
        }
        match read {
            // First, because the bytes up to an error came before it.
            Ok(_) | Err(_) if self.response_body.len() > ctx.client.runtime.config.plugin_body_limit => {
                self.send_error(ctx, Refusal::new(502, Cause::BodyTooLarge));
                data.len()
            }
            Err(error) => {
                self.send_error(ctx, bad_response(error));
                data.len()
            }
            Ok((taken, true)) => {
                self.end_response_body(ctx, taken < data.len());
                taken
            }
            Ok((taken, false)) => taken,
        }
    }

    /// So many body bytes went to the client unseen.
    pub(super) fn on_response_bypassed(&mut self, ctx: &mut Ctx<'_, '_>, len: u64) {
        self.last_activity.upstream_read = ctx.now();
        self.last_activity.client_write = ctx.now();
        self.log.bytes_out += len;
        let ResponseState::Body { body, .. } = &mut self.response_state else { return };
        if body.bypassed(len) {
            self.end_response_body(ctx, false);
        }
    }

    /// The body is complete. `has_more`: bytes follow it already.
    fn end_response_body(&mut self, ctx: &mut Ctx<'_, '_>, has_more: bool) {
        let ResponseState::Body { body, sink } = &self.response_state else { return };
        match sink {
            ResponseSink::Verbatim | ResponseSink::UntilClose => {}
            ResponseSink::Chunked => {
                let limits = head_limits(&ctx.client.runtime.config);
                match parse_trailers(body.trailers(), &limits, &mut self.trailers) {
                    Ok(_) => {
                        self.to_client.extend(LAST_CHUNK);
                        write_trailers(&mut self.trailers, self.to_client.buf());
                    }
                    Err(error) => return self.send_error(ctx, bad_response(error)),
                }
            }
            ResponseSink::Collect => match self.respond(ctx, Framing::Length(self.response_body.len() as u64)) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(refusal) => return self.send_error(ctx, refusal),
            },
        }
        self.complete_response(ctx, has_more);
    }

    /// The response is complete: the connection goes back to the pool if both ends of it are clean (rules S14 and S18).
    fn complete_response(&mut self, ctx: &mut Ctx<'_, '_>, has_more: bool) {
        let is_all_read = matches!(self.request_state, RequestState::Done);
        let is_sent = is_all_read && self.to_upstream.is_empty();
        let has_rest = is_all_read || matches!(self.request_state, RequestState::Body { .. });
        if is_sent && self.is_upstream_persistent && !has_more {
            ctx.commands.push(if self.has_login { Command::Reserve } else { Command::Park });
            self.to_upstream.clear();
            if let (true, Some(plan)) = (self.has_login, self.plan) {
                ctx.client.reserved = Some(self.upstream_id(&ctx.client.runtime, plan.route));
            }
            self.response_state = ResponseState::Done;
        } else if has_rest && !is_sent && !has_more && self.is_upload_wanted() {
            self.response_state = ResponseState::Answered;
        } else {
            self.end_upload(ctx);
        }
    }

    /// The upstream sends no more.
    pub(super) fn on_upstream_eof(&mut self, ctx: &mut Ctx<'_, '_>) {
        match &self.response_state {
            ResponseState::AwaitHead { .. } => self.lose_upstream(ctx),
            ResponseState::Body { body: Body::UntilClose, .. } => self.end_response_body(ctx, false),
            ResponseState::Body { .. } => self.send_error(ctx, Refusal::new(502, Cause::UpstreamTruncated)),
            // Its own last write had failed: it did not end, it is gone.
            ResponseState::Tunnel(HalfClose::Open)
                if matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost)) =>
            {
                self.send_error(ctx, Refusal::new(502, Cause::UpstreamTruncated));
            }
            ResponseState::Tunnel(HalfClose::Open) => {
                self.last_activity.upstream_read = ctx.now();
                self.response_state = ResponseState::Tunnel(HalfClose::EofReceived);
            }
            // It may have closed only its half, and read on; if not, the next write fails.
            ResponseState::Answered
            | ResponseState::Tunnel(HalfClose::EofReceived | HalfClose::ShutdownSent | HalfClose::Lost)
            | ResponseState::None
            | ResponseState::Local
            | ResponseState::Connecting { .. }
            | ResponseState::Done
            | ResponseState::Cut { .. } => {}
        }
    }

    /// The upstream is gone.
    pub(super) fn on_upstream_reset(&mut self, ctx: &mut Ctx<'_, '_>) {
        match &self.response_state {
            ResponseState::AwaitHead { .. } => self.lose_upstream(ctx),
            ResponseState::Body { .. } | ResponseState::Tunnel(_) => {
                self.send_error(ctx, Refusal::new(502, Cause::UpstreamTruncated));
            }
            ResponseState::Answered => self.end_upload(ctx),
            ResponseState::None
            | ResponseState::Local
            | ResponseState::Connecting { .. }
            | ResponseState::Done
            | ResponseState::Cut { .. } => {}
        }
    }

    /// The upstream takes no more bytes; it may have answered before it stopped (rule G20).
    pub(super) fn on_upstream_unwritable(&mut self, ctx: &mut Ctx<'_, '_>) {
        match self.response_state {
            // Rule G11: what it sent before is read, and delivered, first.
            ResponseState::Tunnel(HalfClose::Open) => {
                self.to_upstream.clear();
                self.request_state = RequestState::Tunnel(HalfClose::Lost);
                self.last_activity.upstream_read = ctx.now();
            }
            ResponseState::Tunnel(_) => self.send_error(ctx, Refusal::new(502, Cause::UpstreamTruncated)),
            ResponseState::AwaitHead { .. } | ResponseState::Body { .. } => {
                // Not cleared: a stale connection may make us send the same bytes again on another.
                self.to_upstream.consume(self.to_upstream.len());
                self.is_upstream_persistent = false;
                if let RequestState::Body { .. } = self.request_state {
                    self.request_state = RequestState::Discard;
                    self.is_persistent = false;
                }
            }
            ResponseState::Answered => self.end_upload(ctx),
            ResponseState::None
            | ResponseState::Local
            | ResponseState::Connecting { .. }
            | ResponseState::Done
            | ResponseState::Cut { .. } => {}
        }
    }

    /// The connection ended before a response began. Rule G17: a connection from the pool may just have been stale, and
    /// a request that may be repeated is sent once more on a fresh one, provided that none of its body is gone (rule G18).
    /// A fresh one that ends so is a failure of the upstream; the request goes to another one, if the route has one.
    fn lose_upstream(&mut self, ctx: &mut Ctx<'_, '_>) {
        let has_begun = self.log.first_byte.is_some();
        let may_repeat = !has_begun
            && !self.has_upload_begun
            && !matches!(self.request_state, RequestState::Discard)
            && self.request.method.is_idempotent();
        let is_stale = self.log.reused && self.log.retries == 0;
        if may_repeat && is_stale {
            ctx.commands.push(Command::Close(Side::Upstream, CloseMode::Close));
            self.log.retries += 1;
            self.to_upstream.rewind();
            return self.connect_upstream(ctx, true);
        }
        if !has_begun && !is_stale {
            let may_go_on = may_repeat && self.choice.as_mut().is_some_and(UpstreamAttempt::retry_allowed);
            if may_go_on {
                ctx.commands.push(Command::Close(Side::Upstream, CloseMode::Close));
                self.to_upstream.rewind();
                if self.try_next_upstream(ctx, Cause::UpstreamReset) {
                    return;
                }
            } else {
                self.record_failure(ctx, Cause::UpstreamReset);
            }
        }
        let cause = if has_begun { Cause::UpstreamTruncated } else { Cause::UpstreamReset };
        self.send_error(ctx, Refusal::new(502, cause));
    }
}

fn sink_for(framing: Framing) -> ResponseSink {
    match framing {
        Framing::None | Framing::Length(_) => ResponseSink::Verbatim,
        Framing::UntilClose => ResponseSink::UntilClose,
        Framing::Chunked => ResponseSink::Chunked,
    }
}

/// Whether a body of that type, with or without parameters, is made of parts that come whenever there is news: events,
/// or the pictures of a camera.
fn is_pushed(content_type: &[u8]) -> bool {
    [&b"text/event-stream"[..], b"multipart/x-mixed-replace"].iter().any(|pushed| {
        content_type.split_at_checked(pushed.len()).is_some_and(|(media_type, rest)| {
            is_word(media_type, pushed) && matches!(rest.trim_ascii_start(), [] | [b';', ..])
        })
    })
}
