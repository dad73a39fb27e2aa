//! SIGHUP and plugins: what has changed is created anew, what has not keeps its instance, and an old one goes when its last
//! exchange is over. `tests/plugins/counted.c` writes down which instances were created and destroyed.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use tempfile::TempDir;

use super::reload::{reload, write_config};
use crate::support::programs::{c_plugin, c_plugin_with, shared_object};
use crate::support::proxy::{BINARY, VALGRIND};
use crate::support::{Launch, Origin, Proxy, is_missing, wait_until};

/// A folder with the plugin, and the file that it writes into.
struct Counted {
    folder: TempDir,
    plugin: PathBuf,
}

impl Counted {
    fn new() -> Option<Counted> {
        let folder = TempDir::new().expect("a temporary folder");
        let plugin = c_plugin("counted", folder.path())?;
        Some(Counted { folder, plugin })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("instances")
    }

    /// An entry of the list of plugins.
    fn entry(&self, name: &str, label: &str) -> String {
        format!("- {{path: {}, name: {name}, config: '{} {label}'}}\n", self.plugin.display(), self.file().display())
    }

    /// What was created and destroyed, sorted.
    fn instances(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn wait_for(&self, expected: &[&str]) {
        wait_until(&format!("{expected:?}"), || self.instances() == expected);
    }

    /// Puts another build into the place of the plugin, as one should.
    fn replace(&self, version: &str) {
        let new = self.folder.path().join("new");
        fs::create_dir_all(&new).expect("a folder");
        let new = c_plugin_with("counted", &new, &[&format!("-DVERSION=\"{version}\"")]).expect("a compiler");
        fs::rename(new, &self.plugin).expect("the same file system");
    }
}

fn labels(proxy: &Proxy) -> Vec<String> {
    proxy.connect().get("/").all("X-Label").iter().map(|&label| label.to_owned()).collect()
}

/// Signals, and waits for the refusal; there were `before` before.
fn refused(proxy: &Proxy, before: usize) -> String {
    proxy.signal("HUP");
    proxy.log.wait_for_many("refusals", before + 1, |line| line.contains("are kept as they were")).remove(before)
}

#[test]
fn what_has_changed_is_created_anew_and_the_rest_keeps_its_instance() {
    let Some(counted) = Counted::new() else { return };
    let origin = Origin::echo();
    let yaml = |entries: &[String]| origin.config(&format!("plugins:\n{}", entries.concat()));
    let (one, two) = (counted.entry("a", "one"), counted.entry("b", "two"));
    let proxy = Proxy::start(&yaml(&[one.clone(), two.clone()]));
    let mut old_client = proxy.connect();
    assert_eq!(old_client.get("/").all("X-Label"), ["two", "one"]);
    // Another configuration of one, and a new one, with an order of their own.
    reload(&proxy, &yaml(&[counted.entry("c", "three"), one.clone(), counted.entry("b", "other")]), 0);
    assert_eq!(labels(&proxy), ["other", "one", "three"]);
    assert_eq!(old_client.get("/").all("X-Label"), ["other", "one", "three"], "on a connection from before, too");
    counted.wait_for(&["create one", "create other", "create three", "create two", "destroy two"]);
    let log = proxy.log.all().join("\n");
    for expected in [
        "msg=\"reload: plugin added\" plugin=c",
        "msg=\"reload: plugin replaced\" plugin=b",
        "msg=\"reload: changed\" what=\"plugins.b.config (not shown)\"",
        "msg=\"reload: added\" what=\"plugins.c ",
    ] {
        assert!(log.contains(expected), "{expected}\nis not in\n{log}");
    }
    assert!(!log.contains("plugin=a\n") || !log.contains("replaced\" plugin=a"), "{log}");
    assert!(!log.contains("instances other"), "a configuration may be a secret: {log}");
    // Nothing is left, then one again.
    reload(&proxy, &origin.config(""), 1);
    assert_eq!(labels(&proxy), [""; 0]);
    proxy.log.wait_for_many("removals", 3, |line| line.contains("reload: plugin removed"));
    proxy.log.wait_for_many("ends", 4, |line| line.contains("msg=\"destroyed\""));
    reload(&proxy, &yaml(&[one]), 2);
    assert_eq!(labels(&proxy), ["one"]);
}

#[test]
fn a_new_file_in_the_place_of_the_old_one_is_loaded_and_one_that_was_written_into_is_refused() {
    let Some(counted) = Counted::new() else { return };
    let origin = Origin::echo();
    let yaml = origin.config(&format!("plugins:\n{}", counted.entry("a", "one")));
    let proxy = Proxy::start(&yaml);
    let second_name = counted.folder.path().join("kept");
    fs::hard_link(&counted.plugin, &second_name).expect("a link");
    for (number, version) in ["-v2", "-v3", "-v4"].into_iter().enumerate() {
        counted.replace(version);
        reload(&proxy, &yaml, number);
        assert_eq!(labels(&proxy), [format!("one{version}")]);
        proxy.log.wait_for_many("replaced", number + 1, |line| line.contains("reload: plugin replaced"));
    }
    // The same file as before is the same plugin: nothing happens.
    reload(&proxy, &yaml, 3);
    // Back to the first.
    fs::rename(&second_name, &counted.plugin).expect("the same file system");
    reload(&proxy, &yaml, 4);
    assert_eq!(labels(&proxy), ["one"]);
    proxy.log.wait_for_many("ends", 4, |line| line.contains("msg=\"destroyed\""));
    assert_eq!(counted.instances().len(), 9, "{:?}", counted.instances());

    // Written into: as if by cp, but with the same bytes, so that the proxy can live.
    let same = fs::OpenOptions::new().write(true).open(&counted.plugin).expect("it is ours");
    same.set_modified(std::time::UNIX_EPOCH).expect("a time");
    let line = refused(&proxy, 0);
    assert!(line.contains("counted.so") && line.contains("replace it by renaming"), "{line}");
    assert_eq!(labels(&proxy), ["one"]);
    counted.replace("-v5");
    reload(&proxy, &yaml, 5);
    assert_eq!(labels(&proxy), ["one-v5"]);
}

#[test]
fn a_plugin_that_cannot_be_created_refuses_the_whole_reload() {
    let Some(counted) = Counted::new() else { return };
    let origin = Origin::echo();
    let yaml = |entries: &[String], more: &str| origin.config(&format!("{more}\nplugins:\n{}", entries.concat()));
    let (one, refusing) = (counted.entry("a", "one"), counted.entry("b", "refuse"));
    let proxy = Proxy::start(&yaml(std::slice::from_ref(&one), ""));
    let optional = |entry: &str| entry.replace("- {", "- {required: false, ");
    for (number, (entries, what)) in [
        (vec![counted.entry("a", "new"), refusing.clone()], "plugin b ("),
        (vec![refusing.replace("name: b", "name: a")], "plugin a ("),
        // Not required, but it runs.
        (vec![optional(&refusing.replace("name: b", "name: a"))], "plugin a ("),
        (vec![one.clone(), "- {path: /nowhere/x.so}\n".to_owned()], "/nowhere/x.so: cannot read it"),
    ]
    .into_iter()
    .enumerate()
    {
        write_config(&proxy, &yaml(&entries, "timeouts: {drain: 3s}"));
        let line = refused(&proxy, number);
        assert!(line.contains(what) && (number == 3 || line.contains("I do not want to")), "{what}: {line}");
        assert!(line.contains("config.yaml:"), "{line}");
        assert_eq!(labels(&proxy), ["one"], "{what}");
    }
    // The one that was created beside the one that was not is gone.
    counted.wait_for(&["create new", "create one", "destroy new"]);
    // Not required, and it does not run: skipped, as at the start.
    reload(&proxy, &yaml(&[one, optional(&refusing)], ""), 0);
    proxy
        .log
        .wait_for("skipped", |line| line.contains("skipped, since it is not required") && line.contains("plugin=b"));
    assert_eq!(labels(&proxy), ["one"]);
    assert_eq!(counted.instances().len(), 3);
}

#[test]
fn the_folder_is_read_again_and_builtin_plugins_are_replaced_too() {
    let Some(demo) = shared_object("header_demo") else { return };
    let folder = TempDir::new().expect("a temporary folder");
    let origin = Origin::echo();
    let flag = folder.path().to_str().expect("a temporary path is text");
    let yaml = |value: &str| match cfg!(feature = "builtin-plugins") {
        true => origin.config(&format!("plugins: [{{builtin: header_demo, name: linked, config: {value}}}]\n")),
        false => origin.config(""),
    };
    let proxy = Launch::new(&yaml("one")).arg("-plugindir").arg(flag).start();
    let values = || -> Vec<String> {
        proxy.connect().get("/").all("X-Demo-Response").iter().map(|&value| value.to_owned()).collect()
    };
    let builtin = |value: &str| Vec::from_iter(cfg!(feature = "builtin-plugins").then(|| value.to_owned()));
    assert_eq!(values(), builtin("one"));
    // The builtin one answers last, so a new file shows in the log.
    fs::copy(&demo, folder.path().join("late.so")).expect("a copy");
    reload(&proxy, &yaml("two"), 0);
    proxy.log.wait_for("the new file", |line| line.contains("reload: plugin added") && line.contains("plugin=late"));
    if cfg!(feature = "builtin-plugins") {
        assert_eq!(values(), ["two"]);
        proxy.log.wait_for("the end", |line| line.contains("msg=\"destroyed\" plugin=linked"));
    } else {
        assert_eq!(values(), ["true"]);
    }
    fs::remove_file(folder.path().join("late.so")).expect("it is ours");
    reload(&proxy, &yaml("two"), 1);
    proxy.log.wait_for("the end", |line| line.contains("msg=\"destroyed\" plugin=late"));
    assert_eq!(values(), builtin("two"));
}

#[test]
fn an_old_instance_stays_until_its_last_exchange_is_over() {
    let Some(counted) = Counted::new() else { return };
    let (next, events) = channel();
    let events = Mutex::new(events);
    let origin = Origin::start(move |mut peer, _| {
        while let Some(request) = peer.request() {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            // The first one's answer has no end until it is told.
            while request.target() == "/long" && events.lock().unwrap().recv().is_ok() {
                peer.send("1\r\nx\r\n");
            }
            peer.send("0\r\n\r\n");
        }
    });
    let yaml = |label: &str| origin.config(&format!("plugins:\n{}", counted.entry("a", label)));
    let proxy = Proxy::start(&yaml("zero"));
    let mut long = proxy.connect();
    long.send("GET /long HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(long.head().expect("a head").all("X-Label"), ["zero"]);
    for (number, label) in ["one", "two"].into_iter().enumerate() {
        reload(&proxy, &yaml(label), number);
        assert_eq!(labels(&proxy), [label]);
        next.send(()).expect("the origin runs");
        assert_eq!(long.bytes(6), b"1\r\nx\r\n");
    }
    counted.wait_for(&["create one", "create two", "create zero", "destroy one"]);
    drop(next);
    assert_eq!(long.bytes(5), b"0\r\n\r\n");
    counted.wait_for(&["create one", "create two", "create zero", "destroy one", "destroy zero"]);
    // And the last one at the end, before the process is gone.
    let mut proxy = proxy;
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(counted.instances().len(), 6, "{:?}", counted.instances());
}

/// So many reloads, each with a new configuration of one plugin and every tenth with a new file, under load.
fn storm(launch: impl FnOnce(&str) -> Launch, reloads: usize) -> Option<(Counted, Proxy, usize)> {
    let counted = Counted::new()?;
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let yaml = |label: &str| {
        let list = counted.entry("a", label) + &counted.entry("fixed", "fixed");
        origin.config(&format!("workers: 2\nplugins:\n{list}"))
    };
    let mut proxy = launch(&yaml("0")).start();
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut files = 0;
    std::thread::scope(|scope| {
        let _over = crate::support::SetOnDrop(&is_over);
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let mut peer = proxy.connect();
                    for _ in 0..50 {
                        let response = peer.get("/");
                        let labels = response.all("X-Label");
                        assert_eq!((response.status(), labels.len()), (200, 2), "{labels:?}");
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for number in 0..reloads {
            let before = asked.load(Ordering::Relaxed);
            if number % 10 == 9 {
                counted.replace(&format!("-{number}"));
                files += 1;
            }
            reload(&proxy, &yaml(&(number + 1).to_string()), number);
            wait_until("requests", || asked.load(Ordering::Relaxed) > before);
        }
    });
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0), "{:#?}", proxy.log.all());
    let instances = counted.instances();
    let count = |what: &str| instances.iter().filter(|line| line.starts_with(what)).count();
    // The changed one each time, and the other one where the file is new.
    assert_eq!((count("create"), count("destroy")), (2 + reloads + files, 2 + reloads + files), "{instances:#?}");
    let created: Vec<_> = instances.iter().filter_map(|line| line.strip_prefix("create ")).collect();
    let destroyed: Vec<_> = instances.iter().filter_map(|line| line.strip_prefix("destroy ")).collect();
    assert_eq!(created, destroyed);
    println!("{} requests, {reloads} reloads", asked.load(Ordering::Relaxed));
    Some((counted, proxy, files))
}

#[test]
fn fifty_reloads_under_load_lose_nothing_and_destroy_each_instance_once() {
    storm(Launch::quiet, 50);
}

#[test]
fn reloads_of_plugins_take_no_memory() {
    let Some(counted) = Counted::new() else { return };
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let yaml =
        |label: usize| origin.config(&format!("workers: 1\nplugins:\n{}", counted.entry("a", &label.to_string())));
    let proxy = Proxy::start(&yaml(0));
    let run = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            reload(&proxy, &yaml(number + 1), number);
            assert_eq!(labels(&proxy), [(number + 1).to_string()]);
        }
        proxy.memory_kib()
    };
    let before = run(0..50);
    let after = run(50..150);
    println!("resident: {before} KiB after 50 reloads, {after} KiB after 100 more");
    assert!(after <= before + 256, "{before} KiB after 50 reloads, {after} KiB after 100 more");
}

#[test]
#[ignore = "takes a minute: make valgrind"]
fn valgrind_finds_nothing_in_fifty_reloads() {
    if is_missing("valgrind") {
        return;
    }
    let Some((_counted, proxy, _)) = storm(|yaml| Launch::under(&VALGRIND, BINARY, yaml), 50) else { return };
    proxy.assert_no_valgrind_errors();
}
