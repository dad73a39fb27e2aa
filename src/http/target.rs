//! Request targets (RFC 9112 section 3.2), authorities (RFC 9110 section 7.2) and dot segments.

/// What is wrong with a target or a Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    // one variant per sin, Display, rule() ("S11", "S12", "S20"); the status is always 400
}

/// A request target, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/path?query`; the query keeps its `?` and is empty where there is none.
    Origin { path: &'a [u8], query: &'a [u8] },
    /// `http://authority/path?query`; an empty path is given as `/`.
    Absolute { secure: bool, authority: &'a [u8], path: &'a [u8], query: &'a [u8] },
    /// `*`
    Asterisk,
    /// `host:port`, for CONNECT only.
    Authority(&'a [u8]),
}

/// Takes `target` apart. Refuses controls, spaces, bytes from 0x80, `#`, backslashes are left to [`has_dot_segment`].
/// `is_connect` and `is_options` say which forms the method allows.
pub fn parse_target(target: &[u8], is_connect: bool, is_options: bool) -> Result<Target<'_>, TargetError> {
    todo!("{target:?} {is_connect} {is_options}")
}

/// Whether a segment of `path` is `.` or `..` after percent-decoding, where `/`, `\`, `%2F` and `%5C` all end a segment
/// and `;` begins its parameters (rule S20).
pub fn has_dot_segment(path: &[u8]) -> bool {
    todo!("{path:?}")
}

/// Whether `authority` is a valid Host value: `host`, `host:port`, `[v6]`, `[v6]:port`; no userinfo, no comma, no path.
/// Empty is valid (RFC 9110 section 7.2) and left to the caller to judge.
pub fn is_authority(authority: &[u8]) -> bool {
    todo!("{authority:?}")
}

/// Whether two authorities name the same host and port: case does not matter, the default port (80, or 443 when
/// `secure`) is equal to none.
pub fn same_authority(a: &[u8], b: &[u8], secure: bool) -> bool {
    todo!("{a:?} {b:?} {secure}")
}
