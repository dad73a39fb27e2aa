//! What was measured, as tables for people and as JSON for programs.

use std::fmt::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::peer::{PEERS, Peer, program};
use crate::row::{Row, Samples, figure};

/// Where and when a run was made.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Machine and kernel.
    pub machine: String,
    /// Versions of the peers.
    pub versions: String,
    /// The command that repeats it.
    pub command: String,
}

impl Circumstances {
    /// Asks the system.
    pub fn find(command: &str, proxy: &Path) -> Circumstances {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let models: Vec<&str> = cpus
            .lines()
            .filter_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim()))
            .collect();
        let machine = format!(
            "{} x {}, Linux {}",
            models.len(),
            models.first().unwrap_or(&"unknown processor"),
            read("/proc/sys/kernel/osrelease").trim()
        );
        Circumstances { machine, versions: versions(proxy), command: command.to_owned() }
    }

    /// One sentence for the reader of a table.
    pub fn sentence(&self) -> String {
        format!("{}. `{}`", self.place(), self.command)
    }

    /// When, where and against whom.
    pub fn place(&self) -> String {
        format!("{}, {}; {}", today(), self.machine, self.versions)
    }
}

/// What the proxies call themselves.
fn versions(proxy: &Path) -> String {
    let ask = |peer: Peer, flag: &str| {
        let path = if peer == Peer::Ours { proxy.to_owned() } else { program(peer).ok()? };
        let output = std::process::Command::new(path).arg(flag).output().ok()?;
        version_in(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat()))
    };
    [(Peer::Ours, "-version"), (Peer::Nginx, "-v"), (Peer::HaProxy, "-v"), (Peer::Envoy, "--version")]
        .map(|(peer, flag)| format!("{} {}", peer.title(), ask(peer, flag).unwrap_or_else(|| "not there".to_owned())))
        .join(", ")
}

/// The first word that is a number with a dot in it. Envoy prints a hash before it.
fn version_in(text: &str) -> Option<String> {
    let word = |word: &str| {
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        Some(word[..end].to_owned()).filter(|number| number.contains('.') && !number.starts_with('.'))
    };
    text.split([' ', '/']).find_map(word)
}

/// The date in UTC.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    // Days to year, month and day: count from 1 March 0000, so that a leap day is the last day of a year.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The peers that have a figure somewhere, in the table's order.
fn columns(rows: &[Row]) -> Vec<Peer> {
    PEERS.into_iter().filter(|peer| rows.iter().any(|row| row.figures.contains_key(peer))).collect()
}

/// The main table and, below it, requests in a second. Markdown, so that it can go into a page as it is.
pub fn markdown(rows: &[Row], circumstances: &Circumstances) -> String {
    let peers = columns(rows);
    let mut text = format!("{}\n\n", circumstances.sentence());
    heading(&mut text, &["scenario", "what", "unit"], &peers, &["targets of mini-rproxy"]);
    for row in rows {
        let _ = write!(text, "| {} | {} | {} |", row.scenario, row.what, row.unit.sign());
        for peer in &peers {
            let _ = write!(text, " {} |", row.figures.get(peer).map_or_else(String::new, cell));
        }
        let goals: Vec<_> = row.goals.iter().map(|goal| goal.sentence()).collect();
        let _ = writeln!(text, " {} |", goals.join("<br>"));
    }
    let with_pace: Vec<&Row> = rows.iter().filter(|row| !row.pace.is_empty()).collect();
    if !with_pace.is_empty() {
        text.push_str("\nRequests in a second, and how much of its core the proxy used:\n\n");
        heading(&mut text, &["scenario", "what"], &peers, &[]);
        for row in with_pace {
            let _ = write!(text, "| {} | {} |", row.scenario, row.what);
            for peer in &peers {
                let pace = row.pace.get(peer).map_or_else(String::new, |pace| {
                    format!("{}, {:.0} %", figure(pace.per_second.median()), pace.busy.median() * 100.0)
                });
                let _ = write!(text, " {pace} |");
            }
            text.push('\n');
        }
    }
    let goals = || rows.iter().flat_map(|row| &row.goals);
    let met = goals().filter(|goal| goal.is_met()).count();
    let _ = writeln!(text, "\n{met} of {} targets met.", goals().count());
    text
}

fn heading(text: &mut String, first: &[&str], peers: &[Peer], last: &[&str]) {
    let titles: Vec<&str> =
        first.iter().copied().chain(peers.iter().map(|peer| peer.title())).chain(last.iter().copied()).collect();
    let _ = writeln!(text, "| {} |\n|{}", titles.join(" | "), "---|".repeat(titles.len()));
}

/// "13.3 (12.9-14.0)": median, smallest and largest.
fn cell(samples: &Samples) -> String {
    let (low, high) = samples.spread();
    if samples.0.len() < 2 {
        return figure(samples.median());
    }
    format!("{} ({}-{})", figure(samples.median()), figure(low), figure(high))
}

/// Everything, sample by sample.
pub fn as_json(rows: &[Row], circumstances: &Circumstances) -> Value {
    let of = |row: &Row| {
        let figures: serde_json::Map<String, Value> = row
            .figures
            .iter()
            .map(|(peer, samples)| {
                let pace = row.pace.get(peer).cloned().unwrap_or_default();
                let value = json!({
                    "median": samples.median(),
                    "samples": samples.0,
                    "requests_per_second": pace.per_second.0,
                    "core_used": pace.busy.0,
                });
                (peer.title().to_owned(), value)
            })
            .collect();
        let goals: Vec<Value> = row
            .goals
            .iter()
            .map(|goal| json!({"sentence": goal.sentence(), "measured": goal.measured, "met": goal.is_met()}))
            .collect();
        json!({"scenario": row.scenario, "what": row.what, "unit": row.unit.sign(), "figures": figures, "goals": goals})
    };
    json!({
        "date": today(),
        "machine": circumstances.machine,
        "versions": circumstances.versions,
        "command": circumstances.command,
        "rows": rows.iter().map(of).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, expected) in [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", "2.6.12"),
            ("envoy  version: 9e55809337/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(expected));
        }
        assert_eq!(version_in("no such option"), None);
    }
}
