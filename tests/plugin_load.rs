//! What happens between a path and a plugin that is ready: files that are none, foreign, cut, old or new ones.
//! The numbers in front of the tests are those of the rows in the interface's test table.
#![cfg(feature = "dlopen")]

use std::fs;
use std::path::Path;

use mini_rproxy::config::PluginConfig;
use mini_rproxy::plugin::instances;

#[path = "plugins/common.rs"]
mod common;

use common::{Exchange, Lines, build_c, build_rust, cc, compiler, folder, load, root, word};

/// The message with which this file is refused; empty where it is taken.
fn refusal(path: &Path) -> String {
    let loaded = load(&[listed(path, true, "a")], Lines::new().logger());
    let message = loaded.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.is_empty() || message.contains(path.to_str().unwrap()), "the path is missing in: {message}");
    message
}

#[track_caller]
fn assert_refused(path: &Path, part: &str) {
    let message = refusal(path);
    assert!(message.contains(part), "{}: {message:?} does not say {part:?}", path.display());
}

fn listed(path: &Path, required: bool, config: &str) -> PluginConfig {
    PluginConfig { config: config.to_owned(), ..PluginConfig::of_file(path.to_owned(), required) }
}

/// Those of a folder, as `-plugindir` adds them.
fn folder_of(path: &Path) -> Vec<PluginConfig> {
    instances::files(path).unwrap().into_iter().map(|path| PluginConfig::of_file(path, false)).collect()
}

#[test]
fn r01_what_is_no_plugin_is_named() {
    let dir = folder("r01");
    assert_refused(&dir.join("missing.so"), "cannot read it");
    assert_refused(&dir, "not a regular file");
    let Some(path) = build_c("no_symbol.c", &dir.join("no_symbol.so"), &[]) else { return };
    assert_refused(&path, "exports no symbol MiniRProxyPluginInstance");

    // Required: the start stops. Not required: logged. In a folder: logged, and the others are counted.
    let lines = Lines::new();
    assert!(load(&[listed(&path, true, "")], lines.logger()).is_err());
    assert_eq!(load(&[listed(&path, false, "")], lines.logger()).unwrap().names().count(), 0);
    assert!(lines.has("no_symbol", "skipped, since it is not required"), "{:?}", lines.all());
    assert!(lines.has("no_symbol", path.to_str().unwrap()), "{:?}", lines.all());

    let good = dir.join("header.so");
    fs::copy(build_rust("mini-rproxy-header-demo", "header_demo"), &good).unwrap();
    fs::write(dir.join("notes.txt"), "not a plugin").unwrap();
    let chain = load(&folder_of(&dir), lines.logger()).unwrap();
    assert_eq!(chain.names().collect::<Vec<_>>(), ["header"]);
    assert!(lines.has("", "1 of 2 plugins loaded"), "{:?}", lines.all());
    let error = instances::files(&dir.join("nowhere")).unwrap_err();
    assert!(error.to_string().contains("make it, or name another with -plugindir DIR"), "{error}");
}

#[test]
fn r01_a_folder_is_read_in_name_order() {
    let dir = folder("r01-order");
    let Some(letters) = build_c("letters.c", &dir.join("letters.so"), &[]) else { return };
    let header = build_rust("mini-rproxy-header-demo", "header_demo");
    fs::copy(&header, dir.join("20.so")).unwrap();
    let c = dir.join("10.so");
    let demo = root().join("examples/plugins/header_demo_c/header_demo.c");
    cc(&["-shared", "-fPIC", "-o", c.to_str().unwrap(), demo.to_str().unwrap()]);
    fs::remove_file(letters).unwrap();
    let chain = load(&folder_of(&dir), Lines::new().logger()).unwrap();
    assert_eq!(chain.names().collect::<Vec<_>>(), ["10", "20"]);
}

#[test]
fn r02_cut_files_are_refused_and_harm_nobody() {
    let dir = folder("r02");
    let good = fs::read(build_rust("mini-rproxy-header-demo", "header_demo")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    assert_refused(&write("empty.so", b""), "not an ELF file");
    assert_refused(&write("text.so", b"#!/bin/sh\necho hello\n"), "not an ELF file");
    assert_refused(&write("63.so", &good[..63]), "inside its ELF header");

    // Around the end of every segment to load, and at a few places between.
    let word = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes([good[at], good[at + 1]]));
    let mut needs = 0;
    let mut lengths = vec![64, 1000, good.len() / 2];
    for index in 0..half(56) {
        let header = word(32) + index * half(54);
        if good[header] == 1 {
            let end = word(header + 8) + word(header + 32);
            needs = needs.max(end);
            lengths.extend([word(header + 8).max(1) - 1, word(header + 8) + 1, end - 1, end, end + 1]);
        }
    }
    for len in lengths {
        let path = write(&format!("{len}.so"), &good[..len]);
        if len < needs {
            assert_refused(&path, if len < 64 { "ELF" } else { "truncated" });
        } else {
            // What lies behind the last segment is for debuggers.
            assert_eq!(refusal(&path), "", "{len}");
        }
    }
}

#[test]
fn r03_foreign_files_are_refused_with_both_names() {
    let dir = folder("r03");
    let good = fs::read(build_rust("mini-rproxy-header-demo", "header_demo")).unwrap();
    let rows: &[(&str, usize, &[u8], &str)] = &[
        ("machine", 18, &[0xf3, 0], "built for RISC-V (64-bit, little-endian), but this program is for "),
        ("class", 4, &[1], "32-bit"),
        ("order", 5, &[2], "big-endian"),
        ("executable", 16, &[2, 0], "not a shared object"),
    ];
    for (name, at, bytes, part) in rows {
        let mut file = good.clone();
        file[*at..at + bytes.len()].copy_from_slice(bytes);
        let path = dir.join(name).with_extension("so");
        fs::write(&path, file).unwrap();
        assert_refused(&path, part);
    }
}

#[test]
fn r04_what_is_unresolved_shows_at_load() {
    let dir = folder("r04");
    let Some(path) = build_c("unresolved.c", &dir.join("unresolved.so"), &[]) else { return };
    assert_refused(&path, "nobody_has_this_function");

    let helper = build_c("helper.c", &dir.join("libhelper.so"), &[]).unwrap();
    let linked = build_c("unresolved.c", &dir.join("linked.so"), &["-L", dir.to_str().unwrap(), "-lhelper"]).unwrap();
    fs::remove_file(helper).unwrap();
    assert_refused(&linked, "libhelper.so");
}

#[test]
fn r05_each_field_of_the_record_has_its_own_error() {
    let dir = folder("r05");
    let rows: &[(&str, &str, &str)] = &[
        ("magic", "-DMAGIC=1", "magic differs"),
        ("major2", "-DMAJOR=2", "built for plugin ABI 2, this program speaks 1"),
        ("major0", "-DMAJOR=0", "built for plugin ABI 0, this program speaks 1"),
        ("minor", "-DMIN_HOST_MINOR=1", "needs plugin ABI 1.1 (min_host_minor)"),
        ("flags", "-DFLAGS=0x10", "flags has bits"),
        ("reserved", "-DRESERVED=1", "a reserved field is not 0"),
        ("create", "-DCREATE=0", "create is null"),
        ("hooks", "-DON_REQUEST=0", "on_request, on_response and on_done are all null"),
        ("size", "-DSIZE=40", "struct_size is 40"),
    ];
    for (name, flag, part) in rows {
        let flags = ["-std=gnu99", "-Wno-error", flag];
        let Some(path) = build_c("record.c", &dir.join(name).with_extension("so"), &flags) else { return };
        assert_refused(&path, part);
    }
}

/// Whatever is wrong with a library, a thread that it has started goes on running: unloading it would end the process.
#[test]
fn a_refused_library_stays_mapped() {
    let dir = folder("thread");
    for (name, flag, part) in [("record", "-DWITH_RECORD", "magic differs"), ("none", "-DWITHOUT_RECORD", "no symbol")]
    {
        let flags = ["-std=gnu99", "-pthread", flag];
        let Some(path) = build_c("thread.c", &dir.join(name).with_extension("so"), &flags) else { return };
        assert_refused(&path, part);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.contains(path.to_str().unwrap()), "{name} was unloaded");
    }
}

#[test]
fn r06_older_and_newer_plugins_load_and_run() {
    let dir = folder("r06");
    for (name, flag) in [("older", "-DCUT_AFTER_ON_RESPONSE"), ("newer", "-DEXTRA")] {
        let flags = ["-std=gnu99", "-Wno-error", flag];
        let Some(path) = build_c("record.c", &dir.join(name).with_extension("so"), &flags) else { return };
        let chain = load(&[listed(&path, true, "")], Lines::new().logger()).unwrap();
        let mut x = Exchange::new();
        assert_eq!(word(&x.on_request(&chain)), "continue", "{name}");
        assert_eq!(x.request_field("x-record").as_deref(), Some("ran"), "{name}");
        assert_eq!(word(&x.on_response(&chain)), "continue", "{name}");
        x.on_done(&chain);
    }
}

#[test]
fn r08_a_plugin_that_is_not_created_is_skipped_or_stops_the_start() {
    let faulty = build_rust("mini-rproxy-plugin", "faulty");
    let header = build_rust("mini-rproxy-header-demo", "header_demo");
    for config in ["create:error", "create:panic", "create:bomb", "\u{fffd}", "create:error on_request:panic"] {
        let is_good = config == "\u{fffd}";
        let lines = Lines::new();
        let required = load(&[listed(&faulty, true, config)], lines.logger());
        assert_eq!(required.is_ok(), is_good, "{config}");
        if let Err(error) = required {
            assert!(error.to_string().contains("create failed"), "{error}");
            assert!(lines.has("libfaulty", "create"), "{:?}", lines.all());
        }
        let list = [listed(&faulty, false, config), listed(&header, true, "")];
        let chain = load(&list, lines.logger()).unwrap();
        let mut x = Exchange::new();
        assert_eq!(word(&x.on_request(&chain)), "continue");
        assert_eq!(x.request_field("x-demo-request").as_deref(), Some("true"));
    }
    // A configuration that the plugin does not understand.
    let error = load(&[listed(&header, true, "a\nb")], Lines::new().logger()).unwrap_err();
    assert!(error.to_string().contains("create failed"), "{error}");
}

#[test]
fn r17_the_examples_of_the_guide_compile() {
    let guide = fs::read_to_string(root().join("plugin-api/README.md")).unwrap();
    let examples: Vec<&str> = guide.split("```c\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 2);
    for (number, example) in examples.iter().enumerate() {
        let source = folder(&format!("r17-guide-{number}")).join("example.c");
        fs::write(&source, example).unwrap();
        cc(&["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", source.to_str().unwrap()]);
    }
}

#[test]
fn r17_the_header_compiles_as_c99_c11_and_cpp11() {
    let dir = folder("r17");
    let strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"];
    let plugin = root().join("examples/plugins/header_demo_c/header_demo.c");
    for standard in ["-std=c99", "-std=c11"] {
        let mut args = strict.to_vec();
        args.extend([standard, plugin.to_str().unwrap()]);
        if cc(&args).is_none() {
            return;
        }
    }
    let Some(cpp) = compiler("c++") else { return };
    let source = dir.join("plugin.cpp");
    let text = "#include \"mini_rproxy_plugin.h\"\n\
        static mrp_status create(const mrp_host *, mrp_ctx *, mrp_str, void **) { return MRP_OK; }\n\
        static mrp_verdict on_request(void *, mrp_exchange *) { return MRP_CONTINUE; }\n\
        const mrp_plugin MRP_PLUGIN_SYMBOL = { MRP_MAGIC, MRP_ABI_MAJOR, MRP_ABI_MINOR, sizeof(mrp_plugin), 0, 0, 0, 0,\n\
        MRP_STR(\"cpp\"), MRP_STR(\"1\"), create, on_request, nullptr, nullptr, nullptr, \
        nullptr, nullptr, nullptr };\n";
    fs::write(&source, text).unwrap();
    let object = dir.join("plugin.so");
    let output = std::process::Command::new(cpp)
        .args(["-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC", "-fvisibility=hidden"])
        .arg("-I")
        .arg(root().join("plugin-api/include"))
        .args(["-o".as_ref(), object.as_os_str(), source.as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(refusal(&object), "");
}

/// In a static binary two plugins in C are part of one program: each gets a symbol of its own.
#[test]
fn r17_two_plugins_in_c_fit_into_one_program() {
    let dir = folder("r17-two");
    let mut objects = Vec::new();
    for (symbol, source) in
        [("plugin_one", "tests/plugins/letters.c"), ("plugin_two", "examples/plugins/header_demo_c/header_demo.c")]
    {
        let (object, source) = (dir.join(symbol).with_extension("o"), root().join(source));
        let symbol = format!("-DMRP_PLUGIN_SYMBOL={symbol}");
        let args = ["-std=c99", "-fPIC", "-c", &symbol, "-o", object.to_str().unwrap(), source.to_str().unwrap()];
        if cc(&args).is_none() {
            return;
        }
        objects.push(object);
    }
    let program = dir.join("both.so");
    cc(&["-shared", "-o", program.to_str().unwrap(), objects[0].to_str().unwrap(), objects[1].to_str().unwrap()]);
    assert_refused(&program, "exports no symbol MiniRProxyPluginInstance");
}

#[test]
fn r22_the_wrapper_crate_exports_the_symbol() {
    let path = build_rust("mini-rproxy-header-demo", "header_demo");
    let Ok(output) = std::process::Command::new("nm").args(["-D", "--defined-only"]).arg(&path).output() else {
        println!("skipped: there is no nm");
        return;
    };
    let symbols = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(symbols.contains(" MiniRProxyPluginInstance"), "{symbols}");
    // And nothing else of the plugin shows.
    assert_eq!(symbols.lines().filter(|line| !line.contains("rust_")).count(), 1, "{symbols}");
}

#[test]
fn r24_the_same_file_twice_makes_two_instances() {
    let dir = folder("r24");
    let path = dir.join("header.so");
    fs::copy(build_rust("mini-rproxy-header-demo", "header_demo"), &path).unwrap();
    let Some(letters) = build_c("letters.c", &dir.join("letters.so"), &[]) else { return };
    let second = PluginConfig { name: "second".to_owned(), ..listed(&letters, true, "b") };
    let list = [listed(&letters, true, "a"), second, listed(&path, true, "")];
    let chain = load(&list, Lines::new().logger()).unwrap();
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    assert_eq!(x.request_field("x-letters").as_deref(), Some("ab"));

    // A new file renamed into its place: what runs has the old one mapped.
    let new = dir.join("new");
    fs::write(&new, "no plugin at all").unwrap();
    fs::rename(&new, &path).unwrap();
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    assert_eq!(x.request_field("x-demo-request").as_deref(), Some("true"));
    assert_refused(&path, "not an ELF file");
}
