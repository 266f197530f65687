package manifests

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestPodsHaveNoRights is of what we make ourselves: worker.template is its
// author's own to widen, within what the namespace allows.
func TestPodsHaveNoRights(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no testdata: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var in input
		if err := yaml.UnmarshalStrict(text, &in); err != nil {
			t.Fatal(err)
		}
		config := Config{Image: in.Image, ImagePullPolicy: in.ImagePullPolicy}
		cronJob, err := CronJob(&in.Task, config)
		if err != nil {
			t.Fatal(err)
		}
		holdToNoRights(t, file+": the enqueuer", &cronJob.Spec.JobTemplate.Spec.Template.Spec)
		if in.Task.Spec.Worker == nil {
			continue
		}
		in.Task.Spec.Worker.Template = nil
		deployment, err := Deployment(&in.Task, config, 1, in.BrokerVersion)
		if err != nil {
			t.Fatal(err)
		}
		holdToNoRights(t, file+": the worker", &deployment.Spec.Template.Spec)
	}
}

func holdToNoRights(t *testing.T, name string, pod *corev1.PodSpec) {
	t.Helper()
	s := pod.SecurityContext
	if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 ||
		s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: the pod has rights: %+v", name, s)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Errorf("%s: the pod has a token of the API", name)
	}
	for _, volume := range pod.Volumes {
		if volume.Projected != nil || volume.HostPath != nil {
			t.Errorf("%s: the pod has the volume %s", name, volume.Name)
		}
	}
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		s := container.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Privileged != nil && *s.Privileged || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 ||
			s.RunAsUser != nil && *s.RunAsUser == 0 || s.SeccompProfile != nil {
			t.Errorf("%s: container %s has rights: %+v", name, container.Name, s)
		}
	}
}
