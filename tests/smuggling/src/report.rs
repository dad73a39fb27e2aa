//! What came of a run, for an operator to read.

use std::fmt::Write;

use crate::entry::Entry;
use crate::judge::{Observed, Verdict, judge, verdict};
use crate::player::shorten;

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

/// A text to print, and whether everything is as it should be.
#[derive(Debug)]
pub struct Report {
    /// Lines, each with its end.
    pub text: String,
    /// Every entry was played and is as expected.
    pub is_pass: bool,
}

/// mini-rproxy: each entry as the catalogue says, to the letter, by rules. What is wrong stands above.
pub fn by_rule(entries: &[Entry], observed: &[Observed]) -> Report {
    let mut text = String::new();
    let wrong: Vec<_> = entries.iter().zip(observed).map(|(entry, observed)| judge(entry, observed)).collect();
    for (entry, wrong) in entries.iter().zip(&wrong).filter(|(_, wrong)| !wrong.is_empty()) {
        let _ = writeln!(text, "FAIL {}\n     sent {}", title(entry), shorten(&entry.request));
        if let Some(response) = &entry.response {
            let _ = writeln!(text, "     answered with {}", shorten(response));
        }
        wrong.iter().for_each(|sentence| text += &format!("     - {sentence}\n"));
    }
    let passed = |rule: &str| entries.iter().zip(&wrong).filter(|(e, w)| e.rule == rule && w.is_empty()).count();
    for (rule, about) in RULES {
        let (all, passed) = (entries.iter().filter(|entry| entry.rule == rule).count(), passed(rule));
        let _ = writeln!(text, "{} {rule:<4}{passed:>4} of {all:>3}  {about}", word(passed == all));
    }
    let passed = wrong.iter().filter(|wrong| wrong.is_empty()).count();
    let is_pass = passed == entries.len() && !entries.is_empty();
    let _ = writeln!(
        text,
        "{}: {passed} of {} entries as expected{}",
        word(is_pass),
        entries.len(),
        rest(entries, observed)
    );
    Report { text, is_pass }
}

/// Any proxy: attacks and their harmless neighbours, by families. With `details`, each that is not as it should be is named.
pub fn by_family(entries: &[Entry], observed: &[Observed], details: bool) -> Report {
    let verdicts: Vec<_> = entries.iter().zip(observed).map(|(entry, observed)| verdict(entry, observed)).collect();
    let mut text = String::new();
    for (entry, verdict) in
        entries.iter().zip(&verdicts).filter(|(entry, verdict)| details && !is_right(entry, **verdict))
    {
        let kind = if entry.is_attack() { "attack" } else { "harmless" };
        let _ = writeln!(text, "{verdict:?} ({kind}): {}", title(entry));
    }
    text += "                   |           attacks           |          harmless\n";
    text += "family             |    all refused passed dirty |    all refused passed dirty\n";
    let mut families: Vec<&str> = entries.iter().map(|entry| entry.family).collect();
    families.dedup();
    for family in families.iter().copied().chain([""]) {
        let _ = write!(text, "{:<19}", if family.is_empty() { "all" } else { family });
        for is_attack in [true, false] {
            let found: Vec<Verdict> = (entries.iter().zip(&verdicts))
                .filter(|(entry, _)| entry.is_attack() == is_attack && entry.family.starts_with(family))
                .map(|(_, verdict)| *verdict)
                .collect();
            let count = |wanted| found.iter().filter(|verdict| **verdict == wanted).count();
            let [refused, passed, dirty] = [Verdict::Refused, Verdict::Passed, Verdict::Dirty].map(count);
            let _ = write!(text, "|{:>7}{refused:>8}{passed:>7}{dirty:>6} ", found.len());
        }
        text = text.trim_end().to_owned() + "\n";
    }
    let right = entries.iter().zip(&verdicts).filter(|(entry, verdict)| is_right(entry, **verdict)).count();
    let is_pass = right == entries.len() && !entries.is_empty();
    let _ = writeln!(
        text,
        "{}: {right} of {} attacks refused or harmless entries passed{}",
        word(is_pass),
        entries.len(),
        rest(entries, observed)
    );
    Report { text, is_pass }
}

fn is_right(entry: &Entry, verdict: Verdict) -> bool {
    verdict == if entry.is_attack() { Verdict::Refused } else { Verdict::Passed }
}

fn word(is_pass: bool) -> &'static str {
    if is_pass { "pass" } else { "FAIL" }
}

/// Rule, file and name.
pub fn title(entry: &Entry) -> String {
    format!("{} {}.smug: {}", entry.rule, entry.family, entry.name)
}

fn rest(entries: &[Entry], observed: &[Observed]) -> String {
    let left = entries.len() - observed.len();
    if left > 0 { format!("; {left} were not played, because time was up") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::entries;
    use crate::judge::client_parser;
    use crate::smug_format::parse;
    use crate::strict::Strictness;

    /// The client got this.
    fn observed(entry: &Entry, response: &str) -> Observed {
        let mut client = client_parser(entry, Strictness::Strict);
        client.feed(response.as_bytes());
        let (requests, violations, tunnelled, log) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Observed { client, is_closed: true, requests, violations, tunnelled, log }
    }

    #[test]
    fn every_rule_of_the_catalogue_is_in_the_report() {
        for entry in entries().expect("a good catalogue") {
            assert!(RULES.iter().any(|(rule, _)| *rule == entry.rule), "{}", entry.rule);
        }
    }

    #[test]
    fn a_failure_is_explained() {
        let entries = parse("test", "S1 b\n> y\n= 400\n\nS2 c\n> z\n= 200").expect("a good text");
        let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let report = by_rule(&entries, &[observed(&entries[0], refused)]);
        for line in [
            "FAIL S1 test.smug: b\n     sent y\\r\\n\n     - expected the client to get [400]",
            "FAIL S1     0 of   1  ",
            "FAIL S2     0 of   1  ",
            "pass S3     0 of   0  ",
            "FAIL: 0 of 2 entries as expected; 1 were not played, because time was up\n",
        ] {
            assert!(report.text.contains(line), "{line} in {}", report.text);
        }
        assert!(!report.is_pass);
        let report = by_family(&entries, &[observed(&entries[0], refused), observed(&entries[1], refused)], true);
        for line in [
            "Refused (harmless): S2 test.smug: c\n",
            "\ntest               |      1       1      0     0 |      1       1      0     0\n",
            "\nFAIL: 1 of 2 attacks refused or harmless entries passed\n",
        ] {
            assert!(report.text.contains(line), "{line} in {}", report.text);
        }
    }

    #[test]
    fn nothing_is_no_pass() {
        assert!(!by_rule(&[], &[]).is_pass && !by_family(&[], &[], false).is_pass);
    }
}
