//! Entries through a proxy, over real sockets: one after the other, with the upstream of each behind the proxy and its client
//! in front.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::entry::{ClientOutcome, Entry};
use crate::judge::{LogEntry, Observed, client_parser};
use crate::strict::{Parser, Strictness};
use crate::upstream::{CLOSE_TIMEOUT, PROBE, serve, wake};

/// How long a client waits for bytes from mini-rproxy. Where all goes well it never waits.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client goes on reading when the entry has failed already.
const SHORT_TIMEOUT: Duration = Duration::from_millis(100);

/// How long mini-rproxy may take to start and to stop.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(20);

/// No entry is begun after so long.
const MAX_RUN_TIME: Duration = Duration::from_secs(600);

/// Plays the entries through a running proxy that forwards to `upstream`. The result is shorter than `entries` where time is
/// up.
pub fn run_proxy(
    proxy: SocketAddr,
    upstream: &TcpListener,
    entries: &[Entry],
    timeout: Duration,
) -> io::Result<Vec<Observed>> {
    let deadline = Instant::now() + MAX_RUN_TIME;
    let entries = entries.iter().take_while(|_| Instant::now() < deadline);
    entries.map(|entry| run_entry(TcpStream::connect(proxy)?, upstream, entry, Strictness::Lenient, timeout)).collect()
}

/// Starts a mini-rproxy in front of an upstream, plays the entries through it, and stops it. `command` is what starts it
/// without any flags.
pub fn run_binary(command: Command, entries: &[Entry]) -> io::Result<Vec<Observed>> {
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (mut proxy, address) = Process::start(command, upstream.local_addr()?)?;
    let deadline = Instant::now() + MAX_RUN_TIME;
    let entries = entries.iter().take_while(|_| Instant::now() < deadline);
    let mut used = HashSet::new();
    let all = entries.map(|entry| {
        let (stream, client) = connect_from_unused(address, &mut used)?;
        Ok((run_entry(stream, &upstream, entry, Strictness::Strict, TIMEOUT)?, client))
    });
    let all: Vec<_> = all.collect::<io::Result<_>>()?;
    let mut log = proxy.stop()?;
    let with_log = |(observed, client)| Observed { log: log.remove(&client).unwrap_or_default(), ..observed };
    Ok(all.into_iter().map(with_log).collect())
}

/// Connects from an address that no entry had before: by it an entry is found in the proxy's log, and the kernel may choose
/// the same port twice.
fn connect_from_unused(proxy: SocketAddr, used: &mut HashSet<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut stream = TcpStream::connect(proxy)?;
    while !used.insert(stream.local_addr()?) {
        // The old one is closed when the new one is there, so that it is another.
        stream = TcpStream::connect(proxy)?;
    }
    let client = stream.local_addr()?;
    Ok((stream, client))
}

/// Plays one entry with this connection to the proxy.
pub fn run_entry(
    stream: TcpStream,
    upstream: &TcpListener,
    entry: &Entry,
    strictness: Strictness,
    timeout: Duration,
) -> io::Result<Observed> {
    run_entry_within(stream, upstream, entry, strictness, timeout, CLOSE_TIMEOUT)
}

/// The same; the proxy may take `close_timeout` to close its idle connections to the upstream behind the entry.
pub fn run_entry_within(
    stream: TcpStream,
    upstream: &TcpListener,
    entry: &Entry,
    strictness: Strictness,
    timeout: Duration,
    close_timeout: Duration,
) -> io::Result<Observed> {
    let is_over = AtomicBool::new(false);

    thread::scope(|scope| {
        let serving = scope.spawn(|| serve(upstream, entry, strictness, &is_over, close_timeout));
        let exchanged = send(stream, entry, strictness, timeout);
        is_over.store(true, Ordering::Release);
        wake(upstream)?;
        let received = serving.join().expect("no panic in the upstream")?;
        let (client, is_closed) = exchanged?;
        let (requests, violations, tunnelled) = (received.requests, received.violations, received.tunnelled);
        Ok(Observed { client, is_closed, requests, violations, tunnelled, log: Vec::new() })
    })
}

/// The client: sends the entry and the probe in one write and reads until nothing more can come. Returns what it got, and whether
/// the proxy closed the connection.
fn send(mut stream: TcpStream, entry: &Entry, strictness: Strictness, timeout: Duration) -> io::Result<(Parser, bool)> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    // Reading tells that the proxy has closed already.
    let _ = stream.write_all(&[&entry.request, PROBE].concat());
    let mut parser = client_parser(entry, strictness);
    let mut is_closed = true;
    let mut buf = [0; 16 * 1024];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(len) => drop(parser.feed(&buf[..len])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                is_closed = false;
                break;
            }
            // A reset closes a connection too.
            Err(_) => break,
        }
        let is_complete = parser.messages.last().is_some_and(|message| message.is_complete);
        let stays_open = matches!(entry.outcome, ClientOutcome::Kept | ClientOutcome::Tunnel);
        if is_closed && stays_open && parser.unanswered() == 0 && is_complete {
            // All has come, and it is open: whatever comes now is too much.
            is_closed = false;
            let _ = stream.shutdown(Shutdown::Write);
        }
        if parser.unsolicited > 0 {
            stream.set_read_timeout(Some(timeout.min(SHORT_TIMEOUT)))?;
        }
    }
    parser.finish();
    Ok((parser, is_closed))
}

/// What was logged for each client.
type Log = HashMap<SocketAddr, Vec<LogEntry>>;

/// A running mini-rproxy; killed when dropped.
struct Process {
    child: Child,
    log: Receiver<Log>,
}

impl Process {
    /// Returns its address, too.
    fn start(mut command: Command, upstream: SocketAddr) -> io::Result<(Process, SocketAddr)> {
        command.args(["-listen", "127.0.0.1:0", "-verbose", "-route", &format!("/={upstream}")]);
        command.args(["-route", &format!("/sub=http://{upstream}/base")]).env("LOG_MODE", "json");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let ((address, listening), (log, whole_log)) = (mpsc::channel(), mpsc::channel());
        thread::spawn(move || log.send(read_log(stdout, &address)));
        let process = Process { child, log: whole_log };
        let silent = |_| io::Error::other("the proxy does not log where it listens");
        Ok((process, listening.recv_timeout(PROCESS_TIMEOUT).map_err(silent)?))
    }

    /// Stops it as an operator does; its log ends with it.
    fn stop(&mut self) -> io::Result<Log> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let log = self.log.recv_timeout(PROCESS_TIMEOUT).map_err(|_| io::Error::other("the proxy does not stop"))?;
        self.child.wait()?;
        Ok(log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log to its end; sends where the proxy listens as soon as that is known.
fn read_log(stdout: ChildStdout, listening: &Sender<SocketAddr>) -> Log {
    let mut log = Log::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        let text = |key: &str| line[key].as_str().unwrap_or_default();
        if let Ok(address) = text("address").parse() {
            // Only the first is waited for.
            let _ = listening.send(address);
        }
        if let (Ok(client), Some(status)) = (text("client").parse(), line["status"].as_u64()) {
            let why = ["rule", "why"].into_iter().find_map(|key| line[key].as_str()).map(str::to_owned);
            let status = u16::try_from(status).unwrap_or_default();
            log.entry(client).or_default().push(LogEntry { method: text("method").to_owned(), status, why });
        }
    }
    log
}
