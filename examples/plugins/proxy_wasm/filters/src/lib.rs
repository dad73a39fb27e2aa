//! What the filters share: their configuration, lines of `key value`.

/// The lines of a configuration, as a word and the rest.
pub fn lines(config: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(config);
    let line = |line: &str| {
        let (key, value) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        (key.to_owned(), value.trim().to_owned())
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(line).collect()
}
