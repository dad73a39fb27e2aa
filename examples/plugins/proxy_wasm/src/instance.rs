//! One instance of a module: it belongs to one thread, and has one root context and a context for each exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use mini_rproxy_plugin::{DonePhase, Level, Verdict};
use wasmi::{Store, TrapCode, TypedFunc, WasmParams, WasmResults};

use crate::config::Body;
use crate::entry::Entry;
use crate::exchange::{Exchange, Side, lend};
use crate::http_call::{Done, Mailbox};
use crate::maps;
use crate::state::{Context, ROOT, Requests, State};

/// Contexts that may wait for their module to call `proxy_done`; above it they end without.
const MAX_ENDING: usize = 1_000;
/// Items of queues that a module is told of before one request.
const MAX_READY: usize = 16;

/// The actions that callbacks return.
const CONTINUE: u32 = 0;
const PAUSE: u32 = 1;

/// The part of a message for which a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Head,
    Body,
}

/// What a module wants next.
#[derive(Debug)]
pub enum Next {
    Continue,
    /// It has answered.
    Respond(Verdict),
    /// It waits, and nothing will come.
    Pause,
    /// It waits for calls.
    Wait {
        mailbox: Arc<Mailbox>,
        context: u32,
    },
    /// It waited in an instance that is no more.
    Lost,
    /// It has closed the stream.
    Close,
}

/// `proxy_on_request_headers` and `proxy_on_response_headers`, which ABI 0.1.0 has without the end of the stream.
enum OnHeaders {
    Old(TypedFunc<(u32, u32), u32>),
    New(TypedFunc<(u32, u32, u32), u32>),
}

type OnCallResponse = TypedFunc<(u32, u32, u32, u32, u32), ()>;

/// The callbacks that the module exports; all are optional.
struct Exports {
    on_context_create: Option<TypedFunc<(u32, u32), ()>>,
    on_request_headers: Option<OnHeaders>,
    on_response_headers: Option<OnHeaders>,
    on_request_body: Option<TypedFunc<(u32, u32, u32), u32>>,
    on_response_body: Option<TypedFunc<(u32, u32, u32), u32>>,
    on_done: Option<TypedFunc<u32, u32>>,
    on_log: Option<TypedFunc<u32, ()>>,
    on_delete: Option<TypedFunc<u32, ()>>,
    on_http_call_response: Option<OnCallResponse>,
    on_tick: Option<TypedFunc<u32, ()>>,
    on_queue_ready: Option<TypedFunc<(u32, u32), ()>>,
}

/// An instance of a module.
pub struct Instance {
    store: Store<State>,
    exports: Exports,
    /// No two instances have the same: an exchange finds its context only in the instance that made it.
    serial: u32,
    last_context: u32,
}

/// An exported function of that type, if there is one; another type is an error.
fn exported<P: WasmParams, R: WasmResults>(
    instance: &wasmi::Instance,
    store: &Store<State>,
    name: &str,
) -> Result<Option<TypedFunc<P, R>>, String> {
    match instance.get_func(store, name) {
        Some(func) => func
            .typed(store)
            .map(Some)
            .map_err(|_| format!("exports {name} with a signature that is not the interface's")),
        None => Ok(None),
    }
}

fn on_headers(instance: &wasmi::Instance, store: &Store<State>, name: &str) -> Result<Option<OnHeaders>, String> {
    match exported(instance, store, name) {
        Ok(func) => Ok(func.map(OnHeaders::New)),
        Err(_) => Ok(exported(instance, store, name)?.map(OnHeaders::Old)),
    }
}

/// Calls a function of the module with fuel for one callback.
fn call<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    func: &TypedFunc<P, R>,
    name: &str,
    context: u32,
    params: P,
) -> Result<R, String> {
    let fuel = store.data().entry.config.fuel;
    store.set_fuel(fuel).map_err(|error| error.to_string())?;
    let state = store.data_mut();
    state.effective = context;
    state.requests = Requests::default();
    func.call(&mut *store, params).map_err(|error| crash(&error, name, fuel))
}

/// Calls a function that may be absent.
fn call_optional<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    func: &Option<TypedFunc<P, R>>,
    name: &str,
    context: u32,
    params: P,
) -> Result<Option<R>, String> {
    func.as_ref().map(|func| call(store, func, name, context, params)).transpose()
}

/// What happened, in words that say what to do.
fn crash(error: &wasmi::Error, name: &str, fuel: u64) -> String {
    match error.as_trap_code() {
        Some(TrapCode::OutOfFuel) => {
            format!("used up its fuel of {fuel} in {name}: it loops without end, or `fuel` must be raised")
        }
        Some(TrapCode::UnreachableCodeReached) => {
            format!("crashed in {name}: it reached `unreachable`, which is how most languages end a panic")
        }
        Some(TrapCode::StackOverflow) => format!("crashed in {name}: calls are nested too deeply"),
        Some(_) | None => format!("crashed in {name}: {error}"),
    }
}

impl Instance {
    /// Makes an instance and starts it.
    pub fn new(entry: &Arc<Entry>) -> Result<Instance, String> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let mut store = Store::new(entry.module.engine(), State::new(Arc::clone(entry)));
        store.limiter(|state| &mut state.limits);
        store.set_fuel(entry.config.fuel).map_err(|error| error.to_string())?;
        let instance = entry.linker.instantiate_and_start(&mut store, &entry.module).map_err(|error| {
            format!("cannot be instantiated: {}", crash(&error, "its start section", entry.config.fuel))
        })?;
        let name = |name| if instance.get_func(&store, name).is_some() { name } else { "malloc" };
        let allocator = exported(&instance, &store, name("proxy_on_memory_allocate"))?;
        let memory = instance.get_memory(&store, "memory");
        let state = store.data_mut();
        state.allocator = allocator;
        state.memory = memory;
        let exports = Exports {
            on_context_create: exported(&instance, &store, "proxy_on_context_create")?,
            on_request_headers: on_headers(&instance, &store, "proxy_on_request_headers")?,
            on_response_headers: on_headers(&instance, &store, "proxy_on_response_headers")?,
            on_request_body: exported(&instance, &store, "proxy_on_request_body")?,
            on_response_body: exported(&instance, &store, "proxy_on_response_body")?,
            on_done: exported(&instance, &store, "proxy_on_done")?,
            on_log: exported(&instance, &store, "proxy_on_log")?,
            on_delete: exported(&instance, &store, "proxy_on_delete")?,
            on_http_call_response: exported(&instance, &store, "proxy_on_http_call_response")?,
            on_tick: exported(&instance, &store, "proxy_on_tick")?,
            on_queue_ready: exported(&instance, &store, "proxy_on_queue_ready")?,
        };
        start(&mut store, &instance, &exports)?;
        Ok(Instance { store, exports, serial: SERIAL.fetch_add(1, Ordering::Relaxed), last_context: ROOT })
    }

    pub fn entry(&self) -> &Arc<Entry> {
        &self.store.data().entry
    }

    /// A hook: runs the callback of that part of the message. Where the exchange has waited for calls, `is_resumed`, the
    /// callback has run already, and the module is told of the answers.
    pub fn run(
        &mut self,
        mut exchange: Exchange<'_, '_>,
        side: Side,
        part: Part,
        is_resumed: bool,
    ) -> Result<Next, String> {
        let (context, is_new) = if is_resumed {
            let Some(context) = self.known_context(&exchange) else { return Ok(Next::Lost) };
            (context, false)
        } else {
            if part == Part::Head {
                self.run_due()?;
            }
            self.context(&mut exchange)?
        };
        let Instance { store, exports, .. } = self;
        let next = lend(store, context, exchange, |store| {
            if is_new {
                let create = &exports.on_context_create;
                call_optional(store, create, "proxy_on_context_create", context, (context, ROOT))?;
            }
            match (tell_answers(store, exports, context, is_resumed)?, is_resumed) {
                // What comes late decides nothing else: nobody waits for it.
                (Next::Pause | Next::Continue, false) => callback(store, exports, context, side, part),
                (next, _) => Ok(next),
            }
            .and_then(|next| settle(store, context, side, part, next))
        })?;
        self.end_done()?;
        Ok(next)
    }

    /// Whether the module has a callback for each body that is configured.
    pub fn check_bodies(&self) -> Result<(), String> {
        let Exports { on_request_body, on_response_body, .. } = &self.exports;
        for (body, func, name) in [
            (Body::Request, on_request_body, "proxy_on_request_body"),
            (Body::Response, on_response_body, "proxy_on_response_body"),
        ] {
            if self.entry().config.bodies.contains(&body) && func.is_none() {
                return Err(format!("exports no {name}, but `bodies` asks for it: leave it out there"));
            }
        }
        Ok(())
    }

    /// The context of an exchange. It is a new one in the request hook, and where the instance that had it has crashed.
    fn context(&mut self, exchange: &mut Exchange<'_, '_>) -> Result<(u32, bool), String> {
        if let Some(context) = self.known_context(exchange) {
            return Ok((context, false));
        }
        // Numbers come again after four thousand million requests; then those in use are passed over.
        let contexts = &mut self.store.data_mut().contexts;
        loop {
            self.last_context = self.last_context.wrapping_add(1);
            if self.last_context > ROOT && !contexts.contains_key(&self.last_context) {
                break;
            }
        }
        contexts.insert(self.last_context, Context::new());
        let mut value = [0; 8];
        value[..4].copy_from_slice(&self.serial.to_le_bytes());
        value[4..].copy_from_slice(&self.last_context.to_le_bytes());
        let key = &self.store.data().entry.context_key;
        exchange.set_value(key, &value).map_err(|error| format!("cannot be given a context: {error}"))?;
        Ok((self.last_context, true))
    }

    fn known_context(&self, exchange: &Exchange<'_, '_>) -> Option<u32> {
        let state = self.store.data();
        let value: [u8; 8] = exchange.value(&state.entry.context_key)?.try_into().ok()?;
        let [serial, context] = [[value[0], value[1], value[2], value[3]], [value[4], value[5], value[6], value[7]]];
        let context = u32::from_le_bytes(context);
        (u32::from_le_bytes(serial) == self.serial && state.contexts.contains_key(&context)).then_some(context)
    }

    /// After the exchange: the context ends.
    pub fn done(&mut self, x: &DonePhase<'_>) -> Result<(), String> {
        let exchange = Exchange::from(x);
        let Some(context) = self.known_context(&exchange) else { return Ok(()) };
        if self.store.data().has_calls() {
            self.store.data().mailbox.forget(context);
        }
        let Instance { store, exports, .. } = self;
        lend(store, context, exchange, |store| {
            let is_done = call_optional(store, &exports.on_done, "proxy_on_done", context, context)?;
            let state = store.data_mut();
            let ending = || state.contexts.values().filter(|context| context.is_ending).count();
            if is_done.unwrap_or(1) != 0 || ending() >= MAX_ENDING {
                return end_context(store, exports, context);
            }
            if let Some(context) = state.contexts.get_mut(&context) {
                context.is_ending = true;
            }
            Ok(())
        })?;
        self.end_done()
    }

    /// Ends the contexts for which the module has called `proxy_done` by now.
    fn end_done(&mut self) -> Result<(), String> {
        for context in std::mem::take(&mut self.store.data_mut().ended) {
            end_context(&mut self.store, &self.exports, context)?;
        }
        Ok(())
    }

    /// Ticks that are due, queues that have something new, and answers for which no exchange is left. A module runs only on
    /// its worker's thread, and so before a request of that thread.
    fn run_due(&mut self) -> Result<(), String> {
        let Instance { store, exports, .. } = self;
        let state = store.data_mut();
        if let Some(tick) = state.tick
            && let now = Instant::now()
            && now >= state.next_tick
        {
            state.next_tick = now + tick;
            call_optional(store, &exports.on_tick, "proxy_on_tick", ROOT, ROOT)?;
        }
        let (mut index, mut told) = (0, 0);
        while let Some(&queue) = store.data().queues.get(index)
            && told < MAX_READY
        {
            if store.data().entry.shared.take_ready(queue) {
                told += 1;
                call_optional(store, &exports.on_queue_ready, "proxy_on_queue_ready", ROOT, (ROOT, queue))?;
            } else {
                index += 1;
            }
        }
        if !store.data().has_calls() {
            return Ok(());
        }
        let mailbox = Arc::clone(&store.data().mailbox);
        for _ in 0..MAX_READY {
            let contexts = &store.data().contexts;
            let has_no_exchange = |id| contexts.get(&id).is_none_or(|context| context.is_ending);
            let Some(done) = mailbox.take(has_no_exchange) else { break };
            tell(store, exports, done)?;
        }
        Ok(())
    }
}

/// Runs the callback of a part of a message.
fn callback(store: &mut Store<State>, exports: &Exports, context: u32, side: Side, part: Part) -> Result<Next, String> {
    let Some(exchange) = store.data_mut().lent.get(context) else { return Ok(Next::Continue) };
    let action = match part {
        Part::Head => {
            let (func, name) = match side {
                Side::Request => (&exports.on_request_headers, "proxy_on_request_headers"),
                Side::Response => (&exports.on_response_headers, "proxy_on_response_headers"),
            };
            let (count, is_end) = (maps::count(exchange, side), u32::from(!exchange.has_body(side)));
            match func {
                Some(OnHeaders::New(func)) => Some(call(store, func, name, context, (context, count, is_end))?),
                Some(OnHeaders::Old(func)) => Some(call(store, func, name, context, (context, count))?),
                None => None,
            }
        }
        Part::Body => {
            let (func, name) = match side {
                Side::Request => (&exports.on_request_body, "proxy_on_request_body"),
                Side::Response => (&exports.on_response_body, "proxy_on_response_body"),
            };
            const IS_END: u32 = 1;
            let len = exchange.body(side).map_or(0, <[u8]>::len) as u32;
            call_optional(store, func, name, context, (context, len, IS_END))?
        }
    };
    let requests = std::mem::take(&mut store.data_mut().requests);
    Ok(next(requests, action.unwrap_or(CONTINUE)))
}

/// Tells the module of the answers that have come for an exchange. An exchange that has waited for them goes on when the module
/// says so; the others are for its next callback.
fn tell_answers(store: &mut Store<State>, exports: &Exports, context: u32, is_resumed: bool) -> Result<Next, String> {
    if !store.data().has_calls() {
        return Ok(Next::Pause);
    }
    let mailbox = Arc::clone(&store.data().mailbox);
    while let Some(done) = mailbox.take(|other| other == context) {
        tell(store, exports, done)?;
        match next(std::mem::take(&mut store.data_mut().requests), PAUSE) {
            Next::Pause => {}
            Next::Continue if !is_resumed => {}
            next => return Ok(next),
        }
    }
    Ok(Next::Pause)
}

/// Tells the module of the end of a call. It belongs to the root context, as in Envoy: SDKs find the exchange by the token.
fn tell(store: &mut Store<State>, exports: &Exports, done: Done) -> Result<(), String> {
    let state = store.data_mut();
    match state.contexts.get_mut(&done.context) {
        Some(context) => context.calls.open -= 1,
        None if done.context == ROOT => state.root_calls.open -= 1,
        None => {}
    }
    if let Err(why) = &done.result {
        state.log(Level::Warn, format!("a call of the module has failed: {why}").as_bytes());
    }
    // Without an answer there are no fields, not even a status.
    let count =
        done.result.as_ref().map_or((0, 0), |answer| (answer.fields.len() as u32 + 1, answer.body.len() as u32));
    state.call_answer = done.result.ok();
    let params = (ROOT, done.token, count.0, count.1, 0);
    let result = call_optional(store, &exports.on_http_call_response, "proxy_on_http_call_response", ROOT, params);
    store.data_mut().call_answer = None;
    result.map(|_| ())
}

/// What becomes of an exchange whose module is not done: it waits for calls, or for its body. A module that pauses at the head
/// gets the body when no call is left: the head waits with it.
fn settle(store: &mut Store<State>, context: u32, side: Side, part: Part, next: Next) -> Result<Next, String> {
    let state = store.data_mut();
    let has_calls = state.contexts.get(&context).is_some_and(|context| context.calls.open > 0);
    if matches!(next, Next::Pause) && has_calls {
        return Ok(Next::Wait { mailbox: Arc::clone(&state.mailbox), context });
    }
    let body = match side {
        Side::Request => Body::Request,
        Side::Response => Body::Response,
    };
    let is_wanted = part == Part::Head && state.entry.config.bodies.contains(&body);
    match (next, state.lent.get(context)) {
        (Next::Continue | Next::Pause, Some(exchange)) if is_wanted && exchange.has_body(side) => {
            exchange.want_body().map_err(|error| format!("cannot be given a body: {error}"))?;
            Ok(Next::Continue)
        }
        (next, _) => Ok(next),
    }
}

/// What follows from what the module asked for and from the action that it returned.
fn next(requests: Requests, action: u32) -> Next {
    match requests {
        Requests { answer: Some(answer), .. } => Next::Respond(answer),
        Requests { has_closed: true, .. } => Next::Close,
        Requests { has_continued: true, .. } => Next::Continue,
        _ if action == CONTINUE => Next::Continue,
        _ => Next::Pause,
    }
}

fn end_context(store: &mut Store<State>, exports: &Exports, context: u32) -> Result<(), String> {
    call_optional(store, &exports.on_log, "proxy_on_log", context, context)?;
    call_optional(store, &exports.on_delete, "proxy_on_delete", context, context)?;
    store.data_mut().contexts.remove(&context);
    Ok(())
}

/// Starts a module: its own initialization, then the root context and both configurations.
fn start(store: &mut Store<State>, instance: &wasmi::Instance, exports: &Exports) -> Result<(), String> {
    if let Some(initialize) = exported::<(), ()>(instance, store, "_initialize")? {
        call(store, &initialize, "_initialize", ROOT, ())?;
        if let Ok(main) = exported::<(u32, u32), u32>(instance, store, "main") {
            call_optional(store, &main, "main", ROOT, (0, 0))?;
        }
    } else {
        let start = exported::<(), ()>(instance, store, "_start")?;
        call_optional(store, &start, "_start", ROOT, ())?;
    }
    call_optional(store, &exports.on_context_create, "proxy_on_context_create", ROOT, (ROOT, 0))?;
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let entry = Arc::clone(&store.data().entry);
    for (name, config) in [("proxy_on_vm_start", &entry.config.vm_config), ("proxy_on_configure", &entry.config.config)]
    {
        let func = exported(instance, store, name)?;
        store.data_mut().is_starting = name == "proxy_on_vm_start";
        let is_good = call_optional(store, &func, name, ROOT, (ROOT, len(&config.0)))?;
        if is_good == Some(0_u32) {
            return Err(format!(
                "refuses its configuration: {name} returned false; the module's own log lines may say why"
            ));
        }
    }
    store.data_mut().is_starting = false;
    Ok(())
}
