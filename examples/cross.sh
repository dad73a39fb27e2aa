#!/bin/sh
# "make cross": the fully static, stripped binary for other machines, in two forms, without and with TLS, into
# target/cross/bin/. What is needed: see examples/cross-env.sh.
#
#   make cross                                            for all of them
#   make cross CROSS_TARGETS=mips-unknown-linux-musl      for some: big-endian MIPS, which most OpenWrt routers of old are
#   make cross FEATURES=builtin-plugins                   with plugins linked in
set -eu
cd "$(dirname "$0")/.."
. examples/cross-env.sh
mkdir -p "$TARGET/cross/bin"
failed=

# build NAME FEATURES
build() {
    name=$triple/$1
    # shellcheck disable=SC2086 # several words
    if ! $cross_cargo build --quiet $cross_options --profile small --bin mini-rproxy --no-default-features --features "$2"; then
        echo "$name: NOT BUILT" >&2
        failed="$failed $name"
        return
    fi
    mkdir -p "$TARGET/cross/bin/$triple"
    # Replaced by rename: the old one may be running.
    cp "$TARGET/cross/$triple/small/mini-rproxy" "$TARGET/cross/bin/$name.new"
    mv "$TARGET/cross/bin/$name.new" "$TARGET/cross/bin/$name"
    echo "$name: $(($(wc -c <"$TARGET/cross/bin/$name") / 1024)) KiB"
    if command -v file >/dev/null; then file -b "$TARGET/cross/bin/$name"; fi
}

for triple in $CROSS_TARGETS; do
    use_target "$triple" || { echo "make cross: $why" >&2; exit 1; }
    build mini-rproxy "${FEATURES:-}"
    build mini-rproxy-tls "tls ${FEATURES:-}"
done
[ -z "$failed" ] || { echo "make cross: not built:$failed" >&2; exit 1; }
