//! How much memory this process may use: the limit of its control group, else half of what the machine has.

use std::fs;
use std::path::Path;

/// In bytes; `None` where nothing tells it.
pub fn limit() -> Option<u64> {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "it has 32 bits on some systems")]
    let total = u64::from(info.totalram).saturating_mul(info.mem_unit.into());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Without a limit version 1 tells a number that no machine has.
    let limit = cgroup_limit(Path::new("/sys/fs/cgroup"), &groups).filter(|limit| *limit < total);
    Some(limit.unwrap_or(total / 2)).filter(|limit| *limit > 0)
}

/// The least limit of the control groups that `groups`, in the form of `/proc/self/cgroup`, names, and of those around them.
fn cgroup_limit(root: &Path, groups: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let group = base.join(path);
        let folders = group.ancestors().take_while(|folder| folder.starts_with(&base));
        // "max" is no number.
        folders.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).min()
    };
    groups.lines().filter_map(of_line).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_a_group_and_those_around_it_holds() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        for (file, text) in [
            ("memory.max", "max\n"),
            ("a/memory.max", "2000\n"),
            ("a/b/memory.max", "3000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/x/memory.limit_in_bytes", "1000\n"),
        ] {
            fs::create_dir_all(root.join(file).parent().expect("a folder")).expect("a folder");
            fs::write(root.join(file), text).expect("a file");
        }
        for (name, groups, expected) in [
            ("version 2", "0::/a/b\n", Some(2000)),
            ("version 2, none", "0::/other\n", None),
            ("version 1", "5:cpu:/docker/x\n4:memory:/docker/x\n", Some(1000)),
            ("version 1 in a container", "4:hugetlb,memory:/somewhere/else\n", Some(9_223_372_036_854_771_712)),
            ("both", "4:memory:/docker/x\n0::/a/b\n", Some(1000)),
            ("nothing", "", None),
            ("nonsense", "::\n:\nx", None),
        ] {
            assert_eq!(cgroup_limit(root, groups), expected, "{name}");
        }
        assert!(limit().is_some_and(|limit| limit > 1 << 20));
    }
}
