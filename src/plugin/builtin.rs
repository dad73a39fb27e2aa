//! Plugins that were linked into this binary: the same records, the same checks, the same chain.
//!
//! Feature `builtin-plugins` links the example plugins. To link one of your own, add its library crate as a dependency
//! and its record to the list below. A plugin in C is compiled with `-DMRP_PLUGIN_SYMBOL=name`, linked, and named here by
//! `unsafe extern "C" { static name: Descriptor; }`.

use mini_rproxy_plugin::Descriptor;
#[cfg(feature = "builtin-plugins")]
use mini_rproxy_plugin::descriptor;

#[cfg(feature = "builtin-plugins")]
mod records {
    use super::{Descriptor, descriptor};

    const VERSION: &str = env!("CARGO_PKG_VERSION");

    static BASIC_AUTH: Descriptor = descriptor::<basic_auth::BasicAuth>(VERSION);
    static HEADER_DEMO: Descriptor = descriptor::<header_demo::HeaderDemo>(VERSION);
    static JSON_REWRITE: Descriptor = descriptor::<json_rewrite::JsonRewrite>(VERSION);
    static JWT_CLAIMS: Descriptor = descriptor::<jwt_claims::JwtClaims>(VERSION);
    static RATE_LIMIT: Descriptor = descriptor::<rate_limit::RateLimit>(VERSION);

    pub static ALL: &[&Descriptor] = &[&BASIC_AUTH, &HEADER_DEMO, &JSON_REWRITE, &JWT_CLAIMS, &RATE_LIMIT];
}

/// All records of this binary.
pub fn all() -> &'static [&'static Descriptor] {
    #[cfg(feature = "builtin-plugins")]
    return records::ALL;
    #[cfg(not(feature = "builtin-plugins"))]
    return &[];
}

/// The record of that name.
pub fn find(name: &str) -> Option<&'static Descriptor> {
    all().iter().find(|descriptor| descriptor.name() == name).copied()
}

/// All names, for messages: `a, b`, or `none`.
pub fn names() -> String {
    let names: Vec<&str> = all().iter().map(|descriptor| descriptor.name()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
