#!/bin/sh
# "make pgo": the release binary, compiled with a profile of itself at work (profile-guided optimisation). The compiler learns
# from a first, instrumented build which branches are taken and which calls matter, and lays the code out for them.
#
# Trained with the traffic of the benchmark, all of which is on loopback, and with the smuggling catalogue, so that what is refused is
# known as well. The profile fits one compiler and one state of the source; it is made anew each time.
set -eu
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-target}
triple=$(rustc -vV | sed -n 's/^host: //p')
profdata=${LLVM_PROFDATA:-$(rustc --print target-libdir)/../bin/llvm-profdata}
pgo=$(mkdir -p "$TARGET/pgo" && cd "$TARGET/pgo" && pwd)

if ! [ -x "$profdata" ]; then
    echo "make pgo: llvm-profdata is missing; install it with:" >&2
    echo "    rustup component add llvm-tools" >&2
    echo "or name it in LLVM_PROFDATA: it must be of the LLVM that rustc -vV shows." >&2
    exit 1
fi

# build FOLDER FLAG: with --target, so that the flag is for the binary and not for what runs while it is built.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $2" $CARGO build --locked --quiet --release --bin mini-rproxy --target "$triple" --target-dir "$pgo/$1"
}

echo "1. a build that counts"
build counting "-Cprofile-generate=$pgo/raw"
counting=$pgo/counting/$triple/release/mini-rproxy
$CARGO build --locked --quiet --release --package mini-rproxy-bench

echo "2. it works"
rm -rf "$pgo/raw"
"$TARGET/release/mini-rproxy-bench" --scenario small,browser,new,chunked,down-64k,up-64k,websocket,tls-front,tls-behind \
    --repeat 1 --requests 20000 --proxy "$counting" --out "$pgo/bench" >"$pgo/training.log"
$CARGO run --locked --quiet --package mini-rproxy-selftest -- --binary "$counting" >>"$pgo/training.log"

echo "3. a build that knows"
"$profdata" merge -o "$pgo/mini-rproxy.profdata" "$pgo/raw"
build knowing "-Cprofile-use=$pgo/mini-rproxy.profdata"
# Replaced by rename: the old one may be running.
cp "$pgo/knowing/$triple/release/mini-rproxy" "$pgo/mini-rproxy.new"
mv "$pgo/mini-rproxy.new" "$pgo/mini-rproxy"
echo "$TARGET/pgo/mini-rproxy"
