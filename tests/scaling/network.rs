//! The network of `network.sh`, the instances and the balancer in it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::lines::Lines;
use crate::support::programs::command;
use crate::support::proxy::{Launch, Proxy, is_root, program};
use crate::support::{is_missing, wait_until};

/// Set in the process that runs in that network.
const INSIDE: &str = "SCALING_TEST_INSIDE";

/// Where clients reach the balancer.
pub fn site() -> SocketAddr {
    ([192, 0, 2, 2], 80).into()
}

pub fn upstream() -> SocketAddr {
    ([10, 0, 0, 21], 9001).into()
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a user finds in `examples/scaling`.
pub fn example(name: &str) -> PathBuf {
    root().join("examples/scaling").join(name)
}

/// Runs the test of that name (with its module) again in namespaces of its own, where the network is built. Returns whether
/// this is inside of it already. All that was started in there ends with the test.
pub fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        let output = Command::new("sh").arg(root().join("tests/scaling/network.sh")).output().expect("sh runs");
        assert!(output.status.success(), "the network: {}", String::from_utf8_lossy(&output.stderr));
        return true;
    }
    if is_missing("unshare") || is_missing("ip") {
        return false;
    }
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let user = if is_root() { &[][..] } else { &["--map-root-user"] };
    let unshare = |args: &[&std::ffi::OsStr]| {
        Command::new("unshare").args(namespaces).args(user).args(args).env(INSIDE, "1").output().expect("unshare runs")
    };
    let trial = unshare(&["ip".as_ref(), "link".as_ref(), "add".as_ref(), "type".as_ref(), "bridge".as_ref()]);
    if !trial.status.success() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI must not skip tests, and these need namespaces: {trial:?}"
        );
        eprintln!("skipped: network namespaces with a bridge are not allowed here");
        return false;
    }
    let this = std::env::current_exe().expect("a path");
    let output = unshare(&[this.as_os_str(), "--exact".as_ref(), test.as_ref(), "--nocapture".as_ref()]);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    eprint!("{err}");
    false
}

/// Whether this is a namespace of a user who is not root, in which there is root alone.
fn has_one_user() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("Linux has it");
    map.split_whitespace().nth(2) == Some("1")
}

/// One of the two places where an instance runs, `one` and `two`; each start there is another instance.
pub struct Place {
    pub name: &'static str,
    started: usize,
}

impl Place {
    pub fn new(name: &'static str) -> Place {
        Place { name, started: 0 }
    }

    /// Starts an instance with the configuration of `examples/scaling`. Its name, which it adds to each response, tells who
    /// has answered.
    pub fn start(&mut self) -> Instance {
        self.started += 1;
        let name = format!("{}-{}", self.name, self.started);
        let text = fs::read_to_string(example("mini-rproxy.yaml")).expect("an example");
        let yaml = format!("{text}response_headers: {{set: {{X-Instance: {name}}}}}\n");
        let launch = Launch::with(&yaml, |folder| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", self.name, program(), "-config"]).arg(folder.join("config.yaml"));
            command
        });
        let proxy = launch.start();
        Instance { name, proxy, yaml }
    }
}

pub struct Instance {
    pub name: String,
    pub proxy: Proxy,
    yaml: String,
}

impl Instance {
    /// Makes its health check fail while all else goes on.
    pub fn withdraw_health(&self) {
        let (healthy, withdrawn) = ("  configz: false", "  health: false\n  configz: false");
        assert_eq!(self.yaml.matches(healthy).count(), 1, "the example's key for the operator");
        let config = self.proxy.folder().join("config.yaml");
        fs::write(config, self.yaml.replace(healthy, withdrawn)).expect("our file");
        self.proxy.signal("HUP");
    }
}

/// HAProxy or nginx, as in `examples/scaling`, in a namespace of its own.
pub struct Balancer {
    child: Child,
    log: Lines,
}

impl Balancer {
    pub fn haproxy() -> Balancer {
        if !has_one_user() {
            return Balancer::start(&["haproxy", "-db", "-f"], &example("haproxy.cfg"));
        }
        // There is no other user whom it could become.
        let text = fs::read_to_string(example("haproxy.cfg")).expect("an example");
        let is_user = |line: &str| ["user ", "group "].iter().any(|word| line.trim_start().starts_with(word));
        let lines: String = text.split_inclusive('\n').filter(|line| !is_user(line)).collect();
        let config = Path::new("/run/haproxy.cfg");
        fs::write(config, lines).expect("/run is ours");
        Balancer::start(&["haproxy", "-db", "-f"], config)
    }

    pub fn nginx() -> Balancer {
        let words = ["nginx", "-g", "daemon off; master_process off;", "-e", "stderr", "-c"];
        Balancer::start(&words, &example("nginx.conf"))
    }

    fn start(words: &[&str], config: &Path) -> Balancer {
        let mut command = command("ip");
        command.args(["netns", "exec", "balancer"]).args(words).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ip runs");
        let log = Lines::default();
        log.collect(child.stdout.take().expect("stdout is piped"));
        log.collect(child.stderr.take().expect("stderr is piped"));
        let mut balancer = Balancer { child, log };
        wait_until("the balancer", || {
            let has_ended = balancer.child.try_wait().is_ok_and(|status| status.is_some());
            assert!(!has_ended, "the balancer does not start: {:?}", balancer.log.all());
            TcpStream::connect(site()).is_ok()
        });
        balancer
    }

    /// What HAProxy answers to a command on its socket.
    fn ask(&self, command: &str) -> String {
        let mut socket = UnixStream::connect("/run/haproxy.sock").expect("HAProxy's socket");
        socket.write_all(format!("{command}\n").as_bytes()).expect("it listens");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Has HAProxy use a server (`ready`), or send it nothing new (`drain`).
    pub fn set_state(&self, name: &str, state: &str) {
        let answer = self.ask(&format!("set server site/{name} state {state}"));
        assert_eq!(answer.trim(), "", "HAProxy, which says nothing when it obeys");
    }

    /// What HAProxy says of a server: whether it is asked, and how many sessions it had.
    pub fn server(&self, name: &str) -> Server {
        let table = self.ask("show stat -1 4 -1");
        let mut rows = table.lines().map(|line| line.trim_start_matches("# ").split(',').collect::<Vec<_>>());
        let names = rows.next().expect("the names of the columns");
        let row = rows.find(|row| row.get(1) == Some(&name)).unwrap_or_else(|| panic!("no server {name}: {table}"));
        let value = |column: &str| row[names.iter().position(|name| *name == column).expect("a column")];
        Server { status: value("status").to_owned(), total: value("stot").parse().expect("a number") }
    }
}

pub struct Server {
    pub status: String,
    pub total: u64,
}

impl Server {
    /// Whether it gets new connections: "UP 1/2" is one that fails and is still asked.
    pub fn is_up(&self) -> bool {
        self.status.starts_with("UP")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the balancer said: {:?}", self.log.all());
        }
    }
}
