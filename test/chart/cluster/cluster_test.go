// Package cluster installs Weir with Helm in a real cluster that has none, uses
// it, upgrades it under load, removes it and installs it again: see `make
// test-chart-e2e`.
package cluster

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	chart = "../../../charts/weir"
	// release's namespace is not config/'s, and enforces PodSecurity restricted.
	namespace = "weir-chart"
	// users is the namespace of the application.
	users = "weir-chart-users"
	// patience bounds each wait.
	patience = 2 * time.Minute
)

// program is one that the environment names, else one of PATH.
func program(name string) string {
	switch name {
	case "kubectl":
		return cmp.Or(os.Getenv("KUBECTL"), name)
	default:
		return filepath.Join(os.Getenv("TOOLS"), name)
	}
}

// try runs a command with some input and returns what it printed.
func try(t *testing.T, input, name string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program(name), arguments...)
	command.Stdin = strings.NewReader(input)
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(arguments, " "), err, output, stderr.String())
	}
	return string(output), err
}

func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	output, err := try(t, "", name, arguments...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

func apply(t *testing.T, objects string) {
	t.Helper()
	if _, err := try(t, objects, "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// eventually asks again until there is no error.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// helm runs install or upgrade, and waits until everything is ready.
func helm(t *testing.T, command string, arguments ...string) {
	t.Helper()
	run(t, "helm", append([]string{command, "weir", chart, "--namespace", namespace, "--values", os.Getenv("VALUES"),
		"--wait", "--timeout", "4m"}, arguments...)...)
}

func helmTest(t *testing.T) {
	t.Helper()
	if output := run(t, "helm", "test", "weir", "--namespace", namespace, "--timeout", "3m"); !strings.Contains(output, "Succeeded") {
		t.Fatalf("want the test's pod to succeed, got\n%s", output)
	}
}

// application is a namespace that opted in with an application on port 8080, a
// caller outside of it, and a policy for both.
func application(t *testing.T) (url string) {
	t.Helper()
	image := cmp.Or(os.Getenv("E2E_APP_IMAGE"), "weir-e2e-app:dev")
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s, labels: {weir.dev/inject: enabled}}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: api, namespace: %[1]s}
spec:
  direction: Inbound
  podSelector: {matchLabels: {app: api}}
  identity: {sources: [{header: {name: X-User-ID}}], ifMissing: Bypass}
  limits: [{requests: 10, window: 1m}]
`, users))
	pod := `
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s, weir.dev/inject: "%[3]t"}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: "%[4]s", imagePullPolicy: IfNotPresent, command: %[5]s, ports: [{containerPort: 8080}]}
`
	apply(t, fmt.Sprintf(pod, users, "caller", false, image, "[/app, idle]"))
	apply(t, fmt.Sprintf(pod, users, "api", true, image, "[/app, serve, -port=8080]"))
	run(t, "kubectl", "-n", users, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
	return "http://" + run(t, "kubectl", "-n", users, "get", "pod", "api", "-o", "jsonpath={.status.podIP}") + ":8080/"
}

// users of the application so far: each has a quota of its own.
var named int

// holds waits until a new user's calls, 5 more than the limit, are refused
// beyond it.
func holds(t *testing.T, url string, limit int) {
	t.Helper()
	want := map[string]int{"200": limit, "429": 5}
	eventually(t, fmt.Sprintf("a limit of %d holds", limit), func() error {
		named++
		output, err := try(t, "", "kubectl", "-n", users, "exec", "caller", "--", "/app", "call",
			fmt.Sprintf("-n=%d", limit+5), fmt.Sprintf("-H=X-User-ID: user-%d", named), url)
		var got struct{ Statuses map[string]int }
		if err := errors.Join(err, json.Unmarshal([]byte(output), &got)); err != nil {
			return err
		}
		if !maps.Equal(got.Statuses, want) {
			return fmt.Errorf("got %v, want %v", got.Statuses, want)
		}
		return nil
	})
}

func edit(t *testing.T, limit int) {
	t.Helper()
	run(t, "kubectl", "-n", users, "patch", "rlpol", "api", "--type=merge", "-p",
		fmt.Sprintf(`{"spec":{"limits":[{"requests":%d,"window":"1m"}]}}`, limit))
}

// load sends requests that no policy counts, until it is told to stop.
func load(t *testing.T, url string) (stop func()) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program("kubectl"), "-n", users, "exec", "-i", "caller", "--", "/app", "load", url)
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var output, stderr strings.Builder
	command.Stdout, command.Stderr = &output, &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		var got struct{ Statuses, Errors map[string]int }
		if err := errors.Join(input.Close(), command.Wait()); err != nil {
			t.Fatalf("the load ended: %v\n%s", err, &stderr)
		}
		if err := json.Unmarshal([]byte(output.String()), &got); err != nil {
			t.Fatalf("%v\n%s", err, &output)
		}
		t.Logf("answered: %v, errors: %v", got.Statuses, got.Errors)
		if len(got.Errors) > 0 || len(got.Statuses) != 1 || got.Statuses["200"] == 0 {
			t.Errorf("want only 200, got %v and %v", got.Statuses, got.Errors)
		}
	}
}

// TestLifeOfARelease tells it in order: each part goes on from the one before.
func TestLifeOfARelease(t *testing.T) {
	if os.Getenv("VALUES") == "" {
		t.Fatal("VALUES names no file: run make test-chart-e2e")
	}
	if crds := run(t, "kubectl", "get", "crd", "-o", "name"); strings.Contains(crds, ".weir.dev") {
		t.Fatalf("the cluster has Weir already, which this would take over: %s", crds)
	}
	clean(t)
	apply(t, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: restricted}}}", namespace))

	helm(t, "install")
	helmTest(t)
	url := application(t)
	holds(t, url, 10)

	stop := load(t, url)
	helm(t, "upgrade", "--set", "operator.podAnnotations.upgraded=yes", "--set", "operator.logLevel=debug")
	helmTest(t)
	edit(t, 15)
	holds(t, url, 15)
	stop()

	stop = load(t, url)
	run(t, "helm", "uninstall", "weir", "--namespace", namespace, "--wait", "--timeout", "3m")
	stop() // its Redis went with the release, and the policy allows then
	remains(t)

	helm(t, "install")
	helmTest(t)
	edit(t, 20)
	holds(t, url, 20)
}

// remains holds to what the chart's README says that helm uninstall leaves.
func remains(t *testing.T) {
	t.Helper()
	run(t, "kubectl", "-n", users, "get", "rlpol", "api")
	if left := run(t, "kubectl", "get", "mutatingwebhookconfigurations,clusterroles,clusterrolebindings", "-o", "name"); strings.Contains(left, "/weir") {
		t.Errorf("left behind: %s", left)
	}
	if left := run(t, "kubectl", "-n", namespace, "get", "deployments,statefulsets,services,pdb,roles,rolebindings", "-o", "name"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	// Pods start again, without sidecars.
	containers := run(t, "kubectl", "-n", users, "run", "later", "--image=none", "--dry-run=server", "-o", "jsonpath={.spec.initContainers[*].name}")
	if containers != "" {
		t.Errorf("a pod got %s from an operator that is gone", containers)
	}
}

// clean removes everything that the test made, CRDs included, when it ends.
func clean(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			for _, arguments := range [][]string{
				{"get", "pods,rlpol", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"},
				{"-n", namespace, "logs", "-l", "app.kubernetes.io/name=weir-operator", "--tail=60", "--prefix"},
			} {
				output, err := exec.Command(program("kubectl"), arguments...).CombinedOutput()
				t.Logf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, output)
			}
		}
		// t's context has ended here. The application goes while the operator is there.
		for _, command := range [][]string{
			{"kubectl", "delete", "namespace", users, "--ignore-not-found"},
			{"helm", "uninstall", "weir", "--namespace", namespace, "--ignore-not-found", "--wait"},
			{"kubectl", "delete", "namespace", namespace, "--ignore-not-found"},
			{"kubectl", "delete", "crd", "ratelimitpolicies.weir.dev", "periodictasks.weir.dev", "--ignore-not-found"},
		} {
			if output, err := exec.Command(program(command[0]), command[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", strings.Join(command, " "), err, output)
			}
		}
	})
}
