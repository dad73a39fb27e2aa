//! The far ends: clients that verify that each answer is whole, and their own; origins that each request is.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use selftest::strict::{Parser, RequestInfo};

use super::fault_plan::Random;

/// One end of a connection as its owner plays it.
pub(super) struct Wire {
    pub(super) socket: Option<UnixStream>,
    pub(super) outgoing: VecDeque<u8>,
    /// Nothing is read for now.
    pub(super) is_sulking: bool,
    pub(super) has_shut: bool,
}

/// What a read found.
pub(super) enum Heard {
    Bytes(Vec<u8>),
    Nothing,
    /// The other end closed; or broke off.
    End,
}

impl Wire {
    pub(super) fn new(socket: UnixStream) -> Wire {
        Wire { socket: Some(socket), outgoing: VecDeque::new(), is_sulking: false, has_shut: false }
    }

    /// Writes a piece of what is due; says whether anything moved.
    pub(super) fn write(&mut self, random: &mut Random) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let (front, _) = self.outgoing.as_slices();
        if front.is_empty() {
            return false;
        }
        let most = [1, 60, 3_000, 20_000, 60_000, 60_000, 60_000, 60_000][random.below(8)];
        let len = 1 + random.below(front.len().min(most));
        match socket.write(&front[..len]) {
            Ok(len) => {
                self.outgoing.drain(..len);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            // Nobody is there any more; what is to be read tells.
            Err(_) => {
                self.outgoing.clear();
                true
            }
        }
    }

    pub(super) fn read(&mut self, random: &mut Random) -> Heard {
        let Some(socket) = self.socket.as_mut().filter(|_| !self.is_sulking) else { return Heard::Nothing };
        let most = [1, 4_000, 70_000, 70_000, 70_000, 70_000][random.below(6)];
        let mut buf = vec![0; 1 + random.below(most)];
        match socket.read(&mut buf) {
            Ok(0) => Heard::End,
            Ok(len) => {
                buf.truncate(len);
                Heard::Bytes(buf)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }

    pub(super) fn shut(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Write);
            self.has_shut = true;
        }
    }
}

/// The bytes of body number `id`.
pub(super) fn body(id: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| b'a' + ((id * 7 + at + at / 23) % 26) as u8).collect()
}

/// What a request asks for, told by its path: `/KIND/ID/LEN`.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) kind: usize,
    pub(super) id: usize,
    pub(super) len: usize,
}

impl Ask {
    pub(super) fn new(random: &mut Random, id: usize) -> Ask {
        let lens = [0, 1, 50, 50, 300, 300, 300, 3_000, 3_000, 3_000, 30_000, 100_000];
        let len = lens[random.below(lens.len())];
        Ask { kind: random.below(9), id, len }
    }

    pub(super) fn of(target: &str) -> Option<Ask> {
        let mut numbers = target.strip_prefix('/')?.split('/').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Ask { kind: next()?, id: next()?, len: next()? })
    }

    pub(super) fn method(&self) -> &'static str {
        match self.kind {
            3 => "HEAD",
            4 | 5 => "POST",
            _ => "GET",
        }
    }

    pub(super) fn uploads(&self) -> bool {
        matches!(self.kind, 4 | 5)
    }

    pub(super) fn request(&self) -> Vec<u8> {
        let Ask { kind, id, len } = self;
        let head = format!("{} /{kind}/{id}/{len} HTTP/1.1\r\nHost: h\r\n", self.method());
        let content = body(*id, *len);
        match kind {
            4 => [format!("{head}Content-Length: {len}\r\n\r\n").as_bytes(), &content].concat(),
            5 => [format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(), chunks(&content)].concat(),
            _ => format!("{head}\r\n").into_bytes(),
        }
    }

    /// What the origin answers; `true`: it closes then.
    pub(super) fn response(&self) -> (Vec<u8>, bool) {
        let Ask { kind, id, len } = self;
        let content = body(*id, *len);
        // Some ask for a login, and keep the connection for that client.
        let login = if id % 5 == 0 { "WWW-Authenticate: NTLM\r\n" } else { "" };
        let head = format!("HTTP/1.1 {} OK\r\n{login}X-Id: {id}\r\n", if login.is_empty() { 200 } else { 401 });
        let whole = |head: &str| [format!("{head}Content-Length: {len}\r\n\r\n").as_bytes(), &content].concat();
        match kind {
            1 | 5 => {
                ([format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(), chunks(&content)].concat(), false)
            }
            2 => ([format!("{head}\r\n").as_bytes(), &content].concat(), true),
            3 => (format!("{head}Content-Length: {len}\r\n\r\n").into_bytes(), false),
            6 => (whole(&format!("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{head}")), false),
            7 => (format!("HTTP/1.1 204 No Content\r\nX-Id: {id}\r\n\r\n").into_bytes(), false),
            8 => (whole(&format!("{head}Connection: close\r\n")), true),
            _ => (whole(&head), false),
        }
    }

    pub(super) fn is_close_delimited(&self) -> bool {
        self.kind == 2
    }

    pub(super) fn has_body(&self) -> bool {
        !matches!(self.kind, 3 | 7)
    }
}

pub(super) fn chunks(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in content.chunks(1 + content.len() / 3) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

pub(super) struct Client {
    pub(super) wire: Wire,
    pub(super) asks: Vec<Ask>,
    /// Not written yet, the first one last.
    pub(super) unasked: Vec<Ask>,
    pub(super) pipelines: bool,
    pub(super) answers: Parser,
    pub(super) checked: usize,
    pub(super) is_over: bool,
}

impl Client {
    pub(super) fn final_responses(&self) -> usize {
        self.answers.final_responses().filter(|message| message.is_complete).count()
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_over
            || self.wire.socket.is_none()
            || (self.unasked.is_empty() && self.final_responses() == self.asks.len())
    }

    /// Asks the next, if it is time; reads what there is.
    pub(super) fn act(&mut self, random: &mut Random, is_fair: bool) -> Result<bool, String> {
        if self.is_over {
            return Ok(false);
        }
        if self.wire.outgoing.is_empty()
            && (self.pipelines || self.final_responses() == self.asks.len())
            && let Some(ask) = self.unasked.pop()
        {
            self.answers.expect_response(RequestInfo { method: ask.method().to_owned(), is_http10: false });
            self.wire.outgoing.extend(ask.request());
            self.asks.push(ask);
        }
        let mut moved = self.wire.write(random);
        match self.wire.read(random) {
            Heard::Nothing => {}
            Heard::Bytes(bytes) => {
                self.answers.feed(&bytes);
                moved = true;
            }
            Heard::End => {
                self.answers.finish();
                self.is_over = true;
                self.wire.socket = None;
                moved = true;
            }
        }
        self.check(is_fair)?;
        Ok(moved)
    }

    /// Each answer is to its own request, and not longer than it should be.
    pub(super) fn check(&mut self, is_fair: bool) -> Result<(), String> {
        if let Some(error) = &self.answers.error {
            return Err(format!("a client was sent: {error}"));
        }
        if self.answers.unsolicited > 0 {
            return Err("a client got an answer that it never asked for".to_owned());
        }
        let finals: Vec<_> = self.answers.final_responses().collect();
        for (message, ask) in finals.iter().zip(&self.asks).skip(self.checked) {
            let Some(id) = message.head.values("x-id").next() else { continue };
            if id != ask.id.to_string() {
                return Err(format!("the answer to {id} was given to whom asked for {}", ask.id));
            }
            if !message.is_complete && !self.is_over {
                break;
            }
            let expected = if ask.has_body() { body(ask.id, ask.len) } else { Vec::new() };
            // Nobody can tell where a body of this kind was meant to end when its origin breaks off.
            let may_be_short = !message.is_complete || (ask.is_close_delimited() && !is_fair);
            if message.body != expected && !(may_be_short && expected.starts_with(&message.body)) {
                let (got, wanted) = (message.body.len(), expected.len());
                return Err(format!("the body of {ask:?} is wrong: {got} bytes of {wanted}, taken for complete"));
            }
        }
        self.checked = finals.iter().take_while(|message| message.is_complete).count();
        Ok(())
    }
}

pub(super) struct Origin {
    pub(super) wire: Wire,
    pub(super) requests: Parser,
    pub(super) answered: usize,
    pub(super) closes: bool,
    pub(super) is_mute: bool,
}

impl Origin {
    pub(super) fn act(&mut self, random: &mut Random) -> Result<bool, String> {
        if self.wire.socket.is_none() {
            return Ok(false);
        }
        let mut moved = self.wire.write(random);
        match self.wire.read(random) {
            Heard::Nothing => {}
            Heard::Bytes(bytes) => {
                self.requests.feed(&bytes);
                moved = true;
            }
            Heard::End => {
                self.wire.socket = None;
                return Ok(true);
            }
        }
        if let Some(error) = &self.requests.error {
            return Err(format!("an origin was sent: {error}"));
        }
        if let Some(request) = self.requests.messages.get(self.answered).filter(|request| request.is_complete) {
            if !self.wire.outgoing.is_empty() {
                return Err("an origin was asked again before it had answered".to_owned());
            }
            let target = request.head.start.split(' ').nth(1).unwrap_or_default();
            let ask = Ask::of(target).ok_or_else(|| format!("an origin was asked for {target}"))?;
            let expected = if ask.uploads() { body(ask.id, ask.len) } else { Vec::new() };
            if request.body != expected || request.head.method() != ask.method() {
                return Err(format!("the request {ask:?} arrived changed"));
            }
            self.answered += 1;
            if !self.is_mute {
                let (bytes, closes) = ask.response();
                self.wire.outgoing.extend(bytes);
                self.closes = closes;
            }
            moved = true;
        }
        if self.closes && self.wire.outgoing.is_empty() && !self.wire.has_shut {
            self.wire.shut();
            moved = true;
        }
        Ok(moved)
    }
}
