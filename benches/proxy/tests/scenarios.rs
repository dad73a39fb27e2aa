//! Every proxy really proxies, and every scenario runs to its end. Nothing here judges a time.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// The benchmark, with a proxy of the same build and a folder of its own for results.
fn command(args: &[&str]) -> Option<(Command, PathBuf)> {
    let program = Path::new(env!("CARGO_BIN_EXE_mini-rproxy-bench"));
    let must = std::env::var("CI").as_deref() == Ok("true");
    // Cargo builds them for the whole workspace, but not for this package alone.
    for needed in
        ["mini-rproxy", "examples/libheader_demo.so", "examples/libproxy_wasm.so", "examples/libbasic_auth.so"]
            .map(|name| program.with_file_name(name))
    {
        if !needed.is_file() {
            assert!(!must, "{} is missing, and CI must not skip its tests", needed.display());
            eprintln!("skipped: {} is not built", needed.display());
            return None;
        }
    }
    // Short, because the path of a unix socket is limited.
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(args.last().expect("arguments"));
    let mut command = Command::new(program);
    command.args(args).arg("--out").arg(&out);
    Some((command, out))
}

fn bench(args: &[&str]) -> Option<Output> {
    let must = std::env::var("CI").as_deref() == Ok("true");
    let output = command(args)?.0.output().expect("the benchmark runs");
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
        // A tool may be missing, such as strace; not where CI runs.
        let has_failed = |line: &str| line.contains("is left out of") && !line.contains("is not installed");
        assert!(!said.lines().any(has_failed), "{name}: {said}");
    }
}

/// Another version than the one that was meant must not be measured in its place.
#[test]
fn a_peer_that_is_not_where_the_environment_says_is_an_error() {
    let Some((mut command, out)) = command(&["--scenario", "small", "--requests", "1"]) else { return };
    let _ = std::fs::remove_dir_all(&out);
    let output = command.env("PEER_NGINX", "/nowhere/nginx").output().expect("the benchmark runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("PEER_NGINX is /nowhere/nginx, which is no file"), "{said}");
    assert!(!out.exists(), "{} is left over", out.display());
}

/// Proxies that were ended look like proxies that failed: there must be no results, and nothing must be left running.
#[test]
fn an_interrupted_run_writes_no_results() {
    let Some((mut command, out)) = command(&["--scenario", "small", "--requests", "1000000"]) else { return };
    let mut bench = command.stderr(Stdio::piped()).spawn().expect("the benchmark runs");
    let mut said = BufReader::new(bench.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("small:") {
        line.clear();
        assert!(said.read_line(&mut line).expect("text") > 0, "it ended by itself");
    }
    kill_process(Pid::from_child(&bench), Signal::INT).expect("it runs");
    // Relay and origin have inherited stderr: it ends when they have ended too.
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("text");
    assert!(!rest.contains("is left out"), "{rest}");
    assert_eq!(bench.wait().expect("it ended").code(), Some(130), "{rest}");
    let left: Vec<_> = std::fs::read_dir(out).expect("the folder").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}
