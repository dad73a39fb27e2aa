//! Applications under a prefix: what a response says about the place of the application is mapped back, from the place
//! that the upstream knows to the one that its clients see.
//!
//! | field | what is mapped | key |
//! |---|---|---|
//! | Location, Content-Location, Refresh, Link | URLs that name the upstream, and paths | `rewrite_redirects` |
//! | Set-Cookie | Path and Domain | `rewrite_cookies` |
//!
//! ```text
//! prefix: /engine, upstream: http://e.example/base
//!
//! /base/x, //e.example/base/x, http://e.example/base/x   ──►  /engine/x
//! /engine/x                                              ──►  as it is: the application knows its prefix
//! /other, http://e.example/other                         ──►  as it is: no request could get there
//! http://other.example/x, x, ?x, #x                      ──►  as it is
//! ```
//!
//! A URL that names the upstream loses scheme and authority, because a path is right whatever name, port and protocol the
//! client used. Of what is mapped only the place changes: query, fragment and all else stay byte for byte. Bytes are
//! compared as they are; nothing is decoded and no dot segment resolved. Bodies are not looked at.

use crate::config::{Rewrite, Rewrites, Scheme, UpstreamUrl};
use crate::http::chars::{find, is_word, split, trim_ows};
use crate::http::fields::{Classes, Fields, Known};
use crate::http::target::same_authority;

const REDIRECTS: Classes = Classes::of(&[Known::Location, Known::ContentLocation, Known::Refresh, Known::Link]);

/// Where an application lives, seen from both sides of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What to map.
    pub rewrites: Rewrites,
    /// The prefix that was stripped from the path, without a slash at its end; empty for none.
    pub prefix: &'a str,
    /// Where the request went.
    pub upstream: &'a UpstreamUrl,
    /// The Host that was sent to the upstream.
    pub sent_host: &'a [u8],
    /// The Host that the client sent; empty for none.
    pub client_host: &'a [u8],
}

/// All fields that may be mapped.
pub const MAPPABLE: Classes = REDIRECTS.with(Known::SetCookie);

/// Maps the fields of a response. `text` is scratch space: where it is large enough, nothing is allocated.
pub fn map_back(fields: &mut Fields, place: &Place<'_>, text: &mut Vec<u8>) {
    // Most responses have no such field.
    let mapped = place.mapped();
    if !fields.may_have_any(mapped) {
        return;
    }
    for index in 0..fields.len() {
        if !fields.is_any_of(index, mapped) {
            continue;
        }
        let Some(line) = fields.get(index) else { continue };
        text.clear();
        match line.known {
            Known::Refresh => place.write_refresh(line.value, text),
            Known::Link => place.write_links(line.value, text),
            Known::SetCookie => place.write_cookie(line.value, text),
            _ => place.write_reference(line.value, text),
        }
        let is_changed = text != line.value;
        if is_changed {
            fields.set_value(index, text);
        }
    }
}

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped<'a> {
    /// It is under the prefix already.
    Already,
    /// This part of it follows the prefix.
    Inside(&'a [u8]),
    /// It is none of the application.
    Outside,
}

/// Whose URL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The upstream's, by a name that only the upstream goes by.
    Upstream,
    /// The upstream's, by the name that clients use too, and with another scheme than its own: it wants to be asked so.
    Public,
    Other,
}

impl<'a> Place<'a> {
    /// Which fields are to be mapped.
    fn mapped(&self) -> Classes {
        let redirects = match self.rewrites.redirects {
            Rewrite::Auto => REDIRECTS,
            Rewrite::Off => Classes::default(),
        };
        match self.rewrites.cookies {
            Rewrite::Auto => redirects.with(Known::SetCookie),
            Rewrite::Off => redirects,
        }
    }

    fn base(&self) -> &'a [u8] {
        self.upstream.base_path.as_bytes()
    }

    /// Appends a URI reference (RFC 3986 section 4.1), mapped where it leads to the application.
    fn write_reference(&self, reference: &[u8], out: &mut Vec<u8>) {
        let path_end = reference.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(reference.len());
        // Browsers read a backslash as a slash and skip tabs; others do not. What two may read differently is left alone.
        let is_plain = !reference[..path_end].iter().any(|byte| matches!(byte, b'\\' | b'\t'));
        let (origin_len, owner) = match split_origin(&reference[..path_end]) {
            Some((secure, authority, len)) => (len, self.owner(secure, authority)),
            None if reference.starts_with(b"/") => (0, Owner::Upstream),
            None => (0, Owner::Other),
        };
        let (origin, rest) = reference.split_at(origin_len);
        let (path, query) = rest.split_at(path_end - origin_len);
        let path = if path.is_empty() { b"/" } else { path };
        let mapped = self.map_path(path);
        if !is_plain || owner == Owner::Other || mapped == Mapped::Outside {
            return out.extend_from_slice(reference);
        }
        let start = out.len();
        if owner == Owner::Public {
            out.extend_from_slice(origin);
        }
        match mapped {
            Mapped::Already | Mapped::Outside => out.extend_from_slice(path),
            Mapped::Inside(rest) => self.write_path(rest, out),
        }
        if out[start..].starts_with(b"//") {
            // It would lead to another host (RFC 3986 section 4.2).
            out.splice(start..start, *b"/.");
        }
        out.extend_from_slice(query);
    }

    /// Appends the path at which clients find `rest` of the application.
    fn write_path(&self, rest: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(rest);
        if self.prefix.is_empty() && rest.is_empty() {
            out.push(b'/');
        }
    }

    fn owner(&self, secure: Option<bool>, authority: &[u8]) -> Owner {
        let upstream_secure = self.upstream.scheme == Scheme::Https;
        let secure = secure.unwrap_or(upstream_secure);
        let is_sent = same_authority(authority, self.sent_host, secure);
        let is_upstream = is_sent || same_authority(authority, self.upstream.authority.as_bytes(), secure);
        if is_upstream && secure == upstream_secure {
            Owner::Upstream
        } else if is_sent && same_authority(authority, self.client_host, secure) {
            Owner::Public
        } else {
            Owner::Other
        }
    }

    /// What becomes of `path`, which begins with a slash. Where it is under the prefix and under the base path, the longer
    /// of them decides.
    fn map_path<'p>(&self, path: &'p [u8]) -> Mapped<'p> {
        let (prefix, base) = (self.prefix.as_bytes(), self.base());
        let is_inside = is_under(path, base);
        if !prefix.is_empty() && is_under(path, prefix) && !(is_inside && base.len() > prefix.len()) {
            Mapped::Already
        } else if is_inside {
            Mapped::Inside(&path[base.len()..])
        } else {
            Mapped::Outside
        }
    }

    /// What becomes of the Path of a cookie. One that takes in the whole application takes in the whole prefix:
    /// `/engine`, because `/engine/` would leave out `/engine` itself (RFC 6265 section 5.1.4).
    fn map_cookie_path<'p>(&self, path: &'p [u8]) -> Mapped<'p> {
        let above = path.strip_suffix(b"/").unwrap_or(path);
        match self.map_path(path) {
            Mapped::Already => Mapped::Already,
            Mapped::Inside(b"/") if self.base().is_empty() => Mapped::Inside(b""),
            Mapped::Outside if is_under(self.base(), above) => Mapped::Inside(b""),
            Mapped::Inside(rest) => Mapped::Inside(rest),
            Mapped::Outside => Mapped::Outside,
        }
    }

    /// Appends a Refresh: `5; url=/path`, as browsers read it, with quotes or without.
    fn write_refresh(&self, value: &[u8], out: &mut Vec<u8>) {
        let (start, end) = url_of_refresh(value).unwrap_or((value.len(), value.len()));
        out.extend_from_slice(&value[..start]);
        if start < end {
            self.write_reference(&value[start..end], out);
        }
        out.extend_from_slice(&value[end..]);
    }

    /// Appends a Link: each target stands in angle brackets, outside of quoted strings (RFC 8288 section 3).
    fn write_links(&self, value: &[u8], out: &mut Vec<u8>) {
        let mut rest = value;
        let mut is_quoted = false;
        while let Some((&byte, after)) = rest.split_first() {
            out.push(byte);
            rest = after;
            match byte {
                b'"' => is_quoted = !is_quoted,
                b'\\' if is_quoted => {
                    let (escaped, after) = rest.split_at(rest.len().min(1));
                    out.extend_from_slice(escaped);
                    rest = after;
                }
                b'<' if !is_quoted => {
                    let Some(len) = rest.iter().position(|&byte| byte == b'>') else {
                        return out.extend_from_slice(rest);
                    };
                    self.write_reference(&rest[..len], out);
                    rest = &rest[len..];
                }
                _ => {}
            }
        }
    }

    /// Appends a Set-Cookie (RFC 6265 section 5.2): only Path and Domain change.
    fn write_cookie(&self, value: &[u8], out: &mut Vec<u8>) {
        // Browsers refuse a cookie of that name whose Path is not "/" or that has a Domain.
        let is_bound_to_host = trim_ows(value).get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"__Host-"));
        for (index, part) in split(value, b';').enumerate() {
            let start = out.len();
            if index > 0 {
                out.push(b';');
            }
            if index == 0 || is_bound_to_host {
                out.extend_from_slice(part);
                continue;
            }
            let equals = find(part, b'=');
            let (name, attribute) = part.split_at(equals.map_or(part.len(), |at| at + 1));
            let word = trim_ows(name.strip_suffix(b"=").unwrap_or(name));
            if is_word(word, b"path") && trim_ows(attribute).starts_with(b"/") {
                let path = trim_ows(attribute);
                let padding = attribute.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                out.extend_from_slice(name);
                out.extend_from_slice(&attribute[..padding]);
                match self.map_cookie_path(path) {
                    Mapped::Already | Mapped::Outside => out.extend_from_slice(path),
                    Mapped::Inside(rest) => self.write_path(rest, out),
                }
                out.extend_from_slice(&attribute[padding + path.len()..]);
            } else if is_word(word, b"domain") && self.is_foreign_domain(trim_ows(attribute)) {
                out.truncate(start);
            } else {
                out.extend_from_slice(part);
            }
        }
    }

    /// Whether a Domain takes in the upstream and not the name by which the client knows it: its browser would refuse the
    /// cookie. Without Domain it is a cookie of the host that the client asked.
    fn is_foreign_domain(&self, domain: &[u8]) -> bool {
        let takes_in = |host: &[u8]| is_in_domain(host, domain);
        (takes_in(self.upstream.host.as_bytes()) || takes_in(host_of(self.sent_host)))
            && !takes_in(host_of(self.client_host))
    }
}

/// Whether `path` is `parent`, or below it by whole segments.
fn is_under(path: &[u8], parent: &[u8]) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || parent.is_empty() || rest.starts_with(b"/"))
}

/// Scheme (whether it is https; `None` where the reference leaves it open), authority, and the length of both.
fn split_origin(reference: &[u8]) -> Option<(Option<bool>, &[u8], usize)> {
    let scheme = |text: &[u8]| reference.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
    let (secure, start) = if scheme(b"http://") {
        (Some(false), 7)
    } else if scheme(b"https://") {
        (Some(true), 8)
    } else if scheme(b"//") {
        (None, 2)
    } else {
        return None;
    };
    let len = reference[start..].iter().position(|&byte| byte == b'/').unwrap_or(reference.len() - start);
    Some((secure, &reference[start..start + len], start + len))
}

/// Where the URL of a Refresh stands (the algorithm is that of HTML, "shared declarative refresh steps").
fn url_of_refresh(value: &[u8]) -> Option<(usize, usize)> {
    let skip = |at: usize, wanted: fn(&u8) -> bool| {
        at + value[at..].iter().position(|byte| !wanted(byte)).unwrap_or(value.len() - at)
    };
    let is_space: fn(&u8) -> bool = u8::is_ascii_whitespace;
    let after_time = skip(0, |byte| byte.is_ascii_digit() || *byte == b'.');
    let separator = skip(after_time, is_space);
    let mut start = match value.get(separator) {
        Some(b';' | b',') => skip(separator + 1, is_space),
        Some(_) if separator > after_time => separator,
        Some(_) | None => return None,
    };
    if value[start..].get(..3).is_some_and(|word| word.eq_ignore_ascii_case(b"url")) {
        let equals = skip(start + 3, is_space);
        if value.get(equals) == Some(&b'=') {
            start = skip(equals + 1, is_space);
        }
    }
    match value.get(start) {
        Some(quote @ (b'"' | b'\'')) => {
            let len = value[start + 1..].iter().position(|byte| byte == quote);
            Some((start + 1, len.map_or(value.len(), |len| start + 1 + len)))
        }
        Some(_) => Some((start, value.len())),
        None => None,
    }
}

/// The host of a valid authority, without its port.
fn host_of(authority: &[u8]) -> &[u8] {
    let search_from = authority.iter().position(|&byte| byte == b']').unwrap_or(0);
    let colon = authority[search_from..].iter().position(|&byte| byte == b':');
    &authority[..colon.map_or(authority.len(), |at| search_from + at)]
}

/// RFC 6265 section 5.1.3: the host is the domain, or a name below it.
fn is_in_domain(host: &[u8], domain: &[u8]) -> bool {
    let domain = domain.strip_prefix(b".").unwrap_or(domain);
    let Some(at) = host.len().checked_sub(domain.len()).filter(|_| !domain.is_empty()) else { return false };
    let is_name = || host.last().is_some_and(|byte| !byte.is_ascii_digit());
    host[at..].eq_ignore_ascii_case(domain) && (at == 0 || (host[at - 1] == b'.' && is_name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    const AUTO: Rewrites = Rewrites { redirects: Rewrite::Auto, cookies: Rewrite::Auto };

    /// A route by what it strips and where it leads, and the Host that each side sees.
    struct Route {
        prefix: &'static str,
        upstream: UpstreamUrl,
        sent_host: &'static str,
        client_host: &'static str,
    }

    fn route(prefix: &'static str, upstream: &str) -> Route {
        let upstream = UpstreamUrl::parse(upstream).expect("a valid URL");
        Route { prefix, upstream, sent_host: "up.example:9001", client_host: "www.example" }
    }

    impl Route {
        fn place(&self, rewrites: Rewrites) -> Place<'_> {
            Place {
                rewrites,
                prefix: self.prefix,
                upstream: &self.upstream,
                sent_host: self.sent_host.as_bytes(),
                client_host: self.client_host.as_bytes(),
            }
        }

        /// What becomes of one field.
        fn map(&self, name: &str, value: &[u8]) -> Vec<u8> {
            let mut fields = Fields::new();
            fields.add(name.as_bytes(), value);
            map_back(&mut fields, &self.place(AUTO), &mut b"left over".to_vec());
            fields.get(0).expect("it stays").value.to_vec()
        }

        #[track_caller]
        fn check(&self, name: &str, value: &str, expected: &str) {
            let found = self.map(name, value.as_bytes());
            let upstream = self.upstream.to_public_string();
            assert_eq!(String::from_utf8_lossy(&found), expected, "{upstream} at {}: {name}: {value}", self.prefix);
        }
    }

    #[test]
    fn paths_and_urls_that_name_the_upstream_get_under_the_prefix() {
        let fitness = route("/fitness", "http://up.example:9001");
        for (value, expected) in [
            ("/login", "/fitness/login"),
            ("/", "/fitness/"),
            ("/?next=/a", "/fitness/?next=/a"),
            (
                "/a//b/../c%2F%66;v=1?q=/x&y=http://up.example:9001/#/z",
                "/fitness/a//b/../c%2F%66;v=1?q=/x&y=http://up.example:9001/#/z",
            ),
            ("http://up.example:9001/login?a#b", "/fitness/login?a#b"),
            ("HTTP://UP.example:9001/login", "/fitness/login"),
            ("http://up.example:9001", "/fitness/"),
            ("http://up.example:9001?x", "/fitness/?x"),
            ("http://up.example:9001#x", "/fitness/#x"),
            ("//up.example:9001/login", "/fitness/login"),
            ("http://up.example:9001//x", "/fitness//x"),
            ("/caf\u{e9}", "/fitness/caf\u{e9}"),
            // It knows its prefix.
            ("/fitness", "/fitness"),
            ("/fitness/login", "/fitness/login"),
            ("/fitness?x", "/fitness?x"),
            ("http://up.example:9001/fitness/login", "/fitness/login"),
            ("/fitnessx", "/fitness/fitnessx"),
            ("/Fitness/x", "/fitness/Fitness/x"),
            // Somebody else's.
            ("https://up.example:9001/login", "https://up.example:9001/login"),
            ("http://up.example/login", "http://up.example/login"),
            ("http://other.example:9001/login", "http://other.example:9001/login"),
            ("http://up.example:9001@other.example/", "http://up.example:9001@other.example/"),
            ("http://x@up.example:9001/", "http://x@up.example:9001/"),
            ("http://up.example:9001.other.example/", "http://up.example:9001.other.example/"),
            ("//other.example/login", "//other.example/login"),
            ("///login", "///login"),
            ("http:///login", "http:///login"),
            ("http:/login", "http:/login"),
            ("http://www.example/login", "http://www.example/login"),
            ("ftp://up.example:9001/", "ftp://up.example:9001/"),
            ("mailto:a@up.example", "mailto:a@up.example"),
            // Relative to the request, and so right already.
            ("login", "login"),
            ("./login", "./login"),
            ("../login", "../login"),
            ("?page=2", "?page=2"),
            ("#top", "#top"),
            ("", ""),
            // Read in two ways.
            ("/\\other.example/", "/\\other.example/"),
            ("/\t/other.example/", "/\t/other.example/"),
            ("http://up.example:9001\\@other.example/", "http://up.example:9001\\@other.example/"),
            ("/a?b=\\", "/fitness/a?b=\\"),
        ] {
            fitness.check("Location", value, expected);
            fitness.check("content-location", value, expected);
        }
    }

    #[test]
    fn a_base_path_is_taken_off() {
        let engine = route("/engine", "http://up.example:9001/base");
        for (value, expected) in [
            ("/base/x?q", "/engine/x?q"),
            ("/base", "/engine"),
            ("/base/", "/engine/"),
            ("/base?x", "/engine?x"),
            ("http://up.example:9001/base/x", "/engine/x"),
            ("http://up.example:9001/base", "/engine"),
            ("/engine/x", "/engine/x"),
            ("/engine", "/engine"),
            // No request could get there.
            ("/other", "/other"),
            ("/", "/"),
            ("/basement", "/basement"),
            ("http://up.example:9001/other", "http://up.example:9001/other"),
            ("http://up.example:9001", "http://up.example:9001"),
        ] {
            engine.check("Location", value, expected);
        }
        let root = route("", "http://up.example:9001/base");
        for (value, expected) in [
            ("/base/x", "/x"),
            ("/base", "/"),
            ("/base?x", "/?x"),
            ("/other", "/other"),
            ("http://up.example:9001/other", "http://up.example:9001/other"),
            // Without the dot these would lead to another host.
            ("/base//other.example/", "/.//other.example/"),
            ("http://up.example:9001/base//other.example/", "/.//other.example/"),
        ] {
            root.check("Location", value, expected);
        }
        // Of two places that contain each other, the longer one is meant.
        for (prefix, upstream, value, expected) in [
            ("/a", "http://up.example:9001/a", "/a/x", "/a/x"),
            ("/a", "http://up.example:9001/a", "/x", "/x"),
            ("/a", "http://up.example:9001/a/b", "/a/b/x", "/a/x"),
            ("/a", "http://up.example:9001/a/b", "/a/x", "/a/x"),
            ("/a/b", "http://up.example:9001/a", "/a/b/x", "/a/b/x"),
            ("/a/b", "http://up.example:9001/a", "/a/x", "/a/b/x"),
        ] {
            route(prefix, upstream).check("Location", value, expected);
        }
    }

    #[test]
    fn without_a_prefix_only_the_upstreams_name_goes() {
        let plain = route("", "http://up.example:9001");
        for (value, expected) in [
            ("/login", "/login"),
            ("http://up.example:9001/login", "/login"),
            ("http://up.example:9001//other.example/", "/.//other.example/"),
            ("http://other.example/login", "http://other.example/login"),
        ] {
            plain.check("Location", value, expected);
        }
    }

    #[test]
    fn g8_the_name_that_was_sent_is_the_upstreams_too() {
        let hosts = |upstream: &str, sent_host, client_host| Route { sent_host, client_host, ..route("/a", upstream) };
        for (name, route, value, expected) in [
            ("a fixed name", hosts("http://10.0.0.1", "app.test", "www.example"), "http://app.test/x", "/a/x"),
            ("its address", hosts("http://10.0.0.1", "app.test", "www.example"), "http://10.0.0.1:80/x", "/a/x"),
            ("the client's", hosts("http://10.0.0.1", "www.example", "www.example"), "http://www.example/x", "/a/x"),
            (
                "a change to https is kept",
                hosts("http://10.0.0.1", "www.example", "WWW.example"),
                "https://www.example/x",
                "https://www.example/a/x",
            ),
            (
                "under the prefix already",
                hosts("http://10.0.0.1", "www.example", "www.example"),
                "https://www.example/a/x",
                "https://www.example/a/x",
            ),
            (
                "https elsewhere",
                hosts("http://10.0.0.1", "app.test", "www.example"),
                "https://app.test/x",
                "https://app.test/x",
            ),
            ("https", hosts("https://up.example", "up.example", "www.example"), "https://up.example:443/x", "/a/x"),
            (
                "from https to http",
                hosts("https://up.example", "up.example", "www.example"),
                "http://up.example/x",
                "http://up.example/x",
            ),
            ("no scheme", hosts("https://up.example", "up.example", "www.example"), "//up.example:443/x", "/a/x"),
            ("IPv6", hosts("http://[::1]:8000", "[::1]:8000", "www.example"), "http://[::1]:8000/x", "/a/x"),
        ] {
            assert_eq!(String::from_utf8_lossy(&route.map("Location", value.as_bytes())), expected, "{name}");
        }
    }

    #[test]
    fn refresh_and_link_are_mapped_where_the_url_stands() {
        let fitness = route("/fitness", "http://up.example:9001");
        for (value, expected) in [
            ("5; url=/x", "5; url=/fitness/x"),
            ("0;URL=http://up.example:9001/x?a=b;c", "0;URL=/fitness/x?a=b;c"),
            ("0.5 , url = '/x' ; more", "0.5 , url = '/fitness/x' ; more"),
            ("1;url=\"/x", "1;url=\"/fitness/x"),
            ("1 /x", "1 /fitness/x"),
            ("1; /x", "1; /fitness/x"),
            ("1; url=/fitness/x", "1; url=/fitness/x"),
            ("1; url=http://other.example/x", "1; url=http://other.example/x"),
            ("5", "5"),
            ("5;", "5;"),
            ("5; url=", "5; url="),
            ("5; url='", "5; url='"),
            ("5; url=''", "5; url=''"),
            ("5; urlx", "5; urlx"),
            ("5/x", "5/x"),
            ("/x", "/x"),
            ("", ""),
        ] {
            fitness.check("Refresh", value, expected);
        }
        for (value, expected) in [
            ("</a.css>; rel=preload; as=style", "</fitness/a.css>; rel=preload; as=style"),
            (
                "</a>; title=\"</b> \\\" </c>\" , <http://up.example:9001/d>;rel=next,<http://other.example/e>",
                "</fitness/a>; title=\"</b> \\\" </c>\" , </fitness/d>;rel=next,<http://other.example/e>",
            ),
            ("</a>, <b>, </fitness/c>", "</fitness/a>, <b>, </fitness/c>"),
            ("</a", "</a"),
            ("<", "<"),
            ("<>", "<>"),
            ("\"\\", "\"\\"),
            ("", ""),
        ] {
            fitness.check("Link", value, expected);
        }
    }

    #[test]
    fn cookies_are_sent_back_to_the_application_and_nowhere_else() {
        let fitness = route("/fitness", "http://up.example:9001");
        for (value, expected) in [
            ("a=1; Path=/", "a=1; Path=/fitness"),
            ("a=1; Path=/users", "a=1; Path=/fitness/users"),
            ("a=1; Path=/users/", "a=1; Path=/fitness/users/"),
            ("a=1; Path=/fitness", "a=1; Path=/fitness"),
            ("a=1; Path=/fitness/x", "a=1; Path=/fitness/x"),
            ("a=1; Path=/fitnessx", "a=1; Path=/fitness/fitnessx"),
            // All else stays byte for byte.
            (
                "a=/x; b;  PATH = /  ;Max-Age=5; ;HttpOnly;SameSite=Lax;Expires=Thu, 01 Jan 2026 00:00:00 GMT;",
                "a=/x; b;  PATH = /fitness  ;Max-Age=5; ;HttpOnly;SameSite=Lax;Expires=Thu, 01 Jan 2026 00:00:00 GMT;",
            ),
            ("a=1", "a=1"),
            ("Path=/; x", "Path=/; x"),
            ("a=1; Path", "a=1; Path"),
            ("a=1; Path=", "a=1; Path="),
            ("a=1; Path=x", "a=1; Path=x"),
            ("a=1; Path=\"/\"", "a=1; Path=\"/\""),
            ("a=1; Path=/x; path=/y", "a=1; Path=/fitness/x; path=/fitness/y"),
            ("", ""),
            // A Domain of the upstream would be refused by the browser.
            ("a=1; Domain=up.example; Path=/", "a=1; Path=/fitness"),
            ("a=1; domain = .UP.example ;Secure", "a=1;Secure"),
            ("a=1; Domain=up.example", "a=1"),
            // One that takes in the client's name works as it is; one of somebody else never did.
            ("a=1; Domain=example", "a=1; Domain=example"),
            ("a=1; Domain=www.example", "a=1; Domain=www.example"),
            ("a=1; Domain=other.example", "a=1; Domain=other.example"),
            ("a=1; Domain=p.example", "a=1; Domain=p.example"),
            ("a=1; Domain=", "a=1; Domain="),
            // Bound to "/" by its name.
            ("__Host-a=1; Path=/; Secure", "__Host-a=1; Path=/; Secure"),
            ("__host-a=1; Path=/; Domain=up.example", "__host-a=1; Path=/; Domain=up.example"),
            ("__Secure-a=1; Path=/; Secure", "__Secure-a=1; Path=/fitness; Secure"),
        ] {
            fitness.check("Set-Cookie", value, expected);
        }
        for (prefix, upstream, value, expected) in [
            ("/engine", "http://up.example:9001/base", "a; Path=/base", "a; Path=/engine"),
            ("/engine", "http://up.example:9001/base", "a; Path=/base/", "a; Path=/engine/"),
            ("/engine", "http://up.example:9001/base", "a; Path=/base/x", "a; Path=/engine/x"),
            ("/engine", "http://up.example:9001/base", "a; Path=/", "a; Path=/engine"),
            ("/engine", "http://up.example:9001/base/more", "a; Path=/base", "a; Path=/engine"),
            ("/engine", "http://up.example:9001/base/more", "a; Path=/base/", "a; Path=/engine"),
            ("/engine", "http://up.example:9001/base", "a; Path=/other", "a; Path=/other"),
            ("/engine", "http://up.example:9001/base", "a; Path=/bas", "a; Path=/bas"),
            ("", "http://up.example:9001/base", "a; Path=/base", "a; Path=/"),
            ("", "http://up.example:9001/base", "a; Path=/base/x", "a; Path=/x"),
            ("", "http://up.example:9001/base", "a; Path=/", "a; Path=/"),
            ("", "http://up.example:9001", "a; Path=/x; Domain=up.example", "a; Path=/x"),
        ] {
            route(prefix, upstream).check("Set-Cookie", value, expected);
        }
        for (client_host, sent_host, value, expected) in [
            ("127.0.0.1:8080", "10.0.0.1:9001", "a; Domain=10.0.0.1", "a"),
            ("10.0.0.1:8080", "10.0.0.1:9001", "a; Domain=10.0.0.1", "a; Domain=10.0.0.1"),
            // An address has no names below it.
            ("10.0.0.1", "9.10.0.0.1", "a; Domain=0.0.1", "a; Domain=0.0.1"),
            ("", "app.test:80", "a; Domain=app.test", "a"),
            ("www.app.test", "app.test:80", "a; Domain=app.test", "a; Domain=app.test"),
        ] {
            let route = Route { client_host, sent_host, ..route("/a", "http://10.0.0.1:9001") };
            route.check("Set-Cookie", value, expected);
        }
    }

    #[test]
    fn what_is_off_stays_and_so_do_other_fields() {
        let lines = [("Location", "/x"), ("Set-Cookie", "a; Path=/"), ("X-Location", "/x"), ("Link", "</x>")];
        let off = Rewrite::Off;
        for (name, rewrites, expected) in [
            ("both", AUTO, "/p/x|a; Path=/p|/x|</p/x>|"),
            ("no redirects", Rewrites { redirects: off, ..AUTO }, "/x|a; Path=/p|/x|</x>|"),
            ("no cookies", Rewrites { cookies: off, ..AUTO }, "/p/x|a; Path=/|/x|</p/x>|"),
            ("neither", Rewrites { redirects: off, cookies: off }, "/x|a; Path=/|/x|</x>|"),
        ] {
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
            map_back(&mut fields, &route("/p", "http://up.example:9001").place(rewrites), &mut Vec::new());
            let found: String = fields.iter().map(|line| String::from_utf8_lossy(line.value) + "|").collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    /// Bytes that are likely to come close to something that is mapped.
    fn values() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "/",
            "//",
            "/a",
            "/a/",
            "/b",
            "http://",
            "HTTPS://",
            "up.example",
            ":9001",
            "www.example",
            "?",
            "#",
            "<",
            ">",
            "\"",
            "\\",
            ";",
            " ",
            "=",
            "Path",
            "path=/",
            "Domain",
            "url",
            "5;",
            "__Host-",
            ".",
            "..",
            "%2f",
            "x",
        ];
        let piece = prop::sample::select(pieces.to_vec()).prop_map(|piece: &str| piece.as_bytes().to_vec());
        let bytes = vec(any::<u8>().prop_filter("ends a line", |byte| !matches!(byte, b'\r' | b'\n' | 0)), 0..3);
        vec(prop_oneof![9 => piece, 1 => bytes], 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// Whatever an upstream sends: no line can be broken, and what is mapped stays where it is.
        #[test]
        fn s13_no_line_is_broken_and_what_is_mapped_stays(value in values(), which in 0..5_usize) {
            let name = ["Location", "Content-Location", "Refresh", "Link", "Set-Cookie"][which];
            for (prefix, upstream) in [
                ("/a", "http://up.example:9001"),
                ("/a", "http://up.example:9001/b"),
                ("", "http://up.example:9001"),
                ("/a/b", "https://up.example:9001/a"),
            ] {
                let route = route(prefix, upstream);
                let once = route.map(name, &value);
                let added = once.len().saturating_sub(value.len());
                prop_assert!(!once.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
                prop_assert!(added <= value.len().max(1) * (prefix.len() + 3), "it grows by a prefix for each URL at most");
                prop_assert_eq!(route.map(name, &once), once);
            }
        }

        /// A path that stays on the client's host does so after it was mapped.
        #[test]
        fn g8_a_path_never_leads_to_another_host(value in values()) {
            for (prefix, upstream) in [("", "http://up.example:9001/b"), ("", "http://up.example:9001"), ("/a", "http://up.example:9001/b")] {
                let mapped = route(prefix, upstream).map("Location", &value);
                if mapped != value {
                    prop_assert!(mapped.starts_with(b"/") && !mapped.starts_with(b"//"), "{:?}", mapped);
                }
            }
        }
    }
}
