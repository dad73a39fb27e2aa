//! Socket activation and readiness notification, with a service manager of a few lines and with systemd's own.

use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::proxy::BINARY;
use crate::support::{Launch, Origin, PATIENCE, curl, free_address, is_missing};

/// Opens listening sockets as descriptors from 3 on, sets the variables and becomes the proxy, as a manager does.
/// Arguments: the names or `-`, the sockets (`PORT` or a path, both after `dgram:` for a wrong kind), `--`, the program.
const MANAGER: &str = r#"
import os, socket, sys
names, rest = sys.argv[1], sys.argv[2:]
sockets, program = rest[:rest.index("--")], rest[rest.index("--") + 1:]
opened = []
for spec in sockets:
    kind = socket.SOCK_DGRAM if spec.startswith("dgram:") else socket.SOCK_STREAM
    spec = spec.removeprefix("dgram:")
    if spec.isdigit():
        s = socket.socket(socket.AF_INET, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", int(spec)))
    else:
        s = socket.socket(socket.AF_UNIX, kind)
        s.bind(spec)
    if kind == socket.SOCK_STREAM:
        s.listen(16)
    opened.append(s)
# First out of the way, then to where they belong.
high = [os.dup2(s.fileno(), 100 + number) for number, s in enumerate(opened)]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(sockets))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(program[0], program)
"#;

/// The configured address is in use, so that a proxy which tries it does not start.
fn config(origin: &Origin, taken: &TcpListener) -> String {
    origin.config(&format!("workers: 2\nlisten_addr: {}", taken.local_addr().expect("bound")))
}

fn taken() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

#[test]
fn sockets_that_are_handed_over_are_used_instead_of_the_configured_addresses() {
    if is_missing("python3") {
        return;
    }
    let (origin, taken, folder) = (Origin::echo(), taken(), TempDir::new().expect("a folder"));
    let path = folder.path().join("handed-over.sock");
    let [one, two] = [free_address(), free_address()];
    let ports = [one.port().to_string(), two.port().to_string(), path.display().to_string()];
    let manager = ["python3", "-c", MANAGER, "web:spare:local", &ports[0], &ports[1], &ports[2], "--"];
    let mut proxy = Launch::under(&manager, BINARY, &config(&origin, &taken)).start();
    for address in [one, two] {
        proxy.log.wait_for("the address", |line| line.contains("listening") && line.contains(&address.to_string()));
        proxy.address = address;
        for _ in 0..8 {
            assert_eq!(proxy.connect().get("/").status(), 200);
        }
    }
    for name in ["name=web", "name=spare", "name=local"] {
        proxy.log.wait_for(name, |line| line.contains("handed over") && line.ends_with(name));
    }
    proxy.log.wait_for("the path", |line| line.contains("listening") && line.contains("handed-over.sock"));
    std::os::unix::net::UnixStream::connect(&path).expect("it listens there");
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(path.exists(), "the manager's file is not the proxy's to remove");
}

#[test]
fn systemds_own_activation_works() {
    // Not asked of CI: the manager above does the same, and not every system has this one.
    if !std::path::Path::new("/usr/bin/systemd-socket-activate").exists() {
        eprintln!("skipped: systemd-socket-activate is not installed");
        return;
    }
    let (origin, taken, address) = (Origin::echo(), taken(), free_address());
    let listen = address.to_string();
    let manager = ["systemd-socket-activate", "-l", &listen, "--fdname=web"];
    // It starts the proxy when somebody connects; that connection is not lost.
    let mut proxy = Launch::under(&manager, BINARY, &config(&origin, &taken)).spawn();
    proxy.address = address;
    let deadline = std::time::Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(std::time::Instant::now() < deadline, "nobody listens: {:?}", proxy.log.all());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.log.wait_for("the name", |line| line.contains("handed over") && line.ends_with("name=web"));
}

#[cfg(feature = "tls")]
#[test]
fn a_socket_named_https_speaks_tls_and_the_others_do_not() {
    if is_missing("python3") || is_missing("curl") {
        return;
    }
    let (origin, folder) = (Origin::echo(), TempDir::new().expect("a folder"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&certificate, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let [plain, secure] = [free_address(), free_address()];
    let [plain_port, secure_port] = [plain, secure].map(|address| address.port().to_string());
    let manager = ["python3", "-c", MANAGER, "http:https", &plain_port, &secure_port, "--"];
    let tls = format!("certificate: {}, key: {}", certificate.display(), key.display());
    let both = format!("listen_addr: 127.0.0.1:0\ntls: {{listen_addr: \"127.0.0.1:0\", {tls}}}");
    let proxy = Launch::under(&manager, BINARY, &origin.config(&both)).start();
    proxy.log.wait_for("https", |line| line.contains(&secure.to_string()) && line.contains("protocol=https"));
    for url in [format!("http://{plain}/"), format!("https://{secure}/")] {
        let output = curl(&["-k", "-w", "%{http_code}", "-o", "/dev/null", &url]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{url}");
    }
    assert!(!proxy.log.all().iter().any(|line| line.contains("is not opened")));
    drop(proxy);

    // The socket unit for port 443 was forgotten.
    let alone = ["python3", "-c", MANAGER, "http", &plain_port, "--"];
    let proxy = Launch::under(&alone, BINARY, &origin.config(&both)).start();
    proxy.log.wait_for("the warning", |line| {
        line.contains("level=warn") && line.contains("tls.listen_addr is not opened: no socket named https")
    });
    drop(proxy);

    let mut proxy = Launch::under(&manager, BINARY, &origin.config("listen_addr: 127.0.0.1:0")).spawn();
    proxy.log.wait_for("the reason", |line| line.contains("a socket is named https, but there is no certificate"));
    assert_eq!(proxy.wait().code(), Some(1));
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let origin = Origin::echo();
    for (pid, fds) in [("1", "1"), ("", "7"), ("nonsense", "1")] {
        let proxy = Launch::new(&origin.config("")).env("LISTEN_PID", pid).env("LISTEN_FDS", fds).start();
        assert_eq!(proxy.connect().get("/").status(), 200, "LISTEN_PID={pid:?}");
    }
}

/// What the proxy says when the sockets are not as promised; `script` is run by the shell that becomes the proxy.
fn refused(script: &str) -> Output {
    let folder = TempDir::new().expect("a folder");
    let yaml = "listen_addr: 127.0.0.1:0\nroutes: [{prefix: /, upstream: \"http://127.0.0.1:9\"}]\n";
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, yaml).expect("a file");
    let script = format!("export LISTEN_PID=$$; {script}; exec \"$0\" -config \"$1\"");
    Command::new("timeout").args(["20", "sh", "-c", &script, BINARY]).arg(path).output().expect("sh runs")
}

#[test]
fn a_broken_promise_is_one_line_with_a_remedy() {
    for (name, script, expected) in [
        ("closed", "export LISTEN_FDS=1; exec 3>&-", "promises a socket at descriptor 3, which is not open"),
        ("a file", "export LISTEN_FDS=1; exec 3</dev/null", "descriptor 3 is no stream socket that listens"),
        ("no number", "export LISTEN_FDS=x", "LISTEN_FDS=x is not a number"),
        ("negative", "export LISTEN_FDS=-1", "LISTEN_FDS=-1 is not a number"),
        ("absurd", "export LISTEN_FDS=4000000000", "is not a number of sockets"),
    ] {
        let output = refused(script);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{name}: {message}");
        assert!(message.contains(expected) && message.trim_end().lines().count() == 1, "{name}: {message}");
    }
}

#[test]
fn a_datagram_socket_is_refused() {
    if is_missing("python3") {
        return;
    }
    let (origin, taken) = (Origin::echo(), taken());
    let socket = format!("dgram:{}", free_address().port());
    let mut proxy =
        Launch::under(&["python3", "-c", MANAGER, "-", &socket, "--"], BINARY, &config(&origin, &taken)).spawn();
    proxy.log.wait_for("the reason", |line| line.contains("no stream socket that listens"));
    assert_eq!(proxy.wait().code(), Some(1));
}

/// The next message.
fn hear(socket: &UnixDatagram) -> String {
    let mut buf = [0; 256];
    let len = socket.recv(&mut buf).expect("a message in time");
    String::from_utf8_lossy(&buf[..len]).into_owned()
}

fn is_told_of_start_and_end(manager: &UnixDatagram, name: &str) {
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let origin = Origin::echo();
    let mut proxy = Launch::new(&origin.config("")).env("NOTIFY_SOCKET", name).start();
    assert_eq!(hear(manager), "READY=1");
    // Said only when it is true.
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.signal("TERM");
    assert_eq!(hear(manager), "STOPPING=1");
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn the_manager_is_told_of_start_and_end_by_path_and_by_abstract_name() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("notify");
    is_told_of_start_and_end(&UnixDatagram::bind(&path).expect("a socket"), &path.display().to_string());

    let name = format!("mini-rproxy-test-{}", std::process::id());
    let address = UnixAddress::from_abstract_name(&name).expect("a short name");
    is_told_of_start_and_end(&UnixDatagram::bind_addr(&address).expect("a socket"), &format!("@{name}"));
}

#[test]
fn a_manager_that_does_not_listen_is_no_reason_to_fail() {
    let origin = Origin::echo();
    for name in ["/nowhere/notify", "@nobody-listens-here", "relative", "", "vsock:2:1"] {
        let proxy = Launch::new(&origin.config("")).env("NOTIFY_SOCKET", name).start();
        assert_eq!(proxy.connect().get("/").status(), 200, "{name:?}");
    }
}

#[test]
fn a_socket_with_the_name_admin_serves_the_operator() {
    if is_missing("python3") {
        return;
    }
    let (origin, taken, taken_too) = (Origin::echo(), taken(), taken());
    let [one, two] = [free_address(), free_address()];
    let ports = [one.port().to_string(), two.port().to_string()];
    let manager = ["python3", "-c", MANAGER, "web:admin", &ports[0], &ports[1], "--"];
    // Its address is in use too: the socket is used instead.
    let admin = taken_too.local_addr().expect("bound");
    let admin = format!("{}admin: {{listen_addr: {admin}}}\n", config(&origin, &taken));
    let mut proxy = Launch::under(&manager, BINARY, &admin).start();
    proxy.log.wait_for("the second address", |line| line.contains("protocol=admin") && line.contains(&two.to_string()));
    proxy.address = one;
    assert!(proxy.connect().get("/metrics").text().starts_with("GET /metrics "), "the upstream's own");
    proxy.address = two;
    assert!(proxy.connect().get("/metrics").text().starts_with("# HELP "));
    assert_eq!(proxy.connect().get("/").status(), 404);
}

#[test]
fn an_admin_address_of_the_configuration_is_opened_beside_sockets_that_are_handed_over() {
    if is_missing("python3") {
        return;
    }
    let (origin, taken, one) = (Origin::echo(), taken(), free_address());
    let manager = ["python3", "-c", MANAGER, "web", &one.port().to_string(), "--"];
    let admin = format!("{}admin: {{listen_addr: 127.0.0.1:0}}\n", config(&origin, &taken));
    let mut proxy = Launch::under(&manager, BINARY, &admin).start();
    let line = proxy.log.wait_for("the entrance", |line| line.contains("protocol=admin"));
    let address = line.split([' ', '=']).find_map(|word| word.parse().ok()).expect("an address");
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.address = address;
    assert!(proxy.connect().get("/metrics").text().starts_with("# HELP "));
}
