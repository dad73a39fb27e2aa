//! The costs as a picture for docs/performance.md: bars of processor time, mini-rproxy's always of the same length.
//!
//! It brings its own ground and both sets of colours, since nobody knows on what page it will stand.

use std::fmt::Write;

use crate::peer::Peer;
use crate::row::{Row, Unit, figure};

/// Ours first, the floors last.
const ORDER: [Peer; 7] =
    [Peer::Ours, Peer::Nginx, Peer::HaProxy, Peer::SplicingHaProxy, Peer::Envoy, Peer::Relay, Peer::SplicingRelay];

const COLUMN: usize = 430;
const MARGIN: usize = 24;
const TOP: usize = 62;
const HEADING: usize = 22;
const BAR: usize = 11;
const STEP: usize = 15;
const GAP: usize = 14;
/// Where bars begin in their column.
const LABELS: usize = 106;
/// Right of a bar its figure.
const FIGURES: usize = 112;
/// Longer bars are cut off; the figure beside them is right.
const MOST: f64 = 4.0;

const STYLE: &str = "\
text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.heading { font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.ground { fill: #ffffff; stroke: #d1d9e0 }
.ours { fill: #d9622b } .nginx { fill: #2f9e6b } .haproxy { fill: #4a7fd4 } .envoy { fill: #a05cc8 } .relay { fill: #a3adb8 }
.one { stroke: #d9622b; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .ground { fill: #0d1117; stroke: #3d444d }
  .ours { fill: #f0824a } .nginx { fill: #3fb57f } .haproxy { fill: #6a9bea } .envoy { fill: #bd85e0 } .relay { fill: #6e7883 }
  .one { stroke: #f0824a }
}
";

/// One scenario.
struct Group<'a> {
    row: &'a Row,
    ours: f64,
    bars: Vec<(Peer, f64)>,
}

impl Group<'_> {
    fn height(&self) -> usize {
        HEADING + self.bars.len() * STEP + GAP
    }
}

/// The picture, or nothing where no cost was measured. `below` is where and when.
pub fn svg(rows: &[Row], below: &str) -> Option<String> {
    let groups = groups(rows);
    let most = groups
        .iter()
        .flat_map(|group| group.bars.iter().map(|(_, value)| value / group.ours))
        .reduce(f64::max)?
        .clamp(1.0, MOST);
    let columns = columns(&groups);
    let height = columns.iter().map(|column| column.iter().map(|group| group.height()).sum::<usize>()).max()?;
    let (width, height) = (2 * COLUMN + 3 * MARGIN, TOP + height + 26);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>Processor time of each proxy</title>\n\
         <style>\n{STYLE}</style>\n\
         <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        width - 1,
        height - 1
    );
    write_text(&mut text, MARGIN, 27, "title", "Processor time of the proxy: shorter is better");
    write_text(&mut text, MARGIN, 45, "small", "× is over mini-rproxy; relays parse nothing and are the floor");
    for (at, column) in columns.iter().enumerate() {
        let left = MARGIN + at * (COLUMN + MARGIN);
        let mut top = TOP;
        for group in *column {
            write_group(&mut text, group, left, top, most);
            top += group.height();
        }
    }
    write_text(&mut text, MARGIN, height - 13, "small", below);
    text.push_str("</svg>\n");
    Some(text)
}

/// The first cost of each scenario.
fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in rows {
        let is_cost = matches!(row.unit, Unit::MicrosPerRequest | Unit::SecondsPerGibibyte);
        let is_new = groups.iter().all(|group| group.row.scenario != row.scenario);
        let Some(ours) = row.figures.get(&Peer::Ours).filter(|_| is_cost && is_new) else { continue };
        let bars = ORDER.into_iter().filter_map(|peer| Some((peer, row.figures.get(&peer)?.median()))).collect();
        groups.push(Group { row, ours: ours.median(), bars });
    }
    groups
}

/// Two columns, as even as the order allows.
fn columns<'g, 'r>(groups: &'g [Group<'r>]) -> [&'g [Group<'r>]; 2] {
    let height = |column: &[Group<'_>]| column.iter().map(Group::height).sum::<usize>();
    let unevenness = |count: &usize| height(&groups[..*count]).abs_diff(height(&groups[*count..]));
    let count = (0..=groups.len()).rev().min_by_key(unevenness).unwrap_or_default();
    [&groups[..count], &groups[count..]]
}

fn write_group(text: &mut String, group: &Group<'_>, left: usize, top: usize, most: f64) {
    let unit = if group.row.unit == Unit::SecondsPerGibibyte { "s a GiB" } else { "µs" };
    let room = (COLUMN - LABELS - FIGURES) as f64;
    let one = room / most;
    write_text(text, left, top + 13, "heading", &group.row.what);
    for (number, (peer, value)) in group.bars.iter().enumerate() {
        let y = top + HEADING + number * STEP;
        let class = match peer {
            Peer::Ours => "ours",
            Peer::Nginx => "nginx",
            Peer::HaProxy | Peer::SplicingHaProxy => "haproxy",
            Peer::Envoy => "envoy",
            Peer::Relay | Peer::SplicingRelay => "relay",
        };
        let ratio = value / group.ours;
        let len = room * ratio.min(most) / most;
        let label = match peer {
            Peer::Ours => format!("{} {unit}", figure(*value)),
            _ => format!("{} {unit}, {}×", figure(*value), figure(ratio)),
        };
        write_text(text, left, y + BAR - 2, "", peer.title());
        let _ = writeln!(
            text,
            "<rect class=\"{class}\" x=\"{}\" y=\"{y}\" width=\"{len:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            left + LABELS
        );
        // Clear of the line that marks ours.
        let after = left + LABELS + len.max(one).round() as usize + 6;
        write_text(text, after, y + BAR - 2, "small", &label);
    }
    let x = (left + LABELS) as f64 + one;
    let (from, to) = (top + HEADING - 2, top + HEADING + group.bars.len() * STEP - 2);
    let _ = writeln!(text, "<line class=\"one\" x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{to}\"/>");
}

fn write_text(text: &mut String, x: usize, y: usize, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(text, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: &str, unit: Unit, figures: &[(Peer, f64)]) -> Row {
        let mut row = Row::new(scenario, "a <b> & c", unit);
        for (peer, value) in figures {
            row.add(*peer, *value);
        }
        row
    }

    #[test]
    fn a_bar_is_as_long_as_its_cost_over_ours() {
        let rows = [
            row("one", Unit::MicrosPerRequest, &[(Peer::Relay, 5.0), (Peer::Nginx, 20.0), (Peer::Ours, 10.0)]),
            row("one", Unit::MicrosPerRequest, &[(Peer::Ours, 99.0)]),
            row("memory", Unit::Mebibytes, &[(Peer::Ours, 3.0)]),
        ];
        let picture = svg(&rows, "here").expect("a cost");
        let widths: Vec<&str> = picture
            .lines()
            .filter(|line| line.starts_with("<rect") && !line.contains("ground"))
            .filter_map(|line| line.split('"').nth(7))
            .collect();
        assert_eq!(widths, ["106.0", "212.0", "53.0"], "ours, nginx, the relay");
        assert!(picture.contains("20.0 µs, 2.00×") && picture.contains("a &lt;b> &amp; c"), "{picture}");
    }

    #[test]
    fn without_costs_there_is_no_picture() {
        assert_eq!(svg(&[row("memory", Unit::Mebibytes, &[(Peer::Ours, 3.0)])], ""), None);
        assert_eq!(svg(&[row("small", Unit::MicrosPerRequest, &[(Peer::Nginx, 3.0)])], ""), None);
    }
}
