//! The upstream's side: interim responses, the final response, its body. Its states are [`ResponseState`]; how a connection
//! is asked for, and again, is in `retry`.

use super::cause::Cause;
use super::connection::{Options, has_connection_login, read_options};
use super::context::Context;
use super::events::{CloseMode, Command, ConnectError, Side};
use super::forward::{
    Persistence, UPGRADE_REQUIRED, edit_fields, forward_response, list_protocols, rewrite_response_head,
    write_response_head, write_trailers,
};
use super::hooks::Phase;
use super::memory::{Buffers, KEPT_CAPACITY};
use super::outcome::HookResult;
use super::request_log::ResponseSource;
use super::request_side::{head_limits, read_body, write_body};
use super::state::{BodyMode, HalfClose, ReceivedHead, RequestState, ResponseState, Reuse, Suspended, Transaction};
use crate::http::body::Body;
use crate::http::chars::{is_word, list_has, parse_decimal};
use crate::http::chunked::LAST_CHUNK;
use crate::http::error::HttpError;
use crate::http::fields::HeaderId;
use crate::http::framing::{FRAMING, Framing, response_framing};
use crate::http::head::{HeadParser, Method, Version, parse_head, reason_phrase};

impl Transaction {
    /// The upstream connection is there.
    pub(super) fn on_connected(&mut self, ctx: &mut Context<'_, '_>, reused: bool) {
        let ResponseState::Connecting { .. } = self.response_state else { return };
        let has_login = has_connection_login(&self.buf.request.fields, HeaderId::Authorization);
        let reuse = if has_login { Reuse::LoginBound } else { Reuse::Shared };
        self.set_response("connected", ResponseState::AwaitHead { interim: 0, reuse, parser: HeadParser::default() });
        self.log.connected = Some(ctx.now());
        self.log.reused = reused;
        self.last_activity.upstream_read = ctx.now();
        self.last_activity.upstream_write = ctx.now();
    }

    /// There is no upstream connection to be had.
    pub(super) fn on_connect_failed(&mut self, ctx: &mut Context<'_, '_>, error: ConnectError) {
        let ResponseState::Connecting { .. } = self.response_state else { return };
        self.set_response("connect failed", ResponseState::None);
        self.on_attempt_failed(ctx, Cause::Connect(error));
    }

    /// Reads as far as the state allows and says how far that was.
    pub(super) fn read_upstream(&mut self, ctx: &mut Context<'_, '_>, data: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = &data[taken..];
            let result = match &mut self.response_state {
                ResponseState::AwaitHead { interim, reuse, parser } => {
                    let (interim, reuse) = (*interim, *reuse);
                    let limits = head_limits(&ctx.client.runtime.config);
                    match parser.read(rest, &limits, &mut self.buf.response) {
                        Ok(None) => return taken,
                        Ok(Some(len)) => self.on_response_head(ctx, interim, reuse).map(|()| len),
                        Err(error) => Err(Cause::BadResponse(error)),
                    }
                }
                ResponseState::Body { .. } | ResponseState::AwaitUpload if rest.is_empty() => return taken,
                ResponseState::Paused { next: Suspended::Response { .. }, .. } => return taken,
                ResponseState::Body { .. } => self.read_response_body(ctx, rest),
                ResponseState::Tunnel(HalfClose::Open) => {
                    self.buf.to_client.extend(rest);
                    self.log.bytes_out += rest.len() as u64;
                    return data.len();
                }
                // Bytes after the end of a response belong to no request. An upstream that does not keep to the protocol gets no
                // more, and its connection is closed.
                ResponseState::AwaitUpload => {
                    self.end_upload(ctx);
                    return data.len();
                }
                _ if rest.is_empty() => return taken,
                _ => {
                    ctx.client.commands.on_surplus();
                    return data.len();
                }
            };
            match result {
                Ok(len) => taken += len,
                Err(cause) => self.send_error(ctx, cause),
            }
        }
    }

    /// A response head is complete.
    // Not inlined into the loop of `read_upstream`, which would prepare all of it before its first round.
    #[inline(never)]
    fn on_response_head(&mut self, ctx: &mut Context<'_, '_>, interim: u32, mut reuse: Reuse) -> Result<(), Cause> {
        self.last_activity.upstream_read = ctx.now();
        self.record_success(ctx);
        let Buffers { request, response, scratch, .. } = &mut self.buf;
        let options = read_options(&response.fields, &mut scratch.connection_named).map_err(Cause::BadResponse)?;
        let to_head = request.method == Method::Head;
        let (framing, is_false) = response_framing(response, to_head).map_err(Cause::BadResponse)?;
        if is_false {
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
                    reuse = Reuse::LoginBound;
                }
                self.on_final(ctx, framing, reuse)
            }
        }
    }

    /// The received head becomes the one that leaves, whatever its status.
    fn forward_response_head(&mut self, ctx: &mut Context<'_, '_>) {
        forward_response(&mut self.buf.response, &self.buf.scratch.connection_named, &ctx.worker.now.date);
        let runtime = &ctx.client.runtime;
        let (Some(index), Some(upstream)) = (self.route_index, self.upstream(runtime)) else { return };
        let Buffers { request, response, scratch, .. } = &mut self.buf;
        if !rewrite_response_head(response, request, runtime, index, upstream, scratch) {
            let route = runtime.config.routes[index as usize].name();
            ctx.worker.observer.left_unmapped(&route, ctx.worker.now.instant);
        }
    }

    /// Rule G9: passed on in order, but never to an HTTP/1.0 client, and not without end.
    fn on_interim(&mut self, ctx: &mut Context<'_, '_>, interim: u32, reuse: Reuse) -> Result<(), Cause> {
        if interim >= ctx.client.runtime.config.limits.max_interim_responses {
            return Err(Cause::BadResponse(HttpError::TooManyInterim));
        }
        self.set_response(
            "1xx",
            ResponseState::AwaitHead { interim: interim + 1, reuse, parser: HeadParser::default() },
        );
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
    fn switch_protocols(&mut self, ctx: &mut Context<'_, '_>, options: Options) -> Result<(), Cause> {
        let mut protocols = self.buf.response.fields.values(HeaderId::Upgrade);
        let protocol = protocols.next().filter(|protocol| options.upgrade && list_has(&self.buf.offered, protocol));
        let (Some(protocol), None) = (protocol.map(<[u8]>::to_vec), protocols.next()) else {
            return Err(Cause::BadResponse(HttpError::OtherProtocol));
        };
        drop(protocols);
        self.forward_response_head(ctx);
        let edits = self.response_headers(&ctx.client.runtime);
        edit_fields(&mut self.buf.response.fields, edits);
        let persistence = Persistence::KeepAlive(Version::Http11);
        write_response_head(&self.buf.response, Framing::None, persistence, &protocol, self.buf.to_client.buf());
        self.log.status = 101;
        self.log.source = Some(ResponseSource::Upstream);
        self.is_persistent = false;
        self.set_response("101", ResponseState::Tunnel(HalfClose::Open));
        self.set_request("101", RequestState::Tunnel(HalfClose::Open));
        // Bytes that came early were held until now; they belong to the new protocol.
        self.on_bytes(ctx, Side::Client, &[]);
        Ok(())
    }

    fn on_final(&mut self, ctx: &mut Context<'_, '_>, framing: Framing, reuse: Reuse) -> Result<(), Cause> {
        // Rule G20 and RFC 9112 section 9.5: of an upload that runs the rest is not wanted where an error closes the
        // connection. Any other response may be one to what came so far, from an upstream that answers while it reads; so the
        // upload goes on, also one that waited for `100 Continue`: the client decides.
        if let RequestState::Body { .. } = self.request_state {
            if !self.is_upload_wanted(reuse) {
                self.abandon_request();
            } else if self.is_upload_held_back() {
                self.last_activity.client_read = ctx.now();
            }
        }
        let fields = &self.buf.response.fields;
        let is_pushed = fields.values(HeaderId::ContentType).any(is_pushed);
        let declared = fields.get(HeaderId::ContentLength).filter(|_| framing == Framing::None).and_then(parse_decimal);
        self.buf.offered.clear();
        if self.buf.response.status == UPGRADE_REQUIRED {
            list_protocols(fields, &mut self.buf.offered);
        }
        let is_early = !matches!(self.request_state, RequestState::Done) || !self.buf.to_upstream.is_empty();
        self.received = ReceivedHead { status: self.buf.response.status, framing, declared, is_early };
        let limit = ctx.client.runtime.config.plugin_body_limit as u64;
        self.response_too_large = matches!(framing, Framing::Length(len) if len > limit);
        self.forward_response_head(ctx);
        self.log.source = Some(ResponseSource::Upstream);
        let body = Body::new(framing).unwrap_or(Body::NOTHING);
        self.log.has_response_body = !body.is_nothing() && !self.is_client_head();
        self.set_response("final head", ResponseState::Body { body, mode: BodyMode::Buffer, reuse, is_pushed });
        if self.buf.chain.is_some() {
            return self.pass_response(ctx);
        }
        self.start_response(ctx);
        Ok(())
    }

    /// Calls the response hooks, from where they stopped; where all of them let the response pass, it is sent.
    pub(super) fn pass_response(&mut self, ctx: &mut Context<'_, '_>) -> Result<(), Cause> {
        match self.pass_hooks(ctx, Phase::Response)? {
            HookResult::Passed => self.start_response(ctx),
            HookResult::AwaitBody => {
                if let Framing::Length(len) = self.received.framing {
                    self.reserve_body(ctx, Side::Upstream, len as usize, false)?;
                }
            }
            HookResult::Stopped => {}
        }
        Ok(())
    }

    /// The head of the response leaves, and what was buffered of its body.
    #[inline(always)]
    fn start_response(&mut self, ctx: &mut Context<'_, '_>) {
        let ResponseState::Body { body, reuse, .. } = &self.response_state else { return };
        let (is_whole, reuse) = (body.is_nothing(), *reuse);
        self.send_response_head(ctx, is_whole);
        if is_whole {
            self.complete_response(ctx, reuse);
        } else if !self.gets_body(self.buf.response.status) {
            // A plugin has made it one that has no place for this body, which may be an endless one.
            self.end_upload(ctx);
        }
    }

    fn is_upload_wanted(&self, reuse: Reuse) -> bool {
        self.buf.response.status < 400 || reuse != Reuse::No
    }

    /// The framing that the client gets for a response, after hooks have changed its status or written its body. `is_whole`: what
    /// there is of the body is here.
    fn client_framing(&self, is_whole: bool) -> Framing {
        let ReceivedHead { framing: received, declared, status: received_status, .. } = self.received;
        match (received, self.buf.response.status) {
            (_, 204) => Framing::None,
            // A response without a body may announce the length of the one that it does not have (RFC 9110 section 8.6),
            // unless plugins may write that body: nobody knows its length then. Nor is it known of a 304 that a plugin made what
            // a 200 would have.
            (Framing::None, status) if !self.gets_body(status) => {
                let is_known = !self.may_write_response_body() && (status == received_status || status != 304);
                declared.filter(|_| is_known).map_or(Framing::None, Framing::Length)
            }
            (_, 304) => Framing::None,
            // That is 0 where a plugin turned the request into a HEAD, or the status into one with a body: the client waits for
            // one.
            (_, status) if is_whole && self.gets_body(status) => Framing::Length(self.buf.response_body.len() as u64),
            (Framing::None, _) => Framing::Length(0),
            (Framing::Length(_), _) => received,
            // A close-delimited body becomes chunked, so that the client can tell its end from a truncated one (rule G11) and
            // keeps its connection.
            (Framing::Chunked | Framing::UntilClose, _) => match self.buf.request.version {
                Version::Http11 => Framing::Chunked,
                Version::Http10 => Framing::UntilClose,
            },
        }
    }

    /// Queues the head of the response, and what was buffered of its body.
    fn send_response_head(&mut self, ctx: &mut Context<'_, '_>, is_whole: bool) {
        let status = self.buf.response.status;
        if status != self.received.status {
            self.buf.response.reason.clear();
            self.buf.response.reason.extend_from_slice(reason_phrase(status).as_bytes());
        }
        let framing = self.client_framing(is_whole);
        self.is_persistent &= framing != Framing::UntilClose && !ctx.client.is_draining;
        self.log.status = status;
        let (persistence, gets_body) = (self.persistence(), self.gets_body(status));
        let edits = self.response_headers(&ctx.client.runtime);
        let Buffers { request_body, response, response_body, offered, to_client, .. } = &mut self.buf;
        edit_fields(&mut response.fields, edits);
        let protocols = if status == UPGRADE_REQUIRED { &offered[..] } else { b"" };
        write_response_head(response, framing, persistence, protocols, to_client.buf());
        let streaming = if framing == Framing::Chunked { BodyMode::Chunked } else { BodyMode::Passthrough };
        if let ResponseState::Body { mode, .. } = &mut self.response_state {
            *mode = streaming;
        }
        if gets_body && !response_body.is_empty() {
            write_body(streaming, response_body, to_client);
            self.log.bytes_out += response_body.len() as u64;
            if response_body.len() > KEPT_CAPACITY || !is_whole {
                // The client may take long to read it, and nobody looks at this one any more.
                *response_body = Vec::new();
                self.reserved.shrink_to(2 * request_body.capacity() + to_client.capacity());
            }
        }
    }

    /// Takes what has arrived of the body. It is queued for the client at once, whole or not: nothing waits for more
    /// (rule G13), but what plugins want to see as one.
    #[inline(never)]
    fn read_response_body(&mut self, ctx: &mut Context<'_, '_>, data: &[u8]) -> Result<usize, Cause> {
        let ResponseState::Body { mode, .. } = self.response_state else { return Ok(data.len()) };
        let mut data = data;
        if mode == BodyMode::Buffer {
            data = self.fit_body(ctx, Side::Upstream, data)?;
        }
        let ResponseState::Body { body, .. } = &mut self.response_state else { return Ok(data.len()) };
        let (count, read) = read_body(body, mode, data, &mut self.buf.response_body, &mut self.buf.to_client);
        if mode != BodyMode::Buffer {
            self.log.bytes_out += count;
        }
        let (taken, is_complete) = read.map_err(Cause::BadResponse)?;
        if is_complete {
            self.end_response_body(ctx)?;
        } else if mode == BodyMode::Buffer && self.buf.response_body.len() > ctx.client.runtime.config.plugin_body_limit
        {
            self.response_too_large = true;
            self.pass_response(ctx)?;
        }
        Ok(taken)
    }

    pub(super) fn end_response_body(&mut self, ctx: &mut Context<'_, '_>) -> Result<(), Cause> {
        let ResponseState::Body { body, mode, reuse, .. } = &mut self.response_state else { return Ok(()) };
        match mode {
            BodyMode::Passthrough => {}
            BodyMode::Chunked => {
                let limits = head_limits(&ctx.client.runtime.config);
                parse_head(body.trailers(), &limits, &mut self.buf.trailers).map_err(Cause::BadResponse)?;
                self.buf.to_client.extend(LAST_CHUNK);
                write_trailers(&mut self.buf.trailers, &self.buf.scratch.connection_named, self.buf.to_client.buf());
            }
            BodyMode::Buffer => {
                *body = Body::NOTHING;
                return self.pass_response(ctx);
            }
        }
        let reuse = *reuse;
        self.complete_response(ctx, reuse);
        Ok(())
    }

    /// The response is complete: the connection goes back to the pool if both ends of it are clean (rules S14 and S18).
    fn complete_response(&mut self, ctx: &mut Context<'_, '_>, reuse: Reuse) {
        let has_rest = match self.request_state {
            RequestState::Done => !self.buf.to_upstream.is_empty(),
            RequestState::Body { .. } => true,
            _ => false,
        };
        if !self.received.is_early && reuse != Reuse::No {
            let is_login_bound = reuse == Reuse::LoginBound;
            if is_login_bound {
                ctx.client.details.get_or_insert_default().login_upstream = self.upstream_id(&ctx.client.runtime);
            }
            ctx.client.commands.push(Command::Release { is_login_bound });
            self.buf.to_upstream.clear();
            self.set_response("response complete", ResponseState::Done);
        } else if has_rest && self.is_upload_wanted(reuse) {
            self.set_response("response complete before the request", ResponseState::AwaitUpload);
        } else {
            self.end_upload(ctx);
        }
    }

    /// The response is complete, and no more of the request can or need be passed on. The upstream connection is not used
    /// again: whatever it took for its next request could be the rest of this one (rule S14).
    pub(super) fn end_upload(&mut self, ctx: &mut Context<'_, '_>) {
        self.close_upstream(ctx, CloseMode::Close);
        self.abandon_request();
        self.set_response("response complete", ResponseState::Done);
    }

    /// The upstream sends no more. `is_reset`: it takes no more, either.
    pub(super) fn on_upstream_end(&mut self, ctx: &mut Context<'_, '_>, is_reset: bool) {
        let result = match &self.response_state {
            ResponseState::AwaitHead { .. } => {
                let has_begun = self.log.first_byte.is_some();
                let cause = if has_begun { Cause::UpstreamTruncated } else { Cause::UpstreamReset };
                return self.on_attempt_failed(ctx, cause);
            }
            ResponseState::Body { body: Body::UntilClose, .. } if !is_reset => self.end_response_body(ctx),
            // One whose own last write had failed did not end, it is gone.
            ResponseState::Tunnel(HalfClose::Open)
                if !is_reset && !matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost)) =>
            {
                self.last_activity.upstream_read = ctx.now();
                self.set_response("EOF", ResponseState::Tunnel(HalfClose::EofReceived));
                Ok(())
            }
            ResponseState::Body { .. } | ResponseState::Tunnel(HalfClose::Open) => Err(Cause::UpstreamTruncated),
            ResponseState::Tunnel(_) if is_reset => Err(Cause::UpstreamTruncated),
            // Without a reset it may have closed only its half, and read on; if not, the next write fails.
            ResponseState::AwaitUpload if is_reset => return self.end_upload(ctx),
            _ => return,
        };
        if let Err(cause) = result {
            self.send_error(ctx, cause);
        }
    }

    /// The upstream takes no more bytes; it may have answered before it stopped (rule G20).
    pub(super) fn on_upstream_unwritable(&mut self, ctx: &mut Context<'_, '_>) {
        match &mut self.response_state {
            ResponseState::Tunnel(_) if matches!(self.request_state, RequestState::Tunnel(HalfClose::Lost)) => {}
            // Rule G11: what it sent before is read, and delivered, first.
            ResponseState::Tunnel(HalfClose::Open) => {
                self.buf.to_upstream.clear();
                self.set_request("upstream takes no more", RequestState::Tunnel(HalfClose::Lost));
                self.last_activity.upstream_read = ctx.now();
            }
            ResponseState::Tunnel(_) => self.send_error(ctx, Cause::UpstreamTruncated),
            ResponseState::AwaitHead { reuse, .. }
            | ResponseState::Body { reuse, .. }
            | ResponseState::Paused { next: Suspended::Response { reuse, .. }, .. } => {
                *reuse = Reuse::No;
                // Not cleared: a stale connection may make us send the same bytes again on another.
                self.buf.to_upstream.consume(self.buf.to_upstream.len());
                if let RequestState::Body { .. } = self.request_state {
                    self.set_request("rest not wanted", RequestState::Discard);
                    self.is_persistent = false;
                }
            }
            ResponseState::AwaitUpload => self.end_upload(ctx),
            _ => {}
        }
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
