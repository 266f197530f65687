package injection

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// TestComplete plays a webhook that adds containers after ours: the API server
// then asks us again.
func TestComplete(t *testing.T) {
	t.Parallel()
	once, _, err := Inject(goldenInputs(t)["intercepted-proxied"], testConfig, interceptingRuleset())
	if err != nil {
		t.Fatal(err)
	}
	again := once.DeepCopy()
	again.Spec.InitContainers = append([]corev1.Container{{Name: "early"}}, again.Spec.InitContainers...)
	again.Spec.InitContainers = append(again.Spec.InitContainers, corev1.Container{Name: "late"})
	again.Spec.Containers = append(again.Spec.Containers, *containerOf("HTTP_PROXY=http://corporate"))

	completed, notices := Complete(again)
	for name, told := range map[string]bool{"early": false, "late": true, "app": true} {
		for _, container := range allContainers(&completed.Spec) {
			if container.Name != name {
				continue
			}
			_, trusts := valueOf(container, "SSL_CERT_FILE")
			_, proxied := valueOf(container, "NO_PROXY")
			if trusts != told || len(container.VolumeMounts) == 1 != told || proxied != (name == "late") {
				t.Errorf("container %q: want told %v, got\n%s", name, told, asYAML(t, container))
			}
		}
	}
	if len(notices) != 1 || notices[0].Reason != EventProxyIncomplete {
		t.Errorf("want it said that the added container has a proxy of its own, got %v", notices)
	}
	var status Status
	decodeJSON(t, completed.Annotations[AnnotationStatus], &status)
	if len(status.Kept["app"]) != 1 || len(status.SidecarPorts) != 1 || !status.Trust {
		t.Errorf("want the status completed, not begun anew, got %+v", status)
	}

	patched := &corev1.Pod{}
	if err := json.Unmarshal(applyPatch(t, asJSON(t, again), again, completed), patched); err != nil {
		t.Fatal(err)
	}
	if want, got := asYAML(t, completed), asYAML(t, patched); want != got {
		t.Errorf("the patched pod is not the completed one: want\n%s\ngot\n%s", want, got)
	}
	if last, notices := Complete(completed); last != completed || len(notices) != 0 {
		t.Errorf("want nothing left to complete, got %v and\n%s", notices, asYAML(t, last))
	}
}

// TestOurContainersKeepTheirMounts plays a webhook that mounts something into
// every container after us.
func TestOurContainersKeepTheirMounts(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"minimal", "intercepted", "proxied"} {
		once, _, err := Inject(goldenInputs(t)[name], testConfig, interceptingRuleset())
		if err != nil {
			t.Fatal(err)
		}
		again := once.DeepCopy()
		token := corev1.VolumeMount{Name: "another", MountPath: "/another", ReadOnly: true}
		for _, container := range allContainers(&again.Spec) {
			container.VolumeMounts = append(container.VolumeMounts, token)
		}
		want := again.DeepCopy()
		for i, container := range once.Spec.InitContainers {
			if container.Name == v1alpha1.CaptureContainer || container.Name == v1alpha1.SidecarContainer {
				want.Spec.InitContainers[i] = container
			}
		}
		completed, _ := Complete(again)
		if want, got := asYAML(t, want), asYAML(t, completed); want != got {
			t.Errorf("%s: want what was mounted taken out of our containers only:\n%s\ngot\n%s", name, want, got)
		}
		patched := &corev1.Pod{}
		if err := json.Unmarshal(applyPatch(t, asJSON(t, again), again, completed), patched); err != nil {
			t.Fatal(err)
		}
		if want, got := asYAML(t, completed), asYAML(t, patched); want != got {
			t.Errorf("%s: the patched pod is not the completed one: want\n%s\ngot\n%s", name, want, got)
		}
	}
}

func TestASidecarOfSomebodyElseIsNotCompleted(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "weir-sidecar"}},
		Containers:     []corev1.Container{{Name: "app"}},
	}}
	for _, annotation := range []string{"", "{", `{"trust":true}`} {
		pod.Annotations = map[string]string{AnnotationStatus: annotation}
		if completed, notices := Complete(pod); completed != pod || len(notices) != 0 {
			t.Errorf("status %q: want the pod as it is, got %v and\n%s", annotation, notices, asYAML(t, completed))
		}
	}
}
