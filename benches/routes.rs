//! A look-up costs what the path costs, not what the number of routes costs: compare the lines of `lookup`. And 100,000
//! routes load, from YAML text to a [`Runtime`], in well under a second.
//!
//! `cargo bench --bench routes`

use std::fmt::Write;
use std::sync::Arc;

use divan::{Bencher, black_box};
use mini_rproxy::config::Config;
use mini_rproxy::proxy::route::Router;
use mini_rproxy::proxy::runtime::Runtime;

fn main() {
    divan::main();
}

const COUNTS: [u32; 3] = [10, 1_000, 100_000];

/// Prefixes of three segments and of one length, so that only their number differs.
fn prefixes(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("/api/v1/service-{number:06}")).collect()
}

/// Takes every look-up to another route, so that a large table pays for its cache misses.
fn lookup_with(bencher: Bencher<'_, '_>, count: u32, rest: &str) {
    let prefixes = prefixes(count);
    let router = Router::new(prefixes.iter().map(String::as_str));
    let paths: Vec<_> = prefixes.iter().map(|prefix| format!("{prefix}{rest}")).collect();
    let mut next = 0;
    bencher.bench_local(|| {
        // 7919 is a prime: all routes come up, in no order that a cache could guess.
        next = (next + 7919) % paths.len();
        router.find(b"h.example", black_box(paths[next].as_bytes()))
    });
}

#[divan::bench(args = COUNTS, sample_count = 50, sample_size = 2_000)]
fn lookup(bencher: Bencher<'_, '_>, count: u32) {
    lookup_with(bencher, count, "/users/123/orders");
}

/// The same route again and again: the table stays in the cache.
#[divan::bench(args = COUNTS, sample_count = 50, sample_size = 2_000)]
fn lookup_of_one_route(bencher: Bencher<'_, '_>, count: u32) {
    let prefixes = prefixes(count);
    let router = Router::new(prefixes.iter().map(String::as_str));
    let path = format!("{}/users/123/orders", prefixes[prefixes.len() / 2]);
    bencher.bench_local(|| router.find(b"h.example", black_box(path.as_bytes())));
}

/// A look-up among routes for `hosts` hosts, each with its share of them.
fn lookup_by_host_with(bencher: Bencher<'_, '_>, count: u32, hosts: u32) {
    let host = |number: u32| format!("service-{:06}.example", number % hosts);
    let prefix = |number: u32| format!("/api/v1/path-{:06}", number / hosts);
    let mut text = "routes:\n".to_owned();
    for number in 0..count {
        let (host, prefix) = (host(number), prefix(number));
        writeln!(text, "- {{hosts: {host}, prefix: {prefix}, upstream: 'http://o'}}").expect("memory takes everything");
    }
    let config = Config::parse(&text, "bench").unwrap_or_else(|error| panic!("{error}"));
    let router = Router::of(config.routes.iter());
    let requests: Vec<_> =
        (0..count).map(|number| (host(number), format!("{}/users/123/orders", prefix(number)))).collect();
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 7919) % requests.len();
        let (host, path) = &requests[next];
        router.find(black_box(host.as_bytes()), black_box(path.as_bytes()))
    });
}

#[divan::bench(args = COUNTS, sample_count = 50, sample_size = 2_000)]
fn lookup_by_host(bencher: Bencher<'_, '_>, count: u32) {
    lookup_by_host_with(bencher, count, count);
}

#[divan::bench(args = COUNTS, sample_count = 50, sample_size = 2_000)]
fn lookup_by_host_with_100_prefixes(bencher: Bencher<'_, '_>, count: u32) {
    lookup_by_host_with(bencher, count, count.div_ceil(100));
}

/// The same route again and again, of 100,000 for as many hosts.
#[divan::bench(args = COUNTS, sample_count = 50, sample_size = 2_000)]
fn lookup_of_one_host(bencher: Bencher<'_, '_>, count: u32) {
    let mut text = "routes:\n".to_owned();
    for number in 0..count {
        writeln!(text, "- {{hosts: service-{number:06}.example, prefix: /, upstream: 'http://o'}}")
            .expect("memory takes everything");
    }
    let config = Config::parse(&text, "bench").unwrap_or_else(|error| panic!("{error}"));
    let router = Router::of(config.routes.iter());
    let host = format!("service-{:06}.example", count / 2);
    bencher.bench_local(|| router.find(black_box(host.as_bytes()), black_box(b"/users/123/orders")));
}

#[divan::bench(args = COUNTS, sample_count = 50, sample_size = 2_000)]
fn lookup_without_a_route(bencher: Bencher<'_, '_>, count: u32) {
    let prefixes = prefixes(count);
    let router = Router::new(prefixes.iter().map(String::as_str));
    bencher.bench_local(|| router.find(b"h.example", black_box(b"/api/v1/service-xxxxxx/users/123/orders")));
}

/// From the text of the file to a [`Runtime`].
#[divan::bench(args = [1_000, 100_000], sample_count = 10, sample_size = 1)]
fn load(bencher: Bencher<'_, '_>, count: u32) {
    let mut text = "routes:\n".to_owned();
    for (number, prefix) in prefixes(count).iter().enumerate() {
        let port = 9000 + number % 100;
        writeln!(text, "  - prefix: {prefix}\n    upstream: http://127.0.0.1:{port}").expect("memory takes everything");
    }
    bencher.bench_local(|| {
        let config = Config::parse(&text, "bench").unwrap_or_else(|error| panic!("{error}"));
        Runtime::new(Arc::new(config), None)
    });
}
