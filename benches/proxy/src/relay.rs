//! The floor: a TCP relay that parses nothing. What it costs, a proxy on the same kernel cannot avoid.
//!
//! One thread, epoll edge-triggered, one connection to the origin for each client. It copies through one buffer, or moves
//! bytes through pipes with `splice(2)`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

const LISTENER: Token = Token(usize::MAX);
const BUFFER: usize = 64 * 1024;
const PIPE: usize = 256 * 1024;

/// How bytes get from one socket to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// `read` and `write` through one buffer.
    Copy,
    /// `splice` through a pipe.
    Splice,
}

/// One direction of a connection.
#[derive(Debug)]
struct Flow {
    readiness: Readiness,
    stage: Stage,
    store: Store,
}

/// Whether a read may give something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Drained,
    Readable,
    /// The peer has ended: a short read is no proof that nothing is left, because no other event will tell of the end.
    Ends,
}

/// Bytes that were read and not yet written.
#[derive(Debug)]
enum Store {
    Buffer { bytes: Vec<u8>, sent: usize },
    Pipe { out: OwnedFd, into: OwnedFd, held: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The end was read; it is passed on behind what is stored.
    Ending,
    Ended,
}

impl Flow {
    fn new(lane: Lane) -> io::Result<Flow> {
        let store = match lane {
            Lane::Copy => Store::Buffer { bytes: Vec::new(), sent: 0 },
            Lane::Splice => {
                let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
                // Without the right to a larger one the default of 64 KiB does too.
                let _ = fcntl_setpipe_size(&into, PIPE);
                Store::Pipe { out, into, held: 0 }
            }
        };
        Ok(Flow { readiness: Readiness::Drained, stage: Stage::Open, store })
    }

    /// Moves what can be moved.
    fn pump(&mut self, from: &mut TcpStream, to: &mut TcpStream, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            if !self.store.flush(to)? {
                return Ok(());
            }
            if self.stage == Stage::Ending {
                self.stage = Stage::Ended;
                match to.shutdown(Shutdown::Write) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotConnected => {}
                    Err(error) => return Err(error),
                }
            }
            if self.readiness == Readiness::Drained || self.stage != Stage::Open {
                return Ok(());
            }
            match self.store.fill(from, to, scratch) {
                Ok(Filled::End) => self.stage = Stage::Ending,
                Ok(Filled::Some) => {}
                Ok(Filled::Last) if self.readiness == Readiness::Ends => {}
                Ok(Filled::Last) => self.readiness = Readiness::Drained,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readiness = Readiness::Drained,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a read gave.
enum Filled {
    Some,
    /// A short read: the next arrival makes a new event.
    Last,
    End,
}

impl Store {
    /// Writes what is stored; false when the socket takes no more.
    fn flush(&mut self, to: &mut TcpStream) -> io::Result<bool> {
        match self {
            Store::Buffer { bytes, sent } => {
                while *sent < bytes.len() {
                    match to.write(&bytes[*sent..]) {
                        Ok(len) => *sent += len,
                        Err(error) if blocked(&error) => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
                bytes.clear();
                *sent = 0;
            }
            Store::Pipe { out, held, .. } => {
                while *held > 0 {
                    match splice(&*out, None, &*to, None, *held, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
                        Ok(len) => *held -= len,
                        Err(error) if blocked(&error.into()) => return Ok(false),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(true)
    }

    /// Reads once; what came is written at once or stored.
    fn fill(&mut self, from: &mut TcpStream, to: &mut TcpStream, scratch: &mut [u8]) -> io::Result<Filled> {
        match self {
            Store::Buffer { bytes, .. } => {
                let len = from.read(scratch)?;
                if len == 0 {
                    return Ok(Filled::End);
                }
                let mut sent = 0;
                while sent < len {
                    match to.write(&scratch[sent..len]) {
                        Ok(len) => sent += len,
                        Err(error) if blocked(&error) => {
                            bytes.extend_from_slice(&scratch[sent..len]);
                            break;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(if len < scratch.len() { Filled::Last } else { Filled::Some })
            }
            Store::Pipe { into, held, .. } => {
                let len = splice(&*from, None, &*into, None, PIPE, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
                if len == 0 {
                    return Ok(Filled::End);
                }
                *held += len;
                // A pipe fills up by pages, not by bytes: how much came says nothing about how much is left.
                Ok(Filled::Some)
            }
        }
    }
}

/// Whether the socket only takes no more now. A connection that is still being made has no peer yet.
fn blocked(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// A client and its connection to the origin, in this order; `flows[0]` goes to the origin.
#[derive(Debug)]
struct Pair {
    streams: [TcpStream; 2],
    flows: [Flow; 2],
}

impl Pair {
    /// False when it is over.
    fn pump(&mut self, scratch: &mut [u8]) -> bool {
        let [client, origin] = &mut self.streams;
        let [up, down] = &mut self.flows;
        up.pump(client, origin, scratch).is_ok()
            && down.pump(origin, client, scratch).is_ok()
            && !(up.stage == Stage::Ended && down.stage == Stage::Ended)
    }
}

/// Relays between a new port, which it prints, and `origin`, for ever.
pub fn run(origin: SocketAddr, lane: Lane) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("{}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(512);
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let (mut free, mut ended) = (Vec::new(), Vec::new());
    let mut scratch = vec![0; BUFFER];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let slot = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        pairs.len() - 1
                    });
                    match open(&poll, slot, client, origin, lane) {
                        Ok(pair) => pairs[slot] = Some(pair),
                        Err(_) => free.push(slot),
                    }
                }
                continue;
            }
            let (slot, side) = (event.token().0 / 2, event.token().0 % 2);
            let Some(pair) = &mut pairs[slot] else { continue };
            let flow = &mut pair.flows[side];
            if event.is_read_closed() || event.is_error() {
                flow.readiness = Readiness::Ends;
            } else if event.is_readable() && flow.readiness == Readiness::Drained {
                flow.readiness = Readiness::Readable;
            }
            if !pair.pump(&mut scratch) {
                pairs[slot] = None;
                ended.push(slot);
            }
        }
        // Only now: an event of this batch may still carry an old slot.
        free.append(&mut ended);
    }
}

fn open(poll: &Poll, slot: usize, mut client: TcpStream, origin: SocketAddr, lane: Lane) -> io::Result<Pair> {
    let mut upstream = TcpStream::connect(origin)?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut client, Token(slot * 2), both)?;
    poll.registry().register(&mut upstream, Token(slot * 2 + 1), both)?;
    Ok(Pair { streams: [client, upstream], flows: [Flow::new(lane)?, Flow::new(lane)?] })
}
