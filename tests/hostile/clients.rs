//! Hostile clients.

use std::io::{Read, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::Peer;
use crate::{Bystanders, Case, Stage, send_without_end, wait_until};

pub const CASES: &[Case] = &[
    Case {
        name: "slow_heads",
        more: "timeouts: {request_head: 2s}",
        act: |stage| {
            let mut clients: Vec<Peer> = (0..50).map(|_| stage.connect()).collect();
            // A field line that never ends; each goes on until it is cut off.
            clients.iter_mut().for_each(|client| client.send("GET /bad HTTP/1.1\r\nHost: test\r\nX: "));
            while !clients.is_empty() {
                clients.retain_mut(|client| client.try_send("y").is_ok());
                thread::sleep(Duration::from_millis(50));
            }
        },
        why: &["head_timeout"],
        ..Case::NONE
    },
    Case {
        name: "clients_that_say_nothing",
        more: "timeouts: {request_head: 2s}",
        act: |stage| {
            let mut clients: Vec<Peer> = (0..200).map(|_| stage.connect()).collect();
            assert!(clients.iter_mut().all(Peer::is_closed));
        },
        ..Case::NONE
    },
    Case {
        name: "slow_bodies",
        origin: |mut peer, _| drop(peer.try_rest()),
        act: |stage| {
            let mut clients: Vec<Peer> = (0..50).map(|_| stage.connect()).collect();
            for client in &mut clients {
                client.send("PUT /bad HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nhalf");
            }
            for client in &mut clients {
                assert_eq!(client.response().status(), 408);
            }
        },
        why: &["body_timeout"],
        ..Case::NONE
    },
    Case {
        name: "slow_readers",
        origin: flood,
        act: |stage| {
            let clients = readers_that_stop(stage, 50);
            let line = |line: &str| line.contains("client_write_timeout");
            stage.proxy.log.wait_for_many("client_write_timeout", clients.len(), line);
        },
        why: &["client_write_timeout"],
        ..Case::NONE
    },
    Case {
        name: "requests_in_writes_of_one_byte",
        origin: |mut peer, _| {
            while let Some(request) = peer.request() {
                assert_eq!(request.body, b"body");
                let _ = peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        },
        act: |stage| {
            for _ in 0..5 {
                let mut client = stage.connect();
                for byte in
                    b"PUT /bad HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
                {
                    client.send([*byte]);
                }
                assert_eq!(client.response().text(), "ok");
            }
        },
        ..Case::NONE
    },
    Case {
        name: "resets_at_every_point_of_a_request",
        origin: |mut peer, _| drop(peer.try_rest()),
        act: |stage| {
            let request = "PUT /bad HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\n0123456789";
            for len in 0..=request.len() {
                let mut client = stage.connect();
                client.send(&request[..len]);
                client.reset();
            }
        },
        why: &["client_gone"],
        ..Case::NONE
    },
    Case {
        name: "resets_at_every_point_of_a_response",
        origin: |mut peer, _| {
            peer.request();
            let _ = peer.try_send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while peer.try_send("a\r\n0123456789\r\n").is_ok() {}
        },
        act: |stage| {
            for len in (0..400).step_by(7) {
                let mut client = stage.connect();
                client.send("GET /bad HTTP/1.1\r\nHost: test\r\n\r\n");
                Peer::bytes(&mut client, len);
                client.reset();
            }
        },
        why: &["client_gone"],
        ..Case::NONE
    },
    Case {
        name: "half_closes_at_every_point",
        origin: |mut peer, _| {
            peer.request();
            drop(peer.try_rest());
        },
        act: |stage| {
            let request = "GET /bad HTTP/1.1\r\nHost: test\r\n\r\nGET /bad";
            for len in 0..=request.len() {
                let mut client = stage.connect();
                client.send(&request[..len]);
                client.shutdown();
                let _ = client.try_rest();
            }
        },
        why: &["client_gone"],
        ..Case::NONE
    },
    Case {
        name: "heads_without_end",
        act: |stage| refused(stage, "GET /bad HTTP/1.1\r\nHost: test\r\n", PERSISTENT, 431),
        why: &["max_header_fields"],
        ..Case::NONE
    },
    Case {
        name: "field_lines_without_end",
        act: |stage| refused(stage, "GET /bad HTTP/1.1\r\nHost: test\r\nX: ", "y", 431),
        why: &["max_head_bytes"],
        ..Case::NONE
    },
    Case {
        name: "request_lines_without_end",
        act: |stage| refused(stage, "GET /bad", "y", 414),
        why: &["max_request_line"],
        ..Case::NONE
    },
    Case { name: "empty_lines_without_end", act: |stage| refused(stage, "", "\r\n", 400), ..Case::NONE },
    Case {
        name: "garbage_without_end",
        act: |stage| refused(stage, "", "\x16\x03\x01\r\n\u{7f}\0", 400),
        why: &["tls_on_plain_port"],
        ..Case::NONE
    },
    Case {
        name: "chunk_extensions_without_end",
        origin: |mut peer, _| drop(peer.try_rest()),
        act: |stage| {
            const HEAD: &str = "PUT /bad HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
            refused(stage, &format!("{HEAD}1;x="), "y", 400);
            // Each within the bounds of a line.
            refused(
                stage,
                HEAD,
                "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\nz\r\n",
                400,
            );
        },
        why: &["S5"],
        ..Case::NONE
    },
    Case {
        name: "trailers_without_end",
        origin: |mut peer, _| drop(peer.try_rest()),
        act: |stage| {
            const START: &str = "PUT /bad HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
            refused(stage, START, "X-Z: y\r\n", 400);
        },
        why: &["S8"],
        ..Case::NONE
    },
    Case {
        name: "pipelining_without_reading",
        act: |stage| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    let mut client = stage.connect();
                    client.stream().set_nonblocking(true).expect("a socket");
                    let block = "GET /health HTTP/1.1\r\nHost: test\r\n\r\n".repeat(1000);
                    let mut sent = 0;
                    // Until both directions are full; most of it is never answered.
                    while sent < 50_000_000
                        && matches!(client.inner().write(block.as_bytes()), Ok(len) if { sent += len; true })
                    {
                    }
                    client
                })
                .collect();
            drop(clients);
        },
        ..Case::NONE
    },
    Case {
        name: "tunnels_that_say_nothing",
        more: "timeouts: {tunnel_idle: 1s}",
        origin: |mut peer, _| {
            peer.request();
            let _ = peer.try_send("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            drop(peer.try_rest());
        },
        act: |stage| {
            let mut clients: Vec<Peer> = (0..50).map(|_| stage.connect()).collect();
            for client in &mut clients {
                client.send("GET /bad HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
                assert_eq!(client.response().status(), 101);
            }
            assert!(clients.iter_mut().all(Peer::is_closed));
        },
        why: &["tunnel_idle"],
        ..Case::NONE
    },
    Case {
        name: "ten_thousand_idle_connections",
        more: "limits: {max_connections: 15000}",
        shell: "ulimit -n $(ulimit -H -n)",
        act: |stage| {
            let count = most_connections();
            let mut clients = Vec::with_capacity(count);
            while clients.len() < count {
                let mut client = stage.connect();
                assert_eq!(client.get("/health").status(), 200);
                // Without its buffer of 64 KiB.
                clients.push(client.into_parts().0);
            }
            let memory = stage.proxy.memory_kib();
            eprintln!("{count} idle connections: {memory} KiB resident");
            assert!(stage.proxy.descriptors() >= count, "some were closed");
            // They all still work.
            for client in clients.iter_mut().step_by(500) {
                client.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").expect("it is open");
                assert_ne!(client.read(&mut [0; 16]).expect("an answer"), 0);
            }
        },
        ..Case::NONE
    },
    Case {
        name: "a_flood_beyond_the_connection_limit",
        more: "limits: {max_connections: 32}",
        bystanders: Bystanders::Established,
        act: |stage| {
            // The kernel takes them in; the proxy has room for a few, who send half a request and stay.
            let mut crowd: Vec<Peer> = (0..300).map(|_| stage.connect()).collect();
            crowd.iter_mut().for_each(|client| drop(client.try_send("GET /bad HTTP/1.1\r\nHo")));
            assert!(stage.proxy.descriptors() < 150, "{} descriptors", stage.proxy.descriptors());
        },
        ..Case::NONE
    },
];

/// An endless body, as fast as it goes.
fn flood(mut peer: Peer, _: usize) {
    peer.request();
    let _ = peer.try_send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    let block = vec![b'x'; 1 << 16];
    while peer.try_send(&block).is_ok() {}
}

/// Clients that take a little of an endless body and then nothing more.
fn readers_that_stop(stage: &Stage, count: usize) -> Vec<Peer> {
    let begin = |_| {
        let mut client = stage.connect();
        client.send("GET /bad HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.head().expect("a response").status(), 200);
        client
    };
    (0..count).map(begin).collect()
}

/// Who sends this does not stop when it was refused.
const PERSISTENT: &str = "X-Y: z\r\n";

/// What begins with `start` and goes on with `unit` is refused, and never reaches an origin whole.
fn refused(stage: &Stage, start: &str, unit: &str, status: u16) {
    let mut client = stage.connect();
    let mut sender = Peer::new(client.stream().try_clone().expect("a second handle"));
    let enough = &AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(move || send_without_end(&mut sender, start, unit, enough));
        // Before the lingering is over and the connection is cut; that takes its time, and one row waits for it.
        let answer = client.head();
        enough.store(unit != PERSISTENT, Ordering::SeqCst);
        assert_eq!(answer.expect("an answer").status(), status);
    });
}

/// Ten thousand, or as many as this process may have.
fn most_connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not allowed, less has to do.
    let _ = setrlimit(Resource::Nofile, limit);
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = usize::try_from(most.saturating_sub(2000)).unwrap_or(usize::MAX).min(10_000);
    if count < 10_000 {
        eprintln!("only {count} connections: the descriptor limit is {most}");
    }
    count
}

/// For rows elsewhere: the log says so, in its own time.
pub fn descriptors_rise_to(stage: &Stage, count: usize) {
    wait_until("the connections to be taken in", || stage.proxy.descriptors() >= count);
}
