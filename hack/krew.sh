#!/usr/bin/env bash
# Writes the archives of kubectl weir, and weir.yaml, the manifest for krew that
# names them with their checksums.
# usage: TAG=v1.2.3 [PLATFORMS="linux/amd64 …"] [DOWNLOADS=https://…/] krew.sh FOLDER
#   DOWNLOADS is where the archives will be; default: the release of that tag.
set -euo pipefail
folder=$(realpath --canonicalize-missing "$1")
cd "$(dirname "$0")/.."
die() { echo "krew: $*" >&2; exit 1; }
[[ ${TAG:-} =~ ^v(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$ ]] || die "TAG=${TAG:-} is no version like v1.2.3"
downloads=${DOWNLOADS:-https://$(go list -m)/releases/download/$TAG/}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$folder"

manifest=$folder/weir.yaml
cat >"$manifest" <<YAML
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: weir
spec:
  version: $TAG
  homepage: https://$(go list -m)
  shortDescription: See and change rate limits and periodic tasks
  description: |
    Who is limited, by what, until when; what a caller has left; more for a
    time. Periodic tasks: their runs, workers and dead letters. Needs Weir in the
    cluster.
  platforms:
YAML
for platform in ${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}; do
  os=${platform%/*} arch=${platform#*/} suffix=
  [ "$os" != windows ] || suffix=.exe
  CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -ldflags "-s -w -X main.version=$TAG" -o "$scratch/kubectl-weir$suffix" ./kubectl-weir
  cp LICENSE kubectl-weir/kubectl_complete-weir "$scratch"
  archive=kubectl-weir-$os-$arch.tar.gz
  # The same commit makes the same archive.
  tar -C "$scratch" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
    -c "kubectl-weir$suffix" kubectl_complete-weir LICENSE | gzip -n >"$folder/$archive"
  rm "$scratch/kubectl-weir$suffix"
  cat >>"$manifest" <<YAML
  - selector:
      matchLabels: {os: $os, arch: $arch}
    uri: $downloads$archive
    sha256: $(sha256sum "$folder/$archive" | cut -d' ' -f1)
    bin: kubectl-weir$suffix
YAML
done
ls "$folder" >&2
