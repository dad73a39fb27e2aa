//! The shared object.
mini_rproxy_plugin::export_plugin!(basic_auth::BasicAuth);
