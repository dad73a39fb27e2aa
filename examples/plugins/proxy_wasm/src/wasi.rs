//! What modules import of WASI (`wasi_snapshot_preview1`): output goes to the log, there are clocks and random numbers, and
//! no arguments, no environment and no files.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mini_rproxy_plugin::Level;

use crate::guest::{Fault, Guest, LOG_FUEL, Status};

/// What WASI functions return; the numbers are those of `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    BadFileDescriptor = 8,
    Fault = 21,
    Invalid = 28,
    NotImplemented = 52,
    NotSupported = 58,
}

/// A WASI function that failed: an error for the module, or its end.
#[derive(Debug)]
pub enum WasiFault {
    Errno(Errno),
    Trap(wasmi::Error),
}

impl From<Errno> for WasiFault {
    fn from(errno: Errno) -> WasiFault {
        WasiFault::Errno(errno)
    }
}

impl From<Status> for WasiFault {
    fn from(_: Status) -> WasiFault {
        WasiFault::Errno(Errno::Fault)
    }
}

impl From<Fault> for WasiFault {
    fn from(fault: Fault) -> WasiFault {
        match fault {
            Fault::Status(status) => status.into(),
            Fault::Trap(error) => WasiFault::Trap(error),
        }
    }
}

/// What a WASI function comes to.
pub type WasiOutcome = Result<(), WasiFault>;

/// Parts of one `fd_write`.
const MAX_PARTS: u32 = 1024;
/// Bytes of one `fd_write`; the proxy cuts its log lines far below.
const MAX_OUTPUT: usize = 16 * 1024;
/// Bytes of one `random_get`.
const MAX_RANDOM: u32 = 64 * 1024;

/// A moment before any clock of a module is read: monotonic time counts from there.
pub fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// `fd_write`: standard output is logged as information, standard error as an error.
pub fn fd_write(guest: &mut Guest<'_>, fd: u32, parts: u32, count: u32, written_at: u32) -> WasiOutcome {
    let level = match fd {
        1 => Level::Info,
        2 => Level::Error,
        _ => return Err(Errno::BadFileDescriptor.into()),
    };
    if count > MAX_PARTS {
        return Err(Errno::Invalid.into());
    }
    guest.charge(LOG_FUEL)?;
    let mut memory = guest.memory()?;
    let (mut text, mut written) = (Vec::new(), 0_u32);
    for index in 0..count {
        let part = parts.checked_add(8 * index).ok_or(Errno::Fault)?;
        let len_at = part.checked_add(4).ok_or(Errno::Fault)?;
        let bytes = memory.bytes(memory.u32(part)?, memory.u32(len_at)?)?;
        text.extend_from_slice(&bytes[..bytes.len().min(MAX_OUTPUT - text.len())]);
        written = written.checked_add(bytes.len() as u32).ok_or(Errno::Invalid)?;
    }
    memory.write_u32(written_at, written)?;
    guest.charge_bytes(text.len())?;
    guest.state().log(level, text.trim_ascii_end());
    Ok(())
}

/// `clock_time_get`
pub fn clock_time_get(guest: &mut Guest<'_>, clock: u32, _precision: u64, time_at: u32) -> WasiOutcome {
    let time = match clock {
        0 => now(),
        1 => start().elapsed().as_nanos() as u64,
        _ => return Err(Errno::NotSupported.into()),
    };
    Ok(guest.memory()?.write_u64(time_at, time)?)
}

/// `poll_oneoff`, by which the runtime of Go sleeps: whatever is asked for has happened, since nothing waits here. A loop of
/// such naps ends by its fuel.
pub fn poll(guest: &mut Guest<'_>, wanted: u32, events: u32, count: u32, count_at: u32) -> WasiOutcome {
    // A subscription begins with its owner's number, then its kind; the event has the number, an error, and the kind.
    const SUBSCRIPTION: u32 = 48;
    const EVENT: u32 = 32;
    if count == 0 || count > MAX_PARTS {
        return Err(Errno::Invalid.into());
    }
    guest.charge(LOG_FUEL)?;
    let mut memory = guest.memory()?;
    for index in 0..count {
        let (from, to) = (wanted.checked_add(index * SUBSCRIPTION), events.checked_add(index * EVENT));
        let (from, to) = (from.ok_or(Errno::Fault)?, to.ok_or(Errno::Fault)?);
        let mut event = [0; EVENT as usize];
        let subscription = memory.bytes(from, SUBSCRIPTION)?;
        event[..8].copy_from_slice(&subscription[..8]);
        event[10] = subscription[8];
        memory.write(to, &event)?;
    }
    Ok(memory.write_u32(count_at, count)?)
}

/// `random_get`
pub fn random_get(guest: &mut Guest<'_>, at: u32, len: u32) -> WasiOutcome {
    if len > MAX_RANDOM {
        return Err(Errno::Invalid.into());
    }
    // Dearer than a copy by far.
    guest.charge((len as usize).saturating_mul(4))?;
    let mut memory = guest.memory()?;
    getrandom::fill(memory.bytes_mut(at, len)?).map_err(|_| Errno::NotSupported.into())
}

/// `environ_sizes_get` and `args_sizes_get`: there are none.
pub fn no_sizes(guest: &mut Guest<'_>, count_at: u32, len_at: u32) -> WasiOutcome {
    let mut memory = guest.memory()?;
    memory.write_u32(count_at, 0)?;
    Ok(memory.write_u32(len_at, 0)?)
}

/// `environ_get` and `args_get`: nothing is written.
pub fn nothing(_: &mut Guest<'_>, _list: u32, _bytes: u32) -> WasiOutcome {
    Ok(())
}
