//! Ordered field lines.
//!
//! Order, duplicates and the case of names are kept: a recipient may treat order as preference (RFC 9110 section 5.3).
//! All bytes of a field section live in one vector and a line is a pair of ranges into it, so that a section which is
//! used again and again stops allocating, and reading a head costs one copy.
//!
//! Nothing here judges what it is given: `head` checks what peers send, `plugin::host` what plugins write.

/// Field names that the proxy itself acts upon. Told once, when a line is added; compared as numbers from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// Any other name.
    Other,
    Authorization,
    Connection,
    ContentLength,
    ContentLocation,
    Cookie,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    Location,
    MaxForwards,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Refresh,
    SetCookie,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedPrefix,
    XForwardedProto,
    XRealIp,
}

impl Known {
    /// The class of `name`, whatever its case.
    pub fn of(name: &[u8]) -> Known {
        todo!("{name:?}")
    }
}

/// One field line, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The class of the name.
    pub known: Known,
    /// The name as it was written.
    pub name: &'a [u8],
    /// The value without white space around it.
    pub value: &'a [u8],
}

/// A range of `Fields::bytes`. 32 bits would do for any head that the limits allow; `usize` needs no proof (rule S10).
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Span,
    value: Span,
    known: Known,
}

/// A field section.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    lines: Vec<Entry>,
}

impl Fields {
    /// An empty section, which owns no memory.
    pub const fn new() -> Self {
        Fields { bytes: Vec::new(), lines: Vec::new() }
    }
    /// Forgets all lines, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
    }
    /// Forgets all lines, gives back memory above `capacity` bytes (and above a line for each 32 of them).
    pub fn recycle(&mut self, capacity: usize) {
        todo!("{capacity}")
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
    pub fn get(&self, index: usize) -> Option<Line<'_>> {
        todo!("{index}")
    }
    /// All lines in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Line<'_>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
    /// Appends a line.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        todo!("{name:?} {value:?}")
    }
    /// All values of a name that the proxy knows, in order.
    pub fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> + '_ {
        self.iter().filter(move |line| line.known == known).map(|line| line.value)
    }
    /// The first value of a name that the proxy knows.
    pub fn first(&self, known: Known) -> Option<&[u8]> {
        todo!("{known:?}")
    }
    /// All values of any name, whatever its case, in order.
    pub fn values_of<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
    }
    /// Gives the first line of that name the new value and removes the others; appends the line where there is none.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        todo!("{name:?} {value:?}")
    }
    /// Gives line `index` a new value. Nothing happens where there is no such line.
    pub fn set_value(&mut self, index: usize, value: &[u8]) {
        todo!("{index} {value:?}")
    }
    /// Removes all lines of that name, whatever its case; says whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        todo!("{name:?}")
    }
    /// Keeps the lines for which `keep` says so, in order.
    pub fn retain(&mut self, keep: impl FnMut(Line<'_>) -> bool) {
        let _ = keep;
        todo!()
    }
    /// Appends every line as `name: value CRLF`, without the empty line that ends a section.
    pub fn write(&self, out: &mut Vec<u8>) {
        todo!("{out:?}")
    }
}
