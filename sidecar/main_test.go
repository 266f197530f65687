package main

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestCommandLine(t *testing.T) {
	t.Setenv(ruleset.BootstrapEnv, "")
	for _, c := range []struct {
		reason string
		args   []string
		says   string // in the error; empty: none
	}{
		{"prints the version", []string{"version"}, ""},
		{"an unknown command", []string{"serve"}, `unknown command "serve"`},
		{"run is the default, and needs its Bootstrap", nil, ruleset.BootstrapEnv + " is not set"},
		{"flags without a command are run's", []string{"--log-level=debug"}, ruleset.BootstrapEnv + " is not set"},
		{"an unknown log level", []string{"run", "--log-level=loud"}, "log-level"},
		{"an argument that is no flag", []string{"run", "now"}, `unexpected argument "now"`},
		{"a port that is none", []string{"run", "--health-port=65536"}, `"65536" is not a port`},
		{"a captured port that is none", []string{"capture", "--inbound-ports=80,x"}, `"x" is not a port`},
		{"capturing without a user of its own", []string{"capture", "--uid=0"}, "root"},
		{"a user that is no number", []string{"capture", "--uid=weir"}, "uid"},
	} {
		var out, complaints bytes.Buffer
		err := dispatch(c.args, &out, &complaints)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, expected an error that says %q", c.reason, err, c.says)
		}
	}
}

func TestListsOfPorts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, text string
		want         []uint16
	}{
		{"none", "", nil},
		{"one", "80", []uint16{80}},
		{"several, spaces and empty places", "80, 8080,,443", []uint16{80, 8080, 443}},
	} {
		var got []uint16
		if err := portsInto(&got)(c.text); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v; expected %v", c.reason, got, err, c.want)
		}
	}
}

func TestBootstrapIsChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reason, encoded string }{
		{"absent", ""},
		{"not JSON", "{"},
		{"of no namespace", `{"ruleset":{}}`},
	} {
		if got, err := readBootstrap(c.encoded); err == nil {
			t.Errorf("%s: got %+v, expected an error", c.reason, got)
		}
	}
	got, err := readBootstrap(`{"ruleset":{"namespace":"bondhu"},"probes":[{"type":"TCP","port":1}],"later":1}`)
	if err != nil || got.Ruleset.Namespace != "bondhu" || len(got.Probes) != 1 {
		t.Errorf("got %+v, %v; expected the namespace and the probe", got, err)
	}
}

func TestRulesetIsAppliedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	bad := errors.New("unusable")
	var rules, tls, store, traces string // in force
	apply := applier(
		func(r *ruleset.Ruleset) error {
			if r.Version == "bad rules" {
				return bad
			}
			rules = r.Version
			return nil
		},
		func(r *ruleset.Ruleset) error {
			if r.Version == "bad authorities" {
				return bad
			}
			tls = r.Version
			return nil
		},
		func(s *ruleset.Store) error {
			if s.URL == "bad" {
				return bad
			}
			store = s.URL
			return nil
		},
		func(r *ruleset.Ruleset) { traces = r.Version })
	for _, c := range []struct {
		reason, version, url string
		rejected             bool
		inForce              string
	}{
		{"the first store fails: no rules at all", "zero", "bad", true, ""},
		{"rules and store", "one", "one", false, "one"},
		{"the rules fail", "bad rules", "two", true, "one"},
		{"the authorities fail", "bad authorities", "two", true, "one"},
		{"the store fails", "two", "bad", true, "one"},
		{"both again", "three", "three", false, "three"},
	} {
		err := apply(&ruleset.Ruleset{Version: c.version, Store: &ruleset.Store{URL: c.url}})
		if errors.Is(err, bad) != c.rejected {
			t.Errorf("%s: got error %v, expected rejected to be %v", c.reason, err, c.rejected)
		}
		if rules != c.inForce || tls != c.inForce || store != c.inForce || traces != c.inForce {
			t.Errorf("%s: rules %q, authorities %q, store %q and traces %q are in force, expected %q", c.reason, rules, tls, store, traces, c.inForce)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	application, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := uint16(application.Addr().(*net.TCPAddr).Port)
	dead, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := uint16(dead.Addr().(*net.TCPAddr).Port)
	_ = dead.Close()
	t.Cleanup(func() { _ = application.Close() })

	ready := true
	server := httptest.NewServer(healthHandler(func() bool { return ready }, http.NotFoundHandler(), []ruleset.Probe{
		{Type: ruleset.ProbeTCP, Port: open}, {Type: ruleset.ProbeTCP, Port: closed}, {Type: ruleset.ProbeHTTP, Port: 80, Path: "/"},
	}))
	t.Cleanup(server.Close)
	ask := func(reason, path string, want int) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatalf("%s: %v", reason, err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s answers %d, expected %d", reason, path, response.StatusCode, want)
		}
	}
	port := func(n uint16) string { return ruleset.HealthTCPPath + "?port=" + strconv.Itoa(int(n)) }
	ask("the process lives", "/healthz", 200)
	ask("it is ready", "/readyz", 200)
	ask("the application accepts", port(open), 200)
	ask("the application is dead", port(closed), 503)
	ask("no TCP probe asks for the port", port(80), 404)
	ask("no port is named", ruleset.HealthTCPPath, 404)
	ask("what is named is no port", ruleset.HealthTCPPath+"?port=1e3", 404)
	ready = false
	ask("it is not ready", "/readyz", 503)
	ask("it lives all the same", "/healthz", 200)
}

// A sidecar lives beside every pod: its size is everybody's cost.
func TestSidecarLinksNoKubernetesLibrary(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("listing what the sidecar imports: %v", err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/") ||
			strings.HasPrefix(path, "github.com/weir-dev/weir/api") || strings.HasPrefix(path, "github.com/weir-dev/weir/controllers") {
			t.Errorf("the sidecar imports %s", path)
		}
	}
}
