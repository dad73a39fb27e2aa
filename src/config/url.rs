//! Upstream URLs: `http://[user:password@]host[:port][/base]` and `http://unix:/path/of/socket[:/base]`, taken apart strictly.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Serialize, Serializer};

use super::error::quoted;
use super::prefix::{self, BYTE, DOT_SEGMENT};
use super::scalar::Notation;

/// Where a route leads, taken apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// Before `://`.
    pub scheme: Scheme,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What it is called: brackets where needed, no default port; `unix:` and the path of a socket.
    pub authority: String,
    /// Empty or `/base`, never with a trailing slash.
    pub base_path: String,
    /// The value of the Authorization field made from `user:password@`. Never shown anywhere.
    pub authorization: Option<String>,
}

/// Without credentials.
impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_behind_path = matches!(self.endpoint, Endpoint::Unix(_)) && !self.base_path.is_empty();
        let colon = if is_behind_path { ":" } else { "" };
        write!(f, "{}://{}{colon}{}", self.scheme.name(), self.authority, self.base_path)
    }
}

/// Without credentials: what is printed for debugging ends in logs too.
impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = if self.authorization.is_some() { " (credentials hidden)" } else { "" };
        write!(f, "UpstreamUrl({self}{hidden})")
    }
}

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// In a network.
    Tcp {
        /// Name in lower case or IP literal, without brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// On this host: the absolute path of a stream socket.
    Unix(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// How to speak to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Inside TLS.
    Https,
}

impl Scheme {
    /// As in a URL, without `://`.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port of a URL that names none (RFC 9110 sections 4.2.1 and 4.2.2).
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

// What is wrong with an upstream URL. None of it holds text of the URL, which may contain a password.
const NOT_HTTP: &str = "the URL of an upstream begins with http:// or https://: write http://127.0.0.1:9001/base or http://unix:/run/app.sock, for example";
const NO_HOST: &str = "the upstream URL names no host: write http://host:port";
const HOST: &str = "the host of the upstream URL is neither a name nor an address; an IPv6 address stands in brackets: http://[::1]:9001";
const PORT: &str = "the port of the upstream URL is a number from 1 to 65535";
const CREDENTIALS: &str = "the credentials of the upstream URL are user:password@, with \"@\", \":\", \"/\" and \"%\" in them written as %40, %3A, %2F and %25";
const UNIX: &str = "a unix socket is written http://unix:/run/app.sock, or http://unix:/run/app.sock:/base: an absolute path of at most 107 bytes without \":\"";
const UNIX_TLS: &str = "TLS is not spoken over a unix socket: write http://unix:/path";
const NO_TLS: &str = "this build cannot speak TLS to an upstream: use http://, or build it with the feature \"tls\"";

/// What fits into the address of a unix socket (`sun_path`), with the byte that ends it.
const MAX_SOCKET_PATH: usize = 107;

impl UpstreamUrl {
    /// Takes `url` apart.
    pub fn parse(url: &str) -> Result<UpstreamUrl, &'static str> {
        let (scheme, rest) = split_scheme(url).ok_or(NOT_HTTP)?;
        if !prefix::is_plain(url) {
            return Err(BYTE);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, authority),
        };
        let authorization = credentials.map(authorization).transpose()?;
        let (endpoint, authority, path) = match authority.strip_prefix("unix:") {
            Some(rest) if rest.parse::<u16>().is_err() => {
                // As in nginx: the path of the socket ends at the first colon.
                let (socket, path) = path.split_once(':').unwrap_or((path, ""));
                let is_path = rest.is_empty() && matches!(socket.len(), 2..=MAX_SOCKET_PATH);
                if !is_path || !(path.is_empty() || path.starts_with('/')) {
                    return Err(UNIX);
                }
                if scheme == Scheme::Https {
                    return Err(UNIX_TLS);
                }
                (Endpoint::Unix(socket.to_owned()), format!("unix:{socket}"), path)
            }
            _ => {
                let (host, port) = split_host(authority)?;
                let port = port.unwrap_or(scheme.default_port());
                let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let authority = if port == scheme.default_port() { bracketed } else { format!("{bracketed}:{port}") };
                (Endpoint::Tcp { host, port }, authority, path)
            }
        };
        let base_path = path.trim_end_matches('/').to_owned();
        if prefix::normal_form(&base_path).split(|&byte| byte == b'/').any(|part| matches!(part, b"." | b"..")) {
            return Err(DOT_SEGMENT);
        }
        Ok(UpstreamUrl { scheme, endpoint, authority, base_path, authorization })
    }

    /// The Host value of requests to it.
    pub fn host_value(&self) -> &str {
        if let Endpoint::Unix(_) = self.endpoint { "localhost" } else { &self.authority }
    }
}

impl Notation for UpstreamUrl {
    type Value = UpstreamUrl;
    const EXPECTED: &'static str = "one upstream URL such as http://127.0.0.1:9001/base";

    // The text is not shown: there may be a password in it.
    fn read(text: &str) -> Result<Option<UpstreamUrl>, String> {
        // A host and a port alone are meant for plain HTTP; two slashes may be those of a scheme with a mistake in it.
        let url =
            if text.contains("//") { UpstreamUrl::parse(text) } else { UpstreamUrl::parse(&format!("http://{text}")) }?;
        if url.scheme == Scheme::Https && !cfg!(feature = "tls") { Err(NO_TLS.to_owned()) } else { Ok(Some(url)) }
    }
}

/// Without credentials.
impl Serialize for UpstreamUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which Host the upstream sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostPolicy {
    /// That of the upstream URL.
    Upstream,
    /// The one that the client sent.
    Client,
    /// Always this one.
    #[serde(untagged)]
    Fixed(String),
}

impl Notation for HostPolicy {
    type Value = HostPolicy;
    const EXPECTED: &'static str = "upstream, client or a host name";

    fn read(text: &str) -> Result<Option<HostPolicy>, String> {
        Ok(match text {
            "upstream" => Some(HostPolicy::Upstream),
            "client" => Some(HostPolicy::Client),
            _ => split_host(text).ok().map(|_| HostPolicy::Fixed(text.to_owned())),
        })
    }
}

/// The name that an upstream's certificate has to be for.
pub(super) struct ServerName;

impl Notation for ServerName {
    type Value = String;
    const EXPECTED: &'static str = "a host name, or an address without brackets";

    fn read(text: &str) -> Result<Option<String>, String> {
        let address = text.parse().map(|address: IpAddr| address.to_string());
        Ok(address.ok().or_else(|| check_host(text).ok()))
    }
}

/// One of the hosts that a route is for: a name, an address, or `*.` and a name, for all names that end so.
pub(super) struct RouteHost;

impl Notation for RouteHost {
    /// As hosts are compared: in lower case, without a dot at the end, an IPv6 address in brackets.
    type Value = Box<str>;
    const EXPECTED: &'static str = "a host such as a.example or \"*.a.example\"";

    fn read(text: &str) -> Result<Option<Box<str>>, String> {
        let (wildcard, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
        let problem = match split_host(name) {
            _ if text.contains('/') => "a host stands here alone, without http:// and without a path: write a.example",
            _ if text == "*" => "a route without the key hosts is for all hosts: remove the key",
            _ if name.contains('*') => {
                "\"*.\" can stand in front of a name, as in \"*.a.example\", and \"*\" nowhere else"
            }
            Ok((_, Some(_))) | Err(PORT) => "a host stands here without a port, and is meant with any: remove the port",
            Ok((host, None)) if wildcard.is_empty() && host.contains(':') => {
                return Ok(Some(format!("[{host}]").into()));
            }
            Ok((host, None)) if wildcard.is_empty() || host.parse::<IpAddr>().is_err() => {
                return Ok(Some([wildcard, host.strip_suffix('.').unwrap_or(&host)].concat().into()));
            }
            _ => "this is neither a name nor an address: write a.example, \"*.a.example\", 127.0.0.1 or \"[::1]\"",
        };
        Err(format!("{}: {problem}", quoted(text)))
    }
}

/// The scheme of an http or https URL, whatever its case (RFC 3986 section 3.1), and what follows its `://`.
pub(super) fn split_scheme(url: &str) -> Option<(Scheme, &str)> {
    let (name, rest) = url.split_once("://")?;
    let known = [Scheme::Http, Scheme::Https].into_iter().find(|scheme| scheme.name().eq_ignore_ascii_case(name));
    known.map(|scheme| (scheme, rest))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`: the host in lower case or as an address without brackets.
pub(super) fn split_host(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let is_number = !port.starts_with('+');
            let port = port.parse().ok().filter(|port| *port != 0 && is_number).ok_or(PORT)?;
            Ok((check_host(host)?, Some(port)))
        }
        _ => Ok((check_host(authority)?, None)),
    }
}

/// A name in lower case, or an address without brackets.
fn check_host(host: &str) -> Result<String, &'static str> {
    if host.is_empty() {
        return Err(NO_HOST);
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(HOST)?;
        return address.parse().map(|address: Ipv6Addr| address.to_string()).map_err(|_| HOST);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    // A name whose last label is a number would be taken for an address by some resolvers and not by others.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return host.parse().map(|address: Ipv4Addr| address.to_string()).map_err(|_| HOST);
    }
    let is_label = |label: &str| {
        matches!(label.len(), 1..=63)
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() <= 253 && name.split('.').all(is_label) { Ok(host.to_ascii_lowercase()) } else { Err(HOST) }
}

/// The Basic credentials (RFC 7617 section 2) for `user:password` of a URL.
fn authorization(credentials: &str) -> Result<String, &'static str> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let is_bare = credentials.contains('@') || password.contains(':');
    let [user, password] = [user, password].map(prefix::decode);
    let decoded = [&user[..], b":", &password].concat();
    if is_bare || user.contains(&b':') || decoded.iter().any(u8::is_ascii_control) {
        return Err(CREDENTIALS);
    }
    Ok(format!("Basic {}", BASE64_STANDARD.encode(decoded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, scheme, host, port, authority, base_path) in [
            ("http://e.example", Scheme::Http, "e.example", 80, "e.example", ""),
            ("http://e.example/", Scheme::Http, "e.example", 80, "e.example", ""),
            ("HTTP://E.Example:80/Base/", Scheme::Http, "e.example", 80, "e.example", "/Base"),
            ("http://e.example:9002/base", Scheme::Http, "e.example", 9002, "e.example:9002", "/base"),
            ("http://e.example/a%2Fb/c;v=1//", Scheme::Http, "e.example", 80, "e.example", "/a%2Fb/c;v=1"),
            ("https://e.example", Scheme::Https, "e.example", 443, "e.example", ""),
            ("https://e.example:443", Scheme::Https, "e.example", 443, "e.example", ""),
            ("https://e.example:80", Scheme::Https, "e.example", 80, "e.example:80", ""),
            ("http://127.0.0.1:9001", Scheme::Http, "127.0.0.1", 9001, "127.0.0.1:9001", ""),
            ("http://[::1]:9001/x", Scheme::Http, "::1", 9001, "[::1]:9001", "/x"),
            ("http://[0:0::1]", Scheme::Http, "::1", 80, "[::1]", ""),
            ("http://my_service", Scheme::Http, "my_service", 80, "my_service", ""),
            ("http://e.example.", Scheme::Http, "e.example.", 80, "e.example.", ""),
        ] {
            let (host, authority) = (host.to_owned(), authority.to_owned());
            let base_path = base_path.to_owned();
            let endpoint = Endpoint::Tcp { host, port };
            let expected = UpstreamUrl { scheme, endpoint, authority, base_path, authorization: None };
            assert_eq!(UpstreamUrl::parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn a_unix_socket_is_a_path_and_behind_a_colon_the_base_path() {
        for (url, path, base_path, shown) in [
            ("http://unix:/run/app.sock", "/run/app.sock", "", "http://unix:/run/app.sock"),
            ("http://unix:/run/app.sock:", "/run/app.sock", "", "http://unix:/run/app.sock"),
            ("http://unix:/run/app.sock:/", "/run/app.sock", "", "http://unix:/run/app.sock"),
            ("http://unix:/run/app.sock:/base/", "/run/app.sock", "/base", "http://unix:/run/app.sock:/base"),
            ("http://unix:/a/../b%41:/c:d", "/a/../b%41", "/c:d", "http://unix:/a/../b%41:/c:d"),
            ("http://u:p@unix:/run/a:/b", "/run/a", "/b", "http://unix:/run/a:/b"),
        ] {
            let parsed = UpstreamUrl::parse(url).expect("a valid URL");
            assert_eq!((&parsed.endpoint, &*parsed.base_path), (&Endpoint::Unix(path.to_owned()), base_path), "{url}");
            assert_eq!((parsed.host_value(), parsed.authority == format!("unix:{path}")), ("localhost", true), "{url}");
            assert_eq!((parsed.to_string().as_str(), parsed.authorization.is_some()), (shown, url.contains('@')));
            assert_eq!(UpstreamUrl::parse(shown).map(|again| again.endpoint), Ok(parsed.endpoint), "it reads back");
        }
        for (len, is_good) in [(107, true), (108, false)] {
            let url = format!("http://unix:/{}", "p".repeat(len - 1));
            assert_eq!(UpstreamUrl::parse(&url).is_ok(), is_good, "{len} bytes");
        }
        assert!(UpstreamUrl::parse("http://unix:8080/x").is_ok_and(|url| url.host_value() == "unix:8080"), "a host");
    }

    #[test]
    fn without_a_scheme_plain_http_is_meant() {
        for (text, shown) in [
            ("127.0.0.1:9001", "http://127.0.0.1:9001"),
            ("localhost", "http://localhost"),
            ("app:80/base", "http://app/base"),
            ("[::1]:9001", "http://[::1]:9001"),
            ("unix:/run/app.sock:/b", "http://unix:/run/app.sock:/b"),
            ("https://e.example", "https://e.example"),
        ] {
            let url = <UpstreamUrl as Notation>::parse(text);
            assert_eq!(
                url.map(|url| url.to_string()).ok().as_deref(),
                Some(shown).filter(|_| cfg!(feature = "tls") || !shown.starts_with("https")),
                "{text}"
            );
        }
        for text in ["http:/e.example", "http//e.example", "htp://e.example", "/run/app.sock", "9001", "", "a b"] {
            assert!(<UpstreamUrl as Notation>::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_url_is_refused() {
        for (url, expected) in [
            ("", NOT_HTTP),
            ("127.0.0.1:9001", NOT_HTTP),
            ("e.example", NOT_HTTP),
            ("localhost:9001/base", NOT_HTTP),
            ("u:p@[::1]", NOT_HTTP),
            ("127.0.0.1:90010", NOT_HTTP),
            ("unix:/run/app.sock", NOT_HTTP),
            ("unix//run/app.sock", NOT_HTTP),
            ("http://unix:", UNIX),
            ("http://unix:/", UNIX),
            ("http://unix:run/app.sock", UNIX),
            ("http://unix:/run/app.sock:base", UNIX),
            ("http://unix:/run/app.sock:/base/../x", DOT_SEGMENT),
            ("http://unix:/run/app.sock:/%zz", BYTE),
            ("https://unix:/run/app.sock", UNIX_TLS),
            ("/run/app.sock", NOT_HTTP),
            ("ws://e.example", NOT_HTTP),
            (" http://e.example", NOT_HTTP),
            ("http:/e.example", NOT_HTTP),
            ("http://e.example/?q=1", BYTE),
            ("http://e.example/#top", BYTE),
            ("http://e.example/a b", BYTE),
            ("http://e.example\r\n", BYTE),
            ("http://caf\u{e9}.example", BYTE),
            ("http://e.example\\a", BYTE),
            ("http://", NO_HOST),
            ("http:///base", NO_HOST),
            ("http://:80", NO_HOST),
            ("http://user@", NO_HOST),
            ("http://::1", HOST),
            ("http://[::1", HOST),
            ("http://[::1]x:80", HOST),
            ("http://[127.0.0.1]", HOST),
            ("http://[fe80::1%25eth0]", HOST),
            ("http://300.1.1.1", HOST),
            ("http://1.2.3", HOST),
            ("http://127.1", HOST),
            ("http://a..b", HOST),
            ("http://-a", HOST),
            ("http://a,b", HOST),
            ("http://a%41", HOST),
            ("http://e.example:", PORT),
            ("http://e.example:0", PORT),
            ("http://e.example:+80", PORT),
            ("http://e.example:65536", PORT),
            ("http://e.example:http", PORT),
            ("http://a@b@e.example", CREDENTIALS),
            ("http://a:b:c@e.example", CREDENTIALS),
            ("http://a%3Ab:c@e.example", CREDENTIALS),
            ("http://a:%zz@e.example", BYTE),
            ("http://a:%0d%0a@e.example", CREDENTIALS),
            ("http://e.example/%zz", BYTE),
            ("http://e.example/a/../b", DOT_SEGMENT),
            ("http://e.example/%2e", DOT_SEGMENT),
        ] {
            assert_eq!(UpstreamUrl::parse(url), Err(expected), "{url}");
        }
    }

    #[test]
    fn hosts_of_routes_have_one_spelling() {
        for (text, expected) in [
            ("a.example", Ok("a.example")),
            ("A.Example.", Ok("a.example")),
            ("localhost", Ok("localhost")),
            ("my_service", Ok("my_service")),
            ("*.A.example", Ok("*.a.example")),
            ("*.example.", Ok("*.example")),
            ("127.0.0.1", Ok("127.0.0.1")),
            ("[0:0::A]", Ok("[::a]")),
            ("a.example:80", Err("without a port")),
            ("*.a.example:80", Err("without a port")),
            ("[::1]:80", Err("without a port")),
            ("a.example:", Err("without a port")),
            ("http://a.example", Err("without http://")),
            ("https://a.example:1/", Err("without http://")),
            ("a.example/x", Err("without a path")),
            ("*", Err("for all hosts")),
            ("a.*.example", Err("in front of a name")),
            ("*.*.example", Err("in front of a name")),
            ("*a.example", Err("in front of a name")),
            ("a*", Err("in front of a name")),
            ("*.127.0.0.1", Err("neither a name nor an address")),
            ("*.[::1]", Err("neither a name nor an address")),
            ("*.", Err("neither a name nor an address")),
            ("", Err("neither a name nor an address")),
            (".", Err("neither a name nor an address")),
            (".a.example", Err("neither a name nor an address")),
            ("::1", Err("neither a name nor an address")),
            ("a b", Err("neither a name nor an address")),
            ("user@a.example", Err("neither a name nor an address")),
            ("caf\u{e9}.example", Err("neither a name nor an address")),
        ] {
            match (RouteHost::parse(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(&*found, expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn credentials_become_a_field_and_are_never_shown() {
        for (url, expected) in [
            ("http://user:secret@e.example/b", "Basic dXNlcjpzZWNyZXQ="),
            ("http://user@e.example/b", "Basic dXNlcjo="),
            ("http://us%40er:s%3Ae%2Fcret@e.example/b", "Basic dXNAZXI6czplL2NyZXQ="),
        ] {
            let parsed = UpstreamUrl::parse(url).expect("a valid URL");
            assert_eq!(parsed.authorization.as_deref(), Some(expected), "{url}");
            assert_eq!(parsed.to_string(), "http://e.example/b");
            assert_eq!(format!("{parsed:?}"), "UpstreamUrl(http://e.example/b (credentials hidden))");
        }
    }
}
