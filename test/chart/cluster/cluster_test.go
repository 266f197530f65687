// Package cluster installs Weir with Helm in a real cluster that has none: the
// commit before this one, which it upgrades, rolls back, moves to cert-manager,
// removes and installs again, under load: see `make test-chart-e2e`.
package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// release is a chart and its values.
type release struct{ chart, values string }

// helm runs install or upgrade, and waits until everything is ready.
func (r release) helm(t *testing.T, command string, arguments ...string) {
	t.Helper()
	run(t, "helm", append([]string{command, "weir", r.chart, "--namespace", namespace, "--values", r.values,
		"--wait", "--timeout", "4m"}, arguments...)...)
}

func helmTest(t *testing.T) {
	t.Helper()
	if output := run(t, "helm", "test", "weir", "--namespace", namespace, "--timeout", "3m"); !strings.Contains(output, "Succeeded") {
		t.Fatalf("want the test's pod to succeed, got\n%s", output)
	}
}

// application is a namespace that opted in, with a policy for its pods, and a
// caller outside of it.
func application(t *testing.T) {
	t.Helper()
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
  overrides: [{identities: [load], unlimited: true}]
`, users))
	apply(t, pod("caller", "caller", false, "[/app, idle]"))
}

func pod(name, app string, inject bool, command string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[3]s, weir.dev/inject: "%[4]t"}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: "%[5]s", imagePullPolicy: IfNotPresent, command: %[6]s, ports: [{containerPort: 8080}]}
`, users, name, app, inject, cmp.Or(os.Getenv("E2E_APP_IMAGE"), "weir-e2e-app:dev"), command)
}

// start has a pod of the application, with the sidecar of the operator that
// runs now, and returns its URL.
func start(t *testing.T, name string) (url string) {
	t.Helper()
	apply(t, pod(name, "api", true, "[/app, serve, -port=8080]"))
	run(t, "kubectl", "-n", users, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
	return "http://" + run(t, "kubectl", "-n", users, "get", "pod", name, "-o", "jsonpath={.status.podIP}") + ":8080/"
}

// admissions has the API server ask the webhook all the time, until it is told
// to stop: none may fail.
func admissions(t *testing.T) (stop func()) {
	t.Helper()
	asking, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var asked int
	var failures []string
	go func() {
		defer close(done)
		for asking.Err() == nil {
			command := exec.CommandContext(asking, program("kubectl"), "create", "--dry-run=server", "-f", "-", "-o", "jsonpath={.spec.initContainers[*].name}")
			command.Stdin = strings.NewReader(pod("asked", "api", true, "[/app]"))
			output, err := command.CombinedOutput()
			if asking.Err() != nil {
				return
			}
			asked++
			if err != nil || !strings.Contains(string(output), "weir-sidecar") {
				failures = append(failures, fmt.Sprintf("%s %v: %s", time.Now().Format(time.TimeOnly), err, output))
			}
		}
	}()
	return func() {
		t.Helper()
		cancel()
		<-done
		t.Logf("%d admissions", asked)
		if len(failures) > 0 || asked < 10 {
			t.Errorf("want every admission to succeed, %d of %d did not:\n%s", len(failures), asked, strings.Join(failures, "\n"))
		}
	}
}

// certManager installs its CRDs and runs its controllers until the test ends.
func certManager(t *testing.T) {
	t.Helper()
	crds := program("cert-manager-crds")
	run(t, "kubectl", "apply", "--server-side", "-f", crds)
	t.Cleanup(func() {
		if output, err := exec.Command(program("kubectl"), "delete", "-f", crds).CombinedOutput(); err != nil {
			t.Errorf("removing cert-manager's CRDs: %v\n%s", err, output)
		}
	})
	run(t, "kubectl", "wait", "--for=condition=Established", "--timeout=60s", "-f", crds)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program("cert-manager"))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(command.Process.Signal(syscall.SIGTERM), command.Wait(), log.Close())
		if text, _ := os.ReadFile(log.Name()); t.Failed() || err != nil {
			t.Logf("cert-manager: %v\n%s", err, text[max(0, len(text)-4000):])
		}
	})
}

// renewAuthority has cert-manager make another authority and a certificate that
// it signed: both authorities are published then.
func renewAuthority(t *testing.T) {
	t.Helper()
	authority := func() string {
		return run(t, "kubectl", "-n", namespace, "get", "secret", "weir-serving-certificate", "-o", `jsonpath={.data.ca\.crt}`)
	}
	published := func() string {
		return run(t, "kubectl", "get", "mutatingwebhookconfiguration", "weir", "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}")
	}
	holdsBoth := func(first, second string) error {
		bundle, err := base64.StdEncoding.DecodeString(published())
		for _, encoded := range []string{first, second} {
			pem, decodeErr := base64.StdEncoding.DecodeString(encoded)
			err = errors.Join(err, decodeErr)
			if !bytes.Contains(bundle, bytes.TrimSpace(pem)) {
				return errors.Join(err, errors.New("an authority is not published"))
			}
		}
		return err
	}
	run(t, "kubectl", "-n", namespace, "wait", "--for=condition=Ready", "certificate", "--all", "--timeout=60s")
	first := authority()
	eventually(t, "cert-manager's authority is published", func() error { return holdsBoth(first, first) })
	run(t, "kubectl", "-n", namespace, "delete", "secret", "weir-authority-certificate")
	eventually(t, "cert-manager makes another authority", func() error {
		_, err := try(t, "", "kubectl", "-n", namespace, "get", "secret", "weir-authority-certificate")
		return err
	})
	run(t, "kubectl", "-n", namespace, "delete", "secret", "weir-serving-certificate")
	eventually(t, "cert-manager signs with it", func() error {
		second, err := try(t, "", "kubectl", "-n", namespace, "get", "secret", "weir-serving-certificate", "-o", `jsonpath={.data.ca\.crt}`)
		if err != nil {
			return err
		}
		if second == first {
			return errors.New("it is the first still")
		}
		return nil
	})
	second := authority()
	eventually(t, "both authorities are published", func() error { return holdsBoth(first, second) })
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

// load sends requests that have no limit, until it is told to stop.
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
	this := release{chart, os.Getenv("VALUES")}
	previous := this
	if folder := os.Getenv("PREVIOUS_RELEASE"); folder != "" {
		previous = release{folder + "/charts/weir", folder + "/values.yaml"}
	}

	previous.helm(t, "install")
	application(t)
	early := start(t, "early")
	holds(t, early, 10)

	t.Log("upgrading, from the commit before")
	stop := load(t, early)
	admitted := admissions(t)
	this.helm(t, "upgrade")
	helmTest(t)
	edit(t, 15)
	holds(t, early, 15) // its sidecar is of the commit before
	late := start(t, "late")
	holds(t, late, 15)

	t.Log("rolling back")
	run(t, "helm", "rollback", "weir", "--namespace", namespace, "--wait", "--timeout", "4m")
	edit(t, 16)
	holds(t, late, 16) // its sidecar is newer than the operator
	holds(t, early, 16)

	t.Log("upgrading again, with another value")
	this.helm(t, "upgrade", "--set", "operator.podAnnotations.upgraded=yes", "--set", "operator.logLevel=debug")
	edit(t, 17)
	holds(t, early, 17)
	holds(t, late, 17)

	t.Log("going over to cert-manager")
	certManager(t)
	this.helm(t, "upgrade", "--set", "certificates.certManager.enabled=true")
	helmTest(t)
	edit(t, 18)
	holds(t, early, 18)
	holds(t, late, 18)
	renewAuthority(t)
	edit(t, 19)
	holds(t, early, 19)
	holds(t, late, 19)
	admitted()
	stop()

	t.Log("removing")
	stop = load(t, early)
	run(t, "helm", "uninstall", "weir", "--namespace", namespace, "--wait", "--timeout", "3m")
	stop() // its Redis went with the release, and the policy allows then
	remains(t)

	this.helm(t, "install")
	helmTest(t)
	edit(t, 20)
	holds(t, early, 20)
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
