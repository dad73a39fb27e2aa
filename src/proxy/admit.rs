//! Admission: whether a request is served at all, and by whom. Nothing is changed here, only judged.
//!
//! The order is that of blame: first what makes the connection unsafe to go on with (framing, Host, target), then what
//! the proxy answers by itself, then the route and its limits.

use super::cause::{Cause, Refusal};
use super::connection::Options;
use super::forwarded::list_has;
use super::route::write_target;
use super::site::Site;
use crate::config::RouteOptions;
use crate::http::chars::parse_decimal;
use crate::http::fields::{Fields, Known};
use crate::http::framing::{Framing, request_framing};
use crate::http::head::{Method, RequestHead, Version};
use crate::http::target::{Target, TargetError, effective_authority, has_dot_segment, parse_target};

/// The methods that pass, for the Allow field.
pub const FORWARDED_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";
/// The methods of the built-in resources, for the Allow field.
pub const BUILT_IN_METHODS: &str = "GET, HEAD";

/// What is done with a request, and how its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The framing of the request body.
    pub framing: Framing,
    /// Who answers.
    pub by: Answerer,
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// The proxy: 200 on `/health`.
    Health,
    /// The proxy: the routes, on `/configz`.
    Configz,
    /// The proxy: OPTIONS that goes no further (`*`, or Max-Forwards: 0).
    Options,
    /// The upstream of a route.
    Upstream(Plan),
}

/// How a request is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Index of the route in file order.
    pub route: u32,
    /// Whether the connection may become a tunnel.
    pub upgrade: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Judges a request head. For [`Answerer::Upstream`] the target to forward is left in `target`.
///
/// # Errors
/// The refusal to answer with.
pub fn admit(head: &RequestHead, options: Options, site: &Site, target: &mut Vec<u8>) -> Result<Admission, Refusal> {
    target.clear();
    let framing = request_framing(head)?;
    match head.method {
        // Rule S16: a tunnel to anywhere is what a gateway must never be.
        Method::Connect => {
            return Err(Refusal { status: 405, cause: Cause::Rule("S16"), allow: Some(FORWARDED_METHODS) });
        }
        Method::Trace => {
            return Err(Refusal { status: 405, cause: Cause::MethodRefused, allow: Some(FORWARDED_METHODS) });
        }
        _ => {}
    }
    let is_options = head.method == Method::Options;
    let requested = parse_target(&head.target, false, is_options)?;
    effective_authority(&requested, head.version, &head.fields)?;
    let (path, query) = match requested {
        Target::Origin { path, query } | Target::Absolute { path, query, .. } => (path, query),
        Target::Asterisk => return Ok(Admission { framing, by: Answerer::Options }),
        Target::Authority(_) => return Err(Refusal::new(400, Cause::Rule("S12"))),
    };
    let expects_continue = expects_continue(head, framing)?;
    if let Some(by) = built_in(head, path, site)? {
        return Ok(Admission { framing, by });
    }
    if has_dot_segment(path) {
        return Err(Refusal::from(TargetError::DotSegment));
    }
    let found = site.router.find(path).ok_or(Refusal::new(404, Cause::NoRoute))?;
    if is_options && max_forwards(&head.fields)? == Some(0) {
        return Ok(Admission { framing, by: Answerer::Options });
    }
    let route = &site.config.routes[found.route as usize];
    if let (Framing::Length(length), Some(most)) = (framing, route.options.max_body_bytes)
        && length > most
    {
        return Err(Refusal::new(413, Cause::BodyTooLarge));
    }
    let stripped = if route.options.strip_prefix { found.prefix_len } else { 0 };
    write_target(target, &route.upstream.base_path, path, query, stripped);
    let upgrade = options.upgrade && framing == Framing::None && wants_upgrade(head, &route.options);
    Ok(Admission { framing, by: Answerer::Upstream(Plan { route: found.route, upgrade, expects_continue }) })
}

/// Rule G10 and RFC 9110 section 10.1.1: ignored in HTTP/1.0 and where no body follows; 417 for any other expectation.
fn expects_continue(head: &RequestHead, framing: Framing) -> Result<bool, Refusal> {
    let mut expectations = head.fields.values(Known::Expect);
    let (Some(first), Version::Http11) = (expectations.next(), head.version) else { return Ok(false) };
    if expectations.next().is_some() || !first.eq_ignore_ascii_case(b"100-continue") {
        return Err(Refusal::new(417, Cause::ExpectationFailed));
    }
    Ok(!matches!(framing, Framing::None | Framing::Length(0)))
}

/// The built-in resources win over routes.
fn built_in(head: &RequestHead, path: &[u8], site: &Site) -> Result<Option<Answerer>, Refusal> {
    let by = match path {
        b"/health" => Answerer::Health,
        b"/configz" if site.config.configz => Answerer::Configz,
        _ => return Ok(None),
    };
    match head.method {
        Method::Get | Method::Head => Ok(Some(by)),
        _ => Err(Refusal { status: 405, cause: Cause::MethodRefused, allow: Some(BUILT_IN_METHODS) }),
    }
}

/// RFC 9110 section 7.6.2.
pub fn max_forwards(fields: &Fields) -> Result<Option<u64>, Refusal> {
    let Some(value) = fields.first(Known::MaxForwards) else { return Ok(None) };
    parse_decimal(value).map(Some).ok_or(Refusal::new(400, Cause::Rule("S2")))
}

/// Rule G14: only tokens that the route allows make an upgrade.
fn wants_upgrade(head: &RequestHead, options: &RouteOptions) -> bool {
    head.version == Version::Http11 && options.upgrade.iter().any(|token| upgrade_has(&head.fields, token))
}

/// Whether an Upgrade line names the protocol `token`.
pub fn upgrade_has(fields: &Fields, token: &str) -> bool {
    fields.values(Known::Upgrade).any(|value| list_has(value, token.as_bytes()))
}
