//! The configurations of a worker: a request in flight keeps the one that it began with, and may ask for an upstream that is
//! in no newer one.

use std::rc::Rc;

use crate::proxy::runtime::{Origin, Runtime, UpstreamId};

use super::tls::Tls;

/// The current configuration, and what its TLS connections are made of, behind those that only requests which began with
/// them still use. Never empty.
pub struct ConfigHistory(pub Vec<(Rc<Runtime>, Tls)>);

impl ConfigHistory {
    /// Where `upstream` is and what a TLS connection to it is made of. The newest configuration that has it is asked:
    /// its certificates are the freshest.
    pub fn find_upstream(&self, upstream: UpstreamId) -> Option<(&Origin, &Tls)> {
        self.0.iter().rev().find_map(|(runtime, tls)| Some((runtime.origin(upstream)?, tls)))
    }

    /// Drops configurations that no request needs any more; tells whether there were any.
    pub fn drop_unused(&mut self) -> bool {
        let before = self.0.len();
        // Of the current one the worker has another reference. The one that counts here is ours.
        self.0.retain(|(runtime, _)| Rc::strong_count(runtime) > 1);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::sync::Arc;

    fn config(port: u16) -> Arc<Config> {
        let text = format!("routes: [{{prefix: /, upstream: 'http://127.0.0.1:{port}'}}]");
        Arc::new(Config::parse(&text, "test").expect("valid"))
    }

    #[test]
    fn an_upstream_that_is_gone_is_found_for_as_long_as_a_request_needs_it() {
        let tls = Tls::load(&Config::default()).expect("no files");
        let first = Rc::new(Runtime::new(config(1), None));
        let second = Rc::new(first.reload(config(2), None.into()));
        let (one, two) = (first.upstreams_of(0)[0], second.upstreams_of(0)[0]);
        let mut configs = ConfigHistory(vec![(Rc::clone(&first), tls.clone())]);
        let of_a_request = Rc::clone(&first);
        drop(first);
        configs.0.push((Rc::clone(&second), tls));
        let port =
            |configs: &ConfigHistory, id| configs.find_upstream(id).map(|(origin, _)| origin.endpoint.to_string());
        assert!(!configs.drop_unused(), "a request needs it");
        assert_eq!(
            (port(&configs, one), port(&configs, two)),
            (Some("127.0.0.1:1".to_owned()), Some("127.0.0.1:2".to_owned()))
        );
        drop(of_a_request);
        assert!(configs.drop_unused());
        assert_eq!((port(&configs, one), port(&configs, two)), (None, Some("127.0.0.1:2".to_owned())));
    }
}
