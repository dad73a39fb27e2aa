//! What goes over the wire: the requests, and a reader that checks each response.

use memchr::memmem;

/// The route that every proxy strips; the origin sees the rest.
pub const PREFIX: &str = "/app";
/// Whom requests are for, unless they say otherwise.
pub const HOST: &str = "bench.example";

/// The fields of a browser: about 700 bytes with the request line.
const BROWSER_FIELDS: &str = "\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Accept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Referer: https://www.example.com/catalogue/engines/small?page=2&sort=price\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=necessary; visited=1763884800; \
_track=GA1.2.1234567890.1763884800; basket=4f2d8c1b7a6e5d4c3b2a19080706f5e4d3c2b1a0; lang=en\r\n\
Upgrade-Insecure-Requests: 1\r\n\
Sec-Fetch-Dest: document\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Site: same-origin\r\n\
Priority: u=0, i\r\n";

/// Bytes to send, and what must come back.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request as it is sent.
    pub request: Vec<u8>,
    /// The bytes of content that the response must have.
    pub content: u64,
}

/// GET for `path` with no more fields than a request needs.
pub fn get(path: &str, content: u64) -> Exchange {
    get_with(HOST, path, "", content)
}

/// The same for another host, or with further field lines.
pub fn get_with(host: &str, path: &str, fields: &str, content: u64) -> Exchange {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n{fields}\r\n");
    Exchange { request: request.into_bytes(), content }
}

/// GET with the fields of a browser.
pub fn browser_get(path: &str, content: u64) -> Exchange {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{BROWSER_FIELDS}\r\n");
    Exchange { request: request.into_bytes(), content }
}

/// GET on a connection that is for this request alone.
pub fn last_get(path: &str, content: u64) -> Exchange {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    Exchange { request: request.into_bytes(), content }
}

/// POST of `len` bytes.
pub fn upload(path: &str, len: usize, content: u64) -> Exchange {
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len}\r\n\r\n").into_bytes();
    request.resize(request.len() + len, b'u');
    Exchange { request, content }
}

/// The key of the example in RFC 6455 section 1.3, and its answer: constants, so that nobody computes SHA-1 here.
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the origin answers to [`WEBSOCKET_KEY`].
pub const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The content of each WebSocket message.
pub const MESSAGE: usize = 100;

/// The opening handshake of RFC 6455.
pub fn websocket(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// A masked text frame, as clients send them; the mask is zero, so that the content can be seen in traces.
pub fn client_frame() -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | MESSAGE as u8, 0, 0, 0, 0];
    frame.resize(6 + MESSAGE, b'w');
    frame
}

/// The same text as a server sends it: not masked.
pub fn server_frame() -> Vec<u8> {
    let mut frame = vec![0x81, MESSAGE as u8];
    frame.resize(2 + MESSAGE, b'w');
    frame
}

/// Where the head in `bytes` ends, its empty line included.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// The value of the first field line with this name.
pub fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].trim_ascii();
        if line.len() > name.len()
            && line[name.len()] == b':'
            && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        {
            return Some(line[name.len() + 1..].trim_ascii());
        }
        rest = &rest[end + 1..];
    }
    None
}

/// A number in decimal digits and nothing else.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    // The library's own parser would take a sign too.
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// A number in hexadecimal digits and nothing else.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u64::from_str_radix(digits, 16).ok()
}

/// Reads responses one after the other, and checks them: status 200, the expected content.
#[derive(Debug)]
pub struct ResponseReader {
    /// The bytes of content that are expected.
    content: u64,
    /// Those that came.
    came: u64,
    stage: Stage,
    /// An incomplete head or chunk line.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Head,
    Body {
        left: u64,
    },
    ChunkLine,
    Chunk {
        left: u64,
    },
    /// After the last chunk.
    LastLine,
    /// WebSocket frames: nothing is parsed.
    Frames {
        left: u64,
    },
}

/// What a piece of a response led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to come.
    Partial,
    /// The response is complete.
    Complete,
}

impl ResponseReader {
    /// For responses with this content.
    pub fn new(content: u64) -> ResponseReader {
        ResponseReader { content, came: 0, stage: Stage::Head, partial: Vec::new() }
    }

    /// From now on: frames of so many bytes.
    pub fn expect_frames(&mut self, len: usize) {
        self.content = len as u64;
        self.stage = Stage::Frames { left: self.content };
    }

    /// Takes bytes that came. All of them belong to one response, because the next request is sent only after it.
    pub fn read(&mut self, mut input: &[u8]) -> Result<Progress, String> {
        while !input.is_empty() {
            match self.stage {
                Stage::Head => {
                    let (rest, stage) = match self.line(input, b"\r\n\r\n") {
                        Some((head, rest)) => (rest, begin(&head)?),
                        None => return Ok(Progress::Partial),
                    };
                    input = rest;
                    self.came = 0;
                    self.stage = stage;
                    if let Stage::Body { left: 0 } | Stage::Frames { .. } = stage {
                        return self.finish(input);
                    }
                }
                Stage::Body { left } => {
                    let len = left.min(input.len() as u64);
                    self.came += len;
                    input = &input[len as usize..];
                    self.stage = Stage::Body { left: left - len };
                    if left == len {
                        return self.finish(input);
                    }
                }
                Stage::ChunkLine => {
                    let Some((line, rest)) = self.line(input, b"\r\n") else { return Ok(Progress::Partial) };
                    input = rest;
                    self.stage = match hexadecimal(line.trim_ascii()) {
                        Some(0) => Stage::LastLine,
                        // With the line end behind it.
                        Some(len) => Stage::Chunk { left: len + 2 },
                        None => return Err(format!("{:?} is not a chunk size", String::from_utf8_lossy(&line))),
                    };
                }
                Stage::Chunk { left } => {
                    let len = left.min(input.len() as u64);
                    input = &input[len as usize..];
                    self.came += len;
                    self.stage = if left == len {
                        self.came -= 2;
                        Stage::ChunkLine
                    } else {
                        Stage::Chunk { left: left - len }
                    };
                }
                Stage::LastLine => {
                    let Some((_, rest)) = self.line(input, b"\r\n") else { return Ok(Progress::Partial) };
                    return self.finish(rest);
                }
                Stage::Frames { left } => {
                    let len = input.len() as u64;
                    if len > left {
                        return Err(format!("{} bytes too many came", len - left));
                    }
                    self.stage = Stage::Frames { left: left - len };
                    if left > len {
                        return Ok(Progress::Partial);
                    }
                    self.stage = Stage::Frames { left: self.content };
                    return Ok(Progress::Complete);
                }
            }
        }
        Ok(Progress::Partial)
    }

    /// The bytes up to and with `end`, and what follows them; keeps what is not complete.
    fn line<'a>(&mut self, input: &'a [u8], end: &[u8]) -> Option<(std::borrow::Cow<'a, [u8]>, &'a [u8])> {
        if self.partial.is_empty() {
            if let Some(at) = memmem::find(input, end) {
                let (line, rest) = input.split_at(at + end.len());
                return Some((line.into(), rest));
            }
            self.partial.extend_from_slice(input);
            return None;
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(input);
        let at = memmem::find(&self.partial, end)? + end.len();
        self.partial.truncate(at);
        Some((std::mem::take(&mut self.partial).into(), &input[at - before..]))
    }

    fn finish(&mut self, rest: &[u8]) -> Result<Progress, String> {
        if !rest.is_empty() {
            return Err(format!("{} bytes came behind the response", rest.len()));
        }
        if let Stage::Frames { .. } = self.stage {
            return Ok(Progress::Complete);
        }
        if self.came != self.content {
            return Err(format!("{} bytes of content came where {} were expected", self.came, self.content));
        }
        self.stage = Stage::Head;
        Ok(Progress::Complete)
    }
}

/// What follows this head.
fn begin(head: &[u8]) -> Result<Stage, String> {
    match head.get(9..12) {
        Some(b"200") => {}
        Some(b"101") => return Ok(Stage::Frames { left: 0 }),
        _ => {
            let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
            return Err(format!("the answer was {:?}", String::from_utf8_lossy(line)));
        }
    }
    if let Some(length) = field(head, "content-length") {
        let left = decimal(length).ok_or("the Content-Length of the answer is not a number")?;
        return Ok(Stage::Body { left });
    }
    if field(head, "transfer-encoding").is_some() {
        return Ok(Stage::ChunkLine);
    }
    Err("the answer has neither a Content-Length nor chunks".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_in_any_pieces() {
        for (name, bytes, expected) in [
            ("a length", "HTTP/1.1 200 OK\r\ncontent-Length: 5\r\n\r\nhello", Ok(5)),
            ("no content", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok(0)),
            ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Ok(5)),
            ("too short", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell", Err("4 bytes of content came")),
            ("another status", "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello", Err("404 Not Found")),
            ("no framing", "HTTP/1.1 200 OK\r\n\r\nhello", Err("neither")),
        ] {
            let content = expected.unwrap_or(5);
            let whole = ResponseReader::new(content).read(bytes.as_bytes());
            let mut reader = ResponseReader::new(content);
            let mut split = Ok(Progress::Partial);
            for byte in bytes.as_bytes() {
                split = reader.read(std::slice::from_ref(byte));
                if split.is_err() {
                    break;
                }
            }
            assert_eq!(whole, split, "{name}");
            match expected {
                Ok(_) => assert_eq!(whole, Ok(Progress::Complete), "{name}"),
                Err(words) => assert!(whole.clone().is_err_and(|error| error.contains(words)), "{name}: {whole:?}"),
            }
        }
    }

    #[test]
    fn more_bytes_than_announced_are_noticed() {
        let mut reader = ResponseReader::new(1);
        assert!(reader.read(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab").is_err());
    }

    #[test]
    fn the_browser_request_has_the_size_that_is_claimed() {
        let len = browser_get("/app/fields", 0).request.len();
        assert!((650..=750).contains(&len), "{len} bytes");
    }
}
