//! `selftest`: the smuggling catalogue against a proxy.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, ExitCode};
use std::time::Duration;

use lexopt::{Arg, ValueExt};
use selftest::entry::entries;
use selftest::report::{by_family, by_rule, title};
use selftest::runner::{run_binary, run_proxy};

const HELP: &str = "\
Plays the smuggling catalogue against a proxy; docs/smuggling.md tells what it shows.

  selftest --binary PATH
      starts this mini-rproxy by itself and compares everything, its log included
  selftest --proxy ADDRESS --upstream ADDRESS
      plays against a running proxy, and is itself the upstream that the proxy must forward to
      --details      names each entry that is not as it should be
      --timeout MS   how long to wait for bytes (default: 700)

  --only TEXT        only entries with this in \"RULE FAMILY.smug: NAME\"

Exits with 0 where every entry is as it should be, 1 where one is not, 2 where it cannot be played.
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("selftest: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let (mut binary, mut proxy, mut upstream) = (None, None, None);
    let (mut has_details, mut timeout, mut only) = (false, 700, String::new());
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("binary") => binary = Some(args.value()?),
            Arg::Long("proxy") => proxy = Some(args.value()?.parse::<SocketAddr>()?),
            Arg::Long("upstream") => upstream = Some(args.value()?.parse::<SocketAddr>()?),
            Arg::Long("details") => has_details = true,
            Arg::Long("timeout") => timeout = args.value()?.parse()?,
            Arg::Long("only") => only = args.value()?.string()?,
            Arg::Long("help") | Arg::Short('h') => {
                print!("{HELP}");
                return Ok(true);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let mut entries = entries()?;
    entries.retain(|entry| title(entry).contains(&only));
    let report = match (binary, proxy, upstream) {
        (Some(binary), None, None) => by_rule(&entries, &run_binary(Command::new(binary), &entries)?),
        (None, Some(proxy), Some(upstream)) => {
            let upstream = TcpListener::bind(upstream)?;
            let observed = run_proxy(proxy, &upstream, &entries, Duration::from_millis(timeout))?;
            by_family(&entries, &observed, has_details)
        }
        _ => return Err("give --binary, or --proxy and --upstream; --help tells more".into()),
    };
    print!("{}", report.text);
    Ok(report.is_pass)
}
