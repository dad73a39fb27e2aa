//! The wall clock jumps while the proxy runs, as on a host whose first minutes are in 1970 (rule E11). libfaketime stands
//! between the binary and the C library, and reads from a file how far off the clock is.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::support::{Launch, Origin, PATIENCE, Peer, value, wait_until};

const DAY: i64 = 86_400;

/// Where Debian's package libfaketime puts the library: below a folder that is named after the machine.
fn libfaketime() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].into_iter().map(PathBuf::from);
    let below = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found =
        folders.chain(below).map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "libfaketime is missing, and CI must not skip its tests");
        eprintln!("skipped: libfaketime is not installed");
    }
    found
}

/// How far the Date of an answer is from this process's clock, in seconds.
fn offset(client: &mut Peer) -> i64 {
    let answer = client.get("/health");
    let date = httpdate::parse_http_date(answer.field("Date").expect("a Date")).expect("a date");
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    seconds(date) - seconds(SystemTime::now())
}

#[test]
fn e11_a_wall_clock_that_jumps_by_a_day_ends_nothing_and_shows_in_the_date() {
    let Some(library) = libfaketime() else { return };
    let (held, is_held) = channel();
    let (release, released) = channel();
    let (held, released) = (Mutex::new(held), Mutex::new(released));
    let origin = Origin::start(move |mut peer, _| {
        while let Some(request) = peer.request() {
            if request.target() == "/held" {
                held.lock().expect("one at a time").send(()).expect("the test waits");
                released.lock().expect("one at a time").recv().expect("the test lives");
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    let jump_to = |seconds: i64| {
        // In one step: half a number would be a jump of its own.
        let next = file.path().with_extension("next");
        fs::write(&next, format!("{seconds:+}")).expect("a file");
        fs::rename(&next, file.path()).expect("a file");
    };
    jump_to(0);
    let yaml = origin.config(
        "workers: 1\ntimeouts: {keep_alive: 10m, response_head: 10m, request_head: 2s}\npool: {idle_timeout: 10m}",
    );
    let proxy = Launch::new(&yaml)
        .env("LD_PRELOAD", library.to_str().expect("a path without oddities"))
        .env("FAKETIME_TIMESTAMP_FILE", file.path().to_str().expect("a path of ours"))
        .env("FAKETIME_NO_CACHE", "1")
        // The monotonic clock does not jump, here as in life.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let (mut idle, mut waiting, mut asking) = (proxy.connect(), proxy.connect(), proxy.connect());
    assert_eq!(idle.get("/first").status(), 200);
    waiting.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    is_held.recv_timeout(PATIENCE).expect("the request arrives");

    for seconds in [DAY, -DAY, 0] {
        let mut late = proxy.connect();
        late.send("GET /late HTTP/1.1\r\nHo");
        jump_to(seconds);
        let deadline = Instant::now() + PATIENCE;
        while (offset(&mut asking) - seconds).abs() > 600 {
            assert!(Instant::now() < deadline, "the Date does not follow a jump to {seconds} s");
            thread::sleep(Duration::from_millis(20));
        }
        // What is due comes, neither a day early nor a day late.
        assert_eq!(late.response().status(), 408, "a jump to {seconds} s");
        assert_eq!(idle.get("/again").status(), 200, "a jump to {seconds} s");
    }
    release.send(()).expect("the origin waits");
    assert_eq!(waiting.response().status(), 200);
    // The one of the idle client, used again and again, and the one that was held.
    assert_eq!(origin.connections(), 2);
    let causes =
        || -> Vec<String> { proxy.log.all().iter().filter_map(|line| value(line, "why").map(str::to_owned)).collect() };
    wait_until("a line for each late head", || causes().len() >= 3);
    assert_eq!(causes(), ["head_timeout"; 3]);
}
