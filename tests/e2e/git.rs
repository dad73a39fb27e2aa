//! git over HTTP: an origin that answers while it reads.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::support::{Origin, Peer, Proxy, is_missing};

/// `git http-backend` behind a small server for CGI programs: what the program writes is the response, at once, and the
/// end of the connection its end.
fn serve(mut peer: Peer, repositories: &Path) {
    let Some(request) = peer.head() else { return };
    let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
    let mut program = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "http.receivepack")
        .env("GIT_CONFIG_VALUE_0", "true")
        .env("REQUEST_METHOD", request.method())
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", request.field("Content-Type").unwrap_or(""))
        .env("HTTP_CONTENT_ENCODING", request.field("Content-Encoding").unwrap_or(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut output = program.stdout.take().expect("it is piped");
    let mut stream = peer.stream().try_clone().expect("a socket");
    let answer = thread::spawn(move || {
        use std::io::Read;

        let mut buf = [0; 16 * 1024];
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n").expect("the proxy reads");
        while let Ok(len @ 1..) = output.read(&mut buf) {
            stream.write_all(&buf[..len]).expect("the proxy reads");
        }
        stream.shutdown(std::net::Shutdown::Write).expect("a socket");
    });
    let mut input = program.stdin.take().expect("it is piped");
    if request.field("Transfer-Encoding").is_some() {
        loop {
            let line = peer.line().expect("a chunk");
            let len = usize::from_str_radix(&line, 16).expect("a length");
            input.write_all(&peer.bytes(len)).expect("git reads");
            assert_eq!(peer.line().as_deref(), Some(""));
            if len == 0 {
                break;
            }
        }
    } else {
        let len = request.field("Content-Length").map_or(0, |len| len.parse().expect("a length"));
        input.write_all(&peer.bytes(len)).expect("git reads");
    }
    drop(input);
    answer.join().expect("the answer is sent");
    assert!(program.wait().expect("it is our child").success());
}

fn git(folder: &Path, args: &[&str]) -> Output {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "http.proxy="];
    let output = Command::new("git")
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .args(identity)
        .args(args)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// RFC 9112 section 9.5: `git http-backend` writes the head of its response before it reads the pack.
#[test]
fn g20_a_push_of_some_megabytes_and_a_clone() {
    if is_missing("git") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    git(folder.path(), &["init", "-q", "--bare", "served.git"]);
    git(folder.path(), &["init", "-q", "work"]);
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    fs::write(at("work/noise"), noise.take(6_000_000).collect::<Vec<u8>>()).expect("a file");
    git(&at("work"), &["add", "noise"]);
    git(&at("work"), &["commit", "-q", "-m", "noise"]);

    let repositories = folder.path().to_owned();
    let origin = Origin::start(move |peer, _| serve(peer, &repositories));
    let proxy = Proxy::start(&origin.config(""));
    git(&at("work"), &["push", "-q", &proxy.url("/served.git"), "HEAD:refs/heads/main"]);
    git(folder.path(), &["clone", "-q", "-b", "main", &proxy.url("/served.git"), "copy"]);
    assert!(fs::read(at("copy/noise")).expect("a file") == fs::read(at("work/noise")).expect("a file"));
}
