#!/usr/bin/env bash
# Installs the Debian packages that are missing, where apt and root are there;
# else names them and fails.
# usage: packages.sh [test] [cluster] [interop] [clients] [conformance] [chart] [bench] [examples] [browser]   test: for units and API-server suites; cluster: for make cluster;
#   interop: for suites with real Celery workers; clients: the HTTP clients that pods of the cluster suite run; conformance: for the data
#   path's suite; examples: what hack/cluster/examples.sh makes images of; chart: promtool for the chart's suite; bench: for make bench PART=proxy; browser: Chromium, and letters for it, for the page's suite
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

# what a package brings, and the package
test="redis-server redis-server
gcc gcc
/usr/include/stdlib.h libc6-dev"
cluster="containerd containerd
runc runc
nft nftables
ip iproute2
sysctl procps
openssl openssl
redis-server redis-server
/usr/lib/cni/bridge containernetworking-plugins"
interop="/usr/lib/python3/dist-packages/celery python3-celery
/usr/lib/python3/dist-packages/redis python3-redis
/usr/lib/python3/dist-packages/yaml python3-yaml"
clients="curl curl
node nodejs
javac openjdk-17-jdk-headless
/usr/lib/python3/dist-packages/requests python3-requests"
examples="curl curl
/usr/bin/python3 python3
/usr/lib/python3/dist-packages/celery python3-celery
/usr/lib/python3/dist-packages/redis python3-redis"
conformance="redis-server redis-server
ip iproute2"
chart="promtool prometheus"
browser="chromium chromium
/usr/share/fonts/truetype/liberation fonts-liberation"
bench="redis-server redis-server
ip iproute2
haproxy haproxy"

missing=()
for list in "$@"; do
  while read -r brought package; do
    command -v "$brought" >/dev/null || [ -e "$brought" ] || missing+=("$package")
  done <<<"${!list}"
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "please install, by your system's names for them, Debian's packages: ${missing[*]}" >&2
  exit 1
fi
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
mkdir -p /usr/share/man/man1 # slim images have none, and Java's packages link into it
apt-get -qq update >/dev/null
apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "${missing[@]}" >/dev/null </dev/null
