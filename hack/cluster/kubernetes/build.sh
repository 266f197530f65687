#!/usr/bin/env bash
# Builds Kubernetes, etcd and CoreDNS from source into a user cache keyed by
# what is pinned here, and prints the folder. Cold: about 14 minutes on 2 cores.
# usage: build.sh [apiserver|cluster]   apiserver: only what the API-server suites need
set -euo pipefail
cd "$(dirname "$0")"
what=${1:-cluster}
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
key=$version-$(cat go.mod coredns/main.go | sha256sum | cut -c1-12)
bin=${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/kubernetes/$key
mkdir -p "$bin"
exec 9>"$bin/.lock"
flock 9
minor=${version#v*.}; minor=${minor%%.*}
package=k8s.io/component-base/version
ldflags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor -X $package.gitTreeState=clean"

build() { # name, package
  [ -x "$bin/$1" ] && return
  echo "building $1 $version (once; kept in the user's cache)" >&2
  go build -ldflags "$ldflags" -o "$bin/$1.new" "$2" >&2
  mv "$bin/$1.new" "$bin/$1"
}

build etcd go.etcd.io/etcd/server/v3
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
build kubectl k8s.io/kubernetes/cmd/kubectl
if [ "$what" = cluster ]; then
  for name in kube-controller-manager kube-scheduler kubelet kube-proxy; do
    build "$name" "k8s.io/kubernetes/cmd/$name"
  done
  build coredns ./coredns
fi
echo "$bin"
