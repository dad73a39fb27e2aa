//! End-to-end tests: the built binary, real sockets, and programs that no one here wrote.
//!
//! One crate, so that it is linked once. Each file is one topic. No test sleeps to wait for something: it waits for an
//! event (a line of the log, bytes, the end of a connection) and gives up only after `support::PATIENCE`.

#[path = "../support/mod.rs"]
mod support;

mod builtin_answers;
mod bundled_upstream;
mod clock;
mod crowd;
mod curl;
mod error_pages;
mod explain;
mod faults;
mod git;
mod hosts;
mod life_cycle;
mod limits;
mod log_lines;
mod logins;
mod metrics;
mod nginx;
#[cfg(feature = "dlopen")]
mod plugin_reload;
#[cfg(feature = "dlopen")]
mod plugins;
mod pipes;
mod pool;
mod pressure;
mod proxy_protocol;
mod reload;
mod selftest;
mod start_up;
mod streaming;
mod takeover;
mod timeouts;
mod trace;
mod unix_upstreams;
mod upstreams;
mod under_prefix;
mod websocket;
