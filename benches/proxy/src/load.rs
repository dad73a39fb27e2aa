//! The load generator: a fixed number of requests over a fixed number of connections, each response checked.
//!
//! A closed loop, where a connection sends its next request when the response to the last one is complete; or an open one, where
//! each request has its time, whether or not those before it are answered. One thread, epoll edge-triggered, one `write` and
//! one `read` for a small request, so that it costs no more than a bare relay does.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::certificate::NAME;
use crate::link::Link;
use crate::wire::{Exchange, Progress, ResponseReader, client_frame, server_frame};

/// Silence after which a run is given up.
const PATIENCE: Duration = Duration::from_secs(20);
const SCRATCH: usize = 256 * 1024;
const TIMER: Token = Token(usize::MAX);

/// How requests share connections.
#[derive(Clone, Debug)]
pub enum Style {
    /// One after the other on the same connection.
    KeepAlive,
    /// A connection for each; it is done when the other side has closed it.
    NewConnection,
    /// The exchange is an upgrade; what is counted is messages that came back.
    WebSocket,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The proxy; where there are several, connections go to them in turn.
    pub addresses: Vec<SocketAddr>,
    /// With TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// How many connections are busy at the same time.
    pub connections: usize,
    /// What each request is.
    pub exchange: Exchange,
    /// How they share connections.
    pub style: Style,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first request to the last response.
    pub elapsed: Duration,
    /// What each request took, in ascending order.
    pub latencies: Vec<Duration>,
}

impl Outcome {
    /// The latency that this share of the requests did not exceed.
    pub fn percentile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }
}

#[derive(Debug)]
struct Client {
    link: Link,
    reader: ResponseReader,
    stage: Stage,
    began: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Sending {
        sent: usize,
    },
    Waiting,
    /// The response is complete; the end of the connection is not.
    Closing,
}

/// What became of a client.
enum Turn {
    Busy,
    Done,
}

/// How far a run is.
struct Run {
    requests: u64,
    started: u64,
    began: Instant,
    /// From the time of one request to that of the next; nothing in a closed loop.
    every: Option<Duration>,
    /// Those without a request: the next one is for who has been idle longest.
    idle: VecDeque<usize>,
    latencies: Vec<Duration>,
}

impl Run {
    /// When the next request was to be sent, if that is not still to come.
    fn next(&self, now: Instant) -> Option<Instant> {
        if self.started == self.requests {
            return None;
        }
        let Some(every) = self.every else { return Some(now) };
        let time = self.began + Duration::from_secs_f64(every.as_secs_f64() * self.started as f64);
        (time <= now).then_some(time)
    }
}

/// Open connections through one proxy, warm: each has done a request.
#[derive(Debug)]
pub struct Session {
    poll: Poll,
    load: Load,
    clients: Vec<Client>,
    /// What a request is once a connection is open.
    request: Vec<u8>,
    scratch: Vec<u8>,
}

impl Session {
    /// Connects, and does one request on each connection.
    pub fn open(load: Load) -> Result<Session, String> {
        let name = load.addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let mut session = Session {
            poll: Poll::new().map_err(|error| format!("cannot make an epoll instance: {error}"))?,
            clients: Vec::with_capacity(load.connections),
            request: load.exchange.request.clone(),
            load,
            scratch: vec![0; SCRATCH],
        };
        for slot in 0..session.load.connections {
            let client = session.connect(slot).map_err(|error| format!("cannot connect to {name}: {error}"))?;
            session.clients.push(client);
        }
        session.run(session.load.connections as u64)?;
        if let Style::WebSocket = session.load.style {
            session.request = client_frame();
            for client in &mut session.clients {
                client.reader.expect_frames(server_frame().len());
            }
        }
        Ok(session)
    }

    /// The bytes of a request's body or of its response's, whichever the scenario is about.
    pub fn body_bytes(&self) -> u64 {
        self.load.exchange.content.max(self.request.len() as u64)
    }

    fn connect(&self, slot: usize) -> io::Result<Client> {
        let mut stream = TcpStream::connect(self.load.addresses[slot % self.load.addresses.len()])?;
        self.poll.registry().register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
        stream.set_nodelay(true)?;
        let link = match &self.load.tls {
            None => Link::plain(stream),
            Some(config) => {
                let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
                Link::client(stream, ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?)
            }
        };
        let reader = ResponseReader::new(self.load.exchange.content);
        Ok(Client { link, reader, stage: Stage::Idle, began: Instant::now() })
    }

    /// Does this many requests, each as soon as a connection is free.
    pub fn run(&mut self, requests: u64) -> Result<Outcome, String> {
        self.run_with(requests, Instant::now(), None)
    }

    /// Does this many requests at fixed times. What a request takes counts from its time, also where no connection was free
    /// then: a proxy that stops for a while is late for all requests of that while, and not for one of each connection.
    pub fn run_at(&mut self, requests: u64, every: Duration) -> Result<Outcome, String> {
        // Before the timer is set: each time that it wakes us, a request is due, and not almost.
        let began = Instant::now();
        // Not epoll's own time-out: that is in milliseconds.
        let timer = timer(every).map_err(|error| format!("cannot make a timer: {error}"))?;
        let raw = timer.as_raw_fd();
        let mut source = SourceFd(&raw);
        let registered = self.poll.registry().register(&mut source, TIMER, Interest::READABLE);
        registered.map_err(|error| format!("cannot wait for a timer: {error}"))?;
        self.run_with(requests, began, Some((every, &timer)))
    }

    fn run_with(
        &mut self,
        requests: u64,
        began: Instant,
        timer: Option<(Duration, &OwnedFd)>,
    ) -> Result<Outcome, String> {
        let mut events = Events::with_capacity(512);
        let mut run = Run {
            requests,
            started: 0,
            began,
            every: timer.map(|(every, _)| every),
            idle: (0..self.clients.len()).collect(),
            latencies: Vec::with_capacity(requests as usize),
        };
        let fails = |error: String, run: &Run| format!("request {} of {requests} failed: {error}", run.latencies.len());
        let mut last = run.began;
        self.start(&mut run).map_err(|error| fails(error, &run))?;
        while (run.latencies.len() as u64) < requests {
            match self.poll.poll(&mut events, Some(PATIENCE)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("epoll has failed: {error}")),
                // At fixed times there is always an event: that of the timer.
                Ok(()) if events.is_empty() || timer.is_some() && last.elapsed() > PATIENCE => {
                    return Err(fails(format!("nothing came for {} s", PATIENCE.as_secs()), &run));
                }
                Ok(()) => {}
            }
            for event in &events {
                if event.token() == TIMER {
                    // Only a timer that was read goes on.
                    let _ = timer.map(|(_, timer)| rustix::io::read(timer, &mut [0; 8]));
                } else {
                    let slot = event.token().0;
                    if let Turn::Busy = self.turn(slot).map_err(|error| fails(error, &run))? {
                        continue;
                    }
                    last = Instant::now();
                    run.latencies.push(last - self.clients[slot].began);
                    if let Style::NewConnection = self.load.style {
                        // In its place; the old one is closed by being dropped.
                        self.clients[slot] = self.connect(slot).map_err(|error| fails(error.to_string(), &run))?;
                    }
                    run.idle.push_back(slot);
                }
                self.start(&mut run).map_err(|error| fails(error, &run))?;
            }
        }
        let (elapsed, mut latencies) = (run.began.elapsed(), run.latencies);
        latencies.sort_unstable();
        Ok(Outcome { elapsed, latencies })
    }

    /// Sends the requests whose time has come, as far as connections are free.
    fn start(&mut self, run: &mut Run) -> Result<(), String> {
        while let (Some(slot), Some(time)) = (run.idle.front().copied(), run.next(Instant::now())) {
            run.idle.pop_front();
            run.started += 1;
            self.begin(slot, time)?;
        }
        Ok(())
    }

    /// Sends the next request as far as the socket takes it.
    fn begin(&mut self, slot: usize, time: Instant) -> Result<(), String> {
        let client = &mut self.clients[slot];
        client.stage = Stage::Sending { sent: 0 };
        client.began = time;
        client.send(&self.request).map_err(|error| error.to_string())
    }

    /// Goes on with a client for which there was an event.
    fn turn(&mut self, slot: usize) -> Result<Turn, String> {
        let client = &mut self.clients[slot];
        client.link.settle().map_err(|error| error.to_string())?;
        client.send(&self.request).map_err(|error| error.to_string())?;
        if let Stage::Idle = client.stage {
            return Ok(Turn::Busy);
        }
        loop {
            let len = match client.link.read(&mut self.scratch) {
                Ok(0) if client.stage == Stage::Closing => return Ok(Turn::Done),
                Ok(0) => return Err("the connection was closed too early".to_owned()),
                Ok(len) => len,
                Err(error) if is_not_yet(&error) => {
                    // A handshake may just have ended, and no other event will tell of it.
                    if client.link.is_tls() {
                        client.send(&self.request).map_err(|error| error.to_string())?;
                    }
                    return Ok(Turn::Busy);
                }
                Err(error) => return Err(error.to_string()),
            };
            let complete = client.reader.read(&self.scratch[..len])? == Progress::Complete;
            match (&self.load.style, complete) {
                (Style::KeepAlive | Style::WebSocket, true) => {
                    client.stage = Stage::Idle;
                    return Ok(Turn::Done);
                }
                (Style::NewConnection, true) => client.stage = Stage::Closing,
                (Style::KeepAlive | Style::NewConnection | Style::WebSocket, false) => {
                    // A short read means drained: what comes later makes a new event.
                    if len < self.scratch.len() && !client.link.is_tls() {
                        return Ok(Turn::Busy);
                    }
                }
            }
        }
    }
}

impl Client {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        while let Stage::Sending { sent } = self.stage {
            match self.link.write(&request[sent..]) {
                Ok(len) if sent + len == request.len() => self.stage = Stage::Waiting,
                Ok(len) => self.stage = Stage::Sending { sent: sent + len },
                Err(error) if is_not_yet(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A descriptor that is readable once in each of these spans.
fn timer(every: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let span = Timespec { tv_sec: every.as_secs() as i64, tv_nsec: i64::from(every.subsec_nanos().max(1)) };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: span, it_value: span })?;
    Ok(timer)
}

/// Not now, but after an event: also while a connection is being made.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_late_keep_their_times() {
        let began = Instant::now();
        let after = |tenths: u32| began + Duration::from_millis(100) * tenths;
        let run = |started, every| {
            let (idle, latencies) = (VecDeque::new(), Vec::new());
            Run { requests: 20, started, began, every, idle, latencies }
        };
        let every = Some(Duration::from_millis(100));
        for (name, started, every, expected) in [
            ("the first", 0, every, Some(began)),
            ("one that is late", 3, every, Some(after(3))),
            ("one that is due", 10, every, Some(after(10))),
            ("one that is still to come", 11, every, None),
            ("none is left", 20, every, None),
            ("a closed loop", 11, None, Some(after(10))),
            ("a closed loop at its end", 20, None, None),
        ] {
            assert_eq!(run(started, every).next(after(10)), expected, "{name}");
        }
    }

    #[test]
    fn a_percentile_is_one_of_the_latencies() {
        let of = |count: u64, share| {
            let latencies = (1..=count).map(Duration::from_millis).collect();
            Outcome { elapsed: Duration::ZERO, latencies }.percentile(share).as_millis()
        };
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| of(101, share)), [1, 51, 100, 101]);
        assert_eq!((of(1, 0.99), of(0, 0.99)), (1, 0));
    }
}
