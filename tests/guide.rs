//! What docs/architecture.md and the guide (docs/guide) say of the code is true: excerpts are the source as it stands, names
//! and links lead somewhere, the tour is short.
//!
//! An excerpt is a fenced block below a line `<!-- source: PATH NAME -->`: lines of the item of that name, in order, where
//! `// ...` stands for lines that are left out. Without a name they are lines of the file. Indentation does not count.
//!
//! It needs nothing but std: `CARGO_MANIFEST_DIR=$PWD rustc --edition 2024 --test tests/guide.rs` builds it alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[allow(dead_code, reason = "tests/layers uses the rest")]
#[path = "layers/text.rs"]
mod text;

use text::{blank, is_name, item_len, without_tests};

/// Lines of the functions and types that the tour of docs/architecture.md names.
const MAX_TOUR_LINES: usize = 1_500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The pages that are held to the code: those of the guide, the architecture, and the pages beside them.
fn pages() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["docs", "docs/guide"]
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).into_iter().flatten())
        .map(|entry| entry.expect("an entry of a folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    found.sort();
    found
}

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

/// The first and the number of the lines of each item with that name, in a file that was blanked.
fn items(code: &str, name: &str) -> Vec<(usize, usize)> {
    let keywords = ["fn ", "struct ", "enum ", "trait ", "type ", "const ", "static ", "macro_rules! ", "mod "];
    let starts = keywords.iter().flat_map(|keyword| {
        code.match_indices(&format!("{keyword}{name}")).map(|(at, found)| (at, found.len())).collect::<Vec<_>>()
    });
    starts
        .filter(|(at, len)| !code[..*at].ends_with(is_name) && !code[at + len..].starts_with(is_name))
        .map(|(at, _)| (code[..at].matches('\n').count(), code[at..][..item_len(&code[at..])].lines().count()))
        .collect()
}

/// Reads the file of a place.
fn file_of(place: &str) -> Option<String> {
    let is_outside = ["tests/", "examples/", "fuzz/"].iter().any(|folder| place.starts_with(folder));
    let path = if is_outside { format!("{place}.rs") } else { format!("src/{place}.rs") };
    fs::read_to_string(root().join(path)).ok()
}

#[test]
fn the_pages_name_what_is_there() {
    let mut wrong = Vec::new();
    for path in pages() {
        for (file, item) in places(&read(&path)).into_iter().collect::<BTreeSet<_>>() {
            if file_of(file).is_none_or(|text| items(&blank(&text), item).is_empty()) {
                wrong.push(format!("{}: {file} has no {item}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tour_is_short() {
    let page = read(&root().join("docs/architecture.md"));
    let tour = page.split("## ").find(|section| section.starts_with("The tour")).expect("the page has a tour");
    let on_tour: BTreeSet<(&str, &str)> = places(tour).into_iter().collect();
    let lines: usize = on_tour
        .iter()
        .filter_map(|(file, item)| Some(items(&without_tests(&blank(&file_of(file)?)), item).first()?.1))
        .sum();
    assert!(on_tour.len() > 20, "the tour names {} places", on_tour.len());
    println!("the tour: {} places, {lines} lines", on_tour.len());
    assert!(lines <= MAX_TOUR_LINES, "the tour has {lines} lines, and may have {MAX_TOUR_LINES}");
}

#[test]
fn the_table_of_contents_names_each_page() {
    let contents = read(&root().join("docs/SUMMARY.md"));
    let missing: Vec<_> = pages()
        .iter()
        .map(|path| path.strip_prefix(root().join("docs")).expect("a page of docs/").display().to_string())
        .filter(|page| page != "SUMMARY.md" && !contents.contains(&format!("({page})")))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md: {missing:?}");
}

/// What is wrong with an excerpt of `item`, if anything.
fn difference(excerpt: &[&str], item: &[&str]) -> Option<String> {
    let mut rest = item;
    for part in excerpt.split(|line| line.trim() == "// ...") {
        let part: Vec<&str> = part.iter().map(|line| line.trim()).collect();
        let is_here = |at: &usize| rest[*at..].iter().zip(&part).all(|(line, wanted)| line.trim() == *wanted);
        match (0..=rest.len().saturating_sub(part.len())).find(is_here) {
            Some(at) if part.len() <= rest.len() => rest = &rest[at + part.len()..],
            _ => {
                let odd = part.iter().find(|wanted| !rest.iter().any(|line| line.trim() == **wanted));
                return Some(format!("{:?}", odd.or(part.first()).unwrap_or(&"")));
            }
        }
    }
    None
}

/// Looks for an excerpt in the file `source`, in any item of the name `name`.
fn check_excerpt(excerpt: &[&str], source: &str, name: Option<&str>) -> Result<(), String> {
    let text = fs::read_to_string(root().join(source)).map_err(|error| format!("{source}: {error}"))?;
    let lines: Vec<&str> = text.lines().collect();
    let ranges = match name {
        None => vec![(0, lines.len())],
        Some(name) => items(&blank(&text), name)
            .into_iter()
            .map(|(first, count)| {
                // What is written above an item belongs to it.
                let is_above =
                    |line: &&&str| line.trim_start().starts_with("///") || line.trim_start().starts_with("#[");
                (first - lines[..first].iter().rev().take_while(is_above).count(), first + count)
            })
            .collect(),
    };
    let mut problem = format!("{source} has no {}", name.unwrap_or_default());
    for (first, end) in ranges {
        match difference(excerpt, &lines[first..end]) {
            None => return Ok(()),
            Some(line) => problem = format!("{source} {}: not so, or not there: {line}", name.unwrap_or_default()),
        }
    }
    Err(problem)
}

#[test]
fn excerpts_are_the_source_as_it_stands() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for path in pages().iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("guide"))) {
        let page = read(path);
        let lines: Vec<&str> = page.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let place = format!("{}:{}", path.display(), at + 1);
            let above = at.checked_sub(1).map_or("", |before| lines[before]);
            let is_marked = above.starts_with("<!-- source:");
            if line.starts_with("<!-- source:") && !lines.get(at + 1).is_some_and(|next| next.starts_with("```")) {
                wrong.push(format!("{place}: no block below it"));
            }
            if *line == "```rust" && !is_marked {
                wrong.push(format!("{place}: a block of Rust without <!-- source: PATH NAME --> above it"));
            }
            if !(is_marked && line.starts_with("```")) {
                continue;
            }
            let len = lines[at + 1..].iter().take_while(|line| !line.starts_with("```")).count();
            let mut words = above.trim_start_matches("<!-- source:").trim_end_matches("-->").split_whitespace();
            let source = words.next().unwrap_or_default();
            if let Err(problem) = check_excerpt(&lines[at + 1..][..len], source, words.next()) {
                wrong.push(format!("{place}: {problem}"));
            }
            count += 1;
        }
    }
    println!("{count} excerpts");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_excerpt_that_has_drifted_is_found() {
    let excerpt = ["/// How long", "pub fn item_len(item: &str) -> usize {", "// ...", "}"];
    let check = |excerpt: &[&str]| check_excerpt(excerpt, "tests/layers/text.rs", Some("item_len"));
    assert_eq!(check(&excerpt[1..]), Ok(()));
    assert!(check(&excerpt).is_err(), "no such line");
    assert!(check(&[excerpt[1], "}"]).is_err(), "lines left out without a word");
    assert!(check(&["item.len()", "// ...", "let mut depth = 0;"]).is_err(), "another order");
    assert!(check_excerpt(&["}"], "tests/layers/text.rs", Some("item_length")).is_err(), "no such item");
}

/// The name of a heading in a link, as forges and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| is_name(*c) || *c == '-').collect()
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for path in pages() {
        let page = read(&path);
        let folder = path.parent().expect("a page in a folder");
        for target in page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            if target.contains("://") || target.is_empty() || target.contains(' ') {
                continue;
            }
            let (file, part) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { folder.join(file) };
            let has_part = || {
                let text = fs::read_to_string(&file).unwrap_or_default();
                text.lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line.trim_start_matches('#')) == part)
            };
            if !file.exists() || !(part.is_empty() || has_part()) {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
