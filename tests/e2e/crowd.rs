//! Many clients at once: everybody gets their own answer, and nothing is left over when they have gone.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Origin, PATIENCE, Peer, Proxy, fingerprint};

const CLIENTS: u64 = 16;
const REQUESTS: u64 = 100;

/// Small numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn body(&mut self) -> Vec<u8> {
        let len = [0, 1, 100, 5_000, 70_000][self.roll(5) as usize];
        let first = self.roll(256) as u8;
        (0..len).map(|n: u32| first.wrapping_add((n % 251) as u8)).collect()
    }
}

/// One request with a body that nobody else sends; the answer has to tell of that very body.
fn ask(client: &mut Peer, name: &str, dice: &mut Dice) {
    let body = dice.body();
    let head = format!("POST /{name} HTTP/1.1\r\nHost: test\r\n");
    if dice.roll(2) == 0 {
        client.send(format!("{head}Content-Length: {}\r\n\r\n", body.len()));
        client.send(&body);
    } else {
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        for chunk in body.chunks(1 + dice.roll(9_000) as usize) {
            client.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
    }
    let response = client.response();
    assert_eq!(response.status(), 200, "{name}");
    assert!(response.text().starts_with(&format!("POST /{name} HTTP/1.1\n")), "{name}: {}", response.text());
    assert!(response.text().contains(&fingerprint(&body)), "{name}: {}", response.text());
}

fn run_crowd(proxy: &Proxy, act: impl Fn(&Proxy, u64) + Sync) {
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let act = &act;
            scope.spawn(move || act(proxy, number));
        }
    });
}

/// Waits until the proxy has as few descriptors open as at the start.
fn wait_for_descriptors(proxy: &Proxy, at_start: usize) {
    let deadline = Instant::now() + PATIENCE;
    while proxy.descriptors() > at_start {
        assert!(Instant::now() < deadline, "{} descriptors are open, {at_start} at the start", proxy.descriptors());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn everybody_gets_their_own_answer() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config("pool: { idle_timeout: 500ms }"));
    let at_start = proxy.descriptors();
    run_crowd(&proxy, |proxy, number| {
        let mut dice = Dice(number);
        let mut client = proxy.connect();
        for request in 0..REQUESTS {
            ask(&mut client, &format!("{number}/{request}"), &mut dice);
            if dice.roll(10) == 0 {
                client = proxy.connect();
            }
        }
    });
    wait_for_descriptors(&proxy, at_start);
}

#[test]
fn g23_those_who_break_off_disturb_nobody_and_leave_nothing_behind() {
    let good = Origin::echo();
    // Breaks off in a way of its own on each connection.
    let bad = Origin::start(|mut peer, number| {
        let _ = peer.head();
        let answers =
            ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "HTTP/1.1 200 OK\r\n\r\nclosed", "junk\r\n\r\n"];
        let _ = peer.try_send(answers[number % answers.len()]);
        if number % 3 == 0 {
            peer.reset();
        }
    });
    // Bears everything.
    let patient = Origin::start(|mut peer, _| {
        let _ = peer.try_rest();
    });
    let proxy = Proxy::start(&format!(
        "pool: {{ idle_timeout: 500ms }}\nroutes:\n  - prefix: /bad\n    upstream: {}\n  - prefix: /cut\n    upstream: {}\n  \
         - prefix: /\n    upstream: {}\n",
        bad.url(),
        patient.url(),
        good.url()
    ));
    let at_start = proxy.descriptors();
    run_crowd(&proxy, |proxy, number| {
        let mut dice = Dice(number + 100);
        for request in 0..REQUESTS {
            let mut client = proxy.connect();
            match (number % 2, dice.roll(4)) {
                (0, _) => ask(&mut client, &format!("{number}/{request}"), &mut dice),
                (_, 0) => {
                    client.send("GET /bad HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
                    let _ = client.try_rest();
                }
                (_, 1) => {
                    client.send("POST /cut HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nhalf");
                    client.reset();
                }
                (_, 2) => {
                    client.send("GET /cut HTTP/1.1\r\nHost: test\r\n\r\nGET /y HTTP/1.1\r\nHo");
                    client.shutdown();
                    let _ = client.try_rest();
                }
                (_, _) => client.send("GET /bad HTTP/1.1\r\nHost: test\r\n\r\n"),
            }
        }
    });
    wait_for_descriptors(&proxy, at_start);
    assert_eq!(proxy.connect().get("/after").status(), 200);
}
