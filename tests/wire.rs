//! Runs every script in `tests/wire`: whole, byte by byte, and in random splits, with and without the relay lane.
//!
//! `UPDATE_GOLDEN=1 cargo test --test wire` writes what comes out into the files; read the difference before you keep it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use mini_rproxy::proxy::state::{CONNECTION, REQUEST, RESPONSE, Table};

mod testkit;

/// Transitions that only other tests make.
const UNUSED: &[(&str, &str, &str)] = &[("Idle", "bad PROXY header", "Closed")];

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    };
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wire"));
    // Their configurations are refused by other builds.
    files.retain(|path| {
        cfg!(feature = "tls") || !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"tls_"))
    });
    files.sort();
    let trials = files.into_iter().map(|path| {
        let name = path.file_stem().map_or(String::new(), |stem| stem.to_string_lossy().into_owned());
        Trial::test(name, move || run(&path, update))
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.collect());
    let were_all_run = conclusion.num_passed > 0 && conclusion.num_filtered_out == 0 && !conclusion.has_failed();
    if were_all_run && cfg!(debug_assertions) {
        let unused: Vec<_> = [&CONNECTION, &REQUEST, &RESPONSE].into_iter().flat_map(Table::unused).collect();
        if unused != UNUSED {
            eprintln!("transitions of proxy::state that no script makes: {unused:#?}\nexpected: {UNUSED:#?}");
            return ExitCode::FAILURE;
        }
    }
    conclusion.exit_code()
}

fn run(path: &Path, update: bool) -> Result<(), Failed> {
    let mut text = std::fs::read_to_string(path)?;
    if update {
        let golden = testkit::script::golden(&text)?;
        if golden != text {
            std::fs::write(path, &golden)?;
        }
        text = golden;
    }
    testkit::script::check(&text)?;
    Ok(())
}
