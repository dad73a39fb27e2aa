//! The shared object.
mini_rproxy_plugin::export_plugin!(rate_limit::RateLimit);
