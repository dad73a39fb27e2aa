//! X-Forwarded-For, -Host, -Proto, -Prefix, Forwarded and X-Real-IP: whose word is taken, and what is said anew.
//!
//! A peer outside `forwarded.trusted_proxies` can write anything into these fields, so its lines are dropped and made
//! anew; a trusted peer's are kept, and its X-Forwarded-For is appended to (rule G4).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::events::Peer;
use crate::config::ForwardedPolicy;
use crate::http::chars::{list_members, write_decimal};
use crate::http::fields::{Fields, Known};
use crate::http::head::RequestHead;

/// Whether `address` is one of the proxies whose word is taken.
pub fn is_trusted(address: IpAddr, policy: &ForwardedPolicy) -> bool {
    // An IPv4 client of a dual-stack socket appears as ::ffff:a.b.c.d.
    let address = address.to_canonical();
    policy.trusted_proxies.iter().any(|range| range.contains(&address))
}

/// Whether the field is one that only a trusted peer may set.
pub fn is_claim(known: Known) -> bool {
    matches!(
        known,
        Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedProto
            | Known::XForwardedPrefix
            | Known::XRealIp
            | Known::Forwarded
    )
}

/// The client's address: the peer's, or behind trusted proxies the last address in X-Forwarded-For that is not a trusted
/// proxy's, read from the right (rule G5). An entry that is no address ends the search.
pub fn client_address(peer: &Peer, fields: &Fields, policy: &ForwardedPolicy) -> Option<SocketAddr> {
    let address = peer.address?;
    if !is_trusted(address.ip(), policy) {
        return Some(address);
    }
    let mut client = address;
    let lines = fields.iter().rev().filter(|line| line.known == Known::XForwardedFor);
    for entry in lines.flat_map(|line| line.value.rsplit(|&byte| byte == b',')) {
        let Some(ip) = std::str::from_utf8(entry.trim_ascii()).ok().and_then(|text| text.parse::<IpAddr>().ok()) else {
            break;
        };
        // The port of an address that somebody else reports is not known.
        client = SocketAddr::new(ip, 0);
        if !is_trusted(ip, policy) {
            break;
        }
    }
    Some(client)
}

/// Adds our own claims to a head from which those of an untrusted peer are gone. `host` is what the client asked for,
/// `prefix` what was stripped from the path (empty for nothing).
pub fn add_claims(
    head: &mut RequestHead,
    peer: &Peer,
    trusted: bool,
    host: &[u8],
    prefix: &str,
    scratch: &mut Vec<u8>,
) {
    scratch.clear();
    let earlier = if trusted { last_line(&head.fields, Known::XForwardedFor) } else { None };
    let list = earlier.and_then(|index| head.fields.get(index)).map_or(&b""[..], |line| line.value);
    if !list.is_empty() {
        scratch.extend_from_slice(list);
        scratch.extend_from_slice(b", ");
    }
    if let Some(address) = peer.address {
        write_ip(address.ip(), scratch);
        match earlier {
            Some(index) => head.fields.set_value(index, scratch),
            None => head.fields.add(b"X-Forwarded-For", scratch),
        }
    }
    let missing = |fields: &Fields, known| fields.first(known).is_none();
    if !host.is_empty() && missing(&head.fields, Known::XForwardedHost) {
        head.fields.add(b"X-Forwarded-Host", host);
    }
    if missing(&head.fields, Known::XForwardedProto) {
        head.fields.add(b"X-Forwarded-Proto", if peer.secure { b"https" } else { b"http" });
    }
    if !prefix.is_empty() && missing(&head.fields, Known::XForwardedPrefix) {
        head.fields.add(b"X-Forwarded-Prefix", prefix.as_bytes());
    }
}

fn last_line(fields: &Fields, known: Known) -> Option<usize> {
    (0..fields.len()).rev().find(|&index| fields.get(index).is_some_and(|line| line.known == known))
}

/// Appends an address as text. IPv4 by hand: this runs for every request.
fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                write_decimal(u64::from(octet), out);
            }
        }
        IpAddr::V6(v6) => write!(out, "{v6}").expect("a vector takes all bytes"),
    }
}

/// Whether a comma-separated list holds `token`, whatever its case.
pub fn list_has(value: &[u8], token: &[u8]) -> bool {
    list_members(value).any(|member| member.eq_ignore_ascii_case(token))
}
