//! Many connections, few descriptors, and what a request costs.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::support::{Launch, Origin, Peer, Proxy, is_missing, lines::Lines, send_signal, value, wait_until};

#[test]
fn m5_too_few_descriptors_slow_accepting_down_and_never_stop_or_spin() {
    let origin = Origin::echo();
    let proxy = Launch::after("ulimit -n 64", &origin.config("workers: 1")).start();
    let mut first = proxy.connect();
    assert_eq!(first.get("/before").status(), 200);
    // Far more than it has descriptors for; the kernel completes the handshakes by itself.
    let crowd: Vec<Peer> = (0..100).map(|_| proxy.connect()).collect();
    assert_eq!(first.get("/within").status(), 200);

    // Half a second in which nothing can be done: nothing may be spent on it.
    let before = proxy.cpu_ticks();
    thread::sleep(Duration::from_millis(500));
    let spent = proxy.cpu_ticks() - before;
    assert!(spent < 15, "{spent} of 50 ticks were spent on waiting");
    assert!(proxy.descriptors() <= 64);

    assert_eq!(first.get("/still").status(), 200);
    drop(crowd);
    // Room again: a new client is served.
    assert_eq!(proxy.connect().get("/after").status(), 200);
}

/// Between buffers that were freed stand small things that still live: an allocator gives such memory back only when asked.
#[test]
#[cfg(target_env = "gnu")]
fn e4_memory_of_a_burst_is_given_back_though_others_stay() {
    let origin = Origin::echo();
    let more = "workers: 1\nlimits: {max_head_bytes: 64KiB}\ntimeouts: {request_head: 1h}";
    let proxy = Launch::quiet(&origin.config(more)).start();
    assert_eq!(proxy.connect().get("/").status(), 200);
    let before = proxy.own_memory_kib();
    let begin = |size: usize| {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Filler: {}", "x".repeat(size)));
        client
    };
    let (_staying, leaving): (Vec<Peer>, Vec<Peer>) = (0..150).map(|_| (begin(10), begin(50 * 1024))).unzip();
    let held = || proxy.own_memory_kib().saturating_sub(before);
    wait_until("150 large heads to be held", || held() > 150 * 50);
    drop(leaving);
    // 150 small heads, and what is kept for the next requests.
    wait_until("their memory to be given back", || held() < 150 * 16);
}

#[test]
#[cfg(target_env = "gnu")]
fn e4_large_parts_of_heads_are_not_kept_for_the_next_requests() {
    let (go, gone) = channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let origin = Origin::start(move |mut peer, _| {
        // All are under way at the same time.
        if peer.request().is_some() {
            gone.lock().expect("nobody panics").recv().expect("the test goes on");
            let reason = "r".repeat(8_000);
            peer.send(format!("HTTP/1.1 200 {reason}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let limits = "limits: {max_head_bytes: 64KiB}";
    let route = format!("routes: [{{prefix: /, upstream: \"{}\", host: client}}]", origin.url());
    let proxy = Launch::quiet(&format!("workers: 1\n{limits}\n{route}\n")).start();
    assert_eq!(proxy.connect().get("/health").status(), 200);
    let before = proxy.own_memory_kib();
    let mut clients: Vec<Peer> = (0..64).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        let target = "t".repeat(7_000);
        client.send(format!("GET /{target} HTTP/1.1\r\nHost: {}\r\n\r\n", "h".repeat(16_000)));
    }
    wait_until("all requests to be there", || origin.connections() == 64);
    (0..64).for_each(|_| go.send(()).expect("the origin waits"));
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    let held = || proxy.own_memory_kib().saturating_sub(before);
    // What a worker keeps is 1 MiB, all parts of heads included.
    wait_until("the memory to be given back", || held() < 1800);
}

#[test]
fn m4_a_busy_connection_starves_nobody() {
    // An endless body, as fast as it goes.
    let flood = Origin::start(|mut peer, _| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let block = vec![b'x'; 1 << 20];
        while peer.try_send(&block).is_ok() {}
    });
    let quiet = Origin::echo();
    let proxy = Proxy::start(&format!(
        "workers: 1\nroutes:\n  - prefix: /flood\n    upstream: {}\n  - prefix: /\n    upstream: {}\n",
        flood.url(),
        quiet.url()
    ));
    let (stop, stopped) = channel::<()>();
    let mut greedy = proxy.connect();
    greedy.send("GET /flood HTTP/1.1\r\nHost: test\r\n\r\n");
    greedy.head().expect("a response");
    let reader = thread::spawn(move || {
        let mut total = 0;
        while stopped.try_recv().is_err() {
            total += greedy.some_bytes().expect("it goes on").len();
        }
        total
    });
    let mut client = proxy.connect();
    // Each within the patience of tests; beside a download that has no end, who is starved waits for ever.
    for _ in 0..100 {
        assert_eq!(client.get("/").status(), 200);
    }
    stop.send(()).expect("the reader runs");
    let total = reader.join().expect("the reader does not panic");
    assert!(total > 0, "nothing was downloaded meanwhile");
}

#[test]
fn above_the_connection_limit_new_clients_wait_and_old_ones_are_served() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("workers: 1\nlimits: { max_connections: 2 }"));
    let mut held: Vec<Peer> = (0..2).map(|_| proxy.connect()).collect();
    for client in &mut held {
        assert_eq!(client.get("/held").status(), 200);
    }
    let mut waiting = proxy.connect();
    waiting.send("GET /waits HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(held[0].get("/held").status(), 200);
    held.clear();
    assert_eq!(waiting.response().status(), 200);
}

/// Calls of each kind in the table that `strace -c` prints.
fn calls(table: &[String]) -> BTreeMap<String, u64> {
    // "% time seconds usecs/call calls [errors] syscall"
    let row = |line: &String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_row = (5..=6).contains(&words.len()) && words[0].parse::<f64>().is_ok();
        is_row.then(|| Some((words.last()?.to_string(), words[3].parse().ok()?)))?
    };
    table.iter().filter_map(row).collect()
}

#[test]
fn a_request_costs_four_calls_on_sockets_and_no_epoll_ctl() {
    const CLIENTS: u64 = 8;
    const REQUESTS: u64 = 250;
    if is_missing("strace") {
        return;
    }
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Launch::quiet(&origin.config("workers: 1")).start();
    // Everything that happens once (accepting, connecting) happens before the count.
    let mut clients: Vec<Peer> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    let ask_all = |clients: &mut Vec<Peer>| {
        for client in clients.iter_mut() {
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        }
        for client in clients.iter_mut() {
            assert_eq!(client.response().status(), 200);
        }
    };
    ask_all(&mut clients);

    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-p", &proxy.pid().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace runs");
    let table = Lines::default();
    table.collect(strace.stderr.take().expect("stderr is piped"));
    let line = table.wait_for("strace", |line| line.contains("attached") || line.contains("attach:"));
    if line.contains("attach:") {
        let _ = strace.wait();
        assert!(std::env::var("CI").as_deref() != Ok("true"), "strace may not attach here: {line}");
        eprintln!("skipped: strace may not attach here: {line}");
        return;
    }
    for _ in 0..REQUESTS {
        ask_all(&mut clients);
    }
    send_signal(strace.id(), "INT");
    table.wait_for_end();
    let _ = strace.wait();

    let calls = calls(&table.all());
    let sum = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<u64>();
    let requests = CLIENTS * REQUESTS;
    let data = sum(&["read", "write", "readv", "writev", "recvfrom", "sendto", "recvmsg", "sendmsg"]);
    // A few for timers, the log and connections that the pool gave up in between.
    let few = requests / 50;
    assert!(data >= requests * 4, "strace did not see everything: {calls:?}");
    assert!(data <= requests * 4 + few, "{data} calls for {requests} requests: {calls:?}");
    assert!(sum(&["epoll_ctl"]) <= few, "{calls:?}");
    assert!(sum(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]) <= requests * 2 + few, "{calls:?}");
    let all: u64 = calls.iter().filter(|(name, _)| *name != "total").map(|(_, count)| count).sum();
    assert!(all <= requests * 6 + 2 * few, "{all} calls for {requests} requests: {calls:?}");
}

#[test]
fn m5_a_tunnel_in_which_nothing_moves_makes_room() {
    const UPGRADE: &str = "GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origin = Origin::start(|mut peer, _| {
        peer.head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        while let Ok(bytes) = peer.some_bytes()
            && !bytes.is_empty()
        {
            peer.send(bytes);
        }
    });
    let limits = "workers: 1\nlimits: { max_connections: 2 }\ntimeouts: { tunnel_idle: 3s }";
    let proxy = Proxy::start(&origin.config(limits));
    let open = || {
        let mut client = proxy.connect();
        client.send(UPGRADE);
        assert_eq!(client.head().expect("a response").status(), 101);
        client
    };
    let mut quiet = open();
    let mut busy = open();
    let mut newcomer = proxy.connect();
    newcomer.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(1400) {
        busy.send("ping");
        assert_eq!(busy.bytes(4), b"ping");
        std::thread::sleep(Duration::from_millis(50));
    }
    let line = proxy.log.wait_for("the end of one", |line| value(line, "why").is_some());
    assert_eq!(value(&line, "why"), Some("tunnel_evicted"), "{line}");
    assert!(quiet.is_closed());
    assert_eq!(newcomer.response().status(), 200);
    busy.send("ping");
    assert_eq!(busy.bytes(4), b"ping");
}
