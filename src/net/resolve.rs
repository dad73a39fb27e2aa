//! Names are looked up on threads of their own, through the system's resolver, so that no loop ever waits (rule E1).
//!
//! A worker asks for a name that it has no addresses of, and goes on; the answer comes into its [`Inbox`], and its waker
//! is called. Names that are in use are looked up again every `dns.refresh`; the workers that asked for a name hear of it
//! only when its addresses changed. A look-up that fails keeps the old addresses. A name that nobody asked for in a while
//! is forgotten by the workers, so that the next use looks it up again. IP literals never come here.
//!
//! One thread waits for what is due. Each look-up has a thread of its own while it lasts: a name whose servers do not
//! answer holds up no other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mio::Waker;

use crate::mono_time::MonoTime;
use crate::proxy::runtime::UpstreamId;

/// The most look-ups, and so threads, at the same time. So many names whose servers do not answer have to come together
/// before others wait.
const MAX_LOOKUPS: usize = 32;
/// A name is in use for so long after a worker asked for it.
const IN_USE: Duration = Duration::from_secs(600);
/// A name that does not resolve is not looked up again sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// No name has more addresses than are worth trying.
const MOST_ADDRESSES: usize = 16;

/// Turns names into addresses; may block.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, best first.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The system's resolver: hosts file, DNS, whatever the host is set up to ask; all families, in its order.
#[derive(Debug)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Some(addresses) = loopback(host) {
            return Ok(addresses.map(|address| SocketAddr::new(address, port)).to_vec());
        }
        (host, port).to_socket_addrs().map(Iterator::collect)
    }
}

/// `localhost` is this host, whatever servers say (RFC 6761 section 6.3), and without a hosts file too: an empty root has
/// none. IPv4 first: most servers listen there, and a refusal costs one more attempt.
fn loopback(host: &str) -> Option<[IpAddr; 2]> {
    let is_this_host = host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("localhost");
    is_this_host.then_some([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// What became of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has these addresses; never empty.
    Addresses(Arc<[SocketAddr]>),
    /// It does not resolve now.
    Failed,
    /// It was not used in a while: ask again before using what you know.
    Forget,
}

/// Where a worker's answers arrive.
pub struct Inbox {
    answers: Mutex<Vec<(UpstreamId, Answer)>>,
    waker: Arc<Waker>,
}

impl Inbox {
    /// An inbox whose owner is woken by `waker`.
    pub fn new(waker: Arc<Waker>) -> Inbox {
        Inbox { answers: Mutex::default(), waker }
    }

    /// Takes what has arrived.
    pub fn take(&self) -> Vec<(UpstreamId, Answer)> {
        std::mem::take(&mut *lock(&self.answers))
    }

    fn put(&self, upstream: UpstreamId, answer: Answer) {
        lock(&self.answers).push((upstream, answer));
        // It fails when the worker is gone; then nobody waits.
        let _ = self.waker.wake();
    }
}

/// The workers' end.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    /// Answers are put into inboxes while this is locked, so that they arrive in the order in which they were found.
    state: Mutex<State>,
    /// Something to do, or the end.
    news: Condvar,
    source: Box<dyn Resolve>,
}

struct State {
    refresh: Duration,
    names: BTreeMap<UpstreamId, Name>,
    /// Asked for and not yet looked up: served before the schedule.
    urgent: VecDeque<UpstreamId>,
    /// When to look up again.
    schedule: BTreeSet<(MonoTime, UpstreamId)>,
    /// Look-ups that have a thread now.
    running: usize,
    is_over: bool,
}

/// What is known of a name.
struct Name {
    host: Arc<str>,
    port: u16,
    last_asked: MonoTime,
    known: Known,
    lookup: Lookup,
    /// Those that wait for the look-up that is running.
    waiting: Vec<Arc<Inbox>>,
    /// Those that may have addresses of it: they are told when these change.
    users: Vec<Arc<Inbox>>,
}

fn add(inboxes: &mut Vec<Arc<Inbox>>, inbox: &Arc<Inbox>) {
    if !inboxes.iter().any(|other| Arc::ptr_eq(other, inbox)) {
        inboxes.push(Arc::clone(inbox));
    }
}

/// The latest that is known of its addresses.
enum Known {
    Nothing,
    Addresses(Arc<[SocketAddr]>),
    Failed { at: MonoTime },
}

/// How a name's next look-up stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// There is none.
    None,
    /// Waits for a thread, or runs.
    Running,
    /// In the schedule.
    Scheduled(MonoTime),
}

/// A worker or another thread panicked while it held the lock: what it guards is changed in single steps, so it is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resolver {
    /// Starts the thread that waits for what is due.
    pub fn start(source: Box<dyn Resolve>, refresh: Duration) -> io::Result<Resolver> {
        let state = State {
            refresh,
            names: BTreeMap::new(),
            urgent: VecDeque::new(),
            schedule: BTreeSet::new(),
            running: 0,
            is_over: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), news: Condvar::new(), source });
        let resolver = Resolver { shared: Arc::clone(&shared) };
        thread::Builder::new().name("resolver".to_owned()).spawn(move || run(&shared))?;
        Ok(resolver)
    }

    /// Wants the addresses of `host`; the answer comes into `inbox`, always, and soon where it is known.
    pub fn ask(&self, now: MonoTime, inbox: &Arc<Inbox>, upstream: UpstreamId, host: &str, port: u16) {
        let mut state = lock(&self.shared.state);
        let State { names, urgent, schedule, .. } = &mut *state;
        let name = names.entry(upstream).or_insert_with(|| Name {
            host: Arc::from(host),
            port,
            last_asked: now,
            known: Known::Nothing,
            lookup: Lookup::None,
            waiting: Vec::new(),
            users: Vec::new(),
        });
        name.last_asked = now;
        add(&mut name.users, inbox);
        match (&name.known, name.lookup) {
            // Also while they are being refreshed, which may take long; but not where somebody waits for a look-up: then
            // what is known is old.
            (Known::Addresses(addresses), Lookup::Scheduled(_) | Lookup::Running) if name.waiting.is_empty() => {
                return inbox.put(upstream, Answer::Addresses(Arc::clone(addresses)));
            }
            (Known::Failed { at }, Lookup::Scheduled(_)) if now.saturating_duration_since(*at) < RETRY_AFTER => {
                return inbox.put(upstream, Answer::Failed);
            }
            (_, Lookup::Running) => return add(&mut name.waiting, inbox),
            (_, Lookup::Scheduled(due)) => drop(schedule.remove(&(due, upstream))),
            (_, Lookup::None) => {}
        }
        add(&mut name.waiting, inbox);
        name.lookup = Lookup::Running;
        urgent.push_back(upstream);
        self.shared.news.notify_one();
    }

    /// A name that a worker has addresses of is in use: it will be looked up again.
    pub fn keep(&self, now: MonoTime, inbox: &Arc<Inbox>, upstream: UpstreamId) {
        if let Some(name) = lock(&self.shared.state).names.get_mut(&upstream) {
            name.last_asked = now;
            add(&mut name.users, inbox);
        }
    }

    /// After a reload: look-ups are repeated so often from the next one on, and of the names only those that `is_kept`
    /// says are kept. Whoever still waits for another gets its answer.
    pub fn renew(&self, refresh: Duration, is_kept: impl Fn(UpstreamId) -> bool) {
        let mut state = lock(&self.shared.state);
        let State { refresh: old, names, schedule, .. } = &mut *state;
        *old = refresh;
        names.retain(|id, name| match name.lookup {
            _ if is_kept(*id) => true,
            Lookup::Running => true,
            Lookup::None => false,
            Lookup::Scheduled(due) => {
                schedule.remove(&(due, *id));
                false
            }
        });
    }

    /// Ends the threads, those of look-ups when these are over.
    pub fn stop(&self) {
        lock(&self.shared.state).is_over = true;
        self.shared.news.notify_all();
    }
}

/// Gives each name that is due a thread.
fn run(shared: &Arc<Shared>) {
    while let Some((upstream, host, port)) = shared.next_lookup() {
        let (theirs, name) = (Arc::clone(shared), Arc::clone(&host));
        let lookup = thread::Builder::new().name("lookup".to_owned());
        if lookup.spawn(move || theirs.look_up(upstream, &name, port)).is_err() {
            // This host allows no more threads: then the others wait.
            shared.look_up(upstream, &host, port);
        }
    }
}

impl Shared {
    fn look_up(&self, upstream: UpstreamId, host: &str, port: u16) {
        let addresses = self.source.resolve(host, port).unwrap_or_default();
        self.finish(MonoTime::now(), upstream, &addresses[..addresses.len().min(MOST_ADDRESSES)]);
    }

    /// Waits for a name to look up; `None` at the end.
    fn next_lookup(&self) -> Option<(UpstreamId, Arc<str>, u16)> {
        let mut state = lock(&self.state);
        loop {
            if state.is_over {
                return None;
            }
            if state.running == MAX_LOOKUPS {
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = MonoTime::now();
            let State { names, urgent, schedule, running, .. } = &mut *state;
            let due = schedule.first().copied();
            let upstream = match (urgent.pop_front(), due) {
                (Some(upstream), _) => upstream,
                (None, Some((at, upstream))) if at <= now => {
                    schedule.pop_first();
                    upstream
                }
                (None, Some((at, _))) => {
                    let wait = at.saturating_duration_since(now);
                    state = self.news.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                (None, None) => {
                    state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let name = names.get_mut(&upstream).expect("who is removed is removed from the schedule too");
            if let Lookup::Scheduled(_) = name.lookup {
                if now.saturating_duration_since(name.last_asked) > IN_USE {
                    name.lookup = Lookup::None;
                    for user in name.users.drain(..) {
                        user.put(upstream, Answer::Forget);
                    }
                    continue;
                }
                name.lookup = Lookup::Running;
            }
            *running += 1;
            return Some((upstream, Arc::clone(&name.host), name.port));
        }
    }

    /// Takes down what a look-up found, tells the workers, plans the next one.
    fn finish(&self, now: MonoTime, upstream: UpstreamId, found: &[SocketAddr]) {
        let mut state = lock(&self.state);
        let State { refresh, names, schedule, running, .. } = &mut *state;
        *running -= 1;
        let name = names.get_mut(&upstream).expect("a name that is being looked up is not removed");
        let waiting = std::mem::take(&mut name.waiting);
        let (told, answer) = match &name.known {
            // A failed look-up keeps the old addresses.
            Known::Addresses(old) if found.is_empty() || **old == *found => {
                (&waiting, Answer::Addresses(Arc::clone(old)))
            }
            Known::Addresses(_) | Known::Nothing | Known::Failed { .. } if !found.is_empty() => {
                let addresses: Arc<[SocketAddr]> = Arc::from(found);
                name.known = Known::Addresses(Arc::clone(&addresses));
                (&name.users, Answer::Addresses(addresses))
            }
            Known::Addresses(_) | Known::Nothing | Known::Failed { .. } => {
                name.known = Known::Failed { at: now };
                (&waiting, Answer::Failed)
            }
        };
        for inbox in told {
            inbox.put(upstream, answer.clone());
        }
        let due = now + *refresh;
        name.lookup = Lookup::Scheduled(due);
        schedule.insert((due, upstream));
        // It may sleep until a later moment, or for ever.
        self.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    const NAME: UpstreamId = UpstreamId(3);

    /// Answers as the test says, when the test says.
    struct Script {
        answers: Mutex<Receiver<io::Result<Vec<SocketAddr>>>>,
    }

    impl Resolve for Script {
        fn resolve(&self, _host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            lock(&self.answers).recv().unwrap_or_else(|_| Err(io::Error::other("the test is over")))
        }
    }

    struct Bench {
        poll: Poll,
        inbox: Arc<Inbox>,
        resolver: Resolver,
        answers: Sender<io::Result<Vec<SocketAddr>>>,
    }

    impl Bench {
        fn new(refresh: Duration) -> Bench {
            let poll = Poll::new().expect("poll");
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("waker"));
            let inbox = Arc::new(Inbox::new(waker));
            let (answers, receiver) = channel();
            let source = Box::new(Script { answers: Mutex::new(receiver) });
            let resolver = Resolver::start(source, refresh).expect("a thread");
            Bench { poll, inbox, resolver, answers }
        }

        fn ask(&self) {
            self.resolver.ask(MonoTime::now(), &self.inbox, NAME, "origin.test", 80);
        }

        /// The next answers that arrive.
        fn wait(&mut self) -> Vec<(UpstreamId, Answer)> {
            let mut events = Events::with_capacity(4);
            loop {
                let answers = self.inbox.take();
                if !answers.is_empty() {
                    return answers;
                }
                self.poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
                assert!(!events.is_empty(), "no answer in five seconds");
            }
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.resolver.stop();
        }
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn answer(texts: &[&str]) -> Vec<(UpstreamId, Answer)> {
        vec![(NAME, Answer::Addresses(addresses(texts).into()))]
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn e1_all_addresses_of_both_families_arrive() {
        let mut bench = Bench::new(HOUR);
        bench.ask();
        let both = ["[::1]:80", "127.0.0.1:80"];
        bench.answers.send(Ok(addresses(&both))).expect("a thread waits");
        assert_eq!(bench.wait(), answer(&both));
        // Known now: answered without a look-up.
        bench.ask();
        assert_eq!(bench.wait(), answer(&both));
    }

    #[test]
    fn e1_a_name_that_does_not_resolve_is_answered_and_not_asked_for_at_once_again() {
        let mut bench = Bench::new(HOUR);
        bench.ask();
        bench.answers.send(Err(io::Error::other("no such name"))).expect("a thread waits");
        assert_eq!(bench.wait(), [(NAME, Answer::Failed)]);
        bench.ask();
        assert_eq!(bench.wait(), [(NAME, Answer::Failed)], "without a look-up");
        // A second later it is looked up again.
        bench.resolver.ask(MonoTime::now() + RETRY_AFTER, &bench.inbox, NAME, "origin.test", 80);
        bench.answers.send(Ok(addresses(&["127.0.0.1:80"]))).expect("a thread waits");
        assert_eq!(bench.wait(), answer(&["127.0.0.1:80"]));
    }

    #[test]
    fn e1_a_refresh_replaces_addresses_and_a_failed_one_keeps_them() {
        let mut bench = Bench::new(Duration::ZERO);
        bench.ask();
        bench.answers.send(Ok(addresses(&["127.0.0.1:80"]))).expect("a thread waits");
        assert_eq!(bench.wait(), answer(&["127.0.0.1:80"]));
        bench.answers.send(Err(io::Error::other("servers down"))).expect("a thread waits");
        bench.answers.send(Ok(addresses(&["127.0.0.1:80"]))).expect("a thread waits");
        bench.answers.send(Ok(addresses(&["127.0.0.2:80"]))).expect("a thread waits");
        assert_eq!(bench.wait(), answer(&["127.0.0.2:80"]), "neither the failure nor the same again is told");
    }

    #[test]
    fn a_reload_drops_names_but_not_whoever_waits_for_one() {
        let mut bench = Bench::new(HOUR);
        let (one, two) = (&["127.0.0.1:80"], &["127.0.0.2:80"]);
        bench.ask();
        // It runs, or is about to: its answer comes all the same.
        bench.resolver.renew(HOUR, |_| false);
        bench.answers.send(Ok(addresses(one))).expect("a thread waits");
        assert_eq!(bench.wait(), answer(one));
        bench.resolver.renew(HOUR, |id| id == NAME);
        bench.ask();
        assert_eq!(bench.wait(), answer(one), "kept: without a look-up");
        bench.resolver.renew(HOUR, |_| false);
        bench.ask();
        bench.answers.send(Ok(addresses(two))).expect("a thread waits");
        assert_eq!(bench.wait(), answer(two), "forgotten: looked up again");
    }

    /// Names that begin with `h` hang until the sender is dropped; the others are numbers, and count their look-ups.
    struct Hanging {
        never: Mutex<Receiver<()>>,
        lookups: AtomicU16,
        most: Arc<AtomicUsize>,
        now: AtomicUsize,
    }

    impl Resolve for Hanging {
        fn resolve(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
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
        resolver: Resolver,
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
            let resolver = Resolver::start(Box::new(source), refresh).expect("a thread");
            Crowd { resolver, release: Some(release), most }
        }
    }

    impl Drop for Crowd {
        fn drop(&mut self) {
            self.release = None;
            self.resolver.stop();
        }
    }

    fn inbox() -> (Poll, Arc<Inbox>) {
        let poll = Poll::new().expect("poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("waker"));
        (poll, Arc::new(Inbox::new(waker)))
    }

    fn wait_for(poll: &mut Poll, inbox: &Inbox, what: usize) -> Vec<(UpstreamId, Answer)> {
        let (mut events, mut all) = (Events::with_capacity(4), Vec::new());
        while all.len() < what {
            poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
            assert!(!events.is_empty(), "{} answers of {what} in five seconds", all.len());
            all.extend(inbox.take());
        }
        all
    }

    #[test]
    fn e1_names_that_hang_hold_up_no_other() {
        let mut crowd = Crowd::new(HOUR);
        let (mut poll, inbox) = inbox();
        for id in 0..8 {
            crowd.resolver.ask(MonoTime::now(), &inbox, UpstreamId(id), "hanging", 80);
        }
        crowd.resolver.ask(MonoTime::now(), &inbox, UpstreamId(100), "other", 80);
        let answers = wait_for(&mut poll, &inbox, 1);
        assert_eq!(answers[0].0, UpstreamId(100));
        // More than can be looked up at a time: none is lost.
        for id in 8..50 {
            crowd.resolver.ask(MonoTime::now(), &inbox, UpstreamId(id), "hanging", 80);
        }
        crowd.release = None;
        wait_for(&mut poll, &inbox, 50);
        assert!(crowd.most.load(Ordering::Relaxed) <= MAX_LOOKUPS);
    }

    #[test]
    fn only_who_asked_is_woken() {
        let crowd = Crowd::new(HOUR);
        let ((mut poll, asks), (mut other_poll, other)) = (inbox(), inbox());
        crowd.resolver.ask(MonoTime::now(), &asks, NAME, "name", 80);
        let first = wait_for(&mut poll, &asks, 1);
        crowd.resolver.ask(MonoTime::now(), &asks, NAME, "name", 80);
        assert_eq!(wait_for(&mut poll, &asks, 1), first, "known");
        let mut events = Events::with_capacity(4);
        other_poll.poll(&mut events, Some(Duration::ZERO)).expect("poll");
        assert!(events.is_empty() && other.take().is_empty());
        crowd.resolver.ask(MonoTime::now(), &other, NAME, "name", 80);
        assert_eq!(wait_for(&mut other_poll, &other, 1), first);
        assert!(asks.take().is_empty());
    }

    #[test]
    fn answers_arrive_in_the_order_in_which_they_were_found() {
        let crowd = Crowd::new(Duration::ZERO);
        let end = MonoTime::now() + Duration::from_millis(200);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (_poll, inbox) = inbox();
                    let mut last = 0;
                    while MonoTime::now() < end {
                        crowd.resolver.ask(MonoTime::now(), &inbox, NAME, "name", 80);
                        for (_, answer) in inbox.take() {
                            let Answer::Addresses(addresses) = answer else { panic!("{answer:?}") };
                            let port = addresses[0].port();
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
            let found = SystemResolver.resolve(name, 80).expect("it needs nothing");
            assert_eq!(found, addresses(&["127.0.0.1:80", "[::1]:80"]), "{name}");
        }
        assert!(
            ["localhost.example", "app.localhost", "notlocalhost", ""].into_iter().all(|name| loopback(name).is_none())
        );
    }
}
