//! The keys of `tls` and `upstream_tls`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::listen::ListenAddr;
use super::scalar::{As, switch_or_text};
use super::url::ServerName;

/// Where TLS is spoken to clients, and with which certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping with the keys certificate and key")]
pub struct TlsListen {
    /// Where; empty: on every address of [`Config::listen_addr`](super::Config::listen_addr), none of which speaks plain HTTP then.
    #[serde(deserialize_with = "As::<ListenAddr>::list", skip_serializing_if = "Vec::is_empty")]
    pub listen_addr: Vec<ListenAddr>,
    /// With `key` the first of `certificates`, where it is put when the file is read.
    #[serde(skip_serializing)]
    pub(super) certificate: Option<PathBuf>,
    #[serde(skip_serializing)]
    pub(super) key: Option<PathBuf>,
    /// Never empty. A client gets the first one that has the name it asks for, else the first.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients without TLS are redirected to the first address.
    pub redirect_http: bool,
    /// The authorities of clients, in PEM. `None`: clients are not asked for certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether a client has to show one; there with `client_ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// The oldest version of TLS that is spoken.
    #[serde(deserialize_with = "tls_version")]
    pub min_version: TlsVersion,
}

/// Whether a client has to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "required or optional")]
pub enum ClientAuth {
    /// Without one there is no connection.
    Required,
    /// One that is shown has to be good.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

fn tls_version<'de, D: Deserializer<'de>>(from: D) -> Result<TlsVersion, D::Error> {
    switch_or_text(from, "1.2 or 1.3", |text| match text {
        "1.2" => Some(TlsVersion::Tls12),
        "1.3" => Some(TlsVersion::Tls13),
        _ => None,
    })
}

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with the keys certificate and key")]
pub struct CertificateFiles {
    /// The certificate, followed by those of intermediate authorities.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How an `https://` upstream is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping such as \"ca_file: /etc/ssl/my-ca.pem\"")]
pub struct UpstreamTls {
    /// The authorities to trust, in PEM. `None`: those of the system, else those that are built in (rule E2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The name to ask for and to verify. `None`: the host of the URL (rule G8).
    #[serde(deserialize_with = "As::<ServerName>::deserialize", skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Our certificate for upstreams that ask for one, and its key: both or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Accept any certificate; `None` in a route that says nothing about it.
    pub insecure_skip_verify: Option<bool>,
}

impl UpstreamTls {
    /// Our certificate for upstreams that ask for one.
    pub fn client_certificate(&self) -> Option<CertificateFiles> {
        Some(CertificateFiles { certificate: self.certificate.clone()?, key: self.key.clone()? })
    }

    /// Whether any certificate is accepted.
    pub fn is_insecure(&self) -> bool {
        self.insecure_skip_verify == Some(true)
    }
}
