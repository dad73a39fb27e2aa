//! From the file to a [`Config`].

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use super::error::{ConfigError, TOO_DEEP};
use super::keys::{Config, LogFormat};
use super::scalar::Notation as _;

impl Config {
    /// Reads and checks the file at `path`. The environment variable `LOG_MODE=json` changes the default of `log.format`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let bytes = read_bytes(path).map_err(|error| {
            let message = match error.kind() {
                ErrorKind::NotFound => {
                    "no such file; copy config.example.yml to make one, or name another with -config PATH"
                }
                ErrorKind::PermissionDenied => {
                    "this user may not read it; change its permissions, or name another with -config PATH"
                }
                ErrorKind::IsADirectory => "this is a directory; name the file in it with -config PATH",
                ErrorKind::FileTooLarge => {
                    "larger than 64MiB, which no configuration is; name another file with -config PATH"
                }
                ErrorKind::Unsupported => {
                    "this is no regular file, and a reload has to read it again; name one with -config PATH"
                }
                _ => &format!("cannot be read: {error}"),
            };
            ConfigError::whole(&name, message)
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            ConfigError::at(&name, &bytes, error.valid_up_to(), "this byte is not UTF-8: save the file as UTF-8 text")
        })?;
        parse(text, &name, default_format())
    }

    /// Checks `text`; `name` stands for the file in messages. The environment is not looked at.
    pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
        parse(text, name, Ok(LogFormat::Text))
    }
}

/// What `log.format` is where nothing is said about it; an error is one only there.
pub(super) fn default_format() -> Result<LogFormat, String> {
    match &*std::env::var_os("LOG_MODE").unwrap_or_default().to_string_lossy() {
        "" => Ok(LogFormat::Text),
        mode => LogFormat::from_text(mode).map_err(|error| format!("the environment variable LOG_MODE: {error}")),
    }
}

const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Line and column, from 1, where the configuration `file` names the file `named`; `None` where it is not found, since it
/// is written in another way.
pub fn place_of(file: &Path, named: &Path) -> Option<(usize, usize)> {
    let text = String::from_utf8(read_bytes(file).ok()?).ok()?;
    place_in(&text, named.to_str()?)
}

fn place_in(text: &str, word: &str) -> Option<(usize, usize)> {
    let is_end =
        |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}'));
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')).find_map(|(number, line)| {
        let (at, _) = line.match_indices(word).find(|(at, _)| {
            is_end(line[..*at].chars().next_back()) && is_end(line[at + word.len()..].chars().next())
        })?;
        Some((number + 1, line[..at].chars().count() + 1))
    })
}

/// Reads a regular file, with a cap: whatever else the path may name, a pipe for example, may block for ever.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(if kind.is_dir() { ErrorKind::IsADirectory } else { ErrorKind::Unsupported }.into());
    }
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// The characters that YAML allows (YAML 1.2 section 5.1); a byte order mark only at the start.
fn is_allowed((at, c): (usize, char)) -> bool {
    match c {
        '\t' | '\n' | '\r' | '\u{85}' => true,
        '\u{feff}' => at == 0,
        '\u{fffe}' | '\u{ffff}' => false,
        _ => !c.is_control(),
    }
}

/// Where `[` and `{` are nested more deeply than this, the YAML library is not asked: its time grows with the square of
/// the depth before it finds that there are more than the 128 levels that it takes.
const MAX_DEPTH: usize = 1000;

/// The first bracket that is nested too deeply. Quotes and comments are not looked at: no file has so many open ones there.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.bytes().position(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

fn parse(text: &str, name: &str, format: Result<LogFormat, String>) -> Result<Config, ConfigError> {
    if let Some(at) = too_deep(text) {
        return Err(ConfigError::at(name, text.as_bytes(), at, TOO_DEEP));
    }
    // The YAML library would tell these without a usable place. Most text is plain ASCII, which a glance shows.
    let is_plain = text.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~'));
    if !is_plain && let Some((at, _)) = text.char_indices().find(|&c| !is_allowed(c)) {
        let message = "a control character, which YAML does not allow: remove it";
        return Err(ConfigError::at(name, text.as_bytes(), at, message));
    }
    let mut config: Config = serde_yaml::from_str(text).map_err(|error| ConfigError::from_yaml(name, text, error))?;
    config.validate(format).map_err(|(path, message)| ConfigError::at_path(name, text, &path, message))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_place_of_a_file_that_is_named_is_found() {
        let text = "# /etc/a.pem\nplugins:\n  - {path: \"/x/b.so\"}\n  - path: /x/b.so.2\ntls: {certificate: /etc/a.pem, key: '/etc/k'}\n";
        for (word, expected) in [
            ("/x/b.so", Some((3, 13))),
            ("/x/b.so.2", Some((4, 11))),
            ("/etc/a.pem", Some((5, 20))),
            ("/etc/k", Some((5, 38))),
            ("/etc", None),
        ] {
            assert_eq!(place_in(text, word), expected, "{word}");
        }
    }

    #[test]
    fn brackets_that_are_nested_too_deeply_are_told_at_once() {
        for (open, close) in [("[", "]"), ("{a: ", "}")] {
            let deep = |levels: usize| format!("routes: {}{}\n", open.repeat(levels), close.repeat(levels));
            let begin = std::time::Instant::now();
            let error = Config::parse(&deep(100_000), "f").expect_err("too deep").to_string();
            assert!(error.starts_with("f:1:") && error.contains("at most 128 levels"), "{error}");
            assert!(begin.elapsed() < Duration::from_secs(5));
            let error = Config::parse(&deep(200), "f").expect_err("too deep").to_string();
            assert!(error.contains("at most 128 levels") || error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let socket = std::env::temp_dir().join(format!("mini-rproxy-config-{}", std::process::id()));
        let _ = fs::remove_file(&socket);
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for path in [socket.as_path(), Path::new("/dev/null")] {
            let error = Config::load(path).expect_err("no file").to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
        let _ = fs::remove_file(&socket);
    }
}
