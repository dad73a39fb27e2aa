//! Back from a [`Config`] to words: YAML for `-print-config`; and what is different between two of them, for the log of a
//! reload and for `-check -against`.
//!
//! All of it is what the structs serialize to, which has no credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Setting;
use serde_yaml::Value;

use super::keys::{Config, PluginConfig, RouteConfig, RouteOptions};
use super::url::UpstreamUrl;

/// What only counts at start: threads, memory and plugins are set up there, and the log is begun.
const RESTART_ONLY: [&str; 4] = ["workers", "limits.memory_budget", "log.format", "plugins"];

/// A configuration in words, flat: a text or a list of texts for each setting. It holds nothing that a plugin is told, since
/// /configz shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullConfig {
    /// By name, for example `timeouts.drain`.
    settings: BTreeMap<String, Setting>,
    /// By prefix: the upstream, and what is different from a route that says nothing else.
    routes: BTreeMap<String, BTreeMap<String, Setting>>,
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In which way.
    pub kind: Kind,
    /// What, in words for people.
    pub what: String,
    /// Whether only a restart makes it so.
    pub needs_restart: bool,
}

/// How something is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is only in the new one.
    Added,
    /// It is in both.
    Changed,
    /// It is only in the old one.
    Removed,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Added => "added",
            Kind::Changed => "changed",
            Kind::Removed => "removed",
        };
        write!(f, "{kind}: {}{}", self.what, if self.needs_restart { " (needs a restart)" } else { "" })
    }
}

/// As it could stand in the file, with all that holds for it.
impl Serialize for RouteConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct FullRoute<'a> {
            prefix: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            upstream: Option<&'a UpstreamUrl>,
            #[serde(skip_serializing_if = "Option::is_none")]
            upstreams: Option<Vec<&'a UpstreamUrl>>,
            #[serde(flatten)]
            options: &'a RouteOptions,
        }

        let has_more = self.more_upstreams.is_some();
        FullRoute {
            prefix: &self.prefix,
            upstream: (!has_more).then_some(&self.upstream),
            upstreams: has_more.then(|| self.upstreams().collect()),
            options: &self.options,
        }
        .serialize(serializer)
    }
}

impl Config {
    /// The effective configuration as YAML. Read again it gives the same configuration, but for credentials in upstream
    /// URLs, which are left out: they are never shown.
    pub fn to_yaml(&self) -> String {
        let (mut file, bare) = (to_value(self), to_value(&self.bare_route()));
        for route in file.get_mut("routes").and_then(Value::as_sequence_mut).into_iter().flatten() {
            // Of these only what is the route's own: the others need not have an effect there.
            let is_own = |key: &Value, value: &mut Value| match (key.as_str(), value, bare.get(key)) {
                (Some("timeouts" | "upstream_tls"), Value::Mapping(own), Some(bare)) => {
                    own.retain(|key, value| bare.get(key) != Some(value));
                    !own.is_empty()
                }
                _ => true,
            };
            route.as_mapping_mut().expect("a route is a mapping").retain(is_own);
        }
        serde_yaml::to_string(&file).expect("a value is always YAML")
    }

    /// What is different in `new`. Routes that are the same cost no words, however many they are.
    pub fn differences(&self, new: &Config) -> Vec<Difference> {
        let (old_routes, new_routes) = (by_prefix(self), by_prefix(new));
        let (old_bare, new_bare) = (self.bare_route(), new.bare_route());
        let is_same = |old: &RouteConfig, new: &RouteConfig| {
            let is_ordinary = *old.options == old_bare && *new.options == new_bare;
            old.upstreams().eq(new.upstreams()) && (is_ordinary || old.options == new.options)
        };
        let mut differences = Vec::new();
        let (mut removed, mut added) = (old_routes.clone(), new_routes.clone());
        for (prefix, old) in &old_routes {
            let Some(new) = new_routes.get(prefix) else { continue };
            if is_same(old, new) {
                removed.remove(prefix);
                added.remove(prefix);
                continue;
            }
            // Of an upstream that is only in one of the two it is told that it comes or goes.
            let has_other_credentials = |old: &UpstreamUrl| {
                let public = old.to_public_string();
                let new = new.upstreams().find(|new| new.to_public_string() == public);
                new.is_some_and(|new| new.authorization != old.authorization)
            };
            if old.upstreams().any(has_other_credentials) {
                let what = format!("route {prefix}: the credentials in its upstream URL");
                differences.push(Difference { kind: Kind::Changed, what, needs_restart: false });
            }
        }
        let old = FullConfig::with_routes(self, removed.into_values());
        differences.extend(old.differences(&FullConfig::with_routes(new, added.into_values())));
        differences
    }
}

impl FullConfig {
    /// The whole configuration.
    pub fn of(config: &Config) -> FullConfig {
        FullConfig::with_routes(config, config.routes.iter())
    }

    /// The whole configuration, but only these of its routes.
    fn with_routes<'a>(config: &Config, routes: impl Iterator<Item = &'a RouteConfig>) -> FullConfig {
        // What a plugin is told may be a secret.
        let plugins = config.plugins.iter().map(|plugin| PluginConfig { config: String::new(), ..plugin.clone() });
        let file = Config { plugins: plugins.collect(), routes: Default::default(), ..config.clone() };
        let mut settings = BTreeMap::new();
        flatten("", to_value(&file), &mut settings);
        settings.remove("routes");
        let bare = config.bare_route();
        let mut ordinary = BTreeMap::new();
        flatten("", to_value(&bare), &mut ordinary);
        let route_in_words = |route: &RouteConfig| {
            let mut words = BTreeMap::new();
            if *route.options != bare {
                flatten("", to_value(&*route.options), &mut words);
                words.retain(|key, words| ordinary.get(key) != Some(words));
            }
            let mut upstreams: Vec<String> = route.upstreams().map(UpstreamUrl::to_public_string).collect();
            let upstream =
                if upstreams.len() == 1 { Setting::from(upstreams.remove(0)) } else { Setting::from(upstreams) };
            words.insert("upstream".to_owned(), upstream);
            (route.prefix.clone(), words)
        };
        FullConfig { settings, routes: routes.map(route_in_words).collect() }
    }

    /// As /configz shows it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("text always becomes JSON")
    }

    /// Reads what [`FullConfig::to_json`] wrote.
    pub fn from_json(json: &str) -> Option<FullConfig> {
        serde_json::from_str(json).ok()
    }

    /// What is different in `new`.
    pub fn differences(&self, new: &FullConfig) -> Vec<Difference> {
        let mut found = Vec::new();
        compare(&self.settings, &new.settings, "", &mut found);
        let whole_route = |kind, prefix: &str, words: &BTreeMap<String, Setting>| {
            let what = format!("route {prefix} to {}", texts(words.get("upstream")).join(", "));
            Difference { kind, what, needs_restart: false }
        };
        for (prefix, old) in &self.routes {
            match new.routes.get(prefix) {
                None => found.push(whole_route(Kind::Removed, prefix, old)),
                Some(new) => compare(old, new, &format!("route {prefix}: "), &mut found),
            }
        }
        let added = new.routes.iter().filter(|(prefix, _)| !self.routes.contains_key(*prefix));
        found.extend(added.map(|(prefix, new)| whole_route(Kind::Added, prefix, new)));
        found
    }
}

fn by_prefix(config: &Config) -> BTreeMap<&str, &RouteConfig> {
    config.routes.iter().map(|route| (route.prefix.as_str(), route)).collect()
}

fn to_value(config: &impl Serialize) -> Value {
    serde_yaml::to_value(config).expect("every value here is text, a number or a list of such")
}

/// Gives each leaf of a mapping of mappings a name of its own.
fn flatten(name: &str, value: Value, into: &mut BTreeMap<String, Setting>) {
    let text = |value: Value| match value {
        Value::String(text) => text,
        value => serde_json::to_value(value).expect("it was made by serde").to_string(),
    };
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let key = key.as_str().unwrap_or_default();
                let name = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
                flatten(&name, value, into);
            }
        }
        Value::Sequence(list) => {
            into.insert(name.to_owned(), list.into_iter().map(text).collect());
        }
        value => {
            into.insert(name.to_owned(), text(value).into());
        }
    }
}

/// The texts of a setting.
fn texts(words: Option<&Setting>) -> Vec<&str> {
    match words {
        Some(Setting::Array(list)) => list.iter().filter_map(Setting::as_str).collect(),
        one => one.and_then(Setting::as_str).into_iter().collect(),
    }
}

fn compare(
    old: &BTreeMap<String, Setting>,
    new: &BTreeMap<String, Setting>,
    subject: &str,
    found: &mut Vec<Difference>,
) {
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let needs_restart = subject.is_empty() && RESTART_ONLY.contains(&name.as_str());
        let mut note = |kind, what: &str| {
            found.push(Difference { kind, what: format!("{subject}{name} {what}"), needs_restart });
        };
        let (old, new) = (old.get(name), new.get(name));
        if let (Some(Setting::String(old)), Some(Setting::String(new))) = (old, new) {
            if old != new {
                note(Kind::Changed, &format!("{old} -> {new}"));
            }
            continue;
        }
        let (old, new) = (texts(old), texts(new));
        let (mut removed, mut added) = (old.clone(), new.clone());
        removed.retain(|text| !new.contains(text));
        added.retain(|text| !old.contains(text));
        removed.iter().for_each(|text| note(Kind::Removed, text));
        added.iter().for_each(|text| note(Kind::Added, text));
        if removed.is_empty() && added.is_empty() && old != new {
            note(Kind::Changed, "in another order");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "routes:\n\
        - {prefix: /a, upstream: 'http://a'}\n\
        - {prefix: /b, upstream: 'http://u:p@b/base', host: client}\n";

    fn config(text: &str) -> Config {
        let config = Config::parse(text, "test").unwrap_or_else(|error| panic!("{error}"));
        Config { workers: if text.contains("workers") { config.workers } else { 2 }, ..config }
    }

    fn both_ways(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
        let (old, new) = (config(old), config(new));
        let whole = old.differences(&new).iter().map(Difference::to_string).collect();
        let running = FullConfig::from_json(&FullConfig::of(&old).to_json()).expect("written by us");
        let told = running.differences(&FullConfig::of(&new)).iter().map(Difference::to_string).collect();
        (whole, told)
    }

    #[test]
    fn what_is_different_is_told_the_same_way_by_both_comparisons() {
        let more = |text: &str| format!("{BASE}{text}");
        for (name, new, expected) in [
            ("nothing", BASE.to_owned(), &[][..]),
            ("defaults that are written out", more("timeouts: {drain: 10s}\npool: {max_age: 5m}"), &[]),
            ("one for all routes", more("rewrite_cookies: off"), &["changed: rewrite_cookies auto -> off"]),
            ("a setting", more("timeouts: {drain: 20s}"), &["changed: timeouts.drain 10s -> 20s"]),
            (
                "one that all routes get",
                more("limits: {max_body_bytes: 1KiB}"),
                &["changed: limits.max_body_bytes unlimited -> 1KiB"],
            ),
            ("an address", more("listen_addr: [':8080', ':8081']"), &["added: listen_addr :8081"]),
            ("another address", more("listen_addr: ':8081'"), &["removed: listen_addr :8080", "added: listen_addr :8081"]),
            (
                "what is fixed",
                more("workers: 7\nlimits: {memory_budget: 64MiB}\nlog: {format: json}"),
                &[
                    "changed: limits.memory_budget unlimited -> 64MiB (needs a restart)",
                    "changed: log.format text -> json (needs a restart)",
                    "changed: workers 2 -> 7 (needs a restart)",
                ],
            ),
            ("a route", more("- {prefix: /c, upstream: 'http://c:1/x'}"), &["added: route /c to http://c:1/x"]),
            (
                "no route",
                "routes: [{prefix: /b, upstream: 'http://u:p@b/base', host: client}]".to_owned(),
                &["removed: route /a to http://a"],
            ),
            (
                "a route's own",
                BASE.replace("host: client", "strip_prefix: false").replace("http://a", "http://z"),
                &[
                    "changed: route /a: upstream http://a -> http://z",
                    "removed: route /b: host client",
                    "added: route /b: strip_prefix false",
                ],
            ),
            ("their order", "routes:\n- {prefix: /b, upstream: 'http://u:p@b/base', host: client}\n- {prefix: /a, upstream: 'http://a'}".to_owned(), &[]),
        ] {
            let (whole, told) = both_ways(BASE, &new);
            assert_eq!(whole, expected, "{name}");
            assert_eq!(told, expected, "{name}, by way of /configz");
        }
    }

    #[test]
    fn secrets_are_in_no_outline_but_where_they_are_at_hand_it_is_seen_that_they_differ() {
        let plugin = "plugins: [{path: /x.so, config: {key: secret}}]\n";
        let old = format!("{BASE}{plugin}");
        let json = FullConfig::of(&config(&old)).to_json();
        assert!(!json.contains("secret") && !json.contains("u:p@") && !json.contains("dTpw"), "{json}");
        let (whole, told) = both_ways(&old, &old.replace("u:p@", "u:q@"));
        assert_eq!(whole, ["changed: route /b: the credentials in its upstream URL"]);
        assert_eq!(told, [""; 0]);
        let several = "routes: [{prefix: /, upstreams: ['http://u:p@a', 'http://u:p@b', 'http://u:p@c']}]";
        for (name, from, to, expected) in [
            ("the second one's", "u:p@b", "u:q@b", &["changed: route /: the credentials in its upstream URL"][..]),
            ("the last one's", "u:p@c", "u:q@c", &["changed: route /: the credentials in its upstream URL"]),
            (
                "and another address",
                "u:p@b', 'http://u:p@c",
                "u:q@b', 'http://u:q@d",
                &[
                    "changed: route /: the credentials in its upstream URL",
                    "removed: route /: upstream http://c",
                    "added: route /: upstream http://d",
                ],
            ),
            (
                "another second one",
                "@b",
                "@x",
                &["removed: route /: upstream http://b", "added: route /: upstream http://x"],
            ),
            (
                "their order",
                "u:p@b', 'http://u:p@c",
                "u:p@c', 'http://u:p@b",
                &["changed: route /: upstream in another order"],
            ),
            ("one less", ", 'http://u:p@c'", "", &["removed: route /: upstream http://c"]),
        ] {
            let (whole, told) = both_ways(several, &several.replace(from, to));
            assert_eq!(whole, expected, "{name}");
            assert!(whole.ends_with(&told) && whole.len() <= told.len() + 1, "{name}, by way of /configz: {told:?}");
        }
        let (whole, told) = both_ways(&old, &old.replace("secret", "other"));
        assert_eq!(
            (whole, told),
            (Vec::new(), Vec::new()),
            "a reload with another list of plugins is refused as a whole"
        );
        let (whole, told) = both_ways(&old, &old.replace("/x.so", "/y.so"));
        assert_eq!(whole, told);
        assert!(whole.iter().all(|line| line.contains("plugins") && line.contains("restart")), "{whole:?}");
        assert_eq!(whole.len(), 2);
    }

    #[test]
    fn what_is_fixed_stays_as_it_was() {
        let old = config(&format!("{BASE}workers: 1\nplugins: [{{builtin: x}}]"));
        let mut new = config(&format!("{BASE}workers: 2\nlog: {{format: json}}\ntimeouts: {{drain: 1s}}"));
        new.keep_restart_only(&old);
        let left: Vec<String> = old.differences(&new).iter().map(Difference::to_string).collect();
        assert_eq!(left, ["changed: timeouts.drain 10s -> 1s"]);
    }

    #[test]
    fn what_is_no_outline_is_not_read_as_one() {
        for json in
            ["", "[]", "{}", "[{\"prefix\":\"/\",\"upstream\":\"http://a\"}]", "{\"settings\":[],\"routes\":{}}"]
        {
            assert_eq!(FullConfig::from_json(json), None, "{json}");
        }
    }

    #[test]
    fn what_is_printed_loads_again_to_the_same() {
        for (name, text) in [
            ("defaults", "routes: [{prefix: /, upstream: 'http://a'}]"),
            (
                "everything",
                r#"
listen_addr: [":8080", "127.0.0.1:1", "[::]:2", "[::]:3?v6only", "[::1]:4", "unix:/run/x y.sock?mode=0660"]
routes:
  - {prefix: /a, upstream: "http://A.example:8000/base/"}
  - prefix: /b/
    upstream: http://[::1]
    strip_prefix: false
    rewrite_redirects: auto
    redirect_to_slash: false
    host: client
    upgrade: []
    max_body_bytes: 1000
    timeouts: {connect: 1s, response_head: 90s}
  - {prefix: "/c'\"", upstream: "http://b", host: fixed.example:81, upgrade: [WebSocket, x/1], max_body_bytes: unlimited}
  - {prefix: /d, upstream: "http://b"}
  - {prefix: /several, upstreams: ["http://a/x", "http://b:1/x/", "http://[::1]/x"]}
HTTPSworkers: 3
limits: {max_connections: 77, memory_budget: 8MiB, max_head_bytes: 4KiB, max_header_fields: 9, max_body_bytes: 1025, max_requests_per_connection: 0}
timeouts: {request_head: 1500ms, connect: {address: 1s, total: 9s}, drain: 2h}
pool: {max_idle: 0, max_idle_per_upstream: 1, idle_timeout: 1s, max_age: 2m}
dns: {refresh: 1h}
health: {failures: 1, eject: 5s, max_eject: 2h}
rewrite_redirects: off
rewrite_cookies: off
redirect_to_slash: true
forwarded: {trusted_proxies: [10.0.0.0/8, 127.0.0.1, "::1"], enabled: false}
proxy_protocol: {from: [192.0.2.7, "2001:db8::/32"]}
admin: {configz: false, metrics: false, listen_addr: ["127.0.0.1:10", "unix:/run/admin"]}
plugins:
  - path: /lib/x.so
    config: {a: [1, null, "true"], b: {}}
  - builtin: header_demo
    required: false
    config: "  verbatim: [\n\ttext "
  - builtin: no_config
plugin_body_limit: 0
log: {format: json, access: true}
"#,
            ),
        ] {
            let https = r#"
  - {prefix: /e, upstream: "https://b", upstream_tls: {ca_file: "/x y", server_name: Z.example}}
  - {prefix: /f, upstream: "https://b", upstream_tls: {insecure_skip_verify: true}}
  - {prefix: /g, upstream: "https://b"}
upstream_tls: {ca_file: /ca, server_name: "::1"}
tls: {listen_addr: ":9", certificate: a, key: b, certificates: [{certificate: c, key: d}]}
"#;
            let text = &text.replace("\nHTTPS", if cfg!(feature = "tls") { https } else { "\n" });
            let config = Config::parse(text, name).unwrap_or_else(|error| panic!("{error}"));
            let printed = config.to_yaml();
            assert_eq!(Config::parse(&printed, "printed").as_ref(), Ok(&config), "{name}:\n{printed}");
        }
    }

    #[test]
    fn every_default_is_printed() {
        let config = Config::parse("routes: [{prefix: /, upstream: 'http://u:p@a'}]", "f").expect("a valid file");
        let printed = Config { workers: 2, ..config }.to_yaml();
        let expected = r#"listen_addr:
- :8080
routes:
- prefix: /
  upstream: http://a
  strip_prefix: true
  host: upstream
  rewrite_redirects: auto
  rewrite_cookies: auto
  redirect_to_slash: false
  upgrade:
  - websocket
  max_body_bytes: unlimited
workers: 2
limits:
  max_connections: auto
  memory_budget: unlimited
  max_head_bytes: 16KiB
  max_header_fields: 256
  max_request_line: 8KiB
  max_body_bytes: unlimited
  max_requests_per_connection: 1000
  max_interim_responses: 8
timeouts:
  request_head: 10s
  body_idle: 30s
  keep_alive: 1m
  write_idle: 1m
  connect:
    address: 3s
    total: 5s
  response_head: 1m
  response_idle: 1m
  tunnel_idle: 1h
  tunnel_half_closed: 30s
  drain: 10s
pool:
  max_idle: 256
  max_idle_per_upstream: 64
  idle_timeout: 4s
  max_age: 5m
dns:
  refresh: 30s
health:
  failures: 3
  eject: 1s
  max_eject: 1m
upstream_tls:
  insecure_skip_verify: false
forwarded:
  trusted_proxies: []
  enabled: true
proxy_protocol:
  from: []
rewrite_redirects: auto
rewrite_cookies: auto
redirect_to_slash: false
admin:
  configz: true
  metrics: true
plugins: []
plugin_body_limit: 1MiB
log:
  format: text
  access: false
"#;
        assert_eq!(printed, expected);
    }
}
