#!/bin/sh
# "make static": the fully static, stripped binary in three forms: without TLS, with it, and with it and the host of
# Proxy-Wasm modules, which gives a static binary plugins at run time.
#
#   make static                                             for this machine
#   make static FEATURES=builtin-plugins                    with the example plugins linked in
#   make static TARGET_TRIPLE=x86_64-unknown-linux-musl     after: rustup target add x86_64-unknown-linux-musl
#
# The smallest ones come from the musl targets: what glibc puts into every static program that looks up names is 0.9 MB.
set -eu
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-target}
TARGET_TRIPLE=${TARGET_TRIPLE:-$(rustc -vV | sed -n 's/^host: //p')}

if ! [ -d "$(rustc --print target-libdir --target "$TARGET_TRIPLE")" ]; then
    echo "make static: Rust's standard library for $TARGET_TRIPLE is not installed; install it with:" >&2
    echo "    rustup target add $TARGET_TRIPLE" >&2
    exit 1
fi

flags='-C target-feature=+crt-static'

# Packs the relocations of a position-independent executable: 30 to 70 KiB less. glibc applies such since 2.36, and musl
# since 1.2.4, which came with Rust 1.93.
packed='-C link-arg=-Wl,-z,pack-relative-relocs'
minor=$(rustc -V | sed 's/^rustc 1\.\([0-9]*\).*/\1/')
case $TARGET_TRIPLE in
    *-gnu) flags="$flags $packed" ;;
    *-musl) [ "$minor" -lt 93 ] || flags="$flags $packed" ;;
esac

# What TLS has in C needs no C library: where musl's own compiler is not installed, this machine's will do.
case $TARGET_TRIPLE in
    "$(uname -m)"-*-musl)
        if ! command -v musl-gcc >/dev/null && ! command -v "$(uname -m)-linux-musl-gcc" >/dev/null; then
            variable="CC_$(echo "$TARGET_TRIPLE" | tr - _)"
            eval "export $variable=\${$variable:-cc}"
        fi
        ;;
esac

# Messages of a panic name source files: without the folder of whoever built it, which is shorter and the same everywhere.
flags="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src="

# build NAME FEATURES
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $flags" $CARGO build --quiet --locked --profile small --target "$TARGET_TRIPLE" \
        --bin mini-rproxy --no-default-features --features "$2"
    mkdir -p "$TARGET/static"
    # Replaced by rename: the old one may be running.
    cp "$TARGET/$TARGET_TRIPLE/small/mini-rproxy" "$TARGET/static/$1.new"
    mv "$TARGET/static/$1.new" "$TARGET/static/$1"
    size=$(($(wc -c <"$TARGET/static/$1")))
    echo "$TARGET/static/$1: $((size / 1024)) KiB"
    if command -v file >/dev/null; then
        file -b "$TARGET/static/$1"
    fi
}

build mini-rproxy "${FEATURES:-}"
if grep -q '^tls *=' Cargo.toml; then
    build mini-rproxy-tls "tls ${FEATURES:-}"
    build mini-rproxy-wasm "tls wasm ${FEATURES:-}"
else
    echo "no feature tls: mini-rproxy-tls and mini-rproxy-wasm are not built"
fi
