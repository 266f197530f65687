#!/usr/bin/env bash
# Runs the suite of test/chart/cluster, which installs Weir with Helm, upgrades it
# from the commit PREVIOUS and removes it again, in a cluster of our own without
# Weir, which is taken down afterwards unless KEEP=1, or in the one that
# KUBECONFIG names, where it installs this commit only.
# usage: TOOLS=… [KEEP=1] [PREVIOUS=HEAD^] [KUBECONFIG=… IMAGE_PREFIX=… TAG=… E2E_APP_IMAGE=…] test-chart.sh [go test flags]
set -euo pipefail
source "$(dirname "$0")/cluster/common.sh"
tag=${TAG:-dev}
prefix=${IMAGE_PREFIX:-}
values=$root/bin/chart-values.yaml

finish() {
  local status=$?
  if [ $status != 0 ]; then
    rm -rf "$root/bin/chart-logs"
    cp -r "$run/logs" "$root/bin/chart-logs" && echo "the cluster's logs are in $root/bin/chart-logs" >&2
  fi
  if [ -n "${KEEP:-}" ]; then
    echo "the cluster is left up: export KUBECONFIG=$run/kubeconfig" >&2
  else
    "$here/down.sh" || status=1
  fi
  exit $status
}

if [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$run/kubeconfig" ]; then
  ! alive || die "a cluster is up, and may have Weir in it: make cluster-down first"
  trap finish EXIT
  "$here/up.sh" >/dev/null
  "$here/load.sh" "$root"/bin/images/{operator,sidecar,worker,e2e-app}.tar "$run/images/redis.tar" >/dev/null
  # The commit before, as it was: its chart, its images.
  previous=$root/bin/previous
  rm -rf "$previous"
  mkdir -p "$previous"
  if git -C "$root" archive "${PREVIOUS:-HEAD^}" | tar -x -C "$previous" && [ -e "$previous/charts/weir/templates/statefulset.yaml" ]; then
    make -C "$previous" images TAG=previous >/dev/null
    "$here/load.sh" "$previous"/bin/images/{operator,sidecar,worker}.tar >/dev/null
  else
    echo "left out: the upgrade from ${PREVIOUS:-HEAD^}, which is not here, or whose operator is a Deployment (never released)" >&2
    previous=
  fi
elif [ -z "${E2E_APP_IMAGE:-}" ]; then
  die "E2E_APP_IMAGE must name an image of test/e2e/app that the cluster's nodes can pull"
fi
use_cluster

# values_of writes the chart's values for images of a tag.
values_of() {
  cat <<X
images:
  registry: "${prefix%/}"
  operator: {tag: "$1"}
  sidecar: {tag: "$1"}
  worker: {tag: "$1"}
redis:
  embedded:
    enabled: true
X
  [ -z "$own" ] || echo '    image: {repository: weir-redis, tag: "1"}'
}
values_of "$tag" >"$values"
if [ -n "${previous:-}" ]; then
  values_of previous >"$previous/values.yaml"
  export PREVIOUS_RELEASE=$previous
fi
cd "$root"
VALUES=$values go test ./test/chart/cluster -count=1 -v -timeout=20m "$@"
