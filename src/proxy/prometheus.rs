//! /metrics: what all workers have counted, in the text format that Prometheus reads (version 0.0.4).
//!
//! A fixed, small set. Labels are bounded: routes by prefix (never by path), status classes, causes, plugins.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::Duration;

use super::meter::{BOUNDS, CLASSES, Count, Meter, RouteMeter, UpstreamMeter};
use super::runtime::AllLabels;
use crate::about;

/// The media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The counters of all workers.
#[derive(Debug)]
pub struct Board {
    meters: Vec<Arc<Meter>>,
    labels: Arc<AllLabels>,
    /// When the process began, since 1970.
    started: Duration,
}

impl Board {
    /// For so many workers.
    pub fn new(workers: usize, labels: Arc<AllLabels>, started: Duration) -> Board {
        Board { meters: (0..workers).map(|_| Arc::default()).collect(), labels, started }
    }

    /// Each worker's counters.
    pub fn meters(&self) -> &[Arc<Meter>] {
        &self.meters
    }

    /// All of it, as text.
    pub fn to_text(&self) -> String {
        let mut page = Page::default();
        self.write_process(&mut page);
        self.write_routes(&mut page);
        self.write_upstreams(&mut page);
        self.write_connections(&mut page);
        self.write_causes_and_plugins(&mut page);
        page.text
    }

    fn write_process(&self, page: &mut Page) {
        page.family("mini_rproxy_build_info", "gauge", "What runs here; always 1.");
        page.sample("mini_rproxy_build_info", &[("version", about::VERSION), ("features", &about::features())], 1);
        page.family("process_start_time_seconds", "gauge", "When the process began, in seconds since 1970.");
        page.sample("process_start_time_seconds", &[], Seconds::of(self.started));
    }

    fn write_routes(&self, page: &mut Page) {
        let labels = self.labels.routes.all();
        let routes: Vec<(&str, Vec<&RouteMeter>)> = labels
            .iter()
            .map(|(label, name)| (&**name, self.meters.iter().filter_map(|meter| meter.route(*label)).collect()))
            .filter(|(_, meters): &(&str, Vec<&RouteMeter>)| !meters.is_empty())
            .collect();
        let sum = |meters: &[&RouteMeter], of: &dyn Fn(&RouteMeter) -> u64| meters.iter().map(|meter| of(meter)).sum();

        let name = "mini_rproxy_requests_total";
        page.family(name, "counter", "Finished requests by route and class of status.");
        for (route, meters) in &routes {
            for (class, word) in CLASSES.iter().enumerate() {
                let count: u64 = sum(meters, &|meter| meter.classes[class].get());
                // A series that begins at 1 hides its first increase; the odd class hardly ever comes up.
                if count > 0 || class > 0 {
                    page.sample(name, &[("route", route), ("code", word)], count);
                }
            }
        }

        let name = "mini_rproxy_request_duration_seconds";
        page.family(name, "histogram", "From the first byte of a request to the end of its response, without tunnels.");
        for (route, meters) in &routes {
            let mut up_to_here = 0_u64;
            for (bucket, bound) in BOUNDS.iter().map(Some).chain([None]).enumerate() {
                up_to_here += sum(meters, &|meter| meter.durations[bucket].get());
                let bound = bound.map_or("+Inf".to_owned(), |micros| Seconds::of_micros(*micros).to_string());
                page.sample(&format!("{name}_bucket"), &[("route", route), ("le", &bound)], up_to_here);
            }
            let micros = sum(meters, &|meter| meter.micros.get());
            page.sample(&format!("{name}_sum"), &[("route", route)], Seconds::of_micros(micros));
            page.sample(&format!("{name}_count"), &[("route", route)], up_to_here);
        }
    }

    fn write_upstreams(&self, page: &mut Page) {
        let labels = self.labels.upstreams.all();
        type Family = (&'static str, &'static str, &'static str, fn(&UpstreamMeter) -> &Count);
        let families: [Family; 4] = [
            ("requests_total", "counter", "Attempts at requests, for upstreams that are one of several.", |m| {
                &m.requests
            }),
            ("failures_total", "counter", "Those of them that got no answer.", |m| &m.failures),
            ("ejections_total", "counter", "How often an upstream was left alone for a while.", |m| &m.ejections),
            ("ejected", "gauge", "Workers that leave the upstream alone now.", |m| &m.ejected),
        ];
        for (name, kind, help, of) in families {
            let name = format!("mini_rproxy_upstream_{name}");
            page.family(&name, kind, help);
            for (label, upstream) in &labels {
                let mut meters = self.meters.iter().filter_map(|meter| meter.upstream(*label)).peekable();
                if meters.peek().is_some() {
                    let sum = meters.fold(0_u64, |sum, meter| sum.wrapping_add(of(meter).get()));
                    page.sample(&name, &[("upstream", upstream)], sum);
                }
            }
        }
    }

    fn write_connections(&self, page: &mut Page) {
        let simple: [(&str, &str, &str, u64); 8] = [
            (
                "mini_rproxy_requests_in_flight",
                "gauge",
                "Client connections on which a request is under way.",
                self.sum(|meter| &meter.busy),
            ),
            (
                "mini_rproxy_retries_total",
                "counter",
                "Requests that were sent to an upstream again.",
                self.sum(|meter| &meter.retries),
            ),
            (
                "mini_rproxy_unmapped_heads_total",
                "counter",
                "Heads that were passed on as they came, because they would have been too large when mapped.",
                self.sum(|meter| &meter.unmapped),
            ),
            (
                "mini_rproxy_client_connections_total",
                "counter",
                "Client connections that were accepted.",
                self.sum(|meter| &meter.accepted),
            ),
            (
                "mini_rproxy_client_connections_open",
                "gauge",
                "Client connections that are open.",
                // The two are not read at the same moment.
                self.sum(|meter| &meter.accepted).saturating_sub(self.sum(|meter| &meter.closed)),
            ),
            (
                "mini_rproxy_client_connections_max",
                "gauge",
                "Client connections that may be open at once, without those at admin.listen_addr.",
                self.sum(|meter| &meter.max_clients),
            ),
            (
                "mini_rproxy_client_connections_max_reached_total",
                "counter",
                "How often a worker had no place for further clients, which wait then.",
                self.sum(|meter| &meter.limit_reached),
            ),
            (
                "mini_rproxy_client_connections_refused_total",
                "counter",
                "Client connections that were closed at once, because there was no descriptor or no place for them.",
                self.sum(|meter| &meter.refused),
            ),
        ];
        for (name, kind, help, value) in simple {
            page.family(name, kind, help);
            page.sample(name, &[], value);
        }
        let name = "mini_rproxy_upstream_connections_total";
        page.family(name, "counter", "Upstream connections that were needed: taken from the pool, or begun anew.");
        page.sample(name, &[("source", "pool")], self.sum(|meter| &meter.reused));
        page.sample(name, &[("source", "new")], self.sum(|meter| &meter.dialed));
        let name = "mini_rproxy_body_bytes_total";
        page.family(
            name,
            "counter",
            "Body bytes of finished requests, received from clients (in) and given to them (out).",
        );
        page.sample(name, &[("direction", "in")], self.sum(|meter| &meter.bytes_in));
        page.sample(name, &[("direction", "out")], self.sum(|meter| &meter.bytes_out));
    }

    fn write_causes_and_plugins(&self, page: &mut Page) {
        let name = "mini_rproxy_causes_total";
        page.family(name, "counter", "Requests that were no plain success, by the why= of the access log.");
        for (why, count) in by_word(self.meters.iter().flat_map(|meter| meter.causes.all().map(|(w, c)| (w, c.get()))))
        {
            page.sample(name, &[("why", why)], count);
        }
        let name = "mini_rproxy_tls_handshake_failures_total";
        page.family(name, "counter", "TLS handshakes with clients that had begun and were never complete, by reason.");
        let failures = self.meters.iter().flat_map(|meter| meter.handshake_failures.all());
        for (reason, count) in by_word(failures.map(|(reason, count)| (reason, count.get()))) {
            page.sample(name, &[("reason", reason)], count);
        }
        let plugins = || self.meters.iter().flat_map(|meter| meter.plugins.all());
        let name = "mini_rproxy_plugin_seconds_total";
        page.family(name, "counter", "Time that the hooks of a plugin took.");
        for (plugin, nanos) in by_word(plugins().map(|(name, plugin)| (name, plugin.nanos.get()))) {
            page.sample(name, &[("plugin", plugin)], Seconds::of(Duration::from_nanos(nanos)));
        }
        let name = "mini_rproxy_plugin_faults_total";
        page.family(name, "counter", "Requests that a plugin failed.");
        for (plugin, faults) in by_word(plugins().map(|(name, plugin)| (name, plugin.faults.get()))) {
            page.sample(name, &[("plugin", plugin)], faults);
        }
    }

    fn sum(&self, of: impl Fn(&Meter) -> &Count) -> u64 {
        self.meters.iter().fold(0, |sum, meter| sum.wrapping_add(of(meter).get()))
    }
}

/// The sum for each word, in the order of the words.
fn by_word<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> impl Iterator<Item = (&'a str, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    counts.for_each(|(word, count)| *sums.entry(word).or_default() += count);
    sums.into_iter()
}

/// A text in the making.
#[derive(Default)]
struct Page {
    text: String,
}

const TAKEN: &str = "a string takes everything";

impl Page {
    /// What stands before the samples of one name, once. `help` has nothing in it that must be escaped.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect(TAKEN);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push_str(if index == 0 { "{" } else { "," });
            self.text.push_str(label);
            self.text.push_str("=\"");
            text.chars().for_each(|c| match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                _ => self.text.push(c),
            });
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        writeln!(self.text, " {value}").expect(TAKEN);
    }
}

/// A time, written as a decimal number of seconds without noise at its end.
struct Seconds {
    whole: u64,
    nanos: u32,
}

impl Seconds {
    fn of(duration: Duration) -> Seconds {
        Seconds { whole: duration.as_secs(), nanos: duration.subsec_nanos() }
    }

    fn of_micros(micros: u64) -> Seconds {
        Seconds::of(Duration::from_micros(micros))
    }
}

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = format!("{:09}", self.nanos);
        match digits.trim_end_matches('0') {
            "" => write!(f, "{}", self.whole),
            digits => write!(f, "{}.{digits}", self.whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::events::{AccessRecord, UpstreamEvent};
    use crate::proxy::hooks::PluginTiming;

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
            assert_eq!(Seconds::of(Duration::from_nanos(nanos)).to_string(), expected);
        }
    }

    #[test]
    fn label_values_cannot_break_out() {
        let mut page = Page::default();
        page.sample("x", &[("a", "/c\"} 1\\"), ("b", "\n")], 7);
        assert_eq!(page.text, "x{a=\"/c\\\"} 1\\\\\",b=\"\\n\"} 7\n");
    }

    #[test]
    fn all_workers_are_added_up() {
        let labels = Arc::new(AllLabels::default());
        let given = labels.routes.assign(["/a", "/never"]);
        let upstreams = labels.upstreams.assign(["http://one", "http://two"]);
        let board = Board::new(2, labels, Duration::from_millis(1_700_000_000_500));
        let stints = [PluginTiming { plugin: "demo", time: Duration::from_micros(3), faults: 1 }];
        for (worker, status, millis) in [(0, 200, 1), (1, 200, 7), (1, 502, 20_000)] {
            let record = AccessRecord {
                status,
                label: given[0],
                total: Duration::from_millis(millis),
                bytes_out: 10,
                why: (status == 502).then_some("connect_refused"),
                plugins: &stints,
                ..AccessRecord::default()
            };
            board.meters()[worker].count(&record);
            board.meters()[worker].accepted.increment();
        }
        for (worker, event) in [
            (0, UpstreamEvent::Asked),
            (1, UpstreamEvent::Asked),
            (1, UpstreamEvent::Failed),
            (1, UpstreamEvent::Ejected(Duration::from_secs(1), "connect_refused")),
        ] {
            board.meters()[worker].count_upstream(upstreams[0], event);
        }
        board.meters()[0].closed.increment();
        board.meters()[0].busy.increment();
        let text = board.to_text();
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
