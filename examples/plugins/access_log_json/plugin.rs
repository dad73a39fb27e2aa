//! The shared object.
mini_rproxy_plugin::export_plugin!(access_log_json::AccessLogJson);
