//! Loads a plugin file: file and ELF checks, `dlopen`, the symbol, the descriptor checks.
//!
//! A library is never closed again, not even one that is refused: a constructor may have started a thread that runs its
//! code. Files are replaced by renaming a new one into place, never by writing into the mapped one.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::descriptor::ValidDescriptor;
use super::elf;

/// Whether this program can load files at all.
pub fn available() -> Result<(), String> {
    if cfg!(all(feature = "dlopen", not(target_feature = "crt-static"))) {
        return Ok(());
    }
    Err("this program is built without dlopen (statically linked, or without the feature) and cannot load files; use the \
         dynamic build, or link the plugin in and list it as builtin"
        .to_owned())
}

/// Which file it is, and when it was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds: only ever compared.
    modified: (i64, i64),
}

/// A shared object that [`check`] has found good: its path without links, and which file that is.
pub type CheckedFile = (PathBuf, FileStamp);

/// What was loaded, and by which name. It is never unloaded, so no other file gets such an inode.
static LOADED: Mutex<Vec<CheckedFile>> = Mutex::new(Vec::new());

/// Loads a shared object and checks its descriptor. Constructors of the library run; `create` does not.
pub fn load((path, stamp): CheckedFile) -> Result<ValidDescriptor, String> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let versions: Vec<_> = loaded.iter().filter(|(known, _)| *known == path).map(|(_, stamp)| *stamp).collect();
    let version = versions.iter().position(|known| *known == stamp).unwrap_or_else(|| {
        loaded.push((path.clone(), stamp));
        versions.len()
    });
    drop(loaded);
    open(&spelled(&path, version))
}

/// The same path, for each version of the file in another way: the dynamic loader would not look at a file again that it
/// knows by that name.
fn spelled(path: &Path, version: usize) -> PathBuf {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    if version == 0 {
        return path.to_owned();
    }
    let mut spelled = dir.as_os_str().to_owned();
    spelled.push("/");
    format!("{version:b}").chars().for_each(|bit| spelled.push(if bit == '1' { "./" } else { "/" }));
    spelled.push(name);
    spelled.into()
}

#[cfg(not(all(feature = "dlopen", not(target_feature = "crt-static"))))]
fn open(_: &Path) -> Result<ValidDescriptor, String> {
    unreachable!("the check fails: see `available`")
}

#[cfg(all(feature = "dlopen", not(target_feature = "crt-static")))]
fn open(path: &Path) -> Result<ValidDescriptor, String> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    use mini_rproxy_plugin::abi;
    use std::error::Error;

    // SAFETY: initialisers of the library run. That is what loading native plugins means: they are trusted code.
    // RTLD_NOW: missing symbols show now, not in the middle of a request. RTLD_LOCAL: plugins do not see each other.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
        // The dynamic loader's own message is the cause.
        let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        format!("the dynamic loader refused it: {message}")
    })?;
    let library = std::mem::ManuallyDrop::new(library);
    // SAFETY: the symbol is used as an address only.
    let address = unsafe { library.get::<*const u8>(abi::SYMBOL.as_bytes()) }.map(|symbol| symbol.as_raw_ptr());
    let address = address.ok().filter(|address| !address.is_null());
    let address = address.ok_or_else(|| format!("it exports no symbol {}: not a mini-rproxy plugin", abi::SYMBOL))?;
    // SAFETY: a library that exports this symbol has a descriptor there, and it is never unloaded.
    unsafe { super::descriptor::read(address.cast_const().cast()) }
}

/// Checks everything that can be known about the file before it is mapped.
pub fn check(path: &Path) -> Result<CheckedFile, String> {
    available()?;
    let unreadable = |error: io::Error| format!("cannot read it: {error}; correct its path, or its permissions");
    // dlopen searches the library path for names without a slash, so it gets an absolute one. Links are resolved, so that
    // the file that is checked is the file that is loaded.
    let path = fs::canonicalize(path).map_err(unreadable)?;
    let metadata = fs::metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut start = Vec::new();
    let file = File::open(&path).map_err(unreadable)?;
    file.take(64 * 1024).read_to_end(&mut start).map_err(unreadable)?;
    elf::check(&start, metadata.len())?;
    let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.len());
    let stamp = FileStamp { device, inode, size, modified: (metadata.mtime(), metadata.mtime_nsec()) };
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_overwritten = |(_, old): &CheckedFile| (old.device, old.inode) == (device, inode) && *old != stamp;
    if loaded.iter().any(is_overwritten) {
        return Err(
            "the file was overwritten while it is in use: replace it by renaming, that is, write the new one under \
                    another name (cp new.so x.so.new) and rename that (mv x.so.new x.so)"
                .to_owned(),
        );
    }
    Ok((path, stamp))
}
