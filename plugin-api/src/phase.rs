//! What a hook may see and change: one type for each phase, so that changing the request after it was sent does not
//! compile. Getters borrow `&self` and setters `&mut self`: the compiler checks that no bytes of the host are used after
//! the next change.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::abi::{self, Str};
use crate::host::Side;
use crate::pause::{Pause, RequestPause, ResponsePause};
use crate::setup::HostLink;
use crate::types::{HostError, Level, Oversize, ResponseToken, Verdict};

/// The host and the exchange that it is for: both valid for `'x`.
#[derive(Clone, Copy, Debug)]
struct RawExchange<'x> {
    host: &'x Arc<HostLink>,
    x: *mut abi::Exchange,
    _hook: PhantomData<&'x ()>,
}

// Each call below is sound for the same reason: `RawExchange::new` got an exchange that is valid for 'x together with the table
// of the host that owns it, and arguments are slices, which outlive the call.
impl<'x> RawExchange<'x> {
    /// # Safety
    /// `x` must be an exchange of the host that `host` came from, valid for `'x` and not used otherwise meanwhile.
    unsafe fn new(host: &'x Arc<HostLink>, x: *mut abi::Exchange) -> RawExchange<'x> {
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
        let get = self.host.table.attr_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, attr, out) })
    }

    /// An attribute that is text.
    fn text(&self, attr: u32) -> Option<&str> {
        self.attr(attr).and_then(|text| std::str::from_utf8(text).ok())
    }

    /// An attribute that is a number.
    fn number<N: FromStr>(&self, attr: u32) -> Option<N> {
        self.text(attr).and_then(|digits| digits.parse().ok())
    }

    /// An attribute that is a time in microseconds.
    fn duration(&self, attr: u32) -> Option<Duration> {
        self.number(attr).map(Duration::from_micros)
    }

    fn is_set(&self, attr: u32) -> bool {
        self.attr(attr) == Some(b"1")
    }

    fn set_attr(&self, attr: u32, value: &[u8]) -> Result<(), HostError> {
        let set = self.host.table.attr_set.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { set(self.x, attr, Str::new(value)) })
    }

    fn count(&self, side: u32) -> usize {
        // SAFETY: see above `impl RawExchange`.
        self.host.table.field_count.map_or(0, |count| unsafe { count(self.x, side) })
    }

    fn field_at(&self, side: u32, index: usize) -> Option<(&[u8], &[u8])> {
        let get = self.host.table.field_at?;
        let mut out = abi::Field { name: Str::NULL, value: Str::NULL };
        // SAFETY: see above `impl RawExchange`.
        if unsafe { get(self.x, side, index, &mut out) } != abi::OK {
            return None;
        }
        // SAFETY: as in `read`.
        unsafe { Some((out.name.bytes()?, out.value.bytes()?)) }
    }

    fn field(&self, side: u32, name: &[u8], nth: usize) -> Option<&[u8]> {
        let get = self.host.table.field_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, side, Str::new(name), nth, out) })
    }

    fn put(&self, put: Option<abi::FieldPutFn>, side: u32, name: &[u8], value: &[u8]) -> Result<(), HostError> {
        let put = put.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { put(self.x, side, Str::new(name), Str::new(value)) })
    }

    fn remove(&self, side: u32, name: &[u8]) -> Result<bool, HostError> {
        let remove = self.host.table.field_remove.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        found(unsafe { remove(self.x, side, Str::new(name)) })
    }

    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let get = self.host.table.value_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, Str::new(key), out) })
    }

    fn set_value(&self, key: &[u8], value: Str) -> abi::Status {
        // SAFETY: see above `impl RawExchange`.
        self.host.table.value_set.map_or(abi::UNSUPPORTED, |set| unsafe { set(self.x, Str::new(key), value) })
    }

    fn body(&self, side: u32) -> Option<&[u8]> {
        let get = self.host.table.body_get?;
        // SAFETY: see above `impl RawExchange`.
        self.read(|out| unsafe { get(self.x, side, out) })
    }

    fn body_is_too_large(&self, side: u32) -> bool {
        let mut out = Str::NULL;
        // SAFETY: see above `impl RawExchange`.
        self.host.table.body_get.is_some_and(|get| unsafe { get(self.x, side, &mut out) } == abi::LIMIT)
    }

    fn want_body(&self, side: Side, oversize: Oversize) -> Result<(), HostError> {
        let want = self.host.table.want_body.ok_or(HostError::Unsupported)?;
        let side = match side {
            Side::Request => abi::REQUEST,
            Side::Response => abi::RESPONSE,
        };
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { want(self.x, side, oversize.flags()) })
    }

    fn log(&self, level: Level, message: impl fmt::Display) {
        if let Some(write) = self.host.table.log_exchange
            && self.host.log.is_enabled(level)
        {
            let text = message.to_string();
            // SAFETY: see above `impl RawExchange`.
            unsafe { write(self.x, level.number(), Str::new(text.as_bytes())) }
        }
    }

    fn access_add(&self, key: &[u8], value: &[u8]) -> Result<(), HostError> {
        let add = self.host.table.access_add.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { add(self.x, Str::new(key), Str::new(value)) })
    }

    fn set_body(&self, side: u32, body: &[u8]) -> Result<(), HostError> {
        let set = self.host.table.body_set.ok_or(HostError::Unsupported)?;
        // SAFETY: see above `impl RawExchange`.
        HostError::check(unsafe { set(self.x, side, Str::new(body)) })
    }

    fn respond(&self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> Result<Verdict, HostError> {
        let respond = self.host.table.respond.ok_or(HostError::Unsupported)?;
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

        /// The whole body, where [`Plugin::NEEDS`](crate::Plugin::NEEDS) or `want_body` asks for it. `None` where neither
        /// does, where it is still to come or has passed already, where it is too large, or where the message cannot have
        /// one (answers to HEAD, 204, 304).
        pub fn body(&self) -> Option<&[u8]> {
            self.raw.body($side)
        }

        /// Whether the body is above the host's limit and passes without this plugin, which has agreed to that
        /// ([`Needs::optional`](crate::Needs::optional), [`Oversize::Skip`]).
        pub fn body_is_too_large(&self) -> bool {
            self.raw.body_is_too_large($side)
        }
    };
}

macro_rules! exchange_readers {
    ($raw:ident) => {
        /// How long ago the first byte of the request came.
        pub fn elapsed(&self) -> Duration {
            self.$raw().duration(abi::ELAPSED_US).unwrap_or_default()
        }

        /// The name of this plugin's entry in the configuration.
        pub fn plugin_name(&self) -> &str {
            self.$raw().text(abi::PLUGIN_NAME).unwrap_or_default()
        }

        /// What a plugin remembered for this exchange under `key`, in any phase.
        pub fn value(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
            self.$raw().value(key.as_ref())
        }

        /// Writes a message together with the client, the method and the path of this exchange.
        pub fn log(&self, level: Level, message: impl fmt::Display) {
            self.$raw().log(level, message);
        }
    };
}

macro_rules! writers {
    ($side:expr) => {
        /// Gives the first field line of that name a new value and removes the others; appends it where there is none.
        pub fn set_field(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), HostError> {
            let raw = self.raw();
            raw.put(raw.host.table.field_set, $side, name.as_ref(), value.as_ref())
        }

        /// Appends a field line.
        pub fn add_field(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), HostError> {
            let raw = self.raw();
            raw.put(raw.host.table.field_add, $side, name.as_ref(), value.as_ref())
        }

        /// Removes all field lines of that name; says whether there was one.
        pub fn remove_field(&mut self, name: impl AsRef<[u8]>) -> Result<bool, HostError> {
            self.raw().remove($side, name.as_ref())
        }

        /// Replaces the body; needs the flag in [`Plugin::NEEDS`](crate::Plugin::NEEDS). The host sees to Content-Length.
        pub fn set_body(&mut self, body: impl AsRef<[u8]>) -> Result<(), HostError> {
            self.raw().set_body($side, body.as_ref())
        }

        exchange_readers!(raw);

        /// Adds a pair to this exchange's line in the access log; the same key replaces. At most 8 pairs, of 64 and 512
        /// bytes; `key` is a token.
        pub fn access_add(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), HostError> {
            self.raw().access_add(key.as_ref(), value.as_ref())
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
        self.raw.text(abi::CLIENT_ADDR)
    }

    /// The client's port. `None` where it is not known.
    pub fn client_port(&self) -> Option<u16> {
        self.raw.number(abi::CLIENT_PORT)
    }

    /// Address and port that the client has connected to. `None` on a unix socket.
    pub fn local_addr(&self) -> Option<&str> {
        self.raw.text(abi::LOCAL_ADDR)
    }

    /// The Host that the client sent, or the authority of its absolute target.
    pub fn client_host(&self) -> &[u8] {
        self.raw.attr(abi::CLIENT_HOST).unwrap_or_default()
    }

    /// How the client speaks to the proxy: `http` or `https`.
    pub fn scheme(&self) -> &str {
        self.raw.text(abi::SCHEME).unwrap_or_default()
    }

    /// The client's version of HTTP: `HTTP/1.1` or `HTTP/1.0`.
    pub fn protocol(&self) -> &str {
        self.raw.text(abi::PROTOCOL).unwrap_or_default()
    }

    /// `TLSv1.2` or `TLSv1.3`. `None` where the client speaks no TLS to the proxy.
    pub fn tls_version(&self) -> Option<&str> {
        self.raw.text(abi::TLS_VERSION)
    }

    /// The server name of the client's TLS handshake (SNI). `None` where it sent none.
    pub fn tls_server_name(&self) -> Option<&str> {
        self.raw.text(abi::TLS_SERVER_NAME)
    }

    /// Whether the client's request has a body.
    pub fn has_body(&self) -> bool {
        self.raw.is_set(abi::HAS_REQUEST_BODY)
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

    /// Whether the response has a body.
    pub fn has_body(&self) -> bool {
        self.raw.is_set(abi::HAS_RESPONSE_BODY)
    }

    /// Who made the response: `upstream`, `proxy` (502, 504, 413 ...) or `plugin`.
    pub fn source(&self) -> &str {
        self.raw.text(abi::RESPONSE_SOURCE).unwrap_or_default()
    }

    /// What went wrong, in the word of the access log. `None` where nothing did.
    pub fn cause(&self) -> Option<&str> {
        self.raw.text(abi::CAUSE)
    }

    field_readers!(abi::RESPONSE);
}

/// Before forwarding. Reads like a [`RequestView`], and writes.
#[derive(Debug)]
pub struct RequestPhase<'x> {
    view: RequestView<'x>,
    /// That of its pause.
    pub(crate) ticket: Option<u64>,
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
    pub(crate) unsafe fn new(host: &'x Arc<HostLink>, x: *mut abi::Exchange) -> Self {
        // SAFETY: passed on to the caller.
        RequestPhase { view: RequestView { raw: unsafe { RawExchange::new(host, x) } }, ticket: None }
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

    /// Asks for the body of this exchange's request or response. When all of it is there, and this hook has returned
    /// [`Verdict::Continue`], [`Plugin::on_request_body`](crate::Plugin::on_request_body) runs before the next plugin sees
    /// the request, or [`Plugin::on_response_body`](crate::Plugin::on_response_body) after `on_response`.
    pub fn want_body(&mut self, side: Side, oversize: Oversize) -> Result<(), HostError> {
        self.raw().want_body(side, oversize)
    }

    /// Lets this exchange wait for a thread of the plugin's own: see [`Pause`].
    pub fn pause(&mut self) -> Result<RequestPause, HostError> {
        let pause = Pause::new(self.raw().host, self.raw().x)?;
        self.ticket = Some(pause.ticket());
        Ok(pause)
    }

    writers!(abi::REQUEST);
}

/// After the upstream has responded. Reads like a [`ResponseView`], and writes; the request is read only.
#[derive(Debug)]
pub struct ResponsePhase<'x> {
    request: RequestView<'x>,
    view: ResponseView<'x>,
    /// That of its pause.
    pub(crate) ticket: Option<u64>,
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
    pub(crate) unsafe fn new(host: &'x Arc<HostLink>, x: *mut abi::Exchange) -> Self {
        // SAFETY: passed on to the caller.
        let raw = unsafe { RawExchange::new(host, x) };
        ResponsePhase { request: RequestView { raw }, view: ResponseView { raw }, ticket: None }
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

    /// Asks for the body of this response. When all of it is there, and this hook has returned [`Verdict::Continue`],
    /// [`Plugin::on_response_body`](crate::Plugin::on_response_body) runs.
    pub fn want_body(&mut self, oversize: Oversize) -> Result<(), HostError> {
        self.raw().want_body(Side::Response, oversize)
    }

    /// Lets this exchange wait for a thread of the plugin's own: see [`Pause`]. Not for answers of the proxy itself.
    pub fn pause(&mut self) -> Result<ResponsePause, HostError> {
        let pause = Pause::new(self.raw().host, self.raw().x)?;
        self.ticket = Some(pause.ticket());
        Ok(pause)
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
    pub(crate) unsafe fn new(host: &'x Arc<HostLink>, x: *mut abi::Exchange) -> Self {
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

    fn raw(&self) -> &RawExchange<'x> {
        &self.request.raw
    }

    exchange_readers!(raw);

    /// The status that the client got; 499 where it left before that. `None` where there was none.
    pub fn final_status(&self) -> Option<u16> {
        self.raw().number(abi::FINAL_STATUS)
    }

    /// What went wrong, in the word of the access log. `None` where nothing did.
    pub fn cause(&self) -> Option<&str> {
        self.raw().text(abi::CAUSE)
    }

    /// Bytes of the request's body that were received.
    pub fn bytes_in(&self) -> u64 {
        self.raw().number(abi::BYTES_IN).unwrap_or(0)
    }

    /// Bytes of a body that the client was given.
    pub fn bytes_out(&self) -> u64 {
        self.raw().number(abi::BYTES_OUT).unwrap_or(0)
    }

    /// How long each part of the exchange took.
    pub fn times(&self) -> Times {
        Times {
            head: self.raw().duration(abi::TIME_HEAD_US).unwrap_or_default(),
            connect: self.raw().duration(abi::TIME_CONNECT_US),
            first_byte: self.raw().duration(abi::TIME_FIRST_BYTE_US),
            total: self.raw().duration(abi::TIME_TOTAL_US).unwrap_or_default(),
        }
    }

    /// Address and port of the upstream's connection. `None` where there was none.
    pub fn upstream_addr(&self) -> Option<&str> {
        self.raw().text(abi::UPSTREAM_ADDR)
    }

    /// Whether the upstream's connection was used before.
    pub fn upstream_reused(&self) -> bool {
        self.raw().is_set(abi::UPSTREAM_REUSED)
    }

    /// How often the request was sent again.
    pub fn retries(&self) -> u32 {
        self.raw().number(abi::RETRIES).unwrap_or(0)
    }

    /// The ticket of a pause of this plugin in which the exchange has ended.
    pub(crate) fn ticket(&self) -> Option<u64> {
        self.raw().number(abi::TICKET)
    }
}

/// How long each part of an exchange took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From the first byte of the request to the end of its head.
    pub head: Duration,
    /// From there to the connection to the upstream; `None` where there was none.
    pub connect: Option<Duration>,
    /// From there to the first byte of the response; `None` where none came.
    pub first_byte: Option<Duration>,
    /// From the first byte of the request to the end of the exchange.
    pub total: Duration,
}
