//! Limits how often a fault that lasts is logged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::mono_time::MonoTime;

/// Knows when something was last logged.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLimiter {
    last: Option<MonoTime>,
}

impl LogLimiter {
    /// Whether to log it now: at most once in `every`. It counts as logged then.
    pub fn is_due(&mut self, now: MonoTime, every: Duration) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

/// A [`LogLimiter`] that several threads share. It also counts what was not logged.
#[derive(Debug)]
pub struct SharedLogLimiter {
    every: Duration,
    state: Mutex<(LogLimiter, u64)>,
}

impl SharedLogLimiter {
    /// Logs at most once in `every`.
    pub const fn new(every: Duration) -> SharedLogLimiter {
        SharedLogLimiter { every, state: Mutex::new((LogLimiter { last: None }, 0)) }
    }

    /// If it is to be logged now: how often it was not since the last time.
    pub fn is_due(&self, now: MonoTime) -> Option<u64> {
        let (limiter, skipped) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if limiter.is_due(now, self.every) {
            return Some(std::mem::take(skipped));
        }
        *skipped += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_logged_once_in_the_time_however_often_it_occurs() {
        let (begin, every) = (MonoTime::now(), Duration::from_secs(60));
        let mut limiter = LogLimiter::default();
        for (seconds, expected) in [(0, true), (1, false), (59, false), (60, true), (61, false), (120, true)] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(limiter.is_due(now, every), expected, "after {seconds} s");
        }
    }

    #[test]
    fn what_several_threads_log_is_logged_once_and_the_rest_is_counted() {
        let begin = MonoTime::now();
        let limiter = SharedLogLimiter::new(Duration::from_secs(1));
        for (millis, expected) in [(0, Some(0)), (1, None), (999, None), (1000, Some(2)), (1500, None), (5000, Some(1))]
        {
            assert_eq!(limiter.is_due(begin + Duration::from_millis(millis)), expected, "after {millis} ms");
        }
    }
}
