//! From the list in the configuration to plugins that are created: finds, checks and loads them, keeps those that a reload
//! does not change, and destroys those that nobody uses any more.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use mini_rproxy_plugin::host::Context;
use mini_rproxy_plugin::{Descriptor, abi};

use super::builtin;
use super::context::{PluginContext, keep};
use super::descriptor::{self, ValidDescriptor};
use super::host::TABLE;
use super::load::{self, FileStamp};
use crate::config::PluginConfig;
use crate::log::{Level, Logger};
use crate::start_error::StartError;

/// One plugin, created. When nobody has it any more, it is destroyed.
#[derive(Debug)]
pub struct Instance {
    /// The name of its entry.
    pub name: &'static str,
    /// Its functions and flags.
    pub raw: abi::Plugin,
    /// What `create` gave; may be null.
    pub this: *mut c_void,
    /// How often a hook of it took too long.
    pub slow: AtomicU32,
    /// To the thread that destroys it; `None`: the thread that has it last does.
    destroyer: Option<Sender<Option<Retired>>>,
}

// SAFETY: `this` is only ever passed to the plugin's own functions, and the interface demands that these may run on
// several threads at the same time.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Instance {
    /// Creates a plugin by its descriptor.
    pub fn linked_in(descriptor: &'static Descriptor, config: &str, logger: &Logger) -> Result<Instance, String> {
        let valid = descriptor::check(descriptor)?;
        Instance::create(&valid, valid.name, config, logger)
    }

    /// Creates a plugin whose descriptor was checked.
    pub(super) fn create(
        descriptor: &ValidDescriptor,
        name: &'static str,
        config: &str,
        logger: &Logger,
    ) -> Result<Instance, String> {
        let ValidDescriptor { mut raw, version, .. } = *descriptor;
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
        Ok(Instance { name, raw, this, slow: AtomicU32::new(0), destroyer: None })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let retired = Some(Retired { name: self.name, destroy: self.raw.destroy, this: self.this });
        let unsent = match &self.destroyer {
            // It fails where the thread has ended.
            Some(destroyer) => destroyer.send(retired).map_or_else(|unsent| unsent.0, |()| None),
            None => retired,
        };
        if let Some(retired) = unsent {
            retired.destroy();
        }
    }
}

/// What is left of an instance that no exchange has any more.
#[derive(Debug)]
struct Retired {
    name: &'static str,
    destroy: Option<unsafe extern "C" fn(*mut c_void)>,
    this: *mut c_void,
}

// SAFETY: the interface lets `destroy` run on any thread that serves no requests.
unsafe impl Send for Retired {}

impl Retired {
    fn destroy(self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: what `create` gave, and nobody else has it any more.
            unsafe { destroy(self.this) }
        }
    }
}

/// The process does not wait longer for plugins that take their time over the end.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(5);

/// The thread that destroys: a plugin may take its time over it. Dropping this ends it, when all that was sent is destroyed.
#[derive(Debug)]
struct Destroyer {
    sender: Sender<Option<Retired>>,
    /// Tells when the thread has ended: then nobody can send any more.
    ended: Receiver<()>,
    logger: Logger,
}

impl Destroyer {
    fn start(logger: Logger) -> io::Result<Destroyer> {
        let (sender, retired): (_, Receiver<Option<Retired>>) = channel();
        let (alive, ended) = channel();
        let thread_log = logger.clone();
        let destroy_all = move || {
            let _alive = alive;
            while let Ok(Some(retired)) = retired.recv() {
                let name = retired.name;
                retired.destroy();
                log_about(&thread_log, Level::Info, name, "destroyed");
            }
        };
        thread::Builder::new().name("plugins".to_owned()).spawn(destroy_all)?;
        Ok(Destroyer { sender, ended, logger })
    }
}

impl Drop for Destroyer {
    fn drop(&mut self) {
        // It fails where a plugin has ended the thread: then there is nothing to wait for.
        let _ = self.sender.send(None);
        if self.ended.recv_timeout(DESTROY_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            self.logger.line(Level::Warn, "not waiting any longer for a plugin that is being destroyed").send();
        }
    }
}

/// All plugins of a configuration, in its order.
#[derive(Debug)]
pub struct Plugins {
    entries: Vec<PluginEntry>,
    logger: Logger,
    /// Dropped behind the instances.
    destroyer: Option<Rc<Destroyer>>,
}

/// An entry of the list, and what was made of it.
#[derive(Debug)]
struct PluginEntry {
    config: PluginConfig,
    /// `None` for one that is built in.
    file: Option<FileStamp>,
    /// `None` where it is not required and could not be loaded.
    instance: Option<Arc<Instance>>,
}

impl Plugins {
    /// None.
    pub fn none(logger: Logger) -> Plugins {
        Plugins { entries: Vec::new(), logger, destroyer: None }
    }

    /// The plugins of `list`: of what has not changed, the instances that are there already; all others are loaded and
    /// created. What was loaded, and what was skipped and why, is logged.
    ///
    /// # Errors
    /// A required plugin cannot be loaded, or one that is not required and that runs now. Nothing has changed then.
    pub fn reload(&self, list: &[PluginConfig]) -> Result<Plugins, StartError> {
        let mut destroyer = self.destroyer.clone();
        if destroyer.is_none() && !list.is_empty() {
            destroyer = Some(Rc::new(Destroyer::start(self.logger.clone())?));
        }
        let mut new = Plugins { entries: Vec::with_capacity(list.len()), logger: self.logger.clone(), destroyer };
        for config in list {
            let before = self.entry(&config.name);
            let entry = new.load(config, before).or_else(|reason| {
                let error = entry_error(config, reason);
                if config.required || before.is_some_and(|before| before.instance.is_some()) {
                    return Err(error);
                }
                let message = format!("skipped, since it is not required: {error}");
                log_about(&self.logger, Level::Error, &config.name, &message);
                Ok(PluginEntry { config: config.clone(), file: None, instance: None })
            })?;
            new.entries.push(entry);
        }
        if list.iter().any(|config| !config.required) {
            let loaded = new.entries.iter().filter(|entry| entry.instance.is_some()).count();
            self.logger.line(Level::Info, format_args!("{loaded} of {} plugins loaded", list.len())).send();
        }
        Ok(new)
    }

    /// One plugin, as it was `before` where nothing of it has changed.
    fn load(&self, config: &PluginConfig, before: Option<&PluginEntry>) -> Result<PluginEntry, String> {
        let checked = config.path.as_deref().map(load::check).transpose()?;
        let file = checked.as_ref().map(|(_, stamp)| *stamp);
        let is_same = |before: &&PluginEntry| {
            let PluginConfig { path, builtin, config: told, .. } = &before.config;
            (path, builtin, told, &before.file) == (&config.path, &config.builtin, &config.config, &file)
        };
        if let Some(instance) = before.filter(is_same).and_then(|before| before.instance.clone()) {
            return Ok(PluginEntry { config: config.clone(), file, instance: Some(instance) });
        }
        let descriptor = match checked {
            Some(checked) => load::load(checked)?,
            None => descriptor::check(builtin::find(&config.source())?)?,
        };
        let mut instance = Instance::create(&descriptor, keep(&config.name), &config.config, &self.logger)?;
        instance.destroyer = self.destroyer.as_ref().map(|destroyer| destroyer.sender.clone());
        Ok(PluginEntry { config: config.clone(), file, instance: Some(Arc::new(instance)) })
    }

    fn entry(&self, name: &str) -> Option<&PluginEntry> {
        self.entries.iter().find(|entry| entry.config.name == name)
    }

    /// The plugin of that name, if it was loaded.
    pub fn get(&self, name: &str) -> Option<&Arc<Instance>> {
        self.entry(name)?.instance.as_ref()
    }

    /// What has changed since `old`, in the log.
    pub fn log_changes(&self, old: &Plugins) {
        let log = |change, name: &str| log_about(&self.logger, Level::Info, name, change);
        for PluginEntry { config, instance, .. } in &self.entries {
            match (old.get(&config.name), instance) {
                (None, Some(_)) => log("reload: plugin added", &config.name),
                (Some(old), Some(new)) if !Arc::ptr_eq(old, new) => log("reload: plugin replaced", &config.name),
                _ => {}
            }
        }
        for gone in old.entries.iter().filter(|old| old.instance.is_some() && self.get(&old.config.name).is_none()) {
            log("reload: plugin removed", &gone.config.name);
        }
    }
}

/// The other way round than they were created.
impl Drop for Plugins {
    fn drop(&mut self) {
        while self.entries.pop().is_some() {}
    }
}

/// Whether what [`Plugins::reload`] needs is there. Nothing is loaded and no code of a plugin runs, so this cannot tell what
/// `create` will say.
pub fn check(list: &[PluginConfig]) -> Result<(), StartError> {
    list.iter().filter(|plugin| plugin.required).try_for_each(|plugin| {
        let found = match &plugin.path {
            Some(path) => load::check(path).map(drop),
            None => builtin::find(&plugin.source()).map(drop),
        };
        found.map_err(|reason| entry_error(plugin, reason))
    })
}

/// The `*.so` files of a folder in the order of their names.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let files = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>();
    let unreadable = |error| format!("cannot be read: {error}; make it, or name another with -plugindir DIR");
    let files = load::available().and_then(|()| files().map_err(unreadable));
    let mut files = files.map_err(|reason| format!("plugin folder {}: {reason}", dir.display()))?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "so"));
    files.sort();
    Ok(files)
}

fn entry_error(plugin: &PluginConfig, reason: String) -> StartError {
    let (name, source) = (&plugin.name, plugin.source());
    // Several may come from one file.
    let is_told = Path::new(&source).file_stem().is_some_and(|stem| stem == name.as_str());
    let what = if is_told { source.clone() } else { format!("{name} ({source})") };
    StartError::about(source, format!("plugin {what}: {reason}"))
}

pub(super) fn log_about(logger: &Logger, level: Level, plugin: &str, message: &str) {
    logger.line(level, message).text("plugin", plugin).send();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn a_create_that_fails_without_a_message_is_reported_as_such() {
        unsafe extern "C" fn refuse(_: *const abi::Host, _: *mut abi::Ctx, _: abi::Str, _: *mut *mut c_void) -> i32 {
            abi::INVALID
        }
        let logger = Logger::start(LogFormat::Text, io::sink()).expect("a thread");
        let raw = abi::Plugin { create: Some(refuse), ..crate::plugin::idle_descriptor() };
        let result = Instance::create(&ValidDescriptor { raw, name: "silent", version: "1" }, "silent", "", &logger);
        assert_eq!(result.err(), Some("create failed with status -1: the plugin did not log why".to_owned()));
    }
}
