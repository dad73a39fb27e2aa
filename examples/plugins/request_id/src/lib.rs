//! Gives each request an identifier: the upstream gets it, the client gets it, and it stands in the access log.
//!
//! Lesson: what runs for every response. The field is on the proxy's own answers (a 502, for example) and on those of
//! other plugins, too, because `on_response` runs for all of them.
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/request_id.so
//!     config: {field: X-Request-Id, keep: true}
//! ```
//! An identifier that a client sends is kept where it is valid: one field line, 1 to 128 letters, digits and `-._~+/=:@`.
//! With `keep: false` each request gets one of ours: 32 hexadecimal digits. Other plugins find it in the value
//! `request_id.id`.

use mini_rproxy_plugin::{Error, Plugin, RequestPhase, ResponsePhase, Setup, Verdict, validate};

/// The value in which other plugins find it.
const VALUE: &str = "request_id.id";
/// The key in the line of the access log.
const ACCESS_KEY: &str = "request_id";

/// The plugin, which is no more than its configuration.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestId {
    field: String,
    keep: bool,
}

impl Default for RequestId {
    fn default() -> Self {
        RequestId { field: "X-Request-Id".to_owned(), keep: true }
    }
}

fn is_valid(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(byte);
    (1..=128).contains(&id.len()) && id.iter().all(is_plain)
}

/// 128 random bits, in hexadecimal digits.
fn new_id() -> Result<String, Error> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bits)))
}

impl Plugin for RequestId {
    const NAME: &'static str = "request_id";

    fn create(_: &Setup, config: &[u8]) -> Result<Self, Error> {
        if config.is_empty() {
            return Ok(RequestId::default());
        }
        let plugin: RequestId = serde_json::from_slice(config)
            .map_err(|error| Error::new(format!("config must be a mapping, with field or keep: {error}")))?;
        if !validate::is_token(plugin.field.as_bytes()) || validate::is_host_only(plugin.field.as_bytes()) {
            return Err(Error::new(format!("field: {:?} cannot be the name of this field", plugin.field)));
        }
        Ok(plugin)
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let sent = x.field(&self.field).filter(|id| self.keep && is_valid(id) && x.nth_field(&self.field, 1).is_none());
        let id = match sent {
            Some(id) => id.to_vec(),
            None => new_id()?.into_bytes(),
        };
        x.set_field(&self.field, &id)?;
        x.set_value(VALUE, &id)?;
        // A line that other plugins have filled must not cost the request.
        let _ = x.access_add(ACCESS_KEY, &id);
        Ok(Verdict::Continue)
    }

    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        // There is none where the proxy has answered before any plugin has seen the request.
        let id = match x.value(VALUE) {
            Some(id) => id.to_vec(),
            None => new_id()?.into_bytes(),
        };
        x.set_field(&self.field, &id)?;
        let _ = x.access_add(ACCESS_KEY, &id);
        Ok(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};

    fn plugin(config: &str) -> Instance<RequestId> {
        Instance::new(config).unwrap()
    }

    /// What the upstream gets.
    fn sent(plugin: &Instance<RequestId>, x: &mut Exchange) -> String {
        assert_eq!(x.request(plugin), Outcome::Continue);
        assert_eq!(x.request_fields().len(), 1);
        x.request_field("X-Request-Id").unwrap().to_owned()
    }

    #[test]
    fn upstream_client_and_log_know_the_same() {
        let plugin = plugin("");
        let mut x = Exchange::get("/");
        let id = sent(&plugin, &mut x);
        assert!(id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
        assert_eq!((x.value(VALUE), x.access(ACCESS_KEY)), (Some(id.as_str()), Some(id.as_str())));
        x.upstream_answers(200, &[("x-request-id", "of the upstream")], "");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!((x.response_field("X-Request-Id"), x.response_fields().len()), (Some(id.as_str()), 1));
        assert_ne!(sent(&plugin, &mut Exchange::get("/")), id, "each its own");
    }

    #[test]
    fn answers_of_the_proxy_have_one_too() {
        let plugin = plugin("");
        let mut x = Exchange::get("/");
        let id = sent(&plugin, &mut x);
        x.proxy_answers(502, "Bad Gateway\n");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!(x.response_field("X-Request-Id"), Some(id.as_str()));
        // One that was refused before the plugins saw it.
        let mut x = Exchange::get("/");
        x.proxy_answers(413, "");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!(x.response_field("X-Request-Id").map(str::len), Some(32));
        assert_eq!(x.access(ACCESS_KEY), x.response_field("X-Request-Id"));
    }

    #[test]
    fn valid_ones_of_the_client_are_kept() {
        let longest = "a".repeat(128);
        let keeps = plugin("{\"keep\": true}");
        for id in ["a", "4bf92f35-77b3.4d/=+~_:@", longest.as_str()] {
            assert_eq!(sent(&keeps, &mut Exchange::get("/").field("x-request-id", id)), id);
        }
        for id in ["", "a b", "a,b", "a\"", "\u{e4}", &"a".repeat(129)] {
            assert_ne!(sent(&keeps, &mut Exchange::get("/").field("x-request-id", id)), id);
        }
        let twice = &mut Exchange::get("/").field("X-Request-Id", "a").field("X-Request-Id", "a");
        assert_ne!(sent(&keeps, twice), "a");
        let replaces = plugin("{\"keep\": false}");
        assert_ne!(sent(&replaces, &mut Exchange::get("/").field("X-Request-Id", "a")), "a");
    }

    #[test]
    fn the_field_has_another_name_where_the_configuration_says_so() {
        let plugin = plugin("{\"field\": \"X-Correlation-Id\"}");
        let mut x = Exchange::get("/").field("x-correlation-id", "abc");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!((x.request_field("X-Correlation-Id"), x.request_field("X-Request-Id")), (Some("abc"), None));
        for (config, part) in [
            ("text", "must be a mapping"),
            ("{\"field\": \"a b\"}", "field: \"a b\""),
            ("{\"field\": \"Host\"}", "field: \"Host\""),
            ("{\"keep\": 1}", "expected a boolean"),
            ("{\"feild\": \"x\"}", "unknown field `feild`"),
        ] {
            let error = Instance::<RequestId>::new(config).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
