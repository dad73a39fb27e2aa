//! The keys of the file, their defaults and their ranges: one list of what may stand where.
//!
//! The structs are the configuration. What a route may say for itself is in `RawRoute`; what then holds for it, in
//! [`RouteOptions`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_yaml::Value;
use smart_default::SmartDefault;

use super::headers::HeaderEdits;
use super::listen::ListenAddr;
use super::log_keys::LogConfig;
use super::prefix::is_plain;
use super::scalar::{
    As, Count, ErrorClass, GIB, HumanDuration, KIB, LimitedThings, MIB, Network, Notation as _, Or, PluginName,
    Protocol, Ranged, Size, fill_in, switch_or_text,
};
use super::tls_keys::{TlsListen, UpstreamTls};
use super::url::{HostPolicy, RouteHost, UpstreamUrl};

/// Everything that can be configured.
#[derive(Clone, Debug, SmartDefault, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of settings such as \"routes:\"")]
pub struct Config {
    /// Where to listen; never empty.
    #[serde(deserialize_with = "As::<ListenAddr>::list")]
    #[default(vec![ListenAddr::any(8080)])]
    pub listen_addr: Vec<ListenAddr>,
    /// As the file has them; empty once it is validated.
    #[serde(rename = "routes", skip_serializing)]
    pub(crate) raw_routes: Vec<RawRoute>,
    /// In file order.
    #[serde(skip_deserializing)]
    pub routes: Arc<Vec<RouteConfig>>,
    /// Event loops.
    #[serde(with = "As::<Count<1, 1024>>")]
    #[default(std::thread::available_parallelism().map_or(1, usize::from))]
    pub workers: usize,
    /// Sizes and counts above which a request or a connection is refused.
    pub limits: Limits,
    /// Time-outs of what belongs to no route, and of routes that say nothing else.
    pub timeouts: Timeouts,
    /// Idle upstream connections.
    pub pool: PoolLimits,
    /// How names are looked up.
    pub dns: DnsConfig,
    /// When one of several upstreams is left alone.
    pub health: Health,
    /// Listening with TLS; `None`: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsListen>,
    /// How `https://` upstreams are verified, where a route says nothing else.
    pub upstream_tls: UpstreamTls,
    /// Which proxies to trust about the client, and whether to tell the upstream.
    pub forwarded: ForwardedPolicy,
    /// Peers that have to speak the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// For routes that say nothing else, as the next two.
    pub rewrite_redirects: Rewrite,
    /// Path and Domain of Set-Cookie.
    pub rewrite_cookies: Rewrite,
    /// Whether a prefix without a slash at its end is redirected to the one with it.
    pub redirect_to_slash: bool,
    /// Lines of all requests to upstreams; those of a route are changed after these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<Arc<HeaderEdits>>,
    /// The same of all responses, those of the proxy itself included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<Arc<HeaderEdits>>,
    /// Whether requests get a Via line (RFC 9110 section 7.6.3).
    #[default(true)]
    pub via: bool,
    /// The bodies of the proxy's own errors: files, by status (`404`) or class (`5xx`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub error_pages: BTreeMap<ErrorClass, PathBuf>,
    /// The built-in resources.
    pub admin: AdminConfig,
    /// In the order in which their request hooks run: those of the file, then those of `-plugindir`.
    pub plugins: Vec<PluginConfig>,
    /// Files of `-plugindir` that the list has already.
    #[serde(skip)]
    pub left_out: Vec<PathBuf>,
    /// The largest body that is buffered for plugins.
    #[serde(with = "As::<Size<0, GIB>>")]
    #[default(1024 * 1024)]
    pub plugin_body_limit: usize,
    /// What the log looks like.
    pub log: LogConfig,
}

impl Config {
    /// The same with these routes, for requests that are in flight: without what only a start needs.
    pub fn with_routes(&self, routes: Vec<RouteConfig>) -> Config {
        let (listen_addr, plugins) = (Vec::new(), Vec::new());
        let admin = AdminConfig { listen_addr: Vec::new(), ..self.admin.clone() };
        let error_pages = BTreeMap::new();
        Config { listen_addr, routes: Arc::new(routes), tls: None, admin, error_pages, plugins, ..self.clone() }
    }

    /// The plugins that run on a route, in the order of their request hooks.
    pub fn plugins_of(&self, route: &RouteOptions) -> Vec<&PluginConfig> {
        let Some(names) = &route.plugins else { return self.plugins.iter().collect() };
        names.iter().filter_map(|name| self.plugins.iter().find(|plugin| plugin.name == *name)).collect()
    }

    /// Whether clients are asked for certificates.
    pub fn verifies_clients(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// Whether a peer with this address has to begin with a PROXY header.
    pub fn expects_proxy_header(&self, address: IpAddr) -> bool {
        // An IPv4 peer of a dual-stack socket appears as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        self.proxy_protocol.from.iter().any(|range| range.contains(&address))
    }
}

/// Sizes and counts above which something is refused.
#[derive(Clone, Copy, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of limits such as \"max_head_bytes: 16KiB\"")]
pub struct Limits {
    /// Client connections over all workers. `None`: derived from the descriptor limit and the memory.
    #[serde(with = "As::<Or<Count<1, 1_000_000>>>")]
    pub max_connections: Option<usize>,
    /// Client connections of one address, over all workers; of IPv6, of one /64. `None`: unlimited.
    #[serde(with = "As::<Or<Ranged<LimitedThings, 1, 1_000_000, u32>>>")]
    pub max_connections_per_client: Option<u32>,
    /// What all buffers together may take (`net::memory_budget`). `None`: as much as the other limits allow.
    #[serde(with = "As::<MemorySize>")]
    pub memory_budget: Option<usize>,
    /// Request line and field section together; 431 above it.
    #[serde(with = "As::<Size<KIB, { 64 * KIB }>>")]
    #[default(16 * 1024)]
    pub max_head_bytes: usize,
    /// Field lines of a head; 431 above it.
    #[serde(with = "As::<Count<1, 256>>")]
    #[default(256)]
    pub max_header_fields: usize,
    /// 414 above it. At most `max_head_bytes`. While the file is read, 0 where it says nothing.
    #[serde(with = "As::<RequestLine>", default)]
    #[default(8 * 1024)]
    pub max_request_line: usize,
    /// For routes that say nothing else. `None`: unlimited.
    #[serde(with = "As::<BodyLimit>")]
    pub max_body_bytes: Option<u64>,
    /// 0: unlimited.
    #[serde(with = "As::<Count<0, { u32::MAX as u64 }, u32>>")]
    #[default(1000)]
    pub max_requests_per_connection: u32,
    /// 1xx responses before a final one; more are a fault of the upstream (rule G9).
    #[serde(with = "As::<Count<0, 1000, u32>>")]
    #[default(8)]
    pub max_interim_responses: u32,
}

pub(super) type RequestLine = Size<256, { 64 * KIB }>;
/// At least what one worker needs.
pub(super) type MemorySize = Or<Size<MIB, { 2 * GIB }>>;
/// Bodies are counted in 63 bits, as Content-Length is.
type BodyLimit = Or<Size<0, { i64::MAX as u64 }, u64>>;

/// Each one measures progress, but `request_head`, which bounds the whole head.
#[derive(Clone, Copy, Debug, SmartDefault, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of time-outs such as \"request_head: 10s\"")]
pub struct Timeouts {
    /// From the first byte of a head (of a connection: from its start) to the last; 408 after it.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(10))]
    pub request_head: Duration,
    /// Between two reads of a request body.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(30))]
    pub body_idle: Duration,
    /// Between two requests of a connection.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(60))]
    pub keep_alive: Duration,
    /// For a peer that takes nothing.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(60))]
    pub write_idle: Duration,
    /// For an upstream to be connected; 504 after it.
    #[serde(deserialize_with = "connect")]
    pub connect: ConnectTimeout,
    /// From the end of a request to the head of its response; 504 after it.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(60))]
    pub response_head: Duration,
    /// Between two reads of a response body. Not applied to text/event-stream and multipart/x-mixed-replace.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(60))]
    pub response_idle: Duration,
    /// Of an upgraded connection.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(3600))]
    pub tunnel_idle: Duration,
    /// Of one of which one side has ended, where that is less.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(30))]
    pub tunnel_half_closed: Duration,
    /// For a plugin that has paused a request or response; 504 after it.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(10))]
    pub plugin: Duration,
    /// For what is in flight, after a request to stop.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(10))]
    pub drain: Duration,
}

/// `5s` for all addresses together, or `{address: 3s, total: 5s}`. While the file is read, 0 is what it does not say.
#[derive(Clone, Copy, Debug, SmartDefault, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectTimeout {
    /// For one address of an upstream. At most `total`.
    #[serde(with = "As::<HumanDuration>", default)]
    #[default(Duration::from_secs(3))]
    pub address: Duration,
    /// For all addresses together.
    #[serde(with = "As::<HumanDuration>", default)]
    #[default(Duration::from_secs(5))]
    pub total: Duration,
}

impl ConnectTimeout {
    fn filled_in(mut self) -> Result<ConnectTimeout, String> {
        let default = ConnectTimeout::default();
        let values = [(&mut self.address, default.address), (&mut self.total, default.total)];
        fill_in::<HumanDuration>(["address", "total"], values)?;
        Ok(self)
    }
}

fn connect<'de, T: From<ConnectTimeout>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct TotalOrBoth;

    impl<'de> Visitor<'de> for TotalOrBoth {
        type Value = ConnectTimeout;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as 5s, or {address: 3s, total: 5s}")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<ConnectTimeout, E> {
            let total = HumanDuration::parse(text).map_err(E::custom)?;
            ConnectTimeout { address: Duration::ZERO, total }.filled_in().map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, mapping: A) -> Result<ConnectTimeout, A::Error> {
            let connect = ConnectTimeout::deserialize(MapAccessDeserializer::new(mapping))?;
            connect.filled_in().map_err(A::Error::custom)
        }
    }

    from.deserialize_any(TotalOrBoth).map(T::from)
}

/// Idle upstream connections, per worker.
#[derive(Clone, Copy, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of pool settings such as \"max_idle: 256\"")]
pub struct PoolLimits {
    /// Over all upstreams.
    #[serde(with = "As::<Count<0, 65_536>>")]
    #[default(256)]
    pub max_idle: usize,
    /// For one upstream. Where there are fewer than busy clients, clients turn each other's connections out: with 8 for 64
    /// of them a small request took 25 percent more CPU.
    #[serde(with = "As::<Count<0, 65_536>>")]
    #[default(64)]
    pub max_idle_per_upstream: usize,
    /// How long one may wait to be used again: below the 5 s after which common origins close.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(4))]
    pub idle_timeout: Duration,
    /// How old one may grow, so that the pool follows the DNS.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(300))]
    pub max_age: Duration,
}

/// How names are looked up.
#[derive(Clone, Copy, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping such as \"refresh: 30s\"")]
pub struct DnsConfig {
    /// How often they are looked up again.
    #[serde(with = "As::<HumanDuration>")]
    #[default(Duration::from_secs(30))]
    pub refresh: Duration,
}

/// When one of several upstreams is left alone, and for how long.
#[derive(Clone, Copy, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping such as \"failures: 3\"")]
pub struct Health {
    /// After so many failures in a row.
    #[serde(with = "As::<Count<1, 1000, u32>>")]
    #[default(3)]
    pub failures: u32,
    /// For so long at first; each time that a try fails after it, for twice as long. While the file is read, 0 where it says
    /// nothing, as the next one.
    #[serde(with = "As::<HumanDuration>", default)]
    #[default(Duration::from_secs(1))]
    pub eject: Duration,
    /// But never for longer than this.
    #[serde(with = "As::<HumanDuration>", default)]
    #[default(Duration::from_secs(60))]
    pub max_eject: Duration,
}

/// X-Forwarded-*, Forwarded and X-Real-IP (rule G4).
#[derive(Clone, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping with the keys trusted_proxies and enabled")]
pub struct ForwardedPolicy {
    /// Peers whose X-Forwarded-*, Forwarded and X-Real-IP are trusted.
    #[serde(deserialize_with = "As::<Network>::list")]
    pub trusted_proxies: Vec<IpNet>,
    /// `false`: none of these fields is made (rule G4).
    #[default(true)]
    pub enabled: bool,
}

/// Peers that say in the PROXY protocol for which client they speak.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping such as \"from: [10.0.0.0/8]\"")]
pub struct ProxyProtocol {
    /// These have to, and no others may.
    #[serde(deserialize_with = "As::<Network>::list")]
    pub from: Vec<IpNet>,
}

/// The built-in resources.
#[derive(Clone, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping such as \"configz: true\"")]
pub struct AdminConfig {
    /// Where they answer and nothing else. Empty: nowhere, and /metrics answers local clients on every address of
    /// [`Config::listen_addr`].
    #[serde(deserialize_with = "As::<ListenAddr>::list", skip_serializing_if = "Vec::is_empty")]
    pub listen_addr: Vec<ListenAddr>,
    /// Whom /configz answers.
    #[serde(deserialize_with = "configz_access")]
    pub configz: ConfigzAccess,
    /// The path at which the proxy says that it runs; `None`: nowhere.
    #[serde(deserialize_with = "health_path", serialize_with = "print_health_path")]
    #[default(Some(HEALTH_PATH.to_owned()))]
    pub health: Option<String>,
    /// Whether /metrics answers.
    #[default(true)]
    pub metrics: bool,
}

/// Whom /configz answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfigzAccess {
    /// Every client.
    #[default]
    Everybody,
    /// Clients on this host, and at `admin.listen_addr`.
    Local,
    /// Nobody.
    Off,
}

impl Serialize for ConfigzAccess {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ConfigzAccess::Everybody => serializer.serialize_bool(true),
            ConfigzAccess::Local => serializer.serialize_str("local"),
            ConfigzAccess::Off => serializer.serialize_bool(false),
        }
    }
}

fn configz_access<'de, D: Deserializer<'de>>(from: D) -> Result<ConfigzAccess, D::Error> {
    switch_or_text(from, "true, local or false", |text| match text {
        "true" => Some(ConfigzAccess::Everybody),
        "local" => Some(ConfigzAccess::Local),
        "false" => Some(ConfigzAccess::Off),
        _ => None,
    })
}

const HEALTH_PATH: &str = "/health";

fn health_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let is_path = |text: &str| text.starts_with('/') && is_plain(text) && !["/configz", "/metrics"].contains(&text);
    switch_or_text(from, "true, false or a path such as /healthz", |text| match text {
        "true" => Some(Some(HEALTH_PATH.to_owned())),
        "false" => Some(None),
        path => is_path(path).then(|| Some(path.to_owned())),
    })
}

fn print_health_path<S: Serializer>(path: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match path.as_deref() {
        Some(HEALTH_PATH) => serializer.serialize_bool(true),
        Some(path) => serializer.serialize_str(path),
        None => serializer.serialize_bool(false),
    }
}

/// One plugin of the list, or of `-plugindir`. It has either a path or the name of one that is built in.
#[derive(Clone, Debug, SmartDefault, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping with the key path or builtin")]
pub struct PluginConfig {
    /// What routes, the log and the metrics call it. Where the file does not say, the builtin's name, or that of the file
    /// without `.so`.
    #[serde(deserialize_with = "As::<PluginName>::deserialize")]
    pub name: String,
    /// A shared library.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The name of one that is linked into the binary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin: Option<String>,
    /// Whether the proxy refuses to start without it.
    #[default(true)]
    pub required: bool,
    /// As the plugin gets it: a string verbatim, a mapping or list as JSON, nothing as empty.
    #[serde(deserialize_with = "plugin_config")]
    pub config: String,
}

impl PluginConfig {
    /// A file without a configuration.
    pub fn of_file(path: PathBuf, required: bool) -> PluginConfig {
        let mut plugin = PluginConfig { path: Some(path), required, ..PluginConfig::default() };
        plugin.name = plugin.default_name();
        plugin
    }

    /// Where it comes from: its file, or the name of one that is built in.
    pub fn source(&self) -> String {
        let path = self.path.as_ref().map(|path| path.display().to_string());
        path.or_else(|| self.builtin.clone()).unwrap_or_default()
    }

    /// The name of one that is given none.
    pub(super) fn default_name(&self) -> String {
        let stem = self.path.as_ref().and_then(|path| path.file_stem()).unwrap_or_default().to_string_lossy();
        let name = self.builtin.as_deref().unwrap_or(&stem).chars().take(PluginName::MAX_LEN);
        name.map(|c| if PluginName::allows(c) { c } else { '_' }).collect()
    }
}

fn plugin_config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        value if is_json(&value) => serde_json::to_string(&value).map_err(D::Error::custom),
        _ => Err(D::Error::custom(
            "plugins get JSON, which has no tags, no infinity and no NaN: put the value in quotes",
        )),
    }
}

/// Serializers make null of numbers that JSON does not have, and a mapping of a tag.
fn is_json(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        Value::Sequence(list) => list.iter().all(is_json),
        Value::Mapping(mapping) => mapping.values().all(is_json),
        Value::Tagged(_) => false,
        _ => true,
    }
}

/// Whether something of a response is mapped to where clients see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "auto or off")]
pub enum Rewrite {
    /// Where it leads to the upstream.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// One route, checked. It is printed as it could stand in the file, with all that holds for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteConfig {
    /// The hosts that it is for, as they are compared: lower case, no port, `*.` in front of a name for all names that end
    /// so. Empty: all hosts. Shared by all routes that say the same.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub hosts: Arc<[Box<str>]>,
    /// As written in the file, for people.
    pub prefix: String,
    /// Where it leads.
    #[serde(flatten)]
    pub target: RouteTarget,
    /// Shared by all routes that say the same.
    #[serde(flatten)]
    pub options: Arc<RouteOptions>,
}

/// Where a route leads. Shared by all routes that say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// One or more, up to [`MAX_UPSTREAMS`], which all have the same base path; either all of them have credentials or none.
    Upstreams(Arc<[UpstreamUrl]>),
    /// The proxy answers, and sends clients elsewhere.
    Redirect(Arc<Redirect>),
}

/// A route has no more upstreams than this.
pub const MAX_UPSTREAMS: usize = 64;

impl Serialize for RouteTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RouteTarget::Redirect(redirect) => serializer.collect_map([("redirect", redirect)]),
            RouteTarget::Upstreams(upstreams) => match &**upstreams {
                [one] => serializer.collect_map([("upstream", one)]),
                several => serializer.collect_map([("upstreams", several)]),
            },
        }
    }
}

/// Where clients are sent: a text for `to` alone, or a mapping. It is checked with its route.
#[derive(Clone, Debug, SmartDefault, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// An http or https URL, or a path that begins with one slash.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(with = "As::<Count<301, 308, u16>>")]
    #[default(308)]
    pub status: u16,
    /// Whether path and query of the request are appended.
    #[default(true)]
    pub keep_path: bool,
}

fn redirect<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<Redirect>>, D::Error> {
    struct ToOrAll;

    impl<'de> Visitor<'de> for ToOrAll {
        type Value = Redirect;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a URL such as https://new.example/base, a path, or {to: /new, status: 308, keep_path: true}")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Redirect, E> {
            Ok(Redirect { to: text.to_owned(), ..Redirect::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, mapping: A) -> Result<Redirect, A::Error> {
            Redirect::deserialize(MapAccessDeserializer::new(mapping))
        }
    }

    from.deserialize_any(ToOrAll).map(|redirect| Some(Box::new(redirect)))
}

impl RouteConfig {
    /// Its upstreams; none where it redirects.
    pub fn upstreams(&self) -> &[UpstreamUrl] {
        match &self.target {
            RouteTarget::Upstreams(upstreams) => upstreams,
            RouteTarget::Redirect(_) => &[],
        }
    }

    /// The first of its hosts, if it has any: with the prefix it names the route.
    pub fn host(&self) -> Option<&str> {
        self.hosts.first().map(|host| &**host)
    }

    /// The one name that no other route has: `/prefix`, or `a.example/prefix`.
    pub fn name(&self) -> String {
        [self.host().unwrap_or_default(), &self.prefix].concat()
    }

    /// What the route takes from the path, without a slash at its end; empty for nothing.
    pub fn stripped_prefix(&self) -> &str {
        if self.options.strip_prefix { self.prefix.trim_end_matches('/') } else { "" }
    }
}

/// What holds for a route: its own settings, else those of the whole proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RouteOptions {
    /// Whether the prefix is removed from the path before forwarding.
    pub strip_prefix: bool,
    /// Which Host the upstream sees (rule G8).
    pub host: HostPolicy,
    /// Whether Location, Content-Location, Refresh and Link are mapped from the place that the upstream knows to the one
    /// that clients see.
    pub rewrite_redirects: Rewrite,
    /// The same for Path and Domain of Set-Cookie.
    pub rewrite_cookies: Rewrite,
    /// Whether a client that asks for the prefix without a slash at its end is redirected to the one with it.
    pub redirect_to_slash: bool,
    /// Protocol tokens that a client may upgrade to, lower case.
    pub upgrade: Vec<String>,
    /// 413 above it.
    #[serde(serialize_with = "As::<BodyLimit>::serialize")]
    pub max_body_bytes: Option<u64>,
    /// Of its requests.
    pub timeouts: Timeouts,
    /// How its upstream is verified, if that is an `https://` one.
    pub upstream_tls: UpstreamTls,
    /// The names of the plugins that run, in this order; `None`: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins: Option<Vec<String>>,
    /// Its own, which come after those of the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<Arc<HeaderEdits>>,
    /// The same for responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<Arc<HeaderEdits>>,
    /// Which clients are served; `None`: all but those of `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<IpNet>>,
    /// Which are not, even if `allow` has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<IpNet>>,
}

impl RouteOptions {
    /// Whether a client with this address is served. One without an address (on a unix socket) is in no range.
    pub fn is_allowed(&self, address: Option<IpAddr>) -> bool {
        // An IPv4 client of a dual-stack socket appears as ::ffff:a.b.c.d.
        let address = address.map(|address| address.to_canonical());
        let has =
            |ranges: &Vec<IpNet>| address.is_some_and(|address| ranges.iter().any(|range| range.contains(&address)));
        !self.deny.as_ref().is_some_and(has) && self.allow.as_ref().is_none_or(has)
    }
}

#[cfg(test)]
impl Default for RouteOptions {
    fn default() -> Self {
        RawRoute::default().merged_with(&Config::default())
    }
}

/// A route as it is written; `None` is what it does not say. Boxes keep 100,000 of them small that say little.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping with the keys prefix and upstream")]
pub(crate) struct RawRoute {
    #[serde(deserialize_with = "As::<RouteHost>::said_list")]
    pub(super) hosts: Option<Vec<Box<str>>>,
    pub(super) prefix: String,
    #[serde(deserialize_with = "As::<UpstreamUrl>::deserialize")]
    pub(super) upstream: Option<UpstreamUrl>,
    #[serde(deserialize_with = "As::<UpstreamUrl>::list")]
    pub(super) upstreams: Option<Vec<UpstreamUrl>>,
    #[serde(deserialize_with = "redirect")]
    pub(super) redirect: Option<Box<Redirect>>,
    pub(super) strip_prefix: Option<bool>,
    #[serde(deserialize_with = "As::<HostPolicy>::deserialize")]
    pub(super) host: Option<HostPolicy>,
    pub(super) rewrite_redirects: Option<Rewrite>,
    pub(super) rewrite_cookies: Option<Rewrite>,
    pub(super) redirect_to_slash: Option<bool>,
    #[serde(deserialize_with = "As::<Protocol>::list")]
    pub(super) upgrade: Option<Vec<String>>,
    #[serde(deserialize_with = "As::<BodyLimit>::deserialize")]
    pub(super) max_body_bytes: Option<Option<u64>>,
    pub(super) timeouts: Option<Box<RawTimeouts>>,
    pub(super) upstream_tls: Option<Box<UpstreamTls>>,
    #[serde(deserialize_with = "As::<PluginName>::list")]
    pub(super) plugins: Option<Vec<String>>,
    pub(super) request_headers: Option<Arc<HeaderEdits>>,
    pub(super) response_headers: Option<Arc<HeaderEdits>>,
    #[serde(deserialize_with = "As::<Network>::said_list")]
    pub(super) allow: Option<Vec<IpNet>>,
    #[serde(deserialize_with = "As::<Network>::said_list")]
    pub(super) deny: Option<Vec<IpNet>>,
}

/// The time-outs that a route can have for itself: the others end before its route is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of time-outs such as \"response_head: 5s\"")]
pub(crate) struct RawTimeouts {
    #[serde(deserialize_with = "As::<HumanDuration>::deserialize")]
    pub(super) body_idle: Option<Duration>,
    #[serde(deserialize_with = "As::<HumanDuration>::deserialize")]
    pub(super) write_idle: Option<Duration>,
    #[serde(deserialize_with = "connect")]
    pub(super) connect: Option<ConnectTimeout>,
    #[serde(deserialize_with = "As::<HumanDuration>::deserialize")]
    pub(super) response_head: Option<Duration>,
    #[serde(deserialize_with = "As::<HumanDuration>::deserialize")]
    pub(super) response_idle: Option<Duration>,
    #[serde(deserialize_with = "As::<HumanDuration>::deserialize")]
    pub(super) tunnel_idle: Option<Duration>,
    #[serde(deserialize_with = "As::<HumanDuration>::deserialize")]
    pub(super) tunnel_half_closed: Option<Duration>,
    #[serde(deserialize_with = "As::<HumanDuration>::deserialize")]
    pub(super) plugin: Option<Duration>,
}

impl RawRoute {
    /// What holds for the route in a file that says `config` at its top level.
    pub(super) fn merged_with(self, config: &Config) -> RouteOptions {
        let (own, top) = (self.timeouts.unwrap_or_default(), &config.timeouts);
        let (own_tls, top_tls) = (self.upstream_tls.unwrap_or_default(), &config.upstream_tls);
        // They belong together.
        let pair = if own_tls.certificate.is_some() { &*own_tls } else { top_tls };
        let (certificate, key) = (pair.certificate.clone(), pair.key.clone());
        RouteOptions {
            strip_prefix: self.strip_prefix.unwrap_or(true),
            host: self.host.unwrap_or(HostPolicy::Upstream),
            rewrite_redirects: self.rewrite_redirects.unwrap_or(config.rewrite_redirects),
            rewrite_cookies: self.rewrite_cookies.unwrap_or(config.rewrite_cookies),
            redirect_to_slash: self.redirect_to_slash.unwrap_or(config.redirect_to_slash),
            upgrade: self.upgrade.unwrap_or_else(|| vec!["websocket".to_owned()]),
            max_body_bytes: self.max_body_bytes.unwrap_or(config.limits.max_body_bytes),
            timeouts: Timeouts {
                body_idle: own.body_idle.unwrap_or(top.body_idle),
                write_idle: own.write_idle.unwrap_or(top.write_idle),
                connect: own.connect.unwrap_or(top.connect),
                response_head: own.response_head.unwrap_or(top.response_head),
                response_idle: own.response_idle.unwrap_or(top.response_idle),
                tunnel_idle: own.tunnel_idle.unwrap_or(top.tunnel_idle),
                tunnel_half_closed: own.tunnel_half_closed.unwrap_or(top.tunnel_half_closed),
                plugin: own.plugin.unwrap_or(top.plugin),
                ..*top
            },
            upstream_tls: UpstreamTls {
                certificate,
                key,
                ca_file: own_tls.ca_file.or_else(|| top_tls.ca_file.clone()),
                server_name: own_tls.server_name.or_else(|| top_tls.server_name.clone()),
                insecure_skip_verify: own_tls.insecure_skip_verify.or(top_tls.insecure_skip_verify),
            },
            plugins: self.plugins,
            request_headers: self.request_headers,
            response_headers: self.response_headers,
            allow: self.allow,
            deny: self.deny,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn a_list_without_a_value_is_as_if_it_was_left_out() {
        for value in ["", " ~"] {
            let text = format!("routes:\n- prefix: /a\n  upstream: http://a\n  upgrade:{value}\n");
            let config = Config::parse(&text, "config.yaml").expect("it is valid");
            assert_eq!(config.routes[0].options.upgrade, ["websocket"], "{value:?}");
        }
    }

    #[test]
    fn any_yaml_becomes_json() {
        for (name, yaml, json) in [
            ("a text", "' [as: it is'", " [as: it is"),
            ("nothing", "", ""),
            ("one number", "-1.5", "-1.5"),
            ("a list", "[1, -2, 3.5, 0x10, ~, true, a, []]", r#"[1,-2,3.5,16,null,true,"a",[]]"#),
            ("nested", "{a: {b: [{}, 'c\"d']}, 'e f': ''}", r#"{"a":{"b":[{},"c\"d"]},"e f":""}"#),
        ] {
            let text =
                format!("routes: [{{prefix: /, upstream: 'http://a'}}]\nplugins:\n- path: x\n  config: {yaml}\n");
            let config = Config::parse(&text, "config.yaml").map_err(|error| error.to_string());
            let found = config.map(|config| config.plugins.into_iter().map(|plugin| plugin.config).collect::<Vec<_>>());
            assert_eq!(found, Ok(vec![json.to_owned()]), "{name}");
        }
    }
}
