//! The lessons: each takes one thing out of a copy of this tree, shows which tests fail, and judges what a learner puts
//! in its place. `make lessons` lists them; README.md beside this file tells how to use and how to write one.
//!
//! ```text
//! run list                      the lessons
//! run lesson N [--here] [--reset] [--check] [--hint 1..4]
//! run fresh                     whether each lesson still fits the sources
//! run prove [N ...]             whether exactly the named tests of each lesson fail
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Where the chapters are, whose names begin with their numbers.
const GUIDE: &str = "docs/guide";
/// What every repair has to pass beside the tests of its lesson.
const FAST_SUITE: [&str; 5] = ["lib", "net", "parser", "wire", "smuggling"];
/// Parts of the unit tests that take long, by what their names have in them: `lib` leaves them out.
const LONG_PARTS: [(&str, &str); 2] = [("net", "net::"), ("parser", "s8_an_independent_parser_agrees")];
/// What is run for a lesson that names no suite.
const LESSON_SUITE: [&str; 3] = ["lib", "wire", "smuggling"];
/// Seconds that one build, and one run of a test program, may take: a lesson can make a program wait forever.
const BUILD_SECONDS: u32 = 1200;
const RUN_SECONDS: u32 = 300;
/// How much is shown of a failure, and of a script.
const MAX_SHOWN_LINES: usize = 25;
/// And how much of a script before the line at which it went another way.
const SHOWN_BEFORE: usize = 15;
/// Of more failures only the names are shown.
const MAX_SHOWN_FAILURES: usize = 3;

/// A test program and the name of a test in it.
type TestName = (String, String);

struct Lesson {
    number: usize,
    path: PathBuf,
    /// The page of the guide: there are two lessons for each chapter.
    chapter: PathBuf,
    title: String,
    rules: String,
    features: String,
    suite: Vec<String>,
    /// The file with the gap, and its lines before and after.
    file: String,
    original: String,
    broken: String,
    symptom: String,
    hints: [String; 3],
    fails: BTreeSet<TestName>,
    /// Those that notice only where the machine happens to be slow enough, or fast enough.
    may_fail: BTreeSet<TestName>,
}

impl Lesson {
    /// Lines `name: value`, then sections that begin with `== name`.
    fn parse(path: &Path, text: &str) -> Result<Lesson, String> {
        let error = |what: &str| format!("{}: {what}", path.display());
        let mut parts = text.split("\n== ");
        let headers: BTreeMap<&str, &str> = parts
            .next()
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(": ").ok_or_else(|| error(&format!("no `name: value`: {line}"))))
            .collect::<Result<_, _>>()?;
        let sections: BTreeMap<&str, &str> = parts
            .map(|part| part.split_once('\n').unwrap_or((part, "")))
            .map(|(name, text)| (name.trim(), text))
            .collect();
        let header = |name: &str| headers.get(name).map(|value| value.trim().to_owned());
        let section = |name: &str| {
            sections
                .get(name)
                .map(|text| text.trim_matches('\n').to_owned())
                .ok_or_else(|| error(&format!("no == {name}")))
        };
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let number = name.split('-').next().and_then(|digits| digits.parse().ok());
        let number: usize = number.ok_or_else(|| error("the name begins with a number"))?;
        let tests = |text: &str| {
            text.lines()
                .map(|line| line.split_once(' ').map(|(program, test)| (program.to_owned(), test.to_owned())))
                .collect::<Option<BTreeSet<_>>>()
                .filter(|tests| !tests.is_empty())
                .ok_or_else(|| error("== fails and == may fail have lines `PROGRAM TEST`, at least one"))
        };
        let may_fail = section("may fail").ok().map(|text| tests(&text)).transpose()?.unwrap_or_default();
        let suite = header("suite").unwrap_or_else(|| LESSON_SUITE.join(" "));
        Ok(Lesson {
            number,
            path: path.to_owned(),
            chapter: chapter(number).ok_or_else(|| error("the guide has no chapter for this number"))?,
            title: header("title").ok_or_else(|| error("no title"))?,
            rules: header("rules").unwrap_or_default(),
            features: header("features").unwrap_or_default(),
            suite: suite.split_whitespace().map(str::to_owned).collect(),
            file: header("file").ok_or_else(|| error("no file"))?,
            original: section("take out")?,
            broken: section("put in")?,
            symptom: section("symptom")?,
            hints: [section("hint 1")?, section("hint 2")?, section("hint 3")?],
            fails: tests(&section("fails")?)?,
            may_fail,
        })
    }

    /// All lessons, in order.
    fn all() -> Result<Vec<Lesson>, String> {
        let folder = Path::new("examples/lessons");
        let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "lesson"));
        paths.sort();
        let lessons: Vec<Lesson> =
            paths.iter().map(|path| Lesson::parse(path, &read(path)?)).collect::<Result<_, _>>()?;
        match lessons.windows(2).find(|pair| pair[0].number == pair[1].number) {
            Some(pair) => Err(format!("{} and {}: one number", pair[0].path.display(), pair[1].path.display())),
            None => Ok(lessons),
        }
    }

    /// The file of the lesson below `tree`, without the piece.
    fn take_out(&self, tree: &Path) -> Result<String, String> {
        let text = format!("\n{}", read(&tree.join(&self.file))?);
        let original = format!("\n{}\n", self.original);
        match text.matches(&original).count() {
            1 => {
                let broken = if self.broken.is_empty() { "\n".to_owned() } else { format!("\n{}\n", self.broken) };
                Ok(text.replace(&original, &broken)[1..].to_owned())
            }
            count => Err(format!(
                "{} is out of date: {} has the lines to take out {count} times, and should have them once",
                self.path.display(),
                self.file
            )),
        }
    }

    /// What repairs it, as a difference.
    fn solution(&self) -> String {
        let (new, old): (Vec<&str>, Vec<&str>) = (self.original.lines().collect(), self.broken.lines().collect());
        let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
        let first = same(&mut new.iter().zip(&old));
        let last = same(&mut new[first..].iter().rev().zip(old[first..].iter().rev()));
        let show = |sign: &str, lines: &[&str]| lines.iter().map(|line| format!("{sign}{line}\n")).collect::<String>();
        let mut out = format!("--- {0}, as it is in the lesson\n+++ {0}, as it was\n@@\n", self.file);
        out += &show(" ", &new[..first]);
        out += &show("-", &old[first..old.len() - last]);
        out += &show("+", &new[first..new.len() - last]);
        out + &show(" ", &new[new.len() - last..])
    }
}

/// The page of the guide for a lesson.
fn chapter(lesson: usize) -> Option<PathBuf> {
    let number = format!("{:02}-", lesson.div_ceil(2));
    let is_it =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(number.as_bytes()));
    fs::read_dir(GUIDE).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path())).find(is_it)
}

/// What became of the tests of some programs.
#[derive(Default)]
struct Outcome {
    passed: BTreeSet<TestName>,
    /// With what they said.
    failed: BTreeMap<TestName, String>,
}

impl Outcome {
    /// Names the tests of a lesson that were not run, and counts them.
    fn show_missing(&self, lesson: &Lesson) -> usize {
        let was_run = |test: &TestName| self.passed.contains(test) || self.failed.contains_key(test);
        let missing = lesson.fails.iter().chain(&lesson.may_fail).filter(|test| !was_run(test));
        missing.inspect(|(program, test)| println!("\nNOT RUN {program} {test}")).count()
    }
}

/// The one place where cargo is run, whichever tree is meant: with another path the compiler would begin anew, and with
/// another tree at an older time cargo would take what it built last for this one.
struct Bench {
    tree: PathBuf,
    target: PathBuf,
    features: String,
    /// Held while it is in use.
    _lock: File,
}

impl Bench {
    fn cargo(&self, seconds: u32) -> Command {
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = Command::new("timeout");
        command.arg(seconds.to_string()).args(cargo.split_whitespace());
        command.args(["test", "--locked", "--no-default-features", "--features", &self.features]);
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        // Without debug information a build takes half the time, and one that goes on from the last a tenth.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "1");
        command.env("RUST_BACKTRACE", "0").env_remove("UPDATE_GOLDEN");
        // Each wire script in four random splits instead of forty, each entry of the catalogue in two instead of four: most of the
        // time would go there.
        command.env("RANDOM_RUNS", "2");
        command.stdin(Stdio::null());
        command
    }

    /// The arguments that choose a program.
    fn target_of(program: &str) -> Vec<&str> {
        let is_lib = program == "lib" || part_of(program).is_some();
        if is_lib { vec!["--lib"] } else { vec!["--test", program] }
    }

    /// Builds these test programs. What the compiler says is the error.
    fn build<'n>(&self, programs: impl IntoIterator<Item = &'n str>) -> Result<(), String> {
        let mut command = self.cargo(BUILD_SECONDS);
        command.args(["--quiet", "--no-run"]);
        let programs: BTreeSet<_> = programs.into_iter().map(Bench::target_of).collect();
        command.args(programs.into_iter().flatten());
        let output = command.output().map_err(|error| format!("timeout: {error}"))?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Runs a test program that is built: all of it, or one test.
    fn run(&self, program: &str, test: Option<&str>, outcome: &mut Outcome) -> Result<(), String> {
        let mut command = self.cargo(RUN_SECONDS);
        command.args(Bench::target_of(program)).arg("--");
        match (test, part_of(program)) {
            (Some(test), _) => _ = command.args(["--exact", test]),
            (None, Some(part)) => _ = command.arg(part),
            (None, None) if program == "lib" => {
                LONG_PARTS.iter().for_each(|(_, part)| _ = command.args(["--skip", part]))
            }
            (None, None) => {}
        }
        let program = if part_of(program).is_some() { "lib" } else { program };
        let output = command.output().map_err(|error| format!("timeout: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut is_any_failed = false;
        for line in text.lines() {
            let Some((name, result)) = line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... ")) else {
                continue;
            };
            let name = name.trim_end().trim_end_matches(" - should panic");
            let key = (program.to_owned(), name.to_owned());
            if result == "ok" {
                outcome.passed.insert(key);
            } else if result == "FAILED" {
                is_any_failed = true;
                outcome.failed.insert(key, message_of(&text, name));
            }
        }
        if !output.status.success() && !is_any_failed {
            let how = match output.status.code() {
                Some(124) => format!("did not end within {RUN_SECONDS} seconds"),
                _ => format!("ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr)),
            };
            outcome.failed.insert((program.to_owned(), "(the program)".to_owned()), how);
        }
        Ok(())
    }

    /// Builds and runs these programs.
    fn run_all<'n>(&self, programs: impl IntoIterator<Item = &'n str> + Clone) -> Result<Outcome, String> {
        self.build(programs.clone())?;
        let mut outcome = Outcome::default();
        for program in programs {
            self.run(program, None, &mut outcome)?;
        }
        Ok(outcome)
    }
}

/// What the names of the tests in a part of the unit tests contain.
fn part_of(program: &str) -> Option<&'static str> {
    LONG_PARTS.iter().find(|(name, _)| *name == program).map(|(_, part)| *part)
}

/// What the failed test wrote, in the output of a test program.
fn message_of(text: &str, name: &str) -> String {
    let starts = [format!("---- {name} stdout ----"), format!("---- {name} ----")];
    let lines = text.lines().skip_while(|line| !starts.iter().any(|start| start == line)).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("---- ") && *line != "failures:");
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("note: run with")).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, text));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs git in `folder` and returns what it prints.
fn git(folder: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new("git").current_dir(folder).args(args).output();
    let output = output.map_err(|error| format!("the lessons need git: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)))
    }
}

/// Which files of the repository at `folder` are copied.
const TRACKED: &[&str] = &["ls-files", "-z", "--cached"];
const TRACKED_AND_NEW: &[&str] = &["ls-files", "-z", "--cached", "--others", "--exclude-standard"];

/// Makes `to` a copy of the files of `from`, as they are now. A file that is the same already keeps its time, so that cargo
/// builds nothing twice.
fn copy_tree(from: &Path, to: &Path, which: &[&str]) -> Result<(), String> {
    let files = git(from, which)?;
    let files: BTreeSet<PathBuf> = files.split_terminator('\0').map(PathBuf::from).collect();
    for file in files.iter().filter(|file| from.join(file).is_file()) {
        let bytes = fs::read(from.join(file)).map_err(|error| format!("{}: {error}", file.display()))?;
        if fs::read(to.join(file)).ok().as_deref() != Some(&bytes) {
            write(&to.join(file), bytes)?;
        }
    }
    remove_others(from, to, to, &files)
}

/// Removes what is in `folder`, a part of `to`, and not in `from`.
fn remove_others(from: &Path, to: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_others(from, to, &path, files)?;
        } else if !path.strip_prefix(to).is_ok_and(|file| files.contains(file) && from.join(file).is_file()) {
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn indent(text: &str, sign: &str) -> String {
    let mut lines: Vec<String> = text.lines().take(MAX_SHOWN_LINES).map(|line| format!("    {sign}{line}")).collect();
    let left = text.lines().count() - lines.len();
    if left > 0 {
        lines.push(format!("    {sign}... and {left} lines more"));
    }
    lines.join("\n")
}

fn show_failures(tree: &Path, failed: &BTreeMap<TestName, String>) {
    for (index, ((program, test), message)) in failed.iter().enumerate() {
        println!("\nFAILED {program} {test}");
        if index >= MAX_SHOWN_FAILURES {
            continue;
        }
        let script = tree.join("tests/wire").join(format!("{test}.wire"));
        if let ("wire", Ok(text)) = (program.as_str(), read(&script)) {
            let odd = message.lines().find_map(|line| line.strip_prefix("line ")?.parse::<usize>().ok()).unwrap_or(1);
            let first = odd.saturating_sub(SHOWN_BEFORE);
            let shown: Vec<&str> = text.lines().skip(first).collect();
            println!(
                "  the script, {}, from line {}:\n{}",
                script.display(),
                first + 1,
                indent(&shown.join("\n"), "| ")
            );
        }
        println!("  what was wrong:\n{}", indent(message, ""));
    }
}

/// What `make lesson` was asked for.
#[derive(Default)]
struct Options {
    is_here: bool,
    is_reset: bool,
    is_check: bool,
    hint: Option<usize>,
}

struct Runner {
    lessons: Vec<Lesson>,
    /// Where copies and builds are: `target/lessons`.
    folder: PathBuf,
}

impl Runner {
    fn list(&self) {
        let mut chapter = None;
        for lesson in &self.lessons {
            if chapter != Some(&lesson.chapter) {
                chapter = Some(&lesson.chapter);
                println!("{}", lesson.chapter.display());
            }
            let state = match (self.passed(lesson).exists(), self.tree_of(lesson, false).exists()) {
                (true, _) => "  (passed)",
                (false, true) => "  (begun)",
                (false, false) => "",
            };
            println!("{:>4}  {}{state}", lesson.number, lesson.title);
        }
        println!("\nmake lesson {} begins one.", self.lessons.first().map_or(1, |lesson| lesson.number));
    }

    fn tree_of(&self, lesson: &Lesson, is_here: bool) -> PathBuf {
        if is_here { PathBuf::from(".") } else { self.folder.join(format!("{:02}", lesson.number)) }
    }

    /// The place to build, with what is in `tree` now.
    fn bench(&self, tree: &Path, features: &str) -> Result<Bench, String> {
        let error = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        let (place, target) = (self.folder.join("tree"), self.folder.join("build"));
        fs::create_dir_all(&place).map_err(error)?;
        fs::create_dir_all(&target).map_err(error)?;
        let lock = File::create(self.folder.join("lock")).map_err(error)?;
        if lock.try_lock().is_err() {
            println!("Another lesson is being built: waiting for it ...");
            lock.lock().map_err(error)?;
        }
        copy_tree(tree, &place, TRACKED_AND_NEW)?;
        Ok(Bench {
            tree: place,
            target: target.canonicalize().map_err(error)?,
            features: features.to_owned(),
            _lock: lock,
        })
    }

    fn lesson(&self, number: &str, options: &Options) -> Result<bool, String> {
        let lesson = number.parse().ok().and_then(|number| self.lessons.iter().find(|lesson| lesson.number == number));
        let lesson = lesson.ok_or_else(|| {
            let named = if number.is_empty() { String::new() } else { format!(" {number}") };
            format!("there is no lesson{named}: make lessons lists them, make lesson 5 begins one")
        })?;
        let tree = self.tree_of(lesson, options.is_here);
        match options.hint {
            Some(hint @ 1..=3) => println!("{}", lesson.hints[hint - 1]),
            Some(4) => print!("{}", lesson.solution()),
            Some(_) => return Err("HINT is 1, 2 or 3; HINT=4 is the solution".to_owned()),
            None if options.is_check => return self.judge(lesson, &tree),
            None => self.begin(lesson, &tree, options)?,
        }
        Ok(true)
    }

    fn begin(&self, lesson: &Lesson, tree: &Path, options: &Options) -> Result<(), String> {
        let number = lesson.number;
        let (here, mut is_new) = (if options.is_here { " HERE=1" } else { "" }, true);
        if options.is_here {
            let changed = git(tree, &["status", "--porcelain", "--untracked-files=no"])?;
            if !changed.is_empty() {
                return Err(format!(
                    "HERE=1 needs a checkout without changes; git restore takes these back:\n{changed}"
                ));
            }
            write(&tree.join(&lesson.file), lesson.take_out(tree)?)?;
        } else {
            if options.is_reset && tree.exists() {
                fs::remove_dir_all(tree).map_err(|error| format!("{}: {error}", tree.display()))?;
                _ = fs::remove_file(self.passed(lesson));
            }
            is_new = !tree.exists();
            if is_new {
                self.prepare(lesson, tree)?;
            }
        }
        println!("Lesson {number}: {}", lesson.title);
        println!("Chapter: {}", lesson.chapter.display());
        if !lesson.rules.is_empty() {
            println!("Rules:   {} in docs/rules.md", lesson.rules);
        }
        println!("\n{}\n", lesson.symptom);
        let begun = if is_new { "" } else { ", where you have begun (RESET=1 begins anew)" };
        let place = if options.is_here { "this checkout".to_owned() } else { tree.display().to_string() };
        println!("The tree of this lesson is {place}{begun}. Its tests are built and run ...");
        let outcome = self.run_named(lesson, tree)?;
        show_failures(tree, &outcome.failed);
        let missing = outcome.show_missing(lesson);
        if outcome.failed.is_empty() && missing == 0 {
            println!("\nNone of the lesson's tests fails any more.");
        }
        println!("\nLook at   {}", tree.join(&lesson.file).display());
        println!("Changes   git -C {} diff", tree.display());
        println!("A hint    make lesson {number} HINT=1   (then 2 and 3; 4 is the solution)");
        println!("Judge it  make lesson {number} CHECK=1{here}");
        Ok(())
    }

    /// Copies the tree, takes the piece out, and makes it a repository of its own: `git diff` shows what the learner did.
    fn prepare(&self, lesson: &Lesson, tree: &Path) -> Result<(), String> {
        let broken = lesson.take_out(Path::new("."))?;
        let unfinished = self.folder.join("new");
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished).map_err(|error| format!("{}: {error}", unfinished.display()))?;
        copy_tree(Path::new("."), &unfinished, TRACKED)?;
        write(&unfinished.join(&lesson.file), broken)?;
        git(&unfinished, &["init", "--quiet"])?;
        git(&unfinished, &["add", "--all", "--force"])?;
        let who = ["-c", "user.name=lesson", "-c", "user.email=lesson@localhost", "-c", "commit.gpgsign=false"];
        let message = format!("Lesson {}", lesson.number);
        git(&unfinished, &[&who[..], &["commit", "--quiet", "--no-verify", "--message", &message]].concat())?;
        fs::rename(&unfinished, tree).map_err(|error| format!("{}: {error}", tree.display()))
    }

    /// Runs the tests that the lesson is about.
    fn run_named(&self, lesson: &Lesson, tree: &Path) -> Result<Outcome, String> {
        let bench = self.bench(tree, &lesson.features)?;
        bench.build(lesson.fails.iter().map(|(program, _)| program.as_str()))?;
        let mut outcome = Outcome::default();
        for (program, test) in &lesson.fails {
            bench.run(program, Some(test), &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Whether the lesson's tests pass, and everything else that is quick to run.
    fn judge(&self, lesson: &Lesson, tree: &Path) -> Result<bool, String> {
        let number = lesson.number;
        if !tree.exists() {
            return Err(format!("lesson {number} has not begun: make lesson {number}"));
        }
        println!("Lesson {number}: {}. {} is built and tested, which takes a minute ...", lesson.title, tree.display());
        let changed = git(tree, &["diff", "--name-only", "HEAD", "--", "tests"])?;
        if !changed.is_empty() {
            println!("\nNOT YET: the tests stay as they are. Changed are:\n{changed}");
            return Ok(false);
        }
        let programs: BTreeSet<&str> = FAST_SUITE.into_iter().chain(lesson.suite.iter().map(String::as_str)).collect();
        let outcome = match self.bench(tree, &lesson.features)?.run_all(programs) {
            Ok(outcome) => outcome,
            Err(error) => {
                println!("{error}\nNOT YET: it does not compile.");
                return Ok(false);
            }
        };
        let (named, others): (BTreeMap<_, _>, BTreeMap<_, _>) = outcome
            .failed
            .iter()
            .map(|(test, text)| (test.clone(), text.clone()))
            .partition(|(test, _)| lesson.fails.contains(test));
        show_failures(tree, &named);
        show_failures(tree, &others);
        let missing = outcome.show_missing(lesson);
        let is_good = outcome.failed.is_empty() && missing == 0;
        let left = named.len() + missing;
        match (is_good, left, others.len()) {
            (true, ..) => println!(
                "\nPASSED: the {} tests of the lesson, and {} others.",
                lesson.fails.len(),
                outcome.passed.len() - lesson.fails.len()
            ),
            (false, left, others) => {
                let all = lesson.fails.len();
                println!("\nNOT YET: of the lesson's {all} tests {left} do not pass yet; of all others {others} fail.")
            }
        }
        let passed = self.passed(lesson);
        if is_good {
            write(&passed, "")?
        } else {
            _ = fs::remove_file(passed)
        }
        Ok(is_good)
    }

    /// The file that tells that a lesson's repair was judged good.
    fn passed(&self, lesson: &Lesson) -> PathBuf {
        self.folder.join(format!("{:02}.passed", lesson.number))
    }

    fn fresh(&self) -> Result<bool, String> {
        self.lessons.iter().try_for_each(|lesson| lesson.take_out(Path::new(".")).map(drop))?;
        println!("{} lessons fit the sources", self.lessons.len());
        Ok(true)
    }

    /// Takes the piece of each lesson out in turn, in a copy at one fixed place, and compares which tests fail.
    fn prove(&self, numbers: &[String]) -> Result<bool, String> {
        let mut bench = self.bench(Path::new("."), "")?;
        let is_chosen =
            |lesson: &&Lesson| numbers.is_empty() || numbers.iter().any(|number| number.parse() == Ok(lesson.number));
        let chosen: Vec<&Lesson> = self.lessons.iter().filter(is_chosen).collect();
        let mut is_good = true;
        let mut suites: BTreeMap<&String, BTreeSet<&str>> = BTreeMap::new();
        for lesson in &chosen {
            suites.entry(&lesson.features).or_default().extend(lesson.suite.iter().map(String::as_str));
        }
        for (features, suite) in suites {
            let start = Instant::now();
            features.clone_into(&mut bench.features);
            let outcome = bench.run_all(suite.iter().copied())?;
            let names: Vec<&str> = suite.into_iter().collect();
            println!(
                "nothing taken out, {}: {} tests pass ({} s)",
                names.join(" "),
                outcome.passed.len(),
                start.elapsed().as_secs()
            );
            show_failures(&bench.tree, &outcome.failed);
            is_good &= outcome.failed.is_empty();
        }
        for lesson in chosen {
            let start = Instant::now();
            let path = bench.tree.join(&lesson.file);
            let whole = read(&path)?;
            write(&path, lesson.take_out(&bench.tree)?)?;
            lesson.features.clone_into(&mut bench.features);
            let outcome = bench.run_all(lesson.suite.iter().map(String::as_str));
            write(&path, whole)?;
            let outcome = outcome.map_err(|error| format!("{}: {error}", lesson.path.display()))?;
            let found: BTreeSet<TestName> =
                outcome.failed.keys().filter(|test| !lesson.may_fail.contains(test)).cloned().collect();
            let is_exact = found == lesson.fails && outcome.show_missing(lesson) == 0;
            let verdict = if is_exact { "ok" } else { "WRONG" };
            println!(
                "{:>2} {verdict}: {} tests fail ({} s)  {}",
                lesson.number,
                found.len(),
                start.elapsed().as_secs(),
                lesson.title
            );
            for (program, test) in lesson.fails.difference(&found) {
                println!("   it does not fail: {program} {test}");
            }
            for key @ (program, test) in found.difference(&lesson.fails) {
                println!("   it fails and is not named: {program} {test}\n{}", indent(&outcome.failed[key], ""));
            }
            is_good &= is_exact;
        }
        Ok(is_good)
    }
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--here" => options.is_here = true,
            "--reset" => options.is_reset = true,
            "--check" => options.is_check = true,
            "--hint" => options.hint = Some(args.next().and_then(|hint| hint.parse().ok()).unwrap_or(0)),
            other => return Err(format!("{other}: make lesson N [CHECK=1] [HINT=1..4] [RESET=1] [HERE=1]")),
        }
    }
    Ok(options)
}

fn run() -> Result<bool, String> {
    let args: Vec<String> = env::args().skip(1).collect();
    let target = env::var("TARGET").unwrap_or_else(|_| "target".to_owned());
    let runner = Runner { lessons: Lesson::all()?, folder: Path::new(&target).join("lessons") };
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => runner.list(),
        ["fresh"] => return runner.fresh(),
        ["prove", ..] => return runner.prove(&args[1..]),
        ["lesson", number, ..] => return runner.lesson(number, &options(&args[2..])?),
        _ => return Err("make lessons lists the lessons, make lesson 5 begins one".to_owned()),
    }
    Ok(true)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
