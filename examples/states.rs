//! Prints the states of a connection and their transitions as Mermaid diagrams: `cargo run --example states`.

use std::fmt::Write as _;

use mini_rproxy::proxy::state::{CONNECTION, REQUEST, RESPONSE, Table};

#[allow(dead_code, reason = "tests/layers includes this file")]
fn main() {
    print!("{}", diagrams());
}

/// The diagrams as they stand in docs/architecture.md.
pub fn diagrams() -> String {
    let mut text = String::new();
    let tables: [(&str, &Table, &str); 3] = [
        ("The client's connection", &CONNECTION, "Idle"),
        ("The client's side, while the connection is active", &REQUEST, "Head"),
        ("The upstream's side, while the connection is active", &RESPONSE, "None"),
    ];
    for (title, table, first) in tables {
        writeln!(text, "{title}:\n\n```mermaid\nstateDiagram-v2\n    [*] --> {first}")
            .expect("a string takes everything");
        for (from, event, to) in table.transitions() {
            writeln!(text, "    {from} --> {to}: {event}").expect("a string takes everything");
        }
        text.push_str("```\n\n");
    }
    text
}
