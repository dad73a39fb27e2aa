//! Back from a [`Config`] to words: YAML for `-print-config`; and what is different between two of them, for the log of a
//! reload and for `-check -against`.
//!
//! All of it is what the structs serialize to, which has no credentials.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::headers::HeaderEdits;
use super::keys::{Config, PluginConfig, RawRoute, RouteConfig, RouteOptions, RouteTarget};

/// What only counts at start: threads and memory are set up there, and the log is begun.
const RESTART_ONLY: [&str; 3] = ["workers", "limits.memory_budget", "log.format"];

/// A configuration as it is printed. It holds nothing that a plugin is told, since /configz shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullConfig {
    /// All but the routes.
    settings: Mapping,
    /// The names of the plugins, in their order.
    plugins: Vec<String>,
    /// By name: what is different from a route that says nothing for itself.
    routes: BTreeMap<String, Mapping>,
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// added, changed or removed.
    pub kind: &'static str,
    /// What, in words for people.
    pub what: String,
    /// Whether only a restart makes it so.
    pub needs_restart: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let restart = if self.needs_restart { " (needs a restart)" } else { "" };
        write!(f, "{}: {}{restart}", self.kind, self.what)
    }
}

impl Config {
    /// The effective configuration as YAML. Read again it gives the same configuration, but for credentials in upstream
    /// URLs, which are left out: they are never shown.
    pub fn to_yaml(&self) -> String {
        let (mut file, mut bare) = (to_mapping(self), to_mapping(&RawRoute::default().merged_with(self)));
        // Of these only what is the route's own: the others need not have an effect there.
        bare.retain(|_, value| value.is_mapping());
        let of_upstreams = RawRoute::default().upstream_keys();
        for route in file.get_mut("routes").and_then(Value::as_sequence_mut).into_iter().flatten() {
            let route = route.as_mapping_mut().expect("a route is a mapping");
            keep_own(route, &bare);
            if route.contains_key("redirect") {
                route.retain(|key, _| of_upstreams.iter().all(|(of_upstreams, _)| key != of_upstreams));
            }
        }
        serde_yaml::to_string(&file).expect("a value is always YAML")
    }

    /// What is different in `new`.
    pub fn differences(&self, new: &Config) -> Vec<Difference> {
        let mut found = FullConfig::of(self).differences(&FullConfig::of(new));
        let old: HashMap<_, _> = self.routes.iter().map(|route| (route.name(), route)).collect();
        found.extend(hidden_change("", &self.request_headers, &new.request_headers));
        for plugin in &new.plugins {
            let is_changed = |old: &&PluginConfig| old.name == plugin.name && old.config != plugin.config;
            if self.plugins.iter().any(|old| is_changed(&old)) {
                // It may be a secret.
                let what = format!("plugins.{}.config (not shown)", plugin.name);
                found.push(Difference { kind: "changed", what, needs_restart: false });
            }
        }
        for route in new.routes.iter() {
            let name = route.name();
            let Some(old) = old.get(&name) else { continue };
            let (before, after) = (&old.options.request_headers, &route.options.request_headers);
            if before != after {
                found.extend(hidden_change(&format!("route {name}: "), before, after));
            }
            let mut pairs = old.upstreams().iter().zip(route.upstreams());
            // Credentials are not shown.
            if pairs.any(|(old, new)| old != new && old.to_string() == new.to_string()) {
                let what = format!("route {name}: the credentials in its upstream URL");
                found.push(Difference { kind: "changed", what, needs_restart: false });
            }
        }
        found
    }
}

impl FullConfig {
    /// The whole configuration.
    pub fn of(config: &Config) -> FullConfig {
        let request_headers = without_values(&config.request_headers);
        let bare_config = Config { plugins: Vec::new(), routes: Default::default(), request_headers, ..config.clone() };
        let mut settings = to_mapping(&bare_config);
        settings.insert("plugins".into(), plugins(&config.plugins).into());
        let bare = to_mapping(&RawRoute::default().merged_with(config));
        let mut known = HashMap::new();
        let in_words = |route: &RouteConfig| {
            let own = known.entry(Arc::as_ptr(&route.options)).or_insert_with(|| {
                let request_headers = without_values(&route.options.request_headers);
                let mut options = to_mapping(&RouteOptions { request_headers, ..(*route.options).clone() });
                keep_own(&mut options, &bare);
                options
            });
            let target = match &route.target {
                RouteTarget::Upstreams(upstreams) => {
                    let mut urls: Vec<Value> = upstreams.iter().map(|url| url.to_string().into()).collect();
                    ("upstream".into(), if urls.len() == 1 { urls.remove(0) } else { urls.into() })
                }
                RouteTarget::Redirect(redirect) => ("redirect".into(), to_mapping(&**redirect).into()),
            };
            let hosts: Vec<Value> = route.hosts.iter().map(|host| (&**host).into()).collect();
            let hosts = (!hosts.is_empty()).then(|| ("hosts".into(), hosts.into()));
            let words = hosts.into_iter().chain([target]).chain(own.clone()).collect();
            (route.name(), words)
        };
        let plugins = config.plugins.iter().map(|plugin| plugin.name.clone()).collect();
        FullConfig { settings, plugins, routes: config.routes.iter().map(in_words).collect() }
    }

    /// What is different in `new`.
    pub fn differences(&self, new: &FullConfig) -> Vec<Difference> {
        let mut found = Vec::new();
        compare("", &self.settings, &new.settings, &mut found);
        let (old_order, new_order) = (self.plugins.join(", "), new.plugins.join(", "));
        let is_moved = self.plugins.iter().collect::<BTreeSet<_>>() == new.plugins.iter().collect();
        if is_moved && old_order != new_order {
            let what = format!("the order of plugins {old_order} -> {new_order}");
            found.push(Difference { kind: "changed", what, needs_restart: false });
        }
        let whole_route = |kind, prefix: &str, route: &Mapping| {
            let target = route.get("upstream").or_else(|| route.get("redirect")?.get("to")).map(words);
            let what = format!("route {prefix} to {}", target.unwrap_or_default());
            Difference { kind, what, needs_restart: false }
        };
        for (prefix, old) in &self.routes {
            match new.routes.get(prefix) {
                None => found.push(whole_route("removed", prefix, old)),
                Some(new) => compare(&format!("route {prefix}: "), old, new, &mut found),
            }
        }
        let added = new.routes.iter().filter(|(prefix, _)| !self.routes.contains_key(*prefix));
        found.extend(added.map(|(prefix, new)| whole_route("added", prefix, new)));
        found
    }
}

/// What is set for upstreams may be a secret.
fn without_values(edits: &Option<Arc<HeaderEdits>>) -> Option<Arc<HeaderEdits>> {
    edits.as_ref().map(|edits| Arc::new(edits.without_values()))
}

/// That values are different, where nothing else is.
fn hidden_change(start: &str, old: &Option<Arc<HeaderEdits>>, new: &Option<Arc<HeaderEdits>>) -> Option<Difference> {
    let is_hidden = old != new && without_values(old) == without_values(new);
    let what = format!("{start}the values in request_headers (not shown)");
    is_hidden.then_some(Difference { kind: "changed", what, needs_restart: false })
}

/// The plugins by their names, without what a plugin is told, which may be a secret.
fn plugins(list: &[PluginConfig]) -> Mapping {
    let words = |plugin: &PluginConfig| {
        let kind = if plugin.builtin.is_some() { "builtin " } else { "" };
        let required = if plugin.required { "" } else { " (not required)" };
        format!("{kind}{}{required}", plugin.source())
    };
    list.iter().map(|plugin| (plugin.name.as_str().into(), words(plugin).into())).collect()
}

fn to_mapping(config: &impl Serialize) -> Mapping {
    let value = serde_yaml::to_value(config).ok().and_then(|value| value.as_mapping().cloned());
    value.expect("every struct of the configuration is a mapping of text, numbers and lists")
}

/// Leaves only what is different in `bare`.
fn keep_own(mapping: &mut Mapping, bare: &Mapping) {
    mapping.retain(|key, value| match (value, bare.get(key)) {
        (Value::Mapping(own), Some(Value::Mapping(bare))) => {
            keep_own(own, bare);
            !own.is_empty()
        }
        (value, bare) => bare != Some(value),
    });
}

/// A value in one line, as it is written; nothing for an empty list.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Sequence(list) => list.iter().map(words).collect::<Vec<_>>().join(", "),
        value => serde_json::to_string(value).expect("it was made by serde"),
    }
}

/// What is different between two mappings, whose names all begin with `start`.
fn compare(start: &str, old: &Mapping, new: &Mapping, found: &mut Vec<Difference>) {
    let added = new.keys().filter(|key| !old.contains_key(key));
    for key in old.keys().chain(added) {
        let name = format!("{start}{}", key.as_str().unwrap_or_default());
        let both = [old, new].map(|mapping| mapping.get(key));
        if both.iter().flatten().any(|value| value.is_mapping()) {
            let [old, new] = both.map(|value| value.and_then(Value::as_mapping).cloned().unwrap_or_default());
            compare(&format!("{name}."), &old, &new, found);
            continue;
        }
        // A route that has none of a list is another than one that says nothing of it.
        let is_none = |value: &Value| start.starts_with("route ") && value.as_sequence().is_some_and(Vec::is_empty);
        let in_words = |value: &Value| if is_none(value) { "none".to_owned() } else { words(value) };
        let (kind, what) = match both.map(|value| value.map(in_words).unwrap_or_default()) {
            [old, new] if old == new => continue,
            [old, new] if old.is_empty() => ("added", new),
            [old, new] if new.is_empty() => ("removed", old),
            [old, new] => ("changed", format!("{old} -> {new}")),
        };
        let needs_restart = RESTART_ONLY.contains(&name.as_str());
        found.push(Difference { kind, what: format!("{name} {what}"), needs_restart });
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

    fn to_json(config: &FullConfig) -> String {
        serde_json::to_string(config).expect("text always becomes JSON")
    }

    fn from_json(json: &str) -> Option<FullConfig> {
        serde_json::from_str(json).ok()
    }

    fn both_ways(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
        let (old, new) = (config(old), config(new));
        let whole = old.differences(&new).iter().map(Difference::to_string).collect();
        let running = from_json(&to_json(&FullConfig::of(&old))).expect("written by us");
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
            ("an address", more("listen_addr: [':8080', ':8081']"), &["changed: listen_addr :8080 -> :8080, :8081"]),
            ("another address", more("listen_addr: ':8081'"), &["changed: listen_addr :8080 -> :8081"]),
            (
                "what is fixed",
                more("workers: 7\nlimits: {memory_budget: 64MiB}\nlog: {format: json}"),
                &[
                    "changed: workers 2 -> 7 (needs a restart)",
                    "changed: limits.memory_budget unlimited -> 64MiB (needs a restart)",
                    "changed: log.format text -> json (needs a restart)",
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
            (
                "lists that a route leaves empty",
                BASE.replace("http://a'", "http://a', plugins: [], upgrade: []"),
                &["added: route /a: upgrade none", "added: route /a: plugins none"],
            ),
            (
                "a redirect",
                more("- {prefix: /c, redirect: 'https://new'}"),
                &["added: route /c to https://new"],
            ),
            (
                "a redirect instead of an upstream",
                BASE.replace("upstream: 'http://a'", "redirect: {to: /x, status: 301}"),
                &[
                    "removed: route /a: upstream http://a",
                    "added: route /a: redirect.to /x",
                    "added: route /a: redirect.status 301",
                    "added: route /a: redirect.keep_path true",
                ],
            ),
            (
                "hosts",
                more("- {hosts: [a.example, '*.b.example'], prefix: /a, upstream: 'http://c'}"),
                &["added: route a.example/a to http://c"],
            ),
            (
                "who is served",
                BASE.replace("http://a'", "http://a', allow: [10.0.0.0/8, '::1'], deny: []"),
                &["added: route /a: allow 10.0.0.0/8, ::1/128", "added: route /a: deny none"],
            ),
            (
                "who is served of none",
                BASE.replace("http://a'", "http://a', allow: []"),
                &["added: route /a: allow none"],
            ),
            (
                "a unix socket",
                BASE.replace("http://a'", "http://unix:/run/a.sock:/x'"),
                &["changed: route /a: upstream http://a -> http://unix:/run/a.sock:/x"],
            ),
            (
                "several upstreams",
                BASE.replace("upstream: 'http://a'", "upstreams: ['http://a', 'http://unix:/run/a.sock']"),
                &["changed: route /a: upstream http://a -> http://a, http://unix:/run/a.sock"],
            ),
            (
                "fields of responses",
                more("response_headers: {set: {A: b}, remove: [C]}").replace("http://a'", "http://a', response_headers: {add: {D: [e, f]}}"),
                &[
                    "added: response_headers.remove C",
                    "added: response_headers.set.A b",
                    "added: route /a: response_headers.add.D e, f",
                ],
            ),
            (
                "who may see what",
                more("admin: {configz: local, health: /up}"),
                &["changed: admin.configz true -> local", "changed: admin.health true -> /up"],
            ),
            (
                "the log",
                more("log: {fields: full, query: false, access: true}"),
                &["changed: log.access false -> true", "changed: log.fields short -> full", "changed: log.query true -> false"],
            ),
            (
                "the rest",
                more("via: false\nerror_pages: {404: a.html, 5xx: b.html}\nlimits: {max_connections_per_client: 7}"),
                &[
                    "changed: limits.max_connections_per_client unlimited -> 7",
                    "changed: via true -> false",
                    "added: error_pages.404 a.html",
                    "added: error_pages.5xx b.html",
                ],
            ),
            ("their order", "routes:\n- {prefix: /b, upstream: 'http://u:p@b/base', host: client}\n- {prefix: /a, upstream: 'http://a'}".to_owned(), &[]),
        ] {
            let (whole, told) = both_ways(BASE, &new);
            assert_eq!(whole, expected, "{name}");
            assert_eq!(told, expected, "{name}, by way of /configz");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn what_is_different_in_tls_is_told() {
        let pair = "certificate: a, key: b";
        let with = |tls: &str| format!("{BASE}tls: {{listen_addr: ':9', {pair}{tls}}}\n");
        for (new, expected) in [
            (with(", redirect_http: true"), &["changed: tls.redirect_http false -> true"][..]),
            (with(", min_version: 1.3"), &["changed: tls.min_version 1.2 -> 1.3"]),
            (with(", client_ca: c"), &["added: tls.client_ca c", "added: tls.client_auth required"]),
            (
                format!("{}upstream_tls: {{{pair}}}\n", with("")),
                &["added: upstream_tls.certificate a", "added: upstream_tls.key b"],
            ),
            (
                with("").replace("http://a'", "https://a', upstream_tls: {certificate: c, key: d}"),
                &[
                    "changed: route /a: upstream http://a -> https://a",
                    "added: route /a: upstream_tls.certificate c",
                    "added: route /a: upstream_tls.key d",
                ],
            ),
        ] {
            let (whole, told) = both_ways(&with(""), &new);
            assert_eq!(
                (&whole[..], &told[..]),
                (&expected.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()[..], &whole[..])
            );
        }
    }

    #[test]
    fn secrets_are_in_no_outline_but_where_they_are_at_hand_it_is_seen_that_they_differ() {
        let plugin = "plugins: [{path: /x.so, config: {key: secret}}]\n";
        let old = format!("{BASE}{plugin}");
        let json = to_json(&FullConfig::of(&config(&old)));
        assert!(!json.contains("secret") && !json.contains("u:p@") && !json.contains("dTpw"), "{json}");
        let (whole, told) = both_ways(&old, &old.replace("u:p@", "u:q@"));
        assert_eq!(whole, ["changed: route /b: the credentials in its upstream URL"]);
        assert_eq!(told, [""; 0]);
        let edits = "request_headers: {set: {X-Key: hidden}}\n";
        let first =
            format!("{BASE}{edits}").replace("host: client", "host: client, request_headers: {add: {A: hidden}}");
        let (whole, told) = both_ways(&first, &first.replace("hidden", "others"));
        let expected = ["the values in", "route /b: the values in"]
            .map(|what| format!("changed: {what} request_headers (not shown)"));
        assert_eq!((whole, told), (expected.to_vec(), Vec::new()));
        assert!(!to_json(&FullConfig::of(&config(&first))).contains("hidden"));
        let (whole, _) = both_ways(&first, &first.replace("X-Key", "X-Other"));
        assert_eq!(
            whole,
            ["removed: request_headers.set.X-Key (not shown)", "added: request_headers.set.X-Other (not shown)"]
        );
        let several = "routes: [{prefix: /, upstreams: ['http://u:p@a', 'http://u:p@b', 'http://u:p@c']}]";
        for (name, from, to, expected) in [
            ("the second one's", "u:p@b", "u:q@b", &["changed: route /: the credentials in its upstream URL"][..]),
            ("the last one's", "u:p@c", "u:q@c", &["changed: route /: the credentials in its upstream URL"]),
            (
                "and another address",
                "u:p@b', 'http://u:p@c",
                "u:q@b', 'http://u:q@d",
                &[
                    "changed: route /: upstream http://a, http://b, http://c -> http://a, http://b, http://d",
                    "changed: route /: the credentials in its upstream URL",
                ],
            ),
            (
                "another second one",
                "@b",
                "@x",
                &["changed: route /: upstream http://a, http://b, http://c -> http://a, http://x, http://c"],
            ),
            (
                "their order",
                "u:p@b', 'http://u:p@c",
                "u:p@c', 'http://u:p@b",
                &["changed: route /: upstream http://a, http://b, http://c -> http://a, http://c, http://b"],
            ),
            (
                "one less",
                ", 'http://u:p@c'",
                "",
                &["changed: route /: upstream http://a, http://b, http://c -> http://a, http://b"],
            ),
        ] {
            let (whole, told) = both_ways(several, &several.replace(from, to));
            assert_eq!(whole, expected, "{name}");
            assert!(whole.starts_with(&told) && whole.len() <= told.len() + 1, "{name}, by way of /configz: {told:?}");
        }
        let (whole, told) = both_ways(&old, &old.replace("secret", "other"));
        assert_eq!(
            (whole, told),
            (vec!["changed: plugins.x.config (not shown)".to_owned()], Vec::new()),
            "the words of a plugin are not compared with a running proxy"
        );
        let (whole, told) = both_ways(&old, &old.replace("/x.so", "/y.so"));
        assert_eq!(whole, told);
        assert_eq!(whole, ["removed: plugins.x /x.so", "added: plugins.y /y.so"]);
    }

    #[test]
    fn g7_routes_of_hosts_are_told_by_the_first_of_them() {
        let hosts = "- {hosts: [a.example, b.example], prefix: /a, upstream: 'http://u:p@c'}\n";
        let base = format!("{BASE}{hosts}");
        for (from, to, expected) in [
            (
                "b.example]",
                "'*.c.example']",
                "changed: route a.example/a: hosts a.example, b.example -> a.example, *.c.example",
            ),
            ("@c", "@d", "changed: route a.example/a: upstream http://c -> http://d"),
            (hosts, "", "removed: route a.example/a to http://c"),
        ] {
            let (whole, told) = both_ways(&base, &base.replace(from, to));
            assert_eq!((whole, told), (vec![expected.to_owned()], vec![expected.to_owned()]), "{to}");
        }
        let (whole, _) = both_ways(&base, &base.replace("u:p@c", "u:q@c"));
        assert_eq!(whole, ["changed: route a.example/a: the credentials in its upstream URL"]);
    }

    #[test]
    fn what_is_different_in_the_list_of_plugins_is_told_by_name() {
        let base = format!("{BASE}plugins: [{{path: /x.so}}, {{builtin: y}}, {{path: /x.so, name: z}}]\n");
        for (from, to, expected) in [
            (
                "{builtin: y}, {path: /x.so, name: z}",
                "{path: /x.so, name: z}, {builtin: y}",
                "changed: the order of plugins x, y, z -> x, z, y",
            ),
            ("{builtin: y}, ", "", "removed: plugins.y builtin y"),
            ("{builtin: y}", "{builtin: w, name: y}", "changed: plugins.y builtin y -> builtin w"),
            (
                "{builtin: y}",
                "{builtin: y, required: false}",
                "changed: plugins.y builtin y -> builtin y (not required)",
            ),
            ("name: z}", "name: z}, {path: /n.so}", "added: plugins.n /n.so"),
            ("host: client", "host: client, plugins: [z, x]", "added: route /b: plugins z, x"),
        ] {
            let (whole, told) = both_ways(&base, &base.replace(from, to));
            assert_eq!((whole, told), (vec![expected.to_owned()], vec![expected.to_owned()]), "{to}");
        }
    }

    #[test]
    fn what_is_fixed_stays_as_it_was() {
        let old = config(&format!("{BASE}workers: 1\nplugins: [{{builtin: x}}]"));
        let mut new = config(&format!("{BASE}workers: 2\nlog: {{format: json}}\ntimeouts: {{drain: 1s}}"));
        new.keep_restart_only(&old);
        let left: Vec<String> = old.differences(&new).iter().map(Difference::to_string).collect();
        assert_eq!(left, ["changed: timeouts.drain 10s -> 1s", "removed: plugins.x builtin x"]);
    }

    #[test]
    fn what_is_no_outline_is_not_read_as_one() {
        for json in
            ["", "[]", "{}", "[{\"prefix\":\"/\",\"upstream\":\"http://a\"}]", "{\"settings\":[],\"routes\":{}}"]
        {
            assert_eq!(from_json(json), None, "{json}");
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
  - {prefix: /d, upstream: "http://b", plugins: []}
  - {prefix: /h, upstream: "http://b", plugins: [no_config, first]}
  - {prefix: /r, redirect: "https://New.example/x"}
  - {prefix: /r2, strip_prefix: false, plugins: [], redirect: {to: "/x?y#z", status: 302, keep_path: false}}
  - {hosts: [A.example., "*.b.example", "[0::1]", 127.0.0.1], prefix: /a, upstream: "http://a"}
  - {prefix: /several, upstreams: ["http://a/x", "http://b:1/x/", "http://[::1]/x", "http://unix:/run/a%20b.sock:/x"]}
  - {prefix: /unix, upstream: "http://unix:/run/app.sock", allow: [10.0.0.0/8, "::1"], deny: []}
HTTPSworkers: 3
limits: {max_connections: 77, max_connections_per_client: 7, memory_budget: 8MiB, max_head_bytes: 4KiB, max_header_fields: 9, max_body_bytes: 1025, max_requests_per_connection: 0}
timeouts: {request_head: 1500ms, connect: {address: 1s, total: 9s}, drain: 2h}
pool: {max_idle: 0, max_idle_per_upstream: 1, idle_timeout: 1s, max_age: 2m}
dns: {refresh: 1h}
health: {failures: 1, eject: 5s, max_eject: 2h}
rewrite_redirects: off
rewrite_cookies: off
redirect_to_slash: true
forwarded: {trusted_proxies: [10.0.0.0/8, 127.0.0.1, "::1"], enabled: false}
proxy_protocol: {from: [192.0.2.7, "2001:db8::/32"]}
admin: {configz: local, health: /healthz, metrics: false, listen_addr: ["127.0.0.1:10", "unix:/run/admin"]}
plugins:
  - path: /lib/x.so
    name: first
    config: {a: [1, null, "true"], b: {}}
  - builtin: header_demo
    required: false
    config: "  verbatim: [\n\ttext "
  - builtin: no_config
plugin_body_limit: 0
via: false
error_pages: {404: a.html, 5xx: b.html}
log: {format: json, access: true, fields: full, query: false}
"#,
            ),
        ] {
            let https = r#"
  - {prefix: /e, upstream: "https://b", upstream_tls: {ca_file: "/x y", server_name: Z.example}}
  - {prefix: /f, upstream: "https://b", upstream_tls: {insecure_skip_verify: true}}
  - {prefix: /g, upstream: "https://b"}
upstream_tls: {ca_file: /ca, server_name: "::1", certificate: a, key: b}
tls: {listen_addr: ":9", certificate: a, key: b, certificates: [{certificate: c, key: d}], client_ca: e, client_auth: optional, min_version: 1.3, redirect_http: true}
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
  max_connections_per_client: unlimited
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
  plugin: 10s
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
via: true
admin:
  configz: true
  health: true
  metrics: true
plugins: []
plugin_body_limit: 1MiB
log:
  format: text
  access: false
  fields: short
  query: true
"#;
        assert_eq!(printed, expected);
    }
}
