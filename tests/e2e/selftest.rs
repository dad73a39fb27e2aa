//! `-selftest`: the smuggling catalogue through the built binary.

use std::process::Command;

use crate::support::proxy::BINARY;

#[test]
fn s23_the_catalogue_passes_and_each_rule_is_told() {
    let folder = tempfile::TempDir::new().expect("an empty folder");
    let output = Command::new(BINARY).arg("-selftest").current_dir(&folder).env_clear().output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for rule in ["S1 ", "S5 ", "S14", "S15", "S16", "S18"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("pass {rule}"))), "{rule} in {text}");
    }
    let summary = text.lines().last().unwrap_or_default();
    let numbers: Vec<usize> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [passed, all, ..] if passed == all && all >= 400), "{summary}");
    assert!(folder.path().read_dir().expect("the folder").next().is_none(), "nothing is written");
}
