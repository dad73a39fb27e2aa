#!/bin/sh
# Builds the filters into this folder. Needs: rustup target add wasm32-unknown-unknown
# add.wasm is AssemblyScript, and is left as it is; in a folder with src/add.ts as assembly/index.ts it was made by
#   npm install @solo-io/proxy-runtime@0.1.8 assemblyscript@0.14.9
#   node_modules/.bin/asc assembly/index.ts -b add.wasm --runtime full --use abort=abort_proc_exit -O3
set -eu
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-../../../../target/filters}
# The folders of whoever builds do not belong into the modules.
RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src/= --remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust/=" \
    cargo build --locked --release --target wasm32-unknown-unknown --examples --target-dir "$target"
for name in headers deny token rate inject auth jwt; do
    cp "$target/wasm32-unknown-unknown/release/examples/$name.wasm" "$name.wasm"
done
ls -l ./*.wasm
