#!/usr/bin/env bash
# Loads docker-archive tars into the cluster's containerd.
# usage: load.sh FILE.tar…
set -euo pipefail
source "$(dirname "$0")/common.sh"
alive || die "no cluster of ours is up: make cluster"
for image in "$@"; do
  ctr --address "$run/containerd.sock" --namespace k8s.io images import "$image"
done
