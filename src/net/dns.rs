//! Names are looked up on threads of their own, through the system's resolver, so that no loop ever waits (rule E1).
//!
//! A worker asks for a name and goes on; the result comes into its [`WorkerQueue`]. All workers share
//! one cache: a result is good for `dns.refresh`, and a look-up that fails keeps the old addresses. When a name is looked
//! up again is decided by the worker that uses it ([`upstream`](super::upstream)). IP literals never come here.
//!
//! One thread is always there; while it is busy, each look-up gets one more: a name whose servers do not answer holds up no
//! other.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::runtime::{Origin, UpstreamId};

use super::worker_queue::{DnsEvent, WorkerMsg, WorkerQueue};

/// The most look-ups, and so threads, at the same time. Only so many names whose servers do not answer hold up others.
const MAX_LOOKUPS: usize = 32;
/// A name that does not resolve is not looked up again sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// More addresses of a name are not worth trying.
const MAX_ADDRESSES: usize = 16;

/// Turns names into addresses; may block.
pub trait Lookup: Send + Sync {
    /// The addresses of `host`, best first.
    fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The system's resolver: hosts file, DNS, whatever the host is set up to ask; all families, in its order.
#[derive(Debug)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        // IPv4 first: most servers listen there, and a refusal costs one more attempt.
        if is_localhost(host) {
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).to_vec());
        }
        (host, port).to_socket_addrs().map(Iterator::collect)
    }
}

/// `localhost` is this host, whatever servers say (RFC 6761 section 6.3), and also without a hosts file.
fn is_localhost(host: &str) -> bool {
    host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("localhost")
}

/// The names that all workers look up.
#[derive(Clone)]
pub(super) struct DnsCache {
    shared: Arc<Shared>,
}

struct Shared {
    /// Results are published while this is locked, so that they arrive in the order in which they were found.
    state: Mutex<CacheState>,
    /// The first thread waits here.
    wake: Condvar,
    source: Box<dyn Lookup>,
}

struct CacheState {
    refresh: Duration,
    names: HashMap<UpstreamId, Name>,
    /// Names that wait for a thread.
    queue: VecDeque<UpstreamId>,
    threads: usize,
    is_first_idle: bool,
    is_stopped: bool,
}

struct Name {
    host: String,
    port: u16,
    /// The end of the last look-up.
    checked_at: Option<MonoTime>,
    addresses: Option<Arc<[SocketAddr]>>,
    lookup: LookupState,
    /// Workers that wait for the look-up.
    waiting: Vec<Arc<WorkerQueue>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LookupState {
    Idle,
    /// Old addresses may be used meanwhile.
    Refreshing,
    Needed,
}

/// A thread panicked while it held the lock: what it guards is changed in single steps, so it is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DnsCache {
    /// Starts the first thread.
    pub fn start(source: Box<dyn Lookup>, refresh: Duration) -> io::Result<DnsCache> {
        let state = CacheState {
            refresh,
            names: HashMap::new(),
            queue: VecDeque::new(),
            threads: 1,
            is_first_idle: false,
            is_stopped: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), source });
        let cache = DnsCache { shared: Arc::clone(&shared) };
        thread::Builder::new().name("resolver".to_owned()).spawn(move || shared.run(true))?;
        Ok(cache)
    }

    /// Wants the addresses of an upstream; the result always comes into `queue`, at once where it is known. `is_refresh`: the
    /// worker has addresses to go on with.
    pub fn lookup(
        &self,
        now: MonoTime,
        queue: &Arc<WorkerQueue>,
        upstream: UpstreamId,
        origin: &Origin,
        is_refresh: bool,
    ) {
        let mut state = lock(&self.shared.state);
        let refresh = state.refresh;
        let name = state.names.entry(upstream).or_insert_with(|| Name {
            host: origin.host.clone(),
            port: origin.port,
            checked_at: None,
            addresses: None,
            lookup: LookupState::Idle,
            waiting: Vec::new(),
        });
        if let Some(checked_at) = name.checked_at {
            let age = now.saturating_duration_since(checked_at);
            let is_known = match &name.addresses {
                Some(_) => age < refresh || name.lookup == LookupState::Refreshing,
                None => age < RETRY_AFTER,
            };
            if is_known {
                return queue.push(WorkerMsg::Dns(DnsEvent {
                    upstream,
                    checked_at,
                    addresses: name.addresses.clone(),
                }));
            }
        }
        if !name.waiting.iter().any(|other| Arc::ptr_eq(other, queue)) {
            name.waiting.push(Arc::clone(queue));
        }
        if name.lookup == LookupState::Idle {
            name.lookup = if is_refresh { LookupState::Refreshing } else { LookupState::Needed };
            state.queue.push_back(upstream);
            self.shared.start_thread(&mut state);
        }
    }

    /// After a reload: another refresh time, and only those names are kept that `is_kept` or that a worker waits for.
    pub fn reload(&self, refresh: Duration, is_kept: impl Fn(UpstreamId) -> bool) {
        let mut state = lock(&self.shared.state);
        state.refresh = refresh;
        state.names.retain(|id, name| is_kept(*id) || name.lookup != LookupState::Idle);
    }

    /// Ends the first thread; the others end by themselves.
    pub fn stop(&self) {
        lock(&self.shared.state).is_stopped = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn start_thread(self: &Arc<Shared>, state: &mut CacheState) {
        if std::mem::take(&mut state.is_first_idle) {
            self.wake.notify_one();
        } else if state.threads < MAX_LOOKUPS {
            let shared = Arc::clone(self);
            // If this host allows no more threads, those that run get to it.
            let thread = thread::Builder::new().name("lookup".to_owned()).spawn(move || shared.run(false));
            state.threads += usize::from(thread.is_ok());
        }
    }

    /// Looks up what is in the queue.
    fn run(&self, is_first: bool) {
        let mut state = lock(&self.state);
        while !state.is_stopped {
            let Some(upstream) = state.queue.pop_front() else {
                if !is_first {
                    break;
                }
                state.is_first_idle = true;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.is_first_idle = false;
                continue;
            };
            let Some(Name { host, port, .. }) = state.names.get(&upstream) else { continue };
            let (host, port) = (host.clone(), *port);
            drop(state);
            let found = self.source.lookup(&host, port).unwrap_or_default();
            state = lock(&self.state);
            if let Some(name) = state.names.get_mut(&upstream) {
                name.publish(upstream, &found[..found.len().min(MAX_ADDRESSES)]);
            }
        }
        state.threads -= 1;
    }
}

impl Name {
    fn publish(&mut self, upstream: UpstreamId, found: &[SocketAddr]) {
        let checked_at = MonoTime::now();
        self.checked_at = Some(checked_at);
        self.lookup = LookupState::Idle;
        // A failed look-up keeps the old addresses.
        if !found.is_empty() {
            self.addresses = Some(Arc::from(found));
        }
        for queue in self.waiting.drain(..) {
            queue.push(WorkerMsg::Dns(DnsEvent { upstream, checked_at, addresses: self.addresses.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token, Waker};
    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    const NAME: UpstreamId = UpstreamId(3);
    const HOUR: Duration = Duration::from_secs(3600);

    fn origin(host: &str) -> Origin {
        Origin { host: host.to_owned(), port: 80, scheme: crate::config::Scheme::Http, tls: None }
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    /// A worker's end.
    struct Asker {
        poll: Poll,
        queue: Arc<WorkerQueue>,
    }

    impl Asker {
        fn new() -> Asker {
            let poll = Poll::new().expect("poll");
            let waker = Waker::new(poll.registry(), Token(0)).expect("waker");
            Asker { poll, queue: Arc::new(WorkerQueue::new(waker)) }
        }

        fn take(&self) -> Vec<DnsEvent> {
            let event = |message| if let WorkerMsg::Dns(event) = message { Some(event) } else { None };
            self.queue.take().into_iter().filter_map(event).collect()
        }

        fn ask(&self, cache: &DnsCache, id: UpstreamId, host: &str) {
            cache.lookup(MonoTime::now(), &self.queue, id, &origin(host), false);
        }

        fn wait_for(&mut self, count: usize) -> Vec<DnsEvent> {
            let (mut events, mut all) = (Events::with_capacity(4), self.take());
            while all.len() < count {
                self.poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
                assert!(!events.is_empty(), "{} results of {count} in five seconds", all.len());
                all.extend(self.take());
            }
            all
        }

        /// The next result.
        fn wait(&mut self) -> Option<Vec<SocketAddr>> {
            let [event] = <[_; 1]>::try_from(self.wait_for(1)).expect("one");
            assert_eq!(event.upstream, NAME);
            event.addresses.map(|list| list.to_vec())
        }
    }

    /// Answers as the test says, when the test says.
    struct Script(Mutex<Receiver<io::Result<Vec<SocketAddr>>>>);

    impl Lookup for Script {
        fn lookup(&self, _host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            lock(&self.0).recv().unwrap_or_else(|_| Err(io::Error::other("the test is over")))
        }
    }

    struct Bench {
        asker: Asker,
        cache: DnsCache,
        answers: Sender<io::Result<Vec<SocketAddr>>>,
    }

    impl Bench {
        fn new() -> Bench {
            let (answers, receiver) = channel();
            let cache = DnsCache::start(Box::new(Script(Mutex::new(receiver))), HOUR).expect("a thread");
            Bench { asker: Asker::new(), cache, answers }
        }

        fn ask(&self) {
            self.asker.ask(&self.cache, NAME, "origin.test");
        }

        fn ask_later(&self, later: Duration, is_refresh: bool) {
            self.cache.lookup(MonoTime::now() + later, &self.asker.queue, NAME, &origin("origin.test"), is_refresh);
        }

        fn answer(&self, texts: &[&str]) {
            let answer = if texts.is_empty() { Err(io::Error::other("no such name")) } else { Ok(addresses(texts)) };
            self.answers.send(answer).expect("a thread waits");
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.cache.stop();
        }
    }

    #[test]
    fn e1_all_addresses_of_both_families_arrive() {
        let mut bench = Bench::new();
        bench.ask();
        let both = ["[::1]:80", "127.0.0.1:80"];
        bench.answer(&both);
        assert_eq!(bench.asker.wait(), Some(addresses(&both)));
        bench.ask();
        assert_eq!(bench.asker.wait(), Some(addresses(&both)), "known: without a look-up");
    }

    #[test]
    fn e1_a_name_that_does_not_resolve_is_answered_and_not_asked_for_at_once_again() {
        let mut bench = Bench::new();
        bench.ask();
        bench.answer(&[]);
        assert_eq!(bench.asker.wait(), None);
        bench.ask();
        assert_eq!(bench.asker.wait(), None, "without a look-up");
        bench.ask_later(RETRY_AFTER, false);
        bench.answer(&["127.0.0.1:80"]);
        assert_eq!(bench.asker.wait(), Some(addresses(&["127.0.0.1:80"])));
    }

    #[test]
    fn e1_a_refresh_replaces_addresses_and_a_failed_one_keeps_them() {
        let mut bench = Bench::new();
        bench.ask();
        bench.answer(&["127.0.0.1:80"]);
        assert_eq!(bench.asker.wait(), Some(addresses(&["127.0.0.1:80"])));
        bench.ask_later(HOUR, true);
        // Somebody else needs it meanwhile: the old addresses will do.
        let mut other = Asker::new();
        other.ask(&bench.cache, NAME, "origin.test");
        assert_eq!(other.wait(), Some(addresses(&["127.0.0.1:80"])));
        bench.answer(&[]);
        assert_eq!(bench.asker.wait(), Some(addresses(&["127.0.0.1:80"])));
        bench.ask_later(HOUR * 2, true);
        bench.answer(&["127.0.0.2:80"]);
        assert_eq!(bench.asker.wait(), Some(addresses(&["127.0.0.2:80"])));
    }

    #[test]
    fn old_addresses_are_looked_up_before_they_are_used() {
        let mut bench = Bench::new();
        bench.ask();
        bench.answer(&["127.0.0.1:80"]);
        bench.asker.wait();
        for _ in 0..2 {
            bench.ask_later(HOUR, false);
        }
        bench.answer(&["127.0.0.2:80"]);
        assert_eq!(bench.asker.wait(), Some(addresses(&["127.0.0.2:80"])));
    }

    #[test]
    fn a_reload_drops_names_but_not_whoever_waits_for_one() {
        let mut bench = Bench::new();
        let (one, two) = (&["127.0.0.1:80"], &["127.0.0.2:80"]);
        bench.ask();
        // It runs, or is about to: its answer comes all the same.
        bench.cache.reload(HOUR, |_| false);
        bench.answer(one);
        assert_eq!(bench.asker.wait(), Some(addresses(one)));
        bench.cache.reload(HOUR, |id| id == NAME);
        bench.ask();
        assert_eq!(bench.asker.wait(), Some(addresses(one)), "kept: without a look-up");
        bench.cache.reload(HOUR, |_| false);
        bench.ask();
        bench.answer(two);
        assert_eq!(bench.asker.wait(), Some(addresses(two)), "forgotten: looked up again");
    }

    /// Names that begin with `h` hang until the sender is dropped; the others are numbers, and count their look-ups.
    struct Hanging {
        never: Mutex<Receiver<()>>,
        lookups: AtomicU16,
        most: Arc<AtomicUsize>,
        now: AtomicUsize,
    }

    impl Lookup for Hanging {
        fn lookup(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            if host.starts_with('h') {
                let _ = lock(&self.never).recv();
            }
            self.now.fetch_sub(1, Ordering::Relaxed);
            let port = self.lookups.fetch_add(1, Ordering::Relaxed);
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        }
    }

    struct Crowd {
        cache: DnsCache,
        release: Option<Sender<()>>,
        most: Arc<AtomicUsize>,
    }

    impl Crowd {
        fn new(refresh: Duration) -> Crowd {
            let (release, never) = channel();
            let most = Arc::new(AtomicUsize::new(0));
            let source = Hanging {
                never: Mutex::new(never),
                lookups: AtomicU16::new(0),
                most: Arc::clone(&most),
                now: AtomicUsize::new(0),
            };
            let cache = DnsCache::start(Box::new(source), refresh).expect("a thread");
            Crowd { cache, release: Some(release), most }
        }
    }

    impl Drop for Crowd {
        fn drop(&mut self) {
            self.release = None;
            self.cache.stop();
        }
    }

    #[test]
    fn e1_names_that_hang_hold_up_no_other() {
        let mut crowd = Crowd::new(HOUR);
        let mut asker = Asker::new();
        for id in 0..8 {
            asker.ask(&crowd.cache, UpstreamId(id), "hanging");
        }
        asker.ask(&crowd.cache, UpstreamId(100), "other");
        assert_eq!(asker.wait_for(1)[0].upstream, UpstreamId(100));
        // More than can be looked up at a time: none is lost.
        for id in 8..50 {
            asker.ask(&crowd.cache, UpstreamId(id), "hanging");
        }
        crowd.release = None;
        asker.wait_for(50);
        assert!(crowd.most.load(Ordering::Relaxed) <= MAX_LOOKUPS);
    }

    #[test]
    fn only_who_asked_is_woken() {
        let crowd = Crowd::new(HOUR);
        let (mut asks, mut other) = (Asker::new(), Asker::new());
        asks.ask(&crowd.cache, NAME, "name");
        let first = asks.wait();
        let mut events = Events::with_capacity(4);
        other.poll.poll(&mut events, Some(Duration::ZERO)).expect("poll");
        assert!(events.is_empty() && other.take().is_empty());
        other.ask(&crowd.cache, NAME, "name");
        assert_eq!(other.wait(), first);
        assert!(asks.take().is_empty());
    }

    #[test]
    fn answers_arrive_in_the_order_in_which_they_were_found() {
        let crowd = Crowd::new(Duration::ZERO);
        let end = MonoTime::now() + Duration::from_millis(200);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let asker = Asker::new();
                    let mut last = 0;
                    while MonoTime::now() < end {
                        asker.ask(&crowd.cache, NAME, "name");
                        for event in asker.take() {
                            let port = event.addresses.expect("it resolves")[0].port();
                            // The ports count the look-ups, and may begin again.
                            assert!(port.wrapping_sub(last) < 1 << 15, "{port} after {last}");
                            last = port;
                        }
                    }
                });
            }
        });
    }

    /// Without a hosts file and without name servers, as in an empty root.
    #[test]
    fn e7_localhost_is_built_in() {
        for name in ["localhost", "LocalHost", "localhost."] {
            let found = SystemLookup.lookup(name, 80).expect("it needs nothing");
            assert_eq!(found, addresses(&["127.0.0.1:80", "[::1]:80"]), "{name}");
        }
        assert!(!["localhost.example", "app.localhost", "notlocalhost", ""].into_iter().any(is_localhost));
    }
}
