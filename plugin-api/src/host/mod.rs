//! The host's side of the interface, for programs that load plugins: the proxy and [`crate::testing`]. Plugins do not
//! need it.
//!
//! [`table`] makes the C functions of an [`abi::Host`] from an implementation of [`ExchangeAccess`]. The functions check
//! everything that a plugin passes (null pointers, lengths, phase, names and values, limits), so that an `ExchangeAccess`
//! gets only valid arguments. Each runs inside `catch_unwind`: no panic crosses the boundary.
//!
//! ```text
//! plugin ── C call ──► functions of `table::<A>()` ── checked ──► A: ExchangeAccess ──► message in memory
//!                        the exchange pointer leads to an `ExchangeHandle<A>`
//! ```

mod functions;

use crate::abi;
use crate::types::{HostError, Level};
use functions::*;

/// Which hook is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `on_request`
    Request,
    /// `on_response`
    Response,
    /// `on_done`
    Done,
}

/// One of the two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Request,
    /// From the upstream.
    Response,
}

/// An attribute. Numbers that 1.0 does not have are answered with `UNSUPPORTED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are those of `abi`.
pub enum Attr {
    Method,
    Target,
    Authority,
    Status,
    ClientAddr,
    RoutePrefix,
    Upstream,
    OriginalTarget,
    Scheme,
    Protocol,
    TlsVersion,
    TlsServerName,
    ClientPort,
    LocalAddr,
    ClientHost,
    HasRequestBody,
    HasResponseBody,
    ElapsedUs,
    ResponseSource,
    Cause,
    PluginName,
    FinalStatus,
    BytesIn,
    BytesOut,
    TimeHeadUs,
    TimeConnectUs,
    TimeFirstByteUs,
    TimeTotalUs,
    UpstreamAddr,
    Retries,
    UpstreamReused,
    Ticket,
}

impl Attr {
    fn from_number(number: u32) -> Result<Attr, HostError> {
        match number {
            abi::METHOD => Ok(Attr::Method),
            abi::TARGET => Ok(Attr::Target),
            abi::AUTHORITY => Ok(Attr::Authority),
            abi::STATUS => Ok(Attr::Status),
            abi::CLIENT_ADDR => Ok(Attr::ClientAddr),
            abi::ROUTE_PREFIX => Ok(Attr::RoutePrefix),
            abi::UPSTREAM => Ok(Attr::Upstream),
            abi::ORIGINAL_TARGET => Ok(Attr::OriginalTarget),
            abi::SCHEME => Ok(Attr::Scheme),
            abi::PROTOCOL => Ok(Attr::Protocol),
            abi::TLS_VERSION => Ok(Attr::TlsVersion),
            abi::TLS_SERVER_NAME => Ok(Attr::TlsServerName),
            abi::CLIENT_PORT => Ok(Attr::ClientPort),
            abi::LOCAL_ADDR => Ok(Attr::LocalAddr),
            abi::CLIENT_HOST => Ok(Attr::ClientHost),
            abi::HAS_REQUEST_BODY => Ok(Attr::HasRequestBody),
            abi::HAS_RESPONSE_BODY => Ok(Attr::HasResponseBody),
            abi::ELAPSED_US => Ok(Attr::ElapsedUs),
            abi::RESPONSE_SOURCE => Ok(Attr::ResponseSource),
            abi::CAUSE => Ok(Attr::Cause),
            abi::PLUGIN_NAME => Ok(Attr::PluginName),
            abi::FINAL_STATUS => Ok(Attr::FinalStatus),
            abi::BYTES_IN => Ok(Attr::BytesIn),
            abi::BYTES_OUT => Ok(Attr::BytesOut),
            abi::TIME_HEAD_US => Ok(Attr::TimeHeadUs),
            abi::TIME_CONNECT_US => Ok(Attr::TimeConnectUs),
            abi::TIME_FIRST_BYTE_US => Ok(Attr::TimeFirstByteUs),
            abi::TIME_TOTAL_US => Ok(Attr::TimeTotalUs),
            abi::UPSTREAM_ADDR => Ok(Attr::UpstreamAddr),
            abi::RETRIES => Ok(Attr::Retries),
            abi::UPSTREAM_REUSED => Ok(Attr::UpstreamReused),
            abi::TICKET => Ok(Attr::Ticket),
            _ => Err(HostError::Unsupported),
        }
    }
}

/// How large a plugin may make a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head.
    pub head_bytes: usize,
    /// Field lines of a head.
    pub field_lines: usize,
    /// Bytes of a buffered body.
    pub body_bytes: usize,
}

/// A field line, or a key and its value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// The messages of one exchange, as the host keeps them. Every argument has been checked before.
///
/// Getters take `&self` and must leave what they have returned before in place: a plugin may hold several results.
pub trait ExchangeAccess {
    /// Which hook is running.
    fn phase(&self) -> Phase;
    /// What the plugin asked for: `abi::WANT_...`.
    fn flags(&self) -> u32;
    /// How large the messages may become.
    fn limits(&self) -> Limits;
    /// An attribute's value, where it has one now.
    fn attr(&self, attr: Attr) -> Option<&[u8]>;
    /// Changes the method, target or authority.
    fn set_attr(&mut self, attr: Attr, value: &[u8]);
    /// Changes the status.
    fn set_status(&mut self, status: u16);
    /// How many field lines; 0 where there is no such message.
    fn field_count(&self, side: Side) -> usize;
    /// Field line `index`.
    fn field_at(&self, side: Side, index: usize) -> Option<Pair<'_>>;
    /// Gives the first line of that name a new value and removes the others, or appends one.
    fn set_field(&mut self, side: Side, name: &[u8], value: &[u8]);
    /// Appends a line.
    fn add_field(&mut self, side: Side, name: &[u8], value: &[u8]);
    /// Removes all lines of that name; says whether there was one.
    fn remove_field(&mut self, side: Side, name: &[u8]) -> bool;
    /// The values of this exchange.
    fn values(&self) -> &Vec<(Vec<u8>, Vec<u8>)>;
    /// The values of this exchange.
    fn values_mut(&mut self) -> &mut Vec<(Vec<u8>, Vec<u8>)>;
    /// A buffered body that the plugin asked for: `NotFound` where the message cannot have one, `Limit` where it is too large,
    /// `WrongPhase` where it is not here.
    fn body(&self, side: Side) -> Result<&[u8], HostError>;
    /// Replaces a body that [`Self::body`] gave.
    fn set_body(&mut self, side: Side, body: Vec<u8>);
    /// Asks for the body of that side, with these flags.
    fn want_body(&mut self, _side: Side, _flags: u32) -> Result<(), HostError> {
        Err(HostError::Unsupported)
    }
    /// The ticket of a pause; one more call within the same hook gives the same one.
    fn pause(&mut self) -> Result<u64, HostError> {
        Err(HostError::Unsupported)
    }
    /// Writes a message that is about this exchange. What the plugin sends may hold any bytes.
    fn log(&self, level: Level, message: &[u8]);
    /// The pairs for the line of the access log.
    fn access_pairs(&self) -> &Vec<(Vec<u8>, Vec<u8>)>;
    /// The pairs for the line of the access log.
    fn access_pairs_mut(&mut self) -> &mut Vec<(Vec<u8>, Vec<u8>)>;
    /// Keeps an answer, which counts if the hook returns `RESPOND`; a later one replaces it.
    fn set_answer(&mut self, status: u16, fields: Vec<(Vec<u8>, Vec<u8>)>, body: Vec<u8>);
}

/// What an exchange pointer points to while a hook runs.
#[derive(Debug)]
#[repr(C)]
pub struct ExchangeHandle<A> {
    /// [`OPEN`] while the hook runs. A plugin that keeps the pointer too long may be noticed by this, where the memory is
    /// still readable.
    magic: u64,
    /// What the functions act upon.
    pub access: A,
}

const OPEN: u64 = 0x6d72_7020_6f70_656e;

impl<A: ExchangeAccess> ExchangeHandle<A> {
    /// A handle to `access`.
    pub fn new(access: A) -> ExchangeHandle<A> {
        ExchangeHandle { magic: OPEN, access }
    }

    /// The pointer that the hook is given. Valid until the handle is used or moved in any other way.
    pub fn as_exchange(&mut self) -> *mut abi::Exchange {
        std::ptr::from_mut(self).cast()
    }

    /// Ends it; the pointer is not valid any more.
    pub fn into_access(mut self) -> A {
        // SAFETY: an ordinary field of ours; volatile, because the compiler would leave the write out.
        unsafe { (&raw mut self.magic).write_volatile(0) };
        self.access
    }
}

/// What the host does for one instance of a plugin, on any thread.
pub trait InstanceAccess: Send + Sync {
    /// Whether a message of that level would be written.
    fn is_enabled(&self, level: Level) -> bool;
    /// Writes it. What the plugin sends may hold any bytes.
    fn log(&self, level: Level, message: &[u8]);
    /// Adds to what the plugin asks for: known flags only. An error where `create` is over.
    fn want(&self, flags: u32) -> Result<(), HostError>;
    /// A value of the configuration, which stays until the process ends. An error where `create` is over.
    fn config(&self, pointer: &str) -> Result<&[u8], HostError>;
    /// Adds a metric with a valid name. An error where `create` is over.
    fn define_metric(&self, is_gauge: bool, name: &str, help: &str) -> Result<u32, HostError>;
    /// Adds to a metric.
    fn add_to_metric(&self, metric: u32, delta: i64) -> Result<(), HostError>;
    /// Ends a pause; `is_good`: not by a failure.
    fn resume(&self, _ticket: u64, _is_good: bool) -> Result<(), HostError> {
        Err(HostError::Unsupported)
    }
}

/// What a ctx pointer points to. It must live until the process ends.
pub struct Context(Box<dyn InstanceAccess>);

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    /// Makes a context that lives until the process ends. A static refers to it, so that leak checkers do not report it.
    pub fn new(access: Box<dyn InstanceAccess>) -> &'static Context {
        static ALL: std::sync::Mutex<Vec<&'static Context>> = std::sync::Mutex::new(Vec::new());
        let context: &'static Context = Box::leak(Box::new(Context(access)));
        ALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(context);
        context
    }

    /// The pointer that `create` is given.
    pub fn as_ctx(&'static self) -> *mut abi::Ctx {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// The host's table for exchanges that are `ExchangeHandle<A>`s and contexts that are [`Context`]s.
///
/// Where `A` has lifetimes, one table serves them all: the functions know `A` only through [`ExchangeAccess`].
pub const fn table<A: ExchangeAccess>() -> abi::Host {
    abi::Host {
        struct_size: size_of::<abi::Host>() as u32,
        abi_major: abi::ABI_MAJOR,
        abi_minor: abi::ABI_MINOR,
        log_enabled: Some(log_enabled),
        log: Some(log),
        attr_get: Some(attr_get::<A>),
        attr_set: Some(attr_set::<A>),
        field_count: Some(field_count::<A>),
        field_at: Some(field_at::<A>),
        field_get: Some(field_get::<A>),
        field_set: Some(field_set::<A>),
        field_add: Some(field_add::<A>),
        field_remove: Some(field_remove::<A>),
        value_get: Some(value_get::<A>),
        value_set: Some(value_set::<A>),
        respond: Some(respond::<A>),
        body_get: Some(body_get::<A>),
        body_set: Some(body_set::<A>),
        want: Some(want),
        config_get: Some(config_get),
        metric_define: Some(metric_define),
        metric_add: Some(metric_add),
        resume: Some(resume),
        log_exchange: Some(log_exchange::<A>),
        access_add: Some(access_add::<A>),
        want_body: Some(want_body::<A>),
        pause: Some(pause::<A>),
    }
}
