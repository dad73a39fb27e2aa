#!/bin/sh
# "make cross-test": the tests as programs of other machines, under qemu's user mode; then the binaries that "make cross"
# builds, end to end.
#
#   CROSS_TEST_TARGETS        whose tests run: armv7, and MIPS, where the higher byte comes first
#   CROSS_TARGETS             whose binaries are built and run
#   CROSS_FAULT_EXCHANGES     exchanges with faults, in memory; 100,000
#   PROPTEST_CASES            random cases of each invariant; 200
#
# Where something is missing it says what and succeeds; with CI=true it fails.
set -eu
cd "$(dirname "$0")/../.."
. examples/cross-env.sh
CROSS_TEST_TARGETS=${CROSS_TEST_TARGETS:-armv7-unknown-linux-musleabihf mips-unknown-linux-musl}
export CROSS_TARGETS FAULT_EXCHANGES="${CROSS_FAULT_EXCHANGES:-100000}" LOOP_FAULT_EXCHANGES=1 PROPTEST_CASES="${PROPTEST_CASES:-200}"

skip() {
    echo "skipped: cross-test: $1"
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
for triple in $CROSS_TEST_TARGETS $CROSS_TARGETS; do
    use_target "$triple" || skip "$why"
    [ "$cross_qemu" ] || skip "qemu-$machine is missing: the package qemu-user-static"
done
for program in curl openssl python3; do
    command -v $program >/dev/null || skip "$program is missing"
done

# What is cheap goes unoptimised, and what runs often is optimised, checks and all.
hot="--profile faults"
for crate in core alloc std hashbrown; do
    hot="$hot --config profile.faults.package.$crate.opt-level=2"
done
for triple in $CROSS_TEST_TARGETS; do
    use_target "$triple"
    echo "cross-test: $triple: unit tests, wire scripts, the smuggling catalogue, invariants, $FAULT_EXCHANGES exchanges with faults"
    # qemu tells SO_ERROR in this machine's numbers, and those of MIPS differ (seen with 7.2).
    skipped=
    case $machine in mips*) skipped="--skip m7_a_refused" ;; esac
    # shellcheck disable=SC2086 # several words
    $cross_cargo test $cross_options $hot --no-default-features --lib --test wire --test smuggling --test invariants \
        --test faults -- $skipped
done

sh examples/cross.sh
# For this machine, without what use_target has set.
# shellcheck disable=SC2086 # one word or several
env -u RUSTFLAGS -u RUSTC -u RUSTC_BOOTSTRAP $CARGO build --quiet --locked --example upstream --target-dir "$TARGET"
for triple in $CROSS_TARGETS; do
    use_target "$triple"
    for name in mini-rproxy mini-rproxy-tls; do
        # shellcheck disable=SC2086 # empty, or a word
        sh tests/cross/end_to_end.sh "$TARGET/debug/examples/upstream" "$cross_qemu" "$TARGET/cross/bin/$triple/$name"
        echo "cross-test: $triple/$name: end to end"
    done
done
