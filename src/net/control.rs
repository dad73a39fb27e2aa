//! What the main thread says to the workers, and hears from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use mio::Waker;

/// What a worker is to do with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Work.
    Run,
    /// Take no new connections, finish what is in flight, end.
    Drain,
    /// End now.
    Stop,
}

/// Shared by the main thread and all workers. It is written when the process ends, not before.
pub struct Control {
    order: AtomicU8,
    running: AtomicUsize,
    wakers: Vec<Arc<Waker>>,
}

impl Control {
    /// For workers that wake by `wakers`.
    pub fn new(wakers: Vec<Arc<Waker>>) -> Control {
        Control { order: AtomicU8::new(0), running: AtomicUsize::new(wakers.len()), wakers }
    }

    /// What workers are to do now. They look when they are woken.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Run,
            1 => Order::Drain,
            _ => Order::Stop,
        }
    }

    /// Tells all workers. An order is never taken back.
    pub fn give(&self, order: Order) {
        let number = match order {
            Order::Run => 0,
            Order::Drain => 1,
            Order::Stop => 2,
        };
        self.order.fetch_max(number, Ordering::AcqRel);
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
        let control = Control::new(Vec::new());
        for (given, expected) in [
            (Order::Run, Order::Run),
            (Order::Drain, Order::Drain),
            (Order::Run, Order::Drain),
            (Order::Stop, Order::Stop),
            (Order::Drain, Order::Stop),
        ] {
            control.give(given);
            assert_eq!(control.order(), expected);
        }
    }
}
