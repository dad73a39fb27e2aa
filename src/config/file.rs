//! From the file to a [`Config`]: reads it, refuses what is not text, fills in what was left out.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigError, TOO_DEEP};
use super::found;
use super::plain;
use super::read::Entry as _;
use super::sections::{
    CertificateKeys, Connect, File, HealthKeys, LimitKeys, PluginKeys, PoolKeys, RouteKeys, RouteTimeoutKeys, Routes,
    TimeoutKeys, TlsKeys, UpstreamTlsKeys,
};
use super::units::{BodyLimit, ConnectionLimit, MemoryLimit, Span};
use super::values::{Address, Flag, Format, Host, Listen, Network, Protocol, Rewriting, ServerName, Text};
use super::{
    CertificateFiles, Config, ForwardedPolicy, Health, Limits, ListenAddr, LogConfig, LogFormat, PluginConfig,
    PluginSource, PoolLimits, Rewrites, RouteConfig, RouteOptions, Timeouts, TlsListen, UpstreamTls,
};

impl Config {
    /// Reads and checks the file at `path`. The environment variable `LOG_MODE=json` changes the default of `log.format`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let bytes = read_bytes(path).map_err(|error| {
            ConfigError::whole(
                &name,
                match error.kind() {
                    ErrorKind::NotFound => NOT_FOUND.to_owned(),
                    ErrorKind::PermissionDenied => NOT_PERMITTED.to_owned(),
                    ErrorKind::IsADirectory => IS_DIRECTORY.to_owned(),
                    ErrorKind::FileTooLarge => TOO_LARGE.to_owned(),
                    ErrorKind::Unsupported => NOT_REGULAR.to_owned(),
                    _ => format!("cannot be read: {error}"),
                },
            )
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            ConfigError::at(&name, &bytes, error.valid_up_to(), "this byte is not UTF-8: save the file as UTF-8 text")
        })?;
        parse(text, &name, default_format())
    }

    /// Checks `text`; `name` stands for the file in messages. The environment is not looked at.
    pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
        parse(text, name, Ok(LogFormat::Text))
    }
}

/// What `log.format` is where nothing is said about it; an error is one only there.
pub(super) fn default_format() -> Result<LogFormat, String> {
    let mode = std::env::var_os("LOG_MODE").unwrap_or_default();
    match &*mode.to_string_lossy() {
        "" => Ok(LogFormat::Text),
        mode => Format::from_text(mode)
            .map(|Format(format)| format)
            .map_err(|error| format!("the environment variable LOG_MODE: {error}")),
    }
}

const NOT_FOUND: &str = "no such file; copy config.example.yml to make one, or name another with -config PATH";
const NOT_PERMITTED: &str = "this user may not read it; change its permissions, or name another with -config PATH";
const IS_DIRECTORY: &str = "this is a directory; name the file in it with -config PATH";
const NOT_REGULAR: &str = "this is no regular file, and a reload has to read it again; name one with -config PATH";
const TOO_LARGE: &str = "larger than 64MiB, which no configuration is; name another file with -config PATH";

const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Line and column, from 1, where the configuration `file` names the file `named`; `None` where it is not found, since it
/// is written in another way.
pub fn place_of(file: &Path, named: &Path) -> Option<(usize, usize)> {
    let text = String::from_utf8(read_bytes(file).ok()?).ok()?;
    place_in(&text, named.to_str()?)
}

fn place_in(text: &str, word: &str) -> Option<(usize, usize)> {
    let is_end =
        |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}'));
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')).find_map(|(number, line)| {
        let (at, _) = line.match_indices(word).find(|(at, _)| {
            is_end(line[..*at].chars().next_back()) && is_end(line[at + word.len()..].chars().next())
        })?;
        Some((number + 1, line[..at].chars().count() + 1))
    })
}

/// Reads a regular file, with a cap: whatever else the path may name, a pipe for example, may block for ever.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(if kind.is_dir() { ErrorKind::IsADirectory } else { ErrorKind::Unsupported }.into());
    }
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// The characters that YAML allows (YAML 1.2 section 5.1); a byte order mark only at the start.
fn is_allowed((at, c): (usize, char)) -> bool {
    match c {
        '\t' | '\n' | '\r' | '\u{85}' => true,
        '\u{feff}' => at == 0,
        '\u{fffe}' | '\u{ffff}' => false,
        _ => !c.is_control(),
    }
}

/// Where `[` and `{` are nested more deeply than this, the YAML library is not asked: its time grows with the square of
/// the depth before it finds that there are more than the 128 levels that it takes.
const MAX_DEPTH: usize = 1000;

/// The first bracket that is nested too deeply. Quotes and comments are not looked at: no file has so many open ones there.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.bytes().position(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

fn parse(text: &str, name: &str, format: Result<LogFormat, String>) -> Result<Config, ConfigError> {
    if let Some(at) = too_deep(text) {
        return Err(ConfigError::at(name, text.as_bytes(), at, TOO_DEEP));
    }
    // The YAML library would tell these without a usable place. Most text is plain ASCII, which a glance shows.
    let is_plain = text.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~'));
    if !is_plain && let Some((at, _)) = text.char_indices().find(|&c| !is_allowed(c)) {
        let message = "a control character, which YAML does not allow: remove it";
        return Err(ConfigError::at(name, text.as_bytes(), at, message));
    }
    let read_file = |text: &str| {
        let mut file: Option<File> = None;
        found::read(&mut file, serde_yaml::Deserializer::from_str(text))?;
        Ok::<File, serde_yaml::Error>(file.expect("what is read without an error has filled its slot"))
    };
    if let Some((rest, routes)) = plain::take_routes(text)
        && let Ok(mut file) = read_file(&rest)
        && file.routes.take().is_some_and(|routes| plain::is_stand_in(&routes))
    {
        return resolve(file, routes, format).map_err(|error| ConfigError::whole(name, error));
    }
    let mut file = read_file(text).map_err(|error| ConfigError::from_yaml(name, text, error))?;
    match file.routes.take() {
        Some(routes) => resolve(file, routes, format).map_err(|error| ConfigError::whole(name, error)),
        None => Err(ConfigError::whole(name, Routes::MISSING)),
    }
}

/// `file` and its `routes`, with a default for everything that was left out.
pub(super) fn resolve(file: File, routes: Routes, format: Result<LogFormat, String>) -> Result<Config, String> {
    let default = Config::default();
    let limits = file.limits.unwrap_or_default().resolve();
    let timeouts = file.timeouts.unwrap_or_default().over(Timeouts::default());
    let upstream_tls = file.upstream_tls.unwrap_or_default().over(&UpstreamTls::default());
    let rewrites =
        rewrites_over(file.rewrite_redirects, file.rewrite_cookies, file.redirect_to_slash, Rewrites::default());
    let forwarded = file.forwarded.unwrap_or_default();
    let admin = file.admin.unwrap_or_default();
    let log = file.log.unwrap_or_default();
    let mut config = Config {
        listen: file.listen_addr.map_or(default.listen, addresses),
        routes: resolve_routes(routes, &limits, timeouts, rewrites, &upstream_tls),
        workers: file.workers.map_or(default.workers, |count| count.to_usize()),
        limits,
        pool: file.pool.unwrap_or_default().resolve(),
        dns_refresh: span(file.dns.unwrap_or_default().refresh, default.dns_refresh),
        tls: file.tls.map(TlsKeys::resolve),
        health: file.health.unwrap_or_default().resolve(),
        upstream_tls,
        forwarded: ForwardedPolicy {
            trusted_proxies: networks(forwarded.trusted_proxies),
            enabled: forwarded.enabled.is_none_or(|Flag(on)| on),
        },
        preface_from: networks(file.proxy_protocol.unwrap_or_default().from),
        rewrites,
        timeouts,
        configz: admin.configz.is_none_or(|Flag(on)| on),
        metrics: admin.metrics.is_none_or(|Flag(on)| on),
        admin_listen: admin.listen_addr.map_or(default.admin_listen, addresses),
        plugins: file.plugins.unwrap_or_default().into_iter().filter_map(PluginKeys::resolve).collect(),
        plugin_body_limit: file.plugin_body_limit.map_or(default.plugin_body_limit, |size| size.to_usize()),
        log: LogConfig {
            format: log.format.map_or(format, |Format(format)| Ok(format))?,
            access: log.access.is_some_and(|Flag(on)| on),
        },
    };
    config.fit_workers();
    Ok(config)
}

fn addresses(Listen(all): Listen) -> Vec<ListenAddr> {
    all.into_iter().map(|Address(address)| address).collect()
}

fn networks(written: Option<Vec<Network>>) -> Vec<ipnet::IpNet> {
    written.unwrap_or_default().into_iter().map(|Network(net)| net).collect()
}

fn span(written: Option<Span>, default: Duration) -> Duration {
    written.map_or(default, |Span(span)| span)
}

impl LimitKeys {
    fn resolve(self) -> Limits {
        let default = Limits::default();
        let max_head_bytes = self.max_head_bytes.map_or(default.max_head_bytes, |size| size.to_usize());
        Limits {
            max_connections: self
                .max_connections
                .and_then(|ConnectionLimit(limit)| limit)
                .map_or(default.max_connections, |count| Some(count.to_usize())),
            memory_budget: self
                .memory_budget
                .and_then(|MemoryLimit(limit)| limit)
                .map_or(default.memory_budget, |size| Some(size.to_usize())),
            max_head_bytes,
            max_header_fields: self.max_header_fields.map_or(default.max_header_fields, |count| count.to_usize()),
            // Whoever lowers the head only wants the line lowered with it.
            max_request_line: self
                .max_request_line
                .map_or(default.max_request_line.min(max_head_bytes), |size| size.to_usize()),
            max_body_bytes: self.max_body_bytes.map_or(default.max_body_bytes, body_limit),
            max_requests_per_connection: self
                .max_requests_per_connection
                .map_or(default.max_requests_per_connection, |count| count.to_u32()),
            max_interim_responses: self
                .max_interim_responses
                .map_or(default.max_interim_responses, |count| count.to_u32()),
        }
    }
}

fn body_limit(BodyLimit(limit): BodyLimit) -> Option<u64> {
    limit.map(|size| size.0)
}

impl PoolKeys {
    fn resolve(self) -> PoolLimits {
        let default = PoolLimits::default();
        PoolLimits {
            max_idle: self.max_idle.map_or(default.max_idle, |count| count.to_usize()),
            max_idle_per_upstream: self
                .max_idle_per_upstream
                .map_or(default.max_idle_per_upstream, |count| count.to_usize()),
            idle_timeout: span(self.idle_timeout, default.idle_timeout),
            max_age: span(self.max_age, default.max_age),
        }
    }
}

impl HealthKeys {
    fn resolve(self) -> Health {
        let default = Health::default();
        let eject = span(self.eject, self.max_eject.map_or(default.eject, |Span(most)| most.min(default.eject)));
        Health {
            failures: self.failures.map_or(default.failures, |count| count.to_u32()),
            eject,
            max_eject: span(self.max_eject, default.max_eject.max(eject)),
        }
    }
}

impl TimeoutKeys {
    /// `default` with what was written in its place.
    fn over(self, default: Timeouts) -> Timeouts {
        let TimeoutKeys {
            request_head,
            body_idle,
            keep_alive,
            write_idle,
            connect,
            response_head,
            response_idle,
            tunnel_idle,
            tunnel_half_closed,
            drain,
        } = self;
        let of_routes = RouteTimeoutKeys {
            body_idle,
            write_idle,
            connect,
            response_head,
            response_idle,
            tunnel_idle,
            tunnel_half_closed,
        };
        Timeouts {
            request_head: span(request_head, default.request_head),
            keep_alive: span(keep_alive, default.keep_alive),
            drain: span(drain, default.drain),
            ..of_routes.over(default)
        }
    }
}

impl RouteTimeoutKeys {
    /// `default` with what was written in its place.
    fn over(self, default: Timeouts) -> Timeouts {
        let connect =
            self.connect.unwrap_or(Connect { address: Span(default.connect_address), total: Span(default.connect) });
        Timeouts {
            body_idle: span(self.body_idle, default.body_idle),
            write_idle: span(self.write_idle, default.write_idle),
            connect_address: connect.address.0,
            connect: connect.total.0,
            response_head: span(self.response_head, default.response_head),
            response_idle: span(self.response_idle, default.response_idle),
            tunnel_idle: span(self.tunnel_idle, default.tunnel_idle),
            tunnel_half_closed: span(self.tunnel_half_closed, default.tunnel_half_closed),
            ..default
        }
    }
}

impl TlsKeys {
    fn resolve(self) -> TlsListen {
        let first = CertificateKeys { certificate: self.certificate, key: self.key }.resolve();
        let more = self.certificates.unwrap_or_default().into_iter().filter_map(CertificateKeys::resolve);
        TlsListen {
            listen: self.listen_addr.map_or(Vec::new(), addresses),
            certificates: first.into_iter().chain(more).collect(),
        }
    }
}

impl CertificateKeys {
    /// `None` where nothing was written.
    fn resolve(self) -> Option<CertificateFiles> {
        let (Text(certificate), Text(key)) = (self.certificate?, self.key?);
        Some(CertificateFiles { certificate: PathBuf::from(certificate), key: PathBuf::from(key) })
    }
}

impl UpstreamTlsKeys {
    /// `default` with what was written in its place.
    fn over(self, default: &UpstreamTls) -> UpstreamTls {
        UpstreamTls {
            ca_file: self.ca_file.map_or_else(|| default.ca_file.clone(), |Text(path)| Some(PathBuf::from(path))),
            server_name: self.server_name.map_or_else(|| default.server_name.clone(), |ServerName(name)| Some(name)),
            insecure_skip_verify: self.insecure_skip_verify.map_or(default.insecure_skip_verify, |Flag(on)| on),
        }
    }
}

/// `default` with what was written in its place.
fn rewrites_over(
    redirects: Option<Rewriting>,
    cookies: Option<Rewriting>,
    to_slash: Option<Flag>,
    default: Rewrites,
) -> Rewrites {
    Rewrites {
        redirects: redirects.map_or(default.redirects, |Rewriting(rewrite)| rewrite),
        cookies: cookies.map_or(default.cookies, |Rewriting(rewrite)| rewrite),
        redirect_to_slash: to_slash.map_or(default.redirect_to_slash, |Flag(on)| on),
    }
}

fn resolve_routes(
    routes: Routes,
    limits: &Limits,
    timeouts: Timeouts,
    rewrites: Rewrites,
    upstream_tls: &UpstreamTls,
) -> Vec<RouteConfig> {
    let resolve = |keys: RouteKeys| Arc::new(keys.resolve_options(limits, timeouts, rewrites, upstream_tls));
    let options: Vec<_> = routes.options.into_iter().map(resolve).collect();
    routes
        .routes
        .into_iter()
        .map(|route| RouteConfig {
            prefix: route.prefix,
            upstream: route.upstream,
            others: route.others,
            options: Arc::clone(&options[route.options]),
        })
        .collect()
}

impl Config {
    /// What a route gets that says nothing for itself.
    pub(super) fn bare_route(&self) -> RouteOptions {
        RouteKeys::default().resolve_options(&self.limits, self.timeouts, self.rewrites, &self.upstream_tls)
    }
}

impl RouteKeys {
    fn resolve_options(
        self,
        limits: &Limits,
        timeouts: Timeouts,
        rewrites: Rewrites,
        upstream_tls: &UpstreamTls,
    ) -> RouteOptions {
        let default = RouteOptions::default();
        RouteOptions {
            strip_prefix: self.strip_prefix.map_or(default.strip_prefix, |Flag(on)| on),
            rewrites: rewrites_over(self.rewrite_redirects, self.rewrite_cookies, self.redirect_to_slash, rewrites),
            host: self.host.map_or(default.host, |Host(policy)| policy),
            upgrade: self.upgrade.map_or(default.upgrade, |all| all.into_iter().map(|Protocol(name)| name).collect()),
            max_body_bytes: self.max_body_bytes.map_or(limits.max_body_bytes, body_limit),
            timeouts: self.timeouts.unwrap_or_default().over(timeouts),
            upstream_tls: self.upstream_tls.unwrap_or_default().over(upstream_tls),
        }
    }
}

impl PluginKeys {
    /// `None` where its check would have refused it.
    fn resolve(self) -> Option<PluginConfig> {
        let source = match (self.path, self.builtin) {
            (Some(Text(path)), None) => PluginSource::Path(PathBuf::from(path)),
            (None, Some(Text(name))) => PluginSource::Builtin(name),
            (None, None) | (Some(_), Some(_)) => return None,
        };
        let required = self.required.is_none_or(|Flag(on)| on);
        Some(PluginConfig { source, required, config: self.config.unwrap_or_default().0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_file_that_is_named_is_found() {
        let text = "# /etc/a.pem\nplugins:\n  - {path: \"/x/b.so\"}\n  - path: /x/b.so.2\ntls: {certificate: /etc/a.pem, key: '/etc/k'}\n";
        for (word, expected) in [
            ("/x/b.so", Some((3, 13))),
            ("/x/b.so.2", Some((4, 11))),
            ("/etc/a.pem", Some((5, 20))),
            ("/etc/k", Some((5, 38))),
            ("/etc", None),
        ] {
            assert_eq!(place_in(text, word), expected, "{word}");
        }
    }

    #[test]
    fn brackets_that_are_nested_too_deeply_are_told_at_once() {
        for (open, close) in [("[", "]"), ("{a: ", "}")] {
            let deep = |levels: usize| format!("routes: {}{}\n", open.repeat(levels), close.repeat(levels));
            let begin = std::time::Instant::now();
            let error = Config::parse(&deep(100_000), "f").expect_err("too deep").to_string();
            assert!(error.starts_with("f:1:") && error.contains("at most 128 levels"), "{error}");
            assert!(begin.elapsed() < Duration::from_secs(5));
            let error = Config::parse(&deep(200), "f").expect_err("too deep").to_string();
            assert!(error.contains("at most 128 levels") || error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let socket = std::env::temp_dir().join(format!("mini-rproxy-config-{}", std::process::id()));
        let _ = fs::remove_file(&socket);
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for path in [socket.as_path(), Path::new("/dev/null")] {
            let error = Config::load(path).expect_err("no file").to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
        let _ = fs::remove_file(&socket);
    }
}
