#!/usr/bin/env bash
# Makes $WORK/initrd.img: busybox, the script initrd/init, and the modules that modules.list calls `boot`, unpacked, since
# busybox loads no packed ones. Called by build.sh after root.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
into=$WORK/initrd
release=$(ls "$WORK/kernel/usr/lib/modules")
tree=$WORK/kernel/usr/lib/modules/$release
mkdir -p "$into/bin" "$into/lib/modules/$release"
cp "$WORK/parts/usr/bin/busybox" "$into/bin/busybox"
cp initrd/init "$into/init"
build/modules.sh "$tree" boot | while read -r module; do
	mkdir -p "$into/lib/modules/$release/${module%/*}"
	xz -dc "$tree/$module" >"$into/lib/modules/$release/${module%.xz}"
done
cp "$tree"/modules.{builtin,builtin.modinfo,order} "$into/lib/modules/$release/"
depmod -b "$into" "$release"
rm -f "$into/lib/modules/$release"/modules.*.bin "$into/lib/modules/$release"/modules.{order,devname,symbols,builtin}*
find "$into" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
(cd "$into" && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0) | zstd -q -19 -T1 >"$WORK/initrd.img"
