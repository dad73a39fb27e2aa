//! Many handshakes at once must not make those wait who are served already.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::StreamOwned;

use crate::certificates::Authority;
use crate::ends::{address_of, client_config, dial, listen_both, session};
use crate::support::{Origin, Proxy};

/// Handshakes begun at the same time, again and again, by each of the threads.
const AT_ONCE: usize = 30;
const THREADS: usize = 2;
const ROUNDS: usize = 4;

fn storm(address: SocketAddr, authority: &Authority, done: &AtomicUsize) {
    for _ in 0..ROUNDS {
        let mut streams: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let mut stream = StreamOwned::new(session(client_config(authority), "localhost"), dial(address));
                // The hello only: all of them shall be in the proxy's hands together.
                stream.conn.write_tls(&mut stream.sock).expect("is taken");
                stream
            })
            .collect();
        for stream in &mut streams {
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).expect("a handshake");
            }
            done.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn m4_a_storm_of_handshakes_does_not_starve_who_is_served() {
    let authority = Arc::new(Authority::new());
    let pair = authority.issue(&["localhost"]);
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::start(
        &origin.config(&format!("workers: 1\nlimits: {{max_requests_per_connection: 0}}\n{}", listen_both(&pair))),
    );
    let (http, https) = (address_of(&proxy, "http"), address_of(&proxy, "https"));
    let (done, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut client = crate::support::Peer::connect(http);
    assert_eq!(client.get("/").status(), 200);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (authority, done) = (authority.clone(), done.clone());
            thread::spawn(move || storm(https, &authority, &done))
        })
        .collect();
    let watcher = {
        let is_over = is_over.clone();
        thread::spawn(move || {
            threads.into_iter().for_each(|thread| thread.join().expect("a storm"));
            is_over.store(true, Ordering::SeqCst);
        })
    };
    let mut answers = 0;
    while !is_over.load(Ordering::SeqCst) {
        assert_eq!(client.get("/").status(), 200);
        answers += 1;
    }
    watcher.join().expect("the storm is over");
    assert_eq!(done.load(Ordering::SeqCst), AT_ONCE * THREADS * ROUNDS, "and everybody of the storm got in");
    // Were all handshakes of a round carried out in a row, there would be one answer between two rounds.
    assert!(answers > 2 * ROUNDS, "only {answers} answers while the storm went on");
    println!("{answers} answers");
}
