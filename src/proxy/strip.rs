//! Which lines of a request do not pass, and why: the one place. `forward` removes them, `explain` tells the reasons.

use super::admit::ForwardPlan;
use super::forwarded::PeerTrust;
use crate::config::UpstreamUrl;
use crate::http::chars::list_has;
use crate::http::fields::{FORWARDED, HOP_BY_HOP, HeaderId, HeaderRef, HeaderSet};

/// Classes with the rule and the reason, by how the request is forwarded and whether the peer may say something about its
/// client; of several that hold a line the first one counts.
#[inline]
fn rows(plan: &ForwardPlan, trust: PeerTrust) -> [(HeaderSet, &'static str); 6] {
    const NONE: HeaderSet = HeaderSet::of(&[]);
    let (forwarded, why_forwarded) = match trust {
        PeerTrust::Trusted => (NONE, ""),
        PeerTrust::Untrusted => {
            (FORWARDED, "G4: the peer is none of forwarded.trusted_proxies: anybody can write this")
        }
        PeerTrust::Disabled => (FORWARDED, "G4: forwarded.enabled is false"),
    };
    let expect = if plan.expects_continue { NONE } else { HeaderSet::of(&[HeaderId::Expect]) };
    let upgrade = if plan.upgrade { NONE } else { HeaderSet::of(&[HeaderId::Upgrade]) };
    [
        (HeaderSet::of(&[HeaderId::Host]), "G8: written anew, by the route's key host"),
        (expect, "G10: there is no body to wait for"),
        // Of trusted peers, too: a proxy passes on what it does not know, and so what its client has forged.
        (
            HeaderSet::of(&[HeaderId::LookAlike]),
            "G4: some origins would take it for a field that only the proxy may set",
        ),
        (upgrade, "G14: no protocol that the route lets pass here (its key upgrade)"),
        (forwarded, why_forwarded),
        // Framing fields are among them: each connection gets its own.
        (HOP_BY_HOP, "G1: speaks of the client's own connection"),
    ]
}

/// The lines that do not pass.
#[inline]
pub fn removed(plan: &ForwardPlan, trust: PeerTrust) -> HeaderSet {
    rows(plan, trust).into_iter().fold(HeaderSet::default(), |all, (classes, _)| all.or(classes))
}

/// Why a line of a request to `upstream` is left out, where it is. `connection_named` is what the client's Connection names.
pub fn reason_to_strip(
    line: &HeaderRef<'_>,
    plan: &ForwardPlan,
    trust: PeerTrust,
    connection_named: &[u8],
    upstream: &UpstreamUrl,
) -> Option<&'static str> {
    if strip_after_hooks(upstream).has(line.id) {
        return Some("G8: the upstream's URL has credentials of its own");
    }
    let row = rows(plan, trust).into_iter().find(|(classes, _)| classes.has(line.id));
    let is_named = || list_has(connection_named, line.name);
    row.map(|(_, reason)| reason).or_else(|| is_named().then_some("G1: named by Connection: meant for this hop only"))
}

/// What is left out only when plugins have seen it: they judge the client by the credentials that it sent, and never see
/// those of the upstream's URL.
pub fn strip_after_hooks(upstream: &UpstreamUrl) -> HeaderSet {
    if upstream.authorization.is_some() { HeaderSet::of(&[HeaderId::Authorization]) } else { HeaderSet::default() }
}

/// Why a line of that name is written by the proxy, where it writes such lines.
pub const fn reason_to_add(id: HeaderId) -> Option<&'static str> {
    Some(match id {
        HeaderId::Host => "G8: as the route's key host says: upstream, client, or a fixed name",
        HeaderId::XForwardedFor => "G4: who is asking",
        HeaderId::XForwardedHost => "G4: the Host that the client sent",
        HeaderId::XForwardedProto => "G4: how the client speaks to the proxy",
        HeaderId::XForwardedPrefix => "G4: what was stripped: applications need it for links in their pages",
        HeaderId::Destination | HeaderId::If => "G8: where the upstream has what the client named",
        HeaderId::Via => "RFC 9110 section 7.6.3: the message came through here",
        HeaderId::MaxForwards => "RFC 9110 section 7.6.2: one hop less",
        HeaderId::Authorization => "G8: the credentials of the upstream's URL",
        HeaderId::ContentLength | HeaderId::TransferEncoding => "S13: framing of the proxy's own",
        HeaderId::Connection | HeaderId::Upgrade => "G14: an upgrade that the route lets pass",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let check = |name: &str, plan, trust, upstream, expected: Option<(&str, &str)>| {
            let found = reason_to_strip(&line(name, "x"), plan, trust, b"x-b, x-a", upstream);
            let starts = |(rule, words): (&str, &str), found: &str| found.starts_with(rule) && found.contains(words);
            let is_right = match (found, expected) {
                (Some(found), Some(expected)) => starts(expected, found),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_right, "{name} {plan:?} {trust:?}: {found:?}");
            let is_removed = removed(plan, trust).has(HeaderId::of(name.as_bytes()));
            let goes_otherwise = name == "X-A" || strip_after_hooks(upstream).has(HeaderId::of(name.as_bytes()));
            assert_eq!(is_removed || goes_otherwise, found.is_some(), "{name} {plan:?} {trust:?}");
        };
        use PeerTrust::{Disabled, Trusted, Untrusted};
        for (name, plan, trust, expected) in [
            ("Accept", &plan, Untrusted, None),
            ("Connection", &plan, Untrusted, Some(("G1", "own connection"))),
            ("Content-Length", &plan, Untrusted, Some(("G1", "own connection"))),
            ("X-A", &plan, Trusted, Some(("G1", "named by Connection"))),
            ("Upgrade", &plan, Trusted, Some(("G14", "no protocol"))),
            ("Upgrade", &tunnel, Trusted, Some(("G1", "own connection"))),
            ("Host", &plan, Trusted, Some(("G8", "written anew"))),
            ("Expect", &plan, Trusted, Some(("G10", "no body"))),
            ("Expect", &upload, Untrusted, None),
            ("X-Real-IP", &plan, Untrusted, Some(("G4", "trusted_proxies"))),
            ("X-Real-IP", &plan, Disabled, Some(("G4", "forwarded.enabled"))),
            ("X-Real-IP", &plan, Trusted, None),
            ("Via", &plan, Disabled, None),
            ("X_Real.IP", &plan, Disabled, Some(("G4", "some origins"))),
            ("x_forwarded~for", &plan, Trusted, Some(("G4", "some origins"))),
            ("proxy_connection", &plan, Untrusted, Some(("G4", "some origins"))),
            ("Authorization", &plan, Trusted, None),
        ] {
            check(name, plan, trust, &open, expected);
        }
        check("authorization", &plan, Trusted, &locked, Some(("G8", "credentials")));
        check("Cookie", &plan, Trusted, &locked, None);
    }
}
