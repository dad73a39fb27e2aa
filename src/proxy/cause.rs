//! Why an exchange was not a plain success: the `why=` of the access log.
//!
//! A short fixed word each, so that they can be counted; the README's list says what each one means and what to look at.

use super::events::Distrust;
use super::preface::PrefaceError;
use crate::http::chunked::ChunkError;
use crate::http::framing::FramingError;
use crate::http::head::HeadError;
use crate::http::target::TargetError;

/// Why an exchange did not simply succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The request broke this rule and was refused.
    Rule(&'static str),
    /// A listed peer did not say for whom it speaks, in the PROXY protocol.
    BadPreface(PrefaceError),
    /// No route takes the path.
    NoRoute,
    /// CONNECT or TRACE, or a built-in asked with another method than GET and HEAD.
    MethodRefused,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The body is larger than `max_body_bytes`, or than what is buffered for plugins.
    BodyTooLarge,
    /// The head did not arrive within `timeouts.request_head`.
    HeadTimeout,
    /// The body stopped arriving for `timeouts.body_idle`.
    BodyTimeout,
    /// The client took no bytes for `timeouts.write_idle`.
    ClientWriteTimeout,
    /// The client went away before its answer was complete.
    ClientGone,
    /// The upstream's name does not resolve.
    DnsFail,
    /// Every address of the upstream refused.
    ConnectRefused,
    /// No address of the upstream answered within `timeouts.connect`.
    ConnectTimeout,
    /// Connecting failed in another way.
    ConnectFailed,
    /// The upstream's certificate was not accepted.
    TlsUntrusted(Distrust),
    /// The TLS handshake with the upstream failed in another way.
    TlsFailed,
    /// The upstream took no bytes for `timeouts.write_idle`.
    UpstreamWriteTimeout,
    /// No response head within `timeouts.response_head`.
    ResponseTimeout,
    /// The response stopped arriving for `timeouts.response_idle`.
    ResponseIdleTimeout,
    /// The upstream closed or reset the connection before a response began.
    UpstreamReset,
    /// The upstream broke off within a response.
    UpstreamTruncated,
    /// The response broke this rule.
    BadResponse(&'static str),
    /// Nothing went through an upgraded connection for `timeouts.tunnel_idle`.
    TunnelIdle,
    /// A plugin answered in the upstream's place.
    PluginAnswered,
    /// A plugin failed.
    PluginFailed,
}

impl Cause {
    /// The word for the log.
    pub fn why(self) -> &'static str {
        match self {
            Cause::Rule(rule) => rule,
            Cause::BadPreface(_) => "bad_preface",
            Cause::NoRoute => "no_route",
            Cause::MethodRefused => "method_refused",
            Cause::ExpectationFailed => "expectation_failed",
            Cause::BodyTooLarge => "body_too_large",
            Cause::HeadTimeout => "head_timeout",
            Cause::BodyTimeout => "body_timeout",
            Cause::ClientWriteTimeout => "client_write_timeout",
            Cause::ClientGone => "client_gone",
            Cause::DnsFail => "dns_fail",
            Cause::ConnectRefused => "connect_refused",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::ConnectFailed => "connect_failed",
            Cause::TlsUntrusted(_) => "tls_untrusted",
            Cause::TlsFailed => "tls_failed",
            Cause::UpstreamWriteTimeout => "upstream_write_timeout",
            Cause::ResponseTimeout => "response_timeout",
            Cause::ResponseIdleTimeout => "response_idle_timeout",
            Cause::UpstreamReset => "upstream_reset",
            Cause::UpstreamTruncated => "upstream_truncated",
            Cause::BadResponse(_) => "bad_response",
            Cause::TunnelIdle => "tunnel_idle",
            Cause::PluginAnswered => "plugin_answered",
            Cause::PluginFailed => "plugin_failed",
        }
    }

    /// The rule that a response broke, where that is the cause.
    pub fn rule(self) -> Option<&'static str> {
        match self {
            Cause::BadResponse(rule) | Cause::Rule(rule) => Some(rule),
            _ => None,
        }
    }

    /// What happened and what can be done, as a sentence, where the word alone would not help.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Cause::TlsUntrusted(distrust) => Some(distrust.sentence()),
            Cause::TlsFailed => Some(TLS_FAILED),
            Cause::BadPreface(error) => Some(error.sentence()),
            _ => None,
        }
    }
}

const TLS_FAILED: &str =
    "the TLS handshake with the upstream failed: see whether it speaks TLS 1.2 or 1.3 on that port";

impl Distrust {
    /// Reason and remedy.
    pub fn sentence(self) -> &'static str {
        match self {
            Distrust::Expired => {
                "the certificate of the upstream has expired: renew it there; or the clock of this host is wrong"
            }
            Distrust::NotYetValid => {
                "the certificate of the upstream is not valid yet: see whether the clock of this host is right"
            }
            Distrust::WrongName => {
                "the certificate of the upstream is for another name: set upstream_tls.server_name to one that it is for"
            }
            Distrust::UnknownIssuer => {
                "nobody who is trusted here has issued the certificate of the upstream: name its authority in \
                 upstream_tls.ca_file"
            }
            Distrust::Unacceptable => {
                "the certificate of the upstream is not acceptable: it may be revoked, damaged, made for another \
                 purpose, or a self-signed authority; get it a server's certificate"
            }
        }
    }
}

/// A request that is answered with an error instead of being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// What the log says.
    pub cause: Cause,
    /// The methods that would have been allowed, for a 405 (RFC 9110 section 15.5.6).
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// A refusal without an Allow field.
    pub const fn new(status: u16, cause: Cause) -> Refusal {
        Refusal { status, cause, allow: None }
    }

    /// Whether the connection is as good as before: the request was understood, there is just nothing for it here.
    pub fn keeps_connection(self) -> bool {
        matches!(self.cause, Cause::NoRoute | Cause::MethodRefused)
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Refusal {
        Refusal::new(error.status(), Cause::Rule(error.rule()))
    }
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Refusal {
        Refusal::new(400, Cause::Rule(error.rule()))
    }
}

impl From<FramingError> for Refusal {
    fn from(error: FramingError) -> Refusal {
        Refusal::new(error.status(), Cause::Rule(error.rule()))
    }
}

impl From<ChunkError> for Refusal {
    fn from(error: ChunkError) -> Refusal {
        Refusal::new(400, Cause::Rule(error.rule()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s23_each_cause_has_a_word_of_its_own() {
        let words = [
            Cause::Rule("S1"),
            Cause::BadPreface(PrefaceError::Missing),
            Cause::NoRoute,
            Cause::MethodRefused,
            Cause::ExpectationFailed,
            Cause::BodyTooLarge,
            Cause::HeadTimeout,
            Cause::BodyTimeout,
            Cause::ClientWriteTimeout,
            Cause::ClientGone,
            Cause::DnsFail,
            Cause::ConnectRefused,
            Cause::ConnectTimeout,
            Cause::ConnectFailed,
            Cause::UpstreamWriteTimeout,
            Cause::ResponseTimeout,
            Cause::ResponseIdleTimeout,
            Cause::UpstreamReset,
            Cause::UpstreamTruncated,
            Cause::BadResponse("S2"),
            Cause::TunnelIdle,
            Cause::PluginAnswered,
            Cause::PluginFailed,
        ]
        .map(Cause::why);
        for (index, word) in words.iter().enumerate() {
            assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{word} breaks a log line");
            assert!(!words[..index].contains(word), "{word} twice");
        }
    }

    #[test]
    fn rules_are_told_of_both_sides() {
        for (cause, why, rule) in [
            (Cause::Rule("S1"), "S1", Some("S1")),
            (Cause::BadResponse("S5"), "bad_response", Some("S5")),
            (Cause::NoRoute, "no_route", None),
        ] {
            assert_eq!((cause.why(), cause.rule()), (why, rule));
        }
    }

    #[test]
    fn errors_become_refusals_with_their_status() {
        for (refusal, status, why) in [
            (Refusal::from(HeadError::HeadTooLarge), 431, "max_head_bytes"),
            (Refusal::from(HeadError::RequestLineTooLong), 414, "max_request_line"),
            (Refusal::from(HeadError::UnsupportedVersion), 505, "S21"),
            (Refusal::from(HeadError::BareLf), 400, "S8"),
            (Refusal::from(TargetError::HostMissing), 400, "S11"),
            (Refusal::from(FramingError::UnknownCoding), 501, "S3"),
            (Refusal::from(FramingError::LengthAndCoding), 400, "S1"),
            (Refusal::from(ChunkError::BadDataEnd), 400, "S7"),
        ] {
            assert_eq!((refusal.status, refusal.cause.why(), refusal.allow), (status, why, None));
            assert!(!refusal.keeps_connection(), "what was not understood ends its connection");
        }
        assert!(Refusal::new(404, Cause::NoRoute).keeps_connection());
    }
}
