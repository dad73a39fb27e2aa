//! Certificates as a test wants them, good and bad.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// As two keys of a YAML mapping.
    pub fn yaml(&self) -> String {
        format!("certificate: {}, key: {}", self.certificate.display(), self.key.display())
    }
}

/// Somebody who issues certificates. Its files go when it does.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
    pub file: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        Authority::named("Authority of a test")
    }

    pub fn named(common_name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = name(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("a certificate");
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("ca.pem");
        fs::write(&file, issuer.pem()).expect("a file");
        Authority { issuer, folder, file }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// For these names and addresses, valid now.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_for_years(names, 2020, 2080)
    }

    pub fn issue_for_years(&self, names: &[&str], first: i32, last: i32) -> Pair {
        let key = new_key();
        let mut params = params(names);
        params.not_before = date_time_ymd(first, 1, 1);
        params.not_after = date_time_ymd(last, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.write(&certificate.pem(), &key)
    }

    /// Signed by nobody else.
    pub fn self_signed(&self, names: &[&str]) -> Pair {
        self.self_signed_with(names, |_| {})
    }

    /// The same, with something else about it.
    pub fn self_signed_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = new_key();
        let mut params = params(names);
        change(&mut params);
        let certificate = params.self_signed(&key).expect("a certificate");
        self.write(&certificate.pem(), &key)
    }

    fn write(&self, certificate: &str, key: &KeyPair) -> Pair {
        let number = fs::read_dir(self.folder()).expect("our folder").count();
        let pair = Pair {
            certificate: self.folder().join(format!("{number}.pem")),
            key: self.folder().join(format!("{number}.key")),
        };
        fs::write(&pair.certificate, certificate).expect("a file");
        fs::write(&pair.key, key.serialize_pem()).expect("a file");
        pair
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).expect("names");
    params.distinguished_name = name(names.first().map_or("nobody", String::as_str));
    params
}
