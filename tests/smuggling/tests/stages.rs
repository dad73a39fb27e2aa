//! The stages of `examples/tiny`, compiled with nothing but rustc: each passes what it is to pass, and not yet what the next one
//! is there for. The table in the guide is what comes of that.

use std::path::{Path, PathBuf};

use selftest::player::play;
use selftest::stages::{LAST, SCRIPT_TIMEOUT, STAGES, compile, judge_program, scripts};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tiny")
}

fn check(number: usize) {
    let tiny = tiny();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny");
    let command = compile(&tiny, &STAGES[number - 1], &folder).expect("a stage that compiles");
    let score = judge_program(&command, &tiny.join("scripts"), number).expect("a program that can be judged");
    assert!(score.is_pass(), "{}", score.report());
    if number < LAST {
        let next = scripts(&tiny.join("scripts"), number + 1).expect("good scripts");
        let mut next = next.iter().filter(|(stage, _)| *stage == number + 1);
        let fails = next.any(|(_, script)| play(&command, script, SCRIPT_TIMEOUT).expect("it starts").is_some());
        assert!(fails, "stage {number} passes the scripts of stage {}: that stage teaches nothing", number + 1);
    }
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
