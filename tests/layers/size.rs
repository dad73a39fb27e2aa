//! How large `src/` is, and what only shrinks: lines, types that are defined twice, retired names. The limits are in
//! `ratchet`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use super::ratchet::{CORE, MAX_CORE_LINES, MAX_SRC_LINES, RETIRED_NAMES};
use super::text::{blank, defined_types, test_lines, without_tests, words};
use super::{Source, is_compiled, module_order, walk};

/// The layers of the table, by the folder below `src/`.
const LAYERS: [&str; 6] = ["http", "proxy", "net", "config", "plugin", "extras"];

static TREE: LazyLock<Tree> = LazyLock::new(Tree::read);

/// Counts of lines. Empty ones count in `lines` and `tests` only.
#[derive(Clone, Copy, Default)]
struct Size {
    /// Without tests.
    lines: usize,
    code: usize,
    comments: usize,
    tests: usize,
}

impl Size {
    fn of(source: &Source, is_test_module: bool) -> Size {
        let mut size = Size::default();
        for (line, is_test) in source.text.lines().zip(test_lines(&blank(&source.text))) {
            let line = line.trim_start();
            if is_test || is_test_module {
                size.tests += 1;
                continue;
            }
            size.lines += 1;
            size.comments += usize::from(line.starts_with("//"));
            size.code += usize::from(!line.is_empty() && !line.starts_with("//"));
        }
        size
    }

    fn add(&mut self, other: Size) {
        self.lines += other.lines;
        self.code += other.code;
        self.comments += other.comments;
        self.tests += other.tests;
    }

    fn row(self, name: &str) -> String {
        let Size { lines, code, comments, tests } = self;
        format!("{name:<32}{lines:>8}{code:>8}{comments:>10}{tests:>8}\n")
    }
}

/// `src/` file by file.
struct Tree {
    sizes: BTreeMap<String, Size>,
    /// Blanked code without tests, of the files that are part of the program.
    code: BTreeMap<String, String>,
}

impl Tree {
    fn read() -> Tree {
        let (mut paths, mut sources) = (Vec::new(), Vec::new());
        walk("src", ".rs", &mut |path, text| {
            paths.push(path.to_owned());
            sources.push(Source::new(path, text));
        });
        let order = module_order(&sources);
        let mut tree = Tree { sizes: BTreeMap::new(), code: BTreeMap::new() };
        for (path, source) in paths.into_iter().zip(&sources) {
            let is_program = is_compiled(&source.module, &order);
            tree.sizes.insert(path.clone(), Size::of(source, !is_program));
            if is_program {
                tree.code.insert(path, without_tests(&blank(&source.text)));
            }
        }
        tree
    }

    fn sum(&self, is_counted: impl Fn(&str) -> bool) -> Size {
        let mut sum = Size::default();
        self.sizes.iter().filter(|(path, _)| is_counted(path)).for_each(|(_, size)| sum.add(*size));
        sum
    }

    fn core(&self) -> Size {
        self.sum(|path| list(CORE).contains(path))
    }

    fn duplicate_types(&self) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        self.code.values().flat_map(|code| defined_types(code)).filter(|name| !seen.insert(*name)).collect()
    }

    fn retired_names(&self) -> BTreeSet<&str> {
        let retired = list(RETIRED_NAMES);
        let is_retired =
            |word: &&str| retired.contains(word) || word.starts_with("MOST_") || word.starts_with("LEAST_");
        self.code.values().flat_map(|code| words(code)).filter(is_retired).collect()
    }
}

/// The entries of a list in `ratchet`.
fn list(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

fn layer_of(path: &str) -> &str {
    let folder = path.split('/').nth(1).unwrap_or_default();
    LAYERS.iter().find(|layer| **layer == folder).unwrap_or(&"base")
}

#[test]
fn the_program_and_its_core_only_shrink() {
    let missing: Vec<_> = list(CORE).into_iter().filter(|path| !TREE.code.contains_key(*path)).collect();
    assert!(missing.is_empty(), "the core is a list of files in tests/layers/ratchet.rs; not there: {missing:?}");
    let (all, core) = (TREE.sum(|_| true).lines, TREE.core().lines);
    assert!(all <= MAX_SRC_LINES, "src/ has {all} lines without tests, {MAX_SRC_LINES} are allowed");
    assert!(core <= MAX_CORE_LINES, "the core has {core} lines without tests, {MAX_CORE_LINES} are allowed");
}

#[test]
fn no_new_type_has_the_name_of_another() {
    let duplicates = TREE.duplicate_types();
    assert!(duplicates.is_empty(), "defined twice: {duplicates:?}");
}

#[test]
fn retired_names_do_not_come_back() {
    let retired = TREE.retired_names();
    assert!(retired.is_empty(), "retired, take the field's own word: {retired:?}");
}

#[test]
#[ignore = "make size"]
fn table() {
    let mut text = format!("{:<32}{:>8}{:>8}{:>10}{:>8}\n", "layer", "lines", "code", "comments", "tests");
    for layer in LAYERS.into_iter().chain(["base"]) {
        text += &TREE.sum(|path| layer_of(path) == layer).row(layer);
    }
    text += &TREE.sum(|_| true).row("src");
    text += "\ncore\n";
    for path in list(CORE) {
        text += &TREE.sum(|other| other == path).row(path);
    }
    text += &TREE.core().row("core");
    let _ = writeln!(text, "\nallowed: {MAX_SRC_LINES} lines of src, {MAX_CORE_LINES} of the core");
    println!("{text}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layers/ratchet.rs");
    let ratchet = fs::read_to_string(&path).expect("the limits");
    let lowered = lowered(&ratchet);
    if std::env::var_os("LOWER_LIMITS").is_some() {
        fs::write(&path, &lowered).expect("the limits can be written");
    } else if lowered != ratchet {
        println!("the limits of tests/layers/ratchet.rs can be lower: LOWER_LIMITS=1 make size");
    }
}

/// The text of `ratchet` with limits as low as they can be, in hundreds.
fn lowered(ratchet: &str) -> String {
    let limit = |name: &str, old: usize, lines: usize| {
        let new = lines.next_multiple_of(100).min(old);
        format!("pub const {name}: usize = {}_{:03};", new / 1000, new % 1000)
    };
    let mut constant = "";
    let mut out = String::new();
    for line in ratchet.lines() {
        constant = line.strip_prefix("pub const ").map_or(constant, |rest| rest.split(':').next().unwrap_or_default());
        out += &match constant {
            "MAX_SRC_LINES" if line.starts_with("pub") => limit(constant, MAX_SRC_LINES, TREE.sum(|_| true).lines),
            "MAX_CORE_LINES" if line.starts_with("pub") => limit(constant, MAX_CORE_LINES, TREE.core().lines),
            _ => line.to_owned(),
        };
        out.push('\n');
    }
    out
}

#[test]
fn lines_are_counted_by_kind() {
    let text =
        "//! Doc.\n\nuse a;\n#[cfg(test)]\nuse b;\n\nfn f() {} // c\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
    let size = Size::of(&Source::new("src/a.rs", text), false);
    assert_eq!((size.lines, size.code, size.comments, size.tests), (5, 2, 1, 6));
    let size = Size::of(&Source::new("src/a.rs", text), true);
    assert_eq!((size.lines, size.tests), (0, 11));
    let code = "pub struct A;\npub(crate) enum B {}\nunsafe trait C {}\nimpl D {\n    type E = F;\n}\ntype G = H;\n";
    assert_eq!(defined_types(code), ["A", "B", "C", "G"]);
}
