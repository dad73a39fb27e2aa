//! The configuration file.

use std::sync::Arc;

use mini_rproxy::config::Config;
use mini_rproxy::plugin::chain;
use mini_rproxy::proxy::runtime::Runtime;

/// Any text.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let config = match Config::parse(text, "fuzz.yaml") {
        Ok(config) => config,
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("fuzz.yaml:") && !message.contains(char::is_control), "{message:?}");
            return;
        }
    };
    let printed = config.to_yaml();
    match Config::parse(&printed, "printed.yaml") {
        Ok(again) => assert_eq!(again.to_yaml(), printed),
        Err(error) => panic!("what is printed is refused: {error}\n{printed}"),
    }
    chain::limits(&config);
    let site = Runtime::new(Arc::new(config), None);
    assert!(site.upstreams().next().is_some() || site.config.routes.iter().all(|route| route.upstreams().is_empty()));
}
