//! The stages of `examples/tiny`, compiled with nothing but rustc: each passes what it is to pass, and not yet what the next one
//! is there for. The table in the guide is what comes of that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selftest::player::play;
use selftest::stages::{LAST, SCRIPT_TIMEOUT, STAGES, Score, compile, judge_program, scripts};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tiny")
}

fn check(number: usize) {
    let tiny = tiny();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny");
    let command = compile(&tiny, &STAGES[number - 1], &folder).expect("a stage that compiles");
    let score = judge_program(&command, &tiny.join("scripts"), number).expect("a program that can be judged");
    assert!(score.is_pass(), "{}", score.report());
    check_tables(&score);
    if number < LAST {
        let next = scripts(&tiny.join("scripts"), number + 1).expect("good scripts");
        let mut next = next.iter().filter(|(stage, _)| *stage == number + 1);
        let fails = next.any(|(_, script)| play(&command, script, SCRIPT_TIMEOUT).expect("it starts").is_some());
        assert!(fails, "stage {number} passes the scripts of stage {}: that stage teaches nothing", number + 1);
    }
}

/// Entries whose verdict may depend on which of two packets comes first, on a busy machine.
const TIMING: usize = 12;

/// The rows of the tables are what was measured: to the letter, but for the verdicts of the first nine stages, which are counted
/// and decide nothing.
fn check_tables(score: &Score) {
    for file in ["README.md", "../../docs/guide/tiny-10-smuggling.md"] {
        check_table(file, &fs::read_to_string(tiny().join(file)).expect("a page"), score);
    }
}

fn check_table(file: &str, text: &str, score: &Score) {
    let row = score.row();
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let measured = cells(row.trim_end());
    let found = text.lines().map(cells).find(|found| found.len() == measured.len() && found[1] == measured[1]);
    let found = found.unwrap_or_else(|| panic!("{file}: no row for {row}"));
    for (column, (found, measured)) in found.iter().zip(&measured).enumerate() {
        let number = |cell: &str| cell.split(' ').next().and_then(|word| word.parse::<usize>().ok());
        let is_same = match (number(found), number(measured)) {
            // Refused, passed on, dirty, harmless.
            (Some(found), Some(measured)) if column >= 5 && score.stage < LAST => found.abs_diff(measured) <= TIMING,
            _ => found == measured,
        };
        assert!(is_same, "{file} has {found}, measured was {measured}: {row}");
    }
}

#[test]
fn a_failure_shows_what_came() {
    let tiny = tiny();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-failure");
    let relay = compile(&tiny, &STAGES[0], &folder).expect("a stage that compiles");
    let scripts = scripts(&tiny.join("scripts"), 2).expect("good scripts");
    let (_, script) = scripts.iter().find(|(_, script)| script.name == "02-no-request-line").expect("it is there");
    let failure = play(&relay, script, Duration::from_secs(1)).expect("it starts").expect("a relay does not refuse it");
    let score = Score { stage: 2, scripts: vec![(2, script.clone(), Some(failure))], entries: Vec::new() };
    let report = score.report();
    for line in [
        "FAIL examples/tiny/scripts/02-no-request-line.wire: What is no request line is refused,",
        "     what went before:\n       C> hello\n       C>\n",
        "       C< HTTP/1.1 400|405 *\n     what came:\n       hello\n",
        "     - no response came to the client within 1s; the upstream got this\n",
        "     read docs/guide/tiny-02-head.md\n",
        "FAIL: stage 2, 0 of 1 scripts",
    ] {
        assert!(report.contains(line), "{line} in {report}");
    }
    assert!(!score.is_pass());
}

#[test]
fn stage_1_relay() {
    check(1);
}

#[test]
fn stage_2_head() {
    check(2);
}

#[test]
fn stage_3_prefix() {
    check(3);
}

#[test]
fn stage_4_host() {
    check(4);
}

#[test]
fn stage_5_content_length() {
    check(5);
}

#[test]
fn stage_6_chunked() {
    check(6);
}

#[test]
fn stage_7_keep_alive() {
    check(7);
}

#[test]
fn stage_8_pool() {
    check(8);
}

#[test]
fn stage_9_timeouts() {
    check(9);
}

#[test]
fn stage_10_smuggling() {
    check(10);
}
