//! The shared object.
mini_rproxy_plugin::export_plugin!(jwt_claims::JwtClaims);
