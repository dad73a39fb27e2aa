#!/bin/sh
# ipk.sh VERSION TRIPLE QEMU ARCHIVE: the package for OpenWrt is what opkg takes, its program runs with its configuration, and
# the feed's Makefile would install the same. ARCHIVE is the unpacked one.
set -eu
version=$1 triple=$2 qemu=$3 archive=$4
case $triple in
x86_64-*) arch=x86_64 openwrt=x86_64 ;;
aarch64-*) arch=aarch64_cortex-a53 openwrt=aarch64 ;;
armv7-*) arch=arm_cortex-a7_neon-vfpv4 openwrt=arm ;;
i686-*) arch=i386_pentium4 openwrt=i386 ;;
mipsel-*) arch=mipsel_24kc openwrt=mipsel ;;
mips-*) arch=mips_24kc openwrt=mips ;;
riscv64gc-*) arch=riscv64_riscv64 openwrt=riscv64 ;;
esac
name=mini-rproxy_$version-1_$arch.ipk
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
fail() {
    echo "$name: $1" >&2
    exit 1
}
# is FILE: whether it says what comes on standard input.
is() { diff -u - "$1" || fail "not as it should be"; }

mkdir "$folder/control" "$folder/data"
tar -xzf "$DIST/$name" -C "$folder"
tar -tzf "$DIST/$name" >"$folder/list"
is "$folder/list" <<LIST
./
./control.tar.gz
./data.tar.gz
./debian-binary
LIST
echo 2.0 | is "$folder/debian-binary"
tar -xzf "$folder/control.tar.gz" -C "$folder/control"
tar -xzf "$folder/data.tar.gz" -C "$folder/data"
tar -tvzf "$folder/data.tar.gz" --numeric-owner | awk '{ print $1, $2, $6 }' >"$folder/list"
is "$folder/list" <<LIST
drwxr-xr-x 0/0 ./
drwxr-xr-x 0/0 ./etc/
drwxr-xr-x 0/0 ./etc/init.d/
-rwxr-xr-x 0/0 ./etc/init.d/mini-rproxy
-rw-r--r-- 0/0 ./etc/mini-rproxy.yaml
drwxr-xr-x 0/0 ./usr/
drwxr-xr-x 0/0 ./usr/sbin/
-rwxr-xr-x 0/0 ./usr/sbin/mini-rproxy
drwxr-xr-x 0/0 ./usr/share/
drwxr-xr-x 0/0 ./usr/share/licenses/
drwxr-xr-x 0/0 ./usr/share/licenses/mini-rproxy/
-rw-r--r-- 0/0 ./usr/share/licenses/mini-rproxy/LICENSE-APACHE
-rw-r--r-- 0/0 ./usr/share/licenses/mini-rproxy/LICENSE-MIT
-rw-r--r-- 0/0 ./usr/share/licenses/mini-rproxy/THIRD-PARTY-rust.html.gz
-rw-r--r-- 0/0 ./usr/share/licenses/mini-rproxy/THIRD-PARTY.txt.gz
LIST
for line in "Package: mini-rproxy" "Version: $version-1" "Architecture: $arch"; do
    grep -qxF "$line" "$folder/control/control" || fail "no line '$line' in control"
done
size=$(find "$folder/data" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
grep -qx "Installed-Size: $size" "$folder/control/control" || fail "Installed-Size is not the $size bytes of its files"
echo /etc/mini-rproxy.yaml | is "$folder/control/conffiles"

# The scripts call what OpenWrt has for them, as opkg starts them.
mkdir -p "$folder/root/lib"
for script in postinst prerm; do
    echo "default_$script() { echo $script of \"\$1\"; }" >"$folder/root/lib/functions.sh"
    IPKG_INSTROOT=$folder/root "$folder/control/$script" >"$folder/said"
    echo "$script of $folder/control/$script" | is "$folder/said"
done

program=$folder/data/usr/sbin/mini-rproxy
$qemu "$program" -version | grep -qF "$version" || fail "the program tells another version"
$qemu "$program" -check -config "$folder/data/etc/mini-rproxy.yaml" >/dev/null || fail "the program refuses its configuration"

# The feed's Makefile, with as much of OpenWrt's build system as it calls.
mkdir "$folder/feed"
touch "$folder/feed/rules.mk"
cat >"$folder/feed/package.mk" <<'MAKE'
define BuildPackage
install:
	$(call Package/$(1)/install,$(ROOT))
conffiles:
	@echo '$(call Package/$(1)/conffiles)'
source:
	@echo '$(PKG_SOURCE)'
endef
MAKE
feed() {
    make --silent --no-print-directory -f examples/openwrt/Makefile TOPDIR="$folder/feed" INCLUDE_DIR="$folder/feed" \
        ARCH="$openwrt" BUILD_DIR="${archive%/*}" INSTALL_DIR="install -d -m 755" INSTALL_BIN="install -m 755" INSTALL_DATA="install -m 644" \
        ROOT="$folder/fed" "$@"
}
feed source >"$folder/said"
echo "mini-rproxy-$version-$triple.tar.gz" | is "$folder/said"
feed conffiles >"$folder/said"
is "$folder/said" <"$folder/control/conffiles"
(umask 022 && feed install)
diff -r "$folder/data" "$folder/fed" || fail "examples/openwrt/Makefile installs something else"
[ "$(cd "$folder/data" && find . -printf '%m %p\n' | sort)" = "$(cd "$folder/fed" && find . -printf '%m %p\n' | sort)" ] ||
    fail "examples/openwrt/Makefile installs other modes"
echo "dist-test: $name: unpacked, and its program run"
