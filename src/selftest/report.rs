//! What came of a run, rule by rule, for an operator to read.

use std::fmt::{self, Write};
use std::time::Duration;

use super::entry::Entry;

/// What each rule is about, in the order of the report.
const RULES: [(&str, &str); 24] = [
    ("S1", "Content-Length and Transfer-Encoding together"),
    ("S2", "Content-Length is one line of digits"),
    ("S3", "Transfer-Encoding is exactly chunked"),
    ("S4", "only responses end by closing"),
    ("S5", "chunk sizes and chunk lines"),
    ("S6", "chunk extensions"),
    ("S7", "the line end behind a chunk"),
    ("S8", "line ends, controls, names of fields"),
    ("S9", "names that look like framing fields"),
    ("S10", "long heads"),
    ("S11", "Host, and URLs as targets"),
    ("S12", "the request line"),
    ("S13", "messages are written anew"),
    ("S14", "bodies where none is expected, and early answers"),
    ("S15", "Expect"),
    ("S16", "Upgrade and CONNECT"),
    ("S17", "trailer fields"),
    ("S18", "responses: status lines, bodies, bytes behind them"),
    ("S20", "dot segments"),
    ("S21", "versions"),
    ("S22", "nothing is served, or echoed, behind an error"),
    ("G1", "fields that Connection names"),
    ("G2", "fields of our own that it cannot name"),
    ("G9", "interim responses"),
];

/// How one entry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Pass,
    /// Everything that was wrong.
    Fail(Vec<String>),
    /// There was no time left.
    NotRun,
}

/// All entries with their verdicts.
#[derive(Debug)]
pub struct Report<'a> {
    /// In the order of the catalogue.
    pub verdicts: Vec<(&'a Entry, Verdict)>,
    /// From start to end.
    pub took: Duration,
}

impl Report<'_> {
    /// Whether every entry passed, and there was one.
    pub fn is_pass(&self) -> bool {
        !self.verdicts.is_empty() && self.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Pass)
    }

    fn count(&self, is_counted: impl Fn(&Entry, &Verdict) -> bool) -> usize {
        self.verdicts.iter().filter(|(entry, verdict)| is_counted(entry, verdict)).count()
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (entry, verdict) in &self.verdicts {
            let Verdict::Fail(wrong) = verdict else { continue };
            writeln!(f, "FAIL {} {}.smug: {}", entry.rule, entry.family, entry.name)?;
            writeln!(f, "     sent {}", shorten(&entry.request))?;
            if let Some(response) = &entry.response {
                writeln!(f, "     answered with {}", shorten(response))?;
            }
            for sentence in wrong {
                writeln!(f, "     - {sentence}")?;
            }
        }
        for (rule, about) in RULES {
            let all = self.count(|entry, _| entry.rule == rule);
            let passed = self.count(|entry, verdict| entry.rule == rule && *verdict == Verdict::Pass);
            let word = if passed == all { "pass" } else { "FAIL" };
            writeln!(f, "{word} {rule:<4}{passed:>4} of {all:>3}  {about}")?;
        }
        let passed = self.count(|_, verdict| *verdict == Verdict::Pass);
        let not_run = self.count(|_, verdict| *verdict == Verdict::NotRun);
        let word = if self.is_pass() { "pass" } else { "FAIL" };
        let seconds = self.took.as_secs_f64();
        write!(f, "{word}: {passed} of {} entries as expected, in {seconds:.1} s", self.verdicts.len())?;
        if not_run > 0 {
            write!(f, "; {not_run} were not run, because time was up")?;
        }
        f.write_char('\n')
    }
}

/// The beginning of some bytes, as text.
fn shorten(bytes: &[u8]) -> String {
    const MOST: usize = 300;
    let more = if bytes.len() > MOST { format!(" ... ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", bytes[..bytes.len().min(MOST)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::catalogue::entries;
    use crate::selftest::notation::parse;

    #[test]
    fn every_rule_of_the_catalogue_is_in_the_report() {
        for entry in entries().expect("a good catalogue") {
            assert!(RULES.iter().any(|(rule, _)| *rule == entry.rule), "{}", entry.rule);
        }
    }

    #[test]
    fn a_failure_is_explained() {
        let entries = parse("test", "S1 a\n> x\n= 200\n\nS1 b\n> y\n= 400\n\nS2 c\n> z\n= 400").expect("a good text");
        let fail = Verdict::Fail(vec!["expected x: it was y".to_owned()]);
        let verdicts = [Verdict::Pass, fail, Verdict::NotRun];
        let report = Report { verdicts: entries.iter().zip(verdicts).collect(), took: Duration::from_millis(1234) };
        let text = report.to_string();
        for line in [
            "FAIL S1 test.smug: b\n     sent y\\r\\n\n     - expected x: it was y\n",
            "FAIL S1     1 of   2  ",
            "FAIL S2     0 of   1  ",
            "pass S3     0 of   0  ",
            "FAIL: 1 of 3 entries as expected, in 1.2 s; 1 were not run, because time was up\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!report.is_pass());
    }

    #[test]
    fn nothing_is_no_pass() {
        assert!(!Report { verdicts: Vec::new(), took: Duration::ZERO }.is_pass());
    }
}
