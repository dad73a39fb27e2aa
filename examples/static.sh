#!/bin/sh
# "make static": the fully static, stripped binary in two forms, without and with TLS.
#
#   make static                                             for this machine
#   make static TARGET_TRIPLE=x86_64-unknown-linux-musl     after: rustup target add x86_64-unknown-linux-musl
#
# The smallest ones come from the musl targets: the parts of glibc that every static program carries are about 0.9 MB.
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
case $TARGET_TRIPLE in
    # Packs the relocations of a position-independent executable: 50 KiB less.
    *-gnu) flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs" ;;
esac

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

build mini-rproxy ''
if grep -q '^tls *=' Cargo.toml; then
    build mini-rproxy-tls tls
else
    echo "no feature tls: mini-rproxy-tls is not built"
fi
