//! What rustls does not tell of a certificate: its dates, and the name of one that has no subjectAltName.
//!
//! Only the few fields of RFC 5280 section 4.1 that stand in front of the key are read; whether the whole is valid is
//! rustls' business.

/// The tags of DER that matter here.
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`: the version, which version 1 leaves out.
const VERSION: u8 = 0xa0;

/// commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// The object identifier of subjectAltName, 2.5.29.17, as it is encoded.
const SUBJECT_ALT_NAME: &[u8] = &[OBJECT_IDENTIFIER, 3, 0x55, 0x1d, 0x11];

/// From when to when a certificate is valid, both included; in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`
    pub not_before: i64,
    /// `notAfter`
    pub not_after: i64,
}

/// The dates of a certificate; `None` where they cannot be read.
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let (validity, _) = read(fields(certificate)?.0, SEQUENCE)?;
    let (not_before, rest) = read_time(validity)?;
    let (not_after, _) = read_time(rest)?;
    Some(Validity { not_before, not_after })
}

/// The commonName of a certificate that has no subjectAltName: the only name that it bears then (RFC 6125 section 6.4.4).
pub fn only_common_name(certificate: &[u8]) -> Option<&str> {
    if certificate.windows(SUBJECT_ALT_NAME.len()).any(|window| window == SUBJECT_ALT_NAME) {
        return None;
    }
    let mut attributes = fields(certificate)?.1;
    let mut name = None;
    while let Some((set, rest)) = read(attributes, SET) {
        attributes = rest;
        let (attribute, _) = read(set, SEQUENCE)?;
        let (kind, value) = read(attribute, OBJECT_IDENTIFIER)?;
        if kind == COMMON_NAME {
            let (text, _) = read(value, UTF8_STRING).or_else(|| read(value, PRINTABLE_STRING))?;
            name = Some(std::str::from_utf8(text).ok()?);
        }
    }
    name
}

/// What stands from `validity` on, and what is in `subject`.
fn fields(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (certificate, _) = read(certificate, SEQUENCE)?;
    let (fields, _) = read(certificate, SEQUENCE)?;
    let fields = read(fields, VERSION).map_or(fields, |(_, rest)| rest);
    let (_serial, fields) = read(fields, INTEGER)?;
    let (_algorithm, fields) = read(fields, SEQUENCE)?;
    let (_issuer, from_validity) = read(fields, SEQUENCE)?;
    let (_validity, fields) = read(from_validity, SEQUENCE)?;
    let (subject, _) = read(fields, SEQUENCE)?;
    Some((from_validity, subject))
}

/// The content of the first element, which has this tag, and what follows it.
fn read(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[first, len], rest) = bytes.split_first_chunk::<2>()?;
    if first != tag {
        return None;
    }
    let (len, rest) = match len {
        0..=0x7f => (usize::from(len), rest),
        // So many bytes of length follow; a certificate is shorter than 16 MiB.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(len - 0x80))?;
            (digits.iter().fold(0, |len, &digit| len << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

fn read_time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, century_digits) = match read(bytes, UTC_TIME) {
        Some((text, rest)) => (text, rest, 0),
        None => read(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 2))?,
    };
    // Years, month, day, hour, minute, second, in two digits each, and Z (RFC 5280 section 4.1.2.5).
    let (digits, zone) = text.split_at_checked(12 + century_digits)?;
    if zone != b"Z" || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut pairs = digits.chunks(2).map(|pair| i64::from(pair[0] - b'0') * 10 + i64::from(pair[1] - b'0'));
    let mut next = || pairs.next();
    let year = match century_digits {
        0 => next().map(|year| if year < 50 { 2000 + year } else { 1900 + year })?,
        _ => next()? * 100 + next()?,
    };
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    if !(1..=12).contains(&month) {
        return None;
    }
    Some((days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second, rest))
}

/// Days of the Gregorian calendar: years are counted from March, so that the odd day stands at their end.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_1970 = 719_468;
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - days_before_1970
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

    fn certificate(names: &[&str], years: (i32, i32)) -> Vec<u8> {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        let params = params.as_mut().expect("names");
        params.not_before = date_time_ymd(years.0, 2, 29);
        params.not_after = date_time_ymd(years.1, 12, 31);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Somebody");
        params.distinguished_name.push(DnType::CommonName, "the.name");
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn dates_of_both_forms_are_read() {
        // From `date -u -d ... +%s`.
        for (years, expected) in [
            ((2024, 2024), (1_709_164_800, 1_735_603_200)),
            ((2000, 2049), (951_782_400, 2_524_521_600)),
            ((1976, 2050), (194_400_000, 2_556_057_600)),
            ((1904, 9999), (-2_077_747_200, 253_402_214_400)),
        ] {
            let read = validity(&certificate(&[], years)).expect("dates");
            assert_eq!((read.not_before, read.not_after), expected, "{years:?}");
        }
    }

    #[test]
    fn the_common_name_counts_where_there_is_no_other() {
        assert_eq!(only_common_name(&certificate(&[], (2024, 2025))), Some("the.name"));
        assert_eq!(only_common_name(&certificate(&["other.name"], (2024, 2025))), None);
    }

    #[test]
    fn what_is_cut_or_no_certificate_is_nothing() {
        let whole = certificate(&[], (2024, 2025));
        for len in 0..whole.len() {
            assert_eq!(validity(&whole[..len]), None, "{len}");
            assert_eq!(only_common_name(&whole[..len]), None, "{len}");
        }
        for bytes in [&b""[..], b"\x30", b"\x30\x80", b"\x30\x84\0\0\0\0", b"\x02\x01\x01"] {
            assert_eq!(validity(bytes), None, "{bytes:?}");
        }
    }
}
