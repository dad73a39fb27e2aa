//! Floor 2: what a gateway does, pure. No socket, no clock, no thread.

pub mod exchange;
pub mod hooks;
pub mod route;
pub mod site;
