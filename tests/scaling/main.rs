//! More than one process: two instances behind a balancer, replaced under load; the manifests for Kubernetes; a
//! configuration that changes as a kubelet changes it. docs/scaling.md says what they show.

#![allow(unused_imports, reason = "the helpers export more than these tests use")]

#[path = "../support/mod.rs"]
mod support;

mod kubernetes;
mod load;
mod network;
mod rolling;

/// The page shows the balancers' configurations, which these tests use as they stand.
#[test]
fn the_page_shows_each_file_as_it_is() {
    let page = include_str!("../../docs/scaling.md");
    for name in ["haproxy.cfg", "nginx.conf"] {
        let text = std::fs::read_to_string(network::example(name)).expect("an example");
        assert!(page.contains(&format!("\n{text}```\n")), "docs/scaling.md does not show {name} as it is");
    }
}
