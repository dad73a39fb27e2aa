//! The two pages: which parts of the documentation are in them, in the order of man-pages(7).

use std::time::{Duration, UNIX_EPOCH};

use mini_rproxy::about::VERSION;
use mini_rproxy::cli::FLAGS;

use crate::roff::{from_markdown, literal, tagged, title};

const README: &str = include_str!("../../../README.md");
const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// mini-rproxy(1): the command.
pub fn command() -> String {
    let options: String = FLAGS
        .iter()
        .map(|(name, value, what)| {
            let value = if value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", literal(value)) };
            tagged(&format!("\\fB\\-{name}\\fR{value}"), &flags_marked(what))
        })
        .collect();
    [
        title(1, &date(), VERSION),
        from_markdown("## NAME\nmini-rproxy - a small HTTP/1.1 reverse proxy\n\n## SYNOPSIS\n"),
        from_markdown(&format!("## DESCRIPTION\n{}\n", paragraph(README, "A request comes in"))),
        from_markdown("## OPTIONS\n"),
        options,
        from_markdown(&format!("## EXIT STATUS\n{}\n", paragraph(README, "The exit code is"))),
        from_markdown(&format!("## SIGNALS\n{}\n", section(OPERATING, "Life cycle"))),
        from_markdown(&format!("## EXAMPLES\n{}\n", section(README, "A first configuration"))),
    ]
    .concat()
}

/// mini-rproxy(5): the configuration.
pub fn configuration() -> String {
    let (_, text) = CONFIGURATION.split_once('\n').expect("a heading, then the page");
    [
        title(5, &date(), VERSION),
        from_markdown("## NAME\nmini-rproxy - the configuration of mini-rproxy\n\n## DESCRIPTION\n"),
        from_markdown(text).trim_start_matches(".PP\n").to_owned(),
    ]
    .concat()
}

/// The day of SOURCE_DATE_EPOCH, else none: the same sources make the same page.
fn date() -> String {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_default();
    if seconds.is_empty() {
        return String::new();
    }
    // 32 bits are enough until 2106.
    let Ok(number) = seconds.parse::<u32>() else {
        eprintln!(
            "mini-rproxy-man: SOURCE_DATE_EPOCH={seconds} is no number of seconds since 1970: unset it, or set it to what \
             git log -1 --format=%ct prints"
        );
        std::process::exit(2);
    };
    humantime::format_rfc3339(UNIX_EPOCH + Duration::from_secs(number.into())).to_string()[..10].to_owned()
}

/// A section of a page, without its heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let heading = format!("\n## {heading}\n");
    let (_, text) = page.split_once(&heading).unwrap_or_else(|| panic!("there is no section {heading:?}"));
    text.split("\n## ").next().unwrap_or(text)
}

/// The paragraph that begins so.
fn paragraph<'a>(page: &'a str, begin: &str) -> &'a str {
    page.split("\n\n")
        .find(|text| text.starts_with(begin))
        .unwrap_or_else(|| panic!("no paragraph begins with {begin:?}"))
}

/// What the help says, with its flags as what is typed.
fn flags_marked(what: &str) -> String {
    let marked = |word: &str| {
        let flag = word.trim_end_matches([':', ',', ';', '.', ')']);
        if flag.starts_with('-') { format!("`{flag}`{}", &word[flag.len()..]) } else { word.to_owned() }
    };
    what.split_whitespace().map(marked).collect::<Vec<_>>().join(" ")
}
