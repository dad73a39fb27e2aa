//! `proxy_http_call`: requests of a module's own, to a cluster of the configuration.
//!
//! A thread of the pool asks the service and blocks meanwhile; the answer goes to the [`Mailbox`] of the instance that made the
//! call. Where the exchange is paused for it, it is resumed on its own thread, and the module is told there. All others are
//! told by the next callback of their exchange, or, where that has ended, before the next request of the thread.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mini_rproxy_plugin::client::{Answer, Client, parse_url};
use mini_rproxy_plugin::{Error, Logger, Pool, validate};

use crate::config::Config;
use crate::guest::{Guest, Outcome, Status};
use crate::maps::{parse_pairs, trimmed};
use crate::state::{ROOT, State};

/// Calls of one exchange at a time.
const MAX_AT_A_TIME: u32 = 16;
/// Calls of one exchange in all: a chain of them must end.
const MAX_IN_ALL: u32 = 100;
/// The longest time that a call may take; also for modules that name none.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request, and of an answer's body.
const MAX_BYTES: usize = 1 << 20;
/// Bytes of answers that the module of one instance has yet to be told of; others have failed.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// What a call costs beside its bytes.
const CALL_FUEL: usize = 10_000;

/// The services that an entry may call, and the threads that do so.
pub struct Clusters {
    clients: BTreeMap<String, Arc<Client>>,
    /// `None` where there is nothing to call.
    pool: Option<Pool>,
}

impl Clusters {
    pub fn new(config: &Config, log: &Logger) -> Result<Clusters, Error> {
        let mut clients = BTreeMap::new();
        for (name, url) in &config.clusters {
            match parse_url(url) {
                Ok((host, "/")) => clients.insert(name.clone(), Arc::new(Client::new(host, MAX_BYTES))),
                Ok(_) => return Err(Error::new(format!("clusters: {name}: {url:?} has a path; modules name theirs"))),
                Err(error) => return Err(Error::new(format!("clusters: {name}: {error}"))),
            };
        }
        let pool = if clients.is_empty() { None } else { Some(Pool::new(log, config.threads, config.waiting)?) };
        Ok(Clusters { clients, pool })
    }
}

/// A call that is over.
pub struct Done {
    pub context: u32,
    pub token: u32,
    /// Its answer, or why there is none.
    pub result: Result<Answer, String>,
}

type Wake = Box<dyn FnOnce() + Send>;

/// What the pool's threads have for an instance.
#[derive(Default)]
pub struct Mailbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    done: Vec<Done>,
    /// Bytes of their bodies.
    bytes: usize,
    /// Resumes a paused exchange, by its context.
    paused: HashMap<u32, Wake>,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code of a plugin or of a module runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, mut done: Done) {
        let mut waiting = self.lock();
        let len = done.result.as_ref().map_or(0, |answer| answer.body.len());
        if waiting.bytes + len > MAX_WAITING_BYTES {
            done.result = Err("too many bytes of answers wait".to_owned());
        } else {
            waiting.bytes += len;
        }
        let wake = waiting.paused.remove(&done.context);
        waiting.done.push(done);
        drop(waiting);
        if let Some(wake) = wake {
            wake();
        }
    }

    /// Calls `wake` when something for that context has come: at once, where it has already.
    pub fn wait(&self, context: u32, wake: impl FnOnce() + Send + 'static) {
        let mut waiting = self.lock();
        if waiting.done.iter().any(|done| done.context == context) {
            drop(waiting);
            wake();
        } else {
            waiting.paused.insert(context, Box::new(wake));
        }
    }

    /// Nobody waits for that context any more.
    pub fn forget(&self, context: u32) {
        // Dropped without the lock: it holds a pause.
        let wake = self.lock().paused.remove(&context);
        drop(wake);
    }

    /// The oldest of those that are `wanted`, by their context.
    pub fn take(&self, wanted: impl Fn(u32) -> bool) -> Option<Done> {
        let mut waiting = self.lock();
        let index = waiting.done.iter().position(|done| wanted(done.context))?;
        let done = waiting.done.remove(index);
        waiting.bytes -= done.result.as_ref().map_or(0, |answer| answer.body.len());
        Some(done)
    }
}

/// The calls of a context.
#[derive(Debug, Default)]
pub struct Calls {
    /// Those of which the module has yet to be told.
    pub open: u32,
    made: u32,
}

/// The request as it goes over the wire. An authority that the module leaves empty is `host`.
fn request(lines: &[(&[u8], &[u8])], body: &[u8], host: &str) -> Option<Vec<u8>> {
    let pseudo = |wanted: &str| lines.iter().find(|(name, _)| *name == wanted.as_bytes()).map(|(_, value)| *value);
    let (method, path, authority) = (pseudo(":method")?, pseudo(":path")?, pseudo(":authority").or(pseudo("host"))?);
    let authority = if authority.is_empty() { host.as_bytes() } else { authority };
    if !validate::is_token(method)
        || matches!(method, b"CONNECT" | b"TRACE")
        || !validate::is_target(path)
        || !validate::is_authority(authority)
    {
        return None;
    }
    let mut out = [method, b" ", path, b" HTTP/1.1\r\nHost: ", authority, b"\r\n"].concat();
    for &(name, value) in lines {
        // The framing is the host's.
        if name.first() == Some(&b':') || validate::is_host_only(name) {
            continue;
        }
        let value = trimmed(value);
        if !validate::is_token(name) || !validate::is_field_value(value) {
            return None;
        }
        out.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
    }
    if !body.is_empty() || !matches!(method, b"GET" | b"HEAD" | b"OPTIONS") {
        out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    Some(out)
}

/// `proxy_http_call`. Statuses as in Envoy: `BAD_ARGUMENT` for a cluster that is not configured and for a request that is
/// none, `INTERNAL_FAILURE` where too many calls wait.
#[expect(clippy::too_many_arguments, reason = "as many as the interface has")]
pub fn call(
    guest: &mut Guest<'_>,
    cluster: u32,
    cluster_len: u32,
    fields: u32,
    fields_len: u32,
    body: u32,
    body_len: u32,
    trailers: u32,
    trailers_len: u32,
    timeout: u32,
    token_at: u32,
) -> Outcome {
    guest.charge(CALL_FUEL)?;
    let lens = [cluster_len, fields_len, body_len, trailers_len];
    guest.charge_bytes(lens.iter().fold(0, |sum: usize, len| sum.saturating_add(*len as usize)))?;
    let (mut memory, state) = guest.parts()?;
    let cluster = memory.text(cluster, cluster_len)?;
    let entry = Arc::clone(&state.entry);
    let clusters = entry.clusters.upgrade().ok_or(Status::BadArgument)?;
    let client = Arc::clone(clusters.clients.get(cluster).ok_or(Status::BadArgument)?);
    let lines = parse_pairs(memory.bytes(fields, fields_len)?)?;
    let body = memory.bytes(body, body_len)?;
    // There are none in what is sent.
    parse_pairs(memory.bytes(trailers, trailers_len)?)?;
    let request = request(&lines, body, client.address()).ok_or(Status::BadArgument)?;
    // Before the call: what is made known must have a place.
    memory.write_u32(token_at, 0)?;
    let context = state.effective;
    let State { contexts, root_calls, mailbox, last_token, .. } = state;
    let calls =
        if context == ROOT { root_calls } else { &mut contexts.get_mut(&context).ok_or(Status::BadArgument)?.calls };
    let is_last = context != ROOT && calls.made >= MAX_IN_ALL;
    if request.len() > MAX_BYTES || calls.open >= MAX_AT_A_TIME || is_last {
        return Err(Status::InternalFailure.into());
    }
    *last_token = last_token.wrapping_add(1).max(1);
    let (token, mailbox) = (*last_token, Arc::clone(mailbox));
    let time = Duration::from_millis(timeout.into());
    let end = Instant::now() + if time.is_zero() { MAX_TIME } else { time.min(MAX_TIME) };
    let job = move || {
        let result = client.ask(&request, end).map_err(|error| format!("{}: {error}", client.address()));
        mailbox.put(Done { context, token, result });
    };
    clusters.pool.as_ref().and_then(|pool| pool.run(job).ok()).ok_or(Status::InternalFailure)?;
    (calls.open, calls.made) = (calls.open + 1, calls.made.saturating_add(1));
    memory.write_u32(token_at, token)
}
