//! Floor 2: what a gateway does, pure. No socket, no clock, no thread.
//!
//! | file | one job |
//! |---|---|
//! | [`route`] | the longest matching prefix, and the target to forward |
//! | [`hooks`] | the plugins' only door |
//! | [`runtime`] | what all exchanges of a worker share |
//! | [`events`] | what goes into an exchange and what comes out |
//! | [`proxy_protocol`] | what a load balancer says before the first byte |
//! | [`cause`] | why an exchange was not a plain success |
//! | [`connection`] | the Connection field |
//! | [`forwarded`] | X-Forwarded-*: whose word is taken |
//! | [`admit`] | whether a request is served, and by whom |
//! | [`strip`] | which lines of a request do not pass, and why |
//! | [`forward`] | received head to forwarded head |
//! | [`local`] | answers of our own |
//! | [`request_log`] | what the access log will say |
//! | `choice` | the upstream that a request goes to, of several |
//! | [`body_memory`] | what bodies that plugins read may take |
//! | `transaction` | one request under way: memory and states |
//! | `read_interest` | whether to read, and what a read would cost in memory |
//! | `context` | what a step may touch and ask for |
//! | `outcome` | how an exchange ends |
//! | `failover` | another upstream when one fails |
//! | `request_side` | the client's end |
//! | `response_side` | the origin's end |
//! | `timeouts` | when patience ends |
//! | `settle` | what both ends together ask for |
//! | [`proxy_connection`] | one client connection: events in, commands out |

pub mod route;
pub mod hooks;
pub mod runtime;
pub mod events;
pub mod proxy_protocol;
pub mod cause;
pub mod connection;
pub mod forwarded;
pub mod admit;
pub mod strip;
pub mod forward;
pub mod local;
pub mod request_log;
pub mod body_memory;
mod choice;
mod transaction;
mod read_interest;
mod context;
mod outcome;
mod failover;
mod request_side;
mod response_side;
mod timeouts;
mod settle;
pub mod proxy_connection;
