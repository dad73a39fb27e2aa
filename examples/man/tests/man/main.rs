//! The pages and completions as their readers have them: by man and mandoc, in bash, zsh and fish, and installed.

use std::path::{Path, PathBuf};
use std::process::Command;

mod completions;
mod install;
mod pages;

/// The program that makes them.
const PROGRAM: &str = env!("CARGO_BIN_EXE_mini-rproxy-man");

/// One of the [`FORMS`].
fn made(form: &str) -> String {
    // mandoc complains of a page without a date.
    let output = Command::new(PROGRAM).arg(form).env("SOURCE_DATE_EPOCH", "1764460800").output().expect("it runs");
    assert!(output.status.success(), "{form}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The five.
const FORMS: [&str; 5] = ["1", "5", "bash", "zsh", "fish"];

/// One of them, as a file.
fn file(folder: &Path, form: &str) -> PathBuf {
    let path = folder.join(format!("mini-rproxy.{form}"));
    std::fs::write(&path, made(form)).expect("a file");
    path
}

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("the folder of the last run can go");
    }
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Whether a program that a test needs is installed. In CI it has to be.
fn is_installed(program: &str) -> bool {
    let is_there = Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status();
    if is_there.expect("sh runs").success() {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{program} is missing, and CI must not skip its tests");
    eprintln!("skipped: {program} is not installed");
    false
}

/// What a command says, all of it.
fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_date_is_that_of_the_sources() {
    assert!(made("1").starts_with(".TH MINI\\-RPROXY 1 \"2025-11-30\" "));
    let undated = |value: Option<&str>| {
        let mut command = Command::new(PROGRAM);
        match value {
            Some(value) => command.env("SOURCE_DATE_EPOCH", value),
            None => command.env_remove("SOURCE_DATE_EPOCH"),
        };
        said(command.arg("5"))
    };
    for value in [None, Some("")] {
        assert!(undated(value).1.starts_with(".TH MINI\\-RPROXY 5 \"\" "), "{value:?}");
    }
    let (is_good, text) = undated(Some("yesterday"));
    assert!(!is_good && text.contains("SOURCE_DATE_EPOCH=yesterday") && text.contains("git log"), "{text}");
}

#[test]
fn what_it_does_not_know_it_says() {
    for args in [&[][..], &["2"], &["1", "5"]] {
        let (is_good, text) = said(Command::new(PROGRAM).args(args));
        assert!(!is_good && text.contains("1|5|bash|zsh|fish"), "{args:?}: {text}");
    }
}
