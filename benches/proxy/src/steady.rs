//! Clients that go on whatever happens: each sends a request at fixed times over a connection that it makes anew when it is
//! closed, and remembers the longest time that a request took.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cores::pin;
use crate::peer::connect;
use crate::wire::{Exchange, Progress, ResponseReader};

/// After which a request has failed for good.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts, so that a listener that is away is not asked without a break.
const PAUSE: Duration = Duration::from_millis(1);

/// What clients saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// From the time of a request to its response: the longest of all.
    pub longest: Duration,
    /// Requests that had to be sent again, because a connection ended without their response. One that was closed before the
    /// request was sent does not count: that is how a server says good-bye.
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
                    let mut client = Client { address, exchange, connection: None, seen: Seen::default() };
                    let mut due = first;
                    while !stop.load(Ordering::Relaxed) {
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        client.ask(due)?;
                        due += every;
                    }
                    Ok(client.seen)
                })
            })
            .collect();
        SteadyClients { stop, threads }
    }

    /// Ends them.
    pub fn stop(self) -> Result<Seen, String> {
        self.stop.store(true, Ordering::Relaxed);
        // All of them, before the first error is told: none is left behind.
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        let mut all = Seen::default();
        for seen in ended {
            let seen = seen.map_err(|_| "a client has panicked".to_owned())??;
            all.longest = all.longest.max(seen.longest);
            all.again += seen.again;
            all.answered += seen.answered;
        }
        Ok(all)
    }
}

struct Client {
    address: SocketAddr,
    exchange: Exchange,
    connection: Option<TcpStream>,
    seen: Seen,
}

impl Client {
    /// One request that is due at this time, until it is answered.
    fn ask(&mut self, due: Instant) -> Result<(), String> {
        self.connection.take_if(|stream| !is_open(stream));
        let mut is_again = false;
        while let Err(error) = self.try_once() {
            self.connection = None;
            // An answer that is not the right one does not become so by asking again.
            if error.kind() == ErrorKind::InvalidData || due.elapsed() > PATIENCE {
                return Err(format!("a request was not answered: {error}"));
            }
            is_again = true;
            thread::sleep(PAUSE);
        }
        self.seen.again += u64::from(is_again);
        self.seen.answered += 1;
        self.seen.longest = self.seen.longest.max(due.elapsed());
        Ok(())
    }

    /// On the connection that is there or on a new one.
    fn try_once(&mut self) -> io::Result<()> {
        let stream = match &mut self.connection {
            Some(stream) => stream,
            None => {
                let stream = connect(self.address, PATIENCE)?;
                stream.set_nodelay(true)?;
                self.connection.insert(stream)
            }
        };
        stream.write_all(&self.exchange.request)?;
        let mut reader = ResponseReader::new(self.exchange.content);
        let mut buf = [0; 4096];
        loop {
            let len = stream.read(&mut buf)?;
            if len == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let progress = reader.read(&buf[..len]);
            if progress.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))? == Progress::Complete {
                return Ok(());
            }
        }
    }
}

/// Whether nothing has come on a connection on which nothing was asked for, not even its end.
fn is_open(stream: &TcpStream) -> bool {
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    peek().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::wire::get;

    const RIGHT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
    const WRONG: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1\r\n\r\na";

    /// What becomes of a client's request by a server that answers so to one request on each connection, and closes it.
    fn ask(client: &mut Client, listener: &TcpListener, answers: &[&str]) -> Result<(), String> {
        thread::scope(|scope| {
            scope.spawn(|| {
                for answer in answers {
                    let (mut stream, _) = listener.accept().expect("a connection");
                    let len = stream.read(&mut [0; 4096]).expect("a request");
                    assert!(len > 0, "a connection without a request");
                    stream.write_all(answer.as_bytes()).expect("an answer");
                }
            });
            client.ask(Instant::now())
        })
    }

    #[test]
    fn a_connection_that_ends_counts_where_a_request_was_sent_on_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut client = Client { address, exchange: get("/", 1), connection: None, seen: Seen::default() };
        for (name, answers, expected) in [
            ("the first", &[RIGHT][..], (1, 0)),
            // On the connection that has ended nothing is sent.
            ("one after it", &[RIGHT], (2, 0)),
            ("one that is sent three times", &["", "", RIGHT], (3, 1)),
        ] {
            ask(&mut client, &listener, answers).expect(name);
            assert_eq!((client.seen.answered, client.seen.again), expected, "{name}");
            let kept = client.connection.as_ref().expect("kept");
            assert_eq!(kept.peek(&mut [0]).expect("its end comes"), 0, "{name}");
        }
        let error = ask(&mut client, &listener, &[WRONG]).expect_err("another status");
        assert!(error.contains("503"), "{error}");
    }
}
