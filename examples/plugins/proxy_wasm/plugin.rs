//! The shared object.
mini_rproxy_plugin::export_plugin!(proxy_wasm::ProxyWasm);
