//! The configuration: one YAML file, checked as a whole before anything starts.
//!
//! This folder is the only place that knows serde_yaml. What leaves it is valid: prefixes are normalised and unique, URLs
//! are taken apart, every key that was left out has its default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything that can be configured, with all defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; never empty.
    pub listen: Vec<ListenAddr>,
    /// In file order.
    pub routes: Vec<RouteConfig>,
    /// Event loops; at least 1.
    pub workers: usize,
    pub limits: Limits,
    pub pool: PoolLimits,
    /// How often names are looked up again.
    pub dns_refresh: Duration,
    pub forwarded: ForwardedPolicy,
    /// Time-outs of what belongs to no route: reading a head, idle connections, the drain.
    pub timeouts: Timeouts,
    /// Whether /configz answers.
    pub configz: bool,
    pub plugins: Vec<PluginConfig>,
    /// The most bytes of a body that is buffered for plugins.
    pub plugin_body_limit: usize,
    pub log: LogConfig,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// `dual_stack`: `":8080"` or `"[::]:8080"`, an IPv6 socket that takes IPv4 too. Where the host has no IPv6, ":8080"
    /// falls back to 0.0.0.0 (then `fallback_v4` is true).
    Tcp { addr: SocketAddr, dual_stack: bool, fallback_v4: bool },
    /// `unix:/path`
    Unix { path: PathBuf, mode: Option<u32> },
}

/// One route, checked.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// As written in the file, for people.
    pub prefix: String,
    pub upstream: UpstreamUrl,
    /// Shared by all routes that say the same.
    pub options: Arc<RouteOptions>,
}

/// Where a route leads, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    pub scheme: Scheme,
    /// Name or IP literal, without brackets.
    pub host: String,
    pub port: u16,
    /// The Host value: brackets where needed, no default port.
    pub authority: String,
    /// Empty or `/base`, never with a trailing slash.
    pub base_path: String,
    /// The value of the Authorization field made from `user:password@`. Never shown anywhere.
    pub authorization: Option<String>,
}

impl UpstreamUrl {
    /// The URL without credentials.
    pub fn to_public_string(&self) -> String {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// What a route may say for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOptions {
    /// Whether the prefix is removed from the path before forwarding.
    pub strip_prefix: bool,
    pub host: HostPolicy,
    /// Protocol tokens that a client may upgrade to, lower case.
    pub upgrade: Vec<String>,
    /// 413 above it.
    pub max_body_bytes: Option<u64>,
    pub timeouts: Timeouts,
}

/// Which Host the upstream sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// That of the upstream URL.
    Upstream,
    /// The one that the client sent.
    Client,
    /// Always this one.
    Fixed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections over all workers. `None`: derived from the descriptor limit at start.
    pub max_connections: Option<usize>,
    pub max_head_bytes: usize,
    pub max_header_fields: usize,
    pub max_request_line: usize,
    /// 0 = unlimited.
    pub max_requests_per_connection: u32,
    pub max_interim_responses: u32,
}

/// Each one measures progress, but `request_head`, which bounds the whole head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub request_head: Duration,
    pub body_idle: Duration,
    pub keep_alive: Duration,
    pub write_idle: Duration,
    /// For one address of an upstream.
    pub connect_address: Duration,
    /// For all addresses together.
    pub connect: Duration,
    pub response_head: Duration,
    /// Not applied to text/event-stream.
    pub response_idle: Duration,
    pub tunnel_idle: Duration,
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            request_head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            write_idle: Duration::from_secs(30),
            connect_address: Duration::from_secs(3),
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            response_idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            drain: Duration::from_secs(10),
        }
    }
}

/// Idle upstream connections, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    pub max_idle: usize,
    pub max_idle_per_upstream: usize,
    pub idle_timeout: Duration,
    pub max_age: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedPolicy {
    /// Peers whose X-Forwarded-*, Forwarded and X-Real-IP are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `false`: none of these fields is made (rule G4).
    pub enabled: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PluginConfig {
    pub source: PluginSource,
    pub required: bool,
    /// As the plugin gets it: a string verbatim, a mapping or list as JSON, nothing as empty.
    pub config: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    Path(PathBuf),
    Builtin(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// One line per request.
    pub access: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}
