#!/usr/bin/env bash
# Writes what a release consists of beside its images: install.yaml (what
# config/default makes), the packaged chart, an SBOM of each image (SPDX), and
# the checksums of them all.
# usage: TAG=v1.2.3 VERSION=… [IMAGE_PREFIX=registry/path/] dist.sh TOOLS BINARIES FOLDER
#   TAG names the images; v1.2.3 makes the chart 1.2.3, anything else 0.0.0-TAG.
#   FOLDER is replaced.
set -euo pipefail
tools=$(realpath "$1") binaries=$(realpath "$2") folder=$(realpath --canonicalize-missing "$3")
cd "$(dirname "$0")/.."
prefix=${IMAGE_PREFIX:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

die() { echo "dist: $*" >&2; exit 1; }
[[ $TAG =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ ]] || die "TAG=$TAG is no tag of an image"
[[ -z $prefix || $prefix == */ ]] || die "IMAGE_PREFIX=$prefix does not end in /"
[[ $prefix =~ ^[A-Za-z0-9._:/-]*$ ]] || die "IMAGE_PREFIX=$prefix is no host and path of a registry"
# A folder of somebody else's is not to be replaced.
[ ! -e "$folder" ] || [ -z "$(ls -A "$folder")" ] || [ -e "$folder/SHA256SUMS" ] ||
  die "$folder has files that are not of make dist: delete it, or name another by DIST"

number='(0|[1-9][0-9]*)'
if [[ $TAG =~ ^v?($number\.$number\.$number(-[0-9A-Za-z.-]+)?)$ ]]; then
  version=${BASH_REMATCH[1]}
else
  version=0.0.0-${TAG//_/-}
fi

"$tools/kustomize" build config/default |
  sed -E "s|\bweir-(operator\|sidecar\|worker):dev\b|${prefix}weir-\1:$TAG|" >"$scratch/install.yaml"

cp -r charts/weir "$scratch/chart"
sed -i "s|^  registry: \"\"\$|  registry: \"${prefix%/}\"|" "$scratch/chart/values.yaml"
"$tools/helm" package "$scratch/chart" --version "$version" --app-version "$TAG" --destination "$scratch" >/dev/null
rm -r "$scratch/chart"

# The commit's time, so that the same commit makes the same documents.
created=$(git log -1 --format=%ct 2>/dev/null || echo 0)
for image in operator sidecar worker; do
  go -C hack/sbom run . -name "weir-$image" -version "$VERSION" -created "$created" \
    -output "$scratch/weir-$image.spdx.json" "$binaries/$image=/$image" \
    /etc/ssl/certs/ca-certificates.crt=/etc/ssl/certs/ca-certificates.crt
done

sums=$(cd "$scratch" && sha256sum -- *)
echo "$sums" >"$scratch/SHA256SUMS"
rm -rf "$folder"
mkdir -p "$folder"
mv "$scratch"/* "$folder"
echo "$folder:" >&2
ls "$folder" >&2
