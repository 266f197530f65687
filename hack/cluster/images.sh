#!/usr/bin/env bash
# Builds the images that the cluster itself and its trial Redis need into the
# folder of its binaries, where they are missing.
# usage: images.sh FOLDER
set -euo pipefail
source "$(dirname "$0")/common.sh"
bin=$1
images=$bin/images
mkdir -p "$images"

image() { # name:tag, entrypoint, SOURCE=/PATH…
  local name=${1%:*}; name=${name#weir-}
  [ ! -s "$images/$name.tar" ] || return 0
  go -C "$root/hack/image" run . -tag "$1" -entrypoint "$2" -output "$images/$name.tar.new" "${@:3}"
  mv "$images/$name.tar.new" "$images/$name.tar"
}

if [ ! -s "$images/pause.tar" ]; then
  CGO_ENABLED=0 go -C "$root" build -trimpath -ldflags "-s -w" -o "$images/pause" ./hack/cluster/pause
  image weir-pause:1 /pause "$images/pause=/pause"
fi
image weir-coredns:1 /coredns "$bin/coredns=/coredns"

# Redis: this machine's own server with the libraries that it is linked with.
redis=$(command -v redis-server)
libraries=$(ldd "$redis" | grep -o '/[^ ]*' | sed 's/.*/&=&/')
# shellcheck disable=SC2086 # one word a library
image weir-redis:1 /usr/bin/redis-server "$redis=/usr/bin/redis-server" $libraries
