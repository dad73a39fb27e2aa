//! Verifies the bearer token of each request (RFC 6750, RFC 7519) and passes chosen claims on as fields.
//!
//! Lesson: what a plugin tells the upstream must not be forgeable. The fields that carry claims are removed from the
//! client's request first, whatever their case and also with `_` for `-`, since many upstreams take these for the same
//! name. And the algorithm is that of the configuration, never that of the token.
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/jwt_claims.so
//!     config:
//!       algorithm: ES256                    # or RS256 (2,048 to 8,192 bits); HS256 with secret or secret_file
//!       public_key_file: /etc/mini-rproxy/issuer.pem
//!       issuer: https://login.example       # optional
//!       audience: api                       # optional; a token that names an audience needs it
//!       leeway_seconds: 0
//!       claims: {sub: X-User, email: X-User-Email}
//! ```
//! Expiry (`exp`) is required, `nbf` is checked. Texts are passed as they are, everything else as JSON; a claim that is
//! missing gives no field. Other plugins find each claim in the value `jwt_claims.NAME`.

mod crypto;

use std::collections::BTreeMap;
use std::fs;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use mini_rproxy_plugin::{Error, Logger, Plugin, RequestPhase, Setup, Verdict, validate};
use serde_json::{Map, Value};

/// The configuration.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    algorithm: Kind,
    secret: Option<String>,
    secret_file: Option<String>,
    public_key_file: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
    #[serde(default)]
    leeway_seconds: u64,
    #[serde(default)]
    claims: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
enum Kind {
    HS256,
    RS256,
    ES256,
}

/// The plugin.
pub struct JwtClaims {
    log: Logger,
    key: DecodingKey,
    validation: Validation,
    /// Claim, field, key of the value.
    claims: Vec<(String, String, String)>,
}

/// No key in here.
impl std::fmt::Debug for JwtClaims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtClaims").field("claims", &self.claims).finish_non_exhaustive()
    }
}

fn read(path: &str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::new(format!("{path}: {error}")))
}

impl Config {
    fn key(&self) -> Result<DecodingKey, Error> {
        match (self.algorithm, &self.secret, &self.secret_file, &self.public_key_file) {
            (Kind::HS256, Some(secret), None, None) => secret_key(secret.as_bytes()),
            (Kind::HS256, None, Some(path), None) => secret_key(read(path)?.trim_ascii_end()),
            (Kind::HS256, _, _, _) => Err(Error::new("HS256 needs one of secret and secret_file, and no public key")),
            (Kind::RS256, None, None, Some(path)) => {
                let key = DecodingKey::from_rsa_pem(&read(path)?)?;
                // A modulus of 2,048 bits alone has 256 bytes.
                let is_long = key.try_get_as_bytes()?.len() > 256;
                let short = "a key for RS256 has at least 2048 bits (RFC 7518 section 3.3)";
                if is_long { Ok(key) } else { Err(Error::new(format!("{path}: {short}"))) }
            }
            (Kind::ES256, None, None, Some(path)) => {
                let key = DecodingKey::from_ec_pem(&read(path)?)?;
                // An uncompressed point: 4, and two coordinates.
                let is_p256 = key.try_get_as_bytes()?.len() == 1 + 2 * 32;
                if is_p256 { Ok(key) } else { Err(Error::new(format!("{path}: a key for ES256 is on curve P-256"))) }
            }
            (Kind::RS256 | Kind::ES256, _, _, _) => {
                Err(Error::new("RS256 and ES256 need public_key_file, and no secret"))
            }
        }
    }

    fn validation(&self) -> Validation {
        let mut validation = Validation::new(match self.algorithm {
            Kind::HS256 => Algorithm::HS256,
            Kind::RS256 => Algorithm::RS256,
            Kind::ES256 => Algorithm::ES256,
        });
        validation.leeway = self.leeway_seconds;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

/// A key shorter than the hash can be guessed (RFC 7518 section 3.2).
fn secret_key(secret: &[u8]) -> Result<DecodingKey, Error> {
    if secret.len() < 32 {
        return Err(Error::new("a secret for HS256 has at least 32 bytes"));
    }
    Ok(DecodingKey::from_secret(secret))
}

/// The token of the one Authorization field (RFC 6750 section 2.1). Two of them: who knows which one the upstream takes.
fn bearer<'a>(x: &'a RequestPhase<'_>) -> Option<&'a [u8]> {
    let field = x.field("authorization")?;
    let (scheme, token) = field.split_at_checked(7)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ") && x.nth_field("authorization", 1).is_none();
    is_bearer.then(|| token.trim_ascii())
}

/// Whether an upstream may take one name for the other.
fn looks_like(name: &[u8], field: &str) -> bool {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.len() == field.len() && name.iter().zip(field.bytes()).all(|(&a, b)| plain(a) == plain(b))
}

impl JwtClaims {
    /// The claims of a token that is good, or why it is not.
    fn verify(&self, token: &[u8]) -> Result<Map<String, Value>, String> {
        match decode::<Map<String, Value>>(token, &self.key, &self.validation) {
            Ok(token) => Ok(token.claims),
            Err(error) => Err(error.to_string()),
        }
    }

    fn strip(&self, x: &mut RequestPhase<'_>) -> Result<(), Error> {
        let is_forged = |name: &[u8]| self.claims.iter().any(|(_, field, _)| looks_like(name, field));
        let forged: Vec<Vec<u8>> =
            x.fields().map(|(name, _)| name).filter(|name| is_forged(name)).map(<[u8]>::to_vec).collect();
        for name in forged {
            x.remove_field(name)?;
        }
        Ok(())
    }
}

/// 401 in the words of RFC 6750 section 3.
fn refuse(x: &mut RequestPhase<'_>, challenge: &str) -> Result<Verdict, Error> {
    let fields = [("WWW-Authenticate", challenge), ("Content-Type", "text/plain")];
    Ok(x.respond(401, &fields, "a valid token is needed\n")?)
}

impl Plugin for JwtClaims {
    const NAME: &'static str = "jwt_claims";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        crypto::install();
        let config: Config = serde_json::from_slice(config)
            .map_err(|error| Error::new(format!("config must be a mapping with algorithm and its key: {error}")))?;
        for field in config.claims.values() {
            if !validate::is_token(field.as_bytes())
                || validate::is_host_only(field.as_bytes())
                || looks_like(field.as_bytes(), "authorization")
            {
                return Err(Error::new(format!("{field:?} cannot be the name of a field for a claim")));
            }
        }
        let (key, validation) = (config.key()?, config.validation());
        let claim = |(claim, field): (String, String)| {
            let value = format!("jwt_claims.{claim}");
            (claim, field, value)
        };
        Ok(JwtClaims { log: setup.logger(), key, validation, claims: config.claims.into_iter().map(claim).collect() })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        self.strip(x)?;
        let Some(token) = bearer(x) else { return refuse(x, "Bearer") };
        let claims = match self.verify(token) {
            Ok(claims) => claims,
            Err(why) => {
                // The client learns that the token is bad, the log learns why.
                self.log.debug(format_args!("a token was refused: {why}"));
                return refuse(x, "Bearer error=\"invalid_token\"");
            }
        };
        for (claim, field, key) in &self.claims {
            let text = match claims.get(claim) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            if !validate::is_field_value(text.as_bytes()) {
                self.log.warn(format_args!("claim {claim} of a good token cannot be a field value"));
                return refuse(x, "Bearer error=\"invalid_token\"");
            }
            x.set_field(field, &text)?;
            x.set_value(key, &text)?;
        }
        Ok(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
    use serde_json::json;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn plugin(more: &str) -> Instance<JwtClaims> {
        let config = format!(
            "{{\"algorithm\": \"HS256\", \"secret\": \"{SECRET}\", \"claims\": {{\"sub\": \"X-User\", \"roles\": \"X-Roles\"}}{more}}}"
        );
        Instance::new(config).unwrap()
    }

    fn token(claims: &Value) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    fn with(token: &str) -> Exchange {
        Exchange::get("/").field("Authorization", format!("Bearer {token}"))
    }

    fn later(seconds: i64) -> i64 {
        get_current_timestamp() as i64 + seconds
    }

    #[test]
    fn claims_arrive_as_fields_and_values() {
        let plugin = plugin("");
        let mut x = with(&token(&json!({"exp": later(60), "sub": "ann", "roles": ["a", "b"], "other": 1})));
        assert_eq!(x.request(&plugin), Outcome::Continue, "{:?}", plugin.log());
        assert_eq!((x.request_field("x-user"), x.request_field("x-roles")), (Some("ann"), Some("[\"a\",\"b\"]")));
        assert_eq!((x.value("jwt_claims.sub"), x.value("jwt_claims.other")), (Some("ann"), None));
    }

    #[test]
    fn what_the_client_forged_does_not_come_through() {
        let plugin = plugin("");
        let mut x = with(&token(&json!({"exp": later(60)})));
        for name in ["X-User", "x-user", "X_User", "X.User", "x-USER"] {
            x = x.field(name, "root");
        }
        x = x.field("X-Users", "kept");
        assert_eq!(x.request(&plugin), Outcome::Continue);
        let names: Vec<_> =
            x.request_fields().iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["Authorization", "X-Users"]);
    }

    #[test]
    fn bad_tokens_are_refused() {
        let plugin = plugin(", \"issuer\": \"me\", \"audience\": \"api\"");
        let good = json!({"exp": later(60), "sub": "ann", "iss": "me", "aud": ["api", "b"]});
        assert_eq!(with(&token(&good)).request(&plugin), Outcome::Continue, "{:?}", plugin.log());
        let change = |key: &str, value: Value| {
            let mut claims = good.clone();
            claims[key] = value;
            token(&claims)
        };
        let other_key = EncodingKey::from_secret(b"another secret of thirty-two bytes");
        // {"alg":"none"} and no signature.
        let none = format!("eyJhbGciOiJub25lIn0.{}.", token(&good).split('.').nth(1).unwrap());
        let mut cut = token(&good);
        cut.pop();
        let rows = [
            ("expired", change("exp", json!(later(-1)))),
            ("no expiry", change("exp", Value::Null)),
            ("expiry is text", change("exp", json!("tomorrow"))),
            ("not yet", change("nbf", json!(later(60)))),
            ("issuer", change("iss", json!("you"))),
            ("no issuer", change("iss", Value::Null)),
            ("audience", change("aud", json!("web"))),
            ("line break", change("sub", json!("a\r\nX-Admin: 1"))),
            ("other key", encode(&Header::new(Algorithm::HS256), &good, &other_key).unwrap()),
            (
                "other hash",
                encode(&Header::new(Algorithm::HS512), &good, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap(),
            ),
            ("none", none),
            ("cut", cut),
            ("empty", String::new()),
            ("text", "a.b.c".to_owned()),
        ];
        for (name, token) in rows {
            let outcome = with(&token).request(&plugin);
            assert_eq!(outcome.status(), Some(401), "{name}");
            assert!(outcome.field("www-authenticate").unwrap().starts_with("Bearer"), "{name}");
        }
        assert_eq!(Exchange::get("/").request(&plugin).field("www-authenticate"), Some("Bearer"));
        let twice = with(&token(&good)).field("authorization", "Basic YTpi").request(&plugin);
        assert_eq!(twice.status(), Some(401), "two Authorization fields");
    }

    #[test]
    fn public_keys() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
        let rsa = EncodingKey::from_rsa_pem(&fs::read(format!("{folder}/rsa.pem")).unwrap()).unwrap();
        let ec = EncodingKey::from_ec_pem(&fs::read(format!("{folder}/ec.pem")).unwrap()).unwrap();
        let claims = json!({"exp": later(60), "sub": "ann"});
        for (name, file, algorithm, key) in
            [("RS256", "rsa.pub.pem", Algorithm::RS256, rsa), ("ES256", "ec.pub.pem", Algorithm::ES256, ec)]
        {
            let config = format!(
                "{{\"algorithm\": \"{name}\", \"public_key_file\": \"{folder}/{file}\", \"claims\": {{\"sub\": \"X-User\"}}}}"
            );
            let plugin = Instance::<JwtClaims>::new(config).unwrap();
            let mut x = with(&encode(&Header::new(algorithm), &claims, &key).unwrap());
            assert_eq!(x.request(&plugin), Outcome::Continue, "{name}: {:?}", plugin.log());
            assert_eq!(x.request_field("x-user"), Some("ann"));
            // The public key, taken for a secret: the oldest trick.
            let public = fs::read(format!("{folder}/{file}")).unwrap();
            let forged = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&public)).unwrap();
            assert_eq!(with(&forged).request(&plugin).status(), Some(401), "{name}");
        }
    }

    #[test]
    fn keys_of_another_kind_are_refused_at_the_start() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
        for (algorithm, file, why) in [
            ("RS256", "rsa1024.pub.pem", "at least 2048 bits"),
            ("ES256", "p384.pub.pem", "on curve P-256"),
            ("RS256", "ec.pub.pem", ""),
            ("ES256", "rsa.pub.pem", ""),
        ] {
            let config = format!("{{\"algorithm\": \"{algorithm}\", \"public_key_file\": \"{folder}/{file}\"}}");
            let error = Instance::<JwtClaims>::new(config).map(drop).expect_err(file);
            assert!(error.contains(why), "{file}: {error}");
        }
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for config in [
            "",
            "{}",
            r#"{"algorithm": "none"}"#,
            r#"{"algorithm": "HS256"}"#,
            r#"{"algorithm": "HS256", "secret": "short"}"#,
            r#"{"algorithm": "RS256", "secret": "0123456789abcdef0123456789abcdef"}"#,
            r#"{"algorithm": "ES256", "public_key_file": "/nowhere"}"#,
            r#"{"algorithm": "HS256", "secret": "0123456789abcdef0123456789abcdef", "claims": {"sub": "Host"}}"#,
            r#"{"algorithm": "HS256", "secret": "0123456789abcdef0123456789abcdef", "claims": {"sub": "Authorization"}}"#,
        ] {
            assert!(Instance::<JwtClaims>::new(config).is_err(), "{config}");
        }
    }
}
