//! Clients that leave (rule G12), with TLS on neither side, on either and on both.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};
use socket2::SockRef;

use crate::certificates::Authority;
use crate::ends::{address_of, client_config, dial, listen_both, server_config, session};
use crate::support::{Origin, PATIENCE, Peer, Proxy};

/// A stream of plain bytes, with TLS beneath it or without.
trait Plain: Read + Write + Send {
    /// Says that this is the end, where that is said.
    fn say_end(&mut self) {}
}

impl Plain for TcpStream {}

impl Plain for StreamOwned<ServerConnection, TcpStream> {}

impl Plain for StreamOwned<ClientConnection, TcpStream> {
    fn say_end(&mut self) {
        self.conn.send_close_notify();
        self.flush().expect("is taken");
    }
}

type End = Peer<Box<dyn Plain>>;

/// A client, and its socket.
struct Client {
    peer: End,
    socket: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr, authority: Option<&Authority>) -> Client {
        let mut stream = dial(address);
        let socket = stream.try_clone().expect("a descriptor");
        let plain: Box<dyn Plain> = match authority {
            None => Box::new(stream),
            Some(authority) => {
                let mut session = session(client_config(authority), "localhost");
                while session.is_handshaking() {
                    session.complete_io(&mut stream).expect("a handshake");
                }
                Box::new(StreamOwned::new(session, stream))
            }
        };
        Client { peer: Peer::over(plain), socket }
    }

    /// Sends until nobody takes any more.
    fn flood(&mut self) {
        let short = Some(Duration::from_millis(200));
        self.socket.set_write_timeout(short).expect("a socket takes a time-out");
        // rustls reads too.
        self.socket.set_read_timeout(short).expect("a socket takes a time-out");
        while self.peer.try_send([b'x'; 16 * 1024]).is_ok() {}
    }

    fn end(&mut self) {
        self.peer.inner().say_end();
        self.socket.shutdown(Shutdown::Write).expect("is open");
    }

    fn reset(self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).expect("a socket takes a linger time");
    }
}

/// Both kinds of listeners in front of an origin of either kind.
struct Setup {
    authority: Authority,
    proxy: Proxy,
    _origin: Origin,
}

impl Setup {
    fn new(is_origin_secure: bool, more: &str, serve: impl Fn(End) + Send + Sync + 'static) -> Setup {
        let authority = Authority::new();
        let pair = authority.issue(&["localhost"]);
        let config = std::sync::Arc::new(server_config(&pair));
        let origin = Origin::start(move |peer, _| {
            let (mut socket, _) = peer.into_parts();
            if !is_origin_secure {
                return serve(Peer::over(Box::new(socket)));
            }
            let mut session = ServerConnection::new(config.clone()).expect("a session");
            while session.is_handshaking() {
                if session.complete_io(&mut socket).is_err() {
                    return;
                }
            }
            serve(Peer::over(Box::new(StreamOwned::new(session, socket))));
        });
        let scheme = if is_origin_secure { "https" } else { "http" };
        let yaml = format!(
            "workers: 1\nroutes: [{{prefix: /, upstream: '{scheme}://localhost:{}'}}]\nupstream_tls: {{ca_file: {}}}\n{}{more}",
            origin.address.port(),
            authority.file.display(),
            listen_both(&pair)
        );
        Setup { proxy: Proxy::start(&yaml), authority, _origin: origin }
    }

    fn client(&self, is_secure: bool) -> Client {
        if is_secure {
            Client::connect(address_of(&self.proxy, "https"), Some(&self.authority))
        } else {
            Client::connect(address_of(&self.proxy, "http"), None)
        }
    }
}

/// TLS with the client, TLS with the origin.
const SIDES: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// Says how often something happened, to be waited for.
fn counter() -> (impl Fn() + Send + Sync + 'static, Receiver<()>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let count = move || {
        let _ = sender.lock().expect("whole").send(());
    };
    (count, receiver)
}

fn wait_for(count: usize, what: &Receiver<()>, name: &str) {
    let until = Instant::now() + PATIENCE;
    for done in 0..count {
        let left = until.saturating_duration_since(Instant::now());
        assert!(what.recv_timeout(left).is_ok(), "{name}: {done} of {count}");
    }
}

const UPGRADE: &str = "GET /t HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn g12_clients_that_flood_a_tunnel_and_reset_give_back_what_they_hold() {
    const CLIENTS: usize = 8;
    for (client_tls, origin_tls) in SIDES {
        let name = format!("TLS: client {client_tls}, origin {origin_tls}");
        let (ended, ends) = counter();
        let (flooded, floods) = counter();
        let setup = Setup::new(origin_tls, "", move |mut peer| {
            peer.head().expect("a request");
            peer.send(SWITCHED);
            // An echo that does not read on while nobody takes what it sends.
            while peer.some_bytes().is_ok_and(|bytes| !bytes.is_empty() && peer.try_send(bytes).is_ok()) {}
            ended();
        });
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let mut client = setup.client(client_tls);
                let flooded = &flooded;
                scope.spawn(move || {
                    client.peer.send(UPGRADE);
                    assert_eq!(client.peer.head().expect("a response").status(), 101);
                    client.flood();
                    client.reset();
                    flooded();
                });
            }
        });
        wait_for(CLIENTS, &floods, &name);
        wait_for(CLIENTS, &ends, &name);
        setup.proxy.log.wait_for_many(&name, CLIENTS, |line| line.contains("path=/t") && line.contains("why="));
    }
}

#[test]
fn g12_a_client_that_resets_with_bytes_behind_its_request_is_gone_at_once() {
    // Neither is waited for: what is tested is that they are not needed.
    let more = "timeouts: {write_idle: 10m, response_idle: 10m}\n";
    for (client_tls, origin_tls) in SIDES {
        let name = format!("TLS: client {client_tls}, origin {origin_tls}");
        let (ended, ends) = counter();
        let setup = Setup::new(origin_tls, more, move |mut peer| {
            peer.head().expect("a request");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            while peer.try_send([b'x'; 16 * 1024]).is_ok() {}
            ended();
        });
        let mut client = setup.client(client_tls);
        client.peer.send("GET /d HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.peer.head().expect("a response").status(), 200);
        client.flood();
        client.reset();
        wait_for(1, &ends, &name);
        let line = setup.proxy.access("/d");
        assert!(line.contains("status=499") && line.contains("why=client_gone"), "{name}: {line}");
    }
}

#[test]
fn g12_a_client_that_waits_and_leaves_is_gone_at_once() {
    for (client_tls, origin_tls) in SIDES {
        for (path, behind) in [("/wait", &b""[..]), ("/more", &[b'x'; 100_000])] {
            let name = format!("TLS: client {client_tls}, origin {origin_tls}, {path}");
            let (asked, questions) = counter();
            let (ended, ends) = counter();
            let setup = Setup::new(origin_tls, "", move |mut peer| {
                peer.head().expect("a request");
                asked();
                let _ = peer.some_bytes();
                ended();
            });
            let mut client = setup.client(client_tls);
            client.peer.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
            client.peer.send(behind);
            wait_for(1, &questions, &name);
            client.reset();
            wait_for(1, &ends, &name);
            let line = setup.proxy.access(path);
            assert!(line.contains("status=499") && line.contains("why=client_gone"), "{name}: {line}");
        }
    }
}

#[test]
fn g12_a_client_that_leaves_within_its_upload_is_gone_at_once() {
    for (client_tls, origin_tls) in SIDES {
        let name = format!("TLS: client {client_tls}, origin {origin_tls}");
        let (over, is_over) = channel::<()>();
        let is_over = Mutex::new(is_over);
        let setup = Setup::new(origin_tls, "timeouts: {write_idle: 10m, response_head: 10m}\n", move |mut peer| {
            peer.head().expect("a request");
            // It neither reads on nor answers.
            let _ = is_over.lock().expect("whole").recv();
        });
        let mut client = setup.client(client_tls);
        client.peer.send("PUT /up HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n");
        client.flood();
        client.reset();
        let line = setup.proxy.access("/up");
        assert!(line.contains("status=499") && line.contains("why=client_gone"), "{name}: {line}");
        drop(over);
    }
}

#[test]
fn g12_a_client_that_ends_its_half_of_a_tunnel_and_then_resets_is_gone_at_once() {
    for (client_tls, origin_tls) in SIDES {
        let name = format!("TLS: client {client_tls}, origin {origin_tls}");
        let (heard, ears) = counter();
        let (over, is_over) = channel::<()>();
        let is_over = Mutex::new(is_over);
        let setup = Setup::new(origin_tls, "", move |mut peer| {
            peer.head().expect("a request");
            peer.send(SWITCHED);
            let _ = peer.try_rest();
            heard();
            // Neither side has anything to say.
            let _ = is_over.lock().expect("whole").recv();
        });
        let mut client = setup.client(client_tls);
        client.peer.send(UPGRADE);
        assert_eq!(client.peer.head().expect("a response").status(), 101);
        client.end();
        wait_for(1, &ears, &name);
        client.reset();
        setup.proxy.access("/t");
        drop(over);
    }
}
