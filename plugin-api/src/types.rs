//! The small types of the SDK: verdicts, errors, the logger, what a plugin needs, and its descriptor.

use std::fmt;

use crate::abi;

/// What a hook decided.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Go on: the next plugin, then the upstream or the client.
    Continue,
    /// This plugin has answered. Only `respond` of a phase makes the token, so there is no such verdict without an answer.
    Respond(ResponseToken),
    /// The exchange waits. Only [`Pause::verdict`](crate::Pause::verdict) makes the token.
    Pause(PauseToken),
}

/// Proof that `respond` was called.
#[derive(Debug)]
pub struct ResponseToken(pub(crate) ());

/// Proof that `pause` was called.
#[derive(Debug)]
pub struct PauseToken(pub(crate) ());

/// Why a plugin failed. The text goes to the log, never to the client.
///
/// Any [`std::error::Error`] turns into it with `?`.
pub struct Error(String);

impl Error {
    /// An error with this text.
    pub fn new(message: impl Into<String>) -> Error {
        Error(message.into())
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `Error` itself is no `std::error::Error`: this conversion could not exist beside the one from itself.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        Error(error.to_string())
    }
}

/// Why the host did not do what a plugin asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// There is no such thing.
    NotFound,
    /// A name that is no token, a value with CR, LF or NUL, a target that is none.
    Invalid,
    /// Not in this phase.
    WrongPhase,
    /// Larger than a limit of the host.
    Limit,
    /// This host is older than the function, or the plugin did not ask for it in [`crate::Plugin::NEEDS`].
    Unsupported,
    /// The host keeps this to itself: framing and connection fields, for example.
    Denied,
    /// A newer host's reason.
    Other(i32),
}

impl HostError {
    pub(crate) fn check(status: abi::Status) -> Result<(), HostError> {
        match status {
            abi::OK => Ok(()),
            abi::NOT_FOUND => Err(HostError::NotFound),
            abi::INVALID => Err(HostError::Invalid),
            abi::WRONG_PHASE => Err(HostError::WrongPhase),
            abi::LIMIT => Err(HostError::Limit),
            abi::UNSUPPORTED => Err(HostError::Unsupported),
            abi::DENIED => Err(HostError::Denied),
            other => Err(HostError::Other(other)),
        }
    }

    /// The number that stands for it in the binary interface.
    pub fn status(self) -> abi::Status {
        match self {
            HostError::NotFound => abi::NOT_FOUND,
            HostError::Invalid => abi::INVALID,
            HostError::WrongPhase => abi::WRONG_PHASE,
            HostError::Limit => abi::LIMIT,
            HostError::Unsupported => abi::UNSUPPORTED,
            HostError::Denied => abi::DENIED,
            HostError::Other(status) => status,
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::NotFound => f.write_str("there is no such thing"),
            HostError::Invalid => f.write_str("not a valid name or value"),
            HostError::WrongPhase => f.write_str("not in this phase"),
            HostError::Limit => f.write_str("larger than a limit of the host"),
            HostError::Unsupported => f.write_str("unknown to this host, or not asked for in NEEDS"),
            HostError::Denied => f.write_str("only the host may write this"),
            HostError::Other(status) => write!(f, "refused by the host with status {status}"),
        }
    }
}

impl std::error::Error for HostError {}

/// What a plugin needs before its hooks can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs(u32);

impl Needs {
    /// Heads only; bodies stream past.
    pub const NOTHING: Needs = Needs(0);
    /// `on_request` waits for the whole request body. A body above the host's limit is answered with 413.
    pub const REQUEST_BODY: Needs = Needs(abi::WANT_REQUEST_BODY);
    /// `on_response` waits for the whole response body. A body above the host's limit is answered with 502.
    pub const RESPONSE_BODY: Needs = Needs(abi::WANT_RESPONSE_BODY);

    /// Both.
    pub const fn and(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }

    /// The same, but a body above the host's limit passes without this plugin: its hook runs all the same, and
    /// `body_is_too_large` tells.
    pub const fn optional(self) -> Needs {
        self.and(Needs(abi::BODY_OPTIONAL))
    }

    pub(crate) const fn flags(self) -> u32 {
        self.0
    }
}

/// What becomes of a message whose body is above the host's limit (`plugin_body_limit`), when a hook asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// It is refused: 413 for a request, 502 for a response.
    Refuse,
    /// It passes without this plugin: the body hook runs, and `body_is_too_large` tells.
    Skip,
}

impl Oversize {
    pub(crate) const fn flags(self) -> u32 {
        match self {
            Oversize::Refuse => 0,
            Oversize::Skip => abi::BODY_OPTIONAL,
        }
    }
}

/// How important a log message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something is odd.
    Warn,
    /// Something worth knowing happened.
    Info,
    /// For the search for a fault.
    Debug,
}

impl Level {
    /// The number that stands for it in the binary interface.
    pub const fn number(self) -> i32 {
        match self {
            Level::Error => abi::LOG_ERROR,
            Level::Warn => abi::LOG_WARN,
            Level::Info => abi::LOG_INFO,
            Level::Debug => abi::LOG_DEBUG,
        }
    }

    /// The level that `number` stands for; numbers outside count as the nearest one.
    pub const fn from_number(number: i32) -> Level {
        match number {
            ..=abi::LOG_ERROR => Level::Error,
            abi::LOG_WARN => Level::Warn,
            abi::LOG_INFO => Level::Info,
            _ => Level::Debug,
        }
    }
}

/// Writes into the host's log, under the plugin's name. A copy may be kept and used from any thread.
#[derive(Clone, Copy, Debug)]
pub struct Logger {
    enabled: Option<abi::LogEnabledFn>,
    write: Option<abi::LogFn>,
    ctx: *mut abi::Ctx,
}

// SAFETY: the interface promises that the two log functions may be called with this ctx from any thread, until the
// process ends; the pointer is never used for anything else.
unsafe impl Send for Logger {}
// SAFETY: as above.
unsafe impl Sync for Logger {}

impl Logger {
    pub(crate) fn new(host: &abi::Host, ctx: *mut abi::Ctx) -> Logger {
        Logger { enabled: host.log_enabled, write: host.log, ctx }
    }

    /// Whether a message of that level would be written.
    pub fn is_enabled(&self, level: Level) -> bool {
        match self.enabled {
            // SAFETY: the host's function with the ctx that it gave for it; see `unsafe impl Send`.
            Some(enabled) => unsafe { enabled(self.ctx, level.number()) != 0 },
            None => false,
        }
    }

    /// Writes a message. `format_args!` and strings both fit; nothing is formatted where the level is off.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        if let Some(write) = self.write
            && self.is_enabled(level)
        {
            let text = message.to_string();
            // SAFETY: the host's function with the ctx that it gave for it; the text lives until the call returns.
            unsafe { write(self.ctx, level.number(), abi::Str::new(text.as_bytes())) }
        }
    }

    /// Something does not work.
    pub fn error(&self, message: impl fmt::Display) {
        self.log(Level::Error, message);
    }

    /// Something is odd.
    pub fn warn(&self, message: impl fmt::Display) {
        self.log(Level::Warn, message);
    }

    /// Something worth knowing happened.
    pub fn info(&self, message: impl fmt::Display) {
        self.log(Level::Info, message);
    }

    /// For the search for a fault.
    pub fn debug(&self, message: impl fmt::Display) {
        self.log(Level::Debug, message);
    }
}

/// A plugin's descriptor, ready to be exported from a shared object or to be linked into the proxy.
#[repr(transparent)]
#[derive(Debug)]
pub struct Descriptor(pub(crate) abi::Plugin);

// SAFETY: the descriptor is never written, and what its pointers lead to is 'static: string literals and functions.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    /// The descriptor as the host reads it.
    pub const fn raw(&self) -> &abi::Plugin {
        &self.0
    }

    /// The plugin's name.
    pub fn name(&self) -> &'static str {
        // SAFETY: `descriptor` is the only constructor, and it takes the name from a `&'static str`.
        let bytes = unsafe { self.0.name.bytes() };
        bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }
}
