//! From a path to a record: file checks, the ELF check, `dlopen`, the symbol, the record checks.
//!
//! A library is never closed again, also where it is refused: from the moment it is mapped, a constructor may have started
//! a thread that runs its code.
//! Files are replaced by renaming a new one into place, never by writing into a mapped one.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use mini_rproxy_plugin::abi;

use super::elf::{ElfError, HEADER_LEN, Header, Kind};
use super::record::{self, Checked, RecordError};

/// Why a file gave no plugin.
#[derive(Debug)]
pub enum LoadError {
    /// The file is missing or cannot be read.
    Read(io::Error),
    /// A folder, a device, a socket.
    NotAFile,
    /// Not a whole shared object for this machine.
    Elf(ElfError),
    /// The dynamic loader's own words: an unresolved symbol, a missing library.
    Open(String),
    /// A shared object, but not a plugin.
    NoSymbol,
    /// A plugin, but not one for us.
    Record(RecordError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Read(error) => write!(f, "cannot read it: {error}; correct its path, or its permissions"),
            LoadError::NotAFile => f.write_str("not a regular file"),
            LoadError::Elf(error) => error.fmt(f),
            LoadError::Open(text) => write!(f, "the dynamic loader refused it: {text}"),
            LoadError::NoSymbol => write!(f, "it exports no symbol {}: not a mini-rproxy plugin", abi::SYMBOL),
            LoadError::Record(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {}

/// Loads the shared object at `path` and checks its record. Code of the plugin runs already here, where it has
/// constructors; `create` is left to the chain.
pub fn load(path: &Path) -> Result<Checked, LoadError> {
    let path = check(path)?;
    // SAFETY: initialisers of the library run. That is what loading native plugins means: they are trusted code.
    // RTLD_NOW: what is missing shows now, not in the middle of a request. RTLD_LOCAL: plugins do not see each other.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = ManuallyDrop::new(library.map_err(|error| LoadError::Open(text(&error)))?);
    // SAFETY: the symbol is used as an address only.
    let place: Option<*const u8> =
        unsafe { library.get::<*const u8>(abi::SYMBOL.as_bytes()) }.ok().map(|s| s.as_raw_ptr().cast_const().cast());
    let place = place.filter(|place| !place.is_null()).ok_or(LoadError::NoSymbol)?;
    // SAFETY: a library that exports this symbol says with it that a record stands there, and it is never unloaded.
    unsafe { record::read(place) }.map_err(LoadError::Record)
}

/// Everything that can be found out about the file before it is mapped; gives what [`load`] opens.
pub fn check(path: &Path) -> Result<PathBuf, LoadError> {
    // dlopen searches the library path for names without a slash, so it gets an absolute one; links are resolved, so
    // that a later turn of a link cannot matter.
    let path = fs::canonicalize(path).map_err(LoadError::Read)?;
    check_file(&path)?;
    Ok(path)
}

/// What the dynamic loader says lies in the error's cause.
fn text(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

fn check_file(path: &Path) -> Result<(), LoadError> {
    let metadata = fs::metadata(path).map_err(LoadError::Read)?;
    if !metadata.is_file() {
        return Err(LoadError::NotAFile);
    }
    let mut file = File::open(path).map_err(LoadError::Read)?;
    let mut start = Vec::with_capacity(HEADER_LEN);
    file.by_ref().take(HEADER_LEN as u64).read_to_end(&mut start).map_err(LoadError::Read)?;
    let header = Header::parse(&start, Kind::own()).map_err(LoadError::Elf)?;
    let needs = header.table_at.saturating_add(header.table_len() as u64);
    if needs > metadata.len() {
        return Err(LoadError::Elf(ElfError::Truncated { needs, has: metadata.len() }));
    }
    let mut table = Vec::new();
    file.seek(SeekFrom::Start(header.table_at)).map_err(LoadError::Read)?;
    file.take(header.table_len() as u64).read_to_end(&mut table).map_err(LoadError::Read)?;
    header.check_segments(&table, metadata.len()).map_err(LoadError::Elf)
}
