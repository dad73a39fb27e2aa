//! Tests of what a small host needs: the static binary, sockets from a service manager, the memory budget, the image.
//!
//! `make static` builds the binaries that some of them run.

#[path = "../support/mod.rs"]
mod support;

mod activation;
