//! TLS on both sides, over real sockets: certificates made here, clients and origins that no one here wrote.
//!
//! One crate; each file is one topic. No test sleeps to wait for something.

#![cfg(feature = "tls")]

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod client_certificates;
mod ends;

mod attributes;
mod downstream;
mod leaving;
mod reload;
mod storm;
mod through;
mod trust;
mod upstream;
