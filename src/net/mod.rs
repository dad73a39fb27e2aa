//! Floor 4: sockets, threads and the clock. No HTTP rules here.
//!
//! | file | one job |
//! |---|---|
//! | [`slab`] | numbered slots with generations |
//! | [`token`] | what a poller's token names |
//! | [`timers`] | one heap of deadlines, updated lazily |
//! | [`pool`] | idle upstream connections |
//! | [`conn`] | one socket and what is known of its readiness |
//! | [`listen`] | listening sockets |
//! | [`descriptors`] | the connection limit |
//! | [`resolve`] | names to addresses, on threads of their own |

pub mod conn;
pub mod descriptors;
pub mod listen;
pub mod pool;
pub mod resolve;
pub mod slab;
pub mod timers;
pub mod token;
