#!/usr/bin/env bash
# Builds the SD image: target/image/minidc-VERSION-arm64.img.zst with its .sha256, .manifest and build.log beside it.
#
#   DEB=FILE             the arm64 package of minidc; default: it is cross-compiled and packed first
#   LOCK=refresh         resolve packages.list anew instead of using packages.lock
#   IMAGE_MIRROR=URL     mirror of Debian; default: the one that this machine uses. IMAGE_SECURITY_MIRROR=URL likewise
#   IMAGE_CACHE=DIR      where downloaded packages are kept; default target/image/cache
#
# Runs as root, on Debian 12 or later. No program of the image is run.
set -euo pipefail
cd "$(dirname "$0")/../.."

stop() { echo "image: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || stop "files of the image belong to root and others: run this as root"
.ci/packages image
for tool in apt-get dpkg-deb mksquashfs mke2fs zstd cpio xz depmod gzip sha256sum readelf cargo; do
	command -v "$tool" >/dev/null || stop "$tool is missing"
done
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$(realpath -m target/image)
CACHE=$(realpath -m "${IMAGE_CACHE:-$out/cache}")
WORK=$out/work
export CACHE WORK
mkdir -p "$out" "$CACHE"
free=$(df --output=avail -B 1M "$out" | tail -n 1)
[ "$free" -gt 3000 ] || stop "$out has $free MB free; 3000 are needed"

VERSION=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}"
export VERSION SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
umask 022

# The mirrors that this machine uses, if it is a Debian.
mirror() {
	# shellcheck disable=SC2016  # apt's own variables
	apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | sed -n "s,^Debian|$1|\(.*[^/]\)/*$,\1,p" | head -n 1
}
MIRROR=${IMAGE_MIRROR:-$(mirror Debian || true)}
SECURITY_MIRROR=${IMAGE_SECURITY_MIRROR:-$(mirror Debian-Security || true)}
[ -n "$MIRROR" ] || stop "this machine has no Debian mirror (try apt-get update): name one with IMAGE_MIRROR=URL"
: "${SECURITY_MIRROR:=$MIRROR-security}"
export MIRROR SECURITY_MIRROR

log=$out/build.log
: >"$log"
step() {
	local name=$1 start=$EPOCHREALTIME
	shift
	if ! "$@" > >(tee -a "$log") 2>&1; then stop "$name failed (log: $log)"; fi
	printf 'image: %-10s %6.1f s\n' "$name" "$(bc_seconds "$start")" | tee -a "$log"
}
bc_seconds() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }'; }
begin=$EPOCHREALTIME

minidc() {
	if [ -z "${DEB:-}" ]; then
		image/build/cross.sh >"$out/program" && DEB=$(image/deb/build arm64 "$(tail -n 1 "$out/program")") || return 1
	fi
	[ -f "$DEB" ] || { echo "there is no package $DEB"; return 1; }
	cp "$DEB" "$out/minidc_arm64.deb"
}
squash() {
	# SOURCE_DATE_EPOCH is its time, and that of every file that would be newer.
	rm -f "$WORK/assemble/root.squashfs"
	mksquashfs "$WORK/root" "$WORK/assemble/root.squashfs" -quiet -no-progress -noappend -comp zstd -Xcompression-level 15 -b 256K \
		-no-exports -xattrs
}
assemble() {
	cargo build -q --release --locked -p minidc-image --bin assemble
	"$target/release/assemble" "$WORK/assemble" "$WORK/minidc.img"
}
pack() {
	local name=minidc-$VERSION-arm64
	# The window spans a slot's boot partition, so that the second one costs nothing; `minidc flash` takes up to 128 MiB.
	zstd -q -f -6 --long=27 -T0 "$WORK/minidc.img" -o "$out/$name.img.zst"
	(cd "$out" && sha256sum "$name.img.zst" >"$name.img.zst.sha256")
	image/build/manifest.sh >"$out/$name.manifest"
	ls -l "$out/$name.img.zst"
}

rm -rf "$WORK"
mkdir -p "$WORK/assemble"
[ "${LOCK:-}" != refresh ] || step lock image/build/lock.sh
step fetch image/build/fetch.sh
step minidc minidc
export DEB=$out/minidc_arm64.deb
step root image/build/root.sh
step initrd image/build/initrd.sh
step boot image/build/boot.sh
step squashfs squash
step data image/build/data.sh "$WORK/assemble/data.ext4"
step assemble assemble
step pack pack
[ -n "${KEEP:-}" ] || rm -rf "$WORK/root" "$WORK/kernel" "$WORK/parts" "$WORK/initrd"
printf 'image: all in   %6.1f s\n' "$(bc_seconds "$begin")" | tee -a "$log"
