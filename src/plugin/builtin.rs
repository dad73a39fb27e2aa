//! Plugins that were linked into this binary: the same descriptors, the same checks, the same chain.
//!
//! Feature `builtin-plugins` links the example plugins. To link one of your own, add its library crate as a dependency
//! and its descriptor to the list below. A plugin in C is compiled with `-DMRP_PLUGIN_SYMBOL=name`, linked, and named here
//! by `unsafe extern "C" { static name: Descriptor; }`.

use mini_rproxy_plugin::Descriptor;
#[cfg(any(feature = "builtin-plugins", feature = "wasm"))]
use {crate::about::VERSION, mini_rproxy_plugin::descriptor};

static ALL: &[&[&Descriptor]] = &[
    #[cfg(feature = "builtin-plugins")]
    &[
        &descriptor::<access_log_json::AccessLogJson>(VERSION),
        &descriptor::<basic_auth::BasicAuth>(VERSION),
        &descriptor::<forward_auth::ForwardAuth>(VERSION),
        &descriptor::<header_demo::HeaderDemo>(VERSION),
        &descriptor::<json_rewrite::JsonRewrite>(VERSION),
        &descriptor::<jwt_claims::JwtClaims>(VERSION),
        &descriptor::<rate_limit::RateLimit>(VERSION),
        &descriptor::<request_id::RequestId>(VERSION),
    ],
    // The host of Proxy-Wasm modules.
    #[cfg(feature = "wasm")]
    &[&descriptor::<proxy_wasm::ProxyWasm>(VERSION)],
];

/// The descriptor of that name.
pub fn find(name: &str) -> Result<&'static Descriptor, String> {
    let all = || ALL.iter().copied().flatten();
    all().find(|descriptor| descriptor.name() == name).copied().ok_or_else(|| {
        let names: Vec<&str> = all().map(|descriptor| descriptor.name()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("not linked into this program; linked in: {names}")
    })
}
