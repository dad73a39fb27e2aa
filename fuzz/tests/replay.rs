//! Runs every target over its committed inputs, with any compiler: what was found once stays found.

use std::fs;
use std::path::Path;

use mini_rproxy_fuzz::TARGETS;

#[test]
fn committed_inputs_hold() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets").join(format!("{name}.rs"));
        let binary = fs::read_to_string(binary).expect("each target has a binary");
        assert!(binary.contains(&format!("mini_rproxy_fuzz::{name}(data)")), "{name}");
        assert!(include_str!("../Cargo.toml").contains(&format!("name = \"{name}\"")), "{name}");
        let mut count = 0;
        for entry in fs::read_dir(&folder).expect("each target has inputs") {
            let path = entry.expect("a readable folder").path();
            // Told only when something fails.
            println!("{}", path.display());
            target(&fs::read(&path).expect("a readable file"));
            count += 1;
        }
        assert!(count > 0, "{name} has no inputs");
    }
}
