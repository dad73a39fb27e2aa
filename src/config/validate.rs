//! What no value alone can tell: what contradicts another key is refused, and what depends on others is filled in.
//!
//! A refusal names the value by its path, for example `routes.3.upstreams`: its place in the file is looked up from it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::error::quoted;
use super::keys::{
    CertificateFiles, Config, ConnectTimeout, Health, Limits, LogFormat, MAX_UPSTREAMS, MemorySize, PluginConfig,
    RawRoute, RouteConfig, RouteOptions, Timeouts, TlsListen,
};
use super::prefix;
use super::scalar::{HumanDuration, Notation as _, Printed as _, Scalar, print_size};
use super::url::{Scheme, UpstreamUrl};

/// Path and message.
pub(super) type ValidationError = (String, String);

/// What a worker needs at least: its read buffer and a few exchanges.
const MIN_SHARE: usize = 512 * 1024;

impl Config {
    /// Completes what was read. `format` is that of the log where nothing is said about it.
    pub(super) fn validate(&mut self, format: Result<LogFormat, String>) -> Result<(), ValidationError> {
        self.upstream_tls.insecure_skip_verify.get_or_insert(false);
        self.limits.validate().map_err(at("limits"))?;
        self.health.fill_in().map_err(at("health"))?;
        self.timeouts.connect.fill_in().map_err(at("timeouts.connect"))?;
        if let Some(tls) = &mut self.tls {
            tls.validate().map_err(at("tls"))?;
        }
        for (index, plugin) in self.plugins.iter().enumerate() {
            plugin.check().map_err(at(&format!("plugins.{index}")))?;
        }
        self.resolve_routes()?;
        self.check_addresses()?;
        let format = self.log.format.map_or(format, Ok).map_err(at(""))?;
        self.log.format = Some(format);
        self.cap_workers();
        Ok(())
    }

    /// Sets the memory budget as the flag has it, for example `8MiB`.
    pub fn set_memory_budget(&mut self, text: &str) -> Result<(), String> {
        self.limits.memory_budget = MemorySize::parse(Scalar::Text(text))?;
        self.cap_workers();
        Ok(())
    }

    /// No more workers than the memory budget has room for.
    fn cap_workers(&mut self) {
        if let Some(budget) = self.limits.memory_budget {
            self.workers = self.workers.min(budget / MIN_SHARE).max(1);
        }
    }

    /// What is accepted and will hardly do what is meant. `has_plugins` counts those of `-plugindir` too.
    pub fn warnings(&self, has_plugins: bool) -> Vec<String> {
        let Some(budget) = self.limits.memory_budget.filter(|_| has_plugins) else { return Vec::new() };
        // A body is there twice for a while, and bodies get half of what a share has for exchanges: `net::memory_budget`.
        let max = budget / self.workers.max(1) / 32 * 7;
        if self.plugin_body_limit <= max {
            return Vec::new();
        }
        let [limit, budget] = [self.plugin_body_limit, budget].map(|size| print_size(size as u64));
        vec![format!(
            "plugin_body_limit is {limit}, but with limits.memory_budget {budget} and {} workers no body above {} KiB can \
             be buffered for plugins: it is answered with 503; lower the one, or raise the other",
            self.workers,
            max / 1024
        )]
    }

    /// Takes over what a running proxy cannot change: it stays as `old` has it.
    pub fn keep_restart_only(&mut self, old: &Config) {
        self.workers = old.workers;
        self.limits.memory_budget = old.limits.memory_budget;
        self.log.format = old.log.format;
        self.plugins.clone_from(&old.plugins);
    }

    /// What holds for a route that says nothing for itself.
    pub(super) fn bare_route(&self) -> RouteOptions {
        RawRoute::default().merged_with(self)
    }

    /// What many routes say alike is kept once, so that 100,000 routes stay small.
    fn resolve_routes(&mut self) -> Result<(), ValidationError> {
        let raw = std::mem::take(&mut self.raw_routes);
        let mut routes: Vec<RouteConfig> = Vec::with_capacity(raw.len());
        let mut first_with = HashMap::with_capacity(raw.len());
        let (mut known_upstreams, mut known_options) = (HashSet::new(), HashSet::new());
        for mut route in raw {
            let path = format!("routes.{}", routes.len());
            let (prefix, urls) = route.take_names(&routes, &mut first_with).map_err(at(&path))?;
            if let Some(connect) = route.timeouts.as_mut().and_then(|timeouts| timeouts.connect.as_mut()) {
                connect.fill_in().map_err(at(&format!("{path}.timeouts.connect")))?;
            }
            let upstreams = shared(&mut known_upstreams, urls.into());
            let options = shared(&mut known_options, Arc::new(route.merged_with(self)));
            routes.push(RouteConfig { prefix, upstreams, options });
        }
        if routes.is_empty() {
            let message =
                "there are no routes: add one, for example {prefix: /api, upstream: \"http://127.0.0.1:9001\"}";
            return Err(("routes".to_owned(), message.to_owned()));
        }
        self.routes = Arc::new(routes);
        Ok(())
    }

    /// No address is listened on twice, whatever the keys are.
    fn check_addresses(&self) -> Result<(), ValidationError> {
        let tls = self.tls.as_ref().map_or(&[][..], |tls| &tls.listen_addr);
        let keys = [
            ("listen_addr", &self.listen_addr[..]),
            ("tls.listen_addr", tls),
            ("admin.listen_addr", &self.admin.listen_addr),
        ];
        let all: Vec<_> = keys.iter().flat_map(|(key, list)| list.iter().map(move |address| (*key, address))).collect();
        for (index, (key, address)) in all.iter().enumerate() {
            let Some((other, taken)) = all[..index].iter().find(|(_, taken)| taken.overlaps(address)) else { continue };
            let (shown, taken) = (quoted(&address.to_string()), quoted(&taken.to_string()));
            let message = if (key, &shown) == (other, &taken) {
                format!("the listening address {shown} stands twice: remove one")
            } else {
                format!("{taken} in {other} and {shown} in {key} overlap: remove one, or choose another")
            };
            return Err(((*key).to_owned(), message));
        }
        Ok(())
    }
}

/// The one of `known` that is equal, or this one.
fn shared<T: ?Sized + Eq + Hash>(known: &mut HashSet<Arc<T>>, new: Arc<T>) -> Arc<T> {
    let shared = known.get(&new).unwrap_or(&new).clone();
    if Arc::ptr_eq(&shared, &new) {
        known.insert(new);
    }
    shared
}

fn at(path: &str) -> impl Fn(String) -> ValidationError {
    move |message| (path.to_owned(), message)
}

impl Limits {
    fn validate(&mut self) -> Result<(), String> {
        let (line, head) = (self.max_request_line, self.max_head_bytes);
        if line > head {
            let [line, head] = [line, head].map(|size| print_size(size as u64));
            return Err(format!(
                "max_request_line ({line}) is above max_head_bytes ({head}), which contains it: lower the one, or raise \
                 the other"
            ));
        }
        if line == 0 {
            self.max_request_line = Limits::default().max_request_line.min(head);
        }
        Ok(())
    }
}

/// Two durations of which the first is at most the second; the default of the one that is 0 gives way to the other.
fn fill_in(names: [&str; 2], [short, long]: [&mut Duration; 2], default: [Duration; 2]) -> Result<(), String> {
    if short.is_zero() {
        *short = default[0].min(if long.is_zero() { default[1] } else { *long });
    }
    if long.is_zero() {
        *long = default[1].max(*short);
    }
    if *short > *long {
        let [short, long] = [short, long].map(|span| HumanDuration::print(span));
        return Err(format!("{} ({short}) is longer than {} ({long}): shorten it", names[0], names[1]));
    }
    Ok(())
}

impl ConnectTimeout {
    fn fill_in(&mut self) -> Result<(), String> {
        let default = Timeouts::default().connect;
        fill_in(["address", "total"], [&mut self.address, &mut self.total], [default.address, default.total])
    }
}

impl Health {
    fn fill_in(&mut self) -> Result<(), String> {
        let default = Health::default();
        let default = [default.eject, default.max_eject];
        fill_in(["eject", "max_eject"], [&mut self.eject, &mut self.max_eject], default)
    }
}

impl TlsListen {
    fn validate(&mut self) -> Result<(), String> {
        if !cfg!(feature = "tls") {
            return Err(
                "this build cannot listen with TLS: remove tls, or build it with the feature \"tls\"".to_owned()
            );
        }
        match (self.certificate.take(), self.key.take()) {
            (Some(certificate), Some(key)) => self.certificates.insert(0, CertificateFiles { certificate, key }),
            (None, None) => {}
            (Some(_), None) => return Err("this certificate has no key: add \"key: key.pem\" beside it".to_owned()),
            (None, Some(_)) => {
                return Err("this key has no certificate: add \"certificate: cert.pem\" beside it".to_owned());
            }
        }
        if self.certificates.is_empty() {
            return Err("tls needs a certificate: add \"certificate: cert.pem\" and \"key: key.pem\"".to_owned());
        }
        Ok(())
    }
}

impl PluginConfig {
    fn check(&self) -> Result<(), String> {
        match (&self.path, &self.builtin) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            (None, None) => Err("this plugin has neither path nor builtin: add one of them".to_owned()),
            (Some(_), Some(_)) => Err("this plugin has both path and builtin: remove one of them".to_owned()),
        }
    }
}

impl RawRoute {
    /// Takes out its prefix and upstreams, of which there is at least one. Refuses a prefix that one of the routes `before`
    /// has.
    fn take_names(
        &mut self,
        before: &[RouteConfig],
        first_with: &mut HashMap<Vec<u8>, usize>,
    ) -> Result<(String, Vec<UpstreamUrl>), String> {
        let prefix = self.prefix.take().ok_or("this route has no prefix: add \"prefix: /path\"")?;
        let upstreams = match (self.upstream.take(), self.upstreams.take()) {
            (Some(one), None) => vec![one],
            (None, Some(several)) => several,
            (None, None) => return Err("this route has no upstream: add \"upstream: http://host:port\"".to_owned()),
            (Some(_), Some(_)) => {
                return Err("this route has both upstream and upstreams: put all into upstreams".to_owned());
            }
        };
        check_upstreams(&upstreams)?;
        if self.upstream_tls.is_some() && upstreams.iter().all(|url| url.scheme == Scheme::Http) {
            return Err("upstream_tls has no effect on an http:// upstream: write https://, or remove it".to_owned());
        }
        if let Some(first) = first_with.insert(prefix::normal_form(&prefix), before.len()) {
            let (this, other) = (quoted(&prefix), quoted(&before[first].prefix));
            let same = if this == other { String::new() } else { format!(", as {other}, which is the same") };
            let number = first + 1;
            return Err(format!(
                "the prefix {this} has a route already: route number {number}{same}; remove one of them"
            ));
        }
        Ok((prefix, upstreams))
    }
}

/// Upstreams of one route stand for each other: a request may go to any of them.
fn check_upstreams(upstreams: &[UpstreamUrl]) -> Result<(), String> {
    let [first, more @ ..] = upstreams else {
        return Err("the list of upstreams is empty: add \"- http://host:port\"".to_owned());
    };
    if upstreams.len() > MAX_UPSTREAMS {
        return Err(format!("a route has at most {MAX_UPSTREAMS} upstreams"));
    }
    for (index, url) in more.iter().enumerate() {
        let shown = quoted(&url.to_public_string());
        let is_same = |other: &UpstreamUrl| (other.scheme, &other.authority) == (url.scheme, &url.authority);
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
    Ok(())
}
