//! Why a request was not a plain success: the `why=` of the access log.
//!
//! A short fixed word each, so that they can be counted (rule S23); the list in docs/log.md says what each one means and what to
//! look at.

use super::events::CertificateError;
use crate::http::error::HttpError;

/// A rule of HTTP, or a limit of the configuration, that a peer did not keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number, or the key of the limit.
    pub rule: &'static str,
    /// What was expected instead, as a sentence without anything that the peer sent (rule S22).
    pub expected: &'static str,
}

impl Violation {
    /// Each is compared with each field line.
    pub const TOO_MANY_OPTIONS: Violation = Violation::new("G1", "expected fewer connection options");
    /// A flood in front of the final response.
    pub const TOO_MANY_INTERIM: Violation =
        Violation::new("G9", "expected fewer interim responses: limits.max_interim_responses is how many");
    /// A tunnel that only one side believes in.
    pub const OTHER_PROTOCOL: Violation =
        Violation::new("G14", "expected Upgrade in a 101 response to name the one protocol that was asked for");
    /// A tunnel to anywhere.
    pub const CONNECT: Violation = Violation::new("S16", "expected another method than CONNECT");
    /// Not a number.
    pub const MAX_FORWARDS: Violation = Violation::new("S2", "expected digits in Max-Forwards");

    const fn new(rule: &'static str, expected: &'static str) -> Violation {
        Violation { rule, expected }
    }
}

impl From<HttpError> for Violation {
    fn from(error: HttpError) -> Violation {
        Violation::new(error.rule(), error.expected())
    }
}

/// Why a request was no plain success. [`Cause::hint`] says what each one means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant has its row below")]
pub enum Cause {
    Rule(Violation),
    TlsOnPlainPort,
    /// What was expected instead.
    BadProxyHeader(&'static str),
    NoRoute,
    MethodRefused,
    ExpectationFailed,
    BodyTooLarge,
    MemoryBudget,
    HeadTimeout,
    BodyTimeout,
    ClientWriteTimeout,
    ClientGone,
    DnsFail,
    ConnectRefused,
    ConnectTimeout,
    ConnectFailed,
    TlsUntrusted(CertificateError),
    TlsFailed,
    UpstreamWriteTimeout,
    ResponseTimeout,
    ResponseIdleTimeout,
    UpstreamReset,
    UpstreamTruncated,
    BadResponse(Violation),
    TunnelIdle,
    TunnelHalfClosed,
    TunnelEvicted,
    PluginAnswered,
    PluginFailed,
}

impl Cause {
    /// The word of the log; what it means and where to look.
    #[rustfmt::skip]
    fn row(self) -> (&'static str, &'static str) {
        match self {
            Cause::Rule(violation) if violation.rule.starts_with("max_") => (violation.rule,
                "the request's head is larger than this key of limits allows: often cookies; raise it, or send less"),
            Cause::Rule(violation) => (violation.rule,
                "the client broke this rule of HTTP: look at what it sends; many such requests are a scan"),
            Cause::TlsOnPlainPort => ("tls_on_plain_port",
                "the client began with a TLS handshake, and this port speaks plain HTTP: see whether its URL should \
                 begin with http:, and the listening addresses of tls"),
            Cause::BadProxyHeader(_) => ("bad_preface",
                "a peer of proxy_protocol.from did not begin with a PROXY header: switch it on there, or take the \
                 peer off the list"),
            Cause::NoRoute => ("no_route",
                "no prefix takes the path: compare it with the routes, which /configz shows"),
            Cause::MethodRefused => ("method_refused",
                "this method does not pass a gateway, or a built-in resource has no use for it: ask with another"),
            Cause::ExpectationFailed => ("expectation_failed",
                "the only expectation that HTTP knows is 100-continue: have the client send that, or none"),
            Cause::BodyTooLarge => ("body_too_large",
                "the body is above max_body_bytes, or above plugin_body_limit where plugins read it: raise the \
                 limit, or send less"),
            Cause::MemoryBudget => ("memory_budget",
                "a plugin reads bodies, and those under way take all that limits.memory_budget leaves them: raise \
                 it, or lower plugin_body_limit"),
            Cause::HeadTimeout => ("head_timeout",
                "the head did not arrive within timeouts.request_head: a bad network, or an attack with slow heads"),
            Cause::BodyTimeout => ("body_timeout",
                "the request's body stopped arriving for timeouts.body_idle: look at the client and its network"),
            Cause::ClientWriteTimeout => ("client_write_timeout",
                "the client took no bytes for timeouts.write_idle: look at the client and its network"),
            Cause::ClientGone => ("client_gone",
                "the client closed before its answer was complete: often a user who clicked away, or a time-out of \
                 its own"),
            Cause::DnsFail => ("dns_fail",
                "the name of the upstream does not resolve: look at the route and at the resolver of this host"),
            Cause::ConnectRefused => ("connect_refused",
                "every address of the upstream refused: is it running, and on this port?"),
            Cause::ConnectTimeout => ("connect_timeout",
                "no address of the upstream answered within timeouts.connect: a firewall, a dead host, or a port \
                 without TLS"),
            Cause::ConnectFailed => ("connect_failed",
                "the upstream could not be reached: look at the routing table and at the limit of open files"),
            Cause::TlsUntrusted(_) => ("tls_untrusted",
                "the certificate of the upstream was not accepted: see upstream_tls.ca_file and \
                 upstream_tls.server_name"),
            Cause::TlsFailed => ("tls_failed",
                "the TLS handshake with the upstream failed: does it speak TLS on this port?"),
            Cause::UpstreamWriteTimeout => ("upstream_write_timeout",
                "the upstream took no bytes for timeouts.write_idle: it hangs while it reads"),
            Cause::ResponseTimeout => ("response_timeout",
                "the upstream gave no response head within timeouts.response_head: it is slow, or it hangs"),
            Cause::ResponseIdleTimeout => ("response_idle_timeout",
                "the response stopped arriving for timeouts.response_idle, and was cut for the client too: the \
                 upstream hangs"),
            Cause::UpstreamReset => ("upstream_reset",
                "the upstream closed the connection before it answered: its log says whether it crashed or refused"),
            Cause::UpstreamTruncated => ("upstream_truncated",
                "the upstream broke off within its response, and it was cut for the client too: see the upstream's log"),
            Cause::BadResponse(_) => ("bad_response",
                "the response broke this rule of HTTP: the upstream has to be mended"),
            Cause::TunnelIdle => ("tunnel_idle",
                "nothing went through the upgraded connection for timeouts.tunnel_idle"),
            Cause::TunnelHalfClosed => ("tunnel_half_closed",
                "one side of the upgraded connection ended, and the other did nothing for timeouts.tunnel_half_closed"),
            Cause::TunnelEvicted => ("tunnel_evicted",
                "all places were taken, and nothing had gone through the upgraded connection for minutes: \
                 limits.max_connections"),
            Cause::PluginAnswered => ("plugin_answered",
                "a plugin answered in the upstream's place: its lines in the log may say why"),
            Cause::PluginFailed => ("plugin_failed",
                "a plugin failed: its lines in the log say why"),
        }
    }

    /// The word for the log.
    pub fn why(self) -> &'static str {
        self.row().0
    }

    /// What it means and where to look: the list of docs/log.md in short, for those who ask for an explanation.
    pub fn hint(self) -> &'static str {
        self.row().1
    }

    /// The rule that was broken, by the client or by the upstream, where that is the cause.
    pub fn rule(self) -> Option<&'static str> {
        match self {
            Cause::BadResponse(violation) | Cause::Rule(violation) => Some(violation.rule),
            _ => None,
        }
    }

    /// What happened and what can be done, as a sentence, where the word alone would not help.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Cause::BadResponse(violation) | Cause::Rule(violation) => Some(violation.expected),
            Cause::TlsUntrusted(error) => Some(error.message()),
            Cause::TlsFailed => {
                Some("the TLS handshake with the upstream failed: see whether it speaks TLS 1.2 or 1.3 on that port")
            }
            Cause::BadProxyHeader(expected) => Some(expected),
            _ => None,
        }
    }
}

impl CertificateError {
    /// Reason and remedy.
    pub fn message(self) -> &'static str {
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

impl From<HttpError> for Refusal {
    fn from(error: HttpError) -> Refusal {
        Refusal::new(error.status(), Cause::Rule(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of them, one after the other: a new one does not compile until it stands here.
    fn after(cause: Cause) -> Option<Cause> {
        Some(match cause {
            Cause::Rule(_) => Cause::TlsOnPlainPort,
            Cause::TlsOnPlainPort => Cause::BadProxyHeader(""),
            Cause::BadProxyHeader(_) => Cause::NoRoute,
            Cause::NoRoute => Cause::MethodRefused,
            Cause::MethodRefused => Cause::ExpectationFailed,
            Cause::ExpectationFailed => Cause::BodyTooLarge,
            Cause::BodyTooLarge => Cause::MemoryBudget,
            Cause::MemoryBudget => Cause::HeadTimeout,
            Cause::HeadTimeout => Cause::BodyTimeout,
            Cause::BodyTimeout => Cause::ClientWriteTimeout,
            Cause::ClientWriteTimeout => Cause::ClientGone,
            Cause::ClientGone => Cause::DnsFail,
            Cause::DnsFail => Cause::ConnectRefused,
            Cause::ConnectRefused => Cause::ConnectTimeout,
            Cause::ConnectTimeout => Cause::ConnectFailed,
            Cause::ConnectFailed => Cause::TlsUntrusted(CertificateError::Expired),
            Cause::TlsUntrusted(_) => Cause::TlsFailed,
            Cause::TlsFailed => Cause::UpstreamWriteTimeout,
            Cause::UpstreamWriteTimeout => Cause::ResponseTimeout,
            Cause::ResponseTimeout => Cause::ResponseIdleTimeout,
            Cause::ResponseIdleTimeout => Cause::UpstreamReset,
            Cause::UpstreamReset => Cause::UpstreamTruncated,
            Cause::UpstreamTruncated => Cause::BadResponse(HttpError::BadLength.into()),
            Cause::BadResponse(_) => Cause::TunnelIdle,
            Cause::TunnelIdle => Cause::TunnelHalfClosed,
            Cause::TunnelHalfClosed => Cause::TunnelEvicted,
            Cause::TunnelEvicted => Cause::PluginAnswered,
            Cause::PluginAnswered => Cause::PluginFailed,
            Cause::PluginFailed => return None,
        })
    }

    fn all() -> impl Iterator<Item = Cause> {
        std::iter::successors(Some(Cause::Rule(HttpError::BareLf.into())), |&cause| after(cause))
    }

    #[test]
    fn s23_each_cause_has_a_word_of_its_own() {
        let words: Vec<_> = all().map(Cause::why).collect();
        for (index, word) in words.iter().enumerate() {
            assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{word} breaks a log line");
            assert!(!words[..index].contains(word), "{word} twice");
        }
    }

    /// What the access log says has its row in docs/log.md: what it means, and where to look.
    #[test]
    fn s23_each_cause_has_an_entry_in_the_page_of_the_log() {
        let page = include_str!("../../docs/log.md");
        let table = page.split("| why | what it means | where to look |").nth(1).expect("the table of causes");
        let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
        // Three of the limits of heads stand in the log by the name of their key.
        let limits = ["max_head_bytes", "max_header_fields", "max_request_line"];
        for word in all().map(Cause::why).chain(limits) {
            let row =
                rows.iter().find(|row| row.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`{word}`"))));
            let cells: Vec<_> = row.unwrap_or_else(|| panic!("no row for {word}")).split('|').map(str::trim).collect();
            assert!(cells.len() == 5 && cells[2].len() > 10 && cells[3].len() > 5, "{word}: {cells:?}");
        }
    }

    #[test]
    fn rules_are_told_of_both_sides() {
        for (cause, why, rule) in [
            (Cause::Rule(HttpError::LengthAndCoding.into()), "S1", Some("S1")),
            (Cause::BadResponse(HttpError::BadChunkSize.into()), "bad_response", Some("S5")),
            (Cause::NoRoute, "no_route", None),
        ] {
            assert_eq!((cause.why(), cause.rule()), (why, rule));
        }
    }

    #[test]
    fn errors_become_refusals_with_their_status() {
        for (refusal, status, why) in [
            (Refusal::from(HttpError::HeadTooLarge), 431, "max_head_bytes"),
            (Refusal::from(HttpError::RequestLineTooLong), 414, "max_request_line"),
            (Refusal::from(HttpError::UnsupportedVersion), 505, "S21"),
            (Refusal::from(HttpError::BareLf), 400, "S8"),
            (Refusal::from(HttpError::HostMissing), 400, "S11"),
            (Refusal::from(HttpError::UnknownCoding), 501, "S3"),
            (Refusal::from(HttpError::LengthAndCoding), 400, "S1"),
            (Refusal::from(HttpError::BadDataEnd), 400, "S7"),
        ] {
            assert_eq!((refusal.status, refusal.cause.why(), refusal.allow), (status, why, None));
            assert!(!refusal.keeps_connection(), "what was not understood ends its connection");
        }
        assert!(Refusal::new(404, Cause::NoRoute).keeps_connection());
    }
}
