//! Properties: `proxy_get_property` and `proxy_set_property`.
//!
//! Paths and encodings are those of Envoy, since filters ask for them: strings as they are, numbers as 64-bit little-endian
//! integers, truths as one byte. What this host does not know is `NOT_FOUND`, which every SDK takes for "absent".

use std::time::{SystemTime, UNIX_EPOCH};

use crate::exchange::{Exchange, Side};
use crate::guest::{Guest, Outcome, Status};
use crate::maps;
use crate::state::{Context, State};

/// What a module has set is a value of the exchange under this and its path: other entries see it, too.
const OWN: &str = "wasm.";

/// The segments of a path: they are separated by NULs, and one may stand at the end.
fn segments(path: &[u8]) -> Result<Vec<&str>, Status> {
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    path.split(|&byte| byte == 0).map(|part| std::str::from_utf8(part).map_err(|_| Status::NotFound)).collect()
}

/// `proxy_get_property`
pub fn get(guest: &mut Guest<'_>, path: u32, path_len: u32, data_at: u32, len_at: u32) -> Outcome {
    guest.charge_bytes(path_len as usize)?;
    guest.give(data_at, len_at, |memory, state, out| {
        let path = segments(memory.bytes(path, path_len)?)?;
        if read(state, &path, out).is_some() { Ok(()) } else { Err(Status::NotFound.into()) }
    })
}

/// `proxy_set_property`
pub fn set(guest: &mut Guest<'_>, path: u32, path_len: u32, value: u32, value_len: u32) -> Outcome {
    guest.charge_bytes((path_len as usize).saturating_add(value_len as usize))?;
    let (memory, state) = guest.parts()?;
    let key = format!("{OWN}{}", segments(memory.bytes(path, path_len)?)?.join("."));
    let value = memory.bytes(value, value_len)?;
    let exchange = state.exchange().ok_or(Status::NotFound)?;
    exchange.set_value(&key, value).map_err(|_| Status::InternalFailure.into())
}

fn number(out: &mut Vec<u8>, value: u64) -> Option<()> {
    out.extend_from_slice(&value.to_le_bytes());
    Some(())
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    out.extend_from_slice(value);
    Some(())
}

/// Appends the value of a path.
fn read(state: &mut State, path: &[&str], out: &mut Vec<u8>) -> Option<()> {
    match path {
        ["plugin_root_id"] => return bytes(out, state.entry.config.root_id.as_bytes()),
        ["plugin_vm_id"] => return bytes(out, state.entry.config.vm_id.as_deref().unwrap_or("").as_bytes()),
        // This proxy stands before a service: what it sees is inbound.
        ["listener_direction"] => return number(out, 1),
        _ => {}
    }
    if *path == ["plugin_name"] {
        return match state.exchange() {
            Some(exchange) => bytes(out, exchange.plugin_name().as_bytes()),
            None => bytes(out, state.entry.name().as_bytes()),
        };
    }
    let (exchange, context) = state.exchange_and_context()?;
    let request = exchange.request();
    match path {
        ["request", rest @ ..] => read_request(exchange, context, rest, out),
        ["response", "code"] => number(out, exchange.response()?.status().into()),
        ["response", "headers", name] => header(exchange, context, Side::Response, name, out),
        ["response", "size"] => number(out, exchange.outcome()?.bytes_out()),
        // With its port, as Envoy has it.
        ["source", "address"] => bytes(out, address(request.client_addr()?, request.client_port()).as_bytes()),
        ["source", "port"] => number(out, request.client_port()?.into()),
        ["destination", "address"] => bytes(out, request.local_addr()?.as_bytes()),
        ["destination", "port"] => number(out, request.local_addr()?.rsplit_once(':')?.1.parse().ok()?),
        ["connection", "tls_version"] => bytes(out, request.tls_version()?.as_bytes()),
        ["connection", "requested_server_name"] => bytes(out, request.tls_server_name()?.as_bytes()),
        ["connection", "mtls"] => bytes(out, &[0]),
        ["upstream", "address"] => bytes(out, exchange.outcome()?.upstream_addr()?.as_bytes()),
        ["cluster_name"] | ["xds", "cluster_name"] => bytes(out, request.upstream()),
        ["route_name"] | ["xds", "route_name"] => bytes(out, request.route_prefix()),
        _ => bytes(out, exchange.value(&format!("{OWN}{}", path.join(".")))?),
    }
}

fn address(ip: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if ip.contains(':') => format!("[{ip}]:{port}"),
        Some(port) => format!("{ip}:{port}"),
        None => ip.to_owned(),
    }
}

fn header(exchange: &Exchange<'_, '_>, context: &Context, side: Side, name: &str, out: &mut Vec<u8>) -> Option<()> {
    maps::value(exchange, context, side, name.as_bytes(), out).then_some(())
}

fn read_request(exchange: &Exchange<'_, '_>, context: &Context, path: &[&str], out: &mut Vec<u8>) -> Option<()> {
    let target = maps::path(exchange, context);
    let mark = target.iter().position(|&byte| byte == b'?');
    match path {
        ["path"] => bytes(out, target),
        ["url_path"] => bytes(out, &target[..mark.unwrap_or(target.len())]),
        ["query"] => bytes(out, mark.map_or(&[], |mark| &target[mark + 1..])),
        ["host"] => bytes(out, maps::authority(exchange, context)),
        ["method"] => bytes(out, exchange.request().method()),
        ["scheme"] => bytes(out, exchange.request().scheme().as_bytes()),
        ["protocol"] => bytes(out, exchange.request().protocol().as_bytes()),
        ["size"] => number(out, exchange.outcome()?.bytes_in()),
        ["headers", name] => header(exchange, context, Side::Request, name, out),
        ["referer"] => header(exchange, context, Side::Request, "referer", out),
        ["useragent"] => header(exchange, context, Side::Request, "user-agent", out),
        ["id"] => header(exchange, context, Side::Request, "x-request-id", out),
        ["time"] => number(out, context.started.duration_since(UNIX_EPOCH).ok()?.as_nanos() as u64),
        ["duration"] => number(out, SystemTime::now().duration_since(context.started).ok()?.as_nanos() as u64),
        _ => None,
    }
}
