//! Child processes: started on a core, ended by number, whatever happens to the benchmark itself.
//!
//! Each child leads a process group of its own. So Ctrl-C in the terminal reaches the benchmark alone, and nginx's
//! workers end with their master.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::cores::pin;

/// The groups that run now; none any more once everything is to end, so that nothing starts behind the back of
/// [`end_all`].
static GROUPS: Mutex<Option<BTreeSet<u32>>> = Mutex::new(Some(BTreeSet::new()));

/// How long a child may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running child, which ends when this value does.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
}

impl Child {
    /// Starts `command` on these cores; the caller goes on on `back`.
    pub fn start(name: &str, command: &mut Command, cores: &[usize], back: usize) -> Result<Child, String> {
        // A child inherits the cores of the thread that starts it.
        pin(cores);
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        pin(&[back]);
        let inner = child.map_err(|error| format!("cannot start {name} ({:?}): {error}", command.get_program()))?;
        let child = Child { inner };
        match &mut *groups() {
            Some(groups) => drop(groups.insert(child.id())),
            None => return Err(format!("{name} is not started: everything is to end")),
        }
        Ok(child)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// What it printed to stdout, where that was piped. Once.
    pub fn stdout(&mut self) -> Option<impl Read + Send + 'static> {
        self.inner.stdout.take()
    }

    /// It and its descendants.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.id()];
        let mut next = 0;
        while let Some(process) = found.get(next).copied() {
            next += 1;
            let path = format!("/proc/{process}/task/{process}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|number| number.parse::<u32>().ok()));
        }
        found
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<String> {
        match self.inner.try_wait() {
            Ok(Some(status)) => Some(status.to_string()),
            Ok(None) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// Waits for the end, with a limit.
    fn wait(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + LAST_WORDS;
        while self.inner.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let group = self.id();
        signal(group, Signal::TERM);
        if self.wait().is_err() {
            signal(group, Signal::KILL);
            let _ = self.inner.wait();
        }
        if let Some(groups) = &mut *groups() {
            groups.remove(&group);
        }
    }
}

/// Whether everything is to end. What fails from then on says nothing about a proxy.
pub fn are_ending() -> bool {
    groups().is_none()
}

/// Ends every child, for the way out after a signal.
pub fn end_all() {
    let groups = groups().take().unwrap_or_default();
    for group in &groups {
        signal(*group, Signal::TERM);
    }
    thread::sleep(Duration::from_millis(300));
    for group in &groups {
        signal(*group, Signal::KILL);
    }
}

fn groups() -> std::sync::MutexGuard<'static, Option<BTreeSet<u32>>> {
    // A set of numbers is whole even if a thread died while it held the lock.
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal(group: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process_group(pid, signal);
    }
}
