//! What the C functions of the host table do for one instance of a plugin, in `create` and later from any thread.
//! No `unsafe`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use mini_rproxy_plugin::host::InstanceAccess;
use mini_rproxy_plugin::{HostError, Level};
use serde_json::Value;

use crate::extras::plugin_metrics::{self, PluginMetric};
use crate::log::Logger;
use crate::proxy::tickets;

/// A message of a plugin, which may be any bytes, as text. Longer ones are cut.
pub fn message_text(message: &[u8]) -> Cow<'_, str> {
    const MAX_LEN: usize = 4096;
    String::from_utf8_lossy(message.get(..MAX_LEN).unwrap_or(message))
}

/// So many metrics one plugin may have.
const MAX_METRICS: usize = 64;

/// What there is only while `create` runs.
#[derive(Debug)]
pub struct Creation {
    config: Value,
    /// What the plugin asks for beside the flags of its descriptor.
    pub flags: u32,
    /// The last error that it logged: it is repeated where `create` fails.
    pub last_error: String,
}

/// One instance, from the plugin's point of view. It stays until the process ends.
pub struct PluginContext {
    /// The name of its entry.
    name: String,
    logger: Logger,
    /// `None` after `create`.
    creation: Arc<Mutex<Option<Creation>>>,
    metrics: [OnceLock<&'static PluginMetric>; MAX_METRICS],
}

impl PluginContext {
    /// A context for `create`, which is over when the [`Creation`] is taken out of its place.
    pub fn new(name: &str, config: &str, logger: Logger) -> (PluginContext, Arc<Mutex<Option<Creation>>>) {
        // Anything else is plain text, although some of it could be read as JSON.
        let json = config.starts_with(['{', '[']).then(|| serde_json::from_str(config).ok()).flatten();
        let config = json.unwrap_or_else(|| Value::String(config.to_owned()));
        let creation = Arc::new(Mutex::new(Some(Creation { config, flags: 0, last_error: String::new() })));
        let metrics = [const { OnceLock::new() }; MAX_METRICS];
        (PluginContext { name: name.to_owned(), logger, creation: Arc::clone(&creation), metrics }, creation)
    }

    fn creation(&self) -> MutexGuard<'_, Option<Creation>> {
        self.creation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InstanceAccess for PluginContext {
    fn is_enabled(&self, level: Level) -> bool {
        self.logger.is_enabled(level)
    }

    fn log(&self, level: Level, message: &[u8]) {
        if self.is_enabled(level) {
            let message = message_text(message);
            if level == Level::Error
                && let Some(creation) = &mut *self.creation()
            {
                creation.last_error.replace_range(.., &message);
            }
            self.logger.line(level, &message).text("plugin", &self.name).send();
        }
    }

    fn want(&self, flags: u32) -> Result<(), HostError> {
        self.creation().as_mut().ok_or(HostError::WrongPhase)?.flags |= flags;
        Ok(())
    }

    fn config(&self, pointer: &str) -> Result<&[u8], HostError> {
        let creation = self.creation();
        let config = &creation.as_ref().ok_or(HostError::WrongPhase)?.config;
        match config.pointer(pointer).ok_or(HostError::NotFound)? {
            Value::String(text) => Ok(keep(text).as_bytes()),
            value => Ok(keep(&value.to_string()).as_bytes()),
        }
    }

    fn define_metric(&self, is_gauge: bool, name: &str, help: &str) -> Result<u32, HostError> {
        let creation = self.creation();
        creation.as_ref().ok_or(HostError::WrongPhase)?;
        if self.metrics.iter().all(|place| place.get().is_some()) {
            return Err(HostError::Limit);
        }
        let metric = plugin_metrics::define(&self.name, name, help, is_gauge).ok_or(HostError::Invalid)?;
        // The first free place, or the one that it has already.
        let is_its_place = |place: &OnceLock<_>| std::ptr::eq(*place.get_or_init(|| metric), metric);
        self.metrics.iter().position(is_its_place).map(|place| place as u32).ok_or(HostError::Limit)
    }

    fn resume(&self, ticket: u64, is_good: bool) -> Result<(), HostError> {
        if tickets::resume(ticket, is_good) { Ok(()) } else { Err(HostError::NotFound) }
    }

    fn add_to_metric(&self, metric: u32, delta: i64) -> Result<(), HostError> {
        let place = self.metrics.get(metric as usize).ok_or(HostError::NotFound)?;
        if place.get().ok_or(HostError::NotFound)?.add(delta) { Ok(()) } else { Err(HostError::Invalid) }
    }
}

/// The same text, which stays until the process ends, as names in logs and metrics need it, and as the interface promises of
/// the configuration. What is asked for again, by another instance or after a reload, takes no more memory.
pub fn keep(text: &str) -> &'static str {
    static KEPT: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    let text = kept.get(text).copied().unwrap_or_else(|| Box::leak(text.into()));
    kept.insert(text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    use crate::config::LogFormat;

    fn context(name: &str, config: &str) -> (PluginContext, Arc<Mutex<Option<Creation>>>) {
        PluginContext::new(name, config, Logger::start(LogFormat::Text, io::sink()).expect("a thread"))
    }

    #[test]
    fn the_configuration_is_read_by_json_pointers() {
        let mapping = r#"{"realm":"a \"b\"","users":["x",7],"on":true,"none":null,"a/b":{"c":1.5}}"#;
        for (config, pointer, expected) in [
            (mapping, "/realm", Ok("a \"b\"")),
            (mapping, "/users/0", Ok("x")),
            (mapping, "/users/1", Ok("7")),
            (mapping, "/users", Ok("[\"x\",7]")),
            (mapping, "/on", Ok("true")),
            (mapping, "/none", Ok("null")),
            (mapping, "/a~1b/c", Ok("1.5")),
            (mapping, "/users/2", Err(HostError::NotFound)),
            (mapping, "/users/x", Err(HostError::NotFound)),
            (mapping, "realm", Err(HostError::NotFound)),
            ("[1,2]", "", Ok("[1,2]")),
            ("plain text", "", Ok("plain text")),
            ("plain text", "/plain", Err(HostError::NotFound)),
            ("\"quoted\"", "", Ok("\"quoted\"")),
            ("{no json", "", Ok("{no json")),
            ("", "", Ok("")),
        ] {
            let (context, _) = context("demo", config);
            let found = context.config(pointer).map(|text| String::from_utf8_lossy(text).into_owned());
            assert_eq!(found, expected.map(str::to_owned), "{config} {pointer}");
        }
    }

    #[test]
    fn what_was_read_of_the_configuration_stays_and_is_kept_once() {
        let (first, creation) = context("demo", r#"{"a":"kept for ever"}"#);
        let kept = first.config("/a").expect("it is there");
        drop(creation.lock().expect("whole").take());
        assert_eq!(kept, b"kept for ever");
        let (second, _) = context("demo", r#"{"b":"kept for ever"}"#);
        assert!(std::ptr::eq(second.config("/b").expect("it is there"), kept), "a reload takes no more memory");
    }

    #[test]
    fn what_belongs_into_create_is_refused_afterwards() {
        let (context, creation) = context("late", "text");
        assert_eq!(context.want(1).and(context.want(4)), Ok(()));
        let gauge = context.define_metric(true, "now", "").expect("it is the first");
        assert_eq!(creation.lock().expect("whole").take().map(|creation| creation.flags), Some(5));
        assert_eq!(context.want(2), Err(HostError::WrongPhase));
        assert_eq!(context.config(""), Err(HostError::WrongPhase));
        assert_eq!(context.define_metric(true, "later", ""), Err(HostError::WrongPhase));
        assert_eq!(context.add_to_metric(gauge, -3), Ok(()));
    }

    #[test]
    fn metrics_are_few_and_of_one_kind() {
        let (context, _) = context("of-few", "");
        let counter = context.define_metric(false, "done_total", "What is done.").expect("it is new");
        assert_eq!(context.define_metric(false, "done_total", "Said again."), Ok(counter));
        assert_eq!(context.define_metric(true, "done_total", ""), Err(HostError::Invalid));
        assert_eq!(context.add_to_metric(counter, -1), Err(HostError::Invalid), "a counter only grows");
        assert_eq!(context.add_to_metric(counter + 1, 1), Err(HostError::NotFound));
        assert_eq!(context.add_to_metric(u32::MAX, 1), Err(HostError::NotFound));
        for number in 1..MAX_METRICS {
            assert_eq!(context.define_metric(true, &format!("m{number}"), ""), Ok(number as u32));
        }
        assert_eq!(context.define_metric(true, "one_more", ""), Err(HostError::Limit));
        assert!(!plugin_metrics::all().contains_key("plugin_of_few_one_more"));
    }
}
