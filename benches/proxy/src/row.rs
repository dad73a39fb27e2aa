//! One line of the table: a figure of each peer, and how ours stands against its targets.

use std::collections::BTreeMap;

use crate::peer::Peer;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Processor time for one request.
    MicrosPerRequest,
    /// Processor time for 2^30 bytes of content.
    SecondsPerGibibyte,
    /// Bytes for each connection.
    BytesEach,
    /// 2^20 bytes.
    Mebibytes,
    /// 1/1000 s.
    Milliseconds,
    /// 1/1,000,000 s.
    Microseconds,
    /// Things in each second.
    PerSecond,
    /// One figure over another.
    Ratio,
    /// Things counted, for each request.
    EachRequest,
    /// Things counted.
    Count,
}

impl Unit {
    /// As it stands in the table.
    pub fn sign(self) -> &'static str {
        match self {
            Unit::MicrosPerRequest => "us CPU a request",
            Unit::SecondsPerGibibyte => "s CPU a GiB",
            Unit::BytesEach => "bytes each",
            Unit::Mebibytes => "MiB",
            Unit::Milliseconds => "ms",
            Unit::Microseconds => "us",
            Unit::PerSecond => "a second",
            Unit::Ratio => "ratio",
            Unit::EachRequest => "a request",
            Unit::Count => "in all",
        }
    }
}

/// Figures of one peer, one for each repetition.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The one in the middle.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// Smallest and largest.
    pub fn spread(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
    }

    /// One over the other, repetition by repetition: what disturbs a repetition disturbs both.
    pub fn over(&self, other: &Samples) -> Samples {
        Samples(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    /// One without the other, likewise.
    pub fn minus(&self, other: &Samples) -> Samples {
        Samples(self.0.iter().zip(&other.0).map(|(one, other)| one - other).collect())
    }
}

/// Which side of the limit is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// Small is good.
    AtMost,
    /// Large is good.
    AtLeast,
}

/// A target and what was measured.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Against what: "nginx", or nothing for a plain number.
    pub against: String,
    /// What was measured.
    pub measured: f64,
    /// Where the limit is.
    pub limit: f64,
    /// Which side is good.
    pub sense: Sense,
}

impl Goal {
    /// Whether the target is met. Something that could not be measured is not.
    pub fn is_met(&self) -> bool {
        match self.sense {
            Sense::AtMost => self.measured <= self.limit,
            Sense::AtLeast => self.measured >= self.limit,
        }
    }

    /// "0.87 x nginx (at most 0.90): met"
    pub fn sentence(&self) -> String {
        let times = if self.against.is_empty() { String::new() } else { format!(" x {}", self.against) };
        let sense = match self.sense {
            Sense::AtMost => "at most",
            Sense::AtLeast => "at least",
        };
        let verdict = if self.is_met() { "met" } else { "**missed**" };
        format!("{}{times} ({sense} {}): {verdict}", figure(self.measured), figure(self.limit))
    }
}

/// What a proxy did beside its cost, for information.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Requests in a second.
    pub per_second: Samples,
    /// How much of its core the proxy used.
    pub busy: Samples,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// What was measured, in words.
    pub what: String,
    /// In which unit.
    pub unit: Unit,
    /// The figures.
    pub figures: BTreeMap<Peer, Samples>,
    /// Requests in a second and so on.
    pub pace: BTreeMap<Peer, Pace>,
    /// The targets.
    pub goals: Vec<Goal>,
}

impl Row {
    /// A line without figures yet.
    pub fn new(scenario: &str, what: &str, unit: Unit) -> Row {
        Row {
            scenario: scenario.to_owned(),
            what: what.to_owned(),
            unit,
            figures: BTreeMap::new(),
            pace: BTreeMap::new(),
            goals: Vec::new(),
        }
    }

    /// Adds a figure.
    pub fn add(&mut self, peer: Peer, value: f64) {
        self.figures.entry(peer).or_default().0.push(value);
    }

    /// Takes out a peer that has failed.
    pub fn forget(&mut self, peer: Peer) {
        self.figures.remove(&peer);
        self.pace.remove(&peer);
    }

    /// The target: ours at most `limit` times this peer's.
    pub fn at_most(&mut self, limit: f64, against: Peer) {
        if let Some(other) = self.figures.get(&against).cloned() {
            self.at_most_times(limit, against.title(), &other);
        }
    }

    /// The target: ours at most `limit` times these figures.
    pub fn at_most_times(&mut self, limit: f64, against: &str, other: &Samples) {
        if let Some(ours) = self.figures.get(&Peer::Ours) {
            let measured = ours.over(other).median();
            self.goals.push(Goal { against: against.to_owned(), measured, limit, sense: Sense::AtMost });
        }
    }

    /// The target: ours at most `limit` times that of nginx, HAProxy (splicing or not) or Envoy, whichever is smallest.
    pub fn at_most_best_peer(&mut self, limit: f64) {
        let best = [Peer::HaProxy, Peer::SplicingHaProxy, Peer::Nginx, Peer::Envoy]
            .into_iter()
            .filter_map(|peer| Some((peer, self.figures.get(&peer)?)))
            .min_by(|one, other| one.1.median().total_cmp(&other.1.median()));
        if let Some((peer, figures)) = best {
            self.at_most_times(limit, &format!("{}, the best peer", peer.title()), &figures.clone());
        }
    }

    /// The target: ours at most this.
    pub fn at_most_value(&mut self, limit: f64) {
        if let Some(ours) = self.figures.get(&Peer::Ours) {
            let goal = Goal { against: String::new(), measured: ours.median(), limit, sense: Sense::AtMost };
            self.goals.push(goal);
        }
    }

    /// The target: ours at least this.
    pub fn at_least_value(&mut self, limit: f64) {
        if let Some(ours) = self.figures.get(&Peer::Ours) {
            let goal = Goal { against: String::new(), measured: ours.median(), limit, sense: Sense::AtLeast };
            self.goals.push(goal);
        }
    }
}

/// Three digits that matter, without an exponent.
pub fn figure(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "?".to_owned()
    } else if size >= 1000.0 {
        thousands(value)
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// A whole number, with commas.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_that_matter() {
        for (value, expected) in [
            (0.004, "0.00"),
            (0.871, "0.87"),
            (9.999, "10.0"),
            (13.29, "13.3"),
            (124.4, "124"),
            (1134.0, "1,134"),
            (50300.2, "50,300"),
            (1e6, "1,000,000"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(figure(value), expected, "{value}");
        }
    }

    #[test]
    fn ratios_are_taken_repetition_by_repetition() {
        let (ours, other) = (Samples(vec![10.0, 20.0, 9.0]), Samples(vec![20.0, 40.0, 10.0]));
        assert_eq!(ours.over(&other).median(), 0.5);
        assert_eq!(Samples(vec![4.0, 1.0]).median(), 2.5);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn a_goal_judges_itself() {
        let mut row = Row::new("small", "", Unit::MicrosPerRequest);
        for (peer, value) in [(Peer::Ours, 9.0), (Peer::Nginx, 10.0), (Peer::HaProxy, 12.0)] {
            row.add(peer, value);
        }
        row.at_most(0.8, Peer::HaProxy);
        row.at_most_best_peer(0.8);
        row.at_most(1.0, Peer::Relay);
        row.at_least_value(9.0);
        let sentences: Vec<_> = row.goals.iter().map(Goal::sentence).collect();
        assert_eq!(
            sentences,
            [
                "0.75 x HAProxy (at most 0.80): met",
                "0.90 x nginx, the best peer (at most 0.80): **missed**",
                "9.00 (at least 9.00): met"
            ]
        );
        let nothing = Goal { against: String::new(), measured: f64::NAN, limit: 1.0, sense: Sense::AtMost };
        assert!(!nothing.is_met());
    }
}
