//! The built proxy as a process, started as a user starts it.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

use super::lines::Lines;
use super::{Peer, is_missing, send_signal, try_signal};

/// The binary that was built.
pub const BINARY: &str = env!("CARGO_BIN_EXE_mini-rproxy");

/// The program under test: the binary, or what the environment variable `PROXY_BINARY` names, which takes the same flags and
/// the same configuration (`make blocking`).
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let Ok(path) = std::env::var("PROXY_BINARY") else { return BINARY.to_owned() };
        // Not every test stays in the folder in which it begins.
        let path = fs::canonicalize(&path).unwrap_or_else(|error| panic!("PROXY_BINARY={path}: {error}"));
        path.into_os_string().into_string().expect("a path in UTF-8")
    });
    &PROGRAM
}

/// Before the binary: under valgrind, which ends it with 99 where it finds something.
pub const VALGRIND: [&str; 5] = [
    "valgrind",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite",
    "--show-leak-kinds=definite",
    "--error-exitcode=99",
];

/// How to start a proxy; everything but the configuration is optional.
pub struct Launch {
    command: Command,
    folder: TempDir,
    stdout: Option<Stdio>,
}

impl Launch {
    /// With this configuration. Where it does not say where to listen, a free port is taken.
    pub fn new(yaml: &str) -> Launch {
        Launch::under(&[], program(), yaml)
    }

    /// Without `-verbose`.
    pub fn quiet(yaml: &str) -> Launch {
        let mut launch = Launch::new(yaml);
        launch.command = Command::new(program());
        let config = launch.config_path();
        launch.command.arg("-config").arg(config);
        launch
    }

    /// Within a shell that runs `script` first, for example `ulimit -n 64`. The process stays the same one.
    pub fn after(script: &str, yaml: &str) -> Launch {
        Launch::under(&["sh", "-c", &format!("{script}; exec \"$0\" \"$@\"")], program(), yaml)
    }

    /// As a user without any rights, from a copy of the binary that such a user may read.
    pub fn unprivileged(yaml: &str) -> Launch {
        use std::os::unix::fs::PermissionsExt;
        let mut launch = Launch::new(yaml);
        let copy = launch.folder.path().join("mini-rproxy");
        copy_program(program(), &copy);
        fs::set_permissions(launch.folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let config = launch.config_path();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("the file is ours");
        launch.command = Command::new(copy);
        launch.command.arg("-config").arg(config).arg("-verbose");
        // Only root can become someone else, and has to; everyone else is unprivileged as they are.
        if is_root() {
            launch.command.uid(65534).gid(65534);
        }
        launch
    }

    /// As process 1 of a root folder that holds nothing but the binary, its shared libraries and the configuration: no
    /// /dev, /proc, /etc. `None` where this machine does not allow it.
    pub fn as_process_1(yaml: &str) -> Option<Launch> {
        let unshare = ["--map-root-user", "--pid", "--fork", "--kill-child"];
        if is_missing("unshare") || is_missing("ldd") {
            return None;
        }
        if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: unshare is not allowed here");
            return None;
        }
        let mut launch = Launch::new(yaml);
        let root = launch.folder.path().join("root");
        let libraries = Command::new("ldd").arg(program()).output().expect("ldd runs");
        let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        for (from, to) in paths.map(|path| (path, path)).chain([(program(), "/mini-rproxy")]) {
            let to = root.join(&to[1..]);
            fs::create_dir_all(to.parent().expect("a file in the root")).expect("a folder");
            copy_program(from, &to);
        }
        fs::copy(launch.config_path(), root.join("config.yaml")).expect("a copy");
        launch.command = Command::new("unshare");
        launch.command.args(unshare).arg("chroot").arg(root);
        launch.command.args(["/mini-rproxy", "-config", "/config.yaml", "-verbose"]);
        Some(launch)
    }

    /// By a command of the test's own, which is made of the folder that holds config.yaml.
    pub fn with(yaml: &str, command: impl FnOnce(&Path) -> Command) -> Launch {
        let mut launch = Launch::new(yaml);
        launch.command = command(launch.folder.path());
        launch
    }

    /// With files of its own in the place of those of /etc that name resolution reads: `etc` is a folder with hosts,
    /// nsswitch.conf and resolv.conf. `None` where this machine does not allow it; where CI=true that is an error.
    pub fn with_etc(etc: &Path, yaml: &str) -> Option<Launch> {
        let script = "for file in hosts nsswitch.conf resolv.conf; do \
                      if [ -e /etc/$file ]; then mount --bind \"$0/$file\" /etc/$file || exit 1; fi; done; exec \"$@\"";
        let etc = etc.to_str().expect("a path of ours");
        let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, etc];
        if is_missing("unshare") {
            return None;
        }
        let trial = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
        if !trial.is_ok_and(|output| output.status.success()) {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no mount namespace, and CI must not skip its tests");
            eprintln!("skipped: a mount namespace is not allowed here");
            return None;
        }
        Some(Launch::under(&wrapper, program(), yaml))
    }

    /// `binary` as the last words of the command `wrapper`, which is to become it.
    pub fn under(wrapper: &[&str], binary: &str, yaml: &str) -> Launch {
        let folder = TempDir::new().expect("a temporary folder");
        let listen = if yaml.contains("listen_addr:") { "" } else { "listen_addr: 127.0.0.1:0\n" };
        let config = folder.path().join("config.yaml");
        fs::write(&config, format!("{listen}{yaml}")).expect("a configuration file");
        let words: Vec<&str> = wrapper.iter().copied().chain([binary]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("-config").arg(config).arg("-verbose");
        Launch { command, folder, stdout: None }
    }

    pub fn config_path(&self) -> std::path::PathBuf {
        self.folder.path().join("config.yaml")
    }

    pub fn arg(mut self, arg: &str) -> Launch {
        self.command.arg(arg);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.command.env(name, value);
        self
    }

    pub fn empty_env(mut self) -> Launch {
        self.command.env_clear();
        self
    }

    /// Standard output goes there and is not collected; [`Launch::start`] then expects to find `listening` on stderr or
    /// a fixed address in the configuration.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Launch {
        self.stdout = Some(stdout.into());
        self
    }

    /// Starts it without waiting for anything.
    pub fn spawn(mut self) -> Proxy {
        let log = Lines::default();
        let collects = self.stdout.is_none();
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(self.stdout.take().unwrap_or_else(Stdio::piped))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the proxy starts");
        // A pipe of the test's own would otherwise stay open in the command.
        drop(self.command);
        if collects {
            log.collect(child.stdout.take().expect("stdout is piped"));
        }
        log.collect(child.stderr.take().expect("stderr is piped"));
        Proxy { address: ([127, 0, 0, 1], 0).into(), child, log, folder: self.folder }
    }

    /// Starts it and waits until it says where it listens.
    pub fn start(self) -> Proxy {
        let mut proxy = self.spawn();
        let line = proxy.log.wait_for("the line that tells the address", |line| listening(line).is_some());
        proxy.address = listening(&line).expect("just found");
        proxy
    }

    /// Starts it and waits until something answers on `address`: for a proxy whose output cannot be read.
    pub fn start_at(self, address: SocketAddr) -> Proxy {
        let mut proxy = self.spawn();
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(std::time::Instant::now() < deadline, "nothing listens on {address}: {:?}", proxy.log.all());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        proxy.address = address;
        proxy
    }
}

/// A running proxy; killed, by its number, when it goes out of scope.
pub struct Proxy {
    pub address: SocketAddr,
    /// Everything that it printed, stdout and stderr.
    pub log: Lines,
    child: Child,
    folder: TempDir,
}

impl Proxy {
    pub fn start(yaml: &str) -> Proxy {
        Launch::new(yaml).start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that the started one has started: the proxy, where it runs in a namespace of its own.
    pub fn child_pid(&self) -> u32 {
        self.child_of_child().expect("it has a child")
    }

    fn child_of_child(&self) -> Option<u32> {
        let parent = self.pid().to_string();
        let processes = fs::read_dir("/proc").expect("a Linux system").filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let is_child = stat.rsplit(')').next()?.split_whitespace().nth(1)? == parent;
            is_child.then_some(pid)
        });
        processes.last()
    }

    pub fn connect(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// Where it listens for a protocol: `http`, `https` or `admin`.
    pub fn address_of(&self, protocol: &str) -> SocketAddr {
        let is_wanted = |line: &str| line.contains("\"listening\"") && value(line, "protocol") == Some(protocol);
        let line = self.log.wait_for("a listener's line", is_wanted);
        value(&line, "address").and_then(|text| text.parse().ok()).expect("an address")
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn signal(&self, name: &str) {
        send_signal(self.pid(), name);
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        // The pipes end with the process: an event to wait for, where `wait` knows no time limit.
        self.log.wait_for_end();
        self.child.wait().expect("it is our child")
    }

    /// Whether [`VALGRIND`], under which it ran, has found nothing.
    pub fn assert_no_valgrind_errors(&self) {
        let report: Vec<String> = self.log.all().into_iter().filter(|line| line.starts_with("==")).collect();
        assert!(report.iter().any(|line| line.contains("ERROR SUMMARY: 0 errors")), "{}", report.join("\n"));
    }

    /// The access log line about the request with this path.
    pub fn access(&self, path: &str) -> String {
        self.log.wait_for(&format!("the access log line of {path}"), |line| value(line, "path") == Some(path))
    }

    /// Peak resident memory in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Resident memory that belongs to no file, in KiB: which pages of the binary are there depends on how it was built.
    pub fn own_memory_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line of /proc/PID/status");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// CPU time used until now, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        // The second field, the name, may hold anything, but it ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime and stime are the 14th and 15th; the first two are cut off.
        fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A process 1 that has become another user outlives the one that started it, --kill-child or not.
        if let (Ok(None), Some(inner)) = (self.child.try_wait(), self.child_of_child()) {
            try_signal(inner, "KILL");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.log.all();
            eprintln!("the last that the proxy printed:\n{}", lines[lines.len().saturating_sub(200)..].join("\n"));
        }
        let panicked = self.log.all().iter().any(|line| line.contains("panicked"));
        assert!(!panicked || std::thread::panicking(), "the proxy panicked:\n{}", self.log.all().join("\n"));
    }
}

/// Copies a file that is going to be executed. Done by a process of its own: were the copy open for writing in this one,
/// a child that another test starts at that moment would inherit it, and the kernel executes no file that is open for
/// writing.
fn copy_program(from: impl AsRef<OsStr>, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "a copy of the program");
}

/// The address in a line that says `listening`.
fn listening(line: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    line.split([' ', '=', '"', ',']).find_map(|word| word.parse().ok())
}

/// The value of `key` in a text log line, without quotation marks.
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (index, _) = line.match_indices(key).find(|(index, _)| {
        line[index + key.len()..].starts_with('=') && (*index == 0 || line[..*index].ends_with(' '))
    })?;
    let rest = &line[index + key.len() + 1..];
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(' ').next(),
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
