//! Stage 2: the head of the request is read and understood before anything is sent on. What follows it is still relayed.
//!
//! ```text
//! 02-head 127.0.0.1:8080 127.0.0.1:9001
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
    let [listen, upstream, ..] = &args[..] else {
        return Err(io::Error::other("usage: 02-head LISTEN UPSTREAM"));
    };
    let listener = TcpListener::bind(listen)?;
    for client in listener.incoming() {
        let upstream = upstream.clone();
        // One thread for each client: a slow one keeps nobody else waiting.
        thread::spawn(move || {
            if let Ok(client) = client {
                serve(&client, &upstream);
            }
        });
    }
    Ok(())
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

fn serve(client: &TcpStream, upstream: &str) {
    if let Err(Error::Status(status)) = forward(client, upstream) {
        refuse(client, status);
    }
}

fn forward(client: &TcpStream, upstream: &str) -> Result<(), Error> {
    let mut reader = BufReader::new(client);
    let head = read_head(&mut reader)?;
    check_request_line(&head)?;
    let upstream = TcpStream::connect(upstream).map_err(|_| Error::Status("502 Bad Gateway"))?;
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

fn check_request_line(head: &Head) -> Result<(), Error> {
    match head.start.split(' ').collect::<Vec<_>>()[..] {
        [_, _, "HTTP/1.0" | "HTTP/1.1"] => Ok(()),
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
