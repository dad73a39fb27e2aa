//! What every exchange of a worker shares and none changes: configuration, routes, upstreams, hooks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer as _};

use super::hooks::{BodyWants, Hooks};
use super::route::Router;
use crate::config::{Config, RouteConfig, Scheme, UpstreamTls};

/// Names an upstream: an index into [`Site::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub u32);

/// One origin: what connections are pooled by. Routes that lead to the same origin share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How to speak to it.
    pub scheme: Scheme,
    /// Name or IP literal, without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// How it is verified; `None` for [`Scheme::Http`]. Connections that were verified in another way are not shared.
    pub tls: Option<UpstreamTls>,
}

/// What every exchange shares. A clone shares all of it: each worker has one of its own, so that counting who uses it
/// is not a thing that workers do to each other on the request path.
#[derive(Clone)]
pub struct Site {
    /// As it was loaded.
    pub config: Arc<Config>,
    /// From paths to indices into `config.routes`.
    pub router: Arc<Router>,
    /// Each origin once, in the order of the first route that leads there.
    pub upstreams: Arc<[Origin]>,
    /// For each of `config.routes` the upstream that it leads to.
    pub route_upstreams: Arc<[UpstreamId]>,
    /// The plugins, if there are any.
    pub hooks: Option<Arc<dyn Hooks>>,
    /// The body of /configz, made once; empty where /configz does not answer.
    pub configz: Arc<str>,
}

impl Site {
    /// Builds the routing table and numbers the origins.
    pub fn new(config: Arc<Config>, hooks: Option<Arc<dyn Hooks>>) -> Site {
        let router = Router::new(config.routes.iter().map(|route| route.prefix.as_str()));
        let (upstreams, route_upstreams) = number_origins(&config.routes);
        let configz = if config.configz { configz(&config.routes) } else { String::new() };
        Site {
            config,
            router: Arc::new(router),
            upstreams: upstreams.into(),
            route_upstreams: route_upstreams.into(),
            hooks,
            configz: configz.into(),
        }
    }

    /// Which bodies are buffered for plugins.
    pub fn wants(&self) -> BodyWants {
        self.hooks.as_ref().map_or(BodyWants::default(), |hooks| hooks.wants())
    }

    /// The upstream of a route that [`Router::find`] gave.
    pub fn upstream_of(&self, route: u32) -> UpstreamId {
        self.route_upstreams[route as usize]
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("routes", &self.config.routes.len())
            .field("upstreams", &self.upstreams.len())
            .field("hooks", &self.hooks.is_some())
            .finish()
    }
}

fn number_origins(routes: &[RouteConfig]) -> (Vec<Origin>, Vec<UpstreamId>) {
    let mut ids = HashMap::new();
    let mut upstreams = Vec::new();
    let route_upstreams = routes
        .iter()
        .map(|RouteConfig { upstream, options, .. }| {
            let tls = match upstream.scheme {
                Scheme::Http => None,
                Scheme::Https => Some(&options.upstream_tls),
            };
            *ids.entry((upstream.scheme, upstream.host.as_str(), upstream.port, tls)).or_insert_with(|| {
                let id = u32::try_from(upstreams.len()).expect("a configuration file has fewer than 2^32 routes");
                upstreams.push(Origin {
                    scheme: upstream.scheme,
                    host: upstream.host.clone(),
                    port: upstream.port,
                    tls: tls.cloned(),
                });
                UpstreamId(id)
            })
        })
        .collect();
    (upstreams, route_upstreams)
}

/// One route, as /configz shows it: no credentials.
#[derive(Serialize)]
struct PublicRoute {
    prefix: String,
    upstream: String,
}

/// What JSON puts around one route.
const FRAME_LEN: usize = r#"{"prefix":"","upstream":""},"#.len();

fn configz(routes: &[RouteConfig]) -> String {
    let public =
        |route: &RouteConfig| PublicRoute { prefix: route.prefix.clone(), upstream: route.upstream.to_public_string() };
    // It stays as long as the process and is the largest part of many routes: no room is left over.
    let len: usize = routes.iter().map(|r| r.prefix.len() + r.upstream.to_public_string().len() + FRAME_LEN).sum();
    let mut json = Vec::with_capacity(len + 2);
    serde_json::Serializer::new(&mut json)
        .collect_seq(routes.iter().map(public))
        .expect("strings always become JSON, and memory takes everything");
    String::from_utf8(json).expect("JSON is text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RouteOptions, UpstreamUrl};

    fn route(prefix: &str, host: &str, port: u16, base_path: &str) -> RouteConfig {
        let upstream = UpstreamUrl {
            scheme: Scheme::Http,
            host: host.to_owned(),
            port,
            authority: format!("{host}:{port}"),
            base_path: base_path.to_owned(),
            authorization: Some("Basic c2VjcmV0".to_owned()),
        };
        RouteConfig {
            prefix: prefix.to_owned(),
            upstream: Arc::new(upstream),
            options: Arc::new(RouteOptions::default()),
        }
    }

    fn site(configz: bool) -> Site {
        let routes = vec![
            route("/a/", "one.example", 8000, ""),
            route("/b", "two.example", 8000, "/base"),
            route("/c\"", "one.example", 8000, "/other"),
            route("/d", "one.example", 8001, ""),
        ];
        Site::new(Arc::new(Config { routes, configz, ..Config::default() }), None)
    }

    #[test]
    fn routes_to_the_same_origin_share_an_upstream() {
        let site = site(true);
        let names: Vec<_> = site.upstreams.iter().map(|origin| format!("{}:{}", origin.host, origin.port)).collect();
        assert_eq!(names, ["one.example:8000", "two.example:8000", "one.example:8001"]);
        assert_eq!(site.route_upstreams[..], [UpstreamId(0), UpstreamId(1), UpstreamId(0), UpstreamId(2)]);
        let found = site.router.find(b"/c\"/x").expect("a route");
        assert_eq!(site.upstream_of(found.route), UpstreamId(0));
    }

    #[test]
    fn g8_connections_that_are_verified_differently_are_not_shared() {
        let https = |prefix: &str, tls: UpstreamTls| {
            let plain = route(prefix, "one.example", 443, "");
            let upstream = UpstreamUrl { scheme: Scheme::Https, ..UpstreamUrl::clone(&plain.upstream) };
            let options = RouteOptions { upstream_tls: tls, ..RouteOptions::default() };
            RouteConfig { upstream: Arc::new(upstream), options: Arc::new(options), ..plain }
        };
        let insecure = UpstreamTls { insecure_skip_verify: true, ..UpstreamTls::default() };
        let named = UpstreamTls { server_name: Some("two.example".to_owned()), ..UpstreamTls::default() };
        let routes = vec![
            https("/a", UpstreamTls::default()),
            https("/b", insecure.clone()),
            https("/c", named),
            https("/d", UpstreamTls::default()),
            https("/e", insecure),
            route("/f", "one.example", 443, ""),
        ];
        let (_, ids) = number_origins(&routes);
        assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 3]);
    }

    #[test]
    fn configz_shows_the_routes_in_file_order_without_credentials() {
        let expected = concat!(
            r#"[{"prefix":"/a/","upstream":"http://one.example:8000"},"#,
            r#"{"prefix":"/b","upstream":"http://two.example:8000/base"},"#,
            r#"{"prefix":"/c\"","upstream":"http://one.example:8000/other"},"#,
            r#"{"prefix":"/d","upstream":"http://one.example:8001"}]"#,
        );
        assert_eq!(&*site(true).configz, expected);
        assert_eq!(&*site(false).configz, "");
    }
}
