//! The upstream's side: interim responses, the final response, its body. Its states are [`ResponseState`]; how a connection
//! is asked for, and again, is in `retry`.

use std::ops::ControlFlow;

use super::buffers::{Buffers, KEPT_CAPACITY};
use super::cause::Cause;
use super::connection::{Options, has_connection_login, read_options};
use super::context::Ctx;
use super::events::{CloseMode, Command, ConnectError, Side};
use super::forward::{
    Persistence, UPGRADE_REQUIRED, client_framing, forward_response, list_protocols, rewrite_response_head,
    write_response_head, write_trailers,
};
use super::hooks::Verdict;
use super::outcome::HookPhase;
use super::request_side::{head_limits, read_body};
use super::state::{BodyMode, HalfClose, RequestState, ResponseState, Reuse, Transaction};
use crate::http::body::Body;
use crate::http::chars::{is_word, list_has, parse_decimal};
use crate::http::chunked::LAST_CHUNK;
use crate::http::error::HttpError;
use crate::http::fields::{HeaderId, HeaderSet};
use crate::http::framing::{Framing, has_false_framing, has_no_body, response_framing};
use crate::http::head::{HeadParser, Method, Version, parse_head, reason_phrase};

const FRAMING: HeaderSet = HeaderSet::of(&[HeaderId::ContentLength, HeaderId::TransferEncoding]);

impl Transaction {
    /// The upstream connection is there.
    pub(super) fn on_connected(&mut self, ctx: &mut Ctx<'_, '_>, reused: bool) {
        let ResponseState::Connecting { .. } = self.response_state else { return };
        let has_login = has_connection_login(&self.buf.request.fields, HeaderId::Authorization);
        let reuse = if has_login { Reuse::ThisClient } else { Reuse::Shared };
        self.set_response("connected", ResponseState::AwaitHead { interim: 0, reuse, parser: HeadParser::new() });
        self.log.connected = Some(ctx.now());
        self.log.reused = reused;
        self.last_activity.upstream_read = ctx.now();
        self.last_activity.upstream_write = ctx.now();
    }

    /// There is no upstream connection to be had.
    pub(super) fn on_connect_failed(&mut self, ctx: &mut Ctx<'_, '_>, error: ConnectError) {
        let ResponseState::Connecting { .. } = self.response_state else { return };
        self.set_response("connect failed", ResponseState::None);
        self.on_attempt_failed(ctx, Cause::Connect(error));
    }

    /// Bytes came from the upstream.
    pub(super) fn on_upstream_bytes(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) {
        // A part of a head is no progress: whoever sends one byte now and then would be waited for all day.
        if !matches!(self.response_state, ResponseState::AwaitHead { .. }) {
            self.last_activity.upstream_read = ctx.now();
        }
        self.log.first_byte.get_or_insert(ctx.now());
        if self.buf.upstream_input.is_empty() {
            let taken = self.read_upstream(ctx, data);
            self.buf.upstream_input.extend_from_slice(&data[taken..]);
        } else {
            let mut held = std::mem::take(&mut self.buf.upstream_input);
            held.extend_from_slice(data);
            let taken = self.read_upstream(ctx, &held);
            held.drain(..taken);
            self.buf.upstream_input = held;
        }
    }

    fn read_upstream(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = &data[taken..];
            match &mut self.response_state {
                ResponseState::AwaitHead { interim, reuse, parser } => {
                    let (interim, reuse) = (*interim, *reuse);
                    let limits = head_limits(&ctx.client.runtime.config);
                    match parser.read(rest, &limits, &mut self.buf.response) {
                        Ok(None) => return taken,
                        Ok(Some(len)) => {
                            taken += len;
                            let has_more = taken < data.len();
                            if let Err(cause) = self.on_response_head(ctx, interim, reuse, has_more) {
                                self.send_error(ctx, cause);
                            }
                        }
                        Err(error) => self.send_error(ctx, Cause::BadResponse(error)),
                    }
                }
                ResponseState::Body { .. } if rest.is_empty() => return taken,
                ResponseState::Body { .. } => taken += self.read_response_body(ctx, rest),
                // As below: it does not keep to the protocol, and gets no more.
                ResponseState::Answered if !rest.is_empty() => self.end_upload(ctx),
                ResponseState::Answered => return taken,
                ResponseState::Tunnel(HalfClose::Open) => {
                    self.buf.to_client.extend(rest);
                    self.log.bytes_out += rest.len() as u64;
                    return data.len();
                }
                // Bytes behind the end of a response belong to no request; the connection was closed because of them.
                _ => return data.len(),
            }
        }
    }

    /// A response head is complete. `has_more`: bytes follow it already.
    // Not inlined into the loop of `read_upstream`, which would prepare all of it before its first round.
    #[inline(never)]
    fn on_response_head(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        interim: u32,
        mut reuse: Reuse,
        has_more: bool,
    ) -> Result<(), Cause> {
        self.last_activity.upstream_read = ctx.now();
        self.record_success(ctx);
        let Buffers { request, response, scratch, .. } = &mut self.buf;
        let options = read_options(&response.fields, &mut scratch.connection_named).map_err(Cause::BadResponse)?;
        let to_head = request.method == Method::Head;
        let framing = response_framing(response, to_head).map_err(Cause::BadResponse)?;
        if framing == Framing::None && has_false_framing(response, to_head) {
            // Rule S18: read as what it is, but whatever comes behind it is not believed.
            reuse = Reuse::No;
            response.fields.remove_all(FRAMING);
        }
        match response.status {
            101 => self.switch_protocols(ctx, options),
            100..200 => self.on_interim(ctx, interim, reuse),
            _ => {
                // A close-delimited body takes its connection with it.
                if !options.is_persistent(response.version) || framing == Framing::UntilClose {
                    reuse = Reuse::No;
                } else if reuse == Reuse::Shared && has_connection_login(&response.fields, HeaderId::WwwAuthenticate) {
                    reuse = Reuse::ThisClient;
                }
                self.on_final(ctx, framing, reuse, has_more)
            }
        }
    }

    /// The received head becomes the one that leaves, whatever its status.
    fn forward_response_head(&mut self, ctx: &mut Ctx<'_, '_>) {
        forward_response(&mut self.buf.response, &self.buf.scratch.connection_named, &ctx.worker.now.date);
        let runtime = &ctx.client.runtime;
        let (Some(index), Some(upstream)) = (self.route_index, self.upstream(runtime)) else { return };
        let Buffers { request, response, scratch, .. } = &mut self.buf;
        if !rewrite_response_head(response, request, runtime, index, upstream, scratch) {
            let prefix = &runtime.config.routes[index as usize].prefix;
            ctx.worker.observer.left_unmapped(prefix, ctx.worker.now.instant);
        }
    }

    /// Rule G9: passed on in order, but never to an HTTP/1.0 client, and not without end.
    fn on_interim(&mut self, ctx: &mut Ctx<'_, '_>, interim: u32, reuse: Reuse) -> Result<(), Cause> {
        if interim >= ctx.client.runtime.config.limits.max_interim_responses {
            return Err(Cause::BadResponse(HttpError::TooManyInterim));
        }
        self.set_response("1xx", ResponseState::AwaitHead { interim: interim + 1, reuse, parser: HeadParser::new() });
        if self.buf.response.status == 100 {
            if let RequestState::Body { awaits_continue, .. } = &mut self.request_state {
                *awaits_continue = false;
            }
            // From now on the client is waited for.
            self.last_activity.client_read = ctx.now();
        }
        if self.buf.request.version == Version::Http11 {
            self.forward_response_head(ctx);
            let persistence = Persistence::KeepAlive(Version::Http11);
            write_response_head(&self.buf.response, Framing::None, persistence, b"", self.buf.to_client.buf());
        }
        Ok(())
    }

    /// Rule G14: only what was asked for, and only one of what was offered.
    fn switch_protocols(&mut self, ctx: &mut Ctx<'_, '_>, options: Options) -> Result<(), Cause> {
        let mut protocols = self.buf.response.fields.values(HeaderId::Upgrade);
        let protocol = match (protocols.next(), protocols.next(), options.upgrade) {
            (Some(protocol), None, true) => protocol.to_vec(),
            (None | Some(_), _, _) => return Err(Cause::BadResponse(HttpError::OtherProtocol)),
        };
        drop(protocols);
        if !list_has(&self.buf.offered, &protocol) {
            return Err(Cause::BadResponse(HttpError::OtherProtocol));
        }
        self.forward_response_head(ctx);
        let persistence = Persistence::KeepAlive(Version::Http11);
        write_response_head(&self.buf.response, Framing::None, persistence, &protocol, self.buf.to_client.buf());
        self.log.status = 101;
        self.is_persistent = false;
        self.set_response("101", ResponseState::Tunnel(HalfClose::Open));
        self.set_request("101", RequestState::Tunnel(HalfClose::Open));
        // Bytes that came early were held until now; they belong to the new protocol.
        self.read_held(ctx);
        Ok(())
    }

    fn on_final(&mut self, ctx: &mut Ctx<'_, '_>, framing: Framing, reuse: Reuse, has_more: bool) -> Result<(), Cause> {
        self.on_early_response(ctx, reuse);
        let is_pushed = self.buf.response.fields.values(HeaderId::ContentType).any(is_pushed);
        let wants_body = ctx.client.runtime.wants().response;
        let announced = self.announced_framing(framing, wants_body);
        self.buf.offered.clear();
        if self.buf.response.status == UPGRADE_REQUIRED {
            list_protocols(&self.buf.response.fields, &mut self.buf.offered);
        }
        self.forward_response_head(ctx);
        let Some(body) = Body::new(framing) else {
            if self.send_response_head(ctx, announced)?.is_continue() {
                self.complete_response(ctx, reuse, has_more);
            }
            return Ok(());
        };
        if wants_body && !self.is_client_head() {
            self.reserve_announced(ctx, Side::Upstream, framing)?;
            self.set_response("final head", ResponseState::Body { body, mode: BodyMode::Buffer, reuse, is_pushed });
            return Ok(());
        }
        let framing = client_framing(framing, self.buf.request.version);
        if self.send_response_head(ctx, framing)?.is_continue() {
            if self.is_client_head() || has_no_body(self.buf.response.status) {
                // A plugin made it one that has no place for this body, which may be an endless one.
                self.complete_response(ctx, reuse, true);
            } else {
                let mode = match framing {
                    Framing::None | Framing::Length(_) => BodyMode::Passthrough,
                    Framing::UntilClose => BodyMode::UntilClose,
                    Framing::Chunked => BodyMode::Chunked,
                };
                self.set_response("final head", ResponseState::Body { body, mode, reuse, is_pushed });
            }
        }
        Ok(())
    }

    /// A final response has come, perhaps while the upload runs. Rule G20 and RFC 9112 section 9.5: the rest is not wanted
    /// where an error closes the connection. Any other may be a response to what came so far, from an origin that answers
    /// while it reads; so the upload goes on, also one that waited for `100 Continue`: the client decides.
    fn on_early_response(&mut self, ctx: &Ctx<'_, '_>, reuse: Reuse) {
        let RequestState::Body { .. } = self.request_state else { return };
        if !self.is_upload_wanted(reuse) {
            self.abandon_request();
        } else if self.is_upload_held_back() {
            self.last_activity.client_read = ctx.now();
        }
    }

    fn is_upload_wanted(&self, reuse: Reuse) -> bool {
        self.buf.response.status < 400 || reuse != Reuse::No
    }

    /// The framing that the forwarded head announces. A response without a body may still announce the length of the one
    /// that it does not have (RFC 9110 section 8.6), unless plugins may write that body: nobody knows its length then.
    fn announced_framing(&self, framing: Framing, may_be_rewritten: bool) -> Framing {
        let declared = || {
            let length = self.buf.response.fields.get(HeaderId::ContentLength).filter(|_| !may_be_rewritten);
            length.and_then(parse_decimal)
        };
        match (framing, self.buf.response.status) {
            (Framing::Length(_) | Framing::Chunked | Framing::UntilClose, _) => framing,
            (Framing::None, 204) => Framing::None,
            (Framing::None, _) if self.is_client_head() || self.buf.response.status == 304 => {
                declared().map_or(Framing::None, Framing::Length)
            }
            // A plugin turned the request into a HEAD; its client still waits for a body.
            (Framing::None, _) => Framing::Length(0),
        }
    }

    /// Calls the response hooks; where they let the response pass, its head leaves with `framing`.
    fn send_response_head(&mut self, ctx: &mut Ctx<'_, '_>, framing: Framing) -> Result<ControlFlow<()>, Cause> {
        let runtime = &ctx.client.runtime;
        let wants = runtime.wants();
        let received_status = self.buf.response.status;
        if let Some(hooks) = &runtime.hooks {
            match hooks.on_response(&mut self.hook_view(runtime, HookPhase::Response)) {
                Verdict::Continue => {}
                Verdict::Respond { answer, .. } => {
                    self.send_plugin_response(ctx, &answer);
                    return Ok(ControlFlow::Break(()));
                }
                Verdict::Fail { .. } => return Err(Cause::PluginFailed),
            }
        }
        if self.buf.response.status != received_status {
            self.buf.response.reason.clear();
            self.buf.response.reason.extend_from_slice(reason_phrase(self.buf.response.status).as_bytes());
        }
        // A plugin may turn a status with a body into one without, or the other way round.
        let framing = match (has_no_body(received_status), has_no_body(self.buf.response.status)) {
            (false, true) => Framing::None,
            (true, false) if !self.is_client_head() => Framing::Length(0),
            (true | false, true | false) => framing,
        };
        // Where plugins may write the body, what they left of it is what is sent.
        let is_collected = wants.response
            && !self.is_client_head()
            && !has_no_body(self.buf.response.status)
            && matches!(framing, Framing::Length(_));
        let framing = if is_collected { Framing::Length(self.buf.response_body.len() as u64) } else { framing };
        self.is_persistent &= framing != Framing::UntilClose && !ctx.client.is_draining;
        self.log.status = self.buf.response.status;
        let persistence = self.persistence();
        let protocols = if self.buf.response.status == UPGRADE_REQUIRED { &self.buf.offered[..] } else { b"" };
        write_response_head(&self.buf.response, framing, persistence, protocols, self.buf.to_client.buf());
        if is_collected {
            self.buf.to_client.extend(&self.buf.response_body);
            self.log.bytes_out += self.buf.response_body.len() as u64;
            if self.buf.response_body.len() > KEPT_CAPACITY {
                // The client may take long to read it, and nobody looks at this one any more.
                self.buf.response_body = Vec::new();
                self.reserved.shrink_to(2 * self.buf.request_body.capacity() + self.buf.to_client.capacity());
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes what has arrived of the body. It is queued for the client at once, whole or not: nothing waits for more
    /// (rule G13), but what plugins want to see as one.
    #[inline(never)]
    fn read_response_body(&mut self, ctx: &mut Ctx<'_, '_>, data: &[u8]) -> usize {
        let ResponseState::Body { mode, .. } = self.response_state else { return 0 };
        let limit = ctx.client.runtime.config.plugin_body_limit;
        if mode == BodyMode::Buffer
            && let Err(cause) = self.grow_buffer(ctx, Side::Upstream, data.len())
        {
            self.send_error(ctx, cause);
            return data.len();
        }
        let ResponseState::Body { body, .. } = &mut self.response_state else { return 0 };
        let (count, read) = read_body(body, mode, data, &mut self.buf.response_body, &mut self.buf.to_client);
        if mode != BodyMode::Buffer {
            self.log.bytes_out += count;
        }
        // First, because the bytes up to an error came before it.
        if self.buf.response_body.len() > limit {
            self.send_error(ctx, Cause::ResponseTooLarge);
            return data.len();
        }
        match read {
            Err(error) => {
                self.send_error(ctx, Cause::BadResponse(error));
                data.len()
            }
            Ok((taken, is_complete)) => {
                if is_complete {
                    self.end_response_body(ctx, taken < data.len());
                }
                taken
            }
        }
    }

    /// So many body bytes went to the client unseen.
    pub(super) fn on_response_bypassed(&mut self, ctx: &mut Ctx<'_, '_>, len: u64) {
        self.last_activity.upstream_read = ctx.now();
        self.log.bytes_out += len;
        let ResponseState::Body { body, .. } = &mut self.response_state else { return };
        self.last_activity.client_write = ctx.now();
        if body.bypassed(len) {
            self.end_response_body(ctx, false);
        }
    }

    /// The body is complete. `has_more`: bytes follow it already.
    fn end_response_body(&mut self, ctx: &mut Ctx<'_, '_>, has_more: bool) {
        let ResponseState::Body { body, mode, reuse, .. } = &self.response_state else { return };
        let reuse = *reuse;
        match mode {
            BodyMode::Passthrough | BodyMode::UntilClose => {}
            BodyMode::Chunked => {
                let limits = head_limits(&ctx.client.runtime.config);
                match parse_head(body.trailers(), &limits, &mut self.buf.trailers) {
                    Ok(_) => {
                        self.buf.to_client.extend(LAST_CHUNK);
                        write_trailers(&mut self.buf.trailers, self.buf.to_client.buf());
                    }
                    Err(error) => return self.send_error(ctx, Cause::BadResponse(error)),
                }
            }
            BodyMode::Buffer => {
                match self.send_response_head(ctx, Framing::Length(self.buf.response_body.len() as u64)) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return,
                    Err(cause) => return self.send_error(ctx, cause),
                }
            }
        }
        self.complete_response(ctx, reuse, has_more);
    }

    /// The response is complete: the connection goes back to the pool if both ends of it are clean (rules S14 and S18).
    fn complete_response(&mut self, ctx: &mut Ctx<'_, '_>, reuse: Reuse, has_more: bool) {
        let is_all_read = matches!(self.request_state, RequestState::Done);
        let is_sent = is_all_read && self.buf.to_upstream.is_empty();
        let has_rest = is_all_read || matches!(self.request_state, RequestState::Body { .. });
        if is_sent && reuse != Reuse::No && !has_more {
            if reuse == Reuse::ThisClient {
                ctx.commands.push(Command::Reserve);
                ctx.client.reserved = self.upstream_id(&ctx.client.runtime);
            } else {
                ctx.commands.push(Command::Park);
            }
            self.buf.to_upstream.clear();
            self.set_response("response complete", ResponseState::Done);
        } else if has_rest && !is_sent && !has_more && self.is_upload_wanted(reuse) {
            self.set_response("response complete before the request", ResponseState::Answered);
        } else {
            self.end_upload(ctx);
        }
    }

    /// The response is complete, and no more of the request can or need be passed on. The upstream connection is not used
    /// again: whatever it took for its next request could be the rest of this one (rule S14).
    pub(super) fn end_upload(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.close_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        let is_answered = matches!(self.response_state, ResponseState::Answered);
        let event = if is_answered { "request complete or given up" } else { "response complete" };
        self.set_response(event, ResponseState::Done);
    }

    /// The upstream sends no more.
    pub(super) fn on_upstream_eof(&mut self, ctx: &mut Ctx<'_, '_>) {
        match &self.response_state {
            ResponseState::AwaitHead { .. } => self.on_upstream_lost(ctx),
            ResponseState::Body { body: Body::UntilClose, .. } => self.end_response_body(ctx, false),
            ResponseState::Body { .. } => self.send_error(ctx, Cause::UpstreamTruncated),
            // Its own last write had failed: it did not end, it is gone.
            ResponseState::Tunnel(HalfClose::Open)
                if matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost)) =>
            {
                self.send_error(ctx, Cause::UpstreamTruncated);
            }
            ResponseState::Tunnel(HalfClose::Open) => {
                self.last_activity.upstream_read = ctx.now();
                self.set_response("EOF", ResponseState::Tunnel(HalfClose::EofReceived));
            }
            // In `Answered` it may have closed only its half, and read on; if not, the next write fails.
            _ => {}
        }
    }

    /// The upstream is gone.
    pub(super) fn on_upstream_reset(&mut self, ctx: &mut Ctx<'_, '_>) {
        match &self.response_state {
            ResponseState::AwaitHead { .. } => self.on_upstream_lost(ctx),
            ResponseState::Body { .. } | ResponseState::Tunnel(_) => {
                self.send_error(ctx, Cause::UpstreamTruncated);
            }
            ResponseState::Answered => self.end_upload(ctx),
            _ => {}
        }
    }

    /// The upstream takes no more bytes; it may have answered before it stopped (rule G20).
    pub(super) fn on_upstream_unwritable(&mut self, ctx: &mut Ctx<'_, '_>) {
        match &mut self.response_state {
            ResponseState::Tunnel(_) if matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost)) => {}
            // Rule G11: what it sent before is read, and delivered, first.
            ResponseState::Tunnel(HalfClose::Open) => {
                self.buf.to_upstream.clear();
                self.set_request("upstream takes no more", RequestState::Tunnel(HalfClose::Lost));
                self.last_activity.upstream_read = ctx.now();
            }
            ResponseState::Tunnel(_) => self.send_error(ctx, Cause::UpstreamTruncated),
            ResponseState::AwaitHead { reuse, .. } | ResponseState::Body { reuse, .. } => {
                *reuse = Reuse::No;
                // Not cleared: a stale connection may make us send the same bytes again on another.
                self.buf.to_upstream.consume(self.buf.to_upstream.len());
                if let RequestState::Body { .. } = self.request_state {
                    self.set_request("rest not wanted", RequestState::Discard);
                    self.is_persistent = false;
                }
            }
            ResponseState::Answered => self.end_upload(ctx),
            _ => {}
        }
    }

    /// The connection ended before the response head was complete.
    fn on_upstream_lost(&mut self, ctx: &mut Ctx<'_, '_>) {
        let has_begun = self.log.first_byte.is_some();
        let cause = if has_begun { Cause::UpstreamTruncated } else { Cause::UpstreamReset };
        self.on_attempt_failed(ctx, cause);
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
