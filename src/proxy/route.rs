//! Routing: the longest prefix of whole path segments wins.
//!
//! A tree of segments: a look-up walks the path once and stops where the tree ends, so that its cost depends on the
//! path and not on the number of routes. Segments are compared with percent-encoded unreserved characters decoded;
//! what is forwarded is cut from the bytes as sent (rule G7).

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
    _nodes: (),
}

impl Router {
    /// Builds the table from prefixes in file order, which the configuration has checked: each begins with `/`, has no
    /// dot segments and no empty segments but perhaps a last one, and no two are the same.
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Router {
        let _ = prefixes.into_iter();
        todo!()
    }

    /// The route for `path` (as sent, without the query), if any.
    pub fn find(&self, path: &[u8]) -> Option<Match> {
        todo!("{path:?}")
    }
}
