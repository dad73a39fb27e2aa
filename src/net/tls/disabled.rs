//! In the place of `config` in builds without TLS. The configuration refuses what would need it.

use crate::config::Config;
use crate::proxy::runtime::Origin;
use crate::start_error::StartError;

use super::{TlsLayer, TlsReport};

#[expect(missing_docs, reason = "see tls::config")]
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub report: TlsReport,
}

#[expect(missing_docs, reason = "see tls::config")]
impl Tls {
    pub fn load(_: &Config) -> Result<Tls, StartError> {
        Ok(Tls::default())
    }

    pub fn reload(&self, _: &Config) -> Result<Tls, StartError> {
        Ok(Tls::default())
    }

    pub fn accept(&self) -> Option<Box<dyn TlsLayer>> {
        None
    }

    pub fn connect(&self, _: &Origin) -> Option<Box<dyn TlsLayer>> {
        None
    }
}
