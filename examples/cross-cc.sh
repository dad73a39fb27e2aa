#!/bin/sh
# A C compiler and linker for another machine: zig, with its musl and libunwind. examples/cross-env.sh sets CROSS_ZIG, the
# command, and CROSS_TARGET, the machine.
set -eu
for argument; do
    shift
    case $argument in
    # The crate cc tells clang the target by the name that Rust has for it; zig has names of its own.
    --target=*) ;;
    # The machine is known, and zig's linker takes no such argument.
    -Wl,-m*) ;;
    *) set -- "$@" "$argument" ;;
    esac
done
# shellcheck disable=SC2086 # several words
exec $CROSS_ZIG cc $CROSS_TARGET "$@"
