//! Hostile and failing peers against the built binary: one driver, and a table of peers.
//!
//! Each row is a proxy of its own with two origins: an honest one behind `/good`, and behind `/bad` whatever the row wants.
//! While the row does its worst, bystanders ask `/good` without a pause and get every one of their answers, whole and
//! their own. Afterwards the log says why, descriptors and memory are where they were, and a newcomer is served. Nothing
//! is said about how long an answer takes: that is for benchmarks.

#[path = "../support/mod.rs"]
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

mod clients;
mod hosts;
mod origins;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

use support::{Launch, Origin, PATIENCE, Peer, Proxy, SetOnDrop, value};

/// What memory may grow by: what an allocator keeps for later, in a debug build.
const SLACK_KIB: u64 = 8 * 1024;

/// Time-outs for `/bad` only: the honest origin has time.
const ROUTE_OF_THE_BAD: &str = "timeouts: {response_head: 1s, response_idle: 1s, body_idle: 1s, write_idle: 1s}";

/// A row.
#[derive(Clone, Copy)]
pub struct Case {
    /// As the test is called.
    pub name: &'static str,
    /// Lines of configuration.
    pub more: &'static str,
    /// What the shell does before it becomes the proxy.
    pub shell: &'static str,
    /// Where standard output goes; not collected then, so that nothing can be said about the log.
    pub stdout: Option<&'static str>,
    /// The origin behind `/bad`, one call for each connection.
    pub origin: fn(Peer, usize),
    /// What happens.
    pub act: fn(&Stage),
    /// Each of these is the cause of some line of the log.
    pub why: &'static [&'static str],
    /// A part of some other line of the log.
    pub says: &'static str,
    /// Who must not notice.
    pub bystanders: Bystanders,
    /// What memory may grow by, in KiB.
    pub slack_kib: u64,
}

/// Who else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bystanders {
    /// One on a connection of its own, one that comes anew for each request.
    Any,
    /// Only the first: the row is about keeping newcomers out.
    Established,
}

impl Case {
    /// Nothing happens, nobody is to blame.
    pub const NONE: Case = Case {
        name: "",
        more: "",
        shell: "",
        stdout: None,
        origin: |_, _| {},
        act: |_| {},
        why: &[],
        says: "",
        bystanders: Bystanders::Any,
        slack_kib: SLACK_KIB,
    };
}

/// What a row has to play on.
pub struct Stage {
    /// Running, with both routes.
    pub proxy: Proxy,
}

impl Stage {
    /// A client's connection.
    pub fn connect(&self) -> Peer {
        self.proxy.connect()
    }

    /// Ordinary clients of `/bad`; whatever they get is taken.
    pub fn visit(&self, count: usize) {
        let mut clients: Vec<Peer> = (0..count).map(|_| self.connect()).collect();
        for client in &mut clients {
            client.send("GET /bad HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        }
        for client in &mut clients {
            let _ = client.try_rest();
        }
    }
}

/// Sends `start`, and then `unit` again and again, until somebody makes it stop: the proxy, which is what is wanted, or
/// the row, which has seen enough.
pub fn send_without_end(peer: &mut Peer, start: &str, unit: &str, enough: &AtomicBool) {
    let deadline = Instant::now() + PATIENCE;
    let block = unit.repeat(1 + 16 * 1024 / unit.len());
    let mut result = peer.try_send(start);
    while result.is_ok() && !enough.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "nobody stops what begins with {start:.40?} and goes on with {unit:.40?}");
        result = peer.try_send(&block);
    }
}

/// Polls until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Connections that nobody has accepted yet, of all listeners at this address: what the kernel shows as their receive
/// queue.
fn standing_at_the_door(address: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a Linux system");
    let port = format!(":{:04X}", address.port());
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Local address, remote address, state (0A: it listens), and the queues as transmit:receive.
    rows.filter(|row| row.get(1).is_some_and(|local| local.ends_with(&port)) && row.get(3) == Some(&"0A"))
        .map(|row| row[4].split_once(':').and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok()).expect("two numbers"))
        .sum()
}

/// Asks until told to stop, and wants its own answer each time.
fn stand_by(proxy: &Proxy, who: &str, is_fresh_each_time: bool, stop: &AtomicBool, answers: &AtomicU64) {
    let mut client = proxy.connect();
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if is_fresh_each_time {
            client = proxy.connect();
        }
        let answer = client.get(&format!("/good/{who}/{number}"));
        assert_eq!(answer.status(), 200, "{who}");
        assert!(answer.text().starts_with(&format!("GET /{who}/{number} HTTP/1.1\n")), "{who}: {}", answer.text());
        if answer.field("Connection") == Some("close") {
            client = proxy.connect();
        }
        answers.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Plays a row.
fn play(case: &Case) {
    let (good, bad) = (Origin::echo(), Origin::start(case.origin));
    let (good, bad) = (good.url(), bad.url());
    let fixed = case.stdout.map(|_| support::free_address());
    let listen = fixed.map_or(String::new(), |address| format!("listen_addr: {address}\n"));
    let yaml = format!(
        "{listen}workers: 2\npool: {{idle_timeout: 500ms}}\nroutes:\n  - {{prefix: /good, upstream: \"{good}\"}}\n  \
         - {{prefix: /bad, upstream: \"{bad}\", {ROUTE_OF_THE_BAD}}}\n{}\n",
        case.more
    );
    let launch = if case.shell.is_empty() { Launch::new(&yaml) } else { Launch::after(case.shell, &yaml) };
    let proxy = match (case.stdout, fixed) {
        (Some(path), Some(address)) => {
            let file = std::fs::OpenOptions::new().write(true).open(path).expect("it can be opened");
            launch.stdout(file).start_at(address)
        }
        (_, _) => launch.start(),
    };
    let stage = Stage { proxy };
    let proxy = &stage.proxy;
    // What everybody needs once exists before anything is counted.
    assert_eq!(proxy.connect().get("/good/first").status(), 200);
    let descriptors = proxy.descriptors();
    let memory = proxy.memory_kib();

    // A sanitizer keeps what was freed, to see whether anyone still uses it.
    let more_slack = std::env::var("HOSTILE_SLACK_KIB").map_or(0, |kib| kib.parse().expect("a number"));

    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let several_more = || {
        let before = answers.load(Ordering::SeqCst);
        wait_until("the bystanders to be served", || answers.load(Ordering::SeqCst) >= before + 4);
    };
    thread::scope(|scope| {
        let (stop, answers) = (&stop, &answers);
        // Stops the bystanders however this ends.
        let _guard = SetOnDrop(stop);
        scope.spawn(move || stand_by(proxy, "old", false, stop, answers));
        if case.bystanders == Bystanders::Any {
            scope.spawn(move || stand_by(proxy, "new", true, stop, answers));
        }
        several_more();
        (case.act)(&stage);
        several_more();
    });

    if case.stdout.is_none() {
        for why in case.why {
            proxy.log.wait_for(&format!("why={why}"), |line| value(line, "why") == Some(why));
        }
        proxy.log.wait_for(case.says, |line| line.contains(case.says));
    }
    // A crowd that is gone may still stand in the kernel's queue. As long as it does, it takes descriptors for the moment
    // in which each worker finds that nobody is there, and a newcomer in the midst of it may be turned away.
    wait_until("the last of the crowd to be let in", || standing_at_the_door(proxy.address) == 0);
    wait_until("the descriptors to be closed", || proxy.descriptors() <= descriptors);
    let mut last = 0;
    wait_until("the memory to come back", || {
        last = proxy.memory_kib();
        last <= memory + case.slack_kib + more_slack
    });
    assert_eq!(proxy.connect().get("/good/last").status(), 200);
    eprintln!("{}: {memory} KiB resident before, {last} KiB after", case.name);
}

fn main() -> ExitCode {
    let all = clients::CASES.iter().chain(origins::CASES).chain(hosts::CASES);
    let trials = all.map(|case| {
        Trial::test(case.name, move || {
            play(case);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
