//! Stage 8: connections to the upstream are kept, too, and serve requests of whatever client comes next.
//!
//! ```text
//! 08-pool 127.0.0.1:8080 127.0.0.1:9001 /app
//! ```

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The most bytes of a head. Without a limit one client could fill the memory.
const MAX_HEAD_BYTES: u64 = 16 * 1024;

/// The most bytes of a line with the size of a chunk.
const MAX_CHUNK_LINE_BYTES: u64 = 256;

/// The most connections to the upstream that are kept while nobody uses them.
const MAX_IDLE: usize = 16;

/// How much a client that was refused may still send, and for how long, before its connection is closed.
const MAX_LINGER_BYTES: u64 = 256 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, upstream, prefix @ ..] = &args[..] else {
        return Err(io::Error::other("usage: 08-pool LISTEN UPSTREAM [PREFIX]"));
    };
    let route = Arc::new(Route {
        prefix: prefix.first().cloned().unwrap_or_default(),
        upstream: upstream.clone(),
        pool: Pool::default(),
    });
    let listener = TcpListener::bind(listen)?;
    for client in listener.incoming() {
        let route = Arc::clone(&route);
        // One thread for each client: a slow one keeps nobody else waiting.
        thread::spawn(move || {
            if let Ok(client) = client {
                serve(&client, &route);
            }
        });
    }
    Ok(())
}

/// What is forwarded, and where to.
struct Route {
    /// Without a slash at its end; empty: everything.
    prefix: String,
    upstream: String,
    pool: Pool,
}

impl Route {
    /// The target that the upstream gets; `None`: this one is not below the prefix.
    fn rewrite(&self, target: &str) -> Option<String> {
        let rest = target.strip_prefix(&self.prefix)?;
        match rest.chars().next() {
            _ if self.prefix.is_empty() => Some(rest.to_owned()),
            // The prefix alone is the root of the upstream: a path is never empty.
            None | Some('?') => Some(format!("/{rest}")),
            Some('/') => Some(rest.to_owned()),
            // Another name that begins alike: /apple is not below /app.
            Some(_) => None,
        }
    }
}

/// A connection to the upstream. What was read too far stays with it.
type Upstream = BufReader<TcpStream>;

/// Connections to the upstream that nobody uses now.
#[derive(Default)]
struct Pool {
    idle: Mutex<Vec<Upstream>>,
}

impl Pool {
    /// The connection that was used last: it is the least likely to be closed soon.
    fn take(&self) -> Option<Upstream> {
        let mut idle = self.idle.lock().expect("nobody panics with the lock");
        while let Some(upstream) = idle.pop() {
            if is_quiet(&upstream) {
                return Some(upstream);
            }
        }
        None
    }

    fn put(&self, upstream: Upstream) {
        let mut idle = self.idle.lock().expect("nobody panics with the lock");
        // Bytes behind a response would be taken for the response to somebody else.
        if upstream.buffer().is_empty() && idle.len() < MAX_IDLE {
            idle.push(upstream);
        }
    }
}

/// Whether nothing has come on an idle connection: neither its end nor bytes that nobody asked for.
fn is_quiet(upstream: &Upstream) -> bool {
    let stream = upstream.get_ref();
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let is_blocking = stream.set_nonblocking(false).is_ok();
    is_blocking && matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Why a request was not served.
enum Error {
    /// The client is told so: a status code and its reason phrase.
    Status(&'static str),
    /// A connection is broken, and nobody can be told.
    Io,
}

/// The upstream's fault, whatever it is.
const BAD_GATEWAY: Error = Error::Status("502 Bad Gateway");

/// A connection that breaks is the upstream's fault where it is the upstream's.
fn or_bad_gateway(error: Error) -> Error {
    match error {
        Error::Io => BAD_GATEWAY,
        Error::Status(_) => error,
    }
}

impl From<io::Error> for Error {
    fn from(_: io::Error) -> Error {
        Error::Io
    }
}

fn serve(client: &TcpStream, route: &Route) {
    // Head and body are two writes: the second one shall not wait until the first one is acknowledged.
    let _ = client.set_nodelay(true);
    // One reader for all requests: it may hold the beginning of the next one.
    let mut reader = BufReader::new(client);
    loop {
        match forward(client, &mut reader, route) {
            Ok(Persistence::Keep) => {}
            Ok(Persistence::Close) | Err(Error::Io) => return,
            // Where an error was found, the end of the request is not known, and so nothing behind it is.
            Err(Error::Status(status)) => return refuse(client, status),
        }
    }
}

/// Whether a connection serves another request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Persistence {
    Keep,
    Close,
}

fn forward(client: &TcpStream, reader: &mut impl BufRead, route: &Route) -> Result<Persistence, Error> {
    let mut request = read_head(reader)?;
    let start = request.start.clone();
    let (method, target, version) = read_request_line(&start)?;
    check_host(&request, version)?;
    let framing = declared_framing(&request)?.unwrap_or(Framing::None);
    let target = route.rewrite(target).ok_or(Error::Status("404 Not Found"))?;
    let wanted = request.persistence(version);
    // The version is of this hop too: it says what the proxy speaks, not what the client speaks.
    request.start = format!("{method} {target} HTTP/1.1");
    request.remove_hop_by_hop();
    request.set("Host", &route.upstream);
    if framing == Framing::Chunked {
        request.set("Transfer-Encoding", "chunked");
    }

    let is_repeatable = framing == Framing::None && IDEMPOTENT.contains(&method);
    let pooled = if is_repeatable { ask_on_idle(route, &request)? } else { None };
    let (mut upstream, first) = match pooled {
        Some(found) => found,
        None => ask(route, &request, reader, framing)?,
    };
    let (persistence, of_upstream) = answer(client, &mut upstream, first, &Request { method, version, wanted })?;
    if of_upstream == Persistence::Keep {
        route.pool.put(upstream);
    }
    Ok(persistence)
}

/// Methods that mean the same when they are sent twice (RFC 9110 section 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

/// Asks on an idle connection. The upstream may close it at the moment when it is used, and then nobody knows whether the
/// request was seen: only what may be repeated is sent on one.
fn ask_on_idle(route: &Route, request: &Head) -> Result<Option<(Upstream, ResponseHead)>, Error> {
    while let Some(mut upstream) = route.pool.take() {
        let sent = write_head(upstream.get_mut(), request).map_err(Error::from);
        match sent.and_then(|()| read_response_head(&mut upstream)) {
            Ok(head) => return Ok(Some((upstream, head))),
            // It was closed before an answer came.
            Err(Error::Io) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Asks on a new connection.
fn ask(
    route: &Route,
    request: &Head,
    body: &mut impl BufRead,
    framing: Framing,
) -> Result<(Upstream, ResponseHead), Error> {
    let mut upstream = TcpStream::connect(&route.upstream).map_err(|_| BAD_GATEWAY)?;
    upstream.set_nodelay(true)?;
    write_head(&upstream, request).map_err(|_| BAD_GATEWAY)?;
    copy_body(body, &mut upstream, framing, Chunks::Kept)?;
    let mut upstream = BufReader::new(upstream);
    let head = read_response_head(&mut upstream).map_err(or_bad_gateway)?;
    Ok((upstream, head))
}

/// What the response depends on.
struct Request<'a> {
    method: &'a str,
    version: &'a str,
    /// What the client wants of its connection.
    wanted: Persistence,
}

/// Passes the response on to the client. Returns what becomes of its connection, and of the upstream's.
fn answer(
    mut client: &TcpStream,
    upstream: &mut Upstream,
    first: ResponseHead,
    request: &Request<'_>,
) -> Result<(Persistence, Persistence), Error> {
    let is_http10 = request.version == "HTTP/1.0";
    let ResponseHead { head: mut response, mut status } = first;
    while status < 200 {
        // 1xx is not the response yet (RFC 9110 section 15.2). HTTP/1.0 does not know it.
        response.remove_hop_by_hop();
        if !is_http10 {
            write_head(client, &response)?;
        }
        ResponseHead { head: response, status } = read_response_head(upstream).map_err(or_bad_gateway)?;
    }
    let framing = response_framing(request.method, status, &response)?;
    let of_upstream = match framing {
        Framing::UntilClose => Persistence::Close,
        _ => response.persistence(response.start.split(' ').next().unwrap_or_default()),
    };
    // The version is of this hop, here too.
    response.start = response.start.replacen("HTTP/1.0", "HTTP/1.1", 1);
    response.remove_hop_by_hop();
    // HTTP/1.0 does not know chunks: there the body ends with the connection.
    let chunks = if is_http10 { Chunks::Removed } else { Chunks::Kept };
    if framing == Framing::Chunked && chunks == Chunks::Kept {
        response.set("Transfer-Encoding", "chunked");
    }
    let ends_with_connection =
        framing == Framing::UntilClose || (framing == Framing::Chunked && chunks == Chunks::Removed);
    let persistence = if ends_with_connection { Persistence::Close } else { request.wanted };
    match persistence {
        Persistence::Close => response.set("Connection", "close"),
        // In HTTP/1.1 it need not be said.
        Persistence::Keep if is_http10 => response.set("Connection", "keep-alive"),
        Persistence::Keep => {}
    }
    write_head(client, &response)?;
    // The head has left: nothing can be told any more. Where the body breaks off, the connection is closed in its middle.
    copy_body(upstream, &mut client, framing, chunks).map_err(|_| Error::Io)?;
    Ok((persistence, of_upstream))
}

/// How the end of a body is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is no body.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The connection ends with it: responses only.
    UntilClose,
}

/// What the fields say.
fn declared_framing(head: &Head) -> Result<Option<Framing>, Error> {
    match head.values("transfer-encoding").next() {
        Some(coding) if coding.to_lowercase().contains("chunked") => return Ok(Some(Framing::Chunked)),
        Some(_) => return Err(Error::Status("501 Not Implemented")),
        None => {}
    }
    match head.values("content-length").next() {
        Some(digits) => Ok(Some(Framing::Length(digits.parse().map_err(|_| Error::Status("400 Bad Request"))?))),
        None => Ok(None),
    }
}

/// Where a response ends depends on the request and the status first (RFC 9112 section 6.3).
fn response_framing(method: &str, status: u16, head: &Head) -> Result<Framing, Error> {
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(Framing::None);
    }
    Ok(declared_framing(head).map_err(|_| BAD_GATEWAY)?.unwrap_or(Framing::UntilClose))
}

/// What becomes of the framing of a chunked body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunks {
    Kept,
    Removed,
}

/// Copies a body to its end.
fn copy_body(
    reader: &mut impl BufRead,
    writer: &mut impl Write,
    framing: Framing,
    chunks: Chunks,
) -> Result<(), Error> {
    match framing {
        Framing::None => Ok(()),
        Framing::Length(length) => copy_exactly(reader, writer, length),
        Framing::Chunked => copy_chunks(reader, writer, chunks),
        Framing::UntilClose => {
            io::copy(reader, writer)?;
            Ok(())
        }
    }
}

fn copy_exactly(reader: &mut impl Read, writer: &mut impl Write, length: u64) -> Result<(), Error> {
    let copied = io::copy(&mut reader.take(length), writer)?;
    if copied == length { Ok(()) } else { Err(Error::Io) }
}

/// Copies the content of chunks. Extensions and trailer fields are dropped: they are about this hop.
fn copy_chunks(reader: &mut impl BufRead, writer: &mut impl Write, chunks: Chunks) -> Result<(), Error> {
    loop {
        let line = read_line(&mut reader.take(MAX_CHUNK_LINE_BYTES))?;
        let size = read_chunk_size(&line)?;
        if size == 0 {
            break;
        }
        if chunks == Chunks::Kept {
            write!(writer, "{size:x}\r\n")?;
        }
        copy_exactly(reader, writer, size)?;
        // The line end behind the data of the chunk.
        if !read_line(&mut reader.take(MAX_CHUNK_LINE_BYTES))?.is_empty() {
            return Err(Error::Status("400 Bad Request"));
        }
        if chunks == Chunks::Kept {
            writer.write_all(b"\r\n")?;
        }
    }
    let mut trailers = reader.take(MAX_HEAD_BYTES);
    while !read_line(&mut trailers)?.is_empty() {}
    // Only now: what has no end gets none.
    if chunks == Chunks::Kept {
        writer.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

/// The size at the beginning of a chunk line.
fn read_chunk_size(line: &str) -> Result<u64, Error> {
    let digits = line.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(digits, 16).map_err(|_| Error::Status("400 Bad Request"))
}

/// A message head: the first line, and names and values in order. A byte is a character with the same number.
struct Head {
    start: String,
    fields: Vec<(String, String)>,
}

/// Fields that are about one connection (RFC 9110 section 7.6.1), whether `Connection` names them or not.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
];

/// What frames and routes a message stays, even if `Connection` names it.
const NEVER_REMOVED: [&str; 2] = ["host", "content-length"];

impl Head {
    /// All values of a field.
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The words of `Connection`, over all its lines.
    fn connection_options(&self) -> Vec<String> {
        self.values("connection").flat_map(|value| value.split(',')).map(|word| word.trim().to_lowercase()).collect()
    }

    /// Whether the sender of this head keeps its connection (RFC 9112 section 9.3).
    fn persistence(&self, version: &str) -> Persistence {
        let options = self.connection_options();
        let says = |word: &str| options.iter().any(|option| option == word);
        if says("close") || (version == "HTTP/1.0" && !says("keep-alive")) {
            Persistence::Close
        } else {
            Persistence::Keep
        }
    }

    /// Removes what is about the connection that the message came on.
    fn remove_hop_by_hop(&mut self) {
        let options = self.connection_options();
        self.fields.retain(|(name, _)| {
            let name = name.to_lowercase();
            let is_named = options.contains(&name) && !NEVER_REMOVED.contains(&name.as_str());
            !is_named && !HOP_BY_HOP.contains(&name.as_str())
        });
    }

    /// Makes this the only line of its name.
    fn set(&mut self, name: &str, value: &str) {
        self.fields.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.fields.push((name.to_owned(), value.to_owned()));
    }
}

/// Which site a request is for must have one answer (RFC 9112 section 3.2).
fn check_host(head: &Head, version: &str) -> Result<(), Error> {
    match head.values("host").count() {
        1 => Ok(()),
        0 if version == "HTTP/1.0" => Ok(()),
        _ => Err(Error::Status("400 Bad Request")),
    }
}

/// Reads up to the empty line.
fn read_head(reader: &mut impl BufRead) -> Result<Head, Error> {
    let mut limited = reader.take(MAX_HEAD_BYTES);
    let mut start = read_line(&mut limited)?;
    if start.is_empty() {
        // Some clients send an empty line behind a body (RFC 9112 section 2.2).
        start = read_line(&mut limited)?;
    }
    let mut fields = Vec::new();
    loop {
        let line = read_line(&mut limited)?;
        if line.is_empty() {
            return Ok(Head { start, fields });
        }
        let (name, value) = line.split_once(':').ok_or(Error::Status("400 Bad Request"))?;
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads a line; its end is not part of the result.
fn read_line<R: BufRead>(reader: &mut io::Take<R>) -> Result<String, Error> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        let is_limit = reader.limit() == 0;
        return Err(if is_limit { Error::Status("431 Request Header Fields Too Large") } else { Error::Io });
    }
    let text: String = line.into_iter().map(char::from).collect();
    Ok(text.trim_end().to_owned())
}

/// Method, target and version.
fn read_request_line(start: &str) -> Result<(&str, &str, &str), Error> {
    match start.split(' ').collect::<Vec<_>>()[..] {
        [method, target, version @ ("HTTP/1.0" | "HTTP/1.1")] => Ok((method, target, version)),
        _ => Err(Error::Status("400 Bad Request")),
    }
}

struct ResponseHead {
    head: Head,
    status: u16,
}

fn read_response_head(reader: &mut impl BufRead) -> Result<ResponseHead, Error> {
    let head = match read_head(reader) {
        Ok(head) => head,
        Err(Error::Io) => return Err(Error::Io),
        Err(Error::Status(_)) => return Err(BAD_GATEWAY),
    };
    let status = head.start.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(BAD_GATEWAY)?;
    Ok(ResponseHead { head, status })
}

/// Writes a head. It is written anew and not copied: the upstream gets what was understood.
fn write_head(mut writer: impl Write, head: &Head) -> io::Result<()> {
    let mut text = format!("{}\r\n", head.start);
    for (name, value) in &head.fields {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    let bytes: Vec<u8> = text.chars().map(|c| c as u8).collect();
    // In one write, and so, mostly, in one packet.
    writer.write_all(&bytes)
}

/// Tells the client why, and closes.
fn refuse(mut client: &TcpStream, status: &str) {
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = client.write_all(response.as_bytes());
    let _ = client.shutdown(Shutdown::Write);
    // A connection that is closed while bytes are unread is reset, and the reset may destroy the response on its way.
    let _ = client.set_read_timeout(Some(LINGER_TIMEOUT));
    let _ = io::copy(&mut client.take(MAX_LINGER_BYTES), &mut io::sink());
}
