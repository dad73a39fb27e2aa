//! The reference of the plugin interface shows every function and every hook, in C that compiles and in Rust that does (by
//! the documentation tests of the plugin crate).
#![cfg(feature = "dlopen")]

#[path = "plugins/common.rs"]
mod common;

use std::fs;

const REFERENCE: &str = include_str!("../plugin-api/FUNCTIONS.md");
const HEADER: &str = include_str!("../plugin-api/include/mini_rproxy_plugin.h");

/// What the blocks of the page may use beside their own.
const PRELUDE: &str = "#include \"mini_rproxy_plugin.h\"\n#include <stdlib.h>\n\
    extern const mrp_host *host;\n";

/// Name and text of each section.
fn sections() -> Vec<(&'static str, &'static str)> {
    REFERENCE.split("\n### `").skip(1).filter_map(|section| section.split_once('`')).collect()
}

/// The first block in that language.
fn block<'a>(text: &'a str, language: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("```{language}\n"))?;
    Some(rest.split_once("\n```")?.0)
}

/// The functions that a struct of the header holds, in its order.
fn members(of: &str) -> Vec<&'static str> {
    let (_, text) = HEADER.split_once(&format!("typedef struct {of} {{")).expect("the header has it");
    let (text, _) = text.split_once(&format!("}} {of};")).expect("it ends");
    text.split("(*").skip(1).filter_map(|member| member.split_once(')')).map(|(name, _)| name).collect()
}

#[test]
fn the_reference_has_every_hook_and_every_function_once() {
    let mut expected = members("mrp_plugin");
    expected.extend(members("mrp_host"));
    expected.sort_unstable();
    let mut found: Vec<_> = sections().into_iter().map(|(name, _)| name).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(expected.len() > 30, "the header is not read: {expected:?}");
    for (name, text) in sections() {
        assert!(block(text, "c").is_some_and(|code| code.contains(name)), "{name} has no example in C that uses it");
        assert!(block(text, "rust").is_some(), "{name} has no example in Rust");
    }
}

#[test]
fn the_examples_in_c_compile_without_a_warning() {
    let dir = common::folder("functions");
    for (name, text) in sections() {
        let source = dir.join(name).with_extension("c");
        let code = block(text, "c").unwrap_or_default();
        fs::write(&source, format!("{PRELUDE}{code}\n")).unwrap();
        let object = source.with_extension("o");
        let args = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-c", "-o"];
        let files = [object.to_str().unwrap(), source.to_str().unwrap()];
        if common::cc(&[&args[..], &files].concat()).is_none() {
            return;
        }
    }
}
