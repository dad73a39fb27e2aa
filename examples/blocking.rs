//! The same proxy without an event loop: threads, and sockets that block. `docs/guide/blocking.md` explains it.
//!
//! ```text
//! cargo run --example blocking -- -config config.yaml -verbose
//! make blocking                         # the smuggling catalogue and the end-to-end tests through this program
//! ```
//!
//! What a proxy decides is decided in [`ProxyConnection`], which owns no socket: bytes and events go in, bytes and commands come
//! out. Each client has a thread that owns one, writes and connects. Each socket has a thread that reads once when it is told to.
//!
//! ```text
//!  client ──► reader ──┐                           ┌── reader ◄── upstream
//!    ▲                 └─events─► client's thread ◄┘                 ▲
//!    └─────── write ─────────────────┘   └────────────── write ──────┘
//! ```

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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
use socket2::SockRef;

/// The most that is read at once.
const PIECE: usize = 16 * 1024;
/// A write that blocks for so long gives up, for its thread to look at what else has happened, and is tried again. As often the
/// pool is looked through.
const PAUSE: Duration = Duration::from_millis(20);

/// What was read, and from which socket. No bytes: its end.
type Event = (Side, Arc<TcpStream>, io::Result<Vec<u8>>);

/// A connection and its reader, which reads once for each sender that it is given.
struct Socket {
    stream: Arc<TcpStream>,
    reader: Sender<(Side, Sender<Event>)>,
    /// It was told to, and has not brought anything yet; or the end.
    is_reading: bool,
    made: MonoTime,
    /// Where it leads to; a client's nowhere.
    upstream: UpstreamId,
}

/// Idle connections to upstreams, and until when they are good.
static POOL: Mutex<Vec<(MonoTime, Socket)>> = Mutex::new(Vec::new());

impl Socket {
    fn new(stream: TcpStream, upstream: UpstreamId) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PAUSE))?;
        let (stream, (reader, orders)) = (Arc::new(stream), channel::<(_, Sender<_>)>());
        let from = Arc::clone(&stream);
        thread::Builder::new().spawn(move || {
            let mut buf = [0; PIECE];
            for (side, events) in orders {
                let result = (&*from).read(&mut buf).map(|len| buf[..len].to_vec());
                // Where the client is gone, nobody wants to know.
                let _ = events.send((side, Arc::clone(&from), result));
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

impl Drop for Socket {
    fn drop(&mut self) {
        // Its reader holds it, too, and wakes up by this.
        let _ = self.stream.shutdown(Shutdown::Read);
    }
}

fn connect(upstream: UpstreamId, endpoint: &Endpoint, timeout: Duration) -> Result<Socket, ConnectError> {
    let Endpoint::Tcp { host, port } = endpoint else { return Err(ConnectError::Failed) };
    let mut failure = ConnectError::DnsFail;
    for address in (host.as_str(), *port).to_socket_addrs().map_err(|_| failure)? {
        let stream = TcpStream::connect_timeout(&address, timeout);
        failure = match stream.and_then(|stream| Socket::new(stream, upstream)) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => ConnectError::Refused,
            Err(error) if error.kind() == ErrorKind::TimedOut => ConnectError::TimedOut,
            Err(_) => ConnectError::Failed,
        };
    }
    Err(failure)
}

/// A client, and the upstream that it uses at the moment.
struct Client {
    core: ProxyConnection,
    /// By [`Side`]. Without the first one it is over.
    sockets: [Option<Socket>; 2],
    /// Somebody may have logged in on its upstream connection, which is for nobody else then.
    is_logged_in: bool,
    events: (Sender<Event>, Receiver<Event>),
    // What the core borrows for the length of a call.
    clock: Clock,
    runtime: Rc<Runtime>,
    balance: Balance,
    transactions: TransactionPool,
    logger: Logger,
}

impl Client {
    fn new((stream, address): (TcpStream, SocketAddr), runtime: Runtime, logger: Logger) -> io::Result<Client> {
        let (clock, runtime) = (Clock::default(), Rc::new(runtime));
        let peer = Peer { address: Some(address), ..Peer::default() };
        let core = ProxyConnection::new(clock.now(), peer, Rc::clone(&runtime));
        let sockets = [Some(Socket::new(stream, UpstreamId::default())?), None];
        let (balance, transactions) = (Balance::default(), TransactionPool::default());
        let (events, is_logged_in) = (channel(), false);
        Ok(Client { core, sockets, is_logged_in, events, clock, runtime, balance, transactions, logger })
    }

    /// The whole contract: carry out the commands, write the output, read where that is wanted; then wait for an event or for the
    /// deadline.
    fn run(mut self) {
        while self.sockets[0].is_some() {
            while let Some(command) = self.core.poll_command() {
                self.carry_out(command);
            }
            let is_writing = self.write(Side::Client) | self.write(Side::Upstream);
            for side in [Side::Client, Side::Upstream] {
                // Where the core does not want it, the peer has to wait: that is backpressure.
                if self.core.read_interest(side).is_some()
                    && let Some(socket) = self.sockets[side as usize].as_mut().filter(|socket| !socket.is_reading)
                {
                    socket.is_reading = socket.reader.send((side, self.events.0.clone())).is_ok();
                }
            }
            let left = self.core.deadline().map_or(Duration::MAX, |deadline| deadline - MonoTime::now());
            match self.events.1.recv_timeout(if is_writing { Duration::ZERO } else { left }) {
                Ok(event) => self.on_event(event),
                Err(_) => self.handle(Input::Tick),
            }
        }
    }

    fn with_core(&mut self, call: impl FnOnce(&mut ProxyConnection, &mut WorkerContext<'_>)) {
        self.clock.read();
        let Client { core, clock, runtime, balance, transactions, logger: observer, .. } = self;
        call(core, &mut WorkerContext { now: clock.now(), runtime, balance, transactions, observer });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.with_core(|core, context| core.handle(context, input));
    }

    fn on_event(&mut self, (side, stream, result): Event) {
        // Late news of a connection that was closed means nothing.
        let is_current = |socket: &&mut Socket| Arc::ptr_eq(&socket.stream, &stream);
        let Some(socket) = self.sockets[side as usize].as_mut().filter(is_current) else { return };
        // At the end there is nothing more to read.
        socket.is_reading = !result.as_ref().is_ok_and(|bytes| !bytes.is_empty());
        self.handle(match result.as_deref() {
            Ok([]) => Input::Eof(side),
            Ok(bytes) => Input::Bytes(side, bytes),
            Err(_) => Input::Reset(side),
        });
    }

    /// Writes what waits for `side`, as far as that goes now; says whether anything waited.
    fn write(&mut self, side: Side) -> bool {
        let (output, socket) = (self.core.output(side), &self.sockets[side as usize]);
        let Some(socket) = socket.as_ref().filter(|_| !output.is_empty()) else { return false };
        match (&*socket.stream).write(output) {
            Ok(len) => self.with_core(|core, context| core.sent(context, side, len)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.handle(Input::Unwritable(side)),
        }
        true
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Connect { upstream, is_new } => {
                let is_usable = |socket: &Socket| !is_new && socket.upstream == upstream && socket.is_silent();
                let kept = self.sockets[1].take().filter(is_usable);
                let idle = kept.or_else(|| {
                    let mut pool = POOL.lock().ok()?;
                    let newest = pool.iter().rposition(|(_, socket)| is_usable(socket))?;
                    Some(pool.remove(newest).1)
                });
                let (reused, timeout) = (idle.is_some(), self.core.connect_address_timeout());
                let origin = self.runtime.origin(upstream).ok_or(ConnectError::Failed);
                match idle.map_or_else(|| connect(upstream, &origin?.endpoint, timeout), Ok) {
                    Ok(socket) => {
                        self.core.set_upstream_addr(socket.stream.peer_addr().ok());
                        self.sockets[1] = Some(socket);
                        self.handle(Input::Connected { reused });
                    }
                    Err(error) => self.handle(Input::ConnectFailed(error)),
                }
            }
            Command::Release { is_login_bound } => {
                self.is_logged_in |= is_login_bound;
                let (now, limits) = (MonoTime::now(), &self.runtime.config.pool);
                if let Some(socket) = self.sockets[1].take_if(|_| !self.is_logged_in)
                    && let Ok(mut pool) = POOL.lock()
                    && pool.len() < limits.max_idle
                    && pool.iter().filter(|(_, other)| other.upstream == socket.upstream).count()
                        < limits.max_idle_per_upstream
                {
                    pool.push(((now + limits.idle_timeout).min(socket.made + limits.max_age), socket));
                }
            }
            Command::Shutdown(side) => {
                let _ = self.sockets[side as usize].as_ref().map(|socket| socket.stream.shutdown(Shutdown::Write));
            }
            Command::Close(side, mode) => {
                if let (Some(socket), CloseMode::Abort) = (self.sockets[side as usize].take(), mode) {
                    // What std cannot say yet: when all have dropped it, it is reset.
                    let _ = SockRef::from(&*socket.stream).set_linger(Some(Duration::ZERO));
                }
            }
            // Only plugins ask for that.
            Command::AwaitResume => {}
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (action, flags) = cli::parse(std::env::args().skip(1))?;
    let mut config = match flags.config_path() {
        Some(path) => Config::load(path, &[])?,
        None => Config::from_flags(&flags.listen, &flags.routes, &[])?,
    };
    config.log.access |= flags.verbose;
    let is_plain = |url: &_| matches!(url, UpstreamUrl { scheme: Scheme::Http, endpoint: Endpoint::Tcp { .. }, .. });
    let is_known = action == Action::Run && config.tls.is_none() && config.plugins.is_empty();
    let is_known = is_known && config.proxy_protocol.from.is_empty() && config.admin.listen_addr.is_empty();
    if !is_known || !config.routes.iter().flat_map(|route| route.upstreams()).all(is_plain) {
        return Err("this example has no https, plugins, unix sockets, PROXY protocol, or admin.listen_addr".into());
    }
    let logger = Logger::to_stdout(config.log.format.unwrap_or_default())?;
    logger.set_access(config.log.access);
    let mut runtime = Runtime::new(Arc::new(config), None);
    runtime.error_pages = error_pages::load(&runtime.config).map_err(|error| error.to_string())?;
    let (sender, signals) = channel();
    signal::listen(sender, |_| {})?;
    for address in &runtime.config.listen_addr {
        let ListenAddr::Tcp { addr, .. } = address else { return Err("this example has no unix sockets".into()) };
        let listener = TcpListener::bind(addr).map_err(|error| format!("cannot listen on {addr}: {error}"))?;
        logger.line(Level::Info, "listening").text("address", listener.local_addr()?).text("protocol", "http").send();
        let (runtime, logger) = (runtime.clone(), logger.clone());
        thread::spawn(move || {
            loop {
                let client = listener.accept().and_then(|accepted| {
                    let (runtime, logger) = (runtime.clone(), logger.clone());
                    thread::Builder::new().spawn(move || Client::new(accepted, runtime, logger).map(Client::run))
                });
                if let Err(error) = client {
                    // Out of descriptors or threads; some are given back soon.
                    logger.line(Level::Warn, "a client was turned away").text("reason", error).send();
                    thread::sleep(PAUSE);
                }
            }
        });
    }
    thread::spawn(|| {
        loop {
            POOL.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|(until, socket)| *until > MonoTime::now() && socket.is_silent());
            thread::sleep(PAUSE);
        }
    });
    while signals.recv()? != signal::SignalEvent::Stop {}
    logger.flush(Duration::from_secs(1));
    Ok(())
}
