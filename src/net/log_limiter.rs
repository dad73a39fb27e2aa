//! Limits how often a fault that lasts is logged.

use std::time::Duration;

use crate::mono_time::MonoTime;

/// Knows when something was last logged.
#[derive(Debug, Default)]
pub struct LogLimiter(Option<MonoTime>);

impl LogLimiter {
    /// Whether it is to be logged now, at most once in `every`.
    pub fn is_due(&mut self, now: MonoTime, every: Duration) -> bool {
        let is_due = self.0.is_none_or(|last| now - last >= every);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_logged_once_in_the_time() {
        let (begin, every) = (MonoTime::now(), Duration::from_secs(1));
        let mut limiter = LogLimiter::default();
        for (millis, expected) in [(0, true), (1, false), (999, false), (1000, true), (1500, false), (5000, true)] {
            assert_eq!(limiter.is_due(begin + Duration::from_millis(millis), every), expected, "after {millis} ms");
        }
    }
}
