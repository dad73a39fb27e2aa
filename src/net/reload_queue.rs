//! A new configuration on its way to a worker.
//!
//! The main thread makes everything that can fail, then puts one [`ReloadMsg`] into each worker's [`ReloadQueue`] and wakes it.
//! What a worker does with it is told in [`reload`](super::reload).

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use mio::Waker;

use crate::proxy::runtime::Runtime;

use super::acceptor::ListenerChange;
use super::tls::Tls;

/// What changes for a worker.
pub struct ReloadMsg {
    /// The configuration for requests whose head is complete from now on.
    pub runtime: Runtime,
    /// What TLS connections are made of from now on.
    pub tls: Tls,
    /// Listening sockets that come, go or change.
    pub listeners: Vec<ListenerChange>,
    /// How many clients may be inside.
    pub max_clients: usize,
    /// Dropped, with all else, when the worker has taken it in. Nothing is ever sent.
    pub receipt: Sender<()>,
}

/// Where a worker's renewals arrive.
pub struct ReloadQueue {
    letters: Mutex<Vec<ReloadMsg>>,
    waker: Arc<Waker>,
}

impl ReloadQueue {
    /// One whose owner is woken by `waker`.
    pub fn new(waker: Arc<Waker>) -> ReloadQueue {
        ReloadQueue { letters: Mutex::default(), waker }
    }

    /// Delivers.
    pub fn put(&self, msg: ReloadMsg) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).push(msg);
        // It fails when the worker is gone; then the process is about to end.
        let _ = self.waker.wake();
    }

    /// Takes what has arrived, oldest first.
    pub fn take(&self) -> Vec<ReloadMsg> {
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
