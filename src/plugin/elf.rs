//! Is this file a whole shared object for this machine?
//!
//! `dlopen` maps a file before it looks at it: a truncated one kills the process with SIGBUS, and one for another machine
//! is reported as "No such file or directory". So the ELF header and the program headers are read first. Pure: bytes in,
//! verdict out. Sections, symbols and what the segments hold are left to the loader.

use std::fmt;

/// Bytes that [`Header::parse`] wants to see, where the file has so many.
pub const HEADER_LEN: usize = 64;

/// Word size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 32 bits
    Bits32,
    /// 64 bits
    Bits64,
}

/// Byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// What a file was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Word size.
    pub class: Class,
    /// Byte order.
    pub order: Order,
    /// `e_machine`
    pub machine: u16,
}

/// The machines that have a name here: `e_machine`, the name, and Rust's `target_arch`.
const MACHINES: [(u16, &str, &str); 12] = [
    (2, "SPARC", "sparc"),
    (3, "x86", "x86"),
    (8, "MIPS", "mips"),
    (20, "PowerPC", "powerpc"),
    (21, "PowerPC64", "powerpc64"),
    (22, "s390x", "s390x"),
    (40, "ARM", "arm"),
    (43, "SPARC64", "sparc64"),
    (62, "x86-64", "x86_64"),
    (183, "AArch64", "aarch64"),
    (243, "RISC-V", "riscv64"),
    (258, "LoongArch", "loongarch64"),
];

impl Kind {
    /// What this program was compiled for. A machine without a name here is 0, and any is taken for it.
    pub fn own() -> Kind {
        let arch = match std::env::consts::ARCH {
            "riscv32" => "riscv64",
            "mips64" => "mips",
            arch => arch,
        };
        Kind {
            class: if cfg!(target_pointer_width = "32") { Class::Bits32 } else { Class::Bits64 },
            order: if cfg!(target_endian = "big") { Order::Big } else { Order::Little },
            machine: MACHINES.iter().find(|(_, _, rust)| *rust == arch).map_or(0, |(number, _, _)| *number),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MACHINES.iter().find(|(number, _, _)| *number == self.machine) {
            Some((_, name, _)) => f.write_str(name)?,
            None => write!(f, "machine {}", self.machine)?,
        }
        let bits = match self.class {
            Class::Bits32 => 32,
            Class::Bits64 => 64,
        };
        let order = match self.order {
            Order::Little => "little",
            Order::Big => "big",
        };
        write!(f, " ({bits}-bit, {order}-endian)")
    }
}

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// Does not begin with the four bytes of ELF.
    NotElf,
    /// Ends inside the ELF header.
    HeaderCut,
    /// A word size or byte order that ELF does not have.
    BadIdent,
    /// Another machine, word size or byte order.
    Foreign {
        /// What the file is for.
        file: Kind,
        /// What we are.
        own: Kind,
    },
    /// `e_type`: an executable or an object file.
    NotShared(u16),
    /// Program headers of an impossible size or number.
    BadProgramHeaders,
    /// Less of the file is there than its headers tell of.
    Truncated {
        /// How long the file must be.
        needs: u64,
        /// How long it is.
        has: u64,
    },
    /// A segment takes more room in the file than in memory.
    BadSegment,
    /// Nothing to load, or nothing for the dynamic loader.
    NoSegments,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElfError::NotElf => f.write_str("not an ELF file; a plugin is a shared object"),
            ElfError::HeaderCut => f.write_str("the file ends inside its ELF header; copy it again"),
            ElfError::BadIdent => f.write_str("the ELF header names no known word size or byte order"),
            ElfError::Foreign { file, own } => write!(f, "built for {file}, but this program is for {own}"),
            ElfError::NotShared(2) => {
                f.write_str("an executable, not a shared object; build it with -shared or as cdylib")
            }
            ElfError::NotShared(1) => f.write_str("an object file, not a shared object; link it with -shared"),
            ElfError::NotShared(other) => write!(f, "ELF type {other}, not a shared object (3)"),
            ElfError::BadProgramHeaders => f.write_str("its program headers make no sense"),
            ElfError::Truncated { needs, has } => {
                write!(f, "truncated: its headers tell of {needs} bytes, the file has {has}; copy it again")
            }
            ElfError::BadSegment => f.write_str("a segment is longer in the file than in memory"),
            ElfError::NoSegments => f.write_str("no segments to load, or no dynamic section"),
        }
    }
}

impl std::error::Error for ElfError {}

/// Reads numbers of one class and byte order. `None` beyond the end.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

impl Reader<'_> {
    fn number(&self, at: usize, len: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(len)?)?;
        let shift = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(match self.kind.order {
            Order::Big => bytes.iter().fold(0, shift),
            Order::Little => bytes.iter().rev().fold(0, shift),
        })
    }

    fn half(&self, at: usize) -> Option<u16> {
        self.number(at, 2).and_then(|number| u16::try_from(number).ok())
    }

    /// A number as wide as the class, at a place that depends on it.
    fn word(&self, at32: usize, at64: usize) -> Option<u64> {
        match self.kind.class {
            Class::Bits32 => self.number(at32, 4),
            Class::Bits64 => self.number(at64, 8),
        }
    }
}

/// What the ELF header says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: Kind,
    /// Where in the file the program headers begin.
    pub table_at: u64,
    entry_len: usize,
    entries: usize,
}

impl Header {
    /// Reads the ELF header from the first [`HEADER_LEN`] bytes of a file (or fewer, where it has no more).
    pub fn parse(start: &[u8], own: Kind) -> Result<Header, ElfError> {
        let Some((b"\x7fELF", ident)) = start.split_first_chunk::<4>() else { return Err(ElfError::NotElf) };
        let &[class, order, ..] = ident else { return Err(ElfError::HeaderCut) };
        let class = match class {
            1 => Class::Bits32,
            2 => Class::Bits64,
            _ => return Err(ElfError::BadIdent),
        };
        let order = match order {
            1 => Order::Little,
            2 => Order::Big,
            _ => return Err(ElfError::BadIdent),
        };
        let mut reader = Reader { bytes: start, kind: Kind { class, order, machine: 0 } };
        let half = |reader: &Reader<'_>, at| reader.half(at).ok_or(ElfError::HeaderCut);
        reader.kind.machine = half(&reader, 18)?;
        let kind = reader.kind;
        if (kind.class, kind.order) != (own.class, own.order) || (kind.machine != own.machine && own.machine != 0) {
            return Err(ElfError::Foreign { file: kind, own });
        }
        match half(&reader, 16)? {
            3 => {}
            other => return Err(ElfError::NotShared(other)),
        }
        let table_at = reader.word(28, 32).ok_or(ElfError::HeaderCut)?;
        let (len_at, count_at, least, header_len) = match class {
            Class::Bits32 => (42, 44, 32, 52),
            Class::Bits64 => (54, 56, 56, HEADER_LEN),
        };
        let (entry_len, entries) = (usize::from(half(&reader, len_at)?), usize::from(half(&reader, count_at)?));
        if start.len() < header_len {
            return Err(ElfError::HeaderCut);
        }
        if entries == 0 {
            return Err(ElfError::NoSegments);
        }
        // 0xffff says that the real number stands elsewhere: no shared object has so many.
        if entry_len < least || entries == 0xffff {
            return Err(ElfError::BadProgramHeaders);
        }
        Ok(Header { kind, table_at, entry_len, entries })
    }

    /// Bytes of the program header table.
    pub fn table_len(&self) -> usize {
        self.entry_len * self.entries
    }

    /// Judges the program headers: every segment must lie within a file of `file_len` bytes.
    pub fn check_segments(&self, table: &[u8], file_len: u64) -> Result<(), ElfError> {
        const LOAD: u64 = 1;
        const DYNAMIC: u64 = 2;
        let table = table.get(..self.table_len()).ok_or(ElfError::BadProgramHeaders)?;
        let (mut needs, mut has_load, mut has_dynamic) = (0, false, false);
        for entry in table.chunks_exact(self.entry_len) {
            let reader = Reader { bytes: entry, kind: self.kind };
            let segment =
                || Some((reader.number(0, 4)?, reader.word(4, 8)?, reader.word(16, 32)?, reader.word(20, 40)?));
            let (kind, offset, in_file, in_memory) = segment().ok_or(ElfError::BadProgramHeaders)?;
            if in_file == 0 {
                continue;
            }
            let end = offset.checked_add(in_file).ok_or(ElfError::BadProgramHeaders)?;
            needs = needs.max(end);
            if kind == LOAD && in_file > in_memory {
                return Err(ElfError::BadSegment);
            }
            has_load |= kind == LOAD;
            has_dynamic |= kind == DYNAMIC;
        }
        match () {
            () if needs > file_len => Err(ElfError::Truncated { needs, has: file_len }),
            () if !has_load || !has_dynamic => Err(ElfError::NoSegments),
            () => Ok(()),
        }
    }
}

/// Judges a whole file in memory.
pub fn check(file: &[u8], own: Kind) -> Result<(), ElfError> {
    let header = Header::parse(&file[..file.len().min(HEADER_LEN)], own)?;
    let has = file.len() as u64;
    let needs = header.table_at.saturating_add(header.table_len() as u64);
    let table = usize::try_from(header.table_at).ok().and_then(|at| file.get(at..at.checked_add(header.table_len())?));
    header.check_segments(table.ok_or(ElfError::Truncated { needs, has })?, has)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Kind = Kind { class: Class::Bits64, order: Order::Little, machine: 62 };

    /// The smallest file that passes: a header, two program headers, 16 bytes of content.
    fn good() -> Vec<u8> {
        let mut file = Vec::new();
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend_from_slice(&3u16.to_le_bytes());
        file.extend_from_slice(&62u16.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&0u64.to_le_bytes());
        file.extend_from_slice(&64u64.to_le_bytes());
        file.extend_from_slice(&0u64.to_le_bytes());
        file.extend_from_slice(&0u32.to_le_bytes());
        for half in [64u16, 56, 2, 0, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        for (kind, offset, in_file) in [(1u32, 0u64, 192u64), (2, 176, 16)] {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&4u32.to_le_bytes());
            for word in [offset, offset, offset, in_file, in_file, 8] {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        file.extend_from_slice(&[0; 16]);
        file
    }

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = good();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    }

    fn foreign(class: Class, order: Order, machine: u16) -> Result<(), ElfError> {
        Err(ElfError::Foreign { file: Kind { class, order, machine }, own: OWN })
    }

    #[test]
    fn each_sin_has_its_name() {
        let rows: &[(&str, Vec<u8>, Result<(), ElfError>)] = &[
            ("good", good(), Ok(())),
            ("empty", Vec::new(), Err(ElfError::NotElf)),
            ("text", b"#!/bin/sh\n".to_vec(), Err(ElfError::NotElf)),
            ("magic only", b"\x7fELF".to_vec(), Err(ElfError::HeaderCut)),
            ("63 bytes", good()[..63].to_vec(), Err(ElfError::HeaderCut)),
            ("headers cut", good()[..100].to_vec(), Err(ElfError::Truncated { needs: 176, has: 100 })),
            ("content cut", good()[..191].to_vec(), Err(ElfError::Truncated { needs: 192, has: 191 })),
            ("class 3", with(4, &[3]), Err(ElfError::BadIdent)),
            ("order 0", with(5, &[0]), Err(ElfError::BadIdent)),
            ("32 bits", with(4, &[1]), foreign(Class::Bits32, Order::Little, 62)),
            ("big endian", with(5, &[2]), foreign(Class::Bits64, Order::Big, 62 << 8)),
            ("AArch64", with(18, &[183]), foreign(Class::Bits64, Order::Little, 183)),
            ("executable", with(16, &[2]), Err(ElfError::NotShared(2))),
            ("object", with(16, &[1]), Err(ElfError::NotShared(1))),
            ("core", with(16, &[4]), Err(ElfError::NotShared(4))),
            ("no headers", with(56, &[0, 0]), Err(ElfError::NoSegments)),
            ("short headers", with(54, &[55]), Err(ElfError::BadProgramHeaders)),
            ("too many", with(56, &[0xff, 0xff]), Err(ElfError::BadProgramHeaders)),
            ("table outside", with(32, &[0xff; 8]), Err(ElfError::Truncated { needs: u64::MAX, has: 192 })),
            ("offset overflows", with(72, &[0xff; 8]), Err(ElfError::BadProgramHeaders)),
            ("shrinks in memory", with(104, &[1]), Err(ElfError::BadSegment)),
            ("nothing to load", with(64, &[6]), Err(ElfError::NoSegments)),
            ("not dynamic", with(120, &[6]), Err(ElfError::NoSegments)),
        ];
        for (name, file, expected) in rows {
            assert_eq!(check(file, OWN), *expected, "{name}");
        }
    }

    #[test]
    fn a_foreign_file_names_both_machines() {
        let text = check(&with(18, &[183]), OWN).map_err(|error| error.to_string());
        let expected =
            "built for AArch64 (64-bit, little-endian), but this program is for x86-64 (64-bit, little-endian)";
        assert_eq!(text, Err(expected.to_owned()));
    }

    #[test]
    fn a_cut_file_is_never_taken() {
        for len in 0..good().len() {
            assert!(check(&good()[..len], OWN).is_err(), "{len}");
        }
    }

    /// Bytes turned over at random: no panic, and nothing is taken whose segments leave the file.
    #[test]
    fn nothing_that_overruns_the_file_is_taken() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % bound as u64) as usize
        };
        let mut taken = 0;
        for _ in 0..200_000 {
            let mut file = good();
            for _ in 0..=below(3) {
                let at = below(file.len());
                file[at] = [0, 1, 0x7f, 0xff, below(256) as u8][below(5)];
            }
            file.truncate(if below(4) == 0 { below(file.len()) } else { file.len() });
            if check(&file, OWN).is_ok() {
                taken += 1;
                let table_at = u64::from_le_bytes(file[32..40].try_into().expect("8 bytes")) as usize;
                let entry_len = usize::from(u16::from_le_bytes([file[54], file[55]]));
                for index in 0..usize::from(u16::from_le_bytes([file[56], file[57]])) {
                    let entry = &file[table_at + index * entry_len..];
                    let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("8 bytes"));
                    assert!(word(32) == 0 || word(8) + word(32) <= file.len() as u64);
                }
            }
        }
        assert!(taken > 1000, "only {taken} were taken: the test has lost its point");
    }
}
