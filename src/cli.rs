//! The command line: arguments in, an [`Action`] and its [`Flags`] out. It reads no file and prints nothing.
//!
//! Go's spelling works beside the usual one: `-config x`, `-config=x`, `--config x`, `--config=x` are all the same.

use std::path::{Path, PathBuf};

use crate::config::{STDIN, did_you_mean};

/// What the proxy is asked to do; [`help`] says what each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the help says it")]
pub enum Action {
    Run,
    Check,
    PrintConfig,
    Healthcheck,
    Explain,
    Version,
    Help,
}

/// The flags that do not choose an action, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the help says it")]
pub struct Flags {
    pub config: Option<PathBuf>,
    /// `-route`, for init scripts that have no file (rule E10).
    pub routes: Vec<String>,
    pub listen: Vec<String>,
    pub verbose: bool,
    pub trace: bool,
    pub plugin_dir: Option<PathBuf>,
    pub memory_budget: Option<String>,
    pub takeover: bool,
    pub against: Option<String>,
    /// `-explain`
    pub request: String,
    /// `-H`
    pub fields: Vec<String>,
}

impl Flags {
    /// The configuration file; `None` where routes on the command line stand in its place.
    pub fn config_path(&self) -> Option<&Path> {
        self.routes.is_empty().then(|| self.config.as_deref().unwrap_or(Path::new("config.yaml")))
    }
}

/// All flags as they are written after the dashes, what stands for the value of those that take one, and what they do.
pub const FLAGS: [(&str, &str, &str); 16] = [
    ("config", "PATH", "the configuration file, or - for standard input (default: config.yaml)"),
    ("route", "PREFIX=UPSTREAM", "a route, instead of a configuration file; may be repeated"),
    ("listen", "ADDRESS", "with -route: where to listen (default: :8080); may be repeated"),
    ("verbose", "", "log one line per request: route, upstream, status, cause, times"),
    (
        "trace",
        "",
        "log the timeline of each request: what happened when, which side was waited for, how it ended; and\n\
         debug messages of plugins; kill -USR1 switches this on and off in a running proxy",
    ),
    ("plugindir", "DIR", "load every *.so of this directory, in the order of their names (default: none)"),
    ("memory-budget", "SIZE", "how much memory all buffers may take together, for example 8MiB (default: unlimited)"),
    ("takeover", "", "listen on the addresses of an older instance, to take over from it; then stop that one"),
    ("check", "", "read and check the configuration, then exit with 0 or 1"),
    (
        "against",
        "URL",
        "with -check: say what a reload would change in the proxy that runs at http://HOST:PORT or\n\
         unix:/PATH (\"-\": its answer to /configz?outline on stdin), then exit with 0 (nothing), 3 or 1",
    ),
    (
        "healthcheck",
        "",
        "ask the proxy that runs with this configuration for /health, then exit with 0 or 1; without -config\n\
         and -route: with the flags of process 1, where that is a mini-rproxy (in a container)",
    ),
    (
        "explain",
        "'GET /path'",
        "print what would happen to this request, and why, without sending anything; then exit with\n\
         0 (served) or 1 (refused)",
    ),
    ("H", "'Name: value'", "with -explain: a field line of the request; may be repeated"),
    ("print-config", "", "print the configuration with every default; only secrets in upstream URLs are left out"),
    ("version", "", "print the version, and what this binary was built with"),
    ("help", "", "print this help; also -h"),
];

/// Flags that may be given more than once.
pub const REPEATABLE: [&str; 3] = ["route", "listen", "H"];

/// What `-help` prints.
pub fn help() -> String {
    let mut text = "mini-rproxy: a small HTTP/1.1 reverse proxy\n\nUsage: mini-rproxy [flags]\n\n".to_owned();
    for (name, value, what) in FLAGS {
        let flag = format!("-{name} {value}");
        text += &format!("  {flag:<15}  {}\n", what.replace('\n', "\n                   "));
    }
    text + "
Each flag may have one dash or two, and a value after a space or after \"=\".

Example: two lines of configuration are enough.

  cat > config.yaml <<END
  routes:
    - {prefix: /api, upstream: \"http://127.0.0.1:9001\"}
  END
  mini-rproxy -config config.yaml -verbose

config.example.yml shows every key of the configuration.

Example: no file at all. UPSTREAM is host:port or a URL.

  mini-rproxy -listen :8080 -route /api=127.0.0.1:9001 -route /=https://www.example.com
"
}

/// Reads the arguments that follow the program's name. Help and version win over everything that follows them. An error is
/// one line that points to the help.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<(Action, Flags), String> {
    parse_flags(args.into_iter()).map_err(|error| format!("{error}; -help lists all flags"))
}

fn parse_flags(mut args: impl Iterator<Item = String>) -> Result<(Action, Flags), String> {
    let mut flags = Flags::default();
    let (mut actions, mut given) = (Vec::new(), Vec::new());
    while let Some(arg) = args.next() {
        let (flag, value) = next_flag(&arg, &mut args)?;
        if given.contains(&flag) && !REPEATABLE.contains(&flag) {
            return Err(format!("-{flag} is given twice: leave one of them out"));
        }
        given.push(flag);
        match flag {
            "config" => flags.config = Some(value.into()),
            "route" => flags.routes.push(value),
            "listen" => flags.listen.push(value),
            "plugindir" => flags.plugin_dir = Some(value.into()),
            "memory-budget" => flags.memory_budget = Some(value),
            "against" => flags.against = Some(value),
            "H" => flags.fields.push(value),
            "takeover" => flags.takeover = true,
            "verbose" => flags.verbose = true,
            "trace" => flags.trace = true,
            "check" => actions.push((flag, Action::Check)),
            "healthcheck" => actions.push((flag, Action::Healthcheck)),
            "print-config" => actions.push((flag, Action::PrintConfig)),
            "explain" => {
                flags.request = value;
                actions.push((flag, Action::Explain));
            }
            "version" => return Ok((Action::Version, flags)),
            _ => return Ok((Action::Help, flags)),
        }
    }
    let action = match actions[..] {
        [] => Action::Run,
        [(_, action)] => action,
        [(one, _), (other, _), ..] => return Err(format!("-{one} and -{other} cannot be done at once: choose one")),
    };
    let wrong = if flags.config.is_some() && !(flags.routes.is_empty() && flags.listen.is_empty()) {
        "-route and -listen stand in the place of a file: leave -config out, or write them into the file"
    } else if flags.routes.is_empty() && !flags.listen.is_empty() {
        "-listen needs -route beside it; with a configuration file, the address is its listen_addr"
    } else if !flags.fields.is_empty() && action != Action::Explain {
        "-H goes with -explain"
    } else if flags.against.is_some() && action != Action::Check {
        "-against goes with -check"
    } else if flags.against.as_deref() == Some(STDIN) && flags.config_path() == Some(Path::new(STDIN)) {
        "-config - and -against - would both read standard input: give one of them a name"
    } else {
        return Ok((action, flags));
    };
    Err(wrong.to_owned())
}

/// The flag that `arg` is, and its value: after a "=", or the next argument. Another flag in its place means that it was
/// forgotten; a path that begins with a dash can be written `./-path`. A dash alone is standard input.
fn next_flag(arg: &str, args: &mut impl Iterator<Item = String>) -> Result<(&'static str, String), String> {
    let Some(written) = arg.strip_prefix('-').filter(|written| !written.is_empty()) else {
        return Err(format!("{arg:?} is not a flag; the configuration is named by -config PATH"));
    };
    let written = written.strip_prefix('-').unwrap_or(written);
    let (name, inline) = written.split_once('=').map_or((written, None), |(name, value)| (name, Some(value)));
    let name = if name == "h" { "help" } else { name };
    let Some((flag, placeholder, _)) = FLAGS.into_iter().find(|(flag, ..)| *flag == name) else {
        let known = FLAGS.map(|(flag, ..)| flag);
        let hint = did_you_mean(name, &known).map(|meant| format!("; did you mean -{meant}?"));
        return Err(format!("unknown flag -{}{}", name.escape_debug(), hint.unwrap_or_default()));
    };
    if placeholder.is_empty() {
        return if inline.is_none() { Ok((flag, String::new())) } else { Err(format!("-{flag} takes no value")) };
    }
    let value = inline.map(str::to_owned).or_else(|| args.next()).unwrap_or_default();
    let is_value = if value == STDIN {
        ["against", "config"].contains(&flag)
    } else {
        !value.is_empty() && !value.starts_with('-')
    };
    if is_value { Ok((flag, value)) } else { Err(format!("-{flag} needs a value: -{flag} {placeholder}")) }
}

/// What a running proxy was started with: `command_line` is its `/proc/PID/cmdline`. An init program may stand in front of
/// it (`docker run --init`).
pub fn flags_of(command_line: &[u8]) -> Option<Flags> {
    let command_line = String::from_utf8_lossy(command_line);
    let mut args = command_line.split_terminator('\0');
    args.find(|arg| Path::new(arg).file_name().is_some_and(|name| name == "mini-rproxy"))?;
    if let Ok((Action::Run, flags)) = parse(args.map(str::to_owned)) { Some(flags) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str) -> Result<(Action, Flags), String> {
        parse(args.split(' ').filter(|arg| !arg.is_empty()).map(str::to_owned))
    }

    #[test]
    fn both_spellings_of_flags_are_understood() {
        let other = Flags { config: Some("x.yaml".into()), ..Flags::default() };
        let asked = |request: &str, fields: &[&str]| Flags {
            request: request.to_owned(),
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
            ..Flags::default()
        };
        for (args, expected) in [
            ("", (Action::Run, Flags::default())),
            ("-config x.yaml", (Action::Run, other.clone())),
            ("-config=x.yaml", (Action::Run, other.clone())),
            ("--config x.yaml", (Action::Run, other.clone())),
            ("--config=x.yaml", (Action::Run, other.clone())),
            ("-config=a=b", (Action::Run, Flags { config: Some("a=b".into()), ..Flags::default() })),
            ("-trace", (Action::Run, Flags { trace: true, ..Flags::default() })),
            ("-takeover", (Action::Run, Flags { takeover: true, ..Flags::default() })),
            ("-verbose", (Action::Run, Flags { verbose: true, ..Flags::default() })),
            ("--verbose", (Action::Run, Flags { verbose: true, ..Flags::default() })),
            ("-plugindir p", (Action::Run, Flags { plugin_dir: Some("p".into()), ..Flags::default() })),
            ("--plugindir=p", (Action::Run, Flags { plugin_dir: Some("p".into()), ..Flags::default() })),
            ("-memory-budget=8MiB", (Action::Run, Flags { memory_budget: Some("8MiB".into()), ..Flags::default() })),
            ("-check -config x.yaml", (Action::Check, other.clone())),
            ("-healthcheck -config x.yaml", (Action::Healthcheck, other.clone())),
            (
                "-check -against=http://127.0.0.1:8080",
                (Action::Check, Flags { against: Some("http://127.0.0.1:8080".into()), ..Flags::default() }),
            ),
            ("-config - -check", (Action::Check, Flags { config: Some("-".into()), ..Flags::default() })),
            ("-against - -check", (Action::Check, Flags { against: Some("-".into()), ..Flags::default() })),
            ("-config x.yaml --print-config", (Action::PrintConfig, other)),
            ("-explain /x -H A:b -H=c:d", (Action::Explain, asked("/x", &["A:b", "c:d"]))),
            ("-H A:b --explain=/x", (Action::Explain, asked("/x", &["A:b"]))),
            ("-version -check", (Action::Version, Flags::default())),
            ("-check -help", (Action::Help, Flags::default())),
            ("-h", (Action::Help, Flags::default())),
            ("--help", (Action::Help, Flags::default())),
        ] {
            assert_eq!(parsed(args), Ok(expected), "{args}");
        }
    }

    #[test]
    fn e10_routes_on_the_command_line_need_no_file() {
        let flags = |listen: &[&str], routes: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
            Ok((Action::Run, Flags { listen: owned(listen), routes: owned(routes), ..Flags::default() }))
        };
        for (args, expected) in [
            ("-route /a=127.0.0.1:9001", flags(&[], &["/a=127.0.0.1:9001"])),
            ("-listen :1 -route /a=h:1 --route=/=http://h", flags(&[":1"], &["/a=h:1", "/=http://h"])),
            ("-route=/a=h:1 -listen :1 -listen=[::1]:2", flags(&[":1", "[::1]:2"], &["/a=h:1"])),
            (
                "-config x.yaml -route /a=h:1",
                Err(
                    "-route and -listen stand in the place of a file: leave -config out, or write them into the file; \
                     -help lists all flags",
                ),
            ),
            (
                "-listen :1",
                Err("-listen needs -route beside it; with a configuration file, the address is its listen_addr; \
                     -help lists all flags"),
            ),
            ("-route", Err("-route needs a value: -route PREFIX=UPSTREAM; -help lists all flags")),
            ("-listen= -route /a=h", Err("-listen needs a value: -listen ADDRESS; -help lists all flags")),
        ] {
            assert_eq!(parsed(args), expected.map_err(str::to_owned), "{args}");
        }
    }

    #[test]
    fn mistakes_are_told_in_one_sentence() {
        for (args, expected) in [
            ("-confg x", "unknown flag -confg; did you mean -config?; -help lists all flags"),
            ("--plugin-dir=x", "unknown flag -plugin-dir; did you mean -plugindir?; -help lists all flags"),
            ("-x", "unknown flag -x; -help lists all flags"),
            ("-t -c x", "unknown flag -t; did you mean -check?; -help lists all flags"),
            ("-c x", "unknown flag -c; did you mean -config?; -help lists all flags"),
            ("-f x", "unknown flag -f; did you mean -config?; -help lists all flags"),
            ("-T", "unknown flag -T; did you mean -print-config?; -help lists all flags"),
            ("-V", "unknown flag -V; did you mean -version?; -help lists all flags"),
            ("--frobnicate", "unknown flag -frobnicate; -help lists all flags"),
            ("-config", "-config needs a value: -config PATH; -help lists all flags"),
            ("-explain", "-explain needs a value: -explain 'GET /path'; -help lists all flags"),
            ("-H", "-H needs a value: -H 'Name: value'; -help lists all flags"),
            ("-check -H A:b -verbose", "-H goes with -explain; -help lists all flags"),
            ("-H A:b", "-H goes with -explain; -help lists all flags"),
            ("-config=", "-config needs a value: -config PATH; -help lists all flags"),
            ("-config -verbose", "-config needs a value: -config PATH; -help lists all flags"),
            ("-against x", "-against goes with -check; -help lists all flags"),
            (
                "-check -config - -against -",
                "-config - and -against - would both read standard input: give one of them a name; -help lists all flags",
            ),
            ("-check -against", "-against needs a value: -against URL; -help lists all flags"),
            ("-plugindir -", "-plugindir needs a value: -plugindir DIR; -help lists all flags"),
            ("-plugindir", "-plugindir needs a value: -plugindir DIR; -help lists all flags"),
            (
                "config.yaml",
                "\"config.yaml\" is not a flag; the configuration is named by -config PATH; -help lists all flags",
            ),
            ("-", "\"-\" is not a flag; the configuration is named by -config PATH; -help lists all flags"),
            ("-verbose=yes", "-verbose takes no value; -help lists all flags"),
            (
                "-check -healthcheck",
                "-check and -healthcheck cannot be done at once: choose one; -help lists all flags",
            ),
            ("-explain /x -check", "-explain and -check cannot be done at once: choose one; -help lists all flags"),
            ("-config a -config=b", "-config is given twice: leave one of them out; -help lists all flags"),
            ("-check --check", "-check is given twice: leave one of them out; -help lists all flags"),
            ("-verbose -check -verbose", "-verbose is given twice: leave one of them out; -help lists all flags"),
        ] {
            assert_eq!(parsed(args), Err(expected.to_owned()), "{args}");
        }
    }

    #[test]
    fn the_readme_names_every_flag_and_the_help_fits_a_screen() {
        let readme = include_str!("../README.md");
        for (flag, value, _) in FLAGS {
            let written = format!("`-{flag} {value}").trim_end().to_owned();
            assert!(readme.contains(&written), "{written}");
        }
        assert!(help().lines().all(|line| line.len() <= 120));
    }

    #[test]
    fn the_flags_of_a_running_proxy_are_read_from_its_command_line() {
        let flags = Flags { listen: vec![":81".to_owned()], routes: vec!["/=o:1".to_owned()], ..Flags::default() };
        let file = Flags { config: Some("/c.yaml".into()), ..Flags::default() };
        for (line, expected) in [
            ("/mini-rproxy\0-route\0/=o:1\0-listen\0:81\0", Some(flags.clone())),
            ("/sbin/docker-init\0--\0/mini-rproxy\0-route\0/=o:1\0-listen\0:81\0", Some(flags)),
            ("mini-rproxy\0-config\0/c.yaml\0", Some(file)),
            ("mini-rproxy\0", Some(Flags::default())),
            ("mini-rproxy\0-check\0", None),
            ("/sbin/init\0", None),
            ("sh\0-c\0sleep 1; mini-rproxy\0", None),
            ("", None),
        ] {
            assert_eq!(flags_of(line.as_bytes()), expected, "{line:?}");
        }
    }
}
