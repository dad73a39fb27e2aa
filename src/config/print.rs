//! From a [`Config`] back to YAML, with every default written out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::json::PluginText;
use super::sections::{
    AdminKeys, CertificateKeys, Connect, DnsKeys, File, ForwardedKeys, HealthKeys, LimitKeys, LogKeys, PluginKeys,
    PoolKeys, ProxyProtocolKeys, Route, RouteKeys, RouteTimeoutKeys, Routes, TimeoutKeys, TlsKeys, UpstreamTlsKeys,
};
use super::units::{BodyLimit, ConnectionLimit, Count, MemoryLimit, Size, Span};
use super::values::{Address, Flag, Format, Host, Listen, Network, Protocol, Rewriting, ServerName, Text};
use super::{
    CertificateFiles, Config, ListenAddr, PluginConfig, PluginSource, RouteOptions, Timeouts, TlsListen, UpstreamTls,
};

impl Config {
    /// The effective configuration as YAML. Read again it gives the same configuration, but for credentials in upstream
    /// URLs, which are left out: they are never shown.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(&self.to_file()).expect("every value here is text, a number or a list of such")
    }

    /// The same as a value that can be walked through.
    pub(super) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self.to_file()).expect("every value here is text, a number or a list of such")
    }

    /// What a route of this configuration says for itself.
    pub(super) fn options_to_value(&self, options: &RouteOptions) -> serde_json::Value {
        serde_json::to_value(self.to_options(options)).expect("every value here is text, a number or a list of such")
    }

    fn to_file(&self) -> File {
        let limits = &self.limits;
        File {
            listen_addr: to_listen(&self.listen),
            routes: Some(self.to_routes()),
            workers: Some(Count(self.workers as u64)),
            limits: Some(LimitKeys {
                max_connections: Some(ConnectionLimit(limits.max_connections.map(|count| Count(count as u64)))),
                memory_budget: Some(MemoryLimit(limits.memory_budget.map(|bytes| Size(bytes as u64)))),
                max_head_bytes: Some(Size(limits.max_head_bytes as u64)),
                max_header_fields: Some(Count(limits.max_header_fields as u64)),
                max_request_line: Some(Size(limits.max_request_line as u64)),
                max_body_bytes: Some(BodyLimit(limits.max_body_bytes.map(Size))),
                max_requests_per_connection: Some(Count(limits.max_requests_per_connection.into())),
                max_interim_responses: Some(Count(limits.max_interim_responses.into())),
            }),
            timeouts: Some(to_timeouts(&self.timeouts)),
            pool: Some(PoolKeys {
                max_idle: Some(Count(self.pool.max_idle as u64)),
                max_idle_per_upstream: Some(Count(self.pool.max_idle_per_upstream as u64)),
                idle_timeout: span(self.pool.idle_timeout),
                max_age: span(self.pool.max_age),
            }),
            dns: Some(DnsKeys { refresh: span(self.dns_refresh) }),
            health: Some(HealthKeys {
                failures: Some(Count(self.health.failures.into())),
                eject: span(self.health.eject),
                max_eject: span(self.health.max_eject),
            }),
            tls: self.tls.as_ref().map(to_tls),
            upstream_tls: Some(to_upstream_tls(&self.upstream_tls)),
            forwarded: Some(ForwardedKeys {
                trusted_proxies: Some(self.forwarded.trusted_proxies.iter().copied().map(Network).collect()),
                enabled: Some(Flag(self.forwarded.enabled)),
            }),
            proxy_protocol: Some(ProxyProtocolKeys {
                from: Some(self.preface_from.iter().copied().map(Network).collect()),
            }),
            rewrite_redirects: Some(Rewriting(self.rewrites.redirects)),
            rewrite_cookies: Some(Rewriting(self.rewrites.cookies)),
            redirect_to_slash: Some(Flag(self.rewrites.redirect_to_slash)),
            admin: Some(AdminKeys {
                listen_addr: to_listen(&self.admin_listen),
                configz: Some(Flag(self.configz)),
                metrics: Some(Flag(self.metrics)),
            }),
            plugins: Some(self.plugins.iter().map(to_plugin).collect()),
            plugin_body_limit: Some(Size(self.plugin_body_limit as u64)),
            log: Some(LogKeys { format: Some(Format(self.log.format)), access: Some(Flag(self.log.access)) }),
        }
    }

    fn to_routes(&self) -> Routes {
        let mut all = Routes::default();
        let mut last: Option<&Arc<RouteOptions>> = None;
        for route in &self.routes {
            // Neighbours mostly share their options.
            if !last.is_some_and(|last| Arc::ptr_eq(last, &route.options)) {
                all.options.push(self.to_options(&route.options));
                last = Some(&route.options);
            }
            all.routes.push(Route {
                prefix: route.prefix.clone(),
                upstream: Arc::clone(&route.upstream),
                others: route.others.clone(),
                options: all.options.len() - 1,
            });
        }
        all
    }

    /// Time-outs are written only where they are the route's own.
    fn to_options(&self, options: &RouteOptions) -> RouteKeys {
        let timeouts = (options.timeouts != self.timeouts).then(|| to_route_timeouts(&options.timeouts));
        RouteKeys {
            prefix: None,
            upstream: None,
            upstreams: None,
            strip_prefix: Some(Flag(options.strip_prefix)),
            rewrite_redirects: Some(Rewriting(options.rewrites.redirects)),
            rewrite_cookies: Some(Rewriting(options.rewrites.cookies)),
            redirect_to_slash: Some(Flag(options.rewrites.redirect_to_slash)),
            host: Some(Host(options.host.clone())),
            upgrade: Some(options.upgrade.iter().cloned().map(Protocol).collect()),
            max_body_bytes: Some(BodyLimit(options.max_body_bytes.map(Size))),
            timeouts,
            // Only where it is the route's own; and then it has an effect.
            upstream_tls: (options.upstream_tls != self.upstream_tls).then(|| to_upstream_tls(&options.upstream_tls)),
        }
    }
}

/// `None` for no address at all.
fn to_listen(addresses: &[ListenAddr]) -> Option<Listen> {
    (!addresses.is_empty()).then(|| Listen(addresses.iter().cloned().map(Address).collect()))
}

fn to_tls(tls: &TlsListen) -> TlsKeys {
    let text = |path: &Path| Some(Text(path.to_string_lossy().into_owned()));
    let listen = to_listen(&tls.listen);
    let pair =
        |files: &CertificateFiles| CertificateKeys { certificate: text(&files.certificate), key: text(&files.key) };
    let certificates = Some(tls.certificates.iter().map(pair).collect());
    TlsKeys { listen_addr: listen, certificate: None, key: None, certificates }
}

fn to_upstream_tls(tls: &UpstreamTls) -> UpstreamTlsKeys {
    UpstreamTlsKeys {
        ca_file: tls.ca_file.as_ref().map(|path| Text(path.to_string_lossy().into_owned())),
        server_name: tls.server_name.clone().map(ServerName),
        insecure_skip_verify: Some(Flag(tls.insecure_skip_verify)),
    }
}

fn span(span: Duration) -> Option<Span> {
    Some(Span(span))
}

fn to_connect(timeouts: &Timeouts) -> Option<Connect> {
    Some(Connect { address: Span(timeouts.connect_address), total: Span(timeouts.connect) })
}

fn to_timeouts(timeouts: &Timeouts) -> TimeoutKeys {
    TimeoutKeys {
        request_head: span(timeouts.request_head),
        body_idle: span(timeouts.body_idle),
        keep_alive: span(timeouts.keep_alive),
        write_idle: span(timeouts.write_idle),
        connect: to_connect(timeouts),
        response_head: span(timeouts.response_head),
        response_idle: span(timeouts.response_idle),
        tunnel_idle: span(timeouts.tunnel_idle),
        tunnel_half_closed: span(timeouts.tunnel_half_closed),
        drain: span(timeouts.drain),
    }
}

fn to_route_timeouts(timeouts: &Timeouts) -> RouteTimeoutKeys {
    RouteTimeoutKeys {
        body_idle: span(timeouts.body_idle),
        write_idle: span(timeouts.write_idle),
        connect: to_connect(timeouts),
        response_head: span(timeouts.response_head),
        response_idle: span(timeouts.response_idle),
        tunnel_idle: span(timeouts.tunnel_idle),
        tunnel_half_closed: span(timeouts.tunnel_half_closed),
    }
}

fn to_plugin(plugin: &PluginConfig) -> PluginKeys {
    let (path, builtin) = match &plugin.source {
        // It came from a text file, so it is text.
        PluginSource::Path(path) => (Some(Text(path.to_string_lossy().into_owned())), None),
        PluginSource::Builtin(name) => (None, Some(Text(name.clone()))),
    };
    let (required, config) = (Some(Flag(plugin.required)), Some(PluginText(plugin.config.clone())));
    PluginKeys { path, builtin, required, config }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_loads_again_to_the_same() {
        for (name, text) in [
            ("defaults", "routes: [{prefix: /, upstream: 'http://a'}]"),
            (
                "everything",
                r#"
listen_addr: [":8080", "127.0.0.1:1", "[::]:2", "[::]:3?v6only", "[::1]:4", "unix:/run/x y.sock?mode=0660"]
routes:
  - {prefix: /a, upstream: "http://A.example:8000/base/"}
  - prefix: /b/
    upstream: http://[::1]
    strip_prefix: false
    rewrite_redirects: auto
    redirect_to_slash: false
    host: client
    upgrade: []
    max_body_bytes: 1000
    timeouts: {connect: 1s, response_head: 90s}
  - {prefix: "/c'\"", upstream: "http://b", host: fixed.example:81, upgrade: [WebSocket, x/1], max_body_bytes: unlimited}
  - {prefix: /d, upstream: "http://b"}
  - {prefix: /several, upstreams: ["http://a/x", "http://b:1/x/", "http://[::1]/x"]}
HTTPSworkers: 3
limits: {max_connections: 77, memory_budget: 8MiB, max_head_bytes: 4KiB, max_header_fields: 9, max_body_bytes: 1025, max_requests_per_connection: 0}
timeouts: {request_head: 1500ms, connect: {address: 1s, total: 9s}, drain: 2h}
pool: {max_idle: 0, max_idle_per_upstream: 1, idle_timeout: 1s, max_age: 2m}
dns: {refresh: 1h}
health: {failures: 1, eject: 5s, max_eject: 2h}
rewrite_redirects: off
rewrite_cookies: off
redirect_to_slash: true
forwarded: {trusted_proxies: [10.0.0.0/8, 127.0.0.1, "::1"], enabled: false}
proxy_protocol: {from: [192.0.2.7, "2001:db8::/32"]}
admin: {configz: false, metrics: false, listen_addr: ["127.0.0.1:10", "unix:/run/admin"]}
plugins:
  - path: /lib/x.so
    config: {a: [1, null, "true"], b: {}}
  - builtin: header_demo
    required: false
    config: "  verbatim: [\n\ttext "
  - builtin: no_config
plugin_body_limit: 0
log: {format: json, access: true}
"#,
            ),
        ] {
            let https = r#"
  - {prefix: /e, upstream: "https://b", upstream_tls: {ca_file: "/x y", server_name: Z.example}}
  - {prefix: /f, upstream: "https://b", upstream_tls: {insecure_skip_verify: true}}
  - {prefix: /g, upstream: "https://b"}
upstream_tls: {ca_file: /ca, server_name: "::1"}
tls: {listen_addr: ":9", certificate: a, key: b, certificates: [{certificate: c, key: d}]}
"#;
            let text = &text.replace("\nHTTPS", if cfg!(feature = "tls") { https } else { "\n" });
            let config = Config::parse(text, name).unwrap_or_else(|error| panic!("{error}"));
            let printed = config.to_yaml();
            assert_eq!(Config::parse(&printed, "printed").as_ref(), Ok(&config), "{name}:\n{printed}");
        }
    }

    #[test]
    fn every_default_is_printed() {
        let config = Config::parse("routes: [{prefix: /, upstream: 'http://u:p@a'}]", "f").expect("a valid file");
        let printed = Config { workers: 2, ..config }.to_yaml();
        let expected = r#"listen_addr:
- :8080
routes:
- prefix: /
  upstream: http://a
  strip_prefix: true
  host: upstream
  rewrite_redirects: auto
  rewrite_cookies: auto
  redirect_to_slash: false
  upgrade:
  - websocket
  max_body_bytes: unlimited
workers: 2
limits:
  max_connections: auto
  memory_budget: unlimited
  max_head_bytes: 16KiB
  max_header_fields: 256
  max_request_line: 8KiB
  max_body_bytes: unlimited
  max_requests_per_connection: 1000
  max_interim_responses: 8
timeouts:
  request_head: 10s
  body_idle: 30s
  keep_alive: 1m
  write_idle: 1m
  connect:
    address: 3s
    total: 5s
  response_head: 1m
  response_idle: 1m
  tunnel_idle: 1h
  tunnel_half_closed: 30s
  drain: 10s
pool:
  max_idle: 256
  max_idle_per_upstream: 64
  idle_timeout: 4s
  max_age: 5m
dns:
  refresh: 30s
health:
  failures: 3
  eject: 1s
  max_eject: 1m
upstream_tls:
  insecure_skip_verify: false
forwarded:
  trusted_proxies: []
  enabled: true
proxy_protocol:
  from: []
rewrite_redirects: auto
rewrite_cookies: auto
redirect_to_slash: false
admin:
  configz: true
  metrics: true
plugins: []
plugin_body_limit: 1MiB
log:
  format: text
  access: false
"#;
        assert_eq!(printed, expected);
    }
}
