#!/bin/sh
# "make dist-test": makes the files of a release for some targets, and uses them as their users would.
#
#   DIST_TARGETS      whose archives and packages are made and run; the first one's program is in the image
#   ALL=1             all targets, the SBOM, lintian, and the same bytes from two folders
#
# Where something is missing it says what and succeeds; with CI=true it fails.
set -eu
cd "$(dirname "$0")/../.."
all_targets=$(unset CROSS_TARGETS && . examples/cross-env.sh && echo "$CROSS_TARGETS")
CROSS_TARGETS=${DIST_TARGETS:-armv7-unknown-linux-musleabihf mips-unknown-linux-musl}
PARTS="archives deb ipk image"
[ -z "${ALL:-}" ] || CROSS_TARGETS=$all_targets PARTS="archives sbom deb ipk image"
. examples/cross-env.sh
PATH=$TARGET/tools/bin:$PATH:/usr/sbin
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
DIST=$TARGET/dist
IMAGE_TARGET=${CROSS_TARGETS%% *}
export CARGO TARGET DIST CROSS_TARGETS IMAGE_TARGET PARTS PATH

skip() {
    echo "skipped: dist-test: $1"
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
fail() {
    echo "dist-test: $1" >&2
    exit 1
}
for triple in $CROSS_TARGETS; do
    use_target "$triple" || skip "$why"
    [ "$cross_qemu" ] || skip "qemu-$machine is missing: the package qemu-user-static"
done
[ "$(id -u)" = 0 ] || skip "only root may make a Debian system to install into"
for program in curl cc python3 unshare debootstrap skopeo umoci ${ALL:+lintian}; do
    command -v "$program" >/dev/null || skip "$program is missing, a package of Debian"
done
command -v cargo-deb >/dev/null || skip "cargo-deb is missing: cargo install --locked --root target/tools cargo-deb"
[ -z "${ALL:-}" ] || command -v cargo-cyclonedx >/dev/null ||
    skip "cargo-cyclonedx is missing: cargo install --locked --root target/tools cargo-cyclonedx"

folder=$(mktemp -d)
# Its name is in the trap itself: no variable that is set later can make it remove another one.
# shellcheck disable=SC2064
trap "rm -rf '$folder'" EXIT
trap 'exit 1' INT TERM
rm -rf "$DIST"
# refused EXPECTED COMMAND...: what cannot be made is told before anything is built.
refused() {
    expected=$1
    shift
    ! said=$("$@" 2>&1) || fail "$* succeeds"
    case $said in *"$expected"*) ;; *) fail "$* says '$said', and not '$expected'" ;; esac
    [ ! -e "$DIST" ] || fail "$* has begun"
}
refused "which is not there: name it in CROSS_TARGETS" env PARTS='archives image' CROSS_TARGETS=mips-unknown-linux-musl \
    IMAGE_TARGET=x86_64-unknown-linux-musl sh examples/dist/dist.sh
refused "has a blank" env PARTS=archives CARGO_HOME="$folder/a blank" sh examples/dist/dist.sh
# Of another version, and no part of this one.
install -D /dev/null "$DIST/mini-rproxy-0.0.0-$IMAGE_TARGET.tar.gz"
# In the environment of who types it: not all that use_target has set here.
env -u CROSS_ZIG -u RUSTFLAGS -u RUSTC -u RUSTC_BOOTSTRAP make --no-print-directory dist
(cd "$DIST" && sha256sum --check --quiet --strict SHA256SUMS) || fail "SHA256SUMS is wrong"
[ ! -e "$DIST/mini-rproxy-0.0.0-$IMAGE_TARGET.tar.gz" ] || fail "an archive of another version stays"

for triple in $CROSS_TARGETS; do
    use_target "$triple"
    name=mini-rproxy-$version-$triple
    tar -xzf "$DIST/$name.tar.gz" -C "$folder"
    (cd "$folder/$name" && find . -type f -printf '%m %P\n' | sort -k 2) >"$folder/found"
    diff -u tests/dist/archive.txt "$folder/found" || fail "$name.tar.gz has other files or modes than tests/dist/archive.txt"
    tar -tvzf "$DIST/$name.tar.gz" --numeric-owner | awk '$2 != "0/0"' | grep . && fail "$name.tar.gz: files of another owner than 0"
    for program in mini-rproxy mini-rproxy-notls; do
        $cross_qemu "$folder/$name/$program" -version | grep -q "$version" || fail "$name/$program tells another version"
        $cross_qemu "$folder/$name/$program" -check -config "$folder/$name/config.yaml" >/dev/null || fail "$name/$program refuses config.yaml"
        for path in "$PWD" "${CARGO_HOME:-$HOME/.cargo}" "$(rustc --print sysroot)"; do
            ! grep -qF "$path" "$folder/$name/$program" || fail "$name/$program names a folder of this machine: $path"
        done
    done
    for crate in httparse ring musl; do
        grep -q "^$crate" "$folder/$name/THIRD-PARTY.txt" || fail "$name/THIRD-PARTY.txt says nothing of $crate"
    done
    # Each crate that is named there is in the SBOM, too.
    [ -z "${ALL:-}" ] || python3 - "$DIST/$name.cdx.json" "$folder/$name/THIRD-PARTY.txt" <<'PYTHON' || fail "the SBOM of $triple"
import json, re, sys
bom = json.load(open(sys.argv[1]))
known = {(part["name"], part["version"]) for part in bom["components"]}
linked = set(re.findall(r"^([\w-]+) ([\d.]+\S*): ", open(sys.argv[2]).read(), re.MULTILINE))
assert len(linked) > 20 and linked <= known, linked - known
assert "serialNumber" not in bom
PYTHON
    echo "dist-test: $name.tar.gz: unpacked, and both programs run"
    sh tests/dist/ipk.sh "$version" "$triple" "$cross_qemu" "$folder/$name"
done
use_target "$IMAGE_TARGET"
[ "$machine" != "$(uname -m)" ] || cross_qemu=
unset RUSTFLAGS RUSTC RUSTC_BOOTSTRAP
sh tests/dist/image.sh "$version" "$cross_qemu"
sh tests/dist/deb.sh
[ -z "${ALL:-}" ] || sh tests/dist/reproducible.sh
