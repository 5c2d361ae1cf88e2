#!/usr/bin/env bash
# Machines with a Debian of their own for the test of the package and the playbook: systemd is process 1 of each, in
# namespaces of its own, on a bridge that lives in a namespace too. Nothing of the host's network is touched.
#   machine.sh root DIRECTORY           makes the Debian that all are copied from
#   machine.sh up DIRECTORY NUMBER      starts a machine, m1, m2, …, with the address 10.79.0.NUMBER
#   machine.sh on switch COMMAND…       runs a command on the bridge, at 10.79.0.254
#   machine.sh in DIRECTORY NUMBER COMMAND…
#   machine.sh down DIRECTORY           ends and removes them all
set -euo pipefail
TOP=minidc-ansible

# The kernel's hierarchies of cgroups, a line each: where the host has it, and the mount options that name it, or "unified" for
# version 2, which may stand beside those of version 1.
hierarchies() {
  awk '{ for (i = 7; $i != "-"; i++); kind = $(i + 1); options = $(i + 3)
         if (kind == "cgroup") {
           gsub(/(^|,)(rw|ro|xattr|clone_children|release_agent=[^,]*)(,|$)/, ",", options); gsub(/(^|,)rw(,|$)/, ",", options)
           gsub(/^,+|,+$/, "", options); if (!seen[options]++) print $5, options
         } else if (kind == "cgroup2" && !seen["unified"]++) print $5, "unified" }' /proc/self/mountinfo
}

join_cgroups() { hierarchies | while read -r mount _; do echo "$BASHPID_OF" >"$mount/$TOP/m$1/cgroup.procs"; done; }

case ${1:?} in
root)
  # What the package depends on is fetched but not installed: machines have no internet, and apt there is to do its work.
  rm -rf --one-file-system "$2.new"
  mmdebstrap --mode=root --variant=minbase --quiet --skip=cleanup/apt,cleanup/reproducible \
    --aptopt='Acquire::GzipIndexes "true"' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include=systemd,systemd-sysv,libpam-systemd,dbus,openssh-server,python3,python3-apt,iproute2,procps,kmod,nftables \
    --customize-hook='chroot "$1" apt-get clean' \
    --customize-hook='chroot "$1" apt-get install -qq --download-only --no-install-recommends containerd containernetworking-plugins runc avahi-daemon iptables libavahi-client3 libavahi-common3 libdbus-1-3 libgcc-s1 >/dev/null' \
    --customize-hook='chroot "$1" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer systemd-sysctl.service' \
    bookworm "$2.new"
  mv "$2.new" "$2" ;;
up)
  directory=$2 number=$3
  if ! [ -e "/run/netns/$TOP" ]; then
    ip netns add "$TOP"
    ip -n "$TOP" link add br0 type bridge mcast_snooping 0
    ip -n "$TOP" link set br0 up
    ip -n "$TOP" link set lo up
    ip -n "$TOP" address add 10.79.0.254/24 dev br0
  fi
  ip netns add "$TOP-$number"
  ip link add name "port$number" netns "$TOP" type veth peer name eth0 netns "$TOP-$number"
  ip -n "$TOP" link set "port$number" master br0 up
  ip -n "$TOP-$number" address add "10.79.0.$number/24" dev eth0
  ip -n "$TOP-$number" link set lo up
  ip -n "$TOP-$number" link set eth0 up
  ip -n "$TOP-$number" route add default via 10.79.0.254
  hierarchies | while read -r mount options; do
    mkdir -p "$mount/$TOP/m$number"
    if [ "$options" = cpuset ]; then # groups start empty there, and refuse processes
      for file in cpuset.cpus cpuset.mems; do
        cat "$mount/$file" >"$mount/$TOP/$file"
        cat "$mount/$file" >"$mount/$TOP/m$number/$file"
      done
    elif [ "$options" = unified ]; then
      for group in "$mount" "$mount/$TOP"; do
        sed 's/\</+/g' "$group/cgroup.controllers" >"$group/cgroup.subtree_control"
      done
    fi
  done
  (
    BASHPID_OF=$BASHPID join_cgroups "$number"
    exec setsid nsenter --net="/run/netns/$TOP-$number" unshare --mount --uts --ipc --cgroup --pid --fork --kill-child \
      "$0" boot "$directory" "$number"
  ) >"$directory/m$number.log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    [ "$(cat "/proc/$!/comm")" = unshare ] && pgrep -P "$!" >"$directory/m$number.pid" && break
    sleep 0.05
  done ;;
boot) # process 1 of a machine, until systemd takes over
  directory=$2 number=$3 root=$2/m$3
  mount --make-rprivate /
  # In memory: it goes with the machine. containerd's snapshots are overlays, so that the root cannot be one.
  mkdir -p "$root"
  mount -t tmpfs -o mode=755 tmpfs "$root"
  cp -a "$directory/root/." "$root/"
  install -D -m 600 "$directory/key.pub" "$root/root/.ssh/authorized_keys"
  echo "m$number" >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n10.79.0.%s m%s\n' "$number" "$number" >"$root/etc/hosts"
  : >"$root/etc/resolv.conf"
  : >"$root/etc/machine-id"
  hostname "m$number"
  cgroups=$(hierarchies)
  mount -t proc proc "$root/proc"
  # The kernel's settings are the host's, but those of the network.
  mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
  mount --bind "$root/proc/sys" "$root/mnt"
  mount -o remount,bind,ro "$root/mnt"
  mount --bind "$root/proc/sys/net" "$root/mnt/net"
  mount --move "$root/mnt" "$root/proc/sys"
  mount -t sysfs sysfs "$root/sys"
  if [ "$(wc -l <<<"$cgroups")" = 1 ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  else
    mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
    while read -r mount options; do
      point=$root/sys/fs/cgroup/$(basename "$mount")
      mkdir "$point"
      case $options in
      unified) mount -t cgroup2 cgroup2 "$point" ;;
      name=*) mount -t cgroup -o "none,$options" cgroup "$point" ;;
      *) mount -t cgroup -o "$options" cgroup "$point" ;;
      esac
    done <<<"$cgroups"
  fi
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
  for device in null zero full random urandom tty kmsg fuse net/tun; do
    [ -e "/dev/$device" ] || continue
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  ln -s /proc/self/fd "$root/dev/fd"
  ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  mount -t tmpfs tmpfs "$root/dev/shm"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  cd "$root"
  pivot_root . mnt
  umount -l /mnt
  exec env -i container=minidc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console --show-status=no ;;
on)
  shift 2
  exec nsenter --net="/run/netns/$TOP" "$@" ;;
in)
  directory=$2 number=$3
  shift 3
  BASHPID_OF=$$ join_cgroups "$number"
  exec nsenter -t "$(cat "$directory/m$number.pid")" -m -u -i -n -p -C "$@" ;;
down)
  for _ in $(seq 100); do
    processes=$(hierarchies | while read -r mount _; do find "$mount/$TOP" -name cgroup.procs -exec cat {} + 2>/dev/null || true; done | sort -u)
    [ -n "$processes" ] || break
    # shellcheck disable=SC2086 # numbers
    kill -KILL $processes 2>/dev/null || true
    sleep 0.05
  done
  hierarchies | while read -r mount _; do
    [ ! -d "$mount/$TOP" ] || find "$mount/$TOP" -depth -type d -exec rmdir {} + || true
  done
  for namespace in $(ip netns list | awk -v top="$TOP" '$1 == top || index($1, top "-") == 1 { print $1 }'); do
    ip netns del "$namespace"
  done
  rm -rf --one-file-system "$2"/m[0-9]* ;;
*) echo "see the head of $0" >&2; exit 64 ;;
esac
