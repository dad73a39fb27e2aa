#!/bin/sh
# The archiver that goes with examples/cross-cc.sh.
# shellcheck disable=SC2086 # several words
exec $CROSS_ZIG ar "$@"
