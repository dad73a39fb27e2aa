//! Tests of what a small host needs: the static binary, sockets from a service manager, the memory budget, the image.
//!
//! `make static` builds the binaries that some of them run.

#![allow(unused_imports, reason = "the helpers export more than these tests use")]

#[path = "../support/mod.rs"]
mod support;

mod activation;
mod budget;
mod image;
mod static_binary;
mod units;
