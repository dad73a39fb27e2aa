//! The keys of the file, mapping by mapping: the one list of what may stand where, and within which bounds.
//!
//! A struct here is what was written, with `None` for what was left out. Defaults are filled in by `file`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::error::quoted;
use super::found::{Fault, List, Mapping};
use super::json::PluginText;
use super::read::{Entry, next_of, section};
use super::units::{BodyLimit, Bytes, ConnectionLimit, Count, MemoryLimit, Size, Span};
use super::values::{
    Address, Flag, Format, Host, Listen, Network, Prefix, Protocol, Rewriting, ServerName, Text, Upstream,
};
use super::{DEFAULT_LISTEN, Limits, ListenAddr, MOST_UPSTREAMS, Scheme, UpstreamUrl, prefix};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

section! {
    /// The whole file.
    File as "a mapping of settings such as \"routes:\"" {
        listen_addr: Listen,
        routes: Routes,
        workers: Count<1, 1024>,
        limits: LimitKeys,
        timeouts: TimeoutKeys,
        pool: PoolKeys,
        dns: DnsKeys,
        health: HealthKeys,
        tls: TlsKeys,
        upstream_tls: UpstreamTlsKeys,
        forwarded: ForwardedKeys,
        proxy_protocol: ProxyProtocolKeys,
        rewrite_redirects: Rewriting,
        rewrite_cookies: Rewriting,
        redirect_to_slash: Flag,
        admin: AdminKeys,
        plugins: Vec<PluginKeys>,
        plugin_body_limit: Size<0, { 1024 * MIB }>,
        log: LogKeys,
    } checked by check_file
}

section! {
    LimitKeys as "a mapping of limits such as \"max_head_bytes: 16KiB\"" {
        max_connections: ConnectionLimit,
        memory_budget: MemoryLimit,
        max_head_bytes: Size<KIB, { 64 * KIB }>,
        max_header_fields: Count<1, 256>,
        max_request_line: Size<256, { 64 * KIB }>,
        max_body_bytes: BodyLimit,
        max_requests_per_connection: Count<0, { u32::MAX as u64 }>,
        max_interim_responses: Count<0, 1000>,
    } checked by check_limits
}

section! {
    TimeoutKeys as "a mapping of time-outs such as \"request_head: 10s\"" {
        request_head: Span,
        body_idle: Span,
        keep_alive: Span,
        write_idle: Span,
        connect: Connect,
        response_head: Span,
        response_idle: Span,
        tunnel_idle: Span,
        tunnel_half_closed: Span,
        drain: Span,
    }
}

section! {
    /// Those of a request whose route is known: the others could have no effect.
    RouteTimeoutKeys as "a mapping of time-outs such as \"response_head: 5s\"" {
        body_idle: Span,
        write_idle: Span,
        connect: Connect,
        response_head: Span,
        response_idle: Span,
        tunnel_idle: Span,
        tunnel_half_closed: Span,
    }
}

section! {
    ConnectKeys as "a mapping with the keys address and total" {
        address: Span,
        total: Span,
    }
}

section! {
    PoolKeys as "a mapping of pool settings such as \"max_idle: 256\"" {
        max_idle: Count<0, 65_536>,
        max_idle_per_upstream: Count<0, 65_536>,
        idle_timeout: Span,
        max_age: Span,
    }
}

section! {
    DnsKeys as "a mapping such as \"refresh: 30s\"" {
        refresh: Span,
    }
}

section! {
    HealthKeys as "a mapping such as \"failures: 3\"" {
        failures: Count<1, 1000>,
        eject: Span,
        max_eject: Span,
    } checked by check_health
}

section! {
    /// Listening with TLS. `certificate` and `key` are the first of `certificates`.
    TlsKeys as "a mapping with the keys certificate and key" {
        listen_addr: Listen,
        certificate: Text,
        key: Text,
        certificates: Vec<CertificateKeys>,
    } checked by check_tls
}

section! {
    CertificateKeys as "a mapping with the keys certificate and key" {
        certificate: Text,
        key: Text,
    } checked by check_certificate
}

section! {
    UpstreamTlsKeys as "a mapping such as \"ca_file: /etc/ssl/my-ca.pem\"" {
        ca_file: Text,
        server_name: ServerName,
        insecure_skip_verify: Flag,
    }
}

section! {
    ForwardedKeys as "a mapping with the keys trusted_proxies and enabled" {
        trusted_proxies: Vec<Network>,
        enabled: Flag,
    }
}

section! {
    ProxyProtocolKeys as "a mapping such as \"from: [10.0.0.0/8]\"" {
        from: Vec<Network>,
    }
}

section! {
    AdminKeys as "a mapping such as \"configz: true\"" {
        listen_addr: Listen,
        configz: Flag,
        metrics: Flag,
    }
}

section! {
    LogKeys as "a mapping with the keys format and access" {
        format: Format,
        access: Flag,
    }
}

section! {
    PluginKeys as "a mapping with the key path or builtin" {
        path: Text,
        builtin: Text,
        required: Flag,
        config: PluginText,
    } checked by check_plugin
}

section! {
    RouteKeys as "a mapping with the keys prefix and upstream" {
        prefix: Prefix,
        upstream: Upstream,
        upstreams: Vec<Upstream>,
        strip_prefix: Flag,
        host: Host,
        rewrite_redirects: Rewriting,
        rewrite_cookies: Rewriting,
        redirect_to_slash: Flag,
        upgrade: Vec<Protocol>,
        max_body_bytes: BodyLimit,
        timeouts: RouteTimeoutKeys,
        upstream_tls: UpstreamTlsKeys,
    }
}

/// `5s` for all addresses together, or `{address: 3s, total: 5s}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Connect {
    pub address: Span,
    pub total: Span,
}

impl Connect {
    const ADDRESS: Duration = Duration::from_secs(3);
    const TOTAL: Duration = Duration::from_secs(5);
}

impl Entry for Connect {
    const EXPECTED: &'static str = "a duration such as 5s, or {address: 3s, total: 5s}";

    fn from_number(value: u64) -> Result<Self, String> {
        Span::from_number(value).map(|total| Connect { address: total, total })
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let total = Span::from_text(text)?;
        Ok(Connect { address: Span(total.0.min(Connect::ADDRESS)), total })
    }

    fn from_mapping(mapping: &mut dyn Mapping) -> Result<Self, Fault> {
        let keys = ConnectKeys::from_mapping(mapping)?;
        let total =
            keys.total.unwrap_or_else(|| Span(Connect::TOTAL.max(keys.address.map_or(Duration::ZERO, |a| a.0))));
        let address = keys.address.unwrap_or(Span(total.0.min(Connect::ADDRESS)));
        if address.0 > total.0 {
            let message = format!("address ({address}) is longer than total ({total}), which ends it: shorten it");
            return Err(message.into());
        }
        Ok(Connect { address, total })
    }
}

impl Serialize for Connect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ConnectKeys { address: Some(self.address), total: Some(self.total) }.serialize(serializer)
    }
}

/// All routes. What many of them say alike is kept once, so that 100,000 routes stay small.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Routes {
    pub routes: Vec<Route>,
    /// Without prefix and upstream.
    pub options: Vec<RouteKeys>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub prefix: String,
    pub upstream: Arc<UpstreamUrl>,
    /// Where there are several, the others.
    pub others: Option<Arc<Vec<UpstreamUrl>>>,
    /// Index into [`Routes::options`].
    pub options: usize,
}

const NO_ROUTES: &str = "there are no routes: add one, for example {prefix: /api, upstream: \"http://127.0.0.1:9001\"}";

impl Entry for Routes {
    const EXPECTED: &'static str = "a list of routes, each \"- prefix: /api\" with its \"upstream:\" in the line below";

    fn from_nothing() -> Result<Self, String> {
        Err(NO_ROUTES.to_owned())
    }

    fn from_list(list: &mut dyn List) -> Result<Self, Fault> {
        let mut all = Routes::default();
        let mut first_with = HashMap::new();
        let mut upstreams: HashSet<Arc<UpstreamUrl>> = HashSet::new();
        let mut options = HashMap::new();
        loop {
            let routes = &all.routes;
            let check = &mut |keys: &RouteKeys| check_route(keys, routes, &mut first_with);
            let Some(mut keys) = next_of(list, check)? else { break };
            let mut urls = keys.upstreams.take().unwrap_or_default().into_iter().chain(keys.upstream.take());
            let (Some(Prefix(prefix)), Some(Upstream(upstream))) = (keys.prefix.take(), urls.next()) else {
                continue; // check_route has refused it
            };
            let others: Vec<_> = urls.map(|Upstream(url)| url).collect();
            let others = (!others.is_empty()).then(|| Arc::new(others));
            let upstream = match upstreams.get(&upstream) {
                Some(known) => Arc::clone(known),
                None => {
                    let new = Arc::new(upstream);
                    upstreams.insert(Arc::clone(&new));
                    new
                }
            };
            let options = match options.get(&keys) {
                Some(&index) => index,
                None => {
                    options.insert(keys.clone(), all.options.len());
                    all.options.push(keys);
                    all.options.len() - 1
                }
            };
            all.routes.push(Route { prefix, upstream, others, options });
        }
        if all.routes.is_empty() {
            return Err(NO_ROUTES.into());
        }
        Ok(all)
    }
}

impl Routes {
    /// About a file that does not say `routes` at all.
    pub const MISSING: &str = NO_ROUTES;

    /// Routes that say nothing but the most necessary.
    pub fn of(list: Vec<(Prefix, Upstream)>) -> Result<Routes, String> {
        let mut all = Routes { routes: Vec::new(), options: vec![RouteKeys::default()] };
        let mut first_with = HashMap::new();
        for (prefix, upstream) in list {
            let keys = RouteKeys { prefix: Some(prefix), upstream: Some(upstream), ..RouteKeys::default() };
            check_route(&keys, &all.routes, &mut first_with)?;
            if let (Some(Prefix(prefix)), Some(Upstream(upstream))) = (keys.prefix, keys.upstream) {
                all.routes.push(Route { prefix, upstream: Arc::new(upstream), others: None, options: 0 });
            }
        }
        if all.routes.is_empty() { Err(NO_ROUTES.to_owned()) } else { Ok(all) }
    }
}

/// Refuses a route without prefix or upstream, and a prefix that a route before it has. Numbers count from 1.
fn check_route(keys: &RouteKeys, before: &[Route], first_with: &mut HashMap<Vec<u8>, usize>) -> Result<(), String> {
    let Some(Prefix(prefix)) = &keys.prefix else {
        return Err("this route has no prefix: add \"prefix: /path\"".to_owned());
    };
    let upstreams = match (&keys.upstream, &keys.upstreams) {
        (Some(one), None) => std::slice::from_ref(one),
        (None, Some(several)) => check_upstreams(several)?,
        (None, None) => return Err("this route has no upstream: add \"upstream: http://host:port\"".to_owned()),
        (Some(_), Some(_)) => {
            return Err("this route has both upstream and upstreams: put all into upstreams".to_owned());
        }
    };
    if keys.upstream_tls.is_some() && upstreams.iter().all(|Upstream(url)| url.scheme == Scheme::Http) {
        return Err("upstream_tls has no effect on an http:// upstream: write https://, or remove it".to_owned());
    }
    if keys.upgrade.as_ref().is_some_and(|protocols| protocols.len() > 16) {
        return Err("a route upgrades to at most 16 protocols".to_owned());
    }
    match first_with.insert(prefix::normal_form(prefix), before.len()) {
        None => Ok(()),
        Some(first) => {
            let (this, first, other) = (quoted(prefix), first + 1, quoted(&before[first].prefix));
            let same = if this == other { String::new() } else { format!(", as {other}, which is the same") };
            Err(format!("the prefix {this} has a route already: route number {first}{same}; remove one of them"))
        }
    }
}

/// Upstreams of one route stand for each other: a request may go to any of them.
fn check_upstreams(upstreams: &[Upstream]) -> Result<&[Upstream], String> {
    let [Upstream(first), others @ ..] = upstreams else {
        return Err("the list of upstreams is empty: add \"- http://host:port\"".to_owned());
    };
    if upstreams.len() > MOST_UPSTREAMS {
        return Err(format!("a route has at most {MOST_UPSTREAMS} upstreams"));
    }
    for (index, Upstream(url)) in others.iter().enumerate() {
        let shown = quoted(&url.to_public_string());
        let is_same =
            |Upstream(other): &Upstream| (other.scheme, &other.host, other.port) == (url.scheme, &url.host, url.port);
        if upstreams[..=index].iter().any(is_same) {
            return Err(format!("the upstream {shown} stands twice in this route: remove one"));
        }
        if url.base_path != first.base_path {
            return Err(format!("{shown}: all upstreams of a route have the same path; make them routes of their own"));
        }
        if url.authorization.is_some() != first.authorization.is_some() {
            return Err(format!("{shown}: either all upstreams of a route have credentials or none"));
        }
    }
    Ok(upstreams)
}

fn check_health(health: &HealthKeys) -> Result<(), String> {
    match (health.eject, health.max_eject) {
        (Some(eject), Some(max_eject)) if eject.0 > max_eject.0 => {
            Err(format!("eject ({eject}) is longer than max_eject ({max_eject}): shorten it"))
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

impl Serialize for Routes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.routes.iter().map(|route| RouteKeys {
            prefix: Some(Prefix(route.prefix.clone())),
            upstream: route.others.is_none().then(|| Upstream(UpstreamUrl::clone(&route.upstream))),
            upstreams:
                route.others.as_ref().map(|others| {
                    std::iter::once(&*route.upstream).chain(others.iter()).cloned().map(Upstream).collect()
                }),
            ..self.options[route.options].clone()
        }))
    }
}

/// No address is listened on twice, whatever the keys are.
fn check_file(file: &File) -> Result<(), String> {
    let default = Listen(vec![Address(DEFAULT_LISTEN)]);
    let keys = [
        ("listen_addr", Some(file.listen_addr.as_ref().unwrap_or(&default))),
        ("tls.listen_addr", file.tls.as_ref().and_then(|tls| tls.listen_addr.as_ref())),
        ("admin.listen_addr", file.admin.as_ref().and_then(|admin| admin.listen_addr.as_ref())),
    ];
    let all = || keys.iter().filter_map(|(key, listen)| Some((*key, (*listen)?)));
    for (index, (key, Listen(addresses))) in all().enumerate() {
        for (other, Listen(before)) in all().take(index) {
            for Address(address) in addresses {
                let Some(taken) = before.iter().find(|Address(taken)| taken.overlaps(address)) else { continue };
                let (shown, taken) = (quoted(&address.to_string()), quoted(&taken.0.to_string()));
                return Err(if shown == taken || matches!(address, ListenAddr::Unix { .. }) {
                    format!("{shown} stands in both {other} and {key}: choose another address for one of them")
                } else {
                    format!("{taken} in {other} and {shown} in {key} overlap: choose another port for one of them")
                });
            }
        }
    }
    Ok(())
}

fn check_limits(limits: &LimitKeys) -> Result<(), String> {
    let default = Limits::default().max_head_bytes as u64;
    let head = limits.max_head_bytes.map_or(default, |head| head.0);
    match limits.max_request_line {
        Some(line) if line.0 > head => {
            let (line, head) = (Bytes(line.0), Bytes(head));
            Err(match limits.max_head_bytes {
                Some(_) => {
                    format!("max_request_line ({line}) is above max_head_bytes ({head}), which contains it: lower it")
                }
                None => format!(
                    "max_request_line ({line}) is above max_head_bytes, which contains it and is {head} where nothing is \
                     said about it: lower the one, or raise the other"
                ),
            })
        }
        Some(_) | None => Ok(()),
    }
}

fn check_plugin(plugin: &PluginKeys) -> Result<(), String> {
    match (&plugin.path, &plugin.builtin) {
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (None, None) => Err("this plugin has neither path nor builtin: add one of them".to_owned()),
        (Some(_), Some(_)) => Err("this plugin has both path and builtin: remove one of them".to_owned()),
    }
}

fn check_tls(tls: &TlsKeys) -> Result<(), String> {
    if !cfg!(feature = "tls") {
        return Err("this build cannot listen with TLS: remove tls, or build it with the feature \"tls\"".to_owned());
    }
    check_pair(&tls.certificate, &tls.key)?;
    if tls.certificate.is_none() && tls.certificates.as_ref().is_none_or(Vec::is_empty) {
        return Err("tls needs a certificate: add \"certificate: cert.pem\" and \"key: key.pem\"".to_owned());
    }
    Ok(())
}

fn check_certificate(pair: &CertificateKeys) -> Result<(), String> {
    if pair.certificate.is_none() && pair.key.is_none() {
        return Err("an empty entry: add \"certificate: cert.pem\" and \"key: key.pem\"".to_owned());
    }
    check_pair(&pair.certificate, &pair.key)
}

fn check_pair(certificate: &Option<Text>, key: &Option<Text>) -> Result<(), String> {
    match (certificate, key) {
        (Some(_), Some(_)) | (None, None) => Ok(()),
        (Some(_), None) => Err("this certificate has no key: add \"key: key.pem\" beside it".to_owned()),
        (None, Some(_)) => Err("this key has no certificate: add \"certificate: cert.pem\" beside it".to_owned()),
    }
}
