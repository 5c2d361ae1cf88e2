#!/usr/bin/env bash
# Builds the SD image: target/image/minidc-VERSION-arm64.img.zst with its .sha256, .manifest and build.log beside it.
#
#   DEB=FILE             the arm64 package of minidc; default: it is cross-compiled and made first
#   LOCK=refresh         resolve packages.list anew instead of using packages.lock
#   IMAGE_MIRROR=URL     mirror of Debian; default: the one that this machine uses. IMAGE_SECURITY_MIRROR=URL likewise
#   IMAGE_CACHE=DIR      where downloaded packages are kept; default target/image/cache
#   KEEP=1               leave the parts in target/image/work
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

name=minidc-$VERSION-arm64

log=$out/build.log
: >"$log"
seconds() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }'; }
current=
trap '[ -z "$current" ] || echo "image: $current failed (log: $log)" >&2' EXIT
step() {
	local start=$EPOCHREALTIME
	current=$1
	shift
	"$@" > >(tee -a "$log") 2>&1
	printf 'image: %-10s %6.1f s\n' "$current" "$(seconds "$start")" | tee -a "$log"
	current=
}

package() {
	if [ -z "${DEB:-}" ]; then
		image/build/cross.sh >"$WORK/program"
		DEB=$(image/deb/build arm64 "$(tail -n 1 "$WORK/program")")
	fi
	[ -f "$DEB" ] || { echo "there is no package $DEB"; return 1; }
	cp "$DEB" "$WORK/minidc_arm64.deb"
	export DEB=$WORK/minidc_arm64.deb
}
squash() {
	# SOURCE_DATE_EPOCH is its time, and that of every file that would be newer.
	mksquashfs "$WORK/root" "$WORK/assemble/root.squashfs" -quiet -no-progress -noappend -comp zstd -Xcompression-level 15 -b 256K \
		-no-exports -no-xattrs
}
assemble() {
	cargo build -q --release --locked -p minidc-image --bin assemble
	"$target/release/assemble" "$WORK/assemble" "$WORK/minidc.img"
}
pack() {
	# The window spans a slot's boot partition, so that the second one costs nothing; `minidc flash` takes up to 128 MiB.
	zstd -q -6 --long=27 -T0 "$WORK/minidc.img" -o "$WORK/$name.img.zst"
	(cd "$WORK" && sha256sum "$name.img.zst" >"$name.img.zst.sha256")
	image/build/manifest.sh >"$WORK/$name.manifest"
}
# The finished file is looked at as a card would be, with the code of `minidc flash`. It is there only if it passes.
check() {
	MINIDC_IMAGE=$WORK/$name.img.zst cargo test -q --locked -p minidc-image --test image_contents -- --ignored
}

begin=$EPOCHREALTIME
rm -rf "$WORK" "$out/$name".*
mkdir -p "$WORK/assemble"
[ "${LOCK:-}" != refresh ] || step lock image/build/lock.sh
step fetch image/build/fetch.sh
step minidc package
step root image/build/root.sh
step initrd image/build/initrd.sh
step boot image/build/boot.sh
step squashfs squash
step data image/build/data.sh "$WORK/assemble/data.ext4"
step assemble assemble
step pack pack
step check check
mv "$WORK/$name".* "$out/"
[ -n "${KEEP:-}" ] || rm -rf "$WORK"
printf 'image: all in   %6.1f s\nimage: %s, %d MB\n' "$(seconds "$begin")" "$out/$name.img.zst" "$(($(stat -c %s "$out/$name.img.zst") / 1000000))" |
	tee -a "$log"
