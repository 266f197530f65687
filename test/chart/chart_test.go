// Package chart holds the Helm chart to what its README says, with Helm itself,
// kustomize, kubeconform, promtool and a real kube-apiserver: see `make
// test-chart`.
package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	// root of the repository, from here.
	root = "../.."
	// chartFolder is what is tested.
	chartFolder = root + "/charts/weir"
	// namespace that config/ installs into, and these tests.
	namespace = "weir-system"
	// trial is a Redis of the release's own.
	trial = "redis.embedded.enabled=true"
)

// tool is the path of one that the Makefile builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	folder := os.Getenv("TOOLS")
	if folder == "" {
		folder = root + "/bin/tools"
	}
	path, err := filepath.Abs(filepath.Join(folder, name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%s is not built: run make test-chart (%v)", name, err)
	}
	return path
}

// try runs a command and returns what it printed.
func try(t *testing.T, name string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, arguments...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(arguments, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// tryRender renders the chart with values of --set; a value that begins with {
// or [ is JSON.
func tryRender(t *testing.T, values ...string) (string, error) {
	t.Helper()
	arguments := []string{"template", "weir", chartFolder, "--namespace", namespace}
	for _, value := range values {
		flag := "--set"
		if _, text, _ := strings.Cut(value, "="); strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
			flag = "--set-json"
		}
		arguments = append(arguments, flag, value)
	}
	return try(t, tool(t, "helm"), arguments...)
}

func render(t *testing.T, values ...string) string {
	t.Helper()
	output, err := tryRender(t, values...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// everything that is off by default is on.
func everything() []string {
	return []string{
		trial, "networkPolicy.enabled=true", `networkPolicy.isolatedNamespaces=["default"]`,
		"monitoring.serviceMonitor.enabled=true", "monitoring.podMonitor.enabled=true", "certificates.certManager.enabled=true",
		"monitoring.prometheusRule.enabled=true", "monitoring.dashboards.enabled=true",
		`operator.tolerations=[{"key":"node-role.kubernetes.io/control-plane","operator":"Exists"}]`,
		`operator.affinity={"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":{"topologyKey":"topology.kubernetes.io/zone","labelSelector":{"matchLabels":{"app.kubernetes.io/name":"weir-operator"}}}}]}}`,
		"operator.priorityClassName=system-cluster-critical", `images.pullSecrets=["registry"]`,
		"dashboard.enabled=true", "dashboard.tlsSecret=page", "dashboard.sessionKeySecret=session", "dashboard.forwarded.userHeader=X-Forwarded-User",
		"dashboard.forwarded.secret=proxy", `dashboard.from=[{"podSelector":{}}]`, "monitoring.interval=30s", `monitoring.labels={"release":"prometheus"}`,
	}
}

// objects of a stream of YAML documents, by kind, namespace and name.
func objects(t *testing.T, stream string) map[string]*unstructured.Unstructured {
	t.Helper()
	found := map[string]*unstructured.Unstructured{}
	for document := range strings.SplitSeq("\n"+stream, "\n---") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatalf("reading rendered YAML: %v\n%s", err, document)
		}
		if len(object) == 0 {
			continue
		}
		one := &unstructured.Unstructured{Object: object}
		name := fmt.Sprintf("%s %s/%s", one.GetKind(), one.GetNamespace(), one.GetName())
		if found[name] != nil {
			t.Fatalf("%s is rendered twice", name)
		}
		found[name] = one
	}
	return found
}

// pretty is an object for people to compare.
func pretty(object *unstructured.Unstructured) string {
	text, err := json.MarshalIndent(object, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}
