//! Runs Proxy-Wasm modules: filters in WebAssembly, in any language, in a sandbox.
//!
//! The interface is that of Envoy, ngx_wasm and others (ABI 0.1.0, 0.2.0 and 0.2.1), the engine `wasmi`, an interpreter in
//! Rust. Beside native plugins it gives static binaries plugins at run time, and a fence around code that is not trusted: what
//! a module does wrong ends one request, with a line in the log, and nothing else. docs/wasm.md tells how to write a filter,
//! which calls there are and what they cost.
//!
//! ```yaml
//! plugins:
//!   - builtin: proxy_wasm
//!     config:
//!       module: /etc/mini-rproxy/deny.wasm
//!       config: {paths: [/private]}
//!       bodies: [request]       # which bodies the module gets, whole
//!       fuel: 10M               # instructions for one callback
//!       memory: 8MiB            # of one instance
//!       on_crash: fail          # or skip: go on without the module
//! ```
//!
//! ```text
//! hook ── entry: the instance of this thread ── instance: the callback ──► module
//!                                                                            │ host functions: imports
//!         exchange, lent for the time of the callback ◄── calls, maps, ... ◄─┘
//! ```

mod calls;
mod config;
mod entry;
mod exchange;
mod guest;
mod http_call;
mod imports;
mod instance;
mod maps;
mod metrics;
mod module;
mod properties;
mod shared;
mod state;
mod target;
mod wasi;

use std::sync::Arc;

use mini_rproxy_plugin::{DonePhase, Error, Level, Plugin, RequestPhase, ResponsePhase, Setup, Verdict};

use config::Config;
use entry::{Entry, Failure};
use exchange::{Exchange, Side};
use http_call::Clusters;
use instance::{Next, Part};

/// The plugin: one module with its configuration.
pub struct ProxyWasm {
    entry: Arc<Entry>,
    /// Dropped last: that waits for calls which are under way.
    _clusters: Arc<Clusters>,
}

impl Drop for ProxyWasm {
    fn drop(&mut self) {
        self.entry.end();
    }
}

/// Runs a hook of a phase. Where the module waits for calls, the exchange waits with it, and goes on here.
macro_rules! hook {
    ($name:ident, $phase:ident, $side:expr) => {
        fn $name(entry: &Arc<Entry>, x: &mut $phase<'_>, part: Part, is_resumed: bool) -> Result<Verdict, Error> {
            let next = match entry.run(|instance| instance.run(Exchange::from(&mut *x), $side, part, is_resumed)) {
                Ok(next) => next,
                Err(failure) => return entry.failed(failure, |why| x.log(Level::Error, why)),
            };
            match next {
                Next::Continue => Ok(Verdict::Continue),
                Next::Respond(answer) => Ok(answer),
                Next::Wait { mailbox, context } => {
                    let pause = x.pause()?;
                    let (verdict, entry) = (pause.verdict(), Arc::clone(entry));
                    mailbox.wait(context, move || {
                        pause.resume(move |x| $name(&entry, x, part, true));
                    });
                    Ok(verdict)
                }
                Next::Lost => entry.failed(Failure::Lost, |why| x.log(Level::Error, why)),
                Next::Close => Err(Error::new("the module closed the stream")),
                Next::Pause => Err(Error::new("the module paused the stream, and nothing can continue it")),
            }
        }
    };
}

hook!(in_request, RequestPhase, Side::Request);
hook!(in_response, ResponsePhase, Side::Response);

impl Plugin for ProxyWasm {
    const NAME: &'static str = "proxy_wasm";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        let config = Config::parse(config)?;
        let clusters = Arc::new(Clusters::new(&config, setup)?);
        Ok(ProxyWasm { entry: Entry::new(config, setup, Arc::downgrade(&clusters))?, _clusters: clusters })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        in_request(&self.entry, x, Part::Head, false)
    }

    fn on_request_body(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        in_request(&self.entry, x, Part::Body, false)
    }

    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        in_response(&self.entry, x, Part::Head, false)
    }

    fn on_response_body(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        in_response(&self.entry, x, Part::Body, false)
    }

    fn on_done(&self, x: &DonePhase<'_>) {
        if let Err(Failure::Crash(why)) = self.entry.run_existing(|instance| instance.done(x)) {
            x.log(Level::Error, why);
        }
    }
}
