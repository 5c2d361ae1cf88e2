#!/usr/bin/env bash
# Lays the root out in $WORK/root: extracts the packages of the lock, then does natively what their maintainer scripts would do.
# No program of the image is run. Called by build.sh, which sets CACHE, WORK and DEB.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$WORK/root
mkdir -p "$root" "$WORK/control"

# --- Packages -----------------------------------------------------------------------------------------------------------------
# Documentation goes, licences stay. The kernel image and device trees are for the boot partition: boot.sh takes them.
leave=(
	'./usr/share/man/*' './usr/share/info/*' './usr/share/locale/*' './usr/share/lintian/*' './usr/share/bug/*' './usr/share/bash-completion/*'
	'./usr/share/zsh/*' './usr/share/initramfs-tools/*' './usr/share/doc-base/*' './usr/share/polkit-1/*' './usr/share/pkgconfig/*' './usr/share/i18n/*'
	'./usr/share/gcc/*' './usr/share/gdb/*' './usr/share/perl5/*' './usr/share/debconf/*' './usr/share/menu/*' './usr/share/pixmaps/*'
	'./usr/lib/aarch64-linux-gnu/perl*' './usr/lib/aarch64-linux-gnu/gconv/*' './usr/lib/udev/hwdb.d/*' './usr/lib/systemd/catalog/*'
	'./etc/init.d/*' './etc/cron.*' './etc/kernel/*' './etc/initramfs/*' './etc/initramfs-tools/*' './etc/default/raspi-firmware' './etc/apt/*' './var/cache/*'
)
exclude=()
for pattern in "${leave[@]}"; do exclude+=("--exclude=$pattern"); done

mapfile -t names < <(grep -v '^#' packages.lock | awk '{ print $1, $6 }' | sed 's, .*/, ,' | awk '{ print ($1 == "base-files" ? 0 : 1), $2 }' | sort | cut -d' ' -f2)
: >"$WORK/dpkg-status"
for name in "${names[@]}" "$DEB"; do
	case $name in /*) deb=$name ;; *) deb=$CACHE/packages/$name ;; esac
	into=$root
	# Only parts of these are wanted: they are laid beside the root.
	case $name in
	linux-*) into=$WORK/kernel ;;
	raspi-firmware_* | firmware-brcm80211_* | busybox-static_*) into=$WORK/parts ;;
	esac
	mkdir -p "$into"
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$into" --keep-directory-symlink "${exclude[@]}"
	dpkg-deb --ctrl-tarfile "$deb" | tar -xO ./control | sed '/^Status:/d; s/^Package: .*/&\nStatus: install ok installed/' >>"$WORK/dpkg-status"
	echo >>"$WORK/dpkg-status"
done
# Of documentation the licences stay, and the texts that they refer to.
find "$root/usr/share/doc" "$WORK/parts/usr/share/doc" "$WORK/kernel/usr/share/doc" -type f ! -name copyright -delete
cp -r "$WORK"/parts/usr/share/doc/. "$WORK"/kernel/usr/share/doc/. "$root/usr/share/doc/"
find "$root/usr/share/doc" -xtype l -delete
find "$root/usr/share/doc" -type d -empty -delete

# What the packages bring and nothing here calls.
(
	cd "$root"
	rm -rf usr/lib/systemd/boot usr/lib/kernel usr/lib/sysctl.d/README usr/share/zoneinfo/{posix,right} usr/lib/containerd usr/share/pam-configs
	rm -f usr/bin/containerd-{stress,shim,shim-runc-v1} usr/bin/bashbug usr/bin/{pldd,localedef,catchsegv} usr/sbin/{e2scrub*,e4crypt,mklost+found}
	rm -f usr/bin/busybox etc/motd etc/update-motd.d/* etc/ssh/ssh_config.d/* etc/avahi/services/* etc/default/{nss,useradd}
	rm -rf etc/{init.d,ufw,sv,runit,logrotate.d,ifplugd,insserv.conf.d,dhcp,rmt} etc/modules-load.d/modules.conf
	rm -rf usr/share/{fish,apport,debianutils,runit,mime} usr/lib/mime usr/sbin/{nfsiostat,mountstats,rpcctl}
	rm -f usr/sbin/{update-passwd,useradd,userdel,usermod}
	# There are no users who would need another's rights.
	find . -xdev -type f -perm /6000 -exec chmod ug-s {} +
	# Of the CNI plugins those that minidc's configuration names.
	find usr/lib/cni -type f ! -name bridge ! -name host-local ! -name loopback ! -name portmap -delete
)

# --- Firmware and modules -----------------------------------------------------------------------------------------------------
# Radios of the boards: 3B and Zero 2 W (43430), 3B+, 4, 5 and Compute Modules (43455), Pi 400 (43456).
mkdir -p "$root/usr/lib/firmware/"{brcm,cypress}
(
	cd "$WORK/parts/usr/lib/firmware"
	find . \( -name 'brcmfmac4343[06]*' -o -name 'brcmfmac4345[56]*' -o -name 'cyfmac43430-*' -o -name 'cyfmac43455-*' \) |
		grep -e 'raspberrypi' -e 'Raspberry Pi' -e '-sdio\.[a-z_]*$' | grep -v 43430a0 |
		tar -cf - --files-from=- | tar -xf - -C "$root/usr/lib/firmware"
)
# The rules of the air, signed with the key that Debian's kernel knows.
ln -s regulatory.db-debian "$root/usr/lib/firmware/regulatory.db"
ln -s regulatory.db.p7s-debian "$root/usr/lib/firmware/regulatory.db.p7s"
rm "$root"/usr/lib/firmware/regulatory.db*-upstream

release=$(ls "$WORK/kernel/usr/lib/modules")
ln -sfn usr/lib "$WORK/kernel/lib"
depmod -b "$WORK/kernel" "$release"
mkdir -p "$root/usr/lib/modules/$release"
build/modules.sh "$WORK/kernel/usr/lib/modules/$release" 'boot|keep' >"$WORK/modules"
(cd "$WORK/kernel/usr/lib/modules/$release" && tar -cf - --files-from="$WORK/modules" modules.builtin modules.builtin.modinfo modules.order config) |
	tar -xf - -C "$root/usr/lib/modules/$release"
depmod -b "$root" "$release"

# --- Our own files, then what packages would have configured ------------------------------------------------------------------
cp -rT --no-preserve=ownership --remove-destination root "$root"
chmod -R go-w "$root/etc" "$root/usr/lib/minidc"

cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
while read -r name uid gid home; do
	case $name in
	'#'* | '') ;;
	-) echo "$home:x:$gid:" >>"$root/etc/group" ;;
	*)
		echo "$name:x:$uid:$gid::$home:/usr/sbin/nologin" >>"$root/etc/passwd"
		[ "$gid" = 65534 ] || echo "$name:x:$gid:" >>"$root/etc/group"
		;;
	esac
done <users.list
# No account has a password, and none can be given one: "*" matches nothing.
sed -i 's/^\([^:]*\):[^:]*/\1:x/' "$root/etc/passwd" "$root/etc/group"
sed 's/:.*/:*:1::::::/' "$root/etc/passwd" >"$root/etc/shadow"
sed 's/:.*/:*::/' "$root/etc/group" >"$root/etc/gshadow"
chmod 640 "$root/etc/shadow" "$root/etc/gshadow"
chown 0:42 "$root/etc/shadow" "$root/etc/gshadow"
# Whoever a package asks systemd to make must be in users.list, or would get another number on each board.
cat "$root"/usr/lib/sysusers.d/*.conf | awk '$1 ~ /^[ug]/ { print $1, $2 }' | sort -u | while read -r kind name; do
	case $kind in u*) file=passwd ;; *) file=group ;; esac
	grep -q "^$name:" "$root/etc/$file" || { echo "users.list lacks $name, which a package asks for ($kind)" >&2; exit 1; }
done

# Here minidc runs also without its data partition, so that the LED can tell that it is missing; it starts nothing then.
sed -i '/^RequiresMountsFor=/d' "$root/usr/lib/systemd/system/minidc.service"
build/enable.sh "$root" <units.list
for unit in $(grep -v '^#' masks.list); do ln -s /dev/null "$root/etc/systemd/system/$unit"; done
# Each is a process at every start; only the one for fstab has something to say here.
find "$root/usr/lib/systemd/system-generators" -mindepth 1 ! -name systemd-fstab-generator -delete
ln -sf ../run/systemd/resolve/resolv.conf "$root/etc/resolv.conf"
ln -sf ../usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
ln -sf ../proc/self/mounts "$root/etc/mtab"
ln -sf /run/minidc-boot/config.toml "$root/etc/minidc/config.toml"
# Empty: the initrd fills in the board's own, else systemd makes one for this boot.
: >"$root/etc/machine-id"
mkdir -p "$root/var/lib/dbus" "$root/etc/wpa_supplicant" "$root/etc/cni/net.d"
ln -sf /etc/machine-id "$root/var/lib/dbus/machine-id"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
cp "$root/usr/share/base-files/profile" "$root/etc/profile"
: >"$root/etc/environment"

# Debian's alternatives, without their switch.
(
	cd "$root/usr/sbin"
	for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do ln -sf xtables-nft-multi "$name"; done
	cd ../bin
	ln -sf mawk awk
	ln -sf less pager
)

# For scanners, and for whoever asks what is here.
mkdir -p "$root/var/lib/dpkg"
cp "$WORK/dpkg-status" "$root/var/lib/dpkg/status"
cat >>"$root/usr/lib/os-release" <<-END
	VARIANT="minidc $VERSION"
	VARIANT_ID=minidc
	IMAGE_ID=minidc
	IMAGE_VERSION=$VERSION
END
: >"$root/usr/lib/clock-epoch"
# Neither /etc nor /var is older than /usr, so systemd has nothing to update at boot.
for directory in etc var; do echo "TIMESTAMP_NSEC=${SOURCE_DATE_EPOCH}000000000" >"$root/$directory/.updated"; done
