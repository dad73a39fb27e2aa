//! The plugins in their order: calls their hooks and contains their failures.
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

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mini_rproxy_plugin::host::{ExchangeHandle, Limits, Phase};
use mini_rproxy_plugin::{Descriptor, abi};

use super::host::{Caller, HookAccess};
use super::instances::{self, Instance};
use crate::config::{Config, PluginConfig};
use crate::log::{Level, Logger};
use crate::proxy::hooks::{BufferBodies, HookContext, Hooks, PluginTiming, Verdict};
use crate::start_error::StartError;

/// A hook that takes longer is reported: meanwhile nothing else moves on that thread.
const SLOW: Duration = Duration::from_millis(5);

/// Plugins in their order.
#[derive(Debug)]
pub struct Chain {
    plugins: Vec<Arc<Instance>>,
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

/// A chain of all plugins that [`instances::load`] loads. `None` where there are none, so that the request path pays nothing.
pub fn load(
    list: &[PluginConfig],
    dir: Option<&Path>,
    limits: Limits,
    logger: Logger,
) -> Result<Option<Arc<Chain>>, StartError> {
    let plugins: Vec<_> = instances::load(list, dir, &logger)?.into_iter().map(Arc::new).collect();
    Ok(if plugins.is_empty() { None } else { Some(Arc::new(Chain { plugins, limits, logger })) })
}

impl Chain {
    /// An empty chain.
    pub fn new(limits: Limits, logger: Logger) -> Chain {
        Chain { plugins: Vec::new(), limits, logger }
    }

    /// Loads a file and appends the plugin.
    pub fn add_file(&mut self, path: &Path, config: &str) -> Result<(), StartError> {
        self.push(Instance::from_file(path, config, &self.logger)?);
        Ok(())
    }

    /// Appends a plugin by its descriptor.
    pub fn add_descriptor(&mut self, descriptor: &'static Descriptor, config: &str) -> Result<(), StartError> {
        self.push(Instance::linked_in(descriptor, config, &self.logger)?);
        Ok(())
    }

    /// Appends a plugin.
    fn push(&mut self, plugin: Instance) {
        self.plugins.push(Arc::new(plugin));
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
        let caller = Caller { name: plugin.name, flags: plugin.raw.flags, limits: self.limits, logger: &self.logger };
        let mut handle = ExchangeHandle::new(HookAccess::new(context, phase, caller));
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

    fn record_time(&self, plugin: &Instance, entry: &str, clock: &mut Instant) -> Duration {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::http::head::{RequestHead, ResponseHead};
    use crate::plugin::descriptor::ValidDescriptor;
    use crate::proxy::hooks::ChainState;
    use mini_rproxy_plugin::{Error, Plugin, Setup};
    use std::io;

    struct Nothing;
    impl Plugin for Nothing {
        const NAME: &'static str = "nothing";
        fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
            Ok(Nothing)
        }
    }

    #[test]
    fn the_time_of_a_plugin_without_a_request_hook_is_its_own() {
        let logger = Logger::start(LogFormat::Text, io::sink()).expect("a thread");
        let mut chain = Chain::new(Limits { head_bytes: 1024, field_lines: 10, body_bytes: 0 }, logger);
        let both = *mini_rproxy_plugin::descriptor::<Nothing>("1").raw();
        let late = abi::Plugin { on_request: None, ..both };
        for (raw, name) in [(late, "late"), (both, "both")] {
            let descriptor = ValidDescriptor { raw, name, version: "1" };
            chain.push(Instance::create(&descriptor, "", &chain.logger).expect("it is in order"));
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
