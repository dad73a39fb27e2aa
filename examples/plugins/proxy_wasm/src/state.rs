//! What the host keeps for one instance of a module: the data of its store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mini_rproxy_plugin::client::Answer;
use mini_rproxy_plugin::{Level, Verdict};
use wasmi::{Memory, StoreLimits, StoreLimitsBuilder, TypedFunc};

use crate::entry::Entry;
use crate::exchange::{Exchange, Lent};
use crate::http_call::{Calls, Mailbox};

/// The root context: there is one in each instance.
pub const ROOT: u32 = 1;

/// Elements of a table: functions whose address is taken. Large programs have some thousands.
const MAX_TABLE_ELEMENTS: usize = 100_000;

/// The context of an exchange.
#[derive(Debug)]
pub struct Context {
    pub started: SystemTime,
    /// The `:path` that the module has set; without it the module sees the client's.
    pub path: Option<Vec<u8>>,
    /// The `:authority` that the module has set.
    pub authority: Option<Vec<u8>>,
    pub calls: Calls,
    /// `proxy_on_done` said that the module is not done yet; the module ends the context by `proxy_done`.
    pub is_ending: bool,
}

impl Context {
    pub fn new() -> Context {
        Context { started: SystemTime::now(), path: None, authority: None, calls: Calls::default(), is_ending: false }
    }
}

/// What a module asked for during a callback.
#[derive(Debug, Default)]
pub struct Requests {
    /// It has answered.
    pub answer: Option<Verdict>,
    /// `proxy_continue_stream`, before the callback returned.
    pub has_continued: bool,
    /// `proxy_close_stream`
    pub has_closed: bool,
}

/// The data of a store.
pub struct State {
    /// What all instances of this entry share.
    pub entry: Arc<Entry>,
    pub limits: StoreLimits,
    pub memory: Option<Memory>,
    /// `proxy_on_memory_allocate` or `malloc`.
    pub allocator: Option<TypedFunc<u32, u32>>,
    pub is_allocating: bool,
    /// Reused by [`crate::guest::Guest::give`].
    pub buffer: Vec<u8>,
    /// The exchange of the hook that runs.
    pub lent: Lent,
    /// The contexts of exchanges; the root context is not among them.
    pub contexts: BTreeMap<u32, Context>,
    /// The context that host functions act upon.
    pub effective: u32,
    pub requests: Requests,
    /// What the threads that make calls have for this instance.
    pub mailbox: Arc<Mailbox>,
    pub root_calls: Calls,
    /// That of the last call. 0 stands for none.
    pub last_token: u32,
    /// During `proxy_on_http_call_response`: the answer, where there is one.
    pub call_answer: Option<Answer>,
    /// Contexts for which `proxy_done` was called after they had waited for it.
    pub ended: Vec<u32>,
    /// While `proxy_on_vm_start` runs: ABI 0.1.0 has one function for both configurations.
    pub is_starting: bool,
    pub tick: Option<Duration>,
    pub next_tick: Instant,
    /// The shared queues that this instance has registered.
    pub queues: Vec<u32>,
}

impl State {
    pub fn new(entry: Arc<Entry>) -> State {
        let limits = StoreLimitsBuilder::new()
            .memory_size(entry.config.memory)
            .memories(1)
            .tables(10)
            .table_elements(MAX_TABLE_ELEMENTS)
            .instances(1)
            .build();
        State {
            entry,
            limits,
            memory: None,
            allocator: None,
            is_allocating: false,
            buffer: Vec::new(),
            lent: Lent::default(),
            contexts: BTreeMap::new(),
            effective: ROOT,
            requests: Requests::default(),
            mailbox: Arc::default(),
            root_calls: Calls::default(),
            last_token: 0,
            call_answer: None,
            ended: Vec::new(),
            is_starting: false,
            tick: None,
            next_tick: Instant::now(),
            queues: Vec::new(),
        }
    }

    /// Whether the module can make calls, and answers may have come.
    pub fn has_calls(&self) -> bool {
        !self.entry.config.clusters.is_empty()
    }

    /// Writes a line that the module wrote, together with the exchange whose hook runs.
    pub fn log(&self, level: Level, message: &[u8]) {
        let log = self.entry.log;
        if !log.is_enabled(level) {
            return;
        }
        let text = String::from_utf8_lossy(message);
        match self.lent.any() {
            Some(exchange) => exchange.log(level, &text),
            None => log.log(level, text),
        }
    }

    /// The exchange of the effective context, where it is the one whose hook runs.
    pub fn exchange(&mut self) -> Option<&mut Exchange<'static, 'static>> {
        self.lent.get(self.effective)
    }

    /// The exchange and its context.
    pub fn exchange_and_context(&mut self) -> Option<(&mut Exchange<'static, 'static>, &mut Context)> {
        Some((self.lent.get(self.effective)?, self.contexts.get_mut(&self.effective)?))
    }
}
