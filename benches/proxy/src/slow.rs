//! Clients that download at a trickle, on a thread of their own.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::cores::pin;
use crate::wire::get;

/// Far more than such a client ever reads.
const ENDLESS: &str = "/app/slow/1073741824";
/// What a client reads at a time...
const SIP: usize = 4096;
/// ...and how long it takes until all have read once.
const ROUND: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(2);
/// What an Ethernet leaves for TCP.
const SEGMENT: u32 = 1460;

/// Slow readers at work, until this value ends.
#[derive(Debug)]
pub struct SlowReaders {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SlowReaders {
    /// So many, each with a small receive buffer and a download under way.
    pub fn start(address: SocketAddr, count: usize, core: usize) -> Result<SlowReaders, String> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let stream = open(address).map_err(|error| format!("a slow reader cannot connect: {error}"))?;
            streams.push(stream);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            pin(&[core]);
            sip(&mut streams, &told);
        });
        Ok(SlowReaders { stop, thread: Some(thread) })
    }
}

impl Drop for SlowReaders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Before connecting, because it decides the window that is offered.
    socket.set_recv_buffer_size(16 * 1024)?;
    // Segments of loopback are so large that the kernel gives the sender a buffer of megabytes, and nobody would ever
    // notice that the reader is slow. With those of a real network it is some ten KiB.
    socket.set_tcp_mss(SEGMENT)?;
    socket.connect(&address.into())?;
    let mut stream: TcpStream = socket.into();
    stream.write_all(&get(ENDLESS, 0).request)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn sip(streams: &mut [TcpStream], stop: &AtomicBool) {
    let ticks = ROUND.as_millis() / TICK.as_millis();
    let at_a_time = streams.len().div_ceil(ticks as usize).max(1);
    let mut buf = [0; SIP];
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) && !streams.is_empty() {
        for _ in 0..at_a_time {
            match streams[next].read(&mut buf) {
                Ok(0) => eprintln!("a slow reader was cut off"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => eprintln!("a slow reader was cut off: {error}"),
            }
            next = (next + 1) % streams.len();
        }
        thread::sleep(TICK);
    }
}
