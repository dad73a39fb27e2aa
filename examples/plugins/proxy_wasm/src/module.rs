//! From a file to a compiled module, and the names of what it must export.

use std::fs;
use std::path::Path;

use mini_rproxy_plugin::Error;
use wasmi::{CompilationMode, Engine, ExternType, Module};

/// Larger files are refused: modules of filters have some 100 KB, those with a garbage collector a few MB.
const MAX_MODULE_BYTES: u64 = 32 << 20;
/// Calls within calls.
const MAX_RECURSION: usize = 1_000;
/// Bytes of the interpreter's stack for the values of one callback.
const MAX_STACK_BYTES: usize = 1 << 20;

/// Stacks that are kept for the next callback. A thread in a callback uses one, and a second one where the host has the module
/// allocate: those of all workers should find theirs.
const MAX_CACHED_STACKS: usize = 128;

/// The versions of the interface that this host speaks; a module exports the one that it was built for. The last one is
/// Higress's: 0.2.0 and some functions more, which are missed by name where a module imports them.
const VERSIONS: [&str; 4] =
    ["proxy_abi_version_0_1_0", "proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1", "proxy_abi_version_0_2_100"];

/// An engine that counts instructions.
fn engine() -> Engine {
    let mut config = wasmi::Config::default();
    config
        .consume_fuel(true)
        // Mistakes show at the start, and no request pays for compiling.
        .compilation_mode(CompilationMode::Eager)
        .ignore_custom_sections(true)
        .set_max_recursion_depth(MAX_RECURSION)
        .set_max_stack_height(MAX_STACK_BYTES)
        .set_max_cached_stacks(MAX_CACHED_STACKS)
        .wasm_multi_memory(false);
    Engine::new(&config)
}

/// Reads and compiles a module.
pub fn load(path: &Path) -> Result<Module, Error> {
    let name = path.display();
    let io = |error: std::io::Error| Error::new(format!("module {name} cannot be read: {error}"));
    let len = fs::metadata(path).map_err(io)?.len();
    if len > MAX_MODULE_BYTES {
        return Err(Error::new(format!("module {name} has {len} bytes; the limit is {MAX_MODULE_BYTES}")));
    }
    let bytes = fs::read(path).map_err(io)?;
    check_kind(&bytes).map_err(|why| Error::new(format!("module {name} {why}")))?;
    let module = Module::new(&engine(), &bytes)
        .map_err(|error| Error::new(format!("module {name} is no valid WebAssembly: {error}")))?;
    check_exports(&module).map_err(|why| Error::new(format!("module {name} {why}")))?;
    Ok(module)
}

/// The first eight bytes tell what it is.
fn check_kind(bytes: &[u8]) -> Result<(), String> {
    match bytes {
        [] => Err("is empty".to_owned()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => {
            Err("is a component: build a core module, in Rust for wasm32-wasip1 or wasm32-unknown-unknown".to_owned())
        }
        [0, b'a', b's', b'm', ..] => Err("has another version of WebAssembly than 1".to_owned()),
        [0x7f, b'E', b'L', b'F', ..] => Err("is a shared object: list it as a plugin of its own, by path".to_owned()),
        _ if bytes.trim_ascii_start().starts_with(b"(module") => {
            Err("is text: compile it (wat2wasm, wasm-tools parse)".to_owned())
        }
        _ => Err("is no WebAssembly: it does not begin with \\0asm".to_owned()),
    }
}

fn check_exports(module: &Module) -> Result<(), String> {
    if !VERSIONS.iter().any(|name| module.get_export(name).is_some()) {
        let other = module.exports().find(|export| export.name().starts_with("proxy_abi_version_"));
        return Err(match other {
            Some(other) => format!("is built for {}; this host speaks 0.1.0, 0.2.0, 0.2.1 and 0.2.100", other.name()),
            None => "is no Proxy-Wasm module: it exports no proxy_abi_version_0_2_1 (or 0_2_0, 0_1_0)".to_owned(),
        });
    }
    match module.get_export("memory") {
        Some(ExternType::Memory(_)) => Ok(()),
        _ => Err("exports no memory under that name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.wasm");
        fs::write(&path, bytes).unwrap();
        load(&path).expect_err("refused").message().to_owned()
    }

    #[test]
    fn what_is_no_module_is_refused_by_what_it_is() {
        let rows: [(&[u8], &str); 8] = [
            (b"", "is empty"),
            (b"\0as", "is no WebAssembly"),
            (b"\0asm\x0d\0\x01\0", "is a component"),
            (b"\0asm\x02\0\0\0", "another version"),
            (b"\x7fELF\x02\x01", "is a shared object"),
            (b" (module)", "is text"),
            (b"\0asm\x01\0\0\0\xff", "is no valid WebAssembly"),
            (b"\0asm\x01\0\0\0", "is no Proxy-Wasm module"),
        ];
        for (bytes, expected) in rows {
            let error = error(bytes);
            assert!(error.contains(expected) && error.contains("m.wasm"), "{error}");
        }
        let error = load(Path::new("/nonexistent/x.wasm")).unwrap_err();
        assert!(error.message().starts_with("module /nonexistent/x.wasm cannot be read: No such file"), "{error}");
    }

    #[test]
    fn the_version_is_checked() {
        let with = |exports: &str| error(&wat::parse_str(format!("(module {exports})")).unwrap());
        let missing = with("(func (export \"proxy_abi_version_0_3_0\"))");
        assert!(missing.contains("is built for proxy_abi_version_0_3_0; this host speaks"), "{missing}");
        assert!(with("(func (export \"proxy_abi_version_0_2_1\"))").contains("exports no memory"));
        assert!(
            with("(func (export \"memory\")) (func (export \"proxy_abi_version_0_2_0\"))")
                .contains("exports no memory")
        );
    }

    #[test]
    fn truncated_modules_are_refused() {
        let whole =
            wat::parse_str("(module (memory (export \"memory\") 1) (func (export \"proxy_abi_version_0_2_1\") nop))")
                .unwrap();
        for len in 0..whole.len() {
            error(&whole[..len]);
        }
    }
}
