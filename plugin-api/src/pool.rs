//! A few threads for slow work.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::export::panic_text;
use crate::types::{Error, Logger};

type Job = Box<dyn FnOnce() + Send>;

/// Threads for work that takes too long for a hook, and a bounded queue in front of them. See [`Pause`](crate::Pause) for
/// what exchanges do meanwhile.
///
/// Dropping it drops the jobs that have not begun, and waits for those that have.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    log: Logger,
    max_waiting: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// How many threads have nothing to do.
    idle: usize,
    waiting: VecDeque<Job>,
    is_closed: bool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code of a plugin runs under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does.
    fn work(&self) {
        let mut queue = self.queue();
        while !queue.is_closed {
            let Some(job) = queue.waiting.pop_front() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.idle -= 1;
            drop(queue);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                self.log.error(format_args!("a job panicked: {}", panic_text(payload)));
            }
            queue = self.queue();
            queue.idle += 1;
        }
    }
}

impl Pool {
    /// So many threads, and room for so many jobs that wait for one. `log` hears of jobs that panic; a
    /// [`Setup`](crate::Setup) will do.
    pub fn new(log: &Logger, threads: usize, max_waiting: usize) -> Result<Pool, Error> {
        let threads = threads.max(1);
        let queue = Mutex::new(Queue { idle: threads, ..Queue::default() });
        let shared = Arc::new(Shared { log: *log, max_waiting, queue, changed: Condvar::new() });
        let mut pool = Pool { shared, threads: Vec::new() };
        for _ in 0..threads {
            let shared = Arc::clone(&pool.shared);
            // Where one cannot be started, the drop of `pool` ends the others.
            pool.threads.push(thread::Builder::new().name("plugin-pool".into()).spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Gives `job` to a thread that is idle, or lets it wait for one. Where the queue is full it comes back.
    pub fn run<J: FnOnce() + Send + 'static>(&self, job: J) -> Result<(), J> {
        let mut queue = self.shared.queue();
        // A job that an idle thread has yet to pick up does not wait.
        if queue.waiting.len() >= self.shared.max_waiting.saturating_add(queue.idle) {
            return Err(job);
        }
        queue.waiting.push_back(Box::new(job));
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.is_closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        self.shared.changed.notify_all();
        drop(waiting);
        for thread in self.threads.drain(..) {
            // A job may hold the last reference to its own pool: a thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::setup::HostLink;

    fn pool(threads: usize, max_waiting: usize) -> Pool {
        let log = HostLink::new(crate::host::table::<crate::testing::TestAccess<'static>>(), std::ptr::null_mut()).log;
        Pool::new(&log, threads, max_waiting).unwrap()
    }

    /// A job that says when it has begun and waits until it is told to end.
    fn job(begun: &Sender<&'static str>, name: &'static str) -> (Sender<()>, impl FnOnce() + Send + use<>) {
        let (end, ends) = channel();
        let begun = begun.clone();
        let job = move || {
            begun.send(name).unwrap();
            let _: Result<(), _> = Receiver::recv(&ends);
        };
        (end, job)
    }

    #[test]
    fn what_does_not_fit_comes_back() {
        let pool = pool(2, 1);
        let (begun, begins) = channel();
        let (ends, jobs): (Vec<_>, Vec<_>) = ["a", "b", "c", "d"].map(|name| job(&begun, name)).into_iter().unzip();
        let mut results: Vec<_> = jobs.into_iter().map(|job| pool.run(job)).collect();
        let taken: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(taken, [true, true, true, false], "two threads, and one place");
        let mut first = [begins.recv().unwrap(), begins.recv().unwrap()];
        first.sort_unstable();
        assert_eq!(first, ["a", "b"]);
        ends[0].send(()).unwrap();
        assert_eq!(begins.recv(), Ok("c"), "when a thread is idle again");
        let back = results.pop().unwrap().unwrap_err();
        assert!(pool.run(back).is_ok(), "the same job, later");
        drop(ends);
        assert_eq!(begins.recv(), Ok("d"));
    }

    #[test]
    fn there_may_be_room_for_as_many_as_come() {
        let pool = pool(2, usize::MAX);
        let (begun, begins) = channel();
        for _ in 0..10 {
            let begun = begun.clone();
            assert!(pool.run(move || begun.send(()).unwrap()).is_ok());
        }
        drop(begun);
        assert_eq!(begins.iter().count(), 10);
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let pool = pool(1, 10);
        assert!(pool.run(|| panic!("in a job")).is_ok());
        let (begun, begins) = channel();
        assert!(pool.run(move || begun.send(()).unwrap()).is_ok());
        assert_eq!(begins.recv(), Ok(()));
    }

    #[test]
    fn the_drop_waits_for_what_has_begun_and_drops_what_has_not() {
        let pool = pool(1, 10);
        let (begun, begins) = channel();
        let (end, first) = job(&begun, "first");
        let (at_end, ended) = channel();
        let first = move || {
            first();
            at_end.send("first").unwrap();
        };
        let (_end, second) = job(&begun, "second");
        assert!(pool.run(first).is_ok() && pool.run(second).is_ok());
        assert_eq!(begins.recv(), Ok("first"));
        let shared = Arc::clone(&pool.shared);
        let dropping = thread::spawn(move || drop(pool));
        // Only then may the first job end: the second one must not begin.
        while !shared.queue().is_closed {
            thread::yield_now();
        }
        end.send(()).unwrap();
        dropping.join().unwrap();
        assert_eq!(ended.try_recv(), Ok("first"));
        drop(begun);
        assert!(begins.recv().is_err(), "the second one was dropped with all that it held");
    }

    #[test]
    fn a_job_may_hold_the_last_reference_to_its_pool() {
        let (go, goes) = channel::<()>();
        let (over, is_over) = channel();
        let pool = Arc::new(pool(2, 1));
        let own = Arc::clone(&pool);
        let job = move || {
            let _ = goes.recv();
            drop(own);
            over.send(()).unwrap();
        };
        assert!(pool.run(job).is_ok());
        drop(pool);
        drop(go);
        assert_eq!(is_over.recv(), Ok(()));
    }
}
