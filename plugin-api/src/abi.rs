//! The binary interface between host and plugin, version 1.0: the Rust twin of `include/mini_rproxy_plugin.h`.
//!
//! One exported data symbol ([`SYMBOL`]) holds a [`Plugin`] descriptor; the host hands a [`Host`] table to `create`. Within
//! a major version both only grow at the end and nothing in them changes its meaning. Each side copies
//! `min(struct_size, what it knows)` bytes into a zeroed struct of its own, so that an older or a newer peer reads as
//! "function absent", never as a wild pointer.
//!
//! This file holds the shapes and no code that acts. Plugin authors in Rust do not need it: the traits and phases at
//! the root of the crate are built upon it.

use std::ffi::c_void;

/// First four bytes of every plugin descriptor.
pub const MAGIC: u32 = 0x4D52_5031;
/// A change of this number breaks all plugins; it is part of the descriptor's part that never moves.
pub const ABI_MAJOR: u16 = 1;
/// Grows when a function or field is appended.
pub const ABI_MINOR: u16 = 0;
/// The name of the exported data symbol.
pub const SYMBOL: &str = "MiniRProxyPluginInstance";

/// Borrowed bytes without a NUL at the end. Empty ones may have a null `ptr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// The first byte.
    pub ptr: *const u8,
    /// How many bytes.
    pub len: usize,
}

impl Str {
    /// No bytes, and no address: `value_set` reads it as "delete".
    pub const NULL: Str = Str { ptr: std::ptr::null(), len: 0 };

    /// Borrows `bytes`; the caller makes sure that they live long enough.
    pub const fn new(bytes: &[u8]) -> Str {
        Str { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes, or `None` where no slice can have this pointer and length.
    ///
    /// # Safety
    /// Where `ptr` is not null, `len` bytes there must be readable and unchanged for the lifetime `'a`.
    pub const unsafe fn bytes<'a>(self) -> Option<&'a [u8]> {
        if self.len == 0 {
            Some(&[])
        } else if self.ptr.is_null() || self.len > isize::MAX as usize {
            None
        } else {
            // SAFETY: not null, of a possible length, and the caller answers for what is there.
            Some(unsafe { std::slice::from_raw_parts(self.ptr, self.len) })
        }
    }
}

/// One field line.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// A token, in any case.
    pub name: Str,
    /// Without white space around it.
    pub value: Str,
}

/// One plugin instance, seen from the host. Valid until the process ends, from every thread.
#[repr(C)]
#[derive(Debug)]
pub struct Ctx {
    _opaque: [u8; 0],
}

/// One exchange. Valid only inside the hook that was given it, on that thread: to keep it is undefined behaviour.
#[repr(C)]
#[derive(Debug)]
pub struct Exchange {
    _opaque: [u8; 0],
}

/// What the host's functions and `create` return.
pub type Status = i32;
/// Done.
pub const OK: Status = 0;
/// There is no such thing.
pub const NOT_FOUND: Status = 1;
/// An argument that means nothing: a null pointer, a name that is no token, a value with CR, LF or NUL.
pub const INVALID: Status = -1;
/// Not now: for example the request in the response phase.
pub const WRONG_PHASE: Status = -2;
/// Larger than a limit of the host.
pub const LIMIT: Status = -3;
/// This host does not know that function, attribute or side; or the plugin did not ask for it by a flag.
pub const UNSUPPORTED: Status = -4;
/// The host keeps this to itself: framing and connection fields, for example.
pub const DENIED: Status = -5;

/// What a hook returns. Anything but these three is a failure.
pub type Verdict = i32;
/// Go on.
pub const CONTINUE: Verdict = 0;
/// The plugin has answered through `respond`.
pub const RESPOND: Verdict = 1;
/// The plugin failed: the client gets 502.
pub const FAIL: Verdict = 2;

/// Side: the request.
pub const REQUEST: u32 = 0;
/// Side: the response.
pub const RESPONSE: u32 = 1;

/// Attribute: the method. Writable in the request phase; not CONNECT or TRACE, and not to or from HEAD.
pub const METHOD: u32 = 1;
/// Attribute: the request target as it will be sent. Writable in the request phase; begins with `/`.
pub const TARGET: u32 = 2;
/// Attribute: the Host to send. Writable in the request phase.
pub const AUTHORITY: u32 = 3;
/// Attribute: the status code, three digits. Writable in the response phase; not to or from 204 and 304.
pub const STATUS: u32 = 4;
/// Attribute: the client's IP address in text, without port. Absent where the client came over a unix socket.
pub const CLIENT_ADDR: u32 = 16;
/// Attribute: the prefix of the route.
pub const ROUTE_PREFIX: u32 = 17;
/// Attribute: the authority of the upstream, as in its URL.
pub const UPSTREAM: u32 = 18;
/// Attribute: the target as the client sent it.
pub const ORIGINAL_TARGET: u32 = 19;

/// Flag of a plugin: its request hook waits for the whole body.
pub const WANT_REQUEST_BODY: u32 = 1;
/// Flag of a plugin: its response hook waits for the whole body.
pub const WANT_RESPONSE_BODY: u32 = 2;
/// All flags that this version knows.
pub const KNOWN_FLAGS: u32 = WANT_REQUEST_BODY | WANT_RESPONSE_BODY;

/// Log level.
pub const LOG_ERROR: i32 = 0;
/// Log level.
pub const LOG_WARN: i32 = 1;
/// Log level.
pub const LOG_INFO: i32 = 2;
/// Log level.
pub const LOG_DEBUG: i32 = 3;

/// `log_enabled`
pub type LogEnabledFn = unsafe extern "C" fn(*mut Ctx, i32) -> i32;
/// `log`
pub type LogFn = unsafe extern "C" fn(*mut Ctx, i32, Str);
/// `attr_get`
pub type AttrGetFn = unsafe extern "C" fn(*mut Exchange, u32, *mut Str) -> Status;
/// `attr_set`
pub type AttrSetFn = unsafe extern "C" fn(*mut Exchange, u32, Str) -> Status;
/// `field_count`
pub type FieldCountFn = unsafe extern "C" fn(*mut Exchange, u32) -> usize;
/// `field_at`
pub type FieldAtFn = unsafe extern "C" fn(*mut Exchange, u32, usize, *mut Field) -> Status;
/// `field_get`
pub type FieldGetFn = unsafe extern "C" fn(*mut Exchange, u32, Str, usize, *mut Str) -> Status;
/// `field_set` and `field_add`
pub type FieldPutFn = unsafe extern "C" fn(*mut Exchange, u32, Str, Str) -> Status;
/// `field_remove`
pub type FieldRemoveFn = unsafe extern "C" fn(*mut Exchange, u32, Str) -> Status;
/// `value_get`
pub type ValueGetFn = unsafe extern "C" fn(*mut Exchange, Str, *mut Str) -> Status;
/// `value_set`
pub type ValueSetFn = unsafe extern "C" fn(*mut Exchange, Str, Str) -> Status;
/// `respond`
pub type RespondFn = unsafe extern "C" fn(*mut Exchange, u32, *const Field, usize, Str) -> Status;
/// `body_get`
pub type BodyGetFn = unsafe extern "C" fn(*mut Exchange, u32, *mut Str) -> Status;
/// `body_set`
pub type BodySetFn = unsafe extern "C" fn(*mut Exchange, u32, Str) -> Status;

/// What the host can do for a plugin. It grows only at the end; `None` stands for what an older host lacks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Bytes of this table as the host knows it.
    pub struct_size: u32,
    /// The host's [`ABI_MAJOR`].
    pub abi_major: u16,
    /// The host's [`ABI_MINOR`].
    pub abi_minor: u16,
    /// Whether a message of that level would be written. Any thread.
    pub log_enabled: Option<LogEnabledFn>,
    /// Writes a message. Any thread.
    pub log: Option<LogFn>,
    /// Reads an attribute.
    pub attr_get: Option<AttrGetFn>,
    /// Writes an attribute.
    pub attr_set: Option<AttrSetFn>,
    /// How many field lines.
    pub field_count: Option<FieldCountFn>,
    /// Field line `i`, counted from 0.
    pub field_at: Option<FieldAtFn>,
    /// The value of the `nth` line of that name, counted from 0.
    pub field_get: Option<FieldGetFn>,
    /// Replaces all lines of that name by one.
    pub field_set: Option<FieldPutFn>,
    /// Appends a line.
    pub field_add: Option<FieldPutFn>,
    /// Removes all lines of that name.
    pub field_remove: Option<FieldRemoveFn>,
    /// Reads a value of this exchange.
    pub value_get: Option<ValueGetFn>,
    /// Writes a value of this exchange; [`Str::NULL`] deletes it.
    pub value_set: Option<ValueSetFn>,
    /// Prepares an answer; the hook then returns [`RESPOND`].
    pub respond: Option<RespondFn>,
    /// Reads a buffered body.
    pub body_get: Option<BodyGetFn>,
    /// Replaces a buffered body.
    pub body_set: Option<BodySetFn>,
}

/// `create`
pub type CreateFn = unsafe extern "C" fn(*const Host, *mut Ctx, Str, *mut *mut c_void) -> Status;
/// `on_request` and `on_response`
pub type HookFn = unsafe extern "C" fn(*mut c_void, *mut Exchange) -> Verdict;
/// `on_done`
pub type DoneFn = unsafe extern "C" fn(*mut c_void, *mut Exchange);
/// `destroy`
pub type DestroyFn = unsafe extern "C" fn(*mut c_void);

/// What a plugin says of itself. The first twelve bytes never move, in no version.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// [`MAGIC`]
    pub magic: u32,
    /// The [`ABI_MAJOR`] that the plugin was built for.
    pub abi_major: u16,
    /// The [`ABI_MINOR`] that the plugin was built for.
    pub abi_minor: u16,
    /// Bytes of this descriptor as the plugin knows it.
    pub struct_size: u32,
    /// The oldest host that the plugin can do its work with.
    pub min_host_minor: u16,
    /// 0
    pub reserved0: u16,
    /// `WANT_...`
    pub flags: u32,
    /// 0
    pub reserved1: u32,
    /// 1 to 64 visible ASCII characters; appears in logs.
    pub name: Str,
    /// Up to 64 visible ASCII characters; appears in logs.
    pub version: Str,
    /// Makes an instance. Required. On the main thread, before the first request.
    pub create: Option<CreateFn>,
    /// Before forwarding.
    pub on_request: Option<HookFn>,
    /// After the upstream has responded.
    pub on_response: Option<HookFn>,
    /// After the exchange, read only.
    pub on_done: Option<DoneFn>,
    /// Frees the instance. On the main thread, after the last request.
    pub destroy: Option<DestroyFn>,
}

/// The descriptor up to its last hook: no plugin can do with less. What stands behind it may be missing.
pub const MIN_PLUGIN_SIZE: usize = std::mem::offset_of!(Plugin, on_done);

/// The table up to its log functions: no host has less.
pub const MIN_HOST_SIZE: usize = std::mem::offset_of!(Host, attr_get);

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// What was released stays. A new minor adds rows; it changes none.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_layout_of_1_0_is_pinned() {
        assert_eq!((size_of::<Str>(), size_of::<Field>()), (16, 32));
        assert_eq!(size_of::<Host>(), 128);
        assert_eq!(size_of::<Plugin>(), 96);
        assert_eq!(MIN_PLUGIN_SIZE, 80);
        assert_eq!(MIN_HOST_SIZE, 24);
        let descriptor = [
            (offset_of!(Plugin, magic), 0),
            (offset_of!(Plugin, abi_major), 4),
            (offset_of!(Plugin, abi_minor), 6),
            (offset_of!(Plugin, struct_size), 8),
            (offset_of!(Plugin, min_host_minor), 12),
            (offset_of!(Plugin, reserved0), 14),
            (offset_of!(Plugin, flags), 16),
            (offset_of!(Plugin, reserved1), 20),
            (offset_of!(Plugin, name), 24),
            (offset_of!(Plugin, version), 40),
            (offset_of!(Plugin, create), 56),
            (offset_of!(Plugin, on_request), 64),
            (offset_of!(Plugin, on_response), 72),
            (offset_of!(Plugin, on_done), 80),
            (offset_of!(Plugin, destroy), 88),
        ];
        assert!(descriptor.iter().all(|(is, pinned)| is == pinned), "{descriptor:?}");
        let table = [
            offset_of!(Host, log_enabled),
            offset_of!(Host, log),
            offset_of!(Host, attr_get),
            offset_of!(Host, attr_set),
            offset_of!(Host, field_count),
            offset_of!(Host, field_at),
            offset_of!(Host, field_get),
            offset_of!(Host, field_set),
            offset_of!(Host, field_add),
            offset_of!(Host, field_remove),
            offset_of!(Host, value_get),
            offset_of!(Host, value_set),
            offset_of!(Host, respond),
            offset_of!(Host, body_get),
            offset_of!(Host, body_set),
        ];
        for (index, offset) in table.into_iter().enumerate() {
            assert_eq!(offset, 8 + 8 * index);
        }
    }
}
