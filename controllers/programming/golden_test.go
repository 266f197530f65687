package programming

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

var update = flag.Bool("update", false, "rewrite testdata/*.out.yaml with what is produced now")

// input of a golden test: the policies of a namespace and one pod.
type input struct {
	Namespace string                     `json:"namespace"`
	PodLabels map[string]string          `json:"podLabels"`
	Store     *ruleset.Store             `json:"store"`
	Link      ruleset.Link               `json:"link"`
	Policies  []v1alpha1.RateLimitPolicy `json:"policies"`
}

// output of a golden test.
type output struct {
	Verdicts map[string]Verdict `json:"verdicts"`
	Ruleset  *ruleset.Ruleset   `json:"ruleset"`
}

// TestCompile turns testdata/*.in.yaml into *.out.yaml: go test . -update
// rewrites the latter.
func TestCompile(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".in.yaml"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var in input
			if err := yaml.UnmarshalStrict(text, &in); err != nil {
				t.Fatal(err)
			}
			settings := Settings{Store: in.Store, Link: in.Link}
			compiled := Compile(in.Namespace, in.Policies, in.PodLabels, settings)
			got, err := yaml.Marshal(output{Verdicts: Accept(in.Policies), Ruleset: compiled})
			if err != nil {
				t.Fatal(err)
			}

			golden := strings.TrimSuffix(file, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}

			slices.Reverse(in.Policies)
			if again := Compile(in.Namespace, in.Policies, in.PodLabels, settings); again.Version != compiled.Version {
				t.Errorf("the order of the policies changed the version from %s to %s", compiled.Version, again.Version)
			}
		})
	}
}
