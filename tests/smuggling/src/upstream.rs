//! The upstream of one entry: what it answers, and when; and the same on real sockets, with a record of what it gets.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::entry::{AfterResponse, Entry};
use crate::strict::{Kind, Message, Parser, Strictness, Token};

/// What the client sends behind an entry, in the same write: the next request on the connection, whose sender is the victim
/// of every attempt that works.
pub const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n";

/// The body of the response to the probe.
pub const PROBE_BODY: &[u8] = b"probe";

const PROBE_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe";
const PLAIN_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PLAIN_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

/// How long a proxy may take to close its idle connections after the upstream has.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The responses of an entry, over all connections to the upstream.
#[derive(Debug)]
pub struct Script<'a> {
    entry: &'a Entry,
    /// The entry's own response has been sent.
    has_responded: bool,
}

/// What the upstream sends now, and what it does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Sent at once.
    pub bytes: &'a [u8],
    /// What follows on this connection.
    pub then: ConnectionAction,
}

/// What follows on an upstream connection after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAction {
    /// More replies to the same request.
    SameRequest,
    /// The next request.
    NextRequest,
    /// Bytes that are not HTTP.
    Tunnel,
    /// The upstream closes it.
    Close,
}

impl<'a> Script<'a> {
    /// The upstream before any request.
    pub fn new(entry: &'a Entry) -> Script<'a> {
        Script { entry, has_responded: false }
    }

    /// The next reply on a connection that has brought these messages, `answered` of which have their response; `None`:
    /// wait.
    pub fn next(&mut self, received: &Parser, answered: usize) -> Option<Reply<'a>> {
        let message = received.messages.get(answered)?;
        if is_probe(&message.head.start) {
            let reply = Reply { bytes: PROBE_RESPONSE, then: ConnectionAction::NextRequest };
            return message.is_complete.then_some(reply);
        }
        let response = self.entry.response.as_deref().filter(|_| !self.has_responded);
        let may_respond = message.is_complete || (self.entry.is_early && response.is_some());
        if !may_respond {
            return None;
        }
        let Some(bytes) = response else {
            let bytes = if message.head.method() == "HEAD" { PLAIN_HEAD } else { PLAIN_RESPONSE };
            return Some(Reply { bytes, then: ConnectionAction::NextRequest });
        };
        self.has_responded = true;
        let then = match (self.entry.after_response, last_status(bytes)) {
            (AfterResponse::Close, _) => ConnectionAction::Close,
            (AfterResponse::KeepOpen, Some(b"101")) => ConnectionAction::Tunnel,
            (AfterResponse::KeepOpen, Some([b'1', ..])) => ConnectionAction::SameRequest,
            (AfterResponse::KeepOpen, _) => ConnectionAction::NextRequest,
        };
        Some(Reply { bytes, then })
    }
}

/// Whether this is the first line of the probe, as it is forwarded.
pub fn is_probe(start: &str) -> bool {
    start.starts_with("GET /probe ")
}

/// The status of the last head in `bytes`.
fn last_status(bytes: &[u8]) -> Option<&[u8]> {
    let start = bytes.windows(9).rposition(|window| window.starts_with(b"HTTP/1.") && window[8] == b' ')?;
    bytes.get(start + 9..start + 12)
}

/// What an upstream got, over all its connections.
#[derive(Debug, Default)]
pub struct Received {
    /// Requests in the order of their heads.
    pub requests: Vec<Message>,
    /// What the strict parser refused.
    pub violations: Vec<String>,
    /// What came through tunnels.
    pub tunnelled: Vec<u8>,
}

/// What the connections of an upstream share.
struct Shared<'a> {
    script: Script<'a>,
    /// The connection of each head, in order of arrival.
    heads: Vec<usize>,
}

/// Plays the upstream of `entry` until `is_over` is set and a last connection ([`wake`]) has come; then closes all
/// connections and returns what they brought. `strictness` is for what the proxy sends; it may take `close_timeout` to close
/// its idle connections.
pub fn serve(
    listener: &TcpListener,
    entry: &Entry,
    strictness: Strictness,
    is_over: &AtomicBool,
    close_timeout: Duration,
) -> io::Result<Received> {
    listener.set_nonblocking(false)?;
    let shared = &Mutex::new(Shared { script: Script::new(entry), heads: Vec::new() });
    let connections = thread::scope(|scope| {
        let (running, all_ended) = mpsc::channel::<()>();
        let (mut streams, mut threads) = (Vec::new(), Vec::new());
        // All that the proxy has opened stands in the queue before the last one: it is drained, and that is the end.
        while let Ok((stream, _)) = listener.accept() {
            let Ok(copy) = stream.try_clone() else { continue };
            streams.push(copy);
            let (number, running) = (threads.len(), running.clone());
            threads.push(scope.spawn(move || {
                let _running = running;
                let connection = Connection::new(number, strictness).serve(&stream, shared);
                // The copy in `streams` keeps it open.
                let _ = stream.shutdown(Shutdown::Write);
                connection
            }));
            if is_over.load(Ordering::Acquire) && listener.set_nonblocking(true).is_err() {
                break;
            }
        }
        // The proxy keeps idle connections, and would use them for the next entry. What it has sent is read before its end.
        drop(running);
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Write)));
        let _ = all_ended.recv_timeout(close_timeout);
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        threads.into_iter().map(|thread| thread.join().expect("no panic in a connection")).collect::<Vec<_>>()
    });
    let mut received = Received::default();
    let mut messages = Vec::new();
    for connection in connections {
        messages.push(connection.parser.messages.into_iter());
        received.violations.extend(connection.parser.error);
        received.tunnelled.extend(connection.tunnelled);
    }
    let shared = shared.lock().expect("no panic in a connection");
    received.requests.extend(shared.heads.iter().filter_map(|&number| messages[number].next()));
    Ok(received)
}

/// Ends the wait of [`serve`].
pub fn wake(listener: &TcpListener) -> io::Result<()> {
    TcpStream::connect(listener.local_addr()?).map(drop)
}

/// One connection of the proxy to the upstream.
struct Connection {
    number: usize,
    parser: Parser,
    answered: usize,
    tunnelled: Vec<u8>,
}

impl Connection {
    fn new(number: usize, strictness: Strictness) -> Connection {
        Connection { number, parser: Parser::new(Kind::Requests, strictness), answered: 0, tunnelled: Vec::new() }
    }

    fn serve(mut self, mut stream: &TcpStream, shared: &Mutex<Shared<'_>>) -> Connection {
        let mut buf = [0; 16 * 1024];
        loop {
            let len = match stream.read(&mut buf) {
                Ok(len @ 1..) => len,
                Ok(0) | Err(_) => return self,
            };
            let before = self.parser.messages.len();
            self.feed(&buf[..len]);
            let new = self.parser.messages.len() - before;
            let mut shared = shared.lock().expect("no panic in a connection");
            shared.heads.extend(std::iter::repeat_n(self.number, new));
            while let Some(reply) = shared.script.next(&self.parser, self.answered) {
                // Reading tells that the proxy has gone.
                let _ = stream.write_all(reply.bytes);
                match reply.then {
                    ConnectionAction::SameRequest => {}
                    ConnectionAction::NextRequest => self.answered += 1,
                    ConnectionAction::Tunnel => {
                        self.answered = usize::MAX;
                        self.parser.switch();
                        self.feed(b"");
                    }
                    ConnectionAction::Close => {
                        self.answered += 1;
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        for token in self.parser.feed(bytes) {
            if let Token::Raw(bytes) = token {
                self.tunnelled.extend(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smug_format::parse;

    fn entry(text: &str) -> Entry {
        parse("test", text).expect("a good text").remove(0)
    }

    fn received(bytes: &[u8]) -> Parser {
        let mut parser = Parser::new(Kind::Requests, Strictness::Lenient);
        parser.feed(bytes);
        parser
    }

    #[test]
    fn each_request_is_answered_when_it_is_complete() {
        let entry = entry("S18 x\n< HTTP/1.1 404 Not Found\n<\n= 404");
        let mut script = Script::new(&entry);
        let whole = received(b"GET / HTTP/1.1\r\n\r\nGET /probe HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n");
        let replies: Vec<_> = (0..4).map(|answered| script.next(&whole, answered)).collect();
        let next = |bytes| Some(Reply { bytes, then: ConnectionAction::NextRequest });
        assert_eq!(replies, [next(b"HTTP/1.1 404 Not Found\r\n\r\n"), next(PROBE_RESPONSE), next(PLAIN_HEAD), None]);
        let half = received(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na");
        assert_eq!(Script::new(&entry).next(&half, 0), None);
    }

    #[test]
    fn what_follows_depends_on_the_response() {
        for (text, then) in [
            ("! early\n< HTTP/1.1 100 Continue\n<\n= 200", ConnectionAction::SameRequest),
            ("! early\n< HTTP/1.1 100 Continue\n<\n< HTTP/1.1 200 OK\n<\n= 200", ConnectionAction::NextRequest),
            ("! early\n< HTTP/1.1 101 Switching Protocols\n<\n= 101", ConnectionAction::Tunnel),
            ("! early\n! upstream closes\n< HTTP/1.1 200 OK\n<\n= 200", ConnectionAction::Close),
            ("! early\n< rubbish\n= 502", ConnectionAction::NextRequest),
        ] {
            let entry = entry(&format!("S18 x\n{text}"));
            let half = received(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na");
            assert_eq!(Script::new(&entry).next(&half, 0).map(|reply| reply.then), Some(then), "{text}");
        }
    }
}
