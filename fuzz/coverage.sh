#!/bin/sh
# Which lines of src/http and src/proxy the tests and the fuzz targets' committed inputs run; called by "make coverage".
#   sh fuzz/coverage.sh            a line for each file, and the sums
#   sh fuzz/coverage.sh missed     and each line that was not run
#
# Needs `cov` of the crate llvm_profparser, which reads the profiles of any rustc without LLVM's own tools:
#   cargo install llvm_profparser --locked
# Test modules are not counted.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
folder=$PWD/target/coverage
raw=$folder/raw

if ! command -v cov >/dev/null; then
    echo "coverage needs cov: cargo install llvm_profparser --locked" >&2
    exit 1
fi
rm -rf "$raw"
export RUSTFLAGS=-Cinstrument-coverage LLVM_PROFILE_FILE="$raw/%m.profraw"

# Under instruments some tests measure what is not the proxy's own, or see that a file was written: the profile.
tests="--lib --test wire --test smuggling --test invariants --test faults --test config --test e2e"
# shellcheck disable=SC2086 # several words
$cargo test --locked --quiet --all-features --target-dir "$folder" --no-fail-fast $tests -- --skip e7_ --skip constant_memory >&2 ||
    echo "some tests failed under instruments, which is no news here" >&2
# Proxies that were started with an empty environment know no better place.
rm -f default_*.profraw
$cargo test --locked --quiet --manifest-path fuzz/Cargo.toml --target-dir "$folder/fuzz" --no-default-features --test replay >&2

# The programs that were run: the newest of each name.
programs=
for name in mini_rproxy wire smuggling invariants faults config e2e; do
    programs="$programs $(find "$folder/debug/deps" -name "$name-*" -type f -perm -u+x ! -name '*.*' -exec ls -t {} + | head -n 1)"
done
programs="$programs $folder/debug/mini-rproxy"
programs="$programs $(find "$folder/fuzz/debug/deps" -name 'replay-*' -type f -perm -u+x ! -name '*.*' -exec ls -t {} + | head -n 1)"

# shellcheck disable=SC2046,SC2086
cov show $(printf -- ' --instr-profile %s' "$raw"/*.profraw) $(printf -- ' --object %s' $programs) |
    awk -v root="$PWD/src/" -v missed="${1:-}" -F '|' '
        # The name of a file stands at the start of a line, its text behind number|count|.
        /^\// { name = index($0, root) == 1 ? substr($0, length(root) + 1) : ""; is_code = name ~ /^(http|proxy)\//; next }
        !is_code { next }
        { text = substr($0, length($1) + length($2) + 3) }
        text ~ /^#\[cfg\(test\)\]/ { is_code = 0; next }
        $2 + 0 > 0 { run[name]++ }
        $2 ~ /[0-9]/ { all[name]++; if ($2 + 0 == 0 && missed) print name ":" $1 + 0 ":" text }
        END {
            for (name in all) {
                printf "%s %d of %d\n", name, run[name], all[name] | "sort"
                layer = substr(name, 1, index(name, "/") - 1)
                layer_run[layer] += run[name]; layer_all[layer] += all[name]
            }
            close("sort")
            for (layer in layer_all)
                printf "src/%s: %d of %d lines, %.1f %%\n", layer, layer_run[layer], layer_all[layer], 100 * layer_run[layer] / layer_all[layer]
        }'
