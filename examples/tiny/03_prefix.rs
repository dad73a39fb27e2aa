//! Stage 3: only what is below a prefix is forwarded, and the prefix is taken off.
//!
//! ```text
//! 03-prefix 127.0.0.1:8080 127.0.0.1:9001 /app
//! ```

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// The most bytes of a head. Without a limit one client could fill the memory.
const MAX_HEAD_BYTES: u64 = 16 * 1024;

/// How much a client that was refused may still send, and for how long, before its connection is closed.
const MAX_LINGER_BYTES: u64 = 256 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, upstream, prefix @ ..] = &args[..] else {
        return Err(io::Error::other("usage: 03-prefix LISTEN UPSTREAM [PREFIX]"));
    };
    let route = Route { prefix: prefix.first().cloned().unwrap_or_default(), upstream: upstream.clone() };
    let listener = TcpListener::bind(listen)?;
    for client in listener.incoming() {
        let route = route.clone();
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
#[derive(Clone)]
struct Route {
    /// Without a slash at its end; empty: everything.
    prefix: String,
    upstream: String,
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

/// Why a request was not served.
enum Error {
    /// The client is told so: a status code and its reason phrase.
    Status(&'static str),
    /// A connection is broken, and nobody can be told.
    Io,
}

impl From<io::Error> for Error {
    fn from(_: io::Error) -> Error {
        Error::Io
    }
}

fn serve(client: &TcpStream, route: &Route) {
    if let Err(Error::Status(status)) = forward(client, route) {
        refuse(client, status);
    }
}

fn forward(client: &TcpStream, route: &Route) -> Result<(), Error> {
    let mut reader = BufReader::new(client);
    let mut head = read_head(&mut reader)?;
    let (method, target, version) = read_request_line(&head.start)?;
    let target = route.rewrite(target).ok_or(Error::Status("404 Not Found"))?;
    head.start = format!("{method} {target} {version}");
    let upstream = TcpStream::connect(&route.upstream).map_err(|_| Error::Status("502 Bad Gateway"))?;
    write_head(&upstream, &head)?;
    thread::scope(|scope| {
        // The reader and not the socket: it may hold bytes that came behind the head.
        scope.spawn(|| relay(&mut reader, &upstream));
        relay(&mut &upstream, client);
    });
    Ok(())
}

/// A message head: the first line, and names and values in order. A byte is a character with the same number.
struct Head {
    start: String,
    fields: Vec<(String, String)>,
}

/// Reads up to the empty line.
fn read_head(reader: &mut impl BufRead) -> Result<Head, Error> {
    let mut limited = reader.take(MAX_HEAD_BYTES);
    let start = read_line(&mut limited)?;
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

/// Copies until `from` has ended, and says so to `to`.
fn relay(from: &mut impl Read, mut to: &TcpStream) {
    // An error on either side is an end like any other: there is nobody to tell it to.
    let _ = io::copy(from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
