//! The shared object.
mini_rproxy_plugin::export_plugin!(json_rewrite::JsonRewrite);
