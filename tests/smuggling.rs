//! The smuggling catalogue, in memory: every entry of `tests/smuggling` whole, byte by byte, and in random splits.
//!
//! `tests/smuggling/src/smug_format.rs` explains the files. `make selftest` plays the same entries over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use mini_rproxy::config::Config;
use mini_rproxy::proxy::proxy_connection::{Peer, Side};
use selftest::entry::{Entry, entries};
use selftest::judge::{Observed, judge};
use selftest::strict::Token;
use selftest::upstream::{ConnectionAction, PROBE, Script};
use testkit::wire::{Ending, Entry as Noted, Link, Setup, Split, Wire};
use testkit::{Random, random_runs};

mod testkit;

/// How many ways of cutting at random each entry is run in.
const RANDOM_RUNS: u64 = 4;

fn main() -> ExitCode {
    let entries = match entries() {
        Ok(entries) => entries,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = vec![
        Trial::test("it_is_large_enough", {
            let entries = entries.clone();
            move || is_large_enough(&entries)
        }),
        Trial::test("no_name_stands_twice", {
            let entries = entries.clone();
            move || has_no_double_names(&entries)
        }),
        Trial::test("each_rule_is_kept_and_broken", {
            let entries = entries.clone();
            move || has_both_kinds(&entries)
        }),
    ];
    trials.extend(entries.into_iter().map(|entry| Trial::test(name_of(&entry), move || run(&entry))));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The rule first, as in the names of all tests.
fn name_of(entry: &Entry) -> String {
    let words = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let mut name: String = format!("{}_{}::", entry.rule, entry.family).chars().map(words).collect();
    name = name.replace("__", "::");
    name + entry.name.trim()
}

fn run(entry: &Entry) -> Result<(), Failed> {
    let mut ways =
        vec![("whole".to_owned(), Split::Whole, false), ("by the relay lane".to_owned(), Split::Whole, true)];
    ways.push(("byte by byte".to_owned(), Split::Bytes, false));
    ways.extend(
        (1..=random_runs(RANDOM_RUNS))
            .map(|seed| (format!("seed {seed}"), Split::Random(Random::new(seed)), seed % 2 == 0)),
    );
    for (name, split, lane) in ways {
        let wrong = match play(entry, split, lane) {
            Ok(observed) => judge(entry, &observed),
            Err(error) => vec![error],
        };
        if !wrong.is_empty() {
            return Err(format!("{name}:\n  {}", wrong.join("\n  ")).into());
        }
    }
    Ok(())
}

/// Plays the entry in memory.
fn play(entry: &Entry, split: Split, lane: bool) -> Result<Observed, String> {
    static CONFIG: OnceLock<Arc<Config>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let text = "routes:\n  - {prefix: /, upstream: \"http://origin.example\"}\n  - {prefix: /sub, upstream: \
                    \"http://origin.example/base\"}\n";
        Arc::new(Config::parse(text, "smuggling").expect("a good configuration"))
    });
    let peer = Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), is_tls: false, ..Peer::default() };
    let mut wire = Wire::new(&Setup { config: Arc::clone(config), peer, plugin: None, split, lane });
    wire.send(Side::Client, &entry.request);
    wire.send(Side::Client, PROBE);
    wire.run()?;
    let mut script = Script::new(entry);
    // How many requests were answered on the loan with this number.
    let mut answered = (0, 0);
    while wire.link == Link::Open {
        let Some(loan) = wire.loans.last() else { break };
        if answered.0 != wire.loans.len() {
            answered = (wire.loans.len(), 0);
        }
        let Some(reply) = script.next(&loan.requests, answered.1) else { break };
        wire.send(Side::Upstream, reply.bytes);
        match reply.then {
            ConnectionAction::SameRequest => {}
            ConnectionAction::NextRequest => answered.1 += 1,
            ConnectionAction::Tunnel => answered.1 = usize::MAX,
            ConnectionAction::Close => {
                answered.1 += 1;
                wire.stop(Side::Upstream, Ending::Fin);
            }
        }
        wire.run()?;
    }
    let is_closing = |note: &str| note.starts_with("X ") && note.ends_with(" downstream");
    let is_closed = wire.transcript.iter().any(|noted| matches!(noted, Noted::Note(note) if is_closing(note)));
    wire.stop(Side::Client, Ending::Fin);
    wire.stop(Side::Upstream, Ending::Fin);
    wire.run()?;
    testkit::invariants::at_the_end(&wire)?;
    let tunnelled = wire.transcript.iter().filter_map(|noted| match noted {
        Noted::Bytes(Side::Upstream, Token::Raw(bytes)) => Some(bytes.as_slice()),
        Noted::Bytes(..) | Noted::Note(_) | Noted::Event => None,
    });
    let tunnelled = tunnelled.collect::<Vec<_>>().concat();
    Ok(Observed {
        client: wire.answered.clone(),
        is_closed,
        requests: wire.loans.iter().flat_map(|loan| loan.requests.messages.iter().cloned()).collect(),
        violations: wire.loans.iter().filter_map(|loan| loan.requests.error.clone()).collect(),
        tunnelled,
        log: std::mem::take(&mut wire.log.entries),
    })
}

fn is_large_enough(entries: &[Entry]) -> Result<(), Failed> {
    let distinct: BTreeSet<_> = entries.iter().map(|entry| (&entry.request, &entry.response)).collect();
    let responses = distinct.iter().filter(|(_, response)| response.is_some()).count();
    let requests = distinct.len() - responses;
    if requests < 300 || responses < 100 {
        return Err(format!("{requests} requests and {responses} responses: at least 300 and 100 are wanted").into());
    }
    Ok(())
}

fn has_no_double_names(entries: &[Entry]) -> Result<(), Failed> {
    let mut names = BTreeSet::new();
    let doubles: Vec<_> = entries.iter().map(name_of).filter(|name| !names.insert(name.clone())).collect();
    if doubles.is_empty() { Ok(()) } else { Err(doubles.join("\n").into()) }
}

/// These rules drop something, and refuse nothing.
const DROPPING: [&str; 3] = ["G2", "S9", "S17"];

/// These are kept and broken by clients as well as by origins.
const BOTH_SIDES: [&str; 10] = ["S1", "S2", "S3", "S5", "S6", "S7", "S8", "S10", "S21", "S22"];

/// A proxy that refuses everything, or nothing, must fail: each family has entries of both kinds, and so has each rule that
/// forbids something.
fn has_both_kinds(entries: &[Entry]) -> Result<(), Failed> {
    let mut kinds: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for entry in entries {
        let side = if entry.family.starts_with("response_") { "responses" } else { "requests" };
        let of_side = BOTH_SIDES.contains(&entry.rule.as_str()).then_some((side, entry.rule.as_str()));
        for key in [("family", entry.family), ("rule", entry.rule.as_str())].into_iter().chain(of_side) {
            let counts = kinds.entry(key).or_default();
            if entry.is_attack() { counts.1 += 1 } else { counts.0 += 1 }
        }
    }
    let missing = |side, rule| (!kinds.contains_key(&(side, rule))).then(|| format!("no {side} for {rule}"));
    let missing = BOTH_SIDES.iter().flat_map(|rule| [missing("requests", rule), missing("responses", rule)]);
    let mut wrong: Vec<_> = missing.flatten().collect();
    let one_sided = kinds
        .iter()
        .filter(|((_, name), counts)| counts.0 == 0 || (counts.1 == 0 && !DROPPING.contains(name)))
        .map(|one| format!("{one:?}"));
    wrong.extend(one_sided);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
