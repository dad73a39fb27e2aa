//! Checks that a file is a whole shared object for this machine, before `dlopen` maps it: a truncated file would end the
//! process with SIGBUS, and one for another machine would be reported as "No such file or directory". It reads the ELF
//! header and the program headers; everything else is left to the dynamic loader.

use std::env::consts::ARCH;

/// `e_machine`, its name, and the `target_arch` that is compiled for it.
const MACHINES: [(u16, &str, &str); 12] = [
    (3, "x86", "x86"),
    (8, "MIPS", "mips"),
    (8, "MIPS", "mips64"),
    (20, "PowerPC", "powerpc"),
    (21, "PowerPC64", "powerpc64"),
    (22, "s390x", "s390x"),
    (40, "ARM", "arm"),
    (62, "x86-64", "x86_64"),
    (183, "AArch64", "aarch64"),
    (243, "RISC-V", "riscv64"),
    (243, "RISC-V", "riscv32"),
    (258, "LoongArch", "loongarch64"),
];

const IS_64: bool = cfg!(target_pointer_width = "64");
const IS_BIG: bool = cfg!(target_endian = "big");

const HEADER_LEN: usize = if IS_64 { 64 } else { 52 };
const E_PHOFF: usize = if IS_64 { 32 } else { 28 };
const E_PHENTSIZE: usize = if IS_64 { 54 } else { 42 };
const E_PHNUM: usize = E_PHENTSIZE + 2;
const PROGRAM_HEADER_LEN: usize = if IS_64 { 56 } else { 32 };
const P_OFFSET: usize = if IS_64 { 8 } else { 4 };
const P_FILESZ: usize = if IS_64 { 32 } else { 16 };

/// Checks a file of `len` bytes by its first ones, which hold all headers as linkers write them. The error says what is
/// wrong.
pub fn check(start: &[u8], len: u64) -> Result<(), String> {
    if !start.starts_with(b"\x7fELF") {
        return Err("not an ELF file; a plugin is a shared object".to_owned());
    }
    let header = start.first_chunk::<HEADER_LEN>().ok_or("the file ends inside its ELF header; copy it again")?;
    let (is_64, is_big, machine) = (header[4] == 2, header[5] == 2, [header[18], header[19]]);
    let machine = if is_big { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    // On a processor that is not in the table, every machine is accepted.
    let own = MACHINES.iter().find(|(.., arch)| *arch == ARCH).map_or(machine, |(number, ..)| *number);
    if (is_64, is_big, machine) != (IS_64, IS_BIG, own) {
        let (file, own) = (describe(is_64, is_big, machine), describe(IS_64, IS_BIG, own));
        return Err(format!("built for {file}, but this program is for {own}"));
    }
    if half(header, 16) != 3 {
        return Err("not a shared object: link it with -shared, or as cdylib".to_owned());
    }
    let (table_at, entry_len) = (word(header, E_PHOFF), usize::from(half(header, E_PHENTSIZE)));
    if entry_len < PROGRAM_HEADER_LEN {
        return Err("its program headers make no sense".to_owned());
    }
    let table_end = table_at.saturating_add(entry_len as u64 * u64::from(half(header, E_PHNUM)));
    let table = start.get(table_at as usize..table_end as usize).unwrap_or_default();
    let segments = table.chunks_exact(entry_len).filter(|entry| entry[..4] == 1u32.to_ne_bytes());
    let ends = segments.filter(|entry| word(entry, P_FILESZ) > 0);
    let ends = ends.map(|entry| word(entry, P_OFFSET).saturating_add(word(entry, P_FILESZ)));
    let needs = ends.fold(table_end, u64::max);
    if needs > len {
        return Err(format!("truncated: its headers tell of {needs} bytes, the file has {len}; copy it again"));
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| usize::from_ne_bytes(*word) as u64)
}

fn describe(is_64: bool, is_big: bool, machine: u16) -> String {
    let name = MACHINES.iter().find(|(number, ..)| *number == machine);
    let name = name.map_or_else(|| format!("machine {machine}"), |(_, name, _)| (*name).to_owned());
    let (bits, order) = (if is_64 { 64 } else { 32 }, if is_big { "big" } else { "little" });
    format!("{name} ({bits}-bit, {order}-endian)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = HEADER_LEN + 2 * PROGRAM_HEADER_LEN + 16;

    fn put_half(file: &mut [u8], at: usize, half: usize) {
        file[at..at + 2].copy_from_slice(&(half as u16).to_ne_bytes());
    }

    fn put_word(file: &mut [u8], at: usize, word: usize) {
        file[at..at + size_of::<usize>()].copy_from_slice(&word.to_ne_bytes());
    }

    /// The smallest file that is accepted, for this machine: a header, two segments to load, 16 bytes of content.
    fn good() -> Vec<u8> {
        let mut file = vec![0; LEN];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(IS_64), 1 + u8::from(IS_BIG)]);
        let machine = MACHINES.iter().find(|(.., arch)| *arch == ARCH).map_or(0, |(number, ..)| *number);
        put_half(&mut file, 16, 3);
        put_half(&mut file, 18, machine.into());
        put_word(&mut file, E_PHOFF, HEADER_LEN);
        put_half(&mut file, E_PHENTSIZE, PROGRAM_HEADER_LEN);
        put_half(&mut file, E_PHNUM, 2);
        for (index, offset, size) in [(0, 0, HEADER_LEN), (1, LEN - 16, 16)] {
            let entry = HEADER_LEN + index * PROGRAM_HEADER_LEN;
            file[entry..entry + 4].copy_from_slice(&1u32.to_ne_bytes());
            put_word(&mut file, entry + P_OFFSET, offset);
            put_word(&mut file, entry + P_FILESZ, size);
        }
        file
    }

    fn check(file: &[u8]) -> Result<(), String> {
        super::check(file, file.len() as u64)
    }

    fn with(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut file = good();
        change(&mut file);
        file
    }

    #[test]
    fn each_fault_has_its_message() {
        const SECOND: usize = HEADER_LEN + PROGRAM_HEADER_LEN;
        let rows: &[(&str, Vec<u8>, &str)] = &[
            ("empty", Vec::new(), "not an ELF file"),
            ("text", b"#!/bin/sh\n".to_vec(), "not an ELF file"),
            ("magic only", b"\x7fELF".to_vec(), "inside its ELF header"),
            ("one byte less", good()[..HEADER_LEN - 1].to_vec(), "inside its ELF header"),
            ("headers cut", good()[..HEADER_LEN + 20].to_vec(), "truncated"),
            ("content cut", good()[..LEN - 1].to_vec(), "truncated"),
            ("other word size", with(|file| file[4] ^= 3), "built for "),
            ("other byte order", with(|file| file[5] ^= 3), "-endian), but this program is for "),
            ("executable", with(|file| put_half(file, 16, 2)), "not a shared object"),
            ("object", with(|file| put_half(file, 16, 1)), "not a shared object"),
            ("core", with(|file| put_half(file, 16, 4)), "not a shared object"),
            ("short headers", with(|file| put_half(file, E_PHENTSIZE, PROGRAM_HEADER_LEN - 1)), "make no sense"),
            ("too many headers", with(|file| put_half(file, E_PHNUM, 0xffff)), "truncated"),
            ("headers outside", with(|file| put_word(file, E_PHOFF, usize::MAX)), "truncated"),
            ("a segment outside", with(|file| put_word(file, SECOND + P_OFFSET, usize::MAX)), "truncated"),
        ];
        assert_eq!(check(&good()), Ok(()));
        for (name, file, expected) in rows {
            let message = check(file).expect_err(name);
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    #[test]
    fn a_foreign_file_names_both_machines() {
        let mut file = good();
        // Fujitsu FR20, in both byte orders.
        put_half(&mut file, 18, 37);
        let own = describe(IS_64, IS_BIG, MACHINES.iter().find(|(.., arch)| *arch == ARCH).expect("named").0);
        let expected = format!("built for {}, but this program is for {own}", describe(IS_64, IS_BIG, 37));
        assert_eq!(check(&file), Err(expected));
        assert_eq!(describe(true, false, 183), "AArch64 (64-bit, little-endian)");
        assert_eq!(describe(false, true, 37), "machine 37 (32-bit, big-endian)");
    }

    /// Random changes: no panic, and no accepted file has segments beyond its end.
    #[test]
    fn a_file_that_is_accepted_holds_all_its_segments() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % bound as u64) as usize
        };
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut file = good();
            for _ in 0..=below(3) {
                let at = below(file.len());
                file[at] = [0, 1, 0x7f, 0xff, below(256) as u8][below(5)];
            }
            file.truncate(if below(4) == 0 { below(file.len()) } else { file.len() });
            if check(&file).is_ok() {
                accepted += 1;
                for index in 0..usize::from(half(&file, E_PHNUM)) {
                    let entry_at = word(&file, E_PHOFF) as usize + index * usize::from(half(&file, E_PHENTSIZE));
                    let entry = &file[entry_at..];
                    let (offset, size) = (word(entry, P_OFFSET), word(entry, P_FILESZ));
                    assert!(entry[..4] != 1u32.to_ne_bytes() || size == 0 || offset + size <= file.len() as u64);
                }
            }
        }
        assert!(accepted > 1000, "only {accepted} were accepted: the test shows nothing");
    }
}
