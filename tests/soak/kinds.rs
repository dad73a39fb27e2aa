//! The kinds of traffic. A round of each ends with everything verified, or says what was wrong.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tungstenite::Message;

use crate::certificates::Authority;
use crate::ends;
use crate::support::{Peer, Proxy, Stream, fingerprint};
use crate::upstreams::Restarted;

pub struct World<'a> {
    pub proxy: &'a Proxy,
    pub restarted: &'a Restarted,
    /// Who has signed the certificates of the proxy and of the origin that speaks TLS.
    pub authority: &'a Authority,
    /// The file of the plugin that runs on `/plugin`, where plugins were built.
    pub plugin: Option<PathBuf>,
}

pub struct Kind {
    pub name: &'static str,
    pub clients: usize,
    /// Between two rounds: the load is to be moderate.
    pub pause: Duration,
    pub round: fn(&World<'_>, u64) -> Result<(), String>,
}

const fn kind(
    name: &'static str,
    clients: usize,
    pause_ms: u64,
    round: fn(&World<'_>, u64) -> Result<(), String>,
) -> Kind {
    Kind { name, clients, pause: Duration::from_millis(pause_ms), round }
}

pub const KINDS: &[Kind] = &[
    kind("keep-alive: 50 requests", 4, 20, keep_alive),
    kind("a connection for one request", 2, 5, churn),
    kind("downloads of 4 MiB: length, chunked, close-delimited", 2, 100, download),
    kind("uploads of 1 MiB: length, chunked", 2, 100, upload),
    kind("clients that break off", 2, 20, abort),
    kind("WebSockets", 2, 50, websocket),
    kind("readers and writers that are slow", 4, 0, slow),
    kind("requests to an upstream that restarts", 3, 5, flaky),
    kind("restarts of that upstream", 1, 4_000, restart),
    kind("rubbish", 1, 50, rubbish),
    kind("TLS: 20 requests, to an origin with TLS", 3, 50, tls),
    kind("TLS: a handshake for one request", 2, 20, handshake),
    kind("requests through a plugin", 2, 20, plugin),
    kind("SIGHUP", 1, 3_000, reload),
];

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} and not {wanted:?}")) }
}

fn keep_alive(world: &World<'_>, round: u64) -> Result<(), String> {
    let mut client = world.proxy.connect();
    for number in 0..50 {
        let path = format!("/tell/{round}/{number}");
        let answer = client.get(&format!("/ok{path}"));
        expect("status", answer.status(), 200)?;
        expect("body", answer.text(), &path)?;
    }
    Ok(())
}

fn churn(world: &World<'_>, round: u64) -> Result<(), String> {
    let answer = world.proxy.connect().get(&format!("/ok/churn-{round}"));
    expect("status", answer.status(), 200)?;
    expect("body", answer.text(), &format!("/churn-{round}"))
}

fn download(world: &World<'_>, round: u64) -> Result<(), String> {
    let len = 4 * 1024 * 1024 + round % 1000;
    let way = ["length", "chunked", "close"][round as usize % 3];
    let mut client = world.proxy.connect();
    client.send(format!("GET /ok/{way}/{len} HTTP/1.1\r\nHost: test\r\n\r\n"));
    if way == "length" {
        let head = client.head().ok_or("no answer")?;
        expect("status", head.status(), 200)?;
        return Stream::new(len, len).compare(&mut client).map_err(|error| error.to_string());
    }
    let answer = client.response();
    expect("status", answer.status(), 200)?;
    Stream::new(len, len).compare(&answer.body[..]).map_err(|error| error.to_string())?;
    expect("length", answer.body.len() as u64, len)
}

fn upload(world: &World<'_>, round: u64) -> Result<(), String> {
    let len = 1024 * 1024 + round % 1000;
    let mut body = Vec::new();
    Stream::new(round, len).write_to(&mut body).map_err(|error| error.to_string())?;
    let mut client = world.proxy.connect();
    let head = "PUT /ok/hash HTTP/1.1\r\nHost: test\r\n";
    if round.is_multiple_of(2) {
        client.send(format!("{head}Content-Length: {len}\r\n\r\n"));
        client.send(&body);
    } else {
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        for chunk in body.chunks(10_000) {
            client.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
    }
    let answer = client.response();
    expect("status", answer.status(), 200)?;
    expect("hash", answer.text(), &fingerprint(&body))
}

fn abort(world: &World<'_>, round: u64) -> Result<(), String> {
    let mut client = world.proxy.connect();
    match round % 4 {
        0 => client.send("GET /ok/x HTTP/1.1\r\nHo"),
        1 => client.send("PUT /ok/hash HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nhalf"),
        2 => {
            client.send("GET /ok/length/1000000 HTTP/1.1\r\nHost: test\r\n\r\n");
            client.bytes(1000 + round as usize % 5000);
        }
        _ => {
            client.send("GET /ok/chunked/1000000 HTTP/1.1\r\nHost: test\r\n\r\nGET /ok/y HTTP/1.1\r\nHost: t");
            client.bytes(1000);
            client.shutdown();
        }
    }
    if round.is_multiple_of(3) {
        client.reset();
    }
    Ok(())
}

fn websocket(world: &World<'_>, round: u64) -> Result<(), String> {
    let (stream, _) = world.proxy.connect().into_parts();
    let url = format!("ws://{}/ws/{round}", world.proxy.address);
    let (mut socket, _) = tungstenite::client(url, stream).map_err(|error| error.to_string())?;
    for number in 0..10 {
        let message = Message::binary(vec![number as u8; 1 + 7_000 * number]);
        socket.send(message.clone()).map_err(|error| error.to_string())?;
        let echo = socket.read().map_err(|error| error.to_string())?;
        if echo != message {
            return Err(format!("message {number} came back changed"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    // Some say goodbye, some do not.
    if round.is_multiple_of(2) {
        socket.close(None).map_err(|error| error.to_string())?;
        while socket.read().is_ok() {}
    }
    Ok(())
}

fn slow(world: &World<'_>, round: u64) -> Result<(), String> {
    let mut client = world.proxy.connect();
    if round.is_multiple_of(2) {
        let len = 600_000;
        client.send(format!("GET /ok/length/{len} HTTP/1.1\r\nHost: test\r\n\r\n"));
        expect("status", client.head().ok_or("no answer")?.status(), 200)?;
        return Stream::new(len, len).compare(Slowly(&mut client)).map_err(|error| error.to_string());
    }
    let body = vec![b'z'; 150];
    client.send(format!("PUT /ok/hash HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    for byte in &body {
        client.send([*byte]);
        thread::sleep(Duration::from_millis(10));
    }
    expect("hash", client.response().text(), &fingerprint(&body))
}

/// Reads little at a time, and not often.
struct Slowly<'a>(&'a mut Peer);

impl std::io::Read for Slowly<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        thread::sleep(Duration::from_millis(5));
        let most = buf.len().min(4096);
        std::io::Read::read(self.0, &mut buf[..most])
    }
}

/// Whole and right, or an honest failure: 502, 504, or less than was announced and the end.
fn flaky(world: &World<'_>, round: u64) -> Result<(), String> {
    let len = [10, 3_000, 300_000][round as usize % 3];
    let mut client = world.proxy.connect();
    client.send(format!("GET /flaky/length/{len} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
    let Some(head) = client.head() else { return Err("no answer at all".to_owned()) };
    match head.status() {
        200 => match Stream::new(len, len).compare(&mut client) {
            Ok(()) => Ok(()),
            // Cut, and it can be seen.
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        },
        502 | 504 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

fn restart(world: &World<'_>, _: u64) -> Result<(), String> {
    world.restarted.restart();
    Ok(())
}

fn rubbish(world: &World<'_>, round: u64) -> Result<(), String> {
    let mut client = world.proxy.connect();
    client.send(
        ["\0\r\n\r\n", "GET / HTTP/9\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"][round as usize % 3],
    );
    let status = client.response().status();
    if matches!(status, 400 | 505) { Ok(()) } else { Err(format!("status {status}")) }
}

fn tls(world: &World<'_>, round: u64) -> Result<(), String> {
    let mut client = ends::connect(world.proxy.address_of("https"), world.authority, "localhost");
    for number in 0..20 {
        let path = format!("/tell/{round}/{number}");
        let answer = client.get(&format!("/tls{path}"));
        expect("status", answer.status(), 200)?;
        expect("line", answer.text().lines().next(), Some(format!("GET {path} HTTP/1.1").as_str()))?;
    }
    // Some say goodbye, some do not.
    if round.is_multiple_of(2) {
        ends::end(client.inner());
    }
    Ok(())
}

fn handshake(world: &World<'_>, round: u64) -> Result<(), String> {
    let len = 1 + round % 100_000;
    let mut client = ends::connect(world.proxy.address_of("https"), world.authority, "localhost");
    let answer = client.get(&format!("/ok/length/{len}"));
    expect("status", answer.status(), 200)?;
    Stream::new(len, len).compare(&answer.body[..]).map_err(|error| error.to_string())
}

/// The field is on each response, whichever instance of the plugin has set it.
fn plugin(world: &World<'_>, round: u64) -> Result<(), String> {
    let mut client = world.proxy.connect();
    for number in 0..10 {
        let answer = client.get(&format!("/plugin/{round}/{number}"));
        expect("status", answer.status(), 200)?;
        if world.plugin.is_some() {
            expect("X-Demo-Response", answer.field("X-Demo-Response"), Some("soak"))?;
        }
    }
    Ok(())
}

/// Every twentieth reload finds another file of the same plugin. Only this sends the signal, so that one more line tells
/// that it was carried out.
fn reload(world: &World<'_>, round: u64) -> Result<(), String> {
    if let Some(plugin) = world.plugin.as_ref().filter(|_| round.is_multiple_of(20)) {
        let new = plugin.with_extension("new");
        std::fs::copy(plugin, &new).and_then(|_| std::fs::rename(&new, plugin)).map_err(|error| error.to_string())?;
    }
    let is_told = |line: &str| line.contains("configuration reloaded");
    let log = &world.proxy.log;
    let before = log.all().iter().filter(|line| is_told(line)).count();
    world.proxy.signal("HUP");
    log.wait_for_many("reloads", before + 1, is_told);
    Ok(())
}
