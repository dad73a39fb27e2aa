//! A small upstream to try the proxy with: it answers with JSON that tells what it saw.
//!
//! ```text
//! cargo run --example upstream                         # listens on 127.0.0.1:9001, :9002 and :9003
//! cargo run --example upstream 127.0.0.1:7000 ...      # or on these addresses
//! ```
//!
//! | path | answer |
//! |---|---|
//! | `/sse` | five server-sent events, 200 ms apart |
//! | `/bytes/N` | N bytes with Content-Length |
//! | `/chunked/N` | N bytes in chunks |
//! | `/close` | a body that ends where the connection ends |
//! | `/status/NNN` | that status |
//! | `/slow`, `/slow/MS` | the usual answer, 2 s (or so many ms) late |
//! | `/early` | 413 before the body was read |
//! | `/die` | half of a body, then a reset |
//! | `/hang` | nothing, ever |
//! | `/ws` | a WebSocket that sends back what it gets |
//! | any other | the request as JSON |
//!
//! `/base` may stand in front of each, so that routes with a base path can be tried. One thread for each connection, at
//! most [`MAX_CONNECTIONS`] at a time: this is a toy to look at a proxy with, not a server to copy.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket};

const DEFAULT_ADDRESSES: [&str; 3] = ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"];

/// Threads, and with them memory, are bounded; a connection above it waits in the backlog of the listener.
const MAX_CONNECTIONS: usize = 256;

/// The most bytes of a head; a longer one ends the connection.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most field lines of a head.
const MAX_FIELD_LINES: usize = 256;

/// Longer bodies are counted but not shown.
const MAX_SHOWN_BODY_BYTES: usize = 4096;

/// What `/bytes`, `/chunked` and `/close` send again and again.
const FILLER: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";

fn main() {
    let mut addresses: Vec<String> = std::env::args().skip(1).collect();
    if addresses.is_empty() {
        addresses = DEFAULT_ADDRESSES.map(String::from).to_vec();
    }
    // All are bound before the first is served: either the whole upstream runs or nothing of it.
    let mut listeners = Vec::new();
    for address in &addresses {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                eprintln!("upstream: cannot listen on {address}: {error}");
                std::process::exit(1);
            }
        }
    }
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| accept(listener));
        }
    });
}

/// Connections that are being served, over all listeners.
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

fn accept(listener: &TcpListener) {
    let address = listener.local_addr().expect("a bound listener has an address");
    println!("upstream: listening on {address}");
    for stream in listener.incoming() {
        // Errors of accept are those of a single connection or pass by themselves.
        let Ok(stream) = stream else { continue };
        CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            // An error means that the peer left or broke the protocol; either way the connection ends here.
            let _ = Connection::new(stream, address.port()).serve();
            CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
        });
        while CONNECTIONS.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A request without its body.
struct Head {
    method: String,
    target: String,
    /// In order and with duplicates, as they arrived.
    fields: Vec<(String, String)>,
    http_10: bool,
}

impl Head {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether `token` is among the comma-separated values of the field `name`.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.fields
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(token))
    }

    fn body(&self) -> io::Result<Body> {
        if self.has_token("Transfer-Encoding", "chunked") {
            return Ok(Body::Chunked);
        }
        match self.field("Content-Length") {
            None => Ok(Body::Length(0)),
            // `parse` alone would take "+5".
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map(Body::Length).map_err(|_| bad("Content-Length is empty or too large"))
            }
            Some(_) => Err(bad("Content-Length is not a number")),
        }
    }
}

/// Where the body of a request ends.
#[derive(Clone, Copy)]
enum Body {
    Length(u64),
    Chunked,
}

/// What is left of a body when it was read: the start, for people, and how much there was.
#[derive(Default)]
struct Seen {
    start: Vec<u8>,
    length: u64,
}

impl Seen {
    fn add(&mut self, bytes: &[u8]) {
        let room = MAX_SHOWN_BODY_BYTES.saturating_sub(self.start.len());
        self.start.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.length += bytes.len() as u64;
    }

    /// The body, where it is short enough and text.
    fn text(&self) -> Option<&str> {
        let whole = self.length == self.start.len() as u64;
        std::str::from_utf8(&self.start).ok().filter(|_| whole)
    }
}

fn bad(message: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}

/// Whether the connection serves another request.
enum Next {
    Request,
    Close,
}

struct Connection {
    reader: BufReader<TcpStream>,
    port: u16,
}

impl Connection {
    fn new(stream: TcpStream, port: u16) -> Self {
        Connection { reader: BufReader::with_capacity(64 * 1024, stream), port }
    }

    fn serve(mut self) -> io::Result<()> {
        self.stream().set_nodelay(true)?;
        while let Some(head) = self.read_head()? {
            let persistent = !head.http_10 && !head.has_token("Connection", "close");
            if head.has_token("Upgrade", "websocket") && route(&head.target).0 == "ws" {
                return self.serve_websocket(&head);
            }
            match self.answer(&head)? {
                Next::Request if persistent => {}
                Next::Request | Next::Close => break,
            }
        }
        Ok(())
    }

    fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// The next head; `None` where the peer has no more requests.
    fn read_head(&mut self) -> io::Result<Option<Head>> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let limit = (MAX_HEAD_BYTES - bytes.len()) as u64;
            if (&mut self.reader).take(limit).read_until(b'\n', &mut bytes)? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(bad("the head is cut or too long")) };
            }
        }
        let mut lines = [httparse::EMPTY_HEADER; MAX_FIELD_LINES];
        let mut request = httparse::Request::new(&mut lines);
        request.parse(&bytes).map_err(|_| bad("not an HTTP request"))?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(Some(Head {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            fields: request.headers.iter().map(|line| (line.name.to_owned(), text(line.value))).collect(),
            http_10: request.version == Some(0),
        }))
    }

    /// Reads the body to its end, so that the next request begins where this one ended.
    fn read_body(&mut self, head: &Head) -> io::Result<Seen> {
        let body = head.body()?;
        if head.has_token("Expect", "100-continue") {
            self.stream().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut seen = Seen::default();
        match body {
            Body::Length(length) => self.read_counted(length, &mut seen)?,
            Body::Chunked => loop {
                let line = self.read_line()? + "\r\n";
                let Ok(httparse::Status::Complete((_, size))) = httparse::parse_chunk_size(line.as_bytes()) else {
                    return Err(bad("not a chunk size"));
                };
                if size == 0 {
                    // The trailer section ends with an empty line.
                    while !self.read_line()?.is_empty() {}
                    break;
                }
                self.read_counted(size, &mut seen)?;
                self.read_line()?;
            },
        }
        Ok(seen)
    }

    /// Reads `left` bytes of a body.
    fn read_counted(&mut self, mut left: u64, seen: &mut Seen) -> io::Result<()> {
        while left > 0 {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let len = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            seen.add(&bytes[..len]);
            self.reader.consume(len);
            left -= len as u64;
        }
        Ok(())
    }

    /// A line without its end.
    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.reader).take(MAX_HEAD_BYTES as u64).read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(whole) => Ok(whole.trim_end_matches('\r').to_owned()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    fn answer(&mut self, head: &Head) -> io::Result<Next> {
        let (name, argument) = route(&head.target);
        match name {
            "early" => {
                self.answer_with(head, 413, "text/plain", b"too large, and I have not even read it\n", Next::Close)?;
                return Ok(Next::Close);
            }
            "die" => {
                self.stream().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n")?;
                self.stream().write_all(FILLER)?;
                // Lingering for no time at all makes the kernel send a reset.
                SockRef::from(self.reader.get_ref()).set_linger(Some(Duration::ZERO))?;
                return Ok(Next::Close);
            }
            "hang" => {
                // Until the peer gives up.
                io::copy(&mut self.reader, &mut io::sink())?;
                return Ok(Next::Close);
            }
            _ => {}
        }
        let seen = self.read_body(head)?;
        let number = argument.parse::<u64>().ok();
        match name {
            "sse" => self.send_events(),
            "bytes" => {
                let length = number.unwrap_or(1024);
                self.send_head(200, &format!("Content-Length: {length}\r\n"))?;
                self.send_filler(head, length)?;
                Ok(Next::Request)
            }
            "chunked" => self.send_chunks(head, number.unwrap_or(1024)),
            "close" => {
                self.send_head(200, "Connection: close\r\n")?;
                self.send_filler(head, 1024)?;
                Ok(Next::Close)
            }
            "status" => {
                let status = number.and_then(|number| u16::try_from(number).ok()).filter(|n| (200..600).contains(n));
                self.send_json(head, status.unwrap_or(400), &seen)
            }
            "slow" => {
                thread::sleep(Duration::from_millis(number.unwrap_or(2000).min(60_000)));
                self.send_json(head, 200, &seen)
            }
            _ => self.send_json(head, 200, &seen),
        }
    }

    /// The request, told back.
    fn send_json(&mut self, head: &Head, status: u16, seen: &Seen) -> io::Result<Next> {
        let told = json!({
            "port": self.port,
            "method": head.method,
            "target": head.target,
            "version": if head.http_10 { "HTTP/1.0" } else { "HTTP/1.1" },
            "fields": head.fields,
            "body_length": seen.length,
            "body": seen.text(),
        });
        let mut body = serde_json::to_vec_pretty(&told)?;
        body.push(b'\n');
        self.answer_with(head, status, "application/json", &body, Next::Request)?;
        Ok(Next::Request)
    }

    fn answer_with(&mut self, head: &Head, status: u16, kind: &str, body: &[u8], next: Next) -> io::Result<()> {
        // RFC 9110 section 6.4.1: no content after these, whatever was asked.
        if matches!(status, 204 | 304) {
            return self.send_head(status, "");
        }
        let connection = match next {
            Next::Request => "",
            Next::Close => "Connection: close\r\n",
        };
        let length = body.len();
        self.send_head(status, &format!("Content-Type: {kind}\r\nContent-Length: {length}\r\n{connection}"))?;
        if head.method == "HEAD" { Ok(()) } else { self.stream().write_all(body) }
    }

    /// `fields`: whole lines, each with its CRLF.
    fn send_head(&mut self, status: u16, fields: &str) -> io::Result<()> {
        let reason = match status {
            200 => "OK",
            204 => "No Content",
            304 => "Not Modified",
            404 => "Not Found",
            413 => "Content Too Large",
            _ => "",
        };
        self.stream().write_all(format!("HTTP/1.1 {status} {reason}\r\nServer: upstream\r\n{fields}\r\n").as_bytes())
    }

    fn send_filler(&mut self, head: &Head, length: u64) -> io::Result<()> {
        if head.method != "HEAD" {
            io::copy(&mut Filler::default().take(length), self.stream())?;
        }
        Ok(())
    }

    fn send_chunks(&mut self, head: &Head, length: u64) -> io::Result<Next> {
        self.send_head(200, "Transfer-Encoding: chunked\r\n")?;
        if head.method == "HEAD" {
            return Ok(Next::Request);
        }
        let mut body = Filler::default().take(length);
        let mut piece = [0; 16 * 1024];
        loop {
            let len = body.read(&mut piece)?;
            let mut chunk = format!("{len:x}\r\n").into_bytes();
            chunk.extend_from_slice(&piece[..len]);
            chunk.extend_from_slice(b"\r\n");
            // A chunk of size 0 is the last one, and its CRLF ends the (empty) trailer section.
            self.stream().write_all(&chunk)?;
            if len == 0 {
                return Ok(Next::Request);
            }
        }
    }

    fn send_events(&mut self) -> io::Result<Next> {
        self.send_head(200, "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n")?;
        for number in 1..=5 {
            self.stream().write_all(format!("id: {number}\ndata: event {number} of 5\n\n").as_bytes())?;
            thread::sleep(Duration::from_millis(200));
        }
        Ok(Next::Close)
    }

    /// Answers the handshake (RFC 6455 section 4.2.2), then sends back every message.
    fn serve_websocket(mut self, head: &Head) -> io::Result<()> {
        let Some(key) = head.field("Sec-WebSocket-Key") else {
            self.answer_with(head, 400, "text/plain", b"Sec-WebSocket-Key is missing\n", Next::Close)?;
            return Ok(());
        };
        let accept = derive_accept_key(key.as_bytes());
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        self.stream().write_all(format!("{switch}Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes())?;

        let early = self.reader.buffer().to_vec();
        let mut socket = WebSocket::from_partially_read(self.reader.into_inner(), early, Role::Server, None);
        loop {
            match socket.read() {
                // Pings are answered by the library; only what a person sent goes back.
                Ok(message) if message.is_text() || message.is_binary() => {
                    socket.send(message).map_err(io::Error::other)?;
                }
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

/// The first segment of the path and what follows it, without base path, slashes and query: `/base/bytes/10?x` gives
/// `("bytes", "10")`.
fn route(target: &str) -> (&str, &str) {
    let path = target.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/base").filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').unwrap_or((path, ""))
}

/// An endless body.
#[derive(Default)]
struct Filler {
    position: usize,
}

impl Read for Filler {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        for byte in buf.iter_mut() {
            *byte = FILLER[self.position % FILLER.len()];
            self.position = self.position.wrapping_add(1);
        }
        Ok(buf.len())
    }
}
