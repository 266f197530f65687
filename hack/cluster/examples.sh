#!/usr/bin/env bash
# Builds the images that the documentation's examples name, and loads them into
# the cluster of `make cluster`, whose node reaches no registry. They are
# stand-ins: this machine's own curl, Python and Celery (Debian's python3-celery),
# with the libraries that they are linked with.
#
#   curlimages/curl:8.11.1, python:3.13-alpine   curl, Python and a shell
#   reports:1                                    Celery with the module of docs/recipes/celery-beat.md
#
# usage: examples.sh
set -euo pipefail
source "$(dirname "$0")/common.sh"
images=$root/bin/images/examples
python=/usr/bin/python3
alive || die "no cluster of ours is up: make cluster; elsewhere, nodes pull curlimages/curl:8.11.1 and python:3.13-alpine"
"$root/hack/packages.sh" examples
mkdir -p "$images"

# Where they are, they find what they need: at the same paths in the image.
standard=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
in_folders() { find -L "$@" -type f ! -path '*/__pycache__/*' ! -path '*/test/*' ! -path '*/config-*' ! -name '* *'; }
programs=("$python" /usr/bin/curl /usr/bin/sleep /usr/bin/cat)
modules=$(in_folders "$standard")
packages=$(in_folders /usr/lib/python3/dist-packages /usr/share/zoneinfo)
libraries() { # of what is linked with any
  { printf '%s\n' "${programs[@]}" /bin/sh; grep '\.so' <<<"$1" || true; } | xargs ldd 2>/dev/null |
    grep -oE '/[^ ]+ \(0x' | cut -d' ' -f1 | sort -u
}

image() { # name:tag, paths in lines, SOURCE=/PATH…
  local tag=$1 file
  file=$images/${tag//[:\/]/-}.tar
  { printf '%s\n' "${programs[@]}" /etc/ssl/certs/ca-certificates.crt; echo "$2"; libraries "$2"; } |
    sort -u | sed 's/.*/&=&/' |
    xargs -x -s 1500000 go -C "$root/hack/image" run . -tag "$tag" -output "$file" -entrypoint /bin/sh "${@:3}" /bin/sh=/bin/sh
  tars+=("$file")
}

tars=()
for tag in curlimages/curl:8.11.1 python:3.13-alpine; do
  image "$tag" "$modules"
done
sed -n '/^```python reports.py$/,/^```$/{/^```/d;p}' "$root/docs/recipes/celery-beat.md" >"$images/reports.py"
printf '%s\n' "#!$python" 'from celery.__main__ import main' 'main()' >"$images/celery" # which Debian's package has not
chmod 755 "$images/celery"
image reports:1 "$modules"$'\n'"$packages" "$images/reports.py=/reports.py" "$images/celery=/usr/bin/celery"
"$here/load.sh" "${tars[@]}" >/dev/null
printf 'loaded %s\n' "${tars[@]##*/}"
