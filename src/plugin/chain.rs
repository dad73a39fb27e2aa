//! The plugins in their order: creates them, calls their hooks, contains their failures, and destroys them.
//!
//! ```text
//! on_request    a ─► b ─► c ─► upstream      respond or fail: the rest is not called, nor the upstream
//! on_response   a ◄─ b ◄─ c ◄─ upstream      the other way round; respond or fail: the rest is not called
//! on_done       for each plugin that the request reached, last one first, however the exchange ended
//! ```
//!
//! A failure is: the verdict "fail", a verdict that means nothing, "respond" without an answer. A panic of a Rust plugin
//! is caught inside the plugin and arrives here as "fail"; one that reached us would end the process.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mini_rproxy_plugin::host::{Context, ExchangeHandle, Limits, Phase};
use mini_rproxy_plugin::{Descriptor, abi};

use super::host::{PluginLog, TABLE, View};
#[cfg(all(feature = "dlopen", not(target_feature = "crt-static")))]
use super::load;
use super::record::{self, Checked, RecordError};
use super::{Level, Sink, builtin};
use crate::config::{Config, PluginConfig, PluginSource};
use crate::proxy::hooks::{BufferBodies, HookContext, Hooks, PluginTiming, Verdict};

/// A hook that takes longer is reported: meanwhile nothing else moves on that thread.
const SLOW: Duration = Duration::from_millis(5);

/// Why a plugin is not in the chain.
#[derive(Debug)]
pub enum Reason {
    /// The file is no plugin for us.
    #[cfg(all(feature = "dlopen", not(target_feature = "crt-static")))]
    Load(load::LoadError),
    /// This binary cannot load files.
    NoDlopen,
    /// A linked-in record is not for us.
    Record(RecordError),
    /// No plugin of that name was linked in.
    NoSuchBuiltin,
    /// `create` returned this, having logged so much about it.
    Create(abi::Status, String),
    /// The folder cannot be read.
    Directory(io::Error),
}

/// A plugin that is not in the chain, and why.
#[derive(Debug)]
pub struct PluginError {
    /// The path or the name, as configured.
    pub source: String,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {}: ", self.source)?;
        match &self.reason {
            #[cfg(all(feature = "dlopen", not(target_feature = "crt-static")))]
            Reason::Load(error) => error.fmt(f),
            Reason::NoDlopen => f.write_str(
                "this program is built without dlopen (statically linked, or without the feature) and cannot load files; \
                 use the dynamic build, or link the plugin in and list it as builtin",
            ),
            Reason::Record(error) => error.fmt(f),
            Reason::NoSuchBuiltin => write!(f, "not linked into this program; linked in: {}", builtin::names()),
            Reason::Create(status, reason) => {
                // One line, whatever it said.
                let words = reason.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
                match words.collect::<Vec<_>>().join(" ").trim_start_matches("create: ") {
                    "" => write!(f, "create failed with status {status}, and the plugin did not log why"),
                    reason => write!(f, "create failed with status {status}: {reason}"),
                }
            }
            Reason::Directory(error) => {
                write!(f, "cannot be read: {error}; make it, or name another with -plugindir DIR")
            }
        }
    }
}

impl std::error::Error for PluginError {}

/// Whether this binary can load plugin files.
pub const fn has_dlopen() -> bool {
    cfg!(all(feature = "dlopen", not(target_feature = "crt-static")))
}

fn load_file(path: &Path) -> Result<Checked, Reason> {
    #[cfg(all(feature = "dlopen", not(target_feature = "crt-static")))]
    return load::load(path).map_err(Reason::Load);
    #[cfg(not(all(feature = "dlopen", not(target_feature = "crt-static"))))]
    {
        let _ = path;
        Err(Reason::NoDlopen)
    }
}

fn check_file(path: &Path) -> Result<(), Reason> {
    #[cfg(all(feature = "dlopen", not(target_feature = "crt-static")))]
    return load::check(path).map(drop).map_err(Reason::Load);
    #[cfg(not(all(feature = "dlopen", not(target_feature = "crt-static"))))]
    {
        let _ = path;
        Err(Reason::NoDlopen)
    }
}

/// One plugin, created.
struct Member {
    /// Kept for as long as the process lives, as the plugin's own log is: whoever counts what it does may keep it too.
    name: &'static str,
    record: abi::Plugin,
    /// What `create` gave; may be null.
    this: *mut c_void,
    slow: AtomicU32,
}

// SAFETY: `this` is only ever passed to the plugin's own functions, and the interface demands of these that they may
// run on several threads at the same time.
unsafe impl Send for Member {}
// SAFETY: as above.
unsafe impl Sync for Member {}

/// The names of all plugins that were ever created, each once.
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Keeps a name for as long as the process lives, where it can be found again.
fn keep(name: String) -> &'static str {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = names.get(name.as_str()) {
        return kept;
    }
    let kept = name.leak();
    names.insert(kept);
    kept
}

/// How a hook ended.
enum Ended {
    Continue,
    Respond(Verdict),
    Fail,
}

/// All plugins in their order. Dropping it destroys them: keep the last one for the main thread, after the loops.
pub struct Chain {
    members: Vec<Member>,
    wants: BufferBodies,
    limits: Limits,
    sink: Arc<dyn Sink>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// The limits that plugins meet under this configuration.
pub fn limits(config: &Config) -> Limits {
    Limits {
        head_bytes: config.limits.max_head_bytes,
        field_lines: config.limits.max_header_fields,
        body_bytes: config.plugin_body_limit,
    }
}

/// Loads and creates all plugins: first the `plugins:` list in its order, then the `*.so` files of `dir` in the order of
/// their names. `None` where there are none, so that the request path pays nothing.
///
/// What was loaded, and what was skipped and why, goes to `sink`. An error is what stops the start: a required plugin
/// of the list, a folder that cannot be read, or any file where this binary cannot load files.
pub fn load(
    list: &[PluginConfig],
    dir: Option<&Path>,
    limits: Limits,
    sink: Arc<dyn Sink>,
) -> Result<Option<Arc<Chain>>, PluginError> {
    let mut chain = Chain::new(limits, Arc::clone(&sink));
    for plugin in list {
        let added = match &plugin.source {
            PluginSource::Path(path) => chain.add_file(path, &plugin.config),
            PluginSource::Builtin(name) => chain.add_builtin(name, &plugin.config),
        };
        match added {
            Ok(()) => {}
            Err(error) if plugin.required => return Err(error),
            Err(error) => sink.log(Level::Error, &error.source, &format!("skipped, since it is not required: {error}")),
        }
    }
    if let Some(dir) = dir {
        let files = shared_objects(dir)?;
        let count = chain.members.len();
        for path in &files {
            if let Err(error) = chain.add_file(path, "") {
                sink.log(Level::Error, &error.source, &format!("skipped: {error}"));
            }
        }
        let count = chain.members.len() - count;
        sink.log(Level::Info, "", &format!("{count} of {} plugins loaded from {}", files.len(), dir.display()));
    }
    Ok(if chain.members.is_empty() { None } else { Some(Arc::new(chain)) })
}

/// Whether what [`load()`] needs is there: required plugins of the list, and the folder. Nothing is loaded and no code of a
/// plugin runs, so this cannot tell what `create` will say.
pub fn check(list: &[PluginConfig], dir: Option<&Path>) -> Result<(), PluginError> {
    for plugin in list.iter().filter(|plugin| plugin.required) {
        let (source, found) = match &plugin.source {
            PluginSource::Path(path) => (path.display().to_string(), check_file(path)),
            PluginSource::Builtin(name) => (name.clone(), builtin::find(name).map(drop).ok_or(Reason::NoSuchBuiltin)),
        };
        found.map_err(|reason| PluginError { source, reason })?;
    }
    dir.map_or(Ok(()), |dir| shared_objects(dir).map(drop))
}

/// What [`load()`] would load, in its order, for people; nothing is loaded.
pub fn names(list: &[PluginConfig], dir: Option<&Path>) -> Result<Vec<String>, PluginError> {
    let mut names: Vec<String> = list
        .iter()
        .map(|plugin| match &plugin.source {
            PluginSource::Path(path) => path.display().to_string(),
            PluginSource::Builtin(name) => format!("{name} (built in)"),
        })
        .collect();
    if let Some(dir) = dir {
        names.extend(shared_objects(dir)?.iter().map(|path| path.display().to_string()));
    }
    Ok(names)
}

/// The `*.so` entries of a folder, sorted by name.
fn shared_objects(dir: &Path) -> Result<Vec<PathBuf>, PluginError> {
    let source = || format!("folder {}", dir.display());
    if !has_dlopen() {
        return Err(PluginError { source: source(), reason: Reason::NoDlopen });
    }
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "so"));
        files.sort();
        Ok(files)
    };
    list().map_err(|error| PluginError { source: source(), reason: Reason::Directory(error) })
}

impl Chain {
    /// An empty chain.
    pub fn new(limits: Limits, sink: Arc<dyn Sink>) -> Chain {
        Chain { members: Vec::new(), wants: BufferBodies::default(), limits, sink }
    }

    /// Loads a file and appends the plugin.
    pub fn add_file(&mut self, path: &Path, config: &str) -> Result<(), PluginError> {
        let source = path.display().to_string();
        let added = load_file(path).and_then(|checked| self.add(checked, config));
        added.map_err(|reason| PluginError { source, reason })
    }

    /// Appends a plugin that was linked in.
    pub fn add_builtin(&mut self, name: &str, config: &str) -> Result<(), PluginError> {
        let added =
            builtin::find(name).ok_or(Reason::NoSuchBuiltin).and_then(|descriptor| self.add_record(descriptor, config));
        added.map_err(|reason| PluginError { source: name.to_owned(), reason })
    }

    /// Appends a plugin whose record is at hand.
    pub fn add_descriptor(&mut self, descriptor: &'static Descriptor, config: &str) -> Result<(), PluginError> {
        let added = self.add_record(descriptor, config);
        added.map_err(|reason| PluginError { source: descriptor.name().to_owned(), reason })
    }

    fn add_record(&mut self, descriptor: &'static Descriptor, config: &str) -> Result<(), Reason> {
        // SAFETY: a `Descriptor` is a whole record, and a static one stays.
        let checked = unsafe { record::read(std::ptr::from_ref(descriptor.raw()).cast()) };
        self.add(checked.map_err(Reason::Record)?, config)
    }

    fn add(&mut self, checked: Checked, config: &str) -> Result<(), Reason> {
        let Checked { record, name, version } = checked;
        let create = record.create.ok_or(Reason::Record(RecordError::NoCreate))?;
        let reason = Arc::default();
        let log = PluginLog { plugin: name.clone(), sink: Arc::clone(&self.sink), reason: Arc::clone(&reason) };
        let ctx = Context::new(Box::new(log)).as_ctx();
        let mut this = std::ptr::null_mut();
        // SAFETY: the record passed its checks, so `create` is the plugin's function of this type. Table and context
        // stay until the process ends; configuration and result outlive the call.
        let status = unsafe { create(&raw const TABLE, ctx, abi::Str::new(config.as_bytes()), &raw mut this) };
        if status != abi::OK {
            let reason = std::mem::take(&mut *reason.lock().unwrap_or_else(PoisonError::into_inner));
            return Err(Reason::Create(status, reason));
        }
        self.wants.request |= record.flags & abi::WANT_REQUEST_BODY != 0;
        self.wants.response |= record.flags & abi::WANT_RESPONSE_BODY != 0;
        self.sink.log(Level::Info, &name, &format!("loaded, version {version}"));
        let name = keep(name);
        self.members.push(Member { name, record, this, slow: AtomicU32::new(0) });
        Ok(())
    }

    /// The plugins' names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name)
    }

    /// How many hooks of each plugin took more than 5 ms.
    pub fn slow_hooks(&self) -> impl Iterator<Item = (&str, u64)> {
        self.members.iter().map(|member| (member.name, u64::from(member.slow.load(Ordering::Relaxed))))
    }

    /// Calls one hook of the plugin at `index`. `clock` is when it starts, and becomes when it has ended: one reading of
    /// the clock serves both the end of a hook and the start of the next one.
    fn call(&self, index: usize, phase: Phase, view: &mut HookContext<'_>, clock: &mut Instant) -> Ended {
        let member = &self.members[index];
        let (entry, hook) = match phase {
            Phase::Request => ("on_request", member.record.on_request),
            Phase::Response => ("on_response", member.record.on_response),
            Phase::Done => return Ended::Continue,
        };
        let Some(hook) = hook else { return Ended::Continue };
        let mut door = ExchangeHandle::new(View::new(view, phase, member.record.flags, self.limits));
        // SAFETY: the plugin's own hook with its own `this`, not yet destroyed; the door is open until the call returns
        // and nobody else uses it meanwhile.
        let verdict = unsafe { hook(member.this, door.as_exchange()) };
        let time = self.note_time(member, entry, clock);
        let answer = door.into_access().answer;
        let stint = stint(view, index, member);
        stint.time += time;
        let why = match (verdict, answer) {
            (abi::CONTINUE, _) => return Ended::Continue,
            (abi::RESPOND, Some(answer)) => {
                return Ended::Respond(Verdict::Respond { plugin: member.name.to_owned(), answer });
            }
            (abi::RESPOND, None) => "it answers, but gave no answer".to_owned(),
            (abi::FAIL, _) => "it failed".to_owned(),
            (other, _) => format!("it returned verdict {other}, which means nothing"),
        };
        stint.faults += 1;
        self.sink.log(Level::Error, member.name, &format!("{entry}: {why}; the client gets 502"));
        Ended::Fail
    }

    fn note_time(&self, member: &Member, entry: &str, clock: &mut Instant) -> Duration {
        let end = Instant::now();
        let took = end - std::mem::replace(clock, end);
        if took > SLOW {
            let count = member.slow.fetch_add(1, Ordering::Relaxed) + 1;
            // The first, the second, the fourth ...: a plugin that is always slow must not fill the log.
            if count.is_power_of_two() {
                let text = format!("{entry} took {took:?} and held up everything else on its thread; count {count}");
                self.sink.log(Level::Warn, member.name, &text);
            }
        }
        took
    }
}

/// What is counted for the plugin at `index`. Plugins run in their order first, so those before it have theirs already.
fn stint<'a>(view: &'a mut HookContext<'_>, index: usize, member: &Member) -> &'a mut PluginTiming {
    let stints = &mut view.state.stints;
    while stints.len() <= index {
        stints.push(PluginTiming { plugin: member.name, time: Duration::ZERO, faults: 0 });
    }
    &mut stints[index]
}

impl Hooks for Chain {
    fn wants(&self) -> BufferBodies {
        self.wants
    }

    fn on_request(&self, view: &mut HookContext<'_>) -> Verdict {
        let mut clock = Instant::now();
        for (index, member) in self.members.iter().enumerate() {
            view.state.started = index + 1;
            match self.call(index, Phase::Request, view, &mut clock) {
                Ended::Continue => {}
                Ended::Respond(verdict) => return verdict,
                Ended::Fail => return Verdict::Fail { plugin: member.name.to_owned() },
            }
        }
        Verdict::Continue
    }

    fn on_response(&self, view: &mut HookContext<'_>) -> Verdict {
        let mut clock = Instant::now();
        // The other way round: the plugin that saw the request last, as it left, sees the response first.
        for (index, member) in self.members.iter().enumerate().rev() {
            match self.call(index, Phase::Response, view, &mut clock) {
                Ended::Continue => {}
                Ended::Respond(verdict) => return verdict,
                Ended::Fail => return Verdict::Fail { plugin: member.name.to_owned() },
            }
        }
        Verdict::Continue
    }

    fn on_done(&self, view: &mut HookContext<'_>) {
        let started = std::mem::take(&mut view.state.started);
        let mut clock = Instant::now();
        for (index, member) in self.members.iter().enumerate().take(started).rev() {
            let Some(hook) = member.record.on_done else { continue };
            let mut door = ExchangeHandle::new(View::new(view, Phase::Done, member.record.flags, self.limits));
            // SAFETY: as in `call`.
            unsafe { hook(member.this, door.as_exchange()) };
            let time = self.note_time(member, "on_done", &mut clock);
            door.into_access();
            stint(view, index, member).time += time;
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for member in self.members.drain(..).rev() {
            let slow = member.slow.load(Ordering::Relaxed);
            if slow > 0 {
                self.sink.log(Level::Warn, member.name, &format!("hooks that took more than {SLOW:?}: {slow}"));
            }
            if let Some(destroy) = member.record.destroy {
                // SAFETY: what `create` gave, destroyed once: whoever drops the chain is the last to have it.
                unsafe { destroy(member.this) }
            }
        }
    }
}
