//! The two pages: which parts of the documentation are in them, in the order of man-pages(7).

use std::time::{Duration, UNIX_EPOCH};

use mini_rproxy::about::VERSION;
use mini_rproxy::cli::FLAGS;

use crate::roff::{from_markdown, lines, literal, section, tagged, title};

const README: &str = include_str!("../../../README.md");
const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The ways to call the command. A test compares them with the table of flags.
const SYNOPSIS: [&str; 6] = [
    "[-config PATH] [-verbose] [-trace] [-plugindir DIR] [-memory-budget SIZE] [-takeover]",
    "-route PREFIX=UPSTREAM ... [-listen ADDRESS ...]",
    "-check [-config PATH] [-against URL]",
    "-explain 'GET /path' [-H 'Name: value' ...] [-config PATH]",
    "-healthcheck | -print-config [-config PATH]",
    "-version | -help",
];

const DESCRIPTION: &str = "\
The routes stand in one YAML file, which **mini-rproxy**(5) describes, or on the command line. The log goes to standard output.";

/// What an installation has, of which the documentation does not speak.
const FILES: &str = "\
| file | |
|---|---|
| `config.yaml` | in the current directory: the configuration, where `-config` names no other; see **mini-rproxy**(5) |
| `/etc/mini-rproxy/config.yaml` | the configuration of the systemd service |
| `config.example.yml` | every key with its default and its reason; in `/usr/local/share/doc/mini-rproxy`, \
    or below the prefix that was chosen for the installation |
";

/// mini-rproxy(1): the command.
pub fn command() -> String {
    let signals = format!("{}\n{}", part(OPERATING, "Signals"), part(OPERATING, "Life cycle"));
    [
        title(1, &date(), VERSION),
        section("NAME", ""),
        "mini\\-rproxy \\- a small HTTP/1.1 reverse proxy\n".to_owned(),
        section("SYNOPSIS", ""),
        SYNOPSIS.map(call).concat(),
        section("DESCRIPTION", &[paragraph(README, "A request comes in"), DESCRIPTION].join("\n\n")),
        section("OPTIONS", &[paragraph(README, "`-flag value`"), paragraph(README, "`-route` and")].join("\n\n")),
        FLAGS.map(|(name, value, what)| option(name, value, what)).concat(),
        section("EXIT STATUS", paragraph(README, "The exit code is")),
        section("SIGNALS", &signals),
        section("ENVIRONMENT", part(OPERATING, "Environment")),
        section("FILES", FILES),
        section("EXAMPLES", &format!("A `config.yaml`, and what to do with it:\n{}", first_configuration())),
        from_markdown(&recipes("sh")),
        section("SEE ALSO", "**mini-rproxy**(5), **systemd.socket**(5)\n"),
    ]
    .concat()
}

/// mini-rproxy(5): the configuration.
pub fn configuration() -> String {
    let (_, text) = CONFIGURATION.split_once('\n').expect("a heading, then the page");
    // What can only be done in the sources is not for this page.
    let (text, _) = text.split_once("\n### Tried with").expect("the section about two applications comes last");
    let blocks: Vec<&str> = text.split("\n\n").filter(|block| !block.contains("`cargo test")).collect();
    [
        title(5, &date(), VERSION),
        section("NAME", ""),
        "mini\\-rproxy \\- the configuration of the reverse proxy mini\\-rproxy\n".to_owned(),
        section("SYNOPSIS", "`mini-rproxy -config config.yaml`\n"),
        section("DESCRIPTION", &blocks.join("\n\n")),
        section("EXAMPLES", &recipes("yaml")),
        section("SEE ALSO", "**mini-rproxy**(1)\n"),
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

/// What stands below a heading of a page.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, text) = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section of the documentation is called {heading:?}"));
    text.split("\n## ").next().unwrap_or(text)
}

/// README's example. Where it names the documentation, which is not installed, the other page stands.
fn first_configuration() -> String {
    let (text, link) = (part(README, "A first configuration"), "[docs/configuration.md](docs/configuration.md)");
    assert!(text.contains(link), "README names the page about the configuration in another way");
    text.replace(link, "**mini-rproxy**(5)")
}

/// The paragraph that begins so.
fn paragraph<'a>(page: &'a str, begin: &str) -> &'a str {
    let found = page.split("\n\n").find(|block| block.starts_with(begin));
    found.unwrap_or_else(|| panic!("no paragraph of the documentation begins with {begin:?}"))
}

/// README's recipes in one language: each is a paragraph that ends with a colon, and a block of code.
fn recipes(language: &str) -> String {
    let blocks: Vec<&str> = part(README, "Recipes").split("\n\n").collect();
    let pairs = blocks.windows(2).filter(|pair| pair[1].starts_with(&format!("```{language}\n")));
    pairs.map(|pair| format!("{}\n\n{}\n\n", without_more(pair[0]), pair[1])).collect()
}

/// "An upstream with a private certificate ([more](docs/...)):" without its parenthesis.
fn without_more(text: &str) -> String {
    let Some((before, rest)) = text.split_once(" ([") else { return text.to_owned() };
    let (_, after) = rest.split_once("))").expect("a link ends, and its parenthesis");
    format!("{before}{after}")
}

/// A row of the table of flags.
fn option(name: &str, value: &str, what: &str) -> String {
    let value = if value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", literal(value)) };
    let word = |word: &str| flag_in(word).map_or(word.to_owned(), |flag| word.replace(flag, &format!("`{flag}`")));
    let words: Vec<String> = what.split_whitespace().map(word).collect();
    tagged(&format!("\\fB\\-{name}\\fR{value}"), &words.join(" "))
}

/// A line of the synopsis.
fn call(flags: &str) -> String {
    let word = |word: &str| match flag_in(word).map(literal) {
        Some(flag) => literal(word).replace(&flag, &format!("\\fB{flag}\\fR")),
        None => literal(word),
    };
    let words: Vec<String> = flags.split(' ').map(word).collect();
    // Dots that are no end of a sentence.
    format!(".SY mini\\-rproxy\n{}.YS\n", lines(&words.join(" ").replace("...", "...\\&")))
}

/// The flag in a word of a sentence, without what stands around it.
fn flag_in(word: &str) -> Option<&str> {
    let flag = word.trim_matches(['[', ']', '(', ')', ':', ',', ';', '.']);
    (flag.len() > 1 && flag.starts_with('-')).then_some(flag)
}
