//! The same proxy without an event loop: threads, and sockets that block. docs/guide/blocking.md explains it;
//! `cargo run --example blocking -- -config config.yaml -verbose` runs it.
//!
//! What a proxy decides is decided in [`ProxyConnection`], which owns no socket: bytes and events go in, bytes and
//! commands come out. Each client has a thread that owns one, connects and writes; each socket has one that reads when told to.
//!
//! ```text
//!  client ──► reader ──┐                           ┌── reader ◄── upstream
//!    ▲                 └─events─► client's thread ◄┘                 ▲
//!    └─────── write ─────────────────┘   └────────────── write ──────┘
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use mini_rproxy::cli::{self, Action};
use mini_rproxy::config::{Config, Endpoint, ListenAddr, Scheme, UpstreamUrl};
use mini_rproxy::log::{Level, Logger};
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::net::{clock::Clock, error_pages, signal};
use mini_rproxy::proxy::proxy_connection::{
    Balance, CloseMode, Command, ConnectError, Input, Peer, ProxyConnection, Side, TransactionPool, WorkerContext,
};
use mini_rproxy::proxy::runtime::{Runtime, UpstreamId};

/// A write that blocks for so long gives up, so that its thread sees what else has happened; then it is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// What was read, and from which socket. No bytes: its end.
type Event = (Side, Arc<TcpStream>, io::Result<Vec<u8>>);

/// A connection, and a thread that reads from it once for each sender that it is given.
struct Socket {
    stream: Arc<TcpStream>,
    reader: mpsc::Sender<(Side, mpsc::Sender<Event>)>,
    /// It was told to read and has not brought anything yet, or has found the end.
    is_reading: bool,
    made: MonoTime,
    upstream: UpstreamId,
}

impl Socket {
    fn new(stream: TcpStream, upstream: UpstreamId) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PAUSE))?;
        let (stream, (reader, orders)) = (Arc::new(stream), mpsc::channel::<(_, mpsc::Sender<_>)>());
        let from = Arc::clone(&stream);
        thread::Builder::new().spawn(move || {
            let mut buf = [0; 16 * 1024];
            for (side, events) in orders {
                let result = (&*from).read(&mut buf).map(|len| buf[..len].to_vec());
                let _ = events.send((side, Arc::clone(&from), result)); // In vain where the client is gone.
            }
        })?;
        Ok(Socket { stream, reader, is_reading: false, made: MonoTime::now(), upstream })
    }

    /// Whether nothing has come since the last response, not even the end (rule M12).
    fn is_silent(&self) -> bool {
        !self.is_reading
            && self.stream.set_nonblocking(true).is_ok()
            && self.stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
            && self.stream.set_nonblocking(false).is_ok()
    }
}

/// Its reader holds it, too, and wakes up by this.
impl Drop for Socket {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Read);
    }
}

/// Idle connections to upstreams, and until when they are good.
fn pool() -> MutexGuard<'static, Vec<(MonoTime, Socket)>> {
    static POOL: Mutex<Vec<(MonoTime, Socket)>> = Mutex::new(Vec::new());
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(runtime: &Runtime, upstream: UpstreamId, timeout: Duration) -> Result<Socket, ConnectError> {
    let origin = runtime.origin(upstream).ok_or(ConnectError::Failed)?;
    let Endpoint::Tcp { host, port } = &origin.endpoint else { return Err(ConnectError::Failed) };
    let mut failure = ConnectError::DnsFail;
    for address in (host.as_str(), *port).to_socket_addrs().map_err(|_| failure)? {
        failure = match TcpStream::connect_timeout(&address, timeout).and_then(|stream| Socket::new(stream, upstream)) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => ConnectError::Refused,
            Err(error) if error.kind() == ErrorKind::TimedOut => ConnectError::TimedOut,
            Err(_) => ConnectError::Failed,
        };
    }
    Err(failure)
}

/// The life of a client's connection, and the whole contract with the core.
fn serve((stream, address): (TcpStream, SocketAddr), runtime: Runtime, mut logger: Logger) -> io::Result<()> {
    let (mut clock, runtime, (sender, events)) = (Clock::default(), Rc::new(runtime), mpsc::channel::<Event>());
    let (balance, transactions, observer) = (&mut Balance::default(), &mut TransactionPool::default(), &mut logger);
    let peer = Peer { address: Some(address), ..Peer::default() };
    let mut core = ProxyConnection::new(clock.now(), peer, Rc::clone(&runtime));
    // By `Side`. Somebody may have logged in on that of the upstream: then it is for nobody else.
    let (mut sockets, mut is_logged_in) = ([Some(Socket::new(stream, UpstreamId::default())?), None], false);
    let (mut answer, mut is_busy) = (None, true);
    while sockets[0].is_some() {
        // 1. Wait for an event or for the deadline, where there is nothing to do before.
        let left = core.deadline().map_or(Duration::MAX, |deadline| deadline - MonoTime::now());
        let event = events.recv_timeout(if is_busy { Duration::ZERO } else { left });
        is_busy = false;
        clock.read();
        let worker = &mut WorkerContext { now: clock.now(), runtime: &runtime, balance, transactions, observer };
        // 2. Hand in what has happened. Late news of a connection that was closed is none.
        if let Some(answer) = answer.take() {
            core.handle(worker, answer);
        }
        let mut input = Input::Tick;
        if let Ok((side, stream, result)) = &event
            && let Some(socket) = sockets[*side as usize].as_mut().filter(|socket| Arc::ptr_eq(&socket.stream, stream))
        {
            input = match result.as_deref() {
                Ok([]) => Input::Eof(*side),
                Ok(bytes) => Input::Bytes(*side, bytes),
                Err(_) => Input::Reset(*side),
            };
            socket.is_reading = !matches!(input, Input::Bytes(..));
        }
        core.handle(worker, input);
        // 3. Carry out the commands.
        while let Some(command) = core.poll_command() {
            match command {
                Command::Connect { upstream, is_new } => {
                    let is_usable = |socket: &Socket| !is_new && socket.upstream == upstream && socket.is_silent();
                    let idle = sockets[1].take().filter(is_usable).or_else(|| {
                        let mut pool = pool();
                        let newest = pool.iter().rposition(|(_, socket)| is_usable(socket))?;
                        Some(pool.remove(newest).1)
                    });
                    let (reused, timeout) = (idle.is_some(), core.connect_address_timeout());
                    let result = idle.map_or_else(|| connect(&runtime, upstream, timeout), Ok);
                    answer = Some(
                        result.as_ref().err().map_or(Input::Connected { reused }, |error| Input::ConnectFailed(*error)),
                    );
                    (sockets[1], is_busy) = (result.ok(), true);
                    core.set_upstream_addr(sockets[1].as_ref().and_then(|socket| socket.stream.peer_addr().ok()));
                }
                Command::Release { is_login_bound } => {
                    is_logged_in |= is_login_bound;
                    if let Some(socket) = sockets[1].take_if(|_| !is_logged_in) {
                        let (mut pool, limits) = (pool(), runtime.config.pool);
                        let until = (MonoTime::now() + limits.idle_timeout).min(socket.made + limits.max_age);
                        let same = pool.iter().filter(|(_, other)| other.upstream == socket.upstream).count();
                        if same < limits.max_idle_per_upstream && pool.len() < limits.max_idle {
                            pool.push((until, socket));
                        }
                    }
                }
                Command::Shutdown(side) => {
                    let _ = sockets[side as usize].as_ref().map(|socket| socket.stream.shutdown(Shutdown::Write));
                }
                Command::Close(side, mode) => {
                    if let (Some(socket), CloseMode::Abort) = (sockets[side as usize].take(), mode) {
                        let _ = socket2::SockRef::from(&*socket.stream).set_linger(Some(Duration::ZERO)); // Resets it.
                    }
                }
                Command::AwaitResume => {} // Only plugins ask for that.
            }
        }
        for side in [Side::Client, Side::Upstream] {
            let Some(socket) = &mut sockets[side as usize] else { continue };
            // 4. Write what waits, as far as that goes now.
            if let output @ [_, ..] = core.output(side) {
                is_busy = true;
                match (&*socket.stream).write(output) {
                    Ok(len) => core.sent(worker, side, len),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(_) => core.handle(worker, Input::Unwritable(side)),
                }
            }
            // 5. Read where that is wanted. Where it is not, the peer has to wait: that is backpressure.
            if !socket.is_reading && core.read_interest(side).is_some() {
                socket.is_reading = socket.reader.send((side, sender.clone())).is_ok();
            }
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (action, flags) = cli::parse(std::env::args().skip(1))?;
    let of_flags = || Config::from_flags(&flags.listen, &flags.routes, &[]);
    let mut config = flags.config_path().map_or_else(of_flags, |path| Config::load(path, &[]))?;
    config.log.access |= flags.verbose;
    let is_plain = |url: &_| matches!(url, UpstreamUrl { scheme: Scheme::Http, endpoint: Endpoint::Tcp { .. }, .. });
    let is_known = action == Action::Run && config.tls.is_none() && config.plugins.is_empty();
    let is_known = is_known && config.proxy_protocol.from.is_empty() && config.admin.listen_addr.is_empty();
    if !is_known || !config.routes.iter().flat_map(|route| route.upstreams()).all(is_plain) {
        return Err("this example has no https, plugins, unix sockets, PROXY protocol, or admin.listen_addr".into());
    }
    let logger = Logger::to_stdout(config.log.format.unwrap_or_default())?;
    logger.set_access(config.log.access);
    logger.set_debug(flags.trace);
    let mut runtime = Runtime::new(Arc::new(config), None);
    runtime.error_pages = error_pages::load(&runtime.config).map_err(|error| error.to_string())?;
    let (sender, signals) = mpsc::channel();
    signal::listen(sender, |_| {})?;
    for address in &runtime.config.listen_addr {
        let ListenAddr::Tcp { addr, .. } = address else { return Err("this example has no unix sockets".into()) };
        let listener = TcpListener::bind(addr).map_err(|error| format!("cannot listen on {addr}: {error}"))?;
        logger.line(Level::Info, "listening").text("address", listener.local_addr()?).text("protocol", "http").send();
        let (runtime, logger) = (runtime.clone(), logger.clone());
        thread::spawn(move || {
            loop {
                let (runtime, logger) = (runtime.clone(), logger.clone());
                let start = |client| thread::Builder::new().spawn(move || serve(client, runtime, logger));
                if listener.accept().and_then(start).is_err() {
                    thread::sleep(PAUSE); // Out of descriptors or threads; some are given back soon.
                }
            }
        });
    }
    while !matches!(signals.recv_timeout(PAUSE), Ok(signal::SignalEvent::Stop)) {
        // Whoever has ended in the pool is closed (rule M12).
        pool().retain(|(until, socket)| *until > MonoTime::now() && socket.is_silent());
    }
    logger.flush(Duration::from_secs(1));
    Ok(())
}
