//! The shared object.
mini_rproxy_plugin::export_plugin!(header_demo::HeaderDemo);
