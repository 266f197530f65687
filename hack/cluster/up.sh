#!/usr/bin/env bash
# Brings up a one-node Kubernetes cluster from source and prints the path of
# its kubeconfig. Does nothing where KUBECONFIG names a cluster, or ours is up.
set -euo pipefail
source "$(dirname "$0")/common.sh"

if [ -n "${KUBECONFIG:-}" ] && [ "$KUBECONFIG" != "$run/kubeconfig" ]; then
  echo "KUBECONFIG is set: that cluster is used, none is started" >&2
  echo "$KUBECONFIG"
  exit
fi
require_linux_root
if alive; then
  echo "the cluster is up already; kubeconfig:" >&2
  echo "$run/kubeconfig"
  exit
fi
[ ! -e "$run" ] || "$here/down.sh"
ip link show "$link" >/dev/null 2>&1 && die "the interface $link exists: another cluster is up; take it down with its WEIR_CLUSTER_DIR"
[ -z "$(find /sys/fs/cgroup -maxdepth 2 -name kubepods -print -quit)" ] || die "another kubelet runs on this machine: set KUBECONFIG to use its cluster"

"$root/hack/packages.sh" cluster
bin=$("$here/kubernetes/build.sh" cluster)
"$here/images.sh" "$bin"
started=$SECONDS

mkdir -p "$run"
touch "$run/$marker"
mkdir -p "$run"/{logs,etc,pki,containerd,etcd,var/upper,var/work} /run/containerd
chmod 700 "$run"
ln -s "$bin" "$run/bin"
ln -s "$bin/images" "$run/images"
sysctl "${kernel_settings[@]}" >"$run/sysctl" 2>/dev/null || true
"$here/pki.sh" "$run" "$node_ip" "$bin/kubectl"
for template in "$here"/config/*; do
  sed -e "s|@RUN@|$run|g" -e "s|@NODE_IP@|$node_ip|g" "$template" >"$run/etc/$(basename "$template")"
done

# The node: its first process outlives this script, and nothing outlives it.
RUN=$run BIN=$bin NODE_IP=$node_ip setsid unshare --mount --pid --net --ipc --fork --mount-proc \
  "$here/node.sh" </dev/null >"$run/logs/node.log" 2>&1 &
unshare=$!
for _ in $(seq 100); do
  first=$(cat "/proc/$unshare/task/$unshare/children" 2>/dev/null || true)
  first=${first%% *}
  is_node "$first" && break
  sleep 0.05
done
[ -n "$first" ] || die "the node did not start: $(cat "$run/logs/node.log")"
echo "$first" >"$run/pid"
ip link add "$link" type veth peer name eth0 netns "$first"
ip address add "$host_ip/30" dev "$link"
ip link set "$link" up

kubectl=("$bin/kubectl" "--kubeconfig=$run/kubeconfig")
ctr=(ctr --address "$run/containerd.sock" --namespace k8s.io)
wait_for 30 "containerd" "${ctr[@]}" version
for image in pause coredns; do
  "${ctr[@]}" images import "$bin/images/$image.tar" >/dev/null
done
wait_for 60 "API server" "${kubectl[@]}" get --raw /readyz
"${kubectl[@]}" apply -f "$run/etc/coredns.yaml" >/dev/null
wait_for 60 "node" "${kubectl[@]}" wait --for=condition=Ready node/weir --timeout=1s
wait_for 60 "service accounts" "${kubectl[@]}" get serviceaccount default
wait_for 60 "CoreDNS" "${kubectl[@]}" rollout status deployment/coredns -n kube-system --timeout=1s
echo "the cluster is ready after $((SECONDS - started)) s; logs are in $run/logs; kubeconfig:" >&2
echo "$run/kubeconfig"
