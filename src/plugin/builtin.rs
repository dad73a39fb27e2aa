//! Plugins that were linked into this binary: the same descriptors, the same checks, the same chain.
//!
//! Feature `builtin-plugins` links the example plugins. To link one of your own, add its library crate as a dependency
//! and its descriptor to the list below. A plugin in C is compiled with `-DMRP_PLUGIN_SYMBOL=name`, linked, and named here
//! by `unsafe extern "C" { static name: Descriptor; }`.

use mini_rproxy_plugin::Descriptor;
#[cfg(any(feature = "builtin-plugins", feature = "wasm"))]
use mini_rproxy_plugin::descriptor;

/// Feature `wasm` adds the host of Proxy-Wasm modules.
static ALL: &[&Descriptor] = &[
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<access_log_json::AccessLogJson>(crate::about::VERSION),
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<basic_auth::BasicAuth>(crate::about::VERSION),
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<forward_auth::ForwardAuth>(crate::about::VERSION),
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<header_demo::HeaderDemo>(crate::about::VERSION),
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<json_rewrite::JsonRewrite>(crate::about::VERSION),
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<jwt_claims::JwtClaims>(crate::about::VERSION),
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<rate_limit::RateLimit>(crate::about::VERSION),
    #[cfg(feature = "builtin-plugins")]
    &descriptor::<request_id::RequestId>(crate::about::VERSION),
    #[cfg(feature = "wasm")]
    &descriptor::<proxy_wasm::ProxyWasm>(crate::about::VERSION),
];

/// The descriptor of that name.
pub fn find(name: &str) -> Result<&'static Descriptor, String> {
    ALL.iter().find(|descriptor| descriptor.name() == name).copied().ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|descriptor| descriptor.name()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("not linked into this program; linked in: {names}")
    })
}
