#!/bin/sh
# Runs each fuzz target for FUZZ_SECONDS (default 20), one after the other; called by "make fuzz".
#   sh fuzz/run.sh [TARGET...]
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-20}
toolchain=${FUZZ_TOOLCHAIN:-nightly}

missing=
command -v rustup >/dev/null && rustup run "$toolchain" rustc --version >/dev/null 2>&1 ||
    missing="$missing
  the $toolchain toolchain, for the sanitizers: rustup toolchain install $toolchain --profile minimal"
cargo fuzz --version >/dev/null 2>&1 ||
    missing="$missing
  cargo-fuzz: cargo install cargo-fuzz --locked"
command -v c++ >/dev/null ||
    missing="$missing
  a C++ compiler, for libFuzzer: for example the package g++"
if [ -n "$missing" ]; then
    echo "fuzzing needs what is missing here:$missing" >&2
    exit 1
fi

[ $# -gt 0 ] || set -- $(for file in fuzz_targets/*.rs; do basename "$file" .rs; done)
cargo "+$toolchain" fuzz build
[ -d corpus ] || cargo test --quiet --no-default-features --test first_inputs -- --ignored

for target in "$@"; do
    case $target in
    exchange) words=exchange ;;
    config) words=config ;;
    target_route) words=target ;;
    plugin_* | preface) words= ;;
    *) words=http ;;
    esac
    mkdir -p "corpus/$target"
    echo "== $target, $seconds seconds"
    log=$(mktemp)
    # New inputs go to corpus/, which is not committed; seeds/ is only read.
    if cargo "+$toolchain" fuzz run "$target" "corpus/$target" "seeds/$target" -- \
        ${words:+-dict=dictionaries/$words.dict} -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -print_final_stats=1 >"$log" 2>&1; then
        grep -a 'number_of_executed_units\|average_exec_per_sec' "$log"
        rm "$log"
    else
        tail -n 200 "$log" >&2
        echo "$target found something: the input is in fuzz/artifacts/$target, the whole output in $log" >&2
        exit 1
    fi
done
