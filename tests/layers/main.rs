//! Rules of the layout that a compiler does not check.
//!
//! 1. A file imports from lower layers, or from files listed before it in the `mod` lines of its folder; there are no
//!    circles. `pub use` lines are signposts, not imports, and do not count.
//! 2. What a layer must not contain: sockets, clocks, threads and `unsafe` in the pure layers, and so on.
//! 3. No file of `src/` is above 800 lines without its tests; all of them together, and the core alone, stay below what
//!    `ratchet` allows; no type name is defined twice; retired names do not come back: see `size`, and `make size`.
//! 4. An extra of `src/extras/` is reached from the places that [`EXTRAS`] names, by at most three calls.
//! 5. The states in docs/architecture.md are those of the code: see `states`.
//! 6. Each rule of `docs/rules.md` has code that names it and a test whose name begins with its number: see `rules`.
//!
//! Test modules are exempt from 1 to 4. The check reads text, not syntax trees: it knows comments, literals and `use`
//! groups, and that is enough for code that rustfmt has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

mod ratchet;
mod rules;
mod size;
mod states;
mod text;

use ratchet::MAX_FILE_LINES;
use text::{blank, declared_modules, has_word, imports, test_lines, without_tests};

/// The layers, by the first step below `src/`. Everything that is not named is a base file on layer 0.
const LAYERS: [(&str, usize); 7] =
    [("http", 1), ("proxy", 2), ("plugin", 3), ("net", 4), ("cli", 5), ("lib", 5), ("main", 5)];

/// An extra: a module of `src/extras/`, the layer that it stands on, and how the core reaches it. Which is listed before
/// the other does not matter between core and extras; the places are fixed instead.
struct Extra {
    name: &'static str,
    layer: usize,
    /// Module and function, at most three: what would go if the extra went.
    calls: &'static [(&'static str, &'static str)],
    /// Modules that only hold its state or pass it on.
    holders: &'static [&'static str],
}

const EXTRAS: [Extra; 8] = [
    Extra {
        name: "balance",
        layer: 2,
        calls: &[("proxy::retry", "choose"), ("proxy::retry", "failed"), ("proxy::retry", "answered")],
        holders: &["proxy::state", "proxy::context"],
    },
    Extra {
        name: "response_rewrite",
        layer: 2,
        calls: &[
            ("proxy::forward", "rewrite_request"),
            ("proxy::forward", "rewrite_response"),
            ("proxy::retry", "readdress_request"),
        ],
        holders: &[],
    },
    Extra {
        name: "timeline",
        layer: 2,
        calls: &[("proxy::proxy_connection", "new"), ("proxy::proxy_connection", "note"), ("proxy::outcome", "finish")],
        holders: &["proxy::request_log"],
    },
    Extra {
        name: "metrics",
        layer: 2,
        calls: &[
            ("net::observer", "count_request"),
            ("net::observer", "count_upstream"),
            ("net::worker", "forget_ejected"),
        ],
        // Those that count what happens in the loop.
        holders: &[
            "net::acceptor",
            "net::worker",
            "net::session",
            "net::upstream",
            "net::server",
            "extras::prometheus",
        ],
    },
    Extra {
        name: "plugin_metrics",
        layer: 2,
        calls: &[("plugin::context", "define"), ("plugin::context", "add")],
        holders: &["extras::prometheus"],
    },
    Extra {
        name: "prometheus",
        layer: 2,
        calls: &[("net::observer", "to_text"), ("proxy::request_side", "CONTENT_TYPE")],
        holders: &[],
    },
    Extra { name: "proxy_protocol", layer: 4, calls: &[("net::worker", "of"), ("net::session", "read")], holders: &[] },
    Extra { name: "explain", layer: 2, calls: &[("main", "explain")], holders: &[] },
];

/// Words that must not occur: the layers concerned, the words, and why.
const FORBIDDEN: [(&[usize], &[&str], &str); 5] = [
    (
        &[0, 1, 2],
        &["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "UnixDatagram"],
        "sockets live in net/",
    ),
    (&[0, 1, 2, 3], &["mio"], "readiness lives in net/"),
    (&[1, 2], &["Instant::now", "MonoTime::now", "SystemTime::now", "UNIX_EPOCH"], "time is an argument"),
    (&[1, 2], &["std::thread", "thread::spawn"], "the pure layers have no threads"),
    (&[1, 2], &["io::Error", "io::Result", "ErrorKind"], "the pure layers know no I/O errors"),
];

/// A source file: its place in the module tree and its text.
struct Source {
    /// `["http", "head"]` for `src/http/head.rs`, `["http"]` for `src/http/mod.rs`, `[]` for `src/lib.rs`.
    module: Vec<String>,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let path = path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<String> = path.split('/').map(String::from).collect();
        if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
            module.pop();
        }
        Source { module, text: text.to_owned() }
    }

    fn name(&self) -> String {
        if self.module.is_empty() { "lib".to_owned() } else { self.module.join("::") }
    }

    fn layer(&self) -> usize {
        if let Some(extra) = self.extra() {
            return extra.layer;
        }
        let first = self.module.first().map_or("lib", String::as_str);
        LAYERS.iter().find(|(name, _)| *name == first).map_or(0, |(_, layer)| *layer)
    }
}

impl Source {
    fn extra(&self) -> Option<&'static Extra> {
        let [folder, name, ..] = &self.module[..] else { return None };
        EXTRAS.iter().find(|extra| folder == "extras" && extra.name == name)
    }
}

/// The `mod` lines of each module outside of tests, in order.
type ModuleOrder<'a> = BTreeMap<&'a [String], Vec<String>>;

fn module_order(sources: &[Source]) -> ModuleOrder<'_> {
    let modules = |source: &Source| declared_modules(&without_tests(&blank(&source.text)));
    sources.iter().map(|source| (source.module.as_slice(), modules(source))).collect()
}

/// Whether a module is part of the program; if not, it is declared under `#[cfg(test)]`.
fn is_compiled(module: &[String], order: &ModuleOrder<'_>) -> bool {
    let is_declared = |len: usize| order.get(&module[..len - 1]).is_some_and(|names| names.contains(&module[len - 1]));
    module == ["main"] || (1..=module.len()).all(is_declared)
}

/// Everything that is wrong with these sources, one sentence each.
fn violations(sources: &[Source]) -> Vec<String> {
    let code: Vec<String> = sources.iter().map(|source| without_tests(&blank(&source.text))).collect();
    let order = module_order(sources);
    let is_compiled = |module: &[String]| is_compiled(module, &order);
    let mut found = Vec::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (source, code) in sources.iter().zip(&code) {
        if !is_compiled(&source.module) {
            // Declared under #[cfg(test)]: the whole file is a test.
            continue;
        }
        let name = source.name();
        let lines = test_lines(&blank(&source.text)).iter().filter(|is_test| !**is_test).count();
        if lines > MAX_FILE_LINES {
            found.push(format!("{name} has {lines} lines without its tests, {MAX_FILE_LINES} are allowed"));
        }
        for (layers, words, why) in FORBIDDEN {
            for word in words.iter().filter(|word| layers.contains(&source.layer()) && has_word(code, word)) {
                found.push(format!("{name} contains {word}: {why}"));
            }
        }
        if has_word(code, "serde_yaml") && source.module.first().is_none_or(|first| first != "config") {
            found.push(format!("{name} contains serde_yaml: only config knows it"));
        }
        for word in ["SystemTime", "UNIX_EPOCH"].iter().filter(|word| has_word(code, word)) {
            if !["net::clock", "log"].contains(&name.as_str()) {
                found.push(format!("{name} contains {word}: the wall clock may jump, and tells dates only (rule E11)"));
            }
        }
        if has_word(code, "unsafe")
            && source.layer() != 3
            && !["net::activation", "net::malloc_trim", "net::socket"].contains(&name.as_str())
        {
            found.push(format!(
                "{name} contains unsafe: it belongs to plugin/, net/activation, net/malloc_trim and net/socket"
            ));
        }
        for path in imports(code, &source.module) {
            let Some(target) = (0..=path.len())
                .rev()
                .find_map(|len| sources.iter().find(|other| other.module == path[..len] && !other.module.is_empty()))
            else {
                continue;
            };
            if target.module == source.module || !is_compiled(&target.module) {
                continue;
            }
            edges.entry(name.clone()).or_default().insert(target.name());
            if let Some(extra) = target.extra()
                && source.name() != "extras"
                && !extra.holders.contains(&name.as_str())
                && !extra.calls.iter().any(|(module, _)| *module == name)
            {
                found.push(format!("{name} imports {}, and EXTRAS does not name it", target.name()));
            }
            if target.layer() > source.layer() {
                found.push(format!(
                    "{name} (layer {}) imports {} (layer {})",
                    source.layer(),
                    target.name(),
                    target.layer()
                ));
                continue;
            }
            // Where the two part, both are children of one folder: there the order of the `mod` lines counts.
            let shared = source.module.iter().zip(&target.module).take_while(|(a, b)| a == b).count();
            let are_ordered = source.extra().is_none() && target.extra().is_none();
            if shared < source.module.len()
                && shared < target.module.len()
                && source.layer() == target.layer()
                && are_ordered
            {
                let siblings = &order[&source.module[..shared]];
                let place = |module: &[String]| siblings.iter().position(|sibling| *sibling == module[shared]);
                if place(&target.module) >= place(&source.module) {
                    found.push(format!("{name} imports {}, which is not listed before it", target.name()));
                }
            }
        }
    }
    found.extend(circle(&edges));
    found.sort();
    found.dedup();
    found
}

/// The first circle of imports, if there is one.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    fn visit<'a>(
        at: &'a str,
        edges: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(start) = way.iter().position(|step| *step == at) {
            return Some(format!("a circle of imports: {} -> {at}", way[start..].join(" -> ")));
        }
        if done.contains(at) {
            return None;
        }
        way.push(at);
        let found = edges.get(at).into_iter().flatten().find_map(|next| visit(next, edges, way, done));
        way.pop();
        done.insert(at);
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|start| visit(start, edges, &mut Vec::new(), &mut done))
}

/// Calls `visit` with path (from the root of the repository, `/` between steps) and text of every file with that ending.
fn walk(folder: &str, ending: &str, visit: &mut dyn FnMut(&str, &str)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        let path = format!("{folder}/{name}");
        if root.join(&path).is_dir() {
            if name != "target" {
                walk(&path, ending, visit);
            }
        } else if name.ends_with(ending) {
            visit(&path, &fs::read_to_string(root.join(&path)).expect("a source file is readable"));
        }
    }
}

#[test]
fn e11_the_wall_clock_is_read_where_dates_are_written_and_nowhere_else() {
    let mut readers = BTreeSet::new();
    walk("src", ".rs", &mut |path, text| {
        if has_word(&without_tests(&blank(text)), "SystemTime") {
            readers.insert(path.to_owned());
        }
    });
    // The Date field, and the time of a log line. Every deadline is a `MonoTime`, which is monotonic.
    assert_eq!(readers.into_iter().collect::<Vec<_>>(), ["src/log.rs", "src/net/clock.rs"]);
}

#[test]
fn every_file_stays_on_its_layer() {
    let mut sources = Vec::new();
    walk("src", ".rs", &mut |path, text| sources.push(Source::new(path, text)));
    assert!(sources.len() > 10, "the sources were not found");
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn extras_are_reached_by_few_calls_which_the_page_of_the_architecture_names() {
    let page = include_str!("../../docs/architecture.md");
    let mut sources = BTreeMap::new();
    walk("src", ".rs", &mut |path, text| {
        let source = Source::new(path, text);
        sources.insert(source.name(), without_tests(&blank(text)));
    });
    let extras: Vec<&str> = EXTRAS.iter().map(|extra| extra.name).collect();
    let mut declared = declared_modules(&sources["extras"]);
    declared.sort_by_key(|name| extras.iter().position(|extra| extra == name));
    assert_eq!(declared, extras);
    for Extra { name, calls, holders, .. } in &EXTRAS {
        assert!((1..=3).contains(&calls.len()), "{name} is called in {} places", calls.len());
        let importers = |module: &str| {
            let path: Vec<String> = module.split("::").map(String::from).collect();
            imports(&sources[module], &path).iter().any(|import| import.starts_with(&["extras".into(), (*name).into()]))
        };
        for (module, function) in *calls {
            assert!(has_word(&sources[*module], function), "{module} does not call {name}::{function}");
            assert!(has_word(&sources[&format!("extras::{name}")], function), "{name} has no {function}");
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` ")));
            let row = row.unwrap_or_else(|| panic!("docs/architecture.md has no row for {name}"));
            assert!(row.contains(&format!("`{function}`")), "the row for {name} lacks {function}");
        }
        for module in *holders {
            assert!(importers(module), "{module} has nothing of {name} any more");
        }
    }
}

/// A small source tree that is in order, to which each case adds a file or replaces one.
fn tree(path: &str, text: &str) -> Vec<Source> {
    let files = [
        (
            "src/lib.rs",
            "pub mod bytes;\npub mod config;\npub mod http;\npub mod proxy;\npub mod net;\n#[cfg(test)]\nmod kit;",
        ),
        ("src/bytes.rs", "pub struct ByteQueue;"),
        ("src/config/mod.rs", "mod read;\npub use self::read::load;\npub struct Config;"),
        ("src/config/read.rs", "use super::Config;\npub fn load() -> Config {}"),
        ("src/http/mod.rs", "pub mod chars;\npub mod fields;\npub mod head;"),
        ("src/http/chars.rs", "//! `crate::net::worker` reads it."),
        ("src/http/fields.rs", "use super::chars;"),
        ("src/http/head.rs", "use super::fields::Fields;\nuse crate::bytes::ByteQueue;"),
        ("src/proxy/mod.rs", "pub mod proxy_connection;"),
        ("src/proxy/proxy_connection.rs", "use crate::http::{chars, head::{Head, Method}};"),
        ("src/net/mod.rs", "pub mod worker;"),
        ("src/net/worker.rs", "use std::net::TcpStream;\nuse crate::proxy::proxy_connection::ProxyConnection;"),
        ("src/kit.rs", "use crate::net::worker::EventLoop;"),
    ];
    let mut sources: Vec<_> =
        files.iter().filter(|(other, _)| *other != path).map(|(path, text)| Source::new(path, text)).collect();
    if !path.is_empty() {
        sources.push(Source::new(path, text));
    }
    sources
}

#[test]
fn a_tree_in_order_has_no_violations() {
    assert_eq!(violations(&tree("", "")), Vec::<String>::new());
}

#[test]
fn a_bad_file_is_caught() {
    let long = "fn f() {}\n".repeat(MAX_FILE_LINES + 1);
    let cases: [(&str, &str, &str, &str); 18] = [
        (
            "a higher layer",
            "src/http/head.rs",
            "use crate::proxy::proxy_connection::ProxyConnection;",
            "(layer 1) imports proxy",
        ),
        ("a higher layer in a group", "src/http/head.rs", "use crate::{bytes, net::worker::Loop};", "imports net"),
        ("a higher layer in a line of code", "src/http/head.rs", "fn f() { crate::net::worker::run() }", "imports net"),
        ("a higher layer over super", "src/http/head.rs", "use super::super::proxy;", "imports proxy"),
        ("a later sibling", "src/http/chars.rs", "use super::head::Head;", "not listed before it"),
        (
            "a later sibling in a group",
            "src/http/fields.rs",
            "use super::{\n    chars,\n    head,\n};",
            "not listed before",
        ),
        (
            "parent and child",
            "src/config/mod.rs",
            "mod read;\nuse read::load;\npub struct Config;",
            "a circle of imports",
        ),
        ("a socket", "src/http/head.rs", "use std::net::TcpStream;", "contains TcpStream"),
        (
            "the clock",
            "src/proxy/proxy_connection.rs",
            "fn f() { std::time::Instant::now(); }",
            "contains Instant::now",
        ),
        ("a thread", "src/proxy/proxy_connection.rs", "fn f() { std::thread::yield_now(); }", "contains std::thread"),
        ("an I/O error", "src/http/head.rs", "fn f() -> Result<(), std::io::Error> {}", "contains io::Error"),
        ("a second import", "src/http/chars.rs", "use crate::bytes;\nuse super::head::Head;", "not listed before it"),
        ("unsafe", "src/net/worker.rs", "fn f() { unsafe { g() } }", "contains unsafe"),
        ("mio", "src/proxy/proxy_connection.rs", "use mio::Token;", "contains mio"),
        ("YAML", "src/proxy/proxy_connection.rs", "use serde_yaml::Value;", "contains serde_yaml"),
        ("the wall clock", "src/net/worker.rs", "use std::time::SystemTime;", "rule E11"),
        ("a long file", "src/http/head.rs", &long, "has 801 lines"),
        ("behind a literal", "src/http/head.rs", "const A: char = '\"'; use mio::Token; const B: char = '\"';", "mio"),
    ];
    for (name, path, text, expected) in cases {
        let found = violations(&tree(path, text));
        assert!(found.iter().any(|line| line.contains(expected)), "{name}: {found:?}");
    }
}

#[test]
fn what_only_looks_bad_passes() {
    let tests = "fn f() {}\n".repeat(MAX_FILE_LINES);
    let long = format!("{tests}#[cfg(test)]\nmod tests {{\n    use crate::net::worker::Loop;\n{tests}}}\n");
    let cases: [(&str, &str, &str); 8] = [
        ("long tests", "src/http/head.rs", &long),
        ("a comment", "src/http/head.rs", "// mio\n/* unsafe /* nested */ mio */ fn f() {}"),
        ("a string", "src/http/head.rs", r##"const A: &str = "unsafe \" mio"; const B: &str = r#"io::Error " mio"#;"##),
        ("a part of a name", "src/http/head.rs", "#![deny(unsafe_code)]\nfn mio_free() {}"),
        ("a lifetime", "src/http/head.rs", "fn f<'a>(x: &'a str) -> &'a str { x }"),
        ("an address is no socket", "src/http/head.rs", "use std::net::SocketAddr;"),
        ("a re-export", "src/http/mod.rs", "pub mod chars;\npub mod fields;\npub mod head;\npub use self::head::Head;"),
        ("one test function", "src/http/head.rs", "#[cfg(any(test, fuzzing))]\npub fn f() { mio::x(); }\nfn g() {}"),
    ];
    for (name, path, text) in cases {
        assert_eq!(violations(&tree(path, text)), Vec::<String>::new(), "{name}");
    }
}
