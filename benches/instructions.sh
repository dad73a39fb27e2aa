#!/bin/sh
# Instructions that a request takes between the sockets: reading both heads, routing, forwarding, framing. Two runs of
# different length are compared, so that the start cancels. The numbers are the same on a busy machine. Then the same for a
# small request with a WebAssembly filter that sets a field of the request and one of the response.
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 1; }
program=${CARGO_TARGET_DIR:-target}/release/examples/requests

# The number of instructions of a run with so many requests.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 >/dev/null |
        awk '/Collected/ { print $NF }'
}

tell() {
    for kind in "$@"; do
        few=$(count "$kind" 1000)
        many=$(count "$kind" 3000)
        echo "$kind: $(((many - few) / 2000)) instructions"
    done
}

cargo build --locked --quiet --release --example requests
tell small browser
cargo build --locked --quiet --release --features wasm --example requests
tell filter
