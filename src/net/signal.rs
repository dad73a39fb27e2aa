//! Signals, as values for the main thread.
//!
//! The handlers are installed before anything else happens, because process 1 has no default ones: without them SIGTERM
//! would be ignored in a container (rule E5). Rust's runtime ignores SIGPIPE before `main` begins, so that a write to a
//! closed socket is an error. A thread of its own receives the signals, so that the second one to stop ends the process
//! even while the main thread reads a file or waits for a plugin.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// What the main thread waits for: signals, and the end of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
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

/// Ends the process at once, without handlers that are registered for its end: workers may be inside a plugin's code, whose
/// data such handlers would destroy.
pub fn exit_now(status: u8) -> ! {
    signal_hook::low_level::exit(status.into())
}

/// Receives the events.
pub struct SignalListener {
    /// For threads that send events.
    pub sender: Sender<SignalEvent>,
    receiver: Receiver<SignalEvent>,
}

impl SignalListener {
    /// Installs the handlers. `on_second_stop` is called with the signal's number by the thread that receives signals, for
    /// every SIGTERM or SIGINT but the first.
    pub fn install(on_second_stop: impl Fn(i32) + Send + 'static) -> io::Result<SignalListener> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let (sender, receiver) = channel();
        let events = SignalListener { sender: sender.clone(), receiver };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut is_stopping = false;
            for signal in signals.forever() {
                let event = match signal {
                    SIGHUP => SignalEvent::Reload,
                    SIGUSR1 => SignalEvent::Trace,
                    number if is_stopping => {
                        on_second_stop(number);
                        continue;
                    }
                    _ => {
                        is_stopping = true;
                        SignalEvent::Stop
                    }
                };
                // It fails when the main thread has ended, and the process with it.
                let _ = sender.send(event);
            }
        })?;
        Ok(events)
    }

    /// Waits for the next event, but not longer than `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> SignalEvent {
        // It is never disconnected: there is a sender beside the receiver.
        self.receiver.recv_timeout(timeout.unwrap_or(Duration::MAX)).unwrap_or(SignalEvent::TimedOut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::low_level::raise;

    #[test]
    fn e5_signals_arrive_as_events_and_the_second_one_to_stop_does_not_need_the_main_thread() {
        let (second, seconds) = channel();
        let events =
            SignalListener::install(move |signal| second.send(signal).expect("the test waits")).expect("handlers");
        for (signal, expected) in
            [(SIGHUP, SignalEvent::Reload), (SIGUSR1, SignalEvent::Trace), (SIGTERM, SignalEvent::Stop)]
        {
            raise(signal).expect("a signal");
            assert_eq!(events.wait(None), expected);
        }
        for signal in [SIGINT, SIGTERM] {
            raise(signal).expect("a signal");
            assert_eq!(seconds.recv_timeout(Duration::from_secs(10)), Ok(signal));
        }
        assert_eq!(events.wait(Some(Duration::from_millis(1))), SignalEvent::TimedOut);
        events.sender.send(SignalEvent::WorkersEnded).expect("a receiver");
        assert_eq!(events.wait(None), SignalEvent::WorkersEnded);
    }
}
