//! One line in a while: what is wrong stays wrong, and the log need not say so each time.

use std::time::Duration;

use crate::instant::Instant;

/// When something was last said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
}

impl Throttle {
    /// Whether it is time to say it again: at most once in `every`. It counts as said then.
    pub fn is_due(&mut self, now: Instant, every: Duration) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_in_the_time_however_often_somebody_asks() {
        let (begin, every) = (Instant::now(), Duration::from_secs(60));
        let mut throttle = Throttle::default();
        for (seconds, expected) in [(0, true), (1, false), (59, false), (60, true), (61, false), (120, true)] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(throttle.is_due(now, every), expected, "after {seconds} s");
        }
    }
}
