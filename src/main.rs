//! The program: flags, configuration, start report, signals, exit code. What it does in between is in the library.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | stopped by SIGTERM or SIGINT, after what was in flight had finished or `timeouts.drain` was over |
//! | 1 | it could not start, or a part of it broke, or a check has failed; one line on stderr says why |
//! | 2 | the command line is wrong |
//! | 3 | `-check -against`: the configuration is good, and a reload would change something |
//! | 128 + n | a second signal (number n) came while it was finishing: what was in flight is cut |

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mini_rproxy::about;
use mini_rproxy::cli::{self, Command, Options, Source};
use mini_rproxy::config::{Config, Difference, Kind, ListenAddr, Outline, Scheme, place_of};
use mini_rproxy::extras::explain::{Typed, explain};
use mini_rproxy::log::{self, Level, Logger};
use mini_rproxy::net::activation::{self, Inherited, Notifier};
use mini_rproxy::net::clock::Clock;
use mini_rproxy::net::listen::{Speaks, UsePort};
use mini_rproxy::net::observer::{LogSwitches, LogWriter};
use mini_rproxy::net::probe::{self, probe};
use mini_rproxy::net::resolve::SystemResolver;
use mini_rproxy::net::server::{Parts, Reloaded, Server, StartError};
use mini_rproxy::net::signal::{self, Event, Events};
use mini_rproxy::net::tls::{Tls, TlsError};
use mini_rproxy::plugin::chain::{self, PluginError};
use mini_rproxy::proxy::hooks::Hooks;
use mini_rproxy::proxy::proxy_connection::{ListenerKind, Peer};
use mini_rproxy::proxy::runtime::Runtime;

/// Wrong flags, by convention.
const USAGE: u8 = 2;

/// `-check -against`: there are differences.
const DIFFERENT: u8 = 3;

/// A reload tells so many differences one by one; of more of them only the number.
const MOST_DIFFERENCES: usize = 50;

/// At the very end the log gets so long to reach a reader that may not be reading.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// When `timeouts.drain` is over, workers end by themselves; so long they are waited for.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            complain(error);
            return ExitCode::from(USAGE);
        }
    };
    let result: Result<ExitCode, Failure> = match command {
        Command::Help => say(cli::HELP).map_err(Failure::from),
        Command::Version => say(&format!("mini-rproxy {}\n", about::VERSION)).map_err(Failure::from),
        Command::PrintConfig(options) => load(&options).and_then(|config| Ok(say(&config.to_yaml())?)),
        Command::Check(options) => load(&options).and_then(|config| check(&config, &options)),
        Command::Healthcheck(options) => load(&or_of_process_1(options)).and_then(|config| Ok(healthcheck(&config)?)),
        Command::Explain(options) => load(&options).and_then(|config| Ok(foretell(config, &options)?)),
        Command::Run(options) => load(&options).and_then(|config| run(config, &options)),
    };
    result.unwrap_or_else(|failure| {
        complain(failure.message);
        ExitCode::from(failure.code)
    })
}

/// Why it ends.
struct Failure {
    message: String,
    code: u8,
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure { message, code: 1 }
    }
}

impl Failure {
    /// The value of a flag is wrong.
    fn usage(message: String) -> Failure {
        Failure { message, code: USAGE }
    }
}

/// One line on stderr. If nobody can read it, there is nobody to tell.
fn complain(error: impl Display) {
    let _ = writeln!(io::stderr(), "mini-rproxy: {error}");
}

/// Prints what was asked for. A reader that has gone away (`| head -1`) is no error; a full disk is one.
fn say(text: &str) -> Result<ExitCode, String> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot write to standard output: {error}")),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

/// The configuration as the file and the flags have it.
fn load(options: &Options) -> Result<Config, Failure> {
    let mut config = match &options.source {
        Source::File(path) => Config::load(path).map_err(|error| error.to_string())?,
        Source::Flags { listen, routes } => Config::from_flags(listen, routes).map_err(Failure::usage)?,
    };
    config.log.access |= options.verbose;
    if let Some(size) = &options.memory_budget {
        config.set_memory_budget(size).map_err(|error| Failure::usage(format!("-memory-budget: {error}")))?;
    }
    Ok(config)
}

/// `message` about a file that the configuration names, with the place where it does.
fn at_its_place(options: &Options, path: Option<&Path>, message: String) -> String {
    let Source::File(config) = &options.source else { return message };
    match path.and_then(|path| place_of(config, path)) {
        Some((line, column)) => format!("{}:{line}:{column}: {message}", config.display()),
        None => message,
    }
}

fn tls_message(options: &Options, error: &TlsError) -> String {
    at_its_place(options, error.path(), error.to_string())
}

fn plugin_message(options: &Options, error: &PluginError) -> String {
    at_its_place(options, Some(Path::new(&error.source)), error.to_string())
}

fn start_message(options: &Options, error: &StartError) -> String {
    match error {
        StartError::Tls(error) => tls_message(options, error),
        StartError::Listen(_) | StartError::Activation(_) | StartError::System(_) => error.to_string(),
    }
}

/// The configuration is good; are the files that it names? And what would a running proxy make of it?
fn check(config: &Config, options: &Options) -> Result<ExitCode, Failure> {
    let tls = Tls::prepare(config).map_err(|error| tls_message(options, &error))?;
    // It would start with them: a reload may come in time, and some clients do not care.
    tls.warnings().iter().for_each(|warning| complain(format_args!("warning: {warning}")));
    chain::check(&config.plugins, options.plugin_dir.as_deref()).map_err(|error| plugin_message(options, &error))?;
    let Some(running) = &options.against else { return Ok(say("the configuration is good\n")?) };
    let differences = probe::outline(running, config)?.differences(&Outline::of(config));
    if differences.is_empty() {
        return Ok(say("the configuration is good, and a reload would change nothing\n")?);
    }
    let lines: String = differences.iter().map(|difference| format!("{difference}\n")).collect();
    say(&lines)?;
    Ok(ExitCode::from(DIFFERENT))
}

/// In a container the proxy is process 1, and how it was started is not known to who wrote the health check.
fn or_of_process_1(options: Options) -> Options {
    if options.source != Options::default().source {
        return options;
    }
    fs::read("/proc/1/cmdline").ok().and_then(|line| cli::options_of(&line)).unwrap_or(options)
}

/// Whether the proxy that runs with this configuration answers.
fn healthcheck(config: &Config) -> Result<ExitCode, String> {
    probe(config).map(|()| ExitCode::SUCCESS)
}

/// What would happen to a request of somebody on this host.
fn foretell(config: Config, options: &Options) -> Result<ExitCode, String> {
    let plugins = chain::names(&config.plugins, options.plugin_dir.as_deref()).map_err(|error| error.to_string())?;
    let host = config.listen.iter().find_map(|address| match address {
        ListenAddr::Tcp { addr, .. } if addr.port() != 80 => Some(format!("localhost:{}", addr.port())),
        ListenAddr::Tcp { .. } | ListenAddr::Unix { .. } => None,
    });
    let host = host.as_deref().unwrap_or("localhost");
    let typed = Typed { request: &options.request, fields: &options.fields, host };
    let peer = Peer {
        address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        secure: false,
        entrance: ListenerKind::Public,
    };
    let site = Rc::new(Runtime::new(Arc::new(config), None));
    let explanation = explain(Clock::new().now(), &site, &peer, &typed, &plugins);
    say(&explanation.text)?;
    Ok(if explanation.is_served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Serves until told to stop. Whatever the way out, the log is written before (rule E6).
fn run(config: Config, options: &Options) -> Result<ExitCode, Failure> {
    // Before anything is opened: their numbers are all that is known of them.
    let inherited = activation::take_sockets().map_err(|error| error.to_string())?;
    let logger = Logger::to_stdout(config.log.format).map_err(|error| format!("cannot start the log: {error}"))?;
    let last_log = logger.clone();
    let on_second_stop = move |signal| {
        last_log.line(Level::Warn, "stopping now: a second signal").send();
        last_log.flush(LAST_WORDS);
        // Signal numbers are below 128.
        signal::exit_now(128 + signal as u8)
    };
    // Before anything else happens: process number 1 in a container has no default handlers.
    let events = Events::install(on_second_stop).map_err(|error| format!("cannot handle signals: {error}"))?;
    let _flush = FlushOnDrop(logger.clone());
    log::log_panics(logger.clone());
    logger.set_debug(options.trace);
    Ok(run_logged(config, options, inherited, &events, &logger)?)
}

/// When it is dropped, whyever, everything that was logged is written.
struct FlushOnDrop(Logger);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.flush(LAST_WORDS);
    }
}

fn run_logged(
    config: Config,
    options: &Options,
    inherited: Vec<Inherited>,
    events: &Events,
    logger: &Logger,
) -> Result<ExitCode, String> {
    let notifier = Notifier::from_env();
    // Plugins are created before the loops start and destroyed after they have ended: this is the last of the chain.
    let chain = chain::load(&config.plugins, options.plugin_dir.as_deref(), chain::limits(&config), logger.clone())
        .map_err(|error| plugin_message(options, &error))?;
    for socket in &inherited {
        logger
            .line(Level::Info, "a socket was handed over; it is used instead of the addresses in the configuration")
            .text("name", &socket.name)
            .send();
    }
    let config = Arc::new(config);
    let talk = Arc::new(LogSwitches { access: config.log.access.into(), timelines: options.trace.into() });
    let (ended, worker_talk, worker_log) = (events.sender(), Arc::clone(&talk), logger.clone());
    let server = Server::start(Parts {
        config: Arc::clone(&config),
        inherited,
        port: if options.takeover { UsePort::WithOthers } else { UsePort::Alone },
        hooks: chain.clone().map(|chain| chain as Arc<dyn Hooks>),
        names: Box::new(SystemResolver),
        journals: Arc::new(move || Box::new(LogWriter::new(worker_log.clone(), Arc::clone(&worker_talk)))),
        on_end: Arc::new(move || {
            // It fails when the main thread has ended, and the process with it.
            let _ = ended.send(Event::WorkersEnded);
        }),
    })
    .map_err(|error| start_message(options, &error))?;
    report(logger, &config, &server);
    notifier.ready();
    // The chain is dropped last, when this function ends.
    serve(logger, &notifier, events, server, &talk, &|server| reload(logger, options, server, &talk))
}

/// Waits for signals, and for the end of the workers.
fn serve(
    logger: &Logger,
    notifier: &Notifier,
    events: &Events,
    mut server: Server,
    talk: &LogSwitches,
    reload: &dyn Fn(&mut Server),
) -> Result<ExitCode, String> {
    let mut end_by = None;
    loop {
        let timeout = end_by.map(|end: Instant| end.saturating_duration_since(Instant::now()));
        match events.wait(timeout) {
            Event::Reload if end_by.is_some() => logger.line(Level::Warn, "no reload: the proxy is stopping").send(),
            Event::Reload => {
                notifier.reloading();
                reload(&mut server);
                notifier.ready();
            }
            Event::Trace => {
                let was_on = talk.timelines.fetch_xor(true, Ordering::Relaxed);
                logger.set_debug(!was_on);
                let message = if was_on { "no more timelines" } else { "timelines of requests from now on" };
                logger.line(Level::Info, message).send();
            }
            Event::Stop => {
                logger.line(Level::Info, "stopping: finishing what is in flight").send();
                notifier.stopping();
                end_by = Instant::now().checked_add(server.config().timeouts.drain + DRAIN_GRACE);
                server.drain();
            }
            // A worker that is inside a plugin's code does not see that its time is over.
            Event::TimedOut => {
                let message = "stopping now: a worker is held up, probably by a plugin, and does not end";
                logger.line(Level::Error, message).send();
                complain(message);
                logger.flush(LAST_WORDS);
                signal::exit_now(1);
            }
            Event::WorkersEnded => break,
        }
    }
    server.join().map_err(|_| "a worker has failed; the log says why".to_owned())?;
    logger.line(Level::Info, "stopped").send();
    Ok(ExitCode::SUCCESS)
}

/// SIGHUP: reads configuration and certificates again.
fn reload(logger: &Logger, options: &Options, server: &mut Server, talk: &LogSwitches) {
    match try_reload(logger, options, server) {
        Ok(reloaded) => {
            talk.access.store(server.config().log.access, Ordering::Relaxed);
            let message = match reloaded {
                Reloaded::Everywhere => "configuration reloaded",
                Reloaded::Soon => {
                    "configuration reloaded, but for a worker that is busy and takes it in when it is not"
                }
            };
            logger
                .line(Level::Info, message)
                .number("routes", server.config().routes.len() as u64)
                .number("certificates", server.certificates() as u64)
                .send();
            warn_of_certificates(logger, server);
        }
        Err(error) => logger
            .line(
                Level::Warn,
                "configuration and certificates are kept as they were, because the new ones cannot be used",
            )
            .text("reason", &error)
            .send(),
    }
}

fn try_reload(logger: &Logger, options: &Options, server: &mut Server) -> Result<Reloaded, String> {
    let mut config = load(options).map_err(|failure| failure.message)?;
    let old = Arc::clone(server.config());
    if config.plugins != old.plugins {
        return Err("the list of plugins has changed, and plugins are created before the first request and destroyed \
                    after the last one: this needs a restart"
            .to_owned());
    }
    let differences = old.differences(&config);
    config.keep_what_is_fixed(&old);
    let listening: Vec<String> = server.addresses().iter().map(|(address, _)| (*address).to_owned()).collect();
    let reloaded = server.reload(Arc::new(config)).map_err(|error| start_message(options, &error))?;
    for difference in differences.iter().take(MOST_DIFFERENCES) {
        tell(logger, difference);
    }
    if let Some(more) = differences.len().checked_sub(MOST_DIFFERENCES).filter(|more| *more > 0) {
        logger.line(Level::Info, "reload: more of that").number("differences", more as u64).send();
    }
    report_listening(logger, server, &listening);
    Ok(reloaded)
}

fn tell(logger: &Logger, difference: &Difference) {
    let message = match (difference.needs_restart, difference.kind) {
        (true, _) => "reload: kept as it was, since this needs a restart",
        (false, Kind::Added) => "reload: added",
        (false, Kind::Changed) => "reload: changed",
        (false, Kind::Removed) => "reload: removed",
    };
    let level = if difference.needs_restart { Level::Warn } else { Level::Info };
    logger.line(level, message).text("what", &difference.what).send();
}

/// What an operator wants to see once: what runs here, where it listens, and which limits were made of what.
fn report(logger: &Logger, config: &Config, server: &Server) {
    logger
        .line(Level::Info, "mini-rproxy")
        .text("version", about::VERSION)
        .number("pid", std::process::id().into())
        .number("workers", config.workers as u64)
        .number("routes", config.routes.len() as u64)
        .text("features", &about::features())
        .send();
    let mut limits = logger.line(Level::Info, "limits");
    match server.descriptor_limit() {
        Some(limit) => limits.number("descriptors", limit as u64),
        None => limits.text("descriptors", "unlimited"),
    };
    match config.limits.memory_budget {
        Some(budget) => limits.number("memory_budget", budget as u64),
        None => limits.text("memory_budget", "unlimited"),
    };
    limits.number("connections", server.max_connections() as u64).send();
    if server.descriptor_limit().is_some_and(|limit| limit < 2 * server.max_connections() + 64) {
        logger
            .line(Level::Warn, "the descriptor limit is low: a client may need two, and 64 more are needed beside")
            .send();
    }
    for roots in server.trusted() {
        logger.line(Level::Info, "https upstreams are verified").text("by", roots).send();
    }
    warn_of_certificates(logger, server);
    for route in &config.routes {
        let is_unsafe = route.options.upstream_tls.insecure_skip_verify;
        for upstream in route.upstreams().filter(|upstream| is_unsafe && upstream.scheme == Scheme::Https) {
            logger
                .line(
                    Level::Warn,
                    "insecure_skip_verify: anybody between here and the upstream can read and change all",
                )
                .text("prefix", &route.prefix)
                .text("upstream", &upstream.authority)
                .send();
        }
    }
    report_listening(logger, server, &[]);
}

fn warn_of_certificates(logger: &Logger, server: &Server) {
    for warning in server.certificate_warnings() {
        logger.line(Level::Warn, &warning).send();
    }
}

/// Where it listens, but for what is `known`.
fn report_listening(logger: &Logger, server: &Server, known: &[String]) {
    for (address, speaks) in server.addresses() {
        let protocol = match speaks {
            Speaks::Plain => "http",
            Speaks::Tls => "https",
            Speaks::Admin => "admin",
        };
        if !known.iter().any(|known| known == address) {
            logger.line(Level::Info, "listening").text("address", address).text("protocol", protocol).send();
        }
    }
}
