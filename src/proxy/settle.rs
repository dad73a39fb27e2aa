//! What the two ends of a transaction together ask for, once each has done what it could by itself.

use super::events::Side;
use super::transaction::{Downstream, Ending, Flow, Transaction, Upstream};
use super::turn::{End, Release, Turn};

/// What follows a step of [`Transaction::settle`].
pub enum Next {
    /// Nothing to settle.
    Wait,
    /// The states have changed: look again.
    Again,
    /// The response is delivered; the connection serves on.
    Serve,
    /// The response is delivered; the connection ends.
    End(End),
    /// The response is delivered; the connection ends once the client has stopped sending.
    Linger,
}

impl Transaction {
    /// Whether the upstream's end alone tells that there is nothing to settle, as it does most of the time.
    pub(super) fn is_settled(&self) -> bool {
        match self.up {
            Upstream::None | Upstream::Connecting { .. } | Upstream::AwaitHead { .. } | Upstream::Body { .. } => true,
            Upstream::Local | Upstream::Answered | Upstream::Done | Upstream::Cut { .. } | Upstream::Tunnel(_) => false,
        }
    }

    /// What the two states together ask for.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_, '_>) -> Next {
        match (&self.down, &self.up) {
            // Rule G15: an end of one direction is passed on when its bytes are; both ended, the tunnel is over.
            (Downstream::Tunnel(Flow::Ended), Upstream::Tunnel(_)) if self.to_origin.is_empty() => {
                turn.commands.shutdown(Side::Upstream);
                self.down = Downstream::Tunnel(Flow::Told);
                Next::Again
            }
            (Downstream::Tunnel(_), Upstream::Tunnel(Flow::Ended)) if self.to_client.is_empty() => {
                turn.commands.shutdown(Side::Downstream);
                self.up = Upstream::Tunnel(Flow::Told);
                Next::Again
            }
            (Downstream::Tunnel(Flow::Told), Upstream::Tunnel(Flow::Told)) => {
                self.release_upstream(turn, Release::Close);
                Next::End(End::Close)
            }
            (Downstream::Tunnel(_), Upstream::Tunnel(_)) => Next::Wait,
            (_, Upstream::None | Upstream::Connecting { .. } | Upstream::AwaitHead { .. } | Upstream::Body { .. }) => {
                Next::Wait
            }
            (Downstream::Done, Upstream::Answered) if self.to_origin.is_empty() => {
                self.end_upload(turn);
                Next::Again
            }
            (_, Upstream::Answered) => Next::Wait,
            (_, Upstream::Local | Upstream::Done | Upstream::Cut { .. }) if !self.to_client.is_empty() => Next::Wait,
            (_, Upstream::Cut { ending: Ending::Close }) => Next::End(End::Close),
            (_, Upstream::Cut { ending: Ending::Abort }) => Next::End(End::Abort),
            // RFC 9112 section 9.3: the next request follows on the same connection, unless it would only idle while the
            // process is waiting to stop.
            (Downstream::Done, Upstream::Local | Upstream::Done)
                if self.is_persistent && (self.has_pipelined() || !turn.client.is_draining) =>
            {
                Next::Serve
            }
            (Downstream::Done, Upstream::Local | Upstream::Done) if !self.has_pipelined() => Next::End(End::Close),
            // RFC 9112 section 9.6: closing now would make the kernel reset the connection, and the reset could destroy
            // our answer before the client has read it (rule G20).
            (
                Downstream::Done
                | Downstream::Discard
                | Downstream::Head { .. }
                | Downstream::Body { .. }
                | Downstream::Tunnel(_),
                Upstream::Local | Upstream::Done,
            ) => Next::Linger,
            (
                Downstream::Done | Downstream::Discard | Downstream::Head { .. } | Downstream::Body { .. },
                Upstream::Tunnel(_),
            ) => Next::Wait,
        }
    }
}
