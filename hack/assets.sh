#!/usr/bin/env bash
# Takes the third-party files of the dashboard from npm at the versions below,
# holds them to their checksums, and writes them where they are kept: they are
# committed, so that nobody who builds needs npm.
# usage: assets.sh          the dashboard's, into dashboard/assets
#        assets.sh axe DIR  axe-core, for test/dashboard, into DIR
set -euo pipefail
cd "$(dirname "$0")/.."
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT

# take PACKAGE VERSION FILE SHA256 TO
take() {
  if [ -e "$5" ] && echo "$4  $5" | sha256sum --check --quiet 2>/dev/null; then return; fi
  [ -d "$fetched/$1" ] || {
    npm pack --silent --pack-destination "$fetched" "$1@$2" >/dev/null
    mkdir "$fetched/$1"
    tar -xzf "$fetched/$1-$2.tgz" -C "$fetched/$1" --strip-components 1
  }
  echo "$4  $fetched/$1/$3" | sha256sum --check --quiet
  install -D -m 644 "$fetched/$1/$3" "$5"
}

if [ "${1:-}" = axe ]; then
  take axe-core 4.14.1 axe.min.js 29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c "$2/axe.min.js"
  exit
fi
take idiomorph 0.8.0 dist/idiomorph.min.js 4cbd535caf7663a51eda9bce6595371c384fc430d54b8d414e29a61167f19f96 dashboard/assets/idiomorph.min.js
take idiomorph 0.8.0 LICENSE d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38 dashboard/assets/idiomorph.LICENSE
