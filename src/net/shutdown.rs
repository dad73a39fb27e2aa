//! What the main thread says to the workers, and hears from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use mio::Waker;

/// What a worker is to do with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Work.
    No,
    /// Take no new connections, finish what is in flight, end.
    Drain,
    /// End now.
    Stop,
}

/// Shared by the main thread and all workers. It is written when the process ends, not before.
pub struct ShutdownSignal {
    requested: AtomicU8,
    running: AtomicUsize,
    wakers: Vec<Arc<Waker>>,
}

impl ShutdownSignal {
    /// For workers that wake by `wakers`.
    pub fn new(wakers: Vec<Arc<Waker>>) -> ShutdownSignal {
        ShutdownSignal { requested: AtomicU8::new(0), running: AtomicUsize::new(wakers.len()), wakers }
    }

    /// What workers are to do now. They look when they are woken.
    pub fn requested(&self) -> Shutdown {
        match self.requested.load(Ordering::Acquire) {
            0 => Shutdown::No,
            1 => Shutdown::Drain,
            _ => Shutdown::Stop,
        }
    }

    /// Tells all workers. An requested is never taken back.
    pub fn request(&self, requested: Shutdown) {
        let number = match requested {
            Shutdown::No => 0,
            Shutdown::Drain => 1,
            Shutdown::Stop => 2,
        };
        self.requested.fetch_max(number, Ordering::AcqRel);
        for waker in &self.wakers {
            // A worker that has ended cannot be woken, and need not.
            let _ = waker.wake();
        }
    }

    /// A worker has ended; returns how many still run.
    pub fn worker_ended(&self) -> usize {
        self.running.fetch_sub(1, Ordering::AcqRel) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_never_taken_back() {
        let shutdown = ShutdownSignal::new(Vec::new());
        for (given, expected) in [
            (Shutdown::No, Shutdown::No),
            (Shutdown::Drain, Shutdown::Drain),
            (Shutdown::No, Shutdown::Drain),
            (Shutdown::Stop, Shutdown::Stop),
            (Shutdown::Drain, Shutdown::Stop),
        ] {
            shutdown.request(given);
            assert_eq!(shutdown.requested(), expected);
        }
    }
}
