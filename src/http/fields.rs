//! Ordered field lines.
//!
//! Order, duplicates and the case of names are kept: a recipient may treat order as preference (RFC 9110 section 5.3).
//! All bytes of a field section live in one vector, so that a section which is used again and again stops allocating,
//! and reading a head costs one copy. Each line stands there in the form in which it will be sent; a run of lines that
//! were not changed is written with one copy.
//!
//! Nothing here checks what it is given: `head` checks what peers send, `plugin::host` what plugins write.

use super::chars::is_word;

/// Makes the enum of the rows, and the list of the names.
macro_rules! header_ids {
    ($($id:ident $name:literal)*) => {
        /// Field names that the proxy itself acts upon. Told once, when a line is added; compared as numbers from then on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum HeaderId {
            /// Any other name.
            Other,
            $(#[doc = $name] $id,)*
            /// No name of the table, but a server that turns what is no letter or digit into `_` (CGI, WSGI, Rack)
            /// reads it as one of `SET_BY_THE_PROXY`.
            LookAlike,
            /// The same of a framing field (rule S9).
            FramingLookAlike,
        }

        /// The names, by their numbers.
        const NAMES: &[(&str, HeaderId)] = &[("", HeaderId::Other), $(($name, HeaderId::$id)),*];
    };
}

header_ids! {
    Authorization       "authorization"
    Connection          "connection"
    ContentLength       "content-length"
    ContentLocation     "content-location"
    ContentType         "content-type"
    Cookie              "cookie"
    Date                "date"
    Destination         "destination"
    Expect              "expect"
    Forwarded           "forwarded"
    Host                "host"
    Http2Settings       "http2-settings"
    If                  "if"
    KeepAlive           "keep-alive"
    Link                "link"
    Location            "location"
    MaxForwards         "max-forwards"
    ProxyAuthenticate   "proxy-authenticate"
    ProxyAuthorization  "proxy-authorization"
    ProxyConnection     "proxy-connection"
    Refresh             "refresh"
    SetCookie           "set-cookie"
    Te                  "te"
    Trailer             "trailer"
    TransferEncoding    "transfer-encoding"
    Upgrade             "upgrade"
    Via                 "via"
    WwwAuthenticate     "www-authenticate"
    XForwardedFor       "x-forwarded-for"
    XForwardedHost      "x-forwarded-host"
    XForwardedPrefix    "x-forwarded-prefix"
    XForwardedProto     "x-forwarded-proto"
    XRealIp             "x-real-ip"
}

/// The one name of each length with each first letter; most have none, and so most names are compared with nothing.
static CANDIDATES: [[HeaderId; 32]; 20] = {
    let mut candidates = [[HeaderId::Other; 32]; 20];
    let mut rest = NAMES;
    while let [(name, id), others @ ..] = rest {
        if let [first, ..] = name.as_bytes() {
            let place = &mut candidates[name.len()][(*first & 31) as usize];
            assert!(matches!(place, HeaderId::Other), "two names of one length and first letter");
            *place = *id;
        }
        rest = others;
    }
    candidates
};

/// Rule G1: fields that belong to one connection only. Framing fields are among them: each connection gets framing of its
/// own.
pub const HOP_BY_HOP: HeaderSet = HeaderSet::of(&[
    HeaderId::Connection,
    HeaderId::ContentLength,
    HeaderId::Http2Settings,
    HeaderId::KeepAlive,
    HeaderId::ProxyAuthenticate,
    HeaderId::ProxyAuthorization,
    HeaderId::ProxyConnection,
    HeaderId::Te,
    HeaderId::Trailer,
    HeaderId::TransferEncoding,
    HeaderId::Upgrade,
]);

/// Fields that tell an upstream about the client: only a trusted peer may set them (rule G4).
pub const FORWARDED: HeaderSet = HeaderSet::of(&[
    HeaderId::Forwarded,
    HeaderId::XForwardedFor,
    HeaderId::XForwardedHost,
    HeaderId::XForwardedPrefix,
    HeaderId::XForwardedProto,
    HeaderId::XRealIp,
]);

/// The names whose lines the proxy writes itself, or lets pass only for peers that it trusts.
const SET_BY_THE_PROXY: HeaderSet = HOP_BY_HOP.or(FORWARDED);

impl HeaderId {
    /// The name that `name` is, whatever its case.
    #[inline(always)]
    pub fn of(name: &[u8]) -> HeaderId {
        let (Some(first), Some(row)) = (name.first(), CANDIDATES.get(name.len())) else { return HeaderId::Other };
        let candidate = row[usize::from(first & 31)];
        if candidate == HeaderId::Other { candidate } else { candidate.or_look_alike(name) }
    }

    /// What a name is that can be no other than this one.
    fn or_look_alike(self, name: &[u8]) -> HeaderId {
        let (candidate, word) = (self, NAMES[self as usize].0.as_bytes());
        if is_word(name, word) {
            candidate
        } else if SET_BY_THE_PROXY.has(candidate) && is_look_alike(name, word) {
            match candidate {
                HeaderId::ContentLength | HeaderId::TransferEncoding => HeaderId::FramingLookAlike,
                _ => HeaderId::LookAlike,
            }
        } else {
            HeaderId::Other
        }
    }
}

/// Whether `name` is `word` for a reader to whom every byte that is no letter or digit is the same, whatever the case.
pub fn is_look_alike(name: &[u8], word: &[u8]) -> bool {
    let same = |byte: u8, letter: u8| {
        byte.eq_ignore_ascii_case(&letter) || !(byte.is_ascii_alphanumeric() || letter.is_ascii_alphanumeric())
    };
    name.len() == word.len() && name.iter().zip(word).all(|(byte, letter)| same(*byte, *letter))
}

/// A set of names that the proxy knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderSet(u64);

impl HeaderSet {
    /// The set of these.
    pub const fn of(ids: &[HeaderId]) -> HeaderSet {
        let mut set = HeaderSet(0);
        let mut rest = ids;
        while let [first, others @ ..] = rest {
            set = set.with(*first);
            rest = others;
        }
        set
    }

    /// The set with `known` in it.
    pub const fn with(self, known: HeaderId) -> HeaderSet {
        // There are fewer than 64.
        HeaderSet(self.0 | 1 << known as u8)
    }

    /// What is in either.
    pub const fn or(self, other: HeaderSet) -> HeaderSet {
        HeaderSet(self.0 | other.0)
    }

    /// Whether `known` is in it.
    pub const fn has(self, known: HeaderId) -> bool {
        self.0 & (1 << known as u8) != 0
    }
}

/// One field line, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// What the name is.
    pub id: HeaderId,
    /// The name as it was written.
    pub name: &'a [u8],
    /// The value without white space around it.
    pub value: &'a [u8],
}

impl HeaderRef<'_> {
    /// Whether the line's name is `name`, which is `known`.
    fn is_named(&self, name: &[u8], known: HeaderId) -> bool {
        let is_one_name = !matches!(known, HeaderId::Other | HeaderId::LookAlike | HeaderId::FramingLookAlike);
        self.id == known && (is_one_name || self.name.eq_ignore_ascii_case(name))
    }
}

const COLON: &[u8] = b": ";
const CRLF: &[u8] = b"\r\n";

/// Where in `Fields::bytes` a line stands as `name: value CRLF`. 32 bits would do for any head that the limits allow;
/// `usize` needs no proof (rule S10).
#[derive(Clone, Copy, Debug)]
struct Slot {
    start: usize,
    name_end: usize,
    end: usize,
    id: HeaderId,
}

impl Slot {
    fn line<'a>(&self, bytes: &'a [u8]) -> HeaderRef<'a> {
        HeaderRef {
            id: self.id,
            name: &bytes[self.start..self.name_end],
            value: &bytes[self.name_end + COLON.len()..self.end - CRLF.len()],
        }
    }
}

/// A field section.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The lines, and what is left of lines that were removed or given a longer value.
    bytes: Vec<u8>,
    lines: Vec<Slot>,
    /// All names that lines were added of: a removed line's may be left.
    seen: HeaderSet,
}

impl Fields {
    /// An empty section, which owns no memory.
    pub const fn new() -> Self {
        Fields { bytes: Vec::new(), lines: Vec::new(), seen: HeaderSet(0) }
    }

    /// Forgets all lines, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        self.seen = HeaderSet(0);
    }

    /// How many bytes of memory it owns.
    pub fn heap_size(&self) -> usize {
        self.bytes.capacity() + self.lines.capacity() * size_of::<Slot>()
    }

    /// How many bytes [`write`](Fields::write) appends.
    pub fn wire_len(&self) -> usize {
        self.lines.iter().map(|slot| slot.end - slot.start).sum()
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Line `index`, counted from 0.
    pub fn nth(&self, index: usize) -> Option<HeaderRef<'_>> {
        self.lines.get(index).map(|slot| slot.line(&self.bytes))
    }

    /// All lines in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = HeaderRef<'_>> + Clone + '_ {
        self.lines.iter().map(|slot| slot.line(&self.bytes))
    }

    /// Appends a line.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        self.add_known(HeaderId::of(name), name, |out| out.extend_from_slice(value));
    }

    /// Appends a line whose name is known; `write_value` appends its value to the bytes.
    // Inlined, because the names and many values are constants: copying those is a store or two.
    #[inline(always)]
    pub fn add_known(&mut self, id: HeaderId, name: &[u8], write_value: impl FnOnce(&mut Vec<u8>)) {
        debug_assert_eq!(HeaderId::of(name), id, "what the name is");
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(COLON);
        write_value(&mut self.bytes);
        self.bytes.extend_from_slice(CRLF);
        self.seen = self.seen.with(id);
        self.lines.push(Slot { start, name_end: start + name.len(), end: self.bytes.len(), id });
    }

    /// Copies `section`, in which httparse has found `lines`, if all of it stands there as it would be written (rule S13):
    /// `name: value CRLF`, and no name that looks like another (rule S9). Otherwise this stays empty, as it has to
    /// be before.
    ///
    /// A line that is as long as it would be written, with one space in front of the value and CR behind it, has no other
    /// white space (httparse has found LF behind each CR), and the next one begins behind it.
    pub(super) fn copy_section(&mut self, section: &[u8], lines: &[httparse::Header<'_>]) -> bool {
        let (mut start, mut seen, mut is_as_written) = (0, HeaderSet(0), true);
        self.lines.extend(lines.iter().map(|line| {
            let id = HeaderId::of(line.name.as_bytes());
            let name_end = start + line.name.len();
            let end = name_end + COLON.len() + line.value.len() + CRLF.len();
            is_as_written &= section.get(name_end + 1) == Some(&b' ') && section.get(end - 2) == Some(&b'\r');
            let slot = Slot { start, name_end, end, id };
            (start, seen) = (end, seen.with(id));
            slot
        }));
        if !is_as_written || start != section.len() || seen.has(HeaderId::FramingLookAlike) {
            self.lines.clear();
            return false;
        }
        self.seen = seen;
        self.bytes.extend_from_slice(section);
        true
    }

    /// Whether there may be a line of these names: `false` is certain, and saves a look at all lines.
    pub fn may_contain_any(&self, ids: HeaderSet) -> bool {
        self.seen.0 & ids.0 != 0
    }

    /// Where the lines of these names stand, in order.
    pub fn indices(&self, ids: HeaderSet) -> impl DoubleEndedIterator<Item = usize> + Clone + '_ {
        let lines = if self.may_contain_any(ids) { &self.lines[..] } else { &[] };
        lines.iter().enumerate().filter(move |(_, slot)| ids.has(slot.id)).map(|(index, _)| index)
    }

    /// All lines of these names, in order.
    pub fn lines(&self, ids: HeaderSet) -> impl DoubleEndedIterator<Item = HeaderRef<'_>> + Clone + '_ {
        let lines = if self.may_contain_any(ids) { &self.lines[..] } else { &[] };
        lines.iter().filter(move |slot| ids.has(slot.id)).map(|slot| slot.line(&self.bytes))
    }

    /// All values of a name that the proxy knows, in order.
    pub fn values(&self, known: HeaderId) -> impl DoubleEndedIterator<Item = &[u8]> + '_ {
        self.lines(HeaderSet::of(&[known])).map(|line| line.value)
    }

    /// The first value of a name that the proxy knows.
    pub fn get(&self, known: HeaderId) -> Option<&[u8]> {
        self.values(known).next()
    }

    /// Gives the first line of that name the new value and removes the others; appends the line where there is none.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let known = HeaderId::of(name);
        let Some(first) = self.iter().position(|line| line.is_named(name, known)) else {
            return self.add_known(known, name, |out| out.extend_from_slice(value));
        };
        let mut index = 0;
        self.retain(|line| {
            let keep = index <= first || !line.is_named(name, known);
            index += 1;
            keep
        });
        self.set_value(first, value);
    }

    /// Gives line `index` a new value. Nothing happens where there is no such line.
    pub fn set_value(&mut self, index: usize, value: &[u8]) {
        let Some(slot) = self.lines.get_mut(index) else { return };
        let name_len = slot.name_end - slot.start;
        let len = name_len + COLON.len() + value.len() + CRLF.len();
        // Where it fits it stands where the old one stood, so that setting a value over and over does not grow the section.
        if len > slot.end - slot.start {
            let start = self.bytes.len();
            self.bytes.extend_from_within(slot.start..slot.name_end);
            self.bytes.resize(start + len, b' ');
            (slot.start, slot.name_end) = (start, start + name_len);
        }
        slot.end = slot.start + len;
        let (start, end) = (slot.name_end + COLON.len(), slot.end - CRLF.len());
        self.bytes[slot.name_end..start].copy_from_slice(COLON);
        self.bytes[start..end].copy_from_slice(value);
        self.bytes[end..slot.end].copy_from_slice(CRLF);
    }

    /// Removes all lines of that name, whatever its case; says whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let (known, before) = (HeaderId::of(name), self.len());
        self.retain(|line| !line.is_named(name, known));
        self.len() < before
    }

    /// Removes all lines of these names.
    pub fn remove_all(&mut self, ids: HeaderSet) {
        if self.may_contain_any(ids) {
            self.lines.retain(|slot| !ids.has(slot.id));
            self.seen.0 &= !ids.0;
        }
    }

    /// Keeps the lines for which `keep` says so, in order. The bytes of the others stay until the next `clear`: to move those
    /// behind them would cost more than they weigh.
    pub fn retain(&mut self, mut keep: impl FnMut(HeaderRef<'_>) -> bool) {
        let bytes = &self.bytes;
        self.lines.retain(|slot| keep(slot.line(bytes)));
    }

    /// Where lines that were removed or written anew have left more than `max` bytes in use, moves what is there together.
    pub fn compact(&mut self, max: usize) {
        if self.bytes.len() > max {
            let mut compacted = Fields::new();
            self.lines.iter().for_each(|slot| {
                let line = slot.line(&self.bytes);
                compacted.add_known(line.id, line.name, |out| out.extend_from_slice(line.value));
            });
            *self = compacted;
        }
    }

    /// Appends every line as `name: value CRLF`, without the empty line that ends a section.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_without(HeaderSet::default(), out);
    }

    /// The same, without the lines of these names.
    pub fn write_without(&self, ids: HeaderSet, out: &mut Vec<u8>) {
        out.reserve(self.bytes.len());
        // Lines that stand side by side leave as one copy.
        let (mut start, mut end) = (0, 0);
        for slot in self.lines.iter().filter(|slot| !ids.has(slot.id)) {
            if slot.start != end {
                out.extend_from_slice(&self.bytes[start..end]);
                start = slot.start;
            }
            end = slot.end;
        }
        out.extend_from_slice(&self.bytes[start..end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marsaglia's xorshift: the same numbers on every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }
    }

    const NAMES: [&[u8]; 7] = [b"Host", b"host", b"X-A", b"x-a", b"X-B", b"Connection", b"cookie"];

    fn values_of<'a>(fields: &'a Fields, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        fields.iter().filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
    }

    fn model_of(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
        fields.iter().map(|line| (line.name.to_vec(), line.value.to_vec())).collect()
    }

    fn written(model: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        model.iter().flat_map(|(name, value)| [name, COLON, value, CRLF].concat()).collect()
    }

    #[test]
    fn behaves_like_a_list_of_pairs() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut fields = Fields::new();
        let mut model: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for step in 0..if cfg!(miri) { 50 } else { 20_000 } {
            let name = NAMES[random.below(NAMES.len())];
            let value = vec![b'a' + random.below(26) as u8; random.below(12)];
            let is_name = |pair: &(Vec<u8>, Vec<u8>)| pair.0.eq_ignore_ascii_case(name);
            match random.below(16) {
                0..7 => {
                    fields.add(name, &value);
                    model.push((name.to_vec(), value));
                }
                7..9 => {
                    fields.set(name, &value);
                    match model.iter().position(is_name) {
                        None => model.push((name.to_vec(), value)),
                        Some(first) => {
                            let mut others = model.split_off(first + 1);
                            others.retain(|pair| !is_name(pair));
                            model[first].1 = value;
                            model.append(&mut others);
                        }
                    }
                }
                9..12 => {
                    let index = random.below(model.len() + 2);
                    fields.set_value(index, &value);
                    if let Some(pair) = model.get_mut(index) {
                        pair.1 = value;
                    }
                }
                12..14 => {
                    let was_there = model.iter().any(is_name);
                    assert_eq!(fields.remove(name), was_there, "step {step}");
                    model.retain(|pair| !is_name(pair));
                }
                14 => {
                    fields.retain(|line| line.value.len() % 3 != 0);
                    model.retain(|pair| pair.1.len() % 3 != 0);
                }
                _ if random.below(8) == 0 => {
                    fields.clear();
                    model.clear();
                }
                _ => {}
            }
            assert_eq!(model_of(&fields), model, "step {step}");
            assert_eq!((fields.len(), fields.is_empty()), (model.len(), model.is_empty()));
            let mut out = b"start\r\n".to_vec();
            fields.write(&mut out);
            assert_eq!(out, [b"start\r\n", &written(&model)[..]].concat(), "step {step}");
            assert_eq!(fields.wire_len(), written(&model).len(), "step {step}");
            out.clear();
            fields.write_without(HeaderSet::of(&[HeaderId::Host]), &mut out);
            let others: Vec<_> = model.iter().filter(|pair| !pair.0.eq_ignore_ascii_case(b"host")).cloned().collect();
            assert_eq!(out, written(&others), "step {step}");
            let values: Vec<&[u8]> = model.iter().filter(|pair| is_name(pair)).map(|pair| &pair.1[..]).collect();
            assert_eq!(values_of(&fields, name).collect::<Vec<_>>(), values, "step {step}");
            if HeaderId::of(name) != HeaderId::Other {
                assert_eq!(fields.values(HeaderId::of(name)).collect::<Vec<_>>(), values, "step {step}");
                assert_eq!(fields.get(HeaderId::of(name)), values.first().copied(), "step {step}");
            }
        }
    }

    #[test]
    fn known_names_are_known_whatever_their_case() {
        let table: &[(&str, HeaderId)] = &[
            ("authorization", HeaderId::Authorization),
            ("connection", HeaderId::Connection),
            ("content-length", HeaderId::ContentLength),
            ("content-location", HeaderId::ContentLocation),
            ("content-type", HeaderId::ContentType),
            ("cookie", HeaderId::Cookie),
            ("date", HeaderId::Date),
            ("destination", HeaderId::Destination),
            ("if", HeaderId::If),
            ("expect", HeaderId::Expect),
            ("forwarded", HeaderId::Forwarded),
            ("host", HeaderId::Host),
            ("http2-settings", HeaderId::Http2Settings),
            ("keep-alive", HeaderId::KeepAlive),
            ("link", HeaderId::Link),
            ("location", HeaderId::Location),
            ("max-forwards", HeaderId::MaxForwards),
            ("proxy-authenticate", HeaderId::ProxyAuthenticate),
            ("proxy-authorization", HeaderId::ProxyAuthorization),
            ("proxy-connection", HeaderId::ProxyConnection),
            ("refresh", HeaderId::Refresh),
            ("set-cookie", HeaderId::SetCookie),
            ("te", HeaderId::Te),
            ("trailer", HeaderId::Trailer),
            ("transfer-encoding", HeaderId::TransferEncoding),
            ("upgrade", HeaderId::Upgrade),
            ("via", HeaderId::Via),
            ("www-authenticate", HeaderId::WwwAuthenticate),
            ("x-forwarded-for", HeaderId::XForwardedFor),
            ("x-forwarded-host", HeaderId::XForwardedHost),
            ("x-forwarded-prefix", HeaderId::XForwardedPrefix),
            ("x-forwarded-proto", HeaderId::XForwardedProto),
            ("x-real-ip", HeaderId::XRealIp),
        ];
        assert_eq!(table.len(), HeaderId::LookAlike as usize - 1, "a row for each name");
        for &(name, known) in table {
            assert_eq!(HeaderId::of(name.as_bytes()), known, "{name}");
            assert_eq!(HeaderId::of(name.to_uppercase().as_bytes()), known, "{name}");
            for index in 0..name.len() {
                let mut changed = name.as_bytes().to_vec();
                changed[index] = b'_';
                let is_look_alike = SET_BY_THE_PROXY.has(known) && name.as_bytes()[index] == b'-';
                let expected = match known {
                    _ if !is_look_alike => HeaderId::Other,
                    HeaderId::ContentLength | HeaderId::TransferEncoding => HeaderId::FramingLookAlike,
                    _ => HeaderId::LookAlike,
                };
                assert_eq!(HeaderId::of(&changed), expected, "{name} changed at {index}");
                changed[index] = name.as_bytes()[index].to_ascii_uppercase();
                assert_eq!(HeaderId::of(&changed), known, "{name} with upper case at {index}");
            }
        }
        for name in
            ["", "accept", "x", "content_lengt", "content-lengthy", "set_cookie", "x_forwarded_for_", "x-real1ip"]
        {
            assert_eq!(HeaderId::of(name.as_bytes()), HeaderId::Other, "{name}");
        }
    }

    #[test]
    fn s9_look_alikes_differ_in_what_is_no_letter_or_digit() {
        for byte in (0x21..0x7f).filter(|&byte| crate::http::chars::is_tchar(byte)) {
            let is_separator = !byte.is_ascii_alphanumeric();
            for (word, look_alike) in [
                ("x-forwarded-for", HeaderId::LookAlike),
                ("Content-Length", HeaderId::FramingLookAlike),
                ("TRANSFER-encoding", HeaderId::FramingLookAlike),
            ] {
                let at = word.find('-').expect("a dash");
                let mut name = word.as_bytes().to_vec();
                name[at] = byte;
                let is_itself = byte == b'-';
                let shown = name.escape_ascii();
                assert_eq!(HeaderId::of(&name) == look_alike, is_separator && !is_itself, "{shown}");
            }
        }
        // Two look-alikes are not one name.
        let mut fields = Fields::new();
        fields.add(b"x_real_ip", b"1");
        fields.set(b"x.real.ip", b"2");
        assert_eq!(values_of(&fields, b"X_Real_IP").collect::<Vec<_>>(), [b"1"]);
    }

    #[test]
    fn names_are_removed_together() {
        let mut fields = Fields::new();
        for name in ["Host", "te", "A", "TE", "Date", "b"] {
            fields.add(name.as_bytes(), b"x");
        }
        fields.remove_all(HeaderSet::of(&[HeaderId::Via, HeaderId::Upgrade]));
        assert_eq!(fields.len(), 6);
        fields.remove_all(HeaderSet::of(&[HeaderId::Te, HeaderId::Via]).or(HeaderSet::of(&[HeaderId::Host])));
        assert_eq!(fields.iter().map(|line| line.name).collect::<Vec<_>>(), [&b"A"[..], b"Date", b"b"]);
        let may_contain = |id| fields.may_contain_any(HeaderSet::of(&[id]));
        assert!(!may_contain(HeaderId::Te) && may_contain(HeaderId::Date));
        fields.add(b"TE", b"y");
        assert_eq!(fields.get(HeaderId::Te), Some(&b"y"[..]));
    }

    #[test]
    fn the_lines_of_a_section_are_lines_like_others() {
        let mut fields = Fields::new();
        let section = b"Host: a\r\nb: c\r\nd: \r\ne: f\r\n";
        let mut lines = [httparse::EMPTY_HEADER; 4];
        assert_eq!(httparse::parse_headers(section, &mut lines), Ok(httparse::Status::Partial), "no empty line");
        assert!(fields.copy_section(section, &lines));
        fields.add(b"g", b"h");
        fields.set_value(3, b"a value that is longer");
        fields.set(b"b", b"x");
        let mut out = Vec::new();
        fields.write(&mut out);
        let expected = b"Host: a\r\nb: x\r\nd: \r\ne: a value that is longer\r\ng: h\r\n";
        assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert_eq!(fields.get(HeaderId::Host), Some(&b"a"[..]));
        assert_eq!(fields.get(HeaderId::Date), None);
    }

    #[test]
    fn e4_lines_that_are_written_over_and_over_take_no_more_memory() {
        let mut fields = Fields::new();
        fields.add(b"first", b"1");
        let long = [b'x'; 100];
        for round in 0..1000_usize {
            fields.set(b"x-a", if round % 2 == 0 { &long } else { b"short" });
            fields.add(b"x-b", &long);
            fields.remove(b"x-b");
            fields.compact(500);
            assert!(fields.bytes.len() <= 500, "{}", fields.bytes.len());
        }
        fields.add(b"Via", b"2");
        let mut out = Vec::new();
        fields.write(&mut out);
        assert_eq!(out.escape_ascii().to_string(), b"first: 1\r\nx-a: short\r\nVia: 2\r\n".escape_ascii().to_string());
        assert_eq!(values_of(&fields, b"X-A").next(), Some(&b"short"[..]));
    }

    #[test]
    fn a_used_section_stops_allocating() {
        let mut fields = Fields::new();
        let fill = |fields: &mut Fields| {
            fields.clear();
            for name in NAMES {
                fields.add(name, b"some value");
            }
            fields.set(b"x-b", b"a value that is longer than before");
            fields.remove(b"host");
        };
        fill(&mut fields);
        let before = (fields.bytes.as_ptr(), fields.bytes.capacity(), fields.lines.as_ptr(), fields.lines.capacity());
        for _ in 0..10 {
            fill(&mut fields);
        }
        let after = (fields.bytes.as_ptr(), fields.bytes.capacity(), fields.lines.as_ptr(), fields.lines.capacity());
        assert_eq!(before, after);
    }
}
