//! Layer 3: native plugins. Loads them, checks what can be checked before their code runs, and calls their hooks.
//!
//! | file | one job |
//! |---|---|
//! | [`elf`] | checks that a file is a whole shared object for this machine, before `dlopen` |
//! | [`descriptor`] | checks magic, versions, sizes and flags of a plugin's descriptor |
//! | [`load`] | from a path to a descriptor (feature `dlopen`) |
//! | [`builtin`] | descriptors that were linked in (feature `builtin-plugins`) |
//! | [`context`] | what the host does for one instance: log, configuration, metrics |
//! | [`host`] | what the C functions of the host table act upon |
//! | [`instances`] | from the configured list to plugins that are created; destroys them |
//! | [`chain`] | calls them in order, contains their failures |
//!
//! The C functions themselves, with their checks, are in the SDK (`mini_rproxy_plugin::host`), because its in-memory host
//! for unit tests uses the same ones. Plugins are trusted code in our own process; only their mistakes are contained.
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod elf;
pub mod descriptor;
pub mod load;
pub mod builtin;
pub mod context;
pub mod host;
pub mod instances;
pub mod chain;

/// The descriptor of a plugin that does nothing.
#[cfg(test)]
fn idle_descriptor() -> mini_rproxy_plugin::abi::Plugin {
    use mini_rproxy_plugin::{Error, Plugin, Setup};

    struct Nothing;
    impl Plugin for Nothing {
        const NAME: &'static str = "nothing";
        fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
            Ok(Nothing)
        }
    }
    *mini_rproxy_plugin::descriptor::<Nothing>("1.2").raw()
}
