//! What the two ends of a transaction together ask for, once each has done what it could by itself.

use super::context::Ctx;
use super::events::{CloseMode, Command, Side};
use super::transaction::{HalfClose, RequestState, ResponseState, Transaction};

/// What follows a step of [`Transaction::settle`].
pub enum Next {
    /// Nothing to settle.
    Wait,
    /// The states have changed: look again.
    Again,
    /// The response is delivered; the connection serves on.
    Serve,
    /// The response is delivered; the connection ends.
    Close(CloseMode),
    /// The response is delivered; the connection ends once the client has stopped sending.
    Linger,
}

impl Transaction {
    /// Whether the upstream's end alone tells that there is nothing to settle, as it does most of the time.
    pub(super) fn is_settled(&self) -> bool {
        match self.response_state {
            ResponseState::None
            | ResponseState::Connecting { .. }
            | ResponseState::AwaitHead { .. }
            | ResponseState::Body { .. } => true,
            ResponseState::Local
            | ResponseState::Answered
            | ResponseState::Done
            | ResponseState::Cut { .. }
            | ResponseState::Tunnel(_) => false,
        }
    }

    /// What the two states together ask for.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_, '_>) -> Next {
        match (&self.request_state, &self.response_state) {
            // Rule G15: an end of one direction is passed on when its bytes are; both ended, the tunnel is over.
            (RequestState::Tunnel(HalfClose::EofReceived), ResponseState::Tunnel(_)) if self.to_upstream.is_empty() => {
                ctx.commands.push(Command::Shutdown(Side::Upstream));
                self.request_state = RequestState::Tunnel(HalfClose::ShutdownSent);
                Next::Again
            }
            (RequestState::Tunnel(_), ResponseState::Tunnel(HalfClose::EofReceived)) if self.to_client.is_empty() => {
                ctx.commands.push(Command::Shutdown(Side::Client));
                self.response_state = ResponseState::Tunnel(HalfClose::ShutdownSent);
                Next::Again
            }
            (RequestState::Tunnel(HalfClose::ShutdownSent), ResponseState::Tunnel(HalfClose::ShutdownSent)) => {
                self.release_upstream(ctx, CloseMode::Close);
                Next::Close(CloseMode::Close)
            }
            (RequestState::Tunnel(_), ResponseState::Tunnel(_)) => Next::Wait,
            (
                _,
                ResponseState::None
                | ResponseState::Connecting { .. }
                | ResponseState::AwaitHead { .. }
                | ResponseState::Body { .. },
            ) => Next::Wait,
            (RequestState::Done, ResponseState::Answered) if self.to_upstream.is_empty() => {
                self.end_upload(ctx);
                Next::Again
            }
            (_, ResponseState::Answered) => Next::Wait,
            (_, ResponseState::Local | ResponseState::Done | ResponseState::Cut { .. })
                if !self.to_client.is_empty() =>
            {
                Next::Wait
            }
            (_, ResponseState::Cut { mode: CloseMode::Close }) => Next::Close(CloseMode::Close),
            (_, ResponseState::Cut { mode: CloseMode::Abort }) => Next::Close(CloseMode::Abort),
            // RFC 9112 section 9.3: the next request follows on the same connection, unless it would only idle while the
            // process is waiting to stop.
            (RequestState::Done, ResponseState::Local | ResponseState::Done)
                if self.is_persistent && (self.has_pipelined() || !ctx.client.is_draining) =>
            {
                Next::Serve
            }
            (RequestState::Done, ResponseState::Local | ResponseState::Done) if !self.has_pipelined() => {
                Next::Close(CloseMode::Close)
            }
            // RFC 9112 section 9.6: closing now would make the kernel reset the connection, and the reset could destroy
            // our answer before the client has read it (rule G20).
            (
                RequestState::Done
                | RequestState::Discard
                | RequestState::Head { .. }
                | RequestState::Body { .. }
                | RequestState::Tunnel(_),
                ResponseState::Local | ResponseState::Done,
            ) => Next::Linger,
            (
                RequestState::Done | RequestState::Discard | RequestState::Head { .. } | RequestState::Body { .. },
                ResponseState::Tunnel(_),
            ) => Next::Wait,
        }
    }
}
