//! `:path`: the client's target for the module, and the forwarded one that a change of it makes.

use mini_rproxy_plugin::RequestView;

/// What is forwarded where a module sets `:path`. It thinks in the client's targets: the route's prefix is mapped as it was
/// for the client's own. A path outside the route is forwarded as it is.
pub fn forwarded(request: &RequestView<'_>, path: &[u8]) -> Vec<u8> {
    let old = (request.original_target(), request.target());
    mapped(request.route_prefix(), old, path).unwrap_or_else(|| path.to_vec())
}

/// `old` is the client's target and the one that it was mapped to.
fn mapped(prefix: &[u8], old: (&[u8], &[u8]), path: &[u8]) -> Option<Vec<u8>> {
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    let rest = |target: &[u8]| {
        let rest = target.strip_prefix(prefix)?;
        match rest.first() {
            Some(b'/') => Some(rest.to_vec()),
            // `/app?a` and `/app` are `/app/?a` and `/app/` for the mapping.
            Some(b'?') | None => Some([b"/", rest].concat()),
            Some(_) => None,
        }
    };
    let base = old.1.strip_suffix(rest(old.0)?.as_slice())?;
    Some([base, &rest(path)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_path_is_mapped_like_the_clients() {
        let rows = [
            // prefix, the client's, the forwarded one, what the module sets, what is forwarded
            ("/", "/a", "/a", "/b?x=1", "/b?x=1"),
            ("/", "/a", "/base/a", "/b", "/base/b"),
            ("/api", "/api/users", "/users", "/api/v2/users", "/v2/users"),
            ("/api/", "/api/users", "/users", "/api/v2/users", "/v2/users"),
            ("/api", "/api/users?x", "/users?x", "/api/users", "/users"),
            ("/api", "/api/users", "/api/users", "/api/v2", "/api/v2"),
            ("/api", "/api/users", "/base/users", "/api/v2", "/base/v2"),
            ("/api", "/api", "/", "/api?x=1", "/?x=1"),
            ("/api", "/api", "/", "/api/v2", "/v2"),
            // Outside the route, and beside it.
            ("/api", "/api/users", "/users", "/other", "/other"),
            ("/api", "/api/users", "/users", "/apix", "/apix"),
            // Another plugin has changed the target: there is no mapping any more.
            ("/api", "/api/users", "/changed", "/api/v2", "/api/v2"),
        ];
        for (prefix, client, forwarded, set, expected) in rows {
            let old = (client.as_bytes(), forwarded.as_bytes());
            let new = mapped(prefix.as_bytes(), old, set.as_bytes()).unwrap_or_else(|| set.as_bytes().to_vec());
            assert_eq!(String::from_utf8(new).unwrap(), expected, "{prefix} {client} {set}");
        }
    }
}
