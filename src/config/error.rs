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
        let message = format!(
            "not YAML: {}; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value \
             that begins with a special character or holds \": \" needs quotes",
            problem.unwrap_or(&said)
        );
        return located(file, place_of_error(&error), message);
    }
    let place = place_of_error(&error);
    let said = error.to_string();
    let suffix = place.map(|(line, column)| format!(" at line {line} column {column}")).unwrap_or_default();
    let said = said.strip_suffix(&suffix).unwrap_or(&said);
    // "routes[0].upstream: ..."
    let is_path = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._[]?".contains(&b));
    let said = said.split_once(": ").filter(|(path, _)| is_path(path)).map_or(said, |(_, said)| said);
    located(file, place, in_our_words(said).unwrap_or_else(|| said.to_owned()))
}

/// What derived code refuses, without a secret, and with a remedy.
fn in_our_words(said: &str) -> Option<String> {
    if let Some(key) = said.strip_prefix("duplicate entry with key ") {
        return Some(format!("duplicate key {}", cut(key)));
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
        return Some(format!("expected {expected}, found {}", quoted(word.strip_suffix('`')?)));
    }
    let found = found.strip_prefix("invalid type: ").or_else(|| found.strip_prefix("invalid value: "))?;
    let [expected, found] =
        [expected, found].map(|words| PLAIN_WORDS.iter().find(|(theirs, _)| *theirs == words).map_or(words, |it| it.1));
    Some(format!("expected {expected}, found {}", cut(found)))
}

/// The words of serde, which are for programmers, and ours.
const PLAIN_WORDS: [(&str, &str); 7] = [
    ("a boolean", "true or false"),
    ("a sequence", "a list"),
    ("field identifier", "a key"),
    ("sequence", "a list"),
    ("map", "a mapping"),
    ("unit value", "nothing"),
    ("enum", "a YAML tag"),
];

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

/// The one of `known` that was most likely meant by `word`, if any is near.
pub fn did_you_mean<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
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
