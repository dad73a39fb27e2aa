//! The configuration of a worker, and old ones: a request in flight keeps the one that it began with, and may ask for an
//! upstream that is in no newer one.

use std::rc::Rc;

use crate::proxy::runtime::{Origin, Runtime, UpstreamId};

use super::tls::Tls;

/// The TLS settings of now, and configurations that requests from before a reload may need.
pub struct ConfigHistory {
    /// What TLS connections are made of now.
    pub tls: Tls,
    /// Configurations that are in use no more but by requests that began with them; the newest last. Mostly empty.
    retired: Vec<(Rc<Runtime>, Tls)>,
    /// Whether there was ever another one.
    has_reloaded: bool,
}

impl ConfigHistory {
    /// Those of the first configuration.
    pub fn new(tls: Tls) -> ConfigHistory {
        ConfigHistory { tls, retired: Vec::new(), has_reloaded: false }
    }

    /// Where `upstream` is and what a TLS connection to it is made of. The newest configuration that has it is asked:
    /// its certificates are the freshest.
    pub fn find_upstream<'a>(&'a self, current: &'a Runtime, upstream: UpstreamId) -> Option<(&'a Origin, &'a Tls)> {
        if let Some(origin) = current.origin(upstream) {
            return Some((origin, &self.tls));
        }
        self.retired.iter().rev().find_map(|(runtime, tls)| Some((runtime.origin(upstream)?, tls)))
    }

    /// `old` is not the current configuration any more; `tls` belongs to the one that is.
    pub fn retire(&mut self, old: Rc<Runtime>, tls: Tls) {
        let old_tls = std::mem::replace(&mut self.tls, tls);
        self.retired.push((old, old_tls));
        self.has_reloaded = true;
    }

    /// Whether there may be connections to upstreams that are in no configuration any more.
    pub fn has_reloaded(&self) -> bool {
        self.has_reloaded
    }

    /// Whether there may be requests from before a reload that have not got their answers.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Drops configurations that no request needs any more; tells whether there were any.
    pub fn drop_unused(&mut self) -> bool {
        let before = self.retired.len();
        // The one that counts here is ours.
        self.retired.retain(|(runtime, _)| Rc::strong_count(runtime) > 1);
        self.retired.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::net::tls::Tls;
    use std::sync::Arc;

    fn config(port: u16) -> Arc<Config> {
        let text = format!("routes: [{{prefix: /, upstream: 'http://127.0.0.1:{port}'}}]");
        Arc::new(Config::parse(&text, "test").expect("valid"))
    }

    #[test]
    fn an_upstream_that_is_gone_is_found_for_as_long_as_a_request_needs_it() {
        let tls = Tls::load(&Config::default()).expect("no files");
        let first = Rc::new(Runtime::new(config(1), None));
        let second = Rc::new(first.reload(config(2)));
        let (one, two) = (first.upstreams_of(0)[0], second.upstreams_of(0)[0]);
        let mut configs = ConfigHistory::new(tls.clone());
        let of_a_request = Rc::clone(&first);
        configs.retire(first, tls);
        let port = |configs: &ConfigHistory, id| configs.find_upstream(&second, id).map(|(origin, _)| origin.port);
        assert!(!configs.drop_unused(), "a request needs it");
        assert_eq!((port(&configs, one), port(&configs, two)), (Some(1), Some(2)));
        drop(of_a_request);
        assert!(configs.has_retired());
        assert!(configs.drop_unused());
        assert!(!configs.has_retired());
        assert_eq!((port(&configs, one), port(&configs, two)), (None, Some(2)));
    }
}
