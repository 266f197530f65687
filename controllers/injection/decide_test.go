package injection

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	enabled := map[string]string{"weir.dev/inject": "enabled"}
	labelled := func(value string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"weir.dev/inject": value}}}
	}
	withSpec := func(spec corev1.PodSpec) corev1.Pod { return corev1.Pod{Spec: spec} }

	for _, c := range []struct {
		reason    string
		pod       corev1.Pod
		namespace string
		labels    map[string]string
		inject    bool
		complete  bool
		skipped   string
	}{
		{reason: "nobody asked"},
		{reason: "the namespace asks", labels: enabled, inject: true},
		{reason: "the namespace's label has a meaning for one value only", labels: map[string]string{"weir.dev/inject": "true"}},
		{reason: "the pod asks", pod: labelled("true"), inject: true},
		{reason: "the pod opts out of what its namespace asks", pod: labelled("false"), labels: enabled},
		{reason: "a value without meaning leaves it to the namespace", pod: labelled("yes"), labels: enabled, inject: true},
		{
			reason: "injected before", labels: enabled, complete: true,
			pod: withSpec(corev1.PodSpec{InitContainers: []corev1.Container{{Name: "weir-sidecar"}}}),
		},
		{
			reason: "injected before, and on the host's network: there is nothing to say", labels: enabled, complete: true,
			pod: withSpec(corev1.PodSpec{HostNetwork: true, InitContainers: []corev1.Container{{Name: "weir-sidecar"}}}),
		},
		{reason: "the node's network", labels: enabled, pod: withSpec(corev1.PodSpec{HostNetwork: true}), skipped: "hostNetwork"},
		{reason: "the node's network, but nobody asked", pod: withSpec(corev1.PodSpec{HostNetwork: true})},
		{
			reason: "Windows by its OS", labels: enabled, skipped: "Windows",
			pod: withSpec(corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Windows}}),
		},
		{
			reason: "Windows by its nodes", labels: enabled, skipped: "Windows",
			pod: withSpec(corev1.PodSpec{NodeSelector: map[string]string{"kubernetes.io/os": "windows"}}),
		},
		{reason: "Linux by its OS", labels: enabled, inject: true, pod: withSpec(corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Linux}})},
		{reason: "Kubernetes' own namespace", pod: labelled("true"), namespace: "kube-system", skipped: "kube-system"},
		{reason: "Kubernetes' own namespace", pod: labelled("true"), namespace: "kube-public", skipped: "kube-public"},
		{reason: "Kubernetes' own namespace", pod: labelled("true"), namespace: "kube-node-lease", skipped: "kube-node-lease"},
		{reason: "the operator's own namespace", labels: enabled, namespace: "weir-system", skipped: "weir-system"},
	} {
		got := Decide(&c.pod, c.namespace, c.labels, "weir-system")
		if got.Inject != c.inject || got.Complete != c.complete || (got.Skipped == "") != (c.skipped == "") || !strings.Contains(got.Skipped, c.skipped) {
			t.Errorf("%s: got %+v, want inject %v, complete %v and a reason with %q", c.reason, got, c.inject, c.complete, c.skipped)
		}
	}
}
