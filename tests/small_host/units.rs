//! The files for service managers: systemd's units and OpenWrt's init script. What they start is what the binary takes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::static_binary::root;
use crate::support::is_missing;
use crate::support::proxy::{BINARY, is_root};

fn read(path: &str) -> String {
    fs::read_to_string(root().join("examples").join(path)).expect("an example")
}

/// A folder with a configuration in the place of the one that is installed.
fn configured() -> (TempDir, String) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("config.yaml");
    fs::write(&path, "routes: [{prefix: /, upstream: \"http://127.0.0.1:9\"}]\n").expect("a file");
    let path = path.display().to_string();
    (folder, path)
}

/// Whether the binary takes these words; the first one is its installed place.
fn is_good_command(words: &[&str], installed_config: &str) {
    let (_folder, config) = configured();
    let args = words[1..].iter().map(|word| if *word == installed_config { config.as_str() } else { word });
    let output = Command::new(BINARY).args(args).arg("-check").output().expect("the binary runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_systemd_service_starts_what_the_binary_takes_and_is_hardened() {
    let service = read("systemd/mini-rproxy.service");
    let value = |key: &str| service.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let command: Vec<&str> = value("ExecStart").expect("a command").split(' ').collect();
    is_good_command(&command, "/etc/mini-rproxy/config.yaml");
    for (key, expected) in [
        ("Type", "notify"),
        ("DynamicUser", "yes"),
        ("ProtectSystem", "strict"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("Requires", "mini-rproxy.socket"),
    ] {
        assert_eq!(value(key), Some(expected), "{key}");
    }
    assert!(read("systemd/mini-rproxy.socket").contains("\nListenStream="));
    let https = read("systemd/mini-rproxy-https.socket");
    // The name by which it speaks TLS: see `activation`.
    for line in ["ListenStream=443", "FileDescriptorName=https", "Service=mini-rproxy.service"] {
        assert!(https.lines().any(|told| told == line), "{line}");
    }
}

#[test]
fn systemd_understands_the_units_and_finds_little_exposed() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    }
    let folder = TempDir::new().expect("a folder");
    for unit in ["mini-rproxy.service", "mini-rproxy.socket", "mini-rproxy-https.socket"] {
        // Only what is installed is found executable.
        let text = read(&format!("systemd/{unit}")).replace("/usr/local/bin/mini-rproxy", BINARY);
        fs::write(folder.path().join(unit), text).expect("a file");
    }
    let analyze = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).current_dir(folder.path()).output().expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let units = ["./mini-rproxy.service", "./mini-rproxy.socket", "./mini-rproxy-https.socket"];
    let (is_good, said) = analyze(&[&["verify", "--man=no"][..], &units].concat());
    assert!(is_good && !said.contains("mini-rproxy"), "{said}");
    // 10 is everything, 0 nothing; what is left is the network.
    let (is_good, said) = analyze(&["security", "--offline=true", "--threshold=15", "./mini-rproxy.service"]);
    assert!(is_good, "{said}");
}

#[test]
fn the_openwrt_script_starts_what_the_binary_takes() {
    let (_folder, config) = configured();
    let script = root().join("examples/openwrt/mini-rproxy.init");
    // procd's functions, which tell what they are told.
    let stubs = "procd_open_instance() { echo open; }; procd_close_instance() { echo close; }; \
                 procd_set_param() { echo \"$*\"; }; procd_send_signal() { echo \"signal $*\"; }";
    let run_as = |user: &str, config: &str, function: &str| {
        let text = format!("{stubs}; . \"$0\"; PROG=\"$1\"; CONFIG=\"$2\"; RUN_AS={user}; {function}");
        let output = Command::new("sh").args(["-euc", &text]).arg(&script).args([BINARY, config]).output();
        let output = output.expect("sh runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if is_missing("start-stop-daemon") {
        return;
    }
    // The folder of the test is its own.
    let run = |config: &str, function: &str| run_as("$(id -un)", config, function);
    let (is_good, said) = run(&config, "start_service");
    assert!(is_good, "{said}");
    let command: Vec<&str> =
        said.lines().find_map(|line| line.strip_prefix("command ")).expect("a command").split(' ').collect();
    assert!(command.contains(&"-memory-budget"), "{command:?}");
    is_good_command(&command, &config);
    for line in ["open", "close", "respawn"] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    assert!(said.lines().any(|line| line.starts_with("user ")), "{said}");
    assert!(fs::read_to_string(&script).expect("a file").contains("RUN_AS=nobody"));
    if is_root() {
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("our file");
        let (is_good, said) = run_as("nobody", &config, "start_service");
        assert!(!is_good && !said.contains("open"), "checked as root, what nobody cannot read: {said}");
    }
    let (is_good, said) = run("/nowhere/config.yaml", "start_service");
    assert!(!is_good && !said.contains("open"), "a broken configuration is not started: {said}");
    assert!(run(&config, "reload_service").1.contains("HUP"));
}
