//! Refuses paths by their beginning, and sends others elsewhere.
//!
//! ```text
//! deny /private
//! redirect /old /new
//! ```

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Clone, Default)]
struct Root {
    /// The beginning of a path; where it is sent to, empty for nowhere.
    rules: Vec<(String, String)>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        for (verb, rest) in filters::lines(&self.get_plugin_configuration().unwrap_or_default()) {
            let (from, to) = rest.split_once(' ').unwrap_or((&rest, ""));
            if !matches!((verb.as_str(), to), ("deny", "") | ("redirect", _)) || !from.starts_with('/') {
                log::error!("no rule: {verb} {rest}");
                return false;
            }
            self.rules.push((from.to_owned(), to.to_owned()));
        }
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Filter(self.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Filter(Root);

impl Context for Filter {}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        let Some((from, to)) = self.0.rules.iter().find(|(from, _)| path.starts_with(from.as_str())) else {
            return Action::Continue;
        };
        if to.is_empty() {
            self.send_http_response(403, vec![("content-type", "text/plain")], Some(b"denied\n"));
        } else {
            let place = format!("{to}{}", &path[from.len()..]);
            self.send_http_response(302, vec![("location", &place)], None);
        }
        Action::Pause
    }
}
