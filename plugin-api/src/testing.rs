//! A host in memory, for unit tests of plugins: no proxy, no socket.
//!
//! [`Instance`] makes a plugin through the same C descriptor that the proxy reads, and [`Exchange`] runs its hooks through
//! the same functions with the same checks (module [`crate::host`]), so that what passes here passes there.
//!
//! What it does not do: route, speak HTTP, order a chain. Limits are those of the proxy's defaults.
//!
//! ```
//! use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
//! use mini_rproxy_plugin::{Error, Logger, Plugin, RequestPhase, Verdict};
//!
//! struct Hello;
//! impl Plugin for Hello {
//!     const NAME: &'static str = "hello";
//!     fn create(_: Logger, _: &[u8]) -> Result<Self, Error> {
//!         Ok(Hello)
//!     }
//!     fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
//!         x.set_field("X-Hello", "world")?;
//!         Ok(Verdict::Continue)
//!     }
//! }
//!
//! let plugin = Instance::<Hello>::new("").unwrap();
//! let mut x = Exchange::new("POST", "/greet").field("Accept", "*/*");
//! assert_eq!(x.request(&plugin), Outcome::Continue);
//! assert_eq!(x.request_field("x-hello"), Some("world"));
//! ```

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi;
use crate::host::{Attr, Context, ExchangeAccess, ExchangeHandle, InstanceAccess, Limits, Pair, Phase, Side, table};
use crate::types::Level;
use crate::{Plugin, descriptor};

type Lines = Vec<(Vec<u8>, Vec<u8>)>;
type Messages = Vec<(Level, String)>;

/// A plugin, created as the proxy would create it.
#[derive(Debug)]
pub struct Instance<P: Plugin> {
    descriptor: abi::Plugin,
    this: *mut c_void,
    log: Arc<Mutex<Messages>>,
    _plugin: PhantomData<P>,
}

// SAFETY: `this` leads to a `P`, which is Send and Sync as the trait says, and is only read until the drop.
unsafe impl<P: Plugin> Send for Instance<P> {}
// SAFETY: as above.
unsafe impl<P: Plugin> Sync for Instance<P> {}

static TABLE: abi::Host = table::<TestAccess<'static>>();

impl<P: Plugin> Instance<P> {
    /// Creates the plugin with this configuration. An error holds what the plugin logged.
    pub fn new(config: impl AsRef<[u8]>) -> Result<Self, String> {
        let descriptor = *descriptor::<P>("test").raw();
        let log = Arc::new(Mutex::new(Messages::new()));
        let ctx = Context::new(Box::new(LogBuffer(Arc::clone(&log)))).as_ctx();
        let mut this = std::ptr::null_mut();
        let create = descriptor.create.expect("descriptor sets it");
        // SAFETY: the descriptor of `descriptor`, a static table, a context that stays, and arguments that outlive the call.
        let status = unsafe { create(&TABLE, ctx, abi::Str::new(config.as_ref()), &mut this) };
        let instance = Instance { descriptor, this, log, _plugin: PhantomData };
        if status == abi::OK { Ok(instance) } else { Err(instance.texts().join("\n")) }
    }

    /// What the plugin has logged.
    pub fn log(&self) -> Vec<(Level, String)> {
        self.messages().clone()
    }

    fn texts(&self) -> Vec<String> {
        self.messages().iter().map(|(_, text)| text.clone()).collect()
    }

    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Plugin> Drop for Instance<P> {
    fn drop(&mut self) {
        if let Some(destroy) = self.descriptor.destroy {
            // SAFETY: `this` is what `create` made (or null, which destroy ignores), and no hook is running.
            unsafe { destroy(self.this) }
        }
    }
}

struct LogBuffer(Arc<Mutex<Messages>>);

impl InstanceAccess for LogBuffer {
    fn is_enabled(&self, _: Level) -> bool {
        true
    }

    fn log(&self, level: Level, message: &[u8]) {
        let text = String::from_utf8_lossy(message).into_owned();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((level, text));
    }
}

/// What a hook led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Continue,
    /// The plugin answers.
    Respond(Answer),
    /// 502; the reason is in [`Instance::log`].
    Fail,
}

impl Outcome {
    /// The status that the client gets from the plugin; `None` where the exchange goes on.
    pub fn status(&self) -> Option<u16> {
        match self {
            Outcome::Continue => None,
            Outcome::Respond(answer) => Some(answer.status),
            Outcome::Fail => Some(502),
        }
    }

    /// The value of a field of the plugin's answer, if it gave one.
    pub fn field(&self, name: &str) -> Option<&str> {
        match self {
            Outcome::Respond(answer) => find(&answer.fields, name),
            Outcome::Continue | Outcome::Fail => None,
        }
    }
}

/// A plugin's own answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599
    pub status: u16,
    /// As the plugin gave them.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// As the plugin gave it.
    pub body: Vec<u8>,
}

/// One request and, later, its response.
#[derive(Clone, Debug)]
pub struct Exchange {
    method: Vec<u8>,
    target: Vec<u8>,
    original_target: Vec<u8>,
    authority: Vec<u8>,
    client: Option<String>,
    route_prefix: String,
    upstream: String,
    request: Lines,
    request_body: Vec<u8>,
    /// The status as text, empty before there is a response.
    status: String,
    response: Lines,
    response_body: Vec<u8>,
    values: Lines,
    limits: Limits,
}

impl Exchange {
    /// A GET from 192.0.2.1.
    pub fn get(target: &str) -> Exchange {
        Exchange::new("GET", target)
    }

    /// A request from 192.0.2.1.
    pub fn new(method: &str, target: &str) -> Exchange {
        Exchange {
            method: method.into(),
            target: target.into(),
            original_target: target.into(),
            authority: b"upstream.example".to_vec(),
            client: Some("192.0.2.1".to_owned()),
            route_prefix: "/".to_owned(),
            upstream: "upstream.example".to_owned(),
            request: Lines::new(),
            request_body: Vec::new(),
            status: String::new(),
            response: Lines::new(),
            response_body: Vec::new(),
            values: Lines::new(),
            limits: Limits { head_bytes: 16 * 1024, field_lines: 256, body_bytes: 1024 * 1024 },
        }
    }

    /// The same with one more field line in the request.
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Exchange {
        self.request.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// The same with a request body.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Exchange {
        self.request_body = body.as_ref().to_vec();
        self
    }

    /// The same from another address; `None` stands for a unix socket.
    pub fn client(mut self, address: Option<&str>) -> Exchange {
        self.client = address.map(str::to_owned);
        self
    }

    /// The same with other limits.
    pub fn limits(mut self, limits: Limits) -> Exchange {
        self.limits = limits;
        self
    }

    /// What the upstream answers: call it before [`Self::response`].
    pub fn upstream_answers(&mut self, status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) {
        self.status = status.to_string();
        self.response = fields.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        self.response_body = body.as_ref().to_vec();
    }

    /// Runs `on_request`.
    pub fn request<P: Plugin>(&mut self, plugin: &Instance<P>) -> Outcome {
        self.hook(plugin, Phase::Request, plugin.descriptor.on_request)
    }

    /// Runs `on_response`.
    pub fn response<P: Plugin>(&mut self, plugin: &Instance<P>) -> Outcome {
        self.hook(plugin, Phase::Response, plugin.descriptor.on_response)
    }

    /// Runs `on_done`.
    pub fn done<P: Plugin>(&mut self, plugin: &Instance<P>) {
        if let Some(on_done) = plugin.descriptor.on_done {
            let mut handle = ExchangeHandle::new(TestAccess::new(self, Phase::Done, plugin.descriptor.flags));
            // SAFETY: the hook of the instance with its own `this`, and an exchange that is valid for the call.
            unsafe { on_done(plugin.this, handle.as_exchange()) }
        }
    }

    fn hook<P: Plugin>(&mut self, plugin: &Instance<P>, phase: Phase, hook: Option<abi::HookFn>) -> Outcome {
        let Some(hook) = hook else { return Outcome::Continue };
        let mut handle = ExchangeHandle::new(TestAccess::new(self, phase, plugin.descriptor.flags));
        // SAFETY: the hook of the instance with its own `this`, and an exchange that is valid for the call.
        let verdict = unsafe { hook(plugin.this, handle.as_exchange()) };
        match (verdict, handle.into_access().answer) {
            (abi::CONTINUE, _) => Outcome::Continue,
            (abi::RESPOND, Some(answer)) => Outcome::Respond(answer),
            (_, _) => Outcome::Fail,
        }
    }

    /// Runs a request hook by its descriptor.
    #[cfg(test)]
    pub(crate) fn run(&mut self, hook: abi::HookFn, this: *mut c_void) -> abi::Verdict {
        let mut handle = ExchangeHandle::new(TestAccess::new(self, Phase::Request, 0));
        // SAFETY: the caller passes a hook with its own `this`.
        unsafe { hook(this, handle.as_exchange()) }
    }

    /// The method as it would be sent.
    pub fn method(&self) -> &str {
        text(&self.method)
    }

    /// The target as it would be sent.
    pub fn target(&self) -> &str {
        text(&self.target)
    }

    /// The Host as it would be sent.
    pub fn authority(&self) -> &str {
        text(&self.authority)
    }

    /// A field of the request as it would be sent.
    pub fn request_field(&self, name: &str) -> Option<&str> {
        find(&self.request, name)
    }

    /// All field lines of the request as they would be sent.
    pub fn request_fields(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.request
    }

    /// The request body as it would be sent.
    pub fn request_body(&self) -> &[u8] {
        &self.request_body
    }

    /// The status as the client would see it; 0 before there is one.
    pub fn status(&self) -> u16 {
        self.status.parse().unwrap_or(0)
    }

    /// A field of the response as the client would see it.
    pub fn response_field(&self, name: &str) -> Option<&str> {
        find(&self.response, name)
    }

    /// All field lines of the response as the client would see them.
    pub fn response_fields(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.response
    }

    /// The response body as the client would see it.
    pub fn response_body(&self) -> &[u8] {
        &self.response_body
    }

    /// A value that plugins share.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(other, _)| other == key.as_bytes()).map(|(_, value)| text(value))
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what a test looks at is UTF-8")
}

fn find<'a>(lines: &'a Lines, name: &str) -> Option<&'a str> {
    lines.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| text(value))
}

/// What the C functions act upon during one hook.
pub(crate) struct TestAccess<'a> {
    exchange: &'a mut Exchange,
    phase: Phase,
    flags: u32,
    answer: Option<Answer>,
}

impl<'a> TestAccess<'a> {
    fn new(exchange: &'a mut Exchange, phase: Phase, flags: u32) -> Self {
        TestAccess { exchange, phase, flags, answer: None }
    }

    fn lines(&self, side: Side) -> &Lines {
        match side {
            Side::Request => &self.exchange.request,
            Side::Response => &self.exchange.response,
        }
    }

    fn lines_mut(&mut self, side: Side) -> &mut Lines {
        match side {
            Side::Request => &mut self.exchange.request,
            Side::Response => &mut self.exchange.response,
        }
    }
}

impl ExchangeAccess for TestAccess<'_> {
    fn phase(&self) -> Phase {
        self.phase
    }

    fn flags(&self) -> u32 {
        self.flags
    }

    fn limits(&self) -> Limits {
        self.exchange.limits
    }

    fn attr(&self, attr: Attr) -> Option<&[u8]> {
        let x = &*self.exchange;
        match attr {
            Attr::Method => Some(&x.method),
            Attr::Target => Some(&x.target),
            Attr::Authority => Some(&x.authority),
            Attr::Status => Some(x.status.as_bytes()).filter(|status| !status.is_empty()),
            Attr::ClientAddr => x.client.as_deref().map(str::as_bytes),
            Attr::RoutePrefix => Some(x.route_prefix.as_bytes()),
            Attr::Upstream => Some(x.upstream.as_bytes()),
            Attr::OriginalTarget => Some(&x.original_target),
            _ => None,
        }
    }

    fn set_attr(&mut self, attr: Attr, value: &[u8]) {
        match attr {
            Attr::Method => self.exchange.method = value.to_vec(),
            Attr::Target => self.exchange.target = value.to_vec(),
            Attr::Authority => self.exchange.authority = value.to_vec(),
            _ => {}
        }
    }

    fn set_status(&mut self, status: u16) {
        self.exchange.status = status.to_string();
    }

    fn field_count(&self, side: Side) -> usize {
        self.lines(side).len()
    }

    fn field_at(&self, side: Side, index: usize) -> Option<Pair<'_>> {
        self.lines(side).get(index).map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    fn set_field(&mut self, side: Side, name: &[u8], value: &[u8]) {
        let mut first = Some(value);
        self.lines_mut(side).retain_mut(|line| match first.take_if(|_| line.0.eq_ignore_ascii_case(name)) {
            Some(value) => {
                line.1 = value.to_vec();
                true
            }
            None => first.is_some() || !line.0.eq_ignore_ascii_case(name),
        });
        if first.is_some() {
            self.add_field(side, name, value);
        }
    }

    fn add_field(&mut self, side: Side, name: &[u8], value: &[u8]) {
        self.lines_mut(side).push((name.to_vec(), value.to_vec()));
    }

    fn remove_field(&mut self, side: Side, name: &[u8]) -> bool {
        let before = self.lines(side).len();
        self.lines_mut(side).retain(|line| !line.0.eq_ignore_ascii_case(name));
        self.lines(side).len() < before
    }

    fn values(&self) -> &Lines {
        &self.exchange.values
    }

    fn values_mut(&mut self) -> &mut Lines {
        &mut self.exchange.values
    }

    fn body(&self, side: Side) -> Option<&[u8]> {
        let x = &*self.exchange;
        match side {
            Side::Request => Some(x.request_body.as_slice()).filter(|_| self.phase == Phase::Request),
            Side::Response if x.method == b"HEAD" || matches!(x.status.as_str(), "204" | "304") => None,
            Side::Response => Some(x.response_body.as_slice()).filter(|_| self.phase == Phase::Response),
        }
    }

    fn set_body(&mut self, side: Side, body: Vec<u8>) {
        match side {
            Side::Request => self.exchange.request_body = body,
            Side::Response => self.exchange.response_body = body,
        }
    }

    fn set_answer(&mut self, status: u16, fields: Lines, body: Vec<u8>) {
        self.answer = Some(Answer { status, fields, body });
    }
}
