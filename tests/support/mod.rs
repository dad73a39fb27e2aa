//! Helpers of the end-to-end tests: the built proxy as a process, scriptable origins, raw clients, programs that no one
//! here wrote. Everything waits for events; nothing waits longer than [`PATIENCE`].

#![allow(dead_code, reason = "each test crate uses another part of it")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

pub mod lines;
pub mod origin;
pub mod peer;
pub mod programs;
pub mod proxy;
pub mod stream;

pub use origin::{Origin, fingerprint};
pub use peer::Peer;
pub use programs::{Nginx, curl, curl_ok, is_missing};
pub use proxy::{Launch, Proxy, value};
pub use stream::Stream;

/// How long anything may take before a test gives up: far above what it needs, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// For programs that cannot choose a port themselves.
pub fn free_address() -> SocketAddr {
    selftest::program::free_address().expect("a free port")
}

/// An address that refuses connections for as long as the socket lives: it is bound but does not listen.
pub fn refusing_address() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    (socket.local_addr().expect("an address").as_socket().expect("an IP address"), socket)
}

/// Sends the signal `name` ("TERM", "INT", ...) to one process.
pub fn send_signal(pid: u32, name: &str) {
    assert!(try_signal(pid, name), "signal {name} to {pid}");
}

/// Tells whether there was such a process.
fn try_signal(pid: u32, name: &str) -> bool {
    // `kill` is a built-in of every shell: no package is needed for it.
    let status = Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status();
    status.is_ok_and(|status| status.success())
}

/// Returns as soon as it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sets it when it goes out of scope: threads that ask it stop however a test ends. A scope waits for its threads, so that a
/// failure would hang otherwise.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
