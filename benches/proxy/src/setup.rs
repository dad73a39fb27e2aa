//! How the proxies are set up for a scenario, and the configuration of each that says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::certificate::NAME;
use crate::peer::{Peer, Workshop};
use crate::wire::{HOST, PREFIX};

/// Whether scenarios with TLS are run against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It is not even configured.
    Without,
    /// Listens with TLS, and has a route to the origin's TLS port.
    With,
}

/// How the origin is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over TCP.
    Tcp,
    /// Over a unix socket.
    Unix,
}

/// What the password of [`Extra::Login`] is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Password {
    /// SHA-crypt with SHA-256 and its usual 5,000 rounds.
    ShaCrypt,
    /// The cheapest that each takes: HAProxy the password itself, nginx and Envoy one SHA-1 without salt. Ours takes no less
    /// than SHA-crypt.
    Cheapest,
}

/// What a scenario asks for beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    Nothing,
    /// One field is set on requests, one on responses: in ours by a plugin.
    Marking,
    /// So many WebAssembly filters, in ours and in Envoy (which gets at most one): each sets a field on requests and one on
    /// responses.
    Filters(usize),
    /// `/login/` asks for a password.
    Login(Password),
    /// Bodies that are longer than the buffers that are usual.
    Bodies,
    /// The limit of connections is meant to be reached.
    Limit,
    /// The configuration is read again while requests come.
    Reload,
}

/// How the proxies are set up for a scenario.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Event loops.
    pub workers: usize,
    /// The client connections that must be possible.
    pub connections: usize,
    /// Routes beside those that are always there.
    pub routes: usize,
    /// So many hosts share these routes evenly; with none they are for all hosts.
    pub hosts: usize,
    /// TLS.
    pub tls: Tls,
    /// How the origin is reached.
    pub way: Way,
    /// What else.
    pub extra: Extra,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            workers: 1,
            connections: 2048,
            routes: 0,
            hosts: 0,
            tls: Tls::Without,
            way: Way::Tcp,
            extra: Extra::Nothing,
        }
    }
}

impl Setup {
    /// Host and prefix of each route, host by host; the host is empty where the routes are for all.
    fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        let each = self.routes / self.hosts.max(1);
        let name = |number: usize| if self.hosts == 0 { String::new() } else { host(number) };
        (0..self.hosts.max(1)).flat_map(move |number| (0..each).map(move |at| (name(number), route(at))))
    }

    /// Whether a line of a template with this mark at its end is left out.
    fn is_without(&self, line: &str) -> bool {
        [
            ("# tls", self.tls == Tls::With),
            ("# marked", self.extra == Extra::Marking),
            ("# filter", matches!(self.extra, Extra::Filters(1..))),
            ("# bodies", self.extra == Extra::Bodies),
            ("# login", matches!(self.extra, Extra::Login(_))),
            ("# limit", self.extra == Extra::Limit),
        ]
        .into_iter()
        .any(|(mark, is_wanted)| line.ends_with(mark) && !is_wanted)
    }
}

/// The path of a route of a [`Setup`] with many; all have the same length.
pub fn route(number: usize) -> String {
    format!("/api/v1/service-{number:06}")
}

/// The name of a host of a [`Setup`] with many.
pub fn host(number: usize) -> String {
    format!("host-{number:04}.example")
}

/// Name and password of [`Extra::Login`], as `Authorization` has them.
pub const CREDENTIALS: &str = "Authorization: Basic YmVuY2g6c2VjcmV0\r\n";
const PASSWORD: &str = "secret";
/// `openssl passwd -5 -salt bench secret`
const SHA_CRYPT: &str = "$5$bench$aGj9soKzPSGLoHAnNX6CRmR7JvbwYey3.5ALKy/Q7T6";
/// `printf secret | openssl sha1 -binary | base64`
const SHA_1: &str = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=";

const FILTER: &[u8] = include_bytes!("../../../examples/plugins/proxy_wasm/filters/headers.wasm");
const FILTER_CONFIG: &str = "request set x-bench 1\\nresponse set x-bench 1";

const SPLICE: &str = "    option splice-request\n    option splice-response";

impl Workshop {
    /// Writes the configuration of a peer that is to listen on these ports, and says where it is.
    pub fn write_config(&self, peer: Peer, setup: &Setup, port: u16, tls_port: u16) -> Result<PathBuf, String> {
        let (template, name) = match peer {
            Peer::HaProxy | Peer::SplicingHaProxy => (include_str!("../peers/haproxy.cfg"), "haproxy.cfg"),
            Peer::Nginx => (include_str!("../peers/nginx.conf"), "nginx.conf"),
            Peer::Envoy => (include_str!("../peers/envoy.yaml"), "envoy.yaml"),
            Peer::Ours | Peer::Relay | Peer::SplicingRelay => {
                (include_str!("../peers/mini-rproxy.yml"), "mini-rproxy.yml")
            }
        };
        let (routes, hosts) = self.routes(peer, setup, port)?;
        let htpasswd = self.write(
            &format!("{}-htpasswd", peer.word()),
            format!("bench:{}\n", if is_sha_1(peer, setup) { SHA_1 } else { SHA_CRYPT }).as_bytes(),
        )?;
        // nginx counts those to the origin, too: two for each client that is served.
        let is_double = peer == Peer::Nginx && setup.extra == Extra::Limit;
        let connections = if is_double { 2 * setup.connections } else { setup.connections };
        let words: BTreeMap<&str, String> = [
            ("PORT", port.to_string()),
            ("TLS_PORT", tls_port.to_string()),
            ("WORKERS", setup.workers.to_string()),
            ("CONNECTIONS", connections.to_string()),
            ("DESCRIPTORS", self.descriptors.to_string()),
            ("FOLDER", self.folder.display().to_string()),
            ("ORIGIN", self.origin_for(peer, setup.way)),
            ("TLS_ORIGIN", address_for(peer, self.tls_origin())),
            ("CERTIFICATE", self.certificate.certificate.display().to_string()),
            ("KEY", self.certificate.key.display().to_string()),
            ("BOTH", self.certificate.both.display().to_string()),
            ("NAME", NAME.to_owned()),
            ("ROUTES", routes),
            ("HOSTS", hosts),
            ("ROUTE_LENGTH", route(0).len().to_string()),
            ("PLUGINS", self.plugins(peer, setup)),
            ("FILTER", self.write("headers.wasm", FILTER)?),
            ("FILTER_CONFIG", FILTER_CONFIG.to_owned()),
            ("HTPASSWD", htpasswd),
            (
                "PASSWORD",
                match setup.extra {
                    Extra::Login(Password::ShaCrypt) => format!("password {SHA_CRYPT}"),
                    _ => format!("insecure-password {PASSWORD}"),
                },
            ),
            ("SPLICE", if peer == Peer::SplicingHaProxy { SPLICE.to_owned() } else { String::new() }),
        ]
        .into();
        self.write(&format!("{}-{name}", peer.word()), fill(template, setup, &words).as_bytes()).map(PathBuf::from)
    }

    /// Writes a file, and gives its path.
    fn write(&self, name: &str, content: &[u8]) -> Result<String, String> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// The origin in the peer's own words.
    fn origin_for(&self, peer: Peer, way: Way) -> String {
        match (way, peer) {
            (Way::Tcp, _) => address_for(peer, self.origin()),
            (Way::Unix, Peer::HaProxy | Peer::SplicingHaProxy) => format!("unix@{}", self.unix_origin().display()),
            (Way::Unix, Peer::Envoy) => format!("{{pipe: {{path: {}}}}}", self.unix_origin().display()),
            (Way::Unix, _) => format!("unix:{}", self.unix_origin().display()),
        }
    }

    /// The lines of our configuration for plugins.
    fn plugins(&self, peer: Peer, setup: &Setup) -> String {
        let count = match setup.extra {
            _ if peer != Peer::Ours => return String::new(),
            Extra::Nothing | Extra::Bodies | Extra::Limit | Extra::Reload => return String::new(),
            Extra::Marking => return format!("plugins: [{{path: {}}}]", self.plugin.display()),
            Extra::Login(_) => {
                let path = self.plugin.with_file_name("libbasic_auth.so");
                let file = self.folder.join(format!("{}-htpasswd", peer.word()));
                return format!("plugins: [{{path: {}, config: {{htpasswd: {}}}}}]", path.display(), file.display());
            }
            Extra::Filters(count) => count,
        };
        let host = self.plugin.with_file_name("libproxy_wasm.so");
        let module = self.folder.join("headers.wasm");
        let mut text = if count > 0 { "plugins:\n".to_owned() } else { String::new() };
        for number in 0..count {
            let _ = writeln!(
                text,
                "  - {{name: filter-{number}, path: {}, config: {{module: {}, config: \"{FILTER_CONFIG}\"}}}}",
                host.display(),
                module.display()
            );
        }
        text
    }

    /// The lines of a configuration for many routes, and those that stand below it where they are for hosts.
    fn routes(&self, peer: Peer, setup: &Setup, port: u16) -> Result<(String, String), String> {
        let (mut text, mut below) = (String::new(), String::new());
        if setup.routes == 0 {
            return Ok((text, below));
        }
        let mut last = None;
        match peer {
            Peer::Relay | Peer::SplicingRelay => {}
            Peer::Nginx if setup.hosts == 0 => {
                for (_, route) in setup.pairs() {
                    let _ = writeln!(text, "location {route}/ {{ proxy_pass http://origin/; }}");
                }
            }
            // A server for each host, on the address that the other server listens on.
            Peer::Nginx => {
                below.push_str("server_names_hash_max_size 4096;\n");
                for (host, route) in setup.pairs() {
                    if last.as_ref() != Some(&host) {
                        let end = if last.is_some() { "}\n" } else { "" };
                        let _ = writeln!(below, "{end}server {{\nlisten 127.0.0.1:{port};\nserver_name {host};");
                        last = Some(host);
                    }
                    let _ = writeln!(below, "location {route}/ {{ proxy_pass http://origin/; }}");
                }
                below.push_str("}\n");
            }
            Peer::Ours => {
                for (host, route) in setup.pairs() {
                    let hosts = if host.is_empty() { host } else { format!("    hosts: {host}\n") };
                    let _ = write!(text, "  - prefix: {route}\n{hosts}    upstream: http://{}\n", self.origin());
                }
            }
            // A map from prefix to backend is what its manual recommends for many; a thousand rules would be slow.
            Peer::HaProxy | Peer::SplicingHaProxy => {
                let lines: String = setup.pairs().map(|(host, route)| format!("{host}{route}/ routes\n")).collect();
                let map = self.write("haproxy.map", lines.as_bytes())?;
                let what = if setup.hosts == 0 { "path" } else { "base" };
                let _ = writeln!(text, "    use_backend %[{what},map_beg({map},app)]");
            }
            // A tree of prefixes: it tries the routes of a list one after the other.
            Peer::Envoy => {
                for (host, route) in setup.pairs() {
                    let name = if host.is_empty() { HOST } else { &host };
                    if last.as_ref() != Some(&host) {
                        text.push_str(&ENVOY_TREE.replace("NAME", name));
                        text.push_str(&ENVOY_BRANCH.replace("PREFIX", PREFIX));
                        last = Some(host);
                    }
                    text.push_str(&ENVOY_BRANCH.replace("PREFIX", &route));
                }
            }
        }
        Ok((text, below))
    }
}

/// A virtual host of Envoy that looks for the longest prefix in a tree. The route by which a start is seen is in it, too.
const ENVOY_TREE: &str = r#"                    - name: NAME
                      domains: [NAME]
                      matcher:
                        matcher_tree:
                          input: {name: path, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ":path"}}
                          prefix_match_map:
                            map:
"#;
const ENVOY_BRANCH: &str = r#"                              PREFIX/: {action: {name: route, typed_config: {"@type": type.googleapis.com/envoy.config.route.v3.Route, match: {prefix: PREFIX/}, route: *strip}}}
"#;

fn is_sha_1(peer: Peer, setup: &Setup) -> bool {
    peer != Peer::Ours && setup.extra == Extra::Login(Password::Cheapest)
}

/// An address in the peer's own words.
fn address_for(peer: Peer, address: SocketAddr) -> String {
    match peer {
        Peer::Envoy => format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port()),
        _ => address.to_string(),
    }
}

/// Leaves out the lines that the setup does not need, and puts values in the place of `@WORDS@`.
fn fill(template: &str, setup: &Setup, words: &BTreeMap<&str, String>) -> String {
    let mut text = String::new();
    for line in template.lines().filter(|line| !setup.is_without(line)) {
        text.push_str(line);
        text.push('\n');
    }
    for (word, value) in words {
        text = text.replace(&format!("@{word}@"), value);
    }
    text
}
