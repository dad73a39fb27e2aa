//! Signals, as values for the main thread.
//!
//! The handlers are installed before anything else happens, because a process with number 1 has no default ones: without
//! them SIGTERM would be ignored in a container (rule E5). SIGPIPE is ignored by Rust's runtime before `main` begins, so
//! that a write to a closed socket is an error and not the end.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

/// What somebody wants of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM, SIGINT: end, with this signal's number.
    End(i32),
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: begin to tell the life of each request, or stop that.
    Trace,
}

/// The signals that arrive.
pub struct Wishes {
    signals: Signals,
}

impl Wishes {
    /// Installs the handlers.
    pub fn install() -> io::Result<Wishes> {
        Ok(Wishes { signals: Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])? })
    }

    /// What ends the waiting from another thread.
    pub fn handle(&self) -> Handle {
        self.signals.handle()
    }

    /// Waits for the next one; `None` when the handle was closed.
    pub fn wait(&mut self) -> Option<Wish> {
        self.signals.forever().next().map(|signal| match signal {
            SIGHUP => Wish::Reload,
            SIGUSR1 => Wish::Trace,
            number => Wish::End(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::low_level::raise;

    #[test]
    fn e5_signals_arrive_as_wishes_and_a_closed_handle_ends_the_waiting() {
        let mut wishes = Wishes::install().expect("handlers");
        for (signal, expected) in
            [(SIGHUP, Wish::Reload), (SIGUSR1, Wish::Trace), (SIGTERM, Wish::End(SIGTERM)), (SIGINT, Wish::End(SIGINT))]
        {
            raise(signal).expect("a signal");
            assert_eq!(wishes.wait(), Some(expected));
        }
        wishes.handle().close();
        assert_eq!(wishes.wait(), None);
    }
}
