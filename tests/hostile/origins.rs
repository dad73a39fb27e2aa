//! Failing and hostile origins. Eight ordinary clients ask each of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::Peer;
use crate::{Case, Stage, send_without_end};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const fn origin(name: &'static str, origin: fn(Peer, usize), why: &'static [&'static str]) -> Case {
    Case { name, origin, act: |stage| stage.visit(8), why, ..Case::NONE }
}

/// Reads the request, then sends without end.
fn endless(peer: &mut Peer, start: &str, unit: &str) {
    peer.request();
    send_without_end(peer, start, unit, &AtomicBool::new(false));
}

pub const CASES: &[Case] = &[
    origin("origins_that_close_at_once", |_, _| {}, &["upstream_reset"]),
    origin("origins_that_never_answer", |mut peer, _| drop(peer.try_rest()), &["response_timeout"]),
    origin(
        "origins_that_answer_before_the_request",
        |mut peer, _| {
            let _ = peer.try_send(OK);
            drop(peer.try_rest());
        },
        &[],
    ),
    Case { act: nobody_gets_the_second_answer, ..origin("origins_that_answer_twice", answer_twice, &[]) },
    origin(
        "origins_that_send_garbage",
        |mut peer, number| {
            peer.request();
            let _ = peer.try_send(["\0\x01\x02\r\n\r\n", "SSH-2.0-x\r\n", "HTTP/1.1 2x0 OK\r\n\r\n"][number % 3]);
        },
        &["bad_response"],
    ),
    origin("garbage_without_end", |mut peer, _| endless(&mut peer, "", "\x7f\0"), &["bad_response"]),
    origin("heads_of_100_mib", |mut peer, _| endless(&mut peer, "HTTP/1.1 200 OK\r\nX: ", "y"), &["bad_response"]),
    origin(
        "fields_without_end",
        |mut peer, _| endless(&mut peer, "HTTP/1.1 200 OK\r\n", "X: y\r\n"),
        &["bad_response"],
    ),
    origin(
        "interim_responses_without_end",
        |mut peer, _| endless(&mut peer, "", "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"),
        &["bad_response"],
    ),
    origin(
        "chunk_extensions_without_end_from_an_origin",
        |mut peer, number| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let small = "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\nz\r\n";
            match number % 2 {
                0 => endless(&mut peer, &format!("{head}1;"), "x"),
                _ => endless(&mut peer, head, small),
            }
        },
        &["bad_response"],
    ),
    origin(
        "trailers_without_end_from_an_origin",
        |mut peer, _| {
            endless(&mut peer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", "X: y\r\n");
        },
        &["bad_response"],
    ),
    origin(
        "responses_in_writes_of_one_byte",
        |mut peer, _| {
            peer.request();
            OK.bytes().for_each(|byte| drop(peer.try_send([byte])));
            drop(peer.try_rest());
        },
        &[],
    ),
    origin(
        "heads_that_come_too_slowly",
        |mut peer, _| {
            peer.request();
            while peer.try_send("1").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        },
        &["response_timeout"],
    ),
    origin(
        "origins_that_stop_within_the_head",
        |mut peer, _| {
            peer.request();
            let _ = peer.try_send("HTTP/1.1 200 OK\r\nX:");
            drop(peer.try_rest());
        },
        &["response_timeout"],
    ),
    origin(
        "origins_that_stop_within_the_body",
        |mut peer, _| {
            peer.request();
            let _ = peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            drop(peer.try_rest());
        },
        &["response_idle_timeout"],
    ),
    origin(
        "origins_that_end_within_the_body",
        |mut peer, _| {
            peer.request();
            let _ = peer.try_send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf");
            peer.shutdown();
            drop(peer.try_rest());
        },
        &["upstream_truncated"],
    ),
    Case {
        act: |stage| stage.visit(RESPONSE.len()),
        ..origin(
            "resets_at_every_point_from_an_origin",
            reset_further_each_time,
            &["upstream_reset", "upstream_truncated"],
        )
    },
    Case {
        act: |stage| {
            let mut clients: Vec<Peer> = (0..8).map(|_| stage.connect()).collect();
            let (count, enough) = (clients.len(), &AtomicBool::new(false));
            thread::scope(|scope| {
                for client in &mut clients {
                    // Who stops when the buffers are full for a moment would be late themselves, once more fits in.
                    scope.spawn(move || send_without_end(client, LARGE_PUT, "x", enough));
                }
                let line = |line: &str| line.contains("upstream_write_timeout");
                stage.proxy.log.wait_for_many("upstream_write_timeout", count, line);
                enough.store(true, Ordering::SeqCst);
            });
        },
        ..origin("origins_that_never_read", |peer, _| wait_without_reading(&peer), &["upstream_write_timeout"])
    },
];

const LARGE_PUT: &str = "PUT /bad HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n";

const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";

fn reset_further_each_time(mut peer: Peer, number: usize) {
    peer.request();
    let _ = peer.try_send(&RESPONSE[..number % RESPONSE.len()]);
    peer.reset();
}

fn answer_twice(mut peer: Peer, _: usize) {
    while let Some(request) = peer.request() {
        let path = request.target();
        let answer = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        if peer.try_send(answer(path) + &answer("for nobody")).is_err() {
            return;
        }
    }
}

fn nobody_gets_the_second_answer(stage: &Stage) {
    let mut client = stage.connect();
    for number in 0..100 {
        assert_eq!(client.get(&format!("/bad/{number}")).text(), format!("/{number}"));
    }
}

/// Waits for the end without reading what comes before it.
fn wait_without_reading(peer: &Peer) {
    let mut end = [0];
    loop {
        // A reset, or an error on writing, is the end as well.
        match peer.stream().peek(&mut end) {
            Ok(0) | Err(_) => return,
            Ok(_) => thread::sleep(Duration::from_millis(20)),
        }
        if peer.stream().take_error().is_ok_and(|error| error.is_some()) {
            return;
        }
    }
}
