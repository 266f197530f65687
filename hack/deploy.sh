#!/usr/bin/env bash
# Installs config/default and the page into the cluster of `make cluster`, with images that
# `make images` built, or into the one that KUBECONFIG names, with images that
# were pushed to where its nodes find them.
# usage: [TAG=dev] [IMAGE_PREFIX=registry/path/] deploy.sh
set -euo pipefail
source "$(dirname "$0")/cluster/common.sh"
tag=${TAG:-dev}
prefix=${IMAGE_PREFIX:-}
use_cluster
images=("$root"/bin/images/{operator,sidecar,worker}.tar)

content=$(cat "${images[@]}" | sha256sum | cut -c1-16)
overlay=$root/bin/deploy
mkdir -p "$overlay"
cat >"$overlay/kustomization.yaml" <<X
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../config/default, ../../config/dashboard]
images:
- {name: weir-operator, newName: ${prefix}weir-operator, newTag: "$tag"}
patches:
- patch: |
    apiVersion: apps/v1
    kind: StatefulSet
    metadata: {name: weir-operator, namespace: weir-system}
    spec:
      template:
        metadata:
          annotations:
            # New content under an old tag restarts the operator too.
            weir.dev/images: "$content"
        spec:
          containers:
          - name: operator
            env:
            - {name: SIDECAR_IMAGE, value: "${prefix}weir-sidecar:$tag"}
            - {name: WORKER_IMAGE, value: "${prefix}weir-worker:$tag"}
- patch: |
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: weir-dashboard, namespace: weir-system}
    spec:
      template:
        metadata:
          annotations: {weir.dev/images: "$content"}
X
if [ -n "$own" ]; then
  "$here/load.sh" "${images[@]}" "$run/images/redis.tar" >/dev/null
  cat >>"$overlay/kustomization.yaml" <<X
- patch: |
    - {op: replace, path: /spec/template/spec/containers/0/image, value: "weir-redis:1"}
  target: {kind: StatefulSet, name: weir-redis}
X
else
  echo "the cluster's nodes must be able to pull ${prefix}weir-operator:$tag, ${prefix}weir-sidecar:$tag and ${prefix}weir-worker:$tag" \
    "(docker build --target operator|sidecar|worker, then docker push; TAG and IMAGE_PREFIX choose the names)" >&2
fi

"$KUBECTL" apply -k "$overlay"
for workload in statefulset/weir-redis statefulset/weir-operator deployment/weir-dashboard; do
  "$KUBECTL" rollout status -n weir-system "$workload" --timeout=180s || {
    "$KUBECTL" get pods -n weir-system -o wide
    "$KUBECTL" logs -n weir-system "$workload" --tail=40 || true
    die "$workload did not start"
  } >&2
done
