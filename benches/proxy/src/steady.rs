//! Clients that go on whatever happens: each sends a request at fixed times over a connection that it makes anew when it is
//! closed, and remembers the longest time that a request took.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cores::pin;
use crate::wire::{Exchange, Progress, ResponseReader};

/// After which a request has failed for good.
const PATIENCE: Duration = Duration::from_secs(10);

/// What clients saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// From the time of a request to its response: the longest of all.
    pub longest: Duration,
    /// Requests that had to be sent again, because their connection ended without a response.
    pub again: u64,
    /// Requests that were answered.
    pub answered: u64,
}

/// Clients at work.
#[derive(Debug)]
pub struct SteadyClients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Seen, String>>>,
}

impl SteadyClients {
    /// So many on this core, each with a request in each of these spans.
    pub fn start(address: SocketAddr, exchange: &Exchange, count: u32, every: Duration, core: usize) -> SteadyClients {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|number| {
                let (stop, exchange) = (Arc::clone(&stop), exchange.clone());
                // Evenly spread, so that there is always one about to be sent.
                let first = Instant::now() + every * number / count;
                thread::spawn(move || {
                    pin(&[core]);
                    ask_until(&stop, address, &exchange, first, every)
                })
            })
            .collect();
        SteadyClients { stop, threads }
    }

    /// Ends them.
    pub fn stop(self) -> Result<Seen, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().map_err(|_| "a client has panicked".to_owned())??;
            all.longest = all.longest.max(seen.longest);
            all.again += seen.again;
            all.answered += seen.answered;
        }
        Ok(all)
    }
}

fn ask_until(
    stop: &AtomicBool,
    address: SocketAddr,
    exchange: &Exchange,
    first: Instant,
    every: Duration,
) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let mut connection = None;
    let mut time = first;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(time.saturating_duration_since(Instant::now()));
        while let Err(error) = ask_on(&mut connection, address, exchange) {
            connection = None;
            seen.again += 1;
            if time.elapsed() > PATIENCE {
                return Err(format!("no response for {} s: {error}", PATIENCE.as_secs()));
            }
        }
        seen.answered += 1;
        seen.longest = seen.longest.max(time.elapsed());
        time += every;
    }
    Ok(seen)
}

/// One exchange, on the connection that is there or on a new one.
fn ask_on(connection: &mut Option<TcpStream>, address: SocketAddr, exchange: &Exchange) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(says)?;
            stream.set_nodelay(true).map_err(says)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(says)?;
            connection.insert(stream)
        }
    };
    stream.write_all(&exchange.request).map_err(says)?;
    let mut reader = ResponseReader::new(exchange.content);
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf).map_err(says)? {
            0 => return Err("the connection was closed".to_owned()),
            len if reader.read(&buf[..len])? == Progress::Complete => return Ok(()),
            _ => {}
        }
    }
}
