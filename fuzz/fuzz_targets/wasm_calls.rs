#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mini_rproxy_fuzz::wasm_calls(data));
