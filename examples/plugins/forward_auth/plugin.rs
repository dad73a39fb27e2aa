//! The shared object.
mini_rproxy_plugin::export_plugin!(forward_auth::ForwardAuth);
