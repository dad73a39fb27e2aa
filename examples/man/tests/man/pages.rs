//! What is in the pages, and how they look on a terminal.

use std::collections::BTreeSet;
use std::process::Command;

use mini_rproxy::cli::FLAGS;

use crate::{file, folder, is_installed, made, said};

const CONFIGURATION: &str = include_str!("../../../../docs/configuration.md");

/// The tags of a page: what is described in a paragraph of its own.
fn tags(page: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = page.lines().collect();
    let pairs = lines.windows(2).filter(|pair| [".TP", ".TQ"].contains(&pair[0]));
    let plain = |text: &str| {
        ["\\fB", "\\fI", "\\fR"].iter().fold(text.replace("\\-", "-"), |text, font| text.replace(font, ""))
    };
    pairs.map(|pair| plain(pair[1]).replace("\\(aq", "'")).collect()
}

#[test]
fn every_flag_is_an_option_and_in_the_synopsis() {
    let page = made("1");
    let tags = tags(&page);
    let (_, synopsis) = page.split_once(".SH SYNOPSIS\n").expect("a synopsis");
    let synopsis = synopsis.split("\n.SH ").next().expect("its text").replace(['\n', '\\'], " ");
    let called: BTreeSet<&str> = synopsis.split("fB").skip(1).filter_map(|flag| flag.split("fR").next()).collect();
    let called: BTreeSet<String> = called.iter().map(|flag| flag.replace(' ', "")).collect();
    for (name, value, _) in FLAGS {
        let option = format!("-{name} {value}");
        assert!(tags.contains(option.trim_end()), "{option} is no option of the page: {tags:?}");
        assert!(called.contains(&format!("-{name}")), "-{name} is not in the synopsis: {called:?}");
    }
    assert_eq!(called.len(), FLAGS.len(), "the synopsis has flags that there are not: {called:?}");
}

#[test]
fn every_key_has_a_paragraph() {
    let mut keys = BTreeSet::new();
    let mut is_key_table = false;
    for line in CONFIGURATION.lines() {
        if !line.starts_with('|') {
            is_key_table = false;
        } else if line.starts_with("| key |") {
            is_key_table = true;
        } else if is_key_table {
            let cell = line.split('|').nth(1).expect("a first cell");
            keys.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    assert!(keys.len() > 80, "the tables were not understood: {keys:?}");
    let tags = tags(&made("5"));
    let missing: Vec<_> = keys.difference(&tags).collect();
    assert!(missing.is_empty(), "not in the page: {missing:?}");
}

#[test]
fn the_sections_are_there_in_their_order() {
    let sections = |form: &str| -> Vec<String> {
        made(form).lines().filter_map(|line| line.strip_prefix(".SH ").map(str::to_owned)).collect()
    };
    let expected = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXIT STATUS",
        "SIGNALS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ];
    assert_eq!(sections("1"), expected);
    let of_configuration = sections("5");
    for heading in CONFIGURATION.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(of_configuration.contains(&heading.to_uppercase()), "{heading}: {of_configuration:?}");
    }
}

/// The folder docs/ is not installed.
#[test]
fn no_page_sends_to_a_file_of_the_sources() {
    for form in ["1", "5"] {
        let page = made(form).replace("\\-", "-");
        let lines: Vec<&str> = page.lines().filter(|line| line.contains("docs/")).collect();
        assert!(lines.is_empty(), "{form}: {lines:?}");
    }
}

#[test]
fn man_has_nothing_to_complain_of_and_the_pages_fit_80_columns() {
    if !is_installed("man") {
        return;
    }
    let folder = folder("man");
    for form in ["1", "5"] {
        let path = file(&folder, form);
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-P", "cat", "-l"])
            .arg(&path)
            .env("MANWIDTH", "80")
            .env("LC_ALL", "C.UTF-8");
        let output = man.output().expect("man runs");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{form}: {complaints}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.lines().count() > 100, "{form}: {text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{form}: too long: {line}");
            for mark in ["\\f", "**", "](", "|-", "`"] {
                assert!(!line.contains(mark), "{form}: {mark} was left over: {line}");
            }
        }
        // By this line man -k finds a page.
        if is_installed("lexgrog") {
            let (is_good, text) = said(Command::new("lexgrog").arg(&path));
            assert!(is_good && text.contains("\"mini-rproxy - "), "{form}: {text}");
        }
    }
}

#[test]
fn mandoc_has_nothing_to_complain_of() {
    if !is_installed("mandoc") {
        return;
    }
    let folder = folder("mandoc");
    for form in ["1", "5"] {
        let path = file(&folder, form);
        let (is_good, complaints) = said(Command::new("mandoc").args(["-T", "lint"]).arg(&path));
        assert!(is_good && complaints.is_empty(), "{form}: {complaints}");
    }
}
