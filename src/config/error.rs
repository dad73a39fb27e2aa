//! What is wrong with a configuration, as one sentence with its place.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Line and column, from 1.
pub(super) type Place = (usize, usize);

/// A sentence about a file, with the place where there is one.
pub(super) fn located(file: &str, place: Option<Place>, message: impl fmt::Display) -> String {
    match place {
        Some((line, column)) => format!("{file}:{line}:{column}: {message}"),
        None => format!("{file}: {message}"),
    }
}

/// The place of the character at byte `at` of `text`.
pub(super) fn place_of_byte(text: &[u8], at: usize) -> Option<Place> {
    let before = String::from_utf8_lossy(text.get(..at)?);
    let last = before.rsplit('\n').next()?;
    Some((before.matches('\n').count() + 1, last.chars().count() + 1))
}

/// The place of the value at `path`, for example `routes.3.upstream`; of none where there is no path.
pub(super) fn place_of_value(text: &str, path: &str) -> Option<Place> {
    if path.is_empty() {
        return None;
    }
    Locate(path).deserialize(serde_yaml::Deserializer::from_str(text)).err().and_then(|error| place_of_error(&error))
}

fn place_of_error(error: &serde_yaml::Error) -> Option<Place> {
    error.location().map(|place| (place.line(), place.column()))
}

/// What the YAML library said about `text`.
pub(super) fn from_yaml(file: &str, text: &str, error: serde_yaml::Error) -> String {
    // Broken syntax explains more than what was understood up to there.
    if let Err(error) = serde_yaml::from_str::<IgnoredAny>(text) {
        let said = error.to_string();
        if let Some(rest) = said.strip_prefix("control characters are not allowed") {
            let at = rest.rsplit(' ').next().and_then(|at| at.parse().ok()).unwrap_or_default();
            let place = place_of_byte(text.as_bytes(), at);
            return located(file, place, "a control character, which YAML does not allow: remove it");
        }
        // "<problem> at line 3 column 1, while parsing ... at line 2 column 1"
        let problem = said.split(" at line ").next().and_then(|said| said.split(" at position ").next());
        let problem = problem.unwrap_or(&said);
        let not_yaml = format!(
            "not YAML: {problem}; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a \
             value that begins with a special character or holds \": \" needs quotes"
        );
        return located(file, place_of_error(&error), in_our_words("", problem).unwrap_or(not_yaml));
    }
    let place = place_of_error(&error);
    let said = error.to_string();
    let suffix = place.map(|(line, column)| format!(" at line {line} column {column}")).unwrap_or_default();
    let said = said.strip_suffix(&suffix).unwrap_or(&said);
    // "routes[0].upstream: ..."
    let is_path = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._[]?".contains(&b));
    let (path, said) = said.split_once(": ").filter(|(path, _)| is_path(path)).unwrap_or(("", said));
    let twice = said.strip_prefix("duplicate field ").or_else(|| said.strip_prefix("duplicate entry with key "));
    if let Some(key) = twice.map(|key| key.trim_matches(['`', '"'])) {
        let place = place.and_then(|mapping| place_of_second(text, mapping, key)).or(place);
        let message = format!("the key {} stands twice in this mapping: remove one", cut(&format!("\"{key}\"")));
        return located(file, place, message);
    }
    located(file, place, in_our_words(path, said).unwrap_or_else(|| said.to_owned()))
}

/// Where a key stands for the second time in a mapping of lines that begins at this line and column.
fn place_of_second(text: &str, (line, column): Place, key: &str) -> Option<Place> {
    let mut lines = text.lines().enumerate().skip(line - 1).filter(|(_, line)| {
        let rest = line.get(column - 1..).and_then(|line| line.strip_prefix(key));
        rest.is_some_and(|rest| rest.trim_start().starts_with(':'))
    });
    lines.nth(1).map(|(number, _)| (number + 1, column))
}

/// What derived code and the library refuse, without a secret, and with a remedy.
fn in_our_words(path: &str, said: &str) -> Option<String> {
    if let Some((_, message)) = PLAIN_WORDS.iter().find(|(theirs, _)| said.ends_with(theirs)) {
        return Some((*message).to_owned());
    }
    if let Some(key) = said.strip_prefix("missing field `") {
        return Some(format!("the key {} is missing in this mapping: add it", quoted(key.strip_suffix('`')?)));
    }
    let (found, expected) = said.rsplit_once(", expected ")?;
    if let Some(key) = found.strip_prefix("unknown field `") {
        let (key, known) = (key.strip_suffix('`')?, expected.split('`').skip(1).step_by(2).collect::<Vec<_>>());
        return Some(match did_you_mean(key, &known) {
            Some(meant) => format!("unknown key {}; did you mean {meant:?}?", quoted(key)),
            None => format!("unknown key {}; the keys known here are {}", quoted(key), known.join(", ")),
        });
    }
    if let Some(word) = found.strip_prefix("unknown variant `") {
        return Some(format!("expected {}, found {}", expected.replace('`', ""), quoted(word.strip_suffix('`')?)));
    }
    let found = found.strip_prefix("invalid type: ").or_else(|| found.strip_prefix("invalid value: "))?;
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    let expected = match expected {
        "a boolean" if matches!(value, "\"true\"" | "\"false\"") => "true or false without quotes",
        "a boolean" => "true or false",
        "a sequence" if path == "routes" => {
            "a list of routes, each \"- prefix: /api\" with its \"upstream:\" in the line below"
        }
        "a sequence" => "a list",
        "a map" => "a mapping",
        _ => expected,
    };
    let found = match kind {
        "string" => cut(value),
        "integer" | "floating" => format!("the number {}", value.split('`').nth(1).unwrap_or(value)),
        "boolean" => value.replace('`', ""),
        "sequence" if expected.starts_with("one upstream URL") => {
            "a list: several are written as \"upstreams:\"".to_owned()
        }
        "sequence" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        "unit" => "nothing".to_owned(),
        "enum" => "a YAML tag: remove the word that begins with \"!\", or put the value in quotes".to_owned(),
        _ => cut(found),
    };
    Some(format!("expected {expected}, found {found}"))
}

/// The words of the libraries, which are for programmers, and ours.
const PLAIN_WORDS: [(&str, &str); 6] = [
    ("more than one document is not supported", "a file is one YAML document: remove the line \"---\" inside it"),
    ("recursion limit exceeded", "lists and mappings are nested too deeply: at most 128 levels"),
    ("repetition limit exceeded", "aliases (*name) repeat too much of the file: write it out instead"),
    ("unknown anchor", "an alias (*name) needs its anchor (&name) further up; a value that begins with * needs quotes"),
    ("expected field identifier", A_KEY),
    ("key must be a string", A_KEY),
];
const A_KEY: &str = "a key is one word, not a list or a mapping; a value that begins with [ or { needs quotes";

/// Goes to a value, for example `routes.3.upstream`, and ends with an error there: the library tells places only so. What is
/// no list and no mapping is refused as soon as it is met.
struct Locate<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value further inside")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let (index, rest) = self.0.split_once('.').unwrap_or((self.0, ""));
        for _ in 0..index.parse().map_err(|_| A::Error::custom("here"))? {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Locate(rest)).map(drop)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<(), A::Error> {
        let (key, rest) = self.0.split_once('.').unwrap_or((self.0, ""));
        while let Some(found) = mapping.next_key::<String>()? {
            if found == key {
                return mapping.next_value_seed(Locate(rest));
            }
            mapping.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("here"))
    }
}

/// Something that the file said, to be shown in a message: escaped, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    cut(&format!("{text:?}"))
}

/// The same for what is in quotes already. A password of a URL that stands where none is expected is not shown.
fn cut(quoted: &str) -> String {
    let shown = match (quoted.find("://"), quoted.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://...{}", &quoted[..scheme], &quoted[at..]),
        _ => quoted.to_owned(),
    };
    match shown.char_indices().nth(62) {
        Some((end, _)) => format!("{}\"...", &shown[..end]),
        None => shown,
    }
}

/// Keys and flags of nginx, HAProxy and others, and ours.
const OTHER_NAMES: &str = "proxy_pass=upstream backend=upstream server=upstream path=prefix location=prefix uri=prefix \
    server_name=hosts domain=hosts return=redirect rewrite=strip_prefix websocket=upgrade proxy_set_header=request_headers \
    headers=request_headers add_header=response_headers http=routes server=routes location=routes backend=routes \
    frontend=routes path=routes port=listen_addr ssl=tls https=tls ssl_certificate=certificate ssl_certificate_key=key \
    t=check c=config f=config T=print-config V=version v=version";

/// The one of `known` that was most likely meant by `word`, if any is near.
pub fn did_you_mean<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let is_other_name = |ours: &&str| OTHER_NAMES.split(' ').any(|pair| pair.split_once('=') == Some((word, ours)));
    if let Some(ours) = known.iter().copied().find(is_other_name) {
        return Some(ours);
    }
    let word = word.to_ascii_lowercase();
    let likeness = |known: &str| strsim::jaro_winkler(&word, known);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.85).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_suggested() {
        let known =
            ["upstream", "prefix", "host", "listen_addr", "max_first", "max_second", "certificates", "certificate"];
        for (word, expected) in [
            ("upstram", Some("upstream")),
            ("Upstream", Some("upstream")),
            ("perfix", Some("prefix")),
            ("hots", Some("host")),
            ("listen", Some("listen_addr")),
            ("Listen", Some("listen_addr")),
            ("lis", None),
            ("max_", Some("max_first")),
            ("cert", Some("certificate")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(word, &known), expected, "{word}");
        }
    }

    #[test]
    fn places_count_characters_from_one() {
        let text = "a: 1\nb\u{e9}: \u{7}\n".as_bytes();
        assert_eq!(place_of_byte(text, text.len() - 2), Some((2, 5)));
    }
}
