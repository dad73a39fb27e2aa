//! What no value alone can tell: what contradicts another key is refused, and what depends on others is filled in.
//!
//! A refusal names the value by its path, for example `routes.3.upstreams`: its place in the file is looked up from it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{did_you_mean, quoted};
use super::headers::HeaderEdits;
use super::keys::{
    Config, ConfigzAccess, Health, Limits, MAX_UPSTREAMS, MemorySize, PluginConfig, RawRoute, Redirect, RequestLine,
    RouteConfig, RouteTarget,
};
use super::log_keys::LogFormat;
use super::prefix::{self, BYTE, is_plain};
use super::scalar::{HumanDuration, Notation as _, fill_in, print_size};
use super::tls_keys::{CertificateFiles, ClientAuth, TlsListen};
use super::url::{Scheme, UpstreamUrl, split_host, split_scheme};

/// Path and message.
pub(super) type ValidationError = (String, String);

/// What a worker needs at least: its read buffer and a few exchanges.
const MIN_SHARE: usize = 512 * 1024;

impl Config {
    /// Completes what was read. `format` is that of the log where nothing is said about it, `folder` the files of
    /// `-plugindir`.
    pub(super) fn validate(
        &mut self,
        format: Result<LogFormat, String>,
        folder: &[PathBuf],
    ) -> Result<(), ValidationError> {
        self.upstream_tls.insecure_skip_verify.get_or_insert(false);
        check_pair(&self.upstream_tls.certificate, &self.upstream_tls.key).map_err(at("upstream_tls"))?;
        let (limits, default) = (&mut self.limits, Limits::default());
        let values = [
            (&mut limits.max_request_line, default.max_request_line),
            (&mut limits.max_head_bytes, default.max_head_bytes),
        ];
        fill_in::<RequestLine>(["max_request_line", "max_head_bytes"], values).map_err(at("limits"))?;
        let (health, default) = (&mut self.health, Health::default());
        let values = [(&mut health.eject, default.eject), (&mut health.max_eject, default.max_eject)];
        fill_in::<HumanDuration>(["eject", "max_eject"], values).map_err(at("health"))?;
        if let Some(tls) = &mut self.tls {
            tls.validate().map_err(at("tls"))?;
        }
        check_headers([&self.request_headers, &self.response_headers])?;
        self.resolve_plugins(folder)?;
        self.resolve_routes()?;
        self.check_addresses()?;
        let format = self.log.format.map_or(format, Ok).map_err(|message| (String::new(), message))?;
        self.log.format = Some(format);
        self.cap_workers();
        Ok(())
    }

    /// Names the plugins, and appends those of the folder: they are not required, and those that the list has are left out.
    fn resolve_plugins(&mut self, folder: &[PathBuf]) -> Result<(), ValidationError> {
        for (index, plugin) in self.plugins.iter_mut().enumerate() {
            if plugin.path.is_some() == plugin.builtin.is_some() {
                let message = "a plugin has either a path or a builtin: write one of them";
                return Err((format!("plugins.{index}"), message.to_owned()));
            }
            if plugin.name.is_empty() {
                plugin.name = plugin.default_name();
            }
        }
        let file = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let listed: HashSet<_> = self.plugins.iter().filter_map(|plugin| plugin.path.as_ref()).map(file).collect();
        let (left_out, added) = folder.iter().cloned().partition(|path| listed.contains(&file(path)));
        self.left_out = left_out;
        let added: Vec<PathBuf> = added;
        self.plugins.extend(added.into_iter().map(|path| PluginConfig::of_file(path, false)));
        let mut first_with = HashMap::new();
        for (index, plugin) in self.plugins.iter().enumerate() {
            if let Some(first) = first_with.insert(&plugin.name, index) {
                let source = |index: usize| self.plugins[index].source();
                let (name, one, other) = (quoted(&plugin.name), source(first), source(index));
                let message = format!(
                    "two plugins have the name {name}, {one} and {other}: give one of them another, for example \
                     \"name: {}_2\"",
                    plugin.name
                );
                return Err((format!("plugins.{index}"), message));
            }
        }
        Ok(())
    }

    /// The names that a route lists are those of plugins, each once.
    fn check_plugins_of(&self, route: &RawRoute) -> Result<(), ValidationError> {
        let Some(names) = &route.plugins else { return Ok(()) };
        let known: Vec<&str> = self.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
        for (index, name) in names.iter().enumerate() {
            let quoted = quoted(name);
            let message = if names[..index].contains(name) {
                format!("the plugin {quoted} stands twice in this list: remove one")
            } else if known.contains(&name.as_str()) {
                continue;
            } else if let Some(meant) = did_you_mean(name, &known) {
                format!("there is no plugin {quoted}; did you mean {meant:?}?")
            } else if known.is_empty() {
                format!("there is no plugin {quoted}: add it to the list \"plugins:\" at the top level")
            } else {
                format!("there is no plugin {quoted}; the plugins are {}", known.join(", "))
            };
            return Err((format!("plugins.{index}"), message));
        }
        Ok(())
    }

    /// Sets the memory budget as the flag has it, for example `8MiB`.
    pub fn set_memory_budget(&mut self, text: &str) -> Result<(), String> {
        self.limits.memory_budget = MemorySize::parse(text)?;
        self.cap_workers();
        Ok(())
    }

    /// No more workers than the memory budget has room for, and one connection for each.
    fn cap_workers(&mut self) {
        self.workers = self.workers.min(self.limits.max_connections.unwrap_or(usize::MAX));
        if let Some(budget) = self.limits.memory_budget {
            self.workers = self.workers.min(budget / MIN_SHARE).max(1);
        }
    }

    /// What is accepted and will hardly do what is meant.
    pub fn warnings(&self) -> Vec<String> {
        let left_out = |path: &PathBuf| {
            format!("{} of -plugindir is left out, because the list of plugins has it", path.display())
        };
        let of_routes = self.hidden_routes().chain(self.pattern_warning());
        self.left_out.iter().map(left_out).chain(self.body_warning()).chain(of_routes).collect()
    }

    /// A prefix that would be a pattern in nginx or Caddy.
    fn pattern_warning(&self) -> Option<String> {
        // A `$` begins names, too, such as /$metadata.
        let is_pattern =
            |prefix: &&str| prefix.contains(['*', '^', '{']) || prefix.contains("$1") || prefix.ends_with('$');
        let prefix = self.routes.iter().map(|route| route.prefix.as_str()).find(is_pattern)?;
        let words = "no character in a prefix stands for others, and all paths below it belong to it";
        Some(format!("the prefix {} takes paths that begin with just these characters: {words}", quoted(prefix)))
    }

    /// Routes whose own path is that of a built-in resource, which wins.
    fn hidden_routes(&self) -> impl Iterator<Item = String> {
        let admin = &self.admin;
        let built_ins = [
            (admin.health.as_deref(), "to all clients", "set admin.health to false or to another path"),
            (
                Some("/configz").filter(|_| admin.configz != ConfigzAccess::Off),
                if admin.configz == ConfigzAccess::Local { "to clients on this host" } else { "to all clients" },
                "set admin.configz to false",
            ),
            (
                Some("/metrics").filter(|_| admin.metrics && admin.listen_addr.is_empty()),
                "to clients on this host",
                "set admin.metrics to false",
            ),
        ];
        built_ins.into_iter().filter_map(|(path, who, remedy)| {
            let path = path?;
            let is_hidden = |route: &&RouteConfig| {
                route.prefix.len() > 1 && prefix::normal_form(&route.prefix) == prefix::normal_form(path)
            };
            let route = self.routes.iter().find(is_hidden)?;
            Some(format!("the proxy itself answers {path} {who}, not the route {}: {remedy}", route.prefix))
        })
    }

    fn body_warning(&self) -> Option<String> {
        let budget = self.limits.memory_budget.filter(|_| !self.plugins.is_empty())?;
        // A body is there twice for a while, and bodies get half of what a share has for exchanges: `net::memory_budget`.
        let max = budget / self.workers.max(1) / 32 * 7;
        let [limit, budget] = [self.plugin_body_limit, budget].map(|size| print_size(size as u64));
        (self.plugin_body_limit > max).then(|| {
            format!(
                "plugin_body_limit is {limit}, but with limits.memory_budget {budget} and {} workers no body above {} KiB \
                 can be buffered for plugins: it is answered with 503; lower the one, or raise the other",
                self.workers,
                max / 1024
            )
        })
    }

    /// Takes over what a running proxy cannot change: it stays as `old` has it.
    pub fn keep_restart_only(&mut self, old: &Config) {
        self.workers = old.workers;
        self.limits.memory_budget = old.limits.memory_budget;
        self.log.format = old.log.format;
    }

    /// What many routes say alike is kept once, so that 100,000 routes stay small.
    fn resolve_routes(&mut self) -> Result<(), ValidationError> {
        let raw = std::mem::take(&mut self.raw_routes);
        let mut routes: Vec<RouteConfig> = Vec::with_capacity(raw.len());
        let mut first_with = HashMap::with_capacity(raw.len());
        let (mut known_hosts, mut known_options) = (HashSet::new(), HashSet::new());
        let (mut known_upstreams, mut known_redirects) = (HashSet::new(), HashSet::new());
        let mut resolve = |mut route: RawRoute| {
            let number = routes.len();
            let prefix = std::mem::take(&mut route.prefix);
            if prefix.is_empty() {
                return Err(at("")("this route has no prefix: add \"prefix: /path\""));
            }
            prefix::check(&prefix).map_err(|error| at("prefix")(format!("{}: {error}", quoted(&prefix))))?;
            let hosts = route.take_hosts().map_err(at("hosts"))?;
            let places = if hosts.is_empty() { &[Box::default()][..] } else { &hosts };
            let normal = prefix::normal_form(&prefix);
            for host in places {
                // No host has a slash in it.
                let place = [host.as_bytes(), &normal].concat();
                if let Some(first) = first_with.insert(place, number) {
                    let (this, other, first) = (quoted(&prefix), quoted(&routes[first].prefix), first + 1);
                    let of_host = if host.is_empty() { String::new() } else { format!(" for the host {host}") };
                    return Err(at("")(format!(
                        "the prefix {this}{of_host} is that of route number {first}, {other}, too: remove one of them"
                    )));
                }
            }
            if let Some(tls) = &route.upstream_tls {
                check_pair(&tls.certificate, &tls.key).map_err(at(""))?;
            }
            self.check_plugins_of(&route)?;
            check_headers([&route.request_headers, &route.response_headers])?;
            let hosts = shared(&mut known_hosts, hosts.into());
            let target = match route.take_redirect().map_err(at(""))? {
                Some(redirect) => RouteTarget::Redirect(shared(&mut known_redirects, redirect.into())),
                None => {
                    let upstreams = route.take_upstreams().map_err(at(""))?;
                    RouteTarget::Upstreams(shared(&mut known_upstreams, upstreams.into()))
                }
            };
            let options = shared(&mut known_options, Arc::new(route.merged_with(self)));
            routes.push(RouteConfig { hosts, prefix, target, options });
            Ok(())
        };
        for (number, route) in raw.into_iter().enumerate() {
            let path_of = |path: String| format!("routes.{number}.{path}").trim_end_matches('.').to_owned();
            resolve(route).map_err(|(path, message)| (path_of(path), message))?;
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
        if self.listen_addr.is_empty() {
            return Err(("listen_addr".to_owned(), "this list is empty: write at least one address".to_owned()));
        }
        let (own, admin) = (&self.listen_addr[..], &self.admin.listen_addr[..]);
        let keys = [("listen_addr", own), ("tls.listen_addr", tls), ("admin.listen_addr", admin)];
        let all: Vec<_> = keys.iter().flat_map(|(key, list)| list.iter().map(move |address| (*key, address))).collect();
        for (index, (key, address)) in all.iter().enumerate() {
            if let Some((other, taken)) = all[..index].iter().find(|(_, taken)| taken.overlaps(address)) {
                let [taken, address] = [taken, address].map(|address| quoted(&address.to_string()));
                let message =
                    format!("{taken} in {other} and {address} in {key} overlap: remove one, or choose another");
                return Err(((*key).to_owned(), message));
            }
        }
        Ok(())
    }
}

fn check_headers(edits: [&Option<Arc<HeaderEdits>>; 2]) -> Result<(), ValidationError> {
    let mut all = edits.into_iter().zip(["request_headers", "response_headers"]);
    all.try_for_each(|(edits, key)| edits.iter().try_for_each(|edits| edits.check()).map_err(at(key)))
}

fn at<M: Into<String>>(path: &str) -> impl FnOnce(M) -> ValidationError {
    |message| (path.to_owned(), message.into())
}

/// The one of `known` that is equal, or this one.
fn shared<T: ?Sized + Eq + Hash>(known: &mut HashSet<Arc<T>>, new: Arc<T>) -> Arc<T> {
    let shared = known.get(&new).unwrap_or(&new).clone();
    if Arc::ptr_eq(&shared, &new) {
        known.insert(new);
    }
    shared
}

impl Redirect {
    fn check(&self) -> Result<(), String> {
        const TO: &str = "a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example";
        if !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            let status = self.status;
            return Err(format!("{status} is no status that redirects to one place: write 301, 302, 303, 307 or 308"));
        }
        if !self.to.starts_with('/') || self.to.starts_with("//") {
            let (_, rest) = split_scheme(&self.to).ok_or(TO)?;
            split_host(rest.split(['/', '?', '#']).next().unwrap_or_default()).map_err(|_| TO)?;
        }
        // Path and query of requests come behind it.
        if self.keep_path && self.to.contains(['?', '#']) {
            let message =
                "the query of the request comes behind it: remove what begins with ? or #, or add keep_path: false";
            return Err(message.to_owned());
        }
        if is_plain(&self.to.replace(['?', '#'], "/")) { Ok(()) } else { Err(BYTE.to_owned()) }
    }
}

impl TlsListen {
    fn validate(&mut self) -> Result<(), &'static str> {
        if !cfg!(feature = "tls") {
            return Err("this build cannot listen with TLS: remove tls, or build it with the feature \"tls\"");
        }
        check_pair(&self.certificate, &self.key)?;
        if let (Some(certificate), Some(key)) = (self.certificate.take(), self.key.take()) {
            self.certificates.insert(0, CertificateFiles { certificate, key });
        }
        if self.certificates.is_empty() {
            return Err("tls needs both: add \"certificate: cert.pem\" and \"key: key.pem\"");
        }
        match (&self.client_ca, &mut self.client_auth) {
            (Some(_), auth) => drop(auth.get_or_insert(ClientAuth::Required)),
            (None, Some(_)) => return Err("client_auth says nothing without authorities: add \"client_ca: ca.pem\""),
            (None, None) => {}
        }
        if self.redirect_http && self.listen_addr.is_empty() {
            return Err("redirect_http needs listen_addr beside it: without it no address speaks plain HTTP");
        }
        Ok(())
    }
}

/// Both are named, or none.
fn check_pair(certificate: &Option<PathBuf>, key: &Option<PathBuf>) -> Result<(), &'static str> {
    match (certificate, key) {
        (Some(_), None) => Err("this certificate has no key: add \"key: key.pem\" beside it"),
        (None, Some(_)) => Err("this key has no certificate: add \"certificate: cert.pem\" beside it"),
        _ => Ok(()),
    }
}

impl RawRoute {
    /// Takes out the hosts that it is for, each once; none for all hosts.
    fn take_hosts(&mut self) -> Result<Vec<Box<str>>, String> {
        let Some(hosts) = self.hosts.take() else { return Ok(Vec::new()) };
        let mut known = HashSet::with_capacity(hosts.len());
        match hosts.iter().find(|host| !known.insert(*host)) {
            Some(host) => Err(format!("the host {host} stands twice in this list: remove one")),
            None if hosts.is_empty() => {
                Err("this list is empty: name a host, or remove the key for all hosts".to_owned())
            }
            None => Ok(hosts),
        }
    }

    /// The keys that say how an upstream is asked, and whether they are there.
    pub(super) fn upstream_keys(&self) -> [(&'static str, bool); 10] {
        [
            ("upstream", self.upstream.is_some()),
            ("upstreams", self.upstreams.is_some()),
            ("host", self.host.is_some()),
            ("upstream_tls", self.upstream_tls.is_some()),
            ("rewrite_redirects", self.rewrite_redirects.is_some()),
            ("rewrite_cookies", self.rewrite_cookies.is_some()),
            ("redirect_to_slash", self.redirect_to_slash.is_some()),
            ("upgrade", self.upgrade.is_some()),
            ("max_body_bytes", self.max_body_bytes.is_some()),
            ("request_headers", self.request_headers.is_some()),
        ]
    }

    /// Takes out where it redirects to, if it does.
    fn take_redirect(&mut self) -> Result<Option<Redirect>, String> {
        let Some(redirect) = self.redirect.take() else { return Ok(None) };
        if let Some((key, _)) = self.upstream_keys().iter().find(|(_, is_said)| *is_said) {
            return Err(format!("this route redirects and asks no upstream: remove {key}, or redirect"));
        }
        redirect.check().map_err(|problem| format!("redirect: {problem}"))?;
        Ok(Some(*redirect))
    }

    /// Takes out its upstreams, of which there is at least one. They stand for each other: a request may go to any of them.
    fn take_upstreams(&mut self) -> Result<Vec<UpstreamUrl>, String> {
        let upstreams = match (self.upstream.take(), self.upstreams.take()) {
            (Some(one), None) => vec![one],
            (None, Some(several)) if matches!(several.len(), 1..=MAX_UPSTREAMS) => several,
            (Some(_), Some(_)) => return Err("this route has both: put its upstream into upstreams".to_owned()),
            (None, None) => {
                let message = "this route has no upstream: add \"upstream: http://host:port\", or \"redirect: URL\"";
                return Err(message.to_owned());
            }
            (None, Some(_)) => return Err(format!("a route has 1 to {MAX_UPSTREAMS} upstreams: add or remove some")),
        };
        if self.upstream_tls.is_some() && upstreams.iter().all(|url| url.scheme == Scheme::Http) {
            return Err("upstream_tls has no effect on an http:// upstream: write https://, or remove it".to_owned());
        }
        let mut lines = self.request_headers.iter().flat_map(|edits| edits.lines());
        let adds_credentials = lines.any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if upstreams[0].authorization.is_some() && adds_credentials {
            return Err("the URL of the upstream and request_headers have credentials: remove one of them".to_owned());
        }
        for (index, url) in upstreams.iter().enumerate() {
            let is_same = |other: &UpstreamUrl| (other.scheme, &other.authority) == (url.scheme, &url.authority);
            let problem = if upstreams[..index].iter().any(is_same) {
                "this upstream stands twice in the route: remove one"
            } else if url.base_path != upstreams[0].base_path {
                "all upstreams of a route have the same path; make them routes of their own"
            } else if url.authorization.is_some() != upstreams[0].authorization.is_some() {
                "either all upstreams of a route have credentials or none"
            } else {
                continue;
            };
            return Err(format!("{}: {problem}", quoted(&url.to_string())));
        }
        Ok(upstreams)
    }
}
