//! Row 22 of the interface's test table: a binary that cannot load files says so, and says what to do.
//! Run with `--no-default-features --features builtin-plugins`.
#![cfg(not(feature = "dlopen"))]

use std::path::Path;

use mini_rproxy::config::PluginConfig;
use mini_rproxy::plugin::chain;

#[path = "plugins/common.rs"]
mod common;

use common::{LIMITS, Lines};

#[test]
fn r22_files_are_refused_with_a_remedy() {
    let path = PluginConfig { path: Some("/usr/lib/some.so".into()), ..PluginConfig::default() };
    let list = chain::load(&[path], None, LIMITS, Lines::new().logger()).unwrap_err().to_string();
    let dir = chain::load(&[], Some(Path::new("/usr/lib")), LIMITS, Lines::new().logger()).unwrap_err().to_string();
    for message in [list, dir] {
        assert!(message.contains("without dlopen") && message.contains("list it as builtin"), "{message}");
    }
}

#[test]
fn r22_builtin_plugins_work() {
    let demo = PluginConfig { builtin: Some("header_demo".to_owned()), ..PluginConfig::default() };
    let loaded = chain::load(&[demo], None, LIMITS, Lines::new().logger());
    if cfg!(feature = "builtin-plugins") {
        assert_eq!(loaded.unwrap().unwrap().names().collect::<Vec<_>>(), ["header_demo"]);
    } else {
        assert!(loaded.unwrap_err().to_string().contains("linked in: none"));
    }
}
