//! Limits how often a fault that lasts is logged.

use std::time::Duration;

use crate::mono_time::MonoTime;

/// Knows when something was last logged, and how often it was not since then.
#[derive(Debug, Default)]
pub struct LogLimiter {
    last: Option<MonoTime>,
    skipped: u64,
}

impl LogLimiter {
    /// Nothing was logged yet.
    pub const NEW: LogLimiter = LogLimiter { last: None, skipped: 0 };

    /// If it is to be logged now, at most once in `every`: how often it was not since the last time.
    pub fn is_due(&mut self, now: MonoTime, every: Duration) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < every) {
            self.skipped += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_logged_once_in_the_time_and_the_rest_is_counted() {
        let (begin, every) = (MonoTime::now(), Duration::from_secs(1));
        let mut limiter = LogLimiter::default();
        for (millis, expected) in [(0, Some(0)), (1, None), (999, None), (1000, Some(2)), (1500, None), (5000, Some(1))]
        {
            assert_eq!(limiter.is_due(begin + Duration::from_millis(millis), every), expected, "after {millis} ms");
        }
    }
}
