//! Layer 2: what a gateway does, pure. No socket, no clock, no thread.
//!
//! | file | one job |
//! |---|---|
//! | [`route`] | the longest matching prefix, and the target to forward |
//! | [`tickets`] | who may resume a paused exchange, from any thread |
//! | [`events`] | what goes into a connection and what comes out |
//! | [`cause`] | why a request was not a plain success |
//! | [`request_log`] | what the access log will say, and who hears of it |
//! | [`hooks`] | the interface to plugins |
//! | [`runtime`] | what all connections of a worker share |
//! | [`connection`] | the Connection field |
//! | [`forwarded`] | X-Forwarded-*: whose word is taken |
//! | [`admit`] | whether a request is served, and by whom |
//! | [`strip`] | which lines of a request do not pass, and why |
//! | [`forward`] | received head to forwarded head |
//! | `memory` | the memory of a request, and what bodies that plugins read may take of it |
//! | [`client_cert`] | what upstreams are told about a client's certificate |
//! | [`state`] | the states of a connection, and every transition between them |
//! | `context` | what a step may touch and ask for |
//! | `flow_control` | backpressure: whether a side is read; time-outs: how long it may be silent |
//! | `outcome` | how a request ends: responses of our own, truncation, the log line |
//! | `retry` | connecting to an upstream; when a request is sent again |
//! | `request_side` | the client's side |
//! | `response_side` | the upstream's side |
//! | [`proxy_connection`] | one client connection: events in, commands out |

pub mod route;
pub mod tickets;
pub mod events;
pub mod cause;
pub mod request_log;
pub mod hooks;
pub mod runtime;
pub mod connection;
pub mod forwarded;
pub mod admit;
pub mod strip;
pub mod forward;
pub mod client_cert;
mod memory;
pub mod state;
mod context;
mod flow_control;
mod outcome;
mod retry;
mod request_side;
mod response_side;
pub mod proxy_connection;
