#!/usr/bin/env bash
# Prints the modules below the tree $1 (with its modules.dep) that modules.list names with one of the words $2 (as in
# "boot|keep"), and all that they need. A pattern that ends in /* takes in a whole directory. One that matches nothing is an error: the
# kernel has moved it.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$1 words=$2 list=$PWD/modules.list
cd "$tree/kernel"
sed -nE "s/^($words) //p" "$list" | tr ' ' '\n' | while read -r pattern; do
	case $pattern in
	*/\*) find "${pattern%/*}" -name '*.ko*' ;;
	*) compgen -G "$pattern" ;;
	esac | grep . || { echo "modules.list: no module is $pattern" >&2; exit 1; }
done | sed 's,^,kernel/,' | awk -F: '
	NR == FNR { needs[$1] = $2; next }
	function take(module, count, list, i) {
		if (module in taken) return
		taken[module] = 1
		print module
		count = split(needs[module], list, " ")
		for (i = 1; i <= count; i++) take(list[i])
	}
	{ take($1) }' ../modules.dep - | LC_ALL=C sort
