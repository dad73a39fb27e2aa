//! What every exchange of a worker shares and none changes: configuration, routes, upstreams, hooks.

use std::sync::Arc;

use super::hooks::{BodyWants, Hooks};
use super::route::Router;
use crate::config::{Config, Scheme};

/// Names an upstream: an index into [`Site::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub u32);

/// One origin: what connections are pooled by. Routes that lead to the same origin share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub scheme: Scheme,
    /// Name or IP literal, without brackets.
    pub host: String,
    pub port: u16,
}

/// What every exchange shares.
pub struct Site {
    pub config: Arc<Config>,
    pub router: Router,
    pub upstreams: Vec<Origin>,
    /// The upstream of each route, in file order.
    pub route_upstreams: Vec<UpstreamId>,
    pub hooks: Option<Arc<dyn Hooks>>,
    /// The body of /configz, made once.
    pub configz: String,
}

impl Site {
    /// Builds the routing table and numbers the origins.
    pub fn new(config: Arc<Config>, hooks: Option<Arc<dyn Hooks>>) -> Site {
        let _ = (config, hooks);
        todo!()
    }

    /// Which bodies are buffered for plugins.
    pub fn wants(&self) -> BodyWants {
        self.hooks.as_ref().map_or(BodyWants::default(), |hooks| hooks.wants())
    }
}
