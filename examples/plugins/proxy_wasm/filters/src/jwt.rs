//! Demands a JSON Web Token that is signed with HS256: `Authorization: Bearer HEADER.CLAIMS.SIGNATURE` (RFC 7519). Its `exp`
//! must be in the future, its `nbf`, where there is one, in the past, and its `iss` the one that is configured. The upstream
//! gets `sub` as `x-jwt-sub`.
//!
//! ```text
//! secret 0123456789abcdef0123456789abcdef
//! issuer https://issuer.example
//! ```

use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use sha2::Sha256;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Clone, Default)]
struct Root {
    secret: String,
    issuer: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        for (word, rest) in filters::lines(&self.get_plugin_configuration().unwrap_or_default()) {
            match word.as_str() {
                "secret" => self.secret = rest,
                "issuer" => self.issuer = rest,
                _ => {
                    log::error!("no rule: {word} {rest}");
                    return false;
                }
            }
        }
        // RFC 7518 section 3.2: as long as the hash.
        if self.secret.len() < 32 || self.issuer.is_empty() {
            log::error!("needs a secret of at least 32 bytes, and an issuer");
            return false;
        }
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Filter(self.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

#[derive(serde::Deserialize)]
struct Header {
    alg: String,
}

#[derive(serde::Deserialize)]
struct Claims {
    exp: f64,
    #[serde(default)]
    nbf: f64,
    iss: String,
    #[serde(default)]
    sub: String,
}

struct Filter(Root);

impl Context for Filter {}

impl Filter {
    fn claims(&self, field: &str) -> Result<Claims, &'static str> {
        let (scheme, token) = field.split_once(' ').ok_or("no bearer token")?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err("no bearer token");
        }
        let (signed, signature) = token.trim().rsplit_once('.').ok_or("no three parts")?;
        let (header, claims) = signed.split_once('.').ok_or("no three parts")?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "no base64url");
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| "no header")?;
        // Nothing else, whatever the token says: "none" is an algorithm, too.
        if header.alg != "HS256" {
            return Err("another algorithm than HS256");
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.secret.as_bytes()).map_err(|_| "no key")?;
        mac.update(signed.as_bytes());
        // In constant time.
        mac.verify_slice(&decode(signature)?).map_err(|_| "another signature")?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| "claims without exp and iss")?;
        let now = self.get_current_time().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        match claims {
            Claims { exp, .. } if exp <= now => Err("expired"),
            Claims { nbf, .. } if nbf > now => Err("not valid yet"),
            Claims { ref iss, .. } if *iss != self.0.issuer => Err("another issuer"),
            claims => Ok(claims),
        }
    }
}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        // Only a token may say it.
        self.set_http_request_header("x-jwt-sub", None);
        let field = self.get_http_request_header("authorization").unwrap_or_default();
        match self.claims(&field) {
            // What could not stand in a field is left out.
            Ok(claims) if claims.sub.bytes().all(|byte| (0x21..0x7f).contains(&byte)) && !claims.sub.is_empty() => {
                self.set_http_request_header("x-jwt-sub", Some(&claims.sub));
                Action::Continue
            }
            Ok(_) => Action::Continue,
            Err(why) => {
                log::info!("refused: {why}");
                self.send_http_response(
                    401,
                    vec![("www-authenticate", "Bearer error=\"invalid_token\"")],
                    Some(b"no valid token\n"),
                );
                Action::Pause
            }
        }
    }
}
