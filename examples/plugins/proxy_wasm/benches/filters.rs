//! What a filter costs a request: the module with its host functions, without a proxy. `cargo bench -p mini-rproxy-proxy-wasm`

use std::path::PathBuf;

use mini_rproxy_plugin::testing::{Exchange, Instance};
use proxy_wasm::ProxyWasm;

fn main() {
    divan::main();
}

fn filter(name: &str, config: &str) -> Instance<ProxyWasm> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "filters", name].iter().collect();
    Instance::new(format!("{{{config} \"module\": {path:?}}}")).expect("a filter of this crate")
}

/// A request as a browser sends it.
fn request() -> Exchange {
    let fields = ["accept", "accept-encoding", "accept-language", "cookie", "referer", "user-agent"];
    fields
        .iter()
        .fold(Exchange::get("/some/path?with=query"), |x, name| x.field(name, "as long as such values often are"))
}

/// All of an exchange: request, response, end.
fn play(plugin: &Instance<ProxyWasm>, mut x: Exchange) {
    let _ = x.request(plugin);
    x.upstream_answers(200, &[("content-type", "text/html"), ("server", "s")], "");
    let _ = x.response(plugin);
    x.done(plugin);
}

/// The same without a plugin that does anything: to be taken off.
#[divan::bench]
fn an_exchange_alone(bencher: divan::Bencher<'_, '_>) {
    bencher.with_inputs(request).bench_values(|mut x| {
        x.upstream_answers(200, &[("content-type", "text/html"), ("server", "s")], "");
        x
    });
}

/// Reads `:path`, and lets it pass.
#[divan::bench]
fn deny(bencher: divan::Bencher<'_, '_>) {
    let plugin = filter("deny.wasm", r#""config": "deny /private","#);
    bencher.with_inputs(request).bench_values(|x| play(&plugin, x));
}

/// Sets a field of the request and one of the response.
#[divan::bench]
fn headers(bencher: divan::Bencher<'_, '_>) {
    let plugin = filter("headers.wasm", r#""config": "request set x-a 1\nresponse set x-b 2","#);
    bencher.with_inputs(request).bench_values(|x| play(&plugin, x));
}

/// Counts in shared data.
#[divan::bench]
fn rate(bencher: divan::Bencher<'_, '_>) {
    let plugin = filter("rate.wasm", r#""config": "limit 100000000","#);
    bencher.with_inputs(request).bench_values(|x| play(&plugin, x));
}

/// Reads, compiles and starts a module, once for an entry.
#[divan::bench(sample_count = 20)]
fn create() -> Instance<ProxyWasm> {
    filter("deny.wasm", "")
}
