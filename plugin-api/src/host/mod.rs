//! The other side of the door, for those who load plugins: the proxy and [`crate::testing`]. Plugins do not need it.
//!
//! [`table`] makes the C functions of a [`abi::Host`] from an implementation of [`Access`]. The functions judge all that
//! a plugin passes (null pointers, lengths, phase, names and values, limits); an `Access` gets only what has passed, and
//! knows neither pointers nor rules. They never panic across the boundary: each runs inside `catch_unwind`.
//!
//! ```text
//! plugin ── C call ──► functions of `table::<A>()` ── checked ──► A: Access ──► message in memory
//!                        finds the `Door<A>` behind the exchange pointer
//! ```

mod functions;

use crate::abi;
use crate::types::{Level, Refused};
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

/// An attribute. What is above 1.0 is unknown and answered with `UNSUPPORTED`.
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
}

impl Attr {
    fn from_number(number: u32) -> Result<Attr, Refused> {
        match number {
            abi::METHOD => Ok(Attr::Method),
            abi::TARGET => Ok(Attr::Target),
            abi::AUTHORITY => Ok(Attr::Authority),
            abi::STATUS => Ok(Attr::Status),
            abi::CLIENT_ADDR => Ok(Attr::ClientAddr),
            abi::ROUTE_PREFIX => Ok(Attr::RoutePrefix),
            abi::UPSTREAM => Ok(Attr::Upstream),
            abi::ORIGINAL_TARGET => Ok(Attr::OriginalTarget),
            _ => Err(Refused::Unsupported),
        }
    }
}

/// How large plugins may make things.
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

/// The messages of one exchange, as the host keeps them. Every argument has been judged before.
///
/// Getters take `&self` and must not change what they have handed out before: a plugin may hold the results of several.
pub trait Access {
    /// Which hook is running.
    fn phase(&self) -> Phase;
    /// What the plugin asked for: `abi::WANT_...`.
    fn flags(&self) -> u32;
    /// How large things may become.
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
    /// A buffered body; `None` where none is at hand, or where the message cannot have one.
    fn body(&self, side: Side) -> Option<&[u8]>;
    /// Replaces a body that [`Self::body`] gave.
    fn set_body(&mut self, side: Side, body: Vec<u8>);
    /// Keeps an answer for the case that the hook returns `RESPOND`; a later one replaces it.
    fn set_answer(&mut self, status: u16, fields: Vec<(Vec<u8>, Vec<u8>)>, body: Vec<u8>);
}

/// What an exchange pointer points to while a hook runs.
#[derive(Debug)]
#[repr(C)]
pub struct Door<A> {
    /// [`STAMP`] while it is open. A pointer kept by a plugin finds something else here, as long as the memory is still
    /// readable: no more than a chance to notice a mistake.
    stamp: u64,
    /// What the functions act upon.
    pub access: A,
}

const STAMP: u64 = 0x6d72_7020_6f70_656e;

impl<A: Access> Door<A> {
    /// Opens a door to `access`.
    pub fn new(access: A) -> Door<A> {
        Door { stamp: STAMP, access }
    }

    /// What the hook is given. Good until the door is used or moved in any other way.
    pub fn as_exchange(&mut self) -> *mut abi::Exchange {
        std::ptr::from_mut(self).cast()
    }

    /// Closes it.
    pub fn into_access(mut self) -> A {
        // SAFETY: an ordinary field of ours; volatile, or else the compiler would leave the write out.
        unsafe { (&raw mut self.stamp).write_volatile(0) };
        self.access
    }
}

/// Where the messages of one plugin go.
pub trait Log: Send + Sync {
    /// Whether a message of that level would be written.
    fn is_enabled(&self, level: Level) -> bool;
    /// Writes it. What the plugin sends may hold any bytes.
    fn log(&self, level: Level, message: &[u8]);
}

/// What a ctx pointer points to: it must live until the process ends.
pub struct Context(Box<dyn Log>);

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    /// Makes a context that lives until the process ends. It stays reachable from a static, so that tools which look
    /// for leaked memory do not take it for such.
    pub fn new(log: Box<dyn Log>) -> &'static Context {
        static ALL: std::sync::Mutex<Vec<&'static Context>> = std::sync::Mutex::new(Vec::new());
        let context: &'static Context = Box::leak(Box::new(Context(log)));
        ALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(context);
        context
    }

    /// What `create` is given.
    pub fn as_ctx(&'static self) -> *mut abi::Ctx {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// The host's table for exchanges that are `Door<A>`s and contexts that are [`Context`]s.
///
/// Where `A` has lifetimes, one table serves them all: the functions know `A` only through [`Access`].
pub const fn table<A: Access>() -> abi::Host {
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
    }
}
