//! Idle upstream connections of one worker.
//!
//! The pool keeps keys, not sockets: a parked connection stays in its slot and stays registered, so that its closing is
//! noticed at once (rule M12). The newest connection of an upstream is lent first: the older ones get a chance to grow
//! old and go, and the newest is the least likely to be closed by the other end.
//!
//! The list is searched from its end. It is short by construction (`pool.max_idle`, 256 by default), and a busy
//! upstream's connections are the newest: in the steady state the first look finds one.

use crate::config::PoolLimits;
use crate::proxy::runtime::UpstreamId;

use super::slab::Key;

/// The pool: oldest first.
pub struct Pool {
    idle: Vec<(UpstreamId, Key)>,
    max_idle: usize,
    max_idle_per_upstream: usize,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: &PoolLimits) -> Pool {
        Pool { idle: Vec::new(), max_idle: limits.max_idle, max_idle_per_upstream: limits.max_idle_per_upstream }
    }

    /// Adds a connection. Returns the one that has to go for it, because a limit is reached: the oldest of that
    /// upstream or of all; or the new one itself, where nothing may be kept.
    #[must_use = "the returned connection has to be closed"]
    pub fn park(&mut self, upstream: UpstreamId, key: Key) -> Option<Key> {
        if self.max_idle == 0 || self.max_idle_per_upstream == 0 {
            return Some(key);
        }
        // Counted only where there are enough of all together.
        let is_roomy = self.idle.len() < self.max_idle_per_upstream;
        let same = if is_roomy { 0 } else { self.idle.iter().filter(|(id, _)| *id == upstream).count() };
        let surplus = if same >= self.max_idle_per_upstream {
            self.idle.iter().position(|(id, _)| *id == upstream)
        } else if self.idle.len() >= self.max_idle {
            Some(0)
        } else {
            None
        };
        let evicted = surplus.map(|at| self.idle.remove(at).1);
        self.idle.push((upstream, key));
        evicted
    }

    /// Lends the newest connection to `upstream`.
    pub fn take(&mut self, upstream: UpstreamId) -> Option<Key> {
        let at = self.idle.iter().rposition(|(id, _)| *id == upstream)?;
        Some(self.idle.remove(at).1)
    }

    /// Forgets a connection that was closed while it was idle.
    pub fn remove(&mut self, key: Key) {
        if let Some(at) = self.idle.iter().position(|(_, idle)| *idle == key) {
            self.idle.remove(at);
        }
    }

    /// After a reload: other limits, and of the connections only those to upstreams that are kept. Returns the others, and
    /// the oldest of those that are too many.
    #[must_use = "the returned connections have to be closed"]
    pub fn renew(&mut self, limits: &PoolLimits, is_kept: impl Fn(UpstreamId) -> bool) -> Vec<Key> {
        let all = std::mem::replace(self, Pool::new(limits)).idle;
        let (kept, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|(upstream, _)| is_kept(*upstream));
        let surplus = kept.into_iter().filter_map(|(upstream, key)| self.park(upstream, key));
        let surplus: Vec<Key> = surplus.collect();
        gone.into_iter().map(|(_, key)| key).chain(surplus).collect()
    }

    /// Takes out the oldest connection, to make room for something that matters more.
    pub fn take_oldest(&mut self) -> Option<Key> {
        if self.idle.is_empty() { None } else { Some(self.idle.remove(0).1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: UpstreamId = UpstreamId(0);
    const B: UpstreamId = UpstreamId(1);

    fn pool(max_idle: usize, max_idle_per_upstream: usize) -> Pool {
        let (idle_timeout, max_age) = (Duration::from_secs(4), Duration::from_secs(300));
        Pool::new(&PoolLimits { max_idle, max_idle_per_upstream, idle_timeout, max_age })
    }

    fn key(index: u32) -> Key {
        Key::of(index, 1).expect("a key")
    }

    #[test]
    fn the_newest_connection_of_the_upstream_is_lent_first() {
        let mut pool = pool(8, 8);
        for (upstream, n) in [(A, 1), (B, 2), (A, 3), (B, 4)] {
            assert_eq!(pool.park(upstream, key(n)), None);
        }
        assert_eq!(pool.take(A), Some(key(3)));
        assert_eq!(pool.take(A), Some(key(1)));
        assert_eq!(pool.take(A), None);
        assert_eq!(pool.take(B), Some(key(4)));
    }

    #[test]
    fn the_oldest_goes_when_a_limit_is_reached() {
        let mut per_upstream = pool(8, 2);
        assert_eq!(per_upstream.park(B, key(9)), None);
        assert_eq!(per_upstream.park(A, key(1)), None);
        assert_eq!(per_upstream.park(A, key(2)), None);
        assert_eq!(per_upstream.park(A, key(3)), Some(key(1)), "of that upstream");
        let mut whole = pool(2, 2);
        assert_eq!(whole.park(B, key(9)), None);
        assert_eq!(whole.park(A, key(1)), None);
        assert_eq!(whole.park(A, key(2)), Some(key(9)), "of all");
        assert_eq!(whole.take_oldest(), Some(key(1)));
        assert_eq!(pool(0, 8).park(A, key(1)), Some(key(1)), "nothing is kept");
        assert_eq!(pool(8, 0).park(A, key(1)), Some(key(1)), "nothing is kept");
    }

    #[test]
    fn m12_a_connection_that_closed_is_never_lent() {
        let mut pool = pool(8, 8);
        assert_eq!(pool.park(A, key(1)), None);
        assert_eq!(pool.park(A, key(2)), None);
        pool.remove(key(2));
        pool.remove(key(7));
        assert_eq!(pool.take(A), Some(key(1)));
        assert_eq!(pool.take(A), None);
    }

    #[test]
    fn a_reload_empties_the_pool_of_what_is_gone_and_of_what_is_too_much() {
        let mut pool = pool(8, 8);
        for (upstream, n) in [(A, 1), (B, 2), (A, 3), (A, 4), (B, 5)] {
            assert_eq!(pool.park(upstream, key(n)), None);
        }
        let (idle_timeout, max_age) = (Duration::from_secs(4), Duration::from_secs(300));
        let limits = PoolLimits { max_idle: 8, max_idle_per_upstream: 2, idle_timeout, max_age };
        assert_eq!(pool.renew(&limits, |id| id == A), [key(2), key(5), key(1)]);
        assert_eq!((pool.take(A), pool.take(A), pool.take(A)), (Some(key(4)), Some(key(3)), None));
        assert_eq!(pool.take(B), None);
    }
}
