//! One end of a raw HTTP/1.1 connection, for clients and for origins.
//!
//! It reads messages with a parser of its own, simple and strict, so that the proxy is not judged by its own code.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;

/// A message as it arrived. `body` is decoded; chunk sizes are in `chunks`.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub chunks: Vec<usize>,
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// The values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The value of a field that must not stand there twice.
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} stands there {} times: {self:?}", values.len());
        values.first().copied()
    }

    pub fn status(&self) -> u16 {
        let digits = self.start.strip_prefix("HTTP/1.1 ").or_else(|| self.start.strip_prefix("HTTP/1.0 "));
        digits.and_then(|text| text.get(..3)?.parse().ok()).unwrap_or_else(|| panic!("not a status line: {self:?}"))
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// A connection. Every call panics with a reason when the other side takes longer than [`PATIENCE`].
pub struct Peer<S = TcpStream> {
    reader: BufReader<S>,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        stream.set_nodelay(true).expect("a socket takes nodelay");
        Peer { reader: BufReader::with_capacity(64 * 1024, stream) }
    }

    pub fn connect(address: SocketAddr) -> Peer {
        Peer::new(TcpStream::connect_timeout(&address, PATIENCE).expect("connects"))
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends no more; reading goes on.
    pub fn shutdown(&self) {
        self.stream().shutdown(Shutdown::Write).expect("shutdown");
    }

    /// Closes with a reset.
    pub fn reset(self) {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).expect("a socket takes a linger time");
    }

    /// The socket, and what was read from it but not used.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let rest = self.reader.buffer().to_vec();
        (self.reader.into_inner(), rest)
    }
}

/// Over anything that takes and gives bytes, such as TLS.
impl<S: Read + Write> Peer<S> {
    /// Time-outs are the stream's own business.
    pub fn over(stream: S) -> Peer<S> {
        Peer { reader: BufReader::with_capacity(64 * 1024, stream) }
    }

    pub fn inner(&mut self) -> &mut S {
        self.reader.get_mut()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes bytes");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// `GET target` with a Host, nothing else.
    pub fn get(&mut self, target: &str) -> Message {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.response()
    }

    /// The next request, or `None` at the end of the connection.
    pub fn request(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        self.read_request_body(&mut message);
        Some(message)
    }

    /// The body of a request whose head was read.
    pub fn read_request_body(&mut self, message: &mut Message) {
        let chunked = message.field("Transfer-Encoding").is_some();
        let length = message.field("Content-Length").map(|digits| digits.parse().expect("a length"));
        assert!(!(chunked && length.is_some()), "two framings: {message:?}");
        match length {
            Some(length) => message.body = self.bytes(length),
            None if chunked => self.chunked(message),
            None => {}
        }
    }

    /// The next response, interim ones included, to a request that was not HEAD.
    pub fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    pub fn response_to(&mut self, method: &str) -> Message {
        let mut message = self.head().expect("a response and not the end of the connection");
        if method == "HEAD" || message.status() < 200 || matches!(message.status(), 204 | 304) {
            return message;
        }
        let length = message.field("Content-Length").map(|digits| digits.parse().expect("a length"));
        match (message.field("Transfer-Encoding"), length) {
            (Some(coding), None) => {
                assert_eq!(coding, "chunked");
                self.chunked(&mut message);
            }
            (None, Some(length)) => message.body = self.bytes(length),
            (None, None) => message.body = self.rest(),
            (Some(_), Some(_)) => panic!("two framings: {message:?}"),
        }
        message
    }

    /// A start line and its fields, without any body; `None` at the end of the connection.
    pub fn head(&mut self) -> Option<Message> {
        let start = self.line()?;
        Some(Message { start, fields: self.field_lines(), ..Message::default() })
    }

    fn field_lines(&mut self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().expect("a whole field section");
            if line.is_empty() {
                return fields;
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a field line: {line:?}"));
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            assert!(!name.is_empty() && name.chars().all(token), "not a field name: {line:?}");
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    fn chunked(&mut self, message: &mut Message) {
        loop {
            let line = self.line().expect("a chunk size");
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("not a bare chunk size: {line:?}"));
            if size == 0 {
                message.trailers = self.field_lines();
                return;
            }
            message.chunks.push(size);
            message.body.extend(self.bytes(size));
            assert_eq!(self.line().as_deref(), Some(""), "chunk data ends with CRLF");
        }
    }

    /// A line without its CRLF; `None` at the end of the connection.
    pub fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).into_owned();
                match text.strip_suffix("\r\n") {
                    Some(line) if !line.contains('\r') => Some(line.to_owned()),
                    Some(_) | None => panic!("not a line that ends with CRLF: {text:?}"),
                }
            }
            Err(error) => panic!("waited for a line: {error}"),
        }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.reader.read_exact(&mut bytes).unwrap_or_else(|error| panic!("waited for {len} bytes: {error}"));
        bytes
    }

    /// What is there now, at least one byte; empty at the end.
    pub fn some_bytes(&mut self) -> io::Result<Vec<u8>> {
        let len = self.fill()?;
        let bytes = self.reader.buffer()[..len].to_vec();
        self.reader.consume(len);
        Ok(bytes)
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        self.try_rest().unwrap_or_else(|error| panic!("waited for the end of the connection: {error}"))
    }

    /// Everything up to the end of the connection, which may be a reset.
    pub fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Waits until the other side has closed, in whatever way, and says whether it sent nothing more before.
    pub fn is_closed(&mut self) -> bool {
        match self.fill() {
            Ok(len) => len == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Waits for bytes, and tells how many there are; none at the end.
    fn fill(&mut self) -> io::Result<usize> {
        uninterrupted(|| self.reader.fill_buf().map(<[u8]>::len))
    }
}

/// A read of a socket with a time-out is interrupted when the process was stopped for a while and goes on, also where no signal
/// is handled (signal(7)).
fn uninterrupted(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The `Read` half, for bodies of any size.
impl<S: Read> Read for Peer<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.reader.read(buf))
    }
}
