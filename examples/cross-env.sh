# shellcheck shell=sh disable=SC2034 # what is set here is used by who reads it
# What "make cross", "make cross-test" and "make dist" share: the targets, and how to compile, link and run for another machine.
# To be read with ".".
#
# Rust's standard library for a target comes from rustup (rustup target add TARGET) where it is installed, else it is built
# from its sources, which have to be of the very same compiler: of the toolchain in use or of nightly (rustup component add
# rust-src), or of Debian's packages rustc-web and rust-web-src. C library, unwinder, C compiler and linker are zig's.

CARGO=${CARGO:-cargo}
TARGET=${TARGET:-target}
TARGET=$(mkdir -p "$TARGET/cross" && cd "$TARGET" && pwd -P)
CROSS_TARGETS=${CROSS_TARGETS:-"x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf \
i686-unknown-linux-musl mipsel-unknown-linux-musl mips-unknown-linux-musl riscv64gc-unknown-linux-musl"}

# Sets CROSS_ZIG, or fails.
find_zig() {
    export CROSS_ZIG
    for CROSS_ZIG in zig "python3 -m ziglang"; do
        if $CROSS_ZIG version >/dev/null 2>&1; then return 0; fi
    done
    why="zig is missing: python3 -m pip install ziglang"
    return 1
}

# Where sources of the standard library stand beside a compiler.
has_sources() { [ -d "$("$@" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std" ]; }

# Sets $hide_rust and $hide_c, options of $compiler and of C compilers with which no program names the folders of whoever built
# it: messages of a panic name source files, and those of C may. The same source makes the same bytes in every folder. A
# folder may have two names. Fails, with the reason in $why.
hide_folders() {
    crates=${CARGO_HOME:-$HOME/.cargo}/registry/src
    why="$crates, where cargo keeps crates, cannot be made or read: set CARGO_HOME to a folder that can"
    mkdir -p "$crates" && real=$(cd "$crates" && pwd -P) || return 1
    why="'$compiler --print sysroot' fails"
    sysroot=$($compiler --print sysroot) || return 1
    # Options of compilers are separated by blanks. What is set here is set in the script that reads this file, too: not $folder,
    # which such a script may remove in the end.
    for hidden in "$(pwd -P)" "$TARGET" "$crates" "$real" "$sysroot"; do
        why="the name of the folder '$hidden' has a blank, which compilers' options cannot have: choose another one"
        case $hidden in *[[:space:]]*) return 1 ;; esac
    done
    hide_c="-ffile-prefix-map=$crates= -ffile-prefix-map=$real="
    hide_rust="--remap-path-prefix=$(pwd -P)=. --remap-path-prefix=$TARGET=target --remap-path-prefix=$crates= \
--remap-path-prefix=$real= --remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rust"
}

# use_target TRIPLE: sets what cargo needs. $cross_cargo is the command with its toolchain, $cross_options are cargo's
# options, $cross_qemu runs a program. Fails, with the reason in $why.
use_target() {
    triple=$1
    # What zig calls it; the processor is the least that Rust's target promises.
    case $triple in
    x86_64-unknown-linux-musl) machine=x86_64 zig="-target x86_64-linux-musl" ;;
    aarch64-unknown-linux-musl) machine=aarch64 zig="-target aarch64-linux-musl" ;;
    armv7-unknown-linux-musleabihf) machine=arm zig="-target arm-linux-musleabihf -mcpu=generic+v7a+vfp3d16+thumb2" ;;
    i686-unknown-linux-musl) machine=i386 zig="-target x86-linux-musl -mcpu=pentium4" ;;
    mips-unknown-linux-musl) machine=mips zig="-target mips-linux-musleabi -mcpu=mips32r2+soft_float" ;;
    mipsel-unknown-linux-musl) machine=mipsel zig="-target mipsel-linux-musleabi -mcpu=mips32r2+soft_float" ;;
    riscv64gc-unknown-linux-musl) machine=riscv64 zig="-target riscv64-linux-musl -mcpu=baseline_rv64" ;;
    *) why="$triple is none of the targets that are known here" && return 1 ;;
    esac
    find_zig || return 1
    cross_qemu=$(command -v "qemu-$machine-static" || command -v "qemu-$machine" || true)
    # Up to 8.0, qemu starts signal handlers of i386 with a stack that is not aligned, and programs with SSE2 crash there. An
    # x86_64 runs them by itself.
    [ "$machine" != i386 ] || [ "$(uname -m)" != x86_64 ] || cross_qemu="env"

    compiler=rustc cross_cargo=$CARGO cross_options="--locked --target $triple --target-dir $TARGET/cross"
    unset RUSTC RUSTC_BOOTSTRAP
    if ! [ -d "$(rustc --print target-libdir --target "$triple" 2>/dev/null)" ]; then
        if has_sources rustc; then
            :
        elif has_sources rustc +nightly; then
            compiler="rustc +nightly" cross_cargo="cargo +nightly"
        elif has_sources /usr/bin/rustc; then
            compiler=/usr/bin/rustc
            export RUSTC=$compiler
        else
            why="Rust's standard library is missing for $triple, and so are its sources: rustup component add rust-src"
            return 1
        fi
        # Building it is not stable; compiler and sources are.
        export RUSTC_BOOTSTRAP=1
        cross_options="$cross_options -Z build-std=std,panic_unwind"
    fi

    export CROSS_TARGET="$zig"
    lower=$(echo "$triple" | tr - _) upper=$(echo "$triple" | tr a-z- A-Z_)
    export "CARGO_TARGET_${upper}_LINKER=$PWD/examples/cross-cc.sh" "CC_$lower=$PWD/examples/cross-cc.sh"
    export "AR_$lower=$PWD/examples/cross-ar.sh" "CARGO_TARGET_${upper}_RUNNER=$cross_qemu"
    hide_folders || return 1
    export "CFLAGS_$lower=$hide_c"
    # The start-up code is zig's, and the linker says nothing that matters while it succeeds.
    export RUSTFLAGS="-C target-feature=+crt-static -C link-self-contained=no -C default-linker-libraries=yes \
-A linker-messages $hide_rust"
}
