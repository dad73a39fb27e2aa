//! `-explain`, as a user types it.

use std::io::Write as _;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::support::proxy::BINARY;
use crate::support::{Origin, Proxy, curl_ok, is_missing};

fn explain(config: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(config.as_bytes()).expect("it is ours");
    let output = Command::new(BINARY).arg("-config").arg(file.path()).args(args).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

const CONFIG: &str = "listen_addr: \"127.0.0.1:8123\"\nroutes:\n- {prefix: /a, upstream: 'http://127.0.0.1:9'}\n";

#[test]
fn exit_codes_tell_what_would_happen() {
    for (args, code, expected) in [
        (&["-explain", "GET /a/x"][..], Some(0), "No Host was given: localhost:8123 is assumed."),
        (&["-explain", "GET /a/../x"], Some(1), "  why=S20\n"),
        (&["-explain", "/b"], Some(1), "  none takes /b\n"),
        (&["-explain", "GET /a", "-H", "Host: h", "-H", "A: b"], Some(0), "\n  A: b\n"),
        (
            &["-explain", "MOVE /a", "-H", "Host: h", "-H", "Destination: http://h/a/b"],
            Some(0),
            "\n+ Destination: http://127.0.0.1:9/b              G8: where the upstream has what the client named\n",
        ),
    ] {
        let (found, stdout, stderr) = explain(CONFIG, args);
        assert_eq!((found, stderr.as_str()), (code, ""), "{args:?}");
        assert!(stdout.contains(expected), "{args:?}: {stdout}");
    }
    let of_host = CONFIG.replace("prefix: /a", "hosts: [a.example], prefix: /a");
    for (host, words) in [
        ("a.example", "of the hosts that routes are for, a.example is the most specific one"),
        (
            "b.example",
            "no route is for this host: those for all hosts remain\n  none takes /a\n  not asked, because they are for other hosts: 1\n",
        ),
    ] {
        let (code, stdout, _) = explain(&of_host, &["-explain", "/a", "-H", &format!("Host: {host}")]);
        assert_eq!((code, stdout.contains(words)), (Some((host != "a.example").into()), true), "{stdout}");
        assert_eq!(stdout.contains("none is for the host"), host != "a.example", "{stdout}");
    }
    let mut page = tempfile::Builder::new().suffix(".html").tempfile().expect("a temporary file");
    page.write_all(b"<h1>nothing here</h1>").expect("it is ours");
    let with_page = format!("{CONFIG}error_pages: {{404: {}}}\n", page.path().display());
    let (code, stdout, _) = explain(&with_page, &["-explain", "/b"]);
    assert!(code == Some(1) && stdout.ends_with("\r\n\r\n<h1>nothing here</h1>\n"), "{stdout}");
    drop(page);
    let (code, _, stderr) = explain(&with_page, &["-explain", "/b"]);
    assert!(code == Some(1) && stderr.contains("No such file"), "{stderr}");
    let (code, stdout, stderr) = explain("routes: []\n", &["-explain", "/a"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
}

#[test]
fn plugins_are_named_and_not_loaded() {
    let config = format!("{CONFIG}plugins: [{{path: /not/there.so}}, {{builtin: no_such}}]\n");
    let (code, stdout, _) = explain(&config, &["-explain", "/a"]);
    assert_eq!(code, Some(0));
    assert!(stdout.ends_with("here they did not\n  there: /not/there.so\n  no_such: no_such (built in)\n"), "{stdout}");
}

/// What is foretold is what an upstream gets.
#[test]
fn what_is_foretold_comes_true() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let proxy = Proxy::start(&origin.config(""));
    let lines =
        ["-H", "Host: h.example", "-H", "Connection: x-a", "-H", "X-A: 1", "-H", "Cookie: a=b", "-H", "TE: gzip"];
    let told = [&["-explain", "GET /a/x?y=%20"][..], &lines, &["-H", "User-Agent: u", "-H", "Accept: */*"]].concat();
    let (_, stdout, _) = explain(&origin.config(""), &told);
    let sent = curl_ok(&[&lines[..], &["-A", "u", &proxy.url("/a/x?y=%20")]].concat());
    let told: Vec<_> = stdout
        .lines()
        .skip_while(|line| !line.starts_with("fields:"))
        .filter_map(|line| line.strip_prefix("+ ").or(line.strip_prefix("  ")))
        .map(|line| line.split("   ").next().unwrap_or_default())
        .collect();
    for line in sent.lines().skip(1).take_while(|line| !line.is_empty()) {
        assert!(told.contains(&line), "{line:?} was not foretold:\n{stdout}");
    }
}
