//! Asks a service whether a request may pass, by an HTTP call: it gets the method, the path and the fields that prove who asks.
//!
//! 200: the request goes on, with the service's `x-user`. 401 and 403: the client gets that status, with `www-authenticate`.
//! Anything else, or nothing in time: 503.
//!
//! ```text
//! cluster auth
//! path /verify
//! ```

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Clone, Default)]
struct Root {
    cluster: String,
    path: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        for (word, rest) in filters::lines(&self.get_plugin_configuration().unwrap_or_default()) {
            match word.as_str() {
                "cluster" => self.cluster = rest,
                "path" => self.path = rest,
                _ => {
                    log::error!("no rule: {word} {rest}");
                    return false;
                }
            }
        }
        !self.cluster.is_empty() && self.path.starts_with('/')
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Filter(self.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Filter(Root);

impl Filter {
    fn refuse(&self, status: u32, more: Option<&str>) {
        let fields = more.map(|value| ("www-authenticate", value)).into_iter().collect();
        self.send_http_response(status, fields, Some(b"the login service does not let you in\n"));
    }
}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        // Only the service may say it.
        self.set_http_request_header("x-user", None);
        let fields = ["authorization", "cookie"].map(|name| (name, self.get_http_request_header(name)));
        let (method, path) = (self.get_http_request_header(":method"), self.get_http_request_header(":path"));
        let mut question = vec![
            (":method", "GET"),
            (":path", &self.0.path),
            (":authority", &self.0.cluster),
            ("x-forwarded-method", method.as_deref().unwrap_or_default()),
            ("x-forwarded-uri", path.as_deref().unwrap_or_default()),
        ];
        question.extend(fields.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))));
        let call = self.dispatch_http_call(&self.0.cluster, question, None, vec![], Duration::from_secs(2));
        if let Err(status) = call {
            log::error!("{} cannot be called: {status:?}", self.0.cluster);
            self.refuse(503, None);
        }
        Action::Pause
    }
}

impl Context for Filter {
    fn on_http_call_response(&mut self, _: u32, _: usize, _: usize, _: usize) {
        match self.get_http_call_response_header(":status").as_deref() {
            Some("200") => {
                self.set_http_request_header("x-user", self.get_http_call_response_header("x-user").as_deref());
                self.resume_http_request();
            }
            Some("401") => self.refuse(401, self.get_http_call_response_header("www-authenticate").as_deref()),
            Some("403") => self.refuse(403, None),
            _ => self.refuse(503, None),
        }
    }
}
