//! Stands in for `load` where this program is built without dlopen.

use std::path::{Path, PathBuf};

use super::descriptor::ValidDescriptor;

const NO_DLOPEN: &str = "this program is built without dlopen (statically linked, or without the feature) and cannot load \
                         files; use the dynamic build, or link the plugin in and list it as builtin";

/// Says that no file can be loaded.
pub fn available() -> Result<(), String> {
    Err(NO_DLOPEN.to_owned())
}

/// Refuses the file.
pub fn load(_: &Path) -> Result<ValidDescriptor, String> {
    Err(NO_DLOPEN.to_owned())
}

/// Refuses the file.
pub fn check(_: &Path) -> Result<PathBuf, String> {
    Err(NO_DLOPEN.to_owned())
}
