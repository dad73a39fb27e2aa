//! The bundled upstream and the example configuration, as `make run` puts them together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Proxy, lines::Lines, proxy::BINARY};

/// The example's binary stands beside that of the proxy.
fn binary() -> PathBuf {
    Path::new(BINARY).with_file_name("examples").join("upstream")
}

struct Upstream {
    address: SocketAddr,
    child: Child,
}

impl Upstream {
    fn start() -> Option<Upstream> {
        if !binary().is_file() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "examples/upstream is not built");
            eprintln!("skipped: examples/upstream is not built (cargo build --example upstream)");
            return None;
        }
        let mut child =
            Command::new(binary()).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().expect("the upstream starts");
        let lines = Lines::default();
        lines.collect(child.stdout.take().expect("stdout is piped"));
        let line = lines.wait_for("the address", |line| line.contains("listening"));
        let address = line.split(' ').find_map(|word| word.parse().ok()).expect("an address");
        Some(Upstream { address, child })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_tells_what_it_saw_behind_every_route() {
    let Some(upstream) = Upstream::start() else { return };
    let url = format!("http://{}", upstream.address);
    let proxy = Proxy::start(&format!(
        "routes:\n  - prefix: /fitness\n    upstream: {url}\n  - prefix: /engine\n    upstream: {url}/base\n"
    ));
    let mut client = proxy.connect();
    let seen: Value = serde_json::from_slice(&client.get("/fitness/users/123?q=a%20b&q=").body).expect("JSON");
    assert_eq!(seen["target"], "/users/123?q=a%20b&q=");
    assert_eq!(seen["method"], "GET");
    assert!(
        seen["fields"].as_array().expect("a list").contains(&serde_json::json!(["X-Forwarded-Prefix", "/fitness"]))
    );

    client.send("POST /engine/x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let seen: Value = serde_json::from_slice(&client.response().body).expect("JSON");
    assert_eq!((&seen["target"], &seen["body"]), (&"/base/x".into(), &"hello".into()));

    assert_eq!(client.get("/engine/bytes/100000").body.len(), 100_000);
    assert_eq!(client.get("/engine/chunked/100000").body.len(), 100_000);
    assert_eq!(client.get("/engine/status/404").status(), 404);
    assert_eq!(client.get("/engine/status/204").status(), 204);
    assert_eq!(proxy.connect().get("/fitness/close").body.len(), 1024);
    let mut client = proxy.connect();
    client.send("PUT /fitness/early HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
    assert_eq!(client.response().status(), 413);
}

#[test]
fn its_websocket_sends_messages_back() {
    let Some(upstream) = Upstream::start() else { return };
    let proxy =
        Proxy::start(&format!("routes:\n  - prefix: /engine\n    upstream: http://{}/base\n", upstream.address));
    let (stream, _) = proxy.connect().into_parts();
    let (mut socket, _) =
        tungstenite::client(format!("ws://{}/engine/ws", proxy.address), stream).expect("a handshake");
    socket.send("hello".into()).expect("is taken");
    assert_eq!(socket.read().expect("comes back"), "hello".into());
}

#[test]
fn the_example_configuration_is_valid() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.yml");
    let output = Command::new(BINARY).args(["-check", "-config", config]).output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
