//! So many requests in a minute for each client, counted by all threads together in shared data.
//!
//! ```text
//! limit 100
//! ```

use std::time::UNIX_EPOCH;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    limit: u64,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let lines = filters::lines(&self.get_plugin_configuration().unwrap_or_default());
        let limit = lines.iter().find(|(word, _)| word == "limit").and_then(|(_, limit)| limit.parse().ok());
        self.limit = limit.unwrap_or(0);
        self.limit > 0
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Filter { limit: self.limit }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Filter {
    limit: u64,
}

impl Context for Filter {}

impl Filter {
    /// Counts one more; how many there were in this minute.
    fn count(&self, key: &str, minute: u64) -> u64 {
        loop {
            let (value, cas) = self.get_shared_data(key);
            let old = value.and_then(|value| <[u8; 16]>::try_from(value).ok()).map(u128::from_le_bytes).unwrap_or(0);
            // The minute and, below it, the count.
            let count = if (old >> 64) as u64 == minute { old as u64 + 1 } else { 1 };
            let new = (u128::from(minute) << 64 | u128::from(count)).to_le_bytes();
            if self.set_shared_data(key, Some(&new), cas).is_ok() {
                return count;
            }
            // Another thread was faster: once more.
        }
    }
}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let address = self.get_property(vec!["source", "address"]).unwrap_or_default();
        let address = String::from_utf8_lossy(&address).into_owned();
        let client = address.rsplit_once(':').map_or(address.as_str(), |(client, _)| client);
        let minute = self.get_current_time().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60);
        if self.count(client, minute) > self.limit {
            self.send_http_response(429, vec![("retry-after", "60")], Some(b"too many requests\n"));
            return Action::Pause;
        }
        Action::Continue
    }
}
