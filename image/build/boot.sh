#!/usr/bin/env bash
# Lays out the FAT partitions below $WORK/parts-of-image: selector, boot (both slots), slot-a, slot-b. Called after initrd.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$WORK/assemble
firmware=$WORK/parts/usr/lib/raspi-firmware
release=$(ls "$WORK/kernel/usr/lib/modules")
tree=$WORK/kernel/usr/lib/modules/$release
mkdir -p "$out"/{selector,boot,slot-a,slot-b}

# The ROM of a Pi 3 and Zero 2 W reads bootcode.bin from the first partition; a Pi 4 and 5 have it on the board.
cp "$firmware/bootcode.bin" "$out/selector/"
cp selector/* "$out/selector/"
cp "$firmware"/bootcode.bin "$firmware"/start{,_cd,4,4cd}.elf "$firmware"/fixup{,_cd,4,4cd}.dat "$out/boot/"
cp "$WORK/parts/usr/share/doc/raspi-firmware/copyright" "$out/boot/LICENCE.txt"
gzip -n <"$tree/vmlinuz" >"$out/boot/vmlinuz"   # the firmware unpacks it
cp "$WORK/initrd.img" "$out/boot/initrd.img"
cp boot/config.txt "$out/boot/"
cp "$tree"/dtb/broadcom/bcm2837-rpi-{3,cm3,zero-2}*.dtb "$tree"/dtb/broadcom/bcm271[12]*-rpi-*.dtb "$out/boot/"
# With upstream_kernel=1 the firmware asks for these under upstream's names; without, or where it forgets, under its own.
for model in 3-b 3-b-plus zero-2-w; do cp "$tree/dtb/broadcom/bcm2837-rpi-$model.dtb" "$out/boot/bcm2710-rpi-$model.dtb"; done
cp "$tree/dtb/broadcom/bcm2837-rpi-zero-2-w.dtb" "$out/boot/bcm2710-rpi-zero-2.dtb"
for slot in a:05 b:06; do
	sed "s/@PARTUUID@/6d696e69-${slot#*:}/" boot/cmdline.txt >"$out/slot-${slot%:*}/cmdline.txt"
done
