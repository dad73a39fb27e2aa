//! Requests through the exchange in memory, without sockets: for profilers, and to count what a request costs.
//!
//! ```text
//! cargo run --release --example requests small 1000000      # or: browser
//! cargo run --release --features wasm --example requests filter 1000000
//! sh benches/instructions.sh                                # instructions for each, by callgrind
//! ```
//!
//! `filter` is `small` with a WebAssembly filter that sets a field of the request and one of the response.
//!
//! It does what the event loop does with one client connection and a pooled upstream connection: the bytes of a request
//! come from the client, the bytes of a response from the upstream, and what is to be written is taken.

use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use mini_rproxy::config::{Config, LogFormat};
use mini_rproxy::log::Logger;
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::plugin::chain;
use mini_rproxy::plugin::instances::Plugins;
use mini_rproxy::proxy::proxy_connection::{
    AccessRecord, Balance, Command, Input, Now, Observer, Peer, ProxyConnection, Side, TransactionPool, WorkerContext,
};
use mini_rproxy::proxy::runtime::Runtime;

#[path = "../benches/heads/mod.rs"]
mod heads;

use heads::{BROWSER, SMALL};

/// The body of each response.
const CONTENT: &str = "hello";

const FILTER: &str = concat!(
    "plugins: [{builtin: proxy_wasm, config: {module: '",
    env!("CARGO_MANIFEST_DIR"),
    "/examples/plugins/proxy_wasm/filters/headers.wasm', config: \"request set x-a 1\\nresponse set x-b 2\"}}]\n"
);

/// Counts what is over.
struct Counter(u64);

impl Observer for Counter {
    fn access(&mut self, record: &AccessRecord<'_>) {
        assert_eq!(record.log.status, 200);
        self.0 += 1;
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chosen = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["small", count] => count.parse().map(|count| (SMALL, "", count)),
        ["browser", count] => count.parse().map(|count| (BROWSER, "", count)),
        ["filter", count] => count.parse().map(|count| (SMALL, FILTER, count)),
        _ => "".parse().map(|count| (SMALL, "", count)),
    };
    let Ok(([request, response], plugins, count)) = chosen else {
        eprintln!("usage: requests small|browser|filter COUNT");
        return ExitCode::from(2);
    };
    let started = MonoTime::now();
    run(request.as_bytes(), [response, CONTENT].concat().as_bytes(), plugins, count);
    println!("{} ns for each of {count} requests", (MonoTime::now() - started).as_nanos() / u128::from(count.max(1)));
    ExitCode::SUCCESS
}

fn run(request: &[u8], response: &[u8], plugins: &str, count: u64) {
    let text = "routes: [{prefix: /app, upstream: 'http://127.0.0.1:9000/base'}]\n\
        limits: {max_requests_per_connection: 0}\n";
    let config = Config::parse(&[text, plugins].concat(), "requests").expect("valid");
    let logger = Logger::start(LogFormat::Text, std::io::stderr()).expect("a thread");
    let plugins = Plugins::none(logger.clone()).reload(&config.plugins).expect("plugins that start");
    let hooks = chain::of_routes(&plugins, &config, &logger);
    let runtime = Rc::new(Runtime::new(Arc::new(config), hooks));
    let now = Now { instant: MonoTime::now(), date: *b"Sun, 06 Nov 1994 08:49:37 GMT" };
    let peer = Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), is_tls: false, ..Peer::default() };
    let mut exchange = ProxyConnection::new(&now, peer, Rc::clone(&runtime));
    let (mut transactions, mut observer) = (TransactionPool::default(), Counter(0));
    let mut balance = Balance::default();
    let mut env = WorkerContext {
        now: &now,
        runtime: &runtime,
        balance: &mut balance,
        transactions: &mut transactions,
        observer: &mut observer,
    };
    for _ in 0..count {
        for (side, bytes) in [(Side::Client, request), (Side::Upstream, response)] {
            exchange.handle(&mut env, Input::Bytes(side, black_box(bytes)));
            while let Some(command) = exchange.poll_command() {
                if let Command::Connect { .. } = command {
                    exchange.handle(&mut env, Input::Connected { reused: true });
                }
            }
            for side in [Side::Client, Side::Upstream] {
                let len = black_box(exchange.output(side)).len();
                exchange.sent(&mut env, side, len);
            }
        }
    }
    assert_eq!(observer.0, count, "each request was answered");
}
