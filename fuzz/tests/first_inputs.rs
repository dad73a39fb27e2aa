//! Writes first inputs for every target into `corpus/`, made from the tests' data:
//! `cargo test --no-default-features --test first_inputs -- --ignored`.

use std::fs;
use std::path::{Path, PathBuf};

use mini_rproxy::proxy::proxy_connection::Side;
use mini_rproxy_fuzz::encode;
use mini_rproxy_fuzz::testkit::script::{Event, Script};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn put(target: &str, name: &str, parts: &[&[u8]]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("a folder");
    let bytes = parts.concat();
    if !bytes.is_empty() && bytes.len() < 8000 {
        fs::write(folder.join(name), bytes).expect("a file");
    }
}

#[test]
#[ignore = "writes files"]
fn write_first_inputs() {
    for entry in fs::read_dir(root().join("tests/wire")).expect("the scripts") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        // This build has no TLS.
        if name.starts_with("tls_") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a script");
        from_script(&name, &text);
    }
    let example = fs::read(root().join("config.example.yml")).expect("the example");
    put("config", "example", &[&example]);
    for (index, line) in include_str!("../../tests/config.rs").lines().enumerate() {
        let Some((_, rest)) = line.split_once("\"routes:") else { continue };
        let Some((text, _)) = rest.rsplit_once('"') else { continue };
        put("config", &format!("test-{index}"), &[b"routes:", text.replace("\\n", "\n").as_bytes()]);
    }
    let prefixes = "/a\n/a/b\n/%61/c\n/a%2fb\n/\n/fitness/\n/a/b/c/d";
    for (index, target) in
        ["/a/b/c?x=%20", "/%61/b", "/a%2Fb/c", "/a/%2e%2E/b", "/a/..%5cb", "/a/.;x", "http://h:80/a/b?c", "*", "h:1"]
            .iter()
            .enumerate()
    {
        put("target_route", &format!("target-{index}"), &[&[0], target.as_bytes(), b"\nh\n", prefixes.as_bytes()]);
    }
    elf_files();
    records();
    for flags in 0..4 {
        let ops = b"\0\0\x01a\x03\x01\x02bc\x06\x01\x07\x03\x01\x08\x02\x03abc\x0a\x02\x0b\x05hello\x0d\x50\x1a\x03PUT";
        put("plugin_fields", &format!("all-{flags}"), &[&[flags], ops]);
    }
}

fn from_script(name: &str, text: &str) {
    let script = Script::parse(text).expect("the scripts are in order");
    let lines = |start: &str| -> Vec<&str> { text.lines().filter_map(|line| line.strip_prefix(start)).collect() };
    put("exchange", name, &[&encode(&lines("HOOK "), 3, script.events())]);
    let mut sides = [Vec::new(), Vec::new()];
    for event in script.events() {
        if let Event::Bytes(side, bytes) = event {
            sides[usize::from(*side == Side::Upstream)].extend_from_slice(bytes);
        }
    }
    let [requests, responses] = sides;
    put("request_head", name, &[b"\x03", &requests]);
    put("response_head", name, &[b"\x03", &responses]);
    put("framing_pair", &format!("requests-{name}"), &[b"\0", &requests]);
    put("framing_pair", &format!("responses-{name}"), &[b"\x01", &responses]);
    for (side, bytes) in [("requests", &requests), ("responses", &responses)] {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        put("chunked_roundtrip", &format!("{side}-{name}"), &[b"\x02", &bytes[end..]]);
    }
    let config: Vec<&str> =
        text.lines().skip_while(|line| *line != "config:").skip(1).map_while(|line| line.strip_prefix("  ")).collect();
    put("config", name, &[config.join("\n").as_bytes()]);
    let mut words = requests.split(|&byte| byte == b' ').skip(1);
    if let Some(target) = words.next() {
        put("target_route", name, &[&[0], target, b"\nh\n/a\n/a/b\n/"]);
    }
}

/// The smallest shared objects: a header, a segment to load, a dynamic one; the first is for x86-64.
fn elf_files() {
    for (index, machine, is64, is_big) in [(0u8, 62u64, true, false), (1, 40, false, false), (2, 22, true, true)] {
        let mut file = vec![3];
        file.extend_from_slice(b"\x7fELF");
        file.extend_from_slice(&[1 + u8::from(is64), 1 + u8::from(is_big), 1]);
        file.extend_from_slice(&[0; 9]);
        let mut put_number = |number: u64, len: usize| {
            let bytes = number.to_be_bytes();
            let mut bytes = bytes[8 - len..].to_vec();
            if !is_big {
                bytes.reverse();
            }
            file.extend_from_slice(&bytes);
        };
        let word = if is64 { 8 } else { 4 };
        let (header, entry) = if is64 { (64, 56) } else { (52, 32) };
        let end = header + 2 * entry + 16;
        [(3, 2), (machine, 2), (1, 4), (0, word), (header, word), (0, word), (0, 4), (header, 2), (entry, 2)]
            .into_iter()
            .chain([(2, 2), (0, 2), (0, 2), (0, 2)])
            .for_each(|(number, len)| put_number(number, len));
        for (kind, offset, size) in [(1, 0, end), (2, end - 16, 16)] {
            put_number(kind, 4);
            if is64 {
                put_number(4, 4);
            }
            [offset, offset, offset, size, size].into_iter().for_each(|number| put_number(number, word));
            if !is64 {
                put_number(4, 4);
            }
            put_number(8, word);
        }
        (0..16).for_each(|_| put_number(0, 1));
        put("plugin_elf", &format!("good-{index}"), &[&file]);
    }
}

fn records() {
    for (name, size) in [("short", 80u32), ("whole", 96), ("long", 128)] {
        let mut record = Vec::new();
        record.extend_from_slice(&0x4D52_5031u32.to_ne_bytes());
        record.extend_from_slice(&1u32.to_ne_bytes());
        record.extend_from_slice(&size.to_ne_bytes());
        record.extend_from_slice(&[0; 12]);
        record.extend_from_slice(&[8; 72]);
        record.resize(size as usize, b'x');
        put("plugin_record", name, &[&record]);
    }
}
