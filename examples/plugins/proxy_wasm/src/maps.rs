//! Field lines and pseudo headers: the `header_map` functions.
//!
//! A module sees the request as the client has sent it, and the response as the upstream has. What it changes is applied to
//! what is forwarded. `:method`, `:path`, `:authority`, `:scheme` and `:status` stand beside the field lines, as in HTTP/2,
//! and names are in lower case, since filters compare them so.
//!
//! What only the proxy may write (`content-length`, `connection` ...) is left as it is, and the module gets `OK`: many filters
//! remove the length of a body that they change, which the proxy does by itself, and the Rust SDK panics on any other status.

use mini_rproxy_plugin::client::Answer;
use mini_rproxy_plugin::{HostError, validate};

use crate::exchange::{Exchange, Side};
use crate::guest::{Guest, Outcome, Status};
use crate::state::{Context, State};
use crate::target;

/// What a number of `proxy_map_type_t` stands for.
#[derive(Clone, Copy)]
enum Map {
    Head(Side),
    /// That of the answer to a call.
    Call,
    /// Those that are always empty here: trailers pass by plugins, and there is no gRPC.
    Empty,
}

impl Map {
    fn of(number: u32) -> Result<Map, Status> {
        match number {
            0 => Ok(Map::Head(Side::Request)),
            2 => Ok(Map::Head(Side::Response)),
            6 => Ok(Map::Call),
            1 | 3..=5 | 7 => Ok(Map::Empty),
            _ => Err(Status::BadArgument),
        }
    }

    /// The message that may be changed.
    fn side(number: u32) -> Result<Side, Status> {
        match Map::of(number)? {
            Map::Head(side) => Ok(side),
            Map::Call | Map::Empty => Err(Status::BadArgument),
        }
    }
}

/// Calls `each` for each line of a map, pseudo headers first.
fn for_each(exchange: &Exchange<'_, '_>, context: &Context, side: Side, mut each: impl FnMut(&[u8], &[u8])) {
    let pseudo: &[&[u8]] = match side {
        Side::Request => &[b":authority", b":path", b":method", b":scheme"],
        Side::Response => &[b":status"],
    };
    let mut buffer = [0; 3];
    for name in pseudo {
        if let Some(value) = pseudo_header(exchange, context, side, name, &mut buffer) {
            each(name, value);
        }
    }
    for (name, value) in exchange.fields(side).into_iter().flatten() {
        each(name, value);
    }
}

/// How many lines `for_each` gives.
pub fn count(exchange: &Exchange<'_, '_>, side: Side) -> u32 {
    let pseudo = if side == Side::Request { 4 } else { 1 };
    // Of all lines there are as many as there can be: nobody has to ask for each.
    exchange.fields(side).map_or(0, |fields| pseudo + fields.size_hint().1.unwrap_or(0) as u32)
}

/// The value of a pseudo header. `digits` is where a status is written.
fn pseudo_header<'v>(
    exchange: &'v Exchange<'_, '_>,
    context: &'v Context,
    side: Side,
    name: &[u8],
    digits: &'v mut [u8; 3],
) -> Option<&'v [u8]> {
    match (side, name) {
        (Side::Request, b":method") => Some(exchange.request().method()),
        (Side::Request, b":path") => Some(path(exchange, context)),
        (Side::Request, b":authority" | b"host") => Some(authority(exchange, context)),
        (Side::Request, b":scheme") => Some(exchange.request().scheme().as_bytes()),
        (Side::Response, b":status") => {
            *digits = status_digits(exchange.response()?.status());
            Some(digits)
        }
        _ => None,
    }
}

fn status_digits(status: u16) -> [u8; 3] {
    [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8)
}

/// The client's target, or what the module has made of it.
pub fn path<'v>(exchange: &'v Exchange<'_, '_>, context: &'v Context) -> &'v [u8] {
    context.path.as_deref().unwrap_or_else(|| exchange.request().original_target())
}

/// The Host that the client sent, or what the module has made of it.
pub fn authority<'v>(exchange: &'v Exchange<'_, '_>, context: &'v Context) -> &'v [u8] {
    context.authority.as_deref().unwrap_or_else(|| exchange.request().client_host())
}

/// Appends the value of that name to `out`: several lines as one, with commas. Says whether there was one.
pub fn value(exchange: &Exchange<'_, '_>, context: &Context, side: Side, name: &[u8], out: &mut Vec<u8>) -> bool {
    if name.first() == Some(&b':') || name.eq_ignore_ascii_case(b"host") {
        let mut digits = [0; 3];
        let value = pseudo_header(exchange, context, side, &name.to_ascii_lowercase(), &mut digits);
        out.extend_from_slice(value.unwrap_or_default());
        return value.is_some();
    }
    join((0..).map_while(|nth| exchange.nth_field(side, name, nth)), out)
}

/// The same for the answer to a call.
fn call_value(answer: &Answer, name: &[u8], out: &mut Vec<u8>) -> bool {
    if name == b":status" {
        out.extend_from_slice(&status_digits(answer.status));
        return true;
    }
    std::str::from_utf8(name).is_ok_and(|name| join(answer.all(name), out))
}

fn join<'v>(values: impl Iterator<Item = &'v [u8]>, out: &mut Vec<u8>) -> bool {
    let mut count = 0;
    for value in values {
        if count > 0 {
            out.push(b',');
        }
        out.extend_from_slice(value);
        count += 1;
    }
    count > 0
}

/// Writes a map as `proxy_get_header_map_pairs` gives it: the count, the lengths, then names and values with a NUL behind each.
struct Pairs<'o> {
    out: &'o mut Vec<u8>,
    /// Where the lengths of the next line go.
    at: usize,
}

impl<'o> Pairs<'o> {
    /// A map of so many lines, behind nothing. Without lines it is no bytes.
    fn new(count: usize, out: &'o mut Vec<u8>) -> Pairs<'o> {
        if count > 0 {
            out.extend_from_slice(&(count as u32).to_le_bytes());
            out.resize(4 + 8 * count, 0);
        }
        Pairs { out, at: 4 }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, value] {
            self.out[self.at..self.at + 4].copy_from_slice(&(part.len() as u32).to_le_bytes());
            self.at += 4;
        }
        self.out.extend(name.iter().map(u8::to_ascii_lowercase));
        self.out.push(0);
        self.out.extend_from_slice(value);
        self.out.push(0);
    }
}

/// Names and values, in order.
type Lines<'b> = Vec<(&'b [u8], &'b [u8])>;

/// The other way: names and values of a serialized map.
pub fn parse_pairs(bytes: &[u8]) -> Result<Lines<'_>, Status> {
    // An empty map is no bytes, or a single zero.
    if matches!(bytes, [] | [0]) {
        return Ok(Vec::new());
    }
    let number = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let parse = || {
        let count = number(0)?;
        let mut at = count.checked_mul(8)?.checked_add(4)?;
        // As many lines must fit in: a false count reserves no memory.
        if at > bytes.len() {
            return None;
        }
        let mut next = |len: usize| {
            let end = at.checked_add(len)?;
            let part = bytes.get(at..end)?;
            at = end.checked_add(1)?;
            (bytes.get(end) == Some(&0)).then_some(part)
        };
        (0..count).map(|index| Some((next(number(4 + 8 * index)?)?, next(number(8 + 8 * index)?)?))).collect()
    };
    parse().ok_or(Status::BadArgument)
}

/// `proxy_get_header_map_size`
pub fn size(guest: &mut Guest<'_>, map: u32, size_at: u32) -> Outcome {
    let mut bytes = Vec::new();
    serialize(guest.state(), map, &mut bytes)?;
    guest.charge_bytes(bytes.len())?;
    guest.memory()?.write_u32(size_at, bytes.len() as u32)
}

/// `proxy_get_header_map_pairs`
pub fn pairs(guest: &mut Guest<'_>, map: u32, data_at: u32, len_at: u32) -> Outcome {
    guest.give(data_at, len_at, |_, state, out| serialize(state, map, out))
}

fn serialize(state: &mut State, map: u32, out: &mut Vec<u8>) -> Outcome {
    match Map::of(map)? {
        Map::Head(side) => {
            if let Some((exchange, context)) = state.exchange_and_context() {
                let mut pairs = Pairs::new(count(exchange, side) as usize, out);
                for_each(exchange, context, side, |name, value| pairs.add(name, value));
            }
        }
        Map::Call => {
            if let Some(answer) = &state.call_answer {
                let mut pairs = Pairs::new(answer.fields.len() + 1, out);
                pairs.add(b":status", &status_digits(answer.status));
                answer.fields.iter().for_each(|(name, value)| pairs.add(name.as_bytes(), value));
            }
        }
        Map::Empty => {}
    }
    Ok(())
}

/// `proxy_get_header_map_value`
pub fn get(guest: &mut Guest<'_>, map: u32, name: u32, name_len: u32, data_at: u32, len_at: u32) -> Outcome {
    let map = Map::of(map)?;
    guest.charge_bytes(name_len as usize)?;
    guest.give(data_at, len_at, |memory, state, out| {
        let name = memory.bytes(name, name_len)?;
        let found = match map {
            Map::Head(side) => state
                .exchange_and_context()
                .is_some_and(|(exchange, context)| value(exchange, context, side, name, out)),
            Map::Call => state.call_answer.as_ref().is_some_and(|answer| call_value(answer, name, out)),
            Map::Empty => false,
        };
        if found { Ok(()) } else { Err(Status::NotFound.into()) }
    })
}

/// What a change does to the lines of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change<'a> {
    Add(&'a [u8]),
    Replace(&'a [u8]),
    Remove,
}

/// `proxy_add_header_map_value`
pub fn add(guest: &mut Guest<'_>, map: u32, name: u32, name_len: u32, value: u32, value_len: u32) -> Outcome {
    change(guest, map, (name, name_len), Some((value, value_len)), true)
}

/// `proxy_replace_header_map_value`
pub fn replace(guest: &mut Guest<'_>, map: u32, name: u32, name_len: u32, value: u32, value_len: u32) -> Outcome {
    change(guest, map, (name, name_len), Some((value, value_len)), false)
}

/// `proxy_remove_header_map_value`
pub fn remove(guest: &mut Guest<'_>, map: u32, name: u32, name_len: u32) -> Outcome {
    change(guest, map, (name, name_len), None, false)
}

fn change(guest: &mut Guest<'_>, map: u32, name: (u32, u32), value: Option<(u32, u32)>, adds: bool) -> Outcome {
    let side = Map::side(map)?;
    guest.charge_bytes((name.1 as usize).saturating_add(value.map_or(0, |value| value.1 as usize)))?;
    let (memory, state) = guest.parts()?;
    let name = memory.bytes(name.0, name.1)?;
    let change = match value {
        Some((at, len)) if adds => Change::Add(memory.bytes(at, len)?),
        Some((at, len)) => Change::Replace(memory.bytes(at, len)?),
        None => Change::Remove,
    };
    let (exchange, context) = state.exchange_and_context().ok_or(Status::BadArgument)?;
    apply(exchange, context, side, name, change)
}

fn apply(
    exchange: &mut Exchange<'_, '_>,
    context: &mut Context,
    side: Side,
    name: &[u8],
    change: Change<'_>,
) -> Outcome {
    if !exchange.is_writable(side) {
        return Err(Status::BadArgument.into());
    }
    let result = match (name.first(), change) {
        (Some(b':'), Change::Add(value) | Change::Replace(value)) => {
            return set_pseudo_header(exchange, context, side, &name.to_ascii_lowercase(), value);
        }
        // A message is nothing without them.
        (Some(b':'), Change::Remove) => return Ok(()),
        (_, Change::Add(value) | Change::Replace(value))
            if side == Side::Request && name.eq_ignore_ascii_case(b"host") =>
        {
            return set_pseudo_header(exchange, context, side, b":authority", value);
        }
        (_, Change::Add(value)) => exchange.add_field(side, name, trimmed(value)),
        (_, Change::Replace(value)) => exchange.set_field(side, name, trimmed(value)),
        (_, Change::Remove) => exchange.remove_field(side, name),
    };
    outcome(result)
}

/// White space around a value is no part of it; a line break is no white space.
pub fn trimmed(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// What the host said, as the interface says it.
fn outcome(result: Result<(), HostError>) -> Outcome {
    match result {
        Ok(()) | Err(HostError::Denied) => Ok(()),
        Err(HostError::Limit) => Err(Status::InternalFailure.into()),
        Err(_) => Err(Status::BadArgument.into()),
    }
}

fn set_pseudo_header(
    exchange: &mut Exchange<'_, '_>,
    context: &mut Context,
    side: Side,
    name: &[u8],
    value: &[u8],
) -> Outcome {
    match (side, name) {
        (Side::Request, b":method") => outcome(exchange.set_method(value)),
        (Side::Request, b":path") => {
            if !validate::is_target(value) {
                return Err(Status::BadArgument.into());
            }
            let target = target::forwarded(exchange.request(), value);
            outcome(exchange.set_target(&target))?;
            context.path = Some(value.to_vec());
            Ok(())
        }
        (Side::Request, b":authority") => {
            outcome(exchange.set_authority(value))?;
            context.authority = Some(value.to_vec());
            Ok(())
        }
        // How the proxy speaks to the upstream is not the module's to say.
        (Side::Request, b":scheme") => Ok(()),
        (Side::Response, b":status") => {
            let status = validate::parse_status(value).ok_or(Status::BadArgument)?;
            outcome(exchange.set_status(status))
        }
        _ => Err(Status::BadArgument.into()),
    }
}

/// `proxy_set_header_map_pairs`: what the map does not name is removed, but for pseudo headers and what only the proxy writes.
pub fn set_pairs(guest: &mut Guest<'_>, map: u32, data: u32, len: u32) -> Outcome {
    let side = Map::side(map)?;
    guest.charge_bytes((len as usize).saturating_mul(2))?;
    let (memory, state) = guest.parts()?;
    let pairs = parse_pairs(memory.bytes(data, len)?)?;
    // All or nothing: what is wrong shows before anything is changed.
    let is_valid = |&(name, value): &(&[u8], &[u8])| {
        name.first() == Some(&b':') || (validate::is_token(name) && validate::is_field_value(trimmed(value)))
    };
    let (exchange, context) = state.exchange_and_context().ok_or(Status::BadArgument)?;
    if !exchange.is_writable(side) || !pairs.iter().all(is_valid) {
        return Err(Status::BadArgument.into());
    }
    let old: Vec<Vec<u8>> = exchange.fields(side).into_iter().flatten().map(|(name, _)| name.to_vec()).collect();
    for name in old {
        apply(exchange, context, side, &name, Change::Remove)?;
    }
    for (name, value) in pairs {
        apply(exchange, context, side, name, Change::Add(value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serialized(lines: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut pairs = Pairs::new(lines.len(), &mut out);
        for (name, value) in lines {
            pairs.add(name.as_bytes(), value.as_bytes());
        }
        out
    }

    #[test]
    fn pairs_are_written_as_the_specification_shows() {
        // Its example: {{"a": "1"}, {"b": "22"}}.
        let expected = b"\x02\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x02\0\0\0a\x001\0b\x0022\0";
        assert_eq!(serialized(&[("A", "1"), ("b", "22")]), expected);
        assert_eq!(parse_pairs(expected).unwrap(), [(&b"a"[..], &b"1"[..]), (b"b", b"22")]);
        assert_eq!(serialized(&[]), b"");
        assert!(parse_pairs(b"").unwrap().is_empty() && parse_pairs(b"\0").unwrap().is_empty());
    }

    #[test]
    fn pairs_that_are_cut_or_lie_are_refused() {
        let whole = serialized(&[("name", "value"), ("other", "")]);
        for len in 2..whole.len() {
            assert_eq!(parse_pairs(&whole[..len]), Err(Status::BadArgument), "{len}");
        }
        for at in 0..20 {
            let mut changed = whole.clone();
            changed[at] = 0xff;
            assert_eq!(parse_pairs(&changed), Err(Status::BadArgument), "{at}");
        }
        assert_eq!(parse_pairs(&[0xff; 64]), Err(Status::BadArgument));
    }
}
