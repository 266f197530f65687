package chart

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestChartAndKustomizeMakeTheSameObjects(t *testing.T) {
	t.Parallel()
	for folder, values := range map[string][]string{
		"config/default": {trial},
		"config/base":    {"redis.existingSecret=weir-store"},
	} {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			built, err := try(t, tool(t, "kustomize"), "build", root+"/"+folder)
			if err != nil {
				t.Fatal(err)
			}
			sameObjects(t, objects(t, built), objects(t, render(t, values...)))
		})
	}
}

func TestTheDashboardIsTheSameByChartAndKustomize(t *testing.T) {
	t.Parallel()
	built, err := try(t, tool(t, "kustomize"), "build", root+"/config/dashboard")
	if err != nil {
		t.Fatal(err)
	}
	got := objects(t, render(t, trial, "dashboard.enabled=true"))
	for name := range objects(t, render(t, trial)) {
		delete(got, name)
	}
	sameObjects(t, objects(t, built), got)
}

// sameObjects holds the chart's objects to kustomize's.
func sameObjects(t *testing.T, want, got map[string]*unstructured.Unstructured) {
	t.Helper()
	delete(want, "Namespace /"+namespace) // Helm's --create-namespace
	delete(got, "Pod "+namespace+"/weir-test")
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] == nil {
			t.Errorf("the chart lacks %s", name)
			continue
		}
		if difference := cmp.Diff(want[name].Object, withoutHelm(got[name]).Object); difference != "" {
			t.Errorf("%s differs (-kustomize +chart):\n%s", name, difference)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("kustomize lacks %s", name)
	}
}

// withoutHelm is an object without what Helm's users expect on it.
func withoutHelm(object *unstructured.Unstructured) *unstructured.Unstructured {
	object = object.DeepCopy()
	labels, annotations := object.GetLabels(), object.GetAnnotations()
	for _, name := range []string{"helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "app.kubernetes.io/version"} {
		delete(labels, name)
	}
	delete(annotations, "helm.sh/resource-policy")
	object.SetLabels(nonEmpty(labels))
	object.SetAnnotations(nonEmpty(annotations))
	return object
}

func nonEmpty(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}
