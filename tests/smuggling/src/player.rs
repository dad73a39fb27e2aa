//! A [`WireScript`] through a program: this is its clients and its upstream, over real sockets.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::program::{Program, free_address};
use crate::strict::{Kind, Message, Parser, RequestInfo, Strictness};
use crate::wire_script::{Action, Expected, Side, Step, WireScript, matches, matches_start};

/// Why a script has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The index of the step that was not as it should be; the number of all steps where something came behind the last one.
    pub step: usize,
    /// What is wrong, a sentence each.
    pub wrong: Vec<String>,
    /// What came where the step expected a message.
    pub came: Vec<u8>,
    /// What the program wrote to its standard error.
    pub stderr: String,
}

/// Starts `command` and plays the script through it; `None`: all is as it should be. An expectation may take `timeout`.
pub fn play(command: &str, script: &WireScript, timeout: Duration) -> io::Result<Option<Failure>> {
    let (sender, events) = mpsc::channel();
    let upstream = if script.is_upstream_down { None } else { Some(Upstream::start(sender.clone())?) };
    let address = upstream.as_ref().map_or_else(free_address, |upstream| Ok(upstream.address))?;
    let mut program = Program::start(command, address, script.prefix.as_deref())?;
    let mut play = Play {
        proxy: program.address,
        sender,
        events,
        timeout,
        clients: Vec::new(),
        upstreams: Vec::new(),
        requests: Vec::new(),
    };
    let failure = play.run(&script.steps);
    let stderr = program.stop();
    // The program is gone, and all that it has sent is on its way here.
    drop(upstream);
    let failure = failure.or_else(|| play.look_for_more().map(|failure| failure.at(script.steps.len())));
    Ok(failure.map(|failure| Failure { stderr, ..failure }))
}

impl Failure {
    fn new(wrong: impl Into<String>) -> Failure {
        Failure { step: 0, wrong: vec![wrong.into()], came: Vec::new(), stderr: String::new() }
    }

    fn at(self, step: usize) -> Failure {
        Failure { step, ..self }
    }
}

/// Which connection: of the clients or to the upstream, and its number there.
type Place = (Side, usize);

/// What the threads that read report.
enum Event {
    /// The program has connected to the upstream.
    Accepted(TcpStream),
    /// Bytes have come.
    Bytes(Place, Vec<u8>),
    /// The other end has closed.
    Closed(Place),
}

/// One connection, seen from the end that is played here.
struct Peer {
    stream: TcpStream,
    parser: Parser,
    /// All that came.
    raw: Vec<u8>,
    /// Messages that a step has looked at.
    seen: usize,
    is_closed: bool,
}

impl Peer {
    fn new(stream: TcpStream, kind: Kind) -> Peer {
        Peer { stream, parser: Parser::new(kind, Strictness::Lenient), raw: Vec::new(), seen: 0, is_closed: false }
    }

    /// The next message is whole, or will never be.
    fn is_next_settled(&self) -> bool {
        let is_whole = self.parser.messages.get(self.seen).is_some_and(|message| message.is_complete);
        is_whole || self.is_closed || self.parser.error.is_some()
    }
}

/// The state of a script that is played.
struct Play {
    proxy: SocketAddr,
    sender: Sender<Event>,
    events: Receiver<Event>,
    timeout: Duration,
    clients: Vec<Peer>,
    upstreams: Vec<Peer>,
    /// The upstream connection of each request that a step has looked at.
    requests: Vec<usize>,
}

impl Play {
    fn run(&mut self, steps: &[Step]) -> Option<Failure> {
        for (index, step) in steps.iter().enumerate() {
            let is_cut = steps.get(index + 1).is_some_and(|next| next.action == Action::Cut);
            if let Err(failure) = self.step(&step.action, is_cut) {
                return Some(failure.at(index));
            }
        }
        None
    }

    fn step(&mut self, action: &Action, is_cut: bool) -> Result<(), Failure> {
        match action {
            Action::Send(Side::Client, bytes) => self.send_request(bytes),
            Action::Send(Side::Upstream, bytes) => self.send_response(bytes),
            Action::Expect(Side::Client, expected) => self.expect_response(expected, is_cut),
            Action::Expect(Side::Upstream, expected) => self.expect_request(expected),
            Action::NewClient => self.connect(),
            Action::Closed => self.expect_close(),
            Action::Cut => self.expect_cut(),
            Action::CloseUpstream => {
                let number = *self.requests.last().ok_or_else(|| Failure::new("no request has come yet"))?;
                let _ = self.upstreams[number].stream.shutdown(Shutdown::Both);
                Ok(())
            }
            Action::Reused(is_reused) => self.expect_reuse(*is_reused),
        }
    }

    fn connect(&mut self) -> Result<(), Failure> {
        let broken = |error| Failure::new(format!("the program does not take a connection: {error}"));
        let stream = TcpStream::connect(self.proxy).map_err(broken)?;
        self.add(Side::Client, stream).map_err(broken)
    }

    /// Begins to read from a connection.
    fn add(&mut self, side: Side, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reading = stream.try_clone()?;
        let (peers, kind) = match side {
            Side::Client => (&mut self.clients, Kind::Responses),
            Side::Upstream => (&mut self.upstreams, Kind::Requests),
        };
        let (place, sender) = ((side, peers.len()), self.sender.clone());
        peers.push(Peer::new(stream, kind));
        thread::spawn(move || {
            let mut buf = vec![0; 64 * 1024];
            while let Ok(len @ 1..) = reading.read(&mut buf) {
                // Nobody listens any more where the script is over.
                let _ = sender.send(Event::Bytes(place, buf[..len].to_vec()));
            }
            let _ = sender.send(Event::Closed(place));
        });
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            // A connection that cannot be read from is found by what does not come on it.
            Event::Accepted(stream) => drop(self.add(Side::Upstream, stream)),
            Event::Bytes(place, bytes) => {
                let peer = self.peer(place);
                peer.raw.extend_from_slice(&bytes);
                peer.parser.feed(&bytes);
            }
            Event::Closed(place) => {
                let peer = self.peer(place);
                peer.parser.finish();
                peer.is_closed = true;
            }
        }
    }

    fn peer(&mut self, (side, number): Place) -> &mut Peer {
        match side {
            Side::Client => &mut self.clients[number],
            Side::Upstream => &mut self.upstreams[number],
        }
    }

    /// Handles events until `is_settled` or the time is over.
    fn wait(&mut self, is_settled: impl Fn(&Play) -> bool) {
        let deadline = Instant::now() + self.timeout;
        while !is_settled(self) {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn send_request(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.clients.is_empty() {
            self.connect()?;
        }
        let client = self.clients.last_mut().expect("a client has connected");
        for line in bytes.split(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            if let [method, _, version] = line.trim_end().split(' ').collect::<Vec<_>>()[..]
                && version.starts_with("HTTP/1.")
            {
                let is_http10 = version == "HTTP/1.0";
                client.parser.expect_response(RequestInfo { method: method.to_owned(), is_http10 });
            }
        }
        // Where the proxy has closed, the next expectation tells.
        let _ = client.stream.write_all(bytes);
        Ok(())
    }

    /// On the connection of the last request; where no step has looked at one, on the first that has brought a head. A proxy that
    /// does without this response may have sent none: what is expected next tells.
    fn send_response(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let begun = |play: &Play| play.upstreams.iter().position(|peer| !peer.parser.messages.is_empty());
        let mut place = self.requests.last().copied();
        if place.is_none() {
            self.wait(|play| begun(play).is_some() || play.clients.iter().any(|client| !client.raw.is_empty()));
            place = begun(self);
        }
        if let Some(number) = place {
            let _ = self.upstreams[number].stream.write_all(bytes);
        }
        Ok(())
    }

    fn expect_request(&mut self, expected: &Expected) -> Result<(), Failure> {
        // A client that was refused will have no request at the upstream.
        let answered = |play: &Play| {
            play.clients
                .last()
                .is_some_and(|c| c.parser.final_responses().count() > 0 && c.seen < c.parser.messages.len())
        };
        let next = |play: &Play| play.upstreams.iter().position(|peer| peer.parser.messages.len() > peer.seen);
        let broken = |play: &Play| play.upstreams.iter().position(|peer| peer.parser.error.is_some());
        self.wait(|play| next(play).is_some() || broken(play).is_some() || answered(play));
        if let Some(number) = next(self) {
            self.wait(|play| play.upstreams[number].is_next_settled());
            self.requests.push(number);
            return check(&mut self.upstreams[number], expected, false);
        }
        if let Some(number) = broken(self) {
            let peer = &self.upstreams[number];
            let error = peer.parser.error.clone().unwrap_or_default();
            let wrong = vec![format!("what came to the upstream is no good HTTP: {error}")];
            return Err(Failure { wrong, came: peer.raw.clone(), ..Failure::new("") });
        }
        // Bytes that are no message yet are worth showing.
        let unread = self.upstreams.iter().find(|peer| peer.parser.has_rest()).map(|peer| peer.raw.clone());
        let answer = self.clients.last().filter(|_| answered(self)).map(|client| client.raw.clone());
        let wrong = match (&unread, &answer) {
            (Some(_), _) => "what came to the upstream is no whole head".to_owned(),
            (None, Some(_)) => "no request came to the upstream: the client was answered this instead".to_owned(),
            (None, None) => format!("no request came to the upstream within {:?}", self.timeout),
        };
        Err(Failure { came: unread.or(answer).unwrap_or_default(), ..Failure::new(wrong) })
    }

    fn expect_response(&mut self, expected: &Expected, is_cut: bool) -> Result<(), Failure> {
        let is_settled = |play: &Play| play.clients.last().is_none_or(Peer::is_next_settled);
        self.wait(is_settled);
        let timeout = self.timeout;
        let client = self.clients.last_mut().ok_or_else(|| Failure::new("no client has sent anything yet"))?;
        if client.parser.messages.len() > client.seen {
            return check(client, expected, is_cut);
        }
        let wrong = match (&client.parser.error, client.is_closed) {
            (Some(error), _) => format!("what came to the client is no good HTTP: {error}"),
            (None, true) => "the client's connection was closed, without a response".to_owned(),
            (None, false) => format!("no response came to the client within {timeout:?}"),
        };
        if !client.raw.is_empty() {
            return Err(Failure { came: client.raw.clone(), ..Failure::new(wrong) });
        }
        // What went to the upstream instead says more.
        match self.upstreams.iter().rfind(|peer| !peer.raw.is_empty()) {
            Some(peer) => {
                Err(Failure { came: peer.raw.clone(), ..Failure::new(format!("{wrong}; the upstream got this")) })
            }
            None => Err(Failure::new(wrong)),
        }
    }

    fn expect_close(&mut self) -> Result<(), Failure> {
        self.wait(|play| play.clients.last().is_none_or(|client| client.is_closed));
        match self.clients.last() {
            Some(client) if client.is_closed => Ok(()),
            _ => Err(Failure::new(format!("the client's connection is still open after {:?}", self.timeout))),
        }
    }

    fn expect_cut(&mut self) -> Result<(), Failure> {
        self.expect_close()?;
        match self.clients.last().and_then(|client| client.parser.messages.last()) {
            Some(message) if !message.is_complete => Ok(()),
            _ => Err(Failure::new("the message looks whole to the client, and the upstream broke off")),
        }
    }

    fn expect_reuse(&self, is_reused: bool) -> Result<(), Failure> {
        let Some((last, before)) = self.requests.split_last() else {
            return Err(Failure::new("no request has come yet"));
        };
        match (before.contains(last), is_reused) {
            (true, true) | (false, false) => Ok(()),
            (true, false) => Err(Failure::new("the request came on a connection that had brought another")),
            (false, true) => Err(Failure::new("the request came on a new connection")),
        }
    }

    /// What has come to the upstream that no step has looked at. A request that was refused within its body may have begun
    /// there: without its end it is none.
    fn look_for_more(&mut self) -> Option<Failure> {
        while let Ok(event) = self.events.try_recv() {
            self.handle(event);
        }
        self.wait(|play| play.upstreams.iter().all(|peer| peer.is_closed));
        let is_request = |peer: &Peer| peer.parser.messages[peer.seen..].iter().any(|message| message.is_complete);
        let peer = self.upstreams.iter().find(|peer| peer.parser.error.is_some() || is_request(peer))?;
        let wrong = match &peer.parser.error {
            Some(error) => format!("what came to the upstream is no good HTTP: {error}"),
            None => "the upstream got a request that it should not get".to_owned(),
        };
        Some(Failure { came: peer.raw.clone(), ..Failure::new(wrong) })
    }
}

/// The next message of a peer against what was expected.
fn check(peer: &mut Peer, expected: &Expected, is_cut: bool) -> Result<(), Failure> {
    let message = &peer.parser.messages[peer.seen];
    peer.seen += 1;
    let mut wrong: Vec<String> = peer.parser.error.iter().map(|error| format!("it is no good HTTP: {error}")).collect();
    wrong.extend(differences(message, expected, is_cut));
    if wrong.is_empty() { Ok(()) } else { Err(Failure { wrong, came: peer.raw.clone(), ..Failure::new("") }) }
}

fn differences(message: &Message, expected: &Expected, is_cut: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    if !matches_start(&expected.start, &message.head.start) {
        wrong.push(format!("expected the first line {:?}: it is {:?}", expected.start, message.head.start));
    }
    for (name, value) in &expected.fields {
        let found: Vec<&str> = message.head.values(name).collect();
        match found[..] {
            [] => wrong.push(format!("expected a field line {name}: there is none")),
            [found] if !matches(value, found) => {
                wrong.push(format!("expected {name}: {value}, but it is {name}: {found}"))
            }
            [_] => {}
            [..] => wrong.push(format!("expected one field line {name}: there are {}", found.len())),
        }
    }
    for name in &expected.absent {
        if let Some(value) = message.head.values(name).next() {
            wrong.push(format!("expected no field {name}: there is {name}: {value}"));
        }
    }
    let Some(body) = &expected.body else { return wrong };
    // What the script calls cut is looked at by its own step.
    if !message.is_complete && !is_cut {
        wrong.push("the message does not come to its end".to_owned());
    }
    if message.body != *body {
        wrong.push(format!("expected the content \"{}\": it is \"{}\"", shorten(body), shorten(&message.body)));
    }
    wrong
}

/// The beginning of some bytes, as text.
pub(crate) fn shorten(bytes: &[u8]) -> String {
    const MAX_LEN: usize = 300;
    let more = if bytes.len() > MAX_LEN { format!(" ... ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", bytes[..bytes.len().min(MAX_LEN)].escape_ascii())
}

/// The listener of the upstream. When it is dropped, all connections that the program has made are reported.
struct Upstream {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    fn start(sender: Sender<Event>) -> io::Result<Upstream> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, is_over) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let is_over_too = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let _ = sender.send(Event::Accepted(stream));
                // What stands in the queue is still taken.
                if is_over_too.load(Ordering::Acquire) && listener.set_nonblocking(true).is_err() {
                    return;
                }
            }
        });
        Ok(Upstream { address, is_over, thread: Some(thread) })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Ends its wait.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
