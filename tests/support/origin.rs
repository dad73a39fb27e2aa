//! An origin whose every step a test decides: one closure, called once for each connection, in a thread of its own.

use std::hash::{DefaultHasher, Hasher};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::Peer;

/// More connections than this at a time are a fault of the test.
const MAX_CONNECTIONS: usize = 128;

pub struct Origin {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Origin {
    /// Calls `serve` with each connection and its number, counted from 0.
    pub fn start(serve: impl Fn(Peer, usize) + Send + Sync + 'static) -> Origin {
        Origin::start_at(([127, 0, 0, 1], 0).into(), serve)
    }

    /// The same at an address of the test's choice.
    pub fn start_at(address: SocketAddr, serve: impl Fn(Peer, usize) + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let origin = Origin { address, connections: connections.clone(), stop: stop.clone() };
        let serve = Arc::new(serve);
        let running = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.expect("accepts");
                let number = connections.fetch_add(1, Ordering::SeqCst);
                assert!(running.fetch_add(1, Ordering::SeqCst) < MAX_CONNECTIONS, "too many connections at a time");
                let (serve, running) = (serve.clone(), running.clone());
                thread::spawn(move || {
                    // Counts down however the closure ends, by a failed assertion too.
                    let _guard = Running(running);
                    serve(Peer::new(stream), number);
                });
            }
        });
        origin
    }

    /// Answers every request with the same bytes.
    pub fn answering(response: impl AsRef<[u8]> + Send + Sync + 'static) -> Origin {
        Origin::start(move |mut peer, _| {
            while peer.request().is_some() {
                if peer.try_send(response.as_ref()).is_err() {
                    return;
                }
            }
        })
    }

    /// Tells each request back as text: start line, field lines, an empty line, and the [`fingerprint`] of the body.
    pub fn echo() -> Origin {
        Origin::start(|mut peer, _| {
            while let Some(mut request) = peer.head() {
                if request.field("Expect").is_some() {
                    peer.send("HTTP/1.1 100 Continue\r\n\r\n");
                }
                peer.read_request_body(&mut request);
                let fields: String = request.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
                let body = format!("{}\n{fields}\n{}\n", request.start, fingerprint(&request.body));
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let shown = if request.method() == "HEAD" { "" } else { &body };
                if peer.try_send(format!("{head}{shown}")).is_err() {
                    return;
                }
            }
        })
    }

    /// How many connections there were until now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A configuration with one route, `/`, to this origin, and `more` lines of YAML.
    pub fn config(&self, more: &str) -> String {
        format!("routes:\n  - prefix: /\n    upstream: {}\n{more}\n", self.url())
    }
}

/// One connection that is being served.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Length and hash of some bytes.
pub fn fingerprint(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{} bytes, hash {:016x}", bytes.len(), hasher.finish())
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}
