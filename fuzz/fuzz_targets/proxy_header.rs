#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mini_rproxy_fuzz::proxy_header(data));
