//! What the host's functions act upon during one hook of a test.

use std::sync::Arc;

use super::instance::{TestHost, Ticket};
use super::{Answer, Exchange, Lines, side_of};
use crate::host::{Attr, ExchangeAccess, Limits, Pair, Phase, Side};
use crate::types::{HostError, Level};

/// What the C functions act upon during one hook.
pub(crate) struct TestAccess<'a> {
    exchange: &'a mut Exchange,
    phase: Phase,
    flags: u32,
    /// Whether the body of this phase's side is there.
    is_body_there: bool,
    /// The attributes that are only read.
    attrs: Vec<(Attr, Option<String>)>,
    host: &'a Arc<TestHost>,
    pub(super) answer: Option<Answer>,
    pub(super) ticket: Option<Ticket>,
    pub(super) wanted: Vec<(Side, u32)>,
}

impl<'a> TestAccess<'a> {
    pub(super) fn new(
        exchange: &'a mut Exchange,
        phase: Phase,
        flags: u32,
        is_body_there: bool,
        host: &'a Arc<TestHost>,
    ) -> Self {
        TestAccess {
            attrs: exchange.read_only_attrs(phase, host.plugin),
            exchange,
            phase,
            flags,
            is_body_there,
            host,
            answer: None,
            ticket: None,
            wanted: Vec::new(),
        }
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
            attr => {
                let (_, value) = self.attrs.iter().find(|(other, _)| *other == attr)?;
                value.as_ref().map(String::as_bytes)
            }
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

    fn body(&self, side: Side) -> Result<&[u8], HostError> {
        let x = &*self.exchange;
        if !self.is_body_there || side != side_of(self.phase) {
            return Err(HostError::WrongPhase);
        }
        match side {
            _ if x.is_too_large(side) => Err(HostError::Limit),
            Side::Request => Ok(&x.request_body),
            Side::Response if x.method == b"HEAD" || matches!(x.status.as_str(), "204" | "304") => {
                Err(HostError::NotFound)
            }
            Side::Response => Ok(&x.response_body),
        }
    }

    fn set_body(&mut self, side: Side, body: Vec<u8>) {
        match side {
            Side::Request => self.exchange.request_body = body,
            Side::Response => self.exchange.response_body = body,
        }
    }

    fn want_body(&mut self, side: Side, flags: u32) -> Result<(), HostError> {
        self.wanted.push((side, flags));
        Ok(())
    }

    fn pause(&mut self) -> Result<u64, HostError> {
        if self.phase == Phase::Response && self.exchange.source != "upstream" {
            return Err(HostError::WrongPhase);
        }
        Ok(self.ticket.get_or_insert_with(|| self.host.new_ticket()).number)
    }

    fn log(&self, level: Level, message: &[u8]) {
        self.exchange.log.borrow_mut().push((level, String::from_utf8_lossy(message).into_owned()));
    }

    fn access_pairs(&self) -> &Lines {
        &self.exchange.access
    }

    fn access_pairs_mut(&mut self) -> &mut Lines {
        &mut self.exchange.access
    }

    fn set_answer(&mut self, status: u16, fields: Lines, body: Vec<u8>) {
        self.answer = Some(Answer { status, fields, body });
    }
}
