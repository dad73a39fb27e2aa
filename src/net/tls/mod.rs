//! TLS on both sides: rustls as a machine between the socket and the exchange.
//!
//! | file | one job |
//! |---|---|
//! | here | everything that is made at start, and one worker's share of it |
//! | `error` | what is wrong with the files, as a sentence |
//! | `x509` | the fields of a certificate that rustls does not tell |
//! | `failure` | what a failed handshake is called |
//! | [`certificates`] | who we are: certificates, keys, the choice by name |
//! | [`trust`] | whom we believe: roots and verification |
//! | [`stage`] | the byte stage of one connection |
//!
//! The exchange knows nothing of it, but whether its client speaks TLS.

mod error;
mod x509;
mod failure;
pub mod certificates;
pub mod trust;
pub mod stage;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use crate::config::{Config, Scheme, UpstreamTls};
use crate::mono_time::MonoTime;
use crate::net::clock::since_1970;
use crate::net::log_limiter::SharedLogLimiter;
use crate::proxy::runtime::{Origin, Runtime, UpstreamId};

pub use error::TlsError;
pub use failure::Failure;
pub use stage::{Flushed, Handshake, Stage};

use certificates::Chooser;
use stage::{PAD, Pad};
use trust::Trust;

/// At most one line about clients' failed handshakes in this time, of all workers together.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Everything that is needed to speak TLS, shared by all workers and the main thread.
#[derive(Clone)]
pub struct Tls {
    server: Option<(Arc<ServerConfig>, Arc<Chooser>)>,
    trust: Arc<Trust>,
    /// When a client's failed handshake was last told.
    failures: Arc<SharedLogLimiter>,
}

impl Tls {
    /// Reads all files that the configuration names.
    pub fn prepare(config: &Config) -> Result<Tls, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let server = match &config.tls {
            Some(tls) => {
                let chooser = Arc::new(Chooser::load(&tls.certificates, &provider)?);
                Some((server_config(Arc::clone(&chooser), Arc::clone(&provider))?, chooser))
            }
            None => None,
        };
        // Each of several upstreams is asked by its own scheme, so the first says nothing about the others.
        let of_https = || {
            let upstreams = config.routes.iter().flat_map(|route| route.upstreams.iter().map(move |url| (route, url)));
            upstreams
                .filter(|(_, url)| url.scheme == Scheme::Https)
                .map(|(route, url)| (&route.options.upstream_tls, url))
        };
        let trust = Trust::load(of_https().map(|(tls, _)| tls), &provider)?;
        for (tls, url) in of_https() {
            let name = expected_name(tls, &url.host);
            if ServerName::try_from(name).is_err() {
                return Err(TlsError::Name(name.to_owned()));
            }
        }
        Ok(Tls { server, trust: Arc::new(trust), failures: Arc::default() })
    }

    /// Reads all files anew that `config` names. Clients that hold a session ticket may go on using it: who we are can
    /// change, but not that it was us.
    pub fn renewed(&self, config: &Config) -> Result<Tls, TlsError> {
        let mut new = Tls { failures: Arc::clone(&self.failures), ..Tls::prepare(config)? };
        if let (Some((server, _)), Some((old, _))) = (&mut new.server, &self.server) {
            Arc::make_mut(server).ticketer = Arc::clone(&old.ticketer);
        }
        Ok(new)
    }

    /// Whom upstreams are verified against, a sentence for each set of roots.
    pub fn trusted(&self) -> &[String] {
        self.trust.sentences()
    }

    /// A sentence for each of our certificates that clients will refuse now.
    pub fn warnings(&self) -> Vec<String> {
        let now = i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX);
        self.server.iter().flat_map(|(_, chooser)| chooser.warnings(now)).collect()
    }

    /// How many certificates clients may be shown.
    pub fn certificates(&self) -> usize {
        self.server.as_ref().map_or(0, |(_, chooser)| chooser.len())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("listens", &self.server.is_some()).finish_non_exhaustive()
    }
}

fn server_config(chooser: Arc<Chooser>, provider: Arc<CryptoProvider>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(chooser);
    // The second for clients that speak nothing newer and say so: an offer that nobody takes ends the handshake.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    // Sessions are resumed from tickets that the clients keep, not from memory of ours.
    config.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
    Ok(Arc::new(config))
}

/// Whom to expect behind `host`. A name's last dot means the root of the DNS, and stands in no certificate.
fn expected_name<'a>(tls: &'a UpstreamTls, host: &'a str) -> &'a str {
    let name = tls.server_name.as_deref().unwrap_or(host);
    name.strip_suffix('.').unwrap_or(name)
}

/// One worker's share: what its connections are made of.
pub struct TlsContext {
    server: Option<Arc<ServerConfig>>,
    /// For each upstream that speaks TLS: how to, and whom to expect there.
    clients: HashMap<UpstreamId, (Arc<ClientConfig>, ServerName<'static>)>,
    pad: Pad,
    failures: Arc<SharedLogLimiter>,
}

impl TlsContext {
    /// For one worker. To be made on its thread.
    pub fn new(tls: Tls, runtime: &Runtime) -> TlsContext {
        TlsContext::with_pad(tls, runtime, Rc::default())
    }

    /// The one for another configuration.
    pub fn succeeded_by(&self, tls: Tls, runtime: &Runtime) -> TlsContext {
        TlsContext::with_pad(tls, runtime, Rc::clone(&self.pad))
    }

    fn with_pad(tls: Tls, runtime: &Runtime, pad: Pad) -> TlsContext {
        let client = |(id, origin): (UpstreamId, &Origin)| {
            let wanted = origin.tls.as_ref()?;
            let name = ServerName::try_from(expected_name(wanted, &origin.host).to_owned()).ok()?;
            Some((id, (tls.trust.client(wanted)?, name)))
        };
        let clients: HashMap<_, _> = runtime.upstreams().filter_map(client).collect();
        let server = tls.server.map(|(server, _)| server);
        if pad.borrow().is_empty() && (server.is_some() || !clients.is_empty()) {
            *pad.borrow_mut() = vec![0; PAD].into_boxed_slice();
        }
        TlsContext { server, clients, pad, failures: tls.failures }
    }

    /// Whether a client's failed handshake is to be told, and how many were not: any stranger can make many.
    pub fn tells_failure(&self, now: MonoTime) -> Option<u64> {
        self.failures.is_due(now, TELL_EVERY)
    }

    /// The stage of a connection to `upstream`; `None` where TLS is not spoken, or cannot be.
    pub fn connect(&self, upstream: UpstreamId) -> Option<Stage> {
        let (config, name) = self.clients.get(&upstream)?;
        let session = ClientConnection::new(Arc::clone(config), name.clone()).ok()?;
        Some(Stage::new(session.into(), Rc::clone(&self.pad)))
    }

    /// The stage of a connection from a client.
    pub fn accept(&self) -> Option<Stage> {
        let session = ServerConnection::new(Arc::clone(self.server.as_ref()?)).ok()?;
        Some(Stage::new(session.into(), Rc::clone(&self.pad)))
    }
}
