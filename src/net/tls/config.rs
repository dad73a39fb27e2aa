//! What is made of the configuration: how TLS is spoken with clients, and with upstreams under each way of verifying them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ALL_VERSIONS, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::config::{CertificateFiles, ClientAuth, Config, Endpoint, Scheme, TlsListen, TlsVersion, UpstreamTls};
use crate::proxy::runtime::Origin;
use crate::start_error::StartError;

use super::certificates::{CertResolver, read_certificates, read_pair, setup_error, unusable};
use super::stream::TlsStream;
use super::trust::{self, VerifyPolicy};
use super::{TlsLayer, TlsReport};

/// Everything that is needed to speak TLS, shared by all workers.
#[derive(Clone, Debug)]
pub struct Tls {
    server: Option<Arc<ServerConfig>>,
    clients: HashMap<(VerifyPolicy, Option<CertificateFiles>), Arc<ClientConfig>>,
    /// What was noticed when the files were read.
    pub report: TlsReport,
}

impl Tls {
    /// Reads all files that the configuration names.
    pub fn load(config: &Config) -> Result<Tls, StartError> {
        let provider = Arc::new(ring::default_provider());
        let (mut server, mut clients, mut report) = (None, HashMap::new(), TlsReport::default());
        if let Some(tls) = &config.tls {
            let keys = tls.certificates.iter().map(|pair| read_pair(pair, &provider, &mut report).map(Arc::new));
            let resolver = CertResolver { keys: keys.collect::<Result<_, StartError>>()? };
            server = Some(Arc::new(server_config(tls, resolver, &provider)?));
            report.certificates = tls.certificates.len();
        }
        for route in config.routes.iter() {
            let tls = &route.options.upstream_tls;
            for url in route.upstreams().iter().filter(|url| url.scheme == Scheme::Https) {
                let name = expected_name(tls, &url.endpoint);
                if ServerName::try_from(name).is_err() {
                    let what = "set upstream_tls.server_name of its route";
                    return Err(format!("no certificate can be for the name {name:?}: {what}").into());
                }
                if let Entry::Vacant(entry) = clients.entry((VerifyPolicy::of(tls), tls.client_certificate())) {
                    let (policy, own) = entry.key();
                    let mut client = trust::client_config(policy, &provider, &mut report.trusted)?;
                    if let Some(own) = own {
                        let key = read_pair(own, &provider, &mut report)?;
                        client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
                    }
                    entry.insert(Arc::new(client));
                }
            }
        }
        Ok(Tls { server, clients, report })
    }

    /// Reads all files anew that `config` names. Clients may go on using their session tickets: our certificates can
    /// change, but the tickets are still ours.
    pub fn reload(&self, config: &Config) -> Result<Tls, StartError> {
        let mut new = Tls::load(config)?;
        if let (Some(new), Some(old)) = (&mut new.server, &self.server)
            && new.ticketer.enabled()
            && old.ticketer.enabled()
        {
            Arc::make_mut(new).ticketer = Arc::clone(&old.ticketer);
        }
        Ok(new)
    }

    /// TLS for a connection from a client.
    pub fn accept(&self) -> Option<Box<dyn TlsLayer>> {
        let session = ServerConnection::new(Arc::clone(self.server.as_ref()?)).ok()?;
        Some(Box::new(TlsStream::new(session.into())))
    }

    /// TLS for a connection to `origin`; `None` where it is not spoken, or cannot be.
    pub fn connect(&self, origin: &Origin) -> Option<Box<dyn TlsLayer>> {
        let tls = origin.tls.as_ref()?;
        let config = self.clients.get(&(VerifyPolicy::of(tls), tls.client_certificate()))?;
        let name = ServerName::try_from(expected_name(tls, &origin.endpoint).to_owned()).ok()?;
        let session = ClientConnection::new(Arc::clone(config), name).ok()?;
        Some(Box::new(TlsStream::new(session.into())))
    }
}

fn server_config(
    tls: &TlsListen,
    resolver: CertResolver,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, StartError> {
    let versions = if tls.min_version == TlsVersion::Tls13 { &[&TLS13][..] } else { ALL_VERSIONS };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(versions);
    let mut config = builder
        .map_err(setup_error)?
        .with_client_cert_verifier(client_verifier(tls, provider)?)
        .with_cert_resolver(Arc::new(resolver));
    // HTTP/1.0 for clients that offer nothing newer: an ALPN offer without a common protocol ends the handshake.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    if tls.client_ca.is_some() {
        // A session that is resumed is not verified again: it would outlive the certificate that its client has shown.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        // Sessions are resumed from tickets that the clients keep, not from memory of ours.
        config.ticketer = ring::Ticketer::new().map_err(setup_error)?;
    }
    Ok(config)
}

/// Who judges the certificates of clients.
fn client_verifier(tls: &TlsListen, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, StartError> {
    let Some(path) = &tls.client_ca else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if tls.client_auth == Some(ClientAuth::Optional) { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(setup_error)
}

/// The name that is sent as SNI and verified (rule G8). The last dot of a name means the root of the DNS, and is in no certificate.
fn expected_name<'a>(tls: &'a UpstreamTls, endpoint: &'a Endpoint) -> &'a str {
    let host = if let Endpoint::Tcp { host, .. } = endpoint { host } else { "" };
    let name = tls.server_name.as_deref().unwrap_or(host);
    name.strip_suffix('.').unwrap_or(name)
}
