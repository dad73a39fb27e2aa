//! The diagrams of docs/architecture.md are those of the tables in `proxy::state`, and nothing else changes a state.

use std::fs;
use std::path::Path;

use super::text::{blank, without_tests};
use super::walk;

#[path = "../../examples/states.rs"]
mod example;

const BEGIN: &str = "<!-- states: cargo run --example states -->\n";
const END: &str = "<!-- end of states -->\n";

#[test]
fn the_page_of_the_architecture_shows_the_states_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(&path).expect("the page is readable");
    let (before, rest) = page.split_once(BEGIN).expect("the page has the diagrams");
    let (_, after) = rest.split_once(END).expect("the diagrams end");
    let expected = format!("{before}{BEGIN}\n{}{END}{after}", example::diagrams());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, expected).expect("the page can be written");
    } else {
        assert!(page == expected, "docs/architecture.md is behind the table (UPDATE_GOLDEN=1 writes it)");
    }
}

#[test]
fn states_are_set_in_one_place() {
    walk("src/proxy", ".rs", &mut |path, text| {
        let code = without_tests(&blank(text));
        for field in ["request_state = ", "response_state = "] {
            assert!(path == "src/proxy/state.rs" || !code.contains(field), "{path} sets {field}past the table");
        }
    });
}
