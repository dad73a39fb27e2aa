//! What the process listens on, over all workers: opened at start, and changed by a reload without closing what stays.
//!
//! Each worker has its own socket on each TCP address (SO_REUSEPORT), so that the kernel spreads new connections and no
//! worker wakes for another's. A unix socket cannot be had twice: the workers share it. SO_REUSEPORT has a trap: a second
//! instance of the program would quietly share the port. So the first socket of an address is bound without the option,
//! which fails where the port is in use, and gets it afterwards for the others ([`PortSharing`]).
//!
//! A reload has two steps. [`ListenerSet::plan`] does everything that can fail, and changes nothing that is in use but the
//! modes of socket files; [`ListenerSet::apply`] cannot fail. Accepting is done in `acceptor`.

use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Config, ListenAddr};

pub use super::acceptor::ListenerProtocol;

use super::acceptor::{Listener, ListenerUpdate};
use super::activation::Inherited;
use super::conn::{limit_unsent, probe_when_idle};

/// How many connections may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// Who else may have sockets on a TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSharing {
    /// Nobody: where it is in use already, that is an error.
    Exclusive,
    /// Other sockets of this user that allow it: our own, or those of the instance that this one takes over from.
    Shared,
}

/// The file of a unix socket. Dropping it removes the file, unless another program has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Where it is moved to when it takes over from another instance.
    takes_over: Option<PathBuf>,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path, takes_over: Option<PathBuf>) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), takes_over, device_and_inode: identity(path)? })
    }

    /// Puts it into the place of another instance's file, if there is one. To be called when nothing else can fail: until
    /// then that instance is the one that clients reach, and it goes on if this one does not start.
    fn publish(&mut self) -> Result<(), String> {
        let Some(place) = self.takes_over.take() else { return Ok(()) };
        fs::rename(&self.path, &place).map_err(|error| cannot_listen(unix(&place), &error))?;
        self.path = place;
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.device_and_inode) {
            // Nothing can be done about a failure at the very end; the next start removes a stale file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The sockets of one address.
#[derive(Debug)]
struct BoundListener {
    /// With the real port where port 0 was asked for.
    address: String,
    /// One for each worker.
    sockets: Vec<Socket>,
    /// The file of a unix socket of our own.
    file: Option<SocketFile>,
}

/// Why nothing can listen there, with the remedy.
fn cannot_listen(address: impl Display, error: &io::Error) -> String {
    let cause = match error.kind() {
        ErrorKind::AddrInUse => {
            "address in use; stop the other program, choose another listen_addr, or take over from an older instance \
             with -takeover"
        }
        ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE, a unix socket needs a folder \
             that this user may write to; or choose another listen_addr"
        }
        ErrorKind::AddrNotAvailable => "this host has no such address; choose one of its own in listen_addr",
        ErrorKind::NotFound => "the folder does not exist; make it or choose another listen_addr",
        _ => return format!("cannot listen on {address}: {error}"),
    };
    format!("cannot listen on {address}: {cause}")
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// Listens on `address` for each of `workers` loops.
fn listen(address: &ListenAddr, workers: usize, sharing: PortSharing) -> Result<BoundListener, String> {
    match address {
        ListenAddr::Tcp { addr, dual_stack, fallback_v4 } => {
            let result = match listen_tcp(*addr, *dual_stack, workers, sharing) {
                // A host without IPv6: all addresses are all IPv4 addresses then (rule E8).
                Err(error) if *fallback_v4 && lacks_ipv6(&error) => {
                    listen_tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addr.port()), false, workers, sharing)
                }
                result => result,
            };
            result.map_err(|error| cannot_listen(addr, &error))
        }
        ListenAddr::Unix { path, mode } => {
            listen_unix(path, *mode, workers, sharing).map_err(|error| cannot_listen(unix(path), &error))
        }
    }
}

/// Whether the error says that the host does not speak IPv6: not at all, or switched off.
fn lacks_ipv6(error: &io::Error) -> bool {
    let is_unsupported = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    is_unsupported || error.kind() == ErrorKind::AddrNotAvailable
}

fn listen_tcp(addr: SocketAddr, dual_stack: bool, workers: usize, sharing: PortSharing) -> io::Result<BoundListener> {
    let first = tcp_socket(addr, dual_stack)?;
    first.set_reuse_port(sharing == PortSharing::Shared)?;
    first.bind(&addr.into())?;
    let real = first.local_addr()?.as_socket().unwrap_or(addr);
    first.set_reuse_port(true)?;
    first.listen(BACKLOG)?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        // A kernel that does not let sockets join afterwards: then the workers share the one.
        sockets.push(bind_reuseport(real, dual_stack).or_else(|_| first.try_clone())?);
    }
    sockets.push(first);
    Ok(BoundListener { address: real.to_string(), sockets, file: None })
}

/// One more socket on a port that is ours already.
fn bind_reuseport(addr: SocketAddr, dual_stack: bool) -> io::Result<Socket> {
    let socket = tcp_socket(addr, dual_stack)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn tcp_socket(addr: SocketAddr, dual_stack: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A restart must not wait until the connections of the last run are forgotten.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // Accepted sockets inherit both, which saves two calls for each.
    socket.set_tcp_nodelay(true)?;
    limit_unsent(&socket);
    probe_when_idle(&socket);
    Ok(socket)
}

fn listen_unix(path: &Path, mode: Option<u32>, workers: usize, sharing: PortSharing) -> io::Result<BoundListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Where another instance has the path, the new socket is made beside it and put into its place when it is ready, so that
    // there is one all the time. The other instance keeps its own, without a name.
    let (at, takes_over) = match (is_listened_on(path)?, sharing) {
        (false, _) => (path.to_owned(), None),
        (true, PortSharing::Exclusive) => return Err(ErrorKind::AddrInUse.into()),
        (true, PortSharing::Shared) => (temp_path(path), Some(path.to_owned())),
    };
    // What an instance left there that was killed in such a moment is removed.
    if takes_over.is_some() && is_listened_on(&at)? {
        return Err(ErrorKind::AddrInUse.into());
    }
    socket.bind(&SockAddr::unix(&at)?)?;
    // The mode before listening, so that nobody can connect who may not.
    let set_mode = mode.map_or(Ok(()), |mode| fs::set_permissions(&at, Permissions::from_mode(mode)));
    if let Err(error) = set_mode.and_then(|()| socket.listen(BACKLOG)) {
        let _ = fs::remove_file(&at);
        return Err(error);
    }
    let file = SocketFile::new(&at, takes_over)?;
    Ok(BoundListener { address: unix(path), sockets: share(&socket, workers)?, file: Some(file) })
}

/// The same socket for each worker.
fn share(socket: &Socket, workers: usize) -> io::Result<Vec<Socket>> {
    (0..workers).map(|_| socket.try_clone()).collect()
}

/// A name in the same folder.
fn temp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Whether a program listens there. The socket file that a killed instance left behind is removed.
fn is_listened_on(path: &Path) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let message = "there is a file of that name which is no socket; remove it or choose another listen_addr";
        return Err(io::Error::other(message));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map(|()| false),
        // A full backlog, or rights that we lack: somebody is there.
        Ok(_) | Err(_) => Ok(true),
    }
}

/// A socket that was handed over; the workers share it. Its file, if it has one, belongs to the service manager.
fn use_inherited(socket: &Socket, workers: usize) -> io::Result<BoundListener> {
    let address = socket.local_addr()?;
    let text = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => unix(path),
        (None, None) => "unix:(no path)".to_owned(),
    };
    if !address.is_unix() {
        // Accepted sockets inherit it, as they do from our own.
        socket.set_tcp_nodelay(true)?;
        limit_unsent(socket);
    }
    Ok(BoundListener { address: text, sockets: share(socket, workers)?, file: None })
}

/// What the process listens on.
pub struct ListenerSet {
    all: Vec<ListenerEntry>,
    /// The number of the next one.
    next: u32,
    workers: usize,
    /// Whether ports may be had that an older instance has.
    sharing: PortSharing,
}

/// One address.
struct ListenerEntry {
    /// The number of the workers' listeners.
    number: u32,
    source: ListenerSource,
    protocol: ListenerProtocol,
    /// Its sockets are here until the workers get them.
    bound: BoundListener,
}

/// Where an address comes from.
#[derive(Clone)]
enum ListenerSource {
    Config(ListenAddr),
    /// It was handed over, with this name.
    ServiceManager(String),
}

/// What a reload will do.
pub struct ListenerPlan {
    /// What becomes of each address that there is; `None`: it is closed.
    kept: Vec<Option<(ListenerSource, ListenerProtocol)>>,
    new: Vec<(ListenerSource, ListenerProtocol, BoundListener)>,
}

impl ListenerSet {
    /// At start: all addresses of the configuration, or in their place the sockets that were handed over; for the
    /// operator's address and for all others each.
    pub fn open(
        config: &Config,
        inherited: Vec<Inherited>,
        workers: usize,
        sharing: PortSharing,
    ) -> Result<(ListenerSet, Vec<ListenerUpdate>), String> {
        let mut set = ListenerSet { all: Vec::new(), next: 0, workers, sharing };
        for Inherited { name, socket } in inherited {
            let bound =
                use_inherited(&socket, workers).map_err(|error| format!("socket activation: {name}: {error}"))?;
            let protocol = protocol_of_inherited(&name, config)?;
            set.add(ListenerSource::ServiceManager(name), protocol, bound);
        }
        let plan = set.plan(config)?;
        // Only at start: later, it is another program that has a port.
        set.sharing = PortSharing::Exclusive;
        let updates = set.apply(plan);
        Ok((set, updates))
    }

    /// What has to change for `config`. What is new is bound, but nothing is accepted there yet.
    pub fn plan(&self, config: &Config) -> Result<ListenerPlan, String> {
        let mut wanted: Vec<(&ListenAddr, ListenerProtocol)> = addresses(config).collect();
        let mut kept = Vec::with_capacity(self.all.len());
        let mut modes = Vec::new();
        for entry in &self.all {
            kept.push(match &entry.source {
                ListenerSource::ServiceManager(name) => {
                    let protocol = protocol_of_inherited(name, config)?;
                    // It takes the place of those addresses that serve the same.
                    let is_admin = |protocol| protocol == ListenerProtocol::Admin;
                    wanted.retain(|(_, other)| is_admin(*other) != is_admin(protocol));
                    Some((entry.source.clone(), protocol))
                }
                ListenerSource::Config(address) => {
                    let found = wanted.iter().position(|(other, _)| is_same_socket(address, other));
                    found.map(|at| wanted.remove(at)).map(|(wanted, protocol)| {
                        if let (ListenAddr::Unix { mode: old, .. }, ListenAddr::Unix { path, mode: Some(mode) }) =
                            (address, wanted)
                            && *old != Some(*mode)
                        {
                            modes.push((path, *mode));
                        }
                        (ListenerSource::Config(wanted.clone()), protocol)
                    })
                }
            });
        }
        let mut new = Vec::with_capacity(wanted.len());
        for (address, protocol) in wanted {
            let sharing = if self.has_port_of(address) { PortSharing::Shared } else { self.sharing };
            new.push((ListenerSource::Config(address.clone()), protocol, listen(address, self.workers, sharing)?));
        }
        // The last thing that can fail: all modes are changed or none.
        let mut changed = Vec::with_capacity(modes.len());
        for (path, mode) in modes {
            let change = fs::metadata(path).and_then(|file| {
                fs::set_permissions(path, Permissions::from_mode(mode))?;
                changed.push((path, file.permissions()));
                Ok(())
            });
            if let Err(error) = change {
                for (path, before) in changed {
                    // It was possible a moment ago.
                    let _ = fs::set_permissions(path, before);
                }
                return Err(cannot_listen(unix(path), &error));
            }
        }
        Ok(ListenerPlan { kept, new })
    }

    /// Does it; returns what changes for each worker. The file of what closes is removed here, so that nobody new connects;
    /// the workers accept who waits.
    pub fn apply(&mut self, plan: ListenerPlan) -> Vec<ListenerUpdate> {
        let mut kept = plan.kept.into_iter();
        self.all.retain_mut(|entry| kept.next().flatten().map(|kept| (entry.source, entry.protocol) = kept).is_some());
        let kept: Vec<_> = self.all.iter().map(|entry| (entry.number, entry.protocol)).collect();
        for (source, protocol, bound) in plan.new {
            self.add(source, protocol, bound);
        }
        let mut updates: Vec<_> =
            (0..self.workers).map(|_| ListenerUpdate { kept: kept.clone(), new: Vec::new() }).collect();
        for ListenerEntry { number, source, protocol, bound } in &mut self.all {
            let is_inherited = matches!(source, ListenerSource::ServiceManager(_));
            for (update, socket) in updates.iter_mut().zip(bound.sockets.drain(..)) {
                update.new.push(Listener::new(*number, socket, *protocol, is_inherited));
            }
        }
        updates
    }

    fn add(&mut self, source: ListenerSource, protocol: ListenerProtocol, bound: BoundListener) {
        self.all.push(ListenerEntry { number: self.next, source, protocol, bound });
        self.next += 1;
    }

    /// Where clients can connect, with real port numbers, and what they are to speak there.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, ListenerProtocol)> {
        self.all.iter().map(|entry| (entry.bound.address.as_str(), entry.protocol))
    }

    /// Takes over the files of another instance's unix sockets. The last step of a start.
    pub fn publish(&mut self) -> Result<(), String> {
        self.all.iter_mut().filter_map(|entry| entry.bound.file.as_mut()).try_for_each(SocketFile::publish)
    }

    /// Nobody can connect any more: the files of unix sockets are removed.
    pub fn close(&mut self) {
        self.all.clear();
    }

    /// Whether a port of ours is wanted a second time, for example first on all addresses and then on one. Then it is no
    /// other program that has it.
    fn has_port_of(&self, wanted: &ListenAddr) -> bool {
        let port = |address: &ListenAddr| if let ListenAddr::Tcp { addr, .. } = address { addr.port() } else { 0 };
        let is_in = |entry: &ListenerEntry| match &entry.source {
            ListenerSource::Config(address) => port(address) == port(wanted),
            ListenerSource::ServiceManager(_) => false,
        };
        port(wanted) != 0 && self.all.iter().any(is_in)
    }
}

/// What is spoken where nothing else is said: TLS, if there is a certificate and no address of its own for TLS.
fn main_protocol(config: &Config) -> ListenerProtocol {
    match &config.tls {
        Some(tls) if tls.listen_addr.is_empty() => ListenerProtocol::Tls,
        _ => ListenerProtocol::Plain,
    }
}

/// What is spoken on a socket that was handed over with this name.
fn protocol_of_inherited(name: &str, config: &Config) -> Result<ListenerProtocol, String> {
    match name {
        "admin" => Ok(ListenerProtocol::Admin),
        "https" if config.tls.is_some() => Ok(ListenerProtocol::Tls),
        "https" => Err("socket activation: a socket is named https, but there is no certificate; add tls to the \
                        configuration"
            .to_owned()),
        _ => Ok(main_protocol(config)),
    }
}

/// All addresses of a configuration, and their protocols.
fn addresses(config: &Config) -> impl Iterator<Item = (&ListenAddr, ListenerProtocol)> {
    let with_tls = config.tls.as_ref().map_or(&[][..], |tls| &tls.listen_addr);
    let [main, with_tls, admin] = [
        (&config.listen_addr[..], main_protocol(config)),
        (with_tls, ListenerProtocol::Tls),
        (&config.admin.listen_addr, ListenerProtocol::Admin),
    ]
    .map(|(addresses, protocol)| addresses.iter().map(move |address| (address, protocol)));
    main.chain(with_tls).chain(admin)
}

/// Whether one socket serves both.
fn is_same_socket(one: &ListenAddr, other: &ListenAddr) -> bool {
    match (one, other) {
        (ListenAddr::Tcp { addr: a, dual_stack: c, .. }, ListenAddr::Tcp { addr: b, dual_stack: d, .. }) => {
            a == b && c == d
        }
        (ListenAddr::Unix { path: a, .. }, ListenAddr::Unix { path: b, .. }) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixListener;

    fn tcp(addr: &str, dual_stack: bool, fallback_v4: bool) -> ListenAddr {
        ListenAddr::Tcp { addr: addr.parse().expect("an address"), dual_stack, fallback_v4 }
    }

    /// A folder of its own for one test.
    struct Folder(PathBuf);
    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("mini-rproxy-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn all_workers_get_a_socket_on_the_same_real_port() {
        for workers in [1, 2, 4] {
            let bound = listen(&tcp("127.0.0.1:0", false, false), workers, PortSharing::Exclusive).expect("loopback");
            assert_eq!(bound.sockets.len(), workers);
            for listener in &bound.sockets {
                let address = listener.local_addr().expect("bound").as_socket().expect("TCP");
                assert_eq!(address.to_string(), bound.address);
            }
            assert!(!bound.address.ends_with(":0"), "{}", bound.address);
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_with_a_remedy() {
        for (first_workers, second_workers) in [(1, 1), (2, 2), (1, 2), (2, 1)] {
            let first =
                listen(&tcp("127.0.0.1:0", false, false), first_workers, PortSharing::Exclusive).expect("loopback");
            let error =
                listen(&tcp(&first.address, false, false), second_workers, PortSharing::Exclusive).expect_err("in use");
            let expected = format!(
                "cannot listen on {}: address in use; stop the other program, choose another listen_addr, or take over from \
                 an older instance with -takeover",
                first.address
            );
            assert_eq!(error.to_string(), expected, "{first_workers} and {second_workers} workers");
        }
    }

    #[test]
    fn what_an_older_instance_has_can_be_shared_on_purpose() {
        for (first_workers, second_workers) in [(1, 1), (2, 2), (1, 2), (2, 1)] {
            let first =
                listen(&tcp("127.0.0.1:0", false, false), first_workers, PortSharing::Exclusive).expect("loopback");
            let address = tcp(&first.address, false, false);
            let second = listen(&address, second_workers, PortSharing::Shared).expect("on purpose");
            assert_eq!(second.address, first.address, "{first_workers} and {second_workers} workers");
            drop(first);
            listen(&address, 1, PortSharing::Exclusive).expect_err("the second has it now");
        }
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        listen(&tcp(&other.to_string(), false, false), 1, PortSharing::Shared).expect("nobody has it");
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp(&stranger.local_addr().expect("bound").to_string(), false, false);
        listen(&address, 1, PortSharing::Shared).expect_err("who does not share is no older instance");
    }

    #[test]
    fn a_unix_socket_is_taken_over_without_a_moment_in_which_there_is_none() {
        let folder = Folder::new("takeover");
        let path = folder.0.join("proxy.sock");
        let address = ListenAddr::Unix { path: path.clone(), mode: None };
        let first = listen(&address, 1, PortSharing::Exclusive).expect("a socket");
        let before = UnixStream::connect(&path).expect("somebody listens");
        drop(listen(&address, 1, PortSharing::Shared).expect("it does not get far"));
        UnixStream::connect(&path).expect("the first one's is where it was");
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 1, "nothing is left beside it");
        // As after SIGKILL.
        drop(UnixListener::bind(folder.0.join("proxy.sock.new")).expect("a socket"));
        let mut second = listen(&address, 1, PortSharing::Shared).expect("on purpose");
        second.file.as_mut().expect("a file").publish().expect("it can be renamed");
        let after = UnixStream::connect(&path).expect("somebody listens");
        for (bound, client) in [(&first, before), (&second, after)] {
            let (stream, _) = bound.sockets[0].accept().expect("each has its own client");
            let mut stream = UnixStream::from(OwnedFd::from(stream));
            stream.set_nonblocking(false).expect("a socket");
            std::io::Write::write_all(&mut stream, b"x").expect("the client is there");
            let mut byte = [0];
            std::io::Read::read_exact(&mut &client, &mut byte).expect("the right one");
        }
        drop(first);
        assert!(path.exists(), "the file is the second one's");
        drop(second);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 0, "nothing is left beside it");
    }

    #[test]
    fn an_address_of_another_host_is_refused_with_a_remedy() {
        let error = listen(&tcp("192.0.2.1:0", false, false), 1, PortSharing::Exclusive).expect_err("not ours");
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    #[test]
    fn e8_all_addresses_means_both_families_or_the_one_that_the_host_has() {
        let bound = listen(&tcp("[::]:0", true, true), 2, PortSharing::Exclusive).expect("any family");
        let port = bound.address.rsplit(':').next().expect("a port").to_owned();
        TcpStream::connect(format!("127.0.0.1:{port}")).expect("IPv4 reaches it");
    }

    #[test]
    fn e8_a_unix_socket_has_its_mode_replaces_a_stale_file_and_is_removed_at_the_end() {
        let folder = Folder::new("unix");
        let path = folder.0.join("proxy.sock");
        let address = ListenAddr::Unix { path: path.clone(), mode: Some(0o600) };
        let bound = listen(&address, 2, PortSharing::Exclusive).expect("a socket");
        assert_eq!(bound.sockets.len(), 2);
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("somebody listens");
        let error = listen(&address, 1, PortSharing::Exclusive).expect_err("in use");
        assert!(error.to_string().contains("address in use"), "{error}");

        // As after SIGKILL: nobody listens, the file is there.
        let BoundListener { sockets, file, .. } = bound;
        drop(sockets);
        std::mem::forget(file);
        let bound = listen(&address, 1, PortSharing::Exclusive).expect("the stale file is replaced");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn e8_a_file_that_is_no_socket_is_left_alone() {
        let folder = Folder::new("file");
        let path = folder.0.join("proxy.sock");
        fs::write(&path, "precious").expect("a file");
        let error = listen(&ListenAddr::Unix { path: path.clone(), mode: None }, 1, PortSharing::Exclusive)
            .expect_err("not a socket");
        assert!(error.to_string().contains("which is no socket"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
        let nowhere = ListenAddr::Unix { path: folder.0.join("no/such/folder.sock"), mode: None };
        let error = listen(&nowhere, 1, PortSharing::Exclusive).expect_err("no folder");
        assert!(error.to_string().contains("the folder does not exist"), "{error}");
    }

    fn config(listen: &str) -> Config {
        let text = format!("listen_addr: {listen}\nroutes: [{{prefix: /, upstream: 'http://a'}}]\n");
        Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"))
    }

    /// The numbers of the listeners that each worker keeps and opens.
    fn numbers(updates: &[ListenerUpdate]) -> (Vec<u32>, Vec<u32>) {
        let of = |update: &ListenerUpdate| {
            let kept = update.kept.iter().map(|(number, _)| *number);
            (kept.collect(), update.new.iter().map(Listener::number).collect())
        };
        assert!(updates.iter().all(|update| of(update) == of(&updates[0])), "all workers are told the same");
        of(&updates[0])
    }

    #[test]
    fn what_stays_is_not_touched_what_is_new_opens_and_what_is_gone_closes() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let socket = folder.path().join("a.sock");
        let unix = |mode: &str| format!("'unix:{}{mode}'", socket.display());
        let (mut set, listeners) =
            ListenerSet::open(&config("'127.0.0.1:0'"), Vec::new(), 2, PortSharing::Exclusive).expect("loopback");
        let first: Vec<Vec<u32>> =
            listeners.iter().map(|of_worker| of_worker.new.iter().map(Listener::number).collect()).collect();
        assert_eq!(first, [[0], [0]]);
        let mode = || fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777).ok();
        for (name, listen, expected, expected_mode) in [
            ("nothing changes", "'127.0.0.1:0'".to_owned(), (vec![0], vec![]), None),
            ("one more", format!("['127.0.0.1:0', {}]", unix("?mode=0600")), (vec![0], vec![1]), Some(0o600)),
            ("other rights", format!("[{}, '127.0.0.1:0']", unix("?mode=0660")), (vec![0, 1], vec![]), Some(0o660)),
            ("those of before", format!("[{}, '127.0.0.1:0']", unix("?mode=0600")), (vec![0, 1], vec![]), Some(0o600)),
            ("one less", "'127.0.0.1:0'".to_owned(), (vec![0], vec![]), None),
            ("another", "'[::1]:0'".to_owned(), (vec![], vec![2]), None),
        ] {
            let plan = set.plan(&config(&listen)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(numbers(&set.apply(plan)), expected, "{name}");
            assert_eq!(mode(), expected_mode, "{name}");
        }
    }

    #[test]
    fn a_plan_that_fails_changes_no_mode() {
        // The second file is gone, or it is there and chmod says EPERM.
        for link in [None, Some("/proc/self/status")] {
            let folder = tempfile::TempDir::new().expect("a folder");
            let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
            let with =
                |mode: &str| config(&format!("['unix:{}{mode}', 'unix:{}{mode}']", first.display(), second.display()));
            let (set, _listeners) =
                ListenerSet::open(&with("?mode=0600"), Vec::new(), 1, PortSharing::Exclusive).expect("two sockets");
            fs::remove_file(&second).expect("it is there");
            if let Some(link) = link {
                std::os::unix::fs::symlink(link, &second).expect("a link");
            }
            let error = set.plan(&with("?mode=0666")).err().expect("it cannot be changed").to_string();
            assert!(error.contains(&format!("unix:{}", second.display())), "{link:?}: {error}");
            let mode = fs::metadata(&first).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{link:?}");
        }
    }

    #[test]
    fn a_port_of_ours_can_move_between_addresses_but_one_of_others_cannot_be_had() {
        let (mut set, first) =
            ListenerSet::open(&config("'127.0.0.1:0'"), Vec::new(), 1, PortSharing::Exclusive).expect("loopback");
        let port = set.addresses().next().and_then(|(address, _)| address.rsplit(':').next()).expect("a port");
        let plan = set.plan(&config(&format!("'127.0.0.1:{port}'")));
        assert!(plan.is_err(), "it was port 0 that was asked for: nobody knows that this is the same one");
        drop(first);
        let (port, other) = (format!("127.0.0.1:{port}"), std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let fixed = config(&format!("'{port}'"));
        drop(set);
        (set, _) = ListenerSet::open(&fixed, Vec::new(), 1, PortSharing::Exclusive).expect("it is free again");
        let everywhere = config(&format!("'0.0.0.0:{}'", port.rsplit(':').next().expect("a port")));
        set.plan(&everywhere).expect("our own port");
        let taken = config(&format!("'{}'", other.local_addr().expect("bound")));
        let error = set.plan(&taken).err().expect("somebody else's").to_string();
        assert!(error.contains("address in use"), "{error}");
    }

    #[test]
    fn e4_a_socket_that_is_handed_over_has_what_our_own_have() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
        socket.listen(16).expect("a port");
        let address = ListenAddr::parse("127.0.0.1:0").expect("an address");
        let own = listen(&address, 1, PortSharing::Exclusive).expect("a port");
        let bound = use_inherited(&socket, 1).expect("it listens");
        let options = |bound: &BoundListener| {
            let socket = &bound.sockets[0];
            (socket.tcp_nodelay().expect("an option"), socket.tcp_notsent_lowat().expect("an option"))
        };
        assert_eq!(options(&bound), options(&own));
    }
}
