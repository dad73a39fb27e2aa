//! The smuggling catalogue through this proxy, nginx and HAProxy, each in front of the same recording origin.
//!
//! `make differential` prints the table of docs/smuggling.md. What the others do differs from version to version and is printed,
//! not judged. What is judged is ours: whatever it passes on that both others refuse must be what the catalogue says, and
//! clean for the strict parser.

#[path = "../support/mod.rs"]
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

mod peer;

use std::fmt::Write;

use mini_rproxy::selftest::catalogue::entries;
use mini_rproxy::selftest::entry::Entry;
use mini_rproxy::selftest::judge::{Seen, judge};
use mini_rproxy::selftest::round::play;
use mini_rproxy::selftest::script::{PROBE_BODY, is_probe};
use peer::{HAPROXY, NGINX, Peer};

/// So many entries a peer plays at once: each takes a few threads and descriptors.
const AT_ONCE: usize = 150;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was not passed on.
    Refused,
    /// It was passed on, and whoever got it got well-formed messages.
    Clean,
    /// It was passed on, and what arrived breaks the grammar: another recipient may read something else in it. Or the next
    /// request on the connection got an answer that is not its own.
    Dirty,
}

/// Whether the catalogue wants the entry refused.
fn is_trick(entry: &Entry) -> bool {
    entry.why.is_some()
}

/// What came out, as far as it matters for smuggling. Names of fields, targets and the like are not looked at: that is for
/// the catalogue's own judge.
fn outcome(entry: &Entry, seen: &Seen) -> Outcome {
    let victims = seen.forwarded.iter().filter(|message| is_probe(&message.head.start)).count();
    let is_final = |status: &u16| *status >= 200 || *status == 101;
    let answers = &seen.answered;
    let statuses: Vec<u16> = answers.messages.iter().map(|message| message.head.status()).filter(is_final).collect();
    let last = answers.messages.last();
    let is_victim_misled = statuses.len() > 1 && victims == 1 && last.is_some_and(|last| last.body != PROBE_BODY);
    let is_cut = last.is_none_or(|last| !last.is_complete);
    if !seen.sins.is_empty() || answers.error.is_some() || answers.unasked > victims || (is_victim_misled && !is_cut) {
        return Outcome::Dirty;
    }
    // An error that the origin has sent is passed on like any other answer.
    let theirs = entry.answers.iter().map(|answer| answer.status).filter(|_| !is_trick(entry));
    let theirs: Vec<u16> = theirs.collect();
    let is_error = statuses.iter().any(|status| *status >= 400 && !theirs.contains(status));
    if is_error || is_cut { Outcome::Refused } else { Outcome::Clean }
}

/// How many entries of a kind ended how.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    refused: usize,
    clean: usize,
    dirty: usize,
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Refused => self.refused += 1,
            Outcome::Clean => self.clean += 1,
            Outcome::Dirty => self.dirty += 1,
        }
    }
}

fn table(entries: &[Entry], all: &[(&str, Vec<Outcome>)]) -> String {
    let mut text = String::from("| family | tricks |");
    for (name, _) in all {
        let _ = write!(text, " {name} refuses / passes / passes dirty |");
    }
    text += " harmless |";
    for (name, _) in all {
        let _ = write!(text, " {name} passes |");
    }
    let columns = 3 + 2 * all.len();
    let _ = writeln!(text, "\n|{}", "---|".repeat(columns));
    let mut families: Vec<&str> = entries.iter().map(|entry| entry.family).collect();
    families.dedup();
    families.push("all");
    for family in families {
        let of_kind = |outcomes: &[Outcome], trick: bool| {
            let mut counts = Counts::default();
            let pairs = entries.iter().zip(outcomes);
            let pairs =
                pairs.filter(|(entry, _)| is_trick(entry) == trick && (family == "all" || entry.family == family));
            pairs.for_each(|(_, outcome)| counts.add(*outcome));
            counts
        };
        for trick in [true, false] {
            let counts: Vec<Counts> = all.iter().map(|(_, outcomes)| of_kind(outcomes, trick)).collect();
            let total = counts.first().map_or(0, |one| one.refused + one.clean + one.dirty);
            let _ = if trick { write!(text, "| `{family}` | {total} |") } else { write!(text, " {total} |") };
            for one in counts {
                let _ = match trick {
                    true => write!(text, " {} / {} / {} |", one.refused, one.clean, one.dirty),
                    false => write!(text, " {} |", one.clean),
                };
            }
        }
        text.push('\n');
    }
    text
}

fn played_by(peer: Peer, entries: &[Entry]) -> Vec<Outcome> {
    let seen = entries.chunks(AT_ONCE).flat_map(|some| peer.play(some));
    seen.zip(entries).map(|(seen, entry)| outcome(entry, &seen)).collect()
}

#[test]
fn s1_ours_is_never_laxer_than_nginx_and_haproxy_in_a_harmful_way() {
    if support::is_missing("nginx") || support::is_missing("haproxy") {
        return;
    }
    let entries = entries().expect("a good catalogue");
    let ours: Vec<Seen> = entries.iter().map(|entry| play(entry).expect("a loopback interface")).collect();
    let our_outcomes: Vec<Outcome> = entries.iter().zip(&ours).map(|(entry, seen)| outcome(entry, seen)).collect();
    let (nginx, haproxy) = (played_by(NGINX, &entries), played_by(HAPROXY, &entries));
    let all = [("mini-rproxy", our_outcomes), ("nginx", nginx), ("HAProxy", haproxy)];
    println!("{}\n{}\n\n{}", NGINX.version(), HAPROXY.version(), table(&entries, &all));
    let [(_, ours_as), (_, nginx), (_, haproxy)] = &all;
    let details = std::env::var_os("DIFFERENTIAL_DETAILS").is_some();
    let mut wrong = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let here = (ours_as[index], nginx[index], haproxy[index]);
        let name = format!("{} {}.smug: {}", entry.rule, entry.family, entry.name);
        let is_laxer = here.0 != Outcome::Refused && here.1 == Outcome::Refused && here.2 == Outcome::Refused;
        if is_laxer {
            println!("both others refuse: {name}");
        }
        if details && (here.0 != here.1 || here.0 != here.2) {
            println!("{name}: {here:?}");
        }
        // Ours refuses every trick, and what it passes on is what the catalogue says.
        let is_right = here.0 == if is_trick(entry) { Outcome::Refused } else { Outcome::Clean };
        let sentences = judge(entry, &ours[index]);
        if !is_right || !sentences.is_empty() {
            wrong.push(format!("{name}: {:?} {sentences:?}", here.0));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
