package manifests

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite testdata/*.out.yaml with what is made now")

// input of a golden test: a task as the API server stores it.
type input struct {
	Image           string                `json:"image"`
	ImagePullPolicy corev1.PullPolicy     `json:"imagePullPolicy"`
	Traces          Traces                `json:"traces"`
	Broker          Broker                `json:"broker"`
	BrokerVersion   string                `json:"brokerVersion"`
	Task            v1alpha1.PeriodicTask `json:"task"`
}

// TestManifests turns testdata/*.in.yaml into *.out.yaml: go test . -update
// rewrites the latter.
func TestManifests(t *testing.T) {
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
			untouched := in.Task.DeepCopy()
			got := manifestsOf(t, &in)
			if !reflect.DeepEqual(untouched, &in.Task) {
				t.Error("the task was changed")
			}
			golden := strings.TrimSuffix(file, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// manifestsOf are the objects of a task as YAML documents, or the error.
func manifestsOf(t *testing.T, in *input) string {
	t.Helper()
	config := Config{Image: in.Image, ImagePullPolicy: in.ImagePullPolicy, Traces: in.Traces}
	cronJob, err := CronJob(&in.Task, config)
	if err != nil {
		t.Fatal(err)
	}
	objects := []any{cronJob}
	if worker := in.Task.Spec.Worker; worker != nil {
		deployment, err := Deployment(&in.Task, config, *worker.Replicas, in.BrokerVersion)
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		objects = append(objects, deployment)
	}
	if in.Broker.URL != "" {
		secret := Secret(in.Task.Namespace, in.Broker, in.BrokerVersion, []v1alpha1.PeriodicTask{in.Task})
		secret.StringData = map[string]string{}
		for key, value := range secret.Data {
			secret.StringData[key] = string(value) // as people read it
		}
		secret.Data = nil
		objects = append(objects, secret)
	}
	var documents []string
	for _, object := range objects {
		text, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, string(text))
	}
	return strings.Join(documents, "---\n")
}
