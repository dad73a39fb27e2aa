//! What the C functions of the host table act upon: one exchange during one hook.
//!
//! The functions and their checks are in `mini_rproxy_plugin::host`; here checked values are written into our own types.
//! No `unsafe`.

use std::cell::OnceCell;

use mini_rproxy_plugin::host::{Attr, ExchangeAccess, Limits, Pair, Phase, Side, table};
use mini_rproxy_plugin::validate::is_bodiless;
use mini_rproxy_plugin::{HostError, Level, abi};

use crate::http::fields::Fields;
use crate::http::head::{Method, Version, reason_phrase};
use crate::log::Logger;
use crate::mono_time::MonoTime;
use crate::proxy::cause::Cause;
use crate::proxy::hooks::{HookBody, HookContext, LocalResponse, WantedBody};
use crate::proxy::request_log::{ResponseSource, path_of};
use crate::proxy::tickets::Ticket;

use super::context::message_text;

/// The table that every plugin gets. It stays until the process ends, as the interface promises.
pub static TABLE: abi::Host = table::<HookAccess<'static, 'static>>();

/// The plugin whose hook runs.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'v> {
    /// Its number within the chain.
    pub index: usize,
    /// The name of its entry in the configuration.
    pub name: &'v str,
    /// What it asked for: `WANT_...`.
    pub flags: u32,
    /// How large it may make messages.
    pub limits: Limits,
    /// Where its messages go.
    pub logger: &'v Logger,
}

/// One exchange during one hook.
#[derive(Debug)]
pub struct HookAccess<'v, 'x> {
    hooks: &'v mut HookContext<'x>,
    phase: Phase,
    caller: Caller<'v>,
    status: [u8; 3],
    texts: Texts,
    /// What `respond` was given.
    pub answer: Option<Box<LocalResponse>>,
    /// What `pause` gave.
    pub ticket: Option<Ticket>,
}

/// Attributes that had to be written as text. The plugin may keep the bytes until the hook ends, so none is moved before.
#[derive(Debug, Default)]
struct Texts(OnceCell<Box<(Attr, String, Texts)>>);

impl<'v, 'x> HookAccess<'v, 'x> {
    /// The access of that plugin.
    pub fn new(hooks: &'v mut HookContext<'x>, phase: Phase, caller: Caller<'v>) -> Self {
        let status = digits(hooks.response.as_ref().map_or(0, |response| response.status));
        HookAccess { hooks, phase, caller, status, texts: Texts::default(), answer: None, ticket: None }
    }

    /// What the plugin asked for in this exchange, of that side.
    fn wanted(&self, side: Side) -> Option<&WantedBody> {
        self.hooks.state.wanted.iter().find(|wanted| wanted.plugin == self.caller.index && wanted.side == side)
    }

    fn fields(&self, side: Side) -> Option<&Fields> {
        match side {
            Side::Request => Some(&self.hooks.request.fields),
            Side::Response => self.hooks.response.as_ref().map(|response| &response.fields),
        }
    }

    fn fields_mut(&mut self, side: Side) -> Option<&mut Fields> {
        match side {
            Side::Request => Some(&mut self.hooks.request.fields),
            Side::Response => self.hooks.response.as_mut().map(|response| &mut response.fields),
        }
    }

    /// What the field lines may take in memory, with those that were removed or replaced, is twice what they may take on the
    /// wire, so that they are seldom moved.
    fn write_fields(&mut self, side: Side, write: impl FnOnce(&mut Fields)) {
        let max = self.caller.limits.head_bytes.saturating_mul(2);
        if let Some(fields) = self.fields_mut(side) {
            write(fields);
            fields.compact(max);
        }
    }

    /// An attribute that has to be written, once in a hook.
    fn text(&self, attr: Attr) -> Option<&[u8]> {
        let mut end = &self.texts;
        while let Some(known) = end.0.get() {
            if known.0 == attr {
                return Some(known.1.as_bytes());
            }
            end = &known.2;
        }
        let text = self.write_attr(attr)?;
        Some(end.0.get_or_init(|| Box::new((attr, text, Texts::default()))).1.as_bytes())
    }

    fn write_attr(&self, attr: Attr) -> Option<String> {
        let HookContext { log, details, now, .. } = *self.hooks;
        let micros = |from: MonoTime, to: MonoTime| (to - from).as_micros().to_string();
        Some(match attr {
            // A client that came over IPv4 has its IPv4 address, also where the socket is an IPv6 one.
            Attr::ClientAddr => log.client?.ip().to_canonical().to_string(),
            Attr::ClientPort => Some(log.client?.port()).filter(|port| *port != 0)?.to_string(),
            Attr::LocalAddr => {
                let mut address = details?.local?;
                address.set_ip(address.ip().to_canonical());
                address.to_string()
            }
            Attr::ElapsedUs => micros(log.started, now),
            _ if self.phase != Phase::Done => return None,
            Attr::FinalStatus => Some(log.status).filter(|status| *status != 0)?.to_string(),
            Attr::BytesIn => log.bytes_in.to_string(),
            Attr::BytesOut => log.bytes_out.to_string(),
            Attr::TimeHeadUs => micros(log.started, log.head_read?),
            Attr::TimeConnectUs => micros(log.head_read?, log.connected?),
            Attr::TimeFirstByteUs => micros(log.connected?, log.first_byte?),
            Attr::TimeTotalUs => micros(log.started, now),
            Attr::UpstreamAddr => log.upstream_addr?.to_string(),
            Attr::Retries => log.retries.to_string(),
            Attr::Ticket => {
                let paused = self.hooks.state.paused.filter(|(plugin, _)| *plugin == self.caller.index);
                paused?.1.to_string()
            }
            _ => return None,
        })
    }
}

fn yes_or_no(is_so: bool) -> &'static [u8] {
    if is_so { b"1" } else { b"0" }
}

/// The flag of a plugin that always wants the body of that side.
pub(super) fn wants_always(side: Side) -> u32 {
    if side == Side::Request { abi::WANT_REQUEST_BODY } else { abi::WANT_RESPONSE_BODY }
}

fn digits(status: u16) -> [u8; 3] {
    [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8)
}

impl ExchangeAccess for HookAccess<'_, '_> {
    fn phase(&self) -> Phase {
        self.phase
    }

    fn flags(&self) -> u32 {
        let asked = |side| if self.wanted(side).is_some() { wants_always(side) } else { 0 };
        self.caller.flags | asked(Side::Request) | asked(Side::Response)
    }

    fn limits(&self) -> Limits {
        self.caller.limits
    }

    fn attr(&self, attr: Attr) -> Option<&[u8]> {
        let log = self.hooks.log;
        match attr {
            Attr::Method => Some(self.hooks.request.method.as_bytes()),
            Attr::Target => Some(&self.hooks.request.target),
            Attr::Authority => Some(&self.hooks.request.authority),
            Attr::Status => self.hooks.response.is_some().then_some(&self.status),
            Attr::RoutePrefix => Some(self.hooks.route_prefix.as_bytes()),
            Attr::Upstream => Some(self.hooks.upstream.as_bytes()),
            Attr::OriginalTarget => Some(self.hooks.original_target),
            Attr::Scheme => Some(if self.hooks.peer.is_tls { b"https" } else { b"http" }),
            Attr::Protocol if self.hooks.request.version == Version::Http10 => Some(b"HTTP/1.0"),
            Attr::Protocol => Some(b"HTTP/1.1"),
            Attr::TlsVersion => self.hooks.details?.tls_version.map(str::as_bytes),
            Attr::TlsServerName => self.hooks.details?.server_name.as_ref().map(String::as_bytes),
            Attr::ClientHost => Some(self.hooks.client_host).filter(|host| !host.is_empty()),
            Attr::HasRequestBody => Some(yes_or_no(log.has_request_body)),
            Attr::HasResponseBody => log.source.map(|_| yes_or_no(log.has_response_body)),
            Attr::ResponseSource => log.source.map(|source| match source {
                ResponseSource::Upstream => &b"upstream"[..],
                ResponseSource::Proxy => b"proxy",
                ResponseSource::Plugin => b"plugin",
            }),
            Attr::Cause => log.cause.map(Cause::why).map(str::as_bytes),
            Attr::PluginName => Some(self.caller.name.as_bytes()),
            Attr::UpstreamReused => (self.phase == Phase::Done).then(|| yes_or_no(log.reused)),
            _ => self.text(attr),
        }
    }

    fn set_attr(&mut self, attr: Attr, value: &[u8]) {
        let request = &mut *self.hooks.request;
        let place = match attr {
            Attr::Method => return request.method = Method::of(value),
            Attr::Target => &mut request.target,
            Attr::Authority => &mut request.authority,
            // The table lets no other through.
            _ => return,
        };
        place.clear();
        place.extend_from_slice(value);
    }

    fn set_status(&mut self, status: u16) {
        if let Some(response) = self.hooks.response.as_mut() {
            response.status = status;
            response.reason.clear();
            response.reason.extend_from_slice(reason_phrase(status).as_bytes());
            self.status = digits(status);
        }
    }

    fn field_count(&self, side: Side) -> usize {
        self.fields(side).map_or(0, Fields::len)
    }

    fn field_at(&self, side: Side, index: usize) -> Option<Pair<'_>> {
        self.fields(side)?.nth(index).map(|line| (line.name, line.value))
    }

    fn set_field(&mut self, side: Side, name: &[u8], value: &[u8]) {
        self.write_fields(side, |fields| fields.set(name, value));
    }

    fn add_field(&mut self, side: Side, name: &[u8], value: &[u8]) {
        self.write_fields(side, |fields| fields.add(name, value));
    }

    fn remove_field(&mut self, side: Side, name: &[u8]) -> bool {
        self.fields_mut(side).is_some_and(|fields| fields.remove(name))
    }

    fn values(&self) -> &Vec<(Vec<u8>, Vec<u8>)> {
        &self.hooks.state.values
    }

    fn values_mut(&mut self) -> &mut Vec<(Vec<u8>, Vec<u8>)> {
        &mut self.hooks.state.values
    }

    fn body(&self, side: Side) -> Result<&[u8], HostError> {
        if self.caller.flags & wants_always(side) == 0 && !self.wanted(side).is_some_and(|wanted| wanted.is_given) {
            return Err(HostError::WrongPhase);
        }
        let body = match side {
            Side::Request => &self.hooks.request_body,
            // Answers to HEAD, 204 and 304 have none, whatever the exchange keeps in its place.
            Side::Response if self.hooks.request.method == Method::Head => &HookBody::None,
            Side::Response if is_bodiless(self.hooks.response.as_ref().map_or(0, |response| response.status)) => {
                &HookBody::None
            }
            Side::Response => &self.hooks.response_body,
        };
        match body {
            HookBody::None => Err(HostError::NotFound),
            HookBody::Coming => Err(HostError::WrongPhase),
            HookBody::Whole(body) => Ok(body),
            HookBody::TooLarge => Err(HostError::Limit),
        }
    }

    fn set_body(&mut self, side: Side, body: Vec<u8>) {
        let hooks = &mut *self.hooks;
        let place = if side == Side::Request { &mut hooks.request_body } else { &mut hooks.response_body };
        if let HookBody::Whole(place) = place {
            **place = body;
        }
    }

    fn log(&self, level: Level, message: &[u8]) {
        let HookContext { log, original_target, .. } = *self.hooks;
        if self.caller.logger.is_enabled(level) {
            let mut line = self.caller.logger.line(level, message_text(message));
            line.text("plugin", self.caller.name).client(log.client);
            line.bytes("method", log.method.as_ref().map_or(b"", Method::as_bytes));
            line.bytes("path", path_of(original_target)).send();
        }
    }

    fn access_pairs(&self) -> &Vec<(Vec<u8>, Vec<u8>)> {
        &self.hooks.state.pairs
    }

    fn access_pairs_mut(&mut self) -> &mut Vec<(Vec<u8>, Vec<u8>)> {
        &mut self.hooks.state.pairs
    }

    fn pause(&mut self) -> Result<u64, HostError> {
        // A client that gets an answer of ours has waited long enough.
        if self.phase == Phase::Response && self.hooks.log.source.is_some_and(|who| who != ResponseSource::Upstream) {
            return Err(HostError::WrongPhase);
        }
        Ok(self.ticket.get_or_insert_with(Ticket::issue).number())
    }

    fn want_body(&mut self, side: Side, flags: u32) -> Result<(), HostError> {
        let is_optional = flags & abi::BODY_OPTIONAL != 0;
        let plugin = self.caller.index;
        match self.hooks.state.wanted_by(plugin, side) {
            Some(wanted) => wanted.is_optional = is_optional,
            None => self.hooks.state.wanted.push(WantedBody { plugin, side, is_optional, is_given: false }),
        }
        Ok(())
    }

    fn set_answer(&mut self, status: u16, lines: Vec<(Vec<u8>, Vec<u8>)>, body: Vec<u8>) {
        let mut fields = Fields::new();
        for (name, value) in &lines {
            fields.add(name, value);
        }
        self.answer = Some(Box::new(LocalResponse { status, fields, body }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::Duration;

    use crate::config::LogFormat;
    use crate::http::head::{RequestHead, ResponseHead};
    use crate::proxy::events::{ConnectError, Peer, PeerDetails};
    use crate::proxy::hooks::ChainState;
    use crate::proxy::request_log::RequestLog;

    const LIMITS: Limits = Limits { head_bytes: 1024, field_lines: 10, body_bytes: 0 };

    fn logger() -> Logger {
        Logger::start(LogFormat::Text, io::sink()).expect("a thread")
    }

    fn caller(logger: &Logger) -> Caller<'_> {
        Caller { index: 0, name: "demo", flags: 0, limits: LIMITS, logger }
    }

    /// The attributes that this exchange has in a phase, as the plugin reads them.
    fn attributes(phase: Phase, log: &RequestLog, peer: &Peer, details: Option<&PeerDetails>) -> Vec<(Attr, String)> {
        const ALL: [Attr; 24] = [
            Attr::ClientAddr,
            Attr::Scheme,
            Attr::Protocol,
            Attr::TlsVersion,
            Attr::TlsServerName,
            Attr::ClientPort,
            Attr::LocalAddr,
            Attr::ClientHost,
            Attr::HasRequestBody,
            Attr::HasResponseBody,
            Attr::ElapsedUs,
            Attr::ResponseSource,
            Attr::Cause,
            Attr::PluginName,
            Attr::FinalStatus,
            Attr::BytesIn,
            Attr::BytesOut,
            Attr::TimeHeadUs,
            Attr::TimeConnectUs,
            Attr::TimeFirstByteUs,
            Attr::TimeTotalUs,
            Attr::UpstreamAddr,
            Attr::Retries,
            Attr::UpstreamReused,
        ];
        let (mut request, mut response) = (RequestHead::default(), ResponseHead::default());
        let (mut state, logger) = (ChainState::default(), logger());
        let mut hooks = HookContext::of_request(&mut request, &mut state);
        hooks.response = (phase != Phase::Request).then_some(&mut response);
        (hooks.log, hooks.peer, hooks.details) = (log, peer, details);
        hooks.now = log.started + Duration::from_micros(5000);
        let access = HookAccess::new(&mut hooks, phase, caller(&logger));
        let first: Vec<_> = ALL.iter().filter_map(|attr| Some((*attr, access.attr(*attr)?))).collect();
        // What was read before is still in its place, and is the same.
        for (attr, value) in &first {
            assert!(access.attr(*attr).is_some_and(|again| std::ptr::eq(again, *value)), "{attr:?}");
        }
        first.into_iter().map(|(attr, value)| (attr, String::from_utf8_lossy(value).into_owned())).collect()
    }

    fn expected(rows: &[(Attr, &str)]) -> Vec<(Attr, String)> {
        rows.iter().map(|(attr, value)| (*attr, (*value).to_owned())).collect()
    }

    #[test]
    fn attributes_of_an_exchange_that_has_everything() {
        let at = |micros| Some(MonoTime::FIRST + Duration::from_micros(micros));
        let log = RequestLog {
            head_read: at(10),
            connected: at(30),
            first_byte: at(700),
            method: Some(Method::Get),
            status: 200,
            bytes_in: 7,
            bytes_out: u64::MAX,
            reused: true,
            retries: 1,
            client: "[::ffff:192.0.2.7]:50000".parse().ok(),
            upstream_addr: "[2001:db8::1]:80".parse().ok(),
            source: Some(ResponseSource::Upstream),
            has_request_body: true,
            has_response_body: true,
            cause: Some(Cause::Connect(ConnectError::Refused)),
            ..RequestLog::default()
        };
        let peer = Peer { is_tls: true, ..Peer::default() };
        let details = PeerDetails {
            local: "[::ffff:192.0.2.1]:443".parse().ok(),
            tls_version: Some("TLSv1.3"),
            server_name: Some("proxy.example".to_owned()),
            client_subject: None,
        };
        let always = [
            (Attr::ClientAddr, "192.0.2.7"),
            (Attr::Scheme, "https"),
            (Attr::Protocol, "HTTP/1.1"),
            (Attr::TlsVersion, "TLSv1.3"),
            (Attr::TlsServerName, "proxy.example"),
            (Attr::ClientPort, "50000"),
            (Attr::LocalAddr, "192.0.2.1:443"),
            (Attr::HasRequestBody, "1"),
            (Attr::HasResponseBody, "1"),
            (Attr::ElapsedUs, "5000"),
            (Attr::ResponseSource, "upstream"),
            (Attr::Cause, "connect_refused"),
            (Attr::PluginName, "demo"),
        ];
        let at_the_end = [
            (Attr::FinalStatus, "200"),
            (Attr::BytesIn, "7"),
            (Attr::BytesOut, "18446744073709551615"),
            (Attr::TimeHeadUs, "10"),
            (Attr::TimeConnectUs, "20"),
            (Attr::TimeFirstByteUs, "670"),
            (Attr::TimeTotalUs, "5000"),
            (Attr::UpstreamAddr, "[2001:db8::1]:80"),
            (Attr::Retries, "1"),
            (Attr::UpstreamReused, "1"),
        ];
        let found = |phase| attributes(phase, &log, &peer, Some(&details));
        assert_eq!(found(Phase::Response), expected(&always));
        assert_eq!(found(Phase::Done), expected(&[&always[..], &at_the_end].concat()));
    }

    #[test]
    fn attributes_that_are_not_there_are_absent() {
        let (log, peer) = (RequestLog::default(), Peer::default());
        let at_first = [
            (Attr::Scheme, "http"),
            (Attr::Protocol, "HTTP/1.1"),
            (Attr::HasRequestBody, "0"),
            (Attr::ElapsedUs, "5000"),
            (Attr::PluginName, "demo"),
        ];
        let at_the_end = [
            (Attr::BytesIn, "0"),
            (Attr::BytesOut, "0"),
            (Attr::TimeTotalUs, "5000"),
            (Attr::Retries, "0"),
            (Attr::UpstreamReused, "0"),
        ];
        assert_eq!(attributes(Phase::Request, &log, &peer, None), expected(&at_first));
        let details = PeerDetails::default();
        let found = attributes(Phase::Done, &log, &peer, Some(&details));
        assert_eq!(found, expected(&[&at_first[..], &at_the_end].concat()));
        // Whom a proxy before us reports has no port.
        let log = RequestLog { client: "192.0.2.7:0".parse().ok(), ..log };
        let found = attributes(Phase::Request, &log, &peer, None);
        assert_eq!(found, expected(&[&[(Attr::ClientAddr, "192.0.2.7")], &at_first[..]].concat()));
    }

    #[test]
    fn e4_a_plugin_that_writes_over_and_over_takes_no_more_memory() {
        let (mut request, mut state) = (RequestHead::default(), ChainState::default());
        let mut hooks = HookContext::of_request(&mut request, &mut state);
        let logger = logger();
        let mut view = HookAccess::new(&mut hooks, Phase::Request, caller(&logger));
        let long = [b'x'; 500];
        for _ in 0..10_000 {
            view.set_field(Side::Request, b"x-set", &long);
            view.set_field(Side::Request, b"x-set", b"short");
            view.add_field(Side::Request, b"x-added", &long);
            assert!(view.remove_field(Side::Request, b"x-added"));
        }
        assert_eq!(request.fields.iter().map(|line| line.value).collect::<Vec<_>>(), [b"short"]);
        assert!(request.fields.heap_size() < 10_000, "{}", request.fields.heap_size());
    }
}
