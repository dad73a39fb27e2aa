//! The load generator: a fixed number of requests over a fixed number of connections, each response checked.
//!
//! A closed loop: a connection sends its next request when the response to the last one is complete. One thread, epoll
//! edge-triggered, one `write` and one `read` for a small request, so that it costs no more than a bare relay does.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::certificate::NAME;
use crate::link::Link;
use crate::wire::{Exchange, Progress, ResponseReader, client_frame, server_frame};

/// Silence after which a run is given up.
const PATIENCE: Duration = Duration::from_secs(20);
const SCRATCH: usize = 256 * 1024;

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

    /// Does this many requests.
    pub fn run(&mut self, requests: u64) -> Result<Outcome, String> {
        let mut events = Events::with_capacity(512);
        let mut latencies = Vec::with_capacity(requests as usize);
        let began = Instant::now();
        let mut started = 0;
        let fails = |error: String, done: usize| format!("request {done} of {requests} failed: {error}");
        for slot in 0..self.clients.len() {
            if started == requests {
                break;
            }
            started += 1;
            self.begin(slot).map_err(|error| fails(error, latencies.len()))?;
        }
        while (latencies.len() as u64) < requests {
            match self.poll.poll(&mut events, Some(PATIENCE)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("epoll has failed: {error}")),
                Ok(()) if events.is_empty() => {
                    return Err(fails(format!("nothing came for {} s", PATIENCE.as_secs()), latencies.len()));
                }
                Ok(()) => {}
            }
            for event in &events {
                let slot = event.token().0;
                if let Turn::Busy = self.turn(slot).map_err(|error| fails(error, latencies.len()))? {
                    continue;
                }
                latencies.push(self.clients[slot].began.elapsed());
                if let Style::NewConnection = self.load.style {
                    // In its place; the old one is closed by being dropped.
                    self.clients[slot] =
                        self.connect(slot).map_err(|error| fails(error.to_string(), latencies.len()))?;
                }
                if started < requests {
                    started += 1;
                    self.begin(slot).map_err(|error| fails(error, latencies.len()))?;
                }
            }
        }
        let elapsed = began.elapsed();
        latencies.sort_unstable();
        Ok(Outcome { elapsed, latencies })
    }

    /// Sends the next request as far as the socket takes it.
    fn begin(&mut self, slot: usize) -> Result<(), String> {
        let client = &mut self.clients[slot];
        client.stage = Stage::Sending { sent: 0 };
        client.began = Instant::now();
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
                Err(error) if is_not_yet(&error) => return Ok(Turn::Busy),
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

/// Not now, but after an event: also while a connection is being made.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
