//! Checks a plugin's descriptor before any of its functions is called.
//!
//! The first twelve bytes (magic, version, size) never move; they decide how much of the rest is read. A descriptor that is
//! shorter than ours comes from an older SDK: what it lacks reads as zero, that is, as absent. What a longer one has at its
//! end is not read.
#![allow(unsafe_code)]

use mini_rproxy_plugin::{Descriptor, abi};

/// The part that never moves.
const PREFIX: usize = 12;

/// A descriptor that passed all checks.
#[derive(Clone, Copy, Debug)]
pub struct ValidDescriptor {
    /// Our own copy, zero where the plugin's is shorter.
    pub raw: abi::Plugin,
    /// The plugin's name.
    pub name: &'static str,
    /// The plugin's version.
    pub version: &'static str,
}

/// Checks the part that never moves; returns how many bytes of the descriptor to read.
fn check_prefix(prefix: [u8; PREFIX]) -> Result<usize, String> {
    let [m0, m1, m2, m3, v0, v1, _, _, s0, s1, s2, s3] = prefix;
    if u32::from_ne_bytes([m0, m1, m2, m3]) != abi::MAGIC {
        return Err(format!("{} is there, but it is no mini-rproxy plugin (magic differs)", abi::SYMBOL));
    }
    let (major, ours) = (u16::from_ne_bytes([v0, v1]), abi::ABI_MAJOR);
    if major != ours {
        return Err(format!("built for plugin ABI {major}, this program speaks {ours}; build it again with that SDK"));
    }
    let says = u32::from_ne_bytes([s0, s1, s2, s3]) as usize;
    // Half a pointer is not read.
    let size = says.min(size_of::<abi::Plugin>()) / size_of::<usize>() * size_of::<usize>();
    if size < abi::MIN_PLUGIN_SIZE { Err(wrong_size(says)) } else { Ok(size) }
}

fn wrong_size(says: usize) -> String {
    format!("struct_size is {says}, but a descriptor has at least {} bytes", abi::MIN_PLUGIN_SIZE)
}

/// Checks everything but the two texts. `bytes` is the descriptor as it lies in memory, which may be shorter or longer than
/// ours.
pub fn parse(bytes: &[u8]) -> Result<abi::Plugin, String> {
    let prefix = bytes.first_chunk::<PREFIX>().ok_or_else(|| wrong_size(bytes.len()))?;
    let known = bytes.get(..check_prefix(*prefix)?).ok_or_else(|| wrong_size(bytes.len()))?;
    let mut raw = std::mem::MaybeUninit::<abi::Plugin>::zeroed();
    // SAFETY: `known` is at most as long as the struct, and both are separate memory.
    unsafe { std::ptr::copy_nonoverlapping(known.as_ptr(), raw.as_mut_ptr().cast::<u8>(), known.len()) };
    // SAFETY: every byte is set. Integers, pointers and optional functions have no invalid patterns; whether such a
    // function can be called is for the caller to know.
    let raw = unsafe { raw.assume_init() };
    let (major, minor) = (abi::ABI_MAJOR, abi::ABI_MINOR);
    let unknown = raw.flags & !abi::KNOWN_FLAGS;
    if raw.min_host_minor > minor {
        let needs = raw.min_host_minor;
        Err(format!("needs plugin ABI {major}.{needs} (min_host_minor), this program has {major}.{minor}"))
    } else if unknown != 0 {
        Err(format!("flags has bits that ABI {major}.{minor} does not know: {unknown:#x}"))
    } else if raw.reserved0 != 0 || raw.reserved1 != 0 {
        Err("a reserved field is not 0".to_owned())
    } else if raw.create.is_none() {
        Err("create is null".to_owned())
    } else if raw.on_request.is_none() && raw.on_response.is_none() && raw.on_done.is_none() {
        Err("on_request, on_response and on_done are all null".to_owned())
    } else {
        Ok(raw)
    }
}

/// Checks the descriptor of a plugin that is linked in.
pub fn check(descriptor: &'static Descriptor) -> Result<ValidDescriptor, String> {
    // SAFETY: a `Descriptor` is complete, and a static one stays.
    unsafe { read(std::ptr::from_ref(descriptor.raw()).cast()) }
}

/// Reads and checks the descriptor at `address`.
///
/// # Safety
/// `address` must be that of a plugin's descriptor: at least twelve bytes, and as many as it says in `struct_size`, with
/// texts that can be read. All of it must stay as it is for as long as the process runs.
pub unsafe fn read(address: *const u8) -> Result<ValidDescriptor, String> {
    // SAFETY: twelve bytes are there in any version.
    let size = check_prefix(unsafe { address.cast::<[u8; PREFIX]>().read_unaligned() })?;
    // SAFETY: the descriptor says that so many are there.
    let raw = parse(unsafe { std::slice::from_raw_parts(address, size) })?;
    // SAFETY: the caller guarantees that the texts can be read and stay.
    let (name, version) = unsafe { (text(raw.name), text(raw.version)) };
    let name = name.filter(|name| !name.is_empty()).ok_or("name must be 1 to 64 visible ASCII characters")?;
    let version = version.ok_or("version must be at most 64 visible ASCII characters")?;
    Ok(ValidDescriptor { raw, name, version })
}

/// # Safety
/// What `text` points to must be readable and never change.
unsafe fn text(text: abi::Str) -> Option<&'static str> {
    const MAX_LEN: usize = 64;
    if text.len > MAX_LEN {
        return None;
    }
    // SAFETY: by the contract of this function.
    let bytes = unsafe { text.bytes() }?;
    let is_visible = bytes.iter().all(|&byte| byte.is_ascii_graphic() || byte == b' ');
    if is_visible { std::str::from_utf8(bytes).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::idle_descriptor as good;
    use std::mem::offset_of;

    fn bytes(descriptor: &abi::Plugin) -> Vec<u8> {
        // SAFETY: the descriptor has no padding (see the pinned layout), so every byte is set.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(descriptor).cast::<u8>(), size_of::<abi::Plugin>()) }
            .to_vec()
    }

    const TOO_SHORT: u32 = abi::MIN_PLUGIN_SIZE as u32 - 1;

    #[test]
    fn each_field_that_differs_has_its_own_message() {
        let change = |change: fn(&mut abi::Plugin)| {
            let mut descriptor = good();
            change(&mut descriptor);
            descriptor
        };
        let rows: &[(&str, abi::Plugin, &str)] = &[
            ("good", good(), ""),
            ("magic", change(|r| r.magic ^= 1), "magic differs"),
            ("major + 1", change(|r| r.abi_major += 1), "built for plugin ABI 2"),
            ("major - 1", change(|r| r.abi_major -= 1), "built for plugin ABI 0"),
            ("newer minor", change(|r| r.abi_minor = 9), ""),
            ("too short", change(|r| r.struct_size = TOO_SHORT), "struct_size is "),
            ("size 0", change(|r| r.struct_size = 0), "struct_size is 0"),
            ("min_host_minor", change(|r| r.min_host_minor = 1), "needs plugin ABI 1.1"),
            ("flags", change(|r| r.flags = 0x83), "does not know: 0x80"),
            ("reserved0", change(|r| r.reserved0 = 1), "a reserved field"),
            ("reserved1", change(|r| r.reserved1 = 1), "a reserved field"),
            ("create", change(|r| r.create = None), "create is null"),
            ("request hook only", change(|r| r.on_response = None), ""),
            (
                "no hooks",
                change(|r| {
                    r.on_request = None;
                    r.on_response = None;
                    r.on_done = None;
                }),
                "all null",
            ),
            ("empty name", change(|r| r.name.len = 0), "name must be"),
            ("long name", change(|r| r.name.len = 65), "name must be"),
            ("name with a line break", change(|r| r.name = abi::Str::new(b"a\nb")), "name must be"),
            ("no version", change(|r| r.version = abi::Str::NULL), ""),
            ("odd version", change(|r| r.version = abi::Str::new(b"\x1b[0m")), "version must be"),
        ];
        for (name, descriptor, expected) in rows {
            // SAFETY: a whole descriptor, with texts of static literals.
            let message = unsafe { read(std::ptr::from_ref(descriptor).cast()) }.err().unwrap_or_default();
            assert!(message.contains(expected) && message.is_empty() == expected.is_empty(), "{name}: {message}");
        }
    }

    #[test]
    fn an_older_descriptor_lacks_its_tail() {
        let mut descriptor = good();
        descriptor.struct_size = offset_of!(abi::Plugin, on_done) as u32;
        let old = parse(&bytes(&descriptor)[..descriptor.struct_size as usize]).expect("old but good");
        assert!(old.on_response.is_some() && old.on_done.is_none() && old.destroy.is_none());
        // Half a pointer is no pointer.
        descriptor.struct_size += size_of::<usize>() as u32 / 2;
        assert!(parse(&bytes(&descriptor)).expect("old but good").on_done.is_none());
    }

    #[test]
    fn a_newer_descriptor_is_read_as_far_as_it_is_known() {
        let mut descriptor = good();
        descriptor.struct_size += 64;
        let mut newer = bytes(&descriptor);
        newer.extend_from_slice(&[0xff; 64]);
        assert!(parse(&newer).expect("new but good").destroy.is_some());
    }

    #[test]
    fn a_cut_descriptor_is_refused() {
        let whole = bytes(&good());
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "{len}");
        }
    }
}
