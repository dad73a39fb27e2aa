//! Floor 3: native plugins. Loads them, checks what can be checked before their code runs, and calls their hooks.
//!
//! | file | one job |
//! |---|---|
//! | [`elf`] | is this file a whole shared object for this machine? Asked before `dlopen`, which would crash or lie |
//! | [`record`] | is this record one that we can run? Magic, versions, sizes, flags |
//! | [`load`] | from a path to a record (feature `dlopen`) |
//! | [`builtin`] | records that were linked in (feature `builtin-plugins`) |
//! | [`host`] | what the C functions of the host table act upon |
//! | [`chain`] | creates the plugins, calls them in order, contains their failures |
//!
//! The C functions themselves, with their checks, are in the SDK (`mini_rproxy_plugin::host`): its in-memory host for
//! unit tests uses the same ones.
//!
//! Nothing here knows the event loop. Plugins are trusted code in our own process; what is contained is their mistakes.
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod elf;
pub mod record;
#[cfg(all(feature = "dlopen", not(target_feature = "crt-static")))]
pub mod load;
pub mod builtin;
pub mod host;
pub mod chain;

pub use mini_rproxy_plugin::Level;

use crate::log::{self, Logger};

/// Where the messages of plugins, and ours about them, go.
pub trait Sink: Send + Sync {
    /// Whether a message of that level would be written.
    fn is_enabled(&self, level: Level) -> bool;
    /// Writes a message. What a plugin says may hold any characters, line breaks too.
    fn log(&self, level: Level, plugin: &str, message: &str);
}

impl Sink for Logger {
    fn is_enabled(&self, level: Level) -> bool {
        self.is_enabled(line_level(level))
    }

    fn log(&self, level: Level, plugin: &str, message: &str) {
        let mut line = self.line(line_level(level), message);
        if !plugin.is_empty() {
            line.text("plugin", plugin);
        }
        line.send();
    }
}

/// The log's own level.
fn line_level(level: Level) -> log::Level {
    match level {
        Level::Error => log::Level::Error,
        Level::Warn => log::Level::Warn,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
    }
}
