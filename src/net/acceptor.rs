//! A worker's listening sockets, and what happens when accepting fails (rule M5).
//!
//! When descriptors run out, `accept` fails and the connection stays in the kernel's queue, so a loop that just tries again
//! spins. Here accepting pauses for a moment, and one reserve descriptor is given up to accept one connection and close it
//! cleanly, instead of leaving that client without an answer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::extras::metrics::{Counter, Metrics};
use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::ListenerProtocol;

use super::event_source::EventSource;
use super::log_limiter::LogLimiter;

/// How long accepting pauses after a failure.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How long a half-open connection may take to be established when accepting ends: a round trip over a continent.
const SYN_RECV_GRACE: Duration = Duration::from_millis(200);
/// At most one line about failures in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// For a listening socket: drops packets with SYN and without ACK, the first ones of new connections, and no others. A
/// classic BPF program; what it sees begins with the TCP header, RFC 9293 section 3.1, whose byte 13 has the flags.
const DROP_SYN_FILTER: [SockFilter; 5] = [
    // load byte 13; and with SYN|ACK; equal to SYN? then the next, else skip one; keep nothing; keep all
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// One worker's listening socket on one address.
#[derive(Debug)]
pub struct Listener {
    /// The address has the same number at all workers.
    number: u32,
    socket: Socket,
    protocol: ListenerProtocol,
    /// The service manager has it, too: after it is closed here, the next process accepts what is in its queue.
    is_inherited: bool,
    /// Whether a connection may be waiting.
    is_ready: bool,
    /// From this moment on it is closed as soon as no connection waits: those in the kernel's queue would be reset.
    closing_at: Option<MonoTime>,
}

impl Listener {
    pub fn new(number: u32, socket: Socket, protocol: ListenerProtocol, is_inherited: bool) -> Listener {
        // A connection may have come before the poller knows of the socket.
        Listener { number, socket, protocol, is_inherited, is_ready: true, closing_at: None }
    }

    #[cfg(test)]
    pub fn number(&self) -> u32 {
        self.number
    }

    fn register(&self, registry: &Registry) -> io::Result<()> {
        let token = EventSource::Listener(self.number).token();
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, Interest::READABLE)
    }

    fn is_closing(&self, now: MonoTime) -> bool {
        self.closing_at.is_some_and(|at| at <= now)
    }

    /// Whether it is worth a try. When it is to be closed, it is tried once more.
    fn can_accept(&self, now: MonoTime, free: FreeSlots) -> bool {
        let is_admin = self.protocol == ListenerProtocol::Admin;
        free[usize::from(is_admin)] && (self.is_ready || self.is_closing(now))
    }
}

/// What a reload changes.
#[derive(Debug)]
pub struct ListenerUpdate {
    /// The numbers of the listeners that stay, and what is spoken there now. The others close.
    pub kept: Vec<(u32, ListenerProtocol)>,
    pub new: Vec<Listener>,
}

/// A worker's listening sockets.
#[derive(Default)]
pub struct Acceptor {
    listeners: Vec<Listener>,
    /// The most clients, beside the operator's.
    pub max_clients: usize,
    /// Where the next round begins: behind the socket that was accepted from, so that none starves.
    next: usize,
    paused_until: Option<MonoTime>,
    /// Given up to accept a connection that is rejected. A socket, because it needs no file (rule E7).
    reserve: Option<Socket>,
    warnings: LogLimiter,
}

/// Whether there is a free slot for clients, and for those of the operator and probes of the proxy's health.
pub type FreeSlots = [bool; 2];

/// A connection from a client, and what is spoken there.
pub type Accepted = (OwnedFd, Option<SocketAddr>, ListenerProtocol);

impl Acceptor {
    pub fn new(listeners: Vec<Listener>, max_clients: usize) -> Acceptor {
        Acceptor { listeners, max_clients, reserve: reserve_socket(), ..Acceptor::default() }
    }

    /// Registers all sockets; once.
    pub fn register(&self, registry: &Registry) -> io::Result<()> {
        self.listeners.iter().try_for_each(|listener| listener.register(registry))
    }

    /// After a reload.
    pub fn update(&mut self, registry: &Registry, now: MonoTime, update: ListenerUpdate) -> io::Result<()> {
        for listener in &mut self.listeners {
            match update.kept.iter().find(|(number, _)| *number == listener.number) {
                Some((_, protocol)) => listener.protocol = *protocol,
                None => listener.closing_at = listener.closing_at.or(Some(now)),
            }
        }
        let mut result = Ok(());
        for listener in update.new {
            match listener.register(registry) {
                Ok(()) => self.listeners.push(listener),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// The poller says that a connection came.
    pub fn on_event(&mut self, number: u32) {
        if let Some(listener) = self.listeners.iter_mut().find(|listener| listener.number == number) {
            listener.is_ready = true;
        }
    }

    /// When to look again though no event comes: accepting pauses, or a listener is to be closed.
    pub fn wake_at(&self, now: MonoTime) -> Option<MonoTime> {
        let closing = self.listeners.iter().filter_map(|listener| listener.closing_at);
        closing.chain(self.paused_until).filter(|at| *at > now).min()
    }

    fn is_paused(&self, now: MonoTime) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    /// Whether it is worth a try.
    pub fn can_accept(&self, now: MonoTime, free: FreeSlots) -> bool {
        !self.is_paused(now) && self.listeners.iter().any(|listener| listener.can_accept(now, free))
    }

    /// Whether a client waits, of the operator's or of all others.
    pub fn has_waiting(&self, is_admin: bool) -> bool {
        self.listeners.iter().filter(|listener| is_admin == (listener.protocol == ListenerProtocol::Admin)).any(
            |listener| {
                let mut fds = [PollFd::new(&listener.socket, PollFlags::IN)];
                matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
            },
        )
    }

    /// Accepts one connection for which there is a slot, from the sockets in turn.
    pub fn accept(&mut self, now: MonoTime, free: FreeSlots) -> io::Result<Option<Accepted>> {
        let count = if self.is_paused(now) { 0 } else { self.listeners.len() };
        for _ in 0..count {
            let at = if self.next < self.listeners.len() { self.next } else { 0 };
            self.next = at + 1;
            let listener = &mut self.listeners[at];
            if !listener.can_accept(now, free) {
                continue;
            }
            match acceptfrom_with(&listener.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((fd, address)) => {
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    return Ok(Some((fd, address, listener.protocol)));
                }
                Err(Errno::AGAIN) if listener.is_closing(now) => {
                    self.listeners.remove(at);
                    self.next = at;
                }
                Err(Errno::AGAIN) => listener.is_ready = false,
                // The connection was broken while it waited, or a packet filter forbids it: the next one may be good.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Pauses after `error`; returns a warning if one is due.
    pub fn back_off(&mut self, now: MonoTime, error: &io::Error, metrics: &Metrics) -> Option<String> {
        // With the reserve descriptor, one connection is accepted and closed at once.
        if is_exhaustion(error) {
            if self.reserve.take().is_some()
                && let Ok(Some(_)) = self.accept(now, [true; 2])
            {
                metrics.increment(Counter::Refused);
            }
            self.reserve = reserve_socket();
        }
        self.paused_until = Some(now + ACCEPT_BACKOFF);
        let is_due = self.warnings.is_due(now, WARN_INTERVAL);
        is_due.then(|| format!("cannot accept connections: {error}; trying again every 100 ms"))
    }

    /// No new connections; those that wait are still accepted.
    ///
    /// Between the last look into the kernel's queue and the closing of the socket another connection could enter the queue,
    /// and would be reset. So the kernel is told first to drop the first packet of new connections, as if it had been
    /// lost; when the client repeats it, a second later, it reaches the process that listens then. Half-open connections have
    /// `SYN_RECV_GRACE` to be established.
    pub fn stop_accepting(&mut self, now: MonoTime) {
        self.listeners.retain(|listener| !listener.is_inherited);
        for listener in &mut self.listeners {
            // Where the kernel does not do that, the gap stays: it is small.
            let is_unix = listener.socket.local_addr().is_ok_and(|address| address.is_unix());
            let has_filter = !is_unix && listener.socket.attach_filter(&DROP_SYN_FILTER).is_ok();
            listener.closing_at = Some(if has_filter { now + SYN_RECV_GRACE } else { now });
            listener.is_ready = true;
        }
    }

    /// Whether all listeners are closed.
    pub fn is_closed(&self) -> bool {
        self.listeners.is_empty()
    }
}

fn reserve_socket() -> Option<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM, None).ok()
}

/// Whether the process, or the host, has no descriptors left.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extras::metrics::Registry;
    use std::io::Read;
    use std::net::{TcpListener as StdListener, TcpStream as StdStream};

    const ALL: FreeSlots = [true; 2];

    fn acceptor() -> (Acceptor, SocketAddr) {
        let socket = StdListener::bind("127.0.0.1:0").expect("loopback");
        let address = socket.local_addr().expect("bound");
        (new(listener(socket, false)), address)
    }

    fn listener(socket: StdListener, is_inherited: bool) -> Listener {
        socket.set_nonblocking(true).expect("a socket");
        Listener::new(0, socket.into(), ListenerProtocol::Plain, is_inherited)
    }

    fn new(listener: Listener) -> Acceptor {
        Acceptor::new(vec![listener], 8)
    }

    #[test]
    fn after_the_end_of_accepting_those_who_wait_are_accepted_and_nobody_else() {
        let (mut acceptor, address) = acceptor();
        let now = MonoTime::now();
        let clients: Vec<StdStream> = (0..3).map(|_| StdStream::connect(address).expect("loopback")).collect();
        acceptor.stop_accepting(now);
        let until = acceptor.wake_at(now).expect("there is a listener");
        let late = StdStream::connect_timeout(&address, Duration::from_millis(50));
        assert_eq!(
            late.map_err(|error| error.kind()).err(),
            Some(io::ErrorKind::TimedOut),
            "not refused, but not let in"
        );
        for _ in &clients {
            assert!(matches!(acceptor.accept(now, ALL), Ok(Some(_))));
        }
        assert!(matches!(acceptor.accept(now, ALL), Ok(None)) && !acceptor.is_closed(), "some may be half inside");
        assert!(matches!(acceptor.accept(until, ALL), Ok(None)) && acceptor.is_closed());
    }

    #[test]
    fn a_socket_that_a_manager_holds_is_let_go_at_once() {
        let socket = StdListener::bind("127.0.0.1:0").expect("loopback");
        let (address, copy) = (socket.local_addr().expect("bound"), socket.try_clone().expect("a copy"));
        let mut acceptor = new(listener(copy, true));
        let _client = StdStream::connect(address).expect("loopback");
        acceptor.stop_accepting(MonoTime::now());
        assert!(acceptor.is_closed());
        socket.accept().expect("the next one serves those that wait there");
    }

    #[test]
    fn m5_accepting_goes_on_until_nobody_is_left() {
        let (mut acceptor, address) = acceptor();
        let now = MonoTime::now();
        let clients: Vec<StdStream> = (0..3).map(|_| StdStream::connect(address).expect("loopback")).collect();
        for client in &clients {
            let Ok(Some((_, peer, _))) = acceptor.accept(now, ALL) else { panic!("a client waits") };
            assert_eq!(peer, client.local_addr().ok());
        }
        assert!(acceptor.can_accept(now, ALL), "not known yet");
        assert!(matches!(acceptor.accept(now, ALL), Ok(None)));
        assert!(!acceptor.can_accept(now, ALL), "nobody until the next event");
        acceptor.on_event(0);
        assert!(acceptor.can_accept(now, ALL));
        acceptor.on_event(9);
    }

    #[test]
    fn m5_a_crowd_at_one_socket_does_not_keep_others_out() {
        let (mut acceptor, crowded) = acceptor();
        let quiet = StdListener::bind("127.0.0.1:0").expect("loopback");
        let address = quiet.local_addr().expect("bound");
        let quiet = listener(quiet, false);
        acceptor.listeners.push(Listener { number: 1, protocol: ListenerProtocol::Admin, ..quiet });
        let now = MonoTime::now();
        let _crowd: Vec<StdStream> = (0..6).map(|_| StdStream::connect(crowded).expect("loopback")).collect();
        let _others: Vec<StdStream> = (0..2).map(|_| StdStream::connect(address).expect("loopback")).collect();
        let speaks = |acceptor: &mut Acceptor, room| {
            acceptor.accept(now, room).expect("no error").map(|(_, _, protocol)| protocol)
        };
        let turns: Vec<_> = (0..4).map(|_| speaks(&mut acceptor, ALL)).collect();
        assert_eq!(
            turns,
            [ListenerProtocol::Plain, ListenerProtocol::Admin, ListenerProtocol::Plain, ListenerProtocol::Admin]
                .map(Some)
        );
        let full = [false, true];
        assert_eq!(speaks(&mut acceptor, full), None, "nobody waits whom there is a place for");
        assert!(!acceptor.can_accept(now, full) && acceptor.can_accept(now, ALL));
        assert_eq!(speaks(&mut acceptor, ALL), Some(ListenerProtocol::Plain));
    }

    #[test]
    fn m5_without_descriptors_one_client_is_turned_away_and_accepting_pauses() {
        let (mut acceptor, address) = acceptor();
        let now = MonoTime::now();
        let mut client = StdStream::connect(address).expect("loopback");
        let (error, registry) = (io::Error::from(Errno::MFILE), Registry::new(1, Duration::ZERO));
        let complaint = acceptor.back_off(now, &error, registry.of_worker(0));
        let until = acceptor.wake_at(now).expect("a pause");
        assert_eq!(client.read(&mut [0; 8]).expect("a clean end"), 0);
        assert!(complaint.is_some());
        assert_eq!(registry.total().get(Counter::Refused), 1);
        assert!(acceptor.reserve.is_some());
        assert!(!acceptor.can_accept(now, ALL));
        acceptor.on_event(0);
        assert!(!acceptor.can_accept(now, ALL), "no spinning");
        assert!(acceptor.can_accept(until, ALL));
        let complaint = acceptor.back_off(until, &error, registry.of_worker(0));
        assert_eq!(complaint, None, "one line per second");
        let complaint = acceptor.back_off(now + WARN_INTERVAL, &error, registry.of_worker(0));
        assert!(complaint.is_some());
    }
}
