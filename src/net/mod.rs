//! Layer 4: sockets, threads and the clock. No HTTP rules here.
//!
//! | file | one job |
//! |---|---|
//! | [`slab`] | numbered slots with generations |
//! | [`event_source`] | what a poller's token names |
//! | [`timers`] | deadlines in the order of time |
//! | [`clock`] | the time of a run of the loop, and the Date field |
//! | [`log_limiter`] | one line in a while |
//! | [`socket`] | one socket and what is known of its readiness |
//! | [`tls`] | TLS: certificates, trust, and the layer between socket and proxy connection |
//! | [`conn`] | a socket with or without that layer |
//! | [`splice`] | bodies through pipes, uncopied |
//! | [`activation`] | sockets that a service manager hands over, and what it wants to hear |
//! | [`descriptors`] | the descriptor limit and the connection limit made of it |
//! | [`memory_budget`] | the memory budget: what waits when it is used up |
//! | [`malloc_trim`] | memory that the allocator keeps for later |
//! | `acceptor` | listening sockets of a worker, and what happens when accepting fails |
//! | `worker_queue` | what a worker hears from other threads |
//! | [`dns`] | names to addresses, on threads of their own |
//! | [`observer`] | what a worker says: warnings and access lines |
//! | [`reload`] | the configuration, and old ones that requests still need |
//! | `host_memory` | how much memory this process may use |
//! | `client_counts` | the connections of each client, where they are limited |
//! | [`worker`] | one event loop: run, events, timers, accept, drain, reload |
//! | `session` | one client and its upstream, from accept to close |
//! | `addresses` | the addresses of an upstream, and in which order they are tried |
//! | `upstream_state` | what a worker knows of its upstreams |
//! | `upstream` | the life of an upstream connection; idle ones, addresses |
//! | [`listeners`] | what the process listens on, and what a reload changes of it |
//! | [`server`] | all workers together |
//! | [`probe`] | asks a running proxy for its health |
//! | [`signal`] | signals, as values for the main thread |

pub mod slab;
pub mod event_source;
pub mod timers;
pub mod clock;
pub mod log_limiter;
pub mod socket;
pub mod tls;
pub mod conn;
pub mod splice;
mod acceptor;
mod worker_queue;
pub mod activation;
pub mod descriptors;
mod host_memory;
mod client_counts;
pub mod error_pages;
pub mod memory_budget;
pub mod malloc_trim;
pub mod dns;
mod addresses;
mod upstream_state;
pub mod observer;
pub mod reload;
pub mod worker;
mod session;
mod upstream;
pub mod listeners;
pub mod server;
pub mod probe;
pub mod signal;

#[cfg(test)]
mod loop_faults;
#[cfg(test)]
mod loop_tests;
