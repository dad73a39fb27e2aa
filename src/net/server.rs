//! The whole proxy as one value: listeners, resolver, workers. Made by the main thread, and by tests.
//!
//! Everything that can fail at start fails here, in the caller's thread, before a worker runs.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Poll, Waker};

use crate::config::Config;
use crate::extras::metrics::Registry;
use crate::proxy::proxy_connection::Observer;
use crate::proxy::runtime::{RouteHooks, Runtime};
use crate::start_error::StartError;

use super::acceptor::Acceptor;
use super::activation::Inherited;
use super::client_counts::ClientCounts;
use super::clock::since_1970;
use super::descriptors;
use super::dns::{DnsCache, Lookup};
use super::error_pages;
use super::event_source::EventSource;
use super::host_memory;
use super::listeners::{ListenerProtocol, ListenerSet};
use super::malloc_trim;
use super::memory_budget::{self, MemoryBudget};
use super::observer::MeteredObserver;
use super::splice::Pipes;
use super::tls::Tls;
use super::worker::{Worker, WorkerInit};
use super::worker_queue::{ReloadMsg, WorkerMsg, WorkerQueue};

/// So long a reload waits for a worker that is held up by a plugin.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server is made of.
pub struct ServerOptions {
    /// Checked.
    pub config: Arc<Config>,
    /// Sockets to listen on instead of the configuration's addresses; usually none.
    pub inherited: Vec<Inherited>,
    /// Whether another instance may have the addresses, which this one takes over from.
    pub takeover: bool,
    /// The plugins of each route.
    pub hooks: RouteHooks,
    /// Turns names into addresses.
    pub lookup: Box<dyn Lookup>,
    /// Makes a log for each worker, on its thread.
    pub new_log: Arc<dyn Fn() -> Box<dyn Observer> + Send + Sync>,
    /// Called when the last worker has ended, for whatever reason.
    pub on_end: Box<dyn Fn() + Send + Sync>,
}

/// A running proxy.
pub struct Server {
    runtime: Runtime,
    listeners: ListenerSet,
    workers: Arc<Workers>,
    /// The certificates, and whom upstreams are verified against.
    pub tls: Tls,
    /// `None` where there is none.
    pub descriptor_limit: Option<usize>,
    /// How many client connections may be open at once, over all workers.
    pub max_connections: usize,
    /// What that follows from: `max_connections`, `descriptors`, `memory`, `memory_budget` or `default`.
    pub max_connections_by: &'static str,
    dns: Arc<DnsCache>,
    registry: Arc<Registry>,
    threads: Vec<JoinHandle<thread::Result<io::Result<()>>>>,
}

impl Server {
    /// Binds all addresses and starts the workers.
    pub fn start(options: ServerOptions) -> Result<Server, StartError> {
        let ServerOptions { config, inherited, takeover, hooks, lookup, new_log, on_end } = options;
        let workers = config.workers;
        let memory_budget = config.limits.memory_budget;
        let descriptor_limit = descriptors::limit();
        let (max_connections, max_connections_by) = max_connections(&config, descriptor_limit);
        // Before anything listens: a client that comes in at once must find everything in its place.
        let tls = Tls::load(&config)?;
        let (listeners, updates) = ListenerSet::open(&config, inherited, workers, takeover)?;
        let polls = (0..workers).map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let queue =
            |poll: &Poll| Ok(Arc::new(WorkerQueue::new(Waker::new(poll.registry(), EventSource::Waker.token())?)));
        let queues = polls.iter().map(queue).collect::<io::Result<Vec<_>>>()?;
        let mut runtime = Runtime::new(Arc::clone(&config), hooks);
        runtime.error_pages = error_pages::load(&config)?;
        let mut server = Server {
            dns: DnsCache::start(lookup, config.dns.refresh)?,
            runtime,
            listeners,
            workers: Arc::new(Workers { queues, running: AtomicUsize::new(workers), on_end }),
            tls,
            descriptor_limit,
            max_connections,
            max_connections_by,
            registry: Arc::new(Registry::new(workers, since_1970())),
            threads: Vec::with_capacity(workers),
        };
        // What reading the configuration took: with 100,000 routes 7 of 36 MiB.
        malloc_trim::trim();
        let (registry, client_counts) = (Arc::clone(&server.registry), ClientCounts::default());
        registry.expiries().clone_from(&server.tls.report.expiries);
        for (number, (poll, update)) in polls.into_iter().zip(updates).enumerate() {
            let init = WorkerInit {
                acceptor: Acceptor::new(update.new, share(max_connections, workers, number)),
                poll,
                memory: MemoryBudget::new(memory_budget, workers),
                pipes: Pipes::new(descriptors::pipes(descriptor_limit, workers)),
                dns: Arc::clone(&server.dns),
                queue: Arc::clone(&server.workers.queues[number]),
                tls: server.tls.clone(),
                client_counts: client_counts.clone(),
            };
            let (runtime, new_log, registry) = (server.runtime.clone(), Arc::clone(&new_log), Arc::clone(&registry));
            let workers = Arc::clone(&server.workers);
            let body = move || {
                let observer = || MeteredObserver::new(registry, number, new_log());
                let result = catch_unwind(AssertUnwindSafe(|| Worker::new(init, Rc::new(runtime), observer()).run()));
                workers.on_exit();
                result
            };
            let spawned = thread::Builder::new().name(format!("worker-{number}")).spawn(body);
            server.threads.push(spawned.inspect_err(|_| server.stop())?);
        }
        server.listeners.publish().inspect_err(|_| server.stop())?;
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
    /// that it adds are opened. On an error nothing has changed. What is fixed at start stays as it is: the number of workers
    /// and the memory budget. Returns whether all workers have it; one that is busy takes it when it is not.
    pub fn reload(&mut self, config: Arc<Config>, hooks: RouteHooks) -> Result<bool, StartError> {
        let mut runtime = self.runtime.reload(Arc::clone(&config), hooks);
        runtime.error_pages = error_pages::load(&config)?;
        let tls = self.tls.reload(&config)?;
        let updates = self.listeners.update(&config)?;
        // From here on nothing fails.
        (self.runtime, self.tls) = (runtime, tls);
        self.registry.expiries().clone_from(&self.tls.report.expiries);
        (self.max_connections, self.max_connections_by) = max_connections(&config, self.descriptor_limit);
        let (receipt, receipts) = channel();
        for (number, (queue, listeners)) in self.workers.queues.iter().zip(updates).enumerate() {
            let max_clients = share(self.max_connections, self.workers.queues.len(), number);
            let (runtime, tls, receipt) = (self.runtime.clone(), self.tls.clone(), receipt.clone());
            let msg = ReloadMsg { runtime, tls, listeners, max_clients, receipt };
            queue.push(WorkerMsg::Reload(Box::new(msg)));
        }
        drop(receipt);
        self.dns.set_refresh(config.dns.refresh);
        // Nothing is sent: the channel is closed when the last worker has dropped its end.
        Ok(receipts.recv_timeout(RELOAD_TIMEOUT) != Err(RecvTimeoutError::Timeout))
    }

    /// Takes no new connections, finishes what is in flight, and ends within `timeouts.drain`.
    pub fn drain(&mut self) {
        // First the files of unix sockets, so that nobody comes between the last look into the queue and its end.
        self.listeners.close();
        self.workers.send(|| WorkerMsg::Drain);
    }

    /// Ends now, whatever is in flight.
    pub fn stop(&self) {
        self.workers.send(|| WorkerMsg::Stop);
    }

    /// Waits for the end. An error: a worker ended before it was told to, because its thread panicked or the poller failed.
    pub fn join(mut self) -> Result<(), &'static str> {
        let results: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        self.dns.stop();
        self.listeners.close();
        let is_good = results.iter().all(|result| matches!(result, Ok(Ok(Ok(())))));
        if is_good { Ok(()) } else { Err("a worker has failed; the log says why") }
    }
}

/// How many clients may be inside, over all workers, and by what.
fn max_connections(config: &Config, descriptor_limit: Option<usize>) -> (usize, &'static str) {
    let auto = || descriptors::max_connections(descriptor_limit, host_memory::limit());
    let most = config.limits.max_connections.map_or_else(auto, |most| (most, "max_connections"));
    let budget = config.limits.memory_budget.map(|budget| (memory_budget::connections(budget), "memory_budget"));
    budget.filter(|budget| budget.0 < most.0).unwrap_or(most)
}

/// The part of it that the worker with that number has; never none, its part of the newcomers has no other.
fn share(max_connections: usize, workers: usize, number: usize) -> usize {
    (max_connections / workers + usize::from(number < max_connections % workers)).max(1)
}

/// What all threads know of the workers.
struct Workers {
    queues: Vec<Arc<WorkerQueue>>,
    running: AtomicUsize,
    on_end: Box<dyn Fn() + Send + Sync>,
}

impl Workers {
    fn send(&self, msg: impl Fn() -> WorkerMsg) {
        self.queues.iter().for_each(|queue| queue.push(msg()));
    }

    /// A worker has ended, however it ended.
    fn on_exit(&self) {
        // Half a proxy is worse than none: without this worker, its share of the connections would wait for ever. The
        // others finish what they have, and the supervisor of the process starts it anew.
        self.send(|| WorkerMsg::Drain);
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.on_end)();
        }
    }
}
