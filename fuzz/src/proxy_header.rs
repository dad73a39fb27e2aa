//! What a load balancer says before the first byte.

use std::net::SocketAddr;

use mini_rproxy::extras::proxy_protocol::{Header, MAX_PEEK, parse_header};

/// The verdict does not depend on how the bytes come and is there in time; what it says stands in the bytes.
pub fn proxy_header(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MAX_PEEK)];
    let whole = parse_header(bytes);
    let first = (0..=bytes.len()).map(|end| parse_header(&bytes[..end])).find(|verdict| *verdict != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole, "in pieces");
    match whole {
        Ok(None) => assert!(bytes.len() < MAX_PEEK, "that was enough to decide"),
        Ok(Some(found)) => check(&bytes[..found.len.min(MAX_PEEK)], found),
        Err(error) => assert!(error.len() > 20, "a sentence"),
    }
}

fn check(header: &[u8], Header { len, client, is_tls }: Header) {
    if header.starts_with(b"PROXY ") {
        assert!(!is_tls);
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
        assert_eq!(16 + usize::from(length), len);
        let expected = match (fixed[12], fixed[13], addresses) {
            (0x21, 0x11, [a, b, c, d, _, _, _, _, e, f, ..]) => {
                Some(SocketAddr::from(([*a, *b, *c, *d], u16::from_be_bytes([*e, *f]))))
            }
            (0x21, 0x21, _) => {
                let ip: [u8; 16] = addresses[..16].try_into().expect("two addresses");
                Some(SocketAddr::from((ip, u16::from_be_bytes([addresses[32], addresses[33]]))))
            }
            (0x20, ..) | (0x21, 0x00 | 0x31, _) => None,
            other => panic!("accepted: {other:?}"),
        };
        assert_eq!(client, expected);
    }
}
