//! What the process listens on, over all workers: opened at start, and changed by a reload without closing what stays.
//!
//! Each worker has its own socket on each TCP address (SO_REUSEPORT), so that the kernel spreads new connections and no
//! worker wakes for another's. A unix socket cannot be had twice: the workers share it. SO_REUSEPORT has a trap: a second
//! instance of the program would quietly share the port. So the first socket of an address is bound without the option,
//! which fails where the port is in use, and gets it afterwards for the others; unless the port is our own already, or that of
//! an instance which this one takes over from (`may_share`).
//!
//! A reload does first what can fail and changes nothing that is in use ([`ListenerSet::update`]). Accepting is done in
//! `acceptor`.

use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat, renameat_with};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Config, ListenAddr};

pub use crate::proxy::proxy_connection::ListenerProtocol;

use super::acceptor::{Listener, ListenerUpdate};
use super::activation::Inherited;
use super::socket::set_tcp_options;

/// How many connections may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// The file of a unix socket. Dropping it removes the file, unless another program has put its own there.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Where the file is: beside `path` until it takes the place of one on which somebody listens.
    at: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    fn is_in_place(&self) -> bool {
        identity(&self.at).is_ok_and(|found| found == self.device_and_inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Nothing can be done about a failure at the very end; the next start removes a stale file.
            let _ = fs::remove_file(&self.at);
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
fn listen(address: &ListenAddr, workers: usize, may_share: bool) -> Result<BoundListener, String> {
    // What a host says that does not speak IPv6: not at all, or switched off.
    let lacks_ipv6 = |error| matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL));
    let result = match address {
        ListenAddr::Tcp { addr, dual_stack, fallback_v4 } => match listen_tcp(*addr, *dual_stack, workers, may_share) {
            // All addresses are all IPv4 addresses then (rule E8).
            Err(error) if *fallback_v4 && lacks_ipv6(&error) => {
                listen_tcp((Ipv4Addr::UNSPECIFIED, addr.port()).into(), false, workers, may_share)
            }
            result => result,
        },
        ListenAddr::Unix { path, mode } => listen_unix(path, *mode, workers, may_share),
    };
    result.map_err(|error| cannot_listen(address, &error))
}

fn listen_tcp(addr: SocketAddr, dual_stack: bool, workers: usize, may_share: bool) -> io::Result<BoundListener> {
    let first = tcp_socket(addr, dual_stack, may_share)?;
    let real = first.local_addr()?.as_socket().unwrap_or(addr);
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        // A kernel that does not let sockets join afterwards: then the workers share the one.
        sockets.push(tcp_socket(real, dual_stack, true).or_else(|_| first.try_clone())?);
    }
    sockets.push(first);
    Ok(BoundListener { address: real.to_string(), sockets, file: None })
}

fn tcp_socket(addr: SocketAddr, dual_stack: bool, may_share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A restart must not wait until the connections of the last run are forgotten.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // Accepted sockets inherit these, which saves calls for each.
    set_tcp_options(&socket);
    socket.set_reuse_port(may_share)?;
    socket.bind(&addr.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn listen_unix(path: &Path, mode: Option<u32>, workers: usize, may_share: bool) -> io::Result<BoundListener> {
    // Where somebody listens there, the new socket is made beside it and put into its place when it is ready, so that there
    // is one all the time. The other one stays as it is, without a name.
    let mut at = path.to_owned();
    if is_listened_on(path)? {
        at.as_mut_os_string().push(".new");
        // A file that an instance left there which was killed in such a moment is removed.
        if !may_share || is_listened_on(&at)? {
            return Err(ErrorKind::AddrInUse.into());
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&at)?)?;
    let file = SocketFile { path: path.to_owned(), device_and_inode: identity(&at)?, at };
    // The mode before listening, so that nobody can connect who may not.
    if let Some(mode) = mode {
        fs::set_permissions(&file.at, Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok(BoundListener { address: unix(path), sockets: share(&socket, workers)?, file: Some(file) })
}

/// The same socket for each worker.
fn share(socket: &Socket, workers: usize) -> io::Result<Vec<Socket>> {
    (0..workers).map(|_| socket.try_clone()).collect()
}

/// Whether a program listens there. The socket file that a killed instance left behind is removed.
fn is_listened_on(path: &Path) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        result => result?,
    };
    if !metadata.file_type().is_socket() {
        let message = "there is a file of that name which is no socket; remove it or choose another listen_addr";
        return Err(io::Error::other(message));
    }
    // Without waiting where its backlog is full.
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    client.set_nonblocking(true)?;
    match client.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map(|()| false),
        // A full backlog, or rights that we lack: somebody is there.
        Ok(_) | Err(_) => Ok(true),
    }
}

/// A socket that was handed over; the workers share it. Its file, if it has one, belongs to the service manager.
fn use_inherited(socket: &Socket, workers: usize) -> io::Result<BoundListener> {
    let local = socket.local_addr()?;
    let address = match (local.as_socket(), local.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => unix(path),
        (None, None) => "unix:(no path)".to_owned(),
    };
    if !local.is_unix() {
        set_tcp_options(socket);
    }
    Ok(BoundListener { address, sockets: share(socket, workers)?, file: None })
}

/// What the process listens on.
pub struct ListenerSet {
    all: Vec<ListenerEntry>,
    /// The number of the next one.
    next: u32,
    workers: usize,
}

/// One address.
struct ListenerEntry {
    /// The number of the workers' listeners.
    number: u32,
    source: Source,
    protocol: ListenerProtocol,
    /// Its sockets are here until the workers get them.
    bound: BoundListener,
}

/// Where an address comes from.
enum Source {
    Config(ListenAddr),
    /// It was handed over, with this name.
    ServiceManager(String),
}

/// The numbers of the listeners that stay, and what is spoken there.
type Kept = Vec<(u32, ListenerProtocol)>;

impl ListenerSet {
    /// At start: all addresses of the configuration, or in their place the sockets that were handed over; for the
    /// operator's address and for all others each. With `takeover`, another instance's unix sockets keep their place until
    /// [`ListenerSet::publish`].
    pub fn open(
        config: &Config,
        inherited: Vec<Inherited>,
        workers: usize,
        takeover: bool,
    ) -> Result<(ListenerSet, Vec<ListenerUpdate>), String> {
        let mut set = ListenerSet { all: Vec::new(), next: 0, workers };
        for Inherited { name, socket } in inherited {
            let bound =
                use_inherited(&socket, workers).map_err(|error| format!("socket activation: {name}: {error}"))?;
            let protocol = protocol_of_inherited(&name, config)?;
            set.all.push(ListenerEntry { number: set.next, source: Source::ServiceManager(name), protocol, bound });
            set.next += 1;
        }
        let (kept, new) = set.plan(config, takeover)?;
        let updates = set.apply(kept, new);
        Ok((set, updates))
    }

    /// Listens where `config` says; returns what changes for each worker. The file of what closes is removed here, so that
    /// nobody new connects; the workers accept who waits. On an error nothing has changed.
    pub fn update(&mut self, config: &Config) -> Result<Vec<ListenerUpdate>, String> {
        let (kept, mut new) = self.plan(config, false)?;
        publish(&mut new)?;
        Ok(self.apply(kept, new))
    }

    /// What has to change for `config`. What is new is bound, but nothing is accepted there yet.
    fn plan(&self, config: &Config, takeover: bool) -> Result<(Kept, Vec<ListenerEntry>), String> {
        let mut wanted = addresses(config);
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        for ListenerEntry { number, source, .. } in &self.all {
            let protocol = match source {
                Source::ServiceManager(name) => {
                    let protocol = protocol_of_inherited(name, config)?;
                    // It takes the place of those addresses that serve the same.
                    let is_admin = |protocol| protocol == ListenerProtocol::Admin;
                    wanted.retain(|(_, other)| is_admin(*other) != is_admin(protocol));
                    Some(protocol)
                }
                Source::Config(address) => {
                    wanted.iter().position(|(other, _)| *other == address).map(|at| wanted.remove(at).1)
                }
            };
            kept.extend(protocol.map(|protocol| (*number, protocol)));
        }
        for (number, (address, protocol)) in (self.next..).zip(wanted) {
            let bound = listen(address, self.workers, takeover || self.has_place_of(address))?;
            new.push(ListenerEntry { number, source: Source::Config(address.clone()), protocol, bound });
        }
        Ok((kept, new))
    }

    fn apply(&mut self, kept: Kept, new: Vec<ListenerEntry>) -> Vec<ListenerUpdate> {
        self.all.retain_mut(|entry| {
            let found = kept.iter().find(|(number, _)| *number == entry.number);
            found.map(|(_, protocol)| entry.protocol = *protocol).is_some()
        });
        self.next += new.len() as u32;
        self.all.extend(new);
        let mut updates: Vec<_> =
            (0..self.workers).map(|_| ListenerUpdate { kept: kept.clone(), new: Vec::new() }).collect();
        for ListenerEntry { number, source, protocol, bound } in &mut self.all {
            let is_inherited = matches!(source, Source::ServiceManager(_));
            for (update, socket) in updates.iter_mut().zip(bound.sockets.drain(..)) {
                update.new.push(Listener::new(*number, socket, *protocol, is_inherited));
            }
        }
        updates
    }

    /// Where clients can connect, with real port numbers, and what they are to speak there.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, ListenerProtocol)> {
        self.all.iter().map(|entry| (entry.bound.address.as_str(), entry.protocol))
    }

    /// Takes over the files of another instance's unix sockets. The last step of a start.
    pub fn publish(&mut self) -> Result<(), String> {
        publish(&mut self.all)
    }

    /// Nobody can connect any more: the files of unix sockets are removed.
    pub fn close(&mut self) {
        self.all.clear();
    }

    /// Whether it is ourselves that have the port or the file: a port moves between addresses, or a file gets another mode.
    fn has_place_of(&self, wanted: &ListenAddr) -> bool {
        self.all.iter().any(|entry| match (&entry.source, wanted) {
            (Source::Config(ListenAddr::Tcp { addr, .. }), ListenAddr::Tcp { addr: wanted, .. }) => {
                addr.port() == wanted.port() && addr.port() != 0
            }
            (Source::Config(ListenAddr::Unix { path, .. }), ListenAddr::Unix { path: wanted, .. }) => {
                path == wanted && entry.bound.file.as_ref().is_some_and(SocketFile::is_in_place)
            }
            _ => false,
        })
    }
}

/// Puts socket files into their places, all or none. To be called when nothing else can fail: until then the sockets that are
/// there are the ones that clients reach, and they go on if these are not wanted after all.
fn publish(entries: &mut [ListenerEntry]) -> Result<(), String> {
    let files = entries.iter_mut().filter_map(|entry| entry.bound.file.as_mut());
    let mut files: Vec<_> = files.filter(|file| file.at != file.path).collect();
    // What is there is kept beside it, so that it can go back; unless it is gone, or the file system cannot do that.
    let swap = |file: &SocketFile| renameat_with(CWD, &file.at, CWD, &file.path, RenameFlags::EXCHANGE);
    for (index, file) in files.iter().enumerate() {
        if let Err(error) = swap(file).or_else(|_| renameat(CWD, &file.at, CWD, &file.path)) {
            for file in &files[..index] {
                let _ = swap(file);
            }
            return Err(cannot_listen(unix(&file.path), &error.into()));
        }
    }
    for file in &mut files {
        let _ = fs::remove_file(&file.at);
        file.at.clone_from(&file.path);
    }
    Ok(())
}

/// What is spoken where nothing else is said: TLS, if there is a certificate and no address of its own for TLS.
pub(super) fn main_protocol(config: &Config) -> ListenerProtocol {
    let is_tls = config.tls.as_ref().is_some_and(|tls| tls.listen_addr.is_empty());
    if is_tls { ListenerProtocol::Tls } else { ListenerProtocol::Plain }
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
fn addresses(config: &Config) -> Vec<(&ListenAddr, ListenerProtocol)> {
    let with_tls = config.tls.as_ref().map_or(&[][..], |tls| &tls.listen_addr);
    let groups = [
        (&config.listen_addr[..], main_protocol(config)),
        (with_tls, ListenerProtocol::Tls),
        (&config.admin.listen_addr, ListenerProtocol::Admin),
    ];
    groups.iter().flat_map(|(addresses, protocol)| addresses.iter().map(|address| (address, *protocol))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};

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
            let bound = listen(&tcp("127.0.0.1:0", false, false), workers, false).expect("loopback");
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
            let first = listen(&tcp("127.0.0.1:0", false, false), first_workers, false).expect("loopback");
            let error = listen(&tcp(&first.address, false, false), second_workers, false).expect_err("in use");
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
            let first = listen(&tcp("127.0.0.1:0", false, false), first_workers, false).expect("loopback");
            let address = tcp(&first.address, false, false);
            let second = listen(&address, second_workers, true).expect("on purpose");
            assert_eq!(second.address, first.address, "{first_workers} and {second_workers} workers");
            drop(first);
            listen(&address, 1, false).expect_err("the second has it now");
        }
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        listen(&tcp(&other.to_string(), false, false), 1, true).expect("nobody has it");
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp(&stranger.local_addr().expect("bound").to_string(), false, false);
        listen(&address, 1, true).expect_err("who does not share is no older instance");
    }

    #[test]
    fn a_unix_socket_is_taken_over_without_a_moment_in_which_there_is_none() {
        let folder = Folder::new("takeover");
        let path = folder.0.join("proxy.sock");
        let address = ListenAddr::Unix { path: path.clone(), mode: None };
        let first = listen(&address, 1, false).expect("a socket");
        let before = UnixStream::connect(&path).expect("somebody listens");
        drop(listen(&address, 1, true).expect("it does not get far"));
        UnixStream::connect(&path).expect("the first one's is where it was");
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 1, "nothing is left beside it");
        // As after SIGKILL.
        drop(UnixListener::bind(folder.0.join("proxy.sock.new")).expect("a socket"));
        let second = listen(&address, 1, true).expect("on purpose");
        let source = Source::Config(address);
        let mut second = [ListenerEntry { number: 0, source, protocol: ListenerProtocol::Plain, bound: second }];
        publish(&mut second).expect("it can be renamed");
        let [ListenerEntry { bound: second, .. }] = second;
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
        let error = listen(&tcp("192.0.2.1:0", false, false), 1, false).expect_err("not ours");
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    #[test]
    fn e8_all_addresses_means_both_families_or_the_one_that_the_host_has() {
        let bound = listen(&tcp("[::]:0", true, true), 2, false).expect("any family");
        let port = bound.address.rsplit(':').next().expect("a port").to_owned();
        TcpStream::connect(format!("127.0.0.1:{port}")).expect("IPv4 reaches it");
    }

    #[test]
    fn e8_a_unix_socket_has_its_mode_replaces_a_stale_file_and_is_removed_at_the_end() {
        let folder = Folder::new("unix");
        let path = folder.0.join("proxy.sock");
        let address = ListenAddr::Unix { path: path.clone(), mode: Some(0o600) };
        let bound = listen(&address, 2, false).expect("a socket");
        assert_eq!(bound.sockets.len(), 2);
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("somebody listens");
        let error = listen(&address, 1, false).expect_err("in use");
        assert!(error.to_string().contains("address in use"), "{error}");

        // As after SIGKILL: nobody listens, the file is there.
        let BoundListener { sockets, file, .. } = bound;
        drop(sockets);
        std::mem::forget(file);
        let bound = listen(&address, 1, false).expect("the stale file is replaced");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn e8_a_file_that_is_no_socket_is_left_alone() {
        let folder = Folder::new("file");
        let path = folder.0.join("proxy.sock");
        fs::write(&path, "precious").expect("a file");
        let error = listen(&ListenAddr::Unix { path: path.clone(), mode: None }, 1, false).expect_err("not a socket");
        assert!(error.to_string().contains("which is no socket"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
        let nowhere = ListenAddr::Unix { path: folder.0.join("no/such/folder.sock"), mode: None };
        let error = listen(&nowhere, 1, false).expect_err("no folder");
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
        let (mut set, listeners) = ListenerSet::open(&config("'127.0.0.1:0'"), Vec::new(), 2, false).expect("loopback");
        let first: Vec<Vec<u32>> =
            listeners.iter().map(|of_worker| of_worker.new.iter().map(Listener::number).collect()).collect();
        assert_eq!(first, [[0], [0]]);
        let mode = || fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777).ok();
        // As the workers do: what they have stays open.
        let mut given = Vec::new();
        for (name, listen, expected, expected_mode) in [
            ("nothing changes", "'127.0.0.1:0'".to_owned(), (vec![0], vec![]), None),
            ("one more", format!("['127.0.0.1:0', {}]", unix("?mode=0600")), (vec![0], vec![1]), Some(0o600)),
            ("other rights", format!("[{}, '127.0.0.1:0']", unix("?mode=0660")), (vec![0], vec![2]), Some(0o660)),
            ("in another order", format!("['127.0.0.1:0', {}]", unix("?mode=0660")), (vec![0, 2], vec![]), Some(0o660)),
            ("one less", "'127.0.0.1:0'".to_owned(), (vec![0], vec![]), None),
            ("another", "'[::1]:0'".to_owned(), (vec![], vec![3]), None),
        ] {
            let updates = set.update(&config(&listen)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(numbers(&updates), expected, "{name}");
            given.push(updates);
            assert_eq!(mode(), expected_mode, "{name}");
            assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), usize::from(mode().is_some()), "{name}");
        }
    }

    #[test]
    fn an_update_that_fails_changes_no_mode() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
        let with =
            |mode: &str| config(&format!("['unix:{}{mode}', 'unix:{}{mode}']", first.display(), second.display()));
        let (mut set, _listeners) = ListenerSet::open(&with("?mode=0600"), Vec::new(), 1, false).expect("two sockets");
        fs::remove_file(&second).expect("it is there");
        fs::write(&second, "precious").expect("a file");
        let error = set.update(&with("?mode=0666")).expect_err("it is no socket");
        assert!(error.contains(&format!("unix:{}", second.display())), "{error}");
        assert_eq!(fs::metadata(&first).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "nothing is left beside them");
    }

    #[test]
    fn socket_files_take_their_places_all_or_none() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
        let with =
            |mode: &str| config(&format!("['unix:{}{mode}', 'unix:{}{mode}']", first.display(), second.display()));
        let (set, _listeners) = ListenerSet::open(&with("?mode=0600"), Vec::new(), 1, false).expect("two sockets");
        let (_, mut new) = set.plan(&with("?mode=0666"), false).expect("two more");
        fs::remove_file(folder.path().join("b.new")).expect("it is there");
        publish(&mut new).expect_err("the second one cannot be moved");
        drop(new);
        for path in [first, second] {
            UnixStream::connect(&path).expect("the old socket has its place");
            assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "nothing is left beside them");
    }

    #[test]
    fn a_socket_file_of_another_program_in_the_place_of_ours_is_left_alone() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("a");
        let with = |mode: &str| config(&format!("'unix:{}{mode}'", path.display()));
        let (mut set, _listeners) = ListenerSet::open(&with(""), Vec::new(), 1, false).expect("a socket");
        let other = folder.path().join("b");
        let stranger = UnixListener::bind(&other).expect("a socket");
        fs::rename(other, &path).expect("as a takeover does");
        let error = set.update(&with("?mode=0600")).expect_err("it is not ours any more");
        assert!(error.contains("address in use"), "{error}");
        let _client = UnixStream::connect(&path).expect("somebody listens");
        // The first one asked whether somebody does.
        (0..2).for_each(|_| drop(stranger.accept().expect("the other one still has it")));
    }

    #[test]
    fn a_full_backlog_does_not_hold_up_the_start() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("a");
        let address = SockAddr::unix(&path).expect("short");
        let connect = || {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            client.set_nonblocking(true).and_then(|()| client.connect(&address)).map(|()| client)
        };
        let busy = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        busy.bind(&address).and_then(|()| busy.listen(0)).expect("it listens");
        let _waiting: Vec<_> = std::iter::from_fn(|| connect().ok()).collect();
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || ended.send(is_listened_on(&path)));
        let found = end.recv_timeout(std::time::Duration::from_secs(10)).expect("it does not wait");
        assert!(found.expect("a socket"));
    }

    #[test]
    fn a_port_of_ours_can_move_between_addresses_but_one_of_others_cannot_be_had() {
        let (mut set, first) = ListenerSet::open(&config("'127.0.0.1:0'"), Vec::new(), 1, false).expect("loopback");
        let address = set.addresses().next().expect("an address").0.to_owned();
        let port = address.rsplit(':').next().expect("a port");
        let moved = config(&format!("'127.0.0.1:{port}'"));
        assert!(
            set.update(&moved).is_err(),
            "it was port 0 that was asked for: nobody knows that this is the same one"
        );
        drop((first, set));
        // Not the same port: the kernel could give it to somebody else at this moment.
        let fixed = selftest::program::free_address().expect("a free port");
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        (set, _) = ListenerSet::open(&config(&format!("'{fixed}'")), Vec::new(), 1, false).expect("it is free");
        let everywhere = config(&format!("'0.0.0.0:{}'", fixed.port()));
        set.update(&everywhere).expect("our own port");
        let taken = config(&format!("'{}'", other.local_addr().expect("bound")));
        let error = set.update(&taken).expect_err("somebody else's");
        assert!(error.contains("address in use"), "{error}");
    }

    #[test]
    fn e4_a_socket_that_is_handed_over_has_what_our_own_have() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
        socket.listen(16).expect("a port");
        let address = ListenAddr::parse("127.0.0.1:0").expect("an address");
        let own = listen(&address, 1, false).expect("a port");
        let bound = use_inherited(&socket, 1).expect("it listens");
        let options = |bound: &BoundListener| {
            let socket = &bound.sockets[0];
            (socket.tcp_nodelay().expect("an option"), socket.tcp_notsent_lowat().expect("an option"))
        };
        assert_eq!(options(&bound), options(&own));
    }
}
