//! The loop's clock: read once per run of the loop, never per request.
//!
//! All deadlines are made of the monotonic clock (rule E11). The wall clock is read for the Date field, once a second, so that
//! Date follows within a second when it is set; for the start time in /metrics; and at the start and at each reload
//! for the dates of certificates.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::mono_time::MonoTime;
use crate::proxy::proxy_connection::Now;

/// From 1970 to the first second that the Date field cannot say.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// The wall clock as the time since 1970; zero where the clock is before that.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since 1970 as the log writes times, limited to the years that can be written.
pub fn date_text(seconds: u64) -> String {
    let since_1970 = Duration::from_secs(seconds).min(YEAR_10000 - Duration::from_secs(1));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_1970).to_string()
}

/// The time of the current run of the loop.
pub struct Clock {
    now: Now,
    /// When the Date field changes.
    next_second: MonoTime,
}

impl Default for Clock {
    fn default() -> Clock {
        let now = Now { instant: MonoTime::FIRST, date: [b' '; 29] };
        let mut clock = Clock { now, next_second: MonoTime::FIRST };
        clock.read();
        clock
    }
}

impl Clock {
    /// Reads the clock again: once per run of the loop, after waiting (rule M10).
    pub fn read(&mut self) {
        self.now.instant = MonoTime::now();
        if self.now.instant >= self.next_second {
            self.read_date(SystemTime::now());
        }
    }

    /// Sets the time, for tests.
    #[cfg(test)]
    pub fn set(&mut self, instant: MonoTime) {
        self.now.instant = instant;
    }

    /// The time of this run of the loop.
    pub fn now(&self) -> &Now {
        &self.now
    }

    fn read_date(&mut self, time: SystemTime) {
        let nanos = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let rest = Duration::from_secs(1) - Duration::from_nanos(nanos.into());
        self.next_second = self.now.instant + rest;
        // A clock before 1970 or after 9999 cannot be written in this form; the value before it stays.
        if time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < YEAR_10000) {
            let date = httpdate::HttpDate::from(time);
            let mut room: &mut [u8] = &mut self.now.date;
            write!(room, "{date}").expect("a date of these years has 29 bytes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e11_the_date_is_made_anew_when_the_second_is_over() {
        let mut clock = Clock::default();
        clock.read_date(UNIX_EPOCH + Duration::from_millis(784_111_777_250));
        assert_eq!(&clock.now().date, b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(clock.next_second - clock.now().instant, Duration::from_millis(750));
    }

    #[test]
    fn e11_a_wall_clock_that_is_far_off_does_no_harm() {
        let mut clock = Clock::default();
        let before = clock.now().date;
        clock.read_date(UNIX_EPOCH - Duration::from_secs(86_400));
        clock.read_date(UNIX_EPOCH + YEAR_10000);
        assert_eq!(clock.now().date, before);
    }
}
