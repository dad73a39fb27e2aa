//! A configuration as an operator sees it, and what is different between two of them: what the log of a reload says, and
//! what `-check -against` prints.
//!
//! An outline is flat: a name and a text for each setting, and for each route what sets it apart from others of its file.
//! It holds no credentials and no plugin's configuration, since /configz shows it: that these differ is only seen where
//! both configurations are at hand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Config, RouteConfig, UpstreamUrl};

/// What only counts at start: threads, memory and plugins are set up there, and the log is begun.
const FIXED: [&str; 4] = ["workers", "limits.memory_budget", "log.format", "plugins"];

/// A configuration in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// By name, for example `timeouts.drain`.
    settings: BTreeMap<String, Words>,
    /// By prefix: the upstream, and what is different from a route that says nothing else.
    routes: BTreeMap<String, BTreeMap<String, Words>>,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

/// By hand: the derived one keeps a copy of whatever stands there, numbers and mappings too, and tries each kind.
impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Words, E> {
                Ok(Words::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = list.next_element()? {
                    all.push(text);
                }
                Ok(Words::Many(all))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
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

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Added => "added",
            Kind::Changed => "changed",
            Kind::Removed => "removed",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.what)?;
        if self.needs_restart { f.write_str(" (needs a restart)") } else { Ok(()) }
    }
}

impl Outline {
    /// The whole configuration.
    pub fn of(config: &Config) -> Outline {
        // Not collected: that would sort a list first, and bring in a sort of its own.
        let mut routes = BTreeMap::new();
        routes.extend(config.routes.iter().map(|route| outline_route(config, route)));
        Outline { settings: settings(config), routes }
    }

    /// As /configz shows it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("text always becomes JSON")
    }

    /// Reads what [`Outline::to_json`] wrote.
    pub fn from_json(json: &str) -> Option<Outline> {
        serde_json::from_str(json).ok()
    }

    /// What is different in `new`.
    pub fn differences(&self, new: &Outline) -> Vec<Difference> {
        let mut found = Vec::new();
        compare(&self.settings, &new.settings, "", &mut found);
        for (prefix, old) in &self.routes {
            match new.routes.get(prefix) {
                None => found.push(Difference::new(Kind::Removed, route_in_words(prefix, old))),
                Some(new) => compare(old, new, &format!("route {prefix}: "), &mut found),
            }
        }
        let added = new.routes.iter().filter(|(prefix, _)| !self.routes.contains_key(*prefix));
        found.extend(added.map(|(prefix, new)| Difference::new(Kind::Added, route_in_words(prefix, new))));
        found
    }
}

impl Difference {
    fn new(kind: Kind, what: String) -> Difference {
        Difference { kind, what, needs_restart: false }
    }
}

impl Config {
    /// What is different in `new`. Routes that are the same cost no words, however many they are.
    pub fn differences(&self, new: &Config) -> Vec<Difference> {
        let (mut old_outline, mut new_outline) = (Outline::default(), Outline::default());
        old_outline.settings = settings(self);
        new_outline.settings = settings(new);
        let (old_bare, new_bare) = (self.bare_route(), new.bare_route());
        let before: HashMap<&str, &RouteConfig> = self.routes.iter().map(|r| (r.prefix.as_str(), r)).collect();
        let mut left = before.clone();
        let mut found = Vec::new();
        for route in &new.routes {
            let Some(old) = left.remove(route.prefix.as_str()) else {
                new_outline.routes.extend([outline_route(new, route)]);
                continue;
            };
            let is_same = old.upstream == route.upstream
                && old.others == route.others
                && (old.options == route.options || *old.options == old_bare && *route.options == new_bare);
            if is_same {
                continue;
            }
            let (old_words, new_words) = (outline_route(self, old), outline_route(new, route));
            // They are in no outline. Of an upstream that is only in one of the two it is told that it comes or goes.
            let is_other = |old: &UpstreamUrl| {
                let public = old.to_public_string();
                let new = route.upstreams().find(|new| new.to_public_string() == public);
                new.is_some_and(|new| new.authorization != old.authorization)
            };
            if old.upstreams().any(is_other) {
                let what = format!("route {}: the credentials in its upstream URL", route.prefix);
                found.push(Difference::new(Kind::Changed, what));
            }
            old_outline.routes.extend([old_words]);
            new_outline.routes.extend([new_words]);
        }
        old_outline.routes.extend(left.into_values().map(|route| outline_route(self, route)));
        found.extend(old_outline.differences(&new_outline));
        if self.plugins != new.plugins && !found.iter().any(|difference| difference.what.starts_with("plugins ")) {
            let what = "plugins: the order, or what one is told".to_owned();
            found.push(Difference { kind: Kind::Changed, what, needs_restart: true });
        }
        found
    }

    /// Takes over what a running proxy cannot change: it stays as `old` has it.
    pub fn keep_what_is_fixed(&mut self, old: &Config) {
        self.workers = old.workers;
        self.limits.memory_budget = old.limits.memory_budget;
        self.log.format = old.log.format;
        self.plugins.clone_from(&old.plugins);
    }
}

/// Everything but the routes.
fn settings(config: &Config) -> BTreeMap<String, Words> {
    let mut settings = BTreeMap::new();
    // The file as -print-config prints it: whatever key there is, it is here too.
    let file = Config { routes: Vec::new(), plugins: strip(config), ..config.clone() }.to_value();
    flatten("", file, &mut settings);
    settings.remove("routes");
    settings
}

/// What a plugin is told may be a secret.
fn strip(config: &Config) -> Vec<super::PluginConfig> {
    let mut plugins = config.plugins.clone();
    plugins.iter_mut().for_each(|plugin| plugin.config.clear());
    plugins
}

fn outline_route(config: &Config, route: &RouteConfig) -> (String, BTreeMap<String, Words>) {
    let mut words = BTreeMap::new();
    let ordinary = config.bare_route();
    if *route.options != ordinary {
        let mut others = BTreeMap::new();
        flatten("", config.options_to_value(&route.options), &mut words);
        flatten("", config.options_to_value(&ordinary), &mut others);
        words.retain(|key, words| others.get(key) != Some(words));
    }
    let upstreams: Vec<String> = route.upstreams().map(UpstreamUrl::to_public_string).collect();
    words.insert(
        "upstream".to_owned(),
        match <[String; 1]>::try_from(upstreams) {
            Ok([one]) => Words::One(one),
            Err(several) => Words::Many(several),
        },
    );
    (route.prefix.clone(), words)
}

/// Gives each leaf of a mapping of mappings a name of its own.
fn flatten(name: &str, value: Value, into: &mut BTreeMap<String, Words>) {
    match value {
        Value::Object(mapping) => {
            for (key, value) in mapping {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                flatten(&name, value, into);
            }
        }
        Value::Array(list) => {
            into.insert(name.to_owned(), Words::Many(list.into_iter().map(leaf).collect()));
        }
        Value::Null => {}
        value => {
            into.insert(name.to_owned(), Words::One(leaf(value)));
        }
    }
}

fn leaf(value: Value) -> String {
    match value {
        Value::String(text) => text,
        value => value.to_string(),
    }
}

fn route_in_words(prefix: &str, words: &BTreeMap<String, Words>) -> String {
    let upstream = words.get("upstream").map_or(String::new(), |words| format!(" to {words}"));
    format!("route {prefix}{upstream}")
}

fn compare(old: &BTreeMap<String, Words>, new: &BTreeMap<String, Words>, subject: &str, found: &mut Vec<Difference>) {
    let mut note = |kind, key: &str, what: String| {
        let needs_restart = subject.is_empty() && FIXED.contains(&key);
        found.push(Difference { kind, what: format!("{subject}{key} {what}"), needs_restart });
    };
    let mut names = BTreeSet::new();
    names.extend(old.keys().chain(new.keys()));
    for name in names {
        match (old.get(name), new.get(name)) {
            (None, None) => {}
            (Some(old), Some(new)) if old == new => {}
            (Some(Words::One(old)), Some(Words::One(new))) => note(Kind::Changed, name, format!("{old} -> {new}")),
            (Some(Words::One(old)), None) => note(Kind::Removed, name, old.clone()),
            (None, Some(Words::One(new))) => note(Kind::Added, name, new.clone()),
            (old, new) => {
                let (old, new) = (old.map_or(&[][..], Words::list), new.map_or(&[][..], Words::list));
                let (removed, added) = (without(old, new), without(new, old));
                removed.iter().for_each(|one| note(Kind::Removed, name, (*one).clone()));
                added.iter().for_each(|one| note(Kind::Added, name, (*one).clone()));
                if removed.is_empty() && added.is_empty() && old.len() == new.len() && !old.is_empty() {
                    note(Kind::Changed, name, "in another order".to_owned());
                }
            }
        }
    }
}

/// Those of `list` that are not in `other`.
fn without<'a>(list: &'a [String], other: &[String]) -> Vec<&'a String> {
    list.iter().filter(|one| !other.contains(one)).collect()
}

impl Words {
    fn list(&self) -> &[String] {
        match self {
            Words::One(one) => std::slice::from_ref(one),
            Words::Many(all) => all,
        }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list().join(", "))
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
        let running = Outline::from_json(&Outline::of(&old).to_json()).expect("written by us");
        let told = running.differences(&Outline::of(&new)).iter().map(Difference::to_string).collect();
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
        let json = Outline::of(&config(&old)).to_json();
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
            let (whole, _) = both_ways(several, &several.replace(from, to));
            assert_eq!(whole, expected, "{name}");
        }
        let (whole, told) = both_ways(&old, &old.replace("secret", "other"));
        assert_eq!(whole, ["changed: plugins: the order, or what one is told (needs a restart)"]);
        assert_eq!(told, [""; 0]);
        let (whole, told) = both_ways(&old, &old.replace("/x.so", "/y.so"));
        assert_eq!(whole, told);
        assert!(whole.iter().all(|line| line.contains("plugins") && line.contains("restart")), "{whole:?}");
        assert_eq!(whole.len(), 2);
    }

    #[test]
    fn what_is_fixed_stays_as_it_was() {
        let old = config(&format!("{BASE}workers: 1\nplugins: [{{builtin: x}}]"));
        let mut new = config(&format!("{BASE}workers: 2\nlog: {{format: json}}\ntimeouts: {{drain: 1s}}"));
        new.keep_what_is_fixed(&old);
        let left: Vec<String> = old.differences(&new).iter().map(Difference::to_string).collect();
        assert_eq!(left, ["changed: timeouts.drain 10s -> 1s"]);
    }

    #[test]
    fn what_is_no_outline_is_not_read_as_one() {
        for json in
            ["", "[]", "{}", "[{\"prefix\":\"/\",\"upstream\":\"http://a\"}]", "{\"settings\":[],\"routes\":{}}"]
        {
            assert_eq!(Outline::from_json(json), None, "{json}");
        }
    }
}
