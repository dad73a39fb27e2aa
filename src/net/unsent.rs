//! How many bytes that a socket was given have not arrived: a write says only what the kernel took. A reader of 2 kB/s makes
//! room for the next write once a minute; whether it reads on, only the kernel knows.
#![allow(unsafe_code, reason = "no crate offers this request of ioctl(2) safely")]

use std::os::fd::{AsFd, AsRawFd};

/// What the peer of `socket` has not acknowledged (TCP) or read (a local socket); `None` where the system does not say.
pub fn unsent(socket: impl AsFd) -> Option<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: for a socket this request (SIOCOUTQ, which has the same number) writes one int to where the pointer leads, and
    // keeps nothing of it; the descriptor is borrowed, and so open.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { u32::try_from(count).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_the_peer_has_not_taken_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (mut server, _) = listener.accept().expect("a connection");
        client.set_nonblocking(true).expect("a socket");
        assert_eq!(unsent(&client), Some(0));
        while client.write(&[0; 65536]).is_ok() {}
        let before = unsent(&client).expect("the system says it");
        assert!(before > 0);
        server.set_nonblocking(true).expect("a socket");
        let mut buf = vec![0; 1 << 20];
        while unsent(&client).is_some_and(|now| now >= before) {
            let _ = server.read(&mut buf);
        }
    }

    #[test]
    fn local_sockets_know_it_too() {
        let (mut one, mut other) = UnixStream::pair().expect("two sockets");
        one.write_all(b"hello").expect("room");
        assert!(unsent(&one).is_some_and(|count| count > 0));
        other.read_exact(&mut [0; 5]).expect("five bytes");
        assert_eq!(unsent(&one), Some(0));
    }
}
