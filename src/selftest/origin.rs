//! The origin of one entry, on real sockets: it says what its [`Script`] says and records what it hears.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::entry::Entry;
use super::script::{Script, Then};
use super::strict::{Kind, Message, Parser, Token, Whose};

/// What an origin was sent, over all its connections.
#[derive(Debug, Default)]
pub struct Heard {
    /// Requests in the order of their heads.
    pub messages: Vec<Message>,
    /// What the strict parser refused.
    pub sins: Vec<String>,
    /// What came through tunnels.
    pub tunnelled: Vec<u8>,
}

/// Answers on `listener` until `is_over`, and gives what it heard when every connection has ended. Whoever says that it
/// is over has closed the other ends before, and calls [`wake`] afterwards. `whose` says how strict to be with what is
/// heard.
pub fn record(listener: &TcpListener, entry: &Entry, whose: Whose, is_over: &AtomicBool) -> Heard {
    let shared = Mutex::new(Shared { script: Script::new(entry), heads: Vec::new() });
    let mut connections = Vec::new();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            let (number, shared) = (threads.len(), &shared);
            threads.push(scope.spawn(move || Connection::new(number, whose, shared).serve(stream)));
            // The call that ended the wait stands behind all others; what is left is here already.
            if is_over.load(Ordering::Acquire) && listener.set_nonblocking(true).is_err() {
                break;
            }
        }
        connections.extend(threads.into_iter().filter_map(|thread| thread.join().ok()));
    });
    let heads = lock(&shared).heads.clone();
    let mut heard = Heard::default();
    let mut messages: Vec<_> = Vec::new();
    for connection in connections {
        messages.push(connection.parser.messages.into_iter());
        heard.sins.extend(connection.parser.error);
        heard.tunnelled.extend(connection.raw);
    }
    heard.messages.extend(heads.into_iter().filter_map(|number| messages[number].next()));
    heard
}

/// Ends the wait of [`record`] for a connection.
pub fn wake(address: SocketAddr) {
    let _ = TcpStream::connect(address);
}

/// What the connections of an origin have in common.
struct Shared<'a> {
    script: Script<'a>,
    /// On which connection each head came.
    heads: Vec<usize>,
}

/// A thread that panicked while it held the lock has left whole values behind: each is written in one step.
fn lock<'a, 'b>(shared: &'b Mutex<Shared<'a>>) -> MutexGuard<'b, Shared<'a>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection of the proxy to the origin.
struct Connection<'a, 'b> {
    number: usize,
    shared: &'b Mutex<Shared<'a>>,
    parser: Parser,
    answered: usize,
    raw: Vec<u8>,
}

impl<'a, 'b> Connection<'a, 'b> {
    fn new(number: usize, whose: Whose, shared: &'b Mutex<Shared<'a>>) -> Connection<'a, 'b> {
        let parser = Parser::new(Kind::Requests, whose);
        Connection { number, shared, parser, answered: 0, raw: Vec::new() }
    }

    fn serve(mut self, mut stream: TcpStream) -> Connection<'a, 'b> {
        let mut buf = [0; 16 * 1024];
        loop {
            let len = match stream.read(&mut buf) {
                Ok(len @ 1..) => len,
                Ok(0) | Err(_) => return self,
            };
            let before = self.parser.messages.len();
            let tokens = self.parser.feed(&buf[..len]);
            self.keep_raw(tokens);
            let new = self.parser.messages.len() - before;
            let mut shared = lock(self.shared);
            shared.heads.extend(std::iter::repeat_n(self.number, new));
            while let Some(reply) = shared.script.next(&self.parser, self.answered) {
                // A proxy that has gone away is found out by reading.
                let _ = stream.write_all(reply.bytes);
                match reply.then {
                    Then::More => {}
                    Then::Next => self.answered += 1,
                    Then::Tunnel => {
                        self.answered = usize::MAX;
                        self.parser.switch();
                        let tokens = self.parser.feed(b"");
                        self.keep_raw(tokens);
                    }
                    Then::Close => {
                        self.answered += 1;
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
            }
        }
    }

    /// Bytes behind a 101 are not HTTP.
    fn keep_raw(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            match token {
                Token::Raw(bytes) => self.raw.extend(bytes),
                Token::Head(_) | Token::Data(_) | Token::Chunk(_) | Token::LastChunk(_) => {}
            }
        }
    }
}
