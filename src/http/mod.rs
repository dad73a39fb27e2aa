//! Floor 1: the HTTP/1.1 grammar, pure. No socket, no clock, no thread.
//!
//! | file | one job |
//! |---|---|
//! | `block` | several bytes looked at together |
//! | [`chars`] | byte classes and strict numbers |
//! | [`fields`] | ordered field lines |
//! | [`start_line`] | methods, versions, reason phrases |
//! | [`lines`] | the lines of a head, one at a time, and what can be wrong with them |
//! | `quick` | a head that has arrived whole and looks as we would write it, in one pass |
//! | [`head`] | message heads: bytes to values, values to bytes |
//! | [`target`] | request targets, authorities, dot segments |
//! | [`framing`] | where a body ends: the one place that decides it (RFC 9112 section 6.3) |
//! | [`chunked`] | the chunked transfer coding: decoder and encoder |
//! | [`body`] | one body on its way: how much is left, and whether it may be relayed unseen |

mod block;
pub mod chars;
pub mod fields;
pub mod start_line;
pub mod lines;
mod quick;
pub mod head;
pub mod target;
pub mod framing;
pub mod chunked;
pub mod body;

/// Tests that cut an input in two do so at each place; Miri, which is slow, at every so many.
#[cfg(test)]
const CUT_EVERY: usize = if cfg!(miri) { 31 } else { 1 };

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::chunked::ChunkError;
    use super::framing::FramingError;
    use super::lines::HeadError;
    use super::start_line::reason_phrase;
    use super::target::TargetError;

    #[test]
    fn s22_each_sin_has_a_sentence_of_its_own_that_says_what_was_expected() {
        use {ChunkError as C, FramingError as F, HeadError as H, TargetError as T};
        let chunks =
            [C::BadSize, C::SizeTooLarge, C::BadExtension, C::BadLineEnd, C::LineTooLong, C::TooManyExtensions];
        let more_chunks = [C::BadDataEnd, C::TooMuchOverhead, C::BadTrailer, C::TrailersTooLarge];
        let lengths = [F::LengthAndCoding, F::BadLength, F::RepeatedLength, F::RepeatedCoding, F::CodingInHttp10];
        let codings = [F::UnknownCoding];
        let ends =
            [H::BareLf, H::BareCr, H::Control, H::EmptyStartLine, H::BadSpacing, H::BadMethod, H::NonAsciiTarget];
        let starts =
            [H::MissingVersion, H::BadVersion, H::UnsupportedVersion, H::BadStatus, H::LeadingSpace, H::ObsFold];
        let lines = [H::MissingColon, H::EmptyName, H::SpaceBeforeColon, H::BadName, H::BadValue];
        let limits = [H::RequestLineTooLong, H::HeadTooLarge, H::TooManyLines];
        let forms =
            [T::Empty, T::BadByte, T::Fragment, T::NotOptions, T::NotAuthorityForm, T::UnknownForm, T::DotSegment];
        let hosts = [T::BadAuthority, T::HostMissing, T::HostRepeated, T::HostInvalid, T::HostMismatch];
        let chunks = chunks.iter().chain(&more_chunks).map(|sin| (sin.to_string(), sin.rule()));
        let framing = lengths.iter().chain(&codings).map(|sin| (sin.to_string(), sin.rule()));
        let heads = ends.iter().chain(&starts).chain(&lines).chain(&limits).map(|sin| (sin.to_string(), sin.rule()));
        let targets = forms.iter().chain(&hosts).map(|sin| (sin.to_string(), sin.rule()));
        let mut known = HashSet::new();
        for (sentence, rule) in chunks.chain(framing).chain(heads).chain(targets) {
            let words = sentence.strip_prefix("expected ").unwrap_or_default();
            assert!(!words.is_empty() && !words.contains(char::is_control), "{sentence:?}");
            assert!(rule.starts_with('S') || rule.starts_with("max_"), "{sentence}: {rule:?}");
            assert!(known.insert(sentence.clone()), "said of two sins: {sentence}");
        }
    }

    #[test]
    fn reasons_are_clean_and_each_status_has_its_own() {
        let mut known = HashSet::new();
        for phrase in (0..=u16::MAX).map(reason_phrase).filter(|phrase| !phrase.is_empty()) {
            assert!(phrase.bytes().all(|byte| byte.is_ascii_alphabetic() || b" -".contains(&byte)), "{phrase:?}");
            assert!(known.insert(phrase), "{phrase} for two");
        }
        for ours in [100, 101, 200, 204, 302, 400, 403, 404, 405, 408, 413, 414, 417, 431, 500, 501, 502, 503, 504, 505]
        {
            assert!(!reason_phrase(ours).is_empty(), "{ours}");
        }
    }
}
