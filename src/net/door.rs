//! Where new connections come in: a worker's listening sockets, and what happens when they cannot (rule M5).
//!
//! When descriptors run out, `accept` fails and the connection stays in the kernel's queue, so a loop that just tries
//! again spins. Here the door closes for a moment, and one reserve descriptor is given up to take one client from the
//! queue and close its connection cleanly, instead of leaving it without an answer.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry};
use rustix::io::Errno;
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::extras::metrics::{Counter, Metrics};
use crate::mono_time::MonoTime;

use super::conn::Stream;
use super::event_source::EventSource;
use super::listen::{Listening, Speaks};
use super::log_limiter::LogLimiter;
use super::timers::TimerHandle;

/// The door stays closed for so long when descriptors have run out.
pub const PAUSE: Duration = Duration::from_millis(100);
/// A connection that is half made when the door shuts has so long to become whole: a round trip over a continent.
const HALF_MADE: Duration = Duration::from_millis(200);

/// For a listening socket: drops packets with SYN and without ACK, the first ones of new connections, and no others.
/// (A classic BPF program; what it sees begins with the TCP header, RFC 9293 section 3.1, whose byte 13 has the flags.)
const NOBODY_NEW: [SockFilter; 5] = [
    // load byte 13; and with SYN|ACK; equal to SYN? then the next, else skip one; keep nothing; keep all
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];
/// At most one line about it in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// One listening socket in the loop.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One listening socket and whether somebody may be waiting there.
struct Gate {
    number: u32,
    listener: Listener,
    speaks: Speaks,
    holder: Holder,
    is_ready: bool,
    is_registered: bool,
    fate: Fate,
}

/// What becomes of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Stays,
    /// It closes as soon as nobody waits there, but not before this moment: whom the kernel has let into its queue would be
    /// reset.
    Closes(MonoTime),
}

/// A gate that opens.
#[derive(Debug)]
pub struct Opening {
    /// Its number.
    pub number: u32,
    /// Its socket.
    pub listener: Listening,
    /// What is spoken there.
    pub speaks: Speaks,
    /// Whether anybody else has the socket.
    pub holder: Holder,
}

/// Who has a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process: when it closes the socket, whoever waits there is reset.
    Us,
    /// A service manager, too: when this process closes it, nothing happens to anybody, and whoever waits there is served
    /// by the next one.
    Manager,
}

/// What can change at a door. Gates have numbers, the same at each worker's.
#[derive(Debug)]
pub enum Change {
    /// There is one more.
    Open(Opening),
    /// Nobody new comes in there.
    Close(u32),
    /// Something else is spoken there from now on.
    Speak(u32, Speaks),
}

/// A worker's listening sockets.
pub struct Door {
    gates: Vec<Gate>,
    /// How many clients may be inside, beside the operator's.
    pub max_clients: usize,
    /// Where the next look begins: behind the one where somebody was let in, so that none starves.
    next: usize,
    /// Its entry among the timers.
    pub timer: TimerHandle,
    closed_until: Option<MonoTime>,
    /// Given up to take a client that must be turned away. A socket, because it needs no file (rule E7).
    reserve: Option<Socket>,
    complaints: LogLimiter,
    turned_away: u64,
}

/// Whom there is a place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Those who come to be served.
    pub public: bool,
    /// The operator, and what asks for the proxy's health in the operator's name.
    pub admin: bool,
}

impl Room {
    /// For anybody.
    pub const ALL: Room = Room { public: true, admin: true };

    fn is_for(self, speaks: Speaks) -> bool {
        match speaks {
            Speaks::Plain | Speaks::Tls => self.public,
            Speaks::Admin => self.admin,
        }
    }
}

/// What was at the door.
pub enum Knock {
    /// A client.
    Client(Stream, Option<SocketAddr>, Speaks),
    /// One who has left already.
    Gone,
    /// Nobody.
    Nobody,
    /// There may be somebody, but accepting fails.
    Stuck(io::Error),
}

impl Door {
    /// A door with these gates, and room for `max_clients`.
    pub fn new(gates: Vec<Opening>, max_clients: usize) -> Door {
        let mut door = Door {
            gates: Vec::new(),
            max_clients,
            next: 0,
            timer: TimerHandle::default(),
            closed_until: None,
            reserve: spare_socket(),
            complaints: LogLimiter::default(),
            turned_away: 0,
        };
        gates.into_iter().for_each(|gate| door.open(gate));
        door
    }

    fn open(&mut self, Opening { number, listener, speaks, holder }: Opening) {
        let listener = match listener {
            Listening::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)),
            Listening::Unix(listener) => Listener::Unix(UnixListener::from_std(listener)),
        };
        // Somebody may have come before the poller knows of it.
        let (is_ready, is_registered, fate) = (true, false, Fate::Stays);
        self.gates.push(Gate { number, listener, speaks, holder, is_ready, is_registered, fate });
    }

    fn with_gate(&mut self, number: u32, change: impl FnOnce(&mut Gate)) {
        if let Some(gate) = self.gates.iter_mut().find(|gate| gate.number == number) {
            change(gate);
        }
    }

    /// Changes it while it is in use.
    pub fn change(&mut self, registry: &Registry, now: MonoTime, change: Change) -> io::Result<()> {
        match change {
            Change::Open(gate) => self.open(gate),
            Change::Close(number) => self.with_gate(number, |gate| gate.fate = Fate::Closes(now)),
            Change::Speak(number, speaks) => self.with_gate(number, |gate| gate.speaks = speaks),
        }
        self.register(registry)
    }

    /// Registers the sockets that are not yet.
    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for gate in self.gates.iter_mut().filter(|gate| !gate.is_registered) {
            let token = EventSource::Listener(gate.number).token();
            match &mut gate.listener {
                Listener::Tcp(listener) => registry.register(listener, token, Interest::READABLE)?,
                Listener::Unix(listener) => registry.register(listener, token, Interest::READABLE)?,
            }
            gate.is_registered = true;
        }
        Ok(())
    }

    /// The poller says that somebody came.
    pub fn on_event(&mut self, number: u32) {
        self.with_gate(number, |gate| gate.is_ready = true);
    }

    /// Until when it stays closed.
    pub fn closed_until(&self, now: MonoTime) -> Option<MonoTime> {
        self.closed_until.filter(|until| *until > now)
    }

    /// Whether it is worth looking who is there.
    pub fn is_open(&self, now: MonoTime, room: Room) -> bool {
        self.closed_until(now).is_none() && self.gates.iter().any(|gate| gate.is_ready && room.is_for(gate.speaks))
    }

    /// A gate that closes is looked at once more when its time has come.
    pub fn look_again(&mut self, now: MonoTime) {
        for gate in &mut self.gates {
            gate.is_ready |= matches!(gate.fate, Fate::Closes(at) if at <= now);
        }
    }

    /// Takes one client in, where there is room for it: one from each socket in turn.
    pub fn accept(&mut self, now: MonoTime, room: Room) -> Knock {
        for _ in 0..self.gates.len() {
            if self.next >= self.gates.len() {
                self.next = 0;
            }
            let at = self.next;
            self.next += 1;
            let Some(gate) = self.gates.get_mut(at).filter(|gate| gate.is_ready && room.is_for(gate.speaks)) else {
                continue;
            };
            let error = match gate.listener.accept() {
                Ok((stream, address)) => return Knock::Client(stream, address, gate.speaks),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::WouldBlock if matches!(gate.fate, Fate::Closes(at) if at <= now) => {
                    drop(self.gates.remove(at));
                    self.next = at;
                }
                ErrorKind::WouldBlock => gate.is_ready = false,
                // The connection was broken while it waited, or a packet filter forbids it: the next one may be good.
                ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::PermissionDenied => {
                    return Knock::Gone;
                }
                _ if error.raw_os_error() == Some(Errno::PROTO.raw_os_error()) => return Knock::Gone,
                _ => return Knock::Stuck(error),
            }
        }
        Knock::Nobody
    }

    /// Closes the door for a moment after `error`; returns until when, and what to say, if it is time to say something.
    /// Who was turned away is counted.
    pub fn close_for_a_moment(
        &mut self,
        now: MonoTime,
        error: &io::Error,
        metrics: &Metrics,
    ) -> (MonoTime, Option<String>) {
        if is_exhaustion(error) {
            self.turn_one_away(now, metrics);
        }
        let until = now + PAUSE;
        self.closed_until = Some(until);
        let complaint = self.complaints.is_due(now, COMPLAIN_EVERY).then(|| {
            let turned_away = std::mem::take(&mut self.turned_away);
            format!("cannot accept connections: {error}; turned away: {turned_away}; trying again every 100 ms")
        });
        (until, complaint)
    }

    /// With the reserve descriptor, one client is taken in and let go at once.
    fn turn_one_away(&mut self, now: MonoTime, metrics: &Metrics) {
        if self.reserve.take().is_some()
            && let Knock::Client(stream, ..) = self.accept(now, Room::ALL)
        {
            drop(stream);
            self.turned_away += 1;
            metrics.increment(Counter::Refused);
        }
        self.reserve = spare_socket();
    }

    /// Nobody new comes in any more; whoever has knocked already does. Returns when that is over.
    ///
    /// Between looking into the kernel's queue for the last time and closing the socket somebody could still enter the
    /// queue, and would be reset. So the kernel is told first to let in nobody new: the first packet of a new connection
    /// is dropped as if it had been lost, and when the client repeats it, a second later, it meets whoever listens then.
    /// Connections that are half made have `HALF_MADE` to become whole.
    pub fn shut(&mut self, now: MonoTime) -> Option<MonoTime> {
        // Whoever waits at a socket that is not only ours is safe there.
        self.gates.retain(|gate| gate.holder == Holder::Us);
        for gate in &mut self.gates {
            // Where the kernel does not do that, the gap stays: it is small.
            let is_deaf = match &gate.listener {
                Listener::Tcp(listener) => SockRef::from(listener).attach_filter(&NOBODY_NEW).is_ok(),
                Listener::Unix(_) => false,
            };
            gate.fate = Fate::Closes(if is_deaf { now + HALF_MADE } else { now });
            gate.is_ready = true;
        }
        (!self.gates.is_empty()).then_some(now + HALF_MADE)
    }

    /// Whether nobody will ever come in.
    pub fn is_shut(&self) -> bool {
        self.gates.is_empty()
    }
}

impl Listener {
    fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, address)| (Stream::Tcp(stream), Some(address))),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| (Stream::Unix(stream), None)),
        }
    }
}

fn spare_socket() -> Option<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM, None).ok()
}

/// Whether the process, or the host, has no descriptors left.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::MFILE.raw_os_error()) || code == Some(Errno::NFILE.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extras::metrics::Registry;
    use std::io::Read;
    use std::net::{TcpListener as StdListener, TcpStream as StdStream};

    fn door() -> (Door, SocketAddr) {
        let listener = StdListener::bind("127.0.0.1:0").expect("loopback");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        (Door::new(vec![opening(listener)], 8), address)
    }

    fn opening(listener: StdListener) -> Opening {
        Opening { number: 0, listener: Listening::Tcp(listener), speaks: Speaks::Plain, holder: Holder::Us }
    }

    #[test]
    fn a_door_that_shuts_lets_in_who_has_knocked_and_then_nobody() {
        let (mut door, address) = door();
        let now = MonoTime::now();
        let clients: Vec<StdStream> = (0..3).map(|_| StdStream::connect(address).expect("loopback")).collect();
        let until = door.shut(now).expect("there is a gate");
        let late = StdStream::connect_timeout(&address, Duration::from_millis(50));
        assert_eq!(late.map_err(|error| error.kind()).err(), Some(ErrorKind::TimedOut), "not refused, but not let in");
        for _ in &clients {
            assert!(matches!(door.accept(now, Room::ALL), Knock::Client(..)));
        }
        assert!(matches!(door.accept(now, Room::ALL), Knock::Nobody) && !door.is_shut(), "some may be half inside");
        door.look_again(until);
        assert!(matches!(door.accept(until, Room::ALL), Knock::Nobody) && door.is_shut());
    }

    #[test]
    fn a_socket_that_a_manager_holds_is_let_go_at_once() {
        let listener = StdListener::bind("127.0.0.1:0").expect("loopback");
        let (address, copy) = (listener.local_addr().expect("bound"), listener.try_clone().expect("a copy"));
        let mut door = Door::new(vec![Opening { holder: Holder::Manager, ..opening(copy) }], 8);
        let _client = StdStream::connect(address).expect("loopback");
        assert_eq!(door.shut(MonoTime::now()), None);
        assert!(door.is_shut());
        listener.accept().expect("whoever waits there is served by the next one");
    }

    #[test]
    fn m5_accepting_goes_on_until_nobody_is_left() {
        let (mut door, address) = door();
        let now = MonoTime::now();
        let clients: Vec<StdStream> = (0..3).map(|_| StdStream::connect(address).expect("loopback")).collect();
        for client in &clients {
            let Knock::Client(_, peer, _) = door.accept(now, Room::ALL) else { panic!("a client waits") };
            assert_eq!(peer, client.local_addr().ok());
        }
        assert!(door.is_open(now, Room::ALL), "not known yet");
        assert!(matches!(door.accept(now, Room::ALL), Knock::Nobody));
        assert!(!door.is_open(now, Room::ALL), "nobody until the next event");
        door.on_event(0);
        assert!(door.is_open(now, Room::ALL));
        door.on_event(9);
    }

    #[test]
    fn m5_a_crowd_at_one_socket_does_not_keep_others_out() {
        let (mut door, crowded) = door();
        let quiet = StdListener::bind("127.0.0.1:0").expect("loopback");
        quiet.set_nonblocking(true).expect("a socket");
        let address = quiet.local_addr().expect("bound");
        door.open(Opening { number: 1, speaks: Speaks::Admin, ..opening(quiet) });
        let now = MonoTime::now();
        let _crowd: Vec<StdStream> = (0..6).map(|_| StdStream::connect(crowded).expect("loopback")).collect();
        let _others: Vec<StdStream> = (0..2).map(|_| StdStream::connect(address).expect("loopback")).collect();
        let speaks = |door: &mut Door, room| match door.accept(now, room) {
            Knock::Client(_, _, speaks) => Some(speaks),
            Knock::Gone | Knock::Nobody | Knock::Stuck(_) => None,
        };
        let turns: Vec<_> = (0..4).map(|_| speaks(&mut door, Room::ALL)).collect();
        assert_eq!(turns, [Speaks::Plain, Speaks::Admin, Speaks::Plain, Speaks::Admin].map(Some));
        let full = Room { public: false, admin: true };
        assert_eq!(speaks(&mut door, full), None, "nobody waits whom there is a place for");
        assert!(!door.is_open(now, full) && door.is_open(now, Room::ALL));
        assert_eq!(speaks(&mut door, Room::ALL), Some(Speaks::Plain));
    }

    #[test]
    fn m5_without_descriptors_one_client_is_turned_away_and_the_door_closes_for_a_moment() {
        let (mut door, address) = door();
        let now = MonoTime::now();
        let mut client = StdStream::connect(address).expect("loopback");
        let (error, registry) = (io::Error::from(Errno::MFILE), Registry::new(1, Duration::ZERO));
        let (until, complaint) = door.close_for_a_moment(now, &error, registry.of_worker(0));
        assert_eq!(client.read(&mut [0; 8]).expect("a clean end"), 0);
        assert!(complaint.expect("the first complaint").contains("turned away: 1"));
        assert_eq!(registry.total().get(Counter::Refused), 1);
        assert!(door.reserve.is_some());
        assert!(!door.is_open(now, Room::ALL));
        door.on_event(0);
        assert!(!door.is_open(now, Room::ALL), "no spinning");
        assert!(door.is_open(until, Room::ALL));
        let (_, complaint) = door.close_for_a_moment(until, &error, registry.of_worker(0));
        assert_eq!(complaint, None, "one line per second");
        let (_, complaint) = door.close_for_a_moment(now + COMPLAIN_EVERY, &error, registry.of_worker(0));
        assert!(complaint.is_some());
    }
}
