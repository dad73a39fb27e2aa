//! The command line: flags in, a [`Command`] out. It reads no file and prints nothing.
//!
//! Go's spelling works beside the usual one: `-config x`, `-config=x`, `--config x`, `--config=x` are all the same.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use lexopt::Arg;

use crate::config::did_you_mean;

/// What the proxy is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve until told to stop.
    Run(Options),
    /// Read and check everything, then exit with 0 or 1.
    Check(Options),
    /// Print the effective configuration.
    PrintConfig(Options),
    /// Ask the proxy that runs with this configuration for its health, then exit with 0 or 1.
    Healthcheck(Options),
    /// Print the version.
    Version,
    /// Print [`HELP`].
    Help,
}

/// The flags that do not choose a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `-config`
    pub config: PathBuf,
    /// `-verbose`: one line per request.
    pub verbose: bool,
    /// `-plugindir`
    pub plugin_dir: Option<PathBuf>,
    /// `-memory-budget`, as written.
    pub memory_budget: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { config: PathBuf::from("config.yaml"), verbose: false, plugin_dir: None, memory_budget: None }
    }
}

/// What `-help` prints.
pub const HELP: &str = "\
mini-rproxy: a small HTTP/1.1 reverse proxy

Usage: mini-rproxy [flags]

  -config PATH     the configuration file (default: config.yaml)
  -verbose         log one line per request: route, upstream, status, cause, times
  -plugindir DIR   load every *.so of this directory, in the order of their names (default: none)
  -memory-budget SIZE  what all buffers together may take, for example 8MiB (default: unlimited)
  -check           read and check the configuration, then exit with 0 or 1
  -healthcheck     ask the proxy that runs with this configuration for /health, then exit with 0 or 1
  -print-config    print the configuration with every default, without credentials
  -version         print the version
  -help, -h        print this

Each flag may have one dash or two, and a value after a space or after \"=\".

Example: two lines of configuration are enough.

  cat > config.yaml <<END
  routes:
    - {prefix: /api, upstream: \"http://127.0.0.1:9001\"}
  END
  mini-rproxy -config config.yaml -verbose

config.example.yml shows every key of the configuration.
";

/// What is wrong with the command line, in one sentence that points to the help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; -help lists all flags", self.0)
    }
}

impl std::error::Error for UsageError {}

/// All flags, as they are written after the dashes.
const FLAGS: [&str; 10] =
    ["config", "verbose", "plugindir", "memory-budget", "check", "healthcheck", "print-config", "version", "help", "h"];

/// Reads the arguments that follow the program's name. Of two flags that choose a command, the last one wins, but help
/// and version win over everything.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut options = Options::default();
    let mut command: fn(Options) -> Command = Command::Run;
    let mut parser = lexopt::Parser::from_args(args.into_iter().map(with_two_dashes));
    while let Some(arg) = parser.next().map_err(no_value)? {
        match arg {
            Arg::Long("config") => options.config = PathBuf::from(value(&mut parser, "config", "PATH")?),
            Arg::Long("plugindir") => {
                options.plugin_dir = Some(PathBuf::from(value(&mut parser, "plugindir", "DIR")?));
            }
            Arg::Long("memory-budget") => {
                let size = value(&mut parser, "memory-budget", "SIZE")?;
                options.memory_budget = Some(size.to_string_lossy().into_owned());
            }
            Arg::Long("verbose") => options.verbose = true,
            Arg::Long("check") => command = Command::Check,
            Arg::Long("healthcheck") => command = Command::Healthcheck,
            Arg::Long("print-config") => command = Command::PrintConfig,
            Arg::Long("version") => return Ok(Command::Version),
            Arg::Long("help" | "h") | Arg::Short('h') => return Ok(Command::Help),
            Arg::Long(flag) => return Err(unknown(flag)),
            Arg::Short(letter) => return Err(unknown(letter.encode_utf8(&mut [0; 4]))),
            Arg::Value(word) => {
                let word = word.to_string_lossy();
                return Err(UsageError(format!("{word:?} is not a flag; the configuration is named by -config PATH")));
            }
        }
    }
    Ok(command(options))
}

/// `-config` becomes `--config`. A single letter stays: `-h`.
fn with_two_dashes(arg: OsString) -> OsString {
    let bytes = arg.as_encoded_bytes();
    match bytes {
        [b'-', b'-', ..] | [b'-'] | [b'-', _] => arg,
        [b'-', ..] => {
            let mut long = OsString::from("-");
            long.push(&arg);
            long
        }
        _ => arg,
    }
}

fn value(parser: &mut lexopt::Parser, flag: &str, what: &str) -> Result<OsString, UsageError> {
    let value = parser.value().map_err(|_| UsageError(format!("-{flag} needs a value: -{flag} {what}")))?;
    // A flag in its place: the value was forgotten. (A path that begins with a dash can be written ./-path.)
    if value.is_empty() || value.as_encoded_bytes().starts_with(b"-") {
        return Err(UsageError(format!("-{flag} needs a value: -{flag} {what}")));
    }
    Ok(value)
}

fn no_value(error: lexopt::Error) -> UsageError {
    match error {
        lexopt::Error::UnexpectedValue { option, .. } => {
            UsageError(format!("-{} takes no value", option.trim_start_matches('-').escape_debug()))
        }
        other => UsageError(other.to_string()),
    }
}

fn unknown(flag: &str) -> UsageError {
    match did_you_mean(flag, &FLAGS) {
        Some(meant) => UsageError(format!("unknown flag -{}; did you mean -{meant}?", flag.escape_debug())),
        None => UsageError(format!("unknown flag -{}", flag.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str) -> Result<Command, String> {
        parse(args.split(' ').filter(|arg| !arg.is_empty()).map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_of_flags_are_understood() {
        let other = Options { config: "x.yaml".into(), ..Options::default() };
        for (args, expected) in [
            ("", Command::Run(Options::default())),
            ("-config x.yaml", Command::Run(other.clone())),
            ("-config=x.yaml", Command::Run(other.clone())),
            ("--config x.yaml", Command::Run(other.clone())),
            ("--config=x.yaml", Command::Run(other.clone())),
            ("-config=a=b", Command::Run(Options { config: "a=b".into(), ..Options::default() })),
            ("-verbose", Command::Run(Options { verbose: true, ..Options::default() })),
            ("--verbose", Command::Run(Options { verbose: true, ..Options::default() })),
            ("-plugindir p", Command::Run(Options { plugin_dir: Some("p".into()), ..Options::default() })),
            ("--plugindir=p", Command::Run(Options { plugin_dir: Some("p".into()), ..Options::default() })),
            ("-memory-budget=8MiB", Command::Run(Options { memory_budget: Some("8MiB".into()), ..Options::default() })),
            ("-check -config x.yaml", Command::Check(other.clone())),
            ("-healthcheck -config x.yaml", Command::Healthcheck(other.clone())),
            ("-config x.yaml --print-config", Command::PrintConfig(other)),
            ("-version -check", Command::Version),
            ("-check -help", Command::Help),
            ("-h", Command::Help),
            ("--help", Command::Help),
        ] {
            assert_eq!(parsed(args), Ok(expected), "{args}");
        }
    }

    #[test]
    fn mistakes_are_told_in_one_sentence() {
        for (args, expected) in [
            ("-confg x", "unknown flag -confg; did you mean -config?; -help lists all flags"),
            ("--plugin-dir=x", "unknown flag -plugin-dir; did you mean -plugindir?; -help lists all flags"),
            ("-x", "unknown flag -x; -help lists all flags"),
            ("--frobnicate", "unknown flag -frobnicate; -help lists all flags"),
            ("-config", "-config needs a value: -config PATH; -help lists all flags"),
            ("-config=", "-config needs a value: -config PATH; -help lists all flags"),
            ("-config -verbose", "-config needs a value: -config PATH; -help lists all flags"),
            ("-plugindir", "-plugindir needs a value: -plugindir DIR; -help lists all flags"),
            (
                "config.yaml",
                "\"config.yaml\" is not a flag; the configuration is named by -config PATH; -help lists all flags",
            ),
            ("-", "\"-\" is not a flag; the configuration is named by -config PATH; -help lists all flags"),
            ("-verbose=yes", "-verbose takes no value; -help lists all flags"),
        ] {
            assert_eq!(parsed(args), Err(expected.to_owned()), "{args}");
        }
    }

    #[test]
    fn the_help_names_every_flag() {
        for flag in FLAGS {
            assert!(HELP.contains(&format!("-{flag}")), "{flag}");
        }
    }
}
