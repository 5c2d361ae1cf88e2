#!/usr/bin/env bash
# Enables the units named on standard input in the root $1 by what their [Install] says, and no others: links that packages
# brought in /etc are removed first. `systemctl --root` would do it too, but is not on every machine that builds.
set -euo pipefail
root=$1
system=$root/etc/systemd/system
mkdir -p "$system"
find "$system" -type l -delete
grep -v '^#' | while read -r unit; do
	file=
	for name in "$unit" "${unit%@*}@.${unit##*.}"; do
		for directory in /etc /usr/lib; do
			[ -z "$file" ] && [ -f "$root$directory/systemd/system/$name" ] && file=$directory/systemd/system/$name
		done
	done
	[ -n "$file" ] || { echo "there is no unit $unit" >&2; exit 1; }
	grep -q '^\[Install\]' "$root$file" || { echo "$unit does not say when it is to be started" >&2; exit 1; }
	while IFS='=' read -r key values; do
		for value in $values; do
			case $key in
			WantedBy) mkdir -p "$system/$value.wants" && ln -s "$file" "$system/$value.wants/$unit" ;;
			RequiredBy) mkdir -p "$system/$value.requires" && ln -s "$file" "$system/$value.requires/$unit" ;;
			Alias) ln -s "$file" "$system/$value" ;;
			esac
		done
	done < <(sed -n '/^\[Install\]/,$ { /^[A-Za-z]*=/p }' "$root$file")
done
