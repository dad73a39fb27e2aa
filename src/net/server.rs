//! The whole proxy as one value: listeners, resolver, workers. Made by the main thread, and by tests.
//!
//! Everything that can fail at start fails here, in the caller's thread, before a worker runs.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Poll, Waker};

use crate::config::Config;
use crate::extras::metrics::Registry;
use crate::proxy::hooks::Hooks;
use crate::proxy::runtime::Runtime;

use super::acceptor::Acceptor;
use super::activation::Inherited;
use super::clock::since_1970;
use super::descriptors;
use super::dns::{DnsCache, Lookup};
use super::event_source::EventSource;
use super::listeners::ListenerSet;
use super::listeners::{ListenerProtocol, PortSharing};
use super::memory_budget::{self, MemoryBudget};
use super::observer::EventLog;
use super::splice::Pipes;
use super::tls::Tls;
use super::worker::{Worker, WorkerInit};
use super::worker_queue::{ReloadMsg, WorkerMsg, WorkerQueue};

pub use super::start_error::StartError;

/// A worker that is held up by a plugin takes a reload in when it can; so long it is waited for.
const RELOAD_PATIENCE: Duration = Duration::from_secs(5);

/// What a server is made of.
pub struct Parts {
    /// Checked.
    pub config: Arc<Config>,
    /// Sockets to listen on instead of the configuration's addresses; usually none.
    pub inherited: Vec<Inherited>,
    /// Whether another instance may have the addresses, which this one takes over from.
    pub port: PortSharing,
    /// The plugins, if any.
    pub hooks: Option<Arc<dyn Hooks>>,
    /// Turns names into addresses.
    pub names: Box<dyn Lookup>,
    /// Makes a log for each worker, on its thread.
    pub journals: Arc<dyn Fn() -> Box<dyn EventLog> + Send + Sync>,
    /// Called when the last worker has ended, whyever.
    pub on_end: Arc<dyn Fn() + Send + Sync>,
}

/// A worker ended before it was told to: its thread panicked, or the poller failed.
#[derive(Debug)]
pub struct WorkerLost;

/// How a reload went that was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// New requests are served by the new configuration.
    Everywhere,
    /// The same, but some worker is busy and will take it in when it is not.
    Soon,
}

/// A running proxy.
pub struct Server {
    runtime: Runtime,
    listeners: ListenerSet,
    queues: Arc<[Arc<WorkerQueue>]>,
    tls: Tls,
    descriptor_limit: Option<usize>,
    max_connections: usize,
    dns: DnsCache,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Binds all addresses and starts the workers.
    pub fn start(parts: Parts) -> Result<Server, StartError> {
        let Parts { config, inherited, port, hooks, names, journals, on_end } = parts;
        let workers = config.workers;
        let descriptor_limit = descriptors::limit();
        let memory_budget = config.limits.memory_budget;
        let max_connections = max_connections(&config, descriptor_limit);

        // Before anything listens: a client that comes in at once must find everything in its place.
        let tls = Tls::prepare(&config)?;
        let (listeners, by_worker) = ListenerSet::open(&config, inherited, workers, port)?;

        let polls = (0..workers).map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let queue =
            |poll: &Poll| Ok(Arc::new(WorkerQueue::new(Waker::new(poll.registry(), EventSource::Waker.token())?)));
        let queues = polls.iter().map(queue).collect::<io::Result<Arc<[_]>>>()?;
        let dns = DnsCache::start(names, config.dns.refresh)?;
        let running = Arc::new(AtomicUsize::new(workers));

        let runtime = Runtime::new(config, hooks);
        let mut server = Server {
            runtime: runtime.clone(),
            listeners,
            queues: Arc::clone(&queues),
            tls: tls.clone(),
            descriptor_limit,
            max_connections,
            dns: dns.clone(),
            threads: Vec::with_capacity(workers),
        };
        let share = descriptors::share(max_connections, workers);
        let registry = Arc::new(Registry::new(workers, since_1970()));
        for (number, (poll, listeners)) in polls.into_iter().zip(by_worker).enumerate() {
            let init = WorkerInit {
                acceptor: Acceptor::new(listeners, share),
                poll,
                memory: MemoryBudget::new(memory_budget, workers),
                pipes: Pipes::new(descriptors::pipes(descriptor_limit, workers)),
                dns: dns.clone(),
                queue: Arc::clone(&queues[number]),
                tls: tls.clone(),
                registry: Arc::clone(&registry),
                number,
            };
            let (runtime, journals) = (runtime.clone(), Arc::clone(&journals));
            let (queues, running, on_end) = (Arc::clone(&queues), Arc::clone(&running), Arc::clone(&on_end));
            let exit_guard = ExitGuard { queues, running, on_end };
            let body = move || {
                // Last to be dropped: also when the thread panics.
                let _exit_guard = exit_guard;
                Worker::new(init, Rc::new(runtime), journals()).run()
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
        if let Err(error) = server.listeners.publish() {
            server.stop();
            return Err(StartError::Listen(error));
        }
        Ok(server)
    }

    /// Where it listens, with real port numbers, and what it expects there.
    pub fn addresses(&self) -> Vec<(&str, ListenerProtocol)> {
        self.listeners.addresses().collect()
    }

    /// The configuration for new requests.
    pub fn config(&self) -> &Arc<Config> {
        &self.runtime.config
    }

    /// Serves new requests by `config`; those that run go on as they began. Files that it names are read anew, addresses
    /// that it adds are opened. On an error nothing has changed. Plugins stay as they are, and so does what is fixed at
    /// start: the number of workers and the memory budget.
    pub fn reload(&mut self, config: Arc<Config>) -> Result<Reloaded, StartError> {
        let tls = self.tls.renewed(&config)?;
        let plan = self.listeners.plan(&config)?;
        // From here on nothing fails.
        self.max_connections = max_connections(&config, self.descriptor_limit);
        self.runtime = self.runtime.reload(config);
        self.tls = tls;
        let max_clients = descriptors::share(self.max_connections, self.queues.len());
        let (receipt, receipts) = channel();
        for (queue, listeners) in self.queues.iter().zip(self.listeners.apply(plan)) {
            let (runtime, tls, receipt) = (self.runtime.clone(), self.tls.clone(), receipt.clone());
            let msg = ReloadMsg { runtime, tls, listeners, max_clients, receipt };
            queue.push(WorkerMsg::Reload(Box::new(msg)));
        }
        drop(receipt);
        let reloaded = match receipts.recv_timeout(RELOAD_PATIENCE) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Reloaded::Everywhere,
            Err(RecvTimeoutError::Timeout) => Reloaded::Soon,
        };
        self.dns.reload(self.runtime.config.dns.refresh, |id| self.runtime.origin(id).is_some());
        Ok(reloaded)
    }

    /// How many certificates clients may be shown.
    pub fn certificates(&self) -> usize {
        self.tls.certificates()
    }

    /// A sentence for each of our certificates that clients will refuse now.
    pub fn certificate_warnings(&self) -> Vec<String> {
        self.tls.warnings()
    }

    /// Whom `https://` upstreams are verified against: a phrase for each set of roots, none where there are none.
    pub fn trusted(&self) -> &[String] {
        self.tls.trusted()
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
    pub fn drain(&mut self) {
        // First the files of unix sockets, so that nobody comes between the last look into the queue and its end.
        self.listeners.close();
        self.queues.iter().for_each(|queue| queue.push(WorkerMsg::Drain));
    }

    /// Ends now, whatever is in flight.
    pub fn stop(&self) {
        self.queues.iter().for_each(|queue| queue.push(WorkerMsg::Stop));
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
        self.dns.stop();
        self.listeners.close();
        result
    }
}

/// How many clients may be inside, over all workers.
fn max_connections(config: &Config, descriptor_limit: Option<usize>) -> usize {
    let most = descriptors::max_connections(config.limits.max_connections, descriptor_limit);
    config.limits.memory_budget.map_or(most, |budget| most.min(memory_budget::connections(budget)))
}

/// Says that a worker has ended, however it ended.
struct ExitGuard {
    queues: Arc<[Arc<WorkerQueue>]>,
    /// How many workers run.
    running: Arc<AtomicUsize>,
    on_end: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        // Half a proxy is worse than none: without this worker, its share of the connections would wait for ever. The
        // others finish what they have, and whoever supervises the process starts it anew.
        self.queues.iter().for_each(|queue| queue.push(WorkerMsg::Drain));
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.on_end)();
        }
    }
}
