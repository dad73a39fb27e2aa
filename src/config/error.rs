//! What is wrong with a configuration, as one sentence for the person who wrote it.
//!
//! The words of serde and of the YAML library are for programmers: they are translated here.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Stands before the text of our own messages, so that [`from_yaml`] can tell it from the path that the YAML
/// library puts before it. No text of ours holds it: [`quoted`] escapes what the file said.
const OWN_MESSAGE: char = '\u{1}';

/// A key that is none.
pub(super) const KEY: &str = "a key is one word, not a list or a mapping; a value that begins with [ or { needs quotes";

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
    // Broken syntax explains more than what was understood up to there, so it is told first.
    let error = serde_yaml::from_str::<IgnoredAny>(text).err().unwrap_or(error);
    let whole = error.to_string();
    if let Some(rest) = whole.strip_prefix("control characters are not allowed") {
        let at = rest.rsplit(' ').next().and_then(|at| at.parse().ok()).unwrap_or_default();
        let place = place_of_byte(text.as_bytes(), at);
        return located(file, place, "a control character, which YAML does not allow: remove it");
    }
    let mut place = place_of_error(&error);
    // The place is at the end, but where that is the very first character.
    let suffix = place.map(|(line, column)| format!(" at line {line} column {column}")).unwrap_or_default();
    let said = whole.strip_suffix(&suffix).unwrap_or(&whole);
    if let (Some(key), Some(mapping)) = (said.split("duplicate field `").nth(1), place) {
        place = second(text, mapping, key.trim_end_matches('`')).or(place);
    }
    let message = match said.split_once(OWN_MESSAGE) {
        Some((_path, own)) => own.to_owned(),
        None => message_of_serde(said).unwrap_or_else(|| foreign_message(&whole, text, place)),
    };
    located(file, place, message)
}

/// Goes to a value, for example `routes.3.upstream`, and ends with an error there: the library tells places only so. What is
/// no list and no mapping is refused without more ado.
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

/// Where a key stands for the second time, in a mapping of lines that begins at this line and column.
fn second(text: &str, (line, column): Place, key: &str) -> Option<Place> {
    let is_key = |line: &str| line.get(column - 1..)?.strip_prefix(key)?.trim_start().strip_prefix(':').map(|_| ());
    let mut lines = text.lines().enumerate().skip(line - 1).filter(|(_, line)| is_key(line).is_some());
    lines.nth(1).map(|(number, _)| (number + 1, column))
}

/// What derived code refuses.
fn message_of_serde(said: &str) -> Option<String> {
    let is_path = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._[]?".contains(&b));
    let (path, said) = said.split_once(": ").filter(|(path, _)| is_path(path)).unwrap_or(("", said));
    let name = |start: &str| said.strip_prefix(start)?.split('`').next().map(quoted);
    if let Some(key) = name("duplicate field `") {
        return Some(format!("the key {key} stands twice in this mapping: remove one"));
    }
    if let Some(key) = name("missing field `") {
        return Some(format!("the key {key} is missing in this mapping: add it"));
    }
    if let Some(key) = said.strip_prefix("duplicate entry with key ") {
        return Some(format!("the key {} stands twice in this mapping: remove one", cut(key)));
    }
    let (start, expected) = said.rsplit_once(", expected ")?;
    let known = || expected.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    if let Some(key) = start.strip_prefix("unknown field `") {
        let (key, known) = (key.strip_suffix('`')?, known());
        return Some(match did_you_mean(key, &known) {
            Some(meant) => format!("unknown key {}; did you mean {meant:?}?", quoted(key)),
            None => format!("unknown key {}; the keys known here are {}", quoted(key), known.join(", ")),
        });
    }
    if let Some(word) = start.strip_prefix("unknown variant `") {
        return Some(format!("expected {}, found {}", known().join(" or "), quoted(word.strip_suffix('`')?)));
    }
    let found = start.strip_prefix("invalid type: ").or_else(|| start.strip_prefix("invalid value: "))?;
    let expected = match expected {
        "a string" | "field identifier" => return Some(KEY.to_owned()),
        "a boolean" if found.contains("\"true\"") || found.contains("\"false\"") => "true or false without quotes",
        "a boolean" => "true or false",
        "a sequence" if path == "routes" => {
            "a list of routes, each \"- prefix: /api\" with its \"upstream:\" in the line below"
        }
        "a sequence" => "a list, such as [one, two]",
        _ if found == "sequence" && expected.starts_with("an upstream URL") => {
            return Some("expected one upstream URL, found a list: several are written as \"upstreams:\"".to_owned());
        }
        _ => expected,
    };
    let found = match found.split_once(' ').unwrap_or((found, "")) {
        ("string", text) => cut(text),
        ("boolean", text) => text.trim_matches('`').to_owned(),
        ("integer" | "floating", text) => format!("the number {}", text.split('`').nth(1).unwrap_or(text)),
        ("sequence", _) => "a list".to_owned(),
        ("map", _) => "a mapping".to_owned(),
        ("unit", _) => "nothing".to_owned(),
        ("enum", _) => "a YAML tag: remove the word that begins with \"!\", or put the value in quotes".to_owned(),
        _ => found.to_owned(),
    };
    Some(format!("expected {expected}, found {found}"))
}

/// Makes a serde error of one of our sentences.
pub(super) fn refuse<E: serde::de::Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{OWN_MESSAGE}{message}"))
}

/// The library's own errors: syntax, and things of YAML that no reader of ours sees.
fn foreign_message(said: &str, text: &str, place: Option<Place>) -> String {
    let is = |words: &str| said.contains(words);
    for (words, message) in [
        ("more than one document", "one file holds one YAML document: remove the line \"---\" between them"),
        ("recursion limit", "lists and mappings are nested too deeply: at most 128 levels"),
        ("repetition limit", "aliases (*name) repeat too much of the file: write it out instead"),
        (
            "unknown anchor",
            "an alias (*name) needs its anchor (&name) further up; a value that begins with * needs quotes",
        ),
    ] {
        if is(words) {
            return message.to_owned();
        }
    }
    let line = place.and_then(|(line, _)| text.lines().nth(line - 1)).unwrap_or_default();
    let hint = if line[..line.len() - line.trim_start().len()].contains('\t') {
        "indent with spaces, not with tabs"
    } else if is("mapping values are not allowed") {
        "is a space too many before the key, one missing behind the \":\" above, or does a value that holds \": \" need quotes?"
    } else if line.contains("[") && line.contains("]:") {
        "an address that begins with [ needs quotes"
    } else if is("cannot start any token") {
        "a value that begins with a special character needs quotes"
    } else {
        "check indentation, colons and quotes here and on the lines above"
    };
    // "<problem> at line 3 column 1, while parsing ... at line 2 column 1": the place is told already.
    let problem = said.split(" at line ").next().and_then(|problem| problem.split(" at position ").next());
    format!("not YAML: {}; {hint}", problem.unwrap_or(said))
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

/// The one of `known` that was most likely meant by `word`, if any is near, or begins with it.
pub fn did_you_mean<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&word, known);
    let nearest = known.iter().copied().min_by_key(|known| distance(known))?;
    // At most every fourth letter may differ, and never all of them.
    if distance(nearest) <= nearest.len().div_ceil(4).min(nearest.len() - 1) {
        return Some(nearest);
    }
    let longer = || known.iter().copied().filter(|known| word.len() >= 4 && known.starts_with(&word));
    longer().min_by_key(|known| known.len()).filter(|shortest| longer().all(|known| known.starts_with(shortest)))
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
            ("max_", None),
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
