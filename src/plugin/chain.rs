//! The plugins in their order: creates them, calls their hooks, contains their failures, and destroys them.
//!
//! ```text
//! on_request    a ─► b ─► c ─► upstream      respond or fail: the rest is not called, nor the upstream
//! on_response   a ◄─ b ◄─ c ◄─ upstream      the other way round; respond or fail: the rest is not called
//! on_done       for each plugin that the request reached, last one first, however the exchange ended
//! ```
//!
//! A failure is: the verdict "fail", an unknown verdict, "respond" without an answer. A panic of a Rust plugin is caught
//! inside the plugin and arrives here as "fail"; one that reached us would end the process.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mini_rproxy_plugin::host::{Context, ExchangeHandle, Limits, Phase};
use mini_rproxy_plugin::{Descriptor, abi};

use super::builtin;
use super::descriptor::{self, ValidDescriptor};
use super::host::{HookAccess, PluginLog, TABLE};
use super::load;
use crate::config::{Config, PluginConfig};
use crate::log::{Level, Logger};
use crate::proxy::hooks::{BufferBodies, HookContext, Hooks, PluginTiming, Verdict};
use crate::start_error::StartError;

/// A hook that takes longer is reported: meanwhile nothing else moves on that thread.
const SLOW: Duration = Duration::from_millis(5);

fn plugin_error(source: impl Display, reason: String) -> StartError {
    StartError::about(source.to_string(), format!("plugin {source}: {reason}"))
}

/// One plugin, created.
#[derive(Debug)]
struct LoadedPlugin {
    name: &'static str,
    raw: abi::Plugin,
    /// What `create` gave; may be null.
    this: *mut c_void,
    slow: AtomicU32,
}

// SAFETY: `this` is only ever passed to the plugin's own functions, and the interface demands that these may run on
// several threads at the same time.
unsafe impl Send for LoadedPlugin {}
// SAFETY: as above.
unsafe impl Sync for LoadedPlugin {}

/// All plugins in their order. Dropping it destroys them: the last reference belongs to the main thread, after the loops.
#[derive(Debug)]
pub struct Chain {
    plugins: Vec<LoadedPlugin>,
    limits: Limits,
    logger: Logger,
}

/// The limits for plugins under this configuration.
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
/// What was loaded, and what was skipped and why, is logged. An error stops the start: a required plugin of the list, a
/// folder that cannot be read, or any file where this binary cannot load files.
pub fn load(
    list: &[PluginConfig],
    dir: Option<&Path>,
    limits: Limits,
    logger: Logger,
) -> Result<Option<Arc<Chain>>, StartError> {
    let mut chain = Chain::new(limits, logger);
    let all = with_files(list, dir)?;
    for plugin in &all {
        let added = match &plugin.path {
            Some(path) => chain.add_file(path, &plugin.config),
            None => builtin::find(&source(plugin))
                .map_err(|reason| plugin_error(source(plugin), reason))
                .and_then(|found| chain.add_descriptor(found, &plugin.config)),
        };
        match added {
            Err(error) if plugin.required => return Err(error),
            Err(error) => {
                chain.log(Level::Error, &source(plugin), &format!("skipped, since it is not required: {error}"));
            }
            Ok(()) => {}
        }
    }
    if dir.is_some() {
        let message = format!("{} of {} plugins loaded", chain.plugins.len(), all.len());
        chain.logger.line(Level::Info, &message).send();
    }
    Ok(if chain.plugins.is_empty() { None } else { Some(Arc::new(chain)) })
}

/// Whether what [`load()`] needs is there: required plugins of the list, and the folder. Nothing is loaded and no code of a
/// plugin runs, so this cannot tell what `create` will say.
pub fn check(list: &[PluginConfig], dir: Option<&Path>) -> Result<(), StartError> {
    with_files(list, dir)?.iter().filter(|plugin| plugin.required).try_for_each(|plugin| {
        let found = match &plugin.path {
            Some(path) => load::check(path).map(drop),
            None => builtin::find(&source(plugin)).map(drop),
        };
        found.map_err(|reason| plugin_error(source(plugin), reason))
    })
}

/// What [`load()`] would load, in its order, for people; nothing is loaded.
pub fn names(list: &[PluginConfig], dir: Option<&Path>) -> Result<Vec<String>, StartError> {
    let name = |plugin| source(plugin) + if plugin.path.is_some() { "" } else { " (built in)" };
    Ok(with_files(list, dir)?.iter().map(name).collect())
}

/// The path of a plugin, or its name.
fn source(plugin: &PluginConfig) -> String {
    let path = plugin.path.as_ref().map(|path| path.display().to_string());
    path.or_else(|| plugin.builtin.clone()).unwrap_or_default()
}

/// The list, and behind it the `*.so` files of the folder in the order of their names, which are not required.
fn with_files(list: &[PluginConfig], dir: Option<&Path>) -> Result<Vec<PluginConfig>, StartError> {
    let mut all = list.to_vec();
    let Some(dir) = dir else { return Ok(all) };
    let files = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>();
    let unreadable = |error| format!("cannot be read: {error}; make it, or name another with -plugindir DIR");
    let files = load::available().and_then(|()| files().map_err(unreadable));
    let mut files = files.map_err(|reason| plugin_error(format_args!("folder {}", dir.display()), reason))?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "so"));
    files.sort();
    let plugin = |path| PluginConfig { path: Some(path), required: false, ..PluginConfig::default() };
    all.extend(files.into_iter().map(plugin));
    Ok(all)
}

impl Chain {
    /// An empty chain.
    pub fn new(limits: Limits, logger: Logger) -> Chain {
        Chain { plugins: Vec::new(), limits, logger }
    }

    /// Loads a file and appends the plugin.
    pub fn add_file(&mut self, path: &Path, config: &str) -> Result<(), StartError> {
        let added = load::load(path).and_then(|descriptor| self.add(&descriptor, config));
        added.map_err(|reason| plugin_error(path.display(), reason))
    }

    /// Appends a plugin by its descriptor.
    pub fn add_descriptor(&mut self, descriptor: &'static Descriptor, config: &str) -> Result<(), StartError> {
        // SAFETY: a `Descriptor` is complete, and a static one stays.
        let valid = unsafe { descriptor::read(std::ptr::from_ref(descriptor.raw()).cast()) };
        let added = valid.and_then(|valid| self.add(&valid, config));
        added.map_err(|reason| plugin_error(descriptor.name(), reason))
    }

    fn add(&mut self, descriptor: &ValidDescriptor, config: &str) -> Result<(), String> {
        let ValidDescriptor { raw, name, version } = *descriptor;
        let create = raw.create.ok_or("create is null")?;
        let last_error = Arc::default();
        let log = PluginLog { plugin: name, logger: self.logger.clone(), last_error: Arc::clone(&last_error) };
        let ctx = Context::new(Box::new(log)).as_ctx();
        let mut this = std::ptr::null_mut();
        // SAFETY: the descriptor was checked, so `create` is the plugin's function of this type. Table and context stay
        // until the process ends; configuration and result outlive the call.
        let status = unsafe { create(&raw const TABLE, ctx, abi::Str::new(config.as_bytes()), &raw mut this) };
        if status != abi::OK {
            let message = std::mem::take(&mut *last_error.lock().unwrap_or_else(PoisonError::into_inner));
            // One line, whatever it logged.
            let message = message.trim_start_matches("create: ").replace(char::is_control, " ");
            let reason = if message.is_empty() { "the plugin did not log why" } else { &message };
            return Err(format!("create failed with status {status}: {reason}"));
        }
        self.log(Level::Info, name, &format!("loaded, version {version}"));
        self.plugins.push(LoadedPlugin { name, raw, this, slow: AtomicU32::new(0) });
        Ok(())
    }

    /// The plugins' names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.name)
    }

    fn log(&self, level: Level, plugin: &str, message: &str) {
        self.logger.line(level, message).text("plugin", plugin).send();
    }

    /// Calls one hook of the plugin at `index`. `clock` is the time before the hook and becomes the time after it: one
    /// reading of the clock is the end of a hook and the start of the next one.
    fn call_plugin(&self, index: usize, phase: Phase, context: &mut HookContext<'_>, clock: &mut Instant) -> Verdict {
        let plugin = &self.plugins[index];
        let mut handle = ExchangeHandle::new(HookAccess::new(context, phase, plugin.raw.flags, self.limits));
        let (this, x) = (plugin.this, handle.as_exchange());
        let (entry, verdict) = match phase {
            // SAFETY: the plugin's own hook with its own `this`, not yet destroyed. The handle is valid until the call
            // returns and not used otherwise meanwhile.
            Phase::Request => ("on_request", plugin.raw.on_request.map(|hook| unsafe { hook(this, x) })),
            // SAFETY: as above.
            Phase::Response => ("on_response", plugin.raw.on_response.map(|hook| unsafe { hook(this, x) })),
            Phase::Done => {
                // SAFETY: as above.
                let done = plugin.raw.on_done.map(|hook| unsafe { hook(this, x) });
                ("on_done", done.map(|()| abi::CONTINUE))
            }
        };
        let Some(verdict) = verdict else { return Verdict::Continue };
        let time = self.record_time(plugin, entry, clock);
        let answer = handle.into_access().answer;
        let timings = &mut context.state.timings;
        let untimed = self.plugins[..=index].iter().skip(timings.len());
        timings.extend(untimed.map(|plugin| PluginTiming { plugin: plugin.name, time: Duration::ZERO, faults: 0 }));
        timings[index].time += time;
        let why = match (verdict, answer) {
            (abi::CONTINUE, _) => return Verdict::Continue,
            (abi::RESPOND, Some(answer)) => return Verdict::Respond(answer),
            (abi::RESPOND, None) => "it answers, but gave no answer".to_owned(),
            (abi::FAIL, _) => "it failed".to_owned(),
            (other, _) => format!("it returned verdict {other}, which means nothing"),
        };
        timings[index].faults += 1;
        self.log(Level::Error, plugin.name, &format!("{entry}: {why}; the client gets 502"));
        Verdict::Fail
    }

    fn record_time(&self, plugin: &LoadedPlugin, entry: &str, clock: &mut Instant) -> Duration {
        let end = Instant::now();
        let took = end - std::mem::replace(clock, end);
        if took > SLOW {
            let count = plugin.slow.fetch_add(1, Ordering::Relaxed) + 1;
            // The first, the second, the fourth ...: a plugin that is always slow must not fill the log.
            if count.is_power_of_two() {
                let text = format!("{entry} took {took:?} and held up everything else on its thread; count {count}");
                self.log(Level::Warn, plugin.name, &text);
            }
        }
        took
    }
}

impl Hooks for Chain {
    fn wants(&self) -> BufferBodies {
        let wants = |flag| self.plugins.iter().any(|plugin| plugin.raw.flags & flag != 0);
        BufferBodies { request: wants(abi::WANT_REQUEST_BODY), response: wants(abi::WANT_RESPONSE_BODY) }
    }

    /// In order, until one of them answers or fails.
    fn call(&self, phase: Phase, context: &mut HookContext<'_>) -> Verdict {
        let started = &mut context.state.started;
        let count = if phase == Phase::Done { std::mem::take(started) } else { self.plugins.len() };
        let mut clock = Instant::now();
        for nth in 0..count {
            // The plugin that saw the request last, as it left, sees the response first.
            let index = if phase == Phase::Request { nth } else { count - 1 - nth };
            if phase == Phase::Request {
                context.state.started = index + 1;
            }
            match self.call_plugin(index, phase, context, &mut clock) {
                Verdict::Continue => {}
                verdict => return verdict,
            }
        }
        Verdict::Continue
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for plugin in self.plugins.drain(..).rev() {
            if let Some(destroy) = plugin.raw.destroy {
                // SAFETY: what `create` gave, destroyed once: the owner of the chain is the last one to use it.
                unsafe { destroy(plugin.this) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::http::head::{RequestHead, ResponseHead};
    use crate::proxy::hooks::ChainState;
    use mini_rproxy_plugin::{Error, Logger as PluginLogger, Plugin};

    struct Nothing;
    impl Plugin for Nothing {
        const NAME: &'static str = "nothing";
        fn create(_: PluginLogger, _: &[u8]) -> Result<Self, Error> {
            Ok(Nothing)
        }
    }

    #[test]
    fn a_create_that_fails_without_a_message_is_reported_as_such() {
        unsafe extern "C" fn refuse(_: *const abi::Host, _: *mut abi::Ctx, _: abi::Str, _: *mut *mut c_void) -> i32 {
            abi::INVALID
        }
        let logger = Logger::start(LogFormat::Text, io::sink()).expect("a thread");
        let mut chain = Chain::new(Limits { head_bytes: 1024, field_lines: 10, body_bytes: 0 }, logger);
        let raw = abi::Plugin { create: Some(refuse), ..*mini_rproxy_plugin::descriptor::<Nothing>("1").raw() };
        let result = chain.add(&ValidDescriptor { raw, name: "silent", version: "1" }, "");
        assert_eq!(result, Err("create failed with status -1: the plugin did not log why".to_owned()));
    }

    #[test]
    fn the_time_of_a_plugin_without_a_request_hook_is_its_own() {
        let logger = Logger::start(LogFormat::Text, io::sink()).expect("a thread");
        let mut chain = Chain::new(Limits { head_bytes: 1024, field_lines: 10, body_bytes: 0 }, logger);
        let both = *mini_rproxy_plugin::descriptor::<Nothing>("1").raw();
        let late = abi::Plugin { on_request: None, ..both };
        for (raw, name) in [(late, "late"), (both, "both")] {
            chain.add(&ValidDescriptor { raw, name, version: "1" }, "").expect("it is in order");
        }
        let (mut request, mut response) = (RequestHead::default(), ResponseHead::default());
        let mut state = ChainState::default();
        let mut context = HookContext::of_request(&mut request, &mut state);
        assert!(matches!(chain.call(Phase::Request, &mut context), Verdict::Continue));
        context.response = Some(&mut response);
        assert!(matches!(chain.call(Phase::Response, &mut context), Verdict::Continue));
        assert_eq!(state.timings.iter().map(|timing| timing.plugin).collect::<Vec<_>>(), ["late", "both"]);
    }
}
