//! Demands a signed token that has not expired: `Authorization: Bearer EXPIRY.SIGNATURE`, both in hexadecimal. The signature
//! is a toy (FNV-1a over key and expiry): a real filter takes a real one.
//!
//! ```text
//! key secret
//! ```

use std::time::UNIX_EPOCH;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Clone, Default)]
struct Root {
    key: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let lines = filters::lines(&self.get_plugin_configuration().unwrap_or_default());
        self.key = lines.into_iter().find(|(word, _)| word == "key").map(|(_, key)| key).unwrap_or_default();
        !self.key.is_empty()
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

impl Filter {
    /// When the token expires, if it is good.
    fn expiry(&self, field: &str) -> Option<u64> {
        let (expiry, signature) = field.strip_prefix("Bearer ")?.split_once('.')?;
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let expected = self.0.key.bytes().chain(expiry.bytes()).fold(0xcbf2_9ce4_8422_2325, fnv);
        (u64::from_str_radix(signature, 16).ok()? == expected).then_some(u64::from_str_radix(expiry, 16).ok()?)
    }
}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let now = self.get_current_time().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let field = self.get_http_request_header("authorization").unwrap_or_default();
        match self.expiry(&field) {
            Some(expiry) if expiry > now => {
                self.set_http_request_header("authorization", None);
                self.set_http_request_header("x-token-expires", Some(&expiry.to_string()));
                Action::Continue
            }
            _ => {
                let fields = vec![("www-authenticate", "Bearer"), ("content-type", "text/plain")];
                self.send_http_response(401, fields, Some(b"no valid token\n"));
                Action::Pause
            }
        }
    }
}
