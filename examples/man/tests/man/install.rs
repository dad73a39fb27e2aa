//! "make install" and "make uninstall", into a folder that stands for the root.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{FORMS, PROGRAM, file, folder, said};

/// A build of the proxy. Cargo makes one for the whole workspace, but not for this package alone.
fn binary() -> Option<PathBuf> {
    let binary = Path::new(PROGRAM).with_file_name("mini-rproxy");
    if binary.is_file() {
        return Some(binary);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is missing, and CI must not skip", binary.display());
    eprintln!("skipped: {} is not built", binary.display());
    None
}

/// All files below a folder, relative to it.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                found.insert(entry.strip_prefix(folder).expect("below it").display().to_string());
            }
        }
    }
    found
}

#[test]
fn what_is_installed_works_and_goes_again() {
    let Some(binary) = binary() else { return };
    let folder = folder("install");
    let (pages, root) = (folder.join("pages"), folder.join("root"));
    fs::create_dir_all(&pages).expect("a folder");
    for form in FORMS {
        file(&pages, form);
    }
    let make = |action: &str, prefix: &str| {
        let mut make = Command::new("make");
        make.args(["--no-print-directory", "-C", concat!(env!("CARGO_MANIFEST_DIR"), "/../.."), action]);
        for (name, value) in [("PREFIX", Path::new(prefix)), ("DESTDIR", &root), ("BINARY", &binary), ("MAN", &pages)] {
            make.arg(format!("{name}={}", value.display()));
        }
        said(make.env_remove("MAKEFLAGS"))
    };
    let (is_good, text) = make("install", "/opt/proxy");
    assert!(is_good, "{text}");
    let installed = files(&root);
    let told: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix(&format!("{}/", root.display()))).map(str::to_owned).collect();
    assert_eq!(installed, told);
    for place in [
        "bin/mini-rproxy",
        "share/man/man1/mini-rproxy.1",
        "share/man/man5/mini-rproxy.5",
        "share/bash-completion/completions/mini-rproxy",
        "share/zsh/site-functions/_mini-rproxy",
        "share/fish/vendor_completions.d/mini-rproxy.fish",
        "share/doc/mini-rproxy/config.example.yml",
        "lib/systemd/system/mini-rproxy.service",
    ] {
        assert!(installed.contains(&format!("opt/proxy/{place}")), "{place}: {installed:?}");
    }
    let prefix = root.join("opt/proxy");
    let unit = fs::read_to_string(prefix.join("lib/systemd/system/mini-rproxy.service")).expect("the unit");
    assert!(unit.contains("\nExecStart=/opt/proxy/bin/mini-rproxy -config /etc/mini-rproxy/config.yaml\n"), "{unit}");

    // It works, and while it runs another one can take its place.
    let program = prefix.join("bin/mini-rproxy");
    let mut running = Command::new(&program)
        .args(["-route", "/=127.0.0.1:1", "-listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the installed binary starts");
    let log = BufReader::new(running.stdout.take().expect("a pipe"));
    assert!(log.lines().any(|line| line.expect("a line of log").contains("listening")), "it has ended");
    let (is_good, text) = make("install", "/opt/proxy");
    let is_running = running.try_wait().expect("its state").is_none();
    running.kill().expect("it can be ended");
    running.wait().expect("it ends");
    assert!(is_good && is_running, "{text}");
    let (is_good, text) = said(Command::new(&program).arg("-version"));
    assert!(is_good && text.contains(mini_rproxy::about::VERSION), "{text}");
    assert_eq!(files(&root), installed, "nothing is left of the exchange");

    // What others have put there stays.
    fs::write(prefix.join("share/man/man1/other.1"), "").expect("a page of another program");
    let (is_good, text) = make("uninstall", "/opt/proxy");
    assert!(is_good, "{text}");
    assert_eq!(files(&root), BTreeSet::from(["opt/proxy/share/man/man1/other.1".to_owned()]));
    assert!(!prefix.join("share/doc/mini-rproxy").exists());
}

/// A cargo of two words, which builds a file that says how it was called.
#[test]
fn what_is_built_before_is_not_built_by_root_again() {
    let folder = folder("built");
    let (cargo, target, root) = (folder.join("cargo.sh"), folder.join("target"), folder.join("root"));
    fs::create_dir_all(target.join("man")).expect("a folder");
    for form in FORMS {
        file(&target.join("man"), form);
    }
    fs::write(&cargo, "mkdir -p \"$TARGET/release\" && echo \"$*\" >\"$TARGET/release/mini-rproxy\"\n")
        .expect("a script");
    let install = || {
        let mut script = Command::new("sh");
        script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../install.sh")).arg("install");
        script.env("CARGO", format!("sh {}", cargo.display())).env("TARGET", &target).env("DESTDIR", &root);
        script.env("MAN", target.join("man")).env_remove("BINARY").env_remove("PREFIX");
        let (is_good, text) = said(&mut script);
        assert!(is_good, "{text}");
        (fs::read_to_string(root.join("usr/local/bin/mini-rproxy")).expect("it is installed"), text)
    };
    assert_eq!(install().0, "build --release --locked\n");

    let built = target.join("release/mini-rproxy");
    fs::write(&built, "built before").expect("our file");
    if std::os::unix::fs::chown(&built, Some(65534), None).is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "only root has files of others, and CI must not skip");
        eprintln!("skipped: only root has files of others");
        return;
    }
    let (installed, text) = install();
    assert!(installed == "built before" && text.contains("as it is, because it is another user's"), "{text}");
}

#[test]
fn a_prefix_that_cannot_be_is_told() {
    for (prefix, expected) in [
        ("usr/local", "PREFIX=usr/local is no absolute path"),
        ("/opt/a proxy", "choose a path of letters"),
        ("/dev/null", "cannot be written"),
    ] {
        let mut script = Command::new("sh");
        script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../install.sh")).arg("install").env("PREFIX", prefix);
        let (is_good, text) = said(script.env("BINARY", "/bin/sh").env("MAN", "/").env_remove("DESTDIR"));
        assert!(!is_good && text.contains(expected), "{prefix}: {text}");
    }
}
