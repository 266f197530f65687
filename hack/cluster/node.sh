#!/usr/bin/env bash
# The node's first process, inside its namespaces: starts everything, and ends
# with all of it when it is killed. Started by up.sh with RUN, BIN and NODE_IP.
set -euo pipefail

# What containerd, runc, CNI and the kubelet write to fixed places stays in here.
mount -t overlay overlay -o "lowerdir=/var,upperdir=$RUN/var/upper,workdir=$RUN/var/work" /var
mkdir -p /var/lib/kubelet
mount --make-rshared /
mount -t tmpfs tmpfs /run/containerd

ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep 0.05; done
ip address add "$NODE_IP/30" dev eth0
# A default route, though nothing answers there: kube-proxy and kubelet look for one.
ip route add default dev eth0
sysctl -q net.ipv4.ip_forward=1

start() { # program, arguments
  local name=$1
  shift
  "$(PATH=$BIN:$PATH command -v "$name")" "$@" </dev/null >"$RUN/logs/$name.log" 2>&1 &
}

pki=$RUN/pki
start etcd --name=weir --data-dir="$RUN/etcd" --unsafe-no-fsync \
  --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
  --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
  --initial-cluster=weir=http://127.0.0.1:2380
start containerd --config="$RUN/etc/containerd.toml"
start kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
  --bind-address="$NODE_IP" --advertise-address="$NODE_IP" --service-cluster-ip-range=10.96.0.0/16 \
  --tls-cert-file="$pki/kube-apiserver.crt" --tls-private-key-file="$pki/kube-apiserver.key" \
  --client-ca-file="$pki/ca.crt" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-signing-key-file="$pki/service-account.key" --service-account-key-file="$pki/service-account.key" \
  --kubelet-preferred-address-types=InternalIP --kubelet-certificate-authority="$pki/ca.crt" \
  --kubelet-client-certificate="$pki/kube-apiserver-kubelet-client.crt" \
  --kubelet-client-key="$pki/kube-apiserver-kubelet-client.key" \
  --allow-privileged --audit-policy-file="$RUN/etc/audit.yaml" --audit-log-path="$RUN/logs/audit.log"
start kube-controller-manager --kubeconfig="$RUN/etc/kube-controller-manager.kubeconfig" --leader-elect=false \
  --use-service-account-credentials --service-account-private-key-file="$pki/service-account.key" \
  --root-ca-file="$pki/ca.crt" --bind-address=127.0.0.1
start kube-scheduler --kubeconfig="$RUN/etc/kube-scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1

until [ -S "$RUN/containerd.sock" ] && (exec 3<>"/dev/tcp/$NODE_IP/6443") 2>/dev/null; do sleep 0.1; done
start kubelet --config="$RUN/etc/kubelet.yaml" --kubeconfig="$RUN/etc/kubelet.kubeconfig" \
  --hostname-override=weir --node-ip="$NODE_IP"
start kube-proxy --config="$RUN/etc/kube-proxy.yaml"

# Bury orphans, and say in node.log what ended.
while true; do
  ended=0
  wait -n -p ended || echo "$(date -u +%T) process ${ended:-?} ended with $?" >&2
  [ -n "${ended:-}" ] || sleep 1
done
