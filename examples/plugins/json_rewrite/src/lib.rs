//! Sets and removes members of JSON responses.
//!
//! Lesson: a plugin that needs a body asks for it at the head, and only where it will use it: a download or an event stream
//! on the same route passes as if there were no plugin. What it asks for is buffered, up to the proxy's `plugin_body_limit`;
//! above it the client gets 502, since members that are to be removed must not slip through. And who changes a body must
//! see to what describes it: a compressed body cannot be read (so the request must not ask for one), parts of a body cannot
//! be changed (so no ranges), and an entity tag would name bytes that the client never gets.
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/json_rewrite.so
//!     config:
//!       set: {/served_by: mini-rproxy, /user/role: guest}      # JSON pointers (RFC 6901)
//!       remove: [/internal, /user/password]
//! ```
//! `set` changes a member or adds it to an object that is there; in a list it changes an element. What a pointer does not
//! find is left alone. Bodies that are no JSON, answers that are no 200, and those that are compressed all the same, pass
//! unchanged. Integers beyond 64 bits become floating point numbers, as in most JSON parsers.

use mini_rproxy_plugin::{Error, HostError, Logger, Oversize, Plugin, RequestPhase, ResponsePhase, Setup, Verdict};
use serde_json::{Map, Value};

/// The configuration.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    remove: Vec<String>,
}

/// The plugin.
#[derive(Debug)]
pub struct JsonRewrite {
    log: Logger,
    set: Vec<(Pointer, Value)>,
    remove: Vec<Pointer>,
}

/// A JSON pointer (RFC 6901), cut before its last step.
#[derive(Debug)]
struct Pointer {
    /// Still as a pointer: serde_json walks it.
    parent: String,
    /// Decoded.
    last: String,
}

impl Pointer {
    fn parse(text: &str) -> Result<Pointer, Error> {
        match text.rsplit_once('/') {
            Some((parent, last)) if parent.is_empty() || parent.starts_with('/') => {
                Ok(Pointer { parent: parent.to_owned(), last: last.replace("~1", "/").replace("~0", "~") })
            }
            _ => Err(Error::new(format!("{text:?} is no JSON pointer: it must begin with /"))),
        }
    }

    /// Puts `value` at this place; says whether there is such a place.
    fn set(&self, document: &mut Value, value: &Value) -> bool {
        match document.pointer_mut(&self.parent) {
            Some(Value::Object(members)) => {
                members.insert(self.last.clone(), value.clone());
                true
            }
            Some(Value::Array(elements)) => {
                let element = self.last.parse().ok().and_then(|index: usize| elements.get_mut(index));
                element.map(|element| *element = value.clone()).is_some()
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => false,
        }
    }

    /// Removes the member at this place, and keeps the order of the others.
    fn remove(&self, document: &mut Value) -> bool {
        match document.pointer_mut(&self.parent) {
            Some(Value::Object(members)) => members.shift_remove(&self.last).is_some(),
            Some(Value::Array(elements)) => match self.last.parse::<usize>() {
                Ok(index) if index < elements.len() => {
                    elements.remove(index);
                    true
                }
                Ok(_) | Err(_) => false,
            },
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => false,
        }
    }
}

impl JsonRewrite {
    /// The new body, or `None` where nothing is to be changed.
    fn rewrite(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut document: Value = match serde_json::from_slice(body) {
            Ok(document) => document,
            Err(error) => {
                self.log.debug(format_args!("a body that says it is JSON is not: {error}"));
                return None;
            }
        };
        let mut has_changed = false;
        for (pointer, value) in &self.set {
            has_changed |= pointer.set(&mut document, value);
        }
        for pointer in &self.remove {
            has_changed |= pointer.remove(&mut document);
        }
        if has_changed { serde_json::to_vec(&document).ok() } else { None }
    }
}

/// `application/json` and `application/...+json`, whatever the parameters.
fn is_json(content_type: &[u8]) -> bool {
    let media_type =
        content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    media_type == b"application/json" || (media_type.starts_with(b"application/") && media_type.ends_with(b"+json"))
}

impl Plugin for JsonRewrite {
    const NAME: &'static str = "json_rewrite";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        let config: Config = serde_json::from_slice(config)
            .map_err(|error| Error::new(format!("config must be a mapping with set or remove: {error}")))?;
        if config.set.is_empty() && config.remove.is_empty() {
            return Err(Error::new("config names nothing to set or to remove"));
        }
        let set = config.set.into_iter().map(|(pointer, value)| Ok((Pointer::parse(&pointer)?, value)));
        let remove = config.remove.iter().map(|pointer| Pointer::parse(pointer));
        Ok(JsonRewrite {
            log: setup.logger(),
            set: set.collect::<Result<_, Error>>()?,
            remove: remove.collect::<Result<_, Error>>()?,
        })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        for name in ["range", "if-range"] {
            x.remove_field(name)?;
        }
        // Without the field any coding would be welcome (RFC 9110 section 12.5.3).
        x.set_field("Accept-Encoding", "identity")?;
        Ok(Verdict::Continue)
    }

    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        let is_plain = x.field("content-encoding").is_none_or(|coding| coding.eq_ignore_ascii_case(b"identity"));
        if x.status() == 200 && is_plain && x.field("content-type").is_some_and(is_json) {
            x.want_body(Oversize::Refuse)?;
            // An answer to HEAD shows no body, but speaks of the one that GET would be given, which would be another one.
            if x.request().method() == b"HEAD" {
                remove_validators(x)?;
            }
        }
        Ok(Verdict::Continue)
    }

    fn on_response_body(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        if let Some(new) = x.body().and_then(|body| self.rewrite(body)) {
            x.set_body(new)?;
            remove_validators(x)?;
        }
        Ok(Verdict::Continue)
    }
}

/// Removes what describes the bytes of the upstream.
fn remove_validators(x: &mut ResponsePhase<'_>) -> Result<(), HostError> {
    for name in ["etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges"] {
        x.remove_field(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};

    const CONFIG: &str = r#"{"set": {"/by": "proxy", "/user/role": null, "/list/1": 7, "/a~1b": true, "/none/x": 1},
        "remove": ["/secret", "/user/password", "/list/0", "/not/there"]}"#;

    /// Status, content type and body of the upstream's answer; the client's body.
    fn rewritten(status: u16, content_type: &str, body: &str) -> String {
        let plugin = Instance::<JsonRewrite>::new(CONFIG).unwrap();
        let mut x = Exchange::get("/");
        x.upstream_answers(status, &[("Content-Type", content_type), ("ETag", "\"1\"")], body);
        assert_eq!(x.response(&plugin), Outcome::Continue, "{:?}", plugin.log());
        let new = String::from_utf8(x.response_body().to_vec()).unwrap();
        assert_eq!(x.response_field("etag").is_some(), new == body, "the tag belongs to the bytes");
        new
    }

    #[test]
    fn members_are_set_and_removed() {
        let body = r#"{"z":1,"secret":"x","a":{},"user":{"password":"x","name":"ann"},"list":[0,1,2]}"#;
        let expected = r#"{"z":1,"a":{},"user":{"name":"ann","role":null},"list":[7,2],"by":"proxy","a/b":true}"#;
        for content_type in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert_eq!(rewritten(200, content_type, body), expected, "{content_type}");
        }
    }

    #[test]
    fn an_answer_to_head_does_not_speak_of_another_body() {
        let plugin = Instance::<JsonRewrite>::new(CONFIG).unwrap();
        let mut x = Exchange::new("HEAD", "/");
        x.upstream_answers(200, &[("Content-Type", "application/json"), ("ETag", "\"1\"")], "");
        assert_eq!((x.response(&plugin), x.response_field("etag")), (Outcome::Continue, None));
        x.upstream_answers(200, &[("Content-Type", "text/plain"), ("ETag", "\"1\"")], "");
        assert_eq!((x.response(&plugin), x.response_field("etag")), (Outcome::Continue, Some("\"1\"")));
    }

    #[test]
    fn what_is_not_ours_passes_unchanged() {
        for (status, content_type, body) in [
            (200, "text/plain", "{}"),
            (200, "text/json+x", "{}"),
            (404, "application/json", "{}"),
            (206, "application/json", "{}"),
            (200, "application/json", "{\"cut\":"),
            (200, "application/json", ""),
            (200, "application/json", "[1]"),
            (200, "application/json", "\"text\""),
            (204, "application/json", ""),
        ] {
            assert_eq!(rewritten(status, content_type, body), body, "{status} {content_type} {body}");
        }
    }

    #[test]
    fn compressed_bodies_are_not_asked_for_and_not_touched() {
        let plugin = Instance::<JsonRewrite>::new(CONFIG).unwrap();
        let mut x =
            Exchange::get("/").field("Accept-Encoding", "gzip").field("Range", "bytes=0-1").field("Accept", "*/*");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!((x.request_field("accept-encoding"), x.request_fields().len()), (Some("identity"), 2));
        x.upstream_answers(200, &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")], "{}");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!(x.response_body(), b"{}");
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for config in ["", "{}", "[]", r#"{"set": {"no slash": 1}}"#, r#"{"remove": ["x/y"]}"#, r#"{"sets": {}}"#] {
            assert!(Instance::<JsonRewrite>::new(config).is_err(), "{config}");
        }
    }
}
