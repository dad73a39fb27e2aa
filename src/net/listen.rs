//! Listening sockets: made at start, one set per worker.
//!
//! Each worker has its own socket on each TCP address (SO_REUSEPORT), so that the kernel spreads new connections and no
//! worker wakes for another's. A unix socket cannot be had twice: the workers share it.
//!
//! SO_REUSEPORT has a trap: a second instance of the program would quietly share the port. So the first socket of an
//! address is bound without the option, which fails where the port is in use, and gets it afterwards for the others; but
//! where sharing is meant, it has it from the start ([`UsePort`]).
//!
//! Accepting is done in `accept`.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::ListenAddr;

use super::conn::{limit_unsent, probe_when_idle};

/// How many connections may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// A listening socket that is not yet part of a loop.
#[derive(Debug)]
pub enum Listening {
    /// A TCP port.
    Tcp(StdTcpListener),
    /// A local socket.
    Unix(StdUnixListener),
}

/// What is expected of whoever connects there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP at once.
    Plain,
    /// TLS first.
    Tls,
    /// HTTP at once, with the operator: nothing is served there but the built-in resources.
    Admin,
}

/// Who else may have sockets on a TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsePort {
    /// Nobody: where it is in use already, that is an error.
    Alone,
    /// Other sockets of this user that allow it: our own, or those of the instance that this one takes over from.
    WithOthers,
}

/// What listens on one address, for all workers.
#[derive(Debug)]
pub struct Bound {
    /// The address as people should see it, with the real port where port 0 was asked for.
    pub address: String,
    /// One for each worker.
    pub listeners: Vec<Listening>,
    /// The file of a unix socket, removed when this is dropped.
    pub file: Option<SocketFile>,
}

/// Why nothing can listen there, with the remedy.
#[derive(Debug)]
pub struct ListenError {
    address: String,
    cause: Cause,
}

/// What stands in the way.
#[derive(Debug)]
enum Cause {
    InUse,
    Denied,
    NotLocal,
    NotASocket,
    NoFolder,
    Other(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        match &self.cause {
            Cause::InUse => f.write_str(
                "address in use; stop the other program, choose another listen_addr, or take over from an older instance \
                 with -takeover",
            ),
            Cause::Denied => f.write_str(
                "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE, a unix socket needs a folder \
                 that this user may write to; or choose another listen_addr",
            ),
            Cause::NotLocal => f.write_str("this host has no such address; choose one of its own in listen_addr"),
            Cause::NotASocket => {
                f.write_str("there is a file of that name which is no socket; remove it or choose another listen_addr")
            }
            Cause::NoFolder => f.write_str("the folder does not exist; make it or choose another listen_addr"),
            Cause::Other(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ListenError {}

impl ListenError {
    /// About this address.
    pub fn new(address: String, error: io::Error) -> ListenError {
        ListenError { address, cause: Cause::from(error) }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Cause {
        match error.kind() {
            ErrorKind::AddrInUse => Cause::InUse,
            ErrorKind::PermissionDenied => Cause::Denied,
            ErrorKind::AddrNotAvailable => Cause::NotLocal,
            ErrorKind::NotFound => Cause::NoFolder,
            _ => Cause::Other(error),
        }
    }
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
    /// The file as it is now.
    fn of(path: &Path, takes_over: Option<PathBuf>) -> io::Result<SocketFile> {
        let device_and_inode = SocketFile::identity(path)?;
        Ok(SocketFile { path: path.to_owned(), takes_over, device_and_inode })
    }

    /// Puts it into the place of another instance's file, if there is one. To be called when nothing else can fail: until
    /// then that instance is the one that clients reach, and it goes on if this one does not start.
    pub fn publish(&mut self) -> Result<(), ListenError> {
        let Some(place) = self.takes_over.take() else { return Ok(()) };
        fs::rename(&self.path, &place).map_err(|error| ListenError::new(format!("unix:{}", place.display()), error))?;
        self.path = place;
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = SocketFile::identity(&self.path).is_ok_and(|found| found == self.device_and_inode);
        if is_ours {
            // Nothing can be done about a failure at the very end; the next start removes a stale file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl SocketFile {
    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    }
}

/// Listens on `address` for each of `workers` loops.
pub fn listen(address: &ListenAddr, workers: usize, port: UsePort) -> Result<Bound, ListenError> {
    match address {
        ListenAddr::Tcp { addr, dual_stack, fallback_v4 } => {
            let result = listen_tcp(*addr, *dual_stack, workers, port);
            let result = match result {
                // A host without IPv6: all addresses are all IPv4 addresses then (rule E8).
                Err(error) if *fallback_v4 && lacks_ipv6(&error) => {
                    listen_tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addr.port()), false, workers, port)
                }
                result => result,
            };
            result.map_err(|error| ListenError { address: addr.to_string(), cause: Cause::from(error) })
        }
        ListenAddr::Unix { path, mode } => listen_unix(path, *mode, workers, port)
            .map_err(|cause| ListenError { address: format!("unix:{}", path.display()), cause }),
    }
}

/// Whether the error says that the host does not speak IPv6: not at all, or switched off.
fn lacks_ipv6(error: &io::Error) -> bool {
    let unsupported = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    unsupported || error.kind() == ErrorKind::AddrNotAvailable
}

fn listen_tcp(addr: SocketAddr, dual_stack: bool, workers: usize, port: UsePort) -> io::Result<Bound> {
    let first = tcp_socket(addr, dual_stack)?;
    if port == UsePort::WithOthers {
        first.set_reuse_port(true)?;
    }
    first.bind(&addr.into())?;
    let real = first.local_addr()?.as_socket().unwrap_or(addr);
    first.set_reuse_port(true)?;
    first.listen(BACKLOG)?;
    let first = StdTcpListener::from(OwnedFd::from(first));
    let mut listeners = Vec::with_capacity(workers);
    for _ in 1..workers {
        listeners.push(Listening::Tcp(match another(real, dual_stack) {
            Ok(listener) => listener,
            // A kernel that does not let sockets join afterwards: then the workers share the one.
            Err(_) => first.try_clone()?,
        }));
    }
    listeners.push(Listening::Tcp(first));
    Ok(Bound { address: real.to_string(), listeners, file: None })
}

/// One more socket on a port that is ours already.
fn another(addr: SocketAddr, dual_stack: bool) -> io::Result<StdTcpListener> {
    let socket = tcp_socket(addr, dual_stack)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(StdTcpListener::from(OwnedFd::from(socket)))
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

fn listen_unix(path: &Path, mode: Option<u32>, workers: usize, port: UsePort) -> Result<Bound, Cause> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Where another instance may have the path, the new socket is made beside it and put into its place when it is ready,
    // so that there is one all the time. The other instance keeps its own, without a name.
    let (at, takes_over) = match (is_listened_on(path)?, port) {
        (false, _) => (path.to_owned(), None),
        (true, UsePort::Alone) => return Err(Cause::InUse),
        (true, UsePort::WithOthers) => (beside(path), Some(path.to_owned())),
    };
    // What an instance left there that was killed in such a moment is removed.
    if takes_over.is_some() && is_listened_on(&at)? {
        return Err(Cause::InUse);
    }
    socket.bind(&SockAddr::unix(&at)?)?;
    let ready = || -> io::Result<()> {
        if let Some(mode) = mode {
            // Before listening, so that nobody can connect who should not.
            fs::set_permissions(&at, Permissions::from_mode(mode))?;
        }
        socket.listen(BACKLOG)
    };
    if let Err(error) = ready() {
        let _ = fs::remove_file(&at);
        return Err(Cause::from(error));
    }
    let file = SocketFile::of(&at, takes_over)?;
    let first = StdUnixListener::from(OwnedFd::from(socket));
    let mut listeners = Vec::with_capacity(workers);
    for _ in 1..workers {
        listeners.push(Listening::Unix(first.try_clone()?));
    }
    listeners.push(Listening::Unix(first));
    Ok(Bound { address: format!("unix:{}", path.display()), listeners, file: Some(file) })
}

/// A name in the same folder.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Whether somebody listens there. The socket file that a killed instance left behind is removed.
fn is_listened_on(path: &Path) -> Result<bool, Cause> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Cause::from(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(Cause::NotASocket);
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path)?;
            Ok(false)
        }
        // A full backlog, or rights that we lack: somebody is there.
        Ok(_) | Err(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let bound = listen(&tcp("127.0.0.1:0", false, false), workers, UsePort::Alone).expect("loopback");
            assert_eq!(bound.listeners.len(), workers);
            for listener in &bound.listeners {
                let Listening::Tcp(listener) = listener else { panic!("a TCP address gave another kind of socket") };
                assert_eq!(listener.local_addr().expect("bound").to_string(), bound.address);
            }
            assert!(!bound.address.ends_with(":0"), "{}", bound.address);
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_with_a_remedy() {
        for (first_workers, second_workers) in [(1, 1), (2, 2), (1, 2), (2, 1)] {
            let first = listen(&tcp("127.0.0.1:0", false, false), first_workers, UsePort::Alone).expect("loopback");
            let error = listen(&tcp(&first.address, false, false), second_workers, UsePort::Alone).expect_err("in use");
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
            let first = listen(&tcp("127.0.0.1:0", false, false), first_workers, UsePort::Alone).expect("loopback");
            let address = tcp(&first.address, false, false);
            let second = listen(&address, second_workers, UsePort::WithOthers).expect("on purpose");
            assert_eq!(second.address, first.address, "{first_workers} and {second_workers} workers");
            drop(first);
            listen(&address, 1, UsePort::Alone).expect_err("the second has it now");
        }
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        listen(&tcp(&other.to_string(), false, false), 1, UsePort::WithOthers).expect("nobody has it");
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp(&stranger.local_addr().expect("bound").to_string(), false, false);
        listen(&address, 1, UsePort::WithOthers).expect_err("who does not share is no older instance");
    }

    #[test]
    fn a_unix_socket_is_taken_over_without_a_moment_in_which_there_is_none() {
        let folder = Folder::new("takeover");
        let path = folder.0.join("proxy.sock");
        let address = ListenAddr::Unix { path: path.clone(), mode: None };
        let first = listen(&address, 1, UsePort::Alone).expect("a socket");
        let before = StdUnixStream::connect(&path).expect("somebody listens");
        drop(listen(&address, 1, UsePort::WithOthers).expect("it does not get far"));
        StdUnixStream::connect(&path).expect("the first one's is where it was");
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 1, "nothing is left beside it");
        // As after SIGKILL.
        drop(StdUnixListener::bind(folder.0.join("proxy.sock.new")).expect("a socket"));
        let mut second = listen(&address, 1, UsePort::WithOthers).expect("on purpose");
        second.file.as_mut().expect("a file").publish().expect("it can be renamed");
        let after = StdUnixStream::connect(&path).expect("somebody listens");
        for (bound, client) in [(&first, before), (&second, after)] {
            let Listening::Unix(listener) = &bound.listeners[0] else { panic!("a path gave another kind of socket") };
            let (mut stream, _) = listener.accept().expect("each has its own client");
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
        let error = listen(&tcp("192.0.2.1:0", false, false), 1, UsePort::Alone).expect_err("not ours");
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    #[test]
    fn e8_all_addresses_means_both_families_or_the_one_that_the_host_has() {
        let bound = listen(&tcp("[::]:0", true, true), 2, UsePort::Alone).expect("any family");
        let port = bound.address.rsplit(':').next().expect("a port").to_owned();
        TcpStream::connect(format!("127.0.0.1:{port}")).expect("IPv4 reaches it");
    }

    #[test]
    fn e8_a_unix_socket_has_its_mode_replaces_a_stale_file_and_is_removed_at_the_end() {
        let folder = Folder::new("unix");
        let path = folder.0.join("proxy.sock");
        let address = ListenAddr::Unix { path: path.clone(), mode: Some(0o600) };
        let bound = listen(&address, 2, UsePort::Alone).expect("a socket");
        assert_eq!(bound.listeners.len(), 2);
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        StdUnixStream::connect(&path).expect("somebody listens");
        let error = listen(&address, 1, UsePort::Alone).expect_err("in use");
        assert!(error.to_string().contains("address in use"), "{error}");

        // As after SIGKILL: nobody listens, the file is there.
        let Bound { listeners, file, .. } = bound;
        drop(listeners);
        std::mem::forget(file);
        let bound = listen(&address, 1, UsePort::Alone).expect("the stale file is replaced");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn e8_a_file_that_is_no_socket_is_left_alone() {
        let folder = Folder::new("file");
        let path = folder.0.join("proxy.sock");
        fs::write(&path, "precious").expect("a file");
        let error =
            listen(&ListenAddr::Unix { path: path.clone(), mode: None }, 1, UsePort::Alone).expect_err("not a socket");
        assert!(error.to_string().contains("which is no socket"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
        let nowhere = ListenAddr::Unix { path: folder.0.join("no/such/folder.sock"), mode: None };
        let error = listen(&nowhere, 1, UsePort::Alone).expect_err("no folder");
        assert!(error.to_string().contains("the folder does not exist"), "{error}");
    }
}
