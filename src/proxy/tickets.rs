//! The tickets of paused exchanges: by the number of one its exchange is resumed, once, from any thread.
//!
//! ```text
//!   issued ──await_resume──► waiting ──resume──► resumed        the wake function is called once, by whichever comes last
//!      └──────resume────────────────────────────►┘              dropped: a resume finds nothing
//! ```
//!
//! There is one registry for all workers, because a plugin may resume from any thread. It is not on the way of a request
//! that does not pause.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tells the exchange's thread that there is something for it.
pub type Wake = Box<dyn FnOnce() + Send>;

enum Entry {
    Issued,
    Waiting(Wake),
    /// Whether it was not for a failure.
    Resumed(bool),
}

struct Tickets {
    /// The last number that was given. None is given twice.
    last: u64,
    entries: BTreeMap<u64, Entry>,
}

static TICKETS: Mutex<Tickets> = Mutex::new(Tickets { last: 0, entries: BTreeMap::new() });

fn tickets() -> MutexGuard<'static, Tickets> {
    TICKETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right of one exchange to wait. When it is dropped the exchange waits no more, and its number means nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Ticket {
    /// A ticket with a number of its own, never 0.
    pub fn issue() -> Ticket {
        let mut tickets = tickets();
        tickets.last += 1;
        let number = tickets.last;
        tickets.entries.insert(number, Entry::Issued);
        Ticket(number)
    }

    /// What [`resume`] takes.
    pub fn number(&self) -> u64 {
        self.0
    }

    /// Whether it was resumed, and then whether not for a failure.
    pub fn resumed(&self) -> Option<bool> {
        if let Some(Entry::Resumed(is_good)) = tickets().entries.get(&self.0) { Some(*is_good) } else { None }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let entry = tickets().entries.remove(&self.0);
        // A wake function that nobody called owns things; they are dropped without the lock.
        drop(entry);
    }
}

/// Ends a pause, from any thread; `is_good`: not by a failure. Says whether there was one to end: not where its exchange is
/// over, nor a second time.
pub fn resume(number: u64, is_good: bool) -> bool {
    let mut tickets = tickets();
    let Some(entry) = tickets.entries.get_mut(&number).filter(|entry| !matches!(entry, Entry::Resumed(_))) else {
        return false;
    };
    let before = std::mem::replace(entry, Entry::Resumed(is_good));
    // Not while the lock is held: it may be slow, and may fail.
    drop(tickets);
    if let Entry::Waiting(wake) = before {
        wake();
    }
    true
}

/// `wake` is called once when the exchange is resumed: at once where it was. Nothing happens where it is over.
pub fn await_resume(number: u64, wake: Wake) {
    let mut tickets = tickets();
    match tickets.entries.get_mut(&number) {
        Some(entry @ Entry::Issued) => *entry = Entry::Waiting(wake),
        Some(Entry::Resumed(_)) => {
            drop(tickets);
            wake();
        }
        Some(Entry::Waiting(_)) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    fn counting(count: &Arc<AtomicUsize>) -> Wake {
        let count = Arc::clone(count);
        Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })
    }

    #[test]
    fn a_ticket_is_resumed_once_and_wakes_once() {
        for resume_first in [true, false] {
            let (ticket, woken) = (Ticket::issue(), Arc::default());
            if resume_first {
                assert!(resume(ticket.number(), false));
                assert_eq!(ticket.resumed(), Some(false));
            }
            await_resume(ticket.number(), counting(&woken));
            assert_eq!(woken.load(Ordering::Relaxed), usize::from(resume_first));
            assert_eq!(resume(ticket.number(), true), !resume_first);
            assert!(!resume(ticket.number(), true), "once");
            assert_eq!(woken.load(Ordering::Relaxed), 1);
            assert_eq!(ticket.resumed(), Some(!resume_first), "the first one counts");
        }
    }

    #[test]
    fn an_exchange_that_is_over_cannot_be_resumed() {
        let (ticket, woken) = (Ticket::issue(), Arc::default());
        let number = ticket.number();
        await_resume(number, counting(&woken));
        drop(ticket);
        assert!(!resume(number, true));
        await_resume(number, counting(&woken));
        assert_eq!(Arc::strong_count(&woken), 1, "nothing is kept of it");
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        assert!(Ticket::issue().number() > number, "no number is given twice");
        assert!(!resume(0, true));
    }

    #[test]
    fn of_many_threads_one_resumes_and_no_wake_is_lost() {
        const TICKETS: usize = 2000;
        const THREADS: usize = 4;
        let (mut senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<u64>()).unzip();
        let (woken, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        std::thread::scope(|scope| {
            for numbers in receivers {
                let done = Arc::clone(&done);
                scope.spawn(move || {
                    let count = numbers.iter().filter(|number| resume(*number, true)).count();
                    done.fetch_add(count, Ordering::Relaxed);
                });
            }
            let mut tickets = Vec::new();
            for _ in 0..TICKETS {
                let ticket = Ticket::issue();
                // Every thread tries, before, while and after the exchange begins to wait.
                senders.iter().for_each(|sender| sender.send(ticket.number()).expect("it listens"));
                await_resume(ticket.number(), counting(&woken));
                tickets.push(ticket);
            }
            senders.clear();
            while done.load(Ordering::Relaxed) < TICKETS && Arc::strong_count(&done) > 1 {
                std::thread::yield_now();
            }
            assert!(tickets.iter().all(|ticket| ticket.resumed() == Some(true)));
        });
        assert_eq!(done.load(Ordering::Relaxed), TICKETS, "each is resumed once");
        assert_eq!(woken.load(Ordering::Relaxed), TICKETS, "each wakes once");
    }
}
