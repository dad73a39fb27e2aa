//! Stage 10: what two recipients could read in two ways is refused. The rules in brackets are those of docs/rules.md.
//!
//! ```text
//! 10-smuggling 127.0.0.1:8080 127.0.0.1:9001 /app
//! ```

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes of a head. Without a limit one client could fill the memory.
const MAX_HEAD_BYTES: u64 = 16 * 1024;

/// The most bytes of a request line, field lines of a head, words of `Connection`, and interim responses to one request.
const MAX_REQUEST_LINE_BYTES: usize = 8 * 1024;
const MAX_FIELD_LINES: usize = 256;
const MAX_CONNECTION_OPTIONS: usize = 64;
const MAX_INTERIM_RESPONSES: usize = 8;

/// The most bytes of a line with the size of a chunk, and of all trailer fields.
const MAX_CHUNK_LINE_BYTES: u64 = 256;
const MAX_TRAILER_BYTES: u64 = 8 * 1024;

/// The most bytes of chunk extensions in one body.
const MAX_CHUNK_EXTENSIONS: u64 = 16 * 1024;

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
        return Err(io::Error::other("usage: 10-smuggling LISTEN UPSTREAM [PREFIX]"));
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

const BAD_REQUEST: Error = Error::Status("400 Bad Request");

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
    let mut request = read_head(reader, Kind::Request)?;
    reader.get_mut().deadline = None;
    let start = request.start.clone();
    let (method, target, version) = read_request_line(&start)?;
    let target = read_target(method, target)?;
    check_host(&request, version, target.site)?;
    let framing = declared_framing(&request, version)?.unwrap_or(Framing::None);
    check_expectation(&mut request, version, framing)?;
    let wanted = request.persistence(version)?;
    let target = route.rewrite(&target.path).ok_or(Error::Status("404 Not Found"))?;
    // The version is of this hop too: it says what the proxy speaks, not what the client speaks.
    request.start = format!("{method} {target} HTTP/1.1");
    request.remove_hop_by_hop();
    request.set("Host", &route.upstream);
    request.set_framing(framing);

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
const IDEMPOTENT: [&str; 5] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"];

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
    let mut interim_responses = 0;
    while status < 200 {
        // No upgrade was passed on, and so none can be accepted (S16). A row of 1xx without end is an attack (G9).
        interim_responses += 1;
        if status == 101 || interim_responses > MAX_INTERIM_RESPONSES {
            return Err(BAD_GATEWAY);
        }
        // 1xx is not the response yet (RFC 9110 section 15.2). HTTP/1.0 does not know it.
        response.remove_hop_by_hop();
        response.set_framing(Framing::None);
        if !is_http10 {
            write_head(client, &response).map_err(|_| Error::Io)?;
        }
        ResponseHead { head: response, status } = read_response_head(upstream).map_err(or_bad_gateway)?;
    }
    let version = response.start.split(' ').next().unwrap_or_default().to_owned();
    let declared = declared_framing(&response, &version);
    let has_no_body = exchange.method == "HEAD" || status == 204 || status == 304;
    let framing = match &declared {
        // Whatever it declares (RFC 9112 section 6.3).
        _ if has_no_body => Framing::None,
        Ok(declared) => declared.unwrap_or(Framing::UntilClose),
        Err(_) => return Err(BAD_GATEWAY),
    };
    let of_upstream = match (framing, &declared) {
        // One that contradicts itself may have bytes behind it.
        (Framing::UntilClose, _) | (_, Err(_)) => Persistence::Close,
        _ => response.persistence(&version).map_err(|_| BAD_GATEWAY)?,
    };
    // The version is of this hop, here too.
    response.start = response.start.replacen("HTTP/1.0", "HTTP/1.1", 1);
    response.remove_hop_by_hop();
    // HTTP/1.0 does not know chunks: there the body ends with the connection.
    let chunks = if is_http10 { Chunks::Removed } else { Chunks::Kept };
    match (framing, &declared) {
        (Framing::Chunked, _) if chunks == Chunks::Removed => response.set_framing(Framing::UntilClose),
        // To HEAD, and in a 304, the length is that of the body that is not sent.
        (Framing::None, Ok(Some(Framing::Length(length)))) if status != 204 => {
            response.set_framing(Framing::Length(*length));
        }
        _ => response.set_framing(framing),
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

/// What the fields say: one line or none, and nothing but what every recipient reads alike (S1, S2, S3).
fn declared_framing(head: &Head, version: &str) -> Result<Option<Framing>, Error> {
    let lengths: Vec<&str> = head.values("content-length").collect();
    let codings: Vec<&str> = head.values("transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([digits], []) => Ok(Some(Framing::Length(read_number(digits, 10)?))),
        ([], [_]) if version == "HTTP/1.0" => Err(BAD_REQUEST),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
        ([], [_]) => Err(Error::Status("501 Not Implemented")),
        _ => Err(BAD_REQUEST),
    }
}

/// Digits and nothing else. `str::parse` would take a sign. Numbers from 2^63 do not fit everywhere.
fn read_number(digits: &str, radix: u32) -> Result<u64, Error> {
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let number = u64::from_str_radix(digits, radix).ok().filter(|&number| number <= i64::MAX as u64);
    number.filter(|_| is_number).ok_or(BAD_REQUEST)
}

/// The one expectation that is known, and only where something waits for its answer (S15).
fn check_expectation(request: &mut Head, version: &str, framing: Framing) -> Result<(), Error> {
    let expectations: Vec<&str> = request.values("expect").collect();
    match expectations[..] {
        [] => return Ok(()),
        _ if version == "HTTP/1.0" => {}
        [one] if one.eq_ignore_ascii_case("100-continue") => {}
        _ => return Err(Error::Status("417 Expectation Failed")),
    }
    if version == "HTTP/1.0" || matches!(framing, Framing::None | Framing::Length(0)) {
        request.remove("Expect");
    }
    Ok(())
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

/// Copies the content of chunks. Extensions and trailer fields are checked, and dropped: they are about this hop.
fn copy_chunks(reader: &mut impl BufRead, writer: &mut impl Write, chunks: Chunks) -> Result<(), Error> {
    let mut extensions = 0;
    loop {
        let line = read_line(&mut reader.take(MAX_CHUNK_LINE_BYTES))?;
        let size = read_chunk_size(&line)?;
        // A few are harmless; without end they are work for whoever reads them (S5).
        extensions += line.split_once(';').map_or(0, |(_, text)| text.len() as u64 + 1);
        if extensions > MAX_CHUNK_EXTENSIONS {
            return Err(BAD_REQUEST);
        }
        if size == 0 {
            break;
        }
        if chunks == Chunks::Kept {
            write!(writer, "{size:x}\r\n")?;
        }
        copy_exactly(reader, writer, size)?;
        // The line end behind the data of the chunk (S7). Not a line: it may be two other bytes, and no line end follows.
        let mut end = [0; 2];
        reader.read_exact(&mut end)?;
        if end != *b"\r\n" {
            return Err(BAD_REQUEST);
        }
        if chunks == Chunks::Kept {
            writer.write_all(b"\r\n")?;
        }
    }
    let mut trailers = reader.take(MAX_TRAILER_BYTES);
    loop {
        let line = read_line(&mut trailers)?;
        if line.is_empty() {
            break;
        }
        read_field(&line)?;
    }
    // Only now: what has no end gets none.
    if chunks == Chunks::Kept {
        writer.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

/// The size in a chunk line, whose extensions must be well formed (S5, S6).
fn read_chunk_size(line: &str) -> Result<u64, Error> {
    let digits_end = line.find(';').unwrap_or(line.len());
    let (digits, extensions) = line.split_at(digits_end);
    if digits.len() > 16 || !are_extensions(extensions) {
        return Err(BAD_REQUEST);
    }
    read_number(digits, 16)
}

/// Any number of `;name`, `;name=token` and `;name="text"`.
fn are_extensions(text: &str) -> bool {
    let mut rest = text;
    while let Some(extension) = rest.strip_prefix(';') {
        let Some(after_name) = skip_token(extension) else { return false };
        rest = match after_name.strip_prefix('=').map(|value| (value, value.strip_prefix('"'))) {
            None => after_name,
            Some((_, Some(quoted))) => match skip_quoted(quoted) {
                Some(rest) => rest,
                None => return false,
            },
            Some((value, None)) => match skip_token(value) {
                Some(rest) => rest,
                None => return false,
            },
        };
    }
    rest.is_empty()
}

/// What follows a token, which is not empty.
fn skip_token(text: &str) -> Option<&str> {
    let end = text.find(|c| !is_token_char(c)).unwrap_or(text.len());
    (end > 0).then(|| &text[end..])
}

/// What follows a quoted text whose first quote is behind us. The backslash takes the next character as it is.
fn skip_quoted(text: &str) -> Option<&str> {
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some(chars.as_str()),
            '\\' => drop(chars.next()?),
            _ => {}
        }
    }
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
        let words = self.values("connection").flat_map(|value| value.split(','));
        words.map(|word| trim(word).to_ascii_lowercase()).collect()
    }

    /// Whether the sender of this head keeps its connection (RFC 9112 section 9.3).
    fn persistence(&self, version: &str) -> Result<Persistence, Error> {
        let options = self.connection_options();
        if options.len() > MAX_CONNECTION_OPTIONS {
            return Err(BAD_REQUEST);
        }
        let says = |word: &str| options.iter().any(|option| option == word);
        let is_last = says("close") || (version == "HTTP/1.0" && !says("keep-alive"));
        Ok(if is_last { Persistence::Close } else { Persistence::Keep })
    }

    /// Removes what is about the connection that the message came on, and what others could take for framing.
    fn remove_hop_by_hop(&mut self) {
        let options = self.connection_options();
        self.fields.retain(|(name, _)| {
            let name = name.to_ascii_lowercase();
            let is_named = options.contains(&name) && !NEVER_REMOVED.contains(&name.as_str());
            !is_named && !HOP_BY_HOP.contains(&name.as_str()) && !looks_like_framing(&name)
        });
    }

    fn remove(&mut self, name: &str) {
        self.fields.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// Makes this the only line of its name.
    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.fields.push((name.to_owned(), value.to_owned()));
    }

    /// Says how the body is framed, in the proxy's own words and once.
    fn set_framing(&mut self, framing: Framing) {
        self.remove("Content-Length");
        match framing {
            Framing::None | Framing::UntilClose => {}
            Framing::Length(length) => self.set("Content-Length", &length.to_string()),
            Framing::Chunked => self.set("Transfer-Encoding", "chunked"),
        }
    }
}

/// Applications behind a CGI-like interface read `Content_Length` as Content-Length (S9).
fn looks_like_framing(name: &str) -> bool {
    let read_as = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    name != read_as && (read_as == "content-length" || read_as == "transfer-encoding")
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

/// White space is space and tab. `str::trim` takes more, such as the byte 0xA0.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Which site a request is for must have one answer (RFC 9112 section 3.2, S11): one Host, and the same in a URL.
fn check_host(head: &Head, version: &str, site: Option<(u16, &str)>) -> Result<(), Error> {
    let hosts: Vec<&str> = head.values("host").collect();
    let host = match hosts[..] {
        [host] => Some(read_authority(host).ok_or(BAD_REQUEST)?),
        [] if version == "HTTP/1.0" => None,
        _ => return Err(BAD_REQUEST),
    };
    let Some((default_port, authority)) = site else { return Ok(()) };
    let (name, port) = read_authority(authority).ok_or(BAD_REQUEST)?;
    let is_same = host.is_none_or(|(host, host_port)| {
        name.eq_ignore_ascii_case(host) && port.unwrap_or(default_port) == host_port.unwrap_or(default_port)
    });
    if is_same { Ok(()) } else { Err(BAD_REQUEST) }
}

/// A host, and the port where there is one.
fn read_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end);
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok() || is_future_address(address),
        None => is_host_name(host),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) => Some(u16::try_from(read_number(digits, 10).ok()?).ok()?),
        None => return None,
    };
    is_host.then_some((host, port))
}

/// RFC 3986 section 3.2.2, but for the comma: it would make one Host look like two.
fn is_host_name(host: &str) -> bool {
    let is_char = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+;=%".contains(c);
    let is_encoded = |part: &str| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    !host.is_empty() && host.chars().all(is_char) && host.split('%').skip(1).all(is_encoded)
}

/// `v1.x`: the form that later versions of IP would have.
fn is_future_address(text: &str) -> bool {
    let Some((version, address)) = text.strip_prefix(['v', 'V']).and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let is_char = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+;=:".contains(c);
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_version && !address.is_empty() && address.chars().all(is_char)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
}

/// Reads up to the empty line.
fn read_head(reader: &mut impl BufRead, kind: Kind) -> Result<Head, Error> {
    let mut limited = reader.take(MAX_HEAD_BYTES);
    let mut start = read_line(&mut limited)?;
    if start.is_empty() && kind == Kind::Request {
        // Some clients send an empty line behind a body (RFC 9112 section 2.2).
        start = read_line(&mut limited)?;
    }
    let mut fields = Vec::new();
    loop {
        let line = read_line(&mut limited)?;
        if line.is_empty() {
            return Ok(Head { start, fields });
        }
        if fields.len() == MAX_FIELD_LINES {
            return Err(HEAD_TOO_LARGE);
        }
        fields.push(read_field(&line)?);
    }
}

const HEAD_TOO_LARGE: Error = Error::Status("431 Request Header Fields Too Large");

/// A name that is a token, directly in front of its colon, and a value (S8). A folded line has no such name.
fn read_field(line: &str) -> Result<(String, String), Error> {
    let (name, value) = line.split_once(':').ok_or(BAD_REQUEST)?;
    if !is_token(name) {
        return Err(BAD_REQUEST);
    }
    Ok((name.to_owned(), trim(value).to_owned()))
}

/// Reads a line; its end, CR and LF, is not part of the result. Others see the end of a line in a CR or LF alone, or the end of
/// a text in NUL: a line with any control character but tab is refused (S8).
fn read_line<R: BufRead>(reader: &mut io::Take<R>) -> Result<String, Error> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    let Some(text) = line.strip_suffix(b"\r\n") else {
        return Err(match line.ends_with(b"\n") {
            true => BAD_REQUEST,
            false if reader.limit() == 0 => HEAD_TOO_LARGE,
            false => Error::Io,
        });
    };
    if text.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(BAD_REQUEST);
    }
    Ok(text.iter().copied().map(char::from).collect())
}

/// Method, target and version, with one space between them (S12, S21).
fn read_request_line(start: &str) -> Result<(&str, &str, &str), Error> {
    if start.len() > MAX_REQUEST_LINE_BYTES {
        return Err(Error::Status("414 URI Too Long"));
    }
    let [method, target, version] = start.split(' ').collect::<Vec<_>>()[..] else { return Err(BAD_REQUEST) };
    if !is_token(method) {
        return Err(BAD_REQUEST);
    }
    match (version, version.strip_prefix("HTTP/").map(str::as_bytes)) {
        ("HTTP/1.0" | "HTTP/1.1", _) => {}
        (_, Some([major, b'.', minor])) if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Error::Status("505 HTTP Version Not Supported"));
        }
        _ => return Err(BAD_REQUEST),
    }
    // CONNECT asks for a tunnel, TRACE for the request itself, with what a proxy in front has added.
    if method == "CONNECT" || method == "TRACE" {
        return Err(Error::Status("405 Method Not Allowed"));
    }
    Ok((method, target, version))
}

/// A request target.
struct Target<'a> {
    /// Path and query; `*` for OPTIONS.
    path: String,
    /// Of a URL: the port of its scheme, and host and port.
    site: Option<(u16, &'a str)>,
}

/// Visible characters, in one of the forms that a gateway serves (S11, S12), and without dot segments (S20).
fn read_target<'a>(method: &str, target: &'a str) -> Result<Target<'a>, Error> {
    if !target.chars().all(|c| c.is_ascii_graphic() && c != '#') {
        return Err(BAD_REQUEST);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        check_path(target)?;
        return Ok(Target { path: target.to_owned(), site: None });
    }
    let (scheme, rest) = target.split_once("://").ok_or(BAD_REQUEST)?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return Err(BAD_REQUEST),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    check_path(&path)?;
    Ok(Target { path, site: Some((default_port, authority)) })
}

/// `/app/../admin` is below the prefix for this proxy, and not below it for an upstream that resolves it (S20).
fn check_path(target: &str) -> Result<(), Error> {
    let path = target.split('?').next().unwrap_or_default();
    let decoded = decode(path);
    let is_dots = |segment: &str| {
        // Parameters, and what some take for the end of the path or of the text.
        let name = segment.split([';', '?', '#', '\0']).next().unwrap_or_default();
        matches!(name.trim_matches(|c| c <= ' '), "." | "..")
    };
    if decoded.split(['/', '\\']).any(is_dots) { Err(BAD_REQUEST) } else { Ok(()) }
}

/// A path as the most eager reader decodes it: percent-encoding again and again, `%uXXXX`, and dots that are no ASCII.
fn decode(path: &str) -> String {
    let mut text = path.to_owned();
    loop {
        let decoded = decode_once(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    // Bytes are characters here: overlong UTF-8 for a dot, and the full-width dot U+FF0E.
    text.replace("\u{c0}\u{ae}", ".").replace("\u{ef}\u{bc}\u{8e}", ".")
}

fn decode_once(text: &str) -> String {
    let mut decoded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        decoded += &rest[..at];
        let code = &rest[at + 1..];
        let (digits, len) = if code.starts_with('u') { (code.get(1..5), 5) } else { (code.get(..2), 2) };
        let number = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match number.and_then(|digits| char::from_u32(u32::from_str_radix(digits, 16).ok()?)) {
            Some(c) => {
                decoded.push(c);
                rest = &code[len..];
            }
            None => {
                decoded.push('%');
                rest = code;
            }
        }
    }
    decoded + rest
}

struct ResponseHead {
    head: Head,
    status: u16,
}

fn read_response_head(reader: &mut impl BufRead) -> Result<ResponseHead, Error> {
    let mut head = match read_head(reader, Kind::Response) {
        Ok(head) => head,
        Err(Error::Io) => return Err(Error::Io),
        Err(Error::Status(GATEWAY_TIMEOUT)) => return Err(Error::Status(GATEWAY_TIMEOUT)),
        Err(Error::Status(_)) => return Err(BAD_GATEWAY),
    };
    let (version, rest) = head.start.split_once(' ').ok_or(BAD_GATEWAY)?;
    let (digits, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let status = read_number(digits, 10).ok().and_then(|status| u16::try_from(status).ok()).ok_or(BAD_GATEWAY)?;
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") || digits.len() != 3 || status < 100 {
        return Err(BAD_GATEWAY);
    }
    head.start = format!("{version} {digits} {reason}");
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
