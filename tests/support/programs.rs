//! Programs that no one here wrote: curl as a client, nginx as an origin, HAProxy in between; what is built beside the
//! proxy.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::lines::Lines;
use super::proxy::BINARY;
use super::{PATIENCE, free_address};

/// What follows PATH: daemons live in sbin, which is not in every user's.
const SBIN: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

fn path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    std::env::join_paths(folders).expect("they come from a PATH")
}

/// A command that finds all that `is_missing` finds.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path());
    command
}

/// Whether `program` is not on this machine. Where CI=true that is an error, elsewhere the test says that it is skipped.
#[must_use]
pub fn is_missing(program: &str) -> bool {
    let is_there = std::env::split_paths(&path()).any(|folder| folder.join(program).is_file());
    if !is_there {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{program} is missing, and CI must not skip its tests");
        eprintln!("skipped: {program} is not installed");
    }
    !is_there
}

/// The shared object of an example plugin, which cargo builds beside the other examples. Where only this crate was built
/// there is none.
pub fn shared_object(name: &str) -> Option<PathBuf> {
    let path = Path::new(BINARY).with_file_name("examples").join(format!("lib{name}.so"));
    if !path.is_file() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} is not built");
        eprintln!("skipped: {name} is not built (make plugins)");
        return None;
    }
    Some(path)
}

/// A plugin of `tests/plugins`, built into `folder`. `None` where there is no C compiler.
pub fn c_plugin(name: &str, folder: &Path) -> Option<PathBuf> {
    c_plugin_with(name, folder, &[])
}

/// The same, with more arguments for the compiler.
pub fn c_plugin_with(name: &str, folder: &Path, more: &[&str]) -> Option<PathBuf> {
    if is_missing("cc") {
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = folder.join(format!("{name}.so"));
    let status = Command::new("cc")
        .args(["-std=c99", "-shared", "-fPIC", "-I"])
        .arg(root.join("plugin-api/include"))
        .arg(root.join("tests/plugins").join(format!("{name}.c")))
        .args(more)
        .arg("-o")
        .arg(&path)
        .status();
    assert!(status.expect("cc runs").success(), "cc {name}.c");
    Some(path)
}

/// Runs curl, silently and with a time limit.
pub fn curl(args: &[&str]) -> Output {
    Command::new("curl")
        // -q: no ~/.curlrc of whoever runs the tests; no proxy of the environment either.
        .args(["-q", "-sS", "--noproxy", "*", "--max-time", "20"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("curl runs")
}

/// Runs curl, expects it to succeed, and gives what it printed.
pub fn curl_ok(args: &[&str]) -> String {
    let output = curl(args);
    assert!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Debian's nginx in the foreground, everything of it in a temporary folder.
pub struct Nginx {
    pub address: SocketAddr,
    /// Its access log: `CONNECTION REQUESTS_ON_IT STATUS METHOD TARGET`.
    pub log: Lines,
    child: Child,
    folder: TempDir,
}

impl Nginx {
    /// `server`: what stands in the `server` block. Files are served from [`Nginx::root`].
    pub fn start(server: &str) -> Nginx {
        Nginx::start_listening("", server)
    }

    /// The same with TLS; `server` names the certificate.
    pub fn start_tls(server: &str) -> Nginx {
        Nginx::start_listening(" ssl", server)
    }

    fn start_listening(option: &str, server: &str) -> Nginx {
        // nginx cannot tell a port that the kernel chose, so one is chosen beforehand; where another process takes it in
        // between, the next one is tried.
        for _ in 0..5 {
            if let Some(nginx) = Nginx::try_start(option, server, free_address()) {
                return nginx;
            }
        }
        panic!("nginx does not start");
    }

    fn try_start(option: &str, server: &str, address: SocketAddr) -> Option<Nginx> {
        let folder = TempDir::new().expect("a temporary folder");
        let at = folder.path().display();
        fs::create_dir(folder.path().join("root")).expect("a folder");
        let temp_paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {at}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr;\nevents {{ worker_connections 128; }}\n\
             http {{\n    types {{ text/plain txt; text/html html; }}\n{temp_paths}\
             \x20   log_format short '$connection $connection_requests $status $request';\n\
             \x20   access_log /dev/stdout short;\n\
             \x20   server {{\n        listen {address}{option};\n        root {at}/root;\n{server}\n    }}\n}}\n"
        );
        let config_path = folder.path().join("nginx.conf");
        fs::write(&config_path, config).expect("a configuration file");
        let (child, log) = Nginx::spawn(folder.path());
        let nginx = Nginx { address, log, child, folder };
        nginx.is_ready().then_some(nginx)
    }

    /// Starts the program on what was prepared in `folder`.
    fn spawn(folder: &Path) -> (Child, Lines) {
        let mut child = command("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nginx runs");
        let log = Lines::default();
        log.collect(child.stdout.take().expect("stdout is piped"));
        log.collect(child.stderr.take().expect("stderr is piped"));
        (child, log)
    }

    /// Ends it as a crash does: nothing is said to anybody.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Starts it again after [`Nginx::kill`], on the same port.
    pub fn restart(&mut self) {
        (self.child, self.log) = Nginx::spawn(self.folder.path());
        assert!(self.is_ready(), "nginx does not start again");
    }

    /// nginx tells nobody when it is ready, so it is asked until it answers.
    fn is_ready(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            let lines = self.log.all();
            if lines.iter().any(|line| line.contains("[emerg]")) {
                assert!(lines.iter().any(|line| line.contains("bind()")), "nginx: {lines:?}");
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub fn root(&self) -> &Path {
        Path::new(self.folder.path())
    }

    /// Puts a file where nginx serves it.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.root().join("root").join(name), content).expect("a file to serve");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's HAProxy in the foreground: passes bytes on to one server.
pub struct Haproxy {
    pub address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Haproxy {
    /// `options` of the server, for example `send-proxy`.
    pub fn start(server: SocketAddr, options: &str) -> Haproxy {
        Haproxy::start_at(server, options, "")
    }

    /// With TLS for its clients; `pem` has certificate and key.
    pub fn start_tls(server: SocketAddr, options: &str, pem: &Path) -> Haproxy {
        Haproxy::start_at(server, options, &format!("ssl crt {}", pem.display()))
    }

    fn start_at(server: SocketAddr, options: &str, bind: &str) -> Haproxy {
        // As with nginx: a port is chosen beforehand, and may be gone.
        for _ in 0..5 {
            if let Some(haproxy) = Haproxy::try_start(server, options, free_address(), bind) {
                return haproxy;
            }
        }
        panic!("haproxy does not start");
    }

    fn try_start(server: SocketAddr, options: &str, address: SocketAddr, bind: &str) -> Option<Haproxy> {
        let folder = TempDir::new().expect("a temporary folder");
        let config = format!(
            "defaults\n    mode tcp\n    timeout connect 20s\n    timeout client 20s\n    timeout server 20s\n\
             listen balancer\n    bind {address} {bind}\n    server only {server} {options}\n"
        );
        let config_path = folder.path().join("haproxy.cfg");
        fs::write(&config_path, config).expect("a configuration file");
        let child = command("haproxy")
            .args(["-q", "-db", "-f"])
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy runs");
        let mut haproxy = Haproxy { address, child, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || haproxy.child.try_wait().is_ok_and(|status| status.is_some()) {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some(haproxy)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
