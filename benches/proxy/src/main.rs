//! What a request costs mini-rproxy, nginx, HAProxy, Envoy and a bare relay: processor time of the proxy's process, measured in
//! one run, interleaved, each proxy with one worker on a core of its own. `make bench` runs it.
//!
//! | file | one job |
//! |---|---|
//! | `cores`, `child`, `account` | pinning, child processes, what the kernel says they used |
//! | `wire`, `certificate`, `link` | requests and the check of responses; TLS |
//! | `relay`, `origin`, `load` | the bare relay, the origin behind, the load generator |
//! | `slow`, `steady` | clients that read slowly, clients that nothing stops |
//! | `peer`, `setup` | where each proxy is and how it is started; its configuration |
//! | `row`, `bench` | figures and targets, the interleaved measurement |
//! | `counted`, `beside`, `scaling` | instructions and system calls, slow readers, two workers |
//! | `connections`, `latency`, `routes`, `plugins`, `reload`, `overload` | more of what is measured |
//! | `scenario` | all scenarios |
//! | `chart`, `report` | a picture; tables and JSON |
#![deny(unsafe_code)]

mod cores;
mod child;
mod account;
mod wire;
mod certificate;
mod link;
mod relay;
mod origin;
mod load;
mod slow;
mod steady;
mod peer;
mod setup;
mod row;
mod bench;
mod counted;
mod beside;
mod scaling;
mod connections;
mod latency;
mod routes;
mod plugins;
mod reload;
mod overload;
mod scenario;
mod chart;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, thread};

use lexopt::prelude::*;
use signal_hook::consts::{SIGINT, SIGTERM};

use bench::{Bench, Extent};
use cores::Cores;
use peer::{PEERS, Workshop};
use report::Circumstances;
use scenario::{SCENARIOS, Scenario};
use setup::Setup;

const HELP: &str = "\
What a request costs mini-rproxy, nginx, HAProxy, Envoy and a bare relay.

Usage: mini-rproxy-bench [COMMAND] [flags]

  run            the scenarios (default); writes results.md, results.json and results.svg
  check          only whether each proxy really proxies
  list           the scenarios

  --scenario NAMES   only these, separated by commas
  --repeat N         repetitions of each measurement (default: 5)
  --requests N       requests in each, instead of the scenario's own number
  --quick            a first look: 3 repetitions of a fifth of the requests
  --proxy PATH       mini-rproxy (default: beside this program)
  --plugin PATH      its plugin header_demo, with others beside it (default: examples/libheader_demo.so beside this program)
  --out DIR          where results go (default: target/bench)

PEER_NGINX, PEER_HAPROXY and PEER_ENVOY in the environment name other programs than those in PATH.
";

#[derive(Debug)]
struct Options {
    command: String,
    scenarios: Vec<String>,
    extent: Extent,
    proxy: PathBuf,
    plugin: PathBuf,
    out: PathBuf,
    words: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let result = match args.first().and_then(|first| first.to_str()) {
        Some("role-origin") => role_origin(&args[1..]),
        Some("role-relay") => role_relay(&args[1..]),
        _ => read_options(args).and_then(|options| command(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mini-rproxy-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Of a role of this program: it takes all descriptors that it may, and does not outlive the benchmark.
fn begin_role() {
    account::raise_descriptor_limit();
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        eprintln!("this process may be left over: {error}");
    }
}

fn role_origin(args: &[OsString]) -> Result<(), String> {
    begin_role();
    let [folder] = args else { return Err("role-origin FOLDER".to_owned()) };
    origin::run(Path::new(folder))
}

fn role_relay(args: &[OsString]) -> Result<(), String> {
    begin_role();
    let words: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let [origin, lane] = words[..] else { return Err("role-relay ADDRESS copy|splice".to_owned()) };
    let origin = origin.parse().map_err(|_| format!("{origin:?} is not an address"))?;
    let lane = if lane == "splice" { relay::Lane::Splice } else { relay::Lane::Copy };
    relay::run(origin, lane).map_err(|error| format!("the relay has failed: {error}"))
}

fn read_options(args: Vec<OsString>) -> Result<Options, String> {
    let beside = env::current_exe().map_err(|error| error.to_string())?;
    let beside = beside.parent().map(Path::to_owned).unwrap_or_default();
    let mut options = Options {
        command: "run".to_owned(),
        scenarios: Vec::new(),
        extent: Extent { repeat: 0, requests: None, quick: false },
        proxy: beside.join("mini-rproxy"),
        plugin: beside.join("examples/libheader_demo.so"),
        out: beside.parent().map_or_else(|| "target/bench".into(), |target| target.join("bench")),
        words: args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
    };
    let mut parser = lexopt::Parser::from_args(args);
    let read = |error: lexopt::Error| format!("{error}; --help lists all flags");
    while let Some(arg) = parser.next().map_err(read)? {
        match arg {
            Value(word) => options.command = word.to_string_lossy().into_owned(),
            Long("scenario") => {
                let names = parser.value().map_err(read)?.to_string_lossy().into_owned();
                options.scenarios.extend(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
            }
            Long("repeat") => options.extent.repeat = parser.value().and_then(|value| value.parse()).map_err(read)?,
            Long("requests") => {
                options.extent.requests = Some(parser.value().and_then(|value| value.parse()).map_err(read)?);
            }
            Long("quick") => options.extent.quick = true,
            Long("proxy") => options.proxy = parser.value().map_err(read)?.into(),
            Long("plugin") => options.plugin = parser.value().map_err(read)?.into(),
            Long("out") => options.out = parser.value().map_err(read)?.into(),
            Long("help") | Short('h') => options.command = "help".to_owned(),
            _ => return Err(read(arg.unexpected())),
        }
    }
    if options.extent.repeat == 0 {
        options.extent.repeat = if options.extent.quick { 3 } else { 5 };
    }
    Ok(options)
}

fn command(options: &Options) -> Result<(), String> {
    match options.command.as_str() {
        "help" => print!("{HELP}"),
        "list" => {
            for scenario in SCENARIOS {
                println!("{:16}{}", scenario.name, scenario.about);
            }
        }
        "check" => check(options)?,
        "run" => run(options)?,
        other => return Err(format!("there is no command {other:?}; --help lists all")),
    }
    Ok(())
}

/// Everything that must be there before anything can be measured.
fn prepare(options: &Options) -> Result<Bench, String> {
    let cores = Cores::find()?;
    cores::pin(&[cores.load]);
    // Runs beside each other must not share configurations.
    let folder = options.out.join(std::process::id().to_string());
    end_with_signals(&folder)?;
    if cores.count < 2 {
        eprintln!("there is one core alone: proxy and load generator share it, and the figures say little");
    }
    let workshop = Workshop::new(&folder, cores, absolute(&options.proxy), absolute(&options.plugin))?;
    Ok(Bench::new(workshop, &PEERS, options.extent.clone()))
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// On Ctrl-C: ends all children, removes the folder, and goes.
fn end_with_signals(folder: &Path) -> Result<(), String> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .map_err(|error| format!("cannot handle signals: {error}"))?;
    let folder = folder.to_owned();
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\nending all proxies");
            child::end_all();
            // Not at once where the main thread is just writing a file into it.
            let _ = (0..100).any(|_| fs::remove_dir_all(&folder).is_ok());
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn check(options: &Options) -> Result<(), String> {
    let bench = prepare(options)?;
    let peers = bench.peers.clone();
    let fleet = bench.fleet(&peers, &Setup::default());
    for peer in fleet.keys() {
        println!("{} proxies", peer.title());
    }
    if fleet.len() == peers.len() { Ok(()) } else { Err("not all of them do".to_owned()) }
}

fn chosen(options: &Options) -> Result<Vec<&'static Scenario>, String> {
    for name in &options.scenarios {
        if !SCENARIOS.iter().any(|scenario| scenario.name == name) {
            let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            return Err(format!("there is no scenario {name:?}; there are: {}", names.join(", ")));
        }
    }
    let is_chosen = |scenario: &&Scenario| match options.scenarios.as_slice() {
        [] => !(options.extent.quick && scenario.name == "down-1g"),
        names => names.iter().any(|name| name == scenario.name),
    };
    Ok(SCENARIOS.iter().filter(is_chosen).collect())
}

fn run(options: &Options) -> Result<(), String> {
    let scenarios = chosen(options)?;
    let bench = prepare(options)?;
    let circumstances =
        Circumstances::find(format!("mini-rproxy-bench {}", options.words.join(" ")).trim_end(), &bench.workshop.proxy);
    let mut rows = Vec::new();
    for scenario in scenarios {
        eprintln!("{}: {}", scenario.name, scenario.about);
        rows.extend((scenario.run)(&bench, scenario)?);
    }
    // After a signal it ends here.
    drop(bench);
    let table = report::markdown(&rows, &circumstances);
    println!("{table}");
    let json = format!("{:#}\n", report::as_json(&rows, &circumstances));
    let picture = chart::svg(&rows, &circumstances.place());
    let files = [("results.md", Some(table)), ("results.json", Some(json)), ("results.svg", picture)];
    for (name, text) in files.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        let path = options.out.join(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
}
