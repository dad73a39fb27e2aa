//! The Connection field (RFC 9110 section 7.6.1): what it says about the connection, and which fields it nominates.

use crate::http::chars::{add_to_list, is_word, list_members};
use crate::http::error::HttpError;
use crate::http::fields::{Fields, HeaderId, HeaderSet};
use crate::http::head::Version;

const CONNECTION: HeaderSet = HeaderSet::of(&[HeaderId::Connection]);

/// More options than this in one head are refused: each field line is compared with each of them.
const MAX_OPTIONS: usize = 64;

/// What the Connection lines of one head say, all joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    close: bool,
    keep_alive: bool,
    /// Whether `upgrade` is among them.
    pub upgrade: bool,
}

impl Options {
    /// Notes an option; `false` where it is none of ours, but the name of a field.
    fn note(&mut self, option: &[u8]) -> bool {
        let words: [(&[u8], _); 3] =
            [(b"keep-alive", &mut self.keep_alive), (b"close", &mut self.close), (b"upgrade", &mut self.upgrade)];
        let known = words.into_iter().find(|(word, _)| is_word(option, word));
        known.map(|(_, flag)| *flag = true).is_some()
    }

    /// Whether the sender of a message of that version lets the connection live on (RFC 9112 section 9.3).
    pub fn is_persistent(self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// Reads all Connection lines; names of fields are collected in `named`, which is cleared first, as one list.
pub fn read_options(fields: &Fields, named: &mut Vec<u8>) -> Result<Options, HttpError> {
    named.clear();
    let mut options = Options::default();
    if !fields.may_contain_any(CONNECTION) {
        return Ok(options);
    }
    let mut count = 0;
    for value in fields.values(HeaderId::Connection) {
        // Nearly always one that is known, and the only one.
        if options.note(value) {
            continue;
        }
        for option in list_members(value) {
            count += 1;
            if count > MAX_OPTIONS {
                return Err(HttpError::TooManyOptions);
            }
            if !options.note(option) {
                add_to_list(option, named);
            }
        }
    }
    Ok(options)
}

/// Removes the lines that the sender has named in Connection; see [`read_options`]. That is the other half of rule G1.
pub fn remove_connection_named(fields: &mut Fields, named: &[u8]) {
    if !named.is_empty() {
        for option in list_members(named) {
            fields.remove(option);
        }
    }
}

/// Rule G14: of the protocols that a client offers in Upgrade, those that are `allowed`, and never h2c.
pub fn allowed_protocols<'a>(fields: &'a Fields, allowed: &'a [String]) -> impl Iterator<Item = &'a [u8]> {
    fields.values(HeaderId::Upgrade).flat_map(list_members).filter(|protocol| {
        let is_allowed = allowed.iter().any(|token| token.as_bytes().eq_ignore_ascii_case(protocol));
        is_allowed && !protocol.eq_ignore_ascii_case(b"h2c")
    })
}

/// Whether credentials or challenges in lines of that name are of a scheme that logs in a connection and not a request: NTLM,
/// and Negotiate, which may be NTLM. No other client may use such a connection (RFC 9110 section 3.3, RFC 4559).
pub fn has_connection_login(fields: &Fields, name: HeaderId) -> bool {
    fields.values(name).flat_map(list_members).any(|member| {
        // A space follows it; an origin may take a tab for one.
        let scheme = member.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"NTLM") || scheme.eq_ignore_ascii_case(b"Negotiate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields::HOP_BY_HOP;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn persistence_depends_on_version_and_options() {
        let table = [
            (Version::Http11, "", true),
            (Version::Http11, "close", false),
            (Version::Http11, "Keep-Alive, CLOSE", false),
            (Version::Http10, "", false),
            (Version::Http10, "keep-alive", true),
            (Version::Http10, "keep-alive, close", false),
        ];
        for (version, value, expected) in table {
            let options = read_options(&fields(&[("Connection", value)]), &mut Vec::new());
            assert_eq!(options.map(|options| options.is_persistent(version)), Ok(expected), "{version:?} {value:?}");
        }
    }

    #[test]
    fn g1_all_connection_lines_nominate_even_after_an_empty_one() {
        let mut head =
            fields(&[("Connection", ""), ("connection", "X-Secret , ,close"), ("X-SECRET", "1"), ("X-Other", "2")]);
        let mut named = Vec::new();
        read_options(&head, &mut named).expect("three options are few");
        head.remove_all(HOP_BY_HOP);
        remove_connection_named(&mut head, &named);
        let kept: Vec<_> = head.iter().map(|line| line.name).collect();
        assert_eq!(kept, [b"X-Other"]);
    }

    #[test]
    fn logins_of_connections_are_known_by_their_scheme() {
        for (value, expected) in [
            ("NTLM", true),
            ("negotiate", true),
            ("NTLM TlRMTVNTUAABAAAA", true),
            ("NTLM\tTlRMTVNTUAABAAAA", true),
            ("Basic realm=\"a, b\", Negotiate YII=", true),
            ("Basic dTpw", false),
            ("Bearer NTLM", false),
            ("NTLMv2", false),
            ("Digest realm=\"NTLM\"", false),
            ("", false),
        ] {
            let fields = fields(&[("WWW-Authenticate", value)]);
            assert_eq!(has_connection_login(&fields, HeaderId::WwwAuthenticate), expected, "{value:?}");
            assert!(!has_connection_login(&fields, HeaderId::Authorization), "{value:?}");
        }
    }

    #[test]
    fn g1_names_are_compared_whole() {
        let mut head = fields(&[("Connection", "X-Ab, close, X-A, X-Abcd"), ("x-a", "1"), ("X-Abc", "2"), ("X", "3")]);
        let mut named = Vec::new();
        read_options(&head, &mut named).expect("few options");
        head.remove_all(HOP_BY_HOP);
        remove_connection_named(&mut head, &named);
        let kept: Vec<_> = head.iter().map(|line| line.name).collect();
        assert_eq!(kept, [&b"X-Abc"[..], b"X"]);
    }

    #[test]
    fn g1_a_flood_of_options_is_refused() {
        let table = [(MAX_OPTIONS, true), (MAX_OPTIONS + 1, false)];
        for (count, accepted) in table {
            let value = vec!["a"; count].join(",");
            assert_eq!(read_options(&fields(&[("Connection", &value)]), &mut Vec::new()).is_ok(), accepted, "{count}");
        }
    }
}
