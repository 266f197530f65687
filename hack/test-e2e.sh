#!/usr/bin/env bash
# Runs the suite of test/e2e, and then the documentation's commands (test/docs),
# in the cluster that KUBECONFIG names, or in one of our own, which is taken down
# afterwards unless KEEP=1 or it was up before.
# usage: [KEEP=1] [KUBECONFIG=… IMAGE_PREFIX=… TAG=… E2E_APP_IMAGE=…] test-e2e.sh [go test flags]
set -euo pipefail
source "$(dirname "$0")/cluster/common.sh"
logs=$root/bin/e2e-logs

finish() {
  local status=$?
  if [ $status != 0 ]; then
    rm -rf "$logs"
    cp -r "$run/logs" "$logs" && echo "the cluster's logs are in $logs" >&2
  fi
  if [ -n "${KEEP:-}" ] || [ -n "${was_up:-}" ]; then
    echo "the cluster is left up: export KUBECONFIG=$run/kubeconfig" >&2
  else
    "$here/down.sh" || status=1
  fi
  exit $status
}

if [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$run/kubeconfig" ]; then
  alive && was_up=1
  trap finish EXIT
  "$root/hack/packages.sh" interop clients # some pods run the node's programs
  "$here/up.sh" >/dev/null
  "$here/load.sh" "$root/bin/images/e2e-app.tar" >/dev/null
  # A log that an earlier run wrote to shows more than this one's permissions.
  [ -n "${was_up:-}" ] || export AUDIT_LOG=$run/logs/audit.log
elif [ -z "${E2E_APP_IMAGE:-}" ]; then
  die "E2E_APP_IMAGE must name an image of test/e2e/app that the cluster's nodes can pull"
fi
use_cluster
"$root/hack/deploy.sh"
cd "$root"
go test ./test/e2e/... -count=1 -timeout=25m "$@"
hack/test-docs.sh
