#!/bin/sh
# Boots a real systemd in namespaces of its own. Its root is an overlay: this machine's files, read-only, below a tmpfs.
# So nothing that happens inside is left behind. It shares the network, so that it reaches the servers of the tests on
# loopback; basic.target starts nothing that would configure the network.
#
# Needs root, systemd-nspawn and cgroup2. $1 is a unique name. Exits with 8 if an overlay cannot be mounted, with 9 if
# there is no cgroup2.
set -eu
name=$1
cgroup=/sys/fs/cgroup
[ -d "$cgroup/unified" ] && cgroup=$cgroup/unified
[ -f "$cgroup/cgroup.procs" ] || exit 9
mkdir "$cgroup/$name"
clean() {
  # A cgroup can be removed only a moment after its last process has ended, and only after those below it.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$cgroup/$name" -depth -type d -exec rmdir {} + 2> /dev/null || true
    [ -d "$cgroup/$name" ] || break
    sleep 0.2
  done
}
trap clean EXIT
# A new shell enters the cgroup. The one with the trap must stay outside, because it removes the cgroup.
sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup/$name" \
  unshare --mount --cgroup --pid --fork --kill-child --mount-proc sh -ec '
  mount --make-rprivate /
  umount -R -l /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 9
  mkdir -p /run/overlay
  mount -t tmpfs tmpfs /run/overlay || exit 8
  cd /run/overlay
  mkdir upper work root
  mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root || exit 8
  # An identity of its own, and none of the units that are enabled or changed on this machine.
  rm -f root/etc/machine-id
  : > root/etc/machine-id
  rm -rf root/etc/systemd/system root/etc/checkpointd root/opt/checkpointd
  mkdir root/etc/systemd/system
  export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
  exec systemd-nspawn --quiet --directory=root --boot --register=no --keep-unit --link-journal=no --machine="$1" \
    systemd.unit=basic.target' sh "$name"
