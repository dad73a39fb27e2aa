//! What the tests of plugins share: fixtures built on the spot, a log that remembers, an exchange made by hand.
#![allow(dead_code, missing_docs)] // Each test file uses its part.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mini_rproxy::config::{LogFormat, PluginConfig};
use mini_rproxy::http::fields::Fields;
use mini_rproxy::http::head::{Method, RequestHead, ResponseHead};
use mini_rproxy::log::Logger;
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::plugin::chain::Chain;
use mini_rproxy::plugin::instances::{Instance, Plugins};
use mini_rproxy::proxy::hooks::{ChainState, HookBody, HookContext, Hooks, Phase, Verdict};
use mini_rproxy::proxy::proxy_connection::{Peer, PeerDetails};
use mini_rproxy::proxy::request_log::RequestLog;
use mini_rproxy::start_error::StartError;
use mini_rproxy_plugin::Descriptor;
use mini_rproxy_plugin::host::Limits;

pub const LIMITS: Limits = Limits { head_bytes: 16 * 1024, field_lines: 256, body_bytes: 1024 };

/// The plugins of a list, as one chain.
pub fn load(list: &[PluginConfig], logger: Logger) -> Result<Chain, StartError> {
    let plugins = Plugins::none(logger.clone()).reload(list)?;
    Ok(Chain::of(&plugins, &list.iter().collect::<Vec<_>>(), LIMITS, logger))
}

/// Appends the plugin of a file.
pub fn push_file(chain: &mut Chain, path: &Path, config: &str, logger: Logger) {
    let listed = PluginConfig { config: config.to_owned(), ..PluginConfig::of_file(path.to_owned(), true) };
    let plugins = Plugins::none(logger).reload(std::slice::from_ref(&listed)).unwrap();
    chain.push(Arc::clone(plugins.get(&listed.name).unwrap()));
}

/// Appends a plugin that is linked in.
pub fn push_linked_in(chain: &mut Chain, descriptor: &'static Descriptor, config: &str, logger: &Logger) {
    chain.push(Arc::new(Instance::linked_in(descriptor, config, logger).unwrap()));
}

/// A log that remembers its lines.
pub struct Lines {
    logger: Logger,
    written: Written,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub fn new() -> Lines {
        let written = Written::default();
        let logger = Logger::start(LogFormat::Json, written.clone()).unwrap();
        logger.set_debug(true);
        Lines { logger, written }
    }

    pub fn logger(&self) -> Logger {
        self.logger.clone()
    }

    /// Whether a line of that plugin contains `part`.
    pub fn has(&self, plugin: &str, part: &str) -> bool {
        self.of(plugin).iter().any(|text| text.contains(part))
    }

    /// All texts of one plugin.
    pub fn of(&self, plugin: &str) -> Vec<String> {
        self.all().into_iter().filter(|(_, name, _)| name == plugin).map(|(_, _, text)| text).collect()
    }

    /// Level, plugin (or nothing) and text of all lines.
    pub fn all(&self) -> Vec<(String, String, String)> {
        assert!(self.logger.flush(Duration::from_secs(10)));
        let written = String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap();
        let read = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line.get(key).and_then(|text| text.as_str()).unwrap_or_default().to_owned();
            (text("level"), text("plugin"), text("msg"))
        };
        written.lines().map(read).collect()
    }
}

/// A folder for one test, empty, inside the build folder.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The C compiler, or `None` with a printed reason.
pub fn compiler(name: &str) -> Option<String> {
    let found = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: there is no compiler called {name}");
    }
    found.then(|| name.to_owned())
}

/// Runs `$CC`, else `cc`, with these arguments and the header's folder; its complaints fail the test.
pub fn cc(args: &[&str]) -> Option<()> {
    let cc = compiler(&std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))?;
    let output = Command::new(cc).arg("-I").arg(root().join("plugin-api/include")).args(args).output().unwrap();
    assert!(output.status.success(), "cc {args:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// Builds a C fixture of this folder as a shared object `to`; `flags` come after the usual ones.
pub fn build_c(source: &str, to: &Path, flags: &[&str]) -> Option<PathBuf> {
    let source = root().join("tests/plugins").join(source);
    // Built beside its place and renamed into it: another test may have the old one mapped.
    let new = to.with_extension(format!("new{}", std::process::id()));
    let mut args = vec!["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"];
    args.extend([new.to_str().unwrap(), source.to_str().unwrap()]);
    args.extend(flags);
    cc(&args)?;
    std::fs::rename(&new, to).unwrap();
    Some(to.to_path_buf())
}

/// Builds an example of a workspace member (a plugin as a shared object), as `make plugins` would.
pub fn build_rust(package: &str, example: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins-target");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--package", package, "--example", example, "--target-dir"])
        .arg(&target)
        .current_dir(root())
        // As a user builds it, also where the tests themselves are built with a sanitizer.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .unwrap();
    assert!(status.success(), "cargo build of {example}");
    target.join("debug/examples").join(format!("lib{example}.so"))
}

/// An exchange as the proxy would lend it.
pub struct Exchange {
    pub request: RequestHead,
    pub response: ResponseHead,
    pub request_body: Option<Vec<u8>>,
    pub response_body: Option<Vec<u8>>,
    pub peer: Peer,
    pub details: Option<PeerDetails>,
    pub log: RequestLog,
    pub now: MonoTime,
    pub state: ChainState,
}

impl Exchange {
    pub fn new() -> Exchange {
        let mut request =
            RequestHead { method: Method::Get, target: b"/users?id=1".to_vec(), ..RequestHead::default() };
        request.authority = b"upstream.example".to_vec();
        request.fields.add(b"Accept", b"*/*");
        let mut response = ResponseHead { status: 200, reason: b"OK".to_vec(), ..ResponseHead::default() };
        response.fields.add(b"Content-Type", b"text/plain");
        let log = RequestLog {
            client: Some("192.0.2.7:50000".parse().unwrap()),
            method: Some(Method::Get),
            ..RequestLog::default()
        };
        Exchange {
            request,
            response,
            request_body: None,
            response_body: None,
            peer: Peer::default(),
            details: None,
            log,
            now: MonoTime::FIRST,
            state: ChainState::default(),
        }
    }

    fn view(&mut self, with_response: bool) -> HookContext<'_> {
        HookContext {
            request: &mut self.request,
            response: with_response.then_some(&mut self.response),
            request_body: self.request_body.as_mut().map_or(HookBody::Coming, HookBody::Whole),
            response_body: self.response_body.as_mut().map_or(HookBody::None, HookBody::Whole),
            original_target: b"/fitness/users?id=1",
            client_host: b"proxy.example",
            peer: &self.peer,
            details: self.details.as_ref(),
            log: &self.log,
            now: self.now,
            route_prefix: "/fitness",
            upstream: "upstream.example",
            state: &mut self.state,
        }
    }

    pub fn on_request(&mut self, chain: &Chain) -> Verdict {
        chain.call(Phase::Request, &mut self.view(false))
    }

    pub fn on_response(&mut self, chain: &Chain) -> Verdict {
        chain.call(Phase::Response, &mut self.view(true))
    }

    pub fn on_done(&mut self, chain: &Chain) {
        chain.call(Phase::Done, &mut self.view(true));
    }

    pub fn request_field(&self, name: &str) -> Option<String> {
        field(&self.request.fields, name)
    }

    pub fn response_field(&self, name: &str) -> Option<String> {
        field(&self.response.fields, name)
    }
}

/// A verdict in one word: `continue`, `respond 403`, `fail`.
pub fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => "continue".to_owned(),
        Verdict::Respond(answer) => format!("respond {}", answer.status),
        Verdict::Fail => "fail".to_owned(),
        Verdict::AwaitBody => "await body".to_owned(),
        Verdict::TooLarge => "too large".to_owned(),
        Verdict::Pause(_) => "pause".to_owned(),
    }
}

fn field(fields: &Fields, name: &str) -> Option<String> {
    let line = fields.iter().find(|line| line.name.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(String::from_utf8_lossy(line.value).into_owned())
}
