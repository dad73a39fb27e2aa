//! A small HTTP/1.1 reverse proxy on raw TCP: the map of its code.
//!
//! The code is a house of floors. A file imports only from floors below it, or from files listed before it on its own
//! floor; `tests/layers` checks that. So reading upwards from here, nothing refers to what comes later.
//!
//! | floor | module | holds | may not contain |
//! |---|---|---|---|
//! | 0 | [`about`], [`bytes`], [`mono_time`], [`config`], [`log`] | the version, byte queues, the clock, the one YAML file, log lines | sockets |
//! | 1 | [`http`] | the HTTP/1.1 grammar: heads, targets, framing, chunks | sockets, clock, threads |
//! | 2 | [`proxy`] | what a gateway does: routes, forwarding, the exchange | sockets, clock, threads |
//! | 3 | [`plugin`] | loading libraries, the C function table, the chain of hooks | sockets |
//! | 4 | [`net`] | the event loop: readiness, TLS, timers, pools, names, signals | HTTP rules |
//! | 5 | [`cli`], `main` | flags, the start report, exit codes | logic |
//!
//! # Where to begin
//!
//! [`proxy::proxy_connection::ProxyConnection`] is the heart: one client connection with the upstream connection that it currently
//! borrows. It owns no socket and reads no clock. Events go in, bytes and commands come out, and whoever drives it - the
//! event loop in [`net::drive`], the scripts in `tests/wire`, a fuzzer - drives the very same code.
//!
//! Follow one request: [`net::event_loop`] accepts it, [`net::drive`] reads its bytes into the exchange,
//! [`http::head`] parses the head, [`proxy::admit`] decides who answers it, [`proxy::route`] finds the upstream,
//! [`proxy::forward`] makes the head that leaves, [`net::dial`] lends a connection for it, and the response comes back
//! through `proxy::response_side`. [`proxy::proxy_connection`] holds the rules that need both ends.
//!
//! `docs/architecture.md` has the reading guide, with an exercise for each step, and `docs/rules.md` the rules by number.
//!
//! # Words
//!
//! Those of RFC 9110 and RFC 9112: field lines, content, framing, interim and final responses. The two sides of a
//! connection are the *client* and the *upstream*.
#![deny(unsafe_code)]

pub mod about;
pub mod bytes;
pub mod mono_time;
pub mod config;
pub mod log;
pub mod http;
pub mod proxy;
pub mod extras;
pub mod plugin;
pub mod net;
pub mod cli;
