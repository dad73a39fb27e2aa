//! A WebAssembly module that calls host functions in any order with any arguments.

use std::cell::RefCell;
use std::fmt::Write;
use std::fs;

use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
use proxy_wasm::ProxyWasm;

use crate::input::Input;

/// The functions and their arguments: `i` 32 bits, `l` 64 bits, `s` an address and a length that are good most of the time.
const FUNCTIONS: [(&str, &str, &str); 39] = [
    ("env", "proxy_log", "is"),
    ("env", "proxy_get_log_level", "i"),
    ("env", "proxy_get_current_time_nanoseconds", "i"),
    ("env", "proxy_set_tick_period_milliseconds", "i"),
    ("env", "proxy_set_effective_context", "i"),
    ("env", "proxy_done", ""),
    ("env", "proxy_continue_stream", "i"),
    ("env", "proxy_close_stream", "i"),
    ("env", "proxy_get_buffer_bytes", "iiiii"),
    ("env", "proxy_get_buffer_status", "iii"),
    ("env", "proxy_set_buffer_bytes", "iiis"),
    ("env", "proxy_send_local_response", "isssi"),
    ("env", "proxy_get_status", "iii"),
    ("env", "proxy_call_foreign_function", "ssii"),
    ("env", "proxy_get_header_map_size", "ii"),
    ("env", "proxy_get_header_map_pairs", "iii"),
    ("env", "proxy_set_header_map_pairs", "is"),
    ("env", "proxy_get_header_map_value", "isii"),
    ("env", "proxy_add_header_map_value", "iss"),
    ("env", "proxy_replace_header_map_value", "iss"),
    ("env", "proxy_remove_header_map_value", "is"),
    ("env", "proxy_get_property", "sii"),
    ("env", "proxy_set_property", "ss"),
    ("env", "proxy_get_shared_data", "siii"),
    ("env", "proxy_set_shared_data", "ssi"),
    ("env", "proxy_register_shared_queue", "si"),
    ("env", "proxy_resolve_shared_queue", "ssi"),
    ("env", "proxy_enqueue_shared_queue", "is"),
    ("env", "proxy_dequeue_shared_queue", "iii"),
    ("env", "proxy_define_metric", "isi"),
    ("env", "proxy_record_metric", "il"),
    ("env", "proxy_increment_metric", "il"),
    ("env", "proxy_get_metric", "ii"),
    ("wasi_snapshot_preview1", "fd_write", "iiii"),
    ("wasi_snapshot_preview1", "random_get", "s"),
    ("wasi_snapshot_preview1", "clock_time_get", "ili"),
    ("wasi_snapshot_preview1", "poll_oneoff", "iiii"),
    ("wasi_snapshot_preview1", "environ_sizes_get", "ii"),
    ("env", "proxy_http_call", "ssssii"),
];

/// What lies in the module's memory: names, paths, values and a map.
const DATA: &str = r":path\00:method\00:authority\00:status\00content-length\00x-a\00host\00request\00headers\00/a?b\00GET\00200\00\02\00\00\00\01\00\00\00\01\00\00\00\03\00\00\00\00\00\00\00a\001\00x-b\00\00 \0d\0a";

/// Where the name of the cluster lies, with the fields of a call behind it.
const CLUSTER: usize = 1024;
const CALL: &[u8] =
    b"\x03\0\0\0\x07\0\0\0\x03\0\0\0\x05\0\0\0\x01\0\0\0\x0a\0\0\0\x01\0\0\0:method\0GET\0:path\0/\0:authority\0a\0";

/// A number: mostly small, sometimes at the edges.
fn number(input: &mut Input<'_>) -> i32 {
    match input.byte() {
        0xff => -1,
        0xfe => i32::MIN,
        0xfd => i32::MAX,
        0xfc => 65535,
        0xfb => 65536,
        0xfa => i32::from_le_bytes([input.byte(), input.byte(), input.byte(), input.byte()]),
        0xf9 => 200 + i32::from(input.byte()),
        byte => i32::from(byte),
    }
}

fn module(input: &mut Input<'_>) -> String {
    let mut text = String::from("(module ");
    for (index, (module, name, arguments)) in FUNCTIONS.iter().enumerate() {
        let params = arguments.replace('i', " i32").replace('l', " i64").replace('s', " i32 i32");
        let _ = write!(text, "(import \"{module}\" \"{name}\" (func $f{index} (param{params}) (result i32)))");
    }
    let _ = write!(text, "(memory (export \"memory\") 1) (data (i32.const 0) \"{DATA}\")");
    let call: String = CALL.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let _ = write!(text, "(data (i32.const {CLUSTER}) \"c{call}\")");
    text.push_str("(func (export \"proxy_abi_version_0_2_1\"))");
    // An allocator that is good, or says always the same.
    let _ = match input.byte() % 4 {
        0 => write!(text, "(func (export \"malloc\") (param i32) (result i32) (i32.const {}))", number(input)),
        _ => write!(
            text,
            "(global $heap (mut i32) (i32.const 4096)) (func (export \"malloc\") (param i32) (result i32) (global.get $heap)
                (global.set $heap (i32.add (global.get $heap) (local.get 0))))"
        ),
    };
    let callbacks = [
        ("proxy_on_request_headers", "(param i32 i32 i32)"),
        ("proxy_on_request_body", "(param i32 i32 i32)"),
        ("proxy_on_response_headers", "(param i32 i32 i32)"),
        ("proxy_on_response_body", "(param i32 i32 i32)"),
        ("proxy_on_done", "(param i32)"),
        ("proxy_on_http_call_response", "(param i32 i32 i32 i32 i32)"),
    ];
    for (name, params) in callbacks {
        let is_answer = name == "proxy_on_http_call_response";
        let _ = write!(text, "(func (export \"{name}\") {params} {}", if is_answer { "" } else { "(result i32)" });
        // A call that can be made, of a GET that nobody answers: random arguments hardly ever are one.
        if input.byte().is_multiple_of(4) {
            let call = FUNCTIONS.len() - 1;
            let _ = write!(
                text,
                "(drop (call $f{call} (i32.const {CLUSTER}) (i32.const 1) (i32.const {}) (i32.const {}) (i32.const 0)
                    (i32.const {}) (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 0)))",
                CLUSTER + 1,
                CALL.len(),
                number(input)
            );
        }
        for _ in 0..input.byte() % 16 {
            let index = usize::from(input.byte()) % FUNCTIONS.len();
            let _ = write!(text, "(drop (call $f{index}");
            for kind in FUNCTIONS[index].2.chars() {
                let _ = match kind {
                    'l' => write!(text, " (i64.const {})", number(input)),
                    's' => write!(text, " (i32.const {}) (i32.const {})", number(input), number(input)),
                    _ => write!(text, " (i32.const {})", number(input)),
                };
            }
            text.push_str("))");
        }
        let _ = match is_answer {
            true => write!(text, ")"),
            false => write!(text, "(i32.const {}))", input.byte() % 3),
        };
    }
    text + ")"
}

/// Whatever a module calls, the plugin does not panic, and what it leaves is a message that may be sent.
pub fn wasm_calls(data: &[u8]) {
    thread_local! {
        static FILE: RefCell<Option<std::path::PathBuf>> = const { RefCell::new(None) };
    }
    let mut input = Input(data);
    let wasm = wat::parse_str(module(&mut input)).expect("a module of ours");
    let path = FILE.with_borrow_mut(|file| {
        let name = format!("mini-rproxy-fuzz-{}-{:?}.wasm", std::process::id(), std::thread::current().id());
        file.get_or_insert_with(|| std::env::temp_dir().join(name)).clone()
    });
    fs::write(&path, wasm).expect("a file");
    let config = format!(
        "{{\"module\": {path:?}, \"clusters\": {{\"c\": \"http://127.0.0.1:1\"}}, \"bodies\": [\"request\", \"response\"], \"fuel\": \"100k\", \"max_crashes\": 1000}}"
    );
    let plugin = Instance::<ProxyWasm>::new(config).expect("a module that starts");
    fs::remove_file(&path).expect("our file");
    let mut x = Exchange::new("POST", "/a?b").field("x-a", "1").field("Content-Length", "4").body("body");
    let go_on = |x: &mut Exchange, mut outcome: Outcome| {
        while outcome == Outcome::Pause {
            outcome = x.resumed(&plugin);
        }
        outcome
    };
    let outcome = x.request(&plugin);
    if go_on(&mut x, outcome) == Outcome::Continue {
        x.upstream_answers(200, &[("Server", "s"), ("Content-Length", "6")], "answer");
        let outcome = x.response(&plugin);
        let _ = go_on(&mut x, outcome);
    }
    x.done(&plugin);
    for (_, line) in plugin.log() {
        assert!(!line.contains(" panicked: "), "{line}");
    }
    assert!(x.target().starts_with('/'));
    assert!(x.request_field("content-length") == Some("4"), "only the proxy writes it");
    for (name, value) in x.request_fields().iter().chain(x.response_fields()) {
        assert!(mini_rproxy_plugin::validate::is_token(name), "{name:?}");
        assert!(mini_rproxy_plugin::validate::is_field_value(value), "{value:?}");
    }
}
