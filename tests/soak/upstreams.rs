//! What stands behind the proxy: an honest origin, one for WebSockets, and one that is restarted all the time.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::{Origin, Peer, Stream, fingerprint};

/// Answers by path: `/length/N`, `/chunked/N` and `/close/N` give N bytes of the stream number N; `/hash` tells what was
/// sent; everything else is told back.
pub fn honest() -> Origin {
    Origin::start(|mut peer, _| serve(&mut peer))
}

fn serve(peer: &mut Peer) {
    // A client that breaks off shows here as a connection that ends within a request, which is nobody's fault.
    while let Some(request) = next_request(peer) {
        let path = request.target().to_owned();
        let mut steps = path.trim_start_matches('/').split('/');
        let (word, len) = (steps.next().unwrap_or_default(), steps.next().and_then(|step| step.parse().ok()));
        let result = match (word, len) {
            ("length", Some(len)) => peer
                .try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"))
                .and_then(|()| Stream::new(len, len).write_to(peer.stream())),
            ("chunked", Some(len)) => peer
                .try_send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .and_then(|()| Stream::new(len, len).write_to(Chunks(peer.stream())))
                .and_then(|()| peer.try_send("0\r\n\r\n")),
            ("close", Some(len)) => {
                let _ = peer
                    .try_send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                    .and_then(|()| Stream::new(len, len).write_to(peer.stream()));
                return;
            }
            ("hash", _) => answer(peer, &fingerprint(&request.body)),
            (_, _) => answer(peer, &path),
        };
        if result.is_err() {
            return;
        }
    }
}

fn answer(peer: &mut Peer, text: &str) -> std::io::Result<()> {
    peer.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
}

/// The next request; `None` at any kind of end.
fn next_request(peer: &mut Peer) -> Option<crate::support::peer::Message> {
    // The parser of the tests is strict and panics; that a body was cut short is no news here.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peer.request())).ok().flatten()
}

/// Each write becomes a chunk.
struct Chunks<'a>(&'a TcpStream);

impl std::io::Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.0.write_all(&chunk)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends messages back.
pub fn websockets() -> Origin {
    Origin::start(|peer, _| {
        let Ok(mut socket) = tungstenite::accept(peer.into_parts().0) else { return };
        while let Ok(message) = socket.read() {
            if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                return;
            }
        }
    })
}

/// An honest origin that is killed and started again at the same address.
pub struct Restarted {
    pub address: SocketAddr,
    /// Bound and never listening: between two listeners the port is nobody else's.
    _reserved: Socket,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    address: SocketAddr,
}

impl Restarted {
    pub fn start() -> Restarted {
        let reserved = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = reserved.local_addr().expect("bound").as_socket().expect("an IP address");
        Restarted { address, _reserved: reserved, running: Mutex::new(Some(Running::start(address))) }
    }

    /// Everything that it had is cut; for a moment nobody listens.
    pub fn restart(&self) {
        let mut running = self.running.lock().expect("one restart at a time");
        drop(running.take());
        thread::sleep(Duration::from_millis(100));
        *running = Some(Running::start(self.address));
    }
}

impl Running {
    fn start(address: SocketAddr) -> Running {
        let socket = bound(address);
        socket.listen(128).expect("a listener");
        let listener = TcpListener::from(socket);
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, all) = (Arc::clone(&stop), Arc::clone(&connections));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                all.lock().expect("nobody panics here").push(stream.try_clone().expect("a second handle"));
                thread::spawn(move || serve(&mut Peer::new(stream)));
            }
        });
        Running { stop, connections, address }
    }
}

/// At the same address again, whatever is left of the connections before.
fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket");
    socket.set_reuse_port(true).expect("a socket");
    socket.bind(&address.into()).expect("it is ours");
    socket
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts, which then lets the listener go.
        let _ = TcpStream::connect(self.address);
        for stream in self.connections.lock().expect("nobody panics here").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
