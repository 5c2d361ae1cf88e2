#!/usr/bin/env bash
# Downloads what packages.lock names into $CACHE/packages, unless it is there; every file has the lock's SHA-256 or is refused.
set -euo pipefail
cd "$(dirname "$0")/.."
store=$CACHE/packages
mkdir -p "$store"

# apt's own downloader: knows this machine's proxies, keeps connections open, compares sums.
wanted=() names=()
while read -r name version sum bytes archive path; do
	file=$store/${path##*/}
	[ -f "$file" ] && [ "$(stat -c %s "$file")" = "$bytes" ] && continue
	case $archive in security) base=$SECURITY_MIRROR ;; *) base=$MIRROR ;; esac
	wanted+=("$base/$path" "$file" "SHA256:$sum")
	names+=("$name=$version")
done < <(grep -v '^#' packages.lock)
if [ ${#wanted[@]} -gt 0 ]; then
	echo "fetching ${#names[@]} packages"
	/usr/lib/apt/apt-helper -o APT::Sandbox::User=root -qq download-file "${wanted[@]}" >"$CACHE/fetch.log" 2>&1 || {
		grep '^E:' "$CACHE/fetch.log" | tail -n 3 >&2 || true
		missing=()
		for ((i = 0; i < ${#names[@]}; i++)); do
			[ -f "${wanted[3 * i + 1]}" ] || missing+=("${names[i]}")
		done
		[ ${#missing[@]} -le 5 ] || missing=("${missing[@]:0:5}" and "$((${#missing[@]} - 5))" more)
		echo "not to be had from $MIRROR: ${missing[*]:-a file with the right sum}" >&2
		echo "If the network is fine, Debian has moved on: make image LOCK=refresh takes what it has now." >&2
		exit 1
	}
fi
grep -v '^#' packages.lock | awk -v store="$store" '{ n = split($6, p, "/"); print $3 "  " store "/" p[n] }' | sha256sum --check --quiet --strict ||
	{ echo "a package in $store is damaged: remove it" >&2; exit 1; }
