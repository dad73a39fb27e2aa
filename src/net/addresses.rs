//! The addresses of an upstream, and in which order a new connection tries them.
//!
//! Each attempt begins one further than the one before, so that the load spreads. An address that failed comes last for a
//! while: otherwise one that is dead would cost its time-out again and again.
//!
//! Connecting is done in [`dial`](super::dial).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::ConnectError;

/// So long an address that failed comes last; then it may have come back.
const AVOIDED: Duration = Duration::from_secs(30);

/// What a worker knows of an upstream's name.
#[derive(Debug)]
pub struct Known {
    addresses: Arc<[SocketAddr]>,
    /// Where the next attempt begins.
    next: usize,
    /// Those that failed, each until when it comes last. Mostly empty.
    failed: Vec<(SocketAddr, MonoTime)>,
    /// When the resolver was last told that the name is in use.
    pub kept: MonoTime,
}

/// Addresses that are tried in turn.
#[derive(Debug)]
pub struct Attempt {
    /// Not tried yet; the next one is the last.
    left: Vec<SocketAddr>,
    /// The one that is tried now.
    pub current: Option<SocketAddr>,
    /// What became of those that were tried.
    pub failure: Option<ConnectError>,
    /// When to give up the current one.
    pub until: MonoTime,
}

impl Known {
    /// Nothing failed yet.
    pub fn new(now: MonoTime, addresses: Arc<[SocketAddr]>) -> Known {
        Known { addresses, next: 0, failed: Vec::new(), kept: now }
    }

    /// The name has these addresses now. What is known of those that it keeps is kept.
    pub fn renew(&mut self, now: MonoTime, addresses: Arc<[SocketAddr]>) {
        self.failed.retain(|(address, _)| addresses.contains(address));
        self.addresses = addresses;
        self.kept = now;
    }

    /// A new attempt.
    pub fn attempt(&mut self, now: MonoTime) -> Attempt {
        self.failed.retain(|(_, until)| *until > now);
        let (before, from) = self.addresses.split_at(self.next % self.addresses.len().max(1));
        self.next = self.next.wrapping_add(1);
        // They are taken from the end: those that failed lately come last, and otherwise the order stays.
        let backwards = from.iter().chain(before).rev().copied();
        let (mut left, good) = backwards.partition::<Vec<_>, _>(|address| self.has_failed(*address));
        left.extend(good);
        Attempt { left, current: None, failure: None, until: now }
    }

    /// No connection to `address` could be made.
    pub fn note_failure(&mut self, now: MonoTime, address: SocketAddr) {
        self.note_success(address);
        self.failed.push((address, now + AVOIDED));
    }

    /// A connection to `address` was made.
    pub fn note_success(&mut self, address: SocketAddr) {
        self.failed.retain(|(failed, _)| *failed != address);
    }

    fn has_failed(&self, address: SocketAddr) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == address)
    }
}

impl Attempt {
    /// The next address to try.
    pub fn advance(&mut self) -> Option<SocketAddr> {
        self.current = self.left.pop();
        self.current
    }

    /// Remembers the failure of one address. Of several, the one that says most: a certificate says who is there, a
    /// time-out may pass, a refusal may not; all are clearer than anything else.
    pub fn note(&mut self, error: ConnectError) {
        let weight = |error: ConnectError| match error {
            ConnectError::Untrusted(_) => 4,
            ConnectError::TlsFailed => 3,
            ConnectError::TimedOut => 2,
            ConnectError::Refused => 1,
            ConnectError::Failed | ConnectError::DnsFail => 0,
        };
        if self.failure.is_none_or(|known| weight(error) > weight(known)) {
            self.failure = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::proxy_connection::CertificateError;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn known(now: MonoTime, ports: &[u16]) -> Known {
        Known::new(now, ports.iter().map(|port| address(*port)).collect())
    }

    /// The ports in the order in which a new attempt tries them.
    fn order(known: &mut Known, now: MonoTime) -> Vec<u16> {
        let mut attempt = known.attempt(now);
        std::iter::from_fn(|| attempt.advance()).map(|address| address.port()).collect()
    }

    #[test]
    fn each_attempt_begins_at_another_address() {
        let now = MonoTime::now();
        let mut known = known(now, &[1, 2, 3]);
        let orders: Vec<_> = (0..4).map(|_| order(&mut known, now)).collect();
        assert_eq!(orders, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
    }

    #[test]
    fn e1_an_address_that_failed_comes_last_until_it_works_or_time_has_passed() {
        let now = MonoTime::now();
        let mut known = known(now, &[1, 2, 3]);
        known.note_failure(now, address(1));
        assert_eq!(order(&mut known, now), [2, 3, 1], "begins at 1");
        assert_eq!(order(&mut known, now), [2, 3, 1], "begins at 2");
        assert_eq!(order(&mut known, now), [3, 2, 1], "begins at 3");
        known.note_failure(now, address(3));
        assert_eq!(order(&mut known, now), [2, 1, 3], "begins at 1; of those that failed none is left out");
        // Other addresses, of which one is the same.
        known.renew(now, [address(3), address(4)].into());
        assert_eq!(order(&mut known, now), [4, 3]);
        assert_eq!(order(&mut known, now), [4, 3]);
        known.note_success(address(3));
        assert_eq!(order(&mut known, now), [3, 4]);
        known.note_failure(now, address(3));
        known.next = 0;
        assert_eq!(order(&mut known, now + AVOIDED), [3, 4], "it may have come back");
    }

    #[test]
    fn of_several_failures_the_one_that_says_most_is_told() {
        use ConnectError::{Failed, Refused, TimedOut, TlsFailed, Untrusted};
        let expired = Untrusted(CertificateError::Expired);
        for (name, failures, expected) in [
            ("one", &[Refused][..], Refused),
            ("a refusal is clearer than nothing", &[Failed, Refused, Failed], Refused),
            ("a time-out may pass", &[Refused, TimedOut, Refused], TimedOut),
            ("somebody was there", &[TimedOut, TlsFailed, Refused], TlsFailed),
            ("it is known who was there", &[TlsFailed, expired, TimedOut], expired),
            ("the first of its kind", &[expired, Untrusted(CertificateError::WrongName)], expired),
        ] {
            let mut attempt = known(MonoTime::now(), &[]).attempt(MonoTime::now());
            failures.iter().for_each(|failure| attempt.note(*failure));
            assert_eq!(attempt.failure, Some(expected), "{name}");
        }
    }
}
