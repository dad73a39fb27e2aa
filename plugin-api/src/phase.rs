//! What a hook may see and change: one type for each phase, so that changing the request after it was sent does not
//! compile. Getters borrow `&self` and setters `&mut self`: the compiler checks that no bytes of the host are used after
//! the next change.

use std::marker::PhantomData;
use std::ops::Deref;

use crate::abi::{self, Str};
use crate::types::{HostError, ResponseToken, Verdict};

/// The host's table and the exchange that it is for: both valid for `'x`.
#[derive(Clone, Copy, Debug)]
struct RawExchange<'x> {
    host: &'x abi::Host,
    x: *mut abi::Exchange,
    _hook: PhantomData<&'x ()>,
}

// Each call below is sound for the same reason: `RawExchange::new` got an exchange that is valid for 'x together with the table
// of the host that owns it, and arguments are slices, which outlive the call.
impl<'x> RawExchange<'x> {
    /// # Safety
    /// `x` must be an exchange of the host that `host` came from, valid for `'x` and not used otherwise meanwhile.
    unsafe fn new(host: &'x abi::Host, x: *mut abi::Exchange) -> RawExchange<'x> {
        RawExchange { host, x, _hook: PhantomData }
    }

    /// Calls a getter of one `Str`. The bytes are borrowed from `self`, which every setter borrows mutably.
    fn read(&self, get: impl FnOnce(*mut Str) -> abi::Status) -> Option<&[u8]> {
        let mut out = Str::NULL;
        if get(&mut out) != abi::OK {
            return None;
        }
        // SAFETY: the host answered OK, and its bytes live until the next change, which needs `&mut` of a phase.
        unsafe { out.bytes() }
    }

    fn attr(&self, attr: u32) -> Option<&[u8]> {
        let get = self.host.attr_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, attr, out) })
    }

    fn set_attr(&self, attr: u32, value: &[u8]) -> Result<(), HostError> {
        let set = self.host.attr_set.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { set(self.x, attr, Str::new(value)) })
    }

    fn count(&self, side: u32) -> usize {
        // SAFETY: see above `impl RawExchange`.
        self.host.field_count.map_or(0, |count| unsafe { count(self.x, side) })
    }

    fn field_at(&self, side: u32, index: usize) -> Option<(&[u8], &[u8])> {
        let get = self.host.field_at?;
        let mut out = abi::Field { name: Str::NULL, value: Str::NULL };
        // SAFETY: see above `impl RawExchange`.
        if unsafe { get(self.x, side, index, &mut out) } != abi::OK {
            return None;
        }
        // SAFETY: as in `read`.
        unsafe { Some((out.name.bytes()?, out.value.bytes()?)) }
    }

    fn field(&self, side: u32, name: &[u8], nth: usize) -> Option<&[u8]> {
        let get = self.host.field_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, side, Str::new(name), nth, out) })
    }

    fn put(&self, put: Option<abi::FieldPutFn>, side: u32, name: &[u8], value: &[u8]) -> Result<(), HostError> {
        let put = put.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { put(self.x, side, Str::new(name), Str::new(value)) })
    }

    fn remove(&self, side: u32, name: &[u8]) -> Result<bool, HostError> {
        let remove = self.host.field_remove.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        found(unsafe { remove(self.x, side, Str::new(name)) })
    }

    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let get = self.host.value_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, Str::new(key), out) })
    }

    fn set_value(&self, key: &[u8], value: Str) -> abi::Status {
        // SAFETY: see above `impl RawExchange`.
        self.host.value_set.map_or(abi::UNSUPPORTED, |set| unsafe { set(self.x, Str::new(key), value) })
    }

    fn body(&self, side: u32) -> Option<&[u8]> {
        let get = self.host.body_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, side, out) })
    }

    fn set_body(&self, side: u32, body: &[u8]) -> Result<(), HostError> {
        let set = self.host.body_set.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { set(self.x, side, Str::new(body)) })
    }

    fn respond(&self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> Result<Verdict, HostError> {
        let respond = self.host.respond.ok_or(HostError::Unsupported)?;
        let line = |(name, value): &(&str, &str)| abi::Field {
            name: Str::new(name.as_bytes()),
            value: Str::new(value.as_bytes()),
        };
        let lines: Vec<abi::Field> = fields.iter().map(line).collect();
        // SAFETY: see above `impl RawExchange`; the lines point into `fields`, which outlives the call.
        let status = unsafe { respond(self.x, u32::from(status), lines.as_ptr(), lines.len(), Str::new(body)) };
        HostError::check(status).map(|()| Verdict::Respond(ResponseToken(())))
    }
}

fn found(status: abi::Status) -> Result<bool, HostError> {
    match HostError::check(status) {
        Ok(()) => Ok(true),
        Err(HostError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Field lines in order, as `(name, value)`.
#[derive(Clone, Debug)]
pub struct FieldLines<'v> {
    raw: &'v RawExchange<'v>,
    side: u32,
    next: usize,
    count: usize,
}

impl<'v> Iterator for FieldLines<'v> {
    type Item = (&'v [u8], &'v [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        self.next += 1;
        self.raw.field_at(self.side, self.next - 1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.count - self.next))
    }
}

macro_rules! field_readers {
    ($side:expr) => {
        /// The value of the first field line of that name, whatever its case.
        pub fn field(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
            self.raw.field($side, name.as_ref(), 0)
        }

        /// The value of the field line of that name which `nth` others precede.
        pub fn nth_field(&self, name: impl AsRef<[u8]>, nth: usize) -> Option<&[u8]> {
            self.raw.field($side, name.as_ref(), nth)
        }

        /// All field lines in order.
        pub fn fields(&self) -> FieldLines<'_> {
            FieldLines { raw: &self.raw, side: $side, next: 0, count: self.raw.count($side) }
        }

        /// The whole body, where [`Plugin::NEEDS`](crate::Plugin::NEEDS) asks for it. `None` where it does not, where
        /// the message cannot have a body (answers to HEAD, 204, 304), or where it has passed already.
        pub fn body(&self) -> Option<&[u8]> {
            self.raw.body($side)
        }
    };
}

macro_rules! writers {
    ($side:expr) => {
        /// Gives the first field line of that name a new value and removes the others; appends it where there is none.
        pub fn set_field(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), HostError> {
            let raw = self.raw();
            raw.put(raw.host.field_set, $side, name.as_ref(), value.as_ref())
        }

        /// Appends a field line.
        pub fn add_field(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), HostError> {
            let raw = self.raw();
            raw.put(raw.host.field_add, $side, name.as_ref(), value.as_ref())
        }

        /// Removes all field lines of that name; says whether there was one.
        pub fn remove_field(&mut self, name: impl AsRef<[u8]>) -> Result<bool, HostError> {
            self.raw().remove($side, name.as_ref())
        }

        /// Replaces the body; needs the flag in [`Plugin::NEEDS`](crate::Plugin::NEEDS). The host sees to Content-Length.
        pub fn set_body(&mut self, body: impl AsRef<[u8]>) -> Result<(), HostError> {
            self.raw().set_body($side, body.as_ref())
        }

        /// What a plugin remembered for this exchange under `key`, in any phase.
        pub fn value(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
            self.raw().value(key.as_ref())
        }

        /// Remembers `value` for this exchange, for all plugins and phases that follow. Convention: `plugin.key`.
        pub fn set_value(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), HostError> {
            HostError::check(self.raw().set_value(key.as_ref(), Str::new(value.as_ref())))
        }

        /// Forgets the value under `key`; says whether there was one.
        pub fn remove_value(&mut self, key: impl AsRef<[u8]>) -> Result<bool, HostError> {
            found(self.raw().set_value(key.as_ref(), Str::NULL))
        }
    };
}

/// The request, read only.
#[derive(Debug)]
pub struct RequestView<'x> {
    raw: RawExchange<'x>,
}

impl RequestView<'_> {
    /// The method.
    pub fn method(&self) -> &[u8] {
        self.raw.attr(abi::METHOD).unwrap_or_default()
    }

    /// The request target as it will be sent: routed, prefix stripped.
    pub fn target(&self) -> &[u8] {
        self.raw.attr(abi::TARGET).unwrap_or_default()
    }

    /// The path of [`Self::target`].
    pub fn path(&self) -> &[u8] {
        let target = self.target();
        &target[..target.iter().position(|&byte| byte == b'?').unwrap_or(target.len())]
    }

    /// The query of [`Self::target`] without its `?`; `None` where there is none.
    pub fn query(&self) -> Option<&[u8]> {
        let target = self.target();
        target.iter().position(|&byte| byte == b'?').map(|mark| &target[mark + 1..])
    }

    /// The Host to send.
    pub fn authority(&self) -> &[u8] {
        self.raw.attr(abi::AUTHORITY).unwrap_or_default()
    }

    /// The target as the client sent it.
    pub fn original_target(&self) -> &[u8] {
        self.raw.attr(abi::ORIGINAL_TARGET).unwrap_or_default()
    }

    /// The client's IP address, without port. `None` where it came over a unix socket.
    pub fn client_addr(&self) -> Option<&str> {
        self.raw.attr(abi::CLIENT_ADDR).and_then(|text| std::str::from_utf8(text).ok())
    }

    /// The prefix of the route.
    pub fn route_prefix(&self) -> &[u8] {
        self.raw.attr(abi::ROUTE_PREFIX).unwrap_or_default()
    }

    /// The authority of the upstream, as in its URL.
    pub fn upstream(&self) -> &[u8] {
        self.raw.attr(abi::UPSTREAM).unwrap_or_default()
    }

    field_readers!(abi::REQUEST);
}

/// The response, read only.
#[derive(Debug)]
pub struct ResponseView<'x> {
    raw: RawExchange<'x>,
}

impl ResponseView<'_> {
    /// The status code.
    pub fn status(&self) -> u16 {
        let digits = self.raw.attr(abi::STATUS).unwrap_or_default();
        digits
            .iter()
            .fold(0, |status: u16, digit| status.wrapping_mul(10).wrapping_add(u16::from(digit.wrapping_sub(b'0'))))
    }

    field_readers!(abi::RESPONSE);
}

/// Before forwarding. Reads like a [`RequestView`], and writes.
#[derive(Debug)]
pub struct RequestPhase<'x> {
    view: RequestView<'x>,
}

impl<'x> Deref for RequestPhase<'x> {
    type Target = RequestView<'x>;

    fn deref(&self) -> &Self::Target {
        &self.view
    }
}

impl<'x> RequestPhase<'x> {
    /// # Safety
    /// As [`RawExchange::new`], in the request phase.
    pub(crate) unsafe fn new(host: &'x abi::Host, x: *mut abi::Exchange) -> Self {
        // SAFETY: passed on to the caller.
        RequestPhase { view: RequestView { raw: unsafe { RawExchange::new(host, x) } } }
    }

    fn raw(&self) -> &RawExchange<'x> {
        &self.view.raw
    }

    /// Changes the method: any token but CONNECT and TRACE, and not to or from HEAD.
    pub fn set_method(&mut self, method: impl AsRef<[u8]>) -> Result<(), HostError> {
        self.raw().set_attr(abi::METHOD, method.as_ref())
    }

    /// Changes the request target: visible ASCII beginning with `/`.
    pub fn set_target(&mut self, target: impl AsRef<[u8]>) -> Result<(), HostError> {
        self.raw().set_attr(abi::TARGET, target.as_ref())
    }

    /// Changes the Host to send.
    pub fn set_authority(&mut self, authority: impl AsRef<[u8]>) -> Result<(), HostError> {
        self.raw().set_attr(abi::AUTHORITY, authority.as_ref())
    }

    /// Answers in the upstream's place, which is not contacted. The host adds framing, Date and Connection.
    pub fn respond(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Verdict, HostError> {
        self.raw().respond(status, fields, body.as_ref())
    }

    writers!(abi::REQUEST);
}

/// After the upstream has responded. Reads like a [`ResponseView`], and writes; the request is read only.
#[derive(Debug)]
pub struct ResponsePhase<'x> {
    request: RequestView<'x>,
    view: ResponseView<'x>,
}

impl<'x> Deref for ResponsePhase<'x> {
    type Target = ResponseView<'x>;

    fn deref(&self) -> &Self::Target {
        &self.view
    }
}

impl<'x> ResponsePhase<'x> {
    /// # Safety
    /// As [`RawExchange::new`], in the response phase.
    pub(crate) unsafe fn new(host: &'x abi::Host, x: *mut abi::Exchange) -> Self {
        // SAFETY: passed on to the caller.
        let raw = unsafe { RawExchange::new(host, x) };
        ResponsePhase { request: RequestView { raw }, view: ResponseView { raw } }
    }

    fn raw(&self) -> &RawExchange<'x> {
        &self.view.raw
    }

    /// The request, as it was sent.
    pub fn request(&self) -> &RequestView<'x> {
        &self.request
    }

    /// Changes the status code: 200 to 599, and not to or from 204 and 304, which have no body.
    pub fn set_status(&mut self, status: u16) -> Result<(), HostError> {
        self.raw().set_attr(abi::STATUS, status.to_string().as_bytes())
    }

    /// Replaces the whole response. The host adds framing, Date and Connection.
    pub fn respond(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Verdict, HostError> {
        self.raw().respond(status, fields, body.as_ref())
    }

    writers!(abi::RESPONSE);
}

/// After the exchange, however it ended: read only.
#[derive(Debug)]
pub struct DonePhase<'x> {
    request: RequestView<'x>,
    response: ResponseView<'x>,
}

impl<'x> DonePhase<'x> {
    /// # Safety
    /// As [`RawExchange::new`], at the end.
    pub(crate) unsafe fn new(host: &'x abi::Host, x: *mut abi::Exchange) -> Self {
        // SAFETY: passed on to the caller.
        let raw = unsafe { RawExchange::new(host, x) };
        DonePhase { request: RequestView { raw }, response: ResponseView { raw } }
    }

    /// The request, as it was sent or would have been.
    pub fn request(&self) -> &RequestView<'x> {
        &self.request
    }

    /// The upstream's response, where there was one and the host still has it.
    pub fn response(&self) -> Option<&ResponseView<'x>> {
        self.response.raw.attr(abi::STATUS).map(|_| &self.response)
    }

    /// What a plugin remembered for this exchange under `key`.
    pub fn value(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.request.raw.value(key.as_ref())
    }
}
