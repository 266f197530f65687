package injection

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var testConfig = Config{
	Image:             "weir-sidecar:test",
	ImagePullPolicy:   corev1.PullIfNotPresent,
	Resources:         DefaultResources(),
	OperatorNamespace: "weir-system",
}

// testRuleset has a Store, which must never be stamped into a pod.
func testRuleset() *ruleset.Ruleset {
	rs := &ruleset.Ruleset{
		Namespace: "bondhu",
		Store:     &ruleset.Store{URL: "redis://:sesame@redis:6379", TimeoutMillis: 100},
		Link:      ruleset.Link{Address: "weir-link.weir-system.svc:9443", CABundle: "PEM\n"},
		Policies: []ruleset.Policy{{
			PolicyRef:      ruleset.PolicyRef{Name: "spotify", UID: "1", Generation: 3},
			Service:        "spotify",
			Direction:      ruleset.Outbound,
			Hosts:          []string{"api.spotify.com"},
			Match:          []ruleset.Match{{Path: &ruleset.Path{Type: ruleset.PathRegularExpression, Value: "/v1/$(HOME)$$"}}},
			Sources:        []ruleset.Source{{Header: &ruleset.HeaderSource{Name: "X-User-ID", Strip: true}}},
			IfMissing:      ruleset.IfMissingShared,
			Limits:         []ruleset.Limit{{Requests: 100, WindowMillis: 60000}},
			OnStoreFailure: ruleset.OnStoreFailureAllow,
		}},
	}
	rs.Seal()
	return rs
}

// interceptingRuleset has a policy that ends TLS, and the authority for it.
func interceptingRuleset() *ruleset.Ruleset {
	rs := testRuleset()
	rs.Policies[0].Intercept = true
	rs.Authorities = "AUTHORITY\n"
	rs.Seal()
	return rs
}

// rulesetFor is the Ruleset of the golden file of that name.
func rulesetFor(name string) *ruleset.Ruleset {
	if strings.HasPrefix(name, "intercepted") {
		return interceptingRuleset()
	}
	return testRuleset()
}

// goldenInputs are the pods of testdata/*.input.yaml by their file's name.
func goldenInputs(t testing.TB) map[string]*corev1.Pod {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.input.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("finding testdata/*.input.yaml: found %d, error %v", len(files), err)
	}
	inputs := map[string]*corev1.Pod{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pod := &corev1.Pod{}
		if err := yaml.UnmarshalStrict(text, pod); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		inputs[strings.TrimSuffix(filepath.Base(file), ".input.yaml")] = pod
	}
	return inputs
}

// TestInject holds each testdata/x.input.yaml against x.yaml.
func TestInject(t *testing.T) {
	t.Parallel()
	for name, pod := range goldenInputs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			untouched := pod.DeepCopy()
			injected, _, err := Inject(pod, testConfig, rulesetFor(name))
			if err != nil {
				t.Fatalf("Inject: %v", err)
			}
			if want, got := asYAML(t, untouched), asYAML(t, pod); want != got {
				t.Errorf("Inject changed the pod that it was given:\n%s", got)
			}
			golden := filepath.Join("testdata", name+".yaml")
			got := asYAML(t, injected)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (go test -update writes it)", err)
			}
			if got != string(want) {
				t.Errorf("%s differs (go test -update rewrites it); got:\n%s", golden, got)
			}
			if strings.Contains(got, "sesame") {
				t.Error("the store's password is in the pod")
			}
		})
	}
}

func TestInjectingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	for name, pod := range goldenInputs(t) {
		once, _, err := Inject(pod, testConfig, rulesetFor(name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		other := testConfig
		other.Image = "weir-sidecar:newer"
		twice, notices, err := Inject(once, other, &ruleset.Ruleset{Namespace: "changed"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(notices) != 0 {
			t.Errorf("%s: want nothing said twice, got %v", name, notices)
		}
		if want, got := asYAML(t, once), asYAML(t, twice); want != got {
			t.Errorf("%s: want the pod as the first injection left it, got:\n%s", name, got)
		}
		if patch := Patch(once, twice); len(patch) != 0 {
			t.Errorf("%s: want no patch for the second injection, got %v", name, patch)
		}
	}
}

// TestPatch applies the patch to what the API server sent, with fields that
// our types do not know.
func TestPatch(t *testing.T) {
	t.Parallel()
	for name, pod := range goldenInputs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			injected, _, err := Inject(pod, testConfig, rulesetFor(name))
			if err != nil {
				t.Fatal(err)
			}
			patched := applyPatch(t, withUnknownFields(t, asJSON(t, pod)), pod, injected)
			if want, got := len(pod.Spec.InitContainers)+len(pod.Spec.Containers), strings.Count(string(patched), "fromTheFuture"); want != got {
				t.Errorf("want the unknown field kept in %d containers, got %d", want, got)
			}
			result := &corev1.Pod{}
			if err := json.Unmarshal(patched, result); err != nil {
				t.Fatal(err)
			}
			if want, got := asYAML(t, injected), asYAML(t, result); want != got {
				t.Errorf("the patched pod is not the injected one: want\n%s\ngot\n%s", want, got)
			}
		})
	}
}

func applyPatch(t *testing.T, document []byte, pod, injected *corev1.Pod) []byte {
	t.Helper()
	patch, err := jsonpatch.DecodePatch(asJSON(t, Patch(pod, injected)))
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.Apply(document)
	if err != nil {
		t.Fatalf("applying the patch: %v", err)
	}
	return patched
}

// withUnknownFields gives every container a field of a later Kubernetes.
func withUnknownFields(t *testing.T, pod []byte) []byte {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal(pod, &document); err != nil {
		t.Fatal(err)
	}
	spec := document["spec"].(map[string]any)
	for _, list := range []string{"initContainers", "containers"} {
		containers, _ := spec[list].([]any)
		for _, container := range containers {
			container.(map[string]any)["fromTheFuture"] = true
		}
	}
	return asJSON(t, document)
}

func asYAML(t testing.TB, value any) string {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func asJSON(t testing.TB, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// BenchmarkInject is one admission's work without the network: the mutation,
// and the patch as JSON.
func BenchmarkInject(b *testing.B) {
	pod := goldenInputs(b)["probes"]
	rs := testRuleset()
	for len(rs.Policies) < 20 {
		rs.Policies = append(rs.Policies, rs.Policies[0])
	}
	b.ReportAllocs()
	for b.Loop() {
		injected, _, err := Inject(pod, testConfig, rs)
		if err != nil {
			b.Fatal(err)
		}
		asJSON(b, Patch(pod, injected))
	}
}

func decodeJSON(t testing.TB, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
