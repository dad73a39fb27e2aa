//! The addresses of an upstream, and in which order a new connection tries them.

use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::ConnectError;

use super::socket::Address;

/// An address that failed is tried last for so long; then it may have come back.
const FAILED_ADDRESS_TIME: Duration = Duration::from_secs(30);

/// The addresses of an upstream. Each attempt begins one further than the one before, so that the load spreads. An address
/// that failed is tried last for a while: otherwise a dead one would cost its time-out again and again.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Empty where they are not known.
    list: Vec<Address>,
    /// Where the next attempt begins.
    next: usize,
    /// Those that failed, each until when it is tried last. Mostly empty.
    failed: Vec<(Address, MonoTime)>,
}

/// Addresses that are tried in turn.
#[derive(Debug, Default)]
pub struct ConnectAttempt {
    /// Those that have not failed. The last one is tried first.
    pub addresses: Vec<Address>,
    /// Of the failures so far the one that says most.
    pub failure: Option<ConnectError>,
    /// Since when the queue of the unix socket that is tried is full.
    pub queued_at: Option<MonoTime>,
}

impl Addresses {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Other addresses. What is known of those that stay is kept.
    pub fn set(&mut self, list: Vec<Address>) {
        self.failed.retain(|(address, _)| list.contains(address));
        self.list = list;
    }

    pub fn attempt(&mut self, now: MonoTime) -> ConnectAttempt {
        self.failed.retain(|(_, until)| *until > now);
        let (before, from) = self.list.split_at(self.next % self.list.len().max(1));
        self.next = self.next.wrapping_add(1);
        let backwards = from.iter().chain(before).rev().cloned();
        let has_failed = |address: &Address| self.failed.iter().any(|(failed, _)| failed == address);
        let (mut addresses, good) = backwards.partition::<Vec<_>, _>(has_failed);
        addresses.extend(good);
        ConnectAttempt { addresses, ..ConnectAttempt::default() }
    }

    pub fn note_failure(&mut self, now: MonoTime, address: Address) {
        self.note_success(&address);
        self.failed.push((address, now + FAILED_ADDRESS_TIME));
    }

    pub fn note_success(&mut self, address: &Address) {
        self.failed.retain(|(failed, _)| failed != address);
    }
}

impl ConnectAttempt {
    /// Of several failures the one counts that says most.
    pub fn note(&mut self, error: ConnectError) {
        self.failure = self.failure.max(Some(error));
        self.queued_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::proxy_connection::CertificateError;

    fn address(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    fn known(ports: &[u16]) -> Addresses {
        Addresses { list: ports.iter().map(|port| address(*port)).collect(), ..Addresses::default() }
    }

    /// The ports in the order in which a new attempt tries them.
    fn order(known: &mut Addresses, now: MonoTime) -> Vec<u16> {
        known.attempt(now).addresses.iter().rev().filter_map(Address::tcp).map(|address| address.port()).collect()
    }

    #[test]
    fn each_attempt_begins_at_another_address() {
        let now = MonoTime::now();
        let mut known = known(&[1, 2, 3]);
        let orders: Vec<_> = (0..4).map(|_| order(&mut known, now)).collect();
        assert_eq!(orders, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
    }

    #[test]
    fn e1_an_address_that_failed_comes_last_until_it_works_or_time_has_passed() {
        let now = MonoTime::now();
        let mut known = known(&[1, 2, 3]);
        known.note_failure(now, address(1));
        assert_eq!(order(&mut known, now), [2, 3, 1], "begins at 1");
        assert_eq!(order(&mut known, now), [2, 3, 1], "begins at 2");
        assert_eq!(order(&mut known, now), [3, 2, 1], "begins at 3");
        known.note_failure(now, address(3));
        assert_eq!(order(&mut known, now), [2, 1, 3], "begins at 1; of those that failed none is left out");
        // Other addresses, of which one is the same.
        known.set(vec![address(3), address(4)]);
        assert_eq!(order(&mut known, now), [4, 3]);
        assert_eq!(order(&mut known, now), [4, 3]);
        known.note_success(&address(3));
        assert_eq!(order(&mut known, now), [3, 4]);
        known.note_failure(now, address(3));
        known.next = 0;
        assert_eq!(order(&mut known, now + FAILED_ADDRESS_TIME), [3, 4], "it may have come back");
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
        ] {
            let mut attempt = ConnectAttempt::default();
            failures.iter().for_each(|failure| attempt.note(*failure));
            assert_eq!(attempt.failure, Some(expected), "{name}");
        }
    }
}
