//! /metrics: what all workers have counted, in the text format that Prometheus reads (version 0.0.4).
//!
//! A fixed, small set. Labels are bounded: routes by prefix (never by path), status classes, causes, plugins.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use super::metrics::{BOUNDS, CLASSES, Counter, Counters, Registry, RouteCounters, UpstreamCounters};
use crate::about;

/// The media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All that was counted, as text.
pub fn to_text(registry: &Registry) -> String {
    let counters = registry.total();
    let mut text = TextWriter::default();
    text.family("mini_rproxy_build_info", "gauge", "What runs here; always 1.");
    text.sample("", &[("version", about::VERSION), ("features", &about::features())], 1);
    text.family("process_start_time_seconds", "gauge", "When the process began, in seconds since 1970.");
    text.sample("", &[], Seconds(registry.started));
    write_routes(&counters, &mut text);
    write_upstreams(&counters, &mut text);
    write_connections(&counters, &mut text);
    write_causes_and_plugins(&counters, &mut text);
    text.out
}

fn write_routes(counters: &Counters, text: &mut TextWriter) {
    let named = counters.routes.iter().map(|(name, route)| (if name.is_empty() { "other" } else { &**name }, route));
    let routes: BTreeMap<&str, &RouteCounters> = named.collect();
    text.family("mini_rproxy_requests_total", "counter", "Finished requests by route and class of status.");
    for (name, route) in &routes {
        for (class, (word, count)) in CLASSES.iter().zip(route.classes).enumerate() {
            // A series that begins at 1 hides its first increase; the odd class hardly ever comes up.
            if count > 0 || class > 0 {
                text.sample("", &[("route", name), ("code", word)], count);
            }
        }
    }
    let help = "From the first byte of a request to the end of its response, without tunnels.";
    text.family("mini_rproxy_request_duration_seconds", "histogram", help);
    for (name, route) in &routes {
        let mut up_to_here = 0;
        let bounds = BOUNDS.iter().map(|micros| Seconds(Duration::from_micros(*micros)).to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(route.durations) {
            up_to_here += count;
            text.sample("_bucket", &[("route", name), ("le", &bound)], up_to_here);
        }
        text.sample("_sum", &[("route", name)], Seconds(Duration::from_micros(route.micros)));
        text.sample("_count", &[("route", name)], up_to_here);
    }
}

fn write_upstreams(counters: &Counters, text: &mut TextWriter) {
    let mut upstreams: BTreeMap<String, UpstreamCounters> = BTreeMap::new();
    for (authority, by_scheme) in &counters.upstreams {
        for (scheme, counted) in ["http", "https"].iter().zip(by_scheme).filter(|(_, counted)| counted.requests > 0) {
            let name = if authority.is_empty() { "other".to_owned() } else { format!("{scheme}://{authority}") };
            upstreams.entry(name).or_default().add(counted);
        }
    }
    type Family = (&'static str, &'static str, &'static str, fn(&UpstreamCounters) -> u64);
    let families: [Family; 4] = [
        (
            "mini_rproxy_upstream_requests_total",
            "counter",
            "Attempts at requests, for upstreams that are one of several.",
            |it| it.requests,
        ),
        ("mini_rproxy_upstream_failures_total", "counter", "Those of them that got no answer.", |it| it.failures),
        (
            "mini_rproxy_upstream_ejections_total",
            "counter",
            "How often an upstream was left alone for a while.",
            |it| it.ejections,
        ),
        ("mini_rproxy_upstream_ejected", "gauge", "Workers that leave the upstream alone now.", |it| it.ejected),
    ];
    for (family, kind, help, value) in families {
        text.family(family, kind, help);
        upstreams.iter().for_each(|(name, upstream)| text.sample("", &[("upstream", name)], value(upstream)));
    }
}

fn write_connections(counters: &Counters, text: &mut TextWriter) {
    let count = |counter| counters.get(counter);
    for (name, kind, help, value) in [
        (
            "mini_rproxy_requests_in_flight",
            "gauge",
            "Client connections on which a request is under way.",
            count(Counter::BecameBusy) - count(Counter::BecameIdle),
        ),
        (
            "mini_rproxy_retries_total",
            "counter",
            "Requests that were sent to an upstream again.",
            count(Counter::Retries),
        ),
        (
            "mini_rproxy_unmapped_heads_total",
            "counter",
            "Heads that were passed on as they came, because they would have been too large when mapped.",
            count(Counter::UnmappedHeads),
        ),
        (
            "mini_rproxy_client_connections_total",
            "counter",
            "Client connections that were accepted.",
            count(Counter::Accepted),
        ),
        (
            "mini_rproxy_client_connections_open",
            "gauge",
            "Client connections that are open.",
            count(Counter::Accepted) - count(Counter::Closed),
        ),
        (
            "mini_rproxy_client_connections_max",
            "gauge",
            "Client connections that may be open at once, without those at admin.listen_addr.",
            count(Counter::MaxClients),
        ),
        (
            "mini_rproxy_client_connections_max_reached_total",
            "counter",
            "How often a worker had no place for further clients, which wait then.",
            count(Counter::LimitReached),
        ),
        (
            "mini_rproxy_client_connections_refused_total",
            "counter",
            "Client connections that were closed at once, because there was no descriptor or no place for them.",
            count(Counter::Refused),
        ),
    ] {
        text.family(name, kind, help);
        text.sample("", &[], value);
    }
    let help = "Upstream connections that were needed: taken from the pool, or begun anew.";
    text.family("mini_rproxy_upstream_connections_total", "counter", help);
    text.sample("", &[("source", "pool")], count(Counter::Reused));
    text.sample("", &[("source", "new")], count(Counter::Dialed));
    let help = "Body bytes of finished requests, received from clients (in) and given to them (out).";
    text.family("mini_rproxy_body_bytes_total", "counter", help);
    text.sample("", &[("direction", "in")], count(Counter::BytesIn));
    text.sample("", &[("direction", "out")], count(Counter::BytesOut));
}

fn write_causes_and_plugins(counters: &Counters, text: &mut TextWriter) {
    let help = "Requests that were no plain success, by the why= of the access log.";
    text.family("mini_rproxy_causes_total", "counter", help);
    counters.causes.iter().for_each(|(why, count)| text.sample("", &[("why", why)], count));
    let help = "TLS handshakes with clients that had begun and were never complete, by reason.";
    text.family("mini_rproxy_tls_handshake_failures_total", "counter", help);
    counters.handshake_failures.iter().for_each(|(reason, count)| text.sample("", &[("reason", reason)], count));
    text.family("mini_rproxy_plugin_seconds_total", "counter", "Time that the hooks of a plugin took.");
    for (name, plugin) in &counters.plugins {
        text.sample("", &[("plugin", name)], Seconds(Duration::from_nanos(plugin.nanos)));
    }
    text.family("mini_rproxy_plugin_faults_total", "counter", "Requests that a plugin failed.");
    counters.plugins.iter().for_each(|(name, plugin)| text.sample("", &[("plugin", name)], plugin.faults));
}

/// Writes families and their samples.
#[derive(Default)]
struct TextWriter {
    out: String,
    family: &'static str,
}

const INFALLIBLE: &str = "a string takes everything";

impl TextWriter {
    /// What stands before the samples of one name, once. `help` has nothing in it that must be escaped.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect(INFALLIBLE);
    }

    /// A sample of the family, whose name may have a suffix.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        write!(self.out, "{}{suffix}", self.family).expect(INFALLIBLE);
        for (index, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let start = if index == 0 { '{' } else { ',' };
            write!(self.out, "{start}{label}=\"{value}\"").expect(INFALLIBLE);
        }
        let end = if labels.is_empty() { "" } else { "}" };
        writeln!(self.out, "{end} {value}").expect(INFALLIBLE);
    }
}

/// A time, written as a decimal number of seconds without zeros at its end.
struct Seconds(Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = format!("{}.{:09}", self.0.as_secs(), self.0.subsec_nanos());
        f.write_str(digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UpstreamUrl;
    use crate::proxy::events::UpstreamEvent;
    use crate::proxy::hooks::PluginTiming;
    use crate::proxy::request_log::AccessRecord;

    #[test]
    fn seconds_are_written_without_noise() {
        for (nanos, expected) in [
            (0, "0"),
            (500_000, "0.0005"),
            (1_000_000_000, "1"),
            (10_000_000_000, "10"),
            (1, "0.000000001"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(Seconds(Duration::from_nanos(nanos)).to_string(), expected);
        }
    }

    #[test]
    fn label_values_cannot_break_out() {
        let mut text = TextWriter { family: "x", ..TextWriter::default() };
        text.sample("", &[("a", "/c\"} 1\\"), ("b", "\n")], 7);
        assert_eq!(text.out, "x{a=\"/c\\\"} 1\\\\\",b=\"\\n\"} 7\n");
    }

    #[test]
    fn all_workers_are_added_up() {
        let upstream = UpstreamUrl::parse("http://one").expect("a valid URL");
        let registry = Registry::new(2, Duration::from_millis(1_700_000_000_500));
        let stints = [PluginTiming { plugin: "demo", time: Duration::from_micros(3), faults: 1 }];
        for (worker, status, millis) in [(0, 200, 1), (1, 200, 7), (1, 502, 20_000)] {
            let record = AccessRecord {
                status,
                prefix: Some("/a"),
                is_counted_by_prefix: true,
                total: Duration::from_millis(millis),
                bytes_out: 10,
                why: (status == 502).then_some("connect_refused"),
                plugins: &stints,
                ..AccessRecord::default()
            };
            registry.of_worker(worker).count_request(&record);
            registry.of_worker(worker).increment(Counter::Accepted);
        }
        for (worker, event) in [
            (0, UpstreamEvent::Attempted),
            (1, UpstreamEvent::Attempted),
            (1, UpstreamEvent::Failed),
            (1, UpstreamEvent::Ejected(Duration::from_secs(1), "connect_refused")),
        ] {
            registry.of_worker(worker).count_upstream(&upstream, event);
        }
        registry.of_worker(0).increment(Counter::Closed);
        registry.of_worker(0).increment(Counter::BecameBusy);
        let text = to_text(&registry);
        for line in [
            "process_start_time_seconds 1700000000.5",
            "mini_rproxy_requests_total{route=\"/a\",code=\"1xx\"} 0",
            "mini_rproxy_requests_total{route=\"/a\",code=\"2xx\"} 2",
            "mini_rproxy_requests_total{route=\"/a\",code=\"5xx\"} 1",
            "mini_rproxy_request_duration_seconds_bucket{route=\"/a\",le=\"0.0005\"} 0",
            "mini_rproxy_request_duration_seconds_bucket{route=\"/a\",le=\"0.001\"} 1",
            "mini_rproxy_request_duration_seconds_bucket{route=\"/a\",le=\"0.01\"} 2",
            "mini_rproxy_request_duration_seconds_bucket{route=\"/a\",le=\"10\"} 2",
            "mini_rproxy_request_duration_seconds_bucket{route=\"/a\",le=\"+Inf\"} 3",
            "mini_rproxy_request_duration_seconds_sum{route=\"/a\"} 20.008",
            "mini_rproxy_request_duration_seconds_count{route=\"/a\"} 3",
            "mini_rproxy_requests_in_flight 1",
            "mini_rproxy_upstream_requests_total{upstream=\"http://one\"} 2",
            "mini_rproxy_upstream_failures_total{upstream=\"http://one\"} 1",
            "mini_rproxy_upstream_ejections_total{upstream=\"http://one\"} 1",
            "mini_rproxy_upstream_ejected{upstream=\"http://one\"} 1",
            "mini_rproxy_client_connections_total 3",
            "mini_rproxy_client_connections_open 2",
            "mini_rproxy_body_bytes_total{direction=\"out\"} 30",
            "mini_rproxy_causes_total{why=\"connect_refused\"} 1",
            "mini_rproxy_plugin_seconds_total{plugin=\"demo\"} 0.000009",
            "mini_rproxy_plugin_faults_total{plugin=\"demo\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(
            !text.contains("/never")
                && !text.contains("http://two")
                && !text.contains("\"none\"")
                && !text.contains("code=\"other\""),
            "{text}"
        );
    }
}
