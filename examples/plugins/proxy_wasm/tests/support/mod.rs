//! Modules from text, and what they log.
//!
//! A test writes the body of a callback in WebAssembly text. What it may use beside the instructions:
//! `$s("text")` stands for address and length of a text; `(call $say $s("x"))` logs a text, `(call $num (...))` a number, and
//! `(call $out)` the value that the host has given back: all calls that return data are pointed to [`AT`].
#![allow(dead_code)]

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mini_rproxy_plugin::Level;
use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
use proxy_wasm::ProxyWasm;

/// Where host functions write address and length of data, in the text: `$at` for the address, `$len` for the length.
pub const AT: &str = "(i32.const 0) (i32.const 4)";

/// All functions of the interface, so that each module checks their signatures.
const IMPORTS: &str = r#"
    (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
    (import "env" "proxy_get_log_level" (func $get_log_level (param i32) (result i32)))
    (import "env" "proxy_get_current_time_nanoseconds" (func $get_time (param i32) (result i32)))
    (import "env" "proxy_set_tick_period_milliseconds" (func $set_tick (param i32) (result i32)))
    (import "env" "proxy_set_effective_context" (func $set_context (param i32) (result i32)))
    (import "env" "proxy_done" (func $done (result i32)))
    (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
    (import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
    (import "env" "proxy_get_buffer_bytes" (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_buffer_status" (func $buffer_status (param i32 i32 i32) (result i32)))
    (import "env" "proxy_set_buffer_bytes" (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_send_local_response" (func $respond (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_status" (func $get_status (param i32 i32 i32) (result i32)))
    (import "env" "proxy_call_foreign_function" (func $foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_header_map_size" (func $map_size (param i32 i32) (result i32)))
    (import "env" "proxy_get_header_map_pairs" (func $get_pairs (param i32 i32 i32) (result i32)))
    (import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
    (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
    (import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_shared_data" (func $get_shared (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_shared_data" (func $set_shared (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_register_shared_queue" (func $register_queue (param i32 i32 i32) (result i32)))
    (import "env" "proxy_resolve_shared_queue" (func $resolve_queue (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
    (import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))
    (import "env" "proxy_define_metric" (func $define_metric (param i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))
    (import "env" "proxy_increment_metric" (func $increment_metric (param i32 i64) (result i32)))
    (import "env" "proxy_get_metric" (func $get_metric (param i32 i32) (result i32)))
    (import "env" "proxy_http_call" (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_grpc_call"
        (func $grpc_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_grpc_close" (func $grpc_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
"#;

/// Memory, an allocator that only goes forward, and the functions that log. Digits are made at 64 and below.
const HELPERS: &str = r#"
    (memory (export "memory") 2)
    (global $heap (mut i32) (i32.const 65536))
    (func $allocate (export "proxy_on_memory_allocate") (param $len i32) (result i32)
        (global.get $heap)
        (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $len)) (i32.const 7)) (i32.const -8))))
    (func $say (param i32 i32) (drop (call $log (i32.const 2) (local.get 0) (local.get 1))))
    (func $out (call $say (i32.load (i32.const 0)) (i32.load (i32.const 4))))
    (func $num (param $n i32) (local $at i32)
        (local.set $at (i32.const 64))
        (loop $digit
            (local.set $at (i32.sub (local.get $at) (i32.const 1)))
            (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
            (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
            (br_if $digit (local.get $n)))
        (call $say (local.get $at) (i32.sub (i32.const 64) (local.get $at))))
"#;

/// A module with these functions beside the helpers.
pub fn module(functions: &str) -> Vec<u8> {
    module_of(&format!("{IMPORTS} {HELPERS} (func (export \"proxy_abi_version_0_2_1\")) {functions}"))
}

/// The same with another allocator.
pub fn module_with_allocator(allocator: &str, functions: &str) -> Vec<u8> {
    let (before, after) = HELPERS.split_once("(global.get $heap)\n").expect("the allocator");
    let (_, after) = after.split_once("(func $say").expect("what follows it");
    let helpers = format!("{before} {allocator}) (func $say{after}");
    module_of(&format!("{IMPORTS} {helpers} (func (export \"proxy_abi_version_0_2_1\")) {functions}"))
}

/// A module of this text alone.
pub fn module_of(text: &str) -> Vec<u8> {
    let (mut source, mut data, mut rest) = (String::from("(module "), String::new(), text);
    let mut at = 1024;
    while let Some((before, after)) = rest.split_once("$s(\"") {
        let (text, after) = after.split_once("\")").expect("$s(\"...\")");
        let len = unescaped_len(text);
        source.push_str(&format!("{before}(i32.const {at}) (i32.const {len})"));
        data.push_str(&format!("(data (i32.const {at}) \"{text}\")\n"));
        at += len;
        rest = after;
    }
    source.push_str(&format!("{rest}\n{data})"));
    wat::parse_str(&source).unwrap_or_else(|error| panic!("{error}\n{source}"))
}

/// `\00` is one byte.
fn unescaped_len(text: &str) -> usize {
    text.len() - 2 * text.matches('\\').count()
}

/// A callback for the request's head with this body; it continues unless it returns something else itself.
pub fn on_request(body: &str) -> String {
    format!(
        "(func (export \"proxy_on_request_headers\") (param $id i32) (param $count i32) (param $end i32) (result i32)
            {body} (i32.const 0))"
    )
}

/// The same for the response.
pub fn on_response(body: &str) -> String {
    on_request(body).replace("proxy_on_request_headers", "proxy_on_response_headers")
}

/// A module in a file, loaded.
pub struct Wasm {
    pub plugin: Instance<ProxyWasm>,
    /// What was logged, by itself or about an exchange.
    lines: Mutex<Vec<(Level, String)>>,
    /// How many of these are the plugin's own.
    own: AtomicUsize,
    _folder: tempfile::TempDir,
}

impl Wasm {
    /// With these keys of the configuration beside `module`: JSON members, each followed by a comma.
    pub fn try_new(module: &[u8], config: &str) -> Result<Wasm, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.wasm");
        fs::write(&path, module).unwrap();
        let config = format!("{{{config} \"module\": {:?}}}", path.to_str().unwrap());
        let plugin = Instance::new(config)?;
        Ok(Wasm { plugin, lines: Mutex::default(), own: AtomicUsize::new(0), _folder: folder })
    }

    pub fn new(functions: &str) -> Wasm {
        Wasm::with(functions, "")
    }

    pub fn with(functions: &str, config: &str) -> Wasm {
        Wasm::try_new(&module(functions), config).unwrap()
    }

    /// All that was logged.
    pub fn lines(&self) -> Vec<(Level, String)> {
        self.keep(&[]);
        self.lines.lock().unwrap().clone()
    }

    /// What the plugin has logged by itself meanwhile, then `more`.
    fn keep(&self, more: &[(Level, String)]) {
        let mut lines = self.lines.lock().unwrap();
        let own = self.plugin.log();
        lines.extend_from_slice(&own[self.own.swap(own.len(), Ordering::Relaxed)..]);
        lines.extend_from_slice(more);
    }

    /// The same without levels.
    pub fn log(&self) -> Vec<String> {
        self.lines().into_iter().map(|(_, text)| text).collect()
    }

    /// Errors alone.
    pub fn errors(&self) -> Vec<String> {
        self.lines().into_iter().filter(|(level, _)| *level == Level::Error).map(|(_, text)| text).collect()
    }

    /// Runs a hook, and keeps what it logged about the exchange.
    fn hook<R>(&self, x: &mut Exchange, run: impl FnOnce(&mut Exchange, &Instance<ProxyWasm>) -> R) -> R {
        let before = x.log().len();
        let result = run(x, &self.plugin);
        self.keep(&x.log()[before..]);
        result
    }

    pub fn request(&self, x: &mut Exchange) -> Outcome {
        self.hook(x, Exchange::request)
    }

    pub fn response(&self, x: &mut Exchange) -> Outcome {
        self.hook(x, Exchange::response)
    }

    pub fn resumed(&self, x: &mut Exchange) -> Outcome {
        self.hook(x, Exchange::resumed)
    }

    pub fn done(&self, x: &mut Exchange) {
        self.hook(x, Exchange::done)
    }
}

/// Runs a body in the request hook, and gives what it logged.
pub fn run(body: &str, x: &mut Exchange) -> Vec<String> {
    let wasm = Wasm::new(&on_request(body));
    assert_eq!(wasm.request(x), Outcome::Continue, "{:?}", wasm.log());
    wasm.log()
}

/// The same in the response hook.
pub fn run_response(body: &str, x: &mut Exchange) -> Vec<String> {
    let wasm = Wasm::new(&on_response(body));
    assert_eq!(wasm.response(x), Outcome::Continue, "{:?}", wasm.log());
    wasm.log()
}
