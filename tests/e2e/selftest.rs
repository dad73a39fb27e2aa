//! The smuggling catalogue through the built binary, as `make selftest` plays it.

use std::path::Path;
use std::process::Command;

use selftest::entry::entries;
use selftest::report::{Report, by_rule};
use selftest::runner::run_binary;
use selftest::smug_format::parse;
use selftest::stages::{LAST, judge_program};

use crate::support::proxy::program;

#[test]
fn s23_the_catalogue_passes_and_each_rule_is_logged() {
    let folder = tempfile::TempDir::new().expect("an empty folder");
    let mut command = Command::new(program());
    command.current_dir(&folder).env_clear();
    let entries = entries().expect("a good catalogue");
    let report = by_rule(&entries, &run_binary(command, &entries).expect("it runs"));
    assert!(report.is_pass && entries.len() >= 400, "{}", report.text);
    for rule in ["S1 ", "S5 ", "S14", "S15", "S16", "S18"] {
        assert!(report.text.lines().any(|line| line.starts_with(&format!("pass {rule}"))), "{rule} in {}", report.text);
    }
    assert!(folder.path().read_dir().expect("the folder").next().is_none(), "nothing is written");
}

/// They are for programs of whatever kind, so that what they ask must not be more than this proxy does.
#[test]
fn the_stages_of_the_toy_proxy_are_passed() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny");
    let command = format!("sh '{}' '{}'", tiny.join("mini-rproxy.sh").display(), program());
    let score = judge_program(&command, &tiny.join("scripts"), LAST).expect("it runs");
    assert!(score.is_pass(), "{}", score.report());
}

#[test]
fn what_is_not_as_the_entry_says_fails() {
    let play = |text: &str| -> Report {
        let entries = parse("test", text).expect("a good text");
        by_rule(&entries, &run_binary(Command::new(program()), &entries).expect("it runs"))
    };
    let good = "S1 x\n> POST / HTTP/1.1\n> Host: a\n> Content-Length: 2\n>\n> hi\\\n= 200\n^ POST / length:hi\n";
    let report = play(good);
    assert!(report.is_pass, "{}", report.text);
    for (from, to) in [
        ("= 200", "= 204"),
        ("length:hi", "length:ho"),
        ("^ POST / length:hi", "^ POST / length:hi\n^ GET /"),
        ("= 200", "= 200\n- Date"),
    ] {
        assert!(!play(&good.replace(from, to)).is_pass, "{to}");
    }
}
