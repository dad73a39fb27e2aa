//! The subject of a client's certificate as text, in the form of RFC 4514.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

// Tags of DER (X.690 section 8).
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// UTF8String, PrintableString, T61String, IA5String.
const STRINGS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];

/// The types that have a short name (RFC 4514 section 3), and the one of mail addresses, as OpenSSL writes it.
const TYPES: [(&[u8], &str); 10] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// Visible ASCII, whatever is in it; `None` where it is no name of X.501.
pub(super) fn subject_of(certificate: &CertificateDer<'_>) -> Option<String> {
    // rustls takes a certificate apart when it is made a root.
    let mut taken_apart = RootCertStore::empty();
    taken_apart.add(certificate.clone()).ok()?;
    name_text(&taken_apart.roots.first()?.subject)
}

/// A sequence of sets of attributes, without the tag around it; the last one comes first.
fn name_text(mut name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !name.is_empty() {
        let (mut set, rest) = read(SET, name)?;
        let mut attributes = Vec::new();
        while !set.is_empty() {
            let (attribute, others) = read(SEQUENCE, set)?;
            let (kind, value) = read(OID, attribute)?;
            attributes.push(format!("{}={}", type_text(kind), value_text(value)?));
            set = others;
        }
        parts.push(attributes.join("+"));
        name = rest;
    }
    parts.reverse();
    Some(parts.join(","))
}

/// The content of an element with this tag, and what is behind it.
fn read(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first().filter(|(found, _)| **found == tag)?.1.split_first()?;
    let (len, rest) = match found {
        ..=0x7f => (usize::from(*found), rest),
        0x81 | 0x82 => {
            let (len, rest) = rest.split_at_checked(usize::from(found & 0x7f))?;
            (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

fn type_text(kind: &[u8]) -> String {
    if let Some((_, name)) = TYPES.iter().find(|(known, _)| *known == kind) {
        return (*name).to_owned();
    }
    let (mut text, mut number) = (String::new(), 0_u64);
    for byte in kind {
        number = number << 7 | u64::from(byte & 0x7f);
        if *byte < 0x80 {
            // The first two numbers are in one.
            let top = (number / 40).min(2);
            text += &if text.is_empty() { format!("{top}.{}", number - 40 * top) } else { format!(".{number}") };
            number = 0;
        }
    }
    text
}

/// Escaped; in hexadecimal what is no text.
fn value_text(value: &[u8]) -> Option<String> {
    let tag = *value.first()?;
    let (content, _) = read(tag, value)?;
    if !STRINGS.contains(&tag) {
        return Some(value.iter().fold("#".to_owned(), |text, byte| text + &format!("{byte:02X}")));
    }
    let mut text = String::new();
    for (at, byte) in content.iter().enumerate() {
        let is_special = b"\"+,;<>\\".contains(byte)
            || (at == 0 && b"# ".contains(byte))
            || (at + 1 == content.len() && *byte == b' ');
        match byte {
            b' '..=b'~' if is_special => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text += &format!("\\{byte:02X}"),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = u8::try_from(content.len()).expect("short");
        let len = if len < 0x80 { vec![len] } else { vec![0x81, len] };
        [&[tag], &len[..], content].concat()
    }

    fn attribute(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        element(SEQUENCE, &[element(OID, kind), element(tag, value)].concat())
    }

    fn set(attributes: &[Vec<u8>]) -> Vec<u8> {
        element(SET, &attributes.concat())
    }

    #[test]
    fn names_are_written_as_rfc_4514_has_them() {
        let cn = |value: &[u8]| set(&[attribute(TYPES[0].0, 0x0c, value)]);
        let org = set(&[attribute(TYPES[5].0, 0x13, b"Example, Inc."), attribute(TYPES[6].0, 0x13, b"R+D")]);
        for (name, der, expected) in [
            ("none", vec![], ""),
            ("one", cn(b"James"), "CN=James"),
            ("the last comes first", [org, cn(b"a b")].concat(), "CN=a b,O=Example\\, Inc.+OU=R\\+D"),
            ("spaces and a sharp", cn(b" #a "), "CN=\\ #a\\ "),
            ("a sharp", cn(b"#\"<>;\\="), "CN=\\#\\\"\\<\\>\\;\\\\="),
            ("line breaks and letters", cn("a\r\n\u{e9}".as_bytes()), "CN=a\\0D\\0A\\C3\\A9"),
            ("a long one", cn(&[b'x'; 150]), &format!("CN={}", "x".repeat(150))),
            ("no text", set(&[attribute(TYPES[0].0, 0x1e, &[0, 0x41])]), "CN=#1E020041"),
            ("another type", set(&[attribute(&[0x2a, 0x86, 0x48, 5], 0x0c, b"v")]), "1.2.840.5=v"),
            ("a type of ITU", set(&[attribute(&[0x88, 0x37, 3], 0x0c, b"v")]), "2.999.3=v"),
        ] {
            assert_eq!(name_text(&der).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn nothing_that_is_damaged_panics() {
        let whole = set(&[attribute(TYPES[0].0, 0x0c, b"James"), attribute(&[0x2a, 0xff], 0x1e, &[b'y'; 140])]);
        for len in 0..whole.len() {
            assert_eq!(name_text(&whole[..len]).is_some(), len == 0, "{len} bytes");
        }
        for at in 0..whole.len() {
            for byte in 0..=u8::MAX {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                let text = name_text(&damaged).unwrap_or_default();
                assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
            }
        }
        assert_eq!(subject_of(&CertificateDer::from_slice(b"\x30\x03abc")), None);
    }
}
