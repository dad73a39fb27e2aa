#!/bin/sh
# "make dist-reproducible": archive, SBOM, package for OpenWrt and image of one target, made in two folders and with two names of
# cargo's own, are the same, byte for byte. REPRODUCIBLE_TARGET chooses it.
set -eu
cd "$(dirname "$0")/../.."
target=${REPRODUCIBLE_TARGET:-$IMAGE_TARGET}
parts="archives sbom ipk"
# There is no platform of images for MIPS.
case $target in mips*) ;; *) parts="$parts image" ;; esac
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
tools=$(cd "${TARGET:-target}" && pwd)/tools/bin
export SOURCE_DATE_EPOCH PATH="$tools:$PATH"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
ln -s "${CARGO_HOME:-$HOME/.cargo}" "$folder/another-cargo"
# build NAME [VARIABLE=VALUE]...
build() {
    name=$1
    shift
    mkdir "$folder/$name"
    git ls-files -z | tar -c --null -T - | tar -x -C "$folder/$name"
    env -u CARGO_TARGET_DIR -u MAKEFLAGS -u TARGET "$@" make --no-print-directory -C "$folder/$name" dist PARTS="$parts" CROSS_TARGETS="$target" \
        IMAGE_TARGET="$target"
    # Only what is compared: each folder has 1 GB.
    mv "$folder/$name/target/dist" "$folder/$name.dist"
    rm -rf "${folder:?}/$name"
}
build one
build another-and-longer-name CARGO_HOME="$folder/another-cargo" LC_ALL=C TZ=Asia/Tokyo
diff -r "$folder/one.dist" "$folder/another-and-longer-name.dist" || { echo "dist-reproducible: they differ" >&2; exit 1; }
cat "$folder/one.dist/SHA256SUMS"
echo "dist-test: the same bytes from two folders, for $target"
