//! The signatures of tokens, verified by `ring`: only the three algorithms of the configuration.
//!
//! `jsonwebtoken` leaves signatures to a provider. Of those that it brings itself, one needs the crate `rsa`, whose private
//! key operations leak the key through their timing (RUSTSEC-2023-0071; verifying has no private key, but who audits sees
//! the crate), and the other a second large library beside the one that the proxy has for TLS.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error as BadSignature, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use ring::{hmac, signature};

/// Makes ring the provider of this plugin. Its copy of `jsonwebtoken` is its own, unless several are linked into one
/// program; whoever came first is kept.
pub fn install() {
    #[cfg(not(test))]
    const SIGN: SignerFactory = |_, _| Err(ErrorKind::UnsupportedAlgorithm.into());
    #[cfg(test)]
    const SIGN: SignerFactory = signing::signer;
    static PROVIDER: CryptoProvider =
        CryptoProvider { signer_factory: SIGN, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };
    let _ = PROVIDER.install_default();
}

type SignerFactory = fn(&Algorithm, &jsonwebtoken::EncodingKey) -> Result<Box<dyn jsonwebtoken::crypto::JwtSigner>>;

struct Signature {
    algorithm: Algorithm,
    key: Vec<u8>,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let family = match algorithm {
        Algorithm::HS256 => AlgorithmFamily::Hmac,
        Algorithm::RS256 => AlgorithmFamily::Rsa,
        Algorithm::ES256 => AlgorithmFamily::Ec,
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    if key.family() != family {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Signature { algorithm: *algorithm, key: key.try_get_as_bytes()?.to_vec() }))
}

impl Verifier<Vec<u8>> for Signature {
    fn verify(&self, message: &[u8], given: &Vec<u8>) -> std::result::Result<(), BadSignature> {
        let public = |algorithm: &'static dyn signature::VerificationAlgorithm| {
            signature::UnparsedPublicKey::new(algorithm, &self.key).verify(message, given)
        };
        match self.algorithm {
            Algorithm::HS256 => hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), message, given),
            Algorithm::RS256 => public(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::ES256 => public(&signature::ECDSA_P256_SHA256_FIXED),
            _ => Err(ring::error::Unspecified),
        }
        .map_err(|_| BadSignature::new())
    }
}

impl JwtVerifier for Signature {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Tests make the tokens that they verify.
#[cfg(test)]
mod signing {
    use super::*;
    use jsonwebtoken::EncodingKey;
    use jsonwebtoken::crypto::JwtSigner;
    use jsonwebtoken::signature::Signer;
    use ring::rand::SystemRandom;

    struct Signing(Algorithm, Vec<u8>);

    pub fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
        Ok(Box::new(Signing(*algorithm, key.as_bytes().to_vec())))
    }

    impl Signer<Vec<u8>> for Signing {
        fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, BadSignature> {
            let Signing(algorithm, key) = self;
            let (random, hmac) =
                (SystemRandom::new(), |hash| hmac::sign(&hmac::Key::new(hash, key), message).as_ref().to_vec());
            Ok(match algorithm {
                Algorithm::HS256 => hmac(hmac::HMAC_SHA256),
                Algorithm::HS512 => hmac(hmac::HMAC_SHA512),
                Algorithm::RS256 => {
                    let pair = signature::RsaKeyPair::from_der(key).unwrap();
                    let mut made = vec![0; pair.public().modulus_len()];
                    pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut made).unwrap();
                    made
                }
                Algorithm::ES256 => {
                    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                    let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, key, &random).unwrap();
                    pair.sign(&random, message).unwrap().as_ref().to_vec()
                }
                _ => return Err(BadSignature::new()),
            })
        }
    }

    impl JwtSigner for Signing {
        fn algorithm(&self) -> Algorithm {
            self.0
        }
    }
}
