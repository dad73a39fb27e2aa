//! From the [`Plugin`] trait to the descriptor of C functions.
//!
//! Every entry catches panics: a panic that leaves a C function ends the process. A payload that is no text is forgotten,
//! not dropped, because its destructor may panic too.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::Plugin;
use crate::abi::{self, Status};
use crate::pause::{Continuation, abandon};
use crate::phase::{DonePhase, RequestPhase, ResponsePhase};
use crate::setup::{HostLink, Setup};
use crate::types::{Descriptor, Error, Logger, Verdict};

/// The descriptor of plugin `P`.
///
/// [`export_plugin!`](crate::export_plugin) puts it into a shared object; a static build lists it by itself.
pub const fn descriptor<P: Plugin>(version: &'static str) -> Descriptor {
    Descriptor(abi::Plugin {
        magic: abi::MAGIC,
        abi_major: abi::ABI_MAJOR,
        abi_minor: abi::ABI_MINOR,
        struct_size: size_of::<abi::Plugin>() as u32,
        // Nothing here needs more than the first host offers: what is newer answers `HostError::Unsupported`.
        min_host_minor: 0,
        reserved0: 0,
        flags: P::NEEDS.flags(),
        reserved1: 0,
        name: abi::Str::new(P::NAME.as_bytes()),
        version: abi::Str::new(version.as_bytes()),
        create: Some(create::<P>),
        on_request: Some(on_request::<P>),
        on_response: Some(on_response::<P>),
        on_done: Some(on_done::<P>),
        destroy: Some(destroy::<P>),
        on_request_body: Some(on_request_body::<P>),
        on_response_body: Some(on_response_body::<P>),
        on_resume: Some(on_resume::<P>),
    })
}

/// What `self` points to.
struct Instance<P> {
    host: Arc<HostLink>,
    plugin: P,
}

/// Copies as much of the host's table as both sides know.
///
/// # Safety
/// `host` must be null or point to a table of which `struct_size` bytes are readable.
unsafe fn copy_table(host: *const abi::Host) -> Option<abi::Host> {
    if host.is_null() {
        return None;
    }
    // SAFETY: the size is the table's first member, in every version.
    let size = unsafe { (&raw const (*host).struct_size).read() } as usize;
    if size < abi::MIN_HOST_SIZE {
        return None;
    }
    let mut copy = std::mem::MaybeUninit::<abi::Host>::zeroed();
    let len = size.min(size_of::<abi::Host>());
    // SAFETY: `len` bytes are readable there (the host says so) and writable here; the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(host.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), len) };
    // SAFETY: all bytes are set; zeros are a valid table, since functions are `Option`s and the rest are integers.
    let mut copy = unsafe { copy.assume_init() };
    if len < size_of::<abi::Host>() && !(len - 8).is_multiple_of(size_of::<usize>()) {
        // A size between two functions would leave us half a pointer: no host has such a table.
        return None;
    }
    copy.struct_size = len as u32;
    (copy.abi_major == abi::ABI_MAJOR).then_some(copy)
}

/// The text of a panic. A payload that is no text is forgotten, not dropped.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(payload) => {
                std::mem::forget(payload);
                "no text".to_owned()
            }
        },
    }
}

/// Runs `body`; a panic or an error in it is logged, and `None`.
fn contain<T>(log: &Logger, entry: &str, body: impl FnOnce() -> Result<T, Error>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            log.error(format_args!("{entry}: {error}"));
            None
        }
        Err(payload) => {
            log.error(format_args!("{entry} panicked: {}", panic_text(payload)));
            None
        }
    }
}

unsafe extern "C" fn create<P: Plugin>(
    host: *const abi::Host,
    ctx: *mut abi::Ctx,
    config: abi::Str,
    out: *mut *mut c_void,
) -> Status {
    // SAFETY: the host passes its table, as the interface says.
    let Some(host) = (unsafe { copy_table(host) }) else { return abi::UNSUPPORTED };
    // SAFETY: the host lends the configuration for this call.
    let (Some(config), false) = (unsafe { config.bytes() }, out.is_null()) else { return abi::INVALID };
    let host = Arc::new(HostLink::new(host, ctx));
    let setup = Setup { host: Arc::clone(&host) };
    let made = contain(&setup, "create", || {
        let plugin = P::create(&setup, config)?;
        Ok(Box::into_raw(Box::new(Instance { host, plugin })))
    });
    match made {
        Some(instance) => {
            // SAFETY: not null, and the host lends it for this call.
            unsafe { out.write(instance.cast()) };
            abi::OK
        }
        None => abi::INVALID,
    }
}

/// # Safety
/// `this` must come from `create::<P>` and must not have been destroyed.
unsafe fn instance<'a, P>(this: *mut c_void) -> &'a Instance<P> {
    // SAFETY: `create` made it from a Box of that very type, and nothing writes to it until `destroy`.
    unsafe { &*this.cast::<Instance<P>>() }
}

/// Runs a hook of the request phase.
///
/// # Safety
/// `this` as for [`instance`]; `x` must be the exchange that the host lends for this hook, in the request phase.
unsafe fn in_request<P: Plugin>(
    this: *mut c_void,
    x: *mut abi::Exchange,
    entry: &str,
    hook: impl FnOnce(&P, &mut RequestPhase<'_>) -> Result<Verdict, Error>,
) -> abi::Verdict {
    // SAFETY: passed on to the caller.
    let Instance { host, plugin } = unsafe { instance::<P>(this) };
    // SAFETY: as above.
    let mut phase = unsafe { RequestPhase::new(host, x) };
    let result = contain(&host.log, entry, || hook(plugin, &mut phase));
    verdict(host, entry, result, phase.ticket)
}

/// Runs a hook of the response phase.
///
/// # Safety
/// As [`in_request`], in the response phase.
unsafe fn in_response<P: Plugin>(
    this: *mut c_void,
    x: *mut abi::Exchange,
    entry: &str,
    hook: impl FnOnce(&P, &mut ResponsePhase<'_>) -> Result<Verdict, Error>,
) -> abi::Verdict {
    // SAFETY: passed on to the caller.
    let Instance { host, plugin } = unsafe { instance::<P>(this) };
    // SAFETY: as above.
    let mut phase = unsafe { ResponsePhase::new(host, x) };
    let result = contain(&host.log, entry, || hook(plugin, &mut phase));
    verdict(host, entry, result, phase.ticket)
}

unsafe extern "C" fn on_request<P: Plugin>(this: *mut c_void, x: *mut abi::Exchange) -> abi::Verdict {
    // SAFETY: the host passes what `create` returned, and the exchange.
    unsafe { in_request::<P>(this, x, "on_request", P::on_request) }
}

unsafe extern "C" fn on_request_body<P: Plugin>(this: *mut c_void, x: *mut abi::Exchange) -> abi::Verdict {
    // SAFETY: as above.
    unsafe { in_request::<P>(this, x, "on_request_body", P::on_request_body) }
}

unsafe extern "C" fn on_response<P: Plugin>(this: *mut c_void, x: *mut abi::Exchange) -> abi::Verdict {
    // SAFETY: as above.
    unsafe { in_response::<P>(this, x, "on_response", P::on_response) }
}

unsafe extern "C" fn on_response_body<P: Plugin>(this: *mut c_void, x: *mut abi::Exchange) -> abi::Verdict {
    // SAFETY: as above.
    unsafe { in_response::<P>(this, x, "on_response_body", P::on_response_body) }
}

unsafe extern "C" fn on_resume<P: Plugin>(this: *mut c_void, x: *mut abi::Exchange, ticket: u64) -> abi::Verdict {
    // SAFETY: as above.
    match unsafe { instance::<P>(this) }.host.take_continuation(ticket) {
        // SAFETY: as above; `pause` in the request phase made it, and the host resumes in the phase that was paused.
        Some(Continuation::Request(then)) => unsafe { in_request::<P>(this, x, "on_resume", |_, x| then(x)) },
        // SAFETY: likewise in the response phase.
        Some(Continuation::Response(then)) => unsafe { in_response::<P>(this, x, "on_resume", |_, x| then(x)) },
        None => abi::FAIL,
    }
}

/// What a hook returns; `ticket` is that of its pause, which it need not end in.
fn verdict(host: &HostLink, entry: &str, result: Option<Verdict>, ticket: Option<u64>) -> abi::Verdict {
    if let Some(ticket) = ticket
        && !matches!(result, Some(Verdict::Pause(_)))
    {
        contain(&host.log, entry, || {
            abandon(host, ticket);
            Ok(())
        });
    }
    match result {
        Some(Verdict::Continue) => abi::CONTINUE,
        Some(Verdict::Respond(_)) => abi::RESPOND,
        Some(Verdict::Pause(_)) => abi::PAUSE,
        None => abi::FAIL,
    }
}

unsafe extern "C" fn on_done<P: Plugin>(this: *mut c_void, x: *mut abi::Exchange) {
    // SAFETY: the host passes what `create` returned.
    let Instance { host, plugin } = unsafe { instance::<P>(this) };
    contain(&host.log, "on_done", || {
        // SAFETY: the exchange that the host lends for this hook.
        let done = unsafe { DonePhase::new(host, x) };
        // It was resumed, but has ended before it went on.
        drop(done.ticket().and_then(|ticket| host.take_continuation(ticket)));
        plugin.on_done(&done);
        Ok(())
    });
}

unsafe extern "C" fn destroy<P: Plugin>(this: *mut c_void) {
    if this.is_null() {
        return;
    }
    // SAFETY: `create` made it from such a Box, and the host destroys it once.
    let instance = unsafe { Box::from_raw(this.cast::<Instance<P>>()) };
    let log = instance.host.log;
    contain(&log, "destroy", move || {
        drop(instance);
        Ok(())
    });
}

/// Exports a [`Plugin`] from a shared object, under the symbol that mini-rproxy looks for. Its version is that of the
/// crate which calls the macro.
///
/// Call it once, and only in the crate that is built as a `cdylib`: two plugins that are linked into one binary would
/// both claim the symbol. Keep the logic in a library crate; the wrapper is this one line.
///
/// ```ignore
/// mini_rproxy_plugin::export_plugin!(my_plugin::MyPlugin);
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        /// What mini-rproxy looks for.
        #[allow(unsafe_code, non_upper_case_globals)]
        // SAFETY: the name belongs to this interface, and nothing else in a plugin has a reason to use it.
        #[unsafe(no_mangle)]
        pub static MiniRProxyPluginInstance: $crate::Descriptor =
            $crate::descriptor::<$plugin>(env!("CARGO_PKG_VERSION"));
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::table;
    use crate::testing::Exchange;
    use crate::{HostError, RequestPhase};
    use std::mem::offset_of;

    /// Tries every function of the table that a request hook may use, and remembers what was unsupported.
    struct Tries;

    impl Plugin for Tries {
        const NAME: &'static str = "tries";

        fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
            Ok(Tries)
        }

        fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
            assert_eq!(x.method(), b"GET", "older than what is cut");
            x.set_field("x-tries", "1")?;
            assert_eq!(x.set_value("key", "value"), Err(HostError::Unsupported));
            assert_eq!(x.value("key"), None);
            assert_eq!(x.remove_value("key"), Err(HostError::Unsupported));
            assert_eq!(x.respond(200, &[], "").map(|_| ()), Err(HostError::Unsupported));
            assert_eq!(x.body(), None);
            assert_eq!(x.set_body(""), Err(HostError::Unsupported));
            Ok(Verdict::Continue)
        }
    }

    #[test]
    fn r07_functions_that_an_older_host_lacks_are_unsupported() {
        let mut host = table::<crate::testing::TestAccess<'static>>();
        host.struct_size = offset_of!(abi::Host, value_get) as u32;
        // What stands behind the end of an older table is anything but a function.
        let garbage = abi::Host { value_set: None, respond: None, body_get: None, body_set: None, ..host };
        let descriptor = descriptor::<Tries>("1").0;
        let mut this = std::ptr::null_mut();
        let create = descriptor.create.expect("set");
        // SAFETY: a table, no context (the host's log functions take null), and a place for the result.
        let status = unsafe { create(&garbage, std::ptr::null_mut(), abi::Str::NULL, &mut this) };
        assert_eq!(status, abi::OK);
        let mut x = Exchange::get("/");
        assert_eq!(x.run(descriptor.on_request.expect("set"), this), abi::CONTINUE);
        assert_eq!(x.request_field("x-tries"), Some("1"));
        // SAFETY: made above, and not used again.
        unsafe { descriptor.destroy.expect("set")(this) }
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        let whole = table::<crate::testing::TestAccess<'static>>();
        let change = |change: fn(&mut abi::Host)| {
            let mut host = whole;
            change(&mut host);
            host
        };
        let rows = [
            ("whole", whole, true),
            ("newer", change(|host| host.struct_size += 80), true),
            ("newer minor", change(|host| host.abi_minor = 7), true),
            ("other major", change(|host| host.abi_major = 2), false),
            ("no functions", change(|host| host.struct_size = 8), false),
            ("half a function", change(|host| host.struct_size = 60), false),
        ];
        for (name, host, expected) in rows {
            // SAFETY: a table with at least as many bytes as are read: no more than our own size.
            assert_eq!(unsafe { copy_table(&host) }.is_some(), expected, "{name}");
        }
        // SAFETY: null is allowed.
        assert!(unsafe { copy_table(std::ptr::null()) }.is_none());
    }
}
