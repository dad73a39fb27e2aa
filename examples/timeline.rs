//! Draws what happened between client, proxy and upstream as an SVG sequence diagram.
//!
//! ```text
//! mini-rproxy -config FILE -trace 2>proxy.log                       # then some requests
//! cargo run --example timeline -- proxy.log >requests.svg
//! cargo run --example timeline -- proxy.log /a/list >list.svg      # only requests whose path begins so
//! cargo run --example timeline -- tests/wire/g3_bodies_chunked.wire >chunked.svg
//! ```
//!
//! Of a log (text or JSON) each request with a timeline is drawn: when something happened, how many bytes it was, and for whom
//! the proxy waited how long. A wire script is run in memory and drawn with the states that both sides were in; its bytes
//! are named by their first line.

use std::fmt::Write as _;
use std::process::ExitCode;

use mini_rproxy::proxy::proxy_connection::{ProxyConnection, Side};

#[path = "../tests/testkit/mod.rs"]
mod testkit;

use testkit::script::{Event, Script, apply, render, render_bytes};
use testkit::wire::{Ending, Split, Wire};

/// Where the lines of the three stand, in pixels from the left, and who they are.
const LANES: [(u32, &str); 3] = [(140, "client"), (400, "proxy"), (660, "upstream")];
const CLIENT: usize = 0;
const PROXY: usize = 1;
const UPSTREAM: usize = 2;
const WIDTH: u32 = 760;
const ROW_HEIGHT: u32 = 24;
/// Of a text between two lanes more is not shown.
const MAX_LABEL: usize = 36;

/// What is drawn below each other.
enum Row {
    /// A request or a script begins.
    Title(String),
    /// When, from which lane to which, and what.
    Arrow(String, usize, usize, String),
    /// Something on one lane.
    Note(String, usize, String),
    /// The proxy waited so long for this lane.
    Wait(usize, String),
    /// The states of the client's and of the upstream's side.
    States(String, String),
}

#[allow(dead_code, reason = "tests/timeline.rs includes this file")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, path) = match &arguments[..] {
        [file] => (file, ""),
        [file, path] => (file, path.as_str()),
        _ => {
            eprintln!("usage: timeline LOG|SCRIPT.wire [PATH]");
            return ExitCode::from(2);
        }
    };
    match std::fs::read_to_string(file).map_err(|error| error.to_string()).and_then(|text| draw(file, &text, path)) {
        Ok(svg) => {
            print!("{svg}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{file}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The picture of a file: a wire script, or a log, of which only requests count whose path begins with `path`.
pub fn draw(file: &str, text: &str, path: &str) -> Result<String, String> {
    let rows = if file.ends_with(".wire") { of_script(text)? } else { of_log(text, path) };
    if rows.is_empty() {
        return Err("there is no timeline in it; the proxy writes them with -trace, or from SIGUSR1 on".to_owned());
    }
    Ok(svg(&rows))
}

/// The rows of each request that is wanted.
fn of_log(text: &str, path: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) {
            let value = |key: &str| entry[key].as_str().map_or(entry[key].to_string(), str::to_owned);
            of_request(path, value, entry["timeline"].as_str().unwrap_or_default().lines(), &mut rows);
        } else if line.contains("msg=\"request\" ") {
            let value = |key: &str| {
                let value = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
                value.unwrap_or_default().to_owned()
            };
            of_request(path, value, std::iter::from_fn(|| lines.next_if(|line| line.starts_with("    "))), &mut rows);
        }
    }
    rows
}

/// The lines of a request's timeline: `0.300 ms  the upstream took 215 bytes; waiting for the upstream's response head`.
fn of_request<'a>(
    path: &str,
    value: impl Fn(&str) -> String,
    timeline: impl Iterator<Item = &'a str>,
    rows: &mut Vec<Row>,
) {
    if !value("path").starts_with(path) {
        return;
    }
    let mut title = Some(Row::Title(format!("{} {}: {}", value("method"), value("path"), value("status"))));
    // Since when, and for what.
    let (mut since, mut awaited) = (0.0, "the client's request head");
    for line in timeline {
        let Some((at, event)) = line.split_once(" ms  ") else { continue };
        let millis: f64 = at.trim().parse().unwrap_or(since);
        rows.extend(title.take());
        if millis > since {
            rows.push(Row::Wait(lane_of(awaited), format!("{:.3} ms for {awaited}", millis - since)));
        }
        let (event, then) = event.split_once("; waiting for ").unwrap_or((event, awaited));
        (since, awaited) = (millis, then);
        let (lane, event) = match event.strip_prefix("the ").and_then(|event| event.split_once(' ')) {
            Some(("client", event)) => (CLIENT, event),
            Some(("upstream", event)) => (UPSTREAM, event),
            _ => (PROXY, event.split(';').next().unwrap_or_default()),
        };
        let at = format!("{} ms", at.trim());
        rows.push(if let Some(what) = event.strip_prefix("sent ") {
            Row::Arrow(at, lane, PROXY, what.to_owned())
        } else if let Some(what) = event.strip_prefix("took ") {
            Row::Arrow(at, PROXY, lane, what.to_owned())
        } else {
            Row::Note(at, lane, event.to_owned())
        });
    }
}

/// Who keeps the proxy waiting.
fn lane_of(awaited: &str) -> usize {
    match awaited.split([' ', '\'']).find(|word| ["client", "upstream"].contains(word)) {
        Some("client") => CLIENT,
        Some(_) => UPSTREAM,
        None => PROXY,
    }
}

/// Runs a script, and makes rows of each event and of what came out.
fn of_script(text: &str) -> Result<Vec<Row>, String> {
    let script = Script::parse(text)?;
    let title = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or("a wire script");
    let mut rows = vec![Row::Title(title.to_owned())];
    let mut wire = Wire::new(&script.setup(Split::Whole, false));
    let mut states = states_of(&wire.exchange);
    for event in script.events() {
        rows.push(of_event(event));
        let mark = wire.transcript.len();
        apply(&mut wire, event)?;
        let lines = render(&wire.transcript[mark..]);
        let is_bytes = |line: &String| line.starts_with("C<") || line.starts_with("U<");
        for group in lines.chunk_by(|one, other| is_bytes(one) && is_bytes(other) && one[..1] == other[..1]) {
            rows.push(match &group[0][..2] {
                "C<" => Row::Arrow(String::new(), PROXY, CLIENT, label(group)),
                "U<" => Row::Arrow(String::new(), PROXY, UPSTREAM, label(group)),
                _ => Row::Note(String::new(), PROXY, group[0].trim_start_matches("X ").to_owned()),
            });
        }
        let now = states_of(&wire.exchange);
        if now != states {
            rows.push(Row::States(now.0.clone(), now.1.clone()));
            states = now;
        }
    }
    Ok(rows)
}

/// The states of both sides; where no request is under way, that of the connection.
fn states_of(connection: &ProxyConnection) -> (String, String) {
    let text = format!("{connection:?}");
    let state = |field: &str| {
        let value = text.split_once(&format!(" {field}: ")).map_or("", |(_, rest)| rest);
        value.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    if text.contains(" request_state: ") {
        (state("request_state"), state("response_state"))
    } else {
        (state("state"), String::new())
    }
}

fn of_event(event: &Event) -> Row {
    let lane = |side: &Side| if *side == Side::Client { CLIENT } else { UPSTREAM };
    let note = |lane, text: &str| Row::Note(String::new(), lane, text.to_owned());
    match event {
        Event::Bytes(side, bytes) => {
            let mut lines = Vec::new();
            render_bytes('?', bytes, &mut lines);
            Row::Arrow(String::new(), lane(side), PROXY, label(&lines))
        }
        Event::Stop(side, Ending::Fin) => Row::Arrow(String::new(), lane(side), PROXY, "FIN".to_owned()),
        Event::Stop(side, Ending::Rst) => Row::Arrow(String::new(), lane(side), PROXY, "RST".to_owned()),
        Event::Unwritable(side) => note(lane(side), "takes no more: a write fails"),
        Event::Drained(side) => note(lane(side), "has taken some"),
        Event::Takes(side, Some(0)) => note(lane(side), "takes nothing"),
        Event::Takes(side, Some(count)) => note(lane(side), &format!("takes {count} bytes")),
        Event::Takes(side, None) => note(lane(side), "takes everything"),
        Event::Connect(how) => note(UPSTREAM, &format!("connecting: {how:?}").to_lowercase()),
        Event::Advance(by) => note(PROXY, &format!("{by:?} pass")),
        Event::Drain => note(PROXY, "is asked to stop"),
        Event::Resume(_) => note(PROXY, "a plugin goes on"),
        Event::Wake => note(PROXY, "is woken"),
    }
}

/// The first of some lines of a script, and how many more there are.
fn label(lines: &[String]) -> String {
    let text =
        |line: &String| line.split_once(['<', '*']).map_or("", |(_, text)| text).trim_matches([' ', '\\']).to_owned();
    let more = lines.iter().skip(1).filter(|line| !text(line).is_empty()).count();
    let more = if more > 0 { format!(" +{more} lines").replace("+1 lines", "+1 line") } else { String::new() };
    shortened(&text(&lines[0]), MAX_LABEL - more.len()) + &more
}

fn shortened(text: &str, len: usize) -> String {
    if text.chars().count() <= len { text.to_owned() } else { text.chars().take(len - 1).chain(['…']).collect() }
}

/// Draws the rows below each other.
fn svg(rows: &[Row]) -> String {
    let mut body = String::new();
    let mut y = 10;
    for row in rows {
        y += ROW_HEIGHT;
        match row {
            Row::Title(title) => {
                y += ROW_HEIGHT / 2;
                text(&mut body, 8, y, "start", "bold", title);
                y += ROW_HEIGHT;
                for (x, name) in LANES {
                    text(&mut body, x, y, "middle", "bold", name);
                }
            }
            Row::Arrow(at, from, to, what) => {
                y += ROW_HEIGHT / 3;
                let (from, to) = (LANES[*from].0, LANES[*to].0);
                let end = if to > from { to - 5 } else { to + 5 };
                text(&mut body, 8, y, "start", "small", at);
                line(&mut body, from, y, end, y, "stroke=\"#1f4e8c\" marker-end=\"url(#arrow)\"");
                text(&mut body, u32::midpoint(from, to), y - 4, "middle", "", &shortened(what, MAX_LABEL));
            }
            Row::Note(at, lane, what) => {
                text(&mut body, 8, y, "start", "small", at);
                text(&mut body, LANES[*lane].0, y, "middle", "note", what);
            }
            Row::Wait(lane, what) => {
                let (x, anchor) = (LANES[*lane].0, if *lane == CLIENT { "start" } else { "end" });
                let end = y + ROW_HEIGHT / 2;
                line(&mut body, x, y - ROW_HEIGHT / 2, x, end, "stroke=\"#d9a0a0\" stroke-width=\"7\"");
                text(&mut body, if *lane == CLIENT { x + 10 } else { x - 10 }, y + 4, anchor, "wait", what);
                y = end;
            }
            Row::States(client, upstream) => {
                text(&mut body, LANES[PROXY].0 - 8, y, "end", "state", client);
                text(&mut body, LANES[PROXY].0 + 8, y, "start", "state", upstream);
            }
        }
    }
    let height = y + ROW_HEIGHT;
    let mut lanes = String::new();
    for (x, _) in LANES {
        line(&mut lanes, x, 10, x, height - 10, "stroke=\"#cccccc\"");
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>text {{ font: 12px sans-serif; fill: #222; paint-order: stroke; stroke: #fff; stroke-width: 4px }} \
         .bold {{ font-weight: bold }} .small {{ fill: #777; font-size: 11px }} .note {{ fill: #7a4a00 }} \
         .wait {{ fill: #a02020; font-style: italic }} .state {{ fill: #226622; font-family: monospace }}</style>\n\
         <defs><marker id=\"arrow\" markerWidth=\"8\" markerHeight=\"8\" refX=\"6\" refY=\"4\" orient=\"auto\">\
         <path d=\"M0,0 L8,4 L0,8 z\" fill=\"#1f4e8c\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{lanes}{body}</svg>\n"
    )
}

fn line(out: &mut String, x1: u32, y1: u32, x2: u32, y2: u32, style: &str) {
    writeln!(out, "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" {style}/>")
        .expect("a string takes everything");
}

/// Nothing for an empty text.
fn text(out: &mut String, x: u32, y: u32, anchor: &str, class: &str, text: &str) {
    if !text.is_empty() {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>")
            .expect("a string takes everything");
    }
}
