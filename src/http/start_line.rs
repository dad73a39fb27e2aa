//! The parts of a start line that come from a fixed set: versions, methods, reason phrases.

/// A protocol version that the proxy speaks (RFC 9112 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// A request method (RFC 9110 section 9).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each variant is the method that it stands for")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    /// An extension method: any other token, case kept.
    Other(Box<[u8]>),
}

static METHODS: [(&[u8], Method); 9] = [
    (b"GET", Method::Get),
    (b"HEAD", Method::Head),
    (b"POST", Method::Post),
    (b"PUT", Method::Put),
    (b"DELETE", Method::Delete),
    (b"CONNECT", Method::Connect),
    (b"OPTIONS", Method::Options),
    (b"TRACE", Method::Trace),
    (b"PATCH", Method::Patch),
];

impl Method {
    /// The method that `token` names; methods are case-sensitive.
    pub fn of(token: &[u8]) -> Method {
        let known = METHODS.iter().find(|(name, _)| *name == token);
        known.map_or_else(|| Method::Other(token.into()), |(_, method)| method.clone())
    }

    /// As it stands on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Method::Other(token) => token,
            known => METHODS.iter().find(|(_, method)| method == known).map_or(b"", |(name, _)| name),
        }
    }

    /// RFC 9110 section 9.2.2: the same request twice has the effect of one.
    pub fn is_idempotent(&self) -> bool {
        use Method::{Delete, Get, Head, Options, Put, Trace};
        matches!(self, Get | Head | Put | Delete | Options | Trace)
    }
}

/// The usual reason phrase of a status code (RFC 9110 section 15), empty where there is none.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn methods_are_case_sensitive_and_written_as_they_were_read() {
        for (token, method, idempotent) in [
            (&b"GET"[..], Method::Get, true),
            (b"HEAD", Method::Head, true),
            (b"POST", Method::Post, false),
            (b"PUT", Method::Put, true),
            (b"DELETE", Method::Delete, true),
            (b"CONNECT", Method::Connect, false),
            (b"OPTIONS", Method::Options, true),
            (b"TRACE", Method::Trace, true),
            (b"PATCH", Method::Patch, false),
            (b"get", Method::Other(b"get"[..].into()), false),
            (b"PROPFIND", Method::Other(b"PROPFIND"[..].into()), false),
        ] {
            assert_eq!(Method::of(token), method);
            assert_eq!(method.as_bytes(), token);
            assert_eq!(method.is_idempotent(), idempotent, "{method:?}");
        }
    }

    #[test]
    fn usual_statuses_have_a_phrase() {
        for (status, phrase) in [(200, "OK"), (304, "Not Modified"), (502, "Bad Gateway"), (299, ""), (0, "")] {
            assert_eq!(reason_phrase(status), phrase);
        }
    }

    #[test]
    fn reasons_are_clean_and_each_status_has_its_own() {
        let mut known = HashSet::new();
        for phrase in (0..=u16::MAX).map(reason_phrase).filter(|phrase| !phrase.is_empty()) {
            assert!(phrase.bytes().all(|byte| byte.is_ascii_alphabetic() || b" -".contains(&byte)), "{phrase:?}");
            assert!(known.insert(phrase), "{phrase} for two");
        }
        // RFC 9110 section 15, RFC 8297 (103), RFC 6585 (428 to 431, 511), RFC 7725 (451).
        let usual = [100..=101, 103..=103, 200..=206, 300..=304, 307..=308, 400..=417, 421..=422, 426..=426, 428..=429];
        let usual = usual.into_iter().chain([431..=431, 451..=451, 500..=505, 511..=511]).flatten();
        assert!((0..=u16::MAX).filter(|status| !reason_phrase(*status).is_empty()).eq(usual));
    }
}
