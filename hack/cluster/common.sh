# What the cluster's scripts share: sourced, not run.
# The whole node (control plane, containerd, kubelet, kube-proxy, pods) lives in
# mount, PID and network namespaces of its own. Its first process is node.sh;
# when that ends the kernel ends every process, mount, interface and nftables
# rule of the cluster with it.

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
root=$(realpath "$here/../..")
# Everything on disk, logs included, is under here.
run=${WEIR_CLUSTER_DIR:-${XDG_RUNTIME_DIR:-/run}/weir-cluster}
# A file in it that says that the folder is ours to delete.
marker=.weir-cluster
# The only thing outside of the namespaces: one end of a veth pair, through
# which this machine reaches the API server.
link=weir0
host_ip=10.197.14.1
node_ip=10.197.14.2
# Settings of the whole kernel that a kubelet changes; down.sh puts them back.
kernel_settings=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
  kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

die() { echo "cluster: $*" >&2; exit 1; }

# alive says whether the node's first process still runs.
alive() { [ -f "$run/pid" ] && is_node "$(cat "$run/pid")"; }
is_node() { grep -qsaF hack/cluster/node.sh "/proc/$1/cmdline"; }

# wait_for SECONDS WHAT COMMAND… runs the command until it succeeds.
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || die "$what: not within the time; logs are in $run/logs"
    alive || die "$what: the node ended; logs are in $run/logs"
    sleep 0.2
  done
}

require_linux_root() {
  [ "$(uname -s)" = Linux ] || die "a cluster of our own needs Linux; set KUBECONFIG to use another"
  [ "$(id -u)" = 0 ] || die "a cluster of our own needs root; set KUBECONFIG to use another"
}

# use_cluster exports KUBECONFIG and KUBECTL, and sets own where the cluster is ours.
use_cluster() {
  own=
  export KUBECONFIG=${KUBECONFIG:-$run/kubeconfig} KUBECTL=${KUBECTL:-kubectl}
  if [ "$KUBECONFIG" = "$run/kubeconfig" ]; then
    alive || die "no cluster is up: run make cluster, or set KUBECONFIG"
    own=1 KUBECTL=$run/bin/kubectl
  fi
}
