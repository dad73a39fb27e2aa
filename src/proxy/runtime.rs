//! What all connections of a worker share and none changes: configuration, routes, upstreams, hooks.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::Serialize;

pub use super::events::UpstreamId;
use super::hooks::Hooks;
use super::route::Router;
use crate::bytes::SharedText;
use crate::config::{
    Config, ConfigzAccess, Endpoint, ErrorClass, FullConfig, ListenAddr, PluginConfig, Redirect, RouteConfig,
    RouteTarget, Scheme, UpstreamTls, UpstreamUrl,
};

/// One origin: what connections are pooled by. Routes that lead to the same origin share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How to speak to it.
    pub scheme: Scheme,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How it is verified; `None` for [`Scheme::Http`]. Connections that were verified in another way are not shared.
    pub tls: Option<UpstreamTls>,
}

/// The body of an error that the proxy answers with.
#[derive(Clone, Debug)]
pub struct ErrorPage {
    /// When it is sent.
    pub class: ErrorClass,
    /// Its Content-Type.
    pub media_type: &'static str,
    /// The body.
    pub text: SharedText,
}

/// So many routes have counters of their own; the others share some, so that what is counted stays bounded.
const MAX_COUNTED_ROUTES: u32 = 1000;

/// What all connections share. A clone shares all of it: each worker has one of its own, so that counting who uses it
/// is not a thing that workers do to each other on the request path.
#[derive(Clone)]
pub struct Runtime {
    /// As it was loaded.
    pub config: Arc<Config>,
    /// From hosts and paths to indices into `config.routes`.
    pub router: Arc<Router>,
    upstreams: Arc<UpstreamNumbers>,
    /// Where clients without TLS are redirected: the port in their URL.
    pub https_port: Option<u16>,
    /// So many of `config.routes`, from the first one, are counted by their prefix.
    pub counted_routes: u32,
    hooks: RouteHooks,
    /// What is sent with errors instead of the reason phrase.
    pub error_pages: Arc<[ErrorPage]>,
    /// The body of /configz, made once; empty where /configz does not answer.
    pub configz: SharedText,
    /// The body of /configz?outline, while somebody is sent it.
    full_config: Arc<Mutex<Weak<Box<str>>>>,
}

impl Runtime {
    /// Builds the routing table and numbers the origins.
    pub fn new(config: Arc<Config>, hooks: impl Into<RouteHooks>) -> Runtime {
        Runtime::build(config, hooks.into(), None)
    }

    /// What comes after this one: another configuration, perhaps other plugins. Origins that stay keep their numbers.
    pub fn reload(&self, config: Arc<Config>, hooks: RouteHooks) -> Runtime {
        Runtime::build(config, hooks, Some(self))
    }

    fn build(config: Arc<Config>, hooks: RouteHooks, before: Option<&Runtime>) -> Runtime {
        let router = Router::of(config.routes.iter());
        let upstreams = UpstreamNumbers::new(&config.routes, before.map(|before| &*before.upstreams));
        let has_configz = config.admin.configz != ConfigzAccess::Off;
        let configz = if has_configz { configz(&config.routes) } else { String::new() };
        let https_port = config.tls.as_ref().filter(|tls| tls.redirect_http).map(|tls| {
            let port = tls.listen_addr.iter().find_map(ListenAddr::port);
            port.unwrap_or(Scheme::Https.default_port())
        });
        Runtime {
            https_port,
            counted_routes: MAX_COUNTED_ROUTES,
            config,
            router: Arc::new(router),
            upstreams: Arc::new(upstreams),
            hooks,
            error_pages: Arc::default(),
            configz: Arc::new(configz.into()),
            full_config: Arc::default(),
        }
    }

    /// What a request on `route` that has got its answer's head still needs of this configuration: that route alone, which
    /// is number 0 then. Tunnels and event streams may go on for hours, over many reloads, and each of them would keep a
    /// whole configuration in memory. No other request can begin with it.
    pub(super) fn narrowed_to(&self, route: u32) -> Runtime {
        let ids = self.upstreams_of(route).to_vec();
        let starts = vec![0, ids.len() as u32];
        Runtime {
            config: Arc::new(self.config.with_routes(vec![self.config.routes[route as usize].clone()])),
            router: Arc::default(),
            upstreams: Arc::new(UpstreamNumbers { origins: Vec::new(), ids, starts, next: 0 }),
            counted_routes: (route < self.counted_routes).into(),
            hooks: self.hooks(route).cloned().into(),
            error_pages: Arc::default(),
            configz: SharedText::default(),
            ..self.clone()
        }
    }

    /// The plugins that run on a route, if any do.
    pub fn hooks(&self, route: u32) -> Option<&Arc<dyn Hooks>> {
        let RouteHooks { chains, of_routes } = &self.hooks;
        // Where there is no number, there is one chain for all.
        chains.get(of_routes.get(route as usize).map_or(0, |nth| *nth as usize))?.as_ref()
    }

    /// Whether there are plugins on any route.
    pub fn has_hooks(&self) -> bool {
        self.hooks.chains.iter().any(Option::is_some)
    }

    /// The body of /configz?outline. It is made anew when nobody is sent it any more: it may be long, and is hardly ever
    /// asked for.
    pub fn full_config(&self) -> SharedText {
        let mut last = self.full_config.lock().unwrap_or_else(PoisonError::into_inner);
        last.upgrade().unwrap_or_else(|| {
            let json = serde_json::to_string(&FullConfig::of(&self.config)).expect("text always becomes JSON");
            let text = Arc::new(json.into());
            *last = Arc::downgrade(&text);
            text
        })
    }

    /// All upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = (UpstreamId, &Origin)> {
        self.upstreams.origins.iter().map(|(id, origin)| (*id, origin))
    }

    /// Where an upstream is; `None` for one that this configuration does not have.
    pub fn origin(&self, id: UpstreamId) -> Option<&Origin> {
        let origins = &self.upstreams.origins;
        let at = origins.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&origins[at].1)
    }

    /// The upstreams of a route that [`Router::find`] gave, in file order; none where it redirects.
    pub fn upstreams_of(&self, route: u32) -> &[UpstreamId] {
        let UpstreamNumbers { ids, starts, .. } = &*self.upstreams;
        &ids[starts[route as usize] as usize..starts[route as usize + 1] as usize]
    }
}

/// Which plugins run on which route.
#[derive(Clone, Default)]
pub struct RouteHooks {
    /// Each selection once; `None`: no plugins.
    chains: Arc<[Option<Arc<dyn Hooks>>]>,
    /// For each route which one; empty where all have the first.
    of_routes: Arc<[u32]>,
}

impl RouteHooks {
    /// `chain` is called once for each selection.
    pub fn new(config: &Config, mut chain: impl FnMut(&[&PluginConfig]) -> Option<Arc<dyn Hooks>>) -> RouteHooks {
        let (mut chains, mut known, mut numbers) =
            (Vec::new(), HashMap::new(), Vec::with_capacity(config.routes.len()));
        for route in config.routes.iter() {
            numbers.push(*known.entry(&route.options.plugins).or_insert_with(|| {
                chains.push(chain(&config.plugins_of(&route.options)));
                chains.len() as u32 - 1
            }));
        }
        let of_routes = if chains.len() > 1 { numbers.into() } else { Arc::default() };
        RouteHooks { chains: chains.into(), of_routes }
    }
}

/// The same plugins on all routes.
impl From<Option<Arc<dyn Hooks>>> for RouteHooks {
    fn from(hooks: Option<Arc<dyn Hooks>>) -> RouteHooks {
        RouteHooks { chains: Arc::new([hooks]), of_routes: Arc::default() }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("routes", &self.config.routes.len()).finish_non_exhaustive()
    }
}

/// The origins of a configuration, and which route leads to which.
struct UpstreamNumbers {
    /// Each origin once, in the order of the numbers. Without a reload those count from 0, in the order of the first route
    /// that leads there.
    origins: Vec<(UpstreamId, Origin)>,
    /// The upstreams of all routes, one route after the other.
    ids: Vec<UpstreamId>,
    /// For each route where in `ids` its upstreams begin, and the end.
    starts: Vec<u32>,
    /// The number of the next origin that is new.
    next: u32,
}

impl UpstreamNumbers {
    fn new(routes: &[RouteConfig], before: Option<&UpstreamNumbers>) -> UpstreamNumbers {
        let known: HashMap<_, _> =
            before.into_iter().flat_map(|before| &before.origins).map(|(id, origin)| (origin, *id)).collect();
        let mut next = before.map_or(0, |before| before.next);
        let mut new_id = || {
            next = next.checked_add(1).expect("a reload takes longer than to count to 2^32 that way");
            UpstreamId(next - 1)
        };
        let (mut ids, mut starts, mut numbers) = (Vec::with_capacity(routes.len()), vec![0], HashMap::new());
        for route in routes {
            for UpstreamUrl { scheme, endpoint, .. } in route.upstreams() {
                let tls = (*scheme == Scheme::Https).then(|| route.options.upstream_tls.clone());
                let number = numbers.entry(Origin { scheme: *scheme, endpoint: endpoint.clone(), tls });
                ids.push(*number.or_insert_with_key(|origin| known.get(origin).copied().unwrap_or_else(&mut new_id)));
            }
            starts.push(u32::try_from(ids.len()).expect("a configuration file has fewer than 2^32 upstreams"));
        }
        let mut origins: Vec<_> = numbers.into_iter().map(|(origin, id)| (id, origin)).collect();
        origins.sort_unstable_by_key(|(id, _)| *id);
        UpstreamNumbers { origins, ids, starts, next }
    }
}

/// One route, as /configz shows it: no credentials, because upstream URLs serialize without.
#[derive(Serialize)]
struct PublicRoute<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    hosts: &'a [Box<str>],
    prefix: &'a str,
    /// Of several the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a UpstreamUrl>,
    /// All of them, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstreams: Option<&'a [UpstreamUrl]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect: Option<&'a Redirect>,
}

fn configz(routes: &[RouteConfig]) -> String {
    let routes = routes.iter().map(|route| PublicRoute {
        hosts: &route.hosts,
        prefix: &route.prefix,
        upstream: route.upstreams().first(),
        upstreams: Some(route.upstreams()).filter(|all| all.len() > 1),
        redirect: if let RouteTarget::Redirect(redirect) = &route.target { Some(redirect) } else { None },
    });
    serde_json::to_string(&routes.collect::<Vec<_>>()).expect("text always becomes JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AdminConfig, RouteOptions};
    use crate::proxy::hooks::{HookContext, Phase, Verdict};

    fn route(prefix: &str, host: &str, port: u16, base_path: &str) -> RouteConfig {
        let upstream = UpstreamUrl {
            scheme: Scheme::Http,
            endpoint: Endpoint::Tcp { host: host.to_owned(), port },
            authority: format!("{host}:{port}"),
            base_path: base_path.to_owned(),
            authorization: Some("Basic c2VjcmV0".to_owned()),
        };
        RouteConfig {
            hosts: Arc::default(),
            prefix: prefix.to_owned(),
            target: RouteTarget::Upstreams(Arc::new([upstream])),
            options: Arc::new(RouteOptions::default()),
        }
    }

    fn runtime(configz: ConfigzAccess) -> Runtime {
        let routes = vec![
            route("/a/", "one.example", 8000, ""),
            route("/b", "two.example", 8000, "/base"),
            route("/c\"", "one.example", 8000, "/other"),
            route("/d", "one.example", 8001, ""),
        ];
        Runtime::new(
            Arc::new(Config {
                routes: Arc::new(routes),
                admin: AdminConfig { configz, ..AdminConfig::default() },
                ..Config::default()
            }),
            None,
        )
    }

    #[test]
    fn routes_to_the_same_origin_share_an_upstream() {
        let runtime = runtime(ConfigzAccess::Everybody);
        let names: Vec<_> = runtime.upstreams().map(|(_, origin)| origin.endpoint.to_string()).collect();
        assert_eq!(names, ["one.example:8000", "two.example:8000", "one.example:8001"]);
        assert_eq!(runtime.upstreams.ids, [UpstreamId(0), UpstreamId(1), UpstreamId(0), UpstreamId(2)]);
        let found = runtime.router.find(b"", b"/c\"/x").expect("a route");
        assert_eq!(runtime.upstreams_of(found.route), [UpstreamId(0)]);
    }

    #[test]
    fn origins_keep_their_numbers_over_reloads_and_no_number_is_given_twice() {
        let with = |ports: &[u16]| {
            let routes = ports.iter().map(|port| route(&format!("/{port}"), "one.example", *port, "")).collect();
            Arc::new(Config { routes: Arc::new(routes), ..Config::default() })
        };
        let port = |origin: &Origin| match origin.endpoint {
            Endpoint::Tcp { port, .. } => port,
            Endpoint::Unix(_) => 0,
        };
        let numbers =
            |runtime: &Runtime| runtime.upstreams().map(|(id, origin)| (id.0, port(origin))).collect::<Vec<_>>();
        let first = Runtime::new(with(&[1, 2, 3]), None);
        let second = first.reload(with(&[4, 3, 1]), RouteHooks::default());
        assert_eq!(numbers(&second), [(0, 1), (2, 3), (3, 4)]);
        assert_eq!(second.upstreams.ids, [UpstreamId(3), UpstreamId(2), UpstreamId(0)]);
        let third = second.reload(with(&[2, 3]), RouteHooks::default());
        assert_eq!(numbers(&third), [(2, 3), (4, 2)], "the one that was away is a new one");
        assert_eq!(third.origin(UpstreamId(4)).map(port), Some(2));
        assert_eq!(third.origin(UpstreamId(1)), None);
    }

    #[test]
    fn g8_connections_that_are_verified_differently_are_not_shared() {
        let https = |prefix: &str, tls: UpstreamTls| {
            let plain = route(prefix, "one.example", 443, "");
            let upstream = UpstreamUrl { scheme: Scheme::Https, ..plain.upstreams()[0].clone() };
            let options = RouteOptions { upstream_tls: tls, ..RouteOptions::default() };
            RouteConfig { target: RouteTarget::Upstreams(Arc::new([upstream])), options: Arc::new(options), ..plain }
        };
        let insecure = UpstreamTls { insecure_skip_verify: Some(true), ..UpstreamTls::default() };
        let named = UpstreamTls { server_name: Some("two.example".to_owned()), ..UpstreamTls::default() };
        let routes = vec![
            https("/a", UpstreamTls::default()),
            https("/b", insecure.clone()),
            https("/c", named),
            https("/d", UpstreamTls::default()),
            https("/e", insecure),
            route("/f", "one.example", 443, ""),
        ];
        let ids = UpstreamNumbers::new(&routes, None).ids;
        assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 3]);
    }

    /// A chain of no plugins.
    struct Nothing;
    impl Hooks for Nothing {
        fn call(&self, _: Phase, _: &mut HookContext<'_>) -> Verdict {
            Verdict::Continue
        }
    }

    #[test]
    fn each_selection_of_plugins_is_one_chain_for_all_routes_that_make_it() {
        let selections = ["", ", plugins: []", ", plugins: [b, a]", ", plugins: [a, b]", ", plugins: [b]"];
        let mut text = "plugins: [{builtin: a}, {builtin: b}]\nroutes:\n".to_owned();
        for number in 0..5_000 {
            text +=
                &format!("- {{prefix: /{number}, upstream: 'http://a'{}}}\n", selections[number % selections.len()]);
        }
        let config = Arc::new(Config::parse(&text, "test").expect("valid"));
        let mut made = Vec::new();
        let hooks = RouteHooks::new(&config, |list| {
            made.push(list.iter().map(|plugin| plugin.name.clone()).collect::<Vec<_>>().concat());
            (!list.is_empty()).then(|| Arc::new(Nothing) as Arc<dyn Hooks>)
        });
        assert_eq!(made, ["ab", "", "ba", "ab", "b"], "once each");
        let runtime = Runtime::new(Arc::clone(&config), hooks);
        let chain = |runtime: &Runtime, route: u32| runtime.hooks(route).map(|hooks| Arc::as_ptr(hooks).cast::<()>());
        assert_eq!(chain(&runtime, 1), None);
        for route in 0..5_000 {
            assert_eq!(chain(&runtime, route), chain(&runtime, route % 5), "{route}");
        }
        for route in [0, 1, 4] {
            assert_eq!(chain(&runtime.narrowed_to(route + 5), 0), chain(&runtime, route), "{route}");
        }
        // Where all routes have the same, there is no list of them.
        let same = RouteHooks::new(&self::runtime(ConfigzAccess::Everybody).config, |_| Some(Arc::new(Nothing)));
        assert!(same.of_routes.is_empty() && same.chains.len() == 1);
    }

    #[test]
    fn what_a_running_request_needs_of_its_configuration_is_its_route() {
        let runtime = runtime(ConfigzAccess::Everybody);
        let narrowed = runtime.narrowed_to(1);
        assert_eq!(narrowed.config.routes.len(), 1);
        assert!(std::ptr::eq(narrowed.config.routes[0].upstreams(), runtime.config.routes[1].upstreams()));
        assert_eq!(narrowed.config.timeouts, runtime.config.timeouts);
        assert_eq!((narrowed.upstreams_of(0), narrowed.counted_routes), (runtime.upstreams_of(1), 1));
    }

    #[test]
    fn configz_shows_the_routes_in_file_order_without_credentials() {
        let expected = concat!(
            r#"[{"prefix":"/a/","upstream":"http://one.example:8000"},"#,
            r#"{"prefix":"/b","upstream":"http://two.example:8000/base"},"#,
            r#"{"prefix":"/c\"","upstream":"http://one.example:8000/other"},"#,
            r#"{"prefix":"/d","upstream":"http://one.example:8001"}]"#,
        );
        assert_eq!(&**runtime(ConfigzAccess::Everybody).configz, expected);
        assert_eq!(&**runtime(ConfigzAccess::Off).configz, "");
        let text = "routes: [{hosts: [A.example, '*.b'], prefix: /, upstream: 'http://o'}, {prefix: /, redirect: /x}]";
        let runtime = Runtime::new(Arc::new(Config::parse(text, "test").expect("valid")), None);
        assert_eq!(runtime.https_port, None);
        let expected = concat!(
            r#"[{"hosts":["a.example","*.b"],"prefix":"/","upstream":"http://o"},"#,
            r#"{"prefix":"/","redirect":{"to":"/x","status":308,"keep_path":true}}]"#,
        );
        assert_eq!(&**runtime.configz, expected);
    }
}
