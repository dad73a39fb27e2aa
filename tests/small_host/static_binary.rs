//! The static binary, alone: process 1 of an empty root folder, as a user without rights, with nothing but a loopback
//! device and a name server.
//!
//! The tests run themselves again inside of a network namespace of their own, where port 53 is free and nothing is
//! reachable but what they start.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use selftest::entry::entries;
use selftest::report::by_rule;
use selftest::runner::run_binary;

use crate::support::proxy::is_root;
use crate::support::{Launch, Origin, Proxy, is_missing, send_signal};

const MIB: u64 = 1024 * 1024;
/// Set inside of the namespace.
const INSIDE: &str = "MINI_RPROXY_TEST_INSIDE";

/// What `make static` made.
pub fn binaries() -> Vec<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let all = ["mini-rproxy", "mini-rproxy-tls"];
    all.map(|name| target.join("static").join(name)).into_iter().filter(|path| path.exists()).collect()
}

/// The most bytes that a static binary may have, and the most KiB that may be resident after the start.
///
/// What glibc brings into every static program that looks up names is 0.9 MiB, what musl brings is 0.1.
fn most(path: &Path) -> (u64, u64) {
    let bytes = fs::read(path).expect("a binary");
    // Each program with glibc knows the names of its settings.
    let is_glibc = bytes.windows(12).any(|word| word == b"glibc.malloc");
    match (is_glibc, path.ends_with("mini-rproxy-tls")) {
        (false, false) => (2 * MIB, 3 * 1024),
        (false, true) => (13 * MIB / 4, 3 * 1024),
        (true, false) => (14 * MIB / 5, 3 * 1024),
        // 2.9 MiB of it is the file, which the kernel maps in steps of 64 KiB around each page that is touched.
        (true, true) => (4 * MIB, 7 * 1024 / 2),
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether to do without a test for `reason`; CI must not.
fn skips(reason: &str) -> bool {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}, and CI must not skip this test");
    eprintln!("skipped: {reason}");
    true
}

fn no_binaries() -> bool {
    binaries().is_empty() && skips("there is no static binary; make static builds it")
}

#[test]
fn it_is_static_and_small() {
    if no_binaries() {
        return;
    }
    for path in binaries() {
        let bytes = fs::read(&path).expect("a binary");
        let (most, _) = most(&path);
        assert!(bytes.len() as u64 <= most, "{} has {} bytes, {most} are allowed", path.display(), bytes.len());
        assert!(!has_interpreter(&bytes), "{} asks for a dynamic loader", path.display());
        let output = Command::new(&path).arg("-version").env_clear().output().expect("it runs");
        assert!(output.status.success());
    }
}

/// Whether an ELF file has a program header of the type PT_INTERP.
fn has_interpreter(elf: &[u8]) -> bool {
    assert_eq!(&elf[..4], b"\x7fELF");
    let is_64 = elf[4] == 2;
    let number = |at: usize, len: usize| elf[at..at + len].iter().rev().fold(0, |sum, &b| sum << 8 | usize::from(b));
    let (offset, size, count) = if is_64 {
        (number(32, 8), number(54, 2), number(56, 2))
    } else {
        (number(28, 4), number(42, 2), number(44, 2))
    };
    (0..count).any(|header| number(offset + header * size, 4) == 3)
}

#[test]
fn it_does_not_tell_where_it_was_built() {
    if no_binaries() {
        return;
    }
    for path in binaries() {
        let bytes = fs::read(&path).expect("a binary");
        for folder in ["/registry/src/", env!("CARGO_MANIFEST_DIR")] {
            let is_named = bytes.windows(folder.len()).any(|word| word == folder.as_bytes());
            assert!(!is_named, "{} names {folder}", path.display());
        }
    }
}

#[test]
fn a_plugin_folder_is_refused_with_a_reason() {
    if no_binaries() {
        return;
    }
    for path in binaries() {
        let folder = tempfile::TempDir::new().expect("a folder");
        fs::write(folder.path().join("config.yaml"), "routes: [{prefix: /, upstream: \"http://127.0.0.1:9\"}]")
            .expect("a file");
        let command = ["-config", "config.yaml", "-plugindir", "."];
        let output = Command::new("timeout").arg("20").arg(&path).args(command).current_dir(folder.path()).output();
        let output = output.expect("it runs");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("static") && message.trim_end().lines().count() == 1, "{message}");
    }
}

/// Answers `origin.test` with 127.0.0.1, everything else with "no such name", and keeps what was asked.
struct NameServer(Arc<Mutex<Vec<String>>>);

impl NameServer {
    fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:53").expect("port 53 is free in a namespace of its own");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let server = NameServer(Arc::clone(&asked));
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                let (name, answer) = answer(&query[..len]);
                asked.lock().expect("one list").push(name);
                socket.send_to(&answer, from).expect("loopback");
            }
        });
        server
    }

    fn was_asked(&self, name: &str) -> bool {
        self.0.lock().expect("one list").iter().any(|asked| asked == name)
    }
}

/// One question, one answer (RFC 1035 section 4).
fn answer(query: &[u8]) -> (String, Vec<u8>) {
    let mut name = String::new();
    let mut at = 12;
    while query[at] != 0 {
        let label = &query[at + 1..at + 1 + usize::from(query[at])];
        name = format!("{name}{}.", String::from_utf8_lossy(label));
        at += 1 + label.len();
    }
    let question = &query[12..at + 5];
    let is_known = name == "origin.test.";
    let is_address = question.ends_with(&[0, 1, 0, 1]);
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(is_known && is_address), 0, 0, 0, 0]);
    answer.extend(question);
    if is_known && is_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    (name, answer)
}

/// Runs the test of that name (with its module) again in a network namespace of its own. Returns whether this is inside
/// of it already.
pub fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
        assert!(status.success(), "a namespace of one's own has a loopback device of one's own");
        return true;
    }
    if no_binaries() || is_missing("unshare") || is_missing("ip") || is_missing("chroot") {
        return false;
    }
    let rights = if is_root() { &["--net"][..] } else { &["--net", "--map-root-user"] };
    let may = Command::new("unshare").args(rights).arg("true").status().is_ok_and(|status| status.success());
    if !may && skips("namespaces are not permitted here") {
        return false;
    }
    let this = std::env::current_exe().expect("a path");
    let output = Command::new("unshare")
        .args(rights)
        .arg(this)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    eprint!("{err}");
    false
}

/// An empty root with the binary, the configuration and, if given, `resolv.conf`; nobody may write to it.
fn lay_out(folder: &Path, binary: &Path, resolv_conf: Option<&str>) -> PathBuf {
    let root = folder.join("root");
    fs::create_dir(&root).expect("a folder");
    fs::copy(binary, root.join("mini-rproxy")).expect("a copy");
    fs::copy(folder.join("config.yaml"), root.join("config.yaml")).expect("a copy");
    if let Some(text) = resolv_conf {
        fs::create_dir(root.join("etc")).expect("a folder");
        fs::write(root.join("etc/resolv.conf"), text).expect("a file");
        fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o555)).expect("our folder");
    }
    fs::set_permissions(root.join("config.yaml"), fs::Permissions::from_mode(0o444)).expect("our file");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("our folder");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).expect("our folder");
    root
}

#[test]
fn e7_the_catalogue_passes_without_disk_rights_and_system() {
    if !is_inside("static_binary::e7_the_catalogue_passes_without_disk_rights_and_system") {
        return;
    }
    for binary in binaries() {
        let folder = tempfile::TempDir::new().expect("a folder");
        fs::write(folder.path().join("config.yaml"), "").expect("a file");
        let root = lay_out(folder.path(), &binary, None);
        let mut command = Command::new("chroot");
        command.args(as_nobody()).arg(&root).arg("/mini-rproxy").env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let entries = entries().expect("a good catalogue");
        let report = by_rule(&entries, &run_binary(command, &entries).expect("chroot runs"));
        assert!(report.is_pass, "{}", report.text);
    }
}

/// Process 1 of that root. Where the test is root, as the user "nobody"; everyone else is without rights as they are.
fn process_1(root: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "chroot"]).args(as_nobody()).arg(root);
    command.args(["/mini-rproxy", "-config", "/config.yaml", "-verbose"]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// What makes `chroot` become nobody. In a user namespace of one's own there is nobody else to become.
pub fn as_nobody() -> Option<&'static str> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    (map.split_whitespace().nth(1) == Some("0")).then_some("--userspec=65534:65534")
}

/// Every file below with size and time of its last change.
fn inventory(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let metadata = entry.metadata().expect("a file");
        found.push(format!("{:?} {} {:?}", entry.path(), metadata.len(), metadata.modified().expect("a time")));
        if metadata.is_dir() {
            found.extend(inventory(&entry.path()));
        }
    }
    found.sort();
    found
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn e7_alone_in_an_empty_root_it_resolves_serves_stops_and_writes_nothing() {
    if !is_inside("static_binary::e7_alone_in_an_empty_root_it_resolves_serves_stops_and_writes_nothing") {
        return;
    }
    let names = NameServer::start();
    let origin = Origin::echo();
    let port = origin.address.port();
    let routes = format!(
        "routes:\n  - {{prefix: /nowhere, upstream: \"http://nowhere.test\"}}\n  - {{prefix: /, upstream: \"http://origin.test:{port}\"}}\n"
    );
    for binary in binaries() {
        // Without the file, 127.0.0.1 is asked.
        for resolv_conf in [None, Some("nameserver 127.0.0.1\n")] {
            let name = format!("{} with {resolv_conf:?}", binary.display());
            let mut root = PathBuf::new();
            let launch = Launch::with(&routes, |folder| {
                root = lay_out(folder, &binary, resolv_conf);
                process_1(&root)
            });
            let before = inventory(&root);
            let mut proxy: Proxy = launch.start();
            let pid = proxy.child_pid();
            let resident = resident_kib(pid);
            eprintln!("{name}: {resident} KiB resident at start");
            let (_, most) = most(&binary);
            assert!(resident <= most, "{name}: {resident} KiB resident at start");
            let owner = fs::metadata(format!("/proc/{pid}")).expect("it runs");
            assert!(!is_root_outside(&owner), "{name}: it runs as root");

            assert_eq!(proxy.connect().get("/").status(), 200, "{name}");
            assert_eq!(proxy.connect().get("/nowhere").status(), 502, "{name}");
            assert!(names.was_asked("origin.test.") && names.was_asked("nowhere.test."));

            // The kernel drops signals that process 1 has no handler for.
            send_signal(pid, "TERM");
            assert_eq!(proxy.wait().code(), Some(0), "{name}");
            assert_eq!(inventory(&root), before, "{name}: something was written");
        }
        names.0.lock().expect("one list").clear();
    }
}

/// Whether the owner is the real root, and not one that is root in its own namespace only.
fn is_root_outside(owner: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    owner.uid() == 0 && as_nobody().is_some()
}
