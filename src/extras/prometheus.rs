//! /metrics: what all workers have counted, in the text format that Prometheus reads (version 0.0.4).
//!
//! A fixed, small set. Labels are bounded: routes by prefix (never by path) and their first host, status classes, causes, plugins.

use std::fmt::Display;

use super::metrics::{BOUNDS, CLASSES, Counter, LabeledCounters, ROUTE_DURATIONS, ROUTE_MICROS, Registry};
use super::plugin_metrics;
use crate::about;

/// The media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All families, without `mini_rproxy_`, and what each says. Nothing in it must be escaped.
const HELP: &str = "
build_info What runs here; always 1.
requests_total Finished requests by route and class of status.
request_duration_seconds From the first byte of a request to the end of its response, without tunnels.
requests_in_flight Client connections on which a request is under way.
retries_total Requests that were sent to an upstream again.
unmapped_heads_total Heads that were passed on as they came, because they would have been too large when mapped.
causes_total Requests that were no plain success, by the why= of the access log.
upstream_requests_total Attempts at requests, for upstreams that are one of several.
upstream_failures_total Those of them that got no answer.
upstream_ejections_total How often an upstream was left alone for a while.
upstream_ejected Workers that leave the upstream alone now.
upstream_connections_total Upstream connections that were needed: taken from the pool, or begun anew.
client_connections_total Client connections that were accepted.
client_connections_open Client connections that are open.
client_connections_max Client connections that may be open at once, without those at admin.listen_addr.
client_connections_max_reached_total How often a worker had no place for further clients, which wait then.
client_connections_max_per_client_reached_total Client connections that were closed at once: their client had as many as it may have.
client_connections_refused_total Client connections that were closed at once: no descriptor or no place for them.
tls_certificate_expiry_timestamp_seconds When a certificate of the configuration expires, in seconds since 1970.
tls_handshake_failures_total TLS handshakes with clients that had begun and were never complete, by reason.
body_bytes_total Body bytes of finished requests, received from clients (in) and given to them (out).
plugin_seconds_total Time that the hooks of a plugin took.
plugin_faults_total Requests that a plugin failed.
";

/// All that was counted, as text.
pub fn to_text(registry: &Registry) -> String {
    let counters = registry.total();
    let count = |counter| counters.get(counter);
    let mut text = TextWriter::default();
    text.out.push_str("# HELP process_start_time_seconds When the process began, in seconds since 1970.\n");
    text.out.push_str("# TYPE process_start_time_seconds gauge\n");
    text.out.push_str(&format!("process_start_time_seconds {}\n", registry.started.as_millis() as f64 / 1e3));
    text.family("build_info");
    text.sample("", &[("version", about::VERSION), ("features", &about::features())], 1);

    let routes = counters.routes.sorted();
    text.family("requests_total");
    for (name, numbers) in &routes {
        for (class, (word, count)) in CLASSES.iter().zip(*numbers).enumerate() {
            // A series that begins at 1 hides its first increase; the odd class hardly ever comes up.
            if *count > 0 || class > 0 {
                text.sample("", &route_labels(name, Some(("code", word))), count);
            }
        }
    }
    text.family("request_duration_seconds");
    for (name, numbers) in &routes {
        let mut up_to_here = 0;
        let bounds = BOUNDS.iter().map(|micros| (*micros as f64 / 1e6).to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&numbers[ROUTE_DURATIONS..ROUTE_MICROS]) {
            up_to_here += count;
            text.sample("_bucket", &route_labels(name, Some(("le", &bound))), up_to_here);
        }
        text.sample("_sum", &route_labels(name, None), numbers[ROUTE_MICROS] as f64 / 1e6);
        text.sample("_count", &route_labels(name, None), up_to_here);
    }

    text.number("requests_in_flight", count(Counter::BecameBusy) - count(Counter::BecameIdle));
    text.number("retries_total", count(Counter::Retries));
    text.number("unmapped_heads_total", count(Counter::UnmappedHeads));
    text.table("why", &counters.causes, ["causes_total"]);
    let families =
        ["upstream_requests_total", "upstream_failures_total", "upstream_ejections_total", "upstream_ejected"];
    text.table("upstream", &counters.upstreams, families);
    text.family("upstream_connections_total");
    text.sample("", &[("source", "pool")], count(Counter::Reused));
    text.sample("", &[("source", "new")], count(Counter::Dialed));
    text.number("client_connections_total", count(Counter::Accepted));
    text.number("client_connections_open", count(Counter::Accepted) - count(Counter::Closed));
    text.number("client_connections_max", count(Counter::MaxClients));
    text.number("client_connections_max_reached_total", count(Counter::LimitReached));
    text.number("client_connections_max_per_client_reached_total", count(Counter::ClientLimitReached));
    text.number("client_connections_refused_total", count(Counter::Refused));
    text.family("tls_certificate_expiry_timestamp_seconds");
    for (file, expiry) in &*registry.expiries() {
        text.sample("", &[("certificate", file)], expiry);
    }
    text.table("reason", &counters.handshake_failures, ["tls_handshake_failures_total"]);
    text.family("body_bytes_total");
    text.sample("", &[("direction", "in")], count(Counter::BytesIn));
    text.sample("", &[("direction", "out")], count(Counter::BytesOut));
    text.table("plugin", &counters.plugins, ["plugin_seconds_total", "plugin_faults_total"]);
    for (name, metric) in plugin_metrics::all() {
        text.begin(&name, &metric.help, if metric.is_gauge { "gauge" } else { "counter" });
        text.sample("", &[], metric.value());
    }
    text.out
}

/// The labels for the name of a route, in front of whose prefix the first of its hosts may stand, and another one.
fn route_labels<'a>(name: &'a str, other: Option<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    // A host has no slash in it, and prefixes begin with one.
    let (host, route) = name.split_at(name.find('/').unwrap_or_default());
    let host = (!host.is_empty()).then_some(("host", host));
    [("route", route)].into_iter().chain(host).chain(other).collect()
}

/// Writes families and their samples. Times are floating-point numbers, as they are for who reads them.
#[derive(Default)]
struct TextWriter {
    out: String,
    family: String,
}

impl TextWriter {
    /// What stands before the samples of one name, once.
    fn family(&mut self, name: &str) {
        let help = HELP.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_default();
        let kind = match name {
            "request_duration_seconds" => "histogram",
            _ if name.ends_with("_total") => "counter",
            _ => "gauge",
        };
        self.begin(name, help, kind);
    }

    fn begin(&mut self, name: &str, help: &str, kind: &str) {
        self.family = name.to_owned();
        self.out += &format!("# HELP mini_rproxy_{name} {help}\n# TYPE mini_rproxy_{name} {kind}\n");
    }

    /// A sample of the family, whose name may have a suffix.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.out += &format!("mini_rproxy_{}{suffix}{labels} {value}\n", self.family);
    }

    /// A family of one sample.
    fn number(&mut self, family: &str, value: u64) {
        self.family(family);
        self.sample("", &[], value);
    }

    /// A family for each number of a table. Times are in nanoseconds there.
    fn table<const N: usize>(&mut self, label: &str, table: &LabeledCounters<N>, families: [&str; N]) {
        for (index, family) in families.into_iter().enumerate() {
            self.family(family);
            for (name, numbers) in table.sorted() {
                let number = numbers[index] as f64;
                self.sample("", &[(label, name)], if family.contains("_seconds_") { number / 1e9 } else { number });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UpstreamUrl;
    use crate::proxy::cause::Cause;
    use crate::proxy::events::{ConnectError, UpstreamEvent};
    use crate::proxy::hooks::PluginTiming;
    use crate::proxy::request_log::{AccessRecord, RequestLog};
    use std::time::Duration;

    #[test]
    fn label_values_cannot_break_out() {
        let mut text = TextWriter { family: "x".to_owned(), ..TextWriter::default() };
        text.sample("", &[("a", "/c\"} 1\\"), ("b", "\n")], 7);
        assert_eq!(text.out, "mini_rproxy_x{a=\"/c\\\"} 1\\\\\",b=\"\\n\"} 7\n");
    }

    #[test]
    fn all_workers_are_added_up() {
        let upstream = UpstreamUrl::parse("http://one").expect("a valid URL");
        let registry = Registry::new(2, Duration::from_millis(1_700_000_000_500));
        let plugins = [PluginTiming { plugin: "demo", time: Duration::from_micros(3), faults: 1 }];
        for (worker, status, millis) in [(0, 200, 1), (1, 200, 7), (1, 502, 20_000)] {
            let cause = (status == 502).then_some(Cause::Connect(ConnectError::Refused));
            let log = RequestLog { status, bytes_out: 10, cause, ..RequestLog::default() };
            let record = AccessRecord {
                prefix: Some("/a"),
                is_counted_by_prefix: true,
                ended: log.started + Duration::from_millis(millis),
                plugins: &plugins,
                ..AccessRecord::new(&log)
            };
            registry.of_worker(worker).count_request(&record);
            registry.of_worker(worker).increment(Counter::Accepted);
        }
        for route_host in [Some("a.example"), Some("*.b.example")] {
            let log = RequestLog { status: 200, ..RequestLog::default() };
            let record =
                AccessRecord { prefix: Some("/h"), route_host, is_counted_by_prefix: true, ..AccessRecord::new(&log) };
            registry.of_worker(0).count_request(&record);
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
        plugin_metrics::define("my-plugin", "seen_total", "What it saw.", false).expect("it is new").add(4);
        plugin_metrics::define("my-plugin", "level", "", true).expect("it is new").add(-4);
        let text = to_text(&registry);
        for line in [
            "# HELP mini_rproxy_plugin_my_plugin_seen_total What it saw.",
            "# TYPE mini_rproxy_plugin_my_plugin_seen_total counter",
            "mini_rproxy_plugin_my_plugin_seen_total 4",
            "# TYPE mini_rproxy_plugin_my_plugin_level gauge",
            "mini_rproxy_plugin_my_plugin_level -4",
            "process_start_time_seconds 1700000000.5",
            "mini_rproxy_requests_total{route=\"/a\",code=\"1xx\"} 0",
            "mini_rproxy_requests_total{route=\"/a\",code=\"2xx\"} 2",
            "mini_rproxy_requests_total{route=\"/a\",code=\"5xx\"} 1",
            "mini_rproxy_requests_total{route=\"/h\",host=\"a.example\",code=\"2xx\"} 1",
            "mini_rproxy_requests_total{route=\"/h\",host=\"*.b.example\",code=\"2xx\"} 1",
            "mini_rproxy_request_duration_seconds_bucket{route=\"/h\",host=\"a.example\",le=\"+Inf\"} 1",
            "mini_rproxy_request_duration_seconds_count{route=\"/h\",host=\"a.example\"} 1",
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
            text.lines()
                .filter_map(|line| line.strip_prefix("# HELP "))
                .filter(|line| !line.contains("_plugin_"))
                .all(|line| line.ends_with('.')),
            "{text}"
        );
        assert!(
            !text.contains("/never")
                && !text.contains("http://two")
                && !text.contains("\"none\"")
                && !text.contains("code=\"other\""),
            "{text}"
        );
    }
}
