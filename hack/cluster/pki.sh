#!/usr/bin/env bash
# Makes the cluster's authority, certificates and kubeconfigs.
# usage: pki.sh RUN_FOLDER NODE_IP KUBECTL
set -euo pipefail
run=$1 node_ip=$2 kubectl=$3
cd "$run/pki"
new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc)

openssl req -x509 "${new_key[@]}" -keyout ca.key -out ca.crt -days 365 -subj /CN=weir-cluster 2>/dev/null
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out service-account.key 2>/dev/null

certificate() { # name, subject, subject alternative names
  openssl req -x509 "${new_key[@]}" -CA ca.crt -CAkey ca.key -keyout "$1.key" -out "$1.crt" -days 365 \
    -subj "$2" -addext "subjectAltName=${3:-DNS:$1}" -addext basicConstraints=critical,CA:FALSE \
    -addext extendedKeyUsage=serverAuth,clientAuth 2>/dev/null
}

kubeconfig() { # file, name of the client's certificate
  "$kubectl" --kubeconfig="$1" config set-cluster weir --server="https://$node_ip:6443" \
    --certificate-authority=ca.crt --embed-certs >/dev/null
  "$kubectl" --kubeconfig="$1" config set-credentials weir --client-certificate="$2.crt" \
    --client-key="$2.key" --embed-certs >/dev/null
  "$kubectl" --kubeconfig="$1" config set-context weir --cluster=weir --user=weir >/dev/null
  "$kubectl" --kubeconfig="$1" config use-context weir >/dev/null
}

names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
certificate kube-apiserver /CN=kube-apiserver "$names,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$node_ip"
certificate kube-apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
certificate kubelet /O=system:nodes/CN=system:node:weir "DNS:weir,IP:$node_ip"
certificate kube-controller-manager /CN=system:kube-controller-manager
certificate kube-scheduler /CN=system:kube-scheduler
certificate kube-proxy /CN=system:kube-proxy
certificate admin /O=system:masters/CN=weir-admin

for component in kubelet kube-controller-manager kube-scheduler kube-proxy; do
  kubeconfig "$run/etc/$component.kubeconfig" "$component"
done
kubeconfig "$run/kubeconfig" admin
