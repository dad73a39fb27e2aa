//! Every proxy really proxies, and every scenario runs to its end. Nothing here judges a time.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The benchmark, with a proxy of the same build.
fn bench(args: &[&str]) -> Option<Output> {
    let program = Path::new(env!("CARGO_BIN_EXE_mini-rproxy-bench"));
    let must = std::env::var("CI").as_deref() == Ok("true");
    // Cargo builds them for the whole workspace, but not for this package alone.
    for needed in ["mini-rproxy", "examples/libheader_demo.so"].map(|name| program.with_file_name(name)) {
        if !needed.is_file() {
            assert!(!must, "{} is missing, and CI must not skip its tests", needed.display());
            eprintln!("skipped: {} is not built", needed.display());
            return None;
        }
    }
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(args.join(" ").replace(['-', ' '], ""));
    let output = Command::new(program).args(args).arg("--out").arg(out).output().expect("the benchmark runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    assert!(!(must && said.contains("is not installed")), "CI must not skip: {said}");
    Some(output)
}

#[test]
fn each_target_really_proxies() {
    let Some(output) = bench(&["check"]) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    for name in ["relay", "relay, splice", "mini-rproxy"] {
        assert!(said.lines().any(|line| line == format!("{name} proxies")), "{name}: {said}");
    }
}

/// With so few requests that it takes seconds, even as a debug build.
#[test]
fn each_scenario_runs_to_its_end() {
    let list = bench(&["list"]).map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        // A GiB through a debug build, and a hundred thousand routes, are for the real run.
        if name == "down-1g" {
            continue;
        }
        let Some(output) = bench(&["--quick", "--repeat", "1", "--requests", "100", "--scenario", name]) else {
            return;
        };
        let (table, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(table.lines().any(|line| line.starts_with(&format!("| {name} |"))), "{name}: {table}");
        assert!(!said.contains("is left out of"), "{name}: {said}");
    }
}
