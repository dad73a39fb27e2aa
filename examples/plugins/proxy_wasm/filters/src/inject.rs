//! Puts a text before `</body>` of HTML pages. Its entry has `bodies: [response]`; the configuration is the text.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    text: Vec<u8>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.text = self.get_plugin_configuration().unwrap_or_default();
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Filter { text: self.text.clone(), is_html: false }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Filter {
    text: Vec<u8>,
    is_html: bool,
}

impl Context for Filter {}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        // A compressed page could not be read.
        self.set_http_request_header("accept-encoding", None);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let content_type = self.get_http_response_header("content-type").unwrap_or_default();
        self.is_html = content_type.starts_with("text/html");
        if self.is_html {
            self.set_http_response_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, len: usize, is_end: bool) -> Action {
        if !self.is_html {
            return Action::Continue;
        }
        if !is_end {
            return Action::Pause;
        }
        let page = self.get_http_response_body(0, len).unwrap_or_default();
        if let Some(at) = page.windows(7).rposition(|part| part.eq_ignore_ascii_case(b"</body>")) {
            // As a whole: Envoy puts nothing into the middle of a body.
            let page = [&page[..at], &self.text, &page[at..]].concat();
            self.set_http_response_body(0, len, &page);
        }
        Action::Continue
    }
}
