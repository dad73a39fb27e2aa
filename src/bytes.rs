//! A byte queue: bytes are appended at the end and leave at the front. A long text that many connections send at the same
//! time is shared instead of copied ([`ByteQueue::extend_shared`]).
//!
//! After a partial write the rest stays in place (rule M9). Bytes that have left stay in memory until the next append, so
//! that a request which the upstream never saw can be sent again from the start ([`ByteQueue::rewind`]).

use std::sync::Arc;

/// A text that does not change and may be long. It is freed when it has been sent to all.
// In a box, because making an `Arc<str>` of a string copies it.
pub type SharedText = Arc<Box<str>>;

/// Bytes that wait to be written. An empty queue that was just made owns no memory.
#[derive(Debug, Default)]
pub struct ByteQueue {
    bytes: Vec<u8>,
    /// What follows `bytes`; `None` once it has left.
    shared: Option<SharedText>,
    /// How much of both has left.
    sent: usize,
}

impl ByteQueue {
    /// The bytes that still wait, oldest first: first those that are not shared, and when they have left, those that are.
    pub fn pending(&self) -> &[u8] {
        match &self.shared {
            Some(text) if self.sent >= self.bytes.len() => &text.as_bytes()[self.sent - self.bytes.len()..],
            Some(_) | None => &self.bytes[self.sent..],
        }
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared.as_ref().map_or(0, |text| text.len()) - self.sent
    }

    /// How many bytes of memory it owns; shared text does not count.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() && self.shared.is_none()
    }

    /// Appends `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buf().extend_from_slice(bytes);
    }

    /// Appends `text` without copying it.
    pub fn extend_shared(&mut self, text: SharedText) {
        self.buf();
        self.shared = Some(text).filter(|text| !text.is_empty());
    }

    /// The vector to append to. What it holds already must not be changed. A shared text that waits is copied.
    #[inline]
    pub fn buf(&mut self) -> &mut Vec<u8> {
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        } else {
            self.join();
        }
        &mut self.bytes
    }

    /// Makes room behind what waits.
    fn join(&mut self) {
        if let Some(text) = self.shared.take() {
            self.bytes.extend_from_slice(text.as_bytes());
        } else if self.sent > self.len() {
            // More than half has left: moving the rest costs less than growing the vector.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Removes the oldest `len` bytes, which were written.
    ///
    /// # Panics
    /// When fewer than `len` bytes wait.
    pub fn consume(&mut self, len: usize) {
        assert!(len <= self.len(), "consumed {len} of {} waiting bytes", self.len());
        self.sent += len;
        if let Some(text) = &self.shared
            && self.sent == self.bytes.len() + text.len()
        {
            self.shared = None;
            self.sent = self.bytes.len();
        }
    }

    /// The same for bytes that will never be sent again. A queue that took several writes frees its memory, if that is more
    /// than `kept_capacity`: its reader is slow, and there may be many of them.
    pub fn discard(&mut self, len: usize, kept_capacity: usize) {
        let in_pieces = self.sent > 0;
        self.consume(len);
        if in_pieces && self.is_empty() && self.bytes.capacity() > kept_capacity {
            *self = ByteQueue::default();
        }
    }

    /// Makes all bytes since the last append to an empty queue wait again, except shared ones.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Empties it, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.shared = None;
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        let mut queue = ByteQueue::default();
        queue.extend(b"abcdef");
        queue.consume(4);
        queue.extend(b"gh");
        assert_eq!(queue.pending(), b"efgh");
        queue.consume(4);
        assert!(queue.is_empty());
        queue.extend(b"i");
        assert_eq!(queue.pending(), b"i");
    }

    #[test]
    fn what_was_sent_can_be_sent_again_until_the_next_append() {
        let mut queue = ByteQueue::default();
        queue.extend(b"GET");
        queue.consume(3);
        queue.rewind();
        assert_eq!(queue.pending(), b"GET");
    }

    #[test]
    fn e4_a_large_queue_that_left_in_pieces_gives_its_memory_back() {
        for (name, pieces, len, expected) in [
            ("at once", &[9000][..], 9000, true),
            ("in pieces", &[4000, 5000], 9000, false),
            ("not all of it", &[4000, 4000], 9000, true),
            ("a small one in pieces", &[40, 50], 90, true),
        ] {
            let mut queue = ByteQueue::default();
            queue.extend(&vec![0; len]);
            pieces.iter().for_each(|piece| queue.discard(*piece, 4096));
            assert_eq!(queue.capacity() > 0, expected, "{name}");
        }
    }

    #[test]
    fn e4_a_shared_text_follows_the_bytes_before_it_and_is_freed_when_it_has_left() {
        let text: SharedText = Arc::new("shared".into());
        let mut queue = ByteQueue::default();
        queue.extend(b"own");
        queue.extend_shared(Arc::clone(&text));
        assert_eq!((queue.pending(), queue.len()), (&b"own"[..], 9));
        queue.discard(3, 0);
        assert_eq!((queue.pending(), queue.len()), (&b"shared"[..], 6));
        queue.discard(2, 0);
        assert_eq!((queue.pending(), queue.len(), queue.is_empty()), (&b"ared"[..], 4, false));
        assert_eq!(Arc::strong_count(&text), 2);
        queue.discard(4, 0);
        assert!(queue.is_empty() && queue.pending().is_empty());
        assert_eq!(Arc::strong_count(&text), 1);
        for (name, text, expected) in [("nothing behind it", "", &b""[..]), ("something behind it", "ab", b"b")] {
            let mut queue = ByteQueue::default();
            queue.extend_shared(Arc::new(text.into()));
            queue.consume(text.len().min(1));
            assert_eq!(queue.pending(), expected, "{name}");
            queue.extend(b"more");
            assert_eq!(queue.pending(), [expected, b"more"].concat(), "{name}");
        }
        let mut queue = ByteQueue::default();
        queue.extend(b"a");
        queue.extend_shared(Arc::clone(&text));
        queue.clear();
        assert!(queue.is_empty() && Arc::strong_count(&text) == 1, "a text that is not sent any more is not kept");
    }

    #[test]
    #[should_panic(expected = "consumed 2 of 1")]
    fn consuming_more_than_waits_is_a_bug_of_the_caller() {
        let mut queue = ByteQueue::default();
        queue.extend(b"x");
        queue.consume(2);
    }
}
