//! The origin behind the proxies: answers from memory, so that it is never what limits.
//!
//! It knows a request by its path alone and trusts that the proxy sends well-formed ones.
//!
//! | path | answer |
//! |---|---|
//! | `/small` | 13 bytes |
//! | `/fields` | 13 bytes below 12 field lines |
//! | `/chunked` | 16 chunks of 1 KiB, in one write |
//! | `/body/N` | N bytes |
//! | `/slow/N` | the same through a small send buffer: else thousands who do not read would take all memory that the kernel has for TCP |
//! | `/upload` | `/small`, after the request's content was read |
//! | `/ws` | 101, then every frame comes back |
//! | any other | the path, so that it can be seen what arrived |

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::{Events, Interest, Poll, Token};
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;

use crate::certificate::Certificate;
use crate::link::Link;
use crate::wire::{PREFIX, WEBSOCKET_ACCEPT, client_frame, decimal, field, head_end, server_frame};

/// The content of small responses.
pub const SMALL: u64 = 13;
/// The content of `/chunked`.
pub const CHUNKED: u64 = 16 * 1024;

const PLAIN: Token = Token(usize::MAX);
const TLS: Token = Token(usize::MAX - 1);
const UNIX: Token = Token(usize::MAX - 2);
const SCRATCH: usize = 256 * 1024;
const SLOW: &[u8] = b"/slow/";
const SLOW_BUFFER: usize = 64 * 1024;

/// A response: its bytes, and how much content follows from the common block.
#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    rest: u64,
}

impl Page {
    fn len(&self) -> u64 {
        self.bytes.len() as u64 + self.rest
    }
}

fn page(fields: &str, content: &[u8]) -> Page {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Mon, 23 Nov 2026 09:00:00 GMT\r\nContent-Type: text/plain\r\n\
         {fields}Content-Length: {}\r\n\r\n",
        content.len()
    )
    .into_bytes();
    bytes.extend_from_slice(content);
    Page { bytes, rest: 0 }
}

/// `/body/N`: in one piece where it is small, else the head and the common block again and again.
fn body_page(len: u64) -> Page {
    if len <= SCRATCH as u64 {
        return page("", &vec![b'b'; len as usize]);
    }
    let head =
        format!("HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n");
    Page { bytes: head.into_bytes(), rest: len }
}

const MORE_FIELDS: &str = "\
Cache-Control: public, max-age=3600\r\n\
ETag: \"5f3c8a1e-1f40\"\r\n\
Last-Modified: Sun, 22 Nov 2026 10:11:12 GMT\r\n\
Vary: Accept-Encoding, Cookie\r\n\
Strict-Transport-Security: max-age=63072000; includeSubDomains\r\n\
X-Content-Type-Options: nosniff\r\n\
Content-Security-Policy: default-src 'self'; img-src *; script-src 'self' cdn.example.com\r\n\
Set-Cookie: session=0123456789abcdef0123456789abcdef; Path=/; HttpOnly; SameSite=Lax\r\n";

fn pages() -> HashMap<Vec<u8>, Rc<Page>> {
    let mut chunked = b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Mon, 23 Nov 2026 09:00:00 GMT\r\n\
        Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..16 {
        chunked.extend_from_slice(b"400\r\n");
        chunked.extend_from_slice(&[b'c'; 1024]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    [
        ("/small", page("", b"Hello, world!")),
        ("/upload", page("", b"Hello, world!")),
        ("/fields", page(MORE_FIELDS, b"Hello, world!")),
        ("/chunked", Page { bytes: chunked, rest: 0 }),
    ]
    .into_iter()
    .map(|(path, page)| (path.as_bytes().to_vec(), Rc::new(page)))
    .collect()
}

/// What is being read from a connection.
#[derive(Debug)]
enum Reading {
    /// A head; what came of it so far.
    Head(Vec<u8>),
    /// Content of an upload, before its answer.
    Content { left: u64, then: Rc<Page> },
    /// WebSocket frames; what came of one so far.
    Frames(Vec<u8>),
}

#[derive(Debug)]
struct Conn {
    link: Link,
    reading: Reading,
    sending: Option<(Rc<Page>, u64)>,
    readable: bool,
    /// The peer has ended: no other event will tell of it.
    ends: bool,
    /// The request asked for the end of the connection.
    last: bool,
}

/// Everything that connections share.
struct Site {
    pages: HashMap<Vec<u8>, Rc<Page>>,
    block: Vec<u8>,
    frame: Rc<Page>,
}

/// What is left of a connection after a step.
#[derive(PartialEq, Eq)]
enum Left {
    Open,
    Over,
}

impl Conn {
    fn step(&mut self, site: &mut Site, scratch: &mut [u8]) -> io::Result<Left> {
        self.link.settle()?;
        loop {
            if !self.send(site)? {
                return Ok(Left::Open);
            }
            if self.last {
                self.link.stream.shutdown(Shutdown::Write)?;
                return Ok(Left::Over);
            }
            if !self.readable {
                return Ok(Left::Open);
            }
            match self.link.read(scratch) {
                Ok(0) => return Ok(Left::Over),
                Ok(len) => {
                    self.readable = len == scratch.len() || self.link.is_tls() || self.ends;
                    self.take(&scratch[..len], site)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// False when there is more to send than the socket takes.
    fn send(&mut self, site: &Site) -> io::Result<bool> {
        let Some((page, at)) = &mut self.sending else { return Ok(true) };
        while *at < page.len() {
            let piece = match page.bytes.get(*at as usize..) {
                Some(piece) if !piece.is_empty() => piece,
                _ => &site.block[..(page.len() - *at).min(site.block.len() as u64) as usize],
            };
            match self.link.write(piece) {
                Ok(len) => *at += len as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.sending = None;
        Ok(true)
    }

    fn take(&mut self, input: &[u8], site: &mut Site) -> io::Result<()> {
        match &mut self.reading {
            Reading::Head(before) if before.is_empty() => match head_end(input) {
                Some(end) => self.answer(&input[..end], &input[end..], site),
                None => {
                    before.extend_from_slice(input);
                    Ok(())
                }
            },
            Reading::Head(before) => {
                before.extend_from_slice(input);
                let Some(end) = head_end(before) else { return Ok(()) };
                let bytes = std::mem::take(before);
                self.answer(&bytes[..end], &bytes[end..], site)
            }
            Reading::Content { left, then } => {
                *left = left.saturating_sub(input.len() as u64);
                if *left == 0 {
                    self.sending = Some((Rc::clone(then), 0));
                    self.reading = Reading::Head(Vec::new());
                }
                Ok(())
            }
            Reading::Frames(before) => {
                before.extend_from_slice(input);
                let len = client_frame().len();
                while before.len() >= len {
                    before.drain(..len);
                    // One frame is on its way at a time: the load generator waits for the echo.
                    self.sending = Some((Rc::clone(&site.frame), 0));
                }
                Ok(())
            }
        }
    }

    fn answer(&mut self, head: &[u8], content: &[u8], site: &mut Site) -> io::Result<()> {
        let target = head.split(|byte| *byte == b' ').nth(1).ok_or(ErrorKind::InvalidData)?;
        self.last = field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        // The relay strips nothing, and the request is to be the same for all.
        let path = target.strip_prefix(PREFIX.as_bytes()).unwrap_or(target);
        if path == b"/ws" {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {WEBSOCKET_ACCEPT}\r\n\r\n"
            );
            self.sending = Some((Rc::new(Page { bytes: head.into_bytes(), rest: 0 }), 0));
            self.reading = Reading::Frames(Vec::new());
            return Ok(());
        }
        let page = match site.pages.get(path) {
            Some(page) => Rc::clone(page),
            None => match path.strip_prefix(b"/body/").or(path.strip_prefix(SLOW)).and_then(decimal) {
                Some(len) => {
                    let page = Rc::new(body_page(len));
                    site.pages.insert(path.to_vec(), Rc::clone(&page));
                    page
                }
                None => Rc::new(page("", target)),
            },
        };
        if path.starts_with(SLOW) {
            SockRef::from(&self.link.stream).set_send_buffer_size(SLOW_BUFFER)?;
        }
        // Only an upload is looked at for its length: other requests here have none.
        let length = if path == b"/upload" { field(head, "content-length").and_then(decimal).unwrap_or(0) } else { 0 };
        let left = length.saturating_sub(content.len() as u64);
        if left > 0 {
            self.reading = Reading::Content { left, then: page };
        } else {
            self.sending = Some((page, 0));
            self.reading = Reading::Head(Vec::new());
        }
        Ok(())
    }
}

/// Where the origin's unix socket is.
pub fn unix_path(folder: &Path) -> PathBuf {
    folder.join("origin.sock")
}

/// Serves on two new ports, which it prints: plain and, with the certificate in `folder`, TLS; and on a unix socket in it. For
/// ever.
pub fn run(folder: &Path) -> Result<(), String> {
    let tls = Certificate::at(folder).server()?;
    let path = unix_path(folder);
    // That of a run that was killed and had the same number.
    let _ = fs::remove_file(&path);
    // For everybody: nginx gives up root.
    let unix = UnixListener::bind(&path)
        .and_then(|unix| fs::set_permissions(&path, Permissions::from_mode(0o666)).map(|()| unix))
        .map_err(|error| format!("cannot listen on {} (a shorter --out may help): {error}", path.display()))?;
    serve(&tls, unix).map_err(|error| format!("the origin has failed: {error}"))
}

fn serve(tls: &Arc<ServerConfig>, mut unix: UnixListener) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let localhost = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut listeners = [(TcpListener::bind(localhost)?, PLAIN), (TcpListener::bind(localhost)?, TLS)];
    println!("{} {}", listeners[0].0.local_addr()?, listeners[1].0.local_addr()?);
    for (listener, token) in &mut listeners {
        poll.registry().register(listener, *token, Interest::READABLE)?;
    }
    poll.registry().register(&mut unix, UNIX, Interest::READABLE)?;
    let block = vec![b'b'; SCRATCH];
    let frame = Rc::new(Page { bytes: server_frame(), rest: 0 });
    let mut site = Site { pages: pages(), block, frame };
    let mut scratch = vec![0; SCRATCH];
    let mut events = Events::with_capacity(512);
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let (mut free, mut ended) = (Vec::new(), Vec::new());
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token().0 >= UNIX.0 {
                let accept = || match listeners.iter().find(|(_, token)| *token == event.token()) {
                    Some((listener, _)) => accept_tcp(listener),
                    None => accept_unix(&unix),
                };
                while let Ok(stream) = accept() {
                    let slot = free.pop().unwrap_or_else(|| {
                        conns.push(None);
                        conns.len() - 1
                    });
                    match open(&poll, slot, stream, (event.token() == TLS).then_some(tls)) {
                        Ok(conn) => conns[slot] = Some(conn),
                        Err(_) => free.push(slot),
                    }
                }
                continue;
            }
            let slot = event.token().0;
            let Some(conn) = &mut conns[slot] else { continue };
            conn.ends |= event.is_read_closed() || event.is_error();
            conn.readable |= event.is_readable() || conn.ends;
            // Peers come and go as the scenarios want; a broken connection is nobody's concern.
            if !matches!(conn.step(&mut site, &mut scratch), Ok(Left::Open)) {
                conns[slot] = None;
                ended.push(slot);
            }
        }
        // Only now: an event of this batch may still carry an old slot.
        free.append(&mut ended);
    }
}

fn accept_tcp(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// From here on bytes are read and written, for which any stream socket will do.
fn accept_unix(listener: &UnixListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept()?;
    Ok(TcpStream::from_std(OwnedFd::from(stream).into()))
}

fn open(poll: &Poll, slot: usize, mut stream: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<Conn> {
    poll.registry().register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
    let link = match tls {
        Some(config) => Link::server(stream, ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?),
        None => Link::plain(stream),
    };
    Ok(Conn { link, reading: Reading::Head(Vec::new()), sending: None, readable: false, ends: false, last: false })
}
