//! The smallest useful plugin: a field on every request, and one on every response.
//!
//! Lesson: a plugin is a struct, an implementation of [`Plugin`], and one line that exports it (`plugin.rs`).
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/header_demo.so
//!     config: hello            # the fields' value; "true" where it is left out
//! ```

use mini_rproxy_plugin::{Error, Plugin, RequestPhase, ResponsePhase, Setup, Verdict};

/// Sets `X-Demo-Request` and `X-Demo-Response`.
#[derive(Debug)]
pub struct HeaderDemo {
    value: Vec<u8>,
}

impl Plugin for HeaderDemo {
    const NAME: &'static str = "header_demo";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        let value = if config.is_empty() { b"true" } else { config };
        if !mini_rproxy_plugin::validate::is_field_value(value) {
            return Err(Error::new("config must be a field value: no line breaks, no spaces around it"));
        }
        setup.debug("header_demo is there");
        Ok(HeaderDemo { value: value.to_vec() })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        x.set_field("X-Demo-Request", &self.value)?;
        Ok(Verdict::Continue)
    }

    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        x.set_field("X-Demo-Response", &self.value)?;
        Ok(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};

    #[test]
    fn both_messages_are_marked() {
        let plugin = Instance::<HeaderDemo>::new("").unwrap();
        // What the client sends under that name does not come through.
        let mut x = Exchange::get("/").field("x-demo-request", "forged").field("X-Demo-Request", "again");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!(x.request_field("X-Demo-Request"), Some("true"));
        assert_eq!(x.request_fields().len(), 1);
        x.upstream_answers(200, &[], "");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!(x.response_field("X-Demo-Response"), Some("true"));
    }

    #[test]
    fn the_value_can_be_configured() {
        let plugin = Instance::<HeaderDemo>::new("hello").unwrap();
        let mut x = Exchange::get("/");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!(x.request_field("X-Demo-Request"), Some("hello"));
        assert!(Instance::<HeaderDemo>::new("a\nb").is_err());
    }
}
