#!/usr/bin/env bash
# Takes the cluster down and leaves nothing; names what is left and fails if so.
set -euo pipefail
source "$(dirname "$0")/common.sh"

if [ ! -e "$run" ] && ! ip link show "$link" >/dev/null 2>&1; then
  echo "no cluster of ours is up" >&2
  exit
fi
require_linux_root
[ ! -e "$run" ] || [ -e "$run/$marker" ] || die "$run is not a cluster's folder: delete it yourself, or choose another WEIR_CLUSTER_DIR"

if alive; then
  first=$(cat "$run/pid")
  kill -KILL "$first" # the kernel ends every other process of the node first
  for _ in $(seq 300); do
    [ -e "/proc/$first" ] || break
    sleep 0.1
  done
fi
ip link delete "$link" 2>/dev/null || true # gone with the other end, a moment later
find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
[ ! -s "$run/sysctl" ] || sysctl -q -p "$run/sysctl" >/dev/null 2>&1 || true
rm -rf "$run"
rmdir /run/containerd 2>/dev/null || true # unless the system's containerd uses it

left=()
[ ! -e "$run" ] || left+=("folder $run")
! ip link show "$link" >/dev/null 2>&1 || left+=("interface $link")
! grep -qsF "$run" /proc/mounts || left+=("mounts under $run")
[ -z "$(find /sys/fs/cgroup -maxdepth 2 -name kubepods -print -quit)" ] || left+=("cgroups kubepods")
[ ! -e "/proc/${first:-none}" ] || left+=("process $first")
[ ${#left[@]} = 0 ] || die "left behind: $(printf '%s; ' "${left[@]}")"
echo "the cluster is gone" >&2
