//! What tests and fuzz targets drive an exchange with: no sockets, no clock, nothing but the library and std.
//!
//! The independent parser that judges what leaves the proxy is [`strict`], of the crate `selftest`.
//!
//! | file | one job |
//! |---|---|
//! | `plugin` | a plugin that does what a script says |
//! | `wire` | one exchange, its peers, its pool and its clock, all in memory |
//! | `invariants` | what must hold whatever happens, one function each |
//! | `script` | the `.wire` files |
//! | `scenes` | scenarios made of a number |
#![allow(dead_code, missing_docs, reason = "each test binary uses a part of this")]

pub use selftest::strict;

pub mod plugin;
pub mod wire;
pub mod invariants;
pub mod script;
pub mod scenes;

/// In how many ways of cutting at random something is run: what the environment variable `RANDOM_RUNS` says, or else `usual`.
pub fn random_runs(usual: u64) -> u64 {
    std::env::var("RANDOM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(usual)
}

/// Marsaglia's xorshift: the same numbers on every run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}
