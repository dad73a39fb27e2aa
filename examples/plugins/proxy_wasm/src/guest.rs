//! The module's side of a host function: its memory, its allocator, its fuel.
//!
//! Addresses and lengths come from the module and may be anything. What does not lie in its memory is answered with
//! [`Status::InvalidMemoryAccess`], as the interface wants.

use wasmi::{Caller, TrapCode};

use crate::state::State;

/// What a host function returns beside `OK`; the numbers are those of `proxy_status_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    NotFound = 1,
    BadArgument = 2,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

/// Why a host function did not do its work.
#[derive(Debug)]
pub enum Fault {
    /// The module is told.
    Status(Status),
    /// The module ends.
    Trap(wasmi::Error),
}

impl Fault {
    pub fn trap(message: impl Into<String>) -> Fault {
        Fault::Trap(wasmi::Error::new(message))
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Fault {
        Fault::Status(status)
    }
}

/// What a host function comes to.
pub type Outcome = Result<(), Fault>;

/// What a call of a host function costs, however little it does: as much as a hundred instructions.
const CALL_FUEL: usize = 100;
/// A line of the log costs more: a module cannot fill a disk within one hook.
pub const LOG_FUEL: usize = 2_000;
/// Bytes that are copied for one unit of fuel.
const BYTES_PER_FUEL: usize = 4;

/// A module that calls the host.
pub struct Guest<'c> {
    caller: Caller<'c, State>,
}

impl<'c> Guest<'c> {
    /// The caller of a host function, who pays for the call.
    pub fn new(caller: Caller<'c, State>) -> Result<Guest<'c>, Fault> {
        let mut guest = Guest { caller };
        guest.charge(CALL_FUEL)?;
        Ok(guest)
    }

    pub fn state(&mut self) -> &mut State {
        self.caller.data_mut()
    }

    /// Takes fuel for work of the host, which would otherwise be free: a loop of large copies must end like any other.
    pub fn charge(&mut self, fuel: usize) -> Outcome {
        let left = self.caller.get_fuel().map_err(Fault::Trap)?;
        let left_after = left.checked_sub(fuel as u64).ok_or_else(|| Fault::Trap(TrapCode::OutOfFuel.into()))?;
        self.caller.set_fuel(left_after).map_err(Fault::Trap)
    }

    /// Takes fuel for bytes that are copied. What is longer than the memory will be refused, not copied.
    pub fn charge_bytes(&mut self, len: usize) -> Outcome {
        let memory = self.caller.data().memory.map_or(0, |memory| memory.data_size(&self.caller));
        self.charge(len.min(memory) / BYTES_PER_FUEL)
    }

    /// The memory, and beside it the state.
    pub fn parts(&mut self) -> Result<(Memory<'_>, &mut State), Fault> {
        // Absent while the module's start section runs, and in a module without memory.
        let memory = self.caller.data().memory.ok_or(Status::InvalidMemoryAccess)?;
        let (bytes, state) = memory.data_and_store_mut(&mut self.caller);
        Ok((Memory(bytes), state))
    }

    /// The memory alone.
    pub fn memory(&mut self) -> Result<Memory<'_>, Fault> {
        Ok(self.parts()?.0)
    }

    /// Has the module allocate, and copies what `fill` makes into it. The address goes to `data_at`, the length to `len_at`;
    /// no bytes are a null address. `fill` may read the memory meanwhile: what is asked for is not copied out of it.
    pub fn give(
        &mut self,
        data_at: u32,
        len_at: u32,
        fill: impl FnOnce(&Memory<'_>, &mut State, &mut Vec<u8>) -> Outcome,
    ) -> Outcome {
        // A buffer that stays: most calls allocate nothing on this side.
        let mut bytes = std::mem::take(&mut self.state().buffer);
        bytes.clear();
        let filled = self.parts().and_then(|(memory, state)| fill(&memory, state, &mut bytes));
        let result = filled.and_then(|()| self.give_bytes(data_at, len_at, &bytes));
        self.state().buffer = bytes;
        result
    }

    fn give_bytes(&mut self, data_at: u32, len_at: u32, bytes: &[u8]) -> Outcome {
        self.charge_bytes(bytes.len())?;
        let address = if bytes.is_empty() { 0 } else { self.allocate(bytes.len())? };
        let mut memory = self.memory()?;
        memory.write(address, bytes)?;
        memory.write_u32(data_at, address)?;
        memory.write_u32(len_at, bytes.len() as u32)
    }

    /// Calls the module's allocator. An allocator that calls the host again would nest without end: it may call only what
    /// needs no allocation.
    fn allocate(&mut self, len: usize) -> Result<u32, Fault> {
        let len = u32::try_from(len).map_err(|_| Status::InternalFailure)?;
        let state = self.state();
        let allocator = state.allocator.ok_or_else(|| {
            Fault::trap("the module exports neither proxy_on_memory_allocate nor malloc: the host can give it nothing")
        })?;
        if std::mem::replace(&mut state.is_allocating, true) {
            return Err(Fault::trap("the module's allocator calls the host for more memory"));
        }
        let address = allocator.call(&mut self.caller, len).map_err(Fault::Trap);
        self.state().is_allocating = false;
        match address? {
            0 => Err(Fault::trap(format!("the module's allocator has no {len} bytes left"))),
            address => Ok(address),
        }
    }
}

/// A module's memory.
pub struct Memory<'m>(&'m mut [u8]);

impl<'m> Memory<'m> {
    pub fn bytes(&self, at: u32, len: u32) -> Result<&[u8], Status> {
        let end = (at as usize).checked_add(len as usize).ok_or(Status::InvalidMemoryAccess)?;
        self.0.get(at as usize..end).ok_or(Status::InvalidMemoryAccess)
    }

    /// Bytes that must be UTF-8.
    pub fn text(&self, at: u32, len: u32) -> Result<&str, Status> {
        std::str::from_utf8(self.bytes(at, len)?).map_err(|_| Status::BadArgument)
    }

    pub fn u32(&self, at: u32) -> Result<u32, Status> {
        let bytes = self.bytes(at, 4)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    pub fn bytes_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8], Status> {
        let end = (at as usize).checked_add(len as usize).ok_or(Status::InvalidMemoryAccess)?;
        self.0.get_mut(at as usize..end).ok_or(Status::InvalidMemoryAccess)
    }

    pub fn write(&mut self, at: u32, bytes: &[u8]) -> Outcome {
        let len = u32::try_from(bytes.len()).map_err(|_| Status::InvalidMemoryAccess)?;
        self.bytes_mut(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    pub fn write_u32(&mut self, at: u32, value: u32) -> Outcome {
        self.write(at, &value.to_le_bytes())
    }

    pub fn write_u64(&mut self, at: u32, value: u64) -> Outcome {
        self.write(at, &value.to_le_bytes())
    }
}
