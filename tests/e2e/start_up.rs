//! The command line, and everything that can be wrong before the first connection.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use mini_rproxy::plugin::load;
use tempfile::TempDir;

use super::reload::reload;
use crate::support::proxy::BINARY;
use crate::support::{Launch, Origin};

const GOOD: &str = "listen_addr: 127.0.0.1:0\nroutes:\n  - prefix: /\n    upstream: http://127.0.0.1:9\n";

/// Runs the binary, which is expected to end by itself, in a folder with `config.yaml`.
pub fn run(yaml: &str, args: &[&str]) -> Output {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("config.yaml"), yaml).expect("a configuration file");
    // `timeout` is part of every system that has a shell worth the name; without it a proxy that starts would hang.
    Command::new("timeout")
        .args(["20", BINARY])
        .args(args)
        .current_dir(folder.path())
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_configuration_comes_by_standard_input_and_a_reload_says_that_it_cannot_be_read_again() {
    let origin = Origin::echo();
    let command = |more: &str| format!("exec '{BINARY}' -config - {more} <config.yaml");
    let proxy = Launch::with(&origin.config(""), |folder| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &command("-verbose")]).current_dir(folder);
        shell
    })
    .start();
    assert_eq!(proxy.connect().get("/before").status(), 200);
    proxy.signal("HUP");
    let line = proxy.log.wait_for("the refusal", |line| line.contains("are kept as they were"));
    assert!(line.contains("standard input cannot be read again"), "{line}");
    assert_eq!(proxy.connect().get("/after").status(), 200);
    for (yaml, code, expected) in [(GOOD, 0, "the configuration is good"), ("x: 1\n", 1, "standard input:1:1: unknown")]
    {
        let folder = TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join("config.yaml"), yaml).expect("a file");
        let output = Command::new("sh").args(["-c", &command("-check")]).current_dir(folder.path()).output();
        let output = output.expect("a shell");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(expected), "{said}");
    }
}

#[test]
fn errors_are_one_line_with_a_place_and_end_with_1() {
    let route = "  - prefix: /a\n    upstream: http://127.0.0.1:9\n";
    let cases: [(&str, String, &[&str]); 9] = [
        (
            "an unknown key",
            format!("listen_adr: \":0\"\nroutes:\n{route}"),
            &["config.yaml", "listen_adr", "listen_addr"],
        ),
        ("an unknown key of a route", format!("routes:\n{route}    upstrem: x\n"), &["config.yaml", "upstrem"]),
        ("the same prefix twice", format!("routes:\n{route}{route}"), &["config.yaml", "/a"]),
        ("the same prefix, written otherwise", format!("routes:\n{route}{}", route.replace("/a", "/a/")), &["/a"]),
        ("a bad URL", "routes:\n  - prefix: /\n    upstream: http//nonsense\n".into(), &["config.yaml:3:", "http://"]),
        (
            "a scheme of another kind",
            "routes:\n  - prefix: /\n    upstream: ftp://x\n".into(),
            &["config.yaml:3:", "http://"],
        ),
        ("not YAML", "routes: [\n".into(), &["config.yaml"]),
        ("a bad duration", format!("timeouts: {{ connect: soon }}\nroutes:\n{route}"), &["soon"]),
        ("a bad address", format!("listen_addr: nowhere\nroutes:\n{route}"), &["nowhere"]),
    ];
    for (name, yaml, expected) in cases {
        for args in [&["-config", "config.yaml"][..], &["-config", "config.yaml", "-check"]] {
            let output = run(&yaml, args);
            let message = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{name}: {message}");
            assert_eq!(message.trim_end().lines().count(), 1, "{name}: {message}");
            assert!(!message.contains("panicked"), "{name}: {message}");
            for part in expected {
                assert!(message.contains(part), "{name}: {part} is missing in: {message}");
            }
        }
    }
}

#[test]
fn errors_of_the_file_tell_line_and_column() {
    let output = run("routes:\n  - prefix: /\n    upstream: http://127.0.0.1:9\n    unknown: 1\n", &["-check"]);
    let message = text(&output.stderr);
    let place = message.split("config.yaml:").nth(1).unwrap_or_else(|| panic!("no place in: {message}"));
    let numbers: Vec<u32> = place.split(':').map_while(|part| part.trim().parse().ok()).collect();
    assert!(matches!(numbers[..], [4, 1..=12, ..]), "{message}");
}

#[test]
fn a_missing_file_and_a_taken_port_are_errors_too() {
    let output = run(GOOD, &["-config", "missing.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("missing.yaml"), "{output:?}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = run(&GOOD.replace("127.0.0.1:0", &address), &[]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&address) && !message.contains("panicked"), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}

#[test]
fn what_would_stop_the_start_is_found_by_check_too() {
    for (name, yaml, args, expected) in [
        (
            "a plugin that is missing",
            "plugins: [{path: /nowhere/x.so}]",
            &[][..],
            "plugin /nowhere/x.so: cannot read it: No such file",
        ),
        ("a plugin that is none", "plugins: [{path: config.yaml}]", &[], "plugin config.yaml: not an ELF file"),
        ("a plugin that is not linked in", "plugins: [{builtin: nobody}]", &[], "plugin nobody: not linked into this"),
        ("a folder that is missing", "", &["-plugindir", "/nowhere"], "plugin folder /nowhere: cannot be read"),
    ] {
        // Without dlopen there is another reason, but it is told in both cases as well.
        let expected = if yaml.contains("builtin") || load::available().is_ok() { expected } else { "without dlopen" };
        for check in [&["-check"][..], &[]] {
            let output = run(&format!("{GOOD}{yaml}\n"), &[args, check].concat());
            let message = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{name} {check:?}: {message}");
            assert!(message.contains(expected) && message.lines().count() == 1, "{name} {check:?}: {message}");
            assert_eq!(message.contains("config.yaml:5:"), !yaml.is_empty(), "{name} {check:?}: {message}");
        }
    }
    let output = run(&format!("{GOOD}plugins: [{{path: /nowhere/x.so, required: false}}]\n"), &["-check"]);
    assert_eq!(output.status.code(), Some(0), "what is not required stops nothing: {}", text(&output.stderr));
}

#[test]
fn e4_check_warns_of_a_body_limit_that_the_memory_budget_has_no_room_for() {
    let plugin = "plugins: [{path: /nowhere/x.so, required: false}]";
    for (limits, is_warned) in [
        ("{memory_budget: 8MiB}\nplugin_body_limit: 1792KiB", false),
        ("{memory_budget: 8MiB}\nplugin_body_limit: 1793KiB", true),
        ("{}\nplugin_body_limit: 100MiB", false),
    ] {
        let output = run(&format!("{GOOD}{plugin}\nworkers: 1\nlimits: {limits}\n"), &["-check"]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{limits}: {message}");
        assert_eq!(message.contains("warning: plugin_body_limit"), is_warned, "{limits}: {message}");
    }
    let unused = run(&format!("{GOOD}workers: 1\nlimits: {{memory_budget: 1MiB}}\n"), &["-check"]);
    assert_eq!(text(&unused.stderr), "", "there are no plugins");
}

#[test]
fn what_cannot_be_printed_is_an_error_but_for_a_reader_that_went_away() {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("config.yaml"), GOOD).expect("a configuration file");
    let print = |out: Stdio| {
        let mut command = Command::new(BINARY);
        command.arg("-print-config").current_dir(folder.path()).stdout(out);
        command.stderr(Stdio::piped()).output().expect("the binary runs")
    };
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
    let output = print(full.into());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write to standard output: No space left"), "{output:?}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = print(writer.into());
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn every_spelling_of_a_flag_works() {
    for args in [
        &["-check"][..],
        &["--check"],
        &["-config", "config.yaml", "-check"],
        &["-config=config.yaml", "-check"],
        &["--config", "config.yaml", "--check"],
        &["--config=config.yaml", "--check"],
        &["-check", "-verbose"],
    ] {
        let output = run(GOOD, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn e10_one_line_without_a_file_is_a_proxy() {
    let (first, second) = (Origin::echo(), Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"));
    let proxy = Launch::with("", |empty| {
        std::fs::remove_file(empty.join("config.yaml")).expect("it was made for nothing");
        let mut command = Command::new(BINARY);
        command.current_dir(empty).args(["-listen", "127.0.0.1:0", "-memory-budget", "8MiB"]);
        command.args(["-route", &format!("/path={}", first.address), "-route", &format!("/={}", second.url())]);
        command.args(["-route", &format!("*.a.example/={}", first.address)]);
        command
    });
    let proxy = proxy.start();
    let mut client = proxy.connect();
    client.send("GET /path HTTP/1.1\r\nHost: b.a.example\r\n\r\n");
    assert!(client.response().text().starts_with("GET /path HTTP/1.1\n"), "the route of that host");
    assert!(proxy.connect().get("/path/x").text().starts_with("GET /x HTTP/1.1\n"));
    assert_eq!(proxy.connect().get("/y").text(), "second");
}

#[test]
fn e10_a_bad_route_on_the_command_line_is_one_line() {
    for (args, code, expected) in [
        (&["-route", "/a=h:99999"][..], 2, "-route: the port of the upstream URL is a number from 1 to 65535"),
        (&["-route", "nonsense"], 2, "-route: a route is written /prefix=host:port"),
        (&["-route", "/a=h:1", "-listen", "nowhere"], 2, "-listen: "),
        (&["-route", "/a=h:1", "-config", "config.yaml"], 2, "leave -config out"),
        (&["-listen", ":1"], 2, "-listen needs -route beside it"),
    ] {
        let output = run(GOOD, args);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {complaint}");
        assert!(complaint.contains(expected) && complaint.lines().count() == 1, "{args:?}: {complaint}");
    }
    let output = run(GOOD, &["-route", "/a=user:secret@h:1", "-print-config"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("http://h:1") && !text(&output.stdout).contains("secret"), "{output:?}");
}

#[test]
fn an_unknown_flag_ends_with_2() {
    for args in [&["-nonsense"][..], &["--nonsense"], &["nonsense"], &["-config"], &["-check=yes=no"]] {
        let output = run(GOOD, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("panicked"));
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for flag in ["-help", "--help"] {
        let output = run(GOOD, &[flag]);
        let help = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0));
        for word in ["-config", "-verbose", "-check", "-print-config", "-plugindir", "-version"] {
            assert!(help.contains(word), "{word} is not in the help:\n{help}");
        }
    }
    for flag in ["-version", "--version"] {
        let output = run(GOOD, &[flag]);
        assert_eq!(output.status.code(), Some(0));
        let expected =
            format!("mini-rproxy {} features={}\n", env!("CARGO_PKG_VERSION"), mini_rproxy::about::features());
        assert_eq!(text(&output.stdout), expected);
    }
}

#[test]
fn the_printed_configuration_loads_again_and_stays_the_same() {
    let first = run(
        &format!("{GOOD}timeouts: {{ connect: 1500ms }}\nlimits: {{ max_head_bytes: 20KiB }}\n"),
        &["-print-config"],
    );
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let printed = text(&first.stdout);
    for key in ["keep_alive", "max_idle_per_upstream", "trusted_proxies", "1500ms", "20KiB"] {
        assert!(printed.contains(key), "{key} is missing in:\n{printed}");
    }
    let second = run(&printed, &["-print-config"]);
    assert_eq!(second.status.code(), Some(0), "{}", text(&second.stderr));
    assert_eq!(text(&second.stdout), printed);
}

#[test]
fn a_wrong_value_of_a_flag_is_a_wrong_command_line() {
    for args in [
        &["-listen", "nonsense", "-route", "/=h:1"][..],
        &["-listen", ":80", "-listen", "0.0.0.0:80", "-route", "/=h:1"],
        &["-route", "nonsense"],
        &["-memory-budget", "much"],
        &["-check", "-healthcheck"],
        &["-check", "-check"],
    ] {
        let output = run(GOOD, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_log_mode_that_is_none_is_told() {
    let folder = TempDir::new().expect("a temporary folder");
    for (yaml, mode, code) in [
        (GOOD.to_owned(), "xml", 1),
        (GOOD.to_owned(), "json", 0),
        (GOOD.to_owned(), "", 0),
        (format!("{GOOD}log: {{format: text}}\n"), "xml", 0),
    ] {
        fs::write(folder.path().join("config.yaml"), yaml).expect("a configuration file");
        let mut command = Command::new(BINARY);
        let output = command.arg("-check").env("LOG_MODE", mode).current_dir(folder.path()).output().expect("it runs");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{mode}: {message}");
        assert_eq!(message.contains("LOG_MODE: expected text or json, found \"xml\""), code == 1, "{message}");
    }
}

/// What is accepted and will hardly do what is meant is told by `-check`, at the start and at each reload.
#[test]
fn a_route_that_is_hidden_is_told_by_check_at_the_start_and_at_a_reload() {
    let yaml = GOOD.replace("prefix: /\n", "prefix: /health\n");
    let expected = "the proxy itself answers /health to all clients, not the route /health";
    let output = run(&yaml, &["-check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let message = text(&output.stderr);
    assert!(message.starts_with(&format!("mini-rproxy: warning: {expected}")), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    let proxy = Launch::new(&yaml).start();
    let is_it = |line: &str| line.contains("level=warn") && line.contains(expected);
    proxy.log.wait_for("the warning", is_it);
    reload(&proxy, &yaml, 0);
    proxy.log.wait_for_many("the second warning", 2, is_it);
    assert_eq!(proxy.connect().get("/health").text(), "{\"message\":\"OK\"}");
    reload(&proxy, &format!("admin: {{health: false}}\n{}", yaml.replace("/health", "/health*")), 1);
    proxy.log.wait_for("another one", |line| {
        line.contains("level=warn") && line.contains("the prefix \\\"/health*\\\" takes")
    });
    assert_eq!(run(GOOD, &["-check"]).stderr, b"", "nothing is hidden");
}

#[test]
fn a_start_warns_where_everybody_can_see_the_routes() {
    let folder = TempDir::new().expect("a temporary folder");
    let socket = format!("unix:{}", folder.path().join("sock").display());
    for (listen, admin, is_warned) in [
        ("0.0.0.0:0", "{}", true),
        ("[::]:0", "{}", true),
        (":0", "{configz: true}", true),
        ("127.0.0.1:0", "{}", false),
        ("127.0.0.2:0", "{}", false),
        ("[::1]:0", "{}", false),
        (&socket, "{}", false),
        ("0.0.0.0:0", "{configz: local}", false),
        ("0.0.0.0:0", "{configz: false}", false),
    ] {
        // It stands in front of the addresses.
        let yaml = GOOD.replace("127.0.0.1:0", &format!("\"{listen}\"")) + &format!("admin: {admin}\n");
        let proxy = Launch::new(&yaml).spawn();
        proxy.log.wait_for("the addresses", |line| line.contains("msg=\"listening\""));
        let is_it = |line: &String| {
            line.contains("level=warn") && line.contains("everybody who reaches the proxy can see its routes")
        };
        assert_eq!(proxy.log.all().iter().any(is_it), is_warned, "{listen} {admin}: {:?}", proxy.log.all());
    }
}
