//! Row 22 of the interface's test table: a binary that cannot load files says so, and says what to do.
//! Run with `--no-default-features --features builtin-plugins`.
#![cfg(not(feature = "dlopen"))]

use std::path::Path;

use mini_rproxy::config::PluginConfig;
use mini_rproxy::plugin::instances;

#[path = "plugins/common.rs"]
mod common;

use common::{Lines, load};

#[test]
fn r22_files_are_refused_with_a_remedy() {
    let path = PluginConfig::of_file("/usr/lib/some.so".into(), true);
    let list = load(&[path], Lines::new().logger()).unwrap_err().to_string();
    let dir = instances::files(Path::new("/usr/lib")).unwrap_err();
    for message in [list, dir] {
        assert!(message.contains("without dlopen") && message.contains("list it as builtin"), "{message}");
    }
}

#[test]
fn r22_builtin_plugins_work() {
    let (name, builtin) = ("demo".to_owned(), Some("header_demo".to_owned()));
    let loaded = load(&[PluginConfig { name, builtin, ..PluginConfig::default() }], Lines::new().logger());
    if cfg!(feature = "builtin-plugins") {
        assert_eq!(loaded.unwrap().names().collect::<Vec<_>>(), ["demo"]);
    } else {
        assert!(loaded.unwrap_err().to_string().contains("not linked into this program"));
    }
}
