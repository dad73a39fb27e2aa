//! Names are looked up on threads of their own, through the system's resolver, so that no loop ever waits (rule E1).
//!
//! A worker asks for a name and goes on; the result comes into its `WorkerQueue`. A name is looked
//! up again every `dns.refresh` for as long as a worker asks for the next result when it gets one, which
//! `upstream` does for addresses that are in use. A look-up that fails keeps the old addresses. IP
//! literals never come here.
//!
//! One thread always waits for the next name that is due; a look-up takes that thread and has another one wait, so that a
//! name whose servers do not answer holds up no other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::runtime::UpstreamId;

use super::worker_queue::{WorkerMsg, WorkerQueue};

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

/// Which names are looked up when, who wants the results, and which threads look them up.
#[derive(Default)]
struct Names {
    refresh: Duration,
    by_id: HashMap<UpstreamId, Name>,
    /// When each name is due that is not just being looked up.
    due: BinaryHeap<Reverse<(MonoTime, UpstreamId)>>,
    threads: usize,
    is_one_waiting: bool,
    is_stopped: bool,
}

struct Name {
    host: String,
    port: u16,
    /// Whether a look-up has ended.
    is_checked: bool,
    /// Empty where it has never resolved.
    addresses: Arc<[SocketAddr]>,
    /// Workers that want the next result.
    waiting: Vec<Arc<WorkerQueue>>,
}

impl Names {
    fn lookup(&mut self, queue: &Arc<WorkerQueue>, upstream: UpstreamId, (host, port): (&str, u16), is_next: bool) {
        let name = self.by_id.entry(upstream).or_insert_with(|| {
            self.due.push(Reverse((MonoTime::FIRST, upstream)));
            Name { host: host.to_owned(), port, is_checked: false, addresses: Arc::default(), waiting: Vec::new() }
        });
        if name.is_checked && !is_next {
            queue.push(WorkerMsg::Dns(upstream, name.addresses.clone()));
        } else if !name.waiting.iter().any(|other| Arc::ptr_eq(other, queue)) {
            name.waiting.push(Arc::clone(queue));
        }
    }

    fn next_due(&self) -> Option<MonoTime> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// A name to be looked up now. What is due and nobody waits for is forgotten.
    fn take_due(&mut self, now: MonoTime) -> Option<(UpstreamId, String, u16)> {
        while self.next_due().is_some_and(|due| due <= now) {
            let Reverse((_, upstream)) = self.due.pop()?;
            match self.by_id.get(&upstream) {
                Some(name) if !name.waiting.is_empty() => return Some((upstream, name.host.clone(), name.port)),
                _ => self.by_id.remove(&upstream),
            };
        }
        None
    }

    /// A look-up has ended.
    fn publish(&mut self, now: MonoTime, upstream: UpstreamId, found: &[SocketAddr]) {
        let Some(name) = self.by_id.get_mut(&upstream) else { return };
        name.is_checked = true;
        if !found.is_empty() {
            name.addresses = Arc::from(&found[..found.len().min(MAX_ADDRESSES)]);
        }
        for queue in name.waiting.drain(..) {
            queue.push(WorkerMsg::Dns(upstream, name.addresses.clone()));
        }
        let pause = if name.addresses.is_empty() { RETRY_AFTER } else { self.refresh };
        self.due.push(Reverse((now + pause, upstream)));
    }
}

/// The names that all workers look up.
pub(super) struct DnsCache {
    /// Results are published while this is locked, so that they arrive in the order in which they were found.
    names: Mutex<Names>,
    /// One thread waits here.
    wake: Condvar,
    source: Box<dyn Lookup>,
}

impl DnsCache {
    /// Starts the first thread.
    pub fn start(source: Box<dyn Lookup>, refresh: Duration) -> io::Result<Arc<DnsCache>> {
        let names = Mutex::new(Names { refresh, ..Names::default() });
        let cache = Arc::new(DnsCache { names, wake: Condvar::new(), source });
        cache.start_thread(&mut cache.lock())?;
        Ok(cache)
    }

    /// Wants the addresses of an upstream with this host and port, which come into `queue`: at once where they are known, or
    /// with `is_next` when they are looked up again.
    pub fn lookup(self: &Arc<Self>, queue: &Arc<WorkerQueue>, upstream: UpstreamId, name: (&str, u16), is_next: bool) {
        let mut names = self.lock();
        names.lookup(queue, upstream, name, is_next);
        if names.next_due().is_some_and(|due| due <= MonoTime::now()) {
            self.call_thread(&mut names);
        }
    }

    /// After a reload: another refresh time, also for what was looked up before.
    pub fn set_refresh(&self, refresh: Duration) {
        let mut names = self.lock();
        names.refresh = refresh;
        let latest = MonoTime::now() + refresh;
        names.due = names.due.drain().map(|Reverse((due, upstream))| Reverse((due.min(latest), upstream))).collect();
        self.wake.notify_one();
    }

    /// Ends the thread that waits; the others end by themselves.
    pub fn stop(&self) {
        self.lock().is_stopped = true;
        self.wake.notify_one();
    }

    /// A thread panicked while it held the lock: what it guards is changed in single steps, so it is whole.
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread see to what is due. If this host allows no more threads, those that run get to it.
    fn call_thread(self: &Arc<DnsCache>, names: &mut Names) {
        if names.is_one_waiting {
            self.wake.notify_one();
        } else if names.threads < MAX_LOOKUPS {
            let _ = self.start_thread(names);
        }
    }

    fn start_thread(self: &Arc<DnsCache>, names: &mut Names) -> io::Result<()> {
        let cache = Arc::clone(self);
        thread::Builder::new().name("resolver".to_owned()).spawn(move || cache.run())?;
        names.threads += 1;
        Ok(())
    }

    fn run(self: &Arc<DnsCache>) {
        let mut names = self.lock();
        while !names.is_stopped {
            let now = MonoTime::now();
            if let Some((upstream, host, port)) = names.take_due(now) {
                self.call_thread(&mut names);
                drop(names);
                let found = self.source.lookup(&host, port).unwrap_or_default();
                names = self.lock();
                names.publish(MonoTime::now(), upstream, &found);
            } else if names.is_one_waiting {
                // What was published may be due before the time until which that one waits.
                self.wake.notify_one();
                break;
            } else {
                names.is_one_waiting = true;
                let timeout = names.next_due().map_or(Duration::MAX, |due| due - now);
                (names, _) = self.wake.wait_timeout(names, timeout).unwrap_or_else(PoisonError::into_inner);
                names.is_one_waiting = false;
            }
        }
        names.threads -= 1;
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

        fn take(&self) -> Vec<(UpstreamId, Vec<SocketAddr>)> {
            let event =
                |message| if let WorkerMsg::Dns(id, found) = message { Some((id, found.to_vec())) } else { None };
            self.queue.take().into_iter().filter_map(event).collect()
        }

        fn ask(&self, cache: &Arc<DnsCache>, id: UpstreamId, host: &str) {
            cache.lookup(&self.queue, id, (host, 80), false);
        }

        fn wait_for(&mut self, count: usize) -> Vec<(UpstreamId, Vec<SocketAddr>)> {
            let (mut events, mut all) = (Events::with_capacity(4), self.take());
            while all.len() < count {
                self.poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
                assert!(!events.is_empty(), "{} results of {count} in five seconds", all.len());
                all.extend(self.take());
            }
            all
        }

        /// The next result.
        fn wait(&mut self) -> Vec<SocketAddr> {
            let [(upstream, addresses)] = <[_; 1]>::try_from(self.wait_for(1)).expect("one");
            assert_eq!(upstream, NAME);
            addresses
        }
    }

    /// The names, without threads: they are looked up when the test says so.
    struct Bench {
        names: Names,
        asker: Asker,
        now: MonoTime,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { names: Names { refresh: HOUR, ..Names::default() }, asker: Asker::new(), now: MonoTime::now() }
        }

        fn ask(&mut self, is_next: bool) {
            self.names.lookup(&self.asker.queue, NAME, ("origin.test", 80), is_next);
        }

        /// Looks up what is due; tells whether there was anything.
        fn look_up(&mut self, found: &[&str]) -> bool {
            let Some((id, host, port)) = self.names.take_due(self.now) else { return false };
            assert_eq!((id, host.as_str(), port), (NAME, "origin.test", 80));
            assert_eq!(self.names.take_due(self.now), None, "one at a time");
            self.names.publish(self.now, id, &addresses(found));
            true
        }

        /// The results that have arrived.
        fn results(&self) -> Vec<Vec<SocketAddr>> {
            self.asker.take().into_iter().map(|(_, addresses)| addresses).collect()
        }
    }

    #[test]
    fn e1_all_addresses_of_both_families_arrive() {
        let mut bench = Bench::new();
        let both = ["[::1]:80", "127.0.0.1:80"];
        bench.ask(false);
        bench.ask(false);
        assert!(bench.look_up(&both));
        assert_eq!(bench.results(), [addresses(&both)]);
        bench.ask(false);
        assert!(!bench.look_up(&[]), "known: without a look-up");
        assert_eq!(bench.results(), [addresses(&both)]);
    }

    #[test]
    fn e1_a_name_that_does_not_resolve_is_answered_and_not_asked_for_at_once_again() {
        let mut bench = Bench::new();
        bench.ask(false);
        assert!(bench.look_up(&[]));
        bench.ask(false);
        assert!(!bench.look_up(&[]));
        assert_eq!(bench.results(), [[], []]);
        bench.now = bench.now + RETRY_AFTER;
        assert!(!bench.look_up(&[]), "nobody waits for it");
        bench.ask(false);
        assert!(bench.look_up(&["127.0.0.1:80"]));
        assert_eq!(bench.results(), [addresses(&["127.0.0.1:80"])]);
    }

    #[test]
    fn e1_a_refresh_replaces_addresses_and_a_failed_one_keeps_them() {
        let mut bench = Bench::new();
        bench.ask(false);
        for (found, expected) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("", "127.0.0.1:80"), ("127.0.0.2:80", "127.0.0.2:80")]
        {
            let found = if found.is_empty() { vec![] } else { vec![found] };
            assert!(bench.look_up(&found));
            bench.ask(true);
            assert!(!bench.look_up(&[]), "not before its time");
            assert_eq!(bench.results(), [addresses(&[expected])]);
            // Somebody needs it meanwhile: the old addresses will do.
            bench.ask(false);
            assert_eq!(bench.results(), [addresses(&[expected])]);
            bench.now = bench.now + HOUR;
        }
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_forgotten_and_looked_up_before_it_is_used() {
        let mut bench = Bench::new();
        bench.ask(false);
        assert!(bench.look_up(&["127.0.0.1:80"]));
        bench.now = bench.now + HOUR;
        assert!(!bench.look_up(&[]));
        assert!(bench.names.by_id.is_empty() && bench.names.due.is_empty());
        // Late: it was forgotten in the moment before.
        bench.ask(true);
        assert!(bench.look_up(&["127.0.0.2:80"]));
        assert_eq!(bench.results(), [addresses(&["127.0.0.1:80"]), addresses(&["127.0.0.2:80"])]);
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
                let _ = self.never.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            self.now.fetch_sub(1, Ordering::Relaxed);
            let port = self.lookups.fetch_add(1, Ordering::Relaxed);
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        }
    }

    struct Crowd {
        cache: Arc<DnsCache>,
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
        assert_eq!(asker.wait_for(1)[0].0, UpstreamId(100));
        // More than can be looked up at a time: none is lost.
        for id in 8..50 {
            asker.ask(&crowd.cache, UpstreamId(id), "hanging");
        }
        crowd.release = None;
        asker.wait_for(50);
        assert!(crowd.most.load(Ordering::Relaxed) <= MAX_LOOKUPS);
    }

    #[test]
    fn e1_names_are_looked_up_again_however_long_a_look_up_takes() {
        struct Slow;
        impl Lookup for Slow {
            fn lookup(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
                thread::sleep(Duration::from_millis(50));
                Ok(addresses(&["127.0.0.1:80"]))
            }
        }
        let cache = DnsCache::start(Box::new(Slow), Duration::from_millis(50)).expect("a thread");
        let mut asker = Asker::new();
        asker.ask(&cache, NAME, "name");
        for _ in 0..3 {
            asker.wait_for(1);
            cache.lookup(&asker.queue, NAME, ("name", 80), true);
        }
        cache.stop();
    }

    #[test]
    fn e1_a_shorter_refresh_holds_at_once() {
        let crowd = Crowd::new(HOUR);
        let mut asker = Asker::new();
        asker.ask(&crowd.cache, NAME, "name");
        asker.wait_for(1);
        crowd.cache.lookup(&asker.queue, NAME, ("name", 80), true);
        crowd.cache.set_refresh(Duration::from_millis(20));
        asker.wait_for(1);
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
                            let port = event.1[0].port();
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
