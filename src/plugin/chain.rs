//! The plugins in their order: calls their hooks and contains their failures.
//!
//! ```text
//! on_request    a ─► b ─► c ─► upstream      respond or fail: the rest is not called, nor the upstream
//! on_response   a ◄─ b ◄─ c ◄─ upstream      the other way round; respond: the rest sees that answer; fail: 502, as it is
//! on_done       for each plugin of which a hook ran, last one first, however the exchange ended
//! ```
//!
//! An answer of a plugin in `on_request`, and any of the proxy itself, passes `on_response` of all plugins.
//!
//! Before a hook the chain stops for a body that the plugin always wants; behind it for one that the hook asked for, which gets
//! a hook of its own; or it stops because a hook pauses. [`Hooks::call`] goes on where it stopped.
//!
//! A failure is: the verdict "fail", an unknown verdict, "respond" without an answer. A panic of a Rust plugin is caught
//! inside the plugin and arrives here as "fail"; one that reached us would end the process.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mini_rproxy_plugin::abi;
use mini_rproxy_plugin::host::{ExchangeHandle, Limits, Phase, Side};

use super::host::{Caller, HookAccess, wants_always};
use super::instances::{Instance, Plugins, log_about};
use crate::config::{Config, PluginConfig};
use crate::log::{Level, Logger};
use crate::proxy::hooks::{HookBody, HookContext, Hooks, PluginTiming, Position, Step, Verdict};
use crate::proxy::runtime::RouteHooks;

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

/// Which plugins run on which route.
pub fn of_routes(plugins: &Plugins, config: &Config, logger: &Logger) -> RouteHooks {
    let chain = |list: &[&PluginConfig]| {
        let chain = Chain::of(plugins, list, limits(config), logger.clone());
        // So that the request path pays nothing where there are none.
        (!chain.plugins.is_empty()).then(|| Arc::new(chain) as Arc<dyn Hooks>)
    };
    RouteHooks::new(config, chain)
}

impl Chain {
    /// An empty chain.
    pub fn new(limits: Limits, logger: Logger) -> Chain {
        Chain { plugins: Vec::new(), limits, logger }
    }

    /// Those of the list that were loaded.
    pub fn of(plugins: &Plugins, list: &[&PluginConfig], limits: Limits, logger: Logger) -> Chain {
        let plugins = list.iter().filter_map(|plugin| plugins.get(&plugin.name).cloned()).collect();
        Chain { plugins, limits, logger }
    }

    /// Appends a plugin.
    pub fn push(&mut self, plugin: Arc<Instance>) {
        self.plugins.push(plugin);
    }

    /// The plugins' names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.name)
    }

    /// Takes the next step with the plugin at `index`, and says in the position what comes after it. `clock` is the time before
    /// the hook and becomes the time after it: one reading of the clock is the end of a hook and the start of the next one.
    fn step(&self, index: usize, phase: Phase, context: &mut HookContext<'_>, clock: &mut Instant) -> Verdict {
        let plugin = &self.plugins[index];
        let flags = plugin.raw.flags;
        let step = context.state.position.step;
        let side = if phase == Phase::Request { Side::Request } else { Side::Response };
        let needs_body = match step {
            Step::Hook if flags & wants_always(side) != 0 => Some(flags & abi::BODY_OPTIONAL != 0),
            Step::Body => context.state.wanted_by(index, side).map(|wanted| wanted.is_optional),
            Step::Hook | Step::Resume { .. } => None,
        };
        if let Some(is_optional) = needs_body {
            let body = if side == Side::Request { &context.request_body } else { &context.response_body };
            match body {
                HookBody::Coming => return Verdict::AwaitBody,
                HookBody::TooLarge if !is_optional => return Verdict::TooLarge,
                HookBody::None | HookBody::Whole(_) | HookBody::TooLarge => {}
            }
            context.state.writes_response_body |= side == Side::Response;
        }
        if step == Step::Body
            && let Some(wanted) = context.state.wanted_by(index, side)
        {
            wanted.is_given = true;
        }
        let verdict = self.call_plugin(index, phase, step, context, clock);
        match &verdict {
            Verdict::Continue => {
                let is_body_next = context.state.wanted_by(index, side).is_some_and(|wanted| !wanted.is_given);
                let position = &mut context.state.position;
                position.step = if is_body_next { Step::Body } else { Step::Hook };
                position.nth += usize::from(!is_body_next);
            }
            Verdict::Pause(ticket) => {
                context.state.paused = Some((index, ticket.number()));
                context.state.position.step = Step::Resume { ticket: ticket.number(), result: None };
            }
            _ => {}
        }
        verdict
    }

    fn call_plugin(
        &self,
        index: usize,
        phase: Phase,
        step: Step,
        context: &mut HookContext<'_>,
        clock: &mut Instant,
    ) -> Verdict {
        let plugin = &self.plugins[index];
        let abi::Plugin { on_request, on_response, on_request_body, on_response_body, on_resume, .. } = plugin.raw;
        let (entry, hook) = match (phase, step) {
            (Phase::Request, Step::Hook) => ("on_request", on_request),
            (Phase::Response, Step::Hook) => ("on_response", on_response),
            (Phase::Request, Step::Body) => ("on_request_body", on_request_body),
            (Phase::Response, Step::Body) => ("on_response_body", on_response_body),
            (_, Step::Resume { .. }) => ("on_resume", None),
            (Phase::Done, _) => ("on_done", None),
        };
        match phase {
            Phase::Request => context.state.started = index + 1,
            Phase::Response => context.state.responded = self.plugins.len() - index,
            Phase::Done => {}
        }
        let caller =
            Caller { index, name: plugin.name, flags: plugin.raw.flags, limits: self.limits, logger: &self.logger };
        let mut handle = ExchangeHandle::new(HookAccess::new(context, phase, caller));
        let (this, x) = (plugin.this, handle.as_exchange());
        // Of all three: the plugin's own hook with its own `this`, not yet destroyed. The handle is valid until the call
        // returns and not used otherwise meanwhile.
        let verdict = match (phase, step) {
            (Phase::Done, _) => plugin.raw.on_done.map(|hook| {
                // SAFETY: see above.
                unsafe { hook(this, x) }
                abi::CONTINUE
            }),
            // SAFETY: see above.
            (_, Step::Resume { result: Some(true), ticket }) => on_resume.map(|hook| unsafe { hook(this, x, ticket) }),
            (_, Step::Resume { .. }) => Some(abi::FAIL),
            // SAFETY: see above.
            (_, Step::Hook | Step::Body) => hook.map(|hook| unsafe { hook(this, x) }),
        };
        let Some(verdict) = verdict else { return Verdict::Continue };
        let time = self.record_time(plugin, entry, clock);
        let HookAccess { answer, ticket, .. } = handle.into_access();
        let timings = &mut context.state.timings;
        let untimed = self.plugins[..=index].iter().skip(timings.len());
        timings.extend(untimed.map(|plugin| PluginTiming { plugin: plugin.name, time: Duration::ZERO, faults: 0 }));
        timings[index].time += time;
        let why = match (verdict, answer, ticket) {
            (abi::CONTINUE, ..) => return Verdict::Continue,
            (abi::RESPOND, Some(answer), _) => return Verdict::Respond(answer),
            (abi::PAUSE, _, Some(ticket)) => return Verdict::Pause(ticket),
            (abi::RESPOND, None, _) => "it answers, but gave no answer".to_owned(),
            (abi::PAUSE, _, None) => "it pauses, but asked for no ticket".to_owned(),
            (abi::FAIL, ..) => "it failed".to_owned(),
            (other, ..) => format!("it returned verdict {other}, which means nothing"),
        };
        timings[index].faults += 1;
        log_about(&self.logger, Level::Error, plugin.name, &format!("{entry}: {why}; the client gets 502"));
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
                log_about(&self.logger, Level::Warn, plugin.name, &text);
            }
        }
        took
    }
}

impl Hooks for Chain {
    /// In order, until one of them answers, fails or waits.
    fn call(&self, phase: Phase, context: &mut HookContext<'_>) -> Verdict {
        let mut clock = Instant::now();
        if phase == Phase::Done {
            let started = std::mem::take(&mut context.state.started);
            let responded = self.plugins.len() - std::mem::take(&mut context.state.responded);
            for index in (0..self.plugins.len()).rev().filter(|index| *index < started || *index >= responded) {
                self.call_plugin(index, phase, Step::Hook, context, &mut clock);
            }
            return Verdict::Continue;
        }
        if context.state.position.phase != Some(phase) {
            context.state.position = Position { phase: Some(phase), ..Position::default() };
        }
        let count = self.plugins.len();
        loop {
            let nth = context.state.position.nth;
            if nth == count {
                return Verdict::Continue;
            }
            // The plugin that saw the request last, as it left, sees the response first.
            let index = if phase == Phase::Request { nth } else { count - 1 - nth };
            match self.step(index, phase, context, &mut clock) {
                Verdict::Continue => {}
                verdict => return verdict,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::http::head::{RequestHead, ResponseHead};
    use crate::plugin::descriptor::ValidDescriptor;
    use crate::proxy::hooks::ChainState;
    use std::io;

    #[test]
    fn the_time_of_a_plugin_without_a_request_hook_is_its_own() {
        let logger = Logger::start(LogFormat::Text, io::sink()).expect("a thread");
        let mut chain = Chain::new(Limits { head_bytes: 1024, field_lines: 10, body_bytes: 0 }, logger);
        let both = crate::plugin::idle_descriptor();
        let late = abi::Plugin { on_request: None, ..both };
        for (raw, name) in [(late, "late"), (both, "both")] {
            let descriptor = ValidDescriptor { raw, name, version: "1" };
            chain.push(Arc::new(Instance::create(&descriptor, name, "", &chain.logger).expect("it is in order")));
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
