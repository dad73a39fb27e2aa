//! Stage 9: nobody is waited for without end; and a response may come before the request has ended.
//!
//! ```text
//! 09-timeouts 127.0.0.1:8080 127.0.0.1:9001 /app
//! ```

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes of a head. Without a limit one client could fill the memory.
const MAX_HEAD_BYTES: u64 = 16 * 1024;

/// The most bytes of a line with the size of a chunk.
const MAX_CHUNK_LINE_BYTES: u64 = 256;

/// The most connections to the upstream that are kept while nobody uses them.
const MAX_IDLE: usize = 16;

/// How long a client may take for a whole head, and between two pieces of a body; how long it may be silent between two
/// requests. Short ones, so that they can be watched: 30 seconds are usual.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for the upstream: until it has taken a connection, and until its next bytes come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// An idle connection to the upstream is used for so long. A firewall between the two may forget it without a word.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A response that comes earlier than this before the end of its request has not waited for it.
const UPLOAD_GRACE: Duration = Duration::from_millis(50);

/// How much a client that was refused may still send, and for how long, before its connection is closed.
const MAX_LINGER_BYTES: u64 = 256 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, upstream, prefix @ ..] = &args[..] else {
        return Err(io::Error::other("usage: 09-timeouts LISTEN UPSTREAM [PREFIX]"));
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
    /// Each with the time when it was put here.
    idle: Mutex<Vec<(Instant, Upstream)>>,
}

impl Pool {
    /// The connection that was used last: it is the least likely to be closed soon.
    fn take(&self) -> Option<Upstream> {
        let mut idle = self.idle.lock().expect("nobody panics with the lock");
        while let Some((since, upstream)) = idle.pop() {
            if since.elapsed() < IDLE_TIMEOUT && is_quiet(&upstream) {
                return Some(upstream);
            }
        }
        None
    }

    fn put(&self, upstream: Upstream) {
        let mut idle = self.idle.lock().expect("nobody panics with the lock");
        // Bytes behind a response would be taken for the response to somebody else.
        if upstream.buffer().is_empty() && idle.len() < MAX_IDLE {
            idle.push((Instant::now(), upstream));
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

const GATEWAY_TIMEOUT: &str = "504 Gateway Timeout";

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            // From a `TimedReader`: the client was too slow.
            io::ErrorKind::TimedOut => Error::Status("408 Request Timeout"),
            // From a socket: it is the upstream's.
            io::ErrorKind::WouldBlock => Error::Status(GATEWAY_TIMEOUT),
            _ => Error::Io,
        }
    }
}

/// What a client sends, and until when its next bytes must have come.
struct TimedReader<'a> {
    stream: &'a TcpStream,
    /// For all reads together; without one, each read has [`CLIENT_TIMEOUT`].
    deadline: Option<Instant>,
}

impl Read for TimedReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.map_or(CLIENT_TIMEOUT, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buf).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

type ClientReader<'a> = BufReader<TimedReader<'a>>;

impl TimedReader<'_> {
    fn restart(&mut self, timeout: Duration) {
        self.deadline = Some(Instant::now() + timeout);
    }
}

fn serve(client: &TcpStream, route: &Route) {
    // Head and body are two writes: the second one shall not wait until the first one is acknowledged.
    let _ = client.set_nodelay(true);
    let _ = client.set_write_timeout(Some(CLIENT_TIMEOUT));
    // One reader for all requests: it may hold the beginning of the next one.
    let mut reader = BufReader::new(TimedReader { stream: client, deadline: None });
    while is_request_coming(&mut reader) {
        match forward(client, &mut reader, route) {
            Ok(Persistence::Keep) => {}
            Ok(Persistence::Close) => break,
            Err(Error::Io) => return,
            // Where an error was found, the end of the request is not known, and so nothing behind it is.
            Err(Error::Status(status)) => {
                refuse(client, status);
                break;
            }
        }
    }
    linger(client);
}

/// Waits for the next request. A client that sends none has done nothing wrong, and is told nothing.
fn is_request_coming(reader: &mut ClientReader<'_>) -> bool {
    reader.get_mut().restart(KEEP_ALIVE_TIMEOUT);
    matches!(reader.fill_buf(), Ok(bytes) if !bytes.is_empty())
}

/// Whether a connection serves another request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Persistence {
    Keep,
    Close,
}

fn forward(client: &TcpStream, reader: &mut ClientReader<'_>, route: &Route) -> Result<Persistence, Error> {
    // For the whole head: a client that sends a byte now and then is slow, too.
    reader.get_mut().restart(HEAD_TIMEOUT);
    let mut request = read_head(reader)?;
    reader.get_mut().deadline = None;
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

    let exchange = Exchange { method, version, wanted };
    let (persistence, of_upstream, upstream) = if framing == Framing::None {
        let (mut upstream, first) = ask(route, &request, IDEMPOTENT.contains(&method))?;
        let (persistence, of_upstream) = answer(client, &mut upstream, first, &exchange, &mut Upload::over())?;
        (persistence, of_upstream, upstream)
    } else {
        let mut upstream = connect(route, &request)?;
        let (persistence, of_upstream) = upload(client, reader, framing, &mut upstream, &exchange)?;
        (persistence, of_upstream, upstream)
    };
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

/// Sends a request without a body, and reads the first head that comes back.
fn ask(route: &Route, request: &Head, is_repeatable: bool) -> Result<(Upstream, ResponseHead), Error> {
    if is_repeatable && let Some(found) = ask_on_idle(route, request)? {
        return Ok(found);
    }
    let mut upstream = connect(route, request)?;
    let head = read_response_head(&mut upstream).map_err(or_bad_gateway)?;
    Ok((upstream, head))
}

/// Sends the head of a request on a new connection.
fn connect(route: &Route, request: &Head) -> Result<Upstream, Error> {
    let connected = || {
        let address = route.upstream.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(UPSTREAM_TIMEOUT))?;
        stream.set_write_timeout(Some(UPSTREAM_TIMEOUT))?;
        write_head(&mut stream, request)?;
        Ok(BufReader::new(stream))
    };
    connected().map_err(|_: io::Error| BAD_GATEWAY)
}

/// The body of a request on its way, in a thread of its own.
struct Upload {
    report: Receiver<Result<(), Error>>,
    /// How it ended.
    sent: Option<Result<(), Error>>,
}

impl Upload {
    /// Of a request without a body.
    fn over() -> Upload {
        Upload { report: mpsc::channel().1, sent: Some(Ok(())) }
    }

    /// Whether it ends within this time.
    fn is_over(&mut self, timeout: Duration) -> bool {
        if self.sent.is_none() {
            self.sent = self.report.recv_timeout(timeout).ok();
        }
        self.sent.is_some()
    }

    /// Whether all of it has left.
    fn is_sent(&self) -> bool {
        matches!(self.sent, Some(Ok(())))
    }
}

/// Sends the body, and passes on the response, which may come before the end of the body.
fn upload(
    client: &TcpStream,
    reader: &mut ClientReader<'_>,
    framing: Framing,
    upstream: &mut Upstream,
    exchange: &Exchange<'_>,
) -> Result<(Persistence, Persistence), Error> {
    let mut sending = upstream.get_ref().try_clone()?;
    thread::scope(|scope| {
        let (reporter, report) = mpsc::channel();
        scope.spawn(move || {
            let sent = copy_body(reader, &mut sending, framing, Chunks::Kept);
            if let Err(Error::Status(_)) = sent {
                // The client's fault. The upstream never sees the end of this body, and no response is waited for.
                let _ = sending.shutdown(Shutdown::Both);
            }
            let _ = reporter.send(sent);
        });
        let mut upload = Upload { report, sent: None };
        let first = first_head(upstream, &mut upload);
        let answered = first.and_then(|first| answer(client, upstream, first, exchange, &mut upload));
        if upload.is_sent() {
            return answered;
        }
        // Nobody wants the rest of the body. The upload ends with the next bytes, the client's end or its time-out.
        if let Err(Error::Status(status)) = &answered {
            refuse(client, status);
        }
        let _ = client.shutdown(Shutdown::Write);
        let _ = upstream.get_ref().shutdown(Shutdown::Both);
        Ok((Persistence::Close, Persistence::Close))
    })
}

/// The first head of a response while the body is on its way.
fn first_head(upstream: &mut Upstream, upload: &mut Upload) -> Result<ResponseHead, Error> {
    // As long as the body is not over, it is no wonder that the upstream is silent.
    while let Err(error) = upstream.fill_buf() {
        if error.kind() != io::ErrorKind::WouldBlock || upload.is_over(Duration::ZERO) {
            break;
        }
    }
    read_response_head(upstream).map_err(|error| {
        // An upload that went wrong is the reason why nothing came.
        match upload.is_over(UPLOAD_GRACE).then(|| upload.sent.take()).flatten() {
            Some(Err(Error::Status(status))) => Error::Status(status),
            _ => or_bad_gateway(error),
        }
    })
}

/// What the response depends on.
struct Exchange<'a> {
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
    exchange: &Exchange<'_>,
    upload: &mut Upload,
) -> Result<(Persistence, Persistence), Error> {
    let is_http10 = exchange.version == "HTTP/1.0";
    let ResponseHead { head: mut response, mut status } = first;
    while status < 200 {
        // 1xx is not the response yet (RFC 9110 section 15.2). HTTP/1.0 does not know it.
        response.remove_hop_by_hop();
        if !is_http10 {
            write_head(client, &response).map_err(|_| Error::Io)?;
        }
        ResponseHead { head: response, status } = read_response_head(upstream).map_err(or_bad_gateway)?;
    }
    let framing = response_framing(exchange.method, status, &response)?;
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
    // An early response: what the client still sends belongs to nobody.
    let is_early = !(upload.is_over(UPLOAD_GRACE) && upload.is_sent());
    let persistence = if ends_with_connection || is_early { Persistence::Close } else { exchange.wanted };
    match persistence {
        Persistence::Close => response.set("Connection", "close"),
        // In HTTP/1.1 it need not be said.
        Persistence::Keep if is_http10 => response.set("Connection", "keep-alive"),
        Persistence::Keep => {}
    }
    write_head(client, &response).map_err(|_| Error::Io)?;
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
        Err(Error::Status(GATEWAY_TIMEOUT)) => return Err(Error::Status(GATEWAY_TIMEOUT)),
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

/// Tells the client why.
fn refuse(mut client: &TcpStream, status: &str) {
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = client.write_all(response.as_bytes());
}

/// Says that this is the end, and waits for the client's. A connection that is closed while bytes are unread is reset, and the
/// reset may destroy the response on its way.
fn linger(client: &TcpStream) {
    let _ = client.shutdown(Shutdown::Write);
    let _ = client.set_read_timeout(Some(LINGER_TIMEOUT));
    let _ = io::copy(&mut client.take(MAX_LINGER_BYTES), &mut io::sink());
}
