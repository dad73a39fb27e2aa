//! From the list in the configuration to plugins that are created: finds, checks and loads them; and destroys them.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;

use mini_rproxy_plugin::host::Context;
use mini_rproxy_plugin::{Descriptor, abi};

use super::builtin;
use super::context::PluginContext;
use super::descriptor::{self, ValidDescriptor};
use super::host::TABLE;
use super::load;
use crate::config::PluginConfig;
use crate::log::{Level, Logger};
use crate::start_error::StartError;

fn plugin_error(source: impl Display, reason: String) -> StartError {
    StartError::about(source.to_string(), format!("plugin {source}: {reason}"))
}

/// One plugin, created. Dropping it destroys it: whoever has it last is no thread that serves requests.
#[derive(Debug)]
pub struct Instance {
    /// The plugin's name.
    pub name: &'static str,
    /// Its functions and flags.
    pub raw: abi::Plugin,
    /// What `create` gave; may be null.
    pub this: *mut c_void,
    /// How often a hook of it took too long.
    pub slow: AtomicU32,
}

// SAFETY: `this` is only ever passed to the plugin's own functions, and the interface demands that these may run on
// several threads at the same time.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Instance {
    /// Loads a file and creates the plugin.
    pub fn from_file(path: &Path, config: &str, logger: &Logger) -> Result<Instance, StartError> {
        let created = load::load(path).and_then(|descriptor| Instance::create(&descriptor, config, logger));
        created.map_err(|reason| plugin_error(path.display(), reason))
    }

    /// Creates a plugin by its descriptor.
    pub fn linked_in(descriptor: &'static Descriptor, config: &str, logger: &Logger) -> Result<Instance, StartError> {
        // SAFETY: a `Descriptor` is complete, and a static one stays.
        let valid = unsafe { descriptor::read(std::ptr::from_ref(descriptor.raw()).cast()) };
        let created = valid.and_then(|valid| Instance::create(&valid, config, logger));
        created.map_err(|reason| plugin_error(descriptor.name(), reason))
    }

    /// Creates a plugin whose descriptor was checked.
    pub(super) fn create(descriptor: &ValidDescriptor, config: &str, logger: &Logger) -> Result<Instance, String> {
        let ValidDescriptor { mut raw, name, version } = *descriptor;
        let create = raw.create.ok_or("create is null")?;
        let (context, creation) = PluginContext::new(name, config, logger.clone());
        let ctx = Context::new(Box::new(context)).as_ctx();
        let mut this = std::ptr::null_mut();
        // SAFETY: the descriptor was checked, so `create` is the plugin's function of this type. Table and context stay
        // until the process ends; configuration and result outlive the call.
        let status = unsafe { create(&raw const TABLE, ctx, abi::Str::new(config.as_bytes()), &raw mut this) };
        let creation = creation.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (wanted, message) = creation.map(|creation| (creation.flags, creation.last_error)).unwrap_or_default();
        if status != abi::OK {
            // One line, whatever it logged.
            let message = message.trim_start_matches("create: ").replace(char::is_control, " ");
            let reason = if message.is_empty() { "the plugin did not log why" } else { &message };
            return Err(format!("create failed with status {status}: {reason}"));
        }
        raw.flags |= wanted;
        log_about(logger, Level::Info, name, &format!("loaded, version {version}"));
        Ok(Instance { name, raw, this, slow: AtomicU32::new(0) })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(destroy) = self.raw.destroy {
            // SAFETY: what `create` gave, destroyed once: nobody else has it any more.
            unsafe { destroy(self.this) }
        }
    }
}

fn log_about(logger: &Logger, level: Level, plugin: &str, message: &str) {
    logger.line(level, message).text("plugin", plugin).send();
}

/// Loads and creates all plugins: first the `plugins:` list in its order, then the `*.so` files of `dir` in the order of
/// their names.
///
/// What was loaded, and what was skipped and why, is logged. An error stops the start: a required plugin of the list, a
/// folder that cannot be read, or any file where this binary cannot load files.
pub fn load(list: &[PluginConfig], dir: Option<&Path>, logger: &Logger) -> Result<Vec<Instance>, StartError> {
    let (all, mut instances) = (with_files(list, dir)?, Vec::new());
    for plugin in &all {
        let created = match &plugin.path {
            Some(path) => Instance::from_file(path, &plugin.config, logger),
            None => builtin::find(&source(plugin))
                .map_err(|reason| plugin_error(source(plugin), reason))
                .and_then(|found| Instance::linked_in(found, &plugin.config, logger)),
        };
        match created {
            Ok(instance) => instances.push(instance),
            Err(error) if plugin.required => return Err(error),
            Err(error) => {
                let message = format!("skipped, since it is not required: {error}");
                log_about(logger, Level::Error, &source(plugin), &message);
            }
        }
    }
    if dir.is_some() {
        let message = format!("{} of {} plugins loaded", instances.len(), all.len());
        logger.line(Level::Info, &message).send();
    }
    Ok(instances)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use mini_rproxy_plugin::{Error, Plugin, Setup};

    struct Nothing;
    impl Plugin for Nothing {
        const NAME: &'static str = "nothing";
        fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
            Ok(Nothing)
        }
    }

    #[test]
    fn a_create_that_fails_without_a_message_is_reported_as_such() {
        unsafe extern "C" fn refuse(_: *const abi::Host, _: *mut abi::Ctx, _: abi::Str, _: *mut *mut c_void) -> i32 {
            abi::INVALID
        }
        let logger = Logger::start(LogFormat::Text, io::sink()).expect("a thread");
        let raw = abi::Plugin { create: Some(refuse), ..*mini_rproxy_plugin::descriptor::<Nothing>("1").raw() };
        let result = Instance::create(&ValidDescriptor { raw, name: "silent", version: "1" }, "", &logger);
        assert_eq!(result.err(), Some("create failed with status -1: the plugin did not log why".to_owned()));
    }
}
