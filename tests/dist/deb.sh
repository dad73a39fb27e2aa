#!/bin/sh
# deb.sh: the .deb, installed into a Debian system that is made for it: it runs, loads a plugin, is upgraded, removed and purged.
set -eu
# In memory, and gone with this process: to write it to a disk takes longer than all else.
if [ $# = 0 ]; then
    folder=$(mktemp -d)
    trap 'rmdir "$folder"' EXIT
    unshare --mount sh "$0" "$folder"
    exit
fi
folder=$1
mount -t tmpfs -o size=1g tmpfs "$folder"
root=$folder/root
fail() {
    echo "deb: $1" >&2
    exit 1
}
deb=$(ls "$DIST"/*.deb)
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error "$deb" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; fail "lintian finds errors"; }
else
    echo "dist-test: ${deb##*/}: lintian is not there to look at it"
fi

# From where this machine has its packages.
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016 # apt's own variables
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Codename: $suite" 'Component: main' | head -n 1)
debootstrap --variant=minbase --include=systemd-standalone-sysusers "$suite" "$root" "$mirror" >"$folder/log" 2>&1 ||
    { tail -n 20 "$folder/log" >&2; fail "debootstrap does not make a system of $suite"; }
# What is in it but for what keeps account of packages and users.
listing() {
    find "$root" | sed "s|^$root||" | sort |
        grep -vE '^/(var/lib/dpkg|var/log|tmp|proc|sys)/|^/etc/((passwd|group|shadow|gshadow)-?|\.pwd\.lock)$'
}
dpkg_() {
    chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg "$@" >"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; fail "dpkg $*"; }
}
# As where systemd runs, which is asked through this program.
mkdir -p "$root/run/systemd/system"
cat >"$root/usr/bin/systemctl" <<'SYSTEMCTL'
#!/bin/sh
echo "$*" >>/tmp/systemctl
SYSTEMCTL
chmod 755 "$root/usr/bin/systemctl"
# asked [LINE]: what systemd was asked since the last time, but to read its files again.
asked() {
    grep -sv daemon-reload "$root/tmp/systemctl" >"$folder/asked" || true
    rm -f "$root/tmp/systemctl"
    { [ $# = 0 ] || echo "$1"; } | diff -u - "$folder/asked" || fail "systemd is asked for something else"
}
listing >"$folder/before"
cp "$deb" "$root/tmp/first.deb"
dpkg_ -i /tmp/first.deb
asked
listing | comm -13 "$folder/before" - >"$folder/installed"
for path in usr/bin/mini-rproxy etc/mini-rproxy/config.yaml usr/lib/systemd/system/mini-rproxy.service \
    usr/lib/systemd/system/mini-rproxy.socket usr/lib/systemd/system/mini-rproxy-https.socket usr/lib/mini-rproxy/plugins/README \
    usr/share/man/man1/mini-rproxy.1.gz usr/share/man/man5/mini-rproxy.5.gz usr/share/bash-completion/completions/mini-rproxy \
    usr/share/zsh/vendor-completions/_mini-rproxy usr/share/fish/vendor_completions.d/mini-rproxy.fish \
    usr/share/doc/mini-rproxy/THIRD-PARTY.txt usr/share/doc/mini-rproxy/copyright; do
    grep -qxF "/$path" "$folder/installed" || fail "/$path is not installed"
done
for path in "$PWD" "${CARGO_HOME:-$HOME/.cargo}" "$(rustc --print sysroot)"; do
    ! grep -qF "$path" "$root/usr/bin/mini-rproxy" || fail "the program names a folder of this machine: $path"
done
! grep -q wants/ "$folder/installed" || fail "a unit is enabled"
grep -q '^mini-rproxy:.*:/usr/sbin/nologin$' "$root/etc/passwd" || fail "there is no user mini-rproxy"

# What the unit starts, by its user, in a network of its own.
cat >"$folder/run" <<'RUN'
set -eu
root=$1
ip link set lo up
command=$(sed -n 's/^ExecStart=//p' "$root/usr/lib/systemd/system/mini-rproxy.service")
inside() { chroot --userspec=mini-rproxy:mini-rproxy "$root" "$@"; }
inside $command -check >"$root.health" 2>&1 || { cat "$root.health" >&2; exit 1; }
chroot --userspec=mini-rproxy:mini-rproxy "$root" $command >"$root.log" 2>&1 &
# Whatever fails below.
trap 'kill "$!" 2>/dev/null || true' EXIT
tries=0
until inside $command -healthcheck >"$root.health" 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat "$root.log" "$root.health" >&2; exit 1; }
    sleep 0.1
done
[ "$(curl --silent http://127.0.0.1:8080/health)" = '{"message":"OK"}' ]
if [ $# = 2 ]; then curl --silent --include http://127.0.0.1:8080/example/ | grep -qi "^$2"; fi
kill -TERM "$!"
trap - EXIT
wait "$!"
RUN
run() { unshare --net sh "$folder/run" "$root" "$@" || fail "what the unit starts does not run"; }
run
cc -std=c99 -O2 -shared -fPIC -I plugin-api/include -o "$root/usr/lib/mini-rproxy/plugins/demo.so" examples/plugins/header_demo_c/header_demo.c
echo "plugins: [{path: /usr/lib/mini-rproxy/plugins/demo.so, config: {value: hello}}]" >>"$root/etc/mini-rproxy/config.yaml"
run 'X-Demo-Response: hello'
rm "$root/usr/lib/mini-rproxy/plugins/demo.so"
echo "# by hand" >"$folder/config"
sed /^plugins:/d "$root/etc/mini-rproxy/config.yaml" >>"$folder/config"
cp "$folder/config" "$root/etc/mini-rproxy/config.yaml"
# As systemctl enable does it.
mkdir -p "$root/etc/systemd/system/sockets.target.wants"
ln -s /usr/lib/systemd/system/mini-rproxy.socket "$root/etc/systemd/system/sockets.target.wants/"

# A newer version: what was changed by hand stays.
dpkg-deb --raw-extract "$deb" "$folder/next"
sed -i 's/^Version: .*/Version: 1000.0-1/' "$folder/next/DEBIAN/control"
dpkg-deb --build --root-owner-group -Zgzip "$folder/next" "$root/tmp/next.deb" >/dev/null
dpkg_ -i /tmp/next.deb
chroot "$root" dpkg-query -W mini-rproxy | grep -q '1000\.0-1$' || fail "it is not upgraded"
asked 'try-restart mini-rproxy.service'
cmp "$folder/config" "$root/etc/mini-rproxy/config.yaml" || fail "an upgrade changes the configuration"
run

dpkg_ -r mini-rproxy
[ ! -e "$root/usr/bin/mini-rproxy" ] || fail "the program stays when it is removed"
cmp "$folder/config" "$root/etc/mini-rproxy/config.yaml" || fail "removing it removes the configuration"
dpkg_ -P mini-rproxy
listing | diff -u "$folder/before" - || fail "something is left of it"
echo "dist-test: ${deb##*/}: installed, run, upgraded, removed and purged"
