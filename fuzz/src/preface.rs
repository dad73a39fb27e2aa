//! What a load balancer says before the first byte.

use std::net::SocketAddr;

use mini_rproxy::extras::proxy_protocol::{Header, MAX_HEADER, Tlvs, parse_header};

/// The verdict does not depend on how the bytes come and is there in time; what it says stands in the bytes.
pub fn preface(bytes: &[u8]) {
    let whole = parse_header(bytes);
    let first = (0..=bytes.len()).map(|end| parse_header(&bytes[..end])).find(|verdict| *verdict != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole, "in pieces");
    match whole {
        Ok(None) => assert!(bytes.len() < MAX_HEADER, "that was enough to decide"),
        Ok(Some(found)) => {
            check(&bytes[..found.len], found);
            let rest = &bytes[found.len..];
            check_tlvs(&rest[..rest.len().min(found.tlvs.left().into())], found.tlvs);
        }
        Err(error) => assert!(error.to_string().len() > 20, "a sentence"),
    }
}

fn check_tlvs(rest: &[u8], tlvs: Tlvs) {
    let (mut whole, mut in_pieces) = (tlvs, tlvs);
    whole.read(rest);
    rest.iter().for_each(|byte| in_pieces.read(&[*byte]));
    assert_eq!(whole, in_pieces);
    assert_eq!(usize::from(tlvs.left() - whole.left()), rest.len());
}

fn check(header: &[u8], Header { tlvs, client, .. }: Header) {
    let skip = tlvs.left();
    assert!(header.len() <= MAX_HEADER);
    if header.starts_with(b"PROXY ") {
        assert_eq!(skip, 0);
        let line = std::str::from_utf8(header.strip_suffix(b"\r\n").expect("a line")).unwrap_or_default();
        let Some(client) = client else {
            // Whatever it says behind that word.
            return assert!(header.starts_with(b"PROXY UNKNOWN"));
        };
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), 6, "{line:?}");
        assert_eq!(words[1], if client.is_ipv4() { "TCP4" } else { "TCP6" });
        assert_eq!(words[2].parse(), Ok(client.ip()), "{line:?}");
        assert_eq!(words[4], client.port().to_string());
    } else {
        let (fixed, addresses) = header.split_at(16);
        let length = u16::from_be_bytes([fixed[14], fixed[15]]);
        assert_eq!(usize::from(length), addresses.len() + usize::from(skip));
        let expected = match (fixed[12], fixed[13], addresses) {
            (0x21, 0x11, [a, b, c, d, .., e, f, _, _]) => {
                Some(SocketAddr::from(([*a, *b, *c, *d], u16::from_be_bytes([*e, *f]))))
            }
            (0x21, 0x21, [ip @ .., e, f, _, _]) => {
                let ip: [u8; 16] = ip[..16].try_into().expect("two addresses");
                Some(SocketAddr::from((ip, u16::from_be_bytes([*e, *f]))))
            }
            (0x20 | 0x21, _, []) => None,
            other => panic!("accepted: {other:?}"),
        };
        assert_eq!(client, expected);
    }
}
