//! What this build is: for `-version`, the start report and /metrics.

/// The version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What was chosen when this binary was built, comma-separated.
pub fn features() -> String {
    let is_static = cfg!(target_feature = "crt-static");
    let all = [
        ("static", is_static),
        // A fully static binary cannot do it, whatever was chosen.
        ("dlopen", cfg!(feature = "dlopen") && !is_static),
        ("tls", cfg!(feature = "tls")),
        ("builtin-plugins", cfg!(feature = "builtin-plugins")),
        ("wasm", cfg!(feature = "wasm")),
    ];
    all.iter().filter(|(_, is_in)| *is_in).map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}
