//! A plugin that does what a script says, and writes down when it was called. It is a chain of one, as `plugin::chain` would
//! call it.

use std::sync::Mutex;

use mini_rproxy::http::fields::Fields;
use mini_rproxy::proxy::hooks::{
    HookBody, HookContext, Hooks, LocalResponse, Phase, Position, Side, Step, Verdict, WantedBody,
};
use mini_rproxy::proxy::tickets::{self, Ticket};

/// One thing to do in a hook.
#[derive(Clone, Debug)]
pub enum Op {
    Respond(u16, String),
    Fail,
    Set(String, String),
    Remove(String),
    /// Puts another body in the place of the one that was collected.
    Body(String),
    /// Sends another method on.
    Method(String),
    Status(u16),
    /// Asks for a body.
    Want(Side, bool),
    /// Waits, and what comes behind it is not done.
    Pause,
    /// The same, resumed before the hook returns.
    PauseResumed,
}

/// Which bodies the plugin always waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub request: bool,
    pub response: bool,
    pub is_optional: bool,
}

/// What the hooks do, in order.
#[derive(Clone, Debug, Default)]
pub struct Ops {
    pub on_request: Vec<Op>,
    pub on_response: Vec<Op>,
    pub on_request_body: Vec<Op>,
    pub on_response_body: Vec<Op>,
    pub on_resume: Vec<Op>,
}

#[derive(Debug, Default)]
pub struct Plugin {
    pub wants: Wants,
    pub ops: Ops,
    pub calls: Mutex<Vec<String>>,
    /// The number of the last ticket.
    pub ticket: Mutex<u64>,
}

impl Plugin {
    /// Takes the calls since the last time.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("no hook panics"))
    }

    /// Whether it does nothing.
    pub fn is_idle(&self) -> bool {
        let Ops { on_request, on_response, on_request_body, on_response_body, on_resume } = &self.ops;
        let all = [on_request, on_response, on_request_body, on_response_body, on_resume];
        self.wants == Wants::default() && all.iter().all(|ops| ops.is_empty())
    }

    /// Whether a body may be collected for it.
    pub fn may_want(&self) -> bool {
        let Ops { on_request, on_response, on_resume, .. } = &self.ops;
        let mut all = on_request.iter().chain(on_response).chain(on_resume);
        self.wants.request || self.wants.response || all.any(|op| matches!(op, Op::Want(..)))
    }

    /// Ends the last pause, and says whether there was one to end.
    pub fn resume(&self, is_good: bool) -> bool {
        tickets::resume(*self.ticket.lock().expect("no hook panics"), is_good)
    }

    fn note(&self, call: String) {
        self.calls.lock().expect("no hook panics").push(call);
    }
}

fn body<'v, 'x>(view: &'v mut HookContext<'x>, side: Side) -> &'v mut HookBody<'x> {
    if side == Side::Request { &mut view.request_body } else { &mut view.response_body }
}

fn text(body: &HookBody<'_>) -> String {
    match body {
        HookBody::Whole(body) => format!(" body={}", body.escape_ascii()),
        HookBody::TooLarge => " body too large".to_owned(),
        HookBody::None | HookBody::Coming => String::new(),
    }
}

impl Hooks for Plugin {
    fn call(&self, phase: Phase, view: &mut HookContext<'_>) -> Verdict {
        let side = match phase {
            Phase::Request => Side::Request,
            Phase::Response => Side::Response,
            Phase::Done => {
                self.note("done".to_owned());
                return Verdict::Continue;
            }
        };
        if view.state.position.phase != Some(phase) {
            view.state.position = Position { phase: Some(phase), ..Position::default() };
        }
        while view.state.position.nth == 0 {
            match self.step(side, view) {
                Verdict::Continue => {
                    let is_body_next = view.state.wanted_by(0, side).is_some_and(|wanted| !wanted.is_given);
                    let position = &mut view.state.position;
                    (position.step, position.nth) = if is_body_next { (Step::Body, 0) } else { (Step::Hook, 1) };
                }
                verdict => return verdict,
            }
        }
        Verdict::Continue
    }
}

impl Plugin {
    fn step(&self, side: Side, view: &mut HookContext<'_>) -> Verdict {
        let step = view.state.position.step;
        let is_request = side == Side::Request;
        let always = if is_request { self.wants.request } else { self.wants.response };
        let needs = match step {
            Step::Hook => always.then_some(self.wants.is_optional),
            Step::Body => view.state.wanted_by(0, side).map(|wanted| wanted.is_optional),
            Step::Resume { .. } => None,
        };
        let mut shown = String::new();
        if let Some(is_optional) = needs {
            match body(view, side) {
                HookBody::Coming => return Verdict::AwaitBody,
                HookBody::TooLarge if !is_optional => return Verdict::TooLarge,
                body => shown = text(body),
            }
            view.state.writes_response_body |= !is_request;
            if let (Step::Body, Some(wanted)) = (step, view.state.wanted_by(0, side)) {
                wanted.is_given = true;
            }
        }
        let word = if is_request { "request" } else { "response" };
        let ops = match step {
            Step::Hook if is_request => {
                view.state.started = 1;
                let (method, target) =
                    (view.request.method.as_bytes().escape_ascii(), view.request.target.escape_ascii());
                self.note(format!("request {method} {target}{shown}"));
                &self.ops.on_request
            }
            Step::Hook => {
                view.state.responded = 1;
                let status = view.response.as_ref().map_or(0, |head| head.status);
                self.note(format!("response {status}{shown}"));
                &self.ops.on_response
            }
            Step::Body => {
                self.note(format!("whole {word}{shown}"));
                if is_request { &self.ops.on_request_body } else { &self.ops.on_response_body }
            }
            Step::Resume { result: Some(true), .. } => {
                self.note(format!("resume {word}"));
                &self.ops.on_resume
            }
            Step::Resume { .. } => {
                self.note(format!("resume {word} failed"));
                return Verdict::Fail;
            }
        };
        let is_given = view.state.wanted_by(0, side).is_some_and(|wanted| wanted.is_given);
        self.run(side, view, ops, always || is_given)
    }

    fn run(&self, side: Side, view: &mut HookContext<'_>, ops: &[Op], has_body: bool) -> Verdict {
        for op in ops {
            match op {
                Op::Respond(status, body) => return respond(*status, body),
                Op::Fail => return Verdict::Fail,
                Op::Set(name, value) => fields(side, view, |fields| fields.set(name.as_bytes(), value.as_bytes())),
                Op::Remove(name) => fields(side, view, |fields| {
                    fields.remove(name.as_bytes());
                }),
                Op::Method(method) if side == Side::Request => {
                    view.request.method = mini_rproxy::http::head::Method::of(method.as_bytes());
                }
                Op::Method(_) => {}
                Op::Status(status) => {
                    if let Some(head) = view.response.as_deref_mut() {
                        head.status = *status;
                    }
                }
                Op::Body(text) => {
                    if let (true, HookBody::Whole(body)) = (has_body, body(view, side)) {
                        body.clear();
                        body.extend_from_slice(text.as_bytes());
                    }
                }
                Op::Want(Side::Request, _) if side == Side::Response => {}
                Op::Want(of, is_optional) => match view.state.wanted_by(0, *of) {
                    Some(wanted) => wanted.is_optional = *is_optional,
                    None => {
                        let (side, is_optional) = (*of, *is_optional);
                        view.state.wanted.push(WantedBody { plugin: 0, side, is_optional, is_given: false });
                    }
                },
                Op::Pause | Op::PauseResumed => {
                    let ticket = Ticket::issue();
                    let number = ticket.number();
                    *self.ticket.lock().expect("no hook panics") = number;
                    // Not again and again without end.
                    if let (Op::PauseResumed, Step::Hook | Step::Body) = (op, view.state.position.step) {
                        tickets::resume(number, true);
                    }
                    view.state.position.step = Step::Resume { ticket: number, result: None };
                    return Verdict::Pause(ticket);
                }
            }
        }
        Verdict::Continue
    }
}

fn fields(side: Side, view: &mut HookContext<'_>, change: impl FnOnce(&mut Fields)) {
    match (side, &mut view.response) {
        (Side::Request, _) => change(&mut view.request.fields),
        (Side::Response, Some(head)) => change(&mut head.fields),
        (Side::Response, None) => {}
    }
}

fn respond(status: u16, body: &str) -> Verdict {
    let mut fields = Fields::new();
    fields.add(b"Content-Type", b"text/plain");
    let answer = Box::new(LocalResponse { status, fields, body: body.as_bytes().to_vec() });
    Verdict::Respond(answer)
}
