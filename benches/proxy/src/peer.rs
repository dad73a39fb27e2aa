//! The proxies that are compared: their configuration, their start, the first answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::account::{anonymous, cpu_time_by_thread, raise_descriptor_limit, resident};
use crate::certificate::{Certificate, NAME};
use crate::child::Child;
use crate::cores::Cores;
use crate::wire::{field, head_end};

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
    /// mini-rproxy.
    Ours,
}

/// In the order of the table's columns.
pub const PEERS: [Peer; 6] =
    [Peer::Relay, Peer::SplicingRelay, Peer::HaProxy, Peer::SplicingHaProxy, Peer::Nginx, Peer::Ours];

impl Peer {
    /// The column's title.
    pub fn title(self) -> &'static str {
        match self {
            Peer::Relay => "relay",
            Peer::SplicingRelay => "relay, splice",
            Peer::HaProxy => "HAProxy",
            Peer::SplicingHaProxy => "HAProxy, splice",
            Peer::Nginx => "nginx",
            Peer::Ours => "mini-rproxy",
        }
    }

    /// Whether it understands HTTP: strips prefixes, speaks TLS, sets fields.
    pub fn is_proxy(self) -> bool {
        match self {
            Peer::Relay | Peer::SplicingRelay => false,
            Peer::HaProxy | Peer::SplicingHaProxy | Peer::Nginx | Peer::Ours => true,
        }
    }

    /// A word for file names.
    fn word(self) -> &'static str {
        match self {
            Peer::Relay => "relay",
            Peer::SplicingRelay => "relay-splice",
            Peer::HaProxy => "haproxy",
            Peer::SplicingHaProxy => "haproxy-splice",
            Peer::Nginx => "nginx",
            Peer::Ours => "mini-rproxy",
        }
    }
}

/// Whether scenarios with TLS are run against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It is not even configured.
    Without,
    /// Listens with TLS, and has a route to the origin's TLS port.
    With,
}

/// Whether it changes fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// Fields stay what they are.
    Off,
    /// One field is set on requests, one on responses: in ours by a plugin.
    On,
}

/// How the proxies are set up for a scenario.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Event loops.
    pub workers: usize,
    /// The client connections that must be possible.
    pub connections: usize,
    /// Routes beside those that are always there.
    pub routes: usize,
    /// TLS.
    pub tls: Tls,
    /// Field changes.
    pub marking: Marking,
    /// So many WebAssembly filters, in ours alone: each sets a field on requests and one on responses.
    pub filters: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { workers: 1, connections: 2048, routes: 0, tls: Tls::Without, marking: Marking::Off, filters: 0 }
    }
}

/// The path of a route of a [`Setup`] with many; all have the same length.
pub fn route(number: usize) -> String {
    format!("/api/v1/service-{number:06}")
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
    /// Ends with this value.
    _child: Child,
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
    /// Starts the origin; everything is kept in `folder`.
    pub fn new(folder: &Path, cores: Cores, proxy: PathBuf, plugin: PathBuf) -> Result<Workshop, String> {
        fs::create_dir_all(folder.join("nginx-temp"))
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let mut workshop = Workshop {
            certificate: Certificate::make(folder)?,
            folder: folder.to_owned(),
            cores,
            proxy,
            plugin,
            descriptors: raise_descriptor_limit(),
            origin: None,
        };
        let load = workshop.cores.load;
        let mut command = own_program()?;
        command.args(["role-origin", &folder.display().to_string()]);
        let (child, addresses) = start_own("the origin", &mut command, &[load], load)?;
        let [plain, tls] = addresses[..] else { return Err("the origin told no addresses".to_owned()) };
        workshop.origin = Some(Origin { plain, tls, _child: child });
        Ok(workshop)
    }

    /// Where the origin listens.
    pub fn origin(&self) -> SocketAddr {
        self.origin.as_ref().expect("started in `new`").plain
    }

    /// Whether this peer is there at all; else why not.
    pub fn has(&self, peer: Peer) -> Result<(), String> {
        match peer {
            Peer::Relay | Peer::SplicingRelay => Ok(()),
            Peer::HaProxy | Peer::SplicingHaProxy => find("haproxy").map(drop),
            Peer::Nginx => find("nginx").map(drop),
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
        for _ in 0..3 {
            result = self.try_start(peer, setup, cores, tool);
            if result.is_ok() {
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
            Peer::HaProxy | Peer::SplicingHaProxy | Peer::Nginx | Peer::Ours => {
                let config = self.write_config(peer, setup, port, tls_port)?;
                let mut command = under(tool, Command::new(self.program(peer)?));
                match peer {
                    Peer::Nginx => command.args(["-e", "stderr", "-p"]).arg(&self.folder).arg("-c").arg(&config),
                    Peer::HaProxy | Peer::SplicingHaProxy => command.arg("-db").arg("-f").arg(&config),
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

    fn program(&self, peer: Peer) -> Result<PathBuf, String> {
        match peer {
            Peer::Relay | Peer::SplicingRelay => Err("the relay is this program itself".to_owned()),
            Peer::HaProxy | Peer::SplicingHaProxy => find("haproxy"),
            Peer::Nginx => find("nginx"),
            Peer::Ours => Ok(self.proxy.clone()),
        }
    }

    fn write_config(&self, peer: Peer, setup: &Setup, port: u16, tls_port: u16) -> Result<PathBuf, String> {
        let origin = self.origin.as_ref().expect("started in `new`");
        let (template, name) = match peer {
            Peer::HaProxy | Peer::SplicingHaProxy => (include_str!("../peers/haproxy.cfg"), "haproxy.cfg"),
            Peer::Nginx => (include_str!("../peers/nginx.conf"), "nginx.conf"),
            Peer::Ours | Peer::Relay | Peer::SplicingRelay => {
                (include_str!("../peers/mini-rproxy.yml"), "mini-rproxy.yml")
            }
        };
        let plugins = match setup.marking {
            Marking::On => format!("plugins: [{{path: {}}}]", self.plugin.display()),
            Marking::Off if setup.filters > 0 => self.filters(setup.filters)?,
            Marking::Off => String::new(),
        };
        let words: BTreeMap<&str, String> = [
            ("PORT", port.to_string()),
            ("TLS_PORT", tls_port.to_string()),
            ("WORKERS", setup.workers.to_string()),
            ("CONNECTIONS", setup.connections.to_string()),
            ("DESCRIPTORS", self.descriptors.to_string()),
            ("FOLDER", self.folder.display().to_string()),
            ("ORIGIN", origin.plain.to_string()),
            ("TLS_ORIGIN", origin.tls.to_string()),
            ("CERTIFICATE", self.certificate.certificate.display().to_string()),
            ("KEY", self.certificate.key.display().to_string()),
            ("BOTH", self.certificate.both.display().to_string()),
            ("NAME", NAME.to_owned()),
            ("ROUTES", self.routes(peer, setup.routes)?),
            ("ROUTE_LENGTH", route(0).len().to_string()),
            ("PLUGINS", plugins),
            ("SPLICE", if peer == Peer::SplicingHaProxy { SPLICE.to_owned() } else { String::new() }),
        ]
        .into();
        let path = self.folder.join(format!("{}-{name}", peer.word()));
        fs::write(&path, fill(template, setup, &words)).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// The lines of a configuration for so many WebAssembly filters.
    fn filters(&self, count: usize) -> Result<String, String> {
        let module = self.folder.join("headers.wasm");
        fs::write(&module, FILTER).map_err(|error| format!("{}: {error}", module.display()))?;
        let host = self.plugin.with_file_name("libproxy_wasm.so");
        let mut text = "plugins:\n".to_owned();
        for number in 0..count {
            let _ = writeln!(
                text,
                "  - {{name: filter-{number}, path: {}, config: {{module: {}, config: \"{FILTER_CONFIG}\"}}}}",
                host.display(),
                module.display()
            );
        }
        Ok(text)
    }

    /// The lines of a configuration for so many routes.
    fn routes(&self, peer: Peer, count: usize) -> Result<String, String> {
        let mut text = String::new();
        match peer {
            Peer::Relay | Peer::SplicingRelay => {}
            Peer::Nginx => {
                for number in 0..count {
                    let _ = writeln!(text, "location {}/ {{ proxy_pass http://origin/; }}", route(number));
                }
            }
            Peer::Ours => {
                for number in 0..count {
                    let _ = writeln!(text, "  - prefix: {}\n    upstream: http://{}", route(number), self.origin());
                }
            }
            // A map from prefix to backend is what its manual recommends for many; a thousand rules would be slow.
            Peer::HaProxy | Peer::SplicingHaProxy if count > 0 => {
                let map = self.folder.join("haproxy.map");
                let lines: String = (0..count).map(|number| format!("{}/ routes\n", route(number))).collect();
                fs::write(&map, lines).map_err(|error| format!("{}: {error}", map.display()))?;
                let _ = writeln!(text, "    use_backend %[path,map_beg({},app)]", map.display());
            }
            Peer::HaProxy | Peer::SplicingHaProxy => {}
        }
        Ok(text)
    }
}

const FILTER: &[u8] = include_bytes!("../../../examples/plugins/proxy_wasm/filters/headers.wasm");
const FILTER_CONFIG: &str = "request set x-bench 1\\nresponse set x-bench 1";

const SPLICE: &str = "    option splice-request\n    option splice-response";

/// Leaves out the lines that the setup does not need, and puts values in the place of `@WORDS@`.
fn fill(template: &str, setup: &Setup, words: &BTreeMap<&str, String>) -> String {
    let mut text = String::new();
    for line in template.lines() {
        if line.ends_with("# tls") && setup.tls == Tls::Without
            || line.ends_with("# marked") && setup.marking == Marking::Off
        {
            continue;
        }
        let mut pieces = line.split('@');
        text.push_str(pieces.next().unwrap_or_default());
        while let (Some(word), Some(after)) = (pieces.next(), pieces.next()) {
            text.push_str(words.get(word).map_or("", String::as_str));
            text.push_str(after);
        }
        text.push('\n');
    }
    text
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

/// 100,000 routes take nginx two seconds, and valgrind makes everything fifty times slower.
const START_PATIENCE: Duration = Duration::from_secs(60);

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
    let says = |error: std::io::Error| format!("GET {path}: {error}");
    let mut stream = TcpStream::connect(address).map_err(says)?;
    stream.set_read_timeout(Some(START_PATIENCE)).map_err(says)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n").map_err(says)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(says)?;
    let end = head_end(&bytes).ok_or_else(|| format!("GET {path}: no answer"))?;
    let content = bytes.split_off(end);
    if !bytes.starts_with(b"HTTP/1.1 200 ") {
        let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        return Err(format!("GET {path}: {}", String::from_utf8_lossy(line)));
    }
    if let Some(length) = field(&bytes, "content-length")
        && length != content.len().to_string().as_bytes()
    {
        return Err(format!("GET {path}: {} bytes of content came", content.len()));
    }
    Ok((bytes, content))
}
