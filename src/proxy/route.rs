//! Routing: the longest prefix of whole path segments wins.
//!
//! All prefixes stand in one table, and a path is asked for segment by segment, up to as many as the longest prefix has: the
//! cost of a look-up does not depend on the number of routes, nor their memory on how many segments they have. Segments are
//! compared with percent-encoded unreserved characters decoded; what is forwarded is cut from the bytes as sent (rule G7).

use hashbrown::HashMap;

use crate::config::prefix::{self, MAX_PREFIX, MAX_SEGMENT};

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
    /// By prefix, in its normal form: that of `/` is empty.
    routes: HashMap<Box<[u8]>, u32>,
    /// The most segments that a prefix has.
    depth: usize,
}

impl Router {
    /// Builds the table from prefixes in file order, which the configuration has checked: each begins with `/`, has no
    /// dot segments and no empty segments but perhaps a last one, and no two are the same.
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Router {
        let mut router = Router::default();
        for (route, prefix) in (0..).zip(prefixes) {
            router.depth = router.depth.max(prefix::segments(prefix).count());
            router.routes.insert(prefix::normal_form(prefix).into(), route);
        }
        router
    }

    /// The route for `path` (as sent, without the query), if any.
    pub fn find(&self, path: &[u8]) -> Option<Match> {
        let matched = |normal: &[u8], prefix_len| self.routes.get(normal).map(|&route| Match { route, prefix_len });
        let mut best = matched(b"", 0);
        let (mut normal, mut buf) = ([0; MAX_PREFIX], [0; MAX_SEGMENT]);
        let (mut len, mut walked) = (0, 0);
        for _ in 0..self.depth {
            let Some(rest) = path[walked..].strip_prefix(b"/") else { break };
            let segment_len = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
            let Some(segment) = prefix::normalise(&rest[..segment_len], &mut buf) else { break };
            let Some([slash, place @ ..]) = normal.get_mut(len..=len + segment.len()) else { break };
            *slash = b'/';
            place.copy_from_slice(segment);
            len += 1 + segment.len();
            walked += 1 + segment_len;
            best = matched(&normal[..len], walked).or(best);
        }
        best
    }
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
        let found = Router::new([prefix]).find(path.as_bytes())?;
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
            assert_eq!(Router::new(prefixes).find(path.as_bytes()), Some(Match { route, prefix_len }), "{path}");
            let reversed = Router::new(prefixes.into_iter().rev());
            assert_eq!(reversed.find(path.as_bytes()), Some(Match { route: 3 - route, prefix_len }), "{path}");
        }
    }

    #[test]
    fn a_kept_prefix_is_forwarded() {
        let mut out = Vec::new();
        write_target(&mut out, "/base", b"/engine/x", b"?q", 0);
        assert_eq!(out, b"/base/engine/x?q");
    }

    #[test]
    fn an_empty_table_and_an_empty_path_find_nothing() {
        assert_eq!(Router::default().find(b"/"), None);
        assert_eq!(Router::new(["/a"]).find(b""), None);
        assert_eq!(Router::new(["/a"]).find(b"*"), None);
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
            assert_eq!(router.find(path.as_bytes()), Some(Match { route, prefix_len }), "{path}");
        }
    }

    #[test]
    fn a_long_segment_ends_the_walk() {
        let router = Router::new(["/a", "/"]);
        let path = format!("/a/{}", "%61".repeat(5000));
        assert_eq!(router.find(path.as_bytes()), Some(Match { route: 0, prefix_len: 2 }));
    }
}
