//! A small, independent parser for streams of HTTP/1.1 messages: the oracle of all tests.
//!
//! It shares no code with the proxy and does not use httparse. What the proxy writes is parsed with
//! [`Strictness::Strict`], which refuses whatever is unusual; what its peers send, with [`Strictness::Lenient`]. It is
//! slow and keeps whole bodies.

use std::collections::VecDeque;

/// How much is allowed beside the plain form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// HTTP/1.0, any white space around values, chunk extensions and a missing Host are allowed.
    Lenient,
    /// Only what mini-rproxy itself writes.
    Strict,
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests of a client.
    Requests,
    /// Responses of an upstream.
    Responses,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The connection ends with it.
    UntilClose,
}

/// A message head. Bytes are kept as characters with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first line, without its CRLF.
    pub start: String,
    /// Names and values in order.
    pub fields: Vec<(String, String)>,
    /// Where the body ends.
    pub framing: Framing,
    /// The bytes as they came, with the empty line.
    pub raw: Vec<u8>,
}

impl Head {
    /// All values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The members of all lines of a list field.
    pub fn members(&self, name: &str) -> Vec<String> {
        let members = self.values(name).flat_map(|value| value.split(','));
        members.map(|m| m.trim_matches([' ', '\t']).to_ascii_lowercase()).filter(|m| !m.is_empty()).collect()
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.start.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or("")
    }

    /// Whether the message says HTTP/1.0. The reason of a response may say anything.
    pub fn is_http10(&self) -> bool {
        match self.start.strip_prefix("HTTP/1.") {
            Some(rest) => rest.starts_with("0 "),
            None => self.start.ends_with(" HTTP/1.0"),
        }
    }
}

/// A message, as far as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its head.
    pub head: Head,
    /// Without framing.
    pub body: Vec<u8>,
    /// Names and values in order.
    pub trailers: Vec<(String, String)>,
    /// Whether its end has come.
    pub is_complete: bool,
}

/// A piece of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A whole head, as it came.
    Head(Vec<u8>),
    /// Part of a body that is sent as it is.
    Data(Vec<u8>),
    /// Part of the data of a chunk.
    Chunk(Vec<u8>),
    /// The last chunk with its trailers, as it came.
    LastChunk(Vec<u8>),
    /// Bytes of an upgraded connection, or of a stream that is not understood any more.
    Raw(Vec<u8>),
}

/// What decides about the framing of the response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// Its method.
    pub method: String,
    /// Whether the client speaks HTTP/1.0.
    pub is_http10: bool,
}

#[derive(Clone, Debug)]
enum State {
    Head,
    Length(u64),
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Raw,
    Failed,
}

/// Parses one stream.
#[derive(Clone, Debug)]
pub struct Parser {
    kind: Kind,
    strictness: Strictness,
    state: State,
    rest: Vec<u8>,
    /// No head ends before this index.
    scanned: usize,
    /// The head that was refused.
    refused: Vec<u8>,
    pending: VecDeque<RequestInfo>,
    /// Everything so far; interim responses included.
    pub messages: Vec<Message>,
    /// The first violation.
    pub error: Option<String>,
    /// Final responses without a request.
    pub unsolicited: usize,
}

type Fields = Vec<(String, String)>;

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new(kind: Kind, strictness: Strictness) -> Parser {
        let (rest, pending, messages) = (Vec::new(), VecDeque::new(), Vec::new());
        Parser {
            kind,
            strictness,
            state: State::Head,
            rest,
            scanned: 0,
            refused: Vec::new(),
            pending,
            messages,
            error: None,
            unsolicited: 0,
        }
    }

    /// Adds a request to those that wait for their response.
    pub fn expect_response(&mut self, request: RequestInfo) {
        self.pending.push_back(request);
    }

    /// Forgets the requests that wait for their response.
    pub fn expect_no_more(&mut self) {
        self.pending.clear();
    }

    /// Requests that still wait for their final response.
    pub fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// From here on the stream is not HTTP.
    pub fn switch(&mut self) {
        if matches!(self.state, State::Head) {
            self.state = State::Raw;
        }
    }

    /// The stream has ended.
    pub fn finish(&mut self) {
        if let (State::UntilClose, Some(message)) = (&self.state, self.messages.last_mut()) {
            message.is_complete = true;
            self.state = State::Head;
        }
    }

    /// Whether the stream may end here.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Head | State::Raw | State::UntilClose) && self.rest.is_empty()
    }

    /// The first word of the head that has begun, or that was refused.
    pub fn first_word(&self) -> String {
        let head = if self.error.is_some() { &self.refused } else { &self.rest };
        let line = head.strip_prefix(b"\r\n").unwrap_or(head);
        text(line.split(|&byte| byte == b' ').next().unwrap_or_default())
    }

    /// Whether bytes wait for the rest of a head or line.
    pub fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Final responses so far.
    pub fn final_responses(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|message| message.head.status() >= 200 || message.head.status() == 101)
    }

    /// Takes bytes and returns the pieces that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Token> {
        self.rest.extend_from_slice(bytes);
        let mut tokens = Vec::new();
        while !self.rest.is_empty() {
            match self.step() {
                Ok(Some(token)) => tokens.push(token),
                Ok(None) => break,
                Err(error) => {
                    self.error.get_or_insert(error);
                    self.state = State::Failed;
                }
            }
        }
        tokens
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.rest.split_off(len);
        std::mem::replace(&mut self.rest, rest)
    }

    fn message(&mut self) -> &mut Message {
        self.messages.last_mut().expect("a body follows a head")
    }

    fn complete(&mut self) {
        self.message().is_complete = true;
        self.state = State::Head;
    }

    /// The next piece; `None` where more bytes are needed.
    fn step(&mut self) -> Result<Option<Token>, String> {
        match self.state {
            State::Head => self.head(),
            State::Length(left) => {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(self.rest.len());
                let data = self.take(len);
                self.message().body.extend_from_slice(&data);
                self.state = State::Length(left - len as u64);
                if left == len as u64 {
                    self.complete();
                }
                Ok(Some(Token::Data(data)))
            }
            State::ChunkLine => {
                let Some(end) = find(&self.rest, b"\r\n") else {
                    return if self.rest.len() > 300 { Err("chunk line too long".to_owned()) } else { Ok(None) };
                };
                let line = self.take(end + 2);
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let has_junk = match self.strictness {
                    Strictness::Strict => digits != end || line[..digits].iter().any(u8::is_ascii_uppercase),
                    Strictness::Lenient => digits != end && line[digits] != b';',
                };
                if digits == 0 || digits > 16 || has_junk || line[..end].contains(&b'\n') {
                    return Err(format!("bad chunk line {:?}", text(&line)));
                }
                let size = u64::from_str_radix(&text(&line[..digits]), 16).map_err(|error| error.to_string())?;
                if size == 0 {
                    self.state = State::Trailers;
                    self.rest.splice(0..0, line);
                    return self.step();
                }
                self.state = State::ChunkData(size);
                if self.rest.is_empty() { Ok(None) } else { self.step() }
            }
            State::ChunkData(left) => {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(self.rest.len());
                let data = self.take(len);
                self.message().body.extend_from_slice(&data);
                self.state = if left == len as u64 { State::ChunkEnd } else { State::ChunkData(left - len as u64) };
                Ok(Some(Token::Chunk(data)))
            }
            State::ChunkEnd => {
                if self.rest.len() < 2 {
                    return Ok(None);
                }
                if self.take(2) != b"\r\n" {
                    return Err("no CRLF after the data of a chunk".to_owned());
                }
                self.state = State::ChunkLine;
                if self.rest.is_empty() { Ok(None) } else { self.step() }
            }
            State::Trailers => {
                let Some(end) = find(&self.rest, b"\r\n\r\n") else { return Ok(None) };
                let raw = self.take(end + 4);
                let line_end = find(&raw, b"\r\n").expect("the line of the last chunk has an end");
                let fields = self.fields(&raw[line_end + 2..raw.len() - 2])?;
                self.message().trailers = fields;
                self.complete();
                Ok(Some(Token::LastChunk(raw)))
            }
            State::UntilClose => {
                let data = self.take(self.rest.len());
                self.message().body.extend_from_slice(&data);
                Ok(Some(Token::Data(data)))
            }
            State::Raw | State::Failed => Ok(Some(Token::Raw(self.take(self.rest.len())))),
        }
    }

    fn head(&mut self) -> Result<Option<Token>, String> {
        // RFC 9112 section 2.2: a recipient skips an empty line.
        let skipped = if self.strictness == Strictness::Lenient
            && self.kind == Kind::Requests
            && self.rest.starts_with(b"\r\n")
        {
            2
        } else {
            0
        };
        let from = self.scanned.max(skipped);
        let Some(end) = find(&self.rest[from..], b"\r\n\r\n").map(|end| from + end - skipped) else {
            self.scanned = self.rest.len().saturating_sub(3);
            return Ok(None);
        };
        self.scanned = 0;
        let raw = self.take(skipped + end + 4);
        self.refused.clone_from(&raw);
        let lines = &raw[skipped..raw.len() - 2];
        let start_end = find(lines, b"\r\n").expect("a head ends with CRLF");
        let start = &lines[..start_end];
        if start.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err("line breaks in a start line".to_owned());
        }
        self.start_line(&text(start))?;
        let fields = self.fields(&lines[start_end + 2..])?;
        let mut head = Head { start: text(start), fields, framing: Framing::None, raw: raw.clone() };
        let framing = match self.kind {
            Kind::Requests => self.request_framing(&head),
            Kind::Responses => self.response_framing(&head),
        };
        let (is_switched, is_interim) = match self.kind {
            Kind::Requests => (false, false),
            Kind::Responses => (head.status() == 101, head.status() < 200),
        };
        if self.kind == Kind::Responses && (!is_interim || is_switched) {
            self.pending.pop_front();
        }
        head.framing = framing.clone().unwrap_or(Framing::None);
        self.messages.push(Message { head, body: Vec::new(), trailers: Vec::new(), is_complete: false });
        match framing? {
            Framing::None | Framing::Length(0) => self.complete(),
            Framing::Length(left) => self.state = State::Length(left),
            Framing::Chunked => self.state = State::ChunkLine,
            Framing::UntilClose => self.state = State::UntilClose,
        }
        if is_switched {
            self.state = State::Raw;
        }
        Ok(Some(Token::Head(raw)))
    }

    /// Whole lines, each with its CRLF.
    fn fields(&self, lines: &[u8]) -> Result<Fields, String> {
        let mut fields = Vec::new();
        let mut rest = lines;
        while let Some(end) = find(rest, b"\r\n") {
            let line = &rest[..end];
            rest = &rest[end + 2..];
            let bad = |what: &str| format!("{what} in field line {:?}", text(line));
            let colon = line.iter().position(|&byte| byte == b':').ok_or_else(|| bad("no colon"))?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if name.is_empty() || !name.iter().all(|&byte| is_tchar(byte)) {
                return Err(bad("bad name"));
            }
            if value.iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
                return Err(bad("control character"));
            }
            let value = text(value);
            let trimmed = value.trim_matches([' ', '\t']);
            if self.strictness == Strictness::Strict && value != format!(" {trimmed}") {
                return Err(bad("unusual white space"));
            }
            fields.push((text(name), trimmed.to_owned()));
        }
        if rest.is_empty() { Ok(fields) } else { Err("a field section without its end".to_owned()) }
    }

    fn start_line(&self, line: &str) -> Result<(), String> {
        let is_strict = self.strictness == Strictness::Strict;
        let is_version = |version: &str| version == "HTTP/1.1" || (version == "HTTP/1.0" && !is_strict);
        let is_field_text = |text: &str| text.chars().all(|c| c == '\t' || (c >= ' ' && c != '\x7f'));
        let is_good = match self.kind {
            Kind::Requests => {
                let parts: Vec<&str> = line.split(' ').collect();
                let [method, target, version] = parts[..] else { return Err(format!("no request line: {line:?}")) };
                let is_target = !target.is_empty() && target.chars().all(|c| ('!'..='~').contains(&c));
                !method.is_empty() && method.bytes().all(is_tchar) && is_target && is_version(version)
            }
            Kind::Responses => {
                let (version, rest) = line.split_once(' ').unwrap_or_default();
                let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                let is_status = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit()) && status >= "100";
                let has_end = !is_strict || rest.contains(' ');
                is_version(version) && is_status && has_end && is_field_text(reason)
            }
        };
        if is_good { Ok(()) } else { Err(format!("bad start line {line:?}")) }
    }

    fn request_framing(&self, head: &Head) -> Result<Framing, String> {
        if self.strictness == Strictness::Strict {
            let target = head.start.split(' ').nth(1).unwrap_or_default();
            let is_form = target.starts_with('/') && !target.contains('#');
            if !is_form || head.values("host").count() != 1 || head.values("host").any(str::is_empty) {
                return Err(format!("bad target or Host in {:?}", head.start));
            }
        }
        Ok(declared(head)?.unwrap_or(Framing::None))
    }

    fn response_framing(&mut self, head: &Head) -> Result<Framing, String> {
        let declared = declared(head)?;
        let status = head.status();
        let Some(request) = self.pending.front() else {
            self.unsolicited += 1;
            let framing = declared.unwrap_or(Framing::UntilClose);
            return if (100..200).contains(&status) { Err(format!("{status} without a request")) } else { Ok(framing) };
        };
        let is_strict = self.strictness == Strictness::Strict;
        if is_strict && request.is_http10 && (status < 200 || declared == Some(Framing::Chunked)) {
            return Err(format!("{:?} with {declared:?} to an HTTP/1.0 client", head.start));
        }
        match (status, declared) {
            (100..200 | 204, Some(framing)) if is_strict || framing != Framing::Length(0) => {
                Err(format!("{:?} with {framing:?}", head.start))
            }
            (100..200 | 204 | 304, _) => Ok(Framing::None),
            (_, _) if request.method == "HEAD" => Ok(Framing::None),
            (_, Some(framing)) => Ok(framing),
            (_, None) => Ok(Framing::UntilClose),
        }
    }
}

/// The framing that the fields declare: at most one of them, at most once.
fn declared(head: &Head) -> Result<Option<Framing>, String> {
    let lengths: Vec<&str> = head.values("content-length").collect();
    let codings: Vec<&str> = head.values("transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([digits], []) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = digits.parse::<u64>().map_err(|error| error.to_string())?;
            Ok(Some(Framing::Length(length)))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && !head.is_http10() => Ok(Some(Framing::Chunked)),
        _ => Err(format!("bad framing: Content-Length {lengths:?}, Transfer-Encoding {codings:?}")),
    }
}
