//! A small HTTP/1.1 reverse proxy on raw TCP: the map of its code.
//!
//! A file imports only from layers below its own, or from files listed before it on its own layer; `tests/layers` checks
//! that. So reading upwards from here, nothing refers to what comes later.
//!
//! | layer | module | holds | may not contain |
//! |---|---|---|---|
//! | 0 | [`about`], [`bytes`], [`mono_time`], [`start_error`], [`config`], [`log`] | the version, byte queues, the clock, why a start fails, the one YAML file, log lines | sockets |
//! | 1 | [`http`] | the HTTP/1.1 grammar: heads, targets, framing, chunks | sockets, clock, threads |
//! | 2 | [`proxy`], [`extras`] | what a gateway does: routes, forwarding, the connection; and what a reader can skip | sockets, clock, threads |
//! | 3 | [`plugin`] | loading libraries, the C function table, the chain of hooks | sockets |
//! | 4 | [`net`] | the event loop: readiness, TLS, timers, pools, DNS, signals | HTTP rules |
//! | 5 | [`cli`], `main` | flags, the start report, exit codes | logic |
//!
//! # Where to begin
//!
//! [`proxy::proxy_connection::ProxyConnection`] is the center: one client connection, with the upstream connection that it
//! uses at the moment. It owns no socket and reads no clock. Events go in, bytes and commands come out, and the same code
//! runs under the event loop in `net::session`, the scripts in `tests/wire` and the fuzzer.
//!
//! Follow one request: [`net::worker`] accepts the connection, `net::session` reads its bytes into the
//! `ProxyConnection`, [`http::head`] parses the head, [`proxy::admit`] decides who answers, [`proxy::route`] finds the
//! upstream, [`proxy::forward`] makes the head that is sent, `net::upstream` finds a connection for it, and the response comes
//! back through `proxy::response_side`. [`proxy::proxy_connection`] holds the rules that need both sides.
//!
//! `docs/architecture.md` has a tour by functions, a table "Where do I change ...?", and a reading guide with exercises;
//! `docs/rules.md` has the rules by number.
//!
//! # Words
//!
//! Those of RFC 9110 and RFC 9112: field lines, content, framing, interim and final responses. The two sides of a
//! connection are the *client* and the *upstream*.
#![deny(unsafe_code)]

pub mod about;
pub mod bytes;
pub mod mono_time;
pub mod start_error;
pub mod config;
pub mod log;
pub mod http;
pub mod proxy;
pub mod extras;
pub mod plugin;
pub mod net;
pub mod cli;
