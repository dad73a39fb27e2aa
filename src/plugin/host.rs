//! What the C functions of the host table act upon: one exchange during one hook.
//!
//! The functions and their checks are in `mini_rproxy_plugin::host`; here checked values are written into our own types.
//! No `unsafe`.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, PoisonError};

use mini_rproxy_plugin::host::{Attr, ExchangeAccess, InstanceAccess, Limits, Pair, Phase, Side, table};
use mini_rproxy_plugin::validate::is_bodiless;
use mini_rproxy_plugin::{Level, abi};

use crate::http::fields::Fields;
use crate::http::head::{Method, reason_phrase};
use crate::log::Logger;
use crate::proxy::hooks::{HookContext, LocalResponse};

/// The table that every plugin gets. It stays until the process ends, as the interface promises.
pub static TABLE: abi::Host = table::<HookAccess<'static, 'static>>();

/// One exchange during one hook.
#[derive(Debug)]
pub struct HookAccess<'v, 'x> {
    hooks: &'v mut HookContext<'x>,
    phase: Phase,
    flags: u32,
    limits: Limits,
    status: [u8; 3],
    client: OnceCell<String>,
    /// What `respond` was given.
    pub answer: Option<Box<LocalResponse>>,
}

impl<'v, 'x> HookAccess<'v, 'x> {
    /// The access of a plugin with these flags.
    pub fn new(hooks: &'v mut HookContext<'x>, phase: Phase, flags: u32, limits: Limits) -> Self {
        let status = digits(hooks.response.as_ref().map_or(0, |response| response.status));
        HookAccess { hooks, phase, flags, limits, status, client: OnceCell::new(), answer: None }
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
        let max = self.limits.head_bytes.saturating_mul(2);
        if let Some(fields) = self.fields_mut(side) {
            write(fields);
            fields.compact(max);
        }
    }

    /// The client's address in text; made once, because a plugin may keep the bytes until the hook ends.
    fn client(&self) -> Option<&[u8]> {
        // A client that came over IPv4 has its IPv4 address, also where the socket is an IPv6 one.
        let address = self.hooks.client?.ip().to_canonical();
        Some(self.client.get_or_init(|| address.to_string()).as_bytes())
    }
}

fn digits(status: u16) -> [u8; 3] {
    [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8)
}

impl ExchangeAccess for HookAccess<'_, '_> {
    fn phase(&self) -> Phase {
        self.phase
    }

    fn flags(&self) -> u32 {
        self.flags
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn attr(&self, attr: Attr) -> Option<&[u8]> {
        match attr {
            Attr::Method => Some(self.hooks.request.method.as_bytes()),
            Attr::Target => Some(&self.hooks.request.target),
            Attr::Authority => Some(&self.hooks.request.authority),
            Attr::Status => self.hooks.response.is_some().then_some(&self.status),
            Attr::ClientAddr => self.client(),
            Attr::RoutePrefix => Some(self.hooks.route_prefix.as_bytes()),
            Attr::Upstream => Some(self.hooks.upstream.as_bytes()),
            Attr::OriginalTarget => Some(self.hooks.original_target),
            _ => None,
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

    fn body(&self, side: Side) -> Option<&[u8]> {
        let body = match side {
            Side::Request => &self.hooks.request_body,
            // Answers to HEAD, 204 and 304 have none, whatever the exchange keeps in its place.
            Side::Response if self.hooks.request.method == Method::Head => &None,
            Side::Response if is_bodiless(self.hooks.response.as_ref().map_or(0, |response| response.status)) => &None,
            Side::Response => &self.hooks.response_body,
        };
        body.as_ref().map(|body| body.as_slice())
    }

    fn set_body(&mut self, side: Side, body: Vec<u8>) {
        let place = match side {
            Side::Request => &mut self.hooks.request_body,
            Side::Response => &mut self.hooks.response_body,
        };
        if let Some(place) = place {
            **place = body;
        }
    }

    fn set_answer(&mut self, status: u16, lines: Vec<(Vec<u8>, Vec<u8>)>, body: Vec<u8>) {
        let mut fields = Fields::new();
        for (name, value) in &lines {
            fields.add(name, value);
        }
        self.answer = Some(Box::new(LocalResponse { status, fields, body }));
    }
}

/// The messages of one plugin, on their way to the proxy's log.
pub struct PluginLog {
    /// The plugin's name.
    pub plugin: &'static str,
    /// Where they go.
    pub logger: Logger,
    /// The last error, which is repeated where `create` fails.
    pub last_error: Arc<Mutex<String>>,
}

impl InstanceAccess for PluginLog {
    fn is_enabled(&self, level: Level) -> bool {
        self.logger.is_enabled(level)
    }

    fn log(&self, level: Level, message: &[u8]) {
        /// Longer messages are cut.
        const MAX_LEN: usize = 4096;
        if self.is_enabled(level) {
            let message = String::from_utf8_lossy(message.get(..MAX_LEN).unwrap_or(message));
            if level == Level::Error {
                self.last_error.lock().unwrap_or_else(PoisonError::into_inner).replace_range(.., &message);
            }
            self.logger.line(level, &message).text("plugin", self.plugin).send();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::RequestHead;
    use crate::proxy::hooks::ChainState;

    #[test]
    fn e4_a_plugin_that_writes_over_and_over_takes_no_more_memory() {
        let (mut request, mut state) = (RequestHead::default(), ChainState::default());
        let mut hooks = HookContext::of_request(&mut request, &mut state);
        let limits = Limits { head_bytes: 1024, field_lines: 10, body_bytes: 0 };
        let mut view = HookAccess::new(&mut hooks, Phase::Request, 0, limits);
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
