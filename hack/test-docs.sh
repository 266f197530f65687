#!/usr/bin/env bash
# Types the documentation's commands (test/docs) into a cluster with Weir in it:
# the one of `make cluster deploy`, or the one that KUBECONFIG names, whose nodes
# can pull the images that the pages name.
# usage: [KUBECONFIG=… E2E_APP_IMAGE=…] test-docs.sh [go test flags]
set -euo pipefail
source "$(dirname "$0")/cluster/common.sh"
use_cluster
cd "$root"
skipped=()
if [ -n "$own" ]; then
  hack/cluster/load.sh bin/images/e2e-app.tar >/dev/null
  hack/cluster/examples.sh >/dev/null
else
  echo "left out: docs/recipes/celery-beat.md, whose image reports:1 is the reader's" >&2
  skipped=(-skip TestPages/docs/recipes/celery-beat)
fi
go test ./test/docs -count=1 -v -parallel=3 -timeout=10m "${skipped[@]}" "$@"
