//! What a worker hears from other threads.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use mio::Waker;

use crate::proxy::runtime::{Runtime, UpstreamId};

use super::acceptor::ListenerUpdate;
use super::slab::Key;
use super::tls::Tls;

/// A message for a worker.
pub enum WorkerMsg {
    /// A look-up has ended: the addresses of an upstream. Empty: it does not resolve now.
    Dns(UpstreamId, Arc<[SocketAddr]>),
    /// The pause of a client's request may be over.
    Resume(Key),
    /// Another configuration.
    Reload(Box<ReloadMsg>),
    /// Take no new connections, finish what is in flight, end.
    Drain,
    /// End now.
    Stop,
}

/// What a reload changes for a worker. The main thread has made everything that can fail.
pub struct ReloadMsg {
    /// The configuration for requests whose head is complete from now on.
    pub runtime: Runtime,
    /// What TLS connections are made of from now on.
    pub tls: Tls,
    pub listeners: ListenerUpdate,
    pub max_clients: usize,
    /// Dropped when the worker has taken it in. Nothing is ever sent.
    pub receipt: Sender<()>,
}

/// Messages for one worker, which is woken for each.
pub struct WorkerQueue {
    messages: Mutex<Vec<WorkerMsg>>,
    waker: Waker,
}

impl WorkerQueue {
    pub fn new(waker: Waker) -> WorkerQueue {
        WorkerQueue { messages: Mutex::default(), waker }
    }

    pub fn push(&self, message: WorkerMsg) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        // It fails when the worker has ended; then nothing is lost.
        let _ = self.waker.wake();
    }

    /// All that has arrived, oldest first.
    pub fn take(&self) -> Vec<WorkerMsg> {
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
