//! The program: flags, configuration, start report, signals, exit code. What it does in between is in the library.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | stopped by SIGTERM or SIGINT, after what was in flight had finished or `timeouts.drain` was over |
//! | 1 | it could not start, or a part of it broke, or a check has failed; one line on stderr says why |
//! | 2 | the command line is wrong |
//! | 3 | `-check -against`: the configuration is good, and a reload would change something |
//! | 128 + n | a second signal (number n) came while it was finishing: what was in flight is aborted |

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mini_rproxy::about;
use mini_rproxy::cli::{self, Action, Flags};
use mini_rproxy::config::{Config, ConfigzAccess, FullConfig, ListenAddr, STDIN, Scheme, place_of, print_size};
use mini_rproxy::extras::explain::{ExplainRequest, explain};
use mini_rproxy::log::{self, Level, Logger};
use mini_rproxy::net::activation;
use mini_rproxy::net::clock::Clock;
use mini_rproxy::net::dns::SystemLookup;
use mini_rproxy::net::error_pages;
use mini_rproxy::net::listeners::ListenerProtocol;
use mini_rproxy::net::probe::{probe, running_config};
use mini_rproxy::net::server::{Server, ServerOptions};
use mini_rproxy::net::signal::{self, SignalEvent};
use mini_rproxy::net::tls::Tls;
use mini_rproxy::plugin::chain;
use mini_rproxy::plugin::instances::{self, Plugins};
use mini_rproxy::proxy::proxy_connection::Peer;
use mini_rproxy::proxy::runtime::Runtime;
use mini_rproxy::start_error::StartError;

/// A reload logs so many differences, and of the others only how many they are: the log could not hold them all.
const MAX_DIFFERENCES: usize = 50;

/// How long the end waits for the log to be written: its reader may not be reading.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the end waits for workers after `timeouts.drain`, when they end by themselves.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1).map(OsString::into_string).collect::<Result<Vec<_>, _>>();
    args.map_err(|arg| format!("the argument {arg:?} is not UTF-8: give the file another name"))
        .and_then(cli::parse)
        .map_err(usage)
        .and_then(|(action, flags)| execute(action, flags))
        .unwrap_or_else(|ExitError(code, message)| {
            print_error(message);
            ExitCode::from(code)
        })
}

fn execute(action: Action, flags: Flags) -> Result<ExitCode, ExitError> {
    match action {
        Action::Help => print(&cli::help()),
        Action::Version => print(&format!("mini-rproxy {} features={}\n", about::VERSION, about::features())),
        Action::PrintConfig => print(&load(&flags)?.to_yaml()),
        Action::Check => check(&load(&flags)?, &flags),
        Action::Healthcheck => {
            probe(&load(&flags_of_process_1(flags))?)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Explain => explain_request(load(&flags)?, &flags),
        Action::Run => run(load(&flags)?, &flags),
    }
}

/// The exit code, and the message for stderr.
struct ExitError(u8, String);

impl From<String> for ExitError {
    fn from(message: String) -> ExitError {
        ExitError(1, message)
    }
}

/// A flag or its value is wrong.
fn usage(message: String) -> ExitError {
    ExitError(2, message)
}

/// One line on stderr. That it cannot be written could be reported nowhere.
fn print_error(error: impl Display) {
    let _ = writeln!(io::stderr(), "mini-rproxy: {error}");
}

/// Writes to stdout. A reader that has gone away (`| head -1`) is no error; a full disk is one.
fn print(text: &str) -> Result<ExitCode, ExitError> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}").into())
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

/// The configuration as the file and the flags have it.
fn load(flags: &Flags) -> Result<Config, ExitError> {
    let folder = flags.plugin_dir.as_deref().map(instances::files).transpose()?.unwrap_or_default();
    let mut config = match flags.config_path() {
        Some(path) => Config::load(path, &folder)?,
        None => Config::from_flags(&flags.listen, &flags.routes, &folder).map_err(usage)?,
    };
    config.log.access |= flags.verbose;
    if let Some(size) = &flags.memory_budget {
        config.set_memory_budget(size).map_err(|error| usage(format!("-memory-budget: {error}")))?;
    }
    Ok(config)
}

/// An error, with the place in the configuration that names what is at fault.
fn located(flags: &Flags, error: &StartError) -> String {
    let path = error.path.as_deref();
    let place = flags.config_path().and_then(|config| Some((config, place_of(config, path?)?)));
    match place {
        Some((config, (line, column))) => format!("{}:{line}:{column}: {error}", config.display()),
        None => error.to_string(),
    }
}

/// `-check`: the files that the configuration names, and with `-against` what a reload would change.
fn check(config: &Config, flags: &Flags) -> Result<ExitCode, ExitError> {
    let tls = Tls::load(config).map_err(|error| located(flags, &error))?;
    for warning in config.warnings() {
        print_error(format_args!("warning: {warning}"));
    }
    error_pages::load(config).map_err(|error| located(flags, &error))?;
    // The proxy starts with certificates that are out of their time: a reload may come soon, and some clients accept them.
    if !tls.report.warnings.is_empty() {
        return Err(Vec::from_iter(tls.report.warnings).join("; ").into());
    }
    instances::check(&config.plugins).map_err(|error| located(flags, &error))?;
    let Some(running) = &flags.against else { return print("the configuration is good\n") };
    let differences = running_config(running, config)?.differences(&FullConfig::of(config));
    if differences.is_empty() {
        return print("the configuration is good, and a reload would change nothing that can be compared\n");
    }
    print(&differences.iter().map(|difference| format!("{difference}\n")).collect::<String>())?;
    Ok(ExitCode::from(3))
}

/// A health check in a container does not know how the proxy was started, but the proxy is process 1 there.
fn flags_of_process_1(flags: Flags) -> Flags {
    if flags.config.is_some() || !flags.routes.is_empty() {
        return flags;
    }
    fs::read("/proc/1/cmdline").ok().and_then(|line| cli::flags_of(&line)).unwrap_or(flags)
}

/// `-explain`: what would happen to a request that is sent on this host.
fn explain_request(config: Config, flags: &Flags) -> Result<ExitCode, ExitError> {
    let host = config.listen_addr.iter().find_map(|address| match address {
        ListenAddr::Tcp { addr, .. } if addr.port() != 80 => Some(format!("localhost:{}", addr.port())),
        _ => None,
    });
    let host = host.as_deref().unwrap_or("localhost");
    let typed = ExplainRequest { request: &flags.request, fields: &flags.fields, host };
    let address = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let peer = Peer { address, is_tls: false, listener: ListenerProtocol::Plain };
    let mut runtime = Runtime::new(Arc::new(config), None);
    runtime.error_pages = error_pages::load(&runtime.config).map_err(|error| located(flags, &error))?;
    let (text, is_served) = explain(Clock::default().now(), &Rc::new(runtime), &peer, &typed);
    print(&text)?;
    Ok(if is_served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Serves until told to stop. However it ends, the log is written before (rule E6).
fn run(config: Config, flags: &Flags) -> Result<ExitCode, ExitError> {
    // Inherited sockets are known by their numbers alone, so they are taken before anything else is opened.
    let inherited = activation::take_sockets()?;
    let logger = Logger::to_stdout(config.log.format.unwrap_or_default())
        .map_err(|error| format!("cannot start the log: {error}"))?;
    let last_log = logger.clone();
    let on_second_stop = move |signal| {
        last_log.line(Level::Warn, "stopping now: a second signal").send();
        last_log.flush(LOG_FLUSH_TIMEOUT);
        signal::exit_now(128 + signal)
    };
    let (ended, events) = channel();
    // Early, because process 1 of a container has no default handlers.
    signal::listen(ended.clone(), on_second_stop).map_err(|error| format!("cannot handle signals: {error}"))?;
    let _flush = FlushOnDrop(logger.clone());
    log::log_panics(logger.clone());
    logger.set_debug(flags.trace);
    logger.set_access(config.log.access);
    // Plugins are created before the loops start, and the last ones are destroyed after they have ended.
    let plugins = Plugins::none(logger.clone()).reload(&config.plugins).map_err(|error| located(flags, &error))?;
    let hooks = chain::of_routes(&plugins, &config, &logger);
    for socket in &inherited {
        let message = "a socket was handed over; it is used instead of the addresses in the configuration";
        logger.line(Level::Info, message).text("name", &socket.name).send();
    }
    let has_tls_addr = config.tls.as_ref().is_some_and(|tls| !tls.listen_addr.is_empty());
    let has = |is_it: fn(&str) -> bool| inherited.iter().any(|socket| is_it(&socket.name));
    if has_tls_addr && has(|name| name != "admin") && !has(|name| name == "https") {
        logger.line(Level::Warn, "tls.listen_addr is not opened: no socket named https was handed over").send();
    }
    let worker_log = logger.clone();
    let server = Server::start(ServerOptions {
        config: Arc::new(config),
        inherited,
        takeover: flags.takeover,
        hooks,
        lookup: Box::new(SystemLookup),
        new_log: Arc::new(move || Box::new(worker_log.clone())),
        on_end: Box::new(move || {
            // It fails when the main thread has ended, and the process with it.
            let _ = ended.send(SignalEvent::WorkersEnded);
        }),
    })
    .map_err(|error| located(flags, &error))?;
    let running = Running { logger, flags, server, plugins };
    running.log_start();
    activation::notify("READY=1");
    Ok(running.serve(&events)?)
}

/// Writes everything that was logged when it is dropped, whatever the reason.
struct FlushOnDrop(Logger);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.flush(LOG_FLUSH_TIMEOUT);
    }
}

/// The proxy at work.
struct Running<'a> {
    logger: Logger,
    flags: &'a Flags,
    server: Server,
    /// Destroyed behind the last worker.
    plugins: Plugins,
}

impl Running<'_> {
    /// Waits for signals, and for the end of the workers.
    fn serve(mut self, events: &Receiver<SignalEvent>) -> Result<ExitCode, String> {
        let mut end_by = None;
        loop {
            let timeout = end_by.map_or(Duration::MAX, |end: Instant| end.saturating_duration_since(Instant::now()));
            match events.recv_timeout(timeout) {
                Ok(SignalEvent::Reload) if end_by.is_some() => {
                    self.logger.line(Level::Warn, "no reload: the proxy is stopping").send();
                }
                Ok(SignalEvent::Reload) => {
                    activation::notify_reload();
                    self.reload(load);
                    activation::notify("READY=1");
                }
                Ok(SignalEvent::Trace) => {
                    let was_on = self.logger.is_enabled(Level::Debug);
                    self.logger.set_debug(!was_on);
                    let message = if was_on { "no more timelines" } else { "timelines of requests from now on" };
                    self.logger.line(Level::Info, message).send();
                }
                Ok(SignalEvent::Stop) => {
                    self.logger.line(Level::Info, "stopping: finishing what is in flight").send();
                    activation::notify("STOPPING=1");
                    end_by = Instant::now().checked_add(self.server.config().timeouts.drain + DRAIN_GRACE);
                    self.server.drain();
                }
                // A worker that is inside a plugin's code does not see that its time is over.
                Err(_) => {
                    let message = "stopping now: a worker is held up, probably by a plugin, and does not end";
                    self.logger.line(Level::Error, message).send();
                    print_error(message);
                    self.logger.flush(LOG_FLUSH_TIMEOUT);
                    signal::exit_now(1);
                }
                Ok(SignalEvent::WorkersEnded) => break,
            }
        }
        self.server.join()?;
        self.logger.line(Level::Info, "stopped").send();
        Ok(ExitCode::SUCCESS)
    }

    /// Serves by what `read` brings. Where that fails, the old configuration goes on; also where something panics: what the
    /// workers get is made before anything is changed.
    fn reload(&mut self, read: fn(&Flags) -> Result<Config, ExitError>) {
        let result = catch_unwind(AssertUnwindSafe(|| self.try_reload(read)));
        let panicked = |_| Err("the reload has panicked, and the line before this one says where".to_owned());
        match result.unwrap_or_else(panicked) {
            Ok(is_everywhere) => {
                self.logger.set_access(self.server.config().log.access);
                let message = match is_everywhere {
                    true => "configuration reloaded",
                    false => "configuration reloaded, but for a worker that is busy and takes it in when it is not",
                };
                let (routes, certificates) = (self.server.config().routes.len(), self.server.tls.report.certificates);
                let mut line = self.logger.line(Level::Info, message);
                line.value("routes", routes).value("certificates", certificates).send();
            }
            Err(error) => {
                let message = "configuration, certificates and plugins are kept as they were, because the new ones cannot \
                               be used";
                self.logger.line(Level::Warn, message).text("reason", error).send();
            }
        }
    }

    fn try_reload(&mut self, read: fn(&Flags) -> Result<Config, ExitError>) -> Result<bool, String> {
        if self.flags.config_path() == Some(Path::new(STDIN)) {
            return Err("standard input cannot be read again: name a file with -config PATH".to_owned());
        }
        let mut config = read(self.flags).map_err(|ExitError(_, message)| message)?;
        let old = Arc::clone(self.server.config());
        let differences = old.differences(&config);
        config.keep_restart_only(&old);
        let known: Vec<_> = self.server.addresses().iter().map(|(address, _)| (*address).to_owned()).collect();
        let plugins = self.plugins.reload(&config.plugins).map_err(|error| located(self.flags, &error))?;
        let hooks = chain::of_routes(&plugins, &config, &self.logger);
        let is_everywhere = self.server.reload(Arc::new(config), hooks).map_err(|error| located(self.flags, &error))?;
        for difference in differences.iter().take(MAX_DIFFERENCES) {
            let (level, message) = match difference.needs_restart {
                true => (Level::Warn, "kept as it was, since this needs a restart"),
                false => (Level::Info, difference.kind),
            };
            self.logger.line(level, format_args!("reload: {message}")).text("what", &difference.what).send();
        }
        if differences.len() > MAX_DIFFERENCES {
            let more = differences.len() - MAX_DIFFERENCES;
            self.logger.line(Level::Info, "reload: more of that").value("differences", more).send();
        }
        plugins.log_changes(&self.plugins);
        self.plugins = plugins;
        self.log_listening(&known);
        Ok(is_everywhere)
    }

    /// The start report: version and features, limits, certificates, and where it listens.
    fn log_start(&self) {
        let Running { logger, server, .. } = self;
        let config = server.config();
        let mut start = logger.line(Level::Info, "mini-rproxy");
        start.text("version", about::VERSION).value("pid", std::process::id()).value("workers", config.workers);
        start.value("routes", config.routes.len()).text("features", about::features()).send();
        let mut limits = logger.line(Level::Info, "limits");
        match server.descriptor_limit {
            Some(limit) => limits.value("descriptors", limit),
            None => limits.text("descriptors", "unlimited"),
        };
        let budget = config.limits.memory_budget.map(|size| print_size(size as u64));
        limits.text("memory_budget", budget.as_deref().unwrap_or("unlimited"));
        limits.value("connections", server.max_connections).text("connections_by", server.max_connections_by).send();
        if server.descriptor_limit.is_some_and(|limit| limit < 2 * server.max_connections + 64) {
            let message = "the descriptor limit is low: a client may need two, and 64 more are needed beside";
            logger.line(Level::Warn, message).send();
        }
        for roots in &server.tls.report.trusted {
            logger.line(Level::Info, "https upstreams are verified").text("by", roots).send();
        }
        for route in config.routes.iter().filter(|route| route.options.upstream_tls.is_insecure()) {
            for upstream in route.upstreams().iter().filter(|upstream| upstream.scheme == Scheme::Https) {
                let message = "insecure_skip_verify: anybody between here and the upstream can read and change all";
                let mut line = logger.line(Level::Warn, message);
                line.text("prefix", &route.prefix).text("upstream", &upstream.authority).send();
            }
        }
        let is_public = |address: &ListenAddr| matches!(address, ListenAddr::Tcp { addr, .. } if !addr.ip().to_canonical().is_loopback());
        let tls = config.tls.iter().flat_map(|tls| &tls.listen_addr);
        if config.admin.configz == ConfigzAccess::Everybody && config.listen_addr.iter().chain(tls).any(is_public) {
            let message =
                "everybody who reaches the proxy can see its routes at /configz: admin.configz: local or false";
            logger.line(Level::Warn, message).send();
        }
        self.log_listening(&[]);
    }

    /// The addresses that it listens on, without those that are `known`, and what is wrong with its certificates.
    fn log_listening(&self, known: &[String]) {
        for warning in self.server.tls.report.warnings.iter().chain(&self.server.config().warnings()) {
            self.logger.line(Level::Warn, warning).send();
        }
        for (address, protocol) in self.server.addresses() {
            let protocol = ["http", "https", "admin"][protocol as usize];
            if !known.iter().any(|known| known == address) {
                self.logger.line(Level::Info, "listening").text("address", address).text("protocol", protocol).send();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy::config::LogFormat;
    use std::io::Read;

    #[test]
    fn a_reload_that_panics_is_refused_and_the_old_configuration_goes_on() {
        let (mut written, sink) = io::pipe().expect("a pipe");
        let logger = Logger::start(LogFormat::Text, sink).expect("a thread");
        fn config(prefix: &str) -> Config {
            let text =
                format!("listen_addr: 127.0.0.1:0\nroutes: [{{prefix: {prefix}, upstream: 'http://127.0.0.1:9'}}]");
            Config::parse(&text, "test").expect("valid")
        }
        let worker_log = logger.clone();
        let server = Server::start(ServerOptions {
            config: Arc::new(config("/old")),
            inherited: Vec::new(),
            takeover: false,
            hooks: None.into(),
            lookup: Box::new(SystemLookup),
            new_log: Arc::new(move || Box::new(worker_log.clone())),
            on_end: Box::new(|| {}),
        })
        .expect("loopback");
        let flags = Flags::default();
        let plugins = Plugins::none(logger.clone());
        let mut running = Running { logger: logger.clone(), flags: &flags, server, plugins };
        running.reload(|_| panic!("a library"));
        assert!(logger.flush(LOG_FLUSH_TIMEOUT));
        let mut buf = [0; 4096];
        let len = written.read(&mut buf).expect("lines");
        let text = String::from_utf8_lossy(&buf[..len]);
        assert!(text.contains("are kept as they were") && text.contains("panicked"), "{text}");
        std::net::TcpStream::connect(running.server.addresses()[0].0).expect("it listens as before");
        assert_eq!(running.server.config().routes[0].prefix, "/old");
        running.reload(|_| Ok(config("/new")));
        assert_eq!(running.server.config().routes[0].prefix, "/new");
        running.server.stop();
        running.server.join().expect("no worker failed");
    }
}
