//! Why a forwarded request head differs from the received one.
//!
//! What goes is decided here, and `forward` does it; `explain` asks the same functions, line by line, and tells people.

use super::admit::ForwardPlan;
use super::connection::{HOP_BY_HOP, is_nominated};
use super::events::Peer;
use super::forwarded::{CLAIMS, is_trusted};
use crate::config::{ForwardedPolicy, UpstreamUrl};
use crate::http::fields::{HeaderId, HeaderRef, HeaderSet};

/// A rule, and what it comes to, in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The number of the rule, or a section of an RFC.
    pub rule: &'static str,
    /// In plain words.
    pub words: &'static str,
}

/// Whether what the peer says about the client is taken for true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// The peer is one of `forwarded.trusted_proxies`.
    Kept,
    /// It is not.
    Untrusted,
    /// `forwarded.enabled` is false: nothing is said about clients.
    Off,
}

impl Claims {
    /// How it is with this peer.
    pub fn of(peer: &Peer, policy: &ForwardedPolicy) -> Claims {
        if !policy.enabled {
            Claims::Off
        } else if peer.address.is_some_and(|address| is_trusted(address.ip(), policy)) {
            Claims::Kept
        } else {
            Claims::Untrusted
        }
    }
}

/// What the fate of a field line depends on, beside what the client nominated.
#[derive(Clone, Copy, Debug)]
pub struct StripRules<'a> {
    /// How the request is forwarded.
    pub plan: &'a ForwardPlan,
    /// What becomes of X-Forwarded-* and its like.
    pub claims: Claims,
}

impl StripRules<'_> {
    /// The lines that do not pass, whoever sent them (look-alikes: a trusted proxy passes on what it does not know, and so
    /// what its client has forged). Framing fields are among them: each connection gets its own.
    #[inline]
    pub fn removed(&self) -> HeaderSet {
        let claims = if self.claims == Claims::Kept { HeaderSet::default() } else { CLAIMS };
        let expect = if self.plan.expects_continue { HeaderSet::default() } else { HeaderSet::of(&[HeaderId::Expect]) };
        HOP_BY_HOP.with(HeaderId::Host).with(HeaderId::LookAlike).or(claims).or(expect)
    }
}

/// Why a received field line does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripReason {
    /// It speaks of the client's own connection.
    HopByHop,
    /// The client's Connection names it.
    Nominated,
    /// An upgrade that is not offered to the upstream.
    Upgrade,
    /// Host is written from the route.
    Host,
    /// There is no body that could be waited for, or the proxy asks for it by itself.
    Expectation,
    /// Only a trusted proxy may say this.
    Claim,
    /// The configuration wants nothing said about clients.
    ClaimsOff,
    /// Some origins read it as a field that the proxy speaks for.
    LookAlike,
    /// The URL of the upstream has credentials of its own.
    Credentials,
}

impl StripReason {
    /// Told to people.
    pub const fn reason(self) -> Reason {
        let (rule, words) = match self {
            StripReason::HopByHop => ("G1", "speaks of the client's own connection"),
            StripReason::Nominated => ("G1", "named by Connection: meant for this hop only"),
            StripReason::Upgrade => ("G14", "no protocol that the route lets pass here (its key upgrade)"),
            StripReason::Host => ("G8", "written anew, by the route's key host"),
            StripReason::Expectation => ("G10", "there is no body to wait for"),
            StripReason::Claim => ("G4", "the peer is none of forwarded.trusted_proxies: anybody can write this"),
            StripReason::ClaimsOff => ("G4", "forwarded.enabled is false"),
            StripReason::LookAlike => ("G4", "some origins would take it for a field that only the proxy may set"),
            StripReason::Credentials => ("G8", "the upstream's URL has credentials of its own"),
        };
        Reason { rule, words }
    }
}

/// Why a received field line is left out, where it is.
pub fn removal(
    line: &HeaderRef<'_>,
    terms: &StripRules<'_>,
    nominated: &[u8],
    upstream: &UpstreamUrl,
) -> Option<StripReason> {
    if late_removed(upstream).has(line.id) {
        return Some(StripReason::Credentials);
    }
    if !terms.removed().has(line.id) {
        return is_nominated(line, nominated).then_some(StripReason::Nominated);
    }
    Some(match (line.id, terms.claims) {
        (HeaderId::Host, _) => StripReason::Host,
        (HeaderId::Expect, _) => StripReason::Expectation,
        (HeaderId::LookAlike, _) => StripReason::LookAlike,
        (HeaderId::Upgrade, _) if !terms.plan.upgrade => StripReason::Upgrade,
        (known, Claims::Off) if CLAIMS.has(known) => StripReason::ClaimsOff,
        (known, Claims::Kept | Claims::Untrusted) if CLAIMS.has(known) => StripReason::Claim,
        (_, Claims::Kept | Claims::Untrusted | Claims::Off) => StripReason::HopByHop,
    })
}

/// What is left out only when plugins have seen it: they judge the client by the credentials that it sent, and never see
/// those of the upstream's URL.
pub fn late_removed(upstream: &UpstreamUrl) -> HeaderSet {
    if upstream.authorization.is_some() { HeaderSet::of(&[HeaderId::Authorization]) } else { HeaderSet::default() }
}

/// Why a line of that name is written by the proxy, where it writes such lines.
pub const fn addition(known: HeaderId) -> Option<Reason> {
    let (rule, words) = match known {
        HeaderId::Host => ("G8", "as the route's key host says: upstream, client, or a fixed name"),
        HeaderId::XForwardedFor => ("G4", "who is asking"),
        HeaderId::XForwardedHost => ("G4", "the Host that the client sent"),
        HeaderId::XForwardedProto => ("G4", "how the client speaks to the proxy"),
        HeaderId::XForwardedPrefix => ("G4", "what was stripped: applications need it for links in their pages"),
        HeaderId::Destination | HeaderId::If => ("G8", "where the upstream has what the client named"),
        HeaderId::Via => ("RFC 9110 section 7.6.3", "the message came through here"),
        HeaderId::MaxForwards => ("RFC 9110 section 7.6.2", "one hop less"),
        HeaderId::Authorization => ("G8", "the credentials of the upstream's URL"),
        HeaderId::ContentLength | HeaderId::TransferEncoding => ("S13", "framing of the proxy's own"),
        HeaderId::Connection | HeaderId::Upgrade => ("G14", "an upgrade that the route lets pass"),
        _ => return None,
    };
    Some(Reason { rule, words })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::connection::nominate;

    fn line<'a>(name: &'a str, value: &'a str) -> HeaderRef<'a> {
        HeaderRef { id: HeaderId::of(name.as_bytes()), name: name.as_bytes(), value: value.as_bytes() }
    }

    #[test]
    fn each_line_that_goes_has_its_reason() {
        let open = UpstreamUrl::parse("http://a").expect("a valid URL");
        let locked = UpstreamUrl::parse("http://u:p@a").expect("a valid URL");
        let plan = ForwardPlan { route: 0, upgrade: false, expects_continue: false };
        let upload = ForwardPlan { expects_continue: true, ..plan };
        let tunnel = ForwardPlan { upgrade: true, ..plan };
        let of = |plan, claims| StripRules { plan, claims };
        let mut nominated = Vec::new();
        nominate(b"x-a", &mut nominated);
        for (name, terms, expected) in [
            ("Accept", of(&plan, Claims::Untrusted), None),
            ("Connection", of(&plan, Claims::Untrusted), Some(StripReason::HopByHop)),
            ("Content-Length", of(&plan, Claims::Untrusted), Some(StripReason::HopByHop)),
            ("X-A", of(&plan, Claims::Kept), Some(StripReason::Nominated)),
            ("Upgrade", of(&plan, Claims::Kept), Some(StripReason::Upgrade)),
            ("Upgrade", of(&tunnel, Claims::Kept), Some(StripReason::HopByHop)),
            ("Host", of(&plan, Claims::Kept), Some(StripReason::Host)),
            ("Expect", of(&plan, Claims::Kept), Some(StripReason::Expectation)),
            ("Expect", of(&upload, Claims::Untrusted), None),
            ("X-Real-IP", of(&plan, Claims::Untrusted), Some(StripReason::Claim)),
            ("X-Real-IP", of(&plan, Claims::Off), Some(StripReason::ClaimsOff)),
            ("X-Real-IP", of(&plan, Claims::Kept), None),
            ("Via", of(&plan, Claims::Off), None),
            ("X_Real.IP", of(&plan, Claims::Off), Some(StripReason::LookAlike)),
            ("x_forwarded~for", of(&plan, Claims::Kept), Some(StripReason::LookAlike)),
            ("proxy_connection", of(&plan, Claims::Untrusted), Some(StripReason::LookAlike)),
        ] {
            assert_eq!(removal(&line(name, "x"), &terms, &nominated, &open), expected, "{name} {terms:?}");
        }
        let terms = of(&plan, Claims::Kept);
        for (upstream, name, expected) in [
            (&open, "Authorization", None),
            (&locked, "authorization", Some(StripReason::Credentials)),
            (&locked, "Cookie", None),
        ] {
            assert_eq!(removal(&line(name, "x"), &terms, b"", upstream), expected, "{upstream:?} {name}");
        }
    }
}
