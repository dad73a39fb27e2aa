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

use mini_rproxy_plugin::{DonePhase, Error, Plugin, RequestPhase, ResponsePhase, Setup, Verdict};

use config::{Config, OnCrash};
use entry::{Entry, Failure};
use instance::Next;

/// The plugin: one module with its configuration.
pub struct ProxyWasm {
    entry: Arc<Entry>,
}

impl Drop for ProxyWasm {
    fn drop(&mut self) {
        self.entry.end();
    }
}

impl ProxyWasm {
    /// What the hook returns.
    fn verdict(&self, result: Result<Next, Failure>) -> Result<Verdict, Error> {
        match (result, self.entry.config.on_crash) {
            (Ok(Next::Continue), _) => Ok(Verdict::Continue),
            (Ok(Next::Respond(answer)), _) => Ok(answer),
            (Ok(Next::Close), _) => Err(Error::new("the module closed the stream")),
            (Ok(Next::Pause), _) => Err(Error::new("the module paused the stream, and nothing can continue it")),
            (Err(Failure::Crash(why)), OnCrash::Fail) => Err(Error::new(why)),
            (Err(Failure::Resting), OnCrash::Fail) => {
                Err(Error::new("the module has crashed too often in the last minute"))
            }
            (Err(Failure::Crash(why)), OnCrash::Skip) => {
                self.entry.log.error(why);
                Ok(Verdict::Continue)
            }
            (Err(Failure::Resting), OnCrash::Skip) => Ok(Verdict::Continue),
        }
    }
}

impl Plugin for ProxyWasm {
    const NAME: &'static str = "proxy_wasm";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        Ok(ProxyWasm { entry: Entry::new(Config::parse(config)?, setup)? })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        self.verdict(self.entry.run(|instance| instance.request(x)))
    }

    fn on_request_body(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        self.verdict(self.entry.run(|instance| instance.request_body(x)))
    }

    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        self.verdict(self.entry.run(|instance| instance.response(x)))
    }

    fn on_response_body(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        self.verdict(self.entry.run(|instance| instance.response_body(x)))
    }

    fn on_done(&self, x: &DonePhase<'_>) {
        if let Err(Failure::Crash(why)) = self.entry.run_existing(|instance| instance.done(x)) {
            self.entry.log.error(why);
        }
    }
}
