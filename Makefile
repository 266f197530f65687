# Weir's developers' commands; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Architecture and tag of the images.
ARCH ?= $(shell go env GOARCH)
TAG ?= dev
export TAG
# Where the images' binaries are.
LINUX := $(BIN)/linux_$(ARCH)

GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
# The sidecar's user is ruleset.UID.
SIDECAR_UID := 14014
# Suites that need more than Go and Redis, and have targets of their own.
OWN_SUITES := /test/e2e$$|/test/e2e/|/test/docs$$|/test/integration$$|/test/interop$$|/test/chaos$$|/test/chart$$|/test/chart/

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2} /^##@ / {print substr($$0, 5)}' $(MAKEFILE_LIST)

##@ Try
.PHONY: demo
demo: ## Four services, two users, the real sidecar and worker: prints tables (JSON=1: an array); no cluster, no root (HOLD=1: then the page, until Ctrl-C)
	@$(if $(HOLD),KUBEBUILDER_ASSETS=$$(hack/cluster/kubernetes/build.sh apiserver)) JSON=$(JSON) HOLD=$(HOLD) go run ./hack/demo

.PHONY: cluster
cluster: ## Bring up a one-node cluster from source (root on Linux), or use the one of KUBECONFIG
	@hack/cluster/up.sh

.PHONY: deploy
deploy: images ## Build the images, load and install them (with KUBECONFIG: see TAG, IMAGE_PREFIX)
	@hack/deploy.sh

.PHONY: undeploy
undeploy: ## Remove everything that deploy installed, policies included
	@source hack/cluster/common.sh; use_cluster; "$$KUBECTL" delete -k config/default --ignore-not-found

.PHONY: cluster-down
cluster-down: ## Take the cluster down; leaves nothing
	@hack/cluster/down.sh

##@ Test
.PHONY: test
test: ## Everything: generated files, units, API-server suites and, where possible, the cluster suite
	@$(MAKE) verify
	@$(MAKE) test-unit
	@$(MAKE) test-conformance
	@$(MAKE) test-chaos
	@$(MAKE) test-interop
	@$(MAKE) test-integration
	@$(MAKE) test-dashboard
	@$(MAKE) test-chart
	@if [ -n "$${KUBECONFIG:-}" ] || { [ "$$(uname -s)" = Linux ] && [ "$$(id -u)" = 0 ]; }; then \
	  $(MAKE) test-e2e; \
	  $(MAKE) test-chart-e2e; \
	else \
	  echo "left out: the cluster suites (test/e2e, test/docs, test/chart/cluster), which need root on Linux, or KUBECONFIG"; \
	fi

.PHONY: test-unit
test-unit: ## Units and properties, with the race detector and a real Redis
	@hack/packages.sh test
	go -C hack/image test ./...
	go -C hack/sbom test ./...
	go -C test/bench/limiter vet ./...
	go -C test/bench/limiter test ./...
	go test -race -timeout=15m $$(go list ./... | grep -vE '$(OWN_SUITES)')

.PHONY: test-conformance
test-conformance: ## The data path beside a cable: gRPC's interop programs, h2spec, many protocols, volume (WEIR_FULL=1: 5 GiB, 5,000 WebSockets)
	@hack/packages.sh test conformance
	go -C test/conformance vet ./...
	go -C test/conformance test $(if $(WEIR_FULL),-v -run 'Volume|WebSockets',-race) -count=1 -timeout=15m ./...

.PHONY: test-chaos
test-chaos: ## Eight sidecars on one Redis under load and faults, and an auditor that judges every window (WEIR_FULL=1: ten times as long)
	@hack/packages.sh test
	go test -v -count=1 -parallel=3 -timeout=$(if $(WEIR_FULL),90m,15m) ./test/chaos

.PHONY: test-interop
test-interop: ## Our workers beside real Celery ones, and under faults
	@hack/packages.sh test interop
	go test -race -count=1 -timeout=15m ./test/interop/...

.PHONY: test-integration
test-integration: ## The operator against a real kube-apiserver and etcd
	@hack/packages.sh test
	KUBEBUILDER_ASSETS=$$(hack/cluster/kubernetes/build.sh apiserver) go test -count=1 -timeout=15m ./test/integration/...

.PHONY: test-dashboard
test-dashboard: ## The page in headless Chromium, with a real API server, Redis and workers; screenshots in bin/dashboard
	@hack/packages.sh test browser
	go -C test/dashboard vet ./...
	KUBEBUILDER_ASSETS=$$(hack/cluster/kubernetes/build.sh apiserver) go -C test/dashboard test -count=1 -timeout=20m ./...

.PHONY: test-chart
test-chart: $(TOOLS)/helm $(TOOLS)/kustomize $(TOOLS)/kubeconform $(TOOLS)/monitoring-crds $(TOOLS)/cert-manager-crds ## The Helm chart: lint, values, kustomize's objects, schemas, alerts, a real kube-apiserver, and what make dist writes
	@hack/packages.sh test chart
	KUBEBUILDER_ASSETS=$$(hack/cluster/kubernetes/build.sh apiserver) TOOLS=$(TOOLS) go test -count=1 -timeout=15m ./test/chart

.PHONY: test-chart-e2e
test-chart-e2e: images $(BIN)/images/e2e-app.tar $(TOOLS)/helm $(TOOLS)/cert-manager $(TOOLS)/cert-manager-crds ## The Helm chart in a real cluster: installed, tested, upgraded, removed (KEEP=1: cluster left up)
	@TOOLS=$(TOOLS) hack/test-chart.sh

.PHONY: test-e2e
test-e2e: images $(BIN)/images/e2e-app.tar ## Real pods in a real cluster, and the documentation's commands; taken down afterwards (KEEP=1: left up)
	@hack/test-e2e.sh

.PHONY: test-docs
test-docs: $(BIN)/images/e2e-app.tar ## The documentation's commands, typed into the cluster of make cluster deploy (or KUBECONFIG's); a part of test-e2e
	@hack/test-docs.sh

.PHONY: bench
bench: ## Measure beside others, in one run: PART=tasks, PART=limiter, PART=proxy (root on Linux); or PART=operator with 1,000 policies and 10,000 pods (JSON=1: for machines)
	@hack/packages.sh $(if $(filter proxy,$(PART)),bench,test $(if $(filter operator limiter,$(PART)),,interop))
	@$(if $(filter operator,$(PART)),KUBEBUILDER_ASSETS=$$(hack/cluster/kubernetes/build.sh apiserver) POLICIES=$(POLICIES) PODS=$(PODS) EDITS=$(EDITS) REST=$(REST)) \
	  JSON=$(JSON) ROUNDS=$(ROUNDS) TAKES=$(TAKES) DURATION=$(DURATION) OTHER=$(OTHER) PROFILE=$(PROFILE) \
	  $(if $(filter limiter,$(PART)),go -C test/bench/limiter run .,go run ./test/bench $(or $(PART),tasks))

.PHONY: verify
verify: $(TOOLS)/controller-gen ## Fail with the names of files that are stale, unformatted or untidy
	@hack/verify.sh $(TOOLS)/controller-gen

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## golangci-lint with kube-api-linter on api/
	$(TOOLS)/golangci-lint run

##@ Build
.PHONY: generate
generate: $(TOOLS)/controller-gen ## Regenerate deepcopy code, CRDs and roles from the Go sources, and the chart's share and docs/reference.md from them
	$(TOOLS)/controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/...
	$(TOOLS)/controller-gen crd paths=./api/... output:crd:dir=config/crd/bases
	$(TOOLS)/controller-gen rbac:roleName=weir-operator paths=./controllers/... output:rbac:dir=config/rbac
	$(TOOLS)/controller-gen rbac:roleName=weir-dashboard paths=./dashboard/... output:rbac:dir=config/dashboard/rbac
	go run ./hack/chart
	go run ./hack/reference

.PHONY: build
build: ## Build bin/operator, bin/sidecar, bin/worker and bin/kubectl-weir for this machine
	$(GO_BUILD) -o $(BIN)/operator .
	$(GO_BUILD) -o $(BIN)/sidecar ./sidecar
	$(GO_BUILD) -o $(BIN)/worker ./worker
	$(GO_BUILD) -o $(BIN)/kubectl-weir ./kubectl-weir

.PHONY: images
images: $(BIN)/images/operator.tar $(BIN)/images/sidecar.tar $(BIN)/images/worker.tar ## Build bin/images/{operator,sidecar,worker}.tar, without a container engine

.PHONY: dist
dist: $(LINUX)/operator $(LINUX)/sidecar $(LINUX)/worker $(TOOLS)/helm $(TOOLS)/kustomize ## Write dist/: install.yaml, the packaged chart, SBOMs (SPDX), checksums (TAG, IMAGE_PREFIX: the images' names; ARCH)
	@VERSION=$(VERSION) hack/dist.sh $(TOOLS) $(LINUX) $(or $(DIST),dist)

.PHONY: krew
krew: ## Write dist-krew/: kubectl weir for every platform, and its manifest for krew (TAG=v1.2.3; PLATFORMS, DOWNLOADS)
	@TAG=$(TAG) hack/krew.sh $(or $(DIST),dist-krew)

# binary writes $@ from a package. Go knows what is new: always ask it.
.PHONY: FORCE
define binary
	@mkdir -p $(@D)
	GOOS=linux GOARCH=$(ARCH) $(GO_BUILD) -o $@ $(1)
endef
$(LINUX)/operator: FORCE
	$(call binary,.)
$(LINUX)/sidecar: FORCE
	$(call binary,./sidecar)
$(LINUX)/worker: FORCE
	$(call binary,./worker)
$(LINUX)/e2e-app: FORCE
	$(call binary,./test/e2e/app)

# image writes $@ from a binary: its user, its name in the image
define image
	@mkdir -p $(@D)
	@go -C hack/image run . -architecture $(ARCH) -tag weir-$(basename $(@F)):$(TAG) -user $(1):$(1) -output $@ \
	  -entrypoint /$(2) $<=/$(2) /etc/ssl/certs/ca-certificates.crt=/etc/ssl/certs/ca-certificates.crt
endef
$(BIN)/images/operator.tar: $(LINUX)/operator FORCE
	$(call image,65532,operator)
$(BIN)/images/sidecar.tar: $(LINUX)/sidecar FORCE
	$(call image,$(SIDECAR_UID),sidecar)
$(BIN)/images/worker.tar: $(LINUX)/worker FORCE
	$(call image,65532,worker)
$(BIN)/images/e2e-app.tar: $(LINUX)/e2e-app FORCE
	$(call image,65532,app)

$(TOOLS)/controller-gen: hack/tools/go.mod
	go -C hack/tools build -o $@ sigs.k8s.io/controller-tools/cmd/controller-gen
$(TOOLS)/helm: hack/tools/go.mod
	go -C hack/tools build -trimpath -ldflags "-s -w" -o $@ helm.sh/helm/v4/cmd/helm
$(TOOLS)/kustomize: hack/tools/go.mod
	go -C hack/tools build -trimpath -ldflags "-s -w" -o $@ sigs.k8s.io/kustomize/kustomize/v5
$(TOOLS)/kubeconform: hack/tools/go.mod
	go -C hack/tools build -trimpath -ldflags "-s -w" -o $@ github.com/yannh/kubeconform/cmd/kubeconform
# The CRDs of prometheus-operator, from its Go types.
$(TOOLS)/monitoring-crds: $(TOOLS)/controller-gen
	@mkdir -p $@
	cd hack/tools && $(TOOLS)/controller-gen crd:allowDangerousTypes=true \
	  paths=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1 output:crd:dir=$@
	@touch $@
# What the tests of certificates.certManager need of cert-manager.
$(TOOLS)/cert-manager: hack/certmanager/go.mod hack/certmanager/main.go
	go -C hack/certmanager build -trimpath -ldflags "-s -w" -o $@ .
$(TOOLS)/cert-manager-crds: hack/certmanager/go.mod
	@mkdir -p $@
	cd hack/certmanager && go mod download github.com/cert-manager/cert-manager && \
	  install -m 644 "$$(go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)"/deploy/crds/cert-manager.io_*.yaml $@
	@touch $@
$(TOOLS)/golangci-lint: hack/tools/go.mod hack/tools/golangci-lint/main.go
	go -C hack/tools build -o $@ ./golangci-lint

.PHONY: tools
tools: $(TOOLS)/controller-gen $(TOOLS)/golangci-lint ## Install the Debian packages and build the tools that the other targets use
	@hack/packages.sh test cluster

.PHONY: clean
clean: ## Delete bin/ and dist/ (the built Kubernetes stays in the user's cache)
	rm -rf $(BIN) dist
