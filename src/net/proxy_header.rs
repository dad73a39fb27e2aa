//! Clients that a load balancer brings: before their first byte it says for whom it speaks (`proxy::proxy_protocol`). It stands
//! before everything else on the connection, TLS included.
//!
//! The header is looked at in the kernel's buffer and taken out of it when it is whole, not a byte more: what follows
//! is read by whoever would read it without all this.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Config;
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::{ListenerKind, Peer};
use crate::proxy::proxy_protocol::{MOST_BYTES, PrefaceError, Tlvs, parse_preface};

use super::conn::ReadOutcome;
use super::slab::Key;
use super::worker::{Client, CloseState, ProxyHeader, Worker};

/// At most one line about it in this time: a balancer that is set up wrongly does the same each time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What is known of a client.
pub enum Acquaintance {
    /// Who it is: it can be served.
    Made,
    /// Nothing yet: it is to be waited for, until then.
    Awaited(Option<MonoTime>),
    /// Nothing, and it never will be: its connection is gone.
    Refused,
}

/// What became of listening to a peer.
enum Heard {
    /// All that there is to hear.
    All,
    /// Nothing yet.
    Nothing,
    /// The beginning.
    Part,
    /// Something that it must not be.
    Wrong(PrefaceError),
}

impl ProxyHeader {
    /// What is to be expected of a peer. Who comes by the operator's own entrance speaks for itself.
    pub fn of(peer: &Peer, config: &Config) -> ProxyHeader {
        match (peer.listener, peer.address) {
            (ListenerKind::Public, Some(address)) if config.expects_proxy_header(address.ip()) => ProxyHeader::Expected,
            (ListenerKind::Public | ListenerKind::Admin, _) => ProxyHeader::Done,
        }
    }

    /// While this much is still to come.
    fn before(rest: Tlvs) -> ProxyHeader {
        if rest.left() == 0 { ProxyHeader::Done } else { ProxyHeader::SkipTlvs(rest) }
    }
}

impl Worker {
    /// Finds out who a client is, where somebody else has to say it.
    pub(super) fn make_acquaintance(&mut self, key: Key) -> Acquaintance {
        let now = self.ctx.now();
        let Some(client) = self.clients.get_mut(key) else { return Acquaintance::Refused };
        // One that has to go is let go in the usual way: nothing was promised to it.
        if client.close_state == CloseState::Requested {
            client.proxy_header = ProxyHeader::Done;
        }
        let heard = client.hear(&mut self.read_buf);
        let deadline = client.connection.deadline();
        let is_late = deadline.is_some_and(|deadline| deadline <= now);
        let error = match heard {
            Heard::All => return Acquaintance::Made,
            Heard::Nothing if is_late => PrefaceError::Silent,
            Heard::Part if is_late => PrefaceError::Incomplete,
            Heard::Nothing | Heard::Part => return Acquaintance::Awaited(deadline),
            Heard::Wrong(error) => error,
        };
        let peer = client.connection.reject_proxy_header(&mut self.ctx.worker(), error);
        self.remove_client(key);
        self.complain_of_preface(peer, error);
        Acquaintance::Refused
    }

    /// Says it also where nobody asked for access lines.
    fn complain_of_preface(&mut self, peer: Option<SocketAddr>, error: PrefaceError) {
        let now = self.ctx.now();
        if !self.proxy_header_warnings.is_due(now, COMPLAIN_EVERY) {
            return;
        }
        // Only TCP peers are expected to introduce anybody.
        let from = peer.map_or(String::new(), |peer| format!(" from {}", peer.ip()));
        self.ctx.observer.warn(format_args!("a connection{from} was closed: {error}"));
    }
}

impl Client {
    /// Listens as far as there is something to hear.
    fn hear(&mut self, read_buf: &mut [u8]) -> Heard {
        if self.proxy_header == ProxyHeader::Expected
            && let Err(heard) = self.hear_header(read_buf)
        {
            return heard;
        }
        while let ProxyHeader::SkipTlvs(mut rest) = self.proxy_header {
            let most = usize::from(rest.left()).min(read_buf.len());
            match self.conn.read_raw(&mut read_buf[..most]) {
                ReadOutcome::Bytes(len) => {
                    rest.read(&read_buf[..len]);
                    if rest.is_tls() {
                        self.connection.set_client_tls();
                    }
                    self.proxy_header = ProxyHeader::before(rest);
                }
                ReadOutcome::Blocked | ReadOutcome::Overhead(_) => return Heard::Part,
                ReadOutcome::Eof | ReadOutcome::Failed => return Heard::Wrong(PrefaceError::Incomplete),
            }
        }
        Heard::All
    }

    fn hear_header(&mut self, read_buf: &mut [u8]) -> Result<(), Heard> {
        let mut start = [0; MOST_BYTES];
        let len = match self.conn.peek(&mut start) {
            ReadOutcome::Bytes(len) => len,
            ReadOutcome::Blocked | ReadOutcome::Overhead(_) => return Err(Heard::Nothing),
            // The exchange will see the same, and end.
            ReadOutcome::Eof | ReadOutcome::Failed => {
                self.proxy_header = ProxyHeader::Done;
                return Ok(());
            }
        };
        let preface = match parse_preface(&start[..len]) {
            Ok(Some(preface)) => preface,
            // The peer is gone (rule G12), or has closed its side.
            Ok(None) if self.conn.is_end_in_sight() => return Err(Heard::Wrong(PrefaceError::Incomplete)),
            Ok(None) => return Err(Heard::Part),
            Err(error) => return Err(Heard::Wrong(error)),
        };
        // What was looked at a moment ago is there in one piece.
        match self.conn.read_raw(&mut read_buf[..preface.len]) {
            ReadOutcome::Bytes(taken) if taken == preface.len => {}
            ReadOutcome::Bytes(_)
            | ReadOutcome::Blocked
            | ReadOutcome::Overhead(_)
            | ReadOutcome::Eof
            | ReadOutcome::Failed => return Err(Heard::Wrong(PrefaceError::Incomplete)),
        }
        self.connection.set_client_address(preface.client);
        self.proxy_header = ProxyHeader::before(preface.tlvs);
        Ok(())
    }
}
