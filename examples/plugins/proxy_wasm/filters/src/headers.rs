//! Sets, removes and renames fields.
//!
//! ```text
//! request set x-team blue
//! request remove cookie
//! response rename server x-served-by
//! ```

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// Whether it is for the response, the verb, its two words.
type Rule = (bool, String, String, String);

#[derive(Default)]
struct Root {
    /// Shared with the filters of all requests: a copy for each would cost a third of all.
    rules: Rc<[Rule]>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let mut rules = Vec::new();
        for (side, rest) in filters::lines(&self.get_plugin_configuration().unwrap_or_default()) {
            let mut words = rest.splitn(3, ' ').map(str::to_owned);
            let (Some(verb), Some(name)) = (words.next(), words.next()) else {
                log::error!("no rule: {side} {rest}");
                return false;
            };
            rules.push((side == "response", verb, name, words.next().unwrap_or_default()));
        }
        self.rules = rules.into();
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Filter(Rc::clone(&self.rules))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Filter(Rc<[Rule]>);

impl Context for Filter {}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        for (_, verb, name, value) in self.0.iter().filter(|rule| !rule.0) {
            match verb.as_str() {
                "set" => self.set_http_request_header(name, Some(value)),
                "remove" => self.set_http_request_header(name, None),
                _ => {
                    let old = self.get_http_request_header(name);
                    self.set_http_request_header(name, None);
                    self.set_http_request_header(value, old.as_deref());
                }
            }
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        for (_, verb, name, value) in self.0.iter().filter(|rule| rule.0) {
            match verb.as_str() {
                "set" => self.set_http_response_header(name, Some(value)),
                "remove" => self.set_http_response_header(name, None),
                _ => {
                    let old = self.get_http_response_header(name);
                    self.set_http_response_header(name, None);
                    self.set_http_response_header(value, old.as_deref());
                }
            }
        }
        Action::Continue
    }
}
