#!/usr/bin/env bash
# Prints what is in the image: package, version, SHA-256 of the .deb, and where its licence stands in the root.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "# minidc $VERSION, arm64. PACKAGE VERSION SHA256 LICENCE"
{
	grep -v '^#' packages.lock | cut -d' ' -f1-3
	echo "minidc $VERSION $(sha256sum "$DEB" | cut -d' ' -f1)"
} | while read -r name version sum; do
	licence=usr/share/doc/$name/copyright
	# Packages of one source may share a directory by a link to it.
	[ -e "$WORK/root/$licence" ] || licence=$(grep -l . "$WORK/root/usr/share/doc/${name%%[0-9]*}"*/copyright 2>/dev/null | head -n 1 | sed "s,^$WORK/root/,,")
	echo "$name $version $sum ${licence:--}"
done
