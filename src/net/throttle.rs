//! One line in a while: what is wrong stays wrong, and the log need not say so each time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::mono_time::MonoTime;

/// When something was last said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    last: Option<MonoTime>,
}

impl Throttle {
    /// Whether it is time to say it again: at most once in `every`. It counts as said then.
    pub fn is_due(&mut self, now: MonoTime, every: Duration) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

/// A [`Throttle`] that several threads share. It also counts what was not said.
#[derive(Debug, Default)]
pub struct SharedThrottle(Mutex<(Throttle, u64)>);

impl SharedThrottle {
    /// If it is time to say it again: how often it was not said since the last time.
    pub fn is_due(&self, now: MonoTime, every: Duration) -> Option<u64> {
        let (throttle, unsaid) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if throttle.is_due(now, every) {
            return Some(std::mem::take(unsaid));
        }
        *unsaid += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_in_the_time_however_often_somebody_asks() {
        let (begin, every) = (MonoTime::now(), Duration::from_secs(60));
        let mut throttle = Throttle::default();
        for (seconds, expected) in [(0, true), (1, false), (59, false), (60, true), (61, false), (120, true)] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(throttle.is_due(now, every), expected, "after {seconds} s");
        }
    }
    #[test]
    fn what_several_say_is_said_once_and_the_rest_is_counted() {
        let (begin, every) = (MonoTime::now(), Duration::from_secs(1));
        let throttle = SharedThrottle::default();
        for (millis, expected) in [(0, Some(0)), (1, None), (999, None), (1000, Some(2)), (1500, None), (5000, Some(1))]
        {
            assert_eq!(throttle.is_due(begin + Duration::from_millis(millis), every), expected, "after {millis} ms");
        }
    }
}
