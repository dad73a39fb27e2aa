//! The configuration: one YAML file, checked as a whole before anything starts.
//!
//! This folder is the only place that knows serde_yaml. What leaves it is valid: prefixes are normalised and unique, URLs
//! are taken apart, every key that was left out has its default. What it does not do: bind, resolve or open anything
//! but the file itself.
//!
//! | file | one job |
//! |---|---|
//! | here | the types that the rest of the proxy sees, with their defaults |
//! | `error` | what is wrong, as one sentence with its place |
//! | [`prefix`] | route prefixes: what is a valid one, and how segments are compared |
//! | `url`, `listen` | upstream URLs and listening addresses, taken apart |
//! | `found`, `read` | what stands at a place of the file; from that to values, each mistake told in our own words |
//! | `units`, `json`, `values` | durations, sizes and counts; plugin configuration; everything else that is one value |
//! | `sections` | the keys of the file, mapping by mapping |
//! | `plain` | a short cut for very many routes |
//! | `file` | from the file to a [`Config`] |
//! | `flags` | from `-listen` and `-route` to a [`Config`] |
//! | `print` | and back |
//! | `outline` | what is different between two configurations, in words |

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod error;
pub mod prefix;
mod url;
mod listen;
mod found;
mod read;
mod units;
mod json;
mod values;
mod sections;
mod plain;
mod file;
mod flags;
mod print;
mod outline;

pub use error::{ConfigError, did_you_mean};
pub use file::place_of;
pub use listen::ListenError;
pub use outline::{Difference, Kind, Outline};
pub use prefix::PrefixError;
pub use url::{Scheme, UpstreamUrl, UrlError};

/// Everything that can be configured, with all defaults filled in.
///
/// The default has every default, and no routes: a file without routes is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen; never empty.
    pub listen: Vec<ListenAddr>,
    /// In file order.
    pub routes: Vec<RouteConfig>,
    /// Event loops; at least 1.
    pub workers: usize,
    /// Sizes and counts above which a request or a connection is refused.
    pub limits: Limits,
    /// Idle upstream connections.
    pub pool: PoolLimits,
    /// How often names are looked up again.
    pub dns_refresh: Duration,
    /// Listening with TLS; `None`: not at all.
    pub tls: Option<TlsListen>,
    /// When one of several upstreams is left alone.
    pub health: Health,
    /// How `https://` upstreams are verified, where a route says nothing else.
    pub upstream_tls: UpstreamTls,
    /// Whom to believe about the client, and whether to tell the upstream.
    pub forwarded: ForwardedPolicy,
    /// Peers that say in the PROXY protocol for whom they speak, and have to.
    pub preface_from: Vec<ipnet::IpNet>,
    /// What is mapped and redirected for applications under a prefix, where a route says nothing else.
    pub rewrites: Rewrites,
    /// Time-outs of what belongs to no route: reading a head, idle connections, the drain.
    pub timeouts: Timeouts,
    /// Whether /configz answers.
    pub configz: bool,
    /// Whether /metrics answers.
    pub metrics: bool,
    /// Where the built-in resources answer and nothing else. Empty: nowhere, and /metrics answers local clients on
    /// every address of [`Config::listen`].
    pub admin_listen: Vec<ListenAddr>,
    /// In the order in which their request hooks run.
    pub plugins: Vec<PluginConfig>,
    /// The most bytes of a body that is buffered for plugins.
    pub plugin_body_limit: usize,
    /// What the log looks like.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: vec![DEFAULT_LISTEN],
            routes: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            limits: Limits::default(),
            pool: PoolLimits::default(),
            dns_refresh: Duration::from_secs(30),
            tls: None,
            health: Health::default(),
            upstream_tls: UpstreamTls::default(),
            forwarded: ForwardedPolicy::default(),
            preface_from: Vec::new(),
            rewrites: Rewrites::default(),
            timeouts: Timeouts::default(),
            configz: true,
            metrics: true,
            admin_listen: Vec::new(),
            plugins: Vec::new(),
            plugin_body_limit: 1024 * 1024,
            log: LogConfig::default(),
        }
    }
}

/// Where nothing is said about it.
const DEFAULT_LISTEN: ListenAddr = ListenAddr::any(8080);

/// What a worker needs at least: its read buffer and a few exchanges.
const LEAST_SHARE: usize = 512 * 1024;

impl Config {
    /// Sets the memory budget as the flag has it, for example `8MiB`.
    pub fn set_memory_budget(&mut self, text: &str) -> Result<(), String> {
        let units::MemoryLimit(limit) = read::Entry::from_text(text)?;
        self.limits.memory_budget = limit.map(units::Size::to_usize);
        self.fit_workers();
        Ok(())
    }

    /// The same with these routes, for requests that are under way: without what only a start needs. `routes` may be a
    /// hundred thousand, and are not copied first.
    pub fn with_routes(&self, routes: Vec<RouteConfig>) -> Config {
        Config {
            routes,
            listen: Vec::new(),
            admin_listen: Vec::new(),
            plugins: Vec::new(),
            workers: self.workers,
            limits: self.limits,
            pool: self.pool,
            dns_refresh: self.dns_refresh,
            tls: None,
            health: self.health,
            upstream_tls: self.upstream_tls.clone(),
            forwarded: self.forwarded.clone(),
            preface_from: self.preface_from.clone(),
            rewrites: self.rewrites,
            timeouts: self.timeouts,
            configz: self.configz,
            metrics: self.metrics,
            plugin_body_limit: self.plugin_body_limit,
            log: self.log,
        }
    }

    /// No more workers than the memory budget has room for.
    fn fit_workers(&mut self) {
        if let Some(budget) = self.limits.memory_budget {
            self.workers = self.workers.min(budget / LEAST_SHARE).max(1);
        }
    }
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// `127.0.0.1:8080`, `[::1]:8080`, `:8080`
    Tcp {
        /// What to bind.
        addr: SocketAddr,
        /// An IPv6 socket that takes IPv4 too: `":8080"` or `"[::]:8080"`, but not `"[::]:8080?v6only"` (rule E8).
        dual_stack: bool,
        /// Where the host has no IPv6, bind 0.0.0.0 instead: `":8080"` only.
        fallback_v4: bool,
    },
    /// `unix:/path`
    Unix {
        /// Where the socket is made.
        path: PathBuf,
        /// `?mode=0660`: the permissions it gets; `None` leaves them to the umask.
        mode: Option<u32>,
    },
}

impl ListenAddr {
    /// `":port"`: all addresses of both families.
    pub const fn any(port: u16) -> ListenAddr {
        let addr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        ListenAddr::Tcp { addr, dual_stack: true, fallback_v4: true }
    }
}

/// As it is written in the file.
impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp { addr, fallback_v4: true, .. } => write!(f, ":{}", addr.port()),
            ListenAddr::Tcp { addr, dual_stack: false, .. } if addr.ip() == Ipv6Addr::UNSPECIFIED => {
                write!(f, "{addr}?v6only")
            }
            ListenAddr::Tcp { addr, .. } => write!(f, "{addr}"),
            ListenAddr::Unix { path, mode: Some(mode) } => write!(f, "unix:{}?mode={mode:04o}", path.display()),
            ListenAddr::Unix { path, mode: None } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where TLS is spoken to clients, and with which certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListen {
    /// Where; empty: on every address of [`Config::listen`], none of which speaks plain HTTP then.
    pub listen: Vec<ListenAddr>,
    /// Never empty. A client gets the first one that has the name it asks for, else the first.
    pub certificates: Vec<CertificateFiles>,
}

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by those of intermediate authorities.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How an `https://` upstream is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// The authorities to trust, in PEM. `None`: those of the system, else those that are built in (rule E2).
    pub ca_file: Option<PathBuf>,
    /// The name to ask for and to verify. `None`: the host of the URL (rule G8).
    pub server_name: Option<String>,
    /// Take any certificate.
    pub insecure_skip_verify: bool,
}

/// One route, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// As written in the file, for people.
    pub prefix: String,
    /// Shared by all routes that say the same. Where there are several, the first of them.
    pub upstream: Arc<UpstreamUrl>,
    /// The others, where there are several: at most [`MOST_UPSTREAMS`] with the first, which all have its base path. Either
    /// all of them have credentials or none.
    pub others: Option<Arc<Vec<UpstreamUrl>>>,
    /// Shared by all routes that say the same.
    pub options: Arc<RouteOptions>,
}

/// A route has no more upstreams than this.
pub const MOST_UPSTREAMS: usize = 64;

impl RouteConfig {
    /// All upstreams of the route, in file order.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamUrl> {
        std::iter::once(&*self.upstream).chain(self.others.iter().flat_map(|others| others.iter()))
    }

    /// What the route takes from the path, without a slash at its end; empty for nothing.
    pub fn stripped_prefix(&self) -> &str {
        if self.options.strip_prefix { self.prefix.trim_end_matches('/') } else { "" }
    }

    /// The upstream with this number, counted from 0.
    pub fn nth_upstream(&self, nth: usize) -> &UpstreamUrl {
        match (nth.checked_sub(1), &self.others) {
            (Some(nth), Some(others)) => &others[nth],
            (None, _) | (Some(_), None) => &self.upstream,
        }
    }
}

/// What a route may say for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOptions {
    /// Whether the prefix is removed from the path before forwarding.
    pub strip_prefix: bool,
    /// What is mapped and redirected for its application.
    pub rewrites: Rewrites,
    /// Which Host the upstream sees (rule G8).
    pub host: HostPolicy,
    /// Protocol tokens that a client may upgrade to, lower case.
    pub upgrade: Vec<String>,
    /// 413 above it.
    pub max_body_bytes: Option<u64>,
    /// The route's own where it has some, else those of the whole proxy.
    pub timeouts: Timeouts,
    /// How its upstream is verified, if that is an `https://` one.
    pub upstream_tls: UpstreamTls,
}

impl Default for RouteOptions {
    fn default() -> Self {
        RouteOptions {
            strip_prefix: true,
            rewrites: Rewrites::default(),
            host: HostPolicy::Upstream,
            upgrade: vec!["websocket".to_owned()],
            max_body_bytes: None,
            timeouts: Timeouts::default(),
            upstream_tls: UpstreamTls::default(),
        }
    }
}

/// What is done for applications under a prefix: what of a response is mapped from the place that the upstream knows to the
/// one that clients see, and how the prefix itself is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rewrites {
    /// Location, Content-Location, Refresh, Link.
    pub redirects: Rewrite,
    /// Path and Domain of Set-Cookie.
    pub cookies: Rewrite,
    /// Whether a client that asks for the prefix without a slash at its end is redirected to the one with it.
    pub redirect_to_slash: bool,
}

/// Whether something is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rewrite {
    /// Where it leads to the upstream.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Which Host the upstream sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPolicy {
    /// That of the upstream URL.
    Upstream,
    /// The one that the client sent.
    Client,
    /// Always this one.
    Fixed(String),
}

/// Sizes and counts above which something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections over all workers. `None`: derived from the descriptor limit at start.
    pub max_connections: Option<usize>,
    /// What all buffers together may take (`net::memory_budget`). `None`: as much as the other limits allow.
    pub memory_budget: Option<usize>,
    /// Request line and field section together; 431 above it.
    pub max_head_bytes: usize,
    /// Field lines of a head; 431 above it.
    pub max_header_fields: usize,
    /// 414 above it.
    pub max_request_line: usize,
    /// What routes without a `max_body_bytes` of their own got. `None` = unlimited.
    pub max_body_bytes: Option<u64>,
    /// 0 = unlimited.
    pub max_requests_per_connection: u32,
    /// 1xx responses before a final one; more are a fault of the upstream (rule G9).
    pub max_interim_responses: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: None,
            memory_budget: None,
            max_head_bytes: 16 * 1024,
            max_header_fields: 256,
            max_request_line: 8 * 1024,
            max_body_bytes: None,
            max_requests_per_connection: 1000,
            max_interim_responses: 8,
        }
    }
}

/// Each one measures progress, but `request_head`, which bounds the whole head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a head (of a connection: from its start) to the last; 408 after it.
    pub request_head: Duration,
    /// Between two reads of a request body.
    pub body_idle: Duration,
    /// Between two requests of a connection.
    pub keep_alive: Duration,
    /// For a peer that takes nothing.
    pub write_idle: Duration,
    /// For one address of an upstream.
    pub connect_address: Duration,
    /// For all addresses together.
    pub connect: Duration,
    /// From the end of a request to the head of its response; 504 after it.
    pub response_head: Duration,
    /// Between two reads of a response body. Not applied to text/event-stream and multipart/x-mixed-replace.
    pub response_idle: Duration,
    /// Of an upgraded connection.
    pub tunnel_idle: Duration,
    /// Of one of which one side has ended, where that is less.
    pub tunnel_half_closed: Duration,
    /// What is in flight may take so long after a request to stop.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            request_head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            write_idle: Duration::from_secs(60),
            connect_address: Duration::from_secs(3),
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            response_idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            tunnel_half_closed: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// When one of several upstreams is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// After so many failures in a row; at least 1.
    pub failures: u32,
    /// For so long at first; each time that a try fails after it, for twice as long.
    pub eject: Duration,
    /// But never for longer than this.
    pub max_eject: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Health { failures: 3, eject: Duration::from_secs(1), max_eject: Duration::from_secs(60) }
    }
}

/// Idle upstream connections, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Over all upstreams.
    pub max_idle: usize,
    /// For one upstream.
    pub max_idle_per_upstream: usize,
    /// How long one may wait to be used again.
    pub idle_timeout: Duration,
    /// How old one may grow, so that the pool follows the DNS.
    pub max_age: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        PoolLimits {
            max_idle: 256,
            // Where there are fewer than busy clients, clients turn each other's connections out: with 8 for 64 of them a
            // small request took 25 percent more CPU.
            max_idle_per_upstream: 64,
            // Below the 5 s after which common origins close.
            idle_timeout: Duration::from_secs(4),
            max_age: Duration::from_secs(300),
        }
    }
}

/// X-Forwarded-*, Forwarded and X-Real-IP (rule G4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedPolicy {
    /// Peers whose X-Forwarded-*, Forwarded and X-Real-IP are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `false`: none of these fields is made (rule G4).
    pub enabled: bool,
}

impl Default for ForwardedPolicy {
    fn default() -> Self {
        ForwardedPolicy { trusted_proxies: Vec::new(), enabled: true }
    }
}

/// One listed plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginConfig {
    /// Where it comes from.
    pub source: PluginSource,
    /// Whether the proxy refuses to start without it.
    pub required: bool,
    /// As the plugin gets it: a string verbatim, a mapping or list as JSON, nothing as empty.
    pub config: String,
}

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// A shared library.
    Path(PathBuf),
    /// One that is linked into the binary, by name.
    Builtin(String),
}

/// What the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How a line is written.
    pub format: LogFormat,
    /// One line per request.
    pub access: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { format: LogFormat::Text, access: false }
    }
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// `key=value`
    Text,
    /// One JSON object a line.
    Json,
}
