//! Signals, as values for the main thread.
//!
//! The handlers are installed before anything else happens, because process 1 has no default ones: without them SIGTERM
//! would be ignored in a container (rule E5). Rust's runtime ignores SIGPIPE before `main` begins, so that a write to a
//! closed socket is an error. A thread of its own receives the signals, so that the second one to stop ends the process
//! even while the main thread reads a file or waits for a plugin.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

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
}

/// Ends the process at once, without handlers that are registered for its end: workers may be inside a plugin's code, whose
/// data such handlers would destroy.
pub use signal_hook::low_level::exit as exit_now;

/// Installs the handlers; the events go to `events`. `on_second_stop` is called with the signal's number by the thread that
/// receives signals, for every SIGTERM or SIGINT but the first.
pub fn listen(events: Sender<SignalEvent>, on_second_stop: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
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
            let _ = events.send(event);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::low_level::raise;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn e5_signals_arrive_as_events_and_the_second_one_to_stop_does_not_need_the_main_thread() {
        let ((second, seconds), (sender, events)) = (channel(), channel());
        listen(sender, move |signal| second.send(signal).expect("the test waits")).expect("handlers");
        let patience = Duration::from_secs(10);
        for (signal, expected) in
            [(SIGHUP, SignalEvent::Reload), (SIGUSR1, SignalEvent::Trace), (SIGTERM, SignalEvent::Stop)]
        {
            raise(signal).expect("a signal");
            assert_eq!(events.recv_timeout(patience), Ok(expected));
        }
        for signal in [SIGINT, SIGTERM] {
            raise(signal).expect("a signal");
            assert_eq!(seconds.recv_timeout(patience), Ok(signal));
        }
        assert!(events.try_recv().is_err(), "they are no events");
    }
}
