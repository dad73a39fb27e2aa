//! What the host does for one instance: what `create` may ask of it, and what may be called from any thread afterwards.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi::{self, Str};
use crate::pause::Continuation;
use crate::types::{Error, HostError, Logger, Needs};

/// The host, seen from one instance. Its phases, its pauses and its metrics all lead here.
pub(crate) struct HostLink {
    /// Our own copy of the table, with `None` for what the host does not have.
    pub(crate) table: abi::Host,
    pub(crate) ctx: *mut abi::Ctx,
    pub(crate) log: Logger,
    /// What resumed exchanges go on with, by their tickets.
    continuations: Mutex<HashMap<u64, Continuation>>,
}

// SAFETY: the table is only read, and the functions that are called with this ctx from any thread are those of which the
// interface allows it (log, metrics, resume).
unsafe impl Send for HostLink {}
// SAFETY: as above.
unsafe impl Sync for HostLink {}

impl fmt::Debug for HostLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostLink")
    }
}

impl HostLink {
    pub(crate) fn new(table: abi::Host, ctx: *mut abi::Ctx) -> HostLink {
        HostLink { table, ctx, log: Logger::new(&table, ctx), continuations: Mutex::default() }
    }

    /// What waits for resumed exchanges. No code of a plugin runs under this lock: not even the drop of a closure.
    pub(crate) fn continuations(&self) -> MutexGuard<'_, HashMap<u64, Continuation>> {
        self.continuations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what an exchange goes on with.
    pub(crate) fn take_continuation(&self, ticket: u64) -> Option<Continuation> {
        self.continuations().remove(&ticket)
    }
}

/// The host in [`Plugin::create`](crate::Plugin::create). It is a [`Logger`], too.
#[derive(Debug)]
pub struct Setup {
    pub(crate) host: Arc<HostLink>,
}

impl Deref for Setup {
    type Target = Logger;

    fn deref(&self) -> &Logger {
        &self.host.log
    }
}

impl Setup {
    /// The log, to keep.
    pub fn logger(&self) -> Logger {
        self.host.log
    }

    /// A value of the configuration by its JSON pointer (RFC 6901), such as `/realm` or `/users/0`: texts as they are, all
    /// else as JSON. `None` where there is no such value.
    ///
    /// For a plugin with a few settings; others read all of `config` at once, with serde for example.
    pub fn config(&self, pointer: &str) -> Option<&str> {
        let mut out = Str::NULL;
        // SAFETY: the host's function with its ctx, and arguments that outlive the call.
        let status = unsafe { self.host.table.config_get?(self.host.ctx, Str::new(pointer.as_bytes()), &mut out) };
        if status != abi::OK {
            return None;
        }
        // SAFETY: the host answered OK; such values stay until the process ends.
        std::str::from_utf8(unsafe { out.bytes() }?).ok()
    }

    /// Asks for more than [`Plugin::NEEDS`](crate::Plugin::NEEDS) does, where that depends on the configuration.
    pub fn want(&self, needs: Needs) -> Result<(), HostError> {
        let want = self.host.table.want.ok_or(HostError::Unsupported)?;
        // SAFETY: the host's function with its ctx.
        HostError::check(unsafe { want(self.host.ctx, needs.flags()) })
    }

    /// A number that only grows. It appears in `/metrics` as `mini_rproxy_plugin_<entry>_<name>`; `name` is made of
    /// lower-case letters, digits and `_`, and ends in `_total` by convention. `help` is one line without `\`.
    pub fn counter(&self, name: &str, help: &str) -> Result<Counter, Error> {
        Ok(Counter(self.metric(abi::METRIC_COUNTER, name, help)?))
    }

    /// A number that goes up and down; otherwise as [`Self::counter`].
    pub fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        Ok(Gauge(self.metric(abi::METRIC_GAUGE, name, help)?))
    }

    fn metric(&self, kind: u32, name: &str, help: &str) -> Result<Metric, Error> {
        let HostLink { table, ctx, .. } = &*self.host;
        let define = table.metric_define.ok_or(HostError::Unsupported)?;
        let mut number = 0;
        // SAFETY: the host's function with its ctx, and arguments that outlive the call.
        let status = unsafe { define(*ctx, kind, Str::new(name.as_bytes()), Str::new(help.as_bytes()), &mut number) };
        HostError::check(status).map_err(|error| Error::new(format!("the metric {name:?}: {error}")))?;
        Ok(Metric { add: table.metric_add, ctx: *ctx, number })
    }
}

#[derive(Clone, Copy, Debug)]
struct Metric {
    add: Option<abi::MetricAddFn>,
    ctx: *mut abi::Ctx,
    number: u32,
}

// SAFETY: the interface promises that `metric_add` may be called with this ctx from any thread, until the process ends.
unsafe impl Send for Metric {}
// SAFETY: as above.
unsafe impl Sync for Metric {}

impl Metric {
    fn add(self, delta: i64) {
        if let Some(add) = self.add {
            // SAFETY: the host's function with its ctx. The number came from the host, so it does not refuse.
            let _ = unsafe { add(self.ctx, self.number, delta) };
        }
    }
}

/// A metric that only grows: [`Setup::counter`]. From any thread.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Metric);

impl Counter {
    /// So many more.
    pub fn add(self, count: u32) {
        self.0.add(i64::from(count));
    }
}

/// A metric that goes up and down: [`Setup::gauge`]. From any thread.
#[derive(Clone, Copy, Debug)]
pub struct Gauge(Metric);

impl Gauge {
    /// So many more, or less.
    pub fn add(self, delta: i64) {
        self.0.add(delta);
    }
}
