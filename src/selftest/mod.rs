//! The smuggling catalogue, run against this very build: `mini-rproxy -selftest`.
//!
//! The entries are data (`tests/smuggling/*.smug`), embedded in the binary. Each one says what a client sends, what an
//! origin answers, what the client must get and which messages the origin must see. The same entries and the same judge
//! are used in memory by `cargo test --test smuggling`; here they go over real sockets on the loopback interface.
//!
//! | file | one job |
//! |---|---|
//! | [`strict`] | a second, independent parser: what leaves the proxy must please it |
//! | [`entry`], [`notation`], [`catalogue`] | what an entry is, how it is written, all of them |
//! | [`script`] | what the origin of an entry says, and when |
//! | [`mod@judge`] | what was seen against what was expected |
//! | [`origin`], [`client`] | both ends, on sockets |
//! | [`round`] | one entry through one proxy |
//! | [`report`] | pass or fail for each rule |
//!
//! Nothing is written to disk, no configuration is read, and nothing but the loopback interface is used.

use std::time::{Duration, Instant};

pub mod strict;
pub mod entry;
pub mod notation;
pub mod catalogue;
pub mod script;
pub mod judge;
pub mod origin;
pub mod client;
pub mod round;
pub mod report;

use entry::Entry;
use judge::judge;
use report::{Report, Verdict};
use round::{CannotPlay, play};

/// A run ends after so long, whatever is left.
const MOST: Duration = Duration::from_secs(15);

/// Plays all entries, one after the other.
pub fn run(entries: &[Entry]) -> Result<Report<'_>, CannotPlay> {
    let start = Instant::now();
    let mut verdicts = Vec::with_capacity(entries.len());
    for entry in entries {
        let verdict = if start.elapsed() > MOST {
            Verdict::NotRun
        } else {
            let wrong = judge(entry, &play(entry)?);
            if wrong.is_empty() { Verdict::Pass } else { Verdict::Fail(wrong) }
        };
        verdicts.push((entry, verdict));
    }
    Ok(Report { verdicts, took: start.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over real sockets, as an operator runs it.
    fn played(text: &str) -> bool {
        let entries = notation::parse("test", text).expect("a good text");
        run(&entries).expect("a loopback interface").is_pass()
    }

    #[test]
    fn it_passes_what_is_so_and_fails_what_is_not() {
        let good = "S1 x\n> POST / HTTP/1.1\n> Host: a\n> Content-Length: 2\n>\n> hi\\\n= 200\n^ POST / length:hi\n";
        assert!(played(good));
        for (from, to) in [
            ("= 200", "= 204"),
            ("length:hi", "length:ho"),
            ("^ POST / length:hi", "^ POST / length:hi\n^ GET /"),
            ("= 200", "= 200\n- Date"),
        ] {
            assert!(!played(&good.replace(from, to)), "{to}");
        }
    }
}
