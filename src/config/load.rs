//! From the file to a [`Config`], or from two flags: one line in an init script is enough for a route (rule E10).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::{from_yaml, located, place_of_byte, place_of_value, quoted};
use super::keys::{Config, RawRoute};
use super::listen::ListenAddr;
use super::log_keys::LogFormat;
use super::scalar::{Notation, print_size};
use super::url::{RouteHost, UpstreamUrl};

impl Config {
    /// Reads and checks the file at `path`, or standard input where that is `-`. An error is one sentence: the file, line and
    /// column, what is wrong and how to correct it. The environment variable `LOG_MODE=json` changes the default of `log.format`. `folder` are the files of
    /// `-plugindir`.
    pub fn load(path: &Path, folder: &[PathBuf]) -> Result<Config, String> {
        let is_stdin = path == Path::new(STDIN);
        let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        let bytes = if is_stdin { read_all(io::stdin(), MAX_FILE_BYTES) } else { read_file(path, MAX_FILE_BYTES) };
        let bytes = bytes.map_err(|error| {
            let problem = match error.kind() {
                ErrorKind::NotFound => "no such file; copy config.example.yml to make one, or",
                _ => &format!("cannot be read: {error};"),
            };
            located(&name, None, format!("{problem} name another with -config PATH"))
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let place = place_of_byte(&bytes, error.valid_up_to());
            located(&name, place, "this byte is not UTF-8: save the file as UTF-8 text")
        })?;
        parse(text, &name, default_format(), folder)
    }

    /// Checks `text`; `name` stands for the file in messages. The environment is not looked at.
    pub fn parse(text: &str, name: &str) -> Result<Config, String> {
        parse(text, name, Ok(LogFormat::Text), &[])
    }

    /// What `-listen ADDRESS` and `-route [HOST]/prefix=upstream` say, each as often as it was written; everything else has its
    /// default. The environment variable `LOG_MODE=json` counts
    /// here too.
    pub fn from_flags(listen: &[String], routes: &[String], folder: &[PathBuf]) -> Result<Config, String> {
        let mut config = Config::default();
        if !listen.is_empty() {
            let addresses = listen.iter().map(|text| <ListenAddr as Notation>::parse(text)).collect::<Result<_, _>>();
            config.listen_addr = addresses.map_err(|error| format!("-listen: {error}"))?;
        }
        let routes = routes.iter().map(|text| route(text)).collect::<Result<_, _>>();
        config.raw_routes = routes.map_err(|error| format!("-route: {error}"))?;
        config.validate(default_format(), folder).map_err(|(path, message)| match path.as_str() {
            "listen_addr" => format!("-listen: {message}"),
            "" => message,
            path if path.starts_with("plugins") => format!("-plugindir: {message}"),
            _ => format!("-route: {message}"),
        })?;
        Ok(config)
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

/// More than any file that a configuration is, or names.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The path that means standard input.
pub const STDIN: &str = "-";

/// Line and column, from 1, where the configuration `file` names the file `named`; `None` where it is not found, since it
/// is written in another way.
pub fn place_of(file: &Path, named: &Path) -> Option<(usize, usize)> {
    let text = String::from_utf8(read_file(file, MAX_FILE_BYTES).ok()?).ok()?;
    place_in(&text, named.to_str()?)
}

fn place_in(text: &str, word: &str) -> Option<(usize, usize)> {
    let is_end = |c: char| c.is_whitespace() || "\"',[]{}".contains(c);
    let is_looked_at = |line: &str| !word.is_empty() && !line.trim_start().starts_with('#');
    text.lines().enumerate().filter(|(_, line)| is_looked_at(line)).find_map(|(number, line)| {
        let (at, _) = line.match_indices(word).find(|(at, _)| {
            line[..*at].ends_with(is_end) && line[at + word.len()..].chars().next().is_none_or(is_end)
        })?;
        Some((number + 1, line[..at].chars().count() + 1))
    })
}

/// Reads a regular file of at most `max` bytes: whatever else the path may name, a pipe for example, may block for ever.
pub fn read_file(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("this is no regular file, and a reload has to read it again"));
    }
    if metadata.len() > max {
        return Err(too_large(max));
    }
    read_all(File::open(path)?, max)
}

fn read_all(from: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let len = from.take(max + 1).read_to_end(&mut bytes)? as u64;
    if len > max { Err(too_large(max)) } else { Ok(bytes) }
}

fn too_large(max: u64) -> io::Error {
    io::Error::other(format!("it is larger than {}, which is too large", print_size(max)))
}

fn parse(text: &str, name: &str, format: Result<LogFormat, String>, folder: &[PathBuf]) -> Result<Config, String> {
    let mut config: Config = serde_yaml::from_str(text).map_err(|error| from_yaml(name, text, error))?;
    config.validate(format, folder).map_err(|(path, message)| located(name, place_of_value(text, &path), message))?;
    Ok(config)
}

/// `/path=host:port`, or `a.example/path=host:port` for one host
fn route(text: &str) -> Result<RawRoute, String> {
    // The text is not shown: there may be a password in it.
    let (prefix, upstream) = text
        .split_once('=')
        .ok_or_else(|| "a route is written /prefix=host:port or /prefix=http://host:port/base".to_owned())?;
    let upstream = <UpstreamUrl as Notation>::parse(upstream)?;
    let (host, prefix) = prefix.split_at(prefix.find('/').unwrap_or_default());
    let hosts = (!host.is_empty()).then(|| <RouteHost as Notation>::parse(host)).transpose()?.map(|host| vec![host]);
    Ok(RawRoute { hosts, prefix: prefix.to_owned(), upstream: Some(upstream), ..RawRoute::default() })
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
            ("", None),
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
            let error = Config::load(path, &[]).expect_err("no file");
            assert!(error.contains("no regular file"), "{error}");
        }
        let _ = fs::remove_file(&socket);
    }

    fn config(listen: &[&str], routes: &[&str]) -> Result<Config, String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        Config::from_flags(&owned(listen), &owned(routes), &[])
    }

    #[test]
    fn e10_a_route_in_one_word_is_the_same_as_in_a_file() {
        for (name, listen, routes, yaml) in [
            (
                "host and port",
                &[][..],
                &["/a=127.0.0.1:9001"][..],
                "routes: [{prefix: /a, upstream: 'http://127.0.0.1:9001'}]",
            ),
            ("a name", &[], &["/=origin"], "routes: [{prefix: /, upstream: 'http://origin'}]"),
            (
                "a host",
                &[],
                &["A.example/=h:1", "*.b/x=h:2", "[0::1]/=h:3"],
                "routes: [{hosts: a.example, prefix: /, upstream: 'http://h:1'}, {hosts: '*.b', prefix: /x, upstream: 'http://h:2'}, {hosts: '[::1]', prefix: /, upstream: 'http://h:3'}]",
            ),
            ("IPv6", &[], &["/=[::1]:9001"], "routes: [{prefix: /, upstream: 'http://[::1]:9001'}]"),
            ("a base", &[], &["/a=h:1/b=c"], "routes: [{prefix: /a, upstream: 'http://h:1/b=c'}]"),
            ("a URL", &[], &["/a=http://u:p@h/b"], "routes: [{prefix: /a, upstream: 'http://u:p@h/b'}]"),
            (
                "several",
                &[":8081", "unix:/run/x"],
                &["/a=h:1", "/=h:2"],
                "listen_addr: [':8081', 'unix:/run/x']\nroutes: [{prefix: /a, upstream: 'http://h:1'}, {prefix: /, upstream: 'http://h:2'}]",
            ),
        ] {
            assert_eq!(config(listen, routes), Ok(Config::parse(yaml, "yaml").expect("it is valid")), "{name}");
        }
    }

    #[test]
    fn e10_a_mistake_is_told_in_one_sentence() {
        for (listen, routes, expected) in [
            (&[][..], &["/a"][..], "-route: a route is written /prefix=host:port or /prefix=http://host:port/base"),
            (&[], &["a=h:1"], "-route: \"a\": a prefix begins with \"/\": write \"prefix: /path\""),
            (
                &[],
                &["a.example:80/=h:1"],
                "-route: \"a.example:80\": a host stands here without a port, and is meant with any: remove the port",
            ),
            (&[], &["/a="], "-route: the upstream URL names no host: write http://host:port"),
            (&[], &["/a=h:99999"], "-route: the port of the upstream URL is a number from 1 to 65535"),
            (
                &[],
                &["/a=ftp://h"],
                "-route: the URL of an upstream begins with http:// or https://: write http://127.0.0.1:9001/base or http://unix:/run/app.sock, for example",
            ),
            (
                &[],
                &["/a=h:1", "/%61=h:2"],
                "-route: the prefix \"/%61\" is that of route number 1, \"/a\", too: remove one of them",
            ),
            (
                &[":1", ":1"],
                &["/a=h:1"],
                "-listen: \":1\" in listen_addr and \":1\" in listen_addr overlap: remove one, or choose another",
            ),
        ] {
            assert_eq!(config(listen, routes), Err(expected.to_owned()), "{routes:?}");
        }
        assert!(config(&["nonsense"], &["/a=h"]).is_err_and(|error| error.starts_with("-listen: ")));
        assert!(config(&[], &[]).is_err_and(|error| error.contains("there are no routes")));
    }
}
