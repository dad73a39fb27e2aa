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

/// What a hook returns. Anything but these four is a failure.
pub type Verdict = i32;
/// Go on.
pub const CONTINUE: Verdict = 0;
/// The plugin has answered through `respond`.
pub const RESPOND: Verdict = 1;
/// The plugin failed: the client gets 502.
pub const FAIL: Verdict = 2;
/// The exchange waits until somebody calls `resume` with the ticket that `pause` gave.
pub const PAUSE: Verdict = 3;

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

/// Attribute: how the client speaks to the proxy, `http` or `https`.
pub const SCHEME: u32 = 20;
/// Attribute: the client's version of HTTP, `HTTP/1.1` or `HTTP/1.0`.
pub const PROTOCOL: u32 = 21;
/// Attribute: `TLSv1.2` or `TLSv1.3`. Absent where the client speaks no TLS to the proxy.
pub const TLS_VERSION: u32 = 22;
/// Attribute: the server name of the client's TLS handshake (SNI). Absent where it sent none.
pub const TLS_SERVER_NAME: u32 = 23;
/// Attribute: the client's port. Absent where it is not known.
pub const CLIENT_PORT: u32 = 24;
/// Attribute: the address and port that the client has connected to. Absent on a unix socket.
pub const LOCAL_ADDR: u32 = 25;
/// Attribute: the Host that the client sent, or the authority of an absolute target.
pub const CLIENT_HOST: u32 = 26;
/// Attribute: `1` where the client's request has a body, `0` where it has none.
pub const HAS_REQUEST_BODY: u32 = 27;
/// Attribute: `1` where the response has a body, `0` where it has none. Absent in the request phase.
pub const HAS_RESPONSE_BODY: u32 = 28;
/// Attribute: microseconds since the first byte of the request.
pub const ELAPSED_US: u32 = 29;
/// Attribute: who made the response: `upstream`, `proxy`, or `plugin`. Absent in the request phase.
pub const RESPONSE_SOURCE: u32 = 30;
/// Attribute: what went wrong, in the word of the access log. Absent where nothing did.
pub const CAUSE: u32 = 31;
/// Attribute: the name of this plugin's entry in the configuration.
pub const PLUGIN_NAME: u32 = 32;
/// Attribute, in `on_done`: the status that the client got; 499 where it left before that. Absent where there was none.
pub const FINAL_STATUS: u32 = 40;
/// Attribute, in `on_done`: bytes of the request's body that were received.
pub const BYTES_IN: u32 = 41;
/// Attribute, in `on_done`: bytes of a body that the client was given.
pub const BYTES_OUT: u32 = 42;
/// Attribute, in `on_done`: microseconds from the first byte of the request to the end of its head.
pub const TIME_HEAD_US: u32 = 43;
/// Attribute, in `on_done`: microseconds from there to the connection to the upstream. Absent where there was none.
pub const TIME_CONNECT_US: u32 = 44;
/// Attribute, in `on_done`: microseconds from there to the first byte of the response. Absent where none came.
pub const TIME_FIRST_BYTE_US: u32 = 45;
/// Attribute, in `on_done`: microseconds from the first byte of the request to the end of the exchange.
pub const TIME_TOTAL_US: u32 = 46;
/// Attribute, in `on_done`: address and port of the upstream's connection. Absent where there was none.
pub const UPSTREAM_ADDR: u32 = 47;
/// Attribute, in `on_done`: how often the request was sent again.
pub const RETRIES: u32 = 48;
/// Attribute, in `on_done`: `1` where the upstream's connection was used before.
pub const UPSTREAM_REUSED: u32 = 49;
/// Attribute, in `on_done`: the ticket of this plugin, where the exchange has ended in a pause that it asked for.
pub const TICKET: u32 = 50;

/// Flag of a plugin, or of `want`: its request hook waits for the whole body.
pub const WANT_REQUEST_BODY: u32 = 1;
/// Flag of a plugin, or of `want`: its response hook waits for the whole body.
pub const WANT_RESPONSE_BODY: u32 = 2;
/// Flag of a plugin, of `want` and of `want_body`: a body above the host's limit passes without this plugin, whose hook runs
/// all the same; `body_get` answers [`LIMIT`] then. Without the flag such a message is refused.
pub const BODY_OPTIONAL: u32 = 4;
/// All flags that this version knows.
pub const KNOWN_FLAGS: u32 = WANT_REQUEST_BODY | WANT_RESPONSE_BODY | BODY_OPTIONAL;

/// Kind of a metric: only grows.
pub const METRIC_COUNTER: u32 = 0;
/// Kind of a metric: goes up and down.
pub const METRIC_GAUGE: u32 = 1;

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

/// `want`
pub type WantFn = unsafe extern "C" fn(*mut Ctx, u32) -> Status;
/// `config_get`
pub type ConfigGetFn = unsafe extern "C" fn(*mut Ctx, Str, *mut Str) -> Status;
/// `metric_define`
pub type MetricDefineFn = unsafe extern "C" fn(*mut Ctx, u32, Str, Str, *mut u32) -> Status;
/// `metric_add`
pub type MetricAddFn = unsafe extern "C" fn(*mut Ctx, u32, i64) -> Status;
/// `resume`
pub type ResumeFn = unsafe extern "C" fn(*mut Ctx, u64, Verdict) -> Status;
/// `log_exchange`
pub type LogExchangeFn = unsafe extern "C" fn(*mut Exchange, i32, Str);
/// `access_add`
pub type AccessAddFn = unsafe extern "C" fn(*mut Exchange, Str, Str) -> Status;
/// `want_body`
pub type WantBodyFn = unsafe extern "C" fn(*mut Exchange, u32, u32) -> Status;
/// `pause`
pub type PauseFn = unsafe extern "C" fn(*mut Exchange, *mut u64) -> Status;

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
    /// Adds `WANT_...` flags to those of the descriptor, for a plugin whose configuration decides. Only in `create`.
    pub want: Option<WantFn>,
    /// A value of the configuration by its JSON pointer (RFC 6901): texts as they are, all else as JSON. Only in `create`.
    pub config_get: Option<ConfigGetFn>,
    /// Adds a metric of that kind, name and help; it appears in /metrics. Only in `create`.
    pub metric_define: Option<MetricDefineFn>,
    /// Adds to a metric. Any thread.
    pub metric_add: Option<MetricAddFn>,
    /// Ends a pause: `CONTINUE` runs the plugin's `on_resume`, `FAIL` is a failure of the plugin. Any thread. `NOT_FOUND` where
    /// the exchange is over, or was resumed before.
    pub resume: Option<ResumeFn>,
    /// Writes a message together with client, method and path.
    pub log_exchange: Option<LogExchangeFn>,
    /// Adds a pair to the exchange's line in the access log; the same key replaces. At most 8 of all plugins together, with
    /// keys of 64 bytes (a token, and none of the line's own) and values of 512.
    pub access_add: Option<AccessAddFn>,
    /// Asks for the body of a side in this exchange: when all of it is there, the body hook of that side runs.
    pub want_body: Option<WantBodyFn>,
    /// Makes a ticket; the hook then returns [`PAUSE`].
    pub pause: Option<PauseFn>,
}

/// `create`
pub type CreateFn = unsafe extern "C" fn(*const Host, *mut Ctx, Str, *mut *mut c_void) -> Status;
/// `on_request` and `on_response`
pub type HookFn = unsafe extern "C" fn(*mut c_void, *mut Exchange) -> Verdict;
/// `on_done`
pub type DoneFn = unsafe extern "C" fn(*mut c_void, *mut Exchange);
/// `destroy`
pub type DestroyFn = unsafe extern "C" fn(*mut c_void);
/// `on_resume`
pub type ResumeHookFn = unsafe extern "C" fn(*mut c_void, *mut Exchange, u64) -> Verdict;

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
    /// Makes an instance. Required. On the main thread, before its first request.
    pub create: Option<CreateFn>,
    /// Before forwarding.
    pub on_request: Option<HookFn>,
    /// After the upstream has responded.
    pub on_response: Option<HookFn>,
    /// After the exchange, read only.
    pub on_done: Option<DoneFn>,
    /// Frees the instance, after its last hook. Never on a thread that serves requests.
    pub destroy: Option<DestroyFn>,
    /// When the request's body is there that `want_body` asked for.
    pub on_request_body: Option<HookFn>,
    /// When the response's body is there that `want_body` asked for.
    pub on_response_body: Option<HookFn>,
    /// After `resume`, in the phase that was paused, on the exchange's thread.
    pub on_resume: Option<ResumeHookFn>,
}

/// The descriptor up to `on_response`: no plugin can do with less. What stands behind it may be missing.
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
        assert_eq!(size_of::<Host>(), 200);
        assert_eq!(size_of::<Plugin>(), 120);
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
            (offset_of!(Plugin, on_request_body), 96),
            (offset_of!(Plugin, on_response_body), 104),
            (offset_of!(Plugin, on_resume), 112),
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
            offset_of!(Host, want),
            offset_of!(Host, config_get),
            offset_of!(Host, metric_define),
            offset_of!(Host, metric_add),
            offset_of!(Host, resume),
            offset_of!(Host, log_exchange),
            offset_of!(Host, access_add),
            offset_of!(Host, want_body),
            offset_of!(Host, pause),
        ];
        for (index, offset) in table.into_iter().enumerate() {
            assert_eq!(offset, 8 + 8 * index);
        }
    }
}
