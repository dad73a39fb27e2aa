//! Logins that hold for a connection (NTLM, Negotiate).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Origin, Peer, Proxy};

/// An origin whose connections remember who has logged in, and tells how many of them have ended.
fn origin() -> (Origin, Arc<AtomicUsize>) {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let origin = Origin::start(move |mut peer, number| {
        let mut user = String::new();
        while let Some(request) = peer.request() {
            let (status, more) = match request.field("Authorization").and_then(|value| value.split_once(' ')) {
                Some(("NTLM" | "negotiate", name)) => {
                    user = name.to_owned();
                    ("200 OK", "")
                }
                None if user.is_empty() && request.target() == "/private" => {
                    ("401 Unauthorized", "WWW-Authenticate: Negotiate, NTLM\r\n")
                }
                Some(_) | None => ("200 OK", ""),
            };
            let body = format!("{number} {user}");
            peer.send(format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len()));
        }
        count.fetch_add(1, Ordering::SeqCst);
    });
    (origin, ended)
}

fn ask(client: &mut Peer, target: &str, more: &str) -> String {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
    client.response().text().to_owned()
}

/// Waits until so many connections to the origin have ended.
fn wait_for(ended: &AtomicUsize, count: usize) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while ended.load(Ordering::SeqCst) < count {
        assert!(std::time::Instant::now() < deadline, "{count} connections should have ended");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_connection_on_which_a_client_logged_in_serves_it_alone_and_ends_with_it() {
    let (origin, ended) = origin();
    // What a pool would do to it does not matter.
    for pool in ["", "pool: {idle_timeout: 50ms, max_idle: 0}\n"] {
        let before = origin.connections();
        let proxy = Proxy::start(&origin.config(&format!("workers: 1\n{pool}")));
        let mut alice = Peer::connect(proxy.address);
        assert_eq!(ask(&mut alice, "/private", ""), format!("{before} "), "it is asked to log in");
        let mut bob = Peer::connect(proxy.address);
        assert_eq!(ask(&mut bob, "/private", ""), format!("{} ", before + 1), "not on hers, although she has not yet");
        assert_eq!(ask(&mut alice, "/private", "Authorization: NTLM alice\r\n"), format!("{before} alice"));
        assert_eq!(ask(&mut bob, "/open", "Authorization: negotiate bob\r\n"), format!("{} bob", before + 1));
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..3 {
            assert_eq!(ask(&mut alice, "/private", ""), format!("{before} alice"), "the login holds");
            assert_eq!(ask(&mut bob, "/private", ""), format!("{} bob", before + 1));
        }
        let mut carol = Peer::connect(proxy.address);
        assert_eq!(ask(&mut carol, "/open", ""), format!("{} ", before + 2), "a connection of nobody");
        let gone = ended.load(Ordering::SeqCst);
        drop(alice);
        wait_for(&ended, gone + 1);
        assert_eq!(ask(&mut bob, "/private", ""), format!("{} bob", before + 1));
        drop(bob);
        wait_for(&ended, gone + 2);
        drop(proxy);
    }
}

#[test]
fn a_login_whose_connection_the_origin_closes_is_made_anew() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let origin = Origin::start(move |mut peer, number| {
        // The first connection ends behind its first answer, without a word.
        let most = if number == 0 { 1 } else { usize::MAX };
        for _ in 0..most {
            let Some(request) = peer.request() else { return };
            log.lock().expect("a log").push((number, request.field("Authorization").is_some()));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let proxy = Proxy::start(&origin.config("workers: 1"));
    let mut client = Peer::connect(proxy.address);
    for more in ["Authorization: NTLM a\r\n", "", "Authorization: NTLM a\r\n", ""] {
        assert_eq!(ask(&mut client, "/", more), "");
    }
    let seen = seen.lock().expect("a log").clone();
    assert_eq!(seen, [(0, true), (1, false), (1, true), (1, false)]);
}
