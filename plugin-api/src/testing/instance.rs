//! A plugin under test, and what the host does for it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{TestAccess, pointer};
use crate::abi;
use crate::host::{Context, InstanceAccess, table};
use crate::types::{HostError, Level};
use crate::{Plugin, descriptor};

pub(super) type Messages = Vec<(Level, String)>;

/// A plugin, created as the proxy would create it.
#[derive(Debug)]
pub struct Instance<P: Plugin> {
    pub(super) descriptor: abi::Plugin,
    pub(super) this: *mut c_void,
    pub(super) host: Arc<TestHost>,
    _plugin: PhantomData<P>,
}

// SAFETY: `this` leads to a `P`, which is Send and Sync as the trait says, and is only read until the drop.
unsafe impl<P: Plugin> Send for Instance<P> {}
// SAFETY: as above.
unsafe impl<P: Plugin> Sync for Instance<P> {}

static TABLE: abi::Host = table::<TestAccess<'static>>();

impl<P: Plugin> Instance<P> {
    /// Creates the plugin with this configuration. An error holds what the plugin logged.
    pub fn new(config: impl AsRef<[u8]>) -> Result<Self, String> {
        let mut descriptor = *descriptor::<P>("test").raw();
        let config = config.as_ref();
        let text = String::from_utf8_lossy(config).into_owned();
        let host = Arc::new(TestHost { plugin: P::NAME, config: text, ..TestHost::default() });
        let ctx = Context::new(Box::new(Arc::clone(&host))).as_ctx();
        let mut this = std::ptr::null_mut();
        let create = descriptor.create.expect("descriptor sets it");
        // SAFETY: the descriptor of `descriptor`, a static table, a context that stays, and arguments that outlive the call.
        let status = unsafe { create(&TABLE, ctx, abi::Str::new(config), &mut this) };
        host.is_created.store(true, Ordering::Relaxed);
        descriptor.flags |= host.wants.load(Ordering::Relaxed);
        let instance = Instance { descriptor, this, host, _plugin: PhantomData };
        if status == abi::OK { Ok(instance) } else { Err(instance.texts().join("\n")) }
    }

    /// What the plugin has logged.
    pub fn log(&self) -> Vec<(Level, String)> {
        lock(&self.host.log).clone()
    }

    fn texts(&self) -> Vec<String> {
        lock(&self.host.log).iter().map(|(_, text)| text.clone()).collect()
    }

    /// The value of a metric; `None` where the plugin has not defined it.
    pub fn metric(&self, name: &str) -> Option<i64> {
        lock(&self.host.metrics).iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }
}

impl<P: Plugin> Drop for Instance<P> {
    fn drop(&mut self) {
        if let Some(destroy) = self.descriptor.destroy {
            // SAFETY: `this` is what `create` made (or null, which destroy ignores), and no hook is running.
            unsafe { destroy(self.this) }
        }
    }
}

/// What the host does for one instance.
#[derive(Debug, Default)]
pub(crate) struct TestHost {
    pub(super) plugin: &'static str,
    config: String,
    is_created: AtomicBool,
    wants: AtomicU32,
    log: Mutex<Messages>,
    metrics: Mutex<Vec<Metric>>,
    /// What `config` has given out: it stays until the process ends, as the host itself does.
    lent: Mutex<Vec<&'static [u8]>>,
    tickets: Mutex<HashMap<u64, Resumed>>,
    resumed: Condvar,
}

#[derive(Debug)]
struct Metric {
    name: String,
    is_gauge: bool,
    value: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Resumed {
    NotYet,
    Good,
    Failed,
}

/// A pause. When it is dropped, a resume finds nothing any more.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) number: u64,
    host: Arc<TestHost>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.host.tickets).remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TestHost {
    /// A number that was never given before.
    pub(super) fn new_ticket(self: &Arc<Self>) -> Ticket {
        static LAST: Mutex<u64> = Mutex::new(0);
        let mut last = lock(&LAST);
        *last += 1;
        lock(&self.tickets).insert(*last, Resumed::NotYet);
        Ticket { number: *last, host: Arc::clone(self) }
    }

    /// Waits until that pause has ended; says whether by anything but a failure. `None` where nobody has ended it.
    pub(super) fn wait(&self, ticket: &Ticket, time: Duration) -> Option<bool> {
        let end = Instant::now() + time;
        let mut tickets = lock(&self.tickets);
        loop {
            match tickets.get(&ticket.number) {
                Some(Resumed::Good) => return Some(true),
                Some(Resumed::Failed) => return Some(false),
                Some(Resumed::NotYet) | None => {}
            }
            let left = end.checked_duration_since(Instant::now())?;
            tickets = self.resumed.wait_timeout(tickets, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn check_in_create(&self) -> Result<(), HostError> {
        if self.is_created.load(Ordering::Relaxed) { Err(HostError::WrongPhase) } else { Ok(()) }
    }
}

impl InstanceAccess for Arc<TestHost> {
    fn is_enabled(&self, _: Level) -> bool {
        true
    }

    fn log(&self, level: Level, message: &[u8]) {
        lock(&self.log).push((level, String::from_utf8_lossy(message).into_owned()));
    }

    fn want(&self, flags: u32) -> Result<(), HostError> {
        self.check_in_create()?;
        self.wants.fetch_or(flags, Ordering::Relaxed);
        Ok(())
    }

    fn config(&self, pointer: &str) -> Result<&[u8], HostError> {
        self.check_in_create()?;
        let value = pointer::get(&self.config, pointer).ok_or(HostError::NotFound)?;
        let value: &'static [u8] = value.into_bytes().leak();
        lock(&self.lent).push(value);
        Ok(value)
    }

    fn define_metric(&self, is_gauge: bool, name: &str, _: &str) -> Result<u32, HostError> {
        self.check_in_create()?;
        let mut metrics = lock(&self.metrics);
        if let Some(known) = metrics.iter().position(|metric| metric.name == name) {
            return if metrics[known].is_gauge == is_gauge { Ok(known as u32) } else { Err(HostError::Invalid) };
        }
        metrics.push(Metric { name: name.to_owned(), is_gauge, value: 0 });
        Ok(metrics.len() as u32 - 1)
    }

    fn add_to_metric(&self, metric: u32, delta: i64) -> Result<(), HostError> {
        let mut metrics = lock(&self.metrics);
        let metric = metrics.get_mut(metric as usize).ok_or(HostError::NotFound)?;
        if !metric.is_gauge && delta < 0 {
            return Err(HostError::Invalid);
        }
        metric.value = metric.value.saturating_add(delta);
        Ok(())
    }

    fn resume(&self, ticket: u64, is_good: bool) -> Result<(), HostError> {
        match lock(&self.tickets).get_mut(&ticket) {
            Some(state @ Resumed::NotYet) => *state = if is_good { Resumed::Good } else { Resumed::Failed },
            Some(Resumed::Good | Resumed::Failed) | None => return Err(HostError::NotFound),
        }
        self.resumed.notify_all();
        Ok(())
    }
}
