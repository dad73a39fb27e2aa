//! Recycled transactions, one set per worker.

use super::body_memory::BodyMemory;
use super::state::Transaction;
use crate::mono_time::MonoTime;

/// A recycled transaction that owns no more is kept as it is: 16 KiB in chunks, in a queue that has grown by doubling, and
/// two heads. Cutting it down each time, to let it grow again for the next such body, would cost more than the body.
const KEPT_AS_IT_IS: usize = 40 * 1024;

/// How many recycled transactions a worker keeps.
const KEPT_TRANSACTIONS: usize = 64;

/// Transactions that are not in use.
#[derive(Debug)]
pub struct TransactionPool {
    // The boxes themselves are what is kept: a connection's slot holds one word, and taking one allocates nothing.
    boxes: Vec<(Box<Transaction>, usize)>,
    /// The most bytes to keep, and how many are kept, of which each box knows its part.
    most: usize,
    kept: usize,
    /// What bodies that plugins read may take.
    bodies: BodyMemory,
}

impl Default for TransactionPool {
    fn default() -> Self {
        TransactionPool::of(usize::MAX, BodyMemory::of(usize::MAX))
    }
}

impl TransactionPool {
    /// None yet; at most so many bytes are kept.
    pub fn of(most: usize, bodies: BodyMemory) -> TransactionPool {
        TransactionPool { boxes: Vec::new(), most, kept: 0, bodies }
    }

    /// Keeps none of those that there are. What is reserved stays so.
    pub fn clear(&mut self) {
        self.boxes.clear();
        self.kept = 0;
    }

    pub(super) fn bodies(&self) -> &BodyMemory {
        &self.bodies
    }

    pub(super) fn take(&mut self, now: MonoTime) -> Box<Transaction> {
        let mut transaction = self.boxes.pop().map_or_else(Box::default, |(transaction, memory)| {
            self.kept -= memory;
            transaction
        });
        transaction.restart(now);
        transaction
    }

    pub(super) fn recycle(&mut self, mut transaction: Box<Transaction>) {
        if self.boxes.len() < KEPT_TRANSACTIONS {
            // What the client sent beside its request.
            transaction.buf.client_input.clear();
            transaction.reserved.shrink_to(0);
            let room = self.most - self.kept;
            let mut memory = transaction.memory();
            if memory > room.min(KEPT_AS_IT_IS) {
                transaction.log.method = None;
                transaction.buf.shrink();
                memory = transaction.memory();
            }
            if memory <= room {
                self.kept += memory;
                self.boxes.push((transaction, memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Method;
    use crate::proxy::buffers::KEPT_CAPACITY;

    /// Makes one buffer own a lot.
    type Grow = fn(&mut Transaction, Vec<u8>);

    const EVERY_BUFFER: [(&str, Grow); 19] = [
        ("client input", |transaction, bytes| transaction.buf.client_input = bytes),
        ("upstream input", |transaction, bytes| transaction.buf.upstream_input = bytes),
        ("to the client", |transaction, bytes| *transaction.buf.to_client.buf() = bytes),
        ("to the upstream", |transaction, bytes| *transaction.buf.to_upstream.buf() = bytes),
        ("method", |transaction, bytes| transaction.buf.request.method = Method::of(&bytes)),
        ("logged method", |transaction, bytes| transaction.log.method = Some(Method::of(&bytes))),
        ("target", |transaction, bytes| transaction.buf.request.target = bytes),
        ("authority", |transaction, bytes| transaction.buf.request.authority = bytes),
        ("request fields", |transaction, bytes| transaction.buf.request.fields.add(b"a", &bytes)),
        ("reason", |transaction, bytes| transaction.buf.response.reason = bytes),
        ("response fields", |transaction, bytes| transaction.buf.response.fields.add(b"a", &bytes)),
        ("trailers", |transaction, bytes| transaction.buf.trailers.add(b"a", &bytes)),
        ("original target", |transaction, bytes| transaction.buf.original_target = bytes),
        ("offered protocols", |transaction, bytes| transaction.buf.offered = bytes),
        ("request body", |transaction, bytes| transaction.buf.request_body = bytes),
        ("response body", |transaction, bytes| transaction.buf.response_body = bytes),
        ("plugin values", |transaction, bytes| transaction.buf.chain.values.push((b"key".to_vec(), bytes))),
        ("plugin keys", |transaction, bytes| transaction.buf.chain.values.push((bytes, Vec::new()))),
        ("named by Connection", |transaction, bytes| transaction.buf.scratch.connection_named = bytes),
    ];

    #[test]
    fn e4_everything_that_grows_with_what_peers_send_is_counted_and_given_back() {
        const LEN: usize = 200 * 1024;
        let empty = Transaction::default().memory();
        for (name, grow) in EVERY_BUFFER {
            let mut transaction = Transaction::default();
            grow(&mut transaction, vec![b'x'; LEN]);
            assert!(transaction.memory() >= empty + LEN, "{name} is not counted");
            transaction.log.method = None;
            transaction.buf.shrink();
            let kept = transaction.memory();
            assert!(kept <= empty + KEPT_CAPACITY + 4096, "{name}: {kept} bytes are kept");
        }
    }

    #[test]
    fn e4_what_is_recycled_is_cut_down_where_it_is_much_or_there_is_little_room() {
        const KIB: usize = 1024;
        for (name, most, grown, expected) in [
            ("16 KiB in chunks", usize::MAX, 32 * KIB, Some(32 * KIB)),
            ("a large body", usize::MAX, 200 * KIB, Some(KEPT_CAPACITY)),
            ("little room", 24 * KIB, 32 * KIB, Some(KEPT_CAPACITY)),
            ("no room", 8 * KIB, 32 * KIB, None),
        ] {
            let mut transactions = TransactionPool::of(most, BodyMemory::of(usize::MAX));
            let mut transaction = transactions.take(MonoTime::FIRST);
            transaction.buf.client_input.extend_from_slice(b"of the next request");
            transaction.buf.to_client.buf().reserve_exact(grown);
            transactions.recycle(transaction);
            let kept = transactions.boxes.first().map(|(transaction, _)| transaction.buf.to_client.capacity());
            assert_eq!(kept, expected, "{name}");
            assert!(transactions.kept <= most, "{name}");
            let again = transactions.take(MonoTime::FIRST);
            assert!(again.buf.client_input.is_empty(), "{name}: nobody gets what another client sent");
            assert_eq!(transactions.kept, 0, "{name}");
        }
    }
}
