#!/usr/bin/env bash
# Installs the Debian packages that the cluster and the tests use, where they
# are missing and apt and root are there; else names them and fails.
set -euo pipefail

# command that a package brings, and the package
wanted="containerd containerd
runc runc
nft nftables
ip iproute2
openssl openssl
nsenter util-linux
redis-server redis-server
curl curl
python3 python3-minimal
/usr/lib/cni/bridge containernetworking-plugins"

PATH=$PATH:/usr/sbin:/sbin
missing=()
while read -r command package; do
  command -v "$command" >/dev/null || missing+=("$package")
done <<<"$wanted"
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Please install these packages (Debian's names): ${missing[*]}" >&2
  exit 1
fi
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >&2
apt-get -q install --yes --no-install-recommends "${missing[@]}" >&2 </dev/null
