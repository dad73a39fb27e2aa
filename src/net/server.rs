//! The whole proxy as one value: listeners, resolver, workers. Made by the main thread, and by tests.
//!
//! Everything that can fail at start fails here, in the caller's thread, before a worker runs.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use mio::{Poll, Waker};

use crate::config::{Config, ListenAddr};
use crate::proxy::hooks::Hooks;
use crate::proxy::site::Site;

use super::activation::{ActivationError, Inherited};
use super::control::{Control, Order};
use super::descriptors;
use super::door::Door;
use super::listen::{Bound, ListenError, Listening, SocketFile, Speaks, listen};
use super::memory::{self, Ledger};
use super::observer::Journal;
use super::resolve::{Inbox, Resolve, Resolver};
use super::tls::{Tls, TlsError};
use super::token::Source;
use super::worker::{Seed, Worker};

/// What a server is made of.
pub struct Parts {
    /// Checked.
    pub config: Arc<Config>,
    /// Sockets to listen on instead of the configuration's addresses; usually none.
    pub inherited: Vec<Inherited>,
    /// The plugins, if any.
    pub hooks: Option<Arc<dyn Hooks>>,
    /// Turns names into addresses.
    pub names: Box<dyn Resolve>,
    /// Makes a log for each worker, on its thread.
    pub journals: Arc<dyn Fn() -> Box<dyn Journal> + Send + Sync>,
    /// Called when the last worker has ended, whyever.
    pub on_end: Arc<dyn Fn() + Send + Sync>,
}

/// Why it cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be had.
    Listen(ListenError),
    /// A socket that was handed over cannot be used.
    Activation(ActivationError),
    /// Something is wrong with the certificates.
    Tls(TlsError),
    /// The system refuses a thread or a descriptor.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(error) => error.fmt(f),
            StartError::Activation(error) => error.fmt(f),
            StartError::Tls(error) => error.fmt(f),
            StartError::System(error) => {
                write!(f, "cannot start: {error}; raise the limits on descriptors and threads, or lower workers")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> StartError {
        StartError::Listen(error)
    }
}

impl From<ActivationError> for StartError {
    fn from(error: ActivationError) -> StartError {
        StartError::Activation(error)
    }
}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> StartError {
        StartError::Tls(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::System(error)
    }
}

/// A worker ended before it was told to: its thread panicked, or the poller failed.
#[derive(Debug)]
pub struct WorkerLost;

/// A running proxy.
pub struct Server {
    addresses: Vec<(String, Speaks)>,
    tls: Tls,
    descriptor_limit: Option<usize>,
    max_connections: usize,
    control: Arc<Control>,
    resolver: Resolver,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Removed when the server is dropped.
    files: Vec<SocketFile>,
}

impl Server {
    /// Binds all addresses and starts the workers.
    pub fn start(parts: Parts) -> Result<Server, StartError> {
        let Parts { config, inherited, hooks, names, journals, on_end } = parts;
        let workers = config.workers;
        let descriptor_limit = descriptors::limit();
        let max_connections = descriptors::max_connections(config.limits.max_connections, descriptor_limit);
        let memory_budget = config.limits.memory_budget;
        let max_connections =
            memory_budget.map_or(max_connections, |most| max_connections.min(memory::connections(most)));

        // Before anything listens: a client that comes in at once must find everything in its place.
        let tls = Tls::prepare(&config)?;
        let bound = if inherited.is_empty() {
            addresses(&config)
                .map(|(address, speaks)| listen(address, workers).map(|bound| (bound, speaks)))
                .collect::<Result<Vec<_>, _>>()?
        } else {
            inherited
                .into_iter()
                .map(|socket| adopt(socket, &config, workers))
                .collect::<Result<Vec<_>, StartError>>()?
        };
        let (addresses, files, listeners) = by_worker(bound, workers);

        let polls = (0..workers).map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let wakers = polls
            .iter()
            .map(|poll| Waker::new(poll.registry(), Source::Waker.token()).map(Arc::new))
            .collect::<io::Result<Vec<_>>>()?;
        let inboxes: Vec<Arc<Inbox>> = wakers.iter().map(|waker| Arc::new(Inbox::new(Arc::clone(waker)))).collect();
        let resolver = Resolver::start(names, config.dns_refresh, inboxes.clone())?;
        let control = Arc::new(Control::new(wakers));

        let mut server = Server {
            addresses,
            tls: tls.clone(),
            descriptor_limit,
            max_connections,
            control: Arc::clone(&control),
            resolver: resolver.clone(),
            threads: Vec::with_capacity(workers),
            files,
        };
        let share = descriptors::share(max_connections, workers);
        let site = Site::new(config, hooks);
        for (number, ((poll, inbox), listeners)) in polls.into_iter().zip(inboxes).zip(listeners).enumerate() {
            let seed = Seed {
                poll,
                door: Door::new(listeners, share),
                ledger: Ledger::new(memory_budget, workers),
                resolver: resolver.clone(),
                inbox,
                control: Arc::clone(&control),
                tls: tls.clone(),
            };
            let (site, journals) = (site.clone(), Arc::clone(&journals));
            let farewell = Farewell { control: Arc::clone(&control), on_end: Arc::clone(&on_end) };
            let body = move || {
                // Last to be dropped: also when the thread panics.
                let _farewell = farewell;
                Worker::new(seed, Rc::new(site), journals()).run()
            };
            let spawned = thread::Builder::new().name(format!("worker-{number}")).spawn(body);
            match spawned {
                Ok(thread) => server.threads.push(thread),
                Err(error) => {
                    server.stop();
                    return Err(StartError::System(error));
                }
            }
        }
        Ok(server)
    }

    /// Where it listens, with real port numbers, and what it expects there.
    pub fn addresses(&self) -> &[(String, Speaks)] {
        &self.addresses
    }

    /// Whom `https://` upstreams are verified against: a phrase for each set of roots, none where there are none.
    pub fn trusted(&self) -> &[String] {
        self.tls.trusted()
    }

    /// Reads the certificates again that clients are shown; returns how many there are. On an error the old ones stay.
    pub fn reload_certificates(&self) -> Result<usize, TlsError> {
        self.tls.reload()
    }

    /// The descriptor limit; `None` where there is none.
    pub fn descriptor_limit(&self) -> Option<usize> {
        self.descriptor_limit
    }

    /// How many client connections may be open at once, over all workers.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Takes no new connections, finishes what is in flight, and ends within `timeouts.drain`.
    pub fn drain(&self) {
        self.control.give(Order::Drain);
    }

    /// Ends now, whatever is in flight.
    pub fn stop(&self) {
        self.control.give(Order::Stop);
    }

    /// Waits for the end.
    pub fn join(mut self) -> Result<(), WorkerLost> {
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => result = Err(WorkerLost),
            }
        }
        self.resolver.stop();
        self.files.clear();
        result
    }
}

/// All addresses, and what is spoken there.
fn addresses(config: &Config) -> impl Iterator<Item = (&ListenAddr, Speaks)> {
    let (first, with_tls) = match &config.tls {
        None => (Speaks::Plain, &[][..]),
        Some(tls) if tls.listen.is_empty() => (Speaks::Tls, &[][..]),
        Some(tls) => (Speaks::Plain, &tls.listen[..]),
    };
    let first = config.listen.iter().map(move |address| (address, first));
    first.chain(with_tls.iter().map(|address| (address, Speaks::Tls)))
}

/// A socket that was handed over, and what is spoken there.
fn adopt(socket: Inherited, config: &Config, workers: usize) -> Result<(Bound, Speaks), StartError> {
    let speaks = socket.speaks(config.tls.as_ref())?;
    Ok((socket.into_bound(workers)?, speaks))
}

/// What all listeners of one worker are.
type ByWorker = Vec<Vec<(Listening, Speaks)>>;

/// Sorts what was bound for each address by worker.
fn by_worker(bound: Vec<(Bound, Speaks)>, workers: usize) -> (Vec<(String, Speaks)>, Vec<SocketFile>, ByWorker) {
    let (mut addresses, mut files) = (Vec::new(), Vec::new());
    let mut listeners: ByWorker = (0..workers).map(|_| Vec::new()).collect();
    for (one, speaks) in bound {
        addresses.push((one.address, speaks));
        files.extend(one.file);
        for (listener, worker) in one.listeners.into_iter().zip(&mut listeners) {
            worker.push((listener, speaks));
        }
    }
    (addresses, files, listeners)
}

/// Says that a worker has ended, however it ended.
struct Farewell {
    control: Arc<Control>,
    on_end: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Half a proxy is worse than none: without this worker, its share of the connections would wait for ever. The
        // others finish what they have, and whoever supervises the process starts it anew.
        self.control.give(Order::Drain);
        if self.control.worker_ended() == 0 {
            (self.on_end)();
        }
    }
}
