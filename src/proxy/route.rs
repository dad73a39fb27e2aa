//! Routing: the most specific host, and of its routes the one with the longest prefix of whole path segments.
//!
//! All prefixes stand in one table, and a path is asked for segment by segment, up to as many as the longest prefix has: the
//! cost of a look-up does not depend on the number of routes, nor their memory on how many segments they have. Segments are
//! compared with percent-encoded unreserved characters decoded; what is forwarded is cut from the bytes as sent (rule G7).
//!
//! A host that routes are for has a number, and its prefixes stand in the same table, together with that number. Of a
//! request's host one is taken: the same name, else the longest `*.` that the name ends with. Where none of its prefixes
//! takes the path, the routes for all hosts are asked, and no other host's.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use hashbrown::{Equivalent, HashMap};

use crate::config::RouteConfig;
use crate::config::prefix::{self, MAX_PREFIX};
use crate::http::target::host_of;

/// What a path led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Index of the route in file order.
    pub route: u32,
    /// How many bytes of the path the prefix took: the rest begins with `/` or is empty.
    pub prefix_len: usize,
}

/// The routing table.
#[derive(Debug, Default)]
pub struct Router {
    routes: HashMap<RouteKey<Box<[u8]>>, u32>,
    /// The most segments that a prefix has.
    depth: usize,
    /// The numbers of the hosts that routes are for. `*.a.example` is `.a.example` here.
    hosts: HashMap<Box<[u8]>, u32>,
    /// The most labels that one with `*.` has.
    wildcard_depth: usize,
}

/// The longest name of a host, and an IPv6 address in brackets is shorter.
const MAX_HOST: usize = 253;

/// What stands in the table.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RouteKey<P> {
    /// The number of a host, or [`ALL_HOSTS`].
    host: u32,
    /// In its normal form: that of `/` is empty.
    prefix: P,
}

const ALL_HOSTS: u32 = u32::MAX;

impl Equivalent<RouteKey<Box<[u8]>>> for RouteKey<&[u8]> {
    fn equivalent(&self, key: &RouteKey<Box<[u8]>>) -> bool {
        (self.host, self.prefix) == (key.host, &*key.prefix)
    }
}

impl Router {
    /// Builds the table from prefixes for all hosts, in file order, which the configuration has checked: each begins with
    /// `/`, has no dot segments and no empty segments but perhaps a last one, and no two are the same.
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Router {
        let mut router = Router::default();
        (0..).zip(prefixes).for_each(|(route, prefix)| router.add(route, &[], prefix));
        router
    }

    /// Builds the table of these routes.
    pub fn of<'a>(routes: impl IntoIterator<Item = &'a RouteConfig>) -> Router {
        let mut router = Router::default();
        (0..).zip(routes).for_each(|(number, route)| router.add(number, &route.hosts, &route.prefix));
        router
    }

    fn add(&mut self, route: u32, hosts: &[Box<str>], prefix: &str) {
        self.depth = self.depth.max(prefix::segments(prefix).count());
        let normal = Box::<[u8]>::from(prefix::normal_form(prefix));
        for host in hosts {
            let name = host.strip_prefix('*').unwrap_or(host);
            if name.starts_with('.') {
                self.wildcard_depth = self.wildcard_depth.max(name.matches('.').count());
            }
            let next = self.hosts.len() as u32;
            let host = *self.hosts.entry(name.as_bytes().into()).or_insert(next);
            self.routes.insert(RouteKey { host, prefix: normal.clone() }, route);
        }
        if hosts.is_empty() {
            self.routes.insert(RouteKey { host: ALL_HOSTS, prefix: normal }, route);
        }
    }

    /// The route for `path` (as sent, without the query) of the host in `authority`, if any.
    pub fn find(&self, authority: &[u8], path: &[u8]) -> Option<Match> {
        // Where so many segments end.
        let end_of = |segments| (0..path.len()).filter(|&at| path[at] == b'/').nth(segments).unwrap_or(path.len());
        // What is longer than any prefix is not looked at.
        let normal = prefix::normalise(&path[..end_of(self.depth)]);
        let of_host = self.host(authority).and_then(|host| self.longest(host, &normal));
        let (route, len) = of_host.or_else(|| self.longest(ALL_HOSTS, &normal))?;
        let is_as_sent = matches!(normal, Cow::Borrowed(_));
        let segments = || normal[..len].iter().filter(|&&byte| byte == b'/').count();
        Some(Match { route, prefix_len: if is_as_sent { len } else { end_of(segments()) } })
    }

    /// Whether any route is for some hosts only.
    pub fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The number of the most specific host of a route that takes in the host of `authority`.
    pub fn host(&self, authority: &[u8]) -> Option<u32> {
        if !self.has_hosts() {
            return None;
        }
        let mut buf = [0; MAX_HOST];
        let host = normal_host(authority, &mut buf)?;
        let labels = host.iter().enumerate().rev().filter(|(at, byte)| *at > 0 && **byte == b'.');
        // The longest comes last.
        let wildcard = || labels.take(self.wildcard_depth).filter_map(|(at, _)| self.hosts.get(&host[at..])).last();
        self.hosts.get(host).or_else(wildcard).copied()
    }

    /// The route of `host` with the longest prefix of the path, which is in its normal form, and the length of that prefix.
    fn longest(&self, host: u32, normal: &[u8]) -> Option<(u32, usize)> {
        let at = |prefix: &[u8]| self.routes.get(&RouteKey { host, prefix }).map(|&route| (route, prefix.len()));
        let (mut best, mut len) = (None, 0);
        for _ in 0..self.depth {
            let Some(rest) = normal[len..].strip_prefix(b"/") else { break };
            len += 1 + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            if len > MAX_PREFIX {
                break;
            }
            best = at(&normal[..len]).or(best);
        }
        best.or_else(|| at(b""))
    }
}

/// The host of `authority` as hosts of routes are written: lower case, without port and without a dot at the end, the usual
/// spelling of an IPv6 address. `None` where it is too long for any.
fn normal_host<'a>(authority: &[u8], buf: &'a mut [u8; MAX_HOST]) -> Option<&'a [u8]> {
    let host = host_of(authority);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let literal = host.strip_prefix(b"[").and_then(|host| str::from_utf8(host.strip_suffix(b"]")?).ok());
    let address = literal.and_then(|literal| literal.parse::<Ipv6Addr>().ok()).map(|address| format!("[{address}]"));
    let host = address.as_ref().map_or(host, |address| address.as_bytes());
    // A name that begins with a dot has no label in front of it, and would be one with `*`.
    let normal = buf.get_mut(..host.len()).filter(|_| !host.starts_with(b"."))?;
    normal.copy_from_slice(host);
    normal.make_ascii_lowercase();
    Some(normal)
}

/// Appends the target to forward: `base_path` joined with what stands in `path` after its first `prefix_len` bytes, byte
/// for byte (rule G7), `/` where both are empty, then the query with its `?` (rule G6). A route that keeps its prefix
/// gives a `prefix_len` of 0.
pub fn write_target(out: &mut Vec<u8>, base_path: &str, path: &[u8], query: &[u8], prefix_len: usize) {
    let rest = &path[prefix_len..];
    out.extend_from_slice(base_path.as_bytes());
    out.extend_from_slice(rest);
    if base_path.is_empty() && rest.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(query);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::target::has_dot_segment;

    /// Routes `target` by one prefix and writes what is forwarded.
    fn forwarded(prefix: &str, base_path: &str, target: &str) -> Option<String> {
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let found = Router::new([prefix]).find(b"", path.as_bytes())?;
        let mut out = Vec::new();
        write_target(&mut out, base_path, path.as_bytes(), query.as_bytes(), found.prefix_len);
        Some(String::from_utf8(out).expect("ASCII in, ASCII out"))
    }

    #[test]
    fn g7_the_truth_table_of_routing_holds() {
        for (prefix, base_path, request, expected) in [
            // prefix     base     request                              forwarded
            ("/fitness", "", "/fitness/users/123?q=a%20b&q=", Some("/users/123?q=a%20b&q=")),
            ("/fitness", "", "/fitness", Some("/")),
            ("/fitness", "", "/fitness?x=1", Some("/?x=1")),
            ("/fitness", "", "/fitness/", Some("/")),
            ("/engine", "/base", "/engine/x", Some("/base/x")),
            ("/engine", "/base", "/engine", Some("/base")),
            ("/engine", "/base", "/engine/", Some("/base/")),
            ("/engine", "/base", "/engine?", Some("/base?")),
            ("/engine/", "/base", "/engine/x", Some("/base/x")),
            ("/engine/", "/base", "/engine", Some("/base")),
            ("/", "", "/a%2Fb//c;v=1", Some("/a%2Fb//c;v=1")),
            ("/", "/base", "/", Some("/base/")),
            ("/", "", "/", Some("/")),
            // Prefixes take whole segments.
            ("/api", "", "/api", Some("/")),
            ("/api", "", "/api/x", Some("/x")),
            ("/api", "", "/api?x", Some("/?x")),
            ("/api", "", "/apiary", None),
            ("/api", "", "/api;v=1", None),
            ("/api", "", "/ap", None),
            ("/api", "", "/API", None),
            ("/api", "", "//api", None),
            ("/api", "", "/", None),
            ("/api", "", "/api//x", Some("//x")),
            ("/a/b", "", "/a//b", None),
            // The prefix part is compared decoded, the rest is forwarded as it was sent.
            ("/fitness", "", "/%66itness/%66", Some("/%66")),
            ("/fitness", "", "/%66%69tness", Some("/")),
            ("/%66itness", "", "/fitness/x", Some("/x")),
            ("/a%2fb", "", "/a%2Fb/c", Some("/c")),
            ("/a%2Fb", "", "/a/b/c", None),
            ("/a/b", "", "/a%2Fb/c", None),
            ("/a", "", "/%2561", None),
            ("/a", "", "/a%", None),
        ] {
            assert_eq!(forwarded(prefix, base_path, request).as_deref(), expected, "{prefix} {request}");
        }
    }

    /// The last row of the table: these paths never come to a router.
    #[test]
    fn s20_paths_with_dot_segments_are_refused_before_routing() {
        for path in ["/a/../b", "/a/./b", "/a/%2e%2E/b", "/a/.%2e;x", "/a/..%2fb", "/a/..%5cb"] {
            assert!(has_dot_segment(path.as_bytes()), "{path}");
        }
        for path in ["/a/b", "/a/...", "/a/.well-known", "/a/%2Fb"] {
            assert!(!has_dot_segment(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let prefixes = ["/a/b", "/a", "/", "/a/b/c/d"];
        for (path, expected) in [
            ("/", (2, 0)),
            ("/x", (2, 0)),
            ("/a", (1, 2)),
            ("/a/", (1, 2)),
            ("/a/x", (1, 2)),
            ("/a/b", (0, 4)),
            // A longer prefix begins with it, but no route ends there.
            ("/a/b/c", (0, 4)),
            ("/a/b/c/d/e", (3, 8)),
            ("/a/%62/c/%64/e", (3, 12)),
        ] {
            let (route, prefix_len) = expected;
            assert_eq!(Router::new(prefixes).find(b"", path.as_bytes()), Some(Match { route, prefix_len }), "{path}");
            let reversed = Router::new(prefixes.into_iter().rev());
            assert_eq!(reversed.find(b"", path.as_bytes()), Some(Match { route: 3 - route, prefix_len }), "{path}");
        }
    }

    const HOSTS: &str = "routes:\n\
        - {hosts: [a.example, '[::1]', 127.0.0.1], prefix: /x, upstream: 'http://a'}\n\
        - {hosts: '*.example', prefix: /, upstream: 'http://a'}\n\
        - {hosts: ['*.b.example', B.example.], prefix: /x/y, upstream: 'http://a'}\n\
        - {hosts: '*.b.example', prefix: /x, upstream: 'http://a'}\n\
        - {hosts: c.b.example, prefix: /only, upstream: 'http://a'}\n\
        - {prefix: /x, upstream: 'http://a'}\n\
        - {prefix: /x/y/z, upstream: 'http://a'}\n";

    fn router(text: &str) -> Router {
        Router::of(crate::config::Config::parse(text, "test").unwrap_or_else(|error| panic!("{error}")).routes.iter())
    }

    #[test]
    fn g7_the_most_specific_host_is_taken_and_then_the_routes_for_all() {
        let long = format!("{}.b.example", ["a"; 121].join("."));
        let too_long = format!("aaaa.{long}");
        for (host, path, expected) in [
            // The host itself.
            ("a.example", "/x", Some(0)),
            ("a.example", "/x/y", Some(0)),
            ("a.example", "/x/y/z", Some(0)),
            ("a.example", "/other", None),
            ("A.Example", "/x", Some(0)),
            ("a.example:8080", "/x", Some(0)),
            ("a.example.", "/x", Some(0)),
            ("a.example.:80", "/x", Some(0)),
            ("a.example..", "/x", Some(5)),
            ("[::1]", "/x", Some(0)),
            ("[0:0::1]:8443", "/x", Some(0)),
            ("[::2]", "/x", Some(5)),
            ("127.0.0.1:80", "/x", Some(0)),
            ("b.example", "/x/y", Some(2)),
            ("b.example", "/x", Some(5)),
            // The longest of those with `*.`, and no shorter one where its prefixes do not take the path.
            ("z.example", "/q", Some(1)),
            ("y.z.example", "/q", Some(1)),
            ("z.b.example", "/x/y", Some(2)),
            ("z.b.example", "/x/z", Some(3)),
            ("z.y.b.example", "/x/z", Some(3)),
            ("z.b.example", "/q", None),
            ("c.b.example", "/only", Some(4)),
            ("c.b.example", "/x/y", Some(5)),
            ("c.b.example", "/x/y/z", Some(6)),
            (&long, "/x", Some(3)),
            (&too_long, "/x", Some(5)),
            // One label at least.
            (".b.example", "/x/z", Some(5)),
            (".example", "/x", Some(5)),
            ("example", "/x", Some(5)),
            ("xb.example", "/q", Some(1)),
            ("*.b.example", "/x/z", Some(3)),
            // None that routes are for.
            ("other.test", "/x", Some(5)),
            ("", "/x", Some(5)),
            ("", "/q", None),
            ("a.example/", "/x", Some(5)),
            ("a%2eexample", "/x", Some(5)),
        ] {
            let found = router(HOSTS).find(host.as_bytes(), path.as_bytes()).map(|found| found.route);
            assert_eq!(found, expected, "{host} {path}");
        }
        let prefix_len = router(HOSTS).find(b"z.b.example", b"/%78/y/z").map(|found| found.prefix_len);
        assert_eq!(prefix_len, Some(6));
        assert!(!Router::new(["/"]).has_hosts() && router(HOSTS).has_hosts());
    }

    #[test]
    fn g7_the_longest_prefix_of_a_host_is_found() {
        let prefix = "/a".repeat(MAX_PREFIX / 2);
        let text = format!(
            "routes:\n- {{prefix: /, upstream: 'http://a'}}\n- {{hosts: h, prefix: '{prefix}', upstream: 'http://a'}}\n"
        );
        let (path, expected) = (format!("{prefix}/b"), Match { route: 1, prefix_len: MAX_PREFIX });
        assert_eq!(router(&text).find(b"h", path.as_bytes()), Some(expected));
        assert_eq!(router(&text).find(b"i", path.as_bytes()), Some(Match { route: 0, prefix_len: 0 }));
    }

    #[test]
    fn a_kept_prefix_is_forwarded() {
        let mut out = Vec::new();
        write_target(&mut out, "/base", b"/engine/x", b"?q", 0);
        assert_eq!(out, b"/base/engine/x?q");
    }

    #[test]
    fn an_empty_table_and_an_empty_path_find_nothing() {
        assert_eq!(Router::default().find(b"", b"/"), None);
        assert_eq!(Router::new(["/a"]).find(b"", b""), None);
        assert_eq!(Router::new(["/a"]).find(b"", b"*"), None);
    }

    #[test]
    fn the_longest_prefix_that_there_may_be_is_found_and_what_is_longer_is_not_looked_for() {
        let prefix = "/a".repeat(MAX_PREFIX / 2);
        let router = Router::new([prefix.as_str(), "/a"]);
        for (path, expected) in [
            (prefix.clone(), (0, MAX_PREFIX)),
            (prefix.clone() + "/a", (0, MAX_PREFIX)),
            (prefix.replace('a', "%61"), (0, 2 * MAX_PREFIX)),
            (prefix[..MAX_PREFIX - 2].to_owned(), (1, 2)),
            (prefix.clone() + "b", (1, 2)),
            (format!("/a/{}", "b/".repeat(MAX_PREFIX)), (1, 2)),
        ] {
            let (route, prefix_len) = expected;
            assert_eq!(router.find(b"", path.as_bytes()), Some(Match { route, prefix_len }), "{path}");
        }
    }

    #[test]
    fn a_long_segment_that_no_prefix_reaches_is_not_looked_at() {
        let router = Router::new(["/a", "/"]);
        let path = format!("/a/{}", "%61".repeat(5000));
        assert_eq!(router.find(b"", path.as_bytes()), Some(Match { route: 0, prefix_len: 2 }));
    }
}
