#!/usr/bin/env bash
# Fails with the names of the files that are stale or not formatted.
# usage: verify.sh CONTROLLER_GEN
set -euo pipefail
cd "$(dirname "$0")/.."
controller_gen=$1
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
failed=0
problem() { echo "verify: $*" >&2; failed=1; }

"$controller_gen" object:headerFile=hack/boilerplate.go.txt paths=./api/... output:object:dir="$fresh/api/v1alpha1"
"$controller_gen" crd paths=./api/... output:crd:dir="$fresh/config/crd/bases"
"$controller_gen" rbac:roleName=weir-operator paths=./controllers/... output:rbac:dir="$fresh/config/rbac"
"$controller_gen" rbac:roleName=weir-dashboard paths=./dashboard/... output:rbac:dir="$fresh/config/dashboard/rbac"
go run ./hack/chart -output "$fresh"
go run ./hack/reference -output "$fresh"
for file in $(cd "$fresh" && find . -type f | sed 's|^\./||'); do
  cmp -s "$file" "$fresh/$file" || problem "$file is stale: run make generate"
done
for file in api/*/zz_generated.* config/crd/bases/* charts/weir/templates/crds/*; do
  [ -e "$fresh/$file" ] || problem "$file is generated from nothing: delete it"
done

for file in $(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l); do
  problem "$file is not formatted: run gofmt -w $file"
done
go vet ./... || problem "go vet found the above"
for module in . hack/image hack/sbom test/bench/limiter test/conformance test/dashboard; do
  go -C "$module" mod tidy -diff >/dev/null 2>&1 || problem "$module/go.mod or go.sum is not tidy: run go -C $module mod tidy"
done
exit $failed
