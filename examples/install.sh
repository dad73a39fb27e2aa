#!/bin/sh
# "make install" and "make uninstall": the binary and all that belongs to it, below PREFIX.
#
#   PREFIX    where to: /usr/local; for the files of a package /usr
#   DESTDIR   a folder that stands for the root of the file system, to make a package of: none
#   BINARY    another binary than target/release/mini-rproxy, which is built before; root takes what another user has built
#   MAN       the folder with the man pages and completions, where they are made already
#
# Each file is made beside its place and renamed, so that a proxy that runs is not disturbed. What is configured, in
# /etc/mini-rproxy, is neither made nor removed.
set -eu
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-target}
PREFIX=${PREFIX:-/usr/local}
PREFIX=${PREFIX%/}
root=${DESTDIR:-}$PREFIX
umask 022

fail() {
    echo "make $action: $1" >&2
    exit 1
}
action=${1:-}
case $action in
    install | uninstall) ;;
    *) action=install; fail "'$*' is neither install nor uninstall" ;;
esac
case $PREFIX in
    *[!A-Za-z0-9/._+-]*) fail "PREFIX=$PREFIX: choose a path of letters, digits and the characters / . _ + -" ;;
    /* | '') ;;
    *) fail "PREFIX=$PREFIX is no absolute path; for a folder to make a package of, there is DESTDIR" ;;
esac

# The mode, the place below PREFIX, and what it is made of.
files() {
    cat <<END
755 bin/mini-rproxy $BINARY
644 share/man/man1/mini-rproxy.1 $MAN/mini-rproxy.1
644 share/man/man5/mini-rproxy.5 $MAN/mini-rproxy.5
644 share/bash-completion/completions/mini-rproxy $MAN/mini-rproxy.bash
644 share/zsh/site-functions/_mini-rproxy $MAN/mini-rproxy.zsh
644 share/fish/vendor_completions.d/mini-rproxy.fish $MAN/mini-rproxy.fish
644 share/doc/mini-rproxy/README.md README.md
644 share/doc/mini-rproxy/LICENSE-APACHE LICENSE-APACHE
644 share/doc/mini-rproxy/LICENSE-MIT LICENSE-MIT
644 share/doc/mini-rproxy/config.example.yml config.example.yml
644 lib/systemd/system/mini-rproxy.service examples/systemd/mini-rproxy.service
644 lib/systemd/system/mini-rproxy.socket examples/systemd/mini-rproxy.socket
644 lib/systemd/system/mini-rproxy-https.socket examples/systemd/mini-rproxy-https.socket
END
}

if [ "$action" = uninstall ]; then
    BINARY='' MAN=''
    files | while read -r _ place _; do
        rm -f "$root/$place"
    done
    rmdir "$root/share/doc/mini-rproxy" 2>/dev/null || :
    exit
fi

if ! mkdir -p "$root/" 2>/dev/null || ! [ -w "$root/" ]; then
    fail "$root/ cannot be written: use sudo, or another PREFIX, such as PREFIX=\$HOME/.local"
fi

# A file, how it is made, and that with all arguments. Under sudo there is often no cargo, or another one, and what it made would
# belong to root: what a user has made before is taken.
made() {
    file=$1 by=$2
    shift 2
    if [ "$(id -u)" = 0 ] && [ "$(find "$file" ! -user 0 2>/dev/null)" ]; then
        echo "make install: $file as it is, because it is another user's than root" >&2
    elif command -v "${CARGO%% *}" >/dev/null; then
        "$@"
    elif [ -e "$file" ]; then
        echo "make install: there is no $CARGO here: $file as it is" >&2
    else
        fail "there is no $CARGO here, and no $file: run '$by' first, as the user who has Rust"
    fi
}
if [ -z "${BINARY:-}" ]; then
    BINARY=$TARGET/release/mini-rproxy
    # shellcheck disable=SC2086 # one word or several, such as "cargo +nightly"
    made "$BINARY" 'cargo build --release --locked' $CARGO build --release --locked
fi
if [ -z "${MAN:-}" ]; then
    MAN=$TARGET/man
    made "$MAN/mini-rproxy.1" 'make man' make --no-print-directory man CARGO="$CARGO" TARGET="$TARGET"
fi
files | while read -r _ _ source; do
    [ -r "$source" ] || fail "$source is missing"
done
files | while read -r mode place source; do
    mkdir -p "$root/${place%/*}"
    # The units name the binary.
    case $place in
        lib/systemd/*) sed "s|/usr/local|$PREFIX|g" "$source" ;;
        *) cat "$source" ;;
    esac >"$root/$place.new"
    chmod "$mode" "$root/$place.new"
    mv -f "$root/$place.new" "$root/$place"
    echo "$root/$place"
done
