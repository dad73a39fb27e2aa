//! A host in memory, for unit tests of plugins: no proxy, no socket.
//!
//! [`Instance`] makes a plugin through the same C descriptor that the proxy reads, and [`Exchange`] runs its hooks through
//! the same functions with the same checks (module [`crate::host`]), so that what passes here passes there.
//!
//! What it does not do: route, speak HTTP, order a chain. Limits are those of the proxy's defaults.
//!
//! ```
//! use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
//! use mini_rproxy_plugin::{Error, Plugin, RequestPhase, Setup, Verdict};
//!
//! struct Hello;
//! impl Plugin for Hello {
//!     const NAME: &'static str = "hello";
//!     fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
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

mod access;
mod instance;
mod pointer;

use std::cell::RefCell;
#[cfg(test)]
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use access::TestAccess;
pub use instance::Instance;
use instance::{Messages, Ticket};

pub use crate::host::{Attr, Limits};
use crate::host::{ExchangeHandle, Phase};
use crate::types::Level;
use crate::{Plugin, Side, abi};

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

/// What a hook led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Continue,
    /// The plugin answers.
    Respond(Answer),
    /// 502; the reason is in [`Instance::log`].
    Fail,
    /// It waits: see [`Exchange::resumed`].
    Pause,
    /// A body above [`Limits::body_bytes`], which the plugin does not want to let pass: 413, or 502 for a response.
    TooLarge(u16),
}

impl Outcome {
    /// The status that the client gets from the plugin; `None` where the exchange goes on.
    pub fn status(&self) -> Option<u16> {
        match self {
            Outcome::Continue | Outcome::Pause => None,
            Outcome::Respond(answer) => Some(answer.status),
            Outcome::Fail => Some(502),
            Outcome::TooLarge(status) => Some(*status),
        }
    }

    /// The value of a field of the plugin's answer, if it gave one.
    pub fn field(&self, name: &str) -> Option<&str> {
        match self {
            Outcome::Respond(answer) => find(&answer.fields, name),
            Outcome::Continue | Outcome::Pause | Outcome::Fail | Outcome::TooLarge(_) => None,
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
    /// `upstream`, `proxy` or `plugin`.
    source: &'static str,
    values: Lines,
    limits: Limits,
    /// Those that a test has set.
    attrs: Vec<(Attr, Option<String>)>,
    /// What plugins asked for at the head, each with its instance: flags of [`abi`].
    wants: Vec<(usize, Side, u32)>,
    paused: Option<Paused>,
    access: Lines,
    log: RefCell<Messages>,
}

/// Where the exchange goes on after a pause.
#[derive(Clone, Debug)]
struct Paused {
    ticket: Arc<Ticket>,
    /// The address of the instance.
    this: usize,
    phase: Phase,
    is_body: bool,
}

/// Which function of the plugin runs next.
enum Entry {
    Hook(Option<abi::HookFn>),
    Resume(Option<abi::ResumeHookFn>, u64),
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
            source: "upstream",
            values: Lines::new(),
            limits: Limits { head_bytes: 16 * 1024, field_lines: 256, body_bytes: 1024 * 1024 },
            attrs: Vec::new(),
            wants: Vec::new(),
            paused: None,
            access: Lines::new(),
            log: RefCell::default(),
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

    /// The same with another value of an attribute that is only read: `attr(Attr::TlsVersion, "TLSv1.3")`.
    pub fn attr(mut self, attr: Attr, value: impl ToString) -> Exchange {
        self.attrs.insert(0, (attr, Some(value.to_string())));
        self
    }

    /// The same without that attribute.
    pub fn without(mut self, attr: Attr) -> Exchange {
        self.attrs.insert(0, (attr, None));
        self
    }

    /// What the upstream answers: call it before [`Self::response`].
    pub fn upstream_answers(&mut self, status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) {
        let line = |&(name, value): &(&str, &str)| (name.into(), value.into());
        self.set_response("upstream", status, fields.iter().map(line).collect(), body.as_ref().to_vec());
    }

    /// An answer of the proxy itself, such as 502 where no upstream was reached: call it before [`Self::response`].
    pub fn proxy_answers(&mut self, status: u16, body: impl AsRef<[u8]>) {
        self.set_response("proxy", status, Lines::new(), body.as_ref().to_vec());
    }

    fn set_response(&mut self, source: &'static str, status: u16, fields: Lines, body: Vec<u8>) {
        (self.source, self.status) = (source, status.to_string());
        (self.response, self.response_body) = (fields, body);
    }

    /// Runs `on_request`, and `on_request_body` where it asks for the body. What it answers is the response from then on.
    pub fn request<P: Plugin>(&mut self, plugin: &Instance<P>) -> Outcome {
        self.start(plugin, Phase::Request, plugin.descriptor.on_request)
    }

    /// Runs `on_response`, and `on_response_body` where the plugin has asked for the body.
    pub fn response<P: Plugin>(&mut self, plugin: &Instance<P>) -> Outcome {
        self.start(plugin, Phase::Response, plugin.descriptor.on_response)
    }

    /// Waits until another thread has resumed the exchange, which is at [`Outcome::Pause`], and goes on with it.
    ///
    /// # Panics
    /// Where nobody has done so within ten seconds.
    pub fn resumed<P: Plugin>(&mut self, plugin: &Instance<P>) -> Outcome {
        let Paused { ticket, this, phase, is_body } = self.paused.take().expect("the exchange is paused");
        assert_eq!(this, plugin.this.addr(), "another plugin has paused the exchange");
        let is_good = plugin.host.wait(&ticket, Duration::from_secs(10)).expect("somebody resumes the exchange");
        let number = ticket.number;
        drop(ticket);
        match is_good {
            true => self.advance(plugin, phase, is_body, Entry::Resume(plugin.descriptor.on_resume, number)),
            false => Outcome::Fail,
        }
    }

    /// Runs `on_done`. An exchange that is paused ends there, as when its client leaves.
    pub fn done<P: Plugin>(&mut self, plugin: &Instance<P>) {
        if let Some(paused) = self.paused.take_if(|paused| paused.this == plugin.this.addr()) {
            self.attrs.insert(0, (Attr::Ticket, Some(paused.ticket.number.to_string())));
        }
        if let Some(on_done) = plugin.descriptor.on_done {
            let mut handle = ExchangeHandle::new(TestAccess::new(self, Phase::Done, 0, false, &plugin.host));
            // SAFETY: the hook of the instance with its own `this`, and an exchange that is valid for the call.
            unsafe { on_done(plugin.this, handle.as_exchange()) }
        }
    }

    fn start<P: Plugin>(&mut self, plugin: &Instance<P>, phase: Phase, hook: Option<abi::HookFn>) -> Outcome {
        let flags = plugin.descriptor.flags;
        if flags & flag(side_of(phase)) != 0 && flags & abi::BODY_OPTIONAL == 0 && self.is_too_large(side_of(phase)) {
            return too_large(phase);
        }
        self.advance(plugin, phase, false, Entry::Hook(hook))
    }

    /// Runs a hook, then the hook of the body, until one of them does not go on. `is_body`: it is there for who has asked.
    fn advance<P: Plugin>(
        &mut self,
        plugin: &Instance<P>,
        phase: Phase,
        mut is_body: bool,
        mut entry: Entry,
    ) -> Outcome {
        let (this, side) = (plugin.this, side_of(phase));
        loop {
            let wants = self.wants.iter().filter(|(other, ..)| *other == this.addr());
            let flags = wants.fold(plugin.descriptor.flags, |flags, (_, side, more)| flags | flag(*side) | more);
            let is_there = is_body || plugin.descriptor.flags & flag(side) != 0;
            let mut handle = ExchangeHandle::new(TestAccess::new(self, phase, flags, is_there, &plugin.host));
            // SAFETY: the hooks of the instance with its own `this`, and an exchange that is valid for the call.
            let verdict = unsafe {
                match entry {
                    Entry::Hook(hook) => hook.map(|hook| hook(this, handle.as_exchange())),
                    Entry::Resume(hook, ticket) => hook.map(|hook| hook(this, handle.as_exchange(), ticket)),
                }
            };
            let TestAccess { answer, ticket, wanted, .. } = handle.into_access();
            self.wants.extend(wanted.into_iter().map(|(side, flags)| (this.addr(), side, flags)));
            match (verdict.unwrap_or(abi::CONTINUE), answer, ticket) {
                (abi::CONTINUE, _, _) if !is_body => {
                    let Some(flags) = self.wanted(this.addr(), side) else { return Outcome::Continue };
                    if flags & abi::BODY_OPTIONAL == 0 && self.is_too_large(side) {
                        return too_large(phase);
                    }
                    is_body = true;
                    entry = Entry::Hook(match side {
                        Side::Request => plugin.descriptor.on_request_body,
                        Side::Response => plugin.descriptor.on_response_body,
                    });
                }
                (abi::CONTINUE, _, _) => return Outcome::Continue,
                (abi::RESPOND, Some(answer), _) => {
                    let Answer { status, fields, body } = answer.clone();
                    self.set_response("plugin", status, fields, body);
                    return Outcome::Respond(answer);
                }
                (abi::PAUSE, _, Some(ticket)) => {
                    self.paused = Some(Paused { ticket: Arc::new(ticket), this: this.addr(), phase, is_body });
                    return Outcome::Pause;
                }
                (_, _, _) => return Outcome::Fail,
            }
        }
    }

    /// The flags with which that plugin has asked for the body of that side at the head.
    fn wanted(&self, this: usize, side: Side) -> Option<u32> {
        let mut wants = self.wants.iter().filter(|(other, wanted, _)| *other == this && *wanted == side);
        wants.next().map(|(.., flags)| *flags)
    }

    fn is_too_large(&self, side: Side) -> bool {
        let body = match side {
            Side::Request => &self.request_body,
            Side::Response => &self.response_body,
        };
        body.len() > self.limits.body_bytes
    }

    /// Runs a request hook by its descriptor.
    #[cfg(test)]
    pub(crate) fn run(&mut self, hook: abi::HookFn, this: *mut c_void) -> abi::Verdict {
        let host = Arc::default();
        let mut handle = ExchangeHandle::new(TestAccess::new(self, Phase::Request, 0, false, &host));
        // SAFETY: the caller passes a hook with its own `this`.
        unsafe { hook(this, handle.as_exchange()) }
    }

    /// The attributes that no plugin writes and that have no place of their own here.
    fn read_only_attrs(&self, phase: Phase, plugin: &str) -> Vec<(Attr, Option<String>)> {
        let bit = |is_set: bool| Some(u8::from(is_set).to_string());
        let mut attrs = vec![
            (Attr::Scheme, Some("http".to_owned())),
            (Attr::Protocol, Some("HTTP/1.1".to_owned())),
            (Attr::ClientPort, self.client.as_ref().map(|_| "50000".to_owned())),
            (Attr::LocalAddr, self.client.as_ref().map(|_| "192.0.2.80:80".to_owned())),
            (Attr::ClientHost, Some("www.example".to_owned())),
            (Attr::HasRequestBody, bit(!self.request_body.is_empty())),
            (Attr::ElapsedUs, Some("0".to_owned())),
            (Attr::PluginName, Some(plugin.to_owned())),
        ];
        let has_response = phase != Phase::Request && !self.status.is_empty();
        if has_response {
            attrs.push((Attr::HasResponseBody, bit(!self.response_body.is_empty())));
            attrs.push((Attr::ResponseSource, Some(self.source.to_owned())));
        }
        if phase == Phase::Done {
            attrs.push((Attr::FinalStatus, has_response.then(|| self.status.clone())));
            attrs.push((Attr::BytesIn, Some(self.request_body.len().to_string())));
            attrs.push((Attr::BytesOut, Some(self.response_body.len().to_string())));
            let zeros = [Attr::TimeHeadUs, Attr::TimeTotalUs, Attr::Retries, Attr::UpstreamReused];
            attrs.extend(zeros.map(|attr| (attr, Some("0".to_owned()))));
        }
        // Those of the test count, and each in its phases only.
        let is_known = |attr: Attr| match attr {
            Attr::HasResponseBody | Attr::ResponseSource | Attr::Cause => phase != Phase::Request,
            Attr::FinalStatus
            | Attr::BytesIn
            | Attr::BytesOut
            | Attr::TimeHeadUs
            | Attr::TimeConnectUs
            | Attr::TimeFirstByteUs
            | Attr::TimeTotalUs
            | Attr::UpstreamAddr
            | Attr::Retries
            | Attr::UpstreamReused
            | Attr::Ticket => phase == Phase::Done,
            _ => true,
        };
        let set = self.attrs.iter().filter(|(attr, _)| is_known(*attr)).cloned();
        set.chain(attrs).collect()
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

    /// What a plugin has added to the line of the access log under `key`.
    pub fn access(&self, key: &str) -> Option<&str> {
        self.access.iter().find(|(other, _)| other == key.as_bytes()).map(|(_, value)| text(value))
    }

    /// What plugins have logged about this exchange.
    pub fn log(&self) -> Vec<(Level, String)> {
        self.log.borrow().clone()
    }
}

fn side_of(phase: Phase) -> Side {
    match phase {
        Phase::Request => Side::Request,
        Phase::Response | Phase::Done => Side::Response,
    }
}

fn flag(side: Side) -> u32 {
    match side {
        Side::Request => abi::WANT_REQUEST_BODY,
        Side::Response => abi::WANT_RESPONSE_BODY,
    }
}

fn too_large(phase: Phase) -> Outcome {
    Outcome::TooLarge(if phase == Phase::Request { 413 } else { 502 })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what a test looks at is UTF-8")
}

fn find<'a>(lines: &'a Lines, name: &str) -> Option<&'a str> {
    lines.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| text(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Counter, DonePhase, Error, Gauge, HostError, Needs, Oversize, RequestPhase, ResponsePhase, Setup, Times,
        Verdict,
    };

    /// Asks for bodies as the configuration says, and tells what it saw in fields and values.
    struct Reader {
        oversize: Oversize,
        asks_early: bool,
        seen: Counter,
        open: Gauge,
    }

    impl Plugin for Reader {
        const NAME: &'static str = "reader";

        fn create(setup: &Setup, _: &[u8]) -> Result<Self, Error> {
            let oversize = if setup.config("/skip") == Some("true") { Oversize::Skip } else { Oversize::Refuse };
            if let Some("true") = setup.config("/always") {
                setup.want(Needs::REQUEST_BODY.and(Needs::RESPONSE_BODY))?;
            }
            setup.counter("bodies_total", "Said twice.")?;
            assert!(setup.gauge("bodies_total", "Of another kind.").is_err());
            assert!(setup.counter("Seen", "No name.").is_err());
            let (seen, open) = (setup.counter("bodies_total", "Bodies.")?, setup.gauge("open", "Exchanges.")?);
            Ok(Reader { oversize, asks_early: setup.config("/early") == Some("true"), seen, open })
        }

        fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
            self.open.add(1);
            let at_head = x.body().map_or(-1, |body| body.len() as i64);
            x.set_field("x-at-head", at_head.to_string())?;
            if x.field("x-want").is_some() {
                x.want_body(Side::Request, self.oversize)?;
            }
            if self.asks_early {
                x.want_body(Side::Response, self.oversize)?;
            }
            Ok(Verdict::Continue)
        }

        fn on_request_body(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
            self.seen.add(1);
            let (is_too_large, body) = (x.body_is_too_large(), x.body().unwrap_or(b"none").to_ascii_uppercase());
            x.set_field("x-too-large", is_too_large.to_string())?;
            if !is_too_large {
                x.set_body(body)?;
            }
            Ok(Verdict::Continue)
        }

        fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
            x.set_field("x-at-head", x.body().is_some().to_string())?;
            if x.field("x-want").is_some() {
                x.want_body(self.oversize)?;
            }
            Ok(Verdict::Continue)
        }

        fn on_response_body(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
            self.seen.add(1);
            match x.body().map(<[u8]>::to_ascii_uppercase) {
                Some(body) => x.set_body(body)?,
                None => x.set_field("x-too-large", x.body_is_too_large().to_string())?,
            }
            Ok(Verdict::Continue)
        }

        fn on_done(&self, _: &DonePhase<'_>) {
            self.open.add(-1);
        }
    }

    fn reader(config: &str) -> Instance<Reader> {
        Instance::new(config).unwrap()
    }

    fn small(body: &str) -> Exchange {
        let limits = Limits { head_bytes: 1024, field_lines: 10, body_bytes: 5 };
        Exchange::new("POST", "/").body(body).limits(limits)
    }

    #[test]
    fn bodies_are_there_for_who_asks() {
        let plugin = reader("{}");
        let mut x = small("hello");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!((x.request_field("x-at-head"), x.request_body()), (Some("-1"), b"hello".as_slice()));
        let mut x = small("hello").field("x-want", "1");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!((x.request_field("x-at-head"), x.request_body()), (Some("-1"), b"HELLO".as_slice()));
        x.upstream_answers(200, &[("x-want", "1")], "hi");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!((x.response_field("x-at-head"), x.response_body()), (Some("false"), b"HI".as_slice()));
        x.done(&plugin);
        let mut x = small("");
        x.upstream_answers(200, &[], "hi");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!(x.response_body(), b"hi", "nobody asks");
        assert_eq!(
            (plugin.metric("bodies_total"), plugin.metric("open"), plugin.metric("x")),
            (Some(2), Some(1), None)
        );
        // In the request phase already, for a response that is still to come.
        let plugin = reader(r#"{"early": true}"#);
        let mut x = small("");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        x.upstream_answers(200, &[], "hi");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!((x.response_field("x-at-head"), x.response_body()), (Some("false"), b"HI".as_slice()));
        // Always: then it is there for the ordinary hooks.
        let plugin = reader(r#"{"always": true}"#);
        let mut x = small("hello");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!(x.request_field("x-at-head"), Some("5"));
        assert_eq!(small("larger").request(&plugin), Outcome::TooLarge(413));
    }

    #[test]
    fn bodies_above_the_limit_are_refused_or_pass() {
        let plugin = reader("{}");
        assert_eq!(small("larger").request(&plugin), Outcome::Continue, "nobody asks");
        let mut x = small("larger").field("x-want", "1");
        assert_eq!(x.request(&plugin), Outcome::TooLarge(413));
        x.upstream_answers(200, &[("x-want", "1")], "larger");
        assert_eq!(x.response(&plugin), Outcome::TooLarge(502));
        let plugin = reader(r#"{"skip": true}"#);
        let mut x = small("larger").field("x-want", "1");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        assert_eq!((x.request_field("x-too-large"), x.request_body()), (Some("true"), b"larger".as_slice()));
        x.upstream_answers(200, &[("x-want", "1")], "larger");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        assert_eq!((x.response_field("x-too-large"), x.response_body()), (Some("true"), b"larger".as_slice()));
    }

    /// Tells every attribute.
    struct Teller;

    impl Plugin for Teller {
        const NAME: &'static str = "teller";

        fn create(setup: &Setup, _: &[u8]) -> Result<Self, Error> {
            let kept = setup.logger();
            kept.debug(format_args!("{:?} {:?}", setup.config(""), setup.config("/a")));
            Ok(Teller)
        }

        fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
            let from = (x.client_addr(), x.client_port(), x.local_addr(), x.client_host().escape_ascii().to_string());
            let tls = (x.scheme(), x.tls_version(), x.tls_server_name());
            x.log(Level::Info, format_args!("{from:?} {tls:?} {} {} {:?}", x.protocol(), x.has_body(), x.elapsed()));
            x.access_add("user", "ann")?;
            x.access_add("user", "bob")?;
            assert_eq!(x.access_add("a b", "c"), Err(HostError::Invalid));
            Ok(Verdict::Continue)
        }

        fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
            x.log(Level::Info, format_args!("{} {:?} {} {}", x.source(), x.cause(), x.has_body(), x.plugin_name()));
            Ok(Verdict::Continue)
        }

        fn on_done(&self, x: &DonePhase<'_>) {
            let upstream = (x.upstream_addr(), x.upstream_reused(), x.retries());
            let Times { head, connect, first_byte, total } = x.times();
            let times = format!("{head:?} {connect:?} {first_byte:?} {total:?}");
            let bytes = (x.final_status(), x.bytes_in(), x.bytes_out());
            x.log(Level::Info, format_args!("{bytes:?} {times} {upstream:?} {:?}", x.cause()));
        }
    }

    #[test]
    fn attributes_log_and_access_line() {
        let plugin = Instance::<Teller>::new("some text").unwrap();
        assert_eq!(plugin.log(), [(Level::Debug, "Some(\"some text\") None".to_owned())]);
        let mut x = Exchange::get("/")
            .body("abc")
            .attr(Attr::Scheme, "https")
            .attr(Attr::TlsVersion, "TLSv1.3")
            .attr(Attr::ElapsedUs, 1500)
            .attr(Attr::FinalStatus, 499)
            .attr(Attr::Cause, "client_left")
            .attr(Attr::TimeFirstByteUs, 2)
            .attr(Attr::UpstreamAddr, "192.0.2.9:80")
            .attr(Attr::Retries, 1)
            .without(Attr::LocalAddr);
        assert_eq!(x.request(&plugin), Outcome::Continue);
        x.proxy_answers(502, "");
        assert_eq!(x.response(&plugin), Outcome::Continue);
        x.done(&plugin);
        let log: Vec<String> = x.log().into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            log,
            [
                "(Some(\"192.0.2.1\"), Some(50000), None, \"www.example\") (\"https\", Some(\"TLSv1.3\"), None) HTTP/1.1 \
                 true 1.5ms",
                "proxy Some(\"client_left\") false teller",
                "(Some(499), 3, 0) 0ns None Some(2µs) 0ns (Some(\"192.0.2.9:80\"), false, 1) Some(\"client_left\")",
            ]
        );
        assert_eq!((x.access("user"), x.access("other")), (Some("bob"), None));
    }
}
