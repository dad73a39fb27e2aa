//! Clients that ask all the time, an upstream that tells what it saw, and the count of what became of each request.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::network::{site, upstream};
use crate::support::{Origin, PATIENCE, Peer, SetOnDrop, Stream, wait_until};

/// What one client does, over and over.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    clients: u8,
    /// Bytes of the request's body.
    up: u64,
    /// Bytes of the response's body.
    down: u64,
    /// How long the upstream takes to send that body.
    takes: Duration,
    /// Whether a connection is used again for as long as the proxy does not say `Connection: close`.
    is_kept: bool,
}

const KIB: u64 = 1024;
const SLOW: Duration = Duration::from_secs(2);
const AT_ONCE: Duration = Duration::ZERO;

const KINDS: [Kind; 7] = [
    Kind { name: "small, kept connections", clients: 4, up: 0, down: 100, takes: AT_ONCE, is_kept: true },
    Kind { name: "small, new connections", clients: 4, up: 0, down: 100, takes: AT_ONCE, is_kept: false },
    Kind { name: "uploads, kept connections", clients: 1, up: 300 * KIB, down: 0, takes: AT_ONCE, is_kept: true },
    Kind { name: "uploads, new connections", clients: 1, up: 300 * KIB, down: 0, takes: AT_ONCE, is_kept: false },
    Kind { name: "downloads, kept connections", clients: 1, up: 0, down: 1024 * KIB, takes: AT_ONCE, is_kept: true },
    Kind { name: "downloads, new connections", clients: 1, up: 0, down: 1024 * KIB, takes: AT_ONCE, is_kept: false },
    Kind { name: "downloads of two seconds", clients: 6, up: 0, down: 200 * KIB, takes: SLOW, is_kept: true },
];

/// What became of the requests of one kind.
#[derive(Clone, Default)]
struct Count {
    sent: usize,
    right: usize,
    /// Another status, another body, another client's address.
    wrong: usize,
    /// No connection.
    refused: usize,
    /// No answer, or a part of one.
    lost: usize,
    connections: usize,
    slowest: Duration,
}

#[derive(Default)]
struct Book {
    counts: BTreeMap<&'static str, Count>,
    /// Right answers of each instance.
    instances: BTreeMap<String, usize>,
    /// Slow downloads under way, by instance.
    slow: BTreeMap<String, usize>,
    /// What went wrong, the first few.
    complaints: Vec<String>,
}

/// A load, and what is known of it.
pub struct Load {
    book: Mutex<Book>,
    number: AtomicU64,
    is_over: AtomicBool,
}

/// Why there was no right answer.
enum Failure {
    Refused(io::Error),
    Lost(io::Error),
    Wrong(String),
}

impl Load {
    /// Keeps all clients busy while `work` is done; then waits for the answers that are still due.
    pub fn during(work: impl FnOnce(&Load)) -> Load {
        let _origin = Origin::start_at(upstream(), |peer, _| serve(peer));
        let load = Load { book: Mutex::default(), number: AtomicU64::new(0), is_over: AtomicBool::new(false) };
        thread::scope(|scope| {
            let clients = KINDS.iter().flat_map(|kind| (0..kind.clients).map(move |_| *kind));
            for (kind, address) in clients.zip(150u8..) {
                let load = &load;
                scope.spawn(move || load.run_client(kind, ([192, 0, 2, address], 0).into()));
            }
            let _guard = SetOnDrop(&load.is_over);
            load.go_on();
            work(&load);
            load.go_on();
        });
        load
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Returns after a hundred more right answers.
    pub fn go_on(&self) {
        let right = || self.book().instances.values().sum::<usize>();
        let before = right();
        wait_until("more answers", || right() >= before + 100);
    }

    /// How many right answers an instance has given.
    pub fn answers_of(&self, instance: &str) -> usize {
        self.book().instances.get(instance).copied().unwrap_or_default()
    }

    /// How many slow downloads are under way through an instance.
    pub fn slow_downloads_of(&self, instance: &str) -> usize {
        self.book().slow.get(instance).copied().unwrap_or_default()
    }

    /// Requests without a right answer.
    pub fn failed(&self) -> usize {
        self.book().counts.values().map(|count| count.wrong + count.refused + count.lost).sum()
    }

    /// Every request that was sent has got its right answer.
    pub fn assert_nothing_is_lost(&self) {
        eprintln!("{self}");
        assert_eq!(self.failed(), 0, "{self}");
        for (kind, count) in &self.book().counts {
            assert_eq!(count.sent, count.right, "{kind}");
            assert!(count.right > 0, "{kind}: nothing was asked");
        }
    }

    fn run_client(&self, kind: Kind, from: SocketAddr) {
        let mut kept = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let is_new = kept.is_none();
            let result = self.ask(kind, from, &mut kept);
            let mut book = self.book();
            let book = &mut *book;
            let count = book.counts.entry(kind.name).or_default();
            count.sent += 1;
            count.connections += usize::from(is_new);
            count.slowest = count.slowest.max(begin.elapsed());
            let (failed, complaint) = match result {
                Ok(instance) => {
                    count.right += 1;
                    *book.instances.entry(instance).or_default() += 1;
                    continue;
                }
                Err(Failure::Refused(error)) => (&mut count.refused, format!("refused: {error}")),
                Err(Failure::Lost(error)) => (&mut count.lost, format!("lost: {error}")),
                Err(Failure::Wrong(what)) => (&mut count.wrong, format!("wrong: {what}")),
            };
            *failed += 1;
            if book.complaints.len() < 20 {
                let way = if is_new { "a new connection" } else { "a connection that was used before" };
                book.complaints.push(format!("{} on {way}, {complaint}", kind.name));
            }
            kept = None;
        }
    }

    /// Sends one request and reads its answer; gives the instance that has answered. The connection is in `kept`
    /// afterwards if it may be used again.
    fn ask(&self, kind: Kind, from: SocketAddr, kept: &mut Option<Connection>) -> Result<String, Failure> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::new(from).map_err(Failure::Refused)?,
        };
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (down, takes) = (kind.down, kind.takes.as_millis());
        let close = if kind.is_kept { "" } else { "Connection: close\r\n" };
        let head = format!(
            "POST /{number}/{down}/{takes} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n{close}\r\n",
            kind.up
        );
        connection.send(&head, Stream::new(number, kind.up)).map_err(Failure::Lost)?;
        let answer = connection.head().map_err(Failure::Lost)?;
        let wanted = format!("{number} from {}, {} bytes", from.ip(), kind.up);
        let instance = answer.field("X-Instance").unwrap_or_default().to_owned();
        if answer.status != "200" || answer.field("X-Saw") != Some(&wanted) {
            return Err(Failure::Wrong(format!("{answer:?} and not {wanted}")));
        }
        let _guard = (kind.takes > AT_ONCE).then(|| SlowDownload::new(self, &instance));
        let body = Stream::new(number + 1, down).compare(&mut connection.reader);
        body.map_err(|error| {
            if error.kind() == ErrorKind::Other { Failure::Wrong(error.to_string()) } else { Failure::Lost(error) }
        })?;
        let ends = answer.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        *kept = (kind.is_kept && !ends).then_some(connection);
        Ok(instance)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.book();
        writeln!(
            f,
            "{:30}{:>8}{:>8}{:>8}{:>8}{:>8}{:>13}{:>12}",
            "", "sent", "right", "wrong", "refused", "lost", "connections", "slowest, ms"
        )?;
        for (kind, count) in &book.counts {
            let Count { sent, right, wrong, refused, lost, connections, slowest } = count;
            writeln!(
                f,
                "{kind:30}{sent:8}{right:8}{wrong:8}{refused:8}{lost:8}{connections:13}{:12}",
                slowest.as_millis()
            )?;
        }
        write!(f, "right answers by instance: {:?}", book.instances)?;
        book.complaints.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

/// A slow download that has begun.
struct SlowDownload<'a> {
    load: &'a Load,
    instance: String,
}

impl<'a> SlowDownload<'a> {
    fn new(load: &'a Load, instance: &str) -> SlowDownload<'a> {
        *load.book().slow.entry(instance.to_owned()).or_default() += 1;
        SlowDownload { load, instance: instance.to_owned() }
    }
}

impl Drop for SlowDownload<'_> {
    fn drop(&mut self) {
        *self.load.book().slow.entry(self.instance.clone()).or_default() -= 1;
    }
}

/// A client's connection to the balancer. Whatever happens on it is an outcome and no panic.
struct Connection {
    reader: BufReader<TcpStream>,
}

#[derive(Debug, Default)]
struct Answer {
    status: String,
    fields: Vec<(String, String)>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Connection {
    fn new(from: SocketAddr) -> io::Result<Connection> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&site().into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { reader: BufReader::new(stream) })
    }

    fn send(&mut self, head: &str, mut body: Stream) -> io::Result<()> {
        io::Write::write_all(self.reader.get_mut(), head.as_bytes())?;
        body.write_to(self.reader.get_mut())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        Ok(line.to_owned())
    }

    fn head(&mut self) -> io::Result<Answer> {
        let start = self.line()?;
        let mut answer = Answer { status: start.split(' ').nth(1).unwrap_or_default().to_owned(), fields: Vec::new() };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(answer);
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            answer.fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }
}

/// The upstream: `/NUMBER/LENGTH/MILLISECONDS` gets a body of that length, sent in that time. X-Saw tells the number, the
/// client's address, and how many bytes of the body were what was to be sent.
fn serve(mut peer: Peer) {
    while let Some(request) = peer.head() {
        let mut numbers = request.target().split('/').skip(1).map(|part| part.parse::<u64>().expect("a number"));
        let [number, down, takes] = [(); 3].map(|()| numbers.next().expect("three numbers"));
        let up = request.field("Content-Length").map_or(0, |length| length.parse().expect("a length"));
        let mut body = Stream::new(number, up);
        // A client that is gone is the client's own matter: it counts.
        if body.compare(&mut peer).is_err() {
            return;
        }
        let client = request.field("X-Forwarded-For").unwrap_or("nobody");
        let saw = format!("{number} from {client}, {} bytes", body.position());
        if peer.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {down}\r\nX-Saw: {saw}\r\n\r\n")).is_err() {
            return;
        }
        let mut paced =
            Paced { peer: &mut peer, pause: Duration::from_millis(takes) / 20, piece: (down as usize).div_ceil(20) };
        if Stream::new(number + 1, down).write_to(&mut paced).is_err() {
            return;
        }
    }
}

/// Sends in pieces, with pauses between them.
struct Paced<'a> {
    peer: &'a mut Peer,
    pause: Duration,
    piece: usize,
}

impl io::Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = if self.pause.is_zero() { bytes.len() } else { bytes.len().min(self.piece) };
        self.peer.try_send(&bytes[..len])?;
        thread::sleep(self.pause);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
