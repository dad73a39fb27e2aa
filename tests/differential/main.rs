//! The smuggling catalogue through this proxy, nginx and HAProxy.
//!
//! `make differential` prints the tables. What the others do differs from version to version and is printed, not judged. What
//! is judged is ours: each attack is refused, each harmless neighbour passes, and all is as the catalogue says.

#[path = "../support/mod.rs"]
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

mod peer;

use std::process::Command;

use peer::{HAPROXY, NGINX, Peer};
use selftest::entry::{Entry, entries};
use selftest::judge::{Observed, Verdict, verdict};
use selftest::report::{by_family, by_rule, title};
use selftest::runner::run_binary;

/// How many entries a peer plays at once: each takes a few threads and descriptors.
const MAX_PARALLEL: usize = 150;

fn played_by(peer: Peer, entries: &[Entry]) -> Vec<Observed> {
    let observed: Vec<Observed> = entries.chunks(MAX_PARALLEL).flat_map(|some| peer.play(some)).collect();
    println!("{}\n{}", peer.version(), by_family(entries, &observed, false).text);
    observed
}

#[test]
fn s1_ours_is_never_laxer_than_nginx_and_haproxy_in_a_harmful_way() {
    if support::is_missing("nginx") || support::is_missing("haproxy") {
        return;
    }
    let entries = entries().expect("a good catalogue");
    let ours = run_binary(Command::new(support::proxy::BINARY), &entries).expect("it runs");
    let (exact, by_families) = (by_rule(&entries, &ours), by_family(&entries, &ours, true));
    println!("mini-rproxy\n{}", by_families.text);
    let (nginx, haproxy) = (played_by(NGINX, &entries), played_by(HAPROXY, &entries));
    let has_details = std::env::var_os("DIFFERENTIAL_DETAILS").is_some();
    for (index, entry) in entries.iter().enumerate() {
        let [ours, nginx, haproxy] = [&ours, &nginx, &haproxy].map(|observed| verdict(entry, &observed[index]));
        if ours != Verdict::Refused && nginx == Verdict::Refused && haproxy == Verdict::Refused {
            println!("both others refuse: {}", title(entry));
        }
        if has_details && (ours != nginx || ours != haproxy) {
            println!("{}: {ours:?}, nginx {nginx:?}, HAProxy {haproxy:?}", title(entry));
        }
    }
    assert!(exact.is_pass && by_families.is_pass, "{}\n{}", exact.text, by_families.text);
}
