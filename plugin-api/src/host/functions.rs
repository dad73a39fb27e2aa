//! The C functions. A setter has two halves: it checks with shared access, then it changes with exclusive access.
//!
//! An argument may point into the message that is about to change (a value that a getter has just returned). So arguments
//! are copied between the halves, and the second one reads no borrowed byte.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Attr, Context, ExchangeAccess, ExchangeHandle, InstanceAccess, OPEN, Phase, Side};
use crate::abi::{self, Status, Str};
use crate::types::{HostError, Level};
use crate::validate;

/// Runs `body`. A panic in it is a bug of the host: the plugin gets "invalid", and the payload is forgotten.
fn guard(body: impl FnOnce() -> Result<(), HostError>) -> Status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => abi::OK,
        Ok(Err(error)) => error.status(),
        Err(payload) => {
            std::mem::forget(payload);
            abi::INVALID
        }
    }
}

/// The access behind an exchange pointer, to read.
///
/// # Safety
/// `x` must be null or come from [`ExchangeHandle::as_exchange`] of a `ExchangeHandle<A>` (up to lifetimes) whose hook is running. The
/// result must not be used after the C function has returned, or beside that of [`exclusive`].
unsafe fn shared<'x, A>(x: *mut abi::Exchange) -> Result<&'x A, HostError> {
    let handle = x.cast::<ExchangeHandle<A>>();
    if handle.is_null() || !handle.is_aligned() {
        return Err(HostError::Invalid);
    }
    // SAFETY: by the contract of this function. Only shared, since the plugin may hold bytes of earlier getters.
    let handle = unsafe { &*handle };
    if handle.magic == OPEN { Ok(&handle.access) } else { Err(HostError::Invalid) }
}

/// Like [`shared`], for the first half of a change: refuses outside of `phases`.
///
/// # Safety
/// As [`shared`].
unsafe fn checked<'x, A: ExchangeAccess>(x: *mut abi::Exchange, phases: &[Phase]) -> Result<&'x A, HostError> {
    // SAFETY: passed on to the caller.
    let access = unsafe { shared::<A>(x) }?;
    if phases.contains(&access.phase()) { Ok(access) } else { Err(HostError::WrongPhase) }
}

/// The access behind an exchange pointer that [`checked`] has checked, to write.
///
/// # Safety
/// As [`shared`]; and no reference into the exchange is used while the result is.
unsafe fn exclusive<'x, A>(x: *mut abi::Exchange) -> &'x mut A {
    // SAFETY: by the contract; a hook runs on one thread and is never re-entered, so there is no other reference.
    unsafe { &mut (*x.cast::<ExchangeHandle<A>>()).access }
}

fn bytes<'a>(text: Str) -> Result<&'a [u8], HostError> {
    // SAFETY: the plugin lends it for this call, and nothing below keeps it beyond.
    unsafe { text.bytes() }.ok_or(HostError::Invalid)
}

/// # Safety
/// `out` must be null or writable.
unsafe fn write_out<T>(out: *mut T, value: T) -> Result<(), HostError> {
    if out.is_null() {
        return Err(HostError::Invalid);
    }
    // SAFETY: not null, and writable by contract.
    unsafe { out.write(value) };
    Ok(())
}

/// A copy of an argument. Short ones, which are nearly all, stay on the stack.
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

fn side(number: u32) -> Result<Side, HostError> {
    match number {
        abi::REQUEST => Ok(Side::Request),
        abi::RESPONSE => Ok(Side::Response),
        _ => Err(HostError::Unsupported),
    }
}

/// The side of a getter: there is no response in the request phase.
fn readable(access: &impl ExchangeAccess, number: u32) -> Result<Side, HostError> {
    match (side(number)?, access.phase()) {
        (Side::Response, Phase::Request) => Err(HostError::WrongPhase),
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
fn head_bytes(access: &impl ExchangeAccess, side: Side) -> usize {
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
fn check_growth(access: &impl ExchangeAccess, side: Side, more: usize, lines: usize) -> Result<(), HostError> {
    let limits = access.limits();
    if access.field_count(side).saturating_add(lines) > limits.field_lines
        || head_bytes(access, side).saturating_add(more) > limits.head_bytes
    {
        return Err(HostError::Limit);
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<(), HostError> {
    match name {
        name if !validate::is_token(name) => Err(HostError::Invalid),
        name if validate::is_host_only(name) => Err(HostError::Denied),
        _ => Ok(()),
    }
}

fn check_line(name: &[u8], value: &[u8]) -> Result<(), HostError> {
    check_name(name)?;
    if validate::is_field_value(value) { Ok(()) } else { Err(HostError::Invalid) }
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
        instance(ctx)?.log(Level::from_number(level), bytes(message)?);
        Ok(())
    });
}

/// `ctx` must be null or come from [`Context::as_ctx`], as it does in all functions that take one.
fn instance<'a>(ctx: *mut abi::Ctx) -> Result<&'a dyn InstanceAccess, HostError> {
    // SAFETY: by contract; contexts live until the process ends.
    unsafe { ctx.cast::<Context>().as_ref() }.map(|context| &*context.0).ok_or(HostError::Invalid)
}

fn text<'a>(bytes_of: Str) -> Result<&'a str, HostError> {
    std::str::from_utf8(bytes(bytes_of)?).map_err(|_| HostError::Invalid)
}

fn known_flags(flags: u32) -> Result<u32, HostError> {
    if flags & !abi::KNOWN_FLAGS == 0 { Ok(flags) } else { Err(HostError::Unsupported) }
}

/// # Safety
/// As [`log_enabled`].
pub(super) unsafe extern "C" fn want(ctx: *mut abi::Ctx, flags: u32) -> Status {
    guard(|| instance(ctx)?.want(known_flags(flags)?))
}

/// # Safety
/// As [`log_enabled`]; `pointer` must be readable, `out` null or writable.
pub(super) unsafe extern "C" fn config_get(ctx: *mut abi::Ctx, pointer: Str, out: *mut Str) -> Status {
    guard(|| {
        let value = instance(ctx)?.config(text(pointer)?)?;
        // SAFETY: by contract.
        unsafe { write_out(out, Str::new(value)) }
    })
}

/// # Safety
/// As [`log_enabled`]; `name` and `help` must be readable, `out` null or writable.
pub(super) unsafe extern "C" fn metric_define(
    ctx: *mut abi::Ctx,
    kind: u32,
    name: Str,
    help: Str,
    out: *mut u32,
) -> Status {
    guard(|| {
        let is_gauge = match kind {
            abi::METRIC_COUNTER => false,
            abi::METRIC_GAUGE => true,
            _ => return Err(HostError::Unsupported),
        };
        let (name, help) = (text(name)?, text(help)?);
        if out.is_null() || !validate::is_metric_name(name) || help.contains(['\n', '\r', '\\']) {
            return Err(HostError::Invalid);
        }
        let metric = instance(ctx)?.define_metric(is_gauge, name, help)?;
        // SAFETY: by contract.
        unsafe { write_out(out, metric) }
    })
}

/// # Safety
/// As [`log_enabled`].
pub(super) unsafe extern "C" fn metric_add(ctx: *mut abi::Ctx, metric: u32, delta: i64) -> Status {
    guard(|| instance(ctx)?.add_to_metric(metric, delta))
}

/// # Safety
/// As [`log_enabled`].
pub(super) unsafe extern "C" fn resume(ctx: *mut abi::Ctx, ticket: u64, verdict: abi::Verdict) -> Status {
    guard(|| match verdict {
        abi::CONTINUE | abi::FAIL => instance(ctx)?.resume(ticket, verdict == abi::CONTINUE),
        _ => Err(HostError::Invalid),
    })
}

// The functions below share one contract (Safety): `x` is the exchange of the hook that is running (see `shared`), every
// `Str` and array is readable, and every out pointer is null or writable, for the length of the call.

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn attr_get<A: ExchangeAccess>(x: *mut abi::Exchange, attr: u32, out: *mut Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { shared::<A>(x) }?;
        let attr = Attr::from_number(attr)?;
        if attr == Attr::Status && access.phase() == Phase::Request {
            return Err(HostError::WrongPhase);
        }
        let value = access.attr(attr).ok_or(HostError::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { write_out(out, Str::new(value)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn attr_set<A: ExchangeAccess>(x: *mut abi::Exchange, attr: u32, value: Str) -> Status {
    guard(|| {
        let attr = Attr::from_number(attr)?;
        let value = bytes(value)?;
        let is_valid = match attr {
            Attr::Method => validate::is_token(value),
            Attr::Target => validate::is_target(value),
            Attr::Authority => validate::is_authority(value),
            Attr::Status => return set_status::<A>(x, value),
            _ => return Err(HostError::Denied),
        };
        // SAFETY: the contract of this file.
        let access = unsafe { checked::<A>(x, &[Phase::Request]) }?;
        if !is_valid {
            return Err(HostError::Invalid);
        }
        // An empty port is none, as in a Host that clients send.
        let value = if attr == Attr::Authority { value.strip_suffix(b":").unwrap_or(value) } else { value };
        let old = access.attr(attr).unwrap_or_default();
        if attr == Attr::Method && !validate::may_change_method(old, value) {
            return Err(HostError::Denied);
        }
        if value.len() > old.len() {
            check_growth(access, Side::Request, value.len() - old.len(), 0)?;
        }
        let value = Copied::new(value);
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { exclusive::<A>(x) }.set_attr(attr, value.get());
        Ok(())
    })
}

fn set_status<A: ExchangeAccess>(x: *mut abi::Exchange, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: the contract of this file, held by `attr_set`.
    let access = unsafe { checked::<A>(x, &[Phase::Response]) }?;
    let new = validate::parse_status(value).ok_or(HostError::Invalid)?;
    let old = access.attr(Attr::Status).unwrap_or_default();
    // Whether there is a body is not a choice of the head alone: the body is on its way already, or there is none.
    let is_bodiless = matches!(old, b"204" | b"304");
    if is_bodiless != validate::is_bodiless(new) {
        return Err(HostError::Denied);
    }
    // SAFETY: the contract of this file; what was borrowed is not used below.
    unsafe { exclusive::<A>(x) }.set_status(new);
    Ok(())
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_count<A: ExchangeAccess>(x: *mut abi::Exchange, number: u32) -> usize {
    let mut count = 0;
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { shared::<A>(x) }?;
        count = access.field_count(readable(access, number)?);
        Ok(())
    });
    count
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_at<A: ExchangeAccess>(
    x: *mut abi::Exchange,
    number: u32,
    index: usize,
    out: *mut abi::Field,
) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { shared::<A>(x) }?;
        let (name, value) = access.field_at(readable(access, number)?, index).ok_or(HostError::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { write_out(out, abi::Field { name: Str::new(name), value: Str::new(value) }) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_get<A: ExchangeAccess>(
    x: *mut abi::Exchange,
    number: u32,
    name: Str,
    nth: usize,
    out: *mut Str,
) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { shared::<A>(x) }?;
        let side = readable(access, number)?;
        let name = bytes(name)?;
        let mut values = (0..access.field_count(side))
            .filter_map(|index| access.field_at(side, index))
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let (_, value) = values.nth(nth).ok_or(HostError::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { write_out(out, Str::new(value)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_set<A: ExchangeAccess>(
    x: *mut abi::Exchange,
    number: u32,
    name: Str,
    value: Str,
) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        let access = unsafe { checked::<A>(x, &written_in(side)) }?;
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
        unsafe { exclusive::<A>(x) }.set_field(side, name.get(), value.get());
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_add<A: ExchangeAccess>(
    x: *mut abi::Exchange,
    number: u32,
    name: Str,
    value: Str,
) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        let access = unsafe { checked::<A>(x, &written_in(side)) }?;
        let (name, value) = (bytes(name)?, bytes(value)?);
        check_line(name, value)?;
        check_growth(access, side, name.len() + value.len() + LINE_EXTRA, 1)?;
        let (name, value) = (Copied::new(name), Copied::new(value));
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { exclusive::<A>(x) }.add_field(side, name.get(), value.get());
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn field_remove<A: ExchangeAccess>(
    x: *mut abi::Exchange,
    number: u32,
    name: Str,
) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        unsafe { checked::<A>(x, &written_in(side)) }?;
        let name = bytes(name)?;
        check_name(name)?;
        let name = Copied::new(name);
        // SAFETY: the contract of this file; what was borrowed is not used below.
        if unsafe { exclusive::<A>(x) }.remove_field(side, name.get()) { Ok(()) } else { Err(HostError::NotFound) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn value_get<A: ExchangeAccess>(x: *mut abi::Exchange, key: Str, out: *mut Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { shared::<A>(x) }?;
        let key = bytes(key)?;
        let (_, value) = access.values().iter().find(|(other, _)| other == key).ok_or(HostError::NotFound)?;
        // SAFETY: the contract of this file.
        unsafe { write_out(out, Str::new(value)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn value_set<A: ExchangeAccess>(x: *mut abi::Exchange, key: Str, value: Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { checked::<A>(x, &BOTH) }?;
        let is_removal = value.ptr.is_null() && value.len == 0;
        let (key, value) = (bytes(key)?, bytes(value)?);
        if key.is_empty() {
            return Err(HostError::Invalid);
        }
        let values = access.values();
        let size = |(key, value): &(Vec<u8>, Vec<u8>)| key.len() + value.len();
        let place = values.iter().position(|(other, _)| other == key);
        if !is_removal {
            let kept = values.iter().map(size).sum::<usize>() - place.map_or(0, |place| size(&values[place]));
            let keys = values.len() + usize::from(place.is_none());
            let bytes = kept.saturating_add(key.len()).saturating_add(value.len());
            if keys > validate::MAX_VALUE_KEYS || bytes > validate::MAX_VALUE_BYTES {
                return Err(HostError::Limit);
            }
        }
        let (key, value) = (key.to_vec(), value.to_vec());
        // SAFETY: the contract of this file; what was borrowed is not used below.
        let values = unsafe { exclusive::<A>(x) }.values_mut();
        match place {
            Some(place) if is_removal => drop(values.remove(place)),
            Some(place) => values[place].1 = value,
            None if is_removal => return Err(HostError::NotFound),
            None => values.push((key, value)),
        }
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn respond<A: ExchangeAccess>(
    x: *mut abi::Exchange,
    status: u32,
    fields: *const abi::Field,
    count: usize,
    body: Str,
) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let limits = unsafe { checked::<A>(x, &BOTH) }?.limits();
        let body = bytes(body)?;
        let status =
            u16::try_from(status).ok().filter(|status| (200..=599).contains(status)).ok_or(HostError::Invalid)?;
        if validate::is_bodiless(status) && !body.is_empty() {
            return Err(HostError::Invalid);
        }
        if count > limits.field_lines || body.len() > limits.body_bytes {
            return Err(HostError::Limit);
        }
        let lines: &[abi::Field] = match count {
            0 => &[],
            _ if fields.is_null() || !fields.is_aligned() => return Err(HostError::Invalid),
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
                return Err(HostError::Denied);
            }
            size = size.saturating_add(name.len() + value.len() + LINE_EXTRA);
            if size > limits.head_bytes {
                return Err(HostError::Limit);
            }
            copies.push((name.to_vec(), value.to_vec()));
        }
        let body = body.to_vec();
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { exclusive::<A>(x) }.set_answer(status, copies, body);
        Ok(())
    })
}

/// Whether the plugin asked for the body of that side.
fn check_wanted(access: &impl ExchangeAccess, side: Side) -> Result<(), HostError> {
    let flag = match side {
        Side::Request => abi::WANT_REQUEST_BODY,
        Side::Response => abi::WANT_RESPONSE_BODY,
    };
    // Whether a neighbour asked must not matter: a plugin behaves the same in every chain.
    if access.flags() & flag == 0 { Err(HostError::Unsupported) } else { Ok(()) }
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn body_get<A: ExchangeAccess>(
    x: *mut abi::Exchange,
    number: u32,
    out: *mut Str,
) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { shared::<A>(x) }?;
        let side = readable(access, number)?;
        check_wanted(access, side)?;
        let body = access.body(side)?;
        // SAFETY: the contract of this file.
        unsafe { write_out(out, Str::new(body)) }
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn body_set<A: ExchangeAccess>(x: *mut abi::Exchange, number: u32, body: Str) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        let access = unsafe { checked::<A>(x, &written_in(side)) }?;
        check_wanted(access, side)?;
        let body = bytes(body)?;
        access.body(side)?;
        if body.len() > access.limits().body_bytes {
            return Err(HostError::Limit);
        }
        let body = body.to_vec();
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { exclusive::<A>(x) }.set_body(side, body);
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn log_exchange<A: ExchangeAccess>(x: *mut abi::Exchange, level: i32, message: Str) {
    guard(|| {
        // SAFETY: the contract of this file.
        let access = unsafe { shared::<A>(x) }?;
        access.log(Level::from_number(level), bytes(message)?);
        Ok(())
    });
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn access_add<A: ExchangeAccess>(x: *mut abi::Exchange, key: Str, value: Str) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        let pairs = unsafe { shared::<A>(x) }?.access_pairs();
        let (key, value) = (bytes(key)?, bytes(value)?);
        if !validate::is_token(key) {
            return Err(HostError::Invalid);
        }
        // One key must not have two values in a line, of which one is not true.
        if validate::ACCESS_KEYS.split(' ').any(|own| own.as_bytes().eq_ignore_ascii_case(key)) {
            return Err(HostError::Denied);
        }
        let place = pairs.iter().position(|(other, _)| other == key);
        let is_long = key.len() > validate::MAX_PAIR_KEY || value.len() > validate::MAX_PAIR_VALUE;
        if is_long || (place.is_none() && pairs.len() >= validate::MAX_PAIRS) {
            return Err(HostError::Limit);
        }
        let (key, value) = (key.to_vec(), value.to_vec());
        // SAFETY: the contract of this file; what was borrowed is not used below.
        let pairs = unsafe { exclusive::<A>(x) }.access_pairs_mut();
        match place {
            Some(place) => pairs[place].1 = value,
            None => pairs.push((key, value)),
        }
        Ok(())
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn want_body<A: ExchangeAccess>(x: *mut abi::Exchange, number: u32, flags: u32) -> Status {
    guard(|| {
        let side = side(number)?;
        // SAFETY: the contract of this file.
        let access = unsafe { checked::<A>(x, &BOTH) }?;
        if side == Side::Request && access.phase() == Phase::Response {
            return Err(HostError::WrongPhase);
        }
        if flags & !abi::BODY_OPTIONAL != 0 {
            return Err(HostError::Unsupported);
        }
        // SAFETY: the contract of this file; what was borrowed is not used below.
        unsafe { exclusive::<A>(x) }.want_body(side, flags)
    })
}

/// # Safety
/// The contract of this file.
pub(super) unsafe extern "C" fn pause<A: ExchangeAccess>(x: *mut abi::Exchange, out: *mut u64) -> Status {
    guard(|| {
        // SAFETY: the contract of this file.
        unsafe { checked::<A>(x, &BOTH) }?;
        if out.is_null() {
            return Err(HostError::Invalid);
        }
        // SAFETY: the contract of this file; what was borrowed is not used below.
        let ticket = unsafe { exclusive::<A>(x) }.pause()?;
        // SAFETY: the contract of this file.
        unsafe { write_out(out, ticket) }
    })
}
