//! Is this record one that we can run?
//!
//! The first twelve bytes (magic, version, size) never move; they decide how much of the rest is read. A record that is
//! shorter than ours comes from an older SDK: what it lacks reads as zero, that is, as absent. The tail of a longer one
//! is not looked at.
#![allow(unsafe_code)]

use std::fmt;

use mini_rproxy_plugin::abi;

/// Why a record is not taken. One variant for each field that can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Another magic number.
    Magic,
    /// Another major version.
    Major {
        /// What the plugin was built for.
        plugin: u16,
    },
    /// A size that does not even hold the two hooks.
    Size {
        /// What it says.
        says: u32,
    },
    /// The plugin cannot do its work with a host as old as this one.
    NeedsMinor {
        /// The oldest minor version that would do.
        minor: u16,
    },
    /// A flag that this version does not know.
    Flags {
        /// The unknown bits.
        unknown: u32,
    },
    /// Reserved fields that are not zero.
    Reserved,
    /// No `create`.
    NoCreate,
    /// Neither `on_request` nor `on_response`.
    NoHooks,
    /// A name that is empty, too long, or not visible ASCII.
    Name,
    /// The same for the version, which may be empty.
    Version,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (abi::ABI_MAJOR, abi::ABI_MINOR);
        match self {
            RecordError::Magic => {
                write!(f, "{} is there, but it is no mini-rproxy plugin (magic differs)", abi::SYMBOL)
            }
            RecordError::Major { plugin } => {
                write!(f, "built for plugin ABI {plugin}, this program speaks {major}; build it again with that SDK")
            }
            RecordError::Size { says } => {
                write!(f, "struct_size is {says}, but a record has at least {} bytes", abi::MIN_PLUGIN_SIZE)
            }
            RecordError::NeedsMinor { minor: needs } => {
                write!(f, "needs plugin ABI {major}.{needs} (min_host_minor), this program has {major}.{minor}")
            }
            RecordError::Flags { unknown } => {
                write!(f, "flags has bits that ABI {major}.{minor} does not know: {unknown:#x}")
            }
            RecordError::Reserved => f.write_str("a reserved field is not 0"),
            RecordError::NoCreate => f.write_str("create is null"),
            RecordError::NoHooks => f.write_str("on_request and on_response are both null"),
            RecordError::Name => f.write_str("name must be 1 to 64 visible ASCII characters"),
            RecordError::Version => f.write_str("version must be at most 64 visible ASCII characters"),
        }
    }
}

impl std::error::Error for RecordError {}

/// The part that never moves.
const PREFIX: usize = 12;

/// Judges the part that never moves; returns how many bytes of the record to read.
fn parse_prefix(prefix: [u8; PREFIX]) -> Result<usize, RecordError> {
    let [m0, m1, m2, m3, v0, v1, _, _, s0, s1, s2, s3] = prefix;
    if u32::from_ne_bytes([m0, m1, m2, m3]) != abi::MAGIC {
        return Err(RecordError::Magic);
    }
    let plugin = u16::from_ne_bytes([v0, v1]);
    if plugin != abi::ABI_MAJOR {
        return Err(RecordError::Major { plugin });
    }
    let says = u32::from_ne_bytes([s0, s1, s2, s3]);
    // No half pointers: only whole words are read.
    let size = (says as usize).min(size_of::<abi::Plugin>()) / size_of::<usize>() * size_of::<usize>();
    if size < abi::MIN_PLUGIN_SIZE { Err(RecordError::Size { says }) } else { Ok(size) }
}

/// Judges everything but the two texts. `bytes` is the record as it lies in memory; it may be shorter or longer than ours.
pub fn parse(bytes: &[u8]) -> Result<abi::Plugin, RecordError> {
    let prefix = bytes.first_chunk::<PREFIX>().ok_or(RecordError::Size { says: bytes.len() as u32 })?;
    let size = parse_prefix(*prefix)?;
    let known = bytes.get(..size).ok_or(RecordError::Size { says: bytes.len() as u32 })?;
    let mut record = std::mem::MaybeUninit::<abi::Plugin>::zeroed();
    // SAFETY: `known` is at most as long as the record, and both are separate memory.
    unsafe { std::ptr::copy_nonoverlapping(known.as_ptr(), record.as_mut_ptr().cast::<u8>(), known.len()) };
    // SAFETY: every byte is set. Integers, pointers and optional functions have no invalid patterns; to call such a
    // function is another matter, for which whoever loads the plugin answers.
    let record = unsafe { record.assume_init() };
    let unknown = record.flags & !abi::KNOWN_FLAGS;
    match () {
        () if record.min_host_minor > abi::ABI_MINOR => Err(RecordError::NeedsMinor { minor: record.min_host_minor }),
        () if unknown != 0 => Err(RecordError::Flags { unknown }),
        () if record.reserved0 != 0 || record.reserved1 != 0 => Err(RecordError::Reserved),
        () if record.create.is_none() => Err(RecordError::NoCreate),
        () if record.on_request.is_none() && record.on_response.is_none() => Err(RecordError::NoHooks),
        () => Ok(record),
    }
}

/// A record that passed all checks, with its texts copied.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Our own copy, zero where the plugin's is shorter.
    pub record: abi::Plugin,
    /// The plugin's name.
    pub name: String,
    /// The plugin's version.
    pub version: String,
}

/// Reads and judges the record at `place`.
///
/// # Safety
/// `place` must be the address of a plugin's record: at least twelve bytes, and as many as it says in `struct_size`,
/// with texts that can be read. All of it must stay for as long as the process runs.
pub unsafe fn read(place: *const u8) -> Result<Checked, RecordError> {
    // SAFETY: twelve bytes are there in any version.
    let size = parse_prefix(unsafe { place.cast::<[u8; PREFIX]>().read_unaligned() })?;
    // SAFETY: the record says that so many are there.
    let record = parse(unsafe { std::slice::from_raw_parts(place, size) })?;
    // SAFETY: the caller answers for the texts.
    let (name, version) = unsafe { (text(record.name), text(record.version)) };
    let name = name.filter(|name| !name.is_empty()).ok_or(RecordError::Name)?;
    Ok(Checked { record, name, version: version.ok_or(RecordError::Version)? })
}

/// # Safety
/// What `text` points to must be readable.
unsafe fn text(text: abi::Str) -> Option<String> {
    const MAX: usize = 64;
    if text.len > MAX {
        return None;
    }
    // SAFETY: the caller answers for it.
    let bytes = unsafe { text.bytes() }?;
    let is_plain = bytes.iter().all(|&byte| byte.is_ascii_graphic() || byte == b' ');
    if is_plain { String::from_utf8(bytes.to_vec()).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::{Error, Logger, Plugin, descriptor};
    use std::mem::offset_of;

    struct Nothing;
    impl Plugin for Nothing {
        const NAME: &'static str = "nothing";
        fn create(_: Logger, _: &[u8]) -> Result<Self, Error> {
            Ok(Nothing)
        }
    }

    fn good() -> abi::Plugin {
        *descriptor::<Nothing>("1.2").raw()
    }

    fn bytes(record: &abi::Plugin) -> Vec<u8> {
        // SAFETY: the record has no padding (see the pinned layout), so every byte is set.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), size_of::<abi::Plugin>()) }
            .to_vec()
    }

    const TOO_SHORT: u32 = abi::MIN_PLUGIN_SIZE as u32 - 1;

    #[test]
    fn each_field_that_differs_has_its_own_error() {
        let change = |change: fn(&mut abi::Plugin)| {
            let mut record = good();
            change(&mut record);
            record
        };
        let rows: &[(&str, abi::Plugin, Result<(), RecordError>)] = &[
            ("good", good(), Ok(())),
            ("magic", change(|r| r.magic ^= 1), Err(RecordError::Magic)),
            ("major + 1", change(|r| r.abi_major += 1), Err(RecordError::Major { plugin: 2 })),
            ("major - 1", change(|r| r.abi_major -= 1), Err(RecordError::Major { plugin: 0 })),
            ("newer minor", change(|r| r.abi_minor = 9), Ok(())),
            ("too short", change(|r| r.struct_size = TOO_SHORT), Err(RecordError::Size { says: TOO_SHORT })),
            ("size 0", change(|r| r.struct_size = 0), Err(RecordError::Size { says: 0 })),
            ("min_host_minor", change(|r| r.min_host_minor = 1), Err(RecordError::NeedsMinor { minor: 1 })),
            ("flags", change(|r| r.flags = 0x83), Err(RecordError::Flags { unknown: 0x80 })),
            ("reserved0", change(|r| r.reserved0 = 1), Err(RecordError::Reserved)),
            ("reserved1", change(|r| r.reserved1 = 1), Err(RecordError::Reserved)),
            ("create", change(|r| r.create = None), Err(RecordError::NoCreate)),
            ("request hook only", change(|r| r.on_response = None), Ok(())),
            (
                "no hooks",
                change(|r| {
                    r.on_request = None;
                    r.on_response = None;
                }),
                Err(RecordError::NoHooks),
            ),
            ("empty name", change(|r| r.name.len = 0), Err(RecordError::Name)),
            ("long name", change(|r| r.name.len = 65), Err(RecordError::Name)),
            ("name with a line break", change(|r| r.name = abi::Str::new(b"a\nb")), Err(RecordError::Name)),
            ("no version", change(|r| r.version = abi::Str::NULL), Ok(())),
            ("odd version", change(|r| r.version = abi::Str::new(b"\x1b[0m")), Err(RecordError::Version)),
        ];
        for (name, record, expected) in rows {
            // SAFETY: a whole record, with texts of static literals.
            let read = unsafe { read(std::ptr::from_ref(record).cast()) }.map(|_| ());
            assert_eq!(read, *expected, "{name}");
        }
    }

    #[test]
    fn an_older_record_lacks_its_tail() {
        let mut record = good();
        record.struct_size = offset_of!(abi::Plugin, on_done) as u32;
        let old = parse(&bytes(&record)[..record.struct_size as usize]).expect("old but good");
        assert!(old.on_response.is_some() && old.on_done.is_none() && old.destroy.is_none());
        // Half a pointer is no pointer.
        record.struct_size += size_of::<usize>() as u32 / 2;
        assert!(parse(&bytes(&record)).expect("old but good").on_done.is_none());
    }

    #[test]
    fn a_newer_record_is_read_as_far_as_it_is_known() {
        let mut record = good();
        record.struct_size += 64;
        let mut newer = bytes(&record);
        newer.extend_from_slice(&[0xff; 64]);
        assert!(parse(&newer).expect("new but good").destroy.is_some());
    }

    #[test]
    fn a_cut_record_is_refused() {
        let whole = bytes(&good());
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "{len}");
        }
    }
}
