//! The steps of HTTP itself: reading a head, writing one, reading chunks, writing them.
//!
//! `cargo bench --bench http`. Times; what a whole request takes in instructions says `make bench-instructions`.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mini_rproxy::http::chunked::{ChunkEvent, ChunkedDecoder, write_chunk};
use mini_rproxy::http::fields::HeaderSet;
use mini_rproxy::http::head::{HeadLimits, RequestHead, ResponseHead, parse_head, write_request, write_response};

mod heads;

use heads::{BROWSER, SMALL};

fn main() {
    divan::main();
}

const LIMITS: HeadLimits = HeadLimits { head_bytes: 16 << 10, field_lines: 256, request_line: 8 << 10 };

/// Whose heads.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Small,
    Browser,
}

impl Kind {
    fn heads(self) -> [&'static str; 2] {
        match self {
            Kind::Small => SMALL,
            Kind::Browser => BROWSER,
        }
    }
}

const KINDS: [Kind; 2] = [Kind::Small, Kind::Browser];

#[divan::bench(args = KINDS)]
fn read_request_head(bencher: Bencher<'_, '_>, kind: Kind) {
    let [text, _] = kind.heads();
    let mut head = RequestHead::default();
    bencher.counter(BytesCount::of_str(text)).bench_local(|| {
        let read = parse_head(black_box(text.as_bytes()), &LIMITS, &mut head);
        assert_eq!(read, Ok(Some(text.len())));
    });
}

#[divan::bench(args = KINDS)]
fn read_response_head(bencher: Bencher<'_, '_>, kind: Kind) {
    let [_, text] = kind.heads();
    let mut head = ResponseHead::default();
    bencher.counter(BytesCount::of_str(text)).bench_local(|| {
        let read = parse_head(black_box(text.as_bytes()), &LIMITS, &mut head);
        assert_eq!(read, Ok(Some(text.len())));
    });
}

#[divan::bench(args = KINDS)]
fn write_request_head(bencher: Bencher<'_, '_>, kind: Kind) {
    let [text, _] = kind.heads();
    let mut head = RequestHead::default();
    parse_head(text.as_bytes(), &LIMITS, &mut head).expect("a good head");
    head.authority.extend_from_slice(b"127.0.0.1:9001");
    let mut out = Vec::new();
    bencher.counter(BytesCount::of_str(text)).bench_local(|| {
        out.clear();
        write_request(black_box(&head), HeaderSet::default(), &mut out);
        black_box(out.len())
    });
}

#[divan::bench(args = KINDS)]
fn write_response_head(bencher: Bencher<'_, '_>, kind: Kind) {
    let [_, text] = kind.heads();
    let mut head = ResponseHead::default();
    parse_head(text.as_bytes(), &LIMITS, &mut head).expect("a good head");
    let mut out = Vec::new();
    bencher.counter(BytesCount::of_str(text)).bench_local(|| {
        out.clear();
        write_response(black_box(&head), HeaderSet::default(), &mut out);
        black_box(out.len())
    });
}

const CONTENT: usize = 16 * 1024;

/// 16 KiB in chunks of this size.
fn chunked(size: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..CONTENT / size {
        write_chunk(&mut text, |out| out.extend_from_slice(&vec![b'c'; size]));
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

#[divan::bench(args = [16, 1024, 16384])]
fn read_16_kib_in_chunks_of(bencher: Bencher<'_, '_>, size: usize) {
    let text = chunked(size);
    bencher.counter(BytesCount::new(CONTENT)).bench_local(|| {
        let (mut decoder, mut rest, mut content) = (ChunkedDecoder::default(), black_box(&text[..]), 0);
        loop {
            match decoder.decode(rest) {
                Ok(ChunkEvent::Data { data, consumed }) => {
                    content += data.len();
                    rest = &rest[consumed..];
                }
                Ok(ChunkEvent::End { .. }) => break,
                Ok(ChunkEvent::NeedMore) | Err(_) => panic!("it is whole and good"),
            }
        }
        assert_eq!(content, CONTENT);
    });
}

#[divan::bench(args = [16, 1024, 16384])]
fn write_16_kib_in_chunks_of(bencher: Bencher<'_, '_>, size: usize) {
    let data = vec![b'c'; size];
    let mut out = Vec::new();
    bencher.counter(BytesCount::new(CONTENT)).bench_local(|| {
        out.clear();
        for _ in 0..CONTENT / size {
            write_chunk(&mut out, |out| out.extend_from_slice(black_box(&data)));
        }
        black_box(out.len())
    });
}
