//! Asks an HTTP service whether a request may pass: Authelia, oauth2-proxy, or one of your own.
//!
//! Lesson: an exchange that waits. The hook hands the question to a pool of threads and pauses the exchange; the thread asks
//! the service, over a kept connection and with a time limit, and resumes it. The proxy's own threads serve others meanwhile.
//! And what the service tells the upstream must not be forgeable: those fields are removed from the client's request first.
//!
//! ```yaml
//! plugins:
//!   - path: target/plugins/forward_auth.so
//!     config: {url: "http://127.0.0.1:9091/api/authz/forward-auth", copy: [Remote-User, Remote-Groups]}
//! ```
//! | the service answers | and then |
//! |---|---|
//! | 2xx | the request goes on, with the fields of `copy` |
//! | 301, 302, 303, 307, 308, 401, 403, 429 | the client gets that answer, with the fields of `answer` and its body |
//! | anything else, or nothing in time | 502, and the reason in the log |

use std::sync::Arc;
use std::time::{Duration, Instant};

use mini_rproxy_plugin::client::{Answer, Client, parse_url};
use mini_rproxy_plugin::{Counter, Error, Level, Plugin, Pool, RequestPhase, Setup, Verdict, validate};

/// Bytes of an answer's body, which a client may be given.
const MAX_BODY: usize = 64 * 1024;

/// The configuration.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: String,
    #[serde(default = "default_timeout")]
    timeout_ms: u64,
    #[serde(default)]
    copy: Vec<String>,
    #[serde(default = "default_send")]
    send: Vec<String>,
    #[serde(default = "default_answer")]
    answer: Vec<String>,
    #[serde(default = "default_threads")]
    threads: usize,
    #[serde(default = "default_waiting")]
    waiting: usize,
}

fn default_timeout() -> u64 {
    5000
}

fn default_send() -> Vec<String> {
    ["Authorization", "Cookie", "Accept", "User-Agent", "X-Requested-With"].map(str::to_owned).to_vec()
}

fn default_answer() -> Vec<String> {
    ["Content-Type", "Location", "WWW-Authenticate", "Set-Cookie", "Cache-Control", "Retry-After"]
        .map(str::to_owned)
        .to_vec()
}

fn default_threads() -> usize {
    4
}

fn default_waiting() -> usize {
    64
}

/// The plugin.
#[derive(Debug)]
pub struct ForwardAuth {
    service: Arc<Service>,
    pool: Pool,
    busy: Counter,
}

/// What the threads of the pool need.
#[derive(Debug)]
struct Service {
    client: Client,
    timeout: Duration,
    host: String,
    path: String,
    /// Fields of a request that the service is sent.
    send: Vec<String>,
    /// Fields of its 2xx that the upstream is sent.
    copy: Vec<String>,
    /// Fields of its other answers that the client is sent.
    answer: Vec<String>,
    failed: Counter,
}

/// A client may send a whole URL as its target: the rules of a service are for paths.
fn path_and_query(target: &[u8]) -> Vec<u8> {
    let scheme = target.windows(3).position(|bytes| bytes == b"://");
    let Some(scheme) = scheme.filter(|_| target[0] != b'/') else { return target.to_vec() };
    let rest = &target[scheme + 3..];
    let rest = &rest[rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len())..];
    if rest.first() == Some(&b'/') { rest.to_vec() } else { [b"/", rest].concat() }
}

/// Whether an upstream may take one name for the other.
fn looks_like(name: &[u8], field: &str) -> bool {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.len() == field.len() && name.iter().zip(field.bytes()).all(|(&a, b)| plain(a) == plain(b))
}

impl Service {
    /// The request for the service: about a request, without its body.
    fn question(&self, x: &RequestPhase<'_>) -> Vec<u8> {
        let mut question = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.host).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            question.extend_from_slice(name.as_bytes());
            question.extend_from_slice(b": ");
            question.extend_from_slice(value);
            question.extend_from_slice(b"\r\n");
        };
        line("X-Forwarded-Method", x.method());
        line("X-Forwarded-Proto", x.scheme().as_bytes());
        line("X-Forwarded-Host", x.client_host());
        line("X-Forwarded-Uri", &path_and_query(x.original_target()));
        if let Some(address) = x.client_addr() {
            line("X-Forwarded-For", address.as_bytes());
        }
        for (name, value) in x.fields() {
            if let Some(name) = self.send.iter().find(|send| send.as_bytes().eq_ignore_ascii_case(name)) {
                line(name, value);
            }
        }
        question.extend_from_slice(b"\r\n");
        question
    }

    /// Removes what only the service may say.
    fn strip(&self, x: &mut RequestPhase<'_>) -> Result<(), Error> {
        let is_forged = |name: &[u8]| self.copy.iter().any(|field| looks_like(name, field));
        let forged: Vec<Vec<u8>> =
            x.fields().map(|(name, _)| name).filter(|name| is_forged(name)).map(<[u8]>::to_vec).collect();
        for name in forged {
            x.remove_field(name)?;
        }
        Ok(())
    }

    /// What an answer means for the exchange.
    fn apply(&self, x: &mut RequestPhase<'_>, answer: &Answer) -> Result<Verdict, Error> {
        match answer.status {
            200..=299 => {
                for field in &self.copy {
                    for value in answer.all(field) {
                        x.add_field(field, value)?;
                    }
                }
                Ok(Verdict::Continue)
            }
            301 | 302 | 303 | 307 | 308 | 401 | 403 | 429 => {
                let fields = self.answer.iter().flat_map(|field| {
                    let texts = answer.all(field).filter_map(|value| std::str::from_utf8(value).ok());
                    texts.map(|value| (field.as_str(), value))
                });
                Ok(x.respond(answer.status, &fields.collect::<Vec<_>>(), &answer.body)?)
            }
            status => {
                self.failed.add(1);
                x.log(Level::Error, format_args!("{} answered {status}", self.client.address()));
                Ok(x.respond(502, &[("Content-Type", "text/plain")], "the login service has failed\n")?)
            }
        }
    }
}

impl Plugin for ForwardAuth {
    const NAME: &'static str = "forward_auth";

    fn create(setup: &Setup, config: &[u8]) -> Result<Self, Error> {
        let config: Config = serde_json::from_slice(config)
            .map_err(|error| Error::new(format!("config must be a mapping with url: {error}")))?;
        let (host, path) = parse_url(&config.url)?;
        for (key, fields) in [("copy", &config.copy), ("send", &config.send), ("answer", &config.answer)] {
            let bad = |name: &&String| !validate::is_token(name.as_bytes()) || validate::is_host_only(name.as_bytes());
            if let Some(name) = fields.iter().find(bad) {
                return Err(Error::new(format!("{key}: {name:?} cannot be the name of a field here")));
            }
        }
        if !(1..=64).contains(&config.threads) || config.timeout_ms == 0 {
            return Err(Error::new("threads must be from 1 to 64, and timeout_ms above 0"));
        }
        let service = Arc::new(Service {
            client: Client::new(host, MAX_BODY),
            timeout: Duration::from_millis(config.timeout_ms),
            host: host.to_owned(),
            path: path.to_owned(),
            send: config.send,
            copy: config.copy,
            answer: config.answer,
            failed: setup.counter("failed_total", "Questions to the service without a useful answer.")?,
        });
        let busy =
            setup.counter("busy_total", "Requests that were refused because too many waited for the service.")?;
        Ok(ForwardAuth { service, pool: Pool::new(setup, config.threads, config.waiting)?, busy })
    }

    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        self.service.strip(x)?;
        let (question, service) = (self.service.question(x), Arc::clone(&self.service));
        let pause = x.pause()?;
        let verdict = pause.verdict();
        let ask = move || {
            let answer = service.client.ask(&question, Instant::now() + service.timeout);
            pause.resume(move |x| match answer {
                Ok(answer) => service.apply(x, &answer),
                Err(error) => {
                    service.failed.add(1);
                    x.log(Level::Error, format_args!("{}: {error}", service.client.address()));
                    Ok(x.respond(502, &[("Content-Type", "text/plain")], "the login service cannot be reached\n")?)
                }
            });
        };
        if self.pool.run(ask).is_ok() {
            return Ok(verdict);
        }
        self.busy.add(1);
        Ok(x.respond(503, &[("Retry-After", "1"), ("Content-Type", "text/plain")], "too many requests at once\n")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    /// A service that plays `answers` on each connection and passes on what it is asked. Without an answer it closes.
    fn service(connections: Vec<Vec<&'static str>>) -> (String, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, questions) = channel();
        thread::spawn(move || {
            for answers in connections {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in answers {
                    let Some(question) = read_question(&mut stream) else { break };
                    let _ = asked.send(question);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        (address, questions)
    }

    fn read_question(stream: &mut TcpStream) -> Option<String> {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            bytes.push(byte[0]);
        }
        String::from_utf8(bytes).ok()
    }

    fn plugin(address: &str, more: &str) -> Instance<ForwardAuth> {
        Instance::new(format!("{{\"url\": \"http://{address}/auth?x=1\", \"copy\": [\"Remote-User\"]{more}}}")).unwrap()
    }

    fn ask(plugin: &Instance<ForwardAuth>, x: &mut Exchange) -> Outcome {
        match x.request(plugin) {
            Outcome::Pause => x.resumed(plugin),
            other => other,
        }
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\nRemote-User: ann\r\nRemote-Email: a@b\r\nContent-Length: 2\r\n\r\nok";
    const BAD: &str = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 3\r\n\
                       Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Secret: 1\r\n\r\nno\n";
    const MOVED: &str = "HTTP/1.1 302 Found\r\nLocation: https://login.example/?rd=/a\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn what_the_service_says_is_done_over_one_connection() {
        let (address, questions) = service(vec![vec![GOOD, BAD, MOVED, GOOD]]);
        let plugin = plugin(&address, "");
        let mut x = Exchange::new("POST", "/a?b=c")
            .field("cookie", "session=1")
            .field("X-Other", "1")
            .field("Remote_User", "root")
            .field("Remote.User", "root")
            .field("remote-user", "root");
        assert_eq!(ask(&plugin, &mut x), Outcome::Continue);
        assert_eq!(x.request_fields().len(), 3, "two of the client's, and one of the service's");
        assert_eq!((x.request_field("Remote-User"), x.request_field("Remote_User")), (Some("ann"), None));
        assert_eq!(
            questions.recv().unwrap(),
            format!(
                "GET /auth?x=1 HTTP/1.1\r\nHost: {address}\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Proto: http\r\n\
                 X-Forwarded-Host: www.example\r\nX-Forwarded-Uri: /a?b=c\r\nX-Forwarded-For: 192.0.2.1\r\n\
                 Cookie: session=1\r\n\r\n"
            )
        );
        let Outcome::Respond(answer) = ask(&plugin, &mut Exchange::get("/")) else { panic!("no answer") };
        assert_eq!((answer.status, answer.body.as_slice()), (401, b"no\n".as_slice()));
        let names: Vec<_> = answer.fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        assert_eq!(names, [("WWW-Authenticate", "Basic realm=\"x\""), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]);
        let moved = ask(&plugin, &mut Exchange::get("/"));
        assert_eq!((moved.status(), moved.field("Location")), (Some(302), Some("https://login.example/?rd=/a")));
        // A field that the service does not send is none, whatever the client sends.
        let mut x = Exchange::get("/").field("REMOTE-USER", "root");
        assert_eq!(ask(&plugin, &mut x), Outcome::Continue);
        assert_eq!(x.request_field("Remote-User"), Some("ann"));
        assert_eq!(plugin.metric("failed_total"), Some(0));
    }

    #[test]
    fn the_service_is_told_a_path_where_the_client_sends_a_url() {
        let (address, questions) = service(vec![vec![GOOD; 5]]);
        let plugin = plugin(&address, "");
        for (target, uri) in [
            ("http://www.example/admin?x=http://y/", "/admin?x=http://y/"),
            ("HTTPS://www.example?x", "/?x"),
            ("http://www.example", "/"),
            ("/a://b", "/a://b"),
            ("*", "*"),
        ] {
            assert_eq!(ask(&plugin, &mut Exchange::new("OPTIONS", target)), Outcome::Continue);
            let question = questions.recv().unwrap();
            assert!(question.contains(&format!("X-Forwarded-Uri: {uri}\r\n")), "{question}");
        }
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_kept_connection_that_is_of_no_use_any_more_is_made_anew() {
        let (address, questions) = service(vec![vec![GOOD], vec![GOOD]]);
        let plugin = plugin(&address, "");
        for _ in 0..2 {
            assert_eq!(ask(&plugin, &mut Exchange::get("/")), Outcome::Continue);
            questions.recv().unwrap();
        }
    }

    #[test]
    fn what_comes_on_a_kept_connection_unasked_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plugin = plugin(&listener.local_addr().unwrap().to_string(), "");
        let mut x = Exchange::get("/1");
        assert_eq!(x.request(&plugin), Outcome::Pause);
        let (mut first, _) = listener.accept().unwrap();
        read_question(&mut first).unwrap();
        first.write_all(GOOD.as_bytes()).unwrap();
        assert_eq!(x.resumed(&plugin), Outcome::Continue);
        first.write_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n").unwrap();
        drop(first);
        assert_eq!(x.request(&plugin), Outcome::Pause);
        let (mut second, _) = listener.accept().unwrap();
        read_question(&mut second).unwrap();
        second.write_all(GOOD.as_bytes()).unwrap();
        assert_eq!(x.resumed(&plugin), Outcome::Continue);
    }

    #[test]
    fn a_service_that_fails_gives_502_and_a_line_in_the_log() {
        let (address, _questions) =
            service(vec![vec!["HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "what?\r\n\r\n"]]);
        let services = plugin(&address, "");
        for (reason, failed) in [("answered 500", 1), ("invalid HTTP version", 2)] {
            let mut x = Exchange::get("/");
            assert_eq!(ask(&services, &mut x).status(), Some(502));
            let log = x.log();
            assert!(log.len() == 1 && log[0].1.contains(&address) && log[0].1.contains(reason), "{log:?}");
            assert_eq!(services.metric("failed_total"), Some(failed));
        }
        // Nobody listens there any more.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(&plugin(&gone.to_string(), ""), &mut Exchange::get("/")).status(), Some(502));
        // It listens, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let slow = plugin(&silent.local_addr().unwrap().to_string(), ", \"timeout_ms\": 20");
        let mut x = Exchange::get("/");
        assert_eq!(ask(&slow, &mut x).status(), Some(502));
        assert!(x.log()[0].1.contains("it took too long"), "{:?}", x.log());
    }

    #[test]
    fn more_than_can_wait_are_refused_at_once() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let plugin = plugin(&address, ", \"threads\": 1, \"waiting\": 1, \"timeout_ms\": 60000");
        let mut waiting = [Exchange::get("/1"), Exchange::get("/2")];
        for x in &mut waiting {
            assert_eq!(x.request(&plugin), Outcome::Pause);
        }
        let refused = Exchange::get("/3").request(&plugin);
        assert_eq!((refused.status(), refused.field("Retry-After")), (Some(503), Some("1")));
        assert_eq!(plugin.metric("busy_total"), Some(1));
        // The others get their answers.
        let (mut stream, _) = silent.accept().unwrap();
        for x in &mut waiting {
            read_question(&mut stream).unwrap();
            stream.write_all(GOOD.as_bytes()).unwrap();
            assert_eq!(x.resumed(&plugin), Outcome::Continue);
        }
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for (config, part) in [
            ("", "must be a mapping with url"),
            ("{\"url\": \"https://a/\"}", "must begin with http://"),
            ("{\"url\": \"http://a b/\"}", "http://HOST:PORT/PATH"),
            ("{\"url\": \"http:///\"}", "http://HOST:PORT/PATH"),
            ("{\"url\": \"http://a/\", \"copy\": [\"Host\"]}", "copy: \"Host\""),
            ("{\"url\": \"http://a/\", \"send\": [\"a b\"]}", "send: \"a b\""),
            ("{\"url\": \"http://a/\", \"threads\": 0}", "threads"),
            ("{\"url\": \"http://a/\", \"timeout\": 1}", "unknown field `timeout`"),
        ] {
            let error = Instance::<ForwardAuth>::new(config).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
