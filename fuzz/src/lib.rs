//! Fuzz targets: each is a function of bytes that panics when something does not hold.
//!
//! | target | what must hold |
//! |---|---|
//! | [`request_head`], [`response_head`] | the same answer however the bytes are split; what is accepted can be written and read again |
//! | [`framing_pair`] | an independent strict parser finds the same messages with the same ends |
//! | [`chunked_roundtrip`] | decoding does not depend on splits; what we encode is decoded to the same |
//! | [`proxy_header`] | the same verdict however the bytes are split, within 107 of them; what is told stands in the bytes |
//! | [`target_route`] | targets, dot segments and routes as plain models find them; what is forwarded is a valid target |
//! | [`config`] | no panic; a refusal is one line; what was read can be printed and read again |
//! | [`plugin_elf`] | what is accepted lies within the file |
//! | [`plugin_record`] | what is accepted keeps every rule of the interface |
//! | [`plugin_fields`] | the host's functions do to a message what a model does to a list of pairs |
//! | [`wasm_calls`] | a WebAssembly module calls host functions with any arguments: no panic, and messages stay valid |
//! | [`exchange`] | all invariants of the tests, whatever clients, upstreams, plugins and the clock do |
//!
//! A finding first becomes a test (a row of a table, or a file in `tests/wire`), and then it is mended.

mod config;
mod exchange;
mod framing;
mod head;
mod input;
mod plugin;
mod proxy_header;
mod target;
mod wasm;

/// The tests' own wire, strict parser and invariants.
#[path = "../../tests/testkit/mod.rs"]
pub mod testkit;

pub use config::config;
pub use exchange::{encode, exchange};
pub use framing::{chunked_roundtrip, framing_pair};
pub use head::{request_head, response_head};
pub use plugin::{plugin_elf, plugin_fields, plugin_record};
pub use proxy_header::proxy_header;
pub use target::target_route;
pub use wasm::wasm_calls;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 12] = [
    ("chunked_roundtrip", chunked_roundtrip),
    ("config", config),
    ("exchange", exchange),
    ("framing_pair", framing_pair),
    ("plugin_elf", plugin_elf),
    ("plugin_fields", plugin_fields),
    ("plugin_record", plugin_record),
    ("proxy_header", proxy_header),
    ("request_head", request_head),
    ("response_head", response_head),
    ("target_route", target_route),
    ("wasm_calls", wasm_calls),
];
