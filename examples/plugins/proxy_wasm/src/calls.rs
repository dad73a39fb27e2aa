//! The host functions that need no file of their own: log, clock, timer, contexts, bodies and configuration, own answers.

use std::time::{Duration, Instant};

use mini_rproxy_plugin::{Level, validate};

use crate::exchange::Side;
use crate::guest::{Fault, Guest, LOG_FUEL, Outcome, Status};
use crate::maps::{parse_pairs, trimmed};
use crate::state::{ROOT, State};
use crate::wasi;

/// The shortest period of ticks.
const MIN_TICK: Duration = Duration::from_millis(10);

/// `proxy_log`
pub fn log(guest: &mut Guest<'_>, level: u32, message: u32, len: u32) -> Outcome {
    let level = match level {
        0 | 1 => Level::Debug,
        2 => Level::Info,
        3 => Level::Warn,
        4 | 5 => Level::Error,
        _ => return Err(Status::BadArgument.into()),
    };
    guest.charge(LOG_FUEL)?;
    guest.charge_bytes(len as usize)?;
    let (memory, state) = guest.parts()?;
    state.log(level, memory.bytes(message, len)?);
    Ok(())
}

/// `proxy_get_log_level`
pub fn get_log_level(guest: &mut Guest<'_>, level_at: u32) -> Outcome {
    let log = guest.state().entry.log;
    let levels = [(Level::Debug, 1), (Level::Info, 2), (Level::Warn, 3)];
    let level = levels.into_iter().find(|&(level, _)| log.is_enabled(level)).map_or(4, |(_, number)| number);
    guest.memory()?.write_u32(level_at, level)
}

/// `proxy_get_current_time_nanoseconds`
pub fn get_current_time(guest: &mut Guest<'_>, time_at: u32) -> Outcome {
    guest.memory()?.write_u64(time_at, wasi::now())
}

/// `proxy_set_tick_period_milliseconds`
pub fn set_tick_period(guest: &mut Guest<'_>, period: u32) -> Outcome {
    let tick = (period > 0).then(|| Duration::from_millis(period.into()).max(MIN_TICK));
    let state = guest.state();
    state.tick = tick;
    state.next_tick = Instant::now() + tick.unwrap_or_default();
    Ok(())
}

/// `proxy_set_effective_context`
pub fn set_effective_context(guest: &mut Guest<'_>, context: u32) -> Outcome {
    let state = guest.state();
    if context != ROOT && !state.contexts.contains_key(&context) {
        return Err(Status::BadArgument.into());
    }
    state.effective = context;
    Ok(())
}

/// `proxy_done`
pub fn done(guest: &mut Guest<'_>) -> Outcome {
    let state = guest.state();
    let id = state.effective;
    match state.contexts.get_mut(&id) {
        Some(context) if context.is_ending => {
            context.is_ending = false;
            state.ended.push(id);
            Ok(())
        }
        _ => Err(Status::NotFound.into()),
    }
}

/// `proxy_continue_stream`
pub fn continue_stream(guest: &mut Guest<'_>, stream: u32) -> Outcome {
    match stream {
        0 | 1 => {
            continue_exchange(guest.state());
            Ok(())
        }
        2 | 3 => Err(Status::Unimplemented.into()),
        _ => Err(Status::BadArgument.into()),
    }
}

/// Lets the exchange go on, where it is the one whose hook runs: no other can be reached.
pub fn continue_exchange(state: &mut State) {
    state.requests.has_continued |= state.exchange().is_some();
}

/// `proxy_close_stream`
pub fn close_stream(guest: &mut Guest<'_>, stream: u32) -> Outcome {
    match stream {
        0 | 1 => {
            let state = guest.state();
            state.requests.has_closed |= state.exchange().is_some();
            Ok(())
        }
        2 | 3 => Err(Status::Unimplemented.into()),
        _ => Err(Status::BadArgument.into()),
    }
}

/// What `proxy_get_buffer_bytes` can read.
enum Buffer {
    Body(Side),
    CallBody,
    VmConfig,
    PluginConfig,
}

impl Buffer {
    fn of(number: u32) -> Result<Buffer, Status> {
        match number {
            0 => Ok(Buffer::Body(Side::Request)),
            1 => Ok(Buffer::Body(Side::Response)),
            4 => Ok(Buffer::CallBody),
            6 => Ok(Buffer::VmConfig),
            7 => Ok(Buffer::PluginConfig),
            // Streams below HTTP, gRPC and foreign functions.
            2 | 3 | 5 | 8 => Err(Status::NotFound),
            _ => Err(Status::BadArgument),
        }
    }

    fn bytes<'s>(&self, state: &'s mut State) -> Result<&'s [u8], Status> {
        match *self {
            Buffer::Body(side) => state.exchange().and_then(|exchange| exchange.body(side)).ok_or(Status::NotFound),
            Buffer::CallBody => state.call_answer.as_ref().map(|answer| &*answer.body).ok_or(Status::NotFound),
            Buffer::VmConfig => Ok(&state.entry.config.vm_config.0),
            Buffer::PluginConfig => Ok(&state.entry.config.config.0),
        }
    }
}

/// `proxy_get_buffer_bytes`
pub fn get_buffer(guest: &mut Guest<'_>, buffer: u32, start: u32, max_len: u32, data_at: u32, len_at: u32) -> Outcome {
    let buffer = Buffer::of(buffer)?;
    guest.give(data_at, len_at, |_, state, out| {
        let bytes = buffer.bytes(state)?;
        let from = bytes.get(start as usize..).ok_or(Status::BadArgument)?;
        out.extend_from_slice(from.get(..max_len as usize).unwrap_or(from));
        Ok(())
    })
}

/// `proxy_get_buffer_status`
pub fn get_buffer_status(guest: &mut Guest<'_>, buffer: u32, len_at: u32, flags_at: u32) -> Outcome {
    let len = Buffer::of(buffer)?.bytes(guest.state())?.len();
    let mut memory = guest.memory()?;
    memory.write_u32(len_at, len as u32)?;
    memory.write_u32(flags_at, 0)
}

/// `proxy_get_configuration` of ABI 0.1.0: that of the callback which runs.
pub fn get_configuration(guest: &mut Guest<'_>, data_at: u32, len_at: u32) -> Outcome {
    let buffer = if guest.state().is_starting { Buffer::VmConfig } else { Buffer::PluginConfig };
    guest.give(data_at, len_at, |_, state, out| {
        out.extend_from_slice(buffer.bytes(state)?);
        Ok(())
    })
}

/// `proxy_set_buffer_bytes`: `len` bytes from `start` on become the new ones.
pub fn set_buffer(guest: &mut Guest<'_>, buffer: u32, start: u32, len: u32, value: u32, value_len: u32) -> Outcome {
    let Buffer::Body(side) = Buffer::of(buffer)? else { return Err(Status::BadArgument.into()) };
    guest.charge_bytes(value_len as usize)?;
    let old_len = Buffer::Body(side).bytes(guest.state())?.len();
    guest.charge_bytes(old_len)?;
    let (memory, state) = guest.parts()?;
    let value = memory.bytes(value, value_len)?;
    let exchange = state.exchange().ok_or(Status::NotFound)?;
    let old = exchange.body(side).ok_or(Status::NotFound)?;
    let start = old.len().min(start as usize);
    let end = start.saturating_add(len as usize).min(old.len());
    let new = [&old[..start], value, &old[end..]].concat();
    exchange.set_body(side, &new).map_err(|_| Status::InternalFailure.into())
}

/// `proxy_send_local_response`
#[expect(clippy::too_many_arguments, reason = "as many as the interface has")]
pub fn send_local_response(
    guest: &mut Guest<'_>,
    status: u32,
    _details: u32,
    _details_len: u32,
    body: u32,
    body_len: u32,
    fields: u32,
    fields_len: u32,
    _grpc_status: u32,
) -> Outcome {
    guest.charge_bytes((body_len as usize).saturating_add(fields_len as usize))?;
    let (memory, state) = guest.parts()?;
    let body = memory.bytes(body, body_len)?;
    let mut lines = Vec::new();
    for (name, value) in parse_pairs(memory.bytes(fields, fields_len)?)? {
        // The proxy writes these by itself.
        if name.first() == Some(&b':') || validate::is_host_only(name) {
            continue;
        }
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Status::BadArgument);
        lines.push((text(name)?, text(trimmed(value))?));
    }
    // As Envoy does: filters leave it out.
    if !body.is_empty() && !lines.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        lines.push(("content-type", "text/plain"));
    }
    let exchange = state.lent.get(state.effective).ok_or(Status::BadArgument)?;
    let status = u16::try_from(status).map_err(|_| Status::BadArgument)?;
    let answer = exchange.respond(status, &lines, body).map_err(|_| Status::BadArgument)?;
    state.requests.answer = Some(answer);
    Ok(())
}

/// `proxy_get_status`: of a gRPC call, and there are none.
pub fn get_status(guest: &mut Guest<'_>, code_at: u32, data_at: u32, len_at: u32) -> Outcome {
    let mut memory = guest.memory()?;
    memory.write_u32(code_at, 0)?;
    memory.write_u32(data_at, 0)?;
    memory.write_u32(len_at, 0)
}

/// `proxy_call_foreign_function`: there is none.
pub fn call_foreign_function(
    _: &mut Guest<'_>,
    _name: u32,
    _name_len: u32,
    _arguments: u32,
    _arguments_len: u32,
    _data_at: u32,
    _len_at: u32,
) -> Outcome {
    Err(Status::NotFound.into())
}

/// `abort` of AssemblyScript: a message and a file name, both UTF-16 with their lengths before them, and a place.
pub fn abort(guest: &mut Guest<'_>, message: u32, file: u32, line: u32, column: u32) -> Fault {
    let mut text = |at: u32| -> Option<String> {
        let memory = guest.memory().ok()?;
        let len = memory.u32(at.checked_sub(4)?).ok()?.min(1024);
        let units = memory.bytes(at, len).ok()?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        Some(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
    };
    let (message, file) = (text(message).unwrap_or_default(), text(file).unwrap_or_default());
    Fault::trap(format!("abort: {message} ({file}:{line}:{column})"))
}
