//! A short cut for files with very many routes.
//!
//! The YAML library takes a third of a second for 100,000 routes, and 90 MB while it does. Files of that size are written
//! by programs, each route in the same two lines:
//!
//! ```yaml
//! routes:
//!   - prefix: /tenant-1
//!     upstream: http://127.0.0.1:9001
//! ```
//!
//! A list of nothing but such routes is read here in 0.05 s, and the library gets the file with one stand-in in their
//! place. Whatever else is found, right or wrong, ends the attempt, and the library reads everything: mistakes are
//! explained in one place only.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::UpstreamUrl;
use super::read::Entry as _;
use super::sections::{Route, RouteKeys, Routes};
use super::values::{Prefix, Upstream};

/// Smaller files gain nothing.
const WORTHWHILE: usize = 64 * 1024;

/// The route that stands in for those that were read.
const STAND_IN: &str = "/stand-in-for-routes-that-were-read-already";

/// A large file without its routes, and its routes. `None` where the short cut does not lead through.
pub(super) fn take_routes(text: &str) -> Option<(String, Routes)> {
    if text.len() < WORTHWHILE { None } else { split(text) }
}

/// Whether the library found the stand-in, and where it belongs. It would not if, say, the list was part of a longer text.
pub(super) fn is_stand_in(routes: &Routes) -> bool {
    matches!(&routes.routes[..], [Route { prefix, .. }] if prefix == STAND_IN)
}

fn split(text: &str) -> Option<(String, Routes)> {
    const KEY: &str = "routes:\n";
    let key = if text.starts_with(KEY) { 0 } else { text.find("\nroutes:\n")? + 1 };
    let (mut all, mut seen) = (Routes::default(), HashSet::new());
    let mut upstreams: HashMap<&str, Arc<UpstreamUrl>> = HashMap::new();
    let mut rest = &text[key + KEY.len()..];
    let indent = rest.len() - rest.trim_start_matches(' ').len();
    while let Some((prefix, upstream, after)) = plain_route(rest, indent) {
        // Without "%" the slash at the end is all in which two spellings of one prefix can differ.
        if !seen.insert(prefix.trim_end_matches('/')) {
            return None;
        }
        let Prefix(prefix) = Prefix::from_text(prefix).ok()?;
        let upstream = match upstreams.get(upstream) {
            Some(known) => Arc::clone(known),
            None => {
                let Upstream(url) = Upstream::from_text(upstream).ok()?;
                Arc::clone(upstreams.entry(upstream).or_insert(Arc::new(url)))
            }
        };
        all.routes.push(Route { prefix, upstream, others: None, options: 0 });
        rest = after;
    }
    // A line that is indented would go on with the last value.
    let next = rest.trim_start_matches('\n').bytes().next();
    if all.routes.is_empty() || next.is_some_and(|byte| !byte.is_ascii_alphabetic() && byte != b'#') {
        return None;
    }
    all.options.push(RouteKeys::default());
    let before = &text[..key];
    Some((format!("{before}routes: [{{prefix: {STAND_IN}, upstream: \"http://stand.in\"}}]\n{rest}"), all))
}

/// The next route of the list, if it is a plain one, and what follows.
fn plain_route(text: &str, indent: usize) -> Option<(&str, &str, &str)> {
    let (prefix, text) = plain_value(text, indent, "- prefix: /")?;
    let (upstream, text) = plain_value(text, indent, "  upstream: http")?;
    Some((prefix, upstream, text))
}

/// The value of a line that begins with `indent` spaces and `start`, the last word of which belongs to the value; and what
/// follows. Only values that mean themselves, whatever follows.
fn plain_value<'a>(text: &'a str, indent: usize, start: &str) -> Option<(&'a str, &'a str)> {
    let (line, after) = text.split_once('\n')?;
    let word = start.rfind(' ')? + 1;
    let (spaces, line) = line.split_at_checked(indent)?;
    let value = line.get(word..).filter(|_| line.starts_with(start) && spaces.bytes().all(|byte| byte == b' '))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~:-".contains(&byte);
    (value.bytes().all(is_plain) && !value.ends_with(':')).then_some((value, after))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn routes(count: usize) -> String {
        (0..count).map(|n| format!("  - prefix: /r{n}\n    upstream: http://127.0.0.1:{}/x\n", 9000 + n % 3)).collect()
    }

    /// What the short cut makes of `text`, if it leads through.
    fn by_short_cut(text: &str) -> Option<Routes> {
        split(text).map(|(_, routes)| routes)
    }

    #[test]
    fn plain_routes_are_those_that_the_library_reads() {
        let list = routes(1500);
        for (name, text) in [
            ("alone", format!("routes:\n{list}")),
            ("between other keys", format!("workers: 1\nroutes:\n{list}pool: {{max_idle: 3}}\n")),
            ("before an empty line and a comment", format!("routes:\n{list}\n# that is all\nworkers: 3\n")),
            ("not indented", format!("routes:\n{}", list.replace("\n  ", "\n").trim_start())),
        ] {
            let (rest, _) = split(&text).unwrap_or_else(|| panic!("{name}: no short cut"));
            assert!(rest.len() < 300, "{name}: {rest}");
            let quick = Config::parse(&text, "quick").unwrap_or_else(|error| panic!("{name}: {error}"));
            // Another spelling of the same, which the short cut does not take.
            let text = text.replace("/r0\n", "\"/r0\"\n");
            assert!(by_short_cut(&text).is_none(), "{name}");
            let slow = Config::parse(&text, "slow").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(quick == slow, "{name}");
        }
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_the_library() {
        for (name, end) in [
            ("another key", "  - prefix: /x\n    upstream: http://a\n    host: client\n"),
            ("another order", "  - upstream: http://a\n    prefix: /x\n"),
            ("a value that goes on", "  - prefix: /x\n    upstream: http://a\n      b\n"),
            ("a value that goes on after an empty line", "  - prefix: /x\n    upstream: http://a\n\n      b\n"),
            ("another indentation", "   - prefix: /x\n     upstream: http://a\n"),
            ("a comment", "  - prefix: /x # the last one\n    upstream: http://a\n"),
            ("a colon at the end", "  - prefix: /x:\n    upstream: http://a\n"),
            ("no line end", "  - prefix: /x\n    upstream: http://a"),
            ("the same twice", "  - prefix: /r1\n    upstream: http://a\n"),
            ("the same with a slash", "  - prefix: /r1/\n    upstream: http://a\n"),
            ("the same in another spelling", "  - prefix: /%721\n    upstream: http://a\n"),
            ("a bad prefix", "  - prefix: /x/../y\n    upstream: http://a\n"),
            ("a bad URL", "  - prefix: /x\n    upstream: http://a:99999\n"),
            ("a tab", "\tpool: {max_idle: 3}\n"),
            ("the end of a document", "...\n"),
        ] {
            let text = format!("routes:\n{}{end}", routes(3));
            assert!(by_short_cut(&text).is_none(), "{name}");
        }
        for text in ["routes:\n", "routes: []\n", "", "  routes:\n  - prefix: /\n    upstream: http://a\n"] {
            assert!(by_short_cut(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn mistakes_beside_plain_routes_are_told_at_their_own_place() {
        let list = routes(2000);
        for (text, expected) in [
            (format!("routes:\n{list}worker: 1\n"), "x:4002:1: unknown key \"worker\"; did you mean \"workers\"?"),
            (format!("a: \"\nroutes:\n{list}\"\nworkers: 1\n"), "x:1:1: unknown key \"a\""),
            (format!("routes:\n{list}routes:\n{list}"), "x:4002:1: the key \"routes\" stands twice"),
            (
                format!("routes:\n{list}  - prefix: /r7\n    upstream: http://a\n"),
                "x:4002:5: the prefix \"/r7\" has a route already: route number 8",
            ),
        ] {
            let error = Config::parse(&text, "x").expect_err("a mistake").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
