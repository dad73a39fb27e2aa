#!/bin/sh
# "make check-targets": type-checks the proxy for other machines, 32-bit ones among them.
#
# A target is checked where Rust's standard library for it is installed (rustup target add TARGET). Where the sources of
# the standard library are installed beside a nightly toolchain (rustup component add rust-src --toolchain nightly), it is
# checked against those instead. What cannot be checked is said, and is an error only with CI=true and for 32-bit.
set -eu
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
CHECK_TARGETS=${CHECK_TARGETS:-i686-unknown-linux-gnu}
# Empty without rustup, or without a nightly toolchain.
nightly=$(rustc +nightly --print sysroot 2>/dev/null || true)
failed=

for target in $CHECK_TARGETS; do
    if [ -d "$(rustc --print target-libdir --target "$target")" ]; then
        echo "$target: checking"
        $CARGO check --quiet --locked --target "$target" --no-default-features
        continue
    fi
    if [ -n "$nightly" ] && [ -d "$nightly/lib/rustlib/src/rust/library" ]; then
        echo "$target: checking, with the standard library from its sources"
        $CARGO +nightly check --quiet --locked --target "$target" --no-default-features -Z build-std=std,panic_unwind
        continue
    fi
    echo "$target: NOT CHECKED, Rust's standard library for it is not installed: rustup target add $target"
    case $target in i686-*) failed=$target ;; esac
done

if [ -n "$failed" ] && [ "${CI:-}" = true ]; then
    echo "CI=true: $failed has to be checked" >&2
    exit 1
fi
