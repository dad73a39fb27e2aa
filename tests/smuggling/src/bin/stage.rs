//! `stage`: the ten stages of a toy proxy, and a learner's own, judged.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use lexopt::{Arg, ValueExt};
use selftest::stages::{STAGES, Score, TABLE_HEAD, compile, judge_program};

const HELP: &str = "\
Judges a stage of the toy proxy in examples/tiny, or a program of your own.

  stage N                       stage N of examples/tiny, compiled with rustc
  stage N --proxy COMMAND       a program that is started as COMMAND LISTEN UPSTREAM [PREFIX], in any language
  stage --all                   all ten, as a table

  --details      names each entry of the smuggling catalogue that is not refused, or does not pass, as it should in the end
  --tiny DIR     where the stages are (default: examples/tiny)
  --target DIR   where they are compiled to (default: target/tiny)

Exits with 0 where everything that the stage must pass passes, 1 where not, 2 where it cannot be judged.
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("stage: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let (mut number, mut proxy, mut is_all, mut has_details) = (None, None, false, false);
    let (mut tiny, mut target) = ("examples/tiny".to_owned(), "target/tiny".to_owned());
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Value(value) if number.is_none() => number = Some(value.parse::<usize>()?),
            Arg::Long("proxy") => proxy = Some(args.value()?.string()?),
            Arg::Long("all") => is_all = true,
            Arg::Long("details") => has_details = true,
            Arg::Long("tiny") => tiny = args.value()?.string()?,
            Arg::Long("target") => target = args.value()?.string()?,
            Arg::Long("help") | Arg::Short('h') => {
                print!("{HELP}");
                return Ok(true);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let (tiny, target) = (Path::new(&tiny), Path::new(&target));
    let judge = |number: usize| -> Result<Score, Box<dyn Error>> {
        let stage =
            number.checked_sub(1).and_then(|index| STAGES.get(index)).ok_or("a stage is a number from 1 to 10")?;
        let command = match &proxy {
            Some(command) => command.clone(),
            None => compile(tiny, stage, target)?,
        };
        Ok(judge_program(&command, &tiny.join("scripts"), number)?)
    };
    if is_all {
        let (mut is_pass, mut wrong) = (true, String::new());
        print!("{TABLE_HEAD}");
        for stage in STAGES {
            let score = judge(stage.number)?;
            print!("{}", score.row());
            is_pass &= score.is_pass();
            if !score.is_pass() {
                wrong += &score.report();
            }
        }
        print!("{wrong}");
        return Ok(is_pass);
    }
    let score = judge(number.ok_or("which stage? --help tells more")?)?;
    if has_details {
        print!("{}", score.details());
    }
    print!("{}", score.report());
    Ok(score.is_pass())
}
