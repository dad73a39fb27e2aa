//! The chunked transfer coding (RFC 9112 section 7.1): decoder and encoder.
//!
//! The decoder can stop after any byte. It reads line by line; between the lines stands data. Chunk extensions are checked
//! and dropped (rule S6); the trailer section is checked and handed over whole, to be parsed by `head::parse_head`.
//!
//! ```text
//!  Size ─size > 0─► Data ─all of it─► DataEnd ─CRLF─► Size
//!    └─size 0─► Trailers ─empty line─► Ended
//! ```
//!
//! Invariants: what comes out does not depend on how the bytes were split; after an error there is only that error; after
//! the end nothing more is consumed.

use smallvec::SmallVec;

use super::chars;
use super::error::HttpError;
use super::head::{CRLF, check_field_line};

/// The most bytes of a chunk line with its CRLF.
const MAX_LINE: usize = 256;
/// The most bytes of chunk extensions in one body.
const MAX_EXTENSIONS: usize = 16 << 10;
/// The most bytes of a trailer section with its last empty line.
const MAX_TRAILERS: usize = 8 << 10;

/// Reads a chunked body, any number of bytes at a time.
///
/// ```
/// use mini_rproxy::http::chunked::{ChunkEvent, ChunkedDecoder};
///
/// let mut decoder = ChunkedDecoder::default();
/// let input = b"5;name=value\r\nhello\r\n0\r\n\r\nnext";
/// assert_eq!(decoder.decode(input), Ok(ChunkEvent::Data { data: b"hello", consumed: 19 }));
/// assert_eq!(decoder.decode(&input[19..]), Ok(ChunkEvent::End { consumed: 7 }));
/// assert_eq!(decoder.trailers(), b"\r\n");
/// ```
#[derive(Debug, Default)]
pub struct ChunkedDecoder {
    state: State,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    /// The start of a line that has not arrived whole; of trailers, all that came of the section. A short one owns no memory.
    held: SmallVec<[u8; 32]>,
    /// Where in `held` the line begins.
    line_start: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    /// A trailer line, or the empty line.
    Trailers,
    Ended,
    Failed(HttpError),
}

/// What the decoder made of the start of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkEvent<'a> {
    /// Bytes of the body. `consumed` input bytes lead up to their end.
    Data {
        /// As many as there are of one chunk.
        data: &'a [u8],
        /// Framing in front of the data included.
        consumed: usize,
    },
    /// The whole input was framing; more is needed.
    NeedMore,
    /// The body and its trailer section have ended; `consumed` bytes lead up to the end of the message.
    End {
        /// What follows belongs to the next message.
        consumed: usize,
    },
}

impl ChunkedDecoder {
    /// Takes the next step through `input`, which begins where the last step's `consumed` ended.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<ChunkEvent<'a>, HttpError> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.state {
                State::Failed(error) => return Err(error),
                State::Ended => return Ok(ChunkEvent::End { consumed: at }),
                _ if rest.is_empty() => return Ok(ChunkEvent::NeedMore),
                State::Data(left) => {
                    // A chunk may be larger than this machine's memory (rule E9).
                    let len = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(ChunkEvent::Data { data: &rest[..len], consumed: at + len });
                }
                State::Size | State::DataEnd | State::Trailers => match self.take_plain(rest) {
                    0 => match self.take_line(rest) {
                        Ok(len) => at += len,
                        Err(error) => self.state = State::Failed(error),
                    },
                    len => at += len,
                },
            }
        }
    }

    /// The trailer section as received, with the empty line that ends it, after `ChunkEvent::End`; before it, nothing.
    pub fn trailers(&self) -> &[u8] {
        match self.state {
            State::Ended if self.held.is_empty() => CRLF,
            State::Ended => &self.held,
            _ => b"",
        }
    }

    /// Takes an end of data and a chunk line at once, if they are whole and there are no extensions, as nearly always; returns
    /// how many bytes that were, 0 for none.
    fn take_plain(&mut self, rest: &[u8]) -> usize {
        let line = match self.state {
            State::Size => rest,
            State::DataEnd => rest.strip_prefix(CRLF).unwrap_or_default(),
            _ => b"",
        };
        let (size, digits) = parse_size(line);
        if !self.held.is_empty() || !matches!(digits, 1..16) || !line[digits..].starts_with(CRLF) {
            return 0;
        }
        self.begin_chunk(size);
        rest.len() - line.len() + digits + CRLF.len()
    }

    /// Takes the line at the start of `rest` up to its LF, or as much of it as has arrived; returns how many bytes that were.
    fn take_line(&mut self, rest: &[u8]) -> Result<usize, HttpError> {
        let end = chars::find(rest, b'\n').map(|end| end + 1);
        let part = &rest[..end.unwrap_or(rest.len())];
        let (max, too_long) = match self.state {
            State::Trailers => (MAX_TRAILERS - self.line_start, HttpError::TrailersTooLarge),
            State::DataEnd => (CRLF.len(), HttpError::BadDataEnd),
            _ => (MAX_LINE, HttpError::ChunkLineTooLong),
        };
        if self.held.len() - self.line_start + part.len() + usize::from(end.is_none()) > max {
            return Err(too_long);
        }
        let is_in_trailers = matches!(self.state, State::Trailers);
        let is_kept = is_in_trailers && part != CRLF;
        if end.is_some() && self.held.is_empty() && !is_kept {
            self.end_line(part)?;
            return Ok(part.len());
        }
        self.held.extend_from_slice(part);
        if end.is_some() {
            let mut held = std::mem::take(&mut self.held);
            self.end_line(&held[self.line_start..])?;
            if is_in_trailers {
                self.line_start = held.len();
            } else {
                held.clear();
            }
            self.held = held;
        }
        Ok(part.len())
    }

    /// A whole line has come.
    fn end_line(&mut self, line: &[u8]) -> Result<(), HttpError> {
        match self.state {
            // Rule S7: exactly CRLF, or the sizes of sender and recipient differ.
            State::DataEnd if line != CRLF => return Err(HttpError::BadDataEnd),
            State::DataEnd => self.state = State::Size,
            State::Trailers if line == CRLF => self.state = State::Ended,
            // Checked here, because who drops trailers does not parse them.
            State::Trailers => check_field_line(line)?,
            _ => {
                let (size, extensions) = parse_chunk_line(line)?;
                self.extensions += extensions;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(HttpError::TooManyExtensions);
                }
                self.begin_chunk(size);
            }
        }
        Ok(())
    }

    /// A chunk of this size comes, or after the last one the trailers.
    fn begin_chunk(&mut self, size: u64) {
        self.state = if size == 0 { State::Trailers } else { State::Data(size) };
    }
}

/// The number at the start of `line`, and how many digits it has; with more than 16 it is another one.
fn parse_size(line: &[u8]) -> (u64, usize) {
    let (mut size, mut digits) = (0, 0);
    while let Some(digit) = line.get(digits).and_then(|&byte| chars::hex_digit(byte)) {
        size = size << 4 | u64::from(digit);
        digits += 1;
    }
    (size, digits)
}

/// The size that a chunk line says in 1 to 16 digits (rule S5), and how many bytes of extensions follow it.
fn parse_chunk_line(line: &[u8]) -> Result<(u64, usize), HttpError> {
    let (size, digits) = parse_size(line);
    // 16 digits fit into 64 bits; the highest bit is refused so that no reader takes the size for negative.
    if digits > 16 || size > i64::MAX as u64 {
        return Err(HttpError::ChunkTooLarge);
    }
    match &line[digits..] {
        _ if digits == 0 => Err(HttpError::BadChunkSize),
        b"\r\n" => Ok((size, 0)),
        [b'\r' | b'\n', ..] => Err(HttpError::BadChunkLineEnd),
        extensions @ [b';', ..] => check_extensions(extensions).map(|()| (size, extensions.len() - CRLF.len())),
        _ => Err(HttpError::BadChunkSize),
    }
}

/// chunk-ext: `*( ";" name [ "=" ( token / quoted-string ) ] )` (rule S6), and the line's end. White space around `;` and `=`
/// is refused, though the RFC lets a recipient skip it: it is sent only to be misunderstood.
fn check_extensions(mut rest: &[u8]) -> Result<(), HttpError> {
    while let [b';', name @ ..] = rest {
        rest = skip_token(name).ok_or(HttpError::BadExtension)?;
        if let [b'=', value @ ..] = rest {
            let after = if let [b'"', text @ ..] = value { skip_quoted(text) } else { skip_token(value) };
            rest = after.ok_or(HttpError::BadExtension)?;
        }
    }
    match rest {
        b"\r\n" => Ok(()),
        [b'\r' | b'\n', ..] => Err(HttpError::BadChunkLineEnd),
        _ => Err(HttpError::BadExtension),
    }
}

fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let len = text.iter().take_while(|byte| chars::is_tchar(**byte)).count();
    (len > 0).then(|| &text[len..])
}

/// What follows the quote that ends `text`.
fn skip_quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] if chars::is_field_byte(*byte) => rest,
            _ => return None,
        };
    }
}

/// Room for the size of a chunk of up to 64 KiB, which is what one read yields.
const ROOM: &[u8] = b"....\r\n";

/// Appends what `fill` appends to `out` as one chunk, and returns what `fill` returns; nothing where it appends nothing.
///
/// The size is not known before the data is there, but it stands in front of it: room for four digits is left, by far the
/// most common where it would cost much to move the data.
///
/// # Panics
/// When `fill` takes bytes away that were there before.
pub fn write_chunk<T>(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let start = out.len();
    out.extend_from_slice(ROOM);
    let data_start = out.len();
    let filled = fill(out);
    let size = out.len().checked_sub(data_start).expect("what stood before a chunk stays");
    if size == 0 {
        out.truncate(start);
        return filled;
    }
    let digits = (0..=size.ilog2() / 4).rev().map(|place| b"0123456789abcdef"[size >> (4 * place) & 15]);
    out.splice(start..data_start, digits.chain(CRLF.iter().copied()));
    out.extend_from_slice(CRLF);
    filled
}

/// The last chunk, without the trailer section and the empty line that follow it.
pub const LAST_CHUNK: &[u8] = b"0\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::CUT_EVERY;

    /// Data, trailer section, and how many bytes the message took; `None` where it has not ended.
    type Answer = Result<Option<(Vec<u8>, Vec<u8>, usize)>, HttpError>;

    /// Decodes pieces that arrive one after the other.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Answer {
        let mut decoder = ChunkedDecoder::default();
        let (mut data, mut consumed) = (Vec::new(), 0);
        for mut piece in pieces {
            loop {
                let decoded = decoder.decode(piece);
                if let Err(error) = decoded {
                    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(error), "an error stays");
                    assert_eq!(decoder.decode(b""), Err(error), "an error stays");
                }
                match decoded? {
                    ChunkEvent::Data { data: some, consumed: len } => {
                        assert!(!some.is_empty() && piece[..len].ends_with(some));
                        data.extend_from_slice(some);
                        piece = &piece[len..];
                        consumed += len;
                    }
                    ChunkEvent::NeedMore => {
                        consumed += piece.len();
                        break;
                    }
                    ChunkEvent::End { consumed: len } => {
                        consumed += len;
                        assert_eq!(decoder.decode(b"5\r\n"), Ok(ChunkEvent::End { consumed: 0 }), "an end stays");
                        assert_eq!(decoder.decode(b""), Ok(ChunkEvent::End { consumed: 0 }), "an end stays");
                        return Ok(Some((data, decoder.trailers().to_vec(), consumed)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The answer whole, byte by byte and in any two parts, which must be the same.
    fn answer(name: &str, input: &[u8]) -> Answer {
        let whole = decode([input]);
        // Miri takes a millisecond for each byte.
        let (piece, few) = if cfg!(miri) { (1 + input.len() / 50, 100) } else { (1, 2_000) };
        assert_eq!(decode(input.chunks(piece)), whole, "{name}: byte by byte");
        if input.len() < few {
            for cut in (0..=input.len()).step_by(CUT_EVERY) {
                let (first, second) = input.split_at(cut);
                assert_eq!(decode([first, second]), whole, "{name}: cut at {cut}");
            }
        }
        whole
    }

    /// A name, a message without trailers, and its data.
    type Row<'a> = (&'a str, &'a [u8], Result<&'a [u8], HttpError>);

    fn assert_table(rows: &[Row<'_>]) {
        for &(name, input, expected) in rows {
            let expected = expected.map(|data| Some((data.to_vec(), b"\r\n".to_vec(), input.len())));
            assert_eq!(answer(name, input), expected, "{name}");
            if expected.is_ok() {
                let followed = decode([&[input, b"5\r\n"].concat()[..]]);
                assert_eq!(followed, expected, "{name}: the next message is not touched");
            }
        }
    }

    #[test]
    fn s7_what_is_no_end_of_data_is_known_before_its_line_ends() {
        assert_eq!(decode([&b"3\r\nabc"[..], b"\r"]), Ok(None));
        for end in [&b"yz"[..], b"\rz", b"wxyz"] {
            assert_eq!(decode([&b"3\r\nabc"[..], end]), Err(HttpError::BadDataEnd), "{}", end.escape_ascii());
        }
    }

    #[test]
    fn s5_chunk_lines_are_hex_digits_and_crlf() {
        assert_table(&[
            ("no data", b"0\r\n\r\n", Ok(b"")),
            ("two chunks", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Ok(b"abcde")),
            ("eight and nine digits", b"00000003\r\nabc\r\n000000002\r\nde\r\n0\r\n\r\n", Ok(b"abcde")),
            ("an extension between", b"3\r\nabc\r\n2;a\r\nde\r\n1\r\nf\r\n0;b\r\n\r\n", Ok(b"abcdef")),
            ("no digit in the second line", b"3\r\nabc\r\n\r\n2\r\nde\r\n0\r\n\r\n", Err(HttpError::BadChunkSize)),
            ("LF after the data", b"3\r\nabc\n2\r\nde\r\n0\r\n\r\n", Err(HttpError::BadDataEnd)),
            ("LF after the second size", b"3\r\nabc\r\n2\nde\r\n0\r\n\r\n", Err(HttpError::BadChunkLineEnd)),
            ("both cases", b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", Ok(b"01234567890123456789a")),
            ("data that looks like framing", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", Ok(b"0\r\n\r\n")),
            ("leading zeros", b"0000000000000001\r\na\r\n0000\r\n\r\n", Ok(b"a")),
            ("empty", b"\r\n", Err(HttpError::BadChunkSize)),
            ("plus", b"+5\r\nhello\r\n", Err(HttpError::BadChunkSize)),
            ("minus", b"-5\r\nhello\r\n", Err(HttpError::BadChunkSize)),
            ("a prefix", b"0x5\r\nhello\r\n", Err(HttpError::BadChunkSize)),
            ("an underscore", b"1_0\r\n", Err(HttpError::BadChunkSize)),
            ("a space in front", b" 5\r\nhello\r\n", Err(HttpError::BadChunkSize)),
            ("a space after", b"5 \r\nhello\r\n", Err(HttpError::BadChunkSize)),
            ("a tab after", b"5\t\r\nhello\r\n", Err(HttpError::BadChunkSize)),
            ("NUL", b"5\0\r\nhello\r\n", Err(HttpError::BadChunkSize)),
            ("no digit", b"g\r\n", Err(HttpError::BadChunkSize)),
            ("a full-width digit", "\u{ff15}\r\nhello\r\n".as_bytes(), Err(HttpError::BadChunkSize)),
            ("only an extension", b";a=b\r\n", Err(HttpError::BadChunkSize)),
            ("LF alone", b"5\nhello\r\n", Err(HttpError::BadChunkLineEnd)),
            ("CR alone", b"5\rhello\r\n", Err(HttpError::BadChunkLineEnd)),
            ("CR CR LF", b"5\r\r\nhello\r\n", Err(HttpError::BadChunkLineEnd)),
            ("LF alone after 0", b"0\n\r\n", Err(HttpError::BadChunkLineEnd)),
        ]);
        for unfinished in [&b""[..], b"5", b"5\r\nhell", b"5\r\nhello\r\n", b"0\r\n", b"0\r\n\r", b"0\r\na: b\r\n"] {
            assert_eq!(answer("unfinished", unfinished), Ok(None));
        }
    }

    #[test]
    fn s5_chunk_size_overflow_is_refused() {
        assert_table(&[
            ("2^63", b"8000000000000000\r\n", Err(HttpError::ChunkTooLarge)),
            ("2^64-1", b"ffffffffffffffff\r\n", Err(HttpError::ChunkTooLarge)),
            ("2^64", b"10000000000000000\r\n", Err(HttpError::ChunkTooLarge)),
            ("17 digits", b"00000000000000001\r\na\r\n0\r\n\r\n", Err(HttpError::ChunkTooLarge)),
            ("2^64 + 5", b"10000000000000005\r\nhello\r\n", Err(HttpError::ChunkTooLarge)),
        ]);
        let mut decoder = ChunkedDecoder::default();
        let largest = b"7fffffffffffffff\r\nabc";
        assert_eq!(decoder.decode(largest), Ok(ChunkEvent::Data { data: b"abc", consumed: largest.len() }));
        assert!(matches!(decoder.state, State::Data(0x7fff_ffff_ffff_fffc)));
    }

    #[test]
    fn s5_chunk_lines_are_capped() {
        let line = |len: usize| [&b"1;"[..], &vec![b'x'; len - 4], b"\r\na\r\n0\r\n\r\n"].concat();
        assert_table(&[
            ("the longest line", &line(256), Ok(b"a")),
            ("one byte more", &line(257), Err(HttpError::ChunkLineTooLong)),
            ("no end", &[&b"1;"[..], &[b'x'; 1000]].concat(), Err(HttpError::ChunkLineTooLong)),
        ]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many thousand bytes, one by one")]
    fn s5_chunk_extensions_are_capped_in_all() {
        // The bytes of an extension begin after the `;` and end with CR: 200 of them in a line of 203.
        let lines = |count: usize| [[&b"1;"[..], &[b'x'; 199], b"\r\na\r\n"].concat().repeat(count)].concat();
        let (most, more) = (lines(81), lines(82));
        assert_eq!(answer("many extensions", &most), Ok(None));
        assert_eq!(answer("too many extensions", &more), Err(HttpError::TooManyExtensions));
        // To the byte: 81 times 200, and the rest.
        let rest = |len: usize| [most.clone(), b"1;".to_vec(), vec![b'x'; len - 1], b"\r\n".to_vec()].concat();
        assert_eq!(answer("the most", &rest(184)), Ok(None));
        assert_eq!(answer("one byte more", &rest(185)), Err(HttpError::TooManyExtensions));
    }

    #[test]
    #[cfg_attr(miri, ignore = "half a million bytes, one by one")]
    fn s5_chunks_may_be_of_one_byte_each() {
        // What is written byte by byte is seldom wise, but right.
        assert_eq!(answer("one byte each", &b"1\r\na\r\n".repeat(100_000)), Ok(None));
    }

    #[test]
    fn s6_chunk_extensions_are_checked_and_dropped() {
        let valid = [
            ";a",
            ";a=b",
            ";a=b;c",
            ";a=\"b c\"",
            ";a=\"\"",
            ";a=\"\\\"\"",
            ";a=\"\\\\\"",
            ";a=\";\"",
            ";a=\"\t\u{e9}\"",
            ";a=\"b\";c=d",
            ";!#$%&'*+-.^_`|~9=9",
        ];
        for extension in valid {
            let input = format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n");
            assert_table(&[(extension, input.as_bytes(), Ok(b"hello"))]);
        }
        let refused = [
            ";",
            ";;",
            ";a;",
            ";=b",
            ";a=",
            ";a=;b",
            "; a",
            ";a =b",
            ";a= b",
            ";a=b ",
            ";a=\"b\" ",
            ";a=\"b\"c",
            ";a\0",
            ";a=\0",
            ";a=\"\0\"",
            ";a=\"\\\0\"",
            ";a=\"\x7f\"",
            ";a=\"b\rc\"",
            ";a=\"b\nc\"",
            ";a=\"b",
            ";a=\"b\\\"",
            ";a,b",
            ";\u{e9}",
            ";a\t",
            ";a=b=c",
            ";a\"b\"",
        ];
        for extension in refused {
            let input = format!("5{extension}\r\nhello\r\n0\r\n\r\n");
            assert_table(&[(extension, input.as_bytes(), Err(HttpError::BadExtension))]);
        }
        assert_table(&[
            ("LF ends the line", b"5;a\nhello\r\n0\r\n\r\n", Err(HttpError::BadChunkLineEnd)),
            ("LF after a token", b"5;a=b\nhello\r\n0\r\n\r\n", Err(HttpError::BadChunkLineEnd)),
            ("LF after quotes", b"5;a=\"b\"\nhello\r\n0\r\n\r\n", Err(HttpError::BadChunkLineEnd)),
            ("CR alone", b"5;a\rb\r\nhello\r\n0\r\n\r\n", Err(HttpError::BadChunkLineEnd)),
        ]);
    }

    #[test]
    fn s7_data_is_followed_by_crlf() {
        assert_table(&[
            ("CRLF", b"5\r\nhello\r\n0\r\n\r\n", Ok(b"hello")),
            ("nothing", b"5\r\nhello0\r\n\r\n", Err(HttpError::BadDataEnd)),
            ("two other bytes", b"5\r\nhelloXX0\r\n\r\n", Err(HttpError::BadDataEnd)),
            ("LF", b"5\r\nhello\n0\r\n\r\n", Err(HttpError::BadDataEnd)),
            ("CR and another byte", b"5\r\nhello\r0\r\n\r\n", Err(HttpError::BadDataEnd)),
            ("LF CR", b"5\r\nhello\n\r0\r\n\r\n", Err(HttpError::BadDataEnd)),
            ("more data than announced", b"4\r\nhello\r\n0\r\n\r\n", Err(HttpError::BadDataEnd)),
        ]);
    }

    #[test]
    fn s8_trailers_are_kept_and_checked() {
        for trailers in ["A: b\r\n\r\n", "a:\r\nB: \tc \r\n\r\n", "a: \u{e9}\r\n\r\n"] {
            let input = format!("1\r\nx\r\n0\r\n{trailers}");
            let expected = (b"x".to_vec(), trailers.as_bytes().to_vec(), input.len());
            assert_eq!(answer(trailers, input.as_bytes()), Ok(Some(expected)));
        }
        for (trailers, expected) in [
            ("\n", HttpError::BareLf),
            ("a: b\n\r\n", HttpError::BareLf),
            ("a: b\r\n\n", HttpError::BareLf),
            ("a: b\r\r\n", HttpError::BareCr),
            ("\r\r\n", HttpError::BareCr),
            ("a\r\n\r\n", HttpError::BadName),
            (": b\r\n\r\n", HttpError::BadName),
            ("a : b\r\n\r\n", HttpError::BadName),
            (" a: b\r\n\r\n", HttpError::FoldedLine),
            ("a: b\r\n c\r\n\r\n", HttpError::FoldedLine),
            ("a: \0\r\n\r\n", HttpError::BadValue),
            ("\u{e9}: b\r\n\r\n", HttpError::BadName),
            ("a: b\rc\r\n\r\n", HttpError::BareCr),
            ("GET / HTTP/1.1\r\n\r\n", HttpError::BadName),
            ("5\r\nhello\r\n", HttpError::BadName),
        ] {
            let input = format!("0\r\n{trailers}");
            assert_eq!(answer(trailers, input.as_bytes()), Err(expected), "{trailers:?}");
        }
        let section = |len: usize| [&b"0\r\na:"[..], &vec![b'b'; len - 6], b"\r\n\r\n"].concat();
        assert!(matches!(answer("the largest", &section(8192)), Ok(Some(_))));
        assert_eq!(answer("one byte more", &section(8193)), Err(HttpError::TrailersTooLarge));
        assert_eq!(answer("no end", &section(9000)[..8999]), Err(HttpError::TrailersTooLarge));
    }

    #[test]
    fn bodies_without_trailers_own_no_memory() {
        let mut decoder = ChunkedDecoder::default();
        assert_eq!(decoder.decode(b"0\r\n\r\n"), Ok(ChunkEvent::End { consumed: 5 }));
        assert!(!decoder.held.spilled());
        assert_eq!(decoder.trailers(), b"\r\n");
    }

    #[test]
    fn what_is_written_is_read_again() {
        const SIZES: [usize; 12] = [1, 9, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536, 70_000, 1_048_576];
        for size in SIZES.into_iter().filter(|size| !cfg!(miri) || *size < 5_000) {
            let data: Vec<u8> = (0..size).map(|index| index as u8).collect();
            let mut out = b"before".to_vec();
            let filled = write_chunk(&mut out, |out| {
                data.chunks(1000).for_each(|piece| out.extend_from_slice(piece));
                "filled"
            });
            assert_eq!(filled, "filled");
            assert_eq!(out, [b"before", format!("{size:x}\r\n").as_bytes(), &data, b"\r\n"].concat(), "{size}");
            out.extend_from_slice(LAST_CHUNK);
            out.extend_from_slice(b"\r\n");
            assert_eq!(decode([&out[6..]]), Ok(Some((data, b"\r\n".to_vec(), out.len() - 6))), "{size}");
        }
        let mut out = b"before".to_vec();
        write_chunk(&mut out, |_| ());
        assert_eq!(out, b"before", "an empty chunk would end the body");
    }
}
