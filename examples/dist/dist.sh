#!/bin/sh
# "make dist": what a release consists of, in target/dist/, with SHA256SUMS over all of it. docs/releases.md tells what is in
# each file.
#
#   make dist                                             all parts, for all targets
#   make dist PARTS='archives ipk' CROSS_TARGETS=mips-unknown-linux-musl
#   PARTS             archives; sbom; deb; ipk and image, which are made from the archives. By default all; without the image
#                     where CROSS_TARGETS leaves its target out
#   CROSS_TARGETS     whose archives and packages for OpenWrt are made
#   IMAGE_TARGET      whose program is in the image: this machine's
#   IPK_ARCH          what the router calls its processor, where it is not the usual name for the target
#   SOURCE_DATE_EPOCH the time of all files, in seconds; the commit's
#   DEBFULLNAME, DEBEMAIL  who answers for the .deb; the commit's author
#
# The same source and tools make the same bytes in every folder. What other parts of this version have made stays there; what is of
# another version goes.
set -eu
cd "$(dirname "$0")/../.."
. examples/cross-env.sh
default_parts="archives sbom deb ipk"
case " $CROSS_TARGETS " in *" $IMAGE_TARGET "*) default_parts="$default_parts image" ;; esac
PARTS=${PARTS:-$default_parts}
export PATH="$TARGET/tools/bin:$PATH"
dist=$TARGET/dist
work=$dist/.work
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

fail() {
    echo "make dist: $1" >&2
    exit 1
}
# need PROGRAM [WHERE IT IS FROM]
need() {
    command -v "$1" >/dev/null || fail "$1 is missing: ${2:-cargo install --locked --root target/tools $1}"
}
python="a package of every distribution"
for part in $PARTS; do
    case $part in
    archives)
        need python3 "$python"
        find_zig || fail "$why"
        for triple in $CROSS_TARGETS; do (use_target "$triple" || fail "$why"); done
        ;;
    sbom) need cargo-cyclonedx ;;
    deb) need cargo-deb && need python3 "$python" ;;
    ipk) ;;
    image)
        need python3 "$python"
        case " $CROSS_TARGETS " in
        *" $IMAGE_TARGET "*) ;;
        *) [ -e "$dist/mini-rproxy-$version-$IMAGE_TARGET.tar.gz" ] || fail "the image is made from the archive for $IMAGE_TARGET, \
which is not there: name it in CROSS_TARGETS, or another one in IMAGE_TARGET" ;;
        esac
        ;;
    *) fail "$part is no part; there are archives, sbom, deb, ipk, image" ;;
    esac
done
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) ||
        fail "there is no commit to take the time from: set SOURCE_DATE_EPOCH to seconds since 1970"
fi
export SOURCE_DATE_EPOCH
umask 022
rm -rf "$work"
mkdir -p "$work"
of_others() { find "$dist" -maxdepth 1 -name 'mini-rproxy[-_][0-9]*' ! -name "mini-rproxy[-_]$version-*" "$@"; }
# The name of the image has no version.
[ -z "$(of_others)" ] || rm -f "$dist/mini-rproxy-image.tar"
of_others -delete
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# What a program of Rust has to name: the notices of the standard library, and the licences of the crates.
notices() {
    standard=$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html
    [ -e "$standard" ] || fail "$standard is missing, the notices of Rust's standard library: rustup's compiler brings it"
    cp "$standard" "$1/THIRD-PARTY-rust.html"
    shift
    python3 examples/dist/third_party.py "$@"
}

# archive TRIPLE: the folder, packed with nothing in it that differs from one machine to the next.
archive() {
    name=mini-rproxy-$version-$1
    folder=$work/$name
    install -D -m 755 "$TARGET/cross/bin/$1/mini-rproxy-tls" "$folder/mini-rproxy"
    install -m 755 "$TARGET/cross/bin/$1/mini-rproxy" "$folder/mini-rproxy-notls"
    install -m 644 LICENSE-MIT LICENSE-APACHE config.example.yml examples/dist/config.yaml "$folder"
    install -D -m 644 -t "$folder/systemd" examples/systemd/*
    install -D -m 755 -t "$folder/openwrt" examples/openwrt/mini-rproxy.init
    cp -r "$TARGET/man" "$folder"
    zig_lib=$($CROSS_ZIG env | sed -n 's/.*lib_dir"* *[=:] *"\(.*\)".*/\1/p')
    [ "$zig_lib" ] || fail "'$CROSS_ZIG env' names no lib_dir, where the notices of musl are"
    ZIG_LIB=$zig_lib notices "$folder" "$1" tls >"$folder/THIRD-PARTY.txt"
    tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" \
        -C "$work" -c "$name" | gzip -9n >"$dist/$name.tar.gz"
    echo "$name.tar.gz"
}

# sbom TRIPLE: what the program with TLS is made of. The tool writes a file beside each Cargo.toml, here of a copy of the tree.
sbom() {
    if ! [ -d "$work/tree" ]; then
        mkdir "$work/tree"
        tar -c --exclude=./.git --exclude=./target --exclude=./fuzz . | tar -x -C "$work/tree"
    fi
    $CARGO cyclonedx -q --manifest-path "$work/tree/Cargo.toml" --format json --spec-version 1.5 --target "$1" \
        --no-default-features --features tls --override-filename sbom
    sed "s|file://$work/tree|file:///mini-rproxy|" "$work/tree/sbom.json" >"$dist/mini-rproxy-$version-$1.cdx.json"
    echo "mini-rproxy-$version-$1.cdx.json"
}

# For this machine, with plugins from shared objects. What is made for it here and named in Cargo.toml is in target/deb.
deb() {
    { [ "${DEBFULLNAME:-}" ] && [ "${DEBEMAIL:-}" ]; } || git log -1 >/dev/null 2>&1 ||
        fail "there is no commit to take the maintainer from: set DEBFULLNAME and DEBEMAIL"
    maintainer="${DEBFULLNAME:-$(git log -1 --format=%an)} <${DEBEMAIL:-$(git log -1 --format=%ae)}>"
    rm -rf target/deb
    mkdir -p target/deb/man
    for unit in examples/systemd/*; do
        # Without the comment on top, which tells how to install it.
        sed -e '1,/^$/d' -e 's|/usr/local/bin/|/usr/bin/|' "$unit" >"target/deb/${unit##*/}"
    done
    cp -r "$TARGET/man/." target/deb/man
    date=$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
    printf 'mini-rproxy (%s-1) stable; urgency=medium\n\n  * Release %s.\n\n -- %s  %s\n' "$version" "$version" "$maintainer" "$date" \
        >target/deb/changelog
    notices target/deb "$(rustc -vV | sed -n 's/^host: //p')" dlopen,tls >target/deb/THIRD-PARTY.txt
    compiler=rustc
    hide_folders || fail "$why"
    # A folder of its own, in which only these flags are used.
    RUSTFLAGS=$hide_rust CFLAGS=$hide_c CARGO_TARGET_DIR=$TARGET/deb-build $CARGO deb --quiet --locked --maintainer "$maintainer" \
        --output "$dist" >/dev/null
    (cd "$dist" && ls -- *.deb)
}

for part in $PARTS; do
    case $part in
    archives)
        CARGO=$CARGO TARGET=$TARGET CROSS_TARGETS=$CROSS_TARGETS FEATURES='' sh examples/cross.sh
        for triple in $CROSS_TARGETS; do archive "$triple"; done
        ;;
    sbom) for triple in $CROSS_TARGETS; do sbom "$triple"; done ;;
    deb) deb ;;
    ipk)
        for triple in $CROSS_TARGETS; do
            sh examples/dist/ipk.sh "$version" "$triple" "$dist"
        done
        ;;
    image) python3 examples/dist/image.py "$version" "$IMAGE_TARGET" "$dist" ;;
    esac
done
cd "$dist"
rm -f SHA256SUMS
find . -maxdepth 1 -type f -printf '%f\n' | LC_ALL=C sort | xargs sha256sum >"$work/sums"
mv "$work/sums" SHA256SUMS
