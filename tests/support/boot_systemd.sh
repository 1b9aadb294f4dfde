#!/bin/sh
# Boots a real systemd over this machine's own files (read-only below, a tmpfs above), in namespaces of its own: nothing
# that happens inside is left behind. Needs root, systemd-nspawn and cgroup2. $1: a name that nobody else uses.
# It shares the network, so that it reaches the servers of the tests on loopback; basic.target starts nothing that would
# touch it. Exits with 8 or 9 where the mounts are refused.
set -eu
name=$1
cgroup=/sys/fs/cgroup
[ -d "$cgroup/unified" ] && cgroup=$cgroup/unified
[ -f "$cgroup/cgroup.procs" ] || exit 9
mkdir "$cgroup/$name"
clean() {
  # A moment after the last process has gone; deepest first.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$cgroup/$name" -depth -type d -exec rmdir {} + 2> /dev/null || true
    [ -d "$cgroup/$name" ] || break
    sleep 0.2
  done
}
trap clean EXIT
# The trap's shell stays outside of the cgroup that it is to remove.
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
  # Its own identity, and no units that this machine has enabled or overridden.
  rm -f root/etc/machine-id
  : > root/etc/machine-id
  rm -rf root/etc/systemd/system root/etc/checkpointd root/opt/checkpointd
  mkdir root/etc/systemd/system
  export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
  exec systemd-nspawn --quiet --directory=root --boot --register=no --keep-unit --link-journal=no --machine="$1" \
    systemd.unit=basic.target' sh "$name"
