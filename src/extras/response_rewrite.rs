//! Applications under a prefix: what a response says about the application's place is rewritten, from the place that the
//! upstream knows to the one that its clients see.
//!
//! | field | what is rewritten | key |
//! |---|---|---|
//! | Location, Content-Location, Refresh, Link | URLs that name the application, and paths | `rewrite_redirects` |
//! | Set-Cookie | Path and Domain | `rewrite_cookies` |
//! | Destination and If of WebDAV requests | the other way round: URLs that name the public place, and paths | `rewrite_redirects` |
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
//! A URL names the application by the upstream's authority, or by the one that it was sent in Host or X-Forwarded-Host,
//! whether it says http or https: many frameworks write the scheme of X-Forwarded-Proto. It loses scheme and authority,
//! because a path is right whatever name, port and protocol the client used. Two things are different where the name is
//! one that clients use too: a scheme that is not the upstream's is kept, with the authority, and a path that belongs to
//! another route is left alone, because it may well be meant.
//!
//! A prefix that a trusted proxy before this one has stripped comes in front. Only the place changes: query, fragment and
//! all else stay byte for byte. Bytes are compared as they are, nothing is decoded, and bodies are not looked at.

use crate::config::{Rewrite, RouteConfig, Scheme, UpstreamUrl};
use crate::http::chars::{find, is_word, list_members, split};
use crate::http::fields::{Fields, HeaderId, HeaderRef, HeaderSet};
use crate::http::target::{has_dot_segment, host_of, same_authority, split_scheme};
use crate::proxy::route::write_target;
use crate::proxy::runtime::Runtime;

const REDIRECTS: HeaderSet =
    HeaderSet::of(&[HeaderId::Location, HeaderId::ContentLocation, HeaderId::Refresh, HeaderId::Link]);

/// All fields of responses that may be rewritten.
pub const RESPONSE_FIELDS: HeaderSet = REDIRECTS.with(HeaderId::SetCookie);

/// All fields of requests that may be rewritten.
pub const REQUEST_FIELDS: HeaderSet = HeaderSet::of(&[HeaderId::Destination, HeaderId::If]);

/// Where an application lives, seen from both sides of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct PrefixMap<'a> {
    /// All routes.
    pub runtime: &'a Runtime,
    /// The number of this one.
    pub route: u32,
    /// Where clients find the application: the prefix that was stripped from the path, behind what a trusted proxy before
    /// this one has stripped; without a slash at its end, and empty for none.
    pub public_prefix: &'a [u8],
    /// Where the request went.
    pub upstream: &'a UpstreamUrl,
    /// The Host that was sent to the upstream.
    pub sent_host: &'a [u8],
    /// The X-Forwarded-Host that was sent to the upstream: a name, a list of them, or empty for none.
    pub told_host: &'a [u8],
    /// The Host that the client sent; empty for none.
    pub client_host: &'a [u8],
}

/// Rewrites the fields of a response, all or none: they may grow by `room` bytes. Returns whether that was enough. `buf` is
/// scratch space: where it is large enough, nothing is allocated.
pub fn rewrite_response(fields: &mut Fields, map: &PrefixMap<'_>, room: usize, buf: &mut Vec<u8>) -> bool {
    let options = &map.config().options;
    let redirects = if options.rewrite_redirects == Rewrite::Off { HeaderSet::default() } else { REDIRECTS };
    let no_cookies = options.rewrite_cookies == Rewrite::Off;
    let rewritten = if no_cookies { redirects } else { redirects.with(HeaderId::SetCookie) };
    rewrite(fields, rewritten, room, buf, |line, buf, limit| match line.id {
        HeaderId::Refresh => map.write_refresh(line.value, buf),
        HeaderId::Link => write_bracketed(line.value, *b"\"\"", buf, limit, |url, buf| map.write_reference(url, buf)),
        HeaderId::SetCookie => map.write_cookie(line.value, buf, limit),
        _ => map.write_reference(line.value, buf),
    })
}

/// Rewrites Destination and If of a request (RFC 4918 sections 10.3 and 10.4) from the public place to the upstream's,
/// because a server refuses to copy to a place that is not its own: all or none, to at most `limit` bytes together. Returns
/// whether that was enough.
pub fn rewrite_request(fields: &mut Fields, map: &PrefixMap<'_>, limit: usize, buf: &mut Vec<u8>) -> bool {
    if map.config().options.rewrite_redirects == Rewrite::Off {
        return true;
    }
    let before = fields.lines(REQUEST_FIELDS).map(|line| line.value.len()).sum();
    rewrite(fields, REQUEST_FIELDS, limit.saturating_sub(before), buf, |line, buf, limit| match line.id {
        // In front of the lists; state tokens and entity tags stand within them.
        HeaderId::If => write_bracketed(line.value, *b"()", buf, limit, |url, buf| map.write_destination(url, buf)),
        _ => map.write_destination(line.value, buf),
    })
}

/// Lets Destination and If, which were rewritten for upstream `old`, name `new` instead. All upstreams of a route have one
/// base path.
pub fn readdress_request(fields: &mut Fields, old: &UpstreamUrl, new: &UpstreamUrl) {
    let origin = |upstream: &UpstreamUrl| format!("{}://{}/", upstream.scheme.name(), upstream.host_value());
    for index in fields.indices(REQUEST_FIELDS).collect::<Vec<_>>() {
        if let Some(value) = fields.nth(index).and_then(|line| str::from_utf8(line.value).ok()) {
            let value = value.replace(&origin(old), &origin(new));
            fields.set_value(index, value.as_bytes());
        }
    }
}

/// Gives the lines of these names what `write` makes of them, unless they grow by more than `room` bytes: what one saves,
/// those behind it may use. `write` is told where the buffer may end.
fn rewrite(
    fields: &mut Fields,
    ids: HeaderSet,
    mut room: usize,
    buf: &mut Vec<u8>,
    write: impl Fn(&HeaderRef<'_>, &mut Vec<u8>, usize),
) -> bool {
    const NUMBER: usize = size_of::<usize>();
    // Of each line that changes: index, length and bytes of the new value.
    buf.clear();
    for index in fields.indices(ids) {
        let Some(line) = fields.nth(index) else { break };
        let (entry, start) = (buf.len(), buf.len() + 2 * NUMBER);
        buf.extend_from_slice(&index.to_ne_bytes());
        buf.extend_from_slice(&[0; NUMBER]);
        let max = line.value.len().saturating_add(room);
        write(&line, buf, start.saturating_add(max));
        let len = buf.len() - start;
        if len > max {
            return false;
        }
        room = max - len;
        if buf[start..] == *line.value {
            buf.truncate(entry);
        } else {
            buf[start - NUMBER..start].copy_from_slice(&len.to_ne_bytes());
        }
    }
    let mut rest = &buf[..];
    while let Some((index, after)) = rest.split_first_chunk()
        && let Some((len, after)) = after.split_first_chunk()
    {
        let (value, others) = after.split_at(usize::from_ne_bytes(*len));
        fields.set_value(usize::from_ne_bytes(*index), value);
        rest = others;
    }
    true
}

impl PrefixMap<'_> {
    fn config(&self) -> &RouteConfig {
        &self.runtime.config.routes[self.route as usize]
    }

    fn prefix(&self) -> &[u8] {
        self.config().stripped_prefix().as_bytes()
    }

    fn base(&self) -> &[u8] {
        self.upstream.base_path.as_bytes()
    }

    /// What a trusted proxy before this one has stripped.
    fn outer_prefix(&self) -> &[u8] {
        self.public_prefix.strip_suffix(self.prefix()).unwrap_or_default()
    }

    /// Whether the upstream was told that it goes by that name.
    fn is_told(&self, authority: &[u8]) -> bool {
        list_members(self.told_host).any(|name| is_same_name(authority, name))
    }

    /// Appends a URI reference (RFC 3986 section 4.1), rewritten where it leads to the application.
    fn write_reference(&self, reference: &[u8], out: &mut Vec<u8>) {
        let url = Url::split(reference);
        let public = url.and_then(|url| Some((self.kept_origin(&url)?, self.public_path(url.path)?, url.query)));
        let Some((origin, [prefix, rest], query)) = public else { return out.extend_from_slice(reference) };
        let start = out.len();
        [origin, prefix, rest, query].into_iter().for_each(|part| out.extend_from_slice(part));
        if out[start..].starts_with(b"//") {
            // It would lead to another host (RFC 3986 section 4.2).
            out.splice(start..start, *b"/.");
        }
    }

    /// What remains of scheme and authority; `None` where they are not the application's.
    fn kept_origin<'u>(&self, url: &Url<'u>) -> Option<&'u [u8]> {
        if url.origin.is_empty() {
            return Some(b"");
        }
        let is_sent = is_same_name(url.authority, self.sent_host);
        if self.is_told(url.authority) || (is_sent && is_same_name(url.authority, self.client_host)) {
            let is_kept = url.scheme.is_some_and(|scheme| scheme != self.upstream.scheme);
            return (!self.is_of_another_route(url.path)).then_some(if is_kept { url.origin } else { b"" });
        }
        (is_sent || is_same_name(url.authority, self.upstream.host_value().as_bytes())).then_some(b"")
    }

    /// Whether a path of the public place belongs to another route; one for `/` takes whatever there is, which says nothing.
    fn is_of_another_route(&self, path: &[u8]) -> bool {
        let found =
            strip_parent(path, self.outer_prefix()).and_then(|path| self.runtime.router.find(self.client_host, path));
        found.is_some_and(|found| found.route != self.route && found.prefix_len > 0)
    }

    /// The path at which clients find `path`, in two parts; `None` where it is not the application's. What stands there with
    /// its prefix already stays; where it is under the prefix and under the base path, the longer of them decides.
    fn public_path<'p>(&'p self, path: &'p [u8]) -> Option<[&'p [u8]; 2]> {
        let prefixes = [self.public_prefix, self.prefix()].into_iter().filter(|prefix| !prefix.is_empty());
        let parents = prefixes.chain([self.base()]);
        let rest = parents.filter_map(|parent| strip_parent(path, parent)).min_by_key(|rest| rest.len())?;
        Some([self.public_prefix, if self.public_prefix.is_empty() && rest.is_empty() { b"/" } else { rest }])
    }

    /// The same for the Path of a cookie. One that takes in the whole application takes in the whole prefix: `/engine`,
    /// because `/engine/` would leave out `/engine` itself (RFC 6265 section 5.1.4).
    fn public_cookie_path<'p>(&'p self, path: &'p [u8]) -> Option<[&'p [u8]; 2]> {
        let application = self.public_path(self.base());
        if path == b"/" && self.base().is_empty() {
            return application;
        }
        let directory = path.strip_suffix(b"/").unwrap_or(path);
        self.public_path(path).or_else(|| strip_parent(self.base(), directory).and(application))
    }

    /// Appends a reference to the public place of the application, rewritten to where the upstream has it: a URL or a path.
    fn write_destination(&self, reference: &[u8], out: &mut Vec<u8>) {
        let place = Url::split(reference).and_then(|url| {
            let path = strip_parent(url.path, self.outer_prefix()).unwrap_or(url.path);
            // What a request for it would become.
            let found = self.runtime.router.find(self.client_host, path).filter(|found| found.route == self.route)?;
            let is_public = self.is_told(url.authority) || is_same_name(url.authority, self.client_host);
            ((url.origin.is_empty() || is_public) && !has_dot_segment(path)).then_some((url, path, found.prefix_len))
        });
        let Some((url, path, prefix_len)) = place else { return out.extend_from_slice(reference) };
        let stripped = if self.prefix().is_empty() { 0 } else { prefix_len };
        // A path that begins with two slashes would lead to another host.
        if !url.origin.is_empty() || (self.base().is_empty() && path[stripped..].starts_with(b"//")) {
            out.extend_from_slice(self.upstream.scheme.name().as_bytes());
            out.extend_from_slice(b"://");
            out.extend_from_slice(self.sent_host);
        }
        write_target(out, &self.upstream.base_path, path, url.query, stripped);
    }

    /// Appends a Refresh: `5; url=/path`, as browsers read it, with quotes or without.
    fn write_refresh(&self, value: &[u8], out: &mut Vec<u8>) {
        let rest = rest_of_refresh(value);
        let (start, end) = match *rest {
            [quote @ (b'"' | b'\''), ref url @ ..] => (1, 1 + find(url, quote).unwrap_or(url.len())),
            _ => (0, rest.len()),
        };
        out.extend_from_slice(&value[..value.len() - rest.len() + start]);
        self.write_reference(&rest[start..end], out);
        out.extend_from_slice(&rest[end..]);
    }

    /// Appends a Set-Cookie (RFC 6265 section 5.2): only Path and Domain change. It may end early beyond `limit`.
    fn write_cookie(&self, value: &[u8], out: &mut Vec<u8>, limit: usize) {
        // Browsers refuse a cookie of that name whose Path is not "/" or that has a Domain.
        if value.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"__Host-")) {
            return out.extend_from_slice(value);
        }
        let mut parts = split(value, b';');
        out.extend_from_slice(parts.next().unwrap_or_default());
        for attribute in parts {
            let start = out.len();
            if start > limit {
                return;
            }
            out.push(b';');
            out.extend_from_slice(attribute);
            let (b'D' | b'd' | b'P' | b'p') = attribute.trim_ascii().first().unwrap_or(&0) else { continue };
            let Some(equals) = find(attribute, b'=') else { continue };
            let (word, argument) = (attribute[..equals].trim_ascii(), attribute[equals + 1..].trim_ascii());
            if is_word(word, b"domain") && self.is_foreign_domain(argument) {
                out.truncate(start);
            } else if is_word(word, b"path")
                && let Some(slash) = find(attribute, b'/').filter(|_| argument.starts_with(b"/"))
                && let Some([prefix, rest]) = self.public_cookie_path(argument)
            {
                out.truncate(start + 1 + slash);
                let after = &attribute[slash + argument.len()..];
                [prefix, rest, after].into_iter().for_each(|part| out.extend_from_slice(part));
            }
        }
    }

    /// Whether a Domain takes in the upstream and not the name by which the client knows it: its browser would refuse the
    /// cookie. Without Domain it is a cookie of the host that the client asked.
    fn is_foreign_domain(&self, domain: &[u8]) -> bool {
        let takes_in = |host: &[u8]| is_in_domain(host, domain);
        (takes_in(host_of(self.upstream.host_value().as_bytes())) || takes_in(host_of(self.sent_host)))
            && !takes_in(host_of(self.client_host))
    }
}

/// What follows `parent` in `path`, which is the same or below it by whole segments.
fn strip_parent<'p>(path: &'p [u8], parent: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(parent).filter(|rest| rest.is_empty() || parent.is_empty() || rest.starts_with(b"/"))
}

/// Whether two authorities are one name, and one port whichever of both schemes has it for its own.
fn is_same_name(a: &[u8], b: &[u8]) -> bool {
    !b.is_empty() && (same_authority(a, b, Scheme::Http) || same_authority(a, b, Scheme::Https))
}

/// Appends `value` with what `write` makes of the references in angle brackets, outside of what stands between the two
/// `quotes`: quoted strings in a Link (RFC 8288 section 3), lists in an If. It may end early beyond `limit`.
fn write_bracketed(
    value: &[u8],
    [open, close]: [u8; 2],
    out: &mut Vec<u8>,
    limit: usize,
    write: impl Fn(&[u8], &mut Vec<u8>),
) {
    let mut rest = value;
    while let Some(start) = rest.iter().position(|&byte| byte == b'<' || byte == open)
        && out.len() <= limit
    {
        let (before, after) = rest.split_at(start + 1);
        out.extend_from_slice(before);
        rest = after;
        let end = if before[start] == b'<' { b'>' } else { close };
        let mut is_escaped = false;
        let len = rest.iter().position(|&byte| {
            let is_end = byte == end && !is_escaped;
            is_escaped = end == b'"' && byte == b'\\' && !is_escaped;
            is_end
        });
        let Some(len) = len else { break };
        if end == b'>' {
            write(&rest[..len], out);
        } else {
            out.extend_from_slice(&rest[..len]);
        }
        out.push(end);
        rest = &rest[len + 1..];
    }
    out.extend_from_slice(rest);
}

/// A reference that begins with a path or a host, taken apart.
struct Url<'a> {
    scheme: Option<Scheme>,
    /// Scheme and authority; empty where it begins with a path.
    origin: &'a [u8],
    authority: &'a [u8],
    /// Begins with a slash.
    path: &'a [u8],
    /// Query and fragment, with `?` and `#`.
    query: &'a [u8],
}

impl<'a> Url<'a> {
    /// `None` for a relative one, other schemes, and what two readers may read differently: browsers take a backslash for a
    /// slash and skip tabs.
    fn split(reference: &'a [u8]) -> Option<Url<'a>> {
        let path_end = reference.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(reference.len());
        let (start, query) = reference.split_at(path_end);
        if start.iter().any(|byte| matches!(byte, b'\\' | b'\t')) {
            return None;
        }
        let (scheme, rest) = match (split_scheme(start), start) {
            (Some((scheme, rest)), _) => (Some(scheme), rest),
            (None, [b'/', b'/', rest @ ..]) => (None, rest),
            (None, [b'/', ..]) => return Some(Url { scheme: None, origin: b"", authority: b"", path: start, query }),
            (None, _) => return None,
        };
        let (authority, path) = rest.split_at(find(rest, b'/').unwrap_or(rest.len()));
        let origin = &start[..start.len() - path.len()];
        Some(Url { scheme, origin, authority, path: if path.is_empty() { b"/" } else { path }, query })
    }
}

/// What begins with the URL of a Refresh, perhaps in quotes; empty where there is none (the algorithm is that of HTML, "shared
/// declarative refresh steps").
fn rest_of_refresh(value: &[u8]) -> &[u8] {
    let time_len = value.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let after_time = &value[time_len..];
    let url = match after_time.trim_ascii_start() {
        [b';' | b',', url @ ..] => url.trim_ascii_start(),
        url if url.len() < after_time.len() => url,
        _ => b"",
    };
    match url.split_at_checked(3) {
        Some((word, rest)) if word.eq_ignore_ascii_case(b"url") => {
            rest.trim_ascii_start().strip_prefix(b"=").map_or(url, <[u8]>::trim_ascii_start)
        }
        _ => url,
    }
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
    use crate::config::{Config, RouteOptions, RouteTarget};
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    /// Of redirects, and of cookies.
    const AUTO: [Rewrite; 2] = [Rewrite::Auto; 2];

    /// A route and the Host that each side sees.
    struct Route {
        runtime: Runtime,
        outer: &'static str,
        sent_host: &'static str,
        told_host: &'static str,
        client_host: &'static str,
    }

    /// The first of these prefixes leads to the upstream.
    fn runtime(prefixes: &[&str], strip_prefix: bool, upstream: &str, rewrites: [Rewrite; 2]) -> Runtime {
        let [rewrite_redirects, rewrite_cookies] = rewrites;
        let target = RouteTarget::Upstreams(Arc::new([UpstreamUrl::parse(upstream).expect("a valid URL")]));
        let options = RouteOptions { rewrite_redirects, rewrite_cookies, strip_prefix, ..RouteOptions::default() };
        let options = Arc::new(options);
        let route = |prefix: &&str| {
            let (target, options) = (target.clone(), Arc::clone(&options));
            RouteConfig { hosts: Arc::default(), prefix: (*prefix).to_owned(), target, options }
        };
        let routes = Arc::new(prefixes.iter().map(route).collect());
        Runtime::new(Arc::new(Config { routes, ..Config::default() }), None)
    }

    /// There are others beside it.
    fn route(prefix: &str, upstream: &str) -> Route {
        let prefix = if prefix.is_empty() { "/" } else { prefix };
        let runtime = runtime(&[prefix, "/other", "/another/one"], true, upstream, AUTO);
        Route { runtime, outer: "", sent_host: "up.example:9001", told_host: "", client_host: "www.example" }
    }

    impl Route {
        fn config(&self) -> &RouteConfig {
            &self.runtime.config.routes[0]
        }

        /// Calls `act` with the map.
        fn with_map<T>(&self, act: impl FnOnce(&PrefixMap<'_>) -> T) -> T {
            act(&PrefixMap {
                runtime: &self.runtime,
                route: 0,
                public_prefix: [self.outer, self.config().stripped_prefix()].concat().as_bytes(),
                upstream: &self.config().upstreams()[0],
                sent_host: self.sent_host.as_bytes(),
                told_host: self.told_host.as_bytes(),
                client_host: self.client_host.as_bytes(),
            })
        }

        /// What becomes of one field.
        fn map(&self, name: &str, value: &[u8]) -> Vec<u8> {
            let mut fields = Fields::new();
            fields.add(name.as_bytes(), value);
            let mut text = b"left over".to_vec();
            let room = usize::MAX / 2;
            assert!(self.with_map(|map| rewrite_response(&mut fields, map, room, &mut text)));
            fields.nth(0).expect("it stays").value.to_vec()
        }

        /// What becomes of one field of a request.
        fn map_request(&self, name: &str, value: &str) -> String {
            let mut fields = Fields::new();
            fields.add(name.as_bytes(), value.as_bytes());
            self.with_map(|map| rewrite_request(&mut fields, map, 1000, &mut b"left over".to_vec()));
            String::from_utf8_lossy(fields.nth(0).expect("it stays").value).into_owned()
        }

        #[track_caller]
        fn check(&self, name: &str, value: &str, expected: &str) {
            let found = self.map(name, value.as_bytes());
            let (upstream, prefix) = (&self.config().upstreams()[0], &self.config().prefix);
            assert_eq!(String::from_utf8_lossy(&found), expected, "{upstream} at {prefix}: {name}: {value}");
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
            ("https://up.example:9001/login", "/fitness/login"),
            // Somebody else's.
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
                "https, by a name of its own",
                hosts("http://10.0.0.1", "app.test", "www.example"),
                "https://app.test/x",
                "/a/x",
            ),
            ("https and its port", hosts("http://10.0.0.1", "app.test", "w"), "https://10.0.0.1:443/x", "/a/x"),
            ("another port", hosts("http://10.0.0.1", "app.test", "w"), "http://10.0.0.1:81/x", "http://10.0.0.1:81/x"),
            ("https", hosts("https://up.example", "up.example", "www.example"), "https://up.example:443/x", "/a/x"),
            (
                "from https to http",
                hosts("https://up.example", "up.example", "www.example"),
                "http://up.example/x",
                "/a/x",
            ),
            ("no scheme", hosts("https://up.example", "up.example", "www.example"), "//up.example:443/x", "/a/x"),
            ("IPv6", hosts("http://[::1]:8000", "[::1]:8000", "www.example"), "http://[::1]:8000/x", "/a/x"),
        ] {
            assert_eq!(String::from_utf8_lossy(&route.map("Location", value.as_bytes())), expected, "{name}");
        }
    }

    #[test]
    fn the_name_that_clients_use_is_the_applications_but_not_where_another_route_is() {
        let told = |told_host| Route { told_host, ..route("/a", "http://up.example:9001") };
        for (told_host, value, expected) in [
            ("www.example", "http://www.example/x", "/a/x"),
            ("www.example", "//www.example/x?q", "/a/x?q"),
            ("www.example", "https://www.example/x", "https://www.example/a/x"),
            ("www.example", "https://www.example/a/x", "https://www.example/a/x"),
            ("www.example", "https://www.example", "https://www.example/a/"),
            ("www.example", "http://www.example:80/x", "/a/x"),
            ("www.example", "http://www.example:81/x", "http://www.example:81/x"),
            ("public.example, www.example", "https://public.example/x", "https://public.example/a/x"),
            ("", "http://www.example/x", "http://www.example/x"),
            // They belong to other routes.
            ("www.example", "http://www.example/other", "http://www.example/other"),
            ("www.example", "https://www.example/%6fther/x?q", "https://www.example/%6fther/x?q"),
            ("www.example", "http://www.example/another/one", "http://www.example/another/one"),
            ("www.example", "http://www.example/another", "/a/another"),
            // By a name of its own, or by none, only its own paths can be meant.
            ("www.example", "http://up.example:9001/other", "/a/other"),
            ("www.example", "/other", "/a/other"),
        ] {
            told(told_host).check("Location", value, expected);
        }
        // A route for all that no other takes says nothing about a path.
        let runtime = runtime(&["/a", "/"], true, "http://up.example:9001", AUTO);
        let beside_all = Route { runtime, ..told("www.example") };
        beside_all.check("Location", "https://www.example/x", "https://www.example/a/x");
    }

    #[test]
    fn the_prefix_of_a_trusted_proxy_stands_in_front() {
        let behind = |prefix, upstream| Route { outer: "/p", told_host: "www.example", ..route(prefix, upstream) };
        let plain = behind("/b", "http://up.example:9001");
        for (value, expected) in [
            ("/login", "/p/b/login"),
            ("/p/b/login", "/p/b/login"),
            ("/p/b", "/p/b"),
            ("/b/login", "/p/b/login"),
            ("/p/login", "/p/b/p/login"),
            ("https://www.example/p/b/login", "https://www.example/p/b/login"),
            ("https://www.example/login", "https://www.example/p/b/login"),
            ("https://www.example/p/other/x", "https://www.example/p/other/x"),
            ("https://www.example/other/x", "https://www.example/p/b/other/x"),
        ] {
            plain.check("Location", value, expected);
        }
        plain.check("Set-Cookie", "a; Path=/", "a; Path=/p/b");
        plain.check("Set-Cookie", "a; Path=/b/x", "a; Path=/p/b/x");
        plain.check("Set-Cookie", "a; Path=/p/b", "a; Path=/p/b");
        let root = behind("", "http://up.example:9001");
        root.check("Location", "/login", "/p/login");
        root.check("Location", "/p/login", "/p/login");
        let base = behind("/b", "http://up.example:9001/base");
        base.check("Location", "/base/x", "/p/b/x");
        base.check("Location", "/elsewhere", "/elsewhere");
    }

    #[test]
    fn destinations_lead_to_the_upstream() {
        let dav = Route { told_host: "public.example", ..route("/dav", "https://up.example:9001/base") };
        for (value, expected) in [
            ("http://www.example/dav/x%20y?q", "https://up.example:9001/base/x%20y?q"),
            ("https://WWW.example/dav/x", "https://up.example:9001/base/x"),
            ("https://public.example/d%61v/x", "https://up.example:9001/base/x"),
            ("http://www.example:80/dav", "https://up.example:9001/base"),
            ("/dav/x", "/base/x"),
            // None of this application.
            ("http://www.example/other/x", "http://www.example/other/x"),
            ("http://www.example/davx", "http://www.example/davx"),
            ("http://www.example/dav/../x", "http://www.example/dav/../x"),
            ("http://other.example/dav/x", "http://other.example/dav/x"),
            ("http://up.example:9001/base/x", "http://up.example:9001/base/x"),
            ("ftp://www.example/dav/x", "ftp://www.example/dav/x"),
            ("dav/x", "dav/x"),
            ("", ""),
        ] {
            assert_eq!(dav.map_request("Destination", value), expected, "{value}");
        }
        // A path that would lead to another host.
        let root = route("/dav", "http://up.example:9001");
        assert_eq!(root.map_request("Destination", "/dav//x"), "http://up.example:9001//x");
        assert_eq!(root.map_request("If", "</dav//x> (<a>)"), "<http://up.example:9001//x> (<a>)");
        for (value, expected) in [
            ("(<urn:uuid:1> [\"/dav/x)\"])", "(<urn:uuid:1> [\"/dav/x)\"])"),
            (
                "<http://www.example/dav/x> (<urn:uuid:1>) (Not <DAV:no-lock>) </dav/y>(<http://www.example/dav/t>)",
                "<https://up.example:9001/base/x> (<urn:uuid:1>) (Not <DAV:no-lock>) </base/y>(<http://www.example/dav/t>)",
            ),
            ("<http://www.example/dav/x", "<http://www.example/dav/x"),
            ("(<urn:uuid:1>", "(<urn:uuid:1>"),
            ("", ""),
        ] {
            assert_eq!(dav.map_request("If", value), expected, "{value}");
        }
        // It would not be a head any more.
        let (longest, too_long) = ("</dav>".repeat(1000 / 7), "</dav>".repeat(1000 / 7 + 1));
        assert_eq!(dav.map_request("If", &longest), "</base>".repeat(1000 / 7));
        assert_eq!(dav.map_request("If", &too_long), too_long);
        let mut fields = Fields::new();
        (0..3).for_each(|_| fields.add(b"If", longest.as_bytes()));
        let found = dav.with_map(|map| rewrite_request(&mut fields, map, 1000, &mut Vec::new()));
        let is_untouched = fields.iter().all(|line| line.value == longest.as_bytes());
        assert!(!found && is_untouched, "all of them together have to fit");
        let behind = Route { outer: "/p", ..route("/dav", "http://up.example:9001") };
        for value in ["http://www.example/p/dav/x", "http://www.example/dav/x"] {
            assert_eq!(behind.map_request("Destination", value), "http://up.example:9001/x", "{value}");
        }
        let runtime = runtime(&["/dav"], false, "http://up.example:9001", AUTO);
        let kept = Route { runtime, ..route("", "http://up.example:9001") };
        assert_eq!(kept.map_request("Destination", "http://www.example/dav/x"), "http://up.example:9001/dav/x");
    }

    #[test]
    fn e4_a_head_that_would_be_too_large_stays_as_it_was() {
        let route = route("/fitness", "http://up.example:9001");
        let links = "</>,".repeat(100);
        for (lines, room, expected) in [
            (&[("Link", &*links)][..], 800, true),
            (&[("Link", &*links)], 799, false),
            (&[("Link", &*links), ("Location", "/x")], 800, false),
            (&[("Location", "/x"), ("Link", &*links)], 807, false),
            (&[("Location", "/x"), ("Link", &*links)], 808, true),
            // What becomes shorter makes room.
            (&[("Location", "http://up.example:9001/x"), ("Link", &*links)], 786, true),
            (&[("Location", "http://up.example:9001/x"), ("Link", &*links)], 785, false),
            (&[("Set-Cookie", "a;Path=/;Path=/")], 15, true),
            (&[("Set-Cookie", "a;Path=/;Path=/")], 13, false),
            // None of it is mapped.
            (&[("Link", "<x>,<y>,<z>")], 0, true),
        ] {
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
            let mut text = Vec::new();
            let before: Vec<_> = fields.iter().map(|line| line.value.to_vec()).collect();
            let len = |fields: &Fields| fields.iter().map(|line| line.value.len()).sum::<usize>();
            let most = len(&fields) + room;
            let found = route.with_map(|map| rewrite_response(&mut fields, map, room, &mut text));
            assert_eq!(found, expected, "{lines:?} {room}");
            if !found {
                assert_eq!(fields.iter().map(|line| line.value.to_vec()).collect::<Vec<_>>(), before);
            }
            assert!(len(&fields) <= most, "{lines:?} {room}");
        }
        // What is tried is bounded too.
        let mut fields = Fields::new();
        fields.add(b"Link", "</>,".repeat(4096).as_bytes());
        let mut text = Vec::new();
        route.with_map(|map| rewrite_response(&mut fields, map, 100, &mut text));
        assert!(text.capacity() <= 2 * 16_600, "{}", text.capacity());
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
            ("no redirects", [off, Rewrite::Auto], "/x|a; Path=/p|/x|</x>|"),
            ("no cookies", [Rewrite::Auto, off], "/p/x|a; Path=/|/x|</p/x>|"),
            ("neither", [off, off], "/x|a; Path=/|/x|</x>|"),
        ] {
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
            let runtime = runtime(&["/p"], true, "http://up.example:9001", rewrites);
            let route = Route { runtime, ..route("/p", "http://up.example:9001") };
            route.with_map(|map| rewrite_response(&mut fields, map, 1000, &mut Vec::new()));
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
                for (outer, told_host) in [("", ""), ("", "www.example"), ("/p", "www.example")] {
                    let route = Route { outer, told_host, ..route(prefix, upstream) };
                    let once = route.map(name, &value);
                    // Each URL gets the prefix, and perhaps `/.`.
                    let urls = 1 + value.iter().filter(|byte| matches!(byte, b'<' | b';')).count();
                    let most = urls * (outer.len() + prefix.len() + 2);
                    prop_assert!(!once.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
                    prop_assert!(once.len() <= value.len() + most, "it grows by a prefix for each URL at most");
                    prop_assert_eq!(route.map(name, &once), once);
                }
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
