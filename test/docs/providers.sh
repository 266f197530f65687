#!/usr/bin/env bash
# Makes api.spotify.com and api.openai.com answer inside the cluster, over HTTP
# and HTTPS, and Weir verify them: the pages call them, and no test may. A
# headless Service <name> in the namespace com has the name
# api.<name>.com.svc.cluster.local, and svc.cluster.local is in every pod's
# search list.
# usage: [E2E_APP_IMAGE=…] providers.sh FOLDER   FOLDER: for keys
set -euo pipefail
cd "$1"
names="spotify openai"
key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${key[@]}" -days 2 -subj "/CN=The pages' authority" -keyout ca.key -out ca.crt 2>/dev/null
openssl req "${key[@]}" -subj /CN=provider -addext "subjectAltName=DNS:api.${names// /.com,DNS:api.}.com" -keyout tls.key -out tls.csr 2>/dev/null
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copyall -days 2 -out tls.crt 2>/dev/null

kubectl create namespace com
kubectl -n com create secret generic tls --from-file=tls.crt --from-file=tls.key
for name in $names; do
  kubectl -n com apply -f - <<EOF
apiVersion: v1
kind: Service
metadata: {name: $name}
spec: {clusterIP: None, selector: {service: $name}, ports: [{name: http, port: 80}, {name: https, port: 443}]}
---
apiVersion: v1
kind: Pod
metadata: {name: $name, labels: {service: $name}}
spec:
  hostname: api
  subdomain: $name
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: ${E2E_APP_IMAGE:-weir-e2e-app:dev}
    imagePullPolicy: IfNotPresent
    command: [/app, serve, -port=80, -tls-port=443, -tls-dir=/tls]
    securityContext: {runAsUser: 0}
    readinessProbe: {tcpSocket: {port: 443}, periodSeconds: 1}
    volumeMounts: [{name: tls, mountPath: /tls}]
  volumes: [{name: tls, secret: {secretName: tls}}]
EOF
done
kubectl -n weir-system create configmap weir-host-roots --from-file=ca.crt
# The kubelet brings it within a minute, and at once when the pods change.
kubectl -n weir-system annotate pods -l app.kubernetes.io/name=weir-operator --overwrite "docs/host-roots=$(date +%s)"
kubectl -n com wait --for=condition=Ready pods --all --timeout=2m

# Sidecars verify the hosts from when a client trusts what it is shown.
kubectl -n com apply -f - <<EOF
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: check}
spec:
  direction: Outbound
  podSelector: {matchLabels: {app: check}}
  hosts: [api.spotify.com]
  tls: Intercept
  identity: {sources: [{header: {name: X-User-ID}}]}
  limits: [{requests: 1000, window: 1m}]
EOF
kubectl -n com wait --for=condition=Accepted rlpol/check
kubectl -n com run check --labels=app=check,weir.dev/inject=true --image=curlimages/curl:8.11.1 --overrides='{"spec":{"terminationGracePeriodSeconds":1}}' --command -- sleep infinity
kubectl -n com wait --for=condition=Ready pod/check --timeout=2m
for _ in $(seq 60); do
  kubectl -n com exec check -- curl -sS -o /dev/null https://api.spotify.com/ && exit
  sleep 1
done
exit 1
