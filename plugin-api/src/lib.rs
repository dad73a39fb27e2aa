//! The SDK for native plugins of mini-rproxy, an HTTP/1.1 reverse proxy.
//!
//! A plugin is a struct, an implementation of [`Plugin`], and one line that exports it. The proxy calls
//! [`Plugin::on_request`] before it forwards a request and [`Plugin::on_response`] after the upstream has responded.
//! This one is complete: it demands a key, and measures how long answers take.
//!
//! ```
//! use std::time::Instant;
//!
//! use mini_rproxy_plugin::{Error, Plugin, RequestPhase, ResponsePhase, Setup, Verdict};
//!
//! /// Refuses requests without the key that the configuration names.
//! pub struct KeyGate {
//!     key: Vec<u8>,
//!     start: Instant,
//! }
//!
//! impl Plugin for KeyGate {
//!     const NAME: &'static str = "key_gate";
//!
//!     fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
//!         if config.is_empty() {
//!             return Err(Error::new("config must be the key"));
//!         }
//!         setup.info("the gate is closed");
//!         Ok(KeyGate { key: config.to_vec(), start: Instant::now() })
//!     }
//!
//!     fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
//!         if x.field("x-key") != Some(&self.key) {
//!             return Ok(x.respond(403, &[("content-type", "text/plain")], "no key\n")?);
//!         }
//!         x.remove_field("x-key")?; // the upstream need not see it
//!         x.set_value("key_gate.start", self.start.elapsed().as_micros().to_string())?;
//!         Ok(Verdict::Continue)
//!     }
//!
//!     fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
//!         if let Some(start) = x.value("key_gate.start") {
//!             let start: u128 = std::str::from_utf8(start)?.parse()?;
//!             let took = self.start.elapsed().as_micros() - start;
//!             x.set_field("server-timing", format!("upstream;dur={}", took / 1000))?;
//!         }
//!         Ok(Verdict::Continue)
//!     }
//! }
//!
//! # fn export() {
//! mini_rproxy_plugin::export_plugin!(KeyGate); // in the crate that is built as a `cdylib`
//! # }
//!
//! // And its unit test, without a proxy:
//! use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
//!
//! let gate = Instance::<KeyGate>::new("secret").unwrap();
//! let mut x = Exchange::get("/users").field("X-Key", "secret");
//! assert_eq!(x.request(&gate), Outcome::Continue);
//! assert_eq!(x.request_field("x-key"), None);
//!
//! let mut x = Exchange::get("/users");
//! assert_eq!(x.request(&gate).status(), Some(403));
//! ```
//!
//! # What holds
//! - The interface between plugin and proxy is C, with size and version rules ([`abi`]). Plugin and proxy may be built
//!   by different compilers, months apart.
//! - One instance serves all threads at the same time: a plugin is `Send + Sync`, and its hooks take `&self`.
//! - Hooks must not block: everything else on that thread waits meanwhile. Blocking work belongs in [`Plugin::create`], or
//!   on a [`Pool`] of threads while the exchange waits ([`Pause`]). The proxy logs hooks that take more than 5 ms.
//! - An `Err` and a panic both give the client a 502, and the log the reason. Nothing else is harmed.
//! - The order: `on_request` as configured, `on_response` the other way round. A plugin that answers or fails stops the
//!   chain. [`Plugin::on_done`] runs once for each plugin of which a hook ran, however the exchange ended.
//! - Bodies stream past. A hook that wants one asks for it (`want_body`), and a body hook runs when all of it is there.
//! - The proxy keeps framing and connection fields to itself (`content-length`, `transfer-encoding`, `connection` ...),
//!   and `host` is [`RequestPhase::set_authority`].
//! - Plugins are trusted code in the proxy's own process. There is no sandbox.
//!
//! # What does not compile
//! The phases are separate types. The request cannot be changed after it was sent:
//!
//! ```compile_fail,E0599
//! # use mini_rproxy_plugin::*;
//! fn on_response(x: &mut ResponsePhase<'_>) {
//!     let _ = x.set_target("/other");
//! }
//! ```
//!
//! ```compile_fail,E0599
//! # use mini_rproxy_plugin::*;
//! fn on_response(x: &mut ResponsePhase<'_>) {
//!     let _ = x.request().set_field("x-late", "1");
//! }
//! ```
//!
//! There is no response before the upstream was asked:
//!
//! ```compile_fail,E0599
//! # use mini_rproxy_plugin::*;
//! fn on_request(x: &mut RequestPhase<'_>) {
//!     let _ = x.status();
//! }
//! ```
//!
//! What is done cannot be changed:
//!
//! ```compile_fail,E0599
//! # use mini_rproxy_plugin::*;
//! fn on_done(x: &DonePhase<'_>) {
//!     let _ = x.set_value("a", "b");
//! }
//! ```
//!
//! Bytes of the host cannot be held over a change:
//!
//! ```compile_fail,E0502
//! # use mini_rproxy_plugin::*;
//! fn on_request(x: &mut RequestPhase<'_>) {
//!     let agent = x.field("user-agent").unwrap();
//!     let _ = x.set_field("x-agent", "changed");
//!     assert!(!agent.is_empty());
//! }
//! ```
//!
//! Nor can a phase leave its hook, or its thread:
//!
//! ```compile_fail,E0521
//! # use mini_rproxy_plugin::*;
//! fn on_request(x: &mut RequestPhase<'_>, kept: &mut Vec<&'static [u8]>) {
//!     kept.push(x.target());
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use mini_rproxy_plugin::*;
//! fn on_request(x: &mut RequestPhase<'_>) {
//!     std::thread::scope(|scope| scope.spawn(|| x.target().len()).join());
//! }
//! ```
//!
//! A verdict "answered" cannot be made without an answer:
//!
//! ```compile_fail,E0423
//! # use mini_rproxy_plugin::*;
//! fn on_request(_x: &mut RequestPhase<'_>) -> Verdict {
//!     Verdict::Respond(ResponseToken(()))
//! }
//! ```
//!
//! A plugin that threads cannot share is none:
//!
//! ```compile_fail,E0277
//! # use mini_rproxy_plugin::*;
//! struct Counter(std::cell::Cell<u32>);
//! impl Plugin for Counter {
//!     const NAME: &'static str = "counter";
//!     fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
//!         Ok(Counter(std::cell::Cell::new(0)))
//!     }
//! }
//! ```
#![warn(clippy::undocumented_unsafe_blocks)]

#[cfg(panic = "abort")]
compile_error!(
    "plugins must be built with panic = \"unwind\": a panic would otherwise end the whole proxy instead of one exchange"
);

pub mod abi;
#[cfg(feature = "client")]
pub mod client;
mod export;
pub mod host;
mod pause;
mod phase;
mod pool;
mod setup;
pub mod testing;
mod types;
pub mod validate;

pub use export::descriptor;
pub use host::Side;
pub use pause::{Pause, RequestPause, ResponsePause};
pub use phase::{DonePhase, FieldLines, RequestPhase, RequestView, ResponsePhase, ResponseView, Times};
pub use pool::Pool;
pub use setup::{Counter, Gauge, Setup};
pub use types::{Descriptor, Error, HostError, Level, Logger, Needs, Oversize, PauseToken, ResponseToken, Verdict};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// So do those of the reference.
#[cfg(doctest)]
#[doc = include_str!("../FUNCTIONS.md")]
mod functions {}

/// A plugin. One instance is shared by all threads of the proxy.
pub trait Plugin: Send + Sync + Sized + 'static {
    /// How it appears in logs and in `plugins: [{builtin: ...}]`: 1 to 64 visible ASCII characters.
    const NAME: &'static str;

    /// What has to be there before the hooks run, in every exchange. A body costs memory and time: ask only for what you
    /// need, or in the exchanges where you need it (`want_body` of a phase).
    const NEEDS: Needs = Needs::NOTHING;

    /// Makes an instance. `config` is what stands under `config:` in the proxy's configuration: a string as it is, a
    /// mapping or a list as JSON, nothing as nothing. Called once for each entry that lists the plugin, before its first
    /// request and on a thread that serves none; it may block. An error stops the start or the reload of the proxy (or
    /// skips the plugin, where it is not `required`).
    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error>;

    /// Before forwarding: after routing and rewriting, so that the request is seen as it will be sent. At the head; the
    /// body may still be on its way.
    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let _ = x;
        Ok(Verdict::Continue)
    }

    /// When the request's body is there, for which [`RequestPhase::want_body`] has asked.
    fn on_request_body(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let _ = x;
        Ok(Verdict::Continue)
    }

    /// After the final response head, before its first byte is sent on. Also for answers that the proxy or a plugin gives
    /// by itself: [`ResponseView::source`] tells.
    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        let _ = x;
        Ok(Verdict::Continue)
    }

    /// When the response's body is there, for which [`RequestPhase::want_body`] or [`ResponsePhase::want_body`] has asked.
    fn on_response_body(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        let _ = x;
        Ok(Verdict::Continue)
    }

    /// After the exchange, however it ended; once for each exchange in which a hook of this plugin ran.
    fn on_done(&self, x: &DonePhase<'_>) {
        let _ = x;
    }
}
