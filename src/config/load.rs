//! From the file to a [`Config`].

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use super::error::{from_yaml, located, place_of_byte, place_of_value, quoted};
use super::keys::{Config, LogFormat};

impl Config {
    /// Reads and checks the file at `path`. An error is one sentence: the file, line and column, what is wrong and how to
    /// mend it. The environment variable `LOG_MODE=json` changes the default of `log.format`.
    pub fn load(path: &Path) -> Result<Config, String> {
        let name = path.display().to_string();
        let bytes = read_bytes(path).map_err(|error| {
            let message = match error.kind() {
                ErrorKind::NotFound => {
                    "no such file; copy config.example.yml to make one, or name another with -config PATH"
                }
                ErrorKind::PermissionDenied => {
                    "this user may not read it; change its permissions, or name another with -config PATH"
                }
                _ => &format!("cannot be read: {error}; name another file with -config PATH"),
            };
            located(&name, None, message)
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let place = place_of_byte(&bytes, error.valid_up_to());
            located(&name, place, "this byte is not UTF-8: save the file as UTF-8 text")
        })?;
        parse(text, &name, default_format())
    }

    /// Checks `text`; `name` stands for the file in messages. The environment is not looked at.
    pub fn parse(text: &str, name: &str) -> Result<Config, String> {
        parse(text, name, Ok(LogFormat::Text))
    }
}

/// What `log.format` is where nothing is said about it; an error is one only there.
pub(super) fn default_format() -> Result<LogFormat, String> {
    match &*std::env::var_os("LOG_MODE").unwrap_or_default().to_string_lossy() {
        "" | "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        mode => Err(format!("the environment variable LOG_MODE: expected text or json, found {}", quoted(mode))),
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
    let is_end = |c: char| c.is_whitespace() || "\"',[]{}".contains(c);
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')).find_map(|(number, line)| {
        let (at, _) = line.match_indices(word).find(|(at, _)| {
            line[..*at].ends_with(is_end) && line[at + word.len()..].chars().next().is_none_or(is_end)
        })?;
        Some((number + 1, line[..at].chars().count() + 1))
    })
}

/// Reads a regular file, with a cap: whatever else the path may name, a pipe for example, may block for ever.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("this is no regular file, and a reload has to read it again"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 64MiB, which no configuration is"));
    }
    Ok(bytes)
}

fn parse(text: &str, name: &str, format: Result<LogFormat, String>) -> Result<Config, String> {
    let mut config: Config = serde_yaml::from_str(text).map_err(|error| from_yaml(name, text, error))?;
    config.validate(format).map_err(|(path, message)| located(name, place_of_value(text, &path), message))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
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
    fn only_regular_files_are_read() {
        let socket = std::env::temp_dir().join(format!("mini-rproxy-config-{}", std::process::id()));
        let _ = fs::remove_file(&socket);
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for path in [socket.as_path(), Path::new("/dev/null")] {
            let error = Config::load(path).expect_err("no file");
            assert!(error.contains("no regular file"), "{error}");
        }
        let _ = fs::remove_file(&socket);
    }
}
