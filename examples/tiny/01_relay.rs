//! Stage 1: a relay. Bytes of the client go to the upstream, bytes of the upstream go to the client.
//!
//! ```text
//! 01-relay 127.0.0.1:8080 127.0.0.1:9001
//! ```

use std::env;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, upstream, ..] = &args[..] else {
        return Err(io::Error::other("usage: 01-relay LISTEN UPSTREAM"));
    };
    let listener = TcpListener::bind(listen)?;
    for client in listener.incoming() {
        let upstream = upstream.clone();
        // One thread for each client: a slow one keeps nobody else waiting.
        thread::spawn(move || {
            if let Err(error) = client.and_then(|client| serve(&client, &upstream)) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn serve(client: &TcpStream, upstream: &str) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream)?;
    // Neither side's turn is known, so both directions are copied at the same time.
    thread::scope(|scope| {
        scope.spawn(|| relay(client, &upstream));
        relay(&upstream, client);
    });
    Ok(())
}

/// Copies until `from` has ended, and says so to `to`.
fn relay(mut from: &TcpStream, mut to: &TcpStream) {
    // An error on either side is an end like any other: there is nobody to tell it to.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
