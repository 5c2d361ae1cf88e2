#!/usr/bin/env bash
# Makes the data partition's file system in the file $1. tests/tests/power_cuts makes its own by this too.
set -euo pipefail
rm -f "$1"
truncate -s 256M "$1"
# Room in the journal and among the group descriptors for a card of a terabyte; few inodes for few, larger files.
E2FSPROGS_FAKE_TIME=${SOURCE_DATE_EPOCH:-} mke2fs -q -F -t ext4 -b 4096 -i 32768 -I 256 -m 1 -J size=32 -L minidc-data \
	-U 6d696e69-6463-4461-7461-000000000001 -O ^orphan_file \
	-E "hash_seed=6d696e69-6463-4461-7461-000000000002,lazy_itable_init=0,lazy_journal_init=0,resize=268435456,root_owner=0:0,nodiscard" \
	"$1"
