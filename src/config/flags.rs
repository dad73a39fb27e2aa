//! A configuration without a file, of two flags: one line in an init script is enough for a route (rule E10).

use super::keys::Config;
use super::listen::ListenAddr;
use super::load;
use super::prefix::Prefix;
use super::scalar::{Notation, Scalar};
use super::url::UpstreamUrl;

impl Config {
    /// What `-listen ADDRESS` and `-route /prefix=upstream` say, each as often as it was written; everything else has its
    /// default. An upstream is a URL, or `host:port` for a plain one. The environment variable `LOG_MODE=json` counts
    /// here too.
    pub fn from_flags(listen: &[String], routes: &[String]) -> Result<Config, String> {
        let mut config = Config::default();
        if !listen.is_empty() {
            let addresses =
                listen.iter().map(|text| <ListenAddr as Notation>::parse(Scalar::Text(text))).collect::<Result<_, _>>();
            config.listen_addr = addresses.map_err(|error| format!("-listen: {error}"))?;
        }
        let routes = routes.iter().map(|text| route(text)).collect::<Result<_, _>>();
        config.set_routes(routes.map_err(|error| format!("-route: {error}"))?);
        config.validate(load::default_format()).map_err(|(path, message)| match path.as_str() {
            "listen_addr" => format!("-listen: {message}"),
            "" => message,
            _ => format!("-route: {message}"),
        })?;
        Ok(config)
    }
}

/// `/path=host:port`
fn route(text: &str) -> Result<(String, UpstreamUrl), String> {
    // The text is not shown: there may be a password in it.
    let (prefix, upstream) = text
        .split_once('=')
        .ok_or_else(|| "a route is written /prefix=host:port or /prefix=http://host:port/base".to_owned())?;
    let upstream = if upstream.contains("://") { upstream.to_owned() } else { format!("http://{upstream}") };
    Ok((Prefix::parse(Scalar::Text(prefix))?, <UpstreamUrl as Notation>::parse(Scalar::Text(&upstream))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &[&str], routes: &[&str]) -> Result<Config, String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        Config::from_flags(&owned(listen), &owned(routes))
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
            (&[], &["a=h:1"], "-route: \"a\": a prefix begins with \"/\""),
            (&[], &["/a="], "-route: the upstream URL names no host: write http://host:port"),
            (&[], &["/a=h:99999"], "-route: the port of the upstream URL is a number from 1 to 65535"),
            (
                &[],
                &["/a=ftp://h"],
                "-route: an upstream URL begins with http:// or https://, for example http://127.0.0.1:9001/base",
            ),
            (
                &[],
                &["/a=h:1", "/%61=h:2"],
                "-route: the prefix \"/%61\" has a route already: route number 1, as \"/a\", which is the same; remove one of them",
            ),
            (&[":1", ":1"], &["/a=h:1"], "-listen: the listening address \":1\" stands twice: remove one"),
        ] {
            assert_eq!(config(listen, routes), Err(expected.to_owned()), "{routes:?}");
        }
        assert!(config(&["nonsense"], &["/a=h"]).is_err_and(|error| error.starts_with("-listen: ")));
        assert!(config(&[], &[]).is_err_and(|error| error.contains("there are no routes")));
    }
}
