//! Applications under a prefix: what a response says about the place of the application is mapped back, from the place
//! that the upstream knows to the one that its clients see.
//!
//! | field | what is mapped | key |
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
//! another route of ours is left alone, because it may well be meant.
//!
//! Where a trusted proxy before us has stripped a prefix, it stands in front of ours in what is mapped.
//!
//! Of what is mapped only the place changes: query, fragment and all else stay byte for byte. Bytes are compared as they
//! are; nothing is decoded and no dot segment resolved. Bodies are not looked at.

use crate::config::{Rewrite, Rewrites, Scheme, UpstreamUrl};
use crate::http::chars::{find, is_word, list_members, split, trim_ows};
use crate::http::fields::{Fields, HeaderId, HeaderRef, HeaderSet};
use crate::http::target::{has_dot_segment, same_authority};
use crate::proxy::route::{Router, write_target};
use crate::proxy::runtime::Runtime;

const REDIRECTS: HeaderSet =
    HeaderSet::of(&[HeaderId::Location, HeaderId::ContentLocation, HeaderId::Refresh, HeaderId::Link]);

/// Where an application lives, seen from both sides of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What to map.
    pub rewrites: Rewrites,
    /// All routes.
    pub router: &'a Router,
    /// The number of this one.
    pub route: u32,
    /// The prefix that was stripped from the path, without a slash at its end; empty for none.
    pub prefix: &'a str,
    /// The same, behind what a trusted proxy before us has stripped: where clients find the application.
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

/// All fields of responses that may be mapped.
pub const MAPPABLE: HeaderSet = REDIRECTS.with(HeaderId::SetCookie);

/// All fields of requests that may be mapped.
pub const MAPPABLE_IN_REQUESTS: HeaderSet = HeaderSet::of(&[HeaderId::Destination, HeaderId::If]);

/// What became of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It is mapped.
    Done,
    /// It is as it was: mapped, it would be too large.
    TooLarge,
}

/// Maps the fields of a response, all or none: they may grow by `room` bytes. `text` is scratch space: where it is large
/// enough, nothing is allocated.
pub fn map_back(fields: &mut Fields, place: &Place<'_>, room: usize, text: &mut Vec<u8>) -> Mapping {
    // Most responses have no such field.
    let mapped = place.mapped();
    if !fields.may_contain_any(mapped) {
        return Mapping::Done;
    }
    if place.most_growth(fields, mapped) > room && !place.fits(fields, mapped, room, text) {
        return Mapping::TooLarge;
    }
    for index in 0..fields.len() {
        if !fields.is_any_of(index, mapped) {
            continue;
        }
        let Some(line) = fields.nth(index) else { continue };
        text.clear();
        place.write_value(&line, text, usize::MAX);
        let is_changed = text != line.value;
        if is_changed {
            fields.set_value(index, text);
        }
    }
    Mapping::Done
}

/// Maps Destination and If of a request (RFC 4918 sections 10.3 and 10.4) from the public place to the upstream's: a
/// server refuses to copy to a place that is not its own. A value that would be longer than `most` stays as it is.
pub fn map_forth(fields: &mut Fields, place: &Place<'_>, most: usize, text: &mut Vec<u8>) -> Mapping {
    let mut mapping = Mapping::Done;
    if place.rewrites.redirects == Rewrite::Off {
        return mapping;
    }
    for index in 0..fields.len() {
        let Some(line) = fields.nth(index) else { continue };
        text.clear();
        match line.id {
            HeaderId::Destination => place.write_destination(line.value, text),
            HeaderId::If => place.write_if(line.value, text, most),
            _ => continue,
        }
        let is_changed = text != line.value;
        if is_changed && text.len() > most {
            mapping = Mapping::TooLarge;
        } else if is_changed {
            fields.set_value(index, text);
        }
    }
    mapping
}

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped<'a> {
    /// It is right already.
    Already,
    /// It is under our own prefix, and lacks that of the proxy before us.
    UnderOurs,
    /// This part of it follows the prefix.
    Inside(&'a [u8]),
    /// It is none of the application.
    Outside,
}

/// Whose URL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The application's, by a name that only the upstream goes by.
    Upstream,
    /// The application's, perhaps, by a name that clients use too.
    Public {
        /// The scheme is not the upstream's: it wants to be asked so.
        keeps_origin: bool,
    },
    Other,
}

impl<'a> Place<'a> {
    /// A place without the names that a single request goes by.
    pub fn of(runtime: &'a Runtime, route: u32, upstream: &'a UpstreamUrl) -> Place<'a> {
        let config = &runtime.config.routes[route as usize];
        Place {
            rewrites: config.options.rewrites,
            router: &runtime.router,
            route,
            prefix: config.stripped_prefix(),
            public_prefix: b"",
            upstream,
            sent_host: b"",
            told_host: b"",
            client_host: b"",
        }
    }

    /// Which fields of a response are to be mapped.
    fn mapped(&self) -> HeaderSet {
        let redirects = match self.rewrites.redirects {
            Rewrite::Auto => REDIRECTS,
            Rewrite::Off => HeaderSet::default(),
        };
        match self.rewrites.cookies {
            Rewrite::Auto => redirects.with(HeaderId::SetCookie),
            Rewrite::Off => redirects,
        }
    }

    /// More than the fields can grow by: each URL gets the prefix, and perhaps `/.`.
    fn most_growth(&self, fields: &Fields, mapped: HeaderSet) -> usize {
        let urls = fields.iter().filter(|line| mapped.has(line.id)).map(|line| match line.id {
            HeaderId::Link => line.value.iter().filter(|&&byte| byte == b'<').count(),
            HeaderId::SetCookie => line.value.iter().filter(|&&byte| byte == b';').count(),
            _ => 1,
        });
        urls.sum::<usize>().saturating_mul(self.public_prefix.len() + 2)
    }

    /// Whether the fields grow by no more than `room`.
    #[cold]
    fn fits(&self, fields: &Fields, mapped: HeaderSet, room: usize, text: &mut Vec<u8>) -> bool {
        let lines = || fields.iter().filter(|line| mapped.has(line.id));
        let most = lines().map(|line| line.value.len()).sum::<usize>() + room;
        let mut len = 0;
        lines().all(|line| {
            text.clear();
            self.write_value(&line, text, most);
            len += text.len();
            len <= most
        })
    }

    /// Appends the value of a response's line, mapped; it may end early when `out` is longer than `most`.
    fn write_value(&self, line: &HeaderRef<'_>, out: &mut Vec<u8>, most: usize) {
        match line.id {
            HeaderId::Refresh => self.write_refresh(line.value, out),
            HeaderId::Link => self.write_links(line.value, out, most),
            HeaderId::SetCookie => self.write_cookie(line.value, out, most),
            _ => self.write_reference(line.value, out),
        }
    }

    fn base(&self) -> &'a [u8] {
        self.upstream.base_path.as_bytes()
    }

    /// What a trusted proxy before us has stripped.
    fn outer_prefix(&self) -> &'a [u8] {
        self.public_prefix.strip_suffix(self.prefix.as_bytes()).unwrap_or_default()
    }

    /// Appends a URI reference (RFC 3986 section 4.1), mapped where it leads to the application.
    fn write_reference(&self, reference: &[u8], out: &mut Vec<u8>) {
        let Some(Reference { origin, path, query }) = Reference::split(reference) else {
            return out.extend_from_slice(reference);
        };
        let owner = origin.map_or(Owner::Upstream, |origin| self.owner(&origin));
        let mapped = self.map_path(path);
        let is_left_alone = match owner {
            Owner::Other => true,
            Owner::Public { .. } => self.is_of_another_route(path),
            Owner::Upstream => false,
        };
        if is_left_alone || mapped == Mapped::Outside {
            return out.extend_from_slice(reference);
        }
        let start = out.len();
        if let (Owner::Public { keeps_origin: true }, Some(origin)) = (owner, origin) {
            out.extend_from_slice(origin.text);
        }
        self.write_mapped(path, mapped, out);
        if out[start..].starts_with(b"//") {
            // It would lead to another host (RFC 3986 section 4.2).
            out.splice(start..start, *b"/.");
        }
        out.extend_from_slice(query);
    }

    /// Appends the path at which clients find what became of `path`.
    fn write_mapped(&self, path: &[u8], mapped: Mapped<'_>, out: &mut Vec<u8>) {
        match mapped {
            Mapped::Already | Mapped::Outside => out.extend_from_slice(path),
            Mapped::UnderOurs => {
                out.extend_from_slice(self.outer_prefix());
                out.extend_from_slice(path);
            }
            Mapped::Inside(rest) => {
                out.extend_from_slice(self.public_prefix);
                out.extend_from_slice(rest);
                if self.public_prefix.is_empty() && rest.is_empty() {
                    out.push(b'/');
                }
            }
        }
    }

    fn owner(&self, origin: &Origin<'_>) -> Owner {
        let is = |name: &[u8]| is_same_name(origin.authority, name);
        let is_sent = is(self.sent_host);
        let upstream_secure = self.upstream.scheme == Scheme::Https;
        if list_members(self.told_host).any(is) || (is_sent && is(self.client_host)) {
            Owner::Public { keeps_origin: origin.secure.is_some_and(|secure| secure != upstream_secure) }
        } else if is_sent || is(self.upstream.authority.as_bytes()) {
            Owner::Upstream
        } else {
            Owner::Other
        }
    }

    /// Whether a path of the public place belongs to another route of ours; one for `/` takes whatever there is, which says
    /// nothing.
    fn is_of_another_route(&self, path: &[u8]) -> bool {
        let outer = self.outer_prefix();
        let found = if is_under(path, outer) { self.router.find(&path[outer.len()..]) } else { None };
        found.is_some_and(|found| found.route != self.route && found.prefix_len > 0)
    }

    /// What becomes of `path`, which begins with a slash. Where it is under the prefix and under the base path, the longer
    /// of them decides.
    fn map_path<'p>(&self, path: &'p [u8]) -> Mapped<'p> {
        let base = self.base();
        let is_inside = is_under(path, base);
        let is_at =
            |prefix: &[u8]| !prefix.is_empty() && is_under(path, prefix) && !(is_inside && base.len() > prefix.len());
        if is_at(self.public_prefix) {
            Mapped::Already
        } else if is_at(self.prefix.as_bytes()) {
            Mapped::UnderOurs
        } else if is_inside {
            Mapped::Inside(&path[base.len()..])
        } else {
            Mapped::Outside
        }
    }

    /// Appends a reference to the public place of the application, mapped to where the upstream has it. RFC 4918 section 10.3:
    /// a URL or a path.
    fn write_destination(&self, reference: &[u8], out: &mut Vec<u8>) {
        let as_it_is = |out: &mut Vec<u8>| out.extend_from_slice(reference);
        let Some(Reference { origin, path, query }) = Reference::split(reference) else { return as_it_is(out) };
        let outer = self.outer_prefix();
        let path = if is_under(path, outer) { &path[outer.len()..] } else { path };
        // What a request for it would become.
        let found = self.router.find(path).filter(|found| found.route == self.route && !has_dot_segment(path));
        let Some(found) = found else { return as_it_is(out) };
        if let Some(origin) = origin {
            let is = |name: &[u8]| is_same_name(origin.authority, name);
            if !is(self.client_host) && !list_members(self.told_host).any(is) {
                return as_it_is(out);
            }
            out.extend_from_slice(self.upstream.scheme.name().as_bytes());
            out.extend_from_slice(b"://");
            out.extend_from_slice(self.sent_host);
        }
        let stripped = if self.prefix.is_empty() { 0 } else { found.prefix_len };
        write_target(out, &self.upstream.base_path, path, query, stripped);
    }

    /// Appends an If: the resources stand in angle brackets in front of the lists, state tokens and entity tags within them
    /// (RFC 4918 section 10.4.2). It may end early when `out` is longer than `most`.
    fn write_if(&self, value: &[u8], out: &mut Vec<u8>, most: usize) {
        let mut rest = value;
        while let Some((&byte, after)) = rest.split_first()
            && out.len() <= most
        {
            let end = match byte {
                b'<' => b'>',
                b'(' => b')',
                _ => {
                    out.push(byte);
                    rest = after;
                    continue;
                }
            };
            let Some(len) = find(after, end) else { break };
            out.push(byte);
            if byte == b'<' {
                self.write_destination(&after[..len], out)
            } else {
                out.extend_from_slice(&after[..len])
            }
            rest = &after[len..];
        }
        out.extend_from_slice(rest);
    }

    /// What becomes of the Path of a cookie. One that takes in the whole application takes in the whole prefix:
    /// `/engine`, because `/engine/` would leave out `/engine` itself (RFC 6265 section 5.1.4).
    fn map_cookie_path<'p>(&self, path: &'p [u8]) -> Mapped<'p> {
        let above = path.strip_suffix(b"/").unwrap_or(path);
        match self.map_path(path) {
            Mapped::Already => Mapped::Already,
            Mapped::UnderOurs => Mapped::UnderOurs,
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
    fn write_links(&self, value: &[u8], out: &mut Vec<u8>, most: usize) {
        let mut rest = value;
        let mut is_quoted = false;
        while let Some((&byte, after)) = rest.split_first()
            && out.len() <= most
        {
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
    fn write_cookie(&self, value: &[u8], out: &mut Vec<u8>, most: usize) {
        // Browsers refuse a cookie of that name whose Path is not "/" or that has a Domain.
        let is_bound_to_host = trim_ows(value).get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"__Host-"));
        for (index, part) in split(value, b';').enumerate() {
            let start = out.len();
            if start > most {
                return;
            }
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
                self.write_mapped(path, self.map_cookie_path(path), out);
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

/// Whether two authorities are one name, and one port whichever of both schemes has it for its own.
fn is_same_name(a: &[u8], b: &[u8]) -> bool {
    !b.is_empty() && (same_authority(a, b, false) || same_authority(a, b, true))
}

/// A reference that begins with a path or a host, taken apart.
struct Reference<'a> {
    origin: Option<Origin<'a>>,
    /// Begins with a slash.
    path: &'a [u8],
    /// Query and fragment, with `?` and `#`.
    query: &'a [u8],
}

/// Where a URL leads, before its path.
#[derive(Clone, Copy)]
struct Origin<'a> {
    /// Whether it says https; `None` where it says no scheme.
    secure: Option<bool>,
    authority: &'a [u8],
    /// All of it.
    text: &'a [u8],
}

impl<'a> Reference<'a> {
    /// `None` for a relative one, other schemes, and what two readers may read differently: browsers take a backslash for a
    /// slash and skip tabs.
    fn split(reference: &'a [u8]) -> Option<Reference<'a>> {
        let path_end = reference.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(reference.len());
        let (start, query) = reference.split_at(path_end);
        if start.iter().any(|byte| matches!(byte, b'\\' | b'\t')) {
            return None;
        }
        let origin = split_origin(start);
        if origin.is_none() && !start.starts_with(b"/") {
            return None;
        }
        let path = &start[origin.map_or(0, |origin| origin.text.len())..];
        Some(Reference { origin, path: if path.is_empty() { b"/" } else { path }, query })
    }
}

fn split_origin(reference: &[u8]) -> Option<Origin<'_>> {
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
    let end = reference[start..].iter().position(|&byte| byte == b'/').map_or(reference.len(), |len| start + len);
    Some(Origin { secure, authority: &reference[start..end], text: &reference[..end] })
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

    const AUTO: Rewrites = Rewrites { redirects: Rewrite::Auto, cookies: Rewrite::Auto, redirect_to_slash: false };

    /// A route by what it strips and where it leads, and the Host that each side sees. There are others beside it.
    struct Route {
        router: Router,
        prefix: &'static str,
        outer: &'static str,
        upstream: UpstreamUrl,
        sent_host: &'static str,
        told_host: &'static str,
        client_host: &'static str,
    }

    fn route(prefix: &'static str, upstream: &str) -> Route {
        let router = Router::new([if prefix.is_empty() { "/" } else { prefix }, "/other", "/another/one"]);
        let upstream = UpstreamUrl::parse(upstream).expect("a valid URL");
        let (sent_host, client_host) = ("up.example:9001", "www.example");
        Route { router, prefix, outer: "", upstream, sent_host, told_host: "", client_host }
    }

    impl Route {
        /// Calls `act` with the place.
        fn with_place<T>(&self, rewrites: Rewrites, act: impl FnOnce(&Place<'_>) -> T) -> T {
            act(&Place {
                rewrites,
                router: &self.router,
                route: 0,
                prefix: self.prefix,
                public_prefix: [self.outer, self.prefix].concat().as_bytes(),
                upstream: &self.upstream,
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
            assert_eq!(self.with_place(AUTO, |place| map_back(&mut fields, place, room, &mut text)), Mapping::Done);
            fields.nth(0).expect("it stays").value.to_vec()
        }

        /// What becomes of one field of a request.
        fn map_forth(&self, name: &str, value: &str) -> String {
            let mut fields = Fields::new();
            fields.add(name.as_bytes(), value.as_bytes());
            self.with_place(AUTO, |place| map_forth(&mut fields, place, 1000, &mut b"left over".to_vec()));
            String::from_utf8_lossy(fields.nth(0).expect("it stays").value).into_owned()
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
        let router = Router::new(["/a", "/"]);
        let beside_all = Route { router, ..told("www.example") };
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
            assert_eq!(dav.map_forth("Destination", value), expected, "{value}");
        }
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
            assert_eq!(dav.map_forth("If", value), expected, "{value}");
        }
        // It would not be a head any more.
        let (longest, too_long) = ("</dav>".repeat(1000 / 7), "</dav>".repeat(1000 / 7 + 1));
        assert_eq!(dav.map_forth("If", &longest), "</base>".repeat(1000 / 7));
        assert_eq!(dav.map_forth("If", &too_long), too_long);
        let behind = Route { outer: "/p", ..route("/dav", "http://up.example:9001") };
        for value in ["http://www.example/p/dav/x", "http://www.example/dav/x"] {
            assert_eq!(behind.map_forth("Destination", value), "http://up.example:9001/x", "{value}");
        }
        let kept = Route { prefix: "", router: Router::new(["/dav"]), ..route("", "http://up.example:9001") };
        assert_eq!(kept.map_forth("Destination", "http://www.example/dav/x"), "http://up.example:9001/dav/x");
    }

    #[test]
    fn e4_a_head_that_would_be_too_large_stays_as_it_was() {
        let route = route("/fitness", "http://up.example:9001");
        let links = "</>,".repeat(100);
        for (lines, room, expected) in [
            (&[("Link", &*links)][..], 800, Mapping::Done),
            (&[("Link", &*links)], 799, Mapping::TooLarge),
            (&[("Link", &*links), ("Location", "/x")], 800, Mapping::TooLarge),
            (&[("Location", "/x"), ("Link", &*links)], 807, Mapping::TooLarge),
            (&[("Location", "/x"), ("Link", &*links)], 808, Mapping::Done),
            // What becomes shorter makes room.
            (&[("Location", "http://up.example:9001/x"), ("Link", &*links)], 786, Mapping::Done),
            (&[("Location", "http://up.example:9001/x"), ("Link", &*links)], 785, Mapping::TooLarge),
            (&[("Set-Cookie", "a;Path=/;Path=/")], 15, Mapping::Done),
            (&[("Set-Cookie", "a;Path=/;Path=/")], 13, Mapping::TooLarge),
            // None of it is mapped.
            (&[("Link", "<x>,<y>,<z>")], 0, Mapping::Done),
        ] {
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
            let mut text = Vec::new();
            let before: Vec<_> = fields.iter().map(|line| line.value.to_vec()).collect();
            let len = |fields: &Fields| fields.iter().map(|line| line.value.len()).sum::<usize>();
            let most = len(&fields) + room;
            let found = route.with_place(AUTO, |place| map_back(&mut fields, place, room, &mut text));
            assert_eq!(found, expected, "{lines:?} {room}");
            if found == Mapping::TooLarge {
                assert_eq!(fields.iter().map(|line| line.value.to_vec()).collect::<Vec<_>>(), before);
            }
            assert!(len(&fields) <= most, "{lines:?} {room}");
        }
        // What is tried is bounded too.
        let mut fields = Fields::new();
        fields.add(b"Link", "</>,".repeat(4096).as_bytes());
        let mut text = Vec::new();
        route.with_place(AUTO, |place| map_back(&mut fields, place, 100, &mut text));
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
            ("no redirects", Rewrites { redirects: off, ..AUTO }, "/x|a; Path=/p|/x|</x>|"),
            ("no cookies", Rewrites { cookies: off, ..AUTO }, "/p/x|a; Path=/|/x|</p/x>|"),
            ("neither", Rewrites { redirects: off, cookies: off, ..AUTO }, "/x|a; Path=/|/x|</x>|"),
        ] {
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
            let route = route("/p", "http://up.example:9001");
            route.with_place(rewrites, |place| map_back(&mut fields, place, 1000, &mut Vec::new()));
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
                    let mut fields = Fields::new();
                    fields.add(name.as_bytes(), &value);
                    let most = route.with_place(AUTO, |place| place.most_growth(&fields, MAPPABLE));
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
