//! `cargo run --example timeline`: the pictures of the guide that are drawn from the code are what it draws now.
//!
//! `UPDATE_GOLDEN=1 cargo test --test timeline` draws them anew.

use std::fs;
use std::path::Path;

#[path = "../examples/timeline.rs"]
mod example;

/// Such a picture names the command that draws it, in its description.
const COMMAND: &str = "<desc>cargo run --example timeline -- ";

#[test]
fn the_pictures_of_the_guide_are_what_is_drawn() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut count) = (Vec::new(), 0);
    for entry in fs::read_dir(root.join("docs/guide/pictures")).expect("the guide has pictures") {
        let path = entry.expect("an entry of a folder").path();
        let picture = fs::read_to_string(&path).expect("a picture that is text");
        let Some(source) = picture.split_once(COMMAND).and_then(|(_, rest)| rest.split_once("</desc>")) else {
            continue;
        };
        let mut words = source.0.split(' ');
        let file = words.next().expect("there is always one");
        let text = fs::read_to_string(root.join(file)).expect("the file that is drawn");
        let drawn = example::draw(file, &text, words.next().unwrap_or_default()).expect("it can be drawn");
        let drawn = drawn.replacen('\n', &format!("\n{COMMAND}{}</desc>\n", source.0), 1);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &drawn).expect("it can be written");
        } else if drawn != picture {
            wrong.push(path.display().to_string());
        }
        count += 1;
    }
    assert!(count > 0, "no picture names its command");
    assert!(wrong.is_empty(), "drawn otherwise now: {}", wrong.join(", "));
}

const TEXT: &str = "\
starting
time=2026-11-23T12:45:08.121Z level=info msg=\"request\" client=127.0.0.1:5 method=GET path=/a/<list> status=200
        0.000 ms  the client sent 84 bytes; waiting for a connection to the upstream
        0.300 ms  no connection: refused; waiting for the client to take the response
       19.300 ms  over; waited 0.300 ms for a connection to the upstream, 19.000 ms for the client to take the response
time=2026-11-23T12:45:08.121Z level=info msg=\"request\" client=127.0.0.1:5 method=GET path=/b status=200
        0.000 ms  the client ended its sending
";

#[test]
fn a_log_is_drawn_with_what_was_waited_for() {
    let svg = example::draw("proxy.log", TEXT, "/a").expect("it has a timeline");
    let texts: Vec<&str> = svg
        .split("</text>")
        .filter_map(|part| part.rsplit_once('>').map(|(_, text)| text).filter(|text| !text.contains('\n')))
        .collect();
    let expected = [
        "GET /a/&lt;list&gt;: 200",
        "client",
        "proxy",
        "upstream",
        "0.000 ms",
        "84 bytes",
        "0.300 ms for a connection to the upstream",
        "0.300 ms",
        "no connection: refused",
        "19.000 ms for the client to take the response",
        "19.300 ms",
        "over",
    ];
    assert_eq!(texts.iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>(), expected, "{svg}");
}

#[test]
fn json_is_drawn_as_text_is() {
    let (text, below) = TEXT.split_once("/a/<list> status=200\n").expect("it has a request");
    let below: String = below.lines().take(3).map(|line| format!("{line}\\n")).collect();
    assert!(text.starts_with("starting"));
    let json = format!(
        "{{\"msg\":\"request\",\"method\":\"GET\",\"path\":\"/a/<list>\",\"status\":200,\"timeline\":\"{below}\"}}\n"
    );
    assert_eq!(example::draw("proxy.log", &json, ""), example::draw("proxy.log", TEXT, "/a"));
}

#[test]
fn a_log_without_timelines_is_told_so() {
    let error = example::draw("proxy.log", "starting\n", "").expect_err("there is nothing to draw");
    assert!(error.contains("-trace"), "{error}");
    assert!(example::draw("a.wire", "C> \\q", "").expect_err("no such escape").contains("line 1"));
}
