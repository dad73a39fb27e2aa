#!/bin/sh
# Builds the proxy and the bundled upstream, starts both, and tells what to try. Ctrl-C stops both.
# Called by "make run".
set -eu
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-${CARGO_TARGET_DIR:-target}}

# A debug build: sooner there than a release build, and fast enough to look at.
$CARGO build --locked --bin mini-rproxy --example upstream
$CARGO build --locked --package mini-rproxy-header-demo --examples

"$TARGET/debug/examples/upstream" &
upstream=$!
trap 'kill "$upstream" 2>/dev/null || true' EXIT
trap 'exit 0' INT TERM

# The upstream says itself what is wrong when it cannot start, and there is no use in going on without it.
sleep 1
kill -0 "$upstream" 2>/dev/null || exit 1

set -- -config config.example.yml -verbose
# One plugin, which only marks what passes; the others of examples/plugins want a configuration.
plugin="$TARGET/debug/examples/libheader_demo.so"
if [ -e "$plugin" ]; then
    mkdir -p "$TARGET/demo-plugins"
    # Replaced by rename: a proxy that still runs has the old file mapped.
    cp "$plugin" "$TARGET/demo-plugins/new"
    mv "$TARGET/demo-plugins/new" "$TARGET/demo-plugins/header_demo.so"
    set -- "$@" -plugindir "$(cd "$TARGET/demo-plugins" && pwd)"
fi

cat <<'TRY'

Try, in another terminal:
    curl http://127.0.0.1:8080/health
    curl http://127.0.0.1:8080/configz
    curl 'http://127.0.0.1:8080/fitness/users/123?q=a%20b'      # what the upstream got: target, fields
    curl -d 'some text' http://127.0.0.1:8080/engine/x
    curl -N http://127.0.0.1:8080/connect/sse                   # events, each as soon as it is sent
    curl -s http://127.0.0.1:8080/fitness/chunked/1000000 | wc -c
    curl http://127.0.0.1:8080/fitness/die                      # the upstream breaks off, and curl can tell
Ctrl-C stops everything.

TRY

# In the foreground: Ctrl-C reaches it as SIGINT, and it finishes what is in flight.
"$TARGET/debug/mini-rproxy" "$@"
