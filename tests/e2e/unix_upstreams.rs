//! Upstreams on unix sockets: everything as with TCP, and what is said where the socket is not as it should be.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::support::{Launch, Origin, PATIENCE, Peer, Proxy, fingerprint, value};

type UnixPeer = Peer<UnixStream>;

/// Serves each connection to a socket at `path` with `serve`, in a thread of its own.
fn serve(path: &Path, serve: impl Fn(UnixPeer) + Send + Sync + 'static) {
    let listener = UnixListener::bind(path).expect("a free path");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.expect("accepts"), Arc::clone(&serve));
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
            thread::spawn(move || serve(Peer::over(stream)));
        }
    });
}

/// Tells start line, Host and body of each request back, with a Location of its own.
fn echo(mut peer: UnixPeer) {
    while let Some(request) = peer.request() {
        let host = request.field("Host").unwrap_or_default().to_owned();
        let body = format!("{} host={host} {}", request.start, fingerprint(&request.body));
        let location = "Location: http://localhost/base/next\r\n";
        if peer.try_send(format!("HTTP/1.1 200 OK\r\n{location}Content-Length: {}\r\n\r\n{body}", body.len())).is_err()
        {
            return;
        }
    }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("app.sock");
    (folder, path)
}

fn config(path: &Path, more: &str) -> String {
    format!("workers: 1\nroutes: [{{prefix: /a, upstream: 'http://unix:{}{more}'}}]\n", path.display())
}

#[test]
fn a_request_goes_to_a_unix_socket_and_its_connection_is_kept() {
    let (_folder, path) = folder();
    serve(&path, echo);
    let proxy = Proxy::start(&config(&path, ":/base"));
    let mut client = proxy.connect();
    let first = client.get("/a/one?q=1");
    assert_eq!(first.text(), format!("GET /base/one?q=1 HTTP/1.1 host=localhost {}", fingerprint(b"")));
    assert_eq!(first.field("Location"), Some("/a/next"), "the place that clients see");
    client.get("/a/two");
    let line = proxy.access("/a/two");
    let called = format!("unix:{}", path.display());
    assert_eq!((value(&line, "upstream"), value(&line, "reused")), (Some(called.as_str()), Some("true")), "{line}");
    let configz = proxy.connect().get("/configz");
    assert!(configz.text().contains(&format!("http://{called}:/base")), "{}", configz.text());
}

#[test]
fn large_bodies_pass_whole_in_both_directions() {
    let (_folder, path) = folder();
    let body: Vec<u8> = (0..24_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = body.clone();
    serve(&path, move |mut peer| {
        while let Some(request) = peer.request() {
            if request.method() == "GET" {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len()));
                peer.send(&sent);
            } else {
                let text = fingerprint(&request.body);
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
            }
        }
    });
    let proxy = Proxy::start(&config(&path, ""));
    let mut client = proxy.connect();
    assert_eq!(fingerprint(&client.get("/a/down").body), fingerprint(&body));
    client.send(format!("POST /a/up HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.response().text(), fingerprint(&body));
}

#[test]
fn g15_a_tunnel_ends_one_side_at_a_time() {
    let (_folder, path) = folder();
    serve(&path, |mut peer| {
        peer.request();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let all = peer.rest();
        peer.send([b"all of ", &all[..]].concat());
    });
    let proxy = Proxy::start(&config(&path, ""));
    let mut client = proxy.connect();
    client.send("GET /a HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.head().map(|head| head.status()), Some(101));
    client.send("it");
    client.shutdown();
    assert_eq!(client.rest(), b"all of it");
}

#[test]
fn a_socket_that_is_missing_or_that_nobody_listens_on_is_told_with_its_path_and_an_application_may_come_back() {
    let (_folder, path) = folder();
    let proxy = Proxy::start(&config(&path, ""));
    let mut client = proxy.connect();
    assert_eq!(client.get("/a/missing").status(), 502);
    let line = proxy.access("/a/missing");
    assert_eq!(value(&line, "why"), Some("connect_refused"), "{line}");
    let warning = proxy.log.wait_for("a warning", |line| line.contains("cannot connect to upstream"));
    for part in [&*path.display().to_string(), "No such file", "may this user write to its socket"] {
        assert!(warning.contains(part), "{warning}");
    }
    // A file that an application left behind when it ended.
    drop(UnixListener::bind(&path).expect("a free path"));
    assert_eq!(client.get("/a/refused").status(), 502);
    let line = proxy.access("/a/refused");
    assert_eq!(value(&line, "why"), Some("connect_refused"), "{line}");
    for _ in 0..2 {
        fs::remove_file(&path).expect("it is there");
        let listener = UnixListener::bind(&path).expect("a free path");
        let application = thread::spawn(move || {
            let mut peer = Peer::over(listener.accept().expect("the proxy comes").0);
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup");
            // The connection, which is in the pool then, ends with it.
        });
        assert_eq!(client.get("/a/up").text(), "up");
        application.join().expect("it answers");
    }
}

#[test]
fn a_socket_without_the_right_to_write_is_told() {
    let (folder, path) = folder();
    serve(&path, echo);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("ours");
    let proxy = Launch::unprivileged(&config(&path, "")).start();
    assert_eq!(proxy.connect().get("/a/x").status(), 502);
    let warning = proxy.log.wait_for("a warning", |line| line.contains("cannot connect to upstream"));
    assert!(warning.contains("Permission denied") && warning.contains(&*path.display().to_string()), "{warning}");
}

#[test]
fn one_upstream_on_a_socket_and_one_on_tcp_stand_for_each_other() {
    let (_folder, path) = folder();
    let tcp = Origin::echo();
    let urls = format!("upstreams: ['http://unix:{}', '{}']", path.display(), tcp.url());
    let proxy = Proxy::start(&format!(
        "workers: 1\nroutes: [{{prefix: /a, {urls}}}]\nhealth: {{failures: 1, eject: 100ms, max_eject: 100ms}}\n"
    ));
    let mut client = proxy.connect();
    for _ in 0..4 {
        let response = client.get("/a/one");
        assert!(response.text().contains(&format!("Host: {}\n", tcp.address)), "{}", response.text());
    }
    let called = format!("unix:{}", path.display());
    proxy.log.wait_for("the ejection", |line| line.contains(&called) && line.contains("leaves it alone"));
    serve(&path, echo);
    while !client.get("/a/two").text().contains("host=localhost") {}
    proxy.log.wait_for("its return", |line| line.contains(&format!("upstream {called} answers again")));
    let metrics = proxy.connect().get("/metrics");
    let counted = format!("mini_rproxy_upstream_ejections_total{{upstream=\"http://{called}\"}} ");
    assert!(metrics.text().contains(&counted), "{}", metrics.text());
}

#[test]
fn a_socket_whose_queue_is_full_is_waited_for() {
    let (_folder, path) = folder();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::unix(&path).expect("a path")).expect("a free path");
    socket.listen(0).expect("a bound socket listens");
    let first = UnixStream::connect(&path).expect("there is room for one");
    let more = ", timeouts: {connect: 300ms}}]\n";
    let proxy = Proxy::start(&config(&path, "").replace("}]\n", more));
    let mut client = proxy.connect();
    assert_eq!(client.get("/a/full").status(), 504, "not at once an error");
    let line = proxy.access("/a/full");
    assert_eq!(value(&line, "why"), Some("connect_timeout"), "{line}");
    let listener: UnixListener = socket.into();
    listener.accept().expect("the first one");
    drop(first);
    let application = thread::spawn(move || {
        let mut peer = Peer::over(listener.accept().expect("the proxy comes").0);
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nin");
        let _ = peer.read(&mut [0]);
    });
    assert_eq!(client.get("/a/room").text(), "in");
    drop(client);
    drop(proxy);
    application.join().expect("it answers");
}
