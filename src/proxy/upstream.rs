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
use super::choice::Choice;
use super::connection::{Options, has_connection_login, read_options};
use super::downstream::head_limits;
use super::events::ConnectError;
use super::forward::{
    OwnLines, UPGRADE_REQUIRED, client_framing, forward_response, list_protocols, map_response, write_interim_head,
    write_response_head, write_switching_head, write_trailers,
};
use super::hooks::Verdict;
use super::outcome::HookPhase;
use super::transaction::{Downstream, Flow, KEPT_CAPACITY, ResponseSink, Transaction, Upstream, body_step, make_room};
use super::turn::{Release, Turn};
use super::under_prefix::Mapping;
use crate::http::body::Body;
use crate::http::chars::{is_word, list_has, parse_decimal};
use crate::http::chunked::{LAST_CHUNK, write_chunk};
use crate::http::fields::{Classes, Known};
use crate::http::framing::{Framing, has_false_framing, has_no_body, response_framing};
use crate::http::head::{HeadReader, Method, Version, parse_trailers, reason_phrase};

const FRAMING: Classes = Classes::of(&[Known::ContentLength, Known::TransferEncoding]);

/// A 502 for a response that broke a rule.
fn bad_response(violation: impl Into<Violation>) -> Refusal {
    Refusal::new(502, Cause::BadResponse(violation.into()))
}

impl Transaction {
    /// The upstream connection is there.
    pub(super) fn on_connected(&mut self, turn: &mut Turn<'_, '_>, reused: bool) {
        let Upstream::Connecting { .. } = self.up else { return };
        self.up = Upstream::AwaitHead { interim: 0, reader: HeadReader::new() };
        self.record.connected = Some(turn.now());
        self.record.reused = reused;
        self.is_origin_persistent = true;
        self.progress.origin_read = turn.now();
        self.progress.origin_write = turn.now();
    }

    /// There is no upstream connection to be had.
    pub(super) fn on_connect_failed(&mut self, turn: &mut Turn<'_, '_>, error: ConnectError) {
        let Upstream::Connecting { .. } = self.up else { return };
        // Nothing is held any more that could be given back.
        self.up = Upstream::None;
        let (status, cause) = match error {
            ConnectError::DnsFail => (502, Cause::DnsFail),
            ConnectError::Refused => (502, Cause::ConnectRefused),
            ConnectError::TimedOut => (504, Cause::ConnectTimeout),
            ConnectError::Untrusted(distrust) => (502, Cause::TlsUntrusted(distrust)),
            ConnectError::TlsFailed => (502, Cause::TlsFailed),
            ConnectError::Failed => (502, Cause::ConnectFailed),
        };
        // Nothing of the request has left, whatever it is (rule G17).
        if !self.try_another(turn, cause) {
            self.to_origin.clear();
            self.refuse(turn, Refusal::new(status, cause));
        }
    }

    /// Bytes came from the upstream.
    pub(super) fn on_origin_bytes(&mut self, turn: &mut Turn<'_, '_>, data: &[u8]) {
        // A part of a head is no progress: whoever sends one byte now and then would be waited for all day.
        if !matches!(self.up, Upstream::AwaitHead { .. }) {
            self.progress.origin_read = turn.now();
        }
        self.record.first_byte.get_or_insert(turn.now());
        if self.origin_input.is_empty() {
            let taken = self.read_origin(turn, data);
            self.origin_input.extend_from_slice(&data[taken..]);
        } else {
            let mut held = std::mem::take(&mut self.origin_input);
            held.extend_from_slice(data);
            let taken = self.read_origin(turn, &held);
            held.drain(..taken);
            self.origin_input = held;
        }
    }

    fn read_origin(&mut self, turn: &mut Turn<'_, '_>, data: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = &data[taken..];
            match &mut self.up {
                Upstream::AwaitHead { interim, reader } => {
                    let interim = *interim;
                    let limits = head_limits(&turn.client.site.config);
                    match reader.response(rest, &limits, &mut self.response) {
                        Ok(None) => return taken,
                        Ok(Some(len)) => {
                            taken += len;
                            let has_more = taken < data.len();
                            if let Err(refusal) = self.on_response_head(turn, interim, has_more) {
                                self.refuse(turn, refusal);
                            }
                        }
                        Err(error) => self.refuse(turn, bad_response(error)),
                    }
                }
                Upstream::Body { .. } if rest.is_empty() => return taken,
                Upstream::Body { .. } => taken += self.read_response_body(turn, rest),
                // As below: it does not keep to the protocol, and gets no more.
                Upstream::Answered if !rest.is_empty() => self.end_upload(turn),
                Upstream::Answered => return taken,
                Upstream::Tunnel(Flow::Open) => {
                    self.to_client.extend(rest);
                    self.record.bytes_out += rest.len() as u64;
                    return data.len();
                }
                // Bytes behind the end of a response are nobody's; the connection was closed because of them.
                Upstream::Tunnel(Flow::Ended | Flow::Told | Flow::Lost)
                | Upstream::None
                | Upstream::Local
                | Upstream::Connecting { .. }
                | Upstream::Done
                | Upstream::Cut { .. } => return data.len(),
            }
        }
    }

    /// A response head is complete. `has_more`: bytes follow it already.
    // Not inlined into the loop of `read_origin`, as in `downstream`.
    #[inline(never)]
    fn on_response_head(&mut self, turn: &mut Turn<'_, '_>, interim: u32, has_more: bool) -> Result<(), Refusal> {
        self.progress.origin_read = turn.now();
        self.note_answer(turn);
        let options = read_options(&self.response.fields, &mut self.scratch.nominated)
            .map_err(|_| bad_response(Violation::TOO_MANY_OPTIONS))?;
        let to_head = self.request.method == Method::Head;
        let framing = response_framing(&self.response, to_head).map_err(bad_response)?;
        if framing == Framing::None && has_false_framing(&self.response, to_head) {
            // Rule S18: read as what it is, but whatever comes behind it is not believed.
            self.is_origin_persistent = false;
            self.response.fields.remove_classes(FRAMING);
        }
        match self.response.status {
            101 => self.switch_protocols(turn, options),
            100..200 => self.on_interim(turn, interim),
            _ => {
                self.is_origin_persistent &= options.is_persistent(self.response.version);
                self.on_final(turn, framing, has_more)
            }
        }
    }

    /// The received head becomes the one that leaves, whatever its status.
    fn forward_response_head(&mut self, turn: &mut Turn<'_, '_>) {
        let own_lines = OwnLines::of(&turn.client.site);
        forward_response(&mut self.response, &self.scratch.nominated, own_lines, &turn.env.now.date);
        if let Some(plan) = self.plan {
            let route = &turn.client.site.config.routes[plan.route as usize];
            let upstream = Choice::upstream(self.choice.as_ref(), route);
            let (site, request) = (&turn.client.site, &self.request);
            match map_response(&mut self.response, request, site, plan.route, upstream, &mut self.scratch) {
                Mapping::Done => {}
                Mapping::TooLarge => turn.env.observer.left_unmapped(&route.prefix, turn.env.now.instant),
            }
        }
    }

    /// Rule G9: passed on in order, but never to an HTTP/1.0 client, and not without end.
    fn on_interim(&mut self, turn: &mut Turn<'_, '_>, interim: u32) -> Result<(), Refusal> {
        if interim >= turn.client.site.config.limits.max_interim_responses {
            return Err(bad_response(Violation::TOO_MANY_INTERIM));
        }
        self.up = Upstream::AwaitHead { interim: interim + 1, reader: HeadReader::new() };
        if self.response.status == 100
            && let Some(plan) = &mut self.plan
        {
            // From now on the client is the one who is waited for.
            plan.expects_continue = false;
            self.progress.client_read = turn.now();
        }
        if self.request.version == Version::Http11 {
            self.forward_response_head(turn);
            write_interim_head(&self.response, self.to_client.buf());
        }
        Ok(())
    }

    /// Rule G14: only what was asked for, and only one of what was offered.
    fn switch_protocols(&mut self, turn: &mut Turn<'_, '_>, options: Options) -> Result<(), Refusal> {
        let mut protocols = self.response.fields.values(Known::Upgrade);
        let protocol = match (protocols.next(), protocols.next(), options.upgrade) {
            (Some(protocol), None, true) => protocol.to_vec(),
            (None | Some(_), _, _) => return Err(bad_response(Violation::OTHER_PROTOCOL)),
        };
        drop(protocols);
        if !list_has(&self.offered, &protocol) {
            return Err(bad_response(Violation::OTHER_PROTOCOL));
        }
        self.forward_response_head(turn);
        write_switching_head(&self.response, &protocol, self.to_client.buf());
        self.record.status = 101;
        self.is_persistent = false;
        self.up = Upstream::Tunnel(Flow::Open);
        self.down = Downstream::Tunnel(Flow::Open);
        // Bytes that came early were held until now; they belong to the new protocol.
        self.read_held(turn);
        Ok(())
    }

    fn on_final(&mut self, turn: &mut Turn<'_, '_>, framing: Framing, has_more: bool) -> Result<(), Refusal> {
        // A close-delimited body takes its connection with it.
        self.is_origin_persistent &= framing != Framing::UntilClose;
        self.has_login |= has_connection_login(&self.response.fields, Known::WwwAuthenticate);
        self.judge_upload(turn);
        self.is_pushed = self.response.fields.values(Known::ContentType).any(is_pushed);
        let announced = self.announced_framing(framing, turn.client.site.wants().response);
        self.offered.clear();
        if self.response.status == UPGRADE_REQUIRED {
            list_protocols(&self.response.fields, &mut self.offered);
        }
        self.forward_response_head(turn);
        match Body::new(framing) {
            Some(body) if turn.client.site.wants().response && !self.is_client_head() => {
                let limit = turn.client.site.config.plugin_body_limit;
                if let Framing::Length(len) = framing {
                    self.reserve(turn.env.spares.bodies(), 0, usize::try_from(len).unwrap_or(limit).min(limit))?;
                }
                self.up = Upstream::Body { body, sink: ResponseSink::Collect };
            }
            Some(body) => {
                let framing = client_framing(framing, self.request.version);
                if self.respond(turn, framing)?.is_continue() {
                    if self.is_client_head() || has_no_body(self.response.status) {
                        // A plugin made it one that has no place for this body, which may be an endless one.
                        self.complete_response(turn, true);
                    } else {
                        self.up = Upstream::Body { body, sink: sink_for(framing) };
                    }
                }
            }
            None => {
                if self.respond(turn, announced)?.is_continue() {
                    self.complete_response(turn, has_more);
                }
            }
        }
        Ok(())
    }

    /// A final response has come, perhaps while the upload runs. Rule G20 and RFC 9112 section 9.5: the rest is not wanted
    /// where an error closes the connection. Any other may be an answer to what came so far, from an origin that answers
    /// while it reads; so the upload goes on, also one that waited for `100 Continue`: the client decides.
    fn judge_upload(&mut self, turn: &Turn<'_, '_>) {
        let Downstream::Body { .. } = self.down else { return };
        if !self.is_upload_wanted() {
            self.abandon_request();
        } else if self.is_upload_held_back() {
            self.progress.client_read = turn.now();
        }
    }

    fn is_upload_wanted(&self) -> bool {
        self.response.status < 400 || self.is_origin_persistent
    }

    /// The framing that the forwarded head announces. A response without a body may still announce the length of the one
    /// that it does not have (RFC 9110 section 8.6), unless plugins may write that body: nobody knows its length then.
    fn announced_framing(&self, framing: Framing, may_be_rewritten: bool) -> Framing {
        let declared = || {
            let length = self.response.fields.first(Known::ContentLength).filter(|_| !may_be_rewritten);
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
    fn respond(&mut self, turn: &mut Turn<'_, '_>, framing: Framing) -> Result<ControlFlow<()>, Refusal> {
        let site = &turn.client.site;
        let wants = site.wants();
        let received_status = self.response.status;
        if let Some(hooks) = &site.hooks {
            match hooks.on_response(&mut self.view(site, HookPhase::Response)) {
                Verdict::Continue => {}
                Verdict::Respond { answer, .. } => {
                    self.answer_for_plugin(turn, &answer);
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
        self.is_persistent &= framing != Framing::UntilClose && !turn.client.is_draining;
        self.record.status = self.response.status;
        let persistence = self.persistence();
        let protocols = if self.response.status == UPGRADE_REQUIRED { &self.offered[..] } else { b"" };
        write_response_head(&self.response, framing, persistence, protocols, self.to_client.buf());
        if is_collected {
            self.to_client.extend(&self.response_body);
            self.record.bytes_out += self.response_body.len() as u64;
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
    fn read_response_body(&mut self, turn: &mut Turn<'_, '_>, data: &[u8]) -> usize {
        let Upstream::Body { sink, .. } = &self.up else { return 0 };
        let sink = *sink;
        if sink == ResponseSink::Collect {
            let limit = turn.client.site.config.plugin_body_limit;
            let most = body_step(self.response_body.len() + data.len(), self.response_body.capacity(), limit);
            if let Err(refusal) = self.reserve(turn.env.spares.bodies(), 0, most) {
                self.refuse(turn, refusal);
                return data.len();
            }
            make_room(&mut self.response_body, data.len(), most);
        }
        let Upstream::Body { body, .. } = &mut self.up else { return 0 };
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
            ResponseSink::Verbatim | ResponseSink::UntilClose | ResponseSink::Chunked => self.record.bytes_out += count,
        }
        match read {
            // First, because the bytes up to an error came before it.
            Ok(_) | Err(_) if self.response_body.len() > turn.client.site.config.plugin_body_limit => {
                self.refuse(turn, Refusal::new(502, Cause::BodyTooLarge));
                data.len()
            }
            Err(error) => {
                self.refuse(turn, bad_response(error));
                data.len()
            }
            Ok((taken, true)) => {
                self.end_response_body(turn, taken < data.len());
                taken
            }
            Ok((taken, false)) => taken,
        }
    }

    /// So many body bytes went to the client unseen.
    pub(super) fn on_response_relayed(&mut self, turn: &mut Turn<'_, '_>, len: u64) {
        self.progress.origin_read = turn.now();
        self.progress.client_write = turn.now();
        self.record.bytes_out += len;
        let Upstream::Body { body, .. } = &mut self.up else { return };
        if body.relayed(len) {
            self.end_response_body(turn, false);
        }
    }

    /// The body is complete. `has_more`: bytes follow it already.
    fn end_response_body(&mut self, turn: &mut Turn<'_, '_>, has_more: bool) {
        let Upstream::Body { body, sink } = &self.up else { return };
        match sink {
            ResponseSink::Verbatim | ResponseSink::UntilClose => {}
            ResponseSink::Chunked => {
                let limits = head_limits(&turn.client.site.config);
                match parse_trailers(body.trailers(), &limits, &mut self.trailers) {
                    Ok(_) => {
                        self.to_client.extend(LAST_CHUNK);
                        write_trailers(&mut self.trailers, self.to_client.buf());
                    }
                    Err(error) => return self.refuse(turn, bad_response(error)),
                }
            }
            ResponseSink::Collect => match self.respond(turn, Framing::Length(self.response_body.len() as u64)) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(refusal) => return self.refuse(turn, refusal),
            },
        }
        self.complete_response(turn, has_more);
    }

    /// The response is complete: the connection goes back to the pool if both ends of it are clean (rules S14 and S18).
    fn complete_response(&mut self, turn: &mut Turn<'_, '_>, has_more: bool) {
        let is_all_read = matches!(self.down, Downstream::Done);
        let is_sent = is_all_read && self.to_origin.is_empty();
        let has_rest = is_all_read || matches!(self.down, Downstream::Body { .. });
        if is_sent && self.is_origin_persistent && !has_more {
            self.release_upstream(turn, if self.has_login { Release::Reserve } else { Release::Park });
            if let (true, Some(plan)) = (self.has_login, self.plan) {
                turn.client.reserved = Some(self.upstream_id(&turn.client.site, plan.route));
            }
            self.up = Upstream::Done;
        } else if has_rest && !is_sent && !has_more && self.is_upload_wanted() {
            self.up = Upstream::Answered;
        } else {
            self.end_upload(turn);
        }
    }

    /// The upstream sends no more.
    pub(super) fn on_origin_eof(&mut self, turn: &mut Turn<'_, '_>) {
        match &self.up {
            Upstream::AwaitHead { .. } => self.lose_upstream(turn),
            Upstream::Body { body: Body::UntilClose, .. } => self.end_response_body(turn, false),
            Upstream::Body { .. } => self.refuse(turn, Refusal::new(502, Cause::UpstreamTruncated)),
            // Its own last write had failed: it did not end, it is gone.
            Upstream::Tunnel(Flow::Open) if matches!(self.down, Downstream::Tunnel(Flow::Lost)) => {
                self.refuse(turn, Refusal::new(502, Cause::UpstreamTruncated));
            }
            Upstream::Tunnel(Flow::Open) => {
                self.progress.origin_read = turn.now();
                self.up = Upstream::Tunnel(Flow::Ended);
            }
            // It may have closed only its half, and read on; if not, the next write fails.
            Upstream::Answered
            | Upstream::Tunnel(Flow::Ended | Flow::Told | Flow::Lost)
            | Upstream::None
            | Upstream::Local
            | Upstream::Connecting { .. }
            | Upstream::Done
            | Upstream::Cut { .. } => {}
        }
    }

    /// The upstream is gone.
    pub(super) fn on_origin_reset(&mut self, turn: &mut Turn<'_, '_>) {
        match &self.up {
            Upstream::AwaitHead { .. } => self.lose_upstream(turn),
            Upstream::Body { .. } | Upstream::Tunnel(_) => {
                self.refuse(turn, Refusal::new(502, Cause::UpstreamTruncated));
            }
            Upstream::Answered => self.end_upload(turn),
            Upstream::None | Upstream::Local | Upstream::Connecting { .. } | Upstream::Done | Upstream::Cut { .. } => {}
        }
    }

    /// The upstream takes no more bytes; it may have answered before it stopped (rule G20).
    pub(super) fn on_origin_unwritable(&mut self, turn: &mut Turn<'_, '_>) {
        match self.up {
            // Rule G11: what it sent before is read, and delivered, first.
            Upstream::Tunnel(Flow::Open) => {
                self.to_origin.clear();
                self.down = Downstream::Tunnel(Flow::Lost);
                self.progress.origin_read = turn.now();
            }
            Upstream::Tunnel(_) => self.refuse(turn, Refusal::new(502, Cause::UpstreamTruncated)),
            Upstream::AwaitHead { .. } | Upstream::Body { .. } => {
                // Not cleared: a stale connection may make us send the same bytes again on another.
                self.to_origin.consume(self.to_origin.len());
                self.is_origin_persistent = false;
                if let Downstream::Body { .. } = self.down {
                    self.down = Downstream::Discard;
                    self.is_persistent = false;
                }
            }
            Upstream::Answered => self.end_upload(turn),
            Upstream::None | Upstream::Local | Upstream::Connecting { .. } | Upstream::Done | Upstream::Cut { .. } => {}
        }
    }

    /// The connection ended before a response began. Rule G17: a connection from the pool may just have been stale, and
    /// a request that may be repeated is sent once more on a fresh one, provided that none of its body is gone (rule G18).
    /// A fresh one that ends so is a failure of the upstream; the request goes to another one, if the route has one.
    fn lose_upstream(&mut self, turn: &mut Turn<'_, '_>) {
        let has_begun = self.record.first_byte.is_some();
        let may_repeat = !has_begun
            && !self.has_upload_begun
            && !matches!(self.down, Downstream::Discard)
            && self.request.method.is_idempotent();
        let is_stale = self.record.reused && self.record.retries == 0;
        if may_repeat && is_stale {
            turn.commands.release(Release::Close);
            self.record.retries += 1;
            self.to_origin.rewind();
            return self.ask_for_connection(turn, true);
        }
        if !has_begun && !is_stale {
            let may_go_on = may_repeat && self.choice.as_mut().is_some_and(Choice::may_lose_another);
            if may_go_on {
                turn.commands.release(Release::Close);
                self.to_origin.rewind();
                if self.try_another(turn, Cause::UpstreamReset) {
                    return;
                }
            } else {
                self.note_failure(turn, Cause::UpstreamReset);
            }
        }
        let cause = if has_begun { Cause::UpstreamTruncated } else { Cause::UpstreamReset };
        self.refuse(turn, Refusal::new(502, cause));
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
