//! The exchange of the hook that is running, lent to the host functions for as long as the module runs.
//!
//! A store of wasmi keeps its data from one hook to the next, while a phase lives only during its own: [`lend`] bridges the
//! two, and has the only `unsafe` of this crate.

use mini_rproxy_plugin::{
    DonePhase, FieldLines, HostError, Level, Oversize, RequestPhase, RequestView, ResponsePhase, ResponseView, Verdict,
};
use wasmi::Store;

use crate::state::State;

/// One of the two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// The phase that a hook was given.
#[derive(Debug)]
enum Phase<'h, 'x> {
    Request(&'h mut RequestPhase<'x>),
    Response(&'h mut ResponsePhase<'x>),
    Done(&'h DonePhase<'x>),
}

/// The exchange that a hook was given. All that it returns is borrowed from itself.
#[derive(Debug)]
pub struct Exchange<'h, 'x>(Phase<'h, 'x>);

impl<'h, 'x> From<&'h mut RequestPhase<'x>> for Exchange<'h, 'x> {
    fn from(phase: &'h mut RequestPhase<'x>) -> Self {
        Exchange(Phase::Request(phase))
    }
}

impl<'h, 'x> From<&'h mut ResponsePhase<'x>> for Exchange<'h, 'x> {
    fn from(phase: &'h mut ResponsePhase<'x>) -> Self {
        Exchange(Phase::Response(phase))
    }
}

impl<'h, 'x> From<&'h DonePhase<'x>> for Exchange<'h, 'x> {
    fn from(phase: &'h DonePhase<'x>) -> Self {
        Exchange(Phase::Done(phase))
    }
}

/// Does something to the message of that side, in the phase in which it may be written.
macro_rules! written {
    ($self:expr, $side:expr, $phase:ident => $do:expr) => {
        match (&mut $self.0, $side) {
            (Phase::Request($phase), Side::Request) => $do,
            (Phase::Response($phase), Side::Response) => $do,
            _ => Err(HostError::WrongPhase),
        }
    };
}

impl Exchange<'_, '_> {
    pub fn request(&self) -> &RequestView<'_> {
        match &self.0 {
            Phase::Request(phase) => phase,
            Phase::Response(phase) => phase.request(),
            Phase::Done(phase) => phase.request(),
        }
    }

    pub fn response(&self) -> Option<&ResponseView<'_>> {
        match &self.0 {
            Phase::Request(_) => None,
            Phase::Response(phase) => Some(phase),
            Phase::Done(phase) => phase.response(),
        }
    }

    pub fn fields(&self, side: Side) -> Option<FieldLines<'_>> {
        match side {
            Side::Request => Some(self.request().fields()),
            Side::Response => self.response().map(|response| response.fields()),
        }
    }

    pub fn nth_field(&self, side: Side, name: &[u8], nth: usize) -> Option<&[u8]> {
        match side {
            Side::Request => self.request().nth_field(name, nth),
            Side::Response => self.response()?.nth_field(name, nth),
        }
    }

    /// Whether a body follows the head of that message.
    pub fn has_body(&self, side: Side) -> bool {
        match side {
            Side::Request => self.request().has_body(),
            Side::Response => self.response().is_some_and(|response| response.has_body()),
        }
    }

    /// Asks for the body of the message whose hook runs. One that is too large is refused: a filter that looks at bodies must
    /// not be passed by.
    pub fn want_body(&mut self) -> Result<(), HostError> {
        match &mut self.0 {
            Phase::Request(phase) => phase.want_body(mini_rproxy_plugin::Side::Request, Oversize::Refuse),
            Phase::Response(phase) => phase.want_body(Oversize::Refuse),
            Phase::Done(_) => Err(HostError::WrongPhase),
        }
    }

    /// The name of this plugin's entry.
    pub fn plugin_name(&self) -> &str {
        match &self.0 {
            Phase::Request(phase) => phase.plugin_name(),
            Phase::Response(phase) => phase.plugin_name(),
            Phase::Done(phase) => phase.plugin_name(),
        }
    }

    /// Bytes of both bodies, and the address of the upstream: known when the exchange is over.
    pub fn outcome(&self) -> Option<&DonePhase<'_>> {
        match &self.0 {
            Phase::Done(phase) => Some(phase),
            _ => None,
        }
    }

    /// Whether that message may be changed now.
    pub fn is_writable(&self, side: Side) -> bool {
        matches!((&self.0, side), (Phase::Request(_), Side::Request) | (Phase::Response(_), Side::Response))
    }

    pub fn set_field(&mut self, side: Side, name: &[u8], value: &[u8]) -> Result<(), HostError> {
        written!(self, side, phase => phase.set_field(name, value))
    }

    pub fn add_field(&mut self, side: Side, name: &[u8], value: &[u8]) -> Result<(), HostError> {
        written!(self, side, phase => phase.add_field(name, value))
    }

    pub fn remove_field(&mut self, side: Side, name: &[u8]) -> Result<(), HostError> {
        written!(self, side, phase => phase.remove_field(name).map(|_| ()))
    }

    pub fn set_body(&mut self, side: Side, body: &[u8]) -> Result<(), HostError> {
        written!(self, side, phase => phase.set_body(body))
    }

    pub fn set_method(&mut self, method: &[u8]) -> Result<(), HostError> {
        match &mut self.0 {
            Phase::Request(phase) => phase.set_method(method),
            _ => Err(HostError::WrongPhase),
        }
    }

    pub fn set_target(&mut self, target: &[u8]) -> Result<(), HostError> {
        match &mut self.0 {
            Phase::Request(phase) => phase.set_target(target),
            _ => Err(HostError::WrongPhase),
        }
    }

    pub fn set_authority(&mut self, authority: &[u8]) -> Result<(), HostError> {
        match &mut self.0 {
            Phase::Request(phase) => phase.set_authority(authority),
            _ => Err(HostError::WrongPhase),
        }
    }

    pub fn set_status(&mut self, status: u16) -> Result<(), HostError> {
        match &mut self.0 {
            Phase::Response(phase) => phase.set_status(status),
            _ => Err(HostError::WrongPhase),
        }
    }

    pub fn body(&self, side: Side) -> Option<&[u8]> {
        match (&self.0, side) {
            (Phase::Request(phase), Side::Request) => phase.body(),
            (Phase::Response(phase), Side::Response) => phase.body(),
            _ => None,
        }
    }

    pub fn value(&self, key: &str) -> Option<&[u8]> {
        match &self.0 {
            Phase::Request(phase) => phase.value(key),
            Phase::Response(phase) => phase.value(key),
            Phase::Done(phase) => phase.value(key),
        }
    }

    pub fn set_value(&mut self, key: &str, value: &[u8]) -> Result<(), HostError> {
        match &mut self.0 {
            Phase::Request(phase) => phase.set_value(key, value),
            Phase::Response(phase) => phase.set_value(key, value),
            Phase::Done(_) => Err(HostError::WrongPhase),
        }
    }

    /// Writes a line together with the client, the method and the path.
    pub fn log(&self, level: Level, text: &str) {
        match &self.0 {
            Phase::Request(phase) => phase.log(level, text),
            Phase::Response(phase) => phase.log(level, text),
            Phase::Done(phase) => phase.log(level, text),
        }
    }

    pub fn respond(&mut self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> Result<Verdict, HostError> {
        match &mut self.0 {
            Phase::Request(phase) => phase.respond(status, fields, body),
            Phase::Response(phase) => phase.respond(status, fields, body),
            Phase::Done(_) => Err(HostError::WrongPhase),
        }
    }
}

/// Where the state keeps what is lent, and to which context it belongs.
#[derive(Debug, Default)]
pub struct Lent(Option<(u32, Exchange<'static, 'static>)>);

impl Lent {
    /// The exchange of that context, where it is the one that is lent now. `'static` is not true, but nothing that an
    /// `Exchange` gives away outlives the borrow of itself, which ends before [`lend`] does.
    pub fn get(&mut self, context: u32) -> Option<&mut Exchange<'static, 'static>> {
        match &mut self.0 {
            Some((owner, exchange)) if *owner == context => Some(exchange),
            _ => None,
        }
    }

    /// The exchange that is lent, whichever context is the effective one.
    pub fn any(&self) -> Option<&Exchange<'static, 'static>> {
        self.0.as_ref().map(|(_, exchange)| exchange)
    }
}

/// Takes back what was lent, also where a panic passes.
struct TakeBack<'s>(&'s mut Store<State>);

impl Drop for TakeBack<'_> {
    fn drop(&mut self) {
        self.0.data_mut().lent = Lent(None);
    }
}

/// Lends an exchange to the host functions that the module calls while `run` runs, as that of `context`.
pub fn lend<R>(
    store: &mut Store<State>,
    context: u32,
    exchange: Exchange<'_, '_>,
    run: impl FnOnce(&mut Store<State>) -> R,
) -> R {
    // SAFETY: only the lifetimes change. The value lies in the store until `TakeBack` is dropped, which is before this
    // function returns, and so before the borrow ends that it came with. Whoever gets at it there borrows the store, and
    // no method of `Exchange` returns anything that outlives that borrow.
    let exchange = unsafe { std::mem::transmute::<Exchange<'_, '_>, Exchange<'static, 'static>>(exchange) };
    let lent = TakeBack(store);
    lent.0.data_mut().lent = Lent(Some((context, exchange)));
    run(&mut *lent.0)
}
