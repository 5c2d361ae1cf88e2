#!/usr/bin/env bash
# Resolves packages.list against the mirror into packages.lock: NAME VERSION SHA256 BYTES ARCHIVE PATH. Everything happens in
# a private state of apt; this machine's own is not touched. Indexes are checked with Debian's archive keys.
# Called by build.sh, which sets MIRROR, SECURITY_MIRROR and CACHE.
set -euo pipefail
cd "$(dirname "$0")/.."
state=$CACHE/apt
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keys" ] || { echo "$keys is missing: install debian-archive-keyring" >&2; exit 1; }
rm -rf "$state"
mkdir -p "$state"/{lists/partial,archives/partial,sources,empty}

listed() { sed -n "s/^$1 //p" packages.list; }

apt-config dump Acquire >"$state/apt.conf"   # proxies and the like of this machine
cat >>"$state/apt.conf" <<-END
	APT::Architecture "arm64";
	APT::Architectures { "arm64"; };
	APT::Install-Recommends "false";
	APT::Sandbox::User "root";
	Acquire::Languages "none";
	Dir "$state";
	Dir::State "$state";
	Dir::State::lists "lists";
	Dir::State::status "$state/status";
	Dir::Cache "$state";
	Dir::Etc "$state/empty";
	Dir::Etc::parts "$state/empty";
	Dir::Etc::sourcelist "/dev/null";
	Dir::Etc::sourceparts "$state/sources";
	Dir::Etc::trustedparts "$state/empty";
	Dir::Etc::preferencesparts "$state/empty";
	Dir::Log "$state";
END
cat >"$state/sources/debian.sources" <<-END
	Types: deb
	URIs: $MIRROR
	Suites: trixie trixie-updates trixie-backports
	Components: main non-free-firmware
	Signed-By: $keys

	Types: deb
	URIs: $SECURITY_MIRROR
	Suites: trixie-security
	Components: main non-free-firmware
	Signed-By: $keys
END
for name in $(listed without); do
	printf 'Package: %s\nStatus: install ok installed\nArchitecture: all\nMulti-Arch: foreign\nVersion: 99:1\nMaintainer: nobody\nDescription: left out\n\n' "$name"
done >"$state/status"

export APT_CONFIG=$state/apt.conf
apt-get update -qq || { echo "the mirror $MIRROR does not answer (IMAGE_MIRROR names another one)" >&2; exit 1; }

# `newer` names are families, as in linux-binary-arm64; the package is that of the newest kernel in backports.
kernel=$(apt-cache show linux-image-arm64/trixie-backports | sed -n 's/^Depends:.* linux-image-\([0-9][^ ]*-arm64\) .*/\1/p')
[ -n "$kernel" ] || { echo "no linux-image-arm64 in trixie-backports" >&2; exit 1; }
alone=$(listed alone; for family in $(listed newer); do echo "${family%arm64}$kernel/trixie-backports"; done)

# What is resolved is asked for again by name and version, since only `download` prints SHA-256.
# shellcheck disable=SC2046  # lists of words
resolved=$(apt-get install --print-uris -qq -y --no-remove $(listed system) | cut -d' ' -f2 |
	sed 's/^\([^_]*\)_\(.*\)_[^_]*$/\1=\2/; s/%3a/:/')
# shellcheck disable=SC2086
apt-get download --print-uris -qq $resolved $alone >"$state/uris"

{
	echo "# Made by \`make image LOCK=refresh\` from packages.list. NAME VERSION SHA256 BYTES ARCHIVE PATH"
	sed "s/^'//; s/' / /" "$state/uris" | while read -r uri file bytes sum; do
		case $uri in
		"$SECURITY_MIRROR"/*) archive=security path=${uri#"$SECURITY_MIRROR"/} ;;
		"$MIRROR"/*) archive=debian path=${uri#"$MIRROR"/} ;;
		*) echo "unexpected address $uri" >&2; exit 1 ;;
		esac
		[ "${sum%%:*}" = SHA256 ] || { echo "no SHA-256 for $file" >&2; exit 1; }
		version=${file#*_} version=${version%_*}
		echo "${file%%_*} $(printf '%b' "${version//%/\\x}") ${sum#SHA256:} $bytes $archive $path"
	done | LC_ALL=C sort
} >packages.lock.new
mv packages.lock.new packages.lock
echo "packages.lock: $(grep -vc '^#' packages.lock) packages, kernel $kernel"
