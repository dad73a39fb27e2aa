#!/bin/sh
# Runs each fuzz target for FUZZ_SECONDS (default 20), one after the other; called by "make fuzz".
#   sh fuzz/run.sh [TARGET...]
#
# FUZZ_TOOLCHAIN=nightly    a toolchain of rustup; else the one in use, stable too
# FUZZ_SANITIZER=address    AddressSanitizer for all; without it only for the targets that run unsafe code (plugin_*):
#                           with it, an input takes three to five times as long
# FUZZ_SKIP_IF_MISSING=1    without a C++ compiler say so and succeed, unless CI=true
#
# The binaries are built with the flags of cargo-fuzz. They are stable ones, but for the sanitizer's: RUSTC_BOOTSTRAP=1
# lets stable take that too.
# shellcheck disable=SC2046,SC2086 # names of targets, and a toolchain or none: words
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-20}
cargo=${CARGO:-cargo}
toolchain=${FUZZ_TOOLCHAIN:++$FUZZ_TOOLCHAIN}
[ -z "$toolchain" ] || cargo=cargo

if ! command -v c++ >/dev/null; then
    echo "fuzzing needs a C++ compiler, for libFuzzer: for example the package g++" >&2
    [ "${FUZZ_SKIP_IF_MISSING:-}" ] && [ "${CI:-}" != true ] || exit 1
    echo "skipped: fuzzing"
    exit 0
fi
triple=$($cargo $toolchain -vV | sed -n 's/^host: //p')

sanitizer_of() {
    case $1 in
    plugin_*) echo address ;;
    *) echo "${FUZZ_SANITIZER:-none}" ;;
    esac
}

# Builds the targets $2... for the sanitizer $1. Because of --target, build scripts and macros get none of these flags.
build() {
    flags="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module"
    for option in level=4 inline-8bit-counters pc-table trace-compares stack-depth; do
        flags="$flags -Cllvm-args=-sanitizer-coverage-$option"
    done
    [ "$1" = none ] || flags="$flags -Zsanitizer=$1"
    folder=target/$1
    shift
    [ $# -eq 0 ] || RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" $cargo $toolchain build --locked --quiet --release \
        --target "$triple" --target-dir "$folder" $(printf ' --bin %s' "$@")
}

[ $# -gt 0 ] || set -- $(for file in fuzz_targets/*.rs; do basename "$file" .rs; done)
for sanitizer in none address; do
    build $sanitizer $(for target in "$@"; do [ "$(sanitizer_of "$target")" != $sanitizer ] || echo "$target"; done)
done

for target in "$@"; do
    case $target in
    exchange) words=exchange ;;
    config) words=config ;;
    target_route) words=target ;;
    plugin_* | proxy_header) words= ;;
    *) words=http ;;
    esac
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "== $target, $seconds seconds"
    log=$(mktemp)
    # New inputs go to corpus/, which is not committed; seeds/ is only read.
    if "target/$(sanitizer_of "$target")/$triple/release/$target" "corpus/$target" "seeds/$target" \
        ${words:+-dict=dictionaries/$words.dict} -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" >"$log" 2>&1; then
        grep -a 'number_of_executed_units\|average_exec_per_sec' "$log"
        rm "$log"
    else
        tail -n 200 "$log" >&2
        echo "$target found something: the input is in fuzz/artifacts/$target, the whole output in $log" >&2
        exit 1
    fi
done
