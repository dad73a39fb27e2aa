//! What a process prints, line by line, to be waited for.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use super::PATIENCE;

#[derive(Default)]
struct State {
    lines: Vec<String>,
    /// Pipes that are still open.
    open: usize,
}

/// The lines of all pipes of a process in the order of arrival.
#[derive(Clone, Default)]
pub struct Lines {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Lines {
    /// Collects what comes out of `pipe` until it ends.
    pub fn collect(&self, pipe: impl Read + Send + 'static) {
        self.lock().open += 1;
        let lines = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                lines.lock().lines.push(text);
                lines.shared.1.notify_all();
                line.clear();
            }
            lines.lock().open -= 1;
            lines.shared.1.notify_all();
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Everything until now.
    pub fn all(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// The first line that `wanted` likes, as soon as it is there.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_for_many(what, 1, wanted).pop().expect("as many as were waited for")
    }

    /// The first `count` lines that `wanted` likes, as soon as they are there.
    pub fn wait_for_many(&self, what: &str, count: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let (mut found, mut seen) = (Vec::new(), 0);
        let enough = |state: &State| {
            // Each line once: who looks through all of them for each new one is overtaken by a proxy under load.
            let new = state.lines[seen..].iter().filter(|line| wanted(line));
            found.extend(new.take(count - found.len()).cloned());
            seen = state.lines.len();
            (found.len() == count).then_some(())
        };
        let is_enough = self.wait(enough, true).is_some();
        assert!(is_enough, "waited for {count} of {what}; there was:\n{}", self.all().join("\n"));
        found
    }

    /// Returns when all pipes have ended, which happens when the process has.
    pub fn wait_for_end(&self) {
        let ended = self.wait(|state| (state.open == 0).then_some(()), false);
        assert!(ended.is_some(), "the process goes on; it printed:\n{}", self.all().join("\n"));
    }

    fn wait<T>(&self, mut look: impl FnMut(&State) -> Option<T>, ends_with_pipes: bool) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(found) = look(&state) {
                return Some(found);
            }
            if left.is_zero() || (ends_with_pipes && state.open == 0) {
                return None;
            }
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}
