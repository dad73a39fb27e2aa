//! `docs/rules.md`, the code and the tests stay in step: each rule is enforced where the page says so and nowhere else, is
//! proved where the page says so, and no number is cited that the page does not have.
//!
//! `UPDATE_GOLDEN=1 cargo test --test layers` writes the places anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::text::{blank, function_names, is_name};
use super::walk;

const PAGE: &str = "docs/rules.md";

/// What one rule has: files whose comments name it, and files or folders with tests that prove it.
#[derive(Default)]
struct Places {
    code: BTreeSet<String>,
    tests: BTreeSet<String>,
}

/// The rule numbers in `text`: a letter of the four kinds and one or two digits, as a word.
fn numbers(text: &str) -> BTreeSet<String> {
    text.split(|c| !is_name(c)).filter(|word| is_rule(word)).map(str::to_owned).collect()
}

fn is_rule(word: &str) -> bool {
    let digits = word.get(1..).unwrap_or_default();
    word.starts_with(['G', 'S', 'M', 'E'])
        && !digits.starts_with('0')
        && matches!(digits.len(), 1 | 2)
        && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The rule that the name of a test function or wire script begins with.
fn rule_of(name: &str) -> Option<String> {
    let (number, _) = name.split_once('_')?;
    Some(number.to_uppercase()).filter(|number| is_rule(number))
}

/// The lines `### G1` of the page, in order.
fn headings(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix("### ")).filter(|title| is_rule(title)).collect()
}

/// A source file without its test module.
fn without_test_module(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

/// What stands behind `//` in each line.
fn comments(text: &str) -> String {
    text.lines().filter_map(|line| Some(line.split_once("//")?.1)).collect::<Vec<_>>().join("\n")
}

/// Where each rule is enforced and tested, as the tree says.
fn places() -> BTreeMap<String, Places> {
    let mut found: BTreeMap<String, Places> = BTreeMap::new();
    for folder in ["src", "plugin-api/src"] {
        walk(folder, ".rs", &mut |path, text| {
            if path.contains("test") {
                return;
            }
            let code = without_test_module(text);
            // The grammar's table of errors names rules as values; above it, values only refer to them.
            let named = if path.starts_with("src/http/") { code.to_owned() } else { comments(code) };
            for rule in numbers(&named) {
                found.entry(rule).or_default().code.insert(path.to_owned());
            }
        });
    }
    for folder in ["src", "tests", "plugin-api", "examples", "fuzz/src"] {
        walk(folder, ".rs", &mut |path, text| {
            for rule in function_names(&blank(text)).iter().filter_map(|name| rule_of(name)) {
                found.entry(rule).or_default().tests.insert(path.to_owned());
            }
        });
    }
    walk("tests/wire", ".wire", &mut |path, _| {
        if let Some(rule) = path.rsplit('/').next().and_then(rule_of) {
            found.entry(rule).or_default().tests.insert("tests/wire".to_owned());
        }
    });
    found
}

/// The line of the page that tells `places`.
fn places_line(places: &Places) -> String {
    let list = |paths: &BTreeSet<String>| paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
    format!("*Code:* {}. *Tests:* {}.", list(&places.code), list(&places.tests))
}

/// The page with the places line of each rule written anew.
fn updated(page: &str, places: &BTreeMap<String, Places>) -> String {
    let mut out = String::new();
    let mut rule = None;
    for line in page.lines().filter(|line| !line.starts_with("*Code:*")) {
        if let Some(title) = line.strip_prefix("### ").filter(|title| is_rule(title)) {
            rule = places.get(title);
        }
        out += line;
        out.push('\n');
        if line.starts_with("*Why:*")
            && let Some(places) = rule.take()
        {
            out += &format!("\n{}\n", places_line(places));
        }
    }
    // The blank line in front of a line that was taken out.
    while out.contains("\n\n\n") {
        out = out.replace("\n\n\n", "\n\n");
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
fn the_page_of_rules_tells_where_each_is_enforced_and_tested() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).expect("the page of rules");
    let places = places();
    let mut wrong = Vec::new();
    for rule in headings(&page) {
        let place = places.get(rule);
        if place.is_none_or(|place| place.code.is_empty()) {
            wrong.push(format!("{rule}: no comment in src/ names it"));
        }
        if place.is_none_or(|place| place.tests.is_empty()) {
            wrong.push(format!("{rule}: no test's name begins with {}_", rule.to_lowercase()));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    let expected = updated(&page, &places);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &expected).expect("the page can be written");
    } else if let Some((is, should)) = page.lines().zip(expected.lines()).find(|(is, should)| is != should) {
        panic!("{PAGE} is behind the code (UPDATE_GOLDEN=1 writes it):\n  {is}\n  {should}");
    }
}

#[test]
fn no_rule_is_cited_that_the_page_does_not_have() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).expect("the page of rules");
    let known: BTreeSet<&str> = headings(&page).into_iter().collect();
    let mut unknown = Vec::new();
    let mut look = |path: &str, text: &str| {
        for rule in numbers(text).into_iter().filter(|rule| !known.contains(rule.as_str())) {
            unknown.push(format!("{path} cites {rule}"));
        }
    };
    for folder in ["src", "plugin-api/src", "fuzz/src"] {
        walk(folder, ".rs", &mut |path, text| {
            look(path, &comments(text));
        });
    }
    walk("docs", ".md", &mut look);
    for file in ["README.md", "SECURITY.md"] {
        look(file, &fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a page"));
    }
    assert!(unknown.is_empty(), "\n{}\n", unknown.join("\n"));
}

#[test]
fn rules_are_read_from_names_headings_and_text() {
    let of = |name: &str| rule_of(name).unwrap_or_default();
    assert_eq!(
        ["g1_hop_by_hop", "m13_pure", "s5_is_refused.wire", "grow_up", "g_1", "g2"].map(of),
        ["G1", "M13", "S5", "", "", ""]
    );
    assert_eq!(numbers("rules S5, G12; G123 S0 XS1 s5").into_iter().collect::<Vec<_>>(), ["G12", "S5"]);
    let page = "### G1\ntext\n*Why:* because.\n\n*Code:* `old`. *Tests:* `old`.\n\n### G2\nx\n*Why:* y\n";
    let place = |path: &str| Places { code: [path.to_owned()].into(), tests: [format!("t{path}")].into() };
    let places = BTreeMap::from([("G1".to_owned(), place("a")), ("G2".to_owned(), place("b"))]);
    assert_eq!(headings(page), ["G1", "G2"]);
    assert_eq!(
        updated(page, &places),
        "### G1\ntext\n*Why:* because.\n\n*Code:* `a`. *Tests:* `ta`.\n\n### G2\nx\n*Why:* y\n\n*Code:* `b`. *Tests:* `tb`.\n"
    );
}
