//! A new binary takes over: no connection is refused or reset, no request is lost.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::support::proxy::BINARY;
use crate::support::{
    Launch, Origin, PATIENCE, Peer, Proxy, SetOnDrop, free_address, is_missing, send_signal, wait_until,
};

/// Clients that ask all the time, while `work` is done: half of them on connections that they keep for as long as they are
/// told they may, half on one for each request. Whatever goes wrong for any of them fails the test.
fn under_load(address: SocketAddr, work: impl FnOnce(&dyn Fn())) {
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..8 {
            let (is_over, answered) = (&is_over, &answered);
            scope.spawn(move || {
                let mut kept = None;
                let mut count = number;
                while !is_over.load(Ordering::Relaxed) {
                    count += 8;
                    let mut client = kept.take().unwrap_or_else(|| Peer::connect(address));
                    let close = if number % 2 == 0 { "Connection: close\r\n" } else { "" };
                    client.send(format!("GET /x{count} HTTP/1.1\r\nHost: test\r\n{close}\r\n"));
                    let response = client.response();
                    assert_eq!(response.status(), 200);
                    assert!(response.text().starts_with(&format!("GET /x{count} ")), "{}", response.text());
                    let may_stay =
                        !response.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                    kept = may_stay.then_some(client);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let go_on = || {
            let (before, deadline) = (answered.load(Ordering::Relaxed), Instant::now() + PATIENCE);
            while answered.load(Ordering::Relaxed) < before + 50 {
                assert!(Instant::now() < deadline, "nothing is answered any more");
                thread::sleep(Duration::from_millis(1));
            }
        };
        let _guard = SetOnDrop(&is_over);
        go_on();
        work(&go_on);
    });
}

#[test]
fn takeovers_under_load_lose_nothing() {
    let origin = Origin::echo();
    let address = free_address();
    let yaml = |workers: usize| {
        origin
            .config(&format!("listen_addr: {address}\nworkers: {workers}\nlimits: {{max_requests_per_connection: 0}}"))
    };
    let mut old = Launch::quiet(&yaml(2)).start();
    under_load(address, |go_on| {
        for workers in [1, 2, 3, 2, 1] {
            let new = Launch::quiet(&yaml(workers)).arg("-takeover").start();
            go_on();
            old.signal("TERM");
            go_on();
            assert_eq!(old.wait().code(), Some(0));
            old = new;
            go_on();
        }
    });
}

#[test]
fn what_is_in_flight_in_the_old_one_is_finished_there() {
    let origin = Origin::start(|mut peer, _| {
        peer.head().expect("a request");
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        while let Ok(bytes) = peer.some_bytes()
            && !bytes.is_empty()
        {
            peer.send(bytes);
        }
    });
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let (address, socket) = (free_address(), folder.path().join("proxy.sock"));
    let yaml = origin.config(&format!(
        "workers: 1\nlisten_addr: ['{address}', 'unix:{}']\ntimeouts: {{drain: 1h}}",
        socket.display()
    ));
    let mut old = Proxy::start(&yaml);
    let mut tunnel = old.connect();
    tunnel.send("GET /t HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().expect("a response").status(), 101);
    let new = Launch::new(&yaml).arg("-takeover").start();
    let descriptors = old.descriptors();
    old.signal("TERM");
    // Before it has closed both sockets somebody may still come to it, and is told that it is not in health.
    wait_until("its farewell", || old.descriptors() + 2 <= descriptors);
    // Everybody who comes now comes to the new one; those whom the old one might have had would not be answered.
    let count = 20;
    let clients: Vec<_> =
        (0..count).map(|_| thread::spawn(move || Peer::connect(address).get("/health").status())).collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), 200);
    }
    tunnel.send("still there?");
    assert_eq!(tunnel.bytes(12), b"still there?");
    drop(tunnel);
    assert_eq!(old.wait().code(), Some(0));
    assert!(socket.exists(), "the new one has a file of that name");
    std::os::unix::net::UnixStream::connect(&socket).expect("and listens there");
    assert_eq!(new.connect().get("/health").status(), 200);
}

#[test]
fn a_second_instance_by_accident_does_not_start() {
    let origin = Origin::echo();
    let address = free_address();
    let yaml = origin.config(&format!("listen_addr: {address}"));
    let first = Proxy::start(&yaml);
    let mut second = Launch::new(&yaml).spawn();
    assert_eq!(second.wait().code(), Some(1));
    second.log.wait_for("the reason", |line| line.contains("address in use") && line.contains("-takeover"));
    assert_eq!(first.connect().get("/").status(), 200);
}

#[test]
fn with_a_socket_that_is_handed_over_restarts_under_load_lose_nothing() {
    if is_missing("python3") {
        return;
    }
    let origin = Origin::echo();
    // What a service manager does: it has the socket, and each process that it starts gets it as descriptor 3.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    fcntl_setfd(&listener, FdFlags::empty()).expect("a descriptor of ours");
    let address = listener.local_addr().expect("bound");
    let start = || {
        let fd = listener.as_raw_fd();
        let script = format!(
            "import os, sys; os.dup2({fd}, 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); \
             os.execv(sys.argv[1], [sys.argv[1], '-config', sys.argv[2] + '/config.yaml'])"
        );
        Launch::with(&origin.config("workers: 2\nlimits: {max_requests_per_connection: 0}"), |folder| {
            let mut command = Command::new("python3");
            command.args(["-c", &script, BINARY]).arg(folder);
            command
        })
        .start()
    };
    let mut old = start();
    under_load(address, |go_on| {
        for round in 0..4 {
            // Beside each other, and one after the other: then nobody listens for a while, and clients wait.
            if round % 2 == 0 {
                let new = start();
                send_signal(old.pid(), "TERM");
                assert_eq!(old.wait().code(), Some(0));
                old = new;
            } else {
                send_signal(old.pid(), "TERM");
                assert_eq!(old.wait().code(), Some(0));
                old = start();
            }
            go_on();
        }
    });
}

#[test]
fn a_takeover_that_fails_leaves_the_running_one_where_it_was() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("proxy.sock");
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = stranger.local_addr().expect("bound");
    let origin = Origin::echo();
    let yaml = |more: &str| origin.config(&format!("listen_addr: ['127.0.0.1:0', 'unix:{}'{more}]", socket.display()));
    let proxy = Proxy::start(&yaml(""));
    let mut failed = Launch::new(&yaml(&format!(", '{taken}'"))).arg("-takeover").spawn();
    assert_eq!(failed.wait().code(), Some(1), "{:?}", failed.log.all());
    std::os::unix::net::UnixStream::connect(&socket).expect("the running one is reached as before");
    assert_eq!(fs_names(folder.path()), ["proxy.sock"], "nothing is left beside it");
    drop(proxy);
}

fn fs_names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
