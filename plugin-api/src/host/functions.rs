//! The C functions themselves. Each has two halves: it judges with shared access, then it changes with exclusive access.
//!
//! What a plugin passes may point into the very message that is about to change (a value it has just got, say). So
//! between the halves arguments are copied, and no borrowed byte is looked at in the second one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Access, Attr, Context, Door, Phase, STAMP, Side};
use crate::abi::{self, Status, Str};
use crate::rules;
use crate::types::{Level, Refused};

/// Runs `body`. A panic in it would be a mistake of the host: the plugin is told "invalid", and its payload forgotten.
fn guard(body: impl FnOnce() -> Result<(), Refused>) -> Status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => abi::OK,
        Ok(Err(refused)) => refused.status(),
        Err(payload) => {
            std::mem::forget(payload);
            abi::INVALID
        }
    }
}

/// The access behind an exchange pointer, to read.
///
/// # Safety
/// `x` must be null or come from [`Door::as_exchange`] of a `Door<A>` (up to lifetimes) whose hook is running. The
/// result must not be used after the C function has returned, or beside what [`change`] gives.
unsafe fn reader<'x, A>(x: *mut abi::Exchange) -> Result<&'x A, Refused> {
    let door = x.cast::<Door<A>>();
    if door.is_null() || !door.is_aligned() {
        return Err(Refused::Invalid);
    }
    // SAFETY: by the contract of this function. Only shared, since the plugin may hold bytes of earlier getters.
    let door = unsafe { &*door };
    if door.stamp == STAMP { Ok(&door.access) } else { Err(Refused::Invalid) }
}

/// Like [`reader`], for the first half of a change: refuses outside of `phases`.
///
/// # Safety
/// As [`reader`].
unsafe fn judge<'x, A: Access>(x: *mut abi::Exchange, phases: &[Phase]) -> Result<&'x A, Refused> {
    // SAFETY: passed on to the caller.
    let access = unsafe { reader::<A>(x) }?;
    if phases.contains(&access.phase()) { Ok(access) } else { Err(Refused::WrongPhase) }
}

/// The access behind an exchange pointer that [`judge`] has looked at, to write.
///
/// # Safety
/// As [`reader`]; and no reference into the exchange is used while the result is.
unsafe fn change<'x, A>(x: *mut abi::Exchange) -> &'x mut A {
    // SAFETY: by the contract; hooks are on one thread and never re-entered, so nobody else has it.
    unsafe { &mut (*x.cast::<Door<A>>()).access }
}

fn bytes<'a>(text: Str) -> Result<&'a [u8], Refused> {
    // SAFETY: the plugin lends it for this call, and nothing below keeps it beyond.
    unsafe { text.bytes() }.ok_or(Refused::Invalid)
}

/// # Safety
/// `out` must be null or writable.
unsafe fn give<T>(out: *mut T, value: T) -> Result<(), Refused> {
    if out.is_null() {
        return Err(Refused::Invalid);
    }
    // SAFETY: not null, and writable by contract.
    unsafe { out.write(value) };
    Ok(())
}

/// A copy of an argument: short ones, which are nearly all, stay on the stack.
struct Copied {
    len: usize,
    short: [u8; 256],
    long: Vec<u8>,
}

impl Copied {
    fn new(bytes: &[u8]) -> Copied {
        let mut copied = Copied { len: bytes.len(), short: [0; 256], long: Vec::new() };
        match copied.short.get_mut(..bytes.len()) {
            Some(short) => short.copy_from_slice(bytes),
            None => copied.long = bytes.to_vec(),
        }
        copied
    }

    fn get(&self) -> &[u8] {
        self.short.get(..self.len).unwrap_or(&self.long)
    }
}

fn side(number: u32) -> Result<Side, Refused> {
    match number {
        abi::REQUEST => Ok(Side::Request),
        abi::RESPONSE => Ok(Side::Response),
        _ => Err(Refused::Unsupported),
    }
}

/// The side of a getter: there is no response in the request phase.
fn readable(access: &impl Access, number: u32) -> Result<Side, Refused> {
    match (side(number)?, access.phase()) {
        (Side::Response, Phase::Request) => Err(Refused::WrongPhase),
        (side, _) => Ok(side),
    }
}

/// The phase in which a side may be written.
const fn written_in(side: Side) -> [Phase; 1] {
    match side {
        Side::Request => [Phase::Request],
        Side::Response => [Phase::Response],
    }
}

const BOTH: [Phase; 2] = [Phase::Request, Phase::Response];

/// What a field line takes beside its name and value: `: ` and CRLF.
const LINE_EXTRA: usize = 4;
const STATUS_LINE: usize = "HTTP/1.1 200 \r\n".len();

/// Bytes of a head: start line, the Host line of a request, all lines, each with its separators.
fn head_bytes(access: &impl Access, side: Side) -> usize {
    let attr = |attr, extra| access.attr(attr).map_or(0, |value| value.len() + extra);
    let start = match side {
        Side::Request => {
            let line = attr(Attr::Method, " ".len()) + attr(Attr::Target, " HTTP/1.1\r\n".len());
            line + attr(Attr::Authority, "Host: \r\n".len())
        }
        Side::Response => STATUS_LINE,
    };
    let line = |index| access.field_at(side, index).map_or(0, |(name, value)| name.len() + value.len() + LINE_EXTRA);
    start + (0..access.field_count(side)).map(line).sum::<usize>()
}

/// Whether a head that grows by `more` bytes and `lines` lines stays within the limits.
fn check_growth(access: &impl Access, side: Side, more: usize, lines: usize) -> Result<(), Refused> {
    let limits = access.limits();
    if access.field_count(side).saturating_add(lines) > limits.field_lines
        || head_bytes(access, side).saturating_add(more) > limits.head_bytes
    {
        return Err(Refused::Limit);
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<(), Refused> {
    match name {
        name if !rules::is_token(name) => Err(Refused::Invalid),
        name if rules::is_host_only(name) => Err(Refused::Denied),
        _ => Ok(()),
    }
}

fn check_line(name: &[u8], value: &[u8]) -> Result<(), Refused> {
    check_name(name)?;
    if rules::is_field_value(value) { Ok(()) } else { Err(Refused::Invalid) }
}

/// # Safety
/// `ctx` must be null or come from [`Context::as_ctx`].
pub(super) unsafe extern "C" fn log_enabled(ctx: *mut abi::Ctx, level: i32) -> i32 {
    // SAFETY: by contract; contexts live until the process ends.
    let Some(context) = (unsafe { ctx.cast::<Context>().as_ref() }) else { return 0 };
    let level = Level::from_number(level);
    catch_unwind(AssertUnwindSafe(|| context.0.is_enabled(level))).map_err(std::mem::forget).is_ok_and(|on| on).into()
}

/// # Safety
/// As [`log_enabled`]; `message` must be readable.
pub(super) unsafe extern "C" fn log(ctx: *mut abi::Ctx, level: i32, message: Str) {
    guard(|| {
        // SAFETY: as in `log_enabled`.
        let context = unsafe { ctx.cast::<Context>().as_ref() }.ok_or(Refused::Invalid)?;
        context.0.log(Level::from_number(level), bytes(message)?);
        Ok(())
    });
}

// The functions below share one contract (Safety): `x` is the exchange of the hook that is running (see `reader`), every
// `Str` and array is readable, and every out pointer is null or writable, for the length of the call.

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn attr_get<A: Access>(x: *mut abi::Exchange, attr: u32, out: *mut Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { reader::<A>(x) }?;
        let attr = Attr::from_number(attr)?;
        if attr == Attr::Status && access.phase() == Phase::Request {
            return Err(Refused::WrongPhase);
        }
        let value = access.attr(attr).ok_or(Refused::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { give(out, Str::new(value)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn attr_set<A: Access>(x: *mut abi::Exchange, attr: u32, value: Str) -> Status {
    guard(|| {
        let attr = Attr::from_number(attr)?;
        let value = bytes(value)?;
        let is_valid = match attr {
            Attr::Method => rules::is_token(value),
            Attr::Target => rules::is_target(value),
            Attr::Authority => rules::is_authority(value),
            Attr::Status => return set_status::<A>(x, value),
            Attr::ClientAddr | Attr::RoutePrefix | Attr::Upstream | Attr::OriginalTarget => {
                return Err(Refused::Denied);
            }
        };
        // SAFETY: the contract of this file.
        let access = unsafe { judge::<A>(x, &[Phase::Request]) }?;
        if !is_valid {
            return Err(Refused::Invalid);
        }
        // An empty port is none, as in a Host that clients send.
        let value = if attr == Attr::Authority { value.strip_suffix(b":").unwrap_or(value) } else { value };
        let old = access.attr(attr).unwrap_or_default();
        if attr == Attr::Method && !rules::may_change_method(old, value) {
            return Err(Refused::Denied);
        }
        if value.len() > old.len() {
            check_growth(access, Side::Request, value.len() - old.len(), 0)?;
        }
        let value = Copied::new(value);
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { change::<A>(x) }.set_attr(attr, value.get());
        Ok(())
    })
}

fn set_status<A: Access>(x: *mut abi::Exchange, value: &[u8]) -> Result<(), Refused> {
    // SAFETY: the contract of this file, held by `attr_set`.
    let access = unsafe { judge::<A>(x, &[Phase::Response]) }?;
    let new = rules::parse_status(value).ok_or(Refused::Invalid)?;
    let old = access.attr(Attr::Status).unwrap_or_default();
    // Whether there is a body is not a choice of the head alone: the body is on its way already, or there is none.
    let is_bodiless = matches!(old, b"204" | b"304");
    if is_bodiless != rules::is_bodiless(new) {
        return Err(Refused::Denied);
    }
    // SAFETY: the contract of this file; what was borrowed is not used below.
    unsafe { change::<A>(x) }.set_status(new);
    Ok(())
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_count<A: Access>(x: *mut abi::Exchange, number: u32) -> usize {
    let mut count = 0;
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { reader::<A>(x) }?;
        count = access.field_count(readable(access, number)?);
        Ok(())
    });
    count
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_at<A: Access>(
    x: *mut abi::Exchange,
    number: u32,
    index: usize,
    out: *mut abi::Field,
) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { reader::<A>(x) }?;
        let (name, value) = access.field_at(readable(access, number)?, index).ok_or(Refused::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { give(out, abi::Field { name: Str::new(name), value: Str::new(value) }) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_get<A: Access>(
    x: *mut abi::Exchange,
    number: u32,
    name: Str,
    nth: usize,
    out: *mut Str,
) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { reader::<A>(x) }?;
        let side = readable(access, number)?;
        let name = bytes(name)?;
        let mut values = (0..access.field_count(side))
            .filter_map(|index| access.field_at(side, index))
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let (_, value) = values.nth(nth).ok_or(Refused::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { give(out, Str::new(value)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_set<A: Access>(
    x: *mut abi::Exchange,
    number: u32,
    name: Str,
    value: Str,
) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        let access = unsafe { judge::<A>(x, &written_in(side)) }?;
        let (name, value) = (bytes(name)?, bytes(value)?);
        check_line(name, value)?;
        // What the lines of that name take now becomes free.
        let (mut freed, mut is_new) = (0, true);
        for index in 0..access.field_count(side) {
            if let Some((other, old)) = access.field_at(side, index)
                && other.eq_ignore_ascii_case(name)
            {
                freed += other.len() + old.len() + LINE_EXTRA;
                is_new = false;
            }
        }
        let needed = name.len() + value.len() + LINE_EXTRA;
        if needed > freed {
            check_growth(access, side, needed - freed, usize::from(is_new))?;
        }
        let (name, value) = (Copied::new(name), Copied::new(value));
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { change::<A>(x) }.set_field(side, name.get(), value.get());
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_add<A: Access>(
    x: *mut abi::Exchange,
    number: u32,
    name: Str,
    value: Str,
) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        let access = unsafe { judge::<A>(x, &written_in(side)) }?;
        let (name, value) = (bytes(name)?, bytes(value)?);
        check_line(name, value)?;
        check_growth(access, side, name.len() + value.len() + LINE_EXTRA, 1)?;
        let (name, value) = (Copied::new(name), Copied::new(value));
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { change::<A>(x) }.add_field(side, name.get(), value.get());
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_remove<A: Access>(x: *mut abi::Exchange, number: u32, name: Str) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        unsafe { judge::<A>(x, &written_in(side)) }?;
        let name = bytes(name)?;
        check_name(name)?;
        let name = Copied::new(name);
        // SAFETY: the contract of this file; what was borrowed is not used below.
        if unsafe { change::<A>(x) }.remove_field(side, name.get()) { Ok(()) } else { Err(Refused::NotFound) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn value_get<A: Access>(x: *mut abi::Exchange, key: Str, out: *mut Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { reader::<A>(x) }?;
        let key = bytes(key)?;
        let (_, value) = access.values().iter().find(|(other, _)| other == key).ok_or(Refused::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { give(out, Str::new(value)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn value_set<A: Access>(x: *mut abi::Exchange, key: Str, value: Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { judge::<A>(x, &BOTH) }?;
        let is_removal = value.ptr.is_null() && value.len == 0;
        let (key, value) = (bytes(key)?, bytes(value)?);
        if key.is_empty() {
            return Err(Refused::Invalid);
        }
        let values = access.values();
        let size = |(key, value): &(Vec<u8>, Vec<u8>)| key.len() + value.len();
        let place = values.iter().position(|(other, _)| other == key);
        if !is_removal {
            let kept = values.iter().map(size).sum::<usize>() - place.map_or(0, |place| size(&values[place]));
            let keys = values.len() + usize::from(place.is_none());
            let bytes = kept.saturating_add(key.len()).saturating_add(value.len());
            if keys > rules::MAX_VALUE_KEYS || bytes > rules::MAX_VALUE_BYTES {
                return Err(Refused::Limit);
            }
        }
        let (key, value) = (key.to_vec(), value.to_vec());
        // SAFETY: the contract of this file; what was borrowed is not used below.
        let values = unsafe { change::<A>(x) }.values_mut();
        match place {
            Some(place) if is_removal => drop(values.remove(place)),
            Some(place) => values[place].1 = value,
            None if is_removal => return Err(Refused::NotFound),
            None => values.push((key, value)),
        }
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn respond<A: Access>(
    x: *mut abi::Exchange,
    status: u32,
    fields: *const abi::Field,
    count: usize,
    body: Str,
) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let limits = unsafe { judge::<A>(x, &BOTH) }?.limits();
        let body = bytes(body)?;
        let status =
            u16::try_from(status).ok().filter(|status| (200..=599).contains(status)).ok_or(Refused::Invalid)?;
        if rules::is_bodiless(status) && !body.is_empty() {
            return Err(Refused::Invalid);
        }
        if count > limits.field_lines || body.len() > limits.body_bytes {
            return Err(Refused::Limit);
        }
        let lines: &[abi::Field] = match count {
            0 => &[],
            _ if fields.is_null() || !fields.is_aligned() => return Err(Refused::Invalid),
            // SAFETY: not null, aligned, of a sane length, and by the contract of this file readable.
            _ => unsafe { std::slice::from_raw_parts(fields, count) },
        };
        let mut size = STATUS_LINE;
        let mut copies = Vec::with_capacity(count);
        for line in lines {
            let (name, value) = (bytes(line.name)?, bytes(line.value)?);
            check_line(name, value)?;
            // The host writes Date itself (RFC 9110 section 6.6.1).
            if name.eq_ignore_ascii_case(b"date") {
                return Err(Refused::Denied);
            }
            size = size.saturating_add(name.len() + value.len() + LINE_EXTRA);
            if size > limits.head_bytes {
                return Err(Refused::Limit);
            }
            copies.push((name.to_vec(), value.to_vec()));
        }
        let body = body.to_vec();
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { change::<A>(x) }.set_answer(status, copies, body);
        Ok(())
    })
}

/// Whether the plugin asked for the body of that side.
fn check_wanted(access: &impl Access, side: Side) -> Result<(), Refused> {
    let flag = match side {
        Side::Request => abi::WANT_REQUEST_BODY,
        Side::Response => abi::WANT_RESPONSE_BODY,
    };
    // Whether a neighbour asked must not matter: a plugin behaves the same in every chain.
    if access.flags() & flag == 0 { Err(Refused::Unsupported) } else { Ok(()) }
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn body_get<A: Access>(x: *mut abi::Exchange, number: u32, out: *mut Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { reader::<A>(x) }?;
        let side = readable(access, number)?;
        check_wanted(access, side)?;
        let body = access.body(side).ok_or(Refused::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { give(out, Str::new(body)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn body_set<A: Access>(x: *mut abi::Exchange, number: u32, body: Str) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        let access = unsafe { judge::<A>(x, &written_in(side)) }?;
        check_wanted(access, side)?;
        let body = bytes(body)?;
        if access.body(side).is_none() {
            // The answer to a HEAD, a 204 or a 304: there is no place for a body.
            return Err(Refused::NotFound);
        }
        if body.len() > access.limits().body_bytes {
            return Err(Refused::Limit);
        }
        let body = body.to_vec();
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { change::<A>(x) }.set_body(side, body);
        Ok(())
    })
}
