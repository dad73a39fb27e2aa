//! Pipes between sockets: with `splice(2)` the kernel hands the pages of a body on, and no byte is copied through us.
//!
//! A pipe holds what was taken from one socket and not yet given to the other. Pipes are few, are used again, and each
//! costs two descriptors: where none is to be had, or the system does not know the call, bodies are copied. What is
//! worth this way, and what becomes of a pipe whose receiver stalls, is decided in [`lane`](super::lane).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe shall hold: the most that Linux allows everybody by default.
const SIZE: usize = 1024 * 1024;
/// What a pipe has to hold.
const LEAST_SIZE: usize = 64 * 1024;

/// A pipe, and how much is inside.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    len: usize,
}

impl Pipe {
    /// A new one; `None` where none is to be had, or only one so small that copying is better.
    fn open() -> Option<Pipe> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Refused where the user has many large pipes already; then the usual size does, but not the two pages that
        // are left to somebody who has far too many.
        let size = fcntl_setpipe_size(&writer, SIZE).or_else(|_| fcntl_getpipe_size(&writer)).ok()?;
        (size >= LEAST_SIZE).then_some(Pipe { reader, writer, len: 0 })
    }

    /// How many bytes are inside.
    pub fn held(&self) -> usize {
        self.len
    }

    /// Takes at most `most` bytes from a socket. Only into an empty pipe: then `WouldBlock` can but mean that the
    /// socket has nothing.
    pub fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK;
        let len = retry_on_intr(|| splice(from.as_fd(), None, &self.writer, None, most, flags))?;
        self.len += len;
        Ok(len)
    }

    /// Gives to a socket as much as it takes. Only from a pipe that is not empty: then `WouldBlock` can but mean
    /// that the socket is full.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK;
        let len = retry_on_intr(|| splice(&self.reader, None, to.as_fd(), None, self.len, flags))?;
        self.len -= len;
        Ok(len)
    }

    /// Takes bytes out into memory.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = retry_on_intr(|| rustix::io::read(&self.reader, &mut *buf))?;
        self.len -= len;
        Ok(len)
    }
}

/// Whether the error says that sockets of this kind, or this system, cannot do it: an old kernel, a sandbox.
pub fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    free: Vec<Pipe>,
    lent: usize,
    /// How many there may be, lent ones included; 0 once splicing has turned out to be impossible.
    most: usize,
}

impl Pipes {
    /// At most so many, each of which is made when it is first needed.
    pub fn new(most: usize) -> Pipes {
        Pipes { free: Vec::new(), lent: 0, most }
    }

    /// An empty pipe, if there is one to be had.
    pub fn take(&mut self) -> Option<Pipe> {
        if self.lent >= self.most {
            return None;
        }
        let pipe = self.free.pop().or_else(Pipe::open)?;
        self.lent += 1;
        Some(pipe)
    }

    /// Whether more than half of them are lent.
    pub fn are_short(&self) -> bool {
        self.lent > self.most / 2
    }

    /// Takes a pipe back. One that is not empty is closed: its bytes are nobody's.
    pub fn give_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        if pipe.held() == 0 && self.most > 0 {
            self.free.push(pipe);
        }
    }

    /// Closes those that nobody uses: their descriptors are needed. Says whether there were any.
    pub fn close_free(&mut self) -> bool {
        let had_some = !self.free.is_empty();
        self.free.clear();
        had_some
    }

    /// Splicing has turned out to be impossible: from now on there is no pipe.
    pub fn give_up(&mut self) {
        self.most = 0;
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        ours.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    }

    #[test]
    fn bytes_go_from_socket_to_socket_and_the_pipe_knows_how_many_it_holds() {
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        let mut pipe = Pipes::new(1).take().expect("a pipe");
        assert_eq!(pipe.fill(&from, 100).expect_err("nothing is there").kind(), ErrorKind::WouldBlock);
        sender.write_all(b"0123456789").expect("room");
        assert_eq!(pipe.fill(&from, 6).expect("six bytes"), 6);
        assert_eq!(pipe.held(), 6);
        assert_eq!(pipe.drain(&to).expect("room"), 6);
        assert_eq!(pipe.held(), 0);
        assert_eq!(pipe.fill(&from, 100).expect("the rest"), 4);
        let mut buf = [0; 3];
        assert_eq!(pipe.read(&mut buf).expect("bytes"), 3);
        assert_eq!((&buf, pipe.held()), (b"678", 1));
        assert_eq!(pipe.drain(&to).expect("room"), 1);
        let mut got = [0; 7];
        receiver.read_exact(&mut got).expect("bytes");
        assert_eq!(&got, b"0123459");
        drop(sender);
        assert_eq!(pipe.fill(&from, 100).expect("the end"), 0);
    }

    #[test]
    fn what_cannot_be_spliced_says_so() {
        let (ours, _theirs) = pair();
        let mut pipe = Pipes::new(1).take().expect("a pipe");
        // A file that has nothing to splice: the kernel answers EINVAL, as it does for sockets in some sandboxes.
        let error = pipe.fill(File::open("/proc/self/mem").expect("Linux"), 10).expect_err("no such read");
        assert!(is_unsupported(&error), "{error}");
        assert!(!is_unsupported(&pipe.fill(&ours, 10).expect_err("nothing is there")));
    }

    #[test]
    fn e3_pipes_are_limited_and_used_again_unless_bytes_are_left_in_them() {
        let (from, mut sender) = pair();
        let mut pipes = Pipes::new(2);
        let (first, mut second) = (pipes.take().expect("a pipe"), pipes.take().expect("a pipe"));
        assert!(pipes.take().is_none() && pipes.are_short());
        pipes.give_back(first);
        assert!(!pipes.are_short());
        assert_eq!(pipes.free.len(), 1);
        sender.write_all(b"x").expect("room");
        assert_eq!(second.fill(&from, 1).expect("a byte"), 1);
        pipes.give_back(second);
        assert_eq!((pipes.free.len(), pipes.lent), (1, 0), "the other one is closed");
        assert!(pipes.close_free());
        assert!(!pipes.close_free());
        let pipe = pipes.take().expect("a new one");
        pipes.give_up();
        pipes.give_back(pipe);
        assert!(pipes.take().is_none() && pipes.free.is_empty());
    }
}
