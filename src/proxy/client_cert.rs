//! What upstreams are told about a client's certificate where `tls.client_ca` is configured: two fields, which no client can
//! send itself.

use super::events::PeerDetails;
use crate::http::fields::{Fields, is_look_alike};

const VERIFY: &[u8] = b"X-Client-Cert-Verify";
const SUBJECT: &[u8] = b"X-Client-Cert-Subject";

/// Whether some origin takes a field of this name for one of the two (rule G4).
pub fn is_client_cert_field(name: &[u8]) -> bool {
    is_look_alike(name, VERIFY) || is_look_alike(name, SUBJECT)
}

/// Removes what the client says about it, and writes what is known.
pub fn set_client_cert(fields: &mut Fields, details: Option<&PeerDetails>) {
    fields.retain(|line| !is_client_cert_field(line.name));
    let subject = details.and_then(|details| details.client_subject.as_deref());
    fields.add(VERIFY, if subject.is_some() { b"SUCCESS" } else { b"NONE" });
    if let Some(subject) = subject {
        fields.add(SUBJECT, subject.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g4_what_a_client_says_about_its_certificate_is_dropped_and_made_anew() {
        let mut fields = Fields::new();
        for name in ["X-Client-Cert-Verify", "x_client_cert_verify", "X-CLIENT.Cert~Subject", "X-Client-Cert-Subjects"]
        {
            fields.add(name.as_bytes(), b"CN=forged");
        }
        let lines = |fields: &Fields| {
            let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
            fields.iter().map(|line| format!("{}={}", text(line.name), text(line.value))).collect::<Vec<_>>()
        };
        set_client_cert(&mut fields, None);
        assert_eq!(lines(&fields), ["X-Client-Cert-Subjects=CN=forged", "X-Client-Cert-Verify=NONE"]);
        let details = PeerDetails { client_subject: Some("CN=a".to_owned()), ..PeerDetails::default() };
        set_client_cert(&mut fields, Some(&details));
        let expected =
            ["X-Client-Cert-Subjects=CN=forged", "X-Client-Cert-Verify=SUCCESS", "X-Client-Cert-Subject=CN=a"];
        assert_eq!(lines(&fields), expected);
    }
}
