//! Why a request was not a plain success: the `why=` of the access log, and the status of the error that is sent.
//!
//! A short fixed word each, so that they can be counted (rule S23); docs/log.md says what each one means and what to look at.

use super::events::{CertificateError, ConnectError};
use crate::http::error::HttpError;

/// The usual methods, for the Allow field. (All pass but CONNECT and TRACE.)
pub const FORWARDED_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// Why a request was no plain success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/log.md has a row for each")]
pub enum Cause {
    /// The client broke a rule of HTTP or a limit.
    Rule(HttpError),
    TlsOnPlainPort,
    /// What was expected instead.
    BadProxyHeader(&'static str),
    NoRoute,
    Misdirected,
    Forbidden,
    /// The methods that would have been allowed.
    MethodRefused(&'static str),
    ExpectationFailed,
    RequestTooLarge,
    ResponseTooLarge,
    MemoryBudget,
    HeadTimeout,
    BodyTimeout,
    ClientWriteTimeout,
    ClientGone,
    Connect(ConnectError),
    UpstreamWriteTimeout,
    ResponseTimeout,
    ResponseIdleTimeout,
    UpstreamReset,
    UpstreamTruncated,
    BadResponse(HttpError),
    TunnelIdle,
    TunnelHalfClosed,
    TunnelEvicted,
    PluginAnswered,
    PluginFailed,
    PluginTimeout,
}

impl From<HttpError> for Cause {
    fn from(error: HttpError) -> Cause {
        Cause::Rule(error)
    }
}

impl Cause {
    /// The word for the log, and the status of the answer; 0 where none is sent, or where it is not for us to say.
    const fn row(self) -> (&'static str, u16) {
        match self {
            Cause::Rule(error) => (error.rule(), error.status()),
            Cause::TlsOnPlainPort => ("tls_on_plain_port", 400),
            Cause::BadProxyHeader(_) => ("bad_proxy_header", 400),
            Cause::NoRoute => ("no_route", 404),
            Cause::Misdirected => ("misdirected", 421),
            Cause::Forbidden => ("forbidden", 403),
            Cause::MethodRefused(_) => ("method_refused", 405),
            Cause::ExpectationFailed => ("expectation_failed", 417),
            Cause::RequestTooLarge => ("body_too_large", 413),
            Cause::ResponseTooLarge => ("body_too_large", 502),
            Cause::MemoryBudget => ("memory_budget", 503),
            Cause::HeadTimeout => ("head_timeout", 408),
            Cause::BodyTimeout => ("body_timeout", 408),
            Cause::ClientWriteTimeout => ("client_write_timeout", 0),
            Cause::ClientGone => ("client_gone", 0),
            Cause::Connect(ConnectError::DnsFail) => ("dns_fail", 502),
            Cause::Connect(ConnectError::Refused) => ("connect_refused", 502),
            Cause::Connect(ConnectError::TimedOut) => ("connect_timeout", 504),
            Cause::Connect(ConnectError::Failed) => ("connect_failed", 502),
            Cause::Connect(ConnectError::Untrusted(_)) => ("tls_untrusted", 502),
            Cause::Connect(ConnectError::TlsFailed) => ("tls_failed", 502),
            Cause::UpstreamWriteTimeout => ("upstream_write_timeout", 504),
            Cause::ResponseTimeout => ("response_timeout", 504),
            Cause::ResponseIdleTimeout => ("response_idle_timeout", 504),
            Cause::UpstreamReset => ("upstream_reset", 502),
            Cause::UpstreamTruncated => ("upstream_truncated", 502),
            Cause::BadResponse(_) => ("bad_response", 502),
            Cause::TunnelIdle => ("tunnel_idle", 0),
            Cause::TunnelHalfClosed => ("tunnel_half_closed", 0),
            Cause::TunnelEvicted => ("tunnel_evicted", 0),
            Cause::PluginAnswered => ("plugin_answered", 0),
            Cause::PluginFailed => ("plugin_failed", 502),
            Cause::PluginTimeout => ("plugin_timeout", 504),
        }
    }

    /// The word for the log.
    pub const fn why(self) -> &'static str {
        self.row().0
    }

    /// The status of the error that is sent, if one can be.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// The methods that would have been allowed, for a 405 (RFC 9110 section 15.5.6).
    pub const fn allow(self) -> Option<&'static str> {
        match self {
            Cause::Rule(HttpError::ConnectMethod) => Some(FORWARDED_METHODS),
            Cause::MethodRefused(methods) => Some(methods),
            _ => None,
        }
    }

    /// Whether the connection is as good as before: the request was understood, there is just nothing for it here.
    pub const fn keeps_connection(self) -> bool {
        matches!(self, Cause::NoRoute | Cause::Misdirected | Cause::MethodRefused(_))
    }

    /// The rule that was broken, by the client or by the upstream, where that is the cause.
    pub const fn rule(self) -> Option<&'static str> {
        match self {
            Cause::BadResponse(error) | Cause::Rule(error) => Some(error.rule()),
            _ => None,
        }
    }

    /// What happened and what can be done, where the word alone would not help.
    pub const fn detail(self) -> Option<&'static str> {
        match self {
            Cause::BadResponse(error) | Cause::Rule(error) => Some(error.expected()),
            Cause::Connect(ConnectError::Untrusted(error)) => Some(error.message()),
            Cause::Connect(ConnectError::TlsFailed) => {
                Some("the TLS handshake with the upstream failed: see whether it speaks TLS 1.2 or 1.3 on that port")
            }
            Cause::BadProxyHeader(expected) => Some(expected),
            _ => None,
        }
    }

    /// What it means and where to look, as docs/log.md says it.
    pub fn hint(self) -> String {
        // All rules of HTTP share a row, the limits another one.
        let word = match self {
            Cause::Rule(error) if !error.rule().starts_with("max_") => "S8",
            _ => self.why(),
        };
        let names_it = |words: &str| words.split('`').any(|name| name == word);
        let row = include_str!("../../docs/log.md")
            .lines()
            .find(|line| line.starts_with("| `") && line.split('|').nth(1).is_some_and(names_it));
        let mut cells = row.unwrap_or_default().split('|').skip(2).map(str::trim);
        format!("{}: {}", cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
    }
}

impl CertificateError {
    /// Reason and remedy.
    pub const fn message(self) -> &'static str {
        match self {
            CertificateError::Expired => {
                "the certificate of the upstream has expired: renew it there; or the clock of this host is wrong"
            }
            CertificateError::NotYetValid => {
                "the certificate of the upstream is not valid yet: see whether the clock of this host is right"
            }
            CertificateError::WrongName => {
                "the certificate of the upstream is for another name: set upstream_tls.server_name to one that it is for"
            }
            CertificateError::UnknownIssuer => {
                "nobody who is trusted here has issued the certificate of the upstream: name its authority in \
                 upstream_tls.ca_file"
            }
            CertificateError::Unacceptable => {
                "the certificate of the upstream is not acceptable: where it is self-signed, name its file in \
                 upstream_tls.ca_file; else it is revoked, damaged or for another purpose, and a new one is needed"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::reason_phrase;

    /// All of them, one after the other: a new one does not compile until it stands here.
    fn after(cause: Cause) -> Option<Cause> {
        Some(match cause {
            Cause::Rule(_) => Cause::TlsOnPlainPort,
            Cause::TlsOnPlainPort => Cause::BadProxyHeader(""),
            Cause::BadProxyHeader(_) => Cause::NoRoute,
            Cause::NoRoute => Cause::Misdirected,
            Cause::Misdirected => Cause::Forbidden,
            Cause::Forbidden => Cause::MethodRefused("GET"),
            Cause::MethodRefused(_) => Cause::ExpectationFailed,
            Cause::ExpectationFailed => Cause::RequestTooLarge,
            Cause::RequestTooLarge => Cause::ResponseTooLarge,
            Cause::ResponseTooLarge => Cause::MemoryBudget,
            Cause::MemoryBudget => Cause::HeadTimeout,
            Cause::HeadTimeout => Cause::BodyTimeout,
            Cause::BodyTimeout => Cause::ClientWriteTimeout,
            Cause::ClientWriteTimeout => Cause::ClientGone,
            Cause::ClientGone => Cause::Connect(ConnectError::DnsFail),
            Cause::Connect(ConnectError::DnsFail) => Cause::Connect(ConnectError::Refused),
            Cause::Connect(ConnectError::Refused) => Cause::Connect(ConnectError::TimedOut),
            Cause::Connect(ConnectError::TimedOut) => Cause::Connect(ConnectError::Failed),
            Cause::Connect(ConnectError::Failed) => Cause::Connect(ConnectError::TlsFailed),
            Cause::Connect(ConnectError::TlsFailed) => {
                Cause::Connect(ConnectError::Untrusted(CertificateError::Expired))
            }
            Cause::Connect(ConnectError::Untrusted(_)) => Cause::UpstreamWriteTimeout,
            Cause::UpstreamWriteTimeout => Cause::ResponseTimeout,
            Cause::ResponseTimeout => Cause::ResponseIdleTimeout,
            Cause::ResponseIdleTimeout => Cause::UpstreamReset,
            Cause::UpstreamReset => Cause::UpstreamTruncated,
            Cause::UpstreamTruncated => Cause::BadResponse(HttpError::BadLength),
            Cause::BadResponse(_) => Cause::TunnelIdle,
            Cause::TunnelIdle => Cause::TunnelHalfClosed,
            Cause::TunnelHalfClosed => Cause::TunnelEvicted,
            Cause::TunnelEvicted => Cause::PluginAnswered,
            Cause::PluginAnswered => Cause::PluginFailed,
            Cause::PluginFailed => Cause::PluginTimeout,
            Cause::PluginTimeout => return None,
        })
    }

    fn all() -> impl Iterator<Item = Cause> {
        let rules = HttpError::ALL.iter().map(|error| Cause::Rule(*error));
        rules.chain(std::iter::successors(Some(Cause::TlsOnPlainPort), |&cause| after(cause)))
    }

    #[test]
    fn s23_each_cause_is_a_word_and_has_a_row_in_the_page_of_the_log() {
        for cause in all() {
            let (word, hint) = (cause.why(), cause.hint());
            assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{word} breaks a log line");
            let (meaning, remedy) = hint.split_once(": ").unwrap_or_default();
            assert!(meaning.len() > 10 && remedy.len() > 5, "{word}: {hint:?}");
        }
    }

    #[test]
    fn s22_errors_have_a_status_with_a_reason_phrase() {
        for status in all().map(Cause::status).filter(|status| *status != 0) {
            assert!((400..600).contains(&status) && !reason_phrase(status).is_empty(), "{status}");
        }
    }

    #[test]
    fn what_can_be_done_is_told() {
        let untrusted = |error| Cause::Connect(ConnectError::Untrusted(error)).detail().unwrap_or_default();
        assert!(untrusted(CertificateError::Expired).contains("renew it"));
        assert!(untrusted(CertificateError::WrongName).contains("upstream_tls.server_name"));
        assert!(untrusted(CertificateError::UnknownIssuer).contains("upstream_tls.ca_file"));
        assert!(Cause::Connect(ConnectError::TlsFailed).detail().is_some_and(|text| text.contains("TLS 1.2 or 1.3")));
        assert_eq!(Cause::BadProxyHeader("what is expected").detail(), Some("what is expected"));
        assert_eq!(Cause::NoRoute.detail(), None);
        // A limit has a row of its own among the rules.
        assert!(Cause::Rule(HttpError::HeadTooLarge).hint().contains("larger than this limit"));
        assert!(!Cause::Rule(HttpError::BadSpacing).hint().contains("larger than this limit"));
    }

    #[test]
    fn rules_are_told_of_both_sides() {
        for (cause, why, status, rule) in [
            (Cause::Rule(HttpError::LengthAndCoding), "S1", 400, Some("S1")),
            (Cause::Rule(HttpError::HeadTooLarge), "max_head_bytes", 431, Some("max_head_bytes")),
            (Cause::Rule(HttpError::ConnectMethod), "S16", 405, Some("S16")),
            (Cause::BadResponse(HttpError::BadChunkSize), "bad_response", 502, Some("S5")),
            (Cause::NoRoute, "no_route", 404, None),
        ] {
            assert_eq!((cause.why(), cause.status(), cause.rule()), (why, status, rule));
            assert_eq!(cause.keeps_connection(), cause == Cause::NoRoute);
            assert_eq!(cause.allow().is_some(), status == 405);
        }
    }
}
