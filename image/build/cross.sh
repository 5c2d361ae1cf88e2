#!/usr/bin/env bash
# Builds minidc for aarch64 on an x86-64 Debian with Debian's own compiler, whose arm64 standard library is a package. Prints the
# path of the program as its last line. CARGO_TARGET_DIR is where cargo builds.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=aarch64-unknown-linux-gnu
.ci/packages cross >&2
# RUSTC keeps another compiler on the PATH out: the standard library fits only the compiler of its own version.
RUSTC=/usr/bin/rustc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc TARGET_PKG_CONFIG=aarch64-linux-gnu-pkg-config \
  cargo build --release --locked --target "$target" -p minidc -q >&2
program="${CARGO_TARGET_DIR:-target}/$target/release/minidc"
# A program that asks for a newer C library than the image's Debian has would not start there.
newest=$(aarch64-linux-gnu-objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
[ "$(printf '%s\n' "$newest" GLIBC_2.36 | sort -V | tail -n 1)" = GLIBC_2.36 ] ||
  { echo "$program needs $newest; Debian 12 and Raspberry Pi OS have GLIBC_2.36" >&2; exit 1; }
echo "$program"
