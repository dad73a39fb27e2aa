#!/bin/sh
# ipk.sh VERSION TRIPLE FOLDER: the package for opkg, of OpenWrt up to 24.10, from the archive in FOLDER. It is what an .ipk
# consists of, packed by hand: no SDK is needed. examples/openwrt/Makefile is the same for who has one.
#
# opkg takes a package only where IPK_ARCH is one of the names that "opkg print-architecture" prints.
set -eu
version=$1 triple=$2 dist=$3
case $triple in
x86_64-*) usual=x86_64 ;;
aarch64-*) usual=aarch64_cortex-a53 ;;
armv7-*) usual=arm_cortex-a7_neon-vfpv4 ;;
i686-*) usual=i386_pentium4 ;;
mipsel-*) usual=mipsel_24kc ;;
mips-*) usual=mips_24kc ;;
riscv64gc-*) usual=riscv64_riscv64 ;;
*) echo "ipk.sh: no name of OpenWrt is known for $triple: set IPK_ARCH" >&2 && exit 1 ;;
esac
arch=${IPK_ARCH:-$usual}
archive=$dist/mini-rproxy-$version-$triple.tar.gz
[ -e "$archive" ] || { echo "ipk.sh: $archive is missing: make dist PARTS=archives CROSS_TARGETS=$triple" >&2; exit 1; }
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
# pack FILE FOLDER: as opkg reads it, the same bytes each time.
pack() {
    tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" -C "$2" -c . |
        gzip -9n >"$1"
}

mkdir "$work/source" "$work/data" "$work/control" "$work/package"
tar -xzf "$archive" -C "$work/source" --strip-components=1
install -D -m 755 "$work/source/mini-rproxy" "$work/data/usr/sbin/mini-rproxy"
install -D -m 755 "$work/source/openwrt/mini-rproxy.init" "$work/data/etc/init.d/mini-rproxy"
install -D -m 644 "$work/source/config.yaml" "$work/data/etc/mini-rproxy.yaml"
install -D -m 644 -t "$work/data/usr/share/licenses/mini-rproxy" "$work"/source/LICENSE-* "$work"/source/THIRD-PARTY*
gzip -9n "$work"/data/usr/share/licenses/mini-rproxy/THIRD-PARTY*

# /lib/functions.sh of OpenWrt enables, starts, stops and disables what is in /etc/init.d.
for script in postinst prerm; do
    cat >"$work/control/$script" <<SCRIPT
#!/bin/sh
[ -s "\${IPKG_INSTROOT}/lib/functions.sh" ] || exit 0
. "\${IPKG_INSTROOT}/lib/functions.sh"
default_$script "\$0" "\$@"
SCRIPT
    chmod 755 "$work/control/$script"
done
echo /etc/mini-rproxy.yaml >"$work/control/conffiles"
cat >"$work/control/control" <<CONTROL
Package: mini-rproxy
Version: $version-1
License: MIT OR Apache-2.0
Section: net
Architecture: $arch
Installed-Size: $(find "$work/data" -type f -exec cat {} + | wc -c)
Description: A small HTTP/1.1 reverse proxy, with TLS: one static program, configured by /etc/mini-rproxy.yaml
CONTROL
pack "$work/package/control.tar.gz" "$work/control"
pack "$work/package/data.tar.gz" "$work/data"
echo 2.0 >"$work/package/debian-binary"
pack "$dist/mini-rproxy_$version-1_$arch.ipk" "$work/package"
echo "mini-rproxy_$version-1_$arch.ipk"
