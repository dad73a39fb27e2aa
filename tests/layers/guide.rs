//! What docs/architecture.md says of functions is true: the names exist, and the tour is short.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::text::{blank, is_name, item_len, without_tests};

/// Lines of the functions and types that the tour names.
const MAX_TOUR_LINES: usize = 1_500;

/// The places that a page names: `` `net/session::drive` `` is `drive` of src/net/session.rs.
fn places(page: &str) -> Vec<(&str, &str)> {
    let spans = page.split('`').skip(1).step_by(2);
    spans
        .filter_map(|span| span.split_once("::"))
        .filter(|(file, item)| {
            let is_file = file.contains('/') || ["cli", "log", "main"].contains(file);
            is_file && file.chars().all(|c| is_name(c) || c == '/') && item.chars().all(is_name)
        })
        .collect()
}

/// How many lines the item of that name takes, in a file that was blanked; `None` where there is none.
fn lines_of(code: &str, name: &str) -> Option<usize> {
    let start = ["fn ", "struct ", "enum ", "trait ", "type ", "const ", "static ", "macro_rules! "]
        .iter()
        .flat_map(|keyword| code.match_indices(&format!("{keyword}{name}")).collect::<Vec<_>>())
        .find(|(at, found)| !code[..*at].ends_with(is_name) && !code[at + found.len()..].starts_with(is_name));
    start.map(|(at, _)| code[at..][..item_len(&code[at..])].lines().count())
}

#[test]
fn the_page_of_the_architecture_names_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("the page is readable");
    let tour = page.split("## ").find(|section| section.starts_with("The tour")).expect("the page has a tour");
    let on_tour: BTreeSet<(&str, &str)> = places(tour).into_iter().collect();
    let mut wrong = Vec::new();
    let mut tour_lines = 0;
    for (file, item) in places(&page).into_iter().collect::<BTreeSet<_>>() {
        let path = if file.starts_with("tests/") { format!("{file}.rs") } else { format!("src/{file}.rs") };
        let lines =
            fs::read_to_string(root.join(&path)).ok().and_then(|text| lines_of(&without_tests(&blank(&text)), item));
        match lines {
            None => wrong.push(format!("{path} has no {item}")),
            Some(lines) if on_tour.contains(&(file, item)) => tour_lines += lines,
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "docs/architecture.md: {}", wrong.join("; "));
    assert!(on_tour.len() > 20, "the tour names {} places", on_tour.len());
    println!("the tour: {} places, {tour_lines} lines", on_tour.len());
    assert!(tour_lines <= MAX_TOUR_LINES, "the tour has {tour_lines} lines, and may have {MAX_TOUR_LINES}");
}
