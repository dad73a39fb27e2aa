//! Signals, as values for the main thread.
//!
//! The handlers are installed before anything else happens, because a process with number 1 has no default ones: without
//! them SIGTERM would be ignored in a container (rule E5). SIGPIPE is ignored by Rust's runtime before `main` begins, so
//! that a write to a closed socket is an error and not the end.
//!
//! A thread of its own receives them, so that the second signal to stop ends the process whatever the main thread does:
//! it may be reading a file, or waiting for a plugin.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// What the main thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first SIGTERM or SIGINT: end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: begin to log the timeline of each request, or stop that.
    Trace,
    /// The last worker has ended.
    WorkersEnded,
    /// Nothing came in time.
    TimedOut,
}

/// Ends the process at once, without running anything that is registered for its end: workers may be inside a plugin's
/// code, whose data such handlers would destroy.
pub fn exit_now(status: u8) -> ! {
    signal_hook::low_level::exit(status.into())
}

/// The events that arrive.
pub struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// Installs the handlers. `on_second_stop` is called with the signal's number by the thread that receives signals, for
    /// every SIGTERM or SIGINT but the first.
    pub fn install(on_second_stop: impl Fn(i32) + Send + 'static) -> io::Result<Events> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let (sender, receiver) = channel();
        let events = Events { sender: sender.clone(), receiver };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut is_stopping = false;
            for signal in signals.forever() {
                let event = match signal {
                    SIGHUP => Event::Reload,
                    SIGUSR1 => Event::Trace,
                    number if is_stopping => {
                        on_second_stop(number);
                        continue;
                    }
                    _ => {
                        is_stopping = true;
                        Event::Stop
                    }
                };
                // It fails when the main thread has ended, and the process with it.
                let _ = sender.send(event);
            }
        })?;
        Ok(events)
    }

    /// For other threads that have something to tell.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Waits for the next one, where there is a `timeout` not longer than that.
    pub fn wait(&self, timeout: Option<Duration>) -> Event {
        let received = match timeout {
            Some(timeout) => self.receiver.recv_timeout(timeout),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // It is never disconnected: there is a sender beside the receiver.
        received.unwrap_or(Event::TimedOut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::low_level::raise;

    #[test]
    fn e5_signals_arrive_as_events_and_the_second_one_to_stop_does_not_need_the_main_thread() {
        let (second, seconds) = channel();
        let events = Events::install(move |signal| second.send(signal).expect("the test waits")).expect("handlers");
        for (signal, expected) in [(SIGHUP, Event::Reload), (SIGUSR1, Event::Trace), (SIGTERM, Event::Stop)] {
            raise(signal).expect("a signal");
            assert_eq!(events.wait(None), expected);
        }
        for signal in [SIGINT, SIGTERM] {
            raise(signal).expect("a signal");
            assert_eq!(seconds.recv_timeout(Duration::from_secs(10)), Ok(signal));
        }
        assert_eq!(events.wait(Some(Duration::from_millis(1))), Event::TimedOut);
        events.sender().send(Event::WorkersEnded).expect("a receiver");
        assert_eq!(events.wait(None), Event::WorkersEnded);
    }
}
