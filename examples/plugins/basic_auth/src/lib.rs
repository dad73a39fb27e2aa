//! Asks for a name and a password (RFC 7617) and compares them with an htpasswd file.
//!
//! Lesson: hooks must not block, and a good password hash is slow on purpose (50 ms and more). So
//! - slow checks run on a thread of their own, while the exchange waits and others are served;
//! - a password that was right is remembered as a keyed hash: each user costs one slow check, not each request;
//! - slow checks have a budget for each second, and a bounded queue. Above that the answer is 429: guesses cost little;
//! - a name that does not exist costs as much as a wrong password, so that answers do not tell names.
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/basic_auth.so
//!     config: {htpasswd: /etc/mini-rproxy/htpasswd, realm: staff}
//! ```
//! The file is read once, at start. Its lines are `name:hash` with bcrypt (`htpasswd -B`) or SHA-crypt (`htpasswd -5`,
//! `openssl passwd -6`); older kinds are refused with the number of the line. The upstream does not see the password, but
//! the name, in `X-Remote-User`; other plugins find it in the value `basic_auth.user`.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

// `make loom` runs the tests of `mod loom_tests` with a lock that threads get in every possible order.
#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(not(loom))]
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use mini_rproxy_plugin::{Error, Plugin, Pool, RequestPhase, Setup, Verdict, validate};
use sha_crypt::{PasswordVerifier, ShaCrypt};
use sha2::Sha256;

/// The field in which the upstream gets the name. What the client sends under this name (also with `_` for `-`) never comes
/// through.
const USER_FIELD: &str = "X-Remote-User";

/// No password is longer: the time that a check takes grows with the length, so that a few of 10 KB would occupy the threads
/// for minutes.
const MAX_PASSWORD: usize = 256;

/// The configuration.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    htpasswd: String,
    #[serde(default = "default_realm")]
    realm: String,
    /// Slow checks for all threads together.
    #[serde(default = "default_checks")]
    checks_per_second: u32,
    /// Threads for slow checks.
    #[serde(default = "default_threads")]
    threads: usize,
    /// Requests that wait for such a thread.
    #[serde(default = "default_waiting")]
    waiting: usize,
}

fn default_realm() -> String {
    "mini-rproxy".to_owned()
}

fn default_checks() -> u32 {
    10
}

fn default_threads() -> usize {
    1
}

fn default_waiting() -> usize {
    32
}

/// One line of the file.
#[derive(Debug)]
struct User {
    hash: String,
    /// The keyed hash of the password that was right. Set once: the same name has one right password.
    verified: OnceLock<[u8; 32]>,
}

/// The plugin.
#[derive(Debug)]
pub struct BasicAuth {
    guard: Arc<Guard>,
    pool: Pool,
}

/// What hooks and slow checks share.
#[derive(Debug)]
struct Guard {
    users: HashMap<String, User>,
    challenge: String,
    key: [u8; 32],
    checks: Budget,
}

/// So many in each second. A lock costs nothing beside the slow check that it lets in.
#[derive(Debug)]
struct Budget {
    start: Instant,
    per_second: u32,
    /// The second, and what was spent in it.
    spent: Mutex<(u32, u32)>,
}

impl Budget {
    fn take(&self, second: u32) -> bool {
        let mut spent = self.spent.lock().unwrap();
        // A thread that read the clock earlier, and comes later, must not open a second anew that is spent.
        if second > spent.0 {
            *spent = (second, 0);
        }
        let is_left = spent.1 < self.per_second;
        spent.1 += u32::from(is_left);
        is_left
    }

    fn take_now(&self) -> bool {
        self.take(self.start.elapsed().as_secs() as u32)
    }
}

/// What became of a request's credentials.
enum Answer {
    Right,
    Wrong,
    /// The budget for slow checks is spent, or too many wait for one.
    Later,
}

impl Guard {
    fn parse(text: &str) -> Result<HashMap<String, User>, Error> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = index + 1;
            let at = |what: &str| Error::new(format!("htpasswd line {number}: {what}"));
            let (name, hash) = line.split_once(':').ok_or_else(|| at("expected name:hash"))?;
            if name.is_empty() || !validate::is_field_value(name.as_bytes()) {
                return Err(at("a name must be a field value"));
            }
            if !is_supported(hash) {
                return Err(at("only bcrypt ($2y$, htpasswd -B) and SHA-crypt ($5$, $6$) are good enough"));
            }
            let user = User { hash: hash.to_owned(), verified: OnceLock::new() };
            if users.insert(name.to_owned(), user).is_some() {
                return Err(at("this name stands here twice"));
            }
        }
        if users.is_empty() { Err(Error::new("the htpasswd file holds no user")) } else { Ok(users) }
    }

    /// A keyed hash of a password: without the key it helps nobody who reads our memory's remains.
    fn mac(&self, name: &str, password: &[u8]) -> Hmac<Sha256> {
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key);
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(name.as_bytes());
        mac.update(b"\0");
        mac.update(password);
        mac
    }

    /// Whether it is a password that was right before.
    fn is_verified(&self, name: &str, password: &[u8]) -> bool {
        let known = self.users.get(name).and_then(|user| user.verified.get());
        known.is_some_and(|known| self.mac(name, password).verify_slice(known).is_ok())
    }

    /// Takes its time.
    fn check(&self, name: &str, password: &[u8]) -> Answer {
        // Another request with it may have been checked while this one waited.
        if self.is_verified(name, password) {
            return Answer::Right;
        }
        if !self.checks.take_now() {
            return Answer::Later;
        }
        let user = self.users.get(name);
        // For a name that does not exist some other hash is computed, only to take as long: the same each time, and nobody can
        // tell which, as hashes may differ in what they cost.
        let tag = self.mac(name, b"").finalize().into_bytes();
        let stand_in = self.users.values().nth(usize::from(u16::from_be_bytes([tag[0], tag[1]])) % self.users.len());
        let Some(hash) = user.or(stand_in).map(|user| user.hash.as_str()) else { return Answer::Wrong };
        match (verify(hash, password), user) {
            (true, Some(user)) => {
                let _ = user.verified.set(self.mac(name, password).finalize().into_bytes().into());
                Answer::Right
            }
            (_, _) => Answer::Wrong,
        }
    }

    /// What an answer means for the request with that name.
    fn apply(&self, x: &mut RequestPhase<'_>, answer: Answer, name: &str) -> Result<Verdict, Error> {
        match answer {
            Answer::Right => {
                x.remove_field("authorization")?;
                strip(x)?;
                x.set_field(USER_FIELD, name)?;
                x.set_value("basic_auth.user", name)?;
                Ok(Verdict::Continue)
            }
            Answer::Wrong => {
                let fields = [("WWW-Authenticate", self.challenge.as_str()), ("Content-Type", "text/plain")];
                Ok(x.respond(401, &fields, "a name and a password are needed\n")?)
            }
            Answer::Later => {
                Ok(x.respond(429, &[("Retry-After", "1"), ("Content-Type", "text/plain")], "too many attempts\n")?)
            }
        }
    }
}

/// Removes what an upstream may take for the field with the name, such as `X_Remote_User`.
fn strip(x: &mut RequestPhase<'_>) -> Result<(), Error> {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    let is_forged = |name: &[u8]| name.iter().map(|&byte| plain(byte)).eq(USER_FIELD.bytes().map(plain));
    let names = x.fields().map(|(name, _)| name);
    let forged: Vec<Vec<u8>> = names.filter(|name| is_forged(name)).map(<[u8]>::to_vec).collect();
    for name in forged {
        x.remove_field(name)?;
    }
    Ok(())
}

fn is_supported(hash: &str) -> bool {
    match hash.get(..4) {
        Some("$2a$" | "$2b$" | "$2y$") => hash.len() == 60,
        Some(start) => start.starts_with("$5$") || start.starts_with("$6$"),
        None => false,
    }
}

/// Slow on purpose. Both crates compare in constant time.
fn verify(hash: &str, password: &[u8]) -> bool {
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    sha_crypt::PasswordHashRef::new(hash).is_ok_and(|hash| ShaCrypt::default().verify_password(password, hash).is_ok())
}

/// Name and password of an Authorization field (RFC 7617 section 2).
fn credentials(field: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = field.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let name = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    let password = &decoded[colon + 1..];
    (password.len() <= MAX_PASSWORD).then(|| (name, password.to_vec()))
}

impl Plugin for BasicAuth {
    const NAME: &'static str = "basic_auth";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        let config: Config = serde_json::from_slice(config)
            .map_err(|error| Error::new(format!("config must be a mapping with htpasswd: {error}")))?;
        let text = fs::read_to_string(&config.htpasswd)
            .map_err(|error| Error::new(format!("{}: {error}", config.htpasswd)))?;
        let users = Guard::parse(&text)?;
        let realm = config.realm.replace('\\', "\\\\").replace('"', "\\\"");
        if !validate::is_field_value(realm.as_bytes()) {
            return Err(Error::new("realm must be without line breaks and spaces around it"));
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        setup.info(format_args!("{} users", users.len()));
        let checks =
            Budget { start: Instant::now(), per_second: config.checks_per_second.max(1), spent: Mutex::new((0, 0)) };
        let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
        let pool = Pool::new(setup, config.threads.clamp(1, 64), config.waiting)?;
        Ok(BasicAuth { guard: Arc::new(Guard { users, challenge, key, checks }), pool })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let Some((name, password)) = x.field("authorization").and_then(credentials) else {
            return self.guard.apply(x, Answer::Wrong, "");
        };
        if self.guard.is_verified(&name, &password) {
            return self.guard.apply(x, Answer::Right, &name);
        }
        let (pause, guard) = (x.pause()?, Arc::clone(&self.guard));
        let verdict = pause.verdict();
        let check = move || {
            let answer = guard.check(&name, &password);
            pause.resume(move |x| guard.apply(x, answer, &name));
        };
        match self.pool.run(check) {
            Ok(()) => Ok(verdict),
            Err(_) => self.guard.apply(x, Answer::Later, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};

    /// An instance over a file that is gone afterwards: it is read only once.
    fn plugin(name: &str, lines: &str, more: &str) -> Result<Instance<BasicAuth>, String> {
        let path = std::env::temp_dir().join(format!("mini-rproxy-basic-auth-{}-{name}", std::process::id()));
        fs::write(&path, lines).unwrap();
        let plugin = Instance::new(format!("{{\"htpasswd\": {path:?}{more}}}"));
        fs::remove_file(&path).unwrap();
        plugin
    }

    /// What becomes of a request in the end.
    fn ask(mut x: Exchange, plugin: &Instance<BasicAuth>) -> Outcome {
        match x.request(plugin) {
            Outcome::Pause => x.resumed(plugin),
            other => other,
        }
    }

    fn with(name: &str, password: &str) -> Exchange {
        let field = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        Exchange::get("/").field("Authorization", field)
    }

    fn users() -> String {
        // The SHA-crypt hashes are those of `openssl passwd -5 -salt saltsalt swordfish` and `-6`.
        format!(
            "# people\nann:{}\nbob:{}\ncy:{}\n",
            bcrypt::hash("swordfish", 4).unwrap(),
            "$5$saltsalt$daAhTF6GHYZ.SNpCbCUBgMUeouPxKWlT5eTP3TzH249",
            "$6$saltsalt$cPbDmdp7sUA1v8Yjfppi8VeFqwELnkKCqsv5H2wx/S4LZwLhIhlK7tCX/4JqgCT3onV3./FXCDD2Y6iXkj4Lp/"
        )
    }

    #[test]
    fn right_and_wrong_passwords() {
        let plugin = plugin("right", &users(), ", \"checks_per_second\": 1000").unwrap();
        for name in ["ann", "bob", "cy"] {
            let mut x = with(name, "swordfish").field("x-remote-user", "root").field("X_Remote_User", "root");
            assert_eq!((x.request(&plugin), x.resumed(&plugin)), (Outcome::Pause, Outcome::Continue), "{name}");
            assert_eq!((x.request_field("X-Remote-User"), x.request_fields().len()), (Some(name), 1));
            assert_eq!(x.request_field("authorization"), None, "the upstream does not see the password");
            assert_eq!(x.value("basic_auth.user"), Some(name));
            assert_eq!(ask(with(name, "Swordfish"), &plugin).status(), Some(401), "{name}");
            assert_eq!(ask(with(name, ""), &plugin).status(), Some(401), "{name}");
        }
        let outcome = ask(with("nobody", "swordfish"), &plugin);
        assert_eq!(outcome.status(), Some(401));
        assert_eq!(outcome.field("www-authenticate"), Some("Basic realm=\"mini-rproxy\", charset=\"UTF-8\""));
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        let plugin = plugin("none", &users(), ", \"realm\": \"a \\\"b\\\"\"").unwrap();
        let outcome = Exchange::get("/").request(&plugin);
        assert_eq!(outcome.field("www-authenticate"), Some("Basic realm=\"a \\\"b\\\"\", charset=\"UTF-8\""));
        for field in ["Basic", "Basic ", "Basic !!!", "Basic YW5u", "Bearer abc", "Basic\tYW5uOg=="] {
            assert_eq!(
                Exchange::get("/").field("authorization", field).request(&plugin).status(),
                Some(401),
                "{field}"
            );
        }
        // No check is begun for a password that would take long.
        assert_eq!(with("ann", &"x".repeat(257)).request(&plugin).status(), Some(401));
        assert_eq!(with("ann", &"x".repeat(256)).request(&plugin), Outcome::Pause);
    }

    #[test]
    fn others_are_answered_while_a_password_is_checked() {
        let slow =
            format!("ann:{}\nbob:{}\n", bcrypt::hash("swordfish", 4).unwrap(), bcrypt::hash("pike", 11).unwrap());
        let plugin = plugin("beside", &slow, "").unwrap();
        assert_eq!(ask(with("ann", "swordfish"), &plugin), Outcome::Continue);
        // The hook comes back at once: the check is under way, or has yet to begin.
        let mut login = with("bob", "pike");
        assert_eq!(login.request(&plugin), Outcome::Pause);
        assert_eq!(with("ann", "swordfish").request(&plugin), Outcome::Continue);
        assert_eq!(Exchange::get("/").request(&plugin).status(), Some(401));
        assert_eq!(login.resumed(&plugin), Outcome::Continue);
    }

    #[test]
    fn more_than_can_wait_are_refused_at_once() {
        let slow = format!("ann:{}\n", bcrypt::hash("swordfish", 11).unwrap());
        let plugin = plugin("full", &slow, ", \"waiting\": 2").unwrap();
        let mut crowd: Vec<Exchange> = (0..20).map(|_| with("ann", "swordfish")).collect();
        let outcomes: Vec<Outcome> = crowd.iter_mut().map(|x| x.request(&plugin)).collect();
        assert_eq!(outcomes[..3], [Outcome::Pause, Outcome::Pause, Outcome::Pause], "one thread, and two places");
        assert!(outcomes.iter().any(|outcome| outcome.status() == Some(429)), "{outcomes:?}");
        for (mut x, outcome) in crowd.into_iter().zip(outcomes) {
            if outcome == Outcome::Pause {
                assert_eq!(x.resumed(&plugin), Outcome::Continue);
            }
        }
    }

    #[test]
    fn a_password_that_was_right_is_checked_slowly_once() {
        let slow = format!("ann:{}\n", bcrypt::hash("swordfish", 8).unwrap());
        let plugin = plugin("once", &slow, ", \"checks_per_second\": 1").unwrap();
        // All of them wait for the thread; the first check answers them all.
        let mut crowd: Vec<Exchange> = (0..20).map(|_| with("ann", "swordfish")).collect();
        let first: Vec<Outcome> = crowd.iter_mut().map(|x| x.request(&plugin)).collect();
        assert_eq!(first[0], Outcome::Pause);
        for (mut x, outcome) in crowd.into_iter().zip(first) {
            let outcome = if outcome == Outcome::Pause { x.resumed(&plugin) } else { outcome };
            assert_eq!(outcome, Outcome::Continue, "one of them was slow, for which there is a budget");
        }
        // From then on no thread is needed.
        assert_eq!(with("ann", "swordfish").request(&plugin), Outcome::Continue);
        // Guesses soon meet the end of the budget; who was there before is not touched by it.
        let guesses: Vec<_> = (0..20).map(|guess| ask(with("ann", &guess.to_string()), &plugin).status()).collect();
        assert!(guesses.contains(&Some(429)), "{guesses:?}");
        assert_eq!(with("ann", "swordfish").request(&plugin), Outcome::Continue);
    }

    #[test]
    fn the_budget_is_new_in_each_second() {
        let budget = Budget { start: Instant::now(), per_second: 2, spent: Mutex::new((0, 0)) };
        let taken: Vec<bool> = [0, 0, 0, 1, 1, 1, 7].map(|second| budget.take(second)).to_vec();
        assert_eq!(taken, [true, true, false, true, true, false, true]);
        // A clock that another thread read earlier belongs to the second that has begun since.
        let taken: Vec<bool> = [6, 7, 6, 7].map(|second| budget.take(second)).to_vec();
        assert_eq!(taken, [true, false, false, false]);
    }

    #[test]
    fn weak_or_broken_files_are_refused_with_the_line() {
        for (name, lines, part) in [
            ("md5", "a:$apr1$abc$def", "line 1: only bcrypt"),
            ("plain", "# x\n\na:secret", "line 3: only bcrypt"),
            ("colon", "a", "line 1: expected name:hash"),
            ("twice", "a:$6$s$h\na:$6$s$h", "line 2: this name stands here twice"),
            ("empty", "# nobody\n", "no user"),
        ] {
            let error = plugin(name, lines, "").unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(Instance::<BasicAuth>::new("/etc/htpasswd").unwrap_err().contains("config must be a mapping"));
        assert!(Instance::<BasicAuth>::new("{\"htpasswd\": \"/nowhere\"}").unwrap_err().contains("/nowhere"));
    }
}

/// Every order in which threads can meet is tried. What is remembered of a right password needs no such test: it is a
/// `OnceLock`, of which std promises that nobody sees it half written.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn loom_no_more_checks_than_the_budget_and_no_less() {
        // Each row: the seconds that two threads read, and how many checks they get with 2 in each second.
        for (seconds, expected) in
            [([[0, 0], [0, 0]], 2..=2), ([[0, 1], [0, 1]], 2..=4), ([[0, 0], [1, 1]], 2..=4), ([[1, 1], [1, 0]], 2..=2)]
        {
            loom::model(move || {
                let start = Instant::now();
                let budget = Arc::new(Budget { start, per_second: 2, spent: Mutex::new((0, 0)) });
                let take = |seconds: [u32; 2]| {
                    let budget = Arc::clone(&budget);
                    move || seconds.map(|second| budget.take(second)).into_iter().filter(|taken| *taken).count()
                };
                let other = thread::spawn(take(seconds[0]));
                let count = take(seconds[1])() + other.join().unwrap();
                assert!(expected.contains(&count), "{count} of {seconds:?}");
            });
        }
    }
}
