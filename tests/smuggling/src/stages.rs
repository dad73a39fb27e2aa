//! The ten stages of `examples/tiny`: what belongs to each, and what a program scores.
//!
//! Stage N must pass the scripts of the stages 1 to N. The families of the smuggling catalogue that belong to these stages are
//! played too, and counted; only the last stage has to refuse them.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::entry::{ClientOutcome, Entry, entries};
use crate::judge::{Observed, Verdict, verdict};
use crate::player::{Failure, play, shorten};
use crate::program::Program;
use crate::report::title;
use crate::runner::run_entry_within;
use crate::strict::Strictness;
use crate::wire_script::{self, WireScript};

/// One of the ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// From 1.
    pub number: usize,
    /// The end of the names of its file and its page.
    pub name: &'static str,
    /// The families of the catalogue that begin to count here.
    pub families: &'static [&'static str],
}

/// All stages, in order.
pub const STAGES: [Stage; 10] = [
    Stage { number: 1, name: "relay", families: &[] },
    Stage { number: 2, name: "head", families: &["request_line", "lines", "field_names"] },
    Stage { number: 3, name: "prefix", families: &["targets"] },
    Stage { number: 4, name: "host", families: &["host", "hop_by_hop"] },
    Stage { number: 5, name: "content-length", families: &["content_length", "bodies", "response_heads"] },
    Stage {
        number: 6,
        name: "chunked",
        families: &[
            "transfer_encoding",
            "chunks",
            "trailers",
            "length_and_coding",
            "response_chunks",
            "response_framing",
        ],
    },
    Stage { number: 7, name: "keep-alive", families: &["response_bodies"] },
    Stage { number: 8, name: "pool", families: &[] },
    Stage { number: 9, name: "timeouts", families: &["expect"] },
    Stage { number: 10, name: "smuggling", families: &["upgrade"] },
];

/// The last stage, which has to refuse what the others only count.
pub const LAST: usize = STAGES.len();

/// Entries are played by this many programs at once: most of the time they wait.
const PROGRAMS: usize = 20;

/// How long a client waits for bytes of an entry.
const ENTRY_TIMEOUT: Duration = Duration::from_millis(700);

/// The same for a harmless one that has not passed: on a busy machine it may have been too slow.
const SECOND_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a program may take to close its idle connections to the upstream. Those that it keeps are closed then.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(40);

/// How long an expectation of a script may take. The time-outs of stage 9 must be shorter.
pub const SCRIPT_TIMEOUT: Duration = Duration::from_secs(5);

impl Stage {
    /// Its program, below `examples/tiny`.
    pub fn source(&self) -> String {
        format!("{:02}_{}.rs", self.number, self.name.replace('-', "_"))
    }

    /// The page of the guide that explains it.
    pub fn page(&self) -> String {
        format!("docs/guide/tiny-{:02}-{}.md", self.number, self.name)
    }
}

/// The scripts of the stages 1 to `last`, in order, each with its stage.
pub fn scripts(folder: &Path, last: usize) -> io::Result<Vec<(usize, WireScript)>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut scripts = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let stage = name.get(..2).and_then(|digits| digits.parse().ok());
        let stage: usize = stage.ok_or_else(|| io::Error::other(format!("{name}: expected NN-name.wire")))?;
        if stage <= last {
            let script = wire_script::parse(&name, &fs::read_to_string(&file)?).map_err(io::Error::other)?;
            scripts.push((stage, script));
        }
    }
    Ok(scripts)
}

/// What of the catalogue belongs to the stages 1 to `last`. Left out is what is about resources that mini-rproxy has built in,
/// and about tunnels, which the toy does not offer.
pub fn attacks_and_neighbours(last: usize) -> io::Result<Vec<Entry>> {
    let belongs = |entry: &Entry| STAGES[..last].iter().any(|stage| stage.families.contains(&entry.family));
    // Harmless, and yet not forwarded: it is the proxy itself that answers.
    let is_built_in = |entry: &Entry| {
        let is_health = entry.request.windows(9).any(|window| window == b" /health ");
        is_health || (entry.forwarded.is_empty() && !entry.is_attack())
    };
    let mut entries = entries().map_err(io::Error::other)?;
    entries.retain(|entry| belongs(entry) && !is_built_in(entry) && entry.outcome != ClientOutcome::Tunnel);
    Ok(entries)
}

/// What a program has scored.
#[derive(Debug)]
pub struct Score {
    /// It was judged as this stage.
    pub stage: usize,
    /// The scripts with their stages, and what was wrong.
    pub scripts: Vec<(usize, WireScript, Option<Failure>)>,
    /// The entries of the catalogue, and what became of each.
    pub entries: Vec<(Entry, Verdict)>,
}

/// Plays everything that belongs to the stages 1 to `stage` through the program.
pub fn judge_program(command: &str, scripts_folder: &Path, stage: usize) -> io::Result<Score> {
    let scripts = scripts(scripts_folder, stage)?;
    let failures = in_parallel(&scripts, || Ok(()), |(), (_, script)| play(command, script, SCRIPT_TIMEOUT))?;
    let scripts = scripts.into_iter().zip(failures).map(|((stage, script), failure)| (stage, script, failure));
    let entries = attacks_and_neighbours(stage)?;
    let mut verdicts = verdicts(command, &entries, ENTRY_TIMEOUT)?;
    let is_second = |index: &usize| !entries[*index].is_attack() && verdicts[*index] == Verdict::Refused;
    let again: Vec<usize> = (0..entries.len()).filter(is_second).collect();
    let second: Vec<Entry> = again.iter().map(|&index| entries[index].clone()).collect();
    for (index, verdict) in again.into_iter().zip(self::verdicts(command, &second, SECOND_TIMEOUT)?) {
        verdicts[index] = verdict;
    }
    Ok(Score { stage, scripts: scripts.collect(), entries: entries.into_iter().zip(verdicts).collect() })
}

/// Plays the entries in several programs at once.
fn verdicts(command: &str, entries: &[Entry], timeout: Duration) -> io::Result<Vec<Verdict>> {
    let run = |rig: &mut Rig, entry: &Entry| Ok(verdict(entry, &rig.run(command, entry, timeout)?));
    in_parallel(entries, || Rig::start(command), run)
}

/// A program between a client and an upstream, for one entry after the other.
struct Rig {
    upstream: TcpListener,
    program: Program,
}

impl Rig {
    fn start(command: &str) -> io::Result<Rig> {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let program = Program::start(command, upstream.local_addr()?, None)?;
        Ok(Rig { upstream, program })
    }

    fn run(&mut self, command: &str, entry: &Entry, timeout: Duration) -> io::Result<Observed> {
        // A program that has ended over an entry gets another chance with the next one.
        if !self.program.is_running()? {
            *self = Rig::start(command)?;
        }
        let client = TcpStream::connect(self.program.address)?;
        run_entry_within(client, &self.upstream, entry, Strictness::Lenient, timeout, CLOSE_TIMEOUT)
    }
}

/// Does `work` for all items in several threads, each with a `state` of its own; the results are in the order of the items.
fn in_parallel<T: Sync, S, R: Send>(
    items: &[T],
    state: impl Fn() -> io::Result<S> + Sync,
    work: impl Fn(&mut S, &T) -> io::Result<R> + Sync,
) -> io::Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let worker = || -> io::Result<()> {
            let mut state = state()?;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(index) else { return Ok(()) };
                let result = work(&mut state, item)?;
                results.lock().expect("no panic in a worker").push((index, result));
            }
        };
        let workers: Vec<_> = (0..PROGRAMS.min(items.len())).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic in a worker"))
    })?;
    let mut results = results.into_inner().expect("no panic in a worker");
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// How many entries had each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not forwarded, or answered with an error, or not at all.
    pub refused: usize,
    /// Forwarded in good order.
    pub passed: usize,
    /// Forwarded in bad order.
    pub dirty: usize,
}

impl Counts {
    /// All of them.
    pub fn all(&self) -> usize {
        self.refused + self.passed + self.dirty
    }
}

impl Score {
    /// The attacks, or else their harmless neighbours.
    pub fn counts(&self, is_attack: bool) -> Counts {
        let mut counts = Counts::default();
        for (_, verdict) in self.entries.iter().filter(|(entry, _)| entry.is_attack() == is_attack) {
            match verdict {
                Verdict::Refused => counts.refused += 1,
                Verdict::Passed => counts.passed += 1,
                Verdict::Dirty => counts.dirty += 1,
            }
        }
        counts
    }

    /// How many scripts of a stage passed, and how many there are.
    pub fn scripts_of(&self, stage: usize) -> (usize, usize) {
        let of_stage = || self.scripts.iter().filter(|(number, ..)| *number == stage);
        (of_stage().filter(|(.., failure)| failure.is_none()).count(), of_stage().count())
    }

    /// The same for all stages together.
    fn all_scripts(&self) -> (usize, usize) {
        (self.scripts.iter().filter(|(.., failure)| failure.is_none()).count(), self.scripts.len())
    }

    /// Whether everything that the stage must pass has passed.
    pub fn is_pass(&self) -> bool {
        self.first_wrong_script().is_none() && (self.stage < LAST || self.first_wrong_entry().is_none())
    }

    fn first_wrong_script(&self) -> Option<(usize, &WireScript, &Failure)> {
        self.scripts.iter().find_map(|(stage, script, failure)| Some((*stage, script, failure.as_ref()?)))
    }

    /// Dirty, or a harmless one that did not pass. An attack that passes in good order is no hole by itself.
    fn first_wrong_entry(&self) -> Option<&(Entry, Verdict)> {
        let is_wrong =
            |entry: &Entry, verdict| verdict == Verdict::Dirty || (!entry.is_attack() && verdict != Verdict::Passed);
        self.entries.iter().find(|(entry, verdict)| is_wrong(entry, *verdict))
    }

    /// The score, and the first thing that is wrong.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for stage in &STAGES[..self.stage] {
            let (passed, all) = self.scripts_of(stage.number);
            let word = if passed == all { "pass" } else { "FAIL" };
            let _ = writeln!(text, "{word} stage {:<3}{passed:>3} of {all:>2} scripts   {}", stage.number, stage.name);
        }
        if !self.entries.is_empty() {
            let (attacks, harmless) = (self.counts(true), self.counts(false));
            let Counts { refused, passed, dirty } = attacks;
            let _ = writeln!(
                text,
                "attacks  {refused} of {} refused; {passed} passed on in good order, {dirty} dirty",
                attacks.all()
            );
            let _ = writeln!(text, "harmless {} of {} passed", harmless.passed, harmless.all());
        }
        text += &self.first_wrong();
        let page = STAGES[self.stage - 1].page();
        let (passed, all) = self.all_scripts();
        let word = if self.is_pass() { "pass" } else { "FAIL" };
        let _ = writeln!(text, "{word}: stage {}, {passed} of {all} scripts ({page})", self.stage);
        text
    }

    fn first_wrong(&self) -> String {
        if let Some((stage, script, failure)) = self.first_wrong_script() {
            let wrong = self.scripts.iter().filter(|(.., failure)| failure.is_some());
            let others: Vec<&str> = wrong.skip(1).map(|(_, script, _)| script.name.as_str()).collect();
            let others =
                if others.is_empty() { String::new() } else { format!("also wrong: {}\n\n", others.join(", ")) };
            return explain_script(&STAGES[stage - 1], script, failure) + &others;
        }
        match self.first_wrong_entry() {
            Some((entry, verdict)) if self.stage == LAST => explain_entry(entry, *verdict),
            _ => String::new(),
        }
    }

    /// Each entry of the catalogue that is not as it should be in the end.
    pub fn details(&self) -> String {
        let mut text = String::new();
        for (entry, verdict) in &self.entries {
            let right = if entry.is_attack() { Verdict::Refused } else { Verdict::Passed };
            if *verdict != right {
                let kind = if entry.is_attack() { "attack" } else { "harmless" };
                let _ = writeln!(text, "{verdict:?} ({kind}): {}", title(entry));
            }
        }
        text
    }

    /// A row of the table of all stages.
    pub fn row(&self) -> String {
        let stage = STAGES[self.stage - 1];
        let (passed, all) = self.all_scripts();
        let (attacks, harmless) = (self.counts(true), self.counts(false));
        let Counts { refused, passed: through, dirty } = attacks;
        format!(
            "| {} | {} | {passed} of {all} | {} | {refused} | {through} | {dirty} | {} of {} |\n",
            stage.number,
            stage.name,
            attacks.all(),
            harmless.passed,
            harmless.all()
        )
    }
}

/// What stands above the rows.
pub const TABLE_HEAD: &str = "\
| stage | | scripts passed | attacks | refused | passed on | dirty | harmless passed |
|---|---|---|---|---|---|---|---|
";

/// A script up to its failing step, what was expected there, and what came.
fn explain_script(stage: &Stage, script: &WireScript, failure: &Failure) -> String {
    let mut text = format!("\nFAIL examples/tiny/scripts/{}.wire: {}\n", script.name, script.title);
    let indented = |lines: &[String]| lines.iter().map(|line| format!("       {line}\n")).collect::<String>();
    if failure.step > 0 {
        text += "     what went before:\n";
        for step in &script.steps[..failure.step] {
            text += &indented(&step.lines);
        }
    }
    match script.steps.get(failure.step) {
        Some(step) => {
            let _ = write!(text, "     expected (line {}):\n{}", step.number, indented(&step.lines));
        }
        None => text += "     expected: nothing more\n",
    }
    if !failure.came.is_empty() {
        let _ = write!(text, "     what came:\n{}", indented(&lines_of(&failure.came)));
    }
    failure.wrong.iter().for_each(|sentence| {
        let _ = writeln!(text, "     - {sentence}");
    });
    let said: Vec<String> = failure.stderr.lines().take(20).map(str::to_owned).collect();
    if !said.is_empty() {
        let _ = write!(text, "     the program wrote:\n{}", indented(&said));
    }
    let _ = writeln!(text, "     read {}\n", stage.page());
    text
}

fn explain_entry(entry: &Entry, verdict: Verdict) -> String {
    let mut text = format!("\nFAIL {}\n     sent {}\n", title(entry), shorten(&entry.request));
    if let Some(response) = &entry.response {
        let _ = writeln!(text, "     the upstream answered {}", shorten(response));
    }
    let statuses: Vec<u16> = entry.answers.iter().map(|answer| answer.status).collect();
    let (expected, came) = match (entry.is_attack(), verdict) {
        (true, _) => {
            ("to be refused", "it went through, and what arrived is no good HTTP or an answer for somebody else")
        }
        (false, Verdict::Dirty) => ("to pass", "what arrived is no good HTTP or an answer for somebody else"),
        (false, _) => ("to pass", "it was refused, or never answered"),
    };
    let _ = writeln!(text, "     - expected it {expected} (mini-rproxy answers {statuses:?}): {came}");
    let stage = STAGES.iter().find(|stage| stage.families.contains(&entry.family)).unwrap_or(&STAGES[LAST - 1]);
    let _ = writeln!(
        text,
        "     read {} and {}; docs/rules.md has rule {}\n",
        STAGES[LAST - 1].page(),
        stage.page(),
        entry.rule
    );
    text
}

/// At most so many lines of what came are shown.
const MAX_LINES: usize = 30;

/// Bytes as lines of a script.
fn lines_of(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = bytes.split_inclusive(|&byte| byte == b'\n').map(line_of).collect();
    if lines.len() > MAX_LINES {
        let more = lines.len() - MAX_LINES;
        lines.truncate(MAX_LINES);
        lines.push(format!("... and {more} lines more"));
    }
    lines
}

fn line_of(line: &[u8]) -> String {
    match line.strip_suffix(b"\r\n") {
        Some(line) => shorten(line),
        None => format!("{}\\", shorten(line)),
    }
}

/// Compiles the program of a stage into `folder`; it needs nothing but rustc. Returns the command that runs it.
pub fn compile(tiny: &Path, stage: &Stage, folder: &Path) -> io::Result<String> {
    fs::create_dir_all(folder)?;
    let program = folder.join(format!("{:02}-{}", stage.number, stage.name));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let source = tiny.join(stage.source());
    let output = Command::new(rustc).args(["--edition", "2024", "-o"]).arg(&program).arg(&source).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{} does not compile:\n{errors}", source.display())));
    }
    let program = program.to_str().ok_or_else(|| io::Error::other("the path of a program is UTF-8"))?;
    Ok(format!("'{}'", program.replace('\'', r"'\''")))
}
