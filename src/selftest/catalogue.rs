//! The whole catalogue, embedded in the binary.

use super::entry::Entry;
use super::notation::{BadEntry, parse};

/// The files, embedded: families of requests first, then families of responses.
const FILES: [(&str, &str); 18] = [
    ("length_and_coding", include_str!("../../tests/smuggling/length_and_coding.smug")),
    ("content_length", include_str!("../../tests/smuggling/content_length.smug")),
    ("transfer_encoding", include_str!("../../tests/smuggling/transfer_encoding.smug")),
    ("chunks", include_str!("../../tests/smuggling/chunks.smug")),
    ("lines", include_str!("../../tests/smuggling/lines.smug")),
    ("field_names", include_str!("../../tests/smuggling/field_names.smug")),
    ("host", include_str!("../../tests/smuggling/host.smug")),
    ("request_line", include_str!("../../tests/smuggling/request_line.smug")),
    ("targets", include_str!("../../tests/smuggling/targets.smug")),
    ("bodies", include_str!("../../tests/smuggling/bodies.smug")),
    ("expect", include_str!("../../tests/smuggling/expect.smug")),
    ("upgrade", include_str!("../../tests/smuggling/upgrade.smug")),
    ("trailers", include_str!("../../tests/smuggling/trailers.smug")),
    ("hop_by_hop", include_str!("../../tests/smuggling/hop_by_hop.smug")),
    ("response_framing", include_str!("../../tests/smuggling/response_framing.smug")),
    ("response_heads", include_str!("../../tests/smuggling/response_heads.smug")),
    ("response_chunks", include_str!("../../tests/smuggling/response_chunks.smug")),
    ("response_bodies", include_str!("../../tests/smuggling/response_bodies.smug")),
];

/// The whole catalogue.
pub fn entries() -> Result<Vec<Entry>, BadEntry> {
    let mut entries = Vec::new();
    for (family, text) in FILES {
        entries.extend(parse(family, text)?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smuggling");
        for file in std::fs::read_dir(folder).expect("the folder") {
            let name = file.expect("an entry").file_name().into_string().expect("ASCII");
            assert!(FILES.iter().any(|(family, _)| name == format!("{family}.smug")), "{name} is not embedded");
        }
    }
}
