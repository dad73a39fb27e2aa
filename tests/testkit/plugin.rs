//! A plugin that does what a script says, and writes down when it was called.

use std::sync::Mutex;

use mini_rproxy::http::fields::Fields;
use mini_rproxy::proxy::hooks::{BufferBodies, HookContext, Hooks, LocalResponse, Phase, Verdict};

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
}

/// What the hooks do, in order.
#[derive(Debug, Default)]
pub struct Plugin {
    pub wants: BufferBodies,
    pub on_request: Vec<Op>,
    pub on_response: Vec<Op>,
    pub calls: Mutex<Vec<String>>,
}

impl Plugin {
    /// Takes the calls since the last time.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("no hook panics"))
    }

    fn note(&self, call: String) {
        self.calls.lock().expect("no hook panics").push(call);
    }
}

fn body_of(body: Option<&Vec<u8>>) -> String {
    body.map_or(String::new(), |body| format!(" body={}", body.escape_ascii()))
}

impl Hooks for Plugin {
    fn wants(&self) -> BufferBodies {
        self.wants
    }

    fn call(&self, phase: Phase, view: &mut HookContext<'_>) -> Verdict {
        match phase {
            Phase::Request => self.on_request(view),
            Phase::Response => self.on_response(view),
            Phase::Done => {
                self.note("done".to_owned());
                Verdict::Continue
            }
        }
    }
}

impl Plugin {
    fn on_request(&self, view: &mut HookContext<'_>) -> Verdict {
        view.state.started = 1;
        let (method, target) = (view.request.method.as_bytes().escape_ascii(), view.request.target.escape_ascii());
        self.note(format!("request {method} {target}{}", body_of(view.request_body.as_deref())));
        for op in &self.on_request {
            match op {
                Op::Respond(status, body) => return respond(*status, body),
                Op::Fail => return Verdict::Fail,
                Op::Set(name, value) => view.request.fields.set(name.as_bytes(), value.as_bytes()),
                Op::Remove(name) => {
                    view.request.fields.remove(name.as_bytes());
                }
                Op::Method(method) => view.request.method = mini_rproxy::http::head::Method::of(method.as_bytes()),
                Op::Status(_) => {}
                Op::Body(text) => replace(view.request_body.as_deref_mut(), text),
            }
        }
        Verdict::Continue
    }

    fn on_response(&self, view: &mut HookContext<'_>) -> Verdict {
        let status = view.response.as_ref().map_or(0, |head| head.status);
        self.note(format!("response {status}{}", body_of(view.response_body.as_deref())));
        for op in &self.on_response {
            let Some(head) = view.response.as_deref_mut() else { break };
            match op {
                Op::Respond(status, body) => return respond(*status, body),
                Op::Fail => return Verdict::Fail,
                Op::Set(name, value) => head.fields.set(name.as_bytes(), value.as_bytes()),
                Op::Remove(name) => {
                    head.fields.remove(name.as_bytes());
                }
                Op::Method(_) => {}
                Op::Status(status) => head.status = *status,
                Op::Body(text) => replace(view.response_body.as_deref_mut(), text),
            }
        }
        Verdict::Continue
    }
}

fn replace(body: Option<&mut Vec<u8>>, text: &str) {
    if let Some(body) = body {
        body.clear();
        body.extend_from_slice(text.as_bytes());
    }
}

fn respond(status: u16, body: &str) -> Verdict {
    let mut fields = Fields::new();
    fields.add(b"Content-Type", b"text/plain");
    let answer = Box::new(LocalResponse { status, fields, body: body.as_bytes().to_vec() });
    Verdict::Respond(answer)
}
