//! What the process listens on, over all workers: opened at start, and changed by a reload without closing what stays.
//!
//! Each worker has its own socket on each TCP address (SO_REUSEPORT), so that the kernel spreads new connections and no
//! worker wakes for another's. A unix socket cannot be had twice: the workers share it. SO_REUSEPORT has a trap: a second
//! instance of the program would quietly share the port. So the first socket of an address is bound without the option,
//! which fails where the port is in use, and gets it afterwards for the others ([`PortSharing`]).
//!
//! A reload has two steps. [`ListenerSet::plan`] does everything that can fail and changes nothing that is in use;
//! [`ListenerSet::apply`] cannot fail. Accepting is done in `acceptor`.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Config, ListenAddr};

pub use super::acceptor::ListenerProtocol;

use super::acceptor::{ListenSocket, Listener, ListenerChange, SocketOwner};
use super::activation::{self, Inherited};
use super::conn::{limit_unsent, probe_when_idle};
use super::start_error::{ListenError, StartError};

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
    fn publish(&mut self) -> Result<(), ListenError> {
        let Some(place) = self.takes_over.take() else { return Ok(()) };
        fs::rename(&self.path, &place).map_err(|error| ListenError::of_path(&place, error))?;
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
    sockets: Vec<ListenSocket>,
    /// The file of a unix socket of our own.
    file: Option<SocketFile>,
}

/// Listens on `address` for each of `workers` loops.
fn listen(address: &ListenAddr, workers: usize, sharing: PortSharing) -> Result<BoundListener, ListenError> {
    match address {
        ListenAddr::Tcp { addr, dual_stack, fallback_v4 } => {
            let result = match listen_tcp(*addr, *dual_stack, workers, sharing) {
                // A host without IPv6: all addresses are all IPv4 addresses then (rule E8).
                Err(error) if *fallback_v4 && lacks_ipv6(&error) => {
                    listen_tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addr.port()), false, workers, sharing)
                }
                result => result,
            };
            result.map_err(|error| ListenError::new(addr, error))
        }
        ListenAddr::Unix { path, mode } => {
            listen_unix(path, *mode, workers, sharing).map_err(|error| ListenError::of_path(path, error))
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
    if sharing == PortSharing::Shared {
        first.set_reuse_port(true)?;
    }
    first.bind(&addr.into())?;
    let real = first.local_addr()?.as_socket().unwrap_or(addr);
    first.set_reuse_port(true)?;
    first.listen(BACKLOG)?;
    let first = TcpListener::from(OwnedFd::from(first));
    let mut listeners = Vec::with_capacity(workers);
    for _ in 1..workers {
        listeners.push(match bind_reuseport(real, dual_stack) {
            Ok(listener) => listener,
            // A kernel that does not let sockets join afterwards: then the workers share the one.
            Err(_) => first.try_clone()?,
        });
    }
    listeners.push(first);
    let sockets = listeners.into_iter().map(|listener| ListenSocket::Tcp(mio::net::TcpListener::from_std(listener)));
    Ok(BoundListener { address: real.to_string(), sockets: sockets.collect(), file: None })
}

/// One more socket on a port that is ours already.
fn bind_reuseport(addr: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = tcp_socket(addr, dual_stack)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(OwnedFd::from(socket)))
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
    let sockets = share_unix(socket, workers)?;
    Ok(BoundListener { address: format!("unix:{}", path.display()), sockets, file: Some(file) })
}

fn share_unix(socket: Socket, workers: usize) -> io::Result<Vec<ListenSocket>> {
    let clones = (0..workers).map(|_| socket.try_clone());
    let listener = |socket| mio::net::UnixListener::from_std(UnixListener::from(OwnedFd::from(socket)));
    clones.map(|clone| clone.map(|socket| ListenSocket::Unix(listener(socket)))).collect()
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
fn adopt(socket: Socket, workers: usize) -> io::Result<BoundListener> {
    let address = socket.local_addr()?;
    let text = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => "unix:(no path)".to_owned(),
    };
    let sockets = if address.is_unix() {
        share_unix(socket, workers)?
    } else {
        // Accepted sockets inherit it, as they do from our own.
        socket.set_tcp_nodelay(true)?;
        limit_unsent(&socket);
        let listener = |socket| mio::net::TcpListener::from_std(TcpListener::from(OwnedFd::from(socket)));
        let clones = (0..workers).map(|_| socket.try_clone());
        clones.map(|clone| clone.map(|socket| ListenSocket::Tcp(listener(socket)))).collect::<io::Result<_>>()?
    };
    Ok(BoundListener { address: text, sockets, file: None })
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
    /// As people should see it.
    address: String,
    protocol: ListenerProtocol,
    /// Removed when this is dropped.
    file: Option<SocketFile>,
}

/// Where an address comes from.
enum ListenerSource {
    Config(ListenAddr),
    /// It was handed over, with this name.
    ServiceManager(String),
}

/// Something for each worker.
type ByWorker<T> = Vec<Vec<T>>;

/// What a reload will do.
pub struct ListenerPlan {
    /// For each address that there is, its protocol; `None`: it is closed.
    kept: Vec<Option<ListenerProtocol>>,
    new: Vec<(ListenerSource, ListenerProtocol, BoundListener)>,
}

impl ListenerSet {
    /// At start: all addresses of the configuration, or in their place the sockets that were handed over; for the
    /// operator's address and for all others each.
    pub fn open(
        config: &Config,
        handed_over: Vec<Inherited>,
        workers: usize,
        sharing: PortSharing,
    ) -> Result<(ListenerSet, ByWorker<Listener>), StartError> {
        let mut set = ListenerSet { all: Vec::new(), next: 0, workers, sharing };
        let mut adopted = Vec::with_capacity(handed_over.len());
        for Inherited { name, socket } in handed_over {
            let protocol = activation::protocol(&name, config.tls.as_ref())?;
            adopted.push((ListenerSource::ServiceManager(name), protocol, adopt(socket, workers)?));
        }
        let mut listeners = set.install(adopted);
        let rest = set.plan(config)?;
        for (of_worker, more) in listeners.iter_mut().zip(set.install(rest.new)) {
            of_worker.extend(more);
        }
        // Only at start: later, it is another program that has a port.
        set.sharing = PortSharing::Exclusive;
        Ok((set, listeners))
    }

    /// What has to change for `config`. What is new is bound, but nothing is accepted there yet.
    pub fn plan(&self, config: &Config) -> Result<ListenerPlan, StartError> {
        let mut wanted: Vec<(&ListenAddr, ListenerProtocol)> = addresses(config).collect();
        let mut kept = Vec::with_capacity(self.all.len());
        let mut modes = Vec::new();
        for entry in &self.all {
            kept.push(match &entry.source {
                ListenerSource::ServiceManager(name) => {
                    // It takes the place of those addresses that serve the same.
                    wanted.retain(|(_, protocol)| (*protocol == ListenerProtocol::Admin) != activation::is_admin(name));
                    Some(activation::protocol(name, config.tls.as_ref())?)
                }
                ListenerSource::Config(address) => {
                    let found = wanted.iter().position(|(other, _)| is_same_socket(address, other));
                    found.map(|at| wanted.remove(at)).map(|(wanted, protocol)| {
                        modes.extend(mode_change(address, wanted));
                        protocol
                    })
                }
            });
        }
        let mut new = Vec::with_capacity(wanted.len());
        for (address, protocol) in wanted {
            let sharing = if self.has_port_of(address) { PortSharing::Shared } else { self.sharing };
            new.push((ListenerSource::Config(address.clone()), protocol, listen(address, self.workers, sharing)?));
        }
        // The last thing that can fail.
        change_modes(&modes)?;
        Ok(ListenerPlan { kept, new })
    }

    /// Does it. The file of what closes is removed here, so that nobody new connects; the workers accept who waits.
    pub fn apply(&mut self, plan: ListenerPlan) -> ByWorker<ListenerChange> {
        let mut changes: ByWorker<ListenerChange> = (0..self.workers).map(|_| Vec::new()).collect();
        let mut kept = plan.kept.into_iter();
        self.all.retain_mut(|entry| {
            let protocol = kept.next().flatten();
            for changes in &mut changes {
                match protocol {
                    None => changes.push(ListenerChange::Close(entry.number)),
                    Some(new) if new != entry.protocol => changes.push(ListenerChange::SetProtocol(entry.number, new)),
                    Some(_) => {}
                }
            }
            entry.protocol = protocol.unwrap_or(entry.protocol);
            protocol.is_some()
        });
        for (changes, listeners) in changes.iter_mut().zip(self.install(plan.new)) {
            changes.extend(listeners.into_iter().map(ListenerChange::Open));
        }
        changes
    }

    fn install(&mut self, new: Vec<(ListenerSource, ListenerProtocol, BoundListener)>) -> ByWorker<Listener> {
        let mut listeners: ByWorker<Listener> = (0..self.workers).map(|_| Vec::new()).collect();
        for (source, protocol, BoundListener { address, sockets, file }) in new {
            let number = self.next;
            self.next += 1;
            let owner = match &source {
                ListenerSource::Config(_) => SocketOwner::Process,
                ListenerSource::ServiceManager(_) => SocketOwner::ServiceManager,
            };
            for (of_worker, socket) in listeners.iter_mut().zip(sockets) {
                of_worker.push(Listener::new(number, socket, protocol, owner));
            }
            self.all.push(ListenerEntry { number, source, address, protocol, file });
        }
        listeners
    }

    /// Where clients can connect, with real port numbers, and what they are to speak there.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, ListenerProtocol)> {
        self.all.iter().map(|entry| (entry.address.as_str(), entry.protocol))
    }

    /// Takes over the files of another instance's unix sockets. The last step of a start.
    pub fn publish(&mut self) -> Result<(), ListenError> {
        self.all.iter_mut().filter_map(|entry| entry.file.as_mut()).try_for_each(SocketFile::publish)
    }

    /// Nobody can connect any more: the files of unix sockets are removed.
    pub fn close(&mut self) {
        self.all.clear();
    }

    /// Whether a port of ours is wanted a second time, for example first on all addresses and then on one. Then it is no
    /// other program that has it.
    fn has_port_of(&self, wanted: &ListenAddr) -> bool {
        let ListenAddr::Tcp { addr: wanted, .. } = wanted else { return false };
        let has_port = |entry: &ListenerEntry| matches!(&entry.source, ListenerSource::Config(ListenAddr::Tcp { addr, .. }) if addr.port() == wanted.port());
        wanted.port() != 0 && self.all.iter().any(has_port)
    }
}

/// All addresses of a configuration, and their protocols.
fn addresses(config: &Config) -> impl Iterator<Item = (&ListenAddr, ListenerProtocol)> {
    let with_tls = config.tls.as_ref().map_or(&[][..], |tls| &tls.listen_addr);
    let has_only_tls = config.tls.is_some() && with_tls.is_empty();
    let first = if has_only_tls { ListenerProtocol::Tls } else { ListenerProtocol::Plain };
    let first = config.listen_addr.iter().map(move |address| (address, first));
    let with_tls = with_tls.iter().map(|address| (address, ListenerProtocol::Tls));
    let admin = config.admin.listen_addr.iter().map(|address| (address, ListenerProtocol::Admin));
    first.chain(with_tls).chain(admin)
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

/// Other permissions for a socket that stays.
fn mode_change<'a>(old: &ListenAddr, new: &'a ListenAddr) -> Option<(&'a Path, u32)> {
    match (old, new) {
        (ListenAddr::Unix { mode: old, .. }, ListenAddr::Unix { path, mode: Some(mode) }) if *old != Some(*mode) => {
            Some((path, *mode))
        }
        _ => None,
    }
}

/// Changes all of them or none.
fn change_modes(modes: &[(&Path, u32)]) -> Result<(), ListenError> {
    let mut changed = Vec::with_capacity(modes.len());
    for (path, mode) in modes {
        let change = fs::metadata(path).and_then(|file| {
            fs::set_permissions(path, Permissions::from_mode(*mode))?;
            changed.push((*path, file.permissions()));
            Ok(())
        });
        if let Err(error) = change {
            for (path, before) in changed {
                // It was possible a moment ago.
                let _ = fs::set_permissions(path, before);
            }
            return Err(ListenError::of_path(path, error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::net::TcpStream;

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
                let ListenSocket::Tcp(listener) = listener else { panic!("a TCP address gave another kind of socket") };
                assert_eq!(listener.local_addr().expect("bound").to_string(), bound.address);
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
            let ListenSocket::Unix(listener) = &bound.sockets[0] else { panic!("a path gave another kind of socket") };
            let (stream, _) = listener.accept().expect("each has its own client");
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

    /// What one worker's door is told.
    fn told(doors: &ByWorker<ListenerChange>) -> Vec<String> {
        let words = |change: &ListenerChange| match change {
            ListenerChange::Open(listener) => format!("open {}", listener.number()),
            ListenerChange::Close(number) => format!("close {number}"),
            ListenerChange::SetProtocol(number, protocol) => format!("speak {number} {protocol:?}"),
        };
        let all: Vec<Vec<String>> = doors.iter().map(|door| door.iter().map(words).collect()).collect();
        assert!(all.iter().all(|door| *door == all[0]), "all workers are told the same");
        all[0].clone()
    }

    #[test]
    fn what_stays_is_not_touched_what_is_new_opens_and_what_is_gone_closes() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let socket = folder.path().join("a.sock");
        let unix = |mode: &str| format!("'unix:{}{mode}'", socket.display());
        let (mut entrances, doors) =
            ListenerSet::open(&config("'127.0.0.1:0'"), Vec::new(), 2, PortSharing::Exclusive).expect("loopback");
        let numbers: Vec<Vec<u32>> =
            doors.iter().map(|door| door.iter().map(|listener| listener.number()).collect()).collect();
        assert_eq!(numbers, [[0], [0]]);
        let mode = || fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777).ok();
        for (name, listen, expected, expected_mode) in [
            ("nothing changes", "'127.0.0.1:0'".to_owned(), &[][..], None),
            ("one more", format!("['127.0.0.1:0', {}]", unix("?mode=0600")), &["open 1"], Some(0o600)),
            ("other rights", format!("[{}, '127.0.0.1:0']", unix("?mode=0660")), &[], Some(0o660)),
            ("one less", "'127.0.0.1:0'".to_owned(), &["close 1"], None),
            ("another", "'[::1]:0'".to_owned(), &["close 0", "open 2"], None),
        ] {
            let plan = entrances.plan(&config(&listen)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(told(&entrances.apply(plan)), expected, "{name}");
            assert_eq!(mode(), expected_mode, "{name}");
        }
    }

    #[test]
    fn a_plan_that_fails_changes_no_mode() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
        let with =
            |mode: &str| config(&format!("['unix:{}{mode}', 'unix:{}{mode}']", first.display(), second.display()));
        let (entrances, _doors) =
            ListenerSet::open(&with("?mode=0600"), Vec::new(), 1, PortSharing::Exclusive).expect("two sockets");
        fs::remove_file(&second).expect("it is there");
        let error = entrances.plan(&with("?mode=0666")).err().expect("the second one is gone").to_string();
        assert!(error.contains(&format!("unix:{}", second.display())), "{error}");
        assert_eq!(fs::metadata(&first).expect("it is there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_port_of_ours_can_move_between_addresses_but_one_of_others_cannot_be_had() {
        let (mut entrances, first) =
            ListenerSet::open(&config("'127.0.0.1:0'"), Vec::new(), 1, PortSharing::Exclusive).expect("loopback");
        let port = entrances.addresses().next().and_then(|(address, _)| address.rsplit(':').next()).expect("a port");
        let plan = entrances.plan(&config(&format!("'127.0.0.1:{port}'")));
        assert!(plan.is_err(), "it was port 0 that was asked for: nobody knows that this is the same one");
        drop(first);
        let (port, other) = (format!("127.0.0.1:{port}"), std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let fixed = config(&format!("'{port}'"));
        drop(entrances);
        (entrances, _) = ListenerSet::open(&fixed, Vec::new(), 1, PortSharing::Exclusive).expect("it is free again");
        let everywhere = config(&format!("'0.0.0.0:{}'", port.rsplit(':').next().expect("a port")));
        entrances.plan(&everywhere).expect("our own port");
        let taken = config(&format!("'{}'", other.local_addr().expect("bound")));
        let error = entrances.plan(&taken).err().expect("somebody else's").to_string();
        assert!(error.contains("address in use"), "{error}");
    }

    #[test]
    fn e4_a_socket_that_is_handed_over_has_what_our_own_have() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
        socket.listen(16).expect("a port");
        let address = ListenAddr::parse("127.0.0.1:0").expect("an address");
        let own = listen(&address, 1, PortSharing::Exclusive).expect("a port");
        let bound = adopt(socket, 1).expect("it listens");
        let options = |bound: &BoundListener| {
            let ListenSocket::Tcp(listener) = &bound.sockets[0] else { panic!("TCP") };
            let socket = SockRef::from(listener);
            (socket.tcp_nodelay().expect("an option"), socket.tcp_notsent_lowat().expect("an option"))
        };
        assert_eq!(options(&bound), options(&own));
    }
}
