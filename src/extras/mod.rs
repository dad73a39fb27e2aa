//! What a reader can skip: features beside the core, each in a file of its own that owns its state.
//!
//! The core reaches each of them from few places, which `docs/architecture.md` lists and `tests/layers` holds: deleting
//! one is a small diff. An extra stands on the layer of what it needs, so that these files are on different layers.
//!
//! | file | what it adds |
//! |---|---|
//! | [`balance`] | which of several upstreams gets a request |
//! | [`response_rewrite`] | applications under a prefix: Location, cookies and the like are mapped back |
//! | [`timeline`] | `-trace`: what happened to a request, and what was waited for |
//! | [`plugin_metrics`] | counters and gauges of plugins |
//! | [`metrics`], [`prometheus`] | counters, and the text of /metrics |
//! | [`proxy_protocol`] | what a load balancer says of a client before the first byte |
//! | [`explain`] | `-explain`: what would happen to a request |

pub mod balance;
pub mod response_rewrite;
pub mod timeline;
pub mod plugin_metrics;
pub mod metrics;
pub mod prometheus;
pub mod proxy_protocol;
pub mod explain;
