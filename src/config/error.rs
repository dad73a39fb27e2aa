//! What is wrong with a configuration, as one sentence for the person who wrote it.
//!
//! The words of serde and of the YAML library are for programmers: what they say is translated here, and what our own
//! readers say is taken out of what serde wraps around it.

use std::fmt;

use serde::de::IgnoredAny;

/// Stands before the text of our own messages, so that [`ConfigError::from_yaml`] can tell it from the path that the YAML
/// library puts before it. No text of ours holds it: [`quoted`] escapes what the file said.
const OWN_MESSAGE: char = '\u{1}';

/// More levels than the YAML library takes.
pub(super) const TOO_DEEP: &str = "lists and mappings are nested too deeply: at most 128 levels";

/// Why a configuration was refused. `Display` gives the file, line and column, what is wrong and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: String,
    /// Line and column, from 1.
    place: Option<(usize, usize)>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// About the file as a whole.
    pub(super) fn whole(file: &str, message: impl Into<String>) -> ConfigError {
        ConfigError { file: file.to_owned(), place: None, message: message.into() }
    }

    /// About the character at byte `at` of `text`.
    pub(super) fn at(file: &str, text: &[u8], at: usize, message: impl Into<String>) -> ConfigError {
        let before = String::from_utf8_lossy(&text[..at]);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        ConfigError { file: file.to_owned(), place: Some((line, column)), message: message.into() }
    }

    /// What the YAML library said about `text`.
    pub(super) fn from_yaml(file: &str, text: &str, error: serde_yaml::Error) -> ConfigError {
        // Broken syntax explains more than what was understood up to there, so it is told first.
        let error = serde_yaml::from_str::<IgnoredAny>(text).err().unwrap_or(error);
        let place = error.location().map(|place| (place.line(), place.column()));
        let said = error.to_string();
        let message = match said.split_once(OWN_MESSAGE) {
            Some((_path, own)) => without_place(own, place).to_owned(),
            None => foreign_message(&said, text, place),
        };
        ConfigError { file: file.to_owned(), place, message }
    }
}

/// Makes a serde error of one of our sentences.
pub(super) fn refuse<E: serde::de::Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{OWN_MESSAGE}{message}"))
}

/// The library's `Display` ends with the place, but where that is the very first character.
fn without_place(message: &str, place: Option<(usize, usize)>) -> &str {
    let suffix = place.map(|(line, column)| format!(" at line {line} column {column}"));
    suffix.and_then(|suffix| message.strip_suffix(suffix.as_str())).unwrap_or(message)
}

/// The library's own errors: syntax, and things of YAML that no reader of ours sees.
fn foreign_message(said: &str, text: &str, place: Option<(usize, usize)>) -> String {
    let is = |words: &str| said.contains(words);
    if is("more than one document") {
        return "one file holds one YAML document: remove the line \"---\" between them".to_owned();
    }
    if is("recursion limit") {
        return TOO_DEEP.to_owned();
    }
    if is("repetition limit") {
        return "aliases (*name) repeat too much of the file: write it out instead".to_owned();
    }
    if is("invalid type") {
        return "a key is one word, not a list or a mapping; a value that begins with [ or { needs quotes".to_owned();
    }
    if is("unknown anchor") {
        return "an alias (*name) needs its anchor (&name) further up; a value that begins with * needs quotes"
            .to_owned();
    }
    let line = place.and_then(|(line, _)| text.lines().nth(line - 1)).unwrap_or_default();
    let indentation = &line[..line.len() - line.trim_start().len()];
    let hint = if indentation.contains('\t') {
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
    let problem = said.split(" at line ").next().unwrap_or(said);
    let problem = problem.split(" at position ").next().unwrap_or(problem);
    format!("not YAML: {problem}; {hint}")
}

/// Something that the file said, to be shown in a message: escaped, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
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
        let error = ConfigError::at("f", text, text.len() - 2, "no");
        assert_eq!(error.to_string(), "f:2:5: no");
    }
}
