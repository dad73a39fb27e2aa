//! A tiny HTTP client for plugins that ask another service: kept connections, and one time limit for all but the look-up of a
//! name, which the system bounds. It blocks: call it on a [`Pool`](crate::Pool) while the exchange waits in a
//! [`Pause`](crate::Pause).
//!
//! Behind the feature `client`.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;
use crate::validate;

/// Bytes of an answer's head, and of each line of its chunks.
const MAX_HEAD: usize = 16 * 1024;
/// Field lines of an answer.
const MAX_FIELDS: usize = 64;
/// Connections that are kept.
const MAX_IDLE: usize = 16;

/// Host with port, and path, of an `http` URL.
pub fn parse_url(url: &str) -> Result<(&str, &str), Error> {
    let rest = url.strip_prefix("http://").ok_or_else(|| Error::new("url must begin with http://"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    if !validate::is_authority(host.as_bytes()) || !validate::is_target(path.as_bytes()) {
        return Err(Error::new("url must be http://HOST:PORT/PATH"));
    }
    Ok((host, path))
}

/// Where to connect to: with a port.
fn with_port(host: &str) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
    if has_port { host.to_owned() } else { format!("{}:80", host.trim_end_matches(':')) }
}

/// One service.
#[derive(Debug)]
pub struct Client {
    address: String,
    max_body: usize,
    idle: Mutex<Vec<TcpStream>>,
}

/// What the service said.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 999
    pub status: u16,
    /// Field lines in order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Empty where there is none.
    pub body: Vec<u8>,
}

impl Answer {
    /// The values of the lines of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_slice())
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A connection with a time limit.
struct Timed<'a> {
    stream: &'a TcpStream,
    end: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        left(self.end)
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    left.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "it took too long"))
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        match self.stream.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"))
            }
            other => other,
        }
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Client {
    /// For the service at `host`, which may have a port. An answer with a body above `max_body` bytes is an error.
    pub fn new(host: &str, max_body: usize) -> Client {
        Client { address: with_port(host), max_body, idle: Mutex::default() }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request, head and body as they go over the wire, and reads what comes back.
    pub fn ask(&self, request: &[u8], end: Instant) -> io::Result<Answer> {
        let can_be_repeated = [&b"GET "[..], b"HEAD ", b"OPTIONS "].iter().any(|method| request.starts_with(method));
        if can_be_repeated && let Some(stream) = self.kept() {
            match self.exchange(stream, end, request) {
                // The service may have closed a connection that nobody used.
                Err(error) if error.kind() != io::ErrorKind::TimedOut && error.kind() != io::ErrorKind::InvalidData => {
                }
                other => return other,
            }
        }
        self.exchange(self.connect(end)?, end, request)
    }

    /// A connection that is still open, and on which nothing has come that nobody asked for, such as a 408.
    fn kept(&self) -> Option<TcpStream> {
        loop {
            let stream = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let is_quiet = || {
                stream.set_nonblocking(true)?;
                let peeked = stream.peek(&mut [0]);
                stream.set_nonblocking(false)?;
                Ok::<_, io::Error>(peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
            };
            if is_quiet().unwrap_or(false) {
                return Some(stream);
            }
        }
    }

    fn connect(&self, end: Instant) -> io::Result<TcpStream> {
        let mut last = invalid("its name has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, left(end)?) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn exchange(&self, stream: TcpStream, end: Instant, request: &[u8]) -> io::Result<Answer> {
        let mut timed = Timed { stream: &stream, end };
        timed.write_all(request)?;
        let (answer, can_be_kept) = read_answer(&mut timed, request.starts_with(b"HEAD "), self.max_body)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if can_be_kept && idle.len() < MAX_IDLE {
            idle.push(stream);
        }
        Ok(answer)
    }
}

/// Bytes that were read, and where more come from.
struct Reader<R> {
    from: R,
    buf: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads more; says whether there was any.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let count = loop {
            match self.from.read(&mut bytes) {
                // By a signal: the time limit counts on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buf.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    fn fill_or_fail(&mut self) -> io::Result<()> {
        if self.fill()? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Takes exactly `count` bytes.
    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buf.len() < count {
            self.fill_or_fail()?;
        }
        let rest = self.buf.split_off(count);
        Ok(std::mem::replace(&mut self.buf, rest))
    }

    /// Takes a line, without its CRLF.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buf.windows(2).position(|end| end == b"\r\n") {
                let mut line = self.take(end + 2)?;
                line.truncate(end);
                return Ok(line);
            }
            if self.buf.len() > MAX_HEAD {
                return Err(invalid("a line is too long"));
            }
            self.fill_or_fail()?;
        }
    }
}

/// Where a body ends (RFC 9112 section 6.3).
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// Reads an answer; says whether the connection can be used again.
fn read_answer(from: impl Read, is_head: bool, max_body: usize) -> io::Result<(Answer, bool)> {
    let mut reader = Reader { from, buf: Vec::new() };
    let (mut answer, mut version) = read_head(&mut reader)?;
    while (100..200).contains(&answer.status) {
        if answer.status == 101 {
            return Err(invalid("it switched protocols"));
        }
        (answer, version) = read_head(&mut reader)?;
    }
    // HTTP/1.0 has no chunks, and keeps no connection that it did not promise to keep.
    if version == 0 && answer.all("transfer-encoding").next().is_some() {
        return Err(invalid("its framing is unclear"));
    }
    let framing = if is_head { Framing::Length(0) } else { framing(&answer)? };
    let can_be_kept = match framing {
        Framing::Length(length) => {
            if length > max_body {
                return Err(invalid("its body is too large"));
            }
            answer.body = reader.take(length)?;
            true
        }
        Framing::Chunked => {
            answer.body = read_chunks(&mut reader, max_body)?;
            true
        }
        Framing::UntilClose => {
            while reader.fill()? {
                if reader.buf.len() > max_body {
                    return Err(invalid("its body is too large"));
                }
            }
            answer.body = std::mem::take(&mut reader.buf);
            false
        }
    };
    let closes =
        answer.all("connection").any(|value| value.to_ascii_lowercase().windows(5).any(|word| word == b"close"));
    Ok((answer, can_be_kept && version == 1 && !closes && reader.buf.is_empty()))
}

/// Reads a head; gives the minor version beside it.
fn read_head(reader: &mut Reader<impl Read>) -> io::Result<(Answer, u8)> {
    loop {
        let mut lines = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut lines);
        let parsed = head.parse(&reader.buf).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let httparse::Status::Complete(length) = parsed {
            let version = head.version.unwrap_or(0);
            let field = |line: &httparse::Header<'_>| (line.name.to_owned(), line.value.to_vec());
            let answer = Answer {
                status: head.code.unwrap_or(0),
                fields: head.headers.iter().map(field).collect(),
                body: Vec::new(),
            };
            reader.buf.drain(..length);
            return Ok((answer, version));
        }
        if reader.buf.len() > MAX_HEAD {
            return Err(invalid("its head is too large"));
        }
        reader.fill_or_fail()?;
    }
}

fn framing(answer: &Answer) -> io::Result<Framing> {
    if matches!(answer.status, 204 | 304) {
        return Ok(Framing::Length(0));
    }
    let mut codings = answer.all("transfer-encoding");
    if let Some(coding) = codings.next() {
        let is_chunked = coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        // With both it is not to be trusted (RFC 9112 section 6.1).
        let has_length = answer.all("content-length").next().is_some();
        return if is_chunked && !has_length { Ok(Framing::Chunked) } else { Err(invalid("its framing is unclear")) };
    }
    let mut lengths = answer.all("content-length");
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(Framing::UntilClose),
        (Some(digits), None) => {
            number(digits, 10).map(Framing::Length).ok_or_else(|| invalid("its length is no number"))
        }
        (Some(_), Some(_)) => Err(invalid("it has two lengths")),
    }
}

/// Digits only: no sign, no white space.
fn number(digits: &[u8], radix: u32) -> Option<usize> {
    let add = |number: usize, &digit: &u8| {
        number.checked_mul(radix as usize)?.checked_add(char::from(digit).to_digit(radix)? as usize)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

fn read_chunks(reader: &mut Reader<impl Read>, max_body: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = reader.line()?;
        let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
        let size = number(digits, 16).ok_or_else(|| invalid("the size of a chunk is no number"))?;
        if size == 0 {
            break;
        }
        if size > max_body || body.len() + size > max_body {
            return Err(invalid("its body is too large"));
        }
        body.append(&mut reader.take(size)?);
        if reader.take(2)? != b"\r\n" {
            return Err(invalid("a chunk does not end where it says"));
        }
    }
    // Trailer fields.
    for _ in 0..MAX_FIELDS {
        if reader.line()?.is_empty() {
            return Ok(body);
        }
    }
    Err(invalid("too many trailer fields"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<(u16, String, bool), String> {
        let (answer, can_be_kept) = read_answer(text, false, 65536).map_err(|error| error.to_string())?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned(), can_be_kept))
    }

    #[test]
    fn port_80_is_that_of_a_host_without() {
        for (host, address) in
            [("a", "a:80"), ("a:", "a:80"), ("a:1", "a:1"), ("[::1]", "[::1]:80"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(Client::new(host, 0).address(), address);
        }
    }

    #[test]
    fn answers_are_read_to_their_end() {
        let rows: [(&str, (u16, &str, bool)); 11] = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, "ok", true)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore", (200, "ok", false)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nok", (200, "ok", false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, "ok", false)),
            ("HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, "until the end", false)),
            ("HTTP/1.1 401 No\r\n\r\nuntil the end", (401, "until the end", false)),
            ("HTTP/1.1 204 No Content\r\n\r\n", (204, "", true)),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", (304, "", true)),
            ("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (200, "", true)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\nA \r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
                (200, "ok0123456789", true),
            ),
            ("HTTP/1.1 302 Found\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", (302, "", true)),
        ];
        for (text, (status, body, can_be_kept)) in rows {
            assert_eq!(read(text.as_bytes()), Ok((status, body.to_owned(), can_be_kept)), "{text}");
        }
    }

    #[test]
    fn a_signal_does_not_end_the_reading() {
        struct Interrupted<'a>(bool, &'a [u8]);
        impl Read for Interrupted<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 = !self.0;
                if self.0 { Err(io::ErrorKind::Interrupted.into()) } else { self.1.read(buf) }
            }
        }
        let (answer, _) = read_answer(Interrupted(false, b"HTTP/1.1 200 OK\r\n\r\nok"), false, 2).unwrap();
        assert_eq!(answer.body, b"ok");
    }

    #[test]
    fn an_answer_to_head_has_no_body_whatever_its_fields_say() {
        for field in ["Content-Length: 5", "Transfer-Encoding: chunked", "X: y"] {
            let text = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n");
            let (answer, can_be_kept) = read_answer(text.as_bytes(), true, 10).unwrap();
            assert_eq!((answer.body, can_be_kept), (Vec::new(), true), "{field}");
        }
    }

    #[test]
    fn what_is_no_answer_or_has_no_end_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(20_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(65));
        let body = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(70_000));
        let chunks = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            format!("4000\r\n{}\r\n", "x".repeat(0x4000)).repeat(5)
        );
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokx\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nok",
            long.as_str(),
            many.as_str(),
            body.as_str(),
            chunks.as_str(),
        ] {
            assert!(read(text.as_bytes()).is_err(), "{:.60}", text);
        }
    }
}
