# node.sh DIRECTORY COMMAND…: runs COMMAND in namespaces and control groups of its own. Works with cgroup v1 and v2.
set -u
directory=$1; shift
group=minidc-test-$$
mounted=/sys/fs/cgroup
if [ -e $mounted/cgroup.controllers ]; then
    # Processes must be in a leaf for controllers to be handed down.
    mkdir -p "$mounted/$group/leaf"
    echo $$ >"$mounted/$group/leaf/cgroup.procs"
    version=2
else
    for controller in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
        [ -d "$mounted/$controller" ] || continue
        mkdir -p "$mounted/$controller/$group"
        if [ $controller = cpuset ]; then
            for file in cpus mems; do cat "$mounted/cpuset/cpuset.$file" >"$mounted/cpuset/$group/cpuset.$file"; done
        fi
        echo $$ >"$mounted/$controller/$group/cgroup.procs"
    done
    version=1
fi
unshare -m -u -i -C -n -p -f --kill-child bash -c '
    set -e
    version=$1; shift
    mount --make-rprivate /
    hostname test-node
    mount -t proc proc /proc
    umount -l /sys; mount -t sysfs sysfs /sys
    if [ "$version" = 2 ]; then
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
    else
        mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
        for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
            mkdir /sys/fs/cgroup/$controller
            mount -t cgroup -o $controller cgroup /sys/fs/cgroup/$controller
        done
        mkdir /sys/fs/cgroup/systemd
        mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    fi
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/netns
    ip link set lo up
    ip link add eth0 type bridge
    ip addr add 10.99.0.1/24 dev eth0
    ip link set eth0 up
    set +e
    "$@"
    exit $?
' node $version "$@"
result=$?
if [ $version = 2 ]; then
    echo $$ >"$mounted/cgroup.procs"
else
    for controller in "$mounted"/*/; do
        [ -d "$controller$group" ] && echo $$ >"${controller}cgroup.procs" 2>/dev/null
    done
fi
for _ in 1 2 3 4 5 6 7 8 9 10; do
    find $mounted -depth -type d -path "*/$group*" -exec rmdir {} + 2>/dev/null
    [ -z "$(find $mounted -maxdepth 2 -name "$group" 2>/dev/null)" ] && break
    read -rt 0.1 <> <(:) || true
done
exit $result
