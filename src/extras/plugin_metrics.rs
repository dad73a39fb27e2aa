//! Counters and gauges that plugins define; /metrics shows them.
//!
//! They stay until the process ends: a plugin that is created anew at a reload goes on counting.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// One of them. The lock is held for an addition, and right on processors without 64-bit atomics.
#[derive(Debug)]
pub struct PluginMetric {
    /// The entry of the plugin.
    owner: String,
    /// Whether it also goes down.
    pub is_gauge: bool,
    /// What it says.
    pub help: String,
    value: Mutex<i64>,
}

impl PluginMetric {
    /// Adds to it; whether it may change in that direction.
    pub fn add(&self, delta: i64) -> bool {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let may_change = self.is_gauge || delta >= 0;
        if may_change {
            *value = value.saturating_add(delta);
        }
        may_change
    }

    /// How much it is now.
    pub fn value(&self) -> i64 {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of the proxy's own that look like a plugin's.
const TAKEN: [&str; 2] = ["plugin_seconds_total", "plugin_faults_total"];

/// By the names that /metrics shows, without `mini_rproxy_`.
static ALL: Mutex<BTreeMap<String, &'static PluginMetric>> = Mutex::new(BTreeMap::new());

/// The metric of that name of the plugin that is called `owner`: a new one, or the one that it has defined before. `None` where
/// that one is of the other kind, another plugin's, or ours.
pub fn define(owner: &str, name: &str, help: &str, is_gauge: bool) -> Option<&'static PluginMetric> {
    let word = owner.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let full = format!("plugin_{word}_{name}");
    if TAKEN.contains(&&*full) {
        return None;
    }
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let metric = *all.entry(full).or_insert_with(|| {
        let (owner, help) = (owner.to_owned(), help.to_owned());
        Box::leak(Box::new(PluginMetric { owner, is_gauge, help, value: Mutex::new(0) }))
    });
    (metric.owner == owner && metric.is_gauge == is_gauge).then_some(metric)
}

/// All of them, in the order of their names.
pub fn all() -> BTreeMap<String, &'static PluginMetric> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_belongs_to_one_entry_and_goes_on_after_a_reload() {
        let metric = define("rate-limit", "refused_total", "Refused.", false).expect("it is new");
        assert!(metric.add(i64::MAX) && metric.add(1) && !metric.add(-1));
        assert_eq!(metric.value(), i64::MAX, "it neither wraps nor panics");
        let again = define("rate-limit", "refused_total", "", false).expect("it is the same");
        assert!(std::ptr::eq(metric, again));
        assert_eq!(all()["plugin_rate_limit_refused_total"].help, "Refused.");
        for (name, owner, metric, is_gauge) in [
            ("of another kind", "rate-limit", "refused_total", true),
            ("whose name looks the same", "rate_limit", "refused_total", false),
            ("whose entry and name are split elsewhere", "rate", "limit_refused_total", false),
            ("of the proxy", "seconds", "total", false),
            ("of the proxy, too", "faults", "total", false),
        ] {
            assert!(define(owner, metric, "", is_gauge).is_none(), "{name}");
        }
        let gauge = define("rate-limit", "clients", "", true).expect("it is new");
        assert!(gauge.add(-5) && gauge.add(2));
        assert_eq!(gauge.value(), -3);
    }
}
