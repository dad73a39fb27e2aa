//! The shared object.
mini_rproxy_plugin::export_plugin!(request_id::RequestId);
