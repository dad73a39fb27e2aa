//! How an exchange ends: answers of our own, cuts, clients that leave, and the hooks that look on.

use std::time::Duration;

use super::cause::{Cause, Refusal};
use super::choice::Choice;
use super::events::AccessRecord;
use super::forward::Persistence;
use super::hooks::{Answer, HookView};
use super::local::{Envelope, write_answer, write_refusal};
use super::site::Site;
use super::transaction::{Downstream, Ending, Flow, ResponseSink, Transaction, Upstream};
use super::turn::{Release, Turn};
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
    pub(super) fn write_local(
        &mut self,
        turn: &Turn<'_, '_>,
        status: u16,
        write: impl FnOnce(&Envelope<'_>, &mut Vec<u8>) -> u64,
    ) {
        self.up = Upstream::Local;
        self.record.status = status;
        self.is_persistent &= !turn.client.is_draining;
        let envelope =
            Envelope { date: &turn.env.now.date, persistence: self.persistence(), to_head: self.is_client_head() };
        self.record.bytes_out += write(&envelope, self.to_client.buf());
    }

    /// Answers with an error; where an answer has begun already, cuts it.
    #[cold]
    pub(super) fn refuse(&mut self, turn: &mut Turn<'_, '_>, refusal: Refusal) {
        self.record.blame(refusal.cause);
        if let Upstream::Answered = self.up {
            return self.end_upload(turn);
        }
        if self.has_answered() {
            return self.cut(turn);
        }
        self.release_upstream(turn, Release::Close);
        self.abandon_request();
        self.write_local(turn, refusal.status, |envelope, out| write_refusal(&refusal, envelope, out));
    }

    /// A plugin answers in the upstream's place.
    pub(super) fn answer_for_plugin(&mut self, turn: &mut Turn<'_, '_>, answer: &Answer) {
        self.record.blame(Cause::PluginAnswered);
        self.release_upstream(turn, Release::Close);
        self.abandon_request();
        self.write_local(turn, answer.status, |envelope, out| write_answer(answer, envelope, out));
    }

    /// Nothing more of the request is wanted. Where it is incomplete, the connection cannot serve another.
    pub(super) fn abandon_request(&mut self) {
        match self.down {
            Downstream::Done => {}
            Downstream::Head { .. } | Downstream::Body { .. } | Downstream::Discard | Downstream::Tunnel(_) => {
                self.down = Downstream::Discard;
                self.is_persistent = false;
                self.to_origin.clear();
            }
        }
    }

    /// The response is complete, and no more of the request can or need be passed on. The upstream connection is not used
    /// again: whatever it took for its next request could be the rest of this one (rule S14).
    pub(super) fn end_upload(&mut self, turn: &mut Turn<'_, '_>) {
        self.release_upstream(turn, Release::Close);
        self.abandon_request();
        self.up = Upstream::Done;
    }

    /// The response broke off: what was received is delivered, then the client's connection is cut (rule G11).
    pub(super) fn cut(&mut self, turn: &mut Turn<'_, '_>) {
        let ending = self.ending_of_a_cut();
        let release = if matches!(self.up, Upstream::Tunnel(_)) { Release::Abort } else { Release::Close };
        self.release_upstream(turn, release);
        self.abandon_request();
        self.is_persistent = false;
        self.up = Upstream::Cut { ending };
    }

    /// How the client can tell that what it got is not all.
    fn ending_of_a_cut(&self) -> Ending {
        match self.up {
            Upstream::Body { sink: ResponseSink::UntilClose, .. } | Upstream::Tunnel(_) => Ending::Abort,
            // All of it is here, and part of it will not leave. Only a connection that ends with its response can have
            // one that ends with its connection.
            Upstream::Answered | Upstream::Done if !self.to_client.is_empty() && !self.is_persistent => Ending::Abort,
            Upstream::Cut { ending } => ending,
            Upstream::Body { .. }
            | Upstream::None
            | Upstream::Local
            | Upstream::Connecting { .. }
            | Upstream::AwaitHead { .. }
            | Upstream::Answered
            | Upstream::Done => Ending::Close,
        }
    }

    /// The client is gone: the upstream is released at once (rule G12), and nobody else is to blame.
    pub(super) fn client_gone(&mut self, turn: &mut Turn<'_, '_>, cause: Cause) {
        // It may only have been too slow, and read on.
        let ending = self.ending_of_a_cut();
        if let Upstream::Tunnel(_) = self.up {
            self.release_upstream(turn, Release::Abort);
        } else {
            // It has got its answer, and only did not send the rest of a request that was answered early.
            let has_all = matches!(self.up, Upstream::Answered) && self.to_client.is_empty();
            self.release_upstream(turn, Release::Close);
            if !has_all {
                self.record.status = CLIENT_GONE;
            }
        }
        self.record.blame(cause);
        self.to_client.clear();
        self.up = Upstream::Cut { ending };
    }

    /// Nobody has said anything for too long: both ends of a tunnel are closed.
    pub(super) fn end_tunnel(&mut self, turn: &mut Turn<'_, '_>, cause: Cause) {
        self.record.blame(cause);
        // What nobody took for so long is lost, and that should be seen.
        let is_lost = matches!(self.down, Downstream::Tunnel(Flow::Lost));
        let is_lossless = !is_lost && self.to_client.is_empty() && self.to_origin.is_empty();
        let (release, ending) =
            if is_lossless { (Release::Close, Ending::Close) } else { (Release::Abort, Ending::Abort) };
        self.release_upstream(turn, release);
        self.to_client.clear();
        self.up = Upstream::Cut { ending };
    }

    /// Gives the upstream connection back, if one is held.
    pub(super) fn release_upstream(&mut self, turn: &mut Turn<'_, '_>, how: Release) {
        if self.holds_upstream() {
            turn.commands.release(how);
            self.to_origin.clear();
        }
    }

    /// The exchange is over: tells the hooks and the log.
    pub(super) fn finish(&mut self, turn: &mut Turn<'_, '_>) {
        turn.client.served = turn.client.served.saturating_add(1);
        let site = &turn.client.site;
        if self.chain.started > 0
            && let Some(hooks) = &site.hooks
        {
            hooks.on_done(&mut self.view(site, HookPhase::Done));
        }
        let record = &self.record;
        let route = record.route.and_then(|route| site.config.routes.get(route as usize));
        let label = record.route.and_then(|route| site.route_labels.get(route as usize));
        // Of most requests most moments are those of one turn of the event loop.
        let since_start = |moment: MonoTime| {
            if moment == record.started { Duration::ZERO } else { moment.saturating_duration_since(record.started) }
        };
        let total = since_start(turn.now());
        let target = if self.plan.is_some() { &self.original_target } else { &self.request.target };
        let timeline = self.timeline.take().map(|timeline| timeline.finish(turn.now()).to_string());
        turn.env.observer.access(&AccessRecord {
            client: self.client_address.or(turn.client.peer.address),
            method: record.method.as_ref().map_or(b"", Method::as_bytes),
            target: if record.method.is_some() { target } else { b"" },
            prefix: route.map(|route| route.prefix.as_str()),
            label: label.copied().unwrap_or_default(),
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
            advice: record.cause.map(Cause::advice),
            timeline: timeline.as_deref(),
        });
        // Whoever is chosen next should know that this one is over.
        self.choice = None;
    }

    /// What hooks may see and change now.
    pub(super) fn view<'a>(&'a mut self, site: &'a Site, phase: HookPhase) -> HookView<'a> {
        let wants = site.wants();
        let may_have_body = !self.is_client_head() && !has_no_body(self.response.status);
        let route = self.record.route.and_then(|route| site.config.routes.get(route as usize));
        HookView {
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
            upstream: route.map_or("", |route| &Choice::upstream(self.choice.as_ref(), route).authority),
            state: &mut self.chain,
        }
    }
}
